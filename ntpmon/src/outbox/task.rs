//! One destination: what waits for it, and the task that delivers that, one after the other.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use super::{Deliver, Delivery, Entry, Failure, Policy, Progress, Shared, Standing, WAITING};

/// After the first failure; each time twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// No longer than this.
const LAST_RETRY: Duration = Duration::from_secs(300);

/// A destination.
pub(super) struct Destination {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

/// An entry, and for how long it waits: counted while the daemon runs, so that a clock that is stepped
/// gives nothing up.
struct Waiting {
    entry: Entry,
    since: Instant,
    before: Duration,
}

impl Waiting {
    fn new(entry: Entry) -> Self {
        Self {
            entry,
            since: Instant::now(),
            before: Duration::ZERO,
        }
    }

    /// One of an earlier life: only the clock knows how long that is ago.
    fn left(entry: Entry) -> Self {
        let before = Duration::try_from(Timestamp::now().duration_since(entry.created));
        Self {
            before: before.unwrap_or_default(),
            ..Self::new(entry)
        }
    }

    fn age(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

/// What the task and all others have in common.
struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    way: Mutex<(Policy, Deliver)>,
    standing: Mutex<Standing>,
    /// There is something, or there is another way.
    wake: Notify,
    ended: watch::Sender<bool>,
}

impl Destination {
    pub(super) fn start(
        shared: &Arc<Shared>,
        waiting: VecDeque<Entry>,
        policy: Policy,
        deliver: Deliver,
    ) -> Self {
        let (ended, end) = watch::channel(false);
        let queue = Arc::new(Queue {
            waiting: Mutex::new(waiting.into_iter().map(Waiting::left).collect()),
            way: Mutex::new((policy, deliver)),
            standing: Mutex::default(),
            wake: Notify::new(),
            ended,
        });
        let run = run(
            Arc::clone(shared),
            Arc::clone(&queue),
            shared.stopping.subscribe(),
            end,
        );
        Self {
            queue,
            task: shared.runtime.spawn(run),
        }
    }

    pub(super) fn change(&self, policy: Policy, deliver: Deliver) {
        *self.queue.way.lock() = (policy, deliver);
        self.queue.wake.notify_one();
    }

    /// Adds an entry. Where there is no room for it, gives back the oldest that is not under way.
    pub(super) fn push(&self, entry: Entry) -> Option<Entry> {
        let mut waiting = self.queue.waiting.lock();
        let is_full = waiting.len() >= WAITING;
        let oldest = is_full.then(|| waiting.remove(1)).flatten();
        waiting.push_back(Waiting::new(entry));
        // One that waits to be tried again is not hurried by what comes after it.
        let is_first = waiting.len() == 1;
        drop(waiting);
        if oldest.is_some() {
            self.queue.standing.lock().failed += 1;
        }
        if is_first {
            self.queue.wake.notify_one();
        }
        oldest.map(|it| it.entry)
    }

    pub(super) fn offer(&self, entry: Entry) {
        let mut waiting = self.queue.waiting.lock();
        if waiting.is_empty() {
            waiting.push_back(Waiting::new(entry));
            drop(waiting);
            self.queue.wake.notify_one();
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            waiting: self.queue.waiting.lock().len(),
            ..self.queue.standing.lock().clone()
        }
    }

    /// Ends it. Gives back what waits; what is under way may still arrive.
    pub(super) fn end(&self) -> Vec<Entry> {
        self.queue.ended.send_replace(true);
        let mut waiting = self.queue.waiting.lock();
        waiting.drain(..).map(|it| it.entry).collect()
    }

    /// When it has ended, after it was told to stop.
    pub(super) async fn ended(self) {
        // It may have ended by a bug, which the log has.
        let _ = self.task.await;
    }
}

async fn run(
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    mut stopping: watch::Receiver<bool>,
    mut end: watch::Receiver<bool>,
) {
    loop {
        if *stopping.borrow_and_update() || *end.borrow_and_update() {
            return;
        }
        let first = queue
            .waiting
            .lock()
            .front()
            .map(|it| (it.entry.clone(), it.age()));
        let pause = match first {
            Some((entry, age)) => deliver(&shared, &queue, entry, age).await,
            None => Some(None),
        };
        let Some(pause) = pause else { continue };
        let over = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        // Either it was told, or nobody is left to tell it.
        tokio::select! {
            () = over => {}
            () = queue.wake.notified() => {}
            _ = stopping.changed() => {}
            _ = end.changed() => {}
        }
    }
}

/// Tries to deliver the first entry. Says how long to wait before the next try, if at all.
async fn deliver(
    shared: &Arc<Shared>,
    queue: &Queue,
    mut entry: Entry,
    age: Duration,
) -> Option<Option<Duration>> {
    let (policy, deliver) = queue.way.lock().clone();
    entry.attempts = entry.attempts.saturating_add(1);
    let begun = Instant::now();
    let sent = entry.clone();
    let result = match spawn_blocking(move || deliver(&sent)).await {
        Ok(result) => result,
        Err(error) => Err(Failure::for_now(format!("delivering met a bug: {error}"))),
    };
    let now = Timestamp::now();
    let mut delivery = Delivery {
        last_attempt: Some(now),
        ..Delivery::of(&entry, Progress::Delivered)
    };
    let failure = match result {
        Ok(()) => {
            tracing::debug!("'{}' was delivered to {}", entry.subject, entry.destination);
            shared.finish(&delivery);
            queue.pop(entry.number);
            let mut standing = queue.standing.lock();
            standing.delivered += 1;
            standing.last_delivered = Some(now);
            standing.error = None;
            return None;
        }
        Err(failure) => failure,
    };
    let retry = backoff(entry.attempts);
    let next = now + SignedDuration::try_from(retry).unwrap_or_default();
    let too_late = age + begun.elapsed() + retry > policy.max_age;
    entry.refusals += u32::from(failure.most.is_some());
    let given_up = failure.is_final
        || too_late
        || entry.attempts >= policy.max_attempts
        || failure.most.is_some_and(|most| entry.refusals >= most);
    queue.standing.lock().error = Some(failure.why.clone());
    delivery.error = Some(failure.why.clone());
    if given_up || entry.number == 0 {
        tracing::error!(
            "'{}' was not delivered to {}, at attempt {}, and is given up: {}",
            entry.subject,
            entry.destination,
            entry.attempts,
            failure.why
        );
        delivery.state = Progress::Failed;
        shared.finish(&delivery);
        queue.pop(entry.number);
        queue.standing.lock().failed += 1;
        return None;
    }
    tracing::warn!(
        "'{}' was not delivered to {}, at attempt {}; it is tried again in {:.1} s: {}",
        entry.subject,
        entry.destination,
        entry.attempts,
        retry.as_secs_f64(),
        failure.why
    );
    delivery.state = Progress::Waiting;
    delivery.next_attempt = Some(next);
    // It may have been given up meanwhile, with its destination.
    let mut waiting = queue.waiting.lock();
    let first = waiting
        .front_mut()
        .filter(|it| it.entry.number == entry.number)?;
    (first.entry.attempts, first.entry.refusals) = (entry.attempts, entry.refusals);
    shared.note(&entry, &delivery);
    Some(Some(retry))
}

impl Queue {
    /// Takes away the first, if it is still this one.
    fn pop(&self, number: u64) {
        let mut waiting = self.waiting.lock();
        if waiting.front().is_some_and(|it| it.entry.number == number) {
            waiting.pop_front();
        }
    }
}

/// How long to wait after so many failures: longer each time, and never the same, so that many who
/// failed together do not come back together.
fn backoff(attempts: u32) -> Duration {
    let doubled = attempts.saturating_sub(1).min(16);
    let wait = FIRST_RETRY.saturating_mul(1 << doubled).min(LAST_RETRY);
    let mut random = [128];
    // Without randomness it is the middle.
    let _ = getrandom::fill(&mut random);
    wait.mul_f64(0.75 + f64::from(random[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_bound() {
        for (attempts, seconds) in [
            (1, 1.0),
            (2, 2.0),
            (5, 16.0),
            (9, 256.0),
            (10, 300.0),
            (99, 300.0),
        ] {
            let waits: Vec<_> = (0..50).map(|_| backoff(attempts).as_secs_f64()).collect();
            assert!(
                waits
                    .iter()
                    .all(|it| (seconds * 0.75..=seconds * 1.25).contains(it))
            );
            assert!(waits.iter().any(|it| (it - waits[0]).abs() > 1e-9));
        }
    }
}
