//! The database of the application that came before: SQLite, its schema and its indexes, written in
//! large transactions, from Python as it was.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

/// What it needs.
pub(super) struct Figures {
    /// A second.
    pub upserts: f64,
    pub first_page: Duration,
    pub deep_page: Duration,
}

/// The columns that its pages show, and its three indexes. Kinder than it was: one transaction for
/// ten thousand clients instead of a hundred, and no wait for the disk.
const PROGRAM: &str = r#"
import sqlite3, sys, time
path, clients = sys.argv[1], int(sys.argv[2])
base = sqlite3.connect(path)
base.executescript("""
PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
CREATE TABLE ntp_clients (id INTEGER PRIMARY KEY AUTOINCREMENT, client_ip VARCHAR(45) NOT NULL,
 client_port INTEGER, server_ip VARCHAR(45), server_port INTEGER, interface_name VARCHAR(64) NOT NULL,
 ntp_version INTEGER, stratum INTEGER, precision INTEGER, root_delay FLOAT, root_dispersion FLOAT,
 reference_id VARCHAR(32), leap_indicator VARCHAR(64), poll_interval INTEGER,
 reference_timestamp FLOAT, originate_timestamp FLOAT, receive_timestamp FLOAT,
 transmit_timestamp FLOAT, latency FLOAT, processing FLOAT, total FLOAT, packet_length INTEGER,
 session_timestamp DATETIME, first_seen_timestamp DATETIME, last_seen_timestamp DATETIME,
 session_count INTEGER DEFAULT 1);
CREATE UNIQUE INDEX idx_client_interface ON ntp_clients(client_ip, interface_name);
CREATE INDEX idx_last_seen ON ntp_clients(last_seen_timestamp);
CREATE INDEX idx_interface_last_seen ON ntp_clients(interface_name, last_seen_timestamp);
""")
upsert = "INSERT INTO ntp_clients VALUES (NULL" + ",?" * 24 + ",1) ON CONFLICT(client_ip, interface_name) DO UPDATE SET last_seen_timestamp=excluded.last_seen_timestamp, session_count=session_count+1"
def row(number):
    mixed = number * 2654435761 % 4294967296
    ip = "%d.%d.%d.%d" % (mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255, mixed & 255)
    seen = "2026-01-01T00:00:%09.6f" % (number % 60000000 / 1e6)
    return (ip, 123, "192.0.2.1", 123, "eth0", 4, 2, -25, .001, .001, "192.0.2.2", "0", 6,
            1.7e9, 1.7e9, 1.7e9, 1.7e9, 1e-4, 1e-5, 1e-4, 48, seen, seen, seen)
begun = time.monotonic()
for start in range(0, clients, 10000):
    with base:
        base.executemany(upsert, map(row, range(start, min(clients, start + 10000))))
print(clients / (time.monotonic() - begun))
for page in (1, 20000):
    times = []
    for _ in range(5):
        begun = time.monotonic()
        base.execute("SELECT COUNT(*) FROM ntp_clients").fetchone()
        base.execute("SELECT * FROM ntp_clients ORDER BY last_seen_timestamp DESC LIMIT 20 OFFSET ?", ((page - 1) * 20,)).fetchall()
        times.append(time.monotonic() - begun)
    print(sorted(times)[2])
"#;

pub(super) fn measure(directory: &Path, clients: u32) -> Result<Figures> {
    let path = directory.join("peer.sqlite");
    let output = Command::new("python3")
        .args(["-c", PROGRAM])
        .arg(&path)
        .arg(clients.to_string())
        .output()
        .context("starting python3")?;
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(ending);
        // Whatever of it there is.
        let _ = std::fs::remove_file(name);
    }
    ensure!(
        output.status.success(),
        "SQLite: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("reading what SQLite took")?;
    let [upserts, first_page, deep_page] = numbers[..] else {
        anyhow::bail!("SQLite printed {text}");
    };
    Ok(Figures {
        upserts,
        first_page: Duration::from_secs_f64(first_page),
        deep_page: Duration::from_secs_f64(deep_page),
    })
}
