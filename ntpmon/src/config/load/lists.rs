//! Arrays of tables, entry by entry and key by key.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{Loaded, Merge, Place, Source, wrong};
use crate::{
    alert::sink::secret::HIDDEN,
    config::{
        entries::{Conflict, List},
        keys::{Key, Kind, similar},
    },
};

/// An entry of the file, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    source: Source,
    pub(super) values: Table,
    sources: BTreeMap<&'static str, Source>,
    /// Whether each of its keys is right by itself, and none is missing.
    right: bool,
}

/// An entry that is in force, for those who show it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it is called: `check[2]`.
    pub name: String,
    /// Where it begins.
    pub source: Source,
    /// Its keys in order, each with its value, if it has one, and where that comes from.
    pub keys: Vec<(&'static Key, Option<Value>, Source)>,
}

impl Loaded {
    /// The entries of an array of tables.
    #[must_use]
    pub fn entries(&self, list: &List) -> Vec<Shown> {
        let Some(Value::Array(values)) = self.value(list.path) else {
            return Vec::new();
        };
        let placed = self.lists.get(list.path).into_iter().flatten();
        let entries = placed.zip(values).enumerate();
        entries
            .map(|(index, (placed, value))| {
                let keys = list.keys.iter().map(|key| {
                    let source = placed.sources.get(key.path);
                    let source = source.cloned().unwrap_or(Source::Default);
                    (key, value.get(key.path).cloned(), source)
                });
                Shown {
                    name: list.entry(index),
                    source: placed.source.clone(),
                    keys: keys.collect(),
                }
            })
            .collect()
    }
}

impl Merge {
    pub(super) fn list(
        &mut self,
        place: Place<'_>,
        list: &'static List,
        written: (&DeValue<'_>, &Value),
        source: &Source,
    ) {
        let (DeValue::Array(spans), Value::Array(values)) = written else {
            let path = list.path;
            self.fault(format!(
                "{path} in {source}: expected [[{path}]], in two brackets, for each of them"
            ));
            return;
        };
        if values.len() > list.most {
            let (path, most) = (list.path, list.most);
            self.fault(format!("{path} in {source}: expected {most} at most"));
            return;
        }
        for (index, (span, value)) in spans.iter().zip(values).enumerate() {
            let (DeValue::Table(spans), Value::Table(values)) = (span.get_ref(), value) else {
                let expected = format!("a table, [[{}]]", list.path);
                let source = place.source(span.span());
                self.fault(wrong(&list.entry(index), value, &source, &expected));
                continue;
            };
            self.entry(place, (list, index), span.span(), spans, values);
        }
    }

    fn entry(
        &mut self,
        place: Place<'_>,
        (list, index): (&'static List, usize),
        span: Range<usize>,
        spans: &DeTable<'_>,
        values: &Table,
    ) {
        let mut placed = Placed {
            source: place.source(span),
            values: Table::new(),
            sources: BTreeMap::new(),
            right: true,
        };
        let name = list.entry(index);
        for (written, value) in values {
            let at = spans.iter().find(|(it, _)| it.get_ref() == written);
            let at = at.map_or(0..0, |(it, _)| it.span());
            let source = place.source(at);
            let path = format!("{name}.{written}");
            let Some(key) = list.key(written) else {
                let names = || list.keys.iter().map(|key| key.path);
                let hint = similar(written, names()).map_or_else(
                    || format!("expected one of {}", names().collect::<Vec<_>>().join(", ")),
                    |it| format!("did you mean {it}?"),
                );
                self.fault(format!("{path} in {source}: there is no such key: {hint}"));
                continue;
            };
            if !list.accepts(values, key.path, value) {
                placed.right = false;
                let hint = list.hint(key.path, value);
                let expected = hint.as_deref().unwrap_or(key.expected);
                self.fault(wrong(&path, &shown(key, value), &source, expected));
            }
            placed.values.insert(key.path.to_owned(), value.clone());
            placed.sources.insert(key.path, source);
        }
        for key in list.keys {
            if !values.contains_key(key.path) && list.needs(values, key.path) {
                placed.right = false;
                let (source, expected) = (&placed.source, key.expected);
                self.fault(format!(
                    "{name}.{} in {source} is missing: expected {expected}",
                    key.path
                ));
            }
        }
        self.lists.entry(list.path).or_default().push(placed);
    }

    /// Tells what does not go together. What is wrong alone is told by itself first.
    pub(super) fn conflicts(&mut self) {
        let mut told = Vec::new();
        for (path, entries) in &self.lists {
            let Some(list) = List::find(path) else {
                continue;
            };
            if entries.iter().any(|it| !it.right) {
                continue;
            }
            let values = entries.iter().map(|it| it.values.clone()).collect();
            for conflict in list.conflicts(values) {
                told.extend(told_of(list, entries, &conflict));
            }
        }
        for fault in told {
            self.fault(fault);
        }
    }

    /// Tells what of a list does not go with what stands elsewhere.
    pub(super) fn conflicts_of(&mut self, path: &str, conflicts: &[Conflict]) {
        let Some((list, entries)) = List::find(path).zip(self.lists.get(path)) else {
            return;
        };
        let told = conflicts.iter().filter_map(|it| told_of(list, entries, it));
        let told: Vec<String> = told.collect();
        for fault in told {
            self.fault(fault);
        }
    }
}

/// What is told of a conflict.
fn told_of(list: &List, entries: &[Placed], conflict: &Conflict) -> Option<String> {
    let entry = entries.get(conflict.entry)?;
    let (key, expected) = (conflict.key, &conflict.expected);
    let path = format!("{}.{key}", list.entry(conflict.entry));
    let source = entry.sources.get(key).unwrap_or(&entry.source);
    let default = || list.default_of(&entry.values, key);
    let value = entry.values.get(key).cloned().or_else(default);
    Some(match (value, list.key(key)) {
        (Some(value), Some(key)) => wrong(&path, &shown(key, &value), source, expected),
        _ => format!("{path} in {source} is missing: expected {expected}"),
    })
}

/// A value as it is told: not, where it is a secret.
fn shown(key: &Key, value: &Value) -> Value {
    match key.kind {
        Kind::Secret => Value::String(HIDDEN.to_owned()),
        _ => value.clone(),
    }
}
