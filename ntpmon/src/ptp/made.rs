//! For tests: PTP messages of few words.

use ntpmon_common::{ClockIdentity, Direction, PortIdentity, PtpEvent, PtpType, ptp_flags};

use super::Message;

/// A second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Unix time of the tests' time zero.
pub(crate) const BEGAN: i64 = 1_700_000_000 * SECOND as i64;

/// A port of a clock whose identity ends in this number.
pub(crate) fn port(number: u8) -> PortIdentity {
    PortIdentity {
        clock: ClockIdentity([2, 0, 0, 0xff, 0xfe, 0, 0, number]),
        port: 1,
    }
}

/// A message of `source`, `milliseconds` after the beginning.
pub(crate) fn message(
    kind: PtpType,
    source: PortIdentity,
    sequence: u16,
    milliseconds: u64,
) -> Message {
    let mut event = PtpEvent {
        time: SECOND + milliseconds * 1_000_000,
        destination: [0xff; 16],
        source_port: 320,
        destination_port: 320,
        interface: 1,
        payload_length: 64,
        direction: Direction::Ingress as u8,
        ..PtpEvent::EMPTY
    };
    event.source[15] = source.clock.0[7];
    let bytes = &mut event.message.0;
    bytes[0] = kind as u8;
    bytes[1] = 0x12;
    bytes[3] = 64;
    bytes[20..28].copy_from_slice(&source.clock.0);
    bytes[28..30].copy_from_slice(&source.port.to_be_bytes());
    bytes[30..32].copy_from_slice(&sequence.to_be_bytes());
    // One a second.
    bytes[33] = 0;
    Message {
        event,
        unix: BEGAN + (milliseconds * 1_000_000) as i64,
        frame: 0,
    }
}

/// The same with this flag.
pub(crate) fn flagged(mut message: Message, flag: u16) -> Message {
    let flags = message.message().flags() | flag;
    message.event.message.0[6..8].copy_from_slice(&flags.to_be_bytes());
    message
}

/// The same with this correction, in nanoseconds.
pub(crate) fn corrected(mut message: Message, nanoseconds: i64) -> Message {
    message.event.message.0[8..16].copy_from_slice(&(nanoseconds << 16).to_be_bytes());
    message
}

/// An answer to this port's request.
pub(crate) fn answering(mut message: Message, requester: PortIdentity) -> Message {
    let bytes = &mut message.event.message.0;
    bytes[44..52].copy_from_slice(&requester.clock.0);
    bytes[52..54].copy_from_slice(&requester.port.to_be_bytes());
    message
}

/// An Announce of a clock that follows none, with this class.
pub(crate) fn announce(source: PortIdentity, class: u8, milliseconds: u64) -> Message {
    let message = message(PtpType::Announce, source, 1, milliseconds);
    let mut message = flagged(
        message,
        ptp_flags::PTP_TIMESCALE | ptp_flags::UTC_OFFSET_VALID,
    );
    let bytes = &mut message.event.message.0;
    bytes[44..46].copy_from_slice(&37_u16.to_be_bytes());
    (bytes[47], bytes[52]) = (128, 127);
    (bytes[48], bytes[49]) = (class, 0x21);
    bytes[50..52].copy_from_slice(&0x4e5d_u16.to_be_bytes());
    bytes[53..61].copy_from_slice(&source.clock.0);
    bytes[63] = 0x20;
    message
}
