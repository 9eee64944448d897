//! What the system tests share: hosts made of network namespaces, real NTP daemons in them, the
//! captures and reports to compare ntpmon with. The tests themselves are in `tests/tests/`, the
//! recorded captures in `tests/captures/`.
//!
//! Everything here needs root, and says so rather than being skipped.

pub mod api;
pub mod attached;
pub mod bpf_mount;
pub mod cases;
pub mod chrony;
pub mod daemon;
pub mod daemons;
pub mod exchanges;
pub mod frames;
pub mod grandmaster;
pub mod history;
pub mod honest;
pub mod liar;
pub mod link;
pub mod load;
pub mod namespace;
pub mod ntpmon;
pub mod others;
pub mod packages;
pub mod pcap;
pub mod process;
pub mod programs;
pub mod python;
mod qemu;
pub mod receiver;
pub mod seen;
pub mod tcpdump;
pub mod vm;
pub mod watch;

use std::path::{Path, PathBuf};

/// The folder of the workspace: captures, and what is built, are found from here.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the workspace")
        .to_path_buf()
}

/// Where cargo puts what it builds, and we what we download.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace().join("target"),
        |directory| workspace().join(directory),
    )
}
