//! `build` and `run`: the daemon, with the tools that it takes.

use crate::{install, packages, process};
use anyhow::{Result, bail};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// What the daemon's settings in the environment begin with.
const PREFIX: &str = "NTPMON_";

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
        through_sudo(&program, &settings(env::vars_os().map(|(name, _)| name)))
    } else {
        bail!(
            "attaching to an interface takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and there is no sudo: \
             run {} as root",
            program.display()
        );
    };
    Err(process::become_program(command.arg("run").args(arguments)))
}

/// The daemon's settings among the names of variables.
fn settings(names: impl Iterator<Item = OsString>) -> Vec<String> {
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// sudo drops the environment. It is asked to keep something only where there is something: not
/// everyone may ask.
fn through_sudo(program: &Path, settings: &[String]) -> Command {
    let mut command = Command::new("sudo");
    if !settings.is_empty() {
        command.arg(format!("--preserve-env={}", settings.join(",")));
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_settings_get_through_sudo_and_nothing_else() {
        let words = |names: &[&str]| {
            let command = through_sudo(
                Path::new("ntpmon"),
                &settings(names.iter().map(OsString::from)),
            );
            command.get_args().collect::<Vec<_>>().join(" ".as_ref())
        };
        assert_eq!(
            words(&["HOME", "NTPMON_LOG", "NTPMON_API_LISTEN", "MY_NTPMON_LOG"]),
            "--preserve-env=NTPMON_LOG,NTPMON_API_LISTEN ntpmon"
        );
        assert_eq!(words(&["HOME"]), "ntpmon");
    }
}
