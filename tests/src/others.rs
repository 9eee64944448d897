//! What other programs print of the packets of a capture: Zeek's `ntp.log`, tcpdump's lines,
//! ipfixprobe's records. They speak of packets where ntpmon speaks of exchanges, so each packet is
//! brought to the fields of an exchange that describe the same thing, by ntpmon's names.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    frames::{Datagram, datagram_of, packet_of},
    ntpmon::Row,
    tcpdump::Capture,
};

/// The seconds between NTP's epoch (1900) and Unix's (1970).
const EPOCH: i128 = 2_208_988_800;
const SECOND: i128 = 1_000_000_000;

/// One packet as another program shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its place in the file, from 1.
    pub frame: u64,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// When it was captured, where that is told.
    pub captured: Option<i128>,
    /// What it says, by the names of ntpmon's fields.
    pub fields: Vec<(&'static str, Is)>,
}

/// What a field has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Is {
    /// This text; null for none.
    Text(Option<String>),
    /// This number, give or take the second one.
    Number(f64, f64),
    /// The logarithm of this number, give or take the second one.
    Logarithm(f64, f64),
    /// This time since 1970 in nanoseconds, give or take the second one; null for none.
    Time(Option<i128>, i128),
}

impl Is {
    fn holds(&self, row: &Row, name: &str) -> bool {
        let near = |one: f64, other: f64, tolerance: f64| (one - other).abs() <= tolerance;
        match self {
            Self::Text(text) => row.text(name) == text.as_deref(),
            Self::Number(number, tolerance) => row
                .number(name)
                .is_some_and(|ours| near(ours, *number, *tolerance)),
            Self::Logarithm(number, tolerance) => row
                .number(name)
                .is_some_and(|ours| near(ours.exp2(), *number, *tolerance)),
            Self::Time(None, _) => row.text(name).is_none(),
            Self::Time(Some(time), tolerance) => row
                .text(name)
                .is_some_and(|ours| (nanoseconds(ours) - time).abs() <= *tolerance),
        }
    }
}

/// Seconds with a fraction, as nanoseconds: a double would not hold them.
///
/// # Panics
/// It is something else.
pub fn nanoseconds(text: &str) -> i128 {
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |it| (true, it));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i128 = whole
        .parse()
        .unwrap_or_else(|_| panic!("{text} is no time"));
    let fraction: i128 = format!("{fraction:0<9}")[..9]
        .parse()
        .unwrap_or_else(|_| panic!("{text} is no time"));
    let value = whole * SECOND + fraction;
    if negative { -value } else { value }
}

/// Holds ntpmon's exchanges against what another program tells of every packet of theirs.
///
/// # Errors
/// The first packet that is told otherwise, or of that ntpmon says nothing.
pub fn compare(rows: &[Row], told: &[Told]) -> Result<()> {
    let number = |row: &Row, name: &str| row.number(name).map(|it| it as u64);
    let mut requests = HashMap::new();
    let mut responses = HashMap::new();
    for row in rows {
        requests.insert(
            number(row, "request_frame").context("no request_frame")?,
            row,
        );
        if let Some(frame) = number(row, "response_frame") {
            responses.insert(frame, row);
        }
    }
    for it in told {
        let what = || format!("packet {}: {it:?}", it.frame);
        let request = requests.get(&it.frame);
        let response = responses.get(&it.frame);
        // A symmetric packet can be both.
        ensure!(
            request.is_some() || response.is_some(),
            "no exchange has {}",
            what()
        );
        for (row, [from, to], asked) in [
            (request, ["client", "server"], true),
            (response, ["server", "client"], false),
        ] {
            let Some(row) = row else {
                continue;
            };
            ensure!(
                end(row, from)? == it.source && end(row, to)? == it.destination,
                "{from} and {to} are others in {}",
                what()
            );
            if let Some(captured) = it.captured {
                check_capture(row, asked, captured).with_context(what)?;
            }
            let describes = !asked || !row.flag("answered");
            for (name, value) in &it.fields {
                if describes {
                    ensure!(
                        value.holds(row, name),
                        "{name} is {:?} and not {value:?} in {}",
                        row.text(name),
                        what()
                    );
                } else if *name == "transmit_timestamp" && !row.flag("interleaved") {
                    // The response says what the request said.
                    ensure!(
                        is_era_apart(value, row, "originate_timestamp")
                            || value.holds(row, "originate_timestamp"),
                        "the response names another request than {}",
                        what()
                    );
                }
            }
        }
    }
    let frames = requests.len() + responses.len();
    let both = requests.keys().filter(|it| responses.contains_key(it));
    ensure!(
        told.len() == frames - both.count(),
        "{} packets are told of, {frames} are in exchanges",
        told.len()
    );
    Ok(())
}

/// Random transmit times can lie in either era: ntpmon takes the one nearer to the capture, others
/// the one that the highest bit says.
fn is_era_apart(value: &Is, row: &Row, name: &str) -> bool {
    let Is::Time(Some(time), tolerance) = value else {
        return false;
    };
    let ours = row.text(name).map(nanoseconds);
    ours.is_some_and(|ours| {
        let apart = (ours - time).abs() - (SECOND << 32);
        apart.abs() <= *tolerance
    })
}

fn check_capture(row: &Row, asked: bool, captured: i128) -> Result<()> {
    let text = row.text("session_timestamp").context("no time")?;
    let mut ours = rfc3339(text)?;
    if !asked {
        let total = row.text("total_process_time_seconds");
        // A response that was captured before its request has none.
        let Some(total) = total else { return Ok(()) };
        ours += nanoseconds(total);
    }
    ensure!(ours == captured, "captured at {ours}, not at {captured}");
    Ok(())
}

fn end(row: &Row, who: &str) -> Result<SocketAddr> {
    let address = row.text(&format!("{who}_ip")).context("no address")?;
    let port = row.text(&format!("{who}_port")).context("no port")?;
    Ok(SocketAddr::new(address.parse()?, port.parse()?))
}

/// A time of day with its date (`2016-04-10T18:54:29.121750`, a space or a Z allowed), in nanoseconds
/// since 1970.
pub fn rfc3339(text: &str) -> Result<i128> {
    let text = text.trim_end_matches('Z');
    let (date, time) = text
        .split_once(['T', ' '])
        .with_context(|| format!("not a time: {text}"))?;
    let numbers = |text: &str, by: char| -> Result<Vec<i128>> {
        text.split(by).map(|it| Ok(it.parse()?)).collect()
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (&[year, month, day], &[hour, minute, second]) =
        (&numbers(date, '-')?[..], &numbers(clock, ':')?[..])
    else {
        bail!("not a time: {text}");
    };
    // Days from civil: years begin in March, so that a leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Ok(seconds * SECOND + nanoseconds(&format!("0.{fraction}")))
}

/// The NTP packets of a capture of Ethernet frames that are no control and no private messages: their
/// places in the file, from 1, and their times.
pub fn time_packets(capture: &Capture) -> Vec<(u64, u64, Datagram<'_>)> {
    let datagram = |bytes| datagram_of(packet_of(bytes)?);
    (1..)
        .zip(&capture.packets)
        .filter_map(|(frame, it)| Some((frame, it.time, datagram(&it.bytes)?)))
        .filter(|(_, _, it)| it.source.port() == 123 || it.destination.port() == 123)
        .filter(|(_, _, it)| it.payload.first().is_some_and(|first| first & 7 < 6))
        .collect()
}

/// Zeek's `ntp.log`: tab-separated, times of capture blanked, one line for each packet of `frames`.
pub fn zeek(text: &str, frames: &[u64]) -> Result<Vec<Told>> {
    const MICROSECOND: f64 = 1e-6;
    let rows = zeek_rows(text)?;
    ensure!(
        rows.len() == frames.len(),
        "{} lines for {} packets",
        rows.len(),
        frames.len()
    );
    let tell = |(row, &frame): (&HashMap<&str, &str>, &u64)| {
        let number = |name: &str| -> Result<f64> { Ok(row[name].parse()?) };
        let time = |name: &str| {
            let time = nanoseconds(row[name]);
            // What is unknown is 0 to Zeek. It prints a double, which has 0.2 us.
            Is::Time((time != 0).then_some(time), 1_000)
        };
        let originator = end_of(row["id.orig_h"], row["id.orig_p"])?;
        let responder = end_of(row["id.resp_h"], row["id.resp_p"])?;
        let (source, destination) = match row["mode"] {
            "1" | "3" => (originator, responder),
            _ => (responder, originator),
        };
        let mut fields = vec![
            ("ntp_version", Is::Number(number("version")?, 0.0)),
            ("mode", Is::Number(number("mode")?, 0.0)),
            ("stratum", Is::Number(number("stratum")?, 0.0)),
            // Seconds to Zeek, the logarithm that is in the packet to ntpmon.
            ("poll_interval", Is::Logarithm(number("poll")?, 0.0)),
            (
                "precision",
                Is::Logarithm(number("precision")?, MICROSECOND),
            ),
            ("root_delay", Is::Number(number("root_delay")?, MICROSECOND)),
            (
                "root_dispersion",
                Is::Number(number("root_disp")?, MICROSECOND),
            ),
            ("reference_timestamp", time("ref_time")),
            ("originate_timestamp", time("org_time")),
            ("receive_timestamp", time("rec_time")),
            ("transmit_timestamp", time("xmt_time")),
        ];
        // Letters that are filled up with zero bytes; nothing else is escaped.
        let reference = row["ref_id"].replace("\\x00", "");
        ensure!(!reference.contains('\\'), "{reference}");
        let reference = (!reference.is_empty()).then_some(reference);
        fields.push(("reference_id", Is::Text(reference)));
        Ok(Told {
            frame,
            source,
            destination,
            captured: None,
            fields,
        })
    };
    rows.iter().zip(frames).map(tell).collect()
}

/// The rows of one of Zeek's logs, by its own names.
pub fn zeek_rows(text: &str) -> Result<Vec<HashMap<&str, &str>>> {
    let names = text
        .lines()
        .find_map(|line| line.strip_prefix("#fields\t"))
        .context("a log of Zeek names its fields")?;
    let names: Vec<_> = names.split('\t').collect();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let values: Vec<_> = line.split('\t').collect();
            ensure!(values.len() == names.len(), "not a row: {line}");
            Ok(names.iter().copied().zip(values).collect())
        })
        .collect()
}

fn end_of(address: &str, port: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse()?, port.parse()?))
}

/// tcpdump's lines, with packet numbers and dates, plain or with `-v` and more.
pub fn tcpdump(text: &str) -> Result<Vec<Told>> {
    let mut told: Vec<Told> = Vec::new();
    let mut start = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let (false, Ok(frame)) = (line.starts_with('\t'), first.parse::<u64>()) {
            let date = words.next().context("no date")?;
            let time = words.next().context("no time")?;
            start = Some((frame, rfc3339(&format!("{date}T{time}"))?));
        }
        if let Some((flow, ntp)) = line.split_once("NTPv") {
            let (frame, captured) = start.take().context("a packet without a number")?;
            told.push(tcpdump_packet(frame, captured, flow, ntp).context(line.to_owned())?);
        } else if let Some(last) = told.last_mut() {
            tcpdump_details(line, &mut last.fields).context(line.to_owned())?;
        }
    }
    Ok(told)
}

fn tcpdump_packet(frame: u64, captured: i128, flow: &str, ntp: &str) -> Result<Told> {
    let (from, to) = flow.split_once(" > ").context("no flow")?;
    let end = |text: Option<&str>| -> Result<SocketAddr> {
        let (address, port) = text.and_then(|it| it.rsplit_once('.')).context("no port")?;
        end_of(address, port)
    };
    let mut parts = ntp.split(", ");
    let version = parts.next().context("no version")?.parse()?;
    let mode = match parts.next() {
        Some("Client") => 3.0,
        Some("Server") => 4.0,
        Some("Control Message") => 6.0,
        Some("Reserved") => 7.0,
        mode => bail!("a mode that is not expected: {mode:?}"),
    };
    let length = parts.next().and_then(|it| it.strip_prefix("length "));
    let length = length.context("no length")?.parse()?;
    Ok(Told {
        frame,
        source: end(from.split_whitespace().last())?,
        destination: end(to.split(": ").next())?,
        captured: Some(captured),
        fields: vec![
            ("ntp_version", Is::Number(version, 0.0)),
            ("mode", Is::Number(mode, 0.0)),
            ("packet_length", Is::Number(length, 0.0)),
        ],
    })
}

/// The lines that -v adds.
fn tcpdump_details(line: &str, fields: &mut Vec<(&'static str, Is)>) -> Result<()> {
    let line = line.trim();
    let after = |name: &str| -> Result<f64> {
        let (_, rest) = line.split_once(name).context(name.to_owned())?;
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        Ok(rest[..end].parse()?)
    };
    if line.starts_with("Leap indicator") && line.contains("Stratum") {
        // In parentheses stand the two bits where they are in the byte.
        let bits = line.split(['(', ')']).nth(1).context("no leap bits")?;
        fields.extend([
            (
                "leap_indicator",
                Is::Number(bits.parse::<f64>()? / 64.0, 0.0),
            ),
            ("stratum", Is::Number(after("Stratum ")?, 0.0)),
            ("poll_interval", Is::Number(after("poll ")?, 0.0)),
            ("precision", Is::Number(after("precision ")?, 0.0)),
        ]);
    } else if line.starts_with("Root Delay") {
        let (_, reference) = line.split_once("Reference-ID: ").context("no reference")?;
        let reference = match (reference, reference.strip_prefix("0x")) {
            ("(unspec)", _) => None,
            (_, Some(number)) => {
                Some(IpAddr::from(u32::from_str_radix(number, 16)?.to_be_bytes()).to_string())
            }
            (letters, None) => Some(letters.to_owned()),
        };
        fields.extend([
            ("root_delay", Is::Number(after("Root Delay: ")?, 1e-6)),
            (
                "root_dispersion",
                Is::Number(after("Root dispersion: ")?, 1e-6),
            ),
            ("reference_id", Is::Text(reference)),
        ]);
    } else if let Some((name, time)) = line.split_once(" Timestamp:") {
        let name = match name {
            "Reference" => "reference_timestamp",
            "Origin" => "originate_timestamp",
            "Receive" => "receive_timestamp",
            "Transmit" => "transmit_timestamp",
            _ => return Ok(()),
        };
        let time = time.split_whitespace().next().context("no time")?;
        fields.push((name, ntp_time(time, 1)));
    } else if line.starts_with("Key id:") {
        // A key without a digest is a crypto-NAK, which says so by its length.
        let is_nak = fields.contains(&("packet_length", Is::Number(52.0, 0.0)));
        let kind = if is_nak { "crypto_nak" } else { "mac" };
        fields.push(("authentication", Is::Text(Some(kind.to_owned()))));
    } else if line.starts_with("NTS Authenticator") {
        fields.push(("authentication", Is::Text(Some("nts".to_owned()))));
    }
    Ok(())
}

/// Seconds since 1900, of the present era. 0 is unknown.
fn ntp_time(text: &str, tolerance: i128) -> Is {
    let time = nanoseconds(text);
    Is::Time((time != 0).then_some(time - EPOCH * SECOND), tolerance)
}

/// ipfixprobe's records of single packets, whose numbers are found by their times of capture.
///
/// Two things of its are left out, as they do not say what is in the packets: NTP_DELAY and
/// NTP_DISPERSION are 9 in every record. And it loses the zero of a byte below 0x10 in the fraction of a
/// second (0x200de5c3 comes out as 0x20de5c3 would), so that of such a time only the second is compared.
pub fn ipfixprobe(text: &str, capture: &Capture) -> Result<Vec<Told>> {
    // The file is sorted, header and all.
    let header = text
        .lines()
        .find(|line| line.starts_with("ipaddr "))
        .context("no header")?;
    let names: Vec<_> = header
        .split(',')
        .map(|name| name.split(' ').next_back().unwrap_or_default())
        .collect();
    let tell = |line: &str| {
        let values = line.split(',').map(|value| value.trim_matches('"'));
        let row: HashMap<_, _> = names.iter().copied().zip(values).collect();
        ensure!(row.len() == names.len(), "fields are missing");
        let number = |name: &str| -> Result<f64> { Ok(row[name].parse()?) };
        let captured = rfc3339(row["TIME_FIRST"])?;
        let source = end_of(row["SRC_IP"], row["SRC_PORT"])?;
        let (frame, _, datagram) = time_packets(capture)
            .into_iter()
            .find(|(_, time, it)| i128::from(*time) == captured && it.source == source)
            .context("not in the capture")?;
        // The IP packet, at first counted by the UDP payload.
        ensure!(
            number("BYTES")? == 28.0 + datagram.payload.len() as f64,
            "length"
        );
        let time = |name: &str, at: usize| {
            let fraction = datagram.payload.get(at + 4..at + 8).unwrap_or_default();
            let is_whole = fraction.iter().all(|byte| *byte >= 0x10);
            ntp_time(row[name], if is_whole { 1_000 } else { SECOND })
        };
        let precision = f64::from(row["NTP_PRECISION"].parse::<u8>()?.cast_signed());
        let reference = row["NTP_REF_ID"];
        Ok(Told {
            frame,
            source,
            destination: end_of(row["DST_IP"], row["DST_PORT"])?,
            captured: Some(captured),
            fields: vec![
                ("leap_indicator", Is::Number(number("NTP_LEAP")?, 0.0)),
                ("ntp_version", Is::Number(number("NTP_VERSION")?, 0.0)),
                ("mode", Is::Number(number("NTP_MODE")?, 0.0)),
                ("stratum", Is::Number(number("NTP_STRATUM")?, 0.0)),
                ("poll_interval", Is::Number(number("NTP_POLL")?, 0.0)),
                ("precision", Is::Number(precision, 0.0)),
                ("reference_id", Is::Text(Some(reference.to_owned()))),
                ("reference_timestamp", time("NTP_REF", 16)),
                ("originate_timestamp", time("NTP_ORIG", 24)),
                ("receive_timestamp", time("NTP_RECV", 32)),
                ("transmit_timestamp", time("NTP_SENT", 40)),
            ],
        })
    };
    text.lines()
        .filter(|line| *line != header)
        .map(|line| tell(line).with_context(|| format!("a record of ipfixprobe: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_every_digit() {
        assert_eq!(nanoseconds("-1.5"), -1_500_000_000);
        assert_eq!(
            nanoseconds("1746000000.123456789"),
            1_746_000_000_123_456_789
        );
        assert_eq!(rfc3339("1970-01-01T00:00:00Z").unwrap(), 0);
        let leap_day = rfc3339("2016-02-29 23:59:59.5").unwrap();
        assert_eq!(leap_day, 1_456_790_399_500_000_000);
        assert!(rfc3339("yesterday").is_err());
    }
}
