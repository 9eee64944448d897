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

use super::{Pairing, summary};
use crate::{
    monitor::{Change, Common, Ended, Monitor, Options, overlaps},
    netlink::{self, Changes, Interface},
    ntp::{exchange::Exchange, pair::Totals},
    output::{Format, Printer},
    pipeline::{BATCHES, Batch, Consumer, Host, PassOn, Passed, Sink},
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
    /// Recognise PTP too: print its messages, and at the end how many they were
    #[arg(long)]
    ptp: bool,
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
        super::check_ptp(self.ptp, self.format);
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
        shared.host.refresh_addresses()?;
        let options = self.options();
        let pairing = options.pairing().shared_by(chosen.len() * self.rings);
        let consumer = |interface: &Interface, _: &Options| {
            let printer = output.as_ref().map(|to| {
                let printer = PassOn::new(&interface.name, to.clone(), &shared.passed);
                if self.ptp {
                    printer.with_ptp()
                } else {
                    printer
                }
            });
            let sink = (shared.new_totals(), printer);
            Consumer::new(pairing.clone(), &shared.host, sink).into_closure()
        };
        let mut monitor = Monitor::new(self.common(), shared.host.clone());
        let modes = monitor.start_all(&chosen, &options, consumer)?;
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
            let followed = monitor.follow(&deleted, consumer);
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

        let interfaces = monitor.stop_all();
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

    fn options(&self) -> Options {
        Options {
            ports: self.pairing.ports(),
            timeout: self.pairing.timeout,
            xdp: self.xdp,
            output_file: None,
        }
    }

    fn common(&self) -> Common {
        Common {
            rings: self.rings,
            ring_bytes: self
                .ring_size
                .map_or(RINGS_BYTES / self.rings as u32, |kibibytes| {
                    kibibytes * 1024
                }),
            decapsulate: self.decapsulate,
            ptp: self.ptp,
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
            if self.ptp {
                object.insert("ptp_packets".into(), counters.ptp_packets().into());
                object.insert("ptp_lost".into(), counters.get(Counter::PtpRingFull).into());
            }
            object.insert("lost".into(), counters.get(Counter::RingFull).into());
            object.insert("unprinted".into(), unprinted.into());
            object.insert("clock_steps".into(), shared.host.clock_steps().into());
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
        Change::Died(name) => tracing::warn!("{name} is captured anew"),
        Change::Failed(name, why) => tracing::error!("{name} cannot be watched: {why}"),
    }
}

/// What the threads of all rings have in common.
#[derive(Clone, Default)]
struct Shared {
    host: Host,
    totals: Arc<Mutex<AllTotals>>,
    /// Exchanges that were to be printed, and those that were.
    passed: Arc<Passed>,
    printed: Arc<AtomicU64>,
}

impl Shared {
    fn new_totals(&self) -> RingTotals {
        let totals = Arc::default();
        let mut all = lock(&self.totals);
        all.fold();
        all.rings.push(Arc::clone(&totals));
        RingTotals(totals)
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
        self.passed.offered().saturating_sub(printed)
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

/// All rings of an interface together, unless told otherwise: 47 ms of three million events a second.
const RINGS_BYTES: u32 = 16 << 20;

/// What one ring counts, for the totals at the end.
struct RingTotals(Arc<Mutex<Totals>>);

impl Sink for RingTotals {
    fn exchange(&mut self, _: &Exchange) {}

    fn publish(&mut self, totals: &Totals, _: i64) {
        *lock(&self.0) = *totals;
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
            for message in &batch.ptp {
                printer.print_ptp(message, Some(&batch.interface))?;
            }
            count += batch.lines();
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
