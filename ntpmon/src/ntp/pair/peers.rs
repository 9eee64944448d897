//! Symmetric peers, modes 1 and 2. Each packet asks, and answers the last one that came the other
//! way, at the sender's own pace: a question waits until the next one takes its place, not for a
//! timeout.

use hashbrown::HashMap;
use ntpmon_common::{Event, Mode};

use super::{Match, Outcome, Pair, Totals};
use crate::ntp::{ClientClock, Stamped};

/// A peer that was not answered for this long (in nanoseconds) is let go of.
const LIFETIME: u64 = 2100 * 1_000_000_000;

/// The last packet of every symmetric association, each direction its own.
#[derive(Debug)]
pub(super) struct Peers {
    last: HashMap<FlowKey, Peer, foldhash::fast::RandomState>,
    /// Associations at most.
    bound: usize,
    /// When those that are gone were last looked for.
    swept: u64,
}

/// What became of a packet that may be meant for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerMatch {
    Nothing,
    Answer,
    /// It names a question that was answered already.
    Repeat,
}

/// The last packet of a peer, which asks until the next one.
#[derive(Debug)]
struct Peer {
    request: Stamped,
    seen: u64,
    sequence: u64,
    duplicates: u32,
    answered: bool,
    /// An answer of a passive peer: it asks as well, but may never be meant to.
    passive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowKey {
    source: [u8; 16],
    destination: [u8; 16],
    ports: (u16, u16),
    interface: u32,
}

impl FlowKey {
    const fn of(event: &Event) -> Self {
        Self {
            source: event.source,
            destination: event.destination,
            ports: (event.source_port, event.destination_port),
            interface: event.interface,
        }
    }

    const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            interface: self.interface,
        }
    }
}

impl Peers {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            last: HashMap::default(),
            bound,
            swept: 0,
        }
    }

    /// Takes a packet between peers: it answers the other side's last one, and asks.
    pub(super) fn take(
        &mut self,
        packet: &Stamped,
        now: u64,
        totals: &mut Totals,
        sink: &mut impl FnMut(Outcome<'_>),
    ) {
        totals.symmetric += 1;
        let answers = self.answer(packet, totals, sink) == PeerMatch::Answer;
        let value = packet.event.ntp.asks_with();
        let key = FlowKey::of(&packet.event);
        if let Some(last) = self.last.get_mut(&key) {
            if !value.is_zero() && last.request.event.ntp.asks_with() == value {
                last.duplicates += 1;
                totals.duplicates += 1;
                return;
            }
            last.let_go(totals, sink);
        } else if self.last.len() >= self.bound {
            let before = totals.unanswered;
            self.flush(totals, sink);
            totals.evicted += totals.unanswered - before;
        }
        // A passive peer's answer becomes a question only when it is answered.
        let passive = answers && packet.event.ntp.mode() == Mode::SymmetricPassive;
        let peer = Peer {
            request: *packet,
            seen: now,
            sequence: if passive { 0 } else { totals.next_sequence() },
            duplicates: 0,
            answered: false,
            passive,
        };
        self.last.insert(key, peer);
    }

    /// Whether the packet is the answer to the last one that went the other way.
    pub(super) fn answer(
        &mut self,
        packet: &Stamped,
        totals: &mut Totals,
        sink: &mut impl FnMut(Outcome<'_>),
    ) -> PeerMatch {
        if self.last.is_empty() {
            return PeerMatch::Nothing;
        }
        let origin = packet.event.ntp.origin();
        let key = FlowKey::of(&packet.event).reversed();
        let Some(asked) = self.last.get_mut(&key) else {
            return PeerMatch::Nothing;
        };
        let question = &asked.request.event;
        let named = [Match::Basic, Match::Interleaved]
            .into_iter()
            .find(|by| !origin.is_zero() && by.value(question) == Some(origin));
        let Some(by) = named else {
            return PeerMatch::Nothing;
        };
        if asked.answered {
            return PeerMatch::Repeat;
        }
        asked.answered = true;
        if asked.passive {
            asked.sequence = totals.next_sequence();
        }
        let interleaved = by.is_interleaved(&asked.request.event, &packet.event);
        sink(Outcome::Exchange(asked.pair(Some(packet), interleaved)));
        totals.answered += 1;
        PeerMatch::Answer
    }

    /// Now and then, lets go of those that were not answered for too long.
    pub(super) fn advance(
        &mut self,
        now: u64,
        totals: &mut Totals,
        sink: &mut impl FnMut(Outcome<'_>),
    ) {
        if now.saturating_sub(self.swept) > LIFETIME / 32 {
            self.swept = now;
            self.let_go(
                |peer| peer.seen.saturating_add(LIFETIME) < now,
                totals,
                sink,
            );
        }
    }

    /// Lets go of all.
    pub(super) fn flush(&mut self, totals: &mut Totals, sink: &mut impl FnMut(Outcome<'_>)) {
        self.let_go(|_| true, totals, sink);
        self.swept = 0;
    }

    /// In the order of their packets.
    fn let_go(
        &mut self,
        is_due: impl Fn(&Peer) -> bool,
        totals: &mut Totals,
        sink: &mut impl FnMut(Outcome<'_>),
    ) {
        let mut gone: Vec<Peer> = self
            .last
            .extract_if(|_, peer| is_due(peer))
            .map(|(_, peer)| peer)
            .collect();
        gone.sort_unstable_by_key(|peer| peer.sequence);
        for peer in gone {
            peer.let_go(totals, sink);
        }
    }
}

impl Peer {
    const fn pair<'a>(&'a self, response: Option<&'a Stamped>, interleaved: bool) -> Pair<'a> {
        Pair {
            sequence: self.sequence,
            request: &self.request,
            response,
            interleaved,
            duplicates: self.duplicates,
            client_clock: ClientClock::Unknown,
            client_error: None,
        }
    }

    /// Reports it as unanswered, if that is what it is.
    fn let_go(&self, totals: &mut Totals, sink: &mut impl FnMut(Outcome<'_>)) {
        if !self.answered && !self.passive {
            totals.unanswered += 1;
            sink(Outcome::Exchange(self.pair(None, false)));
        }
    }
}
