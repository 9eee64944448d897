//! What is kept of a server: what its answers said last, and how it answered so far.

use ntpmon_common::NtpHeader;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{I64, U16, U32, U64},
};

use super::client::{Duration, UNKNOWN, role_code, role_from};
use crate::{
    health::{Asked, Manner, Seed},
    ntp::exchange::{Exchange, Role},
};

/// The layout that this version writes.
const LAYOUT: u8 = 2;
/// As many bytes had the one before: what came later stands at the end.
const SIZE_OF_LAYOUT_1: usize = std::mem::offset_of!(ServerRecord, multiple);
/// Kisses that are counted by name; others together.
pub const KISSES: [&str; 3] = ["RATE", "DENY", "RSTR"];

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
    multiple: U64,
    unsolicited: U64,
    /// By [`KISSES`], and all others.
    kinds_of_kisses: [U32; KISSES.len() + 1],
    role: u8,
    /// How it was asked last, and how it answered then; both zero before layout 2 had them.
    asked: u8,
    ttl: u8,
    authentication: u8,
    has_extensions: u8,
}

/// Answers that nobody waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Further ones to a request that was answered.
    pub multiple: u64,
    /// Those to no request.
    pub unsolicited: u64,
}

impl Strays {
    /// Adds others.
    pub const fn add(&mut self, other: Self) {
        self.multiple += other.multiple;
        self.unsolicited += other.unsolicited;
    }
}

impl ServerRecord {
    /// From the database, also from one that knew less.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if let (Some(1), SIZE_OF_LAYOUT_1) = (bytes.first(), bytes.len()) {
            let mut padded = [0; size_of::<Self>()];
            padded[..SIZE_OF_LAYOUT_1].copy_from_slice(bytes);
            padded[0] = LAYOUT;
            return Self::read_from_bytes(&padded).ok();
        }
        let record = Self::read_from_bytes(bytes).ok()?;
        (record.layout == LAYOUT).then_some(record)
    }

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
            multiple: U64::ZERO,
            unsolicited: U64::ZERO,
            kinds_of_kisses: [U32::ZERO; KISSES.len() + 1],
            role: 0,
            asked: 0,
            ttl: 0,
            authentication: 0,
            has_extensions: 0,
        };
        record.add(exchange, seen);
        record
    }

    /// Adds an exchange.
    pub fn add(&mut self, exchange: &Exchange, seen: i64) {
        let is_last = seen >= self.last_seen();
        self.first_seen.set(self.first_seen().min(seen));
        self.last_seen.set(self.last_seen().max(seen));
        if let Some(role) = exchange.role {
            self.role = role_code(role);
        }
        let Some(response) = &exchange.response else {
            self.unanswered += 1;
            return;
        };
        self.answered += 1;
        let ntp = &response.event.ntp;
        self.versions |= 1 << ntp.version();
        if let Some(code) = exchange.kiss_code() {
            self.kisses += 1;
            let known = KISSES.iter().position(|it| it.as_bytes() == code);
            let kind = &mut self.kinds_of_kisses[known.unwrap_or(KISSES.len())];
            kind.set(kind.get().saturating_add(1));
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
            let manner = Manner::of(&response.event);
            self.asked = Asked::of(&exchange.request.event).0;
            self.ttl = manner.ttl;
            self.authentication = manner.authentication;
            self.has_extensions = u8::from(manner.has_extensions);
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
            self.asked = later.asked;
            self.ttl = later.ttl;
            self.authentication = later.authentication;
            self.has_extensions = later.has_extensions;
        }
        if later.role != 0 {
            self.role = later.role;
        }
        self.add_strays(later.strays());
        for (kind, more) in self.kinds_of_kisses.iter_mut().zip(later.kinds_of_kisses) {
            kind.set(kind.get().saturating_add(more.get()));
        }
        self.processing.absorb(&later.processing, is_last);
        self.total.absorb(&later.total, is_last);
        self.offset.absorb(&later.offset, is_last);
        self.delay.absorb(&later.delay, is_last);
    }

    /// Adds answers that nobody waited for.
    pub fn add_strays(&mut self, strays: Strays) {
        self.multiple += strays.multiple;
        self.unsolicited += strays.unsolicited;
    }

    /// Answers that nobody waited for.
    #[must_use]
    pub const fn strays(&self) -> Strays {
        Strays {
            multiple: self.multiple.get(),
            unsolicited: self.unsolicited.get(),
        }
    }

    /// Kisses by their code; all that are not in [`KISSES`] under `other`.
    pub fn kinds_of_kisses(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let names = KISSES.into_iter().chain(["other"]);
        names.zip(self.kinds_of_kisses.map(|kind| kind.get()))
    }

    /// What this host was to those who asked it last.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        role_from(self.role)
    }

    /// What later answers are held against; nothing before it answered with a time.
    #[must_use]
    pub fn seed(&self) -> Option<Seed> {
        let ntp = self.ntp()?;
        let is_known = self.asked != 0 && crate::ntp::kiss_code(&ntp).is_none();
        is_known.then(|| Seed {
            ntp,
            asked: Asked(self.asked),
            manner: Manner {
                version: ntp.version(),
                precision: ntp.precision(),
                authentication: self.authentication,
                has_extensions: self.has_extensions != 0,
                ttl: self.ttl,
            },
        })
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
