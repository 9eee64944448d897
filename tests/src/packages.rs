//! The NTP daemons, and what reads our metrics, from Debian packages that are unpacked, not installed:
//! they conflict with each other as packages, and would start as services. Everything lands in `target/packages/`, once.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::process::run;

/// The packages to unpack.
const PACKAGES: [&str; 10] = [
    "chrony",
    "linuxptp",
    "ntpsec",
    "ntpsec-ntpdate",
    "ntpsec-ntpdig",
    "openntpd",
    "prometheus",
    "prometheus-alertmanager",
    "python3-ntp",
    "python3-prometheus-client",
];

/// The programs that must run, by package: their libraries are looked at.
const PROGRAMS: [(&str, &str); 8] = [
    ("chrony", "usr/sbin/chronyd"),
    ("chrony", "usr/bin/chronyc"),
    ("linuxptp", "usr/sbin/ptp4l"),
    ("ntpsec", "usr/sbin/ntpd"),
    ("openntpd", "usr/sbin/ntpd"),
    ("prometheus", "usr/bin/prometheus"),
    ("prometheus", "usr/bin/promtool"),
    ("python3-ntp", PYTHON_LIBRARY),
];

/// Where the shared libraries come from that a small machine may lack. These install without
/// conflicts and start nothing.
const LIBRARIES: [&str; 8] = [
    "libbsd0",
    "libcap2",
    "libedit2",
    "libgnutls30",
    "libhogweed6",
    "libnettle8",
    "libseccomp2",
    "libssl3",
];

/// What the tests run themselves, and the package that has it.
const TOOLS: [(&str, &str); 8] = [
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("tcpdump", "tcpdump"),
];

/// The C library that NTPsec's Python tools load; Debian puts it where only an installed package
/// finds it.
const PYTHON_LIBRARY: &str = "usr/lib/x86_64-linux-gnu/ntp/libntpc.so.1";
/// Where a package has its Python modules.
const PYTHON_MODULES: &str = "usr/lib/python3/dist-packages";

/// The unpacked daemons.
#[derive(Debug)]
pub struct Packages {
    directory: PathBuf,
}

impl Packages {
    /// The daemons, downloaded and unpacked now if they were not before. Costs milliseconds when
    /// they were; several test binaries may ask at once.
    pub fn get() -> Result<&'static Self> {
        static PREPARED: OnceLock<Result<Packages, String>> = OnceLock::new();
        PREPARED
            .get_or_init(|| Self::prepare().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("the programs to test with are not there: {error}"))
    }

    /// A value for PYTHONPATH with which Prometheus' own parsers are found.
    pub fn prometheus_client(&self) -> PathBuf {
        self.file("python3-prometheus-client", PYTHON_MODULES)
    }

    /// The path of a file of a package.
    pub fn file(&self, package: &str, path: &str) -> PathBuf {
        self.directory.join(package).join(path)
    }

    /// The version of a package, as Debian writes it.
    pub fn version(&self, package: &str) -> Result<String> {
        let path = self.directory.join(format!("{package}.version"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().into())
    }

    /// A value for PYTHONPATH with which NTPsec's tools find their modules.
    pub fn python_path(&self) -> PathBuf {
        self.file("python3-ntp", PYTHON_MODULES)
    }

    fn prepare() -> Result<Self> {
        let directory = crate::target_directory().join("packages");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        // Released when the file is closed, whatever happens.
        let path = directory.join("lock");
        let lock =
            fs::File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;

        let packages = Self { directory };
        // Made last: a run that was interrupted is taken up again.
        let ready = packages.directory.join("ready");
        let wanted = PACKAGES.join("\n");
        // Of an earlier version of these tests, which wanted others, it is no word.
        if fs::read_to_string(&ready).is_ok_and(|unpacked| unpacked == wanted) {
            return Ok(packages);
        }
        let missing: Vec<_> = PACKAGES
            .into_iter()
            .filter(|name| !packages.directory.join(name).is_dir())
            .collect();
        if !missing.is_empty() {
            packages.download(&missing)?;
        }
        for name in &missing {
            packages.unpack(name)?;
        }
        let modules = packages.python_path().join("ntp/libntpc.so");
        if !modules.exists() {
            std::os::unix::fs::symlink(packages.file("python3-ntp", PYTHON_LIBRARY), &modules)
                .with_context(|| format!("cannot make {}", modules.display()))?;
        }
        packages.install_libraries()?;
        fs::write(&ready, wanted).with_context(|| format!("cannot make {}", ready.display()))?;
        Ok(packages)
    }

    fn download(&self, packages: &[&str]) -> Result<()> {
        eprintln!("downloading, to run in the tests: {}", packages.join(" "));
        let directory = self.directory.join("download");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let download = || {
            run(Command::new("apt-get")
                // The unprivileged user that apt would use may not write here.
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .args(packages)
                .current_dir(&directory))
        };
        // The lists may be missing or stale; this alone is a reason to ask the network for them.
        download().or_else(|_| {
            run(Command::new("apt-get").args(["-q", "update"]))?;
            download()
        })?;
        Ok(())
    }

    /// Unpacks beside the final place, then renames: a folder that is there is complete.
    fn unpack(&self, package: &str) -> Result<()> {
        let directory = self.directory.join("download");
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .collect();
        // An interrupted run may have left an older version.
        files.sort_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).ok());
        let file = files
            .last()
            .with_context(|| format!("no {package} in what apt downloaded"))?;
        let partial = self.directory.join(format!("{package}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        run(Command::new("dpkg").arg("-x").arg(file).arg(&partial))?;
        let version = run(Command::new("dpkg-deb").arg("-f").arg(file).arg("Version"))?;
        fs::write(self.directory.join(format!("{package}.version")), version)
            .context("cannot note a package's version")?;
        let place = self.directory.join(package);
        fs::rename(&partial, &place).with_context(|| format!("cannot rename {}", partial.display()))
    }

    /// Installs the shared libraries that an unpacked program misses.
    fn install_libraries(&self) -> Result<()> {
        let missing = self.missing_libraries()?;
        if missing.is_empty() {
            return Ok(());
        }
        install(&LIBRARIES)?;
        let missing = self.missing_libraries()?;
        ensure!(
            missing.is_empty(),
            "the daemons miss shared libraries: {missing:?}"
        );
        Ok(())
    }

    fn missing_libraries(&self) -> Result<BTreeSet<String>> {
        let mut missing = BTreeSet::new();
        for (package, program) in PROGRAMS {
            let listing = run(Command::new("ldd").arg(self.file(package, program)))?;
            missing.extend(
                listing
                    .lines()
                    .filter(|line| line.contains("not found"))
                    .map(|line| line.trim().to_string()),
            );
        }
        Ok(missing)
    }
}

/// Sees to it that the programs which the tests run are there, installing what is missing.
pub fn require_tools() -> Result<()> {
    static PRESENT: OnceLock<Result<(), String>> = OnceLock::new();
    PRESENT
        .get_or_init(|| {
            let missing: BTreeSet<_> = TOOLS
                .into_iter()
                .filter(|(program, _)| !in_path(program))
                .map(|(_, package)| package)
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            install(&missing.into_iter().collect::<Vec<_>>()).map_err(|error| format!("{error:#}"))
        })
        .clone()
        .map_err(|error| anyhow!("the tests' tools are not there: {error}"))
}

pub(crate) fn install(packages: &[&str]) -> Result<()> {
    eprintln!("installing, for the tests: {}", packages.join(" "));
    let install = || {
        run(Command::new("apt-get")
            .args(["-q", "install", "--yes", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    install().or_else(|_| {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        install()
    })?;
    Ok(())
}

pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|place| place.join(program).is_file()))
        // A user's PATH on Debian lacks these.
        || ["/usr/sbin", "/sbin"].iter().any(|place| Path::new(place).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_there_and_finds_its_libraries() {
        let packages = Packages::get().unwrap();
        assert_eq!(packages.missing_libraries().unwrap(), BTreeSet::new());
        assert!(packages.version("chrony").unwrap().starts_with('4'));
    }
}
