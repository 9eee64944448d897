//! How far one client's clock is ahead, from many requests: each was delayed by an amount that
//! nobody knows, so those count that were delayed least. What a clock may have drifted since then is
//! allowed for, so that old requests lose against new ones, and after a step they are forgotten.
//!
//! All values are differences to the first in seconds: seven digits are enough for them.

use super::{ClientError, First};
use crate::ntp::Stamped;

/// What is remembered of a client's requests: some of them in two windows of time. The first is the
/// least late of another window, once there was one: against it the drift is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// How far the client was ahead of the packets' time at the first, in nanoseconds.
    base: i64,
    /// How far it was ahead at the last one.
    ahead: i64,
    /// When the first was, by the packets' own time, which no step of this host's clock moves.
    begun: u64,
    /// What it is ahead at least: the most of this window, and of the one before.
    least: [Kept; 2],
    /// What it is ahead at most, in the same way; often nothing.
    most: [Kept; 2],
    /// The mean of how much two requests that followed each other differ, in seconds.
    jitter: f32,
    /// In seconds a second: what the client gains, and how far that may be wrong.
    drift: f32,
    drift_bound: f32,
    /// When this window began, and the last request was.
    window: f32,
    last: f32,
    /// Requests in it.
    samples: u8,
    /// Requests in a row that were far below what was known.
    below: u8,
    /// In which minute since 1970 its error was told last.
    told: u32,
    /// The first is no request like any other.
    is_anchored: bool,
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

/// What a drift is taken for, and how far that may be wrong.
type Rate = (f32, f32);

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
            ahead,
            begun: time,
            least: [first, Kept::NONE],
            most: [Kept::NONE; 2],
            jitter: 0.0,
            drift: 0.0,
            drift_bound: f32::INFINITY,
            window: 0.0,
            last: 0.0,
            samples: 1,
            below: 0,
            told: NEVER,
            is_anchored: false,
        }
    }

    /// Begins anew: the clock was stepped, or is another's. Jitter is the network's and stays.
    pub(super) const fn begin_with(&mut self, new: Self) {
        *self = Self {
            jitter: self.jitter,
            told: self.told,
            ..new
        };
    }

    /// Adds a request, at `unix` by this host's clock: `advance` is what the client's time advanced
    /// more than the packets' since the one before. Says how far the client is ahead. What was sent
    /// before this host's clock was stepped, at `stepped`, was sent by another clock.
    pub(super) fn note(
        &mut self,
        request: &Stamped,
        unix: i64,
        advance: i64,
        stepped: u64,
    ) -> Option<ClientError> {
        let time = request.event.time;
        let here = unix.wrapping_sub(time.cast_signed());
        let ahead = self.ahead.wrapping_add(advance);
        self.ahead = ahead;
        let repeated = match Repeated::of(request, ahead, here, stepped) {
            Ok(repeated) => repeated,
            Err(Interleaved) => return None,
        };
        if time < self.begun {
            self.begin_with(Self::new(ahead, time));
        }
        let mut at = self.since_begun(time);
        if self.samples >= SAMPLES && at - self.window >= WINDOW {
            self.next_window(at);
            at = self.since_begun(time);
        }
        let value = seconds(ahead.wrapping_sub(self.base));
        let passed = at - self.last;
        self.last = at;
        let far = STEP + STEP_JITTER * self.jitter + SLEWED * passed;
        let change = (seconds(advance) - self.drift * passed).abs();
        self.jitter += (change.min(far) - self.jitter) / 8.0;
        let rate = self.rate();
        let mut least = self.least(at, rate);
        let above = value - least;
        self.below = if above < -far { self.below + 1 } else { 0 };
        if above > far || self.below >= LATE {
            self.begin_with(Self::new(ahead, time));
            (at, least) = (0.0, 0.0);
        } else {
            // As what is known is after that.
            least = least.max(value);
            self.take(Kept { value, at }, rate);
        }
        if let Some(repeated) = repeated {
            self.limit(&repeated, at, least, rate);
        }
        Some(self.error(at, least, rate, here, unix))
    }

    /// In seconds. Negative for a packet that comes after a later one.
    fn since_begun(&self, time: u64) -> f32 {
        seconds(time.wrapping_sub(self.begun).cast_signed())
    }

    fn take(&mut self, new: Kept, (drift, allowance): Rate) {
        self.samples = self.samples.saturating_add(1);
        let known = self.least[0];
        if known.is_none() || new.value >= known.later(new.at, drift - allowance) {
            self.least[0] = new;
            // Later a look at each window's end is enough.
            if self.is_anchored && self.drift_bound > DRIFT_BOUND {
                self.measure_drift(false);
            }
        }
    }

    #[cold]
    fn next_window(&mut self, at: f32) {
        self.measure_drift(true);
        let [last, _] = self.least;
        self.least = [Kept::NONE, last];
        self.most = [Kept::NONE, self.most[0]];
        self.window = at;
        self.samples = 0;
        if !self.is_anchored || last.at >= OLD {
            self.is_anchored = true;
            self.rebase(last);
        }
    }

    /// Makes another value the first, lest the differences become too large for their digits.
    fn rebase(&mut self, from: Kept) {
        let moved = (f64::from(from.value) * 1e9) as i64;
        let passed = (f64::from(from.at) * 1e9) as u64;
        self.base = self.base.wrapping_add(moved);
        self.begun = self.begun.saturating_add(passed);
        self.window -= from.at;
        self.last -= from.at;
        let [this, last] = &mut self.least;
        let [this_most, last_most] = &mut self.most;
        for kept in [this, last, this_most, last_most] {
            kept.value -= from.value;
            kept.at -= from.at;
        }
    }

    /// From the first to the least late request of this window, unless it is known better than
    /// that; at the window's end in any case, since it changes.
    fn measure_drift(&mut self, is_end: bool) {
        let [new, _] = self.least;
        if !self.is_anchored || new.is_none() || new.at < YOUNG {
            return;
        }
        // The more requests there are, the less late the least late of them is.
        let late = self.jitter * (0.5 + 4.0 / f32::from(self.samples.max(1)));
        let bound = (late + GRAIN) / new.at;
        // Good for a guess.
        let is_guess = new.at < TOLD;
        let bound = if is_guess {
            bound.max(2.0 * DRIFT_BOUND)
        } else {
            bound
        };
        if bound <= self.drift_bound || is_end && !is_guess {
            self.drift = new.value / new.at;
            self.drift_bound = bound;
        }
    }

    /// What the client repeated of our last answer: how far it was ahead at most when it had
    /// received that.
    fn limit(&mut self, repeated: &Repeated, at: f32, least: f32, (drift, allowance): Rate) {
        let new = Kept {
            value: seconds(repeated.ahead.wrapping_sub(self.base)),
            at: at - seconds(repeated.pause),
        };
        let rate = drift + allowance;
        let known = self.most[0];
        if known.is_none() || new.later(at, rate) <= known.later(at, rate) {
            self.most[0] = new;
        }
        // Both cannot be: the clock was stepped back, or what is repeated is made up.
        if self.most(at, (drift, allowance)) < least {
            self.most = [Kept::NONE; 2];
        }
    }

    /// What the drift is taken for, and how far that may be wrong.
    fn rate(&self) -> Rate {
        let allowance = self.drift_bound + WANDER;
        if allowance < ALLOWANCE.max(self.drift.abs()) {
            (self.drift, allowance)
        } else {
            (0.0, ALLOWANCE)
        }
    }

    /// What the client is ahead at least.
    fn least(&self, at: f32, (drift, allowance): Rate) -> f32 {
        let [this, last] = self.least.map(|kept| kept.later(at, drift - allowance));
        // The greater of a number and of none is the number.
        this.max(last)
    }

    /// What it is ahead at most; not a number where that is not known.
    fn most(&self, at: f32, (drift, allowance): Rate) -> f32 {
        let [this, last] = self.most.map(|kept| kept.later(at, drift + allowance));
        this.min(last)
    }

    fn error(&mut self, at: f32, least: f32, rate: Rate, here: i64, unix: i64) -> ClientError {
        let is_known = self.drift_bound <= DRIFT_BOUND;
        let is_limited = !(self.most[0].is_none() && self.most[1].is_none());
        ClientError {
            base: self.base.wrapping_sub(here),
            least,
            width: match is_limited {
                // What the drift is taken for may just have changed.
                true => (self.most(at, rate) - least).max(0.0),
                false => f32::NAN,
            },
            drift: if is_known { self.drift } else { f32::NAN },
            first: self.first(unix),
        }
    }

    /// In what it is the first to tell its error.
    fn first(&mut self, unix: i64) -> First {
        // A minute before 1970 is as good as any other.
        let minute = (unix.cast_unsigned() / 60_000_000_000) as u32;
        let told = std::mem::replace(&mut self.told, minute);
        let never = told == NEVER;
        let of_minute = minute != told;
        let of_hour = of_minute && (never || minute / 60 != told / 60);
        First {
            of_minute,
            of_hour,
            of_day: of_hour && (never || minute / 1440 != told / 1440),
        }
    }
}

/// What a client repeated of an answer of ours.
struct Repeated {
    /// When the client received it by its own clock, against when we sent it, as [`Filter::ahead`]:
    /// it was ahead by this at most,
    ahead: i64,
    /// so many nanoseconds ago.
    pause: i64,
}

/// A request carries the time of another (RFC 9769).
struct Interleaved;

/// In nanoseconds: an answer that a client repeats was not received longer ago.
const ANSWER_AGE: i64 = 2200 * 1_000_000_000;
/// In nanoseconds: no answer that a client accepted was on its way longer, there and back.
const ROUND_TRIP: i64 = 4 * 1_000_000_000;

impl Repeated {
    fn of(
        request: &Stamped,
        ahead: i64,
        here: i64,
        stepped: u64,
    ) -> Result<Option<Self>, Interleaved> {
        let ntp = &request.event.ntp;
        let (origin, receive) = (ntp.origin(), ntp.receive());
        if receive.is_zero() || origin.is_zero() {
            return Ok(None);
        }
        let pause = ntp.transmit().since(receive).nanoseconds();
        if (-ANSWER_AGE..0).contains(&pause) {
            return Err(Interleaved);
        }
        let most = receive.since(origin).nanoseconds().wrapping_add(here);
        // There and back, without the client's pause.
        let round_trip = most.wrapping_sub(ahead);
        let is_plausible =
            (0..=ANSWER_AGE).contains(&pause) && (0..=ROUND_TRIP).contains(&round_trip);
        let sent = |pause: i64| {
            let ago = pause.saturating_add(round_trip).unsigned_abs();
            request.event.time.saturating_sub(ago)
        };
        Ok((is_plausible && sent(pause) >= stepped).then_some(Self { ahead: most, pause }))
    }
}

fn seconds(nanoseconds: i64) -> f32 {
    (nanoseconds as f64 * 1e-9) as f32
}
