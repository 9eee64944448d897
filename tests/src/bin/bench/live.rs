//! A veth pair under load, in a network namespace of this process: what watching it costs a packet,
//! how much is lost, and up to which rate nothing is. The generator and the kernel's receive path
//! run on the first CPU, whoever watches on the second.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::loaded_programs;
use serde_json::{Value, json};

use crate::{generator::Generator, installed, network, ntpmon};

/// The rate and the time of the measurement at a steady load.
const STEADY_RATE: u64 = 200_000;
const STEADY: Duration = Duration::from_secs(10);
/// How long a rate is tried when the highest one is searched for.
const TRIAL: Duration = Duration::from_secs(3);
/// The search ends when the bounds are this close.
const RESOLUTION: f64 = 1.04;
const CLIENTS: u32 = 200_000;
const SENDER: &str = "bench0";
const WATCHED: &str = "bench1";

/// Who watches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Ntpmon,
    Tcpdump,
}

/// One run under load.
struct Run {
    sent: u64,
    lost: u64,
    rate: f64,
    /// CPU of the process that watches.
    process: Duration,
}

/// What one watcher needs and reaches.
pub(crate) struct Figures {
    name: &'static str,
    cpu_ns_per_packet: f64,
    /// The share of the programs in it, where there are any.
    programs_ns_per_packet: f64,
    lost: u64,
    highest_lossless_pps: f64,
}

pub(crate) fn measure() -> Result<Vec<Figures>> {
    network::enter_own_namespace()?;
    network::make_pair(SENDER, WATCHED)?;
    network::raise_priority()?;
    network::pin(0)?;
    let generator = Generator::new(network::index(SENDER)?, CLIENTS)?;
    let mut figures = Vec::new();
    for watcher in [Watcher::Ntpmon, Watcher::Tcpdump] {
        if watcher == Watcher::Tcpdump && !installed("tcpdump") {
            eprintln!("live: tcpdump is not installed, left out");
            continue;
        }
        figures.push(figure(watcher, &generator)?);
    }
    Ok(figures)
}

fn figure(watcher: Watcher, generator: &Generator) -> Result<Figures> {
    let steady = run(watcher, generator, STEADY_RATE, STEADY)?;
    let programs = match watcher {
        Watcher::Ntpmon => programs_cost(generator)?,
        Watcher::Tcpdump => 0.0,
    };
    let process = steady.process.as_nanos() as f64 / steady.sent as f64;
    Ok(Figures {
        name: watcher.name(),
        cpu_ns_per_packet: process + programs,
        programs_ns_per_packet: programs,
        lost: steady.lost,
        highest_lossless_pps: highest(watcher, generator)?,
    })
}

/// What the kernel programs take a packet. The kernel measures them only on request, and that costs
/// time itself, hence a run of its own.
fn programs_cost(generator: &Generator) -> Result<f64> {
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("have the kernel measure programs")?;
    let mut measured = (Duration::ZERO, 0);
    watched(Watcher::Ntpmon, || {
        let before = program_time();
        generator.send(STEADY_RATE, TRIAL)?;
        let after = program_time();
        measured = (after.0 - before.0, after.1 - before.1);
        Ok(())
    })?;
    ensure!(measured.1 > 0, "no program ran under load");
    Ok(measured.0.as_nanos() as f64 / measured.1 as f64)
}

/// Time and runs of all the ingress programs in the kernel; whatever else is attached sees hardly
/// anything meanwhile.
fn program_time() -> (Duration, u64) {
    loaded_programs()
        .flatten()
        .filter(|program| program.name_as_str() == Some("tc_ingress"))
        .fold((Duration::ZERO, 0), |(time, count), program| {
            (time + program.run_time(), count + program.run_count())
        })
}

/// The highest rate at which nothing is lost: all that the generator can, or by bisection.
fn highest(watcher: Watcher, generator: &Generator) -> Result<f64> {
    let unlimited = run(watcher, generator, u64::MAX >> 20, TRIAL)?;
    if unlimited.lost == 0 {
        return Ok(unlimited.rate);
    }
    let (mut low, mut high) = (0.0, unlimited.rate);
    let mut best = 0.0;
    while low == 0.0 || high / low > RESOLUTION {
        let rate = if low == 0.0 {
            high / 2.0
        } else {
            (low + high) / 2.0
        };
        if rate < 10_000.0 {
            break;
        }
        let trial = run(watcher, generator, rate as u64, TRIAL)?;
        if trial.lost == 0 {
            low = rate;
            best = trial.rate;
        } else {
            high = rate;
        }
    }
    Ok(best)
}

fn run(watcher: Watcher, generator: &Generator, rate: u64, duration: Duration) -> Result<Run> {
    let arrived = network::received(WATCHED)?;
    let mut sent = None;
    let (seen, process) = watched(watcher, || {
        sent = Some(generator.send(rate, duration)?);
        Ok(())
    })?;
    let sent = sent.context("nothing was sent")?;
    let arrived = network::received(WATCHED)? - arrived;
    ensure!(
        arrived == sent.frames,
        "{} frames were sent, but {arrived} arrived at the watched interface",
        sent.frames
    );
    eprintln!(
        "live: {} at {:.0} packets/s for {:.1} s: {} of {} lost",
        watcher.name(),
        sent.rate(),
        sent.duration.as_secs_f64(),
        sent.frames.saturating_sub(seen),
        sent.frames
    );
    Ok(Run {
        sent: sent.frames,
        lost: sent.frames.saturating_sub(seen),
        rate: sent.rate(),
        process,
    })
}

/// Runs `load` while somebody watches; returns how many packets were seen, and the CPU time that it
/// took from before the load to after the last packet.
fn watched(watcher: Watcher, load: impl FnOnce() -> Result<()>) -> Result<(u64, Duration)> {
    let mut process = watcher.start()?;
    let before = network::cpu_time(process.0.id())?;
    load()?;
    // tcpdump gets to see what does not fill a block after a second.
    std::thread::sleep(Duration::from_millis(1500));
    let time = network::cpu_time(process.0.id())? - before;
    Ok((watcher.stop(&mut process)?, time))
}

/// A child that does not outlive its measurement.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, in the ordinary case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watcher {
    const fn name(self) -> &'static str {
        match self {
            Self::Ntpmon => "ntpmon",
            Self::Tcpdump => "tcpdump",
        }
    }

    /// What it says when it watches.
    const fn announcement(self) -> &'static str {
        match self {
            Self::Ntpmon => "watching",
            Self::Tcpdump => "listening",
        }
    }

    /// Starts it on the second CPU and waits until it watches.
    fn start(self) -> Result<Process> {
        let mut command = match self {
            Self::Ntpmon => {
                let mut command = Command::new(ntpmon()?);
                command.args(["watch", "--summary", "-i", WATCHED]);
                command
            }
            Self::Tcpdump => {
                let mut command = Command::new("tcpdump");
                // 256 MiB, more than ntpmon gets.
                command.args(["-i", WATCHED, "-n", "-B", "262144", "-w", "/dev/null"]);
                command.arg("udp port 123");
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        network::pin_child(&mut command, 1);
        let mut process = Process(
            command
                .spawn()
                .with_context(|| format!("start {}", self.name()))?,
        );
        let stderr = process.0.stderr.as_mut().context("no standard error")?;
        let mut line = String::new();
        let mut lines = BufReader::with_capacity(1, stderr);
        while !line.contains(self.announcement()) {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                bail!("{} ended before it watched", self.name());
            }
        }
        Ok(process)
    }

    /// Ends it and asks how many packets it saw.
    fn stop(self, process: &mut Process) -> Result<u64> {
        network::interrupt(&process.0)?;
        let mut output = String::new();
        let (stdout, stderr) = (process.0.stdout.take(), process.0.stderr.take());
        match self {
            Self::Ntpmon => {
                stdout
                    .context("no standard output")?
                    .read_to_string(&mut output)?;
                process.0.wait()?;
                paired(&serde_json::from_str(&output).context("read the totals")?)
            }
            Self::Tcpdump => {
                stderr
                    .context("no standard error")?
                    .read_to_string(&mut output)?;
                process.0.wait()?;
                output
                    .lines()
                    .find_map(|line| line.strip_suffix(" packets captured"))
                    .and_then(|count| count.parse().ok())
                    .with_context(|| format!("tcpdump said nothing of packets: {output}"))
            }
        }
    }
}

/// How many packets ntpmon took out of its ring; every one of them has to have been paired.
fn paired(totals: &Value) -> Result<u64> {
    let number = |name: &str| {
        totals[name]
            .as_u64()
            .with_context(|| format!("the totals have no {name}: {totals}"))
    };
    let taken = number("ntp_packets")? - number("lost")?;
    let paired = 2 * number("answered")?;
    ensure!(
        number("lost")? > 0 || paired == taken,
        "nothing was lost, but of {taken} packets only {paired} were paired: {totals}"
    );
    Ok(taken)
}

pub(crate) fn print(figures: &[Figures]) {
    println!(
        "live, {STEADY_RATE} packets/s for {} s, then the highest rate without loss",
        STEADY.as_secs()
    );
    println!(
        "{:>10} {:>14} {:>8} {:>20}",
        "", "CPU ns/packet", "lost", "lossless packets/s"
    );
    for figure in figures {
        println!(
            "{:>10} {:>14.0} {:>8} {:>20.0}",
            figure.name, figure.cpu_ns_per_packet, figure.lost, figure.highest_lossless_pps
        );
        if figure.programs_ns_per_packet > 0.0 {
            println!(
                "{:>10} {:>14.0} of these in the kernel programs",
                "", figure.programs_ns_per_packet
            );
        }
    }
}

pub(crate) fn json(figures: &[Figures]) -> Value {
    figures
        .iter()
        .map(|figure| {
            let value = json!({
                "cpu_ns_per_packet": figure.cpu_ns_per_packet.round(),
                "programs_ns_per_packet": figure.programs_ns_per_packet.round(),
                "lost": figure.lost,
                "highest_lossless_pps": figure.highest_lossless_pps.round(),
            });
            (figure.name.to_owned(), value)
        })
        .collect()
}
