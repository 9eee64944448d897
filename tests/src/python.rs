//! Python with the packages that tests run: an environment of its own in `target/python/`, made
//! once, from the versions that `tests/requirements.txt` pins.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, anyhow};

use crate::{packages, process::run};

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// A program of the environment: `python`, or one that a package brings. The environment is made
/// now if it was not before; several test binaries may ask at once.
pub fn program(name: &str) -> Result<PathBuf> {
    static PREPARED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PREPARED
        .get_or_init(|| prepare().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map(|place| place.join("bin").join(name))
        .map_err(|error| anyhow!("the Python packages to test with are not there: {error}"))
}

fn prepare() -> Result<PathBuf> {
    let directory = crate::target_directory();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let directory = directory
        .canonicalize()
        .with_context(|| format!("cannot resolve {}", directory.display()))?
        .join("python");
    // Released when the file is closed, whatever happens.
    let path = directory.with_extension("lock");
    let lock =
        fs::File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;

    // Written last: a run that was interrupted begins anew, and so does one with other versions.
    let ready = directory.join("ready");
    if fs::read_to_string(&ready).is_ok_and(|made| made == REQUIREMENTS) {
        return Ok(directory);
    }
    packages::require_tools()?;
    // Debian leaves out of python3 what makes environments.
    if run(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_err() {
        packages::install(&["python3-venv"])?;
    }
    eprintln!("installing Python packages, to run in the tests");
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&directory))?;
    let list = directory.join("requirements.txt");
    fs::write(&list, REQUIREMENTS).with_context(|| format!("cannot write {}", list.display()))?;
    run(Command::new(directory.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(&list))?;
    fs::write(&ready, REQUIREMENTS).with_context(|| format!("cannot make {}", ready.display()))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_what_is_pinned() {
        let python = program("python").unwrap();
        let listed = run(Command::new(python).args(["-m", "pip", "freeze"])).unwrap();
        for line in REQUIREMENTS.lines().filter(|line| line.contains("==")) {
            assert!(listed.contains(line), "{line} is not in {listed}");
        }
    }
}
