//! Capture files made by the tests: the same packets in every format and behind every link header
//! that `ntpmon replay` reads. And the reading of the plain ones, with code that shares nothing with
//! ntpmon's.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    frames,
    tcpdump::{Capture, Captured},
};

/// How a file of the classic format is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// In the byte order that is not this machine's.
    pub swapped: bool,
    /// With stamps in microseconds instead of nanoseconds.
    pub microseconds: bool,
}

/// A pcap file.
pub fn write(capture: &Capture, form: Form) -> Vec<u8> {
    let word = |value: u32| {
        let value = if form.swapped {
            value.swap_bytes()
        } else {
            value
        };
        value.to_ne_bytes()
    };
    let (magic, unit) = if form.microseconds {
        (0xa1b2_c3d4, 1000)
    } else {
        (0xa1b2_3c4d, 1)
    };
    let version = if form.swapped == cfg!(target_endian = "little") {
        [0, 2, 0, 4]
    } else {
        [2, 0, 4, 0]
    };
    let mut file = word(magic).to_vec();
    file.extend(version);
    for value in [0, 0, 262_144, capture.link_type] {
        file.extend(word(value));
    }
    for packet in &capture.packets {
        let fraction = packet.time % 1_000_000_000 / unit;
        let length = packet.bytes.len() as u32;
        for value in [
            (packet.time / 1_000_000_000) as u32,
            fraction as u32,
            length,
            length,
        ] {
            file.extend(word(value));
        }
        file.extend(&packet.bytes);
    }
    file
}

/// A pcapng file with nanoseconds and interfaces of these names; packets take turns among them, pair
/// by pair, so that a request and its response share one.
pub fn write_ng(capture: &Capture, names: &[&str]) -> Vec<u8> {
    let option = |code: u16, value: &[u8]| {
        let mut option = code.to_ne_bytes().to_vec();
        option.extend((value.len() as u16).to_ne_bytes());
        option.extend(value);
        option.resize(option.len().next_multiple_of(4), 0);
        option
    };
    let block = |kind: u32, mut body: Vec<u8>| {
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (body.len() as u32 + 12).to_ne_bytes();
        [&kind.to_ne_bytes()[..], &length, &body, &length].concat()
    };
    let mut section = 0x1a2b_3c4d_u32.to_ne_bytes().to_vec();
    section.extend([1_u16.to_ne_bytes(), 0_u16.to_ne_bytes()].concat());
    section.extend(u64::MAX.to_ne_bytes());
    let mut file = block(0x0a0d_0d0a, section);
    for name in names {
        let mut interface = (capture.link_type as u16).to_ne_bytes().to_vec();
        interface.extend([0; 2]);
        interface.extend(262_144_u32.to_ne_bytes());
        interface.extend(option(2, name.as_bytes()));
        interface.extend(option(9, &[9]));
        interface.extend(option(0, &[]));
        file.extend(block(1, interface));
    }
    for (index, packet) in capture.packets.iter().enumerate() {
        let length = packet.bytes.len() as u32;
        let mut body = Vec::new();
        for value in [
            (index / 2 % names.len()) as u32,
            (packet.time >> 32) as u32,
            packet.time as u32,
            length,
            length,
        ] {
            body.extend(value.to_ne_bytes());
        }
        body.extend(&packet.bytes);
        file.extend(block(6, body));
    }
    file
}

/// A link that carries IP packets in another way than Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Nothing before the packet.
    Raw,
    /// The family of addresses, in the byte order of whoever captured.
    Null,
    /// The same, most significant byte first.
    Loop,
    /// What tcpdump writes for `-i any`, the first kind.
    Cooked,
    /// The second kind.
    Cooked2,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Raw,
        Self::Null,
        Self::Loop,
        Self::Cooked,
        Self::Cooked2,
    ];

    const fn number(self) -> u32 {
        match self {
            Self::Null => 0,
            Self::Raw => Capture::RAW,
            Self::Loop => 108,
            Self::Cooked => 113,
            Self::Cooked2 => 276,
        }
    }

    fn header(self, packet: &[u8]) -> Vec<u8> {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let family: u32 = if v6 { 10 } else { 2 };
        let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        // Outgoing, from an Ethernet device, with an address of 6 bytes.
        let address = [2, 0, 0, 0, 0, 1, 0, 0];
        match self {
            Self::Raw => Vec::new(),
            Self::Null => family.to_ne_bytes().to_vec(),
            Self::Loop => family.to_be_bytes().to_vec(),
            Self::Cooked => [&[0, 4, 0, 1, 0, 6][..], &address, &ethertype].concat(),
            Self::Cooked2 => {
                let device = [0, 0, 0, 0, 0, 3, 0, 1, 4, 6];
                [&ethertype[..], &device, &address].concat()
            }
        }
    }

    /// The same packets, behind this link's headers.
    pub fn carry(self, ethernet: &Capture) -> Result<Capture> {
        ensure!(ethernet.link_type == Capture::ETHERNET, "not Ethernet");
        let packets = ethernet.packets.iter().map(|it| {
            let packet = frames::packet_of(&it.bytes).context("a frame without a packet")?;
            Ok(Captured {
                time: it.time,
                bytes: [&self.header(packet), packet].concat(),
            })
        });
        Ok(Capture {
            link_type: self.number(),
            packets: packets.collect::<Result<_>>()?,
        })
    }
}

/// Reads a pcap file of either resolution and of either byte order.
pub fn read(file: &Path) -> Result<Capture> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&bytes).with_context(|| format!("{} is no pcap file", file.display()))
}

fn parse(bytes: &[u8]) -> Result<Capture> {
    let word = |at: usize| -> Result<u32> {
        let word = bytes.get(at..at + 4).context("it ends early")?;
        Ok(u32::from_le_bytes(word.try_into()?))
    };
    let magic = word(0)?;
    let (swapped, unit) = match magic {
        0xa1b2_c3d4 => (false, 1000),
        0xa1b2_3c4d => (false, 1),
        0xd4c3_b2a1 => (true, 1000),
        0x4d3c_b2a1 => (true, 1),
        _ => bail!("its magic number is {magic:#x}"),
    };
    let word = |at: usize| word(at).map(|it| if swapped { it.swap_bytes() } else { it });
    let mut capture = Capture {
        link_type: word(20)?,
        packets: Vec::new(),
    };
    let mut at = 24;
    while at < bytes.len() {
        let length = word(at + 8)? as usize;
        let data = bytes.get(at + 16..at + 16 + length);
        capture.packets.push(Captured {
            time: u64::from(word(at)?) * 1_000_000_000 + u64::from(word(at + 4)?) * unit,
            bytes: data.context("a packet is cut off")?.to_vec(),
        });
        at += 16 + length;
    }
    Ok(capture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let capture = Capture {
            link_type: Capture::ETHERNET,
            packets: vec![Captured {
                time: 1_700_000_000_123_456_000,
                bytes: vec![1, 2, 3],
            }],
        };
        for swapped in [false, true] {
            for microseconds in [false, true] {
                let form = Form {
                    swapped,
                    microseconds,
                };
                assert_eq!(parse(&write(&capture, form)).unwrap(), capture, "{form:?}");
            }
        }
    }
}
