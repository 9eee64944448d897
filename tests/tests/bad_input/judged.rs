//! Of what judges clocks: servers, events, clients, checks, alerts and PTP. There is one of each, so
//! that there is something to disturb.

use ntpmon_tests::process::wait_for;
use serde_json::{Value, json};

use super::{PATIENCE, Stage, is_refused, state};

/// A check, a rule, a silence and a sink. The check asks once, and then rests for a day; nobody answers.
pub(super) const CONFIGURATION: &str = "capture.ptp = true\n\
     [[check]]\nname = 'kept'\nserver = '127.0.0.1:1'\ninterval_seconds = 86400\nsamples = 1\n\
     [alert]\ndefault_rules = false\n\
     [[alert.rule]]\nname = 'kept'\nquantity = 'check_offset'\n\
     [[alert.silence]]\nname = 'kept'\nmatch = { alertname = 'nothing' }\n\
     [[alert.sink]]\nname = 'journal'\nkind = 'log'\n";

/// A check that is not there.
const NONE: &str = "0000000000000000";

/// Questions, with the status that refuses each and what its message has to name.
const QUESTIONS: &[(&str, u16, &[&str])] = &[
    ("ntp/servers?page=0", 400, &["page", "'0'"]),
    ("ntp/servers?page_size=1001", 400, &["page_size", "1000"]),
    ("ntp/servers?search_ip=300.1.1.1", 400, &["300.1.1.1"]),
    ("ntp/servers?search_ip=", 400, &["search_ip", "''"]),
    ("ntp/servers?interface_name=", 400, &["interface_name"]),
    ("ntp/servers?interface=veth0", 400, &["'interface'"]),
    ("ntp/servers?role=observer", 400, &["role", "observer"]),
    ("ntp/servers?sort=colour", 400, &["sort", "colour"]),
    ("ntp/servers?order=sideways", 400, &["order", "sideways"]),
    ("ntp/servers?since=0", 400, &["'since'"]),
    ("ntp/servers/300.1.1.1", 400, &["300.1.1.1"]),
    ("ntp/servers/10.9.9.9", 404, &["10.9.9.9"]),
    ("ntp/servers/10.9.9.9?page=1", 400, &["'page'"]),
    ("ntp/servers/%ff", 400, &[]),
    ("ntp/events?kind=fire", 400, &["kind", "fire"]),
    ("ntp/events?kind=time_jump,", 400, &["kind"]),
    ("ntp/events?severity=loud", 400, &["severity", "loud"]),
    ("ntp/events?server_ip=localhost", 400, &["server_ip"]),
    ("ntp/events?since=yesterday", 400, &["since", "yesterday"]),
    ("ntp/events?until=", 400, &["until", "''"]),
    ("ntp/events?since=9&until=8", 400, &["since", "until"]),
    ("ntp/events?before=0", 400, &["before", "'0'"]),
    ("ntp/events?limit=0", 400, &["limit", "'0'"]),
    ("ntp/events?limit=1001", 400, &["limit", "1000"]),
    ("ntp/events?page=2", 400, &["'page'"]),
    ("ntp/events/first", 400, &["first"]),
    ("ntp/events/-1", 400, &["-1"]),
    ("ntp/events/999999", 404, &["999999"]),
    ("ntp/events/999999?limit=1", 400, &["'limit'"]),
    ("ntp/clients", 404, &["/api/ntp/clients"]),
    ("ntp/clients/10.0.0.1", 404, &["10.0.0.1"]),
    ("ntp/clients/clocks?limit=101", 400, &["limit", "100"]),
    ("ntp/clients/clocks?within=60", 400, &["'within'"]),
    (
        "ntp/clients/clocks?seen_within_seconds=-1",
        400,
        &["seen_within_seconds", "-1"],
    ),
    (
        "ntp/clients/clocks?interface_name=veth0,",
        400,
        &["interface_name"],
    ),
    (
        "ntp/clients/busiest?limit_per_second=NaN",
        400,
        &["limit_per_second", "NaN"],
    ),
    (
        "ntp/clients/busiest?limit_per_second=-1",
        400,
        &["limit_per_second", "-1"],
    ),
    ("ntp/clients/busiest?limit=ten", 400, &["limit", "ten"]),
    ("ntp/clients/abuse?limit=101", 400, &["limit", "100"]),
    ("ntp/clients/abuse?client=10.0.0.1", 400, &["'client'"]),
    ("ntp/checks?page=0", 400, &["page", "'0'"]),
    ("ntp/checks?page_size=1001", 400, &["page_size", "1000"]),
    ("ntp/checks?name=kept", 400, &["'name'"]),
    ("ntp/checks/kept", 400, &["kept"]),
    ("ntp/checks/NONE", 404, &[NONE]),
    (
        "ntp/checks/NONE?resolution=week",
        400,
        &["resolution", "week"],
    ),
    ("ntp/checks/NONE?limit=10001", 400, &["limit", "10000"]),
    ("ntp/checks/NONE?address=localhost", 400, &["address"]),
    ("ntp/checks/NONE?since=9&until=8", 400, &["since", "until"]),
    ("ntp/checks/NONE/pause", 405, &["GET"]),
    ("ntp/checks/NONE/history", 404, &["history"]),
    ("ntp/alerts?state=burning", 400, &["state", "burning"]),
    ("ntp/alerts?severity=loud", 400, &["severity", "loud"]),
    ("ntp/alerts?rule=", 400, &["rule", "''"]),
    ("ntp/alerts?limit=1", 400, &["'limit'"]),
    ("ntp/alerts/first", 400, &["first"]),
    ("ntp/alerts/999999", 404, &["999999"]),
    ("ntp/alerts/history?alert_id=0", 400, &["alert_id", "'0'"]),
    ("ntp/alerts/history?limit=1001", 400, &["limit", "1000"]),
    ("ntp/alerts/history?since=noon", 400, &["since", "noon"]),
    ("ntp/alerts/deliveries?state=lost", 400, &["state", "lost"]),
    ("ntp/alerts/deliveries?sink=", 400, &["sink", "''"]),
    ("ntp/alerts/deliveries?limit=0", 400, &["limit", "'0'"]),
    ("ntp/alerts/sinks?state=up", 400, &["'state'"]),
    ("ntp/alerts/sinks/journal/test", 405, &["GET"]),
    ("ntp/alerts/rules?page=1", 400, &["'page'"]),
    ("ntp/alerts/rules/no%20name", 400, &["no name"]),
    ("ntp/alerts/rules/nothing", 404, &["nothing"]),
    ("ntp/alerts/silences?active=true", 400, &["'active'"]),
    ("ntp/alerts/silences/nothing", 404, &["nothing"]),
    ("ntp/alerts/1/acknowledge", 405, &["GET"]),
    ("ptp/domains?domain=256", 400, &["domain", "256"]),
    ("ptp/domains?domain=", 400, &["domain", "''"]),
    ("ptp/domains?interfaces=veth0", 400, &["'interfaces'"]),
    ("ptp/domains?interface_name=", 400, &["interface_name"]),
    ("ptp/masters?page=1", 400, &["'page'"]),
    ("ptp/masters?domain=first", 400, &["domain", "first"]),
    ("ptp/masters/veth0", 400, &["veth0"]),
    (
        "ptp/masters/020000.fffe.000009",
        404,
        &["020000.fffe.000009"],
    ),
    ("ptp/masters/020000.fffe.000009?port=1", 400, &["'port'"]),
    ("ptp/nothing", 404, &["/api/ptp/nothing"]),
];

const POST: &str = "POST";
const PUT: &str = "PUT";
const DELETE: &str = "DELETE";
const CHECKS: &str = "ntp/checks";
const RULES: &str = "ntp/alerts/rules";
const SILENCES: &str = "ntp/alerts/silences";

/// Orders: how, where, with which body.
const ORDERS: &[(&str, &str, &str, u16, &[&str])] = &[
    (POST, "ntp/servers", "{}", 405, &["POST"]),
    (DELETE, "ntp/servers/10.0.0.1", "", 405, &["DELETE"]),
    (DELETE, "ntp/events", "", 405, &["DELETE"]),
    (PUT, "ntp/events/1", "{}", 405, &["PUT"]),
    (POST, "ntp/clients/clocks", "{}", 405, &["POST"]),
    (DELETE, "ntp/clients/abuse", "", 405, &["DELETE"]),
    (DELETE, "ptp/masters", "", 405, &["DELETE"]),
    (POST, "ptp/domains", "{}", 405, &["POST"]),
    (DELETE, CHECKS, "", 405, &["DELETE"]),
    (PUT, "ntp/checks/NONE", "{}", 405, &["PUT"]),
    (POST, CHECKS, "", 400, &["empty"]),
    (POST, CHECKS, "null", 400, &["null"]),
    (POST, CHECKS, "{", 400, &["JSON"]),
    (POST, CHECKS, "[]", 400, &["object"]),
    (POST, CHECKS, "server=127.0.0.1", 400, &["JSON"]),
    (POST, CHECKS, "{}", 400, &["server"]),
    (POST, CHECKS, "{\"server\": \"\"}", 400, &["server"]),
    (POST, CHECKS, "{\"server\": 7}", 400, &["server", "7"]),
    (
        POST,
        CHECKS,
        "{\"server\": \"no server\"}",
        400,
        &["server", "a name or an address"],
    ),
    (POST, CHECKS, "{\"server\": \"a:0\"}", 400, &["server"]),
    (POST, CHECKS, "{\"server\": \"a:65536\"}", 400, &["server"]),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"name\": \"\"}",
        400,
        &["name"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"name\": \"kept\"}",
        409,
        &["'kept'"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"intervall_seconds\": 64}",
        400,
        &["intervall_seconds"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"interval_seconds\": 1}",
        400,
        &["interval_seconds", "2 to 86400"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"interval_seconds\": 1e300}",
        400,
        &["interval_seconds"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"interval_seconds\": 4, \"samples\": 16}",
        400,
        &["interval_seconds"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"samples\": 17}",
        400,
        &["samples", "1 to 16"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"samples\": 2.5}",
        400,
        &["samples"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"sample_interval_seconds\": 0.1}",
        400,
        &["sample_interval_seconds"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"timeout_seconds\": 0}",
        400,
        &["timeout_seconds"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"version\": 5}",
        400,
        &["version", "3 or 4"],
    ),
    (
        POST,
        CHECKS,
        "{\"server\": \"a\", \"family\": \"ipx\"}",
        400,
        &["family", "ipx"],
    ),
    (POST, "ntp/checks/kept/pause", "", 400, &["kept"]),
    (POST, "ntp/checks/NONE/pause", "", 404, &[NONE]),
    (POST, "ntp/checks/NONE/resume", "", 404, &[NONE]),
    (POST, "ntp/checks/NONE/explode", "", 404, &["explode"]),
    (DELETE, "ntp/checks/kept", "", 400, &["kept"]),
    (
        DELETE,
        "ntp/checks/KEPT?dry_run=true",
        "",
        400,
        &["dry_run"],
    ),
    (
        POST,
        "ntp/checks/KEPT/pause?seconds=60",
        "",
        400,
        &["seconds"],
    ),
    (DELETE, "ntp/alerts/rules/kept?page=1", "", 400, &["page"]),
    (DELETE, "ntp/checks/NONE", "", 404, &[NONE]),
    (
        DELETE,
        "ntp/checks/KEPT",
        "",
        409,
        &["'kept'", "configuration"],
    ),
    (POST, RULES, "", 400, &["empty"]),
    (POST, RULES, "{", 400, &["JSON"]),
    (POST, RULES, "[]", 400, &["object"]),
    (POST, RULES, "{}", 400, &["name"]),
    (POST, RULES, "{\"name\": \"a\"}", 400, &["quantity"]),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"weather\"}",
        400,
        &["quantity", "weather"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a b\", \"quantity\": \"check_offset\"}",
        400,
        &["name", "1 to 64 letters"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"kept\", \"quantity\": \"check_offset\"}",
        409,
        &["kept"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"warn\": \"high\"}",
        400,
        &["warn", "high"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"waarn\": 1}",
        400,
        &["waarn"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"for_seconds\": -1}",
        400,
        &["for_seconds"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"recover_ratio\": 2}",
        400,
        &["recover_ratio"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"warn\": 2, \"critical\": 1}",
        400,
        &["critical"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"direction\": \"aside\"}",
        400,
        &["direction", "aside"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"sinks\": [\"nobody\"]}",
        400,
        &["sinks", "nobody", "journal"],
    ),
    (
        POST,
        RULES,
        "{\"name\": \"a\", \"quantity\": \"check_offset\", \"labels\": {\"host\": \"a\"}}",
        400,
        &["labels"],
    ),
    (DELETE, RULES, "", 405, &["DELETE"]),
    (PUT, "ntp/alerts/rules/kept", "", 400, &["empty"]),
    (
        PUT,
        "ntp/alerts/rules/kept",
        "{\"name\": \"kept\", \"quantity\": \"check_offset\"}",
        409,
        &["kept", "configuration"],
    ),
    (
        PUT,
        "ntp/alerts/rules/kept",
        "{\"name\": \"other\", \"quantity\": \"check_offset\"}",
        400,
        &["'other'", "'kept'"],
    ),
    (
        PUT,
        "ntp/alerts/rules/nothing",
        "{\"name\": \"nothing\", \"quantity\": \"check_offset\"}",
        404,
        &["nothing"],
    ),
    (DELETE, "ntp/alerts/rules/kept", "", 409, &["kept"]),
    (DELETE, "ntp/alerts/rules/nothing", "", 404, &["nothing"]),
    (DELETE, "ntp/alerts/rules/no%20name", "", 400, &["no name"]),
    (POST, "ntp/alerts/rules/nothing/test", "", 404, &["nothing"]),
    (
        POST,
        "ntp/alerts/rules/kept/test",
        "{\"send\": \"yes\"}",
        400,
        &["send", "yes"],
    ),
    (
        POST,
        "ntp/alerts/rules/kept/test",
        "{\"sned\": true}",
        400,
        &["sned"],
    ),
    (POST, SILENCES, "", 400, &["empty"]),
    (POST, SILENCES, "{]", 400, &["JSON"]),
    (POST, SILENCES, "7", 400, &["object"]),
    (POST, SILENCES, "{}", 400, &["name"]),
    (POST, SILENCES, "{\"name\": \"\"}", 400, &["name"]),
    (POST, SILENCES, "{\"name\": \"kept\"}", 409, &["kept"]),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"until\": \"noon\"}",
        400,
        &["until"],
    ),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"from\": \"2026-02-01T00:00:00Z\", \"until\": \"2026-01-01T00:00:00Z\"}",
        400,
        &["until", "from"],
    ),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"start\": \"22:00\"}",
        400,
        &["start", "end"],
    ),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"days\": [\"someday\"]}",
        400,
        &["days", "someday"],
    ),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"time_zone\": \"Mars/Olympus\"}",
        400,
        &["time_zone"],
    ),
    (
        POST,
        SILENCES,
        "{\"name\": \"a\", \"matches\": {}}",
        400,
        &["matches"],
    ),
    (
        PUT,
        "ntp/alerts/silences/kept",
        "{\"name\": \"kept\"}",
        409,
        &["kept", "configuration"],
    ),
    (
        PUT,
        "ntp/alerts/silences/nothing",
        "{\"name\": \"nothing\"}",
        404,
        &["nothing"],
    ),
    (DELETE, "ntp/alerts/silences/kept", "", 409, &["kept"]),
    (DELETE, "ntp/alerts/silences/nothing", "", 404, &["nothing"]),
    (POST, "ntp/alerts/sinks/nothing/test", "", 404, &["nothing"]),
    (
        POST,
        "ntp/alerts/sinks/no%20name/test",
        "",
        400,
        &["no name"],
    ),
    (DELETE, "ntp/alerts/sinks/journal", "", 404, &["journal"]),
    (
        POST,
        "ntp/alerts/first/acknowledge",
        "{\"by\": \"Ada\"}",
        400,
        &["first"],
    ),
    (
        POST,
        "ntp/alerts/999999/acknowledge",
        "{\"by\": \"Ada\"}",
        404,
        &["999999"],
    ),
    (POST, "ntp/alerts/1/acknowledge", "", 400, &["empty"]),
    (POST, "ntp/alerts/1/acknowledge", "{}", 400, &["by"]),
    (
        POST,
        "ntp/alerts/1/acknowledge",
        "{\"by\": \" \"}",
        400,
        &["by"],
    ),
    (
        POST,
        "ntp/alerts/1/acknowledge",
        "{\"by\": \"Ada\", \"until\": \"2020-01-01T00:00:00Z\"}",
        400,
        &["until", "2020-01-01"],
    ),
    (DELETE, "ntp/alerts/1", "", 405, &["DELETE"]),
];

impl Stage {
    /// The check that there is, once it has asked and the rule has looked at it.
    fn check(&self) -> String {
        wait_for("the check to ask", PATIENCE, || {
            let rules = self.api().get("/api/ntp/alerts/rules")?.success()?;
            if rules["data"][0]["readings"] != 1 {
                return Ok(None);
            }
            let checks = self.api().get("/api/ntp/checks")?.success()?;
            let check = &checks["data"][0];
            let is_asked = check["states"][0]["status"] == "refused";
            Ok(is_asked.then(|| check["id"].as_str().unwrap().to_owned()))
        })
        .unwrap()
    }

    /// All that a request could have changed.
    fn judged(&self) -> Value {
        let api = self.api();
        let get = |path: &str| {
            let answer = api.get(&format!("/api/{path}"));
            answer.unwrap().success().unwrap()
        };
        let lists = [
            CHECKS,
            RULES,
            SILENCES,
            "ntp/alerts",
            "ntp/alerts/history",
            "ntp/alerts/deliveries",
            "ntp/alerts/sinks",
            "ntp/events",
            "ptp/domains",
            "ptp/masters",
        ];
        json!([state(&api), lists.map(get)])
    }
}

#[test]
fn what_is_wrong_with_checks_alerts_and_the_like_is_named_and_changes_nothing() {
    let stage = Stage::new();
    let kept = stage.check();
    let before = stage.judged();
    let api = stage.api();
    let mut failed = Vec::new();
    let place = |path: &str| format!("/api/{}", path.replace("NONE", NONE).replace("KEPT", &kept));
    for (path, status, words) in QUESTIONS {
        let answer = api.get(&place(path)).unwrap();
        failed.extend(is_refused(path, &answer, *status, words).err());
    }
    for (method, path, body, status, words) in ORDERS {
        let mut arguments = vec!["--request", method];
        if !body.is_empty() {
            arguments.extend(["--header", "Content-Type: application/json"]);
            arguments.extend(["--data-binary", body]);
        }
        let answer = api.curl(&place(path), &arguments).unwrap();
        let asked = format!("{method} {path} {body}");
        failed.extend(is_refused(&asked, &answer, *status, words).err());
    }
    // A body that says to be something else.
    for (path, body) in [
        (CHECKS, "{\"server\": \"127.0.0.1\"}"),
        (RULES, "{\"name\": \"a\", \"quantity\": \"check_offset\"}"),
        (SILENCES, "{\"name\": \"a\"}"),
    ] {
        let arguments = ["--header", "Content-Type: text/plain", "--data", body];
        let answer = api.curl(&place(path), &arguments).unwrap();
        failed.extend(is_refused(path, &answer, 415, &["text/plain"]).err());
    }
    // A long value is named, but not in full.
    let long = "x".repeat(1000);
    for path in [
        format!("ntp/servers/{long}"),
        format!("ntp/events?kind={long}"),
        format!("ntp/events/{long}"),
        format!("ntp/checks/{long}"),
        format!("ntp/alerts?state={long}"),
        format!("ntp/alerts/{long}"),
        format!("ntp/alerts/rules/{long}"),
        format!("ptp/domains?{long}=1"),
        format!("ptp/masters/{long}"),
    ] {
        let answer = api.get(&place(&path)).unwrap();
        failed.extend(is_refused(&path, &answer, 400, &["xxx"]).err());
        let length = answer.text().len();
        failed.extend((length > 500).then(|| format!("{path}: {length} bytes")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(stage.judged(), before);
}
