//! The thread that writes: takes what the rings have folded, decides who gets a record, puts it all
//! into the database in one transaction, and then into memory. What fails is tried again, together
//! with what has come since.

mod doorkeeper;
mod plan;
mod retention;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use self::{doorkeeper::Doorkeeper, plan::Plan};
use super::{
    Memory, Settings, Shared, add,
    fold::{Clients, Delta},
    key::{InterfaceId, Key},
    now,
    rollup::{Resolution, Rollup},
    session::SessionRecord,
    store::{self, MAX_RUNS, Numbers, OpenError, Reader, RunSize, Store},
    verify::{self, Verified},
};
use crate::{ntp::clock, scheduling};
use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;

/// What the writer is asked for.
pub(super) enum Request {
    /// A ring has more than should wait.
    Hurry,
    /// Write now, and put the runs into the blocks if told to.
    Flush {
        merge: bool,
        reply: Sender<Result<()>>,
    },
    CleanUp {
        before: i64,
        dry_run: bool,
        reply: Sender<Result<Removed>>,
    },
    Compact(Sender<Result<(u64, u64)>>),
    Verify(Sender<Result<Verified, String>>),
    Stop,
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Clients.
    pub clients: u64,
    /// Servers.
    pub servers: u64,
    /// Sessions.
    pub sessions: u64,
    /// Rollups of minutes, hours and days.
    pub rollups: u64,
}

/// Runs are put into the blocks when there are so many,
const RUNS: usize = if cfg!(test) { 6 } else { 24 };
/// or when they have as many entries as there are clients, and at least so many.
const ENTRIES: u64 = if cfg!(test) { 2000 } else { 1 << 17 };
/// In so many flushes, at most, and at least so many entries in each.
const PARTS: u64 = 16;
const PART: u64 = if cfg!(test) { 64 } else { 1 << 12 };
/// In one transaction.
const REMOVED_AT_ONCE: usize = 50_000;
const SESSIONS_AT_ONCE: usize = 50_000;
/// Changes of what is in memory that are made under one lock: some tens of microseconds.
const LOCKED: usize = 256;
/// Clients in modes 6 and 7 whose numbers are written with any flush; those of more only so often.
const ABUSE_AT_ONCE: usize = 256;
const ABUSE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two tries to use a file that failed; the first follows with the next flush.
const RETRIES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// Failures in a row that are not the disk's fault, after which the file is looked through.
const FAULTS: usize = 3;
/// What a session takes in the file besides its record.
const SESSION_OVERHEAD: u64 = 16;

/// A delta and whose it is.
type Taken = Vec<(Arc<Mutex<Delta>>, Delta)>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    store: Option<Store>,
    numbers: Numbers,
    doorkeeper: Doorkeeper,
    /// When the runs that were put into the blocks last had all been.
    last_checkpoint: Instant,
    /// How many of their entries are put there with each flush.
    part: u64,
    last_tidy: Instant,
    last_abuse: Instant,
    /// What a flush that failed had taken: whether it was written shows when the file is opened.
    doubtful: Option<Taken>,
    /// In a row.
    failures: usize,
    /// Of those, the ones that are not the disk's fault, in a row.
    faults: usize,
    retry_at: Instant,
}

/// Says that the writer has ended, however it did.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        *self.0.readable.write() = None;
        self.0.state.lock().ended = true;
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, store: Store, numbers: Numbers) -> Self {
        let now = Instant::now();
        let doorkeeper = Doorkeeper::new(shared.settings.read().max_clients);
        Self {
            shared,
            store: Some(store),
            numbers,
            doorkeeper,
            last_checkpoint: now,
            part: PART,
            last_tidy: now,
            last_abuse: now,
            doubtful: None,
            failures: 0,
            faults: 0,
            retry_at: now,
        }
    }

    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        scheduling::let_others_go_first();
        let _ended = Ended(Arc::clone(&self.shared));
        let mut begun = Instant::now();
        loop {
            let interval = self.shared.settings.read().flush_interval;
            let wait = (begun + interval).saturating_duration_since(Instant::now());
            let request = match requests.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Request::Stop),
            };
            match request {
                None | Some(Request::Hurry) => {
                    begun = Instant::now();
                    // Told through the state.
                    let _ = self.flush(false, &[]);
                    self.guarded(Self::tidy);
                }
                Some(Request::Flush { merge, reply }) => {
                    begun = Instant::now();
                    let _ = reply.send(self.flush(merge, &[]));
                    self.guarded(Self::tidy);
                }
                Some(Request::CleanUp {
                    before,
                    dry_run,
                    reply,
                }) => {
                    let mut removed = None;
                    self.guarded(|writer| {
                        let result = writer.clean_up(before, dry_run);
                        let failure = result.as_ref().err().map(|error| anyhow!("{error:#}"));
                        removed = Some(result);
                        failure.map_or(Ok(()), Err)
                    });
                    let _ = reply.send(removed.unwrap_or_else(|| Err(broken())));
                }
                Some(Request::Compact(reply)) => {
                    let compacted = catch_unwind(AssertUnwindSafe(|| self.compact()));
                    let _ = reply.send(compacted.unwrap_or_else(|_| {
                        self.close();
                        Err(broken())
                    }));
                }
                Some(Request::Verify(reply)) => {
                    let _ = reply.send(self.verify());
                }
                Some(Request::Stop) => {
                    // Nobody comes after this: what fails is tried once more.
                    for _ in 0..2 {
                        self.retry_at = Instant::now();
                        if self.flush(false, &[]).is_ok() {
                            break;
                        }
                    }
                    break;
                }
            }
        }
    }

    /// Does work that writes and is no flush. When it fails the file has to be opened again: redb
    /// does nothing more after it could not write, and how much of the work was written is not
    /// known, which the number of the last flush would be mistaken for.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        let result =
            catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| Err(broken()));
        if let Err(error) = result
            && self.store.is_some()
            && self.failures == 0
            // Or it was only left off; the last flush finds out.
            && !self.shared.ending.load(Ordering::Acquire)
        {
            self.tell_failure(&error);
            self.close();
            let _ = self.failed(error);
        }
    }

    /// Damage that was written anew looks whole. Once in this life, so that a fault of this program
    /// does not fill the disk with files.
    fn give_up(&self) -> Result<(), OpenError> {
        let state = self.shared.state.lock();
        match &state.failure {
            Some((why, _)) if self.faults >= 2 * FAULTS && state.set_aside.is_empty() => {
                Err(OpenError::Damaged { why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self) {
        // Nobody may read while it is opened again.
        *self.shared.readable.write() = None;
        let store = self.store.take();
        // After a panic within redb, closing it may be another.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
    }

    /// Writes what there is, and removes `victims`; then puts the runs into the blocks if told to.
    fn flush(&mut self, merge: bool, victims: &[Key]) -> Result<()> {
        self.flush_once(merge, victims)?;
        // Where some were on the way there, the others follow, with what was written just now.
        for _ in 0..2 {
            let has_runs = self.store.as_ref().is_some_and(|it| !it.runs().is_empty());
            if merge && has_runs {
                self.go_on()?;
                self.flush_once(true, &[])?;
            }
        }
        Ok(())
    }

    fn flush_once(&mut self, merge: bool, victims: &[Key]) -> Result<()> {
        self.shared.hurried.store(false, Ordering::Release);
        if Instant::now() < self.retry_at
            && let Some((why, _)) = &self.shared.state.lock().failure
        {
            return Err(anyhow!("{why}"));
        }
        if let Err(error) = self.reopen() {
            return self.failed(error);
        }
        let begun = Instant::now();
        let mut taken = self.take();
        // redb checks what it reads with assertions too.
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&mut taken, merge, victims)))
            .unwrap_or_else(|_| Err(broken()));
        match written {
            Ok(false) => {
                self.recovered();
                Ok(())
            }
            Ok(true) => {
                self.recovered();
                let statistics = &self.shared.statistics;
                let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                statistics.last_flush.store(took, Ordering::Relaxed);
                statistics.longest_flush.fetch_max(took, Ordering::Relaxed);
                self.shared.measures.flushed(took);
                statistics
                    .last_flush_unix
                    .store(clock::utc().unsigned_abs(), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.doubtful = Some(taken);
                self.tell_failure(&error);
                self.close();
                self.faults = match store::is_of_disk(&error) {
                    true => 0,
                    false => self.faults + 1,
                };
                // Who asks still finds what the file has.
                let _ = self.reopen();
                self.failed(error)
            }
        }
    }

    /// Ends work that somebody asked for and that can be left off.
    fn go_on(&self) -> Result<()> {
        match self.shared.ending.load(Ordering::Acquire) {
            true => Err(anyhow!("left off: ntpmon ends")),
            false => Ok(()),
        }
    }

    /// Takes all deltas, and forgets the feeds that have ended.
    fn take(&self) -> Taken {
        let mut taken = Vec::new();
        self.shared.feeds.lock().retain(|feed| {
            // Asked first: what is fed after that is seen by the next flush.
            let has_ended = Arc::strong_count(feed) == 1;
            let (interface, clients, records) = {
                let delta = feed.lock();
                let (clients, records) = delta.clients.counts();
                (delta.interface, clients, records)
            };
            // Made while the lock is not held; a little more than it was, so that it need not grow.
            let room = Clients::with_room(clients + clients / 8, records + records / 8);
            let empty = Delta::with_room(interface, room);
            let delta = std::mem::replace(&mut *feed.lock(), empty);
            add(&self.shared.statistics.in_flight, delta.exchanges);
            taken.push((Arc::clone(feed), delta));
            !has_ended
        });
        taken
    }

    /// Gives back what could not be written.
    fn put_back(&self, taken: Taken) {
        let limits = *self.shared.limits.read();
        let mut feeds = self.shared.feeds.lock();
        self.shared.statistics.in_flight.store(0, Ordering::Relaxed);
        for (feed, delta) in taken {
            {
                let mut newer = feed.lock();
                let newer_delta = std::mem::replace(&mut *newer, delta);
                newer.absorb(newer_delta, &limits);
            }
            if !feeds.iter().any(|known| Arc::ptr_eq(known, &feed)) {
                feeds.push(feed);
            }
        }
    }

    fn failed(&mut self, error: anyhow::Error) -> Result<()> {
        let wait = RETRIES[self.failures.min(RETRIES.len() - 1)];
        self.failures += 1;
        self.retry_at = Instant::now() + wait;
        add(&self.shared.statistics.failures, 1);
        self.tell_failure(&error);
        Err(error)
    }

    /// To be done before the file is closed: who finds it closed asks why.
    fn tell_failure(&self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        let mut state = self.shared.state.lock();
        match &mut state.failure {
            Some((known, _)) => *known = why,
            None => {
                tracing::error!(
                    "the history cannot be written: {why}; what is captured is kept in memory and \
                     merged until it can"
                );
                state.failure = Some((why, now()));
            }
        }
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.faults = 0;
        if let Some((why, since)) = self.shared.state.lock().failure.take() {
            tracing::info!("the history is written again; it could not be since {since}: {why}");
        }
    }

    /// Opens the file again after a failure, and learns whether the last flush was written.
    fn reopen(&mut self) -> Result<()> {
        if self.store.is_some() {
            return Ok(());
        }
        let cache_bytes = self.shared.settings.read().cache_bytes;
        let path = &self.shared.path;
        // A file may open and yet have damage that no flush can get past.
        let checked = match self.faults > 0 && self.faults.is_multiple_of(FAULTS) {
            true => store::check_integrity(path).and_then(|()| self.give_up()),
            false => Ok(()),
        };
        let opened = checked.and_then(|()| Memory::open(path, cache_bytes));
        let (store, memory) = Memory::or_anew(opened, path, cache_bytes, |aside| {
            self.shared.state.lock().set_aside.push(aside);
        })?;
        let expected = self.numbers.flushes + 1;
        self.numbers = self.shared.remember(&store, memory);
        self.store = Some(store);
        if let Some(taken) = self.doubtful.take() {
            if self.numbers.flushes == expected {
                self.shared.count_written();
            } else {
                self.put_back(taken);
            }
        }
        Ok(())
    }

    /// Says whether there was anything to write.
    fn write(&mut self, taken: &mut Taken, merge: bool, victims: &[Key]) -> Result<bool> {
        let interfaces: Vec<String> = self.shared.interfaces.read().clone();
        let documents = self.changed_documents();
        self.put_abuse();
        let shelves = self.shared.shelves.take();
        let is_empty = taken.iter().all(|(_, delta)| delta.is_empty());
        let nothing_new = is_empty
            && documents.is_empty()
            && shelves.is_empty()
            && victims.is_empty()
            && interfaces.len() == self.numbers.interfaces;
        let settings = self.shared.settings.read().clone();
        let part = self.part_due(merge, &settings);
        if nothing_new && part.is_none() {
            return Ok(false);
        }
        let mut stages = Stages::new();
        let mut deltas: Vec<&mut Delta> = taken.iter_mut().map(|(_, delta)| delta).collect();
        let plan = self.plan(&mut deltas, victims, &settings);
        let deltas: Vec<&Delta> = deltas.into_iter().map(|delta| &*delta).collect();
        stages.end("plan");

        let store = self.store.as_mut().context("the database is not open")?;
        let mut writer = store.writer()?;
        for (number, name) in interfaces.iter().enumerate().skip(self.numbers.interfaces) {
            writer.put_interface(number as InterfaceId, name)?;
        }
        for (name, bytes) in &documents {
            writer.put_document(name, bytes)?;
        }
        writer.put_shelves(shelves.changes())?;
        let sums = rollups(&deltas);
        for ((resolution, interface, start), rollup) in &sums {
            writer.add_rollup(*resolution, *interface, *start, rollup)?;
        }
        writer.put_servers(plan.servers.iter().map(|(key, record)| (key, record)))?;
        writer.remove_servers(&plan.servers_removed)?;
        let mut numbers = Numbers {
            interfaces: interfaces.len(),
            flushes: self.numbers.flushes + 1,
            ..self.numbers
        };
        if !plan.sessions.is_empty() {
            writer.append_sessions(numbers.next_session, &plan.sessions)?;
            numbers.next_session += plan.sessions.len() as u64;
            let newest = plan.sessions.iter().map(SessionRecord::seen).max();
            let (most, before) = sessions_bounds(&settings, newest.unwrap_or(i64::MIN));
            // More than come in, so that a lowered bound is reached.
            let at_once = SESSIONS_AT_ONCE.max(2 * plan.sessions.len());
            writer.trim_sessions(most, before, at_once)?;
        }
        stages.end("small");
        if let Some(most) = part {
            writer.merge(most)?;
            stages.end("merge");
        }
        let run = if plan.changes.is_empty() && plan.victims.is_empty() {
            None
        } else {
            Some(writer.put_run(numbers.flushes, plan.entries(), plan.in_order(&deltas))?)
        };
        for (number, ledger) in plan.ledgers.iter().enumerate() {
            if self.shared.ledgers.read().get(number) != Some(ledger) {
                writer.put_ledger(number as InterfaceId, ledger)?;
            }
        }
        stages.end("run");
        writer.commit(numbers.flushes)?;
        stages.end("commit");
        // Only now: who waited through a flush that failed has not asked twice.
        plan.asked.iter().for_each(|key| self.doorkeeper.note(key));
        self.apply(&deltas, plan, run)?;
        self.shared.measures.add(&sums);
        // Last: should that have ended in a panic, the number in the file, one higher than this,
        // says that the deltas were written.
        self.numbers = numbers;
        stages.end("apply");
        stages.tell();
        self.shared.shelves.written(&shelves);
        let mut known = self.shared.documents.lock();
        for (name, bytes) in documents {
            // Unless it was changed again meanwhile.
            if known.all.get(&name) == Some(&bytes) {
                known.changed.remove(&name);
            }
        }
        Ok(true)
    }

    /// Puts what is known of packets in modes 6 and 7 among what is to be written; under an attack in
    /// many names not each time.
    fn put_abuse(&mut self) {
        let mut abuse = self.shared.abuse.lock();
        let is_due = abuse.count_changed() <= ABUSE_AT_ONCE
            || self.last_abuse.elapsed() >= ABUSE_INTERVAL
            || self.shared.ending.load(Ordering::Acquire);
        if !is_due {
            return;
        }
        let (changed, changes) = abuse.take_changes();
        drop(abuse);
        self.last_abuse = Instant::now();
        if !self.shared.shelves.put(changes) {
            self.shared.abuse.lock().give_back(changed);
        }
    }

    fn changed_documents(&self) -> Vec<(String, Vec<u8>)> {
        let documents = self.shared.documents.lock();
        documents
            .changed
            .iter()
            .filter_map(|name| Some((name.clone(), documents.all.get(name)?.clone())))
            .collect()
    }

    /// How many entries of the runs are to be put into the blocks with a flush; nothing where it is
    /// not time for that.
    fn part_due(&mut self, all: bool, settings: &Settings) -> Option<u64> {
        let store = self.store.as_ref()?;
        let runs = store.runs();
        if runs.is_empty() {
            self.last_checkpoint = Instant::now();
            return None;
        }
        if all || runs.len() >= MAX_RUNS - 2 {
            return Some(u64::MAX);
        }
        if let Some(merging) = store.merging() {
            // After a start it goes on where it was.
            let end = runs.partition_point(|run| run.number <= merging.up_to);
            self.part = self.part.max(RunSize::sum(&runs[..end]).div_ceil(PARTS));
        } else {
            let clients = self.shared.catalogue.read().len() as u64;
            let waiting = RunSize::sum(runs);
            let is_due = runs.len() >= RUNS
                || waiting >= clients.max(ENTRIES)
                || self.last_checkpoint.elapsed() >= settings.checkpoint_interval;
            if !is_due {
                return None;
            }
            // As many as came with each of them: so those that come meanwhile are no more.
            self.part = waiting.div_ceil((runs.len() as u64).clamp(PARTS / 4, PARTS));
        }
        Some(self.part.max(PART))
    }

    /// Brings what is in memory up to what was written.
    fn apply(&mut self, deltas: &[&Delta], plan: Plan, run: Option<u64>) -> Result<()> {
        let store = self.store.as_ref().context("the database is not open")?;
        let shared = &self.shared;
        let statistics = &shared.statistics;
        let waiting = RunSize::sum(store.runs());
        statistics.journal_clients.store(waiting, Ordering::Relaxed);
        // Those that are in the blocks are not looked into any more.
        let oldest = store.runs().first().map_or(u64::MAX, |run| run.number);
        let merged = shared.catalogue.read().runs_before(oldest);
        if merged != 0 {
            let mut from = Some(0);
            while let Some(row) = from {
                from = shared.catalogue.write().leave_runs(merged, row);
            }
            shared.catalogue.write().forget_runs(merged);
            self.last_checkpoint = Instant::now();
            add(&statistics.checkpoints, 1);
        }
        let bit = match run {
            None => 0,
            Some(run) => shared
                .catalogue
                .write()
                .run(run, !plan.victims.is_empty())
                .context("there are too many runs")?,
        };
        for changes in plan.changes.chunks(LOCKED) {
            let mut catalogue = shared.catalogue.write();
            for change in changes {
                let record = plan.news(deltas, change).record();
                catalogue.absorb(&change.key, &record, bit);
            }
        }
        for victims in plan.victims.chunks(LOCKED) {
            let mut catalogue = shared.catalogue.write();
            victims.iter().for_each(|key| catalogue.remove(key));
        }
        {
            let mut servers = shared.servers.write();
            servers.extend(plan.servers);
            for key in &plan.servers_removed {
                servers.remove(key);
            }
        }
        {
            // Others may have been added meanwhile.
            let mut ledgers = shared.ledgers.write();
            for (known, ledger) in ledgers.iter_mut().zip(plan.ledgers) {
                *known = ledger;
            }
        }
        shared.count_written();
        add(&statistics.inserted, plan.inserted);
        add(&statistics.updated, plan.updated);
        add(&statistics.refused, plan.refused);
        add(&statistics.evicted, plan.evicted);
        add(&statistics.sessions_kept, plan.sessions.len() as u64);
        add(&statistics.sessions_left_out, plan.left_out);
        add(&statistics.unnamed_servers, plan.unnamed_servers);
        add(&statistics.flushes, 1);
        statistics
            .last_clients
            .store(plan.changes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn reader(&self) -> Result<Reader> {
        let store = self.store.as_ref().context("the database is not open")?;
        store.readable().reader()
    }

    fn verify(&self) -> Result<Verified, String> {
        let store = self.store.as_ref().ok_or("the database is not open")?;
        // redb checks what it reads with assertions too.
        catch_unwind(AssertUnwindSafe(|| {
            verify::verify(&self.shared, store, &self.numbers)
        }))
        .unwrap_or_else(|_| Err(broken().to_string()))
    }

    fn compact(&mut self) -> Result<(u64, u64)> {
        self.flush(true, &[])?;
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |it| it.len());
        let before = size(&self.shared.path);
        *self.shared.readable.write() = None;
        let result = self.compact_alone();
        if let Some(store) = &self.store {
            *self.shared.readable.write() = Some(store.readable());
        }
        result?;
        Ok((before, size(&self.shared.path)))
    }

    /// Waits for those who still read, then has the file to itself.
    fn compact_alone(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let store = self.store.as_mut().context("the database is not open")?;
            match store.compact() {
                // It does a bounded part each time.
                Ok(true) => self.go_on()?,
                Ok(false) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// After a panic, which was printed.
fn broken() -> anyhow::Error {
    anyhow!("the database's own checks failed: the log has more")
}

/// How long the parts of a flush took, for the debug log.
struct Stages {
    begun: Instant,
    text: String,
}

impl Stages {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            text: String::new(),
        }
    }

    fn end(&mut self, name: &str) {
        use std::fmt::Write;
        let took = self.begun.elapsed();
        self.begun = Instant::now();
        let _ = write!(self.text, " {name} {:.1} ms", took.as_secs_f64() * 1e3);
    }

    fn tell(&self) {
        tracing::debug!("flush:{}", self.text);
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// How many sessions there may be, and from when, counted back from the newest.
fn sessions_bounds(settings: &Settings, newest: i64) -> (u64, i64) {
    let most = settings.sessions_bytes / (SessionRecord::SIZE as u64 + SESSION_OVERHEAD);
    let before = settings.sessions_age.map_or(i64::MIN, |age| {
        newest.min(clock::utc()).saturating_sub(nanoseconds(age))
    });
    (most, before)
}

/// Minutes, and the hours, days and all time that they are part of.
fn rollups(deltas: &[&Delta]) -> BTreeMap<(Resolution, InterfaceId, i64), Rollup> {
    let mut sums: BTreeMap<(Resolution, InterfaceId, i64), Rollup> = BTreeMap::new();
    for delta in deltas {
        for (minute, rollup) in &delta.rollups {
            for resolution in Resolution::EACH {
                sums.entry((resolution, delta.interface, resolution.start(*minute)))
                    .or_default()
                    .add_minute(resolution, rollup);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, atomic::Ordering},
    };

    use tempfile::TempDir;

    use super::{Ended, PARTS, Writer};
    use crate::{
        history::{
            FILE, Feed, History, Memory, Settings,
            made::{BEGIN, ask},
        },
        pipeline::Sink,
    };

    /// A writer that does what it is told to, and a feed.
    fn alone(directory: &TempDir) -> (Writer, Feed) {
        let history = History::open(directory.path(), Settings::default()).unwrap();
        history.stop();
        let shared = Arc::clone(&history.0);
        shared.ending.store(false, Ordering::Release);
        let (store, memory) = Memory::open(&shared.path, 1 << 20).unwrap();
        let numbers = shared.remember(&store, memory);
        (Writer::new(shared, store, numbers), history.feed("eth0"))
    }

    fn exchanges(writer: &Writer) -> u64 {
        writer.verify().unwrap().exchanges()
    }

    #[test]
    fn what_a_flush_held_that_seemed_to_fail_is_written_once_whether_it_had_failed_or_not() {
        let directory = TempDir::new().unwrap();
        let (mut writer, mut feed) = alone(&directory);
        let history = History(Arc::clone(&writer.shared));
        for (round, was_written) in [true, false, true, true, false].into_iter().enumerate() {
            feed.exchange(&ask(7, BEGIN).exchange());
            let mut taken = writer.take();
            if was_written {
                let before = writer.numbers;
                writer.write(&mut taken, round == 3, &[]).unwrap();
                writer.numbers = before;
            }
            writer.doubtful = Some(taken);
            writer.close();
            // What came since is there too, whatever happened.
            feed.exchange(&ask(8, BEGIN).exchange());
            writer.flush(false, &[]).unwrap();
            let fed = 2 * (round as u64 + 1);
            assert_eq!(exchanges(&writer), fed);
            let statistics = history.service_statistics();
            let counts = (statistics.total_received, statistics.total_processed);
            assert_eq!(counts, (fed, fed));
        }
    }

    #[test]
    fn what_is_being_written_was_received_and_waits() {
        let directory = TempDir::new().unwrap();
        let (mut writer, mut feed) = alone(&directory);
        let history = History(Arc::clone(&writer.shared));
        let counts = || {
            let statistics = history.service_statistics();
            (statistics.total_received, statistics.queue_size)
        };
        feed.exchange(&ask(7, BEGIN).exchange());
        assert_eq!(counts(), (1, 1));
        let taken = writer.take();
        feed.exchange(&ask(7, BEGIN).exchange());
        assert_eq!(counts(), (2, 2));
        writer.put_back(taken);
        assert_eq!(counts(), (2, 2));
        let mut taken = writer.take();
        writer.write(&mut taken, false, &[]).unwrap();
        assert_eq!(counts(), (2, 0));
    }

    #[test]
    fn a_tidying_that_seemed_to_fail_is_not_taken_for_the_flush_after_it() {
        let directory = TempDir::new().unwrap();
        let (mut writer, mut feed) = alone(&directory);
        feed.exchange(&ask(7, BEGIN).exchange());
        writer.flush(false, &[]).unwrap();
        writer.guarded(|writer| {
            let store = writer.store.as_mut().unwrap();
            store.writer()?.commit(writer.numbers.flushes + 1)?;
            Err(anyhow::anyhow!("told to"))
        });
        assert!(writer.shared.state.lock().failure.is_some());
        for round in 2..4 {
            feed.exchange(&ask(7, BEGIN).exchange());
            writer.flush(false, &[]).unwrap();
            assert_eq!(exchanges(&writer), round);
        }
        assert!(writer.shared.state.lock().failure.is_none());
        // A panic is no other case.
        writer.guarded(|_| panic!("told to"));
        feed.exchange(&ask(7, BEGIN).exchange());
        writer.flush(true, &[]).unwrap();
        assert_eq!(exchanges(&writer), 4);
    }

    #[test]
    fn a_merge_that_a_start_interrupts_goes_on_as_fast() {
        let directory = TempDir::new().unwrap();
        let (mut writer, mut feed) = alone(&directory);
        let merging = |writer: &Writer| writer.store.as_ref().unwrap().merging().is_some();
        for round in 0..20 {
            (0..1000)
                .for_each(|client| feed.exchange(&ask(round * 1000 + client, BEGIN).exchange()));
            writer.flush(false, &[]).unwrap();
            if merging(&writer) {
                break;
            }
        }
        assert!(merging(&writer));
        drop(Ended(Arc::clone(&writer.shared)));
        drop(writer);
        let (mut writer, mut feed) = alone(&directory);
        assert!(merging(&writer), "the last flush of a life ends none");
        let before = exchanges(&writer);
        let mut flushes = 0;
        while merging(&writer) {
            feed.exchange(&ask(7, BEGIN).exchange());
            writer.flush(false, &[]).unwrap();
            flushes += 1;
        }
        assert!(flushes <= PARTS + 1, "{flushes} flushes");
        assert_eq!(exchanges(&writer), before + flushes);
    }

    #[test]
    fn what_takes_long_is_left_off_at_the_end_and_the_last_flush_is_written() {
        let directory = TempDir::new().unwrap();
        let (mut writer, mut feed) = alone(&directory);
        feed.exchange(&ask(7, BEGIN).exchange());
        writer.flush(false, &[]).unwrap();
        writer.shared.ending.store(true, Ordering::Release);
        for error in [
            writer.compact().unwrap_err(),
            writer.clean_up(i64::MAX, false).unwrap_err(),
        ] {
            assert!(error.to_string().contains("left off"), "{error:#}");
        }
        feed.exchange(&ask(7, BEGIN).exchange());
        writer.flush(false, &[]).unwrap();
        assert_eq!(exchanges(&writer), 2);
    }

    #[test]
    fn a_file_that_is_damaged_while_it_is_used_is_put_aside_and_what_is_in_memory_goes_to_the_new_one()
     {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(FILE);
        let (mut writer, mut feed) = alone(&directory);
        let history = History(Arc::clone(&writer.shared));
        history.set_document("watched", b"eth0".to_vec());
        feed.exchange(&ask(7, BEGIN).exchange());
        writer.flush(true, &[]).unwrap();
        feed.exchange(&ask(8, BEGIN).exchange());
        writer.doubtful = Some(writer.take());
        writer.close();
        fs::write(&path, vec![9; 100_000]).unwrap();
        writer.flush(false, &[]).unwrap();
        assert_eq!(exchanges(&writer), 1);
        assert_eq!(history.health().status, "degraded");
        drop(Ended(Arc::clone(&writer.shared)));
        drop(writer);
        let history = History::open(directory.path(), Settings::default()).unwrap();
        assert_eq!(history.verify().unwrap().exchanges(), 1);
        assert_eq!(history.document("watched").as_deref(), Some(&b"eth0"[..]));
        history.stop();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
