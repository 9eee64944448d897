//! From a frame of a file to an event: finds where the network layer begins under the link types
//! that only files have, and leaves the rest to the parser that the kernel runs.

use ntpmon_common::{
    Direction, Event, Packet, Skip,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Settings, parse, parse_network},
    settings::Link,
};

use super::Frame;

/// How the frames of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLink {
    /// An Ethernet header.
    Ethernet,
    /// The IP header at once.
    Raw,
    /// Linux' header for captures on all interfaces, 16 bytes.
    Sll,
    /// The same, second version, 20 bytes.
    Sll2,
    /// BSD's loopback: an address family in the byte order of whoever wrote it.
    Null,
    /// OpenBSD's loopback: the same in network byte order.
    Loop,
    /// Any other, by its number.
    Unknown(u16),
}

impl FileLink {
    /// Decodes the number that stands in files.
    #[must_use]
    pub const fn of(number: u16) -> Self {
        match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            // 12 and 14 are what the BSDs called it; 228 and 229 are IPv4 alone and IPv6 alone.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            108 => Self::Loop,
            113 => Self::Sll,
            276 => Self::Sll2,
            other => Self::Unknown(other),
        }
    }
}

/// Parses a frame into `event`, overwriting all of it: the file's counterpart of the kernel's
/// entry points.
///
/// # Errors
/// The reason why the packet is not an NTP packet that can be reported.
#[inline]
pub fn parse_frame(
    frame: &Frame<'_>,
    settings: Settings<'_>,
    event: &mut Event,
) -> Result<(), Skip> {
    *event = Event::EMPTY;
    event.time = frame.time;
    event.interface = frame.interface;
    event.direction = frame.direction as u8;
    let data = &frame.data;
    let (ethertype, offset) = match frame.link {
        FileLink::Ethernet => return parse(data, Link::Ethernet, 0, settings, event),
        FileLink::Raw => return parse(data, Link::Ip, 0, settings, event),
        FileLink::Sll => {
            let packet_type = u16::from_be(read(data, 0)?);
            set_direction(event, packet_type);
            (u16::from_be(read(data, 14)?), 16)
        }
        FileLink::Sll2 => {
            let packet_type: u8 = read(data, 10)?;
            set_direction(event, u16::from(packet_type));
            (u16::from_be(read(data, 0)?), 20)
        }
        FileLink::Null | FileLink::Loop => (family_ethertype(read(data, 0)?)?, 4),
        FileLink::Unknown(_) => return Err(Skip::UnknownLink),
    };
    parse_network(data, ethertype, offset, 0, settings, event)
}

/// What the packet types of Linux (`PACKET_HOST` and so on) say of the way.
pub(super) const fn direction_of(packet_type: u16) -> Direction {
    match packet_type {
        0..=3 => Direction::Ingress,
        4 => Direction::Egress,
        _ => Direction::Unknown,
    }
}

/// What stands beside the frame was written for this frame, and goes first.
fn set_direction(event: &mut Event, packet_type: u16) {
    if event.direction == Direction::Unknown as u8 {
        event.direction = direction_of(packet_type) as u8;
    }
}

/// Families fit into 16 bits: a larger number is one in the other byte order.
fn family_ethertype(family: u32) -> Result<u16, Skip> {
    let family = if family > 0xffff {
        family.swap_bytes()
    } else {
        family
    };
    match family {
        2 => Ok(ETHERTYPE_IPV4),
        // Linux, then NetBSD and OpenBSD, FreeBSD, macOS.
        10 | 24 | 28 | 30 => Ok(ETHERTYPE_IPV6),
        _ => Err(Skip::NotIp),
    }
}

fn read<T: Copy>(data: &&[u8], offset: usize) -> Result<T, Skip> {
    data.read(offset).ok_or(Skip::Truncated)
}
