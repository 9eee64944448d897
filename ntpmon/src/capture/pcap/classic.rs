//! The classic pcap format: one header, then records, all of one link type.

use ntpmon_common::Direction;

use super::{Fault, FileLink, Found, Order, input::Window, link};

const FILE_HEADER: usize = 24;

/// Longer frames do not exist: it is the largest snapshot length that any tool takes.
const MAX_FRAME: u32 = 256 * 1024;

/// What the first four bytes say.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    order: Order,
    /// What one unit of a stamp's fraction is in nanoseconds.
    unit: u32,
    /// Length of a record's header.
    record_header: usize,
}

impl Variant {
    pub(super) fn of(magic: [u8; 4]) -> Option<Self> {
        let little = u32::from_le_bytes(magic);
        [(Order::Little, little), (Order::Big, little.swap_bytes())]
            .into_iter()
            .find_map(|(order, magic)| {
                let (unit, record_header) = match magic {
                    0xa1b2_c3d4 => (1000, 16),
                    0xa1b2_3c4d => (1, 16),
                    // A variant of old Linux distributions: interface index, protocol and packet
                    // type stand in each record's header.
                    0xa1b2_cd34 => (1000, MODIFIED_HEADER),
                    _ => return None,
                };
                Some(Self {
                    order,
                    unit,
                    record_header,
                })
            })
    }
}

const MODIFIED_HEADER: usize = 24;

pub(super) struct Classic {
    variant: Variant,
    link: FileLink,
}

impl Classic {
    pub(super) fn open(variant: Variant, window: &mut Window) -> Result<Self, Fault> {
        window.require(FILE_HEADER)?;
        let header = window.bytes();
        let version = variant.order.u16(header, 4);
        if version != 2 {
            return Err(Fault::Corrupt(format!(
                "it says that it is pcap version {version}, and there is none but 2"
            )));
        }
        // The upper half says how long the frames' checksums are, which nothing here reads.
        let link = FileLink::of(variant.order.u32(header, 20) as u16);
        window.consume(FILE_HEADER, 0..0);
        Ok(Self { variant, link })
    }

    #[inline(always)]
    pub(super) fn next(&mut self, window: &mut Window) -> Result<Option<Found>, Fault> {
        let Variant {
            order,
            unit,
            record_header,
        } = self.variant;
        if !window.holds(record_header)? {
            if window.bytes().is_empty() {
                return Ok(None);
            }
            window.require(record_header)?;
        }
        let header = &window.bytes()[..record_header];
        let seconds = u64::from(order.u32(header, 0));
        let fraction = u64::from(order.u32(header, 4));
        let length = order.u32(header, 8);
        let wire_length = order.u32(header, 12);
        let direction = if record_header == MODIFIED_HEADER {
            link::direction_of(u16::from(header[22]))
        } else {
            Direction::Unknown
        };
        if length > MAX_FRAME {
            return Err(Fault::Corrupt(format!(
                "a record of {length} bytes, and none has more than {MAX_FRAME}"
            )));
        }
        let end = record_header + length as usize;
        window.require(end)?;
        Ok(Some(Found {
            interface: 0,
            time: seconds * 1_000_000_000 + fraction * u64::from(unit),
            link: self.link,
            direction,
            wire_length,
            data: window.consume(end, record_header..end),
        }))
    }
}
