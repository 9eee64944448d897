//! Exchanges as text: one list of named fields drives NDJSON and CSV, the table shows the few
//! that an operator reads.

mod ptp;

use std::{
    borrow::Cow,
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
};

use anstyle::{AnsiColor, Style};
use ntpmon_common::{Event, Span, Timestamp};

use crate::ntp::{
    self, ClientClock, Stamped,
    exchange::{Exchange, Timings},
};

/// How exchanges are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// A JSON object a line
    Ndjson,
    /// Comma-separated values with a header
    Csv,
}

/// What a field can be.
enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// Printed as seconds.
    Nanoseconds(i64),
    Text(&'a str),
    Address([u8; 16]),
    /// Nanoseconds since 1970, printed as RFC 3339.
    Time(i64),
}

impl Value<'_> {
    fn or_null<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, make)
    }

    fn span(value: Option<Span>) -> Self {
        Self::or_null(value, |span| Self::Nanoseconds(span.nanoseconds()))
    }

    /// Without quotes; nothing for null.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match *self {
            Self::Null => Ok(()),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Integer(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Nanoseconds(value) => write_seconds(out, value, 9),
            Self::Text(text) => out.write_all(text.as_bytes()),
            Self::Address(bytes) => write!(out, "{}", ip(&bytes)),
            Self::Time(nanoseconds) => {
                match jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)) {
                    Ok(time) => write!(out, "{time:.9}"),
                    Err(error) => Err(io::Error::other(error)),
                }
            }
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Null => out.write_all(b"null"),
            Self::Text(text) => Ok(serde_json::to_writer(out, text)?),
            Self::Address(_) | Self::Time(_) => {
                out.write_all(b"\"")?;
                self.write(out)?;
                out.write_all(b"\"")
            }
            _ => self.write(out),
        }
    }
}

/// The address as people write it.
pub(crate) fn ip(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).to_canonical()
}

fn write_seconds(out: &mut impl Write, nanoseconds: i64, digits: usize) -> io::Result<()> {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let value = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (value / 1_000_000_000, value % 1_000_000_000);
    let fraction = fraction / 10_u64.pow(9 - digits as u32);
    write!(out, "{sign}{seconds}.{fraction:0digits$}")
}

/// A packet's timestamp as Unix time, in the era nearest to when it was seen.
fn unix(stamp: Timestamp, seen: i64) -> Value<'static> {
    if stamp.is_zero() {
        Value::Null
    } else {
        Value::Nanoseconds(stamp.unix_nanoseconds_near(seen))
    }
}

/// Stamps in packets that were captured at no known time are put nearest to this, the year 2033:
/// anything from 1965 to 2101 is told right.
const ANY_TIME: i64 = 2_000_000_000 * 1_000_000_000;

/// Every field of an exchange, in the order of the documentation. Frames have numbers only in
/// files.
fn fields(
    exchange: &Exchange,
    interface: Option<&str>,
    frames: bool,
    mut field: impl FnMut(&'static str, Value<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let request = &exchange.request;
    let asked: &Event = &request.event;
    let described: &Stamped = exchange.described_by();
    let event = &described.event;
    let ntp = &event.ntp;
    let seen = request.captured().unwrap_or(ANY_TIME);
    let is_v5 = ntp.version() == 5;
    let reference_id = ntp::reference_id(ntp);
    let kiss = exchange.kiss_code();
    let kiss = kiss.as_ref().map(|code| {
        String::from_utf8_lossy(code)
            .trim_end_matches('\0')
            .to_owned()
    });
    let timings = &exchange.timings;

    field("client_ip", Value::Address(asked.source))?;
    field("client_port", Value::Integer(asked.source_port.into()))?;
    field("server_ip", Value::Address(asked.destination))?;
    field("server_port", Value::Integer(asked.destination_port.into()))?;
    field("interface_name", Value::or_null(interface, Value::Text))?;
    field("ntp_version", Value::Integer(ntp.version().into()))?;
    field("mode", Value::Integer(ntp.mode() as i64))?;
    field(
        "leap_indicator",
        Value::Integer(ntp.leap_indicator().into()),
    )?;
    field("stratum", Value::Integer(ntp.stratum().into()))?;
    field("poll_interval", Value::Integer(ntp.poll().into()))?;
    field("precision", Value::Integer(ntp.precision().into()))?;
    let (root_delay, root_dispersion) = ntp::root_seconds(ntp);
    field("root_delay", Value::Float(root_delay))?;
    field("root_dispersion", Value::Float(root_dispersion))?;
    field(
        "reference_id",
        Value::or_null(reference_id.as_deref(), Value::Text),
    )?;
    // Version 5 has cookies where these two were.
    let (reference, origin) = if is_v5 {
        (Value::Null, Value::Null)
    } else {
        (unix(ntp.reference(), seen), unix(ntp.origin(), seen))
    };
    field("reference_timestamp", reference)?;
    field("originate_timestamp", origin)?;
    field("receive_timestamp", unix(ntp.receive(), seen))?;
    field("transmit_timestamp", unix(ntp.transmit(), seen))?;
    field("packet_length", Value::Integer(event.payload_length.into()))?;
    field(
        "session_timestamp",
        Value::or_null(request.captured(), Value::Time),
    )?;
    field("answered", Value::Bool(exchange.response.is_some()))?;
    field(
        "client_to_server_latency_seconds",
        Value::span(timings.client_to_server_latency),
    )?;
    field(
        "server_processing_time_seconds",
        Value::span(timings.server_processing_time),
    )?;
    field(
        "total_process_time_seconds",
        Value::or_null(timings.total_process_time, |time| {
            Value::Nanoseconds(time.cast_signed())
        }),
    )?;
    field("offset_seconds", Value::span(timings.offset))?;
    field("delay_seconds", Value::span(timings.delay))?;
    field("client_clock", Value::Text(exchange.client_clock.name()))?;
    field(
        "role",
        Value::or_null(exchange.role, |role| Value::Text(role.name())),
    )?;
    field("kiss_code", Value::or_null(kiss.as_deref(), Value::Text))?;
    field(
        "authentication",
        Value::Text(exchange.authentication().name()),
    )?;
    field("interleaved", Value::Bool(exchange.interleaved))?;
    field("duplicates", Value::Integer(exchange.duplicates.into()))?;
    if frames {
        field("request_frame", Value::Integer(request.frame.cast_signed()))?;
        let response = exchange.response.as_ref();
        field(
            "response_frame",
            Value::or_null(response, |packet| {
                Value::Integer(packet.frame.cast_signed())
            }),
        )?;
    }
    Ok(())
}

/// An exchange as one line of NDJSON.
pub(crate) fn write_ndjson(
    out: &mut impl Write,
    exchange: &Exchange,
    interface: Option<&str>,
    frames: bool,
) -> io::Result<()> {
    let mut separator = b'{';
    fields(exchange, interface, frames, |name, value| {
        out.write_all(&[separator, b'"'])?;
        separator = b',';
        out.write_all(name.as_bytes())?;
        out.write_all(b"\":")?;
        value.write_json(out)
    })?;
    out.write_all(b"}\n")
}

/// An exchange to ask for the names of the fields.
const NOTHING: Exchange = Exchange {
    sequence: 0,
    request: Stamped {
        event: Event::EMPTY,
        unix: Stamped::NO_TIME,
        frame: 0,
    },
    response: None,
    interleaved: false,
    duplicates: 0,
    client_clock: ClientClock::Unknown,
    client_error: None,
    role: None,
    is_local_server: false,
    timings: Timings {
        client_to_server_latency: None,
        server_processing_time: None,
        total_process_time: None,
        offset: None,
        delay: None,
        of_request_at: None,
    },
};

/// Writes exchanges in one of the formats.
pub(crate) struct Printer<W> {
    out: W,
    format: Format,
    /// Whether exchanges come from files.
    frames: bool,
    colour: bool,
    /// Repeated after this many lines on a terminal; never elsewhere.
    header_every: Option<u64>,
    /// CSV's names are written.
    begun: bool,
    lines: u64,
    lines_since_header: u64,
    widths: Widths,
}

/// How times are written in a table, and in how many characters: live ones are of today.
const TIME: (&str, usize) = ("%H:%M:%S%.6f", 15);
const DATE_AND_TIME: (&str, usize) = ("%Y-%m-%d %H:%M:%S%.6f", 26);

/// Columns that are as wide as what they held so far: room for the longest addresses from the
/// start would push the rest off most screens.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Widths {
    time: usize,
    interface: usize,
    client: usize,
    server: usize,
}

impl Widths {
    /// The names of Linux's interfaces have 15 bytes; files can have longer ones.
    const INTERFACE_BOUND: usize = 15;

    const fn new(time: usize) -> Self {
        const IPV4_WITH_PORT: usize = "255.255.255.255:65535".len();
        Self {
            time,
            interface: "NIC".len(),
            client: IPV4_WITH_PORT,
            server: IPV4_WITH_PORT,
        }
    }

    fn hold(self, interface: &str, client: &str, server: &str) -> Self {
        let interface = interface.chars().count().min(Self::INTERFACE_BOUND);
        Self {
            time: self.time,
            interface: self.interface.max(interface),
            client: self.client.max(client.len()),
            server: self.server.max(server.len()),
        }
    }
}

impl<W: Write> Printer<W> {
    /// `terminal` decides on colour and on the table's header.
    pub(crate) const fn new(out: W, format: Format, frames: bool, terminal: bool) -> Self {
        Self {
            out,
            format,
            frames,
            colour: terminal,
            header_every: if terminal { Some(40) } else { None },
            begun: false,
            lines: 0,
            lines_since_header: 0,
            widths: Widths::new(if frames { DATE_AND_TIME.1 } else { TIME.1 }),
        }
    }

    /// A person waited for lines, and none came.
    pub(crate) const fn is_empty_table(&self) -> bool {
        matches!(self.format, Format::Table) && self.lines == 0
    }

    pub(crate) fn print(&mut self, exchange: &Exchange, interface: Option<&str>) -> io::Result<()> {
        match self.format {
            Format::Ndjson => self.ndjson(exchange, interface),
            Format::Csv => self.csv(exchange, interface),
            Format::Table => self.table(exchange, interface),
        }?;
        self.lines += 1;
        Ok(())
    }

    /// Writes what is waiting. CSV has its names in the first line also where no other follows.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.format == Format::Csv {
            self.begin_csv()?;
        }
        self.out.flush()
    }

    fn begin_csv(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let mut names = Vec::new();
        fields(&NOTHING, None, self.frames, |name, _| {
            names.push(name);
            Ok(())
        })?;
        writeln!(self.out, "{}", names.join(","))
    }

    fn ndjson(&mut self, exchange: &Exchange, interface: Option<&str>) -> io::Result<()> {
        write_ndjson(&mut self.out, exchange, interface, self.frames)
    }

    fn csv(&mut self, exchange: &Exchange, interface: Option<&str>) -> io::Result<()> {
        self.begin_csv()?;
        let out = &mut self.out;
        let mut first = true;
        fields(exchange, interface, self.frames, |_, value| {
            if !std::mem::take(&mut first) {
                out.write_all(b",")?;
            }
            match value {
                // Interface names may hold anything but a slash and white space.
                Value::Text(text) if text.contains([',', '"', '\n', '\r']) => {
                    write!(out, "\"{}\"", text.replace('"', "\"\""))
                }
                value => value.write(out),
            }
        })?;
        out.write_all(b"\n")
    }

    fn table(&mut self, exchange: &Exchange, interface: Option<&str>) -> io::Result<()> {
        let request = &exchange.request.event;
        let interface = interface.map_or(Cow::Borrowed("-"), printable);
        let client = endpoint(&request.source, request.source_port);
        let server = endpoint(&request.destination, request.destination_port);
        let widths = self.widths.hold(&interface, &client, &server);
        if let Some(every) = self.header_every {
            let due = self.lines == 0 || self.lines_since_header >= every || widths != self.widths;
            if due {
                header(&mut self.out, widths)?;
                self.lines_since_header = 0;
            }
            self.lines_since_header += 1;
        }
        self.widths = widths;

        let described = &exchange.described_by().event.ntp;
        let timings = &exchange.timings;
        let nanoseconds = |span: Option<Span>| span.map(Span::nanoseconds);
        let total = timings.total_process_time.map(u64::cast_signed);
        let (time_format, _) = if self.frames { DATE_AND_TIME } else { TIME };
        let time = match exchange.request.captured() {
            Some(time) => jiff::Timestamp::from_nanosecond(i128::from(time))
                .map_err(io::Error::other)?
                .strftime(time_format)
                .to_string(),
            None => "-".to_owned(),
        };
        let row = row(
            widths,
            [
                &time,
                &interface,
                &client,
                &server,
                &format!("{}/{}", described.version(), described.mode() as u8),
                &described.stratum().to_string(),
                ntp::reference_id(described).as_deref().unwrap_or("-"),
                &duration(nanoseconds(timings.client_to_server_latency)),
                &duration(nanoseconds(timings.server_processing_time)),
                &duration(total),
                &duration(nanoseconds(timings.offset)),
                &notes(exchange),
            ],
        );
        let style = self.style(exchange);
        writeln!(self.out, "{style}{}{style:#}", row.trim_end())
    }

    fn style(&self, exchange: &Exchange) -> Style {
        if !self.colour {
            Style::new()
        } else if exchange.response.is_none() {
            AnsiColor::Yellow.on_default()
        } else if exchange.kiss_code().is_some() {
            AnsiColor::Red.on_default()
        } else {
            Style::new()
        }
    }
}

fn header(out: &mut impl Write, widths: Widths) -> io::Result<()> {
    let style = Style::new().bold();
    let names = [
        "TIME UTC", "NIC", "CLIENT", "SERVER", "V/M", "STR", "REFID", "LATENCY", "SERVICE",
        "TOTAL", "OFFSET", "NOTES",
    ];
    writeln!(out, "{style}{}{style:#}", row(widths, names))
}

fn row(widths: Widths, cells: [&str; 12]) -> String {
    let [
        time,
        nic,
        client,
        server,
        mode,
        stratum,
        reference,
        latency,
        service,
        total,
        offset,
        notes,
    ] = cells;
    let Widths {
        time: time_width,
        interface,
        client: client_width,
        server: server_width,
    } = widths;
    format!(
        "{time:<time_width$} {nic:<interface$} {client:>client_width$} {server:>server_width$} \
         {mode:<4} {stratum:>3} {reference:<15} {latency:>12} {service:>12} {total:>12} \
         {offset:>12} {notes}"
    )
}

/// A capture file can name an interface anything: a terminal gets no control characters from it.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |character: char| {
        if character.is_control() {
            character.escape_default().to_string()
        } else {
            character.to_string()
        }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

fn endpoint(address: &[u8; 16], port: u16) -> String {
    match ip(address) {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// With the unit that leaves three to six digits.
fn duration(nanoseconds: Option<i64>) -> String {
    let Some(nanoseconds) = nanoseconds else {
        return "-".to_owned();
    };
    let magnitude = nanoseconds.unsigned_abs();
    let value = nanoseconds as f64;
    if magnitude < 1_000_000 {
        format!("{:.1}us", value / 1e3)
    } else if magnitude < 1_000_000_000 {
        format!("{:.3}ms", value / 1e6)
    } else {
        format!("{:.3}s", value / 1e9)
    }
}

/// What is out of the ordinary.
fn notes(exchange: &Exchange) -> String {
    let mut notes = Vec::new();
    if exchange.response.is_none() {
        notes.push("no answer".to_owned());
    } else if let Some(code) = exchange.kiss_code() {
        notes.push(format!(
            "kiss {}",
            String::from_utf8_lossy(&code).trim_end_matches('\0')
        ));
    } else if !exchange.is_time_sample() {
        notes.push("unsynchronised".to_owned());
    }
    if exchange.interleaved {
        notes.push("interleaved".to_owned());
    }
    let authentication = exchange.authentication().name();
    if authentication != "none" {
        notes.push(authentication.to_owned());
    }
    if exchange.duplicates > 0 {
        notes.push(format!("sent {} times", exchange.duplicates + 1));
    }
    if let Some(role) = exchange.role {
        notes.push(role.name().to_owned());
    }
    notes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(nanoseconds: i64) -> String {
        let mut text = Vec::new();
        write_seconds(&mut text, nanoseconds, 9).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn small_negative_durations_keep_their_sign() {
        assert_eq!(seconds(-1), "-0.000000001");
        assert_eq!(seconds(-1_500_000_000), "-1.500000000");
        assert_eq!(seconds(1_746_000_000_123_456_789), "1746000000.123456789");
        assert_eq!(seconds(i64::MIN), "-9223372036.854775808");
    }

    #[test]
    fn names_in_files_cannot_steer_a_terminal() {
        assert_eq!(printable("eth0"), "eth0");
        assert_eq!(
            printable("a\u{1b}[31m\nb\u{9b}é"),
            "a\\u{1b}[31m\\nb\\u{9b}é"
        );
    }

    #[test]
    fn columns_grow_with_what_they_hold_and_stay() {
        let long = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535";
        let grown = Widths::new(TIME.1).hold("a name that no interface of Linux has", long, "-");
        assert_eq!((grown.interface, grown.client, grown.server), (15, 46, 21));
        assert!(grown == grown.hold("-", "-", "-"));
    }

    fn printed(format: Format, exchanges: &[Exchange]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, true, false);
        for exchange in exchanges {
            printer.print(exchange, None).unwrap();
        }
        printer.flush().unwrap();
        printer.flush().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_has_its_names_once_however_many_lines_follow() {
        for count in 0..3 {
            let text = printed(Format::Csv, &vec![NOTHING; count]);
            assert_eq!(text.lines().count(), 1 + count);
            assert_eq!(text.matches("client_ip,").count(), 1);
        }
        assert_eq!(printed(Format::Ndjson, &[]), "");
        assert_eq!(printed(Format::Table, &[]), "");
    }

    #[test]
    fn a_packet_without_a_time_is_printed_without_one() {
        let line = printed(Format::Ndjson, &[NOTHING]);
        assert!(line.contains("\"session_timestamp\":null"), "{line}");
        assert!(printed(Format::Table, &[NOTHING]).starts_with("- "));
    }

    #[test]
    fn a_response_that_tells_no_time_is_noted() {
        let mut response = NOTHING.request;
        response.event.ntp.0[0] = 0x24;
        response.event.ntp.0[1] = 2;
        response.event.ntp.0[32..48].fill(1);
        let noted = |change: fn(&mut [u8; 48])| {
            let mut response = response;
            change(&mut response.event.ntp.0);
            notes(&Exchange {
                response: Some(response),
                ..NOTHING
            })
        };
        assert_eq!(noted(|_| {}), "");
        assert_eq!(noted(|ntp| ntp[0] |= 0xc0), "unsynchronised");
        assert_eq!(noted(|ntp| ntp[1] = 16), "unsynchronised");
        assert_eq!(noted(|ntp| ntp[1] = 0), "unsynchronised");
        assert_eq!(noted(|ntp| ntp[32..40].fill(0)), "unsynchronised");
        assert_eq!(noted(|ntp| ntp[40..48].fill(0)), "unsynchronised");
        let kiss = noted(|ntp| {
            ntp[1] = 0;
            ntp[12..16].copy_from_slice(b"RATE");
        });
        assert_eq!(kiss, "kiss RATE");
        assert_eq!(notes(&NOTHING), "no answer");
    }
}
