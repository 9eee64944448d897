//! `ntpmon servers`: what the answers of servers said.

use std::net::IpAddr;

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Output, PATH, ago, maybe, right, shown, width};
use crate::{
    cli::{
        client::{Connection, path_part},
        interfaces::{Format, plain},
    },
    history::view::Server,
};

/// List the servers whose answers a running daemon saw
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Servers {
    /// Only this one
    ip: Option<IpAddr>,
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

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Server>,
    pagination: Option<Pagination>,
}

#[derive(Debug, Deserialize)]
struct Pagination {
    total: u64,
    total_pages: u64,
}

impl Servers {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.open()?;
        let answer = match self.ip {
            Some(ip) => daemon.get(
                &format!("{PATH}/servers/{}", path_part(&ip.to_string())),
                &[],
            ),
            None => daemon.get(
                &format!("{PATH}/servers"),
                &[
                    ("page", self.page.to_string()),
                    ("page_size", self.page_size.to_string()),
                ],
            ),
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

fn text(list: &List, page: u64, width: Option<u16>, now: Timestamp) -> String {
    let mut text = if list.data.is_empty() {
        "no server is known\n".to_owned()
    } else {
        table(&list.data, width, now) + "\n"
    };
    match &list.pagination {
        Some(pages) if pages.total_pages > 1 => {
            text += &format!(
                "\npage {page} of {}, {} servers in all\n",
                pages.total_pages, pages.total
            );
        }
        _ => {}
    }
    text
}

fn table(servers: &[Server], width: Option<u16>, now: Timestamp) -> String {
    let mut table = plain(
        &[
            "SERVER",
            "INTERFACE",
            "ST",
            "REFERENCE",
            "ANSWERED",
            "LOST",
            "KISSES",
            "OFFSET",
            "DELAY",
            "SERVER TIME",
            "LAST ANSWER",
        ],
        width,
    );
    for server in servers {
        let stratum = server.stratum.map(|stratum| stratum.to_string());
        let answer = server.last_answer_timestamp;
        table.add_row([
            shown(&server.server_ip),
            shown(&server.interface_name),
            stratum.unwrap_or_else(|| "-".to_owned()),
            shown(server.reference_id.as_deref().unwrap_or("-")),
            server.answered.to_string(),
            server.unanswered.to_string(),
            server.kiss_of_death.to_string(),
            maybe(server.offset_median_seconds),
            maybe(server.delay_median_seconds),
            maybe(server.server_processing_time_median_seconds),
            answer.map_or_else(|| "never".to_owned(), |time| ago(time, now)),
        ]);
    }
    right(&mut table, &[2, 4, 5, 6, 7, 8, 9]);
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_never_answered_has_a_line_too() {
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        let server = |ip: &str, answered: u64, offset: Option<f64>| {
            json!({
                "server_ip": ip, "server_port": 123, "interface_name": "eth0",
                "stratum": (answered > 0).then_some(2), "reference_id": null,
                "first_seen_timestamp": "2026-11-21T07:00:00Z",
                "last_seen_timestamp": "2026-11-21T07:59:57Z",
                "last_answer_timestamp": (answered > 0).then_some("2026-11-21T07:59:57Z"),
                "session_count": answered + 1, "answered": answered, "unanswered": 1,
                "unsynchronised": 0, "kiss_of_death": 0, "interleaved": 0, "versions_seen": [4],
                "offset_median_seconds": offset,
            })
        };
        let list: List = serde_json::from_value(json!({
            "data": [server("192.0.2.1", 5, Some(-0.0012)), server("2001:db8::1", 0, None)],
            "pagination": {"total": 300, "total_pages": 3},
        }))
        .unwrap();
        let text = text(&list, 1, None, now);
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(lines[1], "192.0.2.1 eth0 2 - 5 1 0 -1.20 ms - - 3 s ago");
        assert_eq!(lines[2], "2001:db8::1 eth0 - - 0 1 0 - - - never");
        assert_eq!(lines[4], "page 1 of 3, 300 servers in all");
    }
}
