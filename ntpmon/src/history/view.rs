//! What is shown of the history: by the API, in exports and by the command line. The names are
//! those of the older documents where they had one. Durations are in seconds; what is unknown is
//! null.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ntpmon_common::{NtpHeader, Timestamp as NtpTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    client::{ClientRecord, Duration},
    histogram::Histogram,
    key::Key,
    rollup::{Count, Rollup},
    server::ServerRecord,
    session::SessionRecord,
};
use crate::ntp;

/// A client on an interface. What a packet says is from the response of its last answered session,
/// and before there is one from its last request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Client {
    /// The address.
    pub client_ip: String,
    /// Its port in that session.
    pub client_port: u16,
    /// Whom it asked.
    pub server_ip: String,
    /// At which port.
    pub server_port: u16,
    /// Where it was seen.
    pub interface_name: String,
    /// The packet's version.
    pub ntp_version: u8,
    /// The packet's stratum.
    pub stratum: u8,
    /// The packet's precision, as a power of two of a second.
    pub precision: i8,
    /// In seconds.
    pub root_delay: f64,
    /// In seconds.
    pub root_dispersion: f64,
    /// Letters, or an IPv4 address.
    pub reference_id: Option<String>,
    /// 0 to 3.
    pub leap_indicator: u8,
    /// As a power of two of a second.
    pub poll_interval: i8,
    /// Seconds since 1970, as the next three.
    pub reference_timestamp: Option<f64>,
    /// When the request was sent, as the packet has it: many clients write a random number.
    pub originate_timestamp: Option<f64>,
    /// When the server received the request.
    pub receive_timestamp: Option<f64>,
    /// When the server sent the response.
    pub transmit_timestamp: Option<f64>,
    /// T2 − T1 of the last session that has it: only where the client's clock can be believed.
    pub client_to_server_latency_seconds: Option<f64>,
    /// T3 − T2.
    pub server_processing_time_seconds: Option<f64>,
    /// From the request's passing to the response's.
    pub total_process_time_seconds: Option<f64>,
    /// Of the packet's NTP, in bytes.
    pub packet_length: u16,
    /// When the session was.
    #[schema(value_type = String, format = DateTime)]
    pub session_timestamp: Timestamp,
    /// When the client was seen first.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_timestamp: Timestamp,
    /// When the client was seen last.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_timestamp: Timestamp,
    /// Requests that asked something new.
    pub session_count: u64,
    /// When the record was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the record was changed last.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// All requests, retransmissions among them.
    pub requests: u64,
    /// Sessions without an answer.
    pub unanswered: u64,
    /// Retransmissions.
    pub duplicates: u32,
    /// Kisses of death that it was sent.
    pub kiss_of_death: u32,
    /// Requests a second, as of late.
    pub request_rate_per_second: Option<f64>,
    /// Versions that it asked in.
    pub versions_seen: Vec<u8>,
    /// `honest`, `randomised` or `unknown`.
    pub client_clock: String,
    /// How far an honest client's clock is ahead of this host's: positive when the client is ahead.
    /// From those of its requests that were late least.
    pub client_clock_error_seconds: Option<f64>,
    /// How far that may be wrong in either direction. Null where the client does not repeat what this
    /// host answered: then it may be ahead by the time more that its requests take, and not less.
    pub client_clock_error_bound_seconds: Option<f64>,
    /// What its clock gains on this host's, in millionths; null until that is known to ten.
    pub client_clock_drift_ppm: Option<f64>,
    /// What this host was to it: `server`, `client` or `transit`.
    pub role: Option<String>,
    /// The least T2 − T1.
    pub client_to_server_latency_min_seconds: Option<f64>,
    /// Half are not above.
    pub client_to_server_latency_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub client_to_server_latency_p99_seconds: Option<f64>,
    /// The least T3 − T2.
    pub server_processing_time_min_seconds: Option<f64>,
    /// Half are not above.
    pub server_processing_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub server_processing_time_p99_seconds: Option<f64>,
    /// The least time from request to response.
    pub total_process_time_min_seconds: Option<f64>,
    /// Half are not above.
    pub total_process_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub total_process_time_p99_seconds: Option<f64>,
}

impl Client {
    /// What a record says.
    #[must_use]
    pub fn new(key: &Key, interface: &str, record: &ClientRecord) -> Self {
        let ntp = record.ntp();
        let packet = Packet::new(&ntp, record.session());
        let [latency, processing, total] =
            [&record.latency, &record.processing, &record.total].map(Spread::new);
        Self {
            client_ip: key.ip().to_string(),
            client_port: record.client_port(),
            server_ip: Key::new(record.server(), 0).ip().to_string(),
            server_port: record.server_port(),
            interface_name: interface.to_owned(),
            ntp_version: ntp.version(),
            stratum: ntp.stratum(),
            precision: ntp.precision(),
            root_delay: packet.root_delay,
            root_dispersion: packet.root_dispersion,
            reference_id: ntp::reference_id(&ntp),
            leap_indicator: ntp.leap_indicator(),
            poll_interval: ntp.poll(),
            reference_timestamp: packet.reference,
            originate_timestamp: packet.originate,
            receive_timestamp: packet.receive,
            transmit_timestamp: packet.transmit,
            client_to_server_latency_seconds: latency.last,
            server_processing_time_seconds: processing.last,
            total_process_time_seconds: total.last,
            packet_length: record.packet_length(),
            session_timestamp: time(record.session()),
            first_seen_timestamp: time(record.first_seen()),
            last_seen_timestamp: time(record.last_seen()),
            session_count: record.sessions(),
            created_at: time(record.created()),
            updated_at: time(record.updated()),
            requests: record.sessions() + u64::from(record.duplicates()),
            unanswered: record.unanswered(),
            duplicates: record.duplicates(),
            kiss_of_death: record.kisses(),
            request_rate_per_second: record.request_rate(),
            versions_seen: record.versions().collect(),
            client_clock: record.clock().name().to_owned(),
            client_clock_error_seconds: record.clock_error().map(seconds),
            client_clock_error_bound_seconds: record.clock_error_bound().map(f64::from),
            client_clock_drift_ppm: record.clock_drift().map(f64::from),
            role: record.role().map(|role| role.name().to_owned()),
            client_to_server_latency_min_seconds: latency.minimum,
            client_to_server_latency_median_seconds: latency.median,
            client_to_server_latency_p99_seconds: latency.p99,
            server_processing_time_min_seconds: processing.minimum,
            server_processing_time_median_seconds: processing.median,
            server_processing_time_p99_seconds: processing.p99,
            total_process_time_min_seconds: total.minimum,
            total_process_time_median_seconds: total.median,
            total_process_time_p99_seconds: total.p99,
        }
    }
}

/// What times and delays a packet has.
pub(super) struct Packet {
    pub(super) root_delay: f64,
    pub(super) root_dispersion: f64,
    pub(super) reference: Option<f64>,
    pub(super) originate: Option<f64>,
    pub(super) receive: Option<f64>,
    pub(super) transmit: Option<f64>,
}

impl Packet {
    pub(super) fn new(ntp: &NtpHeader, seen: i64) -> Self {
        let (root_delay, root_dispersion) = ntp::root_seconds(ntp);
        let unix =
            |stamp: NtpTime| (!stamp.is_zero()).then(|| seconds(stamp.unix_nanoseconds_near(seen)));
        // Version 5 has cookies where these two were.
        let (reference, originate) = if ntp.version() == 5 {
            (None, None)
        } else {
            (unix(ntp.reference()), unix(ntp.origin()))
        };
        Self {
            root_delay,
            root_dispersion,
            reference,
            originate,
            receive: unix(ntp.receive()),
            transmit: unix(ntp.transmit()),
        }
    }
}

/// What is shown of a duration, in seconds.
pub(super) struct Spread {
    pub(super) last: Option<f64>,
    pub(super) minimum: Option<f64>,
    pub(super) median: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Spread {
    pub(super) fn new(duration: &Duration) -> Self {
        Self {
            last: duration.last().map(seconds),
            minimum: duration.minimum().map(seconds),
            median: duration.quantile(0.5).map(seconds),
            p99: duration.quantile(0.99).map(seconds),
        }
    }
}

/// From nanoseconds.
pub(crate) fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// From nanoseconds since 1970: any 64 bits of them are a time.
pub(crate) fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

/// One exchange.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// When the request was seen.
    #[schema(value_type = String, format = DateTime)]
    pub session_timestamp: Timestamp,
    /// Where.
    pub interface_name: String,
    /// The client's port.
    pub client_port: u16,
    /// Whom it asked.
    pub server_ip: String,
    /// At which port.
    pub server_port: u16,
    /// Whether there was a response; what follows is from it, or else from the request.
    pub answered: bool,
    /// The packet's version.
    pub ntp_version: u8,
    /// 0 to 3.
    pub leap_indicator: u8,
    /// The packet's stratum.
    pub stratum: u8,
    /// As a power of two of a second.
    pub poll_interval: i8,
    /// As a power of two of a second.
    pub precision: i8,
    /// In seconds.
    pub root_delay: f64,
    /// In seconds.
    pub root_dispersion: f64,
    /// Letters, or an IPv4 address.
    pub reference_id: Option<String>,
    /// Seconds since 1970, as the next three.
    pub reference_timestamp: Option<f64>,
    /// When the request was sent, as the packet has it.
    pub originate_timestamp: Option<f64>,
    /// When the server received the request.
    pub receive_timestamp: Option<f64>,
    /// When the server sent the response.
    pub transmit_timestamp: Option<f64>,
    /// Of the packet's NTP, in bytes.
    pub packet_length: u16,
    /// T2 − T1, where the client's clock can be believed.
    pub client_to_server_latency_seconds: Option<f64>,
    /// T3 − T2.
    pub server_processing_time_seconds: Option<f64>,
    /// From the request's passing to the response's.
    pub total_process_time_seconds: Option<f64>,
    /// How far the server is ahead of this host, where this host asked.
    pub offset_seconds: Option<f64>,
    /// The round trip without the server's share, where this host asked.
    pub delay_seconds: Option<f64>,
    /// `honest`, `randomised` or `unknown`.
    pub client_clock: String,
    /// What this host was to it.
    pub role: Option<String>,
    /// The code of a kiss of death.
    pub kiss_code: Option<String>,
    /// Whether it was in interleaved mode.
    pub interleaved: bool,
    /// Retransmissions of the request.
    pub duplicates: u32,
}

impl Session {
    /// What a record says.
    #[must_use]
    pub fn new(interface: &str, record: &SessionRecord) -> Self {
        let ntp = record.ntp();
        let packet = Packet::new(&ntp, record.seen());
        let kiss = ntp::kiss_code(&ntp).filter(|_| record.is_answered());
        Self {
            session_timestamp: time(record.seen()),
            interface_name: interface.to_owned(),
            client_port: record.client_port(),
            server_ip: Key::new(record.server(), 0).ip().to_string(),
            server_port: record.server_port(),
            answered: record.is_answered(),
            ntp_version: ntp.version(),
            leap_indicator: ntp.leap_indicator(),
            stratum: ntp.stratum(),
            poll_interval: ntp.poll(),
            precision: ntp.precision(),
            root_delay: packet.root_delay,
            root_dispersion: packet.root_dispersion,
            reference_id: ntp::reference_id(&ntp),
            reference_timestamp: packet.reference,
            originate_timestamp: packet.originate,
            receive_timestamp: packet.receive,
            transmit_timestamp: packet.transmit,
            packet_length: record.packet_length(),
            client_to_server_latency_seconds: record.latency().map(seconds),
            server_processing_time_seconds: record.processing().map(seconds),
            total_process_time_seconds: record.total().map(seconds),
            offset_seconds: record.offset().map(seconds),
            delay_seconds: record.delay().map(seconds),
            client_clock: record.clock().name().to_owned(),
            role: record.role().map(|role| role.name().to_owned()),
            kiss_code: kiss.map(|code| {
                String::from_utf8_lossy(&code)
                    .trim_end_matches('\0')
                    .to_owned()
            }),
            interleaved: record.is_interleaved(),
            duplicates: record.duplicates(),
        }
    }
}

/// What a client did in an hour, as far as its last 1000 sessions on each interface are kept: the
/// first of the hours may have had more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HourOfClient {
    /// When the hour began.
    #[schema(value_type = String, format = DateTime)]
    pub hour: Timestamp,
    /// Sessions.
    pub session_count: u64,
    /// Of those, the ones that nobody answered.
    pub unanswered: u64,
    /// Mean of the times from request to response.
    pub total_process_time_mean_seconds: Option<f64>,
}

/// All that is known of a client.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClientDetail {
    /// The address.
    pub client_ip: String,
    /// Its record on each interface where it was seen.
    pub interfaces: Vec<Client>,
    /// Its last sessions, the last first.
    pub recent_sessions: Vec<Session>,
    /// Its activity, the last hour first.
    pub hourly_activity: Vec<HourOfClient>,
}

/// What a server's answers say.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// The address.
    pub server_ip: String,
    /// The port that it answered from, or was asked at.
    pub server_port: u16,
    /// Where it was seen.
    pub interface_name: String,
    /// Of its last answer; null, as the next nine, before the first.
    pub ntp_version: Option<u8>,
    /// 0 to 3.
    pub leap_indicator: Option<u8>,
    /// Of its last answer.
    pub stratum: Option<u8>,
    /// As a power of two of a second.
    pub poll_interval: Option<i8>,
    /// As a power of two of a second.
    pub precision: Option<i8>,
    /// In seconds.
    pub root_delay: Option<f64>,
    /// In seconds.
    pub root_dispersion: Option<f64>,
    /// Letters, or an IPv4 address.
    pub reference_id: Option<String>,
    /// Seconds since 1970.
    pub reference_timestamp: Option<f64>,
    /// In bytes.
    pub packet_length: Option<u16>,
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
    /// Kisses of death.
    pub kiss_of_death: u64,
    /// Answers in interleaved mode.
    pub interleaved: u32,
    /// Versions that it answered in.
    pub versions_seen: Vec<u8>,
    /// T3 − T2 of its last answer.
    pub server_processing_time_seconds: Option<f64>,
    /// Half are not above.
    pub server_processing_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub server_processing_time_p99_seconds: Option<f64>,
    /// From the request's passing to the response's.
    pub total_process_time_seconds: Option<f64>,
    /// Half are not above.
    pub total_process_time_median_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub total_process_time_p99_seconds: Option<f64>,
    /// How far it is ahead of this host, where this host asked: positive when its clock is later.
    pub offset_seconds: Option<f64>,
    /// Half are not above.
    pub offset_median_seconds: Option<f64>,
    /// The round trip without the server's share, where this host asked.
    pub delay_seconds: Option<f64>,
    /// The least.
    pub delay_min_seconds: Option<f64>,
    /// Half are not above.
    pub delay_median_seconds: Option<f64>,
}

impl Server {
    /// What a record says.
    #[must_use]
    pub fn new(key: &Key, interface: &str, record: &ServerRecord) -> Self {
        let ntp = record.ntp();
        let packet = ntp.as_ref().map(|ntp| Packet::new(ntp, record.last_seen()));
        let processing = Spread::new(&record.processing);
        let total = Spread::new(&record.total);
        let offset = Spread::new(&record.offset);
        let delay = Spread::new(&record.delay);
        Self {
            server_ip: key.ip().to_string(),
            server_port: record.port(),
            interface_name: interface.to_owned(),
            ntp_version: ntp.map(|ntp| ntp.version()),
            leap_indicator: ntp.map(|ntp| ntp.leap_indicator()),
            stratum: ntp.map(|ntp| ntp.stratum()),
            poll_interval: ntp.map(|ntp| ntp.poll()),
            precision: ntp.map(|ntp| ntp.precision()),
            root_delay: packet.as_ref().map(|packet| packet.root_delay),
            root_dispersion: packet.as_ref().map(|packet| packet.root_dispersion),
            reference_id: ntp.as_ref().and_then(ntp::reference_id),
            reference_timestamp: packet.as_ref().and_then(|packet| packet.reference),
            packet_length: record.packet_length(),
            first_seen_timestamp: time(record.first_seen()),
            last_seen_timestamp: time(record.last_seen()),
            last_answer_timestamp: record.last_answer().map(time),
            session_count: record.answered() + record.unanswered(),
            answered: record.answered(),
            unanswered: record.unanswered(),
            unsynchronised: record.unsynchronised(),
            kiss_of_death: record.kisses(),
            interleaved: record.interleaved(),
            versions_seen: record.versions().collect(),
            server_processing_time_seconds: processing.last,
            server_processing_time_median_seconds: processing.median,
            server_processing_time_p99_seconds: processing.p99,
            total_process_time_seconds: total.last,
            total_process_time_median_seconds: total.median,
            total_process_time_p99_seconds: total.p99,
            offset_seconds: offset.last,
            offset_median_seconds: offset.median,
            delay_seconds: delay.last,
            delay_min_seconds: delay.minimum,
            delay_median_seconds: delay.median,
        }
    }
}

/// How a duration is distributed, in seconds; null where there is none. Percentiles are right to
/// 3 %.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Distribution {
    /// How many there are.
    pub count: u64,
    /// The least.
    pub min_seconds: Option<f64>,
    /// The mean.
    pub mean_seconds: Option<f64>,
    /// Half are not above.
    pub p50_seconds: Option<f64>,
    /// 90 of 100 are not above.
    pub p90_seconds: Option<f64>,
    /// 99 of 100 are not above.
    pub p99_seconds: Option<f64>,
    /// The greatest.
    pub max_seconds: Option<f64>,
}

impl Distribution {
    fn new(histogram: &Histogram) -> Self {
        let quantile = |share| histogram.quantile(share).map(seconds);
        Self {
            count: histogram.count(),
            min_seconds: histogram.minimum().map(seconds),
            mean_seconds: histogram.mean().map(seconds),
            p50_seconds: quantile(0.5),
            p90_seconds: quantile(0.9),
            p99_seconds: quantile(0.99),
            max_seconds: histogram.maximum().map(seconds),
        }
    }
}

/// What happened on an interface in a while.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Numbers of packets and exchanges, by kind.
    pub counts: BTreeMap<String, u64>,
    /// Exchanges by the version of the request.
    pub versions: BTreeMap<String, u64>,
    /// Exchanges by the mode of the request.
    pub modes: BTreeMap<String, u64>,
    /// Answered exchanges by the stratum of the response; `16` stands for all from 16 on.
    pub strata: BTreeMap<String, u64>,
    /// Exchanges by what is known of the client's clock.
    pub client_clocks: BTreeMap<String, u64>,
    /// How far the clocks of clients were ahead of this host's: each client once, where this host
    /// answered it and its clock can be believed. Not of all time.
    pub client_clock_errors: Distribution,
    /// The same clients by how wrong they were in either direction, to 3 %: how many by no more than
    /// so many seconds, and `more`.
    pub client_clock_error_classes: BTreeMap<String, u64>,
    /// T2 − T1, where the client's clock can be believed.
    pub client_to_server_latency: Distribution,
    /// T3 − T2.
    pub server_processing_time: Distribution,
    /// From the request's passing to the response's.
    pub total_process_time: Distribution,
}

impl Activity {
    /// What a rollup says.
    #[must_use]
    pub fn new(rollup: &Rollup) -> Self {
        let numbered = |numbers: &[u64]| {
            numbers
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(|(number, count)| (number.to_string(), *count))
                .collect()
        };
        let clocks = ["unknown", "honest", "randomised"];
        Self {
            counts: Count::EACH
                .iter()
                .map(|count| (count.name().to_owned(), rollup.get(*count)))
                .collect(),
            versions: numbered(&rollup.versions),
            modes: numbered(&rollup.modes),
            strata: numbered(&rollup.strata),
            client_clocks: clocks
                .iter()
                .zip(rollup.clocks)
                .map(|(name, count)| ((*name).to_owned(), count))
                .collect(),
            client_clock_errors: Distribution::new(&rollup.client_errors),
            client_clock_error_classes: error_classes(&rollup.client_errors),
            client_to_server_latency: Distribution::new(&rollup.latency),
            server_processing_time: Distribution::new(&rollup.processing),
            total_process_time: Distribution::new(&rollup.total),
        }
    }
}

/// How many values are not farther from 0 than a class allows, and farther than the one before.
fn error_classes(errors: &Histogram) -> BTreeMap<String, u64> {
    let mut before = 0;
    let mut classes = BTreeMap::new();
    for (name, limit) in ERROR_CLASSES {
        let within = errors.within(limit);
        classes.insert(name.to_owned(), within - before);
        before = within;
    }
    classes.insert(MORE.to_owned(), errors.count() - before);
    classes
}

/// How wrong a clock may be in nanoseconds, in either direction, to count as one of these: names are
/// seconds.
pub const ERROR_CLASSES: [(&str, i64); 5] = [
    ("0.001", 1_000_000),
    ("0.01", 10_000_000),
    ("0.05", 50_000_000),
    ("0.1", 100_000_000),
    ("1", 1_000_000_000),
];
/// Whose clocks are wrong by more than any of them.
pub const MORE: &str = "more";

/// What happened on an interface in a minute, an hour or a day.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RollupView {
    /// Where.
    pub interface_name: String,
    /// `minute`, `hour` or `day`.
    pub resolution: String,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub activity: Activity,
}

/// An interface since the database began.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatistics {
    /// Its name.
    pub interface_name: String,
    /// Clients that have a record.
    pub client_count: u64,
    /// All sessions: those of the clients, other and forgotten ones.
    pub session_count: u64,
    /// Sessions of clients that never got a record, since there were too many.
    pub other_sessions: u64,
    /// Clients whose record was removed.
    pub forgotten_clients: u64,
    /// Their sessions.
    pub forgotten_sessions: u64,
    /// The minute in which something happened last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_active: Option<Timestamp>,
    /// What happened.
    #[serde(flatten)]
    pub activity: Activity,
}

/// How the history is kept, since the daemon started.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatistics {
    /// Exchanges that were seen.
    pub total_received: u64,
    /// Exchanges that are in the database.
    pub total_processed: u64,
    /// Exchanges that wait for the next flush, or are being written.
    pub queue_size: u64,
    /// Flushes that failed.
    pub processing_errors: u64,
    /// Clients that got a record.
    pub total_inserted: u64,
    /// Records that were changed, each once a flush.
    pub total_updated: u64,
    /// Clients that have a record.
    pub client_count: u64,
    /// Servers that have a record.
    pub server_count: u64,
    /// What did not find a place, by where that was.
    pub drops: BTreeMap<String, u64>,
    /// Flushes.
    pub flush_count: u64,
    /// How long the last one took.
    pub last_flush_seconds: Option<f64>,
    /// How long the longest took.
    pub longest_flush_seconds: Option<f64>,
    /// When the last one ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_flush_timestamp: Option<Timestamp>,
    /// Clients that the last one changed.
    pub last_flush_clients: u64,
    /// How often what had come of clients was put together with their records.
    pub checkpoint_count: u64,
    /// What came of clients and waits for that, one for each client and run.
    pub journal_clients: u64,
    /// Sessions that were kept one by one.
    pub sessions_kept: u64,
    /// Size of the file, in bytes.
    pub database_bytes: u64,
    /// Where it is.
    pub database_path: String,
}

/// How the history is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryHealth {
    /// `healthy`, or `degraded`.
    pub status: String,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Clients that have a record.
    pub client_count: u64,
    /// When the last flush ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_flush_timestamp: Option<Timestamp>,
    /// Size of the file, in bytes.
    pub database_bytes: u64,
}
