//! What the writer removes: by its own rules when it is too old, and when it is told to.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{REMOVED_AT_ONCE, Removed, SESSIONS_AT_ONCE, Writer, nanoseconds, sessions_bounds};
use crate::{
    history::{
        add,
        key::{InterfaceId, Key},
        rollup::Resolution,
    },
    ntp::clock,
};

/// Rollups of one kind in one transaction.
const ROLLUPS_AT_ONCE: usize = 2000;
/// Between two looks for what is too old.
const TIDY: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 60 });

impl Writer {
    /// Removes what is too old, a little at a time.
    pub(super) fn tidy(&mut self) -> Result<()> {
        if self.failures > 0 || self.last_tidy.elapsed() < TIDY {
            return Ok(());
        }
        self.last_tidy = Instant::now();
        self.shared.orders.forget_unused();
        let retention = self.shared.settings.read().retention;
        if let Some(age) = retention.clients {
            let catalogue = self.shared.catalogue.read();
            let newest = catalogue.newest();
            // A packet with a time that has not come yet makes nobody old.
            let today = clock::utc();
            let age = nanoseconds(age);
            let victims = catalogue.oldest(REMOVED_AT_ONCE, |key, last_seen, _| {
                let newest = newest[usize::from(key.interface())].min(today);
                last_seen < newest.saturating_sub(age)
            });
            drop(catalogue);
            if !victims.is_empty() {
                let more = victims.len() == REMOVED_AT_ONCE;
                self.flush(false, &victims)?;
                // Who asked again meanwhile is still there.
                let catalogue = self.shared.catalogue.read();
                let gone = victims
                    .iter()
                    .filter(|key| !catalogue.contains(key))
                    .count();
                drop(catalogue);
                add(&self.shared.statistics.expired, gone as u64);
                if more {
                    // The rest with the next flush.
                    self.last_tidy = Instant::now() - TIDY;
                }
            }
        }
        self.tidy_small_tables()
    }

    fn tidy_small_tables(&mut self) -> Result<()> {
        let shared = &self.shared;
        let retention = shared.settings.read().retention;
        let today = clock::utc();
        let interfaces = shared.interfaces.read().len().min(self.numbers.interfaces);
        let servers: Vec<Key> = retention.servers.map_or_else(Vec::new, |age| {
            let servers = shared.servers.read();
            let mut newest: HashMap<InterfaceId, i64> = HashMap::new();
            for (key, record) in servers.iter() {
                let newest = newest.entry(key.interface()).or_insert(i64::MIN);
                *newest = (*newest).max(record.last_seen());
            }
            let age = nanoseconds(age);
            servers
                .iter()
                .filter(|(key, record)| {
                    let newest = newest[&key.interface()].min(today);
                    record.last_seen() < newest.saturating_sub(age)
                })
                .map(|(key, _)| *key)
                .collect()
        });
        let store = self.store.as_mut().context("the database is not open")?;
        let writer = store.writer()?;
        writer.remove_servers(&servers)?;
        let mut removed = servers.len() as u64;
        for (resolution, age) in [
            (Resolution::Minute, retention.minutes),
            (Resolution::Hour, retention.hours),
            (Resolution::Day, retention.days),
        ] {
            let Some(age) = age else {
                continue;
            };
            let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            for interface in 0..interfaces as InterfaceId {
                if let Some(last) = writer.last_rollup(resolution, interface)? {
                    let last = last.min(today.div_euclid(1_000_000_000));
                    let before = last.saturating_sub(age);
                    removed +=
                        writer.remove_rollups(resolution, interface, before, ROLLUPS_AT_ONCE)?;
                }
            }
        }
        // Those that come are trimmed with their flush; here, what stays when none do.
        let newest = shared.catalogue.read().newest().into_iter().max();
        let newest = newest.unwrap_or(i64::MIN).min(today);
        let (most, before) = sessions_bounds(&shared.settings.read(), newest);
        removed += writer.trim_sessions(most, before, SESSIONS_AT_ONCE)?;
        if removed > 0 {
            let flushes = self.numbers.flushes + 1;
            writer.commit(flushes)?;
            self.numbers.flushes = flushes;
            let mut known = self.shared.servers.write();
            for key in &servers {
                known.remove(key);
            }
        }
        Ok(())
    }

    /// Removes what was seen last before a time, or counts it.
    pub(super) fn clean_up(&mut self, before: i64, dry_run: bool) -> Result<Removed> {
        // What is not written yet belongs to it.
        self.flush(false, &[])?;
        let clients = self
            .shared
            .catalogue
            .read()
            .oldest(usize::MAX, |_, last_seen, _| last_seen < before);
        let servers: Vec<Key> = self
            .shared
            .servers
            .read()
            .iter()
            .filter(|(_, record)| record.last_seen() < before)
            .map(|(key, _)| *key)
            .collect();
        let seconds = before.div_euclid(1_000_000_000);
        let interfaces = self.numbers.interfaces as InterfaceId;
        let reader = self.reader()?;
        let mut removed = Removed {
            clients: clients.len() as u64,
            servers: servers.len() as u64,
            sessions: reader.sessions_before(before)?,
            rollups: 0,
        };
        // One that has not ended by then is not before it.
        let ended = |resolution: Resolution| seconds - resolution.seconds().unwrap_or(0) + 1;
        for resolution in [Resolution::Minute, Resolution::Hour, Resolution::Day] {
            for interface in 0..interfaces {
                removed.rollups +=
                    reader.rollups_before(resolution, interface, ended(resolution))?;
            }
        }
        drop(reader);
        if dry_run {
            return Ok(removed);
        }
        for victims in clients.chunks(REMOVED_AT_ONCE) {
            self.go_on()?;
            self.flush(false, victims)?;
        }
        loop {
            self.go_on()?;
            let store = self.store.as_mut().context("the database is not open")?;
            let writer = store.writer()?;
            let sessions = writer.trim_sessions(u64::MAX, before, SESSIONS_AT_ONCE)?;
            let mut rollups = 0;
            for resolution in [Resolution::Minute, Resolution::Hour, Resolution::Day] {
                for interface in 0..interfaces {
                    let before = ended(resolution);
                    rollups +=
                        writer.remove_rollups(resolution, interface, before, ROLLUPS_AT_ONCE)?;
                }
            }
            writer.remove_servers(&servers)?;
            let flushes = self.numbers.flushes + 1;
            writer.commit(flushes)?;
            self.numbers.flushes = flushes;
            if sessions == 0 && rollups == 0 {
                break;
            }
        }
        let mut known = self.shared.servers.write();
        for key in &servers {
            known.remove(key);
        }
        Ok(removed)
    }
}
