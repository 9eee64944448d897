//! `lint`: layout, clippy and documentation, of the workspace and of the two crates that are
//! compiled apart from it. Anything that would be a warning fails.

use crate::{install, process, toolchain};
use anyhow::Result;

/// Crates with a lock file of their own.
const APART: [&str; 2] = ["ntpmon-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks everything that can be checked without running it.
pub(crate) fn lint() -> Result<()> {
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
