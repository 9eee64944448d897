//! NTPsec: ntpd, which sends the kiss-o'-death that chrony 4.3 does not, and the tools `ntpq` (mode
//! 6), `ntpdig` (its sntp) and `ntpdate`.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    namespace::{self, Namespace},
    packages::Packages,
    process::{Process, run},
};

/// NTPsec's ntpd. It is told to leave the clock alone, and has no right to set it.
#[derive(Debug)]
pub struct Ntpsec {
    process: Process,
    #[expect(dead_code, reason = "kept until the daemon ends")]
    folder: TempDir,
}

impl Ntpsec {
    /// Starts one with lines of `ntp.conf`; returns when it listens on the host's addresses.
    pub fn start(namespace: &Namespace, lines: &[&str]) -> Result<Self> {
        let packages = Packages::get()?;
        let folder = namespace::folder()?;
        let configuration = folder.path().join("ntp.conf");
        let text = format!(
            "disable ntp\n\
             statsdir {}/\n\
             {}\n",
            folder.path().display(),
            lines.join("\n")
        );
        fs::write(&configuration, text).context("cannot write ntpd's configuration")?;
        let mut process = Process::start(
            namespace
                .command(packages.file("ntpsec", "usr/sbin/ntpd"))
                .arg("-n")
                .arg("-c")
                .arg(&configuration)
                .arg("-p")
                .arg(folder.path().join("process")),
        )?;
        process.wait_until("ntpd to listen", Duration::from_secs(10), |it| {
            // Written once the sockets are open.
            it.stderr().contains("INIT: MRU") || it.stdout().contains("INIT: MRU")
        })?;
        Ok(Self { process, folder })
    }

    /// A server of stratum 5 that is its own reference, open for queries, with these lines besides.
    /// It answers as unsynchronised for its first second or two.
    pub fn server(namespace: &Namespace, lines: &[&str]) -> Result<Self> {
        let open = [
            "tos orphan 5 orphanwait 1",
            "restrict 10.0.0.0/24",
            "restrict fd00::/64",
        ];
        Self::start(namespace, &[&open, lines].concat())
    }

    /// What it logged, to show when something is not as expected.
    pub fn log(&self) -> String {
        self.process.stderr() + &self.process.stdout()
    }
}

/// `ntpq -n -c QUERY...`: control packets (mode 6).
pub fn ntpq(namespace: &Namespace, server: &str, queries: &[&str]) -> Result<String> {
    let mut command = tool(namespace, "ntpsec", "usr/bin/ntpq")?;
    command.arg("-n");
    for query in queries {
        command.args(["-c", query]);
    }
    run(command.arg(server))
}

/// `ntpdig SERVER`, NTPsec's sntp: asks once.
pub fn ntpdig(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    run(tool(namespace, "ntpsec-ntpdig", "usr/bin/ntpdig")?.args(arguments))
}

/// `ntpdate -q SERVER`: asks, and sets nothing.
pub fn ntpdate(namespace: &Namespace, server: &str) -> Result<String> {
    run(tool(namespace, "ntpsec-ntpdate", "usr/sbin/ntpdate")?
        .arg("-q")
        .arg(server))
}

/// A command for one of the tools, with what they need to find each other.
fn tool(namespace: &Namespace, package: &str, program: &str) -> Result<Command> {
    let packages = Packages::get()?;
    let mut command = namespace.command(packages.file(package, program));
    let mut path = vec![packages.file("ntpsec-ntpdig", "usr/bin")];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    command
        .env("PYTHONPATH", packages.python_path())
        // Not into the unpacked packages: several tests run at once.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PATH", std::env::join_paths(path).context("PATH is odd")?);
    Ok(command)
}
