//! `ntpmon run` in a namespace and in a folder of its own, under a service manager that only
//! listens: what a test needs to start it, to know that it is ready, and to see how it ends.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    namespace::{self, Namespace},
    process::Process,
    watch::binary,
};

/// Enough for a busy machine, far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to end: what is promised to its users.
pub const END: Duration = Duration::from_secs(5);

/// What a daemon keeps: its configuration, its data, and the socket of its service manager.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let home = Self {
            folder: namespace::folder()?,
        };
        home.configure("")?;
        Ok(home)
    }

    /// Where something in it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.path("ntpmon.toml");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A command that runs the daemon on the loopback of a namespace and on a free port, behind
    /// others: `before` is what comes before it. Further arguments and variables may follow.
    pub fn command(&self, namespace: &Namespace, before: &[&str]) -> Result<Command> {
        self.command_listening(namespace, before, "127.0.0.1:0")
    }

    /// As [`Self::command`], at this address.
    pub fn command_listening(
        &self,
        namespace: &Namespace,
        before: &[&str],
        listen: &str,
    ) -> Result<Command> {
        self.command_watching(namespace, before, listen, &["lo"])
    }

    /// As [`Self::command_listening`], watching these interfaces; with none, those that the
    /// configuration or the data directory says.
    pub fn command_watching(
        &self,
        namespace: &Namespace,
        before: &[&str],
        listen: &str,
        interfaces: &[&str],
    ) -> Result<Command> {
        self.command_running(&binary()?, namespace, before, listen, interfaces)
    }

    /// As [`Self::command_watching`], of this binary.
    pub fn command_running(
        &self,
        binary: &Path,
        namespace: &Namespace,
        before: &[&str],
        listen: &str,
        interfaces: &[&str],
    ) -> Result<Command> {
        let mut command = namespace.command("env");
        // Only what a test sets.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("NTPMON_"))
            {
                command.arg("-u").arg(name);
            }
        }
        command
            .args(before)
            .arg(binary)
            .args(["run", "--listen", listen])
            .args(interfaces.iter().flat_map(|name| ["--interface", name]))
            .arg("--config")
            .arg(self.path("ntpmon.toml"))
            .arg("--data-dir")
            .arg(self.data());
        Ok(command)
    }

    /// Starts it by such a command, and returns when it says that it is ready.
    pub fn start(&self, command: &mut Command) -> Result<Daemon> {
        self.start_with_input(command, Stdio::null())
    }

    /// As [`Self::start`], with something as its standard input.
    pub fn start_with_input(&self, command: &mut Command, stdin: Stdio) -> Result<Daemon> {
        let path = self.path("notify");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("removing the socket of an earlier daemon");
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).context("listening as a service manager")?;
        open_to_all(&path)?;
        socket.set_nonblocking(true)?;
        command.env("NOTIFY_SOCKET", &path);
        let process = Process::start_with_input(command, stdin)?;
        let mut daemon = Daemon {
            process,
            socket,
            notes: Vec::new(),
        };
        daemon.wait_for_note("READY=1", 1)?;
        Ok(daemon)
    }
}

/// A daemon of another user tells its manager too.
fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
        .with_context(|| format!("opening {}", path.display()))
}

/// What the daemon told its service manager in one message, and when that was read.
#[derive(Debug, Clone)]
pub struct Note {
    /// Its lines, such as `READY=1`.
    pub lines: Vec<String>,
    /// Not before it was sent.
    pub read: Instant,
}

impl Note {
    /// Whether this line is in it.
    pub fn says(&self, line: &str) -> bool {
        self.lines.iter().any(|it| it == line)
    }

    /// What comes after the sign of equality.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.lines.iter();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// As it is.
    pub now: u64,
    /// The most that it ever was.
    pub most: u64,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    socket: UnixDatagram,
    notes: Vec<Note>,
}

impl Daemon {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// Where it serves.
    pub fn address(&self) -> Result<SocketAddr> {
        let ready = self.notes.iter().find(|note| note.says("READY=1"));
        let status = ready.and_then(|note| note.value("STATUS"));
        let address = status.and_then(|status| status.strip_prefix("listening on "));
        address
            .context("its status does not say where it listens")?
            .parse()
            .context("where it listens")
    }

    /// All that it told its manager so far.
    pub fn notes(&mut self) -> Result<&[Note]> {
        read_notes(&self.socket, &mut self.notes)?;
        Ok(&self.notes)
    }

    /// Waits until it has told its manager something so many times.
    pub fn wait_for_note(&mut self, line: &str, times: usize) -> Result<()> {
        let Self {
            process,
            socket,
            notes,
        } = self;
        let mut failed = Ok(());
        process.wait_until(line, PATIENCE, |_| {
            failed = read_notes(socket, notes);
            failed.is_err() || notes.iter().filter(|note| note.says(line)).count() >= times
        })?;
        failed
    }

    /// Waits until it has said something so many times, on its standard error.
    pub fn wait_for_message(&mut self, text: &str, times: usize) -> Result<()> {
        self.process.wait_until(text, PATIENCE, |it| {
            it.stderr().matches(text).count() >= times
        })
    }

    /// What it takes of the machine's memory.
    pub fn memory_bytes(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))
            .context("reading its state")?;
        let value = |name: &str| -> Result<u64> {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next());
            let kibibytes: u64 = number.context("no such line in its state")?.parse()?;
            Ok(kibibytes * 1024)
        };
        Ok(Memory {
            now: value("VmRSS")?,
            most: value("VmHWM")?,
        })
    }

    /// A value of each of its threads' /proc/PID/task/ID/status.
    pub fn of_threads(&self, name: &str) -> Result<HashMap<String, String>> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.id()));
        let mut found = HashMap::new();
        for entry in fs::read_dir(&folder).context("listing its threads")? {
            let entry = entry.context("listing its threads")?;
            let status = fs::read_to_string(entry.path().join("status"))
                .context("reading the state of a thread")?;
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("no {name} in the state of a thread"))?;
            let id = entry.file_name().to_string_lossy().into_owned();
            found.insert(id, value.trim().to_owned());
        }
        ensure!(!found.is_empty(), "it has no threads");
        Ok(found)
    }

    /// Kills it, as nothing that it could prepare for.
    pub fn kill(mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.process.wait(PATIENCE).map(drop)
    }

    /// Asks it to end, and says how it did, how long that took, and what it told its manager.
    pub fn end(mut self, signal: i32) -> Result<Ended> {
        let begin = Instant::now();
        self.signal(signal)?;
        let status = self.process.wait(PATIENCE)?;
        let took = begin.elapsed();
        read_notes(&self.socket, &mut self.notes)?;
        Ok(Ended {
            status,
            took,
            notes: self.notes,
            stderr: self.process.stderr(),
        })
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal on.
    pub took: Duration,
    /// All that it told its service manager.
    pub notes: Vec<Note>,
    /// All that it wrote to its standard error.
    pub stderr: String,
}

fn read_notes(socket: &UnixDatagram, notes: &mut Vec<Note>) -> Result<()> {
    let mut message = [0; 4096];
    loop {
        match socket.recv(&mut message) {
            Ok(length) => {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                notes.push(Note {
                    lines: text.lines().map(str::to_owned).collect(),
                    read: Instant::now(),
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("listening as a service manager"),
        }
    }
}
