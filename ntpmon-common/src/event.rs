//! The record of an NTP packet that crosses from the kernel to user space; that of PTP is in `ptp`. Enumerations travel as bare bytes
//! and are decoded here: nothing that the kernel wrote is ever transmuted into an enum.

use crate::NtpHeader;

/// One NTP packet as a program at a NIC (or a capture file) saw it.
///
/// 112 bytes without padding: with the ring's own header a record takes 120.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When it passed, in nanoseconds: monotonic from the kernel, Unix time from a file.
    pub time: u64,
    /// Sender, IPv4 mapped into IPv6.
    pub source: [u8; 16],
    /// Receiver, IPv4 mapped into IPv6.
    pub destination: [u8; 16],
    /// Sender's UDP port, host byte order.
    pub source_port: u16,
    /// Receiver's UDP port, host byte order.
    pub destination_port: u16,
    /// Index of the interface: the kernel's, or the file's own.
    pub interface: u32,
    /// Length of the UDP payload, from the UDP header.
    pub payload_length: u16,
    /// VLAN ids from the outermost inwards; 0 where there is no tag.
    pub vlan: [u16; 2],
    /// Which way it passed: see [`Direction`].
    pub direction: u8,
    /// See [`flags`].
    pub flags: u8,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// What vouches for the packet: see [`Authentication`].
    pub authentication: u8,
    /// Number of extension fields walked.
    pub extensions: u8,
    /// 0: NTP. Another kind of event has another number in this place, and another length.
    pub kind: u8,
    /// Key id of the MAC or crypto-NAK, host byte order; 0 where there is none.
    pub key_id: u32,
    /// The NTP header itself.
    pub ntp: NtpHeader,
}

const _: () = assert!(size_of::<Event>() == 112);

impl Event {
    /// All zero: what a parser fills in.
    pub const EMPTY: Self = Self {
        time: 0,
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        interface: 0,
        payload_length: 0,
        vlan: [0; 2],
        direction: 0,
        flags: 0,
        ttl: 0,
        authentication: 0,
        extensions: 0,
        kind: 0,
        key_id: 0,
        ntp: NtpHeader([0; 48]),
    };
}

/// Bits of [`Event::flags`].
pub mod flags {
    /// The (inner) packet is IPv6.
    pub const IPV6: u8 = 1;
    /// The first fragment of a datagram: the header was read, the rest comes separately.
    pub const FIRST_FRAGMENT: u8 = 1 << 1;
    /// Found inside a tunnel.
    pub const TUNNELLED: u8 = 1 << 2;
    /// At once behind the Ethernet header, without IP (PTP only).
    pub const LAYER2: u8 = 1 << 3;
}

/// Which way a packet passed the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Not known: capture files do not say.
    Unknown = 0,
    /// Coming in.
    Ingress = 1,
    /// Going out.
    Egress = 2,
}

impl Direction {
    /// Reads the byte of an event; what is not known is [`Direction::Unknown`].
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Ingress,
            2 => Self::Egress,
            _ => Self::Unknown,
        }
    }
}

/// What stands behind the 48 bytes, as far as it vouches for them. Nothing is verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Authentication {
    /// Nothing.
    None = 0,
    /// A key id and a digest.
    Mac = 1,
    /// Four zero bytes: the server refused our key.
    CryptoNak = 2,
    /// Network Time Security extension fields (RFC 8915).
    Nts = 3,
    /// Microsoft's variant: a 20-byte trailer with an empty digest, or a 72-byte one.
    MsSntp = 4,
    /// Trailing bytes that follow no known layout.
    Unknown = 5,
}

impl Authentication {
    /// Reads the byte of an event.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::Mac,
            2 => Self::CryptoNak,
            3 => Self::Nts,
            4 => Self::MsSntp,
            _ => Self::Unknown,
        }
    }

    /// The name in the API and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mac => "mac",
            Self::CryptoNak => "crypto_nak",
            Self::Nts => "nts",
            Self::MsSntp => "ms_sntp",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: `repr(C)`, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for super::Event {}
}
