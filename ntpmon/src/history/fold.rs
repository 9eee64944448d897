//! Exchanges folded into what has changed: one [`Delta`] a ring, taken whole at each flush. Pure,
//! and bounded: what no longer fits by name is counted without one.

mod clients;

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

pub use self::clients::Clients;
use super::{
    abuse,
    client::{ClientRecord, Tally},
    key::InterfaceId,
    rollup::{Resolution, Rollup},
    server::{ServerRecord, Strays},
    session::{Keep, SessionRecord},
};
use crate::ntp::{exchange::Exchange, pair::Totals};

/// How much a delta may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients by name: beyond, exchanges count as [`Tally`].
    pub clients: usize,
    /// Clients at which it should be flushed.
    pub full: usize,
    /// Servers by name.
    pub servers: usize,
    /// Which exchanges are kept one by one.
    pub keep: Keep,
    /// How many of them.
    pub sessions: usize,
}

/// Minutes in a delta at which it should be flushed: only files can have more than a few.
const MINUTES_FULL: usize = 32;
/// Sessions at which it should be flushed.
const SESSIONS_FULL: usize = 100_000;
/// Minutes that it may have: later ones are added to the last.
const MINUTES: usize = 64;

/// Servers whose answers nobody waited for.
const STRAYS: usize = 1024;

/// What has changed on one interface since the last flush.
#[derive(Debug)]
pub struct Delta {
    /// Where.
    pub interface: InterfaceId,
    /// Clients that asked.
    pub clients: Clients,
    /// Servers that were asked.
    pub servers: HashMap<[u8; 16], ServerRecord, RandomState>,
    /// Answers of servers that nobody waited for.
    pub strays: HashMap<[u8; 16], Strays, RandomState>,
    /// By the second at which the minute began.
    pub rollups: BTreeMap<i64, Rollup>,
    /// Exchanges that are kept one by one.
    pub sessions: Vec<SessionRecord>,
    /// Those that were to be kept and found no room.
    pub sessions_left_out: u64,
    /// Exchanges of clients that found no room.
    pub unnamed: Tally,
    /// Exchanges with servers that found no room.
    pub unnamed_servers: u64,
    /// All exchanges.
    pub exchanges: u64,
}

impl Delta {
    /// Nothing yet.
    #[must_use]
    pub fn new(interface: InterfaceId) -> Self {
        Self::with_room(interface, Clients::default())
    }

    /// Nothing yet, with these clients' room.
    pub(super) fn with_room(interface: InterfaceId, clients: Clients) -> Self {
        Self {
            interface,
            clients,
            servers: HashMap::default(),
            strays: HashMap::default(),
            rollups: BTreeMap::new(),
            sessions: Vec::new(),
            sessions_left_out: 0,
            unnamed: Tally::default(),
            unnamed_servers: 0,
            exchanges: 0,
        }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exchanges == 0 && self.rollups.is_empty()
    }

    /// Whether it should be flushed.
    #[must_use]
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.clients.len() >= limits.full
            || self.rollups.len() >= MINUTES_FULL
            || self.sessions.len() >= SESSIONS_FULL
    }

    /// Adds an exchange; `now` is the time in nanoseconds since 1970, which stands for that of
    /// the packet where nobody noted it.
    pub fn add(&mut self, exchange: &Exchange, now: i64, limits: &Limits) {
        let seen = exchange.request.captured().unwrap_or(now);
        let event = &exchange.request.event;
        self.exchanges += 1;
        self.rollup(seen).add(exchange);

        if !self.clients.add(&event.source, exchange, seen, now) {
            if self.clients.len() < limits.clients {
                let record = ClientRecord::new(exchange, seen, now);
                self.clients.insert(event.source, &record);
            } else {
                self.unnamed.exchanges += 1;
                self.unnamed.unanswered += u64::from(exchange.response.is_none());
            }
        }

        if let Some(server) = self.servers.get_mut(&event.destination) {
            server.add(exchange, seen);
        } else if self.servers.len() < limits.servers {
            self.servers
                .insert(event.destination, ServerRecord::new(exchange, seen));
        } else {
            self.unnamed_servers += 1;
        }

        if limits.keep.keeps(&event.source) {
            if self.sessions.len() < limits.sessions {
                self.sessions
                    .push(SessionRecord::new(exchange, self.interface, seen));
            } else {
                self.sessions_left_out += 1;
            }
        }
    }

    /// Adds an answer that nobody waited for. Addresses are forged most of all here: what finds no
    /// room is in the rollups.
    pub fn add_stray(&mut self, server: [u8; 16], strays: Strays) {
        if let Some(known) = self.strays.get_mut(&server) {
            known.add(strays);
        } else if self.strays.len() < STRAYS {
            self.strays.insert(server, strays);
        }
    }

    /// Adds a packet in mode 6 or 7.
    pub fn add_abuse(&mut self, packet: &abuse::Packet, seen: i64) {
        self.rollup(seen).add_abuse(packet);
    }

    /// Adds the packets that a pairer has counted since `before`.
    pub fn add_packets(&mut self, totals: &Totals, before: &Totals, now: i64) {
        if totals != before {
            self.rollup(now).add_packets(totals, before);
        }
    }

    fn rollup(&mut self, time: i64) -> &mut Rollup {
        self.rollup_of(Resolution::Minute.start(time.div_euclid(1_000_000_000)))
    }

    fn rollup_of(&mut self, minute: i64) -> &mut Rollup {
        let last = self.rollups.last_key_value().map(|(minute, _)| *minute);
        let minute = match last {
            Some(last) if self.rollups.len() >= MINUTES && !self.rollups.contains_key(&minute) => {
                last
            }
            _ => minute,
        };
        self.rollups.entry(minute).or_default()
    }

    /// Puts what came later onto this: a flush that failed is tried again with the next.
    pub fn absorb(&mut self, later: Self, limits: &Limits) {
        for (address, news) in later.clients.iter() {
            let record = news.record();
            if !self.clients.absorb(&address, &record) {
                if self.clients.len() < limits.clients {
                    self.clients.insert(address, &record);
                } else {
                    self.unnamed.add(news.exchanges());
                }
            }
        }
        for (address, record) in later.servers {
            if let Some(known) = self.servers.get_mut(&address) {
                known.absorb(&record);
            } else if self.servers.len() < limits.servers {
                self.servers.insert(address, record);
            } else {
                self.unnamed_servers += record.answered() + record.unanswered();
            }
        }
        for (address, strays) in later.strays {
            self.add_stray(address, strays);
        }
        for (minute, rollup) in later.rollups {
            self.rollup_of(minute).merge(&rollup);
        }
        let room = limits.sessions.saturating_sub(self.sessions.len());
        let kept = room.min(later.sessions.len());
        self.sessions_left_out += (later.sessions.len() - kept) as u64;
        self.sessions.extend_from_slice(&later.sessions[..kept]);
        self.sessions_left_out += later.sessions_left_out;
        self.unnamed.add(later.unnamed);
        self.unnamed_servers += later.unnamed_servers;
        self.exchanges += later.exchanges;
    }
}
