//! What it costs to read a capture file: one made here of a million packets, read by ntpmon with all
//! its pairing, by tcpdump that copies or prints it, and by tshark. In user and system CPU time.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write},
    mem,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{frame, installed, median, ntpmon};

const EXCHANGES: u64 = 500_000;
const PACKETS: u64 = 2 * EXCHANGES;
const CLIENTS: u64 = 200_000;
/// So many requests are under way at once: a server with 100,000 packets a second and clients that
/// are 5 milliseconds away.
const OUTSTANDING: u64 = 250;
const INTERVAL_NS: u64 = 10_000;

/// Runs of each program, of which the median counts. Those that take minutes run once.
const RUNS: usize = 9;
const RUNS_SLOW: usize = 1;

/// One reader of the file.
pub(crate) struct Figure {
    name: &'static str,
    /// CPU time of the whole file.
    cpu: Duration,
}

impl Figure {
    fn nanoseconds(&self) -> f64 {
        self.cpu.as_nanos() as f64 / PACKETS as f64
    }
}

pub(crate) fn measure() -> Result<Vec<Figure>> {
    let directory = std::env::current_exe()
        .context("find this program")?
        .with_file_name("bench");
    fs::create_dir_all(&directory).context("make a directory for the capture file")?;
    let path = directory.join("replay.pcap");
    write_capture(&path).with_context(|| format!("write {}", path.display()))?;
    let file = path.clone().into_os_string();
    let figures = readers(&file)?;
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    Ok(figures)
}

fn readers(file: &OsString) -> Result<Vec<Figure>> {
    let ntpmon = ntpmon()?.into_os_string();
    let arguments = |before: &[&str], after: &[&str]| -> Vec<OsString> {
        let text = |text: &&str| OsString::from(*text);
        let before = before.iter().map(text);
        before
            .chain([file.clone()])
            .chain(after.iter().map(text))
            .collect()
    };
    let fields = "-T fields -e ip.src -e ip.dst -e ntp.xmt -e ntp.org";
    let fields: Vec<&str> = fields.split(' ').collect();
    let all = [
        (
            "ntpmon",
            ntpmon,
            arguments(&["replay", "--summary"], &[]),
            RUNS,
        ),
        (
            "tcpdump_copy",
            "tcpdump".into(),
            arguments(&["-r"], &["-w", "/dev/null"]),
            RUNS,
        ),
        (
            "tcpdump_text",
            "tcpdump".into(),
            arguments(&["-nr"], &[]),
            RUNS_SLOW,
        ),
        (
            "tshark",
            "tshark".into(),
            arguments(&["-r"], &fields),
            RUNS_SLOW,
        ),
    ];
    let mut figures = Vec::new();
    for (name, program, arguments, runs) in all {
        if !installed(&program) {
            eprintln!("replay: {} is not installed, left out", program.display());
            continue;
        }
        let mut times = Vec::new();
        eprintln!("replay: {name}");
        for _ in 0..runs {
            times.push(run(name, &program, &arguments)?);
        }
        figures.push(Figure {
            name,
            cpu: median(times),
        });
    }
    Ok(figures)
}

/// Runs one reader over the file; returns its CPU time.
fn run(name: &str, program: &OsString, arguments: &[OsString]) -> Result<Duration> {
    let ours = name == "ntpmon";
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command.stdout(if ours { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let mut output = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        std::io::copy(stdout, &mut output).with_context(|| format!("read what {name} prints"))?;
    }
    let mut status = 0;
    // SAFETY: numbers, of which zero is a value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    let process = i32::try_from(child.id())?;
    // SAFETY: a child that nobody else waits for; both places are on the stack.
    let waited = unsafe { libc::wait4(process, &raw mut status, 0, &raw mut usage) };
    ensure!(
        waited == process,
        "wait for {name}: {}",
        std::io::Error::last_os_error()
    );
    let status = ExitStatus::from_raw(status);
    ensure!(status.success(), "{name} over the capture file: {status}");
    if ours {
        check(&serde_json::from_slice(&output).context("read the totals")?)?;
    }
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

fn time(value: libc::timeval) -> Duration {
    Duration::from_secs(value.tv_sec.unsigned_abs())
        + Duration::from_micros(value.tv_usec.unsigned_abs())
}

/// A reader that finds something else than is in the file is no faster.
fn check(totals: &Value) -> Result<()> {
    for (name, expected) in [
        ("packets", PACKETS),
        ("ntp_packets", PACKETS),
        ("exchanges", EXCHANGES),
        ("answered", EXCHANGES),
        ("unanswered", 0),
    ] {
        ensure!(
            totals[name].as_u64() == Some(expected),
            "{name} should be {expected}: {totals}"
        );
    }
    Ok(())
}

/// A pcap file with times in nanoseconds: each response comes when `OUTSTANDING` more requests have
/// been made, and in between clients ask in an order of their own.
fn write_capture(path: &Path) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    let mut packet = 0;
    let mut record = |frame: &[u8]| -> Result<()> {
        let time = packet * INTERVAL_NS;
        packet += 1;
        let length = u32::try_from(frame.len())?;
        let seconds = 1_790_000_000 + u32::try_from(time / 1_000_000_000)?;
        let fraction = u32::try_from(time % 1_000_000_000)?;
        for word in [seconds, fraction, length, length] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(file.write_all(frame)?)
    };
    for number in 0..EXCHANGES + OUTSTANDING {
        if number < EXCHANGES {
            record(&frame::of_exchange(number, CLIENTS, false))?;
        }
        if let Some(answered) = number.checked_sub(OUTSTANDING) {
            record(&frame::of_exchange(answered, CLIENTS, true))?;
        }
    }
    file.flush()?;
    Ok(())
}

pub(crate) fn print(figures: &[Figure]) {
    println!("replay of {PACKETS} packets, {CLIENTS} clients");
    println!(
        "{:>14} {:>14} {:>14} {:>10}",
        "", "CPU ns/packet", "packets/s", "to ntpmon"
    );
    let Some(ours) = figures.iter().find(|figure| figure.name == "ntpmon") else {
        return;
    };
    for figure in figures {
        println!(
            "{:>14} {:>14.0} {:>14.0} {:>10.2}",
            figure.name,
            figure.nanoseconds(),
            1e9 / figure.nanoseconds(),
            figure.nanoseconds() / ours.nanoseconds()
        );
    }
}

pub(crate) fn json(figures: &[Figure]) -> Value {
    let programs: Map<String, Value> = figures
        .iter()
        .map(|figure| {
            let value = json!({ "cpu_ns_per_packet": figure.nanoseconds().round() });
            (figure.name.to_owned(), value)
        })
        .collect();
    programs.into()
}
