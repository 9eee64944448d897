//! A BPF file system of a test's own, in a mount namespace of its own: what is pinned in it ends with
//! the test, whatever the machine has mounted.

use std::{ffi::OsStr, fs::File, os::fd::AsRawFd, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{namespace::Namespace, process::Process};

/// Lives as long as the process that holds the mount namespace.
#[derive(Debug)]
pub struct BpfMount {
    holder: Process,
}

impl BpfMount {
    /// Where it is mounted.
    pub const PATH: &str = "/sys/fs/bpf";

    /// Mounts an empty one.
    pub fn new() -> Result<Self> {
        let script = format!(
            "mount -t bpf bpf {} && echo mounted && exec sleep 600",
            Self::PATH
        );
        let mut holder =
            Process::start(Command::new("unshare").args(["--mount", "sh", "-c", &script]))?;
        holder.wait_until("a mount", Duration::from_secs(10), |it| {
            it.stdout().contains("mounted")
        })?;
        Ok(Self { holder })
    }

    /// Has the calling thread, and the threads that it will start, see this file system. For a
    /// thread that ends before long: it cannot go back.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/proc/{}/ns/mnt", self.holder.id());
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        // SAFETY: both take no pointers, and change this thread only: the first one sees to that.
        let result = unsafe {
            libc::unshare(libc::CLONE_FS) | libc::setns(file.as_raw_fd(), libc::CLONE_NEWNS)
        };
        ensure!(
            result == 0,
            "cannot enter {path}: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }

    /// A command that will run in a network namespace and see this file system; without
    /// CAP_SYS_TIME, as [`Namespace::command`].
    pub fn command(&self, namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.path().display()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .args(["--", "setpriv", "--bounding-set=-sys_time", "--"])
            .arg(program);
        command
    }

    /// The folders of pinned captures in it, without their path.
    pub fn captures(&self) -> Vec<String> {
        let root = format!("/proc/{}/root{}", self.holder.id(), Self::PATH);
        let folders = |path: &Path| {
            std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect::<Vec<_>>()
        };
        folders(Path::new(&root))
            .iter()
            .flat_map(|root| folders(root))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }
}
