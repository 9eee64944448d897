//! All clients together: whose clock can be believed, how wrong those are, how often the busiest asks,
//! and what comes back for control and private packets. None by name: there may be as many as somebody
//! forges.

use anyhow::Result;

use crate::{
    history::view::{ERROR_CLASSES, MORE},
    metrics::{Samples, Sources, model::families},
};

families! {
    CLOCKS: Gauge "ntpmon_clients_by_clock" ["clock"]
        "Clients with a record by what is known of their clock: honest (they write the time into their requests), randomised or unknown. Counted at most a second ago, as all of these";
    ERRORS: Gauge "ntpmon_clients_by_clock_error" ["class"]
        "Honest clients by how wrong their clock is against this host's in either direction: by no more than so many seconds, and by more than the class before";
    WORST: Gauge "ntpmon_client_worst_clock_error_seconds" []
        "Error of the client's clock that is furthest from zero, of those seen in the last hour: positive when the client is ahead of this host";
    BUSIEST: Gauge "ntpmon_client_busiest_requests_per_second" []
        "Rate of requests of the client that asks most often, as of late";
    AMPLIFICATION: Gauge "ntpmon_amplification_ratio" []
        "Bytes that were answered to control and private packets for each byte that was asked, in this minute and the one before; missing where nothing was asked";
    BYTES: Counter "ntpmon_abuse_bytes_total" ["direction"]
        "UDP payload of control (mode 6) and private (mode 7) packets, in towards the server or out towards the client; over restarts";
    PACKETS: Counter "ntpmon_abuse_packets_total" ["direction"]
        "Control (mode 6) and private (mode 7) packets, in towards the server or out towards the client; over restarts";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let figures = sources.history.client_figures();
    for (clock, count) in ["unknown", "honest", "randomised"]
        .iter()
        .zip(figures.clocks)
    {
        samples.put(&CLOCKS, &[clock], count);
    }
    let classes = ERROR_CLASSES.iter().map(|(name, _)| *name).chain([MORE]);
    for (class, count) in classes.zip(figures.errors) {
        samples.put(&ERRORS, &[class], count);
    }
    samples.put_known(&WORST, &[], figures.worst_error_seconds);
    samples.put_known(&BUSIEST, &[], figures.busiest_rate_per_second);
    samples.put_known(&AMPLIFICATION, &[], figures.amplification);
    for (place, direction) in ["in", "out"].iter().enumerate() {
        samples.put(&BYTES, &[direction], figures.abuse_bytes[place]);
        samples.put(&PACKETS, &[direction], figures.abuse_packets[place]);
    }
    Ok(())
}
