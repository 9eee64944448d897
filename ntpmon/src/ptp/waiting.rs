//! What waits for its counterpart: requests for their response, two-step messages for their
//! Follow_Up, in either order of arrival. Bounded in number and in time.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::Statistics;

/// Things that wait in each table at most.
const BOUND: usize = 4096;
/// And where so much waits in all of them that there is no room for more.
const CROWDED: usize = 64;

/// So many may wait in each table.
pub(super) const fn bound(is_crowded: bool) -> usize {
    if is_crowded { CROWDED } else { BOUND }
}

/// A table of what waits, by key.
#[derive(Clone, Debug)]
pub(super) struct Waiting<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// In the order of arrival, those that have gone since among them.
    order: VecDeque<(K, u64)>,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    since: u64,
    arrival: u64,
    value: V,
}

impl<K, V> Default for Waiting<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            arrivals: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Waiting<K, V> {
    /// Puts something in; what had the key before is returned. `early` gets what has to go for it
    /// before its time.
    pub(super) fn put(
        &mut self,
        now: u64,
        key: K,
        value: V,
        bound: usize,
        mut early: impl FnMut(V),
    ) -> Option<V> {
        self.arrivals += 1;
        let arrival = self.arrivals;
        let entry = Entry {
            since: now,
            arrival,
            value,
        };
        let before = self.entries.insert(key, entry);
        self.order.push_back((key, arrival));
        // Two at most: a table that was larger before all were crowded becomes smaller by that.
        for _ in 0..2 {
            if self.order.len() > bound
                && let Some(value) = self.pop()
            {
                early(value);
            }
        }
        before.map(|entry| entry.value)
    }

    /// How many places are taken.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn take(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|entry| entry.value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Lets go of what has waited for `lifetime`.
    pub(super) fn expire(&mut self, now: u64, lifetime: u64, mut over: impl FnMut(V)) {
        while let Some((key, arrival)) = self.order.front() {
            let waits = self
                .entries
                .get(key)
                .filter(|entry| entry.arrival == *arrival);
            if waits.is_some_and(|entry| now.saturating_sub(entry.since) < lifetime) {
                break;
            }
            if let Some(value) = self.pop() {
                over(value);
            }
        }
        if self.order.is_empty() && self.order.capacity() > CROWDED {
            // A flood is over: nothing of it is held on to.
            (self.entries, self.order) = (HashMap::new(), VecDeque::new());
        }
    }

    /// Takes the oldest out of the order, and what still waits of it.
    fn pop(&mut self) -> Option<V> {
        let (key, arrival) = self.order.pop_front()?;
        let waits = self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.arrival == arrival);
        waits.then(|| self.take(&key)).flatten()
    }
}

/// Requests for a delay and their responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Requests, each once.
    pub requests: u64,
    /// Of these, those with a response.
    pub answered: u64,
    /// Those whose time is over.
    pub unanswered: u64,
    /// Responses to no request that was seen.
    pub unsolicited: u64,
    /// Further responses to a request.
    pub multiple_responses: u64,
    /// Of the unanswered and unsolicited, those given up early because too many waited.
    pub evicted: u64,
    /// From a request to its response, in nanoseconds.
    pub turnaround: Statistics,
}

/// Pairs requests with responses, by who asked and the number of the request.
#[derive(Clone, Debug)]
pub(super) struct Pairing<K, R> {
    requests: Waiting<K, Request>,
    /// Those that came before their request.
    responses: Waiting<K, Response<R>>,
    pub(super) delays: Delays,
}

impl<K, R> Default for Pairing<K, R> {
    fn default() -> Self {
        Self {
            requests: Waiting::default(),
            responses: Waiting::default(),
            delays: Delays::default(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Request {
    time: u64,
    answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Response<R> {
    time: u64,
    responder: R,
}

/// A request that was answered: by whom, and after how many nanoseconds.
pub(super) type Answered<R> = Option<(R, i64)>;

impl<K: Copy + Eq + Hash, R: Copy> Pairing<K, R> {
    /// What waits, requests and responses.
    pub(super) fn len(&self) -> usize {
        self.requests.len() + self.responses.len()
    }

    /// The same without what waits.
    pub(super) fn shown(&self) -> Self {
        Self {
            delays: self.delays,
            ..Self::default()
        }
    }

    pub(super) fn request(&mut self, now: u64, key: K, bound: usize) -> Answered<R> {
        let delays = &mut self.delays;
        delays.requests += 1;
        let early = self.responses.take(&key);
        let request = Request {
            time: now,
            answered: early.is_some(),
        };
        let mut gone = |request: Request| {
            if !request.answered {
                delays.unanswered += 1;
                delays.evicted += 1;
            }
        };
        let before = self.requests.put(now, key, request, bound, &mut gone);
        if before.is_some_and(|before| !before.answered) {
            // Numbers come round; nobody will answer the old one.
            self.delays.unanswered += 1;
        }
        early.map(|early| self.answer(now, early.time, early.responder))
    }

    pub(super) fn response(&mut self, now: u64, key: K, responder: R, bound: usize) -> Answered<R> {
        match self.requests.get_mut(&key) {
            Some(request) if request.answered => {
                self.delays.multiple_responses += 1;
                None
            }
            Some(request) => {
                request.answered = true;
                let asked = request.time;
                Some(self.answer(asked, now, responder))
            }
            None => {
                let delays = &mut self.delays;
                let response = Response {
                    time: now,
                    responder,
                };
                let before = self.responses.put(now, key, response, bound, |_| {
                    delays.unsolicited += 1;
                    delays.evicted += 1;
                });
                if before.is_some() {
                    self.delays.unsolicited += 1;
                }
                None
            }
        }
    }

    fn answer(&mut self, asked: u64, answered: u64, responder: R) -> (R, i64) {
        // Which of them a capture has first says little: they passed at the times they have.
        let turnaround = answered.wrapping_sub(asked).cast_signed();
        self.delays.answered += 1;
        self.delays.turnaround.add(turnaround);
        (responder, turnaround)
    }

    pub(super) fn expire(&mut self, now: u64, lifetime: u64) {
        let delays = &mut self.delays;
        self.requests.expire(now, lifetime, |request| {
            if !request.answered {
                delays.unanswered += 1;
            }
        });
        self.responses
            .expire(now, lifetime, |_| delays.unsolicited += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_pair_in_either_order_and_the_rest_is_counted() {
        let mut pairing: Pairing<u16, char> = Pairing::default();
        assert_eq!(pairing.request(1000, 1, BOUND), None);
        assert_eq!(pairing.response(1400, 1, 'a', BOUND), Some(('a', 400)));
        assert_eq!(pairing.response(1500, 1, 'b', BOUND), None);
        assert_eq!(pairing.response(2000, 2, 'a', BOUND), None);
        assert_eq!(pairing.request(1990, 2, BOUND), Some(('a', 10)));
        assert_eq!(pairing.request(3000, 3, BOUND), None);
        assert_eq!(pairing.response(3000, 4, 'a', BOUND), None);
        pairing.expire(3999, 1000);
        assert_eq!(pairing.delays.unanswered, 0);
        pairing.expire(4000, 1000);
        let delays = pairing.delays;
        assert_eq!((delays.requests, delays.answered), (3, 2));
        assert_eq!((delays.unanswered, delays.unsolicited), (1, 1));
        assert_eq!((delays.multiple_responses, delays.evicted), (1, 0));
        assert_eq!(delays.turnaround.maximum, 400);
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes_and_is_counted() {
        let mut pairing: Pairing<usize, char> = Pairing::default();
        for number in 0..BOUND + 10 {
            pairing.request(number as u64, number, BOUND);
        }
        assert_eq!(
            (pairing.delays.unanswered, pairing.delays.evicted),
            (10, 10)
        );
        assert_eq!(pairing.requests.entries.len(), BOUND);
        // Nobody waits for these, however many they were.
        for number in 10..BOUND + 10 {
            assert!(
                pairing.response(9999, number, 'a', BOUND).is_some(),
                "{number}"
            );
        }
        pairing.expire(u64::MAX, 1);
        assert!(pairing.requests.order.is_empty() && pairing.requests.entries.is_empty());
        assert_eq!(pairing.delays.unanswered, 10);
    }

    #[test]
    fn a_number_that_comes_round_gives_up_the_old_request() {
        let mut pairing: Pairing<u16, char> = Pairing::default();
        pairing.request(0, 7, BOUND);
        pairing.request(500, 7, BOUND);
        assert_eq!(pairing.response(600, 7, 'a', BOUND), Some(('a', 100)));
        pairing.expire(10_000, 1000);
        assert_eq!((pairing.delays.answered, pairing.delays.unanswered), (1, 1));
    }
}
