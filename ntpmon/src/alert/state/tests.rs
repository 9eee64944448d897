//! Every way through the life of an alert.

use super::*;

const OFFSET: &str = "name = 'offset'\nquantity = 'check_offset'\n";

/// A life under a rule, a second at a time unless told otherwise.
struct Stage {
    rule: Rule,
    life: Life,
    now: Timestamp,
    grace: bool,
    silent: bool,
    acknowledged: bool,
    told: Vec<Telling>,
}

impl Stage {
    fn new(rule: &str) -> Self {
        let rule: Rule = toml::from_str(rule).unwrap();
        assert_eq!((rule.wrong_keys(), rule.conflicts()), (vec![], vec![]));
        Self {
            rule,
            life: Life::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            grace: false,
            silent: false,
            acknowledged: false,
            told: Vec::new(),
        }
    }

    fn after(&mut self, seconds: f64, seen: Seen) -> Option<Transition> {
        let elapsed = Duration::from_secs_f64(seconds);
        self.now += elapsed;
        let moment = Moment {
            now: self.now,
            elapsed,
            grace: self.grace,
            is_young: false,
        };
        let transition = self.life.step(&self.rule, seen, moment);
        let telling = self.life.tell(&self.rule, self.silent, self.acknowledged);
        self.told.extend(telling);
        transition
    }

    fn value(&mut self, value: f64) -> Option<Transition> {
        self.after(1.0, Seen::Value(Some(value)))
    }

    /// The life as a daemon that was killed and started again finds it.
    fn restart(&mut self) {
        let text = serde_json::to_vec(&self.life).unwrap();
        let read: Life = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, self.life);
        self.life = read;
    }
}

use Telling::{Escalated, Fired, Repeated, Resolved};

#[test]
fn one_message_when_it_fires_and_one_when_it_is_over() {
    let mut stage = Stage::new(OFFSET);
    assert_eq!(stage.value(0.001), None);
    assert_eq!(stage.value(0.02), Some(Transition::Fired));
    assert_eq!(stage.life.severity, Severity::Warn);
    for _ in 0..1000 {
        assert_eq!(stage.value(0.02), None);
    }
    assert_eq!(stage.value(0.001), Some(Transition::Resolved));
    assert_eq!(stage.value(0.001), None);
    assert_eq!(stage.told, [Fired, Resolved]);
    assert_eq!(stage.life.state, State::Resolved);
    assert!(stage.life.fired.unwrap() < stage.life.resolved.unwrap());
}

#[test]
fn an_alert_fires_again_after_it_was_over() {
    let mut stage = Stage::new(OFFSET);
    for _ in 0..3 {
        assert_eq!(stage.value(-0.06), Some(Transition::Fired));
        assert_eq!(stage.life.severity, Severity::Critical);
        assert_eq!(stage.value(0.0), Some(Transition::Resolved));
    }
    assert_eq!(stage.told, [Fired, Resolved].repeat(3));
}

#[test]
fn it_has_to_be_bad_for_long_enough_without_a_break() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 3"));
    assert_eq!(stage.value(0.02), Some(Transition::Pending));
    assert_eq!(stage.value(0.02), None);
    assert_eq!(stage.value(0.02), None);
    assert_eq!(stage.value(0.005), Some(Transition::Calmed));
    assert_eq!(stage.life.state, State::Ok);
    assert_eq!(stage.value(0.02), Some(Transition::Pending));
    let began = stage.now;
    stage.value(0.02);
    stage.value(0.02);
    assert!(stage.told.is_empty());
    assert_eq!(stage.value(0.02), Some(Transition::Fired));
    assert_eq!(stage.life.began, Some(began));
    assert_eq!(stage.told, [Fired]);
}

#[test]
fn a_single_spike_between_good_values_is_no_alarm() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 1"));
    for _ in 0..100 {
        stage.value(1e9);
        stage.value(0.0);
    }
    assert!(stage.told.is_empty());
}

#[test]
fn a_value_near_the_level_does_not_flap() {
    let mut stage = Stage::new(OFFSET);
    stage.value(0.0101);
    for _ in 0..100 {
        assert_eq!(stage.value(0.0099), None);
        assert_eq!(stage.value(0.0101), None);
    }
    // Nine tenths of the level is back far enough.
    assert_eq!(stage.value(0.009), Some(Transition::Resolved));
    assert_eq!(stage.value(0.0099), None);
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn what_is_missing_or_no_number_neither_fires_nor_ends_anything() {
    let nothing = [
        None,
        Some(f64::NAN),
        Some(f64::INFINITY),
        Some(f64::NEG_INFINITY),
    ];
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 3"));
    for value in nothing {
        assert_eq!(stage.after(100.0, Seen::Value(value)), None);
        assert_eq!(stage.life.state, State::Ok);
    }
    stage.value(0.06);
    for value in nothing {
        // Nor does time count in which nothing was known.
        assert_eq!(stage.after(100.0, Seen::Value(value)), None);
        assert_eq!(stage.life.state, State::Pending);
    }
    stage.after(3.0, Seen::Value(Some(0.06)));
    assert_eq!(stage.life.state, State::Firing);
    for value in nothing {
        assert_eq!(stage.after(1e6, Seen::Value(value)), None);
        assert_eq!(stage.life.state, State::Firing);
    }
    assert_eq!(stage.life.value, Some(0.06));
    assert_eq!(stage.told, [Fired]);
}

#[test]
fn nothing_begins_to_be_bad_right_after_the_start_and_what_fires_goes_on() {
    let mut stage = Stage::new(OFFSET);
    stage.grace = true;
    for _ in 0..100 {
        assert_eq!(stage.value(1.0), None);
    }
    assert_eq!(stage.life.state, State::Ok);
    stage.grace = false;
    assert_eq!(stage.value(1.0), Some(Transition::Fired));
    stage.grace = true;
    stage.restart();
    assert_eq!(stage.value(1.0), None);
    assert_eq!(stage.life.state, State::Firing);
    assert_eq!(stage.value(0.0), Some(Transition::Resolved));
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn what_had_begun_to_be_bad_before_a_start_waits_for_the_grace_to_end_and_goes_on() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 10"));
    assert_eq!(stage.value(1.0), Some(Transition::Pending));
    let began = stage.life.began;
    assert_eq!(stage.after(8.0, Seen::Value(Some(1.0))), None);
    stage.restart();
    stage.grace = true;
    for _ in 0..100 {
        assert_eq!(stage.value(1.0), None);
    }
    assert_eq!(stage.life.state, State::Pending);
    stage.grace = false;
    assert_eq!(stage.value(1.0), None);
    assert_eq!(stage.value(1.0), Some(Transition::Fired));
    assert_eq!(stage.life.began, began);

    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 10"));
    stage.value(1.0);
    stage.grace = true;
    assert_eq!(stage.value(0.0), Some(Transition::Calmed));
    assert_eq!(stage.value(1.0), None);
    assert_eq!(stage.life.state, State::Ok);
    assert_eq!(stage.told, []);
}

#[test]
fn becoming_critical_is_told_once_however_often_it_comes_and_goes_and_only_where_that_is_wanted() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 1\nescalate = true"));
    for value in [0.02, 0.02, 0.06] {
        stage.value(value);
    }
    assert_eq!(
        stage.life.severity,
        Severity::Warn,
        "a spike is no escalation"
    );
    assert_eq!(stage.value(0.06), Some(Transition::Escalated));
    for _ in 0..10 {
        assert_eq!(stage.value(0.046), None, "not far enough back");
        assert_eq!(stage.value(0.03), Some(Transition::Eased));
        assert_eq!(stage.life.severity, Severity::Warn);
        stage.value(0.06);
        assert_eq!(stage.value(0.06), Some(Transition::Escalated));
    }
    assert_eq!(stage.value(0.001), Some(Transition::Resolved));
    assert_eq!(stage.told, [Fired, Escalated, Resolved]);
    let mut stage = Stage::new(OFFSET);
    for value in [0.02, 0.06, 0.03, 0.06, 0.0] {
        stage.value(value);
    }
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn what_is_critical_for_long_enough_at_once_fires_as_that() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 2"));
    for value in [0.06, 0.06, 0.06] {
        stage.value(value);
    }
    assert_eq!(stage.life.severity, Severity::Critical);
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 2\nescalate = true"));
    for value in [0.02, 0.06, 0.06] {
        stage.value(value);
    }
    assert_eq!(stage.life.severity, Severity::Warn);
    assert_eq!(stage.value(0.06), Some(Transition::Escalated));
    assert_eq!(stage.told, [Fired, Escalated]);
}

#[test]
fn it_is_told_again_only_where_that_is_asked_for_and_not_once_somebody_has_it() {
    let mut stage = Stage::new(&format!("{OFFSET}repeat_seconds = 10"));
    for _ in 0..25 {
        stage.value(0.02);
    }
    assert_eq!(stage.told, [Fired, Repeated, Repeated]);
    // That it became worse is told when it would have been told again.
    for _ in 0..10 {
        stage.value(0.06);
    }
    assert_eq!(stage.told.len(), 4);
    assert_eq!(stage.told[3], Escalated);
    let mut stage = Stage::new(&format!("{OFFSET}repeat_seconds = 10\nescalate = true"));
    for _ in 0..25 {
        stage.value(0.02);
    }
    stage.acknowledged = true;
    for _ in 0..25 {
        stage.value(0.02);
    }
    assert_eq!(stage.told.len(), 3);
    // Worse is news, also to who has it.
    stage.value(0.06);
    stage.value(0.0);
    assert_eq!(stage.told, [Fired, Repeated, Repeated, Escalated, Resolved]);
}

#[test]
fn a_silence_that_ends_while_it_fires_lets_it_be_told_once() {
    let mut stage = Stage::new(OFFSET);
    stage.silent = true;
    stage.value(0.02);
    stage.value(0.06);
    assert!(stage.told.is_empty());
    assert_eq!(stage.life.state, State::Firing);
    stage.silent = false;
    stage.value(0.06);
    stage.value(0.06);
    stage.value(0.0);
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn what_begins_and_ends_in_a_silence_is_never_told() {
    let mut stage = Stage::new(OFFSET);
    stage.silent = true;
    stage.value(0.02);
    stage.value(0.0);
    stage.silent = false;
    stage.value(0.0);
    assert!(stage.told.is_empty());
}

#[test]
fn that_it_is_over_is_told_in_a_silence_to_who_was_called() {
    let mut stage = Stage::new(&format!("{OFFSET}repeat_seconds = 1"));
    stage.value(0.02);
    stage.silent = true;
    stage.value(0.02);
    stage.value(0.06);
    stage.value(0.0);
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn a_restart_neither_forgets_nor_tells_again() {
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 2"));
    for value in [0.02, 0.02, 0.02, 0.02, 0.0] {
        stage.restart();
        stage.value(value);
        stage.restart();
    }
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn missing_data_is_a_rule_of_its_own() {
    let mut stage = Stage::new(
        "name = 'a'\nquantity = 'check_offset'\nno_data = true\nfor_seconds = 2\nseverity = 'critical'",
    );
    assert_eq!(stage.after(1.0, Seen::Missing(false)), None);
    assert_eq!(
        stage.after(1.0, Seen::Missing(true)),
        Some(Transition::Pending)
    );
    assert_eq!(stage.after(1.0, Seen::Missing(true)), None);
    assert_eq!(
        stage.after(1.0, Seen::Missing(true)),
        Some(Transition::Fired)
    );
    assert_eq!(stage.life.severity, Severity::Critical);
    assert_eq!(
        stage.after(1.0, Seen::Missing(false)),
        Some(Transition::Resolved)
    );
    assert_eq!(stage.told, [Fired, Resolved]);
}

#[test]
fn a_finding_fires_at_once_and_is_over_when_nothing_more_is_found() {
    let mut stage = Stage::new("name = 'a'\nquantity = 'finding'\nquiet_seconds = 10");
    stage.grace = true;
    assert_eq!(stage.after(1.0, Seen::Found(0)), None);
    assert_eq!(stage.after(1.0, Seen::Found(1)), Some(Transition::Fired));
    for _ in 0..9 {
        assert_eq!(stage.after(1.0, Seen::Found(0)), None);
    }
    assert_eq!(stage.after(1.0, Seen::Found(2)), None);
    assert_eq!(stage.life.value, Some(3.0));
    for _ in 0..9 {
        assert_eq!(stage.after(1.0, Seen::Found(0)), None);
    }
    assert_eq!(stage.after(1.0, Seen::Found(0)), Some(Transition::Resolved));
    assert_eq!(stage.after(1.0, Seen::Found(1)), Some(Transition::Fired));
    assert_eq!(stage.told, [Fired, Resolved, Fired]);
}

#[test]
fn one_whose_rule_is_gone_is_over_and_that_is_told_if_it_was() {
    let mut stage = Stage::new(OFFSET);
    stage.value(0.02);
    assert_eq!(stage.life.end(stage.now), Some(Transition::Resolved));
    assert_eq!(stage.life.tell(&stage.rule, true, true), Some(Resolved));
    assert_eq!(stage.life.end(stage.now), None);
    let mut stage = Stage::new(&format!("{OFFSET}for_seconds = 9"));
    stage.value(0.02);
    assert_eq!(stage.life.end(stage.now), Some(Transition::Calmed));
    assert_eq!(stage.life.tell(&stage.rule, false, false), None);
}

#[test]
fn what_is_over_is_shown_for_a_while_and_then_forgotten() {
    let mut stage = Stage::new(OFFSET);
    assert!(stage.life.is_past());
    stage.value(0.02);
    assert!(!stage.life.is_past());
    stage.value(0.0);
    assert!(!stage.life.is_past());
    stage.after(SHOWN_AFTER.as_secs_f64() - 1.0, Seen::Value(None));
    assert!(!stage.life.is_past());
    stage.life.wait(Duration::from_secs(1));
    assert!(stage.life.is_past());
}

/// Whatever comes: between a message that it fired and the next one lies one that it is over, and
/// it fires only on a value that is past a level.
#[test]
fn messages_alternate_whatever_the_values_are() {
    let values = [
        0.0,
        0.009,
        0.0095,
        0.011,
        0.04,
        0.046,
        0.051,
        -0.02,
        -1e9,
        f64::NAN,
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for rule in [
        "",
        "escalate = true",
        "for_seconds = 2\nescalate = true",
        "recover_ratio = 1",
        "critical = 0.02",
    ] {
        let mut stage = Stage::new(&format!("{OFFSET}{rule}"));
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let value = values[(random % values.len() as u64) as usize];
            stage.silent = random >> 40 & 7 == 0;
            if random >> 50 & 15 == 0 {
                stage.restart();
            }
            let transition = stage.value(value);
            if transition == Some(Transition::Fired) {
                assert!(stage.rule.judge(value.abs()).is_some(), "{value}");
            }
        }
        let mut told = None;
        for telling in &stage.told {
            match telling {
                Fired => assert!(matches!(told, None | Some(Resolved))),
                Escalated => assert_eq!(told, Some(Fired)),
                Resolved => assert!(matches!(told, Some(Fired | Escalated))),
                other => panic!("{other:?}"),
            }
            told = Some(*telling);
        }
        assert!(stage.told.len() > 100);
    }
}
