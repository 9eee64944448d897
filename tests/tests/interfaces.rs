//! Interfaces steered over HTTP and from the command line, while packets pass: what is asked for
//! is what the kernel does, and what is told is what passed.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process,
    sync::Arc,
    time::Duration,
};

use ntpmon::{
    alert::{self, Alerts, quantity},
    api::{self, Components, Process, SharedTokens},
    check::{Checks, store::Retention},
    history::{self, History},
    metrics::{Metrics, Sources},
    monitor::control::{Control, Setup},
    ntp::{exchange::Exchange, pair::Totals},
    outbox::Outbox,
    pipeline::Sink,
    tokens::Tokens,
};
use ntpmon_tests::{
    attached, load,
    namespace::{Namespace, Pair, folder},
    process::wait_for,
    watch::binary,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(20);

struct Nobody;

impl Sink for Nobody {
    fn exchange(&mut self, _: &Exchange) {}

    fn publish(&mut self, _: &Totals, _: i64) {}
}

/// As much of a daemon as answers for its interfaces, in a namespace.
struct Daemon<'a> {
    host: &'a Namespace,
    control: Control,
    runtime: tokio::runtime::Runtime,
    /// An empty one: nothing is fed to it.
    _history: TempDir,
}

impl<'a> Daemon<'a> {
    /// Where the documents have it.
    const ADDRESS: &'static str = "127.0.0.1:8000";

    fn start(host: &'a Namespace, output_directory: &Path) -> Self {
        let setup = Setup {
            // Nothing that exists: the tests start what they want.
            interfaces: vec!["absent0".to_owned()],
            output_directory: Some(output_directory.to_owned()),
            ..Setup::default()
        };
        let (control, listener) = host
            .enter(|| {
                let control = Control::open(setup, |_: &str| Nobody, |_| Ok(()))?;
                Ok((control, TcpListener::bind(Self::ADDRESS)?))
            })
            .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let data = folder().unwrap();
        let history = History::open(data.path(), history::Settings::default()).unwrap();
        // Nobody looks at them.
        let outbox = Outbox::open(history.clone(), runtime.handle().clone()).unwrap();
        let (values, rules) = (quantity::Sources::default(), alert::Settings::default());
        let (alerts, _) = Alerts::open(history.clone(), outbox, values, rules);
        let state = api::State {
            control: control.clone(),
            alerts,
            checks: Checks::open(
                history.clone(),
                runtime.handle().clone(),
                Vec::new(),
                Retention::default(),
            ),
            metrics: Metrics::new(Sources::new(control.clone(), history.clone())),
            history,
            tokens: SharedTokens::new(Tokens::default()),
            settings: Arc::default(),
            components: Components::default(),
            process: Process::new(),
            ptp: None,
            started: jiff::Timestamp::now(),
        };
        let router = api::router(state);
        runtime.spawn(api::serve(
            listener,
            router,
            None,
            64,
            std::future::pending(),
        ));
        Self {
            host,
            control,
            runtime,
            _history: data,
        }
    }

    /// The command line, as whoever has no configuration runs it.
    fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.host.command(binary().unwrap());
        command.arg("interfaces").args(arguments);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }

    fn cli_json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments
            .iter()
            .copied()
            .chain(["--format", "json"])
            .collect();
        serde_json::from_str(&self.cli(&arguments).unwrap()).unwrap()
    }

    /// What the API answers to a request as scripts make it.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = self
            .host
            .enter(|| {
                let mut stream = TcpStream::connect(Self::ADDRESS)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
                write!(
                    stream,
                    "{method} {path} HTTP/1.1\r\nHost: localhost:8000\r\nConnection: close\r\n{kind}\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                )?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            })
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn status(&self, name: &str) -> Value {
        let (status, reply) = self.ask("GET", &format!("/api/ntp/interfaces/{name}/status"), "");
        assert_eq!(status, 200, "{reply}");
        reply["data"].clone()
    }

    fn end(self) {
        self.runtime.block_on(self.control.end()).unwrap();
    }
}

fn send(pair: &Pair, count: u64) {
    let server = SocketAddr::new(Pair::SERVER.parse().unwrap(), 123);
    load::send(&pair.client, server, count).unwrap();
}

fn programs(pair: &Pair) -> Vec<String> {
    attached::programs(&pair.client, DEVICE).unwrap()
}

#[test]
fn the_documents_requests_start_restart_and_stop_an_interface() {
    let pair = Pair::new().unwrap();
    let output = folder().unwrap();
    let daemon = Daemon::start(&pair.client, output.path());
    let start = format!("/api/ntp/interfaces/{DEVICE}/start");
    let file = output.path().join("ntp_output.json");
    let body = json!({"port": 123, "timeout": 0.2, "output_file": file}).to_string();
    let (status, reply) = daemon.ask("POST", &start, &body);
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["success"], true);
    assert_eq!(reply["interface"], DEVICE);
    let message = reply["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("PID: {}", process::id())),
        "{message}"
    );
    let data = &reply["data"];
    assert_eq!(data["is_monitoring"], true);
    assert_eq!(data["status"], "running");
    assert_eq!(data["pid"], process::id());
    assert_eq!(data["interface_exists"], true);
    assert_eq!(data["ports"], json!([123]));
    assert_eq!(data["timeout"], 0.2);
    assert_eq!(data["mode"], "ingress tcx, egress tcx");
    assert_eq!(data["rings"], 1);
    assert_eq!(data["output_file"], file.to_str().unwrap());
    assert!(data["memory_mb"].as_f64().unwrap() > 1.0);
    assert!(data["start_time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(programs(&pair).len(), 2);

    send(&pair, 10);
    let running = daemon.status(DEVICE);
    assert_eq!(
        (&running["events"], &running["dropped"]),
        (&10.into(), &0.into())
    );
    assert!(running["packets"].as_u64() >= Some(10), "{running}");
    wait_for("lines", PATIENCE, || {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        Ok((lines == 10).then_some(()))
    })
    .unwrap();
    // Measured over a second at least, and then told.
    wait_for("the use of the processor", PATIENCE, || {
        Ok(daemon.status(DEVICE)["cpu_percent"].as_f64())
    })
    .unwrap();

    // The same again, and with nothing said, changes nothing.
    for body in [&*body, "", "{}"] {
        let (status, again) = daemon.ask("POST", &start, body);
        assert_eq!(status, 200, "{again}");
        assert_eq!(again["data"]["start_time"], running["start_time"], "{body}");
        assert_eq!(again["data"]["events"], 10);
    }
    let (status, restarted) =
        daemon.ask("POST", &format!("/api/ntp/interfaces/{DEVICE}/restart"), "");
    assert_eq!(status, 200, "{restarted}");
    assert_eq!(restarted["data"]["events"], 0);
    assert_ne!(restarted["data"]["start_time"], running["start_time"]);
    assert_eq!(restarted["data"]["timeout"], 0.2);

    let (status, health) = daemon.ask("GET", "/api/ntp/health", "");
    assert_eq!(status, 200);
    assert_eq!(health["components"]["interfaces"]["running"], 1);
    assert_eq!(health["pid"], process::id());

    for _ in 0..2 {
        let (status, stopped) =
            daemon.ask("POST", &format!("/api/ntp/interfaces/{DEVICE}/stop"), "");
        assert_eq!(status, 200, "{stopped}");
        let data = &stopped["data"];
        assert_eq!(data["status"], "not_monitoring");
        for field in ["pid", "cpu_percent", "memory_mb", "start_time"] {
            assert_eq!(data[field], Value::Null, "{field}");
        }
    }
    assert_eq!(programs(&pair), [""; 0]);
    let (status, cleaned) = daemon.ask("POST", "/api/ntp/cleanup", "");
    assert_eq!(status, 200, "{cleaned}");
    assert_eq!(
        (&cleaned["success"], &cleaned["data"]),
        (&true.into(), &json!([]))
    );
    daemon.end();
}

#[test]
fn an_output_file_elsewhere_is_refused_and_nothing_is_changed() {
    let pair = Pair::new().unwrap();
    let output = folder().unwrap();
    let daemon = Daemon::start(&pair.client, output.path());
    let elsewhere = folder().unwrap();
    for path in [
        elsewhere.path().join("x.json"),
        output.path().join("../x.json"),
        Path::new("/etc/passwd").to_owned(),
    ] {
        let body = json!({"output_file": path}).to_string();
        for action in ["start", "restart"] {
            let path = format!("/api/ntp/interfaces/{DEVICE}/{action}");
            let (status, reply) = daemon.ask("POST", &path, &body);
            assert_eq!(
                (status, &reply["code"]),
                (400, &"output_file_refused".into()),
                "{reply}"
            );
            assert_eq!(reply["success"], false);
        }
    }
    assert_eq!(daemon.status(DEVICE)["status"], "not_monitoring");
    assert_eq!(programs(&pair), [""; 0]);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    daemon.end();
}

#[test]
fn the_command_line_steers_and_tells() {
    let pair = Pair::new().unwrap();
    let output = folder().unwrap();
    let daemon = Daemon::start(&pair.client, output.path());
    let started = daemon
        .cli(&[
            "start",
            DEVICE,
            "--port",
            "123",
            "--port",
            "4123",
            "--timeout",
            "0.2",
        ])
        .unwrap();
    assert_eq!(
        started,
        format!(
            "interface {DEVICE} is being monitored, PID: {}\n",
            process::id()
        )
    );
    send(&pair, 7);
    let table = daemon.cli(&[]).unwrap();
    let row = table.lines().find(|line| line.starts_with(DEVICE)).unwrap();
    let cells: Vec<_> = row.split_ascii_whitespace().collect();
    assert!(
        cells.contains(&"running") && cells.contains(&"123,4123"),
        "{table}"
    );
    assert!(cells.contains(&"7"), "{table}");
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("absent0") && line.contains("failed"))
    );
    let list = daemon.cli_json(&[]);
    assert_eq!(list["count"], list["data"].as_array().unwrap().len());
    let one = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["interface"] == DEVICE);
    assert_eq!(one.unwrap()["events"], 7);

    let restarted = daemon.cli_json(&["restart", DEVICE, "--mode", "xdp"]);
    let mode = restarted["data"]["mode"].as_str().unwrap();
    assert!(mode.contains("xdp"), "{mode}");
    let stopped = daemon.cli(&["stop", DEVICE]).unwrap();
    assert_eq!(
        stopped,
        format!("interface {DEVICE} is not monitored any more\n")
    );
    assert_eq!(programs(&pair), [""; 0]);
    let unknown = daemon.cli(&["start", "none0"]).unwrap_err();
    assert!(
        unknown.contains("there is no interface 'none0'"),
        "{unknown}"
    );
    daemon.end();
    // Whoever asks where nobody is, is told so.
    let nobody = Namespace::new().unwrap();
    let output = nobody
        .command(binary().unwrap())
        .arg("interfaces")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("no daemon answers at http://127.0.0.1:8000"),
        "{message}"
    );
}
