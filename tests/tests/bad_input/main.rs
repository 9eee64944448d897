//! Whatever is wrong in a request is refused with a status of HTTP that fits, a code for programs
//! and a message that names the value; and nothing is changed by it.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

mod judged;

use std::{fs::File, path::Path, process::Command, time::Duration};

use ntpmon_tests::{
    api::{Answer, Api},
    daemon::{Daemon, Home},
    load::Exchanges,
    namespace::Pair,
    process::{run, wait_for},
    watch::binary,
};
use serde_json::{Map, Value, json};

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS: u16 = 20;
/// What the fields of a status are that change by themselves.
const PASSING: [&str; 3] = ["cpu_percent", "memory_mb", "packets"];
const LARGE: u64 = 100 << 20;

/// Questions, with the status that refuses each and what its message has to name.
const QUESTIONS: [(&str, u16, &[&str]); 38] = [
    ("history/clients?page=0", 400, &["page", "'0'"]),
    ("history/clients?page=-1", 400, &["page", "'-1'"]),
    ("history/clients?page=first", 400, &["page", "'first'"]),
    (
        "history/clients?page=99999999999999999999999",
        400,
        &["page", "'99999"],
    ),
    ("history/clients?page_size=0", 400, &["page_size", "'0'"]),
    ("history/clients?page_size=-1", 400, &["page_size", "'-1'"]),
    (
        "history/clients?page_size=1001",
        400,
        &["page_size", "1001", "1000"],
    ),
    (
        "history/clients?page_size=1e1",
        400,
        &["page_size", "'1e1'"],
    ),
    (
        "history/clients?search_ip=300.1.1.1",
        400,
        &["search_ip", "300.1.1.1"],
    ),
    (
        "history/clients?search_ip=10.0.0.0/200",
        400,
        &["search_ip", "10.0.0.0/200"],
    ),
    (
        "history/clients?search_ip=fd00::/129",
        400,
        &["search_ip", "fd00::/129"],
    ),
    (
        "history/clients?search_ip=localhost",
        400,
        &["search_ip", "localhost"],
    ),
    (
        "history/clients?search_ip=10.0.0.1%27--",
        400,
        &["search_ip", "10.0.0.1'--"],
    ),
    ("history/clients?sort=colour", 400, &["sort", "colour"]),
    (
        "history/clients?order=sideways",
        400,
        &["order", "sideways"],
    ),
    ("history/clients?version=300", 400, &["version", "300"]),
    ("history/clients?stratum=256", 400, &["stratum", "256"]),
    ("history/clients?stratum=-1", 400, &["stratum", "-1"]),
    (
        "history/clients?since=yesterday",
        400,
        &["since", "yesterday"],
    ),
    (
        "history/clients?until=2026-13-01T00:00:00Z",
        400,
        &["until", "2026-13-01"],
    ),
    (
        "history/clients?client_clock=broken",
        400,
        &["client_clock", "broken"],
    ),
    (
        "history/clients?cursor=nothing",
        400,
        &["cursor", "nothing"],
    ),
    ("history/clients/300.1.1.1", 400, &["300.1.1.1"]),
    ("history/clients/10.9.9.9", 404, &["10.9.9.9"]),
    ("history/clients/%ff", 400, &[]),
    ("history/servers/300.1.1.1", 400, &["300.1.1.1"]),
    ("history/servers/10.9.9.9", 404, &["10.9.9.9"]),
    (
        "history/rollups?resolution=week",
        400,
        &["resolution", "week"],
    ),
    (
        "history/rollups?since=yesterday",
        400,
        &["since", "yesterday"],
    ),
    ("history/nothing", 404, &["/api/ntp/history/nothing"]),
    ("interfaces/nosuch0/status", 404, &["nosuch0"]),
    (
        "interfaces/a-name-that-is-too-long/status",
        400,
        &["a-name-that-is-too-long"],
    ),
    ("interfaces/..%2f..%2fetc/status", 400, &["../../etc"]),
    ("interfaces/%ff/status", 400, &[]),
    (
        "interfaces/veth0/start",
        405,
        &["GET", "/api/ntp/interfaces/veth0/start"],
    ),
    ("history/search", 405, &["GET", "/api/ntp/history/search"]),
    ("history/export", 405, &["GET", "/api/ntp/history/export"]),
    ("", 404, &["/api/ntp/"]),
];

/// Orders, with their bodies.
const ORDERS: [(&str, &str, u16, &[&str]); 41] = [
    ("interfaces/veth0/start", "{", 400, &["JSON"]),
    ("interfaces/veth0/start", "{\"port\": 123}}", 400, &["JSON"]),
    ("interfaces/veth0/start", "[]", 400, &["object"]),
    ("interfaces/veth0/start", "7", 400, &["object"]),
    (
        "interfaces/veth0/start",
        "{\"port\": 0}",
        400,
        &["port", "0"],
    ),
    (
        "interfaces/veth0/start",
        "{\"port\": 70000}",
        400,
        &["port", "70000"],
    ),
    (
        "interfaces/veth0/start",
        "{\"port\": \"ntp\"}",
        400,
        &["port", "ntp"],
    ),
    (
        "interfaces/veth0/start",
        "{\"port\": 12.5}",
        400,
        &["port", "12.5"],
    ),
    ("interfaces/veth0/start", "{\"ports\": []}", 400, &["ports"]),
    (
        "interfaces/veth0/start",
        "{\"ports\": [1,2,3,4,5,6,7,8,9]}",
        400,
        &["ports", "9"],
    ),
    (
        "interfaces/veth0/start",
        "{\"ports\": [123, -1]}",
        400,
        &["ports[1]", "-1"],
    ),
    (
        "interfaces/veth0/start",
        "{\"timeout\": -1}",
        400,
        &["timeout", "-1"],
    ),
    (
        "interfaces/veth0/start",
        "{\"timeout\": 1e9}",
        400,
        &["timeout", "1000000000"],
    ),
    (
        "interfaces/veth0/start",
        "{\"timeout\": \"2\"}",
        400,
        &["timeout", "\"2\""],
    ),
    (
        "interfaces/veth0/start",
        "{\"mode\": \"dpdk\"}",
        400,
        &["mode", "dpdk"],
    ),
    (
        "interfaces/veth0/start",
        "{\"output_file\": \"/etc/out\"}",
        400,
        &["output_file", "capture.output_dir"],
    ),
    (
        "interfaces/veth0/restart",
        "{\"port\": 0}",
        400,
        &["port", "0"],
    ),
    ("interfaces/nosuch0/start", "{}", 404, &["nosuch0"]),
    ("interfaces/nosuch0/stop", "", 404, &["nosuch0"]),
    ("interfaces/nosuch0/restart", "", 404, &["nosuch0"]),
    (
        "interfaces/veth0/status",
        "",
        405,
        &["POST", "/api/ntp/interfaces/veth0/status"],
    ),
    ("interfaces/veth0/explode", "", 404, &["explode"]),
    (
        "history/clients",
        "{}",
        405,
        &["POST", "/api/ntp/history/clients"],
    ),
    ("history/search", "{\"filters\": ", 400, &["JSON"]),
    (
        "history/search",
        "{\"filters\": {\"client_ips\": [\"300.1.1.1\"]}}",
        400,
        &["client_ips", "300.1.1.1"],
    ),
    (
        "history/search",
        "{\"filters\": {\"client_ips\": 7}}",
        400,
        &["client_ips"],
    ),
    ("history/search", "{\"filters\": []}", 400, &["filters"]),
    (
        "history/search",
        "{\"pagination\": {\"page\": 0}}",
        400,
        &["page", "0"],
    ),
    (
        "history/search",
        "{\"pagination\": {\"page_size\": -1}}",
        400,
        &["page_size", "-1"],
    ),
    (
        "history/search",
        "{\"filters\": {\"stratum\": 256}}",
        400,
        &["stratum", "256"],
    ),
    (
        "history/export",
        "{\"format\": \"xml\"}",
        400,
        &["format", "xml"],
    ),
    ("history/export", "{\"limit\": -1}", 400, &["limit", "-1"]),
    (
        "history/export",
        "{\"filters\": {\"search_ip\": \"300.1.1.1\"}}",
        400,
        &["search_ip", "300.1.1.1"],
    ),
    ("history/export", "{\"format\": \"csv\", ", 400, &["JSON"]),
    ("history/cleanup", "", 400, &["empty"]),
    ("history/cleanup", "{}", 400, &["older_than_days", "before"]),
    (
        "history/cleanup",
        "{\"older_than_days\": -1}",
        400,
        &["older_than_days", "-1"],
    ),
    (
        "history/cleanup",
        "{\"older_than_days\": \"many\"}",
        400,
        &["older_than_days", "many"],
    ),
    (
        "history/cleanup",
        "{\"before\": \"noon\"}",
        400,
        &["before", "noon"],
    ),
    (
        "history/cleanup",
        "{\"older_than_days\": 1, \"before\": \"2026-01-01T00:00:00Z\"}",
        400,
        &["older_than_days", "before"],
    ),
    ("nothing/at/all", "{}", 404, &["/api/ntp/nothing/at/all"]),
];

/// A daemon that watches one end of a pair, and has something to lose.
struct Stage {
    pair: Pair,
    home: Home,
    daemon: Daemon,
}

impl Stage {
    fn new() -> Self {
        let (pair, home) = (Pair::new().unwrap(), Home::new().unwrap());
        let configuration = judged::CONFIGURATION;
        home.configure(&format!(
            "history.flush_interval_seconds = 0.2\n{configuration}"
        ))
        .unwrap();
        let mut command = home
            .command_watching(&pair.server, &[], "127.0.0.1:0", &[DEVICE])
            .unwrap();
        let daemon = home.start(&mut command).unwrap();
        let load = Exchanges::start(&pair, CLIENTS, Duration::from_micros(100)).unwrap();
        wait_for("exchanges", PATIENCE, || {
            Ok((load.answered() > 10 * u64::from(CLIENTS)).then_some(()))
        })
        .unwrap();
        let sent = load.stop().unwrap();
        let stage = Self { pair, home, daemon };
        wait_for("all of it to be remembered", PATIENCE, || {
            let path = "/api/ntp/history/service/statistics";
            let statistics = stage.api().get(path)?.success()?;
            Ok((statistics["data"]["total_processed"] == sent).then_some(()))
        })
        .unwrap();
        stage
    }

    fn api(&self) -> Api<'_> {
        Api::of(&self.daemon, &self.pair.server).unwrap()
    }
}

/// All that a request could have changed.
fn state(api: &Api<'_>) -> Value {
    let get = |path: &str| {
        api.get(&format!("/api/ntp/{path}"))
            .unwrap()
            .success()
            .unwrap()
    };
    let mut statuses = get("interfaces/status");
    for status in statuses["data"].as_array_mut().unwrap() {
        let status: &mut Map<String, Value> = status.as_object_mut().unwrap();
        for name in PASSING {
            status.remove(name).unwrap();
        }
    }
    let service = &get("history/service/statistics")["data"];
    json!([
        statuses,
        get("history/interfaces/statistics"),
        get("history/clients?page_size=1000&sort=client_ip"),
        get("history/servers"),
        service["client_count"],
        service["total_received"],
        service["total_processed"],
        service["processing_errors"],
    ])
}

/// It is a refusal with this status, a code for programs and a message with these words.
fn is_refused(asked: &str, answer: &Answer, status: u16, words: &[&str]) -> Result<(), String> {
    let (code, message) = match answer.refusal() {
        Ok(refusal) => refusal,
        Err(error) => return Err(format!("{asked}: status {}: {error:#}", answer.status)),
    };
    let is_code = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    if answer.status != status
        || !code.chars().all(is_code)
        || answer.content_type != "application/json"
    {
        return Err(format!(
            "{asked}: status {} {code}: {message}",
            answer.status
        ));
    }
    match words.iter().find(|word| !message.contains(**word)) {
        Some(word) => Err(format!("{asked}: no '{word}' in: {message}")),
        None => Ok(()),
    }
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let stage = Stage::new();
    let api = stage.api();
    let before = state(&api);
    let mut failed = Vec::new();
    for (path, status, words) in QUESTIONS {
        let answer = api.get(&format!("/api/ntp/{path}")).unwrap();
        failed.extend(is_refused(path, &answer, status, words).err());
    }
    for (path, body, status, words) in ORDERS {
        let answer = api.post_json(&format!("/api/ntp/{path}"), body).unwrap();
        failed.extend(is_refused(&format!("{path} {body}"), &answer, status, words).err());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(state(&api), before);
}

#[test]
fn requests_that_are_no_requests_of_ours_are_refused() {
    let stage = Stage::new();
    let api = stage.api();
    let before = state(&api);
    let start = format!("/api/ntp/interfaces/{DEVICE}/start");
    let stop = format!("/api/ntp/interfaces/{DEVICE}/stop");
    let search = "/api/ntp/history/search";
    let long = "x".repeat(1000);
    let refused = |path: &str, arguments: &[&str], status: u16, words: &[&str]| {
        let answer = api.curl(path, arguments).unwrap();
        is_refused(&format!("{path} {arguments:?}"), &answer, status, words).unwrap();
    };
    refused(
        search,
        &["--header", "Content-Type: text/plain", "--data", "{}"],
        415,
        &["text/plain", "application/json"],
    );
    refused(
        search,
        &["--data", "filters=all"],
        415,
        &["x-www-form-urlencoded"],
    );
    refused(&stop, &["--request", "DELETE"], 405, &["DELETE", &stop]);
    refused(&start, &["--request", "PUT", "--data", "{}"], 405, &["PUT"]);
    refused(&stop, &["--request", "BREW"], 405, &["BREW"]);
    // Pages of others, in the browser of somebody on this host.
    refused(
        &stop,
        &[
            "--request",
            "POST",
            "--header",
            "Origin: http://evil.example",
        ],
        403,
        &["another origin", "api.cors_origins"],
    );
    refused(
        "/api/ntp/interfaces/status",
        &["--header", "Host: evil.example"],
        403,
        &["evil.example", "localhost"],
    );
    // A long value is named, but not in full.
    for path in [
        format!("/api/ntp/history/clients?search_ip={long}"),
        format!("/api/ntp/history/clients?sort={long}"),
        format!("/api/ntp/history/clients/{long}"),
        format!("/api/ntp/interfaces/{long}/status"),
    ] {
        let answer = api.get(&path).unwrap();
        is_refused(&path, &answer, 400, &["xxx"]).unwrap();
        let (_, message) = answer.refusal().unwrap();
        assert!(message.len() < 500, "{message}");
    }
    // Of many headers the last is one too many, and of one there may be too much.
    let many: Vec<_> = (0..150).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<_> = many.iter().flat_map(|it| ["--header", it]).collect();
    let file = stage.home.path("header");
    let large: String = (0..15)
        .map(|number| format!("X-{number}: {}\n", "x".repeat(60_000)))
        .collect();
    std::fs::write(&file, large).unwrap();
    let large = format!("@{}", file.display());
    for arguments in [&many[..], &["--header", &large]] {
        let answer = api.curl("/api/ntp/health", arguments).unwrap();
        assert_eq!(answer.status, 431, "{}", answer.text());
    }
    assert_eq!(state(&api), before);
}

#[test]
fn a_body_of_100_megabytes_is_refused_and_not_kept() {
    let stage = Stage::new();
    let api = stage.api();
    let before = state(&api);
    let file = stage.home.path("large");
    File::create(&file).unwrap().set_len(LARGE).unwrap();
    let body = format!("@{}", file.display());
    let of_json = ["--header", "Content-Type: application/json"];
    for path in [
        &format!("/api/ntp/interfaces/{DEVICE}/start")[..],
        "/api/ntp/history/search",
        "/api/ntp/history/export",
        "/api/ntp/history/cleanup",
        "/api/ntp/checks",
        "/api/ntp/alerts/rules",
        "/api/ntp/alerts/silences",
        "/api/ntp/alerts/1/acknowledge",
    ] {
        // With its size said first, and in pieces.
        for more in [&[][..], &["--header", "Transfer-Encoding: chunked"]] {
            let arguments = [&of_json, &["--data-binary", &body], more].concat();
            let answer = api.curl(path, &arguments).unwrap();
            is_refused(path, &answer, 413, &["1048576"]).unwrap();
        }
    }
    let memory = stage.daemon.memory_bytes().unwrap();
    assert!(memory.most < LARGE + memory.now / 2, "{memory:?}");
    assert_eq!(state(&api), before);
}

fn token(home: &Home, name: &str, scope: &str) -> String {
    let mut command = Command::new(binary().unwrap());
    command
        .args(["token", "create", name, "--scope", scope, "--config"])
        .arg(home.path("ntpmon.toml"));
    run(&mut command).unwrap().trim().to_owned()
}

#[test]
fn who_has_no_token_or_a_lesser_one_is_refused() {
    let (pair, home) = (Pair::new().unwrap(), Home::new().unwrap());
    let tokens: &Path = &home.path("tokens.toml");
    home.configure(&format!(
        "api.tokens_file = {:?}\n",
        tokens.display().to_string()
    ))
    .unwrap();
    let (reader, admin) = (
        token(&home, "reader", "read"),
        token(&home, "keeper", "admin"),
    );
    let mut command = home
        .command_watching(&pair.server, &[], "127.0.0.1:0", &[DEVICE])
        .unwrap();
    let daemon = home.start(&mut command).unwrap();
    let api = |token: &str| {
        let api = Api::of(&daemon, &pair.server).unwrap();
        api.with_token(token)
    };
    let before = state(&api(&reader));
    let asked = "/api/ntp/history/clients";
    let stop = format!("/api/ntp/interfaces/{DEVICE}/stop");
    let cleanup = "/api/ntp/history/cleanup";
    let nobody = Api::of(&daemon, &pair.server).unwrap();
    let wrong = format!("{}x", &admin[..admin.len() - 1]);
    for (api, why) in [
        (&nobody, "Authorization"),
        (&api(&wrong), "token"),
        (&api(""), "Bearer"),
    ] {
        is_refused(asked, &api.get(asked).unwrap(), 401, &[why]).unwrap();
        is_refused(&stop, &api.post(&stop).unwrap(), 401, &[why]).unwrap();
    }
    let reading = api(&reader);
    reading.get(asked).unwrap().success().unwrap();
    is_refused(&stop, &reading.post(&stop).unwrap(), 403, &["admin"]).unwrap();
    for (path, body) in [
        (cleanup, "{\"older_than_days\": 0}"),
        ("/api/ntp/checks", "{\"server\": \"127.0.0.1:1\"}"),
        ("/api/ntp/checks/0000000000000000/pause", ""),
        (
            "/api/ntp/alerts/rules",
            "{\"name\": \"a\", \"quantity\": \"check_offset\"}",
        ),
        ("/api/ntp/alerts/silences", "{\"name\": \"a\"}"),
        ("/api/ntp/alerts/1/acknowledge", "{\"by\": \"a\"}"),
    ] {
        let refused = reading.post_json(path, body).unwrap();
        is_refused(path, &refused, 403, &["admin"]).unwrap();
    }
    // Searching and exporting change nothing.
    reading
        .post_json("/api/ntp/history/search", "{}")
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(state(&reading), before);
    api(&admin).post(&stop).unwrap().success().unwrap();
    assert_ne!(state(&reading), before);
}
