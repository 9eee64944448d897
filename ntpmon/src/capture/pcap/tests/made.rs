//! Capture files made byte by byte, in every variant that the formats allow, and the packets to
//! put into them.

use std::io::{Cursor, Read, Write};

use crate::capture::pcap::{FileLink, Order, Reader};
use ntpmon_common::Direction;

impl Order {
    pub(super) fn put16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub(super) fn put32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn put64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

pub(super) const MICROSECONDS: u32 = 0xa1b2_c3d4;
pub(super) const NANOSECONDS: u32 = 0xa1b2_3c4d;
pub(super) const MODIFIED: u32 = 0xa1b2_cd34;

/// A classic file.
pub(super) struct ClassicFile {
    pub(super) bytes: Vec<u8>,
    order: Order,
    magic: u32,
}

impl ClassicFile {
    pub(super) fn new(order: Order, magic: u32, link: u32) -> Self {
        let mut bytes = Vec::new();
        bytes.extend(order.put32(magic));
        bytes.extend(order.put16(2));
        bytes.extend(order.put16(4));
        bytes.extend([0; 8]);
        bytes.extend(order.put32(262_144));
        bytes.extend(order.put32(link));
        Self {
            bytes,
            order,
            magic,
        }
    }

    pub(super) fn record(&mut self, seconds: u32, fraction: u32, data: &[u8], wire_length: u32) {
        for word in [seconds, fraction, data.len() as u32, wire_length] {
            self.bytes.extend(self.order.put32(word));
        }
        if self.magic == MODIFIED {
            // Interface index, protocol, packet type "outgoing", padding.
            self.bytes.extend(self.order.put32(7));
            self.bytes.extend(self.order.put16(0x0800));
            self.bytes.extend([4, 0]);
        }
        self.bytes.extend(data);
    }
}

/// A pcapng file.
pub(super) struct NgFile {
    pub(super) bytes: Vec<u8>,
    order: Order,
}

impl NgFile {
    pub(super) fn new(order: Order) -> Self {
        let mut file = Self {
            bytes: Vec::new(),
            order,
        };
        file.section(order);
        file
    }

    pub(super) fn section(&mut self, order: Order) {
        self.order = order;
        let mut body = Vec::new();
        body.extend(order.put32(0x1a2b_3c4d));
        body.extend(order.put16(1));
        body.extend(order.put16(0));
        body.extend([0xff; 8]);
        self.block(0x0a0d_0d0a, &body);
    }

    pub(super) fn block(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        let length = self.order.put32(padded as u32 + 12);
        self.bytes.extend(self.order.put32(kind));
        self.bytes.extend(length);
        self.bytes.extend(body);
        self.bytes.extend(vec![0; padded - body.len()]);
        self.bytes.extend(length);
    }

    pub(super) fn option(&self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut option = Vec::new();
        option.extend(self.order.put16(code));
        option.extend(self.order.put16(value.len() as u16));
        option.extend(value);
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    pub(super) fn name(&self, name: &str) -> Vec<u8> {
        self.option(2, name.as_bytes())
    }

    pub(super) fn resolution(&self, resolution: u8) -> Vec<u8> {
        self.option(9, &[resolution])
    }

    pub(super) fn offset(&self, seconds: i64) -> Vec<u8> {
        self.option(14, &self.order.put64(seconds as u64))
    }

    pub(super) fn flags(&self, flags: u32) -> Vec<u8> {
        self.option(2, &self.order.put32(flags))
    }

    pub(super) fn interface(&mut self, link: u16, snapshot_length: u32, options: &[Vec<u8>]) {
        let mut body = Vec::new();
        body.extend(self.order.put16(link));
        body.extend([0; 2]);
        body.extend(self.order.put32(snapshot_length));
        self.append_options(&mut body, options);
        self.block(1, &body);
    }

    pub(super) fn enhanced(
        &mut self,
        interface: u32,
        stamp: u64,
        data: &[u8],
        wire_length: u32,
        options: &[Vec<u8>],
    ) {
        let first = self.order.put32(interface);
        self.packet(6, first, stamp, data, wire_length, options);
    }

    pub(super) fn obsolete(&mut self, interface: u16, stamp: u64, data: &[u8], wire_length: u32) {
        let [a, b] = self.order.put16(interface);
        // Behind the interface stands a count of drops.
        self.packet(2, [a, b, 0xff, 0xff], stamp, data, wire_length, &[]);
    }

    pub(super) fn simple(&mut self, data: &[u8], wire_length: u32) {
        let mut body = self.order.put32(wire_length).to_vec();
        body.extend(data);
        self.block(3, &body);
    }

    fn packet(
        &mut self,
        kind: u32,
        first: [u8; 4],
        stamp: u64,
        data: &[u8],
        wire_length: u32,
        options: &[Vec<u8>],
    ) {
        let mut body = first.to_vec();
        for word in [
            (stamp >> 32) as u32,
            stamp as u32,
            data.len() as u32,
            wire_length,
        ] {
            body.extend(self.order.put32(word));
        }
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        self.append_options(&mut body, options);
        self.block(kind, &body);
    }

    fn append_options(&self, body: &mut Vec<u8>, options: &[Vec<u8>]) {
        for option in options {
            body.extend(option);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
    }
}

/// What [`read_all`] keeps of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) interface: u32,
    pub(super) time: u64,
    pub(super) link: FileLink,
    pub(super) direction: Direction,
    pub(super) data: Vec<u8>,
    pub(super) wire_length: u32,
}

/// Every frame, and the error after the last, if there is one.
pub(super) fn drain(reader: &mut Reader) -> (Vec<Kept>, Option<String>) {
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(Kept {
                number: frame.number,
                interface: frame.interface,
                time: frame.time,
                link: frame.link,
                direction: frame.direction,
                data: frame.data.to_vec(),
                wire_length: frame.wire_length,
            }),
            Ok(None) => return (frames, None),
            Err(error) => {
                assert!(
                    reader.next_frame().unwrap().is_none(),
                    "read on after an error"
                );
                return (frames, Some(format!("{error:#}")));
            }
        }
    }
}

pub(super) fn open(bytes: &[u8]) -> anyhow::Result<Reader> {
    Reader::from_reader("made".to_owned(), Box::new(Cursor::new(bytes.to_vec())))
}

/// As [`drain`]; an error at the opening counts as one after no frame.
pub(super) fn read_all(bytes: &[u8]) -> (Vec<Kept>, Option<String>) {
    match open(bytes) {
        Ok(mut reader) => drain(&mut reader),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    }
}

/// Every frame of a file in which nothing is wrong.
pub(super) fn read_well(bytes: &[u8]) -> Vec<Kept> {
    let (frames, error) = read_all(bytes);
    assert_eq!(error, None);
    frames
}

/// Hands out one byte at a time, as the slowest of pipes would.
pub(super) struct Trickle(pub(super) Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A UDP datagram to port 123 with a client's request in it.
fn request() -> Vec<u8> {
    let mut udp = vec![0x30, 0x39, 0, 123, 0, 56, 0, 0];
    udp.push(0x23);
    udp.extend(1..48);
    udp
}

/// A request in IPv4.
pub(super) fn ipv4_request() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 76, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
    packet.extend(request());
    packet
}

/// A request in IPv6.
pub(super) fn ipv6_request() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 56, 17, 63];
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(request());
    packet
}

/// The packet behind a link header.
pub(super) fn behind(header: &[u8], packet: &[u8]) -> Vec<u8> {
    [header, packet].concat()
}

/// An Ethernet frame around an IP packet.
pub(super) fn ethernet(packet: &[u8]) -> Vec<u8> {
    let mut header = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    header.extend(ethertype(packet));
    behind(&header, packet)
}

/// The ethertype of an IP packet, as on the wire.
pub(super) fn ethertype(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    }
}
