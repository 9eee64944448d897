//! `--pin`: programs and rings outlive the process, and the next one takes over. However it ends and
//! whatever passes meanwhile, both together tell every packet once.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use ntpmon_tests::{
    attached,
    bpf_mount::BpfMount,
    load::{self, Load},
    namespace::{Namespace, Pair, connect},
    process::{run, wait_for},
    watch::{Watch, Watched, binary},
};

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(20);
const TCX: [&str; 2] = ["tcx-egress tc_egress", "tcx-ingress tc_ingress"];

fn server() -> SocketAddr {
    SocketAddr::new(Pair::SERVER.parse().unwrap(), 123)
}

/// Two hosts and a BPF file system of their own. The client sends, and is watched.
struct Stage {
    pair: Pair,
    bpf: BpfMount,
}

impl Stage {
    fn new() -> Self {
        Self {
            pair: Pair::new().unwrap(),
            bpf: BpfMount::new().unwrap(),
        }
    }

    fn watch(&self, arguments: &[&str]) -> Watch {
        self.watch_at(&self.pair.client, &[&["--pin"], arguments].concat())
    }

    fn watch_at(&self, host: &Namespace, arguments: &[&str]) -> Watch {
        let command = self.bpf.command(host, binary().unwrap());
        Watch::start_command(
            command,
            &[DEVICE],
            &[&["--timeout", "0.2"], arguments].concat(),
        )
        .unwrap()
    }

    /// Runs ntpmon to its end: what it printed, or what it said as it failed.
    fn ntpmon(&self, arguments: &[&str]) -> Result<String, String> {
        run(self
            .bpf
            .command(&self.pair.client, binary().unwrap())
            .args(arguments))
        .map_err(|error| format!("{error:#}"))
    }

    fn send(&self, count: u64) {
        load::send(&self.pair.client, server(), count).unwrap();
    }

    fn attached(&self) -> Vec<String> {
        attached::programs(&self.pair.client, DEVICE).unwrap()
    }

    /// The interface anew, under its old name.
    fn make_again(&self) {
        self.pair.client.ip("link del veth0").unwrap();
        self.connect();
    }

    fn connect(&self) {
        let Pair { client, server } = &self.pair;
        connect((client, DEVICE), (server, DEVICE)).unwrap();
        for (host, address) in [(server, Pair::SERVER), (client, Pair::CLIENT)] {
            host.address(DEVICE, address.parse().unwrap(), 24).unwrap();
        }
    }
}

fn number(watched: &Watched, name: &str) -> u64 {
    watched.totals[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {:?}", watched.totals))
}

/// The totals agree with each other and with what was sent, and nothing was lost.
fn assert_exactly(watched: &Watched, sent: u64) {
    for name in ["ntp_packets", "requests", "exchanges"] {
        assert_eq!(number(watched, name), sent, "{name}: {}", watched.stderr);
    }
    for name in ["lost", "duplicates"] {
        assert_eq!(number(watched, name), 0, "{name}: {}", watched.stderr);
    }
    assert_eq!(watched.totals["interfaces"][0]["events"], sent);
    assert_eq!(watched.lines.len() as u64, sent);
}

#[test]
fn what_passes_between_two_runs_is_told_by_the_second() {
    let stage = Stage::new();
    let first = stage.watch(&[]);
    stage.send(100);
    let first = first.stop().unwrap();
    assert_exactly(&first, 100);
    assert_eq!(stage.attached(), TCX);

    stage.send(500);
    let second = stage.watch(&[]);
    assert_eq!(stage.attached(), TCX);
    stage.send(50);
    let second = second.stop().unwrap();
    assert_exactly(&second, 550);

    // Nothing waits any more. What is not NTP counts as well: a socket that nobody listens at
    // answers, at most some times a second.
    let third = stage.watch(&[]).stop().unwrap();
    assert_exactly(&third, 0);
}

#[test]
fn nothing_is_missed_or_told_twice_when_it_restarts_under_load() {
    let stage = Stage::new();
    let mut total = 0;
    // From now on there are pins.
    stage.watch(&[]).stop().unwrap();
    let load = Load::start(&stage.pair.client, server()).unwrap();
    for arguments in [
        &[][..],
        &["--port", "123", "--port", "1123"],
        &["--decapsulate"],
    ] {
        let watch = stage.watch(arguments);
        let sent = load.sent();
        wait_for("packets", PATIENCE, || {
            Ok((load.sent() > sent + 300).then_some(()))
        })
        .unwrap();
        let watched = watch.stop().unwrap();
        let requests = number(&watched, "requests");
        assert_eq!(number(&watched, "ntp_packets"), requests);
        assert_eq!(watched.lines.len() as u64, requests);
        total += requests;
    }
    let sent = load.stop().unwrap();
    total += number(&stage.watch(&[]).stop().unwrap(), "requests");
    assert_eq!(total, sent);
}

#[test]
fn what_passes_after_a_kill_is_told_by_the_next_one() {
    let stage = Stage::new();
    let first = stage.watch(&[]);
    stage.send(100);
    first.wait_for_lines(100, PATIENCE).unwrap();
    first.kill().unwrap();
    assert_eq!(stage.attached(), TCX);
    stage.send(500);
    let second = stage.watch(&[]);
    stage.send(50);
    assert_exactly(&second.stop().unwrap(), 550);
}

#[test]
fn a_kill_under_load_tells_nothing_twice() {
    let stage = Stage::new();
    let first = stage.watch(&[]);
    let load = Load::start(&stage.pair.client, server()).unwrap();
    first.wait_for_lines(1000, PATIENCE).unwrap();
    let lines = first.lines().unwrap();
    first.kill().unwrap();
    let second = stage.watch(&[]);
    let sent = load.stop().unwrap();
    let second = second.stop().unwrap();
    let mut seen = HashSet::new();
    for line in lines.iter().chain(&second.lines) {
        let transmit = line["transmit_timestamp"].to_string();
        assert!(seen.insert(transmit), "twice: {line:?}");
    }
    // What the killed one had taken and not printed is gone: a timeout's worth and a little.
    assert!(seen.len() as u64 <= sent);
    assert!(number(&second, "requests") >= 100);
    assert_eq!(number(&second, "ntp_packets"), number(&second, "requests"));
}

#[test]
fn a_ring_that_overflows_while_nobody_is_there_is_told_once() {
    let stage = Stage::new();
    let small = ["--ring-size", "4"];
    assert_exactly(&stage.watch(&small).stop().unwrap(), 0);
    stage.send(300);
    let watched = stage.watch(&small).stop().unwrap();
    let (lost, requests) = (number(&watched, "lost"), number(&watched, "requests"));
    assert!(lost > 0 && requests > 0, "{lost} lost, {requests} requests");
    assert_eq!(lost + requests, 300);
    assert_eq!(number(&watched, "ntp_packets"), 300);
    assert_exactly(&stage.watch(&small).stop().unwrap(), 0);
}

#[test]
fn rings_of_another_size_or_number_are_an_error_that_says_what_to_do() {
    let stage = Stage::new();
    stage.watch(&["--rings", "2"]).stop().unwrap();
    stage.send(10);
    let start = ["watch", "--pin", "-i", DEVICE];
    for (arguments, told) in [
        (
            &["--rings", "2", "--ring-size", "64"][..],
            "has 8192 KiB, not the 64 KiB",
        ),
        (&["--rings", "1"], "2 pinned rings, not the 1"),
        (&["--rings", "4"], "2 pinned rings, not the 4"),
    ] {
        let error = stage.ntpmon(&[&start, arguments].concat()).unwrap_err();
        assert!(
            error.contains(told) && error.contains("ntpmon cleanup"),
            "{error}"
        );
        assert!(!error.contains("panicked"), "{error}");
    }
    // None of them did any harm.
    assert_exactly(&stage.watch(&["--rings", "2"]).stop().unwrap(), 10);
}

#[test]
fn only_one_owns_the_pins() {
    let stage = Stage::new();
    let owner = stage.watch(&[]);
    let error = stage.ntpmon(&["watch", "--pin", "-i", DEVICE]).unwrap_err();
    assert!(error.contains("only one can own the pins"), "{error}");
    assert_eq!(stage.ntpmon(&["cleanup"]).unwrap(), "nothing to remove\n");
    // One without pins may watch beside it, and leaves them alone.
    let guest = stage.watch_at(&stage.pair.client, &[]);
    stage.send(20);
    assert_exactly(&guest.stop().unwrap(), 20);
    assert_eq!(stage.attached(), TCX);
    stage.send(10);
    assert_exactly(&owner.stop().unwrap(), 30);
}

#[test]
fn pins_go_by_cleanup_and_by_nothing_else() {
    let stage = Stage::new();
    stage.watch(&[]).stop().unwrap();
    assert_eq!(stage.bpf.captures().len(), 1);
    let printed = stage.ntpmon(&["cleanup", "-i", DEVICE]).unwrap();
    assert!(
        printed.starts_with("veth0: removed the pins in "),
        "{printed}"
    );
    assert_eq!(stage.attached(), [""; 0]);
    assert_eq!(stage.bpf.captures(), [""; 0]);

    stage.watch(&[]).stop().unwrap();
    stage.send(10);
    // A look at the packets while their owner is away takes nothing from it.
    let plain = stage.watch_at(&stage.pair.client, &[]);
    stage.send(20);
    assert_exactly(&plain.stop().unwrap(), 20);
    assert_eq!(stage.attached(), TCX);
    assert_exactly(&stage.watch(&[]).stop().unwrap(), 30);

    // Pins of an interface that has another name now, or is gone.
    stage.watch(&[]).stop().unwrap();
    stage.pair.client.ip("link set veth0 name lan").unwrap();
    let printed = stage.ntpmon(&["cleanup"]).unwrap();
    assert!(
        printed.contains("of an interface that is gone"),
        "{printed}"
    );
    assert_eq!(stage.bpf.captures(), [""; 0]);
    let left = attached::programs(&stage.pair.client, "lan").unwrap();
    assert_eq!(left, [""; 0]);
}

#[test]
fn when_one_interface_cannot_be_had_none_is_left_pinned() {
    let stage = Stage::new();
    let owner = stage.watch(&[]);
    let before = stage.bpf.captures();
    let error = stage
        .ntpmon(&["watch", "--pin", "-i", "lo", "-i", DEVICE])
        .unwrap_err();
    assert!(error.contains("only one can own the pins"), "{error}");
    assert_eq!(stage.bpf.captures(), before);
    let left = attached::programs(&stage.pair.client, "lo").unwrap();
    assert_eq!(left, [""; 0]);
    owner.stop().unwrap();
}

#[test]
fn an_interface_made_again_between_two_runs_is_taken_anew() {
    for xdp in [&[][..], &["--xdp"]] {
        let stage = Stage::new();
        let first = stage.watch(xdp);
        let attached = stage.attached();
        stage.send(10);
        assert_exactly(&first.stop().unwrap(), 10);
        // These wait in the ring, whatever becomes of the interface.
        stage.send(20);
        stage.make_again();
        let second = stage.watch(xdp);
        assert_eq!(stage.attached(), attached);
        stage.send(40);
        assert_exactly(&second.stop().unwrap(), 60);
    }
}

#[test]
fn an_interface_made_again_under_a_pinned_watch_counts_once() {
    let stage = Stage::new();
    let mut watch = stage.watch(&[]);
    for round in 1..=2 {
        stage.send(10);
        stage.pair.client.ip("link del veth0").unwrap();
        watch
            .wait_for_message("veth0 is gone", round, PATIENCE)
            .unwrap();
        assert_eq!(stage.bpf.captures(), [""; 0]);
        stage.connect();
        watch
            .wait_for_message("veth0 is back", round, PATIENCE)
            .unwrap();
        stage.send(10);
    }
    assert_exactly(&watch.stop().unwrap(), 40);
    stage.send(5);
    assert_exactly(&stage.watch(&[]).stop().unwrap(), 5);
}

#[test]
fn another_way_in_replaces_the_one_that_was_pinned() {
    let stage = Stage::new();
    let host = &stage.pair.server;
    // What comes in at the server, through one program at a time.
    for (arguments, expected) in [
        (&["--pin"][..], TCX),
        (&["--pin", "--xdp"], ["xdp", "tcx-egress tc_egress"]),
        (&["--pin", "--xdp"], ["xdp", "tcx-egress tc_egress"]),
        (&["--pin"], TCX),
    ] {
        let watch = stage.watch_at(host, arguments);
        assert_eq!(attached::programs(host, DEVICE).unwrap(), expected);
        stage.send(10);
        // They are received here, which may be a while after they were sent.
        watch.wait_for_lines(10, PATIENCE).unwrap();
        assert_exactly(&watch.stop().unwrap(), 10);
        assert_eq!(attached::programs(host, DEVICE).unwrap(), expected);
    }
}

#[test]
fn without_a_bpf_file_system_it_says_how_to_mount_one() {
    let stage = Stage::new();
    run(stage.bpf.command(&stage.pair.client, "mount").args([
        "-t",
        "tmpfs",
        "tmpfs",
        BpfMount::PATH,
    ]))
    .unwrap();
    let error = stage.ntpmon(&["watch", "--pin", "-i", DEVICE]).unwrap_err();
    assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    assert_eq!(stage.attached(), [""; 0]);
}
