//! Servers that lie, at the host that asks them: what the daemon there says of each, what it finds,
//! and that it finds nothing where nothing is.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    daemons::Chronyd,
    liar::{Asker, Liar},
    namespace::{Namespace, Pair},
    ntpmon::Ended,
    process::wait_for,
    watch::binary,
};
use serde_json::{Value, json};

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// Long enough for what is found only after a while from the start.
const GRACE: Duration = Duration::from_secs(11);
const MILLISECOND: i64 = 1_000_000;

/// A host that asks a server which lies as it is told, and is watched.
struct World {
    pair: Pair,
    home: Home,
    daemon: Daemon,
    liar: Liar,
    asker: Asker,
}

impl World {
    fn new() -> Self {
        let pair = Pair::new().unwrap();
        let liar = Liar::start(&pair.server, server()).unwrap();
        let asker = Asker::new(&pair.client, SocketAddr::new(server(), 123)).unwrap();
        let (home, daemon) = watch(&pair.client);
        Self {
            pair,
            home,
            daemon,
            liar,
            asker,
        }
    }

    fn get(&self, path: &str) -> Value {
        let api = Api::of(&self.daemon, &self.pair.client).unwrap();
        api.get(path).unwrap().success().unwrap()
    }

    /// Asks until the server is known by so many answers.
    fn ask(&mut self, times: usize) {
        self.asker.ask_often(times, PAUSE).unwrap();
    }

    /// What a command of ours prints, at the daemon's host.
    fn command(&self, arguments: &[&str]) -> String {
        let mut command = self.pair.client.command(binary().unwrap());
        let url = format!("http://{}", self.daemon.address().unwrap());
        command.args(arguments).args(["--url", &url]);
        let ended = Ended::of(command.output().unwrap()).unwrap();
        ended.printed().unwrap()
    }

    fn events(&self) -> Vec<Value> {
        let events = self.get("/api/ntp/events?limit=1000");
        events["data"].as_array().unwrap().clone()
    }

    /// Asks once, which is enough unless the answer was so late that this may be all there is to it.
    fn ask_until_events(&mut self, count: usize) -> (Value, usize) {
        let mut asked = 0;
        while asked < 5 && self.events().len() < count {
            self.ask(1);
            asked += 1;
            thread::sleep(10 * PAUSE);
        }
        (self.wait_for_events(count), asked)
    }

    /// The kinds of all events so far, the first first.
    fn kinds(&self) -> Vec<String> {
        let events = self.events();
        let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
        events.iter().rev().map(kind).collect()
    }

    /// Waits for so many events in all, and gives the last.
    fn wait_for_events(&self, count: usize) -> Value {
        let found = wait_for(&format!("{count} events"), PATIENCE, || {
            let events = self.events();
            Ok((events.len() >= count).then_some(events))
        })
        .unwrap();
        assert_eq!(found.len(), count, "{found:#?}");
        found[0].clone()
    }

    fn health(&self) -> Value {
        self.get(&format!("/api/ntp/servers/{}", Pair::SERVER))["data"][0].clone()
    }
}

fn server() -> IpAddr {
    Pair::SERVER.parse().unwrap()
}

fn watch(host: &Namespace) -> (Home, Daemon) {
    let home = Home::new().unwrap();
    home.configure("history.flush_interval_seconds = 0.2\n")
        .unwrap();
    let mut command = home
        .command_watching(host, &[], "127.0.0.1:0", &[DEVICE])
        .unwrap();
    let daemon = home.start(&mut command).unwrap();
    (home, daemon)
}

#[test]
fn a_step_of_5_ms_in_one_answer_is_an_event_and_so_is_the_way_back() {
    let mut world = World::new();
    world.ask(20);
    assert_eq!(world.kinds(), [""; 0]);
    let (mut expected, mut at_once) = (0, 0);
    for step in [5, -5] {
        world.liar.be(|it| it.ahead = step * MILLISECOND);
        expected += 1;
        let (event, asked) = world.ask_until_events(expected);
        at_once += usize::from(asked == 1);
        assert_eq!(event["kind"], "offset_step", "{event}");
        assert_eq!(event["server_ip"], Pair::SERVER);
        assert_eq!(event["client_ip"], Pair::CLIENT);
        assert_eq!(event["interface_name"], DEVICE);
        let evidence = &event["evidence"];
        let change = evidence["change_seconds"].as_f64().unwrap();
        // What a machine that is busy explains it may be off.
        let explained = evidence["explained_seconds"].as_f64().unwrap();
        assert!(explained < 5e-3, "{event}");
        let after = evidence["offset_after_seconds"].as_f64().unwrap();
        for seen in [change, after] {
            assert!((seen - step as f64 / 1e3).abs() < explained, "{event}");
        }
        world.liar.be(|it| it.ahead = 0);
        expected += 1;
        let (_, asked) = world.ask_until_events(expected);
        at_once += usize::from(asked == 1);
        world.ask(20);
    }
    // Within one exchange, but for those that a busy machine held up.
    assert!(2 * at_once >= expected, "{at_once} of {expected}");
    // A second there, and back before its last answer.
    world.liar.be(|it| it.ahead = 2000 * MILLISECOND);
    world.ask(20);
    assert_eq!(world.wait_for_events(expected + 1)["kind"], "time_jump");
    world.liar.be(|it| it.ahead = 0);
    world.ask(20);
    let event = world.wait_for_events(expected + 2);
    assert_eq!(event["kind"], "time_backwards");
    assert_eq!(event["severity"], "critical");
    // The same on the command line.
    let printed = world.command(&["events", "--severity", "critical"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert!(lines[0].contains("time_jump"), "{printed}");
    assert!(
        lines[1].contains("its time ran backwards by -"),
        "{printed}"
    );
    let printed = world.command(&["servers", "--role", "client", "--sort", "offset"]);
    assert!(printed.contains("11111111"), "{printed}");
    let number = event["event_number"].as_u64().unwrap();
    let one = world.get(&format!("/api/ntp/events/{number}"));
    assert_eq!(one["data"], event);
}

#[test]
fn a_slow_way_back_is_no_step() {
    let mut world = World::new();
    world.ask(20);
    for wait in [2, 20, 200, 5] {
        world.liar.be(|it| it.wait = Duration::from_millis(wait));
        world.ask(10);
    }
    world.liar.be(|it| it.wait = Duration::ZERO);
    world.ask(20);
    assert_eq!(world.kinds(), [""; 0], "{:#?}", world.events());
}

#[test]
fn what_changes_in_the_header_and_the_manner_of_answers_is_told_once_each() {
    let mut world = World::new();
    world.ask(10);
    let mut expected = Vec::new();
    let mut change = |world: &mut World, kind: &str, how: fn(&mut ntpmon_tests::liar::Manner)| {
        world.liar.be(how);
        world.ask(5);
        expected.push(kind.to_owned());
        world.wait_for_events(expected.len());
        assert_eq!(world.kinds(), expected);
    };
    change(&mut world, "stratum_changed", |it| it.stratum = 5);
    change(&mut world, "reference_id_changed", |it| {
        it.reference = *b"\x0a\x01\x02\x03";
    });
    change(&mut world, "leap_changed", |it| it.leap = 1);
    change(&mut world, "leap_changed", |it| it.leap = 3);
    change(&mut world, "leap_changed", |it| it.leap = 0);
    change(&mut world, "fingerprint_changed", |it| it.precision = -18);
    change(&mut world, "fingerprint_changed", |it| it.ttl = 250);
    change(&mut world, "fingerprint_changed", |it| it.version = Some(3));
    // Each kiss is one.
    world.liar.be(|it| {
        it.stratum = 0;
        it.leap = 3;
        it.reference = *b"RATE";
    });
    world.ask(3);
    let event = world.wait_for_events(expected.len() + 3);
    assert_eq!(event["evidence"], json!({"code": "RATE"}));
    let reference = &world.events()[9];
    assert_eq!(
        reference["evidence"],
        json!({"before": "192.0.2.200", "after": "10.1.2.3", "stratum": 5})
    );
    wait_for("the kisses to be written", PATIENCE, || {
        Ok((world.health()["kiss_of_death"]["RATE"] == 3).then_some(()))
    })
    .unwrap();
    // All of it is there when the daemon is started again, and what changed meanwhile is seen.
    let before = world.events();
    world.liar.be(|it| {
        it.stratum = 6;
        it.leap = 0;
        it.reference = *b"\x0a\x01\x02\x03";
    });
    world.ask(5);
    world.wait_for_events(before.len() + 1);
    let World {
        pair,
        home,
        daemon,
        liar,
        asker,
    } = world;
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    liar.be(|it| it.stratum = 7);
    let mut command = home
        .command_watching(&pair.client, &[], "127.0.0.1:0", &[DEVICE])
        .unwrap();
    let mut world = World {
        daemon: home.start(&mut command).unwrap(),
        pair,
        home,
        liar,
        asker,
    };
    assert_eq!(world.events()[1..], before);
    world.ask(5);
    let event = world.wait_for_events(before.len() + 2);
    assert_eq!(
        (&event["kind"], &event["evidence"]["before"]),
        (&json!("stratum_changed"), &json!(6))
    );
}

#[test]
fn answers_that_nobody_waits_for_are_events_and_a_flood_of_them_is_few() {
    let mut world = World::new();
    world.ask(10);
    thread::sleep(GRACE);
    world.liar.be(|it| it.answers = 2);
    world.ask(1);
    let event = world.wait_for_events(1);
    assert_eq!(event["kind"], "duplicated_answer");
    world.liar.be(|it| it.answers = 1);
    let port = world.asker.address().unwrap().port();
    let client = SocketAddr::new(Pair::CLIENT.parse().unwrap(), port);
    for _ in 0..200 {
        world.liar.answer_unasked(client).unwrap();
    }
    // They are held for a while, as the question may still come.
    let told = wait_for("all of them", PATIENCE, || {
        world.ask_nothing();
        let health = world.health();
        Ok((health["unsolicited_responses"] == 200).then_some(world.events()))
    })
    .unwrap();
    let kinds = world.kinds();
    assert_eq!(kinds.len(), 6, "{told:#?}");
    assert!(kinds[1..].iter().all(|kind| kind == "unsolicited_answer"));
    assert_eq!(
        told[0]["evidence"]["originate_timestamp"],
        "0123456789abcdef"
    );
    assert_eq!(world.health()["multiple_responses"], 1);
}

impl World {
    /// Lets the pairing's time go on.
    fn ask_nothing(&self) {
        thread::sleep(PAUSE);
    }
}

#[test]
fn a_server_that_goes_away_loses_its_reach_and_what_it_said_stays() {
    let mut world = World::new();
    world.ask(20);
    let health = wait_for("its health", PATIENCE, || {
        let health = world.health();
        Ok((health["session_count"] == 20).then_some(health))
    })
    .unwrap();
    assert_eq!(health["role"], "client");
    assert_eq!(health["reach"], 255);
    assert_eq!(health["reach_ratio"], 1.0);
    assert_eq!(health["window_samples"], 20);
    assert!(health["offset_median_seconds"].as_f64().unwrap().abs() < 1e-3);
    assert!(health["delay_median_seconds"].as_f64().unwrap() > 0.0);
    assert!(health["jitter_seconds"].as_f64().unwrap() < 1e-2);
    world.liar.be(|it| it.answers = 0);
    for _ in 0..4 {
        world.asker.ask_only().unwrap();
        thread::sleep(PAUSE);
    }
    let health = wait_for("four to be given up", PATIENCE, || {
        let health = world.health();
        Ok((health["unanswered"] == 4).then_some(health))
    })
    .unwrap();
    assert_eq!(health["reach"], 0b1111_0000);
    assert_eq!(health["reach_ratio"], 0.5);
    assert_eq!(health["stratum"], 2);
    let worst = world.get("/api/ntp/servers?sort=reach&order=asc&role=client");
    assert_eq!(worst["data"][0]["server_ip"], Pair::SERVER);
    assert_eq!(world.get("/api/ntp/servers?role=server")["data"], json!([]));
    assert_eq!(world.kinds(), [""; 0]);
}

/// What the issue names an hour, as long as a test may take: polls are as often, not as long.
#[test]
fn a_real_server_that_idles_at_two_addresses_makes_no_event() {
    let pair = Pair::new().unwrap();
    let _server = Chronyd::server(&pair.server, &[]).unwrap();
    let (_home, daemon) = watch(&pair.client);
    let (_other_home, other) = watch(&pair.server);
    let address = Pair::SERVER;
    let client = Chronyd::start(
        &pair.client,
        &[
            &format!("server {address} minpoll -4 maxpoll -4 iburst"),
            &format!("server {} minpoll -4 maxpoll -4 iburst", Pair::SERVER_V6),
        ],
    )
    .unwrap();
    thread::sleep(Duration::from_secs(20));
    client.stop_asking().unwrap();
    for (daemon, host) in [(&daemon, &pair.client), (&other, &pair.server)] {
        let api = Api::of(daemon, host).unwrap();
        let get = |path: &str| api.get(path).unwrap().success().unwrap();
        let servers = get("/api/ntp/servers");
        let servers = servers["data"].as_array().unwrap();
        assert_eq!(servers.len(), 2);
        for server in servers {
            let count = server["session_count"].as_u64().unwrap();
            assert!(count > 100, "{server}");
        }
        let events = get("/api/ntp/events");
        assert_eq!(events["data"], json!([]), "{events:#}");
    }
}
