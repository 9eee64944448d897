//! `ntpmon run`: builds the parts, starts them, waits for signals, and stops them in order. What
//! the parts do is theirs; here is only what a process owes to its host: one data directory, no
//! rights that are not needed, a word to the service manager, and an end in time.

mod manager;
mod parts;
mod signals;

use std::{
    net::{SocketAddr, TcpListener},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{fs::Mode, thread::CapabilitySet};
use tokio::{
    runtime,
    time::{MissedTickBehavior, interval},
};

pub use self::parts::{Part, Parts, Reload, Reloaded};
use self::{
    manager::Manager,
    signals::{Received, Signals},
};
use crate::{
    capture,
    config::{Config, DEFAULT_FILE, KEYS, Loaded, Sources},
    data_directory::DataDirectory,
    logging::{self, Logging},
    privileges,
    tokens::Tokens,
};

/// From the signal to the end of the process, whatever hangs: half a second before the 5 that are
/// promised.
const LAST_MOMENT: Duration = Duration::from_millis(4500);
/// How often the parts are asked whether they are well.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What is reloaded here; each part names what it reloads.
const OWN_RELOADABLE: [&str; 1] = ["log.level"];

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, or something cannot be started, or ended badly.
pub fn run(sources: Sources) -> Result<()> {
    let loaded = Config::load(&sources)?;
    // Whatever is made from here on is its maker's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let config = &loaded.config;
    let logging = Logging::start(
        logging::parse(&config.log.level)?,
        config.log.file.as_deref(),
    )?;
    tell_loaded(&loaded);

    let tokens = Tokens::load(&config.tokens_file())?;
    tokens.check_listen(config.api.listen)?;
    let data = DataDirectory::open(&config.data_dir)?;
    // A port below 1024 takes a capability that is dropped next.
    let listener = TcpListener::bind(config.api.listen)
        .with_context(|| format!("listening on {} (api.listen)", config.api.listen))?;
    // Each thread has capabilities of its own: now there is one.
    privileges::keep_only_capture(if capture::locks_are_anothers() {
        CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN
    } else {
        CapabilitySet::empty()
    })?;

    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ntpmon")
        .build()
        .context("starting the runtime")?;
    let daemon = Daemon {
        sources,
        started: loaded.clone(),
        loaded,
        logging,
        manager: Manager::of_environment(),
        data,
        listener,
    };
    let ended = runtime.block_on(daemon.run(&tokens));
    // Whatever still blocks a thread was given its time.
    runtime.shutdown_background();
    ended
}

/// What is there as long as the process.
struct Daemon {
    sources: Sources,
    /// The configuration as it was at the start: what cannot be reloaded is still as it says.
    started: Loaded,
    /// The configuration as it was read last.
    loaded: Loaded,
    logging: Logging,
    manager: Manager,
    data: DataDirectory,
    /// Where the API is: bound before anything else, so that who asks too early waits.
    listener: TcpListener,
}

impl Daemon {
    async fn run(mut self, tokens: &Tokens) -> Result<()> {
        // Before anything is started: a signal from here on ends in order.
        let mut signals = Signals::new()?;
        self.manager.starting();
        let begin = Instant::now();
        let parts = self.start(tokens)?;
        let address = self.address()?;
        tracing::info!(
            "ready after {:.3} s: listening on {address}, data in {}",
            begin.elapsed().as_secs_f64(),
            self.data.path().display()
        );
        let status = format!("listening on {address}");
        self.manager.ready(&status);

        let mut heartbeat = interval(
            self.manager
                .interval()
                .map_or(HEARTBEAT, |it| it.min(HEARTBEAT)),
        );
        // Not all that was missed while the host slept.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ill = Vec::new();
        loop {
            tokio::select! {
                received = signals.next() => match received {
                    Received::Reload => {
                        self.manager.reloading();
                        self.reload(&parts);
                        self.manager.ready(&status);
                    }
                    Received::End(signal) => {
                        tracing::info!("{signal}: stopping");
                        break;
                    }
                },
                _ = heartbeat.tick() => {
                    let now = parts.ill();
                    tell_health(&ill, &now);
                    if now.is_empty() {
                        self.manager.alive();
                    }
                    ill = now;
                }
            }
        }
        self.manager.stopping();
        end_at_last()?;
        tokio::spawn(async move {
            let signal = signals.next_end().await;
            tracing::warn!("{signal} again: ending at once");
            process::exit(signal.exit_code());
        });
        let stopped = parts.stop().await;
        tracing::info!("stopped");
        stopped
    }

    fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("looking at the API's socket")
    }

    /// Starts the parts, in the order in which they are stopped later: what is captured, then what
    /// is served, then what is remembered.
    fn start(&self, tokens: &Tokens) -> Result<Parts> {
        if let Err(error) = privileges::check_capture() {
            tracing::error!("nothing is captured: {error:#}; what was remembered is served");
        }
        tell_tokens(tokens);
        Ok(Parts::default())
    }

    /// Brings what can be changed in line with the sources as they are now. When they are wrong,
    /// all stays as it was.
    fn reload(&mut self, parts: &Parts) {
        match self.read_again() {
            Ok(new) => {
                tell_loaded(&new.0);
                self.apply(parts, new);
            }
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    tracing::error!("reloading: {line}");
                }
                tracing::error!("the configuration stays as it was");
            }
        }
    }

    fn read_again(&self) -> Result<(Loaded, Tokens)> {
        let loaded = Config::load(&self.sources)?;
        let tokens = Tokens::load(&loaded.config.tokens_file())?;
        // The socket is the one that there is.
        tokens.check_listen(self.address()?)?;
        Ok((loaded, tokens))
    }

    fn apply(&mut self, parts: &Parts, (loaded, tokens): (Loaded, Tokens)) {
        let filter = logging::parse(&loaded.config.log.level);
        let said = filter.and_then(|filter| self.logging.set(filter));
        if let Err(error) = said.and_then(|()| self.logging.reopen()) {
            tracing::error!("reloading: {error:#}");
        }
        tell_tokens(&tokens);
        parts.reload(&Reloaded {
            config: &loaded.config,
            tokens: &tokens,
        });
        for key in KEYS.iter().map(|key| key.path) {
            let reloads = OWN_RELOADABLE.contains(&key) || parts.reloads(key);
            let value = loaded.value(key);
            if reloads && value != self.loaded.value(key) {
                tracing::info!("reloading: {key} has changed");
            } else if !reloads && value != self.started.value(key) {
                tracing::warn!("reloading: {key} has changed, which counts from the next start on");
            }
        }
        self.loaded = loaded;
    }
}

fn tell_loaded(loaded: &Loaded) {
    match &loaded.file {
        Some(path) => tracing::info!("configured by {}", path.display()),
        None => tracing::info!("there is no {DEFAULT_FILE}: configured by the defaults"),
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

fn tell_tokens(tokens: &Tokens) {
    match tokens.all().len() {
        0 => tracing::info!("there are no tokens: only this host may ask"),
        count => tracing::info!("tokens that may ask: {count}"),
    }
}

/// Says what became ill and what became well again.
fn tell_health(before: &[&str], now: &[&str]) {
    for name in now.iter().filter(|name| !before.contains(name)) {
        tracing::error!("{name} does not answer");
    }
    for name in before.iter().filter(|name| !now.contains(name)) {
        tracing::info!("{name} answers again");
    }
}

/// Ends the process when stopping takes too long. A thread of its own: nothing that hangs can keep
/// it from running.
fn end_at_last() -> Result<()> {
    thread::Builder::new()
        .name("last-moment".to_owned())
        .spawn(|| {
            thread::sleep(LAST_MOMENT);
            tracing::error!(
                "stopping takes longer than {} s: ending without",
                LAST_MOMENT.as_secs_f64()
            );
            process::exit(0);
        })
        .context("starting the thread that ends the process in time")?;
    Ok(())
}
