//! Sums of rounds over an hour or a day, with how offsets and delays are distributed. They are
//! made from the rounds themselves once the hour is over, so that nothing has to be kept meanwhile
//! and a crash costs nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Status, round::Round};
use crate::history::{
    histogram::Histogram,
    view::{seconds, time},
};

const LAYOUT: u8 = 1;
const STATUSES: usize = Status::EACH.len();

/// Over how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resolution {
    /// An hour.
    Hour = 1,
    /// A day in UTC.
    Day = 2,
}

impl Resolution {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// When the one began that a time, in seconds since 1970, falls into.
    #[must_use]
    pub const fn start(self, time: i64) -> i64 {
        time.div_euclid(self.seconds()) * self.seconds()
    }
}

/// Sums and distributions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    rounds: u64,
    reached: u64,
    sent: u64,
    answered: u64,
    statuses: [u64; STATUSES],
    offset: Histogram,
    delay: Histogram,
}

impl Rollup {
    /// Adds a round.
    pub fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.sent += u64::from(round.sent);
        self.answered += u64::from(round.answered);
        if let Some(count) = self.statuses.get_mut(round.status as usize) {
            *count += 1;
        }
        if let Some(time) = round.time {
            self.reached += 1;
            self.offset.add(time.offset);
            self.delay.add(time.delay);
        }
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.reached += other.reached;
        self.sent += other.sent;
        self.answered += other.answered;
        for (count, more) in self.statuses.iter_mut().zip(other.statuses) {
            *count += more;
        }
        self.offset.merge(&other.offset);
        self.delay.merge(&other.delay);
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT];
        let counts = [self.rounds, self.reached, self.sent, self.answered];
        for count in counts.iter().chain(&self.statuses) {
            bytes.extend(count.to_le_bytes());
        }
        self.offset.write(&mut bytes);
        self.delay.write(&mut bytes);
        bytes
    }

    /// Nothing when another version wrote it.
    pub(super) fn read(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        if *rest.split_off_first()? != LAYOUT {
            return None;
        }
        let mut number = || Some(u64::from_le_bytes(*rest.split_off(..8)?.first_chunk()?));
        let mut rollup = Self {
            rounds: number()?,
            reached: number()?,
            sent: number()?,
            answered: number()?,
            ..Self::default()
        };
        for count in &mut rollup.statuses {
            *count = number()?;
        }
        rollup.offset = Histogram::read(rest)?;
        rollup.delay = Histogram::read(rest)?;
        Some(rollup)
    }
}

/// What all rounds to an address in an hour or a day came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckRollupView {
    /// When it begins.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// Rounds of questions.
    pub rounds: u64,
    /// Those that came to a time.
    pub reached: u64,
    /// The share of these.
    pub reach_ratio: Option<f64>,
    /// Questions that were asked.
    pub sent: u64,
    /// Answers that told the time.
    pub samples: u64,
    /// Rounds by their status; only what there was.
    pub statuses: BTreeMap<String, u64>,
    /// How far the server was ahead of this host.
    pub offset_min_seconds: Option<f64>,
    /// Half were not above.
    pub offset_median_seconds: Option<f64>,
    /// The mean.
    pub offset_mean_seconds: Option<f64>,
    /// The greatest.
    pub offset_max_seconds: Option<f64>,
    /// The round trip, without the server's share.
    pub delay_min_seconds: Option<f64>,
    /// Half were not above.
    pub delay_median_seconds: Option<f64>,
    /// 99 of 100 were not above.
    pub delay_p99_seconds: Option<f64>,
    /// The greatest.
    pub delay_max_seconds: Option<f64>,
}

impl CheckRollupView {
    /// Of one that began at a time, in seconds since 1970.
    #[must_use]
    pub fn new(start: i64, rollup: &Rollup) -> Self {
        let (offset, delay) = (&rollup.offset, &rollup.delay);
        let counts = Status::EACH.iter().zip(rollup.statuses);
        let there = counts.filter(|(_, count)| *count > 0);
        Self {
            timestamp: time(start.saturating_mul(1_000_000_000)),
            rounds: rollup.rounds,
            reached: rollup.reached,
            reach_ratio: (rollup.rounds > 0).then(|| rollup.reached as f64 / rollup.rounds as f64),
            sent: rollup.sent,
            samples: rollup.answered,
            statuses: there
                .map(|(status, count)| (status.name().to_owned(), count))
                .collect(),
            offset_min_seconds: offset.minimum().map(seconds),
            offset_median_seconds: offset.quantile(0.5).map(seconds),
            offset_mean_seconds: offset.mean().map(seconds),
            offset_max_seconds: offset.maximum().map(seconds),
            delay_min_seconds: delay.minimum().map(seconds),
            delay_median_seconds: delay.quantile(0.5).map(seconds),
            delay_p99_seconds: delay.quantile(0.99).map(seconds),
            delay_max_seconds: delay.maximum().map(seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Failure, answer::Stamps, round::Time};

    pub(super) fn round(offset: i64) -> Round {
        Round {
            status: Status::Ok,
            message: None,
            sent: 3,
            answered: 3,
            time: Some(Time {
                offset,
                delay: 2 * offset.abs(),
                dispersion: 1,
                jitter: None,
                stamps: Stamps::Kernel,
            }),
            ..Round::failed(&Failure::Refused, 0)
        }
    }

    #[test]
    fn rounds_are_summed_up_and_come_back_from_their_bytes() {
        let mut rollup = Rollup::default();
        for offset in [-1_000_000, 2_000_000, 5_000_000] {
            rollup.add(&round(offset));
        }
        rollup.add(&Round::failed(&Failure::Refused, 0));
        let bytes = rollup.write();
        assert_eq!(Rollup::read(&bytes), Some(rollup.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(Rollup::read(&bytes[..cut]), None);
        }
        let view = CheckRollupView::new(3600, &rollup);
        assert_eq!(
            (view.rounds, view.reached, view.reach_ratio),
            (4, 3, Some(0.75))
        );
        assert_eq!(view.statuses["refused"], 1);
        assert_eq!(view.statuses.len(), 2);
        assert_eq!(view.offset_min_seconds, Some(-0.001));
        assert_eq!(view.offset_mean_seconds, Some(0.002));
        let median = view.offset_median_seconds.unwrap();
        assert!((median / 0.002 - 1.0).abs() < 0.04);
        assert_eq!(view.delay_max_seconds, Some(0.01));
        assert_eq!(view.timestamp.to_string(), "1970-01-01T01:00:00Z");
        let mut doubled = rollup.clone();
        doubled.merge(&rollup);
        assert_eq!(CheckRollupView::new(0, &doubled).rounds, 8);
        let nothing = CheckRollupView::new(0, &Rollup::default());
        assert_eq!(
            (nothing.reach_ratio, nothing.offset_mean_seconds),
            (None, None)
        );
    }
}
