//! Builds the parts of the daemon from the configuration and plugs them into each other: what is
//! captured into what is remembered, and both into what is served.

use std::{future::ready, net::TcpListener, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use serde_json::Map;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::spawn_blocking,
    time::MissedTickBehavior,
};

use super::{
    alerts,
    parts::{Part, Parts, Reload},
};
use crate::{
    alert::Alerts,
    api::{self, Component, Components, Process, SharedTokens, Tls},
    check::Checks,
    config::{self, Config},
    history::History,
    metrics::{Export, Metrics, Sources},
    monitor::{
        Common, Options,
        control::{Control, Setup},
    },
    ptp::seen::Seen,
    tokens::Tokens,
};

/// Under this name the history keeps which interfaces are watched.
const WATCHED: &str = "watched";
/// And under this, the masters of PTP.
const PTP_MASTERS: &str = "ptp_masters";
/// How often those are put down: as much of when they were seen last is lost in a crash.
const REMEMBER_PTP: Duration = Duration::from_secs(60);
/// And so long after a change, with those that come in between: a crash must not make it news again.
const REMEMBER_CHANGE: Duration = Duration::from_secs(1);

/// The API keeps so many connections at once, or as many as requests are worked on at once.
const CONNECTIONS: usize = 1024;

/// Together they are less than what a process is given to end.
const CAPTURES_STOP: Duration = Duration::from_millis(1200);
const CHECKS_STOP: Duration = Duration::from_millis(50);
const API_STOP: Duration = Duration::from_millis(1550);
const PTP_STOP: Duration = Duration::from_millis(100);
const HISTORY_STOP: Duration = Duration::from_millis(1000);

/// Starts what there is, in the order of the data, and lists it in the order in which it is
/// stopped: captures first, so that all that they saw is remembered; then those who ask.
pub(super) async fn start(
    config: &Config,
    data: &Path,
    listener: &TcpListener,
    tokens: &Tokens,
) -> Result<Parts> {
    let started = jiff::Timestamp::now();
    // What may be wrong with the configuration comes before anything is attached.
    let settings = Arc::new(api_settings(config)?);
    let tls = match config.api.tls.pair() {
        Some((certificate, key)) => Some(Tls::load(certificate, key)?),
        None => None,
    };
    let history = {
        let (data, settings) = (data.to_owned(), config.history.settings());
        spawn_blocking(move || History::open(&data, settings))
            .await
            .context("opening the history")?
            .context("opening the history")?
    };
    let ptp_changed = Arc::new(Notify::new());
    let ptp = (config.capture.ptp).then(|| seen_of_ptp(&history, &ptp_changed));
    let control = {
        let (feeding, remembering) = (history.clone(), history.clone());
        let watching = ptp.clone();
        Control::open(
            Setup {
                common: common(&config.capture),
                defaults: options(&config.capture),
                interfaces: config.interfaces.clone(),
                output_directory: config.capture.output_dir.clone(),
                remembered: history.document(WATCHED),
            },
            move |interface| {
                let ptp = watching.as_ref().map(|seen| seen.feed(interface));
                (feeding.feed(interface), ptp)
            },
            move |wishes| {
                remembering.set_document(WATCHED, wishes.to_vec());
                Ok(())
            },
        )?
    };
    // Answered once what is to be watched is attached.
    control.statuses().await?;
    let checks = Checks::open(
        history.clone(),
        Handle::current(),
        config.checks.clone(),
        config.history.retention.of_checks(),
    );
    let alerts = alerts::open(config, data, &history, &control, &checks).await?;

    let shared = SharedTokens::new(tokens.clone());
    let export = Export::new(config.otlp.settings());
    let components = components(&history, &checks, &export, &alerts);
    let asked = components.clone();
    let metrics = Metrics::new(Sources {
        started,
        conditions: Box::new(move |runtime| asked.conditions(runtime)),
        export: export.clone(),
        ptp: ptp.clone(),
        checks: Some(checks.clone()),
        alerts: Some(alerts.clone()),
        ..Sources::new(control.clone(), history.clone())
    });
    let state = api::State {
        control: control.clone(),
        history: history.clone(),
        ptp: ptp.clone(),
        checks: checks.clone(),
        tokens: shared.clone(),
        settings,
        alerts: alerts.clone(),
        components,
        metrics: metrics.clone(),
        process: Process::new(),
        started,
    };
    let listener = listener.try_clone().context("taking the API's socket")?;
    let (stop_serving, mut stopping) = watch::channel(false);
    let serving = tokio::spawn(api::serve(
        listener,
        api::router(state),
        tls.clone(),
        connections(config),
        async move {
            // Either it was told, or nobody is left to tell it.
            let _ = stopping.wait_for(|stop| *stop).await;
        },
    ));

    let mut parts = Parts::default();
    parts.add(captures(control));
    let is_serving = serving.abort_handle();
    parts.add(Part {
        name: "API",
        is_well: Box::new(move || !is_serving.is_finished()),
        reload: Some(Reload {
            keys: &["api.tokens_file"],
            apply: Box::new(move |reloaded| {
                shared.replace(reloaded.tokens.clone());
                let read = tls.as_ref().map_or(Ok(()), Tls::reload);
                Box::pin(ready(read))
            }),
        }),
        stop: Box::new(move || {
            Box::pin(async move {
                stop_serving.send_replace(true);
                serving.await.map_err(|error| anyhow!(error))?
            })
        }),
        limit: API_STOP,
    });
    if let Some(seen) = ptp {
        parts.add(remembered_ptp(seen, history.clone(), ptp_changed));
    }
    parts.add(exported(export, metrics));
    parts.add(asking(checks));
    parts.add(alerts::part(alerts));
    parts.add(remembered(history));
    Ok(parts)
}

/// How many connections the API keeps at once.
pub(super) fn connections(config: &Config) -> usize {
    CONNECTIONS.max(config.api.max_concurrent_requests)
}

fn captures(control: Control) -> Part {
    let (watched, reloaded) = (control.clone(), control.clone());
    // The thread that owns the captures is well as long as it is there.
    let ended = tokio::spawn(async move { watched.ended().await });
    Part {
        name: "captures",
        is_well: Box::new(move || !ended.is_finished()),
        reload: Some(Reload {
            keys: &[
                "interfaces",
                "capture.ports",
                "capture.timeout_seconds",
                "capture.mode",
            ],
            apply: Box::new(move |new| {
                let control = reloaded.clone();
                let interfaces = new.config.interfaces.clone();
                let options = options(&new.config.capture);
                Box::pin(async move { Ok(control.configure(interfaces, options).await?) })
            }),
        }),
        stop: Box::new(move || {
            Box::pin(async move {
                let interfaces = control.end().await?;
                if let Some(ended) = interfaces.iter().find(|ended| ended.died) {
                    return Err(anyhow!("{}: not all that it saw was taken", ended.name));
                }
                Ok(())
            })
        }),
        limit: CAPTURES_STOP,
    }
}

fn asking(checks: Checks) -> Part {
    let (alive, reloaded) = (checks.clone(), checks.clone());
    Part {
        name: "checks",
        is_well: Box::new(move || alive.is_well()),
        reload: Some(Reload {
            keys: &[
                "check",
                "history.retention.check_results_days",
                "history.retention.check_hours_days",
                "history.retention.check_days_days",
            ],
            apply: Box::new(move |new| {
                let keep = new.config.history.retention.of_checks();
                reloaded.configure(new.config.checks.clone(), keep);
                Box::pin(ready(Ok(())))
            }),
        }),
        stop: Box::new(move || {
            checks.stop();
            Box::pin(ready(Ok(())))
        }),
        limit: CHECKS_STOP,
    }
}

fn exported(export: Export, metrics: Metrics) -> Part {
    let reloaded = export.clone();
    let running = tokio::spawn(export.run(metrics));
    let is_running = running.abort_handle();
    Part {
        name: "export of metrics",
        is_well: Box::new(move || !is_running.is_finished()),
        reload: Some(Reload {
            keys: &["otlp"],
            apply: Box::new(move |new| {
                reloaded.configure(new.config.otlp.settings());
                Box::pin(ready(Ok(())))
            }),
        }),
        stop: Box::new(move || {
            running.abort();
            Box::pin(ready(Ok(())))
        }),
        limit: Duration::ZERO,
    }
}

fn remembered(history: History) -> Part {
    let (alive, reloaded) = (history.clone(), history.clone());
    Part {
        name: "history",
        is_well: Box::new(move || alive.is_alive()),
        reload: Some(Reload {
            // All but the size of the cache.
            keys: &[
                "history.flush_interval_seconds",
                "history.batch_size",
                "history.checkpoint_interval_seconds",
                "history.max_clients",
                "history.max_servers",
                "history.sessions",
                "history.retention",
            ],
            apply: Box::new(move |new| {
                reloaded.reconfigure(new.config.history.settings());
                Box::pin(ready(Ok(())))
            }),
        }),
        stop: Box::new(move || {
            Box::pin(async move {
                spawn_blocking(move || history.stop())
                    .await
                    .context("writing what is left of the history")
            })
        }),
        limit: HISTORY_STOP,
    }
}

/// What is seen of PTP, with what is known from before.
fn seen_of_ptp(history: &History, changed: &Arc<Notify>) -> Seen {
    let (telling, changed) = (history.clone(), Arc::clone(changed));
    let seen = Seen::new(move |interface, told| {
        tracing::warn!("{interface}: {}", told.text());
        telling.found(&told.found(), interface);
        changed.notify_one();
    });
    if let Some(document) = history.document(PTP_MASTERS) {
        seen.restore(&document);
    }
    seen
}

/// Puts the masters of PTP down, now and then, when something changed, and at the end.
fn remembered_ptp(seen: Seen, history: History, changed: Arc<Notify>) -> Part {
    // One after the other, or what was known before would come last.
    let keeping = Arc::new(Mutex::new(()));
    let keep = move || {
        let _keeping = keeping.lock();
        history.set_document(PTP_MASTERS, seen.remember());
    };
    let remembering = tokio::spawn({
        let keep = keep.clone();
        async move {
            let mut interval = tokio::time::interval(REMEMBER_PTP);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first is at once: what is there came from there.
            interval.tick().await;
            loop {
                tokio::select! {
                    _ = interval.tick() => {}
                    () = changed.notified() => tokio::time::sleep(REMEMBER_CHANGE).await,
                }
                // As much as there is room for is a megabyte to write out.
                if let Err(error) = spawn_blocking(keep.clone()).await {
                    tracing::error!("remembering PTP masters: {error}");
                }
            }
        }
    });
    let is_remembering = remembering.abort_handle();
    Part {
        name: "PTP",
        is_well: Box::new(move || !is_remembering.is_finished()),
        reload: None,
        stop: Box::new(move || {
            remembering.abort();
            keep();
            Box::pin(ready(Ok(())))
        }),
        limit: PTP_STOP,
    }
}

fn components(history: &History, checks: &Checks, export: &Export, alerts: &Alerts) -> Components {
    let (history, checks, export) = (history.clone(), checks.clone(), export.clone());
    let of_checks = move || {
        let (latest, count) = (checks.latest(), checks.count());
        let told = latest.iter().filter(|it| it.time().is_some()).count();
        let stopped = latest.iter().filter(|it| it.stopped).count();
        let mut details = Map::new();
        details.insert("check_count".to_owned(), count.into());
        details.insert("address_count".to_owned(), latest.len().into());
        details.insert("telling_the_time".to_owned(), told.into());
        details.insert("stopped_address_count".to_owned(), stopped.into());
        Component::healthy(details)
    };
    let of_history = move || {
        let health = history.health();
        let mut details = Map::new();
        details.insert("client_count".to_owned(), health.client_count.into());
        details.insert("database_bytes".to_owned(), health.database_bytes.into());
        let last_flush = health.last_flush_timestamp.map(|time| time.to_string());
        details.insert("last_flush_timestamp".to_owned(), last_flush.into());
        if health.problems.is_empty() {
            Component::healthy(details)
        } else {
            Component::degraded(health.problems.join("; "), details)
        }
    };
    let of_export = move || {
        let mut details = Map::new();
        let Some(progress) = export.progress() else {
            details.insert("configured".to_owned(), false.into());
            return Component::healthy(details);
        };
        details.insert("configured".to_owned(), true.into());
        details.insert("succeeded".to_owned(), progress.succeeded.into());
        details.insert("failed".to_owned(), progress.failed.into());
        let last = progress.last_success.map(|time| time.to_string());
        details.insert("last_success_timestamp".to_owned(), last.into());
        match progress.failure {
            None => Component::healthy(details),
            Some((why, since)) => Component::degraded(format!("since {since}: {why}"), details),
        }
    };
    Components::default()
        .with("checks", of_checks)
        .with("history", of_history)
        .with("otlp", of_export)
        .with("alerts", alerts::component(alerts.clone()))
}

fn common(config: &config::Capture) -> Common {
    Common {
        rings: config.rings,
        ring_bytes: config.ring_size_kib.saturating_mul(1024),
        decapsulate: config.decapsulate,
        ptp: config.ptp,
        debug: false,
        pin: false,
    }
}

fn options(config: &config::Capture) -> Options {
    Options {
        ports: config.ports.clone(),
        timeout: config.timeout,
        xdp: config.mode == config::Mode::Xdp,
        output_file: None,
    }
}

fn api_settings(config: &Config) -> Result<api::Settings> {
    let api = &config.api;
    let origins = api.cors_origins.iter().map(|origin| {
        origin
            .parse()
            .map_err(|error| anyhow!("api.cors_origins: {error}"))
    });
    Ok(api::Settings {
        max_body: api.max_body_kib.saturating_mul(1024),
        request_timeout: api.request_timeout,
        max_concurrent_requests: api.max_concurrent_requests,
        cors_origins: origins.collect::<Result<_>>()?,
        compression: api.compression,
        log_file: config.log.file.clone(),
    })
}
