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

/// Time passes in such steps, in nanoseconds: silence is noticed when it is, not when it ends.
const STEP: u64 = 250_000_000;
/// So many at most between two messages; longer ones then.
const STEPS: u64 = 64;

/// What is known of PTP.
pub(super) struct Ptp {
    settings: Settings,
    watchers: BTreeMap<u32, Watcher>,
    changes: Vec<(u32, Told)>,
    /// Changes that are not listed.
    more_changes: u64,
    /// Messages of interfaces that there are too many of.
    unlisted: u64,
    /// The latest time of a message.
    now: Option<u64>,
}

impl Ptp {
    pub(super) const fn new(timeout: u64) -> Self {
        Self {
            settings: Settings { timeout },
            watchers: BTreeMap::new(),
            changes: Vec::new(),
            more_changes: 0,
            unlisted: 0,
            now: None,
        }
    }

    pub(super) fn observe(&mut self, message: &Message) {
        self.pass(message);
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

    /// Lets the time pass until this message.
    fn pass(&mut self, message: &Message) {
        let time = message.event.time;
        let before = self.now.unwrap_or(time);
        self.now = Some(before.max(time));
        let gap = time.saturating_sub(before);
        let step = STEP.max(gap / STEPS);
        let (changes, more) = (&mut self.changes, &mut self.more_changes);
        for passed in (1..=gap / step).map(|number| number * step) {
            let unix = message.captured().map_or(Message::NO_TIME, |unix| {
                unix.saturating_sub_unsigned(gap - passed)
            });
            for (interface, watcher) in &mut self.watchers {
                watcher.advance(before + passed, unix, &mut |told| {
                    note(changes, more, *interface, told);
                });
            }
        }
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

#[cfg(test)]
mod tests {
    use ntpmon_common::PtpType;

    use super::*;
    use crate::ptp::{
        Change,
        made::{BEGAN, announce, message, port},
    };

    #[test]
    fn silence_in_a_file_is_noticed_while_it_lasts() {
        let mut ptp = Ptp::new(2_000_000_000);
        for second in 0..5 {
            ptp.observe(&announce(port(1), 6, second * 1000));
        }
        ptp.observe(&message(PtpType::DelayRequest, port(7), 1, 60_000));
        let (_, told) = &ptp.changes[0];
        let expected = Change::MasterChanged {
            before: Some(port(1)),
            after: None,
        };
        assert_eq!(told.change, expected);
        // Ten and a half seconds after its last word, at 4 s.
        let late = told.unix - (BEGAN + 14_500_000_000);
        assert!((0..1_000_000_000).contains(&late), "{late}");
    }
}
