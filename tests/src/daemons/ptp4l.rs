//! linuxptp's ptp4l, a clock of PTP with the kernel's times, and `pmc`, which asks it what it
//! counted. It runs free: it measures, and never sets a clock.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    namespace::{self, Namespace},
    packages::Packages,
    process::Process,
};

/// How a clock is to be.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'a> {
    /// `UDPv4`, `UDPv6` or `L2`.
    pub transport: &'a str,
    /// The number of its domain.
    pub domain: u8,
    /// Its identity, as linuxptp writes it.
    pub identity: &'a str,
    /// The lower, the more it is to be preferred.
    pub priority1: u8,
    /// A code: 0xfe is not known.
    pub accuracy: u8,
}

/// A ptp4l on one device.
#[derive(Debug)]
pub struct Ptp4l {
    process: Process,
    domain: u8,
    folder: TempDir,
}

impl Ptp4l {
    /// Starts one; returns when it listens. It announces twice a second when it is master, sends eight
    /// Syncs a second, and asks for its delay as often.
    pub fn start(namespace: &Namespace, device: &str, clock: Clock<'_>) -> Result<Self> {
        let Clock {
            transport,
            domain,
            identity,
            priority1,
            accuracy,
        } = clock;
        let folder = namespace::folder()?;
        let configuration = folder.path().join("ptp4l.conf");
        let socket = socket(&folder);
        let text = format!(
            "[global]\n\
             free_running 1\n\
             time_stamping software\n\
             network_transport {transport}\n\
             domainNumber {domain}\n\
             clockIdentity {identity}\n\
             priority1 {priority1}\n\
             clockAccuracy {accuracy:#04x}\n\
             logAnnounceInterval -1\n\
             logSyncInterval -3\n\
             logMinDelayReqInterval -3\n\
             announceReceiptTimeout 3\n\
             uds_address {}\n",
            socket.display()
        );
        fs::write(&configuration, text).context("cannot write ptp4l's configuration")?;
        let mut process = Process::start(
            namespace
                .command(Packages::get()?.file("linuxptp", "usr/sbin/ptp4l"))
                .args(["-i", device, "-m", "-q", "-l", "6", "-f"])
                .arg(&configuration),
        )?;
        process.wait_until("ptp4l to listen", Duration::from_secs(10), |it| {
            it.stdout().contains("port 1: INITIALIZING to LISTENING")
        })?;
        Ok(Self {
            process,
            domain,
            folder,
        })
    }

    /// Waits until it has said this.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let what = format!("ptp4l to say {text:?}");
        self.process
            .wait_until(&what, Duration::from_secs(15), |it| {
                it.stdout().contains(text)
            })
    }

    /// Messages that it sent and received since it began, by pmc's names: `tx_Sync`.
    pub fn counts(&self, namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
        let mut command = namespace.command(Packages::get()?.file("linuxptp", "usr/sbin/pmc"));
        command
            .args(["-u", "-b", "0", "-d", &self.domain.to_string(), "-s"])
            .arg(socket(&self.folder))
            // Where it answers to: not where another pmc listens at the same time.
            .arg("-i")
            .arg(self.folder.path().join("pmc"))
            .arg("GET PORT_STATS_NP");
        let text = crate::process::run(&mut command)?;
        let counts: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| {
                let (name, count) = line.trim().split_once(char::is_whitespace)?;
                Some((name.to_owned(), count.trim().parse().ok()?))
            })
            .collect();
        counts
            .contains_key("tx_Sync")
            .then_some(counts)
            .with_context(|| format!("pmc told no counts: {text}"))
    }

    /// Ends it without a farewell.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(libc::SIGKILL)?;
        self.process.wait(Duration::from_secs(5))?;
        Ok(())
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("socket")
}
