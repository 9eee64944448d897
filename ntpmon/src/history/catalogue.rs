//! Every client in memory, with just what lists are filtered and sorted by: some hundred bytes
//! each. The file would answer "page 20,000 by last request" by reading all that comes before it;
//! here it is one look into an [`Order`]. The whole record is then read from the file.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
};

use super::{
    client::{ClientRecord, Tally, clock_code, clock_from, mean_interval},
    key::{InterfaceId, Key},
    store::MAX_RUNS,
};
use ntpmon_common::Timestamp;

use crate::ntp::ClientClock;

mod order;
#[cfg(test)]
mod tests;

use order::Placed;
pub use order::{Order, Unordered};

/// The place of a client in the catalogue; another's after it was removed.
pub type Row = u32;

/// By what a list of clients can be sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sort {
    /// When it was seen last.
    #[default]
    LastSeen,
    /// When it was seen first.
    FirstSeen,
    /// How many sessions it had.
    SessionCount,
    /// How many nobody answered.
    Unanswered,
    /// T2 − T1 of its last session.
    Latency,
    /// T3 − T2 of its last session.
    Processing,
    /// From request to response, of its last session.
    Total,
    /// Requests a second.
    RequestRate,
    /// How wrong its clock is, in either direction.
    ClockError,
    /// Its address.
    ClientIp,
}

/// What clients are picked by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Addresses: any of the ranges, which are in order and apart. All, where there is none.
    pub addresses: Option<Vec<RangeInclusive<[u8; 16]>>>,
    /// Any of these interfaces.
    pub interfaces: Option<Vec<InterfaceId>>,
    /// The version of the packet that describes it.
    pub version: Option<u8>,
    /// The stratum in it.
    pub stratum: Option<u8>,
    /// What is known of its clock.
    pub clock: Option<ClientClock>,
    /// Its clock is known to be wrong by so much at least, in nanoseconds, in either direction.
    pub clock_error: Option<i64>,
    /// Seen last at this time or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Seen last at this time or before.
    pub until: Option<i64>,
}

impl Filter {
    /// Whether every client is picked.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// The columns.
#[derive(Debug, Default)]
pub struct Catalogue {
    index: BTreeMap<Key, Row>,
    /// What the index will be.
    loading: Vec<(Key, Row)>,
    keys: Vec<Key>,
    last_seen: Vec<i64>,
    first_seen: Vec<i64>,
    /// When the session was that describes it.
    session: Vec<i64>,
    /// What the client wrote for that time; see [`ClientRecord::written`].
    written: Vec<Timestamp>,
    sessions: Vec<u64>,
    unanswered: Vec<u64>,
    /// In seconds; not a number where it is not known, as the next three.
    latency: Vec<f32>,
    processing: Vec<f32>,
    total: Vec<f32>,
    clock_error: Vec<f32>,
    interval: Vec<f32>,
    last_session: Vec<u64>,
    version: Vec<u8>,
    stratum: Vec<u8>,
    flags: Vec<u8>,
    /// Bit n: the run in slot n has something of the client that may not be in its block.
    runs: Vec<u64>,
    slots: Slots,
    /// Rows without a client.
    free: Vec<Row>,
    /// Clients on each interface.
    counts: Vec<u64>,
    /// Grows with each change.
    changes: u64,
}

/// The runs that there are.
#[derive(Debug)]
struct Slots {
    /// By slot, their numbers; 0 where there is none.
    numbers: [u64; MAX_RUNS],
    /// Bit n: that in slot n has clients that were removed.
    removing: u64,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            numbers: [0; MAX_RUNS],
            removing: 0,
        }
    }
}

impl Slots {
    fn bits(&self, is_meant: impl Fn(u64) -> bool) -> u64 {
        let numbers = self.numbers.iter().enumerate();
        let meant = numbers.filter(|(_, number)| **number != 0 && is_meant(**number));
        meant.fold(0, |bits, (slot, _)| bits | 1 << slot)
    }
}

/// Clients that are looked at, one here and one there, while the catalogue is locked: less than a
/// millisecond.
pub(super) const LOOKED_AT: usize = 4096;
/// Rows that are looked at, one after the other, while it is locked: as long.
pub(super) const SCANNED: usize = 32_768;

const CLOCK: u8 = 3;
const ANSWERED: u8 = 4;
const LIVE: u8 = 8;

impl Catalogue {
    /// How many clients there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// A number that grows with each change.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Where the rows end.
    #[must_use]
    pub const fn rows(&self) -> Row {
        self.keys.len() as Row
    }

    /// Clients on an interface.
    #[must_use]
    pub fn count_on(&self, interface: InterfaceId) -> u64 {
        self.counts
            .get(usize::from(interface))
            .copied()
            .unwrap_or_default()
    }

    /// Whether a client is known.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.index.contains_key(key)
    }

    /// The number of a client's last session that was kept; 0 where there is none.
    #[must_use]
    pub fn last_session(&self, key: &Key) -> u64 {
        self.index
            .get(key)
            .map_or(0, |row| self.last_session[*row as usize])
    }

    /// Appends a client: after this one has to come in the order of the keys, then
    /// [`Self::finish_loading`]. A tree that is made of all its keys at once has no room left in
    /// its nodes.
    pub fn load(&mut self, key: &Key, record: &ClientRecord, runs: u64) {
        let row = self.append(*key);
        self.loading.push((*key, row));
        self.fill(row, *key, record, runs);
    }

    /// Ends what [`Self::load`] began. These are the runs that there are, in the order of the bits
    /// that it was given.
    pub fn finish_loading(&mut self, runs: impl Iterator<Item = u64>) {
        self.index = std::mem::take(&mut self.loading).into_iter().collect();
        self.changes += 1;
        for (slot, number) in self.slots.numbers.iter_mut().zip(runs) {
            *slot = number;
        }
        // Perhaps: it costs no more than a look into them.
        self.slots.removing = self.slots.bits(|_| true);
    }

    /// Adds what came of a client, which is in these runs (see [`Self::run`]).
    pub fn absorb(&mut self, key: &Key, record: &ClientRecord, runs: u64) {
        self.changes += 1;
        match self.index.get(key) {
            Some(row) => {
                let row = *row as usize;
                self.runs[row] |= runs;
                self.update(row, record);
            }
            None => self.insert(*key, record, runs),
        }
    }

    fn insert(&mut self, key: Key, record: &ClientRecord, runs: u64) {
        let row = match self.free.pop() {
            Some(row) => row,
            None => self.append(key),
        };
        self.index.insert(key, row);
        // If it was there before and removed, that is to be found.
        self.fill(row, key, record, runs | self.slots.removing);
    }

    /// The bit of a run, which gets one if it has none; nothing where there are too many.
    /// `removes`: it has clients that were removed.
    pub fn run(&mut self, number: u64, removes: bool) -> Option<u64> {
        let numbers = &mut self.slots.numbers;
        let known = numbers.iter().position(|it| *it == number);
        let slot = known.or_else(|| numbers.iter().position(|it| *it == 0))?;
        numbers[slot] = number;
        self.slots.removing |= u64::from(removes) << slot;
        Some(1 << slot)
    }

    /// The bits of the runs before a number: they are in the blocks now.
    #[must_use]
    pub fn runs_before(&self, number: u64) -> u64 {
        self.slots.bits(|it| it < number)
    }

    /// Forgets that some clients are in these runs. Says whether there are more rows from `from` on,
    /// and where.
    pub fn leave_runs(&mut self, runs: u64, from: usize) -> Option<usize> {
        let end = self.runs.len().min(from.saturating_add(SCANNED));
        for bits in &mut self.runs[from..end] {
            *bits &= !runs;
        }
        (end < self.runs.len()).then_some(end)
    }

    /// Forgets these runs, which all clients have left.
    pub fn forget_runs(&mut self, runs: u64) {
        for (slot, number) in self.slots.numbers.iter_mut().enumerate() {
            if runs >> slot & 1 == 1 {
                *number = 0;
            }
        }
        self.slots.removing &= !runs;
    }

    /// The numbers of the runs that may have something of a client, the oldest first; nothing when
    /// the client is not known.
    #[must_use]
    pub fn runs_of(&self, key: &Key) -> Option<Vec<u64>> {
        let mut bits = self.runs[self.row(key)? as usize];
        let mut numbers = Vec::with_capacity(bits.count_ones() as usize);
        while bits != 0 {
            numbers.push(self.slots.numbers[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
        numbers.sort_unstable();
        Some(numbers)
    }

    /// How many exchanges a client had, and how many of them nobody answered.
    #[must_use]
    pub fn exchanges(&self, key: &Key) -> Option<Tally> {
        let row = self.row(key)? as usize;
        Some(Tally {
            exchanges: self.sessions[row],
            unanswered: self.unanswered[row],
        })
    }

    fn append(&mut self, key: Key) -> Row {
        let row = self.keys.len();
        self.keys.push(key);
        for column in [&mut self.last_seen, &mut self.first_seen, &mut self.session] {
            column.push(0);
        }
        for column in [
            &mut self.sessions,
            &mut self.unanswered,
            &mut self.last_session,
            &mut self.runs,
        ] {
            column.push(0);
        }
        for column in [
            &mut self.latency,
            &mut self.processing,
            &mut self.total,
            &mut self.clock_error,
            &mut self.interval,
        ] {
            column.push(0.0);
        }
        self.written.push(Timestamp(0));
        for column in [&mut self.version, &mut self.stratum, &mut self.flags] {
            column.push(0);
        }
        row as Row
    }

    fn fill(&mut self, row: Row, key: Key, record: &ClientRecord, runs: u64) {
        let interface = usize::from(key.interface());
        if self.counts.len() <= interface {
            self.counts.resize(interface + 1, 0);
        }
        self.counts[interface] += 1;
        let row = row as usize;
        self.keys[row] = key;
        self.runs[row] = runs;
        self.last_seen[row] = record.last_seen();
        self.first_seen[row] = record.first_seen();
        self.sessions[row] = record.sessions();
        self.unanswered[row] = record.unanswered();
        self.last_session[row] = record.last_session();
        self.interval[row] = record.interval();
        self.latency[row] = record.latency.last_seconds();
        self.processing[row] = record.processing.last_seconds();
        self.total[row] = record.total.last_seconds();
        self.clock_error[row] = clock_error(record);
        self.flags[row] = LIVE | clock_code(record.clock());
        self.describe(row, record);
    }

    /// As [`ClientRecord::absorb`] does it, each time at once: the mean interval is not quite that of
    /// the record, which several flushes may have been put together for.
    fn update(&mut self, row: usize, later: &ClientRecord) {
        let is_last = later.last_seen() >= self.last_seen[row];
        self.interval[row] = mean_interval(
            self.interval[row],
            self.sessions[row],
            self.last_seen[row],
            later.last_seen(),
            later.sessions(),
        );
        self.first_seen[row] = self.first_seen[row].min(later.first_seen());
        self.last_seen[row] = self.last_seen[row].max(later.last_seen());
        self.sessions[row] += later.sessions();
        self.unanswered[row] += later.unanswered();
        self.last_session[row] = self.last_session[row].max(later.last_session());
        for (column, value) in [
            (&mut self.latency, later.latency.last_seconds()),
            (&mut self.processing, later.processing.last_seconds()),
            (&mut self.total, later.total.last_seconds()),
            (&mut self.clock_error, clock_error(later)),
        ] {
            if !value.is_nan() && (is_last || column[row].is_nan()) {
                column[row] = value;
            }
        }
        let known = clock_from(self.flags[row] & CLOCK);
        let clock = later.habit_after(known, self.written[row], self.session[row]);
        if clock != ClientClock::Unknown {
            self.flags[row] = self.flags[row] & !CLOCK | clock_code(clock);
        }
        let describes = match (self.flags[row] & ANSWERED != 0, later.is_answered()) {
            (true, false) => false,
            (false, true) => true,
            _ => later.session() >= self.session[row],
        };
        if describes {
            self.describe(row, later);
        }
    }

    fn describe(&mut self, row: usize, record: &ClientRecord) {
        let ntp = record.ntp();
        self.session[row] = record.session();
        self.written[row] = record.written();
        self.version[row] = ntp.version();
        self.stratum[row] = ntp.stratum();
        if record.is_answered() {
            self.flags[row] |= ANSWERED;
        }
    }

    /// What lists are filtered by: when the session was that describes it, version, stratum, clock,
    /// and whether it was answered.
    pub(super) fn described(&self, row: Row) -> (i64, u8, u8, u8) {
        let row = row as usize;
        let flags = self.flags[row];
        (
            self.session[row],
            self.version[row],
            self.stratum[row],
            flags,
        )
    }

    /// Forgets a client.
    pub fn remove(&mut self, key: &Key) {
        let Some(row) = self.index.remove(key) else {
            return;
        };
        self.changes += 1;
        self.flags[row as usize] = 0;
        self.counts[usize::from(key.interface())] -= 1;
        self.free.push(row);
    }

    /// The key of a client that is still there.
    #[must_use]
    pub fn key(&self, row: Row) -> Option<Key> {
        let live = self.flags.get(row as usize)? & LIVE != 0;
        live.then(|| self.keys[row as usize])
    }

    /// The row of a client.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<Row> {
        self.index.get(key).copied()
    }

    /// Whether a row has a client that is picked.
    #[must_use]
    pub fn is_picked(&self, row: Row, filter: &Filter) -> bool {
        let row = row as usize;
        let flags = self.flags[row];
        flags & LIVE != 0
            && filter.version.is_none_or(|it| it == self.version[row])
            && filter.stratum.is_none_or(|it| it == self.stratum[row])
            && filter
                .clock
                .is_none_or(|it| clock_code(it) == flags & CLOCK)
            && filter
                .clock_error
                .is_none_or(|it| self.clock_error[row].abs() >= (it as f64 / 1e9) as f32)
            && filter.since.is_none_or(|it| self.last_seen[row] >= it)
            && filter.until.is_none_or(|it| self.last_seen[row] <= it)
            && filter
                .interfaces
                .as_ref()
                .is_none_or(|them| them.contains(&self.keys[row].interface()))
            && filter.addresses.as_ref().is_none_or(|ranges| {
                let address = &self.keys[row].address;
                let place = ranges.partition_point(|range| range.end() < address);
                ranges.get(place).is_some_and(|it| it.contains(address))
            })
    }

    /// Looks at the rows that follow on those that were looked at, at most `SCANNED` of them.
    /// Returns whether there are more.
    pub fn pick(&self, filter: &Filter, picked: &mut Picked) -> bool {
        let begin = picked.words.len() * Picked::WORD;
        let end = (begin + SCANNED).min(self.keys.len());
        for first in (begin..end).step_by(Picked::WORD) {
            let rows = first..end.min(first + Picked::WORD);
            let word = rows.fold(0, |word, row| {
                word | u64::from(self.is_picked(row as Row, filter)) << (row - first)
            });
            picked.count += word.count_ones() as usize;
            picked.words.push(word);
        }
        end < self.keys.len()
    }

    /// The clients from a key on that are picked, at most so many, in the order of their keys, and
    /// where to go on; nothing at the end. Only so many are looked at, whether they are picked or
    /// not: whoever asks for all holds no lock for long.
    #[must_use]
    pub fn from_key(&self, from: &Key, filter: &Filter, most: usize) -> (Vec<Key>, Option<Key>) {
        let mut from = *from;
        let mut found = Vec::new();
        let mut looked_at = 0;
        loop {
            // What no range has is jumped over.
            let last = match &filter.addresses {
                None => [0xff; 16],
                Some(ranges) => {
                    let place = ranges.partition_point(|range| *range.end() < from.address);
                    let Some(range) = ranges.get(place) else {
                        return (found, None);
                    };
                    from = from.max(Key::new(*range.start(), 0));
                    *range.end()
                }
            };
            let last = Key::new(last, InterfaceId::MAX);
            for (key, row) in self.index.range(from..=last) {
                if found.len() == most || looked_at > LOOKED_AT {
                    return (found, Some(*key));
                }
                looked_at += 1;
                if self.is_picked(*row, filter) {
                    found.push(*key);
                }
            }
            looked_at += 1;
            match last.next() {
                Some(next) if looked_at > LOOKED_AT => return (found, Some(next)),
                Some(next) => from = next,
                None => return (found, None),
            }
        }
    }

    /// The picked clients after a key, or before it where the greatest come first, at most so many;
    /// from the end where there is none. And after which key to go on; nothing at the end. As in
    /// [`Self::from_key`] only so many are looked at.
    #[must_use]
    pub fn after_key(
        &self,
        after: Option<Key>,
        descending: bool,
        filter: &Filter,
        most: usize,
    ) -> (Vec<(Key, Row)>, Option<Key>) {
        let all = [[0; 16]..=[0xff; 16]];
        let ranges = filter.addresses.as_deref().unwrap_or(&all);
        let first = |range: &RangeInclusive<[u8; 16]>| Key::new(*range.start(), 0);
        let last = |range: &RangeInclusive<[u8; 16]>| Key::new(*range.end(), InterfaceId::MAX);
        let (mut left, mut right) = (ranges, Bound::Unbounded);
        let mut begin = Bound::Unbounded;
        if let Some(key) = after {
            if descending {
                left = &ranges[..ranges.partition_point(|range| first(range) < key)];
                right = Bound::Excluded(key);
            } else {
                left = &ranges[ranges.partition_point(|range| last(range) <= key)..];
                begin = Bound::Excluded(key);
            }
        }
        let mut found = Vec::new();
        let mut looked_at = 0;
        loop {
            let next = if descending {
                left.split_last()
            } else {
                left.split_first()
            };
            let Some((range, rest)) = next else {
                return (found, None);
            };
            left = rest;
            let (first, last) = (first(range), last(range));
            let from = match begin {
                Bound::Excluded(key) if key >= first => begin,
                _ => Bound::Included(first),
            };
            let to = match right {
                Bound::Excluded(key) if key <= last => right,
                _ => Bound::Included(last),
            };
            let mut clients = self.index.range((from, to));
            while let Some((key, row)) = if descending {
                clients.next_back()
            } else {
                clients.next()
            } {
                if self.is_picked(*row, filter) {
                    found.push((*key, *row));
                }
                looked_at += 1;
                if found.len() == most || looked_at >= LOOKED_AT {
                    return (found, Some(*key));
                }
            }
            // A range without clients costs as much as a client.
            looked_at += 1;
            if looked_at >= LOOKED_AT {
                return (found, Some(if descending { first } else { last }));
            }
        }
    }

    /// The value that rows are ordered by; the largest of all where it is not known.
    #[must_use]
    pub fn value(&self, row: Row, sort: Sort) -> u64 {
        let row = row as usize;
        match sort {
            Sort::LastSeen => signed(self.last_seen[row]),
            Sort::FirstSeen => signed(self.first_seen[row]),
            Sort::SessionCount => self.sessions[row],
            Sort::Unanswered => self.unanswered[row],
            Sort::Latency => float(self.latency[row]),
            Sort::Processing => float(self.processing[row]),
            Sort::Total => float(self.total[row]),
            Sort::RequestRate => {
                let interval = self.interval[row];
                float(if interval > 0.0 {
                    1.0 / interval
                } else {
                    f32::NAN
                })
            }
            Sort::ClockError => float(self.clock_error[row].abs()),
            // Ordered by their keys themselves.
            Sort::ClientIp => 0,
        }
    }

    /// What there is of the rows from `from` on, at most `SCANNED` of them. Returns whether there are
    /// more, and where.
    pub fn glance(&self, from: usize, mut take: impl FnMut(Glance)) -> Option<usize> {
        let end = self.keys.len().min(from.saturating_add(SCANNED));
        for row in from..end {
            let flags = self.flags[row];
            if flags & LIVE != 0 {
                take(Glance {
                    row: row as Row,
                    interface: self.keys[row].interface(),
                    last_seen: self.last_seen[row],
                    clock: clock_from(flags & CLOCK),
                    clock_error: self.clock_error[row],
                    interval: self.interval[row],
                });
            }
        }
        (end < self.keys.len()).then_some(end)
    }

    /// Adds clients to what an order is made of, as many as are looked at while others wait. Returns
    /// whether there are more. Making the order takes longer and needs no lock.
    pub fn gather(&self, unordered: &mut Unordered) -> bool {
        let begin = unordered.looked_at;
        if begin == 0 && unordered.after.is_none() {
            unordered.changes = self.changes;
        }
        if unordered.sort == Sort::ClientIp {
            let all = Filter::default();
            let (found, next) = self.after_key(unordered.after, false, &all, usize::MAX);
            let found = found.iter().map(|(_, row)| Placed::new(0, *row));
            unordered.rows.extend(found);
            unordered.after = next;
            return next.is_some();
        }
        let end = (begin + SCANNED).min(self.keys.len());
        let rows = (begin as Row..end as Row).filter(|row| self.flags[*row as usize] & LIVE != 0);
        let rows = rows.map(|row| Placed::new(self.value(row, unordered.sort), row));
        unordered.rows.extend(rows);
        unordered.looked_at = end;
        end < self.keys.len()
    }

    /// Of the clients that are picked, by key, when they were seen last and how many sessions they
    /// had: the ones that were not seen for longest, at most so many.
    #[must_use]
    pub fn oldest(&self, most: usize, pick: impl Fn(&Key, i64, u64) -> bool) -> Vec<Key> {
        let mut found: Vec<(i64, Row)> = (0..self.keys.len())
            .filter(|&row| {
                self.flags[row] & LIVE != 0
                    && pick(&self.keys[row], self.last_seen[row], self.sessions[row])
            })
            .map(|row| (self.last_seen[row], row as Row))
            .collect();
        if most == 0 {
            return Vec::new();
        }
        if found.len() > most {
            found.select_nth_unstable(most - 1);
            found.truncate(most);
        }
        found
            .into_iter()
            .map(|(_, row)| self.keys[row as usize])
            .collect()
    }

    /// When a client of each interface was seen last.
    #[must_use]
    pub fn newest(&self) -> Vec<i64> {
        let mut newest = vec![i64::MIN; self.counts.len()];
        for (row, key) in self.keys.iter().enumerate() {
            if self.flags[row] & LIVE != 0 {
                let place = &mut newest[usize::from(key.interface())];
                *place = (*place).max(self.last_seen[row]);
            }
        }
        newest
    }
}

/// What is seen of a client when all are looked through.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// Its place.
    pub row: Row,
    /// Where it was seen.
    pub interface: InterfaceId,
    /// In nanoseconds since 1970.
    pub last_seen: i64,
    /// What is known of its clock.
    pub clock: ClientClock,
    /// How far that is ahead, in seconds; not a number where it is not known.
    pub clock_error: f32,
    /// Mean of the seconds between its requests, as of late; 0 before there were two.
    pub interval: f32,
}

fn clock_error(record: &ClientRecord) -> f32 {
    let error = record.clock_error();
    error.map_or(f32::NAN, |error| (error as f64 / 1e9) as f32)
}

/// In the order of the numbers.
const fn signed(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

fn float(value: f32) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 0 {
        bits | 1 << 31
    } else {
        !bits
    };
    u64::from(ordered)
}

/// The rows that a filter picked, each as it was when it was looked at: one bit a row.
#[derive(Debug, Default)]
pub struct Picked {
    words: Vec<u64>,
    count: usize,
}

impl Picked {
    /// Rows of a word.
    const WORD: usize = u64::BITS as usize;

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    /// Whether a row is one of them.
    #[must_use]
    pub fn has(&self, row: Row) -> bool {
        let row = row as usize;
        let word = self.words.get(row / Self::WORD);
        word.is_some_and(|word| word >> (row % Self::WORD) & 1 == 1)
    }

    /// They, the least first.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let words = self.words.iter().enumerate();
        words.flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some((place * Self::WORD + bit) as Row)
            })
        })
    }
}
