//! What only the events of a live capture show, and no line that is printed: VLAN ids, which the
//! kernel keeps beside the frame at TC and in it at XDP, and the ring that an event came through.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ntpmon::{
    capture::{Capture, Drained, Settings},
    netlink,
};
use ntpmon_common::{Direction, Event};
use ntpmon_tests::{
    frames::{self, Ethernet, RawSocket, Tag},
    load,
    namespace::Pair,
};

/// The events of each ring of a capture on the server's end of a cable, while `send` sends frames
/// into the client's; and how it was attached.
fn captured(settings: &Settings, send: impl FnOnce(&RawSocket)) -> (String, Vec<Vec<Event>>) {
    let pair = Pair::without_addresses().unwrap();
    let socket = RawSocket::open(&pair.client, Pair::DEVICE).unwrap();
    let mut rings: Vec<Arc<Mutex<Vec<Event>>>> = Vec::new();
    let capture = pair
        .server
        .enter(|| {
            let interfaces = netlink::interfaces()?;
            Capture::start(netlink::find(&interfaces, Pair::DEVICE)?, settings, || {
                let ring = Arc::<Mutex<Vec<Event>>>::default();
                rings.push(Arc::clone(&ring));
                move |drained: Drained<'_>| {
                    if let Drained::Event(event) = drained {
                        ring.lock().unwrap().push(*event);
                    }
                }
            })
        })
        .unwrap();
    let mode = capture.mode().to_string();
    send(&socket);
    capture.stop().unwrap();
    let events = rings.iter().map(|ring| ring.lock().unwrap().clone());
    (mode, events.collect())
}

fn send(socket: &RawSocket, tags: &[Tag], client: &str) {
    let client = SocketAddr::new(client.parse().unwrap(), 40_000);
    let server = SocketAddr::new(
        if client.is_ipv4() {
            "10.9.0.1"
        } else {
            "fd09::1"
        }
        .parse()
        .unwrap(),
        123,
    );
    let packet = frames::datagram(client, server, &load::request()).unwrap();
    let ethernet = Ethernet {
        source: socket.address,
        destination: frames::BROADCAST,
    };
    socket
        .send(&frames::frame(ethernet, tags, &packet))
        .unwrap();
}

#[test]
fn the_vlan_ids_of_tagged_frames_are_in_their_events() {
    const C: Tag = Tag {
        protocol: Tag::C,
        vlan: 42,
    };
    const S: Tag = Tag {
        protocol: Tag::S,
        vlan: 4007,
    };
    for (xdp, expected_mode) in [
        (false, "ingress tcx, egress tcx"),
        (true, "ingress xdp-driver, egress tcx"),
    ] {
        let settings = Settings {
            xdp,
            ..Settings::default()
        };
        let (mode, rings) = captured(&settings, |socket| {
            for tags in [&[][..], &[C], &[S], &[S, C], &[C, S]] {
                for client in ["10.9.0.2", "fd09::2"] {
                    send(socket, tags, client);
                }
            }
        });
        assert_eq!(mode, expected_mode);
        let events = &rings[0];
        assert!(
            events
                .iter()
                .all(|event| event.direction == Direction::Ingress as u8)
        );
        let vlans: Vec<[u16; 2]> = events.iter().map(|event| event.vlan).collect();
        let each = [[0, 0], [42, 0], [4007, 0], [4007, 42], [42, 4007]];
        let expected: Vec<[u16; 2]> = each.into_iter().flat_map(|vlan| [vlan; 2]).collect();
        assert_eq!(vlans, expected, "{mode}");
    }
}

#[test]
fn the_clients_of_one_server_are_spread_over_the_rings() {
    let settings = Settings {
        rings: 4,
        ..Settings::default()
    };
    let (_, rings) = captured(&settings, |socket| {
        for number in 2..66 {
            for _ in 0..2 {
                send(socket, &[], &format!("10.9.0.{number}"));
            }
        }
    });
    let counts: Vec<usize> = rings.iter().map(Vec::len).collect();
    assert_eq!(counts.iter().sum::<usize>(), 128, "{counts:?}");
    assert!(counts.iter().all(|&count| count >= 16), "{counts:?}");
}
