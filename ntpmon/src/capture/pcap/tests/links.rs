//! One packet, under every link type, is one event.

use ntpmon_common::{
    Counter, Direction, Event, PtpEvent, Skip, flags,
    parse::{Events, Protocol, Settings},
    settings::{PortSet, Switch},
};

use super::made::{behind, ethernet, ethertype, ipv4_request, ipv6_request};
use crate::capture::pcap::{FileLink, Frame, parse_frame};

static PORTS: PortSet = PortSet::of(&[123]);

fn parse(link: FileLink, direction: Direction, data: &[u8]) -> Result<Event, Skip> {
    let (protocol, events) = parse_either(link, direction, data)?;
    assert_eq!(protocol, Protocol::Ntp);
    Ok(events.ntp)
}

fn parse_either(
    link: FileLink,
    direction: Direction,
    data: &[u8],
) -> Result<(Protocol, Events), Skip> {
    let frame = Frame {
        number: 9,
        interface: 3,
        time: 1234,
        link,
        direction,
        data,
        wire_length: data.len() as u32,
    };
    let settings = Settings {
        ports: &PORTS,
        decapsulate: true,
        ptp: &Switch::ON,
    };
    // Nothing of an earlier packet may stay in the event.
    let mut events = Events {
        ntp: Event {
            key_id: 1,
            flags: 0xff,
            vlan: [5, 6],
            ..Event::EMPTY
        },
        ptp: PtpEvent {
            flags: 0xff,
            vlan: [5, 6],
            source: [7; 16],
            reserved_too: 1,
            ..PtpEvent::EMPTY
        },
    };
    let protocol = parse_frame(&frame, settings, &mut events)?;
    Ok((protocol, events))
}

/// A Sync, as it stands behind a header.
fn sync() -> Vec<u8> {
    let mut sync = vec![0; 44];
    (sync[1], sync[3], sync[31]) = (2, 44, 9);
    sync
}

#[test]
fn ptp_without_ip_has_the_ethernet_addresses_that_a_header_has() {
    const PTP: [u8; 2] = [0x88, 0xf7];
    let of = |link, direction, header: Vec<u8>| {
        let data = [header, sync()].concat();
        let (protocol, events) = parse_either(link, direction, &data).unwrap();
        assert_eq!(protocol, Protocol::Ptp);
        let event = events.ptp;
        assert_eq!((event.time, event.interface), (1234, 3));
        assert_eq!((event.flags, event.vlan), (flags::LAYER2, [0, 0]));
        assert_eq!((event.message.sequence(), event.payload_length), (9, 44));
        event
    };
    let header = [&[1; 6][..], &[2; 6], &PTP].concat();
    let event = of(FileLink::Ethernet, Direction::Egress, header);
    assert_eq!(event.direction, Direction::Egress as u8);
    assert_eq!(
        event.source,
        [2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(event.destination[..6], [1; 6]);
    let made = [2, 0, 0, 0, 0, 1];
    let event = of(FileLink::Sll, Direction::Unknown, sll(4, PTP));
    assert_eq!(event.direction, Direction::Egress as u8);
    assert_eq!(
        (&event.source[..6], event.destination),
        (&made[..], [0; 16])
    );
    let event = of(FileLink::Sll2, Direction::Unknown, sll2(0, PTP));
    assert_eq!(event.direction, Direction::Ingress as u8);
    assert_eq!(event.source[..6], made);
}

fn sll(packet_type: u8, ethertype: [u8; 2]) -> Vec<u8> {
    let mut header = vec![0, packet_type, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    header.extend(ethertype);
    header
}

fn sll2(packet_type: u8, ethertype: [u8; 2]) -> Vec<u8> {
    let mut header = ethertype.to_vec();
    header.extend([
        0,
        0,
        0,
        0,
        0,
        2,
        0,
        1,
        packet_type,
        6,
        2,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
    ]);
    header
}

#[test]
fn a_packet_is_the_same_event_under_every_link_type() {
    for packet in [ipv4_request(), ipv6_request()] {
        let expected = parse(FileLink::Ethernet, Direction::Unknown, &ethernet(&packet)).unwrap();
        assert_eq!(expected.time, 1234);
        assert_eq!(expected.interface, 3);
        assert_eq!(expected.destination_port, 123);
        assert_eq!(expected.key_id, 0);
        let kind = ethertype(&packet);
        let mut frames = vec![
            (FileLink::Raw, packet.clone()),
            // Packet type 7 says nothing of the direction.
            (FileLink::Sll, behind(&sll(7, kind), &packet)),
            (FileLink::Sll2, behind(&sll2(7, kind), &packet)),
        ];
        let families: &[u32] = if packet[0] >> 4 == 4 {
            &[2]
        } else {
            &[10, 24, 28, 30]
        };
        for family in families {
            for header in [family.to_le_bytes(), family.to_be_bytes()] {
                frames.push((FileLink::Null, behind(&header, &packet)));
                frames.push((FileLink::Loop, behind(&header, &packet)));
            }
        }
        for (link, frame) in frames {
            assert_eq!(
                parse(link, Direction::Unknown, &frame),
                Ok(expected),
                "{link:?} {:02x?}",
                &frame[..4]
            );
        }
    }
}

#[test]
fn a_tag_is_found_behind_cooked_headers_too() {
    let packet = ipv4_request();
    let tag = [&[0x00, 0x2a][..], &ethertype(&packet)].concat();
    let mut ethernet = ethernet(&packet);
    ethernet.splice(12..14, [&[0x81, 0x00][..], &tag].concat());
    let expected = parse(FileLink::Ethernet, Direction::Unknown, &ethernet).unwrap();
    assert_eq!(expected.vlan, [42, 0]);
    for (link, header) in [
        (FileLink::Sll, sll(7, [0x81, 0x00])),
        (FileLink::Sll2, sll2(7, [0x81, 0x00])),
    ] {
        let frame = behind(&behind(&header, &tag), &packet);
        assert_eq!(
            parse(link, Direction::Unknown, &frame),
            Ok(expected),
            "{link:?}"
        );
    }
}

#[test]
fn cooked_headers_and_files_give_the_direction() {
    let packet = ipv4_request();
    let kind = ethertype(&packet);
    for (packet_type, expected) in [
        (0, Direction::Ingress),
        (1, Direction::Ingress),
        (2, Direction::Ingress),
        (3, Direction::Ingress),
        (4, Direction::Egress),
        (5, Direction::Unknown),
    ] {
        for (link, header) in [
            (FileLink::Sll, sll(packet_type, kind)),
            (FileLink::Sll2, sll2(packet_type, kind)),
        ] {
            let frame = behind(&header, &packet);
            let event = parse(link, Direction::Unknown, &frame).unwrap();
            assert_eq!(Direction::from_byte(event.direction), expected);
            let event = parse(link, Direction::Egress, &frame).unwrap();
            assert_eq!(Direction::from_byte(event.direction), Direction::Egress);
        }
    }
    let event = parse(FileLink::Raw, Direction::Ingress, &packet).unwrap();
    assert_eq!(Direction::from_byte(event.direction), Direction::Ingress);
}

#[test]
fn what_is_no_ntp_packet_is_counted_by_its_reason() {
    let packet = ipv4_request();
    for (link, data, reason) in [
        (FileLink::Unknown(147), packet.clone(), Counter::UnknownLink),
        (
            FileLink::Null,
            behind(&[7, 0, 0, 0], &packet),
            Counter::NotIp,
        ),
        (FileLink::Null, behind(&[0xff; 4], &packet), Counter::NotIp),
        (
            FileLink::Sll,
            behind(&sll(0, [0x08, 0x06]), &packet),
            Counter::NotIp,
        ),
        (
            FileLink::Sll2,
            behind(&sll2(0, [0x00, 0x04]), &packet),
            Counter::NotIp,
        ),
    ] {
        assert_eq!(
            parse(link, Direction::Unknown, &data),
            Err(reason),
            "{link:?}"
        );
    }
}

#[test]
fn a_frame_cut_short_anywhere_is_counted_as_such() {
    let packet = ipv4_request();
    let kind = ethertype(&packet);
    for (link, frame) in [
        (FileLink::Ethernet, ethernet(&packet)),
        (FileLink::Raw, packet.clone()),
        (FileLink::Sll, behind(&sll(0, kind), &packet)),
        (FileLink::Sll2, behind(&sll2(0, kind), &packet)),
        (FileLink::Null, behind(&[2, 0, 0, 0], &packet)),
        (FileLink::Loop, behind(&[0, 0, 0, 2], &packet)),
    ] {
        for length in 0..frame.len() {
            assert_eq!(
                parse(link, Direction::Unknown, &frame[..length]),
                Err(Counter::Truncated),
                "{link:?} cut at {length}"
            );
        }
    }
}

#[test]
fn every_number_of_a_link_type_that_is_known_is_decoded() {
    for (link, numbers) in [
        (FileLink::Null, &[0][..]),
        (FileLink::Ethernet, &[1]),
        (FileLink::Raw, &[12, 14, 101, 228, 229]),
        (FileLink::Loop, &[108]),
        (FileLink::Sll, &[113]),
        (FileLink::Sll2, &[276]),
        (FileLink::Unknown(147), &[147]),
    ] {
        for &number in numbers {
            assert_eq!(FileLink::of(number), link);
        }
    }
}
