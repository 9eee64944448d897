//! The checks that run: which there are, how each was last found, and the changes that the
//! configuration and the API make to them. Each is a task of its own (in `task`), none a thread.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::{AbortHandle, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Definition,
    exchange::{self, Stamping},
    kept::{DOCUMENT, Kept},
    record::CheckId,
    resolve,
    shared::{Check, Latest, Rounds, Shared, Shown, Source, Wish},
    store::{Retention, Store},
    task,
};
use crate::{
    history::History,
    ntp::clock::{self, UtcOffset},
};

/// Checks that can be at once, of the configuration and of the API together.
pub const MOST_CHECKS: usize = 10_000;
/// Checks that read at once how they were before.
const READS: usize = 4;
/// Between two parts of what is taken away of a check that is no more, so that others are written too.
const BREATH: Duration = Duration::from_millis(100);
/// After this time it is tried again, when the disk did not take it.
const AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked what is to be summed up and what is too old.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// A clock that was not set for so long, nor the daemon started, is believed: many are set soon
/// after the host starts.
const TRUSTED: Duration = Duration::from_secs(900);
/// Checks begin one after the other, so far apart, or faster when their interval is short.
const SPREAD: Duration = Duration::from_millis(100);

/// The checks. Clones share them.
#[derive(Clone, Debug)]
pub struct Checks(Arc<Shared>);

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
}

impl Checks {
    /// Starts the checks of the file, and those that were made before, in a runtime.
    #[must_use]
    pub fn open(history: History, runtime: Handle, file: Vec<Definition>, keep: Retention) -> Self {
        let mut kept = Kept::read(&history);
        let (made, aside) = kept.definitions();
        let checks = Self(Arc::new(Shared {
            store: Store::new(history),
            lookups: Arc::new(Semaphore::new(resolve::AT_ONCE)),
            reads: Semaphore::new(READS),
            questions: Semaphore::new(exchange::AT_ONCE),
            table: RwLock::default(),
            changing: Mutex::default(),
            keep: RwLock::new(keep),
            rounds: Rounds::default(),
            runtime,
            housekeeper: Mutex::default(),
            aside: Mutex::new(aside),
            forgetting: watch::Sender::new(kept.forgetting.clone()),
            stamping: Mutex::default(),
        }));
        let made = made.into_iter().map(|it| (it, Source::Api));
        let all = file.into_iter().map(|it| (it, Source::Config)).chain(made);
        checks.set(all.collect(), &kept.paused);
        for id in kept.forgetting {
            checks.forget(id);
        }
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
        all.sort_by_key(|one| one.definition.name());
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

    /// What the rounds of all of them came to since the daemon started.
    #[must_use]
    pub fn rounds(&self) -> &Rounds {
        &self.0.rounds
    }

    /// Makes a check, which begins at once. That its values are right is for its caller to see to.
    ///
    /// # Errors
    /// When it cannot be, or there is one of that name.
    pub fn create(&self, definition: Definition) -> Result<Shown, CheckError> {
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
        self.hold_stamps();
        // Over a restart too: what it found is not to be that of the next of its name.
        let first = self.0.forgetting.send_if_modified(|all| all.insert(id));
        self.keep();
        if first {
            self.forget(id);
        }
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
        let (made, paused) = self.made_and_paused();
        let made = made.iter().map(serde_json::to_value);
        let aside = self.0.aside.lock().clone();
        let checks: Result<Vec<_>, _> = made.chain(aside.into_iter().map(Ok)).collect();
        let forgetting = self.0.forgetting.borrow().clone();
        let kept = checks.and_then(|checks| {
            serde_json::to_vec(&Kept {
                checks,
                paused,
                forgetting,
            })
        });
        match kept {
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
            let name = definition.name();
            let id = CheckId::of(&name);
            if seen.contains(&id) {
                tracing::warn!(
                    "the check '{name}' that was made over the API gives way to that of the \
                     configuration, which has its name"
                );
                continue;
            }
            if seen.len() >= MOST_CHECKS {
                tracing::warn!(
                    "the check '{name}' that was made over the API is not asked: the configuration \
                     has too many for it to find room; it is asked after a restart that finds some"
                );
                match serde_json::to_value(&definition) {
                    Ok(value) => self.0.aside.lock().push(value),
                    Err(error) => tracing::error!("keeping the check '{name}': {error}"),
                }
                continue;
            }
            seen.insert(id);
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
        self.hold_stamps();
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
        let wish = Wish { paused, resumed: 0 };
        let check = Arc::new(Check::new(definition, source, wish));
        let run = task::run(Arc::clone(&check), Arc::clone(&self.0), first);
        *check.task.lock() = Some(self.0.runtime.spawn(run).abort_handle());
        let before = self.0.table.write().insert(check.id, Arc::clone(&check));
        if let Some(before) = before {
            before.end();
        }
        self.hold_stamps();
        check
    }

    /// Takes away what is remembered of a check that is no more, part by part, each on the disk
    /// before the next.
    fn forget(&self, id: CheckId) {
        let checks = self.clone();
        let forget = async move {
            loop {
                let store = checks.store();
                let pause = match spawn_blocking(move || store.forget(id)).await {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) => BREATH,
                    Ok(Err(error)) => {
                        tracing::error!("forgetting a check that was deleted: {error:#}");
                        AGAIN
                    }
                    // It does so when the daemon ends; the next one goes on.
                    Err(_) => return,
                };
                sleep(pause).await;
            }
            let _changing = checks.0.changing.lock();
            checks.0.forgetting.send_modify(|all| {
                all.remove(&id);
            });
            checks.keep();
        };
        self.0.runtime.spawn(forget);
    }

    /// As long as there are checks, the kernel is to note when packets come in.
    fn hold_stamps(&self) {
        let mut stamping = self.0.stamping.lock();
        if self.0.table.read().is_empty() {
            *stamping = None;
        } else {
            stamping.get_or_insert_with(Stamping::hold);
        }
    }
}

/// Sums up what is over and takes away what is too old, every now and then. Whether something is
/// too old is a question of this host's clock: nothing is, until that was not set for a while.
async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut summed_up = None;
    let (mut steps, mut set) = (UtcOffset::now(), Instant::now());
    loop {
        ticks.tick().await;
        if steps.refresh().is_some() {
            set = Instant::now();
            summed_up = None;
        }
        let now = clock::utc();
        let hour = now.div_euclid(3_600_000_000_000);
        // The rounds that end with the hour are put down a moment later.
        let settled = now.rem_euclid(3_600_000_000_000) > 15_000_000_000;
        let sum_up = summed_up != Some(hour) && settled;
        let trim = set.elapsed() >= TRUSTED;
        let (store, keep) = (shared.store.clone(), *shared.keep.read());
        let done = spawn_blocking(move || {
            if sum_up {
                store.sum_up(now)?;
            }
            if trim { store.trim(&keep, now) } else { Ok(0) }
        });
        match done.await {
            Ok(Ok(_)) if sum_up => summed_up = Some(hour),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("summing up checks: {error:#}"),
            Err(error) => tracing::error!("summing up checks: {error}"),
        }
    }
}

#[cfg(test)]
impl Checks {
    /// A check that does not run by itself.
    pub(super) fn held(&self, definition: Definition) -> (Arc<Check>, Arc<Shared>) {
        let check = Check::new(definition, Source::Api, Wish::default());
        (Arc::new(check), Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        check::{Failure, Series, kept::UNREADABLE, round::Round},
        history::Settings,
    };

    fn open(history: &History, file: Vec<Definition>) -> Checks {
        let runtime = Handle::current();
        Checks::open(history.clone(), runtime, file, Retention::default())
    }

    fn definition(server: &str) -> Definition {
        Definition::of(server.parse().unwrap())
    }

    fn kept(history: &History) -> Value {
        serde_json::from_slice(&history.document(DOCUMENT).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_check_that_cannot_be_read_is_carried_along_and_takes_none_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let later = json!({"server": "127.0.0.2", "way": "of a later version"});
        let kept_before = json!({"checks": [{"server": "127.0.0.1:1"}, later], "paused": []});
        history.set_document(DOCUMENT, kept_before.to_string().into_bytes());
        let checks = open(&history, Vec::new());
        let names: Vec<_> = checks
            .list()
            .iter()
            .map(|it| it.definition.name())
            .collect();
        assert_eq!(names, ["127.0.0.1:1"]);
        checks.create(definition("127.0.0.3:1")).unwrap();
        let all = kept(&history)["checks"].clone();
        assert_eq!(all.as_array().unwrap().len(), 3);
        assert!(all.as_array().unwrap().contains(&later), "{all}");

        // All of it wrong: what there was is not written over.
        history.set_document(DOCUMENT, b"no JSON".to_vec());
        let checks = open(&history, Vec::new());
        checks.create(definition("127.0.0.3:1")).unwrap();
        assert_eq!(history.document(UNREADABLE).unwrap(), b"no JSON");
    }

    #[tokio::test]
    async fn what_a_deleted_check_found_is_taken_away_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let series = Series {
            check: CheckId::of("127.0.0.1:1"),
            address: None,
        };
        let store = Store::new(history.clone());
        store.put(series, &Round::failed(&Failure::Refused, 0), 0);
        // It was deleted, and then the daemon ended.
        let unfinished = json!({"checks": [], "forgetting": [series.check]});
        history.set_document(DOCUMENT, unfinished.to_string().into_bytes());
        let checks = open(&history, Vec::new());
        checks.create(definition("127.0.0.1:1")).unwrap();
        checks.0.is_forgotten(series.check).await;
        let first = store.rounds(series, None, Some(1), 9).unwrap();
        assert_eq!(first, []);
        let _changing = checks.0.changing.lock();
        assert_eq!(kept(&history)["forgetting"], json!([]));
    }

    #[tokio::test]
    async fn the_kernel_notes_times_only_while_there_are_checks() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let checks = open(&history, Vec::new());
        let holds = || checks.0.stamping.lock().is_some();
        assert!(!holds());
        let made = checks.create(definition("127.0.0.1:1")).unwrap();
        assert!(holds());
        checks.remove(made.id).unwrap();
        assert!(!holds());
        checks.configure(vec![definition("127.0.0.1:1")], Retention::default());
        assert!(holds());
        checks.configure(Vec::new(), Retention::default());
        assert!(!holds());
    }

    #[tokio::test]
    async fn checks_of_the_file_and_of_the_api_are_bounded_together() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let made = json!({"checks": [{"server": "127.0.0.1:1"}], "paused": []});
        history.set_document(DOCUMENT, made.to_string().into_bytes());
        let many = (0..MOST_CHECKS).map(|number| Definition {
            name: Some(format!("check {number}")),
            interval: Duration::from_secs(86_400),
            ..definition("127.0.0.2:1")
        });
        let checks = open(&history, many.collect());
        assert_eq!(checks.count(), MOST_CHECKS);
        checks.keep();
        let server = &kept(&history)["checks"][0]["server"];
        assert_eq!(server, "127.0.0.1:1");
        checks.stop();
    }
}
