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
