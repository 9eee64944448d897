//! The watched interfaces under control of whoever holds a handle: [`Control`] is cheap to clone
//! and its methods never block, for all that takes time (attaching takes tens of milliseconds) is
//! done by one thread that owns the [`Monitor`](super::Monitor) and follows what the kernel says of
//! interfaces.
//!
//! What is to be watched is remembered as a few bytes, which the owner keeps: the set survives a
//! restart. One interface that cannot be captured keeps neither the others nor the daemon from
//! running; it is tried again until it is stopped.

mod wishes;
mod worker;

use std::{path::PathBuf, thread};

use anyhow::{Context, Result};
use ntpmon_common::Counters;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use self::worker::Worker;
use super::{Common, Ended, Options, output_file::Output};
use crate::{
    netlink::Changes,
    pipeline::{Host, Sink},
    scheduling,
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

/// A handle on the watched interfaces. When the last one is gone all captures end, as with
/// [`Self::end`], but nobody waits for that.
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
    Defaults(Answer<Options>),
    Configure(Vec<String>, Options, Answer<()>),
    End(Answer<Vec<Ended>>),
}

/// Requests that wait, at most: whoever asks beyond that waits with asking.
const REQUESTS: usize = 64;
impl Control {
    /// Starts the thread, which at once begins to capture what is to be watched; the first request
    /// is answered when that is done. `sink` is called once for each ring with the interface's
    /// name. `remember` is given what has to be kept, each time that it changes.
    ///
    /// # Errors
    /// When the defaults cannot be, when the kernel does not tell of changes, or when the thread
    /// cannot be started. That an interface
    /// cannot be captured is no error here: its status says so.
    pub fn open<S: Sink>(
        mut setup: Setup,
        sink: impl FnMut(&str) -> S + Send + 'static,
        remember: impl FnMut(Vec<u8>) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        setup.defaults = setup.defaults.checked()?;
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
            .spawn(move || {
                // Those that empty the rings are made by this one.
                scheduling::as_others();
                runtime.block_on(worker.run(receiver, changes));
            })
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

    /// How an interface is watched of which nothing else was said: what fills the gaps of options
    /// that name only some.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn defaults(&self) -> Result<Options, ControlError> {
        self.ask(Request::Defaults).await
    }

    /// Puts another configuration in force: the interfaces that it names, and the defaults. What
    /// was started or stopped through a handle stays so; whatever is watched as it was before is
    /// left alone.
    ///
    /// # Errors
    /// When the defaults cannot be: nothing was changed then. That an interface cannot be captured
    /// is no error here: its status says so.
    pub async fn configure(
        &self,
        interfaces: Vec<String>,
        defaults: Options,
    ) -> Result<(), ControlError> {
        self.ask(|answer| Request::Configure(interfaces, defaults, answer))
            .await
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
