//! Who sends packets in mode 6 or 7, and how much comes back: attackers ask in the names of others
//! for answers that are longer than the questions. Pure, and bounded: of each interface the clients
//! with the most bytes are kept by name, and the totals are exact whatever is forgotten.

use std::collections::{BTreeSet, HashMap, HashSet};

use foldhash::fast::RandomState;
use ntpmon_common::Mode;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{I64, U64},
};

use super::{
    key::InterfaceId,
    shelf::{Change, Item, Shelf},
};
use crate::ntp::pair::Outcome;

/// The layout that this version writes.
const LAYOUT: u8 = 1;
/// Clients of an interface that stay when there are twice as many: newcomers have time to become
/// large.
const KEPT: usize = if cfg!(test) { 16 } else { 4096 };
/// Clients that a ring remembers until it tells.
const WAITING: usize = 1024;
/// Request codes of mode 7 for the list of clients: the older and the newer.
const MONLIST: [u8; 2] = [20, 42];
/// In both modes, in the byte that it is in: set in an answer.
const RESPONSE: u8 = 0x80;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mode 6.
    Control,
    /// Mode 7.
    Private,
}

/// A packet in mode 6 or 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// In which.
    pub kind: Kind,
    /// Who asks or is answered.
    pub client: [u8; 16],
    /// It goes to the server.
    pub is_question: bool,
    /// It asks for the list of clients.
    pub is_monlist: bool,
    /// Of the UDP payload.
    pub bytes: u16,
}

impl Packet {
    /// Nothing where it is another packet.
    #[must_use]
    pub fn of(outcome: &Outcome<'_>) -> Option<Self> {
        let (Outcome::Control(packet) | Outcome::Private(packet)) = outcome else {
            return None;
        };
        let event = &packet.event;
        let header = &event.ntp.0;
        let (kind, flags) = match event.ntp.mode() {
            Mode::Control => (Kind::Control, header[1]),
            Mode::Private => (Kind::Private, header[0]),
            _ => return None,
        };
        let is_question = flags & RESPONSE == 0;
        Some(Self {
            kind,
            client: match is_question {
                true => event.source,
                false => event.destination,
            },
            is_question,
            is_monlist: is_question && kind == Kind::Private && MONLIST.contains(&header[3]),
            bytes: event.payload_length,
        })
    }
}

/// Packets and bytes in both directions.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Traffic {
    packets_in: U64,
    packets_out: U64,
    bytes_in: U64,
    bytes_out: U64,
}

impl Traffic {
    /// Questions.
    #[must_use]
    pub const fn packets_in(&self) -> u64 {
        self.packets_in.get()
    }

    /// Answers.
    #[must_use]
    pub const fn packets_out(&self) -> u64 {
        self.packets_out.get()
    }

    /// Bytes of questions.
    #[must_use]
    pub const fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes of answers.
    #[must_use]
    pub const fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// How many bytes were answered for each that was asked with; nothing where nobody asked.
    #[must_use]
    pub fn amplification(&self) -> Option<f64> {
        (self.bytes_in() > 0).then(|| self.bytes_out() as f64 / self.bytes_in() as f64)
    }

    fn add(&mut self, packet: &Packet) {
        let (packets, bytes) = match packet.is_question {
            true => (&mut self.packets_in, &mut self.bytes_in),
            false => (&mut self.packets_out, &mut self.bytes_out),
        };
        *packets += 1;
        *bytes += u64::from(packet.bytes);
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// What passed between a client and those it asked.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Abuse {
    layout: u8,
    first_seen: I64,
    last_seen: I64,
    /// Mode 6.
    pub control: Traffic,
    /// Mode 7.
    pub private: Traffic,
    monlist_requests: U64,
}

impl Abuse {
    fn new(seen: i64) -> Self {
        Self {
            layout: LAYOUT,
            first_seen: I64::new(seen),
            last_seen: I64::new(seen),
            ..Self::default()
        }
    }

    fn add(&mut self, packet: &Packet, seen: i64) {
        self.last_seen.set(self.last_seen().max(seen));
        match packet.kind {
            Kind::Control => self.control.add(packet),
            Kind::Private => self.private.add(packet),
        }
        self.monlist_requests += u64::from(packet.is_monlist);
    }

    fn merge(&mut self, other: &Self) {
        self.first_seen
            .set(self.first_seen().min(other.first_seen()));
        self.last_seen.set(self.last_seen().max(other.last_seen()));
        self.control.merge(&other.control);
        self.private.merge(&other.private);
        self.monlist_requests += other.monlist_requests;
    }

    /// When the first packet was seen, in nanoseconds since 1970.
    #[must_use]
    pub const fn first_seen(&self) -> i64 {
        self.first_seen.get()
    }

    /// When the last one was.
    #[must_use]
    pub const fn last_seen(&self) -> i64 {
        self.last_seen.get()
    }

    /// How often the list of clients was asked for.
    #[must_use]
    pub const fn monlist_requests(&self) -> u64 {
        self.monlist_requests.get()
    }

    /// Both modes.
    #[must_use]
    pub fn all(&self) -> Traffic {
        let mut all = self.control;
        all.merge(&self.private);
        all
    }

    fn bytes(&self) -> u64 {
        let all = self.all();
        all.bytes_in().saturating_add(all.bytes_out())
    }
}

/// What a ring has seen since it told.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<[u8; 16], Abuse, RandomState>);

impl Waiting {
    /// Adds a packet. Says whether it is time to tell.
    pub(super) fn add(&mut self, packet: &Packet, seen: i64) -> bool {
        let known = self.0.entry(packet.client).or_insert(Abuse::new(seen));
        known.add(packet, seen);
        self.0.len() >= WAITING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// By interface, clients and, as nothing, those whose name was forgotten.
type Changed = BTreeSet<(InterfaceId, Option<[u8; 16]>)>;

/// Clients whose changes were taken to be written, and whether the file had them before.
#[derive(Debug)]
pub(super) struct TakenChanges(Vec<((InterfaceId, [u8; 16]), bool)>);

/// Of all interfaces.
#[derive(Debug, Default)]
pub(super) struct Table {
    interfaces: HashMap<InterfaceId, Interface>,
    changed: Changed,
    /// Clients that the file has, or may have: only those have to be removed from it.
    in_file: HashSet<(InterfaceId, [u8; 16]), RandomState>,
    recent: Recent,
    is_loaded: bool,
}

/// Of one interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) clients: HashMap<[u8; 16], Abuse, RandomState>,
    /// Of clients whose name was forgotten.
    pub(super) other: Option<Abuse>,
    /// All of them together.
    pub(super) total: Option<Abuse>,
}

/// The bytes of this minute and of the one before, in and out.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    minute: i64,
    this: Traffic,
    last: Traffic,
}

impl Recent {
    fn turn(&mut self, now: i64) {
        let minute = now.div_euclid(60_000_000_000);
        if minute != self.minute {
            self.last = match minute == self.minute + 1 {
                true => self.this,
                false => Traffic::default(),
            };
            self.this = Traffic::default();
            self.minute = minute;
        }
    }
}

/// Adds to what there may be.
pub(super) fn sum(known: &mut Option<Abuse>, more: &Abuse) {
    match known {
        Some(known) => known.merge(more),
        None => *known = Some(*more),
    }
}

impl Table {
    /// Adds what a ring has seen.
    pub(super) fn add(&mut self, interface: InterfaceId, waiting: &mut Waiting, now: i64) {
        self.recent.turn(now);
        let known = self.interfaces.entry(interface).or_default();
        for (client, more) in waiting.0.drain() {
            sum(&mut known.total, &more);
            self.recent.this.merge(&more.all());
            self.changed.insert((interface, Some(client)));
            match known.clients.get_mut(&client) {
                Some(known) => known.merge(&more),
                None => drop(known.clients.insert(client, more)),
            }
            if known.clients.len() >= 2 * KEPT {
                let forgotten = known.forget();
                self.changed.insert((interface, None));
                for client in forgotten {
                    // Who came and went between two writes was never in the file.
                    if self.in_file.contains(&(interface, client)) {
                        self.changed.insert((interface, Some(client)));
                    } else {
                        self.changed.remove(&(interface, Some(client)));
                    }
                }
            }
        }
    }

    /// By interface.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        self.interfaces.iter().map(|(number, it)| (*number, it))
    }

    /// In this minute and the one before: what there is of late.
    pub(super) fn recent(&mut self, now: i64) -> Traffic {
        self.recent.turn(now);
        let mut both = self.recent.last;
        both.merge(&self.recent.this);
        both
    }

    /// How many clients' numbers have changed since they were written.
    pub(super) fn count_changed(&self) -> usize {
        self.changed.len()
    }

    /// What is to be written, and of whom that is.
    pub(super) fn take_changes(&mut self) -> (TakenChanges, Vec<Change>) {
        let changed = std::mem::take(&mut self.changed);
        let in_file = &mut self.in_file;
        let mut taken = Vec::with_capacity(changed.len());
        let changes = changed.iter().map(|(interface, client)| {
            let known = self.interfaces.get(interface);
            let value = known.and_then(|known| match &client {
                Some(client) => known.clients.get(client),
                None => known.other.as_ref(),
            });
            let mut key = interface.to_be_bytes().to_vec();
            key.extend(client.iter().flatten());
            if let Some(client) = client {
                let place = (*interface, *client);
                let was_there = match value {
                    Some(_) => !in_file.insert(place),
                    None => in_file.remove(&place),
                };
                taken.push((place, was_there));
            }
            match value {
                Some(value) => Change::put(Shelf::Abuse, key, value.as_bytes()),
                None => Change::remove(Shelf::Abuse, key),
            }
        });
        let changes = changes.collect();
        (TakenChanges(taken), changes)
    }

    /// What was taken could not be put among what is written: it is to be taken again.
    pub(super) fn give_back(&mut self, taken: TakenChanges) {
        for ((interface, client), was_there) in taken.0 {
            if was_there {
                self.in_file.insert((interface, client));
            } else {
                self.in_file.remove(&(interface, client));
            }
            let known = self.interfaces.get(&interface);
            if was_there || known.is_some_and(|it| it.clients.contains_key(&client)) {
                self.changed.insert((interface, Some(client)));
            }
            self.changed.insert((interface, None));
        }
    }

    /// All of it is to be written: the file is another.
    pub(super) fn change_all(&mut self) {
        for (number, interface) in &self.interfaces {
            let clients = interface.clients.keys().map(|it| (*number, Some(*it)));
            self.changed.extend(clients);
            if interface.other.is_some() {
                self.changed.insert((*number, None));
            }
        }
    }

    /// Whether what was written in an earlier life is known.
    pub(super) const fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Takes what was written in an earlier life; how many items are none of this version's.
    pub(super) fn load(&mut self, items: &[Item]) -> usize {
        self.is_loaded = true;
        let mut unknown = 0;
        for (key, value) in items {
            let read = Abuse::read_from_bytes(value).ok();
            let record = read.filter(|it| it.layout == LAYOUT);
            let split = key.split_first_chunk::<2>();
            let (Some(record), Some((number, client))) = (record, split) else {
                unknown += 1;
                continue;
            };
            let known = self
                .interfaces
                .entry(InterfaceId::from_be_bytes(*number))
                .or_default();
            sum(&mut known.total, &record);
            match <[u8; 16]>::try_from(client) {
                Ok(client) => {
                    known.clients.insert(client, record);
                    self.in_file
                        .insert((InterfaceId::from_be_bytes(*number), client));
                }
                Err(_) => sum(&mut known.other, &record),
            }
        }
        unknown
    }
}

impl Interface {
    /// Forgets the names of those with the fewest bytes. Returns whose.
    fn forget(&mut self) -> Vec<[u8; 16]> {
        let mut all: Vec<(u64, [u8; 16])> = self
            .clients
            .iter()
            .map(|(client, it)| (it.bytes(), *client))
            .collect();
        let surplus = all.len().saturating_sub(KEPT);
        if surplus == 0 {
            return Vec::new();
        }
        all.select_nth_unstable(surplus - 1);
        all.truncate(surplus);
        for (_, client) in &all {
            if let Some(record) = self.clients.remove(client) {
                sum(&mut self.other, &record);
            }
        }
        all.into_iter().map(|(_, client)| client).collect()
    }
}

#[cfg(test)]
mod tests {
    use ntpmon_common::Event;

    use super::*;
    use crate::{history::made::address, ntp::Stamped};

    fn stamped(mode: u8, flags: [u8; 4], source: u32, destination: u32, bytes: u16) -> Stamped {
        let mut event = Event::EMPTY;
        event.source = address(source);
        event.destination = address(destination);
        event.payload_length = bytes;
        event.ntp.0[..4].copy_from_slice(&flags);
        event.ntp.0[0] |= 2 << 3 | mode;
        Stamped {
            event,
            unix: 0,
            frame: 0,
        }
    }

    #[test]
    fn the_client_is_who_asks_whichever_way_a_packet_goes() {
        let question = stamped(7, [0, 0, 3, 42], 1, 9, 8);
        let asked = Packet::of(&Outcome::Private(&question)).unwrap();
        assert_eq!((asked.client, asked.is_question), (address(1), true));
        assert!(asked.is_monlist && asked.kind == Kind::Private && asked.bytes == 8);
        let answer = stamped(7, [0x80, 0, 3, 42], 9, 1, 440);
        let answered = Packet::of(&Outcome::Private(&answer)).unwrap();
        assert_eq!((answered.client, answered.is_question), (address(1), false));
        assert!(!answered.is_monlist, "an answer asks for nothing");
        for (flags, is_question) in [(2, true), (0x82, false)] {
            let packet = stamped(6, [0, flags, 0, 42], 1, 9, 12);
            let packet = Packet::of(&Outcome::Control(&packet)).unwrap();
            assert_eq!(
                (packet.is_question, packet.is_monlist),
                (is_question, false)
            );
        }
        assert_eq!(Packet::of(&Outcome::Broadcast(&question)), None);
    }

    fn packet(client: u32, is_question: bool, bytes: u16) -> Packet {
        Packet {
            kind: Kind::Private,
            client: address(client),
            is_question,
            is_monlist: is_question,
            bytes,
        }
    }

    fn tell(table: &mut Table, packets: &[Packet], at: i64) {
        let mut waiting = Waiting::default();
        for packet in packets {
            assert!(!waiting.add(packet, at));
        }
        table.add(0, &mut waiting, at);
        assert!(waiting.is_empty());
    }

    const MINUTE: i64 = 60_000_000_000;

    #[test]
    fn amplification_is_what_came_out_for_what_went_in() {
        let mut table = Table::default();
        tell(&mut table, &[packet(1, true, 8), packet(1, false, 4000)], 5);
        let interface = &table.interfaces[&0];
        let client = interface.clients[&address(1)];
        assert_eq!(client.all().amplification(), Some(500.0));
        assert_eq!(client.control.amplification(), None);
        assert_eq!(client.monlist_requests(), 1);
        assert_eq!((client.first_seen(), client.last_seen()), (5, 5));
        // Of late means this minute and the last.
        assert_eq!(table.recent(MINUTE + 6).amplification(), Some(500.0));
        assert_eq!(table.recent(2 * MINUTE + 6).amplification(), None);
    }

    #[test]
    fn a_full_table_keeps_the_largest_and_its_totals_are_exact() {
        let mut table = Table::default();
        let (mut bytes, mut packets) = (0, 0);
        for round in 0..10 {
            for client in 0..1000_u32 {
                // Those whose number is a multiple of 100 send more.
                let size = if client % 100 == 0 { 400 } else { 8 };
                tell(&mut table, &[packet(client, true, size)], round);
                bytes += u64::from(size);
                packets += 1;
            }
        }
        let interface = &table.interfaces[&0];
        assert!(interface.clients.len() < 2 * KEPT);
        for client in (0..1000).step_by(100) {
            let record = interface.clients[&address(client)];
            assert_eq!(record.private.bytes_in(), 4000, "client {client}");
        }
        let mut whole = interface.other.unwrap();
        interface.clients.values().for_each(|it| whole.merge(it));
        assert_eq!(whole, interface.total.unwrap());
        let traffic = whole.private;
        assert_eq!((traffic.bytes_in(), traffic.packets_in()), (bytes, packets));
    }

    #[test]
    fn what_is_written_comes_back_and_the_forgotten_are_taken_away() {
        let mut table = Table::default();
        let mut file: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = Default::default();
        for round in 0..5 {
            for client in 0..300_u32 {
                let size = (client + 1) as u16;
                tell(&mut table, &[packet(client, client % 2 == 0, size)], round);
            }
            for change in table.take_changes().1 {
                match change.value {
                    Some(value) => drop(file.insert(change.key, value)),
                    None => drop(file.remove(&change.key)),
                }
            }
            assert_eq!(table.count_changed(), 0);
        }
        let items: Vec<Item> = file.into_iter().collect();
        let mut again = Table::default();
        assert_eq!(again.load(&items), 0);
        let (one, other) = (&table.interfaces[&0], &again.interfaces[&0]);
        assert_eq!(one.clients, other.clients);
        assert_eq!((one.other, one.total), (other.other, other.total));
        // What another version wrote is left out and counted.
        assert_eq!(Table::default().load(&[(vec![0, 0], vec![9; 3])]), 1);
        again.take_changes();
        again.change_all();
        assert_eq!(again.count_changed(), other_count(&again));
    }

    #[test]
    fn forged_clients_leave_no_more_to_write_than_there_are() {
        let mut table = Table::default();
        let mut written: HashSet<Vec<u8>> = HashSet::new();
        for round in 0..20_u32 {
            for client in 0..1000 {
                let forged = packet(round * 1000 + client, true, 8);
                tell(&mut table, &[forged], i64::from(round));
                assert!(table.count_changed() <= 4 * KEPT + 1);
            }
            let (changed, changes) = table.take_changes();
            if round > 2 && round < 18 {
                // There was no room: nothing of it is lost.
                table.give_back(changed);
                continue;
            }
            for change in changes {
                match change.value {
                    Some(_) => written.insert(change.key),
                    None => written.remove(&change.key),
                };
            }
        }
        let interface = &table.interfaces[&0];
        // And whose name was forgotten.
        assert_eq!(written.len(), interface.clients.len() + 1);
        assert!(table.in_file.len() <= 4 * KEPT);
    }

    fn other_count(table: &Table) -> usize {
        let interface = &table.interfaces[&0];
        interface.clients.len() + usize::from(interface.other.is_some())
    }
}
