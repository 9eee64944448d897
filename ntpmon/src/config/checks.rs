//! `[[check]]`: an NTP server that is asked for the time over and over.

use std::collections::HashMap;

use toml::{Table, Value};

use super::{
    entries::{Conflict, Entry},
    keys::{Key, Kind, key},
};
use crate::check::{Definition, FIELDS, MOST_CHECKS};

const fn field(number: usize, kind: Kind) -> Key {
    key(FIELDS[number].0, kind, FIELDS[number].1)
}

impl Entry for Definition {
    const LIST: &'static str = "check";
    const MOST: usize = MOST_CHECKS;
    const KEYS: &'static [Key] = &[
        field(0, Kind::Text),
        field(1, Kind::Text),
        field(2, Kind::Number),
        field(3, Kind::Number),
        field(4, Kind::Number),
        field(5, Kind::Number),
        field(6, Kind::Number),
        field(7, Kind::Text),
    ];

    fn example(_: &Table) -> Table {
        let server = Value::String("ntp.example".to_owned());
        [("server".to_owned(), server)].into_iter().collect()
    }

    fn check(&self) -> Vec<&'static str> {
        self.out_of_bounds()
    }

    fn conflicts(all: &[Self]) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut names = HashMap::new();
        for (entry, it) in all.iter().enumerate() {
            if let Some(expected) = it.too_short() {
                conflicts.push(Conflict {
                    entry,
                    key: "interval_seconds",
                    expected,
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
