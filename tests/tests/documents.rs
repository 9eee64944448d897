//! The lines of the two documents that described this API before ntpmon had it, run as they stand:
//! the same host, port and interface, the same real programs. Their users' scripts go on working.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use ntpmon_tests::{
    api::{self, Answer},
    daemon::{Daemon, Home},
    daemons::Chronyd,
    namespace::{Namespace, connect},
    ntpmon::csv,
    process::{run, wait_for},
    python,
};
use serde_json::{Map, Value};

/// What both documents call the interface.
const DEVICE: &str = "eth0";
/// Where both documents find the API.
const LISTEN: &str = "127.0.0.1:8000";
/// The host that is watched, and those that the second document asks about.
const SERVER: &str = "192.168.1.1";
const CLIENTS: [&str; 2] = ["192.168.1.100", "192.168.1.101"];
/// Exchanges that each of them has, at least.
const POLLS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the documents, and what its answer is held against.
struct Line {
    command: &'static str,
    check: fn(&Value),
}

/// The commands of the document on monitoring, in its order.
const MONITORING: [Line; 5] = [
    Line {
        command: r#"curl -X POST http://localhost:8000/api/ntp/interfaces/eth0/start \
  -H "Content-Type: application/json" \
  -d '{"port": 123, "timeout": 2.0}'"#,
        check: is_started,
    },
    Line {
        command: "curl http://localhost:8000/api/ntp/interfaces/eth0/status",
        check: is_status_of_running,
    },
    Line {
        command: "curl -X POST http://localhost:8000/api/ntp/interfaces/eth0/stop",
        check: is_stopped,
    },
    Line {
        command: "curl http://localhost:8000/api/ntp/health",
        check: is_health,
    },
    Line {
        command: "curl -X POST http://localhost:8000/api/ntp/cleanup",
        check: is_cleanup,
    },
];

/// The first command of the document on history: what follows asks about what this makes.
const START: Line = Line {
    command: r#"curl -X POST http://localhost:8000/api/ntp/interfaces/eth0/start \
  -H "Content-Type: application/json" \
  -d '{"port": 123, "timeout": 2.0}'"#,
    check: is_started,
};

/// Its other commands, in its order.
const HISTORY: [Line; 8] = [
    Line {
        command: r#"curl "http://localhost:8000/api/ntp/history/clients?page=1&page_size=10""#,
        check: is_first_page_of_10,
    },
    Line {
        command: r#"curl "http://localhost:8000/api/ntp/history/clients?search_ip=192.168.1.100""#,
        check: has_only_the_first_client,
    },
    Line {
        command: r#"curl "http://localhost:8000/api/ntp/history/clients?interface_name=eth0""#,
        check: has_both_clients,
    },
    Line {
        command: r#"curl "http://localhost:8000/api/ntp/history/clients/192.168.1.100""#,
        check: is_detail_of_the_first_client,
    },
    Line {
        command: r#"curl "http://localhost:8000/api/ntp/history/interfaces/statistics""#,
        check: is_interface_statistics,
    },
    Line {
        command: r#"curl -X POST http://localhost:8000/api/ntp/history/search \
  -H "Content-Type: application/json" \
  -d '{
    "filters": {
      "client_ips": ["192.168.1.100", "192.168.1.101"],
      "interface_names": ["eth0"]
    },
    "pagination": {"page": 1, "page_size": 20}
  }'"#,
        check: has_both_clients,
    },
    Line {
        command: r#"curl -X POST http://localhost:8000/api/ntp/history/export \
  -H "Content-Type: application/json" \
  -d '{
    "format": "json",
    "limit": 1000,
    "filters": {"interface_name": "eth0"}
  }'"#,
        check: is_export_of_both_clients,
    },
    Line {
        command: "curl http://localhost:8000/api/ntp/history/service/statistics",
        check: is_service_statistics,
    },
];

/// The routes that the documents list without a command of their own.
const LISTED: [Line; 4] = [
    Line {
        command: "curl http://localhost:8000/api/ntp/interfaces/status",
        check: is_list_of_statuses,
    },
    Line {
        command: "curl -X POST http://localhost:8000/api/ntp/interfaces/eth0/restart",
        check: is_started,
    },
    Line {
        command: "curl http://localhost:8000/api/ntp/history/health",
        check: is_history_health,
    },
    Line {
        command: r#"curl -X POST http://localhost:8000/api/ntp/history/cleanup \
  -H "Content-Type: application/json" -d '{"older_than_days": 30}'"#,
        check: is_cleanup_of_nothing,
    },
];

/// The client of the document on monitoring.
const PYTHON_CLIENT: &str = r#"
import requests
import json

base_url = "http://localhost:8000/api/ntp"

response = requests.post(f"{base_url}/interfaces/eth0/start", 
                        json={"port": 123, "timeout": 2.0})
print(f"Start: {response.json()}")

response = requests.get(f"{base_url}/interfaces/eth0/status")
print(f"Status: {response.json()}")

response = requests.get(f"{base_url}/interfaces/status")
print(f"All Status: {response.json()}")

response = requests.post(f"{base_url}/interfaces/eth0/stop")
print(f"Stop: {response.json()}")
"#;

/// What the client printed, as JSON: a list of each line's name and object.
const AS_JSON: &str = "
import ast, json, sys
lines = (line.split(': ', 1) for line in sys.stdin)
print(json.dumps([[name, ast.literal_eval(answer)] for name, answer in lines]))
";

/// The columns of the second document's table, with their types: all that can be unknown may be null.
const CLIENT_FIELDS: [(&str, Kind); 27] = [
    ("client_ip", Kind::Text),
    ("client_port", Kind::Integer),
    ("server_ip", Kind::Text),
    ("server_port", Kind::Integer),
    ("interface_name", Kind::Text),
    ("ntp_version", Kind::Integer),
    ("stratum", Kind::Integer),
    ("precision", Kind::Integer),
    ("root_delay", Kind::Number),
    ("root_dispersion", Kind::Number),
    ("reference_id", Kind::Text),
    // A text there, though which is not said; a number in all that ntpmon prints.
    ("leap_indicator", Kind::Integer),
    ("poll_interval", Kind::Integer),
    ("reference_timestamp", Kind::NumberOrNull),
    ("originate_timestamp", Kind::Number),
    ("receive_timestamp", Kind::Number),
    ("transmit_timestamp", Kind::Number),
    ("client_to_server_latency_seconds", Kind::NumberOrNull),
    ("server_processing_time_seconds", Kind::Number),
    ("total_process_time_seconds", Kind::Number),
    ("packet_length", Kind::Integer),
    ("session_timestamp", Kind::Time),
    ("first_seen_timestamp", Kind::Time),
    ("last_seen_timestamp", Kind::Time),
    ("session_count", Kind::Integer),
    ("created_at", Kind::Time),
    ("updated_at", Kind::Time),
];

/// The type of a field.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Boolean,
    Integer,
    Number,
    NumberOrNull,
    Text,
    TextOrNull,
    Time,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Boolean => value.is_boolean(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::NumberOrNull => value.is_number() || value.is_null(),
            Self::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Self::TextOrNull => value.is_string() || value.is_null(),
            Self::Time => value.as_str().is_some_and(is_time),
        }
    }
}

/// As Python's `datetime.fromisoformat` and every other reader of ISO 8601 takes it.
fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

fn has(object: &Value, fields: &[(&str, Kind)]) {
    let object = object.as_object().unwrap();
    for (name, kind) in fields {
        let value = object
            .get(*name)
            .unwrap_or_else(|| panic!("no {name} in {object:?}"));
        assert!(kind.fits(value), "{name} is {value}, not {kind:?}");
    }
}

fn is_success(answer: &Value) {
    assert_eq!(answer["success"], true, "{answer}");
}

/// One interface's answer, with the fields that the document shows.
fn is_of_interface(answer: &Value) {
    is_success(answer);
    has(answer, &[("message", Kind::Text)]);
    assert_eq!(answer["interface"], DEVICE);
    assert!(answer["message"].as_str().unwrap().contains(DEVICE));
    is_status(&answer["data"]);
    assert_eq!(answer["data"]["interface"], DEVICE);
}

fn is_status(data: &Value) {
    has(
        data,
        &[
            ("interface", Kind::Text),
            ("is_monitoring", Kind::Boolean),
            ("pid", Kind::NumberOrNull),
            ("cpu_percent", Kind::NumberOrNull),
            ("memory_mb", Kind::NumberOrNull),
            ("start_time", Kind::TextOrNull),
            ("status", Kind::Text),
            ("log_file", Kind::TextOrNull),
            ("interface_exists", Kind::Boolean),
        ],
    );
}

fn is_status_of_running(answer: &Value) {
    is_of_interface(answer);
    let data = &answer["data"];
    assert_eq!(
        (&data["is_monitoring"], &data["status"]),
        (&true.into(), &"running".into())
    );
    has(
        data,
        &[
            ("pid", Kind::Integer),
            ("memory_mb", Kind::Number),
            ("start_time", Kind::Time),
        ],
    );
}

fn is_started(answer: &Value) {
    is_status_of_running(answer);
    let data = &answer["data"];
    assert_eq!(
        (&data["ports"], &data["timeout"]),
        (&[123].as_slice().into(), &2.0.into())
    );
}

fn is_stopped(answer: &Value) {
    is_of_interface(answer);
    is_status_of_stopped(&answer["data"]);
    assert_eq!(answer["data"]["interface_exists"], true);
}

fn is_status_of_stopped(data: &Value) {
    is_status(data);
    assert_eq!(
        (&data["is_monitoring"], &data["status"], &data["pid"]),
        (&false.into(), &"not_monitoring".into(), &Value::Null)
    );
}

/// One interface is monitored and another is not, as in the document's example.
fn is_list_of_statuses(answer: &Value) {
    is_success(answer);
    let data = answer["data"].as_array().unwrap();
    assert_eq!(answer["count"], data.len());
    let find = |name: &str| data.iter().find(|it| it["interface"] == name).unwrap();
    let monitored = find(DEVICE);
    is_status(monitored);
    assert_eq!(monitored["status"], "running");
    is_status_of_stopped(find("lo"));
}

fn is_health(answer: &Value) {
    is_success(answer);
    assert_eq!(answer["status"], "healthy", "{answer}");
}

fn is_cleanup(answer: &Value) {
    is_success(answer);
    has(answer, &[("message", Kind::Text)]);
}

fn ips(clients: &Value) -> Vec<&str> {
    let mut ips: Vec<_> = clients
        .as_array()
        .unwrap()
        .iter()
        .map(|client| client["client_ip"].as_str().unwrap())
        .collect();
    ips.sort_unstable();
    ips
}

fn is_client(client: &Value) {
    has(client, &CLIENT_FIELDS);
    assert_eq!(client["interface_name"], DEVICE);
    assert_eq!(client["server_ip"], SERVER);
    assert_eq!(client["server_port"], 123);
    assert!(client["session_count"].as_u64().unwrap() >= POLLS);
}

fn is_page(answer: &Value, page_size: u64, clients: &[&str]) {
    is_success(answer);
    let data = &answer["data"];
    data.as_array().unwrap().iter().for_each(is_client);
    assert_eq!(ips(data), clients);
    let pagination = &answer["pagination"];
    assert_eq!(
        (&pagination["page"], &pagination["page_size"]),
        (&1.into(), &page_size.into()),
        "{pagination}"
    );
}

fn is_first_page_of_10(answer: &Value) {
    is_page(answer, 10, &CLIENTS);
}

fn has_both_clients(answer: &Value) {
    is_page(answer, 20, &CLIENTS);
}

fn has_only_the_first_client(answer: &Value) {
    is_page(answer, 20, &CLIENTS[..1]);
}

fn is_detail_of_the_first_client(answer: &Value) {
    is_success(answer);
    let data = &answer["data"];
    assert_eq!(data["client_ip"], CLIENTS[0]);
    let interfaces = data["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 1);
    is_client(&interfaces[0]);
    let count = interfaces[0]["session_count"].as_u64().unwrap();
    let hours = data["hourly_activity"].as_array().unwrap();
    let of_hours = hours.iter().map(|hour| hour["session_count"].as_u64());
    assert_eq!(of_hours.sum::<Option<u64>>(), Some(count));
    assert!(!data["recent_sessions"].as_array().unwrap().is_empty());
}

fn is_interface_statistics(answer: &Value) {
    is_success(answer);
    let data = answer["data"].as_array().unwrap();
    let device = data.iter().find(|it| it["interface_name"] == DEVICE);
    let device = device.unwrap();
    assert_eq!(device["client_count"], 2);
    assert!(device["session_count"].as_u64().unwrap() >= 2 * POLLS);
}

/// A list of records, as a file to be kept.
fn is_export_of_both_clients(answer: &Value) {
    let clients = answer.as_array().map_or(&answer["data"], |_| answer);
    clients.as_array().unwrap().iter().for_each(is_client);
    assert_eq!(ips(clients), CLIENTS);
}

fn is_service_statistics(answer: &Value) {
    is_success(answer);
    let data = &answer["data"];
    has(
        data,
        &[
            ("total_received", Kind::Integer),
            ("total_processed", Kind::Integer),
            ("queue_size", Kind::Integer),
            ("processing_errors", Kind::Integer),
            ("total_inserted", Kind::Integer),
            ("total_updated", Kind::Integer),
        ],
    );
    assert!(data["total_received"].as_u64().unwrap() >= 2 * POLLS);
    assert_eq!(data["total_inserted"], 2);
    assert_eq!(data["processing_errors"], 0);
}

fn is_history_health(answer: &Value) {
    is_success(answer);
    let status = answer.get("status").or(answer["data"].get("status"));
    assert_eq!(status.unwrap(), "healthy", "{answer}");
}

fn is_cleanup_of_nothing(answer: &Value) {
    is_success(answer);
    assert!(answer["data"]["clients"] == 0, "{answer}");
}

/// A daemon where the documents expect it, and who it watches.
struct Stage {
    host: Namespace,
    peer: Namespace,
    home: Home,
    _daemon: Daemon,
}

impl Stage {
    fn new() -> Self {
        let (host, peer) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        connect((&host, DEVICE), (&peer, DEVICE)).unwrap();
        host.address(DEVICE, SERVER.parse().unwrap(), 24).unwrap();
        for client in CLIENTS {
            peer.address(DEVICE, client.parse().unwrap(), 24).unwrap();
        }
        let home = Home::new().unwrap();
        home.configure("interfaces = [\"lo\"]\nhistory.flush_interval_seconds = 0.2\n")
            .unwrap();
        // Curl's own configuration says the status of HTTP, so that the lines need not.
        let said = "silent\nshow-error\nnoproxy = \"*\"\nmax-time = 30\n\
                    write-out = \"\\n%{http_code} %{content_type}\"\n";
        fs::write(home.path(".curlrc"), said).unwrap();
        let mut command = home.command_watching(&host, &[], LISTEN, &[]).unwrap();
        let daemon = home.start(&mut command).unwrap();
        let stage = Self {
            host,
            peer,
            home,
            _daemon: daemon,
        };
        // Not one of the documents' own.
        stage.shell("curl -X POST http://localhost:8000/api/ntp/interfaces/lo/stop");
        stage
    }

    fn shell(&self, line: &str) -> Answer {
        let mut command = self.host.command("sh");
        let output = command
            .args(["-c", line])
            .env("CURL_HOME", self.home.path(""))
            .output()
            .unwrap();
        printed(line, &output)
    }

    fn run(&self, line: &Line) {
        let answer = self.shell(line.command);
        assert_eq!(answer.status, 200, "{}: {}", line.command, answer.text());
        assert_eq!(answer.content_type, "application/json", "{}", line.command);
        eprintln!("{}\n{}\n", line.command, answer.text());
        (line.check)(&answer.json().unwrap());
    }

    /// Both clients ask the host; all of it is remembered when this returns.
    fn exchange(&self) {
        let mut server = Chronyd::server(&self.host, &[]).unwrap();
        let clients = CLIENTS.map(|client| {
            let lines = [
                &format!("server {SERVER} minpoll -4 maxpoll -4 noselect")[..],
                &format!("bindacqaddress {client}"),
            ];
            Chronyd::start(&self.peer, &lines).unwrap()
        });
        let asked = || -> anyhow::Result<Vec<u64>> {
            let clients = server.clients()?;
            Ok(clients.iter().map(|client| client.received).collect())
        };
        wait_for("polls", PATIENCE, || {
            let asked = asked()?;
            let enough = asked.len() == 2 && asked.iter().all(|count| *count >= POLLS);
            Ok(enough.then_some(()))
        })
        .unwrap();
        for client in clients {
            client.stop_asking().unwrap();
        }
        let total: u64 = asked().unwrap().iter().sum();
        server.stop().unwrap();
        wait_for("all of it to be remembered", PATIENCE, || {
            let path = "api/ntp/history/service/statistics";
            let answer = self.shell(&format!("curl http://localhost:8000/{path}"));
            let statistics = answer.success()?;
            Ok((statistics["data"]["total_processed"] == total).then_some(()))
        })
        .unwrap();
    }
}

fn printed(line: &str, output: &Output) -> Answer {
    api::read(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error:#}: {output:?}"))
}

#[test]
fn the_commands_of_both_documents_run_as_they_stand() {
    let stage = Stage::new();
    for line in &MONITORING {
        stage.run(line);
    }
    stage.run(&START);
    stage.exchange();
    for line in HISTORY.iter().chain(&LISTED) {
        stage.run(line);
    }
}

#[test]
fn an_export_is_a_file_in_each_format() {
    let stage = Stage::new();
    stage.run(&START);
    stage.exchange();
    let export = |format: &str| {
        stage.shell(&format!(
            "curl -X POST http://localhost:8000/api/ntp/history/export \
             -H 'Content-Type: application/json' -d '{{\"format\": \"{format}\"}}'"
        ))
    };
    let csv = csv(&export("csv").text()).unwrap();
    let lines = export("ndjson").text();
    let lines: Vec<Map<String, Value>> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((csv.len(), lines.len()), (3, 2));
    for (name, _) in CLIENT_FIELDS {
        assert!(csv[0].iter().any(|it| it == name), "{name}: {:?}", csv[0]);
        assert!(lines[0].contains_key(name), "{name}: {:?}", lines[0]);
    }
    // Compressed for who can take it, it is the same.
    for encoding in ["gzip", "zstd"] {
        let compressed = stage.shell(&format!(
            "curl -X POST http://localhost:8000/api/ntp/history/export \
             -H 'Accept-Encoding: {encoding}'"
        ));
        assert_eq!(compressed.status, 200);
        assert!(!compressed.body.is_empty() && !compressed.body.starts_with(b"{"));
    }
    let parquet = export("parquet").body;
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
}

#[test]
fn the_python_client_runs_as_it_stands() {
    let stage = Stage::new();
    let script = stage.home.path("client.py");
    fs::write(&script, PYTHON_CLIENT).unwrap();
    let python = python::program("python").unwrap();
    let mut command = stage.host.command(&python);
    let printed = run(command.arg(&script).env("no_proxy", "*")).unwrap();
    let file = stage.home.path("printed");
    fs::write(&file, printed).unwrap();
    let output = Command::new(&python)
        .args(["-c", AS_JSON])
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<(String, Value)> = serde_json::from_slice(&output.stdout).unwrap();
    let checks = [
        ("Start", is_started as fn(&Value)),
        ("Status", is_status_of_running),
        ("All Status", is_list_of_statuses),
        ("Stop", is_stopped),
    ];
    assert_eq!(answers.len(), checks.len());
    for ((name, answer), (expected, check)) in answers.iter().zip(checks) {
        assert_eq!(name, expected);
        check(answer);
    }
}
