//! Small ordered tables of other parts in the same file: what was found of servers, results of
//! checks, alerts, what is promised to be delivered. A part decides what its keys and values are;
//! here it is only seen to that what is put down together is written together, with the next flush,
//! and is read back at once. While the file cannot be written it waits in memory, up to a bound.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// One of the tables. The number is that of the database: none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Shelf {
    /// What was found of servers and of this host's clock, by number.
    Findings = 1,
    /// Rounds of active checks.
    CheckResults = 2,
    /// Sums of rounds.
    CheckRollups = 3,
    /// The states of alerts.
    Alerts = 4,
    /// What became of alerts.
    AlertHistory = 5,
    /// What is promised to be delivered.
    Outbox = 6,
    /// What became of that.
    Deliveries = 7,
    /// What clients sent that is not a question for the time.
    Abuse = 8,
}

/// A value that is put down, or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub shelf: Shelf,
    /// Its place there: keys are in the order of their bytes.
    pub key: Vec<u8>,
    /// Nothing takes it away.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Puts a value down.
    #[must_use]
    pub fn put(shelf: Shelf, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            shelf,
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// Takes a value away.
    #[must_use]
    pub fn remove(shelf: Shelf, key: impl Into<Vec<u8>>) -> Self {
        Self {
            shelf,
            key: key.into(),
            value: None,
        }
    }
}

/// From which end a shelf is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The least key first.
    Oldest,
    /// The greatest key first.
    Newest,
}

/// A key and its value.
pub type Item = (Vec<u8>, Vec<u8>);

/// Changes that may wait for the file. With one flush a second there are never many; when the disk
/// is full they become more.
pub(super) const WAITING: usize = 100_000;

/// What is not in the file yet.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Counts what was put down together.
    generation: u64,
    changes: BTreeMap<Place, Pending>,
}

type Place = (Shelf, Vec<u8>);

#[derive(Clone, Debug)]
struct Pending {
    value: Option<Vec<u8>>,
    generation: u64,
}

/// What one flush writes.
#[derive(Debug, Default)]
pub(super) struct Taken {
    changes: Vec<(Place, Option<Vec<u8>>)>,
    generation: u64,
}

impl Taken {
    pub(super) const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (Shelf, &[u8], Option<&[u8]>)> {
        let changes = self.changes.iter();
        changes.map(|((shelf, key), value)| (*shelf, key.as_slice(), value.as_deref()))
    }
}

impl Shelves {
    /// All or nothing: what finds no room is left out together, and counted.
    pub(super) fn put(&self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if waiting.changes.len() + changes.len() > WAITING {
            self.lost.fetch_add(changes.len() as u64, Ordering::Relaxed);
            return false;
        }
        waiting.generation += 1;
        let generation = waiting.generation;
        for Change { shelf, key, value } in changes {
            let pending = Pending { value, generation };
            waiting.changes.insert((shelf, key), pending);
        }
        true
    }

    /// What waits, to be written now.
    pub(super) fn take(&self) -> Taken {
        let waiting = self.waiting.lock();
        let changes = waiting.changes.iter();
        Taken {
            changes: changes
                .map(|(place, pending)| (place.clone(), pending.value.clone()))
                .collect(),
            generation: waiting.generation,
        }
    }

    /// That is in the file now; what was changed meanwhile waits on.
    pub(super) fn written(&self, taken: &Taken) {
        let mut waiting = self.waiting.lock();
        for (place, _) in &taken.changes {
            let is_newer = |it: &Pending| it.generation > taken.generation;
            if !waiting.changes.get(place).is_some_and(is_newer) {
                waiting.changes.remove(place);
            }
        }
    }

    /// What waits of a part of a shelf.
    pub(super) fn waiting(
        &self,
        shelf: Shelf,
        from: &[u8],
        to: &[u8],
    ) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let waiting = self.waiting.lock();
        let begin = Bound::Included((shelf, from.to_vec()));
        let rest = waiting.changes.range((begin, Bound::Unbounded));
        rest.take_while(|((of, key), _)| *of == shelf && (to.is_empty() || key.as_slice() < to))
            .map(|((_, key), pending)| (key.clone(), pending.value.clone()))
            .collect()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn count_waiting(&self) -> usize {
        self.waiting.lock().changes.len()
    }
}
