//! `ntpmon watch` in a namespace: started on its interfaces, stopped as Ctrl-C does, with the lines
//! that it printed and the totals that it ended with.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::{
    namespace::Namespace,
    process::{Process, wait_for},
};

/// How long it may take to load its programs and attach them.
const START: Duration = Duration::from_secs(20);

/// A running `ntpmon watch`.
#[derive(Debug)]
pub struct Watch {
    process: Process,
}

/// What a [`Watch`] saw.
#[derive(Debug)]
pub struct Watched {
    /// One object per exchange, in the order of printing.
    pub lines: Vec<Map<String, Value>>,
    /// The totals at the end.
    pub totals: Map<String, Value>,
    /// All that it wrote to its standard error, to show when something is not as expected.
    pub stderr: String,
}

/// The binary under test: the one that `NTPMON_BINARY` names, else the workspace's debug build.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("NTPMON_BINARY").map_or_else(
        || crate::target_directory().join("debug/ntpmon"),
        PathBuf::from,
    );
    ensure!(
        path.is_file(),
        "{} is not there: build it with `cargo build -p ntpmon`, or name one with NTPMON_BINARY",
        path.display()
    );
    path.canonicalize()
        .with_context(|| format!("cannot resolve {}", path.display()))
}

impl Watch {
    /// Starts it on interfaces of a namespace, with further arguments; returns when it watches.
    pub fn start(namespace: &Namespace, interfaces: &[&str], arguments: &[&str]) -> Result<Self> {
        Self::start_binary(&binary()?, namespace, interfaces, arguments)
    }

    fn start_binary(
        binary: &Path,
        namespace: &Namespace,
        interfaces: &[&str],
        arguments: &[&str],
    ) -> Result<Self> {
        Self::start_command(namespace.command(binary), interfaces, arguments)
    }

    /// Starts it by a command that has all but ntpmon's arguments.
    pub fn start_command(
        mut command: Command,
        interfaces: &[&str],
        arguments: &[&str],
    ) -> Result<Self> {
        command.arg("watch");
        for interface in interfaces {
            command.args(["-i", interface]);
        }
        let process = Process::start(command.args(["--format", "ndjson"]).args(arguments))?;
        let mut watch = Self { process };
        let ready: Vec<_> = interfaces
            .iter()
            .map(|name| format!("watching {name}:"))
            .collect();
        watch.process.wait_until("ntpmon to watch", START, |it| {
            let stderr = it.stderr();
            ready.iter().all(|line| stderr.contains(line))
        })?;
        Ok(watch)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it, as nothing that it could prepare for.
    pub fn kill(mut self) -> Result<()> {
        self.process.stop_with(libc::SIGKILL).map(drop)
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it has said something so many times, on its standard error; fails when it ends.
    pub fn wait_for_message(&mut self, text: &str, times: usize, deadline: Duration) -> Result<()> {
        self.process.wait_until(text, deadline, |it| {
            it.stderr().matches(text).count() >= times
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// The exchanges printed so far.
    pub fn lines(&self) -> Result<Vec<Map<String, Value>>> {
        objects(&self.process.stdout())
    }

    /// Waits until so many exchanges were printed.
    pub fn wait_for_lines(&self, count: usize, deadline: Duration) -> Result<()> {
        wait_for(&format!("{count} exchanges of ntpmon"), deadline, || {
            Ok((self.process.stdout().matches('\n').count() >= count).then_some(()))
        })
    }

    /// Ends it as Ctrl-C does, and reads what it printed.
    pub fn stop(mut self) -> Result<Watched> {
        let status = self.process.stop_with(libc::SIGINT)?;
        let stderr = self.process.stderr();
        ensure!(status.success(), "ntpmon watch failed ({status}): {stderr}");
        let last = stderr
            .lines()
            .next_back()
            .context("ntpmon watch ended without its totals")?;
        let totals = serde_json::from_str(last)
            .with_context(|| format!("the totals are not a JSON object: {last}"))?;
        Ok(Watched {
            lines: objects(&self.process.stdout())?,
            totals,
            stderr,
        })
    }
}

/// Reads JSON objects, one a line; an unfinished last line waits for its rest.
fn objects(text: &str) -> Result<Vec<Map<String, Value>>> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("not a JSON object: {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::namespace;

    #[test]
    fn a_watch_gives_its_lines_and_its_totals() {
        const STAND_IN: &str = "#!/bin/sh
            trap 'echo \"{\\\"requests\\\":7}\" >&2; exit 0' INT
            echo \"watching $3: a stand-in\" >&2
            echo '{\"mode\":4}'
            while :; do sleep 0.02; done";
        let folder = namespace::folder().unwrap();
        let program = folder.path().join("watch");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let namespace = Namespace::new().unwrap();
        let watch = Watch::start_binary(&program, &namespace, &["lo"], &[]).unwrap();
        watch.wait_for_lines(1, Duration::from_secs(5)).unwrap();
        assert_eq!(watch.lines().unwrap()[0]["mode"], 4);
        let watched = watch.stop().unwrap();
        assert_eq!(
            (watched.lines.len(), &watched.totals["requests"]),
            (1, &Value::from(7))
        );
    }

    #[test]
    fn only_complete_lines_are_read() {
        let lines = objects("{\"mode\":4}\n{\"mode\":3}\n{\"mo").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["mode"], 3);
        assert!(objects("table\n").is_err());
    }
}
