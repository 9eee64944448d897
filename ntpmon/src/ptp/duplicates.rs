//! Messages that pass twice: over both networks of a redundant one, in and out of the loopback, at a
//! switch's port that mirrors both directions. One that has the same bytes for the same receiver
//! within a millisecond is the same message.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;

use super::Message;

/// Between the two, in nanoseconds.
const APART: u64 = 1_000_000;
/// Messages that are remembered; a later one takes an earlier one's place by chance.
const PLACES: usize = 256;

/// What passed lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Duplicates {
    /// How many passed twice.
    pub(super) count: u64,
    state: RandomState,
    /// Hash and time.
    recent: Vec<(u64, u64)>,
}

impl Duplicates {
    /// Whether this one passed already.
    pub(super) fn is_one(&mut self, message: &Message) -> bool {
        // What is not kept of a carrier may be all that tells it from another.
        if message.message().carries_ntp() {
            return false;
        }
        let mut hasher = self.state.build_hasher();
        message.message().0.hash(&mut hasher);
        message.event.destination.hash(&mut hasher);
        message.event.vlan.hash(&mut hasher);
        let hash = hasher.finish();
        if self.recent.is_empty() {
            self.recent = vec![(0, 0); PLACES];
        }
        let place = &mut self.recent[hash as usize % PLACES];
        let (known, time) = *place;
        let now = message.event.time;
        if known == hash && now.abs_diff(time) <= APART {
            self.count += 1;
            return true;
        }
        *place = (hash, now);
        false
    }

    /// The count alone.
    pub(super) fn shown(&self) -> Self {
        Self {
            count: self.count,
            ..Self::default()
        }
    }
}
