//! Compiles the benchmark's kernel programs and names the object to the benchmark, which embeds it.

#[path = "../xtask/src/embed.rs"]
mod embed;
#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    embed::embed("bench", "NTPMON_BENCH_OBJECT", None)
}
