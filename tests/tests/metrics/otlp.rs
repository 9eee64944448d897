//! Metrics over OTLP, to a receiver that takes them, fails, and hangs.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ntpmon::metrics::{Kind, collectors::families};
use ntpmon_tests::{
    process::wait_for,
    receiver::{Receiver, Request, Way},
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    },
    metrics::v1::{AggregationTemporality, Metric, metric::Data},
};
use prost::Message;

use super::{PATIENCE, Play, samples};

/// A receiver that took some of what it was sent.
fn partly() -> Way {
    let response = ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: 2,
            error_message: "two of them are too old".to_owned(),
        }),
    };
    Way::Say(200, response.encode_to_vec())
}

fn metrics_of(received: &Request) -> Vec<Metric> {
    let request = ExportMetricsServiceRequest::decode(&received.body[..]).unwrap();
    assert_eq!(request.resource_metrics.len(), 1);
    let resource = &request.resource_metrics[0];
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert!(
        attributes.iter().any(|it| it.key == "service.name"),
        "{attributes:?}"
    );
    assert_eq!(resource.scope_metrics.len(), 1);
    resource.scope_metrics[0].metrics.clone()
}

#[test]
fn the_same_is_exported_over_otlp_and_a_receiver_that_fails_or_hangs_disturbs_nothing() {
    let configuration = "[otlp]\nendpoint = 'http://127.0.0.1:4318'\ninterval_seconds = 1\n\
                         timeout_seconds = 2\nheaders = ['X-Tenant: ntp']\n";
    let mut play = Play::start(configuration);
    // Before the receiver is there.
    let health = |play: &Play| {
        let answer = play.api().get("/api/ntp/health").unwrap();
        answer.success().unwrap()["components"]["otlp"].clone()
    };
    let until = |play: &Play, condition: &str| {
        wait_for(condition, PATIENCE, || {
            let health = health(play);
            Ok((health["status"] == condition).then_some(health))
        })
        .unwrap()
    };
    let refused = until(&play, "degraded");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("http://127.0.0.1:4318/v1/metrics (otlp.endpoint)"),
        "{message}"
    );

    let address = (Ipv4Addr::LOCALHOST, 4318).into();
    let receiver = Receiver::start(&play.pair.client, address, partly()).unwrap();
    play.until(20.0);
    until(&play, "healthy");
    play.until_all_but(&[]);
    let received = receiver.next("an export", PATIENCE).unwrap();
    assert_eq!(
        (received.method.as_str(), received.path.as_str()),
        ("POST", "/v1/metrics")
    );
    for (name, value) in [
        ("content-type", "application/x-protobuf"),
        ("x-tenant", "ntp"),
    ] {
        assert_eq!(received.header(name), Some(value), "{received:?}");
    }
    let metrics = metrics_of(&received);
    let cumulative = AggregationTemporality::Cumulative as i32;
    let names: BTreeSet<&str> = metrics.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names.len(), metrics.len());
    for family in families() {
        let name = match family.kind {
            Kind::Info => family.name,
            _ => family.base(),
        };
        let metric = metrics.iter().find(|it| it.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} was not exported"));
        assert_eq!(metric.description, family.help);
        match (family.kind, metric.data.as_ref().unwrap()) {
            (Kind::Counter, Data::Sum(sum)) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == cumulative);
                assert!(!sum.data_points.is_empty());
            }
            (Kind::Gauge | Kind::Info, Data::Gauge(gauge)) => {
                assert!(!gauge.data_points.is_empty());
            }
            (Kind::Histogram, Data::Histogram(histogram)) => {
                assert_eq!(histogram.aggregation_temporality, cumulative);
                for point in &histogram.data_points {
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                }
            }
            (kind, data) => panic!("{name} is a {kind:?}: {data:?}"),
        }
    }
    // Of what is counted since the daemon started it is said when that was.
    let flushes = metrics
        .iter()
        .find(|it| it.name == "ntpmon_history_exchanges_written");
    let Some(Data::Sum(flushes)) = &flushes.unwrap().data else {
        panic!("no sum")
    };
    let point = &flushes.data_points[0];
    assert!(0 < point.start_time_unix_nano && point.start_time_unix_nano < point.time_unix_nano);
    assert_eq!(
        metrics
            .iter()
            .find(|it| it.name == "process_cpu_seconds")
            .unwrap()
            .unit,
        "s"
    );
    let rejected = samples(&play.metrics(&[]))["ntpmon_otlp_rejected_points_total"];
    assert!(rejected >= 2.0, "{rejected}");

    receiver.be(Way::Say(500, b"the disk is full".to_vec()));
    let failed = until(&play, "degraded");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("500") && message.contains("the disk is full"),
        "{message}"
    );
    receiver.be(partly());
    until(&play, "healthy");

    // One that hangs: everything else goes on, and the end is not waited for.
    receiver.be(Way::Hang);
    until(&play, "degraded");
    let begun = Instant::now();
    for _ in 0..5 {
        play.metrics(&[]);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let ended = play.daemon.take().unwrap().end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.took < Duration::from_secs(4), "{:?}", ended.took);
}
