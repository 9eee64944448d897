//! `soak`: what takes too long for a test, with the daemon as released.

use crate::{install, process, test};
use anyhow::Result;
use std::process::Command;

/// Watches idle servers for so many minutes.
pub(crate) fn soak(minutes: u64) -> Result<()> {
    install::ensure_tools()?;
    test::install_packages(false)?;
    for package in ["ntpmon", "ntpmon-tests"] {
        let arguments = ["build", "--release", "--bins", "--package", package];
        process::run(&mut process::cargo(&arguments))?;
    }
    let released = process::target_directory()?.join("release");
    let mut command = if process::is_root() {
        Command::new(released.join("soak"))
    } else {
        let mut command = Command::new("sudo");
        command
            .arg("--preserve-env=NTPMON_BINARY")
            .arg(released.join("soak"));
        command
    };
    command
        .env("NTPMON_BINARY", released.join("ntpmon"))
        .args(["--minutes", &minutes.to_string()]);
    Err(process::become_program(&mut command))
}
