//! What happened on each interface since the database began. It comes from the totals that were
//! written, so that nothing that was told is gone after a restart: these counters go on over it.

use anyhow::Result;

use crate::{
    history::{histogram::Histogram, measure::Measured, rollup::Count},
    metrics::{
        Family, Samples, Sources, Value,
        model::{Buckets, families},
    },
};

use super::interfaces::MOST;

families! {
    EXCHANGES: Counter "ntpmon_exchanges_total" ["interface", "result"]
        "Requests that asked something new, by whether a response was seen in time. Since the database began, over restarts, as the following families that have an interface";
    BY_VERSION: Counter "ntpmon_exchanges_by_version_total" ["interface", "version"]
        "Exchanges by the NTP version of the request";
    BY_MODE: Counter "ntpmon_exchanges_by_mode_total" ["interface", "mode"]
        "Exchanges by the NTP mode of the request: client, symmetric_active, symmetric_passive, or unspecified as in NTPv1";
    BY_STRATUM: Counter "ntpmon_exchanges_by_stratum_total" ["interface", "stratum"]
        "Answered exchanges by the stratum of the response; 16 has all from 16 on, 0 is a kiss of death or not synchronised";
    BY_CLOCK: Counter "ntpmon_exchanges_by_client_clock_total" ["interface", "client_clock"]
        "Exchanges by whether the transmit timestamps of the client were its clock: honest, randomised, or unknown as long as too few were seen";
    KISSES: Counter "ntpmon_kiss_of_death_total" ["interface"]
        "Responses with a kiss code, such as RATE or DENY";
    UNSYNCHRONISED: Counter "ntpmon_unsynchronised_responses_total" ["interface"]
        "Responses from which no time can be taken, other than kisses of death";
    INTERLEAVED: Counter "ntpmon_interleaved_exchanges_total" ["interface"]
        "Exchanges in interleaved mode";
    PACKETS: Counter "ntpmon_packets_total" ["interface", "kind"]
        "NTP packets that were paired or counted, each in one kind: requests (mode 3), responses (mode 4), symmetric (modes 1 and 2), broadcast (mode 5), control (mode 6), private (mode 7)";
    UNSOLICITED: Counter "ntpmon_unsolicited_responses_total" ["interface"]
        "Responses to which no request was waiting, late ones among them";
    LATE: Counter "ntpmon_late_responses_total" ["interface"]
        "Unsolicited responses whose request was seen but had timed out";
    DUPLICATES: Counter "ntpmon_duplicate_requests_total" ["interface"]
        "Requests that were retransmissions";
    MULTIPLE: Counter "ntpmon_multiple_responses_total" ["interface"]
        "Further responses to a request that was answered";
    EVICTED: Counter "ntpmon_pairing_evicted_total" ["interface"]
        "Requests and unmatched responses that were given up before their time because too many waited";
    LATENCY: Histogram "ntpmon_client_to_server_latency_seconds" ["interface"]
        "T2 - T1 of exchanges whose client's clock can be believed: the way there, plus how far the server's clock is ahead of the client's. May be negative, so it has no sum. A value within 3 % of a bound may be counted on its other side";
    PROCESSING: Histogram "ntpmon_server_processing_time_seconds" ["interface"]
        "T3 - T2 by the server's own clock, from receiving the request to sending the response. Negative where that clock was stepped, so it has no sum. A value within 3 % of a bound may be counted on its other side";
    TOTAL: Histogram "ntpmon_total_process_time_seconds" ["interface"]
        "From the request's passing this host to the response's, by this host's monotonic clock. A value within 3 % of a bound may be counted on its other side; the sum is exact";
    CLIENTS: Gauge "ntpmon_clients" ["interface"]
        "Clients with a record";
    CLIENTS_FORGOTTEN: Counter "ntpmon_clients_forgotten_total" ["interface"]
        "Records of clients that were removed: too old, or to make room";
    WITHOUT_CLIENT: Counter "ntpmon_exchanges_without_client_total" ["interface"]
        "Exchanges of clients that never got a record: there were too many";
    LEFT_OUT: Gauge "ntpmon_exchanges_interfaces_left_out" []
        "Interfaces beyond the 256 with the most exchanges since the database began, which are not told one by one";
}

const PLAIN: &[(&Family, Count)] = &[
    (&KISSES, Count::kiss_of_death),
    (&UNSYNCHRONISED, Count::unsynchronised),
    (&INTERLEAVED, Count::interleaved),
    (&UNSOLICITED, Count::unsolicited),
    (&LATE, Count::late),
    (&DUPLICATES, Count::duplicates),
    (&MULTIPLE, Count::multiple_responses),
    (&EVICTED, Count::evicted),
];

const KINDS: [Count; 6] = [
    Count::requests,
    Count::responses,
    Count::symmetric,
    Count::broadcast,
    Count::control,
    Count::private,
];

/// Modes that ask, by their number.
const MODES: [(usize, &str); 4] = [
    (0, "unspecified"),
    (1, "symmetric_active"),
    (2, "symmetric_passive"),
    (3, "client"),
];

const CLOCKS: [&str; 3] = ["unknown", "honest", "randomised"];

/// For durations that are positive, but for a clock that was stepped.
const POSITIVE: &[f64] = &[
    0.0,
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
];

/// For those of either sign.
const SIGNED: &[f64] = &[
    -10.0, -1.0, -0.1, -0.01, -0.001, -0.000_1, 0.0, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5,
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0,
];

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let (measured, left_out) = sources.history.measured(MOST);
    samples.put(&LEFT_OUT, &[], left_out);
    for interface in &measured {
        tell(interface, samples);
    }
    Ok(())
}

fn tell(measured: &Measured, samples: &mut Samples) {
    let name = measured.name.as_str();
    let whole = &measured.whole;
    for result in [Count::answered, Count::unanswered] {
        samples.put(&EXCHANGES, &[name, result.name()], whole.get(result));
    }
    for (family, count) in PLAIN {
        samples.put(family, &[name], whole.get(*count));
    }
    for kind in KINDS {
        samples.put(&PACKETS, &[name, kind.name()], whole.get(kind));
    }
    for (version, count) in whole.versions.iter().enumerate() {
        // The programs let no others pass; what there is nevertheless is told.
        if (1..=5).contains(&version) || *count > 0 {
            samples.put(&BY_VERSION, &[name, &version.to_string()], *count);
        }
    }
    for (mode, text) in MODES {
        samples.put(&BY_MODE, &[name, text], whole.modes[mode]);
    }
    for (stratum, count) in whole.strata.iter().enumerate() {
        samples.put(&BY_STRATUM, &[name, &stratum.to_string()], *count);
    }
    for (clock, count) in CLOCKS.into_iter().zip(whole.clocks) {
        samples.put(&BY_CLOCK, &[name, clock], count);
    }
    samples.put(&LATENCY, &[name], buckets(&whole.latency, SIGNED, false));
    let processing = buckets(&whole.processing, POSITIVE, false);
    samples.put(&PROCESSING, &[name], processing);
    samples.put(&TOTAL, &[name], buckets(&whole.total, POSITIVE, true));
    samples.put(&CLIENTS, &[name], measured.clients);
    samples.put(&CLIENTS_FORGOTTEN, &[name], measured.forgotten_clients);
    samples.put(&WITHOUT_CLIENT, &[name], measured.other.exchanges);
}

/// A histogram of nanoseconds over bounds in seconds.
pub(super) fn buckets(histogram: &Histogram, bounds: &'static [f64], has_sum: bool) -> Value {
    let nanoseconds = bounds.iter().map(|bound| (bound * 1e9).round() as i64);
    let mut counts = histogram.not_above(nanoseconds);
    counts.push(histogram.count());
    Value::Histogram(Buckets {
        bounds,
        counts,
        sum: has_sum.then(|| histogram.sum() as f64 / 1e9),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_over_the_bounds_and_ends_with_all_values() {
        let mut histogram = Histogram::default();
        for value in [-2_000_000_000, -5, 0, 900, 90_000, 40_000_000, i64::MAX] {
            histogram.add(value);
        }
        let Value::Histogram(signed) = buckets(&histogram, SIGNED, false) else {
            panic!("no histogram")
        };
        assert_eq!(signed.sum, None);
        assert_eq!(signed.counts.len(), SIGNED.len() + 1);
        assert!(signed.counts.is_sorted());
        let at = |bound: f64| {
            let place = SIGNED.iter().position(|it| *it == bound).unwrap();
            signed.counts[place]
        };
        assert_eq!(
            [
                at(-10.0),
                at(-1.0),
                at(0.0),
                at(0.000_1),
                at(0.025),
                at(0.05)
            ],
            [0, 1, 3, 5, 5, 6]
        );
        assert_eq!(signed.count(), 7);
        let mut positive = Histogram::default();
        positive.add(1_500_000_000);
        positive.add(500_000_000);
        let Value::Histogram(positive) = buckets(&positive, POSITIVE, true) else {
            panic!("no histogram")
        };
        assert_eq!((positive.sum, positive.count()), (Some(2.0), 2));
        assert!(SIGNED.is_sorted() && POSITIVE.is_sorted());
    }
}
