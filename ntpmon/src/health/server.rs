//! What is known of one server at the moment, and what each exchange with it changes.

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
    Stamped,
    clock::Slew,
    exchange::{Exchange, Role, offset_and_delay},
};

#[cfg(test)]
mod tests;

/// Where this host did not ask, its clock is looked at no more often than this, in nanoseconds: a
/// busy server answers a hundred thousand times a second.
const PAUSE: u64 = 50_000_000;
/// A request that is received so long before the answer before it was sent, in nanoseconds, shows
/// that time ran backwards; less may be two clocks of one host.
const BACKWARDS: i64 = 1_000_000;
/// How far apart two crystals may go, in nanoseconds a second: what is left open while an answer is
/// on its way.
const DRIFT: i64 = 15_000;
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

/// An answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its header.
    pub ntp: NtpHeader,
    /// When it passed, in nanoseconds since 1970.
    pub time: Option<i64>,
}

/// A server at the moment.
#[derive(Clone, Debug)]
pub struct ServerHealth {
    port: u16,
    role: Option<Role>,
    last_seen: i64,
    /// The last that tells a time, or that there is none; kisses do neither.
    answer: Option<Answer>,
    /// What the answer before that said of a leap second.
    leap_before: u8,
    /// One bit a question, the last one lowest: whether it was answered.
    reach: u8,
    /// How many of those bits are questions.
    asked: u8,
    window: Window,
    track: Track,
    /// From where places are counted, so that they are small numbers.
    anchor: Option<i64>,
    /// When its clock was looked at last.
    looked: Option<u64>,
    /// T3 of its last answer, and when that passed.
    last_transmit: Option<(Timestamp, u64)>,
    fingerprint: Fingerprint,
    unsolicited: u64,
    multiple: u64,
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
            port: 0,
            role: None,
            last_seen: i64::MIN,
            answer: seed.map(|seed| Answer {
                ntp: seed.ntp,
                time: None,
            }),
            leap_before: 0,
            reach: 0,
            asked: 0,
            window: Window::default(),
            track: Track::default(),
            anchor: None,
            looked: None,
            last_transmit: None,
            fingerprint,
            unsolicited: 0,
            multiple: 0,
        }
    }

    /// Takes an exchange with it.
    pub fn observe(&mut self, exchange: &Exchange, slew: Slew, mut found: impl FnMut(Found)) {
        let request = &exchange.request;
        let event = &request.event;
        self.port = event.destination_port;
        self.role = exchange.role.or(self.role);
        self.last_seen = self.last_seen.max(request.captured().unwrap_or(i64::MIN));
        self.reach = self.reach << 1 | u8::from(exchange.response.is_some());
        self.asked = (self.asked + 1).min(8);
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
        if let Some(before) = &self.answer {
            self.leap_before = before.ntp.leap_indicator();
        }
        self.answer = Some(Answer {
            ntp: response.event.ntp,
            time: response.captured(),
        });
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
    fn compare(&self, response: &Stamped, tell: &mut impl FnMut(Kind, Severity, Evidence)) {
        let Some(before) = self.answer.map(|answer| answer.ntp) else {
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
        if before.stratum() != after.stratum() {
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
        if has_reference && before.reference_id() != after.reference_id() {
            let evidence = Evidence::Reference {
                before: Evidence::reference(&before),
                after: Evidence::reference(&after),
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
        // How far UTC is ahead of a clock that is never set nor slewed.
        let utc = request
            .unix
            .wrapping_sub(request.event.time.cast_signed())
            .wrapping_add(slew.nanoseconds);
        let anchor = *self.anchor.get_or_insert(utc);
        let point = Point {
            at: request.event.time.cast_signed(),
            place: offset.wrapping_add(utc.wrapping_sub(anchor)),
            delay,
            uncertain: slew.uncertain,
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
        let leap = self.leap_before;
        if let Some(step) = step.filter(|step| !is_leap_second(step, leap, response)) {
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

    /// Counts an answer that nobody waited for.
    pub(super) const fn count_stray(&mut self, kind: Kind) {
        match kind {
            Kind::DuplicatedAnswer => self.multiple += 1,
            _ => self.unsolicited += 1,
        }
    }

    pub(super) fn local_clock_stepped(&mut self) {
        self.window.clear();
    }

    /// The port that it is asked at.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What this host is to those who ask it.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        self.role
    }

    /// When it was asked last, in nanoseconds since 1970.
    #[must_use]
    pub const fn last_seen(&self) -> i64 {
        self.last_seen
    }

    /// Its last answer that was no kiss.
    #[must_use]
    pub const fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// One bit a question, the last one lowest, and how many there are.
    #[must_use]
    pub const fn reach(&self) -> (u8, u8) {
        (self.reach, self.asked)
    }

    /// The last samples of its clock, where this host asked.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// Answers that nobody asked for, and further answers to the same request, since the start.
    #[must_use]
    pub const fn strays(&self) -> (u64, u64) {
        (self.unsolicited, self.multiple)
    }
}

/// Whether a step is the leap second that the answer before announced: at the end of a day of UTC.
fn is_leap_second(step: &Step, announced: u8, response: &Stamped) -> bool {
    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * SECOND;
    /// Servers are not asked all the time, and some are late.
    const NEAR: i64 = 7200 * SECOND;
    let expected = match announced {
        1 => -SECOND,
        2 => SECOND,
        _ => return false,
    };
    let off = step.change.abs_diff(expected);
    let is_midnight = response
        .captured()
        .is_some_and(|time| (time.rem_euclid(DAY) + NEAR) % DAY < 2 * NEAR);
    // As well as it can be told.
    is_midnight && off <= step.explained.unsigned_abs().max(JUMP)
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
