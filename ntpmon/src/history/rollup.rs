//! What happened on an interface in a minute, an hour, a day, or since the beginning: counts, and
//! how the three durations were distributed. Larger ones are sums of smaller ones, but for the clients
//! whose clocks were seen: each is one client, be it in a minute or in a day.

use super::{
    abuse,
    histogram::{Histogram, read_number, write_number},
};
use crate::ntp::{
    ClientClock,
    exchange::{Exchange, Role},
    pair::Totals,
};

/// The layout that this version writes.
const LAYOUT: u8 = 2;
/// Without clients' errors.
const OLD_LAYOUT: u8 = 1;

/// How long a rollup lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours, in UTC.
    Day,
    /// Since the database began: one for each interface.
    All,
}

impl Resolution {
    /// All of them.
    pub const EACH: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::All];

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::All => "all",
        }
    }

    /// In seconds; nothing for all time.
    #[must_use]
    pub const fn seconds(self) -> Option<i64> {
        match self {
            Self::Minute => Some(60),
            Self::Hour => Some(3600),
            Self::Day => Some(86_400),
            Self::All => None,
        }
    }

    /// When the rollup began that a time falls into, in seconds since 1970.
    #[must_use]
    pub fn start(self, seconds: i64) -> i64 {
        self.seconds()
            .map_or(0, |length| seconds.div_euclid(length) * length)
    }
}

/// Numbers of things, each of which is counted in one place only.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Count {
            $($(#[$doc])* #[allow(non_camel_case_types, reason = "the name in the API")] $name,)*
        }

        impl Count {
            /// All of them, in the order of the database.
            pub const EACH: &[Self] = &[$(Self::$name,)*];

            /// The name in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

counts! {
    /// Requests that asked something new and whose fate is known.
    exchanges,
    /// Of those, the ones with a response.
    answered,
    /// Of those, the ones without.
    unanswered,
    /// Answers with a kiss code.
    kiss_of_death,
    /// Answers from which no time can be taken.
    unsynchronised,
    /// Exchanges in interleaved mode.
    interleaved,
    /// Packets that ask.
    requests,
    /// Packets that answer.
    responses,
    /// Responses to nothing.
    unsolicited,
    /// Of those, the ones that came too late.
    late,
    /// Retransmitted requests.
    duplicates,
    /// Further responses to an answered request.
    multiple_responses,
    /// Mode 6.
    control,
    /// Mode 7.
    private,
    /// Mode 5.
    broadcast,
    /// Modes 1 and 2.
    symmetric,
    /// Given up early because too many waited.
    evicted,
    /// Bytes of questions in mode 6, as those that follow without the headers of UDP and IP.
    control_bytes_in,
    /// Bytes of answers in mode 6.
    control_bytes_out,
    /// Bytes of questions in mode 7.
    private_bytes_in,
    /// Bytes of answers in mode 7.
    private_bytes_out,
    /// Questions in mode 7 for the list of clients, which attackers like for its length.
    monlist_requests,
}

/// How many kinds there are; new ones are added at the end, so that older databases can be read.
const KINDS: usize = Count::EACH.len();

/// Counts and distributions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    counts: [u64; KINDS],
    /// Exchanges by the version of the request.
    pub versions: [u64; 8],
    /// Exchanges by the mode of the request.
    pub modes: [u64; 8],
    /// Answered exchanges by the stratum of the response; all from 16 on are in the last.
    pub strata: [u64; 17],
    /// Exchanges by what was known of the client's clock: unknown, honest, randomised.
    pub clocks: [u64; 3],
    /// T2 − T1.
    pub latency: Histogram,
    /// T3 − T2.
    pub processing: Histogram,
    /// From the request's passing to the response's.
    pub total: Histogram,
    /// How far the clocks of clients were ahead of this host's: each client once, where this host
    /// answered it and its clock can be believed. Not of all time.
    pub client_errors: Histogram,
    /// In a minute's, as long as it is in no file: those who are the first in their hour, and in
    /// their day.
    first_of_hour: Histogram,
    first_of_day: Histogram,
}

impl Rollup {
    /// Adds an exchange.
    pub fn add(&mut self, exchange: &Exchange) {
        let asked = &exchange.request.event.ntp;
        self.count(Count::exchanges, 1);
        self.versions[usize::from(asked.version() & 7)] += 1;
        self.modes[usize::from(asked.mode() as u8 & 7)] += 1;
        self.clocks[match exchange.client_clock {
            ClientClock::Unknown => 0,
            ClientClock::Honest => 1,
            ClientClock::Randomised => 2,
        }] += 1;
        self.count(Count::interleaved, u64::from(exchange.interleaved));
        if let Some(response) = &exchange.response {
            self.count(Count::answered, 1);
            let is_kiss = exchange.kiss_code().is_some();
            self.count(Count::kiss_of_death, u64::from(is_kiss));
            let is_unsynchronised = !is_kiss && !exchange.is_time_sample();
            self.count(Count::unsynchronised, u64::from(is_unsynchronised));
            self.strata[usize::from(response.event.ntp.stratum().min(16))] += 1;
        } else {
            self.count(Count::unanswered, 1);
        }
        let timings = &exchange.timings;
        for (histogram, value) in [
            (
                &mut self.latency,
                timings
                    .client_to_server_latency
                    .map(|span| span.nanoseconds()),
            ),
            (
                &mut self.processing,
                timings
                    .server_processing_time
                    .map(|span| span.nanoseconds()),
            ),
            (
                &mut self.total,
                timings.total_process_time.map(u64::cast_signed),
            ),
        ] {
            if let Some(value) = value {
                histogram.add(value);
            }
        }
        if let Some(error) = &exchange.client_error
            && exchange.role == Some(Role::Server)
        {
            let first = error.first;
            for (histogram, is_first) in [
                (&mut self.client_errors, first.of_minute),
                (&mut self.first_of_hour, first.of_hour),
                (&mut self.first_of_day, first.of_day),
            ] {
                if is_first {
                    histogram.add(error.nanoseconds());
                }
            }
        }
    }

    /// Adds a packet in mode 6 or 7.
    pub(super) const fn add_abuse(&mut self, packet: &abuse::Packet) {
        let (bytes_in, bytes_out) = match packet.kind {
            abuse::Kind::Control => (Count::control_bytes_in, Count::control_bytes_out),
            abuse::Kind::Private => (Count::private_bytes_in, Count::private_bytes_out),
        };
        let count = if packet.is_question {
            bytes_in
        } else {
            bytes_out
        };
        self.count(count, packet.bytes as u64);
        self.count(Count::monlist_requests, packet.is_monlist as u64);
    }

    /// Adds the packets that a pairer has counted since `before`. Exchanges are not taken from
    /// here: they come one by one.
    pub fn add_packets(&mut self, now: &Totals, before: &Totals) {
        for (count, now, before) in [
            (Count::requests, now.requests, before.requests),
            (Count::responses, now.responses, before.responses),
            (Count::unsolicited, now.unsolicited, before.unsolicited),
            (Count::late, now.late, before.late),
            (Count::duplicates, now.duplicates, before.duplicates),
            (
                Count::multiple_responses,
                now.multiple_responses,
                before.multiple_responses,
            ),
            (Count::control, now.control, before.control),
            (Count::private, now.private, before.private),
            (Count::broadcast, now.broadcast, before.broadcast),
            (Count::symmetric, now.symmetric, before.symmetric),
            (Count::evicted, now.evicted, before.evicted),
        ] {
            self.count(count, now.saturating_sub(before));
        }
    }

    const fn count(&mut self, count: Count, more: u64) {
        self.counts[count as usize] += more;
    }

    /// One of the counts.
    #[must_use]
    pub const fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        self.merge_counts(other);
        self.client_errors.merge(&other.client_errors);
        self.first_of_hour.merge(&other.first_of_hour);
        self.first_of_day.merge(&other.first_of_day);
    }

    fn merge_counts(&mut self, other: &Self) {
        for (numbers, more) in self.numbers_mut().into_iter().zip(other.numbers()) {
            for (number, more) in numbers.iter_mut().zip(more) {
                *number += more;
            }
        }
        self.latency.merge(&other.latency);
        self.processing.merge(&other.processing);
        self.total.merge(&other.total);
    }

    /// Adds what was counted in a minute of it, which is in no file yet.
    pub fn add_minute(&mut self, resolution: Resolution, minute: &Self) {
        let none = Histogram::default();
        let errors = match resolution {
            Resolution::Minute => &minute.client_errors,
            Resolution::Hour => &minute.first_of_hour,
            Resolution::Day => &minute.first_of_day,
            Resolution::All => &none,
        };
        self.merge_counts(minute);
        self.client_errors.merge(errors);
    }

    fn numbers(&self) -> [&[u64]; 5] {
        [
            &self.counts,
            &self.versions,
            &self.modes,
            &self.strata,
            &self.clocks,
        ]
    }

    fn numbers_mut(&mut self) -> [&mut [u64]; 5] {
        [
            &mut self.counts,
            &mut self.versions,
            &mut self.modes,
            &mut self.strata,
            &mut self.clocks,
        ]
    }

    /// As the database has it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT];
        for numbers in self.numbers() {
            write_number(&mut out, numbers.len() as u64);
            for number in numbers {
                write_number(&mut out, *number);
            }
        }
        for histogram in [
            &self.latency,
            &self.processing,
            &self.total,
            &self.client_errors,
        ] {
            histogram.write(&mut out);
        }
        out
    }

    /// From the database; nothing when it is not what [`Self::to_bytes`] made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&layout @ (LAYOUT | OLD_LAYOUT), mut bytes) = bytes.split_first()? else {
            return None;
        };
        let bytes = &mut bytes;
        let mut rollup = Self::default();
        for numbers in rollup.numbers_mut() {
            for place in 0..read_number(bytes)? {
                *numbers.get_mut(usize::try_from(place).ok()?)? = read_number(bytes)?;
            }
        }
        rollup.latency = Histogram::read(bytes)?;
        rollup.processing = Histogram::read(bytes)?;
        rollup.total = Histogram::read(bytes)?;
        if layout == LAYOUT {
            rollup.client_errors = Histogram::read(bytes)?;
        }
        Some(rollup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_rollup_that_began_before_it_also_before_1970() {
        assert_eq!(Resolution::Minute.start(119), 60);
        assert_eq!(Resolution::Hour.start(7200), 7200);
        assert_eq!(Resolution::Day.start(-1), -86_400);
        assert_eq!(Resolution::All.start(1_700_000_000), 0);
    }

    #[test]
    fn a_rollup_comes_back_from_its_bytes() {
        let mut rollup = Rollup::default();
        assert_eq!(Rollup::from_bytes(&rollup.to_bytes()), Some(rollup.clone()));
        rollup.count(Count::evicted, 300);
        rollup.versions[4] = 7;
        rollup.strata[16] = u64::MAX;
        rollup.latency.add(-12);
        rollup.total.add(1_000_000);
        rollup.client_errors.add(-5_000);
        let bytes = rollup.to_bytes();
        assert_eq!(Rollup::from_bytes(&bytes), Some(rollup));
        assert_eq!(Rollup::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Rollup::from_bytes(&[]), None);
    }

    #[test]
    fn lists_of_an_older_version_are_read_which_knew_fewer_kinds() {
        let mut bytes = vec![OLD_LAYOUT];
        // Three counts, no version, one mode, no stratum, two clocks, and nothing measured.
        for numbers in [&[9, 300, 2][..], &[], &[5], &[], &[1, 8]] {
            write_number(&mut bytes, numbers.len() as u64);
            numbers.iter().for_each(|it| write_number(&mut bytes, *it));
        }
        bytes.extend([0, 0, 0]);
        let read = Rollup::from_bytes(&bytes).unwrap();
        let known = [Count::exchanges, Count::answered, Count::unanswered];
        assert_eq!(known.map(|count| read.get(count)), [9, 300, 2]);
        assert_eq!(read.get(Count::kiss_of_death), 0);
        assert_eq!((read.modes[0], read.clocks), (5, [1, 8, 0]));
        // Written again, it is as today's are.
        assert_eq!(Rollup::from_bytes(&read.to_bytes()), Some(read));
        // The order is that of the database: a new kind stands at the end.
        let names: Vec<&str> = Count::EACH.iter().map(|count| count.name()).collect();
        assert!(names.starts_with(&[
            "exchanges",
            "answered",
            "unanswered",
            "kiss_of_death",
            "unsynchronised",
            "interleaved",
            "requests",
            "responses",
            "unsolicited",
            "late",
            "duplicates",
            "multiple_responses",
            "control",
            "private",
            "broadcast",
            "symmetric",
            "evicted",
            "control_bytes_in",
            "control_bytes_out",
            "private_bytes_in",
            "private_bytes_out",
            "monlist_requests",
        ]));
        // One of a newer version is not taken for less than it is.
        let mut longer = vec![LAYOUT];
        write_number(&mut longer, KINDS as u64 + 1);
        longer.extend(vec![1; KINDS + 1 + 4 + 4]);
        assert_eq!(Rollup::from_bytes(&longer), None);
    }

    #[test]
    fn a_client_counts_once_in_each_minute_hour_and_day_and_only_where_this_host_answered() {
        use crate::{
            history::made::{BEGIN, SECOND, ask},
            ntp::{ClientError, First},
        };
        let mut days = Rollup::default();
        let (mut hours, mut minutes) = (Rollup::default(), Rollup::default());
        // Three minutes of two hours, in each of which it asks twice.
        for (minute, of_hour, of_day) in [(0, true, true), (1, false, false), (60, true, false)] {
            let mut delta = Rollup::default();
            for of_minute in [true, false] {
                let mut exchange = ask(1, BEGIN + minute * 60 * SECOND).exchange();
                let first = First {
                    of_minute,
                    of_hour: of_hour && of_minute,
                    of_day: of_day && of_minute,
                };
                exchange.client_error = Some(ClientError::at_least(-70_000_000, first));
                delta.add(&exchange);
                exchange.role = Some(Role::Transit);
                delta.add(&exchange);
            }
            minutes.add_minute(Resolution::Minute, &delta);
            hours.add_minute(Resolution::Hour, &delta);
            days.add_minute(Resolution::Day, &delta);
        }
        let all = [minutes, hours, days].map(|rollup| Rollup::from_bytes(&rollup.to_bytes()));
        for (rollup, clients) in all.iter().flatten().zip([3, 2, 1]) {
            assert_eq!(rollup.get(Count::exchanges), 12);
            let errors = &rollup.client_errors;
            assert_eq!(
                (errors.count(), errors.minimum()),
                (clients, Some(-70_000_000))
            );
            assert_eq!(
                (errors.within(50_000_000), errors.within(100_000_000)),
                (0, clients)
            );
        }
        assert!(all.iter().all(Option::is_some));
    }

    #[test]
    fn packets_are_added_as_the_difference_of_two_totals() {
        let mut rollup = Rollup::default();
        let before = Totals {
            requests: 10,
            control: 1,
            ..Totals::default()
        };
        let now = Totals {
            requests: 15,
            control: 1,
            late: 2,
            exchanges: 99,
            ..before
        };
        rollup.add_packets(&now, &before);
        assert_eq!(rollup.get(Count::requests), 5);
        assert_eq!(rollup.get(Count::control), 0);
        assert_eq!(rollup.get(Count::late), 2);
        assert_eq!(rollup.get(Count::exchanges), 0);
    }
}
