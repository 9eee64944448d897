//! OpenNTPD, as server and client. It has its paths and its user built in, so it runs in a mount
//! namespace of its own, where they exist; it has no switch against setting the clock, so the missing
//! right is what keeps it from that.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    namespace::{self, Namespace},
    packages::Packages,
    process::Process,
};

/// Makes what it expects, visible to it alone, and becomes it. Its arguments: a user database, a
/// group database, the program, its configuration, the file for its process id.
const SCRIPT: &str = "set -e
mount --bind \"$1\" /etc/passwd
mount --bind \"$2\" /etc/group
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/openntpd/run /var/lib/openntpd/db /var/lib/openntpd/empty
exec \"$3\" -d -v -f \"$4\" -p \"$5\"";

/// An OpenNTPD.
#[derive(Debug)]
pub struct Openntpd {
    process: Process,
    #[expect(dead_code, reason = "kept until the daemon ends")]
    folder: TempDir,
}

impl Openntpd {
    /// Starts one with lines of `ntpd.conf`; returns when it is ready. It polls about every 6
    /// seconds, and answers as unsynchronised until it trusts a server of its own.
    pub fn start(namespace: &Namespace, lines: &[&str]) -> Result<Self> {
        let packages = Packages::get()?;
        let folder = namespace::folder()?;
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        // Beside root, the user that it becomes.
        let users =
            "root:x:0:0::/root:/bin/sh\nntpd:x:64990:64990::/var/lib/openntpd/empty:/bin/false\n";
        let users = write("passwd", users.into())?;
        let groups = write("group", "root:x:0:\nntpd:x:64990:\n".into())?;
        let configuration = write("ntpd.conf", lines.join("\n") + "\n")?;
        let mut process = Process::start(
            namespace
                .command("unshare")
                .args(["--mount", "--", "sh", "-c", SCRIPT, "openntpd"])
                .args([
                    users,
                    groups,
                    packages.file("openntpd", "usr/sbin/ntpd"),
                    configuration,
                ])
                .arg(folder.path().join("process")),
        )?;
        process.wait_until("OpenNTPD to be ready", Duration::from_secs(10), |it| {
            it.stderr().contains("ntp engine ready")
        })?;
        Ok(Self { process, folder })
    }

    /// What it logged: among it, a line for each answer that it got.
    pub fn log(&self) -> String {
        self.process.stderr() + &self.process.stdout()
    }

    /// Waits until it has taken so many answers.
    pub fn wait_for_replies(&mut self, count: usize, deadline: Duration) -> Result<()> {
        self.process
            .wait_until(&format!("{count} answers"), deadline, |it| {
                it.stderr().matches("reply from").count() >= count
            })
    }
}
