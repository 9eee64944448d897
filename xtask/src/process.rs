//! Running other programs: said before, checked after. Everything that xtask says goes to
//! standard error, so that what a subcommand prints for a pipe stays clean.

use anyhow::{Context as _, Result, bail};
use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// One line to the person at the terminal.
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// The command as one would type it.
fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Runs to the end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    say(&line);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// As [`run`], but stopped when it takes too long.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let line = show(command);
    say(&line);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("waiting for `{line}`"))?
        {
            if status.success() {
                return Ok(());
            }
            bail!("`{line}` failed: {status}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().with_context(|| format!("stopping `{line}`"))?;
    child.wait().with_context(|| format!("stopping `{line}`"))?;
    bail!("`{line}` took longer than {} s", limit.as_secs())
}

/// Becomes the program: signals and the exit code are its own.
pub(crate) fn become_program(command: &mut Command) -> anyhow::Error {
    let line = show(command);
    say(&line);
    anyhow::Error::new(command.exec()).context(format!("cannot start `{line}`"))
}

/// What a program prints, trimmed; `None` when it is not there or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The cargo that runs xtask.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// The project's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Cargo's target directory, wherever the user's settings put it: xtask itself was built into it.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let executable = env::current_exe().context("where xtask itself is")?;
    executable
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .with_context(|| format!("{} lies in no target directory", executable.display()))
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    status_value("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

/// Whether this process may load and attach programs.
pub(crate) fn may_attach() -> bool {
    status_value("CapEff:")
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(allows_attaching)
}

fn allows_attaching(capabilities: u64) -> bool {
    let has = |number: u32| capabilities >> number & 1 == 1;
    let (net_admin, sys_admin, perfmon, bpf) = (has(12), has(21), has(38), has(39));
    net_admin && (sys_admin || perfmon && bpf)
}

fn status_value(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attaching_takes_three_capabilities_or_the_old_one() {
        let bits = |numbers: &[u32]| numbers.iter().fold(0, |mask, number| mask | 1 << number);
        assert!(allows_attaching(bits(&[12, 38, 39])));
        assert!(allows_attaching(bits(&[12, 21])));
        assert!(!allows_attaching(bits(&[38, 39])));
        assert!(!allows_attaching(bits(&[12, 39])));
        assert!(!allows_attaching(0));
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let started = Instant::now();
        let result = run_within(Command::new("sleep").arg("60"), Duration::from_millis(100));
        assert!(result.is_err());
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
