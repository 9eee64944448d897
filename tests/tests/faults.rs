//! What goes wrong on a host: processes are killed, interfaces vanish, rings overflow, readers stop
//! reading. Whatever happens, no packet counts twice, every loss is counted, and nothing stays behind.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, PipeReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ntpmon_tests::{
    attached, frames,
    load::{self, Load},
    namespace::{Namespace, Pair, connect},
    process::wait_for,
    watch::{self, Watch, Watched},
};
use serde_json::{Map, Value};

const DEVICE: &str = Pair::DEVICE;
/// Enough for a busy machine, far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a watch may take to end.
const END: Duration = Duration::from_secs(2);
/// So that a request that nobody answers is told soon.
const SOON: [&str; 2] = ["--timeout", "0.2"];

fn server() -> SocketAddr {
    SocketAddr::new(Pair::SERVER.parse().unwrap(), 123)
}

fn number(totals: &Map<String, Value>, name: &str) -> u64 {
    totals[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {totals:?}"))
}

/// Every one of so many requests, and nothing else, was seen, paired and printed once.
fn assert_exactly(watched: &Watched, sent: u64) {
    let totals = &watched.totals;
    for name in ["ntp_packets", "requests", "exchanges", "unanswered"] {
        assert_eq!(number(totals, name), sent, "{name}: {}", watched.stderr);
    }
    for name in ["lost", "unprinted", "duplicates", "evicted"] {
        assert_eq!(number(totals, name), 0, "{name}: {}", watched.stderr);
    }
    assert_eq!(watched.lines.len() as u64, sent);
    assert_no_doubles(&watched.lines);
}

fn assert_no_doubles(lines: &[Map<String, Value>]) {
    let mut seen = HashSet::new();
    for line in lines {
        // Each request has a transmit time of its own.
        let key = (
            line["interface_name"].to_string(),
            line["transmit_timestamp"].to_string(),
            line["client_port"].to_string(),
        );
        assert!(seen.insert(key), "twice: {line:?}");
    }
}

fn kill_and_start_again(arguments: &[&str], expected: &[&str]) {
    let pair = Pair::new().unwrap();
    let arguments = [&SOON[..], arguments].concat();
    let load = Load::start(&pair.client, server()).unwrap();
    for _ in 0..2 {
        let watch = Watch::start(&pair.client, &[DEVICE], &arguments).unwrap();
        let before = load.sent();
        wait_for("packets", PATIENCE, || {
            Ok((load.sent() > before + 100).then_some(()))
        })
        .unwrap();
        assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), expected);
        watch.kill().unwrap();
        wait_for("nothing attached", PATIENCE, || {
            Ok(attached::programs(&pair.client, DEVICE)?
                .is_empty()
                .then_some(()))
        })
        .unwrap();
    }
    load.stop().unwrap();

    let watch = Watch::start(&pair.client, &[DEVICE], &arguments).unwrap();
    assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), expected);
    load::send(&pair.client, server(), 1000).unwrap();
    assert_exactly(&watch.stop().unwrap(), 1000);
    assert_eq!(attached::programs(&pair.client, DEVICE).unwrap(), [""; 0]);
}

#[test]
fn a_killed_watch_leaves_nothing_and_the_next_one_is_exact() {
    kill_and_start_again(&[], &["tcx-egress tc_egress", "tcx-ingress tc_ingress"]);
}

#[test]
fn a_killed_watch_at_xdp_leaves_nothing_and_the_next_one_is_exact() {
    kill_and_start_again(&["--xdp"], &["xdp", "tcx-egress tc_egress"]);
}

/// What a process holds on to, in the words of the kernel.
fn held(id: u32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{id}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

fn memory(id: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn an_interface_deleted_and_made_again_under_load_is_picked_up() {
    let pair = Pair::new().unwrap();
    // A second interface, which nothing happens to.
    let other = Namespace::new().unwrap();
    connect((&pair.client, "veth1"), (&other, "veth1")).unwrap();
    let address = "10.1.0.2".parse().unwrap();
    pair.client.address("veth1", address, 24).unwrap();
    let neighbour = "10.1.0.1".parse().unwrap();
    other.address("veth1", neighbour, 24).unwrap();
    let elsewhere = SocketAddr::new(neighbour, 123);

    let mut watch = Watch::start(&pair.client, &[DEVICE, "veth1"], &SOON).unwrap();
    let (holds, resident) = (held(watch.id()), memory(watch.id(), "VmRSS"));
    let steady = Load::start(&pair.client, elsewhere).unwrap();
    let mut sent = 0;
    for round in 1..=3 {
        let load = Load::start(&pair.client, server()).unwrap();
        wait_for("packets", PATIENCE, || Ok((load.sent() > 50).then_some(()))).unwrap();
        pair.client.ip("link del veth0").unwrap();
        watch
            .wait_for_message("veth0 is gone", round, PATIENCE)
            .unwrap();
        connect((&pair.client, DEVICE), (&pair.server, DEVICE)).unwrap();
        pair.server
            .address(DEVICE, Pair::SERVER.parse().unwrap(), 24)
            .unwrap();
        pair.client
            .address(DEVICE, Pair::CLIENT.parse().unwrap(), 24)
            .unwrap();
        watch
            .wait_for_message("veth0 is back", round, PATIENCE)
            .unwrap();
        let before = load.sent();
        wait_for("packets", PATIENCE, || {
            Ok((load.sent() > before + 50).then_some(()))
        })
        .unwrap();
        sent += load.stop().unwrap();
        load::send(&pair.client, server(), 100).unwrap();
        sent += 100;
    }
    let steady = steady.stop().unwrap();
    // What it looks around with for a moment is not kept.
    wait_for("the same descriptors and threads", PATIENCE, || {
        Ok((held(watch.id()) == holds).then_some(()))
    })
    .unwrap();
    let grown = memory(watch.id(), "VmRSS").saturating_sub(resident);
    assert!(grown < 24 << 20, "{grown} bytes more");

    let watched = watch.stop().unwrap();
    assert_no_doubles(&watched.lines);
    let on = |name: &str| {
        let lines = watched.lines.iter();
        lines.filter(|line| line["interface_name"] == name).count() as u64
    };
    assert_eq!(on("veth1"), steady, "the other interface is undisturbed");
    // Packets of the moments without programs are not seen; the others are.
    assert!(on(DEVICE) <= sent && on(DEVICE) > 600, "{}", on(DEVICE));
    assert_eq!(number(&watched.totals, "requests"), on(DEVICE) + steady);
    assert_eq!(number(&watched.totals, "ntp_packets"), on(DEVICE) + steady);
    assert_eq!(number(&watched.totals, "lost"), 0);
}

#[test]
fn an_interface_that_is_renamed_or_leaves_is_followed_by_its_name() {
    let pair = Pair::new().unwrap();
    let mut watch = Watch::start(&pair.client, &[DEVICE], &SOON).unwrap();
    load::send(&pair.client, server(), 10).unwrap();

    pair.client.ip("link set veth0 name lan").unwrap();
    watch
        .wait_for_message("veth0 is gone", 1, PATIENCE)
        .unwrap();
    assert_eq!(attached::programs(&pair.client, "lan").unwrap(), [""; 0]);
    load::send(&pair.client, server(), 10).unwrap();
    pair.client.ip("link set lan name veth0").unwrap();
    watch
        .wait_for_message("veth0 is back", 1, PATIENCE)
        .unwrap();
    load::send(&pair.client, server(), 20).unwrap();

    // There and back, so fast that it may never be seen to be gone, and with the same index.
    let index = |host: &Namespace| host.ip("-o link show veth0").unwrap();
    let was = index(&pair.client);
    let away = Namespace::new().unwrap();
    pair.client
        .ip(&format!("link set veth0 netns {}", away.name()))
        .unwrap();
    away.ip(&format!("link set veth0 netns {}", pair.client.name()))
        .unwrap();
    assert_eq!(
        was.split(':').next(),
        index(&pair.client).split(':').next(),
        "this kernel gives another index"
    );
    watch
        .wait_for_message("veth0 is back", 2, PATIENCE)
        .unwrap();
    pair.client
        .address(DEVICE, Pair::CLIENT.parse().unwrap(), 24)
        .unwrap();
    load::send(&pair.client, server(), 40).unwrap();
    assert_exactly(&watch.stop().unwrap(), 70);
}

#[test]
fn an_interface_that_goes_down_and_up_stays_watched() {
    let pair = Pair::new().unwrap();
    let watch = Watch::start(&pair.client, &[DEVICE], &SOON).unwrap();
    load::send(&pair.client, server(), 10).unwrap();
    pair.client.ip("link set veth0 down").unwrap();
    pair.client.ip("link set veth0 up").unwrap();
    load::send(&pair.client, server(), 10).unwrap();
    let watched = watch.stop().unwrap();
    assert!(!watched.stderr.contains("gone"), "{}", watched.stderr);
    assert_exactly(&watched, 20);
}

#[test]
fn a_watch_ends_in_time_with_its_totals_even_without_its_interface() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let pair = Pair::new().unwrap();
        for gone in [false, true] {
            // At once after the one before.
            let mut watch = Watch::start(&pair.client, &[DEVICE], &[]).unwrap();
            load::send(&pair.client, server(), 10).unwrap();
            if gone {
                pair.client.ip("link del veth0").unwrap();
                watch
                    .wait_for_message("veth0 is gone", 1, PATIENCE)
                    .unwrap();
            }
            let begin = Instant::now();
            watch.signal(signal).unwrap();
            let watched = watch.stop().unwrap();
            assert!(begin.elapsed() < END, "{:?}", begin.elapsed());
            assert_exactly(&watched, 10);
        }
    }
}

#[test]
fn a_ring_that_is_far_too_small_counts_every_event_that_it_loses() {
    const BURST: u64 = 5000;
    let pair = Pair::new().unwrap();
    let arguments = [&SOON[..], &["--ring-size", "4"]].concat();
    let watch = Watch::start(&pair.client, &[DEVICE], &arguments).unwrap();
    load::send(&pair.client, server(), BURST).unwrap();
    let watched = watch.stop().unwrap();
    let totals = &watched.totals;
    let (lost, requests) = (number(totals, "lost"), number(totals, "requests"));
    assert!(lost > 0, "the burst fitted: {totals:?}");
    assert_eq!(number(totals, "ntp_packets"), BURST);
    assert_eq!(requests + lost, BURST, "processed and lost");
    let interface = &totals["interfaces"][0];
    assert_eq!(interface["events"], requests);
    assert_eq!(interface["lost"], lost);
    assert_eq!(watched.lines.len() as u64, requests);
}

/// A watch whose output the test holds itself.
struct Piped {
    child: Child,
    stdout: PipeReader,
    stderr: BufReader<PipeReader>,
}

impl Piped {
    fn start(pair: &Pair, arguments: &[&str]) -> Self {
        let (stdout, out) = std::io::pipe().unwrap();
        let (stderr, errors) = std::io::pipe().unwrap();
        let child = pair
            .client
            .command(watch::binary().unwrap())
            .args(["watch", "-i", DEVICE])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut piped = Self {
            child,
            stdout,
            stderr: BufReader::new(stderr),
        };
        piped.read_until_it_watches();
        piped
    }

    fn read_until_it_watches(&mut self) {
        let mut line = String::new();
        while !line.contains("watching") {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ended");
        }
    }

    /// The exit code, which must be there in time.
    fn wait(&mut self, deadline: Duration) -> Option<i32> {
        let status = wait_for("the end of a watch", deadline, || {
            Ok(self.child.try_wait()?)
        });
        status.unwrap().code()
    }

    fn interrupt(&self) {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes no pointers; the process is a child of ours that was not reaped yet.
        assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// More than the pipe and the channel to the printer hold.
const MORE_THAN_FITS: u64 = 170_000;

#[test]
fn a_reader_who_stops_reading_costs_lines_but_no_packets() {
    let pair = Pair::new().unwrap();
    let mut watch = Piped::start(&pair, &["--format", "ndjson", "--timeout", "0.2"]);
    load::send(&pair.client, server(), MORE_THAN_FITS).unwrap();
    // All of them have timed out by then.
    std::thread::sleep(Duration::from_secs(1));
    watch.interrupt();
    let begin = Instant::now();
    assert_eq!(watch.wait(PATIENCE), Some(0));
    let took = begin.elapsed();
    let mut said = String::new();
    watch.stderr.read_to_string(&mut said).unwrap();
    assert!(took < END + Duration::from_secs(1), "{took:?}: {said}");
    let totals: Map<String, Value> = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let (requests, lost) = (number(&totals, "requests"), number(&totals, "lost"));
    assert_eq!(requests + lost, MORE_THAN_FITS);
    assert_eq!(lost, 0, "the printer held the drain up");
    assert_eq!(number(&totals, "exchanges"), MORE_THAN_FITS);

    let mut printed = String::new();
    watch.stdout.read_to_string(&mut printed).unwrap();
    let lines = printed.matches('\n').count() as u64;
    let unprinted = number(&totals, "unprinted");
    assert!(unprinted > 0, "all of it fitted");
    // What lay in the pipe unread was not told as printed, nor as more than was there.
    assert!(lines + unprinted >= MORE_THAN_FITS, "{lines} + {unprinted}");
    assert!(lines < 1000, "{lines}");
}

#[test]
fn a_reader_who_goes_away_ends_the_watch_in_peace() {
    let pair = Pair::new().unwrap();
    for format in ["ndjson", "table"] {
        let mut watch = Piped::start(&pair, &["--format", format, "--timeout", "0.1"]);
        let (reader, _) = std::io::pipe().unwrap();
        drop(std::mem::replace(&mut watch.stdout, reader));
        load::send(&pair.client, server(), 10).unwrap();
        assert_eq!(watch.wait(PATIENCE), Some(0), "{format}");
        let mut said = String::new();
        watch.stderr.read_to_string(&mut said).unwrap();
        assert!(said.contains("10"), "the totals are told: {said}");
    }
}

/// As in `ntpmon watch 2>&1 | head`.
#[test]
fn a_reader_of_everything_who_goes_away_ends_the_watch_in_peace() {
    let pair = Pair::new().unwrap();
    for arguments in [["--format", "ndjson"], ["--timeout", "0.1"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = pair
            .client
            .command(watch::binary().unwrap())
            .args(["watch", "-i", DEVICE, "--port", "123"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        while !line.contains("watching") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "it ended");
        }
        drop(reader);
        load::send(&pair.client, server(), 10).unwrap();
        let status = wait_for("the end of a watch", PATIENCE, || Ok(child.try_wait()?));
        let _ = child.kill();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

/// Forged sources: every request from an address of its own.
#[test]
fn a_flood_of_forged_sources_keeps_within_its_memory() {
    const LIMIT: u64 = 300 << 20;
    const LIVE: u64 = 200_000;
    let pair = Pair::new().unwrap();
    let raw = frames::RawSocket::open(&pair.client, DEVICE).unwrap();
    let ethernet = frames::Ethernet {
        source: raw.address,
        destination: frames::BROADCAST,
    };
    let watch = Watch::start(&pair.client, &[DEVICE], &["--timeout", "3600"]).unwrap();
    let mut frame = forged_frame(ethernet);
    for number in 0..LIVE {
        forge(&mut frame, number);
        raw.send(&frame).unwrap();
    }
    // Until it has taken all of it: it wants no more then.
    let mut last = 0;
    wait_for("a process at rest", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = memory(watch.id(), "VmRSS");
        Ok((now == std::mem::replace(&mut last, now)).then_some(()))
    })
    .unwrap();
    let peak = memory(watch.id(), "VmHWM");
    println!("{} MB for {LIVE} pending requests", peak >> 20);
    let watched = watch.stop().unwrap();
    assert_eq!(number(&watched.totals, "requests"), LIVE);
    assert_eq!(number(&watched.totals, "exchanges"), LIVE);
    assert_eq!(number(&watched.totals, "lost"), 0);
    assert!(peak < LIMIT, "{peak} bytes");
}

#[test]
fn ten_million_forged_requests_keep_within_their_memory() {
    const LIMIT: u64 = 300 << 20;
    const FLOOD: u64 = 10_000_000;
    let mut child = Command::new(watch::binary().unwrap())
        .args(["replay", "--summary", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let id = child.id();
    let mut input = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || {
        let frame = forged_frame(frames::Ethernet {
            source: [2; 6],
            destination: [4; 6],
        });
        input.write_all(&capture_header()).unwrap();
        let mut chunk = Vec::new();
        let mut record = [&[0; 16][..], &frame].concat();
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        record[8..12].copy_from_slice(&length);
        record[12..16].copy_from_slice(&length);
        for number in 0..FLOOD {
            // A million a second.
            let (seconds, microseconds) = (number / 1_000_000, number % 1_000_000);
            record[..4].copy_from_slice(&(1_700_000_000 + seconds as u32).to_le_bytes());
            record[4..8].copy_from_slice(&(microseconds as u32).to_le_bytes());
            forge(&mut record[16..], number);
            chunk.extend_from_slice(&record);
            if chunk.len() > 1 << 20 {
                input.write_all(&chunk).unwrap();
                chunk.clear();
            }
        }
        input.write_all(&chunk).unwrap();
        // What it used can be asked only while it lives, and it lives until its input ends.
        std::thread::sleep(Duration::from_millis(500));
        memory(id, "VmHWM")
    });
    let mut printed = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut printed).unwrap();
    assert!(child.wait().unwrap().success());
    let peak = feed.join().unwrap();
    let totals: Map<String, Value> = serde_json::from_str(&printed).unwrap();
    for name in [
        "packets",
        "ntp_packets",
        "requests",
        "exchanges",
        "unanswered",
    ] {
        assert_eq!(number(&totals, name), FLOOD, "{name}");
    }
    println!("{} MB for {FLOOD} forged requests", peak >> 20);
    assert!(peak < LIMIT, "{peak} bytes");
}

/// A capture file's header: pcap with microseconds, Ethernet.
fn capture_header() -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(0xa1b2_c3d4_u32.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    for word in [0, 0, 65_535, 1_u32] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// A request in a frame, whose source [`forge`] sets.
fn forged_frame(ethernet: frames::Ethernet) -> Vec<u8> {
    let packet =
        frames::datagram("10.0.0.2:123".parse().unwrap(), server(), &load::request()).unwrap();
    frames::frame(ethernet, &[], &packet)
}

/// Another source address and port for each number, in no order, and another transmit time.
fn forge(frame: &mut [u8], number: u64) {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    frame[26..30].copy_from_slice(&mixed.to_be_bytes()[..4]);
    frame[34..36].copy_from_slice(&mixed.to_be_bytes()[4..6]);
    // No checksum: nobody else reads it.
    frame[40..42].fill(0);
    let end = frame.len();
    frame[end - 8..].copy_from_slice(&(number + 1).to_be_bytes());
}
