//! Rules, values and messages together, a look at a time, with sinks that only count.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{
    instance::{Acknowledgement, Event, View},
    notice::Notice,
    quantity::{Answer, Quantity, Reading, Sources},
    rule::Rule,
    silence::Silence,
    sink::{Definition, Kind},
    state::{State, Telling},
    *,
};
use crate::{
    history::{self, History},
    outbox::{Deliver, Outbox, Policy, Progress},
};

type Values = Arc<Mutex<Vec<Reading>>>;

/// Alerts that are looked at when a test says so, on offsets of checks and on disks, with one sink
/// whose messages are kept.
struct Stage {
    history: History,
    alerts: Alerts,
    _looker: Looker,
    offsets: Values,
    /// What else is said of them: whether it is known, and the least where there are more.
    rest: Arc<Mutex<(bool, Option<f64>)>>,
    now: Timestamp,
    uptime: Duration,
    sent: Arc<Mutex<Vec<Notice>>>,
}

fn settings(rules: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct Written {
        #[serde(default)]
        rule: Vec<Rule>,
        #[serde(default)]
        silence: Vec<Silence>,
    }
    let written: Written = toml::from_str(rules).unwrap();
    Settings {
        default_rules: false,
        rules: written.rule,
        silences: written.silence,
        sinks: vec![Definition::new("ops", Kind::Log)],
        ..Settings::default()
    }
}

const OFFSET: &str = "[[rule]]\nname = 'offset'\nquantity = 'check_offset'\ngrace_seconds = 0\n";

impl Stage {
    fn open(folder: &Path, settings: Settings) -> Self {
        let of_history = history::Settings {
            flush_interval: Duration::from_secs(3600),
            ..history::Settings::default()
        };
        let history = History::open(folder, of_history).unwrap();
        let outbox = Outbox::open(history.clone(), Handle::current()).unwrap();
        let offsets = Values::default();
        let read = Arc::clone(&offsets);
        let rest = Arc::new(Mutex::new((true, None)));
        let of_rest = Arc::clone(&rest);
        let sources = Sources::default().with(Quantity::CheckOffset, move || {
            let (is_known, least) = *of_rest.lock();
            Answer {
                readings: read.lock().clone(),
                is_known,
                least,
            }
        });
        let (alerts, looker) = Alerts::open(history.clone(), outbox, sources, settings);
        let stage = Self {
            history,
            alerts,
            _looker: looker,
            offsets,
            rest,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            uptime: Duration::ZERO,
            sent: Arc::default(),
        };
        stage.listen();
        stage
    }

    /// Puts the messages of the sink where the test sees them.
    fn listen(&self) {
        let policy = Policy {
            max_age: Duration::from_secs(3600),
            max_attempts: 10,
        };
        let sent = Arc::clone(&self.sent);
        let deliver: Deliver = Arc::new(move |entry| {
            let notices: Vec<Notice> = serde_json::from_str(&entry.body).unwrap();
            sent.lock().extend(notices);
            Ok(())
        });
        self.alerts.outbox().serve("ops", policy, deliver);
    }

    fn configure(&self, settings: Settings) {
        self.alerts.configure(settings);
        self.listen();
    }

    fn set(&self, values: &[(&str, Option<f64>)]) {
        *self.offsets.lock() = values
            .iter()
            .map(|(server, value)| Reading {
                of: [("server", (*server).to_owned())].into(),
                value: *value,
            })
            .collect();
    }

    /// Looks, so many seconds after the last look.
    fn look(&mut self, seconds: u64) {
        self.look_at(seconds, &[]);
    }

    fn look_at(&mut self, seconds: u64, findings: &[Finding]) {
        let elapsed = Duration::from_secs(seconds);
        self.now += elapsed;
        self.uptime += elapsed;
        let engine = &self.alerts.0.engine;
        engine.look(self.now, elapsed, self.uptime, findings);
    }

    /// Looks at one server's value.
    fn at(&mut self, value: f64) {
        self.set(&[("a", Some(value))]);
        self.look(1);
    }

    /// What was told so far, once it has all been delivered.
    async fn told(&self) -> Vec<Telling> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.alerts.outbox().standing("ops").waiting > 0 {
            assert!(Instant::now() < end, "a message does not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.sent.lock().iter().map(|notice| notice.event).collect()
    }

    fn states(&self) -> Vec<(String, State)> {
        let mut states: Vec<_> = self
            .alerts
            .all()
            .into_iter()
            .map(|it| {
                (
                    it.labels.get("server").cloned().unwrap_or_default(),
                    it.state,
                )
            })
            .collect();
        states.sort_by(|one, other| one.0.cmp(&other.0));
        states
    }

    fn only(&self) -> View {
        let all = self.alerts.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    fn events(&self) -> Vec<Event> {
        let records = self.alerts.records(None, 100, |_| true).unwrap();
        records.into_iter().rev().map(|it| it.event).collect()
    }
}

use Telling::{Fired, Resolved};

#[tokio::test(flavor = "multi_thread")]
async fn each_server_has_an_alert_and_two_messages_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.set(&[
        ("a", Some(0.02)),
        ("b", Some(0.0)),
        ("c", None),
        ("d", Some(f64::NAN)),
    ]);
    for _ in 0..5 {
        stage.look(1);
    }
    assert_eq!(stage.states(), [("a".to_owned(), State::Firing)]);
    stage.set(&[
        ("a", Some(0.02)),
        ("b", Some(-0.06)),
        ("c", None),
        ("d", None),
    ]);
    stage.look(1);
    stage.set(&[("a", Some(0.0)), ("b", Some(-0.06))]);
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Fired, Resolved]);
    let sent = stage.sent.lock().clone();
    assert_eq!(sent[0].labels["server"], "a");
    assert!(!sent[0].labels["host"].is_empty());
    assert_eq!(sent[1].labels["server"], "b");
    assert_eq!((sent[1].value, sent[1].level), (Some(-0.06), Some(0.05)));
    assert_eq!(sent[2].alert, sent[0].alert);
    assert_ne!(sent[1].alert, sent[0].alert);
    assert_eq!(
        stage.events(),
        [Event::Fired, Event::Fired, Event::Resolved]
    );
    let view = stage
        .alerts
        .all()
        .into_iter()
        .find(|it| it.state == State::Firing);
    assert_eq!(view.unwrap().told, ["ops"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_and_messages_survive_a_restart_and_none_is_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let id = {
        let mut stage = Stage::open(folder.path(), settings(OFFSET));
        stage.at(0.02);
        assert_eq!(stage.told().await, [Fired]);
        let by = Acknowledgement {
            by: "Ada".to_owned(),
            comment: "I have it".to_owned(),
            at: stage.now,
            until: None,
        };
        let id = stage.only().id;
        stage.alerts.acknowledge(id, by).unwrap();
        stage.alerts.stop();
        stage.alerts.outbox().stop(Duration::from_secs(5)).await;
        stage.history.stop();
        id
    };
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    let view = stage.only();
    assert_eq!((view.id, view.state), (id, State::Firing));
    assert_eq!(view.acknowledgement.unwrap().by, "Ada");
    stage.at(0.02);
    assert_eq!(stage.told().await, []);
    stage.at(0.0);
    assert_eq!(stage.told().await, [Resolved]);
    // Another one has another number.
    stage.at(0.02);
    assert!(stage.only().id > id);
    assert_eq!(stage.told().await, [Resolved, Fired]);
    let events = [
        Event::Fired,
        Event::Acknowledged,
        Event::Resolved,
        Event::Fired,
    ];
    assert_eq!(stage.events(), events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_its_message_are_on_disk_together_before_the_message_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    let history = stage.history.clone();
    let waiting = Arc::new(Mutex::new(None));
    let (seen, policy) = (
        Arc::clone(&waiting),
        Policy {
            max_age: Duration::from_secs(9),
            max_attempts: 1,
        },
    );
    let deliver: Deliver = Arc::new(move |_| {
        // Nothing else writes in this test: what does not wait is written.
        *seen.lock() = Some(history.shelf_changes_waiting());
        Ok(())
    });
    stage.alerts.outbox().serve("ops", policy, deliver);
    stage.at(0.02);
    stage.told().await;
    assert_eq!(*waiting.lock(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_stays_keeps_its_alerts_and_one_that_goes_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.at(0.02);
    let id = stage.only().id;
    let other = "[[rule]]\nname = 'delay'\nquantity = 'check_delay'\nwarn = 1\n";
    stage.configure(settings(&format!("{OFFSET}warn = 0.015\n{other}")));
    stage.look(1);
    assert_eq!((stage.only().id, stage.only().level), (id, Some(0.015)));
    stage.configure(settings(other));
    stage.look(1);
    let view = stage.only();
    assert_eq!(view.state, State::Resolved);
    assert!(view.message.unwrap().contains("not in force"));
    assert_eq!(stage.told().await, [Fired, Resolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_nobody_reports_any_more_is_over_after_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.at(0.02);
    stage.set(&[]);
    stage.look(3000);
    assert_eq!(stage.only().state, State::Firing);
    stage.at(0.02);
    stage.set(&[]);
    stage.look(3000);
    assert_eq!(stage.only().state, State::Firing);
    stage.look(601);
    assert_eq!(stage.only().state, State::Resolved);
    assert_eq!(stage.told().await, [Fired, Resolved]);
    // And is shown for another hour.
    stage.look(3601);
    assert!(stage.alerts.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_in_the_grace_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let rule = OFFSET.replace("grace_seconds = 0", "grace_seconds = 30");
    let mut stage = Stage::open(folder.path(), settings(&rule));
    for _ in 0..29 {
        stage.at(1.0);
    }
    assert!(stage.alerts.all().is_empty());
    stage.at(1.0);
    assert_eq!(stage.only().state, State::Firing);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_data_is_told_of_what_was_there_and_of_nothing_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let rule =
        "[[rule]]\nname = 'lost'\nquantity = 'check_offset'\nno_data = true\ngrace_seconds = 0\n";
    let mut stage = Stage::open(folder.path(), settings(rule));
    stage.look(1);
    let view = stage.only();
    assert_eq!(
        (view.state, view.labels.len(), view.value),
        (State::Firing, 0, None)
    );
    stage.set(&[("a", Some(9.0)), ("b", Some(0.0))]);
    stage.look(1);
    assert_eq!(stage.only().state, State::Resolved);
    // One says that it does not know; the other was taken away.
    stage.set(&[("a", None)]);
    stage.look(1);
    let firing: Vec<_> = stage
        .states()
        .into_iter()
        .filter(|it| it.1 == State::Firing)
        .collect();
    assert_eq!(firing.len(), 1, "{firing:?}");
    // Nobody could find out: neither is anything missing, nor is it there again.
    *stage.rest.lock() = (false, None);
    stage.look(3000);
    *stage.rest.lock() = (true, None);
    stage.set(&[("a", Some(0.0)), ("b", Some(0.0))]);
    stage.look(1);
    let told = stage.told().await;
    assert_eq!(told, [Fired, Resolved, Fired, Resolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_and_was_taken_away_is_over_once_and_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let rule =
        "[[rule]]\nname = 'lost'\nquantity = 'check_offset'\nno_data = true\ngrace_seconds = 0\n";
    let mut stage = Stage::open(folder.path(), settings(rule));
    stage.set(&[("a", Some(0.0)), ("b", Some(0.0))]);
    stage.look(1);
    stage.set(&[("a", None), ("b", Some(0.0))]);
    stage.look(1);
    stage.set(&[("b", Some(0.0))]);
    stage.look(299);
    assert_eq!(stage.told().await, [Fired]);
    stage.look(1);
    for _ in 0..1000 {
        stage.look(3600);
    }
    assert_eq!(stage.told().await, [Fired, Resolved]);
    assert!(stage.alerts.all().is_empty());
    let title = stage.sent.lock()[1].title(notice::Language::En);
    assert!(title.ends_with("nobody reports it any more"), "{title}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_whose_value_stays_unknown_is_over_after_an_hour_unless_nobody_could_find_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.at(0.02);
    stage.set(&[("a", None)]);
    *stage.rest.lock() = (false, None);
    stage.look(36_000);
    *stage.rest.lock() = (true, None);
    stage.look(3599);
    assert_eq!(stage.only().state, State::Firing);
    stage.look(1);
    assert_eq!(stage.only().state, State::Resolved);
    assert!(stage.only().message.unwrap().contains("nothing is known"));
    assert_eq!(stage.told().await, [Fired, Resolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_among_the_worst_any_more_is_well_if_the_least_of_them_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.set(&[("a", Some(0.02)), ("b", Some(0.02))]);
    *stage.rest.lock() = (true, Some(0.02));
    stage.look(1);
    // Others are worse, so nobody knows.
    stage.set(&[("b", Some(0.02))]);
    stage.look(3000);
    assert_eq!(stage.told().await, [Fired, Fired]);
    *stage.rest.lock() = (true, Some(0.001));
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Fired, Resolved]);
    let over = stage.sent.lock()[2].clone();
    assert_eq!(over.labels["server"], "a");
    // It is not said to have the value of another.
    assert_eq!(over.value, Some(0.02));
    assert!(over.message.unwrap().contains("among the worst"));

    // For how long nobody knows has a bound, or those who come and go would all stay.
    *stage.rest.lock() = (true, Some(0.02));
    stage.set(&[("c", Some(0.02))]);
    stage.look(3000);
    assert_eq!(stage.told().await.len(), 4);
    stage.look(3000);
    assert_eq!(stage.told().await[4..], [Resolved]);
    let sent = stage.sent.lock();
    assert_eq!(sent[4].labels["server"], "b");
    assert!(sent[4].message.as_ref().unwrap().contains("nobody reports"));
}

#[tokio::test(flavor = "multi_thread")]
async fn that_nobody_can_be_asked_is_not_that_nobody_reports_anything() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nname = 'missing'\nquantity = 'check_offset'\nno_data = true\n\
                 grace_seconds = 0\n";
    let mut stage = Stage::open(folder.path(), settings(rules));
    stage.set(&[]);
    *stage.rest.lock() = (false, None);
    stage.look(1);
    assert_eq!(stage.told().await, []);
    *stage.rest.lock() = (true, None);
    stage.look(1);
    assert_eq!(stage.told().await, [Fired]);
    *stage.rest.lock() = (false, None);
    stage.look(36_000);
    assert_eq!(stage.told().await, [Fired]);
    *stage.rest.lock() = (true, None);
    stage.at(0.0);
    assert_eq!(stage.told().await, [Fired, Resolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_missing_later_makes_room_for_what_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nname = 'missing'\nquantity = 'check_offset'\nno_data = true\n\
                 grace_seconds = 0\n";
    let mut settings = settings(&format!("{rules}{OFFSET}"));
    settings.max_alerts = 3;
    let mut stage = Stage::open(folder.path(), settings);
    let names = ["a", "b", "c"];
    stage.set(&names.map(|name| (name, Some(0.0))));
    stage.look(1);
    stage.set(&names.map(|name| (name, Some(0.02))));
    stage.look(1);
    assert_eq!(stage.told().await, [Fired; 3]);
    assert_eq!(stage.alerts.all().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_on_something_else_now_ends_what_it_is_not_on_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.set(&[("a", Some(0.02)), ("b", Some(0.02))]);
    stage.look(1);
    stage.configure(settings(&format!("{OFFSET}match = {{ server = 'b' }}")));
    stage.look(1);
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Fired, Resolved]);
    let sent = stage.sent.lock().clone();
    assert_eq!(sent[2].labels["server"], "a");
    assert!(sent[2].message.as_ref().unwrap().contains("was changed"));
    // It is of the same label, and of another quantity.
    let delay = OFFSET.replace("check_offset", "check_delay");
    stage.configure(settings(&format!("{delay}warn = 1")));
    stage.look(1);
    assert_eq!(stage.told().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_an_address_is_over_once_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    stage.at(0.02);
    *stage.offsets.lock() = vec![Reading {
        of: [
            ("server", "a".to_owned()),
            ("address", "192.0.2.1".to_owned()),
        ]
        .into(),
        value: Some(0.0),
    }];
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Resolved]);

    // Also where the address has an alert of its own already.
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    let by_address = |value| Reading {
        of: [
            ("server", "a".to_owned()),
            ("address", "192.0.2.1".to_owned()),
        ]
        .into(),
        value: Some(value),
    };
    *stage.offsets.lock() = vec![by_address(0.02)];
    stage.look(1);
    stage.at(0.02);
    assert_eq!(stage.told().await, [Fired, Fired]);
    *stage.offsets.lock() = vec![by_address(0.02)];
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Fired, Resolved]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_is_judged_before_who_is_slow_is_asked_and_remembered_as_judged() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!("{OFFSET}[[rule]]\nname = 'all'\nquantity = 'finding'\n");
    let mut stage = Stage::open(folder.path(), settings(&rules));
    assert_eq!(stage.alerts.last_finding(), None);
    // Whoever asks for offsets waits for this.
    let (offsets, sent) = (Arc::clone(&stage.offsets), Arc::clone(&stage.sent));
    let (locked, is_locked) = sync_channel(1);
    let waiter = thread::spawn(move || {
        let held = offsets.lock();
        locked.send(()).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while sent.lock().is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let told = sent.lock().len();
        drop(held);
        told
    });
    is_locked.recv().unwrap();
    let finding = Finding {
        number: 41,
        labels: vec![("kind", "offset_step".to_owned())],
        message: "its clock was stepped".to_owned(),
    };
    stage.look_at(1, &[finding]);
    assert_eq!(waiter.join().unwrap(), 1, "told while the other hangs");
    assert_eq!(stage.alerts.last_finding(), Some(41));
    stage.history.stop();
    let stage = Stage::open(folder.path(), settings(&rules));
    assert_eq!(stage.alerts.last_finding(), Some(41));
    assert_eq!(stage.alerts.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_is_told_with_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let rule = "[[rule]]\nname = 'steps'\nquantity = 'finding'\nquiet_seconds = 60\n\
                match = { kind = '*_step', server = '!192.0.2.9' }\nseverity = 'critical'\n";
    let mut stage = Stage::open(folder.path(), settings(rule));
    let finding = |kind: &str, server: &str| Finding {
        number: 0,
        labels: vec![("kind", kind.to_owned()), ("server", server.to_owned())],
        message: "its clock was stepped".to_owned(),
    };
    let findings = [
        finding("offset_step", "192.0.2.1"),
        finding("offset_step", "192.0.2.1"),
        finding("offset_step", "192.0.2.9"),
        finding("leap_changed", "192.0.2.1"),
    ];
    stage.look_at(1, &findings);
    let view = stage.only();
    assert_eq!((view.state, view.value), (State::Firing, Some(2.0)));
    assert_eq!(view.message.as_deref(), Some("its clock was stepped"));
    stage.look(59);
    assert_eq!(stage.only().state, State::Firing);
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Resolved]);
    let sent = stage.sent.lock().clone();
    assert_eq!(sent[0].message.as_deref(), Some("its clock was stepped"));
    assert_eq!(sent[0].labels["kind"], "offset_step");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_holds_back_what_it_fits_and_lets_it_go_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    let until = stage.now + Duration::from_secs(10);
    let silence: Silence = toml::from_str(&format!(
        "name = 'work'\nmatch = {{ alertname = 'offset', server = 'a' }}\nuntil = '{until}'"
    ))
    .unwrap();
    stage.alerts.set_silence(silence.clone(), false).unwrap();
    stage.set(&[("a", Some(0.02)), ("b", Some(0.02))]);
    stage.look(1);
    let sent: Vec<_> = {
        stage.told().await;
        let sent = stage.sent.lock();
        sent.iter().map(|it| it.labels["server"].clone()).collect()
    };
    assert_eq!(sent, ["b"]);
    stage.look(8);
    assert_eq!(stage.told().await.len(), 1);
    stage.look(2);
    stage.look(1);
    assert_eq!(stage.told().await, [Fired, Fired]);
    let again = stage.alerts.set_silence(silence, false);
    assert_eq!(again, Err(Refusal::Exists("silence", "work".to_owned())));
    stage.alerts.remove_silence("work").unwrap();
    let again = stage.alerts.remove_silence("work");
    assert_eq!(again, Err(Refusal::Unknown("silence", "work".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_silences_of_the_api_survive_and_never_take_the_place_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let own: Rule = toml::from_str("name = 'own'\nquantity = 'check_delay'\nwarn = 1").unwrap();
    {
        let stage = Stage::open(folder.path(), settings(OFFSET));
        stage.alerts.set_rule(own.clone(), false).unwrap();
        let again = stage.alerts.set_rule(own.clone(), false);
        assert_eq!(again, Err(Refusal::Exists("rule", "own".to_owned())));
        let mut configured = own.clone();
        configured.name = "offset".to_owned();
        for replace in [true, false] {
            let refused = stage.alerts.set_rule(configured.clone(), replace);
            assert_eq!(
                refused,
                Err(Refusal::Configured("rule", "offset".to_owned()))
            );
        }
        let refused = stage.alerts.remove_rule("offset");
        assert_eq!(
            refused,
            Err(Refusal::Configured("rule", "offset".to_owned()))
        );
        stage
            .alerts
            .set_silence(toml::from_str("name = 'quiet'").unwrap(), false)
            .unwrap();
        assert_eq!(stage.alerts.health().rules_told_nowhere, [""; 0]);
        stage.history.stop();
    }
    let stage = Stage::open(folder.path(), settings(OFFSET));
    let rules = stage.alerts.rules();
    let names: Vec<_> = rules
        .iter()
        .map(|it| (it.name.as_str(), it.origin))
        .collect();
    assert_eq!(
        names,
        [("offset", Origin::Configuration), ("own", Origin::Api)]
    );
    assert_eq!(rules[1].definition, own);
    assert!(stage.alerts.silences()[0].active);
    assert_eq!(stage.alerts.health().rules_told_nowhere, [""; 0]);
    let mut lost = own.clone();
    lost.sinks = Some(vec!["gone".to_owned()]);
    stage.alerts.set_rule(lost, true).unwrap();
    assert_eq!(stage.alerts.health().rules_told_nowhere, ["own"]);
    stage.alerts.remove_rule("own").unwrap();
    assert_eq!(stage.alerts.rules().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_rule_can_be_replaced_and_is_back_when_that_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::open(folder.path(), Settings::default());
    assert_eq!(stage.alerts.rules().len(), Rule::defaults().len());
    let mut rule = Rule::new("disk-free", Quantity::DiskFree);
    rule.enabled = false;
    stage.alerts.set_rule(rule, true).unwrap();
    let find = || {
        let mut rules = stage.alerts.rules().into_iter();
        rules.find(|it| it.name == "disk-free").unwrap()
    };
    assert_eq!(
        (find().origin, find().definition.enabled),
        (Origin::Api, false)
    );
    stage.alerts.remove_rule("disk-free").unwrap();
    assert_eq!(
        (find().origin, find().definition.enabled),
        (Origin::Default, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_beyond_the_bound_are_counted_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let bound = Settings {
        max_alerts: 100,
        ..settings(OFFSET)
    };
    let mut stage = Stage::open(folder.path(), bound);
    let names: Vec<String> = (0..150).map(|number| format!("{number:03}")).collect();
    let values: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Some(1.0)))
        .collect();
    stage.set(&values);
    stage.look(1);
    assert_eq!(stage.alerts.health().firing, 100);
    stage.look(1);
    assert_eq!(stage.alerts.health().alerts_refused, 50, "each once");
    assert_eq!(stage.told().await.len(), 100);
    // What is over makes room.
    let values: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(number, (name, _))| (*name, Some(if number < 60 { 0.0 } else { 1.0 })))
        .collect();
    stage.set(&values);
    stage.look(1);
    stage.look(1);
    assert_eq!(stage.alerts.health().firing, 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fires_and_how_often_is_counted_by_rule() {
    let folder = tempfile::tempdir().unwrap();
    let other = "[[rule]]\nname = 'delay'\nquantity = 'check_delay'\nwarn = 1\n\
                 [[rule]]\nname = 'off'\nquantity = 'check_delay'\nwarn = 1\nenabled = false\n";
    let all = settings(&format!("{OFFSET}{other}"));
    let mut stage = Stage::open(folder.path(), all.clone());
    let told = |stage: &Stage| {
        let (rules, left_out) = stage.alerts.figures(10);
        let of = |it: &RuleFigures| (it.firing.map(|it| it.1), it.fired, it.resolved);
        let told: Vec<_> = rules.iter().map(|it| (it.rule.clone(), of(it))).collect();
        (told, left_out)
    };
    let offset = |of| {
        (
            vec![
                ("offset".to_owned(), of),
                ("delay".to_owned(), ([0, 0], 0, 0)),
            ],
            0,
        )
    };
    assert_eq!(told(&stage), offset(([0, 0], 0, 0)));
    stage.set(&[("a", Some(0.02)), ("b", Some(1.0))]);
    stage.look(1);
    assert_eq!(told(&stage), offset(([1, 1], 2, 0)));
    stage.set(&[("a", Some(0.0)), ("b", Some(1.0))]);
    stage.look(1);
    assert_eq!(told(&stage), offset(([0, 1], 2, 1)));
    // Worse is not once more.
    stage.set(&[("a", Some(0.02)), ("b", Some(0.0))]);
    stage.look(1);
    stage.set(&[("a", Some(1.0)), ("b", Some(0.0))]);
    stage.look(1);
    assert_eq!(told(&stage), offset(([0, 1], 3, 2)));
    assert_eq!(stage.alerts.figures(1).1, 1);
    // What is not in force any more is forgotten after a while.
    stage.configure(settings(other));
    stage.look(1);
    stage.look(3600);
    assert_eq!(stage.alerts.figures(0).1, 1);
    stage.configure(all);
    assert_eq!(told(&stage), offset(([0, 0], 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fires_is_told_to_a_sink_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let without = Settings {
        sinks: Vec::new(),
        ..settings(OFFSET)
    };
    let mut stage = Stage::open(folder.path(), without);
    stage.alerts.configure(Settings {
        sinks: Vec::new(),
        ..settings(OFFSET)
    });
    stage.at(0.02);
    assert_eq!(stage.only().state, State::Firing);
    stage.configure(settings(OFFSET));
    stage.at(0.02);
    assert_eq!(stage.told().await, [Fired]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_an_alert_that_does_not_fire_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::open(folder.path(), settings(OFFSET));
    let by = |stage: &Stage| Acknowledgement {
        by: "Ada".to_owned(),
        comment: String::new(),
        at: stage.now,
        until: Some(stage.now + Duration::from_secs(5)),
    };
    let unknown = stage.alerts.acknowledge(7, by(&stage)).unwrap_err();
    assert_eq!(unknown, Refusal::Unknown("alert", "7".to_owned()));
    stage.at(0.02);
    stage.at(0.0);
    let id = stage.only().id;
    let over = stage.alerts.acknowledge(id, by(&stage)).unwrap_err();
    assert_eq!(over, Refusal::NotFiring(id, "resolved"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_tried_without_anything_coming_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::open(folder.path(), settings(OFFSET));
    stage.set(&[("a", Some(0.06)), ("b", Some(f64::NAN))]);
    let rule = &stage.alerts.rules()[0].definition;
    let verdicts = stage.alerts.judge(rule);
    assert_eq!(verdicts[0].severity, Some(Severity::Critical));
    assert_eq!((verdicts[1].value, verdicts[1].severity), (None, None));
    assert!(stage.alerts.all().is_empty());
    let tested = stage.alerts.test(Some(rule), None).unwrap();
    assert!(tested[0].delivered && tested[0].sink == "ops");
    let unknown = stage.alerts.test(None, Some("nowhere")).unwrap_err();
    assert_eq!(unknown, Refusal::Unknown("sink", "nowhere".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_looks_by_itself_at_once_when_something_is_found_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let rule = "[[rule]]\nname = 'all'\nquantity = 'finding'\n";
    let stage = Stage::open(folder.path(), settings(rule));
    let Stage {
        alerts,
        _looker,
        sent,
        history,
        ..
    } = stage;
    alerts.start(_looker).unwrap();
    assert!(alerts.health().is_alive);
    let begun = Instant::now();
    alerts.tell(Finding {
        number: 7,
        labels: vec![("kind", "offset_step".to_owned())],
        message: "é".repeat(1000),
    });
    while sent.lock().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("from the finding to the sink: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(sent.lock()[0].message.as_ref().unwrap().len() <= 1000);
    alerts.stop();
    assert!(!alerts.health().is_alive);
    let _ = alerts
        .outbox()
        .deliveries(None, Some(Progress::Delivered), None, 9)
        .unwrap();
    history.stop();
}
