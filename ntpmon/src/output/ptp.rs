//! PTP messages as text: a JSON object a line, or a line for people among the exchanges.

use std::io::{self, Write};

use ntpmon_common::{PtpTimestamp, PtpType, ptp_flags};
use serde_json::{Map, Value as Json};

use super::{DATE_AND_TIME, Format, Printer, TIME, printable};
use crate::ptp::{
    Message, accuracy_seconds, clock_text, port_text, time_source,
    view::{CORRECTION, address_text, direction_name},
};

impl<W: Write> Printer<W> {
    /// Prints a PTP message. CSV has one kind of line only: none is asked for with it.
    pub(crate) fn print_ptp(
        &mut self,
        message: &Message,
        interface: Option<&str>,
    ) -> io::Result<()> {
        match self.format {
            Format::Ndjson => {
                serde_json::to_writer(&mut self.out, &object(message, interface, self.frames))?;
                self.out.write_all(b"\n")?;
            }
            Format::Table => self.ptp_line(message, interface)?,
            Format::Csv => return Ok(()),
        }
        self.lines += 1;
        // The next exchange has its columns named anew.
        self.lines_since_header = u64::MAX;
        Ok(())
    }

    fn ptp_line(&mut self, message: &Message, interface: Option<&str>) -> io::Result<()> {
        let (time_format, width) = if self.frames { DATE_AND_TIME } else { TIME };
        let time = match message.captured() {
            Some(time) => jiff::Timestamp::from_nanosecond(i128::from(time))
                .map_err(io::Error::other)?
                .strftime(time_format)
                .to_string(),
            None => "-".to_owned(),
        };
        let it = message.message();
        let event = &message.event;
        let address =
            |address| address_text(message.transport(), address).unwrap_or_else(|| "-".to_owned());
        let correction = it
            .correction()
            .filter(|correction| *correction != 0)
            .map_or_else(String::new, |correction| {
                format!(" correction {:.3} ns", correction as f64 / 65_536.0)
            });
        writeln!(
            self.out,
            "{time:<width$} {} PTP {} {} > {} domain {} {} #{}{correction}{}",
            interface.map_or("-".into(), printable),
            it.kind().map_or("?", PtpType::name),
            address(&event.source),
            address(&event.destination),
            it.domain(),
            port_text(it.source()),
            it.sequence(),
            body(message),
        )
    }
}

/// What is said beyond the header, for people.
fn body(message: &Message) -> String {
    let it = message.message();
    if it.carries_ntp() {
        return " carries NTP".to_owned();
    }
    if let Some(announced) = it.announced() {
        return format!(
            " grandmaster {} class {} accuracy {:#04x} priorities {}/{} steps {}",
            clock_text(announced.grandmaster),
            announced.clock_class,
            announced.clock_accuracy,
            announced.priority1,
            announced.priority2,
            announced.steps_removed
        );
    }
    let time = it
        .timestamp()
        .filter(|time| *time != PtpTimestamp::default() && is_one(time))
        .map_or_else(String::new, |time| format!(" time {}", seconds(time)));
    match it.requester() {
        Some(requester) => format!("{time} for {}", port_text(requester)),
        None => time,
    }
}

/// Its nanoseconds are less than a second: else it says nothing.
const fn is_one(time: &PtpTimestamp) -> bool {
    time.nanoseconds < 1_000_000_000
}

fn seconds(time: PtpTimestamp) -> String {
    format!("{}.{:09}", time.seconds, time.nanoseconds)
}

/// A PTP message with every field by its name.
fn object(message: &Message, interface: Option<&str>, frames: bool) -> Map<String, Json> {
    let it = message.message();
    let event = &message.event;
    let transport = message.transport();
    let mut object = Map::new();
    let mut put = |name: &str, value: Json| {
        object.insert(name.to_owned(), value);
    };
    put("kind", "ptp".into());
    let time = message
        .captured()
        .and_then(|time| jiff::Timestamp::from_nanosecond(i128::from(time)).ok());
    put("timestamp", time.map(|time| format!("{time:.9}")).into());
    put("interface_name", interface.into());
    put("direction", direction_name(message.direction()).into());
    put("transport", transport.name().into());
    put("source", address_text(transport, &event.source).into());
    put(
        "destination",
        address_text(transport, &event.destination).into(),
    );
    let port = |port: u16| Json::from((port != 0).then_some(port));
    put("source_port", port(event.source_port));
    put("destination_port", port(event.destination_port));
    put("vlan_ids", message.domain().vlan_ids().into());
    put(
        "version",
        format!("{}.{}", it.version(), it.minor_version()).into(),
    );
    put("message_type", it.kind().map(PtpType::name).into());
    put("message_length", it.length().into());
    put("domain_number", it.domain().into());
    put("sdo_id", it.sdo_id().into());
    put("flags", it.flags().into());
    put("two_step", it.has(ptp_flags::TWO_STEP).into());
    put("unicast", it.has(ptp_flags::UNICAST).into());
    let correction = it.correction();
    put(
        "correction_seconds",
        correction.map(|it| it as f64 * CORRECTION).into(),
    );
    put("source_port_identity", port_text(it.source()).into());
    put("sequence_id", it.sequence().into());
    put("log_message_interval", it.log_interval().into());
    // As text: a number of JSON would not hold its nanoseconds.
    let timestamp = it.timestamp().filter(is_one);
    put("message_timestamp", timestamp.map(seconds).into());
    put(
        "requesting_port_identity",
        it.requester().map(port_text).into(),
    );
    put("target_port_identity", it.target().map(port_text).into());
    let announced = it.announced().map(|announced| {
        let mut object = Map::new();
        for (name, value) in [
            (
                "grandmaster_identity",
                Json::from(clock_text(announced.grandmaster)),
            ),
            ("priority1", announced.priority1.into()),
            ("priority2", announced.priority2.into()),
            ("clock_class", announced.clock_class.into()),
            ("clock_accuracy", announced.clock_accuracy.into()),
            (
                "clock_accuracy_seconds",
                accuracy_seconds(announced.clock_accuracy).into(),
            ),
            ("offset_scaled_log_variance", announced.variance.into()),
            ("steps_removed", announced.steps_removed.into()),
            ("time_source", announced.time_source.into()),
            (
                "time_source_name",
                time_source(announced.time_source).into(),
            ),
            ("utc_offset_seconds", announced.utc_offset.into()),
        ] {
            object.insert(name.to_owned(), value);
        }
        Json::Object(object)
    });
    put("announce", announced.into());
    put("carries_ntp", it.carries_ntp().into());
    if frames {
        put("frame", message.frame.into());
    }
    object
}
