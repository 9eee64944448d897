//! All clients in the order of a column, to find any page of a list in one look.

use super::{Row, Sort};
use crate::history::key::Key;

/// A row with the value that it is ordered by, in twelve bytes: a million are kept of each order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    high: u32,
    low: u32,
    /// Which.
    pub row: Row,
}

impl Placed {
    pub(super) const fn new(value: u64, row: Row) -> Self {
        Self {
            high: (value >> 32) as u32,
            low: value as u32,
            row,
        }
    }

    /// The value.
    #[must_use]
    pub const fn value(&self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }
}

/// See [`super::Catalogue::gather`].
#[derive(Debug)]
pub struct Unordered {
    pub(super) sort: Sort,
    pub(super) changes: u64,
    pub(super) rows: Vec<Placed>,
    /// Rows that were looked at, or after whom to go on where they are in the order of their keys.
    pub(super) looked_at: usize,
    pub(super) after: Option<Key>,
}

impl Unordered {
    /// Nobody yet, with room for so many: it would be made while others wait.
    #[must_use]
    pub fn new(sort: Sort, clients: usize) -> Self {
        Self {
            sort,
            changes: 0,
            rows: Vec::with_capacity(clients),
            looked_at: 0,
            after: None,
        }
    }

    /// Sorts.
    #[must_use]
    pub fn sort(mut self) -> Order {
        if self.sort != Sort::ClientIp {
            self.rows.sort_unstable();
        }
        Order {
            changes: self.changes,
            known: self.rows.partition_point(|it| it.value() != u64::MAX),
            rows: self.rows,
        }
    }
}

/// All clients in an order, each as it was when it was looked at. Since then some may have gone, and
/// others come into their rows.
#[derive(Debug, Default)]
pub struct Order {
    /// What [`super::Catalogue::changes`] was when that was begun.
    pub changes: u64,
    /// The least first; from here on it is not known.
    known: usize,
    rows: Vec<Placed>,
}

impl Order {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many of them have a value that is known.
    #[must_use]
    pub const fn known(&self) -> usize {
        self.known
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Their rows, the least first.
    #[must_use]
    pub fn rows(&self) -> &[Placed] {
        &self.rows
    }

    /// What stands at a position, with its value: the least first, or the greatest, and in either
    /// case what is not known at the end.
    #[must_use]
    pub fn at(&self, position: usize, descending: bool) -> Option<(u64, Row)> {
        let place = if descending && position < self.known {
            self.known - 1 - position
        } else {
            position
        };
        let placed = self.rows.get(place)?;
        Some((placed.value(), placed.row))
    }

    /// The position after a row that had a value.
    #[must_use]
    pub fn after(&self, value: u64, row: Row, descending: bool) -> usize {
        // Rows of one value are in their own order.
        let here = Placed::new(value, row);
        if descending && value != u64::MAX {
            self.known - self.rows.partition_point(|it| *it < here)
        } else {
            self.rows.partition_point(|it| *it <= here)
        }
    }
}
