//! What is said, and where: the filter, a file or standard error, and changing the filter while
//! everything runs. What is said goes through `tracing` everywhere else.

use std::{
    fs::{File, OpenOptions},
    io::IsTerminal,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
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

/// Changes what is said from now on.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: Handle<EnvFilter, Registry>,
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
        let lines = match file {
            Some(path) => lines
                .with_ansi(false)
                .with_writer(Arc::new(open(path)?))
                .boxed(),
            // Whoever collects standard error knows the time.
            None => lines
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .without_time()
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .context("starting the log")?;
        Ok(Self { filter: handle })
    }

    /// From now on says what this lets through.
    ///
    /// # Errors
    /// When the log has ended.
    pub fn set(&self, filter: EnvFilter) -> Result<()> {
        self.filter.reload(filter).context("changing the log level")
    }
}

/// Read by its owner and its group: a log may be collected by others than who writes it.
fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
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
    use super::*;

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
