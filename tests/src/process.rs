//! Child processes that cannot outlive the test that started them. A [`Process`] runs in the
//! background with its output collected, and is stopped, by its own id, when it is dropped.

use std::{
    ffi::OsStr,
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How often a condition is asked again while waiting for it.
const RETRY: Duration = Duration::from_millis(10);
/// How long a process may take to obey SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A process in the background.
#[derive(Debug)]
pub struct Process {
    /// What to call it in errors: the command line.
    name: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// One stream of a process, read by a thread so that the process never blocks on it.
#[derive(Debug)]
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` in the background.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_with_input(command, Stdio::null())
    }

    /// As [`Self::start`], with something as its standard input.
    pub fn start_with_input(command: &mut Command, stdin: Stdio) -> Result<Self> {
        let name = describe(command);
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = Output::collect(child.stdout.take().context("standard output is a pipe")?);
        let stderr = Output::collect(child.stderr.take().context("standard error is a pipe")?);
        Ok(Self {
            name,
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far; all of it once it was waited for.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until `condition` holds, and fails when the process ends or `deadline` passes first.
    pub fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        while !condition(self) {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot ask for a child's state")?
            {
                self.finish_output();
                // What it said last may be what was waited for.
                if condition(self) {
                    return Ok(());
                }
                bail!(
                    "{} ended ({status}) before: {what}\n{}",
                    self.name,
                    self.said()
                );
            }
            ensure!(
                Instant::now() < end,
                "{}: waited {deadline:?} for: {what}\n{}",
                self.name,
                self.said()
            );
            std::thread::sleep(RETRY);
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a process id fits an i32")?;
        // SAFETY: kill takes no pointers; the id is of our own child, which was not reaped yet.
        let result = unsafe { libc::kill(id, signal) };
        ensure!(
            result == 0,
            "cannot send signal {signal} to {}: {}",
            self.name,
            std::io::Error::last_os_error()
        );
        Ok(())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot ask for a child's state")?
            {
                self.finish_output();
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "{} did not end within {deadline:?}\n{}",
                self.name,
                self.said()
            );
            std::thread::sleep(RETRY);
        }
    }

    /// Asks it to end with `signal`, insists with SIGKILL after a while, and tells how it ended.
    pub fn stop_with(&mut self, signal: i32) -> Result<ExitStatus> {
        if let Some(status) = self
            .child
            .try_wait()
            .context("cannot ask for a child's state")?
        {
            self.finish_output();
            return Ok(status);
        }
        self.signal(signal)?;
        if let Ok(status) = self.wait(GRACE) {
            return Ok(status);
        }
        self.signal(libc::SIGKILL)?;
        self.wait(GRACE)
    }

    /// Asks it to end, as an administrator would.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.stop_with(libc::SIGTERM)
    }

    fn finish_output(&mut self) {
        self.stdout.finish();
        self.stderr.finish();
    }

    /// Its output, for an error.
    fn said(&self) -> String {
        format!(
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody to tell, and the namespace takes its processes with it anyway.
        let _ = self.stop();
    }
}

impl Output {
    fn collect(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let bytes = Arc::clone(&bytes);
            move || {
                let mut piece = vec![0; 64 << 10];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    bytes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(&piece[..length]);
                }
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    /// Waits for the end of the stream, but not for a grandchild that keeps it open.
    fn finish(&mut self) {
        let end = Instant::now() + Duration::from_secs(1);
        if let Some(reader) = self.reader.take() {
            while !reader.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// Runs `command` to its end, and gives its standard output; fails, with what it said, when it does.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    ensure!(
        output.status.success(),
        "{} failed ({}{}): {}{}",
        describe(command),
        output.status,
        output
            .status
            .signal()
            .map_or_else(String::new, |signal| format!(", signal {signal}")),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into())
}

/// Waits until `condition` gives a value, asking it again and again; its last error, or that there
/// was nothing yet, is the error when `deadline` passes.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            return match last {
                Some(error) => Err(error.context(format!("waited {deadline:?} for: {what}"))),
                None => bail!("waited {deadline:?} for: {what}"),
            };
        }
        std::thread::sleep(RETRY);
    }
}

/// The command line, for errors.
fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_value() {
        let process = Process::start(Command::new("sleep").arg("60")).unwrap();
        let id = process.id();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn output_is_complete_after_waiting() {
        let mut process =
            Process::start(Command::new("sh").args(["-c", "echo one; echo two >&2"])).unwrap();
        assert!(process.wait(Duration::from_secs(5)).unwrap().success());
        assert_eq!(
            (process.stdout().as_str(), process.stderr().as_str()),
            ("one\n", "two\n")
        );
    }

    #[test]
    fn an_early_end_is_an_error_with_what_was_said() {
        let mut process =
            Process::start(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap();
        let error = process
            .wait_until("never", Duration::from_secs(5), |_| false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken"), "{error}");
    }
}
