//! `[otlp]`: where the metrics are sent to, besides being told to who asks.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue};

use crate::metrics::otlp;

/// See the module. Nothing is sent unless an endpoint is named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// An OpenTelemetry collector, or what takes the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Between two exports.
    #[serde(rename = "interval_seconds", with = "crate::seconds")]
    pub interval: Duration,
    /// How long one may take.
    #[serde(rename = "timeout_seconds", with = "crate::seconds")]
    pub timeout: Duration,
    /// Names and values with a colon between them.
    pub headers: Vec<String>,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            headers: Vec::new(),
        }
    }
}

impl Otlp {
    /// As the export itself wants it; nothing when there is none.
    #[must_use]
    pub fn settings(&self) -> Option<otlp::Settings> {
        let headers = self.headers.iter().filter_map(|it| header(it));
        Some(otlp::Settings {
            endpoint: self.endpoint.clone()?,
            interval: self.interval,
            timeout: self.timeout,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }
}

/// A name and a value, where both can be sent.
pub(super) fn header(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let (name, value) = (name.trim(), value.trim());
    let can_be_sent = name.parse::<HeaderName>().is_ok()
        && HeaderValue::from_str(value).is_ok()
        // They are the request's own.
        && !["content-length", "content-type", "host", "transfer-encoding"]
            .contains(&name.to_ascii_lowercase().as_str());
    can_be_sent.then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name_and_a_value_that_can_be_sent() {
        assert_eq!(
            header("Authorization: Bearer a:b"),
            Some(("Authorization", "Bearer a:b"))
        );
        assert_eq!(header("x-empty:"), Some(("x-empty", "")));
        for text in [
            "",
            "x",
            ": y",
            "a b: c",
            "x: a\nb",
            "Host: other",
            "content-length: 0",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint() {
        let mut otlp = Otlp {
            headers: vec!["x-tenant: ntp".to_owned()],
            ..Otlp::default()
        };
        assert_eq!(otlp.settings(), None);
        otlp.endpoint = Some("http://127.0.0.1:4318".to_owned());
        let settings = otlp.settings().unwrap();
        assert_eq!(
            settings.headers,
            [("x-tenant".to_owned(), "ntp".to_owned())]
        );
    }
}
