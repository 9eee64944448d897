//! How the history is kept: what comes in, what is written, and what a bound or a full disk costs.

use anyhow::Result;

use super::{exchanges::buckets, servers::unix};
use crate::metrics::{Samples, Sources, model::families};

families! {
    RECEIVED: Counter "ntpmon_history_exchanges_received_total" []
        "Exchanges that were handed to the history since the daemon started";
    WRITTEN: Counter "ntpmon_history_exchanges_written_total" []
        "Exchanges of those that are written";
    WAITING: Gauge "ntpmon_history_exchanges_waiting" []
        "Exchanges of those that wait for the next flush";
    FLUSH: Histogram "ntpmon_history_flush_duration_seconds" []
        "How long it took to write what had come in, since the daemon started. A value within 3 % of a bound may be counted on its other side; the sum is exact";
    FAILURES: Counter "ntpmon_history_flush_failures_total" []
        "Flushes that failed since the daemon started; what they were to write is written with the next";
    LAST_FLUSH: Gauge "ntpmon_history_last_flush_timestamp_seconds" []
        "When a flush last succeeded, in seconds since 1970";
    CHECKPOINTS: Counter "ntpmon_history_checkpoints_total" []
        "How often changes of clients were all put from runs into their blocks, since the daemon started";
    IN_RUNS: Gauge "ntpmon_history_changes_in_runs" []
        "Changes of clients that are written in runs and not yet in their blocks";
    INSERTED: Counter "ntpmon_history_clients_inserted_total" []
        "Records of clients that were made since the daemon started";
    UPDATED: Counter "ntpmon_history_clients_updated_total" []
        "Records of clients that were changed, once for each flush, since the daemon started";
    SESSIONS: Counter "ntpmon_history_sessions_kept_total" []
        "Exchanges that were kept one by one since the daemon started";
    DROPPED: Counter "ntpmon_history_dropped_total" ["what"]
        "What did not fit or was let go of since the daemon started: sessions_not_kept (more a second than allowed), clients_refused (exchanges of clients without room for a record), clients_evicted and clients_expired (records removed for others, or as too old), sessions_without_server (exchanges with servers without room for a record), servers_let_go (servers whose clock is not followed any more, for others)";
    DATABASE: Gauge "ntpmon_history_database_bytes" []
        "Size of the database's file";
    FREE: Gauge "ntpmon_history_filesystem_available_bytes" []
        "Room that is left for the daemon on the file system of the database";
    SIZE: Gauge "ntpmon_history_filesystem_size_bytes" []
        "Size of the file system of the database";
}

/// Of flushes, in seconds.
const BOUNDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Of what is dropped, what is told here; the rest is told by interface.
const DROPS: [&str; 6] = [
    "sessions_not_kept",
    "clients_refused",
    "clients_evicted",
    "clients_expired",
    "sessions_without_server",
    "servers_let_go",
];

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let statistics = sources.history.service_statistics();
    let since = Some(sources.started);
    for (family, count) in [
        (&RECEIVED, statistics.total_received),
        (&WRITTEN, statistics.total_processed),
        (&FAILURES, statistics.processing_errors),
        (&CHECKPOINTS, statistics.checkpoint_count),
        (&INSERTED, statistics.total_inserted),
        (&UPDATED, statistics.total_updated),
        (&SESSIONS, statistics.sessions_kept),
    ] {
        samples.put_since(family, &[], count, since);
    }
    for what in DROPS {
        if let Some(count) = statistics.drops.get(what) {
            samples.put_since(&DROPPED, &[what], *count, since);
        }
    }
    let flushes = buckets(&sources.history.flushes(), BOUNDS, true);
    samples.put_since(&FLUSH, &[], flushes, since);
    samples.put(&WAITING, &[], statistics.queue_size);
    samples.put(&IN_RUNS, &[], statistics.journal_clients);
    samples.put_known(&LAST_FLUSH, &[], statistics.last_flush_timestamp.map(unix));
    samples.put(&DATABASE, &[], statistics.database_bytes);
    // Where it cannot be asked, nothing is told: that the file cannot be written is told elsewhere.
    if let Ok(system) = rustix::fs::statvfs(statistics.database_path.as_str()) {
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        samples.put(&FREE, &[], bytes(system.f_bavail));
        samples.put(&SIZE, &[], bytes(system.f_blocks));
    }
    Ok(())
}
