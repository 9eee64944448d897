//! Whether the daemon is well: each part says for itself, and `/api/ntp/health` gathers it. It is
//! answered with 200 as long as the daemon answers at all; what is wrong stands in it.

use std::{fmt, sync::Arc, time::Duration};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::spawn_blocking,
    time::{error::Elapsed, timeout},
};

use super::State;
use crate::monitor::control;

/// How long a part may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// How one part is.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Component {
    /// healthy, or degraded: it does less than it should.
    pub status: Condition,
    /// What is wrong.
    pub message: Option<String>,
    /// What else there is to know of it.
    #[serde(flatten)]
    #[schema(value_type = Object, additional_properties)]
    pub details: Map<String, Value>,
}

/// Whether something does what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It does.
    Healthy,
    /// It does less.
    Degraded,
}

impl Component {
    /// A part that does what it should.
    pub fn healthy(details: Map<String, Value>) -> Self {
        Self {
            status: Condition::Healthy,
            message: None,
            details,
        }
    }

    /// A part that does less than it should, and why.
    pub fn degraded(message: impl Into<String>, details: Map<String, Value>) -> Self {
        Self {
            status: Condition::Degraded,
            message: Some(message.into()),
            details,
        }
    }
}

/// A part that is asked how it is.
struct Asked {
    name: &'static str,
    ask: Box<dyn Fn() -> Component + Send + Sync>,
    /// Asked once at a time: one that hangs takes one thread, however many want to know.
    turn: Arc<Semaphore>,
}

impl Asked {
    async fn answer(self: &Arc<Self>) -> Component {
        let asked = Arc::clone(self);
        let answered = async move {
            // It is never closed.
            let turn = Arc::clone(&asked.turn).acquire_owned().await;
            spawn_blocking(move || {
                let _turn = turn;
                (asked.ask)()
            })
            .await
        };
        match timeout(PATIENCE, answered).await {
            Ok(Ok(component)) => component,
            Ok(Err(error)) => Component::degraded(format!("it met a bug: {error}"), Map::new()),
            Err(elapsed) => silent(elapsed),
        }
    }
}

/// The parts that are asked how they are, interfaces aside. They may block for a short time.
#[derive(Clone, Default)]
pub struct Components(Vec<Arc<Asked>>);

impl Components {
    /// Adds a part.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        ask: impl Fn() -> Component + Send + Sync + 'static,
    ) -> Self {
        self.0.push(Arc::new(Asked {
            name,
            ask: Box::new(ask),
            turn: Arc::new(Semaphore::new(1)),
        }));
        self
    }
}

impl Components {
    /// Whether each part does what it should; blocks until all have said so.
    pub fn conditions(&self, runtime: &Handle) -> Vec<(&'static str, bool)> {
        let condition = |asked: &Arc<Asked>| {
            let component = runtime.block_on(asked.answer());
            (asked.name, component.status == Condition::Healthy)
        };
        self.0.iter().map(condition).collect()
    }
}

impl fmt::Debug for Components {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.0.iter().map(|asked| asked.name))
            .finish()
    }
}

/// How the daemon is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// Always true.
    success: bool,
    /// degraded when any part is.
    status: Condition,
    /// Of ntpmon.
    version: &'static str,
    /// Of the daemon.
    pid: u32,
    /// When the daemon started.
    #[schema(value_type = String, format = DateTime)]
    start_time: jiff::Timestamp,
    /// Since then.
    uptime_seconds: f64,
    /// Of one processor, over the last second or more.
    cpu_percent: Option<f64>,
    /// Resident memory.
    memory_mb: Option<f64>,
    /// Every part.
    #[schema(value_type = std::collections::HashMap<String, Component>)]
    components: IndexMap<&'static str, Component>,
}

/// Asks every part how it is.
#[utoipa::path(
    get,
    path = "/api/ntp/health",
    operation_id = "health",
    tag = "interfaces",
    responses((status = 200, description = "The daemon answers; `status` says how it is", body = Health))
)]
pub(super) async fn health(state: State) -> axum::Json<Health> {
    let mut components = IndexMap::new();
    components.insert("interfaces", interfaces(&state).await);
    for asked in &state.components.0 {
        components.insert(asked.name, asked.answer().await);
    }
    let degraded = components
        .values()
        .any(|component| component.status == Condition::Degraded);
    let usage = state.process.usage();
    axum::Json(Health {
        success: true,
        status: if degraded {
            Condition::Degraded
        } else {
            Condition::Healthy
        },
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        start_time: state.started,
        uptime_seconds: state.uptime().as_secs_f64(),
        cpu_percent: usage.cpu_percent,
        memory_mb: usage.memory_mb,
        components,
    })
}

fn silent(_: Elapsed) -> Component {
    Component::degraded(
        format!("it said nothing for {} s", PATIENCE.as_secs()),
        Map::new(),
    )
}

async fn interfaces(state: &State) -> Component {
    let statuses = match timeout(PATIENCE, state.control.statuses()).await {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => return Component::degraded(error.to_string(), Map::new()),
        Err(elapsed) => return silent(elapsed),
    };
    let running = statuses
        .iter()
        .filter(|status| status.state == control::State::Running)
        .count();
    let failed: Vec<_> = statuses
        .iter()
        .filter_map(|status| match &status.state {
            control::State::Failed(why) => Some(format!("{}: {why}", status.interface)),
            _ => None,
        })
        .chain(statuses.iter().filter_map(|status| {
            let output = status.output.as_ref().filter(|output| !output.writing)?;
            Some(format!(
                "{}: {} is not written: {}",
                status.interface,
                output.path.display(),
                output.error.as_deref().unwrap_or("for an unknown reason")
            ))
        }))
        .collect();
    let details = Map::from_iter([
        ("running".to_owned(), running.into()),
        (
            "failed".to_owned(),
            statuses
                .iter()
                .filter(|status| matches!(status.state, control::State::Failed(_)))
                .count()
                .into(),
        ),
    ]);
    if failed.is_empty() {
        Component::healthy(details)
    } else {
        Component::degraded(failed.join("; "), details)
    }
}
