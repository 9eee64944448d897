//! `test`: every test, with what the tests run against. The system tests attach programs and make
//! network namespaces, so they run as root; without root they go through sudo, and where that is
//! not possible they fail: a test that passes by not running proves nothing.

use crate::{
    install,
    packages::{self, Package},
    process,
};
use anyhow::{Result, bail};
use std::{env, path::Path};

/// What the tests run, and why. The NTP daemons are not here: their packages conflict with each
/// other and would start services, so the tests unpack them for themselves.
const PACKAGES: [(&str, &str, &str); 5] = [
    (
        "tcpdump",
        "tcpdump",
        "reads and writes the same captures: a second opinion",
    ),
    (
        "tshark",
        "tshark",
        "dissects the same captures: another one",
    ),
    (
        "iproute2",
        "ip",
        "network namespaces, veth pairs, tun devices",
    ),
    ("ethtool", "ethtool", "offloads of the test interfaces"),
    (
        "bpftool",
        "bpftool",
        "what is attached, seen by someone else",
    ),
];

/// What `--vm` takes on top.
const VM_PACKAGES: [(&str, &str, &str); 1] = [(
    "busybox-static",
    "busybox",
    "is all there is in that machine",
)];

/// Packages that the tests download and unpack, never install: apt has to know them.
const DOWNLOADED: [&str; 12] = [
    "chrony",
    "ntpsec",
    "ntpsec-ntpdate",
    "ntpsec-ntpdig",
    "python3-ntp",
    "openntpd",
    "linuxptp",
    "prometheus",
    "python3-prometheus-client",
    "prometheus-alertmanager",
    "linux-image-cloud-amd64",
    "qemu-system-x86",
];

/// Settings of the tests that must get through sudo.
const PASSED_ON: [&str; 5] = [
    "NTPMON_BINARY",
    "NTPMON_CAPTURES",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "PATH",
];

/// Runs all tests, or those whose names contain a filter.
pub(crate) fn test(vm: bool, filters: &[String]) -> Result<()> {
    check_captures()?;
    install::ensure_tools()?;
    install_packages(vm)?;
    process::run(&mut process::cargo(&["build", "--package", "ntpmon"]))?;

    if process::is_root() {
        return run(&["--workspace"], vm, None, filters);
    }
    if !packages::find_program("sudo") {
        bail!(
            "the system tests attach programs and make network namespaces: run `cargo xtask test` as root, or install sudo"
        );
    }
    run(
        &["--workspace", "--exclude", "ntpmon-tests"],
        false,
        None,
        filters,
    )?;
    process::say(
        "the system tests attach programs and make network namespaces: going through sudo",
    );
    let sudo = format!(
        "target.'cfg(all())'.runner=[\"sudo\", \"--preserve-env={}\"]",
        PASSED_ON.join(",")
    );
    run(&["--package", "ntpmon-tests"], vm, Some(&sudo), filters)
}

/// The packages that tests and benchmarks run.
pub(crate) fn install_packages(vm: bool) -> Result<()> {
    let mut packages = PACKAGES.to_vec();
    if vm {
        packages.extend(VM_PACKAGES);
    }
    packages::install(
        &packages
            .into_iter()
            .map(|(name, program, reason)| Package::new(name, program, reason))
            .collect::<Vec<_>>(),
    )?;
    packages::refresh_list_for(&DOWNLOADED)
}

fn run(packages: &[&str], vm: bool, config: Option<&str>, filters: &[String]) -> Result<()> {
    let mut command = process::cargo(&["test"]);
    command.args(packages);
    if let Some(config) = config {
        command.args(["--config", config]);
    }
    if vm {
        command.args(["--features", "ntpmon-tests/vm"]);
    }
    process::run(command.arg("--").args(filters))
}

/// A folder of captures that is named but not there would silently test less.
fn check_captures() -> Result<()> {
    match env::var_os("NTPMON_CAPTURES") {
        Some(directory) if !Path::new(&directory).is_dir() => {
            bail!(
                "NTPMON_CAPTURES names {}, which is no folder",
                Path::new(&directory).display()
            )
        }
        _ => Ok(()),
    }
}
