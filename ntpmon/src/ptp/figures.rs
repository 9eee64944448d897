//! What is kept of many numbers: how often something comes, and the least, the largest and the mean
//! of what was measured.

/// How long a rate is counted before it is told, in nanoseconds.
const WINDOW: u64 = 10_000_000_000;

/// How often something comes: its count, and the rate over the last ten to twenty seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// How often it came.
    pub count: u64,
    /// When it came first, and last.
    first: u64,
    last: u64,
    /// When the window began that is counted now, and what it has.
    began: u64,
    counted: u64,
    /// The one before.
    previous: Option<(u64, u64)>,
}

impl Rate {
    pub(super) fn count(&mut self, now: u64) {
        if self.count == 0 {
            (self.first, self.began) = (now, now);
        }
        let age = now.saturating_sub(self.began);
        if age >= WINDOW {
            self.previous = (age < 2 * WINDOW).then_some((self.began, self.counted));
            (self.began, self.counted) = (now, 0);
        }
        self.count += 1;
        self.counted += 1;
        self.last = self.last.max(now);
    }

    /// As it was before a restart: a count, and no time.
    pub(super) const fn restored(count: u64) -> Self {
        Self {
            count,
            first: 0,
            last: 0,
            began: 0,
            counted: 0,
            previous: None,
        }
    }

    /// So many in a second at this time; nothing before there is enough to tell.
    #[must_use]
    pub fn per_second(&self, now: u64) -> Option<f64> {
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        if self.last == 0 {
            return None;
        }
        if now.saturating_sub(self.last) >= 2 * WINDOW {
            return Some(0.0);
        }
        match self.previous {
            Some((began, counted)) => {
                Some((counted + self.counted) as f64 / seconds(began, now.max(self.last)))
            }
            None if self.counted >= 2 && self.last > self.began => {
                Some((self.counted - 1) as f64 / seconds(self.began, self.last))
            }
            None => None,
        }
    }

    /// So many in a second from the first to the last: for files, which are over.
    #[must_use]
    pub fn mean_per_second(&self) -> Option<f64> {
        let nanoseconds = self.last.checked_sub(self.first).filter(|it| *it > 0)?;
        (self.count >= 2).then(|| (self.count - 1) as f64 / (nanoseconds as f64 / 1e9))
    }
}

/// Of what was measured: how often, the last, the least, the largest, the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// How often.
    pub count: u64,
    /// The last.
    pub last: i64,
    /// The least.
    pub minimum: i64,
    /// The largest.
    pub maximum: i64,
    sum: i128,
}

impl Statistics {
    pub(super) fn add(&mut self, value: i64) {
        if self.count == 0 {
            (self.minimum, self.maximum) = (value, value);
        }
        self.count += 1;
        self.last = value;
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
        self.sum += i128::from(value);
    }

    /// Nothing when nothing was measured.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rate_is_that_of_the_last_windows_and_ends_with_what_came() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(0), None);
        rate.count(SECOND);
        assert_eq!(rate.per_second(SECOND), None);
        for number in 1..=80 {
            rate.count(SECOND + number * SECOND / 8);
        }
        let now = 11 * SECOND;
        assert!((rate.per_second(now).unwrap() - 8.0).abs() < 0.2);
        for number in 1..=30 {
            rate.count(now + number * SECOND);
        }
        let now = now + 30 * SECOND;
        assert!((rate.per_second(now).unwrap() - 1.0).abs() < 0.2);
        assert_eq!(rate.per_second(now + 20 * SECOND), Some(0.0));
        assert_eq!(rate.count, 111);
        assert!((rate.mean_per_second().unwrap() - 110.0 / 40.0).abs() < 1e-9);
    }

    #[test]
    fn statistics_of_nothing_have_no_mean() {
        let mut statistics = Statistics::default();
        assert_eq!(statistics.mean(), None);
        for value in [3, -5, 8] {
            statistics.add(value);
        }
        assert_eq!((statistics.minimum, statistics.maximum), (-5, 8));
        assert_eq!((statistics.last, statistics.mean()), (8, Some(2.0)));
    }
}
