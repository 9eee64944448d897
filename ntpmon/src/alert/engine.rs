//! Looks at the rules: values in, alerts and messages out. What a look changes is put down in one
//! piece, alerts and the messages about them, and is on disk before a message leaves.

mod figures;
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use self::figures::Tally;
use super::{
    Finding, Origin, Settings,
    instance::{Alert, Event},
    matcher::Labels,
    notice::{Notice, ended},
    quantity::{Answer, Quantity, Sources},
    remember::Memory,
    rule::Rule,
    sight::{self, Sight},
    silence::Silence,
    sink,
    state::{Moment, Seen, State, Telling, Transition},
};
use crate::{
    history::{History, shelf::Change},
    outbox::{Outbox, Promise},
};

/// How long messages wait for the disk: a second after a change they are to be gone.
const PATIENCE: Duration = Duration::from_millis(600);
/// An alert that nobody reports any more, as when its check was removed, is over after that.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// What somebody took away is not missing: nothing is told of it, and what was told is over after
/// that.
const GONE: Duration = Duration::from_secs(300);
/// For so long after a start not all report that did before: a server may be asked each 1024 s, and
/// its reach is known after the fourth time.
const YOUNG: Duration = Duration::from_secs(4200);
/// How often what is old is removed.
const TIDY: Duration = Duration::from_secs(3600);
/// So many rules, and so many silences, can be made over the API.
const MOST: usize = 1000;

/// What is behind [`super::Alerts`].
pub(super) struct Engine {
    sources: Sources,
    memory: Memory,
    outbox: Outbox,
    host: String,
    inner: Mutex<Inner>,
}

struct Inner {
    settings: Settings,
    /// Those of the API.
    own_rules: Vec<Rule>,
    own_silences: Vec<Silence>,
    alerts: BTreeMap<Place, Alert>,
    /// How many values each rule looked at last.
    readings: BTreeMap<String, usize>,
    /// What became of each rule's alerts.
    tallies: BTreeMap<String, Tally>,
    refused: u64,
    /// For so many there was no room at the last look.
    refused_now: u64,
    /// Since alerts were sent again to each Alertmanager.
    since_sent: BTreeMap<String, Duration>,
    since_tidied: Duration,
}

/// The rule, and of what.
type Place = (String, Labels);

/// What a look makes.
#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    promises: Vec<Promise>,
    /// For so many values there was no room.
    refused: u64,
    has_made_room: bool,
}

impl Engine {
    pub(super) fn open(
        history: History,
        outbox: Outbox,
        sources: Sources,
        settings: Settings,
    ) -> Self {
        let memory = Memory::open(history);
        let alerts = memory.alerts().into_iter();
        let alerts = alerts.map(|it| ((it.rule.name.clone(), it.labels.clone()), it));
        let engine = Self {
            sources,
            outbox,
            host: host(),
            inner: Mutex::new(Inner {
                settings: Settings::default(),
                own_rules: memory.rules(),
                own_silences: memory.silences(),
                alerts: alerts.collect(),
                readings: BTreeMap::new(),
                tallies: BTreeMap::new(),
                refused: 0,
                refused_now: 0,
                since_sent: BTreeMap::new(),
                since_tidied: Duration::ZERO,
            }),
            memory,
        };
        engine.configure(settings);
        engine
    }

    /// The number of the last finding that was judged in an earlier life.
    pub(super) fn last_finding(&self) -> Option<u64> {
        self.memory.last_finding()
    }

    pub(super) const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn configure(&self, settings: Settings) {
        for sink in &settings.sinks {
            let (policy, deliverer) = (sink.policy(), sink.clone());
            let deliver = std::sync::Arc::new(move |entry: &_| deliverer.deliver(entry));
            self.outbox.serve(&sink.name, policy, deliver);
        }
        let names: Vec<&str> = settings.sinks.iter().map(|it| it.name.as_str()).collect();
        self.outbox.keep_only(&names);
        let mut inner = self.inner.lock();
        for rule in inner
            .own_rules
            .iter()
            .filter(|it| is_told_nowhere(it, &settings))
        {
            let name = &rule.name;
            tracing::warn!(
                "the rule {name} of the API is told nowhere: none of its sinks is there"
            );
        }
        for rule in &inner.own_rules {
            if settings.rules.iter().any(|it| it.name == rule.name) {
                let name = &rule.name;
                tracing::warn!("the rule {name} of the configuration counts, not that of the API");
            }
        }
        inner.settings = settings;
    }

    /// Looks at every rule.
    pub(super) fn look(
        &self,
        now: Timestamp,
        elapsed: Duration,
        uptime: Duration,
        findings: &[Finding],
    ) {
        let rules: Vec<Rule> = {
            let rules = self.inner.lock().all_rules().into_iter();
            rules
                .map(|(rule, _)| rule)
                .filter(|it| it.enabled)
                .collect()
        };
        let (on_findings, on_values): (Vec<Rule>, Vec<Rule>) = rules
            .into_iter()
            .partition(|rule| rule.quantity == Quantity::Finding);
        let moment = |rule: &Rule| Moment {
            now,
            elapsed,
            grace: uptime < rule.grace,
            is_young: uptime < YOUNG,
        };
        // What was found is told at once: who says what the values are may take a moment.
        self.change(|inner, outcome| {
            let nothing = Answer::from(Vec::new());
            for rule in &on_findings {
                let seen = Sight::of_findings(rule, findings);
                self.follow(inner, rule, &nothing, seen, moment(rule), outcome);
            }
            if let Some(last) = findings.iter().map(|it| it.number).max() {
                outcome.changes.extend(self.memory.judged(last));
            }
        });
        // Nothing is held meanwhile.
        let quantities: BTreeSet<Quantity> = on_values.iter().map(|it| it.quantity).collect();
        let answers: BTreeMap<Quantity, Answer> = quantities
            .into_iter()
            .map(|quantity| (quantity, self.sources.read(quantity)))
            .collect();
        self.change(|inner, outcome| {
            for rule in &on_values {
                if let Some(answer) = answers.get(&rule.quantity) {
                    let has_alerts = inner.alerts_of(&rule.name).next().is_some();
                    let seen = Sight::of_values(rule, answer, has_alerts);
                    self.follow(inner, rule, answer, seen, moment(rule), outcome);
                }
            }
            let rules: Vec<&Rule> = on_findings.iter().chain(&on_values).collect();
            self.end_others(inner, &rules, now, elapsed, outcome);
            inner.alerts.retain(|_, alert| {
                let is_past = alert.life.is_past() && !is_expected(alert);
                if is_past && alert.id != 0 {
                    outcome.changes.push(self.memory.without(alert));
                }
                !is_past
            });
            // One for which there is no room is counted once, however often it is looked at.
            inner.refused += outcome.refused.saturating_sub(inner.refused_now);
            inner.refused_now = outcome.refused;
        });
        self.send_again(elapsed);
        self.tidy(now, elapsed);
    }

    /// Changes alerts, puts all of it down in one piece, and then lets go what is to be told.
    fn change(&self, change: impl FnOnce(&mut Inner, &mut Outcome)) {
        let mut outcome = Outcome::default();
        {
            let mut inner = self.inner.lock();
            change(&mut inner, &mut outcome);
            if !self.memory.put(outcome.changes) {
                tracing::error!(
                    "the history takes no more that waits to be written: what became of alerts is \
                     known until ntpmon ends"
                );
            }
        }
        if !outcome.promises.is_empty() {
            // Either it is on disk, or it cannot be: then it is told all the same.
            let _ = self.outbox.settle(PATIENCE);
            self.outbox.release(outcome.promises);
        }
    }

    /// What a rule saw becomes of its alerts.
    fn follow(
        &self,
        inner: &mut Inner,
        rule: &Rule,
        answer: &Answer,
        Sight { mut seen, reported }: Sight,
        moment: Moment,
        outcome: &mut Outcome,
    ) {
        inner.readings.insert(rule.name.clone(), reported);
        if rule.no_data && reported == 0 && answer.is_known {
            // Nobody reports anything at all.
            seen.insert(Labels::new(), (Seen::Missing(true), None));
        }
        let is_less = sight::is_less(rule, answer);
        // Before what is seen is taken for one alert after the other.
        let own = inner.alerts_of(&rule.name);
        let own: Vec<(Place, bool)> = own
            .map(|(place, _)| (place.clone(), sight::is_said_closer(&place.1, &seen)))
            .collect();
        for (place, is_said_closer) in own {
            let Some(alert) = inner.alerts.get_mut(&place) else {
                continue;
            };
            let is_bad = matches!(alert.life.state, State::Firing | State::Pending);
            if is_bad && !is_still_of(alert, rule) {
                alert.message = Some(ended::CHANGED.to_owned());
                let transition = alert.life.end(moment.now);
                // What the rule is on now is looked at next time.
                seen.remove(&place.1);
                self.note(inner, &place, transition, moment.now, outcome);
                continue;
            }
            alert.rule.clone_from(rule);
            let listed = seen.remove(&place.1);
            let is_listed = listed.is_some();
            let (looked_at, message) =
                listed.unwrap_or_else(|| (sight::unlisted(rule, &place.1, answer), None));
            let is_unknown = looked_at == Seen::Value(None);
            if !is_unknown {
                alert.life.absent = Duration::ZERO;
            } else if answer.is_known && (is_listed || !moment.is_young) {
                alert.life.absent += moment.elapsed;
            }
            let patience = if rule.no_data { GONE } else { FORGOTTEN };
            let end = if !is_bad {
                None
            } else if !is_listed && is_said_closer {
                Some(ended::CLOSER)
            } else if !is_listed && is_less {
                Some(ended::LESS)
            } else if alert.life.absent < patience {
                None
            } else if is_listed {
                Some(ended::UNKNOWN)
            } else {
                Some(ended::GONE)
            };
            let transition = if let Some(why) = end {
                alert.message = Some(why.to_owned());
                alert.life.end(moment.now)
            } else {
                if message.is_some() {
                    alert.message = message;
                }
                alert.life.step(rule, looked_at, moment)
            };
            self.note(inner, &place, transition, moment.now, outcome);
        }
        for (labels, (seen, message)) in seen {
            let is_new = match seen {
                Seen::Value(value) => {
                    let value = rule.looked_at(value);
                    !moment.grace && value.is_some_and(|it| rule.judge(it).is_some())
                }
                // What is there now may be missing later.
                Seen::Missing(_) => true,
                Seen::Found(count) => count > 0,
            };
            if !is_new {
                continue;
            }
            if inner.alerts.len() >= inner.settings.max_alerts && !outcome.has_made_room {
                outcome.has_made_room = true;
                self.make_room(inner, outcome);
            }
            if inner.alerts.len() >= inner.settings.max_alerts {
                match seen {
                    Seen::Found(_) => inner.refused += 1,
                    _ => outcome.refused += 1,
                }
                continue;
            }
            let place = (rule.name.clone(), labels);
            let mut alert = Alert::new(rule, place.1.clone());
            alert.message = message;
            let transition = alert.life.step(rule, seen, moment);
            inner.alerts.insert(place.clone(), alert);
            self.note(inner, &place, transition, moment.now, outcome);
        }
    }

    /// What is over is not shown any longer where there is no room for what is not, and what is only
    /// there because it may be missing later has to be seen again.
    fn make_room(&self, inner: &mut Inner, outcome: &mut Outcome) {
        inner.alerts.retain(|_, alert| {
            let is_over = match alert.life.state {
                State::Resolved => alert.life.told.is_none(),
                State::Ok => true,
                State::Pending | State::Firing => false,
            };
            if is_over && alert.id != 0 {
                outcome.changes.push(self.memory.without(alert));
            }
            !is_over
        });
    }

    /// Puts down what became of an alert, and what is to be told of it.
    fn note(
        &self,
        inner: &mut Inner,
        place: &Place,
        transition: Option<Transition>,
        now: Timestamp,
        outcome: &mut Outcome,
    ) {
        let (settings, own_silences) = (&inner.settings, &inner.own_silences);
        let Some(alert) = inner.alerts.get_mut(place) else {
            return;
        };
        if let Some(transition) = transition {
            Tally::count(&mut inner.tallies, &place.0, transition);
        }
        let has_begun = match transition {
            Some(Transition::Pending) => true,
            Some(Transition::Fired) => alert.life.began == alert.life.fired,
            _ => false,
        };
        if has_begun {
            if alert.id != 0 {
                outcome.changes.push(self.memory.without(alert));
            }
            alert.begin(self.memory.next_alert());
            if alert.rule.quantity != Quantity::Finding {
                alert.message = None;
            }
        }
        let sinks = sinks_of(&alert.rule, settings);
        let telling = if sinks.is_empty() && alert.told.is_empty() {
            // Who is not told now is told as soon as there is somewhere to tell it.
            None
        } else {
            let all = settings.silences.iter().chain(own_silences);
            let labels = alert.silenced_labels(&self.host);
            let is_silent = all
                .into_iter()
                .any(|it| it.is_active(now) && it.fits(&labels));
            let before = alert.life.told;
            let is_acknowledged = alert.is_acknowledged(now);
            let rule = alert.rule.clone();
            let telling = alert.life.tell(&rule, is_silent, is_acknowledged);
            telling.map(|telling| (telling, before))
        };
        if let Some((telling, before)) = telling {
            let severity = match telling {
                // That it is over is told of what was told of it.
                Telling::Resolved => before.unwrap_or(alert.life.severity),
                _ => alert
                    .life
                    .severity
                    .max(before.unwrap_or(alert.life.severity)),
            };
            if matches!(telling, Telling::Fired | Telling::Escalated) {
                for sink in sinks {
                    if !alert.told.iter().any(|it| it == sink) {
                        alert.told.push(sink.to_owned());
                    }
                }
            }
            let notice = alert.notice(telling, severity, &self.host, now);
            for sink in &alert.told {
                outcome.promises.push(self.promise(sink, &notice));
            }
            let promised = outcome.promises.iter().rev().take(alert.told.len());
            outcome.changes.extend(promised.flat_map(Promise::changes));
        }
        if let Some(event) = transition.and_then(Event::of) {
            outcome
                .changes
                .extend(self.memory.record(alert, event, now));
        }
        if transition.is_some() || telling.is_some() {
            let kept = alert.life.state != State::Ok;
            outcome.changes.push(if kept {
                self.memory.with(alert)
            } else {
                self.memory.without(alert)
            });
        }
    }

    fn promise(&self, sink: &str, notice: &Notice) -> Promise {
        // It is made of texts and numbers: nothing in it can fail.
        let body = serde_json::to_string(&[notice]).unwrap_or_default();
        let subject = notice.title(super::notice::Language::En);
        self.outbox.promise(sink, &subject, body)
    }

    /// Alerts whose rule is gone, or not in force any more, are over.
    fn end_others(
        &self,
        inner: &mut Inner,
        rules: &[&Rule],
        now: Timestamp,
        elapsed: Duration,
        outcome: &mut Outcome,
    ) {
        let names: BTreeSet<&str> = rules.iter().map(|it| it.name.as_str()).collect();
        inner
            .readings
            .retain(|name, _| names.contains(name.as_str()));
        let others: Vec<Place> = inner
            .alerts
            .keys()
            .filter(|(name, _)| !names.contains(name.as_str()))
            .cloned()
            .collect();
        for place in others {
            let Some(alert) = inner.alerts.get_mut(&place) else {
                continue;
            };
            alert.life.wait(elapsed);
            let transition = alert.life.end(now);
            if transition.is_some() {
                alert.message = Some(ended::RULE.to_owned());
            }
            self.note(inner, &place, transition, now, outcome);
        }
    }

    /// Tells each Alertmanager again what still fires.
    fn send_again(&self, elapsed: Duration) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let sinks = inner.settings.sinks.iter();
        for sink in sinks.filter(|sink| sink.kind == sink::Kind::Alertmanager) {
            let since = inner.since_sent.entry(sink.name.clone()).or_default();
            *since += elapsed;
            if *since < sink.resend {
                continue;
            }
            *since = Duration::ZERO;
            let firing = inner.alerts.values().filter(|alert| {
                alert.life.state == State::Firing && alert.told.contains(&sink.name)
            });
            let notices: Vec<Notice> = firing
                .filter_map(|alert| {
                    let severity = alert.life.told?;
                    Some(alert.notice(Telling::Repeated, severity, &self.host, Timestamp::now()))
                })
                .collect();
            if !notices.is_empty() {
                let subject = format!("{} alerts that still fire", notices.len());
                let body = serde_json::to_string(&notices).unwrap_or_default();
                self.outbox.offer(&sink.name, &subject, body);
            }
        }
        let names: BTreeSet<&str> = inner
            .settings
            .sinks
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        inner
            .since_sent
            .retain(|name, _| names.contains(name.as_str()));
    }

    /// Removes what is old.
    fn tidy(&self, now: Timestamp, elapsed: Duration) {
        let age = {
            let mut inner = self.inner.lock();
            inner.since_tidied += elapsed;
            if inner.since_tidied < TIDY {
                return;
            }
            inner.since_tidied = Duration::ZERO;
            inner.forget_counts();
            let before = inner.own_silences.len();
            inner.own_silences.retain(|it| !it.is_past(now));
            if inner.own_silences.len() < before {
                self.memory.set_silences(&inner.own_silences);
            }
            inner.settings.history_age
        };
        self.memory.forget_records(now, age);
    }

    /// Puts down where every alert is, for the next life.
    pub(super) fn write_all(&self) {
        let inner = self.inner.lock();
        let kept = inner.alerts.values();
        let kept = kept.filter(|it| it.life.state != State::Ok);
        let changes = kept.map(|alert| self.memory.with(alert)).collect();
        if !self.memory.put(changes) {
            tracing::error!("where alerts are cannot be written");
        }
    }
}

impl Inner {
    fn alerts_of(&self, rule: &str) -> impl Iterator<Item = (&Place, &Alert)> {
        let own = self.alerts.range((rule.to_owned(), Labels::new())..);
        own.take_while(move |((name, _), _)| name == rule)
    }

    /// All rules by their origins: those of the configuration count before those of the API, and
    /// these before those that are there without being asked for.
    fn all_rules(&self) -> Vec<(Rule, Origin)> {
        let defaults = if self.settings.default_rules {
            Rule::defaults()
        } else {
            Vec::new()
        };
        let mut names = BTreeSet::new();
        let configured = self.settings.rules.iter().cloned();
        let own = self.own_rules.iter().cloned();
        configured
            .map(|it| (it, Origin::Configuration))
            .chain(own.map(|it| (it, Origin::Api)))
            .chain(defaults.into_iter().map(|it| (it, Origin::Default)))
            .filter(|(rule, _)| names.insert(rule.name.clone()))
            .collect()
    }
}

/// Whether it is remembered though all is well: it may be missing later.
fn is_expected(alert: &Alert) -> bool {
    alert.rule.no_data && alert.life.state == State::Ok && alert.life.absent < GONE
}

/// Whether an alert is one of a rule as it is now.
fn is_still_of(alert: &Alert, rule: &Rule) -> bool {
    let label = |name: &str| alert.labels.get(name).map(String::as_str);
    alert.rule.quantity == rule.quantity
        && alert.rule.no_data == rule.no_data
        // One of nothing at all has no labels that could fit.
        && ((rule.no_data && alert.labels.is_empty()) || rule.matchers.fit(label))
}

/// The sinks of a rule that there are.
fn sinks_of<'a>(rule: &Rule, settings: &'a Settings) -> Vec<&'a str> {
    let names = settings.sinks.iter().map(|sink| sink.name.as_str());
    let wanted = |name: &&str| {
        let mut all = rule.sinks.iter().flatten();
        rule.sinks.is_none() || all.any(|it| it == name)
    };
    names.filter(wanted).collect()
}

/// Whether a rule names sinks, of which none is there any more.
fn is_told_nowhere(rule: &Rule, settings: &Settings) -> bool {
    let named = rule.sinks.as_ref().is_some_and(|sinks| !sinks.is_empty());
    named && sinks_of(rule, settings).is_empty()
}

/// What this host is called.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
