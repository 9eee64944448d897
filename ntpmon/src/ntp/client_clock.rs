//! Whose transmit time can be believed. Many clients put a random number where the time they sent
//! belongs; an honest one's value advances as fast as the packets do, however wrong it is.

use ntpmon_common::{Mode, Timestamp};

use super::{Stamped, flow, table::Table};

/// What is known of a client's habit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientClock {
    /// It has not asked twice yet.
    #[default]
    Unknown,
    /// Its transmit time is its clock.
    Honest,
    /// Its transmit time is no time.
    Randomised,
}

impl ClientClock {
    /// The name in the API and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Honest => "honest",
            Self::Randomised => "randomised",
        }
    }
}

/// The last request of each client.
#[derive(Debug)]
pub(super) struct ClientClocks {
    seen: Table<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    address: [u8; 16],
    interface: u32,
    clock: ClientClock,
    /// Two clients may share an address behind a translator: each keeps a sample of its own.
    samples: [Sample; 2],
}

/// A transmit time and when it passed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    transmit: Timestamp,
    time: u64,
    /// It agreed with the one before it.
    confirmed: bool,
}

/// A generation of clients is kept this long (in nanoseconds), so that a client is recognised when
/// it polls at the longest common interval, 1024 s.
const LIFETIME: u64 = 1100 * 1_000_000_000;

impl ClientClocks {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            seen: Table::new(bound, LIFETIME),
        }
    }

    /// Takes note of a request and says what its sender is.
    pub(super) fn judge(&mut self, request: &Stamped) -> ClientClock {
        let event = &request.event;
        let transmit = event.ntp.transmit();
        if event.ntp.mode() != Mode::Client || event.ntp.version() == 5 || transmit.is_zero() {
            return ClientClock::Unknown;
        }
        let hash = flow::client_hash(&event.source, event.interface);
        let same = |seen: &Seen| seen.address == event.source && seen.interface == event.interface;
        self.seen.expire(event.time, |_| true, |_| ());
        if let Some(seen) = self.seen.refresh(event.time, hash, same) {
            seen.judge(transmit, event.time);
            return seen.clock;
        }
        let first = Sample {
            transmit,
            time: event.time,
            confirmed: false,
        };
        let seen = Seen {
            address: event.source,
            interface: event.interface,
            clock: ClientClock::Unknown,
            samples: [first; 2],
        };
        self.seen.insert(event.time, seen, [hash], same);
        seen.clock
    }
}

impl Seen {
    fn judge(&mut self, transmit: Timestamp, time: u64) {
        // A retransmission says nothing new.
        if self.samples.iter().any(|old| old.transmit == transmit) {
            return;
        }
        let [first, second] = &self.samples;
        let agreeing = self
            .samples
            .iter()
            .position(|old| old.agrees(transmit, time));
        // A sample that nothing followed makes room before one that its client has confirmed.
        let replaced = agreeing.unwrap_or_else(|| {
            let keep_second = (second.confirmed, second.time) > (first.confirmed, first.time);
            usize::from(!keep_second)
        });
        self.clock = if agreeing.is_some() {
            ClientClock::Honest
        } else {
            ClientClock::Randomised
        };
        self.samples[replaced] = Sample {
            transmit,
            time,
            confirmed: agreeing.is_some(),
        };
    }
}

impl Sample {
    /// Compares the advance of the transmit time with that of the capture. The allowance is for
    /// the network's jitter; a random number misses it by decades.
    fn agrees(&self, transmit: Timestamp, time: u64) -> bool {
        let claimed = transmit.since(self.transmit).nanoseconds();
        let elapsed = i64::try_from(i128::from(time) - i128::from(self.time)).unwrap_or(i64::MAX);
        let allowance = elapsed.unsigned_abs() / 20 + 100_000_000;
        claimed.abs_diff(elapsed) <= allowance
    }
}
