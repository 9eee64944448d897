//! `ntpmon replay`: capture files through the same parser, pairing and timings as live packets.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufWriter, IsTerminal, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use ntpmon_common::{Counter, Counters, Event, parse, settings::PortSet};

use super::{
    Pairing,
    output::{Format, Printer},
    summary,
};
use crate::{
    capture::pcap::{Reader, parse_frame},
    netlink,
    ntp::{
        Stamped,
        exchange::{Exchange, LocalAddresses, Timekeeper},
        pair::{self, Outcome, Pairer},
    },
};

/// Pair and time the NTP packets of capture files
///
/// Reads pcap and pcapng, plain, gzip or zstd; needs no privileges. Several files are read as one,
/// in the order given, so a request may be in one and its response in the next. NTP inside GRE,
/// IP-in-IP and VXLAN is found too. Exchanges, answered or not, are printed in the order of their
/// requests; packets that belong to none (broadcasts, control messages, unsolicited responses)
/// are counted by --summary. A file that is cut off is read up to there, then reported.
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
    #[command(flatten)]
    pairing: Pairing,
}

impl Replay {
    pub(super) fn run(self) -> Result<()> {
        let ports = self.pairing.ports();
        let port_set = PortSet::of(&ports);
        let settings = parse::Settings {
            ports: &port_set,
            decapsulate: true,
        };
        let mut replayer = Replayer {
            pairer: Pairer::new(pair::Settings {
                timeout: self.pairing.timeout_nanoseconds(),
                ports,
                in_order: !self.summary,
                ..pair::Settings::default()
            }),
            timekeeper: Timekeeper::default(),
            counters: Counters::default(),
            interfaces: Interfaces::default(),
            addresses: self.local.into_iter().map(netlink::mapped).collect(),
        };
        let result = if self.summary {
            replay_totals(&mut replayer, &self.files, settings)
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
            replay_exchanges(&mut replayer, &self.files, settings, &mut printer)
        };
        match result {
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

/// What is carried from file to file.
struct Replayer {
    pairer: Pairer,
    timekeeper: Timekeeper,
    counters: Counters,
    interfaces: Interfaces,
    addresses: LocalAddresses,
}

fn replay_totals(
    replayer: &mut Replayer,
    files: &[PathBuf],
    settings: parse::Settings<'_>,
) -> Result<()> {
    // Timings are worked out as well: what is measured is the work that a capture takes.
    let read = replayer.read(files, settings, |_, _| Ok(()));
    // A file that is cut off has been read up to there.
    let object = summary::object(&replayer.counters, replayer.pairer.totals());
    let text = format!("{}\n", serde_json::to_string(&object)?);
    io::stdout().write_all(text.as_bytes()).context(WRITING)?;
    read
}

fn replay_exchanges<W: Write>(
    replayer: &mut Replayer,
    files: &[PathBuf],
    settings: parse::Settings<'_>,
    printer: &mut Ordered<W>,
) -> Result<()> {
    let read = replayer.read(files, settings, |exchange, interfaces| {
        printer.push(exchange, interfaces).context(WRITING)
    });
    // A file that is cut off has been read up to there.
    printer.finish(&replayer.interfaces).context(WRITING)?;
    if read.is_ok() && printer.printer.is_empty_table() {
        let counters = &replayer.counters;
        eprintln!(
            "no exchanges in {} packets, {} of them NTP: --summary counts them by kind",
            counters.packets(),
            counters.get(Counter::Emitted)
        );
    }
    read
}

impl Replayer {
    fn read(
        &mut self,
        files: &[PathBuf],
        settings: parse::Settings<'_>,
        mut on_exchange: impl FnMut(Exchange, &Interfaces) -> Result<()>,
    ) -> Result<()> {
        let mut result = Ok(());
        for file in files {
            result = Reader::open(file)
                .and_then(|reader| self.read_file(reader, settings, &mut on_exchange));
            if result.is_err() {
                break;
            }
        }
        let Self {
            pairer,
            timekeeper,
            interfaces,
            addresses,
            ..
        } = self;
        let mut flushed = Ok(());
        pairer.flush(&mut |outcome| {
            if let (Outcome::Exchange(pair), Ok(())) = (outcome, &flushed) {
                flushed = on_exchange(timekeeper.exchange(pair, addresses), interfaces);
            }
        });
        result.and(flushed)
    }

    fn read_file(
        &mut self,
        mut reader: Reader,
        settings: parse::Settings<'_>,
        on_exchange: &mut impl FnMut(Exchange, &Interfaces) -> Result<()>,
    ) -> Result<()> {
        let progress = Progress::new(&reader);
        let Self {
            pairer,
            timekeeper,
            counters,
            interfaces,
            addresses,
        } = self;
        // Indices of this file, as this run numbers them.
        let mut known: Vec<u32> = Vec::new();
        let mut printed = Ok(());
        loop {
            let Some(frame) = reader.next_frame()? else {
                break;
            };
            let mut event = Event::EMPTY;
            if let Err(reason) = parse_frame(&frame, settings, &mut event) {
                counters.count(reason);
                continue;
            }
            counters.count(Counter::Emitted);
            let number = frame.number;
            let index = event.interface as usize;
            while known.len() <= index {
                let position = known.len() as u32;
                known.push(interfaces.number(position, reader.interface_name(position)));
            }
            event.interface = known[index];
            let packet = Stamped {
                unix: event.time.cast_signed(),
                event,
                frame: number,
            };
            pairer.observe(&packet, &mut |outcome: Outcome<'_>| {
                if let (Outcome::Exchange(pair), Ok(())) = (outcome, &printed) {
                    printed = on_exchange(timekeeper.exchange(pair, addresses), interfaces);
                }
            });
            std::mem::replace(&mut printed, Ok(()))?;
            if number.is_multiple_of(1 << 16) {
                progress.update(&reader);
            }
        }
        progress.finish();
        Ok(())
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
    fn new(reader: &Reader) -> Self {
        let (_, Some(size)) = reader.progress() else {
            return Self(None);
        };
        if size < LONG_FILE || !io::stderr().is_terminal() {
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
