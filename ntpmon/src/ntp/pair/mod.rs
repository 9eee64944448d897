//! Which response answers which request. Pure: packets and their times go in, outcomes come out;
//! no clock is read, nothing is locked.
//!
//! A response belongs to a request when it goes the way back and carries the request's transmit
//! time as its origin, compared as 64 raw bits; in interleaved mode (RFC 9769) it carries the
//! request's receive time instead. Symmetric peers ask and answer in one packet and at their own
//! pace, so they wait in a table of their own, without a timeout.

use ntpmon_common::{Event, Mode, Timestamp};

use super::{
    Stamped,
    client_clock::{ClientClock, ClientClocks, ClientError},
    flow,
    table::{Place, Table},
};

use self::peers::{PeerMatch, Peers};
pub use self::totals::Totals;

#[cfg(test)]
mod oracle;
mod peers;
#[cfg(test)]
pub(super) mod tests;
mod totals;

/// How a [`Pairer`] works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a request waits for its response, in nanoseconds.
    pub timeout: u64,
    /// The ports that are NTP: only a packet without a mode needs them.
    pub ports: Vec<u16>,
    /// Requests that may wait at once, in each of two generations.
    pub pending_bound: usize,
    /// Clients whose last request is remembered, in each of two generations.
    pub client_bound: usize,
    /// Responses that no request was seen for, in each of two generations. They wait as long as a
    /// request does: queues of a NIC, and captures of them, can swap the two.
    pub held_bound: usize,
    /// Symmetric associations at most, each direction its own.
    pub symmetric_bound: usize,
    /// Report an exchange when its time is over instead of when its response comes: in the order
    /// of the requests, and with every duplicate counted.
    pub in_order: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: 2_000_000_000,
            ports: vec![123],
            // Seven eighths of a power of two: hash tables double beyond that. All of it filled by
            // forged packets takes some 150 MB.
            pending_bound: 7 << 15,
            client_bound: 7 << 15,
            held_bound: 7 << 12,
            symmetric_bound: 7 << 13,
            in_order: false,
        }
    }
}

impl Settings {
    /// The bounds of each, where several pairers share what one may take.
    #[must_use]
    pub fn shared_by(mut self, pairers: usize) -> Self {
        let share = pairers.max(1).next_power_of_two();
        for bound in [
            &mut self.pending_bound,
            &mut self.client_bound,
            &mut self.held_bound,
            &mut self.symmetric_bound,
        ] {
            *bound = (*bound / share).max(1024);
        }
        self
    }
}

/// A jump of the packets' times back by more than this (in nanoseconds) begins a new life: another
/// capture file, for instance.
const JUMP: u64 = 60_000_000_000;

/// A request and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Counts the requests that asked something new, from 0, in the order they came.
    pub sequence: u64,
    /// Who asked.
    pub request: &'a Stamped,
    /// What was answered, if anything.
    pub response: Option<&'a Stamped>,
    /// The response names the request in the way of RFC 9769: its transmit time belongs to the
    /// response before.
    pub interleaved: bool,
    /// Retransmissions of the request that were seen so far.
    pub duplicates: u32,
    /// What is known of the client's clock at the time of the request.
    pub client_clock: ClientClock,
    /// How far it is ahead, where it can be believed. An interleaved request tells nothing of it.
    pub client_error: Option<ClientError>,
}

/// What a packet, or the passing of time, led to.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// A request was answered, or its time is over.
    Exchange(Pair<'a>),
    /// A response to nothing: late, or made up.
    Unsolicited {
        /// The packet.
        response: &'a Stamped,
        /// Its request was seen, but had timed out.
        late: bool,
    },
    /// A further response to a request that was answered.
    Multiple(&'a Stamped),
    /// Mode 5.
    Broadcast(&'a Stamped),
    /// Mode 6.
    Control(&'a Stamped),
    /// Mode 7.
    Private(&'a Stamped),
}

/// Pairs the packets of one ring, or of one set of capture files.
#[derive(Debug)]
pub struct Pairer {
    settings: Settings,
    pending: Table<Pending>,
    held: Table<Held>,
    peers: Peers,
    clocks: ClientClocks,
    totals: Totals,
    /// The latest time seen.
    now: u64,
}

/// A request that waits, or that did. Many wait at once under a flood and few in peace, and those
/// that were answered are only remembered: what is large is let go of as soon as it can be.
#[derive(Debug)]
struct Pending {
    /// Hash of the flow and the value that names the request, and of the flow and its receive
    /// time (or the same again), which names it in interleaved mode.
    hashes: [u64; 2],
    /// When the packet came by the pairer's own time, which never goes back.
    seen: u64,
    sequence: u64,
    /// Until when an older request of this flow, also without a transmit time, may be the one
    /// that a response means. 0 when there is none.
    rival_until: u64,
    state: State,
    duplicates: u32,
    interleaved: bool,
    client_clock: ClientClock,
}

#[derive(Debug)]
enum State {
    Waiting(Box<Asked>),
    /// Reported when the response came.
    Answered,
    /// Answered, and to be reported in order.
    Kept(Box<(Asked, Stamped)>),
    /// Reported as unanswered: a response that comes now is late, whatever its own time says.
    GivenUp,
}

/// What waits of a request.
#[derive(Clone, Copy, Debug)]
struct Asked {
    packet: Stamped,
    client_error: Option<ClientError>,
}

#[derive(Debug)]
struct Held {
    response: Stamped,
    seen: u64,
    paired: bool,
    /// Its request was seen, but had timed out.
    late: bool,
}

impl Pending {
    const fn pair<'a>(&self, asked: &'a Asked, response: Option<&'a Stamped>) -> Pair<'a> {
        Pair {
            sequence: self.sequence,
            request: &asked.packet,
            response,
            interleaved: self.interleaved,
            duplicates: self.duplicates,
            client_clock: self.client_clock,
            client_error: asked.client_error,
        }
    }

    const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    /// Whether a response could still come in time, by the pairer's own time.
    const fn is_alive(&self, timeout: u64, now: u64) -> bool {
        !matches!(self.state, State::GivenUp) && self.seen.saturating_add(timeout) >= now
    }

    /// Whether a packet that goes the way of `same_way` and carries `value` names this request. As
    /// long as it waits the packets themselves are compared; afterwards 64 seeded bits are enough
    /// to count what comes too often.
    fn is_named(
        &self,
        by: Match,
        hash: u64,
        value: Timestamp,
        same_way: impl FnOnce(&Event) -> bool,
    ) -> bool {
        let [basic, interleaved] = self.hashes;
        let named = match by {
            Match::Basic => basic == hash,
            Match::Interleaved => interleaved == hash && interleaved != basic,
        };
        if !named {
            return false;
        }
        let State::Waiting(asked) = &self.state else {
            return true;
        };
        let event = &asked.packet.event;
        by.value(event) == Some(value) && same_way(event)
    }

    /// The response has come: reports the exchange, or keeps it for its turn.
    fn answer(&mut self, response: &Stamped, in_order: bool, sink: &mut impl FnMut(Outcome<'_>)) {
        let State::Waiting(request) = std::mem::replace(&mut self.state, State::Answered) else {
            return;
        };
        if in_order {
            self.state = State::Kept(Box::new((*request, *response)));
        } else {
            sink(Outcome::Exchange(self.pair(&request, Some(response))));
        }
    }

    /// Reports what has not been reported when the response came.
    fn let_go(&mut self, totals: &mut Totals, sink: &mut impl FnMut(Outcome<'_>)) {
        match std::mem::replace(&mut self.state, State::Answered) {
            State::Waiting(request) => {
                self.state = State::GivenUp;
                totals.unanswered += 1;
                sink(Outcome::Exchange(self.pair(&request, None)));
            }
            State::Kept(both) => sink(Outcome::Exchange(self.pair(&both.0, Some(&both.1)))),
            State::Answered => {}
            State::GivenUp => self.state = State::GivenUp,
        }
    }
}

impl Held {
    fn let_go(&self, totals: &mut Totals, sink: &mut impl FnMut(Outcome<'_>)) {
        if !self.paired {
            totals.unsolicited += 1;
            totals.late += u64::from(self.late);
            sink(Outcome::Unsolicited {
                response: &self.response,
                late: self.late,
            });
        }
    }
}

/// By what a response names its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    /// The transmit time, or version 5's cookie.
    Basic,
    /// The receive time (RFC 9769).
    Interleaved,
}

impl Match {
    /// The value in the request, where it has one of this kind.
    fn value(self, question: &Event) -> Option<Timestamp> {
        match self {
            Self::Basic => Some(question.ntp.asks_with()),
            // An interleaved request carries both.
            Self::Interleaved => {
                let ntp = &question.ntp;
                let has_both = !ntp.receive().is_zero() && !ntp.transmit().is_zero();
                (ntp.version() < 5 && has_both).then(|| ntp.receive())
            }
        }
    }

    /// Whether the response's transmit time belongs to the response before: version 5 has a flag
    /// for that.
    const fn is_interleaved(self, question: &Event, answer: &Event) -> bool {
        match self {
            Self::Interleaved => true,
            Self::Basic => {
                question.ntp.version() == 5
                    && answer.ntp.version() == 5
                    && answer.ntp.version5_flags() & 2 != 0
            }
        }
    }
}

impl Pairer {
    /// A pairer that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            pending: Table::new(settings.pending_bound, settings.timeout),
            held: Table::new(settings.held_bound, settings.timeout),
            peers: Peers::new(settings.symmetric_bound),
            clocks: ClientClocks::new(settings.client_bound),
            totals: Totals::default(),
            now: 0,
            settings,
        }
    }

    /// What was counted so far.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Takes one packet; what it leads to goes to `sink`.
    pub fn observe(&mut self, packet: &Stamped, sink: &mut impl FnMut(Outcome<'_>)) {
        if packet.event.time.saturating_add(JUMP) < self.now {
            self.flush(sink);
            self.now = packet.event.time;
        }
        self.advance(packet.event.time, sink);
        match packet.event.ntp.mode() {
            Mode::Client => self.request(packet, sink),
            Mode::Server => self.response(packet, sink),
            Mode::Unspecified => {
                let hash = flow::answering_hash(&packet.event, packet.event.ntp.origin());
                if self.answers_something(packet, hash) || !self.is_to_server(packet) {
                    self.response(packet, sink);
                } else {
                    self.request(packet, sink);
                }
            }
            Mode::SymmetricActive | Mode::SymmetricPassive => {
                self.peers.take(packet, self.now, &mut self.totals, sink);
            }
            Mode::Broadcast => {
                self.totals.broadcast += 1;
                sink(Outcome::Broadcast(packet));
            }
            Mode::Control => {
                self.totals.control += 1;
                sink(Outcome::Control(packet));
            }
            Mode::Private => {
                self.totals.private += 1;
                sink(Outcome::Private(packet));
            }
        }
    }

    /// Lets time pass: reports the requests whose time is over.
    pub fn advance(&mut self, time: u64, sink: &mut impl FnMut(Outcome<'_>)) {
        self.now = self.now.max(time);
        let Self {
            settings,
            pending,
            held,
            peers,
            totals,
            now,
            ..
        } = self;
        let now = *now;
        let timeout = settings.timeout;
        // What is let go of early counts only where it was still waiting.
        let unanswered_before = totals.unanswered;
        let mut due_unanswered = 0;
        let early = pending.expire(
            now,
            |request| request.seen.saturating_add(timeout) < now,
            |request| {
                if request.is_waiting() && request.seen.saturating_add(timeout) < now {
                    due_unanswered += 1;
                }
                request.let_go(totals, sink);
            },
        );
        if early > 0 {
            totals.evicted += totals.unanswered - unanswered_before - due_unanswered;
        }
        held.expire(
            now,
            |response| response.seen.saturating_add(timeout) < now,
            |response| {
                if !response.paired && response.seen.saturating_add(timeout) >= now {
                    totals.evicted += 1;
                }
                response.let_go(totals, sink);
            },
        );
        peers.advance(now, totals, sink);
    }

    /// Reports everything that still waits: nothing more will come.
    pub fn flush(&mut self, sink: &mut impl FnMut(Outcome<'_>)) {
        let totals = &mut self.totals;
        self.pending.flush(|request| request.let_go(totals, sink));
        self.held.flush(|response| response.let_go(totals, sink));
        self.peers.flush(totals, sink);
    }

    fn request(&mut self, packet: &Stamped, sink: &mut impl FnMut(Outcome<'_>)) {
        self.totals.requests += 1;
        let event = &packet.event;
        let value = event.ntp.asks_with();
        let hash = flow::asking_hash(event, value);
        let Settings {
            timeout, in_order, ..
        } = self.settings;
        let now = self.now;
        let mut rival_until = 0;
        if let Some(waiting) = self.pending.find(hash, |pending| {
            pending.is_alive(timeout, now)
                && pending.is_named(Match::Basic, hash, value, |asked| {
                    flow::is_same(asked, event)
                })
        }) {
            if !value.is_zero() {
                waiting.duplicates += 1;
                self.totals.duplicates += 1;
                return;
            }
            rival_until = if waiting.is_waiting() {
                waiting.seen.saturating_add(timeout)
            } else {
                waiting.rival_until
            };
        }
        let judged = self.clocks.judge(packet);
        let second = match Match::Interleaved.value(event) {
            Some(receive) if receive != value => flow::asking_hash(event, receive),
            _ => hash,
        };
        let mut pending = Pending {
            hashes: [hash, second],
            seen: now,
            sequence: self.totals.next_sequence(),
            rival_until,
            state: State::Waiting(Box::new(Asked {
                packet: *packet,
                client_error: judged.error,
            })),
            duplicates: 0,
            interleaved: false,
            client_clock: judged.clock,
        };
        if let Some((response, by)) = self.take_held(packet) {
            pending.interleaved = by.is_interleaved(event, &response.event);
            pending.answer(&response, in_order, sink);
            self.totals.answered += 1;
        }
        let further = (second != hash).then_some(second);
        self.pending
            .insert(now, pending, std::iter::once(hash).chain(further), |old| {
                let [basic, interleaved] = old.hashes;
                basic == hash || interleaved == second && interleaved != basic
            });
    }

    /// A response that came before this request, and by what it names it.
    fn take_held(&mut self, request: &Stamped) -> Option<(Stamped, Match)> {
        if self.held.is_empty() {
            return None;
        }
        let now = self.now;
        let timeout = self.settings.timeout;
        for by in [Match::Basic, Match::Interleaved] {
            let Some(value) = by.value(&request.event).filter(|value| !value.is_zero()) else {
                continue;
            };
            let hash = flow::asking_hash(&request.event, value);
            let newest = self.held.find(hash, |held| {
                held.response.event.ntp.origin() == value
                    && flow::is_reverse(&request.event, &held.response.event)
            });
            if let Some(held) = newest
                && !held.paired
                && held.seen.saturating_add(timeout) >= now
            {
                held.paired = true;
                return Some((held.response, by));
            }
        }
        None
    }

    /// The request that a response comes in time for. One that it names by its transmit time is
    /// preferred to one that it names by its receive time.
    fn find_asked(&self, packet: &Stamped, hash: u64) -> Option<(Place, Match)> {
        let origin = packet.event.ntp.origin();
        let timeout = self.settings.timeout;
        let now = self.now;
        [Match::Basic, Match::Interleaved]
            .into_iter()
            .find_map(|by| {
                let place = self.pending.place(hash, |pending| {
                    pending.is_alive(timeout, now)
                        && pending.is_named(by, hash, origin, |asked| {
                            flow::is_reverse(asked, &packet.event)
                        })
                })?;
                Some((place, by))
            })
    }

    /// Whether a request is known that this packet answers, be it too late.
    fn answers_something(&self, packet: &Stamped, hash: u64) -> bool {
        let origin = packet.event.ntp.origin();
        let place = self.pending.place(hash, |pending| {
            [Match::Basic, Match::Interleaved].into_iter().any(|by| {
                pending.is_named(by, hash, origin, |asked| {
                    flow::is_reverse(asked, &packet.event)
                })
            })
        });
        place.is_some()
    }

    fn is_to_server(&self, packet: &Stamped) -> bool {
        self.settings.ports.contains(&packet.event.destination_port)
    }

    fn response(&mut self, packet: &Stamped, sink: &mut impl FnMut(Outcome<'_>)) {
        self.totals.responses += 1;
        let ntp = &packet.event.ntp;
        if super::kiss_code(ntp).is_some() {
            self.totals.kiss_of_death += 1;
        }
        let Settings {
            timeout, in_order, ..
        } = self.settings;
        let hash = flow::answering_hash(&packet.event, ntp.origin());
        let Some((place, by)) = self.find_asked(packet, hash) else {
            self.unmatched(packet, hash, sink);
            return;
        };
        let asked = self.pending.get_mut(place);
        let State::Waiting(waiting) = &asked.state else {
            self.totals.multiple_responses += 1;
            sink(Outcome::Multiple(packet));
            return;
        };
        let request = &waiting.packet;
        // Also by the packets' own times, should they have been delivered in another order.
        if packet.event.time.saturating_sub(request.event.time) > timeout {
            self.unmatched(packet, hash, sink);
        } else if ntp.origin().is_zero() && asked.rival_until >= self.now {
            // Two requests without a transmit time wait: this may be the answer to either.
            self.totals.unsolicited += 1;
            sink(Outcome::Unsolicited {
                response: packet,
                late: false,
            });
        } else {
            asked.interleaved = by.is_interleaved(&request.event, &packet.event);
            asked.answer(packet, in_order, sink);
            self.totals.answered += 1;
        }
    }

    /// No request waits for it: a peer may have asked, the request may be still to come, or may
    /// have timed out.
    fn unmatched(&mut self, packet: &Stamped, hash: u64, sink: &mut impl FnMut(Outcome<'_>)) {
        let origin = packet.event.ntp.origin();
        match self.peers.answer(packet, &mut self.totals, sink) {
            PeerMatch::Answer => return,
            PeerMatch::Repeat => {
                self.totals.multiple_responses += 1;
                sink(Outcome::Multiple(packet));
                return;
            }
            PeerMatch::Nothing => {}
        }
        let held = Held {
            response: *packet,
            seen: self.now,
            paired: false,
            late: self.answers_something(packet, hash),
        };
        // A late response finds no request any more; one without an origin never does.
        if held.late || origin.is_zero() {
            held.let_go(&mut self.totals, sink);
            return;
        }
        self.held.insert(self.now, held, [hash], |old| {
            flow::is_same(&old.response.event, &packet.event)
                && old.response.event.ntp.origin() == origin
        });
    }
}
