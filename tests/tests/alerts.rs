//! Alerts of a whole daemon: an interface goes down and comes back, and exactly one message each way
//! arrives at real servers, in time, whatever fails or is killed in between.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, SystemTime},
};

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    liar::{Asker, Liar},
    namespace::Pair,
    ntpmon as run,
    packages::Packages,
    process::{Process, wait_for},
    receiver::{Receiver, Request, Way},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
/// After that nothing more is expected: longer than two retries.
const QUIET: Duration = Duration::from_secs(4);
/// What a message may take from the change of state on.
const IN_TIME: Duration = Duration::from_secs(1);
const HOOK: &str = "127.0.0.1:9901";
const OTHER: &str = "127.0.0.1:9902";

const RULE: &str = "
[[alert.rule]]
name = 'down'
quantity = 'interface_down'
grace_seconds = 0
";

const WEBHOOK: &str = "
[[alert.sink]]
name = 'ops'
kind = 'webhook'
url = 'http://127.0.0.1:9901/hook/topsecret'
secret = 'topsecret'
timeout_seconds = 2
";

/// A daemon that watches one end of a cable, of which the other end can be pulled.
struct Stage {
    pair: Pair,
    home: Home,
    daemon: Option<Daemon>,
}

impl Stage {
    fn new(configuration: &str) -> Self {
        let (pair, home) = (Pair::new().unwrap(), Home::new().unwrap());
        let text = format!("[alert]\ndefault_rules = false\n{configuration}");
        home.configure(&text).unwrap();
        let mut stage = Self {
            pair,
            home,
            daemon: None,
        };
        stage.start();
        stage
    }

    fn start(&mut self) {
        let device = [Pair::DEVICE];
        let command = self
            .home
            .command_watching(&self.pair.server, &[], "127.0.0.1:0", &device);
        self.daemon = Some(self.home.start(&mut command.unwrap()).unwrap());
    }

    fn receiver(&self, address: &str, way: Way) -> Receiver {
        let address: SocketAddr = address.parse().unwrap();
        Receiver::start(&self.pair.server, address, way).unwrap()
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    fn kill(&mut self) {
        self.daemon.take().unwrap().kill().unwrap();
    }

    fn get(&self, path: &str) -> Value {
        let daemon = self.daemon.as_ref().unwrap();
        let api = Api::of(daemon, &self.pair.server).unwrap();
        api.get(&format!("/api/ntp/alerts{path}"))
            .unwrap()
            .success()
            .unwrap()["data"]
            .clone()
    }

    /// Pulls the cable, or plugs it in again.
    fn cable(&self, state: &str) {
        let command = format!("link set {} {state}", Pair::DEVICE);
        self.pair.client.ip(&command).unwrap();
    }

    /// Waits until there is an alert in this state, and gives its number.
    fn wait_for(&self, state: &str) -> u64 {
        self.wait_for_rule(state, "down")
    }

    /// The same, of this rule.
    fn wait_for_rule(&self, state: &str, rule: &str) -> u64 {
        wait_for(state, PATIENCE, || {
            let alerts = self.get(&format!("?state={state}&rule={rule}"));
            Ok(alerts[0]["id"].as_u64())
        })
        .unwrap()
    }
}

/// Waits for so many messages, and then whether there are more.
fn exactly(receiver: &Receiver, count: usize) -> Vec<Request> {
    wait_for("a message", PATIENCE, || {
        Ok((receiver.requests().len() >= count).then_some(()))
    })
    .unwrap();
    thread::sleep(QUIET);
    let requests = receiver.requests();
    let states: Vec<_> = requests
        .iter()
        .map(|it| it.json()["state"].clone())
        .collect();
    assert_eq!(requests.len(), count, "{states:?}");
    requests
}

/// From a time in a message to its arrival.
fn took(request: &Request, since: &str) -> Duration {
    let body = request.json();
    let since: jiff::Timestamp = body[since].as_str().unwrap().parse().unwrap();
    request.at.duration_since(SystemTime::from(since)).unwrap()
}

#[test]
fn one_message_arrives_each_way_within_a_second() {
    let stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    stage.cable("down");
    let id = stage.wait_for("firing");
    let fired = exactly(&receiver, 1).remove(0);
    stage.cable("up");
    stage.wait_for("resolved");
    let requests = exactly(&receiver, 2);
    let resolved = &requests[1];
    println!(
        "from the change of state to the receiver: {:?} firing, {:?} resolved",
        took(&fired, "fired"),
        took(resolved, "resolved")
    );
    assert!(took(&fired, "fired") < IN_TIME && took(resolved, "resolved") < IN_TIME);
    assert_eq!(
        (&fired.json()["state"], &fired.json()["alert_id"]),
        (&"firing".into(), &id.into())
    );
    assert_eq!(fired.json()["labels"]["interface"], Pair::DEVICE);
    assert_eq!(fired.json()["severity"], "critical");
    assert_eq!(
        (&resolved.json()["state"], &resolved.json()["alert_id"]),
        (&"resolved".into(), &id.into())
    );
    assert!(
        fired
            .header("x-ntpmon-signature")
            .unwrap()
            .starts_with("sha256=")
    );
    assert_ne!(
        fired.header("ntpmon-delivery-id"),
        resolved.header("ntpmon-delivery-id")
    );
    let deliveries = stage.get("/deliveries");
    let states: Vec<_> = deliveries
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["state"])
        .collect();
    assert_eq!(states, ["delivered", "delivered"]);
    let events: Vec<_> = stage
        .get("/history")
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["event"].clone())
        .collect();
    assert_eq!(events, ["resolved", "fired"]);
}

#[test]
fn a_kill_between_the_change_and_the_delivery_neither_loses_nor_doubles_the_message() {
    let mut stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
    // Nobody listens.
    stage.cable("down");
    let id = stage.wait_for("firing");
    wait_for("a try", PATIENCE, || {
        let waiting = stage.get("/deliveries?state=waiting");
        Ok(waiting[0]["attempts"]
            .as_u64()
            .filter(|attempts| *attempts > 0))
    })
    .unwrap();
    let delivery = stage.get("/deliveries")[0]["id"].clone();
    assert_eq!(stage.get("/sinks")[0]["waiting"], 1);
    stage.kill();
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    stage.start();
    let request = exactly(&receiver, 1).remove(0);
    assert_eq!(request.header("ntpmon-delivery-id").unwrap(), delivery);
    assert_eq!(
        (&request.json()["state"], &request.json()["alert_id"]),
        (&"firing".into(), &id.into())
    );
    assert_eq!(stage.wait_for("firing"), id);
    // What was told is told no more after another one.
    stage.kill();
    stage.start();
    stage.wait_for("firing");
    stage.cable("up");
    let requests = exactly(&receiver, 2);
    assert_eq!(requests[1].json()["state"], "resolved");
    assert_eq!(requests[1].json()["alert_id"], id);
}

#[test]
fn a_kill_at_any_moment_around_the_change_leaves_one_message() {
    for wait in [0, 200, 500, 800, 1100] {
        let mut stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
        // It listens all the time: the kill may fall before its answer, and after.
        let receiver = stage.receiver(HOOK, Way::Answer(200));
        stage.cable("down");
        thread::sleep(Duration::from_millis(wait));
        stage.kill();
        stage.start();
        stage.wait_for("firing");
        wait_for("a message", PATIENCE, || {
            Ok((!receiver.requests().is_empty()).then_some(()))
        })
        .unwrap();
        thread::sleep(QUIET);
        let requests = receiver.requests();
        let id = |it: &Request| it.header("ntpmon-delivery-id").unwrap().to_owned();
        let ids: std::collections::BTreeSet<_> = requests.iter().map(id).collect();
        // Killed between the answer and writing that down it is sent again, under the same id.
        assert!(
            ids.len() == 1 && requests.len() <= 2,
            "killed after {wait} ms: {requests:?}"
        );
        assert_eq!(requests[0].json()["state"], "firing");
    }
}

const FINDINGS: &str = "
[[alert.rule]]
name = 'found'
quantity = 'finding'
";

/// A server that this host asks, and who asks it.
fn lying(stage: &Stage) -> (Liar, Asker) {
    let address: IpAddr = Pair::CLIENT.parse().unwrap();
    let liar = Liar::start(&stage.pair.client, address).unwrap();
    let asker = Asker::new(&stage.pair.server, SocketAddr::new(address, 123)).unwrap();
    (liar, asker)
}

#[test]
fn a_step_of_a_server_of_5_ms_is_told_once_within_a_second() {
    let stage = Stage::new(&format!(
        "{FINDINGS}match = {{ kind = 'offset_step' }}\n{WEBHOOK}"
    ));
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    let (liar, mut asker) = lying(&stage);
    asker.ask_often(20, Duration::from_millis(20)).unwrap();
    let changed = SystemTime::now();
    liar.be(|it| it.ahead = 5_000_000);
    // One answer is enough, unless it was held up for so long that this may be all there is to it.
    while receiver.requests().is_empty() && changed.elapsed().unwrap() < PATIENCE {
        asker.ask().unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let request = exactly(&receiver, 1).remove(0);
    let took = request.at.duration_since(changed).unwrap();
    println!("from the step to the receiver: {took:?}");
    assert!(took < IN_TIME, "{took:?}");
    let told = request.json();
    assert_eq!(told["labels"]["server"], Pair::CLIENT, "{told}");
    assert_eq!(told["labels"]["kind"], "offset_step", "{told}");
}

#[test]
fn a_server_that_goes_away_and_comes_back_is_told_once_each_way() {
    let check = format!(
        "history.flush_interval_seconds = 0.2
[[check]]
name = 'liar'
server = '{}'
interval_seconds = 2
samples = 1
timeout_seconds = 0.5
[[alert.rule]]
name = 'reach'
quantity = 'check_reach'
warn = 0.75
grace_seconds = 0
",
        Pair::CLIENT
    );
    let mut stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
    stage.kill();
    let head = "[alert]\ndefault_rules = false\n";
    let (first, rest) = check.split_once('\n').unwrap();
    let text = format!("{first}\n{head}{rest}{WEBHOOK}");
    stage.home.configure(&text).unwrap();
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    let (liar, _) = lying(&stage);
    // The first question is lost, and that is no reason to tell anybody.
    liar.be(|it| it.silent = true);
    stage.start();
    let asked = |count| {
        wait_for("it to be asked", PATIENCE, || {
            Ok((liar.asked() >= count).then_some(()))
        })
    };
    asked(1).unwrap();
    thread::sleep(Duration::from_secs(1));
    liar.be(|it| it.silent = false);
    asked(5).unwrap();
    assert!(receiver.requests().is_empty());
    let wait = |count| {
        wait_for("a message", 3 * PATIENCE, || {
            Ok((receiver.requests().len() >= count).then_some(()))
        })
        .unwrap();
        exactly(&receiver, count).remove(count - 1).json()
    };
    liar.be(|it| it.silent = true);
    let told = wait(1);
    assert_eq!(
        (&told["state"], &told["labels"]["check"]),
        (&"firing".into(), &"liar".into())
    );
    liar.be(|it| it.silent = false);
    assert_eq!(wait(2)["state"], "resolved");
}

#[test]
fn a_server_that_is_asked_too_often_is_told_once() {
    let stage = Stage::new(&format!(
        "{FINDINGS}match = {{ kind = '*kiss*' }}\n{WEBHOOK}"
    ));
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    let (liar, mut asker) = lying(&stage);
    asker.ask_often(10, Duration::from_millis(20)).unwrap();
    liar.be(|it| (it.stratum, it.reference) = (0, *b"RATE"));
    asker.ask_often(10, Duration::from_millis(20)).unwrap();
    let told = exactly(&receiver, 1).remove(0).json();
    assert_eq!(told["labels"]["server"], Pair::CLIENT, "{told}");
    assert!(told["message"].as_str().unwrap().contains("RATE"), "{told}");
}

#[test]
fn a_sink_that_hangs_and_one_that_fails_hold_up_no_other() {
    let others = "
[[alert.sink]]
name = 'hanging'
kind = 'webhook'
url = 'http://127.0.0.1:9902/'
timeout_seconds = 5

[[alert.sink]]
name = 'failing'
kind = 'slack'
url = 'http://127.0.0.1:9903/'
";
    let stage = Stage::new(&format!("{RULE}{others}{WEBHOOK}"));
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    let hanging = stage.receiver(OTHER, Way::Hang);
    let failing = stage.receiver("127.0.0.1:9903", Way::Answer(500));
    stage.cable("down");
    let fired = exactly(&receiver, 1).remove(0);
    assert!(
        took(&fired, "fired") < IN_TIME,
        "{:?}",
        took(&fired, "fired")
    );
    assert!(!hanging.requests().is_empty() && !failing.requests().is_empty());
    let waiting = stage.get("/deliveries?state=waiting&sink=failing");
    assert!(
        waiting[0]["error"].as_str().unwrap().contains("500"),
        "{waiting}"
    );
    assert!(waiting[0]["next_attempt"].is_string(), "{waiting}");
    let health = Api::of(stage.daemon.as_ref().unwrap(), &stage.pair.server).unwrap();
    let health = health.get("/api/ntp/health").unwrap().success().unwrap();
    let alerts = &health["components"]["alerts"];
    assert!(
        alerts["message"].as_str().unwrap().contains("failing"),
        "{alerts}"
    );
    // Nor is the daemon's end.
    let ended = stage.daemon.unwrap().end(libc::SIGTERM).unwrap();
    assert!(ended.took < Duration::from_secs(5), "{ended:?}");
}

#[test]
fn a_reload_keeps_what_fires_and_ends_what_is_no_longer_asked_for() {
    let mut stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    stage.cable("down");
    let id = stage.wait_for("firing");
    exactly(&receiver, 1);
    let head = "[alert]\ndefault_rules = false\n";
    let more = format!("{head}{RULE}repeat_seconds = 86400\n{WEBHOOK}");
    stage.home.configure(&more).unwrap();
    stage.daemon().signal(libc::SIGHUP).unwrap();
    stage.daemon().wait_for_note("READY=1", 2).unwrap();
    exactly(&receiver, 1);
    assert_eq!(stage.wait_for("firing"), id);
    // What is wrong changes nothing, and says where it is.
    stage
        .home
        .configure(&format!("{head}{RULE}warm = 1\n{WEBHOOK}"))
        .unwrap();
    stage.daemon().signal(libc::SIGHUP).unwrap();
    stage
        .daemon()
        .wait_for_message("alert.rule[1].warm", 1)
        .unwrap();
    assert_eq!(stage.wait_for("firing"), id);
    stage.home.configure(&format!("{head}{WEBHOOK}")).unwrap();
    stage.daemon().signal(libc::SIGHUP).unwrap();
    let requests = exactly(&receiver, 2);
    assert_eq!(requests[1].json()["state"], "resolved");
    let stderr = stage.daemon().stderr();
    assert!(!stderr.contains("topsecret"), "{stderr}");
}

/// A rule on what the cable does, as it is posted.
fn rule(name: &str) -> String {
    json!({"name": name, "quantity": "interface_down", "grace_seconds": 0, "repeat_seconds": 2})
        .to_string()
}

#[test]
fn a_rule_that_is_posted_is_told_again_until_somebody_has_it_and_a_silence_keeps_one_quiet() {
    let stage = Stage::new(WEBHOOK);
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    let api = Api::of(stage.daemon.as_ref().unwrap(), &stage.pair.server).unwrap();
    let post = |path: &str, body: &str| {
        let answer = api.post_json(&format!("/api/ntp/alerts{path}"), body);
        answer.unwrap().success().unwrap()["data"].clone()
    };
    assert_eq!(post("/rules", &rule("loud"))["origin"], "api");
    post("/rules", &rule("quiet"));
    let silence =
        json!({"name": "work", "match": {"alertname": "quiet"}, "comment": "a new cable"});
    assert_eq!(post("/silences", &silence.to_string())["name"], "work");

    stage.cable("down");
    wait_for("it to be told again and again", PATIENCE, || {
        Ok((receiver.requests().len() >= 3).then_some(()))
    })
    .unwrap();
    let firing = stage.get("?state=firing");
    let find = |rule: &str| {
        let mut all = firing.as_array().unwrap().iter();
        all.find(|it| it["rule"] == rule).unwrap()
    };
    let (loud, quiet) = (find("loud"), find("quiet"));
    assert_eq!(
        (&loud["silences"], &loud["told"]),
        (&json!([]), &json!(["ops"]))
    );
    assert_eq!(
        (&quiet["silences"], &quiet["told"]),
        (&json!(["work"]), &json!([]))
    );

    let path = format!("/{}/acknowledge", loud["id"]);
    let had = post(
        &path,
        r#"{"by": "Ada", "comment": "it is I who pulled it"}"#,
    );
    assert_eq!(had["acknowledgement"]["by"], "Ada");
    // What was on its way has arrived.
    thread::sleep(IN_TIME);
    let repeated = receiver.requests().len();
    thread::sleep(QUIET);
    assert_eq!(receiver.requests().len(), repeated);

    stage.cable("up");
    stage.wait_for_rule("resolved", "quiet");
    let requests = exactly(&receiver, repeated + 1);
    let told: Vec<Value> = requests.iter().map(Request::json).collect();
    let events: Vec<_> = told.iter().map(|it| it["event"].clone()).collect();
    let mut expected = vec!["repeated"; repeated + 1];
    (expected[0], expected[repeated]) = ("fired", "resolved");
    assert_eq!(events, expected);
    for it in &told {
        assert_eq!(
            (&it["rule"], &it["alert_id"]),
            (&json!("loud"), &loud["id"])
        );
    }
    // And not each time that somebody looks.
    for pair in requests[..repeated].windows(2) {
        let passed = pair[1].at.duration_since(pair[0].at).unwrap();
        assert!(passed > IN_TIME, "{passed:?}");
    }
    let events = |rule: &str| {
        let history = stage.get(&format!("/history?rule={rule}"));
        let events = history.as_array().unwrap().iter();
        events.map(|it| it["event"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(events("loud"), ["resolved", "acknowledged", "fired"]);
    assert_eq!(events("quiet"), ["resolved", "fired"]);
}

#[test]
fn no_secret_is_shown_and_a_test_message_arrives_or_says_why_not() {
    let stage = Stage::new(&format!("{RULE}{WEBHOOK}"));
    let mut show = run::command(&[]).unwrap();
    show.args(["config", "show", "--config"])
        .arg(stage.home.path("ntpmon.toml"));
    let shown = show.output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("[[alert.sink]]") && shown.contains("http://127.0.0.1:9901/…"),
        "{shown}"
    );
    assert!(!shown.contains("topsecret"), "{shown}");
    let api = Api::of(stage.daemon.as_ref().unwrap(), &stage.pair.server).unwrap();
    let test = || {
        api.post("/api/ntp/alerts/sinks/ops/test")
            .unwrap()
            .success()
            .unwrap()
    };
    let refused = test();
    assert_eq!(refused["data"]["delivered"], false);
    assert!(
        refused["data"]["error"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1:9901"),
        "{refused}"
    );
    let receiver = stage.receiver(HOOK, Way::Answer(200));
    assert_eq!(test()["data"]["delivered"], true);
    assert_eq!(exactly(&receiver, 1)[0].json()["state"], "test");
    for answer in [
        refused,
        test(),
        stage.get("/sinks"),
        stage.get("/deliveries"),
    ] {
        assert!(!answer.to_string().contains("topsecret"), "{answer}");
    }
}

#[test]
fn a_command_gets_the_alert_and_none_of_the_rights_of_the_daemon() {
    let folder = ntpmon_tests::namespace::folder().unwrap();
    let (script, out) = (folder.path().join("script"), folder.path().join("out"));
    let text = format!(
        "#!/bin/sh\ncat > {0}.json\ncat /proc/self/status > {0}\nls /proc/self/fd >> {0}.fd\nmv {0}.json {0}.done\n",
        out.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let sink = format!(
        "[[alert.sink]]\nname = 'run'\nkind = 'command'\ncommand = ['{}']\n",
        script.display()
    );
    let stage = Stage::new(&format!("{RULE}{sink}"));
    stage.cable("down");
    let done = folder.path().join("out.done");
    wait_for("the command", PATIENCE, || Ok(done.exists().then_some(()))).unwrap();
    let told: Value = serde_json::from_str(&fs::read_to_string(&done).unwrap()).unwrap();
    assert_eq!(told["rule"], "down");
    let status = fs::read_to_string(&out).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    // Its own three, and that by which ls looks.
    let descriptors = fs::read_to_string(folder.path().join("out.fd")).unwrap();
    assert_eq!(
        descriptors.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
}

/// Alertmanager has the place of its templates built in, so it runs where its package's is there.
const SCRIPT: &str = "set -e
mount --bind \"$1\" /usr/share
shift
exec \"$@\"";

/// A Prometheus Alertmanager that tells a receiver what it is told.
fn alertmanager(stage: &Stage, folder: &std::path::Path) -> Process {
    let packages = Packages::get().unwrap();
    let path = |path| packages.file("prometheus-alertmanager", path);
    let file = folder.join("alertmanager.yml");
    let configuration = "
route:
  receiver: hook
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: http://127.0.0.1:9902/
        send_resolved: true
";
    fs::write(&file, configuration).unwrap();
    let mut command = stage.pair.server.command("unshare");
    command
        .args(["--mount", "--", "sh", "-c", SCRIPT, "alertmanager"])
        .args([path("usr/share"), path("usr/bin/prometheus-alertmanager")])
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.path={}", folder.join("data").display()))
        .args([
            "--web.listen-address=127.0.0.1:9093",
            "--cluster.listen-address=",
        ]);
    let mut process = Process::start(&mut command).unwrap();
    process
        .wait_until("Listening on", PATIENCE, |it| {
            it.stderr().contains("Listening on")
        })
        .unwrap();
    process
}

#[test]
fn a_real_alertmanager_takes_what_fires_keeps_it_and_takes_that_it_is_over() {
    let sink = "
[[alert.sink]]
name = 'alertmanager'
kind = 'alertmanager'
url = 'http://127.0.0.1:9093'
resend_seconds = 1
";
    let labelled = format!("{RULE}labels = {{ team = 'ntp' }}\n{sink}");
    let stage = Stage::new(&labelled);
    let folder = ntpmon_tests::namespace::folder().unwrap();
    let hook = stage.receiver(OTHER, Way::Answer(200));
    let _alertmanager = alertmanager(&stage, folder.path());
    stage.cable("down");
    stage.wait_for("firing");
    let shown = || -> Value {
        let text = stage
            .pair
            .server
            .run(
                "curl",
                [
                    "--silent",
                    "--noproxy",
                    "*",
                    "http://127.0.0.1:9093/api/v2/alerts",
                ],
            )
            .unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let alert = wait_for("Alertmanager to show it", PATIENCE, || {
        Ok(shown().as_array().and_then(|all| all.first().cloned()))
    })
    .unwrap();
    let labels = &alert["labels"];
    assert_eq!(
        (&labels["alertname"], &labels["severity"]),
        (&"down".into(), &"critical".into())
    );
    assert_eq!(
        (&labels["interface"], &labels["team"]),
        (&Pair::DEVICE.into(), &"ntp".into())
    );
    assert!(
        alert["annotations"]["summary"]
            .as_str()
            .unwrap()
            .contains("[critical] down")
    );
    // Longer than each message holds: it is told again and again.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(shown().as_array().unwrap().len(), 1);
    stage.cable("up");
    stage.wait_for("resolved");
    wait_for("Alertmanager to take it for over", PATIENCE, || {
        Ok(shown().as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .unwrap();
    let requests = wait_for("what Alertmanager tells", PATIENCE, || {
        let requests = hook.requests();
        Ok((requests.len() >= 2).then_some(requests))
    })
    .unwrap();
    let states: Vec<_> = requests
        .iter()
        .map(|it| it.json()["status"].clone())
        .collect();
    assert_eq!(states, ["firing", "resolved"]);
}
