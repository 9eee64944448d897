//! Answers questions from the catalogue and the file, at any time and beside the writer. Blocking:
//! never called on an async thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Error;
use parking_lot::RwLockReadGuard;

use self::orders::FEW;
use super::{
    History, Shared,
    catalogue::{Catalogue, Filter, LOOKED_AT, Picked, Row, SCANNED, Sort},
    client::ClientRecord,
    key::{InterfaceId, Key},
    rollup::{Count, Resolution, Rollup},
    search::Range,
    server::ServerRecord,
    shelf::{Item, Order, Shelf},
    store::Reader,
    view::{
        Activity, Client, ClientDetail, HistoryHealth, HourOfClient, InterfaceStatistics,
        RollupView, Server, ServiceStatistics, Session, time,
    },
};
use crate::netlink;

pub mod figures;
mod orders;
mod shelves;
#[cfg(test)]
mod tests;

pub(super) use self::orders::Orders;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The file cannot be used at the moment.
    #[error("the history cannot be read at the moment: {0}")]
    Unavailable(String),
    /// The cursor is none that was given out.
    #[error(
        "'{0}' is no cursor of this list: take next_cursor of the page before, with the same sort \
         and order, or leave it out"
    )]
    Cursor(String),
    /// Reading failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A page, from 1.
    Page(u64),
    /// What follows on a page; the beginning, where there is none before.
    After(Option<String>),
}

/// Which clients are wanted.
#[derive(Clone, Debug)]
pub struct ClientQuery {
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// The greatest first.
    pub descending: bool,
    /// Which part of them.
    pub part: Part,
    /// How many.
    pub size: usize,
}

impl ClientQuery {
    /// A number for each order that there is.
    const fn order(&self) -> u8 {
        (self.sort as u8) << 1 | self.descending as u8
    }
}

/// Some of the clients that were asked for.
#[derive(Debug)]
pub struct ClientPage {
    /// They.
    pub clients: Vec<Client>,
    /// How many there are in all.
    pub total: u64,
    /// Where the next ones begin; nothing at the end.
    pub next_cursor: Option<String>,
}

/// Clients at the beginning of a list that are found without putting all in order, and how long they
/// are the first.
const FIRST: usize = 1000;
const BEGINNING: Duration = Duration::from_secs(1);
/// How long an answer waits for a compaction.
const COMPACTION: Duration = Duration::from_secs(5);

impl Shared {
    /// Waits while the file is compacted: who asks meanwhile is answered late rather than not.
    /// Called before any lock is taken.
    fn settle(&self) {
        let end = Instant::now() + COMPACTION;
        while self.readable.read().is_none() && Instant::now() < end {
            let state = self.state.lock();
            if state.failure.is_some() || state.ended {
                return;
            }
            drop(state);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn reader(&self) -> Result<Reader, QueryError> {
        let Some(readable) = self.readable.read().clone() else {
            let state = self.state.lock();
            let why = state.failure.as_ref().map(|(why, _)| why.clone());
            return Err(QueryError::Unavailable(
                why.unwrap_or_else(|| "it is being compacted".to_owned()),
            ));
        };
        Ok(readable.reader()?)
    }

    /// What the file has of a shelf.
    pub(super) fn written_shelf(
        &self,
        shelf: Shelf,
        from: &[u8],
        to: &[u8],
        order: Order,
        limit: usize,
    ) -> Result<Vec<Item>, QueryError> {
        self.settle();
        Ok(self.reader()?.shelf(shelf, from, to, order, limit)?)
    }

    /// Clients as they are, wherever their changes stand.
    fn records(&self, keys: &[Key]) -> Result<Vec<Option<ClientRecord>>, QueryError> {
        self.settle();
        // Held until the file's state is fixed: a run that is in it and not in the catalogue yet
        // has a slot that nobody points to, so each client is found as it was before that.
        let catalogue = self.catalogue.read();
        let reader = self.reader()?;
        let runs: Vec<Option<Vec<u64>>> = keys.iter().map(|key| catalogue.runs_of(key)).collect();
        drop(catalogue);
        let mut clients = reader.clients()?;
        let records = keys.iter().zip(runs).map(|(key, runs)| match runs {
            Some(runs) => clients.get(key, runs.into_iter()),
            None => Ok(None),
        });
        Ok(records.collect::<anyhow::Result<_>>()?)
    }

    /// A part of those of some rows who are picked, put in order as they are now.
    fn sorted(&self, rows: &[Row], query: &ClientQuery, cursor: Option<Cursor>) -> Keys {
        let mut all = Vec::with_capacity(rows.len());
        for rows in rows.chunks(LOOKED_AT) {
            let catalogue = self.catalogue.read();
            all.extend(rows.iter().filter_map(|row| catalogue.picked(*row, query)));
            RwLockReadGuard::unlock_fair(catalogue);
        }
        all.sort_unstable_by(|one, other| one.compare(other, query));
        let start = match (&query.part, cursor) {
            (Part::Page(page), _) => position(*page, query.size),
            (Part::After(_), None) => 0,
            (Part::After(_), Some(cursor)) => {
                all.partition_point(|it| it.compare(&cursor, query).is_le())
            }
        };
        let end = start.saturating_add(query.size).min(all.len());
        let part = all.get(start..end).unwrap_or_default();
        let next = part.last().filter(|_| end < all.len());
        let keys = part.iter().map(|it| it.key).collect();
        (keys, all.len() as u64, next.copied())
    }

    /// A part of the beginning of a list of all clients, where they would have to be put in order for
    /// it.
    fn first(self: &Arc<Self>, query: &ClientQuery) -> Option<Keys> {
        let start = match query.part {
            Part::Page(page) => position(page, query.size),
            Part::After(None) => 0,
            Part::After(Some(_)) => return None,
        };
        let is_near = start.saturating_add(query.size) <= FIRST && query.filter.is_all();
        let clients = self.catalogue.read().len();
        if !is_near || clients <= FEW || query.sort == Sort::ClientIp || self.is_ready(query.sort) {
            return None;
        }
        let beginning = self.beginning(query);
        let catalogue = self.catalogue.read();
        let is_there = |it: &&Cursor| catalogue.key(it.row) == Some(it.key);
        let mut rest = beginning.iter().filter(is_there).skip(start);
        let part: Vec<Cursor> = rest.by_ref().take(query.size).copied().collect();
        let next = part.last().filter(|_| rest.next().is_some());
        let keys = part.iter().map(|it| it.key).collect();
        Some((keys, clients as u64, next.copied()))
    }

    /// The first of all clients, as they were a second ago at most. To find them takes some
    /// milliseconds; who comes meanwhile waits for that.
    fn beginning(&self, query: &ClientQuery) -> Arc<Vec<Cursor>> {
        let mut known = self.orders.beginnings.lock();
        let list = (query.sort, query.descending);
        if let Some((at, beginning)) = known.get(&list)
            && at.elapsed() < BEGINNING
        {
            return Arc::clone(beginning);
        }
        // One more shows that more follow.
        let most = FIRST + 1;
        let at = Instant::now();
        let mut found: Vec<Cursor> = Vec::with_capacity(2 * most);
        let mut last: Option<Cursor> = None;
        let mut row = 0;
        self.in_slices(|catalogue| {
            let end = row + SCANNED as Row;
            let more = end < catalogue.rows();
            for row in row..end.min(catalogue.rows()) {
                // Nearly all are behind those that were found: a look at the value shows it.
                let value = catalogue.value(row, query.sort);
                let is_behind = |last: Cursor| match query.descending && value != u64::MAX {
                    true => value < last.value && last.value != u64::MAX,
                    false => value > last.value,
                };
                if last.is_some_and(is_behind) {
                    continue;
                }
                let Some(here) = catalogue.picked(row, query) else {
                    continue;
                };
                found.push(here);
                if found.len() == 2 * most {
                    found.select_nth_unstable_by(most - 1, |one, other| one.compare(other, query));
                    found.truncate(most);
                    last = found.last().copied();
                }
            }
            row = end;
            more
        });
        found.sort_unstable_by(|one, other| one.compare(other, query));
        found.truncate(most);
        let beginning = Arc::new(found);
        known.insert(list, (at, Arc::clone(&beginning)));
        beginning
    }

    /// A part of all clients, or of those who were picked, in the order of their addresses.
    fn by_address(
        &self,
        picked: Option<&Picked>,
        query: &ClientQuery,
        cursor: Option<Cursor>,
    ) -> Keys {
        /// How often it is looked at who follows, before it is asked of all whether he does: those
        /// who are picked may all be far away.
        const NEAR: usize = 4;
        let most = query.size.saturating_add(1);
        let mut after = cursor.map(|cursor| cursor.key);
        let mut keys: Vec<Key> = Vec::with_capacity(most);
        for looks in 1.. {
            let catalogue = self.catalogue.read();
            let rest = most - keys.len();
            let (found, next) = catalogue.after_key(after, query.descending, &query.filter, rest);
            keys.extend(found.into_iter().map(|(key, _)| key));
            after = next;
            if keys.len() == most || next.is_none() {
                break;
            }
            RwLockReadGuard::unlock_fair(catalogue);
            if let Some(picked) = picked.filter(|_| looks == NEAR) {
                let rest = most - keys.len();
                keys.extend(self.nearest(picked, after, query, rest));
                break;
            }
        }
        let more = keys.len() > query.size;
        keys.truncate(query.size);
        let next = keys.last().filter(|_| more).map(|key| Cursor {
            value: 0,
            row: 0,
            key: *key,
        });
        let total = picked.map_or_else(|| self.catalogue.read().len(), Picked::len);
        (keys, total as u64, next)
    }

    /// Those who follow on a key of all who were picked, by asking each.
    fn nearest(
        &self,
        picked: &Picked,
        after: Option<Key>,
        query: &ClientQuery,
        most: usize,
    ) -> Vec<Key> {
        let nearest = |keys: &mut Vec<Key>| {
            if query.descending {
                keys.sort_unstable_by(|one, other| other.cmp(one));
            } else {
                keys.sort_unstable();
            }
            keys.truncate(most);
        };
        let mut keys = Vec::new();
        let mut rows = picked.rows().peekable();
        while rows.peek().is_some() {
            let catalogue = self.catalogue.read();
            let found = rows.by_ref().take(LOOKED_AT).filter_map(|row| {
                let key = catalogue.key(row)?;
                let follows = after.is_none_or(|after| (key < after) == query.descending);
                (follows && Some(key) != after && catalogue.is_picked(row, &query.filter))
                    .then_some(key)
            });
            keys.extend(found);
            RwLockReadGuard::unlock_fair(catalogue);
            if keys.len() > most.saturating_add(LOOKED_AT) {
                nearest(&mut keys);
            }
        }
        nearest(&mut keys);
        keys
    }

    pub(super) fn interface_name(&self, interface: InterfaceId) -> String {
        self.interfaces
            .read()
            .get(usize::from(interface))
            .cloned()
            .unwrap_or_default()
    }
}

impl History {
    /// The numbers of interfaces by their names, each once; names that are not known have none.
    #[must_use]
    pub fn interface_numbers<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Vec<InterfaceId> {
        let known = self.0.interfaces.read();
        let numbers: BTreeSet<InterfaceId> = names
            .into_iter()
            .filter_map(|name| known.iter().position(|it| it == name))
            .map(|number| number as InterfaceId)
            .collect();
        numbers.into_iter().collect()
    }

    /// A part of a list of clients.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn clients(&self, query: &ClientQuery) -> Result<ClientPage, QueryError> {
        let (keys, total, next) = self.keys(query)?;
        Ok(ClientPage {
            clients: self.clients_of(&keys)?,
            total,
            next_cursor: next.map(|cursor| cursor.to_text(query)),
        })
    }

    /// Clients by their keys; those that are gone are left out.
    fn clients_of(&self, keys: &[Key]) -> Result<Vec<Client>, QueryError> {
        let records = self.0.records(keys)?;
        let interfaces = self.0.interfaces.read();
        Ok(keys
            .iter()
            .zip(records)
            .filter_map(|(key, record)| {
                let name = interfaces.get(usize::from(key.interface()))?;
                Some(Client::new(key, name, &record?))
            })
            .collect())
    }

    /// The clients of a part, how many there are in all, and where more follow. However many have to
    /// be looked at for it, the catalogue is let go of in between.
    fn keys(&self, query: &ClientQuery) -> Result<Keys, QueryError> {
        let shared = &self.0;
        let cursor = match &query.part {
            Part::After(Some(text)) => {
                let cursor = Cursor::from_text(text, query);
                Some(cursor.ok_or_else(|| QueryError::Cursor(text.clone()))?)
            }
            _ => None,
        };
        let mut picked = None;
        if !query.filter.is_all() {
            if let Some(rows) = shared.few(&query.filter) {
                return Ok(shared.sorted(&rows, query, cursor));
            }
            let all = shared.picked(&query.filter);
            if all.len() <= FEW {
                let rows: Vec<Row> = all.rows().collect();
                return Ok(shared.sorted(&rows, query, cursor));
            }
            picked = Some(all);
        }
        if query.sort == Sort::ClientIp && matches!(query.part, Part::After(_)) {
            // Found by the address itself: whoever has gone since the page before is not missed.
            return Ok(shared.by_address(picked.as_deref(), query, cursor));
        }
        if let Some(keys) = shared.first(query) {
            return Ok(keys);
        }
        let list = shared.list(query);
        let total = match picked {
            Some(_) => list.len(),
            None => shared.catalogue.read().len(),
        };
        let mut place = match (&query.part, cursor) {
            (Part::Page(page), _) => position(*page, query.size),
            (Part::After(_), None) => 0,
            (Part::After(_), Some(cursor)) => {
                list.after(cursor.value, cursor.row, query.descending)
            }
        };
        let mut keys = Vec::with_capacity(query.size);
        let mut last = None;
        while place < list.len() {
            let end = list.len().min(place + LOOKED_AT);
            let catalogue = shared.catalogue.read();
            for (value, row) in (place..end).filter_map(|it| list.at(it, query.descending)) {
                // Who stood there may have gone, or be picked no more.
                let Some(here) = catalogue.picked(row, query) else {
                    continue;
                };
                if keys.len() == query.size {
                    return Ok((keys, total as u64, last));
                }
                keys.push(here.key);
                // As it was when the order was made: its value may have changed, and the place
                // after its new one is elsewhere.
                last = Some(Cursor { value, ..here });
            }
            place = end;
            RwLockReadGuard::unlock_fair(catalogue);
        }
        Ok((keys, total as u64, None))
    }

    /// Hands over the picked clients in the order of their addresses, in chunks, each as it is when
    /// it is read: however many there are, only one chunk is in memory.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn each_client(
        &self,
        filter: &Filter,
        limit: u64,
        mut take: impl FnMut(Vec<Client>) -> bool,
    ) -> Result<(), QueryError> {
        self.each_record(filter, limit, |rows| {
            take(
                rows.iter()
                    .map(|(key, interface, record)| Client::new(key, interface, record))
                    .collect(),
            )
        })
    }

    /// As [`Self::each_client`], with each client's key, the name of its interface, and its record.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn each_record(
        &self,
        filter: &Filter,
        limit: u64,
        mut take: impl FnMut(&[(Key, &str, ClientRecord)]) -> bool,
    ) -> Result<(), QueryError> {
        const CHUNK: usize = 2000;
        let mut from = Some(Key::new([0; 16], 0));
        let mut left = limit;
        while let Some(first) = from.filter(|_| left > 0) {
            let most = CHUNK.min(usize::try_from(left).unwrap_or(usize::MAX));
            let (keys, next) = self.0.catalogue.read().from_key(&first, filter, most);
            from = next;
            let records = self.0.records(&keys)?;
            let names = self.0.interfaces.read().clone();
            let rows: Vec<_> = keys
                .iter()
                .zip(records)
                .filter_map(|(key, record)| {
                    let name = names.get(usize::from(key.interface()))?;
                    Some((*key, name.as_str(), record?))
                })
                .collect();
            left -= rows.len() as u64;
            if !rows.is_empty() && !take(&rows) {
                break;
            }
        }
        Ok(())
    }

    /// All that is known of a client, with at most so many of its sessions; nothing when it was
    /// never seen, or forgotten.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn client(&self, ip: IpAddr, sessions: usize) -> Result<Option<ClientDetail>, QueryError> {
        /// Sessions that are looked at.
        const FOLLOWED: usize = 1000;
        let address = netlink::mapped(ip);
        let keys: Vec<Key> = {
            let interfaces = self.0.interfaces.read().len() as InterfaceId;
            let catalogue = self.0.catalogue.read();
            (0..interfaces)
                .map(|interface| Key::new(address, interface))
                .filter(|key| catalogue.contains(key))
                .collect()
        };
        let records = self.0.records(&keys)?;
        let mut interfaces = Vec::new();
        let mut recent = Vec::new();
        let mut hours: BTreeMap<i64, Hour> = BTreeMap::new();
        // After the records: a session that they name is in the file.
        let stored = self.0.reader()?.sessions()?;
        for (key, record) in keys.iter().zip(records) {
            let Some(record) = record else {
                continue;
            };
            let name = self.0.interface_name(key.interface());
            let mut number = record.last_session();
            for _ in 0..FOLLOWED {
                let Some(session) = stored.get(number)? else {
                    break;
                };
                // The chain of a client that was forgotten in between ends.
                if session.key() != key || session.previous() >= number {
                    break;
                }
                number = session.previous();
                let start = Resolution::Hour.start(session.seen().div_euclid(1_000_000_000));
                hours.entry(start).or_default().add(&session);
                recent.push(Session::new(&name, &session));
            }
            interfaces.push(Client::new(key, &name, &record));
        }
        if interfaces.is_empty() {
            return Ok(None);
        }
        recent.sort_by_key(|session| std::cmp::Reverse(session.session_timestamp));
        recent.truncate(sessions);
        Ok(Some(ClientDetail {
            client_ip: ip.to_canonical().to_string(),
            interfaces,
            recent_sessions: recent,
            hourly_activity: hours
                .into_iter()
                .rev()
                .map(|(start, hour)| hour.view(start))
                .collect(),
        }))
    }

    /// Some of the servers in these ranges of addresses, or of all, in the order of addresses; and
    /// how many there are in all.
    #[must_use]
    pub fn servers(
        &self,
        addresses: Option<&[Range]>,
        interfaces: Option<&[InterfaceId]>,
        skip: usize,
        most: usize,
    ) -> (Vec<Server>, u64) {
        let picked = self.pick_servers(addresses, interfaces);
        let total = picked.len() as u64;
        let rest = picked.iter().skip(skip).take(most);
        let found = rest.map(|(key, name, record)| Server::new(key, name, record));
        (found.collect(), total)
    }

    /// The servers in these ranges of addresses, or all, in the order of addresses.
    pub(super) fn pick_servers(
        &self,
        addresses: Option<&[Range]>,
        interfaces: Option<&[InterfaceId]>,
    ) -> Vec<(Key, String, ServerRecord)> {
        let names = self.0.interfaces.read();
        let servers = self.0.servers.read();
        let all = [[0; 16]..=[0xff; 16]];
        addresses
            .unwrap_or(&all)
            .iter()
            .flat_map(|range| {
                let first = Key::new(*range.start(), 0);
                servers.range(first..=Key::new(*range.end(), InterfaceId::MAX))
            })
            .filter(|(key, _)| interfaces.is_none_or(|them| them.contains(&key.interface())))
            .filter_map(|(key, record)| {
                let name = names.get(usize::from(key.interface()))?;
                Some((*key, name.clone(), *record))
            })
            .collect()
    }

    /// What happened on each interface since the database began.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn interface_statistics(&self) -> Result<Vec<InterfaceStatistics>, QueryError> {
        self.0.settle();
        let reader = self.0.reader()?;
        let names = self.0.interfaces.read().clone();
        let ledgers = self.0.ledgers.read().clone();
        let mut all = Vec::new();
        for (number, (name, ledger)) in names.into_iter().zip(ledgers).enumerate() {
            let number = number as InterfaceId;
            let whole = reader
                .rollups(Resolution::All, number, 0..=0, 1, |_, rollup| {
                    rollup.clone()
                })?
                .pop();
            let any = i64::MIN..=i64::MAX;
            let last = reader
                .rollups(Resolution::Minute, number, any, 1, |start, _| start)?
                .pop();
            let rollup = whole.unwrap_or_default();
            all.push(InterfaceStatistics {
                interface_name: name,
                client_count: self.0.catalogue.read().count_on(number),
                session_count: rollup.get(Count::exchanges),
                other_sessions: ledger.other().exchanges,
                forgotten_clients: ledger.forgotten_clients(),
                forgotten_sessions: ledger.forgotten().exchanges,
                last_active: last.map(|start| time(start.saturating_mul(1_000_000_000))),
                activity: Activity::new(&rollup),
            });
        }
        Ok(all)
    }

    /// Rollups that began between two times, in seconds since 1970, both included; the latest
    /// `limit` of each interface.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn rollups(
        &self,
        interfaces: Option<&[InterfaceId]>,
        resolution: Resolution,
        between: std::ops::RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<RollupView>, QueryError> {
        self.0.settle();
        let reader = self.0.reader()?;
        let names = self.0.interfaces.read().clone();
        let mut found = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let number = number as InterfaceId;
            if interfaces.is_some_and(|them| !them.contains(&number)) {
                continue;
            }
            let view = |start: i64, rollup: &Rollup| RollupView {
                interface_name: name.clone(),
                resolution: resolution.name().to_owned(),
                start: time(start.saturating_mul(1_000_000_000)),
                activity: Activity::new(rollup),
            };
            found.extend(reader.rollups(resolution, number, between.clone(), limit, view)?);
        }
        Ok(found)
    }

    /// How the history is kept.
    #[must_use]
    pub fn service_statistics(&self) -> ServiceStatistics {
        let statistics = &self.0.statistics;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let duration = |counter| match get(counter) {
            0 => None,
            nanoseconds => Some(nanoseconds as f64 / 1e9),
        };
        let (written, waiting) = {
            let feeds = self.0.feeds.lock();
            let waiting: u64 = feeds.iter().map(|feed| feed.lock().exchanges).sum();
            (
                get(&statistics.written),
                waiting + get(&statistics.in_flight),
            )
        };
        let (other, forgotten) = {
            let ledgers = self.0.ledgers.read();
            (
                ledgers.iter().map(|it| it.other().exchanges).sum::<u64>(),
                ledgers
                    .iter()
                    .map(super::store::Ledger::forgotten_clients)
                    .sum::<u64>(),
            )
        };
        let drops = [
            ("servers_let_go", get(&statistics.servers_let_go)),
            ("sessions_not_kept", get(&statistics.sessions_left_out)),
            ("clients_refused", get(&statistics.refused)),
            ("clients_evicted", get(&statistics.evicted)),
            ("clients_expired", get(&statistics.expired)),
            ("clients_forgotten", forgotten),
            ("sessions_without_client", other),
            ("sessions_without_server", get(&statistics.unnamed_servers)),
        ];
        ServiceStatistics {
            total_received: written + waiting,
            total_processed: written,
            queue_size: waiting,
            processing_errors: get(&statistics.failures),
            total_inserted: get(&statistics.inserted),
            total_updated: get(&statistics.updated),
            client_count: self.0.catalogue.read().len() as u64,
            server_count: self.0.servers.read().len() as u64,
            drops: drops
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            flush_count: get(&statistics.flushes),
            last_flush_seconds: duration(&statistics.last_flush),
            longest_flush_seconds: duration(&statistics.longest_flush),
            last_flush_timestamp: self.last_flush(),
            last_flush_clients: get(&statistics.last_clients),
            checkpoint_count: get(&statistics.checkpoints),
            journal_clients: get(&statistics.journal_clients),
            sessions_kept: get(&statistics.sessions_kept),
            database_bytes: self.database_bytes(),
            database_path: self.0.path.display().to_string(),
        }
    }

    /// How the history is.
    #[must_use]
    pub fn health(&self) -> HistoryHealth {
        let state = self.0.state.lock().clone();
        let mut problems = Vec::new();
        if state.ended {
            problems.push("the thread that writes the history has ended".to_owned());
        }
        if let Some((why, since)) = &state.failure {
            problems.push(format!("cannot be written since {since}: {why}"));
        }
        let notes = state
            .set_aside
            .iter()
            .map(|file| format!("could not be read and was put aside: {file}"));
        problems.extend(notes);
        HistoryHealth {
            status: if problems.is_empty() {
                "healthy"
            } else {
                "degraded"
            }
            .to_owned(),
            problems,
            client_count: self.0.catalogue.read().len() as u64,
            last_flush_timestamp: self.last_flush(),
            database_bytes: self.database_bytes(),
        }
    }

    fn last_flush(&self) -> Option<jiff::Timestamp> {
        match self.0.statistics.last_flush_unix.load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(time(nanoseconds.cast_signed())),
        }
    }

    fn database_bytes(&self) -> u64 {
        std::fs::metadata(&self.0.path).map_or(0, |file| file.len())
    }
}

/// How many come before a page.
fn position(page: u64, size: usize) -> usize {
    let before = page.saturating_sub(1).saturating_mul(size as u64);
    usize::try_from(before).unwrap_or(usize::MAX)
}

/// The clients of a part, how many there are in all, and where more follow.
type Keys = (Vec<Key>, u64, Option<Cursor>);

/// Where a page ended: after a value, and among those that have the same after a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    value: u64,
    /// That of the client, which may have gone since: among many of the same value its place is
    /// still known by it.
    row: Row,
    key: Key,
}

impl Catalogue {
    /// A client that is still picked, as it is now.
    fn picked(&self, row: Row, query: &ClientQuery) -> Option<Cursor> {
        let key = self.key(row)?;
        let value = self.value(row, query.sort);
        self.is_picked(row, &query.filter)
            .then_some(Cursor { value, row, key })
    }
}

impl Cursor {
    /// As an [`Order`](super::catalogue::Order) has them, so that a list may be gone on with in one
    /// where it was begun without: those of one value by their rows, and what is not known at the
    /// end, whichever way the rest goes.
    fn compare(&self, other: &Self, query: &ClientQuery) -> std::cmp::Ordering {
        let ordering = match query.sort {
            Sort::ClientIp => self.key.cmp(&other.key),
            _ => (self.value, self.row).cmp(&(other.value, other.row)),
        };
        let is_known = self.value != u64::MAX && other.value != u64::MAX;
        if query.descending && is_known {
            ordering.reverse()
        } else {
            ordering
        }
    }

    /// The order that it is of, the value, the row and the client.
    const SIZE: usize = 1 + 8 + 4 + Key::SIZE;

    fn to_text(self, query: &ClientQuery) -> String {
        let (value, row) = (self.value.to_be_bytes(), self.row.to_be_bytes());
        let order = [query.order()];
        let bytes = order.iter().chain(&value).chain(&row);
        let bytes = bytes.chain(self.key.bytes());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Nothing where it is of another order: it would lead to some place in this one.
    fn from_text(text: &str, query: &ClientQuery) -> Option<Self> {
        if !text.is_ascii() || text.len() != 2 * Self::SIZE {
            return None;
        }
        let mut bytes = [0; Self::SIZE];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        let (order, rest) = bytes.split_first()?;
        let (value, rest) = rest.split_first_chunk::<8>()?;
        let (row, key) = rest.split_first_chunk::<4>()?;
        let key: [u8; Key::SIZE] = key.try_into().ok()?;
        (*order == query.order()).then(|| Self {
            value: u64::from_be_bytes(*value),
            row: Row::from_be_bytes(*row),
            key: zerocopy::transmute!(key),
        })
    }
}

#[derive(Default)]
struct Hour {
    sessions: u64,
    unanswered: u64,
    total: i128,
    timed: u64,
}

impl Hour {
    fn add(&mut self, session: &super::session::SessionRecord) {
        self.sessions += 1;
        self.unanswered += u64::from(!session.is_answered());
        if let Some(total) = session.total() {
            self.total += i128::from(total);
            self.timed += 1;
        }
    }

    fn view(&self, start: i64) -> HourOfClient {
        let mean = (self.timed > 0).then(|| self.total as f64 / self.timed as f64 / 1e9);
        HourOfClient {
            hour: time(start.saturating_mul(1_000_000_000)),
            session_count: self.sessions,
            unanswered: self.unanswered,
            total_process_time_mean_seconds: mean,
        }
    }
}
