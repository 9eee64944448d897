//! Links and rings in the BPF file system: what lets a restart lose no packet.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::{
    maps::{MapInfo, MapType},
    programs::links::{FdLink, PinnedLink},
};

use super::{Settings, slot::namespace};
use crate::netlink::Interface;

/// Above everything of ours in the BPF file system. The number is that of what lies in it: a ring
/// with other events, or other counters, are not taken over.
const PIN_ROOT: &str = "/sys/fs/bpf/ntpmon-2";
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Removes an interface's pins, and with them what only they held.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let _held: Vec<PinnedLink> = entries.filter_map(|entry| hold(&entry.path())).collect();
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

/// Opens what is pinned, to be closed when its pin is gone: then a link is off its interface at
/// once. One whose last reference was a pin the kernel takes off some time later, and until then
/// it counts beside the one that comes next.
fn hold(path: &Path) -> Option<PinnedLink> {
    PinnedLink::from_pin(path).ok()
}

/// Where an interface's pins are.
pub(super) fn directory(interface: &str) -> Result<PathBuf> {
    Ok(Path::new(PIN_ROOT).join(pin_name(&pin_prefix()?, interface)))
}

/// The directories of interfaces of this network namespace that there are no more, under the names
/// that they had.
pub(super) fn of_gone(existing: &[Interface]) -> Result<Vec<PathBuf>> {
    let prefix = pin_prefix()?;
    let kept: Vec<String> = existing
        .iter()
        .map(|interface| pin_name(&prefix, &interface.name))
        .collect();
    let Ok(entries) = fs::read_dir(PIN_ROOT) else {
        // Nothing was ever pinned.
        return Ok(Vec::new());
    };
    let mut gone = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {PIN_ROOT}"))?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(&prefix));
        if ours && kept.iter().all(|kept| name != kept.as_str()) {
            gone.push(entry.path());
        }
    }
    Ok(gone)
}

/// What the directories of this network namespace begin with.
fn pin_prefix() -> Result<String> {
    Ok(format!("{}-", namespace()?))
}

fn pin_name(prefix: &str, interface: &str) -> String {
    // The BPF file system does not allow dots in names, interfaces do.
    let interface = interface.replace('%', "%25").replace('.', "%2e");
    format!("{prefix}{interface}")
}

/// An interface's directory in the BPF file system.
pub(super) struct Pins {
    pub(super) directory: PathBuf,
    /// It was not there before.
    pub(super) new: bool,
}

impl Pins {
    pub(super) fn prepare(interface: &str) -> Result<Self> {
        let file_system = rustix::fs::statfs(BPF_FILE_SYSTEM)
            .with_context(|| format!("looking at {BPF_FILE_SYSTEM}"))?;
        if file_system.f_type != BPF_FS_MAGIC {
            bail!("--pin needs the BPF file system: mount -t bpf bpf {BPF_FILE_SYSTEM}");
        }
        let directory = directory(interface)?;
        let new = !directory.exists();
        fs::create_dir_all(&directory).with_context(|| {
            format!(
                "making {}: --pin needs root, or a BPF file system of your own",
                directory.display()
            )
        })?;
        Ok(Self { directory, new })
    }

    pub(super) fn remove_all(&self) -> Result<()> {
        remove(&self.directory)
    }

    pub(super) fn take_over(&self, name: &str) -> Option<FdLink> {
        let path = self.directory.join(name);
        if !path.exists() {
            return None;
        }
        match PinnedLink::from_pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a pinned link does not open");
                self.remove(name);
                None
            }
        }
    }

    pub(super) fn pin(&self, link: FdLink, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        link.pin(&path)
            .with_context(|| format!("pinning {}", path.display()))?;
        Ok(())
    }

    /// Removes a link's pin, and takes the link off its interface before it returns.
    pub(super) fn remove(&self, name: &str) {
        let path = self.directory.join(name);
        let _held = hold(&path);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "removing a pin");
        }
    }

    /// Rings keep the size that they were made with, and there are as many as there were: events
    /// that wait in one are taken only by who opens it.
    pub(super) fn check_rings(&self, names: &[String], settings: &Settings) -> Result<()> {
        let pinned: Vec<PathBuf> = names
            .iter()
            .map(|name| self.directory.join(name))
            .filter(|path| path.exists())
            .collect();
        if !pinned.is_empty() && pinned.len() != settings.rings {
            bail!(
                "{} holds {} pinned rings, not the {} that are asked for: \
                 ask for as many, or remove them with `ntpmon cleanup`",
                self.directory.display(),
                pinned.len(),
                settings.rings
            );
        }
        let bytes = settings.ring_size();
        for path in pinned {
            let info =
                MapInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
            if info.map_type()? != MapType::RingBuf || info.max_entries() != bytes {
                bail!(
                    "the pinned ring {} has {} KiB, not the {} KiB that are asked for: \
                     ask for that size, or remove it with `ntpmon cleanup`",
                    path.display(),
                    info.max_entries() / 1024,
                    bytes / 1024
                );
            }
        }
        Ok(())
    }
}
