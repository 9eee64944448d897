//! The only place that reads the clocks. The kernel stamps packets with monotonic time; what has
//! to be added to it to get UTC changes only when somebody steps the clock, since slewing moves
//! both alike.
//!
//! A leap second is such a step: Unix time has no 23:59:60, the kernel repeats 23:59:59 instead
//! (unless the clock is smeared, which is slewing). Packets of that second share their UTC with
//! those of the second before; their monotonic times, by which they are ordered and measured, go
//! on. NTP announces the second by leap indicators 1 and 2.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Monotonic time as the kernel programs see it, in nanoseconds.
#[must_use]
pub fn monotonic() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic)).unsigned_abs()
}

/// The time of this moment, in nanoseconds since 1970.
#[must_use]
pub fn utc() -> i64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// How far monotonic time was moved by slewing: it follows the corrections that are made to this
/// host's clock, which the clock of the hardware does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slew {
    /// From some point on, in nanoseconds.
    pub nanoseconds: i64,
    /// By how much that may be wrong for what was seen since the reading before.
    pub uncertain: i64,
    /// How long this host has slept since it was started, in nanoseconds: neither monotonic time nor
    /// the clock of the hardware go on meanwhile, and UTC does.
    pub slept: i64,
}

/// Less is the uncertainty of reading two clocks one after the other, in nanoseconds.
const SLEPT: i64 = 10_000_000;

impl Slew {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        let Reading { offset, width } = sample(ClockId::Monotonic, ClockId::MonotonicRaw);
        Self {
            nanoseconds: offset.wrapping_neg(),
            uncertain: i64::try_from(width).unwrap_or(i64::MAX),
            slept: slept(),
        }
    }

    /// Reads them again.
    pub fn refresh(&mut self) {
        let now = Self::now();
        let moved = now.nanoseconds.wrapping_sub(self.nanoseconds);
        *self = Self {
            nanoseconds: now.nanoseconds,
            uncertain: now.uncertain.saturating_add(moved.saturating_abs()),
            slept: now.slept,
        };
    }

    /// For how long this host slept between that reading and this, in nanoseconds; nothing where it
    /// did not.
    #[must_use]
    pub fn slept_since(&self, before: &Self) -> Option<i64> {
        let slept = self.slept.wrapping_sub(before.slept);
        (slept > SLEPT).then_some(slept)
    }
}

/// A step of UTC against monotonic time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How far the clock jumped, in nanoseconds; positive is forwards.
    pub nanoseconds: i64,
    /// How much of that this host slept, in nanoseconds: monotonic time stood still meanwhile.
    pub slept: i64,
}

/// How well the kernel knows how long it slept, in nanoseconds: by a clock that may count seconds.
const AWAKENING: u64 = 1_000_000_000;

impl Step {
    /// By how much somebody set the clock, in nanoseconds; nothing where this host only slept.
    #[must_use]
    pub fn set(self) -> Option<i64> {
        let set = self.nanoseconds.wrapping_sub(self.slept);
        (self.slept == 0 || set.unsigned_abs() >= AWAKENING).then_some(set)
    }
}

/// Follows UTC − monotonic.
#[derive(Clone, Copy, Debug)]
pub struct UtcOffset {
    /// In nanoseconds.
    current: i64,
    /// How wide the reading was that it is based on, in nanoseconds.
    width: u64,
    /// How long this host has slept by the last step, in nanoseconds: it steps with each sleep.
    slept: i64,
}

/// One clock − another as they were read once, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Reading {
    offset: i64,
    /// How long reading took: the offset is known no better than that.
    width: u64,
}

/// Less than this, in nanoseconds, is the uncertainty of reading two clocks one after the other.
const SMALLEST_STEP: u64 = 100_000;
/// A reading that took no longer than this, in nanoseconds, was not interrupted: it needs no second one.
const QUICK: u64 = 1000;

impl UtcOffset {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        let Reading { offset, width } = sample(ClockId::Monotonic, ClockId::Realtime);
        Self {
            current: offset,
            width,
            slept: slept(),
        }
    }

    /// UTC of a monotonic time, in nanoseconds since 1970.
    #[must_use]
    pub fn unix(&self, monotonic: u64) -> i64 {
        monotonic.cast_signed().wrapping_add(self.current)
    }

    /// Reads the clocks again and says whether UTC was stepped in between.
    pub fn refresh(&mut self) -> Option<Step> {
        self.update(sample(ClockId::Monotonic, ClockId::Realtime), slept)
    }

    fn update(
        &mut self,
        Reading { offset, width }: Reading,
        slept: impl FnOnce() -> i64,
    ) -> Option<Step> {
        let nanoseconds = offset - self.current;
        // On a machine that gets no processor even the best reading can be wide: what it leaves
        // open is no step, neither now nor when the next reading is a better one.
        let open = SMALLEST_STEP.max(width).max(self.width);
        let stepped = nanoseconds.unsigned_abs() > open;
        let better = self.width > SMALLEST_STEP && width < self.width;
        if stepped || better {
            self.current = offset;
            self.width = width;
        } else if width <= SMALLEST_STEP {
            // Readings scatter, the truth does not: follow slowly.
            self.current += nanoseconds / 16;
        }
        stepped.then(|| {
            let slept = slept();
            let before = std::mem::replace(&mut self.slept, slept);
            let slept = Some(slept.wrapping_sub(before)).filter(|it| *it > SLEPT);
            Step {
                nanoseconds,
                slept: slept.unwrap_or(0),
            }
        })
    }

    /// As if the clock were stepped by so many nanoseconds since it was read.
    #[cfg(test)]
    pub(crate) const fn before_a_step(mut self, nanoseconds: i64) -> Self {
        self.current -= nanoseconds;
        self
    }
}

/// How long this host has slept since it was started, in nanoseconds.
fn slept() -> i64 {
    sample(ClockId::Monotonic, ClockId::Boottime).offset
}

/// `other` − `one`; the best of a few readings, since any may be interrupted.
fn sample(one: ClockId, other: ClockId) -> Reading {
    let mut best = Reading {
        offset: 0,
        width: u64::MAX,
    };
    for _ in 0..5 {
        let before = nanoseconds(clock_gettime(one));
        let between = nanoseconds(clock_gettime(other));
        let after = nanoseconds(clock_gettime(one));
        let width = (after - before).unsigned_abs();
        if width < best.width {
            let middle = before + (after - before) / 2;
            best = Reading {
                offset: between - middle,
                width,
            };
        }
        if width < QUICK {
            break;
        }
    }
    best
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
    fn what_is_slewed_meanwhile_is_what_is_uncertain() {
        let mut slew = Slew::now();
        let before = slew.nanoseconds;
        slew.refresh();
        let moved = (slew.nanoseconds - before).abs();
        assert!(slew.uncertain >= moved, "{slew:?}");
        // A crystal and its corrections differ by less than a thousandth.
        assert!(moved < SMALLEST_STEP.cast_signed() * 100, "{moved}");
    }

    const fn at(current: i64) -> UtcOffset {
        UtcOffset {
            current,
            width: 50,
            slept: 0,
        }
    }

    const fn read(offset: i64, width: u64) -> Reading {
        Reading { offset, width }
    }

    #[test]
    fn a_reading_that_was_interrupted_is_no_step_and_moves_nothing() {
        let mut offset = at(1000);
        assert_eq!(offset.update(read(4_000_000, 10_000_000), || 0), None);
        assert_eq!(offset.unix(0), 1000);
        assert_eq!(offset.update(read(1000, 50), || 0), None);
    }

    #[test]
    fn a_step_that_was_read_badly_is_told_once_and_made_good() {
        let second = 1_000_000_000;
        let mut offset = at(0);
        assert!(
            offset
                .update(read(second + 3_000_000, 10_000_000), || 0)
                .is_some()
        );
        assert_eq!(offset.update(read(second, 50), || 0), None);
        assert_eq!(offset.unix(0), second);
        assert!(offset.update(read(second + 200_000, 50), || 0).is_some());
    }

    #[test]
    fn a_step_is_seen_once_with_its_sign() {
        let mut offset = at(1000);
        let back = offset.update(read(1000 - 5_000_000, 50), || 0);
        assert_eq!(
            back,
            Some(Step {
                nanoseconds: -5_000_000,
                slept: 0,
            })
        );
        assert_eq!(offset.update(read(1000 - 5_000_000, 50), || 0), None);
        assert_eq!(offset.unix(5_000_000), 1000);
    }

    #[test]
    fn sleep_is_nobodys_step_and_what_was_set_meanwhile_is() {
        let (second, hour) = (1_000_000_000, 3_600_000_000_000);
        let mut offset = at(0);
        let mut step = |to, slept| offset.update(read(to, 50), || slept).unwrap();
        let slept = step(hour, hour);
        assert_eq!((slept.nanoseconds, slept.slept), (hour, hour));
        assert_eq!(slept.set(), None);
        // What it slept then is no part of the next one.
        let set = step(hour - 5_000_000, hour);
        assert_eq!((set.slept, set.set()), (0, Some(-5_000_000)));
        // The clock that counts sleep may count seconds.
        assert_eq!(step(2 * hour + 600_000_000, 2 * hour).set(), None);
        let before = 2 * hour + 600_000_000;
        assert_eq!(
            step(before + hour - 2 * second, 3 * hour).set(),
            Some(-2 * second)
        );
    }

    #[test]
    fn a_leap_second_is_a_step_back_by_a_second() {
        let second = 1_000_000_000;
        let mut offset = at(1_483_228_799 * second);
        let before = offset.unix(second.unsigned_abs() / 2);
        let step = offset.update(read(1_483_228_798 * second, 50), || 0);
        assert_eq!(step.map(|step| step.nanoseconds), Some(-second));
        // One second later it is the same half past 23:59:59 again.
        assert_eq!(offset.unix(second.unsigned_abs() * 3 / 2), before);
    }
}
