//! What is remembered: every client, every server, what happened in each minute, and the last
//! sessions one by one.
//!
//! Each ring's thread folds its exchanges into a [`fold::Delta`]. One thread of its own, the
//! writer, takes all deltas whole, every flush interval, and puts them into the database in one
//! transaction, and then into what is kept in memory to answer questions from ([`catalogue`]). What
//! cannot be written waits in its delta, which merges and does not grow without bound.

pub mod abuse;
pub mod catalogue;
pub mod client;
pub mod export;
pub mod findings;
pub mod fold;
pub mod histogram;
pub mod key;
#[cfg(test)]
pub(crate) mod made;
pub mod measure;
pub mod query;
pub mod rollup;
pub mod search;
pub mod server;
pub mod servers;
pub mod session;
pub mod shelf;
pub mod store;
pub mod verify;
pub mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};

use self::{
    catalogue::Catalogue,
    fold::{Delta, Limits},
    key::{InterfaceId, Key},
    server::{ServerRecord, Strays},
    session::Keep,
    store::{Ledger, OpenError, Readable, Store},
    writer::{Request, Writer},
};
use crate::{
    health::{Evidence, Found, Kind, Servers},
    ntp::{
        Stamped,
        clock::{self, Slew, Step},
        exchange::Exchange,
        pair::{Outcome, Totals},
    },
    pipeline::Sink,
};

pub use self::{verify::Verified, writer::Removed};

/// How the history is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Between two flushes.
    pub flush_interval: Duration,
    /// Changed clients of one ring that force an earlier flush.
    pub batch_size: usize,
    /// How long what came of clients may stay in the runs before it is put into their blocks.
    pub checkpoint_interval: Duration,
    /// Clients by name.
    pub max_clients: usize,
    /// Servers by name.
    pub max_servers: usize,
    /// For pages of the file.
    pub cache_bytes: usize,
    /// Which exchanges are kept one by one.
    pub keep: Keep,
    /// How many of them in a second.
    pub sessions_per_second: usize,
    /// How long sessions are kept.
    pub sessions_age: Option<Duration>,
    /// How many bytes of them.
    pub sessions_bytes: u64,
    /// What is removed when it gets old.
    pub retention: Retention,
}

/// How long things are kept, counted back from the newest of their kind on their interface, so that
/// what was loaded from old captures stays. Nothing is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since a client was seen last.
    pub clients: Option<Duration>,
    /// Since a server was asked last.
    pub servers: Option<Duration>,
    /// Rollups of a minute.
    pub minutes: Option<Duration>,
    /// Rollups of an hour.
    pub hours: Option<Duration>,
    /// Rollups of a day.
    pub days: Option<Duration>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            batch_size: 200_000,
            checkpoint_interval: Duration::from_secs(300),
            max_clients: 1_000_000,
            max_servers: 16_384,
            cache_bytes: 16 << 20,
            keep: Keep::All,
            sessions_per_second: 10_000,
            sessions_age: Some(7 * DAY),
            sessions_bytes: 512 << 20,
            retention: Retention {
                clients: Some(365 * DAY),
                servers: Some(365 * DAY),
                minutes: Some(7 * DAY),
                hours: Some(90 * DAY),
                days: Some(1825 * DAY),
            },
        }
    }
}

impl Settings {
    fn limits(&self) -> Limits {
        let per_flush = self.sessions_per_second as f64 * self.flush_interval.as_secs_f64();
        Limits {
            // While one is being flushed the next fills.
            clients: self.batch_size * 2,
            full: self.batch_size,
            servers: self.max_servers,
            keep: self.keep,
            sessions: per_flush.ceil() as usize,
        }
    }
}

/// The name of the file in the data directory.
pub const FILE: &str = "history.redb";

/// The history, shared by all who feed it and ask it.
#[derive(Clone)]
pub struct History(Arc<Shared>);

/// What the writer, the feeds and those who ask have in common.
struct Shared {
    path: PathBuf,
    settings: RwLock<Settings>,
    limits: RwLock<Limits>,
    requests: Sender<Request>,
    writer: Mutex<Option<JoinHandle<()>>>,
    feeds: Mutex<Vec<Arc<Mutex<Delta>>>>,
    /// A ring has more than can wait for the flush interval.
    hurried: AtomicBool,
    /// What takes long is to leave off: there are seconds until the end.
    ending: AtomicBool,
    interfaces: RwLock<Vec<String>>,
    documents: Mutex<Documents>,
    shelves: shelf::Shelves,
    findings: findings::Findings,
    /// Feeds that there were so far.
    finders: AtomicUsize,
    /// The servers of each ring that is watched.
    watched: Mutex<Vec<(InterfaceId, Weak<Mutex<Servers>>)>>,
    abuse: Mutex<abuse::Table>,
    /// Nothing while the file cannot be used.
    readable: RwLock<Option<Readable>>,
    catalogue: RwLock<Catalogue>,
    servers: RwLock<BTreeMap<Key, ServerRecord>>,
    ledgers: RwLock<Vec<Ledger>>,
    statistics: Statistics,
    state: Mutex<State>,
    orders: query::Orders,
    measures: measure::Measures,
    found: query::figures::Found,
}

/// Small settings of other parts.
#[derive(Debug, Default)]
struct Documents {
    all: BTreeMap<String, Vec<u8>>,
    /// Those that are not written yet.
    changed: BTreeSet<String>,
}

/// What is counted since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// Exchanges. This and the next change under the lock of the feeds, so that whoever holds it
    /// finds each exchange in one place.
    written: AtomicU64,
    /// Exchanges that were taken from the feeds and are being written.
    in_flight: AtomicU64,
    failures: AtomicU64,
    inserted: AtomicU64,
    updated: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    sessions_kept: AtomicU64,
    sessions_left_out: AtomicU64,
    flushes: AtomicU64,
    checkpoints: AtomicU64,
    /// In the runs.
    journal_clients: AtomicU64,
    /// In nanoseconds, from when the deltas were taken to when they were written.
    last_flush: AtomicU64,
    longest_flush: AtomicU64,
    /// When the last one ended, in nanoseconds since 1970.
    last_flush_unix: AtomicU64,
    last_clients: AtomicU64,
    unnamed_servers: AtomicU64,
    /// Not followed any more, for others.
    servers_let_go: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// How the history is.
#[derive(Clone, Debug, Default)]
struct State {
    /// What fails, and since when.
    failure: Option<(String, Timestamp)>,
    /// Files that were put aside because they could not be read.
    set_aside: Vec<String>,
    /// The writer has ended.
    ended: bool,
}

impl fmt::Debug for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("History")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl History {
    /// Opens the database in a directory, or makes it, and starts the writer. A file that cannot be
    /// read is put aside, under another name, and a new one begun.
    ///
    /// # Errors
    /// When the file is another version's or cannot be got at.
    pub fn open(directory: &Path, settings: Settings) -> Result<Self> {
        let path = directory.join(FILE);
        let mut state = State::default();
        let opened = Memory::open(&path, settings.cache_bytes);
        let (store, memory) = Memory::or_anew(opened, &path, settings.cache_bytes, |aside| {
            state.set_aside.push(aside);
        })?;
        let (requests, receiver) = channel();
        let shared = Arc::new(Shared {
            path,
            limits: RwLock::new(settings.limits()),
            settings: RwLock::new(settings),
            requests,
            writer: Mutex::default(),
            feeds: Mutex::default(),
            hurried: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            interfaces: RwLock::default(),
            documents: Mutex::default(),
            shelves: shelf::Shelves::default(),
            findings: findings::Findings::default(),
            finders: AtomicUsize::new(0),
            watched: Mutex::default(),
            abuse: Mutex::default(),
            readable: RwLock::default(),
            catalogue: RwLock::default(),
            servers: RwLock::default(),
            ledgers: RwLock::default(),
            statistics: Statistics::default(),
            state: Mutex::new(state),
            orders: query::Orders::default(),
            measures: measure::Measures::default(),
            found: query::figures::Found::default(),
        });
        let numbers = shared.remember(&store, memory);
        let writer = Writer::new(Arc::clone(&shared), store, numbers);
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run(&receiver))
            .context("starting the thread that writes the history")?;
        *shared.writer.lock() = Some(thread);
        let history = Self(shared);
        history
            .resume_findings()
            .context("reading what was found")?;
        Ok(history)
    }

    /// Where a ring's exchanges of an interface go.
    #[must_use]
    pub fn feed(&self, interface: &str) -> Feed {
        let interface = self.0.number(interface);
        let delta = Arc::new(Mutex::new(Delta::new(interface)));
        self.0.feeds.lock().push(Arc::clone(&delta));
        let servers = Arc::new(Mutex::new(Servers::default()));
        let mut watched = self.0.watched.lock();
        watched.retain(|(_, servers)| servers.strong_count() > 0);
        watched.push((interface, Arc::downgrade(&servers)));
        drop(watched);
        Feed {
            interface,
            finder: self.0.finders.fetch_add(1, Ordering::Relaxed) + 1,
            servers,
            slew: Slew::now(),
            limits: *self.0.limits.read(),
            history: self.clone(),
            delta,
            before: Totals::default(),
            now: clock::utc(),
            abuse: abuse::Waiting::default(),
        }
    }

    /// Writes all that was fed until now.
    ///
    /// # Errors
    /// When it cannot be written; it is tried again with the next flush.
    pub fn flush(&self) -> Result<()> {
        self.ask(|reply| Request::Flush {
            reply,
            merge: false,
        })?
    }

    /// As [`Self::flush`], and puts what is in runs into the blocks.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint(&self) -> Result<()> {
        self.ask(|reply| Request::Flush { reply, merge: true })?
    }

    /// Gives unused room in the file back. Returns the sizes before and after.
    ///
    /// # Errors
    /// When it cannot be written, or is being read for too long.
    pub fn compact(&self) -> Result<(u64, u64)> {
        self.ask(Request::Compact)?
    }

    /// Removes what was seen last before a time, in nanoseconds since 1970; or only counts it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn clean_up(&self, before: i64, dry_run: bool) -> Result<Removed> {
        self.ask(|reply| Request::CleanUp {
            before,
            dry_run,
            reply,
        })?
    }

    /// Reads the whole file, and says what does not fit together: totals that are not the sums of
    /// their parts, broken chains of sessions, clients that are others in memory than in the file.
    /// Nothing is written while it reads: a second or two where there are a million clients.
    ///
    /// # Errors
    /// Says what is wrong, or why the file cannot be read.
    pub fn verify(&self) -> Result<Verified, String> {
        self.ask(Request::Verify)
            .unwrap_or_else(|error| Err(format!("{error:#}")))
    }

    /// Writes what is left and ends the writer. Later feeds go nowhere.
    pub fn stop(&self) {
        let thread = self.0.writer.lock().take();
        if let Some(thread) = thread {
            self.0.ending.store(true, Ordering::Release);
            let _ = self.0.requests.send(Request::Stop);
            if thread.join().is_err() {
                tracing::error!("the thread that writes the history had died");
            }
        }
    }

    /// Takes other settings from now on, but for the size of the cache.
    pub fn reconfigure(&self, settings: Settings) {
        *self.0.limits.write() = settings.limits();
        *self.0.settings.write() = settings;
    }

    /// Whether the writer does its work: it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.0.state.lock().ended
    }

    /// A document that was written, here or in an earlier life.
    #[must_use]
    pub fn document(&self, name: &str) -> Option<Vec<u8>> {
        self.0.documents.lock().all.get(name).cloned()
    }

    /// Keeps a document from the next flush on.
    pub fn set_document(&self, name: &str, bytes: Vec<u8>) {
        let mut documents = self.0.documents.lock();
        if documents.all.get(name) != Some(&bytes) {
            documents.changed.insert(name.to_owned());
            documents.all.insert(name.to_owned(), bytes);
        }
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T> {
        let (reply, answer) = channel();
        let _ = self.0.requests.send(request(reply));
        answer
            .recv()
            .map_err(|_| anyhow!("the thread that writes the history has ended"))
    }
}

impl Shared {
    /// The number of an interface, a new one where it has none.
    fn number(&self, name: &str) -> InterfaceId {
        let mut interfaces = self.interfaces.write();
        if let Some(number) = interfaces.iter().position(|known| known == name) {
            return number as InterfaceId;
        }
        // No host has so many: they share the last. How many there are is a number too.
        if interfaces.len() >= usize::from(InterfaceId::MAX) {
            return InterfaceId::MAX - 1;
        }
        interfaces.push(name.to_owned());
        self.ledgers
            .write()
            .resize(interfaces.len(), Ledger::default());
        (interfaces.len() - 1) as InterfaceId
    }

    /// What was being written is.
    fn count_written(&self) {
        let _feeds = self.feeds.lock();
        let written = self.statistics.in_flight.swap(0, Ordering::Relaxed);
        add(&self.statistics.written, written);
    }

    /// Takes what a file holds in place of what was in memory.
    fn remember(&self, store: &Store, memory: Memory) -> store::Numbers {
        let loaded = memory.loaded;
        let numbers = store::Numbers {
            interfaces: loaded.interfaces.len(),
            next_session: loaded.next_session,
            flushes: loaded.flushes,
        };
        let mut interfaces = self.interfaces.write();
        // Those that feed already and were never written keep their numbers.
        for (place, name) in loaded.interfaces.into_iter().enumerate() {
            if place >= interfaces.len() {
                interfaces.push(name);
            }
        }
        let mut ledgers = loaded.ledgers;
        ledgers.resize(interfaces.len(), Ledger::default());
        *self.ledgers.write() = ledgers;
        self.measures.remember(loaded.wholes);
        drop(interfaces);
        let mut documents = self.documents.lock();
        // Where a damaged file was put aside, those that it had are written to the new one.
        let missing: Vec<String> = documents
            .all
            .keys()
            .filter(|name| !loaded.documents.contains_key(*name))
            .cloned()
            .collect();
        documents.changed.extend(missing);
        for (name, bytes) in loaded.documents {
            if !documents.changed.contains(&name) {
                documents.all.insert(name, bytes);
            }
        }
        drop(documents);
        *self.servers.write() = loaded.servers.into_iter().collect();
        let waiting = store::RunSize::sum(&loaded.runs);
        self.statistics
            .journal_clients
            .store(waiting, Ordering::Relaxed);
        let mut abuse = self.abuse.lock();
        if abuse.is_loaded() {
            // The file may be a new one.
            abuse.change_all();
        } else {
            let unknown = abuse.load(&loaded.abuse);
            if unknown > 0 {
                tracing::warn!(
                    "{unknown} records of packets in modes 6 and 7 are another version's and are left out"
                );
            }
        }
        drop(abuse);
        let old = std::mem::replace(&mut *self.catalogue.write(), memory.catalogue);
        // Takes a while, and nobody waits for it.
        drop(old);
        self.orders.forget();
        *self.readable.write() = Some(store.readable());
        numbers
    }
}

/// What is made of a file when it is opened.
struct Memory {
    loaded: store::Loaded,
    catalogue: Catalogue,
}

impl Memory {
    /// What was opened; in place of a file that cannot be read a new one, after that was put aside.
    /// Where it is now is told to `noted`, whatever becomes of the new one.
    fn or_anew(
        opened: Result<(Store, Self), OpenError>,
        path: &Path,
        cache_bytes: usize,
        noted: impl FnOnce(String),
    ) -> Result<(Store, Self)> {
        let opened = match opened {
            Err(OpenError::Damaged { why }) => {
                let aside = store::set_aside(path, now())?;
                let aside = format!("{} ({why})", aside.display());
                tracing::error!(
                    "the history could not be read and begins anew; it is kept as {aside}"
                );
                noted(aside);
                Self::open(path, cache_bytes)
            }
            opened => opened,
        };
        opened.map_err(|error| match error {
            OpenError::Other(error) => error,
            error => anyhow!(error),
        })
    }

    fn open(path: &Path, cache_bytes: usize) -> Result<(Store, Self), OpenError> {
        let mut catalogue = Catalogue::default();
        let (store, loaded) = Store::open(path, cache_bytes, |key, record, runs| {
            catalogue.load(key, record, runs);
        })?;
        catalogue.finish_loading(loaded.runs.iter().map(|run| run.number));
        Ok((store, Self { loaded, catalogue }))
    }
}

/// Takes the exchanges of one ring.
pub struct Feed {
    history: History,
    interface: InterfaceId,
    finder: findings::Finder,
    delta: Arc<Mutex<Delta>>,
    servers: Arc<Mutex<Servers>>,
    /// As of the last batch.
    slew: Slew,
    limits: Limits,
    /// What was counted when it was published last.
    before: Totals,
    /// About.
    now: i64,
    abuse: abuse::Waiting,
}

impl Feed {
    /// What was counted so far belongs to others: of one pairer, whose packets come from several
    /// interfaces.
    pub const fn resume(&mut self, totals: &Totals) {
        self.before = *totals;
    }

    fn abuse(&mut self, outcome: &Outcome<'_>, stamped: &Stamped) {
        let Some(packet) = abuse::Packet::of(outcome) else {
            return;
        };
        let seen = stamped.captured().unwrap_or(self.now);
        self.delta.lock().add_abuse(&packet, seen);
        if self.abuse.add(&packet, seen) {
            self.tell_abuse();
        }
    }

    fn tell_abuse(&mut self) {
        if !self.abuse.is_empty() {
            let mut table = self.history.0.abuse.lock();
            table.add(self.interface, &mut self.abuse, self.now);
        }
    }

    /// Whether there is more than should wait for the flush interval. The writer knows; who reads
    /// files faster than it writes should wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.delta.lock().is_full(&self.limits)
    }
}

impl Sink for Feed {
    fn exchange(&mut self, exchange: &Exchange) {
        self.delta.lock().add(exchange, self.now, &self.limits);
        let Self {
            history,
            interface,
            finder,
            ..
        } = self;
        let known = || {
            let key = Key::new(exchange.request.event.destination, *interface);
            history
                .0
                .servers
                .read()
                .get(&key)
                .and_then(ServerRecord::seed)
        };
        let mut servers = self.servers.lock();
        servers.observe(exchange, self.slew, known, |found| {
            history.tell(&found, Some(*interface), *finder);
        });
    }

    fn other(&mut self, outcome: &Outcome<'_>) {
        let (response, kind) = match outcome {
            // Who is late was asked.
            Outcome::Unsolicited {
                response,
                late: false,
            } => (response, Kind::UnsolicitedAnswer),
            Outcome::Multiple(response) => (response, Kind::DuplicatedAnswer),
            Outcome::Control(packet) | Outcome::Private(packet) => {
                self.abuse(outcome, packet);
                return;
            }
            _ => return,
        };
        let is_multiple = kind == Kind::DuplicatedAnswer;
        let strays = Strays {
            multiple: is_multiple.into(),
            unsolicited: (!is_multiple).into(),
        };
        self.delta.lock().add_stray(response.event.source, strays);
        let (history, interface, finder) = (&self.history, self.interface, self.finder);
        self.servers.lock().stray(response, kind, |found| {
            history.tell(&found, Some(interface), finder);
        });
    }

    fn clock_stepped(&mut self, step: Step, unix: i64) {
        self.slew.refresh();
        let watched = self.history.0.watched.lock().clone();
        for servers in watched.iter().filter_map(|(_, servers)| servers.upgrade()) {
            let mut servers = servers.lock();
            servers.local_clock_stepped();
            if step.slept > 0 {
                servers.slept();
            }
        }
        let Some(stepped) = step.set() else { return };
        let kind = Kind::LocalClockStepped;
        let found = Found {
            kind,
            severity: kind.severity(),
            time: Some(unix),
            server: None,
            client: None,
            is_known: true,
            subject: None,
            evidence: Evidence::LocalStep {
                change_seconds: stepped as f64 / 1e9,
            },
        };
        self.history.tell(&found, None, self.finder);
    }

    fn publish(&mut self, totals: &Totals, unix: i64) {
        self.now = clock::utc();
        self.slew.refresh();
        let let_go = self.servers.lock().take_let_go();
        add(&self.history.0.statistics.servers_let_go, let_go);
        self.tell_abuse();
        self.limits = *self.history.0.limits.read();
        let full = {
            let mut delta = self.delta.lock();
            delta.add_packets(totals, &self.before, unix);
            delta.is_full(&self.limits)
        };
        self.before = *totals;
        if full && !self.history.0.hurried.swap(true, Ordering::AcqRel) {
            let _ = self.history.0.requests.send(Request::Hurry);
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_nanosecond(i128::from(clock::utc())).unwrap_or_default()
}
