//! All domains of one interface. Pure: messages and times go in, changes come out. Identities are
//! anybody's to make up, so everything here has a bound.

use std::collections::BTreeMap;

use ntpmon_common::PtpType;

use super::{Domain, DomainKey, Message, Told};

/// Domains of an interface at most.
const DOMAINS: usize = 64;
/// Masters of all of them together at most.
const MASTERS: usize = 1024;
/// Who was silent for so long leaves room for others, in nanoseconds.
const FORGET: u64 = 3_600_000_000_000;
/// How often that is looked for.
const LOOK: u64 = 60_000_000_000;

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

    /// The latest time that was seen, as messages' times are.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Puts a domain back that was known before a restart; not one that is known now.
    pub(super) fn restore(&mut self, key: DomainKey, domain: Domain) {
        let fits = self.domains.len() < DOMAINS && self.masters + domain.masters.len() <= MASTERS;
        if fits && !self.domains.contains_key(&key) {
            self.masters += domain.masters.len();
            self.domains.insert(key, domain);
        }
    }

    /// Takes a message in. What changed by it, or by the time that has passed, is delivered.
    pub fn observe(&mut self, message: &Message, deliver: &mut impl FnMut(&Told)) {
        let Some(kind) = message.message().kind() else {
            return;
        };
        self.messages += 1;
        self.now = self.now.max(message.event.time);
        let key = message.domain();
        if !self.domains.contains_key(&key) {
            if self.domains.len() >= DOMAINS {
                self.unlisted += 1;
                return;
            }
            self.domains.insert(key, Domain::new(message.unix));
        }
        let Some(domain) = self.domains.get_mut(&key) else {
            return;
        };
        let room = self.masters < MASTERS;
        // An announcement is judged by those that are still heard at its time.
        if kind == PtpType::Announce {
            let timeout = self.settings.timeout;
            domain.advance(key, message.event.time, message.unix, timeout, deliver);
        }
        if domain.observe(key, message, kind, room, deliver) {
            self.masters += 1;
        }
    }

    /// Time has passed: `now` as messages' times are, `unix` in nanoseconds since 1970.
    pub fn advance(&mut self, now: u64, unix: i64, deliver: &mut impl FnMut(&Told)) {
        self.now = self.now.max(now);
        let timeout = self.settings.timeout;
        for (key, domain) in &mut self.domains {
            domain.advance(*key, now, unix, timeout, deliver);
        }
        if self.now.saturating_sub(self.looked) >= LOOK {
            self.looked = self.now;
            self.forget(unix);
        }
    }

    /// Nothing more comes: what waits is over. Nobody becomes or ceases to be master by that.
    pub fn conclude(&mut self) {
        for domain in self.domains.values_mut() {
            domain.conclude();
        }
    }

    /// Makes room, where there is little, by forgetting those that were silent for long.
    fn forget(&mut self, unix: i64) {
        let is_old = |last_seen: i64| {
            last_seen != Message::NO_TIME && unix.saturating_sub(last_seen) > FORGET as i64
        };
        if self.masters > MASTERS / 2 {
            for domain in self.domains.values_mut() {
                let master = domain.master;
                domain
                    .masters
                    .retain(|identity, it| master == Some(*identity) || !is_old(it.last_seen));
            }
        }
        if self.domains.len() > DOMAINS / 2 {
            self.domains.retain(|_, domain| !is_old(domain.last_seen));
        }
        self.masters = self.domains.values().map(|it| it.masters.len()).sum();
    }
}

#[cfg(test)]
mod tests;
