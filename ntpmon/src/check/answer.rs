//! What an answer says, once it is there: pure arithmetic over the four times. What is asked with
//! is random and tells the server nothing of this host's clock; whoever answers has to repeat it.

use ntpmon_common::{Mode, NtpHeader, Timestamp};

use super::Failure;
use crate::ntp::{
    exchange::{offset_and_delay, tells_time},
    kiss_code, reference_id,
};

/// A header has so many bytes.
pub(super) const HEADER: usize = 48;
/// Clocks drift apart by so much at most: NTP's PHI, as a share.
const DRIFT: f64 = 15e-6;
/// This host's times are known no better than this, in seconds.
const PRECISION: f64 = 1e-6;
/// Times that are further off than this are told as wrong, in nanoseconds: where ntpd gives up.
pub(super) const FAR_OFF: u64 = 1000 * 1_000_000_000;
/// What contradicts itself by no more than this is due to clocks that tick coarsely, in nanoseconds.
const TOLERANCE: i64 = 1_000_000;
/// NTP's MAXDISP, in seconds.
const MOST_DISPERSION: f64 = 16.0;

/// A question, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    version: u8,
    /// Random, and repeated by who answers.
    nonce: Timestamp,
}

impl Question {
    /// A question in this version, with a number that nobody can guess.
    #[must_use]
    pub const fn new(version: u8, nonce: u64) -> Self {
        // Zero would mean that there is no time.
        let nonce = if nonce == 0 { 1 } else { nonce };
        Self {
            version,
            nonce: Timestamp(nonce),
        }
    }

    /// The packet: it says nothing but what has to be said.
    #[must_use]
    pub fn packet(&self) -> [u8; HEADER] {
        let mut packet = [0; HEADER];
        packet[0] = self.version << 3 | Mode::Client as u8;
        // 2^32 s: no precision is claimed.
        packet[3] = 32;
        packet[40..].copy_from_slice(&self.nonce.0.to_be_bytes());
        packet
    }
}

/// Where the times of this host come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stamps {
    /// Both from the kernel.
    Kernel = 0,
    /// That of the answer from the kernel, that of the question from before it was handed over.
    KernelReceive = 1,
    /// Neither: the way through this host counts as delay.
    User = 2,
}

impl Stamps {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::KernelReceive => "kernel_receive",
            Self::User => "user",
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Kernel),
            1 => Some(Self::KernelReceive),
            2 => Some(Self::User),
            _ => None,
        }
    }
}

/// When this host asked and was answered, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// T1.
    pub sent: i64,
    /// T4.
    pub received: i64,
    /// How well the two are known.
    pub stamps: Stamps,
}

/// A time that was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The answer.
    pub header: NtpHeader,
    /// How far the server is ahead of this host, in nanoseconds.
    pub offset: i64,
    /// The round trip without the server's share, in nanoseconds.
    pub delay: i64,
    /// How wrong either may be by the clocks' own doing, in nanoseconds.
    pub dispersion: u64,
    /// When this host asked and was answered.
    pub local: Local,
}

/// A question that came to no time, and the answer, if there was one.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// Why.
    pub failure: Failure,
    /// The answer.
    pub header: Option<NtpHeader>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            header: None,
        }
    }
}

/// Whether a packet answers a question.
///
/// # Errors
/// When it does not; another may.
pub fn belongs(question: &Question, packet: &[u8]) -> Result<NtpHeader, Failure> {
    let Some(header) = packet.first_chunk::<HEADER>() else {
        return Err(Failure::ShortAnswer(packet.len()));
    };
    let header = NtpHeader(*header);
    if header.origin() != question.nonce {
        return Err(Failure::WrongOrigin);
    }
    Ok(header)
}

/// What an answer that belongs to a question says.
///
/// # Errors
/// When it does not tell the time.
pub fn read(header: NtpHeader, local: Local) -> Result<Sample, Failed> {
    let failed = |failure| Failed {
        failure,
        header: Some(header),
    };
    let (mode, version) = (header.mode(), header.version());
    if mode != Mode::Server || !(1..=4).contains(&version) {
        let mode = mode as u8;
        return Err(failed(Failure::NotAnAnswer { mode, version }));
    }
    if kiss_code(&header).is_some() {
        let code = reference_id(&header).unwrap_or_default();
        return Err(failed(Failure::KissOfDeath { code }));
    }
    let (leap_indicator, stratum) = (header.leap_indicator(), header.stratum());
    if leap_indicator == 3 || !(1..=15).contains(&stratum) {
        return Err(failed(Failure::Unsynchronised {
            leap_indicator,
            stratum,
        }));
    }
    if !tells_time(&header) {
        return Err(failed(Failure::ZeroTimes));
    }
    let t1 = Timestamp::from_unix_nanoseconds(local.sent);
    let t4 = Timestamp::from_unix_nanoseconds(local.received);
    let (t2, t3) = (header.receive(), header.transmit());
    let (offset, delay) = offset_and_delay(t1, t2, t3, t4);
    let (processing, elapsed) = (t3.since(t2), t4.since(t1));
    let (offset, delay) = (offset.nanoseconds(), delay.nanoseconds());
    if processing.nanoseconds() < -TOLERANCE || delay < -TOLERANCE {
        return Err(failed(Failure::Contradictory {
            processing: processing.seconds(),
            elapsed: elapsed.seconds(),
        }));
    }
    let precision = f64::from(header.precision()).exp2();
    let dispersion = precision + PRECISION + DRIFT * elapsed.seconds().max(0.0);
    Ok(Sample {
        header,
        offset,
        delay,
        dispersion: nanoseconds(dispersion),
        local,
    })
}

/// What a dispersion grows to while time passes, in nanoseconds.
pub(super) fn grown(dispersion: u64, passed: i64) -> u64 {
    let more = passed.max(0) as f64 * DRIFT;
    dispersion.saturating_add(more as u64)
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds.clamp(0.0, MOST_DISPERSION) * 1e9) as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    /// 2026-11-21T12:00:00Z
    pub(in crate::check) const NOW: i64 = 1_795_262_400 * SECOND;

    /// An answer of a server that is ahead by so much, received `there` after it was sent, and
    /// answered after `processing`; all in nanoseconds.
    pub(in crate::check) fn answered(
        sent: i64,
        ahead: i64,
        there: i64,
        processing: i64,
    ) -> NtpHeader {
        let mut packet = Question::new(4, 7).packet();
        packet[0] = 4 << 3 | Mode::Server as u8;
        packet[1] = 2;
        packet[3] = (-20_i8).cast_unsigned();
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[24..32].copy_from_slice(&7_u64.to_be_bytes());
        for (place, time) in [(32, there), (40, there + processing)] {
            let time = Timestamp::from_unix_nanoseconds(sent + ahead + time);
            packet[place..place + 8].copy_from_slice(&time.0.to_be_bytes());
        }
        NtpHeader(packet)
    }

    const fn local(sent: i64, elapsed: i64) -> Local {
        Local {
            sent,
            received: sent + elapsed,
            stamps: Stamps::Kernel,
        }
    }

    #[test]
    fn a_question_says_nothing_but_what_has_to_be_said() {
        let packet = Question::new(3, 0x0102_0304_0506_0708).packet();
        assert_eq!(packet[0], 0x1b);
        assert_eq!(packet[3], 32);
        assert_eq!(packet[40..], [1, 2, 3, 4, 5, 6, 7, 8]);
        let rest: Vec<u8> = [&packet[1..3], &packet[4..40]].concat();
        assert!(rest.iter().all(|byte| *byte == 0));
        // Zero would be no time.
        assert_ne!(Question::new(4, 0).packet()[40..], [0; 8]);
    }

    #[test]
    fn an_answer_belongs_to_a_question_by_all_64_bits_of_its_origin() {
        let question = Question::new(4, 7);
        let header = answered(NOW, 0, 1000, 1000);
        assert_eq!(belongs(&question, &header.0), Ok(header));
        let longer = [&header.0[..], &[0; 20]].concat();
        assert_eq!(belongs(&question, &longer), Ok(header));
        for bit in 0..64 {
            let other = Question::new(4, 7 ^ 1 << bit);
            assert_eq!(belongs(&other, &header.0), Err(Failure::WrongOrigin));
        }
        for length in [0, 1, 47] {
            let short = belongs(&question, &header.0[..length]);
            assert_eq!(short, Err(Failure::ShortAnswer(length)));
        }
    }

    /// Checks a sample to two nanoseconds, which is what NTP's fractions are worth.
    fn assert_near(sample: &Sample, offset: i64, delay: i64) {
        assert!(
            (sample.offset - offset).abs() <= 2,
            "{} {offset}",
            sample.offset
        );
        assert!(
            (sample.delay - delay).abs() <= 2,
            "{} {delay}",
            sample.delay
        );
    }

    #[test]
    fn a_server_that_is_ahead_has_a_positive_offset() {
        for ahead in [
            0,
            5_000_000,
            -5_000_000,
            11 * 86_400 * SECOND,
            -11 * 86_400 * SECOND,
        ] {
            let header = answered(NOW, ahead, 10_000_000, 3_000_000);
            let sample = read(header, local(NOW, 23_000_000)).unwrap();
            assert_near(&sample, ahead, 20_000_000);
        }
        // What is longer one way than the other counts half.
        let header = answered(NOW, 0, 16_000_000, 0);
        assert_near(
            &read(header, local(NOW, 20_000_000)).unwrap(),
            6_000_000,
            20_000_000,
        );
    }

    #[test]
    fn a_thousand_million_seconds_are_told_as_they_are() {
        for ahead in [1_000_000_000 * SECOND, -1_000_000_000 * SECOND] {
            let header = answered(NOW, ahead, 10_000_000, 0);
            let sample = read(header, local(NOW, 20_000_000)).unwrap();
            assert_near(&sample, ahead, 20_000_000);
        }
    }

    #[test]
    fn the_end_of_the_era_in_2036_changes_nothing() {
        // 2036-02-07T06:28:16Z
        let wrap = 2_085_978_496 * SECOND;
        for sent in [wrap - SECOND, wrap - 1000, wrap, wrap + 1, wrap + SECOND] {
            for ahead in [0, 2 * SECOND, -2 * SECOND] {
                let header = answered(sent, ahead, 10_000_000, 1_000_000);
                if header.receive().is_zero() || header.transmit().is_zero() {
                    continue;
                }
                let sample = read(header, local(sent, 21_000_000)).unwrap();
                assert_near(&sample, ahead, 20_000_000);
            }
        }
    }

    #[test]
    fn a_leap_second_that_is_announced_is_told_and_disturbs_nothing() {
        // 2016-12-31T23:59:59Z
        let sent = 1_483_228_799 * SECOND;
        for leap in [1, 2] {
            let mut header = answered(sent, 1000, 10_000_000, 1000);
            header.0[0] |= leap << 6;
            let sample = read(header, local(sent, 20_001_000)).unwrap();
            assert_eq!(sample.header.leap_indicator(), leap);
            assert_near(&sample, 1000, 20_000_000);
        }
    }

    #[test]
    fn what_tells_no_time_is_told_as_what_it_is() {
        let good = answered(NOW, 0, 10_000_000, 1000);
        let failure = |change: &dyn Fn(&mut [u8; 48])| {
            let mut header = good;
            change(&mut header.0);
            read(header, local(NOW, 20_000_000)).unwrap_err().failure
        };
        let status = |change: &dyn Fn(&mut [u8; 48])| failure(change).status();
        assert_eq!(status(&|it| it[0] |= 0xc0), Status::Unsynchronised);
        for stratum in [0, 16, 255] {
            assert_eq!(status(&|it| it[1] = stratum), Status::Unsynchronised);
        }
        assert_eq!(status(&|it| it[32..40].fill(0)), Status::ZeroTimes);
        assert_eq!(status(&|it| it[40..48].fill(0)), Status::ZeroTimes);
        assert_eq!(status(&|it| it[0] = 0x23), Status::NotAnAnswer);
        assert_eq!(status(&|it| it[0] = 0x24 | 0x38), Status::NotAnAnswer);
        let kiss = failure(&|it| {
            it[1] = 0;
            it[12..16].copy_from_slice(b"DENY");
        });
        assert_eq!(
            kiss.to_string(),
            "the server says DENY (kiss-o'-death): it does not serve this host"
        );
    }

    use crate::check::Status;

    #[test]
    fn times_that_contradict_each_other_are_no_time() {
        for processing in [-10_000_000, 30_000_000] {
            let header = answered(NOW, 0, 10_000_000, processing);
            let failed = read(header, local(NOW, 20_000_000)).unwrap_err();
            assert_eq!(failed.failure.status(), Status::Contradictory);
        }
        // A coarse clock.
        let header = answered(NOW, 0, 10_000_000, -500_000);
        assert!(read(header, local(NOW, 20_000_000)).is_ok());
    }

    #[test]
    fn dispersion_is_the_clocks_precision_and_what_they_drift_meanwhile() {
        let header = answered(NOW, 0, 10_000_000, 0);
        let sample = read(header, local(NOW, 2 * SECOND)).unwrap();
        // 2^-20 s, 1 µs, and 15 ppm of 2 s.
        assert_eq!(sample.dispersion / 100, (954 + 1000 + 30_000) / 100);
        let mut header = header;
        header.0[3] = 127;
        let sample = read(header, local(NOW, SECOND)).unwrap();
        assert_eq!(sample.dispersion, 16_000_000_000);
        assert_eq!(grown(100, 2 * SECOND), 30_100);
        assert_eq!(grown(100, -1), 100);
    }
}
