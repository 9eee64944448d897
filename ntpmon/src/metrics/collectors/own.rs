//! How the collectors themselves fared. No collector: it comes from those who ask them.

use std::time::Duration;

use crate::metrics::{Samples, model::families};

families! {
    SUCCESS: Gauge "ntpmon_collector_success" ["collector"]
        "Whether a part told its metrics just now: 0 when it failed or said nothing for 2 s, and all its families are missing";
    DURATION: Gauge "ntpmon_collector_duration_seconds" ["collector"]
        "How long a part took to tell its metrics just now";
}

pub(in crate::metrics) fn tell(
    samples: &mut Samples,
    collector: &str,
    succeeded: bool,
    took: Duration,
) {
    samples.put(&SUCCESS, &[collector], succeeded);
    samples.put(&DURATION, &[collector], took.as_secs_f64());
}
