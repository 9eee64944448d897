//! What is said of all clients at once: how many clocks are how wrong, who asks most often, who
//! sends what is no question for the time. All clients are looked through for it, in slices, so what
//! was found is kept for a second: however many ask, and whoever measures and alarms, it costs some
//! milliseconds in each.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{
        History, Shared,
        abuse::{self, Abuse, Traffic},
        catalogue::{Glance, Row},
        client::clock_code,
        key::{InterfaceId, Key},
        view::{Client, ERROR_CLASSES, MORE, time},
    },
    QueryError,
};
use crate::ntp::{ClientClock, clock};

/// How long what was found is good for.
const KEPT: Duration = Duration::from_secs(1);
/// Clients that are named at most.
pub const NAMED: usize = 100;
/// Who was not seen for so long, in seconds, has no clock that alarms anybody.
const CURRENT: i64 = 3600;
/// What is seen is known so much later, in nanoseconds, besides the interval of flushes: a request
/// waits for its answer.
const LATE: i64 = 5 * SECOND;
const SECOND: i64 = 1_000_000_000;

/// What was found last, and when.
#[derive(Debug, Default)]
pub(in super::super) struct Found(Mutex<BTreeMap<Wanted, Kept>>);

type Kept = (Instant, Arc<Overview>);

/// Of whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    interfaces: Option<Vec<InterfaceId>>,
    within: Option<u64>,
    /// The bits of a rate above which they are counted.
    limit: Option<u64>,
}

/// Questions that are kept apart.
const QUESTIONS: usize = 16;

/// All of what one look found.
#[derive(Debug, Default)]
struct Overview {
    clocks: [u64; 3],
    /// By class, and those beyond.
    errors: [u64; ERROR_CLASSES.len() + 1],
    ahead: u64,
    behind: u64,
    /// The greatest first.
    worst: Vec<(f32, Row)>,
    busiest: Vec<(f32, Row)>,
    /// Of who was seen in the last hour.
    worst_current: Option<f32>,
    above: u64,
}

/// The greatest of many values.
struct Greatest(Vec<(f32, Row)>);

impl Greatest {
    fn add(&mut self, value: f32, row: Row) {
        // Nearly all are smaller than the least of a full list.
        if self.0.len() >= NAMED
            && let Some((least, _)) = self.0.get(NAMED - 1)
            && value <= *least
        {
            return;
        }
        self.0.push((value, row));
        if self.0.len() == 2 * NAMED {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.0
            .sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
        self.0.truncate(NAMED);
    }
}

/// How many clocks are how wrong.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClientClocks {
    /// Clients by what is known of their clocks: `honest`, `randomised`, `unknown`.
    pub client_clocks: BTreeMap<String, u64>,
    /// Honest clients by how wrong their clocks are, in either direction: how many by no more than
    /// so many seconds (and by more than those before), and `more`.
    pub client_clock_error_classes: BTreeMap<String, u64>,
    /// Honest clients whose clocks are ahead of this host's.
    pub ahead: u64,
    /// Those whose clocks are behind.
    pub behind: u64,
    /// Those that are wrong most, in either direction, the worst first.
    pub worst: Vec<Client>,
}

/// A client that asks often.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BusyClient {
    /// Its address.
    pub client_ip: String,
    /// Where it was seen.
    pub interface_name: String,
    /// Requests a second, as of late: it falls when no more come.
    pub request_rate_per_second: f64,
    /// Requests that asked something new, since it was first seen.
    pub session_count: u64,
    /// Those that were answered.
    pub served: u64,
    /// Those that were not.
    pub unanswered: u64,
    /// The share of those that were not.
    pub unanswered_ratio: f64,
    /// Kisses of death that it was sent.
    pub kiss_of_death: u32,
    /// When it was seen last.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_timestamp: Timestamp,
}

/// Clients that ask more often than they may.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BusyClients {
    /// The limit.
    pub limit_per_second: f64,
    /// Clients above it.
    pub clients_above: u64,
    /// Those that ask most often, the busiest first.
    pub clients: Vec<BusyClient>,
}

/// Packets and bytes of a mode. In is to the server, out is from it; bytes are those of UDP's
/// payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrafficView {
    /// Questions.
    pub packets_in: u64,
    /// Answers.
    pub packets_out: u64,
    /// Bytes of questions.
    pub bytes_in: u64,
    /// Bytes of answers.
    pub bytes_out: u64,
    /// Bytes that were answered for each that was asked with; null where nothing was asked.
    pub amplification: Option<f64>,
}

impl TrafficView {
    fn new(traffic: &Traffic) -> Self {
        Self {
            packets_in: traffic.packets_in(),
            packets_out: traffic.packets_out(),
            bytes_in: traffic.bytes_in(),
            bytes_out: traffic.bytes_out(),
            amplification: traffic.amplification(),
        }
    }
}

/// What passed in modes 6 and 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AbuseView {
    /// Mode 6, which `ntpq` uses.
    pub control: TrafficView,
    /// Mode 7, which `ntpdc` uses.
    pub private: TrafficView,
    /// Both together.
    pub all: TrafficView,
    /// Questions for the list of clients (mode 7, request codes 20 and 42): what attackers ask in
    /// the names of others.
    pub monlist_requests: u64,
}

impl AbuseView {
    fn new(abuse: &Abuse) -> Self {
        Self {
            control: TrafficView::new(&abuse.control),
            private: TrafficView::new(&abuse.private),
            all: TrafficView::new(&abuse.all()),
            monlist_requests: abuse.monlist_requests(),
        }
    }
}

/// A client that sent such packets, or whom they were sent to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AbusiveClient {
    /// Its address, which an attacker may have forged.
    pub client_ip: String,
    /// Where it was seen.
    pub interface_name: String,
    /// When the first packet was seen.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_timestamp: Timestamp,
    /// When the last one was.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_timestamp: Timestamp,
    /// What passed.
    #[serde(flatten)]
    pub traffic: AbuseView,
}

/// Who sends packets in modes 6 and 7, and what comes back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AbuseReport {
    /// Of all clients.
    pub total: AbuseView,
    /// Of those who are not known by name any more: too many sent such packets.
    pub other: AbuseView,
    /// In this minute and the one before, of both modes.
    pub recent: TrafficView,
    /// Clients that are known by name.
    pub client_count: u64,
    /// Those who were sent most bytes, the most first.
    pub clients: Vec<AbusiveClient>,
}

/// What rules and metrics ask for again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientFigures {
    /// Clients by what is known of their clocks: unknown, honest, randomised.
    pub clocks: [u64; 3],
    /// Honest clients by how wrong they are: up to 1, 10, 50 and 100 ms, up to 1 s, and more.
    pub errors: [u64; ERROR_CLASSES.len() + 1],
    /// The error that is farthest from 0 of who was seen in the last hour, in seconds: positive when
    /// that client is ahead.
    pub worst_error_seconds: Option<f64>,
    /// Of the client that asks most often.
    pub busiest_rate_per_second: Option<f64>,
    /// Bytes out for each byte in, in modes 6 and 7, in this minute and the one before.
    pub amplification: Option<f64>,
    /// What passed in modes 6 and 7 since the database began.
    pub abuse: AbuseView,
}

impl Shared {
    fn overview(&self, wanted: &Wanted) -> Arc<Overview> {
        // Who comes meanwhile waits for what is being found.
        let mut known = self.found.0.lock();
        if let Some((at, overview)) = known.get(wanted)
            && at.elapsed() < KEPT
        {
            return Arc::clone(overview);
        }
        let at = Instant::now();
        let overview = Arc::new(self.look_through(wanted));
        known.retain(|_, (at, _)| at.elapsed() < KEPT);
        if known.len() < QUESTIONS {
            known.insert(wanted.clone(), (at, Arc::clone(&overview)));
        }
        overview
    }

    fn look_through(&self, wanted: &Wanted) -> Overview {
        let now = clock::utc();
        let flush = self.settings.read().flush_interval.as_nanos() as i64;
        let known = now.saturating_sub(LATE + flush);
        let ago = |seconds: u64| {
            let nanoseconds = i64::try_from(seconds).ok()?.checked_mul(SECOND)?;
            now.checked_sub(nanoseconds)
        };
        let since = wanted.within.and_then(ago).unwrap_or(i64::MIN);
        let current = now.saturating_sub(CURRENT * SECOND);
        let mut found = Overview::default();
        let (mut worst, mut busiest) = (Greatest(Vec::new()), Greatest(Vec::new()));
        let limits = ERROR_CLASSES.map(|(_, limit)| (limit as f64 / 1e9) as f32);
        let limit = wanted.limit.map_or(f64::INFINITY, f64::from_bits);
        let mut look = |it: Glance| {
            if it.last_seen < since {
                return;
            }
            if let Some(them) = &wanted.interfaces
                && !them.contains(&it.interface)
            {
                return;
            }
            found.clocks[usize::from(clock_code(it.clock))] += 1;
            if it.interval > 0.0 {
                let silent = (known.saturating_sub(it.last_seen) as f64 / 1e9) as f32;
                let rate = 1.0 / it.interval.max(silent);
                found.above += u64::from(f64::from(rate) > limit);
                busiest.add(rate, it.row);
            }
            // Who is random now may have told it once.
            if it.clock != ClientClock::Honest || it.clock_error.is_nan() {
                return;
            }
            let wrong = it.clock_error.abs();
            found.errors[limits.partition_point(|limit| *limit < wrong)] += 1;
            match it.clock_error > 0.0 {
                true => found.ahead += 1,
                false => found.behind += 1,
            }
            if it.last_seen >= current && found.worst_current.is_none_or(|it| it.abs() < wrong) {
                found.worst_current = Some(it.clock_error);
            }
            worst.add(wrong, it.row);
        };
        let mut from = Some(0);
        while let Some(row) = from {
            let catalogue = self.catalogue.read();
            from = catalogue.glance(row, &mut look);
            RwLockReadGuard::unlock_fair(catalogue);
        }
        worst.cut();
        busiest.cut();
        found.worst = worst.0;
        found.busiest = busiest.0;
        found
    }

    /// Who stands in these rows now.
    fn keys_of(&self, rows: &[(f32, Row)]) -> Vec<Key> {
        let catalogue = self.catalogue.read();
        rows.iter()
            .filter_map(|(_, row)| catalogue.key(*row))
            .collect()
    }
}

impl History {
    /// How many clocks are how wrong, and the worst of them, at most [`NAMED`]: of clients on these
    /// interfaces that were seen in so many seconds.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn client_clocks(
        &self,
        interfaces: Option<Vec<InterfaceId>>,
        within: Option<u64>,
        most: usize,
    ) -> Result<ClientClocks, QueryError> {
        let found = self.0.overview(&Wanted {
            interfaces,
            within,
            limit: None,
        });
        let names = ["unknown", "honest", "randomised"];
        let clocks = names.iter().zip(found.clocks);
        let classes = ERROR_CLASSES.iter().map(|(name, _)| *name).chain([MORE]);
        let worst = &found.worst[..most.min(found.worst.len())];
        let keys = self.0.keys_of(worst);
        Ok(ClientClocks {
            client_clocks: clocks.map(|(name, it)| ((*name).to_owned(), it)).collect(),
            client_clock_error_classes: classes.map(str::to_owned).zip(found.errors).collect(),
            ahead: found.ahead,
            behind: found.behind,
            worst: self.clients_of(&keys)?,
        })
    }

    /// Clients that ask more often than a limit, at most [`NAMED`] of them by name.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn busiest(
        &self,
        interfaces: Option<Vec<InterfaceId>>,
        limit_per_second: f64,
        most: usize,
    ) -> Result<BusyClients, QueryError> {
        let found = self.0.overview(&Wanted {
            interfaces,
            within: None,
            limit: Some(limit_per_second.to_bits()),
        });
        let is_above = |rate: f32| f64::from(rate) > limit_per_second;
        let above = found.busiest.partition_point(|(rate, _)| is_above(*rate));
        let named = &found.busiest[..most.min(above)];
        let mut clients = Vec::with_capacity(named.len());
        for (rate, row) in named {
            let keys = self.0.keys_of(&[(*rate, *row)]);
            for client in self.clients_of(&keys)? {
                clients.push(BusyClient::new(client, f64::from(*rate)));
            }
        }
        Ok(BusyClients {
            limit_per_second,
            clients_above: found.above,
            clients,
        })
    }

    /// Who sends packets in modes 6 and 7 and what comes back, with the first of the clients who were
    /// sent most.
    #[must_use]
    pub fn abuse(&self, interfaces: Option<&[InterfaceId]>, most: usize) -> AbuseReport {
        let names = self.0.interfaces.read().clone();
        let mut table = self.0.abuse.lock();
        let recent = TrafficView::new(&table.recent(clock::utc()));
        let mut total: Option<Abuse> = None;
        let mut other: Option<Abuse> = None;
        let mut all: Vec<(u64, [u8; 16], InterfaceId, Abuse)> = Vec::new();
        for (number, interface) in table.interfaces() {
            if interfaces.is_some_and(|them| !them.contains(&number)) {
                continue;
            }
            for (sum, more) in [
                (&mut total, &interface.total),
                (&mut other, &interface.other),
            ] {
                if let Some(more) = more {
                    abuse::sum(sum, more);
                }
            }
            let clients = interface.clients.iter();
            all.extend(clients.map(|(ip, it)| (it.all().bytes_out(), *ip, number, *it)));
        }
        drop(table);
        let client_count = all.len() as u64;
        all.sort_unstable_by_key(|(bytes, ip, number, _)| {
            (std::cmp::Reverse(*bytes), *ip, *number)
        });
        all.truncate(most);
        let clients = all.into_iter().map(|(_, ip, number, it)| AbusiveClient {
            client_ip: Key::new(ip, number).ip().to_string(),
            interface_name: names.get(usize::from(number)).cloned().unwrap_or_default(),
            first_seen_timestamp: time(it.first_seen()),
            last_seen_timestamp: time(it.last_seen()),
            traffic: AbuseView::new(&it),
        });
        let view = |abuse: Option<Abuse>| AbuseView::new(&abuse.unwrap_or_default());
        AbuseReport {
            total: view(total),
            other: view(other),
            recent,
            client_count,
            clients: clients.collect(),
        }
    }

    /// Bytes that went out for each that came in, of late, in modes 6 and 7; nothing where none came.
    #[must_use]
    pub fn amplification(&self) -> Option<f64> {
        self.0.abuse.lock().recent(clock::utc()).amplification()
    }

    /// What rules and metrics ask for: at most a second old.
    #[must_use]
    pub fn client_figures(&self) -> ClientFigures {
        let found = self.0.overview(&Wanted::default());
        let mut table = self.0.abuse.lock();
        let mut all: Option<Abuse> = None;
        for (_, interface) in table.interfaces() {
            if let Some(total) = &interface.total {
                abuse::sum(&mut all, total);
            }
        }
        ClientFigures {
            clocks: found.clocks,
            errors: found.errors,
            worst_error_seconds: found.worst_current.map(f64::from),
            busiest_rate_per_second: found.busiest.first().map(|(rate, _)| f64::from(*rate)),
            amplification: table.recent(clock::utc()).amplification(),
            abuse: AbuseView::new(&all.unwrap_or_default()),
        }
    }
}

impl BusyClient {
    fn new(client: Client, rate: f64) -> Self {
        Self {
            client_ip: client.client_ip,
            interface_name: client.interface_name,
            request_rate_per_second: rate,
            session_count: client.session_count,
            served: client.session_count.saturating_sub(client.unanswered),
            unanswered: client.unanswered,
            unanswered_ratio: client.unanswered as f64 / client.session_count.max(1) as f64,
            kiss_of_death: client.kiss_of_death,
            last_seen_timestamp: client.last_seen_timestamp,
        }
    }
}

#[cfg(test)]
mod tests;
