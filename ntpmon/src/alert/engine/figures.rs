//! What of alerts is a number, by rule: for the metrics. Counted while alerts change, so that nobody
//! reads what became of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Inner};
use crate::alert::{
    RuleFigures,
    rule::Severity,
    state::{State, Transition},
};

/// What became of a rule's alerts since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    fired: u64,
    resolved: u64,
}

impl Tally {
    /// Counts what became of an alert of a rule.
    pub(super) fn count(all: &mut BTreeMap<String, Self>, rule: &str, transition: Transition) {
        let of = |tally: &mut Self| match transition {
            Transition::Fired => tally.fired += 1,
            Transition::Resolved => tally.resolved += 1,
            _ => {}
        };
        if let Some(tally) = all.get_mut(rule) {
            of(tally);
        } else {
            of(all.entry(rule.to_owned()).or_default());
        }
    }
}

impl Engine {
    /// Of the first of the rules in force, and how many others there are.
    pub(in crate::alert) fn figures(&self, most: usize) -> (Vec<RuleFigures>, usize) {
        let inner = self.inner.lock();
        let rules = inner.all_rules().into_iter().map(|(rule, _)| rule);
        let mut rules: Vec<_> = rules.filter(|it| it.enabled).collect();
        let left_out = rules.len().saturating_sub(most);
        rules.truncate(most);
        let told = rules.into_iter().map(|rule| {
            let tally = inner.tallies.get(&rule.name).copied().unwrap_or_default();
            let firing = |severity| inner.count_firing(&rule.name, severity);
            RuleFigures {
                firing: [Severity::Warn, Severity::Critical].map(|it| (it, firing(it))),
                fired: tally.fired,
                resolved: tally.resolved,
                rule: rule.name,
            }
        });
        (told.collect(), left_out)
    }
}

impl Inner {
    fn count_firing(&self, rule: &str, severity: Severity) -> usize {
        let alerts = self.alerts_of(rule).map(|(_, alert)| &alert.life);
        alerts
            .filter(|it| it.state == State::Firing && it.severity == severity)
            .count()
    }

    /// Forgets what was counted of rules that are no more.
    pub(super) fn forget_counts(&mut self) {
        let names: BTreeSet<String> = {
            let rules = self.all_rules().into_iter();
            rules.map(|(rule, _)| rule.name).collect()
        };
        self.tallies.retain(|name, _| names.contains(name));
    }
}
