//! From a frame of a file to an event: finds where the network layer begins under the link types
//! that only files have, and leaves the rest to the parser that the kernel runs.

use ntpmon_common::{
    Direction, Event, Packet, PtpEvent, Skip, flags,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Events, Protocol, Settings, parse, parse_network},
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

/// Parses a frame into one of `events`, overwriting all of it, and says into which: the file's
/// counterpart of the kernel's entry points.
///
/// # Errors
/// The reason why the packet is none that can be reported.
#[inline]
pub fn parse_frame(
    frame: &Frame<'_>,
    settings: Settings<'_>,
    events: &mut Events,
) -> Result<Protocol, Skip> {
    events.ntp = Event::EMPTY;
    let data = &frame.data;
    // What stands beside the frame was written for this frame, and goes first.
    let either = |packet_type| match frame.direction {
        Direction::Unknown => direction_of(packet_type),
        known => known,
    };
    let mut direction = frame.direction;
    let mut sender = None;
    let protocol = match frame.link {
        FileLink::Ethernet => parse(data, Link::Ethernet, 0, settings, events)?,
        FileLink::Raw => parse(data, Link::Ip, 0, settings, events)?,
        FileLink::Sll => {
            direction = either(u16::from_be(read(data, 0)?));
            sender = link_address(data, u16::from_be(read(data, 4)?), 6);
            let ethertype = u16::from_be(read(data, 14)?);
            parse_network(data, ethertype, 16, 0, settings, events)?
        }
        FileLink::Sll2 => {
            direction = either(u16::from(read::<u8>(data, 10)?));
            sender = link_address(data, u16::from(read::<u8>(data, 11)?), 12);
            let ethertype = u16::from_be(read(data, 0)?);
            parse_network(data, ethertype, 20, 0, settings, events)?
        }
        FileLink::Null | FileLink::Loop => {
            let ethertype = family_ethertype(read(data, 0)?)?;
            parse_network(data, ethertype, 4, 0, settings, events)?
        }
        FileLink::Unknown(_) => return Err(Skip::UnknownLink),
    };
    match protocol {
        Protocol::Ntp => {
            let event = &mut events.ntp;
            event.time = frame.time;
            event.interface = frame.interface;
            event.direction = direction as u8;
        }
        Protocol::Ptp => {
            let event = &mut events.ptp;
            event.time = frame.time;
            event.interface = frame.interface;
            event.direction = direction as u8;
            set_sender(event, sender);
        }
    }
    Ok(protocol)
}

/// The sender's Ethernet address, where the header of Linux' captures has one.
fn link_address(data: &&[u8], length: u16, offset: usize) -> Option<[u8; 6]> {
    if length != 6 {
        return None;
    }
    data.read(offset)
}

/// PTP without IP has no other address.
fn set_sender(event: &mut PtpEvent, sender: Option<[u8; 6]>) {
    if let (Some(address), true) = (sender, event.flags & flags::LAYER2 != 0) {
        event.source[..6].copy_from_slice(&address);
    }
}

/// What the packet types of Linux (`PACKET_HOST` and so on) say of the way.
pub(super) const fn direction_of(packet_type: u16) -> Direction {
    match packet_type {
        0..=3 => Direction::Ingress,
        4 => Direction::Egress,
        _ => Direction::Unknown,
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
