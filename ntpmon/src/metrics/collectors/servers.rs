//! The servers that were asked: what their answers say of their clocks. Those with the most
//! exchanges are told one by one, for there may be as many as somebody forges.

use anyhow::Result;
use jiff::Timestamp;

use crate::{
    history::view::Server,
    metrics::{Family, Samples, Sources, model::families},
};

/// Servers that are told one by one.
const MOST: usize = 100;

families! {
    KNOWN: Gauge "ntpmon_servers" []
        "Servers with a record, each address on each interface";
    LEFT_OUT: Gauge "ntpmon_servers_left_out" []
        "Servers beyond the 100 with the most exchanges, which are not told one by one";
    ABOUT: Info "ntpmon_server_info" ["server", "interface", "reference_id", "version"]
        "What a server said of itself last: always 1. The reference id is letters or an IPv4 address, which for a server that follows another over IPv6 is a hash";
    EXCHANGES: Counter "ntpmon_server_exchanges_total" ["server", "interface", "result"]
        "Requests to a server, by whether a response was seen in time. Since it was seen first, over restarts, as the following counters";
    KISSES: Counter "ntpmon_server_kiss_of_death_total" ["server", "interface"]
        "Responses of a server with a kiss code";
    UNSYNCHRONISED: Counter "ntpmon_server_unsynchronised_responses_total" ["server", "interface"]
        "Responses of a server from which no time can be taken, other than kisses of death";
    INTERLEAVED: Counter "ntpmon_server_interleaved_exchanges_total" ["server", "interface"]
        "Exchanges with a server in interleaved mode";
    STRATUM: Gauge "ntpmon_server_stratum" ["server", "interface"]
        "Stratum in the last response of a server";
    LEAP: Gauge "ntpmon_server_leap_indicator" ["server", "interface"]
        "Leap indicator in the last response of a server: 0 none, 1 a second is inserted today, 2 one is left out, 3 not synchronised";
    ROOT_DELAY: Gauge "ntpmon_server_root_delay_seconds" ["server", "interface"]
        "Root delay in the last response of a server";
    ROOT_DISPERSION: Gauge "ntpmon_server_root_dispersion_seconds" ["server", "interface"]
        "Root dispersion in the last response of a server";
    OFFSET: Gauge "ntpmon_server_offset_seconds" ["server", "interface"]
        "How far a server's clock is ahead of this host's, by the last exchange in which this host was the client: positive when the server is ahead. From the times that the kernel saw the packets at";
    OFFSET_MEDIAN: Gauge "ntpmon_server_offset_median_seconds" ["server", "interface"]
        "As ntpmon_server_offset_seconds, and half of all, recent ones counting most, are not above";
    DELAY: Gauge "ntpmon_server_delay_seconds" ["server", "interface"]
        "Round trip to a server without the server's own share, by the last exchange in which this host was the client";
    DELAY_MEDIAN: Gauge "ntpmon_server_delay_median_seconds" ["server", "interface"]
        "As ntpmon_server_delay_seconds, and half of all, recent ones counting most, are not above";
    PROCESSING_MEDIAN: Gauge "ntpmon_server_processing_time_median_seconds" ["server", "interface"]
        "T3 - T2 by the server's own clock: half of all, recent ones counting most, are not above";
    PROCESSING_P99: Gauge "ntpmon_server_processing_time_p99_seconds" ["server", "interface"]
        "T3 - T2 by the server's own clock: 99 of 100, recent ones counting most, are not above";
    LAST_ANSWER: Gauge "ntpmon_server_last_response_timestamp_seconds" ["server", "interface"]
        "When a server was asked what it answered last, in seconds since 1970";
    LAST_SEEN: Gauge "ntpmon_server_last_request_timestamp_seconds" ["server", "interface"]
        "When a server was asked last, in seconds since 1970";
}

type Counted = fn(&Server) -> u64;
type Told = fn(&Server) -> Option<f64>;

/// What only grows.
const COUNTERS: &[(&Family, Counted)] = &[
    (&KISSES, |it| it.kiss_of_death),
    (&UNSYNCHRONISED, |it| it.unsynchronised),
    (&INTERLEAVED, |it| it.interleaved.into()),
];

/// What goes up and down, where it is known.
const GAUGES: &[(&Family, Told)] = &[
    (&STRATUM, |it| it.stratum.map(f64::from)),
    (&LEAP, |it| it.leap_indicator.map(f64::from)),
    (&ROOT_DELAY, |it| it.root_delay),
    (&ROOT_DISPERSION, |it| it.root_dispersion),
    (&OFFSET, |it| it.offset_seconds),
    (&OFFSET_MEDIAN, |it| it.offset_median_seconds),
    (&DELAY, |it| it.delay_seconds),
    (&DELAY_MEDIAN, |it| it.delay_median_seconds),
    (&PROCESSING_MEDIAN, |it| {
        it.server_processing_time_median_seconds
    }),
    (&PROCESSING_P99, |it| it.server_processing_time_p99_seconds),
    (&LAST_ANSWER, |it| it.last_answer_timestamp.map(unix)),
    (&LAST_SEEN, |it| Some(unix(it.last_seen_timestamp))),
];

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let (servers, left_out) = sources.history.busiest_servers(MOST);
    samples.put(&KNOWN, &[], servers.len() as u64 + left_out);
    samples.put(&LEFT_OUT, &[], left_out);
    for server in &servers {
        let (address, interface) = (server.server_ip.as_str(), server.interface_name.as_str());
        if let Some(version) = server.ntp_version {
            let reference = server.reference_id.as_deref().unwrap_or_default();
            let labels = [address, interface, reference, &version.to_string()];
            samples.put(&ABOUT, &labels, true);
        }
        for (result, count) in [
            ("answered", server.answered),
            ("unanswered", server.unanswered),
        ] {
            samples.put(&EXCHANGES, &[address, interface, result], count);
        }
        for (family, count) in COUNTERS {
            samples.put(family, &[address, interface], count(server));
        }
        for (family, value) in GAUGES {
            samples.put_known(family, &[address, interface], value(server));
        }
    }
    Ok(())
}

pub(super) fn unix(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}
