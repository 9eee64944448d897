//! `ntpmon clients`: a page of the clients that a daemon remembers.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Filters, Output, PATH, Pagination, ago, maybe, right, shown, width, word};
use crate::{
    cli::{
        client::{Client as Daemon, Connection},
        interfaces::plain,
    },
    history::{export, view::Client},
};

/// List the clients that a running daemon remembers
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Clients {
    #[command(flatten)]
    filters: Filters,
    /// In which order; what is not known stands at the end
    #[arg(long, value_enum, default_value_t = Sort::LastSeen)]
    sort: Sort,
    /// The greatest and latest first, or the least
    #[arg(long, value_enum, default_value_t = Order::Desc)]
    order: Order,
    /// Which page, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// How many clients a page has, at most 1000
    #[arg(long, visible_alias = "limit", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
    /// How the page is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

/// By what clients are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Sort {
    LastSeen,
    FirstSeen,
    SessionCount,
    Unanswered,
    Latency,
    ProcessingTime,
    TotalTime,
    RequestRate,
    ClientIp,
    /// The worst first, ahead or behind
    ClockError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Asc,
    Desc,
}

/// How clients are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// What the API answered, as it is
    Json,
    /// A client a line, each a JSON object
    Ndjson,
    /// The names in the first line, a client a line
    Csv,
}

#[derive(Debug, Deserialize)]
struct Page {
    data: Vec<Client>,
    pagination: Pagination,
}

impl Clients {
    pub(in crate::cli) fn run(self) -> Result<()> {
        let daemon = self.connection.clone().open()?;
        self.print(&daemon)
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.filters.parameters();
        parameters.extend([
            ("sort", word(&self.sort)),
            ("order", word(&self.order)),
            ("page", self.page.to_string()),
            ("page_size", self.page_size.to_string()),
        ]);
        parameters
    }

    fn print(&self, daemon: &Daemon) -> Result<()> {
        let answer = daemon.get(&format!("{PATH}/clients"), &self.parameters())?;
        let out = Output::stdout();
        if self.format == Format::Json {
            return out.copy(answer);
        }
        let page: Page = answer.json()?;
        let mut text = Vec::new();
        match self.format {
            Format::Csv => {
                text.extend(export::csv_names().as_bytes());
                for client in &page.data {
                    export::write_csv(&mut text, client).context("writing a client as CSV")?;
                }
            }
            Format::Ndjson => {
                for client in &page.data {
                    serde_json::to_writer(&mut text, client).context("writing a client")?;
                    text.push(b'\n');
                }
            }
            Format::Table | Format::Json => {
                text.extend(self.table(&page, width(), Timestamp::now()).into_bytes());
            }
        }
        out.print(&String::from_utf8_lossy(&text))
    }

    fn table(&self, page: &Page, width: Option<u16>, now: Timestamp) -> String {
        if page.data.is_empty() {
            let total = page.pagination.total;
            return match total {
                0 => "no client is known that fits\n".to_owned(),
                _ => format!(
                    "there is no page {}: {total} clients have {} pages\n",
                    self.page, page.pagination.total_pages
                ),
            };
        }
        table(&page.data, width, now) + "\n" + &page.pagination.line(self.page, "clients")
    }
}

fn table(clients: &[Client], width: Option<u16>, now: Timestamp) -> String {
    let mut table = plain(
        &[
            "CLIENT",
            "INTERFACE",
            "SERVER",
            "V",
            "ST",
            "SESSIONS",
            "LOST",
            "LATENCY",
            "SERVER TIME",
            "CLOCK",
            "AHEAD",
            "LAST SEEN",
        ],
        width,
    );
    for client in clients {
        table.add_row([
            shown(&client.client_ip),
            shown(&client.interface_name),
            shown(&client.server_ip),
            client.ntp_version.to_string(),
            client.stratum.to_string(),
            client.session_count.to_string(),
            client.unanswered.to_string(),
            maybe(client.client_to_server_latency_seconds),
            maybe(client.server_processing_time_seconds),
            shown(&client.client_clock),
            maybe(client.client_clock_error_seconds),
            ago(client.last_seen_timestamp, now),
        ]);
    }
    right(&mut table, &[3, 4, 5, 6, 7, 8, 10]);
    table.trim_fmt()
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::{
        cli::{Arguments, Command},
        history::{
            client::ClientRecord,
            key::Key,
            made::{BEGIN, address, ask},
        },
    };

    fn parsed(arguments: &[&str]) -> Clients {
        let all = ["ntpmon", "clients"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Clients(clients) => clients,
            other => unreachable!("{other:?}"),
        }
    }

    pub(in crate::cli::history) fn client(number: u32, interface: &str) -> Client {
        let exchange = ask(number, BEGIN).exchange();
        let record = ClientRecord::new(&exchange, BEGIN, BEGIN);
        Client::new(&Key::new(address(number), 0), interface, &record)
    }

    #[test]
    fn what_is_asked_is_what_was_given() {
        assert_eq!(
            parsed(&[]).parameters(),
            [
                ("sort", "last_seen".to_owned()),
                ("order", "desc".to_owned()),
                ("page", "1".to_owned()),
                ("page_size", "20".to_owned()),
            ]
        );
        let clients = parsed(&[
            "--search",
            "192.0.2.0/24",
            "--interface",
            "eth0",
            "--interface",
            "eth1",
            "--ntp-version",
            "4",
            "--stratum",
            "16",
            "--clock",
            "randomised",
            "--clock-error",
            "0.05",
            "--since",
            "2026-11-21T08:00:00Z",
            "--sort",
            "session_count",
            "--order",
            "asc",
            "--page",
            "3",
            "--page-size",
            "1000",
        ]);
        let query: Vec<String> = clients
            .parameters()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            query.join("&"),
            "search_ip=192.0.2.0/24&interface_names=eth0,eth1&version=4&stratum=16&\
             client_clock=randomised&clock_error_at_least_seconds=0.05&since=2026-11-21T08:00:00Z&sort=session_count&order=asc&\
             page=3&page_size=1000"
        );
        assert_eq!(
            serde_json::to_value(&clients.filters).unwrap(),
            json!({
                "search_ip": "192.0.2.0/24", "interface_names": ["eth0", "eth1"], "version": 4,
                "stratum": 16, "client_clock": "randomised",
                "clock_error_at_least_seconds": 0.05, "since": "2026-11-21T08:00:00Z",
            })
        );
        assert_eq!(parsed(&["--limit", "7"]).page_size, 7);
        for wrong in [
            ["--page", "0"],
            ["--page-size", "1001"],
            ["--ntp-version", "8"],
            ["--since", "soon"],
            ["--sort", "colour"],
        ] {
            let all = ["ntpmon", "clients"].iter().chain(&wrong);
            assert!(Arguments::try_parse_from(all).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_table_has_what_an_operator_wants_and_no_control_characters() {
        let mut page = Page {
            data: vec![client(1, "eth0"), client(2, "\x1b[31m")],
            pagination: Pagination {
                total: 45,
                total_pages: 3,
            },
        };
        let now: Timestamp = page.data[0].last_seen_timestamp + jiff::SignedDuration::from_secs(3);
        let clients = parsed(&["--page", "2"]);
        let text = clients.table(&page, None, now);
        assert!(!text.contains('\x1b'), "{text}");
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines[1],
            "0.0.0.1 eth0 10.0.0.1 4 2 1 0 50.0 µs 50.0 µs unknown - 3 s ago"
        );
        assert!(lines[2].contains("\\u{1b}[31m"), "{text}");
        assert_eq!(lines[4], "page 2 of 3, 45 clients in all");
        let narrow = clients.table(&page, Some(80), now);
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 80),
            "{narrow}"
        );
        page.data.clear();
        assert!(clients.table(&page, None, now).contains("no page 2: 45"));
        page.pagination.total = 0;
        assert!(clients.table(&page, None, now).contains("no client"));
    }
}
