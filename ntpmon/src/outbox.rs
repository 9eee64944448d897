//! What is promised to be delivered waits here: numbered, on disk, and in order for each
//! destination, until it has arrived or was given up. Each destination has a task of its own, so
//! that one that hangs holds up no other. What became of each delivery is kept for a while.
//!
//! Whoever promises writes the promise down together with what it follows from, waits until that is
//! on disk, and then lets it go: a process that is killed in between neither loses a delivery nor
//! makes one twice. Killed between the answer of a destination and writing that down it does it
//! again, under the same [`Entry::id`], by which the destination can tell.

mod task;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::watch};

use self::task::Destination;
use crate::history::{
    History,
    shelf::{Change, Order, Shelf},
};

/// How long, and how often, a delivery is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After that it is given up.
    pub max_age: Duration,
    /// So often at most.
    pub max_attempts: u32,
}

/// Delivers one entry, or says why not. It may block, for as long as its own timeouts last.
pub type Deliver = Arc<dyn Fn(&Entry) -> Result<(), Failure> + Send + Sync>;

/// Why something did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub why: String,
    /// Whether it would not arrive another time either.
    pub is_final: bool,
    /// After so many tries that came to this it has to be taken for certain.
    pub most: Option<u32>,
}

impl Failure {
    /// It may arrive another time.
    pub fn for_now(why: impl fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            is_final: false,
            most: None,
        }
    }

    /// It never will.
    pub fn for_good(why: impl fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            is_final: true,
            most: None,
        }
    }
}

/// What is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order; 0 is not promised, and not on disk.
    pub number: u64,
    /// The same each time that it is tried, and no other's.
    pub id: String,
    /// Where to.
    pub destination: String,
    /// What it is, in a few words.
    pub subject: String,
    /// When it was promised.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// How often that came to what has to be taken for certain after some times.
    #[serde(default)]
    pub refusals: u32,
    /// What to deliver.
    pub body: String,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delivery {
    /// Its place in the order.
    pub number: u64,
    /// What the destination is told to tell it from others.
    pub id: String,
    /// Where to.
    pub destination: String,
    /// What it is, in a few words.
    pub subject: String,
    /// When it was promised.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Whether it has arrived.
    pub state: Progress,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_attempt: Option<Timestamp>,
    /// When it will be tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt: Option<Timestamp>,
    /// Why it did not arrive when it was tried last.
    pub error: Option<String>,
}

/// Whether something has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// Not yet.
    Waiting,
    /// It has.
    Delivered,
    /// It was given up.
    Failed,
}

impl Delivery {
    fn of(entry: &Entry, state: Progress) -> Self {
        Self {
            number: entry.number,
            id: entry.id.clone(),
            destination: entry.destination.clone(),
            subject: entry.subject.clone(),
            created: entry.created,
            state,
            attempts: entry.attempts,
            last_attempt: None,
            next_attempt: None,
            error: None,
        }
    }

    fn change(&self) -> Change {
        Change::put(Shelf::Deliveries, key(self.number), json(self))
    }
}

/// How a destination is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Standing {
    /// Deliveries that wait for it.
    pub waiting: usize,
    /// What arrived since the daemon started.
    pub delivered: u64,
    /// What was given up since then.
    pub failed: u64,
    /// When something arrived last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_delivered: Option<Timestamp>,
    /// Why nothing arrives; null when the last one did.
    pub error: Option<String>,
}

/// A promise that is written down together with what it follows from, and then let go.
#[derive(Debug)]
pub struct Promise(Entry);

impl Promise {
    /// What has to be put down.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = vec![
            Change::put(Shelf::Outbox, key(self.0.number), json(&self.0)),
            Delivery::of(&self.0, Progress::Waiting).change(),
        ];
        if let Some(old) = self.0.number.checked_sub(KEPT).filter(|old| *old > 0) {
            changes.push(Change::remove(Shelf::Deliveries, key(old)));
        }
        changes
    }
}

/// What became of so many deliveries is kept.
const KEPT: u64 = 50_000;
/// So many deliveries wait for one destination; of more the oldest are given up.
const WAITING: usize = 20_000;

/// The outbox, shared by all who promise.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    history: History,
    runtime: Handle,
    next: AtomicU64,
    /// What was promised in an earlier life, until its destination is there.
    left: Mutex<BTreeMap<String, VecDeque<Entry>>>,
    destinations: Mutex<BTreeMap<String, Destination>>,
    writes: Sender<Sender<bool>>,
    stopping: watch::Sender<bool>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl Outbox {
    /// With what was promised and has not arrived. Tasks run on `runtime`. Blocking.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn open(history: History, runtime: Handle) -> Result<Self> {
        let entries = history.shelf(Shelf::Outbox, &[], &[], Order::Oldest, usize::MAX);
        let entries = entries.unwrap_or_else(|error| {
            tracing::error!("what was promised to be delivered cannot be read: {error}");
            Vec::new()
        });
        let mut left: BTreeMap<String, VecDeque<Entry>> = BTreeMap::new();
        for (_, value) in &entries {
            match serde_json::from_slice::<Entry>(value) {
                Ok(entry) => left
                    .entry(entry.destination.clone())
                    .or_default()
                    .push_back(entry),
                Err(error) => tracing::error!("a promised delivery cannot be read: {error}"),
            }
        }
        let last = |shelf| {
            let last = history.shelf(shelf, &[], &[], Order::Newest, 1);
            let last = last.unwrap_or_default().pop();
            last.and_then(|(key, _)| Some(u64::from_be_bytes(key.try_into().ok()?)))
        };
        let next = 1 + last(Shelf::Outbox)
            .max(last(Shelf::Deliveries))
            .unwrap_or(0);
        let old = key(next.saturating_sub(KEPT));
        if let Err(error) = history.trim_shelf(Shelf::Deliveries, &old, KEPT as usize) {
            tracing::warn!("old deliveries cannot be forgotten: {error}");
        }
        let (writes, asked) = channel();
        let writing = history.clone();
        thread::Builder::new()
            .name("promises".to_owned())
            .spawn(move || write(&writing, &asked))
            .context("starting the thread that writes down what is promised")?;
        let (stopping, _) = watch::channel(false);
        Ok(Self(Arc::new(Shared {
            history,
            runtime,
            next: AtomicU64::new(next),
            left: Mutex::new(left),
            destinations: Mutex::default(),
            writes,
            stopping,
        })))
    }

    /// Delivers to a destination from now on, or in another way from now on. What waits for it is
    /// tried at once.
    pub fn serve(&self, name: &str, policy: Policy, deliver: Deliver) {
        let mut destinations = self.0.destinations.lock();
        if let Some(known) = destinations.get(name) {
            known.change(policy, deliver);
            return;
        }
        let left = self.0.left.lock().remove(name).unwrap_or_default();
        let destination = Destination::start(&self.0, left, policy, deliver);
        destinations.insert(name.to_owned(), destination);
    }

    /// Delivers to these alone from now on: what waits for another one is given up.
    pub fn keep_only(&self, names: &[&str]) {
        let mut gone = Vec::new();
        self.0.destinations.lock().retain(|name, destination| {
            let stays = names.contains(&name.as_str());
            if !stays {
                gone.extend(destination.end());
            }
            stays
        });
        self.0.left.lock().retain(|name, entries| {
            let stays = names.contains(&name.as_str());
            if !stays {
                gone.extend(entries.drain(..));
            }
            stays
        });
        for entry in &gone {
            self.0.give_up(entry, NOWHERE);
        }
    }

    /// Makes a promise. It is not kept before it is [let go](Self::release).
    #[must_use]
    pub fn promise(&self, destination: &str, subject: &str, body: String) -> Promise {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        Promise(entry(number, destination, subject, body))
    }

    /// Waits until what was put down before is on disk, for so long at most. Says whether it is:
    /// what cannot be written is delivered from memory. Blocking.
    #[must_use]
    pub fn settle(&self, patience: Duration) -> bool {
        let (reply, answer) = channel();
        let asked = self.0.writes.send(reply).is_ok();
        asked && answer.recv_timeout(patience).unwrap_or(false)
    }

    /// Delivers what was promised.
    pub fn release(&self, promises: Vec<Promise>) {
        let destinations = self.0.destinations.lock();
        // They are put down, and are delivered in the next life.
        if *self.0.stopping.borrow() {
            return;
        }
        for Promise(entry) in promises {
            match destinations.get(&entry.destination) {
                Some(destination) => {
                    if let Some(oldest) = destination.push(entry) {
                        self.0
                            .give_up(&oldest, "more wait for this destination than may");
                    }
                }
                None => self.0.give_up(&entry, NOWHERE),
            }
        }
    }

    /// Delivers something that is worth nothing later: once, now, unless something else waits.
    pub fn offer(&self, destination: &str, subject: &str, body: String) {
        if let Some(to) = self.0.destinations.lock().get(destination) {
            to.offer(entry(0, destination, subject, body));
        }
    }

    /// How a destination is doing.
    #[must_use]
    pub fn standing(&self, destination: &str) -> Standing {
        let destinations = self.0.destinations.lock();
        let standing = destinations.get(destination).map(Destination::standing);
        standing.unwrap_or_default()
    }

    /// What became of deliveries, the last ones first, of those before a number. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn deliveries(
        &self,
        destination: Option<&str>,
        state: Option<Progress>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Delivery>> {
        let to = before.map(key).unwrap_or_default();
        let history = &self.0.history;
        let items = history.shelf(Shelf::Deliveries, &[], &to, Order::Newest, KEPT as usize)?;
        let deliveries = items
            .iter()
            .filter_map(|(_, value)| serde_json::from_slice::<Delivery>(value).ok());
        let wanted = |it: &Delivery| {
            destination.is_none_or(|name| it.destination == name)
                && state.is_none_or(|state| it.state == state)
        };
        Ok(deliveries.filter(wanted).take(limit).collect())
    }

    /// Begins no more deliveries, and waits for those that are under way, for so long at most. What
    /// has not arrived is tried again in the next life.
    pub async fn stop(&self, patience: Duration) {
        let destinations = {
            let mut destinations = self.0.destinations.lock();
            self.0.stopping.send_replace(true);
            std::mem::take(&mut *destinations)
        };
        let ended = async {
            for destination in destinations.into_values() {
                destination.ended().await;
            }
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::info!("what is being delivered is delivered again after the next start");
        }
    }
}

/// Why nothing can be delivered to a destination that nobody serves.
const NOWHERE: &str = "there is no such destination any more";

impl Shared {
    fn give_up(&self, entry: &Entry, why: &str) {
        tracing::error!(
            "'{}' is not delivered to {}: {why}",
            entry.subject,
            entry.destination
        );
        let delivery = Delivery {
            error: Some(why.to_owned()),
            ..Delivery::of(entry, Progress::Failed)
        };
        self.finish(&delivery);
    }

    /// It needs not to be delivered any more.
    fn finish(&self, delivery: &Delivery) {
        if delivery.number == 0 {
            return;
        }
        let mut changes = vec![Change::remove(Shelf::Outbox, key(delivery.number))];
        changes.extend(self.kept(delivery));
        self.history.put(changes);
        // Soon, so that a process that is killed does it again only if that is at this moment.
        let (reply, _) = channel();
        let _ = self.writes.send(reply);
    }

    /// It is tried again.
    fn note(&self, entry: &Entry, delivery: &Delivery) {
        let mut changes = vec![Change::put(Shelf::Outbox, key(entry.number), json(entry))];
        changes.extend(self.kept(delivery));
        self.history.put(changes);
    }

    /// What becomes of it is kept, unless it is so old that it was forgotten while it waited.
    fn kept(&self, delivery: &Delivery) -> Option<Change> {
        let is_kept = delivery.number.saturating_add(KEPT) >= self.next.load(Ordering::Relaxed);
        is_kept.then(|| delivery.change())
    }
}

/// Writes down what was put down, once for all who asked meanwhile.
fn write(history: &History, asked: &Receiver<Sender<bool>>) {
    while let Ok(first) = asked.recv() {
        let replies: Vec<_> = std::iter::once(first).chain(asked.try_iter()).collect();
        let written = history.flush();
        if let Err(error) = &written {
            tracing::warn!(
                "what is promised is not on disk: {error:#}; it is delivered from memory"
            );
        }
        for reply in replies {
            // Who asked may have no patience left.
            let _ = reply.send(written.is_ok());
        }
    }
}

fn entry(number: u64, destination: &str, subject: &str, body: String) -> Entry {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        // Then it is told by its number and the time.
        tracing::warn!(%error, "asking the kernel for random bytes");
        random[..8].copy_from_slice(&number.to_be_bytes());
        let time = Timestamp::now().as_nanosecond() as u64;
        random[8..].copy_from_slice(&time.to_be_bytes());
    }
    Entry {
        number,
        id: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        destination: destination.to_owned(),
        subject: subject.to_owned(),
        created: Timestamp::now(),
        attempts: 0,
        refusals: 0,
        body,
    }
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Structs of texts and numbers: nothing in them can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
