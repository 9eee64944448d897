//! Makes the tools for the kernel programs exist: finds them, or installs what is missing, one
//! step at a time, each said with its reason before it is done.

use crate::{
    packages::{self, Package},
    process,
    toolchain::{Found, OLDEST_RUSTC, Origin, Tools},
};
use anyhow::{Context as _, Result, bail};
use std::{process::Command, time::Duration};

const LINKER_VERSION: &str = "0.13.0";

/// The LLVMs that this version of bpf-linker can be built on.
const LINKER_LLVMS: [u32; 3] = [21, 22, 23];

/// The distribution's compiler, as Debian packages it for its own browsers: new, unlike `rustc`.
const DISTRIBUTION_COMPILER: [(&str, &str); 4] = [
    ("rustc-web", "the compiler for the kernel programs"),
    ("cargo-web", "its cargo"),
    (
        "libstd-rust-web-dev",
        "its standard library, for build scripts",
    ),
    (
        "rust-web-src",
        "the source of core, which the kernel's target has no binary of",
    ),
];

/// What can be done next about missing tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `rustup component add rust-src`.
    Source,
    /// The distribution's compiler.
    DistributionCompiler,
    /// The development files of this LLVM.
    Llvm(u32),
    /// bpf-linker, built on this LLVM.
    Linker(u32),
}

/// What this machine offers, as far as the choice of steps depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Machine {
    rustup: bool,
    /// The distribution has a new enough compiler in its packages.
    distribution_compiler: bool,
    /// LLVMs whose development files are here.
    llvms: Vec<u32>,
    /// LLVMs whose development files can be installed.
    offered_llvms: Vec<u32>,
}

/// The tools, installed if they were missing.
pub(crate) fn ensure_tools() -> Result<Tools> {
    let mut tried = Vec::new();
    let mut list_is_fresh = false;
    loop {
        let found = Found::search();
        if let Some(tools) = found.choose() {
            process::say(&format!("kernel programs: {tools}"));
            return Ok(tools);
        }
        let mut machine = Machine::look();
        if !list_is_fresh && packages::has_apt() && next_step(&found, &machine, &tried).is_none() {
            // A fresh image has no package list, and everything seems not to exist.
            packages::refresh_list_for(&["rustc-web", "llvm-22-dev"])?;
            list_is_fresh = true;
            machine = Machine::look();
        }
        let Some(step) = next_step(&found, &machine, &tried) else {
            bail!("{}", give_up(&found));
        };
        tried.push(step);
        match perform(step) {
            // There is a second way, which the next round takes.
            Err(error) if step == Step::Source => {
                process::say(&format!(
                    "{error:#}; looking at the distribution's compiler instead"
                ));
            }
            result => result.with_context(|| {
                format!(
                    "installing the tools for the kernel programs ({})",
                    found.describe()
                )
            })?,
        }
    }
}

/// The next thing worth doing, in the order of preference: make rustup's compiler complete, else
/// the distribution's; then a linker for the first complete compiler that can have one.
fn next_step(found: &Found, machine: &Machine, tried: &[Step]) -> Option<Step> {
    let untried = |step: Step| (!tried.contains(&step)).then_some(step);
    let llvm_for = |least: u32| {
        let fitting = |llvms: &[u32]| llvms.iter().copied().filter(|llvm| *llvm >= least).min();
        fitting(&machine.llvms)
            .map(Step::Linker)
            .or_else(|| fitting(&machine.offered_llvms).map(Step::Llvm))
    };
    if machine.rustup
        && let Some(compiler) = found.lacks_only_source()
        && (llvm_for(compiler.llvm).is_some()
            || found
                .linkers
                .iter()
                .any(|linker| linker.llvm >= Some(compiler.llvm)))
        && let Some(step) = untried(Step::Source)
    {
        return Some(step);
    }
    found
        .complete_compilers()
        .filter_map(|compiler| llvm_for(compiler.llvm))
        .find_map(untried)
        .or_else(|| {
            let is_there = found
                .complete_compilers()
                .any(|compiler| compiler.origin == Origin::Distribution);
            (machine.distribution_compiler && !is_there)
                .then_some(Step::DistributionCompiler)
                .and_then(untried)
        })
}

impl Machine {
    fn look() -> Self {
        let is_offered = |name: &str| packages::has_apt() && packages::is_offered(name);
        let of_linker = |condition: &dyn Fn(u32) -> bool| {
            LINKER_LLVMS
                .into_iter()
                .filter(|llvm| condition(*llvm))
                .collect::<Vec<u32>>()
        };
        Self {
            rustup: packages::find_program("rustup"),
            distribution_compiler: DISTRIBUTION_COMPILER
                .iter()
                .all(|(name, _)| is_offered(name)),
            llvms: of_linker(&|llvm| packages::llvm_prefix(llvm).is_some()),
            offered_llvms: of_linker(&|llvm| is_offered(&format!("llvm-{llvm}-dev"))),
        }
    }
}

fn perform(step: Step) -> Result<()> {
    match step {
        Step::Source => {
            process::say(
                "rustup's toolchain lacks the source of core, which the kernel programs are compiled with",
            );
            // Without rustup's servers in reach this must not keep anyone waiting.
            process::run_within(
                Command::new("rustup")
                    .args(["component", "add", "rust-src"])
                    .env("RUST_BACKTRACE", "0"),
                Duration::from_secs(60),
            )
        }
        Step::DistributionCompiler => packages::install(
            &DISTRIBUTION_COMPILER.map(|(name, reason)| Package::new(name, "", reason)),
        ),
        Step::Llvm(llvm) => packages::install(&llvm_packages(llvm)),
        Step::Linker(llvm) => {
            packages::install(&if packages::has_apt() {
                llvm_packages(llvm)
            } else {
                Vec::new()
            })?;
            let prefix =
                packages::llvm_prefix(llvm).with_context(|| format!("where LLVM {llvm} is"))?;
            process::say(&format!(
                "building bpf-linker {LINKER_VERSION} on LLVM {llvm} into cargo's bin directory: it links the kernel programs"
            ));
            process::run(
                process::cargo(&[
                    "install",
                    "bpf-linker",
                    "--version",
                    LINKER_VERSION,
                    "--locked",
                ])
                .args([
                    "--no-default-features",
                    "--features",
                    &format!("llvm-{llvm}"),
                ])
                .env("LLVM_PREFIX", prefix),
            )
        }
    }
}

fn llvm_packages(llvm: u32) -> Vec<Package> {
    vec![
        Package::new(
            format!("llvm-{llvm}-dev"),
            "",
            "LLVM, which bpf-linker is built on",
        ),
        Package::new(
            format!("libpolly-{llvm}-dev"),
            "",
            "a part of LLVM that llvm-config names",
        ),
        Package::new("libzstd-dev", "", "LLVM links to it"),
        Package::new("zlib1g-dev", "", "LLVM links to it"),
        Package::new(
            "g++",
            "g++",
            "the C++ library, which LLVM links to, and the linker",
        ),
    ]
}

fn give_up(found: &Found) -> String {
    let (major, minor) = OLDEST_RUSTC;
    format!(
        "the tools for the kernel programs are missing and cannot be installed here.\n\
         Found: {}.\n\
         Needed: rustc {major}.{minor} or later with the source of core (rust-src), and bpf-linker built on an \
         LLVM at least as new as rustc's ({LINKER_LLVMS:?} will do).\n\
         {}",
        found.describe(),
        packages::other_names()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::{Compiler, Linker};

    fn compiler(origin: Origin, llvm: u32, has_source: bool) -> Compiler {
        Compiler {
            origin,
            sysroot: "/somewhere".into(),
            version: OLDEST_RUSTC,
            llvm,
            has_source,
        }
    }

    fn linker(llvm: u32) -> Linker {
        Linker {
            path: "/somewhere/bpf-linker".into(),
            llvm: Some(llvm),
        }
    }

    fn debian() -> Machine {
        Machine {
            rustup: true,
            distribution_compiler: true,
            llvms: vec![],
            offered_llvms: vec![22],
        }
    }

    #[test]
    fn with_rustups_servers_in_reach_its_own_compiler_is_completed() {
        let mut found = Found {
            compilers: vec![compiler(Origin::Rustup, 22, false)],
            linkers: vec![],
        };
        let mut machine = debian();
        assert_eq!(next_step(&found, &machine, &[]), Some(Step::Source));
        found.compilers[0].has_source = true;
        assert_eq!(
            next_step(&found, &machine, &[Step::Source]),
            Some(Step::Llvm(22))
        );
        machine.llvms = vec![22];
        let tried = [Step::Source, Step::Llvm(22)];
        assert_eq!(next_step(&found, &machine, &tried), Some(Step::Linker(22)));
        found.linkers = vec![linker(22)];
        assert_eq!(
            found.choose().map(|tools| tools.compiler.origin),
            Some(Origin::Rustup)
        );
    }

    #[test]
    fn without_them_the_distributions_compiler_is_taken() {
        let mut found = Found {
            compilers: vec![compiler(Origin::Rustup, 22, false)],
            linkers: vec![],
        };
        let tried = [Step::Source];
        assert_eq!(
            next_step(&found, &debian(), &tried),
            Some(Step::DistributionCompiler)
        );
        found
            .compilers
            .push(compiler(Origin::Distribution, 22, true));
        let tried = [Step::Source, Step::DistributionCompiler];
        assert_eq!(next_step(&found, &debian(), &tried), Some(Step::Llvm(22)));
    }

    #[test]
    fn a_rustup_compiler_too_new_for_every_linker_is_left_alone() {
        let found = Found {
            compilers: vec![compiler(Origin::Rustup, 24, false)],
            linkers: vec![],
        };
        assert_eq!(
            next_step(&found, &debian(), &[]),
            Some(Step::DistributionCompiler)
        );
        let found = Found {
            compilers: vec![compiler(Origin::Rustup, 24, true)],
            linkers: vec![],
        };
        assert_eq!(
            next_step(&found, &debian(), &[]),
            Some(Step::DistributionCompiler)
        );
    }

    #[test]
    fn a_linker_older_than_the_compiler_is_never_chosen() {
        let found = Found {
            compilers: vec![
                compiler(Origin::Rustup, 23, true),
                compiler(Origin::Distribution, 22, true),
            ],
            linkers: vec![linker(21), linker(22)],
        };
        let tools = found.choose().expect("the older compiler fits");
        assert_eq!((tools.compiler.llvm, tools.linker.llvm), (22, Some(22)));
    }

    #[test]
    fn a_linker_that_does_not_say_its_llvm_is_never_chosen() {
        let found = Found {
            compilers: vec![compiler(Origin::Rustup, 22, true)],
            linkers: vec![Linker {
                llvm: None,
                ..linker(22)
            }],
        };
        assert_eq!(found.choose(), None);
    }

    #[test]
    fn a_compiler_that_is_too_old_is_no_compiler() {
        let old = Compiler {
            version: (1, 63),
            ..compiler(Origin::Distribution, 14, true)
        };
        let found = Found {
            compilers: vec![old],
            linkers: vec![linker(22)],
        };
        assert_eq!(found.choose(), None);
        assert_eq!(
            next_step(&found, &debian(), &[]),
            Some(Step::DistributionCompiler)
        );
    }

    #[test]
    fn a_machine_with_nothing_gets_a_message_and_no_step() {
        let found = Found::default();
        assert_eq!(next_step(&found, &Machine::default(), &[]), None);
        let message = give_up(&found);
        assert!(
            message.contains("no rustc") && message.contains("no bpf-linker"),
            "{message}"
        );
    }

    #[test]
    fn no_step_is_taken_twice() {
        let found = Found {
            compilers: vec![compiler(Origin::Distribution, 22, true)],
            linkers: vec![],
        };
        let machine = Machine {
            llvms: vec![22],
            ..debian()
        };
        assert_eq!(next_step(&found, &machine, &[]), Some(Step::Linker(22)));
        assert_eq!(next_step(&found, &machine, &[Step::Linker(22)]), None);
    }
}
