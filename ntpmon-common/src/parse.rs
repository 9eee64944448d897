//! From the bytes of a frame to an [`Event`], or to the reason why there is none. Runs inside the
//! kernel's verifier, so every loop and every offset has a bound, and a packet that goes beyond
//! one is counted under the bound's own name.

use crate::{
    Authentication, Counter, Event, NtpHeader, flags,
    settings::{Link, PortSet},
};

/// A packet that can be read at an offset. `None` means that the bytes are not there.
///
/// `T` must be valid for every bit pattern and is read in the byte order of the wire.
pub trait Packet {
    /// Reads a `T` that begins `offset` bytes into the packet, whatever its alignment.
    fn read<T: Copy>(&self, offset: usize) -> Option<T>;
}

impl Packet for &[u8] {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
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
const ETHERTYPE_BRIDGED: u16 = 0x6558;

const IPPROTO_IPV4: u8 = 4;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_IPV6: u8 = 41;
const IPPROTO_GRE: u8 = 47;

const VXLAN_PORT: u16 = 4789;

const HEADER_LENGTH: u16 = size_of::<NtpHeader>() as u16;

/// Parses a whole frame into `event`, which must be [`Event::EMPTY`]; time, interface and
/// direction are left to the caller. `outer_tag` is the VLAN id that the kernel holds beside the
/// frame, 0 if none.
///
/// # Errors
/// The reason why the packet is not an NTP packet that can be reported.
#[inline(always)]
pub fn parse<P: Packet>(
    packet: &P,
    link: Link,
    outer_tag: u16,
    settings: Settings<'_>,
    event: &mut Event,
) -> Result<(), Skip> {
    let (ethertype, offset) = match link {
        Link::Ethernet => (read_u16(packet, 12)?, 14),
        Link::Ip => (ip_ethertype(packet, 0)?, 0),
    };
    parse_network(packet, ethertype, offset, outer_tag, settings, event)
}

/// As [`parse`], from the network layer on: for link layers that only capture files have.
///
/// # Errors
/// The reason why the packet is not an NTP packet that can be reported.
#[inline(always)]
pub fn parse_network<P: Packet>(
    packet: &P,
    mut ethertype: u16,
    mut offset: usize,
    outer_tag: u16,
    settings: Settings<'_>,
    event: &mut Event,
) -> Result<(), Skip> {
    event.vlan[0] = outer_tag;
    let mut tunnels = 0;
    loop {
        (ethertype, offset) = skip_tags(packet, ethertype, offset, tunnels > 0, event)?;
        let transport = match ethertype {
            ETHERTYPE_IPV4 => ipv4(packet, offset, event)?,
            ETHERTYPE_IPV6 => ipv6(packet, offset, event)?,
            _ => return Err(Skip::NotIp),
        };
        let inner = if transport.protocol == IPPROTO_UDP {
            let udp = read_udp(packet, transport.offset)?;
            if settings.ports.contains(udp.source_port)
                || settings.ports.contains(udp.destination_port)
            {
                return ntp(packet, &udp, transport.offset + 8, event);
            }
            if !(settings.decapsulate && udp.destination_port == VXLAN_PORT) {
                return Err(Skip::OtherPort);
            }
            vxlan(packet, transport.offset + 8)?
        } else if settings.decapsulate {
            match transport.protocol {
                IPPROTO_IPV4 => (ETHERTYPE_IPV4, transport.offset),
                IPPROTO_IPV6 => (ETHERTYPE_IPV6, transport.offset),
                IPPROTO_GRE => gre(packet, transport.offset)?,
                _ => return Err(Skip::NotUdp),
            }
        } else {
            return Err(Skip::NotUdp);
        };
        tunnels += 1;
        if tunnels > MAX_TUNNELS {
            return Err(Skip::TunnelDepth);
        }
        (ethertype, offset) = inner;
        event.flags = flags::TUNNELLED;
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
fn skip_tags<P: Packet>(
    packet: &P,
    mut ethertype: u16,
    mut offset: usize,
    tunnelled: bool,
    event: &mut Event,
) -> Result<(u16, usize), Skip> {
    let mut seen = usize::from(!tunnelled && event.vlan[0] != 0);
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        if seen == MAX_TAGS {
            return Err(Skip::VlanDepth);
        }
        let id = read_u16(packet, offset)? & 0x0fff;
        ethertype = read_u16(packet, offset + 2)?;
        offset += 4;
        // The ids of the outer frame are the ones that an operator can act on.
        if !tunnelled {
            if seen == 0 {
                event.vlan[0] = id;
            } else {
                event.vlan[1] = id;
            }
        }
        seen += 1;
    }
    if is_tag(ethertype) {
        return Err(Skip::VlanDepth);
    }
    Ok((ethertype, offset))
}

struct Transport {
    protocol: u8,
    offset: usize,
}

#[inline(always)]
const fn mapped(ipv4: u32) -> [u8; 16] {
    let [a, b, c, d] = ipv4.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, offset: usize, event: &mut Event) -> Result<Transport, Skip> {
    let version_and_length: u8 = read(packet, offset)?;
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 != 4 || header_length < 20 {
        return Err(Skip::Malformed);
    }
    let [ttl, protocol]: [u8; 2] = read(packet, offset + 8)?;
    // Decided before anything else is read: most packets leave here.
    if !matches!(protocol, IPPROTO_UDP | IPPROTO_GRE | IPPROTO_IPV4 | IPPROTO_IPV6) {
        return Err(Skip::NotUdp);
    }
    let fragment = read_u16(packet, offset + 6)?;
    if fragment & 0x1fff != 0 {
        return Err(Skip::Fragment);
    }
    if fragment & 0x2000 != 0 {
        event.flags |= flags::FIRST_FRAGMENT;
    }
    event.ttl = ttl;
    event.source = mapped(read(packet, offset + 12)?);
    event.destination = mapped(read(packet, offset + 16)?);
    Ok(Transport {
        protocol,
        offset: offset + header_length,
    })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, offset: usize, event: &mut Event) -> Result<Transport, Skip> {
    if read::<P, u8>(packet, offset)? >> 4 != 6 {
        return Err(Skip::Malformed);
    }
    let [mut protocol, hop_limit]: [u8; 2] = read(packet, offset + 6)?;
    let mut position = offset + 40;
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
                    event.flags |= flags::FIRST_FRAGMENT;
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
    if !matches!(protocol, IPPROTO_UDP | IPPROTO_GRE | IPPROTO_IPV4 | IPPROTO_IPV6) {
        return Err(Skip::NotUdp);
    }
    event.flags |= flags::IPV6;
    event.ttl = hop_limit;
    event.source = address(read(packet, offset + 8)?);
    event.destination = address(read(packet, offset + 24)?);
    Ok(Transport {
        protocol,
        offset: position,
    })
}

/// Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
const fn is_extension_header(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

#[inline(always)]
const fn address([high, low]: [u64; 2]) -> [u8; 16] {
    // Whole words: the compiler for the kernel would copy sixteen single bytes.
    let [a, b, c, d, e, f, g, h] = high.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = low.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

struct Udp {
    source_port: u16,
    destination_port: u16,
    length: u16,
}

#[inline(always)]
fn read_udp<P: Packet>(packet: &P, offset: usize) -> Result<Udp, Skip> {
    let [source_port, destination_port, length]: [u16; 3] = read(packet, offset)?;
    Ok(Udp {
        source_port: u16::from_be(source_port),
        destination_port: u16::from_be(destination_port),
        length: u16::from_be(length),
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
fn ntp<P: Packet>(packet: &P, udp: &Udp, offset: usize, event: &mut Event) -> Result<(), Skip> {
    if udp.length < 8 {
        return Err(Skip::Malformed);
    }
    let length = udp.length - 8;
    if length < 8 {
        return Err(Skip::ShortPayload);
    }
    let first: u8 = read(packet, offset)?;
    let version = first >> 3 & 7;
    let mode = first & 7;
    if !matches!(version, 1..=5) {
        return Err(Skip::BadVersion);
    }
    if length >= HEADER_LENGTH {
        event.ntp = read(packet, offset)?;
    } else {
        // Control messages have a header of 12 bytes, private ones of 8. Amplifiers are probed
        // with nothing more than that.
        let start: [u8; 8] = read(packet, offset)?;
        event.ntp.0[..8].copy_from_slice(&start);
        match mode {
            6 if length >= 12 => {
                let rest: [u8; 4] = read(packet, offset + 8)?;
                event.ntp.0[8..12].copy_from_slice(&rest);
            }
            7 => {}
            _ => return Err(Skip::ShortPayload),
        }
    }
    event.source_port = udp.source_port;
    event.destination_port = udp.destination_port;
    event.payload_length = length;
    if length > HEADER_LENGTH && mode < 6 {
        trailer(packet, offset, length, version, event);
    }
    Ok(())
}

/// Says what follows the header. Up to version 3 it is a MAC; from version 4 on extension fields,
/// then perhaps a MAC.
#[inline(always)]
fn trailer<P: Packet>(packet: &P, payload: usize, length: u16, version: u8, event: &mut Event) {
    let mut position = payload + usize::from(HEADER_LENGTH);
    let mut rest = usize::from(length - HEADER_LENGTH);
    let mut secured = false;
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
            event.extensions += 1;
            position += size;
            rest -= size;
        }
    }
    let authentication = if rest == 0 {
        if secured {
            Authentication::Nts
        } else {
            Authentication::None
        }
    } else if version <= 4 {
        mac(packet, position, rest, version, event)
    } else {
        Authentication::Unknown
    };
    event.authentication = authentication as u8;
}

#[inline(always)]
fn mac<P: Packet>(
    packet: &P,
    position: usize,
    length: usize,
    version: u8,
    event: &mut Event,
) -> Authentication {
    let Some(key_id) = packet.read::<u32>(position) else {
        return Authentication::Unknown;
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
    if !matches!(authentication, Authentication::Unknown) {
        event.key_id = u32::from_be(key_id);
    }
    authentication
}
