//! `cargo xtask bench`: the figures of ntpmon beside its peers, measured in one run on this machine.
//! Each part has a file of its own; this one picks them and prints what they return.

mod kernel;

use anyhow::{Context, Result};
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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The kernel programs, in nanoseconds a packet.
    Kernel,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Map::new();
    let wanted = |part| arguments.part.is_none_or(|only| only == part);
    if wanted(Part::Kernel) {
        let figures = kernel::measure()?;
        if !arguments.json {
            kernel::print(&figures);
        }
        report.insert("kernel".to_owned(), kernel::json(&figures));
    }
    if arguments.json {
        println!("{}", Value::Object(report));
    }
    Ok(())
}

/// The bytes of one of the kernel's objects.
fn object(name: &str) -> Result<Vec<u8>> {
    let directory = std::env::var("NTPMON_EBPF_OBJECT").context("NTPMON_EBPF_OBJECT")?;
    std::fs::read(format!("{directory}/{name}")).with_context(|| format!("read the object {name}"))
}
