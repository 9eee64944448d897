//! Compiles the kernel programs and names the object to the daemon, which embeds it. It finds the
//! tools but installs nothing: that is what `cargo xtask build` does, after saying so.

// xtask has to run before these tools exist, so it cannot depend on this crate, nor this build
// script on anything of its own: both take the same file.
#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A ready object to embed instead, for those who package the daemon.
const OBJECT_OVERRIDE: &str = "NTPMON_EBPF_OBJECT";

fn main() -> ExitCode {
    match object() {
        Ok(object) => {
            println!("cargo::rustc-env=NTPMON_OBJECT={}", object.display());
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

/// The object, at a path that stays the same for this build.
fn object() -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let built = match env::var_os(OBJECT_OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => compile(&root, &out)?,
    };
    let object = out.join("ntpmon.o");
    fs::copy(&built, &object)
        .map_err(|error| format!("cannot copy the kernel object {}: {error}", built.display()))?;

    // Said last: cargo shows all of this when a build fails, and repeats a failed build anyway.
    println!("cargo::rerun-if-env-changed={OBJECT_OVERRIDE}");
    if env::var_os(OBJECT_OVERRIDE).is_some() {
        println!("cargo::rerun-if-changed={}", built.display());
    }
    for input in toolchain::INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    Ok(object)
}

fn compile(root: &Path, out: &Path) -> Result<PathBuf, String> {
    let found = toolchain::Found::search();
    let tools = found.choose().ok_or_else(|| {
        format!(
            "The tools that compile ntpmon's kernel programs are missing: run `cargo xtask build` once, \
             it installs them and says what and why. Found: {}.",
            found.describe()
        )
    })?;
    println!("The kernel programs are compiled with {tools}.");
    toolchain::compile(
        &tools,
        &root.join("ntpmon-ebpf"),
        "ntpmon",
        &toolchain::target_directory(out)?,
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}, which cargo sets: {error}"))
}
