//! Records the captures of `tests/captures` from the real daemons, with what describes them. Run it
//! as root: `cargo run -p ntpmon-tests --bin record [CASE]...` (all cases without arguments; the
//! description always covers all).

use std::{fmt::Write, fs, process::ExitCode};

use anyhow::{Context, Result};
use ntpmon_tests::{
    cases::{Case, Stage},
    packages::Packages,
    tcpdump::{self, Tcpdump},
    workspace,
};

/// Enough to compare with, few enough to keep the files small.
const POLLS: u64 = 48;
/// A tool that runs once for each poll needs no more.
const RUNS: u64 = 6;

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let unknown = names
        .iter()
        .find(|name| Case::ALL.iter().all(|case| case.name() != *name));
    if let Some(name) = unknown {
        let known = Case::ALL.map(Case::name).join(" ");
        eprintln!("there is no case {name}; there are: {known}");
        return ExitCode::from(2);
    }
    let recorded = Case::ALL
        .into_iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| name == case.name()))
        .try_for_each(record)
        .and_then(|()| describe());
    match recorded {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn record(case: Case) -> Result<()> {
    let captures = workspace().join("tests/captures");
    let file = captures.join(case.name()).with_extension("pcap");
    let stage = Stage::new(case)?;
    let tcpdump = Tcpdump::start(stage.client(), stage.device(), stage.filter(), &file)?;
    let polls = if matches!(case, Case::Ntpdate | Case::Sntp) {
        RUNS
    } else {
        POLLS
    };
    let played = stage
        .play(polls)
        .with_context(|| format!("the case {}", case.name()))?;
    let capture = tcpdump.stop()?;
    let log = captures
        .join(case.name())
        .with_extension("measurements.log");
    if let Some(measurements) = played.measurements {
        fs::write(&log, measurements).with_context(|| format!("cannot write {}", log.display()))?;
    }
    println!("{}: {} packets", case.name(), capture.packets.len());
    Ok(())
}

/// Writes the README of the captures: what is in each, from which versions.
fn describe() -> Result<()> {
    let packages = Packages::get()?;
    let captures = workspace().join("tests/captures");
    let mut text = String::from(
        "# Captures of real NTP daemons\n\
         \n\
         Recorded, and this file written, by `cargo run -p ntpmon-tests --bin record` (as root), which\n\
         records them anew; `... record CASE` records one. Each was taken by tcpdump, with nanoseconds,\n\
         on the device of the host 10.0.0.2 (fd00::2), the client, in a network namespace joined to\n\
         that of 10.0.0.1 (fd00::1), the server. Both hosts share one clock, so true offsets are zero.\n\
         `tests/src/cases.rs` plays the cases. Beside a capture, `NAME.measurements.log` is what the\n\
         chrony client logged in that session: one line for each answer, in the order of the answers.\n\
         chronyd is told `noselect`, for even with `-x` it steers a clock of its own making, and logs\n\
         offsets from that. Last column of the log: whether the times of sending and receiving are the\n\
         kernel's (K) or the daemon's (D); on a tun device it has no kernel time of sending. Interleaved\n\
         answers (4I) are logged with the previous exchange's other three times.\n\
         (In `openntpd`, the chronyd that asks is on 10.0.0.1, so the capture is at the other end.)\n\
         \n\
         | capture | packets | what happens | packages |\n\
         |---|---|---|---|\n",
    );
    for case in Case::ALL {
        let file = captures.join(case.name()).with_extension("pcap");
        let count = tcpdump::read(&file)?.packets.len();
        let versions: Vec<_> = case
            .packages()
            .iter()
            .map(|name| Ok(format!("{name} {}", packages.version(name)?)))
            .collect::<Result<_>>()?;
        writeln!(
            text,
            "| `{}.pcap` | {count} | {} | {} |",
            case.name(),
            case.description(),
            versions.join(", ")
        )?;
    }
    let path = captures.join("README.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
