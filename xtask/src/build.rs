//! `build` and `run`: the daemon, with the tools that it takes.

use crate::{install, packages, process};
use anyhow::{Result, bail};
use std::{ffi::OsString, path::PathBuf, process::Command};

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
        let mut command = Command::new("sudo");
        command.arg(program);
        command
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
