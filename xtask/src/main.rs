//! What people type: `cargo xtask COMMAND`. Each command first makes exist what it needs, and
//! says what it installs and why. Nothing here depends on the daemon: xtask runs before the tools
//! that the daemon is built with are there.

mod bench;
mod build;
mod fuzz;
mod install;
mod lint;
mod packages;
mod process;
mod soak;
mod test;
#[allow(dead_code, reason = "the build script uses the rest")]
mod toolchain;

use clap::{Parser, Subcommand};
use std::{ffi::OsString, process::ExitCode};

/// Builds, runs and tests ntpmon. Whatever a command needs and the machine lacks is installed
/// first (Debian packages, through sudo where needed; bpf-linker by cargo), and named before.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the daemon: leaves target/release/ntpmon, installing the eBPF tools if they are missing
    Build,
    /// Build the daemon and run it, through sudo where the privileges are lacking: it watches NTP,
    /// remembers it, and serves http://127.0.0.1:8000
    ///
    /// What it remembers lies in /var/lib/ntpmon. Ctrl-C ends it.
    Run {
        /// Passed to `ntpmon run`; without any, it watches the NIC of the default route
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run all tests; those of the whole system as root, through sudo where needed
    ///
    /// NTPMON_CAPTURES may name a folder of public capture files to read as well.
    Test {
        /// Boot an older kernel in qemu too, and test attaching there
        #[arg(long)]
        vm: bool,
        /// Only tests whose names contain one of these
        filters: Vec<String>,
    },
    /// Measure ntpmon beside its peers
    Bench {
        /// What to measure; everything by default
        #[arg(value_parser = ["kernel", "replay", "live", "history", "growth", "flood", "checks"])]
        part: Option<String>,
        /// Print one JSON object instead of tables
        #[arg(long)]
        json: bool,
        /// Passed on to the benchmark program
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Watch two idle servers for long: nothing may be found
    Soak {
        /// For how long
        #[arg(long, value_name = "N", default_value_t = 60)]
        minutes: u64,
    },
    /// Fuzz, guided by coverage; what is found is left in fuzz/artifacts
    Fuzz {
        /// A file of fuzz/fuzz_targets, without its ending; each in turn by default
        target: Option<String>,
        /// Stop each target after so many seconds; by default, when something is found
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
    },
    /// Check layout, clippy and documentation; warnings fail
    Lint,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build => build::build().map(drop),
        Command::Run { arguments } => build::run(&arguments),
        Command::Test { vm, filters } => test::test(vm, &filters),
        Command::Bench {
            part,
            json,
            arguments,
        } => bench::bench(part.as_deref(), json, &arguments),
        Command::Soak { minutes } => soak::soak(minutes),
        Command::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds),
        Command::Lint => lint::lint(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// One message, without a backtrace whatever RUST_BACKTRACE says.
fn report(error: &anyhow::Error) -> ExitCode {
    process::say(&format!("error: {error:#}"));
    ExitCode::FAILURE
}
