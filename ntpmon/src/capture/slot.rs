//! Which of several captures of one interface a process is, and whether the one that made
//! something still lives: locks on files that only the privileged reach, and that the kernel gives
//! back however a process ends.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::geteuid,
};

/// The place of the capture that owns an interface's pins.
pub(super) const PINNED: u16 = 0;
/// Places of captures without pins: from 1 to this.
pub(super) const SLOTS: u16 = 8;
/// Whoever attaches is done long before this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the locks are, and where that is; see [`open`].
const RUN: &str = "/run";
const FOLDER: &str = "ntpmon";

/// Whether the locks lie in a directory of another user: a service has made it its own. Root needs
/// its rights over files then, and can use it.
#[must_use]
pub fn locks_are_anothers() -> bool {
    let owner = fs::metadata(Path::new(RUN).join(FOLDER)).map(|folder| folder.uid());
    owner.is_ok_and(|owner| owner != geteuid().as_raw())
}

/// The right to one of an interface's few places.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: u16,
    _lock: Lock,
}

impl Slot {
    /// Takes the place of the pins, or a free one of the others.
    pub(super) fn take(interface: u32, pin: bool) -> Result<Self> {
        let numbers = if pin { PINNED..=PINNED } else { 1..=SLOTS };
        for number in numbers {
            if let Some(slot) = Self::try_take(interface, number)? {
                return Ok(slot);
            }
        }
        if pin {
            bail!(
                "another ntpmon{} captures on this interface with --pin: only one can own the pins",
                holder(interface, &PINNED.to_string())
            );
        }
        bail!("{SLOTS} other ntpmon processes capture on this interface already");
    }

    /// Nothing when the place belongs to a living process.
    pub(super) fn try_take(interface: u32, number: u16) -> Result<Option<Self>> {
        let lock = try_lock(interface, &number.to_string())?;
        Ok(lock.map(|lock| Self {
            number,
            _lock: lock,
        }))
    }
}

/// The right to change what hangs on an interface. One process looks whether a qdisc is still
/// needed while another puts a filter on it: they take turns.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Lock,
}

impl Turn {
    pub(super) fn wait(interface: u32) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = try_lock(interface, "turn")? {
                return Ok(Self { _lock: lock });
            }
            if Instant::now() > deadline {
                bail!(
                    "another ntpmon{} has been attaching to this interface for {} s",
                    holder(interface, "turn"),
                    PATIENCE.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Tells network namespaces apart: interfaces have numbers and names only within one.
pub(super) fn namespace() -> Result<u64> {
    // A thread may have gone into another one than its process.
    Ok(fs::metadata("/proc/thread-self/ns/net")
        .context("identifying the network namespace")?
        .ino())
}

/// A lock that is held. Its file goes when it is let go of: interfaces come and go, and each would
/// leave some.
#[derive(Debug)]
struct Lock {
    /// Holds the lock as long as it is open.
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: nobody else has this file by this name.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "removing {}", self.path.display());
        }
    }
}

fn try_lock(interface: u32, what: &str) -> Result<Option<Lock>> {
    loop {
        let (mut file, path) = open(interface, what)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
        }
        // Whoever held it before may have removed it after we opened it: then it locks nothing.
        let opened = file
            .metadata()
            .with_context(|| format!("looking at {}", path.display()))?;
        if !fs::metadata(&path).is_ok_and(|named| named.ino() == opened.ino()) {
            continue;
        }
        // For the message of whoever comes next; the lock does not depend on it.
        let note = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = note {
            tracing::debug!(%error, "writing into {}", path.display());
        }
        return Ok(Some(Lock { _file: file, path }));
    }
}

fn open(interface: u32, what: &str) -> Result<(File, PathBuf)> {
    let name = format!("{}-{interface}-{what}.lock", namespace()?);
    // The second is for a user's process that was given the capabilities and nothing else.
    let folders = [
        Some(PathBuf::from(RUN)),
        env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
    ];
    let mut refused = None;
    for folder in folders.into_iter().flatten() {
        let folder = folder.join(FOLDER);
        let path = folder.join(&name);
        let opened = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .and_then(|()| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&path)
            });
        match opened {
            Ok(file) => {
                share(&file, &folder);
                return Ok((file, path));
            }
            Err(error) => {
                refused.get_or_insert((error, path));
            }
        }
    }
    match refused {
        Some((error, path)) => Err(error).with_context(|| {
            format!(
                "making the lock {}; without root, XDG_RUNTIME_DIR must name a folder of your own",
                path.display()
            )
        }),
        None => bail!("no folder for lock files"),
    }
}

/// A service without root's rights has the directory to itself: what root locks in it, the service
/// has to be able to open.
fn share(file: &File, folder: &Path) {
    let given = file.metadata().and_then(|file_is| {
        let folder_is = fs::metadata(folder)?;
        let (user, group) = (folder_is.uid(), folder_is.gid());
        if file_is.uid() == user {
            return Ok(());
        }
        fchown(file, Some(user), Some(group))
    });
    if let Err(error) = given {
        tracing::debug!(%error, "sharing a lock in {}", folder.display());
    }
}

/// Who holds a lock, for a message.
fn holder(interface: u32, what: &str) -> String {
    let mut text = String::new();
    open(interface, what)
        .and_then(|(mut file, _)| Ok(file.read_to_string(&mut text)?))
        .ok()
        .and_then(|_| text.parse::<u32>().ok())
        .map(|process| format!(" (process {process})"))
        .unwrap_or_default()
}
