//! `fuzz`: coverage-guided fuzzing on the compiler at hand. The targets lie as cargo-fuzz wants
//! them, but neither it nor a nightly is needed: the coverage passes are LLVM's own, and stable
//! rustc runs them when asked.

mod seeds;

use crate::{
    packages::{self, Package},
    process,
};
use anyhow::{Context as _, Result, bail};
use std::{fs, path::Path, process::Command};

/// What libFuzzer steers by, and the `cfg` that the ecosystem goes by.
const COVERAGE: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cforce-frame-pointers",
];

/// Fuzzes one target, or each in turn.
pub(crate) fn fuzz(target: Option<&str>, seconds: Option<u64>) -> Result<()> {
    let known = targets()?;
    let chosen = match target {
        None => known,
        Some(name) if known.iter().any(|other| other == name) => vec![name.to_owned()],
        Some(name) => bail!(
            "there is no fuzz target {name}; there are: {}",
            known.join(", ")
        ),
    };
    packages::install(&[Package::new("g++", "g++", "libFuzzer is C++")])?;

    let target_directory = process::target_directory()?.join("fuzz");
    let host = host()?;
    let mut build = process::cargo(&["build", "--release", "--locked", "--target", &host]);
    build
        .current_dir(process::root().join("fuzz"))
        .arg("--target-dir")
        .arg(&target_directory);
    for name in &chosen {
        build.args(["--bin", name]);
    }
    instrument(&mut build, &host)?;
    process::run(&mut build)?;

    for name in &chosen {
        let program = target_directory.join(&host).join("release").join(name);
        run_target(name, &program, &target_directory, seconds)?;
    }
    Ok(())
}

/// Every file in fuzz_targets is a target of its name.
fn targets() -> Result<Vec<String>> {
    let directory = process::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Turns on coverage, and AddressSanitizer where the toolchain brings its runtime.
fn instrument(build: &mut Command, host: &str) -> Result<()> {
    let mut flags = COVERAGE.to_vec();
    let libraries = process::output("rustc", &["--print", "target-libdir", "--target", host])
        .context("where rustc has its libraries")?;
    let has_sanitizer = fs::read_dir(&libraries)
        .with_context(|| format!("reading {libraries}"))?
        .flatten()
        .any(|file| file.file_name().to_string_lossy().contains("rt.asan"));
    if has_sanitizer {
        // An unstable flag, on the stable compiler that was tested.
        build.env("RUSTC_BOOTSTRAP", "1");
        flags.push("-Zsanitizer=address");
    }
    process::say(if has_sanitizer {
        "fuzzing with AddressSanitizer"
    } else {
        "fuzzing without AddressSanitizer: this rustc comes without its runtime"
    });
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(())
}

fn run_target(
    name: &str,
    program: &Path,
    target_directory: &Path,
    seconds: Option<u64>,
) -> Result<()> {
    let root = process::root().join("fuzz");
    let corpus = root.join("corpus").join(name);
    let artifacts = root.join("artifacts").join(name);
    let seeds = target_directory.join("seeds").join(name);
    for directory in [&corpus, &artifacts, &seeds] {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let written = seeds::write(name, &seeds)?;
    process::say(&format!(
        "{name}: {written} seeds, corpus in {}",
        corpus.display()
    ));
    let mut command = Command::new(program);
    command
        // What is new goes into the first, the others are only read.
        .args([&corpus, &seeds])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-max_len=4096", "-timeout=10", "-print_final_stats=1"]);
    if let Some(seconds) = seconds {
        command.arg(format!("-max_total_time={seconds}"));
    }
    process::run(&mut command).with_context(|| {
        format!(
            "fuzzing {name} found something, see {}",
            artifacts.display()
        )
    })
}

fn host() -> Result<String> {
    let version = process::output("rustc", &["-vV"]).context("cannot run rustc")?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say its host")
}
