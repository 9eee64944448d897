//! The ground, without a socket: what every request meets before and after its route.

use std::{
    collections::BTreeSet,
    path::Path as FilePath,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{Request as HttpRequest, StatusCode},
    routing::{get, post},
};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::{Handle, Runtime};
use tower::ServiceExt;

use super::{
    extract::{Json, OptionalJson, Path, Query},
    *,
};
use crate::{
    check::store::Retention,
    metrics::Sources,
    monitor::{Options, control::Setup},
    tokens::{Change, Created, Scope},
};

const LOOPBACK: &str = "127.0.0.1:40000";
/// No interface of this or any host has this name.
const ABSENT: &str = "ntpmon-absent";
const ELSEWHERE: &str = "192.0.2.7:40000";

#[derive(Debug, Default, Deserialize)]
struct Thing {
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    inner: Option<Inner>,
}

#[derive(Debug, Default, Deserialize)]
struct Inner {
    ports: Vec<u16>,
}

#[derive(Debug, Deserialize)]
struct Page {
    page: Option<u32>,
}

pub(crate) fn state() -> State {
    with(Settings::default(), Tokens::default())
}

/// Told to watch what does not exist, so that it watches nothing, not even the default route.
fn control() -> Control {
    struct Nobody;
    impl crate::pipeline::Sink for Nobody {
        fn exchange(&mut self, _: &crate::ntp::exchange::Exchange) {}
        fn publish(&mut self, _: &crate::ntp::pair::Totals, _: i64) {}
    }
    let setup = Setup {
        interfaces: vec![ABSENT.to_owned()],
        ..Setup::default()
    };
    Control::open(setup, |_| Nobody, |_| Ok(())).unwrap()
}

/// One that has remembered nothing. Its directory has no name any more, which the open file does
/// not need.
fn history() -> History {
    let directory = tempfile::tempdir().unwrap();
    History::open(directory.path(), crate::history::Settings::default()).unwrap()
}

/// Alerts that nobody looks at. Tests of the document have no runtime of their own.
fn alerts(history: &History) -> Alerts {
    use std::sync::LazyLock;
    use tokio::runtime::{Handle, Runtime};
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    let runtime = Handle::try_current().unwrap_or_else(|_| RUNTIME.handle().clone());
    let outbox = crate::outbox::Outbox::open(history.clone(), runtime).unwrap();
    let settings = crate::alert::Settings {
        sinks: vec![crate::alert::sink::Definition::new(
            "log",
            crate::alert::sink::Kind::Log,
        )],
        ..crate::alert::Settings::default()
    };
    let sources = crate::alert::quantity::Sources::default();
    Alerts::open(history.clone(), outbox, sources, settings).0
}

/// None. They need a runtime, which not every test has.
fn checks(history: &History) -> Checks {
    let runtime = Handle::try_current();
    let runtime = runtime.unwrap_or_else(|_| Runtime::new().unwrap().handle().clone());
    Checks::open(history.clone(), runtime, Vec::new(), Retention::default())
}

fn with(settings: Settings, tokens: Tokens) -> State {
    let (control, history) = (control(), history());
    let metrics = Metrics::new(Sources::new(control.clone(), history.clone()));
    State {
        control,
        alerts: alerts(&history),
        checks: checks(&history),
        history,
        components: Components::default(),
        metrics,
        process: Process::new(),
        ptp: None,
        tokens: SharedTokens::new(tokens),
        settings: Arc::new(settings),
        started: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// Routes that do what handlers do, on the real ground.
fn probes(state: State) -> Router {
    let read = Router::new()
        .route(
            "/probe/text",
            get(|Query(page): Query<Page>| async move { format!("{:?}", page.page) }),
        )
        .route(
            "/probe/name/{name}",
            get(|Path(name): Path<u8>| async move { name.to_string() }),
        )
        .route("/probe/panic", get(|| async { panic_now() }))
        .route("/probe/slow", get(std::future::pending::<()>))
        .route("/probe/endless", get(|| async { endless() }))
        .route("/probe/bare", get(|| async { StatusCode::BAD_GATEWAY }))
        .route("/probe/long", get(|| async { "long ".repeat(1000) }))
        .route(
            "/probe/parquet",
            get(|| async { ([(CONTENT_TYPE, PARQUET)], "long ".repeat(1000)) }),
        )
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::read));
    let admin =
        Router::new()
            .route(
                "/probe/json",
                post(|Json(thing): Json<Thing>| async move {
                    format!(
                        "{:?} {:?}",
                        thing.port,
                        thing.inner.map(|inner| inner.ports)
                    )
                }),
            )
            .route(
                "/probe/optional",
                post(|OptionalJson(thing): OptionalJson<Thing>| async move {
                    format!("{:?}", thing.port)
                }),
            )
            .route_layer(middleware::from_fn_with_state(state.clone(), auth::admin));
    assemble(read.merge(admin), state)
}

fn panic_now() -> &'static str {
    panic!("a test's own panic")
}

fn endless() -> Body {
    Body::from_stream(futures_util::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from_static(b"more"))
    }))
}

pub(in crate::api) struct Answer {
    pub(in crate::api) status: StatusCode,
    pub(in crate::api) headers: axum::http::HeaderMap,
    pub(in crate::api) body: Bytes,
}

impl Answer {
    pub(in crate::api) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(in crate::api) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// It is a failure in the envelope, nothing else in it.
    pub(in crate::api) fn failed(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.headers[CONTENT_TYPE], "application/json");
        let value = self.json();
        let fields: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            fields,
            ["code", "message", "success"].map(String::from).into()
        );
        assert_eq!(value["success"], false);
        assert_eq!(value["code"], code, "{value}");
        value["message"].as_str().unwrap().to_owned()
    }
}

pub(in crate::api) fn request(method: &str, path: &str) -> axum::http::request::Builder {
    HttpRequest::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:8000")
        .extension(ConnectInfo::<SocketAddr>(LOOPBACK.parse().unwrap()))
}

pub(in crate::api) async fn ask(router: &Router, request: HttpRequest<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

pub(in crate::api) async fn fetch(router: &Router, path: &str) -> Answer {
    ask(router, request("GET", path).body(Body::empty()).unwrap()).await
}

pub(in crate::api) async fn send(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    let request = request("POST", path).header(CONTENT_TYPE, "application/json");
    ask(router, request.body(body.into()).unwrap()).await
}

/// Some tokens, with one of read scope and one of admin scope.
pub(crate) fn tokens() -> (Tokens, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path: &FilePath = &folder.path().join("tokens.toml");
    let mut change = Change::begin(path).unwrap();
    let Created(read) = change.create("reader", Scope::Read).unwrap();
    let Created(admin) = change.create("admin", Scope::Admin).unwrap();
    change.commit().unwrap();
    (Tokens::load(path).unwrap(), read, admin)
}

#[tokio::test]
async fn a_body_that_is_wrong_is_refused_with_the_field_and_the_value() {
    let router = probes(state());
    for (body, expected) in [
        ("", "the body is empty or null"),
        ("{", "not JSON: EOF"),
        ("{\"port\": 1} trailing", "not JSON: trailing"),
        (
            "{\"port\": \"x\"}",
            "port: invalid type: string \"x\", expected u16",
        ),
        ("{\"port\": 70000}", "port: invalid value: integer `70000`"),
        ("{\"port\": -1}", "port: invalid value: integer `-1`"),
        (
            "{\"inner\": {\"ports\": [1, null]}}",
            "inner.ports[1]: invalid type: null",
        ),
        ("{\"inner\": {}}", "inner: missing field `ports`"),
        (
            "[1]",
            "the body: invalid type: sequence, expected a JSON object",
        ),
        ("null", "the body is empty or null"),
        ("\"\u{0}\"", "not JSON: control character"),
    ] {
        let message = send(&router, "/probe/json", body)
            .await
            .failed(400, "invalid_body");
        assert!(message.contains(expected), "{body}: {message}");
    }
    let deep = "[".repeat(100_000);
    send(&router, "/probe/json", deep)
        .await
        .failed(400, "invalid_body");
    let not_utf8 = b"{\"port\": \"\xff\"}".to_vec();
    send(&router, "/probe/json", not_utf8)
        .await
        .failed(400, "invalid_body");
    let right = send(&router, "/probe/json", "{\"port\": 123, \"unknown\": {}}").await;
    assert_eq!(right.status, 200);
    assert_eq!(right.text(), "Some(123) None");
}

#[tokio::test]
async fn no_body_means_the_defaults_with_or_without_a_content_type() {
    let router = probes(state());
    for (content_type, body, port) in [
        (None, "", "None"),
        (Some("application/json"), "", "None"),
        (Some("text/plain"), " \r\n", "None"),
        (Some("application/json; charset=utf-8"), "{}", "None"),
        (Some("application/json"), "{\"port\": null}", "None"),
        (Some("application/json"), "null", "None"),
        (Some("Application/JSON"), "{\"port\": 5}", "Some(5)"),
        (
            Some("application/merge-patch+json"),
            "{\"port\": 5}",
            "Some(5)",
        ),
    ] {
        let mut request = request("POST", "/probe/optional");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let answer = ask(&router, request.body(body.into()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, port),
            "{body:?}"
        );
    }
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "+json",
        "",
    ] {
        let request = request("POST", "/probe/optional").header(CONTENT_TYPE, content_type);
        let answer = ask(&router, request.body("{}".into()).unwrap()).await;
        let message = answer.failed(415, "unsupported_media_type");
        assert!(message.contains(&format!("'{content_type}'")), "{message}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let router = probes(state());
    static READ: AtomicUsize = AtomicUsize::new(0);
    // 100 MB in pieces, counted as they are taken.
    let pieces = || {
        READ.store(0, Ordering::SeqCst);
        Body::from_stream(futures_util::stream::iter((0..1600).map(|_| {
            READ.fetch_add(65_536, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65_536]))
        })))
    };
    let announced = request("POST", "/probe/json")
        .header(CONTENT_TYPE, "application/json")
        .header("content-length", "104857600");
    let answer = ask(&router, announced.body(pieces()).unwrap()).await;
    let message = answer.failed(413, "body_too_large");
    assert!(message.contains("1048576 bytes"), "{message}");
    assert_eq!(READ.load(Ordering::SeqCst), 0);

    let answer = send(&router, "/probe/json", pieces()).await;
    answer.failed(413, "body_too_large");
    assert!(READ.load(Ordering::SeqCst) <= 1_048_576 + 65_536);

    // Also where no body is expected.
    let announced = request("GET", "/probe/text").header("content-length", "104857600");
    let answer = ask(&router, announced.body(pieces()).unwrap()).await;
    answer.failed(413, "body_too_large");
    assert_eq!(READ.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_refused_with_its_name_and_value() {
    let router = probes(state());
    for (path, expected) in [
        ("/probe/text?page=x", "page is 'x': "),
        ("/probe/text?page=-1", "page is '-1': "),
        ("/probe/text?page=", "page is '': "),
        ("/probe/text?page=%ff", "page is '\u{fffd}': "),
        ("/probe/text?page=1&page=2", "the query: "),
        ("/probe/name/300", "300"),
        ("/probe/name/%ff", "UTF-8"),
    ] {
        let message = fetch(&router, path).await.failed(400, "invalid_parameter");
        assert!(message.contains(expected), "{path}: {message}");
    }
    let long = format!("/probe/text?page={}", "9".repeat(5000));
    let message = fetch(&router, &long).await.failed(400, "invalid_parameter");
    assert!(message.len() < 300, "{message}");
    assert_eq!(
        fetch(&router, "/probe/text?page=7&other").await.text(),
        "Some(7)"
    );
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_what_is_allowed() {
    let router = probes(state());
    let message = fetch(&router, "/nowhere").await.failed(404, "unknown_path");
    assert!(message.contains("/nowhere"), "{message}");
    fetch(&router, "/probe/name/a/b")
        .await
        .failed(404, "unknown_path");
    for method in ["POST", "DELETE", "PUT", "PATCH", "BREW"] {
        let request = request(method, "/probe/text").body(Body::empty()).unwrap();
        let answer = ask(&router, request).await;
        let message = answer.failed(405, "method_not_allowed");
        assert!(
            message.contains(method) && message.contains("/probe/text"),
            "{message}"
        );
        assert_eq!(answer.headers["allow"], "GET,HEAD");
    }
}

#[tokio::test]
async fn what_others_fail_at_comes_in_the_envelope_too() {
    let router = probes(state());
    let message = fetch(&router, "/probe/panic").await.failed(500, "internal");
    assert!(!message.contains("a test's own"), "{message}");
    fetch(&router, "/probe/bare").await.failed(502, "internal");
    let none = request("GET", "/probe/text").header("accept-encoding", "identity;q=0");
    let answer = ask(&router, none.body(Body::empty()).unwrap()).await;
    answer.failed(406, "not_acceptable");
}

#[tokio::test]
async fn a_request_that_takes_too_long_or_comes_on_top_of_too_many_is_sent_away() {
    let settings = Settings {
        request_timeout: Duration::from_millis(300),
        max_concurrent_requests: 2,
        ..Settings::default()
    };
    let router = probes(with(settings, Tokens::default()));
    let slow = [(); 2].map(|()| {
        let router = router.clone();
        tokio::spawn(async move { fetch(&router, "/probe/slow").await })
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = fetch(&router, "/probe/text").await;
    let message = answer.failed(503, "too_busy");
    assert!(message.contains('2'), "{message}");
    assert_eq!(answer.headers[RETRY_AFTER], "1");
    for answer in slow {
        let message = answer.await.unwrap().failed(503, "timeout");
        assert!(message.contains("300ms"), "{message}");
    }
    // The places are free again.
    assert_eq!(fetch(&router, "/probe/text").await.status, 200);
}

#[tokio::test]
async fn a_parameter_without_a_value_is_refused_as_one_that_cannot_be() {
    let router = router(state());
    for parameter in [
        "page",
        "page_size",
        "cursor",
        "sort",
        "order",
        "search_ip",
        "client_ips",
        "interface_name",
        "interface_names",
        "version",
        "stratum",
        "client_clock",
        "since",
        "until",
    ] {
        for query in [format!("{parameter}="), parameter.to_owned()] {
            let answer = fetch(&router, &format!("/api/ntp/history/clients?{query}")).await;
            assert_eq!(answer.status, 400, "{query}: {}", answer.text());
            let value = answer.json();
            let message = value["message"].as_str().unwrap();
            assert!(message.contains(parameter), "{message}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_made_while_it_is_sent_keeps_its_place() {
    let settings = Settings {
        max_concurrent_requests: 2,
        ..Settings::default()
    };
    let router = probes(with(settings, Tokens::default()));
    let begin = || async {
        let request = request("GET", "/probe/endless")
            .body(Body::empty())
            .unwrap();
        router.clone().oneshot(request).await.unwrap().into_body()
    };
    let (mut read, unread) = (begin().await, begin().await);
    for _ in 0..3 {
        assert!(read.frame().await.unwrap().unwrap().is_data());
        fetch(&router, "/probe/text").await.failed(503, "too_busy");
    }
    drop(read);
    let kept = request("GET", "/probe/long").body(Body::empty()).unwrap();
    let kept = router.clone().oneshot(kept).await.unwrap();
    // It is there whole, so it keeps no place, and says how long it is.
    assert_eq!(kept.headers()["content-length"], "5000");
    assert_eq!(fetch(&router, "/probe/text").await.status, 200);
    drop((kept, unread));
}

#[tokio::test]
async fn tokens_decide_who_may_do_what() {
    let (tokens, read, admin) = tokens();
    let router = probes(with(Settings::default(), tokens));
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    // From where and under which name does not matter with a token.
    let cases = [
        (
            None,
            Err((401, "token_missing")),
            Err((401, "token_missing")),
        ),
        (bearer(&read), Ok(()), Err((403, "scope_insufficient"))),
        (bearer(&admin), Ok(()), Ok(())),
        (Some(format!("bEARER  {admin}")), Ok(()), Ok(())),
        (
            bearer(""),
            Err((401, "token_unknown")),
            Err((401, "token_unknown")),
        ),
        (
            bearer(&admin[1..]),
            Err((401, "token_unknown")),
            Err((401, "token_unknown")),
        ),
        (
            bearer(&admin.to_uppercase()),
            Err((401, "token_unknown")),
            Err((401, "token_unknown")),
        ),
        (
            Some(admin.clone()),
            Err((401, "token_malformed")),
            Err((401, "token_malformed")),
        ),
        (
            Some("Basic YTpi".into()),
            Err((401, "token_malformed")),
            Err((401, "token_malformed")),
        ),
    ];
    for (header, reading, changing) in cases {
        for (method, path, expected) in [
            ("GET", "/probe/text", reading),
            ("POST", "/probe/optional", changing),
        ] {
            let mut request = HttpRequest::builder()
                .method(method)
                .uri(path)
                .header("host", "ntp.example.net")
                .extension(ConnectInfo::<SocketAddr>(ELSEWHERE.parse().unwrap()));
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header);
            }
            let answer = ask(&router, request.body(Body::empty()).unwrap()).await;
            match expected {
                Ok(()) => assert_eq!(answer.status, 200, "{header:?} {path}"),
                Err((status, code)) => {
                    let message = answer.failed(status, code);
                    assert!(!message.contains(&admin) && !message.contains(&read));
                    assert_eq!(answer.headers.contains_key(WWW_AUTHENTICATE), status == 401);
                }
            }
        }
    }
}

#[tokio::test]
async fn without_tokens_only_this_host_is_served_and_only_by_its_loopback_names() {
    let shared = state();
    let router = probes(shared.clone());
    let get = |peer: Option<&str>, host: Option<&str>| {
        let mut request = HttpRequest::builder().uri("/probe/text");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if let Some(peer) = peer {
            request = request.extension(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        let request = request.body(Body::empty()).unwrap();
        let router = router.clone();
        async move { ask(&router, request).await }
    };
    for peer in [LOOPBACK, "[::1]:4", "[::ffff:127.0.0.1]:4", "127.3.2.1:4"] {
        assert_eq!(
            get(Some(peer), Some("localhost")).await.status,
            200,
            "{peer}"
        );
    }
    for peer in [
        Some(ELSEWHERE),
        Some("[2001:db8::1]:4"),
        Some("[::ffff:192.0.2.7]:4"),
        None,
    ] {
        get(peer, Some("localhost"))
            .await
            .failed(403, "loopback_only");
    }
    for host in [
        "localhost",
        "LocalHost:1",
        "127.0.0.1:8000",
        "127.1.2.3",
        "[::1]",
        "[::1]:8000",
    ] {
        assert_eq!(get(Some(LOOPBACK), Some(host)).await.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "evil@localhost",
        "0.0.0.0:8000",
        "",
    ] {
        let answer = get(Some(LOOPBACK), Some(host)).await;
        let message = answer.failed(403, "host_not_loopback");
        assert!(message.contains(host), "{message}");
    }
    get(Some(LOOPBACK), None)
        .await
        .failed(403, "host_not_loopback");
    // The target's own name counts as well as the header.
    let absolute = HttpRequest::builder()
        .uri("http://evil.example/probe/text")
        .header("host", "localhost")
        .extension(ConnectInfo::<SocketAddr>(LOOPBACK.parse().unwrap()));
    ask(&router, absolute.body(Body::empty()).unwrap())
        .await
        .failed(403, "host_not_loopback");
    // What does not exist, or needs no token, is not shown either.
    let unknown =
        request("GET", "/nowhere").extension(ConnectInfo::<SocketAddr>(ELSEWHERE.parse().unwrap()));
    ask(&router, unknown.body(Body::empty()).unwrap())
        .await
        .failed(403, "loopback_only");

    // A token that is made meanwhile counts from then on.
    let (tokens, read, _) = tokens();
    shared.tokens.replace(tokens);
    get(Some(LOOPBACK), Some("localhost"))
        .await
        .failed(401, "token_missing");
    let asked = request("GET", "/probe/text").header(AUTHORIZATION, format!("Bearer {read}"));
    assert_eq!(
        ask(&router, asked.body(Body::empty()).unwrap())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing_and_reads_only_where_allowed() {
    let settings = Settings {
        cors_origins: vec!["https://ops.example".parse().unwrap()],
        ..Settings::default()
    };
    let open = probes(with(settings, Tokens::default()));
    let closed = probes(state());
    for (router, origin, fetched, allowed) in [
        (&closed, "http://localhost:8000", None, true),
        (&closed, "http://localhost:3000", None, false),
        (&closed, "https://evil.example", None, false),
        (&closed, "null", None, false),
        (&closed, "https://ops.example", None, false),
        (&closed, "https://ops.example", Some("cross-site"), false),
        (&closed, "http://localhost:8000", Some("same-origin"), true),
        (&open, "https://ops.example", Some("cross-site"), true),
        (
            &open,
            "https://ops.example.evil.example",
            Some("cross-site"),
            false,
        ),
        (&open, "http://ops.example", None, false),
    ] {
        let mut change = request("POST", "/probe/optional").header("origin", origin);
        if let Some(site) = fetched {
            change = change.header("sec-fetch-site", site);
        }
        let answer = ask(router, change.body(Body::empty()).unwrap()).await;
        if allowed {
            assert_eq!(answer.status, 200, "{origin} {fetched:?}");
        } else {
            answer.failed(403, "cross_origin");
        }
    }
    let origin_allowed = |answer: &Answer| {
        let header = answer.headers.get("access-control-allow-origin");
        header.map(|value| value.to_str().unwrap().to_owned())
    };
    for (router, origin, expected) in [
        (&closed, "https://ops.example", None),
        (&open, "https://ops.example", Some("https://ops.example")),
        (&open, "https://evil.example", None),
    ] {
        let read = request("GET", "/probe/text").header("origin", origin);
        let answer = ask(router, read.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(origin_allowed(&answer).as_deref(), expected, "{origin}");
        let preflight = request("OPTIONS", "/probe/optional")
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        let answer = ask(router, preflight.body(Body::empty()).unwrap()).await;
        assert_eq!(origin_allowed(&answer).as_deref(), expected, "{origin}");
    }
    for wrong in [
        "*",
        "ops.example",
        "https://ops.example/path",
        "https://user@ops.example",
        "https://Ops.example",
        "https://ops.example:",
        "https://ops.example:https",
        "https://:443",
        "https://[::1",
        "https://[:",
        "https://",
        "ftp://ops.example",
        "ftp",
        "",
    ] {
        assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
    }
    // What is one here is one to the layer that lets it in.
    for right in [
        "http://localhost:3000",
        "https://[::1]:8443",
        "http://my_host",
    ] {
        assert!(right.parse::<Origin>().is_ok(), "{right}");
        let layer = tower_http::csrf::CsrfLayer::new();
        assert!(layer.add_trusted_origin(right).is_ok(), "{right}");
    }
}

#[tokio::test]
async fn responses_are_guarded_and_compressed_where_it_pays() {
    let router = probes(state());
    for path in ["/probe/text", "/nowhere", "/probe/panic"] {
        let answer = fetch(&router, path).await;
        assert_eq!(answer.headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(answer.headers[CACHE_CONTROL], "no-store", "{path}");
        assert!(
            answer.headers.contains_key(CONTENT_SECURITY_POLICY),
            "{path}"
        );
    }
    let coded = |router: &Router, path: &str, accepted: &str| {
        let request = request("GET", path).header("accept-encoding", accepted);
        let request = request.body(Body::empty()).unwrap();
        let router = router.clone();
        async move {
            let answer = ask(&router, request).await;
            let coding = answer.headers.get("content-encoding");
            coding.map(|coding| coding.to_str().unwrap().to_owned())
        }
    };
    for (path, accepted, expected) in [
        ("/probe/long", "gzip", Some("gzip")),
        ("/probe/long", "zstd, gzip", Some("zstd")),
        ("/probe/long", "identity", None),
        ("/probe/text", "gzip", None),
        ("/probe/parquet", "gzip", None),
    ] {
        assert_eq!(
            coded(&router, path, accepted).await.as_deref(),
            expected,
            "{path} {accepted}"
        );
    }
    let plain = Settings {
        compression: false,
        ..Settings::default()
    };
    let plain = probes(with(plain, Tokens::default()));
    assert_eq!(coded(&plain, "/probe/long", "gzip").await, None);
}

#[tokio::test]
async fn the_page_and_the_document_need_no_token_and_nothing_from_elsewhere() {
    let (tokens, ..) = tokens();
    let router = router(with(Settings::default(), tokens));
    for (path, to) in [("/", "/api/docs/"), (PAGE, "/api/docs/")] {
        let answer = fetch(&router, path).await;
        assert!(answer.status.is_redirection());
        assert_eq!(answer.headers["location"], to);
    }
    let index = fetch(&router, "/api/docs/").await;
    assert_eq!(index.status, 200);
    assert!(
        index.headers[CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let policy = index.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("script-src 'self';"), "{policy}");
    // Every file that the page names is served here, and named relative to it.
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for part in index.text().split(attribute).skip(1) {
            let file = part.split('"').next().unwrap();
            assert!(!file.contains("//"), "{file}");
            let answer = fetch(
                &router,
                &format!("/api/docs/{}", file.trim_start_matches("./")),
            )
            .await;
            assert_eq!(answer.status, 200, "{file}");
            files += 1;
        }
    }
    assert!(files >= 4, "{}", index.text());
    let start = fetch(&router, "/api/docs/swagger-initializer.js").await;
    assert!(start.text().contains(DOCUMENT), "{}", start.text());
    assert!(
        start.text().contains("\"validatorUrl\": \"none\""),
        "{}",
        start.text()
    );
    fetch(&router, "/api/docs/nothing")
        .await
        .failed(404, "unknown_path");
    fetch(&router, "/api/docs/../../etc/passwd")
        .await
        .failed(404, "unknown_path");
}

#[tokio::test]
async fn the_document_says_all_there_is_to_know_of_every_route() {
    let guarded = router(with(Settings::default(), tokens().0));
    let router = router(state());
    let mut documented = 0;
    let document = fetch(&router, DOCUMENT).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "ntpmon");
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(
                operation["description"].as_str().unwrap().contains("scope"),
                "{what}"
            );
            assert_eq!(operation["security"], json!([{"token": []}, {}]), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            for status in ["200", "401", "403", "413", "500", "503"] {
                assert!(responses.contains_key(status), "{what} {status}");
            }
            for (status, response) in responses {
                let schema = &response["content"]["application/json"]["schema"];
                if ["414", "431"].contains(&status.as_str()) {
                    // Said by hyper, which sends no body.
                    assert!(response["content"].is_null(), "{what} {status}");
                } else if status.starts_with(['4', '5']) {
                    assert_eq!(
                        schema["$ref"], "#/components/schemas/ErrorBody",
                        "{what} {status}"
                    );
                }
            }
            // What is documented is there: it asks for a token.
            let concrete = path.replace(['{', '}'], "");
            let asked = request(&method.to_uppercase(), &concrete);
            let answer = ask(&guarded, asked.body(Body::empty()).unwrap()).await;
            answer.failed(401, "token_missing");
            documented += 1;
        }
    }
    assert!(documented >= 7, "{documented}");
    // Every reference has something to refer to.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn every_route_of_the_code_is_in_the_document() {
    // A route that is added without its description would be served and not be documented.
    for (routes, document) in [reading().split_for_parts(), changing().split_for_parts()] {
        let shown = format!("{routes:?}");
        let served: BTreeSet<_> = shown
            .split('"')
            .filter(|part| part.starts_with("/api/") || *part == "/metrics")
            .collect();
        let documented: BTreeSet<_> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(served, documented, "{shown}");
        assert!(!served.is_empty());
    }
}

#[tokio::test]
async fn metrics_need_read_scope_are_negotiated_and_count_requests_by_template() {
    let (tokens, read, _) = tokens();
    let router = router(with(Settings::default(), tokens));
    let asked = |accept: &'static str, token: Option<&str>| {
        let mut asked = request("GET", "/metrics").header("accept", accept);
        if let Some(token) = token {
            asked = asked.header("authorization", format!("Bearer {token}"));
        }
        ask(&router, asked.body(Body::empty()).unwrap())
    };
    assert_eq!(asked("*/*", None).await.status, 401);
    let path = "/api/ntp/history/clients/192.0.2.1";
    let unknown = request("GET", path).header("authorization", format!("Bearer {read}"));
    let unknown = ask(&router, unknown.body(Body::empty()).unwrap()).await;
    assert_eq!(unknown.status, 404);
    let plain = asked("text/plain", Some(&read)).await;
    assert_eq!(plain.status, 200);
    assert_eq!(
        plain.headers[CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = plain.text();
    for line in [
        r#"ntpmon_api_requests_total{path="/metrics",method="GET",status="4xx"} 1"#,
        r#"ntpmon_api_requests_total{path="/api/ntp/history/clients/{ip}",method="GET",status="4xx"} 1"#,
        r#"ntpmon_api_request_duration_seconds_count{path="/metrics",method="GET"} 1"#,
        r#"ntpmon_interface_up{interface="ntpmon-absent"} 0"#,
        r#"ntpmon_interface_watched{interface="ntpmon-absent"} 1"#,
        r#"ntpmon_collector_success{collector="process"} 1"#,
        "ntpmon_servers 0",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    assert!(
        !text.contains("192.0.2.1") && !text.contains("NaN"),
        "{text}"
    );
    let open = asked("application/openmetrics-text; version=1.0.0", Some(&read)).await;
    assert_eq!(
        open.headers[CONTENT_TYPE],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.text().ends_with("\n# EOF\n"));
    assert!(open.text().contains("# TYPE process_cpu_seconds counter\n"));
    let packed = request("GET", "/metrics")
        .header("authorization", format!("Bearer {read}"))
        .header("accept-encoding", "gzip");
    let packed = ask(&router, packed.body(Body::empty()).unwrap()).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_hangs_or_meets_a_bug_keeps_no_other_from_telling_its_metrics() {
    let sources = |conditions| Sources {
        conditions,
        ..Sources::new(control(), history())
    };
    let format = crate::metrics::text::Format::Prometheus;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let hangs = Metrics::new(sources(Box::new(move |_| {
        let _ = held.lock().unwrap().recv();
        Vec::new()
    })));
    let begun = std::time::Instant::now();
    for text in [hangs.text(format).await, hangs.text(format).await] {
        assert!(
            text.contains("ntpmon_collector_success{collector=\"health\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("ntpmon_collector_success{collector=\"history\"} 1\n"));
        assert!(text.contains("\nprocess_start_time_seconds "));
        assert!(!text.contains("ntpmon_component_healthy{"));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(release);
    let broken = Metrics::new(sources(Box::new(|_| panic!("a test's own panic"))));
    let text = broken.text(format).await;
    assert!(
        text.contains("ntpmon_collector_success{collector=\"health\"} 0\n"),
        "{text}"
    );
    assert!(text.contains("ntpmon_collector_success{collector=\"servers\"} 1\n"));
}

#[tokio::test]
async fn interfaces_are_told_with_the_fields_of_the_documents() {
    let router = router(state());
    let list = fetch(&router, "/api/ntp/interfaces/status").await;
    assert_eq!(list.status, 200);
    let list = list.json();
    let fields: Vec<_> = list.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["success", "count", "data"]);
    let all = list["data"].as_array().unwrap();
    assert_eq!(list["count"], all.len());
    for interface in all {
        let fields: Vec<_> = interface.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            [
                "interface",
                "is_monitoring",
                "pid",
                "cpu_percent",
                "memory_mb",
                "start_time",
                "status",
                "log_file",
                "interface_exists",
                "mode",
                "ports",
                "timeout",
                "packets",
                "events",
                "dropped",
                "ptp_events",
                "ptp_dropped",
                "ptp_skipped",
                "rings",
                "output_file",
                "output_written",
                "output_lost",
                "error",
                "notes",
            ]
        );
    }
    let named = |name: &str| all.iter().find(|one| one["interface"] == name).unwrap();
    let lo = named("lo");
    assert_eq!(lo["status"], "not_monitoring");
    assert_eq!(lo["interface_exists"], true);
    assert_eq!(lo["pid"], Value::Null);
    let absent = named(ABSENT);
    assert_eq!(absent["status"], "failed");
    assert_eq!(absent["interface_exists"], false);
    assert!(absent["error"].is_string(), "{absent}");

    for (method, path) in [
        ("GET", "/api/ntp/interfaces/lo/status"),
        ("POST", "/api/ntp/interfaces/lo/stop"),
        ("POST", "/api/ntp/interfaces/lo/stop"),
    ] {
        let answer = ask(&router, request(method, path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let reply = answer.json();
        let fields: Vec<_> = reply.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["success", "message", "interface", "data"]);
        assert_eq!(
            (&reply["success"], &reply["interface"]),
            (&true.into(), &"lo".into())
        );
        assert_eq!(reply["data"]["status"], "not_monitoring");
        assert!(reply["message"].as_str().unwrap().contains("lo"));
    }
    // An interface may have the name of a path.
    let message = fetch(&router, "/api/ntp/interfaces/status/status").await;
    message.failed(404, "interface_not_found");
}

#[tokio::test]
async fn an_interface_that_cannot_be_is_refused_and_one_that_is_not_is_unknown() {
    let router = router(state());
    for path in ["start", "stop", "restart", "status"] {
        let method = if path == "status" { "GET" } else { "POST" };
        for (name, status, code, expected) in [
            ("none-such", 404, "interface_not_found", "'none-such'"),
            (
                "sixteen-letters-",
                400,
                "invalid_parameter",
                "1 to 15 bytes",
            ),
            ("a%2Fb", 400, "invalid_parameter", "'a/b'"),
            ("a%00b", 400, "invalid_parameter", "'a\\0b'"),
            ("%2e%2e", 400, "invalid_parameter", "'..'"),
            ("a%20b", 400, "invalid_parameter", "'a b'"),
            ("%ff", 400, "invalid_parameter", "UTF-8"),
        ] {
            let path = format!("/api/ntp/interfaces/{name}/{path}");
            let answer = ask(&router, request(method, &path).body(Body::empty()).unwrap()).await;
            let message = answer.failed(status, code);
            assert!(message.contains(expected), "{path}: {message}");
        }
    }
}

#[tokio::test]
async fn what_an_interface_is_to_be_watched_with_is_checked_field_by_field() {
    let router = router(state());
    for (body, expected) in [
        (
            json!({"port": 0}),
            "port: 0 is no port; it has to be a whole number from 1 to 65535",
        ),
        (json!({"port": 65536}), "port: 65536 is no port"),
        (json!({"port": -1}), "port: -1 is no port"),
        (json!({"port": 1.5}), "port: 1.5 is no port"),
        (json!({"port": "123"}), "port: \"123\" is no port"),
        (json!({"port": [1]}), "port: [1] is no port"),
        (json!({"ports": 1}), "ports: invalid type"),
        (json!({"ports": [1, 0]}), "ports[1]: 0 is no port"),
        (json!({"ports": []}), "ports: there are 0"),
        (
            json!({"ports": [1, 2, 3, 4, 5, 6, 7, 8], "port": 9}),
            "ports: there are 9",
        ),
        (
            json!({"timeout": 0}),
            "timeout: 0 is no timeout; it has to be a number of seconds from 0.001 to 3600",
        ),
        (json!({"timeout": -2.0}), "timeout: -2.0 is no timeout"),
        (json!({"timeout": 1e300}), "timeout: 1e+300 is no timeout"),
        (json!({"timeout": "2"}), "timeout: \"2\" is no timeout"),
        (
            json!({"mode": "raw"}),
            "mode: unknown variant `raw`, expected `tc` or `xdp`",
        ),
        (json!({"output_file": 1}), "output_file: invalid type"),
    ] {
        for action in ["start", "restart"] {
            let path = format!("/api/ntp/interfaces/{ABSENT}/{action}");
            let answer = send(&router, &path, body.to_string()).await;
            let message = answer.failed(400, "invalid_body");
            assert!(message.contains(expected), "{body}: {message}");
        }
    }
    // What is right gets as far as the interface; unknown fields are what old scripts may send.
    for body in [
        "",
        "{}",
        "{\"port\": 123, \"timeout\": 2.0, \"ingestion_host\": \"127.0.0.1\"}",
    ] {
        let answer = send(&router, "/api/ntp/interfaces/none-such/start", body).await;
        answer.failed(404, "interface_not_found");
    }
    // No directory is configured for output files.
    let path = format!("/api/ntp/interfaces/{ABSENT}/start");
    let answer = send(&router, &path, "{\"output_file\": \"/etc/passwd\"}").await;
    let message = answer.failed(400, "output_file_refused");
    assert!(message.starts_with("output_file: "), "{message}");
    // The options arrive in full: what was not said is the default.
    let answer = send(
        &router,
        &path,
        "{\"ports\": [4123.0, 123], \"mode\": \"tc\"}",
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let data = &answer.json()["data"];
    assert_eq!(data["ports"], json!([123, 4123]));
    assert_eq!(data["timeout"], 2.0);
    assert_eq!(data["status"], "failed");
}

#[tokio::test]
async fn what_a_body_leaves_out_is_as_the_configuration_says_after_a_reload_too() {
    let state = state();
    let control = state.control.clone();
    let router = router(state);
    let reloaded = Options {
        timeout: Duration::from_secs(7),
        ..Options::default()
    };
    let named = vec![ABSENT.to_owned()];
    control.configure(named, reloaded).await.unwrap();
    for action in ["start", "restart"] {
        let path = format!("/api/ntp/interfaces/{ABSENT}/{action}");
        let answer = send(&router, &path, "{\"port\": 4123}").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let data = &answer.json()["data"];
        assert_eq!(data["ports"], json!([4123]), "{action}");
        assert_eq!(data["timeout"], 7.0, "{action}");
    }
}

#[tokio::test]
async fn health_is_answered_always_and_says_which_part_is_not_well() {
    let mut state = state();
    state.components = Components::default()
        .with("store", || Component::healthy(serde_json::Map::new()))
        .with("disk", || {
            let details = [("free_bytes".to_owned(), 0.into())];
            Component::degraded("the disk is full", details.into_iter().collect())
        })
        .with("broken", panic_now_as_component);
    let answer = fetch(&router(state), "/api/ntp/health").await;
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!(health["success"], true);
    assert_eq!(health["status"], "degraded");
    let components = &health["components"];
    assert_eq!(components["store"]["status"], "healthy");
    assert_eq!(components["store"]["message"], Value::Null);
    assert_eq!(components["disk"]["status"], "degraded");
    assert_eq!(components["disk"]["message"], "the disk is full");
    assert_eq!(components["disk"]["free_bytes"], 0);
    assert_eq!(components["broken"]["status"], "degraded");
    assert_eq!(components["interfaces"]["status"], "degraded");
    let message = components["interfaces"]["message"].as_str().unwrap();
    assert!(message.contains(ABSENT), "{message}");
}

#[tokio::test]
async fn a_part_that_hangs_takes_one_thread_and_is_told_each_time() {
    let looks = Arc::new(AtomicUsize::new(0));
    let (go_on, hanging) = std::sync::mpsc::channel::<()>();
    let hanging = std::sync::Mutex::new(hanging);
    let mut state = state();
    state.components = Components::default().with("store", {
        let looks = Arc::clone(&looks);
        move || {
            looks.fetch_add(1, Ordering::SeqCst);
            let _ = hanging.lock().unwrap().recv();
            Component::healthy(serde_json::Map::new())
        }
    });
    let router = router(state);
    let status = || async {
        let health = fetch(&router, "/api/ntp/health").await.json();
        health["components"]["store"].clone()
    };
    let (one, other, third) = tokio::join!(status(), status(), status());
    for hung in [one, other, third] {
        assert_eq!(hung["status"], "degraded");
        let message = hung["message"].as_str().unwrap();
        assert!(message.contains("said nothing"), "{message}");
    }
    assert_eq!(looks.load(Ordering::SeqCst), 1);
    // It answers again, and at once to all that ask.
    drop(go_on);
    let (one, other) = tokio::join!(status(), status());
    assert_eq!(
        (&one["status"], &other["status"]),
        (&json!("healthy"), &json!("healthy"))
    );
}

fn panic_now_as_component() -> Component {
    panic!("a test's own panic")
}

#[tokio::test]
async fn a_daemon_that_is_stopping_says_so() {
    let state = state();
    state.control.end().await.unwrap();
    let router = router(state);
    fetch(&router, "/api/ntp/interfaces/status")
        .await
        .failed(503, "stopping");
    let health = fetch(&router, "/api/ntp/health").await;
    assert_eq!(health.json()["status"], "degraded");
}
