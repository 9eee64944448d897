//! Who announces in a domain, in order: by when each is to be given up, and by how good a clock it
//! announces. An Announce costs a step in each, however many there are: identities are anybody's to
//! make up.

use std::collections::{BTreeMap, BTreeSet};

use ntpmon_common::{Announced, PortIdentity};

use super::{Announce, Master};

/// So many in a row make one that announces, rather than something that strayed here.
const IN_A_ROW: u64 = 2;

/// How one stands among others, the best first: those that announce to all before those that do
/// to single receivers.
pub(super) type Standing = (bool, Rank, PortIdentity);

/// The lower, the better the clock: as the standard's algorithm compares two grandmasters.
type Rank = (u8, u8, u8, u16, u8, [u8; 8], u16);

/// Those that announce, alternate masters left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcers {
    by_deadline: BTreeSet<(u64, PortIdentity)>,
    /// Of them, those that did so twice in a row.
    by_standing: BTreeSet<Standing>,
}

impl Announcers {
    /// One announces otherwise than before, or not any more.
    pub(super) fn change(
        &mut self,
        identity: PortIdentity,
        before: Option<&Announce>,
        after: Option<&Announce>,
    ) {
        if let Some(before) = before {
            if let Some(deadline) = before.deadline() {
                self.by_deadline.remove(&(deadline, identity));
            }
            self.by_standing.remove(&standing(identity, before));
        }
        if let Some(after) = after.filter(|it| !it.alternate)
            && let Some(deadline) = after.deadline()
        {
            self.by_deadline.insert((deadline, identity));
            if after.in_a_row >= IN_A_ROW {
                self.by_standing.insert(standing(identity, after));
            }
        }
    }

    /// Lets go of those that are silent for too long.
    pub(super) fn expire(&mut self, now: u64, masters: &BTreeMap<PortIdentity, Master>) {
        while let Some((deadline, identity)) = self.by_deadline.first().copied()
            && deadline < now
        {
            self.by_deadline.pop_first();
            if let Some(announce) = masters.get(&identity).and_then(|it| it.announce.as_ref()) {
                self.by_standing.remove(&standing(identity, announce));
            }
        }
    }

    /// The best of those that did so twice in a row.
    pub(super) fn best(&self) -> Option<Standing> {
        self.by_standing.first().copied()
    }

    /// Anyone, be it by a single word.
    pub(super) fn any(&self) -> Option<PortIdentity> {
        self.by_deadline.first().map(|(_, identity)| *identity)
    }

    /// Those that announce to all, the best first: those to one receiver each may be several.
    pub(super) fn to_all(&self) -> impl Iterator<Item = PortIdentity> {
        let to_all = self.by_standing.iter().take_while(|(unicast, ..)| !unicast);
        to_all.map(|(_, _, identity)| *identity)
    }
}

/// How one stands with what it announces.
pub(super) const fn standing(identity: PortIdentity, announce: &Announce) -> Standing {
    (announce.unicast, rank(&announce.announced), identity)
}

const fn rank(it: &Announced) -> Rank {
    (
        it.priority1,
        it.clock_class,
        it.clock_accuracy,
        it.variance,
        it.priority2,
        it.grandmaster.0,
        it.steps_removed,
    )
}
