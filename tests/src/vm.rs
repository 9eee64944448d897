//! Boots another kernel, a Debian one that is older than the machine's, and runs a script under
//! it. The guest has no disk: everything it needs goes into an initramfs made for the run. The
//! processor is emulated, so it runs where there is no virtualisation, and that costs seconds.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::qemu;

/// The package that depends on Debian's current kernel for virtual machines. In Debian 12 that is
/// Linux 6.1.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

const BUSYBOX: &str = "/bin/busybox";

/// Runs the guest's script. Busybox's own shell would prefer its commands to any program of the
/// same name, so there could be no `ip` but busybox's.
const SHELL: &str = "/bin/sh";

/// What the guest prints on its console when the script has ended, before the exit status.
const STATUS_MARK: &str = "script ended with status ";

/// A kernel that is ready to boot, and the modules that it needs at boot.
#[derive(Debug)]
pub struct Vm {
    directory: PathBuf,
    image: PathBuf,
    /// In the order in which they have to be loaded.
    modules: Vec<PathBuf>,
}

/// What a script left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit status of the script.
    pub status: i32,
    /// What the script wrote to its standard output, and nothing else.
    pub stdout: String,
    /// The console: the script's standard error, and what the kernel had to say.
    pub console: String,
}

impl Vm {
    /// Fetches Debian's kernel into `directory`, unless it is there, and finds `modules` with all
    /// that they depend on. A name that is built into the kernel is accepted too.
    ///
    /// # Errors
    /// Where apt has no such package, or the kernel no such module.
    pub fn debian(directory: &Path, modules: &[&str]) -> anyhow::Result<Self> {
        let kernel = fetch(directory)?;
        let boot = fs::read_dir(kernel.join("boot"))
            .context("the kernel's package has no folder boot")?
            .collect::<io::Result<Vec<_>>>()?;
        let image = boot
            .iter()
            .map(fs::DirEntry::path)
            .find(|path| file_name(path).starts_with("vmlinuz"))
            .context("the kernel's package has no boot/vmlinuz")?;
        Ok(Self {
            directory: directory.to_owned(),
            image,
            modules: Modules::of(&kernel)?.with_dependencies(modules)?,
        })
    }

    /// Boots, runs `script` with this machine's shell, powers off. In the guest, `programs` of this
    /// machine come before busybox's of the same names; their shared libraries come along.
    ///
    /// # Errors
    /// When the guest has not powered off by itself within `deadline`, or ended without the
    /// script having ended: the error carries the console.
    pub fn run(
        &self,
        programs: &[&Path],
        script: &str,
        deadline: Duration,
    ) -> anyhow::Result<Output> {
        let scratch = Scratch::new(&self.directory)?;
        let initramfs = self.initramfs(&scratch.0, programs, script)?;
        let console = scratch.0.join("console");
        let stdout = scratch.0.join("stdout");
        let qemu_errors = scratch.0.join("qemu");

        // No acceleration, ever: with KVM inside some virtual machines the guest hangs at boot.
        let child = qemu::command(&self.directory)?
            .args(["-accel", "tcg", "-m", "512", "-smp", "2"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&initramfs)
            // Minus one: a panic reboots at once, and a reboot ends qemu.
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", stdout.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&qemu_errors)?)
            .spawn()
            .context("starting qemu")?;
        let ended = Machine(child).wait(deadline)?;

        let console = read_text(&console).replace('\r', "");
        let status = console
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(STATUS_MARK)?.parse().ok());
        match status {
            Some(status) if ended => Ok(Output {
                status,
                stdout: read_text(&stdout),
                console,
            }),
            _ => bail!(
                "the guest {}; console:\n{console}{}",
                if ended {
                    "ended before the script did".to_owned()
                } else {
                    format!("had not powered off after {deadline:?}")
                },
                read_text(&qemu_errors),
            ),
        }
    }

    /// Busybox packs the archive as well: the guest needs it in any case, so nothing more has to
    /// be installed, and there is no archive format to write here.
    fn initramfs(
        &self,
        scratch: &Path,
        programs: &[&Path],
        script: &str,
    ) -> anyhow::Result<PathBuf> {
        let root = scratch.join("root");
        for folder in ["dev", "proc", "sys", "tmp", "run", "var", "modules"] {
            fs::create_dir_all(root.join(folder))?;
        }
        install(&root, Path::new(BUSYBOX), Path::new(BUSYBOX))?;
        install(&root, Path::new(SHELL), Path::new("/usr/bin/sh"))?;
        for program in programs {
            install(
                &root,
                program,
                &Path::new("/usr/bin").join(file_name(program)),
            )?;
        }
        let mut load = String::new();
        for module in &self.modules {
            let place = format!("/modules/{}.ko", module_name(module));
            fs::write(root.join(&place[1..]), read_module(module)?)?;
            load += &format!("insmod {place}\n");
        }
        fs::write(root.join("script"), script)?;
        fs::write(root.join("init"), init(&load))?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;

        let archive = scratch.join("initramfs");
        let status = Command::new(BUSYBOX)
            .args(["sh", "-c", "find . | cpio -o -H newc"])
            .current_dir(&root)
            .stdout(File::create(&archive)?)
            .stderr(Stdio::null())
            .status()?;
        ensure!(
            status.success(),
            "packing the initramfs: cpio ended with {status}"
        );
        Ok(archive)
    }
}

/// The guest's first process. The script's output goes to a second serial port, where no message
/// of the kernel can fall into the middle of a line.
fn init(load_modules: &str) -> String {
    format!(
        "#!/bin/busybox sh
export PATH=/usr/bin:/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
ln -s /run /var/run
{load_modules}ip link set lo up
stty -F /dev/ttyS1 raw
/usr/bin/sh /script </dev/null >/dev/ttyS1
echo \"{STATUS_MARK}$?\"
poweroff -f
"
    )
}

/// A program of this machine, be it one for administrators.
///
/// # Errors
/// Where it is not installed.
pub fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("there is no program {name}"))
}

/// A running qemu, which does not outlive its test.
struct Machine(Child);

impl Machine {
    /// Whether it ended by itself.
    fn wait(mut self, deadline: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + deadline;
        while Instant::now() < end {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for one run.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: &Path) -> anyhow::Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("run-{}-{run}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the target folder, where it harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The folder of the unpacked package.
fn fetch(directory: &Path) -> anyhow::Result<PathBuf> {
    let package = match concrete_package()? {
        Some(package) => package,
        None => {
            update_package_lists()?;
            concrete_package()?.with_context(|| format!("apt knows no package {KERNEL_PACKAGE}"))?
        }
    };
    let unpacked = directory.join(&package);
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let scratch = Scratch::new(directory)?;
    let download = || {
        run(Command::new("apt-get")
            .args(["download", "--quiet", &package])
            .current_dir(&scratch.0))
    };
    if download().is_err() {
        // Lists that are older than the archive name a version that is no longer there.
        update_package_lists()?;
        download()?;
    }
    let archive = fs::read_dir(&scratch.0)?
        .collect::<io::Result<Vec<_>>>()?
        .pop()
        .with_context(|| format!("apt-get download left no file of {package}"))?
        .path();
    let contents = scratch.0.join("contents");
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&contents))?;
    // Complete or not there at all, whatever interrupts this.
    fs::rename(&contents, &unpacked)
        .with_context(|| format!("moving the kernel to {}", unpacked.display()))?;
    Ok(unpacked)
}

/// The package with the files: the one named above only depends on it.
fn concrete_package() -> anyhow::Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "--important", KERNEL_PACKAGE])
        .output()
        .context("running apt-cache, which finds the kernel: this needs a Debian system")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned))
}

fn update_package_lists() -> anyhow::Result<()> {
    run(Command::new("apt-get").args(["update", "--quiet"]))
}

/// Runs to the end; what it printed is shown only when it failed.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

/// The modules of a kernel by name.
struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
}

impl Modules {
    fn of(kernel: &Path) -> anyhow::Result<Self> {
        let mut modules = Self {
            files: BTreeMap::new(),
            built_in: Vec::new(),
        };
        let mut folders = vec![kernel.join("lib/modules")];
        while let Some(folder) = folders.pop() {
            for entry in
                fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?
            {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if file_name(&path) == "modules.builtin" {
                    let list = fs::read_to_string(&path)?;
                    let names = list.lines().map(|line| module_name(Path::new(line)));
                    modules.built_in.extend(names);
                } else if file_name(&path).contains(".ko") {
                    modules.files.insert(module_name(&path), path);
                }
            }
        }
        Ok(modules)
    }

    fn with_dependencies(&self, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let mut ordered = Vec::new();
        for name in names {
            self.add(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    /// Adds what a module depends on, then itself. The package comes without a list of
    /// dependencies (its installation would make one), but each module names its own.
    fn add(&self, name: &str, ordered: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        if self.built_in.iter().any(|built_in| built_in == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("the kernel has no module {name}"))?;
        if ordered.contains(path) {
            return Ok(());
        }
        let contents = read_module(path)?;
        let field = b"\0depends=";
        let depends = contents
            .windows(field.len())
            .position(|window| window == field)
            .map(|start| &contents[start + field.len()..])
            .and_then(|rest| rest.split(|&byte| byte == 0).next())
            .with_context(|| format!("{} does not say what it depends on", path.display()))?;
        for dependency in String::from_utf8_lossy(depends).split(',') {
            if !dependency.is_empty() {
                self.add(dependency, ordered)?;
            }
        }
        ordered.push(path.clone());
        Ok(())
    }
}

/// As the kernel writes it: without suffixes, and with underscores only.
fn module_name(path: &Path) -> String {
    let name = file_name(path);
    let stem = name.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_")
}

/// A module's bytes; newer Debian kernels have them compressed.
fn read_module(path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("reading {}", path.display());
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new(BUSYBOX)
            .arg("xzcat")
            .arg(path)
            .output()
            .with_context(what)?;
        ensure!(output.status.success(), "{} is no xz file", path.display());
        return Ok(output.stdout);
    }
    fs::read(path).with_context(what)
}

/// The shared libraries of a program, its loader among them; none for a static one.
fn shared_libraries(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(file)
        .output()
        .context("running ldd")?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("not found"),
        "{} lacks shared libraries: {text}",
        file.display()
    );
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// Copies a program to its place in the guest, and its libraries to theirs.
fn install(root: &Path, program: &Path, place: &Path) -> anyhow::Result<()> {
    let target = copy(root, program, place)?;
    // All files of the guest lie in its memory, and debug builds are ten times as large with their
    // debug information.
    run(Command::new("strip").arg("--strip-debug").arg(&target))?;
    for library in shared_libraries(program)? {
        copy(root, &library, &library)?;
    }
    Ok(())
}

fn copy(root: &Path, file: &Path, place: &Path) -> anyhow::Result<PathBuf> {
    let target = root.join(place.strip_prefix("/").unwrap_or(place));
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(file, &target).with_context(|| format!("copying {} for the guest", file.display()))?;
    Ok(target)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Text that may be cut anywhere, or not be there at all.
fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
