//! What is said, and where: the filter, a file or standard error, and changing the filter while
//! everything runs. What is said goes through `tracing` everywhere else.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, IsTerminal, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

/// What is said unless told otherwise.
pub const DEFAULT: &str = "warn,ntpmon=info";

/// Changes what is said from now on, and where to.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: Handle<EnvFilter, Registry>,
    file: Option<LogFile>,
}

impl Logging {
    /// Begins to say what the filter lets through, in a file (appended to; times at each line) or
    /// on standard error.
    ///
    /// # Errors
    /// When the file cannot be opened, or something is said already.
    pub fn start(filter: EnvFilter, file: Option<&Path>) -> Result<Self> {
        let (filter, handle) = reload::Layer::new(filter);
        let lines = fmt::layer()
            .with_target(false)
            // It would be told on standard error, which is what fails.
            .log_internal_errors(false);
        let file = file.map(LogFile::open).transpose()?;
        let lines = match file.clone() {
            Some(file) => lines
                .with_ansi(false)
                .with_writer(move || file.clone())
                .boxed(),
            // Whoever collects standard error knows the time.
            None => lines
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr)
                .without_time()
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .context("starting the log")?;
        Ok(Self {
            filter: handle,
            file,
        })
    }

    /// From now on says what this lets through.
    ///
    /// # Errors
    /// When the log has ended.
    pub fn set(&self, filter: EnvFilter) -> Result<()> {
        self.filter.reload(filter).context("changing the log level")
    }

    /// Goes on in a new file where the old one was moved away.
    ///
    /// # Errors
    /// When it cannot be opened: what is said still goes into the old one.
    pub fn reopen(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), LogFile::reopen)
    }
}

/// A file that lines are appended to. Clones share it.
#[derive(Clone, Debug)]
struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            file: Arc::new(Mutex::new(open(path)?)),
        })
    }

    fn reopen(&self) -> Result<()> {
        let new = open(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush()
    }
}

/// Others may collect a log than who writes it: its group may read, whatever the umask.
fn open(path: &Path) -> Result<File> {
    let opening = || format!("opening the log {}", path.display());
    let options = || {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o640);
        options
    };
    match options().create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o640))
                .with_context(opening)?;
            Ok(file)
        }
        // Whoever made it decided who may read it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options().open(path).with_context(opening)
        }
        Err(error) => Err(error).with_context(opening),
    }
}

/// Reads a setting: levels, alone or of modules.
///
/// # Errors
/// Says what is no level.
pub fn parse(setting: &str) -> Result<EnvFilter> {
    // A lone word that is no level would be taken for a module, and all others fall silent.
    let mut lone = setting.split(',').filter(|part| !part.contains('='));
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if let Some(word) = lone.find(|word| !is_level(word)) {
        return Err(anyhow!("'{word}' is no level"));
    }
    Ok(EnvFilter::builder().parse(setting)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_log_goes_on_where_its_file_was_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640);
        log.clone().write_all(b"one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        log.write_all(b"two\n").unwrap();
        log.reopen().unwrap();
        log.write_all(b"three\n").unwrap();
        log.reopen().unwrap();
        log.write_all(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
    }

    #[test]
    fn a_log_setting_is_levels_alone_or_of_modules() {
        for right in [DEFAULT, "debug", "WARN", "off", "ntpmon=trace"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["", "dbug", "ntpmon", "ntpmon=loud", "debug ntpmon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
