//! The history over HTTP, without a socket: what was fed is what is answered, however it is asked
//! for, and what is asked for wrongly is refused.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr};

use axum::{
    Router,
    body::Body,
    http::header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::{
        SharedTokens, State, router,
        tests::{self, fetch, request, send},
    },
    history::{
        History, Settings,
        made::{self, Ask, BEGIN, SECOND, ask},
    },
    ntp::ClientClock,
    pipeline::Sink,
};

const CLIENTS: &str = "/api/ntp/history/clients";
const SEARCH: &str = "/api/ntp/history/search";
const CLEANUP: &str = "/api/ntp/history/cleanup";
const EXPORT: &str = "/api/ntp/history/export";
/// 192.0.2.0 and 198.51.100.0.
const NETWORKS: [u32; 2] = [0xc000_0200, 0xc633_6400];
/// Records that are fed: 30 clients on eth0, 10 of them and 5 others on eth1.
const RECORDS: usize = 45;

struct Fed {
    state: State,
    router: Router,
    _directory: TempDir,
}

fn asked(number: u32) -> Vec<Ask> {
    let first = BEGIN + i64::from(number * 7 % 30) * SECOND;
    (0..=number % 4)
        .map(|round| {
            let mut one = ask(
                NETWORKS[0] + number,
                first + i64::from(round) * 100 * SECOND,
            )
            .server(1 + (number % 3) as u8);
            one.version = 3 + (number % 2) as u8;
            one.stratum = 1 + (number % 5) as u8;
            one.took = 1000 * i64::from(1 + number * 11 % 30);
            one.clock = match number % 3 {
                0 => ClientClock::Unknown,
                1 => ClientClock::Honest,
                _ => ClientClock::Randomised,
            };
            // Nothing is known of how long an answer takes.
            match number % 6 {
                0 => one.unanswered(),
                _ => one,
            }
        })
        .collect()
}

fn fed() -> Fed {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), Settings::default()).unwrap();
    let (mut here, mut there) = (history.feed("eth0"), history.feed("eth1"));
    for number in 1..=30 {
        for ask in asked(number) {
            here.exchange(&ask.exchange());
            if number <= 10 {
                there.exchange(&ask.exchange());
            }
        }
    }
    for number in 1..=5 {
        there.exchange(&ask(NETWORKS[1] + number, BEGIN).exchange());
    }
    history.flush().unwrap();
    let state = State {
        history,
        ..tests::state()
    };
    Fed {
        router: router(state.clone()),
        state,
        _directory: directory,
    }
}

impl Fed {
    async fn get(&self, path: &str) -> Value {
        let answer = fetch(&self.router, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let value = answer.json();
        assert_eq!(value["success"], true);
        value
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = send(&self.router, path, body.to_string()).await;
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        let value = answer.json();
        assert_eq!(value["success"], true);
        value
    }

    async fn all(&self) -> Vec<Value> {
        let all = self
            .get(&format!(
                "{CLIENTS}?page_size=1000&sort=client_ip&order=asc"
            ))
            .await;
        list(&all).clone()
    }
}

fn list(answer: &Value) -> &Vec<Value> {
    let data = answer["data"].as_array().unwrap();
    assert_eq!(answer["count"], data.len(), "{answer}");
    data
}

fn names(clients: &[Value]) -> Vec<String> {
    clients
        .iter()
        .map(|client| format!("{} {}", client["client_ip"], client["interface_name"]))
        .collect()
}

/// As the field says, where both are known.
fn compare(field: &str, one: &Value, other: &Value) -> Ordering {
    let (one, other) = (&one[field], &other[field]);
    if field == "client_ip" {
        let address = |value: &Value| value.as_str().unwrap().parse::<IpAddr>().unwrap();
        return address(one).cmp(&address(other));
    }
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => one.as_str().unwrap().cmp(other.as_str().unwrap()),
    }
}

#[tokio::test]
async fn pages_and_cursors_give_every_client_once_in_every_order() {
    let fed = fed();
    let everyone: BTreeSet<String> = names(&fed.all().await).into_iter().collect();
    assert_eq!(everyone.len(), RECORDS);
    for (sort, field, some_unknown) in [
        ("last_seen", "last_seen_timestamp", false),
        ("first_seen", "first_seen_timestamp", false),
        ("session_count", "session_count", false),
        ("unanswered", "unanswered", false),
        ("latency", "client_to_server_latency_seconds", true),
        ("processing_time", "server_processing_time_seconds", true),
        ("total_time", "total_process_time_seconds", true),
        ("request_rate", "request_rate_per_second", true),
        ("client_ip", "client_ip", false),
    ] {
        for (order, expected) in [("asc", Ordering::Greater), ("desc", Ordering::Less)] {
            let base = format!("{CLIENTS}?sort={sort}&order={order}&page_size=7");
            let mut paged = Vec::new();
            for page in 1..=7 {
                let answer = fed.get(&format!("{base}&page={page}")).await;
                let pagination = &answer["pagination"];
                assert_eq!(pagination["page"], page);
                assert_eq!(pagination["page_size"], 7);
                assert_eq!(pagination["total"], RECORDS);
                assert_eq!(pagination["total_pages"], 7);
                assert_eq!(pagination["has_next"], page < 7);
                assert_eq!(pagination["has_prev"], page > 1);
                assert_eq!(pagination["next_cursor"].is_string(), page < 7);
                paged.extend(list(&answer).clone());
            }
            let mut followed = Vec::new();
            let mut cursor = String::new();
            for _ in 0..7 {
                let answer = fed.get(&format!("{base}{cursor}")).await;
                followed.extend(list(&answer).clone());
                match answer["pagination"]["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(names(&paged), names(&followed), "{sort} {order}");
            assert_eq!(paged.len(), RECORDS);
            let seen: BTreeSet<String> = names(&paged).into_iter().collect();
            assert_eq!(seen, everyone, "{sort} {order}");
            let (known, unknown): (Vec<&Value>, Vec<&Value>) =
                paged.iter().partition(|client| !client[field].is_null());
            assert_eq!(unknown.is_empty(), !some_unknown, "{sort}");
            assert!(paged[..known.len()].iter().all(|it| !it[field].is_null()));
            for pair in known.windows(2) {
                let order = compare(field, pair[0], pair[1]);
                assert_ne!(order, expected, "{sort}: {} {}", pair[0], pair[1]);
            }
            // By the field's own name it is the same.
            let named = fed
                .get(&format!(
                    "{CLIENTS}?sort={field}&order={order}&page_size=1000"
                ))
                .await;
            assert_eq!(names(list(&named)), names(&paged), "{field}");
        }
    }
}

#[tokio::test]
async fn a_list_begins_with_the_last_seen_and_has_twenty() {
    let fed = fed();
    let first = fed.get(CLIENTS).await;
    assert_eq!(list(&first).len(), 20);
    let told = fed
        .get(&format!(
            "{CLIENTS}?page=1&page_size=20&sort=last_seen&order=desc"
        ))
        .await;
    assert_eq!(first, told);
    for page in [4, 1_000_000_000] {
        let beyond = fed.get(&format!("{CLIENTS}?page={page}")).await;
        assert!(list(&beyond).is_empty());
        assert_eq!(beyond["pagination"]["total"], RECORDS);
        assert_eq!(beyond["pagination"]["has_next"], false);
        assert_eq!(beyond["pagination"]["has_prev"], true);
    }
}

#[tokio::test]
async fn a_cursor_of_another_order_is_none() {
    let fed = fed();
    let first = fed
        .get(&format!("{CLIENTS}?sort=latency&page_size=5"))
        .await;
    let cursor = first["pagination"]["next_cursor"].as_str().unwrap();
    for other in [
        "sort=last_seen".to_owned(),
        "sort=latency&order=asc".to_owned(),
    ] {
        let path = format!("{CLIENTS}?{other}&cursor={cursor}");
        let message = fetch(&fed.router, &path)
            .await
            .failed(400, "invalid_cursor");
        assert!(message.contains(cursor) && message.contains("sort"));
    }
    for wrong in ["", "x", &cursor[1..], &"é".repeat(31), &"9".repeat(5000)] {
        let path = format!("{CLIENTS}?sort=latency&cursor={wrong}").replace('é', "%C3%A9");
        let message = fetch(&fed.router, &path)
            .await
            .failed(400, "invalid_cursor");
        assert!(message.len() < 300, "{message}");
    }
}

#[tokio::test]
async fn a_filter_picks_those_and_only_those_in_a_query_and_in_a_body() {
    type Pick = fn(&Value) -> bool;
    let fed = fed();
    let all = fed.all().await;
    let middle = "2023-12-09T00:00:30Z";
    assert_eq!(
        middle.parse::<jiff::Timestamp>().unwrap().as_nanosecond(),
        i128::from(BEGIN + 30 * SECOND)
    );
    let cases: [(&str, Value, Pick); 14] = [
        (
            "search_ip=192.0.2.7",
            json!({"search_ip": "192.0.2.7"}),
            |it| it["client_ip"] == "192.0.2.7",
        ),
        (
            "search_ip=192.0.2.2",
            json!({"search_ip": "192.0.2.2"}),
            |it| it["client_ip"] == "192.0.2.2",
        ),
        ("search_ip=198.", json!({"search_ip": "198."}), |it| {
            it["client_ip"].as_str().unwrap().starts_with("198.")
        }),
        (
            "search_ip=192.0.2.16/28",
            json!({"search_ip": "192.0.2.16/28"}),
            |it| {
                let address: IpAddr = it["client_ip"].as_str().unwrap().parse().unwrap();
                let network: ipnet::IpNet = "192.0.2.16/28".parse().unwrap();
                network.contains(&address)
            },
        ),
        (
            "client_ips=192.0.2.1,192.0.2.2,203.0.113.9",
            json!({"client_ips": ["192.0.2.1", "192.0.2.2", "203.0.113.9"]}),
            |it| it["client_ip"] == "192.0.2.1" || it["client_ip"] == "192.0.2.2",
        ),
        (
            "interface_name=eth1",
            json!({"interface_name": "eth1"}),
            |it| it["interface_name"] == "eth1",
        ),
        (
            "interface_names=eth1,absent",
            json!({"interface_names": ["eth1", "absent"]}),
            |it| it["interface_name"] == "eth1",
        ),
        ("version=3", json!({"version": 3}), |it| {
            it["ntp_version"] == 3
        }),
        ("stratum=4", json!({"stratum": 4.0}), |it| {
            it["stratum"] == 4
        }),
        (
            "client_clock=honest",
            json!({"client_clock": "honest"}),
            |it| it["client_clock"] == "honest",
        ),
        (
            "since=2023-12-09T00:00:30Z",
            json!({"since": "2023-12-09T00:00:30Z"}),
            |it| it["last_seen_timestamp"].as_str().unwrap() >= "2023-12-09T00:00:30Z",
        ),
        ("until=1702080030", json!({"until": 1_702_080_030}), |it| {
            it["last_seen_timestamp"].as_str().unwrap() <= "2023-12-09T00:00:30Z"
        }),
        (
            "version=4&client_clock=randomised",
            json!({"version": 4, "client_clock": "randomised"}),
            |it| it["ntp_version"] == 4 && it["client_clock"] == "randomised",
        ),
        (
            "search_ip=192.0.2.0/29&client_ips=192.0.2.3,192.0.2.20",
            json!({"search_ip": "192.0.2.0/29", "client_ips": ["192.0.2.3", "192.0.2.20"]}),
            |it| it["client_ip"] == "192.0.2.3",
        ),
    ];
    for (query, filters, pick) in cases {
        let expected: Vec<Value> = all.iter().filter(|it| pick(it)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < RECORDS, "{query}");
        let path = format!("{CLIENTS}?{query}&page_size=1000&sort=client_ip&order=asc");
        let got = fed.get(&path).await;
        assert_eq!(names(list(&got)), names(&expected), "{query}");
        assert_eq!(got["pagination"]["total"], expected.len());
        let body = json!({
            "filters": filters,
            "pagination": {"page": 1, "page_size": 1000},
            "sort": "client_ip",
            "order": "asc",
        });
        assert_eq!(fed.post(SEARCH, &body).await, got, "{query}");
    }
    for nobody in [
        "interface_name=absent",
        "interface_name=eth0&interface_names=eth1",
        "search_ip=2001:db8::/32",
    ] {
        let got = fed.get(&format!("{CLIENTS}?{nobody}")).await;
        assert!(list(&got).is_empty(), "{nobody}");
    }
}

#[tokio::test]
async fn a_search_is_the_list_with_what_is_left_out_at_its_default() {
    let fed = fed();
    let list = fed.get(CLIENTS).await;
    for body in [
        json!({}),
        json!({"filters": {}, "pagination": {}}),
        json!({"filters": null, "pagination": null, "sort": null}),
        json!({"filters": {"client_ips": null}}),
    ] {
        assert_eq!(fed.post(SEARCH, &body).await, list, "{body}");
    }
    let first = fed
        .post(SEARCH, &json!({"pagination": {"page_size": 40}}))
        .await;
    let cursor = &first["pagination"]["next_cursor"];
    let body = json!({"pagination": {"page_size": 40, "cursor": cursor}});
    let last = fed.post(SEARCH, &body).await;
    assert_eq!(last["count"], RECORDS - 40);
    assert_eq!(last["pagination"]["page"], Value::Null);
}

#[tokio::test]
async fn a_wrong_parameter_is_refused_with_its_name_its_value_and_what_is_right() {
    let fed = fed();
    for (path, words) in [
        ("clients?page=0", ["page", "'0'", "from 1"]),
        ("clients?page=x", ["page", "'x'", "from 1"]),
        ("clients?page_size=-1", ["page_size", "'-1'", "1 to 1000"]),
        ("clients?page_size=0", ["page_size", "'0'", "1 to 1000"]),
        (
            "clients?page_size=1001",
            ["page_size", "'1001'", "1 to 1000"],
        ),
        ("clients?page_size=", ["page_size", "''", "1 to 1000"]),
        ("clients?page=1&cursor=aa", ["page", "'1'", "cursor"]),
        ("clients?page=1&page=2", ["page", "'2'", "once"]),
        (
            "clients?search_ip=300.1.1.1",
            ["search_ip", "'300.1.1.1'", "255"],
        ),
        (
            "clients?search_ip=1.2.3.4/200",
            ["search_ip", "'1.2.3.4/200'", "too long"],
        ),
        ("clients?search_ip=", ["search_ip", "''", "an address"]),
        (
            "clients?client_ips=1.2.3",
            ["client_ips", "'1.2.3'", "addresses"],
        ),
        ("clients?interface_name=", ["interface_name", "''", "names"]),
        ("clients?version=8", ["version", "'8'", "0 to 7"]),
        ("clients?stratum=256", ["stratum", "'256'", "0 to 255"]),
        (
            "clients?client_clock=good",
            ["client_clock", "'good'", "honest, randomised or unknown"],
        ),
        (
            "clients?since=yesterday",
            ["since", "'yesterday'", "2026-11-21T08:00:00Z"],
        ),
        ("clients?since=20&until=10", ["since", "'20'", "'10'"]),
        ("clients?sort=colour", ["sort", "'colour'", "last_seen"]),
        ("clients?order=up", ["order", "'up'", "asc or desc"]),
        ("clients/300.1.1.1", ["address", "'300.1.1.1'", "IPv4"]),
        (
            "clients/192.0.2.1?sessions=1001",
            ["sessions", "'1001'", "0 to 1000"],
        ),
        ("servers?page_size=0", ["page_size", "'0'", "1 to 1000"]),
        ("servers?search_ip=x", ["search_ip", "'x'", "an address"]),
        ("servers/x", ["address", "'x'", "IPv4"]),
        (
            "rollups?resolution=week",
            ["resolution", "'week'", "minute, hour or day"],
        ),
        ("rollups?limit=-1", ["limit", "'-1'", "1 to 10000"]),
        ("rollups?limit=0", ["limit", "'0'", "1 to 10000"]),
        ("rollups?since=2&until=1", ["since", "'2'", "'1'"]),
    ] {
        let path = format!("/api/ntp/history/{path}");
        let answer = fetch(&fed.router, &path).await;
        let message = answer.failed(400, "invalid_parameter");
        for word in words {
            assert!(message.contains(word), "{path}: {message}");
        }
    }
}

#[tokio::test]
async fn a_parameter_that_is_not_known_is_refused_with_the_nearest() {
    let fed = fed();
    for (path, near) in [
        ("clients?serch_ip=192.0.2.1", "'search_ip'"),
        ("clients?interface=eth0", "interface_name"),
        ("clients/192.0.2.1?session=5", "'sessions'"),
        ("servers?version=4", "search_ip"),
        ("rollups?resolutoin=day", "'resolution'"),
        ("service/statistics?page=1", "page"),
        ("interfaces/statistics?page=1", "page"),
        ("health?verbose", "verbose"),
        ("servers/10.0.0.1?page=1", "page"),
    ] {
        let path = format!("/api/ntp/history/{path}");
        let answer = fetch(&fed.router, &path).await;
        let message = answer.failed(400, "unknown_parameter");
        assert!(message.contains(near), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_the_field_and_nothing_is_removed() {
    let fed = fed();
    for (path, body, words) in [
        (SEARCH, json!({"filter": {}}), ["'filter'", "'filters'"]),
        (SEARCH, json!({"filters": []}), ["filters", "an object"]),
        (
            SEARCH,
            json!({"filters": {"client_ip": "x"}}),
            ["'filters.client_ip'", "'client_ips'"],
        ),
        (
            SEARCH,
            json!({"filters": {"version": "4"}}),
            ["filters.version", "0 to 7"],
        ),
        (
            SEARCH,
            json!({"filters": {"client_ips": "x"}}),
            ["filters.client_ips", "addresses"],
        ),
        (
            SEARCH,
            json!({"pagination": {"page": 0}}),
            ["pagination.page", "from 1"],
        ),
        (
            SEARCH,
            json!({"pagination": {"sort": "x"}}),
            ["'pagination.sort'", "page"],
        ),
        (SEARCH, json!({"sort": "colour"}), ["sort", "last_seen"]),
        (SEARCH, json!({"order": 1}), ["order", "asc or desc"]),
        (
            CLEANUP,
            json!({"older_than_days": -1}),
            ["older_than_days", "0 to 36500"],
        ),
        (
            CLEANUP,
            json!({"older_than_days": "30"}),
            ["older_than_days", "0 to 36500"],
        ),
        (
            CLEANUP,
            json!({"before": "soon"}),
            ["before", "2026-11-21T08:00:00Z"],
        ),
        (
            CLEANUP,
            json!({"before": 1, "dry_run": "yes"}),
            ["dry_run", "true or false"],
        ),
        (
            CLEANUP,
            json!({"older_than_day": 1}),
            ["older_than_day'", "'older_than_days'"],
        ),
        (
            CLEANUP,
            json!({"older_than_days": 1, "before": 1}),
            ["older_than_days", "before"],
        ),
        (CLEANUP, json!({}), ["older_than_days", "before"]),
        (
            CLEANUP,
            json!({"dry_run": true}),
            ["older_than_days", "before"],
        ),
    ] {
        let answer = send(&fed.router, path, body.to_string()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        for word in words {
            assert!(message.contains(word), "{body}: {message}");
        }
    }
    for path in [SEARCH, CLEANUP] {
        for broken in ["{", "[]", "5", ""] {
            let answer = send(&fed.router, path, broken).await;
            answer.failed(400, "invalid_body");
        }
    }
    assert_eq!(fed.all().await.len(), RECORDS);
}

#[tokio::test]
async fn a_client_has_a_record_on_each_interface_its_sessions_and_its_hours() {
    let fed = fed();
    let found = fed.get(&format!("{CLIENTS}/192.0.2.7")).await;
    let data = &found["data"];
    assert_eq!(data["client_ip"], "192.0.2.7");
    let interfaces: Vec<&Value> = data["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["interface_name"])
        .collect();
    assert_eq!(interfaces, ["eth0", "eth1"]);
    // 4 on each.
    assert_eq!(data["interfaces"][0]["session_count"], 4);
    let sessions = data["recent_sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 8);
    let times: Vec<&str> = sessions
        .iter()
        .map(|it| it["session_timestamp"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
    assert_eq!(data["hourly_activity"][0]["hour"], "2023-12-09T00:00:00Z");
    assert_eq!(data["hourly_activity"][0]["session_count"], 8);
    for (asked, expected) in [(0, 0), (3, 3), (1000, 8)] {
        let path = format!("{CLIENTS}/::ffff:192.0.2.7?sessions={asked}");
        let found = fed.get(&path).await;
        let sessions = found["data"]["recent_sessions"].as_array().unwrap().len();
        assert_eq!(sessions, expected);
    }
    let answer = fetch(&fed.router, &format!("{CLIENTS}/203.0.113.1")).await;
    let message = answer.failed(404, "client_not_found");
    assert!(message.contains("203.0.113.1"), "{message}");
}

#[tokio::test]
async fn servers_are_listed_in_pages_and_told_by_address() {
    let fed = fed();
    let path = "/api/ntp/history/servers";
    let all = fed.get(path).await;
    // 3 on each interface.
    assert_eq!(list(&all).len(), 6);
    let mut paged = Vec::new();
    for page in 1..=3 {
        let answer = fed.get(&format!("{path}?page_size=2&page={page}")).await;
        assert_eq!(answer["pagination"]["total"], 6);
        assert_eq!(answer["pagination"]["has_next"], page < 3);
        paged.extend(list(&answer).clone());
    }
    assert_eq!(&paged, list(&all));
    for (query, count) in [
        ("search_ip=10.0.0.2", 2),
        ("search_ip=10.0.0.2/31", 4),
        ("search_ip=192.", 0),
        ("interface_name=eth1", 3),
        ("interface_name=eth1&search_ip=10.0.0.3", 1),
        ("page=4", 0),
    ] {
        let answer = fed.get(&format!("{path}?{query}")).await;
        assert_eq!(answer["count"], count, "{query}");
    }
    let one = fed.get(&format!("{path}/10.0.0.2")).await;
    let picked: Vec<Value> = list(&all)
        .iter()
        .filter(|it| it["server_ip"] == "10.0.0.2")
        .cloned()
        .collect();
    assert_eq!(list(&one), &picked);
    let answer = fetch(&fed.router, &format!("{path}/192.0.2.1")).await;
    answer.failed(404, "server_not_found");
}

#[tokio::test]
async fn totals_are_told_by_interface_by_service_and_by_time() {
    let fed = fed();
    let fed_here: u64 = (1..=30).map(|number| asked(number).len() as u64).sum();
    let statistics = fed.get("/api/ntp/history/interfaces/statistics").await;
    let of: Vec<&Value> = list(&statistics).iter().collect();
    assert_eq!(of[0]["interface_name"], "eth0");
    assert_eq!(of[0]["client_count"], 30);
    assert_eq!(of[0]["session_count"], fed_here);
    assert_eq!(of[1]["client_count"], 15);
    let all = fed_here + of[1]["session_count"].as_u64().unwrap();

    let service = fed.get("/api/ntp/history/service/statistics").await;
    for (field, expected) in [
        ("total_received", all),
        ("total_processed", all),
        ("queue_size", 0),
        ("processing_errors", 0),
        ("total_inserted", RECORDS as u64),
        ("client_count", RECORDS as u64),
    ] {
        assert_eq!(service["data"][field], expected, "{field}");
    }

    for resolution in ["minute", "hour", "day"] {
        let path = format!("/api/ntp/history/rollups?resolution={resolution}&interface_name=eth0");
        let rollups = fed.get(&path).await;
        let sum: u64 = list(&rollups)
            .iter()
            .map(|it| it["counts"]["exchanges"].as_u64().unwrap())
            .sum();
        assert_eq!(sum, fed_here, "{resolution}");
        assert!(
            list(&rollups)
                .iter()
                .all(|it| it["interface_name"] == "eth0")
        );
    }
    let hours = fed.get("/api/ntp/history/rollups").await;
    assert_eq!(list(&hours).len(), 2);
    assert_eq!(list(&hours)[0]["resolution"], "hour");
    let minutes = "/api/ntp/history/rollups?resolution=minute&interface_name=eth0";
    for (between, starts) in [
        ("since=2023-12-09T00:01:00Z", vec!["01", "02", "03", "05"]),
        ("since=2023-12-09T00:01:00.5Z", vec!["02", "03", "05"]),
        ("until=2023-12-09T00:01:00Z", vec!["00", "01"]),
        (
            "since=2023-12-09T00:02:00Z&until=2023-12-09T00:02:00Z",
            vec!["02"],
        ),
        ("limit=1", vec!["05"]),
    ] {
        let found = fed.get(&format!("{minutes}&{between}")).await;
        let found: Vec<&str> = list(&found)
            .iter()
            .map(|it| &it["start"].as_str().unwrap()[14..16])
            .collect();
        assert_eq!(found, starts, "{between}");
    }
}

#[tokio::test]
async fn a_cleanup_counts_first_and_then_removes_what_it_counted() {
    let fed = fed();
    let before = "2023-12-09T00:00:30Z";
    let old = fed.all().await;
    let old = old
        .iter()
        .filter(|it| it["last_seen_timestamp"].as_str().unwrap() < before)
        .count();
    assert!(old > 0 && old < RECORDS);
    let dry = json!({"before": before, "dry_run": true, "compact": true});
    let counted = fed.post(CLEANUP, &dry).await;
    assert_eq!(counted["deleted_count"], old);
    assert_eq!(counted["data"]["dry_run"], true);
    assert_eq!(counted["data"]["database_bytes_after"], Value::Null);
    assert_eq!(fed.all().await.len(), RECORDS);

    let body = json!({"before": before, "compact": true});
    let removed = fed.post(CLEANUP, &body).await;
    assert_eq!(removed["deleted_count"], old);
    for kind in ["clients", "servers", "sessions", "rollups"] {
        assert_eq!(removed["data"][kind], counted["data"][kind], "{kind}");
    }
    let size = |name: &str| removed["data"][name].as_u64().unwrap();
    assert!(size("database_bytes_before") >= size("database_bytes_after"));
    assert_eq!(fed.all().await.len(), RECORDS - old);
    let again = fed.post(CLEANUP, &json!({"before": before})).await;
    assert_eq!(again["deleted_count"], 0);

    let only = fed.post(CLEANUP, &json!({"compact": true})).await;
    assert_eq!(only["deleted_count"], 0);
    assert!(only["data"]["database_bytes_after"].is_u64());
    assert_eq!(fed.all().await.len(), RECORDS - old);

    // All of it is years old.
    let body = json!({"older_than_days": 1.5});
    let rest = fed.post(CLEANUP, &body).await;
    assert_eq!(rest["deleted_count"], RECORDS - old);
    assert!(fed.all().await.is_empty());
    fed.post(CLEANUP, &json!({"before": "9999-01-01T00:00:00Z"}))
        .await;
}

#[tokio::test]
async fn an_export_has_what_its_filters_pick_and_a_wrong_one_is_refused() {
    let fed = fed();
    for (filters, count) in [
        (json!({}), RECORDS),
        (json!({"interface_name": "eth1"}), 15),
        (
            json!({"client_ips": ["192.0.2.7"], "interface_names": ["eth0"]}),
            1,
        ),
        (json!({"search_ip": "203.0.113.0/24"}), 0),
    ] {
        let body = json!({"format": "json", "limit": 1000, "filters": filters});
        let exported = fed.post(EXPORT, &body).await;
        let search = json!({
            "filters": filters,
            "pagination": {"page_size": 1000},
            "sort": "client_ip",
            "order": "asc",
        });
        let searched = fed.post(SEARCH, &search).await;
        assert_eq!(exported["data"], searched["data"], "{body}");
        assert_eq!(exported["count"], count, "{body}");
    }
    for (body, word) in [
        (json!({"format": "xml"}), "json, csv, ndjson or parquet"),
        (json!({"limit": 0}), "limit is '0'"),
        (json!({"limit": "5"}), "limit is '5'"),
        (json!({"filter": {}}), "'filters'"),
        (json!({"filters": {"version": 8}}), "filters.version is '8'"),
        (json!({"filters": {"page": 1}}), "'filters.page'"),
    ] {
        let answer = send(&fed.router, EXPORT, body.to_string()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[tokio::test]
async fn only_an_admin_cleans_up_and_a_reader_may_search() {
    let fed = fed();
    let (tokens, read, admin) = tests::tokens();
    let router = router(State {
        tokens: SharedTokens::new(tokens),
        ..fed.state.clone()
    });
    for (path, body, token, status) in [
        (CLEANUP, r#"{"compact": true}"#, &read, 403),
        (CLEANUP, r#"{"compact": true}"#, &admin, 200),
        (SEARCH, "{}", &read, 200),
    ] {
        let request = request("POST", path)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::from(body))
            .unwrap();
        let answer = tests::ask(&router, request).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_503_and_tells_how_it_is() {
    let fed = fed();
    let health = fed.get("/api/ntp/history/health").await;
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["client_count"], RECORDS);
    made::close(&fed.state.history);
    for path in [
        CLIENTS,
        &format!("{CLIENTS}/192.0.2.7"),
        "/api/ntp/history/interfaces/statistics",
        "/api/ntp/history/rollups",
    ] {
        let answer = fetch(&fed.router, path).await;
        assert_eq!(answer.headers["retry-after"], "1");
        answer.failed(503, "history_unavailable");
    }
    send(&fed.router, SEARCH, "{}")
        .await
        .failed(503, "history_unavailable");
    fed.state.history.stop();
    let health = fed.get("/api/ntp/history/health").await;
    assert_eq!(health["status"], "degraded");
    assert!(health["problems"][0].as_str().unwrap().contains("ended"));
    send(&fed.router, CLEANUP, r#"{"compact": true}"#)
        .await
        .failed(503, "history_unavailable");
}
