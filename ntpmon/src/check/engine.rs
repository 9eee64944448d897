//! The checks that run: which there are, how each was last found, and the changes that the
//! configuration and the API make to them. Each is a task of its own (in `task`), none a thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use super::{
    Definition,
    exchange::{self, Stamping},
    record::CheckId,
    resolve,
    round::{Reach, Round},
    store::{Retention, Store},
    task,
};
use crate::{history::History, ntp::clock};

/// Checks that can be at once.
pub const MOST_CHECKS: usize = 10_000;
/// Under this name the history keeps those that were made over the API, and which are paused.
const DOCUMENT: &str = "checks";
/// How often it is looked what is to be summed up and what is too old.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Checks begin one after the other, so far apart, or faster when their interval is short.
const SPREAD: Duration = Duration::from_millis(100);

/// The checks. Clones share them.
#[derive(Clone, Debug)]
pub struct Checks(Arc<Shared>);

/// What the checks have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    /// Names that are looked up at once.
    pub(super) lookups: Arc<Semaphore>,
    /// Questions that wait for their answers at once.
    pub(super) questions: Semaphore,
    table: RwLock<BTreeMap<CheckId, Arc<Check>>>,
    /// Held by whoever changes which checks there are.
    changing: Mutex<()>,
    keep: RwLock<Retention>,
    runtime: Handle,
    housekeeper: Mutex<Option<JoinHandle<()>>>,
    /// For the kernel's times.
    _stamping: Stamping,
}

/// Where a check comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file.
    Config,
    /// Whoever asked the API for it.
    Api,
}

impl Source {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

/// What is wanted of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) paused: bool,
    /// Counts how often it was resumed: what was given up is taken up again.
    pub(super) resumed: u64,
}

/// One check.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) id: CheckId,
    pub(super) name: Arc<str>,
    pub(super) server: Arc<str>,
    pub(super) definition: Definition,
    source: Source,
    pub(super) wish: watch::Sender<Wish>,
    /// By address.
    pub(super) latest: RwLock<Vec<Latest>>,
    task: Mutex<Option<AbortHandle>>,
}

/// How an address of a check was found last.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// Which check.
    pub check: CheckId,
    /// What it is called.
    pub name: Arc<str>,
    /// Whom it asks, as it was given.
    pub server: Arc<str>,
    /// Nothing where its name has no address.
    pub address: Option<SocketAddr>,
    /// What came of asking.
    pub round: Arc<Round>,
    /// Which of the last polls came to a time.
    pub reach: Reach,
    /// When it last told the time since the daemon started, in nanoseconds since 1970.
    pub last_success: Option<i64>,
    /// How often it is asked now: seldomer than was asked for, where the server wants that.
    pub interval: Duration,
    /// It is not asked any more, because it does not want to be.
    pub stopped: bool,
    /// The check is paused, so this stays as it is.
    pub paused: bool,
}

/// A check, for those who show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Which it is.
    pub id: CheckId,
    /// As it was asked for.
    pub definition: Definition,
    /// By whom.
    pub source: Source,
    /// Whether it rests.
    pub paused: bool,
    /// By address; nothing before the first round.
    pub latest: Vec<Latest>,
}

/// Why checks were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// There is no such check.
    #[error("there is no check {0}; GET /api/ntp/checks lists those there are")]
    Unknown(CheckId),
    /// Another has that name.
    #[error(
        "there is a check '{0}' already ({1}); give this one another name, or delete that one first"
    )]
    NameTaken(String, CheckId),
    /// It is the file's.
    #[error(
        "the check '{0}' stands in the configuration: take it out there and reload, or pause it"
    )]
    FromConfig(String),
    /// There is no room.
    #[error("there are {MOST_CHECKS} checks, and no more are possible; delete some first")]
    TooMany,
    /// It cannot be as it is.
    #[error("{0}")]
    Wrong(String),
}

/// What is kept over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    checks: Vec<Definition>,
    /// Of both kinds.
    paused: BTreeSet<CheckId>,
}

impl Checks {
    /// Starts the checks of the file, and those that were made before, in a runtime.
    #[must_use]
    pub fn open(history: History, runtime: Handle, file: Vec<Definition>, keep: Retention) -> Self {
        let kept = history.document(DOCUMENT).unwrap_or_default();
        let kept: Kept = if kept.is_empty() {
            Kept::default()
        } else {
            serde_json::from_slice(&kept).unwrap_or_else(|error| {
                tracing::error!("the checks that were made over the API are lost: {error}");
                Kept::default()
            })
        };
        let checks = Self(Arc::new(Shared {
            store: Store::new(history),
            lookups: Arc::new(Semaphore::new(resolve::AT_ONCE)),
            questions: Semaphore::new(exchange::AT_ONCE),
            table: RwLock::default(),
            changing: Mutex::default(),
            keep: RwLock::new(keep),
            runtime,
            housekeeper: Mutex::default(),
            _stamping: Stamping::hold(),
        }));
        let made = kept.checks.into_iter().map(|it| (it, Source::Api));
        let all = file.into_iter().map(|it| (it, Source::Config)).chain(made);
        checks.set(all.collect(), &kept.paused);
        let house = keep_house(Arc::clone(&checks.0));
        *checks.0.housekeeper.lock() = Some(checks.0.runtime.spawn(house));
        checks
    }

    /// Brings those of the file in line with what it says now. Those that stay as they are go on.
    pub fn configure(&self, file: Vec<Definition>, keep: Retention) {
        *self.0.keep.write() = keep;
        let _changing = self.0.changing.lock();
        let (made, paused) = self.made_and_paused();
        let made = made.into_iter().map(|it| (it, Source::Api));
        let all = file.into_iter().map(|it| (it, Source::Config)).chain(made);
        self.set(all.collect(), &paused);
        self.keep();
    }

    /// All there are, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Shown> {
        let mut all: Vec<_> = self.0.table.read().values().map(|it| it.shown()).collect();
        all.sort_by(|one, other| one.definition.name().cmp(&other.definition.name()));
        all
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.table.read().len()
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, id: CheckId) -> Result<Shown, CheckError> {
        Ok(self.find(id)?.shown())
    }

    /// How every address of every check was found last. Reads no disk.
    #[must_use]
    pub fn latest(&self) -> Vec<Latest> {
        let table = self.0.table.read();
        let mut all = Vec::with_capacity(table.len());
        for check in table.values() {
            let paused = check.wish.borrow().paused;
            let latest = check.latest.read();
            all.extend(latest.iter().map(|it| Latest {
                paused,
                ..it.clone()
            }));
        }
        all
    }

    /// Makes a check, which begins at once.
    ///
    /// # Errors
    /// When it cannot be, or there is one of that name.
    pub fn create(&self, definition: Definition) -> Result<Shown, CheckError> {
        let faults = definition.faults();
        if !faults.is_empty() {
            return Err(CheckError::Wrong(faults.join("; ")));
        }
        let _changing = self.0.changing.lock();
        let id = CheckId::of(&definition.name());
        {
            let table = self.0.table.read();
            if let Some(known) = table.get(&id) {
                return Err(CheckError::NameTaken(known.name.to_string(), id));
            }
            if table.len() >= MOST_CHECKS {
                return Err(CheckError::TooMany);
            }
        }
        let check = self.start(definition, Source::Api, false, Duration::ZERO);
        self.keep();
        Ok(check.shown())
    }

    /// Ends a check, and forgets what it found.
    ///
    /// # Errors
    /// When there is none, or it is the file's.
    pub fn remove(&self, id: CheckId) -> Result<Shown, CheckError> {
        let _changing = self.0.changing.lock();
        let check = self.find(id)?;
        if check.source == Source::Config {
            return Err(CheckError::FromConfig(check.name.to_string()));
        }
        self.0.table.write().remove(&id);
        check.end();
        self.keep();
        self.forget(id);
        Ok(check.shown())
    }

    /// Lets a check rest, over restarts too, until it is resumed.
    ///
    /// # Errors
    /// When there is none.
    pub fn pause(&self, id: CheckId) -> Result<Shown, CheckError> {
        self.wish(id, |wish| wish.paused = true)
    }

    /// Goes on with a check at once, also with addresses that did not want to be asked.
    ///
    /// # Errors
    /// When there is none.
    pub fn resume(&self, id: CheckId) -> Result<Shown, CheckError> {
        self.wish(id, |wish| {
            wish.paused = false;
            wish.resumed += 1;
        })
    }

    /// What is remembered of them.
    #[must_use]
    pub fn store(&self) -> Store {
        self.0.store.clone()
    }

    /// Whether all of them go on.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let runs = |task: &Mutex<Option<AbortHandle>>| {
            task.lock().as_ref().is_none_or(|task| !task.is_finished())
        };
        let housekeeper = self.0.housekeeper.lock();
        housekeeper.as_ref().is_none_or(|it| !it.is_finished())
            && self.0.table.read().values().all(|it| runs(&it.task))
    }

    /// Ends them. What they found is remembered.
    pub fn stop(&self) {
        if let Some(housekeeper) = self.0.housekeeper.lock().take() {
            housekeeper.abort();
        }
        for check in self.0.table.read().values() {
            check.end();
        }
    }

    fn find(&self, id: CheckId) -> Result<Arc<Check>, CheckError> {
        let check = self.0.table.read().get(&id).map(Arc::clone);
        check.ok_or(CheckError::Unknown(id))
    }

    fn wish(&self, id: CheckId, change: impl FnOnce(&mut Wish)) -> Result<Shown, CheckError> {
        let _changing = self.0.changing.lock();
        let check = self.find(id)?;
        check.wish.send_modify(change);
        self.keep();
        Ok(check.shown())
    }

    /// Those of the API, and those that rest.
    fn made_and_paused(&self) -> (Vec<Definition>, BTreeSet<CheckId>) {
        let table = self.0.table.read();
        let made = table.values().filter(|it| it.source == Source::Api);
        let paused = table.values().filter(|it| it.wish.borrow().paused);
        (
            made.map(|it| it.definition.clone()).collect(),
            paused.map(|it| it.id).collect(),
        )
    }

    /// Keeps over a restart what does not stand in the file.
    fn keep(&self) {
        let (checks, paused) = self.made_and_paused();
        match serde_json::to_vec(&Kept { checks, paused }) {
            Ok(bytes) => self.0.store.keep(DOCUMENT, bytes),
            Err(error) => tracing::error!("keeping the checks: {error}"),
        }
    }

    /// These are to be; of two with one name the first.
    fn set(&self, wanted: Vec<(Definition, Source)>, paused: &BTreeSet<CheckId>) {
        let mut left: BTreeSet<CheckId> = self.0.table.read().keys().copied().collect();
        let mut seen = BTreeSet::new();
        let mut begin = Vec::new();
        for (definition, source) in wanted {
            let id = CheckId::of(&definition.name());
            if !seen.insert(id) {
                let name = definition.name();
                tracing::warn!(
                    "the check '{name}' that was made over the API gives way to that of the \
                     configuration, which has its name"
                );
                continue;
            }
            left.remove(&id);
            let stays = self
                .0
                .table
                .read()
                .get(&id)
                .is_some_and(|known| known.definition == definition && known.source == source);
            if !stays {
                begin.push((definition, source, paused.contains(&id)));
            }
        }
        for id in left {
            if let Some(check) = self.0.table.write().remove(&id) {
                check.end();
            }
        }
        let step = 1.0 / begin.len().max(1) as f64;
        let longest = SPREAD * u32::try_from(begin.len()).unwrap_or(u32::MAX);
        for (number, (definition, source, paused)) in begin.into_iter().enumerate() {
            let share = (number as f64 + task::random()) * step;
            let first = definition.interval.min(longest).mul_f64(share);
            self.start(definition, source, paused, first);
        }
    }

    fn start(
        &self,
        definition: Definition,
        source: Source,
        paused: bool,
        first: Duration,
    ) -> Arc<Check> {
        let name: Arc<str> = definition.name().into();
        let id = CheckId::of(&name);
        let wish = Wish { paused, resumed: 0 };
        let check = Arc::new(Check {
            id,
            name,
            server: definition.server.to_string().into(),
            definition,
            source,
            wish: watch::Sender::new(wish),
            latest: RwLock::default(),
            task: Mutex::default(),
        });
        let run = task::run(Arc::clone(&check), Arc::clone(&self.0), first);
        *check.task.lock() = Some(self.0.runtime.spawn(run).abort_handle());
        let before = self.0.table.write().insert(id, Arc::clone(&check));
        if let Some(before) = before {
            before.end();
        }
        check
    }

    /// Takes away what is remembered of a check that is no more.
    fn forget(&self, id: CheckId) {
        let store = self.store();
        drop(self.0.runtime.spawn_blocking(move || {
            // Each time takes a bounded part.
            loop {
                match store.forget(id) {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!("forgetting a check that was deleted: {error}");
                        return;
                    }
                }
            }
        }));
    }
}

impl Check {
    fn shown(&self) -> Shown {
        let paused = self.wish.borrow().paused;
        let latest = self.latest.read();
        let latest = latest.iter().map(|it| Latest {
            paused,
            ..it.clone()
        });
        Shown {
            id: self.id,
            definition: self.definition.clone(),
            source: self.source,
            paused,
            latest: latest.collect(),
        }
    }

    fn end(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

/// Sums up what is over and takes away what is too old, every now and then.
async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut summed_up = None;
    loop {
        ticks.tick().await;
        let now = clock::utc();
        let hour = now.div_euclid(3_600_000_000_000);
        // The rounds that end with the hour are put down a moment later.
        let settled = now.rem_euclid(3_600_000_000_000) > 15_000_000_000;
        let sum_up = summed_up != Some(hour) && settled;
        let (store, keep) = (shared.store.clone(), *shared.keep.read());
        let done = spawn_blocking(move || {
            if sum_up {
                store.sum_up(now)?;
            }
            store.trim(&keep, now)
        });
        match done.await {
            Ok(Ok(_)) if sum_up => summed_up = Some(hour),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("summing up checks: {error}"),
            Err(error) => tracing::error!("summing up checks: {error}"),
        }
    }
}
