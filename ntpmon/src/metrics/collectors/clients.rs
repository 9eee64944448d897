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
    BYTES: Counter "ntpmon_abuse_bytes_total" ["mode", "direction"]
        "UDP payload of control (mode 6) and private (mode 7) packets, in towards the server or out towards the client; over restarts";
    PACKETS: Counter "ntpmon_abuse_packets_total" ["mode", "direction"]
        "Control (mode 6) and private (mode 7) packets, in towards the server or out towards the client; over restarts";
    MONLIST: Counter "ntpmon_abuse_monlist_requests_total" []
        "Private packets that asked a server for the list of its clients (request codes 20 and 42), whether or not it was answered; over restarts";
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
    let abuse = figures.abuse;
    for (mode, it) in [("control", abuse.control), ("private", abuse.private)] {
        samples.put(&BYTES, &[mode, "in"], it.bytes_in);
        samples.put(&BYTES, &[mode, "out"], it.bytes_out);
        samples.put(&PACKETS, &[mode, "in"], it.packets_in);
        samples.put(&PACKETS, &[mode, "out"], it.packets_out);
    }
    samples.put(&MONLIST, &[], abuse.monlist_requests);
    Ok(())
}
