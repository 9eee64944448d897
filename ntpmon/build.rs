//! Compiles the kernel programs and names the object to the daemon, which embeds it.

// xtask has to run before the tools exist, so it cannot depend on this crate, nor this build script
// on anything of its own: all take the same files.
#[path = "../xtask/src/embed.rs"]
mod embed;
#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    embed::embed("ntpmon", "NTPMON_OBJECT", Some("NTPMON_EBPF_OBJECT"))
}
