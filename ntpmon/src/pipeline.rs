//! What one ring's thread does with its events: pair them, time the exchanges, hand those to
//! whoever wants them. Nothing is queued here: a sink that cannot keep up merges or counts.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    capture::Drained,
    netlink,
    ntp::{
        Stamped,
        clock::{self, Step, UtcOffset},
        exchange::{Exchange, LocalAddresses, Timekeeper},
        pair::{self, Outcome, Pairer, Totals},
    },
};

/// Takes the exchanges of one ring, on that ring's thread.
pub trait Sink: Send + 'static {
    /// An exchange is over: answered, or its time has run out.
    fn exchange(&mut self, exchange: &Exchange);

    /// A batch is over. `totals` is what was counted since the ring's capture began, `unix` the
    /// time in nanoseconds since 1970.
    fn publish(&mut self, totals: &Totals, unix: i64);
}

/// Two sinks, the second one only where it is wanted.
impl<A: Sink, B: Sink> Sink for (A, Option<B>) {
    fn exchange(&mut self, exchange: &Exchange) {
        self.0.exchange(exchange);
        if let Some(second) = &mut self.1 {
            second.exchange(exchange);
        }
    }

    fn publish(&mut self, totals: &Totals, unix: i64) {
        self.0.publish(totals, unix);
        if let Some(second) = &mut self.1 {
            second.publish(totals, unix);
        }
    }
}

/// Takes the events of one ring.
#[derive(Debug)]
pub struct Consumer<S> {
    pairer: Pairer,
    timekeeper: Timekeeper,
    utc: UtcOffset,
    host: Host,
    addresses: Arc<LocalAddresses>,
    /// Packets that the totals held which were published last.
    published: u64,
    sink: S,
}

impl<S: Sink> Consumer<S> {
    /// Made for one ring, to be moved to its thread.
    #[must_use]
    pub fn new(settings: pair::Settings, host: &Host, sink: S) -> Self {
        Self {
            pairer: Pairer::new(settings),
            timekeeper: Timekeeper::default(),
            utc: UtcOffset::now(),
            addresses: host.addresses(),
            host: host.clone(),
            published: 0,
            sink,
        }
    }

    /// As a capture wants it.
    pub fn into_closure(mut self) -> impl FnMut(Drained<'_>) + Send + 'static {
        move |drained| self.take(drained)
    }

    fn take(&mut self, drained: Drained<'_>) {
        let Self {
            pairer,
            timekeeper,
            utc,
            addresses,
            sink,
            ..
        } = self;
        let mut deliver = |outcome: Outcome<'_>| {
            if let Outcome::Exchange(pair) = outcome {
                sink.exchange(&timekeeper.exchange(pair, addresses));
            }
        };
        match drained {
            Drained::Begin => {
                // Under a load that never lets the ring run empty, this is all that is told.
                if self.pairer.totals().packets() != self.published {
                    self.publish(clock::monotonic());
                }
                self.addresses = self.host.addresses();
                self.look_at_clock();
            }
            Drained::Event(event) => {
                let packet = Stamped {
                    event: *event,
                    unix: utc.unix(event.time),
                    frame: 0,
                };
                pairer.observe(&packet, &mut deliver);
            }
            Drained::End { now } => {
                pairer.advance(now, &mut deliver);
                self.publish(now);
            }
            Drained::Finished => {
                pairer.flush(&mut deliver);
                self.publish(clock::monotonic());
            }
        }
    }

    fn look_at_clock(&mut self) {
        let Some(step) = self.utc.refresh() else {
            return;
        };
        if self.host.is_news(step) {
            tracing::warn!(
                "this host's clock was stepped by {:.6} s",
                step.nanoseconds as f64 / 1e9
            );
        }
    }

    fn publish(&mut self, now: u64) {
        let totals = self.pairer.totals();
        self.published = totals.packets();
        self.sink.publish(totals, self.utc.unix(now));
    }
}

/// What the threads of all rings know in common of this host: its addresses, as they are now, and
/// the steps of its clock.
#[derive(Clone, Debug, Default)]
pub struct Host(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    addresses: RwLock<Arc<LocalAddresses>>,
    clock_steps: Mutex<Steps>,
}

/// Steps of this host's clock that were told.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    told: u64,
    last: Option<(Instant, i64)>,
}

/// Within this, and this many nanoseconds apart, two threads have seen the same step.
const SAME_STEP: (Duration, u64) = (Duration::from_secs(1), 200_000);

impl Host {
    /// The addresses at this moment. Who works with packets takes them once for each batch.
    #[must_use]
    pub fn addresses(&self) -> Arc<LocalAddresses> {
        // A writer only swaps a pointer: what one that died left is whole.
        let addresses = self.0.addresses.read();
        Arc::clone(&addresses.unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the kernel for the addresses again.
    ///
    /// # Errors
    /// When the kernel does not answer; the addresses stay as they were.
    pub fn refresh_addresses(&self) -> Result<()> {
        let addresses = Arc::new(netlink::addresses()?);
        let mut current = self
            .0
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = addresses;
        Ok(())
    }

    /// How often the clock was stepped while packets were watched.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.steps().told
    }

    /// Whether no other thread has told this step: every ring's sees each, and measures it a
    /// little differently.
    fn is_news(&self, step: Step) -> bool {
        let now = Instant::now();
        let mut steps = self.steps();
        let known = steps.last.is_some_and(|(when, nanoseconds)| {
            now.duration_since(when) < SAME_STEP.0
                && nanoseconds.abs_diff(step.nanoseconds) < SAME_STEP.1
        });
        if !known {
            steps.told += 1;
            steps.last = Some((now, step.nanoseconds));
        }
        !known
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        let steps = self.0.clock_steps.lock();
        // Whatever a thread that died held is a plain number.
        steps.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exchanges of one interface on their way to a thread that does what may take time: to print
/// them, to write them into a file.
#[derive(Debug)]
pub struct Batch {
    /// Where they were seen.
    pub interface: Arc<str>,
    /// In the order in which they ended.
    pub exchanges: Vec<Exchange>,
}

/// Exchanges in a batch, at most.
const BATCH: usize = 1024;
/// Batches on the way, at most: some 23 MB when nobody takes them.
pub const BATCHES: usize = 64;

/// What was to be passed on, and what found no place: the thread at the other end was too slow, or
/// is gone.
#[derive(Debug, Default)]
pub struct Passed {
    offered: AtomicU64,
    refused: AtomicU64,
}

impl Passed {
    /// Exchanges that were to be passed on.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered.load(Ordering::Acquire)
    }

    /// Of those, the ones that found no place.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Acquire)
    }
}

/// A sink that passes exchanges on to another thread, over a bounded channel. It never waits: what
/// finds no place is left out, and counted.
#[derive(Debug)]
pub struct PassOn {
    interface: Arc<str>,
    to: SyncSender<Batch>,
    batch: Vec<Exchange>,
    passed: Arc<Passed>,
}

impl PassOn {
    /// For one ring of an interface.
    #[must_use]
    pub fn new(interface: &str, to: SyncSender<Batch>, passed: &Arc<Passed>) -> Self {
        Self {
            interface: interface.into(),
            to,
            batch: Vec::new(),
            passed: Arc::clone(passed),
        }
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let count = self.batch.len() as u64;
        self.passed.offered.fetch_add(count, Ordering::Release);
        let batch = Batch {
            interface: Arc::clone(&self.interface),
            exchanges: std::mem::take(&mut self.batch),
        };
        if self.to.try_send(batch).is_err() {
            self.passed.refused.fetch_add(count, Ordering::Release);
        }
    }
}

impl Sink for PassOn {
    fn exchange(&mut self, exchange: &Exchange) {
        self.batch.push(*exchange);
        if self.batch.len() >= BATCH {
            self.send();
        }
    }

    fn publish(&mut self, _: &Totals, _: i64) {
        self.send();
    }
}
