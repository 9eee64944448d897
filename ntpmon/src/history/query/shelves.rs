//! What other parts keep: put down, read back at once, and taken away.

use super::QueryError;
use crate::history::{
    History,
    shelf::{Change, Item, Order, Shelf},
};

impl History {
    /// Puts several changes down together: with the next flush all of them are in the file, or none.
    /// Who reads finds them at once. Says whether there was room: while the file cannot be written
    /// not all can wait.
    pub fn put(&self, changes: Vec<Change>) -> bool {
        changes.is_empty() || self.0.shelves.put(changes)
    }

    /// Reads a shelf from a key up to, but without, another; up to the end where that is empty. At
    /// most `limit` values. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn shelf(
        &self,
        shelf: Shelf,
        from: &[u8],
        to: &[u8],
        order: Order,
        limit: usize,
    ) -> Result<Vec<Item>, QueryError> {
        if limit == 0 || (!to.is_empty() && from >= to) {
            return Ok(Vec::new());
        }
        // Before the file: what is written meanwhile is in both, and not in neither.
        let mut waiting = self.0.shelves.waiting(shelf, from, to);
        // Those that wait stand in for so many of the file's at most.
        let enough = limit.saturating_add(waiting.len());
        let written = self.0.written_shelf(shelf, from, to, order, enough)?;
        let is_whole = written.len() < enough;
        let last = written.last().map(|(key, _)| key.clone());
        for (key, value) in written {
            waiting.entry(key).or_insert(Some(value));
        }
        let there = |(key, value): (Vec<u8>, Option<Vec<u8>>)| Some((key, value?));
        // Beyond the last that was read, some that lie between were not.
        let known = |key: &Vec<u8>| {
            is_whole
                || last.as_ref().is_some_and(|last| match order {
                    Order::Oldest => key <= last,
                    Order::Newest => key >= last,
                })
        };
        let items = waiting.into_iter().filter(|(key, _)| known(key));
        Ok(match order {
            Order::Oldest => items.filter_map(there).take(limit).collect(),
            Order::Newest => items.rev().filter_map(there).take(limit).collect(),
        })
    }

    /// Takes away the values before a key, the least first, at most `limit` of them. Says how many.
    /// Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn trim_shelf(
        &self,
        shelf: Shelf,
        before: &[u8],
        limit: usize,
    ) -> Result<usize, QueryError> {
        if before.is_empty() {
            return Ok(0);
        }
        let old = self.shelf(shelf, &[], before, Order::Oldest, limit)?;
        let count = old.len();
        let changes = old.into_iter().map(|(key, _)| Change::remove(shelf, key));
        self.put(changes.collect());
        Ok(count)
    }

    /// Changes that found no room while the file could not be written.
    #[must_use]
    pub fn shelf_changes_lost(&self) -> u64 {
        self.0.shelves.lost()
    }

    /// Changes that are not in the file yet.
    #[must_use]
    pub fn shelf_changes_waiting(&self) -> usize {
        self.0.shelves.count_waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{
        Settings,
        shelf::{Shelves, WAITING},
    };

    fn open(folder: &tempfile::TempDir) -> History {
        // Nothing is written unless asked for.
        let settings = Settings {
            flush_interval: std::time::Duration::from_secs(3600),
            ..Settings::default()
        };
        History::open(folder.path(), settings).unwrap()
    }

    fn keys(history: &History, order: Order, limit: usize) -> Vec<u8> {
        let items = history.shelf(Shelf::Outbox, &[], &[], order, limit);
        items.unwrap().iter().map(|(key, _)| key[0]).collect()
    }

    fn put(history: &History, keys: &[u8]) {
        let changes = keys
            .iter()
            .map(|&key| Change::put(Shelf::Outbox, [key], [key]));
        assert!(history.put(changes.collect()));
    }

    #[test]
    fn what_is_put_down_is_read_at_once_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(&folder);
        put(&history, &[1, 2, 3]);
        history.put(vec![Change::put(Shelf::Alerts, [2], [9])]);
        assert_eq!(keys(&history, Order::Oldest, 9), [1, 2, 3]);
        history.flush().unwrap();
        assert_eq!(history.shelf_changes_waiting(), 0);
        history.put(vec![Change::remove(Shelf::Outbox, [2])]);
        put(&history, &[4]);
        assert_eq!(keys(&history, Order::Newest, 9), [4, 3, 1]);
        assert_eq!(keys(&history, Order::Newest, 2), [4, 3]);
        history.stop();
        drop(history);
        let history = open(&folder);
        assert_eq!(keys(&history, Order::Oldest, 2), [1, 3]);
        let alerts = history.shelf(Shelf::Alerts, &[], &[], Order::Oldest, 9);
        assert_eq!(alerts.unwrap(), [(vec![2], vec![9])]);
        assert!(history.verify().is_ok());
    }

    #[test]
    fn a_part_is_the_same_wherever_its_values_stand() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(&folder);
        let (written, waiting) = (folder_of(2), folder_of(3));
        put(&history, &written);
        history.flush().unwrap();
        put(&history, &waiting);
        let removed: Vec<u8> = (0..60).step_by(5).collect();
        let changes = removed
            .iter()
            .map(|&key| Change::remove(Shelf::Outbox, [key]));
        history.put(changes.collect());
        let mut all: Vec<u8> = written.into_iter().chain(waiting).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|key| !removed.contains(key));
        for limit in 1..all.len() + 2 {
            let part: Vec<u8> = all.iter().copied().take(limit).collect();
            assert_eq!(keys(&history, Order::Oldest, limit), part);
            let part: Vec<u8> = all.iter().rev().copied().take(limit).collect();
            assert_eq!(keys(&history, Order::Newest, limit), part);
        }
        let between = history.shelf(Shelf::Outbox, &[6], &[9], Order::Oldest, 9);
        let between: Vec<u8> = between.unwrap().iter().map(|(key, _)| key[0]).collect();
        assert_eq!(between, [6, 8]);
        assert_eq!(history.trim_shelf(Shelf::Outbox, &[9], 100).unwrap(), 5);
        assert_eq!(keys(&history, Order::Oldest, 1), [9]);
    }

    /// Every so manyth number below 60.
    fn folder_of(step: usize) -> Vec<u8> {
        (0..60).step_by(step).collect()
    }

    #[test]
    fn what_is_changed_while_it_is_written_waits_on() {
        let shelves = Shelves::default();
        let change = |value: u8| vec![Change::put(Shelf::Outbox, [1], [value])];
        shelves.put(change(1));
        let taken = shelves.take();
        shelves.put(change(2));
        shelves.written(&taken);
        assert_eq!(shelves.count_waiting(), 1);
        shelves.written(&shelves.take());
        assert_eq!(shelves.count_waiting(), 0);
    }

    #[test]
    fn what_finds_no_room_is_left_out_together_and_counted() {
        let shelves = Shelves::default();
        let many = |from: u32, to: u32| {
            (from..to)
                .map(|key| Change::put(Shelf::Outbox, key.to_be_bytes(), []))
                .collect()
        };
        assert!(shelves.put(many(0, WAITING as u32 - 1)));
        assert!(!shelves.put(many(WAITING as u32, WAITING as u32 + 2)));
        assert_eq!((shelves.lost(), shelves.count_waiting()), (2, WAITING - 1));
    }
}
