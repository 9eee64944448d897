//! Active checks: `ntpmon check` and the daemon's, of real servers, and of one that does wrong
//! whatever an NTP server can do wrong.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use ntpmon_tests::{
    api::Api,
    chrony::Measurement,
    daemon::{Daemon, Home},
    daemons::{Chronyd, Ntpsec, Openntpd},
    liar::{Liar, Manner},
    namespace::{Namespace, Pair},
    ntpmon::{Ended, objects},
    process::wait_for,
    watch::binary,
};
use serde_json::{Map, Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const NO_PRIVILEGES: [&str; 2] = ["--bounding-set=-all", "--inh-caps=-all"];
const MILLISECOND: i64 = 1_000_000;

/// Runs `ntpmon check` in a namespace, without any privilege.
fn run(namespace: &Namespace, arguments: &[&str]) -> Ended {
    let mut command = namespace.command("timeout");
    command
        .args(["--signal=KILL", "60", "setpriv"])
        .args(NO_PRIVILEGES);
    command.arg(binary().unwrap()).arg("check").args(arguments);
    Ended::of(command.output().unwrap()).unwrap()
}

/// What it says of each address.
fn check(namespace: &Namespace, arguments: &[&str]) -> (Option<i32>, Vec<Map<String, Value>>) {
    let ended = run(namespace, &[arguments, &["--format", "json"]].concat());
    let all = objects(&ended.stdout).unwrap();
    assert!(!all.is_empty(), "{}", ended.stderr);
    (ended.code, all)
}

/// One address that told the time.
fn told(namespace: &Namespace, arguments: &[&str]) -> Map<String, Value> {
    let (code, mut all) = check(namespace, arguments);
    assert_eq!((code, all.len()), (Some(0), 1), "{all:?}");
    all.remove(0)
}

/// One address that did not: its status and what is said of it.
fn refused(namespace: &Namespace, arguments: &[&str]) -> (String, String, Map<String, Value>) {
    let (code, mut all) = check(namespace, arguments);
    assert_eq!((code, all.len()), (Some(1), 1), "{all:?}");
    let it = all.remove(0);
    let text = |name: &str| it[name].as_str().unwrap().to_owned();
    assert_eq!(it["offset_seconds"], Value::Null);
    (text("status"), text("message"), it)
}

fn number(object: &Map<String, Value>, name: &str) -> f64 {
    object[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no {name}: {object:?}"))
}

fn server() -> IpAddr {
    Pair::SERVER.parse().unwrap()
}

#[test]
fn chrony_is_asked_over_ipv4_and_ipv6_in_versions_3_and_4_without_privileges() {
    let pair = Pair::new().unwrap();
    let _chronyd = Chronyd::server(&pair.server, &[]).unwrap();
    for (server, version) in [
        ("10.0.0.1", "4"),
        ("10.0.0.1:123", "3"),
        ("fd00::1", "4"),
        ("[fd00::1]:123", "3"),
    ] {
        let it = told(&pair.client, &[server, "-n", "1", "--version", version]);
        assert_eq!(it["status"], "ok");
        assert_eq!(it["message"], Value::Null);
        assert_eq!(it["version"], version.parse::<u8>().unwrap());
        assert_eq!(
            (&it["stratum"], &it["leap_indicator"]),
            (&json!(3), &json!(0))
        );
        assert_eq!(it["reference_id"], "127.127.1.1");
        assert_eq!(it["port"], 123);
        // One kernel is all three hosts, so that the clocks are one.
        assert_eq!(it["timestamps"], "kernel");
        let delay = number(&it, "delay_seconds");
        assert!((0.0..0.1).contains(&delay), "{it:?}");
        assert!(
            number(&it, "offset_seconds").abs() <= delay / 2.0 + 1e-4,
            "{it:?}"
        );
        assert_eq!(it["jitter_seconds"], Value::Null);
        assert_eq!(number(&it, "root_delay_seconds"), 0.0);
        assert!(number(&it, "root_distance_seconds") > delay / 2.0);
    }
    // The family of a name is what was asked for.
    let (code, all) = check(&pair.client, &["10.0.0.1", "fd00::1", "-n", "1", "-6"]);
    assert_eq!(code, Some(1));
    assert_eq!(all[0]["status"], "unresolved");
    assert_eq!(
        (&all[1]["status"], &all[1]["address"]),
        (&json!("ok"), &json!("fd00::1"))
    );
}

#[test]
fn the_offset_is_what_chrony_finds() {
    const AHEAD: i64 = -37;
    let pair = Pair::new().unwrap();
    let liar = Liar::start(&pair.server, server()).unwrap();
    liar.be(|it| it.ahead = AHEAD * MILLISECOND);
    // Without noselect chronyd would steer a clock of its own making, and measure by that.
    let line = format!("server {} minpoll -3 maxpoll -3 noselect", Pair::SERVER);
    let mut chronyd = Chronyd::start(&pair.client, &[&line]).unwrap();
    let it = told(&pair.client, &[Pair::SERVER, "-n", "3"]);
    chronyd.stop_asking().unwrap();
    chronyd.stop().unwrap();
    let theirs = chronyd.measurements().unwrap();
    assert!(theirs.len() > 10, "{theirs:?}");
    // The answer that was held up least: on a busy machine the others say more of the machine.
    let best = |one: &&Measurement, other: &&Measurement| one.delay.total_cmp(&other.delay);
    let theirs = theirs.iter().min_by(best).unwrap();
    let ours = number(&it, "offset_seconds");
    // Both mean by it how far the server is ahead. Half the delay is what neither can know.
    let own = 100e-6 + number(&it, "delay_seconds") / 2.0;
    let slack = own + theirs.delay / 2.0;
    let difference = (ours - theirs.offset).abs();
    assert!(difference < slack, "ours {ours}, chrony's {theirs:?}");
    assert!((ours - AHEAD as f64 / 1e3).abs() < own, "{ours}");
    assert_eq!((&it["samples"], &it["sent"]), (&json!(3), &json!(3)));
    assert!(number(&it, "jitter_seconds") < 0.01);
}

#[test]
fn ntpsec_tells_the_time_and_openntpd_says_when_it_has_none() {
    let pair = Pair::new().unwrap();
    let ntpsec = Ntpsec::server(&pair.server, &[]).unwrap();
    let it = wait_for("ntpsec to be synchronised", PATIENCE, || {
        let (code, mut all) = check(&pair.client, &[Pair::SERVER, "-n", "1"]);
        Ok((code == Some(0)).then(|| all.remove(0)))
    });
    let it = it.unwrap_or_else(|error| panic!("{error}: {}", ntpsec.log()));
    assert_eq!(
        (&it["stratum"], &it["timestamps"]),
        (&json!(5), &json!("kernel"))
    );
    let most = number(&it, "delay_seconds") / 2.0 + 1e-4;
    assert!(number(&it, "offset_seconds").abs() <= most, "{it:?}");
    drop(ntpsec);

    let _openntpd = Openntpd::start(&pair.server, &["listen on 10.0.0.1"]).unwrap();
    let (status, message, it) = refused(&pair.client, &[Pair::SERVER, "-n", "1"]);
    assert_eq!(status, "unsynchronised", "{message}");
    assert!(message.contains("leap indicator 3"), "{message}");
    assert_eq!(it["leap_indicator"], 3);
}

/// What a server does wrong, by which name that is told, and how it is brought to do so.
type Case = (&'static str, &'static str, fn(&mut Manner));

#[test]
fn whatever_is_wrong_is_told_as_what_it_is() {
    let pair = Pair::new().unwrap();
    let arguments = [Pair::SERVER, "-n", "1", "--timeout-seconds", "0.5"];
    // Nobody is there.
    let (status, message, _) = refused(&pair.client, &arguments);
    assert_eq!(status, "refused");
    assert!(message.contains("the port is closed"), "{message}");

    let liar = Liar::start(&pair.server, server()).unwrap();
    let cases: [Case; 11] = [
        ("timeout", "no answer within 0.5 s", |it| it.silent = true),
        ("wrong_address", "the answer came from 10.0.0.1:", |it| {
            it.elsewhere = true
        }),
        ("short_answer", "the answer has 47 bytes", |it| {
            it.length = 47
        }),
        ("short_answer", "the answer has 1 bytes", |it| it.length = 1),
        ("wrong_origin", "something that was not asked", |it| {
            it.forgetful = true
        }),
        (
            "zero_times",
            "its receive or its transmit time is zero",
            |it| it.timeless = true,
        ),
        ("unsynchronised", "leap indicator 3, stratum 2", |it| {
            it.leap = 3
        }),
        ("unsynchronised", "leap indicator 0, stratum 16", |it| {
            it.stratum = 16
        }),
        ("not_an_answer", "mode 4, version 7", |it| {
            it.version = Some(7)
        }),
        (
            "kiss_of_death",
            "the server says RATE (kiss-o'-death): it is asked too often",
            |it| {
                (it.stratum, it.reference) = (0, *b"RATE");
            },
        ),
        ("kiss_of_death", "the server says DENY", |it| {
            (it.stratum, it.reference) = (0, *b"DENY");
        }),
    ];
    for (expected, text, change) in cases {
        liar.be(|it| *it = Manner::default());
        liar.be(change);
        let (status, message, it) = refused(&pair.client, &arguments);
        assert_eq!(status, expected, "{message}");
        assert!(message.contains(text), "{message}");
        if expected == "kiss_of_death" {
            assert!(it["kiss_code"].is_string());
        }
    }
    // A kiss ends a round: nobody asks on.
    let asked = liar.asked();
    refused(&pair.client, &[Pair::SERVER, "-n", "3"]);
    assert_eq!(liar.asked(), asked + 1);

    // From the port that was asked, at another address.
    pair.server
        .ip(&format!("address add 10.0.0.9/24 dev {}", Pair::DEVICE))
        .unwrap();
    let bind = || Ok(UdpSocket::bind("10.0.0.9:123")?);
    let through = Some(Arc::new(pair.server.enter(bind).unwrap()));
    liar.be(|it| {
        *it = Manner::default();
        it.through = through;
    });
    let (status, message, _) = refused(&pair.client, &arguments);
    assert_eq!(status, "wrong_address", "{message}");
    assert!(
        message.contains("the answer came from 10.0.0.9:123"),
        "{message}"
    );
    // What somebody else sends first is not believed, and the answer is waited for.
    liar.be(|it| {
        *it = Manner::default();
        it.forestalled = true;
    });
    let it = told(&pair.client, &arguments);
    assert_eq!(
        (&it["status"], &it["message"]),
        (&json!("ok"), &Value::Null)
    );
    assert!(number(&it, "offset_seconds").abs() < 0.1, "{it:?}");
    // Thousands of millions of seconds are a time, and told.
    for ahead in [1_000_000_000_i64, -1_000_000_000, 11 * 86_400] {
        liar.be(|it| {
            *it = Manner::default();
            it.ahead = ahead * 1000 * MILLISECOND;
        });
        let it = told(&pair.client, &arguments);
        assert_eq!(it["status"], "far_off");
        let offset = number(&it, "offset_seconds");
        assert!((offset - ahead as f64).abs() < 0.1, "{offset}");
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        assert!(it["message"].as_str().unwrap().contains(side), "{it:?}");
    }

    let (status, message, it) = refused(&pair.client, &["no-such-name.invalid"]);
    assert_eq!(status, "unresolved");
    assert!(
        message.starts_with("no-such-name.invalid has no address: "),
        "{message}"
    );
    assert_eq!(it["address"], Value::Null);
    let (status, message, _) = refused(&pair.client, &["192.0.2.1", "-n", "1"]);
    assert_eq!(status, "unreachable");
    assert!(message.contains("Network is unreachable"), "{message}");
    // All of them at once, in the order in which they were given.
    let both = [Pair::SERVER_V6, Pair::SERVER, "-n", "1"];
    let ended = run(&pair.client, &both);
    assert_eq!(ended.code, Some(1));
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(
        lines[1].contains("refused: the port is closed"),
        "{}",
        ended.stdout
    );
    assert!(
        lines[2].contains("far_off: ") && lines[2].contains("+11 d"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stderr.contains("1 of 2 did not tell the time"),
        "{}",
        ended.stderr
    );
}

/// A daemon that asks a server of ours, without any privilege.
struct World {
    pair: Pair,
    home: Home,
    daemon: Daemon,
    liar: Liar,
}

/// As fast as it goes.
const FAST: &str = "interval_seconds = 2\nsamples = 1\ntimeout_seconds = 0.5\n";

fn configuration(checks: &[(&str, &str)]) -> String {
    let mut text = "history.flush_interval_seconds = 0.2\n".to_owned();
    for (name, server) in checks {
        let _ = write!(
            text,
            "[[check]]\nname = '{name}'\nserver = '{server}'\n{FAST}"
        );
    }
    text
}

fn start(home: &Home, namespace: &Namespace) -> Daemon {
    let before = [&["setpriv"][..], &NO_PRIVILEGES, &["--"]].concat();
    let mut command: Command = home.command(namespace, &before).unwrap();
    home.start(&mut command).unwrap()
}

impl World {
    fn new(checks: &[(&str, &str)]) -> Self {
        let pair = Pair::new().unwrap();
        let liar = Liar::start(&pair.server, server()).unwrap();
        let home = Home::new().unwrap();
        home.configure(&configuration(checks)).unwrap();
        let daemon = start(&home, &pair.client);
        Self {
            pair,
            home,
            daemon,
            liar,
        }
    }

    fn api(&self) -> Api<'_> {
        Api::of(&self.daemon, &self.pair.client).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.api().get(path).unwrap().success().unwrap()["data"].clone()
    }

    fn named(&self, name: &str) -> Value {
        let all = self.get("/api/ntp/checks?page_size=1000");
        let found = all.as_array().unwrap().iter().find(|it| it["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {all}")).clone()
    }

    fn path(&self, name: &str) -> String {
        let id = self.named(name)["id"].as_str().unwrap().to_owned();
        format!("/api/ntp/checks/{id}")
    }

    /// Waits until the only address of a check is as wanted.
    fn wait(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{name}: {what}"), PATIENCE, || {
            let state = self.named(name)["states"][0].clone();
            Ok((!state.is_null() && is(&state)).then_some(state))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", self.named(name)))
    }
}

fn is(status: &str) -> impl Fn(&Value) -> bool {
    move |state| state["status"] == status
}

#[test]
fn a_daemon_without_privileges_asks_for_ever_and_shows_what_it_found() {
    let world = World::new(&[
        ("ours", Pair::SERVER),
        ("gone", "fd00::1"),
        ("nowhere", "x.invalid"),
    ]);
    world.liar.be(|it| it.ahead = 5 * MILLISECOND);
    let state = world.wait("ours", "the time", is("ok"));
    assert!((number(state.as_object().unwrap(), "offset_seconds") - 0.005).abs() < 5e-3);
    assert_eq!(
        (&state["address"], &state["port"]),
        (&json!(Pair::SERVER), &json!(123))
    );
    assert_eq!(state["timestamps"], "kernel");
    world.wait("gone", "a closed port", is("refused"));
    let state = world.wait("nowhere", "no address", is("unresolved"));
    assert_eq!(
        (&state["address"], &state["reach"]),
        (&Value::Null, &json!(0))
    );

    let check = world.named("ours");
    assert_eq!(
        (&check["source"], &check["paused"]),
        (&json!("config"), &json!(false))
    );
    assert_eq!(check["interval_seconds"], 2.0);
    let state = world.wait("ours", "a second round", |it| {
        it["reach"].as_u64() >= Some(3)
    });
    assert_eq!(state["reach_ratio"], 1.0);
    // It goes away, and comes back.
    world.liar.be(|it| it.silent = true);
    let state = world.wait("ours", "silence", is("timeout"));
    assert!(state["reach_ratio"].as_f64().unwrap() < 1.0);
    assert!(state["last_success_timestamp"].is_string());
    world.liar.be(|it| it.silent = false);
    world.wait("ours", "the time again", is("ok"));

    let path = world.path("ours");
    let rounds = world.get(&format!("{path}?limit=100"))["history"][0]["rounds"].clone();
    let statuses: Vec<_> = rounds
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["status"])
        .collect();
    assert_eq!(statuses.first(), Some(&&json!("ok")));
    assert!(
        statuses.contains(&&json!("timeout")) && statuses.len() >= 4,
        "{statuses:?}"
    );
    let two = world.get(&format!("{path}?limit=2&address={}", Pair::SERVER));
    assert_eq!(two["history"][0]["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(
        world.get(&format!("{path}?address=192.0.2.1"))["history"],
        json!([])
    );
    let since = &rounds[1]["timestamp"].as_str().unwrap();
    let later = world.get(&format!("{path}?since={since}&until={since}"));
    assert_eq!(later["history"][0]["rounds"][0]["timestamp"], **since);
    for resolution in ["hour", "day"] {
        let sums = world.get(&format!("{path}?resolution={resolution}"));
        let sum = &sums["history"][0]["rollups"][0];
        assert!(sum["rounds"].as_u64().unwrap() >= 4, "{sums}");
        assert!(sum["statuses"]["timeout"].as_u64().unwrap() >= 1, "{sums}");
        let median = sum["offset_median_seconds"].as_f64().unwrap();
        assert!((median - 0.005).abs() < 5e-3, "{sums}");
    }
    let health = world
        .api()
        .get("/api/ntp/health")
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(health["components"]["checks"]["check_count"], 3, "{health}");
}

#[test]
fn a_server_that_says_rate_is_asked_less_and_one_that_says_deny_not_at_all() {
    let world = World::new(&[("ours", Pair::SERVER)]);
    world.wait("ours", "the time", is("ok"));
    world
        .liar
        .be(|it| (it.stratum, it.reference) = (0, *b"RATE"));
    let state = world.wait("ours", "RATE", is("kiss_of_death"));
    assert_eq!(
        (&state["kiss_code"], &state["interval_seconds"]),
        (&json!("RATE"), &json!(4.0))
    );
    assert!(
        state["message"]
            .as_str()
            .unwrap()
            .contains("every 4 s from now on"),
        "{state}"
    );
    let state = world.wait("ours", "RATE again", |it| it["interval_seconds"] == 8.0);
    assert_eq!(state["stopped"], false);

    world.liar.be(|it| it.reference = *b"DENY");
    let resumed = world
        .api()
        .post(&format!("{}/resume", world.path("ours")))
        .unwrap();
    let message = &resumed.success().unwrap()["message"];
    assert_eq!(message, "the check 'ours' goes on");
    let state = world.wait("ours", "DENY", |it| it["stopped"] == true);
    assert!(
        state["message"]
            .as_str()
            .unwrap()
            .contains("not asked any more"),
        "{state}"
    );
    let asked = world.liar.asked();
    thread::sleep(Duration::from_secs(6));
    assert_eq!(world.liar.asked(), asked);
    world.liar.be(|it| *it = Manner::default());
    world
        .api()
        .post(&format!("{}/resume", world.path("ours")))
        .unwrap();
    let state = world.wait("ours", "the time", is("ok"));
    assert_eq!(
        (&state["stopped"], &state["interval_seconds"]),
        (&json!(false), &json!(2.0))
    );
}

#[test]
fn an_ntpsec_server_that_limits_is_asked_seldomer_until_it_answers_again() {
    let pair = Pair::new().unwrap();
    // Each question counts for a fifth, and is forgotten within some five seconds: every 2 s is too
    // often, and every 4 s or 8 s is not.
    let limit = [
        "tos orphan 5 orphanwait 1",
        "limit average 0.4 burst 5 kod 5",
        "restrict default limited kod",
    ];
    let ntpsec = Ntpsec::start(&pair.server, &limit).unwrap();
    let home = Home::new().unwrap();
    home.configure(&configuration(&[("limits", Pair::SERVER)]))
        .unwrap();
    let daemon = start(&home, &pair.client);
    let api = Api::of(&daemon, &pair.client).unwrap();
    let mut limited = false;
    let state = wait_for("an answer after a RATE", 3 * PATIENCE, || {
        let list = api.get("/api/ntp/checks")?.success()?;
        let state = list["data"][0]["states"][0].clone();
        // Before it is its own reference it says INIT.
        if state["kiss_code"] == "RATE" {
            assert_eq!(
                (&state["status"], &state["stopped"]),
                (&json!("kiss_of_death"), &json!(false))
            );
            limited = true;
        }
        Ok((limited && is("ok")(&state)).then_some(state))
    });
    let state = state.unwrap_or_else(|error| panic!("{error}: {}", ntpsec.log()));
    assert!(
        state["interval_seconds"].as_f64().unwrap() >= 4.0,
        "{state}"
    );
    assert_eq!(state["stratum"], 5);
}

/// What a check of the API is asked for with.
fn body(name: &str) -> String {
    json!({
        "server": Pair::SERVER, "name": name, "interval_seconds": 2, "samples": 1,
        "timeout_seconds": 0.5,
    })
    .to_string()
}

#[test]
fn checks_are_made_paused_and_deleted_and_survive_a_kill() {
    let mut world = World::new(&[("ours", Pair::SERVER)]);
    let api = world.api();
    let create = |body: &str| api.post_json("/api/ntp/checks", body).unwrap();
    let made = create(&body("made"));
    assert_eq!(made.status, 200);
    let made = made.json().unwrap();
    assert_eq!(made["data"]["source"], "api");
    assert_eq!(create(&body("rests")).status, 200);
    for (body, status, code, text) in [
        (
            body("made"),
            409,
            "check_exists",
            "there is a check 'made' already",
        ),
        (
            body("ours"),
            409,
            "check_exists",
            "there is a check 'ours' already",
        ),
        ("{}".to_owned(), 400, "invalid_body", "server"),
        (
            json!({"server": "a b"}).to_string(),
            400,
            "invalid_body",
            "expected a name or an address",
        ),
        (
            json!({"server": "a", "samples": 0}).to_string(),
            400,
            "invalid_body",
            "samples: expected a whole number, 1 to 16",
        ),
        (
            json!({"server": "a", "interval_seconds": 3}).to_string(),
            400,
            "invalid_body",
            "interval_seconds: expected 6 at least",
        ),
        (
            json!({"server": "a", "sampels": 1}).to_string(),
            400,
            "invalid_body",
            "sampels",
        ),
    ] {
        let answer = create(&body);
        assert_eq!(answer.status, status, "{body}");
        let (found, message) = answer.refusal().unwrap();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    world.wait("made", "the time", is("ok"));
    world.wait("rests", "the time", is("ok"));
    let rests = world.path("rests");
    let paused = api
        .post(&format!("{rests}/pause"))
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(paused["data"]["paused"], true);
    api.post(&format!("{}/pause", world.path("ours")))
        .unwrap()
        .success()
        .unwrap();
    // What was begun is over.
    thread::sleep(Duration::from_secs(1));
    let before = world.get(&format!("{rests}?limit=1000"))["history"][0]["rounds"].clone();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(
        world.get(&format!("{rests}?limit=1000"))["history"][0]["rounds"],
        before
    );

    let delete = |path: &str| api.curl(path, &["--request", "DELETE"]).unwrap();
    let refused = delete(&world.path("ours"));
    assert_eq!(refused.status, 409);
    let (code, message) = refused.refusal().unwrap();
    assert_eq!(code, "check_of_configuration", "{message}");
    assert_eq!(delete("/api/ntp/checks/0123456789abcdef").status, 404);
    assert_eq!(delete("/api/ntp/checks/ours").status, 400);

    let made = world.path("made");
    let rounds = || world.get(&format!("{made}?limit=1000"))["history"][0]["rounds"].clone();
    wait_for("three rounds", PATIENCE, || {
        Ok(rounds().as_array().filter(|it| it.len() >= 3).map(drop))
    })
    .unwrap();
    // The flush interval is 0.2 s.
    thread::sleep(Duration::from_secs(1));
    let before = rounds();
    let killed = std::mem::replace(
        &mut world.daemon,
        start(&Home::new().unwrap(), &world.pair.client),
    );
    killed.kill().unwrap();
    world.daemon = start(&world.home, &world.pair.client);
    let paused = |name: &str| world.named(name)["paused"] == true;
    assert!(paused("rests") && paused("ours") && !paused("made"));
    world.wait("made", "the time", is("ok"));
    let after = world.get(&format!("{made}?limit=1000"))["history"][0]["rounds"].clone();
    let (before, after) = (before.as_array().unwrap(), after.as_array().unwrap());
    assert!(after.len() > before.len());
    assert_eq!(after[after.len() - before.len()..], before[..]);

    let api = world.api();
    api.post(&format!("{rests}/resume"))
        .unwrap()
        .success()
        .unwrap();
    world.wait("rests", "the time", is("ok"));
    let deleted = api.curl(&made, &["--request", "DELETE"]).unwrap();
    let deleted = deleted.success().unwrap();
    assert_eq!(deleted["message"], "the check 'made' is deleted");
    assert_eq!(api.get(&made).unwrap().status, 404);
    // Made anew it has no past.
    assert_eq!(
        api.post_json("/api/ntp/checks", &body("made"))
            .unwrap()
            .status,
        200
    );
    world.wait("made", "the time", is("ok"));
    let rounds = world.get(&format!("{made}?limit=1000"))["history"][0]["rounds"].clone();
    assert!(rounds.as_array().unwrap().len() < before.len(), "{rounds}");
}

#[test]
fn a_reload_starts_what_is_new_ends_what_is_gone_and_leaves_the_rest_alone() {
    let mut world = World::new(&[("stays", Pair::SERVER), ("goes", Pair::SERVER)]);
    let stays = world.wait("stays", "two rounds", |it| it["reach"].as_u64() >= Some(3));
    world.wait("goes", "the time", is("ok"));
    let text = configuration(&[("stays", Pair::SERVER), ("comes", Pair::SERVER)]);
    world.home.configure(&text).unwrap();
    world.daemon.signal(libc::SIGHUP).unwrap();
    world
        .daemon
        .wait_for_message("reloading: check has changed", 1)
        .unwrap();
    world.wait("comes", "the time", is("ok"));
    let names = world.get("/api/ntp/checks");
    let names: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, ["comes", "stays"]);
    let now = world.named("stays")["states"][0].clone();
    assert!(now["reach"].as_u64() >= stays["reach"].as_u64(), "{now}");
    // A wrong one changes nothing.
    world.home.configure("[[check]]\nserver = 'a b'\n").unwrap();
    world.daemon.signal(libc::SIGHUP).unwrap();
    let told = "check[1].server = \"a b\" in";
    world.daemon.wait_for_message(told, 1).unwrap();
    assert_eq!(world.get("/api/ntp/checks").as_array().unwrap().len(), 2);
}

#[test]
fn a_name_has_each_of_its_addresses_asked() {
    let pair = Pair::new().unwrap();
    let _v4 = Liar::start(&pair.server, server()).unwrap();
    let port = SocketAddr::new(Pair::SERVER_V6.parse().unwrap(), 123);
    let _v6 = Liar::start_at(&pair.server, port).unwrap();
    let home = Home::new().unwrap();
    let hosts = home.path("hosts");
    std::fs::write(&hosts, "10.0.0.1 both.example\nfd00::1 both.example\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/hosts && exec {} check both.example -n 1 --format json",
        hosts.display(),
        binary().unwrap().display()
    );
    let mut command = pair.client.command("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let ended = Ended::of(command.output().unwrap()).unwrap();
    let all = objects(&ended.printed().unwrap()).unwrap();
    let addresses: Vec<_> = all.iter().map(|it| &it["address"]).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    assert!(
        all.iter()
            .all(|it| it["server"] == "both.example" && it["status"] == "ok")
    );
}
