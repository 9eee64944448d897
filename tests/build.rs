//! Compiles the benchmark's kernel programs with the tools that the daemon's own were compiled with,
//! and names the object to the benchmark, which embeds it.

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    match object() {
        Ok(object) => {
            println!("cargo::rustc-env=NTPMON_BENCH_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn object() -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let object = out.join("bench.o");
    let built = compile(&root, &out)?;
    fs::copy(&built, &object)
        .map_err(|error| format!("cannot copy the kernel object {}: {error}", built.display()))?;
    for input in toolchain::INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    Ok(object)
}

fn compile(root: &Path, out: &Path) -> Result<PathBuf, String> {
    let found = toolchain::Found::search();
    let tools = found.choose().ok_or_else(|| {
        format!(
            "The tools that compile the benchmark's kernel programs are missing: run \
             `cargo xtask build` once. Found: {}.",
            found.describe()
        )
    })?;
    toolchain::compile(
        &tools,
        &root.join("ntpmon-ebpf"),
        "bench",
        &toolchain::target_directory(out)?,
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}, which cargo sets: {error}"))
}
