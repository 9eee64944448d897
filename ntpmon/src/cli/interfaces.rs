//! `ntpmon interfaces`: which interfaces a running daemon watches, and what of.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use rustix::termios::tcgetwinsize;
use serde::{Deserialize, Serialize};

use super::{
    client::{Answer, Client, Connection, path_part, written},
    parse_timeout,
};

/// List the interfaces of a running daemon; start, stop or restart watching one
#[derive(Debug, clap::Args)]
pub(super) struct Interfaces {
    #[command(subcommand)]
    action: Option<Action>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// What the API answered, as it is
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Watch an interface; it is watched again after a restart of the daemon
    Start(Start),
    /// Watch an interface no longer
    Stop {
        /// The interface
        name: String,
    },
    /// Begin anew, with new counters and, where nothing else is said, the options of before
    Restart(Start),
}

#[derive(Debug, clap::Args)]
struct Start {
    /// The interface
    name: String,
    #[command(flatten)]
    options: Options,
}

/// What is left out is as it was, or as the daemon's configuration says.
#[derive(Debug, clap::Args, Serialize)]
struct Options {
    /// A UDP port that is NTP, on either side; may be given up to 8 times
    #[arg(long = "port", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<u16>,
    /// How long a request waits for its response, 0.001 to 3600
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    timeout: Option<Duration>,
    /// Where incoming packets are taken
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    /// Where exchanges are written besides, in the daemon's output directory
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    output_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// As outgoing ones
    Tc,
    /// Before the kernel's own network code, where the interface allows it
    Xdp,
}

#[allow(clippy::ref_option)] // The signature is serde's.
fn seconds<S: serde::Serializer>(
    timeout: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    timeout
        .map(|timeout| timeout.as_secs_f64())
        .serialize(serializer)
}

/// What the API says of an interface, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Status {
    interface: String,
    status: String,
    mode: Option<String>,
    ports: Option<Vec<u16>>,
    packets: u64,
    events: u64,
    dropped: u64,
    start_time: Option<jiff::Timestamp>,
    error: Option<String>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Status>,
}

#[derive(Debug, Deserialize)]
struct Reply {
    message: String,
}

impl Interfaces {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.open()?;
        let answer = ask(&client, self.action.as_ref())?;
        let mut out = io::stdout().lock();
        let text = match (self.format, &self.action) {
            (Format::Json, _) => {
                answer.copy_to(&mut out)?;
                "\n".to_owned()
            }
            (Format::Table, Some(_)) => format!("{}\n", answer.json::<Reply>()?.message),
            (Format::Table, None) => {
                let list: List = answer.json()?;
                format!("{}\n", table(&list.data, width()))
            }
        };
        written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }
}

fn ask(client: &Client, action: Option<&Action>) -> Result<Answer> {
    let path =
        |name: &str, action: &str| format!("/api/ntp/interfaces/{}/{action}", path_part(name));
    match action {
        None => client.get("/api/ntp/interfaces/status", &[]),
        Some(Action::Start(start)) => client.post(&path(&start.name, "start"), &start.options),
        Some(Action::Restart(start)) => client.post(&path(&start.name, "restart"), &start.options),
        Some(Action::Stop { name }) => client.post(&path(name, "stop"), &serde_json::json!({})),
    }
}

/// How wide the terminal is; nothing when the output goes elsewhere.
pub(super) fn width() -> Option<u16> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// A table without lines, in the terminal's width if there is one.
pub(super) fn plain(header: &[&str], width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.set_content_arrangement(match width {
        Some(_) => ContentArrangement::Dynamic,
        None => ContentArrangement::Disabled,
    });
    if let Some(width) = width {
        table.set_width(width);
    }
    table
}

fn table(interfaces: &[Status], width: Option<u16>) -> String {
    let mut table = plain(
        &[
            "INTERFACE",
            "STATUS",
            "MODE",
            "PORTS",
            "PACKETS",
            "NTP",
            "LOST",
            "SINCE",
            "NOTE",
        ],
        width,
    );
    for one in interfaces {
        let ports = one.ports.as_deref().unwrap_or_default();
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let notes: Vec<_> = one
            .error
            .iter()
            .chain(&one.notes)
            .map(String::as_str)
            .collect();
        let counted = |count: u64| match one.status.as_str() {
            "not_monitoring" => String::new(),
            _ => count.to_string(),
        };
        let since = one.start_time.map(|time| format!("{time:.0}"));
        table.add_row([
            one.interface.clone(),
            one.status.replace('_', " "),
            one.mode.clone().unwrap_or_default(),
            ports.join(","),
            counted(one.packets),
            counted(one.events + one.dropped),
            counted(one.dropped),
            since.unwrap_or_default(),
            notes.join("; "),
        ]);
    }
    for column in [4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::{super::client::tests::Daemon, *};
    use crate::{
        cli::{Arguments, Command},
        tokens::Tokens,
    };

    fn parsed(arguments: &[&str]) -> Interfaces {
        let all = ["ntpmon", "interfaces"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Interfaces(interfaces) => interfaces,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn flags_may_stand_before_and_after_the_action() {
        for arguments in [
            &["--format", "json", "--url", "http://h", "start", "eth0"][..],
            &["start", "eth0", "--format", "json", "--url", "http://h"],
            &["start", "--format", "json", "eth0", "--url", "http://h"],
        ] {
            let interfaces = parsed(arguments);
            assert_eq!(interfaces.format, Format::Json);
            assert!(format!("{:?}", interfaces.connection).contains("http://h"));
        }
        for wrong in [
            &["start"][..],
            &["start", "eth0", "--port", "0"],
            &["start", "eth0", "--timeout", "0"],
            &["start", "eth0", "--mode", "raw"],
            &["stop", "eth0", "--port", "123"],
            &["frobnicate"],
        ] {
            let all = ["ntpmon", "interfaces"].iter().chain(wrong);
            assert!(Arguments::try_parse_from(all).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_what_was_said_is_asked_for() {
        let body = |arguments: &[&str]| match parsed(arguments).action {
            Some(Action::Start(start) | Action::Restart(start)) => {
                serde_json::to_value(start.options).unwrap()
            }
            other => unreachable!("{other:?}"),
        };
        assert_eq!(body(&["start", "eth0"]), json!({}));
        assert_eq!(
            body(&[
                "restart",
                "eth0",
                "--port",
                "123",
                "--port",
                "4123",
                "--timeout",
                "0.5",
                "--mode",
                "xdp",
                "--output-file",
                "a.ndjson",
            ]),
            json!({
                "ports": [123, 4123], "timeout": 0.5, "mode": "xdp", "output_file": "a.ndjson",
            })
        );
    }

    #[test]
    fn each_action_reaches_the_daemon() {
        let daemon = Daemon::with(Tokens::default());
        let client = daemon.client(None);
        let list: List = ask(&client, None).unwrap().json().unwrap();
        assert!(list.data.iter().any(|one| one.interface == "lo"));
        let stop = parsed(&["stop", "lo"]).action;
        let reply: Value = ask(&client, stop.as_ref()).unwrap().json().unwrap();
        assert_eq!(reply["data"]["status"], "not_monitoring");
        for action in ["start", "restart", "stop"] {
            let unknown = parsed(&[action, "a/b"]).action;
            let message = format!("{:#}", ask(&client, unknown.as_ref()).unwrap_err());
            assert!(message.contains("'a/b'"), "{message}");
        }
    }

    #[test]
    fn the_table_keeps_within_the_terminal() {
        let list: Vec<Status> = serde_json::from_value(json!([
            {
                "interface": "eth0", "status": "running", "mode": "tcx", "ports": [123, 4123],
                "packets": 1_234_567, "events": 1000, "dropped": 1,
                "start_time": "2026-01-02T03:04:05.678901Z", "error": null, "notes": [],
            },
            {
                "interface": "wlan0", "status": "failed", "mode": null, "ports": [123],
                "packets": 0, "events": 0, "dropped": 0, "start_time": null,
                "error": "it was taken away, and a long story is told of how that came about",
                "notes": ["and more"],
            },
            {
                "interface": "lo", "status": "not_monitoring", "mode": null, "ports": null,
                "packets": 0, "events": 0, "dropped": 0, "start_time": null, "error": null,
                "notes": [],
            },
        ]))
        .unwrap();
        let wide = table(&list, None);
        let lines: Vec<_> = wide.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 4, "{wide}");
        assert!(lines.iter().all(|line| !line.starts_with(' ')), "{wide}");
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(lines[0]),
            "INTERFACE STATUS MODE PORTS PACKETS NTP LOST SINCE NOTE"
        );
        assert_eq!(
            words(lines[1]),
            "eth0 running tcx 123,4123 1234567 1001 1 2026-01-02T03:04:05Z"
        );
        assert!(lines[2].ends_with("came about; and more"), "{wide}");
        assert_eq!(words(lines[3]), "lo not monitoring");
        let narrow = table(&list, Some(100));
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 100),
            "{narrow}"
        );
        assert!(narrow.lines().count() > 4, "{narrow}");
    }
}
