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
    /// Exchanges with servers that found no room.
    left_out: u64,
}

/// Servers at most: each may hold some kilobytes.
const SERVERS: usize = 4096;
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
        } else if self.known.len() < SERVERS {
            let mut server = ServerHealth::new(seed());
            server.observe(exchange, slew, found);
            self.known.insert(event.destination, server);
        } else {
            self.left_out += 1;
        }
    }

    /// Takes a response that nobody waits for: a further one, or one that was never asked for.
    pub fn stray(&mut self, response: &Stamped, kind: Kind, mut found: impl FnMut(Found)) {
        let event = &response.event;
        let began = *self.began.get_or_insert(event.time);
        if let Some(server) = self.known.get_mut(&event.source) {
            server.count_stray(kind);
        }
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

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8; 16], &ServerHealth)> {
        self.known.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, address: &[u8; 16]) -> Option<&ServerHealth> {
        self.known.get(address)
    }

    /// Forgets who was not asked since a time, in nanoseconds since 1970.
    pub fn forget_before(&mut self, unix: i64) {
        self.known.retain(|_, server| server.last_seen() >= unix);
    }

    /// Exchanges with servers that found no room.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// Whether this host asked.
fn is_client(exchange: &Exchange) -> bool {
    exchange.role == Some(Role::Client)
}
