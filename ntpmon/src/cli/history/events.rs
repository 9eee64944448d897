//! `ntpmon events`: what happened to servers and to the clock of the daemon's host.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;

use super::{Output, parse_time, shown, word};
use crate::{
    cli::{client::Connection, interfaces::Format},
    history::findings::Finding,
};

/// Where the API has them.
const PATH: &str = "/api/ntp/events";
/// How often who follows asks again.
const PAUSE: Duration = Duration::from_secs(1);
/// So many are asked for at most.
const MOST: u64 = 1000;

/// Say what happened to servers and to the clock of a running daemon's host
///
/// The last event comes last. With --follow, further ones are printed as they come, until it is
/// interrupted.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Events {
    /// Only of this kind, such as offset_step; may be given several times
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only what is at least so severe
    #[arg(long, value_enum)]
    severity: Option<Severity>,
    /// Only of this server
    #[arg(long, value_name = "IP")]
    server: Option<IpAddr>,
    /// Only on this interface; may be given several times
    #[arg(long = "interface", value_name = "NIC")]
    interface_names: Vec<String>,
    /// Then or later: 2026-11-21T08:00:00Z, or how long ago, as 90min or 2d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Then or before
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "follow")]
    until: Option<Timestamp>,
    /// So many at most, the last ones
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    limit: u64,
    /// Go on with those that come
    #[arg(long, short)]
    follow: bool,
    /// How they are printed: json is one object a line where they are followed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Severity {
    /// All
    Info,
    /// To look at
    Warning,
    /// To act on
    Critical,
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Finding>,
}

impl Events {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let asked = self.parameters(self.limit);
        let all = self.parameters(MOST);
        let daemon = self.connection.open()?;
        let mut out = Output::stdout();
        let answer = daemon.get(PATH, &asked)?;
        if self.format == Format::Json && !self.follow {
            return out.copy(answer);
        }
        let mut list: List = answer.json()?;
        if list.data.is_empty() && !self.follow {
            return out.print("there is no such event\n");
        }
        let mut last = 0;
        loop {
            let known = last;
            // The last one comes first.
            let new = list.data.iter().rev().filter(|it| it.event_number > known);
            let mut text = String::new();
            for event in new {
                text += &match self.format {
                    Format::Json => serde_json::to_string(event)? + "\n",
                    Format::Table => line(event, &TimeZone::system()),
                };
                last = event.event_number;
            }
            if !text.is_empty() {
                out.go_on(&text)?;
            }
            if !self.follow {
                return Ok(());
            }
            thread::sleep(PAUSE);
            list = daemon.get(PATH, &all)?.json()?;
        }
    }

    fn parameters(&self, limit: u64) -> Vec<(&'static str, String)> {
        let joined = |names: &[String]| Some(names.join(",")).filter(|names| !names.is_empty());
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        [
            ("kind", joined(&self.kind)),
            ("severity", self.severity.as_ref().map(word)),
            ("server_ip", self.server.map(|ip| ip.to_string())),
            ("interface_name", joined(&self.interface_names)),
            ("since", time(self.since)),
            ("until", time(self.until)),
            ("limit", Some(limit.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// In local time, as a log has it.
fn line(event: &Finding, zone: &TimeZone) -> String {
    let time = event.timestamp.to_zoned(zone.clone());
    let more = match event.count {
        1 => String::new(),
        count => format!(" ({count} times)"),
    };
    let place = event.interface_name.as_deref().unwrap_or("-");
    format!(
        "{}  {:8}  {:20}  {:8}  {}{more}\n",
        time.strftime("%Y-%m-%d %H:%M:%S%.3f"),
        shown(&event.severity),
        shown(&event.kind),
        shown(place),
        shown(&event.message),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_without_control_characters() {
        let event: Finding = serde_json::from_value(json!({
            "event_number": 3, "kind": "offset_step", "severity": "warning",
            "timestamp": "2026-11-21T08:00:00.25Z", "last_timestamp": "2026-11-21T08:00:09Z",
            "count": 7, "server_ip": "192.0.2.1", "client_ip": null, "interface_name": "eth0",
            "message": "192.0.2.1: its\u{1b} clock", "evidence": {},
        }))
        .unwrap();
        let line = line(&event, &TimeZone::UTC);
        assert!(
            line.starts_with("2026-11-21 08:00:00.250  warning   offset_step           eth0      "),
            "{line}"
        );
        assert!(line.ends_with(" clock (7 times)\n"), "{line}");
        assert!(!line.contains('\u{1b}'));
    }
}
