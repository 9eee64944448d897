//! `ntpmon alerts`: what is wrong now, who has it, and whether messages arrive.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Output, ago, parse_time, shown, width};
use crate::cli::{
    client::{Connection, path_part},
    interfaces::{Format, plain},
};

/// Where the API has them.
const PATH: &str = "/api/ntp/alerts";

/// List the alerts of a running daemon; take one, or try whether messages arrive
///
/// Those that are about to fire, those that fire, and for an hour those that are over. Rules, sinks
/// and silences stand in the configuration, or are made over the API.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Alerts {
    #[command(subcommand)]
    action: Option<Action>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say that somebody has an alert: it is not told again and again any more
    Acknowledge(Acknowledge),
    /// List where messages go to, and whether they arrive
    Sinks,
    /// Send a test message to a sink
    Test {
        /// The sink's name
        sink: String,
    },
    /// Say what became of alerts, the last first
    History {
        /// So many at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
}

#[derive(Debug, clap::Args, Serialize)]
struct Acknowledge {
    /// The alert's number
    #[serde(skip)]
    id: u64,
    /// Who has it
    #[arg(long, value_name = "NAME")]
    by: String,
    /// What there is to say
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    /// Until when; until it is over unless said otherwise
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct List<T> {
    data: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct One<T> {
    data: T,
}

/// What the API says of a test message.
#[derive(Debug, Deserialize)]
struct Tested {
    delivered: bool,
    error: Option<String>,
    seconds: f64,
}

/// What the API says of an alert, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Alert {
    id: u64,
    rule: String,
    state: String,
    severity: Option<String>,
    labels: BTreeMap<String, String>,
    value: Option<f64>,
    began: Option<Timestamp>,
    acknowledgement: Option<Value>,
    silences: Vec<String>,
    message: Option<String>,
}

/// And of a sink.
#[derive(Debug, Deserialize)]
struct Sink {
    name: String,
    kind: String,
    target: String,
    waiting: u64,
    delivered: u64,
    failed: u64,
    error: Option<String>,
}

/// And of what became of an alert.
#[derive(Debug, Deserialize)]
struct Entry {
    time: Timestamp,
    alert_id: u64,
    rule: String,
    event: String,
    labels: BTreeMap<String, String>,
}

impl Alerts {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.open()?;
        let answer = match &self.action {
            None => daemon.get(PATH, &[]),
            Some(Action::Acknowledge(body)) => {
                daemon.post(&format!("{PATH}/{}/acknowledge", body.id), body)
            }
            Some(Action::Sinks) => daemon.get(&format!("{PATH}/sinks"), &[]),
            Some(Action::Test { sink }) => daemon.post(
                &format!("{PATH}/sinks/{}/test", path_part(sink)),
                &serde_json::json!({}),
            ),
            Some(Action::History { limit }) => {
                daemon.get(&format!("{PATH}/history"), &[("limit", limit.to_string())])
            }
        }?;
        let out = Output::stdout();
        if self.format == Format::Json {
            return out.copy(answer);
        }
        let (width, now) = (width(), Timestamp::now());
        out.print(&match &self.action {
            None => alerts(&answer.json::<List<Alert>>()?.data, width, now),
            Some(Action::Acknowledge(body)) => {
                format!("alert {} is acknowledged by {}\n", body.id, body.by)
            }
            Some(Action::Sinks) => sinks(&answer.json::<List<Sink>>()?.data, width),
            Some(Action::Test { sink }) => {
                let tested = answer.json::<One<Tested>>()?.data;
                if !tested.delivered {
                    bail!(
                        "the test message did not arrive at {sink}: {}",
                        tested
                            .error
                            .unwrap_or_else(|| "nobody knows why".to_owned())
                    );
                }
                format!(
                    "the test message has arrived at {} after {:.3} s\n",
                    shown(sink),
                    tested.seconds
                )
            }
            Some(Action::History { .. }) => {
                history(&answer.json::<List<Entry>>()?.data, width, now)
            }
        })
    }
}

fn alerts(alerts: &[Alert], width: Option<u16>, now: Timestamp) -> String {
    if alerts.is_empty() {
        return "there is no alert\n".to_owned();
    }
    let mut table = plain(
        &["ID", "STATE", "RULE", "OF", "VALUE", "BEGAN", "NOTE"],
        width,
    );
    for alert in alerts {
        let state = match &alert.severity {
            Some(severity) => format!("{}, {}", alert.state, severity),
            None => alert.state.clone(),
        };
        let who = alert
            .acknowledgement
            .as_ref()
            .and_then(|it| it["by"].as_str());
        let note = match (who, alert.silences.first(), &alert.message) {
            (Some(by), ..) => format!("acknowledged by {}", shown(by)),
            (_, Some(silence), _) => format!("silenced by {}", shown(silence)),
            (_, _, Some(message)) => shown(message),
            _ => String::new(),
        };
        table.add_row([
            alert.id.to_string(),
            shown(&state),
            shown(&alert.rule),
            labels(&alert.labels),
            alert
                .value
                .map_or_else(|| "-".to_owned(), |it| it.to_string()),
            alert
                .began
                .map_or_else(|| "-".to_owned(), |it| ago(it, now)),
            note,
        ]);
    }
    table.trim_fmt() + "\n"
}

fn sinks(sinks: &[Sink], width: Option<u16>) -> String {
    let mut table = plain(
        &[
            "SINK",
            "KIND",
            "TO",
            "WAITING",
            "DELIVERED",
            "FAILED",
            "NOTE",
        ],
        width,
    );
    for sink in sinks {
        table.add_row([
            shown(&sink.name),
            shown(&sink.kind),
            shown(&sink.target),
            sink.waiting.to_string(),
            sink.delivered.to_string(),
            sink.failed.to_string(),
            sink.error.as_deref().map_or_else(String::new, shown),
        ]);
    }
    table.trim_fmt() + "\n"
}

fn history(entries: &[Entry], width: Option<u16>, now: Timestamp) -> String {
    if entries.is_empty() {
        return "no alert has fired\n".to_owned();
    }
    let mut table = plain(&["WHEN", "ALERT", "WHAT", "RULE", "OF"], width);
    for entry in entries {
        table.add_row([
            ago(entry.time, now),
            entry.alert_id.to_string(),
            shown(&entry.event),
            shown(&entry.rule),
            labels(&entry.labels),
        ]);
    }
    table.trim_fmt() + "\n"
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    shown(&all.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_is_a_line_with_who_has_it() {
        let now = "2026-11-21T08:00:10Z".parse().unwrap();
        let all: Vec<Alert> = serde_json::from_value(json!([
            {
                "id": 7, "rule": "server-offset", "state": "firing", "severity": "critical",
                "labels": {"server": "192.0.2.1", "interface": "eth0"}, "value": 0.061,
                "began": "2026-11-21T08:00:00Z", "acknowledgement": {"by": "Ada"},
                "silences": [], "message": null,
            },
            {
                "id": 8, "rule": "step", "state": "pending", "severity": null, "labels": {},
                "value": null, "began": "2026-11-21T08:00:09Z", "acknowledgement": null,
                "silences": ["work"], "message": "a\u{1b}b",
            },
        ]))
        .unwrap();
        let text = alerts(&all, None, now);
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines[1],
            "7 firing, critical server-offset interface=eth0 server=192.0.2.1 0.061 10 s ago acknowledged by Ada"
        );
        assert_eq!(lines[2], "8 pending step - 1 s ago silenced by work");
    }
}
