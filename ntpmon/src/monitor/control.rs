//! The watched interfaces under control of whoever holds a handle: [`Control`] is cheap to clone
//! and its methods never block, for all that takes time (attaching takes tens of milliseconds) is
//! done by one thread that owns the [`Monitor`] and follows what the kernel says of interfaces.
//!
//! What is to be watched is remembered as a few bytes, which the owner keeps: the set survives a
//! restart. One interface that cannot be captured keeps neither the others nor the daemon from
//! running; it is tried again until it is stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use ntpmon_common::Counters;
use serde::{Deserialize, Serialize};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    Change, Common, Condition, Ended, Monitor, Options,
    output_file::{Directory, Output, OutputFile},
    overlaps,
};
use crate::{
    capture::{self, Drained},
    netlink::{self, Changes, Interface},
    ntp::pair,
    pipeline::{Consumer, Host, Sink},
};

/// What is known at start.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// How every interface is captured.
    pub common: Common,
    /// How one is watched of which nothing else was said.
    pub defaults: Options,
    /// Interfaces that flags or the configuration name. With none, and nothing remembered, that of
    /// the default route is watched.
    pub interfaces: Vec<String>,
    /// The only directory that output files are opened in; without one there are none.
    pub output_directory: Option<PathBuf>,
    /// What was remembered last, if anything.
    pub remembered: Option<Vec<u8>>,
}

/// A handle on the watched interfaces.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<Request>,
    host: Host,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such interface, and none of that name is watched.
    #[error("there is no interface {0}")]
    UnknownInterface(String),
    /// The options cannot be.
    #[error("{0}")]
    Options(String),
    /// The output file is refused. Nothing else was changed.
    #[error("the output file is refused: {0}")]
    OutputFile(String),
    /// The kernel refused, or did not answer. What was asked for is remembered, and tried again.
    #[error("{0:#}")]
    Failed(anyhow::Error),
    /// The thread that owns the captures has ended.
    #[error("interfaces are no longer under control: ntpmon is stopping")]
    Stopped,
}

/// How an interface is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub interface: String,
    /// Whether it is captured.
    pub state: State,
    /// Whether there is such an interface now.
    pub exists: bool,
    /// Since when it has been watched with these options; counters count from there, over
    /// whatever time the interface was away. Nothing until it was captured for the first time.
    pub since: Option<jiff::Timestamp>,
    /// How the programs are attached.
    pub mode: Option<String>,
    /// How it is watched, if it is to be.
    pub options: Option<Options>,
    /// What the programs counted. Events are those that were emitted, dropped are those for which
    /// the ring had no room.
    pub counters: Counters,
    /// Its rings, each with a thread that empties it.
    pub rings: usize,
    /// Its output file.
    pub output: Option<Output>,
    /// Where the capture differs from what was asked, and why.
    pub notes: Vec<String>,
}

/// Whether an interface is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Running,
    /// It is not to be.
    NotMonitoring,
    /// It is to be, and is not: why. It is tried again.
    Failed(String),
}

/// What a clean-up removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The interface that it was on; nothing when that is gone.
    pub interface: Option<String>,
    /// What it was.
    pub what: String,
}

type Answer<T> = oneshot::Sender<Result<T, ControlError>>;

#[derive(Debug)]
enum Request {
    Start(String, Option<Options>, Answer<Status>),
    Stop(String, Answer<Status>),
    Restart(String, Option<Options>, Answer<Status>),
    Status(String, Answer<Status>),
    Statuses(Answer<Vec<Status>>),
    Cleanup(Answer<Vec<Removed>>),
    End(Answer<Vec<Ended>>),
}

/// Requests that wait, at most: whoever asks beyond that waits with asking.
const REQUESTS: usize = 64;
/// How often an interface that could not be captured is tried again, and a thread that died is
/// noticed.
const RETRY: Duration = Duration::from_secs(5);
/// Pairers that share the bounds of what may wait: the rings of so many interfaces. The set changes
/// while the daemon runs, and a pairer keeps the bounds that it was made with, so a number is set
/// in advance: most hosts watch one to four. On more, a flood of forged packets on all of them at
/// once can take more memory, in the same proportion; on fewer, a quarter of a full table is still
/// 57,344 requests that wait in each generation, with the default timeout all that come at 28,000
/// unanswered requests a second.
const INTERFACES: usize = 4;

impl Control {
    /// Starts the thread, which at once begins to capture what is to be watched; the first request
    /// is answered when that is done. `sink` is called once for each ring with the interface's
    /// name. `remember` is given what has to be kept, each time that it changes.
    ///
    /// # Errors
    /// When the kernel does not tell of changes, or the thread cannot be started. That an interface
    /// cannot be captured is no error here: its status says so.
    pub fn open<S: Sink>(
        setup: Setup,
        sink: impl FnMut(&str) -> S + Send + 'static,
        remember: impl FnMut(Vec<u8>) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime that follows interfaces")?;
        // Before the first look at the interfaces: what changes after that look is told.
        let changes = Changes::new()?;
        let host = Host::default();
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let worker = Worker::new(setup, host.clone(), sink, remember);
        thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || runtime.block_on(worker.run(receiver, changes)))
            .context("starting the thread that owns the captures")?;
        Ok(Self { requests, host })
    }

    /// Watches an interface. One that is watched with the same options already, or that is running
    /// when none are given, is left alone; with others its capture is replaced. Without options
    /// it is watched as before, or else with the defaults.
    ///
    /// # Errors
    /// [`ControlError::Failed`] when it cannot be captured now: it is tried again until it is
    /// stopped. After the other errors nothing has changed.
    pub async fn start(
        &self,
        name: &str,
        options: Option<Options>,
    ) -> Result<Status, ControlError> {
        let name = name.to_owned();
        self.ask(|answer| Request::Start(name, options, answer))
            .await
    }

    /// Watches an interface no longer, until it is started again; a restart of the daemon does not
    /// start it. Nothing happens to one that is not watched.
    ///
    /// # Errors
    /// When there is no such interface and none is watched.
    pub async fn stop(&self, name: &str) -> Result<Status, ControlError> {
        let name = name.to_owned();
        self.ask(|answer| Request::Stop(name, answer)).await
    }

    /// Begins again, with new counters, also where the options stay the same; without options they
    /// do. Starts an interface that is not watched.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(
        &self,
        name: &str,
        options: Option<Options>,
    ) -> Result<Status, ControlError> {
        let name = name.to_owned();
        self.ask(|answer| Request::Restart(name, options, answer))
            .await
    }

    /// How an interface is doing.
    ///
    /// # Errors
    /// When there is no such interface and none is watched.
    pub async fn status(&self, name: &str) -> Result<Status, ControlError> {
        let name = name.to_owned();
        self.ask(|answer| Request::Status(name, answer)).await
    }

    /// How every interface of the host, and every watched one, is doing, by name.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn statuses(&self) -> Result<Vec<Status>, ControlError> {
        self.ask(Request::Statuses).await
    }

    /// Removes from the kernel what a dead ntpmon, or an interface that is gone, left attached or
    /// pinned. What this process or another living one uses stays.
    ///
    /// # Errors
    /// When the kernel refuses something; the rest is removed nevertheless.
    pub async fn cleanup(&self) -> Result<Vec<Removed>, ControlError> {
        self.ask(Request::Cleanup).await
    }

    /// Stops every capture, takes what is left in the rings, writes output files to their end, and
    /// ends the thread. What was to be watched will be again after a restart.
    ///
    /// # Errors
    /// When it had ended already.
    pub async fn end(&self) -> Result<Vec<Ended>, ControlError> {
        self.ask(Request::End).await
    }

    /// Waits until the thread has ended, for whatever reason.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    /// What the rings know of this host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| ControlError::Stopped)?;
        answered.await.unwrap_or(Err(ControlError::Stopped))
    }
}

/// What is to be watched and what is not, as it is remembered.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    /// Of this layout.
    version: u32,
    interfaces: BTreeMap<String, Wish>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Otherwise it was stopped.
    watch: bool,
    /// Only what was asked for: without, the defaults, which may be others after a restart.
    options: Option<Options>,
}

impl Wishes {
    const VERSION: u32 = 1;

    fn read(bytes: Option<&[u8]>) -> Result<Self> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let wishes: Self = serde_json::from_slice(bytes)?;
        if wishes.version != Self::VERSION {
            return Err(anyhow!(
                "it has layout {}, this ntpmon knows {}",
                wishes.version,
                Self::VERSION
            ));
        }
        Ok(wishes)
    }

    fn write(&self) -> Result<Vec<u8>> {
        let wishes = serde_json::json!({
            "version": Self::VERSION,
            "interfaces": self.interfaces,
        });
        Ok(serde_json::to_vec(&wishes)?)
    }

    fn is_stopped(&self, name: &str) -> bool {
        self.interfaces.get(name).is_some_and(|wish| !wish.watch)
    }

    fn options(&self, name: &str) -> Option<&Options> {
        self.interfaces.get(name)?.options.as_ref()
    }

    /// What is watched at start, of these and those that are named.
    fn watched<'a>(&'a self, named: &'a BTreeSet<String>) -> BTreeSet<&'a str> {
        let wished = self.interfaces.iter().filter(|(_, wish)| wish.watch);
        let named = named.iter().filter(|name| !self.is_stopped(name));
        wished
            .map(|(name, _)| name)
            .chain(named)
            .map(String::as_str)
            .collect()
    }
}

/// The interface of the default route, which is watched when nothing says what is.
#[derive(Debug, PartialEq, Eq)]
enum Fallback {
    /// Something says what is.
    NotWanted,
    /// There is no default route yet.
    Awaited,
    /// It is watched.
    Taken(String),
}

/// The thread that owns the captures.
struct Worker<F, R> {
    monitor: Monitor,
    rings: Rings<F>,
    defaults: Options,
    named: BTreeSet<String>,
    wishes: Wishes,
    fallback: Fallback,
    remember: R,
    /// The wishes changed, and could not be handed over yet.
    unsaved: bool,
    output_directory: Option<PathBuf>,
    /// The same, once it could be opened.
    directory: Option<Directory>,
    /// Indices that the kernel told were deleted and that could not be followed yet.
    deleted: Vec<u32>,
    behind: bool,
}

/// What is made for each ring.
struct Rings<F> {
    each: usize,
    host: Host,
    sink: F,
    outputs: BTreeMap<String, Destination>,
}

/// Where lines go.
enum Destination {
    File(OutputFile),
    /// Nowhere, since a restart of the daemon, which goes on without.
    Refused {
        asked: PathBuf,
        why: String,
    },
}

impl Destination {
    fn output(&self) -> Output {
        match self {
            Self::File(file) => file.output(),
            Self::Refused { asked, why } => Output {
                path: asked.clone(),
                written: 0,
                lost: 0,
                writing: false,
                error: Some(why.clone()),
            },
        }
    }
}

impl<S: Sink, F: FnMut(&str) -> S> Rings<F> {
    fn consumer(
        &mut self,
        interface: &Interface,
        options: &Options,
    ) -> impl FnMut(Drained<'_>) + Send + 'static + use<S, F> {
        let name = interface.name.as_str();
        let file = match self.outputs.get(name) {
            Some(Destination::File(file)) => Some(file.sink(name)),
            Some(Destination::Refused { .. }) | None => None,
        };
        let sink = ((self.sink)(name), file);
        let pairing: pair::Settings = options.pairing().shared_by(INTERFACES * self.each);
        Consumer::new(pairing, &self.host, sink).into_closure()
    }
}

impl<F> Rings<F> {
    /// Puts a file in the place of an interface's. Called while nothing passes it anything.
    fn put(&mut self, name: &str, output: Option<Destination>) {
        let before = match output {
            Some(output) => self.outputs.insert(name.to_owned(), output),
            None => self.outputs.remove(name),
        };
        if let Some(Destination::File(before)) = before {
            before.close();
        }
    }
}

impl<S, F, R> Worker<F, R>
where
    S: Sink,
    F: FnMut(&str) -> S,
    R: FnMut(Vec<u8>) -> Result<()>,
{
    fn new(setup: Setup, host: Host, sink: F, remember: R) -> Self {
        let Setup {
            common,
            defaults,
            interfaces,
            output_directory,
            remembered,
        } = setup;
        let wishes = Wishes::read(remembered.as_deref()).unwrap_or_else(|error| {
            tracing::error!("what was remembered of watched interfaces cannot be read: {error}");
            Wishes::default()
        });
        Self {
            monitor: Monitor::new(common, host.clone()),
            rings: Rings {
                each: common.rings,
                host,
                sink,
                outputs: BTreeMap::new(),
            },
            defaults,
            named: interfaces.into_iter().collect(),
            wishes,
            fallback: Fallback::NotWanted,
            remember,
            unsaved: false,
            output_directory,
            directory: None,
            deleted: Vec::new(),
            behind: false,
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, changes: Changes) {
        // SAFETY: the socket inside is the same, and open, until `changes` is dropped.
        let changes = match unsafe { AsyncFd::register(changes) } {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::error!("interfaces are looked at only now and then: {error}");
                self.behind = true;
                None
            }
        };
        self.begin();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answer = loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::End(answer)) => break Some(answer),
                    Some(request) => self.serve(request),
                    // Nobody can ask for anything any more.
                    None => break None,
                },
                deleted = told(changes.as_ref()) => match deleted {
                    Ok(deleted) => self.follow(deleted),
                    Err(error) => {
                        tracing::error!("waiting for changes of interfaces: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        self.follow(Vec::new());
                    }
                },
                _ = retry.tick() => self.try_again(changes.is_none()),
            }
        };
        // Whoever asks from here on is told that it is over.
        drop(requests);
        let Self {
            monitor, mut rings, ..
        } = self;
        let ended = monitor.stop_all();
        let names: Vec<String> = rings.outputs.keys().cloned().collect();
        for name in names {
            rings.put(&name, None);
        }
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            let _ = answer.send(Ok(ended));
        }
    }

    /// Captures what is to be watched.
    fn begin(&mut self) {
        // What it stands for is settled now, not when the first file is asked for.
        if self.output_directory.is_some()
            && let Err(error) = self.directory()
        {
            tracing::error!("there are no output files: {error:#}");
        }
        let names: Vec<String> = self
            .wishes
            .watched(&self.named)
            .into_iter()
            .map(str::to_owned)
            .collect();
        for name in &names {
            self.take_up(name);
        }
        if self.named.is_empty() && self.wishes.interfaces.is_empty() {
            self.fallback = Fallback::Awaited;
            self.look_for_default_route();
            if self.fallback == Fallback::Awaited {
                tracing::warn!(
                    "nothing is watched: no interface is named, and there is no default route to \
                     take it from; it is watched as soon as there is one"
                );
            }
        } else if names.is_empty() {
            tracing::warn!(
                "nothing is watched: every interface that was, was stopped; start one to watch it"
            );
        }
    }

    /// At start, when there is nobody to refuse anything to.
    fn take_up(&mut self, name: &str) {
        let options = self.wishes.options(name).unwrap_or(&self.defaults).clone();
        let output = options.output_file.clone().map(|asked| {
            let reopened = self
                .directory()
                .and_then(|directory| OutputFile::reopen(directory, &asked));
            match reopened {
                Ok(file) => Destination::File(file),
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::error!("{name}: the output file is refused: {why}");
                    Destination::Refused { asked, why }
                }
            }
        });
        self.rings.put(name, output);
        let rings = &mut self.rings;
        let started = self.monitor.start(name, options, |interface, options| {
            rings.consumer(interface, options)
        });
        match started {
            Some(Change::Started(_)) => self.tell_started(name),
            Some(change) => tell(&change),
            None => {
                tracing::warn!("there is no interface {name}: it is watched as soon as it appears")
            }
        }
    }

    fn look_for_default_route(&mut self) {
        if self.fallback != Fallback::Awaited {
            return;
        }
        match netlink::default_route_interface() {
            Ok(Some(name)) => {
                self.fallback = Fallback::Taken(name.clone());
                self.take_up(&name);
            }
            Ok(None) => {}
            Err(error) => tracing::error!("looking for the default route: {error:#}"),
        }
    }

    fn serve(&mut self, request: Request) {
        // An answer for which nobody waits any more was nevertheless acted upon.
        match request {
            Request::Start(name, options, answer) => {
                let _ = answer.send(self.start(&name, options));
            }
            Request::Stop(name, answer) => {
                let _ = answer.send(self.stop(&name));
            }
            Request::Restart(name, options, answer) => {
                let _ = answer.send(self.restart(&name, options));
            }
            Request::Status(name, answer) => {
                let _ = answer.send(self.status(&name));
            }
            Request::Statuses(answer) => {
                let _ = answer.send(self.statuses());
            }
            Request::Cleanup(answer) => {
                let _ = answer.send(cleanup());
            }
            Request::End(_) => unreachable!("it ends the loop that calls this"),
        }
    }

    fn start(&mut self, name: &str, options: Option<Options>) -> Result<Status, ControlError> {
        self.must_be_known(name)?;
        let asked = options.map(checked).transpose()?;
        let running = self.monitor.get(name);
        let refused = matches!(
            self.rings.outputs.get(name),
            Some(Destination::Refused { .. })
        );
        let options = match (&asked, running) {
            (Some(asked), _) => asked.clone(),
            (None, Some(running)) => running.options().clone(),
            (None, None) => self.wishes.options(name).unwrap_or(&self.defaults).clone(),
        };
        // With the same options, only a file that could not be had may be worth another try.
        if refused || running.is_none_or(|running| *running.options() != options) {
            let output = self.open_output(&options)?;
            // The old file is closed when nothing passes it anything any more.
            self.monitor.stop_for_others(name);
            self.rings.put(name, output);
        }
        self.watch(name, asked, options)
    }

    fn restart(&mut self, name: &str, options: Option<Options>) -> Result<Status, ControlError> {
        self.must_be_known(name)?;
        let asked = options.map(checked).transpose()?;
        let running = self.monitor.get(name).map(super::Watched::options);
        let before = running.or_else(|| self.wishes.options(name));
        let options = asked.as_ref().or(before).unwrap_or(&self.defaults).clone();
        let output = self.open_output(&options)?;
        self.monitor.stop_for_others(name);
        self.rings.put(name, output);
        self.watch(name, asked, options)
    }

    /// Captures an interface and remembers that it is to be; `asked` are options that were given.
    fn watch(
        &mut self,
        name: &str,
        asked: Option<Options>,
        options: Options,
    ) -> Result<Status, ControlError> {
        let kept = self.wishes.options(name).cloned();
        self.wish(name, true, asked.or(kept));
        let rings = &mut self.rings;
        let started = self.monitor.start(name, options, |interface, options| {
            rings.consumer(interface, options)
        });
        match started {
            Some(Change::Started(_)) => self.tell_started(name),
            Some(change) => tell(&change),
            None => {}
        }
        let status = self.status(name)?;
        match status.state {
            State::Failed(why) if status.exists => Err(ControlError::Failed(anyhow!(
                "{why}; it is tried again every {} s until it is stopped",
                RETRY.as_secs()
            ))),
            _ => Ok(status),
        }
    }

    fn stop(&mut self, name: &str) -> Result<Status, ControlError> {
        let known = self.must_be_known(name);
        if self.monitor.stop(name).is_some() {
            tracing::info!("{name} is no longer watched");
            self.rings.put(name, None);
            let options = self.wishes.options(name).cloned();
            self.wish(name, false, options);
        }
        let exists = known?;
        Ok(Status {
            exists,
            ..not_monitoring(name)
        })
    }

    /// Remembers what is wished of an interface.
    fn wish(&mut self, name: &str, watch: bool, options: Option<Options>) {
        // From now on something says what is watched, and that shall hold after a restart.
        if let Fallback::Taken(taken) = std::mem::replace(&mut self.fallback, Fallback::NotWanted) {
            self.wishes.interfaces.entry(taken).or_insert(Wish {
                watch: true,
                options: None,
            });
            self.unsaved = true;
        }
        let wish = Wish { watch, options };
        if self.wishes.interfaces.get(name) != Some(&wish) {
            self.wishes.interfaces.insert(name.to_owned(), wish);
            self.unsaved = true;
        }
        self.save();
    }

    fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let saved = self.wishes.write().and_then(|bytes| (self.remember)(bytes));
        match saved {
            Ok(()) => self.unsaved = false,
            Err(error) => tracing::error!(
                "which interfaces are watched is not remembered yet, and is tried again: {error:#}"
            ),
        }
    }

    fn open_output(&mut self, options: &Options) -> Result<Option<Destination>, ControlError> {
        let Some(asked) = &options.output_file else {
            return Ok(None);
        };
        let opened = self
            .directory()
            .and_then(|directory| OutputFile::open(directory, asked));
        match opened {
            Ok(file) => Ok(Some(Destination::File(file))),
            Err(error) => Err(ControlError::OutputFile(format!("{error:#}"))),
        }
    }

    /// Where output files are opened.
    fn directory(&mut self) -> Result<&Directory> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => {
                let path = self
                    .output_directory
                    .as_deref()
                    .context("no output directory is configured: set capture.output_dir")?;
                Directory::open(path)?
            }
        };
        Ok(self.directory.insert(directory))
    }

    /// Whether an interface exists, if it is known at all.
    fn must_be_known(&self, name: &str) -> Result<bool, ControlError> {
        let interfaces = netlink::interfaces().map_err(ControlError::Failed)?;
        let exists = interfaces.iter().any(|interface| interface.name == name);
        if exists || self.monitor.get(name).is_some() {
            Ok(exists)
        } else {
            Err(ControlError::UnknownInterface(name.to_owned()))
        }
    }

    fn status(&self, name: &str) -> Result<Status, ControlError> {
        let exists = self.must_be_known(name)?;
        Ok(self.status_of(name, exists))
    }

    fn statuses(&self) -> Result<Vec<Status>, ControlError> {
        let interfaces = netlink::interfaces().map_err(ControlError::Failed)?;
        let existing: BTreeSet<&str> = interfaces
            .iter()
            .map(|interface| interface.name.as_str())
            .collect();
        let watched = self.monitor.watched().map(|(name, _)| name);
        let names: BTreeSet<&str> = existing.iter().copied().chain(watched).collect();
        Ok(names
            .into_iter()
            .map(|name| self.status_of(name, existing.contains(name)))
            .collect())
    }

    fn status_of(&self, name: &str, exists: bool) -> Status {
        let Some(watched) = self.monitor.get(name) else {
            return Status {
                exists,
                ..not_monitoring(name)
            };
        };
        let mut notes = watched.notes().to_vec();
        let counters = watched.counters().unwrap_or_else(|error| {
            notes.push(format!("its counters are unknown: {error:#}"));
            Counters::default()
        });
        let state = match watched.condition() {
            // The kernel has told, or will in a moment.
            _ if !exists => State::Failed(format!(
                "there is no interface {name} at the moment: it is watched again when it is back"
            )),
            Condition::Captured => State::Running,
            Condition::Gone => State::Failed(format!("{name} is back and will be captured soon")),
            Condition::Died => State::Failed(format!(
                "a thread that empties its rings died: it is captured anew within {} s",
                RETRY.as_secs()
            )),
            Condition::Failed(why) => State::Failed(why),
        };
        Status {
            interface: name.to_owned(),
            rings: if state == State::Running {
                self.rings.each
            } else {
                0
            },
            state,
            exists,
            since: watched.since(),
            mode: watched.mode().map(|mode| mode.to_string()),
            options: Some(watched.options().clone()),
            counters,
            output: self.rings.outputs.get(name).map(Destination::output),
            notes,
        }
    }

    /// The kernel told of changes.
    fn follow(&mut self, deleted: Vec<u32>) {
        self.deleted.extend(deleted);
        let rings = &mut self.rings;
        let followed = self.monitor.follow(&self.deleted, |interface, options| {
            rings.consumer(interface, options)
        });
        self.behind = followed.is_err();
        match followed {
            Ok(changes) => {
                self.deleted.clear();
                changes.iter().for_each(tell);
            }
            // What is captured goes on; the next change, or the next try, asks again.
            Err(error) => tracing::error!("following the interfaces: {error:#}"),
        }
        self.look_for_default_route();
    }

    fn try_again(&mut self, always: bool) {
        self.save();
        if always || self.behind || self.monitor.must_retry() {
            self.follow(Vec::new());
        } else {
            self.look_for_default_route();
        }
    }

    fn tell_started(&self, name: &str) {
        let mode = self.monitor.get(name).and_then(super::Watched::mode);
        match mode {
            Some(mode) => tracing::info!("watching {name}: {mode}"),
            None => tracing::info!("watching {name}"),
        }
        let Ok(all) = netlink::interfaces() else {
            return;
        };
        let is_watched = |interface: &&Interface| self.monitor.get(&interface.name).is_some();
        let watched: Vec<Interface> = all.iter().filter(is_watched).cloned().collect();
        for (one, other) in overlaps(&all, &watched) {
            if one == name || other == name {
                tracing::warn!(
                    "{one} and {other} lie on one way: a packet that passes both is counted on \
                     both"
                );
            }
        }
    }
}

fn checked(options: Options) -> Result<Options, ControlError> {
    options
        .checked()
        .map_err(|error| ControlError::Options(error.to_string()))
}

fn not_monitoring(name: &str) -> Status {
    Status {
        interface: name.to_owned(),
        state: State::NotMonitoring,
        exists: true,
        since: None,
        mode: None,
        options: None,
        counters: Counters::default(),
        rings: 0,
        output: None,
        notes: Vec::new(),
    }
}

/// What the kernel tells next: indices of interfaces that were deleted.
async fn told(changes: Option<&AsyncFd<Changes>>) -> std::io::Result<Vec<u32>> {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    let mut ready = changes.readable().await?;
    let deleted = ready.get_inner().drain();
    ready.clear_ready();
    Ok(deleted)
}

fn tell(change: &Change) {
    match change {
        Change::Started(name) => tracing::info!("{name} is back: watching it again"),
        Change::Gone(name) => tracing::warn!("{name} is gone: waiting for it to come back"),
        Change::Died(name) => tracing::warn!("{name} is captured anew"),
        Change::Failed(name, why) => tracing::error!("{name} cannot be watched: {why}"),
    }
}

fn cleanup() -> Result<Vec<Removed>, ControlError> {
    let interfaces = netlink::interfaces().map_err(ControlError::Failed)?;
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    match capture::cleanup_gone(&interfaces) {
        Ok(gone) => removed.extend(gone.into_iter().map(|what| Removed {
            interface: None,
            what,
        })),
        Err(error) => failures.push(format!("{error:#}")),
    }
    for interface in &interfaces {
        match capture::cleanup(interface) {
            Ok(gone) => removed.extend(gone.into_iter().map(|what| Removed {
                interface: Some(interface.name.clone()),
                what,
            })),
            Err(error) => {
                let there = netlink::interfaces().map_err(ControlError::Failed)?;
                // One that went away meanwhile took everything with it.
                if there.iter().any(|now| now.index == interface.index) {
                    failures.push(format!("{}: {error:#}", interface.name));
                }
            }
        }
    }
    for Removed { interface, what } in &removed {
        match interface {
            Some(name) => tracing::info!("{name}: removed {what}"),
            None => tracing::info!("removed {what}, of an interface that is gone"),
        }
    }
    if failures.is_empty() {
        return Ok(removed);
    }
    let mut message = format!("cleaning up {}", failures.join("; "));
    if !removed.is_empty() {
        let done: Vec<&str> = removed
            .iter()
            .map(|removed| removed.what.as_str())
            .collect();
        message += &format!("; removed nevertheless: {}", done.join(", "));
    }
    Err(ControlError::Failed(anyhow!(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wishes(wished: &[(&str, bool)]) -> Wishes {
        let interfaces = wished.iter().map(|(name, watch)| {
            let wish = Wish {
                watch: *watch,
                options: None,
            };
            ((*name).to_owned(), wish)
        });
        Wishes {
            version: Wishes::VERSION,
            interfaces: interfaces.collect(),
        }
    }

    #[test]
    fn named_interfaces_are_watched_unless_they_were_stopped() {
        let wishes = wishes(&[("eth0", false), ("eth1", true), ("eth2", false)]);
        let named = named(&["eth0", "eth3"]);
        let watched: Vec<&str> = wishes.watched(&named).into_iter().collect();
        assert_eq!(watched, ["eth1", "eth3"]);
    }

    #[test]
    fn wishes_come_back_as_they_were() {
        let mut wishes = wishes(&[("eth0", false), ("eth1", true)]);
        wishes.interfaces.insert(
            "eth2".to_owned(),
            Wish {
                watch: true,
                options: Some(Options::default()),
            },
        );
        let bytes = wishes.write().unwrap();
        assert_eq!(Wishes::read(Some(&bytes)).unwrap(), wishes);
    }

    #[test]
    fn what_is_no_wish_or_of_a_later_layout_is_refused() {
        assert_eq!(Wishes::read(None).unwrap(), Wishes::default());
        for wrong in ["", "{}", "[]", "{\"version\":2,\"interfaces\":{}}"] {
            assert!(Wishes::read(Some(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
