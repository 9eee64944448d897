//! `ntpmon run`: builds the parts, starts them, waits for signals, and stops them in order. What
//! the parts do is theirs; here is only what a process owes to its host: one data directory, no
//! rights that are not needed, a word to the service manager, and an end in time.

mod alerts;
mod manager;
mod parts;
mod signals;
mod start;
mod values;

use std::{
    future::{pending, ready},
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    fs::{Access, Mode},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::CapabilitySet,
};
use tokio::{
    runtime,
    time::{MissedTickBehavior, interval},
};

pub use self::parts::{Apply, Part, Parts, Reload, Reloaded, Work};
use self::{
    manager::Manager,
    signals::{Received, Signals},
};
use crate::{
    capture,
    config::{Config, DEFAULT_FILE, KEYS, LISTS, Loaded, Sources},
    data_directory::DataDirectory,
    logging::{self, Logging},
    privileges, scheduling,
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
    allow_descriptors(start::connections(config));
    // A port below 1024 takes a capability that is dropped next.
    let listener = listen(config.api.listen)?;
    // Each thread has capabilities of its own: now there is one.
    privileges::keep_only_capture(more_than_capture(&loaded)?)?;

    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ntpmon")
        .on_thread_start(scheduling::answer_soon)
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

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => ": ports below 1024 take CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrInUse => ": choose another port, or stop what listens there",
            io::ErrorKind::AddrNotAvailable => ": this host does not have that address",
            _ => "",
        };
        anyhow!("listening on {address} (api.listen): {error}{hint}")
    })
}

/// Descriptors for everything but connections: rings, links, files, netlink.
const OTHER_DESCRIPTORS: u64 = 1024;

/// Sees to it that connections cannot take the descriptors that captures and files need: most
/// processes are allowed 1024 at first, and may ask for more.
fn allow_descriptors(connections: usize) {
    let wanted = OTHER_DESCRIPTORS.saturating_add(connections as u64);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let possible = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let limit = Rlimit {
        current: Some(possible),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("allowing {possible} open files: {error}");
    } else if possible < wanted {
        tracing::warn!(
            "only {possible} files may be open, {wanted} may be needed: raise the hard limit \
             (ulimit -Hn, or LimitNOFILE= of the service)"
        );
    }
}

/// What it takes besides, where root was told to use what is not root's.
fn more_than_capture(loaded: &Loaded) -> Result<CapabilitySet> {
    let config = &loaded.config;
    let tokens = config.tokens_file();
    let (read, write) = (Access::READ_OK, Access::WRITE_OK);
    let folder = read | write | Access::EXEC_OK;
    let tls = config.api.tls.pair();
    let wanted = [
        (Some(config.data_dir.as_path()), folder),
        (config.capture.output_dir.as_deref(), folder),
        (config.log.file.as_deref(), write),
        (loaded.file.as_deref(), read),
        (Some(tokens.as_path()), read),
        (tls.map(|(certificate, _)| certificate), read),
        (tls.map(|(_, key)| key), read),
    ];
    let sinks = config.alert.sinks.iter().flat_map(|sink| sink.files());
    let wanted: Vec<_> = wanted
        .into_iter()
        .filter_map(|(path, access)| Some((path?, access)))
        .chain(sinks.map(|path| (path.as_path(), read)))
        .collect();
    let mut more = CapabilitySet::empty();
    if let Some(path) = privileges::out_of_reach(&wanted)?.first() {
        tracing::info!(
            "keeping CAP_DAC_OVERRIDE: without it, {} is out of reach",
            path.display()
        );
        more |= CapabilitySet::DAC_OVERRIDE;
    }
    if capture::locks_are_anothers() {
        // Locks that are made there have to be its owner's.
        more |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN;
    }
    Ok(more)
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
        let parts = tokio::select! {
            parts = self.start(tokens) => parts?,
            signal = signals.next_end() => {
                tracing::info!("{signal} while starting: ending");
                end_at_last();
                return Ok(());
            }
        };
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
        let mut reloading = None;
        loop {
            tokio::select! {
                received = signals.next(reloading.is_some()) => match received {
                    Received::Reload => {
                        self.manager.reloading();
                        reloading = Some(self.reload(&parts));
                    }
                    Received::End(signal) => {
                        tracing::info!("{signal}: stopping");
                        break;
                    }
                },
                // Attaching takes a while, in which the daemon is to be alive, and may be ended.
                () = over(&mut reloading) => {
                    reloading = None;
                    self.manager.ready(&status);
                }
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
        end_at_last();
        tokio::spawn(end_at_once(signals));
        let stopped = parts.stop().await;
        tracing::info!("stopped");
        stopped
    }

    fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .context("looking at the API's socket")
    }

    /// Starts the parts, and puts them in the order in which they are stopped: what is captured,
    /// then what is served, then what is remembered. What takes long must leave the thread to
    /// others: a signal ends the daemon meanwhile too.
    async fn start(&self, tokens: &Tokens) -> Result<Parts> {
        if let Err(error) = privileges::check_capture() {
            tracing::error!("nothing is captured: {error:#}; what was remembered is served");
        }
        tell_tokens(tokens);
        let config = &self.loaded.config;
        start::start(config, self.data.path(), &self.listener, tokens).await
    }

    /// Brings what can be changed in line with the sources as they are now. When they are wrong,
    /// all stays as it was. What is returned is over when all is in force.
    fn reload(&mut self, parts: &Parts) -> Reloading {
        match self.read_again() {
            Ok(new) => {
                tell_loaded(&new.0);
                self.apply(parts, new)
            }
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    tracing::error!("reloading: {line}");
                }
                tracing::error!("the configuration stays as it was");
                Box::pin(ready(()))
            }
        }
    }

    fn read_again(&self) -> Result<(Loaded, Tokens)> {
        let loaded = Config::load(&self.sources)?;
        let tokens = Tokens::load(&loaded.config.tokens_file())?;
        Ok((loaded, tokens))
    }

    fn apply(&mut self, parts: &Parts, (loaded, tokens): (Loaded, Tokens)) -> Reloading {
        let filter = logging::parse(&loaded.config.log.level);
        let said = filter.and_then(|filter| self.logging.set(filter));
        if let Err(error) = said.and_then(|()| self.logging.reopen()) {
            tracing::error!("reloading: {error:#}");
        }
        tell_tokens(&tokens);
        // A token that was taken back must not go on counting because it was the last.
        if let Err(error) = self
            .address()
            .and_then(|address| tokens.check_listen(address))
        {
            tracing::error!("reloading: {error:#}; until then other hosts are refused");
        }
        let reloading = parts.reload(&Reloaded {
            config: &loaded.config,
            tokens: &tokens,
        });
        let lists = LISTS.iter().map(|list| list.path);
        for key in KEYS.iter().map(|key| key.path).chain(lists) {
            let reloads = OWN_RELOADABLE.contains(&key) || parts.reloads(key);
            let value = loaded.value(key);
            if reloads && value != self.loaded.value(key) {
                tracing::info!("reloading: {key} has changed");
            } else if !reloads && value != self.started.value(key) {
                tracing::warn!("reloading: {key} has changed, which counts from the next start on");
            }
        }
        self.loaded = loaded;
        Box::pin(reloading)
    }
}

/// What is put in force.
type Reloading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits until it is over; for ever, when there is none.
async fn over(reloading: &mut Option<Reloading>) {
    match reloading {
        Some(reloading) => reloading.await,
        None => pending().await,
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

/// Ends the process at the next signal that asks for it: whoever stops it does not want to wait.
async fn end_at_once(mut signals: Signals) {
    let signal = signals.next_end().await;
    tracing::warn!("{signal} again: ending at once");
    process::exit(signal.exit_code());
}

/// Ends the process when stopping takes too long. A thread of its own: nothing that hangs can keep
/// it from running.
fn end_at_last() {
    let thread = thread::Builder::new().name("last-moment".to_owned());
    let started = thread.spawn(|| {
        thread::sleep(LAST_MOMENT);
        tracing::error!(
            "stopping takes longer than {} s: ending without",
            LAST_MOMENT.as_secs_f64()
        );
        process::exit(0);
    });
    if let Err(error) = started {
        // What stops in order still does.
        tracing::error!(%error, "starting the thread that ends the process in time");
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Set in the copy of the test that is to end.
    const VARIABLE: &str = "TEST_THAT_ENDS";

    /// Runs a test again, as a process of its own that is to end itself, and gives its exit code.
    fn end_of(test: &str) -> Option<i32> {
        let name = format!("daemon::tests::{test}");
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &name]).env(VARIABLE, "1");
        command.output().unwrap().status.code()
    }

    #[tokio::test]
    async fn a_reload_goes_on_where_it_was_when_something_else_happens_meanwhile() {
        let (mut ticks, soon) = (0, Duration::from_millis(10));
        let mut reloading: Option<Reloading> = Some(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }));
        while tokio::time::timeout(soon, over(&mut reloading))
            .await
            .is_err()
        {
            ticks += 1;
            assert!(ticks < 1000);
        }
        assert!(ticks > 1, "{ticks}");
        let none = tokio::time::timeout(soon, over(&mut None)).await;
        assert!(none.is_err());
    }

    #[test]
    fn whatever_hangs_the_process_ends_in_time() {
        if env::var_os(VARIABLE).is_some() {
            end_at_last();
            thread::sleep(Duration::from_secs(60));
            process::exit(1);
        }
        const { assert!(LAST_MOMENT.as_secs() < 5) };
        assert_eq!(end_of("whatever_hangs_the_process_ends_in_time"), Some(0));
    }

    #[test]
    fn a_second_signal_ends_the_process_at_once() {
        if env::var_os(VARIABLE).is_some() {
            let runtime = runtime::Runtime::new().unwrap();
            runtime
                .block_on(async {
                    let signals = Signals::new().unwrap();
                    let ourselves = rustix::process::getpid();
                    rustix::process::kill_process(ourselves, rustix::process::Signal::TERM)
                        .unwrap();
                    let deadline = Duration::from_secs(60);
                    tokio::time::timeout(deadline, end_at_once(signals)).await
                })
                .unwrap();
            process::exit(1);
        }
        assert_eq!(
            end_of("a_second_signal_ends_the_process_at_once"),
            Some(143)
        );
    }
}
