//! Whose transmit time can be believed. Many clients put a random number where the time they sent
//! belongs; an honest one's value advances as fast as the packets do, however wrong it is.

use hashbrown::HashTable;
use ntpmon_common::{Mode, Timestamp};

use super::{Stamped, flow};

/// What is known of a client's habit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// The last request of each client, in two generations that take turns: whoever asks within a
/// generation's life is remembered, however many others are forged.
#[derive(Debug)]
pub(super) struct ClientClocks {
    current: HashTable<Seen>,
    previous: HashTable<Seen>,
    /// When the current generation began.
    started: u64,
    /// Clients in a generation at most.
    bound: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Of the address and the interface: 64 seeded bits are enough to tell clients apart.
    client: u64,
    /// Two clients may share an address behind a translator: each keeps a sample of its own.
    samples: [Sample; 2],
    /// Which of them agreed with the one before it.
    confirmed: [bool; 2],
    clock: ClientClock,
}

/// A transmit time and when it passed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    transmit: Timestamp,
    time: u64,
}

/// A generation of clients is kept this long (in nanoseconds), so that a client is recognised when
/// it polls at the longest common interval, 1024 s.
const LIFETIME: u64 = 1100 * 1_000_000_000;

impl ClientClocks {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            current: HashTable::new(),
            previous: HashTable::new(),
            started: 0,
            bound,
        }
    }

    /// Takes note of a request and says what its sender is.
    pub(super) fn judge(&mut self, request: &Stamped) -> ClientClock {
        let event = &request.event;
        let transmit = event.ntp.transmit();
        if event.ntp.mode() != Mode::Client || event.ntp.version() == 5 || transmit.is_zero() {
            return ClientClock::Unknown;
        }
        let client = flow::client_hash(&event.source, event.interface);
        let same = |seen: &Seen| seen.client == client;
        if let Some(seen) = self.current.find_mut(client, same) {
            return seen.note(transmit, event.time);
        }
        self.make_room(event.time);
        let mut seen = self.previous.find(client, same).copied().unwrap_or(Seen {
            client,
            samples: [Sample {
                transmit,
                time: event.time,
            }; 2],
            confirmed: [false; 2],
            clock: ClientClock::Unknown,
        });
        let clock = seen.note(transmit, event.time);
        self.current.insert_unique(client, seen, |seen| seen.client);
        clock
    }

    fn make_room(&mut self, now: u64) {
        if self.current.is_empty() {
            self.started = now;
        }
        if self.current.len() >= self.bound || now.saturating_sub(self.started) > LIFETIME {
            std::mem::swap(&mut self.current, &mut self.previous);
            // After a flood the memory goes back.
            if self.current.len() < self.current.capacity() / 8 {
                self.current = HashTable::new();
            }
            self.current.clear();
            self.started = now;
        }
    }
}

impl Seen {
    fn note(&mut self, transmit: Timestamp, time: u64) -> ClientClock {
        // A retransmission says nothing new.
        if self.samples.iter().any(|old| old.transmit == transmit) {
            return self.clock;
        }
        let agreeing = self
            .samples
            .iter()
            .position(|old| old.agrees(transmit, time));
        // A sample that nothing followed makes room before one that its client has confirmed.
        let replaced = agreeing.unwrap_or_else(|| {
            let [first, second] =
                [0, 1].map(|index| (self.confirmed[index], self.samples[index].time));
            usize::from(second <= first)
        });
        self.clock = if agreeing.is_some() {
            ClientClock::Honest
        } else {
            ClientClock::Randomised
        };
        self.samples[replaced] = Sample { transmit, time };
        self.confirmed[replaced] = agreeing.is_some();
        self.clock
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
