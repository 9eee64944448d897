//! Several questions to one server make a round, and this is what they say together. Of the times
//! that were told the one with the median offset stands for all: neither an answer that was held up
//! on the way nor one that is wrong by itself moves it. All figures are those of that one answer, so
//! that they belong together. Pure.

use ntpmon_common::NtpHeader;

use super::{
    Failure, Status,
    answer::{FAR_OFF, Failed, Sample, Stamps, grown},
};
use crate::ntp::{kiss_code, reference_id, root_seconds};

/// Of an answer's header, what does not change from one answer to the next.
pub const HEAD: usize = 16;
/// A reach register has so many polls.
pub(super) const REGISTER: u8 = 8;

/// What a round came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// When it ended, in nanoseconds since 1970.
    pub at: i64,
    /// In one word.
    pub status: Status,
    /// In words, where there is something to say.
    pub message: Option<String>,
    /// Questions that were sent.
    pub sent: u8,
    /// Those that were told the time.
    pub answered: u8,
    /// What was told.
    pub time: Option<Time>,
    /// The beginning of the answer, whether or not it told the time.
    pub head: Option<[u8; HEAD]>,
    /// The kiss that the server sent, if it did: RATE, DENY …
    pub kiss: Option<String>,
}

/// What the median answer of a round said, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// How far the server is ahead of this host.
    pub offset: i64,
    /// The round trip without the server's share.
    pub delay: i64,
    /// How wrong the offset may be by the clocks' own doing.
    pub dispersion: u64,
    /// How far the other answers' offsets are from this one, root mean square. Nothing where there
    /// is no other.
    pub jitter: Option<u64>,
    /// Where this host's times come from.
    pub stamps: Stamps,
}

impl Round {
    /// A round that ended at a time, in nanoseconds since 1970, from what each question came to.
    #[must_use]
    pub fn of(outcomes: &[Result<Sample, Failed>], at: i64) -> Self {
        let samples: Vec<Sample> = outcomes.iter().flatten().copied().collect();
        let mut failed = outcomes.iter().filter_map(|it| it.as_ref().err());
        // A kiss is what the server wants to be heard; else the last is the newest.
        let worst = failed
            .clone()
            .find(|it| it.failure.status() == Status::KissOfDeath)
            .or_else(|| failed.next_back());
        let sent = outcomes.len() as u8;
        let round = Self {
            at,
            status: Status::Ok,
            message: None,
            sent,
            answered: samples.len() as u8,
            time: None,
            head: None,
            kiss: worst.and_then(|it| match &it.failure {
                Failure::KissOfDeath { code } => Some(code.clone()),
                _ => None,
            }),
        };
        match (median(&samples), worst) {
            (Some(sample), worst) => round.told(&sample, &samples, worst),
            (None, Some(worst)) => Self {
                status: worst.failure.status(),
                message: Some(worst.failure.to_string()),
                head: worst.header.as_ref().map(head),
                ..round
            },
            (None, None) => Self::failed(&Failure::Local("nothing was asked".to_owned()), at),
        }
    }

    /// A round in which nobody could be asked.
    #[must_use]
    pub fn failed(failure: &Failure, at: i64) -> Self {
        Self {
            at,
            status: failure.status(),
            message: Some(failure.to_string()),
            sent: 0,
            answered: 0,
            time: None,
            head: None,
            kiss: None,
        }
    }

    fn told(self, sample: &Sample, all: &[Sample], worst: Option<&Failed>) -> Self {
        let far = sample.offset.unsigned_abs() >= FAR_OFF;
        let message = if far {
            Some(far_off(sample.offset))
        } else {
            worst.map(|worst| {
                format!(
                    "{} of {} questions told the time; of the others: {}",
                    self.answered, self.sent, worst.failure
                )
            })
        };
        let age = self.at.saturating_sub(sample.local.received);
        let status = if far { Status::FarOff } else { Status::Ok };
        Self {
            // The time of this round may be right; the server wants to be heard all the same.
            status: match worst.map(|it| it.failure.status()) {
                Some(Status::KissOfDeath) => Status::KissOfDeath,
                _ => status,
            },
            message,
            time: Some(Time {
                offset: sample.offset,
                delay: sample.delay,
                dispersion: grown(sample.dispersion, age),
                jitter: jitter(sample, all),
                stamps: sample.local.stamps,
            }),
            head: Some(head(&sample.header)),
            ..self
        }
    }

    /// The answer, as far as it was kept: without its times.
    #[must_use]
    pub fn header(&self) -> Option<NtpHeader> {
        let mut header = [0; 48];
        header[..HEAD].copy_from_slice(&self.head?);
        Some(NtpHeader(header))
    }

    /// How far the server's time may be from that of the clock that it all comes from, by its own
    /// word and by what was seen, in seconds: half the delays, and all the dispersions.
    #[must_use]
    pub fn root_distance(&self) -> Option<f64> {
        let time = self.time?;
        let (root_delay, root_dispersion) = root_seconds(&self.header()?);
        let own = time.dispersion.saturating_add(time.jitter.unwrap_or(0));
        let delay = root_delay + time.delay.max(0) as f64 / 1e9;
        Some(delay / 2.0 + root_dispersion + own as f64 / 1e9)
    }
}

/// The kiss that a header is.
pub(super) fn kiss(header: &NtpHeader) -> Option<String> {
    kiss_code(header)?;
    reference_id(header)
}

fn head(header: &NtpHeader) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head.copy_from_slice(&header.0[..HEAD]);
    head
}

fn far_off(offset: i64) -> String {
    let side = if offset < 0 { "behind" } else { "ahead of" };
    let seconds = offset.unsigned_abs() as f64 / 1e9;
    let long = match seconds {
        ..86_400.0 => String::new(),
        ..31_557_600.0 => format!(" ({:.1} days)", seconds / 86_400.0),
        _ => format!(" ({:.1} years)", seconds / 31_557_600.0),
    };
    format!("the server is {seconds:.6} s{long} {side} this host: one of the two clocks is wrong")
}

/// The sample with the median offset; of the two in the middle the one that was less long on the
/// way.
fn median(samples: &[Sample]) -> Option<Sample> {
    let mut samples = samples.to_vec();
    samples.sort_by_key(|sample| sample.offset);
    let upper = samples.get(samples.len() / 2)?;
    if samples.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = samples.get(samples.len() / 2 - 1)?;
    Some(if lower.delay <= upper.delay {
        *lower
    } else {
        *upper
    })
}

fn jitter(chosen: &Sample, all: &[Sample]) -> Option<u64> {
    let others = all.len().checked_sub(1).filter(|others| *others > 0)?;
    let distances = all
        .iter()
        .map(|it| it.offset.abs_diff(chosen.offset) as f64);
    let squares: f64 = distances.map(|distance| distance * distance).sum();
    Some((squares / others as f64).sqrt() as u64)
}

/// Which of the last polls came to a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    register: u8,
    polls: u8,
}

impl Reach {
    /// Adds a poll.
    pub fn add(&mut self, reached: bool) {
        self.register = self.register << 1 | u8::from(reached);
        self.polls = (self.polls + 1).min(REGISTER);
    }

    /// A bit for each of the last eight polls, the last one lowest: 377 in octal is all of them.
    #[must_use]
    pub const fn register(self) -> u8 {
        self.register
    }

    /// How many polls that share is of.
    #[must_use]
    pub const fn polls(self) -> u8 {
        self.polls
    }

    /// The share of the last eight polls, or of all if there were fewer.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        let reached = f64::from(self.register.count_ones());
        (self.polls > 0).then(|| reached / f64::from(self.polls))
    }
}

/// How often a server is asked that said that it is asked too often. Each time the interval is
/// doubled, and it goes back slowly: one that answers is not asked more at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    doubled: u8,
    /// Rounds since the last change in which nothing of the kind was said.
    calm: u8,
}

/// The interval grows to 64 times itself at most.
const MOST_DOUBLED: u8 = 6;
/// So many calm rounds halve it.
const CALM: u8 = 8;

impl Pace {
    /// The server said RATE.
    pub fn slow_down(&mut self) {
        self.doubled = (self.doubled + 1).min(MOST_DOUBLED);
        self.calm = 0;
    }

    /// A round in which it said nothing of the kind.
    pub fn calm(&mut self) {
        if self.doubled == 0 {
            return;
        }
        self.calm += 1;
        if self.calm >= CALM {
            self.doubled -= 1;
            self.calm = 0;
        }
    }

    /// The interval is so many times what was asked for.
    #[must_use]
    pub const fn factor(self) -> u32 {
        1 << self.doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::answer::{
        self, Local,
        tests::{NOW, answered},
    };

    const MILLISECOND: i64 = 1_000_000;

    fn sample(offset: i64, delay: i64) -> Result<Sample, Failed> {
        let header = answered(NOW, offset * MILLISECOND, delay * MILLISECOND / 2, 0);
        answer::read(
            header,
            Local {
                sent: NOW,
                received: NOW + delay * MILLISECOND,
                stamps: Stamps::Kernel,
            },
        )
    }

    fn told(outcomes: &[Result<Sample, Failed>]) -> (i64, i64) {
        let time = Round::of(outcomes, NOW).time.unwrap();
        let rounded = |value: i64| (value as f64 / MILLISECOND as f64).round() as i64;
        (rounded(time.offset), rounded(time.delay))
    }

    #[test]
    fn the_median_offset_stands_for_all_with_its_own_delay() {
        assert_eq!(told(&[sample(3, 9)]), (3, 9));
        // One that was held up, one that is wrong by itself.
        assert_eq!(told(&[sample(2, 9), sample(50, 110), sample(3, 8)]), (3, 8));
        assert_eq!(told(&[sample(2, 9), sample(-900, 1), sample(3, 8)]), (2, 9));
        // Of two the one that was less long on the way.
        assert_eq!(told(&[sample(2, 9), sample(30, 60)]), (2, 9));
        assert_eq!(told(&[sample(2, 90), sample(30, 60)]), (30, 60));
        let even = [sample(1, 5), sample(2, 9), sample(3, 8), sample(4, 5)];
        assert_eq!(told(&even), (3, 8));
    }

    #[test]
    fn jitter_is_the_distance_of_the_others() {
        let round = Round::of(&[sample(2, 9), sample(5, 9), sample(6, 9)], NOW);
        // √((3² + 1²) / 2) = 2.236
        let jitter = round.time.unwrap().jitter.unwrap();
        assert_eq!(jitter / 10_000, 223);
        assert_eq!(Round::of(&[sample(2, 9)], NOW).time.unwrap().jitter, None);
    }

    #[test]
    fn dispersion_grows_from_the_answer_to_the_end_of_the_round() {
        let at = |at| Round::of(&[sample(2, 10)], at).time.unwrap().dispersion;
        let first = at(NOW + 10 * MILLISECOND);
        assert_eq!(at(NOW + 2010 * MILLISECOND) - first, 30_000);
    }

    #[test]
    fn root_distance_is_half_the_delays_and_all_dispersions() {
        let mut round = Round::of(&[sample(2, 10), sample(2, 10)], NOW);
        let mut head = round.head.unwrap();
        // 0.5 s and 0.25 s
        head[4..8].copy_from_slice(&0x8000_u32.to_be_bytes());
        head[8..12].copy_from_slice(&0x4000_u32.to_be_bytes());
        round.head = Some(head);
        let own = round.time.unwrap().dispersion as f64 / 1e9;
        let distance = round.root_distance().unwrap();
        assert!((distance - (0.51 / 2.0 + 0.25 + own)).abs() < 1e-5);
        assert_eq!(
            Round::of(&[Err(Failure::Refused.into())], NOW).root_distance(),
            None
        );
    }

    #[test]
    fn a_round_without_a_time_says_why_and_one_with_some_says_what_of_the_others() {
        let timeout = || Err(Failure::Timeout(std::time::Duration::from_secs(2)).into());
        let round = Round::of(&[timeout(), Err(Failure::Refused.into())], NOW);
        assert_eq!(
            (round.status, round.sent, round.answered),
            (Status::Refused, 2, 0)
        );
        assert_eq!(round.time, None);
        let round = Round::of(&[sample(1, 2), timeout(), sample(1, 2)], NOW);
        assert_eq!((round.status, round.answered), (Status::Ok, 2));
        assert_eq!(
            round.message.as_deref(),
            Some("2 of 3 questions told the time; of the others: no answer within 2 s")
        );
        assert_eq!(Round::of(&[sample(1, 2)], NOW).message, None);
        assert_eq!(Round::of(&[], NOW).status, Status::LocalError);
    }

    #[test]
    fn a_kiss_is_told_before_all_else() {
        let mut header = answered(NOW, 0, 0, 0);
        header.0[1] = 0;
        header.0[12..16].copy_from_slice(b"RATE");
        let local = Local {
            sent: NOW,
            received: NOW,
            stamps: Stamps::User,
        };
        let kiss = || answer::read(header, local);
        let round = Round::of(&[kiss(), Err(Failure::Refused.into())], NOW);
        assert_eq!(round.status, Status::KissOfDeath);
        assert_eq!(round.kiss.as_deref(), Some("RATE"));
        let round = Round::of(&[sample(1, 2), kiss()], NOW);
        assert_eq!(round.status, Status::KissOfDeath);
        assert!(round.time.is_some());
        assert_eq!(round.kiss.as_deref(), Some("RATE"));
    }

    #[test]
    fn what_is_far_off_is_told_with_its_side() {
        let round = Round::of(&[sample(11 * 86_400_000, 4)], NOW);
        assert_eq!(round.status, Status::FarOff);
        assert_eq!(
            round.message.as_deref(),
            Some(
                "the server is 950400.000000 s (11.0 days) ahead of this host: \
                 one of the two clocks is wrong"
            )
        );
        let round = Round::of(&[sample(-1_000_000_000_000, 4)], NOW);
        assert!(
            round
                .message
                .unwrap()
                .contains("(31.7 years) behind this host")
        );
        assert_eq!(Round::of(&[sample(999_999, 4)], NOW).status, Status::Ok);
    }

    #[test]
    fn reach_is_of_the_last_eight_polls() {
        let mut reach = Reach::default();
        assert_eq!(reach.ratio(), None);
        reach.add(true);
        assert_eq!((reach.register(), reach.ratio()), (1, Some(1.0)));
        reach.add(false);
        assert_eq!((reach.register(), reach.ratio()), (2, Some(0.5)));
        for _ in 0..8 {
            reach.add(true);
        }
        assert_eq!((reach.register(), reach.ratio()), (0o377, Some(1.0)));
        reach.add(false);
        assert_eq!((reach.register(), reach.ratio()), (0o376, Some(0.875)));
    }

    #[test]
    fn a_server_that_is_asked_too_often_is_asked_less_and_slowly_more_again() {
        let mut pace = Pace::default();
        assert_eq!(pace.factor(), 1);
        pace.slow_down();
        pace.slow_down();
        assert_eq!(pace.factor(), 4);
        for _ in 0..7 {
            pace.calm();
        }
        assert_eq!(pace.factor(), 4);
        pace.calm();
        assert_eq!(pace.factor(), 2);
        for _ in 0..7 {
            pace.calm();
        }
        pace.slow_down();
        assert_eq!(pace.factor(), 4);
        for _ in 0..20 {
            pace.slow_down();
        }
        assert_eq!(pace.factor(), 64);
        for _ in 0..8 * 6 {
            pace.calm();
        }
        assert_eq!(pace.factor(), 1);
        pace.calm();
        assert_eq!(pace, Pace::default());
    }
}
