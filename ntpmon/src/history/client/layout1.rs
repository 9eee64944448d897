//! Clients as files of layout 2 have them, without the bound of a clock's error and its drift; and
//! what they are today. Kept as long as such files are to be read.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{F32, I64, U16, U32, U64},
};

use super::{ClientRecord, Duration, LAYOUT, UNKNOWN, Visit, visit};
use ntpmon_common::{NtpHeader, Timestamp};

const OLD: u8 = 1;

/// A client.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct OldRecord {
    layout: u8,
    clock: u8,
    versions: u8,
    role: u8,
    client_port: U16,
    server_port: U16,
    packet_length: U16,
    answered: U16,
    server: [u8; 16],
    ntp: [u8; 48],
    interval: F32,
    session: I64,
    first_seen: I64,
    last_seen: I64,
    created: U32,
    updated: U32,
    sessions: U64,
    unanswered: U64,
    duplicates: U32,
    kisses: U32,
    last_session: U64,
    clock_error: I64,
    latency: Duration,
    processing: Duration,
    total: Duration,
}

const _: () = assert!(size_of::<OldRecord>() == 212);

impl OldRecord {
    /// The same today; nothing where it is of another layout.
    #[must_use]
    pub(crate) fn today(&self) -> Option<ClientRecord> {
        (self.layout == OLD).then_some(ClientRecord {
            layout: LAYOUT,
            clock: self.clock,
            versions: self.versions,
            role: self.role,
            client_port: self.client_port,
            server_port: self.server_port,
            packet_length: self.packet_length,
            answered: self.answered,
            server: self.server,
            ntp: self.ntp,
            interval: self.interval,
            session: self.session,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            created: self.created,
            updated: self.updated,
            sessions: self.sessions,
            unanswered: self.unanswered,
            duplicates: self.duplicates,
            kisses: self.kisses,
            last_session: self.last_session,
            clock_error: self.clock_error,
            clock_error_bound: F32::new(f32::NAN),
            clock_drift: F32::new(f32::NAN),
            latency: self.latency,
            processing: self.processing,
            total: self.total,
        })
    }
}

/// A client that asked once.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct OldVisit {
    layout: u8,
    flags: u8,
    versions: u8,
    duplicates: u8,
    client_port: U16,
    server_port: U16,
    packet_length: U16,
    server: [u8; 16],
    ntp: [u8; 48],
    seen: I64,
    written: U32,
    last_session: U64,
    latency: F32,
    processing: F32,
    total: F32,
}

const _: () = assert!(size_of::<OldVisit>() == 106);

/// The clock's error follows from the header.
const TOLD_TIME: u8 = 2;

impl OldVisit {
    /// The same today; nothing where it is of another layout.
    #[must_use]
    pub(crate) fn today(&self) -> Option<Visit> {
        let error = if self.flags & TOLD_TIME != 0 {
            self.clock_error()
        } else {
            UNKNOWN
        };
        (self.layout == OLD).then_some(Visit {
            layout: LAYOUT,
            flags: self.flags & !TOLD_TIME,
            versions: self.versions,
            duplicates: self.duplicates,
            client_port: self.client_port,
            server_port: self.server_port,
            packet_length: self.packet_length,
            server: self.server,
            ntp: self.ntp,
            seen: self.seen,
            written: self.written,
            last_session: self.last_session,
            clock_error: I64::new(error),
            clock_error_bound: F32::new(f32::NAN),
            clock_drift: F32::new(f32::NAN),
            latency: self.latency,
            processing: self.processing,
            total: self.total,
        })
    }

    /// The time that the client wrote, which an answer repeats, against when it was seen.
    fn clock_error(&self) -> i64 {
        let ntp = NtpHeader(self.ntp);
        let written = if self.flags & visit::ANSWERED != 0 {
            ntp.origin()
        } else {
            ntp.transmit()
        };
        let seen = Timestamp::from_unix_nanoseconds(self.seen.get());
        written.since(seen).nanoseconds()
    }
}

#[cfg(test)]
impl OldRecord {
    /// What an older version would have written.
    pub(crate) fn of(record: &ClientRecord) -> Self {
        Self {
            layout: OLD,
            clock: record.clock,
            versions: record.versions,
            role: record.role,
            client_port: record.client_port,
            server_port: record.server_port,
            packet_length: record.packet_length,
            answered: record.answered,
            server: record.server,
            ntp: record.ntp,
            interval: record.interval,
            session: record.session,
            first_seen: record.first_seen,
            last_seen: record.last_seen,
            created: record.created,
            updated: record.updated,
            sessions: record.sessions,
            unanswered: record.unanswered,
            duplicates: record.duplicates,
            kisses: record.kisses,
            last_session: record.last_session,
            clock_error: record.clock_error,
            latency: record.latency,
            processing: record.processing,
            total: record.total,
        }
    }
}

#[cfg(test)]
impl OldVisit {
    /// What an older version would have written; `told_time`: the error follows from the header.
    pub(crate) fn of(visit: &Visit, told_time: bool) -> Self {
        Self {
            layout: OLD,
            flags: visit.flags | if told_time { TOLD_TIME } else { 0 },
            versions: visit.versions,
            duplicates: visit.duplicates,
            client_port: visit.client_port,
            server_port: visit.server_port,
            packet_length: visit.packet_length,
            server: visit.server,
            ntp: visit.ntp,
            seen: visit.seen,
            written: visit.written,
            last_session: visit.last_session,
            latency: visit.latency,
            processing: visit.processing,
            total: visit.total,
        }
    }
}
