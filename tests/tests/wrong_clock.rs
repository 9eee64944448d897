//! Servers that go wrong, go away and come back, at a host that asks them both by checks and with a
//! real client: what a whole daemon tells a receiver of it, once each way, and nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{net::IpAddr, thread, time::Duration};

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    daemons::{Chronyd, Ntpsec},
    liar::Liar,
    namespace::{Namespace, Pair},
    ntpmon::Ended,
    process::wait_for,
    receiver::{Receiver, Way},
    watch::binary,
};
use serde_json::{Value, json};

/// Values of servers are looked at every 5 s, and eight questions of a check take 16 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// After that nothing more is expected: longer than values of servers are kept.
const QUIET: Duration = Duration::from_secs(6);

/// Where messages go.
const HOOK: &str = "127.0.0.1:9901";
const BEGINNING: &str = "
history.flush_interval_seconds = 0.2
[alert]
default_rules = false
[[alert.sink]]
name = 'ops'
kind = 'webhook'
url = 'http://127.0.0.1:9901/'
";
/// As fast as it goes.
const CHECK: &str = "
[[check]]
name = 'asked'
server = '10.0.0.1'
interval_seconds = 2
samples = 1
timeout_seconds = 0.5
";

/// A host that is watched, and the receiver of its messages.
struct World {
    pair: Pair,
    _home: Home,
    daemon: Daemon,
    receiver: Receiver,
}

impl World {
    /// On a cable where servers may run already.
    fn new(pair: Pair, configuration: &str) -> Self {
        let receiver =
            Receiver::start(&pair.client, HOOK.parse().unwrap(), Way::Answer(200)).unwrap();
        let home = Home::new().unwrap();
        home.configure(&format!("{BEGINNING}{configuration}"))
            .unwrap();
        let device = [Pair::DEVICE];
        let mut command = home
            .command_watching(&pair.client, &[], "127.0.0.1:0", &device)
            .unwrap();
        let daemon = home.start(&mut command).unwrap();
        Self {
            pair,
            _home: home,
            daemon,
            receiver,
        }
    }

    /// A real client that asks the server so often, as a power of two of seconds.
    fn client(&self, poll: i8) -> Chronyd {
        let server = Pair::SERVER;
        // Without noselect chronyd would steer a clock of its own making.
        let line = format!("server {server} minpoll {poll} maxpoll {poll} noselect");
        Chronyd::start(&self.pair.client, &[&line]).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        let api = Api::of(&self.daemon, &self.pair.client).unwrap();
        api.get(path).unwrap().success().unwrap()["data"].clone()
    }

    fn list(&self, path: &str) -> Vec<Value> {
        self.get(path).as_array().unwrap().clone()
    }

    fn messages(&self) -> Vec<Value> {
        let requests = self.receiver.requests();
        requests.iter().map(|it| it.json()).collect()
    }

    /// Waits for so many messages in all.
    fn told(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} messages"), PATIENCE, || {
            Ok((self.messages().len() >= count).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", self.messages()));
        let messages = self.messages();
        assert_eq!(messages.len(), count, "{messages:#?}");
        messages
    }

    /// Waits for so many messages in all, and then whether there are more.
    fn exactly(&self, count: usize) -> Vec<Value> {
        self.told(count);
        thread::sleep(QUIET);
        self.told(count)
    }

    /// Waits until the server was asked so often by the client, and answered.
    fn wait_for_answers(&self, count: u64) {
        let path = format!("/api/ntp/servers/{}", Pair::SERVER);
        wait_for(&format!("{count} answers"), PATIENCE, || {
            let api = Api::of(&self.daemon, &self.pair.client)?;
            // It is not known before it is asked.
            let answer = api.get(&path)?.json()?;
            let asked = answer["data"][0]["session_count"].as_u64();
            Ok(asked.filter(|asked| *asked >= count).map(drop))
        })
        .unwrap();
    }

    /// What `/api/ntp/alerts` and its history say is what was told: of each of these rules one alert,
    /// that fired and is over.
    fn assert_told_once_each_way(&self, rules: &[&str]) {
        let (messages, history) = (self.messages(), self.list("/api/ntp/alerts/history"));
        assert_eq!(messages.len(), 2 * rules.len(), "{messages:#?}");
        assert_eq!(history.len(), messages.len(), "{history:#?}");
        let alerts = self.list("/api/ntp/alerts");
        assert_eq!(alerts.len(), rules.len(), "{alerts:#?}");
        for rule in rules {
            let of_rule = |all: &[Value]| {
                let own = all.iter().filter(|it| it["rule"] == *rule);
                own.cloned().collect::<Vec<_>>()
            };
            let (told, alert) = (of_rule(&messages), &of_rule(&alerts)[0]);
            let events: Vec<_> = told.iter().map(|it| it["event"].clone()).collect();
            assert_eq!(events, ["fired", "resolved"], "{told:#?}");
            assert_eq!(alert["state"], "resolved", "{alert}");
            // The last came last, and comes first.
            for (message, record) in told.iter().zip(of_rule(&history).iter().rev()) {
                assert_eq!(message["alert_id"], alert["id"]);
                for name in ["alert_id", "event", "value", "severity"] {
                    assert_eq!(message[name], record[name], "{name}: {message} {record}");
                }
            }
            for name in ["fired", "resolved"] {
                assert_eq!(told[1][name], alert[name], "{name}");
            }
        }
        let deliveries = self.list("/api/ntp/alerts/deliveries");
        let states: Vec<_> = deliveries.iter().map(|it| it["state"].clone()).collect();
        assert_eq!(states, vec!["delivered"; messages.len()]);
    }
}

fn of_rule<'a>(messages: &'a [Value], rule: &str) -> &'a Value {
    let mut messages = messages.iter().rev();
    let found = messages.find(|it| it["rule"] == rule);
    found.unwrap_or_else(|| panic!("nothing of {rule}"))
}

/// Between an honest server and one that is 30 ms ahead. Neither is one that a busy machine makes of
/// the other.
const LEVELS: &str = "
[[alert.rule]]
name = 'asked'
quantity = 'check_offset'
warn = 0.015
for_seconds = 1
grace_seconds = 0
[[alert.rule]]
name = 'seen'
quantity = 'server_offset'
warn = 0.015
for_seconds = 1
grace_seconds = 0
";

#[test]
fn a_server_with_a_wrong_clock_is_told_once_each_way_by_who_asks_it_and_who_sees_it_asked() {
    const AHEAD: f64 = 0.03;
    let pair = Pair::new().unwrap();
    let server: IpAddr = Pair::SERVER.parse().unwrap();
    let liar = Liar::start(&pair.server, server).unwrap();
    let world = World::new(pair, &format!("{CHECK}{LEVELS}"));
    let _client = world.client(-4);
    // As many as the median is of, so that it has to move.
    world.wait_for_answers(64);
    world.told(0);

    liar.be(|it| it.ahead = (AHEAD * 1e9) as i64);
    let fired = world.told(2);
    for (rule, label, value) in [
        ("asked", "check", "asked"),
        ("seen", "server", Pair::SERVER),
    ] {
        let told = of_rule(&fired, rule);
        assert_eq!(
            (&told["state"], &told["event"]),
            (&json!("firing"), &json!("fired"))
        );
        assert_eq!(told["severity"], "warn", "{told}");
        assert_eq!(told["labels"][label], value, "{told}");
        // The server is ahead, whatever side the rule is on.
        let offset = told["value"].as_f64().unwrap();
        assert!((offset - AHEAD).abs() < 0.015, "{told}");
    }
    // It may have fired on the way there; then it is what the server is ahead.
    wait_for("both to be 30 ms", PATIENCE, || {
        let firing = world.list("/api/ntp/alerts?state=firing");
        assert_eq!(firing.len(), 2, "{firing:#?}");
        let is_that = |alert: &Value| (alert["value"].as_f64().unwrap() - AHEAD).abs() < 0.01;
        Ok(firing.iter().all(is_that).then_some(()))
    })
    .unwrap();

    liar.be(|it| it.ahead = 0);
    let messages = world.exactly(4);
    for rule in ["asked", "seen"] {
        let told = of_rule(&messages, rule);
        assert_eq!(told["state"], "resolved", "{told}");
        assert!(told["value"].as_f64().unwrap().abs() < 0.015, "{told}");
        // It is over because all is well, and not because nothing is known.
        assert_eq!(told["message"], Value::Null, "{told}");
    }
    world.assert_told_once_each_way(&["asked", "seen"]);
    assert_eq!(world.list("/api/ntp/alerts?state=firing"), [json!(null); 0]);
}

/// Two of six are too many, and two of eight are not: it need not be asked eight times again.
const REACH: &str = "
[[alert.rule]]
name = 'asked'
quantity = 'check_reach'
grace_seconds = 0
warn = 0.75
recover_ratio = 1
[[alert.rule]]
name = 'seen'
quantity = 'server_reach'
grace_seconds = 0
warn = 0.75
recover_ratio = 1
";

/// Ends a server and starts it again, and returns what was found after that it was started.
fn goes_and_comes<Server>(start: impl Fn(&Namespace) -> Server) -> Vec<Value> {
    let pair = Pair::new().unwrap();
    let server = start(&pair.server);
    tells_time(&pair.server);
    let world = World::new(pair, &format!("{CHECK}{REACH}"));
    let _client = world.client(-1);
    world.wait_for_answers(8);
    // Of fewer questions nothing is said.
    wait_for("four questions of the check", PATIENCE, || {
        let check = world.get("/api/ntp/checks")[0]["states"][0].clone();
        Ok((check["reach"].as_u64() >= Some(0b1111)).then_some(()))
    })
    .unwrap();
    world.told(0);
    assert_eq!(world.list("/api/ntp/events"), [json!(null); 0]);

    drop(server);
    let fired = world.told(2);
    for (rule, label, value) in [
        ("asked", "check", "asked"),
        ("seen", "server", Pair::SERVER),
    ] {
        let told = of_rule(&fired, rule);
        assert_eq!(told["state"], "firing", "{told}");
        assert_eq!(told["labels"][label], value, "{told}");
        assert!(told["value"].as_f64().unwrap() < 0.75, "{told}");
    }
    // That it is silent changes nothing that it says.
    assert_eq!(world.list("/api/ntp/events"), [json!(null); 0]);

    let _server = start(&world.pair.server);
    let messages = world.exactly(4);
    for rule in ["asked", "seen"] {
        let told = of_rule(&messages, rule);
        assert_eq!(told["state"], "resolved", "{told}");
        assert!(told["value"].as_f64().unwrap() >= 0.75, "{told}");
        assert_eq!(told["message"], Value::Null, "{told}");
    }
    world.assert_told_once_each_way(&["asked", "seen"]);
    world.list("/api/ntp/events")
}

/// Waits until the server tells the time, at its own host, where nobody watches.
fn tells_time(host: &Namespace) {
    wait_for("the server to be synchronised", PATIENCE, || {
        let mut command = host.command(binary()?);
        command.args(["check", Pair::SERVER, "-n", "1"]);
        let ended = Ended::of(command.output()?)?;
        Ok((ended.code == Some(0)).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_chronyd_that_goes_away_and_comes_back_is_told_once_each_way_and_is_the_same_as_before() {
    let found = goes_and_comes(|host| Chronyd::server(host, &[]).unwrap());
    // Its local reference tells the time from its first answer on.
    assert_eq!(found, [json!(null); 0]);
}

#[test]
fn an_ntpsec_that_goes_away_and_comes_back_is_told_once_each_way_and_says_that_it_begins() {
    let found = goes_and_comes(|host| Ntpsec::server(host, &[]).unwrap());
    println!("{found:#?}");
    assert!(!found.is_empty());
    for event in &found {
        assert_eq!(event["kind"], "kiss_of_death", "{event}");
        assert_eq!(event["evidence"], json!({"code": "INIT"}), "{event}");
        assert_eq!(event["server_ip"], Pair::SERVER, "{event}");
    }
}

#[test]
fn an_ntpsec_that_limits_a_real_client_is_found_and_told_once_each_way() {
    let pair = Pair::new().unwrap();
    // A question counts for a fifth, and is forgotten within some five seconds.
    let limit = [
        "tos orphan 5 orphanwait 1",
        "limit average 0.4 burst 5 kod 5",
        "restrict default limited kod",
        "restrict 10.0.0.1",
    ];
    let _server = Ntpsec::start(&pair.server, &limit).unwrap();
    tells_time(&pair.server);
    let rule = "
[[alert.rule]]
name = 'limited'
quantity = 'finding'
match = { kind = 'kiss_of_death' }
quiet_seconds = 4
";
    let world = World::new(pair, rule);
    let client = world.client(-1);
    wait_for("a message", PATIENCE, || {
        Ok((!world.messages().is_empty()).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", client.log()));
    client.stop_asking().unwrap();
    let told = world.messages().remove(0);
    assert_eq!(told["event"], "fired", "{told}");
    assert_eq!(told["labels"]["server"], Pair::SERVER, "{told}");
    assert_eq!(told["labels"]["kind"], "kiss_of_death", "{told}");
    assert!(told["message"].as_str().unwrap().contains("RATE"), "{told}");

    world.exactly(2);
    let found = world.list("/api/ntp/events");
    for event in &found {
        assert_eq!(event["kind"], "kiss_of_death", "{event}");
        assert_eq!(event["evidence"], json!({"code": "RATE"}), "{event}");
        assert_eq!(event["server_ip"], Pair::SERVER, "{event}");
        assert_eq!(event["client_ip"], Pair::CLIENT, "{event}");
    }
    // As many as the client says that it got.
    let theirs = client.log().matches("Received KoD RATE").count();
    let server = world.list(&format!("/api/ntp/servers/{}", Pair::SERVER));
    let kisses = json!({"RATE": theirs, "DENY": 0, "RSTR": 0, "other": 0});
    assert_eq!(server[0]["kiss_of_death"], kisses);
    let counted: u64 = found.iter().map(|it| it["count"].as_u64().unwrap()).sum();
    assert_eq!(theirs as u64, counted, "{found:#?}");
    assert!(theirs > 0);
    world.assert_told_once_each_way(&["limited"]);
}

#[test]
fn a_chronyd_that_loses_its_reference_is_found_and_told_once_each_way() {
    let pair = Pair::new().unwrap();
    let server = Chronyd::server(&pair.server, &[]).unwrap();
    let rules = "
[[alert.rule]]
name = 'asked'
quantity = 'check_stratum'
grace_seconds = 0
[[alert.rule]]
name = 'seen'
quantity = 'finding'
match = { kind = 'leap_changed', importance = 'warning' }
quiet_seconds = 8
";
    let world = World::new(pair, &format!("{CHECK}{rules}"));
    let _client = world.client(-1);
    world.wait_for_answers(8);
    world.told(0);

    server.tell(&["local", "off"]).unwrap();
    let fired = world.told(2);
    assert_eq!(of_rule(&fired, "asked")["value"], 16.0);
    let message = &of_rule(&fired, "seen")["message"];
    let message = message.as_str().unwrap();
    assert!(message.contains("no longer synchronised"), "{message}");

    server.tell(&["local", "stratum", "3"]).unwrap();
    let messages = world.exactly(4);
    assert_eq!(of_rule(&messages, "asked")["value"], 3.0);
    world.assert_told_once_each_way(&["asked", "seen"]);
    // It lost it and got it back, and nothing else happened to it.
    let changes: Vec<_> = world
        .list("/api/ntp/events")
        .iter()
        .rev()
        .map(|it| {
            let evidence = &it["evidence"];
            let name = |name: &str| it[name].as_str().unwrap().to_owned();
            (
                name("kind"),
                name("severity"),
                evidence["before"].clone(),
                evidence["after"].clone(),
            )
        })
        .collect();
    let change = |severity: &str, before: u8, after: u8| {
        let kind = "leap_changed".to_owned();
        (kind, severity.to_owned(), json!(before), json!(after))
    };
    assert_eq!(changes, [change("warning", 0, 3), change("info", 3, 0)]);
}
