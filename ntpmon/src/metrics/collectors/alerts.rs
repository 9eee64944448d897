//! Alerts and what is delivered of them, by sink: those stand in the configuration, so they are few.

use anyhow::Result;

use crate::metrics::{Samples, Sources, model::families};

families! {
    ALERTS: Gauge "ntpmon_alerts" ["state"]
        "Alerts by their state: pending (about to fire) or firing";
    REFUSED: Counter "ntpmon_alerts_refused_total" []
        "Alerts for which there was no room, since the daemon started";
    LOST: Counter "ntpmon_alert_events_lost_total" []
        "Events that came faster than the rules could look at them and found no room, since the daemon started";
    UP: Gauge "ntpmon_alert_sink_up" ["sink"]
        "Whether the last message to a sink arrived: 1 or 0; 1 before there was one";
    WAITING: Gauge "ntpmon_alert_sink_waiting" ["sink"]
        "Messages that wait to be delivered to a sink, on disk";
    DELIVERIES: Counter "ntpmon_alert_sink_messages_total" ["sink", "result"]
        "Messages to a sink that were delivered, and that failed and were given up, since the daemon started";
    LAST: Gauge "ntpmon_alert_sink_last_delivery_timestamp_seconds" ["sink"]
        "When a message last arrived at a sink, in seconds since 1970";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let Some(alerts) = &sources.alerts else {
        return Ok(());
    };
    let (health, since) = (alerts.health(), Some(sources.started));
    samples.put(&ALERTS, &["pending"], health.pending);
    samples.put(&ALERTS, &["firing"], health.firing);
    samples.put_since(&REFUSED, &[], health.alerts_refused, since);
    samples.put_since(&LOST, &[], health.findings_lost, since);
    for sink in alerts.sinks() {
        let (name, standing) = (sink.name.as_str(), &sink.standing);
        samples.put(&UP, &[name], standing.error.is_none());
        samples.put(&WAITING, &[name], standing.waiting);
        samples.put_since(&DELIVERIES, &[name, "delivered"], standing.delivered, since);
        samples.put_since(&DELIVERIES, &[name, "failed"], standing.failed, since);
        let last = standing
            .last_delivered
            .map(|it| it.as_nanosecond() as f64 / 1e9);
        samples.put_known(&LAST, &[name], last);
    }
    Ok(())
}
