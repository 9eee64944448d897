//! Frames of every kind, and what has to come of them.

extern crate std;

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::Direction;

use Authentication::{CryptoNak, Mac, MsSntp, None as Plain, Nts, Unknown};

static PORTS: PortSet = PortSet::of(&[123]);

fn parse_as(frame: &[u8], link: Link, outer_tag: u16, decapsulate: bool) -> Result<Event, Skip> {
    let settings = Settings {
        ports: &PORTS,
        decapsulate,
        ptp: &Switch::OFF,
    };
    let mut events = Events::EMPTY;
    let protocol = parse(&frame, link, outer_tag, settings, &mut events)?;
    assert_eq!(protocol, Protocol::Ntp);
    Ok(events.ntp)
}

fn plain(frame: &[u8]) -> Result<Event, Skip> {
    parse_as(frame, Link::Ethernet, 0, false)
}

/// Looks into tunnels.
fn inside(frame: &[u8]) -> Result<Event, Skip> {
    parse_as(frame, Link::Ethernet, 0, true)
}

/// An Ethernet frame; `types` is everything from the ethertype to the payload.
fn frame(types: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[2; 6][..], &[4; 6], types, payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let header = [
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 63, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    [&header[..], payload].concat()
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next, 62];
    [&header[..], &[0xfd; 16], &[0xfe; 16], payload].concat()
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source, destination, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

/// An NTP header and what follows it.
fn ntp(version: u8, mode: u8, trailer: &[u8]) -> Vec<u8> {
    let mut header: Vec<u8> = (0..48).collect();
    header[0] = version << 3 | mode;
    [&header[..], trailer].concat()
}

fn request() -> Vec<u8> {
    udp(40_000, 123, &ntp(4, 3, &[]))
}

const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];

fn frame4(payload: &[u8]) -> Vec<u8> {
    frame(IPV4, &ipv4(17, payload))
}

#[test]
fn a_plain_request_becomes_an_event() {
    let event = plain(&frame4(&request())).unwrap();
    let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last];
    assert_eq!((event.source, event.destination), (mapped(1), mapped(2)));
    assert_eq!((event.source_port, event.destination_port), (40_000, 123));
    assert_eq!((event.payload_length, event.ttl), (48, 63));
    assert_eq!((event.flags, event.vlan), (0, [0, 0]));
    assert_eq!(event.ntp.0[..], ntp(4, 3, &[])[..]);
    assert_eq!(event.direction, Direction::Unknown as u8);
}

#[test]
fn a_plain_request_over_ipv6_becomes_an_event() {
    let event = plain(&frame(IPV6, &ipv6(17, &request()))).unwrap();
    assert_eq!((event.source, event.destination), ([0xfd; 16], [0xfe; 16]));
    assert_eq!((event.flags, event.ttl), (flags::IPV6, 62));
}

#[test]
fn either_port_makes_it_ntp() {
    assert!(plain(&frame4(&udp(123, 40_000, &ntp(4, 4, &[])))).is_ok());
    assert_eq!(
        plain(&frame4(&udp(40_000, 124, &ntp(4, 3, &[])))),
        Err(Skip::OtherPort)
    );
}

#[test]
fn two_hosts_hash_alike_in_both_directions_and_from_every_port() {
    let settings = Settings {
        ports: &PORTS,
        decapsulate: false,
        ptp: &Switch::OFF,
    };
    let hash = |frame: &[u8]| match find(&frame, Link::Ethernet, || 0, settings) {
        Ok(Found::Ntp(found)) => found.hosts_hash(&frame),
        _ => panic!("no NTP"),
    };
    // Neighbours, every fourth, every sixteenth network: none may fall into one ring.
    for step in [[0, 0, 0, 1], [0, 0, 0, 4], [0, 0, 1, 0], [0, 16, 0, 0_u8]] {
        let mut clients = [0; 4];
        for number in 0..64_u8 {
            let client = step.map(|byte| byte.wrapping_mul(number));
            let between = |source: [u8; 4], destination: [u8; 4], payload: &[u8]| {
                let mut frame = frame4(payload);
                frame[26..30].copy_from_slice(&source);
                frame[30..34].copy_from_slice(&destination);
                hash(&frame)
            };
            let server = [192, 0, 2, 1];
            let there = between(client, server, &udp(40_000, 123, &ntp(4, 3, &[])));
            let back = between(server, client, &udp(123, 50_000, &ntp(4, 4, &[])));
            assert_eq!(there, back);
            clients[usize::from(there)] += 1;
        }
        assert!(
            clients.iter().all(|&count| count >= 8),
            "{step:?}: {clients:?}"
        );
    }
}

#[test]
fn links_without_a_header_say_their_ip_version_themselves() {
    let ip = |bytes: &[u8]| parse_as(bytes, Link::Ip, 0, false);
    assert_eq!(ip(&ipv4(17, &request())).unwrap().flags, 0);
    assert_eq!(ip(&ipv6(17, &request())).unwrap().flags, flags::IPV6);
    assert_eq!(ip(&[0x55; 60]), Err(Skip::NotIp));
    assert_eq!(ip(&[]), Err(Skip::Truncated));
}

#[test]
fn up_to_two_tags_are_looked_through_wherever_they_are() {
    let tag = |kind: u16, id: u16| [kind.to_be_bytes(), id.to_be_bytes()].concat();
    let tagged = |tags: &[(u16, u16)]| {
        let tags: Vec<u8> = tags.iter().flat_map(|(kind, id)| tag(*kind, *id)).collect();
        frame(&[&tags[..], IPV4].concat(), &ipv4(17, &request()))
    };
    let (c, s, old) = (0x8100, 0x88a8, 0x9100);
    // (tags in the frame, tag in the skb, what comes out)
    type Tags<'a> = &'a [(u16, u16)];
    let cases: [(Tags<'_>, u16, Result<[u16; 2], Skip>); 11] = [
        (&[], 0, Ok([0, 0])),
        (&[], 7, Ok([7, 0])),
        (&[(c, 5)], 0, Ok([5, 0])),
        (&[(c, 5)], 7, Ok([7, 5])),
        (&[(s, 6), (c, 5)], 0, Ok([6, 5])),
        (&[(old, 6), (old, 5)], 0, Ok([6, 5])),
        (&[(s, 6), (c, 5)], 7, Err(Skip::VlanDepth)),
        (&[(s, 1), (s, 2), (c, 3)], 0, Err(Skip::VlanDepth)),
        // Priority and the drop bit are not part of the id.
        (&[(c, 0xf005)], 0, Ok([5, 0])),
        // A tag for priority only has no VLAN.
        (&[(c, 0xe000)], 0, Ok([0, 0])),
        (&[(c, 0xffff)], 0xfff, Ok([0xfff, 0xfff])),
    ];
    for (tags, outer, expected) in cases {
        let found = parse_as(&tagged(tags), Link::Ethernet, outer, false);
        assert_eq!(found.map(|event| event.vlan), expected, "{tags:?} {outer}");
    }
}

#[test]
fn ipv4_options_are_skipped_by_the_header_length() {
    for words in 5..=15_u8 {
        let mut packet = ipv4(17, &[]);
        packet[0] = 0x40 | words;
        packet.extend(vec![1; usize::from(words - 5) * 4]);
        packet.extend(request());
        let event = plain(&frame(IPV4, &packet)).unwrap();
        assert_eq!(event.destination_port, 123, "{words}");
        assert_eq!(event.ntp.0[1], 1);
    }
}

#[test]
fn an_impossible_ipv4_header_is_malformed() {
    for first in [0x44, 0x40, 0x65, 0x05] {
        let mut packet = ipv4(17, &request());
        packet[0] = first;
        assert_eq!(plain(&frame(IPV4, &packet)), Err(Skip::Malformed));
    }
    let mut packet = ipv6(17, &request());
    packet[0] = 0x45;
    assert_eq!(plain(&frame(IPV6, &packet)), Err(Skip::Malformed));
}

#[test]
fn of_fragments_only_the_first_has_a_header() {
    let fragment = |word: u16| {
        let mut packet = ipv4(17, &request());
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        plain(&frame(IPV4, &packet)).map(|event| event.flags)
    };
    assert_eq!(fragment(0x4000), Ok(0), "do not fragment");
    assert_eq!(fragment(0x2000), Ok(flags::FIRST_FRAGMENT));
    assert_eq!(fragment(0x2001), Err(Skip::Fragment));
    assert_eq!(fragment(0x0001), Err(Skip::Fragment), "the last");
    assert_eq!(fragment(0x1fff), Err(Skip::Fragment));
}

#[test]
fn other_protocols_are_not_udp() {
    // ICMP (which quotes packets), TCP, ESP, SCTP.
    for protocol in [1, 6, 50, 132] {
        let quote = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &ipv4(17, &request())].concat();
        assert_eq!(
            plain(&frame(IPV4, &ipv4(protocol, &quote))),
            Err(Skip::NotUdp)
        );
    }
    // ICMPv6, no next header, ESP.
    for next in [58, 59, 50] {
        let quote = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &ipv6(17, &request())].concat();
        assert_eq!(inside(&frame(IPV6, &ipv6(next, &quote))), Err(Skip::NotUdp));
    }
}

#[test]
fn other_ethertypes_are_not_ip() {
    for kind in [0x0806_u16, 0x88f7, 0x88cc, 0x0040] {
        let made = frame(&kind.to_be_bytes(), &ipv4(17, &request()));
        assert_eq!(inside(&made), Err(Skip::NotIp));
    }
}

/// An extension header of a kind, 8 bytes and as many more as said.
fn extension(kind: u8, next: u8, more: u8) -> Vec<u8> {
    let mut header = vec![0; 8 + usize::from(more) * 8];
    header[0] = next;
    header[1] = match kind {
        // The authentication header counts in words, less two.
        51 => (header.len() / 4 - 2) as u8,
        44 => 0,
        _ => more,
    };
    header
}

fn with_extensions(kinds: &[(u8, u8)]) -> Vec<u8> {
    let mut payload = request();
    let mut next = 17;
    for (kind, more) in kinds.iter().rev() {
        payload = [extension(*kind, next, *more), payload].concat();
        next = *kind;
    }
    frame(IPV6, &ipv6(next, &payload))
}

#[test]
fn every_ipv6_extension_header_is_walked() {
    for kind in [0, 43, 44, 51, 60, 135, 139, 140] {
        for more in [0, 1, 2, 31] {
            let more = if kind == 44 { 0 } else { more };
            let event = plain(&with_extensions(&[(kind, more)])).unwrap();
            assert_eq!(event.source_port, 40_000, "{kind} {more}");
        }
    }
    assert!(plain(&with_extensions(&[(0, 0), (43, 2), (51, 1), (60, 1)])).is_ok());
}

#[test]
fn an_authentication_header_may_be_an_odd_number_of_words() {
    // 12 bytes and a digest of 12: six words.
    let mut header = vec![17, 4];
    header.resize(24, 9);
    let made = frame(IPV6, &ipv6(51, &[header, request()].concat()));
    assert_eq!(plain(&made).unwrap().source_port, 40_000);
}

#[test]
fn the_walk_over_extension_headers_gives_up_and_says_so() {
    assert_eq!(
        plain(&with_extensions(&[(60, 0); 5])),
        Err(Skip::ExtensionHeaderDepth)
    );
    let far = plain(&with_extensions(&[(60, 255), (60, 255)]));
    assert_eq!(far, Err(Skip::Truncated), "beyond what is read");
}

#[test]
fn of_ipv6_fragments_only_the_first_has_a_header() {
    let fragment = |word: u16| {
        let [high, low] = word.to_be_bytes();
        let header = [17, 0, high, low, 0, 0, 0, 9];
        let packet = ipv6(44, &[&header[..], &request()].concat());
        plain(&frame(IPV6, &packet)).map(|event| event.flags)
    };
    assert_eq!(fragment(0), Ok(flags::IPV6), "a lone one");
    assert_eq!(fragment(1), Ok(flags::IPV6 | flags::FIRST_FRAGMENT));
    assert_eq!(fragment(6), Ok(flags::IPV6), "reserved bits");
    assert_eq!(fragment(8), Err(Skip::Fragment));
    assert_eq!(fragment(0xfff9), Err(Skip::Fragment));
}

#[test]
fn versions_that_do_not_exist_are_skipped() {
    for version in 0..=7 {
        let found = plain(&frame4(&udp(40_000, 123, &ntp(version, 3, &[]))));
        match version {
            1..=5 => assert_eq!(found.unwrap().ntp.version(), version),
            _ => assert_eq!(found, Err(Skip::BadVersion)),
        }
    }
}

#[test]
fn short_payloads_are_control_or_private_or_nothing() {
    let short = |mode: u8, length: usize| {
        let payload = &ntp(2, mode, &[])[..length];
        plain(&frame4(&udp(40_000, 123, payload))).map(|event| event.ntp.0)
    };
    let head = |mode: u8, length: usize| {
        let mut header = [0; 48];
        header[..length].copy_from_slice(&ntp(2, mode, &[])[..length]);
        header
    };
    for mode in 0..=5 {
        assert_eq!(short(mode, 47), Err(Skip::ShortPayload), "{mode}");
        assert!(short(mode, 48).is_ok());
    }
    assert_eq!(short(6, 12), Ok(head(6, 12)));
    assert_eq!(short(6, 11), Err(Skip::ShortPayload));
    assert_eq!(short(6, 47), Ok(head(6, 12)));
    assert_eq!(short(6, 48), Ok(head(6, 48)));
    assert_eq!(short(7, 8), Ok(head(7, 8)));
    assert_eq!(short(7, 7), Err(Skip::ShortPayload));
    assert_eq!(short(7, 47), Ok(head(7, 8)));
    assert_eq!(short(3, 0), Err(Skip::ShortPayload));
}

#[test]
fn the_length_is_the_udp_headers_whatever_the_frame_holds() {
    let with_length = |length: u16, extra: usize| {
        let mut datagram = request();
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        datagram.extend(vec![0; extra]);
        plain(&frame4(&datagram)).map(|event| (event.payload_length, event.authentication))
    };
    let none = Plain as u8;
    // Ethernet pads short frames: that is no trailer.
    assert_eq!(with_length(56, 6), Ok((48, none)));
    for short in [0, 7] {
        assert_eq!(with_length(short, 0), Err(Skip::Malformed), "{short}");
    }
    assert_eq!(with_length(8, 0), Err(Skip::ShortPayload));
    // It says more than there is: the header is there, what follows is not known.
    let unknown = Unknown as u8;
    assert_eq!(with_length(56 + 20, 0), Ok((68, unknown)));
    assert_eq!(with_length(u16::MAX, 0), Ok((65_527, unknown)));
}

/// A field of this many bytes in all.
fn field(kind: u16, length: u16) -> Vec<u8> {
    let mut field = [kind.to_be_bytes(), length.to_be_bytes()].concat();
    field.resize(length.into(), 7);
    field
}

fn trailer_of(version: u8, trailer: &[u8]) -> (Authentication, u8, u32) {
    let event = plain(&frame4(&udp(40_000, 123, &ntp(version, 3, trailer)))).unwrap();
    let authentication = Authentication::from_byte(event.authentication);
    (authentication, event.extensions, event.key_id)
}

/// A key id, 5, and a digest that make this many bytes.
fn mac(length: usize) -> Vec<u8> {
    let mut mac = vec![0, 0, 0, 5];
    mac.resize(length, 3);
    mac
}

#[test]
fn version_4_has_a_mac_of_20_to_24_bytes_or_a_crypto_nak() {
    assert_eq!(trailer_of(4, &[]), (Plain, 0, 0));
    assert_eq!(trailer_of(4, &[0; 4]), (CryptoNak, 0, 0));
    for length in 20..=24 {
        assert_eq!(trailer_of(4, &mac(length)), (Mac, 0, 5), "{length}");
    }
    assert_eq!(trailer_of(4, &mac(4)), (Unknown, 0, 0));
    for length in [1, 3, 5, 16, 19, 25, 27] {
        assert_eq!(trailer_of(4, &mac(length)).0, Unknown, "{length}");
    }
}

#[test]
fn up_to_version_3_all_that_follows_is_a_mac() {
    for version in 1..=3 {
        for length in [20, 24, 36, 52, 68] {
            assert_eq!(
                trailer_of(version, &mac(length)),
                (Mac, 0, 5),
                "{version} {length}"
            );
        }
        assert_eq!(trailer_of(version, &[0; 4]).0, CryptoNak);
        // Even if it looks like an extension field.
        assert_eq!(trailer_of(version, &field(0x0104, 36)).1, 0);
    }
}

#[test]
fn microsofts_trailers_are_known_by_their_lengths() {
    let empty = [&[1, 2, 3, 4][..], &[0; 16]].concat();
    assert_eq!(trailer_of(3, &empty), (MsSntp, 0, 0x0102_0304));
    assert_eq!(trailer_of(3, &mac(72)), (MsSntp, 0, 5));
    assert_eq!(trailer_of(4, &mac(72)).0, Unknown);
}

#[test]
fn extension_fields_may_be_followed_by_a_mac() {
    let one = field(0x2005, 28);
    assert_eq!(trailer_of(4, &one), (Plain, 1, 0));
    let signed = [&one[..], &mac(20)].concat();
    assert_eq!(trailer_of(4, &signed), (Mac, 1, 5));
    let refused = [&one[..], &[0; 4]].concat();
    assert_eq!(trailer_of(4, &refused), (CryptoNak, 1, 0));
}

#[test]
fn nts_is_known_by_its_fields() {
    for kind in [0x0104, 0x0204, 0x0304, 0x0404] {
        assert_eq!(trailer_of(4, &field(kind, 36)), (Nts, 1, 0), "{kind:x}");
    }
    // A unique id, a cookie, six placeholders, an authenticator.
    let mut fields = [field(0x0104, 36), field(0x0204, 104)].concat();
    for _ in 0..6 {
        fields.extend(field(0x0304, 104));
    }
    fields.extend(field(0x0404, 40));
    assert_eq!(trailer_of(4, &fields), (Nts, 9, 0));
}

#[test]
fn fields_that_contradict_their_lengths_are_unknown() {
    for length in [0, 4, 12, 17, 30] {
        let mut broken = field(0x0104, 32);
        broken[2..4].copy_from_slice(&u16::to_be_bytes(length));
        assert_eq!(trailer_of(4, &broken), (Unknown, 0, 0), "{length}");
    }
    let mut longer = field(0x0104, 32);
    longer[3] = 36;
    assert_eq!(trailer_of(4, &longer), (Unknown, 0, 0));
}

#[test]
fn the_walk_over_extension_fields_has_an_end() {
    let many = |count: usize| vec![field(0x2005, 28); count].concat();
    assert_eq!(trailer_of(4, &many(16)), (Plain, 16, 0));
    assert_eq!(trailer_of(4, &many(18)), (Unknown, 16, 0));
}

#[test]
fn version_5_has_fields_and_no_mac() {
    assert_eq!(trailer_of(5, &[]), (Plain, 0, 0));
    assert_eq!(trailer_of(5, &field(0xf501, 16)), (Plain, 1, 0));
    assert_eq!(trailer_of(5, &field(0x0104, 36)), (Nts, 1, 0));
    assert_eq!(trailer_of(5, &mac(20)).0, Unknown);
}

#[test]
fn control_and_private_messages_have_no_trailer() {
    for mode in [6, 7] {
        let event = plain(&frame4(&udp(40_000, 123, &ntp(2, mode, &mac(20))))).unwrap();
        assert_eq!((event.authentication, event.key_id), (0, 0));
    }
}

fn gre(gre_flags: u16, protocol: u16, inner: &[u8]) -> Vec<u8> {
    let mut header = [gre_flags.to_be_bytes(), protocol.to_be_bytes()].concat();
    for bit in [0x8000, 0x2000, 0x1000] {
        if gre_flags & bit != 0 {
            header.extend([0xab; 4]);
        }
    }
    [&header[..], inner].concat()
}

fn vxlan(inner: &[u8]) -> Vec<u8> {
    udp(
        50_000,
        4789,
        &[&[8, 0, 0, 0, 0, 0, 42, 0][..], inner].concat(),
    )
}

/// The tunnel is looked into only when asked.
fn check_tunnel(made: &[u8], expected_flags: u8) {
    assert_eq!(
        inside(made).map(|event| (event.flags, event.destination_port, event.ntp.0[47])),
        Ok((expected_flags | flags::TUNNELLED, 123, 47))
    );
    assert!(matches!(plain(made), Err(Skip::NotUdp | Skip::OtherPort)));
}

#[test]
fn gre_is_looked_into_with_any_of_its_optional_words() {
    for bits in 0..8_u16 {
        let gre_flags = (bits & 1) << 15 | (bits & 2) << 12 | (bits & 4) << 10;
        let inner4 = gre(gre_flags, 0x0800, &ipv4(17, &request()));
        check_tunnel(&frame(IPV4, &ipv4(47, &inner4)), 0);
        let inner6 = gre(gre_flags, 0x86dd, &ipv6(17, &request()));
        check_tunnel(&frame(IPV6, &ipv6(47, &inner6)), flags::IPV6);
    }
}

#[test]
fn gre_may_carry_whole_frames() {
    let bridged = gre(0x2000, 0x6558, &frame4(&request()));
    check_tunnel(&frame(IPV4, &ipv4(47, &bridged)), 0);
}

#[test]
fn gre_of_other_kinds_is_left_alone() {
    for gre_flags in [0x0001, 0x2001, 0x4000] {
        let packet = ipv4(47, &gre(gre_flags, 0x0800, &ipv4(17, &request())));
        assert_eq!(inside(&frame(IPV4, &packet)), Err(Skip::NotUdp));
    }
    let packet = ipv4(47, &gre(0, 0x880b, &ipv4(17, &request())));
    assert_eq!(inside(&frame(IPV4, &packet)), Err(Skip::NotIp));
}

#[test]
fn ip_in_ip_comes_in_four_combinations() {
    let (inner4, inner6) = (ipv4(17, &request()), ipv6(17, &request()));
    check_tunnel(&frame(IPV4, &ipv4(4, &inner4)), 0);
    check_tunnel(&frame(IPV4, &ipv4(41, &inner6)), flags::IPV6);
    check_tunnel(&frame(IPV6, &ipv6(4, &inner4)), 0);
    check_tunnel(&frame(IPV6, &ipv6(41, &inner6)), flags::IPV6);
}

#[test]
fn vxlan_is_looked_into() {
    check_tunnel(&frame4(&vxlan(&frame4(&request()))), 0);
    let tagged = frame(&[0x81, 0, 0, 9, 0x86, 0xdd], &ipv6(17, &request()));
    check_tunnel(&frame4(&vxlan(&tagged)), flags::IPV6);
    let mut not_valid = frame4(&vxlan(&frame4(&request())));
    not_valid[14 + 20 + 8] = 0;
    assert_eq!(inside(&not_valid), Err(Skip::OtherPort));
}

#[test]
fn the_tags_are_those_of_the_outermost_frame() {
    let inner = frame(&[0x81, 0, 0, 9, 8, 0], &ipv4(17, &request()));
    let outer = frame(&[0x81, 0, 0, 5, 8, 0], &ipv4(17, &vxlan(&inner)));
    assert_eq!(inside(&outer).unwrap().vlan, [5, 0]);
    let outer = frame4(&vxlan(&inner));
    assert_eq!(inside(&outer).unwrap().vlan, [0, 0]);
    let beside = parse_as(&outer, Link::Ethernet, 7, true).unwrap();
    assert_eq!(beside.vlan, [7, 0]);
}

#[test]
fn tunnels_in_tunnels_are_looked_through_to_the_bound() {
    let one = ipv4(4, &ipv4(17, &request()));
    let two = ipv4(47, &gre(0, 0x0800, &one));
    let three = ipv4(4, &two);
    assert!(inside(&frame(IPV4, &one)).is_ok());
    assert!(inside(&frame(IPV4, &two)).is_ok());
    assert_eq!(inside(&frame(IPV4, &three)), Err(Skip::TunnelDepth));
    assert_eq!(
        inside(&frame4(&vxlan(&frame(IPV4, &two)))),
        Err(Skip::TunnelDepth)
    );
}

#[test]
fn a_tunnel_says_nothing_of_the_outer_packet() {
    let mut outer = ipv4(4, &ipv4(17, &request()));
    outer[6] = 0x20;
    outer[8] = 200;
    let event = inside(&frame(IPV4, &outer)).unwrap();
    assert_eq!((event.flags, event.ttl), (flags::TUNNELLED, 63));
}

#[test]
fn nothing_is_read_beyond_the_bound() {
    let bytes = vec![9_u8; MAX_OFFSET + 100];
    let packet = &bytes[..];
    assert_eq!(Packet::read::<u8>(&packet, MAX_OFFSET), Some(9));
    assert_eq!(Packet::read::<u8>(&packet, MAX_OFFSET + 1), None);
    assert_eq!(
        Packet::read::<u32>(&packet, MAX_OFFSET),
        Some(0x0909_0909),
        "what begins within is read whole"
    );
}

/// Frames of every kind that lead to an event.
fn good() -> Vec<Vec<u8>> {
    let nts = ntp(4, 3, &[field(0x0104, 36), field(0x0404, 40)].concat());
    vec![
        frame4(&request()),
        frame4(&udp(123, 40_000, &ntp(4, 4, &mac(20)))),
        frame4(&udp(40_000, 123, &nts)),
        frame4(&udp(40_000, 123, &ntp(2, 6, &[])[..12])),
        frame4(&udp(40_000, 123, &ntp(2, 7, &[])[..8])),
        frame(
            &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5, 8, 0],
            &ipv4(17, &request()),
        ),
        with_extensions(&[(0, 0), (44, 0), (51, 1), (60, 1)]),
        frame4(&vxlan(&frame4(&request()))),
        frame(IPV4, &ipv4(47, &gre(0xb000, 0x0800, &ipv4(17, &request())))),
        frame(IPV6, &ipv6(41, &ipv6(17, &request()))),
    ]
}

#[test]
fn a_frame_cut_off_anywhere_is_truncated_or_loses_at_most_its_trailer() {
    for whole in good() {
        let event = inside(&whole).unwrap();
        let header = match event.ntp.0[0] & 7 {
            6 => 12,
            7 => 8,
            _ => 48,
        };
        let trailer = usize::from(event.payload_length).saturating_sub(header);
        for length in 0..whole.len() {
            let cut = inside(&whole[..length]);
            if length < whole.len() - trailer {
                assert_eq!(cut, Err(Skip::Truncated), "{length}");
            } else {
                // The fields of a trailer are walked, not read.
                assert_eq!(cut.unwrap().ntp, event.ntp, "{length}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_changed_byte_never_panics_and_is_read_as_it_stands(
        which in 0_usize..10,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        outer in 0_u16..3,
        link in prop_oneof![Just(Link::Ethernet), Just(Link::Ip)],
    ) {
        let mut frame = good().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let closed = parse_as(&frame, link, outer, false);
        let open = parse_as(&frame, link, outer, true);
        match closed {
            // Looking into tunnels finds more, never something else.
            Ok(event) => prop_assert_eq!(open, Ok(event)),
            Err(_) => {
                if let Ok(event) = open {
                    prop_assert_ne!(event.flags & flags::TUNNELLED, 0);
                }
            }
        }
    }
}
