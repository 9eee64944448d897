//! Files that are cut off, corrupt, or no capture files at all: one clear line each, every frame
//! before the fault, no panic, and no memory taken on the word of a length field.

use std::{fs, io::Cursor};

use proptest::prelude::*;

use super::made::{
    ClassicFile, MICROSECONDS, MODIFIED, NANOSECONDS, NgFile, drain, gzip, open, read_all,
    read_well, zstd,
};
use crate::capture::pcap::{Order, Reader};

/// A classic file, and where each of its records ends.
fn classic(order: Order, magic: u32) -> (Vec<u8>, Vec<usize>) {
    let mut file = ClassicFile::new(order, magic, 1);
    let mut ends = Vec::new();
    for index in 0..5_u8 {
        file.record(1000, u32::from(index), &[index; 9], 60);
        ends.push(file.bytes.len());
    }
    (file.bytes, ends)
}

/// A pcapng file, where each of its packets ends, and where any block does.
fn ng() -> (Vec<u8>, Vec<usize>, Vec<usize>) {
    let mut file = NgFile::new(Order::Big);
    let mut packets = Vec::new();
    let mut blocks = vec![file.bytes.len()];
    file.interface(1, 0, &[file.name("eth0")]);
    blocks.push(file.bytes.len());
    for index in 0..3_u8 {
        if index == 2 {
            file.section(Order::Little);
            blocks.push(file.bytes.len());
            file.interface(1, 0, &[file.resolution(9)]);
            blocks.push(file.bytes.len());
        }
        file.enhanced(0, u64::from(index), &[index; 9], 60, &[file.flags(1)]);
        packets.push(file.bytes.len());
        file.simple(&[index; 5], 5);
        packets.push(file.bytes.len());
        file.obsolete(0, 7, &[index; 5], 5);
        packets.push(file.bytes.len());
    }
    blocks.extend(&packets);
    (file.bytes, packets, blocks)
}

#[test]
fn a_classic_file_cut_off_anywhere_gives_the_frames_before_that() {
    for (order, magic) in [
        (Order::Little, MICROSECONDS),
        (Order::Big, NANOSECONDS),
        (Order::Big, MODIFIED),
    ] {
        let (file, ends) = classic(order, magic);
        let whole = read_well(&file);
        for length in 0..file.len() {
            let (frames, error) = read_all(&file[..length]);
            let complete = ends.iter().filter(|&&end| end <= length).count();
            assert_eq!(frames, whole[..complete], "cut at {length}");
            let expected = match length {
                0 => Some("made is empty".to_owned()),
                1..4 => Some("made is not a capture file".to_owned()),
                4..24 => Some("made is cut off in its header: 24 bytes were".to_owned()),
                24 => None,
                _ if ends.contains(&length) => None,
                _ => Some(format!("made is cut off in packet {}: ", complete + 1)),
            };
            match (error, expected) {
                (None, None) => {}
                (Some(error), Some(expected)) => {
                    assert!(error.starts_with(&expected), "cut at {length}: {error}");
                }
                (error, expected) => panic!("cut at {length}: {error:?}, not {expected:?}"),
            }
        }
    }
}

#[test]
fn a_pcapng_file_cut_off_anywhere_gives_the_frames_before_that() {
    let (file, packets, blocks) = ng();
    let whole = read_well(&file);
    assert_eq!(whole.len(), packets.len());
    for length in 4..file.len() {
        let (frames, error) = read_all(&file[..length]);
        let complete = packets.iter().filter(|&&end| end <= length).count();
        assert_eq!(frames, whole[..complete], "cut at {length}");
        match error {
            None => assert!(blocks.contains(&length), "cut at {length}"),
            Some(error) => {
                assert!(!blocks.contains(&length), "cut at {length}: {error}");
                let expected = format!("made is cut off in packet {}: ", complete + 1);
                assert!(error.starts_with(&expected), "cut at {length}: {error}");
            }
        }
    }
}

#[test]
fn a_packed_file_cut_off_anywhere_is_reported() {
    let (file, _) = classic(Order::Little, NANOSECONDS);
    let whole = read_well(&file);
    for packed in [gzip(&file), zstd(&file)] {
        for length in 0..packed.len() {
            let (frames, error) = read_all(&packed[..length]);
            assert_eq!(frames, whole[..frames.len()]);
            let error = error.unwrap_or_else(|| panic!("no word of the cut at {length}"));
            match length {
                0 => assert!(error.starts_with("made is empty"), "{error}"),
                // A magic that is not whole could be anything.
                1..4 => {}
                _ => assert!(
                    error.starts_with("made is cut off in ")
                        && error.contains("the compressed data ends early"),
                    "cut at {length}: {error}"
                ),
            }
        }
    }
}

#[test]
fn a_packed_file_that_fails_its_checksum_is_reported() {
    let (file, _) = classic(Order::Little, NANOSECONDS);
    let mut packed = gzip(&file);
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    let (frames, error) = read_all(&packed);
    assert_eq!(frames, read_well(&file));
    let error = error.unwrap();
    assert!(
        error.starts_with("cannot read packet 6 of made: "),
        "{error}"
    );
}

#[test]
fn a_cut_off_file_is_told_by_place_and_expectation() {
    let (file, ends) = classic(Order::Little, NANOSECONDS);
    let (frames, error) = read_all(&file[..ends[1] + 20]);
    assert_eq!(frames.len(), 2);
    assert_eq!(
        error.unwrap(),
        "made is cut off in packet 3: 25 bytes were expected at offset 74, and only 20 are there"
    );
}

#[test]
fn foreign_files_are_told_by_how_they_begin() {
    let expectation = "made is not a capture file (pcap or pcapng, gzip and zstd allowed): ";
    for (bytes, rest) in [
        (b"Hello, world".to_vec(), "it begins with 48 65 6c 6c"),
        (b"Hi".to_vec(), "it begins with 48 69"),
        (
            gzip(b"Hello"),
            "what is packed in it begins with 48 65 6c 6c",
        ),
        (
            zstd(b"Hello"),
            "what is packed in it begins with 48 65 6c 6c",
        ),
    ] {
        let error = open(&bytes).err().unwrap();
        assert_eq!(error.to_string(), format!("{expectation}{rest}"));
    }
    for bytes in [Vec::new(), gzip(b""), zstd(b"")] {
        let error = open(&bytes).err().unwrap();
        assert_eq!(
            error.to_string(),
            "made is empty: a capture file (pcap or pcapng) has at least a header"
        );
    }
}

#[test]
fn files_that_cannot_be_read_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let error = Reader::open(folder.path()).err().unwrap();
    let expected = format!("cannot read {}: Is a directory", folder.path().display());
    assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
    let path = folder.path().join("absent.pcap");
    let error = Reader::open(&path).err().unwrap();
    let expected = format!("cannot open {}: No such file", path.display());
    assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
    fs::write(&path, b"").unwrap();
    let error = Reader::open(&path).err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with(&format!("{} is empty", path.display()))
    );
}

#[test]
fn lengths_beyond_belief_are_refused() {
    for claim in [256 * 1024 + 1, u32::MAX] {
        let (mut file, _) = classic(Order::Little, NANOSECONDS);
        let place = file.len();
        file.extend([0; 8]);
        file.extend(claim.to_le_bytes());
        file.extend([0; 4]);
        let (frames, error) = read_all(&file);
        assert_eq!(frames.len(), 5);
        assert_eq!(
            error.unwrap(),
            format!(
                "made is corrupt in packet 6, at offset {place}: a record of {claim} bytes, \
                 and none has more than 262144"
            )
        );
    }
    for claim in [0, 8, 13, 16 * 1024 * 1024 + 4, u32::MAX] {
        let mut file = NgFile::new(Order::Little);
        file.bytes.extend(6_u32.to_le_bytes());
        file.bytes.extend(claim.to_le_bytes());
        file.bytes.extend([0; 100]);
        let error = read_all(&file.bytes).1.unwrap();
        let expected =
            format!("made is corrupt in packet 1, at offset 28: a block of {claim} bytes");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn the_longest_record_is_read() {
    let data = vec![7; 256 * 1024];
    let mut classic = ClassicFile::new(Order::Little, NANOSECONDS, 1);
    classic.record(0, 0, &data, 9);
    assert_eq!(read_well(&classic.bytes)[0].data, data);
    let mut ng = NgFile::new(Order::Little);
    ng.interface(1, 0, &[]);
    let data = vec![7; 16 * 1024 * 1024 - 32];
    ng.enhanced(0, 0, &data, 9, &[]);
    assert_eq!(read_well(&ng.bytes)[0].data, data);
}

#[test]
fn contradictions_of_a_pcapng_file_are_told() {
    let with = |change: &dyn Fn(&mut NgFile)| {
        let mut file = NgFile::new(Order::Big);
        change(&mut file);
        read_all(&file.bytes).1.unwrap()
    };
    for (change, expected) in [
        (
            &(|file: &mut NgFile| file.enhanced(0, 0, b"", 0, &[])) as &dyn Fn(&mut NgFile),
            "a packet of interface 0, and the section describes 0 before it",
        ),
        (
            &|file| {
                file.interface(1, 0, &[]);
                file.section(Order::Little);
                file.enhanced(0, 0, b"", 0, &[]);
            },
            "a packet of interface 0, and the section describes 0 before it",
        ),
        (&|file| file.simple(b"", 0), "a packet of interface 0"),
        (
            &|file| {
                file.interface(1, 0, &[]);
                file.simple(b"abcd", 5);
            },
            "a packet of 5 bytes in a block that has room for 4",
        ),
        (&|file| file.block(6, b""), "a block with a body of 0 bytes"),
        (&|file| file.block(2, b""), "a block with a body of 0 bytes"),
        (
            &|file| file.block(1, b"abcd"),
            "a block with a body of 4 bytes",
        ),
        (
            &|file| {
                file.block(9, b"");
                *file.bytes.last_mut().unwrap() = 16;
            },
            "a block that says 12 bytes at its start and 16 at its end",
        ),
        (
            &|file| file.block(0x0a0d_0d0a, &[0; 16]),
            "a section that does not say its byte order",
        ),
    ] {
        let error = with(change);
        assert!(
            error.starts_with("made is corrupt in packet 1, at offset "),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_version_that_does_not_exist_is_told() {
    let (mut file, _) = classic(Order::Little, NANOSECONDS);
    file[4] = 3;
    assert_eq!(
        open(&file).err().unwrap().to_string(),
        "made is corrupt in its header, at offset 0: it says that it is pcap version 3, and \
         there is none but 2"
    );
}

#[test]
fn broken_options_do_not_cost_the_packet() {
    let mut file = NgFile::new(Order::Little);
    file.interface(1, 0, &[vec![2, 0, 0xff, 0xff]]);
    file.enhanced(0, 5, b"abc", 3, &[vec![2, 0, 0xff, 0xff]]);
    let frames = read_well(&file.bytes);
    assert_eq!(frames[0].data, b"abc");
}

/// Whatever the input, the reader ends, and numbers what it found without gaps.
fn ends(bytes: &[u8]) {
    let input = Box::new(Cursor::new(bytes.to_vec()));
    if let Ok(mut reader) = Reader::from_reader("random".to_owned(), input) {
        let (frames, _) = drain(&mut reader);
        for (frame, number) in frames.iter().zip(1..) {
            assert_eq!(frame.number, number);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(
        start in prop_oneof![
            Just(vec![]),
            Just(ClassicFile::new(Order::Little, MICROSECONDS, 1).bytes),
            Just(ClassicFile::new(Order::Big, MODIFIED, 1).bytes),
            Just(NgFile::new(Order::Little).bytes),
            Just(NgFile::new(Order::Big).bytes),
            Just(vec![0x1f, 0x8b, 8, 0]),
            Just(vec![0x28, 0xb5, 0x2f, 0xfd]),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        ends(&[start, rest].concat());
    }

    #[test]
    fn changed_bytes_do_no_harm(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        packed in 0..3,
        form in 0..3,
    ) {
        let mut file = match form {
            0 => ng().0,
            1 => classic(Order::Little, NANOSECONDS).0,
            _ => classic(Order::Big, MODIFIED).0,
        };
        let change = |file: &mut Vec<u8>| {
            for (place, value) in &changes {
                let place = place.index(file.len());
                file[place] = *value;
            }
        };
        match packed {
            0 => change(&mut file),
            1 => { file = gzip(&file); change(&mut file); }
            _ => { file = zstd(&file); change(&mut file); }
        }
        ends(&file);
    }
}
