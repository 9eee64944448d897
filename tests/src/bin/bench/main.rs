//! `cargo xtask bench`: the figures of ntpmon beside its peers, measured in one run on this machine.
//! Each part has a file of its own; this one picks them and prints what they return.

mod checks;
mod frame;
mod generator;
mod history;
mod kernel;
mod live;
mod network;
mod replay;

use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

/// Measures ntpmon beside its peers.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if not given.
    part: Option<Part>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Of the part `served`: where its history lies.
    #[arg(long, hide = true, required_if_eq("part", "served"))]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The kernel programs, in nanoseconds a packet.
    Kernel,
    /// Reading a capture file, in CPU time a packet.
    Replay,
    /// A veth pair under load: CPU a packet, losses, the highest rate without any.
    Live,
    /// A million clients: written, opened, asked for while exchanges arrive.
    History,
    /// The history at 10,000 to 5,000,000 clients.
    Growth,
    /// The history under ten million forged clients.
    Flood,
    /// A thousand active checks: what they take of a processor and of memory.
    Checks,
    /// A half of `history`, which that starts.
    #[value(hide = true)]
    Served,
}

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ntpmon::memory::give_back_soon();
    if let (Some(Part::Served), Some(directory)) = (arguments.part, &arguments.directory) {
        return history::serve(directory);
    }
    let mut report = Map::new();
    let mut beyond = Vec::new();
    let wanted = |part| arguments.part.is_none_or(|only| only == part);
    if wanted(Part::Kernel) {
        let figures = kernel::measure()?;
        if !arguments.json {
            kernel::print(&figures);
        }
        report.insert("kernel".to_owned(), kernel::json(&figures));
    }
    if wanted(Part::Replay) {
        let figures = replay::measure()?;
        if !arguments.json {
            replay::print(&figures);
        }
        report.insert("replay".to_owned(), replay::json(&figures));
    }
    for (part, name, measure) in [
        (
            Part::History,
            "history",
            history::measure as fn() -> Result<history::Figures>,
        ),
        (Part::Growth, "growth", history::growth),
        (Part::Flood, "flood", history::flood),
    ] {
        if wanted(part) {
            let figures = measure()?;
            if !arguments.json {
                figures.print();
            }
            report.insert(name.to_owned(), figures.json());
            beyond.extend_from_slice(figures.beyond());
        }
    }
    if wanted(Part::Checks) {
        let figures = checks::measure()?;
        if !arguments.json {
            figures.print();
        }
        report.insert("checks".to_owned(), figures.json());
        beyond.extend(figures.beyond());
    }
    // Last, as it leaves this network namespace.
    if wanted(Part::Live) {
        let (limit, figures) = live::measure()?;
        if !arguments.json {
            live::print(limit, &figures);
        }
        report.insert("live".to_owned(), live::json(&figures));
    }
    if arguments.json {
        println!("{}", Value::Object(report));
    }
    ensure!(
        beyond.is_empty(),
        "beyond the bounds: {}",
        beyond.join("; ")
    );
    Ok(())
}

/// The benchmark's own programs in the kernel, as built beside this binary.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NTPMON_BENCH_OBJECT"));

/// The daemon that was built beside this program.
fn ntpmon() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .context("find this program")?
        .with_file_name("ntpmon");
    ensure!(
        path.exists(),
        "{} is not built: run `cargo xtask bench`",
        path.display()
    );
    Ok(path)
}

/// Whether a program is there to be compared with.
fn installed(program: impl AsRef<OsStr>) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
