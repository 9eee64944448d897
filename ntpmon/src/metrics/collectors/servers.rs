//! The servers that were asked: what their answers say of their clocks. Those with the most
//! exchanges are told one by one, for there may be as many as somebody forges.

use anyhow::Result;
use jiff::Timestamp;

use crate::{
    history::servers::ServerHealth,
    metrics::{Family, Samples, Sources, model::families},
};

/// Servers that are told one by one.
const MOST: usize = 100;

families! {
    KNOWN: Gauge "ntpmon_servers" []
        "Servers with a record, each address on each interface";
    LEFT_OUT: Gauge "ntpmon_servers_left_out" []
        "Servers beyond the 100 with the most exchanges, which are not told one by one";
    EVENTS: Counter "ntpmon_events_total" ["kind"]
        "What happened to servers and to this host's clock, as /api/ntp/events lists it, by kind, since the daemon started";
    EVENTS_LEFT_OUT: Counter "ntpmon_events_left_out_total" []
        "Events that were too many to be kept, since the daemon started: they count in ntpmon_events_total, and are not listed";
    ABOUT: Info "ntpmon_server_info" ["server", "interface", "reference_id", "version", "role"]
        "What a server said of itself last: always 1. The reference id is letters or an IPv4 address, which for a server that follows another over IPv6 is a hash; the role is what this host is to those who ask: client, server or transit";
    EXCHANGES: Counter "ntpmon_server_exchanges_total" ["server", "interface", "result"]
        "Requests to a server, by whether a response was seen in time. Since it was seen first, over restarts, as the following counters";
    KISSES: Counter "ntpmon_server_kiss_of_death_total" ["server", "interface", "code"]
        "Responses of a server with a kiss code: RATE, DENY, RSTR or other";
    UNSYNCHRONISED: Counter "ntpmon_server_unsynchronised_responses_total" ["server", "interface"]
        "Responses of a server from which no time can be taken, other than kisses of death";
    MULTIPLE: Counter "ntpmon_server_multiple_responses_total" ["server", "interface"]
        "Further responses of a server to a request that was answered";
    UNSOLICITED: Counter "ntpmon_server_unsolicited_responses_total" ["server", "interface"]
        "Responses of a server to no request";
    REACH: Gauge "ntpmon_server_reach_ratio" ["server", "interface"]
        "Share of the last eight requests to a server, or of as many as there were, that it answered: 0 to 1";
    STRATUM: Gauge "ntpmon_server_stratum" ["server", "interface"]
        "Stratum in the last response of a server";
    LEAP: Gauge "ntpmon_server_leap_indicator" ["server", "interface"]
        "Leap indicator in the last response of a server: 0 none, 1 a second is inserted today, 2 one is left out, 3 not synchronised";
    REFERENCE: Gauge "ntpmon_server_reference_timestamp_seconds" ["server", "interface"]
        "When a server's clock was set last, by its last response, in seconds since 1970";
    ROOT_DELAY: Gauge "ntpmon_server_root_delay_seconds" ["server", "interface"]
        "Root delay in the last response of a server: from there to its reference clock and back";
    ROOT_DISPERSION: Gauge "ntpmon_server_root_dispersion_seconds" ["server", "interface"]
        "Root dispersion in the last response of a server: what it says that its clock may be wrong, delay aside";
    ROOT_DISTANCE: Gauge "ntpmon_server_root_distance_seconds" ["server", "interface"]
        "Half of the root delay, and the root dispersion, in the last response of a server";
    OFFSET: Gauge "ntpmon_server_offset_seconds" ["server", "interface"]
        "How far a server's clock is ahead of this host's, by its last response: positive when the server is ahead. Only where this host asked, from the times at which the kernel saw the packets, as the following families up to the samples, which are of the last 64 responses, none older than two hours than the last";
    OFFSET_MEDIAN: Gauge "ntpmon_server_offset_median_seconds" ["server", "interface"]
        "Median of how far a server's clock is ahead of this host's: positive when the server is ahead";
    OFFSET_SPREAD: Gauge "ntpmon_server_offset_spread_seconds" ["server", "interface"]
        "How the offsets scatter: 1.4826 times the median distance from their median";
    OFFSET_MINIMUM: Gauge "ntpmon_server_offset_minimum_seconds" ["server", "interface"]
        "Least of the offsets: the one that is furthest behind";
    OFFSET_MAXIMUM: Gauge "ntpmon_server_offset_maximum_seconds" ["server", "interface"]
        "Greatest of the offsets: the one that is furthest ahead";
    DELAY: Gauge "ntpmon_server_delay_seconds" ["server", "interface"]
        "Round trip to a server without the server's own share, by its last response";
    DELAY_MEDIAN: Gauge "ntpmon_server_delay_median_seconds" ["server", "interface"]
        "Median of the round trips without the server's own share";
    DELAY_SPREAD: Gauge "ntpmon_server_delay_spread_seconds" ["server", "interface"]
        "How those round trips scatter: 1.4826 times the median distance from their median";
    DELAY_MINIMUM: Gauge "ntpmon_server_delay_minimum_seconds" ["server", "interface"]
        "Least of the round trips without the server's own share";
    DISPERSION: Gauge "ntpmon_server_dispersion_median_seconds" ["server", "interface"]
        "Median of what an exchange leaves open: both precisions, and the drift meanwhile";
    DISPERSION_SPREAD: Gauge "ntpmon_server_dispersion_spread_seconds" ["server", "interface"]
        "How the dispersions scatter: 1.4826 times the median distance from their median";
    JITTER: Gauge "ntpmon_server_jitter_seconds" ["server", "interface"]
        "Root mean square of the offsets' differences to that of the shortest exchange";
    DISTANCE: Gauge "ntpmon_server_synchronisation_distance_seconds" ["server", "interface"]
        "How far this host's clock may be from the reference clock by a server: root distance, half of the median delay, median dispersion, and jitter";
    SAMPLES: Gauge "ntpmon_server_window_samples" ["server", "interface"]
        "Responses that those medians are of";
    PROCESSING_MEDIAN: Gauge "ntpmon_server_processing_time_median_seconds" ["server", "interface"]
        "T3 - T2 by the server's own clock: half of all, recent ones counting most, are not above";
    PROCESSING_P99: Gauge "ntpmon_server_processing_time_p99_seconds" ["server", "interface"]
        "T3 - T2 by the server's own clock: 99 of 100, recent ones counting most, are not above";
    TOTAL_MEDIAN: Gauge "ntpmon_server_total_process_time_median_seconds" ["server", "interface"]
        "From a request's passing this host to the response's: half of all, recent ones counting most, are not above";
    TOTAL_P99: Gauge "ntpmon_server_total_process_time_p99_seconds" ["server", "interface"]
        "From a request's passing this host to the response's: 99 of 100, recent ones counting most, are not above";
    LAST_ANSWER: Gauge "ntpmon_server_last_response_timestamp_seconds" ["server", "interface"]
        "When a server was asked what it answered last, in seconds since 1970";
    LAST_SEEN: Gauge "ntpmon_server_last_request_timestamp_seconds" ["server", "interface"]
        "When a server was asked last, in seconds since 1970";
}

type Counted = fn(&ServerHealth) -> u64;
type Told = fn(&ServerHealth) -> Option<f64>;

/// What only grows.
const COUNTERS: &[(&Family, Counted)] = &[
    (&UNSYNCHRONISED, |it| it.unsynchronised),
    (&MULTIPLE, |it| it.multiple_responses),
    (&UNSOLICITED, |it| it.unsolicited_responses),
];

/// What goes up and down, where it is known.
const GAUGES: &[(&Family, Told)] = &[
    (&REACH, |it| it.reach_ratio),
    (&STRATUM, |it| it.stratum.map(f64::from)),
    (&LEAP, |it| it.leap_indicator.map(f64::from)),
    (&REFERENCE, |it| it.reference_timestamp),
    (&ROOT_DELAY, |it| it.root_delay_seconds),
    (&ROOT_DISPERSION, |it| it.root_dispersion_seconds),
    (&ROOT_DISTANCE, |it| it.root_distance_seconds),
    (&OFFSET, |it| it.offset_seconds),
    (&OFFSET_MEDIAN, |it| it.offset_median_seconds),
    (&OFFSET_SPREAD, |it| it.offset_spread_seconds),
    (&OFFSET_MINIMUM, |it| it.offset_min_seconds),
    (&OFFSET_MAXIMUM, |it| it.offset_max_seconds),
    (&DELAY, |it| it.delay_seconds),
    (&DELAY_MEDIAN, |it| it.delay_median_seconds),
    (&DELAY_SPREAD, |it| it.delay_spread_seconds),
    (&DELAY_MINIMUM, |it| it.delay_min_seconds),
    (&DISPERSION, |it| it.dispersion_median_seconds),
    (&DISPERSION_SPREAD, |it| it.dispersion_spread_seconds),
    (&JITTER, |it| it.jitter_seconds),
    (&DISTANCE, |it| it.synchronisation_distance_seconds),
    (&SAMPLES, |it| Some(it.window_samples as f64)),
    (&PROCESSING_MEDIAN, |it| {
        it.server_processing_time_median_seconds
    }),
    (&PROCESSING_P99, |it| it.server_processing_time_p99_seconds),
    (&TOTAL_MEDIAN, |it| it.total_process_time_median_seconds),
    (&TOTAL_P99, |it| it.total_process_time_p99_seconds),
    (&LAST_ANSWER, |it| it.last_answer_timestamp.map(unix)),
    (&LAST_SEEN, |it| Some(unix(it.last_seen_timestamp))),
];

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let (servers, left_out) = sources.history.busiest_servers(MOST);
    samples.put(&KNOWN, &[], servers.len() as u64 + left_out);
    samples.put(&LEFT_OUT, &[], left_out);
    for (kind, count) in sources.history.findings_counted() {
        samples.put_since(&EVENTS, &[kind], count, Some(sources.started));
    }
    let left_out = sources.history.findings_left_out();
    samples.put_since(&EVENTS_LEFT_OUT, &[], left_out, Some(sources.started));
    for server in &servers {
        tell(server, samples);
    }
    Ok(())
}

fn tell(server: &ServerHealth, samples: &mut Samples) {
    let (address, interface) = (server.server_ip.as_str(), server.interface_name.as_str());
    let since = Some(server.first_seen_timestamp);
    if let Some(version) = server.ntp_version {
        let reference = server.reference_id.as_deref().unwrap_or_default();
        let role = server.role.as_deref().unwrap_or_default();
        let labels = [address, interface, reference, &version.to_string(), role];
        samples.put(&ABOUT, &labels, true);
    }
    for (result, count) in [
        ("answered", server.answered),
        ("unanswered", server.unanswered),
    ] {
        samples.put_since(&EXCHANGES, &[address, interface, result], count, since);
    }
    let kisses = server.kiss_of_death;
    for (code, count) in [
        ("RATE", kisses.rate),
        ("DENY", kisses.deny),
        ("RSTR", kisses.rstr),
        ("other", kisses.other),
    ] {
        let count = u64::from(count);
        samples.put_since(&KISSES, &[address, interface, code], count, since);
    }
    for (family, count) in COUNTERS {
        samples.put_since(family, &[address, interface], count(server), since);
    }
    for (family, value) in GAUGES {
        samples.put_known(family, &[address, interface], value(server));
    }
}

pub(super) fn unix(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}
