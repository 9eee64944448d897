//! The thread that owns the captures: does what handles ask for, follows what the kernel tells,
//! and tries again what failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use ntpmon_common::Counters;
use tokio::{io::unix::AsyncFd, sync::mpsc, time::MissedTickBehavior};

use super::{
    Answer, ControlError, Removed, Request, Setup, State, Status,
    wishes::{Wish, Wishes},
};
use crate::{
    capture::{self, Drained},
    monitor::{
        Change, Condition, Ended, Monitor, Options, Watched,
        output_file::{Directory, Output, OutputFile},
        overlaps,
    },
    netlink::{self, Changes, Interface},
    pipeline::{Consumer, Host, Sink},
};

/// How often an interface that could not be captured is tried again, and a thread that died is
/// noticed.
const RETRY: Duration = Duration::from_secs(5);
/// How long what was not written into a file yet gets when everything ends.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long a file that is put aside is waited for, so that it is whole when whoever asked hears of
/// it. A disk that takes longer keeps nobody waiting: the rest is written all the same.
const LAST_LINES_OF_ONE: Duration = Duration::from_millis(100);
/// Pairers that share the bounds of what may wait: the rings of so many interfaces. The set changes
/// while the daemon runs, and a pairer keeps the bounds that it was made with, so a number is set
/// in advance: most hosts watch one to four. On more, a flood of forged packets on all of them at
/// once can take more memory, in the same proportion; on fewer, a quarter of a full table is still
/// 57,344 requests that wait in each generation, with the default timeout all that come at 28,000
/// unanswered requests a second.
const INTERFACES: usize = 4;

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
pub(super) struct Worker<F, R> {
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
    /// Nowhere: what was asked for once can be had no more, and the packets count for more.
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
        let pairing = options.pairing().shared_by(INTERFACES * self.each);
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
            before.close(Instant::now() + LAST_LINES_OF_ONE);
        }
    }

    /// Closes every file, called as [`Self::put`] is.
    fn close(self) {
        // They write side by side: it takes no longer than for one.
        let end = Instant::now() + LAST_LINES;
        for destination in self.outputs.into_values() {
            if let Destination::File(file) = destination {
                file.close(end);
            }
        }
    }
}

impl<S, F, R> Worker<F, R>
where
    S: Sink,
    F: FnMut(&str) -> S,
    R: FnMut(Vec<u8>) -> Result<()>,
{
    pub(super) fn new(setup: Setup, host: Host, sink: F, remember: R) -> Self {
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

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, changes: Changes) {
        // SAFETY: the socket inside is the same, and open, until `changes` is dropped.
        let mut changes = match unsafe { AsyncFd::register(changes) } {
            Ok(changes) => Some(changes),
            Err(error) => {
                tell_deaf(&error);
                None
            }
        };
        self.begin();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answer = loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => if let ControlFlow::Break(answer) = self.serve(request) {
                        break Some(answer);
                    },
                    // Nobody can ask for anything any more.
                    None => break None,
                },
                deleted = told(changes.as_ref()) => match deleted {
                    Ok(deleted) => self.follow(deleted),
                    Err(error) => {
                        tell_deaf(&error);
                        changes = None;
                        self.follow(Vec::new());
                    }
                },
                _ = retry.tick() => self.try_again(changes.is_none()),
            }
        };
        // Whoever asks from here on is told that it is over.
        drop(requests);
        self.save();
        let Self { monitor, rings, .. } = self;
        let ended = monitor.stop_all();
        rings.close();
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
        if self.named.is_empty() && self.wishes.leave_it_open() {
            self.await_default_route();
        } else if names.is_empty() {
            tracing::warn!(
                "nothing is watched: every interface that was, was stopped; start one to watch it"
            );
        }
    }

    /// Nothing says what is to be watched.
    fn await_default_route(&mut self) {
        self.fallback = Fallback::Awaited;
        self.look_for_default_route();
        if self.fallback == Fallback::Awaited {
            tracing::warn!(
                "nothing is watched: no interface is named, and there is no default route to \
                 take it from; it is watched as soon as there is one"
            );
        }
    }

    /// Another configuration is in force.
    fn configure(&mut self, named: Vec<String>, defaults: Options) -> Result<(), ControlError> {
        self.defaults = checked(defaults)?;
        self.named = named.into_iter().collect();
        let is_silent = self.named.is_empty() && self.wishes.leave_it_open();
        let mut wanted: BTreeSet<String> = self
            .wishes
            .watched(&self.named)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if let (true, Fallback::Taken(name)) = (is_silent, &self.fallback) {
            wanted.insert(name.clone());
        }
        let watched: Vec<String> = self
            .monitor
            .watched()
            .map(|(name, _)| name.to_owned())
            .collect();
        for name in watched.iter().filter(|name| !wanted.contains(*name)) {
            self.monitor.stop(name);
            self.rings.put(name, None);
            tracing::info!("{name} is no longer watched");
        }
        for name in &wanted {
            let options = self.wishes.options(name).unwrap_or(&self.defaults);
            if self
                .monitor
                .get(name)
                .is_none_or(|it| it.options() != options)
            {
                self.monitor.stop_for_others(name);
                self.take_up(name);
            }
        }
        if !is_silent {
            self.fallback = Fallback::NotWanted;
        } else if wanted.is_empty() {
            self.await_default_route();
        }
        Ok(())
    }

    /// Watches an interface when there is nobody to refuse anything to.
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
            Ok(Some(name)) => self.take_default_route(&name),
            Ok(None) => {}
            Err(error) => tracing::error!("looking for the default route: {error:#}"),
        }
    }

    fn take_default_route(&mut self, name: &str) {
        // The route may move to one that was not stopped.
        if !self.wishes.is_stopped(name) {
            self.fallback = Fallback::Taken(name.to_owned());
            self.take_up(name);
        }
    }

    /// Does what is asked for; asked to end, it gives back who waits for that.
    fn serve(&mut self, request: Request) -> ControlFlow<Answer<Vec<Ended>>> {
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
            Request::Defaults(answer) => {
                let _ = answer.send(Ok(self.defaults.clone()));
            }
            Request::Configure(named, defaults, answer) => {
                let _ = answer.send(self.configure(named, defaults));
            }
            Request::End(answer) => return ControlFlow::Break(answer),
        }
        ControlFlow::Continue(())
    }

    fn start(&mut self, name: &str, options: Option<Options>) -> Result<Status, ControlError> {
        self.must_be_known(name)?;
        let asked = options.map(checked).transpose()?;
        let running = self.monitor.get(name);
        let output = self.rings.outputs.get(name);
        let refused = matches!(output, Some(Destination::Refused { .. }));
        let options = match (&asked, running) {
            (Some(asked), _) => asked.clone(),
            (None, Some(running)) => running.options().clone(),
            (None, None) => self.wishes.options(name).unwrap_or(&self.defaults).clone(),
        };
        // With the same options, only a file that could not be had is worth another try.
        if refused && asked.is_some() || running.is_none_or(|running| *running.options() != options)
        {
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
        let running = self.monitor.get(name).map(Watched::options);
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
        } else if known.is_ok() && self.fallback != Fallback::NotWanted {
            // The default route may lead there yet, now or after a restart.
            self.wish(name, false, None);
        }
        let exists = known?;
        Ok(Status {
            exists,
            ..not_monitoring(name)
        })
    }

    /// Remembers what is wished of an interface.
    fn wish(&mut self, name: &str, watch: bool, options: Option<Options>) {
        let is_of_another = match &self.fallback {
            Fallback::NotWanted => false,
            Fallback::Awaited => true,
            Fallback::Taken(taken) => taken != name,
        };
        // That another is stopped says nothing of what is to be watched.
        let leaves_it_open = !watch && is_of_another;
        if !leaves_it_open {
            // From now on something does, and that shall hold after a restart.
            let before = std::mem::replace(&mut self.fallback, Fallback::NotWanted);
            if let Fallback::Taken(taken) = before {
                self.unsaved |= self.wishes.watch_unless_known(taken);
            }
        }
        self.unsaved |= self.wishes.set_open(leaves_it_open);
        self.unsaved |= self.wishes.set(name, Wish { watch, options });
        if !watch && let Ok(interfaces) = netlink::interfaces() {
            let exists = |name: &str| interfaces.iter().any(|it| it.name == name);
            self.wishes
                .forget_stopped(|name| self.named.contains(name) || exists(name));
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
        let mode = self.monitor.get(name).and_then(Watched::mode);
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
async fn told(changes: Option<&AsyncFd<Changes>>) -> io::Result<Vec<u32>> {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    let mut ready = changes.readable().await?;
    let deleted = ready.get_inner().drain();
    ready.clear_ready();
    Ok(deleted)
}

/// The kernel's word of changes cannot be waited for.
fn tell_deaf(error: &impl std::fmt::Display) {
    tracing::error!(
        "waiting for changes of interfaces: {error}; they are looked at every {} s from now on",
        RETRY.as_secs()
    );
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
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ntp::{exchange::Exchange, pair::Totals};

    struct Nobody;

    impl Sink for Nobody {
        fn exchange(&mut self, _: &Exchange) {}
        fn publish(&mut self, _: &Totals, _: i64) {}
    }

    #[test]
    fn what_is_stopped_before_there_is_a_default_route_is_not_watched_when_there_is_one() {
        let remembered = Arc::new(Mutex::new(None));
        let worker = |remembered_before: Option<Vec<u8>>| {
            let setup = Setup {
                remembered: remembered_before,
                ..Setup::default()
            };
            let remembered = Arc::clone(&remembered);
            let remember = move |bytes| {
                *remembered.lock().unwrap() = Some(bytes);
                Ok(())
            };
            Worker::new(setup, Host::default(), |_: &str| Nobody, remember)
        };
        let mut before = worker(None);
        before.fallback = Fallback::Awaited;
        assert_eq!(before.stop("lo").unwrap().state, State::NotMonitoring);
        let bytes = remembered.lock().unwrap().clone();
        let mut after = worker(Some(bytes.unwrap()));
        after.fallback = Fallback::Awaited;
        for worker in [&mut before, &mut after] {
            // Another may be watched yet, this one not.
            assert!(worker.wishes.leave_it_open());
            worker.take_default_route("lo");
            assert_eq!(worker.fallback, Fallback::Awaited);
            assert!(worker.monitor.get("lo").is_none());
        }

        // The same where another is watched: a restart may find that the route has moved.
        let mut taken = worker(None);
        taken.fallback = Fallback::Taken("ntpmon-absent".to_owned());
        taken.stop("lo").unwrap();
        assert!(taken.wishes.is_stopped("lo") && taken.wishes.leave_it_open());
        // Once that one itself is stopped, nothing is to be watched any more.
        taken.wish("ntpmon-absent", false, None);
        assert_eq!(taken.fallback, Fallback::NotWanted);
        assert!(!taken.wishes.leave_it_open());
    }
}
