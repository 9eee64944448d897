//! How far one client's clock is ahead, from many requests: each was delayed by an amount that
//! nobody knows, so those count that were delayed least. What a clock may have drifted since then is
//! allowed for, so that old requests lose against new ones, and after a step they are forgotten.
//!
//! All values are differences to the first in seconds: seven digits are enough for them.

use super::{ClientError, First, Measured};

/// What is remembered of a client's requests: some of them in two windows of time, and one that is
/// minutes old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// How far the client was ahead of the packets' time at the first, in nanoseconds.
    base: i64,
    /// When that was, by the packets' own time.
    begun: u64,
    /// What it is ahead at least: the most of this window, and of the one before.
    least: [Kept; 2],
    /// What it is ahead at most, in the same way; often nothing.
    most: [Kept; 2],
    /// The most of the first window: against it the drift is measured.
    anchor: Kept,
    /// The mean of how much two requests that followed each other differ, in seconds.
    jitter: f32,
    /// In seconds a second: what the client gains, and how far that may be wrong.
    drift: f32,
    drift_bound: f32,
    /// When this window began.
    window: f32,
    /// Requests in it.
    samples: u8,
    /// Requests in a row that were far below what was known.
    below: u8,
    /// In which minute since 1970 its error was told last.
    told: u32,
}

/// A value that held once.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Not a number where there is none.
    value: f32,
    /// In seconds since the first.
    at: f32,
}

impl Kept {
    const NONE: Self = Self {
        value: f32::NAN,
        at: 0.0,
    };

    const fn is_none(self) -> bool {
        self.value.is_nan()
    }

    /// What it is later, where it changes at a rate.
    fn later(self, at: f32, rate: f32) -> f32 {
        self.value + rate * (at - self.at)
    }
}

/// A window has so many requests at least,
const SAMPLES: u8 = 8;
/// and lasts so many seconds.
const WINDOW: f32 = 64.0;
/// What a clock may gain or lose as long as its drift is not known, in seconds a second: more than
/// the crystals of computers do that are not very hot.
const ALLOWANCE: f32 = 50e-6;
/// What its drift may change by, once that is known.
const WANDER: f32 = 5e-6;
/// From the anchor on it takes so many seconds until a drift is worth looking at, and until it is
/// told.
const YOUNG: f32 = 60.0;
const TOLD: f32 = 300.0;
/// Then another anchor is taken.
const OLD: f32 = 3600.0;
/// A drift is told when it is known as well as this.
const DRIFT_BOUND: f32 = 10e-6;
/// How well a drift is known at best, in seconds between its two ends.
const GRAIN: f32 = 20e-6;
/// What differs by more than this, and than this many times the jitter, and than a clock that is
/// being slewed can gain, is a step: forwards at once, since no request comes early; backwards after
/// some in a row, since any may be late.
const STEP: f32 = 0.01;
const STEP_JITTER: f32 = 8.0;
const SLEWED: f32 = 500e-6;
const LATE: u8 = 4;
/// In place of a minute.
const NEVER: u32 = u32::MAX;

impl Filter {
    pub(super) const fn new(ahead: i64, time: u64) -> Self {
        let first = Kept {
            value: 0.0,
            at: 0.0,
        };
        Self {
            base: ahead,
            begun: time,
            least: [first, Kept::NONE],
            most: [Kept::NONE; 2],
            anchor: Kept::NONE,
            jitter: 0.0,
            drift: 0.0,
            drift_bound: f32::INFINITY,
            window: 0.0,
            samples: 1,
            below: 0,
            told: NEVER,
        }
    }

    /// Begins anew: the clock was stepped, or is another's. Jitter is the network's and stays.
    pub(super) const fn begin(&mut self, ahead: i64, time: u64) {
        *self = Self {
            jitter: self.jitter,
            told: self.told,
            ..Self::new(ahead, time)
        };
    }

    /// Adds a request: `advance` is what the client's time advanced more than the packets' since
    /// the one before, at `before`.
    pub(super) fn note(&mut self, measured: &Measured, advance: i64, before: u64) {
        let Measured { time, ahead, .. } = *measured;
        if time < self.begun {
            self.begin(ahead, time);
            return;
        }
        let at = self.since_begun(time);
        if self.samples >= SAMPLES && at - self.window >= WINDOW {
            self.next_window(at);
        }
        let at = self.since_begun(time);
        let value = seconds(ahead.wrapping_sub(self.base));
        let passed = seconds(time.saturating_sub(before).cast_signed());
        let far = STEP + STEP_JITTER * self.jitter + SLEWED * passed;
        let change = (seconds(advance) - self.drift * passed).abs();
        self.jitter += (change.min(far) - self.jitter) / 8.0;
        let above = value - self.least(at);
        self.below = if above < -far { self.below + 1 } else { 0 };
        if above > far || self.below >= LATE {
            self.begin(ahead, time);
        } else {
            self.take(Kept { value, at });
        }
        if let Some(round_trip) = measured.round_trip {
            self.limit(measured, round_trip);
        }
    }

    /// In seconds. Negative for a packet that comes after a later one.
    fn since_begun(&self, time: u64) -> f32 {
        seconds(time.wrapping_sub(self.begun).cast_signed())
    }

    fn take(&mut self, new: Kept) {
        self.samples = self.samples.saturating_add(1);
        let (drift, allowance) = self.rate();
        let known = self.least[0];
        if known.is_none() || new.value >= known.later(new.at, drift - allowance) {
            self.least[0] = new;
            self.measure_drift(false);
        }
    }

    fn next_window(&mut self, at: f32) {
        self.measure_drift(true);
        let [last, _] = self.least;
        self.least = [Kept::NONE, last];
        self.most = [Kept::NONE, self.most[0]];
        self.window = at;
        self.samples = 0;
        let age = last.at - self.anchor.at;
        if self.anchor.is_none() || age >= OLD {
            self.anchor = last;
            self.rebase(last);
        }
    }

    /// Counts from another value on, lest the differences become too large for their digits.
    fn rebase(&mut self, from: Kept) {
        let moved = (f64::from(from.value) * 1e9) as i64;
        let passed = (f64::from(from.at) * 1e9) as u64;
        self.base = self.base.wrapping_add(moved);
        self.begun = self.begun.saturating_add(passed);
        self.window -= from.at;
        let [this, last] = &mut self.least;
        let [this_most, last_most] = &mut self.most;
        for kept in [this, last, this_most, last_most, &mut self.anchor] {
            kept.value -= from.value;
            kept.at -= from.at;
        }
    }

    /// From the anchor to the least late request of this window, unless it is known better than
    /// that; at the window's end in any case, since it changes.
    fn measure_drift(&mut self, is_end: bool) {
        let [new, _] = self.least;
        let passed = new.at - self.anchor.at;
        if self.anchor.is_none() || passed < YOUNG {
            return;
        }
        // The more requests there are, the less late the least late of them is.
        let late = self.jitter * (0.5 + 4.0 / f32::from(self.samples.max(1)));
        let bound = (late + GRAIN) / passed;
        // Good for a guess.
        let is_guess = passed < TOLD;
        let bound = if is_guess {
            bound.max(2.0 * DRIFT_BOUND)
        } else {
            bound
        };
        if bound <= self.drift_bound || is_end && !is_guess {
            self.drift = (new.value - self.anchor.value) / passed;
            self.drift_bound = bound;
        }
    }

    /// What the client repeated of our last answer: how far it was ahead at most when it had
    /// received that.
    fn limit(&mut self, measured: &Measured, round_trip: i64) {
        let ahead = measured.ahead.wrapping_add(round_trip);
        let new = Kept {
            value: seconds(ahead.wrapping_sub(self.base)),
            at: self.since_begun(measured.time) - seconds(measured.pause),
        };
        let at = new.at + seconds(measured.pause);
        let (drift, allowance) = self.rate();
        let rate = drift + allowance;
        let known = self.most[0];
        if known.is_none() || new.later(at, rate) <= known.later(at, rate) {
            self.most[0] = new;
        }
        // Both cannot be: the clock was stepped back, or what is repeated is made up.
        if self.most(at) < self.least(at) {
            self.most = [Kept::NONE; 2];
        }
    }

    /// What the drift is taken for, and how far that may be wrong.
    fn rate(&self) -> (f32, f32) {
        let allowance = self.drift_bound + WANDER;
        if allowance < ALLOWANCE.max(self.drift.abs()) {
            (self.drift, allowance)
        } else {
            (0.0, ALLOWANCE)
        }
    }

    /// What the client is ahead at least.
    fn least(&self, at: f32) -> f32 {
        let (drift, allowance) = self.rate();
        let [this, last] = self.least.map(|kept| kept.later(at, drift - allowance));
        // The greater of a number and of none is the number.
        this.max(last)
    }

    /// What it is ahead at most; not a number where that is not known.
    fn most(&self, at: f32) -> f32 {
        let (drift, allowance) = self.rate();
        let [this, last] = self.most.map(|kept| kept.later(at, drift + allowance));
        this.min(last)
    }

    /// As it is at a time, which is `unix` by this host's clock.
    pub(super) fn error(&mut self, time: u64, unix: i64) -> ClientError {
        let at = self.since_begun(time);
        let least = self.least(at);
        let here = unix.wrapping_sub(time.cast_signed());
        let ahead = self.base.wrapping_sub(here);
        let minute = u32::try_from(unix.div_euclid(60_000_000_000)).unwrap_or_default();
        let told = std::mem::replace(&mut self.told, minute);
        let is_first = |minutes: u32| told == NEVER || told / minutes != minute / minutes;
        let is_known = self.drift_bound <= DRIFT_BOUND;
        ClientError {
            least: ahead.wrapping_add((f64::from(least) * 1e9) as i64),
            // A number that is not known stays none.
            width: self.most(at) - least,
            drift: if is_known { self.drift } else { f32::NAN },
            first: First {
                of_minute: is_first(1),
                of_hour: is_first(60),
                of_day: is_first(24 * 60),
            },
        }
    }
}

fn seconds(nanoseconds: i64) -> f32 {
    (nanoseconds as f64 / 1e9) as f32
}
