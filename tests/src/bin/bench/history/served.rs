//! The daemon's own API in front of a history, on a port of loopback, without captures.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, ensure};
use ntpmon::{
    alert::{self, Alerts, quantity},
    api::{self, Components, Process, SharedTokens},
    check::{Checks, store::Retention},
    history::History,
    metrics::{Metrics, Sources},
    monitor::control::{Control, Setup},
    outbox::Outbox,
    scheduling,
    tokens::Tokens,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

pub(super) struct Served {
    address: SocketAddr,
    runtime: Runtime,
    serving: JoinHandle<Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Served {
    pub(super) fn start(history: History) -> Result<Self> {
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
        let metrics = Metrics::new(Sources::new(control.clone(), history.clone()));
        // Nobody looks at them.
        let outbox = Outbox::open(history.clone(), runtime.handle().clone())?;
        let (sources, settings) = (quantity::Sources::default(), alert::Settings::default());
        let (alerts, _) = Alerts::open(history.clone(), outbox, sources, settings);
        let handle = runtime.handle().clone();
        let state = api::State {
            control,
            alerts,
            checks: Checks::open(history.clone(), handle, Vec::new(), Retention::default()),
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
