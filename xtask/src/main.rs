//! What people type: `cargo xtask COMMAND`. Each command first makes exist what it needs, and
//! says what it installs and why. Nothing here depends on the daemon: xtask runs before the tools
//! that the daemon is built with are there.

mod build;
mod install;
mod packages;
mod process;
#[allow(dead_code, reason = "the build script uses the rest")]
mod toolchain;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// Builds, runs and tests ntpmon. Whatever a command needs and the machine lacks is installed
/// first (Debian packages, through sudo where needed), and named before.
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
    /// Build the daemon and watch NTP live, through sudo where the privileges are lacking
    Run {
        /// Passed to `ntpmon watch`; without any, it watches the NIC of the default route
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Build => build::build().map(drop),
        Command::Run { arguments } => build::run(&arguments),
    }
}
