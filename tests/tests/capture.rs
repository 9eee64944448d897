//! What a capture sees on interfaces of every kind, beside programs of others, on several interfaces
//! and in several processes at once: each packet once, with what belongs to it.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use ntpmon_tests::{
    attached::{self, Foreign, Place},
    frames::{self, Ethernet, Ntp, RawSocket, Tag},
    link::TunLink,
    load::{self, Traffic},
    namespace::{Namespace, Pair, connect},
    watch::{Watch, Watched},
};
use serde_json::{Map, Value};

const DEVICE: &str = Pair::DEVICE;
const NTP_TRAFFIC: &str = env!("CARGO_BIN_EXE_ntp-traffic");
const SOON: [&str; 2] = ["--timeout", "0.2"];

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), port)
}

fn serve<'a>(host: &Namespace, address: &'a str) -> Traffic<'a> {
    Traffic::serve(Path::new(NTP_TRAFFIC), host, address).unwrap()
}

fn assert_totals(watched: &Watched, expected: &Map<String, Value>) {
    for (name, value) in expected {
        assert_eq!(&watched.totals[name], value, "{name}: {}", watched.stderr);
    }
    assert_eq!(watched.totals["lost"], 0);
}

/// Of interfaces that each saw all of it.
fn times(expected: &Map<String, Value>, count: u64) -> Map<String, Value> {
    let scaled = |(name, value): (&String, &Value)| {
        (name.clone(), Value::from(value.as_u64().unwrap() * count))
    };
    expected.iter().map(scaled).collect()
}

fn mode(watched: &Watched) -> String {
    watched.totals["interfaces"][0]["mode"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn skipped(watched: &Watched, reason: &str) -> u64 {
    watched.totals["skipped"][reason].as_u64().unwrap_or(0)
}

fn events(watched: &Watched) -> u64 {
    watched.totals["ntp_packets"].as_u64().unwrap()
}

fn watch_traffic(arguments: &[&str], address: &str) -> (Watched, Map<String, Value>) {
    let pair = Pair::new().unwrap();
    let traffic = serve(&pair.server, address);
    let watch = Watch::start(&pair.client, &[DEVICE], arguments).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    (watch.stop().unwrap(), expected)
}

#[test]
fn both_families_count_as_they_were_sent() {
    for server in [Pair::SERVER, Pair::SERVER_V6] {
        let (watched, expected) = watch_traffic(&[], server);
        assert_totals(&watched, &expected);
        assert_eq!(mode(&watched), "ingress tcx, egress tcx");
        assert!(watched.lines.iter().all(|line| line["role"] == "client"));
    }
}

#[test]
fn jumbo_frames_pass_through_xdp_in_the_driver() {
    let pair = Pair::new().unwrap();
    for host in [&pair.client, &pair.server] {
        host.ip("link set veth0 mtu 9000").unwrap();
    }
    let traffic = serve(&pair.server, Pair::SERVER);
    let watch = Watch::start(&pair.client, &[DEVICE], &["--xdp"]).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    let watched = watch.stop().unwrap();
    assert_totals(&watched, &expected);
    assert_eq!(mode(&watched), "ingress xdp-driver, egress tcx");
    assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), [""; 0]);
}

#[test]
fn four_rings_come_to_the_totals_of_one() {
    let pair = Pair::new().unwrap();
    let traffic = serve(&pair.server, Pair::SERVER);
    let one = Watch::start(&pair.client, &[DEVICE], &[]).unwrap();
    let four = Watch::start(&pair.client, &[DEVICE], &["--rings", "4"]).unwrap();
    let mut expected = Map::new();
    for _ in 0..12 {
        // A port each.
        expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    }
    let expected = times(&expected, 12);
    let (one, four) = (one.stop().unwrap(), four.stop().unwrap());
    for watched in [&one, &four] {
        assert_totals(watched, &expected);
    }
    assert_eq!(one.lines.len(), four.lines.len());
}

#[test]
fn two_watches_and_their_ends_do_not_disturb_each_other() {
    let pair = Pair::new().unwrap();
    let traffic = serve(&pair.server, Pair::SERVER);
    let long = Watch::start(&pair.client, &[DEVICE], &[]).unwrap();
    let short = Watch::start(&pair.client, &[DEVICE], &["--xdp"]).unwrap();
    let killed = Watch::start(&pair.client, &[DEVICE], &["--xdp"]).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    killed.kill().unwrap();
    let short = short.stop().unwrap();
    assert_totals(&short, &expected);
    assert_eq!(mode(&short), "ingress xdp-driver, egress tcx");
    traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    assert_totals(&long.stop().unwrap(), &times(&expected, 2));
    assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), [""; 0]);
}

#[test]
fn loopback_counts_each_packet_once() {
    let host = Namespace::new().unwrap();
    for server in ["127.0.0.1", "::1"] {
        let traffic = serve(&host, server);
        let watch = Watch::start(&host, &["lo"], &[]).unwrap();
        let expected = traffic.ask(&host, Traffic::PLAN).unwrap();
        assert_totals(&watch.stop().unwrap(), &expected);
    }
}

#[test]
fn a_bridge_and_its_port_each_pair_their_own_and_a_warning_says_so() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    host.ip("link add br0 type bridge").unwrap();
    host.ip("addr flush dev veth0").unwrap();
    host.ip("link set veth0 master br0").unwrap();
    host.address("br0", Pair::SERVER.parse().unwrap(), 24)
        .unwrap();
    let traffic = serve(host, Pair::SERVER);
    let watch = Watch::start(host, &["br0", DEVICE], &[]).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    let watched = watch.stop().unwrap();
    assert_totals(&watched, &times(&expected, 2));
    for interface in watched.totals["interfaces"].as_array().unwrap() {
        assert_eq!(interface["events"], expected["ntp_packets"]);
        let name = &interface["interface"];
        let lines = watched.lines.iter();
        let own = lines.filter(|line| &line["interface_name"] == name).count();
        assert_eq!(own as u64, expected["exchanges"].as_u64().unwrap());
    }
    assert!(
        watched.stderr.contains("counted on both"),
        "{}",
        watched.stderr
    );
}

#[test]
fn both_ends_of_a_cable_each_pair_their_own_and_a_warning_says_so() {
    let host = Namespace::new().unwrap();
    connect((&host, "left"), (&host, "right")).unwrap();
    for device in ["left", "right"] {
        host.ip(&format!("link set {device} up")).unwrap();
    }
    let watch = Watch::start(&host, &["left", "right"], &SOON).unwrap();
    let [left, right] = ["left", "right"].map(|name| RawSocket::open(&host, name).unwrap());
    let (client, server) = (address("10.9.0.2", 40_000), address("10.9.0.1", 123));
    for _ in 0..20 {
        let request = load::request();
        let response = Ntp {
            version: 4,
            mode: 4,
            stratum: 1,
            origin: u64::from_be_bytes(*request.last_chunk().unwrap()),
            receive: 1 << 40,
            transmit: 1 << 40,
            ..Ntp::default()
        };
        let send =
            |from: &RawSocket, to: &RawSocket, ends: (SocketAddr, SocketAddr), ntp: &[u8]| {
                let ethernet = Ethernet {
                    source: from.address,
                    destination: to.address,
                };
                let packet = frames::datagram(ends.0, ends.1, ntp).unwrap();
                from.send(&frames::frame(ethernet, &[], &packet)).unwrap();
            };
        send(&left, &right, (client, server), &request);
        send(&right, &left, (server, client), &response.bytes());
    }
    let watched = watch.stop().unwrap();
    for (name, expected) in [("ntp_packets", 80), ("exchanges", 40), ("answered", 40)] {
        assert_eq!(watched.totals[name], expected, "{name}: {}", watched.stderr);
    }
    assert_eq!(watched.stderr.matches("counted on both").count(), 1);
}

#[test]
fn a_tun_device_has_no_ethernet_header() {
    let link = TunLink::new().unwrap();
    let traffic = serve(&link.pair.server, Pair::SERVER);
    let client = &link.pair.client;
    let watch = Watch::start(client, &[TunLink::DEVICE], &[]).unwrap();
    let expected = traffic.ask(client, Traffic::PLAN).unwrap();
    assert_totals(&watch.stop().unwrap(), &expected);
}

/// Frames from the client to the server, where they are watched.
struct Wire {
    pair: Pair,
    socket: RawSocket,
}

impl Wire {
    fn new() -> Self {
        let pair = Pair::new().unwrap();
        let socket = RawSocket::open(&pair.client, DEVICE).unwrap();
        Self { pair, socket }
    }

    fn watch(&self, arguments: &[&str]) -> Watch {
        let arguments = [&SOON[..], arguments].concat();
        Watch::start(&self.pair.server, &[DEVICE], &arguments).unwrap()
    }

    fn ethernet(&self) -> Ethernet {
        Ethernet {
            source: self.socket.address,
            destination: frames::BROADCAST,
        }
    }

    fn send(&self, tags: &[Tag], packet: &[u8]) {
        let frame = frames::frame(self.ethernet(), tags, packet);
        self.socket.send(&frame).unwrap();
    }
}

/// A request between hosts that do not exist, so that nobody answers.
fn request_packet() -> Vec<u8> {
    let (client, server) = (address("10.9.0.2", 40_000), address("10.9.0.1", 123));
    frames::datagram(client, server, &load::request()).unwrap()
}

fn request_packet_v6() -> Vec<u8> {
    let (client, server) = (address("fd09::2", 40_000), address("fd09::1", 123));
    frames::datagram(client, server, &load::request()).unwrap()
}

/// An IPv4 packet of some protocol.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = frames::datagram(address("10.8.0.2", 1), address("10.8.0.1", 1), &[]).unwrap();
    packet.truncate(20);
    let length = u16::try_from(20 + payload.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[9] = protocol;
    packet.extend(payload);
    packet
}

#[test]
fn tagged_frames_count_with_one_tag_and_with_two() {
    const C: Tag = Tag {
        protocol: Tag::C,
        vlan: 42,
    };
    const S: Tag = Tag {
        protocol: Tag::S,
        vlan: 7,
    };
    for arguments in [&[][..], &["--xdp"]] {
        let wire = Wire::new();
        let watch = wire.watch(arguments);
        for tags in [&[C][..], &[S, C], &[C, C]] {
            for _ in 0..5 {
                wire.send(tags, &request_packet());
                wire.send(tags, &request_packet_v6());
            }
        }
        let watched = watch.stop().unwrap();
        assert_eq!(events(&watched), 30, "{}", watched.stderr);
        assert_eq!(watched.totals["exchanges"], 30);
    }
}

#[test]
fn what_only_looks_like_ntp_is_skipped_with_its_reason() {
    let wire = Wire::new();
    let watch = wire.watch(&[]);
    let packet = request_packet();
    // A later fragment, whose first bytes are a UDP header only by chance.
    let mut fragment = packet.clone();
    fragment[6..8].copy_from_slice(&100_u16.to_be_bytes());
    wire.send(&[], &fragment);
    // A router's answer, which quotes the packet.
    wire.send(
        &[],
        &ipv4(1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &packet[..]].concat()),
    );
    let (client, server) = (address("10.9.0.2", 40_000), address("10.9.0.1", 123));
    let mut version = load::request();
    version[0] = 7 << 3 | 3;
    for payload in [&version[..], &load::request()[..20]] {
        wire.send(&[], &frames::datagram(client, server, payload).unwrap());
    }
    // The first fragment has all that is needed.
    let mut first = packet;
    first[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
    wire.send(&[], &first);
    let watched = watch.stop().unwrap();
    assert_eq!(events(&watched), 1, "{}", watched.stderr);
    for reason in ["fragment", "bad_version", "short_payload"] {
        assert_eq!(
            skipped(&watched, reason),
            1,
            "{reason}: {:?}",
            watched.totals
        );
    }
    assert!(skipped(&watched, "not_udp") >= 1, "{:?}", watched.totals);
}

#[test]
fn eight_ports_are_ntp_and_a_ninth_is_not() {
    let wire = Wire::new();
    let ports: Vec<u16> = (0..8).map(|number| 1230 + number).collect();
    let names: Vec<String> = ports.iter().map(u16::to_string).collect();
    let arguments: Vec<&str> = names
        .iter()
        .flat_map(|port| ["--port", port.as_str()])
        .collect();
    let watch = wire.watch(&arguments);
    for port in ports.iter().chain(&[123, 1238]) {
        let (client, server) = (address("10.9.0.2", 40_000), address("10.9.0.1", *port));
        let packet = frames::datagram(client, server, &load::request()).unwrap();
        wire.send(&[], &packet);
    }
    let watched = watch.stop().unwrap();
    assert_eq!(events(&watched), 8, "{}", watched.stderr);
    assert!(skipped(&watched, "other_port") >= 2);
    let mut seen: Vec<u64> = watched
        .lines
        .iter()
        .map(|line| line["server_port"].as_u64().unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        ports.iter().map(|&port| port.into()).collect::<Vec<u64>>()
    );
}

#[test]
fn tunnels_are_looked_into_only_on_request() {
    let wire = Wire::new();
    let plain = wire.watch(&[]);
    let inside = wire.watch(&["--decapsulate"]);
    let inside_xdp = wire.watch(&["--decapsulate", "--xdp"]);
    let gre = |kind: [u8; 2], packet: &[u8]| ipv4(47, &[&[0, 0], &kind[..], packet].concat());
    let vxlan = {
        let frame = frames::frame(wire.ethernet(), &[], &request_packet());
        let payload = [&[8, 0, 0, 0, 0, 0, 9, 0], &frame[..]].concat();
        frames::datagram(
            address("10.8.0.2", 50_000),
            address("10.8.0.1", 4789),
            &payload,
        )
        .unwrap()
    };
    for packet in [
        gre([8, 0], &request_packet()),
        gre([0x86, 0xdd], &request_packet_v6()),
        ipv4(4, &request_packet()),
        ipv4(41, &request_packet_v6()),
        vxlan,
        request_packet(),
    ] {
        wire.send(&[], &packet);
    }
    let plain = plain.stop().unwrap();
    assert_eq!(events(&plain), 1, "{:?}", plain.totals);
    for inside in [inside.stop().unwrap(), inside_xdp.stop().unwrap()] {
        assert_eq!(events(&inside), 6, "{:?}", inside.totals);
        let lines = inside.lines.iter();
        let own = lines.filter(|line| {
            let client: IpAddr = line["client_ip"].as_str().unwrap().parse().unwrap();
            client.to_string().ends_with('2') && !client.to_string().starts_with("10.8.")
        });
        assert_eq!(own.count(), 6, "the inner addresses");
    }
}

#[test]
fn the_programs_log_only_when_asked() {
    for (arguments, expected) in [(&["--debug"][..], 10), (&[], 0)] {
        let wire = Wire::new();
        let watch = wire.watch(arguments);
        for _ in 0..10 {
            wire.send(&[], &request_packet());
        }
        std::thread::sleep(Duration::from_millis(300));
        let watched = watch.stop().unwrap();
        let lines = watched.stderr.matches("ntp 48 bytes, mode 3").count();
        assert_eq!(lines, expected, "{}", watched.stderr);
        assert_eq!(events(&watched), 10);
    }
}

fn beside_a_foreign_program(place: Place, arguments: &[&str], expected_mode: &str) {
    let pair = Pair::new().unwrap();
    let traffic = serve(&pair.server, Pair::SERVER);
    let foreign = Foreign::attach(&pair.client, DEVICE, place).unwrap();
    let before = attached::programs(&pair.client, DEVICE).unwrap();
    assert_eq!(before.len(), 1, "{before:?}");

    let watch = Watch::start(&pair.client, &[DEVICE], arguments).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    let watched = watch.stop().unwrap();
    assert_totals(&watched, &expected);
    assert_eq!(mode(&watched), expected_mode);
    if place == Place::Xdp && arguments.contains(&"--xdp") {
        assert!(
            watched
                .stderr
                .contains("has an XDP program already: xdp_ingress (program "),
            "{}",
            watched.stderr
        );
    }
    // What came in, which is what the server sent: all but the requests and half the rest.
    let count = |name: &str| expected[name].as_u64().unwrap();
    let came_in = count("responses") + (count("control") + count("private")) / 2;
    assert_eq!(foreign.seen().unwrap(), came_in);
    assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), before);
    traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    assert_eq!(foreign.seen().unwrap(), 2 * came_in);
}

#[test]
fn a_tcx_program_of_others_sees_everything_and_stays() {
    beside_a_foreign_program(Place::Tcx, &[], "ingress tcx, egress tcx");
    beside_a_foreign_program(Place::Tcx, &["--xdp"], "ingress xdp-driver, egress tcx");
}

#[test]
fn a_filter_of_others_sees_everything_and_stays() {
    beside_a_foreign_program(Place::Clsact, &[], "ingress tcx, egress tcx");
}

#[test]
fn an_xdp_program_of_others_stays_and_is_named() {
    beside_a_foreign_program(Place::Xdp, &["--xdp"], "ingress tcx, egress tcx");
    beside_a_foreign_program(Place::Xdp, &[], "ingress tcx, egress tcx");
}

/// The other order: theirs comes after ours, and ours goes first.
#[test]
fn a_program_of_others_that_comes_later_sees_everything_too() {
    let pair = Pair::new().unwrap();
    let traffic = serve(&pair.server, Pair::SERVER);
    let watch = Watch::start(&pair.client, &[DEVICE], &[]).unwrap();
    let tcx = Foreign::attach(&pair.client, DEVICE, Place::Tcx).unwrap();
    let clsact = Foreign::attach(&pair.client, DEVICE, Place::Clsact).unwrap();
    let expected = traffic.ask(&pair.client, "answered=50").unwrap();
    assert_totals(&watch.stop().unwrap(), &expected);
    traffic.ask(&pair.client, "answered=50").unwrap();
    assert_eq!(tcx.seen().unwrap(), 100);
    assert_eq!(clsact.seen().unwrap(), 100);
}
