//! Where alerts are kept: the states of those that are not well, and what became of all.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    instance::{Alert, Event, Record},
    rule::Rule,
    silence::Silence,
};
use crate::history::{
    History,
    shelf::{Change, Order, Shelf},
};

/// Under these names the history keeps what was made over the API.
const RULES: &str = "alert_rules";
const SILENCES: &str = "alert_silences";
/// No alert has this number: here stands the number of the last finding that was judged.
const JUDGED: u64 = 0;
/// What became of alerts is kept up to so many records.
const RECORDS: u64 = 100_000;
/// So many are read at a time.
const PAGE: usize = 1000;

pub(super) struct Memory {
    history: History,
    next_alert: AtomicU64,
    next_record: AtomicU64,
}

impl Memory {
    pub(super) fn open(history: History) -> Self {
        let newest = |shelf| {
            let newest = history.shelf(shelf, &[], &[], Order::Newest, 1);
            newest.unwrap_or_default().pop()
        };
        let number = |key: Vec<u8>| key.try_into().map(u64::from_be_bytes).unwrap_or(0);
        let kept = newest(Shelf::Alerts).map_or(0, |(key, _)| number(key));
        let records = history.shelf(Shelf::AlertHistory, &[], &[], Order::Newest, PAGE);
        let records = records.unwrap_or_default();
        // One that was bad for a moment and never fired may have had a greater number: nobody knows
        // of that any more.
        let told = records.iter().filter_map(|(_, value)| {
            let record = serde_json::from_slice::<Record>(value).ok()?;
            Some(record.alert_id)
        });
        let last_alert = kept.max(told.max().unwrap_or(0));
        let last_record = records.into_iter().next();
        let last_record = last_record.map_or(0, |(key, _)| number(key));
        Self {
            history,
            next_alert: AtomicU64::new(last_alert + 1),
            next_record: AtomicU64::new(last_record + 1),
        }
    }

    /// The alerts of the life before.
    pub(super) fn alerts(&self) -> Vec<Alert> {
        let read = self
            .history
            .shelf(Shelf::Alerts, &[], &[], Order::Oldest, usize::MAX);
        let items = read.unwrap_or_else(|error| {
            tracing::error!("the alerts of before cannot be read: {error}");
            Vec::new()
        });
        let alerts = items.iter().filter(|(place, _)| *place != key(JUDGED));
        let alerts = alerts.filter_map(|(_, value)| {
            let alert = serde_json::from_slice(value);
            alert
                .map_err(|error| tracing::error!("an alert of before cannot be read: {error}"))
                .ok()
        });
        alerts.collect()
    }

    /// Up to which finding all were judged, with what became of it in one piece.
    pub(super) fn judged(&self, number: u64) -> Option<Change> {
        (number > 0).then(|| Change::put(Shelf::Alerts, key(JUDGED), json(&number)))
    }

    /// The last finding that was judged in the life before, if any was.
    pub(super) fn last_finding(&self) -> Option<u64> {
        let (from, to) = (key(JUDGED), key(JUDGED + 1));
        let read = self
            .history
            .shelf(Shelf::Alerts, &from, &to, Order::Oldest, 1);
        let items = read.unwrap_or_else(|error| {
            tracing::error!("which findings were judged cannot be read: {error}");
            Vec::new()
        });
        serde_json::from_slice(&items.first()?.1).ok()
    }

    pub(super) fn next_alert(&self) -> u64 {
        self.next_alert.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn with(&self, alert: &Alert) -> Change {
        Change::put(Shelf::Alerts, key(alert.id), json(alert))
    }

    pub(super) fn without(&self, alert: &Alert) -> Change {
        Change::remove(Shelf::Alerts, key(alert.id))
    }

    /// What became of an alert; in the place of what became of one long ago.
    pub(super) fn record(&self, alert: &Alert, event: Event, now: Timestamp) -> Vec<Change> {
        let number = self.next_record.fetch_add(1, Ordering::Relaxed);
        let record = alert.record(number, event, now);
        let mut changes = vec![Change::put(Shelf::AlertHistory, key(number), json(&record))];
        if let Some(old) = number.checked_sub(RECORDS).filter(|old| *old > 0) {
            changes.push(Change::remove(Shelf::AlertHistory, key(old)));
        }
        changes
    }

    pub(super) fn put(&self, changes: Vec<Change>) -> bool {
        self.history.put(changes)
    }

    pub(super) fn records(
        &self,
        before: Option<u64>,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Record>> {
        let mut found = Vec::new();
        let mut to = before.map(key).unwrap_or_default();
        loop {
            let history = &self.history;
            let page = history.shelf(Shelf::AlertHistory, &[], &to, Order::Newest, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            to.clone_from(last);
            let records = page
                .iter()
                .filter_map(|(_, value)| serde_json::from_slice::<Record>(value).ok());
            found.extend(records.filter(&wanted));
            if found.len() >= limit || page.len() < PAGE {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Removes what became of alerts longer ago than that, some at a time.
    pub(super) fn forget_records(&self, now: Timestamp, age: Duration) {
        let oldest = self
            .history
            .shelf(Shelf::AlertHistory, &[], &[], Order::Oldest, PAGE);
        let oldest = match oldest {
            Ok(oldest) => oldest,
            Err(error) => {
                tracing::warn!("what became of old alerts cannot be read: {error}");
                return;
            }
        };
        let is_old = |value: &[u8]| {
            let record = serde_json::from_slice::<Record>(value);
            record.map_or(true, |record| {
                let passed = Duration::try_from(now.duration_since(record.time));
                passed.is_ok_and(|passed| passed > age)
            })
        };
        let old = oldest.into_iter().take_while(|(_, value)| is_old(value));
        let changes = old.map(|(key, _)| Change::remove(Shelf::AlertHistory, key));
        self.put(changes.collect());
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        self.read(RULES)
    }

    pub(super) fn set_rules(&self, rules: &[Rule]) {
        self.history.set_document(RULES, json(&rules));
    }

    pub(super) fn silences(&self) -> Vec<Silence> {
        self.read(SILENCES)
    }

    pub(super) fn set_silences(&self, silences: &[Silence]) {
        self.history.set_document(SILENCES, json(&silences));
    }

    /// Each by itself: one that a later version made is no reason to lose the others.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Vec<T> {
        let Some(bytes) = self.history.document(name) else {
            return Vec::new();
        };
        let all: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!("{name} of before cannot be read: {error}");
            Vec::new()
        });
        let each = all.into_iter().filter_map(|value| {
            let read = serde_json::from_value(value);
            read.map_err(|error| tracing::error!("one of {name} cannot be read: {error}"))
                .ok()
        });
        each.collect()
    }
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Texts and numbers: nothing in them can fail.
    serde_json::to_vec(value).unwrap_or_default()
}
