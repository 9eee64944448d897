//! What people ask of alerts and change about them: those there are, rules, silences, sinks.

use anyhow::Result;
use jiff::Timestamp;

use super::{Engine, MOST, is_told_nowhere};
use crate::alert::{
    Health, Origin, Refusal, RuleView, SilenceView, SinkView, Tested, Verdict,
    instance::{Acknowledgement, Event, Record, View},
    matcher::{self, Labels},
    notice::Notice,
    quantity::Quantity,
    rule::Rule,
    silence::Silence,
    state::State,
};

impl Engine {
    pub(in crate::alert) fn all(&self, now: Timestamp) -> Vec<View> {
        let inner = self.inner.lock();
        let alerts = inner
            .alerts
            .values()
            .filter(|it| it.life.state != State::Ok);
        let mut all: Vec<View> = alerts
            .map(|alert| {
                let labels = alert.silenced_labels(&self.host);
                let silences = inner.settings.silences.iter().chain(&inner.own_silences);
                let active = silences.filter(|it| it.is_active(now) && it.fits(&labels));
                alert.view(active.map(|it| it.name.clone()).collect())
            })
            .collect();
        all.sort_unstable_by_key(|view| std::cmp::Reverse(view.id));
        all
    }

    pub(in crate::alert) fn records(
        &self,
        before: Option<u64>,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Record>> {
        self.memory.records(before, limit, wanted)
    }

    pub(in crate::alert) fn acknowledge(
        &self,
        id: u64,
        by: Acknowledgement,
    ) -> Result<View, Refusal> {
        let mut inner = self.inner.lock();
        let alert = inner
            .alerts
            .values_mut()
            .find(|alert| alert.id == id && id != 0);
        let alert = alert.ok_or_else(|| Refusal::Unknown("alert", id.to_string()))?;
        if !matches!(alert.life.state, State::Firing | State::Pending) {
            return Err(Refusal::NotFiring(id, alert.life.state.name()));
        }
        let now = by.at;
        alert.acknowledgement = Some(by);
        let mut changes = self.memory.record(alert, Event::Acknowledged, now);
        changes.push(self.memory.with(alert));
        if !self.memory.put(changes) {
            tracing::error!(
                "the history takes no more that waits to be written: who has alert {id} is known \
                 until ntpmon ends"
            );
        }
        Ok(alert.view(Vec::new()))
    }

    pub(in crate::alert) fn rules(&self) -> Vec<RuleView> {
        let inner = self.inner.lock();
        let all = inner.all_rules().into_iter();
        all.map(|(rule, origin)| {
            let own = inner.alerts_of(&rule.name);
            let states: Vec<State> = own.map(|(_, alert)| alert.life.state).collect();
            let firing = states.iter().filter(|it| **it == State::Firing).count();
            let worst = [State::Firing, State::Pending, State::Resolved];
            let worst = worst.into_iter().find(|it| states.contains(it));
            RuleView {
                readings: inner.readings.get(&rule.name).copied().unwrap_or(0),
                name: rule.name.clone(),
                definition: rule,
                origin,
                state: worst.unwrap_or(State::Ok),
                firing,
            }
        })
        .collect()
    }

    pub(in crate::alert) fn set_rule(&self, rule: Rule, replace: bool) -> Result<(), Refusal> {
        let mut inner = self.inner.lock();
        let name = rule.name.clone();
        if inner.settings.rules.iter().any(|it| it.name == name) {
            return Err(Refusal::Configured("rule", name));
        }
        let is_default =
            inner.settings.default_rules && Rule::defaults().iter().any(|it| it.name == name);
        let known = inner.own_rules.iter().position(|it| it.name == name);
        match known {
            Some(place) if replace => inner.own_rules[place] = rule,
            Some(_) => return Err(Refusal::Exists("rule", name)),
            // One that is there without being asked for can be another one.
            None if is_default && !replace => return Err(Refusal::Exists("rule", name)),
            None if !is_default && replace => return Err(Refusal::Unknown("rule", name)),
            None if inner.own_rules.len() >= MOST => return Err(Refusal::TooMany("rules", MOST)),
            None => inner.own_rules.push(rule),
        }
        self.memory.set_rules(&inner.own_rules);
        Ok(())
    }

    pub(in crate::alert) fn remove_rule(&self, name: &str) -> Result<(), Refusal> {
        let mut inner = self.inner.lock();
        let before = inner.own_rules.len();
        inner.own_rules.retain(|it| it.name != name);
        if inner.own_rules.len() < before {
            self.memory.set_rules(&inner.own_rules);
            return Ok(());
        }
        let all = inner.all_rules().into_iter();
        let mut named = all.filter(|(rule, _)| rule.name == name);
        Err(match named.next() {
            Some((_, Origin::Default)) => Refusal::Default(name.to_owned()),
            Some(_) => Refusal::Configured("rule", name.to_owned()),
            None => Refusal::Unknown("rule", name.to_owned()),
        })
    }

    pub(in crate::alert) fn judge(&self, rule: &Rule) -> Vec<Verdict> {
        let answer = self.sources.read(rule.quantity);
        let own = answer
            .readings
            .iter()
            .filter(|reading| rule.is_for(&reading.of))
            .map(|reading| (matcher::labels(&reading.of), reading.value));
        own.map(|(labels, value)| {
            let known = value.filter(|it| it.is_finite());
            let severity = if rule.no_data {
                known.is_none().then(|| rule.severity())
            } else {
                rule.looked_at(known).and_then(|it| rule.judge(it))
            };
            Verdict {
                labels,
                value: known,
                severity,
            }
        })
        .collect()
    }

    pub(in crate::alert) fn silences(&self, now: Timestamp) -> Vec<SilenceView> {
        let inner = self.inner.lock();
        let view = |silence: &Silence, origin| SilenceView {
            active: silence.is_active(now),
            name: silence.name.clone(),
            definition: silence.clone(),
            origin,
        };
        let configured = inner.settings.silences.iter();
        let own = inner.own_silences.iter();
        configured
            .map(|it| view(it, Origin::Configuration))
            .chain(own.map(|it| view(it, Origin::Api)))
            .collect()
    }

    pub(in crate::alert) fn set_silence(
        &self,
        silence: Silence,
        replace: bool,
    ) -> Result<(), Refusal> {
        let mut inner = self.inner.lock();
        let name = silence.name.clone();
        if inner.settings.silences.iter().any(|it| it.name == name) {
            return Err(Refusal::Configured("silence", name));
        }
        let known = inner.own_silences.iter().position(|it| it.name == name);
        match known {
            Some(place) if replace => inner.own_silences[place] = silence,
            Some(_) => return Err(Refusal::Exists("silence", name)),
            None if replace => return Err(Refusal::Unknown("silence", name)),
            None if inner.own_silences.len() >= MOST => {
                return Err(Refusal::TooMany("silences", MOST));
            }
            None => inner.own_silences.push(silence),
        }
        self.memory.set_silences(&inner.own_silences);
        Ok(())
    }

    pub(in crate::alert) fn remove_silence(&self, name: &str) -> Result<(), Refusal> {
        let mut inner = self.inner.lock();
        let before = inner.own_silences.len();
        inner.own_silences.retain(|it| it.name != name);
        if inner.own_silences.len() < before {
            self.memory.set_silences(&inner.own_silences);
            return Ok(());
        }
        let is_known = inner.settings.silences.iter().any(|it| it.name == name);
        Err(if is_known {
            Refusal::Configured("silence", name.to_owned())
        } else {
            Refusal::Unknown("silence", name.to_owned())
        })
    }

    pub(in crate::alert) fn sinks(&self) -> Vec<SinkView> {
        let sinks = self.inner.lock().settings.sinks.clone();
        let sinks = sinks.into_iter().map(|sink| SinkView {
            standing: self.outbox.standing(&sink.name),
            target: sink.shown(),
            kind: sink.kind,
            language: sink.language,
            name: sink.name,
        });
        sinks.collect()
    }

    pub(in crate::alert) fn test(
        &self,
        rule: Option<&Rule>,
        sink: Option<&str>,
    ) -> Result<Vec<Tested>, Refusal> {
        let now = Timestamp::now();
        let mut sinks = self.inner.lock().settings.sinks.clone();
        if let Some(name) = sink {
            sinks.retain(|it| it.name == name);
            if sinks.is_empty() {
                return Err(Refusal::Unknown("sink", name.to_owned()));
            }
        } else if let Some(names) = rule.and_then(|rule| rule.sinks.as_ref()) {
            sinks.retain(|it| names.contains(&it.name));
        }
        let host = || Labels::from([("host".to_owned(), self.host.clone())]);
        let notice = rule.map_or_else(
            || Notice::test("test", Quantity::CheckOffset, host(), now),
            |rule| {
                let mut labels = host();
                labels.extend(rule.labels.clone());
                Notice::test(&rule.name, rule.quantity, labels, now)
            },
        );
        let id = format!("test-{}", now.as_microsecond());
        // All at once: one that hangs keeps nobody waiting for the others.
        let tested = std::thread::scope(|scope| {
            let threads: Vec<_> = sinks
                .iter()
                .map(|sink| {
                    let (notice, id) = (&notice, &id);
                    let test = move || {
                        let begun = std::time::Instant::now();
                        let sent = sink.send(std::slice::from_ref(notice), id, now);
                        Tested {
                            sink: sink.name.clone(),
                            delivered: sent.is_ok(),
                            error: sent.err().map(|failure| failure.why),
                            seconds: begun.elapsed().as_secs_f64(),
                        }
                    };
                    (sink, scope.spawn(test))
                })
                .collect();
            let ends = threads.into_iter().map(|(sink, thread)| {
                thread.join().unwrap_or_else(|_| Tested {
                    sink: sink.name.clone(),
                    delivered: false,
                    error: Some("sending met a bug; the log says more".to_owned()),
                    seconds: 0.0,
                })
            });
            ends.collect()
        });
        Ok(tested)
    }

    pub(in crate::alert) fn health(&self) -> Health {
        let (sinks, mut health) = {
            let inner = self.inner.lock();
            let states = inner.alerts.values().map(|alert| alert.life.state);
            let count = |state| states.clone().filter(|it| *it == state).count();
            let names = inner.settings.sinks.iter().map(|it| it.name.clone());
            let health = Health {
                firing: count(State::Firing),
                pending: count(State::Pending),
                alerts_refused: inner.refused,
                rules_told_nowhere: inner
                    .all_rules()
                    .into_iter()
                    .filter(|(rule, _)| rule.enabled && is_told_nowhere(rule, &inner.settings))
                    .map(|(rule, _)| rule.name)
                    .collect(),
                ..Health::default()
            };
            (names.collect::<Vec<_>>(), health)
        };
        for sink in sinks {
            if let Some(why) = self.outbox.standing(&sink).error {
                health.failing_sinks.push(format!("{sink}: {why}"));
            }
        }
        health
    }
}
