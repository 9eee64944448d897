//! Whether the same numbers get to where they are sent.

use anyhow::Result;

use super::servers::unix;
use crate::metrics::{Samples, Sources, model::families};

families! {
    EXPORTS: Counter "ntpmon_otlp_exports_total" ["result"]
        "Exports of these metrics over OTLP since the daemon started, where one is configured: succeeded, or failed, in which case the next one tells all";
    LAST: Gauge "ntpmon_otlp_last_success_timestamp_seconds" []
        "When an export over OTLP last succeeded, in seconds since 1970";
    REJECTED: Counter "ntpmon_otlp_rejected_points_total" []
        "Points that the receiver of exports over OTLP said it did not take, since the daemon started";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    if let Some(progress) = sources.export.progress() {
        let since = Some(sources.started);
        samples.put_since(&EXPORTS, &["succeeded"], progress.succeeded, since);
        samples.put_since(&EXPORTS, &["failed"], progress.failed, since);
        samples.put_since(&REJECTED, &[], progress.rejected, since);
        samples.put_known(&LAST, &[], progress.last_success.map(unix));
    }
    Ok(())
}
