//! `build` and `run`: the daemon, with the tools that it takes.

use crate::{install, packages, process};
use anyhow::{Result, bail};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The daemon's one setting in the environment.
const LOG: &str = "NTPMON_LOG";

/// Builds the daemon and returns where it is.
pub(crate) fn build() -> Result<PathBuf> {
    install::ensure_tools()?;
    process::run(&mut process::cargo(&[
        "build",
        "--release",
        "--package",
        "ntpmon",
    ]))?;
    let program = process::target_directory()?.join("release/ntpmon");
    process::say(&format!("{} is ready", program.display()));
    Ok(program)
}

/// Builds the daemon and becomes it.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let program = build()?;
    let mut command = if process::may_attach() {
        Command::new(program)
    } else if packages::find_program("sudo") {
        process::say(
            "attaching to an interface takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: going through sudo",
        );
        through_sudo(&program, env::var_os(LOG).is_some())
    } else {
        bail!(
            "attaching to an interface takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and there is no sudo: \
             run {} as root",
            program.display()
        );
    };
    Err(process::become_program(
        command.arg("watch").args(arguments),
    ))
}

/// sudo drops the environment. It is asked to keep something only where there is something: not
/// everyone may ask.
fn through_sudo(program: &Path, keep_log: bool) -> Command {
    let mut command = Command::new("sudo");
    if keep_log {
        command.arg(format!("--preserve-env={LOG}"));
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_setting_gets_through_sudo() {
        let words = |keep_log| {
            let command = through_sudo(Path::new("ntpmon"), keep_log);
            command.get_args().collect::<Vec<_>>().join(" ".as_ref())
        };
        assert_eq!(words(true), "--preserve-env=NTPMON_LOG ntpmon");
        assert_eq!(words(false), "ntpmon");
    }
}
