//! `ntpmon servers`: how servers are, by what passed of late.

use std::net::IpAddr;

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Output, Pagination, ago, maybe, right, shown, width, word};
use crate::{
    cli::{
        client::{Connection, path_part},
        interfaces::{Format, plain},
    },
    history::servers::ServerHealth,
};

/// Where the API has them.
const PATH: &str = "/api/ntp/servers";

/// Say how the servers are whose answers a running daemon saw
///
/// OFFSET is the median of how far the server is ahead of the daemon's host, with its spread; it, the
/// delay and the jitter are known where that host asked. REACH has a digit for each of the last eight
/// questions, the last one to the right: 1 where it was answered.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Servers {
    /// Only this one
    ip: Option<IpAddr>,
    /// Only where the daemon's host is that to those who ask: with client, the servers that it asks
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// In which order: worst offset, least reach, last seen or most asked first
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// Which page, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// How many servers a page has, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// It asks
    Client,
    /// It answers
    Server,
    /// It only sees the packets pass
    Transit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Sort {
    /// By how far the median is from zero
    Offset,
    /// By the share of questions that were answered of late
    Reach,
    /// By when it was asked last
    LastSeen,
    /// By how often it was asked
    Sessions,
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<ServerHealth>,
    pagination: Option<Pagination>,
}

impl Servers {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let parameters = self.parameters();
        let daemon = self.connection.open()?;
        let answer = match self.ip {
            Some(ip) => daemon.get(&format!("{PATH}/{}", path_part(&ip.to_string())), &[]),
            None => daemon.get(PATH, &parameters),
        }?;
        let out = Output::stdout();
        match self.format {
            Format::Json => out.copy(answer),
            Format::Table => {
                let list: List = answer.json()?;
                out.print(&text(&list, self.page, width(), Timestamp::now()))
            }
        }
    }
}

impl Servers {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let order = self.sort.map(|sort| match sort {
            Sort::Reach => "asc".to_owned(),
            _ => "desc".to_owned(),
        });
        [
            ("page", Some(self.page.to_string())),
            ("page_size", Some(self.page_size.to_string())),
            ("role", self.role.as_ref().map(word)),
            ("sort", self.sort.as_ref().map(word)),
            ("order", order),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

fn text(list: &List, page: u64, width: Option<u16>, now: Timestamp) -> String {
    let mut text = if list.data.is_empty() {
        "no server is known\n".to_owned()
    } else {
        table(&list.data, width, now) + "\n"
    };
    if let Some(pages) = &list.pagination {
        text += &pages.line(page, "servers");
    }
    text
}

fn table(servers: &[ServerHealth], width: Option<u16>, now: Timestamp) -> String {
    let mut table = plain(
        &[
            "SERVER",
            "INTERFACE",
            "ROLE",
            "ST",
            "REFERENCE",
            "REACH",
            "OFFSET",
            "±",
            "DELAY",
            "JITTER",
            "ANSWERED",
            "LOST",
            "KISSES",
            "LAST ANSWER",
        ],
        width,
    );
    for server in servers {
        let answer = server.last_answer_timestamp;
        let kisses = &server.kiss_of_death;
        let kisses = [kisses.rate, kisses.deny, kisses.rstr, kisses.other];
        let kisses: u64 = kisses.into_iter().map(u64::from).sum();
        table.add_row([
            shown(&server.server_ip),
            shown(&server.interface_name),
            shown(server.role.as_deref().unwrap_or("-")),
            stratum(server),
            shown(server.reference_id.as_deref().unwrap_or("-")),
            (server.reach).map_or_else(|| "-".to_owned(), |reach| format!("{reach:08b}")),
            maybe(server.offset_median_seconds),
            maybe(server.offset_spread_seconds),
            maybe(server.delay_median_seconds),
            maybe(server.jitter_seconds),
            server.answered.to_string(),
            server.unanswered.to_string(),
            kisses.to_string(),
            answer.map_or_else(|| "never".to_owned(), |time| ago(time, now)),
        ]);
    }
    right(&mut table, &[3, 6, 7, 8, 9, 10, 11, 12]);
    table.trim_fmt()
}

/// With what its leap indicator adds to it.
fn stratum(server: &ServerHealth) -> String {
    let Some(stratum) = server.stratum else {
        return "-".to_owned();
    };
    match server.leap_indicator {
        Some(3) => "unsynchronised".to_owned(),
        Some(1) => format!("{stratum}, leap +1 s"),
        Some(2) => format!("{stratum}, leap -1 s"),
        _ => stratum.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_never_answered_has_a_line_too() {
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        let server = |ip: &str, leap: Option<u8>, offset: Option<f64>| {
            let is_known = leap.is_some();
            json!({
                "server_ip": ip, "server_port": 123, "interface_name": "eth0", "role": "client",
                "reach": is_known.then_some(0b1111_0111), "stratum": is_known.then_some(2),
                "leap_indicator": leap, "reference_id": null,
                "first_seen_timestamp": "2026-11-21T07:00:00Z",
                "last_seen_timestamp": "2026-11-21T07:59:57Z",
                "last_answer_timestamp": is_known.then_some("2026-11-21T07:59:57Z"),
                "window_samples": 0, "session_count": 6, "answered": 5, "unanswered": 1,
                "unsynchronised": 0, "multiple_responses": 0, "unsolicited_responses": 0,
                "kiss_of_death": {"RATE": 1, "DENY": 0, "RSTR": 0, "other": 2},
                "offset_median_seconds": offset, "offset_spread_seconds": offset.map(f64::abs),
            })
        };
        let list: List = serde_json::from_value(json!({
            "data": [server("192.0.2.1", Some(1), Some(-0.0012)), server("2001:db8::1", None, None)],
            "pagination": {"total": 300, "total_pages": 3},
        }))
        .unwrap();
        let text = text(&list, 1, None, now);
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines[1],
            "192.0.2.1 eth0 client 2, leap +1 s - 11110111 -1.20 ms 1.20 ms - - 5 1 3 3 s ago"
        );
        assert_eq!(
            lines[2],
            "2001:db8::1 eth0 client - - - - - - - 5 1 3 never"
        );
        assert_eq!(lines[4], "page 1 of 3, 300 servers in all");
    }
}
