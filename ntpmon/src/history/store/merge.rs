//! Several runs as one: what they have of each client together, in the order of the keys.

use std::{cmp::Reverse, collections::BinaryHeap};

use anyhow::Result;

use super::run::{Cursor, Found};
use crate::history::{client::ClientRecord, key::Key};

/// Runs that are walked through side by side, the oldest first.
pub(super) struct Merge {
    cursors: Vec<Cursor>,
    /// The next client of each; of those that have the same the oldest is first.
    heads: BinaryHeap<Reverse<(Key, usize)>>,
    /// Entries that were handed over.
    pub(super) taken: u64,
}

/// What some runs have of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    pub(super) key: Key,
    /// What is in its block does not count any more.
    pub(super) removed: bool,
    pub(super) news: Option<ClientRecord>,
    /// Bit n: the nth of the runs has something of it.
    pub(super) runs: u64,
}

impl Sum {
    /// Of a client that no run knows.
    pub(super) const fn nothing(key: Key) -> Self {
        Self {
            key,
            removed: false,
            news: None,
            runs: 0,
        }
    }

    /// Adds what a later run has.
    pub(super) fn add(&mut self, later: &Found<'_>) {
        self.removed |= later.removed;
        later.put_onto(&mut self.news);
    }

    /// The client's record, from what its block has.
    pub(super) fn onto(&self, known: Option<&ClientRecord>) -> Option<ClientRecord> {
        let known = known.filter(|_| !self.removed);
        match (known, &self.news) {
            (Some(known), Some(news)) => {
                let mut record = *known;
                record.absorb(news);
                Some(record)
            }
            (Some(record), None) | (None, Some(record)) => Some(*record),
            (None, None) => None,
        }
    }
}

impl Merge {
    pub(super) fn new(cursors: Vec<Cursor>) -> Self {
        let heads = cursors.iter().enumerate();
        let heads = heads.filter_map(|(place, cursor)| Some(Reverse((cursor.peek()?, place))));
        Self {
            heads: heads.collect(),
            cursors,
            taken: 0,
        }
    }

    /// The next client.
    pub(super) fn peek(&self) -> Option<Key> {
        self.heads.peek().map(|Reverse((key, _))| *key)
    }

    /// What there is of the next client, if it is before `end`.
    pub(super) fn next_before(&mut self, end: Option<&Key>) -> Result<Option<Sum>> {
        let Some(key) = self.peek().filter(|key| end.is_none_or(|end| key < end)) else {
            return Ok(None);
        };
        let mut sum = Sum::nothing(key);
        while let Some(mut head) = self.heads.peek_mut() {
            let Reverse((next, place)) = *head;
            if next != key {
                break;
            }
            let cursor = &mut self.cursors[place];
            cursor.advance(|found| sum.add(&found))?;
            sum.runs |= 1 << place;
            self.taken += 1;
            match cursor.peek() {
                Some(next) => *head = Reverse((next, place)),
                None => drop(std::collections::binary_heap::PeekMut::pop(head)),
            }
        }
        Ok(Some(sum))
    }
}
