//! What a daemon at a server says of its clients: whose clock can be believed and how wrong it is,
//! who asks how often, and what control packets cost.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::time::Duration;

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    daemons::{Chronyd, Ntpsec, Openntpd, ntpq},
    honest::HonestClient,
    namespace::Pair,
    process::wait_for,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const CONFIGURATION: &str = "history.flush_interval_seconds = 0.2\n";
const SECOND: i64 = 1_000_000_000;
const DAYS: i64 = 11 * 86_400 * SECOND;
/// Requests of each client, and the seconds between them.
const REQUESTS: usize = 12;
const INTERVAL: f64 = 0.05;
/// How far an error may be from what it was made, in seconds: from writing the time to the cable, on a
/// busy machine.
const CLOSE: f64 = 0.005;

/// A daemon that watches at the server.
struct Observer<'a> {
    pair: &'a Pair,
    home: Home,
    daemon: Daemon,
}

impl<'a> Observer<'a> {
    fn start(pair: &'a Pair) -> Self {
        let home = Home::new().unwrap();
        home.configure(CONFIGURATION).unwrap();
        let daemon = Self::daemon(pair, &home);
        Self { pair, home, daemon }
    }

    fn daemon(pair: &Pair, home: &Home) -> Daemon {
        let mut command = home
            .command_watching(&pair.server, &[], "127.0.0.1:0", &[Pair::DEVICE])
            .unwrap();
        home.start(&mut command).unwrap()
    }

    fn start_again(self) -> Self {
        let Self { pair, home, daemon } = self;
        assert_eq!(daemon.end(libc::SIGTERM).unwrap().status.code(), Some(0));
        let daemon = Self::daemon(pair, &home);
        Self { pair, home, daemon }
    }

    fn ask(&self, path: &str) -> Value {
        let api = Api::of(&self.daemon, &self.pair.server).unwrap();
        let answer = api.get(&format!("/api/ntp/{path}")).unwrap();
        answer.success().unwrap()["data"].clone()
    }

    /// A client's record, once it has so many sessions.
    fn client(&self, address: &str, sessions: usize) -> Value {
        wait_for("a client to be remembered", PATIENCE, || {
            let clients = self.ask(&format!("history/clients?client_ips={address}"));
            let client = clients[0].clone();
            let known = client["session_count"].as_u64().unwrap_or_default();
            Ok((known >= sessions as u64).then_some(client))
        })
        .unwrap()
    }
}

fn number(value: &Value, name: &str) -> f64 {
    value[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name} of {value}"))
}

#[test]
fn clocks_that_are_wrong_are_told_with_sign_and_size_and_the_worst_first() {
    let pair = Pair::new().unwrap();
    let _server = Chronyd::server(&pair.server, &[]).unwrap();
    let observer = Observer::start(&pair);
    let clients = [
        ("10.0.0.11", 0, false),
        ("10.0.0.12", 3 * SECOND / 10, false),
        ("10.0.0.13", -2 * SECOND, true),
        ("10.0.0.14", DAYS, true),
        ("10.0.0.15", -DAYS - SECOND, false),
        ("10.0.0.16", SECOND / 50, true),
    ];
    let server = format!("{}:123", Pair::SERVER).parse().unwrap();
    for (address, ahead, repeats) in clients {
        let address = address.parse().unwrap();
        pair.client.address(Pair::DEVICE, address, 24).unwrap();
        let client = HonestClient {
            address,
            ahead,
            repeats,
        };
        let interval = Duration::from_secs_f64(INTERVAL);
        client
            .ask(&pair.client, server, REQUESTS, interval)
            .unwrap();
    }
    for (address, ahead, repeats) in clients {
        let client = observer.client(address, REQUESTS);
        assert_eq!(client["client_clock"], "honest", "{client}");
        assert_eq!(client["role"], "server");
        let expected = ahead as f64 / 1e9;
        let error = number(&client, "client_clock_error_seconds");
        assert!((error - expected).abs() < CLOSE, "{error} for {expected}");
        // It is late by the way, or within the bound.
        if repeats {
            let bound = number(&client, "client_clock_error_bound_seconds");
            assert!((error - expected).abs() <= bound + 1e-6, "{error} {bound}");
        } else {
            assert!(client["client_clock_error_bound_seconds"].is_null());
            assert!(error <= expected + 1e-6, "{error} for {expected}");
        }
        assert!(client["client_clock_drift_ppm"].is_null(), "in a second");
    }
    // After the last flush the list is a second old at most.
    std::thread::sleep(Duration::from_millis(1100));
    let clocks = observer.ask("clients/clocks?limit=3");
    assert_eq!(clocks["client_clocks"]["honest"], 6);
    let classes = &clocks["client_clock_error_classes"];
    let (within, more) = (number(classes, "1"), number(classes, "more"));
    assert_eq!((within, more), (1.0, 3.0), "{classes}");
    let worst: Vec<_> = clocks["worst"].as_array().unwrap().iter().collect();
    let worst: Vec<_> = worst.iter().map(|it| it["client_ip"].clone()).collect();
    assert_eq!(worst, ["10.0.0.15", "10.0.0.14", "10.0.0.13"]);
    let sorted = observer.ask("history/clients?sort=clock_error&page_size=3");
    let sorted: Vec<_> = sorted
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["client_ip"])
        .collect();
    assert_eq!(sorted, ["10.0.0.15", "10.0.0.14", "10.0.0.13"]);
    let wrong = observer.ask("history/clients?clock_error_at_least_seconds=1");
    assert_eq!(wrong.as_array().unwrap().len(), 3);
    // Each once in an hour, and in a minute once or, where one ended meanwhile, twice.
    let sum = |resolution: &str| {
        let rollups = observer.ask(&format!("history/rollups?resolution={resolution}"));
        let rollups = rollups.as_array().unwrap().clone();
        let count = |it: &Value| it["client_clock_errors"]["count"].as_u64().unwrap();
        (rollups.len() as u64, rollups.iter().map(count).sum::<u64>())
    };
    for resolution in ["minute", "hour", "day"] {
        let (times, clients) = sum(resolution);
        assert!(
            (6..=6 * times).contains(&clients),
            "{clients} in {times} {resolution}s"
        );
        if times == 1 {
            assert_eq!(clients, 6);
        }
    }
    let busy = observer.ask("clients/busiest?limit_per_second=0.001");
    assert!(number(&busy, "clients_above") >= 1.0, "{busy}");
    let one = &busy["clients"][0];
    assert_eq!(
        (&one["served"], &one["unanswered"]),
        (&REQUESTS.into(), &0.into())
    );
}

#[test]
fn clients_that_write_random_times_are_known_as_such_and_have_no_error() {
    let pair = Pair::new().unwrap();
    let _server = Chronyd::server(&pair.server, &[]).unwrap();
    let observer = Observer::start(&pair);
    let line = format!("server {} minpoll -2 maxpoll -2 noselect", Pair::SERVER);
    let chronyd = Chronyd::start(&pair.client, &[&line]).unwrap();
    let client = observer.client(Pair::CLIENT, 6);
    drop(chronyd);
    assert_eq!(client["client_clock"], "randomised", "{client}");
    // OpenNTPD asks at the server's other address, by its own.
    let line = format!("server {}", Pair::SERVER_V6);
    let mut openntpd = Openntpd::start(&pair.client, &[&line]).unwrap();
    openntpd.wait_for_replies(3, PATIENCE).unwrap();
    let other = observer.client(Pair::CLIENT_V6, 3);
    assert_eq!(other["client_clock"], "randomised", "{other}");
    for client in [client, other] {
        assert!(client["client_clock_error_seconds"].is_null(), "{client}");
    }
    let classes = observer.ask("clients/clocks")["client_clock_error_classes"].clone();
    let classes = classes.as_object().unwrap();
    assert!(classes.values().all(|it| it == 0), "{classes:?}");
}

#[test]
fn what_ntpq_asks_and_what_comes_back_is_counted_by_client_and_outlives_a_restart() {
    let pair = Pair::new().unwrap();
    let server = Ntpsec::server(&pair.server, &[]).unwrap();
    let observer = Observer::start(&pair);
    let read = ntpq(&pair.client, Pair::SERVER, &["rv", "peers"]).unwrap();
    assert!(read.contains("stratum"), "{read} {}", server.log());
    let abuse = wait_for("the packets to be counted", PATIENCE, || {
        let abuse = observer.ask("clients/abuse");
        let client = &abuse["clients"][0]["control"];
        let out = client["packets_out"].as_u64().unwrap_or_default();
        Ok((out > 0 && client["packets_in"].as_u64() > Some(0)).then_some(abuse))
    })
    .unwrap();
    assert_eq!(abuse["client_count"], 1);
    let one = &abuse["clients"][0];
    assert_eq!(
        (&one["client_ip"], &one["interface_name"]),
        (&Pair::CLIENT.into(), &Pair::DEVICE.into())
    );
    let control = &one["control"];
    let (into, out) = (number(control, "bytes_in"), number(control, "bytes_out"));
    assert!(into > 0.0 && out > into, "{control}");
    assert!((number(control, "amplification") - out / into).abs() < 1e-9);
    assert_eq!(abuse["total"]["control"], *control);
    assert!(one["private"]["amplification"].is_null() && one["monlist_requests"] == 0);
    assert_eq!(abuse["recent"], one["all"]);

    let observer = observer.start_again();
    let after = observer.ask("clients/abuse");
    assert_eq!(after["clients"], abuse["clients"]);
    assert_eq!(after["total"], abuse["total"]);
    let statistics = observer.ask("history/interfaces/statistics");
    let counts = &statistics[0]["counts"];
    let counted = [&counts["control_bytes_in"], &counts["control_bytes_out"]];
    assert_eq!(counted.map(|it| it.as_f64().unwrap()), [into, out]);
}
