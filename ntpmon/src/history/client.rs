//! What is kept of a client: one fixed layout for what one flush interval brings, what runs hold and
//! what blocks hold. A later record is put onto an earlier one by
//! [`ClientRecord::absorb`], so that all three are made by the same few lines.

use ntpmon_common::{Mode, NtpHeader, Timestamp};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{F32, I64, U16, U32, U64},
};

use super::histogram::Sketch;
use crate::ntp::{
    ClientClock, ClientError,
    exchange::{Exchange, Role},
};

pub(super) mod layout1;
#[cfg(test)]
mod tests;
mod visit;

pub use visit::Visit;

/// The layout that this version writes.
pub const LAYOUT: u8 = 2;

/// In place of a duration or a time that is not known.
pub const UNKNOWN: i64 = i64::MIN;

/// A duration of a client's sessions.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Duration {
    /// Of the last session that has it, in seconds; not a number where it is not known. Seven
    /// digits are more than any clock is good for, and a million records are rewritten at once.
    last: F32,
    /// The least, in the same way.
    minimum: F32,
    /// All of them.
    sketch: Sketch,
}

impl Duration {
    pub(super) const NONE: Self = Self {
        last: F32::new(f32::NAN),
        minimum: F32::new(f32::NAN),
        sketch: Sketch::EMPTY,
    };

    /// Of the last session that has it, in nanoseconds.
    #[must_use]
    pub fn last(&self) -> Option<i64> {
        nanoseconds(self.last)
    }

    /// As [`Self::last`], as it is stored: in seconds, not a number where it is not known.
    #[must_use]
    pub const fn last_seconds(&self) -> f32 {
        self.last.get()
    }

    /// The least, in nanoseconds.
    #[must_use]
    pub fn minimum(&self) -> Option<i64> {
        nanoseconds(self.minimum)
    }

    /// Half of them, or another share, are not above this.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let found = self.sketch.quantile(share)?;
        Some(self.minimum().map_or(found, |minimum| found.max(minimum)))
    }

    /// Of one session.
    fn once(seconds: F32) -> Self {
        let mut duration = Self::NONE;
        duration.add_seconds(seconds, true);
        duration
    }

    /// Adds that of a session, in nanoseconds; whether it is the last one of all.
    pub(super) fn add(&mut self, value: Option<i64>, is_last: bool) {
        if let Some(value) = value {
            self.add_seconds(F32::new((value as f64 / 1e9) as f32), is_last);
        }
    }

    fn add_seconds(&mut self, seconds: F32, is_last: bool) {
        let Some(value) = nanoseconds(seconds) else {
            return;
        };
        if is_last || self.last.get().is_nan() {
            self.last = seconds;
        }
        // The least of a number and of none is the number.
        self.minimum.set(self.minimum.get().min(seconds.get()));
        self.sketch.add(value);
    }

    pub(super) fn absorb(&mut self, later: &Self, is_later: bool) {
        if later.last.get().is_nan() {
            return;
        }
        self.minimum
            .set(self.minimum.get().min(later.minimum.get()));
        if is_later || self.last.get().is_nan() {
            self.last = later.last;
        }
        self.sketch.merge(&later.sketch);
    }
}

/// What is known of a client on an interface.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ClientRecord {
    layout: u8,
    clock: u8,
    /// Bit n: it asked in version n.
    versions: u8,
    role: u8,
    client_port: U16,
    server_port: U16,
    packet_length: U16,
    /// Whether what describes it is a response.
    answered: U16,
    server: [u8; 16],
    ntp: [u8; 48],
    /// Mean of the seconds between two requests, the last ones counting most; 0 before there are
    /// two.
    interval: F32,
    session: I64,
    first_seen: I64,
    last_seen: I64,
    /// Seconds since 1970, as the next.
    created: U32,
    updated: U32,
    sessions: U64,
    unanswered: U64,
    duplicates: U32,
    kisses: U32,
    /// The number of its last session that was kept, from 1.
    last_session: U64,
    clock_error: I64,
    /// How far that may be wrong, in seconds; not a number where it is open to one side, or not
    /// known.
    clock_error_bound: F32,
    /// What the clock gains, in millionths; not a number where it is not known.
    clock_drift: F32,
    /// T2 − T1.
    pub latency: Duration,
    /// T3 − T2.
    pub processing: Duration,
    /// From the request's passing to the response's.
    pub total: Duration,
}

/// How many exchanges there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub exchanges: u64,
    /// Of those, the ones that nobody answered.
    pub unanswered: u64,
}

impl Tally {
    /// Adds others.
    pub const fn add(&mut self, other: Self) {
        self.exchanges += other.exchanges;
        self.unanswered += other.unanswered;
    }
}

/// What came of a client in some time.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// One exchange.
    Visit(&'a Visit),
    /// Several, or one that has more to say than a visit.
    Record(&'a ClientRecord),
}

impl News<'_> {
    /// All of it.
    #[must_use]
    pub fn record(&self) -> ClientRecord {
        match self {
            Self::Visit(visit) => visit.record(),
            Self::Record(record) => **record,
        }
    }

    /// Requests that asked something new, and how many of them nobody answered.
    #[must_use]
    pub const fn exchanges(&self) -> Tally {
        match self {
            Self::Visit(visit) => Tally {
                exchanges: 1,
                unanswered: !visit.is_answered() as u64,
            },
            Self::Record(record) => Tally {
                exchanges: record.sessions(),
                unanswered: record.unanswered(),
            },
        }
    }
}

/// From a duration as it is stored.
fn nanoseconds(seconds: F32) -> Option<i64> {
    let seconds = seconds.get();
    (!seconds.is_nan()).then(|| (f64::from(seconds) * 1e9).round() as i64)
}

/// Until 2106.
fn in_seconds(nanoseconds: i64) -> u32 {
    u32::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or_default()
}

/// A value that stands for itself.
pub(super) fn known(value: I64) -> Option<i64> {
    (value.get() != UNKNOWN).then_some(value.get())
}

/// How much the newest of the intervals between requests counts in their mean.
const NEWEST: f64 = 1.0 / 16.0;

impl ClientRecord {
    /// How many bytes it has.
    pub const SIZE: usize = size_of::<Self>();

    /// A client that was seen for the first time. `seen` is when, in nanoseconds since 1970.
    #[must_use]
    pub fn new(exchange: &Exchange, seen: i64, now: i64) -> Self {
        let mut record = Self {
            layout: LAYOUT,
            clock: 0,
            versions: 0,
            role: 0,
            client_port: U16::ZERO,
            server_port: U16::ZERO,
            packet_length: U16::ZERO,
            answered: U16::ZERO,
            server: [0; 16],
            ntp: [0; 48],
            interval: F32::ZERO,
            session: I64::new(seen),
            first_seen: I64::new(seen),
            last_seen: I64::new(seen),
            created: U32::new(in_seconds(now)),
            updated: U32::new(in_seconds(now)),
            sessions: U64::ZERO,
            unanswered: U64::ZERO,
            duplicates: U32::ZERO,
            kisses: U32::ZERO,
            last_session: U64::ZERO,
            clock_error: I64::new(UNKNOWN),
            clock_error_bound: F32::new(f32::NAN),
            clock_drift: F32::new(f32::NAN),
            latency: Duration::NONE,
            processing: Duration::NONE,
            total: Duration::NONE,
        };
        record.add(exchange, seen, now);
        record
    }

    /// Adds an exchange. What describes a client is its last answered one, and before there is one
    /// its last request.
    pub fn add(&mut self, exchange: &Exchange, seen: i64, now: i64) {
        let asked = &exchange.request.event;
        let is_last = seen >= self.last_seen();
        self.note_interval(seen, 1);
        self.first_seen.set(self.first_seen().min(seen));
        self.last_seen.set(self.last_seen().max(seen));
        self.updated.set(in_seconds(now));
        self.sessions += 1;
        self.duplicates
            .set(self.duplicates.get().saturating_add(exchange.duplicates));
        self.versions |= 1 << asked.ntp.version();
        if exchange.client_clock != ClientClock::Unknown {
            self.clock = clock_code(exchange.client_clock);
        }
        if let Some(role) = exchange.role {
            self.role = role_code(role);
        }
        let answered = exchange.response.is_some();
        if !answered {
            self.unanswered += 1;
        }
        if exchange.kiss_code().is_some() {
            self.kisses.set(self.kisses.get().saturating_add(1));
        }
        let describes = match (self.is_answered(), answered) {
            (true, false) => false,
            (false, true) => true,
            _ => seen >= self.session(),
        };
        if describes {
            let described = &exchange.described_by().event;
            self.answered.set(u16::from(answered));
            self.client_port.set(asked.source_port);
            self.server_port.set(asked.destination_port);
            self.server = asked.destination;
            self.packet_length.set(described.payload_length);
            self.ntp = described.ntp.0;
            self.session.set(seen);
        }
        let timings = &exchange.timings;
        self.latency.add(
            timings
                .client_to_server_latency
                .map(|span| span.nanoseconds()),
            is_last,
        );
        self.processing.add(
            timings
                .server_processing_time
                .map(|span| span.nanoseconds()),
            is_last,
        );
        self.total
            .add(timings.total_process_time.map(u64::cast_signed), is_last);
        if let Some(error) = &exchange.client_error
            && (is_last || self.clock_error().is_none())
        {
            self.set_clock_error(error);
        }
    }

    /// Puts what came later onto this. (Where files are read in another order, "later" may hold
    /// older packets: times and what describes the client are still right.) Counts and times are
    /// the same whatever was put together first; the mean interval and the quantiles are as good,
    /// not the same.
    pub fn absorb(&mut self, later: &Self) {
        let is_last = later.last_seen() >= self.last_seen();
        let sessions = later.sessions.get();
        self.note_interval(later.last_seen(), sessions);
        self.first_seen
            .set(self.first_seen().min(later.first_seen()));
        self.last_seen.set(self.last_seen().max(later.last_seen()));
        self.created
            .set(self.created.get().min(later.created.get()));
        self.updated
            .set(self.updated.get().max(later.updated.get()));
        self.sessions += sessions;
        self.unanswered += later.unanswered;
        self.duplicates
            .set(self.duplicates.get().saturating_add(later.duplicates.get()));
        self.kisses
            .set(self.kisses.get().saturating_add(later.kisses.get()));
        self.versions |= later.versions;
        self.last_session
            .set(self.last_session().max(later.last_session()));
        match later.habit_after(self.clock(), self.written(), self.session()) {
            ClientClock::Unknown => {}
            clock => self.clock = clock_code(clock),
        }
        if later.role != 0 {
            self.role = later.role;
        }
        let describes = match (self.is_answered(), later.is_answered()) {
            (true, false) => false,
            (false, true) => true,
            _ => later.session() >= self.session(),
        };
        if describes {
            self.answered = later.answered;
            self.client_port = later.client_port;
            self.server_port = later.server_port;
            self.server = later.server;
            self.packet_length = later.packet_length;
            self.ntp = later.ntp;
            self.session = later.session;
        }
        self.latency.absorb(&later.latency, is_last);
        self.processing.absorb(&later.processing, is_last);
        self.total.absorb(&later.total, is_last);
        if later.clock_error().is_some() && (is_last || self.clock_error().is_none()) {
            self.clock_error = later.clock_error;
            self.clock_error_bound = later.clock_error_bound;
            self.clock_drift = later.clock_drift;
        }
    }

    fn set_clock_error(&mut self, error: &ClientError) {
        let number = |value: Option<f32>| F32::new(value.unwrap_or(f32::NAN));
        // The one value that stands for none.
        self.clock_error.set(error.nanoseconds().max(UNKNOWN + 1));
        self.clock_error_bound = number(error.bound_seconds());
        self.clock_drift = number(error.drift_ppm());
    }

    /// What the client wrote for the time that it sent what describes it; zero where that cannot be
    /// a time. Of an answer in interleaved mode it is what the client wrote for another one.
    #[must_use]
    pub fn written(&self) -> Timestamp {
        let ntp = self.ntp();
        match (ntp.mode(), ntp.version()) {
            (Mode::Server, ..5) if self.is_answered() => ntp.origin(),
            (Mode::Client, ..5) => ntp.transmit(),
            _ => Timestamp(0),
        }
    }

    /// What is known of its clock; where that was not known when it asked, by what the client wrote
    /// at a time before. Of more clients than pairing remembers that is all there is. Both times are
    /// this host's: where they disagree with one that is known to be honest, this host's clock may
    /// have been stepped.
    #[must_use]
    pub fn habit_after(&self, known: ClientClock, written: Timestamp, session: i64) -> ClientClock {
        let clock = self.clock();
        if clock != ClientClock::Unknown || written.is_zero() || self.written().is_zero() {
            return clock;
        }
        match ClientClock::of((written, session), (self.written(), self.session())) {
            ClientClock::Randomised if known == ClientClock::Honest => ClientClock::Unknown,
            clock => clock,
        }
    }

    /// `requests` more of them, the last at `seen`.
    fn note_interval(&mut self, seen: i64, requests: u64) {
        self.interval.set(mean_interval(
            self.interval.get(),
            self.sessions(),
            self.last_seen(),
            seen,
            requests,
        ));
    }

    /// The layout it was written in.
    #[must_use]
    pub const fn layout(&self) -> u8 {
        self.layout
    }

    /// What is known of its clock.
    #[must_use]
    pub const fn clock(&self) -> ClientClock {
        clock_from(self.clock)
    }

    /// What this host was to it last.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        role_from(self.role)
    }

    /// The versions that it asked in.
    pub fn versions(&self) -> impl Iterator<Item = u8> + use<> {
        let versions = self.versions;
        (0..8).filter(move |version| versions & (1 << version) != 0)
    }

    /// Its port in the session that describes it.
    #[must_use]
    pub const fn client_port(&self) -> u16 {
        self.client_port.get()
    }

    /// Whom it asked in the session that describes it.
    #[must_use]
    pub const fn server(&self) -> [u8; 16] {
        self.server
    }

    /// At which port.
    #[must_use]
    pub const fn server_port(&self) -> u16 {
        self.server_port.get()
    }

    /// Of the packet that describes it.
    #[must_use]
    pub const fn packet_length(&self) -> u16 {
        self.packet_length.get()
    }

    /// Whether what describes it is a response.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answered.get() != 0
    }

    /// The header that describes it.
    #[must_use]
    pub const fn ntp(&self) -> NtpHeader {
        NtpHeader(self.ntp)
    }

    /// Mean of the seconds between its requests, as of late; 0 before there were two.
    #[must_use]
    pub const fn interval(&self) -> f32 {
        self.interval.get()
    }

    /// Requests a second, as of late; nothing before there were two.
    #[must_use]
    pub fn request_rate(&self) -> Option<f64> {
        let interval = f64::from(self.interval.get());
        (interval > 0.0).then(|| 1.0 / interval)
    }

    /// When the session was that describes it.
    #[must_use]
    pub const fn session(&self) -> i64 {
        self.session.get()
    }

    /// When it was seen first.
    #[must_use]
    pub const fn first_seen(&self) -> i64 {
        self.first_seen.get()
    }

    /// When it was seen last.
    #[must_use]
    pub const fn last_seen(&self) -> i64 {
        self.last_seen.get()
    }

    /// When it was first written down.
    #[must_use]
    pub fn created(&self) -> i64 {
        i64::from(self.created.get()) * 1_000_000_000
    }

    /// When it was last written down.
    #[must_use]
    pub fn updated(&self) -> i64 {
        i64::from(self.updated.get()) * 1_000_000_000
    }

    /// Requests that asked something new, answered or not.
    #[must_use]
    pub const fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// Of those, the ones that nobody answered.
    #[must_use]
    pub const fn unanswered(&self) -> u64 {
        self.unanswered.get()
    }

    /// Retransmissions.
    #[must_use]
    pub const fn duplicates(&self) -> u32 {
        self.duplicates.get()
    }

    /// Kisses of death that it was sent.
    #[must_use]
    pub const fn kisses(&self) -> u32 {
        self.kisses.get()
    }

    /// The number of its last session that was kept; 0 where there is none.
    #[must_use]
    pub const fn last_session(&self) -> u64 {
        self.last_session.get()
    }

    /// Notes its last session that was kept.
    pub fn set_last_session(&mut self, number: u64) {
        self.last_session.set(number);
    }

    /// How far its clock is ahead of this host's, in nanoseconds, where it can be believed: from
    /// those of its requests that were late least.
    #[must_use]
    pub fn clock_error(&self) -> Option<i64> {
        known(self.clock_error)
    }

    /// How far that may be wrong, in seconds. Nothing where the clock may be ahead by the time that
    /// the client's requests take, however long that is.
    #[must_use]
    pub fn clock_error_bound(&self) -> Option<f32> {
        let bound = self.clock_error_bound.get();
        (!bound.is_nan()).then_some(bound)
    }

    /// What its clock gains on this host's, in millionths.
    #[must_use]
    pub fn clock_drift(&self) -> Option<f32> {
        let drift = self.clock_drift.get();
        (!drift.is_nan()).then_some(drift)
    }
}

/// The mean of the seconds between requests: `known` after `sessions` of them, the last at
/// `last_seen`, and after `requests` more, the last at `seen`. 0 before there are two.
pub(super) fn mean_interval(
    known: f32,
    sessions: u64,
    last_seen: i64,
    seen: i64,
    requests: u64,
) -> f32 {
    if sessions == 0 || seen <= last_seen || requests == 0 {
        return known;
    }
    // A file can name any time.
    let passed = seen.saturating_sub(last_seen) as f64 / 1e9 / requests as f64;
    if sessions == 1 {
        return passed as f32;
    }
    let known = f64::from(known);
    // The first few count alike, so that the very first is not remembered for long.
    let one = NEWEST.max(1.0 / sessions as f64);
    let newest = 1.0 - (1.0 - one).powf(requests as f64);
    (known + (passed - known) * newest) as f32
}

pub(super) const fn clock_code(clock: ClientClock) -> u8 {
    match clock {
        ClientClock::Unknown => 0,
        ClientClock::Honest => 1,
        ClientClock::Randomised => 2,
    }
}

pub(super) const fn clock_from(code: u8) -> ClientClock {
    match code {
        1 => ClientClock::Honest,
        2 => ClientClock::Randomised,
        _ => ClientClock::Unknown,
    }
}

pub(super) const fn role_from(code: u8) -> Option<Role> {
    match code {
        1 => Some(Role::Server),
        2 => Some(Role::Client),
        3 => Some(Role::Transit),
        _ => None,
    }
}

/// As it is written down; 0 is unknown.
pub(super) const fn role_code(role: Role) -> u8 {
    match role {
        Role::Server => 1,
        Role::Client => 2,
        Role::Transit => 3,
    }
}
