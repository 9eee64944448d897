//! The captures: what is watched, how, and what became of each packet.

use anyhow::{Context, Result};
use ntpmon_common::Counter;
use tokio::runtime::Handle;

use crate::{
    metrics::{Samples, Sources, model::families},
    monitor::control::State,
};

/// Interfaces that are told by name.
pub(super) const MOST: usize = 256;

families! {
    UP: Gauge "ntpmon_interface_up" ["interface"]
        "Whether packets of a watched interface are captured now: 0 when it is gone, cannot be captured, or was stopped over the API";
    WATCHED: Gauge "ntpmon_interface_watched" ["interface"]
        "Whether an interface is to be captured: 0 when it was stopped over the API. What is 1 here and 0 in ntpmon_interface_up is at fault";
    MODE: Info "ntpmon_interface_info" ["interface", "mode"]
        "How the programs are attached to an interface that is captured: always 1";
    PACKETS: Counter "ntpmon_interface_packets_total" ["interface", "result"]
        "Packets that passed the programs at an interface, both directions, each in one result: emitted is NTP that was taken, ring_full is NTP that was lost because it came faster than it was taken, ptp_emitted and ptp_ring_full are the same of PTP, all others are neither or malformed. Counted in the kernel since the interface has been watched with its options";
    RINGS: Gauge "ntpmon_interface_rings" ["interface"]
        "Ring buffers of an interface that is captured, each with a thread that empties it";
    OUTPUT: Counter "ntpmon_interface_output_exchanges_total" ["interface", "result"]
        "Exchanges of an interface with an output file: written to it, or lost because the disk was full or too slow";
    WRITING: Gauge "ntpmon_interface_output_up" ["interface"]
        "Whether the output file of an interface can be written";
    LEFT_OUT: Gauge "ntpmon_interfaces_left_out" []
        "Watched interfaces beyond 256, which are not told one by one";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let statuses = Handle::current()
        .block_on(sources.control.statuses())
        .context("asking for the interfaces")?;
    // Others of this host were never to be watched.
    let watched: Vec<_> = statuses
        .iter()
        .filter(|it| it.state != State::NotMonitoring || it.since.is_some())
        .collect();
    let left_out = watched.len().saturating_sub(MOST);
    samples.put(&LEFT_OUT, &[], left_out);
    for status in watched.into_iter().take(MOST) {
        let name = status.interface.as_str();
        let is_captured = status.state == State::Running;
        samples.put(&UP, &[name], is_captured);
        samples.put(&WATCHED, &[name], status.state != State::NotMonitoring);
        if let Some(mode) = status.mode.as_ref().filter(|_| is_captured) {
            samples.put(&MODE, &[name, mode], true);
        }
        if is_captured {
            samples.put(&RINGS, &[name], status.rings);
        }
        if status.since.is_some() {
            for counter in Counter::ALL {
                let count = status.counters.get(counter);
                samples.put_since(&PACKETS, &[name, counter.name()], count, status.since);
            }
        }
        if let Some(output) = &status.output {
            samples.put(&OUTPUT, &[name, "written"], output.written);
            samples.put(&OUTPUT, &[name, "lost"], output.lost);
            samples.put(&WRITING, &[name], output.writing);
        }
    }
    Ok(())
}
