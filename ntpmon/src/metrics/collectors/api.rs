//! What the API was asked.

use anyhow::Result;

use crate::metrics::{Samples, Sources, model::families};

families! {
    REQUESTS: Counter "ntpmon_api_requests_total" ["path", "method", "status"]
        "Requests that were answered since the daemon started, by the template of their path (unmatched where there is none) and the class of the status: 2xx, 3xx, 4xx, 5xx";
    DURATION: Histogram "ntpmon_api_request_duration_seconds" ["path", "method"]
        "How long requests took until their response began, since the daemon started";
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let since = Some(sources.started);
    for (route, answered) in sources.requests.all() {
        let (path, method) = (route.path.as_str(), route.method);
        for (class, count) in CLASSES.into_iter().zip(answered.classes) {
            if count > 0 {
                samples.put_since(&REQUESTS, &[path, method, class], count, since);
            }
        }
        samples.put_since(&DURATION, &[path, method], answered.durations(), since);
    }
    Ok(())
}
