//! What lists of clients are read from: all of them in an order, and those that a filter picks. To
//! make either, every row of the catalogue is looked at, so both are kept for as long as they are
//! asked for, and nobody holds the catalogue's lock while he looks at all of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLockReadGuard};

use super::{
    super::{
        Shared,
        catalogue::{Catalogue, Filter, Order, Picked, Row, Sort, Unordered},
    },
    ClientQuery, Cursor,
};
use crate::scheduling;

/// Orders of all clients, kept for as long as they are asked for. Making one of a million clients
/// takes some 100 ms, so under load a list may be some seconds behind; each client's own record is
/// always as it is now.
#[derive(Debug, Default)]
pub(in super::super) struct Orders {
    made: Mutex<HashMap<Sort, Made>>,
    /// One at a time.
    making: Mutex<()>,
    /// Those that are made before somebody needs them.
    renewing: Mutex<HashSet<Sort>>,
    /// The first of those that are not made yet, ascending or descending.
    pub(super) beginnings: Mutex<HashMap<(Sort, bool), Beginning>>,
    asked: Mutex<HashMap<Filter, Asked>>,
    /// As well: who comes second for the same finds it made.
    picking: Mutex<()>,
}

/// The first of an order, and when that was begun.
type Beginning = (Instant, Arc<Vec<Cursor>>);

#[derive(Clone, Debug)]
struct Made {
    order: Arc<Order>,
    /// When that was begun, and how long it took.
    at: Instant,
    took: Duration,
    used: Instant,
}

/// What is known of a filter.
#[derive(Debug)]
struct Asked {
    picked: Arc<Picked>,
    /// When that was begun, and what [`super::Catalogue::changes`] was.
    at: Instant,
    changes: u64,
    used: Instant,
    /// Where they stand in an order, for as long as that is used.
    places: HashMap<Sort, (Weak<Order>, Arc<Vec<u32>>)>,
}

impl Asked {
    fn bytes(&self, filter: &Filter) -> usize {
        let ranges = size_of_val(filter.addresses.as_deref().unwrap_or_default());
        let places = self.places.values();
        let places = places.map(|(_, places)| size_of_val(places.as_slice()));
        ranges + self.picked.bytes() + places.sum::<usize>()
    }
}

/// Few enough to be put in order for each question.
pub(super) const FEW: usize = 20_000;
/// An order that is older is not used any more.
const OLDEST: Duration = Duration::from_secs(5);
/// One that is older than this, and than this many times what making it takes, is made anew; what a
/// filter picks when it is older than the first.
const RENEWED: (Duration, u32) = (Duration::from_secs(1), 10);
/// One that was not asked for is forgotten.
const UNUSED: Duration = Duration::from_secs(60);
/// Filters of which is known whom they pick, and how much memory that may take: whoever makes up a
/// filter for each question gets no more. The last stays even if it is larger.
const FILTERS: (usize, usize) = (64, 16 << 20);

impl Orders {
    /// Forgets those that nobody has asked for in a while.
    pub(in super::super) fn forget_unused(&self) {
        self.made
            .lock()
            .retain(|_, made| made.used.elapsed() < UNUSED);
        self.asked
            .lock()
            .retain(|_, asked| asked.used.elapsed() < UNUSED);
    }

    /// The file was opened again: rows mean other clients.
    pub(in super::super) fn forget(&self) {
        self.made.lock().clear();
        self.asked.lock().clear();
        self.beginnings.lock().clear();
    }

    fn keep(&self, filter: &Filter, picked: &Arc<Picked>, at: Instant, changes: u64) {
        let mut all = self.asked.lock();
        let places = all.remove(filter).map(|asked| asked.places);
        let asked = Asked {
            picked: Arc::clone(picked),
            at,
            changes,
            used: Instant::now(),
            places: places.unwrap_or_default(),
        };
        all.insert(filter.clone(), asked);
        limit(&mut all);
    }

    fn places(&self, filter: &Filter, sort: Sort, order: &Arc<Order>) -> Option<Arc<Vec<u32>>> {
        let mut all = self.asked.lock();
        let asked = all.get_mut(filter)?;
        asked.used = Instant::now();
        let (of, places) = asked.places.get(&sort)?;
        (of.as_ptr() == Arc::as_ptr(order)).then(|| Arc::clone(places))
    }

    fn keep_places(&self, filter: &Filter, sort: Sort, order: &Arc<Order>, places: &Arc<Vec<u32>>) {
        let mut all = self.asked.lock();
        // Forgotten meanwhile, where it is not there.
        if let Some(asked) = all.get_mut(filter) {
            asked.used = Instant::now();
            let places = (Arc::downgrade(order), Arc::clone(places));
            asked.places.insert(sort, places);
            limit(&mut all);
        }
    }
}

/// Forgets those that were not asked for for longest.
fn limit(all: &mut HashMap<Filter, Asked>) {
    let (most, most_bytes) = FILTERS;
    let mut bytes: usize = all.iter().map(|(filter, it)| it.bytes(filter)).sum();
    while all.len() > 1 && (all.len() > most || bytes > most_bytes) {
        let Some((filter, asked)) = all.iter().min_by_key(|(_, asked)| asked.used) else {
            return;
        };
        bytes -= asked.bytes(filter);
        let filter = filter.clone();
        all.remove(&filter);
    }
}

/// All clients in an order, or those of them that are picked.
pub(super) struct List {
    order: Arc<Order>,
    /// The places of those in the order, where not all are.
    places: Option<Arc<Vec<u32>>>,
}

impl List {
    pub(super) fn len(&self) -> usize {
        let places = self.places.as_ref();
        places.map_or(self.order.len(), |places| places.len())
    }

    /// As [`Order::at`].
    pub(super) fn at(&self, position: usize, descending: bool) -> Option<(u64, Row)> {
        let Some(places) = &self.places else {
            return self.order.at(position, descending);
        };
        let known = self.before(self.order.known());
        let place = if descending && position < known {
            known - 1 - position
        } else {
            position
        };
        self.order.at(*places.get(place)? as usize, false)
    }

    /// As [`Order::after`].
    pub(super) fn after(&self, value: u64, row: Row, descending: bool) -> usize {
        let position = self.order.after(value, row, descending);
        if self.places.is_none() {
            position
        } else if descending && value != u64::MAX {
            let known = self.order.known();
            self.before(known) - self.before(known - position)
        } else {
            self.before(position)
        }
    }

    /// How many are picked of those before a place.
    fn before(&self, place: usize) -> usize {
        let places = self.places.as_ref();
        places.map_or(place, |places| {
            places.partition_point(|it| (*it as usize) < place)
        })
    }
}

impl Shared {
    /// Looks at the catalogue until there is no more.
    pub(super) fn in_slices(&self, mut look: impl FnMut(&Catalogue) -> bool) {
        loop {
            let catalogue = self.catalogue.read();
            if !look(&catalogue) {
                return;
            }
            // To a writer who waits: whoever takes it again at once is quicker, time after time.
            RwLockReadGuard::unlock_fair(catalogue);
        }
    }

    /// All that a list of so many needs, whichever part of it is asked for.
    pub(super) fn list(self: &Arc<Self>, query: &ClientQuery) -> List {
        let order = self.order(query.sort);
        let is_all = query.filter.is_all();
        let places = (!is_all).then(|| self.places(&query.filter, query.sort, &order));
        List { order, places }
    }

    fn order(self: &Arc<Self>, sort: Sort) -> Arc<Order> {
        self.ready_order(sort)
            .unwrap_or_else(|| self.make_order(sort))
    }

    /// Whether an order can be used without waiting until it is made. It is being made otherwise.
    pub(super) fn is_ready(self: &Arc<Self>, sort: Sort) -> bool {
        let is_ready = self.ready_order(sort).is_some();
        if !is_ready {
            self.renew(sort);
        }
        is_ready
    }

    /// An order that is new enough, if there is one. Where it is not quite new another is made for
    /// those who come after.
    fn ready_order(self: &Arc<Self>, sort: Sort) -> Option<Arc<Order>> {
        let now = Instant::now();
        let (changes, clients) = {
            let catalogue = self.catalogue.read();
            (catalogue.changes(), catalogue.len())
        };
        let (order, is_due) = {
            let mut made = self.orders.made.lock();
            let made = made.get_mut(&sort)?;
            made.used = now;
            let age = now.duration_since(made.at);
            let is_current = made.order.changes == changes;
            if !is_current && (clients <= FEW || age >= OLDEST) {
                return None;
            }
            let is_due = !is_current && age > RENEWED.0.max(made.took * RENEWED.1);
            (Arc::clone(&made.order), is_due)
        };
        if is_due {
            self.renew(sort);
        }
        Some(order)
    }

    /// Makes an order on a thread of its own, unless that is being done.
    fn renew(self: &Arc<Self>, sort: Sort) {
        if !self.orders.renewing.lock().insert(sort) {
            return;
        }
        let shared = Arc::clone(self);
        let renewing = thread::Builder::new()
            .name("orders".to_owned())
            .spawn(move || {
                scheduling::let_others_go_first();
                drop(shared.make_order(sort));
                shared.orders.renewing.lock().remove(&sort);
            });
        if renewing.is_err() {
            self.orders.renewing.lock().remove(&sort);
        }
    }

    fn make_order(&self, sort: Sort) -> Arc<Order> {
        let asked = Instant::now();
        let _one = self.orders.making.lock();
        let changes = self.catalogue.read().changes();
        if let Some(made) = self.orders.made.lock().get(&sort) {
            // Somebody else was quicker. What has changed since it was begun does not matter to
            // those who had asked before: else each of them would make another, in turn.
            if made.order.changes == changes || made.at >= asked {
                return Arc::clone(&made.order);
            }
        }
        let at = Instant::now();
        let clients = self.catalogue.read().len();
        let mut unordered = Unordered::new(sort, clients);
        self.in_slices(|catalogue| catalogue.gather(&mut unordered));
        let order = Arc::new(unordered.sort());
        let made = Made {
            order: Arc::clone(&order),
            at,
            took: at.elapsed(),
            used: Instant::now(),
        };
        self.orders.made.lock().insert(sort, made);
        order
    }

    /// Whom a filter picks, as it was a second ago at most; as it is now where there are few
    /// clients.
    pub(super) fn picked(&self, filter: &Filter) -> Arc<Picked> {
        let begin = Instant::now();
        if let Some(known) = self.known(filter, begin) {
            return known;
        }
        let _one = self.orders.picking.lock();
        if let Some(known) = self.known(filter, begin) {
            return known;
        }
        let at = Instant::now();
        let changes = self.catalogue.read().changes();
        let mut picked = Picked::default();
        self.in_slices(|catalogue| catalogue.pick(filter, &mut picked));
        let picked = Arc::new(picked);
        self.orders.keep(filter, &picked, at, changes);
        picked
    }

    fn known(&self, filter: &Filter, begin: Instant) -> Option<Arc<Picked>> {
        let (changes, clients) = {
            let catalogue = self.catalogue.read();
            (catalogue.changes(), catalogue.len())
        };
        let mut all = self.orders.asked.lock();
        let asked = all.get_mut(filter)?;
        let is_new = asked.changes == changes
            || asked.at >= begin
            || clients > FEW && asked.at.elapsed() < RENEWED.0;
        is_new.then(|| {
            asked.used = begin;
            Arc::clone(&asked.picked)
        })
    }

    /// Where those who are picked stand in an order.
    fn places(&self, filter: &Filter, sort: Sort, order: &Arc<Order>) -> Arc<Vec<u32>> {
        if let Some(known) = self.orders.places(filter, sort, order) {
            return known;
        }
        let picked = self.picked(filter);
        let _one = self.orders.picking.lock();
        if let Some(known) = self.orders.places(filter, sort, order) {
            return known;
        }
        let mut places = Vec::with_capacity(picked.len());
        let mut found = [0; 1024];
        for (chunk, rows) in order.rows().chunks(found.len()).enumerate() {
            // Which of them are picked nobody can guess: a branch would take longer.
            let mut count = 0;
            for (place, placed) in rows.iter().enumerate() {
                found[count] = (chunk * found.len() + place) as u32;
                count += usize::from(picked.has(placed.row));
            }
            places.extend_from_slice(&found[..count]);
        }
        let places = Arc::new(places);
        self.orders.keep_places(filter, sort, order, &places);
        places
    }

    /// The rows of those who are picked, if they are few enough to be found by their addresses in
    /// one look.
    pub(super) fn few(&self, filter: &Filter) -> Option<Vec<Row>> {
        filter.addresses.as_ref()?;
        let (found, next) = self
            .catalogue
            .read()
            .after_key(None, false, filter, usize::MAX);
        next.is_none()
            .then(|| found.into_iter().map(|(_, row)| row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_are_made_up_for_each_question_take_no_more_memory_than_they_may() {
        let orders = Orders::default();
        let filter = |since: usize| Filter {
            since: Some(since as i64),
            ..Filter::default()
        };
        let order = Arc::new(Order::default());
        let ask = |since: usize, places: usize| {
            let filter = filter(since);
            orders.keep(&filter, &Arc::default(), Instant::now(), 1);
            orders.keep_places(&filter, Sort::LastSeen, &order, &Arc::new(vec![0; places]));
        };
        let places = |since: usize| orders.places(&filter(since), Sort::LastSeen, &order);
        for since in 0..1000 {
            ask(since, 10);
            // This one is asked for all the time.
            assert_eq!(places(0).unwrap().len(), 10);
        }
        assert_eq!(orders.asked.lock().len(), FILTERS.0);
        assert!(places(998).is_some() && places(999).is_some() && places(1).is_none());
        for since in 0..10 {
            ask(since, FILTERS.1 / 3 / size_of::<u32>());
        }
        assert_eq!(orders.asked.lock().len(), 3);
        assert!(places(7).is_some() && places(9).is_some() && places(6).is_none());
        // Too large for any, but asked for.
        ask(10, FILTERS.1);
        assert_eq!(orders.asked.lock().len(), 1);
        assert_eq!(places(10).unwrap().len(), FILTERS.1);
        // Of another order.
        assert!(orders.places(&filter(10), Sort::Total, &order).is_none());
        let other = Arc::new(Order::default());
        let found = orders.places(&filter(10), Sort::LastSeen, &other);
        assert!(found.is_none());
        orders.forget();
        assert!(places(10).is_none());
    }
}
