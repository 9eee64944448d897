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
    transmit: Timestamp,
    time: u64,
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
            // A retransmission says nothing new.
            if seen.transmit != transmit {
                seen.clock = agreement(seen, transmit, event.time);
                seen.transmit = transmit;
                seen.time = event.time;
            }
            return seen.clock;
        }
        let seen = Seen {
            address: event.source,
            interface: event.interface,
            clock: ClientClock::Unknown,
            transmit,
            time: event.time,
        };
        self.seen.insert(event.time, seen, [hash], same);
        seen.clock
    }
}

/// Compares the advance of the transmit time with that of the capture. The allowance is for the
/// network's jitter and for clients that share an address; a random number misses it by decades.
fn agreement(seen: &Seen, transmit: Timestamp, time: u64) -> ClientClock {
    let claimed = transmit.since(seen.transmit).nanoseconds();
    let elapsed = i64::try_from(i128::from(time) - i128::from(seen.time)).unwrap_or(i64::MAX);
    let allowance = elapsed.unsigned_abs() / 20 + 100_000_000;
    if claimed.abs_diff(elapsed) <= allowance {
        ClientClock::Honest
    } else {
        ClientClock::Randomised
    }
}
