//! The commands that ask a running daemon what it remembers, and what they share: the filters, and
//! how times and durations are shown to people.

pub(super) mod alerts;
pub(super) mod checks;
pub(super) mod clients;
pub(super) mod events;
pub(super) mod export;
pub(super) mod one_client;
pub(super) mod servers;
pub(super) mod statistics;

use std::io::{self, IsTerminal, Write};

use anyhow::{Result, anyhow};
use comfy_table::{CellAlignment, Table};
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    client::{Answer, written},
    interfaces::width,
};
use crate::output::printable;

/// Where the API has what is remembered.
const PATH: &str = "/api/ntp/history";

/// Which clients. All that is given has to be so.
#[derive(Debug, Default, clap::Args, Serialize)]
pub(super) struct Filters {
    /// An address, a network as 192.0.2.0/24, or the beginning of an address as 192.0.2.
    #[arg(long = "search", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    search_ip: Option<String>,
    /// Seen on this interface; may be given several times
    #[arg(long = "interface", value_name = "NIC")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interface_names: Vec<String>,
    /// The version of NTP in its last packet
    #[arg(id = "ntp_version", long = "ntp-version", value_name = "N", value_parser = clap::value_parser!(u8).range(..8))]
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u8>,
    /// The stratum in its last answer
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stratum: Option<u8>,
    /// What is known of its clock
    #[arg(long = "clock", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    client_clock: Option<Clock>,
    /// Its clock is known to be wrong by so much at least, ahead or behind
    #[arg(long = "clock-error", value_name = "SECONDS", value_parser = parse_seconds)]
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_error_at_least_seconds: Option<f64>,
    /// Seen last then or later: 2026-11-21T08:00:00Z, or how long ago, as 90min or 2d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Seen last then or before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Clock {
    /// It writes the time into its requests
    Honest,
    /// It writes random numbers, to say nothing about itself
    Randomised,
    /// Too little is known
    Unknown,
}

impl Filters {
    /// As parameters of a query.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let clock = self.client_clock.as_ref().map(word);
        let number = |number: Option<u8>| number.map(|number| number.to_string());
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        let interfaces = Some(self.interface_names.join(",")).filter(|names| !names.is_empty());
        [
            ("search_ip", self.search_ip.clone()),
            ("interface_names", interfaces),
            ("version", number(self.version)),
            ("stratum", number(self.stratum)),
            ("client_clock", clock),
            (
                "clock_error_at_least_seconds",
                self.clock_error_at_least_seconds.map(|it| it.to_string()),
            ),
            ("since", time(self.since)),
            ("until", time(self.until)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Which part of a list an answer is.
#[derive(Debug, Deserialize)]
struct Pagination {
    total: u64,
    total_pages: u64,
}

impl Pagination {
    /// A line under a page, where there are others; `what` is what there are so many of.
    fn line(&self, page: u64, what: &str) -> String {
        if self.total_pages <= 1 {
            return String::new();
        }
        let Self { total, total_pages } = self;
        format!("\npage {page} of {total_pages}, {total} {what} in all\n")
    }
}

/// The word for a choice on the command line, which is the API's too.
fn word(choice: &impl clap::ValueEnum) -> String {
    choice
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A number of seconds that is not negative.
fn parse_seconds(text: &str) -> Result<f64> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| anyhow!("expected seconds, as 0.05"))
}

/// A time, or how long ago it was.
fn parse_time(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = text
        .parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .ok()
        .filter(|ago| !ago.is_negative());
    ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .ok_or_else(|| anyhow!("expected a time as 2026-11-21T08:00:00Z, or an age as 90min or 2d"))
}

/// Seconds in a unit that fits, with three digits.
pub(in crate::cli) fn duration(seconds: f64) -> String {
    let size = seconds.abs();
    let (value, unit) = match size {
        _ if size == 0.0 => return "0".to_owned(),
        _ if size < 999.5e-9 => (seconds * 1e9, "ns"),
        _ if size < 999.5e-6 => (seconds * 1e6, "µs"),
        _ if size < 0.9995 => (seconds * 1e3, "ms"),
        _ if size < 999.5 => (seconds, "s"),
        _ => return whole(seconds),
    };
    let digits = match value.abs() {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Many seconds, without a fraction.
fn whole(seconds: f64) -> String {
    let size = seconds.abs();
    let (value, unit) = match size {
        _ if size < 59.5 => (seconds, "s"),
        _ if size < 59.5 * 60.0 => (seconds / 60.0, "min"),
        _ if size < 47.5 * 3600.0 => (seconds / 3600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    format!("{value:.0} {unit}")
}

/// As [`duration`], where it is known.
pub(in crate::cli) fn maybe(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), duration)
}

/// How long ago a time was. Clocks of two hosts may differ by a little.
fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs_f64();
    if seconds < -1.0 {
        format!("in {}", whole(-seconds))
    } else if seconds < 0.5 {
        "now".to_owned()
    } else {
        format!("{} ago", whole(seconds))
    }
}

/// What came from elsewhere, for a terminal.
pub(in crate::cli) fn shown(text: &str) -> String {
    printable(text).into_owned()
}

/// Puts numbers under each other.
pub(in crate::cli) fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Names with values, a line each.
fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let longest = pairs.iter().map(|(name, _)| name.chars().count()).max();
    let longest = longest.unwrap_or_default();
    pairs
        .iter()
        .map(|(name, value)| format!("{name:longest$}  {value}\n"))
        .collect()
}

/// Standard output. A terminal gets no control characters but ends of lines: what is printed may
/// hold names that others chose.
struct Output<W> {
    out: W,
    terminal: bool,
    /// The first byte of what may be a control character of two.
    pending: bool,
}

impl Output<io::StdoutLock<'static>> {
    fn stdout() -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        Self {
            out: out.lock(),
            terminal,
            pending: false,
        }
    }

    /// What the daemon answered, as it is, and a line's end.
    fn copy(mut self, answer: Answer) -> Result<()> {
        answer.copy_to(&mut self)?;
        self.print("\n")
    }

    fn print(mut self, text: &str) -> Result<()> {
        self.go_on(text)
    }

    /// Prints what more will follow on.
    fn go_on(&mut self, text: &str) -> Result<()> {
        written(self.write_all(text.as_bytes()).and_then(|()| self.flush()))
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Begins U+0080 to U+00BF, the first half of which are control characters.
        const FIRST: u8 = 0xc2;
        if !self.terminal {
            return self.out.write(bytes);
        }
        let mut safe = Vec::with_capacity(bytes.len());
        for byte in bytes {
            let second = std::mem::take(&mut self.pending);
            match byte {
                0x80..=0x9f if second => safe.push(b'?'),
                _ if second => safe.extend([FIRST, *byte]),
                &FIRST => self.pending = true,
                b'\n' => safe.push(b'\n'),
                0..=0x1f | 0x7f => safe.push(b'?'),
                _ => safe.push(*byte),
            }
        }
        self.out.write_all(&safe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_that_fit() {
        for (seconds, text) in [
            (0.0, "0"),
            (1e-9, "1.00 ns"),
            (0.000_050_176, "50.2 µs"),
            (-0.000_050_176, "-50.2 µs"),
            (0.000_999_7, "1.00 ms"),
            (0.1234, "123 ms"),
            (0.9999, "1.00 s"),
            (59.0, "59.0 s"),
            (3600.0 * 5.0, "5 h"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        assert_eq!(maybe(None), "-");
    }

    #[test]
    fn times_are_told_by_their_age() {
        let now: Timestamp = "2026-11-21T08:00:00Z".parse().unwrap();
        for (time, text) in [
            ("2026-11-21T08:00:00.2Z", "now"),
            ("2026-11-21T08:00:10Z", "in 10 s"),
            ("2026-11-21T07:59:57Z", "3 s ago"),
            ("2026-11-21T07:30:00Z", "30 min ago"),
            ("2026-11-20T08:00:00Z", "24 h ago"),
            ("2026-11-01T08:00:00Z", "20 d ago"),
        ] {
            assert_eq!(ago(time.parse().unwrap(), now), text);
        }
    }

    #[test]
    fn a_time_may_be_given_by_its_age() {
        let given = "2026-11-21T08:00:00Z";
        assert_eq!(parse_time(given).unwrap().to_string(), given);
        for (age, seconds) in [("90min", 5400.0), ("2d", 172_800.0), ("1h 30m", 5400.0)] {
            let found = Timestamp::now().duration_since(parse_time(age).unwrap());
            let difference = found.as_secs_f64() - seconds;
            assert!(difference.abs() < 60.0, "{age}: {found:?}");
        }
        for wrong in ["", "yesterday", "-2d", "5", "2026-13-01T00:00:00Z"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let text = "a\x1b[31m\u{9b}é\u{a9}\r\n\x7f\u{100}";
        for (terminal, expected) in [(true, "a?[31m?é\u{a9}?\n?\u{100}"), (false, text)] {
            // However it is cut.
            for cut in 1..text.len() {
                let mut output = Output {
                    out: Vec::new(),
                    terminal,
                    pending: false,
                };
                for part in text.as_bytes().chunks(cut) {
                    output.write_all(part).unwrap();
                }
                assert_eq!(String::from_utf8(output.out).unwrap(), expected);
            }
        }
    }
}
