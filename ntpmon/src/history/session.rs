//! One exchange as it is kept for a while. The sessions of a client are chained: each names the
//! one before it, the client's record the last, so that no index has to be written.

use std::num::NonZeroU32;

use ntpmon_common::NtpHeader;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{I64, U16, U32, U64},
};

use super::{
    client::{UNKNOWN, clock_code, clock_from, known, role_code, role_from},
    key::{InterfaceId, Key},
};
use crate::ntp::{
    ClientClock,
    exchange::{Exchange, Role},
};

/// The layout that this version writes.
pub const LAYOUT: u8 = 1;

/// Which exchanges are kept one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Each.
    #[default]
    All,
    /// Those of one client in so many, chosen by its address: always the same.
    OneIn(NonZeroU32),
    /// None.
    Off,
}

impl Keep {
    /// Whether this client's are.
    #[must_use]
    pub fn keeps(self, client: &[u8; 16]) -> bool {
        match self {
            Self::All => true,
            Self::Off => false,
            Self::OneIn(share) => {
                // The same clients in every run, and near ones apart.
                let hash = client.chunks_exact(8).fold(0_u64, |hash, half| {
                    let half = half
                        .iter()
                        .fold(0, |number, byte| number << 8 | u64::from(*byte));
                    (hash ^ half)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        .rotate_left(29)
                });
                (hash >> 32).is_multiple_of(u64::from(share.get()))
            }
        }
    }
}

/// An exchange.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SessionRecord {
    layout: u8,
    clock: u8,
    role: u8,
    flags: u8,
    key: Key,
    server: [u8; 16],
    client_port: U16,
    server_port: U16,
    packet_length: U16,
    duplicates: U32,
    ntp: [u8; 48],
    previous: U64,
    seen: I64,
    latency: I64,
    processing: I64,
    total: I64,
    offset: I64,
    delay: I64,
}

const ANSWERED: u8 = 1;
const INTERLEAVED: u8 = 2;

impl SessionRecord {
    /// How many bytes it has.
    pub const SIZE: usize = size_of::<Self>();

    /// What is kept of an exchange that was seen at `seen`.
    #[must_use]
    pub fn new(exchange: &Exchange, interface: InterfaceId, seen: i64) -> Self {
        let asked = &exchange.request.event;
        let described = &exchange.described_by().event;
        let timings = &exchange.timings;
        let span = |value: Option<ntpmon_common::Span>| {
            I64::new(value.map_or(UNKNOWN, |span| span.nanoseconds()))
        };
        let mut flags = 0;
        if exchange.response.is_some() {
            flags |= ANSWERED;
        }
        if exchange.interleaved {
            flags |= INTERLEAVED;
        }
        Self {
            layout: LAYOUT,
            clock: clock_code(exchange.client_clock),
            role: exchange.role.map_or(0, role_code),
            flags,
            key: Key::new(asked.source, interface),
            server: asked.destination,
            client_port: U16::new(asked.source_port),
            server_port: U16::new(asked.destination_port),
            packet_length: U16::new(described.payload_length),
            duplicates: U32::new(exchange.duplicates),
            ntp: described.ntp.0,
            previous: U64::ZERO,
            seen: I64::new(seen),
            latency: span(timings.client_to_server_latency),
            processing: span(timings.server_processing_time),
            total: I64::new(timings.total_process_time.map_or(UNKNOWN, u64::cast_signed)),
            offset: span(timings.offset),
            delay: span(timings.delay),
        }
    }

    /// The layout it was written in.
    #[must_use]
    pub const fn layout(&self) -> u8 {
        self.layout
    }

    /// Whose it is.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Whom the client asked.
    #[must_use]
    pub const fn server(&self) -> [u8; 16] {
        self.server
    }

    /// The client's port.
    #[must_use]
    pub const fn client_port(&self) -> u16 {
        self.client_port.get()
    }

    /// The server's port.
    #[must_use]
    pub const fn server_port(&self) -> u16 {
        self.server_port.get()
    }

    /// Of the packet that describes it.
    #[must_use]
    pub const fn packet_length(&self) -> u16 {
        self.packet_length.get()
    }

    /// Retransmissions of the request.
    #[must_use]
    pub const fn duplicates(&self) -> u32 {
        self.duplicates.get()
    }

    /// The header of the response, or where there was none of the request.
    #[must_use]
    pub const fn ntp(&self) -> NtpHeader {
        NtpHeader(self.ntp)
    }

    /// Whether there was a response.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.flags & ANSWERED != 0
    }

    /// Whether it was in interleaved mode.
    #[must_use]
    pub const fn is_interleaved(&self) -> bool {
        self.flags & INTERLEAVED != 0
    }

    /// The number of the client's session before it; 0 where there is none.
    #[must_use]
    pub const fn previous(&self) -> u64 {
        self.previous.get()
    }

    /// Chains it.
    pub fn set_previous(&mut self, number: u64) {
        self.previous.set(number);
    }

    /// When the request was seen, in nanoseconds since 1970.
    #[must_use]
    pub const fn seen(&self) -> i64 {
        self.seen.get()
    }

    /// T2 − T1, in nanoseconds.
    #[must_use]
    pub fn latency(&self) -> Option<i64> {
        known(self.latency)
    }

    /// T3 − T2, in nanoseconds.
    #[must_use]
    pub fn processing(&self) -> Option<i64> {
        known(self.processing)
    }

    /// From the request's passing to the response's, in nanoseconds.
    #[must_use]
    pub fn total(&self) -> Option<i64> {
        known(self.total)
    }

    /// How far the server is ahead of this host, where this host asked.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        known(self.offset)
    }

    /// The round trip without the server's share, where this host asked.
    #[must_use]
    pub fn delay(&self) -> Option<i64> {
        known(self.delay)
    }

    /// What was known of the client's clock.
    #[must_use]
    pub const fn clock(&self) -> ClientClock {
        clock_from(self.clock)
    }

    /// What this host was to it.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        role_from(self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_in_so_many_is_kept_and_always_the_same() {
        let client = |number: u32| {
            let mut address = [0; 16];
            address[12..].copy_from_slice(&number.to_be_bytes());
            address
        };
        let kept = |share: u32| {
            let share = NonZeroU32::new(share).unwrap();
            (0..10_000)
                .filter(|number| Keep::OneIn(share).keeps(&client(*number)))
                .count()
        };
        assert_eq!(kept(1), 10_000);
        assert!((800..1200).contains(&kept(10)), "{}", kept(10));
        assert_eq!(kept(10), kept(10));
        assert!(Keep::All.keeps(&client(1)) && !Keep::Off.keeps(&client(1)));
    }
}
