//! Who is told when something is wrong, once, and again when it is over. Rules look at values that
//! other parts report ([`quantity`]); what becomes of each alert is decided by a pure state machine
//! ([`state`]), and is written down together with the messages that it makes, before any of them
//! leaves for a [`sink`] through the [outbox](crate::outbox).
//!
//! A thread of its own looks at the rules every second, and at once when something was found.

mod engine;
pub mod instance;
pub mod matcher;
pub mod notice;
pub mod quantity;
mod remember;
pub mod rule;
mod sight;
pub mod silence;
pub mod sink;
pub mod state;
#[cfg(test)]
mod tests;
pub mod window;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use self::{
    engine::Engine,
    instance::{Acknowledgement, Record, View},
    matcher::Labels,
    quantity::Sources,
    rule::{Rule, Severity},
    silence::Silence,
    state::State,
};
use crate::{
    history::History,
    outbox::{Outbox, Standing},
};

/// How often rules are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that comes later than this counts as if it had come then: nobody knows what was between.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// A look that takes longer than this does not end.
const HANGS: Duration = Duration::from_secs(15);
/// How long who makes a rule waits for the disk.
const ON_DISK: Duration = Duration::from_secs(2);
/// So many findings wait for the next look; more are counted.
const FINDINGS: usize = 1000;
/// What a finding says is told to this length, in bytes.
const MESSAGE: usize = 1000;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether the rules are in force that there are without any.
    pub default_rules: bool,
    /// So many alerts at once are known by name.
    pub max_alerts: usize,
    /// How long what became of alerts is kept.
    pub history_age: Duration,
    /// What to look at.
    pub rules: Vec<Rule>,
    /// Where to tell it.
    pub sinks: Vec<sink::Definition>,
    /// When not to.
    pub silences: Vec<Silence>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_rules: true,
            max_alerts: 10_000,
            history_age: Duration::from_secs(365 * 86_400),
            rules: Vec::new(),
            sinks: Vec::new(),
            silences: Vec::new(),
        }
    }
}

/// Something that was found, which rules on findings are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its number, by which it is known after a restart whether it was judged; 0 is none.
    pub number: u64,
    /// Its kind, as the label `kind`, and of what it is.
    pub labels: Vec<(&'static str, String)>,
    /// What was found, in words.
    pub message: String,
}

/// Where a rule or a silence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It is there without being asked for.
    Default,
    /// The configuration.
    Configuration,
    /// The API.
    Api,
}

/// Why a rule, a silence or an alert was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is one of this name.
    #[error("there is a {0} of the name {1} already: choose another name")]
    Exists(&'static str, String),
    /// There is none.
    #[error("there is no {0} {1}")]
    Unknown(&'static str, String),
    /// It is not the API's.
    #[error("the {0} {1} stands in the configuration: change it there, and reload")]
    Configured(&'static str, String),
    /// It is there without being asked for.
    #[error(
        "the rule {0} is there by default: put another one in its place with PUT, one that is not \
         enabled to be without it, or set alert.default_rules"
    )]
    Default(String),
    /// There are too many.
    #[error("there are {1} {0} already, the most that there may be")]
    TooMany(&'static str, usize),
    /// It is over, or was not bad for long enough.
    #[error("alert {0} is {1}: only one that fires, or is about to, can be acknowledged")]
    NotFiring(u64, &'static str),
}

/// A rule as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RuleView {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub definition: Rule,
    /// Where it comes from.
    pub origin: Origin,
    /// The worst of its alerts' states.
    pub state: State,
    /// How many values it looked at last.
    pub readings: usize,
    /// How many of its alerts fire.
    pub firing: usize,
}

/// A silence as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SilenceView {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub definition: Silence,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it is in force now.
    pub active: bool,
}

/// A sink as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SinkView {
    /// What it is called.
    pub name: String,
    /// Of what kind it is.
    pub kind: sink::Kind,
    /// Where it is, without what may be a secret.
    pub target: String,
    /// In which words it is told.
    pub language: notice::Language,
    /// How it is doing.
    #[serde(flatten)]
    pub standing: Standing,
}

/// How a rule judges a value now.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Verdict {
    /// Of what.
    pub labels: Labels,
    /// The value.
    pub value: Option<f64>,
    /// How bad it is; null where all is well or nothing is known.
    pub severity: Option<Severity>,
}

/// What of a rule's alerts is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFigures {
    /// The rule.
    pub rule: String,
    /// How many fire, by how bad they are.
    pub firing: [(Severity, usize); 2],
    /// How often one fired since the daemon started.
    pub fired: u64,
    /// How often one was over that had fired.
    pub resolved: u64,
}

/// How alerts are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Alerts that fire.
    pub firing: usize,
    /// Alerts that are about to.
    pub pending: usize,
    /// Alerts for which there was no room.
    pub alerts_refused: u64,
    /// Findings for which there was no room.
    pub findings_lost: u64,
    /// Rules whose sinks are all gone.
    pub rules_told_nowhere: Vec<String>,
    /// Sinks to which nothing can be delivered, and why.
    pub failing_sinks: Vec<String>,
    /// The thread that looks at the rules is there, and does not hang.
    pub is_alive: bool,
}

/// Alerts, shared by all who ask for them and report to them.
#[derive(Clone)]
pub struct Alerts(Arc<Shared>);

struct Shared {
    engine: Engine,
    findings: Mutex<VecDeque<Finding>>,
    findings_lost: AtomicU64,
    wake: SyncSender<()>,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// When the last look ended.
    looked: Mutex<Instant>,
}

impl fmt::Debug for Alerts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Alerts").finish_non_exhaustive()
    }
}

impl Alerts {
    /// With the alerts of an earlier life. Nothing is looked at before [`Self::start`]. Blocking.
    pub fn open(
        history: History,
        outbox: Outbox,
        sources: Sources,
        settings: Settings,
    ) -> (Self, Looker) {
        let (wake, woken) = sync_channel(1);
        let alerts = Self(Arc::new(Shared {
            engine: Engine::open(history, outbox, sources, settings),
            findings: Mutex::default(),
            findings_lost: AtomicU64::new(0),
            wake,
            stopping: AtomicBool::new(false),
            thread: Mutex::default(),
            looked: Mutex::new(Instant::now()),
        }));
        (alerts, Looker(woken))
    }

    /// Starts the thread that looks at the rules.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, Looker(woken): Looker) -> Result<()> {
        // It ends with the last handle, so it has none of its own that keeps it.
        let shared = Arc::downgrade(&self.0);
        let thread = thread::Builder::new()
            .name("alerts".to_owned())
            .spawn(move || {
                let begun = Instant::now();
                let mut last = begun;
                while wait(&woken, last + INTERVAL) {
                    let Some(shared) = shared.upgrade() else {
                        return;
                    };
                    if shared.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let now = Instant::now();
                    let elapsed = now.duration_since(last).min(LONGEST_LOOK);
                    last = now;
                    shared.look(elapsed, now.duration_since(begun));
                }
            })
            .context("starting the thread that looks at the rules of alerts")?;
        *self.0.looked.lock() = Instant::now();
        *self.0.thread.lock() = Some(thread);
        Ok(())
    }

    /// Something was found: rules on findings are looked at now.
    pub fn tell(&self, mut finding: Finding) {
        if finding.message.len() > MESSAGE {
            let end = (0..=MESSAGE).rev();
            let end = end
                .into_iter()
                .find(|end| finding.message.is_char_boundary(*end));
            finding.message.truncate(end.unwrap_or(0));
        }
        let mut findings = self.0.findings.lock();
        if findings.len() >= FINDINGS {
            self.0.findings_lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        findings.push_back(finding);
        drop(findings);
        self.look_soon();
    }

    /// The number of the last finding that was judged before the last start; nothing where none
    /// ever was. Blocking.
    #[must_use]
    pub fn last_finding(&self) -> Option<u64> {
        self.0.engine.last_finding()
    }

    /// Has the rules looked at now, rather than within a second.
    pub fn look_soon(&self) {
        // One that is woken already looks at all.
        let _ = self.0.wake.try_send(());
    }

    /// Puts other settings in force. Alerts of rules that stay go on.
    pub fn configure(&self, settings: Settings) {
        self.0.engine.configure(settings);
        self.look_soon();
    }

    /// Every alert.
    #[must_use]
    pub fn all(&self) -> Vec<View> {
        self.0.engine.all(Timestamp::now())
    }

    /// What became of alerts, the last first, of those before a number. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(
        &self,
        before: Option<u64>,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Record>> {
        self.0.engine.records(before, limit, wanted)
    }

    /// Somebody has an alert: it is not told again and again any more. Blocking.
    ///
    /// # Errors
    /// When there is none, or it is over.
    pub fn acknowledge(&self, id: u64, by: Acknowledgement) -> Result<View, Refusal> {
        let alert = self.0.engine.acknowledge(id, by)?;
        self.settle();
        Ok(alert)
    }

    /// Every rule.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleView> {
        self.0.engine.rules()
    }

    /// Makes a rule, or puts it in the place of another one of the API's. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn set_rule(&self, rule: Rule, replace: bool) -> Result<(), Refusal> {
        self.0.engine.set_rule(rule, replace)?;
        self.settle();
        Ok(())
    }

    /// Removes a rule of the API's. Its alerts are over. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn remove_rule(&self, name: &str) -> Result<(), Refusal> {
        self.0.engine.remove_rule(name)?;
        self.settle();
        Ok(())
    }

    /// How a rule judges the values now. Nothing comes of it. Blocking.
    #[must_use]
    pub fn judge(&self, rule: &Rule) -> Vec<Verdict> {
        self.0.engine.judge(rule)
    }

    /// Waits until what somebody wants is on disk, so that who has the answer can rely on it.
    fn settle(&self) {
        self.look_soon();
        if !self.outbox().settle(ON_DISK) {
            tracing::warn!(
                "what was asked of alerts is not on disk yet: it is as soon as it can be"
            );
        }
    }

    /// Every silence.
    #[must_use]
    pub fn silences(&self) -> Vec<SilenceView> {
        self.0.engine.silences(Timestamp::now())
    }

    /// Makes a silence, or puts it in the place of another one of the API's. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn set_silence(&self, silence: Silence, replace: bool) -> Result<(), Refusal> {
        self.0.engine.set_silence(silence, replace)?;
        self.settle();
        Ok(())
    }

    /// Removes a silence of the API's. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn remove_silence(&self, name: &str) -> Result<(), Refusal> {
        self.0.engine.remove_silence(name)?;
        self.settle();
        Ok(())
    }

    /// Every sink.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkView> {
        self.0.engine.sinks()
    }

    /// Sends a test message to some sinks, or to all, past the outbox. Each says why it did not
    /// arrive. Blocking, for as long as their timeouts let them.
    ///
    /// # Errors
    /// When there is no such sink.
    pub fn test(&self, rule: Option<&Rule>, sink: Option<&str>) -> Result<Vec<Tested>, Refusal> {
        self.0.engine.test(rule, sink)
    }

    /// What is promised to be delivered.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        self.0.engine.outbox()
    }

    /// How alerts are doing.
    #[must_use]
    pub fn health(&self) -> Health {
        let thread = self.0.thread.lock();
        Health {
            findings_lost: self.0.findings_lost.load(Ordering::Relaxed),
            is_alive: thread.as_ref().is_some_and(|thread| !thread.is_finished())
                && self.0.looked.lock().elapsed() < HANGS,
            ..self.0.engine.health()
        }
    }

    /// The numbers of the first of the rules in force, and how many others there are.
    #[must_use]
    pub fn figures(&self, most: usize) -> (Vec<RuleFigures>, usize) {
        self.0.engine.figures(most)
    }

    /// Looks at no rule any more, and writes down where each alert is. Blocking, for as long as a
    /// look takes.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.look_soon();
        let thread = self.0.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks at the rules of alerts had died");
        }
        self.0.engine.write_all();
    }
}

/// What the thread waits by until it is started.
#[derive(Debug)]
pub struct Looker(Receiver<()>);

/// What came of a test message.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Tested {
    /// The sink.
    pub sink: String,
    /// Whether it arrived.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Shared {
    fn look(&self, elapsed: Duration, uptime: Duration) {
        let findings: Vec<Finding> = self.findings.lock().drain(..).collect();
        self.engine
            .look(Timestamp::now(), elapsed, uptime, &findings);
        *self.looked.lock() = Instant::now();
    }
}

/// Waits until the time, or until it is woken. Says whether anybody could still wake it.
fn wait(woken: &Receiver<()>, until: Instant) -> bool {
    let rest = until.saturating_duration_since(Instant::now());
    !matches!(
        woken.recv_timeout(rest),
        Err(RecvTimeoutError::Disconnected)
    )
}
