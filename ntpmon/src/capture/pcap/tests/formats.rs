//! Every variant of the formats.

use std::{
    fs,
    io::{Cursor, Write},
};

use ntpmon_common::Direction;

use super::made::{
    ClassicFile, MICROSECONDS, MODIFIED, NANOSECONDS, NgFile, Trickle, drain, gzip, open,
    read_well, zstd,
};
use crate::capture::pcap::{FileLink, Order, Reader};

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

/// A small file with frames of different lengths.
fn small() -> Vec<u8> {
    let mut file = ClassicFile::new(Order::Little, NANOSECONDS, 1);
    for index in 0..20_u8 {
        file.record(
            1000,
            u32::from(index),
            &vec![index; usize::from(index) * 7],
            1500,
        );
    }
    file.bytes
}

#[test]
fn classic_files_read_alike_in_both_byte_orders_and_resolutions() {
    for order in ORDERS {
        for (magic, unit) in [(MICROSECONDS, 1000), (NANOSECONDS, 1), (MODIFIED, 1000)] {
            let mut file = ClassicFile::new(order, magic, 1);
            file.record(0, 0, b"", 0);
            file.record(1_700_000_000, 999_999, b"abc", 60);
            file.record(u32::MAX, 1, b"abcdefg", 7);
            let frames = read_well(&file.bytes);
            let times: Vec<u64> = frames.iter().map(|frame| frame.time).collect();
            let last = u64::from(u32::MAX) * 1_000_000_000;
            assert_eq!(
                times,
                [0, 1_700_000_000_000_000_000 + 999_999 * unit, last + unit]
            );
            assert_eq!(frames[1].data, b"abc");
            assert_eq!(frames[1].wire_length, 60);
            assert_eq!(frames[2].data, b"abcdefg");
            let direction = if magic == MODIFIED {
                Direction::Egress
            } else {
                Direction::Unknown
            };
            for (frame, number) in frames.iter().zip(1..) {
                assert_eq!(frame.number, number);
                assert_eq!(frame.interface, 0);
                assert_eq!(frame.link, FileLink::Ethernet);
                assert_eq!(frame.direction, direction);
            }
        }
    }
}

#[test]
fn the_length_of_the_checksum_is_no_part_of_the_link_type() {
    for order in ORDERS {
        let mut file = ClassicFile::new(order, MICROSECONDS, 0x4400_0071);
        file.record(1, 0, b"", 0);
        assert_eq!(read_well(&file.bytes)[0].link, FileLink::Sll);
    }
}

#[test]
fn interfaces_of_one_file_have_their_own_links_and_clocks() {
    for order in ORDERS {
        let mut file = NgFile::new(order);
        file.interface(1, 0, &[]);
        file.interface(113, 65535, &[file.name("eth0"), file.resolution(9)]);
        // Units of 2 to the power of -10, seven seconds early.
        file.interface(
            276,
            0,
            &[file.resolution(0x8a), file.offset(7), file.name("wlan0\0")],
        );
        file.enhanced(2, 1536, b"c", 3, &[]);
        file.enhanced(0, 5_000_000_000_001, b"ab", 2, &[]);
        file.enhanced(1, 5_000_000_000_001, b"abcd", 4, &[]);
        let mut reader = open(&file.bytes).unwrap();
        let (frames, error) = drain(&mut reader);
        assert_eq!(error, None);
        let seen: Vec<_> = frames
            .iter()
            .map(|frame| (frame.interface, frame.time, frame.link, frame.data.len()))
            .collect();
        assert_eq!(
            seen,
            [
                (2, 8_500_000_000, FileLink::Sll2, 1),
                (0, 5_000_000_000_001_000, FileLink::Ethernet, 2),
                (1, 5_000_000_000_001, FileLink::Sll, 4),
            ]
        );
        assert_eq!(frames[0].wire_length, 3);
        assert_eq!(reader.interface_name(0), None);
        assert_eq!(reader.interface_name(1), Some("eth0"));
        assert_eq!(reader.interface_name(2), Some("wlan0"));
        assert_eq!(reader.interface_name(3), None);
    }
}

#[test]
fn every_clock_resolution_comes_out_in_nanoseconds() {
    for (resolution, stamp, time) in [
        (0, 3, 3_000_000_000),
        (3, 3, 3_000_000),
        (6, 3, 3000),
        (9, 3, 3),
        (12, 3_999, 3),
        (28, u64::MAX, 1),
        (29, u64::MAX, 0),
        (127, u64::MAX, 0),
        (0x80, 3, 3_000_000_000),
        (0x81, 3, 1_500_000_000),
        (0xa0, 1 << 31, 500_000_000),
        (0xff, u64::MAX, 0),
        // What does not fit stays at the end of time.
        (0, u64::MAX, u64::MAX),
        (0x80, u64::MAX, u64::MAX),
    ] {
        let mut file = NgFile::new(Order::Little);
        file.interface(1, 0, &[file.resolution(resolution)]);
        file.enhanced(0, stamp, b"", 0, &[]);
        assert_eq!(
            read_well(&file.bytes)[0].time,
            time,
            "resolution {resolution:#x}"
        );
    }
}

#[test]
fn a_time_before_1970_is_0() {
    for offset in [-2, i64::MIN] {
        let mut file = NgFile::new(Order::Big);
        file.interface(1, 0, &[file.offset(offset)]);
        file.enhanced(0, 1_000_000, b"", 0, &[]);
        assert_eq!(read_well(&file.bytes)[0].time, 0);
    }
}

#[test]
fn sections_have_their_own_byte_order_and_interfaces() {
    let mut file = NgFile::new(Order::Little);
    file.interface(1, 0, &[file.name("a")]);
    file.interface(101, 0, &[file.name("b")]);
    file.enhanced(1, 1, b"1", 1, &[]);
    file.section(Order::Big);
    file.interface(0, 0, &[file.name("c"), file.resolution(9)]);
    file.enhanced(0, 2, b"22", 2, &[]);
    let mut reader = open(&file.bytes).unwrap();
    let (frames, error) = drain(&mut reader);
    assert_eq!(error, None);
    let seen: Vec<_> = frames
        .iter()
        .map(|frame| (frame.number, frame.interface, frame.link, frame.time))
        .collect();
    assert_eq!(
        seen,
        [(1, 1, FileLink::Raw, 1000), (2, 2, FileLink::Null, 2)]
    );
    let names: Vec<_> = (0..4).map(|index| reader.interface_name(index)).collect();
    assert_eq!(names, [Some("a"), Some("b"), Some("c"), None]);
}

#[test]
fn simple_and_obsolete_packets_are_packets() {
    for order in ORDERS {
        let mut file = NgFile::new(order);
        file.interface(1, 8, &[]);
        file.interface(101, 0, &[]);
        file.simple(b"abcde", 5);
        file.simple(b"abcdefgh", 1000);
        file.obsolete(1, 42, b"xyz", 60);
        let frames = read_well(&file.bytes);
        assert_eq!(frames[0].data, b"abcde");
        assert_eq!(frames[0].wire_length, 5);
        assert_eq!(frames[0].time, 0);
        assert_eq!(frames[1].data, b"abcdefgh");
        assert_eq!(frames[1].wire_length, 1000);
        assert_eq!(frames[2].data, b"xyz");
        assert_eq!(frames[2].wire_length, 60);
        assert_eq!(frames[2].time, 42_000);
        assert_eq!((frames[2].interface, frames[2].link), (1, FileLink::Raw));
    }
}

#[test]
fn a_simple_packet_without_a_snapshot_length_is_whole() {
    let mut file = NgFile::new(Order::Little);
    file.interface(1, 0, &[]);
    file.simple(b"abcdefghi", 9);
    assert_eq!(read_well(&file.bytes)[0].data, b"abcdefghi");
}

#[test]
fn unknown_blocks_are_passed_over() {
    let mut file = NgFile::new(Order::Little);
    file.block(0x0bad, b"before the interfaces");
    file.interface(1, 0, &[]);
    file.block(5, &[0; 100]);
    file.enhanced(0, 1, b"1", 1, &[]);
    // Larger than the buffer.
    file.block(0x8000_0001, &vec![0xff; 1_000_000]);
    file.block(4, b"");
    file.enhanced(0, 2, b"2", 1, &[]);
    file.block(5, b"");
    let frames = read_well(&file.bytes);
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[1].number, 2);
}

#[test]
fn the_flags_of_a_packet_give_its_direction() {
    for order in ORDERS {
        let mut file = NgFile::new(order);
        file.interface(1, 0, &[]);
        for flags in [0, 1, 2, 3, 0xffff_fffd] {
            let comment = file.option(1, b"hello");
            let flags = file.flags(flags);
            file.enhanced(0, 0, b"abc", 3, &[comment, flags]);
        }
        let directions: Vec<Direction> = read_well(&file.bytes)
            .iter()
            .map(|frame| frame.direction)
            .collect();
        assert_eq!(
            directions,
            [
                Direction::Unknown,
                Direction::Ingress,
                Direction::Egress,
                Direction::Unknown,
                Direction::Ingress,
            ]
        );
    }
}

#[test]
fn packed_files_read_as_the_files_in_them() {
    let file = small();
    let frames = read_well(&file);
    assert_eq!(frames.len(), 20);
    let (first, second) = file.split_at(file.len() / 2);
    let skippable = [
        &[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..],
        &zstd(&file),
    ]
    .concat();
    for packed in [
        gzip(&file),
        zstd(&file),
        [gzip(first), gzip(second)].concat(),
        [zstd(first), zstd(second)].concat(),
        [gzip(b""), gzip(&file)].concat(),
        skippable,
    ] {
        assert_eq!(read_well(&packed), frames);
    }
}

#[test]
fn input_that_trickles_reads_as_a_file() {
    let file = small();
    for bytes in [file.clone(), gzip(&file), zstd(&file)] {
        let input = Box::new(Trickle(Cursor::new(bytes)));
        let mut reader = Reader::from_reader("pipe".to_owned(), input).unwrap();
        assert_eq!(drain(&mut reader), (read_well(&file), None));
    }
}

#[test]
fn frames_come_whole_over_every_refill_of_the_buffer() {
    let mut classic = ClassicFile::new(Order::Little, NANOSECONDS, 1);
    let mut ng = NgFile::new(Order::Big);
    ng.interface(1, 0, &[ng.resolution(9)]);
    // Two megabytes in lengths that never fall on the same place of the buffer twice.
    let lengths: Vec<usize> = (0..3000).map(|index| index * 7919 % 1511).collect();
    for (&length, index) in lengths.iter().zip(0..) {
        let data = vec![length as u8; length];
        classic.record(0, index, &data, 2000);
        ng.enhanced(0, u64::from(index), &data, 2000, &[]);
    }
    let frames = read_well(&classic.bytes);
    assert_eq!(frames, read_well(&ng.bytes));
    for (index, (frame, length)) in frames.iter().zip(lengths).enumerate() {
        assert_eq!(frame.number, index as u64 + 1);
        assert_eq!(frame.time, index as u64);
        assert_eq!(frame.data, vec![length as u8; length]);
    }
}

#[test]
fn a_file_without_packets_is_none_the_less_a_file() {
    let classic = ClassicFile::new(Order::Big, MICROSECONDS, 1);
    assert!(read_well(&classic.bytes).is_empty());
    let ng = NgFile::new(Order::Big);
    assert!(read_well(&ng.bytes).is_empty());
}

#[test]
fn progress_counts_bytes_of_the_file_as_it_is_stored() {
    for bytes in [small(), gzip(&small()), zstd(&small())] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let size = bytes.len() as u64;
        let mut reader = Reader::open(file.path()).unwrap();
        assert_eq!(reader.progress().1, Some(size));
        drain(&mut reader);
        assert_eq!(reader.progress(), (size, Some(size)));
    }
    let mut reader = open(&small()).unwrap();
    drain(&mut reader);
    assert_eq!(reader.progress(), (small().len() as u64, None));
}

#[test]
fn the_name_of_a_file_does_not_decide_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture.txt");
    fs::write(&path, gzip(&small())).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(drain(&mut reader).0.len(), 20);
}
