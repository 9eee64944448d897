//! How servers are: what their records say, and what passed of late on the interfaces that are
//! watched now.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    History, Shared,
    key::{InterfaceId, Key},
    search::Range,
    server::ServerRecord,
    view::{Packet, Spread as Quantiles, time},
};
use crate::{
    health::{
        server::REACH,
        window::{Sample, Summary, Window},
    },
    ntp::{self, exchange::Role},
};

/// How a server is, on one interface. The offset is positive when its clock is ahead of this host's;
/// it, the delay, dispersion and jitter are known where this host asked, and are of the last 64
/// answers, none older than two hours than the last.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerHealth {
    /// The address.
    pub server_ip: String,
    /// The port that it answered from, or was asked at.
    pub server_port: u16,
    /// Where it was seen.
    pub interface_name: String,
    /// What this host is to those who ask it: `client`, `server` (it is this host) or `transit`.
    pub role: Option<String>,
    /// The last eight questions, the last one lowest: a 1 where it answered. Null until it is asked
    /// on an interface that is watched.
    pub reach: Option<u8>,
    /// How many of those, or of as many as there were, it answered: 0 to 1.
    pub reach_ratio: Option<f64>,
    /// Of how many questions that is.
    #[serde(skip)]
    pub reach_of: u8,
    /// Of its last answer; null, as the next nine, before the first.
    pub leap_indicator: Option<u8>,
    /// Of its last answer.
    pub stratum: Option<u8>,
    /// Letters, or an IPv4 address.
    pub reference_id: Option<String>,
    /// When its clock was set last, in seconds since 1970.
    pub reference_timestamp: Option<f64>,
    /// The version that it answered in.
    pub ntp_version: Option<u8>,
    /// As a power of two of a second.
    pub precision: Option<i8>,
    /// Hops that its last answer had left; null where none has been seen since an older version.
    pub ttl: Option<u8>,
    /// From there to its reference clock and back.
    pub root_delay_seconds: Option<f64>,
    /// What it says that its clock may be wrong, delay aside.
    pub root_dispersion_seconds: Option<f64>,
    /// What it says that its clock may be wrong: half of the root delay, and the root dispersion.
    pub root_distance_seconds: Option<f64>,
    /// How far the last answer was ahead.
    pub offset_seconds: Option<f64>,
    /// Half of the answers are not further ahead.
    pub offset_median_seconds: Option<f64>,
    /// How they scatter: 1.4826 times the median distance from the median.
    pub offset_spread_seconds: Option<f64>,
    /// The least.
    pub offset_min_seconds: Option<f64>,
    /// The greatest.
    pub offset_max_seconds: Option<f64>,
    /// Of the last answer.
    pub delay_seconds: Option<f64>,
    /// Half of them took no longer.
    pub delay_median_seconds: Option<f64>,
    /// How they scatter.
    pub delay_spread_seconds: Option<f64>,
    /// The least.
    pub delay_min_seconds: Option<f64>,
    /// What an exchange leaves open, both precisions and drift meanwhile: half are not above.
    pub dispersion_median_seconds: Option<f64>,
    /// How they scatter.
    pub dispersion_spread_seconds: Option<f64>,
    /// Root mean square of the offsets' differences to that of the shortest exchange.
    pub jitter_seconds: Option<f64>,
    /// How far this host's clock may be from the reference clock by this server: root distance, half
    /// of the median delay, median dispersion, and jitter.
    pub synchronisation_distance_seconds: Option<f64>,
    /// How many answers those are of.
    pub window_samples: usize,
    /// From the first to the last of them.
    pub window_seconds: Option<f64>,
    /// When it was asked first.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_timestamp: Timestamp,
    /// When it was asked last.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_timestamp: Timestamp,
    /// When the last request was that it answered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_answer_timestamp: Option<Timestamp>,
    /// Requests, answered or not.
    pub session_count: u64,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that it did not answer in time.
    pub unanswered: u64,
    /// Answers from which no time can be taken, other than kisses.
    pub unsynchronised: u64,
    /// Kisses of death by their code.
    pub kiss_of_death: Kisses,
    /// Further answers to a request that was answered.
    pub multiple_responses: u64,
    /// Answers to no request.
    pub unsolicited_responses: u64,
    /// T3 − T2: half are not above.
    pub server_processing_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub server_processing_time_p99_seconds: Option<f64>,
    /// From the request's passing to the response's: half are not above.
    pub total_process_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub total_process_time_p99_seconds: Option<f64>,
}

/// Kisses of death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub struct Kisses {
    /// Ask less often.
    pub rate: u32,
    /// Do not ask.
    pub deny: u32,
    /// The same.
    pub rstr: u32,
    /// All other codes.
    #[serde(rename = "other")]
    pub other: u32,
}

/// By what servers are put in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerSort {
    /// By address and interface.
    #[default]
    Address,
    /// By how far the median offset is from zero, whichever way.
    Offset,
    /// By the share of questions that were answered of late.
    Reach,
    /// By when it was asked last.
    LastSeen,
    /// By how often it was asked.
    Sessions,
}

/// Which servers are wanted, and how.
#[derive(Clone, Debug, Default)]
pub struct ServerQuery {
    /// In these ranges of addresses, or all.
    pub addresses: Option<Vec<Range>>,
    /// On these interfaces, or all.
    pub interfaces: Option<Vec<InterfaceId>>,
    /// Where this host is that to those who ask.
    pub role: Option<Role>,
    /// In which order.
    pub sort: ServerSort,
    /// The greatest first.
    pub descending: bool,
    /// So many are left out at the beginning.
    pub skip: usize,
    /// So many at most.
    pub most: usize,
}

/// What is known of a server at the moment, wherever its packets came through.
#[derive(Debug, Default)]
struct Live {
    samples: Vec<Sample>,
    /// When it was asked last, on each ring, and whether it answered.
    reach: Vec<(i64, bool)>,
}

impl Shared {
    /// How a server is.
    pub(super) fn server_health(&self, key: &Key, record: &ServerRecord) -> ServerHealth {
        let name = self.interface_name(key.interface());
        ServerHealth::new(key, &name, record, &mut self.live(key))
    }

    /// What passed of late.
    fn live(&self, key: &Key) -> Live {
        let watched = self.watched.lock().clone();
        let mut live = Live::default();
        for (_, servers) in watched.iter().filter(|(on, _)| *on == key.interface()) {
            let Some(servers) = servers.upgrade() else {
                continue;
            };
            let servers = servers.lock();
            let Some(server) = servers.get(&key.address) else {
                continue;
            };
            live.samples.extend(server.window().samples());
            live.reach.extend(server.reach());
        }
        live
    }
}

impl History {
    /// How servers are, and how many there are in all.
    #[must_use]
    pub fn server_health(&self, query: &ServerQuery) -> (Vec<ServerHealth>, u64) {
        let (addresses, interfaces) = (query.addresses.as_deref(), query.interfaces.as_deref());
        let mut picked = self.pick_servers(addresses, interfaces);
        if let Some(role) = query.role {
            picked.retain(|(_, _, record)| record.role() == Some(role));
        }
        let total = picked.len() as u64;
        let health = |(key, name, record): &(Key, String, ServerRecord)| {
            ServerHealth::new(key, name, record, &mut self.0.live(key))
        };
        let page = |all: Vec<ServerHealth>| {
            let rest = all.into_iter().skip(query.skip);
            rest.take(query.most).collect::<Vec<_>>()
        };
        let value = |server: &ServerHealth| match query.sort {
            ServerSort::Offset => server.offset_median_seconds.map(f64::abs),
            ServerSort::Reach => server.reach_ratio,
            ServerSort::LastSeen => Some(server.last_seen_timestamp.as_nanosecond() as f64),
            ServerSort::Sessions => Some(server.session_count as f64),
            ServerSort::Address => None,
        };
        if query.sort == ServerSort::Address {
            if query.descending {
                picked.reverse();
            }
            let rest = picked.iter().skip(query.skip);
            return (rest.take(query.most).map(health).collect(), total);
        }
        let mut all: Vec<ServerHealth> = picked.iter().map(health).collect();
        // What is not known comes last in either order.
        all.sort_by(|one, other| match (value(one), value(other)) {
            (Some(one), Some(other)) if query.descending => other.total_cmp(&one),
            (Some(one), Some(other)) => one.total_cmp(&other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        });
        (page(all), total)
    }
}

impl ServerHealth {
    fn new(key: &Key, interface: &str, record: &ServerRecord, live: &mut Live) -> Self {
        let ntp = record.ntp();
        let packet = ntp.as_ref().map(|ntp| Packet::new(ntp, record.last_seen()));
        let [processing, total] = [&record.processing, &record.total].map(Quantiles::new);
        let summary = Window::summary(&mut live.samples);
        let of = |value: fn(&Summary) -> f64| summary.as_ref().map(value);
        // In the order of the questions, whichever ring saw them.
        live.reach.sort_by_key(|(time, _)| *time);
        let last = &live.reach[live.reach.len().saturating_sub(REACH)..];
        let reach = (!last.is_empty()).then(|| {
            let bits =
                (last.iter()).fold(0_u8, |bits, (_, answered)| bits << 1 | u8::from(*answered));
            (bits, last.len() as u8)
        });
        let root_delay = packet.as_ref().map(|packet| packet.root_delay);
        let root_dispersion = packet.as_ref().map(|packet| packet.root_dispersion);
        let root_distance =
            (root_delay.zip(root_dispersion)).map(|(delay, dispersion)| delay / 2.0 + dispersion);
        let jitter = summary.as_ref().and_then(|summary| summary.jitter);
        let distance = (root_distance.zip(summary.as_ref())).map(|(root, summary)| {
            let near = summary.delay.median / 2.0 + summary.dispersion.median;
            root + near + jitter.unwrap_or(0.0)
        });
        let mut kisses = record.kinds_of_kisses().map(|(_, count)| count);
        let mut kiss = || kisses.next().unwrap_or(0);
        let strays = record.strays();
        Self {
            server_ip: key.ip().to_string(),
            server_port: record.port(),
            interface_name: interface.to_owned(),
            role: record.role().map(|role| role.name().to_owned()),
            reach: reach.map(|(bits, _)| bits),
            reach_ratio: reach.map(|(bits, asked)| {
                let those = u8::MAX.checked_shr(8 - u32::from(asked)).unwrap_or(0);
                f64::from((bits & those).count_ones()) / f64::from(asked)
            }),
            reach_of: reach.map_or(0, |(_, asked)| asked),
            leap_indicator: ntp.map(|ntp| ntp.leap_indicator()),
            stratum: ntp.map(|ntp| ntp.stratum()),
            reference_id: ntp.as_ref().and_then(ntp::reference_id),
            reference_timestamp: packet.as_ref().and_then(|packet| packet.reference),
            ntp_version: ntp.map(|ntp| ntp.version()),
            precision: ntp.map(|ntp| ntp.precision()),
            ttl: record.seed().map(|seed| seed.manner.ttl),
            root_delay_seconds: root_delay,
            root_dispersion_seconds: root_dispersion,
            root_distance_seconds: root_distance,
            offset_seconds: of(|it| it.offset.last),
            offset_median_seconds: of(|it| it.offset.median),
            offset_spread_seconds: of(|it| it.offset.spread),
            offset_min_seconds: of(|it| it.offset.minimum),
            offset_max_seconds: of(|it| it.offset.maximum),
            delay_seconds: of(|it| it.delay.last),
            delay_median_seconds: of(|it| it.delay.median),
            delay_spread_seconds: of(|it| it.delay.spread),
            delay_min_seconds: of(|it| it.delay.minimum),
            dispersion_median_seconds: of(|it| it.dispersion.median),
            dispersion_spread_seconds: of(|it| it.dispersion.spread),
            jitter_seconds: jitter,
            synchronisation_distance_seconds: distance,
            window_samples: summary.as_ref().map_or(0, |summary| summary.samples),
            window_seconds: of(|it| it.seconds),
            first_seen_timestamp: time(record.first_seen()),
            last_seen_timestamp: time(record.last_seen()),
            last_answer_timestamp: record.last_answer().map(time),
            session_count: record.answered() + record.unanswered(),
            answered: record.answered(),
            unanswered: record.unanswered(),
            unsynchronised: record.unsynchronised(),
            kiss_of_death: Kisses {
                rate: kiss(),
                deny: kiss(),
                rstr: kiss(),
                other: kiss(),
            },
            multiple_responses: strays.multiple,
            unsolicited_responses: strays.unsolicited,
            server_processing_time_median_seconds: processing.median,
            server_processing_time_p99_seconds: processing.p99,
            total_process_time_median_seconds: total.median,
            total_process_time_p99_seconds: total.p99,
        }
    }
}
