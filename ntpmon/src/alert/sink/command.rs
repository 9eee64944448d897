//! A program that is told by its standard input and its environment. There is no shell, so nothing
//! that others chose, such as the name of a server, is ever read as a command. It gets none of the
//! daemon's rights, and its whole process group ends when its time is over.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process_group},
};

use super::definition::Definition;
use crate::{alert::notice::Notice, outbox::Failure, privileges};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// So much of what it says is told, in bytes.
const SAID: usize = 300;
/// Where programs are looked for by those that it starts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn deliver(sink: &Definition, notice: &Notice, id: &str) -> Result<(), Failure> {
    let Some((program, arguments)) = sink.command.split_first() else {
        return Err(Failure::for_good("there is no command"));
    };
    let data = notice.data(sink.language, id);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment(sink, notice, id))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec these make system calls, and take neither memory nor a lock.
    unsafe {
        command.pre_exec(keep_descriptors);
        command.pre_exec(privileges::give_up_all);
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failure::for_now(format!("starting {program}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds, so this does not wait. Who does not read it needs not.
        let _ = stdin.write_all(data.to_string().as_bytes());
    }
    wait(&mut child, sink.timeout).map_err(|why| Failure::for_now(format!("{program} {why}")))
}

/// Keeps from the program whatever the daemon has open, also what its own starter left open to it.
fn keep_descriptors() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let (last, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: it takes numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, last, flags) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A kernel before 5.11; what the daemon opens itself is closed then too.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}

fn environment(sink: &Definition, notice: &Notice, id: &str) -> Vec<(String, String)> {
    let number = |value: Option<f64>| value.map_or_else(String::new, |it| it.to_string());
    let mut variables: Vec<(String, String)> = [
        ("STATE", notice.state().to_owned()),
        ("ID", notice.alert.to_string()),
        ("DELIVERY_ID", id.to_owned()),
        ("RULE", notice.rule.clone()),
        ("QUANTITY", notice.quantity.to_string()),
        ("SEVERITY", notice.severity.name().to_owned()),
        ("VALUE", number(notice.value)),
        ("LEVEL", number(notice.level)),
        ("TITLE", notice.title(sink.language)),
        ("TEXT", notice.text(sink.language)),
    ]
    .map(|(name, value)| (format!("NTPMON_ALERT_{name}"), value))
    .into();
    let labels = notice.labels.iter();
    variables.extend(labels.map(|(name, value)| {
        (
            format!("NTPMON_ALERT_LABEL_{}", name.to_uppercase()),
            value.clone(),
        )
    }));
    // What holds a zero byte cannot be said this way.
    for (_, value) in &mut variables {
        value.retain(|letter| letter != '\0');
    }
    variables
}

/// Waits for its end, for as long as it may take.
fn wait(child: &mut Child, timeout: Duration) -> Result<(), String> {
    let end = Instant::now() + timeout;
    let mut said = Said::of(child);
    loop {
        said.read();
        let status = child
            .try_wait()
            .map_err(|error| format!("cannot be waited for: {error}"))?;
        if let Some(status) = status {
            said.read();
            if status.success() {
                return Ok(());
            }
            return Err(format!("ended with {status}{}", said.told()));
        }
        if Instant::now() >= end {
            let group = Pid::from_child(child);
            if let Err(error) = kill_process_group(group, Signal::KILL) {
                tracing::warn!("ending a command that takes too long: {error}");
            }
            // It was just killed.
            let _ = child.wait();
            let seconds = timeout.as_secs_f64();
            return Err(format!(
                "took longer than {seconds} s, and was ended{}",
                said.told()
            ));
        }
        thread::sleep(LOOK);
    }
}

/// What it writes to its standard error. Some other process may have that open for ever, so it is
/// read without waiting.
struct Said {
    pipe: Option<std::process::ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    fn of(child: &mut Child) -> Self {
        let pipe = child.stderr.take().filter(|pipe| {
            let set = rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK);
            set.is_ok()
        });
        Self {
            pipe,
            text: Vec::new(),
        }
    }

    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        // Who writes without end is read further at the next look.
        for _ in 0..64 {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let room = SAID.saturating_sub(self.text.len()).min(count);
                    self.text.extend_from_slice(&buffer[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        let text: String = text
            .chars()
            .map(|it| if it.is_control() { ' ' } else { it })
            .collect();
        match text.trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}
