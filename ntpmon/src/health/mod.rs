//! What passing packets say of servers: how far each is from this host, how much that scatters, and
//! what happened to it. Pure: exchanges and times go in, states and [`Found`] come out; who keeps
//! them is [`crate::history`].

pub mod finding;
mod fingerprint;
pub mod server;
mod track;
pub mod window;

use std::collections::HashMap;

use foldhash::fast::RandomState;

pub use self::{
    finding::{Evidence, Found, Kind, Severity},
    fingerprint::{Asked, Manner},
    server::{Seed, ServerHealth},
    track::Step,
};
use crate::ntp::{
    Stamped,
    clock::Slew,
    exchange::{Exchange, Role},
};

/// The servers that one ring's packets came from.
#[derive(Debug, Default)]
pub struct Servers {
    known: HashMap<[u8; 16], ServerHealth, RandomState>,
    /// When the first packet passed, by the packets' own time.
    began: Option<u64>,
    /// Let go of for others since it was asked last.
    let_go: u64,
}

/// Servers at most: each may hold some kilobytes.
const SERVERS: usize = if cfg!(test) { 64 } else { 4096 };
/// So many are let go of at once, so that a flood of new ones does not look for room each time.
const AT_ONCE: usize = SERVERS / 8;
/// Who was not asked for so long before the last packet is forgotten when room is needed, in
/// nanoseconds: no client waits for half of it.
const IDLE: i64 = 3 * 86_400 * 1_000_000_000;
/// As long after the beginning an answer may belong to a question that was not seen, in nanoseconds.
const GRACE: u64 = 10_000_000_000;

impl Servers {
    /// Takes an exchange. Of a server that is new, `seed` is what was known in an earlier life.
    pub fn observe(
        &mut self,
        exchange: &Exchange,
        slew: Slew,
        seed: impl FnOnce() -> Option<Seed>,
        found: impl FnMut(Found),
    ) {
        let event = &exchange.request.event;
        self.began.get_or_insert(event.time);
        if let Some(server) = self.known.get_mut(&event.destination) {
            server.observe(exchange, slew, found);
        } else {
            if self.known.len() >= SERVERS {
                self.make_room(exchange.request.captured());
            }
            let mut server = ServerHealth::new(seed());
            server.observe(exchange, slew, found);
            self.known.insert(event.destination, server);
        }
    }

    /// Forgets who is idle; else first those that never answered, as nobody does who was made up, and
    /// of them those first that were not asked for the longest time.
    fn make_room(&mut self, now: Option<i64>) {
        if let Some(now) = now {
            let since = now.saturating_sub(IDLE);
            self.known.retain(|_, server| server.last_seen() >= since);
        }
        if self.known.len() < SERVERS {
            return;
        }
        let mut all: Vec<(bool, i64, [u8; 16])> = (self.known.iter())
            .map(|(address, server)| (server.has_answered(), server.last_seen(), *address))
            .collect();
        all.select_nth_unstable(AT_ONCE - 1);
        for (_, _, address) in &all[..AT_ONCE] {
            self.known.remove(address);
        }
        self.let_go += AT_ONCE as u64;
    }

    /// Takes a response that nobody waits for: a further one, or one that was never asked for.
    pub fn stray(&mut self, response: &Stamped, kind: Kind, mut found: impl FnMut(Found)) {
        let event = &response.event;
        let began = *self.began.get_or_insert(event.time);
        if event.time.saturating_sub(began) >= GRACE {
            found(Found {
                kind,
                severity: kind.severity(),
                time: response.captured(),
                server: Some(event.source),
                client: Some(event.destination),
                is_known: self.known.contains_key(&event.source),
                subject: None,
                evidence: Evidence::answer(response),
            });
        }
    }

    /// This host's clock was stepped: how far servers are from it has to be learnt anew.
    pub fn local_clock_stepped(&mut self) {
        for server in self.known.values_mut() {
            server.local_clock_stepped();
        }
    }

    /// This host slept, and its clocks with it: where servers are has to be learnt anew.
    pub fn slept(&mut self) {
        for server in self.known.values_mut() {
            server.forget_track();
        }
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, address: &[u8; 16]) -> Option<&ServerHealth> {
        self.known.get(address)
    }

    /// How many were let go of for others since this was asked last.
    pub const fn take_let_go(&mut self) -> u64 {
        std::mem::replace(&mut self.let_go, 0)
    }
}

/// Whether this host asked.
fn is_client(exchange: &Exchange) -> bool {
    exchange.role == Some(Role::Client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::made::ask as made;

    fn ask(servers: &mut Servers, number: u32, answered: bool, at: i64) {
        let mut asked = made(1, at);
        asked.answered = answered;
        let mut exchange = asked.exchange();
        exchange.request.event.destination = u128::from(number).to_be_bytes();
        servers.observe(&exchange, Slew::default(), || None, |_| {});
    }

    #[test]
    fn servers_that_never_answered_make_room_first() {
        let mut servers = Servers::default();
        let second = 1_000_000_000;
        for number in 0..10 {
            ask(&mut servers, number, true, second);
        }
        for number in 10..100 * SERVERS as u32 {
            ask(&mut servers, number, false, 2 * second);
            assert!(servers.known.len() <= SERVERS);
        }
        let is_known = |servers: &Servers, number: u32| {
            servers.get(&u128::from(number).to_be_bytes()).is_some()
        };
        assert!((0..10).all(|number| is_known(&servers, number)));
        assert!(servers.take_let_go() > 90 * SERVERS as u64);
        assert_eq!(servers.take_let_go(), 0);
        // Days later nobody is.
        for number in 0..SERVERS as u32 {
            ask(&mut servers, 1_000_000 + number, true, second + 2 * IDLE);
        }
        assert!(!is_known(&servers, 0));
    }
}
