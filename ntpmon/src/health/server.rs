//! What is known of one server at the moment, and what each exchange with it changes.

use std::collections::VecDeque;

use ntpmon_common::{NtpHeader, Timestamp};

use super::{
    Evidence, Found, Kind, Severity,
    finding::JUMP,
    fingerprint::{Asked, Fingerprint, Manner},
    is_client,
    track::{Point, Step, Track},
    window::{Sample, Window},
};
use crate::ntp::{
    self, Stamped,
    clock::Slew,
    exchange::{Exchange, Role, offset_and_delay},
};

#[cfg(test)]
mod tests;

/// Questions that are remembered one by one.
pub const REACH: usize = 8;
/// Where this host did not ask, its clock is looked at no more often than this, in nanoseconds: a
/// busy server answers a hundred thousand times a second.
const PAUSE: u64 = 50_000_000;
/// A request that is received so long before the answer before it was sent, in nanoseconds, shows
/// that time ran backwards; less may be two clocks of one host.
const BACKWARDS: i64 = 1_000_000;
/// How far apart two crystals may go, in nanoseconds a second: what is left open while an answer is
/// on its way.
const DRIFT: i64 = 15_000;
/// Strata with references that a server had of late.
const REFERENCES: usize = 8;
/// So long it is usual to have them again, in nanoseconds.
const HOUR: i64 = 3600 * 1_000_000_000;
/// What a clock of this host can tell apart, in nanoseconds.
const PRECISION: i64 = 50;

/// What was known of a server in an earlier life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Of its last answer.
    pub ntp: NtpHeader,
    /// How it was asked.
    pub asked: Asked,
    /// How it answered.
    pub manner: Manner,
}

/// A server at the moment.
#[derive(Clone, Debug)]
pub struct ServerHealth {
    last_seen: i64,
    /// The last that tells a time, or that there is none; kisses do neither.
    answer: Option<NtpHeader>,
    /// The last announcement of a leap second, 1 or 2, and when it was made.
    announced: Option<(u8, i64)>,
    /// The last questions: when, in nanoseconds since 1970, and whether it answered.
    reach: VecDeque<(i64, bool)>,
    /// Strata and references of before, and when they were left, in nanoseconds since 1970: behind
    /// one address there may be several hosts.
    references: Vec<(u8, [u8; 4], i64)>,
    window: Window,
    track: Track,
    /// From where places are counted, so that they are small numbers.
    anchor: Option<i64>,
    /// When its clock was looked at last.
    looked: Option<u64>,
    /// What this host's clock was slewed by then.
    slew: Option<Slew>,
    /// Whether its clock is this host's, which is slewed with monotonic time.
    is_local: bool,
    /// T3 of its last answer, and when that passed.
    last_transmit: Option<(Timestamp, u64)>,
    fingerprint: Fingerprint,
}

impl ServerHealth {
    /// Nothing, or what was known in an earlier life.
    #[must_use]
    pub fn new(seed: Option<Seed>) -> Self {
        let mut fingerprint = Fingerprint::default();
        if let Some(seed) = &seed {
            fingerprint.observe(seed.asked, seed.manner, |_| {});
        }
        Self {
            last_seen: i64::MIN,
            answer: seed.map(|seed| seed.ntp),
            announced: None,
            reach: VecDeque::with_capacity(REACH),
            references: Vec::new(),
            window: Window::default(),
            track: Track::default(),
            anchor: None,
            looked: None,
            slew: None,
            is_local: false,
            last_transmit: None,
            fingerprint,
        }
    }

    /// Takes an exchange with it.
    pub fn observe(&mut self, exchange: &Exchange, slew: Slew, mut found: impl FnMut(Found)) {
        let request = &exchange.request;
        let event = &request.event;
        let asked_at = request.captured().unwrap_or(i64::MIN);
        self.last_seen = self.last_seen.max(asked_at);
        if self.reach.len() >= REACH {
            self.reach.pop_front();
        }
        self.reach
            .push_back((asked_at, exchange.response.is_some()));
        let Some(response) = &exchange.response else {
            return;
        };
        let mut tell = |kind: Kind, severity: Severity, evidence| {
            found(Found {
                kind,
                severity,
                time: response.captured(),
                server: Some(event.destination),
                client: Some(event.source),
                is_known: true,
                subject: None,
                evidence,
            });
        };
        if let Some(code) = exchange.kiss_code() {
            if is_client(exchange) {
                let code = String::from_utf8_lossy(&code);
                let code = code.trim_end_matches('\0').to_owned();
                let kind = Kind::KissOfDeath;
                tell(kind, kind.severity(), Evidence::Kiss { code });
            }
            return;
        }
        self.compare(response, &mut tell);
        // While the second is inserted, and after, the header does not say so any more.
        if let (leap @ 1..=2, Some(time)) =
            (response.event.ntp.leap_indicator(), response.captured())
        {
            self.announced = Some((leap, time));
        }
        self.answer = Some(response.event.ntp);
        if !exchange.is_time_sample() {
            return;
        }
        // What this host answers itself says nothing of who answers.
        if exchange.role != Some(Role::Server) {
            let (asked, manner) = (Asked::of(event), Manner::of(&response.event));
            let kind = Kind::FingerprintChanged;
            self.fingerprint.observe(asked, manner, |evidence| {
                tell(kind, kind.severity(), evidence);
            });
        }
        self.look_at_clock(exchange, response, slew, &mut tell);
    }

    /// Holds the header against the one before.
    fn compare(&mut self, response: &Stamped, tell: &mut impl FnMut(Kind, Severity, Evidence)) {
        let Some(before) = self.answer else {
            return;
        };
        let after = response.event.ntp;
        // Of 48 bytes these six.
        let telling = |ntp: &NtpHeader| (ntp.leap_indicator(), ntp.stratum(), ntp.reference_id());
        if telling(&before) == telling(&after) {
            return;
        }
        let leap = (before.leap_indicator(), after.leap_indicator());
        if leap.0 != leap.1 {
            let severity = match leap.1 {
                3 => Severity::Warning,
                _ => Kind::LeapChanged.severity(),
            };
            let evidence = Evidence::Number {
                before: leap.0,
                after: leap.1,
                stratum: Some(after.stratum()),
            };
            tell(Kind::LeapChanged, severity, evidence);
        }
        // Who is not synchronised has no stratum and no reference worth a word.
        if leap.0 == 3 || leap.1 == 3 {
            return;
        }
        // What it had within the hour is told once; becoming unable to tell the time, and able again,
        // each time.
        let now = response.captured().unwrap_or(i64::MIN);
        self.references.retain(|(stratum, id, left)| {
            now.saturating_sub(*left) < HOUR
                && (*stratum, *id) != (before.stratum(), before.reference_id())
        });
        if self.references.len() >= REFERENCES {
            self.references.remove(0);
        }
        self.references
            .push((before.stratum(), before.reference_id(), now));
        let mut known = self.references.iter();
        let is_able = |ntp: &NtpHeader| matches!(ntp.stratum(), 1..=15);
        let is_new = !(is_able(&before) && is_able(&after))
            || known.all(|(stratum, ..)| *stratum != after.stratum());
        let is_new_reference =
            (self.references.iter()).all(|(_, id, _)| *id != after.reference_id());
        if before.stratum() != after.stratum() && is_new {
            let severity = match after.stratum() {
                1..=15 => Kind::StratumChanged.severity(),
                _ => Severity::Warning,
            };
            let evidence = Evidence::Number {
                before: before.stratum(),
                after: after.stratum(),
                stratum: None,
            };
            tell(Kind::StratumChanged, severity, evidence);
        }
        // Version 5 has flags in that place.
        let has_reference = before.version() < 5 && after.version() < 5;
        if has_reference && is_new_reference {
            let evidence = Evidence::Reference {
                before: ntp::reference_id(&before),
                after: ntp::reference_id(&after),
                stratum: after.stratum(),
            };
            let kind = Kind::ReferenceIdChanged;
            tell(kind, kind.severity(), evidence);
        }
    }

    fn look_at_clock(
        &mut self,
        exchange: &Exchange,
        response: &Stamped,
        slew: Slew,
        tell: &mut impl FnMut(Kind, Severity, Evidence),
    ) {
        let now = response.event.time;
        let is_client = is_client(exchange);
        let looked = self.looked.filter(|_| !is_client);
        if looked.is_some_and(|looked| now.wrapping_sub(looked) < PAUSE) {
            return;
        }
        let Some((offset, delay)) = distance(exchange) else {
            return;
        };
        self.looked = Some(now);
        let before = self.slew.replace(slew).unwrap_or(slew);
        let has_slept = slew.slept_since(&before).is_some();
        if has_slept || self.is_local != exchange.is_local_server {
            // It is counted from somewhere else now.
            self.is_local = exchange.is_local_server;
            self.forget_track();
        }
        let request = &exchange.request;
        let ntp = &response.event.ntp;
        if is_client && let Some(time) = response.captured() {
            let elapsed = exchange.timings.total_process_time.unwrap_or(0);
            self.window.add(Sample {
                time,
                offset,
                delay,
                dispersion: dispersion(ntp, elapsed.cast_signed()),
            });
        }
        // In interleaved mode it is the exchange before that is told of: the slew of that time counts.
        let (at, slewed, moved) = match exchange.timings.of_request_at {
            None => (request.event.time, slew.nanoseconds, 0),
            Some(at) => {
                let moved = slew.nanoseconds.wrapping_sub(before.nanoseconds);
                (at, before.nanoseconds, moved.saturating_abs())
            }
        };
        // How far UTC is ahead of a clock that is never set nor slewed. This host's own clock, which
        // follows monotonic time, is held against that.
        let utc = request
            .unix
            .wrapping_sub(request.event.time.cast_signed())
            .wrapping_add(if self.is_local { 0 } else { slewed });
        let anchor = *self.anchor.get_or_insert(utc);
        let point = Point {
            at: at.cast_signed(),
            place: offset.wrapping_add(utc.wrapping_sub(anchor)),
            delay,
            uncertain: slew.uncertain.saturating_add(moved),
        };
        let step = self.track.observe(point, offset);
        // In interleaved mode the time of sending is another answer's.
        let passed_before = (self.last_transmit).filter(|(_, at)| *at <= request.event.time);
        let back = passed_before
            .filter(|_| !exchange.interleaved)
            .map(|(transmit, at)| (ntp.receive().since(transmit).nanoseconds(), at));
        let is_back = back.is_some_and(|(passed, _)| passed < -BACKWARDS);
        let step = step.or_else(|| {
            // Too few samples to hold it against, but time never runs that way.
            let (passed, at) = back.filter(|_| is_back)?;
            self.track = Track::default();
            let elapsed = i64::try_from(request.event.time - at).unwrap_or(i64::MAX);
            Some(Step {
                change: passed.saturating_sub(elapsed),
                after: offset,
                delay_before: delay,
                delay_after: delay,
                explained: 0,
                samples: 1,
            })
        });
        let is_leap =
            step.is_some_and(|step| is_leap_second(&step, self.announced, response.captured()));
        if is_leap {
            // There is one, not two.
            self.announced = None;
        }
        if let Some(step) = step.filter(|_| !is_leap) {
            let kind = if is_back && step.change < 0 {
                Kind::TimeBackwards
            } else if step.change.unsigned_abs() >= JUMP {
                Kind::TimeJump
            } else {
                Kind::OffsetStep
            };
            let near = response.captured().unwrap_or(0);
            let previous = self
                .last_transmit
                .map(|(transmit, _)| transmit.unix_nanoseconds_near(near));
            let evidence = Evidence::step(&step, response, previous);
            tell(kind, kind.severity(), evidence);
        }
        if !exchange.interleaved {
            self.last_transmit = Some((ntp.transmit(), now));
        }
    }

    pub(super) fn local_clock_stepped(&mut self) {
        self.window.clear();
    }

    /// What passes from now on cannot be held against what passed.
    pub(super) fn forget_track(&mut self) {
        self.track = Track::default();
        self.anchor = None;
        self.last_transmit = None;
    }

    /// When it was asked last, in nanoseconds since 1970.
    #[must_use]
    pub const fn last_seen(&self) -> i64 {
        self.last_seen
    }

    /// Whether it answered, in this life or an earlier one.
    #[must_use]
    pub const fn has_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// The last questions, at most [`REACH`]: when, in nanoseconds since 1970, and whether it answered.
    pub fn reach(&self) -> impl Iterator<Item = (i64, bool)> {
        self.reach.iter().copied()
    }

    /// The last samples of its clock, where this host asked.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }
}

/// Whether a step is the leap second that was announced at that time: at the end of that day of UTC.
fn is_leap_second(step: &Step, announced: Option<(u8, i64)>, captured: Option<i64>) -> bool {
    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * SECOND;
    /// Servers are not asked all the time, and some are late.
    const NEAR: i64 = 7200 * SECOND;
    let (Some((leap, since)), Some(time)) = (announced, captured) else {
        return false;
    };
    let expected = match leap {
        1 => -SECOND,
        _ => SECOND,
    };
    let off = step.change.abs_diff(expected);
    let is_midnight = (time.rem_euclid(DAY) + NEAR) % DAY < 2 * NEAR;
    let midnight = since.saturating_sub(since.rem_euclid(DAY)) + DAY;
    let is_that = time < midnight.saturating_add(NEAR);
    // As well as it can be told.
    is_midnight && is_that && off <= step.explained.unsigned_abs().max(JUMP)
}

/// How far the server is ahead of this host, and how long the ways took beyond this point: at the
/// client the delay, elsewhere what is left of it. In nanoseconds.
fn distance(exchange: &Exchange) -> Option<(i64, i64)> {
    let timings = &exchange.timings;
    if let (Some(offset), Some(delay)) = (timings.offset, timings.delay) {
        return Some((offset.nanoseconds(), delay.nanoseconds()));
    }
    let response = exchange.response.as_ref()?;
    if exchange.interleaved {
        return None;
    }
    let captured = exchange.request.captured()?;
    let later = captured.checked_add_unsigned(timings.total_process_time?)?;
    let ntp = &response.event.ntp;
    let (offset, delay) = offset_and_delay(
        Timestamp::from_unix_nanoseconds(captured),
        ntp.receive(),
        ntp.transmit(),
        Timestamp::from_unix_nanoseconds(later),
    );
    Some((offset.nanoseconds(), delay.nanoseconds()))
}

/// What an exchange leaves open, in nanoseconds: what both clocks can tell apart, and what they may
/// drift meanwhile.
fn dispersion(ntp: &NtpHeader, elapsed: i64) -> i64 {
    let precision = (f64::from(ntp.precision()).exp2() * 1e9).min(1e18) as i64;
    let drifted = i128::from(DRIFT) * i128::from(elapsed) / 1_000_000_000;
    precision
        .saturating_add(PRECISION)
        .saturating_add(i64::try_from(drifted).unwrap_or(i64::MAX))
}
