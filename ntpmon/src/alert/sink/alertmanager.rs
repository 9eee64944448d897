//! Prometheus Alertmanager, by its API v2. It wants to be told again and again what still fires, and
//! takes it for over when it is not; so each message says until when it holds, and what fires is sent
//! again well before that.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{definition::Definition, http};
use crate::{
    alert::{notice::Notice, rule::Severity, state::Telling},
    outbox::Failure,
};

/// So often a message may be missed before Alertmanager takes an alert for over.
const MISSED: i32 = 4;

pub(super) fn deliver(
    sink: &Definition,
    notices: &[Notice],
    now: Timestamp,
) -> Result<(), Failure> {
    let mut alerts = Vec::new();
    for notice in notices {
        // Severity is one of the labels by which it tells alerts apart: one that became worse is
        // another one, and that before is over.
        if notice.event == Telling::Escalated && notice.severity == Severity::Critical {
            alerts.push(alert(sink, notice, Severity::Warn, Some(now), now));
        }
        alerts.push(alert(sink, notice, notice.severity, notice.resolved, now));
    }
    let url = http::url(sink)?;
    let base = url.reveal().trim_end_matches('/');
    let path = if base.ends_with("/api/v2/alerts") {
        ""
    } else {
        "/api/v2/alerts"
    };
    let mut headers: Vec<(&str, &str)> = vec![("content-type", "application/json")];
    let own = sink.headers.iter();
    headers.extend(own.map(|(name, value)| (name.as_str(), value.reveal())));
    let body = Value::Array(alerts).to_string();
    http::post(sink, &format!("{base}{path}"), &headers, body.as_bytes()).map(drop)
}

fn alert(
    sink: &Definition,
    notice: &Notice,
    severity: Severity,
    over: Option<Timestamp>,
    now: Timestamp,
) -> Value {
    let mut labels = Map::new();
    for (name, value) in &notice.labels {
        labels.insert(name.clone(), value.as_str().into());
    }
    // The words that its users have.
    let severity = match severity {
        Severity::Warn => "warning",
        Severity::Critical => "critical",
    };
    labels.insert("alertname".to_owned(), notice.rule.as_str().into());
    labels.insert("severity".to_owned(), severity.into());
    let mut annotations = Map::new();
    annotations.insert("summary".to_owned(), notice.title(sink.language).into());
    if let Some(value) = notice.value {
        annotations.insert("value".to_owned(), value.to_string().into());
    }
    if let Some(message) = &notice.message {
        annotations.insert("description".to_owned(), message.as_str().into());
    }
    let holds = SignedDuration::try_from(sink.resend).unwrap_or_default() * MISSED;
    // A test is not to stay for long.
    let over = over
        .or_else(|| (notice.event == Telling::Test).then(|| now + SignedDuration::from_secs(60)));
    json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": notice.fired,
        // What is over before it began would be refused.
        "endsAt": over.unwrap_or(now + holds).max(notice.fired),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::definition::Kind, *};
    use crate::alert::notice::tests::notice;

    #[test]
    fn what_fires_holds_for_longer_than_until_it_is_sent_again_and_ends_when_it_is_over() {
        let sink = Definition::new("a", Kind::Alertmanager);
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let firing = alert(
            &sink,
            &notice(Telling::Fired),
            Severity::Critical,
            None,
            now,
        );
        assert_eq!(firing["startsAt"], "2026-01-01T00:00:00Z");
        assert_eq!(firing["endsAt"], "2026-01-01T01:04:00Z");
        assert_eq!(firing["labels"]["alertname"], "check-offset");
        assert_eq!(firing["labels"]["severity"], "critical");
        assert_eq!(firing["labels"]["server"], "192.0.2.1");
        let notice = notice(Telling::Resolved);
        let over = alert(&sink, &notice, Severity::Critical, notice.resolved, now);
        assert_eq!(over["endsAt"], "2026-01-01T00:05:00Z");
        assert_eq!(over["labels"], firing["labels"]);
        assert_eq!(over["startsAt"], firing["startsAt"]);
    }
}
