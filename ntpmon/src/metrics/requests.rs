//! What the API was asked, by route, method and class of status, and how long that took. Routes are
//! templates, so there are as many as the code has; what matches none is one more.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::model::Buckets;

/// Bounds of the durations, in seconds.
pub const BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// In place of a template where there is none.
pub const UNMATCHED: &str = "unmatched";

/// Routes with a method of their own, at most: more than the API has.
const ROUTES: usize = 1024;

/// What was asked since the daemon started. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<Route, Answered>>>);

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The template of its path.
    pub path: String,
    /// The method; what no route has is `other`.
    pub method: &'static str,
}

/// How requests of one kind were answered.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// By the first digit of the status, from 1xx on.
    pub classes: [u64; 5],
    /// How many took no longer than each bound but longer than the one before; the rest is last.
    durations: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Answered {
    /// How long they took, until the response began.
    #[must_use]
    pub fn durations(&self) -> Buckets {
        let mut passed = 0;
        let counts = self.durations.iter().map(|count| {
            passed += count;
            passed
        });
        Buckets {
            bounds: BOUNDS,
            counts: counts.collect(),
            sum: Some(self.sum.as_secs_f64()),
        }
    }
}

impl Requests {
    /// Counts one that was answered with a status.
    pub fn count(&self, path: &str, method: &str, status: u16, begun: Instant) {
        let took = begun.elapsed();
        let route = Route {
            path: path.to_owned(),
            method: known(method),
        };
        let mut all = self.0.lock();
        if all.len() >= ROUTES && !all.contains_key(&route) {
            return;
        }
        let answered = all.entry(route).or_default();
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        answered.classes[class] += 1;
        let seconds = took.as_secs_f64();
        answered.durations[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        answered.sum += took;
    }

    /// All that were counted.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Route, Answered> {
        self.0.lock().clone()
    }
}

fn known(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
        .into_iter()
        .find(|it| *it == method)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_class_and_their_number_is_bound() {
        let requests = Requests::default();
        let now = Instant::now();
        let before = now.checked_sub(Duration::from_millis(20)).unwrap();
        requests.count("/a/{name}", "GET", 200, before);
        requests.count("/a/{name}", "GET", 404, now);
        requests.count("/a/{name}", "BREW", 404, now);
        let all = requests.all();
        assert_eq!(all.len(), 2);
        let route = Route {
            path: "/a/{name}".to_owned(),
            method: "GET",
        };
        assert_eq!(all[&route].classes, [0, 1, 0, 1, 0]);
        let durations = all[&route].durations();
        assert_eq!((durations.count(), durations.counts[4]), (2, 1));
        assert!(durations.sum.unwrap() >= 0.02);
        for number in 0..2 * ROUTES {
            requests.count(&number.to_string(), "GET", 200, now);
        }
        assert_eq!(requests.all().len(), ROUTES);
    }
}
