//! What a rule sees of the values and the findings: which of them it is on, and of what each is.

use std::collections::BTreeMap;

use super::{
    Finding,
    matcher::{self, Labels},
    quantity::{Answer, Direction, Quantity},
    rule::Rule,
    state::Seen,
};

/// Of each set of labels, what there is, and what is said of it.
pub(super) type SeenOf = BTreeMap<Labels, (Seen, Option<String>)>;

/// What a rule sees.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// What may change an alert, or begin one.
    pub(super) seen: SeenOf,
    /// To so much it looked.
    pub(super) reported: usize,
}

impl Sight {
    pub(super) fn of_findings(rule: &Rule, findings: &[Finding]) -> Self {
        let mut seen = SeenOf::new();
        for finding in findings.iter().filter(|it| rule.is_for(&it.labels)) {
            let labels = matcher::labels(&finding.labels);
            let entry = seen.entry(labels).or_insert((Seen::Found(0), None));
            let Seen::Found(count) = entry.0 else {
                continue;
            };
            *entry = (Seen::Found(count + 1), Some(finding.message.clone()));
        }
        let reported = seen.len();
        Self { seen, reported }
    }

    /// Where a rule has no alerts, what is well is only counted: there may be thousands, each second.
    pub(super) fn of_values(rule: &Rule, answer: &Answer, has_alerts: bool) -> Self {
        let mut sight = Self::default();
        for reading in answer.readings.iter().filter(|it| rule.is_for(&it.of)) {
            sight.reported += 1;
            let value = reading.value.filter(|it| it.is_finite());
            let what = if rule.no_data {
                Seen::Missing(value.is_none())
            } else {
                Seen::Value(value)
            };
            let is_well = || {
                !rule.no_data
                    && rule
                        .looked_at(value)
                        .and_then(|it| rule.judge(it))
                        .is_none()
            };
            if has_alerts || !is_well() {
                sight
                    .seen
                    .insert(matcher::labels(&reading.of), (what, None));
            }
        }
        sight
    }
}

/// What a rule sees of that which nobody reports.
pub(super) fn unlisted(rule: &Rule, labels: &Labels, answer: &Answer) -> Seen {
    if rule.quantity == Quantity::Finding {
        return Seen::Found(0);
    }
    if rule.no_data && labels.is_empty() && answer.is_known {
        // That of nothing at all is over with the first value.
        return Seen::Missing(false);
    }
    Seen::Value(None)
}

/// Whether what nobody reports is well because it is no more than the least of those that are
/// reported. It may be much less.
pub(super) fn is_less(rule: &Rule, answer: &Answer) -> bool {
    let is_above = rule.has_levels() && rule.direction() == Direction::Above;
    let is_good = |least| rule.recovers(rule.lowest(), least);
    is_above && answer.least.is_some_and(is_good)
}

/// Whether what nobody reports is reported with more labels: a check by its address, once it has one.
pub(super) fn is_said_closer(labels: &Labels, seen: &SeenOf) -> bool {
    if labels.is_empty() || seen.contains_key(labels) {
        return false;
    }
    let has = |it: &Labels| {
        labels
            .iter()
            .all(|(name, value)| it.get(name) == Some(value))
    };
    let mut longer = seen.keys().filter(|it| it.len() > labels.len());
    longer.any(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::quantity::Reading;

    #[test]
    fn what_is_well_is_only_counted_where_nothing_was_bad() {
        let reading = |server: &str, value| Reading {
            of: [("server", server.to_owned())].into(),
            value,
        };
        let answer = Answer::from(vec![
            reading("a", Some(0.0)),
            reading("b", Some(-1.0)),
            reading("c", None),
            reading("d", Some(f64::NAN)),
        ]);
        let mut rule = Rule::new("offset", Quantity::CheckOffset);
        let seen = |rule: &Rule, has_alerts| {
            let sight = Sight::of_values(rule, &answer, has_alerts);
            let servers = sight.seen.into_keys().map(|mut it| it.remove("server"));
            (
                sight.reported,
                servers.flatten().collect::<Vec<_>>().concat(),
            )
        };
        assert_eq!(seen(&rule, false), (4, "b".to_owned()));
        assert_eq!(seen(&rule, true), (4, "abcd".to_owned()));
        rule.no_data = true;
        assert_eq!(seen(&rule, false), (4, "abcd".to_owned()));
        rule.matchers.0.insert("server".to_owned(), "a".to_owned());
        assert_eq!(seen(&rule, false), (1, "a".to_owned()));
    }
}
