//! A bounded table of things that wait: two generations that take turns. Looking up, expiring and
//! forgetting are all O(1), whoever forges the keys, and entries leave in the order they came.

use hashbrown::HashTable;

/// Entries of `T` that are found by a hash and live between one and two lifetimes.
#[derive(Debug)]
pub(super) struct Table<T> {
    current: Generation<T>,
    previous: Generation<T>,
    /// Entries in a generation at most.
    bound: usize,
    /// How long a generation takes entries, in nanoseconds.
    lifetime: u64,
}

#[derive(Debug)]
struct Generation<T> {
    /// In the order of arrival. Nothing is removed from the middle.
    entries: Vec<T>,
    index: HashTable<Slot>,
    /// How many of the entries have been let go of already.
    swept: usize,
    /// When the first entry came.
    started: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    entry: u32,
}

/// Where an entry is, until the table is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    is_current: bool,
    entry: usize,
}

/// Spreads the half of a hash that a slot has room for over 64 bits, as the index takes both its
/// bucket and its tag from it.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<T> Generation<T> {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: HashTable::new(),
            swept: 0,
            started: 0,
        }
    }

    fn find(&self, hash: u64, matches: &impl Fn(&T) -> bool) -> Option<usize> {
        let hash = hash as u32;
        self.index
            .find(spread(hash), |slot| {
                slot.hash == hash && matches(&self.entries[slot.entry as usize])
            })
            .map(|slot| slot.entry as usize)
    }

    fn sweep(&mut self, due: &impl Fn(&T) -> bool, let_go: &mut impl FnMut(&mut T)) -> bool {
        while let Some(entry) = self.entries.get_mut(self.swept) {
            if !due(entry) {
                return false;
            }
            let_go(entry);
            self.swept += 1;
        }
        true
    }

    fn clear(&mut self) {
        // After a flood the memory goes back.
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 8 {
            *self = Self::new();
            return;
        }
        self.entries.clear();
        self.index.clear();
        self.swept = 0;
    }
}

impl<T> Table<T> {
    pub(super) fn new(bound: usize, lifetime: u64) -> Self {
        Self {
            current: Generation::new(),
            previous: Generation::new(),
            bound,
            lifetime,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.entries.is_empty() && self.previous.entries.is_empty()
    }

    /// The newest entry with this hash for which `matches` holds, let go of or not.
    pub(super) fn find(&mut self, hash: u64, matches: impl Fn(&T) -> bool) -> Option<&mut T> {
        let place = self.place(hash, matches)?;
        Some(self.get_mut(place))
    }

    /// As [`Self::find`], but only where it is.
    #[inline]
    pub(super) fn place(&self, hash: u64, matches: impl Fn(&T) -> bool) -> Option<Place> {
        if let Some(entry) = self.current.find(hash, &matches) {
            return Some(Place {
                is_current: true,
                entry,
            });
        }
        let entry = self.previous.find(hash, &matches)?;
        Some(Place {
            is_current: false,
            entry,
        })
    }

    /// What [`Self::place`] found.
    #[inline]
    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        let generation = if place.is_current {
            &mut self.current
        } else {
            &mut self.previous
        };
        &mut generation.entries[place.entry]
    }

    /// Adds an entry, to be found by any of `hashes`. An older entry of this generation for which
    /// `replaces` holds is no longer found by that hash: equal keys never pile up.
    pub(super) fn insert(
        &mut self,
        now: u64,
        entry: T,
        hashes: impl IntoIterator<Item = u64>,
        replaces: impl Fn(&T) -> bool,
    ) {
        let Generation {
            entries,
            index,
            started,
            ..
        } = &mut self.current;
        if entries.is_empty() {
            *started = now;
        }
        let position = entries.len() as u32;
        for hash in hashes {
            let hash = hash as u32;
            let slot = Slot {
                hash,
                entry: position,
            };
            match index.find_mut(spread(hash), |slot| {
                slot.hash == hash && entries.get(slot.entry as usize).is_some_and(&replaces)
            }) {
                Some(old) => *old = slot,
                None => {
                    index.insert_unique(spread(hash), slot, |slot| spread(slot.hash));
                }
            }
        }
        entries.push(entry);
    }

    /// Lets go, oldest first, of the entries that are due, and turns the generations when it is
    /// time or when there is no room for another entry. What had to leave before it was due is
    /// let go of too; the return value is how many such there were.
    pub(super) fn expire(
        &mut self,
        now: u64,
        due: impl Fn(&T) -> bool,
        mut let_go: impl FnMut(&mut T),
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut early = 0;
        let full = self.current.entries.len() >= self.bound;
        if self.previous.sweep(&due, &mut let_go) {
            self.current.sweep(&due, &mut let_go);
        }
        let over = |generation: &Generation<T>, lifetimes: u64| {
            now.saturating_sub(generation.started) > self.lifetime.saturating_mul(lifetimes)
        };
        let turn = if self.current.entries.is_empty() {
            over(&self.previous, 2)
        } else {
            over(&self.current, 1)
        };
        if full || turn {
            early = self.previous.entries.len() - self.previous.swept;
            self.previous.sweep(&|_| true, &mut let_go);
            self.previous.clear();
            std::mem::swap(&mut self.current, &mut self.previous);
        }
        early
    }

    /// Lets go of everything, oldest first.
    pub(super) fn flush(&mut self, mut let_go: impl FnMut(&mut T)) {
        for generation in [&mut self.previous, &mut self.current] {
            generation.sweep(&|_| true, &mut let_go);
            generation.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(table: &mut Table<(u32, u64)>, now: u64) -> Vec<u32> {
        let mut gone = Vec::new();
        table.expire(now, |entry| entry.1 + 10 < now, |entry| gone.push(entry.0));
        gone
    }

    #[test]
    fn entries_leave_in_the_order_they_came_and_exactly_when_due() {
        let mut table = Table::new(100, 10);
        let mut gone = Vec::new();
        for value in 0..50_u32 {
            let now = u64::from(value);
            gone.extend(values(&mut table, now));
            table.insert(now, (value, now), [u64::from(value)], |_| false);
            assert_eq!(gone.len() as u64, now.saturating_sub(10), "at {now}");
        }
        table.flush(|entry| gone.push(entry.0));
        assert_eq!(gone, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_table_lets_go_of_its_oldest_generation_and_says_how_many() {
        let mut table = Table::new(4, 1000);
        let mut gone = 0;
        let mut early = 0;
        for value in 0..1000_u32 {
            early += table.expire(5, |_| false, |_| gone += 1);
            table.insert(5, (value, 5), [u64::from(value)], |_| false);
        }
        assert_eq!(gone, early);
        table.flush(|_| gone += 1);
        assert_eq!(gone, 1000);
    }

    #[test]
    fn pauses_do_not_let_entries_go_before_they_are_due() {
        let mut table = Table::new(100, 10);
        let mut gone = 0;
        for now in [0, 1, 12, 13, 24, 100, 101, 130, 131, 141, 142] {
            let early = table.expire(now, |entry: &(u32, u64)| entry.1 + 10 < now, |_| gone += 1);
            assert_eq!(early, 0, "at {now}");
            table.insert(now, (0, now), [1], |_| true);
        }
        table.flush(|_| gone += 1);
        assert_eq!(gone, 11);
    }

    #[test]
    fn equal_keys_do_not_pile_up() {
        let mut table = Table::new(1 << 20, 1000);
        for value in 0..100_000_u32 {
            table.insert(1, (value, 1), [7], |_| true);
        }
        assert_eq!(table.current.index.len(), 1);
        assert_eq!(table.find(7, |_| true).map(|entry| entry.0), Some(99_999));
    }

    #[test]
    fn an_entry_is_found_for_at_least_one_lifetime() {
        let mut table = Table::new(100, 10);
        table.insert(0, (1, 0), [1], |_| false);
        for now in 1..=10 {
            values(&mut table, now);
            table.insert(now, (2, now), [2], |_| true);
            assert!(table.find(1, |entry| entry.0 == 1).is_some(), "at {now}");
        }
    }
}
