//! `[[check]]`: an NTP server that is asked for the time over and over.

use std::{collections::HashMap, time::Duration};

use toml::{Table, Value};

use super::{
    entries::{Conflict, Entry},
    keys::{Key, Kind, key},
};
use crate::check::Definition;

/// A check's name has no more bytes.
const LONGEST_NAME: usize = 128;

impl Entry for Definition {
    const LIST: &'static str = "check";
    const MOST: usize = 10_000;
    const KEYS: &'static [Key] = &[
        key(
            "server",
            Kind::Text,
            "a name or an address, with or without a port, such as \"ntp.example\", \
             \"192.0.2.1:123\", \"2001:db8::1\" or \"[2001:db8::1]:123\"",
        ),
        key(
            "name",
            Kind::Text,
            "a text of 1 to 128 bytes, without control characters",
        ),
        key("interval_seconds", Kind::Number, "seconds, 2 to 86400"),
        key("samples", Kind::Number, "a whole number, 1 to 16"),
        key("sample_interval_seconds", Kind::Number, "seconds, 2 to 60"),
        key("timeout_seconds", Kind::Number, "seconds, 0.05 to 30"),
        key("version", Kind::Number, "3 or 4"),
        key("family", Kind::Text, "\"any\", \"ipv4\" or \"ipv6\""),
    ];

    fn example(_: &Table) -> Table {
        let server = Value::String("ntp.example".to_owned());
        [("server".to_owned(), server)].into_iter().collect()
    }

    fn check(&self) -> Vec<&'static str> {
        let within = |it: Duration, low: f64, high: f64| (low..=high).contains(&it.as_secs_f64());
        let is_name = |name: &String| {
            (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(char::is_control)
        };
        let right = [
            ("name", self.name.as_ref().is_none_or(is_name)),
            ("interval_seconds", within(self.interval, 2.0, 86_400.0)),
            ("samples", (1..=16).contains(&self.samples)),
            ("sample_interval_seconds", within(self.spacing, 2.0, 60.0)),
            ("timeout_seconds", within(self.timeout, 0.05, 30.0)),
            ("version", [3, 4].contains(&self.version)),
        ];
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong.map(|(key, _)| key).collect()
    }

    fn conflicts(all: &[Self]) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut names = HashMap::new();
        for (entry, it) in all.iter().enumerate() {
            if it.interval < it.longest_round() {
                let round = it.longest_round().as_secs_f64();
                conflicts.push(Conflict {
                    entry,
                    key: "interval_seconds",
                    expected: format!("{round} at least, which a round of its samples may take"),
                });
            }
            if let Some(first) = names.insert(it.name(), entry) {
                conflicts.push(Conflict {
                    entry,
                    key: "name",
                    expected: format!(
                        "a name of its own: \"{}\" is check[{}]",
                        it.name(),
                        first + 1
                    ),
                });
            }
        }
        conflicts
    }
}
