//! `ntpmon replay`: capture files through the same parser, pairing and timings as live packets.

mod into;
mod ptp_seen;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufWriter, IsTerminal, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use ntpmon_common::{
    Counter, Counters,
    parse::{self, Events, Protocol},
    settings::{PortSet, Switch},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{into::Loading, ptp_seen::Ptp};
use super::{Pairing, config::ConfigFile, summary};
use crate::{
    capture::pcap::{PAUSE_EVERY, Pause, Reader, parse_frame},
    netlink,
    ntp::{
        Stamped,
        exchange::{Exchange, LocalAddresses, Timekeeper},
        pair::{self, Outcome, Pairer, Totals},
    },
    output::{Format, Printer},
    ptp,
};

/// Pair and time the NTP packets of capture files
///
/// Reads pcap and pcapng, plain, gzip or zstd; needs no privileges. Several files are read as one,
/// in the order given, so a request may be in one and its response in the next. NTP inside GRE,
/// IP-in-IP and VXLAN is found too. Exchanges, answered or not, are printed in the order of their
/// requests; packets that belong to none (broadcasts, control messages, unsolicited responses)
/// are counted by --summary. A file that is cut off is read up to there, then reported; the others
/// are read nevertheless. Ctrl-C ends reading: what was read is printed.
///
/// Live from another host: ssh HOST tcpdump -U -w - udp port 123 | ntpmon replay -
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// Capture files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print exchanges [default: table]
    #[arg(long, value_enum, conflicts_with = "summary")]
    format: Option<Format>,
    /// Print no exchanges, only the totals, as one JSON object
    #[arg(long)]
    summary: bool,
    /// An address of the host that the files were captured on; may be given several times. Tells
    /// this host's role in each exchange, and makes offset and delay known where it asked
    #[arg(long = "local", value_name = "IP")]
    local: Vec<IpAddr>,
    /// Recognise PTP too: print its messages as they are read, with --summary what is known of its
    /// domains and masters
    #[arg(long)]
    ptp: bool,
    /// Print nothing, but load the exchanges into the history of a daemon that is not running.
    /// Loading the same file twice counts it twice
    #[arg(long, value_name = "DATA_DIRECTORY", conflicts_with_all = ["format", "summary", "ptp"])]
    into: Option<PathBuf>,
    /// What interfaces are called that a file has no name for
    #[arg(long, value_name = "NAME", default_value = "file", requires = "into")]
    interface: String,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    pairing: Pairing,
}

impl Replay {
    pub(super) fn run(self) -> Result<()> {
        let ports = self.pairing.ports();
        super::check_ptp(self.ptp, self.format);
        let port_set = PortSet::of(&ports);
        let recognise_ptp = Switch(u8::from(self.ptp));
        let settings_of_parser = parse::Settings {
            ports: &port_set,
            decapsulate: true,
            ptp: &recognise_ptp,
        };
        let timeout = self.pairing.timeout_nanoseconds();
        let mut replayer = Replayer {
            pairer: Pairer::new(pair::Settings {
                timeout,
                ports,
                in_order: !self.summary && self.into.is_none(),
                ..pair::Settings::default()
            }),
            timekeeper: Timekeeper::default(),
            counters: Counters::default(),
            ptp: self.ptp.then(|| Ptp::new(timeout)),
            interfaces: Interfaces::default(),
            addresses: self.local.into_iter().map(netlink::mapped).collect(),
            last_time: 0,
            stop: stop_on_signal()?,
            // Lines would go through it.
            bar: self.summary || self.into.is_some() || !io::stdout().is_terminal(),
            faults: Vec::new(),
        };
        let result = if let Some(directory) = &self.into {
            let settings = self.config.load()?.config.history.settings();
            let into = Loading::open(directory, settings, &self.interface)?;
            replay_into(&mut replayer, &self.files, settings_of_parser, into)
        } else if self.summary {
            replay_totals(&mut replayer, &self.files, settings_of_parser)
        } else {
            let stdout = io::stdout();
            let terminal = stdout.is_terminal();
            let format = self.format.unwrap_or(Format::Table);
            let mut printer = Ordered::new(Printer::new(
                BufWriter::with_capacity(1 << 16, stdout.lock()),
                format,
                true,
                terminal,
            ));
            replay_exchanges(&mut replayer, &self.files, settings_of_parser, &mut printer)
        };
        match result.and_then(|()| replayer.report()) {
            // Whoever read the output has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            result => result,
        }
    }
}

const WRITING: &str = "writing to standard output";

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A flag that SIGINT and SIGTERM set. A second one ends the process at once: it may be waiting for
/// a file to be opened, or for its output to be read.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    const STARTING: &str = "preparing for signals";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(STARTING)?;
    // Here, not in the thread: a signal from now on ends in order.
    let guard = runtime.enter();
    let mut first = Signals::new().context(STARTING)?;
    drop(guard);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                first.next().await;
                flag.store(true, Ordering::Relaxed);
                // Whoever runs this may pass on what the terminal sent to both.
                tokio::time::sleep(Duration::from_millis(500)).await;
                if let Ok(mut second) = Signals::new() {
                    second.next().await;
                    std::process::exit(1);
                }
            });
        })
        .context(STARTING)?;
    Ok(stop)
}

/// SIGINT and SIGTERM, from now on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Where exchanges go.
trait Target {
    fn take(&mut self, exchange: Exchange, interfaces: &Interfaces) -> Result<()>;

    /// A packet belongs to no exchange.
    fn other(&mut self, _outcome: &Outcome<'_>, _interfaces: &Interfaces) {}

    /// A PTP message.
    fn ptp(&mut self, _message: &ptp::Message, _interfaces: &Interfaces) -> Result<()> {
        Ok(())
    }

    /// A packet is about to be paired; `totals` is what was counted before it.
    fn packet(
        &mut self,
        _interface: u32,
        _unix: i64,
        _totals: &Totals,
        _interfaces: &Interfaces,
    ) -> Result<()> {
        Ok(())
    }

    /// Nothing may come for a while.
    fn pause(&mut self) -> Result<()>;
}

/// For totals. Timings are worked out as well: what is measured is the work that a capture takes.
struct Nowhere;

impl Target for Nowhere {
    fn take(&mut self, _: Exchange, _: &Interfaces) -> Result<()> {
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<W: Write> Target for Ordered<W> {
    fn take(&mut self, exchange: Exchange, interfaces: &Interfaces) -> Result<()> {
        self.push(exchange, interfaces).context(WRITING)
    }

    fn ptp(&mut self, message: &ptp::Message, interfaces: &Interfaces) -> Result<()> {
        let name = interfaces.name(message.event.interface);
        self.printer.print_ptp(message, name).context(WRITING)
    }

    fn pause(&mut self) -> Result<()> {
        self.printer.flush().context(WRITING)
    }
}

/// What is carried from file to file.
struct Replayer {
    pairer: Pairer,
    timekeeper: Timekeeper,
    counters: Counters,
    /// What is known of PTP, where it is recognised.
    ptp: Option<Ptp>,
    interfaces: Interfaces,
    addresses: LocalAddresses,
    /// Of the last packet that had a time.
    last_time: u64,
    /// A signal came.
    stop: Arc<AtomicBool>,
    /// Whether a bar may show how far it is.
    bar: bool,
    /// What was wrong with files: one is no reason not to read the next.
    faults: Vec<anyhow::Error>,
}

/// A pipe that was silent for this long, and for the time that a request waits, brings no response
/// any more: tcpdump hands packets over at least once a second.
const PIPE_LAG: Duration = Duration::from_secs(1);

fn replay_totals(
    replayer: &mut Replayer,
    files: &[PathBuf],
    settings: parse::Settings<'_>,
) -> Result<()> {
    replayer.read(files, settings, &mut Nowhere)?;
    // A file that is cut off has been read up to there.
    let mut object = summary::object(&replayer.counters, replayer.pairer.totals());
    if let Some(ptp) = &mut replayer.ptp {
        let seen = ptp.finish(&replayer.counters, &replayer.interfaces)?;
        object.insert("ptp".to_owned(), seen);
    }
    let text = format!("{}\n", serde_json::to_string(&object)?);
    io::stdout().write_all(text.as_bytes()).context(WRITING)
}

fn replay_into(
    replayer: &mut Replayer,
    files: &[PathBuf],
    settings: parse::Settings<'_>,
    mut into: Loading,
) -> Result<()> {
    replayer.read(files, settings, &mut into)?;
    // A file that is cut off has been read up to there.
    let told = into.finish(replayer.pairer.totals(), &replayer.interfaces)?;
    writeln!(io::stdout(), "{told}").context(WRITING)
}

fn replay_exchanges<W: Write>(
    replayer: &mut Replayer,
    files: &[PathBuf],
    settings: parse::Settings<'_>,
    printer: &mut Ordered<W>,
) -> Result<()> {
    replayer.read(files, settings, printer)?;
    // A file that is cut off has been read up to there.
    printer.finish(&replayer.interfaces).context(WRITING)?;
    if replayer.faults.is_empty() && printer.printer.is_empty_table() {
        let counters = &replayer.counters;
        eprintln!(
            "no exchanges in {} packets, {} of them NTP: --summary counts them by kind, --ptp shows PTP",
            counters.packets(),
            counters.get(Counter::Emitted)
        );
    }
    Ok(())
}

/// What happens to the pairer.
enum Step<'a> {
    Observe(&'a Stamped),
    Advance(u64),
    Flush,
}

impl Replayer {
    /// Fails where an exchange cannot be printed; what is wrong with a file is noted in `faults`.
    fn read(
        &mut self,
        files: &[PathBuf],
        settings: parse::Settings<'_>,
        target: &mut impl Target,
    ) -> Result<()> {
        for file in files {
            self.read_file(file, settings, target)?;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        self.deliver(Step::Flush, target)
    }

    fn read_file(
        &mut self,
        file: &Path,
        settings: parse::Settings<'_>,
        target: &mut impl Target,
    ) -> Result<()> {
        let mut reader = match Reader::open_pausing(file, &self.stop) {
            Ok(reader) => reader,
            Err(error) => {
                // Stopped while it waited for the first bytes: nothing is wrong with it.
                if !self.stop.load(Ordering::Relaxed) {
                    self.faults.push(error);
                }
                return Ok(());
            }
        };
        let progress = Progress::new(&reader, self.bar);
        // Indices of this file, as this run numbers them.
        let mut known: Vec<u32> = Vec::new();
        let mut number = 0;
        let mut events = Events::EMPTY;
        // How many pauses ago the last frame came, and which it was. Pauses are counted, not time:
        // while the output blocks, or the process sleeps, the input is not silent.
        let mut silent = (0, 0);
        loop {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) if error.is::<Pause>() => {
                    if self.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    progress.update(&reader);
                    if silent.1 != number || !reader.is_between_frames() {
                        silent = (0, number);
                    } else if let Some(passed) = (PAUSE_EVERY * silent.0).checked_sub(PIPE_LAG) {
                        let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
                        let time = self.last_time.saturating_add(passed);
                        self.deliver(Step::Advance(time), target)?;
                    }
                    silent.0 = silent.0.saturating_add(1);
                    target.pause()?;
                    continue;
                }
                Err(error) => {
                    self.faults.push(error);
                    break;
                }
            };
            number = frame.number;
            let protocol = match parse_frame(&frame, settings, &mut events) {
                Ok(protocol) => protocol,
                Err(reason) => {
                    self.counters.count(reason);
                    continue;
                }
            };
            let index = frame.interface as usize;
            while known.len() <= index {
                let position = known.len() as u32;
                let name = reader.interface_name(position);
                known.push(self.interfaces.number(position, name));
            }
            let interface = known[index];
            match protocol {
                Protocol::Ntp => self.counters.count(Counter::Emitted),
                Protocol::Ptp => {
                    self.counters.count(Counter::PtpEmitted);
                    let (time, unix) = self.time_of(events.ptp.time);
                    (events.ptp.time, events.ptp.interface) = (time, interface);
                    let message = ptp::Message {
                        event: events.ptp,
                        unix,
                        frame: number,
                    };
                    if let Some(ptp) = &mut self.ptp {
                        ptp.observe(&message);
                    }
                    target.ptp(&message, &self.interfaces)?;
                    continue;
                }
            }
            let (time, unix) = self.time_of(events.ntp.time);
            (events.ntp.time, events.ntp.interface) = (time, interface);
            let packet = Stamped {
                unix,
                event: events.ntp,
                frame: number,
            };
            let now = packet.captured().unwrap_or(self.last_time.cast_signed());
            let totals = self.pairer.totals();
            target.packet(packet.event.interface, now, totals, &self.interfaces)?;
            self.deliver(Step::Observe(&packet), target)?;
        }
        progress.finish();
        Ok(())
    }

    /// The time that orders a packet, and that when it was captured: one that nobody noted came
    /// after the one before, and more is not known.
    fn time_of(&mut self, noted: u64) -> (u64, i64) {
        if noted == 0 {
            return (self.last_time, Stamped::NO_TIME);
        }
        self.last_time = noted;
        (noted, noted.cast_signed())
    }

    /// Has the pairer do something, and passes on what comes of it.
    #[inline(always)]
    fn deliver(&mut self, step: Step<'_>, target: &mut impl Target) -> Result<()> {
        let Self {
            pairer,
            timekeeper,
            interfaces,
            addresses,
            ..
        } = self;
        let mut delivered = Ok(());
        let mut sink = |outcome: Outcome<'_>| match (outcome, &delivered) {
            (_, Err(_)) => {}
            (Outcome::Exchange(pair), Ok(())) => {
                delivered = target.take(timekeeper.exchange(pair, addresses), interfaces);
            }
            (other, Ok(())) => target.other(&other, interfaces),
        };
        match step {
            Step::Observe(packet) => pairer.observe(packet, &mut sink),
            Step::Advance(time) => pairer.advance(time, &mut sink),
            Step::Flush => pairer.flush(&mut sink),
        }
        delivered
    }

    /// Says what was wrong with files, each on a line of its own; the last is left to the caller.
    fn report(&mut self) -> Result<()> {
        let last = self.faults.pop();
        for fault in &self.faults {
            eprintln!("ntpmon: {fault:#}");
        }
        last.map_or(Ok(()), Err)
    }
}

/// Interfaces over all files: the same name, or the same place in a file without names, is the
/// same interface.
#[derive(Default)]
struct Interfaces {
    numbers: HashMap<(Option<String>, u32), u32>,
    names: Vec<Option<String>>,
}

impl Interfaces {
    fn number(&mut self, position: u32, name: Option<&str>) -> u32 {
        let place = if name.is_some() { 0 } else { position };
        let names = &mut self.names;
        *self
            .numbers
            .entry((name.map(str::to_owned), place))
            .or_insert_with(|| {
                names.push(name.map(str::to_owned));
                (names.len() - 1) as u32
            })
    }

    fn name(&self, number: u32) -> Option<&str> {
        self.names.get(number as usize)?.as_deref()
    }
}

/// Prints in the order of the requests. Symmetric peers answer minutes later, and what follows
/// them waits; beyond a bound it no longer does.
struct Ordered<W: Write> {
    printer: Printer<W>,
    waiting: VecDeque<Option<Box<Exchange>>>,
    /// The sequence number of the first that waits.
    first: u64,
}

/// Exchanges that wait for an earlier one, at most.
const WAITING: usize = 100_000;

impl<W: Write> Ordered<W> {
    const fn new(printer: Printer<W>) -> Self {
        Self {
            printer,
            waiting: VecDeque::new(),
            first: 0,
        }
    }

    fn push(&mut self, exchange: Exchange, interfaces: &Interfaces) -> io::Result<()> {
        let Some(position) = exchange.sequence.checked_sub(self.first) else {
            // It took too long, its successors are printed.
            return self.print(&exchange, interfaces);
        };
        if position == 0 && self.waiting.is_empty() {
            self.first += 1;
            return self.print(&exchange, interfaces);
        }
        let position = position as usize;
        if self.waiting.len() <= position {
            self.waiting.resize_with(position + 1, || None);
        }
        self.waiting[position] = Some(Box::new(exchange));
        while self.waiting.len() > WAITING || matches!(self.waiting.front(), Some(Some(_))) {
            self.first += 1;
            if let Some(Some(exchange)) = self.waiting.pop_front() {
                self.print(&exchange, interfaces)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, interfaces: &Interfaces) -> io::Result<()> {
        while let Some(exchange) = self.waiting.pop_front() {
            self.first += 1;
            if let Some(exchange) = exchange {
                self.print(&exchange, interfaces)?;
            }
        }
        self.printer.flush()
    }

    fn print(&mut self, exchange: &Exchange, interfaces: &Interfaces) -> io::Result<()> {
        let name = interfaces.name(exchange.request.event.interface);
        self.printer.print(exchange, name)
    }
}

/// A bar on standard error, at a terminal, for files that take a while.
struct Progress(Option<ProgressBar>);

/// Smaller files are read before anyone could look.
const LONG_FILE: u64 = 64 << 20;

impl Progress {
    fn new(reader: &Reader, wanted: bool) -> Self {
        let (_, Some(size)) = reader.progress() else {
            return Self(None);
        };
        if !wanted || size < LONG_FILE || !io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(
            "{bar:40} {percent:>3}% {binary_bytes_per_sec} {eta} left",
        );
        let bar = ProgressBar::new(size);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar))
    }

    fn update(&self, reader: &Reader) {
        if let Some(bar) = &self.0 {
            bar.set_position(reader.progress().0);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
