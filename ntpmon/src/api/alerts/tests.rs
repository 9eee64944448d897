//! Alerts over HTTP, without a socket.

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::api::{State, router, tests::state};

async fn ask(state: &State, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/ntp/alerts{path}"))
        .header("content-type", "application/json")
        .header("host", "localhost")
        .extension(ConnectInfo(
            "127.0.0.1:40000".parse::<std::net::SocketAddr>().unwrap(),
        ));
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let response = router(state.clone())
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn get(state: &State, path: &str) -> (StatusCode, Value) {
    ask(state, Method::GET, path, Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_rules_without_being_asked_for_and_lists_of_nothing() {
    let state = state();
    let (status, rules) = get(&state, "/rules").await;
    assert_eq!(status, StatusCode::OK);
    let names: Vec<_> = rules["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert!(names.contains(&&json!("disk-free")), "{names:?}");
    assert_eq!(rules["data"][0]["origin"], "default");
    assert_eq!(rules["data"][0]["state"], "ok");
    for path in [
        "",
        "/history",
        "/deliveries",
        "/silences",
        "?state=firing&severity=critical&rule=a",
    ] {
        let (status, answer) = get(&state, path).await;
        assert_eq!(
            (status, &answer["count"]),
            (StatusCode::OK, &json!(0)),
            "{path}"
        );
    }
    let (_, sinks) = get(&state, "/sinks").await;
    assert_eq!(
        (&sinks["data"][0]["name"], &sinks["data"][0]["kind"]),
        (&json!("log"), &json!("log"))
    );
    for (path, code) in [
        ("/7", "alert_not_found"),
        ("/rules/none", "rule_not_found"),
        ("/silences/none", "silence_not_found"),
    ] {
        let (status, answer) = get(&state, path).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::NOT_FOUND, &json!(code)),
            "{answer}"
        );
    }
    for path in [
        "/x",
        "?state=ok",
        "?stat=firing",
        "/history?limit=0",
        "/deliveries?state=x",
        "/rules/a%20b",
    ] {
        let (status, answer) = get(&state, path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_made_changed_tried_and_removed() {
    let state = state();
    let rule = json!({"name": "rate", "quantity": "request_rate", "warn": 1000, "for_seconds": 60,
        "match": {"interface": "eth*"}, "labels": {"team": "ntp"}, "sinks": ["log"]});
    let (status, made) = ask(&state, Method::POST, "/rules", rule.clone()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["data"]["definition"]["for_seconds"], 60.0);
    assert_eq!(made["data"]["origin"], "api");
    let (status, again) = ask(&state, Method::POST, "/rules", rule.clone()).await;
    assert_eq!(
        (status, &again["code"]),
        (StatusCode::CONFLICT, &json!("exists"))
    );
    let mut other = rule.clone();
    other["warn"] = json!(2000);
    let (status, _) = ask(&state, Method::PUT, "/rules/rate", other.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let (_, read) = get(&state, "/rules/rate").await;
    assert_eq!(read["data"]["definition"]["warn"], 2000.0);
    let (status, refused) = ask(&state, Method::PUT, "/rules/else", other).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let (status, tried) = ask(
        &state,
        Method::POST,
        "/rules/rate/test",
        json!({"send": true}),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{tried}");
    assert_eq!(tried["data"]["sent"][0]["delivered"], true);
    assert_eq!(tried["data"]["verdicts"], json!([]));
    let (status, _) = ask(&state, Method::DELETE, "/rules/rate", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&state, Method::DELETE, "/rules/rate", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, refused) = ask(&state, Method::DELETE, "/rules/disk-free", Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_is_refused_with_all_that_is_wrong() {
    let state = state();
    for (rule, parts) in [
        (
            json!({"name": "a", "quantity": "chek_offset"}),
            vec!["did you mean check_offset", "disk_free"],
        ),
        (
            json!({"name": "a b", "quantity": "disk_free", "recover_ratio": 2}),
            vec!["name", "recover_ratio"],
        ),
        (
            json!({"name": "a", "quantity": "request_rate"}),
            vec!["warn", "request_rate"],
        ),
        (
            json!({"name": "a", "quantity": "disk_free", "sinks": ["none"]}),
            vec!["'none'", "log"],
        ),
        (
            json!({"name": "a", "quantity": "disk_free", "wran": 1}),
            vec!["wran"],
        ),
        (
            json!({"name": "a", "quantity": "disk_free", "for_seconds": -1}),
            vec!["for_seconds"],
        ),
        (json!({"quantity": "disk_free"}), vec!["name"]),
    ] {
        let (status, answer) = ask(&state, Method::POST, "/rules", rule).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        for part in parts {
            assert!(
                answer["message"].as_str().unwrap().contains(part),
                "{part}: {answer}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_is_made_and_removed_and_nobody_acknowledges_what_is_not_there() {
    let state = state();
    let silence = json!({"name": "night", "match": {"alertname": "disk-free"}, "days": ["saturday"],
        "start": "22:00", "end": "06:00", "time_zone": "UTC", "comment": "sleep"});
    let (status, made) = ask(&state, Method::POST, "/silences", silence.clone()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (status, _) = ask(&state, Method::PUT, "/silences/night", silence).await;
    assert_eq!(status, StatusCode::OK);
    let (_, read) = get(&state, "/silences/night").await;
    assert_eq!(read["data"]["definition"]["comment"], "sleep");
    let wrong = json!({"name": "a", "start": "22:00", "time_zone": "Nowhere"});
    let (status, answer) = ask(&state, Method::POST, "/silences", wrong).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (status, _) = ask(&state, Method::DELETE, "/silences/night", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = ask(&state, Method::POST, "/9/acknowledge", json!({"by": "Ada"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for body in [
        json!({}),
        json!({"by": " "}),
        json!({"by": "a", "until": "2000-01-01T00:00:00Z"}),
    ] {
        let (status, answer) = ask(&state, Method::POST, "/9/acknowledge", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    let (status, tested) = ask(&state, Method::POST, "/sinks/log/test", Value::Null).await;
    assert_eq!(
        (status, &tested["data"]["delivered"]),
        (StatusCode::OK, &json!(true))
    );
    let (status, _) = ask(&state, Method::POST, "/sinks/none/test", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
