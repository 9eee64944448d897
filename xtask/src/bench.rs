//! `bench`: builds the daemon and the benchmark program as released, and becomes the latter.

use crate::{install, packages, process, test};
use anyhow::{Result, bail};
use std::{ffi::OsString, process::Command};

/// Measures one part, or all.
pub(crate) fn bench(part: Option<&str>, json: bool, arguments: &[OsString]) -> Result<()> {
    install::ensure_tools()?;
    test::install_packages(false)?;
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
    // Replaying a file takes no privileges; the others load programs.
    let mut command = if process::may_attach() && process::is_root() || part == Some("replay") {
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
