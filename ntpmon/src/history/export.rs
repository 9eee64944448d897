//! Writes clients out, all of them or the picked ones, in formats that other programs read. Only a
//! part is in memory at any time. Rows are written straight from the records: to make the view of
//! each of a million clients first would take longer than the rest. What they hold is what
//! [`super::view::Client`] shows, in the same order and under the same names.

mod parquet;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    io::{self, Write},
    net::IpAddr,
    str::FromStr,
};

use jiff::fmt::temporal::DateTimePrinter;
use serde_json::Value;

use super::{
    History,
    catalogue::Filter,
    client::ClientRecord,
    key::Key,
    query::QueryError,
    view::{Client, Packet, Spread, seconds, time},
};
use crate::ntp;

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One object: `{"success": true, "data": [a client, …], "count": how many}`.
    #[default]
    Json,
    /// The names in the first line, a client a line.
    Csv,
    /// A client a line, each an object.
    Ndjson,
    /// A table of Apache Parquet.
    Parquet,
}

impl Format {
    /// Each there is.
    pub const EACH: [Self; 4] = [Self::Json, Self::Csv, Self::Ndjson, Self::Parquet];

    /// As people name it, and as files are named.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut each = Self::EACH.into_iter();
        each.find(|format| format.name() == text)
            .ok_or_else(|| "it has to be json, csv, ndjson or parquet".to_owned())
    }
}

/// Why an export ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The history cannot be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// What was to be written was not taken.
    #[error("writing the export: {0}")]
    Write(#[from] io::Error),
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// A whole number of so many bits.
    Whole {
        bits: u8,
        signed: bool,
    },
    Float,
    Time,
    /// Versions of NTP.
    Versions,
}

/// A column of an export.
#[derive(Clone, Copy, Debug)]
struct Column {
    name: &'static str,
    kind: Kind,
    nullable: bool,
}

const fn always(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        nullable: false,
    }
}

const fn maybe(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        nullable: true,
    }
}

const fn unsigned(bits: u8) -> Kind {
    Kind::Whole {
        bits,
        signed: false,
    }
}

const I8: Kind = Kind::Whole {
    bits: 8,
    signed: true,
};

/// As the fields of [`super::view::Client`]; a test holds them against it.
const COLUMNS: [Column; 47] = [
    always("client_ip", Kind::Text),
    always("client_port", unsigned(16)),
    always("server_ip", Kind::Text),
    always("server_port", unsigned(16)),
    always("interface_name", Kind::Text),
    always("ntp_version", unsigned(8)),
    always("stratum", unsigned(8)),
    always("precision", I8),
    always("root_delay", Kind::Float),
    always("root_dispersion", Kind::Float),
    maybe("reference_id", Kind::Text),
    always("leap_indicator", unsigned(8)),
    always("poll_interval", I8),
    maybe("reference_timestamp", Kind::Float),
    maybe("originate_timestamp", Kind::Float),
    maybe("receive_timestamp", Kind::Float),
    maybe("transmit_timestamp", Kind::Float),
    maybe("client_to_server_latency_seconds", Kind::Float),
    maybe("server_processing_time_seconds", Kind::Float),
    maybe("total_process_time_seconds", Kind::Float),
    always("packet_length", unsigned(16)),
    always("session_timestamp", Kind::Time),
    always("first_seen_timestamp", Kind::Time),
    always("last_seen_timestamp", Kind::Time),
    always("session_count", unsigned(64)),
    always("created_at", Kind::Time),
    always("updated_at", Kind::Time),
    always("requests", unsigned(64)),
    always("unanswered", unsigned(64)),
    always("duplicates", unsigned(32)),
    always("kiss_of_death", unsigned(32)),
    maybe("request_rate_per_second", Kind::Float),
    always("versions_seen", Kind::Versions),
    always("client_clock", Kind::Text),
    maybe("client_clock_error_seconds", Kind::Float),
    maybe("client_clock_error_bound_seconds", Kind::Float),
    maybe("client_clock_drift_ppm", Kind::Float),
    maybe("role", Kind::Text),
    maybe("client_to_server_latency_min_seconds", Kind::Float),
    maybe("client_to_server_latency_median_seconds", Kind::Float),
    maybe("client_to_server_latency_p99_seconds", Kind::Float),
    maybe("server_processing_time_min_seconds", Kind::Float),
    maybe("server_processing_time_median_seconds", Kind::Float),
    maybe("server_processing_time_p99_seconds", Kind::Float),
    maybe("total_process_time_min_seconds", Kind::Float),
    maybe("total_process_time_median_seconds", Kind::Float),
    maybe("total_process_time_p99_seconds", Kind::Float),
];

/// What stands in a column of a row.
#[derive(Clone, Debug)]
enum Cell<'a> {
    Null,
    Text(&'a str),
    Made(String),
    Address(IpAddr),
    Unsigned(u64),
    Signed(i8),
    Float(f64),
    /// In nanoseconds since 1970.
    Time(i64),
    /// Bit n: version n.
    Versions(u8),
}

impl<'a> Cell<'a> {
    fn float(value: Option<f64>) -> Self {
        value.map_or(Self::Null, Self::Float)
    }
}

/// The cells of a client, one a column.
fn row<'a>(key: &Key, interface: &'a str, record: &ClientRecord) -> [Cell<'a>; COLUMNS.len()] {
    let ntp = record.ntp();
    let packet = Packet::new(&ntp, record.session());
    let [latency, processing, total] =
        [&record.latency, &record.processing, &record.total].map(Spread::new);
    let versions = record.versions().fold(0, |all, version| all | 1 << version);
    let float = Cell::float;
    [
        Cell::Address(key.ip()),
        Cell::Unsigned(record.client_port().into()),
        Cell::Address(Key::new(record.server(), 0).ip()),
        Cell::Unsigned(record.server_port().into()),
        Cell::Text(interface),
        Cell::Unsigned(ntp.version().into()),
        Cell::Unsigned(ntp.stratum().into()),
        Cell::Signed(ntp.precision()),
        Cell::Float(packet.root_delay),
        Cell::Float(packet.root_dispersion),
        ntp::reference_id(&ntp).map_or(Cell::Null, Cell::Made),
        Cell::Unsigned(ntp.leap_indicator().into()),
        Cell::Signed(ntp.poll()),
        float(packet.reference),
        float(packet.originate),
        float(packet.receive),
        float(packet.transmit),
        float(latency.last),
        float(processing.last),
        float(total.last),
        Cell::Unsigned(record.packet_length().into()),
        Cell::Time(record.session()),
        Cell::Time(record.first_seen()),
        Cell::Time(record.last_seen()),
        Cell::Unsigned(record.sessions()),
        Cell::Time(record.created()),
        Cell::Time(record.updated()),
        Cell::Unsigned(record.sessions() + u64::from(record.duplicates())),
        Cell::Unsigned(record.unanswered()),
        Cell::Unsigned(record.duplicates().into()),
        Cell::Unsigned(record.kisses().into()),
        float(record.request_rate()),
        Cell::Versions(versions),
        Cell::Text(record.clock().name()),
        float(record.clock_error().map(seconds)),
        float(record.clock_error_bound().map(f64::from)),
        float(record.clock_drift().map(f64::from)),
        record
            .role()
            .map_or(Cell::Null, |role| Cell::Text(role.name())),
        float(latency.minimum),
        float(latency.median),
        float(latency.p99),
        float(processing.minimum),
        float(processing.median),
        float(processing.p99),
        float(total.minimum),
        float(total.median),
        float(total.p99),
    ]
}

/// Writes a time as it is written everywhere.
fn write_time(out: &mut Vec<u8>, nanoseconds: i64) -> io::Result<()> {
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    PRINTER
        .print_timestamp(&time(nanoseconds), out)
        .map_err(io::Error::other)
}

/// Versions with something between them.
fn write_versions(out: &mut Vec<u8>, versions: u8, between: u8) {
    let mut first = true;
    for version in 0..8 {
        if versions & (1 << version) != 0 {
            if !std::mem::take(&mut first) {
                out.push(between);
            }
            out.push(b'0' + version);
        }
    }
}

/// A client in JSON.
fn write_object(out: &mut Vec<u8>, row: &[Cell<'_>; COLUMNS.len()]) -> io::Result<()> {
    let mut separator = b'{';
    for (column, cell) in COLUMNS.iter().zip(row) {
        out.extend([separator, b'"']);
        separator = b',';
        out.extend(column.name.as_bytes());
        out.extend(b"\":");
        match cell {
            Cell::Null => out.extend(b"null"),
            Cell::Text(text) => serde_json::to_writer(&mut *out, text)?,
            Cell::Made(text) => serde_json::to_writer(&mut *out, text)?,
            Cell::Address(ip) => write!(out, "\"{ip}\"")?,
            Cell::Unsigned(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Signed(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Float(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Time(nanoseconds) => {
                out.push(b'"');
                write_time(out, *nanoseconds)?;
                out.push(b'"');
            }
            Cell::Versions(versions) => {
                out.push(b'[');
                write_versions(out, *versions, b',');
                out.push(b']');
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// A client as a line of CSV.
fn write_line(out: &mut Vec<u8>, row: &[Cell<'_>; COLUMNS.len()]) -> io::Result<()> {
    let mut first = true;
    for cell in row {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match cell {
            Cell::Null => {}
            Cell::Text(text) => write_quoted(out, text),
            Cell::Made(text) => write_quoted(out, text),
            Cell::Address(ip) => write!(out, "{ip}")?,
            Cell::Unsigned(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Signed(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Float(number) => serde_json::to_writer(&mut *out, number)?,
            Cell::Time(nanoseconds) => write_time(out, *nanoseconds)?,
            Cell::Versions(versions) => write_versions(out, *versions, b' '),
        }
    }
    out.push(b'\n');
    Ok(())
}

/// Names of interfaces and reference ids may hold what ends a field.
fn write_quoted(out: &mut Vec<u8>, text: &str) {
    if !text.contains([',', '"', '\n', '\r']) {
        return out.extend(text.as_bytes());
    }
    out.push(b'"');
    out.extend(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// The first line of CSV.
#[must_use]
pub fn csv_names() -> String {
    COLUMNS.map(|column| column.name).join(",") + "\n"
}

/// A client that is there as its view, as a line of CSV.
///
/// # Errors
/// When it is no object of fields, which it always is.
pub fn write_csv(out: &mut Vec<u8>, client: &Client) -> io::Result<()> {
    let fields = serde_json::to_value(client)?;
    let mut first = true;
    for column in COLUMNS {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match &fields[column.name] {
            Value::Null => {}
            Value::String(text) => write_quoted(out, text),
            Value::Array(versions) => {
                let texts: Vec<_> = versions.iter().map(Value::to_string).collect();
                out.extend(texts.join(" ").as_bytes());
            }
            value => serde_json::to_writer(&mut *out, value)?,
        }
    }
    out.push(b'\n');
    Ok(())
}

impl History {
    /// Writes the picked clients, at most so many, in the order of their addresses. Returns how
    /// many there were. What is written is whole only when this succeeds.
    ///
    /// # Errors
    /// When the history cannot be read, or `out` takes no more.
    pub fn export(
        &self,
        filter: &Filter,
        limit: u64,
        format: Format,
        out: impl Write + Send,
    ) -> Result<u64, ExportError> {
        match format {
            Format::Json => self.export_json(filter, limit, out),
            Format::Csv => self.export_lines(filter, limit, out, csv_names(), write_line),
            Format::Ndjson => self.export_lines(filter, limit, out, String::new(), |out, row| {
                write_object(out, row)?;
                out.push(b'\n');
                Ok(())
            }),
            Format::Parquet => self.export_parquet(filter, limit, out),
        }
    }

    fn export_json(
        &self,
        filter: &Filter,
        limit: u64,
        mut out: impl Write + Send,
    ) -> Result<u64, ExportError> {
        let mut separator: &[u8] = b"";
        let begin = "{\"success\":true,\"data\":[".to_owned();
        let count = self.export_lines(filter, limit, &mut out, begin, |out, row| {
            out.extend(std::mem::replace(&mut separator, b","));
            write_object(out, row)
        })?;
        write!(out, "],\"count\":{count}}}")?;
        out.flush()?;
        Ok(count)
    }

    /// What is written row by row, after something.
    fn export_lines(
        &self,
        filter: &Filter,
        limit: u64,
        mut out: impl Write + Send,
        begin: String,
        mut write: impl FnMut(&mut Vec<u8>, &[Cell<'_>; COLUMNS.len()]) -> io::Result<()>,
    ) -> Result<u64, ExportError> {
        let mut buffer = begin.into_bytes();
        let count = self.export_rows(filter, limit, |rows| {
            for (key, interface, record) in rows {
                write(&mut buffer, &row(key, interface, record))?;
            }
            out.write_all(&buffer)?;
            buffer.clear();
            Ok(())
        })?;
        out.write_all(&buffer)?;
        out.flush()?;
        Ok(count)
    }

    /// Hands over the clients in parts, until one of them cannot be written.
    fn export_rows(
        &self,
        filter: &Filter,
        limit: u64,
        mut write: impl FnMut(&[(Key, &str, ClientRecord)]) -> io::Result<()>,
    ) -> Result<u64, ExportError> {
        let mut count = 0;
        let mut written = Ok(());
        self.each_record(filter, limit, |rows| {
            written = write(rows);
            count += rows.len() as u64;
            written.is_ok()
        })?;
        written?;
        Ok(count)
    }
}
