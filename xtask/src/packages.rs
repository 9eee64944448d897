//! The distribution's packages: which are missing, and bringing them. Only apt is spoken; on
//! other distributions the missing ones are named, with what they are for.

use crate::{process, toolchain};
use anyhow::{Result, bail};
use std::{path::Path, process::Command};

/// A package, and why it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Debian's name.
    pub(crate) name: String,
    /// A program that comes with it, to find it where there is no dpkg; empty for libraries.
    pub(crate) program: &'static str,
    /// What it is for.
    pub(crate) reason: &'static str,
}

impl Package {
    pub(crate) fn new(
        name: impl Into<String>,
        program: &'static str,
        reason: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            program,
            reason,
        }
    }

    fn is_installed(&self) -> bool {
        if has_apt() {
            process::output(
                "dpkg-query",
                &["-W", "-f", "${db:Status-Status}", &self.name],
            )
            .is_some_and(|status| status == "installed")
        } else {
            !self.program.is_empty() && find_program(self.program)
        }
    }
}

/// Whether this is Debian or one of its kin.
pub(crate) fn has_apt() -> bool {
    find_program("apt-get") && find_program("dpkg-query")
}

/// Whether a program is anywhere that programs are looked for.
pub(crate) fn find_program(name: &str) -> bool {
    toolchain::search_path()
        .iter()
        .any(|directory| directory.join(name).exists())
}

/// Whether a distribution's package list offers a package.
pub(crate) fn is_offered(name: &str) -> bool {
    process::output("apt-cache", &["policy", name]).is_some_and(|policy| {
        policy
            .lines()
            .any(|line| line.trim().starts_with("Candidate: ") && !line.contains("(none)"))
    })
}

/// Brings the package list up to date when it lacks one of `names`; an image of a distribution
/// comes without any list.
pub(crate) fn refresh_list_for(names: &[&str]) -> Result<()> {
    if !has_apt() || names.iter().all(|name| is_offered(name)) {
        return Ok(());
    }
    process::say("apt's package list lacks some of what is needed: updating it");
    process::run(&mut as_root("apt-get", &["update", "--quiet"])?)
}

/// Installs those that are missing, after saying which and why.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages
        .iter()
        .filter(|package| !package.is_installed())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing
        .iter()
        .map(|package| format!("\n  {:<20} {}", package.name, package.reason))
        .collect::<String>();
    if !has_apt() {
        bail!(
            "these are missing (Debian's names; install what your distribution calls them):{list}\n{}",
            other_names()
        );
    }
    process::say(&format!("installing Debian packages:{list}"));
    let names: Vec<&str> = missing
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    refresh_list_for(&names)?;
    // Never at the price of a package that is there: rustc-web, for one, conflicts with rustc.
    let mut arguments = vec![
        "install",
        "--quiet",
        "--yes",
        "--no-install-recommends",
        "--no-remove",
    ];
    arguments.extend(&names);
    process::run(&mut as_root("apt-get", &arguments)?)
}

/// What the same things are called elsewhere, for the distributions that people come with.
pub(crate) fn other_names() -> &'static str {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_for(&release)
}

fn names_for(os_release: &str) -> &'static str {
    let is = |name: &str| {
        os_release
            .lines()
            .filter_map(|line| {
                line.strip_prefix("ID=")
                    .or_else(|| line.strip_prefix("ID_LIKE="))
            })
            .any(|ids| ids.trim_matches('"').split(' ').any(|id| id == name))
    };
    if is("fedora") || is("rhel") {
        "Fedora: dnf install rust cargo rust-src llvm-devel zlib-devel libzstd-devel gcc-c++ \
         tcpdump wireshark-cli qemu-system-x86 busybox ethtool iproute bpftool"
    } else if is("arch") {
        "Arch: pacman -S rust rust-src llvm gcc bpf-linker \
         tcpdump wireshark-cli qemu-system-x86 busybox ethtool iproute2 bpf"
    } else {
        "With rustup: rustup component add rust-src; and bpf-linker from \
         https://github.com/aya-rs/bpf-linker/releases on the PATH"
    }
}

/// A command that needs root: as it is, or through sudo.
pub(crate) fn as_root(program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = if process::is_root() {
        Command::new(program)
    } else if find_program("sudo") {
        let mut command = Command::new("sudo");
        // sudo drops the environment, so the one variable that matters goes through env.
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        command
    } else {
        bail!(
            "`{program} {}` needs root, and there is no sudo: run it as root",
            arguments.join(" ")
        );
    };
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments);
    Ok(command)
}

/// Whether the development files of an LLVM are there; where they are.
pub(crate) fn llvm_prefix(version: u32) -> Option<String> {
    let versioned = format!("/usr/lib/llvm-{version}");
    if Path::new(&versioned).join("bin/llvm-config").exists()
        && Path::new(&versioned).join("include/llvm-c").exists()
    {
        return Some(versioned);
    }
    [
        format!("llvm-config-{version}"),
        format!("llvm-config-{version}-64"),
        "llvm-config".to_owned(),
    ]
    .iter()
    .find(|program| {
        process::output(program, &["--version"])
            .is_some_and(|found| found.split('.').next() == Some(&version.to_string()))
    })
    .and_then(|program| process::output(program, &["--prefix"]))
    .filter(|prefix| Path::new(prefix).join("include/llvm-c").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_for_the_distribution_at_hand() {
        assert!(names_for("NAME=x\nID=fedora\n").starts_with("Fedora"));
        assert!(names_for("ID=manjaro\nID_LIKE=arch\n").starts_with("Arch"));
        assert!(names_for("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n").starts_with("Fedora"));
        assert!(names_for("").starts_with("With rustup"));
    }
}
