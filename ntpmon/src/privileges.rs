//! The capabilities of this process: says which is missing, before the kernel answers with a bare
//! "permission denied", and gives up those that nothing here needs.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{Access, access},
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

/// What it takes to load the programs and to attach them, and what for. Any of the named
/// capabilities serves.
const NEEDED: [(&str, CapabilitySet, &str); 3] = [
    (
        "CAP_BPF",
        CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN),
        "loads programs into the kernel",
    ),
    (
        "CAP_PERFMON",
        CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN),
        "lets them read packets at variable offsets",
    ),
    (
        "CAP_NET_ADMIN",
        CapabilitySet::NET_ADMIN,
        "attaches them to an interface",
    ),
];

/// Checks that this process may capture.
///
/// # Errors
/// Names every capability that is missing and how to get it.
pub fn check_capture() -> Result<()> {
    let held = capabilities(None)?.effective;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(_, any, _)| !held.intersects(*any))
        .map(|(name, _, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "missing {}; run ntpmon as root, or once: \
         setcap cap_bpf,cap_net_admin,cap_perfmon+ep PATH-OF-NTPMON",
        missing.join(", ")
    )
}

/// Gives up, for good, every capability but those that capturing takes, and `more`, of those that
/// there are. Stopping takes no others, as what has to be removed then is our own. Each thread has
/// capabilities of its own, which those that it starts inherit: call this while there is one.
///
/// # Errors
/// When there are more threads, or the kernel refuses.
pub fn keep_only_capture(more: CapabilitySet) -> Result<()> {
    wait_to_be_alone()?;
    let held = capabilities(None).context("reading the capabilities")?;
    let kept = needed_of(held.permitted) | (more & held.permitted);
    // While it can still be done: then nothing that is executed gets them either.
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if kept.contains(capability) {
            continue;
        }
        match capability_is_in_bounding_set(capability) {
            Ok(false) => continue,
            Ok(true) => {}
            // There are no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).context("reading the bounding set"),
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Without CAP_SETPCAP it stays as it is; no_new_privs makes nothing of it.
            Err(Errno::PERM) => break,
            Err(error) => return Err(error).context("narrowing the bounding set"),
        }
    }
    set_no_new_privs(true).context("giving up new privileges")?;
    clear_ambient_capability_set().context("clearing the ambient set")?;
    let sets = CapabilitySets {
        effective: held.effective & kept,
        permitted: kept,
        // What the daemon executes, the commands of alerts, gets none.
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("giving up capabilities")
}

/// Gives up every capability of the calling thread, for good: for a program that is executed next,
/// also by root. Neither allocates nor locks, so it may be called between fork and exec.
///
/// # Errors
/// When the kernel refuses.
pub fn give_up_all() -> std::io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Root's programs would get them back, but for this: no program gets what its process had not.
    set_no_new_privs(true)?;
    Ok(set_capabilities(None, none)?)
}

/// A thread that was joined may be on its way out of the kernel's list still.
fn wait_to_be_alone() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let threads = fs::read_dir("/proc/self/task")
            .context("counting the threads")?
            .count();
        if threads == 1 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "capabilities cannot be given up by one of {threads} threads"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Those of the paths that this process cannot use any more once it has called
/// [`keep_only_capture`]: root's right to others' files is a capability too.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn out_of_reach<'a>(paths: &[(&'a Path, Access)]) -> Result<Vec<&'a Path>> {
    // Given up for a trial, by a thread that does nothing else.
    let trial = || {
        let held = capabilities(None).context("reading the capabilities")?;
        let kept = needed_of(held.permitted);
        let sets = CapabilitySets {
            effective: held.effective & kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).context("giving up capabilities for a trial")?;
        let refused = |(path, wanted): &(&'a Path, Access)| {
            matches!(access(*path, *wanted), Err(Errno::ACCESS | Errno::PERM))
        };
        let refused = paths.iter().filter(|it| refused(it));
        Ok(refused.map(|(path, _)| *path).collect())
    };
    thread::scope(|scope| match scope.spawn(trial).join() {
        Ok(refused) => refused,
        Err(_) => bail!("the thread that tries what is within reach died"),
    })
}

/// What of these capturing takes: the old, wide capability only where a narrow one is missing.
fn needed_of(held: CapabilitySet) -> CapabilitySet {
    let mut kept = CapabilitySet::empty();
    for (_, any, _) in NEEDED {
        let narrow = any & (held - CapabilitySet::SYS_ADMIN);
        kept |= if narrow.is_empty() {
            any & held
        } else {
            narrow
        };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_roots_rights_reach_is_found() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        fs::create_dir(&path).unwrap();
        let ours_alone = || fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder.path(), ours_alone()).unwrap();
        let missing = folder.path().join("missing");
        let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        let paths = [(path.as_path(), wanted), (missing.as_path(), wanted)];
        assert!(out_of_reach(&paths).unwrap().is_empty());
        // Its own owner may as little.
        let closed = fs::Permissions::from_mode(0o500);
        fs::set_permissions(&path, closed).unwrap();
        assert_eq!(out_of_reach(&paths).unwrap(), [path.as_path()]);
        fs::set_permissions(&path, ours_alone()).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(65_534), None).unwrap();
            assert_eq!(
                out_of_reach(&paths).unwrap(),
                [path.as_path(), missing.as_path()]
            );
        }
    }

    #[test]
    fn the_wide_capability_is_kept_only_in_place_of_a_narrow_one() {
        let three = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
        assert_eq!(needed_of(CapabilitySet::all()), three);
        assert_eq!(needed_of(three), three);
        let old = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
        assert_eq!(needed_of(old | CapabilitySet::CHOWN), old);
        assert_eq!(
            needed_of(old | CapabilitySet::BPF),
            old | CapabilitySet::BPF
        );
        assert_eq!(needed_of(CapabilitySet::CHOWN), CapabilitySet::empty());
    }
}
