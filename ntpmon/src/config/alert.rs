//! `[alert]`, `[[alert.rule]]`, `[[alert.sink]]` and `[[alert.silence]]`: what is looked at, where it
//! is told, and when not.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    entries::{Conflict, Entry},
    keys::{Key, Kind, key},
    types,
};
use crate::alert::{
    self,
    quantity::Quantity,
    rule::Rule,
    silence::Silence,
    sink::{self, check_template},
};

/// `[alert]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alert {
    /// Whether the rules are in force that there are without any.
    pub default_rules: bool,
    /// So many alerts at once are known by name.
    pub max_alerts: usize,
    /// How long what became of alerts is kept.
    #[serde(rename = "history_days", with = "types::days")]
    pub history_age: Duration,
    /// What is looked at.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Where it is told.
    #[serde(rename = "sink", skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<sink::Definition>,
    /// When it is not.
    #[serde(rename = "silence", skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<Silence>,
}

impl Default for Alert {
    fn default() -> Self {
        let alert::Settings {
            default_rules,
            max_alerts,
            history_age,
            rules,
            sinks,
            silences,
        } = alert::Settings::default();
        Self {
            default_rules,
            max_alerts,
            history_age,
            rules,
            sinks,
            silences,
        }
    }
}

impl Alert {
    /// As alerts themselves want it.
    #[must_use]
    pub fn settings(&self) -> alert::Settings {
        let Self {
            default_rules,
            max_alerts,
            history_age,
            rules,
            sinks,
            silences,
        } = self.clone();
        alert::Settings {
            default_rules,
            max_alerts,
            history_age,
            rules,
            sinks,
            silences,
        }
    }

    /// Rules that name sinks that there are not.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let is_known = |name: &String| self.sinks.iter().any(|sink| sink.name == *name);
        let rules = self.rules.iter().enumerate();
        let unknown = rules.filter_map(|(entry, rule)| {
            let unknown = rule.sinks.iter().flatten().find(|it| !is_known(it))?;
            let names: Vec<_> = self.sinks.iter().map(|it| it.name.as_str()).collect();
            Some(Conflict {
                entry,
                key: "sinks",
                expected: match names.as_slice() {
                    [] => format!("no \"{unknown}\": there is no [[alert.sink]]"),
                    names => format!("no \"{unknown}\", but of {}", names.join(", ")),
                },
            })
        });
        unknown.collect()
    }
}

const NAME: &str = "1 to 64 letters, digits, or - _ .";
const MATCH: &str =
    "a table of at most 16 labels, each with a pattern, such as { interface = \"eth*\" }";
const PATH: &str = "an absolute path";
const TEXT: &str = "a text";
const LEVEL: &str = "a number from 0 on, in the unit of the quantity";
const TIME: &str = "a time in a text, such as \"2026-01-31T22:00:00Z\"";
const OF_DAY: &str = "a time of the day in a text, such as \"22:00\"";

impl Entry for Rule {
    const LIST: &'static str = "alert.rule";
    const MOST: usize = 1000;
    const KEYS: &'static [Key] = &[
        key("name", Kind::Text, NAME),
        key(
            "quantity",
            Kind::Text,
            "one of check_offset, check_reach, check_stratum, check_delay, server_offset, \
             server_reach, finding, client_clock_error, unanswered_ratio, turnaround_p99, \
             request_rate, total_request_rate, client_request_rate, amplification, kiss_of_death, ring_loss, \
             store_loss, interface_down, disk_free",
        ),
        key("no_data", Kind::Switch, "true or false"),
        key("warn", Kind::Number, LEVEL),
        key("critical", Kind::Number, LEVEL),
        key("direction", Kind::Text, "\"above\" or \"below\""),
        key("severity", Kind::Text, "\"warn\" or \"critical\""),
        key("for_seconds", Kind::Number, "seconds, 0 to 2678400"),
        key(
            "recover_ratio",
            Kind::Number,
            "a number above 0 and up to 1",
        ),
        key("grace_seconds", Kind::Number, "seconds, 0 to 2678400"),
        key("repeat_seconds", Kind::Number, "seconds, 0 to 2678400"),
        key("escalate", Kind::Switch, "true or false"),
        key("quiet_seconds", Kind::Number, "seconds, 0 to 2678400"),
        key("match", Kind::Table, MATCH),
        key(
            "labels",
            Kind::Table,
            "a table of at most 16 texts by name, other than alertname, severity and host",
        ),
        key("sinks", Kind::Texts, "a list of names of sinks"),
        key("enabled", Kind::Switch, "true or false"),
    ];

    fn example(_: &Table) -> Table {
        table(&[("name", "name"), ("quantity", "check_offset")])
    }

    fn check(&self) -> Vec<&'static str> {
        self.wrong_keys()
    }

    fn hint(key: &str, value: &Value) -> Option<String> {
        let name = value.as_str().filter(|_| key == "quantity")?;
        name.parse::<Quantity>().err()
    }

    fn conflicts(all: &[Self]) -> Vec<Conflict> {
        let own = |it: &Self| it.conflicts();
        conflicts(all, |it| &it.name, own, Self::LIST)
    }
}

impl Entry for sink::Definition {
    const LIST: &'static str = "alert.sink";
    const MOST: usize = 64;
    const KEYS: &'static [Key] = &[
        key("name", Kind::Text, NAME),
        key(
            "kind",
            Kind::Text,
            "\"webhook\", \"alertmanager\", \"dingtalk\", \"feishu\", \"wecom\", \"slack\", \
             \"email\", \"command\" or \"log\"",
        ),
        key(
            "url",
            Kind::Secret,
            "where it is, such as \"https://ntp.example/alerts\"",
        ),
        key("url_file", Kind::Text, PATH),
        key("secret", Kind::Secret, "a text that is not empty"),
        key("secret_file", Kind::Text, PATH),
        key(
            "headers",
            Kind::Secret,
            "a table of at most 64 headers, such as { Authorization = \"Bearer …\" }",
        ),
        key(
            "template",
            Kind::Text,
            "a template of minijinja that names what a message has",
        ),
        key("resend_seconds", Kind::Number, "seconds, 1 to 3600"),
        key("host", Kind::Text, "a name or an address"),
        key("port", Kind::Number, "a whole number, 1 to 65535"),
        key("tls", Kind::Text, "\"starttls\", \"tls\" or \"none\""),
        key("user", Kind::Text, TEXT),
        key("password", Kind::Secret, TEXT),
        key("password_file", Kind::Text, PATH),
        key(
            "from",
            Kind::Text,
            "a mailbox, such as \"ntpmon <ntpmon@ntp.example>\"",
        ),
        key("to", Kind::Texts, "a list of at most 64 mailboxes"),
        key(
            "command",
            Kind::Texts,
            "a list of an absolute path and at most 63 arguments",
        ),
        key("ca_file", Kind::Text, PATH),
        key(
            "proxy",
            Kind::Secret,
            "where it is, such as \"http://proxy.example:3128\"",
        ),
        key("language", Kind::Text, "\"en\" or \"zh\""),
        key("timeout_seconds", Kind::Number, "seconds, 0.1 to 120"),
        key("max_age_seconds", Kind::Number, "seconds, 1 to 2678400"),
        key("max_attempts", Kind::Number, "a whole number, 1 to 1000000"),
    ];

    fn example(_: &Table) -> Table {
        table(&[("name", "name"), ("kind", "log")])
    }

    fn check(&self) -> Vec<&'static str> {
        self.wrong_keys()
    }

    fn hint(key: &str, value: &Value) -> Option<String> {
        let template = value.as_str().filter(|_| key == "template")?;
        check_template(template).err()
    }

    fn conflicts(all: &[Self]) -> Vec<Conflict> {
        let own = |it: &Self| it.conflicts();
        conflicts(all, |it| &it.name, own, Self::LIST)
    }
}

impl Entry for Silence {
    const LIST: &'static str = "alert.silence";
    const MOST: usize = 1000;
    const KEYS: &'static [Key] = &[
        key("name", Kind::Text, NAME),
        key("match", Kind::Table, MATCH),
        key("from", Kind::Text, TIME),
        key("until", Kind::Text, TIME),
        key(
            "days",
            Kind::Texts,
            "a list of days, such as [\"saturday\", \"sunday\"]",
        ),
        key("start", Kind::Text, OF_DAY),
        key("end", Kind::Text, OF_DAY),
        key(
            "time_zone",
            Kind::Text,
            "a zone that this host knows, such as \"Asia/Shanghai\"",
        ),
        key("comment", Kind::Text, "a text of at most 1024 bytes"),
        key("created_by", Kind::Text, "a text of at most 1024 bytes"),
    ];

    fn example(_: &Table) -> Table {
        table(&[("name", "name")])
    }

    fn check(&self) -> Vec<&'static str> {
        self.wrong_keys()
    }

    fn conflicts(all: &[Self]) -> Vec<Conflict> {
        let own = |it: &Self| it.conflicts();
        conflicts(all, |it| &it.name, own, Self::LIST)
    }
}

fn table(pairs: &[(&str, &str)]) -> Table {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned())))
        .collect()
}

/// What does not go together in each entry, and names that are there twice.
fn conflicts<E>(
    all: &[E],
    name: impl Fn(&E) -> &String,
    own: impl Fn(&E) -> Vec<(&'static str, String)>,
    list: &str,
) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut names = HashMap::new();
    for (entry, it) in all.iter().enumerate() {
        let within = own(it).into_iter();
        conflicts.extend(within.map(|(key, expected)| Conflict {
            entry,
            key,
            expected,
        }));
        if let Some(first) = names.insert(name(it), entry) {
            let expected = format!(
                "a name of its own: \"{}\" is {list}[{}]",
                name(it),
                first + 1
            );
            conflicts.push(Conflict {
                entry,
                key: "name",
                expected,
            });
        }
    }
    conflicts
}
