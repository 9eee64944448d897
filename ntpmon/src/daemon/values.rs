//! What alerts may ask of the other parts: the values that rules are on, each from the part that
//! knows it. What takes longer to find is asked for every few seconds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    alert::{
        Alerts, Finding,
        quantity::{Quantity, Reading, Sources},
        window::Window,
    },
    check::{Checks, Latest, Status},
    history::{
        History,
        rollup::Resolution,
        servers::{ServerQuery, ServerSort},
        view::RollupView,
    },
    monitor::control::{self, Control, State},
    netlink,
    ntp::{clock, exchange::Role},
};
use ntpmon_common::Counter;

/// How long the interfaces may take to say how they are.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is asked for by several rules in one look is asked once.
const ONE_LOOK: Duration = Duration::from_millis(500);
/// What takes longer is asked for so often.
const SELDOM: Duration = Duration::from_secs(5);
/// Servers of which rules know, the furthest off first.
const SERVERS: usize = 1000;
/// Clients of which rules know, the worst first.
const CLIENTS: usize = 100;
/// A server that this host has not asked for so long, and a client that has not asked, says nothing
/// any more.
const ASKED: Duration = Duration::from_secs(3600);
/// What of the history's counts is a loss; the others are as the configuration wants them.
const LOSSES: [&str; 4] = [
    "clients_refused",
    "clients_evicted",
    "sessions_without_client",
    "sessions_without_server",
];

/// Who says what the values are.
pub(super) fn sources(
    data: &Path,
    history: &History,
    control: &Control,
    checks: &Checks,
    runtime: &Handle,
) -> Sources {
    let statuses = {
        let (control, runtime) = (control.clone(), runtime.clone());
        Arc::new(Kept::new(ONE_LOOK, move || {
            let asked = runtime.block_on(async { timeout(PATIENCE, control.statuses()).await });
            asked.ok().and_then(Result::ok).unwrap_or_default()
        }))
    };
    let minutes = {
        let history = history.clone();
        Arc::new(Kept::new(SELDOM, move || last_minute(&history)))
    };
    let servers = {
        let history = history.clone();
        Arc::new(Kept::new(SELDOM, move || {
            let query = ServerQuery {
                role: Some(Role::Client),
                sort: ServerSort::Offset,
                descending: true,
                most: SERVERS,
                ..ServerQuery::default()
            };
            history.server_health(&query).0
        }))
    };
    let of_minute = |value: fn(&RollupView) -> Option<f64>| {
        let (minutes, statuses) = (Arc::clone(&minutes), Arc::clone(&statuses));
        move || minute_readings(&minutes.get(), &statuses.get(), value)
    };
    let (reach, lost, down) = (
        Arc::clone(&servers),
        Arc::clone(&statuses),
        statuses.clone(),
    );
    let (stored, disk) = (history.clone(), data.to_path_buf());
    let (ring_window, store_window) =
        (Mutex::new(Window::default()), Mutex::new(Window::default()));
    let is_asked = |last: jiff::Timestamp| {
        let passed = Duration::try_from(jiff::Timestamp::now().duration_since(last));
        passed.is_ok_and(|passed| passed <= ASKED)
    };
    let of_clients = |find: fn(&History) -> Vec<Reading>| {
        let history = history.clone();
        let found = Kept::new(SELDOM, move || find(&history));
        move || found.get().to_vec()
    };
    let of_checks = |value: fn(&Latest) -> Option<f64>| {
        let checks = checks.clone();
        move || check_readings(&checks.latest(), value)
    };
    let asked_for = history.clone();
    Sources::default()
        .with(
            Quantity::CheckOffset,
            of_checks(|it| Some(seconds(it.time()?.offset))),
        )
        .with(
            Quantity::CheckDelay,
            of_checks(|it| Some(seconds(it.time()?.delay))),
        )
        .with(Quantity::CheckReach, of_checks(|it| it.reach.ratio()))
        .with(Quantity::CheckStratum, of_checks(check_stratum))
        .with(Quantity::ClientClockError, of_clients(client_errors))
        .with(Quantity::ClientRequestRate, of_clients(client_rates))
        .with(Quantity::Amplification, move || {
            vec![Reading {
                labels: Vec::new(),
                value: asked_for.client_figures().amplification,
            }]
        })
        .with(Quantity::RingLoss, move || {
            ring_losses(&lost.get(), &ring_window)
        })
        .with(Quantity::InterfaceDown, move || outages(&down.get()))
        .with(Quantity::StoreLoss, move || {
            store_losses(&stored, &store_window)
        })
        .with(Quantity::DiskFree, move || free(&disk))
        .with(Quantity::UnansweredRatio, of_minute(unanswered))
        .with(
            Quantity::TurnaroundP99,
            of_minute(|minute| minute.activity.total_process_time.p99_seconds),
        )
        .with(
            Quantity::RequestRate,
            of_minute(|minute| rate(minute, "requests")),
        )
        .with(
            Quantity::KissOfDeath,
            of_minute(|minute| rate(minute, "kiss_of_death")),
        )
        .with(Quantity::ServerOffset, move || {
            let servers = servers.get();
            let offsets = servers.iter().map(|server| Reading {
                labels: of_server(&server.server_ip, &server.interface_name),
                value: server
                    .offset_median_seconds
                    .filter(|_| is_asked(server.last_seen_timestamp)),
            });
            offsets.collect()
        })
        .with(Quantity::ServerReach, move || {
            let servers = reach.get();
            let shares = servers.iter().map(|server| Reading {
                labels: of_server(&server.server_ip, &server.interface_name),
                value: server
                    .reach_ratio
                    .filter(|_| is_asked(server.last_seen_timestamp)),
            });
            shares.collect()
        })
}

/// Tells alerts what is found, as it is found.
pub(super) async fn tell_findings(history: History, alerts: Alerts) {
    let mut newest = history.newest_finding();
    let mut known = *newest.borrow_and_update();
    while newest.changed().await.is_ok() {
        newest.borrow_and_update();
        for found in history.findings_since(known) {
            known = known.max(found.event_number);
            let mut labels = vec![
                ("kind", found.kind.clone()),
                ("importance", found.severity.clone()),
            ];
            labels.extend(found.server_ip.clone().map(|server| ("server", server)));
            let interface = found.interface_name.clone();
            labels.extend(interface.map(|interface| ("interface", interface)));
            alerts.tell(Finding {
                labels,
                message: found.message.clone(),
            });
        }
    }
}

/// What was found out, until it is too old.
struct Kept<T> {
    age: Duration,
    find: Box<dyn Fn() -> T + Send + Sync>,
    found: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> Kept<T> {
    fn new(age: Duration, find: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            age,
            find: Box::new(find),
            found: Mutex::new(None),
        }
    }

    fn get(&self) -> Arc<T> {
        let mut found = self.found.lock();
        if let Some((at, found)) = &*found
            && at.elapsed() < self.age
        {
            return Arc::clone(found);
        }
        let new = Arc::new((self.find)());
        *found = Some((Instant::now(), Arc::clone(&new)));
        new
    }
}

fn on(interface: &str) -> Vec<(&'static str, String)> {
    vec![("interface", interface.to_owned())]
}

fn of_server(server: &str, interface: &str) -> Vec<(&'static str, String)> {
    let mut labels = on(interface);
    labels.push(("server", server.to_owned()));
    labels
}

fn of_client(client: &str, interface: &str) -> Vec<(&'static str, String)> {
    let mut labels = on(interface);
    labels.push(("client", client.to_owned()));
    labels
}

/// A value of every address that is asked. One that is paused says nothing; one whose name has no
/// address goes by the name.
fn check_readings(latest: &[Latest], value: fn(&Latest) -> Option<f64>) -> Vec<Reading> {
    let asked = latest.iter().filter(|it| !it.paused);
    let readings = asked.map(|it| {
        let mut labels = vec![
            ("check", it.name.to_string()),
            ("server", it.server.to_string()),
        ];
        let address = it.address.map(|address| address.ip().to_string());
        labels.extend(address.map(|address| ("address", address)));
        Reading {
            labels,
            value: value(it),
        }
    });
    readings.collect()
}

/// 16 where it is not synchronised, whatever it says.
fn check_stratum(latest: &Latest) -> Option<f64> {
    if latest.stopped {
        return None;
    }
    if latest.round.status == Status::Unsynchronised {
        return Some(16.0);
    }
    let header = latest
        .round
        .header()
        .filter(|_| latest.round.time.is_some())?;
    Some(f64::from(header.stratum()))
}

fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// How wrong the worst clients' clocks are, of those that asked of late.
fn client_errors(history: &History) -> Vec<Reading> {
    let clocks = history.client_clocks(None, Some(ASKED.as_secs()), CLIENTS);
    let worst = clocks.map(|clocks| clocks.worst).unwrap_or_else(|error| {
        tracing::debug!("clients' clocks for alerts: {error}");
        Vec::new()
    });
    let readings = worst.into_iter().map(|client| Reading {
        labels: of_client(&client.client_ip, &client.interface_name),
        value: client.client_clock_error_seconds,
    });
    readings.collect()
}

/// How often those clients ask that ask most.
fn client_rates(history: &History) -> Vec<Reading> {
    let busiest = history.busiest(None, 0.0, CLIENTS);
    let clients = busiest
        .map(|busiest| busiest.clients)
        .unwrap_or_else(|error| {
            tracing::debug!("the busiest clients for alerts: {error}");
            Vec::new()
        });
    let readings = clients.into_iter().map(|client| Reading {
        labels: of_client(&client.client_ip, &client.interface_name),
        value: Some(client.request_rate_per_second),
    });
    readings.collect()
}

/// Those that are to be watched.
fn watched(statuses: &[control::Status]) -> impl Iterator<Item = &control::Status> {
    let is_watched = |status: &&control::Status| status.state != State::NotMonitoring;
    statuses.iter().filter(is_watched)
}

fn ring_losses(statuses: &[control::Status], window: &Mutex<Window>) -> Vec<Reading> {
    let (mut window, now) = (window.lock(), Instant::now());
    let losses = watched(statuses).map(|status| {
        let lost = status.counters.get(Counter::RingFull);
        let gained = window.gained(&status.interface, lost, now);
        Reading {
            labels: on(&status.interface),
            value: gained.map(|lost| lost as f64),
        }
    });
    losses.collect()
}

fn outages(statuses: &[control::Status]) -> Vec<Reading> {
    let links = netlink::interfaces();
    let links = links.unwrap_or_else(|error| {
        tracing::debug!("whether interfaces are up: {error:#}");
        Vec::new()
    });
    let outages = watched(statuses).map(|status| {
        let link = links.iter().find(|link| link.name == status.interface);
        let is_up = link.map_or(status.exists, |link| link.running);
        let is_down = !is_up || status.state != State::Running;
        Reading {
            labels: on(&status.interface),
            value: Some(f64::from(u8::from(is_down))),
        }
    });
    outages.collect()
}

fn store_losses(history: &History, window: &Mutex<Window>) -> Vec<Reading> {
    let statistics = history.service_statistics();
    let kept = LOSSES.iter().map(|name| {
        let count = statistics.drops.get(*name).copied();
        (*name, count.unwrap_or(0))
    });
    let others = [
        ("failed_flushes", statistics.processing_errors),
        ("changes_without_room", history.shelf_changes_lost()),
    ];
    let (mut window, now) = (window.lock(), Instant::now());
    let losses = kept.chain(others).map(|(name, count)| Reading {
        labels: vec![("what", name.to_owned())],
        value: window.gained(name, count, now).map(|lost| lost as f64),
    });
    losses.collect()
}

fn free(disk: &PathBuf) -> Vec<Reading> {
    let asked = rustix::fs::statvfs(disk);
    let share = asked.ok().filter(|it| it.f_blocks > 0);
    vec![Reading {
        labels: vec![("path", disk.display().to_string())],
        value: share.map(|it| it.f_bavail as f64 / it.f_blocks as f64),
    }]
}

/// The last minute that is over, of every interface on which something happened in it.
fn last_minute(history: &History) -> Vec<RollupView> {
    const MINUTE: i64 = 60;
    let now = clock::utc() / 1_000_000_000;
    let start = now - now.rem_euclid(MINUTE) - MINUTE;
    let minute = history.rollups(None, Resolution::Minute, start..=start, 1);
    minute.unwrap_or_else(|error| {
        tracing::debug!("the last minute for alerts: {error}");
        Vec::new()
    })
}

/// A value of each interface that is watched; nothing is known where nothing happened.
fn minute_readings(
    minutes: &[RollupView],
    statuses: &[control::Status],
    value: fn(&RollupView) -> Option<f64>,
) -> Vec<Reading> {
    let running = watched(statuses).filter(|status| status.state == State::Running);
    let readings = running.map(|status| {
        let mut own = minutes.iter();
        let own = own.find(|minute| minute.interface_name == status.interface);
        Reading {
            labels: on(&status.interface),
            value: own.and_then(value),
        }
    });
    readings.collect()
}

fn count(minute: &RollupView, name: &str) -> f64 {
    let count = minute.activity.counts.get(name);
    count.copied().unwrap_or(0) as f64
}

fn rate(minute: &RollupView, name: &str) -> Option<f64> {
    Some(count(minute, name) / 60.0)
}

/// Of a few requests it says nothing.
fn unanswered(minute: &RollupView) -> Option<f64> {
    const FEW: f64 = 10.0;
    let asked = count(minute, "exchanges");
    (asked >= FEW).then(|| count(minute, "unanswered") / asked)
}
