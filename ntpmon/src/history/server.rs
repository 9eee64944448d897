//! What is kept of a server: what its answers said last, and how it answered so far.

use ntpmon_common::NtpHeader;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{I64, U16, U32, U64},
};

use super::client::{Duration, LAYOUT, UNKNOWN};
use crate::ntp::exchange::Exchange;

/// What is known of a server on an interface.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ServerRecord {
    layout: u8,
    /// Bit n: it answered in version n.
    versions: u8,
    port: U16,
    packet_length: U16,
    /// Of its last answer; zero before the first.
    ntp: [u8; 48],
    first_seen: I64,
    last_seen: I64,
    /// When it answered last, or [`UNKNOWN`].
    last_answer: I64,
    answered: U64,
    unanswered: U64,
    unsynchronised: U64,
    kisses: U64,
    interleaved: U32,
    /// T3 − T2.
    pub processing: Duration,
    /// From the request's passing to the response's.
    pub total: Duration,
    /// How far it is ahead of this host, where this host asked.
    pub offset: Duration,
    /// The round trip without the server's share, where this host asked.
    pub delay: Duration,
}

impl ServerRecord {
    /// A server that was asked for the first time, at `seen`, in nanoseconds since 1970.
    #[must_use]
    pub fn new(exchange: &Exchange, seen: i64) -> Self {
        let mut record = Self {
            layout: LAYOUT,
            versions: 0,
            port: U16::new(exchange.request.event.destination_port),
            packet_length: U16::ZERO,
            ntp: [0; 48],
            first_seen: I64::new(seen),
            last_seen: I64::new(seen),
            last_answer: I64::new(UNKNOWN),
            answered: U64::ZERO,
            unanswered: U64::ZERO,
            unsynchronised: U64::ZERO,
            kisses: U64::ZERO,
            interleaved: U32::ZERO,
            processing: Duration::NONE,
            total: Duration::NONE,
            offset: Duration::NONE,
            delay: Duration::NONE,
        };
        record.add(exchange, seen);
        record
    }

    /// Adds an exchange.
    pub fn add(&mut self, exchange: &Exchange, seen: i64) {
        let is_last = seen >= self.last_seen();
        self.first_seen.set(self.first_seen().min(seen));
        self.last_seen.set(self.last_seen().max(seen));
        let Some(response) = &exchange.response else {
            self.unanswered += 1;
            return;
        };
        self.answered += 1;
        let ntp = &response.event.ntp;
        self.versions |= 1 << ntp.version();
        if exchange.kiss_code().is_some() {
            self.kisses += 1;
        } else if !exchange.is_time_sample() {
            self.unsynchronised += 1;
        }
        if exchange.interleaved {
            self.interleaved
                .set(self.interleaved.get().saturating_add(1));
        }
        if self.last_answer().is_none_or(|last| seen >= last) {
            self.last_answer.set(seen);
            self.port.set(response.event.source_port);
            self.packet_length.set(response.event.payload_length);
            self.ntp = ntp.0;
        }
        let timings = &exchange.timings;
        self.processing.add(
            timings
                .server_processing_time
                .map(|span| span.nanoseconds()),
            is_last,
        );
        self.total
            .add(timings.total_process_time.map(u64::cast_signed), is_last);
        self.offset
            .add(timings.offset.map(|span| span.nanoseconds()), is_last);
        self.delay
            .add(timings.delay.map(|span| span.nanoseconds()), is_last);
    }

    /// Puts what came later onto this.
    pub fn absorb(&mut self, later: &Self) {
        let is_last = later.last_seen() >= self.last_seen();
        self.first_seen
            .set(self.first_seen().min(later.first_seen()));
        self.last_seen.set(self.last_seen().max(later.last_seen()));
        self.answered += later.answered;
        self.unanswered += later.unanswered;
        self.unsynchronised += later.unsynchronised;
        self.kisses += later.kisses;
        self.interleaved.set(
            self.interleaved
                .get()
                .saturating_add(later.interleaved.get()),
        );
        self.versions |= later.versions;
        if let Some(answer) = later.last_answer()
            && self.last_answer().is_none_or(|last| answer >= last)
        {
            self.last_answer = later.last_answer;
            self.port = later.port;
            self.packet_length = later.packet_length;
            self.ntp = later.ntp;
        }
        self.processing.absorb(&later.processing, is_last);
        self.total.absorb(&later.total, is_last);
        self.offset.absorb(&later.offset, is_last);
        self.delay.absorb(&later.delay, is_last);
    }

    /// The layout it was written in.
    #[must_use]
    pub const fn layout(&self) -> u8 {
        self.layout
    }

    /// The versions that it answered in.
    pub fn versions(&self) -> impl Iterator<Item = u8> + use<> {
        let versions = self.versions;
        (0..8).filter(move |version| versions & (1 << version) != 0)
    }

    /// The port that it answered from, or was asked at.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.get()
    }

    /// The header of its last answer.
    #[must_use]
    pub fn ntp(&self) -> Option<NtpHeader> {
        self.last_answer().map(|_| NtpHeader(self.ntp))
    }

    /// The length of its last answer.
    #[must_use]
    pub fn packet_length(&self) -> Option<u16> {
        self.last_answer().map(|_| self.packet_length.get())
    }

    /// When it was asked first.
    #[must_use]
    pub const fn first_seen(&self) -> i64 {
        self.first_seen.get()
    }

    /// When it was asked last.
    #[must_use]
    pub const fn last_seen(&self) -> i64 {
        self.last_seen.get()
    }

    /// When the last request was that it answered.
    #[must_use]
    pub fn last_answer(&self) -> Option<i64> {
        (self.last_answer.get() != UNKNOWN).then_some(self.last_answer.get())
    }

    /// Requests that it answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// Requests that it did not answer in time.
    #[must_use]
    pub const fn unanswered(&self) -> u64 {
        self.unanswered.get()
    }

    /// Answers from which no time can be taken, other than kisses.
    #[must_use]
    pub const fn unsynchronised(&self) -> u64 {
        self.unsynchronised.get()
    }

    /// Kisses of death.
    #[must_use]
    pub const fn kisses(&self) -> u64 {
        self.kisses.get()
    }

    /// Answers in interleaved mode.
    #[must_use]
    pub const fn interleaved(&self) -> u32 {
        self.interleaved.get()
    }
}
