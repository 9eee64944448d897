//! What an operator wants to be told: a quantity, the levels from which it is bad, for how long, and
//! where to tell it. A rule says all of what is wrong with it before it is taken.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    matcher::{Labels, MAX_LABELS, MAX_TEXT, Matchers, is_label},
    quantity::{Direction, Quantity},
};

/// How bad it is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody should look at it.
    Warn,
    /// Somebody has to act.
    Critical,
}

impl Severity {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Critical => "critical",
        }
    }
}

/// A rule, as the configuration and the API have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called; there is one of a name.
    pub name: String,
    /// What it is on.
    #[schema(value_type = String, example = "check_offset")]
    pub quantity: Quantity,
    /// Whether it fires when there is no value, and not on values.
    #[serde(default)]
    pub no_data: bool,
    /// From here on it is a warning; without any level those that operators use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<f64>,
    /// From here on it is critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<f64>,
    /// On which side of the levels it is bad; as the quantity has it unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// How bad it is where there are no levels: no data, and findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// How long it has to be bad without a break before it fires.
    #[serde(default, rename = "for_seconds", with = "crate::seconds")]
    #[schema(value_type = f64)]
    pub hold: Duration,
    /// How far back from the level a value has to be before it is over, as a share of the level.
    #[serde(default = "recover_ratio")]
    pub recover_ratio: f64,
    /// After the start of the daemon nothing begins to be bad for so long.
    #[serde(default = "grace", rename = "grace_seconds", with = "crate::seconds")]
    #[schema(value_type = f64)]
    pub grace: Duration,
    /// How often it is told again while it lasts; 0 is never.
    #[serde(default, rename = "repeat_seconds", with = "crate::seconds")]
    #[schema(value_type = f64)]
    pub repeat: Duration,
    /// Whether it is told once more when a warning becomes critical.
    #[serde(default)]
    pub escalate: bool,
    /// How long nothing more has to be found before a finding is over.
    #[serde(default = "quiet", rename = "quiet_seconds", with = "crate::seconds")]
    #[schema(value_type = f64)]
    pub quiet: Duration,
    /// Which of the values it is on, by label; all of them unless said otherwise.
    #[serde(default, rename = "match", skip_serializing_if = "Matchers::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub matchers: Matchers,
    /// What is added to the labels of its alerts.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Where it is told, by the sinks' names; everywhere unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Vec<String>>,
    /// Whether it is in force.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

const fn recover_ratio() -> f64 {
    0.9
}

const fn grace() -> Duration {
    Duration::from_secs(30)
}

const fn quiet() -> Duration {
    Duration::from_secs(300)
}

const fn enabled() -> bool {
    true
}

/// Longest name of a rule, a sink or a silence.
const MAX_NAME: usize = 64;
/// A month: longer is probably not meant.
const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// Labels that every alert has, which a rule cannot take.
const OWN_LABELS: [&str; 3] = ["alertname", "severity", "host"];

/// Whether it can be the name of a rule, a sink or a silence, which are parts of paths.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_part = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_part)
}

impl Rule {
    /// A rule of which only this is said.
    #[must_use]
    pub fn new(name: &str, quantity: Quantity) -> Self {
        Self {
            name: name.to_owned(),
            quantity,
            no_data: false,
            warn: None,
            critical: None,
            direction: None,
            severity: None,
            hold: Duration::ZERO,
            recover_ratio: recover_ratio(),
            grace: grace(),
            repeat: Duration::ZERO,
            escalate: false,
            quiet: quiet(),
            matchers: Matchers::default(),
            labels: Labels::default(),
            sinks: None,
            enabled: true,
        }
    }

    /// What there is without a configuration: what is wrong with ntpmon itself, and the clocks of
    /// servers by the levels that operators use. Without sinks the API shows it.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let held = |name, quantity, seconds| Self {
            hold: Duration::from_secs(seconds),
            ..Self::new(name, quantity)
        };
        vec![
            // Three rounds at the usual interval have to agree, and so have the polls of a client.
            held("check-offset", Quantity::CheckOffset, 120),
            held("check-reach", Quantity::CheckReach, 0),
            held("check-stratum", Quantity::CheckStratum, 120),
            held("server-offset", Quantity::ServerOffset, 120),
            held("server-reach", Quantity::ServerReach, 60),
            held("ring-loss", Quantity::RingLoss, 0),
            held("store-loss", Quantity::StoreLoss, 0),
            held("interface-down", Quantity::InterfaceDown, 10),
            held("disk-free", Quantity::DiskFree, 60),
        ]
    }

    /// The keys whose values, each taken alone, are out of their bounds.
    #[must_use]
    pub fn wrong_keys(&self) -> Vec<&'static str> {
        let is_level = |level: Option<f64>| level.is_none_or(|it| it.is_finite() && it >= 0.0);
        let labels = self.labels.iter();
        let right = [
            ("name", is_name(&self.name)),
            ("warn", is_level(self.warn)),
            ("critical", is_level(self.critical)),
            ("for_seconds", self.hold <= LONGEST),
            (
                "recover_ratio",
                self.recover_ratio > 0.0 && self.recover_ratio <= 1.0,
            ),
            ("grace_seconds", self.grace <= LONGEST),
            ("repeat_seconds", self.repeat <= LONGEST),
            ("quiet_seconds", self.quiet <= LONGEST),
            ("match", self.matchers.are_right()),
            (
                "labels",
                self.labels.len() <= MAX_LABELS
                    && labels.clone().all(|(name, value)| {
                        is_label(name)
                            && !OWN_LABELS.contains(&name.as_str())
                            && value.len() <= MAX_TEXT
                    }),
            ),
            (
                "sinks",
                self.sinks
                    .as_ref()
                    .is_none_or(|sinks| sinks.iter().all(|name| is_name(name))),
            ),
        ];
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong.map(|(key, _)| key).collect()
    }

    /// The keys that do not go with others, each with what would be right.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(&'static str, String)> {
        let mut conflicts: Vec<(&'static str, String)> = Vec::new();
        let mut must = |key, right: bool, expected: &str| {
            if !right {
                conflicts.push((key, expected.to_owned()));
            }
        };
        let is_finding = self.quantity == Quantity::Finding;
        if self.has_levels() {
            must(
                "severity",
                self.severity.is_none(),
                "none: a rule with levels has its severity from them",
            );
            let (warn, critical) = self.levels();
            must(
                "warn",
                warn.is_some() || critical.is_some(),
                &format!(
                    "a level, here or as critical: there is none that is usual for {}",
                    self.quantity
                ),
            );
            let (word, in_order) = match (self.direction(), warn.zip(critical)) {
                (Direction::Above, Some((warn, critical))) => ("above", warn <= critical),
                (Direction::Below, Some((warn, critical))) => ("below", warn >= critical),
                (_, None) => ("", true),
            };
            let warn = warn.unwrap_or_default();
            must(
                "critical",
                in_order,
                &format!("a level {word} warn = {warn}"),
            );
        } else {
            let levels = "none: this rule looks at no values, and has a severity instead";
            must("warn", self.warn.is_none(), levels);
            must("critical", self.critical.is_none(), levels);
            must("direction", self.direction.is_none(), levels);
        }
        must(
            "no_data",
            !(self.no_data && is_finding),
            "false: it is no fault that nothing is found",
        );
        conflicts
    }

    /// Whether it looks at values.
    #[must_use]
    pub fn has_levels(&self) -> bool {
        !self.no_data && self.quantity != Quantity::Finding
    }

    /// The levels that are in force: its own, or those that operators use.
    #[must_use]
    pub fn levels(&self) -> (Option<f64>, Option<f64>) {
        let facts = self.quantity.facts();
        match (self.warn, self.critical) {
            (None, None) => (facts.warn, facts.critical),
            own => own,
        }
    }

    /// Where it is bad.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or(self.quantity.facts().direction)
    }

    /// How bad it is where there are no levels.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.severity.unwrap_or(Severity::Warn)
    }

    /// A value as the rule looks at it: nothing unless it is a number.
    #[must_use]
    pub fn looked_at(&self, value: Option<f64>) -> Option<f64> {
        let value = value.filter(|it| it.is_finite())?;
        Some(if self.quantity.facts().magnitude {
            value.abs()
        } else {
            value
        })
    }

    /// How bad a value is.
    #[must_use]
    pub fn judge(&self, value: f64) -> Option<Severity> {
        let (warn, critical) = self.levels();
        let is_past = |level: f64| match self.direction() {
            Direction::Above => value > level,
            Direction::Below => value < level,
        };
        if critical.is_some_and(is_past) {
            Some(Severity::Critical)
        } else if warn.is_some_and(is_past) {
            Some(Severity::Warn)
        } else {
            None
        }
    }

    /// Whether a value is back far enough from the level of a severity for that to be over.
    #[must_use]
    pub fn recovers(&self, severity: Severity, value: f64) -> bool {
        let (warn, critical) = self.levels();
        let level = match severity {
            Severity::Warn => warn,
            Severity::Critical => critical,
        };
        let Some(level) = level else { return true };
        match self.direction() {
            Direction::Above => value <= level * self.recover_ratio,
            Direction::Below => {
                let back = level / self.recover_ratio;
                // A share cannot be above 1: it has to go back a part of what is left.
                let most = match self.quantity.facts().unit {
                    super::quantity::Unit::Ratio => {
                        level + (1.0 - level).max(0.0) * (1.0 - self.recover_ratio)
                    }
                    _ => f64::INFINITY,
                };
                value >= back.min(most)
            }
        }
    }

    /// The lowest severity that it has a level for.
    #[must_use]
    pub fn lowest(&self) -> Severity {
        match self.levels().0 {
            Some(_) => Severity::Warn,
            None => Severity::Critical,
        }
    }

    /// The level of a severity.
    #[must_use]
    pub fn level(&self, severity: Severity) -> Option<f64> {
        if !self.has_levels() {
            return None;
        }
        let (warn, critical) = self.levels();
        match severity {
            Severity::Warn => warn.or(critical),
            Severity::Critical => critical.or(warn),
        }
    }

    /// Whether it is on what has these labels.
    #[must_use]
    pub fn is_for(&self, of: &[(&str, String)]) -> bool {
        self.matchers.fit(|name| {
            let mut labels = of.iter();
            labels.find_map(|(it, value)| (*it == name).then_some(value.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_default_rules_are_right() {
        let mut names: Vec<_> = Rule::defaults().into_iter().map(|it| it.name).collect();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for rule in Rule::defaults() {
            assert_eq!(rule.wrong_keys(), [""; 0], "{}", rule.name);
            assert_eq!(rule.conflicts(), [], "{}", rule.name);
        }
    }

    #[test]
    fn levels_are_the_usual_ones_unless_one_is_given() {
        let usual = rule("name = 'a'\nquantity = 'check_offset'");
        assert_eq!(usual.levels(), (Some(0.01), Some(0.05)));
        let own = rule("name = 'a'\nquantity = 'check_offset'\ncritical = 1");
        assert_eq!(own.levels(), (None, Some(1.0)));
        assert_eq!(own.lowest(), Severity::Critical);
    }

    #[test]
    fn a_size_is_judged_whatever_its_sign_and_what_is_no_number_is_not_judged() {
        let rule = rule("name = 'a'\nquantity = 'check_offset'");
        let judged = |value| rule.looked_at(Some(value)).and_then(|it| rule.judge(it));
        assert_eq!(judged(-0.06), Some(Severity::Critical));
        assert_eq!(judged(0.02), Some(Severity::Warn));
        assert_eq!(judged(0.01), None);
        assert_eq!(judged(1e9), Some(Severity::Critical));
        for nothing in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(rule.looked_at(Some(nothing)), None);
        }
    }

    #[test]
    fn what_is_below_recovers_above_and_never_beyond_what_is_possible() {
        let reach = rule("name = 'a'\nquantity = 'check_reach'\nwarn = 0.98\nrecover_ratio = 0.5");
        assert_eq!(reach.judge(0.9), Some(Severity::Warn));
        assert!(!reach.recovers(Severity::Warn, 0.98));
        assert!(reach.recovers(Severity::Warn, 1.0));
        let all = rule("name = 'a'\nquantity = 'check_reach'\nwarn = 1");
        assert!(all.recovers(Severity::Warn, 1.0));
        // A level of nothing recovers at nothing.
        let loss = rule("name = 'a'\nquantity = 'ring_loss'");
        assert_eq!(loss.judge(1.0), Some(Severity::Warn));
        assert!(loss.recovers(Severity::Warn, 0.0));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let mut rule = rule("name = 'a b'\nquantity = 'request_rate'\nseverity = 'warn'");
        rule.recover_ratio = f64::NAN;
        rule.critical = Some(-1.0);
        rule.labels.insert("severity".into(), String::new());
        assert_eq!(
            rule.wrong_keys(),
            ["name", "critical", "recover_ratio", "labels"]
        );
        rule.critical = None;
        let keys = |rule: &Rule| -> Vec<_> {
            let conflicts = rule.conflicts().into_iter();
            conflicts.map(|(key, _)| key).collect()
        };
        assert_eq!(keys(&rule), ["severity", "warn"]);
        rule.warn = Some(10.0);
        rule.critical = Some(5.0);
        assert_eq!(keys(&rule), ["severity", "critical"]);
        rule.direction = Some(Direction::Below);
        assert_eq!(keys(&rule), ["severity"]);
        rule.no_data = true;
        assert_eq!(keys(&rule), ["warn", "critical", "direction"]);
    }

    #[test]
    fn an_unknown_field_or_quantity_is_a_fault_that_says_which() {
        let error = toml::from_str::<Rule>("name = 'a'\nquantity = 'ofset'").unwrap_err();
        assert!(error.message().contains("check_offset"), "{error}");
        let error = toml::from_str::<Rule>("name = 'a'\nquantity = 'disk_free'\nwran = 1");
        assert!(error.unwrap_err().message().contains("wran"));
    }
}
