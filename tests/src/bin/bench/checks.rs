//! What a thousand active checks cost: the daemon without any, and the same daemon with a thousand
//! servers that are each asked every 64 seconds, all on the loopback of a network namespace. What
//! the servers of ours take is not counted.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ntpmon::ntp::clock;
use ntpmon_common::Timestamp;
use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    namespace::Namespace,
    process::wait_for,
};
use serde_json::{Value, json};

use crate::ntpmon;

const CHECKS: usize = 1000;
/// What a daemon with these checks may take of a processor in all.
const MOST_SHARE: f64 = 0.02;
/// And of memory more than one without.
const MOST_BYTES: u64 = 64 << 20;
/// The figure is published for this interval.
const INTERVAL_SECONDS: u64 = 64;
/// Until a daemon has done what comes with a start.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Until every server was asked: each begins within an interval.
const FIRST_ROUNDS: Duration = Duration::from_secs(90);
/// Three intervals.
const BUSY: Duration = Duration::from_secs(3 * INTERVAL_SECONDS);
const ROOM: usize = 256;

/// What a daemon takes.
#[derive(Clone, Copy)]
struct Taken {
    /// Of one processor, in user space and in the kernel.
    cpu_share: f64,
    /// Resident, at the end.
    resident_bytes: u64,
}

/// What was measured.
pub(crate) struct Figures {
    idle: Taken,
    busy: Taken,
    /// Rounds of which the daemon knows, by what they came to.
    told: usize,
    threads: usize,
    seconds: u64,
}

pub(crate) fn measure() -> Result<Figures> {
    let namespace = Namespace::new()?;
    let servers = Servers::start(&namespace)?;
    let idle = {
        let (_home, daemon) = start(&namespace, "")?;
        thread::sleep(SETTLE);
        taken(&daemon, IDLE)?
    };
    let mut configuration = String::new();
    for server in &servers.addresses {
        let _ = write!(
            configuration,
            "[[check]]\nserver = '{server}'\ninterval_seconds = {INTERVAL_SECONDS}\n"
        );
    }
    let (_home, daemon) = start(&namespace, &configuration)?;
    thread::sleep(FIRST_ROUNDS);
    let busy = taken(&daemon, BUSY)?;
    let api = Api::of(&daemon, &namespace)?;
    let told = wait_for("the state of all checks", Duration::from_secs(5), || {
        let list = api.get("/api/ntp/checks?page_size=1000")?.success()?;
        let checks = list["data"].as_array().context("no list of checks")?;
        let told = |it: &&Value| it["states"][0]["status"] == "ok";
        Ok(Some(checks.iter().filter(told).count()))
    })?;
    ensure!(
        told == CHECKS,
        "only {told} of {CHECKS} checks came to a time"
    );
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.id()))?.count();
    Ok(Figures {
        idle,
        busy,
        told,
        threads,
        seconds: BUSY.as_secs(),
    })
}

fn start(namespace: &Namespace, configuration: &str) -> Result<(Home, Daemon)> {
    let home = Home::new()?;
    home.configure(configuration)?;
    // Watched too, as on most hosts: the questions and answers pass there.
    let mut command = home.command_running(&ntpmon()?, namespace, &[], "127.0.0.1:0", &["lo"])?;
    let daemon = home.start(&mut command)?;
    Ok((home, daemon))
}

/// What a daemon takes over some time.
fn taken(daemon: &Daemon, over: Duration) -> Result<Taken> {
    let begun = (Instant::now(), cpu_seconds(daemon.id())?);
    thread::sleep(over);
    let cpu = cpu_seconds(daemon.id())? - begun.1;
    Ok(Taken {
        cpu_share: cpu / begun.0.elapsed().as_secs_f64(),
        resident_bytes: resident_bytes(daemon.id())?,
    })
}

fn cpu_seconds(process: u32) -> Result<f64> {
    // Exact, where the ticks of `stat` are a hundredth of a second.
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            // It ended meanwhile.
            continue;
        };
        let first = text
            .split_whitespace()
            .next()
            .context("schedstat is empty")?;
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn resident_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(Path::new(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// A thousand honest servers, each at an address of its own.
struct Servers {
    addresses: Vec<SocketAddr>,
    /// Ends them.
    _runtime: tokio::runtime::Runtime,
}

impl Servers {
    fn start(namespace: &Namespace) -> Result<Self> {
        let addresses: Vec<SocketAddr> = (0..CHECKS)
            .map(|number| {
                let [high, low] = ((number + 1) as u16).to_be_bytes();
                (Ipv4Addr::new(127, 1, high, low), 123).into()
            })
            .collect();
        let sockets = namespace.enter(|| {
            let bound = addresses.iter().map(|address| {
                let socket = UdpSocket::bind(address);
                let socket = socket.with_context(|| format!("answering at {address}"))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            bound.collect::<Result<Vec<_>>>()
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        for socket in sockets {
            runtime.spawn(async move {
                // It ends with the runtime; without an answer the measurement fails.
                let served = serve(socket).await;
                eprintln!("checks: a server ended: {served:?}");
            });
        }
        Ok(Self {
            addresses,
            _runtime: runtime,
        })
    }
}

/// Answers as an honest server, until it cannot.
pub(crate) async fn serve(socket: UdpSocket) -> Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut request = [0; ROOM];
    loop {
        let (length, from) = socket.recv_from(&mut request).await?;
        let Some(request) = request[..length].first_chunk::<48>() else {
            continue;
        };
        let mut answer = [0; 48];
        answer[0] = 4 << 3 | 4;
        answer[1] = 2;
        answer[3] = (-23_i8).cast_unsigned();
        answer[12..16].copy_from_slice(&[192, 0, 2, 1]);
        answer[24..32].copy_from_slice(&request[40..]);
        let now = Timestamp::from_unix_nanoseconds(clock::utc())
            .0
            .to_be_bytes();
        answer[32..40].copy_from_slice(&now);
        answer[40..].copy_from_slice(&now);
        socket.send_to(&answer, from).await?;
    }
}

impl Figures {
    /// What is more than it may be.
    pub(crate) fn beyond(&self) -> Vec<String> {
        let more = self.busy.resident_bytes;
        let more = more.saturating_sub(self.idle.resident_bytes);
        let share = self.busy.cpu_share;
        let wrong = [
            (share > MOST_SHARE).then(|| {
                let (share, most) = (share * 100.0, MOST_SHARE * 100.0);
                format!("{CHECKS} checks take {share:.2} % of a processor, more than {most} %")
            }),
            (more > MOST_BYTES).then(|| {
                format!("{CHECKS} checks take {more} bytes of memory, more than {MOST_BYTES}")
            }),
        ];
        wrong.into_iter().flatten().collect()
    }

    pub(crate) fn print(&self) {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        println!(
            "\nactive checks: {CHECKS} at {INTERVAL_SECONDS} s, 3 samples a round, over {} s; {} told \
             the time, {} threads",
            self.seconds, self.told, self.threads
        );
        println!("{:<22} {:>12} {:>12}", "", "CPU", "resident");
        for (name, taken) in [("idle", self.idle), ("with the checks", self.busy)] {
            println!(
                "{name:<22} {:>10.3} % {:>8.1} MiB",
                taken.cpu_share * 100.0,
                mib(taken.resident_bytes)
            );
        }
    }

    pub(crate) fn json(&self) -> Value {
        let taken = |taken: Taken| json!({"cpu_share": taken.cpu_share, "resident_bytes": taken.resident_bytes});
        json!({
            "checks": CHECKS, "interval_seconds": INTERVAL_SECONDS, "seconds": self.seconds,
            "told_the_time": self.told, "threads": self.threads,
            "idle": taken(self.idle), "with_checks": taken(self.busy),
        })
    }
}
