//! Says which capability is missing, before the kernel answers with a bare "permission denied".

use anyhow::{Result, bail};
use rustix::thread::{CapabilitySet, capabilities};

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
