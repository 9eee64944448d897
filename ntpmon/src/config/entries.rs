//! Arrays of tables: `[[check]]` and the like. Each has keys like the file itself, and each entry
//! is read key by key, so that every fault is told with its place: `check[2].samples` is of the
//! second. They stand in the file alone: the environment and flags have no names for them.

use std::slice;

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::keys::{KEYS, Key};
use crate::{
    alert::{rule::Rule, silence::Silence, sink},
    check::Definition,
};

/// What stands in an array of tables.
pub trait Entry: Serialize + DeserializeOwned {
    /// What the array is called: `check` for `[[check]]`, `alert.rule` for `[[alert.rule]]`.
    const LIST: &'static str;
    /// So many at most.
    const MOST: usize;
    /// The keys of an entry, in order.
    const KEYS: &'static [Key];

    /// The least that an entry needs, right in itself: each key is tried in one. Where what is
    /// needed depends on what stands in the entry, as with a kind, it is there to be looked at.
    fn example(given: &Table) -> Table;

    /// The keys whose values, each taken alone, are out of their bounds.
    fn check(&self) -> Vec<&'static str>;

    /// What would be right in the place of a value that is wrong, where more can be said of that than
    /// stands with the key.
    fn hint(_key: &str, _value: &Value) -> Option<String> {
        None
    }

    /// What does not go together, within an entry or among several, all of which are right alone.
    fn conflicts(all: &[Self]) -> Vec<Conflict>;
}

/// A key of an entry that does not go with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which entry, from 0.
    pub entry: usize,
    /// Which key.
    pub key: &'static str,
    /// What would be right, to follow the word "expected".
    pub expected: String,
}

/// All arrays of tables that there are, in the order of the file.
pub const LISTS: &[List] = &[
    List::of::<Definition>(),
    List::of::<Rule>(),
    List::of::<sink::Definition>(),
    List::of::<Silence>(),
];

/// An array of tables, whatever stands in it.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// What it is called: `check`.
    pub path: &'static str,
    /// So many entries at most.
    pub most: usize,
    /// The keys of an entry, in order.
    pub keys: &'static [Key],
    example: fn(&Table) -> Table,
    /// Nothing where it cannot be read.
    wrong: fn(Table) -> Option<Vec<&'static str>>,
    hint: fn(&str, &Value) -> Option<String>,
    conflicts: fn(Vec<Table>) -> Vec<Conflict>,
    whole: fn(Table) -> Option<Table>,
}

impl List {
    const fn of<E: Entry>() -> Self {
        Self {
            path: E::LIST,
            most: E::MOST,
            keys: E::KEYS,
            example: E::example,
            wrong: |entry| Some(read::<E>(entry)?.check()),
            hint: E::hint,
            conflicts: |entries| {
                let entries: Option<Vec<E>> = entries.into_iter().map(read).collect();
                entries.map_or_else(Vec::new, |entries| E::conflicts(&entries))
            },
            whole: |entry| Table::try_from(read::<E>(entry)?).ok(),
        }
    }

    /// The list of this name.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Self> {
        LISTS.iter().find(|list| list.path == path)
    }

    /// The key of an entry with this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.path == name)
    }

    /// How an entry is called where something is said of it: `check[2]`.
    #[must_use]
    pub fn entry(&self, index: usize) -> String {
        format!("{}[{}]", self.path, index + 1)
    }

    /// The value of a key that an entry like this has where it is not set.
    #[must_use]
    pub fn default_of(&self, given: &Table, key: &str) -> Option<Value> {
        let mut least = (self.example)(given);
        if least.contains_key(key) {
            return None;
        }
        least = (self.whole)(least)?;
        least.remove(key)
    }

    /// Whether an entry like this has to have a key.
    #[must_use]
    pub fn needs(&self, given: &Table, key: &str) -> bool {
        (self.example)(given).contains_key(key)
    }

    /// Whether a value is right by itself in an entry like this.
    pub(super) fn accepts(&self, given: &Table, key: &str, value: &Value) -> bool {
        let mut entry = (self.example)(given);
        entry.insert(key.to_owned(), value.clone());
        (self.wrong)(entry).is_some_and(|wrong| wrong.is_empty())
    }

    pub(super) fn hint(&self, key: &str, value: &Value) -> Option<String> {
        (self.hint)(key, value)
    }

    pub(super) fn conflicts(&self, entries: Vec<Table>) -> Vec<Conflict> {
        (self.conflicts)(entries)
    }
}

fn read<E: Entry>(entry: Table) -> Option<E> {
    Value::Table(entry).try_into().ok()
}

/// Whether it is a section of the file, such as `history.sessions`.
pub(super) fn is_section(path: &str) -> bool {
    let starts = |whole: &str, path| {
        whole
            .strip_prefix(path)
            .is_some_and(|it: &str| it.starts_with('.'))
    };
    let within = |key: &Key| starts(key.path, path);
    KEYS.iter().any(within) || LISTS.iter().any(|list| starts(list.path, path))
}

/// What is wrong with entries that did not come from a file, such as those that the API is given:
/// one line for each fault, each with its key.
#[must_use]
pub fn faults<E: Entry>(entry: &E) -> Vec<String> {
    let expected = |name: &str| {
        let key = E::KEYS.iter().find(|key| key.path == name);
        key.map_or("another value", |key| key.expected)
    };
    let tell = |key, expected: &str| format!("{key}: expected {expected}");
    let alone = entry.check();
    if alone.is_empty() {
        let conflicts = E::conflicts(slice::from_ref(entry));
        return conflicts
            .iter()
            .map(|it| tell(it.key, &it.expected))
            .collect();
    }
    alone.iter().map(|key| tell(*key, expected(key))).collect()
}
