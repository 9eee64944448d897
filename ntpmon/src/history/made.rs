//! For tests of the history: exchanges made of few words.

use std::ops::Range;

use ntpmon_common::{Event, Span, Timestamp};
use proptest::prelude::*;

use crate::ntp::{
    ClientClock, ClientError, First, Stamped,
    exchange::{Exchange, Role, Timings},
};

pub(crate) const SECOND: i64 = 1_000_000_000;
/// When time begins in tests: a full day.
pub(crate) const BEGIN: i64 = 19_700 * 86_400 * SECOND;

/// A request, and what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) client: u32,
    pub(crate) server: u8,
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    pub(crate) answered: bool,
    pub(crate) version: u8,
    pub(crate) stratum: u8,
    pub(crate) duplicates: u32,
    pub(crate) clock: ClientClock,
    /// In nanoseconds, where it is answered and no kiss.
    pub(crate) took: i64,
    /// What it says is the time; zero where it says nothing.
    pub(crate) written: Timestamp,
}

pub(crate) fn ask(client: u32, at: i64) -> Ask {
    Ask {
        client,
        server: 1,
        at,
        answered: true,
        version: 4,
        stratum: 2,
        duplicates: 0,
        clock: ClientClock::Unknown,
        took: 50_000,
        written: Timestamp(0),
    }
}

pub(crate) fn address(client: u32) -> [u8; 16] {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&client.to_be_bytes());
    address
}

impl Ask {
    /// It says a time, which is ahead of this host's.
    pub(crate) fn ahead(mut self, nanoseconds: i64) -> Self {
        self.written = Timestamp::from_unix_nanoseconds(self.at + nanoseconds);
        self
    }

    /// It says something that is no time.
    pub(crate) fn random(mut self, number: u64) -> Self {
        self.written = Timestamp(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        self
    }

    pub(crate) fn unanswered(mut self) -> Self {
        self.answered = false;
        self
    }

    pub(crate) fn server(mut self, server: u8) -> Self {
        self.server = server;
        self
    }

    fn is_kiss(&self) -> bool {
        self.stratum == 0
    }

    pub(crate) fn latency(&self) -> Option<i64> {
        (self.answered && !self.is_kiss())
            .then(|| Span((i128::from(self.took) * (1 << 32) / 1_000_000_000) as i64))
            .map(Span::nanoseconds)
    }

    pub(crate) fn total(&self) -> Option<i64> {
        self.answered.then_some(self.took.abs())
    }

    pub(crate) fn exchange(&self) -> Exchange {
        let mut event = Event::EMPTY;
        event.time = self.at.cast_unsigned();
        event.source = address(self.client);
        event.source_port = 40_000;
        event.destination = address(0x0a00_0000 | u32::from(self.server));
        event.destination_port = 123;
        event.payload_length = 48;
        event.ntp.0[0] = self.version << 3 | 3;
        let written = self.written.0.to_be_bytes();
        event.ntp.0[40..].copy_from_slice(&written);
        let request = Stamped {
            event,
            unix: self.at,
            frame: 0,
        };
        let response = self.answered.then(|| {
            let mut answer = event;
            std::mem::swap(&mut answer.source, &mut answer.destination);
            std::mem::swap(&mut answer.source_port, &mut answer.destination_port);
            answer.ntp.0[0] = self.version << 3 | 4;
            answer.ntp.0[1] = self.stratum;
            answer.ntp.0[24..32].copy_from_slice(&written);
            if self.is_kiss() {
                answer.ntp.0[12..16].copy_from_slice(b"RATE");
            }
            // It has both of its times.
            answer.ntp.0[32..48].fill(1);
            Stamped {
                event: answer,
                unix: self.at.saturating_add(self.took.abs()),
                frame: 0,
            }
        });
        let span = Span((i128::from(self.took) * (1 << 32) / 1_000_000_000) as i64);
        let is_timed = self.answered && !self.is_kiss();
        Exchange {
            sequence: 0,
            request,
            response,
            interleaved: false,
            duplicates: self.duplicates,
            client_clock: self.clock,
            client_error: (self.clock == ClientClock::Honest)
                .then(|| ClientError::at_least(self.took, First::default())),
            role: Some(Role::Server),
            is_local_server: true,
            timings: Timings {
                client_to_server_latency: is_timed.then_some(span),
                server_processing_time: is_timed.then_some(span),
                total_process_time: self.answered.then_some(self.took.unsigned_abs()),
                ..Timings::default()
            },
        }
    }
}

/// As while the file is compacted, or after it was lost.
pub(crate) fn close(history: &super::History) {
    *history.0.readable.write() = None;
}

/// Requests of so many clients, in no order of time.
pub(crate) fn asks(clients: u32, count: Range<usize>) -> impl Strategy<Value = Vec<Ask>> {
    let one = (
        0..clients,
        1..4_u8,
        prop_oneof![0..20 * SECOND, 0..5000 * SECOND],
        any::<bool>(),
        1..8_u8,
        0..17_u8,
        0..3_u32,
        0..3_u8,
        prop_oneof![-1000..1000_i64, -(1 << 40)..1_i64 << 40],
    );
    let one = one.prop_map(
        |(client, server, at, answered, version, stratum, duplicates, clock, took)| Ask {
            client,
            server,
            at: BEGIN + at,
            answered,
            version,
            stratum,
            duplicates,
            clock: super::client::clock_from(clock),
            took,
            written: Timestamp(0),
        },
    );
    proptest::collection::vec(one, count)
}
