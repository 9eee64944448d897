//! What is seen of PTP, shared between the rings' threads, which feed it, and those who ask: the one
//! place here with locks, one for each interface. It is held for as long as a batch of messages takes,
//! or a copy.
//!
//! Masters are remembered over a restart as one document: who was master before is what makes
//! another one news.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use ntpmon_common::{ClockIdentity, Direction, PortIdentity, PtpMessage, PtpType};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Domain, DomainKey, Master, Message, Told, Watcher, master::Announce};
use crate::{
    ntp::{clock, exchange::Exchange, pair::Totals},
    pipeline::Sink,
    ptp::Rate,
};

/// Messages that a ring gathers at most before they are taken in.
const BATCH: usize = 1024;
/// Interfaces at most that are remembered without being watched.
const UNWATCHED: usize = 64;
/// How often a ring without messages says that time passes, in nanoseconds.
const TICK: u64 = 250_000_000;

/// A handle on what is seen; clones share it.
#[derive(Clone)]
pub struct Seen(Arc<Shared>);

/// Told of each change, and of the interface that it was seen on.
type Tell = Box<dyn FnMut(&str, &Told) + Send>;

struct Shared {
    watchers: Mutex<BTreeMap<Arc<str>, Arc<Mutex<Heard>>>>,
    tell: Mutex<Tell>,
}

/// What is heard on an interface.
#[derive(Default)]
struct Heard {
    watcher: Watcher,
    /// The rings that are listened to, by number.
    rings: BTreeSet<u64>,
    /// The last number that was given.
    last_ring: u64,
    /// When the last ring was gone.
    left: u64,
}

impl fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl Seen {
    /// Nothing yet. `tell` is given each change and the interface that it was seen on, by the thread
    /// of a ring, which it must not keep waiting.
    pub fn new(tell: impl FnMut(&str, &Told) + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            watchers: Mutex::default(),
            tell: Mutex::new(Box::new(tell)),
        }))
    }

    /// What takes the messages of one ring of an interface.
    #[must_use]
    pub fn feed(&self, interface: &str) -> Feed {
        let heard = self.heard(interface);
        let ring = {
            let mut heard = heard.lock();
            heard.last_ring += 1;
            let ring = heard.last_ring;
            heard.rings.insert(ring);
            ring
        };
        Feed {
            seen: self.clone(),
            interface: interface.into(),
            heard,
            ring,
            batch: Vec::new(),
            last: 0,
        }
    }

    /// What is heard on an interface: nothing yet, where it is new.
    fn heard(&self, interface: &str) -> Arc<Mutex<Heard>> {
        let mut watchers = self.0.watchers.lock();
        if let Some(heard) = watchers.get(interface) {
            return Arc::clone(heard);
        }
        let unwatched = watchers.iter().filter_map(|(name, heard)| {
            let heard = heard.lock();
            (heard.rings.is_empty()).then(|| (heard.left, Arc::clone(name)))
        });
        let mut unwatched: Vec<_> = unwatched.collect();
        if unwatched.len() >= UNWATCHED {
            unwatched.sort_unstable();
            for (_, name) in &unwatched[..=unwatched.len() - UNWATCHED] {
                watchers.remove(name);
            }
        }
        let heard = Arc::default();
        watchers.insert(interface.into(), Arc::clone(&heard));
        heard
    }

    /// What is known of each interface on which something was heard, copied.
    #[must_use]
    pub fn watchers(&self) -> BTreeMap<Arc<str>, Watcher> {
        let all = self.0.watchers.lock().clone();
        all.into_iter()
            .map(|(interface, heard)| (interface, heard.lock().watcher.shown()))
            .filter(|(_, watcher)| watcher.messages() > 0 || !watcher.domains().is_empty())
            .collect()
    }

    /// Messages of domains for which there was no room, on all interfaces.
    #[must_use]
    pub fn unlisted_domains(&self) -> u64 {
        let all = self.0.watchers.lock().clone();
        let unlisted = all.values();
        unlisted
            .map(|it| it.lock().watcher.unlisted_domains())
            .sum()
    }

    /// What has to be kept over a restart.
    ///
    /// # Panics
    /// Never: text and numbers can be written.
    #[must_use]
    pub fn remember(&self) -> Vec<u8> {
        let watchers = self.watchers();
        let all = watchers.iter().flat_map(|(interface, watcher)| {
            let domains = watcher.domains().iter();
            domains.map(|(key, domain)| Remembered::of(interface, key, domain))
        });
        // One that nobody is master of is known again as soon as anything is said in it.
        let domains = all.filter(|it| !it.masters.is_empty()).collect();
        let document = Document {
            version: 1,
            domains,
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Takes up what was kept; what is not understood is told, and left.
    pub fn restore(&self, document: &[u8]) {
        let document: Document = match serde_json::from_slice(document) {
            Ok(document) => document,
            Err(error) => {
                tracing::error!("what was remembered of PTP masters cannot be read: {error}");
                return;
            }
        };
        if document.version != 1 {
            let version = document.version;
            tracing::error!("what was remembered of PTP masters is of version {version}, not 1");
            return;
        }
        let now = clock::monotonic();
        for remembered in document.domains {
            let heard = self.heard(&remembered.interface);
            let mut heard = heard.lock();
            heard.left = now;
            let key = remembered.domain;
            heard.watcher.restore(key, remembered.restored(now));
        }
    }
}

/// Takes the messages of one ring.
pub struct Feed {
    seen: Seen,
    interface: Arc<str>,
    heard: Arc<Mutex<Heard>>,
    ring: u64,
    batch: Vec<Message>,
    /// When it was taken in last.
    last: u64,
}

impl fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Feed")
            .field("interface", &self.interface)
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// The ring is empty.
    fn drained(&mut self, unix: i64) {
        let now = clock::monotonic();
        if self.batch.is_empty() && now.saturating_sub(self.last) < TICK {
            return;
        }
        self.last = now;
        self.take(Some((now, unix)));
    }

    /// Takes in what is gathered. `passed` is the time now, where no older message waits.
    fn take(&mut self, passed: Option<(u64, i64)>) {
        let mut changes = Vec::new();
        {
            let mut heard = self.heard.lock();
            let mut deliver = |told: &Told| changes.push(told.clone());
            for message in &self.batch {
                heard
                    .watcher
                    .observe_from(Some(self.ring), message, &mut deliver);
            }
            let last = self.batch.last().map(|it| (it.event.time, it.unix));
            if let Some((now, unix)) = passed.or(last) {
                heard
                    .watcher
                    .advance_from(self.ring, now, unix, &mut deliver);
            }
        }
        self.batch.clear();
        if !changes.is_empty() {
            let mut tell = self.seen.0.tell.lock();
            changes.iter().for_each(|told| tell(&self.interface, told));
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut heard = self.heard.lock();
        heard.rings.remove(&self.ring);
        let is_last = heard.rings.is_empty();
        heard.watcher.unheard(self.ring, is_last);
        if is_last {
            heard.left = clock::monotonic();
        }
    }
}

impl Sink for Feed {
    fn exchange(&mut self, _: &Exchange) {}

    fn ptp(&mut self, message: &Message) {
        self.batch.push(*message);
        if self.batch.len() >= BATCH {
            self.take(None);
        }
    }

    fn publish(&mut self, _: &Totals, unix: i64) {
        self.drained(unix);
    }
}

/// What is kept over a restart.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    domains: Vec<Remembered>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    interface: String,
    domain: DomainKey,
    seen: [i64; 2],
    master: Option<Port>,
    master_since: i64,
    master_changes: u64,
    masters: Vec<RememberedMaster>,
}

type Port = ([u8; 8], u16);

#[derive(Debug, Serialize, Deserialize)]
struct RememberedMaster {
    identity: Port,
    seen: [i64; 2],
    source: [u8; 16],
    direction: u8,
    version: [u8; 2],
    /// The message that it announced last, and the interval in nanoseconds.
    announce: Option<(Vec<u8>, u64)>,
    log_intervals: [Option<i8>; 3],
    messages: Vec<u64>,
}

const fn port(identity: PortIdentity) -> Port {
    (identity.clock.0, identity.port)
}

const fn identity((clock, port): Port) -> PortIdentity {
    PortIdentity {
        clock: ClockIdentity(clock),
        port,
    }
}

impl Remembered {
    fn of(interface: &str, key: &DomainKey, domain: &Domain) -> Self {
        Self {
            interface: interface.to_owned(),
            domain: *key,
            seen: [domain.first_seen, domain.last_seen],
            master: domain.master.map(port),
            master_since: domain.master_since,
            master_changes: domain.master_changes,
            masters: domain.masters.values().map(RememberedMaster::of).collect(),
        }
    }

    fn restored(self, now: u64) -> Domain {
        let transport = self.domain.transport;
        let masters = self.masters.into_iter().map(|it| Master {
            transport,
            heard: now,
            ..it.restored()
        });
        Domain::restored(
            masters,
            self.master.map(identity),
            self.seen,
            self.master_since,
            self.master_changes,
        )
    }
}

impl RememberedMaster {
    fn of(master: &Master) -> Self {
        Self {
            identity: port(master.identity),
            seen: [master.first_seen, master.last_seen],
            source: master.source,
            direction: master.direction as u8,
            version: master.version,
            announce: master
                .announce
                .map(|it| (it.message.0.to_vec(), it.interval)),
            log_intervals: master.log_intervals,
            messages: master.messages.iter().map(|rate| rate.count).collect(),
        }
    }

    fn restored(self) -> Master {
        let announce = self.announce.and_then(|(bytes, interval)| {
            let bytes: [u8; PtpMessage::LENGTH] = bytes.try_into().ok()?;
            Announce::restored(PtpMessage(bytes), interval)
        });
        let mut messages = [Rate::default(); PtpType::ALL.len()];
        for (rate, count) in messages.iter_mut().zip(self.messages) {
            *rate = Rate::restored(count);
        }
        let [first_seen, last_seen] = self.seen;
        Master {
            first_seen,
            last_seen,
            source: self.source,
            direction: Direction::from_byte(self.direction),
            version: self.version,
            announce,
            log_intervals: self.log_intervals,
            messages,
            ..Master::unseen(identity(self.identity))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptp::{
        Change,
        made::{BEGAN, SECOND, announce, message, port as made_port},
    };

    fn told() -> (Seen, Arc<Mutex<Vec<Told>>>) {
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let seen = Seen::new({
            let told = Arc::clone(&told);
            move |interface, change| {
                assert_eq!(interface, "eth0");
                told.lock().push(change.clone());
            }
        });
        (seen, told)
    }

    fn announced_until(feed: &mut Feed, number: u8, from: u64, to: u64) {
        for second in from..to {
            feed.ptp(&announce(made_port(number), 6, second * 1000));
            feed.take(None);
        }
    }

    #[test]
    fn masters_survive_a_restart_and_another_one_after_it_is_news() {
        let (before, nothing) = told();
        let mut feed = before.feed("eth0");
        announced_until(&mut feed, 1, 0, 10);
        feed.ptp(&message(PtpType::Sync, made_port(1), 1, 9500));
        feed.take(None);
        assert_eq!(*nothing.lock(), []);
        let document = before.remember();

        let (seen, told) = told();
        seen.restore(&document);
        assert_eq!(seen.remember(), document);
        {
            let watchers = seen.watchers();
            let domain = watchers["eth0"].domains().values().next().unwrap();
            let master = &domain.masters[&made_port(1)];
            assert_eq!(domain.master, Some(made_port(1)));
            assert_eq!(master.first_seen, BEGAN);
            assert_eq!(master.last_seen, BEGAN + 9_500_000_000);
            assert_eq!(master.announce.unwrap().announced.clock_class, 6);
            assert_eq!(master.messages[PtpType::Announce.index()].count, 10);
            let rate = master.messages[PtpType::Announce.index()];
            assert_eq!(rate.per_second(SECOND), None);
        }
        announced_until(&mut seen.feed("eth0"), 2, 3600, 3610);
        let changes: Vec<_> = told.lock().iter().map(|told| told.change.clone()).collect();
        let expected = Change::MasterChanged {
            before: Some(made_port(1)),
            after: Some(made_port(2)),
        };
        assert_eq!(changes, [expected]);
    }

    #[test]
    fn an_interface_that_is_not_watched_for_a_while_makes_no_news() {
        let (seen, told) = told();
        announced_until(&mut seen.feed("eth0"), 1, 0, 10);
        let mut feed = seen.feed("eth0");
        feed.take(Some((3600 * SECOND, BEGAN)));
        announced_until(&mut feed, 1, 3601, 3610);
        assert_eq!(*told.lock(), []);
    }

    #[test]
    fn one_ring_says_nothing_of_what_another_one_carries() {
        let (seen, told) = told();
        let (mut one, mut other) = (seen.feed("eth0"), seen.feed("eth0"));
        announced_until(&mut one, 1, 0, 10);
        other.take(Some((1000 * SECOND, BEGAN)));
        assert_eq!(*told.lock(), []);
        one.take(Some((1000 * SECOND, BEGAN)));
        assert_eq!(told.lock().len(), 1);
    }

    #[test]
    fn interfaces_that_nobody_watches_any_more_are_forgotten() {
        let (seen, _) = told();
        for number in 0..300 {
            drop(seen.feed(&format!("eth{number}")));
        }
        assert!(seen.0.watchers.lock().len() <= UNWATCHED);
        assert!(seen.0.watchers.lock().contains_key("eth299"));
    }

    #[test]
    fn a_document_that_is_none_is_left() {
        let (seen, _) = told();
        for document in [&b""[..], b"{}", b"{\"version\":2,\"domains\":[]}"] {
            seen.restore(document);
            assert!(seen.watchers().is_empty());
        }
    }
}
