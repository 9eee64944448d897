//! What the build scripts of the daemon and of the benchmark do: compile one binary of the kernel
//! programs and name the object to the crate that embeds it. The tools are found, never installed:
//! that is what `cargo xtask build` does, after saying so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::toolchain;

/// Compiles `bin` of ntpmon-ebpf and sets `variable` to the object's path. `ready` is the name of
/// an environment variable that may name a ready object instead, for those who package ntpmon.
pub(crate) fn embed(bin: &str, variable: &str, ready: Option<&str>) -> ExitCode {
    match object(bin, ready) {
        Ok(object) => {
            println!("cargo::rustc-env={variable}={}", object.display());
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
fn object(bin: &str, ready: Option<&str>) -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let given = ready.and_then(env::var_os).map(PathBuf::from);
    let built = match &given {
        Some(path) => path.clone(),
        None => compile(bin, &root, &out)?,
    };
    let object = out.join(format!("{bin}.o"));
    fs::copy(&built, &object)
        .map_err(|error| format!("cannot copy the kernel object {}: {error}", built.display()))?;

    // Said last: cargo shows all of this when a build fails, and repeats a failed build anyway.
    if let Some(ready) = ready {
        println!("cargo::rerun-if-env-changed={ready}");
    }
    if let Some(given) = given {
        println!("cargo::rerun-if-changed={}", given.display());
    }
    for input in toolchain::INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    Ok(object)
}

fn compile(bin: &str, root: &Path, out: &Path) -> Result<PathBuf, String> {
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
        bin,
        &toolchain::target_directory(out)?,
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}, which cargo sets: {error}"))
}
