//! What is kept in memory for the metrics, so that whoever asks for them reads no file and looks at
//! no client: what happened on each interface since the database began, as far as it was written;
//! how long flushes took; and which servers have the most to do.
//!
//! Only what was written is told. So nothing that was told is gone after a restart, however the
//! daemon ended, and these counters go on over it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{
    History, Shared,
    client::Tally,
    histogram::Histogram,
    key::{InterfaceId, Key},
    rollup::{Count, Resolution, Rollup},
    server::ServerRecord,
    servers::ServerHealth,
};

/// Which servers have the most to do is found out again this often.
const CHOSEN_FOR: Duration = Duration::from_secs(60);
/// Servers that are looked at before others may have them.
const LOOKED_AT: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Measures {
    /// By interface.
    wholes: RwLock<Vec<Rollup>>,
    /// In nanoseconds, since the daemon started.
    flushes: Mutex<Histogram>,
    /// How many were wanted, which they were, and when that was found out.
    busiest: Mutex<Option<(usize, Vec<Key>, Instant)>>,
}

impl Measures {
    /// Takes what a file holds.
    pub(super) fn remember(&self, wholes: Vec<Rollup>) {
        *self.wholes.write() = wholes;
    }

    /// Whether that is what is told of an interface.
    pub(super) fn has(&self, interface: InterfaceId, whole: &Rollup) -> bool {
        self.wholes.read().get(usize::from(interface)) == Some(whole)
    }

    /// Adds what was written.
    pub(super) fn add(&self, written: &BTreeMap<(Resolution, InterfaceId, i64), Rollup>) {
        let mut wholes = self.wholes.write();
        for ((resolution, interface, _), rollup) in written {
            if *resolution != Resolution::All {
                continue;
            }
            let place = usize::from(*interface);
            if wholes.len() <= place {
                wholes.resize_with(place + 1, Rollup::default);
            }
            wholes[place].merge(rollup);
        }
    }

    /// Notes how long a flush took.
    pub(super) fn flushed(&self, nanoseconds: u64) {
        let took = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
        self.flushes.lock().add(took);
    }
}

/// What there is to tell of an interface.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What happened since the database began, as far as it was written.
    pub whole: Rollup,
    /// Clients with a record.
    pub clients: u64,
    /// Exchanges of clients that never got a record.
    pub other: Tally,
    /// Records that were removed.
    pub forgotten_clients: u64,
}

impl History {
    /// The interfaces with the most exchanges, by name, at most so many; and how many others there
    /// are.
    #[must_use]
    pub fn measured(&self, most: usize) -> (Vec<Measured>, u64) {
        let shared = &self.0;
        let names = shared.interfaces.read().clone();
        let ledgers = shared.ledgers.read().clone();
        let clients: Vec<u64> = {
            let catalogue = shared.catalogue.read();
            let count = |place| catalogue.count_on(place as InterfaceId);
            (0..names.len()).map(count).collect()
        };
        let wholes = shared.measures.wholes.read();
        let exchanges = |place: &usize| wholes.get(*place).map_or(0, |it| it.get(Count::exchanges));
        let mut places: Vec<usize> = (0..names.len()).collect();
        places.sort_by_key(|place| std::cmp::Reverse(exchanges(place)));
        let left_out = places.len().saturating_sub(most) as u64;
        places.truncate(most);
        places.sort_by_key(|place| &names[*place]);
        let measured = places.into_iter().map(|place| {
            let ledger = ledgers.get(place).copied().unwrap_or_default();
            Measured {
                name: names[place].clone(),
                whole: wholes.get(place).cloned().unwrap_or_default(),
                clients: clients[place],
                other: ledger.other(),
                forgotten_clients: ledger.forgotten_clients(),
            }
        });
        (measured.collect(), left_out)
    }

    /// The servers with the most exchanges, at most so many, in the order of addresses; and how many
    /// others there are. Where there are others, who is among them is found out once a minute.
    #[must_use]
    pub fn busiest_servers(&self, most: usize) -> (Vec<ServerHealth>, u64) {
        let shared = &self.0;
        let count = shared.servers.read().len();
        let keys = match count > most {
            true => Some(shared.busiest(most)),
            false => None,
        };
        let (found, count): (Vec<(Key, ServerRecord)>, usize) = {
            let servers = shared.servers.read();
            let found = match keys {
                Some(keys) => keys
                    .iter()
                    .filter_map(|key| Some((*key, *servers.get(key)?)))
                    .collect(),
                None => (servers.iter().take(most))
                    .map(|(key, record)| (*key, *record))
                    .collect(),
            };
            (found, servers.len())
        };
        // With no lock: the rings' threads are asked next.
        let found: Vec<ServerHealth> = found
            .iter()
            .map(|(key, record)| shared.server_health(key, record))
            .collect();
        let left_out = count.saturating_sub(found.len()) as u64;
        (found, left_out)
    }

    /// How long flushes took since the daemon started, in nanoseconds.
    #[must_use]
    pub fn flushes(&self) -> Histogram {
        self.0.measures.flushes.lock().clone()
    }
}

impl Shared {
    fn busiest(&self, most: usize) -> Vec<Key> {
        let mut known = self.measures.busiest.lock();
        if let Some((wanted, keys, at)) = &*known
            && *wanted == most
            && at.elapsed() < CHOSEN_FOR
        {
            return keys.clone();
        }
        let mut found: Vec<(u64, Key)> = Vec::with_capacity(2 * most + 1);
        let mut from = Bound::Unbounded;
        loop {
            let servers = self.servers.read();
            let mut last = None;
            for (key, record) in servers.range((from, Bound::Unbounded)).take(LOOKED_AT) {
                last = Some(*key);
                found.push((record.answered() + record.unanswered(), *key));
                if found.len() > 2 * most {
                    keep_greatest(&mut found, most);
                }
            }
            let Some(last) = last else {
                break;
            };
            from = Bound::Excluded(last);
        }
        keep_greatest(&mut found, most);
        let mut keys: Vec<Key> = found.into_iter().map(|(_, key)| key).collect();
        keys.sort_unstable();
        *known = Some((most, keys.clone(), Instant::now()));
        keys
    }
}

/// Of those with the same number the first by their keys: it has to be the same ones each time.
fn keep_greatest(found: &mut Vec<(u64, Key)>, most: usize) {
    found.sort_unstable_by(|(one, first), (other, second)| other.cmp(one).then(first.cmp(second)));
    found.truncate(most);
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        history::{
            Settings,
            made::{BEGIN, ask},
        },
        pipeline::Sink,
    };

    fn exchanges(history: &History) -> u64 {
        let (measured, _) = history.measured(10);
        let exchanges = |it: &Measured| it.whole.get(Count::exchanges);
        measured.iter().map(exchanges).sum()
    }

    #[test]
    fn what_was_written_is_told_and_goes_on_over_a_restart() {
        let directory = TempDir::new().unwrap();
        let settings = Settings {
            flush_interval: Duration::from_secs(3600),
            ..Settings::default()
        };
        let history = History::open(directory.path(), settings.clone()).unwrap();
        for (interface, count) in [("eth0", 3), ("eth1", 5), ("lo", 1)] {
            let mut feed = history.feed(interface);
            for client in 0..count {
                feed.exchange(&ask(client, BEGIN).exchange());
            }
        }
        // What is not written may be gone after a restart, and a counter does not go back.
        assert_eq!(exchanges(&history), 0);
        history.flush().unwrap();
        assert_eq!(exchanges(&history), 9);
        assert_eq!(history.flushes().count(), 1);
        let told = |history: &History, most| {
            let (measured, left_out) = history.measured(most);
            let told = measured.iter().map(|it| (it.name.clone(), it.clients));
            (told.collect::<Vec<_>>(), left_out)
        };
        let two = [("eth0".to_owned(), 3), ("eth1".to_owned(), 5)];
        assert_eq!(told(&history, 2), (two.to_vec(), 1));
        history.stop();
        let history = History::open(directory.path(), settings).unwrap();
        assert_eq!(exchanges(&history), 9);
        let mut feed = history.feed("eth1");
        feed.exchange(&ask(1, BEGIN).unanswered().exchange());
        history.flush().unwrap();
        let (measured, _) = history.measured(10);
        let on = |name| measured.iter().find(|it| it.name == name).unwrap();
        assert_eq!(on("eth1").whole.get(Count::unanswered), 1);
        assert_eq!(on("eth1").whole.total.count(), 5);
        assert_eq!(exchanges(&history), 10);
        // The file says the same.
        let file = history.interface_statistics().unwrap();
        let file: u64 = file.iter().map(|it| it.session_count).sum();
        assert_eq!(file, 10);
    }

    #[test]
    fn the_busiest_servers_are_told_and_the_rest_is_counted() {
        let directory = TempDir::new().unwrap();
        let history = History::open(directory.path(), Settings::default()).unwrap();
        let mut feed = history.feed("eth0");
        for server in 1..=20_u8 {
            for number in 0..u32::from(server) {
                feed.exchange(&ask(number, BEGIN).server(server).exchange());
            }
        }
        history.flush().unwrap();
        let told = |most| {
            let (servers, left_out) = history.busiest_servers(most);
            let counts: Vec<u64> = servers.iter().map(|it| it.session_count).collect();
            (counts, left_out)
        };
        assert_eq!(told(3), (vec![18, 19, 20], 17));
        assert_eq!(told(20), ((1..=20).collect(), 0));
        // Who they are is kept for a while, what they did is not.
        assert_eq!(told(3), (vec![18, 19, 20], 17));
        for number in 0..30 {
            feed.exchange(&ask(number, BEGIN).server(1).exchange());
        }
        feed.exchange(&ask(1, BEGIN).server(18).exchange());
        history.flush().unwrap();
        assert_eq!(told(3), (vec![19, 19, 20], 17));
        assert_eq!(told(2), (vec![31, 20], 18));
    }
}
