//! The same metrics to an OpenTelemetry collector: protobuf over HTTP, cumulative, at an interval.
//! What cannot be sent is not kept: the next export tells all again. Nothing waits for it.

use std::{io::Read, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use ureq::Agent;

use super::{Family, Gathered, Kind, Metrics, Sample, Value};

/// Where a collector takes metrics, after its endpoint.
pub const PATH: &str = "/v1/metrics";
/// The most of an answer that is read.
const ANSWER: u64 = 64 << 10;
/// Of a refusal, so much is told.
const TOLD: usize = 300;
/// A socket may take longer than the timeout of the request to be given up.
const GRACE: Duration = Duration::from_secs(5);

/// Where to, how often, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A URL, to which [`PATH`] is added.
    pub endpoint: String,
    /// Between two exports.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Headers with their values, such as those of a token.
    pub headers: Vec<(String, String)>,
}

/// How it went since the daemon started.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Exports that the receiver took.
    pub succeeded: u64,
    /// Exports that it did not, or that did not get there.
    pub failed: u64,
    /// Points that it said it did not take.
    pub rejected: u64,
    /// When the last one succeeded.
    pub last_success: Option<Timestamp>,
    /// Why the last one failed, if it did, and since when they all did.
    pub failure: Option<(String, Timestamp)>,
}

/// The export: its settings, which can change while it runs, and how it goes. Clones share it.
#[derive(Clone, Debug)]
pub struct Export(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: watch::Sender<Option<Settings>>,
    progress: Mutex<Progress>,
}

impl Export {
    /// To there, or with nothing to nowhere.
    #[must_use]
    pub fn new(settings: Option<Settings>) -> Self {
        Self(Arc::new(Shared {
            settings: watch::Sender::new(settings),
            progress: Mutex::default(),
        }))
    }

    /// Puts other settings in force, at once.
    pub fn configure(&self, settings: Option<Settings>) {
        self.0.settings.send_if_modified(|known| {
            let is_new = *known != settings;
            *known = settings;
            if is_new {
                // It was another receiver's.
                self.0.progress.lock().failure = None;
            }
            is_new
        });
    }

    /// How it goes; nothing where nothing is exported.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        let is_wanted = self.0.settings.borrow().is_some();
        is_wanted.then(|| self.0.progress.lock().clone())
    }

    /// Exports until it is dropped: at once, and then with each interval.
    pub async fn run(self, metrics: Metrics) {
        let mut changes = self.0.settings.subscribe();
        loop {
            let settings = changes.borrow_and_update().clone();
            let Some(settings) = settings else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let settings = Arc::new(settings);
            let mut ticks = interval(settings.interval);
            // Not all that was missed while a receiver was slow or the host slept.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => self.export(&metrics, &settings).await,
                    changed = changes.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
        }
    }

    async fn export(&self, metrics: &Metrics, settings: &Arc<Settings>) {
        let gathered = metrics.gather().await;
        let settings = Arc::clone(settings);
        let limit = settings.timeout + GRACE;
        let sending = spawn_blocking(move || {
            let body = request(&gathered, Timestamp::now()).encode_to_vec();
            send(&settings, &body)
        });
        let sent = match tokio::time::timeout(limit, sending).await {
            Ok(Ok(sent)) => sent,
            Ok(Err(error)) => Err(anyhow::anyhow!("it met a bug: {error}")),
            Err(_) => Err(anyhow::anyhow!("it hangs")),
        };
        self.note(sent);
    }

    fn note(&self, sent: Result<u64>) {
        let now = Timestamp::now();
        let mut progress = self.0.progress.lock();
        match sent {
            Ok(rejected) => {
                progress.succeeded += 1;
                progress.last_success = Some(now);
                progress.rejected += rejected;
                if let Some((_, since)) = progress.failure.take() {
                    tracing::info!(
                        "metrics are exported over OTLP again; they could not be since {since}"
                    );
                }
            }
            Err(error) => {
                progress.failed += 1;
                let why = format!("{error:#}");
                let since = match &progress.failure {
                    Some((before, since)) => {
                        if *before != why {
                            tracing::warn!("{why}");
                        }
                        *since
                    }
                    None => {
                        tracing::warn!("{why}; it is tried again with the next interval");
                        now
                    }
                };
                progress.failure = Some((why, since));
            }
        }
    }
}

/// Sends a request; returns how many points the receiver did not take.
fn send(settings: &Settings, body: &[u8]) -> Result<u64> {
    let url = url(&settings.endpoint);
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(settings.timeout))
        .http_status_as_error(false)
        // The headers are for the one who was named.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("ntpmon/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut post = agent
        .post(&url)
        .header("Content-Type", "application/x-protobuf");
    for (name, value) in &settings.headers {
        post = post.header(name, value);
    }
    let mut response = post
        .send(body)
        .with_context(|| format!("exporting metrics to {url} (otlp.endpoint)"))?;
    let status = response.status();
    let mut answer = Vec::new();
    response
        .body_mut()
        .as_reader()
        .take(ANSWER)
        .read_to_end(&mut answer)
        .with_context(|| format!("reading what {url} (otlp.endpoint) answered"))?;
    if !status.is_success() {
        let text = String::from_utf8_lossy(&answer);
        let text: String = text
            .chars()
            .map(|it| if it.is_control() { ' ' } else { it })
            .take(TOLD)
            .collect();
        bail!("exporting metrics to {url} (otlp.endpoint): it answered {status}: {text}");
    }
    // Some answer with nothing, or with words.
    let Ok(answer) = ExportMetricsServiceResponse::decode(&answer[..]) else {
        return Ok(0);
    };
    let Some(partial) = answer.partial_success else {
        return Ok(0);
    };
    let rejected = u64::try_from(partial.rejected_data_points).unwrap_or_default();
    if rejected > 0 {
        tracing::warn!(
            "{url} (otlp.endpoint) did not take {rejected} points: {}",
            partial.error_message
        );
    }
    Ok(rejected)
}

/// Where metrics go: the endpoint with the path, unless it ends in it.
fn url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.ends_with(PATH) {
        true => endpoint.to_owned(),
        false => format!("{endpoint}{PATH}"),
    }
}

/// All of it as one request.
#[must_use]
pub fn request(gathered: &Gathered, now: Timestamp) -> ExportMetricsServiceRequest {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().into_owned();
    let attributes = [
        ("service.name", "ntpmon"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &host),
        ("host.name", &host),
    ];
    let metrics = gathered
        .families()
        .map(|(family, samples)| metric(family, samples, now));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes
                    .map(|(name, value)| attribute(name, value))
                    .into(),
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "ntpmon".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: metrics.collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn metric(family: &Family, samples: &[Sample], now: Timestamp) -> Metric {
    let numbers = || {
        samples
            .iter()
            .filter_map(|sample| number(family, sample, now))
            .collect()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Gauge | Kind::Info => Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: samples
                .iter()
                .filter_map(|sample| distribution(family, sample, now))
                .collect(),
            aggregation_temporality: cumulative,
        }),
    };
    // Information stays what it is called; the rest of the endings is put back by who needs them.
    let name = match family.kind {
        Kind::Info => family.name,
        _ => family.base(),
    };
    let unit = match (family.unit(), family.kind) {
        (Some("seconds"), _) => "s",
        (Some("bytes"), _) => "By",
        // Others would call a plain number a ratio.
        _ => "",
    };
    Metric {
        name: name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn number(family: &Family, sample: &Sample, now: Timestamp) -> Option<NumberDataPoint> {
    let value = match sample.value {
        // There is no larger one; a count that large would be a fault.
        Value::Whole(value) => {
            number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))
        }
        Value::Real(value) => number_data_point::Value::AsDouble(value),
        Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(family, sample),
        start_time_unix_nano: sample.since.map_or(0, nanoseconds),
        time_unix_nano: nanoseconds(now),
        exemplars: Vec::new(),
        flags: 0,
        value: Some(value),
    })
}

fn distribution(family: &Family, sample: &Sample, now: Timestamp) -> Option<HistogramDataPoint> {
    let Value::Histogram(buckets) = &sample.value else {
        return None;
    };
    let before = [0].iter().chain(&buckets.counts);
    let counts = buckets.counts.iter().zip(before);
    Some(HistogramDataPoint {
        attributes: attributes(family, sample),
        start_time_unix_nano: sample.since.map_or(0, nanoseconds),
        time_unix_nano: nanoseconds(now),
        count: buckets.count(),
        sum: buckets.sum,
        bucket_counts: counts
            .map(|(count, before)| count.saturating_sub(*before))
            .collect(),
        explicit_bounds: buckets.bounds.to_vec(),
        exemplars: Vec::new(),
        flags: 0,
        min: None,
        max: None,
    })
}

fn attributes(family: &Family, sample: &Sample) -> Vec<KeyValue> {
    let labels = family.labels.iter().zip(sample.labels.iter());
    labels.map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_once() {
        for endpoint in [
            "http://collector:4318",
            "http://collector:4318/",
            "http://collector:4318/v1/metrics",
        ] {
            assert_eq!(url(endpoint), "http://collector:4318/v1/metrics");
        }
        assert_eq!(
            url("https://a.example/otlp"),
            "https://a.example/otlp/v1/metrics"
        );
    }
}
