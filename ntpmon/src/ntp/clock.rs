//! The only place that reads the clocks. The kernel stamps packets with monotonic time; what has
//! to be added to it to get UTC changes only when somebody steps the clock, since slewing moves
//! both alike.
//!
//! A leap second is such a step: Unix time has no 23:59:60, the kernel repeats 23:59:59 instead
//! (unless the clock is smeared, which is slewing). Packets of that second share their UTC with
//! those of the second before; their monotonic times, by which they are ordered and measured, go
//! on. NTP announces the second by leap indicators 1 and 2.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Monotonic time as the kernel programs see it, in nanoseconds.
#[must_use]
pub fn monotonic() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic)).unsigned_abs()
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// A step of UTC against monotonic time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How far the clock jumped, in nanoseconds; positive is forwards.
    pub nanoseconds: i64,
}

/// Follows UTC − monotonic.
#[derive(Clone, Copy, Debug)]
pub struct UtcOffset {
    /// In nanoseconds.
    current: i64,
}

/// Less than this is the uncertainty of reading two clocks one after the other.
const SMALLEST_STEP: Duration = Duration::from_micros(100);
/// A reading that took no longer than this was not interrupted: it needs no second one.
const QUICK: Duration = Duration::from_micros(1);

impl UtcOffset {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { current: sample() }
    }

    /// UTC of a monotonic time, in nanoseconds since 1970.
    #[must_use]
    pub fn unix(&self, monotonic: u64) -> i64 {
        monotonic.cast_signed().wrapping_add(self.current)
    }

    /// Reads the clocks again and says whether UTC was stepped in between.
    pub fn refresh(&mut self) -> Option<Step> {
        self.update(sample())
    }

    fn update(&mut self, sample: i64) -> Option<Step> {
        let nanoseconds = sample - self.current;
        let stepped = nanoseconds.unsigned_abs() > SMALLEST_STEP.as_nanos() as u64;
        if stepped {
            self.current = sample;
        } else {
            // Readings scatter, the truth does not: follow slowly.
            self.current += nanoseconds / 16;
        }
        stepped.then_some(Step { nanoseconds })
    }
}

/// UTC − monotonic; the best of a few readings, since any may be interrupted.
fn sample() -> i64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..5 {
        let before = monotonic();
        let utc = nanoseconds(clock_gettime(ClockId::Realtime));
        let after = monotonic();
        let width = after - before;
        if width < best.0 {
            let middle = before + width / 2;
            best = (width, utc - middle.cast_signed());
        }
        if width < QUICK.as_nanos() as u64 {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_of_a_quiet_clock_show_no_step() {
        let mut offset = UtcOffset::now();
        for _ in 0..1000 {
            assert_eq!(offset.refresh(), None);
        }
    }

    #[test]
    fn a_step_is_seen_once_with_its_sign() {
        let mut offset = UtcOffset { current: 1000 };
        let back = offset.update(1000 - 5_000_000);
        assert_eq!(
            back,
            Some(Step {
                nanoseconds: -5_000_000
            })
        );
        assert_eq!(offset.update(1000 - 5_000_000), None);
        assert_eq!(offset.unix(5_000_000), 1000);
    }

    #[test]
    fn a_leap_second_is_a_step_back_by_a_second() {
        let second = 1_000_000_000;
        let mut offset = UtcOffset {
            current: 1_483_228_799 * second,
        };
        let before = offset.unix(second.unsigned_abs() / 2);
        let step = offset.update(1_483_228_798 * second);
        assert_eq!(step.map(|step| step.nanoseconds), Some(-second));
        // One second later it is the same half past 23:59:59 again.
        assert_eq!(offset.unix(second.unsigned_abs() * 3 / 2), before);
    }
}
