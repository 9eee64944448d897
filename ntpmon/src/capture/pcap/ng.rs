//! The pcapng format: blocks, of which some are packets. A section sets the byte order and begins
//! a new list of interfaces, each with a link type and a clock resolution of its own.

use ntpmon_common::Direction;

use super::{Fault, FileLink, Found, Order, input::Window};

/// How a section begins; it reads alike in both byte orders.
pub(super) const SECTION_MAGIC: [u8; 4] = SECTION.to_be_bytes();

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Type and length before the body, the length again behind it.
const BEFORE_BODY: usize = 8;
const AROUND_BODY: usize = 12;

/// Larger blocks are taken for corruption.
const MAX_BLOCK: usize = 16 * 1024 * 1024;
/// More interfaces are taken for corruption.
const MAX_INTERFACES: usize = 1 << 20;

pub(super) struct Ng {
    order: Order,
    /// Of all sections, one after the other.
    interfaces: Vec<Interface>,
    /// Where the current section's begin.
    first_interface: usize,
}

struct Interface {
    name: Option<String>,
    link: FileLink,
    /// Frames are cut at this length; 0 is no limit.
    snapshot_length: u32,
    clock: Clock,
}

impl Ng {
    /// The first section comes first, so that nothing is read in an order not yet known.
    pub(super) const fn new() -> Self {
        Self {
            order: Order::Little,
            interfaces: Vec::new(),
            first_interface: 0,
        }
    }

    pub(super) fn interface_name(&self, index: u32) -> Option<&str> {
        self.interfaces.get(index as usize)?.name.as_deref()
    }

    #[inline(always)]
    pub(super) fn next(&mut self, window: &mut Window) -> Result<Option<Found>, Fault> {
        loop {
            if !window.holds(AROUND_BODY)? {
                if window.bytes().is_empty() {
                    return Ok(None);
                }
                window.require(AROUND_BODY)?;
            }
            let bytes = window.bytes();
            if bytes[..4] == SECTION_MAGIC {
                self.begin_section(bytes)?;
            }
            let kind = self.order.u32(bytes, 0);
            let length = self.order.u32(bytes, 4);
            let end = length as usize;
            if !(AROUND_BODY..=MAX_BLOCK).contains(&end) || !end.is_multiple_of(4) {
                return Err(Fault::Corrupt(format!(
                    "a block of {length} bytes, which is not a multiple of 4 from {AROUND_BODY} \
                     to {MAX_BLOCK}"
                )));
            }
            window.require(end)?;
            let block = &window.bytes()[..end];
            let repeated = self.order.u32(block, end - 4);
            if repeated != length {
                return Err(Fault::Corrupt(format!(
                    "a block that says {length} bytes at its start and {repeated} at its end"
                )));
            }
            let body = &block[BEFORE_BODY..end - 4];
            let found = match kind {
                ENHANCED_PACKET => Some(self.packet(body, self.order.u32_checked(body, 0)?)?),
                OBSOLETE_PACKET => {
                    // A count of drops shares the word with the interface.
                    self.order.u32_checked(body, 0)?;
                    Some(self.packet(body, u32::from(self.order.u16(body, 0)))?)
                }
                SIMPLE_PACKET => Some(self.simple_packet(body)?),
                INTERFACE => {
                    self.describe_interface(body)?;
                    None
                }
                _ => None,
            };
            match found {
                Some(mut found) => {
                    let data = found.data.start + BEFORE_BODY..found.data.end + BEFORE_BODY;
                    found.data = window.consume(end, data);
                    return Ok(Some(found));
                }
                None => window.consume(end, 0..0),
            };
        }
    }

    fn begin_section(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.order = match Order::Little.u32(bytes, 8) {
            0x1a2b_3c4d => Order::Little,
            0x4d3c_2b1a => Order::Big,
            _ => {
                return Err(Fault::Corrupt(
                    "a section that does not say its byte order".to_owned(),
                ));
            }
        };
        self.first_interface = self.interfaces.len();
        Ok(())
    }

    fn describe_interface(&mut self, body: &[u8]) -> Result<(), Fault> {
        let snapshot_length = self.order.u32_checked(body, 4)?;
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(Fault::Corrupt(format!(
                "more than {MAX_INTERFACES} interfaces"
            )));
        }
        let mut interface = Interface {
            name: None,
            link: FileLink::of(self.order.u16(body, 0)),
            snapshot_length,
            clock: Clock::MICROSECONDS,
        };
        for (code, value) in options(self.order, body, 8) {
            match (code, value) {
                (2, name) => {
                    let name = String::from_utf8_lossy(name);
                    interface.name = Some(name.trim_end_matches('\0').to_owned());
                }
                (9, &[resolution]) => interface.clock.set_resolution(resolution),
                (14, &[_, _, _, _, _, _, _, _]) => {
                    let (low, high) = match self.order {
                        Order::Little => (0, 4),
                        Order::Big => (4, 0),
                    };
                    let high = u64::from(self.order.u32(value, high));
                    let low = u64::from(self.order.u32(value, low));
                    interface.clock.offset = (high << 32 | low) as i64;
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// An enhanced packet, or an obsolete one: they differ only in the first word.
    #[inline(always)]
    fn packet(&self, body: &[u8], interface: u32) -> Result<Found, Fault> {
        const HEADER: usize = 20;
        let (index, description) = self.interface(interface)?;
        let wire_length = self.order.u32_checked(body, 16)?;
        let high = u64::from(self.order.u32(body, 4));
        let low = u64::from(self.order.u32(body, 8));
        let length = self.order.u32(body, 12) as usize;
        if length > body.len() - HEADER {
            return Err(Fault::Corrupt(format!(
                "a packet of {length} bytes in a block that has room for {}",
                body.len() - HEADER
            )));
        }
        let end = HEADER + length;
        let after = end.next_multiple_of(4);
        Ok(Found {
            interface: index,
            time: description.clock.nanoseconds(high << 32 | low),
            link: description.link,
            direction: if after < body.len() {
                self.direction(body, after)
            } else {
                Direction::Unknown
            },
            wire_length,
            data: HEADER..end,
        })
    }

    /// A packet of the section's first interface, without a time.
    fn simple_packet(&self, body: &[u8]) -> Result<Found, Fault> {
        const HEADER: usize = 4;
        let (index, description) = self.interface(0)?;
        let wire_length = self.order.u32_checked(body, 0)?;
        let limit = match description.snapshot_length {
            0 => u32::MAX,
            limit => limit,
        };
        let length = wire_length.min(limit) as usize;
        if length > body.len() - HEADER {
            return Err(Fault::Corrupt(format!(
                "a packet of {length} bytes in a block that has room for {}",
                body.len() - HEADER
            )));
        }
        Ok(Found {
            interface: index,
            time: 0,
            link: description.link,
            direction: Direction::Unknown,
            wire_length,
            data: HEADER..HEADER + length,
        })
    }

    #[inline(always)]
    fn interface(&self, id: u32) -> Result<(u32, &Interface), Fault> {
        let index = self.first_interface + id as usize;
        match self.interfaces.get(index) {
            Some(interface) => Ok((index as u32, interface)),
            None => Err(Fault::Corrupt(format!(
                "a packet of interface {id}, and the section describes {} before it",
                self.interfaces.len() - self.first_interface
            ))),
        }
    }

    fn direction(&self, body: &[u8], after: usize) -> Direction {
        for (code, value) in options(self.order, body, after) {
            if let (2, &[_, _, _, _]) = (code, value) {
                return match self.order.u32(value, 0) & 3 {
                    1 => Direction::Ingress,
                    2 => Direction::Egress,
                    _ => Direction::Unknown,
                };
            }
        }
        Direction::Unknown
    }
}

impl Order {
    #[inline(always)]
    fn u32_checked(self, body: &[u8], offset: usize) -> Result<u32, Fault> {
        if body.len() < offset + 4 {
            return Err(Fault::Corrupt(format!(
                "a block with a body of {} bytes, too short for its kind",
                body.len()
            )));
        }
        Ok(self.u32(body, offset))
    }
}

/// Code and value of each option from `offset` on. Ends at the first that does not fit: options
/// are a comment on the packet, and a broken one is no reason to lose it.
fn options(order: Order, body: &[u8], mut offset: usize) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        body.get(offset..offset + 4)?;
        let code = order.u16(body, offset);
        let length = usize::from(order.u16(body, offset + 2));
        if code == 0 {
            return None;
        }
        let value = body.get(offset + 4..offset + 4 + length)?;
        offset += 4 + length.next_multiple_of(4);
        Some((code, value))
    })
}

/// What an interface's stamps mean.
struct Clock {
    unit: Unit,
    /// Seconds to add.
    offset: i64,
}

enum Unit {
    /// Nanoseconds a unit.
    Nanoseconds(u64),
    /// Units a nanosecond.
    Fraction(u64),
    /// 2 to this power is the number of units a second.
    PowerOfTwo(u32),
}

impl Clock {
    const MICROSECONDS: Self = Self {
        unit: Unit::Nanoseconds(1000),
        offset: 0,
    };

    fn set_resolution(&mut self, resolution: u8) {
        let exponent = u32::from(resolution & 0x7f);
        self.unit = if resolution & 0x80 != 0 {
            Unit::PowerOfTwo(exponent)
        } else if exponent <= 9 {
            Unit::Nanoseconds(10_u64.pow(9 - exponent))
        } else {
            // Where the divisor has no room in 64 bits, no stamp reaches a nanosecond.
            10_u64
                .checked_pow(exponent - 9)
                .map_or(Unit::Nanoseconds(0), Unit::Fraction)
        };
    }

    #[inline(always)]
    fn nanoseconds(&self, stamp: u64) -> u64 {
        let time = match self.unit {
            Unit::Nanoseconds(factor) => stamp.saturating_mul(factor),
            Unit::Fraction(divisor) => stamp / divisor,
            Unit::PowerOfTwo(exponent) => {
                let time = (u128::from(stamp) * 1_000_000_000) >> exponent;
                u64::try_from(time).unwrap_or(u64::MAX)
            }
        };
        if self.offset == 0 {
            return time;
        }
        let time = i128::from(time) + i128::from(self.offset) * 1_000_000_000;
        time.clamp(0, i128::from(u64::MAX)) as u64
    }
}
