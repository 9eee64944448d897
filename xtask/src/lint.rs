//! `lint`: layout, clippy and documentation, of the workspace and of the two crates that are
//! compiled apart from it. Anything that would be a warning fails.

use crate::{install, packages, process, toolchain};
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Crates with a lock file of their own.
const APART: [&str; 2] = ["ntpmon-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks everything that can be checked without running it.
pub(crate) fn lint() -> Result<()> {
    ensure_components()?;
    process::run(&mut process::cargo(&["fmt", "--all", "--check"]))?;
    for manifest in APART {
        process::run(&mut process::cargo(&[
            "fmt",
            "--manifest-path",
            manifest,
            "--check",
        ]))?;
    }
    let tools = install::ensure_tools()?;
    process::run(&mut process::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "ntpmon-tests/vm",
        "--",
        "-D",
        "warnings",
    ]))?;
    lint_kernel_programs(&tools)?;
    process::run(
        process::cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

/// rustup's minimal profile comes without rustfmt and clippy; a distribution packs them apart.
fn ensure_components() -> Result<()> {
    if has_components() {
        return Ok(());
    }
    if packages::find_program("rustup") {
        process::say("rustfmt or clippy is missing: adding them with rustup");
        process::run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))?;
    }
    if !has_components() {
        bail!(
            "`cargo fmt` and `cargo clippy` are needed: install rustfmt and clippy as your Rust came \
             (rustup component add rustfmt clippy; Debian: rustfmt and rust-clippy)"
        );
    }
    Ok(())
}

fn has_components() -> bool {
    ["fmt", "clippy"].iter().all(|component| {
        process::cargo(&[component, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// clippy is part of a compiler, so only the compiler at work can have the right one.
fn lint_kernel_programs(tools: &toolchain::Tools) -> Result<()> {
    if !tools.compiler.program("cargo-clippy").exists() {
        process::say(&format!(
            "ntpmon-ebpf: layout only, {} comes without clippy",
            tools.compiler
        ));
        return Ok(());
    }
    process::say("ntpmon-ebpf: clippy, for the kernel's target");
    let mut command = toolchain::cargo(
        tools,
        &process::root().join("ntpmon-ebpf"),
        "clippy",
        &process::target_directory()?.join("ebpf"),
    );
    // cargo finds the subcommand, and that its compiler, along the path.
    let mut path = vec![tools.compiler.sysroot.join("bin")];
    path.extend(toolchain::search_path());
    process::run(command.env("PATH", std::env::join_paths(path)?).args([
        "--release",
        "--bins",
        "--",
        "-D",
        "warnings",
    ]))
}
