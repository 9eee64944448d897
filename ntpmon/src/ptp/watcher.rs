//! All domains of one interface. Pure: messages and times go in, changes come out. Identities are
//! anybody's to make up, so everything here has a bound.

use std::collections::BTreeMap;

use ntpmon_common::PtpType;

use super::{Domain, DomainKey, Message, Told, duplicates::Duplicates};

/// Domains of an interface at most.
const DOMAINS: usize = 64;
/// Masters of all of them together at most.
const MASTERS: usize = 1024;
/// Who was silent for so long leaves room for others, in nanoseconds.
const FORGET: u64 = 3_600_000_000_000;
/// How often that is looked for.
const LOOK: u64 = 60_000_000_000;
/// So many masters go at once where there is no room: who has to go is looked for among all, which
/// must not happen for each message that somebody makes up.
const EVICTED: usize = 32;
/// When nobody could go, nobody is looked for again for so long.
const PAUSE: u64 = 1_000_000_000;
/// Messages that wait for their counterpart in all domains together, before tables stop growing.
const PENDING: usize = 16_384;

/// What is set once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a request waits for its response, and a Sync for its Follow_Up, in nanoseconds.
    pub timeout: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: 2_000_000_000,
        }
    }
}

/// What is known of PTP on one interface.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    settings: Settings,
    domains: BTreeMap<DomainKey, Domain>,
    /// Messages that were taken.
    messages: u64,
    /// Of them, those of domains that there is no room for.
    unlisted: u64,
    masters: usize,
    /// The latest time that was seen, and when it was last looked for those who are gone.
    now: u64,
    looked: u64,
    /// Until then there is nobody who could make room for one that does not announce.
    full_until: u64,
    /// What waits in all domains.
    pending: usize,
    duplicates: Duplicates,
}

impl Watcher {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Every domain.
    #[must_use]
    pub const fn domains(&self) -> &BTreeMap<DomainKey, Domain> {
        &self.domains
    }

    /// Messages that were taken.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages of which no more is known than their number: there was no room for their domain, or
    /// for their sender.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        let in_domains: u64 = self.domains.values().map(|domain| domain.unlisted).sum();
        self.unlisted + in_domains
    }

    /// Of them, those of domains for which there was no room.
    #[must_use]
    pub const fn unlisted_domains(&self) -> u64 {
        self.unlisted
    }

    /// The latest time that was seen, as messages' times are.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Messages that passed a second time, and were counted once.
    #[must_use]
    pub const fn duplicates(&self) -> u64 {
        self.duplicates.count
    }

    /// The same without what waits: for those who look.
    #[must_use]
    pub(super) fn shown(&self) -> Self {
        Self {
            settings: self.settings,
            domains: self
                .domains
                .iter()
                .map(|(key, domain)| (*key, domain.shown()))
                .collect(),
            duplicates: self.duplicates.shown(),
            ..*self
        }
    }

    /// Puts a domain back that was known before a restart; not one that is known now.
    pub(super) fn restore(&mut self, key: DomainKey, domain: Domain) {
        let fits = self.domains.len() < DOMAINS && self.masters + domain.masters.len() <= MASTERS;
        if fits && !self.domains.contains_key(&key) {
            self.masters += domain.masters.len();
            self.domains.insert(key, domain);
        }
    }

    /// Takes a message in, of a file. What changed by it, or by the time that has passed, is
    /// delivered.
    pub fn observe(&mut self, message: &Message, deliver: &mut impl FnMut(&Told)) {
        self.observe_from(None, message, deliver);
    }

    /// The same, of a ring.
    pub(super) fn observe_from(
        &mut self,
        ring: Option<u64>,
        message: &Message,
        deliver: &mut impl FnMut(&Told),
    ) {
        let Some(kind) = message.message().kind() else {
            return;
        };
        let time = message.event.time;
        self.messages += 1;
        self.now = self.now.max(time);
        if self.duplicates.is_one(message) {
            return;
        }
        let key = message.domain();
        if !self.domains.contains_key(&key) {
            if !self.make_room_for_domain(kind == PtpType::Announce) {
                self.unlisted += 1;
                return;
            }
            self.domains.insert(key, Domain::new(message.unix));
        }
        let is_master = matches!(
            kind,
            PtpType::Sync | PtpType::FollowUp | PtpType::DelayResponse | PtpType::Announce
        );
        let is_new = (self.domains.get(&key))
            .is_some_and(|it| !it.masters.contains_key(&message.message().source()));
        let room = !is_master || !is_new || self.make_room(kind == PtpType::Announce, time);
        let Some(domain) = self.domains.get_mut(&key) else {
            return;
        };
        if ring.is_some() && (kind == PtpType::Announce || domain.ring.is_none()) {
            domain.ring = ring;
        }
        let waited = domain.pending();
        domain.is_crowded = self.pending >= PENDING;
        // An announcement is judged by those that are still heard at its time.
        if kind == PtpType::Announce {
            let timeout = self.settings.timeout;
            domain.advance(key, time, message.unix, timeout, deliver);
        }
        if domain.observe(key, message, kind, room, deliver) {
            self.masters += 1;
        }
        self.pending = self.pending + domain.pending() - waited;
    }

    /// Time has passed: `now` as messages' times are, `unix` in nanoseconds since 1970.
    pub fn advance(&mut self, now: u64, unix: i64, deliver: &mut impl FnMut(&Told)) {
        self.advance_those(now, unix, |_| true, deliver);
    }

    /// Time has passed for a ring: in domains that another one carries, older messages may wait.
    pub(super) fn advance_from(
        &mut self,
        ring: u64,
        now: u64,
        unix: i64,
        deliver: &mut impl FnMut(&Told),
    ) {
        let is_carried = |domain: &Domain| domain.ring.is_none_or(|it| it == ring);
        self.advance_those(now, unix, is_carried, deliver);
    }

    fn advance_those(
        &mut self,
        now: u64,
        unix: i64,
        which: impl Fn(&Domain) -> bool,
        deliver: &mut impl FnMut(&Told),
    ) {
        self.now = self.now.max(now);
        let timeout = self.settings.timeout;
        for (key, domain) in self.domains.iter_mut().filter(|(_, it)| which(it)) {
            let waited = domain.pending();
            domain.advance(*key, now, unix, timeout, deliver);
            self.pending = self.pending + domain.pending() - waited;
        }
        if self.now.saturating_sub(self.looked) >= LOOK {
            self.looked = self.now;
            self.forget();
        }
    }

    /// A ring is gone; the last one, where `is_last`: nobody listens then until there is one again.
    pub(super) fn unheard(&mut self, ring: u64, is_last: bool) {
        for domain in self.domains.values_mut() {
            if domain.ring == Some(ring) {
                domain.ring = None;
            }
            if is_last {
                domain.unheard();
            }
        }
    }

    /// Makes room for a master more, if there is none; says whether there is. Those that announce give
    /// way to one that does as well only, the longest silent first, and who is master never does.
    fn make_room(&mut self, announces: bool, now: u64) -> bool {
        if self.masters < MASTERS {
            return true;
        }
        if !announces && now < self.full_until {
            return false;
        }
        let all = self.domains.iter().flat_map(|(key, domain)| {
            let others = domain.masters.values();
            others
                .filter(|it| domain.master != Some(it.identity))
                .map(|it| (it.worth(now), it.heard, *key, it.identity))
        });
        let mut all: Vec<_> = all.filter(|it| announces || it.0 == 0).collect();
        let Some(least) = all.iter().map(|it| it.0).min() else {
            self.full_until = now + PAUSE;
            return false;
        };
        all.retain(|it| it.0 == least);
        if all.len() > EVICTED {
            all.select_nth_unstable(EVICTED);
            all.truncate(EVICTED);
        }
        for (_, _, key, identity) in &all {
            if let Some(domain) = self.domains.get_mut(key) {
                domain.forget(*identity);
            }
        }
        self.masters -= all.len();
        true
    }

    /// Makes room for a domain more, likewise: the longest silent goes, one in which somebody is
    /// master only for an Announce.
    fn make_room_for_domain(&mut self, announces: bool) -> bool {
        if self.domains.len() < DOMAINS {
            return true;
        }
        let worth = |domain: &Domain| (domain.is_settled(self.now), domain.heard);
        let least = (self.domains.iter())
            .filter(|(_, domain)| announces || domain.master.is_none())
            .min_by_key(|(_, domain)| worth(domain));
        let Some(key) = least.map(|(key, _)| *key) else {
            return false;
        };
        if let Some(gone) = self.domains.remove(&key) {
            self.masters -= gone.masters.len();
            self.pending -= gone.pending();
        }
        true
    }

    /// Nothing more comes: what waits is over. Nobody becomes or ceases to be master by that.
    pub fn conclude(&mut self, deliver: &mut impl FnMut(&Told)) {
        for domain in self.domains.values_mut() {
            domain.conclude(deliver);
        }
        self.pending = 0;
    }

    /// Makes room, where there is little, by forgetting those that were silent for long.
    fn forget(&mut self) {
        let now = self.now;
        let is_old = |heard: u64| now.saturating_sub(heard) > FORGET;
        if self.masters > MASTERS / 2 {
            for domain in self.domains.values_mut() {
                let old = domain.masters.values().filter(|it| is_old(it.heard));
                let old: Vec<_> = old.map(|it| it.identity).collect();
                let master = domain.master;
                old.into_iter()
                    .filter(|it| master != Some(*it))
                    .for_each(|it| domain.forget(it));
            }
        }
        if self.domains.len() > DOMAINS / 2 {
            self.domains.retain(|_, domain| !is_old(domain.heard));
        }
        self.masters = self.domains.values().map(|it| it.masters.len()).sum();
        self.pending = self.domains.values().map(Domain::pending).sum();
    }
}

#[cfg(test)]
mod tests;
