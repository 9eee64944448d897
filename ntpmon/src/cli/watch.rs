//! `ntpmon watch`: exchanges as they pair, and the totals at the end.
//!
//! Each ring's thread pairs and times. What is to be printed goes to a printer of its own over a
//! bounded channel: when whoever reads the output is too slow, lines are left out and counted,
//! never packets.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ntpmon_common::{Counter, Counters, settings::MAX_RINGS};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::MissedTickBehavior,
};

use super::{
    Pairing,
    output::{Format, Printer},
    summary,
};
use crate::{
    capture::{Drained, Settings},
    monitor::{Addresses, Change, Ended, Monitor, overlaps},
    netlink::{self, Changes, Interface},
    ntp::{
        Stamped,
        clock::{Step, UtcOffset},
        exchange::{Exchange, LocalAddresses, Timekeeper},
        pair::{self, Outcome, Pairer, Totals},
    },
};

/// Print NTP exchanges live as they pair
///
/// Needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. Ends on Ctrl-C with the
/// totals, on standard error. Several interfaces are watched at once; one that goes away is picked
/// up again when it comes back. Packets are never dropped for a slow reader: lines are, and counted.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// An interface; may be given several times [default: that of the default route]
    #[arg(short, long = "interface", value_name = "NIC")]
    interfaces: Vec<String>,
    #[command(flatten)]
    pairing: Pairing,
    /// Take incoming packets at XDP, before the kernel's own network code, where that is possible
    #[arg(long)]
    xdp: bool,
    /// Look for NTP inside GRE, IP-in-IP and VXLAN too
    #[arg(long)]
    decapsulate: bool,
    /// How to print exchanges [default: table]
    #[arg(long, value_enum, conflicts_with = "summary")]
    format: Option<Format>,
    /// Print no exchanges, only the totals at the end, as one JSON object
    #[arg(long)]
    summary: bool,
    /// Rings for each interface, each with a thread of its own: 1, 2 or 4
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_rings)]
    rings: usize,
    /// Size of each ring in KiB, rounded up to a power of two [default: 16384 for all together]
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=1 << 20))]
    ring_size: Option<u32>,
    /// Leave programs and rings in the kernel at the end, and take over those that are there: a
    /// restart loses no packet. `ntpmon cleanup` removes them
    #[arg(long)]
    pin: bool,
    /// Have the kernel programs log each NTP packet: to find faults, too slow for full load
    #[arg(long)]
    debug: bool,
}

/// How often an interface that could not be captured is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long whoever reads the output gets for the last of it.
const LAST_LINES: Duration = Duration::from_secs(1);

fn parse_rings(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(rings @ (1 | 2 | 4)) if rings <= MAX_RINGS => Ok(rings),
        _ => bail!("{text} is not 1, 2 or 4"),
    }
}

impl Watch {
    pub(super) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        runtime.block_on(self.watch())
    }

    async fn watch(self) -> Result<()> {
        // Before anything is attached: a Ctrl-C from here on ends in order.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // The terminal, or the connection that it was on, is gone.
        let mut hangup = signal(SignalKind::hangup())?;
        // SAFETY: the socket inside is the same, and open, until `changes` is dropped.
        let changes = unsafe { AsyncFd::register(Changes::new()?) }?;
        let all = netlink::interfaces()?;
        let chosen = self.choose(&all)?;
        for (one, other) in overlaps(&all, &chosen) {
            tracing::warn!(
                "{one} and {other} lie on one way: a packet that passes both is counted on both"
            );
        }

        let shared = Shared::default();
        let (output, printing) = self.output(&shared)?;
        shared.addresses.refresh()?;
        let pairing = pair::Settings {
            timeout: self.pairing.timeout_nanoseconds(),
            ports: self.pairing.ports(),
            ..pair::Settings::default()
        }
        .shared_by(chosen.len() * self.rings);
        let consumer = |interface: &Interface| {
            Consumer::new(interface, pairing.clone(), &shared, output.clone())
        };
        let mut monitor = Monitor::new(self.settings(), shared.addresses.clone());
        let modes = monitor.start(&chosen, |interface| consumer(interface).into_closure())?;
        for (name, mode) in modes {
            tracing::info!("watching {name}: {mode}");
        }

        let mut reader_gone = printing.gone.clone();
        let mut retry = tokio::time::interval(RETRY);
        // Not all that was missed while there was nothing to retry.
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the kernel told and could not be followed yet.
        let mut deleted = Vec::new();
        let mut behind = false;
        loop {
            let told = tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hangup.recv() => break,
                _ = reader_gone.wait_for(|gone| *gone) => break,
                ready = changes.readable() => {
                    let mut ready = ready?;
                    let deleted = ready.get_inner().drain();
                    ready.clear_ready();
                    deleted
                }
                _ = retry.tick(), if behind || monitor.must_retry() => Vec::new(),
            };
            deleted.extend(told);
            let followed = monitor.follow(&deleted, |interface| consumer(interface).into_closure());
            behind = followed.is_err();
            match followed {
                Ok(changes) => {
                    deleted.clear();
                    changes.iter().for_each(tell);
                }
                // What is captured goes on; the next change, or the next try, asks again.
                Err(error) => tracing::error!("following the interfaces: {error:#}"),
            }
        }

        let interfaces = monitor.stop();
        drop(output);
        printing.finish()?;
        self.conclude(&interfaces, &shared)
    }

    fn choose(&self, all: &[Interface]) -> Result<Vec<Interface>> {
        let mut names = self.interfaces.clone();
        if names.is_empty() {
            let default = netlink::default_route_interface()?.context(
                "there is no default route to take the interface from: name one with -i",
            )?;
            names.push(default);
        }
        names.sort();
        names.dedup();
        names
            .iter()
            .map(|name| netlink::find(all, name).cloned())
            .collect()
    }

    fn settings(&self) -> Settings {
        Settings {
            ports: self.pairing.ports(),
            xdp: self.xdp,
            rings: self.rings,
            ring_bytes: self
                .ring_size
                .map_or(RINGS_BYTES / self.rings as u32, |kibibytes| {
                    kibibytes * 1024
                }),
            decapsulate: self.decapsulate,
            debug: self.debug,
            pin: self.pin,
        }
    }

    /// Where exchanges go, and the thread that writes them; nowhere when only totals are wanted.
    fn output(&self, shared: &Shared) -> Result<(Option<SyncSender<Batch>>, Printing)> {
        let (tell_gone, gone) = watch::channel(false);
        if self.summary {
            // Nobody prints, so nobody is told; the channel stays open beside the thread.
            let printing = Printing {
                thread: None,
                gone,
                _tell_gone: Some(tell_gone),
            };
            return Ok((None, printing));
        }
        let format = self.format.unwrap_or(Format::Table);
        let (sender, receiver) = sync_channel(BATCHES);
        let printed = Arc::clone(&shared.printed);
        let thread = thread::Builder::new()
            .name("printer".to_owned())
            .spawn(move || {
                let result = print(&receiver, format, &printed);
                tell_gone.send_replace(true);
                result
            })
            .context("starting the printer")?;
        let printing = Printing {
            thread: Some(thread),
            gone,
            _tell_gone: None,
        };
        Ok((Some(sender), printing))
    }

    fn conclude(&self, interfaces: &[Ended], shared: &Shared) -> Result<()> {
        let mut counters = Counters::default();
        for ended in interfaces {
            counters.add(&ended.counters);
        }
        let totals = shared.totals();
        let unprinted = shared.unprinted();
        let as_json = self.summary || self.format == Some(Format::Ndjson);
        let text = if as_json {
            let mut object = summary::object(&counters, &totals);
            object.insert("lost".into(), counters.get(Counter::RingFull).into());
            object.insert("unprinted".into(), unprinted.into());
            object.insert("clock_steps".into(), lock(&shared.clock_steps).told.into());
            let interfaces = interfaces
                .iter()
                .map(|ended| summary::interface(&ended.name, &ended.mode, &ended.counters))
                .collect::<Vec<_>>();
            object.insert("interfaces".into(), interfaces.into());
            format!("{}\n", serde_json::to_string(&object)?)
        } else {
            let mut text = String::from("\n");
            if interfaces.len() > 1 {
                for Ended {
                    name,
                    mode,
                    counters: share,
                    ..
                } in interfaces
                {
                    text += &format!(
                        "{:>14}  NTP packets on {name} ({mode})\n",
                        share.ntp_packets()
                    );
                }
            }
            text += &summary::lines(&counters, &totals);
            if unprinted > 0 {
                text +=
                    &format!("{unprinted:>14}  exchanges not printed: the output was too slow\n");
            }
            text
        };
        let written = if self.summary {
            io::stdout().write_all(text.as_bytes())
        } else {
            io::stderr().write_all(text.as_bytes())
        };
        match written {
            // Nobody wants to know.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.context("writing the totals")?,
        }
        if interfaces.iter().any(|ended| ended.died) {
            bail!("the totals are not whole: see above");
        }
        Ok(())
    }
}

fn tell(change: &Change) {
    match change {
        Change::Started(name) => tracing::info!("{name} is back: watching it again"),
        Change::Gone(name) => tracing::warn!("{name} is gone: waiting for it to come back"),
        Change::Failed(name, why) => tracing::error!("{name} cannot be watched: {why}"),
    }
}

/// What the threads of all rings have in common.
#[derive(Clone, Default)]
struct Shared {
    addresses: Addresses,
    totals: Arc<Mutex<AllTotals>>,
    /// Exchanges that were to be printed, and those that were.
    offered: Arc<AtomicU64>,
    printed: Arc<AtomicU64>,
    clock_steps: Arc<Mutex<Steps>>,
}

/// Steps of this host's clock that were told.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    told: u64,
    last: Option<(Instant, i64)>,
}

/// Within this, and this many nanoseconds apart, two threads have seen the same step.
const SAME_STEP: (Duration, u64) = (Duration::from_secs(1), 200_000);

impl Shared {
    /// Whether no other thread has told this step: every ring's sees each, and measures it a
    /// little differently.
    fn is_news(&self, step: Step) -> bool {
        let now = Instant::now();
        let mut steps = lock(&self.clock_steps);
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

    fn new_totals(&self) -> Arc<Mutex<Totals>> {
        let totals = Arc::default();
        let mut all = lock(&self.totals);
        all.fold();
        all.rings.push(Arc::clone(&totals));
        totals
    }

    fn totals(&self) -> Totals {
        let all = lock(&self.totals);
        let mut sum = all.ended;
        for totals in &all.rings {
            sum.add(&lock(totals));
        }
        sum
    }

    fn unprinted(&self) -> u64 {
        let printed = self.printed.load(Ordering::Acquire);
        self.offered.load(Ordering::Acquire).saturating_sub(printed)
    }
}

/// What the rings' threads counted.
#[derive(Default)]
struct AllTotals {
    /// Of those that have ended: an interface may come and go without end.
    ended: Totals,
    rings: Vec<Arc<Mutex<Totals>>>,
}

impl AllTotals {
    fn fold(&mut self) {
        let ended = &mut self.ended;
        self.rings.retain(|totals| {
            let runs = Arc::strong_count(totals) > 1;
            if !runs {
                ended.add(&lock(totals));
            }
            runs
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Whatever a thread that died held is a plain number.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Exchanges of one interface on their way to the printer.
struct Batch {
    interface: Arc<str>,
    exchanges: Vec<Exchange>,
}

/// All rings of an interface together, unless told otherwise: 47 ms of three million events a second.
const RINGS_BYTES: u32 = 16 << 20;

/// Exchanges in a batch, and batches on the way, at most: some 23 MB when nobody reads.
const BATCH: usize = 1024;
const BATCHES: usize = 64;

/// Takes the events of one ring.
struct Consumer {
    pairer: Pairer,
    utc: UtcOffset,
    shared: Shared,
    totals: Arc<Mutex<Totals>>,
    sink: Sink,
}

impl Consumer {
    fn new(
        interface: &Interface,
        settings: pair::Settings,
        shared: &Shared,
        output: Option<SyncSender<Batch>>,
    ) -> Self {
        Self {
            pairer: Pairer::new(settings),
            utc: UtcOffset::now(),
            totals: shared.new_totals(),
            sink: Sink {
                interface: interface.name.as_str().into(),
                timekeeper: Timekeeper::default(),
                addresses: shared.addresses.current(),
                output,
                batch: Vec::new(),
                offered: Arc::clone(&shared.offered),
            },
            shared: shared.clone(),
        }
    }

    fn into_closure(mut self) -> impl FnMut(Drained<'_>) + Send + 'static {
        move |drained| self.take(drained)
    }

    fn take(&mut self, drained: Drained<'_>) {
        let Self {
            pairer, utc, sink, ..
        } = self;
        match drained {
            Drained::Begin => {
                sink.addresses = self.shared.addresses.current();
                self.look_at_clock();
            }
            Drained::Event(event) => {
                let packet = Stamped {
                    event: *event,
                    unix: utc.unix(event.time),
                    frame: 0,
                };
                pairer.observe(&packet, &mut |outcome| sink.take(outcome));
            }
            Drained::End { now } => {
                pairer.advance(now, &mut |outcome| sink.take(outcome));
                self.publish();
            }
            Drained::Finished => {
                pairer.flush(&mut |outcome| sink.take(outcome));
                self.publish();
            }
        }
    }

    fn look_at_clock(&mut self) {
        let Some(step) = self.utc.refresh() else {
            return;
        };
        if self.shared.is_news(step) {
            tracing::warn!(
                "this host's clock was stepped by {:.6} s",
                step.nanoseconds as f64 / 1e9
            );
        }
    }

    fn publish(&mut self) {
        self.sink.send();
        *lock(&self.totals) = *self.pairer.totals();
    }
}

/// Where the exchanges of one ring go.
struct Sink {
    interface: Arc<str>,
    timekeeper: Timekeeper,
    addresses: Arc<LocalAddresses>,
    output: Option<SyncSender<Batch>>,
    batch: Vec<Exchange>,
    offered: Arc<AtomicU64>,
}

impl Sink {
    fn take(&mut self, outcome: Outcome<'_>) {
        let Outcome::Exchange(pair) = outcome else {
            return;
        };
        let exchange = self.timekeeper.exchange(pair, &self.addresses);
        if self.output.is_some() {
            self.batch.push(exchange);
            if self.batch.len() >= BATCH {
                self.send();
            }
        }
    }

    fn send(&mut self) {
        let Some(output) = &self.output else {
            return;
        };
        if self.batch.is_empty() {
            return;
        }
        let batch = Batch {
            interface: Arc::clone(&self.interface),
            exchanges: std::mem::take(&mut self.batch),
        };
        self.offered
            .fetch_add(batch.exchanges.len() as u64, Ordering::Release);
        // What finds no place, or no printer, stays unprinted, and is counted as that.
        let _ = output.try_send(batch);
    }
}

/// The thread that writes.
struct Printing {
    thread: Option<thread::JoinHandle<io::Result<()>>>,
    /// Becomes true when nothing more can be written.
    gone: watch::Receiver<bool>,
    _tell_gone: Option<watch::Sender<bool>>,
}

impl Printing {
    /// Waits for the last line. A reader that went away is no failure; one that does not read
    /// keeps nobody from ending.
    fn finish(self) -> Result<()> {
        let Some(thread) = self.thread else {
            return Ok(());
        };
        let end = Instant::now() + LAST_LINES;
        while !thread.is_finished() {
            if Instant::now() >= end {
                tracing::warn!("nobody reads standard output: leaving out what is not read");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        match thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(Err(error)) => Err(error).context("writing exchanges to standard output"),
            Err(_) => bail!("the printer died"),
        }
    }
}

fn print(batches: &Receiver<Batch>, format: Format, printed: &AtomicU64) -> io::Result<()> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let out = BufWriter::with_capacity(1 << 16, stdout.lock());
    let mut printer = Printer::new(out, format, false, terminal);
    // CSV begins with its names, also when nothing follows.
    printer.flush()?;
    while let Ok(mut batch) = batches.recv() {
        let mut count = 0;
        loop {
            for exchange in &batch.exchanges {
                printer.print(exchange, Some(&batch.interface))?;
            }
            count += batch.exchanges.len() as u64;
            match batches.try_recv() {
                Ok(next) => batch = next,
                Err(_) => break,
            }
        }
        printer.flush()?;
        printed.fetch_add(count, Ordering::Release);
    }
    Ok(())
}
