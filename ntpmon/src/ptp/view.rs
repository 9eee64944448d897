//! What is known of PTP as it is shown: by the API, and at the end of a replay. Identities are
//! written as linuxptp writes them, durations in seconds, times in UTC.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ntpmon_common::{Direction, PtpType, ptp_flags};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Announce, Delays, Domain, DomainKey, Master, Message, Rate, Statistics, Transport,
    accuracy_seconds, clock_text, port_text, text::ethernet_text, time_source,
};
use crate::output::ip;

/// When it is looked: rates are those of now, or of the whole of what was read.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// Now, as messages' times are.
    Now(u64),
    /// At the end of files.
    End(u64),
}

impl Moment {
    const fn time(self) -> u64 {
        match self {
            Self::Now(time) | Self::End(time) => time,
        }
    }

    fn rate(self, rate: &Rate) -> Option<f64> {
        match self {
            Self::Now(now) => rate.per_second(now),
            Self::End(_) => rate.mean_per_second(),
        }
    }
}

/// Which domain of which interface.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Place {
    /// The interface that it was seen on; null where a file has no name for it.
    pub interface_name: Option<String>,
    /// The domain's number.
    pub domain_number: u8,
    /// Whose profile defines it, 12 bits: 0 for IEEE 1588, 256 for IEEE 802.1AS.
    pub sdo_id: u16,
    /// How its messages travel.
    pub transport: Transport,
    /// VLAN ids from the outermost inwards.
    pub vlan_ids: Vec<u16>,
}

impl Place {
    fn new(interface: Option<&str>, key: &DomainKey) -> Self {
        Self {
            interface_name: interface.map(str::to_owned),
            domain_number: key.number,
            sdo_id: key.sdo_id,
            transport: key.transport,
            vlan_ids: key.vlan_ids(),
        }
    }
}

/// How often messages of a type came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Messages {
    /// So many.
    pub count: u64,
    /// So many in a second over the last ten to twenty, or over the whole of what was read; null
    /// while there is too little to tell.
    pub rate_per_second: Option<f64>,
}

/// Durations that were measured or told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Durations {
    /// So many.
    pub count: u64,
    /// The last.
    pub last_seconds: Option<f64>,
    /// The least.
    pub minimum_seconds: Option<f64>,
    /// The largest.
    pub maximum_seconds: Option<f64>,
    /// The mean.
    pub mean_seconds: Option<f64>,
}

impl Durations {
    /// `unit` is what one is in seconds.
    fn new(statistics: &Statistics, unit: f64) -> Self {
        let some = |value: i64| (statistics.count > 0).then_some(value as f64 * unit);
        Self {
            count: statistics.count,
            last_seconds: some(statistics.last),
            minimum_seconds: some(statistics.minimum),
            maximum_seconds: some(statistics.maximum),
            mean_seconds: statistics.mean().map(|mean| mean * unit),
        }
    }
}

const NANOSECOND: f64 = 1e-9;
/// The unit of corrections, in seconds.
pub(crate) const CORRECTION: f64 = NANOSECOND / 65_536.0;

/// What a master announces.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnnounceView {
    /// The clock that it follows; itself, where it follows none.
    pub grandmaster_identity: String,
    /// The lower, the more the grandmaster is to be preferred; before all else.
    pub priority1: u8,
    /// The same, when all of its quality is equal.
    pub priority2: u8,
    /// 6 follows a reference, 7 did until lately, 248 never did, 255 never is master.
    pub clock_class: u8,
    /// The standard's code.
    pub clock_accuracy: u8,
    /// The bound that the code stands for; null where it says none.
    pub clock_accuracy_seconds: Option<f64>,
    /// How steady it runs, as the standard scales it; 65535 is not known.
    pub offset_scaled_log_variance: u16,
    /// How many clocks lie between it and the grandmaster.
    pub steps_removed: u16,
    /// The standard's code.
    pub time_source: u8,
    /// What the code stands for: gnss, ntp, internal_oscillator …; null where it has no name.
    #[schema(value_type = Option<String>)]
    pub time_source_name: Option<&'static str>,
    /// TAI − UTC; null where the master does not say that it is right.
    pub utc_offset_seconds: Option<i16>,
    /// A leap second is to be inserted at the end of the day.
    pub leap_61: bool,
    /// A leap second is to be left out at the end of the day.
    pub leap_59: bool,
    /// The time scale is TAI; else it is arbitrary.
    pub ptp_timescale: bool,
    /// The time is traceable to a primary reference.
    pub time_traceable: bool,
    /// So is the frequency.
    pub frequency_traceable: bool,
    /// It announces to single receivers.
    pub unicast: bool,
}

impl AnnounceView {
    pub(crate) fn new(announce: &Announce) -> Self {
        let announced = &announce.announced;
        let has = |flag| announce.flags & flag != 0;
        Self {
            grandmaster_identity: clock_text(announced.grandmaster),
            priority1: announced.priority1,
            priority2: announced.priority2,
            clock_class: announced.clock_class,
            clock_accuracy: announced.clock_accuracy,
            clock_accuracy_seconds: accuracy_seconds(announced.clock_accuracy),
            offset_scaled_log_variance: announced.variance,
            steps_removed: announced.steps_removed,
            time_source: announced.time_source,
            time_source_name: time_source(announced.time_source),
            utc_offset_seconds: has(ptp_flags::UTC_OFFSET_VALID).then_some(announced.utc_offset),
            leap_61: has(ptp_flags::LEAP_61),
            leap_59: has(ptp_flags::LEAP_59),
            ptp_timescale: has(ptp_flags::PTP_TIMESCALE),
            time_traceable: has(ptp_flags::TIME_TRACEABLE),
            frequency_traceable: has(ptp_flags::FREQUENCY_TRACEABLE),
            unicast: announce.unicast,
        }
    }
}

/// A port that announces itself as master, or sends what masters do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MasterView {
    /// Where it was seen.
    #[serde(flatten)]
    pub place: Place,
    /// Its clock and port: 0050c2.fffe.123456-1.
    pub port_identity: String,
    /// Its clock: 0050c2.fffe.123456.
    pub clock_identity: String,
    /// The port's number.
    pub port_number: u16,
    /// The IP or Ethernet address that it sends from; null where it is not known.
    pub address: Option<String>,
    /// Whether its messages come in or go out: those that go out are this host's own.
    #[schema(value_type = Option<String>)]
    pub direction: Option<&'static str>,
    /// The version of PTP: 2.0 or 2.1; null where none of its messages was seen since a restart.
    pub version: Option<String>,
    /// Whether it is the one that is taken for the domain's master.
    pub is_master: bool,
    /// Whether it announces now.
    pub is_announcing: bool,
    /// When a message of it was seen first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_seen_timestamp: Option<Timestamp>,
    /// When a message of it was seen last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_timestamp: Option<Timestamp>,
    /// What it announced last; null where it never did.
    pub announce: Option<AnnounceView>,
    /// Its messages, by type.
    pub messages: BTreeMap<&'static str, Messages>,
    /// How far apart it says its Syncs to be; null where it does not say.
    pub sync_interval_seconds: Option<f64>,
    /// How far apart it lets delay requests be.
    pub delay_request_interval_seconds: Option<f64>,
    /// How far apart it says its Announces to be.
    pub announce_interval_seconds: Option<f64>,
    /// Syncs that carry the time themselves.
    pub one_step_syncs: u64,
    /// Syncs with their Follow_Up.
    pub two_step_syncs: u64,
    /// Syncs whose Follow_Up never came.
    pub missing_follow_ups: u64,
    /// Correction of Sync and Follow_Up together: what lies between added to the way.
    pub sync_correction: Durations,
    /// Correction of its Delay_Resp.
    pub delay_correction: Durations,
    /// From a Delay_Req to its answer, both as they passed here.
    pub turnaround: Durations,
}

impl MasterView {
    /// As it is at a moment.
    #[must_use]
    pub fn new(
        interface: Option<&str>,
        key: &DomainKey,
        domain: &Domain,
        master: &Master,
        moment: Moment,
    ) -> Self {
        let interval = |place: usize| master.log_intervals[place].map(|log| f64::from(log).exp2());
        let [version, minor_version] = master.version;
        Self {
            place: Place::new(interface, key),
            port_identity: port_text(master.identity),
            clock_identity: clock_text(master.identity.clock),
            port_number: master.identity.port,
            address: address_text(master.transport, &master.source),
            direction: direction_name(master.direction),
            version: (version > 0).then(|| format!("{version}.{minor_version}")),
            is_master: domain.master == Some(master.identity),
            is_announcing: master.is_announcing(moment.time()),
            first_seen_timestamp: timestamp(master.first_seen),
            last_seen_timestamp: timestamp(master.last_seen),
            announce: master.announce.as_ref().map(AnnounceView::new),
            messages: messages(&master.messages, moment),
            sync_interval_seconds: interval(0),
            delay_request_interval_seconds: interval(1),
            announce_interval_seconds: interval(2),
            one_step_syncs: master.one_step_syncs,
            two_step_syncs: master.two_step_syncs,
            missing_follow_ups: master.missing_follow_ups,
            sync_correction: Durations::new(&master.sync_correction, CORRECTION),
            delay_correction: Durations::new(&master.delay_correction, CORRECTION),
            turnaround: Durations::new(&master.turnaround, NANOSECOND),
        }
    }
}

/// Requests for a delay and their responses.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct DelaysView {
    /// Requests, each once.
    pub requests: u64,
    /// Those with a response.
    pub answered: u64,
    /// Those whose time ran out, two seconds.
    pub unanswered: u64,
    /// Responses to no request that was seen.
    pub unsolicited: u64,
    /// Further responses to a request.
    pub multiple_responses: u64,
    /// Of the unanswered and unsolicited, those given up early because too many waited.
    pub evicted: u64,
    /// From a request to its response, both as they passed here.
    pub turnaround: Durations,
}

impl DelaysView {
    /// As they are.
    #[must_use]
    pub fn new(delays: &Delays) -> Self {
        Self {
            requests: delays.requests,
            answered: delays.answered,
            unanswered: delays.unanswered,
            unsolicited: delays.unsolicited,
            multiple_responses: delays.multiple_responses,
            evicted: delays.evicted,
            turnaround: Durations::new(&delays.turnaround, NANOSECOND),
        }
    }
}

/// A domain on one interface.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DomainView {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// When a message of it was seen first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_seen_timestamp: Option<Timestamp>,
    /// When a message of it was seen last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_timestamp: Option<Timestamp>,
    /// Who is master, of several that announce the one with the best clock; null while nobody is.
    pub master_port_identity: Option<String>,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub master_since_timestamp: Option<Timestamp>,
    /// How often another became master, or nobody was any more.
    pub master_changes: u64,
    /// The clock that the master follows.
    pub grandmaster_identity: Option<String>,
    /// Who announces now.
    pub announcing_port_identities: Vec<String>,
    /// Masters that are known, those that are gone among them.
    pub masters: usize,
    /// Its messages, by type.
    pub messages: BTreeMap<&'static str, Messages>,
    /// Messages that carry an NTP packet, as chrony sends them.
    pub ntp_messages: u64,
    /// Messages of masters that are not listed because there are too many.
    pub unlisted_messages: u64,
    /// Messages whose correction was too large to be said.
    pub unknown_corrections: u64,
    /// Delay_Req and Delay_Resp.
    pub delay_requests: DelaysView,
    /// Pdelay_Req and Pdelay_Resp.
    pub peer_delay_requests: DelaysView,
    /// The last changes, at most 16, oldest first: what, when, and what shows it.
    #[schema(value_type = Vec<Object>)]
    pub changes: Vec<Map<String, Value>>,
}

impl DomainView {
    /// As it is at a moment.
    #[must_use]
    pub fn new(interface: Option<&str>, key: &DomainKey, domain: &Domain, moment: Moment) -> Self {
        let master = domain.master.and_then(|it| domain.masters.get(&it));
        let announced = master.and_then(|it| it.announce);
        let announcing = domain.announcing(moment.time());
        Self {
            place: Place::new(interface, key),
            first_seen_timestamp: timestamp(domain.first_seen),
            last_seen_timestamp: timestamp(domain.last_seen),
            master_port_identity: domain.master.map(port_text),
            master_since_timestamp: domain.master.and(timestamp(domain.master_since)),
            master_changes: domain.master_changes,
            grandmaster_identity: announced.map(|it| clock_text(it.announced.grandmaster)),
            announcing_port_identities: announcing.map(|it| port_text(it.identity)).collect(),
            masters: domain.masters.len(),
            messages: messages(&domain.messages, moment),
            ntp_messages: domain.ntp_messages,
            unlisted_messages: domain.unlisted,
            unknown_corrections: domain.unknown_corrections,
            delay_requests: DelaysView::new(domain.delays()),
            peer_delay_requests: DelaysView::new(domain.peer_delays()),
            changes: domain
                .changes
                .iter()
                .map(|told| told.object(interface))
                .collect(),
        }
    }
}

/// The types that came.
fn messages(rates: &[Rate], moment: Moment) -> BTreeMap<&'static str, Messages> {
    PtpType::ALL
        .into_iter()
        .map(|kind| (kind.name(), &rates[kind.index()]))
        .filter(|(_, rate)| rate.count > 0)
        .map(|(name, rate)| {
            let messages = Messages {
                count: rate.count,
                rate_per_second: moment.rate(rate),
            };
            (name, messages)
        })
        .collect()
}

fn timestamp(unix: i64) -> Option<Timestamp> {
    if unix == Message::NO_TIME {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(unix)).ok()
}

/// The name of a direction; nothing where it is not known.
pub(crate) const fn direction_name(direction: Direction) -> Option<&'static str> {
    match direction {
        Direction::Unknown => None,
        Direction::Ingress => Some("ingress"),
        Direction::Egress => Some("egress"),
    }
}

/// An address of an event as text; nothing where it is not known.
pub(crate) fn address_text(transport: Transport, address: &[u8; 16]) -> Option<String> {
    match transport {
        Transport::UdpIpv4 | Transport::UdpIpv6 => Some(ip(address).to_string()),
        Transport::Ethernet => ethernet_text(address),
    }
}
