//! From the bytes of a frame to an [`Event`] (a [`PtpEvent`] for PTP, where that is asked for), or
//! to the reason why there is none. Runs inside the
//! kernel's verifier, so every loop and every offset has a bound, and a packet that goes beyond
//! one is counted under the bound's own name.

use crate::{
    Authentication, Counter, Event, NtpHeader, PtpEvent, PtpMessage, flags,
    settings::{Link, PortSet, Switch},
};

pub use ptp::PtpFound;

mod ptp;

#[cfg(test)]
mod tests;

/// A packet that can be read at an offset. `None` means that the bytes are not there.
///
/// `T` must be valid for every bit pattern and is read in the byte order of the wire.
pub trait Packet: Sized {
    /// Reads a `T` that begins `offset` bytes into the packet, whatever its alignment. Nothing
    /// begins beyond [`MAX_OFFSET`].
    fn read<T: Copy>(&self, offset: usize) -> Option<T>;

    /// As [`Packet::read`], but writes to where the value belongs, which is ill defined if nothing
    /// was read: copies of anything large are dear in the kernel.
    #[inline(always)]
    fn read_into<T: Copy>(&self, offset: usize, target: &mut T) -> Option<()> {
        *target = self.read(offset)?;
        Some(())
    }

    /// Takes one of the steps that few packets need; the answer is an `Outcome`'s word. In the
    /// kernel this is a call of a function that the verifier looks at once: inlined, it would
    /// follow every way through it for every way that leads to it.
    #[inline(always)]
    fn take(&self, step: Step, offset: usize, argument: u32) -> u64 {
        step.run(self, offset, argument)
    }
}

impl Packet for &[u8] {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let bytes = self.get(offset..offset + size_of::<T>())?;
        // SAFETY: `bytes` is as long as T; the parser reads only integers and arrays of them.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// Why a packet became no event.
pub type Skip = Counter;

/// What the parser has to know.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// The UDP ports that are NTP.
    pub ports: &'a PortSet,
    /// Whether to look into GRE, IP-in-IP and VXLAN.
    pub decapsulate: bool,
    /// Whether PTP is recognised.
    pub ptp: &'a Switch,
}

/// Room for what comes of a frame, whichever it is.
#[derive(Clone, Copy, Debug)]
pub struct Events {
    /// What NTP is written to.
    pub ntp: Event,
    /// What PTP is written to.
    pub ptp: PtpEvent,
}

impl Events {
    /// Nothing in either.
    pub const EMPTY: Self = Self {
        ntp: Event::EMPTY,
        ptp: PtpEvent::EMPTY,
    };
}

/// Which of [`Events`] was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// NTP.
    Ntp,
    /// PTP.
    Ptp,
}

/// VLAN tags looked through, the one that the kernel keeps beside the frame included.
pub const MAX_TAGS: usize = 2;
/// IPv6 extension headers looked through.
pub const MAX_EXTENSION_HEADERS: usize = 4;
/// NTP extension fields looked through.
pub const MAX_EXTENSION_FIELDS: usize = 16;
/// Tunnels looked through.
pub const MAX_TUNNELS: usize = 2;
/// No byte further into the frame than this is read.
pub const MAX_OFFSET: usize = 4095;

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertype of PTP.
pub const ETHERTYPE_PTP: u16 = 0x88f7;
const ETHERTYPE_BRIDGED: u16 = 0x6558;

const IPPROTO_IPV4: u8 = 4;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_GRE: u8 = 47;

const VXLAN_PORT: u16 = 4789;

const HEADER_LENGTH: u16 = size_of::<NtpHeader>() as u16;

/// Parses a whole frame into one of `events`; time, interface and direction are left to the
/// caller, and what stands in the other, or in either when there is an error, means nothing.
/// `outer_tag` is the VLAN id that the kernel holds beside the frame, 0 if none.
///
/// # Errors
/// The reason why the packet is none that can be reported.
#[inline(always)]
pub fn parse<P: Packet>(
    packet: &P,
    link: Link,
    outer_tag: u16,
    settings: Settings<'_>,
    events: &mut Events,
) -> Result<Protocol, Skip> {
    find(packet, link, || outer_tag, settings)?.write(packet, events)
}

/// The first half of [`parse`]: everything that can fail. The tag is asked for only when it is
/// needed, because the kernel has to look for it.
///
/// # Errors
/// The reason why the packet is none that can be reported.
#[inline(always)]
pub fn find<P: Packet>(
    packet: &P,
    link: Link,
    outer_tag: impl Fn() -> u16,
    settings: Settings<'_>,
) -> Result<Found, Skip> {
    let (ethertype, offset) = match link {
        Link::Ethernet => (read_u16(packet, 12)?, 14),
        Link::Ip => (ip_ethertype(packet, 0)?, 0),
    };
    // Without an Ethernet header no ethertype but those of IP comes.
    find_network(packet, ethertype, offset, outer_tag, settings, true)
}

/// As [`parse`], from the network layer on: for link layers that only capture files have. Of PTP
/// without IP the Ethernet addresses are left to the caller.
///
/// # Errors
/// The reason why the packet is none that can be reported.
#[inline(always)]
pub fn parse_network<P: Packet>(
    packet: &P,
    ethertype: u16,
    offset: usize,
    outer_tag: u16,
    settings: Settings<'_>,
    events: &mut Events,
) -> Result<Protocol, Skip> {
    find_network(packet, ethertype, offset, || outer_tag, settings, false)?.write(packet, events)
}

#[inline(always)]
fn find_network<P: Packet>(
    packet: &P,
    mut ethertype: u16,
    mut offset: usize,
    outer_tag: impl Fn() -> u16,
    settings: Settings<'_>,
    ethernet: bool,
) -> Result<Found, Skip> {
    let mut layers = Layers {
        vlan: [0; 2],
        flags: 0,
        ttl: 0,
        network: 0,
    };
    let mut tunnels = 0;
    loop {
        if is_tag(ethertype) {
            let outer = if tunnels == 0 { outer_tag() } else { 0 };
            let argument = u32::from(outer) << 16 | u32::from(ethertype);
            let tags = Outcome::of(packet.take(Step::Tags, offset, argument))?;
            ethertype = tags.detail;
            offset += 4 * (tags.value >> 24) as usize;
            // The ids of the outermost frame are the ones that an operator can act on.
            if tunnels == 0 {
                layers.vlan = [
                    tags.value as u16 & 0x0fff,
                    (tags.value >> 12) as u16 & 0x0fff,
                ];
            }
        }
        layers.network = offset;
        let transport = match ethertype {
            ETHERTYPE_IPV4 => ipv4(packet, &mut layers)?,
            ETHERTYPE_IPV6 => ipv6(packet, &mut layers)?,
            // Within a tunnel its addresses would be another header's.
            ETHERTYPE_PTP if tunnels == 0 && settings.ptp.is_on() => {
                if layers.vlan[0] == 0 {
                    layers.vlan[0] = outer_tag();
                }
                return ptp::without_ip(packet, layers, offset, ethernet).map(Found::Ptp);
            }
            _ => return Err(Skip::NotIp),
        };
        if transport.protocol == IPPROTO_UDP {
            let udp = read_udp(packet, transport.offset)?;
            if settings.ports.contains(udp.source_port)
                || settings.ports.contains(udp.destination_port)
            {
                if layers.vlan[0] == 0 {
                    layers.vlan[0] = outer_tag();
                }
                return ntp(packet, layers, udp, transport.offset + 8).map(Found::Ntp);
            }
            if (ptp::is_port(udp.destination_port) || ptp::is_port(udp.source_port))
                && settings.ptp.is_on()
            {
                if layers.vlan[0] == 0 {
                    layers.vlan[0] = outer_tag();
                }
                return ptp::over_udp(packet, layers, udp, transport.offset + 8).map(Found::Ptp);
            }
            if !(settings.decapsulate && udp.destination_port == VXLAN_PORT) {
                return Err(Skip::OtherPort);
            }
        } else if !settings.decapsulate {
            return Err(Skip::NotUdp);
        }
        tunnels += 1;
        let step = packet.take(Step::Tunnel, transport.offset, transport.protocol.into());
        let inner = Outcome::of(step)?;
        if tunnels > MAX_TUNNELS {
            return Err(Skip::TunnelDepth);
        }
        (ethertype, offset) = (inner.detail, inner.offset()?);
        layers.flags = flags::TUNNELLED;
    }
}

/// What the headers below UDP say.
#[derive(Clone, Copy)]
struct Layers {
    vlan: [u16; 2],
    flags: u8,
    ttl: u8,
    /// Where the IP header begins that carries the UDP header.
    network: usize,
}

/// An address in two words of the wire's byte order.
type Address = [u64; 2];

impl Layers {
    /// Source and destination of the IP header.
    #[inline(always)]
    fn addresses<P: Packet>(&self, packet: &P) -> Result<(Address, Address), Skip> {
        if self.flags & flags::IPV6 == 0 {
            let [source, destination]: [u32; 2] = read(packet, self.network + 12)?;
            Ok((mapped(source), mapped(destination)))
        } else {
            let [source, destination]: [Address; 2] = read(packet, self.network + 8)?;
            Ok((source, destination))
        }
    }
}

/// A packet that will become an event.
#[derive(Clone, Copy)]
pub enum Found {
    /// NTP.
    Ntp(NtpFound),
    /// PTP.
    Ptp(PtpFound),
}

impl Found {
    /// The second half of [`parse`].
    ///
    /// # Errors
    /// None, if it is the packet that this was found in.
    #[inline(always)]
    pub fn write<P: Packet>(&self, packet: &P, events: &mut Events) -> Result<Protocol, Skip> {
        match self {
            Self::Ntp(found) => found.write(packet, &mut events.ntp).map(|()| Protocol::Ntp),
            Self::Ptp(found) => found.write(packet, &mut events.ptp).map(|()| Protocol::Ptp),
        }
    }
}

/// A packet that is NTP.
#[derive(Clone, Copy)]
pub struct NtpFound {
    layers: Layers,
    udp: Udp,
    /// Where the NTP header begins.
    payload: usize,
    /// The first byte of the NTP header.
    first: u8,
    trailer: Outcome,
}

/// A part of the parser that few packets need, see [`Packet::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Walks the IPv6 extension headers from `offset`; the argument is the first one's number.
    ExtensionHeaders = 0,
    /// Looks into the tunnel at `offset`; the argument is the IP protocol.
    Tunnel = 1,
    /// Looks at what follows the NTP header at `offset`; the argument is the length of the UDP
    /// payload and, above it, the NTP version.
    Trailer = 2,
    /// Looks through the VLAN tags at `offset`; the argument is the ethertype that says that there
    /// is one and, above it, the id of the tag beside the frame.
    Tags = 3,
}

impl Step {
    /// Takes the step; the answer is an `Outcome`'s word.
    #[inline(always)]
    pub fn run<P: Packet>(self, packet: &P, offset: usize, argument: u32) -> u64 {
        // Nothing can be read there, and the verifier has to know that nothing is.
        if offset > MAX_OFFSET {
            return Skip::Truncated as u64;
        }
        let outcome = match self {
            Self::ExtensionHeaders => extension_headers(packet, offset, argument as u8),
            Self::Tunnel => tunnel(packet, offset, argument as u8),
            Self::Tags => tags(packet, offset, argument as u16, (argument >> 16) as u16),
            Self::Trailer => Ok(trailer(
                packet,
                offset,
                argument as u16,
                (argument >> 16) as u8,
            )),
        };
        match outcome {
            Ok(outcome) => u64::from(outcome.value) << 32 | u64::from(outcome.detail) << 8,
            Err(skip) => skip as u64,
        }
    }
}

/// What a [`Step`] found, small enough to come back in one register: from bit 0 the reason to skip
/// the packet (0 for none), from bit 8 the detail, from bit 32 the value.
#[derive(Clone, Copy)]
struct Outcome {
    /// Where to go on; or the key id; or the outer VLAN id, the inner one and the number of tags
    /// that lie in the frame, from bits 0, 12 and 24.
    value: u32,
    /// The ethertype; or the protocol and, above it, flags; or the authentication and, above it,
    /// the number of extension fields.
    detail: u16,
}

impl Outcome {
    #[inline(always)]
    const fn of(word: u64) -> Result<Self, Skip> {
        const NOT_UDP: u8 = Skip::NotUdp as u8;
        const OTHER_PORT: u8 = Skip::OtherPort as u8;
        const FRAGMENT: u8 = Skip::Fragment as u8;
        const VLAN_DEPTH: u8 = Skip::VlanDepth as u8;
        const EXTENSION_HEADER_DEPTH: u8 = Skip::ExtensionHeaderDepth as u8;
        match word as u8 {
            0 => Ok(Self {
                value: (word >> 32) as u32,
                detail: (word >> 8) as u16,
            }),
            NOT_UDP => Err(Skip::NotUdp),
            OTHER_PORT => Err(Skip::OtherPort),
            FRAGMENT => Err(Skip::Fragment),
            VLAN_DEPTH => Err(Skip::VlanDepth),
            EXTENSION_HEADER_DEPTH => Err(Skip::ExtensionHeaderDepth),
            _ => Err(Skip::Truncated),
        }
    }

    /// The value as the place to go on from. Bounded here, not only where it is read from: the
    /// verifier of Linux 6.1 forgets a bound that it learns after the number went to the stack.
    #[inline(always)]
    const fn offset(self) -> Result<usize, Skip> {
        let offset = self.value as usize;
        if offset > MAX_OFFSET {
            return Err(Skip::Truncated);
        }
        Ok(offset)
    }
}

#[inline(always)]
fn read<P: Packet, T: Copy>(packet: &P, offset: usize) -> Result<T, Skip> {
    packet.read(offset).ok_or(Skip::Truncated)
}

#[inline(always)]
fn read_u16<P: Packet>(packet: &P, offset: usize) -> Result<u16, Skip> {
    Ok(u16::from_be(read(packet, offset)?))
}

/// A packet without a link header says itself which IP it is.
#[inline(always)]
fn ip_ethertype<P: Packet>(packet: &P, offset: usize) -> Result<u16, Skip> {
    match read::<P, u8>(packet, offset)? >> 4 {
        4 => Ok(ETHERTYPE_IPV4),
        6 => Ok(ETHERTYPE_IPV6),
        _ => Err(Skip::NotIp),
    }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

#[inline(always)]
fn tags<P: Packet>(
    packet: &P,
    mut offset: usize,
    mut ethertype: u16,
    outer: u16,
) -> Result<Outcome, Skip> {
    let mut ids = u32::from(outer & 0x0fff);
    let mut seen = u32::from(ids != 0);
    let mut tags = 0;
    while is_tag(ethertype) {
        if seen == MAX_TAGS as u32 {
            return Err(Skip::VlanDepth);
        }
        let id = read_u16(packet, offset)? & 0x0fff;
        ethertype = read_u16(packet, offset + 2)?;
        offset += 4;
        ids |= u32::from(id) << (12 * seen);
        seen += 1;
        tags += 1;
    }
    Ok(Outcome {
        value: tags << 24 | ids,
        detail: ethertype,
    })
}

struct Transport {
    protocol: u8,
    offset: usize,
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, layers: &mut Layers) -> Result<Transport, Skip> {
    let offset = layers.network;
    let version_and_length: u8 = read(packet, offset)?;
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 != 4 || header_length < 20 {
        return Err(Skip::Malformed);
    }
    // Fragment offset, TTL and protocol in one: most packets leave here.
    let word = u32::from_be(read(packet, offset + 6)?);
    let (fragment, ttl, protocol) = (word >> 16, (word >> 8) as u8, word as u8);
    if !leads_on(protocol) {
        return Err(Skip::NotUdp);
    }
    if fragment & 0x1fff != 0 {
        return Err(Skip::Fragment);
    }
    if fragment & 0x2000 != 0 {
        layers.flags |= flags::FIRST_FRAGMENT;
    }
    layers.ttl = ttl;
    Ok(Transport {
        protocol,
        offset: offset + header_length,
    })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, layers: &mut Layers) -> Result<Transport, Skip> {
    let offset = layers.network;
    if read::<P, u8>(packet, offset)? >> 4 != 6 {
        return Err(Skip::Malformed);
    }
    let [mut protocol, hop_limit]: [u8; 2] = read(packet, offset + 6)?;
    let mut position = offset + 40;
    if is_extension_header(protocol) {
        let step = packet.take(Step::ExtensionHeaders, position, protocol.into());
        let last = Outcome::of(step)?;
        position = last.offset()?;
        protocol = last.detail as u8;
        layers.flags |= (last.detail >> 8) as u8;
    }
    if !leads_on(protocol) {
        return Err(Skip::NotUdp);
    }
    layers.flags |= flags::IPV6;
    layers.ttl = hop_limit;
    Ok(Transport {
        protocol,
        offset: position,
    })
}

/// UDP, or what may hold it.
#[inline(always)]
const fn leads_on(protocol: u8) -> bool {
    matches!(
        protocol,
        IPPROTO_UDP | IPPROTO_GRE | IPPROTO_IPV4 | IPPROTO_IPV6
    )
}

#[inline(always)]
fn extension_headers<P: Packet>(
    packet: &P,
    mut position: usize,
    mut protocol: u8,
) -> Result<Outcome, Skip> {
    let mut fragmented = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension_header(protocol) {
            break;
        }
        let [next, length]: [u8; 2] = read(packet, position)?;
        let size = match protocol {
            44 => {
                let fragment = read_u16(packet, position + 2)?;
                if fragment & 0xfff8 != 0 {
                    return Err(Skip::Fragment);
                }
                if fragment & 1 != 0 {
                    fragmented = flags::FIRST_FRAGMENT;
                }
                8
            }
            // Authentication counts in 4-byte units, the others in 8-byte units.
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        position += size;
        protocol = next;
    }
    if is_extension_header(protocol) {
        return Err(Skip::ExtensionHeaderDepth);
    }
    Ok(Outcome {
        value: position as u32,
        detail: u16::from(fragmented) << 8 | u16::from(protocol),
    })
}

/// Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
const fn is_extension_header(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

#[derive(Clone, Copy)]
struct Udp {
    source_port: u16,
    destination_port: u16,
    length: u16,
}

#[inline(always)]
fn read_udp<P: Packet>(packet: &P, offset: usize) -> Result<Udp, Skip> {
    let header = u64::from_be(read(packet, offset)?);
    Ok(Udp {
        source_port: (header >> 48) as u16,
        destination_port: (header >> 32) as u16,
        length: (header >> 16) as u16,
    })
}

/// The inner packet's ethertype and offset.
#[inline(always)]
fn tunnel<P: Packet>(packet: &P, offset: usize, protocol: u8) -> Result<Outcome, Skip> {
    let (ethertype, inner) = match protocol {
        IPPROTO_UDP => vxlan(packet, offset + 8)?,
        IPPROTO_IPV4 => (ETHERTYPE_IPV4, offset),
        IPPROTO_IPV6 => (ETHERTYPE_IPV6, offset),
        _ => gre(packet, offset)?,
    };
    Ok(Outcome {
        value: inner as u32,
        detail: ethertype,
    })
}

#[inline(always)]
fn vxlan<P: Packet>(packet: &P, offset: usize) -> Result<(u16, usize), Skip> {
    if read::<P, u8>(packet, offset)? & 0x08 == 0 {
        return Err(Skip::OtherPort);
    }
    Ok((read_u16(packet, offset + 8 + 12)?, offset + 8 + 14))
}

#[inline(always)]
fn gre<P: Packet>(packet: &P, offset: usize) -> Result<(u16, usize), Skip> {
    let gre_flags = read_u16(packet, offset)?;
    let protocol = read_u16(packet, offset + 2)?;
    // Version 1 is PPTP: PPP frames, not packets. Routing (bit 1) is long dead.
    if gre_flags & 0x4007 != 0 {
        return Err(Skip::NotUdp);
    }
    let mut inner = offset + 4;
    for bit in [0x8000, 0x2000, 0x1000] {
        if gre_flags & bit != 0 {
            inner += 4;
        }
    }
    if protocol == ETHERTYPE_BRIDGED {
        return Ok((read_u16(packet, inner + 12)?, inner + 14));
    }
    Ok((protocol, inner))
}

#[inline(always)]
fn ntp<P: Packet>(packet: &P, layers: Layers, udp: Udp, payload: usize) -> Result<NtpFound, Skip> {
    if udp.length < 8 {
        return Err(Skip::Malformed);
    }
    let length = udp.length - 8;
    if length < 8 {
        return Err(Skip::ShortPayload);
    }
    let first: u8 = read(packet, payload)?;
    let version = first >> 3 & 7;
    let mode = first & 7;
    if !matches!(version, 1..=5) {
        return Err(Skip::BadVersion);
    }
    let needed = match mode {
        _ if length >= HEADER_LENGTH => HEADER_LENGTH,
        // Control messages have a header of 12 bytes, private ones of 8. Amplifiers are probed
        // with nothing more than that.
        6 if length >= 12 => 12,
        7 => 8,
        _ => return Err(Skip::ShortPayload),
    };
    read::<P, u8>(packet, payload + usize::from(needed) - 1)?;
    let trailer = if length > HEADER_LENGTH && mode < 6 {
        let argument = u32::from(version) << 16 | u32::from(length);
        Outcome::of(packet.take(Step::Trailer, payload, argument))?
    } else {
        Outcome {
            value: 0,
            detail: 0,
        }
    };
    Ok(NtpFound {
        layers,
        udp,
        payload,
        first,
        trailer,
    })
}

impl NtpFound {
    /// The NTP mode, 0 to 7.
    #[inline(always)]
    #[must_use]
    pub const fn mode(&self) -> u8 {
        self.first & 7
    }

    /// Length of the UDP payload.
    #[inline(always)]
    #[must_use]
    pub const fn payload_length(&self) -> u16 {
        self.udp.length - 8
    }

    /// 0 to 3: the same number for both directions between two hosts whatever their ports, and
    /// evenly spread over the clients of one server.
    #[inline(always)]
    pub fn hosts_hash<P: Packet>(&self, packet: &P) -> u8 {
        // Of the addresses the last four bytes: all of IPv4, the part that varies of IPv6.
        let (source, destination) = if self.layers.flags & flags::IPV6 == 0 {
            (self.layers.network + 12, self.layers.network + 16)
        } else {
            (self.layers.network + 20, self.layers.network + 36)
        };
        let source: u32 = packet.read(source).unwrap_or(0);
        let destination: u32 = packet.read(destination).unwrap_or(0);
        // The uppermost bits of the product are those that every bit of the addresses reaches.
        ((source ^ destination).wrapping_mul(0x9e37_79b1) >> 30) as u8
    }

    /// The second half of [`parse`]: fills in `event`, but for time, interface and direction.
    ///
    /// # Errors
    /// None, if it is the packet that this was found in.
    #[inline(always)]
    pub fn write<P: Packet>(&self, packet: &P, event: &mut Event) -> Result<(), Skip> {
        let layers = &self.layers;
        let (source, destination) = layers.addresses(packet)?;
        // SAFETY: the addresses of an event lie at multiples of 8, as asserted below.
        unsafe {
            store(&raw mut event.source, source);
            store(&raw mut event.destination, destination);
        }
        event.source_port = self.udp.source_port;
        event.destination_port = self.udp.destination_port;
        event.payload_length = self.payload_length();
        event.vlan = layers.vlan;
        event.flags = layers.flags;
        event.ttl = layers.ttl;
        [event.authentication, event.extensions] = self.trailer.detail.to_le_bytes();
        event.kind = 0;
        event.key_id = self.trailer.value;
        if self.payload_length() >= HEADER_LENGTH {
            return packet
                .read_into(self.payload, &mut event.ntp)
                .ok_or(Skip::Truncated);
        }
        let start: u64 = read(packet, self.payload)?;
        let rest: u32 = match self.mode() {
            6 => read(packet, self.payload + 8)?,
            _ => 0,
        };
        event.ntp = NtpHeader([0; 48]);
        event.ntp.0[..8].copy_from_slice(&start.to_ne_bytes());
        event.ntp.0[8..12].copy_from_slice(&rest.to_ne_bytes());
        Ok(())
    }
}

/// An IPv4 address as IPv6 carries it.
#[inline(always)]
const fn mapped(ipv4: u32) -> Address {
    [0, (0xffff_0000_0000 | u32::from_be(ipv4) as u64).to_be()]
}

/// Stores an address word by word: the compiler for the kernel would call a function that sets and
/// copies single bytes.
///
/// # Safety
/// The address is one to write to, and aligned as a word.
#[inline(always)]
unsafe fn store(address: *mut [u8; 16], [high, low]: Address) {
    let words = address.cast::<u64>();
    // SAFETY: the caller's. Volatile, or the words would be taken apart again.
    unsafe {
        words.write_volatile(high);
        words.add(1).write_volatile(low);
    }
}

const _: () = assert!(
    align_of::<Event>() == 8
        && core::mem::offset_of!(Event, source) % 8 == 0
        && core::mem::offset_of!(Event, destination) % 8 == 0
        && align_of::<PtpEvent>() == 8
        && core::mem::offset_of!(PtpEvent, source) % 8 == 0
        && core::mem::offset_of!(PtpEvent, destination) % 8 == 0
);

/// Says what follows the header. Up to version 3 it is a MAC; from version 4 on extension fields,
/// then perhaps a MAC.
#[inline(always)]
fn trailer<P: Packet>(packet: &P, payload: usize, length: u16, version: u8) -> Outcome {
    let mut position = payload + usize::from(HEADER_LENGTH);
    let mut rest = usize::from(length.saturating_sub(HEADER_LENGTH));
    let mut secured = false;
    let mut extensions: u8 = 0;
    if version >= 4 {
        for _ in 0..MAX_EXTENSION_FIELDS {
            // What is no longer than a MAC is one, or is nothing: version 5 has no MAC.
            if rest <= 24 && (version == 4 || rest == 0) {
                break;
            }
            let Some([kind, size]) = packet.read::<[u16; 2]>(position) else {
                break;
            };
            let size = usize::from(u16::from_be(size));
            if size < 16 || size % 4 != 0 || size > rest {
                break;
            }
            // Unique identifier, cookie, placeholder, authenticator: all of NTS and nothing else.
            if matches!(u16::from_be(kind), 0x0104 | 0x0204 | 0x0304 | 0x0404) {
                secured = true;
            }
            extensions += 1;
            position += size;
            rest -= size;
        }
    }
    let (authentication, key_id) = if rest == 0 {
        if secured {
            (Authentication::Nts, 0)
        } else {
            (Authentication::None, 0)
        }
    } else if version <= 4 {
        mac(packet, position, rest, version)
    } else {
        (Authentication::Unknown, 0)
    };
    Outcome {
        value: key_id,
        detail: u16::from(extensions) << 8 | u16::from(authentication as u8),
    }
}

/// What kind of MAC stands there, and its key id.
#[inline(always)]
fn mac<P: Packet>(
    packet: &P,
    position: usize,
    length: usize,
    version: u8,
) -> (Authentication, u32) {
    let Some(key_id) = packet.read::<u32>(position) else {
        return (Authentication::Unknown, 0);
    };
    let authentication = match length {
        4 if key_id == 0 => Authentication::CryptoNak,
        20 => {
            // MD5, or a request of Microsoft's kind, which leaves the digest to the server.
            match packet.read::<[u32; 4]>(position + 4) {
                Some([0, 0, 0, 0]) => Authentication::MsSntp,
                Some(_) => Authentication::Mac,
                None => Authentication::Unknown,
            }
        }
        72 if version <= 3 => Authentication::MsSntp,
        21..=24 => Authentication::Mac,
        // Longer digests, which only older versions may carry without an extension field.
        25..=68 if version <= 3 => Authentication::Mac,
        _ => Authentication::Unknown,
    };
    if matches!(authentication, Authentication::Unknown) {
        return (authentication, 0);
    }
    (authentication, u32::from_be(key_id))
}
