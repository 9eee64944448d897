//! What a flush is to write: who of the clients gets a record, who has to go for them, and which
//! numbers the sessions have. Decided before anything is written.

use std::collections::{BTreeMap, HashMap, HashSet};

use foldhash::fast::RandomState;

use super::{REMOVED_AT_ONCE, Writer, doorkeeper::Doorkeeper};
use crate::history::{
    Settings,
    client::{ClientRecord, News, Tally},
    fold::Delta,
    key::Key,
    server::ServerRecord,
    session::SessionRecord,
    store::{self, Ledger},
};

/// A flush as it is to be written.
#[derive(Default)]
pub(super) struct Plan {
    /// Who changes, in order, each once.
    pub(super) changes: Vec<Change>,
    /// What came of those that several deltas have.
    pub(super) sums: Vec<ClientRecord>,
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) refused: u64,
    /// Records that have to go, in order.
    pub(super) victims: Vec<Key>,
    pub(super) evicted: u64,
    pub(super) ledgers: Vec<Ledger>,
    pub(super) sessions: Vec<SessionRecord>,
    pub(super) servers: Vec<(Key, ServerRecord)>,
    pub(super) servers_removed: Vec<Key>,
    pub(super) unnamed_servers: u64,
    pub(super) left_out: u64,
    /// Who asked without having a record: the next time they are known.
    pub(super) asked: Vec<Key>,
}

/// A client in a delta, or in the sums of several.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) delta: u32,
    pub(super) place: u32,
}

/// In place of a delta's number: it is in the sums.
const SUMS: u32 = u32::MAX;

impl Plan {
    /// What came of a client.
    pub(super) fn news<'a>(&'a self, deltas: &[&'a Delta], change: &Change) -> News<'a> {
        match change.delta {
            SUMS => News::Record(&self.sums[change.place as usize]),
            delta => deltas[delta as usize].clients.get(change.place as usize),
        }
    }

    /// How many clients it has something of.
    pub(super) const fn entries(&self) -> usize {
        self.changes.len() + self.victims.len()
    }

    /// All of them in order.
    pub(super) fn in_order<'a>(
        &'a self,
        deltas: &'a [&'a Delta],
    ) -> impl Iterator<Item = (Key, store::Change<'a>)> {
        let mut changes = self.changes.iter().peekable();
        let mut victims = self.victims.iter().copied().peekable();
        std::iter::from_fn(move || {
            let next = changes.peek().map(|change| change.key);
            if let Some(key) = victims.next_if(|victim| next.is_none_or(|next| *victim < next)) {
                return Some((key, store::Change::Removed));
            }
            let change = changes.next()?;
            Some((change.key, store::Change::Came(self.news(deltas, change))))
        })
    }

    /// Leaves each client once.
    fn add_up(&mut self, deltas: &[&mut Delta]) {
        let news = |change: &Change| {
            let clients = &deltas[change.delta as usize].clients;
            clients.get(change.place as usize).record()
        };
        let mut sums = Vec::new();
        self.changes.dedup_by(|next, first| {
            if next.key != first.key {
                return false;
            }
            if first.delta != SUMS {
                sums.push(news(first));
                first.delta = SUMS;
                first.place = sums.len() as u32 - 1;
            }
            sums[first.place as usize].absorb(&news(next));
            true
        });
        self.sums = sums;
    }
}

impl Writer {
    /// Decides who gets a record, and numbers the sessions.
    pub(super) fn plan(
        &mut self,
        deltas: &mut [&mut Delta],
        victims: &[Key],
        settings: &Settings,
    ) -> Plan {
        if self.doorkeeper.clients != settings.max_clients {
            self.doorkeeper = Doorkeeper::new(settings.max_clients);
        }
        let mut plan = Plan {
            ledgers: self.shared.ledgers.read().clone(),
            victims: victims.to_vec(),
            ..Plan::default()
        };
        for (number, delta) in deltas.iter().enumerate() {
            let keys = delta.clients.addresses().enumerate();
            plan.changes.extend(keys.map(|(place, address)| Change {
                key: Key::new(*address, delta.interface),
                delta: number as u32,
                place: place as u32,
            }));
            plan.ledgers[usize::from(delta.interface)].add_other(delta.unnamed);
            plan.left_out += delta.sessions_left_out;
            plan.unnamed_servers += delta.unnamed_servers;
        }
        plan.changes.sort_unstable_by_key(|change| change.key);
        let refused = self.admit(&mut plan, deltas, settings);
        // Who asks again stays.
        let changes = &plan.changes;
        plan.victims.sort_unstable();
        plan.victims.dedup();
        plan.victims.retain(|key| {
            changes
                .binary_search_by(|change| change.key.cmp(key))
                .is_err()
        });

        let mut last: HashMap<Key, u64, RandomState> = HashMap::default();
        let catalogue = self.shared.catalogue.read();
        plan.victims.retain(|key| match catalogue.exchanges(key) {
            Some(exchanges) => {
                plan.ledgers[usize::from(key.interface())].forget(exchanges);
                true
            }
            None => false,
        });
        for delta in deltas.iter_mut() {
            let Delta {
                sessions, clients, ..
            } = &mut **delta;
            for session in sessions {
                let key = *session.key();
                let number = self.numbers.next_session + plan.sessions.len() as u64;
                if refused.contains(&key) || !clients.set_last_session(&key.address, number) {
                    plan.left_out += 1;
                    continue;
                }
                let previous = last
                    .insert(key, number)
                    .unwrap_or_else(|| catalogue.last_session(&key));
                session.set_previous(previous);
                plan.sessions.push(*session);
            }
        }
        drop(catalogue);
        plan.add_up(deltas);
        self.plan_servers(&mut plan, deltas, settings);
        plan
    }

    /// Keeps within the bound of clients. As long as there is much room everybody gets a record.
    /// When it gets tight only who asks a second time does: forged sources never do. When there is
    /// none, those who were seen only once, longest ago, make room.
    fn admit(
        &mut self,
        plan: &mut Plan,
        deltas: &[&mut Delta],
        settings: &Settings,
    ) -> HashSet<Key, RandomState> {
        let mut refused: HashSet<Key, RandomState> = HashSet::default();
        let catalogue = self.shared.catalogue.read();
        let reserve = settings.max_clients / 16;
        let mut room = settings.max_clients.saturating_sub(catalogue.len());
        let mut wanted = 0;
        let mut returning: HashSet<Key, RandomState> = HashSet::default();
        for group in plan.changes.chunk_by(|one, next| one.key == next.key) {
            let key = group[0].key;
            if catalogue.contains(&key) {
                plan.updated += 1;
            } else if room > reserve {
                room -= 1;
                plan.inserted += 1;
            } else {
                let exchanges = exchanges(deltas, group);
                let seen_before = self.doorkeeper.has_seen(&key);
                plan.asked.push(key);
                if exchanges.exchanges > 1 || seen_before {
                    wanted += 1;
                    returning.insert(key);
                } else {
                    plan.refused += 1;
                    plan.ledgers[usize::from(key.interface())].add_other(exchanges);
                    refused.insert(key);
                }
            }
        }
        if wanted > room {
            let most = (wanted - room).max(reserve.min(REMOVED_AT_ONCE));
            let changes = &plan.changes;
            let is_idle = |key: &Key| {
                changes
                    .binary_search_by(|change| change.key.cmp(key))
                    .is_err()
            };
            let mut victims =
                catalogue.oldest(most, |key, _, sessions| sessions == 1 && is_idle(key));
            if victims.len() < wanted - room {
                let more = wanted - room - victims.len();
                victims.extend(
                    catalogue.oldest(more, |key, _, sessions| sessions > 1 && is_idle(key)),
                );
            }
            plan.evicted += victims.len() as u64;
            room += victims.len();
            plan.victims.extend(victims);
        }
        // Only when more clients change at once than there may be.
        let mut over = wanted.saturating_sub(room);
        for group in plan.changes.chunk_by(|one, next| one.key == next.key) {
            let key = group[0].key;
            if over == 0 {
                break;
            }
            if returning.remove(&key) {
                over -= 1;
                plan.refused += 1;
                let exchanges = exchanges(deltas, group);
                plan.ledgers[usize::from(key.interface())].add_other(exchanges);
                refused.insert(key);
            }
        }
        plan.inserted += returning.len() as u64;
        if !refused.is_empty() {
            plan.changes.retain(|change| !refused.contains(&change.key));
        }
        refused
    }

    fn plan_servers(&self, plan: &mut Plan, deltas: &[&mut Delta], settings: &Settings) {
        let servers = self.shared.servers.read();
        let mut changed: BTreeMap<Key, ServerRecord> = BTreeMap::new();
        for delta in deltas {
            for (address, record) in &delta.servers {
                let key = Key::new(*address, delta.interface);
                if let Some(known) = changed.get_mut(&key) {
                    known.absorb(record);
                } else if let Some(known) = servers.get(&key) {
                    let mut known = *known;
                    known.absorb(record);
                    changed.insert(key, known);
                } else {
                    changed.insert(key, *record);
                }
            }
        }
        for delta in deltas {
            for (address, strays) in &delta.strays {
                let key = Key::new(*address, delta.interface);
                // Who was never asked gets no record by answering.
                if let Some(known) = changed.get_mut(&key) {
                    known.add_strays(*strays);
                } else if let Some(known) = servers.get(&key) {
                    let mut known = *known;
                    known.add_strays(*strays);
                    changed.insert(key, known);
                }
            }
        }
        let new = changed
            .keys()
            .filter(|key| !servers.contains_key(key))
            .count();
        let over = (servers.len() + new).saturating_sub(settings.max_servers);
        if over > 0 {
            // Those that never answered go first, then those that were asked longest ago.
            let mut idle: Vec<_> = servers
                .iter()
                .filter(|(key, _)| !changed.contains_key(key))
                .map(|(key, record)| (record.answered() > 0, record.last_seen(), *key))
                .collect();
            idle.sort_unstable();
            plan.servers_removed = idle.into_iter().take(over).map(|(_, _, key)| key).collect();
            let mut still_over = over - plan.servers_removed.len();
            changed.retain(|key, record| {
                let refused = still_over > 0 && !servers.contains_key(key);
                if refused {
                    still_over -= 1;
                    plan.unnamed_servers += record.answered() + record.unanswered();
                }
                !refused
            });
        }
        plan.servers = changed.into_iter().collect();
    }
}

/// How often a client asked, by all deltas.
fn exchanges(deltas: &[&mut Delta], changes: &[Change]) -> Tally {
    let mut sum = Tally::default();
    for change in changes {
        let clients = &deltas[change.delta as usize].clients;
        sum.add(clients.get(change.place as usize).exchanges());
    }
    sum
}
