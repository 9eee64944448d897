//! What a replay learns of PTP over all its files: a watcher for each interface, and what they know
//! at the end, as a part of the totals.

use std::collections::BTreeMap;

use anyhow::Result;
use ntpmon_common::{Counter, Counters};
use serde_json::{Map, Value, json};

use super::Interfaces;
use crate::ptp::{
    Message, Settings, Told, Watcher,
    view::{DomainView, MasterView, Moment},
};

/// Interfaces of files at most: each name in a file can be another one.
const INTERFACES: usize = 256;
/// Changes that are listed at most.
const CHANGES: usize = 10_000;

/// What is known of PTP.
pub(super) struct Ptp {
    settings: Settings,
    watchers: BTreeMap<u32, Watcher>,
    changes: Vec<(u32, Told)>,
    /// Changes that are not listed.
    more_changes: u64,
    /// Messages of interfaces that there are too many of.
    unlisted: u64,
}

impl Ptp {
    pub(super) const fn new(timeout: u64) -> Self {
        Self {
            settings: Settings { timeout },
            watchers: BTreeMap::new(),
            changes: Vec::new(),
            more_changes: 0,
            unlisted: 0,
        }
    }

    pub(super) fn observe(&mut self, message: &Message) {
        let interface = message.event.interface;
        if self.watchers.len() >= INTERFACES && !self.watchers.contains_key(&interface) {
            self.unlisted += 1;
            return;
        }
        let settings = self.settings;
        let watcher = self
            .watchers
            .entry(interface)
            .or_insert_with(|| Watcher::new(settings));
        let (changes, more) = (&mut self.changes, &mut self.more_changes);
        watcher.observe(message, &mut |told| note(changes, more, interface, told));
    }

    /// All of it, when there is nothing more to come: what waits will wait no longer.
    pub(super) fn finish(&mut self, counters: &Counters, interfaces: &Interfaces) -> Result<Value> {
        let (mut domains, mut masters) = (Vec::new(), Vec::new());
        let mut unlisted = self.unlisted;
        for (interface, watcher) in &mut self.watchers {
            let moment = Moment::End(watcher.now());
            let (changes, more) = (&mut self.changes, &mut self.more_changes);
            watcher.conclude(&mut |told| note(changes, more, *interface, told));
            unlisted += watcher.unlisted();
            let name = interfaces.name(*interface);
            for (key, domain) in watcher.domains() {
                domains.push(DomainView::new(name, key, domain, moment));
                let all = domain.masters.values();
                masters.extend(all.map(|it| MasterView::new(name, key, domain, it, moment)));
            }
        }
        let changes: Vec<Map<String, Value>> = self
            .changes
            .iter()
            .map(|(interface, told)| told.object(interfaces.name(*interface)))
            .collect();
        Ok(json!({
            "packets": counters.get(Counter::PtpEmitted),
            "unlisted_messages": unlisted,
            "domains": serde_json::to_value(domains)?,
            "masters": serde_json::to_value(masters)?,
            "changes": changes,
            "unlisted_changes": self.more_changes,
        }))
    }
}

fn note(changes: &mut Vec<(u32, Told)>, more: &mut u64, interface: u32, told: &Told) {
    if changes.len() < CHANGES {
        changes.push((interface, told.clone()));
    } else {
        *more += 1;
    }
}
