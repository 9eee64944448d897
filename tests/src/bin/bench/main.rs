//! `cargo xtask bench`: the figures of ntpmon beside its peers, measured in one run on this machine.
//! Each part has a file of its own; this one picks them and prints what they return.

mod consume;
mod frame;
mod generator;
mod kernel;
mod live;
mod network;

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
    /// What `live` starts to watch an interface; not for people.
    #[arg(long, hide = true)]
    consume: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The kernel programs, in nanoseconds a packet.
    Kernel,
    /// A veth pair under load: CPU a packet, losses, the highest rate without any.
    Live,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(interface) = arguments.consume {
        return consume::run(&interface);
    }
    let mut report = Map::new();
    let wanted = |part| arguments.part.is_none_or(|only| only == part);
    if wanted(Part::Kernel) {
        let figures = kernel::measure()?;
        if !arguments.json {
            kernel::print(&figures);
        }
        report.insert("kernel".to_owned(), kernel::json(&figures));
    }
    // Last, as it leaves this network namespace.
    if wanted(Part::Live) {
        let figures = live::measure()?;
        if !arguments.json {
            live::print(&figures);
        }
        report.insert("live".to_owned(), live::json(&figures));
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
