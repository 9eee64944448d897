//! chrony: the server and the client of most tests, for it counts every request and logs every
//! measurement.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    chrony::{self, Client, Measurement, ServerStatistics},
    namespace::{self, Namespace},
    packages::Packages,
    process::{Process, run, wait_for},
};

/// A chronyd. It never touches the clock (`-x`).
#[derive(Debug)]
pub struct Chronyd {
    process: Process,
    chronyc: PathBuf,
    folder: TempDir,
}

impl Chronyd {
    /// Starts one with lines of `chrony.conf`; where it keeps its files is already said.
    pub fn start(namespace: &Namespace, lines: &[&str]) -> Result<Self> {
        let packages = Packages::get()?;
        let folder = namespace::folder()?;
        let path = folder.path().display();
        let configuration = folder.path().join("chrony.conf");
        let text = format!(
            // Real-time priority: on a busy machine it would be late for an answer, and not log it.
            "sched_priority 1\n\
             cmdport 0\n\
             bindcmdaddress {path}/socket\n\
             pidfile {path}/process\n\
             ntsdumpdir {path}\n\
             logdir {path}\n\
             log measurements rawmeasurements statistics\n\
             {}\n",
            lines.join("\n")
        );
        fs::write(&configuration, text).context("cannot write chrony's configuration")?;
        let process = Process::start(
            namespace
                .command(packages.file("chrony", "usr/sbin/chronyd"))
                // In the foreground, without the clock, as the user that we are.
                .args(["-d", "-x", "-u", "root", "-f"])
                .arg(&configuration),
        )?;
        let mut chronyd = Self {
            process,
            chronyc: packages.file("chrony", "usr/bin/chronyc"),
            folder,
        };
        let socket = chronyd.folder.path().join("socket");
        chronyd
            .process
            .wait_until("its command socket", Duration::from_secs(10), |_| {
                socket.exists()
            })?;
        Ok(chronyd)
    }

    /// A server of stratum 3 for everybody, with these lines besides.
    pub fn server(namespace: &Namespace, lines: &[&str]) -> Result<Self> {
        Self::start(namespace, &[&["local stratum 3", "allow"], lines].concat())
    }

    /// Asks it something, for values: `chronyc -c`.
    pub fn report(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.chronyc)
            .args(["-c", "-n", "-h"])
            .arg(self.folder.path().join("socket"))
            .args(arguments))
    }

    /// Tells it something, or asks it for a report for people: `chronyc`.
    pub fn tell(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.chronyc)
            .args(["-n", "-h"])
            .arg(self.folder.path().join("socket"))
            .args(arguments))
    }

    /// What it counted as a server.
    pub fn server_statistics(&self) -> Result<ServerStatistics> {
        chrony::server_statistics(&self.report(&["serverstats"])?)
    }

    /// Who asked it.
    pub fn clients(&self) -> Result<Vec<Client>> {
        chrony::clients(&self.report(&["clients"])?)
    }

    /// Waits until so many requests have come to it.
    pub fn wait_for_requests(&self, count: u64, deadline: Duration) -> Result<ServerStatistics> {
        wait_for(&format!("{count} requests at chronyd"), deadline, || {
            let statistics = self.server_statistics()?;
            Ok((statistics.received >= count).then_some(statistics))
        })
    }

    /// Makes it ask nobody any more, and gives the last answers time to come in.
    pub fn stop_asking(&self) -> Result<()> {
        self.tell(&["offline"])?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// What it has measured so far as a client; all of it once it was stopped.
    pub fn measurements(&self) -> Result<Vec<Measurement>> {
        chrony::measurements(&self.measurements_log()?)
    }

    /// The same as text, as chronyd wrote it.
    pub fn measurements_log(&self) -> Result<String> {
        let path = self.folder.path().join("measurements.log");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// What it logged, to show when something is not as expected.
    pub fn log(&self) -> String {
        self.process.stderr() + &self.process.stdout()
    }

    /// Ends it; its logs are complete then.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop().map(drop)
    }
}

/// A key and a certificate for NTS, signed by itself.
#[derive(Debug)]
pub struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// One for a server with this address.
    pub fn new(address: &str) -> Result<Self> {
        let folder = namespace::folder()?;
        let path = |name: &str| folder.path().join(name);
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=ntpmon-test", "-addext"])
            .arg(format!("subjectAltName=IP:{address}"))
            .arg("-keyout")
            .arg(path("key.pem"))
            .arg("-out")
            .arg(path("certificate.pem")))?;
        Ok(Self { folder })
    }

    /// The lines with which a server uses it.
    pub fn server_lines(&self) -> [String; 2] {
        let path = self.folder.path().display();
        [
            format!("ntsserverkey {path}/key.pem"),
            format!("ntsservercert {path}/certificate.pem"),
        ]
    }

    /// The line with which a client trusts it.
    pub fn client_line(&self) -> String {
        format!(
            "ntstrustedcerts {}/certificate.pem",
            self.folder.path().display()
        )
    }
}
