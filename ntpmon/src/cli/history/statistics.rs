//! `ntpmon statistics`: what happened on each interface, and how the history is kept.

use std::io::Write;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Output, PATH, ago, maybe, pairs, right, shown, width};
use crate::{
    cli::{
        client::Connection,
        interfaces::{Format, plain},
    },
    history::view::{InterfaceStatistics, ServiceStatistics},
};

/// Show what happened on each interface, and how a running daemon keeps what it remembers
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Statistics {
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Deserialize)]
struct Interfaces {
    data: Vec<InterfaceStatistics>,
}

#[derive(Debug, Deserialize)]
struct Service {
    data: ServiceStatistics,
}

impl Statistics {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.open()?;
        let interfaces = daemon.get(&format!("{PATH}/interfaces/statistics"), &[])?;
        let mut out = Output::stdout();
        if self.format == Format::Json {
            // Both answers as they are, each under its name.
            let mut whole = b"{\"interfaces\":".to_vec();
            interfaces.copy_to(&mut whole)?;
            whole.extend(b",\"service\":");
            let service = daemon.get(&format!("{PATH}/service/statistics"), &[])?;
            service.copy_to(&mut whole)?;
            whole.extend(b"}\n");
            out.write_all(&whole).context("writing the output")?;
            return out.print("");
        }
        let interfaces: Interfaces = interfaces.json()?;
        let service = daemon.get(&format!("{PATH}/service/statistics"), &[])?;
        let service: Service = service.json()?;
        let now = Timestamp::now();
        let mut text = String::new();
        if !interfaces.data.is_empty() {
            text += &table(&interfaces.data, width(), now);
            text += "\n\n";
        }
        text += &kept(&service.data, now);
        out.print(&text)
    }
}

fn table(interfaces: &[InterfaceStatistics], width: Option<u16>, now: Timestamp) -> String {
    let mut table = plain(
        &[
            "INTERFACE",
            "CLIENTS",
            "SESSIONS",
            "LATENCY P50",
            "P99",
            "SERVER TIME P50",
            "P99",
            "LAST ACTIVE",
        ],
        width,
    );
    for one in interfaces {
        let latency = &one.activity.client_to_server_latency;
        let processing = &one.activity.server_processing_time;
        table.add_row([
            shown(&one.interface_name),
            one.client_count.to_string(),
            one.session_count.to_string(),
            maybe(latency.p50_seconds),
            maybe(latency.p99_seconds),
            maybe(processing.p50_seconds),
            maybe(processing.p99_seconds),
            one.last_active
                .map_or_else(|| "never".to_owned(), |time| ago(time, now)),
        ]);
    }
    right(&mut table, &[1, 2, 3, 4, 5, 6]);
    table.trim_fmt()
}

fn kept(service: &ServiceStatistics, now: Timestamp) -> String {
    let drops: Vec<_> = service
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(place, count)| format!("{count} {}", place.replace('_', " ")))
        .collect();
    let flush = match service.last_flush_timestamp {
        None => "none yet".to_owned(),
        Some(time) => format!(
            "{}, {} clients in {}",
            ago(time, now),
            service.last_flush_clients,
            maybe(service.last_flush_seconds)
        ),
    };
    pairs([
        ("exchanges seen", service.total_received.to_string()),
        ("in the database", service.total_processed.to_string()),
        ("waiting", service.queue_size.to_string()),
        ("clients", service.client_count.to_string()),
        ("servers", service.server_count.to_string()),
        ("sessions kept", service.sessions_kept.to_string()),
        ("last flush", flush),
        ("longest flush", maybe(service.longest_flush_seconds)),
        ("failed flushes", service.processing_errors.to_string()),
        (
            "without a place",
            if drops.is_empty() {
                "none".to_owned()
            } else {
                shown(&drops.join(", "))
            },
        ),
        (
            "database",
            format!(
                "{}, {:.1} MiB",
                shown(&service.database_path),
                service.database_bytes as f64 / f64::from(1 << 20)
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, Settings};

    #[test]
    fn what_a_history_says_of_itself_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::open(directory.path(), Settings::default()).unwrap();
        drop(history.feed("eth0"));
        history.flush().unwrap();
        let mut service = history.service_statistics();
        service.drops = [("clients".to_owned(), 0), ("new_sessions".to_owned(), 7)].into();
        let text = kept(&service, Timestamp::now());
        for part in [
            "exchanges seen   0\n",
            "7 new sessions\n",
            "history.redb",
            "now, 0 clients in ",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let interfaces = history.interface_statistics().unwrap();
        let text = table(&interfaces, None, Timestamp::now());
        assert!(interfaces.is_empty() || text.contains("eth0"), "{text}");
        assert!(text.starts_with("INTERFACE"), "{text}");
    }
}
