//! `bench`: builds the daemon and the benchmark program as released, and becomes the latter.

use crate::{install, packages, process, test};
use anyhow::{Result, bail};
use std::{ffi::OsString, process::Command};

/// Measures one part, or all.
pub(crate) fn bench(part: Option<&str>, json: bool, arguments: &[OsString]) -> Result<()> {
    install::ensure_tools()?;
    test::install_packages(false)?;
    packages::install(&[packages::Package::new("wrk", "wrk", "asks over HTTP")])?;
    process::run(&mut process::cargo(&[
        "build",
        "--release",
        "--package",
        "ntpmon",
    ]))?;
    process::run(&mut process::cargo(&[
        "build",
        "--release",
        "--package",
        "ntpmon-tests",
        "--bin",
        "ntpmon-bench",
    ]))?;
    let program = process::target_directory()?.join("release/ntpmon-bench");
    // Only these load programs.
    let is_plain = matches!(part, Some("replay" | "history" | "growth" | "flood"));
    let mut command = if process::may_attach() && process::is_root() || is_plain {
        Command::new(program)
    } else if packages::find_program("sudo") {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    } else {
        bail!("this benchmark loads kernel programs: run it as root, or install sudo");
    };
    command.args(part);
    if json {
        command.arg("--json");
    }
    Err(process::become_program(command.args(arguments)))
}
