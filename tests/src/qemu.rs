//! qemu: the machine's own where it has one, otherwise Debian's, downloaded and unpacked with all
//! that it needs, not installed: other packages of qemu's, of another version, may be in its way.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{packages::in_path, process::run};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// Where an unpacked qemu finds its libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// Where it finds the machine's firmware.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// A command that runs it; what it takes lies in `directory`.
///
/// # Errors
/// When it is not there and cannot be downloaded.
pub(crate) fn command(directory: &Path) -> Result<Command> {
    if in_path(PROGRAM) {
        return Ok(Command::new(PROGRAM));
    }
    let place = directory.join("qemu");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    // Several tests may ask at once. Released when the file is closed.
    let lock = File::create(place.join("lock")).context("cannot make qemu's lock")?;
    lock.lock().context("cannot lock qemu's folder")?;
    let root = place.join("root");
    // Made last: a run that was interrupted is taken up again.
    let ready = place.join("ready");
    if !ready.exists() {
        unpack(&place, &root)?;
        fs::write(&ready, "").with_context(|| format!("cannot make {}", ready.display()))?;
    }
    let mut command = Command::new(root.join("usr/bin").join(PROGRAM));
    let libraries = std::env::join_paths(LIBRARIES.map(|path| root.join(path)))?;
    command.env("LD_LIBRARY_PATH", libraries);
    for path in FIRMWARE {
        command.arg("-L").arg(root.join(path));
    }
    Ok(command)
}

fn unpack(place: &Path, root: &Path) -> Result<()> {
    eprintln!("downloading, to run in the tests: {PACKAGE}");
    let simulated = || {
        run(Command::new("apt-get").args([
            "--simulate",
            "install",
            "--no-install-recommends",
            PACKAGE,
        ]))
    };
    // The lists may be missing or stale.
    let listing = simulated().or_else(|_| {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        simulated()
    })?;
    let names: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .collect();
    ensure!(
        names.contains(&PACKAGE),
        "apt does not say what {PACKAGE} needs: {listing}"
    );
    let download = place.join("download");
    fs::create_dir_all(&download).with_context(|| format!("cannot make {}", download.display()))?;
    run(Command::new("apt-get")
        // The unprivileged user that apt would use may not write here.
        .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
        .args(&names)
        .current_dir(&download))?;
    for entry in fs::read_dir(&download).context("cannot list what was downloaded")? {
        run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(root))?;
    }
    Ok(())
}
