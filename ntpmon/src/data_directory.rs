//! The directory in which everything lies that is remembered. Whoever has it open has it alone:
//! two processes that write one history would break it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The file that is locked. It stays when the lock is let go of: one that was removed could be
/// locked by one process while another makes a new one.
const LOCK: &str = "lock";

/// A data directory that is ours until this is dropped, or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory, closed to others, if it is not there, and takes it.
    ///
    /// # Errors
    /// When another process has it, and which; when it cannot be made or written.
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| {
                format!(
                    "making the data directory {}{}",
                    path.display(),
                    ownership_hint()
                )
            })?;
        check_owner(path)?;
        let file = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| {
                format!(
                    "the data directory {} cannot be written: opening {}{}",
                    path.display(),
                    file.display(),
                    ownership_hint()
                )
            })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&file).unwrap_or_default();
                let holder = holder
                    .trim()
                    .parse::<u32>()
                    .map_or_else(|_| String::new(), |id| format!(" (process {id})"));
                bail!(
                    "another ntpmon{holder} has the data directory {}: stop it, or name another \
                     directory with --data-dir",
                    path.display()
                );
            }
            Err(error) => {
                return Err(error).with_context(|| format!("locking {}", file.display()));
            }
        }
        // For the message of whoever comes next; the lock does not depend on it.
        let note = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = note {
            tracing::debug!(%error, "writing into {}", file.display());
        }
        // A disk may have become read-only with the file on it.
        let written = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
        ensure!(
            written.is_ok(),
            "the data directory {} cannot be written{}",
            path.display(),
            ownership_hint()
        );
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Root could write anywhere, but its files would be closed to the service whose directory it is.
fn check_owner(path: &Path) -> Result<()> {
    let owner = fs::metadata(path)
        .with_context(|| format!("looking at the data directory {}", path.display()))?
        .uid();
    let user = rustix::process::geteuid().as_raw();
    ensure!(
        owner == user,
        "the data directory {} belongs to user {owner}, and this is user {user}: run as its owner \
         (setpriv --reuid {owner} --clear-groups ..., or systemctl start ntpmon), or name another \
         directory with --data-dir",
        path.display()
    );
    Ok(())
}

/// Who would have to own it.
fn ownership_hint() -> String {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return String::new();
    }
    format!(
        " (as user {}: it has to be this user's, or another be named with --data-dir)",
        user.as_raw()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_made_closed_and_belongs_to_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let held = DataDirectory::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(LOCK)), 0o600);
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        let process = format!("(process {})", std::process::id());
        assert!(error.contains(&process), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        drop(held);
        assert_eq!(DataDirectory::open(&path).unwrap().path(), path);
    }

    #[test]
    fn a_directory_of_another_user_is_left_alone() {
        if !rustix::process::geteuid().is_root() {
            // Nobody else can give one away: what everybody has is root's.
            let error = DataDirectory::open(Path::new("/")).unwrap_err().to_string();
            assert!(error.contains("belongs to user 0"), "{error}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(65_534), None).unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
        assert!(!folder.path().join(LOCK).exists());
    }

    #[test]
    fn what_cannot_be_a_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let error = format!("{:#}", DataDirectory::open(&path).unwrap_err());
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
