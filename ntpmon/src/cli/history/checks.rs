//! `ntpmon checks`: how the servers are that a running daemon asks by itself.

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Output, Pagination, ago, maybe, right, shown, width};
use crate::cli::{
    client::{Connection, path_part},
    interfaces::{Format, plain},
};

/// Where the API has them.
const PATH: &str = "/api/ntp/checks";

/// Say how the servers are that a running daemon asks by itself, over and over
///
/// They stand in the configuration as [[check]], or were made over the API. OFFSET is how far the
/// server is ahead of the daemon's host. REACH has a digit for each of the last eight rounds, the last
/// one to the right: 1 where the time was told. For a single question there is `ntpmon check`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Checks {
    #[command(subcommand)]
    action: Option<Action>,
    /// Which page, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// How many checks a page has, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Ask no more until it is resumed
    Pause {
        /// The check's id
        id: String,
    },
    /// Ask again, also who said that they do not want to be asked
    Resume {
        /// The check's id
        id: String,
    },
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Check>,
    pagination: Pagination,
}

/// What the API says of a check, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Check {
    id: String,
    name: String,
    server: String,
    paused: bool,
    states: Vec<State>,
}

#[derive(Debug, Deserialize)]
struct State {
    address: Option<String>,
    status: String,
    offset_seconds: Option<f64>,
    delay_seconds: Option<f64>,
    jitter_seconds: Option<f64>,
    stratum: Option<u8>,
    reach: u8,
    last_success_timestamp: Option<Timestamp>,
    stopped: bool,
}

impl Checks {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.open()?;
        let action = |id: &str, action: &str| {
            let path = format!("{PATH}/{}/{action}", path_part(id));
            daemon.post(&path, &serde_json::json!({}))
        };
        let out = Output::stdout();
        let answer = match &self.action {
            Some(Action::Pause { id }) => action(id, "pause")?,
            Some(Action::Resume { id }) => action(id, "resume")?,
            None => daemon.get(
                PATH,
                &[
                    ("page", self.page.to_string()),
                    ("page_size", self.page_size.to_string()),
                ],
            )?,
        };
        match (self.format, &self.action) {
            (Format::Json, _) => out.copy(answer),
            (Format::Table, None) => {
                let list: List = answer.json()?;
                out.print(&text(&list, self.page, width(), Timestamp::now()))
            }
            (Format::Table, Some(Action::Pause { id })) => out.print(&format!("{id} is paused\n")),
            (Format::Table, Some(Action::Resume { id })) => out.print(&format!("{id} goes on\n")),
        }
    }
}

fn text(list: &List, page: u64, width: Option<u16>, now: Timestamp) -> String {
    if list.data.is_empty() && list.pagination.total == 0 {
        return "there are no checks\n".to_owned();
    }
    let mut table = plain(
        &[
            "CHECK",
            "ID",
            "SERVER",
            "ADDRESS",
            "STATUS",
            "ST",
            "REACH",
            "OFFSET",
            "DELAY",
            "JITTER",
            "LAST TIME",
        ],
        width,
    );
    let unknown = || "-".to_owned();
    for check in &list.data {
        let whose = [shown(&check.name), shown(&check.id), shown(&check.server)];
        if check.states.is_empty() {
            let status = if check.paused { "paused" } else { "waiting" };
            let rest = [unknown(), status.to_owned()];
            table.add_row(whose.into_iter().chain(rest));
            continue;
        }
        for state in &check.states {
            let status = match (check.paused, state.stopped) {
                (true, _) => "paused".to_owned(),
                (_, true) => format!("{}, stopped", shown(&state.status)),
                _ => shown(&state.status),
            };
            let last = state.last_success_timestamp;
            let rest = [
                state.address.as_deref().map_or_else(unknown, shown),
                status,
                state.stratum.map_or_else(unknown, |it| it.to_string()),
                format!("{:08b}", state.reach),
                maybe(state.offset_seconds),
                maybe(state.delay_seconds),
                maybe(state.jitter_seconds),
                last.map_or_else(|| "never".to_owned(), |time| ago(time, now)),
            ];
            table.add_row(whose.iter().cloned().chain(rest));
        }
    }
    right(&mut table, &[5, 7, 8, 9]);
    table.trim_fmt() + "\n" + &list.pagination.line(page, "checks")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_address_has_a_line_and_so_has_a_check_without_one() {
        let now = "2026-11-21T08:00:10Z".parse().unwrap();
        let list: List = serde_json::from_value(json!({
            "data": [
                {
                    "id": "1581e27de87bffae", "name": "upstream", "server": "ntp.example",
                    "paused": false,
                    "states": [
                        {
                            "address": "192.0.2.1", "status": "ok", "offset_seconds": -0.0012,
                            "delay_seconds": 0.02, "jitter_seconds": null, "stratum": 2,
                            "reach": 7, "last_success_timestamp": "2026-11-21T08:00:00Z",
                            "stopped": false,
                        },
                        {
                            "address": "2001:db8::1", "status": "kiss_of_death", "reach": 0,
                            "stopped": true,
                        },
                    ],
                },
                {"id": "2", "name": "other", "server": "a", "paused": true, "states": []},
            ],
            "pagination": {"total": 3, "total_pages": 2},
        }))
        .unwrap();
        let text = text(&list, 1, None, now);
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines[1],
            "upstream 1581e27de87bffae ntp.example 192.0.2.1 ok 2 00000111 -1.20 ms 20.0 ms - 10 s ago"
        );
        assert_eq!(
            lines[2],
            "upstream 1581e27de87bffae ntp.example 2001:db8::1 kiss_of_death, stopped - 00000000 - - - never"
        );
        assert_eq!(lines[3], "other 2 a - paused");
        assert_eq!(lines[5], "page 1 of 2, 3 checks in all");
    }
}
