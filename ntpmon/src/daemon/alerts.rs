//! Alerts as a part of the daemon: opened on what the other parts know, told what is found, put in
//! force again by a reload, and stopped before what they are written down by.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Map;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::{
    parts::{Part, Reload},
    values,
};
use crate::{
    alert::Alerts, api::Component, check::Checks, config::Config, history::History,
    monitor::control::Control, outbox::Outbox,
};

/// Those that are stopped before hardly ever need all of their time: messages that are on their way
/// have what they leave, too.
const STOP: Duration = Duration::from_millis(1000);
/// A message that takes longer is sent again after the next start.
const ON_THEIR_WAY: Duration = Duration::from_secs(2);

/// What is to be written is written in this time, and packets were paired before.
const WRITTEN: Duration = Duration::from_secs(4);

/// Opens alerts, and tells them what is found.
pub(super) async fn open(
    config: &Config,
    data: &Path,
    history: &History,
    control: &Control,
    checks: &Checks,
) -> Result<Alerts> {
    let runtime = Handle::current();
    // A minute is whole once all of it was written.
    let lag = config.history.flush_interval + WRITTEN;
    let statuses = values::statuses(control.clone(), runtime.clone());
    let sources = values::sources(data, history, checks, statuses, Instant::now(), lag);
    let (opened, settings) = (history.clone(), config.alert.settings());
    let alerts = spawn_blocking(move || -> Result<Alerts> {
        let outbox = Outbox::open(opened.clone(), runtime)?;
        let (alerts, looker) = Alerts::open(opened, outbox, sources, settings);
        alerts.start(looker)?;
        Ok(alerts)
    })
    .await
    .context("opening alerts")?
    .context("opening alerts")?;
    tokio::spawn(values::tell_findings(history.clone(), alerts.clone()));
    Ok(alerts)
}

/// Looks at rules until it is stopped.
pub(super) fn part(alerts: Alerts) -> Part {
    let (alive, reloaded) = (alerts.clone(), alerts.clone());
    Part {
        name: "alerts",
        is_well: Box::new(move || alive.health().is_alive),
        reload: Some(Reload {
            keys: &["alert"],
            apply: Box::new(move |new| {
                let (alerts, settings) = (reloaded.clone(), new.config.alert.settings());
                Box::pin(async move {
                    spawn_blocking(move || alerts.configure(settings))
                        .await
                        .context("putting alerts in force")
                })
            }),
        }),
        stop: Box::new(move || {
            Box::pin(async move {
                let outbox = alerts.outbox().clone();
                let looking = spawn_blocking(move || alerts.stop());
                outbox.stop(ON_THEIR_WAY).await;
                looking.await.context("writing where alerts are")
            })
        }),
        limit: STOP,
    }
}

/// How alerts are doing, for those who ask whether the daemon is well.
pub(super) fn component(alerts: Alerts) -> impl Fn() -> Component + Send + Sync + 'static {
    move || {
        let health = alerts.health();
        let mut problems = Vec::new();
        if !health.is_alive {
            problems.push("the thread that looks at the rules has ended, or hangs".to_owned());
        }
        if health.alerts_refused > 0 {
            problems.push("there were more alerts than alert.max_alerts".to_owned());
        }
        let nowhere = health.rules_told_nowhere.iter();
        problems.extend(nowhere.map(|rule| format!("the sinks of the rule {rule} are gone")));
        let failing = health.failing_sinks.iter();
        problems.extend(failing.map(|sink| format!("nothing arrives at {sink}")));
        let mut details = Map::new();
        details.insert("firing".to_owned(), health.firing.into());
        details.insert("pending".to_owned(), health.pending.into());
        details.insert("alerts_refused".to_owned(), health.alerts_refused.into());
        details.insert("findings_lost".to_owned(), health.findings_lost.into());
        if problems.is_empty() {
            Component::healthy(details)
        } else {
            Component::degraded(problems.join("; "), details)
        }
    }
}
