//! What is remembered of checks: every round, and sums of each hour and day. Over the shelves of
//! the history, which are in the same file as all else. All of it blocks, but for putting a round
//! down.

use std::{collections::BTreeMap, time::Duration};

use zerocopy::IntoBytes;

use super::{
    record::{CheckId, Record, Series, after, time_of},
    rollup::{Resolution, Rollup},
    round::Round,
};
use crate::history::{
    History,
    query::QueryError,
    shelf::{Change, Order, Shelf},
};

const SECOND: i64 = 1_000_000_000;
/// After the end of an hour so long until it is summed up, in seconds: a round that ended just
/// before is put down just after.
const GRACE: i64 = 10;
/// Values that are read, or taken away, in one go.
const CHUNK: usize = 5000;
/// What one call takes away at most: with the disk's leave, more goes the next time.
const MOST_REMOVED: usize = 50_000;

/// How long what is remembered of checks is kept; nothing is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Rounds.
    pub results: Option<Duration>,
    /// Sums of an hour.
    pub hours: Option<Duration>,
    /// Sums of a day.
    pub days: Option<Duration>,
}

/// What is remembered.
#[derive(Clone, Debug)]
pub struct Store(History);

impl Store {
    /// In this history.
    #[must_use]
    pub const fn new(history: History) -> Self {
        Self(history)
    }

    /// Keeps a small document from the next flush on.
    pub(super) fn keep(&self, name: &str, bytes: Vec<u8>) {
        self.0.set_document(name, bytes);
    }

    /// Puts a round down, with the reach register after it. Does not wait.
    pub fn put(&self, series: Series, round: &Round, reach: u8) {
        let record = Record::new(round, reach);
        let key = series.result_key(round.at);
        let change = Change::put(Shelf::CheckResults, key, record.as_bytes());
        if !self.0.put(vec![change]) {
            tracing::warn!("a round of a check is not remembered: too much waits for the disk");
        }
    }

    /// The addresses of a check of which there is something.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn series(&self, check: CheckId) -> Result<Vec<Series>, QueryError> {
        let series = Series {
            check,
            address: None,
        };
        let prefix = &series.prefix()[..8];
        let mut all = Vec::new();
        for shelf in [Shelf::CheckResults, Shelf::CheckRollups] {
            all.extend(self.distinct(shelf, prefix.to_vec(), &after(prefix))?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Those that there are between two keys, one step for each.
    fn distinct(
        &self,
        shelf: Shelf,
        mut from: Vec<u8>,
        to: &[u8],
    ) -> Result<Vec<Series>, QueryError> {
        let mut found = Vec::new();
        while let Some((key, _)) = self.0.shelf(shelf, &from, to, Order::Oldest, 1)?.pop() {
            let Some(series) = Series::of_key(&key) else {
                break;
            };
            found.push(series);
            from = after(&series.prefix());
            if from.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Rounds from a time up to another, both included, in nanoseconds since 1970; the newest
    /// first, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rounds(
        &self,
        series: Series,
        since: Option<i64>,
        until: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(Round, u8)>, QueryError> {
        let from = series.result_key(since.unwrap_or(i64::MIN));
        let to = after(&series.result_key(until.unwrap_or(i64::MAX)));
        let items = self
            .0
            .shelf(Shelf::CheckResults, &from, &to, Order::Newest, limit)?;
        Ok(items.iter().filter_map(|item| read(item)).collect())
    }

    /// Sums that begin from a time up to another, in seconds since 1970, the newest first. What is
    /// not summed up yet is, for whoever asks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rollups(
        &self,
        series: Series,
        resolution: Resolution,
        since: Option<i64>,
        until: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, Rollup)>, QueryError> {
        let fresh = self.not_summed_up(series, resolution)?;
        let number = resolution as u8;
        let from = series.rollup_key(number, since.unwrap_or(i64::MIN));
        let to = after(&series.rollup_key(number, until.unwrap_or(i64::MAX)));
        let items = self
            .0
            .shelf(Shelf::CheckRollups, &from, &to, Order::Newest, limit)?;
        let mut all: BTreeMap<i64, Rollup> = items
            .iter()
            .filter_map(|(key, value)| Some((time_of(key)?, Rollup::read(value)?)))
            .collect();
        let wanted = |start: &i64| {
            since.is_none_or(|since| *start >= since) && until.is_none_or(|until| *start <= until)
        };
        all.extend(fresh.into_iter().filter(|(start, _)| wanted(start)));
        Ok(all.into_iter().rev().take(limit).collect())
    }

    /// What came after the last sums that are on the shelf.
    fn not_summed_up(
        &self,
        series: Series,
        resolution: Resolution,
    ) -> Result<BTreeMap<i64, Rollup>, QueryError> {
        let last = self.last(series, resolution)?;
        let after_last = last.map_or(i64::MIN, |last| last + resolution.seconds());
        let mut sums: BTreeMap<i64, Rollup> = BTreeMap::new();
        match resolution {
            Resolution::Hour => {
                let since = after_last.saturating_mul(SECOND);
                self.each_round(series, since, i64::MAX, |round| {
                    let start = resolution.start(round.at.div_euclid(SECOND));
                    sums.entry(start).or_default().add(round);
                })?;
            }
            Resolution::Day => {
                let since = (after_last != i64::MIN).then_some(after_last);
                let hours = self.rollups(series, Resolution::Hour, since, None, CHUNK)?;
                for (hour, rollup) in hours {
                    sums.entry(resolution.start(hour))
                        .or_default()
                        .merge(&rollup);
                }
            }
        }
        Ok(sums)
    }

    /// When the last sums on the shelf begin.
    fn last(&self, series: Series, resolution: Resolution) -> Result<Option<i64>, QueryError> {
        let number = resolution as u8;
        let from = series.rollup_key(number, i64::MIN);
        let to = after(&series.rollup_key(number, i64::MAX));
        let mut last = self
            .0
            .shelf(Shelf::CheckRollups, &from, &to, Order::Newest, 1)?;
        Ok(last.pop().and_then(|(key, _)| time_of(&key)))
    }

    /// Every round from a time up to, but without, another; the oldest first.
    fn each_round(
        &self,
        series: Series,
        since: i64,
        before: i64,
        mut add: impl FnMut(&Round),
    ) -> Result<(), QueryError> {
        let mut from = series.result_key(since);
        let to = series.result_key(before);
        loop {
            let items = self
                .0
                .shelf(Shelf::CheckResults, &from, &to, Order::Oldest, CHUNK)?;
            for (round, _) in items.iter().filter_map(|item| read(item)) {
                add(&round);
            }
            match items.last() {
                Some((key, _)) if items.len() == CHUNK => from = after(key),
                _ => return Ok(()),
            }
        }
    }

    /// Sums up the hours, and then the days, that are over at a time, in nanoseconds since 1970.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sum_up(&self, now: i64) -> Result<(), QueryError> {
        let over = now.div_euclid(SECOND) - GRACE;
        for series in self.distinct(Shelf::CheckResults, Vec::new(), &[])? {
            for resolution in [Resolution::Hour, Resolution::Day] {
                if !self.is_one_over(series, resolution, over)? {
                    continue;
                }
                let sums = self.not_summed_up(series, resolution)?;
                let ended = |start: &i64| start + resolution.seconds() <= over;
                let changes = sums.iter().filter(|(start, _)| ended(start));
                let changes = changes.map(|(start, rollup)| {
                    let key = series.rollup_key(resolution as u8, *start);
                    Change::put(Shelf::CheckRollups, key, rollup.write())
                });
                self.0.put(changes.collect());
            }
        }
        Ok(())
    }

    /// Whether there may be an hour, or a day, that is over and not summed up: so that nothing is
    /// read when there is not.
    fn is_one_over(
        &self,
        series: Series,
        resolution: Resolution,
        over: i64,
    ) -> Result<bool, QueryError> {
        let length = resolution.seconds();
        let next = match self.last(series, resolution)? {
            Some(last) => Some(last + length),
            None => {
                let from = series.result_key(i64::MIN);
                let to = after(&series.prefix());
                let first = self
                    .0
                    .shelf(Shelf::CheckResults, &from, &to, Order::Oldest, 1)?;
                let first = first.first().and_then(|(key, _)| time_of(key));
                first.map(|at| resolution.start(at.div_euclid(SECOND)))
            }
        };
        Ok(next.is_some_and(|next| next + length <= over))
    }

    /// Takes away what is older than it may become. What is not summed up yet stays.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn trim(&self, keep: &Retention, now: i64) -> Result<usize, QueryError> {
        let before = |keep: Option<Duration>| {
            let keep = i64::try_from(keep?.as_nanos()).ok()?;
            Some(now.saturating_sub(keep))
        };
        let mut removed = 0;
        if let Some(before) = before(keep.results) {
            for series in self.distinct(Shelf::CheckResults, Vec::new(), &[])? {
                let (from, to) = (series.prefix(), series.result_key(before));
                removed += self.remove(Shelf::CheckResults, &from, &to, removed)?;
            }
        }
        let all = self.distinct(Shelf::CheckRollups, Vec::new(), &[])?;
        for (resolution, keep) in [(Resolution::Hour, keep.hours), (Resolution::Day, keep.days)] {
            let Some(before) = before(keep) else {
                continue;
            };
            for series in &all {
                let number = resolution as u8;
                let from = series.rollup_key(number, i64::MIN);
                let to = series.rollup_key(number, before.div_euclid(SECOND));
                removed += self.remove(Shelf::CheckRollups, &from, &to, removed)?;
            }
        }
        Ok(removed)
    }

    /// Forgets a check. Says whether all of it is gone.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn forget(&self, check: CheckId) -> Result<bool, QueryError> {
        let series = Series {
            check,
            address: None,
        };
        let prefix = &series.prefix()[..8];
        let mut removed = 0;
        for shelf in [Shelf::CheckResults, Shelf::CheckRollups] {
            removed += self.remove(shelf, prefix, &after(prefix), removed)?;
        }
        Ok(removed < MOST_REMOVED)
    }

    /// Takes away what lies between two keys, as far as [`MOST_REMOVED`] allows.
    fn remove(
        &self,
        shelf: Shelf,
        from: &[u8],
        to: &[u8],
        already: usize,
    ) -> Result<usize, QueryError> {
        let mut count = 0;
        while already + count < MOST_REMOVED {
            let limit = CHUNK.min(MOST_REMOVED - already - count);
            let items = self.0.shelf(shelf, from, to, Order::Oldest, limit)?;
            let found = items.len();
            let changes = items.into_iter().map(|(key, _)| Change::remove(shelf, key));
            if !self.0.put(changes.collect()) {
                break;
            }
            count += found;
            if found < limit {
                break;
            }
        }
        Ok(count)
    }
}

fn read((key, value): &(Vec<u8>, Vec<u8>)) -> Option<(Round, u8)> {
    Record::read(value, time_of(key)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::{Failure, Status, answer::Stamps, rollup::RollupView, round::Time},
        history::Settings,
    };

    const HOUR: i64 = 3600 * SECOND;
    /// 2026-11-21T00:00:00Z
    const MIDNIGHT: i64 = 1_795_219_200 * SECOND;

    fn open(folder: &tempfile::TempDir) -> Store {
        let settings = Settings {
            flush_interval: Duration::from_secs(3600),
            ..Settings::default()
        };
        Store::new(History::open(folder.path(), settings).unwrap())
    }

    fn series(name: &str, address: Option<&str>) -> Series {
        Series {
            check: CheckId::of(name),
            address: address.map(|it| it.parse().unwrap()),
        }
    }

    fn round(at: i64, offset: i64) -> Round {
        Round {
            status: Status::Ok,
            message: None,
            sent: 1,
            answered: 1,
            time: Some(Time {
                offset,
                delay: 1000,
                dispersion: 1,
                jitter: None,
                stamps: Stamps::Kernel,
            }),
            ..Round::failed(&Failure::Refused, at)
        }
    }

    fn starts(sums: &[(i64, Rollup)]) -> Vec<i64> {
        sums.iter()
            .map(|(start, _)| start - MIDNIGHT / SECOND)
            .collect()
    }

    #[test]
    fn rounds_are_found_by_check_address_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let (one, other) = (series("a", Some("192.0.2.1")), series("a", Some("::1")));
        let nowhere = series("b", None);
        for minute in 0..10 {
            store.put(one, &round(MIDNIGHT + minute * 60 * SECOND, minute), 1);
        }
        store.put(other, &round(MIDNIGHT, 77), 3);
        store.put(nowhere, &round(MIDNIGHT, 78), 0);
        let offsets = |series, since, until, limit| {
            let rounds = store.rounds(series, since, until, limit).unwrap();
            let offsets = rounds.iter().map(|(round, _)| round.time.unwrap().offset);
            offsets.collect::<Vec<_>>()
        };
        assert_eq!(offsets(one, None, None, 3), [9, 8, 7]);
        let (since, until) = (MIDNIGHT + 120 * SECOND, MIDNIGHT + 240 * SECOND);
        assert_eq!(offsets(one, Some(since), Some(until), 9), [4, 3, 2]);
        assert_eq!(offsets(other, None, None, 9), [77]);
        assert_eq!(offsets(nowhere, None, None, 9), [78]);
        let mut all = [one, other];
        all.sort_unstable();
        assert_eq!(store.series(CheckId::of("a")).unwrap(), all);
        assert!(store.forget(CheckId::of("a")).unwrap());
        assert_eq!(store.series(CheckId::of("a")).unwrap(), []);
        assert_eq!(offsets(nowhere, None, None, 9), [78]);
    }

    #[test]
    fn hours_and_days_are_summed_up_once_they_are_over_and_shown_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let series = series("a", Some("192.0.2.1"));
        // A round each ten minutes of a day and an hour and a half.
        for number in 0..153 {
            store.put(series, &round(MIDNIGHT + number * HOUR / 6, number), 1);
        }
        let hours = |limit| {
            store
                .rollups(series, Resolution::Hour, None, None, limit)
                .unwrap()
        };
        let days = || {
            store
                .rollups(series, Resolution::Day, None, None, 9)
                .unwrap()
        };
        let count = |sums: &[(i64, Rollup)]| {
            let counts = sums
                .iter()
                .map(|(start, it)| RollupView::new(*start, it).rounds);
            counts.collect::<Vec<_>>()
        };
        let before = (hours(100), days());
        assert_eq!(count(&before.0)[..3], [3, 6, 6]);
        assert_eq!(before.0.len(), 26);
        assert_eq!(count(&before.1), [9, 144]);
        store.sum_up(MIDNIGHT + 25 * HOUR + HOUR / 2).unwrap();
        assert_eq!(
            store.last(series, Resolution::Day).unwrap(),
            Some(MIDNIGHT / SECOND)
        );
        let last_hour = MIDNIGHT / SECOND + 24 * 3600;
        assert_eq!(
            store.last(series, Resolution::Hour).unwrap(),
            Some(last_hour)
        );
        assert_eq!((hours(100), days()), before);
        assert_eq!(starts(&hours(2)), [25 * 3600, 24 * 3600]);
        // Again and later: nothing is counted twice.
        store.put(series, &round(MIDNIGHT + 26 * HOUR, 0), 1);
        store.sum_up(MIDNIGHT + 27 * HOUR + 11 * SECOND).unwrap();
        store.sum_up(MIDNIGHT + 28 * HOUR).unwrap();
        assert_eq!(count(&hours(3)), [1, 3, 6]);
        assert_eq!(count(&days()), [10, 144]);
        let since = Some(MIDNIGHT / SECOND + 86_400);
        let later = store
            .rollups(series, Resolution::Day, since, None, 9)
            .unwrap();
        assert_eq!(starts(&later), [86_400]);

        // Sums outlive the rounds.
        let keep = Retention {
            results: Some(Duration::from_secs(3600)),
            hours: None,
            days: Some(Duration::from_secs(86_400)),
        };
        let now = MIDNIGHT + 26 * HOUR + HOUR / 2;
        assert_eq!(store.trim(&keep, now).unwrap(), 153 + 1);
        assert_eq!(store.rounds(series, None, None, 999).unwrap().len(), 1);
        assert_eq!(hours(100).len(), 27);
        store.0.flush().unwrap();
        assert_eq!(store.rounds(series, None, None, 999).unwrap().len(), 1);
    }
}
