//! The clients of a delta. Of most of them there is one exchange, which stands in the table itself;
//! those of which there are more have a record beside it.

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use crate::{
    history::client::{ClientRecord, News, Visit},
    ntp::exchange::Exchange,
};

/// By address.
#[derive(Debug, Default)]
pub struct Clients {
    places: IndexMap<[u8; 16], Place, RandomState>,
    records: Vec<ClientRecord>,
}

/// What there is of a client.
#[derive(Clone, Copy, Debug)]
enum Place {
    Visit(Visit),
    /// The number of its record, in bytes so that nothing is lost to alignment.
    Record([u8; 4]),
}

impl Place {
    const fn record(number: usize) -> Self {
        Self::Record((number as u32).to_ne_bytes())
    }
}

const fn number(bytes: [u8; 4]) -> usize {
    u32::from_ne_bytes(bytes) as usize
}

impl Clients {
    /// None yet, with room for so many, of which so many have a record.
    #[must_use]
    pub fn with_room(clients: usize, records: usize) -> Self {
        Self {
            places: IndexMap::with_capacity_and_hasher(clients, RandomState::default()),
            records: Vec::with_capacity(records),
        }
    }

    /// How many there are, and how many of them have a record.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.places.len(), self.records.len())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Their addresses, in the order of their numbers.
    pub fn addresses(&self) -> impl Iterator<Item = &[u8; 16]> {
        self.places.keys()
    }

    /// What there is of the one with a number.
    #[must_use]
    pub fn get(&self, place: usize) -> News<'_> {
        match &self.places[place] {
            Place::Visit(visit) => News::Visit(visit),
            Place::Record(at) => News::Record(&self.records[number(*at)]),
        }
    }

    /// Adds an exchange of a client that is there. Says whether it is.
    pub fn add(&mut self, address: &[u8; 16], exchange: &Exchange, seen: i64, now: i64) -> bool {
        let found = self.get_mut(address);
        found
            .map(|record| record.add(exchange, seen, now))
            .is_some()
    }

    /// Adds what came later of a client that is there. Says whether it is.
    pub fn absorb(&mut self, address: &[u8; 16], later: &ClientRecord) -> bool {
        self.get_mut(address)
            .map(|record| record.absorb(later))
            .is_some()
    }

    /// Adds a client that is not there.
    pub fn insert(&mut self, address: [u8; 16], record: &ClientRecord) {
        let place = match Visit::of(record) {
            Some(visit) => Place::Visit(visit),
            None => {
                self.records.push(*record);
                Place::record(self.records.len() - 1)
            }
        };
        self.places.insert(address, place);
    }

    /// Notes the last session of a client that was kept, if the client is there.
    pub fn set_last_session(&mut self, address: &[u8; 16], session: u64) -> bool {
        match self.places.get_mut(address) {
            None => return false,
            Some(Place::Visit(visit)) => visit.set_last_session(session),
            Some(Place::Record(at)) => {
                let at = number(*at);
                self.records[at].set_last_session(session);
            }
        }
        true
    }

    /// Each with all that there is.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 16], News<'_>)> {
        let addresses = self.places.keys().copied().enumerate();
        addresses.map(|(place, address)| (address, self.get(place)))
    }

    /// A client's record: one of its own from now on.
    fn get_mut(&mut self, address: &[u8; 16]) -> Option<&mut ClientRecord> {
        let place = self.places.get_mut(address)?;
        let at = match place {
            Place::Record(at) => number(*at),
            Place::Visit(visit) => {
                self.records.push(visit.record());
                *place = Place::record(self.records.len() - 1);
                self.records.len() - 1
            }
        };
        self.records.get_mut(at)
    }
}
