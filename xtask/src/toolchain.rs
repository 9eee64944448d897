//! Finds the compiler and the linker for the kernel programs, and compiles them. Shared between
//! `ntpmon/build.rs` (which only finds) and xtask (which also installs), so it uses nothing but
//! the standard library: it has to work before anything else was built.
//!
//! A compiler is any rustc with the source of `core` beside it: that target has no prebuilt one.
//! A linker is bpf-linker. It reads the bitcode that rustc writes, and bitcode is readable only
//! by an LLVM at least as new as its writer, which is why the two are chosen together.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest rustc that the workspace accepts (`rust-version` in the root Cargo.toml).
pub(crate) const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// Little endian only: no big-endian machine was ever tried.
const TARGET: &str = "bpfel-unknown-none";

/// What the kernel programs are made from, beside the tools: a build script that compiles them has
/// to run again when one of these changes. Paths from the project's directory.
pub(crate) const INPUTS: [&str; 7] = [
    "Cargo.toml",
    "ntpmon-common/Cargo.toml",
    "ntpmon-common/src",
    "ntpmon-ebpf/Cargo.lock",
    "ntpmon-ebpf/Cargo.toml",
    "ntpmon-ebpf/src",
    "xtask/src/toolchain.rs",
];

/// Where distributions put their compiler.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// Where a compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The one that `cargo` on this machine uses, managed by rustup.
    Rustup,
    /// A package of the distribution.
    Distribution,
}

/// A rustc that could compile for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// `rustc --print sysroot`.
    pub(crate) sysroot: PathBuf,
    /// Major and minor version.
    pub(crate) version: (u32, u32),
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether the source of `core` is there.
    pub(crate) has_source: bool,
}

impl Compiler {
    /// A program of this toolchain, past rustup's proxies.
    #[must_use]
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }

    fn is_new_enough(&self) -> bool {
        self.version >= OLDEST_RUSTC
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Rustup => "rustup's",
            Origin::Distribution => "the distribution's",
        };
        let (major, minor) = self.version;
        write!(
            formatter,
            "{origin} rustc {major}.{minor} (LLVM {}) in {}",
            self.llvm,
            self.sysroot.display()
        )
    }
}

/// A bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Major version of its LLVM; `None` when the program does not say.
    pub(crate) llvm: Option<u32>,
}

/// Everything found on this machine, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// rustup's toolchain, then the distribution's.
    pub(crate) compilers: Vec<Compiler>,
    /// In the order of the search path.
    pub(crate) linkers: Vec<Linker>,
}

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tools {
    /// Compiles.
    pub(crate) compiler: Compiler,
    /// Links what it compiled.
    pub(crate) linker: Linker,
}

impl fmt::Display for Tools {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}, linked by {}",
            self.compiler,
            self.linker.path.display()
        )
    }
}

impl Found {
    /// Looks at this machine.
    #[must_use]
    pub(crate) fn search() -> Self {
        let mut compilers = Vec::new();
        // Cargo names the compiler in use to build scripts; elsewhere it is the one on the path.
        let in_use = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        for rustc in [in_use.as_os_str(), OsStr::new(DISTRIBUTION_RUSTC)] {
            if let Some(compiler) = inspect_compiler(rustc)
                && compilers
                    .iter()
                    .all(|other: &Compiler| other.sysroot != compiler.sysroot)
            {
                compilers.push(compiler);
            }
        }
        Self {
            compilers,
            linkers: search_path()
                .iter()
                .map(|directory| directory.join("bpf-linker"))
                .filter_map(inspect_linker)
                .collect(),
        }
    }

    /// The first compiler that is complete and for which there is a linker. What is ready wins over
    /// what could be made ready: nothing is installed where something works.
    #[must_use]
    pub(crate) fn choose(&self) -> Option<Tools> {
        self.complete_compilers().find_map(|compiler| {
            let linker = self
                .linkers
                .iter()
                .find(|linker| linker.llvm.is_some_and(|llvm| llvm >= compiler.llvm))?;
            Some(Tools {
                compiler: compiler.clone(),
                linker: linker.clone(),
            })
        })
    }

    /// Compilers that are new enough and have the source of `core`.
    pub(crate) fn complete_compilers(&self) -> impl Iterator<Item = &Compiler> {
        self.compilers
            .iter()
            .filter(|compiler| compiler.has_source && compiler.is_new_enough())
    }

    /// rustup's toolchain, where the source is all that it lacks.
    #[must_use]
    pub(crate) fn lacks_only_source(&self) -> Option<&Compiler> {
        self.compilers.iter().find(|compiler| {
            compiler.origin == Origin::Rustup && !compiler.has_source && compiler.is_new_enough()
        })
    }

    /// What is there and what keeps it from being used, in one line.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let (major, minor) = OLDEST_RUSTC;
        let compilers = self.compilers.iter().map(|compiler| {
            if !compiler.is_new_enough() {
                format!("{compiler} is older than {major}.{minor}")
            } else if compiler.has_source {
                format!("{compiler} is complete")
            } else {
                format!("{compiler} lacks the source of core (rust-src)")
            }
        });
        let linkers = self.linkers.iter().map(|linker| match linker.llvm {
            Some(llvm) => format!("{} has LLVM {llvm}", linker.path.display()),
            None => format!("{} does not say its LLVM", linker.path.display()),
        });
        let mut parts: Vec<String> = compilers.collect();
        if parts.is_empty() {
            parts.push("no rustc".to_owned());
        }
        if self.linkers.is_empty() {
            parts.push("no bpf-linker".to_owned());
        }
        parts.extend(linkers);
        parts.join("; ")
    }
}

/// Compiles the program `bin` of the crate in `crate_directory` and returns the object.
///
/// `target_directory` must not be one that a waiting cargo has locked: a build script that waits
/// for its own cargo would wait for ever.
///
/// # Errors
/// What the compiler said.
pub(crate) fn compile(
    tools: &Tools,
    crate_directory: &Path,
    bin: &str,
    target_directory: &Path,
) -> Result<PathBuf, String> {
    let mut command = cargo(tools, crate_directory, "build", target_directory);
    command.args(["--release", "--bin", bin]);
    let output = command
        .output()
        .map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "compiling {bin} for the kernel with {tools} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(target_directory.join(TARGET).join("release").join(bin))
}

/// Where build scripts compile for the kernel: beside the profiles, so that debug, release and the
/// tests share one `core`, and none of them touches a lock that the outer cargo holds.
///
/// # Errors
/// `out_directory` is not a build script's.
pub(crate) fn target_directory(out_directory: &Path) -> Result<PathBuf, String> {
    // TARGET/PROFILE/build/PACKAGE-HASH/out
    let target = out_directory.ancestors().nth(4);
    target
        .map(|target| target.join("ebpf"))
        .ok_or_else(|| format!("{} lies in no target directory", out_directory.display()))
}

/// A cargo command of the chosen toolchain for the kernel's target, free of what an outer cargo
/// set for itself.
#[must_use]
pub(crate) fn cargo(
    tools: &Tools,
    crate_directory: &Path,
    subcommand: &str,
    target_directory: &Path,
) -> Command {
    let compiler = &tools.compiler;
    let mut command = Command::new(compiler.program("cargo"));
    for (name, _) in env::vars_os() {
        if belongs_to_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    // BTF lets the kernel and bpftool show types and lines; it is made from the debug information.
    //
    // Blocks stay in the order of the source: left to itself, the compiler moves a loop's end to
    // right before its beginning, and Linux before 6.7 takes only loops that jump back
    // ("back-edge from insn").
    let flags = format!(
        "-Cdebuginfo=2\x1f-Clinker={}\x1f-Clink-arg=--btf\
         \x1f-Clink-arg=--llvm-args=-disable-block-placement",
        tools.linker.path.display()
    );
    command
        .current_dir(crate_directory)
        .env("RUSTC", compiler.program("rustc"))
        // `-Z build-std` on a stable toolchain: for a target without a std nothing else is needed.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args([
            subcommand,
            "--locked",
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(target_directory);
    command
}

/// Cargo hands its own settings down to build scripts; a second toolchain must not see them. How
/// registries are reached is the user's and stays.
fn belongs_to_outer_cargo(name: &OsStr) -> bool {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ];
    let Some(name) = name.to_str() else {
        return false;
    };
    let foreign = [
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTDOC",
        "MAKEFLAGS",
        "MFLAGS",
        "CLIPPY_",
    ];
    foreign.iter().any(|prefix| name.starts_with(prefix))
        && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// Directories in which programs are looked for: the path, and where cargo installs, which need
/// not be on it.
#[must_use]
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let home = env::var_os("HOME").map(PathBuf::from);
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".cargo")));
    let install_root = env::var_os("CARGO_INSTALL_ROOT").map(PathBuf::from);
    directories.extend(
        [install_root, cargo_home]
            .into_iter()
            .flatten()
            .map(|root| root.join("bin")),
    );
    // Users' paths often lack these, and the tools for networks live there.
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories
}

fn inspect_compiler(rustc: &OsStr) -> Option<Compiler> {
    let sysroot = PathBuf::from(run(rustc, &["--print", "sysroot"])?.trim());
    let version = run(rustc, &["-vV"])?;
    let origin = if sysroot.starts_with("/usr") && !sysroot.starts_with("/usr/local") {
        Origin::Distribution
    } else {
        Origin::Rustup
    };
    let compiler = Compiler {
        origin,
        version: parse_version(&version)?,
        llvm: parse_llvm(&version)?,
        has_source: sysroot
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists(),
        sysroot,
    };
    compiler.program("cargo").exists().then_some(compiler)
}

fn inspect_linker(path: PathBuf) -> Option<Linker> {
    // Run it: after an upgrade of the distribution its libLLVM may be gone.
    run(path.as_os_str(), &["--version"])?;
    let llvm = linker_llvm(&fs::read(&path).ok()?);
    Some(Linker { path, llvm })
}

/// The LLVM that a linker was built on. It has no option that says so, but the program names the
/// library that it loads (`libLLVM.so.22.1`, `libLLVM-22.so`), or, linked statically, holds the
/// name that LLVM signs bitcode with (`LLVM22.1.8`).
fn linker_llvm(program: &[u8]) -> Option<u32> {
    ["libLLVM.so.", "libLLVM-", "LLVM"]
        .into_iter()
        .find_map(|prefix| {
            program
                .windows(prefix.len())
                .enumerate()
                .filter(|(_, window)| *window == prefix.as_bytes())
                .find_map(|(start, _)| {
                    let rest = &program[start + prefix.len()..];
                    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let number = str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
                    (rest.get(digits) == Some(&b'.') && (10..100).contains(&number))
                        .then_some(number)
                })
        })
}

fn parse_version(output: &str) -> Option<(u32, u32)> {
    let mut numbers = line_value(output, "release: ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn parse_llvm(output: &str) -> Option<u32> {
    line_value(output, "LLVM version: ")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn line_value<'a>(output: &'a str, name: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(name))
}

/// What a program prints; `None` when it cannot be run or fails.
fn run(program: &OsStr, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_names_its_llvm_whichever_way_it_was_linked() {
        assert_eq!(linker_llvm(b"\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(linker_llvm(b"\0libLLVM-21.so\0"), Some(21));
        assert_eq!(linker_llvm(b"\0LLVM\0LLVM 3\0LLVM23.1.0-rc2\0"), Some(23));
        assert_eq!(linker_llvm(b"LLVM22"), None);
        assert_eq!(linker_llvm(b"no such thing"), None);
    }

    #[test]
    fn rustc_says_its_version_and_its_llvms() {
        let output = "rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0-nightly\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(output), Some((1, 96)));
        assert_eq!(parse_llvm(output), Some(22));
        assert_eq!(parse_llvm("release: 1.96.0\n"), None);
    }

    #[test]
    fn the_second_cargo_keeps_the_users_registries_and_nothing_of_the_first() {
        for kept in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_X_INDEX",
        ] {
            assert!(!belongs_to_outer_cargo(OsStr::new(kept)), "{kept}");
        }
        for removed in [
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
        ] {
            assert!(belongs_to_outer_cargo(OsStr::new(removed)), "{removed}");
        }
    }

    #[test]
    fn the_object_is_compiled_beside_the_profiles() {
        let out = Path::new("/project/target/debug/build/ntpmon-0123/out");
        assert_eq!(
            target_directory(out),
            Ok(PathBuf::from("/project/target/ebpf"))
        );
    }

    #[test]
    fn the_oldest_compiler_is_the_one_that_the_workspace_names() {
        let manifest = include_str!("../../Cargo.toml");
        let (major, minor) = OLDEST_RUSTC;
        assert!(manifest.contains(&format!("rust-version = \"{major}.{minor}\"")));
    }
}
