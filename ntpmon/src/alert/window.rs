//! What a counter gained in the last minute: counters only grow, and a rule wants to know of what is
//! lost now, not of what was lost last week.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How far back it looks.
pub const LENGTH: Duration = Duration::from_secs(60);
/// Counters that are not asked for any more are forgotten beyond so many.
const MOST: usize = 4096;

/// Counters by name, with what they were.
#[derive(Debug, Default)]
pub struct Window(BTreeMap<String, VecDeque<(Instant, u64)>>);

impl Window {
    /// What a counter gained since a minute ago, or since it was seen first. Nothing the first time.
    pub fn gained(&mut self, name: &str, count: u64, now: Instant) -> Option<u64> {
        if !self.0.contains_key(name) && self.0.len() >= MOST {
            self.0.retain(|_, seen| {
                let last = seen.back();
                last.is_some_and(|(at, _)| now.duration_since(*at) < LENGTH)
            });
        }
        let seen = self.0.entry(name.to_owned()).or_default();
        // It began anew.
        if seen.back().is_some_and(|(_, before)| *before > count) {
            seen.clear();
        }
        let is_first = seen.is_empty();
        if seen
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= Duration::from_secs(1))
        {
            seen.push_back((now, count));
        }
        // The last that is old enough stays: it is where the minute begins.
        while seen
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= LENGTH)
        {
            seen.pop_front();
        }
        let first = seen.front().filter(|_| !is_first)?;
        Some(count.saturating_sub(first.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_what_it_gained_in_the_last_minute() {
        let mut window = Window::default();
        let begin = Instant::now();
        let mut at =
            |seconds, count| window.gained("a", count, begin + Duration::from_secs(seconds));
        assert_eq!(at(0, 1000), None);
        assert_eq!(at(1, 1000), Some(0));
        assert_eq!(at(30, 1005), Some(5));
        assert_eq!(at(60, 1006), Some(6));
        for second in 61..90 {
            assert_eq!(at(second, 1006), Some(6), "{second}");
        }
        assert_eq!(at(90, 1006), Some(1));
        assert_eq!(at(130, 1006), Some(0));
        // It begins anew, as when an interface is watched again.
        assert_eq!(at(131, 3), None);
        assert_eq!(at(132, 4), Some(1));
    }
}
