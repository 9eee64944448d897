//! The life of one alert: pure. A rule, a value and the time that passed go in, what became of it
//! and what is to be told comes out. Time is counted, not read off a clock, so that a clock that is
//! stepped, here of all places, neither fires an alert nor holds one back.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rule::{Rule, Severity};

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is well.
    Ok,
    /// It is bad, and not yet for long enough.
    Pending,
    /// It is bad.
    Firing,
    /// It was bad, and is over.
    Resolved,
}

impl State {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// An alert is shown for so long after it is over.
pub const SHOWN_AFTER: Duration = Duration::from_secs(3600);

/// What is known of one alert. Durations are counted while the daemon runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Where it is.
    pub state: State,
    /// How bad it is.
    pub severity: Severity,
    /// When it began to be bad.
    pub began: Option<Timestamp>,
    /// When it fired.
    pub fired: Option<Timestamp>,
    /// When it was over.
    pub resolved: Option<Timestamp>,
    /// The last value there was.
    pub value: Option<f64>,
    /// For how long it has been bad without a break.
    bad: Option<Duration>,
    /// For how long it has been critical without a break.
    critical: Option<Duration>,
    /// For how long nothing more was found, or since it is over.
    quiet: Duration,
    /// For how long nobody has reported it.
    pub(super) absent: Duration,
    /// The worst that was told of it.
    pub told: Option<Severity>,
    /// Since that was told last.
    since_told: Duration,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Ok,
            severity: Severity::Warn,
            began: None,
            fired: None,
            resolved: None,
            value: None,
            bad: None,
            critical: None,
            quiet: Duration::ZERO,
            absent: Duration::ZERO,
            told: None,
            since_told: Duration::ZERO,
        }
    }
}

/// What a rule saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// A value, or that there is none.
    Value(Option<f64>),
    /// For a rule on missing data: whether it is missing.
    Missing(bool),
    /// Something was found so many times since the last look.
    Found(u32),
}

/// When.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What the clock says.
    pub now: Timestamp,
    /// Since the last look.
    pub elapsed: Duration,
    /// Whether the daemon has started so short a time ago that nothing begins to be bad.
    pub grace: bool,
    /// Whether that is so short a time ago that not all report again who did before.
    pub is_young: bool,
}

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// It began to be bad.
    Pending,
    /// It was not bad for long enough.
    Calmed,
    /// It fired.
    Fired,
    /// It became worse.
    Escalated,
    /// It became better, and is not over.
    Eased,
    /// It is over.
    Resolved,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Telling {
    /// It fired.
    Fired,
    /// It became critical.
    Escalated,
    /// It still is.
    Repeated,
    /// It is over.
    Resolved,
    /// Nothing: it is tried whether this arrives.
    Test,
}

impl Life {
    /// Goes on.
    pub fn step(&mut self, rule: &Rule, seen: Seen, moment: Moment) -> Option<Transition> {
        self.since_told += moment.elapsed;
        if self.state == State::Resolved {
            self.quiet += moment.elapsed;
        }
        match seen {
            Seen::Value(value) => {
                // What is missing or no number says nothing: it neither fires nor ends anything.
                let looked_at = rule.looked_at(value)?;
                self.value = value;
                self.step_value(rule, looked_at, moment)
            }
            Seen::Missing(missing) => {
                let verdict = missing.then(|| rule.severity());
                self.count(verdict, moment);
                self.go(rule, verdict, !missing, moment)
            }
            Seen::Found(count) => self.step_finding(rule, count, moment),
        }
    }

    fn step_value(&mut self, rule: &Rule, value: f64, moment: Moment) -> Option<Transition> {
        let verdict = rule.judge(value);
        self.count(verdict, moment);
        if self.state == State::Firing && self.severity == Severity::Critical {
            let eased = rule.recovers(Severity::Critical, value)
                && rule.lowest() == Severity::Warn
                && !rule.recovers(Severity::Warn, value);
            if eased {
                self.severity = Severity::Warn;
                return Some(Transition::Eased);
            }
        }
        self.go(rule, verdict, rule.recovers(rule.lowest(), value), moment)
    }

    fn step_finding(&mut self, rule: &Rule, count: u32, moment: Moment) -> Option<Transition> {
        if count == 0 {
            if self.state != State::Firing {
                return None;
            }
            self.quiet += moment.elapsed;
            let over = self.quiet >= rule.quiet;
            return over.then(|| self.resolve(moment.now));
        }
        self.quiet = Duration::ZERO;
        self.value = Some(match self.state {
            State::Firing => self.value.unwrap_or(0.0) + f64::from(count),
            _ => f64::from(count),
        });
        // One is enough, also in the time after the start: it is not a value that has yet to settle.
        (self.state != State::Firing).then(|| self.fire(rule.severity(), moment.now))
    }

    /// Counts for how long it has been bad.
    fn count(&mut self, verdict: Option<Severity>, moment: Moment) {
        // After the start nothing begins to be bad; what had begun before waits, and then goes on.
        let counts = !moment.grace || self.state == State::Firing;
        let go_on = |counted: Option<Duration>, is_bad: bool| match counted {
            _ if !is_bad => None,
            Some(counted) if counts => Some(counted + moment.elapsed),
            Some(counted) => Some(counted),
            None => counts.then_some(Duration::ZERO),
        };
        self.bad = go_on(self.bad, verdict.is_some());
        self.critical = go_on(self.critical, verdict == Some(Severity::Critical));
    }

    /// The way from state to state, which values and missing data have in common.
    fn go(
        &mut self,
        rule: &Rule,
        verdict: Option<Severity>,
        recovered: bool,
        moment: Moment,
    ) -> Option<Transition> {
        let enough =
            |counted: Option<Duration>| counted.is_some_and(|counted| counted >= rule.hold);
        match self.state {
            State::Ok | State::Resolved | State::Pending if self.bad.is_some() => {
                let began = self.state != State::Pending;
                if began {
                    *self = Self {
                        began: Some(moment.now),
                        value: self.value,
                        bad: self.bad,
                        critical: self.critical,
                        ..Self::default()
                    };
                }
                let lowest = if rule.has_levels() {
                    rule.lowest()
                } else {
                    rule.severity()
                };
                let severity = if enough(self.critical) {
                    Severity::Critical
                } else {
                    lowest
                };
                if enough(self.bad) {
                    return Some(self.fire(severity, moment.now));
                }
                self.state = State::Pending;
                self.severity = verdict.unwrap_or(severity);
                began.then_some(Transition::Pending)
            }
            State::Pending => {
                *self = Self {
                    value: self.value,
                    ..Self::default()
                };
                Some(Transition::Calmed)
            }
            State::Firing if recovered => Some(self.resolve(moment.now)),
            State::Firing => {
                let worse = self.severity == Severity::Warn && enough(self.critical);
                worse.then(|| {
                    self.severity = Severity::Critical;
                    Transition::Escalated
                })
            }
            State::Ok | State::Resolved => None,
        }
    }

    fn fire(&mut self, severity: Severity, now: Timestamp) -> Transition {
        *self = Self {
            state: State::Firing,
            severity,
            began: self
                .began
                .filter(|_| self.state == State::Pending)
                .or(Some(now)),
            fired: Some(now),
            value: self.value,
            bad: self.bad,
            critical: self.critical,
            ..Self::default()
        };
        Transition::Fired
    }

    fn resolve(&mut self, now: Timestamp) -> Transition {
        self.state = State::Resolved;
        self.resolved = Some(now);
        self.bad = None;
        self.critical = None;
        self.quiet = Duration::ZERO;
        Transition::Resolved
    }

    /// Ends it, because its rule is gone or nobody reports it any more.
    pub fn end(&mut self, now: Timestamp) -> Option<Transition> {
        match self.state {
            State::Firing => Some(self.resolve(now)),
            State::Pending => {
                *self = Self::default();
                Some(Transition::Calmed)
            }
            State::Ok | State::Resolved => None,
        }
    }

    /// Whether there is nothing to remember of it any more.
    #[must_use]
    pub fn is_past(&self) -> bool {
        match self.state {
            State::Ok => true,
            State::Resolved => self.told.is_none() && self.quiet >= SHOWN_AFTER,
            State::Pending | State::Firing => false,
        }
    }

    /// Counts on for one that is over, where nobody looks at it any more.
    pub fn wait(&mut self, elapsed: Duration) {
        self.absent += elapsed;
        if self.state == State::Resolved {
            self.quiet += elapsed;
        }
    }

    /// What is to be told of it now, if anything. What is told counts as told from here on. While it
    /// is silenced nothing new is told, but that something is over which was told is told always:
    /// who was called has to know.
    pub fn tell(&mut self, rule: &Rule, is_silent: bool, is_acknowledged: bool) -> Option<Telling> {
        let is_due = !rule.repeat.is_zero() && self.since_told >= rule.repeat && !is_acknowledged;
        let telling = match (self.state, self.told) {
            (State::Firing, None) if !is_silent => Telling::Fired,
            (State::Firing, Some(told))
                if !is_silent && self.severity > told && (rule.escalate || is_due) =>
            {
                Telling::Escalated
            }
            (State::Firing, Some(_)) if !is_silent && is_due => Telling::Repeated,
            (State::Resolved, Some(_)) => Telling::Resolved,
            _ => return None,
        };
        self.told = match telling {
            Telling::Resolved => None,
            _ => self.told.max(Some(self.severity)),
        };
        self.since_told = Duration::ZERO;
        Some(telling)
    }
}

#[cfg(test)]
mod tests;
