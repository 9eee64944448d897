//! Follows a server's clock from exchange to exchange and tells a step from everything else that
//! moves an offset: jitter, a longer way in one direction, two crystals that differ, and this host's
//! own clock being slewed or stepped.
//!
//! A way that became longer in one direction by x moves the offset by x/2 and the delay by x. So each
//! offset may be wrong by half of what its delay has above the shortest of late. What that cannot
//! explain, nor the scatter of the samples before, nor drift, is a step.

use std::collections::VecDeque;

use super::window::{median, scatter};

/// Samples that the next one is held against.
const POINTS: usize = 16;
/// So many there have to be.
const FEWEST: usize = 3;
/// From so many on, and over this time in nanoseconds, they tell how the clocks drift.
const FOR_DRIFT: (usize, i64) = (8, 16_000_000_000);
/// A point that is older than the last by less than this, in nanoseconds, is left out.
const LATE: i64 = 60_000_000_000;
/// No step is less than this, in nanoseconds.
const LEAST: i64 = 500_000;
/// And none is less than so many times the scatter.
const SCATTERS: i64 = 6;
/// What two crystals may differ by before it is known, in nanoseconds a second, and after.
const DRIFT_UNKNOWN: i64 = 100_000;
const DRIFT_KNOWN: i64 = 15_000;
/// When all the samples are there, what they say of the drift scatters by so much; it is known no
/// better than so many times that. Temperature moves crystals by the least of it.
const DRIFT_SCATTERS: i64 = 4;
const DRIFT_LEAST: i64 = 3000;
/// A drift beyond this is no crystal's.
const DRIFT_MOST: i64 = 500_000;
const SECOND: i64 = 1_000_000_000;

/// A server's clock at a moment, all in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// On a clock that is never stepped.
    pub(super) at: i64,
    /// How far the server is ahead of one that is never slewed either, from some fixed point on.
    pub(super) place: i64,
    /// The round trip without the server's share.
    pub(super) delay: i64,
    /// By how much this host's clock may have been slewed between the reading of that and now.
    pub(super) uncertain: i64,
}

/// A step of a server's clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Positive when it went forwards.
    pub change: i64,
    /// How far the server is ahead now.
    pub after: i64,
    /// Median of the samples before.
    pub delay_before: i64,
    /// Of the exchange that shows it.
    pub delay_after: i64,
    /// What jitter, delay and drift could have explained.
    pub explained: i64,
    /// Samples before.
    pub samples: usize,
}

/// The last points.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    points: VecDeque<Point>,
    shortest: Shortest,
    /// By how much the points before a step may be in the wrong place after it: the exchange that
    /// showed it may have been a slow one.
    doubt: i64,
}

/// The shortest delay of late, in two generations, so that a way that became longer for good is
/// usual one day.
#[derive(Clone, Copy, Debug, Default)]
struct Shortest {
    current: Option<i64>,
    previous: Option<i64>,
    points: usize,
}

/// Points in a generation.
const GENERATION: usize = 128;

impl Shortest {
    fn add(&mut self, delay: i64) {
        if self.points >= GENERATION {
            self.previous = self.current.take();
            self.points = 0;
        }
        self.points += 1;
        self.current = Some(self.current.map_or(delay, |known| known.min(delay)));
    }

    /// How much longer a delay is, in nanoseconds.
    fn exceeded_by(&self, delay: i64) -> i64 {
        let known = self.current.into_iter().chain(self.previous);
        known
            .min()
            .map_or(0, |shortest| delay.saturating_sub(shortest).max(0))
    }
}

impl Track {
    /// Takes the next point, at which the server is `offset` ahead. After a step the points before
    /// count on as if they had been taken after it, so that the way back is seen too.
    pub(super) fn observe(&mut self, point: Point, offset: i64) -> Option<Step> {
        if let Some(last) = self.points.back()
            && point.at < last.at
        {
            // Two rings, or two clients, are told a little out of order.
            if last.at - point.at < LATE {
                return None;
            }
            // Another file, or another life.
            *self = Self::default();
        }
        self.shortest.add(point.delay);
        let doubt = self.shortest.exceeded_by(point.delay) / 2;
        let judged = self.judge(&point, offset);
        let step = judged.filter(|it| it.change.unsigned_abs() > it.explained.unsigned_abs());
        // Or one that knows better where the points before a step are now.
        let better = judged.filter(|_| doubt < self.doubt);
        if let Some(Step { change, .. }) = step.or(better) {
            for old in &mut self.points {
                old.place = old.place.wrapping_add(change);
            }
            self.doubt = doubt;
        }
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        step
    }

    /// What would have to be a step if nothing explained it.
    fn judge(&self, point: &Point, offset: i64) -> Option<Step> {
        let last = self.points.back()?;
        if self.points.len() < FEWEST {
            return None;
        }
        let drift = self.drift();
        // Relative to the last, so that no number is large.
        let elapsed = |at: i64| at - last.at;
        let drifted = |at: i64| scaled(drift.map_or(0, |it| it.0), elapsed(at));
        let mut rests: Vec<i64> = self
            .points
            .iter()
            .map(|it| {
                it.place
                    .wrapping_sub(last.place)
                    .saturating_sub(drifted(it.at))
            })
            .collect();
        let middle = median(&mut rests)?;
        let expected = middle.saturating_add(drifted(point.at));
        let change = point
            .place
            .wrapping_sub(last.place)
            .saturating_sub(expected);

        let mut delays: Vec<i64> = self.points.iter().map(|it| it.delay).collect();
        let delay_before = median(&mut delays)?;
        // Of the points before, and of this one: each may have gone the longer way.
        let by_delay =
            [delay_before, point.delay].map(|delay| self.shortest.exceeded_by(delay) / 2);
        let by_delay = by_delay[0].saturating_add(by_delay[1]);
        let rate = drift.map_or(DRIFT_UNKNOWN, |it| it.1);
        let explained = LEAST
            .saturating_add(scatter(&rests, middle).saturating_mul(SCATTERS))
            .saturating_add(scaled(rate, elapsed(point.at)))
            .saturating_add(by_delay)
            .saturating_add(self.doubt)
            .saturating_add(point.uncertain)
            .saturating_add(last.uncertain);
        Some(Step {
            change,
            after: offset,
            delay_before,
            delay_after: point.delay,
            explained,
            samples: self.points.len(),
        })
    }

    /// How much faster the server's clock goes than this host's crystal, in nanoseconds a second: the
    /// median of what pairs of points say that are half of the time apart. Nothing before it can be
    /// told. And how well that is known.
    fn drift(&self) -> Option<(i64, i64)> {
        let (fewest, shortest) = FOR_DRIFT;
        let (first, last) = (self.points.front()?, self.points.back()?);
        if self.points.len() < fewest || last.at - first.at < shortest {
            return None;
        }
        let half = self.points.len() / 2;
        let mut slopes: Vec<i64> = (self.points.iter().zip(self.points.iter().skip(half)))
            .filter_map(|(one, other)| {
                let elapsed = i128::from(other.at - one.at);
                let moved = i128::from(other.place.wrapping_sub(one.place));
                i64::try_from((moved * i128::from(SECOND)).checked_div(elapsed)?).ok()
            })
            .collect();
        let drift = median(&mut slopes).filter(|it| it.abs() <= DRIFT_MOST)?;
        let open = match self.points.len() < POINTS {
            true => DRIFT_KNOWN,
            false => (scatter(&slopes, drift).saturating_mul(DRIFT_SCATTERS))
                .clamp(DRIFT_LEAST, DRIFT_KNOWN),
        };
        Some((drift, open))
    }
}

/// What a rate comes to, in nanoseconds a second, over a time in nanoseconds.
fn scaled(rate: i64, elapsed: i64) -> i64 {
    (i128::from(rate) * i128::from(elapsed) / i128::from(SECOND)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: i64 = 1_000_000;

    /// One exchange each `interval`, with a way of 100 µs that jitters a little, and a drift.
    struct World {
        track: Track,
        at: i64,
        interval: i64,
        drift: i64,
        moved: i64,
        number: i64,
    }

    impl World {
        fn new(interval: i64, drift: i64) -> Self {
            Self {
                track: Track::default(),
                at: 1,
                interval,
                drift,
                moved: 0,
                number: 0,
            }
        }

        /// The next exchange, whose ways take so much longer.
        fn next(&mut self, there: i64, back: i64) -> Option<Step> {
            self.at += self.interval;
            self.number += 1;
            let jitter = (self.number * 7919) % 40_000;
            let (there, back) = (100_000 + there + jitter, 100_000 + back);
            let offset = self.moved + scaled(self.drift, self.at) + (there - back) / 2;
            self.track.observe(
                Point {
                    at: self.at,
                    place: offset,
                    delay: there + back,
                    uncertain: 0,
                },
                offset,
            )
        }

        fn quiet(&mut self, exchanges: usize) {
            for number in 0..exchanges {
                assert_eq!(self.next(0, 0), None, "exchange {number}");
            }
        }
    }

    #[test]
    fn a_step_of_5_ms_is_seen_with_the_next_exchange_both_ways() {
        for interval in [SECOND / 10, SECOND, 16 * SECOND, 64 * SECOND, 1024 * SECOND] {
            for step in [5 * MILLISECOND, -5 * MILLISECOND] {
                let mut world = World::new(interval, 20_000);
                world.quiet(20);
                world.moved += step;
                let seen = world.next(0, 0).expect("a step").change;
                assert!((seen - step).abs() < MILLISECOND, "{seen}");
                world.quiet(20);
                world.moved -= step;
                assert!(world.next(0, 0).is_some());
                // One exchange that lies, and the way back.
                world.moved += step;
                assert!(world.next(0, 0).is_some());
                world.moved -= step;
                assert!(world.next(0, 0).is_some());
                world.quiet(20);
            }
        }
    }

    #[test]
    fn a_step_that_a_slow_exchange_shows_is_one_step() {
        for late in [-8 * MILLISECOND, 8 * MILLISECOND] {
            let mut world = World::new(SECOND, 0);
            world.quiet(20);
            world.moved += 100 * MILLISECOND;
            let (there, back) = (late.max(0), (-late).max(0));
            assert!(world.next(there, back).is_some());
            assert_eq!(world.next(back / 2, there / 2), None);
            world.quiet(3);
            // And what comes then is seen as well as before.
            world.moved += 5 * MILLISECOND;
            assert!(world.next(0, 0).is_some());
            world.quiet(20);
        }
    }

    #[test]
    fn a_longer_way_is_no_step_whichever_it_is() {
        let mut world = World::new(SECOND, 0);
        world.quiet(10);
        for late in [1, 10, 500, 3000] {
            assert_eq!(world.next(late * MILLISECOND, 0), None);
            assert_eq!(world.next(0, late * MILLISECOND), None);
        }
        // Also when it stays.
        for _ in 0..40 {
            assert_eq!(world.next(30 * MILLISECOND, 0), None);
        }
        world.quiet(40);
    }

    #[test]
    fn clocks_that_drift_are_no_steps_nor_is_a_long_silence() {
        for drift in [-90_000, 90_000] {
            for interval in [SECOND, 64 * SECOND, 1024 * SECOND] {
                let mut world = World::new(interval, drift);
                world.quiet(100);
                world.at += 20 * interval;
                world.quiet(20);
            }
        }
    }

    #[test]
    fn a_wide_scatter_hides_small_steps_and_shows_large_ones() {
        let mut world = World::new(SECOND, 0);
        for number in 0..40 {
            let wide = (number * 7) % 5 * MILLISECOND;
            // The ways change places: the delay stays.
            assert_eq!(world.next(4 * MILLISECOND - wide, wide), None, "{number}");
        }
        world.moved += 100 * MILLISECOND;
        assert!(world.next(2 * MILLISECOND, 2 * MILLISECOND).is_some());
    }

    #[test]
    fn offsets_of_decades_do_not_overflow() {
        let mut world = World::new(SECOND, 0);
        world.quiet(10);
        world.moved = i64::MAX - 3 * SECOND;
        assert!(world.next(0, 0).is_some());
        world.moved = i64::MIN + 3 * SECOND;
        assert!(world.next(0, 0).is_some());
    }

    #[test]
    fn a_point_that_comes_late_is_left_out() {
        let mut world = World::new(SECOND, 0);
        world.quiet(10);
        world.at -= 5 * SECOND;
        world.moved = SECOND;
        world.quiet(1);
        world.moved = 0;
        world.at += 4 * SECOND;
        world.quiet(3);
        world.moved = 5 * MILLISECOND;
        assert!(world.next(0, 0).is_some());
    }

    #[test]
    fn packets_of_another_life_begin_anew() {
        let mut world = World::new(SECOND, 0);
        world.quiet(10);
        world.at -= 2 * LATE;
        world.moved = SECOND;
        world.quiet(10);
    }
}
