//! Alerts, by rule, and what is delivered of them, by sink: those stand in the configuration, so they
//! are few. There may be more rules than anybody reads; the first are told one by one.

use anyhow::Result;

use crate::metrics::{Samples, Sources, model::families};

/// Rules that are told one by one.
const MOST: usize = 1000;

families! {
    ALERTS: Gauge "ntpmon_alerts" ["state"]
        "Alerts by their state: pending (about to fire) or firing";
    FIRING: Gauge "ntpmon_alerts_firing" ["rule", "severity"]
        "Alerts of a rule in force that fire, by how bad they are now: warn or critical. Silenced and acknowledged ones are among them";
    FIRED: Counter "ntpmon_alerts_fired_total" ["rule"]
        "How often an alert of a rule in force fired, whether or not it was told, since the daemon started";
    RESOLVED: Counter "ntpmon_alerts_resolved_total" ["rule"]
        "How often an alert of a rule in force was over that had fired, since the daemon started or before";
    RULES_LEFT_OUT: Gauge "ntpmon_alert_rules_left_out" []
        "Rules in force beyond 1000, which are not told one by one";
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
    let (rules, left_out) = alerts.figures(MOST);
    for it in &rules {
        let name = it.rule.as_str();
        for (severity, count) in it.firing {
            samples.put(&FIRING, &[name, severity.name()], count);
        }
        samples.put_since(&FIRED, &[name], it.fired, since);
        samples.put_since(&RESOLVED, &[name], it.resolved, since);
    }
    samples.put(&RULES_LEFT_OUT, &[], left_out);
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
