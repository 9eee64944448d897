//! What the checks have in common, and what is known of each: those who change checks, those who
//! show them and the tasks that run them share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinHandle},
};

use super::{
    Definition, Status,
    exchange::Stamping,
    record::CheckId,
    round::{Reach, Round, Time},
    store::{Retention, Store},
};

/// Kisses that are counted by their code; the last is all others, which servers may make up.
const KISSES: [&str; 4] = ["RATE", "DENY", "RSTR", "other"];

/// What the checks have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    /// Names that are looked up at once.
    pub(super) lookups: Arc<Semaphore>,
    /// Reads of what was found before, at once: a thousand checks that begin are not a thousand
    /// threads.
    pub(super) reads: Semaphore,
    /// Questions that wait for their answers at once.
    pub(super) questions: Semaphore,
    pub(super) table: RwLock<BTreeMap<CheckId, Arc<Check>>>,
    /// Held by whoever changes which checks there are.
    pub(super) changing: Mutex<()>,
    pub(super) keep: RwLock<Retention>,
    pub(super) rounds: Rounds,
    pub(super) runtime: Handle,
    pub(super) housekeeper: Mutex<Option<JoinHandle<()>>>,
    /// Of the checks of the API those that are kept and not asked: they cannot be read, or find no
    /// room.
    pub(super) aside: Mutex<Vec<Value>>,
    /// Checks that were deleted, as long as something of what they found is there.
    pub(super) forgetting: watch::Sender<BTreeSet<CheckId>>,
    /// For the kernel's times, while there are checks.
    pub(super) stamping: Mutex<Option<Stamping>>,
}

impl Shared {
    /// Waits until nothing is left of what a deleted check of this name found.
    pub(super) async fn is_forgotten(&self, id: CheckId) {
        let mut forgetting = self.forgetting.subscribe();
        // The sender is here, so that it does not end.
        let _ = forgetting.wait_for(|all| !all.contains(&id)).await;
    }
}

/// What the rounds of all checks came to since the daemon started.
#[derive(Debug, Default)]
pub struct Rounds {
    statuses: [AtomicU64; Status::EACH.len()],
    kisses: [AtomicU64; KISSES.len()],
}

impl Rounds {
    pub(super) fn count(&self, round: &Round) {
        self.statuses[round.status as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(code) = round.kiss.as_deref() {
            let known = KISSES.iter().position(|it| *it == code);
            self.kisses[known.unwrap_or(KISSES.len() - 1)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many came to each status.
    pub fn by_status(&self) -> impl Iterator<Item = (Status, u64)> {
        Status::EACH.into_iter().zip(counts(&self.statuses))
    }

    /// In how many a server sent each kiss.
    pub fn kisses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KISSES.into_iter().zip(counts(&self.kisses))
    }
}

fn counts(counters: &[AtomicU64]) -> impl Iterator<Item = u64> {
    counters.iter().map(|it| it.load(Ordering::Relaxed))
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
    pub(super) source: Source,
    pub(super) wish: watch::Sender<Wish>,
    /// By address.
    pub(super) latest: RwLock<Vec<Latest>>,
    pub(super) task: Mutex<Option<AbortHandle>>,
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

impl Latest {
    /// What it was told last. One that is not asked any more was told nothing that still counts.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        self.round.time.filter(|_| !self.stopped)
    }
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

impl Check {
    pub(super) fn new(definition: Definition, source: Source, wish: Wish) -> Self {
        let name: Arc<str> = definition.name().into();
        Self {
            id: CheckId::of(&name),
            name,
            server: definition.server.to_string().into(),
            definition,
            source,
            wish: watch::Sender::new(wish),
            latest: RwLock::default(),
            task: Mutex::default(),
        }
    }

    /// How an address was found, or the name where it has none.
    pub(super) fn found(
        &self,
        address: Option<SocketAddr>,
        round: Arc<Round>,
        reach: Reach,
    ) -> Latest {
        Latest {
            check: self.id,
            name: Arc::clone(&self.name),
            server: Arc::clone(&self.server),
            address,
            round,
            reach,
            last_success: None,
            interval: self.definition.interval,
            stopped: false,
            paused: false,
        }
    }

    pub(super) fn shown(&self) -> Shown {
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

    pub(super) fn end(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Failure;

    #[test]
    fn rounds_are_counted_by_status_and_kisses_by_code_however_many_codes_there_are() {
        let rounds = Rounds::default();
        for code in ["RATE", "RATE", "RSTR", "STEP", "XABC"] {
            let code = code.to_owned();
            rounds.count(&Round::failed(
                &Failure::KissOfDeath { code: code.clone() },
                0,
            ));
            rounds.count(&Round {
                kiss: Some(code),
                ..Round::failed(&Failure::Refused, 0)
            });
        }
        let kisses: Vec<_> = rounds.kisses().collect();
        assert_eq!(
            kisses,
            [("RATE", 2), ("DENY", 0), ("RSTR", 1), ("other", 2)]
        );
        let told = rounds.by_status().filter(|(_, count)| *count > 0);
        let told: Vec<_> = told.collect();
        assert_eq!(told, [(Status::Refused, 5), (Status::KissOfDeath, 5)]);
    }
}
