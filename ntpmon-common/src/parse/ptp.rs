//! PTP in a packet: over UDP or at once behind the Ethernet header. Recognised and copied here, read
//! in user space; a packet without PTP never comes here.

use super::{
    Address, Layers, Packet, PtpEvent, PtpMessage, Skip, Udp, flags, read, read_u16, store,
};

const EVENT_PORT: u16 = 319;
const GENERAL_PORT: u16 = 320;

/// By type, four bits each: 0 reserved, else how long it has to be, as [`shortest`] says.
const LENGTHS: u64 = 0x0021_4331_0000_3311;

/// A packet that is PTP.
#[derive(Clone, Copy)]
pub struct PtpFound {
    layers: Layers,
    /// Nothing without UDP.
    udp: Option<Udp>,
    /// Whether an Ethernet header stands at the packet's beginning.
    ethernet: bool,
    /// Where the message begins.
    payload: usize,
    /// How long it says to be.
    length: u16,
    domain: u8,
}

/// Whether PTP is sent to this UDP port.
#[inline(always)]
pub(super) const fn is_port(port: u16) -> bool {
    matches!(port, EVENT_PORT | GENERAL_PORT)
}

#[inline(always)]
pub(super) fn over_udp<P: Packet>(
    packet: &P,
    layers: Layers,
    udp: Udp,
    payload: usize,
) -> Result<PtpFound, Skip> {
    if udp.length < 8 {
        return Err(Skip::PtpMalformed);
    }
    let found = message(packet, layers, payload)?;
    if found.length > udp.length - 8 {
        return Err(Skip::PtpMalformed);
    }
    Ok(PtpFound {
        udp: Some(udp),
        ..found
    })
}

#[inline(always)]
pub(super) fn without_ip<P: Packet>(
    packet: &P,
    mut layers: Layers,
    payload: usize,
    ethernet: bool,
) -> Result<PtpFound, Skip> {
    layers.flags |= flags::LAYER2;
    Ok(PtpFound {
        ethernet,
        ..message(packet, layers, payload)?
    })
}

/// The shortest message of a type; `None` for a reserved type.
#[inline(always)]
const fn shortest(kind: u8) -> Option<u16> {
    match LENGTHS >> (4 * (kind & 0x0f)) & 0x0f {
        0 => None,
        1 => Some(44),
        2 => Some(48),
        3 => Some(54),
        _ => Some(64),
    }
}

#[inline(always)]
fn message<P: Packet>(packet: &P, layers: Layers, payload: usize) -> Result<PtpFound, Skip> {
    let [kind, version]: [u8; 2] = read(packet, payload)?;
    if version & 0x0f != 2 {
        return Err(Skip::PtpBadVersion);
    }
    let length = read_u16(packet, payload + 2)?;
    let Some(shortest) = shortest(kind) else {
        return Err(Skip::PtpMalformed);
    };
    if length < shortest {
        return Err(Skip::PtpMalformed);
    }
    Ok(PtpFound {
        layers,
        udp: None,
        ethernet: false,
        payload,
        length,
        domain: read(packet, payload + 4)?,
    })
}

impl PtpFound {
    /// The domain: its messages go together.
    #[inline(always)]
    #[must_use]
    pub const fn domain(&self) -> u8 {
        self.domain
    }

    /// The second half of [`parse`](super::parse): fills in `event`, but for time, interface and
    /// direction.
    ///
    /// # Errors
    /// When the packet ends before what is kept of the message.
    #[inline(always)]
    pub fn write<P: Packet>(&self, packet: &P, event: &mut PtpEvent) -> Result<(), Skip> {
        let layers = &self.layers;
        let (source, destination) = if layers.flags & flags::LAYER2 == 0 {
            layers.addresses(packet)?
        } else if self.ethernet {
            (ethernet(packet, 6)?, ethernet(packet, 0)?)
        } else {
            ([0; 2], [0; 2])
        };
        // SAFETY: the addresses of an event lie at multiples of 8, as asserted beside `store`.
        unsafe {
            store(&raw mut event.source, source);
            store(&raw mut event.destination, destination);
        }
        let (source_port, destination_port, payload_length) = match self.udp {
            Some(udp) => (udp.source_port, udp.destination_port, udp.length - 8),
            None => (0, 0, self.length),
        };
        event.source_port = source_port;
        event.destination_port = destination_port;
        event.payload_length = payload_length;
        event.vlan = layers.vlan;
        event.flags = layers.flags;
        event.ttl = layers.ttl;
        event.reserved = [0; 2];
        event.kind = PtpEvent::KIND;
        event.reserved_too = 0;
        self.copy(packet, &mut event.message)
    }

    /// Copies what is kept of the message, word by word as everything that is large.
    #[inline(always)]
    fn copy<P: Packet>(&self, packet: &P, message: &mut PtpMessage) -> Result<(), Skip> {
        let at = self.payload;
        let start: [u64; 5] = read(packet, at)?;
        let rest: [u64; 3] = if self.length >= 64 {
            read(packet, at + 40)?
        } else if self.length >= 54 {
            let word: u64 = read(packet, at + 40)?;
            let next: u32 = read(packet, at + 48)?;
            let last: u16 = read(packet, at + 52)?;
            // Behind each other in the wire's order, whatever the machine's is.
            let next = u64::from(u32::from_be(next)) << 32 | u64::from(u16::from_be(last)) << 16;
            [word, next.to_be(), 0]
        } else if self.length >= 48 {
            [read(packet, at + 40)?, 0, 0]
        } else {
            let last: u32 = read(packet, at + 40)?;
            [(u64::from(u32::from_be(last)) << 32).to_be(), 0, 0]
        };
        let words = (&raw mut message.0).cast::<u64>();
        for (index, word) in start.into_iter().chain(rest).enumerate() {
            // SAFETY: eight words are as long as a message, which is aligned as one. Volatile, or the
            // loop would become a call of a function that copies byte by byte.
            unsafe { words.add(index).write_volatile(word) };
        }
        Ok(())
    }
}

/// The Ethernet address at an offset, in the first six bytes of an address.
#[inline(always)]
fn ethernet<P: Packet>(packet: &P, offset: usize) -> Result<Address, Skip> {
    const SIX_BYTES: u64 = 0xffff_ffff_ffff_0000_u64.to_be();
    let word: u64 = read(packet, offset)?;
    Ok([word & SIX_BYTES, 0])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use crate::{
        Counter, PtpEvent, PtpType, flags,
        parse::{Events, Protocol, Settings, Skip, parse},
        settings::{Link, PortSet, Switch},
    };

    static PORTS: PortSet = PortSet::of(&[123]);

    fn parse_as(frame: &[u8], outer_tag: u16, ptp: &Switch) -> Result<(Protocol, Events), Skip> {
        let settings = Settings {
            ports: &PORTS,
            decapsulate: false,
            ptp,
        };
        let mut events = Events::EMPTY;
        let protocol = parse(&frame, Link::Ethernet, outer_tag, settings, &mut events)?;
        Ok((protocol, events))
    }

    fn ptp(frame: &[u8]) -> Result<PtpEvent, Skip> {
        let (protocol, events) = parse_as(frame, 0, &Switch::ON)?;
        assert_eq!(protocol, Protocol::Ptp);
        Ok(events.ptp)
    }

    fn frame(types: &[u8], payload: &[u8]) -> Vec<u8> {
        [&[1; 6][..], &[2; 6], types, payload].concat()
    }

    /// A message that is as long as it says.
    fn message(kind: u8, length: u16) -> Vec<u8> {
        let mut message: Vec<u8> = (0..length).map(|byte| byte as u8 | 0x80).collect();
        message[..5].copy_from_slice(&[kind, 2, (length >> 8) as u8, length as u8, 7]);
        message
    }

    fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let length = 8 + payload.len() as u16;
        let header = [ports[0], ports[1], length, 0].map(u16::to_be_bytes);
        [header.as_flattened(), payload].concat()
    }

    fn ipv4(datagram: &[u8]) -> Vec<u8> {
        let header = [
            0x45, 0, 0, 0, 0, 0, 0, 0, 63, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        frame(&[8, 0], &[&header[..], datagram].concat())
    }

    fn ipv6(datagram: &[u8]) -> Vec<u8> {
        let header = [0x60, 0, 0, 0, 0, 0, 17, 62];
        let payload = [&header[..], &[0xfd; 16], &[0xfe; 16], datagram].concat();
        frame(&[0x86, 0xdd], &payload)
    }

    const PTP: &[u8] = &[0x88, 0xf7];

    #[test]
    fn a_message_is_found_over_each_transport() {
        let sync = message(0, 44);
        let event = ptp(&ipv4(&udp([319, 319], &sync))).unwrap();
        assert_eq!((&event.source[12..], event.ttl), (&[192, 0, 2, 1][..], 63));
        assert_eq!((event.source_port, event.destination_port), (319, 319));
        assert_eq!((event.flags, event.payload_length), (0, 44));
        assert_eq!(event.message.kind(), Some(PtpType::Sync));
        assert_eq!(event.message.0[..44], sync[..]);
        assert_eq!(event.message.0[44..], [0; 20]);
        assert_eq!(event.kind, PtpEvent::KIND);

        // Over IPv6 two bytes follow that are none of it.
        let padded = [&sync[..], &[9, 9]].concat();
        let event = ptp(&ipv6(&udp([319, 320], &padded))).unwrap();
        assert_eq!((event.source, event.flags), ([0xfd; 16], flags::IPV6));
        assert_eq!((event.payload_length, event.message.0[44]), (46, 0));

        let event = ptp(&frame(PTP, &[&sync[..], &[0; 2]].concat())).unwrap();
        assert_eq!((event.flags, event.ttl), (flags::LAYER2, 0));
        assert_eq!(event.source[..7], [2, 2, 2, 2, 2, 2, 0]);
        assert_eq!(event.destination[..7], [1, 1, 1, 1, 1, 1, 0]);
        assert_eq!((event.source_port, event.payload_length), (0, 44));
    }

    #[test]
    fn tags_are_looked_through_and_the_kernels_is_the_outermost() {
        let sync = message(0, 44);
        let tagged = frame(&[0x81, 0, 0, 5, 0x88, 0xf7], &sync);
        assert_eq!(ptp(&tagged).unwrap().vlan, [5, 0]);
        let (_, events) = parse_as(&tagged, 6, &Switch::ON).unwrap();
        assert_eq!(events.ptp.vlan, [6, 5]);
        for plain in [frame(PTP, &sync), ipv4(&udp([319, 319], &sync))] {
            let (_, events) = parse_as(&plain, 6, &Switch::ON).unwrap();
            assert_eq!(events.ptp.vlan, [6, 0]);
        }
    }

    #[test]
    fn each_type_has_its_least_length_and_what_is_kept_of_it() {
        for (kind, least) in [
            (0, 44),
            (1, 44),
            (2, 54),
            (3, 54),
            (8, 44),
            (9, 54),
            (10, 54),
            (11, 64),
            (12, 44),
            (13, 48),
        ] {
            for length in [least, least + 1, 48, 53, 54, 63, 64, 65, 200] {
                let message = message(kind, length);
                let found = ptp(&frame(PTP, &message));
                if length < least {
                    assert_eq!(found, Err(Skip::PtpMalformed), "{kind} {length}");
                    continue;
                }
                let kept = match length {
                    64.. => 64,
                    54.. => 54,
                    48.. => 48,
                    _ => 44,
                };
                let bytes = found.unwrap().message.0;
                assert_eq!(bytes[..kept], message[..kept], "{kind} {length}");
                assert!(bytes[kept..].iter().all(|byte| *byte == 0));
            }
            let short = message(kind, least - 1);
            assert_eq!(ptp(&frame(PTP, &short)), Err(Skip::PtpMalformed));
        }
        for kind in [4, 5, 6, 7, 14, 15] {
            let reserved = message(kind, 64);
            assert_eq!(ptp(&frame(PTP, &reserved)), Err(Skip::PtpMalformed));
        }
    }

    #[test]
    fn what_contradicts_itself_is_counted_by_its_reason() {
        let announce = message(11, 64);
        let mut version_1 = announce.clone();
        version_1[1] = 1;
        assert_eq!(ptp(&frame(PTP, &version_1)), Err(Skip::PtpBadVersion));
        // Longer than UDP says.
        let mut datagram = udp([320, 320], &announce);
        datagram[5] = 8 + 63;
        assert_eq!(ptp(&ipv4(&datagram)), Err(Skip::PtpMalformed));
        datagram[5] = 7;
        assert_eq!(ptp(&ipv4(&datagram)), Err(Skip::PtpMalformed));
        // The capture ends before.
        let whole = frame(PTP, &announce);
        for length in 14..whole.len() {
            assert_eq!(ptp(&whole[..length]), Err(Skip::Truncated), "{length}");
        }
    }

    #[test]
    fn without_being_asked_for_it_is_none_and_ntp_ports_go_first() {
        let sync = message(0, 44);
        let off = |frame: &[u8]| parse_as(frame, 0, &Switch::OFF).map(drop);
        assert_eq!(off(&frame(PTP, &sync)), Err(Counter::NotIp));
        assert_eq!(off(&ipv4(&udp([319, 319], &sync))), Err(Counter::OtherPort));
        assert_eq!(ptp(&ipv4(&udp([318, 321], &sync))), Err(Counter::OtherPort));
        let mut ntp = vec![0; 48];
        ntp[0] = 0x23;
        let (protocol, _) = parse_as(&ipv4(&udp([319, 123], &ntp)), 0, &Switch::ON).unwrap();
        assert_eq!(protocol, Protocol::Ntp);
    }
}
