//! The daemon's own API in front of a history, on a port of loopback, without captures: of a small
//! daemon, or of one that also asks a thousand servers and has rules.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ntpmon::{
    alert::{self, Alerts, quantity},
    api::{self, Components, Process, SharedTokens},
    check::{Checks, Definition, store::Retention},
    history::History,
    metrics::{Metrics, Sources},
    monitor::control::{Control, Setup},
    outbox::Outbox,
    scheduling,
    tokens::Tokens,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::checks;

/// Servers that a large daemon asks.
const CHECKS: usize = 1000;
/// Once, while it is measured.
const INTERVAL: Duration = Duration::from_secs(86_400);
/// Until all of them have told the time; those that were lost are asked again.
const PATIENCE: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_secs(6);

pub(super) struct Served {
    address: SocketAddr,
    runtime: Runtime,
    serving: JoinHandle<Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Served {
    /// Of a small daemon.
    pub(super) fn start(history: History) -> Result<Self> {
        Self::with(history, 0)
    }

    /// Of one with a thousand checks, each of which has told the time.
    pub(super) fn large(history: History) -> Result<Self> {
        Self::with(history, CHECKS)
    }

    fn with(history: History, checks: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .on_thread_start(scheduling::answer_soon)
            .build()?;
        let listener = TcpListener::bind("127.0.0.1:0").context("binding to loopback")?;
        let address = listener.local_addr()?;
        let feeding = history.clone();
        // What does not exist is waited for, and nothing else is watched.
        let setup = Setup {
            interfaces: vec!["absent-bench".to_owned()],
            ..Setup::default()
        };
        let control = Control::open(setup, move |name| feeding.feed(name), |_| Ok(()))?;
        let checks = ask(&history, &runtime, checks)?;
        // The rules are those of every daemon; nobody looks at them.
        let outbox = Outbox::open(history.clone(), runtime.handle().clone())?;
        let (sources, settings) = (quantity::Sources::default(), alert::Settings::default());
        let (alerts, _) = Alerts::open(history.clone(), outbox, sources, settings);
        let metrics = Metrics::new(Sources {
            checks: Some(checks.clone()),
            alerts: Some(alerts.clone()),
            ..Sources::new(control.clone(), history.clone())
        });
        let state = api::State {
            control,
            alerts,
            checks,
            history,
            tokens: SharedTokens::new(Tokens::default()),
            settings: Arc::new(api::Settings::default()),
            components: Components::default(),
            metrics,
            process: Process::new(),
            ptp: None,
            started: jiff::Timestamp::now(),
        };
        let (stop, stopping) = oneshot::channel();
        let router = api::router(state);
        let serving = runtime.spawn(api::serve(listener, router, None, 64, async move {
            let _ = stopping.await;
        }));
        Ok(Self {
            address,
            runtime,
            serving,
            stop,
        })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}/api/ntp/history{path}", self.address)
    }

    /// Where the metrics are.
    pub(super) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Fetches all clients; returns how many bytes that was.
    pub(super) fn export(&self, format: &str) -> Result<u64> {
        let body = format!("{{\"format\": \"{format}\"}}");
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "POST /api/ntp/history/export HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut buffer = vec![0; 1 << 16];
        let first = stream.read(&mut buffer)?;
        let head = String::from_utf8_lossy(&buffer[..first]).into_owned();
        ensure!(
            head.starts_with("HTTP/1.1 200"),
            "the export was answered with {head}"
        );
        let mut bytes = first as u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                more => bytes += more as u64,
            }
        }
        Ok(bytes)
    }

    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        let ended = self.runtime.block_on(self.serving);
        if let Err(error) = ended.map_err(|error| anyhow!(error)).flatten() {
            eprintln!("history: the API ended with {error:#}");
        }
    }
}

/// As many checks, all of one server of ours, which have each told the time.
fn ask(history: &History, runtime: &Runtime, count: usize) -> Result<Checks> {
    let server = UdpSocket::bind("127.0.0.1:0").context("answering on loopback")?;
    server.set_nonblocking(true)?;
    let address = server.local_addr()?.to_string();
    let definitions = (0..count).map(|number| {
        let server = address.parse().map_err(|error| anyhow!("{error}"))?;
        Ok(Definition {
            name: Some(format!("ntp{number:04}.pool.example")),
            interval: INTERVAL,
            samples: 2,
            ..Definition::of(server)
        })
    });
    let definitions = definitions.collect::<Result<_>>()?;
    runtime.spawn(async move {
        // It ends with the runtime; without an answer the measurement fails.
        let served = checks::serve(server).await;
        eprintln!("history: the server that is asked ended: {served:?}");
    });
    let (history, handle) = (history.clone(), runtime.handle().clone());
    let checks = Checks::open(history, handle, definitions, Retention::default());
    let begun = Instant::now();
    loop {
        let latest = checks.latest();
        let told = latest.iter().filter(|it| it.time().is_some());
        let told: BTreeSet<_> = told.map(|it| it.check).collect();
        if told.len() == count {
            return Ok(checks);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} of {count} checks told the time",
            told.len()
        );
        for check in checks.list().iter().filter(|it| !told.contains(&it.id)) {
            // At once, and not some time within the interval.
            checks.resume(check.id)?;
        }
        thread::sleep(AGAIN);
    }
}
