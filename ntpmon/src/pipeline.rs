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
    ptp,
};

/// Takes the exchanges of one ring, on that ring's thread.
pub trait Sink: Send + 'static {
    /// An exchange is over: answered, or its time has run out.
    fn exchange(&mut self, exchange: &Exchange);

    /// A packet that belongs to no exchange; never [`Outcome::Exchange`].
    fn other(&mut self, outcome: &Outcome<'_>) {
        let _ = outcome;
    }

    /// A PTP message, where they are watched.
    fn ptp(&mut self, message: &ptp::Message) {
        let _ = message;
    }

    /// This host's clock was stepped, `unix` nanoseconds after 1970 by the new time. Told to one
    /// ring only, whichever sees it first.
    fn clock_stepped(&mut self, step: Step, unix: i64) {
        let _ = (step, unix);
    }

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

    fn other(&mut self, outcome: &Outcome<'_>) {
        self.0.other(outcome);
        if let Some(second) = &mut self.1 {
            second.other(outcome);
        }
    }

    fn ptp(&mut self, message: &ptp::Message) {
        self.0.ptp(message);
        if let Some(second) = &mut self.1 {
            second.ptp(message);
        }
    }

    fn clock_stepped(&mut self, step: Step, unix: i64) {
        self.0.clock_stepped(step, unix);
        if let Some(second) = &mut self.1 {
            second.clock_stepped(step, unix);
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
            } else {
                sink.other(&outcome);
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
            Drained::Ptp(event) => sink.ptp(&ptp::Message {
                event: *event,
                unix: utc.unix(event.time),
                frame: 0,
            }),
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
            if let Some(nanoseconds) = step.set() {
                tracing::warn!(
                    "this host's clock was stepped by {:.6} s",
                    nanoseconds as f64 / 1e9
                );
            }
            let unix = self.utc.unix(clock::monotonic());
            self.sink.clock_stepped(step, unix);
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
            // To wake up is no step.
            steps.told += u64::from(step.set().is_some());
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
    /// PTP messages of the same time, where they are wanted.
    pub ptp: Vec<ptp::Message>,
}

impl Batch {
    /// Lines that it comes to.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        (self.exchanges.len() + self.ptp.len()) as u64
    }
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
    /// Nothing where PTP is not wanted.
    ptp: Option<Vec<ptp::Message>>,
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
            ptp: None,
            passed: Arc::clone(passed),
        }
    }

    /// Passes PTP messages on too.
    #[must_use]
    pub fn with_ptp(self) -> Self {
        Self {
            ptp: Some(Vec::new()),
            ..self
        }
    }

    fn send(&mut self) {
        let batch = Batch {
            interface: Arc::clone(&self.interface),
            exchanges: std::mem::take(&mut self.batch),
            ptp: self.ptp.as_mut().map(std::mem::take).unwrap_or_default(),
        };
        let count = batch.lines();
        if count == 0 {
            return;
        }
        self.passed.offered.fetch_add(count, Ordering::Release);
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

    fn ptp(&mut self, message: &ptp::Message) {
        let Some(batch) = &mut self.ptp else {
            return;
        };
        batch.push(*message);
        if batch.len() >= BATCH {
            self.send();
        }
    }

    fn publish(&mut self, _: &Totals, _: i64) {
        self.send();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use ntpmon_common::Event;

    use super::*;

    /// Remembers what it was given.
    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Given>>);

    #[derive(Default)]
    struct Given {
        exchanges: Vec<Exchange>,
        published: Vec<(Totals, i64)>,
        steps: Vec<(Step, i64)>,
    }

    impl Taken {
        fn exchanges(&self) -> Vec<Exchange> {
            self.0.lock().unwrap().exchanges.clone()
        }

        fn published(&self) -> Vec<(Totals, i64)> {
            self.0.lock().unwrap().published.clone()
        }
    }

    impl Sink for Taken {
        fn exchange(&mut self, exchange: &Exchange) {
            self.0.lock().unwrap().exchanges.push(*exchange);
        }

        fn clock_stepped(&mut self, step: Step, unix: i64) {
            self.0.lock().unwrap().steps.push((step, unix));
        }

        fn publish(&mut self, totals: &Totals, unix: i64) {
            self.0.lock().unwrap().published.push((*totals, unix));
        }
    }

    fn request(number: u8) -> Event {
        let mut event = Event {
            time: clock::monotonic(),
            source: [1; 16],
            destination: [2; 16],
            source_port: 40_000,
            destination_port: 123,
            payload_length: 48,
            ..Event::EMPTY
        };
        event.ntp.0[0] = 0x23;
        event.ntp.0[47] = number;
        event
    }

    fn response(request: &Event) -> Event {
        let mut event = Event {
            time: request.time + 1000,
            source: request.destination,
            destination: request.source,
            source_port: request.destination_port,
            destination_port: request.source_port,
            ..*request
        };
        event.ntp.0[0] = 0x24;
        event.ntp.0[24..32].copy_from_slice(&request.ntp.0[40..48]);
        event
    }

    #[test]
    fn events_become_exchanges_for_every_sink_and_totals_at_the_end_of_each_batch() {
        let (one, other) = (Taken::default(), Taken::default());
        let sink = (one.clone(), Some(other.clone()));
        let mut take =
            Consumer::new(pair::Settings::default(), &Host::default(), sink).into_closure();
        let (first, second) = (request(1), request(2));
        take(Drained::Begin);
        take(Drained::Event(&first));
        take(Drained::Event(&response(&first)));
        take(Drained::Event(&second));
        take(Drained::End {
            now: clock::monotonic(),
        });
        take(Drained::Finished);
        for taken in [one, other] {
            let exchanges = taken.exchanges();
            let answered: Vec<bool> = exchanges.iter().map(|it| it.response.is_some()).collect();
            assert_eq!(answered, [true, false]);
            let published = taken.published();
            let counts: Vec<_> = published
                .iter()
                .map(|(totals, _)| (totals.packets(), totals.answered, totals.unanswered))
                .collect();
            assert_eq!(counts, [(3, 1, 0), (3, 1, 1)]);
            let seen = exchanges[0].request.unix;
            for (_, unix) in published {
                assert!(
                    (0..60_000_000_000).contains(&(unix - seen)),
                    "{unix} {seen}"
                );
            }
        }
    }

    /// Under a load that is too much for its thread: there are only beginnings.
    #[test]
    fn a_ring_that_never_runs_empty_is_told_of_nevertheless_and_an_idle_one_once() {
        let taken = Taken::default();
        let settings = pair::Settings::default();
        let mut take = Consumer::new(settings, &Host::default(), taken.clone()).into_closure();
        take(Drained::Begin);
        assert_eq!(taken.published().len(), 0);
        for number in 1..=3 {
            take(Drained::Event(&request(number)));
            take(Drained::Begin);
            let published = taken.published();
            assert_eq!(published.len(), usize::from(number));
            assert_eq!(published.last().unwrap().0.requests, u64::from(number));
        }
        take(Drained::End {
            now: clock::monotonic(),
        });
        take(Drained::Begin);
        assert_eq!(taken.published().len(), 4);
    }

    #[test]
    fn a_step_of_this_hosts_clock_is_handed_on_once_to_every_sink_with_the_new_time() {
        const STEP: i64 = -2_000_000_000;
        const OPEN: u64 = 500_000_000;
        let (one, other) = (Taken::default(), Taken::default());
        let sink = (one.clone(), Some(other.clone()));
        let mut consumer = Consumer::new(pair::Settings::default(), &Host::default(), sink);
        consumer.utc = consumer.utc.before_a_step(STEP);
        let mut take = consumer.into_closure();
        for _ in 0..3 {
            take(Drained::Begin);
            take(Drained::End {
                now: clock::monotonic(),
            });
        }
        for taken in [one, other] {
            let steps = taken.0.lock().unwrap().steps.clone();
            let [(step, unix)] = steps[..] else {
                panic!("{steps:?}");
            };
            assert!(step.nanoseconds.abs_diff(STEP) < OPEN, "{step:?}");
            assert_eq!(step.slept, 0);
            assert!(unix.abs_diff(clock::utc()) < OPEN, "{unix}");
        }
    }

    #[test]
    fn a_step_that_every_ring_sees_is_told_once() {
        let host = Host::default();
        let step = |nanoseconds| Step {
            nanoseconds,
            slept: 0,
        };
        assert!(host.is_news(step(1_000_000_000)));
        assert!(!host.clone().is_news(step(1_000_150_000)));
        assert!(host.is_news(step(-1_000_000_000)));
        assert_eq!(host.clock_steps(), 2);
    }

    #[test]
    fn what_finds_no_place_is_left_out_and_counted() {
        let (to, from) = sync_channel(1);
        let passed = Arc::default();
        let mut sink = PassOn::new("eth0", to, &passed);
        let exchange = {
            let taken = Taken::default();
            let settings = pair::Settings::default();
            let mut take = Consumer::new(settings, &Host::default(), taken.clone()).into_closure();
            take(Drained::Event(&request(1)));
            take(Drained::Finished);
            taken.exchanges()[0]
        };
        // A full batch goes by itself, a begun one when it is asked for.
        for _ in 0..=BATCH {
            sink.exchange(&exchange);
        }
        assert_eq!((passed.offered(), passed.refused()), (BATCH as u64, 0));
        sink.publish(&Totals::default(), 0);
        sink.publish(&Totals::default(), 0);
        assert_eq!((passed.offered(), passed.refused()), (BATCH as u64 + 1, 1));
        let batch = from.recv().unwrap();
        assert_eq!((&*batch.interface, batch.exchanges.len()), ("eth0", BATCH));
        // Nobody is there any more.
        drop(from);
        sink.exchange(&exchange);
        sink.publish(&Totals::default(), 0);
        assert_eq!((passed.offered(), passed.refused()), (BATCH as u64 + 2, 2));
    }
}
