//! The history: how fast clients are written, how soon it is open, what questions take while
//! exchanges arrive, how all of that grows, and what a flood of forged clients does to it. The
//! exchanges go through the daemon's own pairing and folding, the questions through its own API,
//! over HTTP, asked by wrk. Beside it, SQLite with the schema of the application that came before.

mod served;
mod sqlite;
mod wrk;

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ntpmon::history::{History, Settings};
use ntpmon_tests::exchanges::{address, feeder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::served::Served;

const CLIENTS: u32 = 1_000_000;
/// How long the metrics of a large daemon may take with all of them: half of the answers, while
/// nothing arrives. The slowest are those that wait for a core.
const METRICS: Duration = Duration::from_millis(20);
/// Exchanges a second while questions are asked, from all clients alike.
const RATE: u64 = 500_000;
/// How long each question is asked.
const ASKED: Duration = Duration::from_secs(10);
/// In the table of growth.
const GROWTH: [u32; 4] = [10_000, 100_000, 1_000_000, 5_000_000];
/// Forged clients, real ones beside them, and how often those ask.
const FORGED: u32 = 10_000_000;
const REAL: u32 = 1000;
const ROUNDS: u32 = 20;

/// On an interface of their own, so that the metrics have as many to tell as they ever have.
const SERVERS: u32 = 1000;

/// What is asked over HTTP, and where.
const QUESTIONS: [(&str, &str); 5] = [
    ("page 1", "/clients"),
    ("page 20,000", "/clients?page=20000&page_size=20"),
    ("CIDR", "/clients?search_ip=52.0.0.0/8"),
    ("one client", "/clients/CLIENT"),
    ("statistics", "/interfaces/statistics"),
];

/// Rows of a table, and the same as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figures {
    title: String,
    rows: Vec<(String, String)>,
    values: Map<String, Value>,
    /// What is more than it may be.
    beyond: Vec<String>,
}

impl Figures {
    fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
            values: Map::new(),
            beyond: Vec::new(),
        }
    }

    /// What is more than it may be.
    pub(crate) fn beyond(&self) -> &[String] {
        &self.beyond
    }

    fn add(&mut self, name: &str, text: impl Into<String>, value: Value) {
        self.rows.push((name.to_owned(), text.into()));
        self.values.insert(name.to_owned(), value);
    }

    pub(crate) fn print(&self) {
        println!("{}", self.title);
        for (name, text) in &self.rows {
            println!("{name:>28}  {text}");
        }
    }

    pub(crate) fn json(&self) -> Value {
        Value::Object(self.values.clone())
    }
}

/// Everything at a million clients.
pub(crate) fn measure() -> Result<Figures> {
    let mut figures = Figures::new(&format!("history of {CLIENTS} clients"));
    let directory = tempfile::tempdir_in(beside())?;
    let written = write(directory.path(), CLIENTS)?;
    figures.add(
        "upserts",
        format!("{:.0} distinct clients/s", written.rate),
        json!(written.rate.round()),
    );
    let sqlite = sqlite::measure(directory.path(), CLIENTS)?;
    figures.add(
        "upserts, SQLite",
        format!(
            "{:.0} distinct clients/s: ntpmon {:.1} times as many",
            sqlite.upserts,
            written.rate / sqlite.upserts
        ),
        json!(sqlite.upserts.round()),
    );

    for (name, took) in [
        ("page 1, SQLite at rest", sqlite.first_page),
        ("page 20,000, SQLite at rest", sqlite.deep_page),
    ] {
        figures.add(name, text(took), json!(seconds(took)));
    }
    // In a process of its own, as a daemon that was just started: what all that came before has
    // left in memory is not its.
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args(["served", "--directory"])
        .arg(directory.path())
        .stderr(Stdio::inherit())
        .output()
        .context("starting this program for its other half")?;
    ensure!(output.status.success(), "its other half: {}", output.status);
    let more: Figures = serde_json::from_slice(&output.stdout)?;
    figures.rows.extend(more.rows);
    figures.values.extend(more.values);
    figures.beyond.extend(more.beyond);
    Ok(figures)
}

/// The second half of [`measure`]: opens a history, and asks it. Prints the figures as JSON.
pub(crate) fn serve(directory: &Path) -> Result<()> {
    let mut figures = Figures::new("");
    let begun = Instant::now();
    let history = open(directory, CLIENTS)?;
    let start = begun.elapsed();
    figures.add(
        "start",
        format!("{} ms", start.as_millis()),
        json!(seconds(start)),
    );

    let mut feeder = feeder(&history, "eth1");
    for server in 0..SERVERS {
        feeder.exchanges_with(address(server), 0..server % 7);
    }
    drop(feeder);
    history.flush()?;

    under_load(&history, &mut figures)?;

    let served = Served::large(history.clone())?;
    let idle = wrk::fastest(&served.url("/clients"), ASKED)?;
    figures.add(
        "page 1, nothing arriving",
        format!("{:.0} requests/s, p99 {}", idle.rate, text(idle.p99)),
        json!({ "requests_per_second": idle.rate.round(), "p99_seconds": seconds(idle.p99) }),
    );
    let metrics = wrk::scraped(&served.metrics_url(), ASKED)?;
    if metrics.p50 > METRICS {
        figures.beyond.push(format!(
            "with {CLIENTS} clients and nothing arriving half of the metrics take {} or more, more than {}",
            text(metrics.p50),
            text(METRICS)
        ));
    }
    figures.add(
        "metrics, nothing arriving",
        format!("p50 {}, p99 {}", text(metrics.p50), text(metrics.p99)),
        json!({ "p50_seconds": seconds(metrics.p50), "p99_seconds": seconds(metrics.p99) }),
    );
    let before = resident();
    let peak = Peak::watch();
    let begun = Instant::now();
    let bytes = served.export("csv")?;
    let took = begun.elapsed();
    let grown = peak.end().saturating_sub(before);
    figures.add(
        "export as CSV",
        format!(
            "{:.2} s for {} MB, resident memory grew by {grown} MB",
            seconds(took),
            bytes >> 20
        ),
        json!({ "seconds": seconds(took), "bytes": bytes, "grown_mib": grown }),
    );
    served.stop();
    history.stop();
    let waiting = history.service_statistics().journal_clients;
    drop(history);
    let begun = Instant::now();
    let history = open(directory, CLIENTS)?;
    let start = begun.elapsed();
    figures.add(
        "start after the load",
        format!("{} ms, with {waiting} changes in runs", start.as_millis()),
        json!({ "seconds": seconds(start), "waiting": waiting }),
    );
    history.stop();
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// A way to ask, for some time.
type Way = fn(&str, Duration) -> Result<wrk::Asked>;

/// Questions at a pace while exchanges arrive.
fn under_load(history: &History, figures: &mut Figures) -> Result<()> {
    let served = Served::large(history.clone())?;
    let before = history.service_statistics();
    let peak = Peak::watch();
    let load = Load::start(history.clone());
    // Until the first flushes are over, everything is as it was at rest.
    thread::sleep(Duration::from_secs(3));
    let questions = QUESTIONS.map(|(name, path)| (name, served.url(path)));
    let ways = questions.map(|it| (it, wrk::paced as Way));
    let metrics = (("metrics", served.metrics_url()), wrk::scraped as Way);
    for ((name, url), ask) in ways.into_iter().chain([metrics]) {
        let asked = ask(&url, ASKED)?;
        figures.add(
            name,
            format!(
                "p50 {}, p99 {} at {:.0} requests/s",
                text(asked.p50),
                text(asked.p99),
                asked.rate
            ),
            json!({ "p50_seconds": seconds(asked.p50), "p99_seconds": seconds(asked.p99) }),
        );
    }
    let arrived = load.end()?;
    history.flush().context("writing the last exchanges")?;
    let after = history.service_statistics();
    let counted = after.total_received - before.total_received;
    ensure!(
        counted == arrived.sent && after.queue_size == 0,
        "{} exchanges were fed, {counted} counted",
        arrived.sent
    );
    figures.add(
        "exchanges arriving",
        format!(
            "{:.0}/s, none lost; of clients without a record {}",
            arrived.rate,
            after.drops["sessions_without_client"] - before.drops["sessions_without_client"]
        ),
        json!(arrived.rate.round()),
    );
    figures.add(
        "flush",
        format!(
            "p50 {}, longest {}, of {} clients",
            text(arrived.flush),
            text(arrived.longest_flush),
            after.last_flush_clients
        ),
        json!({
            "p50_seconds": seconds(arrived.flush),
            "longest_seconds": seconds(arrived.longest_flush),
        }),
    );
    let peak = peak.end();
    figures.add("resident memory, peak", format!("{peak} MB"), json!(peak));
    let file = after.database_bytes >> 20;
    figures.add("file", format!("{file} MB"), json!(file));
    served.stop();
    Ok(())
}

/// The same at other sizes, as ratios to the one before.
pub(crate) fn growth() -> Result<Figures> {
    let mut figures = Figures::new("history, growing (each beside the one before)");
    let mut before: Option<[f64; 6]> = None;
    figures.rows.push((
        "clients".to_owned(),
        [
            "upserts/s",
            "start",
            "page 1 p99",
            "deep page p99",
            "export",
            "resident",
        ]
        .map(|name| format!("{name:>22}"))
        .concat(),
    ));
    for clients in GROWTH {
        let directory = tempfile::tempdir_in(beside())?;
        let written = write(directory.path(), clients)?;
        let begun = Instant::now();
        let history = open(directory.path(), clients)?;
        let start = begun.elapsed();
        let served = Served::start(history.clone())?;
        let page = wrk::paced(&served.url("/clients"), ASKED)?;
        let deep = clients / 20 / 2;
        let deep = wrk::paced(&served.url(&format!("/clients?page={deep}")), ASKED)?;
        let begun = Instant::now();
        served.export("csv")?;
        let export = begun.elapsed();
        let memory = resident();
        served.stop();
        history.stop();
        let now = [
            written.rate,
            seconds(start),
            seconds(page.p99),
            seconds(deep.p99),
            seconds(export),
            memory as f64,
        ];
        let texts = [
            format!("{:.0}", now[0]),
            text(start),
            text(page.p99),
            text(deep.p99),
            text(export),
            format!("{} MB", now[5]),
        ];
        let cells: Vec<String> = texts
            .iter()
            .enumerate()
            .map(|(place, cell)| {
                let ratio = before.map(|before| format!(" ({:.2})", now[place] / before[place]));
                format!("{:>22}", format!("{cell}{}", ratio.unwrap_or_default()))
            })
            .collect();
        figures.rows.push((clients.to_string(), cells.concat()));
        figures.values.insert(
            clients.to_string(),
            json!({
                "upserts_per_second": now[0].round(),
                "start_seconds": now[1],
                "page_1_p99_seconds": now[2],
                "deep_page_p99_seconds": now[3],
                "export_seconds": now[4],
                "resident_mib": now[5],
            }),
        );
        before = Some(now);
    }
    Ok(figures)
}

/// Forged clients, each seen once, and real ones among them that come again.
pub(crate) fn flood() -> Result<Figures> {
    let mut figures = Figures::new(&format!(
        "flood of {FORGED} forged clients, {REAL} real ones, bounds by default"
    ));
    let directory = tempfile::tempdir_in(beside())?;
    let history = History::open(directory.path(), Settings::default())?;
    let mut feeder = feeder(&history, "eth0");
    let peak = Peak::watch();
    let begun = Instant::now();
    let forged_a_round = FORGED / ROUNDS;
    for round in 0..ROUNDS {
        // Before the forged ones: they were known when it began.
        feeder.exchanges(0..REAL);
        let first = REAL + round * forged_a_round;
        for start in (first..first + forged_a_round).step_by(2000) {
            feeder.exchanges(start..(start + 2000).min(first + forged_a_round));
            // As fast as they are taken: what a faster flood would bring is counted without names.
            while history.service_statistics().queue_size > 400_000 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        history.flush()?;
    }
    let took = begun.elapsed();
    let statistics = history.service_statistics();
    let sent = u64::from(FORGED) + u64::from(REAL) * u64::from(ROUNDS);
    ensure!(
        statistics.total_processed == sent,
        "{sent} exchanges were fed, {} counted",
        statistics.total_processed
    );
    for client in 0..REAL {
        let found = history
            .client(ip(client), 0)?
            .with_context(|| format!("real client {client} is gone"))?;
        let count = found.interfaces[0].session_count;
        ensure!(
            count == u64::from(ROUNDS),
            "real client {client} has {count} sessions instead of {ROUNDS}"
        );
    }
    let peak = peak.end();
    figures.add(
        "exchanges",
        format!(
            "{sent} counted exactly, {:.0}/s",
            sent as f64 / seconds(took)
        ),
        json!(sent),
    );
    figures.add(
        "clients with a record",
        format!("{}, all real ones among them", statistics.client_count),
        json!(statistics.client_count),
    );
    figures.add("resident memory, peak", format!("{peak} MB"), json!(peak));
    let file = statistics.database_bytes >> 20;
    figures.add("file", format!("{file} MB"), json!(file));
    history.stop();
    Ok(figures)
}

/// Distinct clients a second, from the first to the last in its block.
struct Written {
    rate: f64,
}

fn write(directory: &Path, clients: u32) -> Result<Written> {
    let history = open(directory, clients)?;
    let mut feeder = feeder(&history, "eth0");
    let begun = Instant::now();
    for start in (0..clients).step_by(2000) {
        feeder.exchanges(start..(start + 2000).min(clients));
        // More than makes the writer hurry: it would wait for its interval.
        while history.service_statistics().queue_size > 400_000 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    history.checkpoint()?;
    let took = begun.elapsed();
    let statistics = history.service_statistics();
    ensure!(
        statistics.client_count == u64::from(clients),
        "{clients} clients were fed, {} have a record",
        statistics.client_count
    );
    history.stop();
    Ok(Written {
        rate: f64::from(clients) / seconds(took),
    })
}

fn open(directory: &Path, clients: u32) -> Result<History> {
    let settings = Settings::default();
    History::open(
        directory,
        Settings {
            // A sixteenth is kept for those who are seen again.
            max_clients: settings.max_clients.max(clients as usize * 5 / 4),
            ..settings
        },
    )
}

fn ip(client: u32) -> std::net::IpAddr {
    let bytes = address(client);
    Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]).into()
}

/// Beside this program, on a disk: what is temporary elsewhere may lie in memory.
fn beside() -> std::path::PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .unwrap_or_default()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn text(duration: Duration) -> String {
    let milliseconds = seconds(duration) * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2} ms")
    } else if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.2} s", milliseconds / 1e3)
    }
}

/// Of this process, the exchanges' generator with it, in MB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes >> 10)
}

/// The most memory that this process had since it was begun.
struct Peak {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
}

impl Peak {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let most = Arc::new(AtomicU64::new(0));
        let (flag, kept) = (Arc::clone(&stop), Arc::clone(&most));
        thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                kept.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, most }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.most.load(Ordering::Relaxed)
    }
}

/// Exchanges that arrive at a pace, on a thread of their own.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, Duration)>,
    flushes: thread::JoinHandle<Vec<Duration>>,
}

/// What a load came to.
struct Arrived {
    sent: u64,
    rate: f64,
    flush: Duration,
    longest_flush: Duration,
}

impl Load {
    fn start(history: History) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, watched) = (Arc::clone(&stop), history.clone());
        let thread = thread::spawn(move || feed(&history, &flag));
        let flag = Arc::clone(&stop);
        let flushes = thread::spawn(move || {
            let mut seen = 0;
            let mut flushes = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                let statistics = watched.service_statistics();
                if statistics.flush_count != seen {
                    seen = statistics.flush_count;
                    let last = statistics.last_flush_seconds.unwrap_or_default();
                    flushes.push(Duration::from_secs_f64(last));
                }
                thread::sleep(Duration::from_millis(20));
            }
            flushes
        });
        Self {
            stop,
            thread,
            flushes,
        }
    }

    fn end(self) -> Result<Arrived> {
        self.stop.store(true, Ordering::Relaxed);
        let died = |_| anyhow!("a thread of the benchmark died");
        let (sent, took) = self.thread.join().map_err(died)?;
        let mut flushes = self.flushes.join().map_err(died)?;
        flushes.sort_unstable();
        Ok(Arrived {
            sent,
            rate: sent as f64 / seconds(took),
            flush: flushes.get(flushes.len() / 2).copied().unwrap_or_default(),
            longest_flush: flushes.last().copied().unwrap_or_default(),
        })
    }
}

fn feed(history: &History, stop: &AtomicBool) -> (u64, Duration) {
    let mut feeder = feeder(history, "eth0");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let begun = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (seconds(begun.elapsed()) * RATE as f64) as u64;
        // In such bursts a ring is emptied too.
        if due - sent < RATE / 250 {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        let count = (due - sent).min(20_000);
        feeder.exchanges((0..count).map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % u64::from(CLIENTS)) as u32
        }));
        sent += count;
    }
    (sent, begun.elapsed())
}
