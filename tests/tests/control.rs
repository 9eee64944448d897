//! The watched interfaces under control, as the daemon and its API hold them: started, stopped and
//! changed one by one while packets pass, followed as they come and go, and remembered.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ntpmon::{
    monitor::{
        Ended, Options,
        control::{Control, ControlError, Setup, State, Status},
    },
    ntp::{exchange::Exchange, pair::Totals},
    pipeline::Sink,
};
use ntpmon_common::Counter;
use ntpmon_tests::{
    attached,
    bpf_mount::BpfMount,
    load::{self, Load, Traffic},
    namespace::{Namespace, Pair, connect, folder},
    process::{run, wait_for},
    watch::{Watch, binary},
};
use serde_json::Value;

const DEVICE: &str = Pair::DEVICE;
const NTP_TRAFFIC: &str = env!("CARGO_BIN_EXE_ntp-traffic");
const PATIENCE: Duration = Duration::from_secs(20);

/// What the sinks of all rings were given, by interface.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, u64>>>);

impl Seen {
    fn exchanges(&self, interface: &str) -> u64 {
        self.0.lock().unwrap().get(interface).copied().unwrap_or(0)
    }
}

struct Count {
    seen: Seen,
    interface: String,
    /// Have the thread that empties the ring die, once.
    dies: Arc<AtomicBool>,
}

impl Sink for Count {
    fn exchange(&mut self, _: &Exchange) {
        assert!(
            !self.dies.swap(false, Ordering::Relaxed),
            "this thread is to die"
        );
        let mut seen = self.seen.0.lock().unwrap();
        *seen.entry(self.interface.clone()).or_default() += 1;
    }

    fn publish(&mut self, _: &Totals, _: i64) {}
}

/// What is remembered over restarts.
type Memory = Arc<Mutex<Option<Vec<u8>>>>;

/// As much of a daemon as holds a [`Control`].
struct Daemon {
    control: Control,
    seen: Seen,
    dies: Arc<AtomicBool>,
    runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start(host: &Namespace, setup: Setup) -> Self {
        Self::remembering(host, setup, &Memory::default())
    }

    fn remembering(host: &Namespace, setup: Setup, memory: &Memory) -> Self {
        host.enter(|| Ok(Self::open(setup, memory))).unwrap()
    }

    /// In the namespaces of the calling thread.
    fn open(setup: Setup, memory: &Memory) -> Self {
        let seen = Seen::default();
        let dies = Arc::new(AtomicBool::new(false));
        let setup = Setup {
            remembered: memory.lock().unwrap().clone(),
            ..setup
        };
        let control = Control::open(
            setup,
            {
                let (seen, dies) = (seen.clone(), Arc::clone(&dies));
                move |interface: &str| Count {
                    seen: seen.clone(),
                    interface: interface.to_owned(),
                    dies: Arc::clone(&dies),
                }
            },
            {
                let memory = Arc::clone(memory);
                move |bytes| {
                    *memory.lock().unwrap() = Some(bytes);
                    Ok(())
                }
            },
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // The first answer comes when all that is to be watched is.
        runtime.block_on(control.statuses()).unwrap();
        Self {
            control,
            seen,
            dies,
            runtime,
        }
    }

    fn begin(&self, name: &str, options: Option<Options>) -> Result<Status, ControlError> {
        self.runtime.block_on(self.control.start(name, options))
    }

    fn stop(&self, name: &str) -> Result<Status, ControlError> {
        self.runtime.block_on(self.control.stop(name))
    }

    fn restart(&self, name: &str, options: Option<Options>) -> Result<Status, ControlError> {
        self.runtime.block_on(self.control.restart(name, options))
    }

    fn status(&self, name: &str) -> Status {
        self.runtime.block_on(self.control.status(name)).unwrap()
    }

    fn state(&self, name: &str) -> State {
        self.status(name).state
    }

    fn events(&self, name: &str) -> u64 {
        self.status(name).counters.get(Counter::Emitted)
    }

    fn running(&self) -> Vec<String> {
        let statuses = self.runtime.block_on(self.control.statuses()).unwrap();
        statuses
            .into_iter()
            .filter(|status| status.state == State::Running)
            .map(|status| status.interface)
            .collect()
    }

    fn wait_for_state(&self, name: &str, what: &str, is: impl Fn(&State) -> bool) {
        wait_for(what, PATIENCE, || Ok(is(&self.state(name)).then_some(()))).unwrap();
    }

    fn wait_for_exchanges(&self, name: &str, count: u64) {
        wait_for("exchanges", PATIENCE, || {
            Ok((self.seen.exchanges(name) >= count).then_some(()))
        })
        .unwrap();
        assert_eq!(self.seen.exchanges(name), count);
    }

    fn end(self) -> Vec<Ended> {
        let ended = self.runtime.block_on(self.control.end()).unwrap();
        let after = self.runtime.block_on(self.control.statuses());
        assert!(matches!(after, Err(ControlError::Stopped)));
        ended
    }
}

/// A short timeout: requests without an answer are over soon.
fn soon() -> Options {
    Options {
        timeout: Duration::from_millis(200),
        ..Options::default()
    }
}

fn at_port(port: u16) -> Options {
    Options {
        ports: vec![port],
        ..soon()
    }
}

fn into_file(path: &Path) -> Options {
    Options {
        output_file: Some(path.to_owned()),
        ..soon()
    }
}

fn watching(interfaces: &[&str]) -> Setup {
    Setup {
        defaults: soon(),
        interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        ..Setup::default()
    }
}

fn server(port: u16) -> SocketAddr {
    SocketAddr::new(Pair::SERVER.parse().unwrap(), port)
}

fn send(pair: &Pair, count: u64) {
    load::send(&pair.client, server(123), count).unwrap();
}

/// One more interface of the client, and what it leads to.
fn second_interface(pair: &Pair) {
    connect((&pair.client, "veth1"), (&pair.server, "veth1")).unwrap();
    for (host, address) in [(&pair.server, "10.0.1.1"), (&pair.client, "10.0.1.2")] {
        host.address("veth1", address.parse().unwrap(), 24).unwrap();
    }
}

fn second_server() -> SocketAddr {
    "10.0.1.1:123".parse().unwrap()
}

fn programs(pair: &Pair) -> Vec<String> {
    attached::programs(&pair.client, DEVICE).unwrap()
}

fn is_gone(state: &State) -> bool {
    matches!(state, State::Failed(why) if why.contains("no interface"))
}

#[test]
fn what_is_watched_is_counted_and_what_is_stopped_leaves_nothing() {
    let pair = Pair::new().unwrap();
    let traffic = Traffic::serve(Path::new(NTP_TRAFFIC), &pair.server, Pair::SERVER).unwrap();
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    let before = daemon.status(DEVICE);
    assert_eq!((before.state, before.rings), (State::Running, 1));
    assert_eq!(before.mode.unwrap(), "ingress tcx, egress tcx");
    assert_eq!(before.options.unwrap(), soon());
    assert_eq!(before.counters.get(Counter::Emitted), 0);
    assert!(before.since.is_some() && before.exists);

    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    let packets = expected["ntp_packets"].as_u64().unwrap();
    assert_eq!(daemon.events(DEVICE), packets);
    assert_eq!(daemon.status(DEVICE).counters.get(Counter::RingFull), 0);
    daemon.wait_for_exchanges(DEVICE, expected["exchanges"].as_u64().unwrap());

    let stopped = daemon.stop(DEVICE).unwrap();
    assert_eq!((stopped.state, stopped.since), (State::NotMonitoring, None));
    assert_eq!(programs(&pair), [""; 0]);
    assert_eq!(daemon.stop(DEVICE).unwrap().state, State::NotMonitoring);
    traffic.ask(&pair.client, "answered=5").unwrap();
    let started = daemon.begin(DEVICE, None).unwrap();
    assert_eq!(started.counters.get(Counter::Emitted), 0);
    traffic.ask(&pair.client, "answered=5").unwrap();
    assert_eq!(daemon.events(DEVICE), 10);
    let ended = daemon.end();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].counters.get(Counter::Emitted), 10);
    assert!(!ended[0].died);
    assert_eq!(programs(&pair), [""; 0]);
}

#[test]
fn the_same_start_twice_changes_nothing_and_another_replaces_the_capture() {
    let pair = Pair::new().unwrap();
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    send(&pair, 10);
    let before = daemon.status(DEVICE);
    for options in [None, Some(soon())] {
        let again = daemon.begin(DEVICE, options).unwrap();
        assert_eq!(again.since, before.since);
        assert_eq!(again.counters.get(Counter::Emitted), 10);
    }
    // A capture that is replaced misses what passes meanwhile.
    let steady = Load::start(&pair.client, server(123)).unwrap();
    for _ in 0..20 {
        daemon.begin(DEVICE, Some(soon())).unwrap();
    }
    let sent = steady.stop().unwrap();
    assert_eq!(daemon.events(DEVICE), 10 + sent);

    let changed = daemon.begin(DEVICE, Some(at_port(1123))).unwrap();
    assert!(changed.since > before.since);
    assert_eq!(changed.options.unwrap(), at_port(1123));
    assert_eq!(changed.counters.get(Counter::Emitted), 0);
    send(&pair, 10);
    load::send(&pair.client, server(1123), 7).unwrap();
    assert_eq!(daemon.events(DEVICE), 7);
    assert_eq!(programs(&pair).len(), 2, "one capture, two directions");
    // Nothing was said of options: they stay.
    let again = daemon.begin(DEVICE, None).unwrap();
    assert_eq!(again.counters.get(Counter::Emitted), 7);
    daemon.wait_for_exchanges(DEVICE, 10 + sent + 7);

    let impossible = daemon.begin(DEVICE, Some(at_port(0))).unwrap_err();
    assert!(matches!(&impossible, ControlError::Options(why) if why.contains("port 0")));
    assert_eq!(daemon.events(DEVICE), 7);
    daemon.end();
}

#[test]
fn a_timeout_is_that_of_its_interface() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    let patient = Options {
        timeout: Duration::from_secs(600),
        ..soon()
    };
    daemon.begin("veth1", Some(patient)).unwrap();
    load::send(&pair.client, second_server(), 5).unwrap();
    send(&pair, 5);
    daemon.wait_for_exchanges(DEVICE, 5);
    assert_eq!(daemon.seen.exchanges("veth1"), 0, "they still wait");
    daemon.stop("veth1").unwrap();
    assert_eq!(daemon.seen.exchanges("veth1"), 5);
    daemon.end();
}

#[test]
fn a_restart_counts_anew_with_the_same_options() {
    let pair = Pair::new().unwrap();
    let daemon = Daemon::start(&pair.client, watching(&[]));
    let first = daemon.begin(DEVICE, Some(at_port(1123))).unwrap();
    load::send(&pair.client, server(1123), 5).unwrap();
    let second = daemon.restart(DEVICE, None).unwrap();
    assert!(second.since > first.since);
    assert_eq!(second.options, first.options);
    assert_eq!(second.counters.get(Counter::Emitted), 0);
    load::send(&pair.client, server(1123), 6).unwrap();
    assert_eq!(daemon.events(DEVICE), 6);
    let third = daemon.restart(DEVICE, Some(soon())).unwrap();
    assert_eq!(third.options.unwrap(), soon());
    // One that is not watched is started.
    daemon.stop(DEVICE).unwrap();
    assert_eq!(daemon.restart(DEVICE, None).unwrap().state, State::Running);
    daemon.end();
}

#[test]
fn an_interface_that_goes_away_fails_until_it_is_back_and_goes_on_counting() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE, "veth1"]));
    let began = daemon.status(DEVICE).since;
    send(&pair, 10);
    load::send(&pair.client, second_server(), 3).unwrap();
    pair.client.ip(&format!("link del {DEVICE}")).unwrap();
    daemon.wait_for_state(DEVICE, "its end to be noticed", is_gone);
    let gone = daemon.status(DEVICE);
    assert!(!gone.exists);
    assert_eq!((gone.mode, gone.rings), (None, 0));
    assert_eq!(daemon.running(), ["veth1"], "others are not concerned");
    // It is watched already.
    assert!(is_gone(&daemon.begin(DEVICE, None).unwrap().state));

    connect((&pair.client, DEVICE), (&pair.server, DEVICE)).unwrap();
    for (host, address) in [(&pair.server, Pair::SERVER), (&pair.client, Pair::CLIENT)] {
        host.address(DEVICE, address.parse().unwrap(), 24).unwrap();
    }
    daemon.wait_for_state(DEVICE, "its return", |state| *state == State::Running);
    send(&pair, 5);
    let back = daemon.status(DEVICE);
    assert_eq!(back.counters.get(Counter::Emitted), 15);
    assert_eq!(back.since, began);
    assert_eq!(daemon.events("veth1"), 3);
    daemon.wait_for_exchanges(DEVICE, 15);

    pair.client.ip(&format!("link del {DEVICE}")).unwrap();
    daemon.wait_for_state(DEVICE, "its end to be noticed", is_gone);
    // Nobody waits for it any more, so nobody knows it.
    let stopped = daemon.stop(DEVICE);
    assert_eq!(stopped.unwrap().state, State::NotMonitoring);
    let unknown = daemon.stop(DEVICE);
    assert!(matches!(unknown, Err(ControlError::UnknownInterface(_))));
    daemon.end();
}

#[test]
fn two_interfaces_are_started_and_stopped_without_a_packet_lost_on_the_other() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    let steady = Load::start(&pair.client, server(123)).unwrap();
    for round in 1..=3 {
        daemon.begin("veth1", None).unwrap();
        load::send(&pair.client, second_server(), round).unwrap();
        assert_eq!(daemon.events("veth1"), round);
        assert_eq!(daemon.running(), [DEVICE, "veth1"]);
        daemon.stop("veth1").unwrap();
        assert_eq!(daemon.running(), [DEVICE]);
    }
    let sent = steady.stop().unwrap();
    assert_eq!(daemon.events(DEVICE), sent);
    assert_eq!(daemon.seen.exchanges("veth1"), 6);
    daemon.end();
}

#[test]
fn an_interface_that_is_not_there_is_unknown_and_changes_nothing() {
    let pair = Pair::new().unwrap();
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, watching(&[DEVICE]), &memory);
    let ask = |result: Result<Status, ControlError>| match result {
        Err(ControlError::UnknownInterface(name)) => assert_eq!(name, "eth99"),
        other => panic!("{other:?}"),
    };
    ask(daemon.begin("eth99", None));
    ask(daemon.stop("eth99"));
    ask(daemon.restart("eth99", Some(soon())));
    ask(daemon.runtime.block_on(daemon.control.status("eth99")));
    assert_eq!(daemon.running(), [DEVICE]);
    assert_eq!(*memory.lock().unwrap(), None);
    let statuses = daemon.runtime.block_on(daemon.control.statuses()).unwrap();
    let names: Vec<_> = statuses.iter().map(|it| it.interface.as_str()).collect();
    assert_eq!(names, ["lo", DEVICE]);
    daemon.end();
}

/// Named, and it appears only later, or cannot be captured at first: the rest runs.
#[test]
fn one_that_cannot_be_captured_keeps_nobody_else_from_running_and_is_tried_again() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    // All places that an interface has for captures.
    let others: Vec<Daemon> = (0..8)
        .map(|_| {
            let other = Daemon::start(&pair.client, watching(&[DEVICE]));
            assert_eq!(other.running(), [DEVICE]);
            other
        })
        .collect();
    let daemon = Daemon::start(&pair.client, watching(&["later0", DEVICE, "veth1"]));
    assert_eq!(daemon.running(), ["veth1"]);
    assert!(is_gone(&daemon.state("later0")));
    let is_full = |why: &str| why.contains("8 other ntpmon processes");
    assert!(matches!(daemon.state(DEVICE), State::Failed(why) if is_full(&why)));
    match daemon.begin(DEVICE, None) {
        Err(ControlError::Failed(why)) => {
            let why = why.to_string();
            assert!(is_full(&why) && why.contains("tried again"), "{why}");
        }
        other => panic!("{other:?}"),
    }

    connect((&pair.client, "later0"), (&pair.server, "later0")).unwrap();
    daemon.wait_for_state("later0", "it to appear", |state| *state == State::Running);
    for other in others {
        other.end();
    }
    daemon.wait_for_state(DEVICE, "another try", |state| *state == State::Running);
    send(&pair, 4);
    assert_eq!(daemon.events(DEVICE), 4);
    daemon.end();
}

#[test]
fn a_thread_that_dies_is_noticed_and_its_interface_captured_anew() {
    let pair = Pair::new().unwrap();
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    assert_eq!(daemon.running(), [DEVICE]);
    daemon.dies.store(true, Ordering::Relaxed);
    send(&pair, 1);
    daemon.wait_for_state(
        DEVICE,
        "its death to be noticed",
        |state| matches!(state, State::Failed(why) if why.contains("died")),
    );
    daemon.wait_for_state(DEVICE, "a new capture", |state| *state == State::Running);
    send(&pair, 5);
    daemon.wait_for_exchanges(DEVICE, 5);
    assert_eq!(daemon.events(DEVICE), 6);
    assert!(daemon.end()[0].died, "the counts are not whole");
}

#[test]
fn what_was_started_and_stopped_is_remembered() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, watching(&[DEVICE]), &memory);
    daemon.begin("veth1", Some(at_port(1123))).unwrap();
    daemon.stop(DEVICE).unwrap();
    daemon.begin("lo", None).unwrap();
    daemon.stop("lo").unwrap();
    daemon.end();

    // It is named, but was stopped by somebody who meant it.
    let daemon = Daemon::remembering(&pair.client, watching(&[DEVICE]), &memory);
    assert_eq!(daemon.running(), ["veth1"]);
    assert_eq!(daemon.status("veth1").options.unwrap(), at_port(1123));
    daemon.begin(DEVICE, None).unwrap();
    daemon.end();

    // Nothing was said of its options: other defaults are in force.
    let setup = Setup {
        defaults: at_port(2123),
        ..watching(&[])
    };
    let daemon = Daemon::remembering(&pair.client, setup, &memory);
    assert_eq!(daemon.running(), [DEVICE, "veth1"]);
    assert_eq!(daemon.status(DEVICE).options.unwrap(), at_port(2123));
    // Stopped and started again, it is as it was.
    daemon.stop("veth1").unwrap();
    let started = daemon.begin("veth1", None).unwrap();
    assert_eq!(started.options.unwrap(), at_port(1123));
    daemon.end();

    *memory.lock().unwrap() = Some(b"not what we wrote".to_vec());
    let daemon = Daemon::remembering(&pair.client, watching(&[DEVICE]), &memory);
    assert_eq!(daemon.running(), [DEVICE], "as if nothing were remembered");
    daemon.end();
}

#[test]
fn without_a_word_the_default_route_decides_as_soon_as_there_is_one() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [""; 0], "no default route");
    let route = format!("default via {}", Pair::SERVER);
    pair.client.ip(&format!("route add {route}")).unwrap();
    daemon.wait_for_state(DEVICE, "the default route's turn", |state| {
        *state == State::Running
    });
    assert_eq!(*memory.lock().unwrap(), None, "it may be another next time");
    daemon.end();

    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [DEVICE]);
    daemon.begin("veth1", None).unwrap();
    daemon.end();
    // The set is what it was.
    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [DEVICE, "veth1"]);
    daemon.stop(DEVICE).unwrap();
    daemon.stop("veth1").unwrap();
    daemon.end();
    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [""; 0], "it was stopped");
    daemon.end();
}

#[test]
fn what_was_stopped_is_not_watched_as_the_default_routes_later() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [""; 0], "no default route");
    daemon.stop(DEVICE).unwrap();
    let route = format!("default via {}", Pair::SERVER);
    pair.client.ip(&format!("route add {route}")).unwrap();
    daemon.end();

    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [""; 0], "it was stopped");
    // That says nothing of another.
    pair.client.ip("route replace default dev veth1").unwrap();
    daemon.wait_for_state("veth1", "the default route's turn", |state| {
        *state == State::Running
    });
    assert_eq!(daemon.running(), ["veth1"]);
    daemon.end();
}

#[test]
fn another_configuration_changes_what_it_says_and_nothing_else() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, watching(&[DEVICE]), &memory);
    let configure = |interfaces: &[&str], defaults| {
        let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        let done = daemon.control.configure(interfaces, defaults);
        daemon.runtime.block_on(done)
    };
    daemon.begin("lo", Some(at_port(1123))).unwrap();
    let began = |name| daemon.status(name).since;
    let (lo, device) = (began("lo"), began(DEVICE));

    configure(&[DEVICE, "veth1"], soon()).unwrap();
    assert_eq!(daemon.running(), ["lo", DEVICE, "veth1"]);
    assert_eq!((began("lo"), began(DEVICE)), (lo, device));

    configure(&["veth1"], at_port(2123)).unwrap();
    let defaults = daemon.runtime.block_on(daemon.control.defaults());
    assert_eq!(defaults.unwrap(), at_port(2123));
    assert_eq!(daemon.running(), ["lo", "veth1"]);
    assert_eq!(daemon.status("veth1").options.unwrap(), at_port(2123));
    assert_eq!(daemon.status("lo").options.unwrap(), at_port(1123));
    assert_eq!(began("lo"), lo);

    let impossible = configure(&[], at_port(0)).unwrap_err();
    assert!(matches!(impossible, ControlError::Options(_)));
    assert_eq!(daemon.running(), ["lo", "veth1"]);
    daemon.stop("veth1").unwrap();
    configure(&["veth1"], soon()).unwrap();
    assert_eq!(daemon.running(), ["lo"], "what was stopped stays so");
    daemon.end();
}

#[test]
fn without_a_handle_nothing_is_watched() {
    let pair = Pair::new().unwrap();
    let daemon = Daemon::start(&pair.client, watching(&[DEVICE]));
    let other = daemon.control.clone();
    drop(daemon);
    assert_eq!(programs(&pair).len(), 2);
    drop(other);
    wait_for("the end of the capture", PATIENCE, || {
        Ok(programs(&pair).is_empty().then_some(()))
    })
    .unwrap();
}

/// A setup with an output directory.
fn writing(directory: &Path) -> Setup {
    Setup {
        output_directory: Some(directory.to_owned()),
        ..watching(&[])
    }
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn an_output_file_has_the_lines_that_watch_prints() {
    let pair = Pair::new().unwrap();
    let traffic = Traffic::serve(Path::new(NTP_TRAFFIC), &pair.server, Pair::SERVER).unwrap();
    let folder = folder().unwrap();
    let file = folder.path().join("veth0.json");
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, writing(folder.path()), &memory);
    daemon.begin(DEVICE, Some(into_file(&file))).unwrap();
    let watch = Watch::start(&pair.client, &[DEVICE], &["--timeout", "0.2"]).unwrap();
    let expected = traffic.ask(&pair.client, Traffic::PLAN).unwrap();
    let exchanges = expected["exchanges"].as_u64().unwrap();
    daemon.wait_for_exchanges(DEVICE, exchanges);
    wait_for("all lines", PATIENCE, || {
        let output = daemon.status(DEVICE).output.unwrap();
        assert_eq!((output.lost, output.writing, output.error), (0, true, None));
        Ok((output.written == exchanges).then_some(()))
    })
    .unwrap();
    let watched = watch.stop().unwrap();
    let written = lines(&file);
    assert_eq!(written.len() as u64, exchanges);
    // Each sees the clocks for itself: what is in the packets is the same.
    let told = |line: &Value| {
        [
            "client_port",
            "transmit_timestamp",
            "answered",
            "packet_length",
            "interface_name",
        ]
        .map(|field| line[field].to_string())
    };
    let printed: HashSet<_> = watched
        .lines
        .into_iter()
        .map(|it| told(&it.into()))
        .collect();
    assert_eq!(written.iter().map(told).collect::<HashSet<_>>(), printed);
    daemon.end();

    // It is gone on with after a restart, and after a stop it is not written to any more.
    let daemon = Daemon::remembering(&pair.client, writing(folder.path()), &memory);
    assert_eq!(daemon.running(), [DEVICE]);
    send(&pair, 5);
    daemon.wait_for_exchanges(DEVICE, 5);
    daemon.stop(DEVICE).unwrap();
    assert_eq!(lines(&file).len() as u64, exchanges + 5);
    daemon.begin(DEVICE, Some(soon())).unwrap();
    send(&pair, 5);
    assert!(daemon.status(DEVICE).output.is_none());
    daemon.end();
    assert_eq!(lines(&file).len() as u64, exchanges + 5);
}

#[test]
fn an_output_file_elsewhere_is_refused_and_nothing_is_changed() {
    let pair = Pair::new().unwrap();
    let outer = folder().unwrap();
    let directory = outer.path().join("output");
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, writing(&directory), &memory);
    let elsewhere = outer.path().join("elsewhere.json");
    let status = daemon.begin(DEVICE, Some(soon())).unwrap();
    let remembered = memory.lock().unwrap().clone();
    symlink(&elsewhere, directory.join("link")).unwrap();
    symlink(outer.path(), directory.join("folder")).unwrap();
    for refused in [
        elsewhere.as_path(),
        Path::new("../elsewhere.json"),
        Path::new("link"),
        Path::new("folder/elsewhere.json"),
        Path::new("/etc/passwd"),
    ] {
        for result in [
            daemon.begin(DEVICE, Some(into_file(refused))),
            daemon.restart(DEVICE, Some(into_file(refused))),
            daemon.begin("lo", Some(into_file(refused))),
        ] {
            assert!(
                matches!(result, Err(ControlError::OutputFile(_))),
                "{}: {result:?}",
                refused.display()
            );
        }
    }
    assert!(!elsewhere.exists());
    assert_eq!(daemon.running(), [DEVICE]);
    assert_eq!(daemon.status(DEVICE).since, status.since);
    assert_eq!(*memory.lock().unwrap(), remembered);
    daemon.end();

    let daemon = Daemon::start(&pair.client, watching(&[]));
    match daemon.begin(DEVICE, Some(into_file(Path::new("x")))) {
        Err(ControlError::OutputFile(why)) => assert!(why.contains("output_dir"), "{why}"),
        other => panic!("{other:?}"),
    }
    daemon.end();
}

/// The packets count for more than the file.
#[test]
fn a_remembered_output_file_that_is_refused_costs_only_the_file() {
    let pair = Pair::new().unwrap();
    let folder = folder().unwrap();
    let memory = Memory::default();
    let daemon = Daemon::remembering(&pair.client, writing(folder.path()), &memory);
    daemon
        .begin(DEVICE, Some(into_file(Path::new("x"))))
        .unwrap();
    daemon.end();

    let daemon = Daemon::remembering(&pair.client, watching(&[]), &memory);
    assert_eq!(daemon.running(), [DEVICE]);
    let output = daemon.status(DEVICE).output.unwrap();
    assert!(!output.writing && output.error.unwrap().contains("output_dir"));
    send(&pair, 3);
    daemon.wait_for_exchanges(DEVICE, 3);
    // It runs; only who asks for the file is told that there is none.
    assert_eq!(daemon.begin(DEVICE, None).unwrap().state, State::Running);
    let asked = daemon.begin(DEVICE, Some(into_file(Path::new("x"))));
    assert!(matches!(asked, Err(ControlError::OutputFile(_))));
    assert_eq!(daemon.events(DEVICE), 3);
    daemon.end();
}

/// A file system with room for 64 KiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = folder().unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path()))
        .unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may still write.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(self.0.path())) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_full_disk_costs_lines_and_no_packets_until_there_is_room() {
    let pair = Pair::new().unwrap();
    let disk = SmallDisk::new();
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![0; 40 << 10]).unwrap();
    let file = disk.0.path().join("veth0.json");
    let daemon = Daemon::start(&pair.client, writing(disk.0.path()));
    daemon.begin(DEVICE, Some(into_file(&file))).unwrap();
    send(&pair, 500);
    daemon.wait_for_exchanges(DEVICE, 500);
    let full = wait_for("all lines to be settled", PATIENCE, || {
        let output = daemon.status(DEVICE).output.unwrap();
        Ok((output.written + output.lost == 500).then_some(output))
    })
    .unwrap();
    assert!(full.written > 0 && full.lost > 0, "{full:?}");
    assert!(!full.writing);
    let why = full.error.unwrap();
    assert!(why.contains("No space left"), "{why}");
    assert!(why.contains("veth0.json"), "{why}");
    assert_eq!(lines(&file).len() as u64, full.written, "whole lines only");
    assert_eq!(
        (daemon.events(DEVICE), daemon.state(DEVICE)),
        (500, State::Running)
    );

    fs::remove_file(&filler).unwrap();
    send(&pair, 5);
    let resumed = wait_for("lines to be written again", PATIENCE, || {
        let output = daemon.status(DEVICE).output.unwrap();
        Ok((output.written == full.written + 5).then_some(output))
    })
    .unwrap();
    assert!(resumed.writing);
    assert_eq!(resumed.lost, full.lost);
    assert!(
        resumed.error.unwrap().contains("No space left"),
        "the last one"
    );
    assert_eq!(lines(&file).len() as u64, resumed.written);
    daemon.end();
}

#[test]
fn a_cleanup_removes_what_the_dead_left_and_nothing_that_is_in_use() {
    let pair = Pair::new().unwrap();
    second_interface(&pair);
    let bpf = BpfMount::new().unwrap();
    let pinning = |device| {
        let command = bpf.command(&pair.client, binary().unwrap());
        Watch::start_command(command, &[device], &["--pin"]).unwrap()
    };
    pinning(DEVICE).kill().unwrap();
    pinning("veth1").stop().unwrap();
    let pinned = programs(&pair);
    assert_eq!(pinned.len(), 2, "a killed watch leaves what is pinned");
    pair.client.ip("link del veth1").unwrap();

    let (memory, pin) = (Memory::default(), Setup::default().common);
    let daemon = pair
        .client
        .enter(|| {
            bpf.enter()?;
            Ok(Daemon::open(watching(&[DEVICE]), &memory))
        })
        .unwrap();
    assert_eq!(daemon.running(), [DEVICE]);
    let removed = daemon.runtime.block_on(daemon.control.cleanup()).unwrap();
    let of = |name: Option<&str>| {
        let of = removed.iter().filter(|it| it.interface.as_deref() == name);
        of.map(|it| it.what.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(Some(DEVICE)).len(), 1, "{removed:?}");
    assert!(of(Some(DEVICE))[0].contains("pins"), "{removed:?}");
    assert!(
        matches!(of(None)[..], [what] if what.contains("veth1")),
        "{removed:?}"
    );
    assert_eq!(programs(&pair).len(), 2, "those of the daemon");
    send(&pair, 3);
    assert_eq!(daemon.events(DEVICE), 3);
    assert_eq!(daemon.state(DEVICE), State::Running);
    let again = daemon.runtime.block_on(daemon.control.cleanup()).unwrap();
    assert_eq!(again, []);
    daemon.end();

    // Its own pins: in use while it watches, kept at its end, gone with an explicit stop.
    let pinning = Setup {
        common: ntpmon::monitor::Common { pin: true, ..pin },
        ..watching(&[DEVICE])
    };
    let start = || {
        pair.client
            .enter(|| {
                bpf.enter()?;
                Ok(Daemon::open(pinning.clone(), &memory))
            })
            .unwrap()
    };
    let daemon = start();
    assert_eq!(daemon.running(), [DEVICE]);
    let removed = daemon.runtime.block_on(daemon.control.cleanup()).unwrap();
    assert_eq!(removed, []);
    daemon.end();
    send(&pair, 4);
    let daemon = start();
    assert_eq!(daemon.running(), [DEVICE]);
    wait_for("what waited in the ring", PATIENCE, || {
        Ok((daemon.events(DEVICE) == 4).then_some(()))
    })
    .unwrap();
    daemon.begin(DEVICE, Some(at_port(1123))).unwrap();
    load::send(&pair.client, server(1123), 2).unwrap();
    daemon.wait_for_exchanges(DEVICE, 6);
    daemon.stop(DEVICE).unwrap();
    assert_eq!(programs(&pair), [""; 0]);
    daemon.end();
}
