//! Exchanges for a history, made without a packet.

use ntpmon::ntp::{
    ClientClock, Stamped,
    exchange::{Exchange, Role, Timings},
};
use ntpmon_common::{Event, Span};

/// A second, in nanoseconds.
pub const SECOND: i64 = 1_000_000_000;
/// When time begins: a full day.
pub const BEGIN: i64 = 19_700 * 86_400 * SECOND;

/// A number as an IPv4 address, mapped into IPv6.
#[must_use]
pub fn address(number: u32) -> [u8; 16] {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&number.to_be_bytes());
    address
}

/// A client's request at a time, in nanoseconds since 1970, that was answered after 50 µs, or not.
#[must_use]
pub fn exchange(client: u32, at: i64, is_answered: bool) -> Exchange {
    const TOOK: u64 = 50_000;
    let mut event = Event::EMPTY;
    event.time = at.cast_unsigned();
    event.source = address(client);
    event.source_port = 40_000;
    event.destination = address(0x0a00_0001);
    event.destination_port = 123;
    event.payload_length = 48;
    event.ntp.0[0] = 4 << 3 | 3;
    let request = Stamped {
        event,
        unix: at,
        frame: 0,
    };
    let mut answer = event;
    answer.source = event.destination;
    answer.source_port = 123;
    answer.destination = event.source;
    answer.destination_port = event.source_port;
    answer.ntp.0[0] = 4 << 3 | 4;
    answer.ntp.0[1] = 2;
    let response = Stamped {
        event: answer,
        unix: at.saturating_add(TOOK.cast_signed()),
        frame: 0,
    };
    let span = Span(TOOK.cast_signed() * (1 << 32) / SECOND);
    Exchange {
        sequence: 0,
        request,
        response: is_answered.then_some(response),
        interleaved: false,
        duplicates: 0,
        client_clock: ClientClock::Unknown,
        client_error: None,
        role: Some(Role::Server),
        is_local_server: true,
        timings: Timings {
            client_to_server_latency: is_answered.then_some(span),
            server_processing_time: is_answered.then_some(span),
            total_process_time: is_answered.then_some(TOOK),
            ..Timings::default()
        },
    }
}
