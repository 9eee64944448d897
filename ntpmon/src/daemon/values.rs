//! What alerts may ask of the other parts: the values that rules are on, each from the part that
//! knows it. What takes longer to find is asked for every few seconds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

use crate::{
    alert::{
        Alerts, Finding,
        quantity::{Answer, Of, Quantity, Reading, Sources},
        window::Window,
    },
    check::{Checks, Latest, Status},
    history::{
        History,
        findings::Finding as Found,
        rollup::Resolution,
        servers::{ServerQuery, ServerSort},
        shelf::{Order, Shelf},
        view::{RollupView, seconds},
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
/// Servers of which rules know, the furthest off first. There are hardly ever as many: this host
/// asks each of them.
const SERVERS: usize = 10_000;
/// The share of fewer polls says nothing: the first one would be all or nothing.
const POLLS: u8 = 4;
/// The offset of a server that answered none of its last three questions is that of another time.
const OF_LATE: u8 = 0b111;
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

/// How the interfaces are; nothing where that cannot be found out.
type Statuses = Box<dyn Fn() -> Option<Vec<control::Status>> + Send + Sync>;

/// How the interfaces are that this daemon watches.
pub(super) fn statuses(control: Control, runtime: Handle) -> Statuses {
    Box::new(move || {
        let asked = runtime.block_on(async { timeout(PATIENCE, control.statuses()).await });
        asked.ok().and_then(Result::ok)
    })
}

/// Who says what the values are, in a daemon that was started then. A minute is whole so long after
/// its end.
pub(super) fn sources(
    data: &Path,
    history: &History,
    checks: &Checks,
    statuses: Statuses,
    started: Instant,
    lag: Duration,
) -> Sources {
    let running = Mutex::new(None);
    let statuses = Arc::new(Kept::new(ONE_LOOK, move || {
        let statuses = statuses()?;
        let mut running = running.lock();
        let since = Running::after(running.take(), &statuses, started);
        *running = Some(since.clone());
        Some(Interfaces {
            statuses,
            running: since,
        })
    }));
    let minutes = {
        let history = history.clone();
        Arc::new(Kept::new(SELDOM, move || {
            last_minute(&history, started, lag)
        }))
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
            let mut servers = history.server_health(&query).0;
            // Those that were not asked since the start may never be again.
            servers.retain(|it| it.reach_of > 0);
            servers
        }))
    };
    let total = {
        let (minutes, statuses) = (Arc::clone(&minutes), Arc::clone(&statuses));
        move || total_rate(&minutes.get(), &statuses.get())
    };
    let of_minute = |value: fn(Option<&RollupView>) -> Option<f64>| {
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
        // Before this host's clock was set back is not long ago.
        let passed = Duration::try_from(jiff::Timestamp::now().duration_since(last));
        passed.unwrap_or_default() <= ASKED
    };
    let of_clients = |find: fn(&History) -> Answer| {
        let history = history.clone();
        let found = Kept::new(SELDOM, move || find(&history));
        move || Answer::clone(&found.get())
    };
    let asked = {
        let checks = checks.clone();
        Arc::new(Kept::new(ONE_LOOK, move || asked(&checks)))
    };
    let of_checks = |value: fn(&Latest) -> Option<f64>| {
        let asked = Arc::clone(&asked);
        move || {
            let asked = asked.get();
            let readings = asked.iter().map(|(of, latest)| Reading {
                of: Of::clone(of),
                value: value(latest),
            });
            readings.collect::<Vec<_>>()
        }
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
        .with(Quantity::CheckReach, of_checks(check_reach))
        .with(Quantity::CheckStratum, of_checks(check_stratum))
        .with(Quantity::ClientClockError, of_clients(client_errors))
        .with(Quantity::ClientRequestRate, of_clients(client_rates))
        .with(Quantity::Amplification, move || {
            vec![Reading {
                of: Of::default(),
                // Nothing came in, so nothing came out for it.
                value: Some(asked_for.amplification().unwrap_or(0.0)),
            }]
        })
        .with(Quantity::RingLoss, move || {
            of_statuses(&lost.get(), |statuses| ring_losses(statuses, &ring_window))
        })
        .with(Quantity::InterfaceDown, move || {
            of_statuses(&down.get(), outages)
        })
        .with(Quantity::StoreLoss, move || {
            store_losses(&stored, &store_window)
        })
        .with(Quantity::DiskFree, move || free(&disk))
        .with(Quantity::UnansweredRatio, of_minute(unanswered))
        .with(
            Quantity::TurnaroundP99,
            of_minute(|minute| minute?.activity.total_process_time.p99_seconds),
        )
        .with(
            Quantity::RequestRate,
            of_minute(|minute| rate(minute, "requests")),
        )
        .with(Quantity::TotalRequestRate, total)
        .with(
            Quantity::KissOfDeath,
            of_minute(|minute| rate(minute, "kiss_of_death")),
        )
        .with(Quantity::ServerOffset, move || {
            let servers = servers.get();
            let offsets = servers.iter().map(|server| Reading {
                of: of_host("server", &server.server_ip, &server.interface_name),
                value: server
                    .offset_median_seconds
                    .filter(|_| server.reach.is_some_and(|it| it & OF_LATE != 0))
                    .filter(|_| is_asked(server.last_seen_timestamp)),
            });
            offsets.collect::<Vec<_>>()
        })
        .with(Quantity::ServerReach, move || {
            let servers = reach.get();
            let asked = servers.iter().filter(|it| it.reach_of >= POLLS);
            let shares = asked.map(|server| Reading {
                of: of_host("server", &server.server_ip, &server.interface_name),
                value: server
                    .reach_ratio
                    .filter(|_| is_asked(server.last_seen_timestamp)),
            });
            shares.collect::<Vec<_>>()
        })
}

/// Tells alerts what is found, as it is found; first what was found before the last stop and not
/// judged any more.
pub(super) async fn tell_findings(history: History, alerts: Alerts) {
    let mut newest = history.newest_finding();
    let now = *newest.borrow_and_update();
    let (read, judged) = (history.clone(), alerts.clone());
    let missed = spawn_blocking(move || {
        // Where none ever was judged, those of before are no news.
        let last = judged.last_finding()?;
        (last < now).then(|| unjudged(&read, last, now))
    });
    for found in missed.await.ok().flatten().into_iter().flatten() {
        tell(&alerts, &found);
    }
    let mut known = now;
    loop {
        for found in history.findings_since(known) {
            known = known.max(found.event_number);
            tell(&alerts, &found);
        }
        if newest.changed().await.is_err() {
            return;
        }
        newest.borrow_and_update();
    }
}

/// The findings after one, up to another; of many the last ones.
fn unjudged(history: &History, after: u64, to: u64) -> Vec<Found> {
    const MOST: u64 = 500;
    let left_out = to.saturating_sub(after).saturating_sub(MOST);
    if left_out > 0 {
        tracing::warn!("{left_out} events of before the start are too many to be judged by alerts");
    }
    let from = after.max(to.saturating_sub(MOST)) + 1;
    let (from, to) = (from.to_be_bytes(), to.saturating_add(1).to_be_bytes());
    let read = history.shelf(Shelf::Findings, &from, &to, Order::Oldest, usize::MAX);
    let items = read.unwrap_or_else(|error| {
        tracing::error!("what was found before the start cannot be read for alerts: {error}");
        Vec::new()
    });
    let found = items.iter();
    found
        .filter_map(|(_, value)| serde_json::from_slice(value).ok())
        .collect()
}

fn tell(alerts: &Alerts, found: &Found) {
    let mut labels = vec![
        ("kind", found.kind.clone()),
        ("importance", found.severity.clone()),
    ];
    labels.extend(found.server_ip.clone().map(|server| ("server", server)));
    let interface = found.interface_name.clone();
    labels.extend(interface.map(|interface| ("interface", interface)));
    alerts.tell(Finding {
        number: found.event_number,
        labels,
        message: found.message.clone(),
    });
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

fn on(interface: &str) -> Of {
    [("interface", interface.to_owned())].into()
}

/// What is of one host, as seen on an interface.
fn of_host(what: &'static str, address: &str, interface: &str) -> Of {
    [
        ("interface", interface.to_owned()),
        (what, address.to_owned()),
    ]
    .into()
}

/// Every address that is asked. One that is paused says nothing; one whose name has no address goes
/// by the name.
fn asked(checks: &Checks) -> Vec<(Of, Latest)> {
    let mut asked = checks.latest();
    asked.retain(|it| !it.paused);
    let asked = asked.into_iter().map(|it| {
        let mut labels = vec![
            ("check", it.name.to_string()),
            ("server", it.server.to_string()),
        ];
        let address = it.address.map(|address| address.ip().to_string());
        labels.extend(address.map(|address| ("address", address)));
        (labels.into(), it)
    });
    asked.collect()
}

/// Nothing before it was asked a few times.
fn check_reach(latest: &Latest) -> Option<f64> {
    let reach = latest.reach;
    reach.ratio().filter(|_| reach.polls() >= POLLS)
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

/// How wrong the worst clients' clocks are, of those that asked of late.
fn client_errors(history: &History) -> Answer {
    match history.client_clocks(None, Some(ASKED.as_secs()), CLIENTS) {
        Ok(clocks) => worst(clocks.worst.into_iter().map(|client| Reading {
            of: of_host("client", &client.client_ip, &client.interface_name),
            value: client.client_clock_error_seconds,
        })),
        Err(error) => {
            tracing::debug!("clients' clocks for alerts: {error}");
            Answer::unknown()
        }
    }
}

/// How often those clients ask that ask most.
fn client_rates(history: &History) -> Answer {
    match history.busiest(None, 0.0, CLIENTS) {
        Ok(busiest) => worst(busiest.clients.into_iter().map(|client| Reading {
            of: of_host("client", &client.client_ip, &client.interface_name),
            value: Some(client.request_rate_per_second),
        })),
        Err(error) => {
            tracing::debug!("the busiest clients for alerts: {error}");
            Answer::unknown()
        }
    }
}

/// The worst of the clients: as many as there may be, or all.
fn worst(readings: impl Iterator<Item = Reading>) -> Answer {
    let readings: Vec<Reading> = readings.collect();
    let is_full = readings.len() >= CLIENTS;
    let sizes = readings.iter().filter_map(|it| it.value).map(f64::abs);
    let least = sizes.reduce(f64::min);
    Answer {
        least: least.filter(|_| is_full),
        ..Answer::from(readings)
    }
}

/// The interfaces, as they were found.
struct Interfaces {
    statuses: Vec<control::Status>,
    running: Running,
}

/// Since when each has been watched without a break, as far as who looks each second can tell.
#[derive(Clone)]
struct Running(BTreeMap<String, Instant>);

impl Running {
    /// Those that run at the first look have done so from the start on.
    fn after(before: Option<Self>, statuses: &[control::Status], started: Instant) -> Self {
        let runs = statuses.iter().filter(|it| it.state == State::Running);
        let since = |name: &str| match &before {
            None => started,
            Some(Self(before)) => before.get(name).copied().unwrap_or_else(Instant::now),
        };
        Self(
            runs.map(|it| (it.interface.clone(), since(&it.interface)))
                .collect(),
        )
    }
}

/// Those that are to be watched.
fn watched(statuses: &[control::Status]) -> impl Iterator<Item = &control::Status> {
    let is_watched = |status: &&control::Status| status.state != State::NotMonitoring;
    statuses.iter().filter(is_watched)
}

/// Where interfaces do not say how they are, nothing is known of any.
fn of_statuses(
    interfaces: &Option<Interfaces>,
    find: impl Fn(&[control::Status]) -> Vec<Reading>,
) -> Answer {
    let found = interfaces.as_ref().map(|it| find(&it.statuses).into());
    found.unwrap_or_else(Answer::unknown)
}

fn ring_losses(statuses: &[control::Status], window: &Mutex<Window>) -> Vec<Reading> {
    let (mut window, now) = (window.lock(), Instant::now());
    let losses = watched(statuses).map(|status| {
        let rings = [Counter::RingFull, Counter::PtpRingFull];
        let lost = rings.iter().map(|ring| status.counters.get(*ring)).sum();
        let gained = window.gained(&status.interface, lost, now);
        Reading {
            of: on(&status.interface),
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
            of: on(&status.interface),
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
        of: [("what", name.to_owned())].into(),
        value: window.gained(name, count, now).map(|lost| lost as f64),
    });
    losses.collect()
}

fn free(disk: &PathBuf) -> Vec<Reading> {
    let asked = rustix::fs::statvfs(disk);
    let share = asked.ok().filter(|it| it.f_blocks > 0);
    vec![Reading {
        of: [("path", disk.display().to_string())].into(),
        value: share.map(|it| it.f_bavail as f64 / it.f_blocks as f64),
    }]
}

/// A minute, and what happened in it on each interface on which something did.
struct Minute {
    start: i64,
    sums: Vec<RollupView>,
}

impl Minute {
    /// What happened on an interface, where that was watched all the time.
    fn of(&self, interfaces: &Interfaces, name: &str) -> Option<Option<&RollupView>> {
        let Running(running) = &interfaces.running;
        let is_whole = running
            .get(name)
            .is_some_and(|since| utc_seconds(*since) <= self.start);
        let mut own = self.sums.iter();
        is_whole.then(|| own.find(|it| it.interface_name == name))
    }
}

/// When that was by this host's clock as it is now, in seconds since 1970, rounded up: what a step of
/// the clock moved is moved here too.
fn utc_seconds(then: Instant) -> i64 {
    let ago = i64::try_from(then.elapsed().as_nanos()).unwrap_or(i64::MAX);
    let then = clock::utc().saturating_sub(ago);
    then.div_euclid(1_000_000_000) + 1
}

/// The last minute that is over and written; nothing before there was a whole one.
fn last_minute(history: &History, started: Instant, lag: Duration) -> Option<Minute> {
    const MINUTE: i64 = 60;
    let now = clock::utc() / 1_000_000_000 - i64::try_from(lag.as_secs()).unwrap_or(MINUTE);
    let start = now - now.rem_euclid(MINUTE) - MINUTE;
    if start < utc_seconds(started) {
        return None;
    }
    let sums = history.rollups(None, Resolution::Minute, start..=start, 1);
    sums.map_err(|error| tracing::debug!("the last minute for alerts: {error}"))
        .ok()
        .map(|sums| Minute { start, sums })
}

/// A value of each interface that is watched, where something happened and where nothing did. Of one
/// that is not watched now nothing is known, and one that is not yet for a minute says nothing.
fn minute_readings(
    minute: &Option<Minute>,
    interfaces: &Option<Interfaces>,
    value: fn(Option<&RollupView>) -> Option<f64>,
) -> Answer {
    let Some((minute, interfaces)) = minute.as_ref().zip(interfaces.as_ref()) else {
        return Answer::unknown();
    };
    let readings = watched(&interfaces.statuses).filter_map(|status| {
        let own = minute.of(interfaces, &status.interface);
        let is_young = own.is_none() && status.state == State::Running;
        (!is_young).then(|| Reading {
            of: on(&status.interface),
            value: own.and_then(value),
        })
    });
    readings.collect::<Vec<_>>().into()
}

/// The requests on all interfaces together that run; nothing where one of them does not for a minute
/// yet.
fn total_rate(minute: &Option<Minute>, interfaces: &Option<Interfaces>) -> Answer {
    let Some((minute, interfaces)) = minute.as_ref().zip(interfaces.as_ref()) else {
        return Answer::unknown();
    };
    let running = watched(&interfaces.statuses).filter(|it| it.state == State::Running);
    let rates = running.map(|it| rate(minute.of(interfaces, &it.interface)?, "requests"));
    let reading = Reading {
        of: Of::default(),
        value: rates.sum(),
    };
    vec![reading].into()
}

fn count(minute: &RollupView, name: &str) -> f64 {
    let count = minute.activity.counts.get(name);
    count.copied().unwrap_or(0) as f64
}

/// None is a rate, too.
fn rate(minute: Option<&RollupView>, name: &str) -> Option<f64> {
    Some(minute.map_or(0.0, |minute| count(minute, name) / 60.0))
}

/// Of a few requests it says nothing.
fn unanswered(minute: Option<&RollupView>) -> Option<f64> {
    const FEW: f64 = 10.0;
    let minute = minute?;
    let asked = count(minute, "exchanges");
    (asked >= FEW).then(|| count(minute, "unanswered") / asked)
}

#[cfg(test)]
mod tests;
