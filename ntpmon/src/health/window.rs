//! The last samples of a server's clock, and what they come to: medians, because a single late
//! packet is no fault, and how much they scatter.

use std::collections::VecDeque;

/// Samples that are kept.
pub const SAMPLES: usize = 64;
/// Older ones say nothing of now, in nanoseconds.
const LIFETIME: i64 = 2 * 3600 * 1_000_000_000;

/// One exchange, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since 1970.
    pub time: i64,
    /// How far the server is ahead of this host.
    pub offset: i64,
    /// The round trip without the server's share.
    pub delay: i64,
    /// What the two clocks' precisions and the length of the exchange leave open.
    pub dispersion: i64,
}

/// The last samples.
#[derive(Clone, Debug, Default)]
pub struct Window(VecDeque<Sample>);

/// What samples come to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The last of them.
    pub last: f64,
    /// Half are not above.
    pub median: f64,
    /// How far they are from it: 1.4826 times the median distance, which for chance alone is the
    /// standard deviation.
    pub spread: f64,
    /// The least.
    pub minimum: f64,
    /// The greatest.
    pub maximum: f64,
}

/// What a window comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub samples: usize,
    /// From the first to the last, in seconds.
    pub seconds: f64,
    /// How far the server is ahead of this host.
    pub offset: Spread,
    /// The round trip without the server's share.
    pub delay: Spread,
    /// What the exchange leaves open.
    pub dispersion: Spread,
    /// Root mean square of the differences of offsets to that of the sample with the least delay,
    /// in seconds; nothing before there are two.
    pub jitter: Option<f64>,
}

impl Window {
    /// Takes a sample.
    pub fn add(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
        let oldest = sample.time.saturating_sub(LIFETIME);
        while self.0.front().is_some_and(|it| it.time < oldest) {
            self.0.pop_front();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The samples, the oldest first.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }

    /// What these samples come to; nothing where there are none. They are of one server, as several
    /// rings may have seen it.
    #[must_use]
    pub fn summary(samples: &mut Vec<Sample>) -> Option<Summary> {
        samples.sort_by_key(|it| it.time);
        if samples.len() > SAMPLES {
            samples.drain(..samples.len() - SAMPLES);
        }
        let (first, last) = (samples.first()?, samples.last()?);
        let seconds = last.time.saturating_sub(first.time) as f64 / 1e9;
        let best = samples.iter().min_by_key(|it| it.delay)?.offset;
        let others = samples.len() - 1;
        let squares: f64 = samples
            .iter()
            .map(|it| (it.offset.saturating_sub(best) as f64 / 1e9).powi(2))
            .sum();
        let spread = |of: fn(&Sample) -> i64| Spread::of(samples.iter().map(of));
        Some(Summary {
            samples: samples.len(),
            seconds,
            offset: spread(|it| it.offset)?,
            delay: spread(|it| it.delay)?,
            dispersion: spread(|it| it.dispersion)?,
            jitter: (others > 0).then(|| (squares / others as f64).sqrt()),
        })
    }
}

impl Spread {
    /// Of values in nanoseconds, the last one last.
    fn of(values: impl Iterator<Item = i64>) -> Option<Self> {
        let mut values: Vec<i64> = values.collect();
        let last = *values.last()?;
        let middle = median(&mut values)?;
        let (minimum, maximum) = (*values.first()?, *values.last()?);
        let seconds = |nanoseconds: i64| nanoseconds as f64 / 1e9;
        Some(Self {
            last: seconds(last),
            median: seconds(middle),
            spread: scatter(&values, middle) as f64 / 1e9,
            minimum: seconds(minimum),
            maximum: seconds(maximum),
        })
    }
}

/// The middle one; it puts them in order. Of an even number the mean of the two in the middle.
pub(super) fn median(values: &mut [i64]) -> Option<i64> {
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values[values.len() / 2 - 1];
    Some(((i128::from(lower) + i128::from(upper)) / 2) as i64)
}

/// 1.4826 times the median distance from the middle: robust against outliers.
pub(super) fn scatter(values: &[i64], middle: i64) -> i64 {
    let mut distances: Vec<i64> = values
        .iter()
        .map(|it| i64::try_from(it.abs_diff(middle)).unwrap_or(i64::MAX))
        .collect();
    (median(&mut distances).unwrap_or(0) as f64 * 1.4826) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn sample(time: i64, offset: i64, delay: i64) -> Sample {
        Sample {
            time: time * SECOND,
            offset,
            delay,
            dispersion: 0,
        }
    }

    #[test]
    fn one_late_packet_moves_no_median() {
        let mut window = Window::default();
        assert_eq!(Window::summary(&mut Vec::new()), None);
        for time in 0..9 {
            window.add(sample(time, 1_000_000, 200_000));
        }
        window.add(sample(9, 401_000_000, 800_200_000));
        let summary = Window::summary(&mut window.samples().copied().collect()).unwrap();
        assert_eq!((summary.samples, summary.seconds), (10, 9.0));
        assert_eq!((summary.offset.median, summary.offset.spread), (1e-3, 0.0));
        assert_eq!(summary.offset.last, 0.401);
        assert_eq!(summary.delay.maximum, 0.8002);
        assert!((summary.jitter.unwrap() - 0.4 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut window = Window::default();
        for time in 0..SAMPLES as i64 + 5 {
            window.add(sample(time, time, 1));
        }
        assert_eq!(window.samples().count(), SAMPLES);
        assert_eq!(window.samples().next().unwrap().offset, 5);
        window.add(sample(3 * 3600, 0, 1));
        assert_eq!(window.samples().count(), 1);
        let mut alone = window.samples().copied().collect();
        assert_eq!(Window::summary(&mut alone).unwrap().jitter, None);
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between_and_does_not_overflow() {
        assert_eq!(median(&mut [4, 1, 3, 2]), Some(2));
        assert_eq!(median(&mut [i64::MAX, i64::MAX - 2]), Some(i64::MAX - 1));
        assert_eq!(median(&mut []), None);
        assert_eq!(scatter(&[i64::MIN, 0, 0], 0), 0);
    }
}
