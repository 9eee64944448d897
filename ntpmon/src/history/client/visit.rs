//! A client that asked once: what one exchange tells of it, in half the room of a
//! [`ClientRecord`]. Where many clients ask, most of what a flush brings is of this kind. Nothing is
//! lost by it: what a record says beyond one exchange makes it none.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{F32, I64, U16, U32, U64},
};

use super::{ClientRecord, Duration, LAYOUT};

pub(super) const ANSWERED: u8 = 1;
const KISS: u8 = 4;
/// Where the two bits for its clock begin, and those for the host's role.
const CLOCK: u32 = 4;
const ROLE: u32 = 6;

/// A client's only exchange in some time.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Visit {
    pub(super) layout: u8,
    pub(super) flags: u8,
    pub(super) versions: u8,
    pub(super) duplicates: u8,
    pub(super) client_port: U16,
    pub(super) server_port: U16,
    pub(super) packet_length: U16,
    pub(super) server: [u8; 16],
    pub(super) ntp: [u8; 48],
    pub(super) seen: I64,
    pub(super) written: U32,
    pub(super) last_session: U64,
    pub(super) clock_error: I64,
    pub(super) clock_error_bound: F32,
    pub(super) clock_drift: F32,
    pub(super) latency: F32,
    pub(super) processing: F32,
    pub(super) total: F32,
}

impl Visit {
    /// What a record says, if that is one exchange and fits.
    #[must_use]
    pub fn of(record: &ClientRecord) -> Option<Self> {
        if record.sessions() != 1 || record.kisses() > 1 {
            return None;
        }
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let visit = Self {
            layout: record.layout,
            flags: flag(record.is_answered(), ANSWERED)
                | flag(record.kisses() == 1, KISS)
                | record.clock << CLOCK
                | record.role << ROLE,
            versions: record.versions,
            duplicates: u8::try_from(record.duplicates()).ok()?,
            client_port: record.client_port,
            server_port: record.server_port,
            packet_length: record.packet_length,
            server: record.server,
            ntp: record.ntp,
            seen: record.session,
            written: record.updated,
            last_session: record.last_session,
            clock_error: record.clock_error,
            clock_error_bound: record.clock_error_bound,
            clock_drift: record.clock_drift,
            latency: record.latency.last,
            processing: record.processing.last,
            total: record.total.last,
        };
        debug_assert_eq!(visit.record(), *record);
        Some(visit)
    }

    /// The same as a record.
    #[must_use]
    pub fn record(&self) -> ClientRecord {
        let is_answered = self.flags & ANSWERED != 0;
        ClientRecord {
            layout: self.layout,
            clock: self.flags >> CLOCK & 3,
            versions: self.versions,
            role: self.flags >> ROLE & 3,
            client_port: self.client_port,
            server_port: self.server_port,
            packet_length: self.packet_length,
            answered: U16::new(u16::from(is_answered)),
            server: self.server,
            ntp: self.ntp,
            interval: F32::ZERO,
            session: self.seen,
            first_seen: self.seen,
            last_seen: self.seen,
            created: self.written,
            updated: self.written,
            sessions: U64::new(1),
            unanswered: U64::new(u64::from(!is_answered)),
            duplicates: U32::new(self.duplicates.into()),
            kisses: U32::new(u32::from(self.flags & KISS != 0)),
            last_session: self.last_session,
            clock_error: self.clock_error,
            clock_error_bound: self.clock_error_bound,
            clock_drift: self.clock_drift,
            latency: Duration::once(self.latency),
            processing: Duration::once(self.processing),
            total: Duration::once(self.total),
        }
    }

    /// Whether this version can read it.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.layout == LAYOUT
    }

    /// Notes its last session that was kept.
    pub fn set_last_session(&mut self, number: u64) {
        self.last_session.set(number);
    }

    /// Whether it was answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.flags & ANSWERED != 0
    }
}
