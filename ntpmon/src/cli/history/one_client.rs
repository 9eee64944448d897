//! `ntpmon client IP`: all that a daemon knows of a client.

use std::net::IpAddr;

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Output, PATH, ago, maybe, pairs, right, shown, width};
use crate::{
    cli::{
        client::{Connection, path_part},
        interfaces::{Format, plain},
    },
    history::view::{Client, ClientDetail, HourOfClient, Session},
};

/// Show all that a running daemon knows of a client
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct OneClient {
    /// Its address
    ip: IpAddr,
    /// How many of its last sessions are shown, at most 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(..=1000))]
    sessions: u16,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Deserialize)]
struct Reply {
    data: ClientDetail,
}

impl OneClient {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.open()?;
        let path = format!("{PATH}/clients/{}", path_part(&self.ip.to_string()));
        let answer = daemon.get(&path, &[("sessions", self.sessions.to_string())])?;
        let out = Output::stdout();
        match self.format {
            Format::Json => out.copy(answer),
            Format::Table => {
                let reply: Reply = answer.json()?;
                out.print(&text(&reply.data, width(), Timestamp::now()))
            }
        }
    }
}

fn text(client: &ClientDetail, width: Option<u16>, now: Timestamp) -> String {
    let mut parts: Vec<String> = client.interfaces.iter().map(|on| record(on, now)).collect();
    if !client.recent_sessions.is_empty() {
        parts.push(sessions(&client.recent_sessions, width) + "\n");
    }
    if !client.hourly_activity.is_empty() {
        parts.push(hours(&client.hourly_activity, width) + "\n");
    }
    parts.join("\n")
}

/// What is known of its clock, in words.
fn clock(client: &Client) -> String {
    let mut text = client.client_clock.clone();
    let Some(error) = client.client_clock_error_seconds else {
        return text;
    };
    let side = if error < 0.0 { "behind" } else { "ahead of" };
    text += &format!(", {} {side} this host's", maybe(Some(error.abs())));
    match client.client_clock_error_bound_seconds {
        Some(bound) => text += &format!(" (to {})", maybe(Some(bound))),
        None => text += " (and later by the time that its requests take)",
    }
    if let Some(drift) = client.client_clock_drift_ppm {
        text += &format!(", gains {drift:.1} ppm");
    }
    text
}

/// Its record on one interface.
fn record(client: &Client, now: Timestamp) -> String {
    let spread = |last, least, median, p99| {
        let [last, least, median, p99] = [last, least, median, p99].map(maybe);
        format!("{last} (least {least}, median {median}, 99 of 100 under {p99})")
    };
    let time = |time: Timestamp| format!("{time:.0}, {}", ago(time, now));
    let versions: Vec<_> = client.versions_seen.iter().map(u8::to_string).collect();
    let reference = client.reference_id.as_deref();
    let rate = client.request_rate_per_second;
    pairs([
        (
            "client",
            format!("{}, port {}", shown(&client.client_ip), client.client_port),
        ),
        ("interface", shown(&client.interface_name)),
        (
            "server",
            format!("{}, port {}", shown(&client.server_ip), client.server_port),
        ),
        (
            "role of this host",
            shown(client.role.as_deref().unwrap_or("-")),
        ),
        ("versions", versions.join(", ")),
        ("stratum", client.stratum.to_string()),
        ("reference", shown(reference.unwrap_or("-"))),
        ("sessions", client.session_count.to_string()),
        ("unanswered", client.unanswered.to_string()),
        ("retransmissions", client.duplicates.to_string()),
        ("kisses of death", client.kiss_of_death.to_string()),
        ("requests", rate.map_or_else(|| "-".to_owned(), every)),
        ("clock", shown(&clock(client))),
        (
            "latency",
            spread(
                client.client_to_server_latency_seconds,
                client.client_to_server_latency_min_seconds,
                client.client_to_server_latency_median_seconds,
                client.client_to_server_latency_p99_seconds,
            ),
        ),
        (
            "server time",
            spread(
                client.server_processing_time_seconds,
                client.server_processing_time_min_seconds,
                client.server_processing_time_median_seconds,
                client.server_processing_time_p99_seconds,
            ),
        ),
        (
            "total time",
            spread(
                client.total_process_time_seconds,
                client.total_process_time_min_seconds,
                client.total_process_time_median_seconds,
                client.total_process_time_p99_seconds,
            ),
        ),
        ("first seen", time(client.first_seen_timestamp)),
        ("last seen", time(client.last_seen_timestamp)),
    ])
}

/// Requests a second, in words: most clients ask less than once.
fn every(rate: f64) -> String {
    if rate > 1.0 {
        format!("{rate:.1} a second")
    } else {
        format!("one every {}", maybe(Some(1.0 / rate)))
    }
}

fn sessions(sessions: &[Session], width: Option<u16>) -> String {
    let mut table = plain(
        &[
            "SESSION",
            "INTERFACE",
            "SERVER",
            "V",
            "ST",
            "LATENCY",
            "SERVER TIME",
            "TOTAL",
            "NOTE",
        ],
        width,
    );
    for session in sessions {
        let mut notes = Vec::new();
        if !session.answered {
            notes.push("no answer".to_owned());
        }
        if let Some(code) = &session.kiss_code {
            notes.push(format!("kiss {}", shown(code)));
        }
        if session.interleaved {
            notes.push("interleaved".to_owned());
        }
        if session.duplicates > 0 {
            notes.push(format!("{} retransmitted", session.duplicates));
        }
        table.add_row([
            format!("{:.3}", session.session_timestamp),
            shown(&session.interface_name),
            shown(&session.server_ip),
            session.ntp_version.to_string(),
            session.stratum.to_string(),
            maybe(session.client_to_server_latency_seconds),
            maybe(session.server_processing_time_seconds),
            maybe(session.total_process_time_seconds),
            notes.join(", "),
        ]);
    }
    right(&mut table, &[3, 4, 5, 6, 7]);
    table.trim_fmt()
}

fn hours(hours: &[HourOfClient], width: Option<u16>) -> String {
    let mut table = plain(&["HOUR", "SESSIONS", "LOST", "MEAN TOTAL"], width);
    for hour in hours {
        table.add_row([
            format!("{:.0}", hour.hour),
            hour.session_count.to_string(),
            hour.unanswered.to_string(),
            maybe(hour.total_process_time_mean_seconds),
        ]);
    }
    right(&mut table, &[1, 2, 3]);
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::clients::tests::client, *};

    #[test]
    fn everything_known_is_shown_and_no_control_character() {
        let one = client(1, "eth\x1b0");
        let now = one.last_seen_timestamp + jiff::SignedDuration::from_secs(90);
        let session = json!({
            "session_timestamp": "2026-11-21T08:00:00.123456789Z", "interface_name": "eth0",
            "client_port": 40000, "server_ip": "10.0.0.1", "server_port": 123, "answered": false,
            "ntp_version": 4, "leap_indicator": 0, "stratum": 0, "poll_interval": 6,
            "precision": -20, "root_delay": 0.0, "root_dispersion": 0.0, "packet_length": 48,
            "client_clock": "unknown", "kiss_code": "RATE", "interleaved": false, "duplicates": 2,
        });
        let detail = ClientDetail {
            client_ip: one.client_ip.clone(),
            interfaces: vec![one],
            recent_sessions: vec![serde_json::from_value(session).unwrap()],
            hourly_activity: vec![HourOfClient {
                hour: now,
                session_count: 7,
                unanswered: 1,
                total_process_time_mean_seconds: Some(0.000_123),
            }],
        };
        let text = text(&detail, None, now);
        for part in [
            "0.0.0.1, port 40000",
            "eth\\u{1b}0",
            "50.0 µs (least 50.0 µs, median 50.2 µs, 99 of 100 under 50.2 µs)",
            "2 min ago",
            "2026-11-21T08:00:00.123Z",
            "no answer, kiss RATE, 2 retransmitted",
            "123 µs",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn rates_are_told_in_words() {
        assert_eq!(every(1.0 / 64.0), "one every 64.0 s");
        assert_eq!(every(25.0), "25.0 a second");
    }
}
