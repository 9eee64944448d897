//! Requests from addresses that nobody has, through the kernel: what is remembered by name stays
//! bounded, what is counted stays exact, and who is real is not pushed out.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::sleep,
    time::Duration,
};

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home, Memory},
    frames::{self, Ethernet, RawSocket},
    load::{self, Exchanges},
    namespace::Pair,
    process::wait_for,
};
use serde_json::Value;

const DEVICE: &str = Pair::DEVICE;
/// A debug build on a busy machine has to fold them all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Twice so many, each from an address of its own.
const FORGED: u32 = 150_000;
/// As fast as the ring of a debug build is emptied, about.
const BURST: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(20);
const FIRST: u32 = 0xac10_0000;
const MAX_CLIENTS: u64 = 5_000;
const REAL: u16 = 50;
const CONFIGURATION: &str = "
[capture]
timeout_seconds = 0.5
ring_size_kib = 65536
[history]
flush_interval_seconds = 0.5
batch_size = 20000
max_clients = 5000
sessions.per_second = 500
";

fn get(api: &Api<'_>, path: &str) -> Value {
    let answer = api.get(&format!("/api/ntp/{path}")).unwrap();
    answer.success().unwrap()["data"].clone()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn of_device(api: &Api<'_>) -> Value {
    let statistics = get(api, "history/interfaces/statistics");
    let mut statistics = statistics.as_array().unwrap().iter();
    let device = statistics.find(|it| it["interface_name"] == DEVICE);
    device.unwrap().clone()
}

/// Sends one request from each of so many addresses; nobody is there to answer.
fn flood(socket: &RawSocket, first: u32) {
    let ethernet = Ethernet {
        source: socket.address,
        // Not the server's: it takes note of none of them.
        destination: [2, 0, 0, 0, 0, 9],
    };
    let server = SocketAddr::new(Pair::SERVER.parse().unwrap(), 123);
    for number in 0..FORGED {
        let source = SocketAddr::new(Ipv4Addr::from(first + number).into(), 123);
        let packet = frames::datagram(source, server, &load::request()).unwrap();
        socket.send(&frames::frame(ethernet, &[], &packet)).unwrap();
        if number % BURST == BURST - 1 {
            sleep(PAUSE);
        }
    }
}

fn memory_after(daemon: &Daemon, api: &Api<'_>, sessions: u64) -> Memory {
    wait_for("the flood to be counted", PATIENCE, || {
        let counted = number(&of_device(api)["session_count"]);
        Ok((counted >= sessions).then_some(()))
    })
    .unwrap();
    daemon.memory_bytes().unwrap()
}

#[test]
fn forged_sources_are_counted_and_push_nobody_out() {
    let pair = Pair::new().unwrap();
    let home = Home::new().unwrap();
    home.configure(CONFIGURATION).unwrap();
    let mut command = home
        .command_watching(&pair.server, &[], "127.0.0.1:0", &[DEVICE])
        .unwrap();
    let daemon = home.start(&mut command).unwrap();
    let api = Api::of(&daemon, &pair.server).unwrap();
    // Who is real has asked before, and goes on to.
    let real = Exchanges::start(&pair, REAL, Duration::from_millis(2)).unwrap();
    wait_for("the real clients", PATIENCE, || {
        Ok((number(&of_device(&api)["client_count"]) == u64::from(REAL)).then_some(()))
    })
    .unwrap();
    let socket = RawSocket::open(&pair.client, DEVICE).unwrap();
    flood(&socket, FIRST);
    let first = memory_after(&daemon, &api, u64::from(FORGED));
    flood(&socket, FIRST + FORGED);
    let answered = real.stop().unwrap();
    let sessions = u64::from(2 * FORGED) + answered;
    let second = memory_after(&daemon, &api, sessions);

    let device = of_device(&api);
    assert_eq!(
        get(&api, &format!("interfaces/{DEVICE}/status"))["dropped"],
        0
    );
    assert_eq!(number(&device["session_count"]), sessions, "{device}");
    assert_eq!(number(&device["counts"]["exchanges"]), sessions, "{device}");
    assert_eq!(number(&device["counts"]["answered"]), answered);
    assert_eq!(
        number(&device["counts"]["unanswered"]),
        u64::from(2 * FORGED)
    );
    let named = number(&device["client_count"]);
    assert!(named <= MAX_CLIENTS, "{named} clients");
    // Records, those that never got one, and those that lost theirs: together they are all.
    let mut of_clients = 0;
    let mut cursor = String::new();
    for _ in 0..=MAX_CLIENTS / 1000 {
        let path = format!("/api/ntp/history/clients?page_size=1000{cursor}");
        let page = api.get(&path).unwrap().success().unwrap();
        for client in page["data"].as_array().unwrap() {
            of_clients += number(&client["session_count"]);
        }
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let [other, forgotten] =
        ["other_sessions", "forgotten_sessions"].map(|name| number(&device[name]));
    assert_eq!(of_clients + other + forgotten, sessions, "{device}");

    let path = "history/clients?search_ip=10.1.0.0/16&page_size=1000";
    let clients = get(&api, path);
    let clients = clients.as_array().unwrap();
    assert_eq!(clients.len(), usize::from(REAL));
    let of_real: u64 = clients.iter().map(|it| number(&it["session_count"])).sum();
    assert_eq!(of_real, answered, "each of them was there all the time");

    // What the second flood took was there from the first.
    assert!(
        second.most < first.most + first.most / 4,
        "{first:?} and then {second:?}"
    );
    let service = get(&api, "history/service/statistics");
    eprintln!("{first:?} {second:?} {service}");
    assert!(number(&service["database_bytes"]) < 64 << 20, "{service}");
}
