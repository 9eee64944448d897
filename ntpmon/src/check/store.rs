//! What is remembered of checks: every round, and sums of each hour and day. Over the shelves of
//! the history, which are in the same file as all else. All of it blocks, but for putting a round
//! down.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result as AnyResult, ensure};
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
const NO_ROOM: &str = "too much waits for the disk; it is tried again";

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

    /// When the last round of a series ended, in nanoseconds since 1970, or the last sums began.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, series: Series) -> Result<Option<i64>, QueryError> {
        let (from, to) = (series.prefix(), after(&series.prefix()));
        let newest = |shelf| {
            let mut last = self.0.shelf(shelf, &from, &to, Order::Newest, 1)?;
            Ok::<_, QueryError>(last.pop().and_then(|(key, _)| time_of(&key)))
        };
        if let Some(at) = newest(Shelf::CheckResults)? {
            return Ok(Some(at));
        }
        Ok(newest(Shelf::CheckRollups)?.map(|start| start.saturating_mul(SECOND)))
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
        Ok(items.iter().filter_map(read).collect())
    }

    /// Sums that begin from a time up to another, in seconds since 1970, the newest first. What is
    /// not summed up yet up to now, in nanoseconds since 1970, is for whoever asks.
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
        now: i64,
    ) -> Result<Vec<(i64, Rollup)>, QueryError> {
        let fresh = self.not_summed_up(series, resolution, now)?;
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
        now: i64,
    ) -> Result<BTreeMap<i64, Rollup>, QueryError> {
        let began = now.div_euclid(SECOND) - resolution.seconds();
        let last = self.last(series, resolution, began)?;
        let after_last = last.map_or(i64::MIN, |last| last + resolution.seconds());
        let mut sums: BTreeMap<i64, Rollup> = BTreeMap::new();
        match resolution {
            Resolution::Hour => {
                let since = after_last.saturating_mul(SECOND);
                self.each_round(series, since, now.saturating_add(1), |round| {
                    let start = resolution.start(round.at.div_euclid(SECOND));
                    sums.entry(start).or_default().add(round);
                })?;
            }
            Resolution::Day => {
                let since = (after_last != i64::MIN).then_some(after_last);
                let until = Some(now.div_euclid(SECOND));
                let hours = self.rollups(series, Resolution::Hour, since, until, CHUNK, now)?;
                for (hour, rollup) in hours {
                    sums.entry(resolution.start(hour))
                        .or_default()
                        .merge(&rollup);
                }
            }
        }
        Ok(sums)
    }

    /// When the last sums on the shelf begin, of those that began at a time or before.
    fn last(
        &self,
        series: Series,
        resolution: Resolution,
        began: i64,
    ) -> Result<Option<i64>, QueryError> {
        let number = resolution as u8;
        let from = series.rollup_key(number, i64::MIN);
        let to = after(&series.rollup_key(number, began));
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
            for (round, _) in items.iter().filter_map(read) {
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
    /// When the file cannot be read, or too much waits for it to be written.
    pub fn sum_up(&self, now: i64) -> AnyResult<()> {
        let over = now.div_euclid(SECOND) - GRACE;
        for series in self.distinct(Shelf::CheckResults, Vec::new(), &[])? {
            for resolution in [Resolution::Hour, Resolution::Day] {
                self.take_back(series, resolution, over)?;
                if !self.is_one_over(series, resolution, over)? {
                    continue;
                }
                let sums = self.not_summed_up(series, resolution, now)?;
                let ended = |start: &i64| start + resolution.seconds() <= over;
                let changes = sums.iter().filter(|(start, _)| ended(start));
                let changes = changes.map(|(start, rollup)| {
                    let key = series.rollup_key(resolution as u8, *start);
                    Change::put(Shelf::CheckRollups, key, rollup.write())
                });
                ensure!(self.0.put(changes.collect()), NO_ROOM);
            }
        }
        Ok(())
    }

    /// Takes away sums of what is not over: this host's clock was ahead when they were made. Only
    /// where all their rounds are there, from which they are made anew: the clock may as well be
    /// behind now.
    fn take_back(&self, series: Series, resolution: Resolution, over: i64) -> AnyResult<()> {
        let Some(first) = self.first(series)? else {
            return Ok(());
        };
        let number = resolution as u8;
        let began = over - resolution.seconds();
        let whole = resolution.start(first) + resolution.seconds();
        let from = series.rollup_key(number, (began + 1).max(whole));
        let to = after(&series.rollup_key(number, i64::MAX));
        self.remove(Shelf::CheckRollups, &from, &to, 0)?;
        Ok(())
    }

    /// When the first round that is there ended, in seconds since 1970.
    fn first(&self, series: Series) -> Result<Option<i64>, QueryError> {
        let (from, to) = (series.result_key(i64::MIN), after(&series.prefix()));
        let mut first = self
            .0
            .shelf(Shelf::CheckResults, &from, &to, Order::Oldest, 1)?;
        let at = first.pop().and_then(|(key, _)| time_of(&key));
        Ok(at.map(|at| at.div_euclid(SECOND)))
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
        let next = match self.last(series, resolution, over - length)? {
            Some(last) => Some(last + length),
            None => self.first(series)?.map(|first| resolution.start(first)),
        };
        Ok(next.is_some_and(|next| next + length <= over))
    }

    /// Takes away what is older than it may become. What is not summed up yet stays.
    ///
    /// # Errors
    /// When the file cannot be read, or too much waits for it to be written.
    pub fn trim(&self, keep: &Retention, now: i64) -> AnyResult<usize> {
        let before = |keep: Option<Duration>| {
            let keep = i64::try_from(keep?.as_nanos()).ok()?;
            Some(now.saturating_sub(keep))
        };
        let mut removed = 0;
        if let Some(before) = before(keep.results) {
            for series in self.distinct(Shelf::CheckResults, Vec::new(), &[])? {
                if self
                    .first(series)?
                    .is_none_or(|first| first >= before.div_euclid(SECOND))
                {
                    continue;
                }
                let summed_up = self.summed_up(series, Resolution::Hour, now)?;
                let before = before.min(summed_up.saturating_mul(SECOND));
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
                let mut before = before.div_euclid(SECOND);
                // Without rounds nothing is summed up any more.
                if resolution == Resolution::Hour && self.first(*series)?.is_some() {
                    before = before.min(self.summed_up(*series, Resolution::Day, now)?);
                }
                let from = series.rollup_key(number, i64::MIN);
                let to = series.rollup_key(number, before);
                removed += self.remove(Shelf::CheckRollups, &from, &to, removed)?;
            }
        }
        Ok(removed)
    }

    /// Up to when all is summed up, in seconds since 1970.
    fn summed_up(
        &self,
        series: Series,
        resolution: Resolution,
        now: i64,
    ) -> Result<i64, QueryError> {
        let length = resolution.seconds();
        let last = self.last(series, resolution, now.div_euclid(SECOND) - length)?;
        Ok(last.map_or(i64::MIN, |last| last + length))
    }

    /// Takes a part of what is remembered of a check away, for good. Says whether that was all.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn forget(&self, check: CheckId) -> AnyResult<bool> {
        let series = Series {
            check,
            address: None,
        };
        let prefix = &series.prefix()[..8];
        let mut removed = 0;
        for shelf in [Shelf::CheckResults, Shelf::CheckRollups] {
            removed += self.remove(shelf, prefix, &after(prefix), removed)?;
        }
        self.0.flush()?;
        Ok(removed < MOST_REMOVED)
    }

    /// Takes away what lies between two keys, as far as [`MOST_REMOVED`] allows.
    fn remove(&self, shelf: Shelf, from: &[u8], to: &[u8], already: usize) -> AnyResult<usize> {
        let mut count = 0;
        while already + count < MOST_REMOVED {
            let limit = CHUNK.min(MOST_REMOVED - already - count);
            let items = self.0.shelf(shelf, from, to, Order::Oldest, limit)?;
            let found = items.len();
            let changes = items.into_iter().map(|(key, _)| Change::remove(shelf, key));
            ensure!(self.0.put(changes.collect()), NO_ROOM);
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
        check::{Failure, Status, answer::Stamps, rollup::CheckRollupView, round::Time},
        history::Settings,
    };

    const HOUR: i64 = 3600 * SECOND;
    /// 2026-11-21T00:00:00Z
    const MIDNIGHT: i64 = 1_795_219_200 * SECOND;
    const NOW: i64 = MIDNIGHT + 100 * HOUR;

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
                .rollups(series, Resolution::Hour, None, None, limit, NOW)
                .unwrap()
        };
        let days = || {
            store
                .rollups(series, Resolution::Day, None, None, 9, NOW)
                .unwrap()
        };
        let count = |sums: &[(i64, Rollup)]| {
            let counts = sums
                .iter()
                .map(|(start, it)| CheckRollupView::new(*start, it).rounds);
            counts.collect::<Vec<_>>()
        };
        let before = (hours(100), days());
        assert_eq!(count(&before.0)[..3], [3, 6, 6]);
        assert_eq!(before.0.len(), 26);
        assert_eq!(count(&before.1), [9, 144]);
        store.sum_up(MIDNIGHT + 25 * HOUR + HOUR / 2).unwrap();
        assert_eq!(
            store.last(series, Resolution::Day, i64::MAX).unwrap(),
            Some(MIDNIGHT / SECOND)
        );
        let last_hour = MIDNIGHT / SECOND + 24 * 3600;
        assert_eq!(
            store.last(series, Resolution::Hour, i64::MAX).unwrap(),
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
            .rollups(series, Resolution::Day, since, None, 9, NOW)
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

    #[test]
    fn a_clock_that_was_ahead_for_a_while_leaves_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let series = series("a", Some("192.0.2.1"));
        let put = |at| store.put(series, &round(at, 0), 1);
        let hours = |now| {
            let hours = store.rollups(series, Resolution::Hour, None, None, 99, now);
            let hours = hours.unwrap().into_iter().rev();
            let hours = hours.map(|(start, it)| CheckRollupView::new(start, &it));
            let since = |it: &CheckRollupView| it.timestamp.as_second() - MIDNIGHT / SECOND;
            hours
                .map(|it| (since(&it) / 3600, it.rounds))
                .collect::<Vec<_>>()
        };
        put(MIDNIGHT);
        put(MIDNIGHT + HOUR);
        // For some minutes it is five hours ahead, and sums up what is not over.
        put(MIDNIGHT + 6 * HOUR);
        store.sum_up(MIDNIGHT + 7 * HOUR + HOUR / 2).unwrap();
        assert_eq!(
            store.last(series, Resolution::Hour, i64::MAX).unwrap(),
            Some(MIDNIGHT / SECOND + 6 * 3600)
        );
        // It is right again, in the middle of hour 1.
        put(MIDNIGHT + HOUR + HOUR / 2);
        let now = MIDNIGHT + 2 * HOUR - 1;
        store.sum_up(now).unwrap();
        assert_eq!(hours(now), [(0, 1), (1, 2)]);
        put(MIDNIGHT + 2 * HOUR);
        let now = MIDNIGHT + 3 * HOUR + 11 * SECOND;
        store.sum_up(now).unwrap();
        assert_eq!(hours(now), [(0, 1), (1, 2), (2, 1)]);
        // And when the hour comes that it made up.
        put(MIDNIGHT + 6 * HOUR + 1);
        let now = MIDNIGHT + 7 * HOUR + 11 * SECOND;
        store.sum_up(now).unwrap();
        assert_eq!(hours(now), [(0, 1), (1, 2), (2, 1), (6, 2)]);
    }

    #[test]
    fn what_is_not_summed_up_stays_and_sums_stay_when_the_clock_is_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let series = series("a", Some("192.0.2.1"));
        for hour in 0..4 {
            store.put(series, &round(MIDNIGHT + hour * HOUR, 0), 1);
        }
        let second = Some(Duration::from_secs(1));
        let keep = Retention {
            results: second,
            hours: None,
            days: None,
        };
        assert_eq!(store.trim(&keep, MIDNIGHT + 9 * HOUR).unwrap(), 0);
        store.sum_up(MIDNIGHT + 3 * HOUR).unwrap();
        assert_eq!(store.trim(&keep, MIDNIGHT + 9 * HOUR).unwrap(), 2);
        let all = Retention {
            results: second,
            hours: second,
            days: second,
        };
        // The host starts in 1970.
        store.sum_up(0).unwrap();
        assert_eq!(store.trim(&all, 0).unwrap(), 0);
        let now = MIDNIGHT + 9 * HOUR;
        store.sum_up(now).unwrap();
        let hours = store.rollups(series, Resolution::Hour, None, None, 99, now);
        let counts = hours.unwrap().into_iter();
        let counts = counts.map(|(start, it)| CheckRollupView::new(start, &it).rounds);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 1, 1, 1]);
    }
}
