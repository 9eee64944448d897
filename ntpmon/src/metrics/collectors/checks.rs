//! Active checks: how each address that is asked was found last. There may be thousands; those with
//! the lowest names are told.

use anyhow::Result;

use crate::{
    check::{Latest, Status},
    history::view::seconds,
    metrics::{Samples, Sources, model::families},
    ntp::root_seconds,
};

/// Addresses that are told one by one.
const MOST: usize = 2000;

families! {
    KNOWN: Gauge "ntpmon_checks" []
        "Active checks that there are, paused ones among them";
    LEFT_OUT: Gauge "ntpmon_check_addresses_left_out" []
        "Addresses of active checks beyond the 2000 that are told one by one";
    ROUNDS: Counter "ntpmon_check_rounds_total" ["status"]
        "Rounds of all active checks, each address by itself, by what they came to, as ntpmon_check_status_info says it, since the daemon started. A name without an address is a round too";
    KISSES: Counter "ntpmon_check_kiss_of_death_total" ["code"]
        "Rounds of all active checks in which a server sent a kiss code: RATE, DENY, RSTR or other, since the daemon started";
    STATUS: Info "ntpmon_check_status_info" ["check", "server", "address", "status"]
        "What the last round of an active check came to, in one word: always 1. The address is empty where the name has none";
    SUCCESS: Gauge "ntpmon_check_success" ["check", "server", "address"]
        "Whether the last round of an active check was told the time: 1 or 0. Of checks that are not paused, as all that follow";
    REACH: Gauge "ntpmon_check_reach_ratio" ["check", "server", "address"]
        "Share of the last eight rounds of an active check, or of as many as there were, that were told the time: 0 to 1";
    OFFSET: Gauge "ntpmon_check_offset_seconds" ["check", "server", "address"]
        "How far a server is ahead of this host by the median answer of the last round: positive when the server is ahead; missing where the round was not told the time, as the following families up to the root distance";
    DELAY: Gauge "ntpmon_check_delay_seconds" ["check", "server", "address"]
        "Round trip of that answer, without the server's own share";
    DISPERSION: Gauge "ntpmon_check_dispersion_seconds" ["check", "server", "address"]
        "How wrong that offset may be by the clocks' own doing: their precision and their drift meanwhile";
    JITTER: Gauge "ntpmon_check_jitter_seconds" ["check", "server", "address"]
        "How far the offsets of the other answers of the round are from that one, root mean square";
    ROOT_DISTANCE: Gauge "ntpmon_check_root_distance_seconds" ["check", "server", "address"]
        "How far a server's time may be from that of the reference clock, seen from here: half of the root delay and of the round trip, root dispersion, dispersion and jitter";
    ROOT_DELAY: Gauge "ntpmon_check_root_delay_seconds" ["check", "server", "address"]
        "Root delay of a server by the last round of an active check: from there to its reference clock and back, by its own word";
    ROOT_DISPERSION: Gauge "ntpmon_check_root_dispersion_seconds" ["check", "server", "address"]
        "Root dispersion of a server by the last round of an active check: what it says that its clock may be wrong, delay aside";
    STRATUM: Gauge "ntpmon_check_stratum" ["check", "server", "address"]
        "Stratum of a server by the last round of an active check";
    LEAP: Gauge "ntpmon_check_leap_indicator" ["check", "server", "address"]
        "Leap indicator of a server by the last round of an active check: 0 none, 1 a second is inserted today, 2 one is left out, 3 not synchronised";
    INTERVAL: Gauge "ntpmon_check_interval_seconds" ["check", "server", "address"]
        "How often an address is asked now: seldomer than was asked for where the server wants that";
    STOPPED: Gauge "ntpmon_check_stopped" ["check", "server", "address"]
        "Whether an address is not asked any more because it said so: 1 or 0";
    LAST_SUCCESS: Gauge "ntpmon_check_last_success_timestamp_seconds" ["check", "server", "address"]
        "When an address last told the time, in seconds since 1970; missing where it has not since the daemon started";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let Some(checks) = &sources.checks else {
        return Ok(());
    };
    let mut latest = checks.latest();
    latest.retain(|it| !it.paused);
    latest.sort_by(|one, other| (&one.name, one.address).cmp(&(&other.name, other.address)));
    samples.put(&KNOWN, &[], checks.count());
    samples.put(&LEFT_OUT, &[], latest.len().saturating_sub(MOST));
    let (since, rounds) = (Some(sources.started), checks.rounds());
    for (status, count) in rounds.by_status() {
        samples.put_since(&ROUNDS, &[status.name()], count, since);
    }
    for (code, count) in rounds.kisses() {
        samples.put_since(&KISSES, &[code], count, since);
    }
    for it in latest.iter().take(MOST) {
        tell(it, samples);
    }
    Ok(())
}

fn tell(latest: &Latest, samples: &mut Samples) {
    let address = latest.address.map(|it| it.ip().to_string());
    let address = address.unwrap_or_default();
    let place = [&*latest.name, &*latest.server, address.as_str()];
    let round = &latest.round;
    let unsigned = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let [check, server, address] = place;
    samples.put(
        &STATUS,
        &[check, server, address, round.status.name()],
        true,
    );
    samples.put(&SUCCESS, &place, latest.time().is_some());
    samples.put_known(&REACH, &place, latest.reach.ratio());
    samples.put(&INTERVAL, &place, latest.interval.as_secs_f64());
    samples.put(&STOPPED, &place, latest.stopped);
    samples.put_known(&LAST_SUCCESS, &place, latest.last_success.map(seconds));
    // What one said that is not asked any more does not count for ever.
    let has_header = round.time.is_some() || round.status == Status::Unsynchronised;
    let has_header = has_header && !latest.stopped;
    if let Some(header) = round.header().filter(|_| has_header) {
        samples.put(&STRATUM, &place, header.stratum());
        samples.put(&LEAP, &place, header.leap_indicator());
        let (root_delay, root_dispersion) = root_seconds(&header);
        samples.put(&ROOT_DELAY, &place, root_delay);
        samples.put(&ROOT_DISPERSION, &place, root_dispersion);
    }
    let Some(time) = latest.time() else {
        return;
    };
    samples.put(&OFFSET, &place, seconds(time.offset));
    samples.put(&DELAY, &place, seconds(time.delay));
    samples.put(&DISPERSION, &place, unsigned(time.dispersion));
    samples.put_known(&JITTER, &place, time.jitter.map(unsigned));
    samples.put_known(&ROOT_DISTANCE, &place, round.root_distance());
}
