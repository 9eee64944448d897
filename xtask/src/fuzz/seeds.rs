//! What fuzzing starts from: one made frame of every kind that the parser knows, and each frame of
//! the project's own captures and of those in the folder that `NTPMON_CAPTURES` names. The `pair`
//! target reads records instead of frames: it starts from the packets of the captures as such.

#[allow(dead_code, reason = "the target uses the rest")]
#[path = "../../../fuzz/record.rs"]
mod record;

use crate::process;
use anyhow::{Context as _, Result};
use ntpmon_common::{
    Event,
    parse::{Events, Settings, parse},
    settings::{Link, PortSet, Switch},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// More than these from one file add no coverage, only start-up time.
const FRAMES_PER_FILE: usize = 500;
/// Packets of one `pair` seed: a few exchanges, whose times are fewer than there are choices.
const PACKETS_PER_SEED: usize = 16;

/// A frame of a capture file.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// In nanoseconds.
    time: i64,
    link: Link,
    data: Vec<u8>,
}

/// Fills the folder with seeds for a target; their number.
pub(super) fn write(target: &str, directory: &Path) -> Result<usize> {
    let mut captures = vec![process::root().join("tests/captures")];
    captures.extend(env::var_os("NTPMON_CAPTURES").map(PathBuf::from));
    let mut files = Vec::new();
    for folder in &captures {
        add_captures(folder, &mut files)?;
    }
    let seeds: Vec<Vec<u8>> = if target == "pair" {
        files.iter().flat_map(|frames| records(frames)).collect()
    } else {
        let frames = files.into_iter().flatten().map(|frame| frame.data);
        made().into_iter().chain(frames).collect()
    };
    for (index, seed) in seeds.iter().enumerate() {
        let path = directory.join(format!("{index:05}"));
        fs::write(&path, seed).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(seeds.len())
}

/// The frames of each capture file of a folder.
fn add_captures(directory: &Path, files: &mut Vec<Vec<Frame>>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            add_captures(&path, files)?;
        } else {
            let file = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let mut frames = split(&file);
            frames.truncate(FRAMES_PER_FILE);
            files.push(frames);
        }
    }
    Ok(())
}

/// The frames of a classic pcap file; nothing for any other file, which is enough for seeds.
fn split(file: &[u8]) -> Vec<Frame> {
    const ETHERNET: u32 = 1;
    let word = |offset: usize| -> Option<[u8; 4]> { file.get(offset..offset + 4)?.try_into().ok() };
    let (number, unit): (fn([u8; 4]) -> u32, i64) = match word(0) {
        Some([0xd4, 0xc3, 0xb2, 0xa1]) => (u32::from_le_bytes, 1000),
        Some([0x4d, 0x3c, 0xb2, 0xa1]) => (u32::from_le_bytes, 1),
        Some([0xa1, 0xb2, 0xc3, 0xd4]) => (u32::from_be_bytes, 1000),
        Some([0xa1, 0xb2, 0x3c, 0x4d]) => (u32::from_be_bytes, 1),
        _ => return Vec::new(),
    };
    let number = |offset: usize| word(offset).map(number);
    let link = if number(20) == Some(ETHERNET) {
        Link::Ethernet
    } else {
        Link::Ip
    };
    let mut frames = Vec::new();
    let mut offset = 24;
    while let (Some(seconds), Some(fraction), Some(length)) =
        (number(offset), number(offset + 4), number(offset + 8))
    {
        let start = offset + 16;
        let Some(data) = file.get(start..start + length as usize) else {
            break;
        };
        frames.push(Frame {
            time: i64::from(seconds) * 1_000_000_000 + i64::from(fraction) * unit,
            link,
            data: data.to_vec(),
        });
        offset = start + data.len();
    }
    frames
}

/// The NTP packets of a capture in the terms of the `pair` target, a few exchanges to a seed.
fn records(frames: &[Frame]) -> Vec<Vec<u8>> {
    let settings = Settings {
        ports: &PortSet::of(&[123]),
        decapsulate: false,
        ptp: &Switch::OFF,
    };
    let packets: Vec<Event> = frames
        .iter()
        .filter_map(|frame| {
            let mut events = Events::EMPTY;
            parse(&&frame.data[..], frame.link, 0, settings, &mut events).ok()?;
            Some(Event {
                time: frame.time.cast_unsigned(),
                ..events.ntp
            })
        })
        .collect();
    packets
        .chunks(PACKETS_PER_SEED)
        .map(|packets| {
            let mut terms = Terms::default();
            packets
                .iter()
                .flat_map(|packet| terms.record(packet))
                .collect()
        })
        .collect()
}

/// What the choices in the records of one seed stand for.
#[derive(Default)]
struct Terms {
    /// When the packet before passed.
    before: Option<u64>,
    addresses: Vec<[u8; 16]>,
    times: Vec<[u8; 8]>,
}

impl Terms {
    fn record(&mut self, packet: &Event) -> [u8; record::RECORD] {
        let ntp = &packet.ntp.0;
        // The target's own host is 1: here, the one that sends first.
        let [source, destination] = [packet.source, packet.destination]
            .map(|end| (number(&mut self.addresses, end) + 1) & 3);
        let [from, to] =
            [packet.source_port, packet.destination_port].map(|port| u8::from(port != 123));
        let [reference, origin, receive, transmit] = [16, 24, 32, 40].map(|at| {
            let mut time = [0; 8];
            time.copy_from_slice(&ntp[at..at + 8]);
            self.choice(time)
        });
        let record = [
            self.step(packet.time),
            source | destination << 2 | from << 4 | to << 5,
            ntp[0],
            ntp[1],
            reference,
            origin,
            receive,
            transmit,
            ntp[12],
            ntp[13],
        ];
        self.before = Some(packet.time);
        record
    }

    /// The longest step that is not longer than what passed since the packet before.
    fn step(&self, time: u64) -> u8 {
        let passed = time.wrapping_sub(self.before.unwrap_or(time)).cast_signed();
        let rising = record::STEPS.iter().take_while(|&&step| step >= 0);
        let steps = rising.filter(|&&step| step <= passed).count();
        steps.saturating_sub(1) as u8
    }

    /// Equal times get equal choices, later ones later choices, and zero stays zero.
    fn choice(&mut self, time: [u8; 8]) -> u8 {
        const ORDINARY: u8 = 4;
        if time == [0; 8] {
            return 0;
        }
        ORDINARY | number(&mut self.times, time) << 3
    }
}

/// Numbers what it meets from 0 on, the same the same; begins again after 32.
fn number<T: PartialEq>(known: &mut Vec<T>, value: T) -> u8 {
    let position = known.iter().rposition(|other| *other == value);
    let position = position.unwrap_or_else(|| {
        known.push(value);
        known.len() - 1
    });
    position as u8 & 31
}

/// A frame of every kind.
fn made() -> Vec<Vec<u8>> {
    let request = ntp(0x23, &[]);
    let plain = ipv4(17, &udp(40000, 123, &request));
    let nts = ntp(
        0x23,
        &[&[1, 4, 0, 36][..], &[7; 32], &[4, 4, 0, 28], &[9; 24]].concat(),
    );
    let signed = ntp(0x24, &[&[0, 0, 0, 5][..], &[3; 16]].concat());
    let inner = ethernet(0x0800, &plain);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner].concat();
    let fragment_header = [17, 0, 0, 1, 0, 0, 0, 1];
    let announce = ptp(11, 64);
    vec![
        ethernet(0x88f7, &ptp(0, 44)),
        ethernet(0x88f7, &ptp(13, 48)),
        ethernet(0x8100, &[&[0, 5, 0x88, 0xf7][..], &announce].concat()),
        ethernet(0x0800, &ipv4(17, &udp(319, 319, &ptp(1, 96)))),
        ethernet(0x86dd, &ipv6(17, &udp(320, 320, &ptp(9, 54)))),
        ethernet(0x86dd, &ipv6(17, &udp(320, 320, &announce))),
        ethernet(0x0800, &plain),
        ethernet(0x0800, &ipv4(17, &udp(123, 40000, &ntp(0x24, &[])))),
        ethernet(0x0800, &ipv4(17, &udp(40000, 123, &nts))),
        ethernet(0x0800, &ipv4(17, &udp(123, 40000, &signed))),
        ethernet(0x0800, &ipv4(17, &udp(40000, 123, &ntp(0x23, &[0; 4])))),
        ethernet(
            0x0800,
            &ipv4(
                17,
                &udp(40000, 123, &[0x16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            ),
        ),
        ethernet(
            0x0800,
            &ipv4(17, &udp(40000, 123, &[0x17, 0, 3, 42, 0, 0, 0, 0])),
        ),
        ethernet(0x0800, &ipv4(17, &udp(40000, 53, &request))),
        ethernet(0x8100, &[&[0, 5, 8, 0][..], &plain].concat()),
        ethernet(0x88a8, &[&[0, 6, 0x81, 0, 0, 5, 8, 0][..], &plain].concat()),
        ethernet(0x86dd, &ipv6(17, &udp(40000, 123, &request))),
        ethernet(
            0x86dd,
            &ipv6(
                44,
                &[&fragment_header[..], &udp(40000, 123, &request)].concat(),
            ),
        ),
        ethernet(
            0x86dd,
            &ipv6(
                0,
                &[
                    &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..],
                    &udp(40000, 123, &request),
                ]
                .concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(17, &udp(40000, 4789, &vxlan))),
        ethernet(0x0800, &ipv4(47, &[&[0, 0, 8, 0][..], &plain].concat())),
        ethernet(
            0x0800,
            &ipv4(
                47,
                &[&[0x20, 0, 0x65, 0x58, 0, 0, 0, 1][..], &inner].concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(4, &plain)),
        ethernet(0x0800, &ipv4(41, &ipv6(17, &udp(40000, 123, &request)))),
        ethernet(0x0806, &[0; 28]),
        plain,
        ipv6(17, &udp(40000, 123, &request)),
    ]
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..],
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let header = [
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    [&header[..], payload].concat()
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next_header, 64];
    [&header[..], &[0xfd; 16], &[0xfe; 16], payload].concat()
}

fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source_port, destination_port, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

/// A message of this type, as long as it says.
fn ptp(kind: u8, length: u16) -> Vec<u8> {
    let mut message: Vec<u8> = (0..length).map(|at| at as u8).collect();
    message[0] = kind;
    message[1] = 0x12;
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

fn ntp(first: u8, trailer: &[u8]) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..48).collect();
    packet[0] = first;
    packet.extend_from_slice(trailer);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_split_into_its_frames() {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
        file.extend([0; 16]);
        file.extend([1, 0, 0, 0]);
        for frame in [&b"first"[..], b"second"] {
            file.extend([2, 0, 0, 0, 3, 0, 0, 0]);
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend([0; 4]);
            file.extend(frame);
        }
        file.extend([0; 9]);
        let frame = |data: &[u8]| Frame {
            time: 2_000_003_000,
            link: Link::Ethernet,
            data: data.to_vec(),
        };
        assert_eq!(split(&file), [frame(b"first"), frame(b"second")]);
        assert!(split(b"something else").is_empty());
    }

    #[test]
    fn a_folder_of_captures_that_is_not_there_is_an_error() {
        assert!(add_captures(Path::new("/nonexistent/captures"), &mut Vec::new()).is_err());
    }

    #[test]
    fn recorded_exchanges_stay_exchanges_as_records() {
        let file = process::root().join("tests/captures/plain.pcap");
        let seeds = records(&split(&fs::read(file).unwrap()));
        assert_eq!(seeds.len(), 96 / PACKETS_PER_SEED);
        for seed in seeds {
            let records = seed.as_chunks::<{ record::RECORD }>().0;
            assert_eq!(records.len(), PACKETS_PER_SEED);
            for [request, response] in records.as_chunks::<2>().0 {
                assert_eq!((request[1], response[1]), (0b01_10_01, 0b10_01_10));
                assert_eq!((request[2] & 7, response[2] & 7), (3, 4));
                // It names the request, and is of the server's own times.
                assert_eq!(response[5], request[7]);
                assert!(record::time(response[6]) < record::time(response[7]));
                assert!((1..10).contains(&response[0]), "{response:?}");
            }
        }
    }
}
