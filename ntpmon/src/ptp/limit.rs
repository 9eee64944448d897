//! How often a domain's changes of one kind are told: anybody can announce something else with every
//! message, and each change told is a line in the log and a write to the history.

use super::Told;

/// So many a minute.
const A_MINUTE: u32 = 5;
/// In nanoseconds.
const MINUTE: u64 = 60_000_000_000;

/// Of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Limit {
    /// When the minute began, and how many were told in it.
    began: u64,
    told: u32,
    /// The last one that was not.
    held: Option<Told>,
}

impl Limit {
    /// Gives it back where it is to be told now.
    pub(super) fn pass(&mut self, now: u64, mut told: Told) -> Option<Told> {
        if self.told == 0 || now.saturating_sub(self.began) >= MINUTE {
            (self.began, self.told) = (now, 0);
        }
        if self.told < A_MINUTE {
            self.told += 1;
            return Some(told);
        }
        if let Some(held) = &self.held {
            told.more = held.more + 1;
        }
        self.held = Some(told);
        None
    }

    /// What was held back, once the minute is over: the last one, and how many there were besides.
    pub(super) fn release(&mut self, now: u64) -> Option<Told> {
        if now.saturating_sub(self.began) < MINUTE {
            return None;
        }
        let held = self.held.take()?;
        (self.began, self.told) = (now, 1);
        Some(held)
    }
}
