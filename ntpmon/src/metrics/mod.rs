//! The daemon's numbers for those who draw and alarm: families with a name, a kind and a help text,
//! and samples with labels ([`Gathered`]). What the parts keep in memory is read by small functions,
//! the [`collectors`], each time that somebody asks; nothing is kept here between two answers but
//! what no other part counts ([`requests`]).
//!
//! A family is declared where it is filled, and a collector is one entry in one list
//! ([`collectors::COLLECTORS`]). [`text`] writes the formats of Prometheus and OpenMetrics,
//! [`otlp`] sends the same to an OpenTelemetry collector.

pub mod collectors;
pub mod model;
pub mod otlp;
pub mod requests;
pub mod text;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, channel},
    task::spawn_blocking,
    time::timeout,
};

use self::{
    collectors::{COLLECTORS, Collector, own},
    requests::Requests,
    text::Format,
};
pub use self::{
    model::{Family, Gathered, Kind, Sample, Samples, Value},
    otlp::Export,
};
use crate::{
    alert::Alerts, check::Checks, history::History, monitor::control::Control, ptp::seen::Seen,
};

/// How long a collector may take: what one that hangs would have told is left out, and the rest is
/// answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a part of the daemon does what it should, by the part's name.
pub type Conditions = Box<dyn Fn(&Handle) -> Vec<(&'static str, bool)> + Send + Sync>;

/// What collectors read. A part that has numbers to tell gets a field here.
pub struct Sources {
    /// When the daemon started: what is counted since then says so.
    pub started: jiff::Timestamp,
    /// The watched interfaces.
    pub control: Control,
    /// What was remembered.
    pub history: History,
    /// What is seen of PTP; nothing where it is not watched.
    pub ptp: Option<Seen>,
    /// The servers that are asked, if any may be.
    pub checks: Option<Checks>,
    /// Who is told when something is wrong, if anybody may be.
    pub alerts: Option<Alerts>,
    /// How every part is; asked on a thread that may block.
    pub conditions: Conditions,
    /// What the API was asked.
    pub requests: Requests,
    /// Where the same numbers are sent to, if anywhere.
    pub export: Export,
}

impl Sources {
    /// Of a daemon that starts now and has nothing but these.
    #[must_use]
    pub fn new(control: Control, history: History) -> Self {
        Self {
            started: jiff::Timestamp::now(),
            control,
            history,
            ptp: None,
            checks: None,
            alerts: None,
            conditions: Box::new(|_| Vec::new()),
            requests: Requests::default(),
            export: Export::new(None),
        }
    }
}

/// All that can be told. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    sources: Sources,
    /// One for each collector, which is asked once at a time.
    turns: Vec<Mutex<()>>,
}

/// What a collector told, as it is wanted, and how long that took.
type Told<T> = (Result<T>, Duration);

/// What is made of a collector's samples, on the thread that they come from: they are many, and
/// memory that one thread takes and another gives back stays with the first for as long as it sleeps.
type Make<T> = Arc<dyn Fn(Samples) -> T + Send + Sync>;

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Of these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let turns = COLLECTORS.iter().map(|_| Mutex::default());
        Self(Arc::new(Shared {
            sources,
            turns: turns.collect(),
        }))
    }

    /// Where requests to the API are counted.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.0.sources.requests
    }

    /// All that is told, as others than people and Prometheus want it.
    pub async fn gather(&self) -> Gathered {
        let (mut told, own) = self.ask_all(Arc::new(|samples| samples)).await;
        told.push(own);
        Gathered(told)
    }

    /// All that is told, in a format.
    pub async fn text(&self, format: Format) -> String {
        let part = move |samples: Samples| format.part(&samples);
        let (parts, own) = self.ask_all(Arc::new(part)).await;
        parts.concat() + &format.part(&own) + format.end()
    }

    /// Asks every collector. One that fails or hangs is told as such, and keeps none of the others
    /// from being heard.
    async fn ask_all<T: Send + 'static>(&self, make: Make<T>) -> (Vec<T>, Samples) {
        let mut all = Vec::with_capacity(COLLECTORS.len() + 1);
        let mut own = Samples::of(own::FAMILIES);
        let mut left = COLLECTORS.iter().enumerate().peekable();
        while let Some((first, _)) = left.peek() {
            let mut telling = self.ask(*first, Arc::clone(&make));
            // One thread asks one after the other: they take microseconds, another thread more.
            for (_, collector) in left.by_ref() {
                let told = timeout(PATIENCE, telling.recv()).await;
                let is_there = matches!(told, Ok(Some(_)));
                let (collected, took) = match told {
                    Ok(Some(told)) => told,
                    Ok(None) => (Err(anyhow!("it met a bug")), Duration::ZERO),
                    Err(_) => (
                        Err(anyhow!("it said nothing for {} s", PATIENCE.as_secs())),
                        PATIENCE,
                    ),
                };
                own::tell(&mut own, collector.name, collected.is_ok(), took);
                match collected {
                    Ok(told) => all.push(told),
                    Err(error) => {
                        tracing::warn!("gathering the metrics of {}: {error:#}", collector.name);
                    }
                }
                if !is_there {
                    // The others are asked by another thread.
                    break;
                }
            }
        }
        (all, own)
    }

    /// Asks the collectors from one on, in their order.
    fn ask<T: Send + 'static>(&self, first: usize, make: Make<T>) -> Receiver<Told<T>> {
        let (tell, told) = channel(COLLECTORS.len());
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || {
            let collectors = COLLECTORS.iter().zip(&shared.turns);
            for (collector, turn) in collectors.skip(first) {
                let begun = Instant::now();
                // Who asks at the same time is waited for; what hangs takes one thread for good.
                let collected = match turn.try_lock_for(PATIENCE) {
                    Some(_turn) => collect(collector, &shared.sources).map(|it| make(it)),
                    None => Err(anyhow!("it is still being asked")),
                };
                if tell.blocking_send((collected, begun.elapsed())).is_err() {
                    return;
                }
            }
        });
        told
    }
}

fn collect(collector: &Collector, sources: &Sources) -> Result<Samples> {
    let mut samples = Samples::of(collector.families);
    // One that meets a bug is as one that fails.
    catch_unwind(AssertUnwindSafe(|| {
        (collector.collect)(sources, &mut samples)
    }))
    .unwrap_or_else(|_| Err(anyhow!("it met a bug")))?;
    Ok(samples)
}
