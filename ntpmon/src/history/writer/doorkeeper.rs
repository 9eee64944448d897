//! Who asked before, when there is no room for a record of everybody: forged sources never come
//! twice.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::history::key::Key;

/// Remembers, roughly and in little room, who was seen: two generations of bits. At worst three
/// in a hundred strangers are taken for known.
pub(super) struct Doorkeeper {
    /// For how many it was made.
    pub(super) clients: usize,
    current: Vec<u64>,
    previous: Vec<u64>,
    /// Bits that were set in the current generation.
    count: usize,
    hasher: RandomState,
}

impl Doorkeeper {
    /// For about so many in each generation.
    pub(super) fn new(clients: usize) -> Self {
        let words = (clients.max(1024) * 16 / 64).next_power_of_two();
        Self {
            clients,
            current: vec![0; words],
            previous: vec![0; words],
            count: 0,
            hasher: RandomState::default(),
        }
    }

    fn places(&self, key: &Key) -> [usize; 2] {
        let hash = self.hasher.hash_one(key);
        let bits = self.current.len() * 64;
        [hash as usize % bits, (hash >> 32) as usize % bits]
    }

    /// Whether it was seen before.
    pub(super) fn has_seen(&self, key: &Key) -> bool {
        let places = self.places(key);
        let is_set = |words: &[u64]| {
            places
                .iter()
                .all(|place| words[place / 64] >> (place % 64) & 1 == 1)
        };
        is_set(&self.current) || is_set(&self.previous)
    }

    /// From now on it was seen.
    pub(super) fn note(&mut self, key: &Key) {
        for place in self.places(key) {
            self.current[place / 64] |= 1 << (place % 64);
        }
        self.count += 1;
        if self.count > self.current.len() * 64 / 16 {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.fill(0);
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::made::address;

    #[test]
    fn the_doorkeeper_knows_who_was_there_and_takes_few_strangers_for_them() {
        for clients in [1000_u32, 10_000, 100_000] {
            let mut doorkeeper = Doorkeeper::new(clients as usize);
            let key = |number: u32| Key::new(address(number), 0);
            // Far more than it is made for, as in a flood: the worst is just before it forgets.
            let mut worst = 0.0_f64;
            for number in 0..4 * clients {
                doorkeeper.note(&key(number));
                assert!(doorkeeper.has_seen(&key(number)));
                if number % (clients / 10) == 0 {
                    // The last ones are remembered.
                    let last = number.saturating_sub(clients / 2)..number;
                    assert!(last.step_by(97).all(|it| doorkeeper.has_seen(&key(it))));
                    let strangers = 1 << 30..(1 << 30) + 5000;
                    let taken = strangers
                        .filter(|it| doorkeeper.has_seen(&key(*it)))
                        .count();
                    worst = worst.max(taken as f64 / 5000.0);
                }
            }
            println!("of {clients}: {worst}");
            assert!(worst < 0.05 && worst > 0.0, "{worst}");
        }
    }
}
