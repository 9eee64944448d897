use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::config::{Keep, Mode};

/// Loads a file with this text, these variables and these flags.
fn load(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[Flag],
) -> (PathBuf, Result<Loaded, Faults>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ntpmon.toml");
    fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
        flags: flags.to_vec(),
    };
    (path, Config::load(&sources))
}

fn faults_of(text: &str, environment: &[(&str, &str)], flags: &[Flag]) -> Vec<String> {
    let (path, loaded) = load(text, environment, flags);
    let folder = path.parent().unwrap().to_str().unwrap();
    let faults = loaded.unwrap_err();
    assert_eq!(faults.to_string().lines().count(), faults.all().len());
    faults
        .all()
        .iter()
        .map(|fault| fault.to_string().replace(folder, "DIR"))
        .collect()
}

fn listen(address: &str) -> Flag {
    Flag {
        name: "--listen",
        key: "api.listen",
        value: Value::String(address.to_owned()),
    }
}

#[test]
fn nothing_set_is_the_defaults() {
    let (_, loaded) = load("", &[], &[]);
    let loaded = loaded.unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, [""; 0]);
    for key in KEYS {
        assert_eq!(loaded.source(key.path), &Source::Default);
    }
}

#[test]
fn the_defaults_are_written_as_they_are_read() {
    let text = toml::to_string(&Config::default()).unwrap();
    let (_, loaded) = load(&text, &[], &[]);
    assert_eq!(loaded.unwrap().config, Config::default());
}

#[test]
fn every_field_is_a_key_and_every_key_a_field() {
    fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Table(table) => {
                for (name, value) in table {
                    walk(&format!("{path}.{name}"), value, found);
                }
            }
            _ => found.push(path.trim_start_matches('.').to_owned()),
        }
    }
    let is_list = |path: &String| LISTS.iter().any(|list| list.path == path);
    let mut config = Config::default();
    for path in [
        &mut config.log.file,
        &mut config.capture.output_dir,
        &mut config.api.tokens_file,
        &mut config.api.tls.certificate,
        &mut config.api.tls.key,
        &mut config.client.token_file,
    ] {
        *path = Some("/somewhere".into());
    }
    config.otlp.endpoint = Some("http://somewhere".to_owned());
    let mut fields = Vec::new();
    walk("", &Value::try_from(&config).unwrap(), &mut fields);
    fields.retain(|field| !is_list(field));
    fields.sort();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    keys.sort();
    assert_eq!(fields, keys);
}

#[test]
fn the_environment_is_over_the_file_and_flags_are_over_both() {
    let text = "data_dir = '/file'\n[api]\nlisten = '127.0.0.1:1'\n[history]\nmax_servers = 99\n";
    let environment = [
        ("NTPMON_API_LISTEN", "127.0.0.1:2"),
        ("NTPMON_HISTORY_MAX_SERVERS", "98"),
        ("NTPMON_INTERFACES", "eth1, eth0,eth1"),
        ("NTPMON_CAPTURE_PORTS", "123,1123"),
        ("NTPMON_CAPTURE_DECAPSULATE", "true"),
        ("NTPMON_CAPTURE_MODE", "xdp"),
        ("NTPMON_CAPTURE_TIMEOUT_SECONDS", "3"),
        ("NTPMON_HISTORY_SESSIONS_KEEP", "1/100"),
        ("NTPMON_HISTORY_RETENTION_DAYS_DAYS", "0"),
        ("NTPMON_LOG", "debug"),
        ("NTPMON_DATA_DIR", ""),
        ("HOME", "/root"),
    ];
    let (path, loaded) = load(text, &environment, &[listen("127.0.0.1:3")]);
    let loaded = loaded.unwrap();
    let config = &loaded.config;
    assert_eq!(config.api.listen, SocketAddr::from(([127, 0, 0, 1], 3)));
    assert_eq!(config.history.max_servers, 98);
    assert_eq!(config.data_dir, Path::new("/file"));
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.capture.ports, [123, 1123]);
    assert!(config.capture.decapsulate);
    assert_eq!(config.capture.mode, Mode::Xdp);
    assert_eq!(config.capture.timeout, Duration::from_secs(3));
    assert_eq!(config.history.sessions.keep.to_string(), "1/100");
    assert_ne!(config.history.sessions.keep, Keep::All);
    assert_eq!(config.history.retention.days, None);
    assert_eq!(config.log.level, "debug");
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.source("data_dir"), &Source::File(path, 1));
    assert_eq!(loaded.source("api.listen"), &Source::Flag("--listen"));
    assert_eq!(
        loaded.source("log.level"),
        &Source::Environment("NTPMON_LOG".to_owned())
    );
    assert_eq!(loaded.source("log.file"), &Source::Default);
    assert_eq!(
        loaded.value("history.max_servers"),
        Some(Value::Integer(98))
    );
    assert_eq!(loaded.value("log.file"), None);
}

#[test]
fn all_faults_are_told_at_once_each_with_its_place_and_what_is_right() {
    let text = "\
data_dir = 'relative'
[history]
max_clients = \"many\"
max_client = 7
flush_interval_seconds = 0.05
[history.sessions]
keep = '2/3'
[capture]
ports = [123, 0]
rings = 3
[retention]
clients_days = 3
[colour]
red = 1
";
    let environment = [
        ("NTPMON_API_COMPRESSION", "yes"),
        ("NTPMON_HISTORY_CACHE_MIB", "a lot"),
    ];
    let mut found = faults_of(text, &environment, &[listen("localhost")]);
    let mut expected = [
        "data_dir = \"relative\" in DIR/ntpmon.toml:1: expected an absolute path",
        "history.max_clients = \"many\" in DIR/ntpmon.toml:3: expected a whole number, 1000 to 100000000",
        "history.max_client in DIR/ntpmon.toml:4: there is no such key: did you mean history.max_clients?",
        "history.flush_interval_seconds = 0.05 in DIR/ntpmon.toml:5: expected seconds, 0.1 to 60",
        "history.sessions.keep = \"2/3\" in DIR/ntpmon.toml:7: expected \"all\", \"off\", or \"1/N\" for one client in N",
        "capture.ports = [123, 0] in DIR/ntpmon.toml:9: expected a list of 1 to 8 UDP ports, each 1 to 65535",
        "capture.rings = 3 in DIR/ntpmon.toml:10: expected 1, 2 or 4",
        "retention in DIR/ntpmon.toml:11: there is no such key: did you mean history.retention?",
        "colour in DIR/ntpmon.toml:13: there is no such key: expected one of interfaces, data_dir, log, capture, history, api, otlp, alert, client, check",
        "api.compression = \"yes\" in the environment's NTPMON_API_COMPRESSION: expected true or false",
        "history.cache_mib = \"a lot\" in the environment's NTPMON_HISTORY_CACHE_MIB: expected a whole number, 1 to 65536",
        "api.listen = \"localhost\" of --listen: expected an address and a port, such as \"127.0.0.1:8000\" or \"[::1]:8000\"; port 0 takes a free one",
    ];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_key_has_a_value_that_is_refused() {
    // One that is out of bounds wherever there are bounds, and of no key's type.
    for key in KEYS {
        for value in [
            Value::Integer(-1),
            Value::Float(f64::NAN),
            Value::Array(vec![Value::Array(Vec::new())]),
            Value::Table(Table::new()),
        ] {
            let mut merge = Merge::default();
            merge.set(key.path, value, Source::Default);
            assert_eq!(merge.faults.len(), 1, "{}", key.path);
            let fault = merge.faults.first().unwrap().to_string();
            assert!(fault.starts_with(key.path), "{fault}");
            assert!(fault.ends_with(key.expected), "{fault}");
        }
    }
}

#[test]
fn bounds_are_where_they_are_said_to_be() {
    for key in KEYS {
        let alone =
            |value: Value| alone(key.path, &value).is_some_and(|config| config.check().is_empty());
        has_its_bounds(key, alone);
    }
    for list in LISTS {
        for key in list.keys {
            has_its_bounds(key, |value| list.accepts(&Table::new(), key.path, &value));
        }
    }
}

/// Numbers that are told by name, or have one end.
const UNBOUNDED: [&str; 5] = [
    "capture.rings",
    "version",
    "warn",
    "critical",
    "recover_ratio",
];

/// The two ends of every range of numbers stand in what is expected of it.
fn has_its_bounds(key: &Key, accepts_value: impl Fn(Value) -> bool) {
    let bounds: Vec<f64> = key
        .expected
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    if key.kind != Kind::Number || UNBOUNDED.contains(&key.path) {
        return;
    }
    let whole = !key.expected.starts_with("seconds");
    let accepts = |number: f64| {
        let value = if whole {
            Value::Integer(number as i64)
        } else {
            Value::Float(number)
        };
        accepts_value(value)
    };
    let step = if whole { 1.0 } else { 0.0001 };
    let (low, high) = (bounds[0], bounds[1]);
    assert!(accepts(low) && accepts(high), "{}", key.path);
    assert!(!accepts(high + step), "{}", key.path);
    let ever = bounds.get(2) == Some(&0.0);
    assert_eq!(accepts(low - step), ever, "{}", key.path);
}

#[test]
fn every_key_of_an_entry_has_a_value_that_is_refused() {
    for list in LISTS {
        for key in list.keys {
            for value in [
                Value::Float(f64::NAN),
                Value::Array(vec![Value::Array(Vec::new())]),
            ] {
                let refused = !list.accepts(&Table::new(), key.path, &value);
                assert!(refused, "{}.{}", list.path, key.path);
            }
        }
    }
}

#[test]
fn every_field_of_an_entry_is_a_key_and_every_key_can_be_set() {
    let check: crate::check::Definition =
        toml::from_str("server = 'ntp.example'\nname = 'name'\n").unwrap();
    let fields = Table::try_from(check).unwrap();
    let mut fields: Vec<_> = fields.keys().map(String::as_str).collect();
    fields.sort_unstable();
    let mut keys: Vec<_> = List::find("check").unwrap().keys.iter().collect();
    keys.sort_unstable_by_key(|key| key.path);
    assert_eq!(fields, keys.iter().map(|key| key.path).collect::<Vec<_>>());
}

const CHECKS: &str = "\
[[check]]
server = 'ntp.example:1123'

[[check]]
name = 'ours'
server = \"[2001:db8::1]\"
samples = 1
family = 'ipv6'
";

#[test]
fn entries_of_arrays_of_tables_are_read_each_with_where_it_stands() {
    let (path, loaded) = load(CHECKS, &[], &[]);
    let loaded = loaded.unwrap();
    let names: Vec<_> = loaded.config.checks.iter().map(|it| it.name()).collect();
    assert_eq!(names, ["ntp.example:1123", "ours"]);
    assert_eq!(loaded.config.checks[1].samples, 1);
    assert_eq!(loaded.config.checks[1].version, 4);
    let shown = loaded.entries(List::find("check").unwrap());
    let at = |line| Source::File(path.clone(), line);
    let begins: Vec<_> = shown
        .iter()
        .map(|it| (it.name.as_str(), &it.source))
        .collect();
    assert_eq!(begins, [("check[1]", &at(1)), ("check[2]", &at(4))]);
    let samples = shown[1].keys.iter().find(|it| it.0.path == "samples");
    let (_, value, source) = samples.unwrap();
    assert_eq!((value, source), (&Some(Value::Integer(1)), &at(7)));
    let (_, value, source) = &shown[0].keys[1];
    assert_eq!((value, source), (&None, &Source::Default));

    let (_, written) = load("check = [{ server = 'a' }, { server = 'b' }]\n", &[], &[]);
    assert_eq!(written.unwrap().config.checks.len(), 2);
}

#[test]
fn every_fault_of_an_entry_is_told_with_its_place() {
    let text = "\
[[check]]
server = 'http://ntp.example'
samples = 0
interval = 3

[[check]]
name = ''
colour = 'red'
version = 5
";
    let server = "expected a name or an address, with or without a port, such as \"ntp.example\", \
                  \"192.0.2.1:123\", \"2001:db8::1\" or \"[2001:db8::1]:123\"";
    let mut found = faults_of(text, &[("NTPMON_CHECK_SERVER", "a")], &[]);
    let mut expected = [
        format!("check[1].server = \"http://ntp.example\" in DIR/ntpmon.toml:2: {server}"),
        "check[1].samples = 0 in DIR/ntpmon.toml:3: expected a whole number, 1 to 16".to_owned(),
        "check[1].interval in DIR/ntpmon.toml:4: there is no such key: did you mean interval_seconds?".to_owned(),
        "check[2].name = \"\" in DIR/ntpmon.toml:7: expected a text of 1 to 128 bytes, without control characters".to_owned(),
        "check[2].colour in DIR/ntpmon.toml:8: there is no such key: expected one of server, name, interval_seconds, samples, sample_interval_seconds, timeout_seconds, version, family".to_owned(),
        "check[2].version = 5 in DIR/ntpmon.toml:9: expected 3 or 4".to_owned(),
        format!("check[2].server in DIR/ntpmon.toml:6 is missing: {server}"),
    ];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_does_not_go_together_is_told_of_entries() {
    let text = "\
[[check]]
server = 'a'
[[check]]
server = 'A:123'
[[check]]
server = 'b'
interval_seconds = 5
[[check]]
server = 'c'
samples = 16
timeout_seconds = 30
";
    assert_eq!(
        faults_of(text, &[], &[]),
        [
            "check[2].name in DIR/ntpmon.toml:3 is missing: expected a name of its own: \"a\" is check[1]",
            "check[3].interval_seconds = 5 in DIR/ntpmon.toml:7: expected 6 at least, which a round of its samples may take",
            "check[4].interval_seconds = 64.0 in DIR/ntpmon.toml:8: expected 480 at least, which a round of its samples may take",
        ]
    );
}

#[test]
fn what_is_no_array_of_tables_is_told() {
    assert_eq!(
        faults_of("[check]\nserver = 'a'\n", &[], &[]),
        ["check in DIR/ntpmon.toml:1: expected [[check]], in two brackets, for each of them"]
    );
    assert_eq!(
        faults_of("check = [3]\n", &[], &[]),
        ["check[1] = 3 in DIR/ntpmon.toml:1: expected a table, [[check]]"]
    );
    assert_eq!(
        faults_of("[[chekc]]\nserver = 'a'\n", &[], &[]),
        ["chekc in DIR/ntpmon.toml:1: there is no such key: did you mean check?"]
    );
    let many = "[[check]]\nserver = 'a'\n".repeat(10_001);
    assert_eq!(
        faults_of(&many, &[], &[]),
        ["check in DIR/ntpmon.toml:1: expected 10000 at most"]
    );
}

#[test]
fn a_fault_that_a_later_source_puts_right_is_told_all_the_same() {
    let found = faults_of("[api]\nlisten = 'x'\n", &[], &[listen("127.0.0.1:3")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("api.listen = \"x\" in DIR/ntpmon.toml:2: "));
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_nothing_is_made_of_the_rest() {
    let found = faults_of("[api]\nlisten = = 3\nshadow = 1\n", &[], &[]);
    assert!(!found.is_empty());
    for fault in &found {
        assert!(fault.starts_with("DIR/ntpmon.toml:2: "), "{fault}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        text in "([a-z_.\\[\\]\"'=#, 0-9é-]|\n|interfaces|history|sessions|api|tls|keep){0,40}",
    ) {
        let mut merge = Merge::default();
        merge.text(Path::new("ntpmon.toml"), &text);
        let right = text.parse::<Table>().is_ok();
        proptest::prop_assert!(right || !merge.faults.is_empty());
    }
}

#[test]
fn a_section_is_no_value() {
    assert_eq!(
        faults_of("api = 3\n", &[], &[]),
        ["api = 3 in DIR/ntpmon.toml:1: expected a section, [api]"]
    );
}

#[test]
fn a_certificate_needs_its_key() {
    let text = "[api.tls]\ncertificate = '/etc/ntpmon/cert.pem'\n";
    assert_eq!(
        faults_of(text, &[], &[]),
        [
            "api.tls.certificate = \"/etc/ntpmon/cert.pem\" in DIR/ntpmon.toml:2: \
             expected api.tls.key beside it"
        ]
    );
    let (_, loaded) = load(&format!("{text}key = '/etc/ntpmon/key.pem'\n"), &[], &[]);
    let tls = loaded.unwrap().config.api.tls;
    assert_eq!(
        tls.pair(),
        Some((
            Path::new("/etc/ntpmon/cert.pem"),
            Path::new("/etc/ntpmon/key.pem")
        ))
    );
}

#[test]
fn a_variable_that_sets_nothing_is_told_and_those_of_others_are_not() {
    let (_, loaded) = load(
        "",
        &[
            ("NTPMON_API_LISTENS", "127.0.0.1:80"),
            ("NTPMON_API_LISTEN", "127.0.0.1:2"),
            ("NTPMON_LISTEN", "127.0.0.1:3"),
            ("NTPMON_CAPTURES", "/captures"),
            ("NTPMON_CONFIG", "/etc/other.toml"),
            ("NTP", "1"),
        ],
        &[],
    );
    let loaded = loaded.unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "the environment's NTPMON_API_LISTENS sets nothing: did you mean NTPMON_API_LISTEN?",
            "the environment has both NTPMON_API_LISTEN and NTPMON_LISTEN: NTPMON_LISTEN counts",
        ]
    );
    assert_eq!(loaded.config.api.listen.port(), 3);
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let sources = Sources {
        file: Some("/nonexistent/ntpmon.toml".into()),
        ..Sources::default()
    };
    let faults = Config::load(&sources).unwrap_err().to_string();
    assert!(
        faults.starts_with("reading the configuration /nonexistent/ntpmon.toml: No such file"),
        "{faults}"
    );
}

#[test]
fn what_is_wrong_with_alerts_is_told_with_its_place_and_no_secret() {
    let text = "\
[alert]
max_alerts = 5
[[alert.rule]]
name = 'clock'
quantity = 'chek_offset'
[[alert.rule]]
name = 'clock'
quantity = 'request_rate'
sinks = ['ops', 'none']
[[alert.sink]]
name = 'ops'
kind = 'webhook'
url = 'topsecret'
template = '{{ rule'
[[alert.sink]]
name = 'mail'
kind = 'email'
secret = 'topsecret'
[[alert.silence]]
name = 'night'
start = '25:00'
";
    let found = faults_of(text, &[], &[]).join("\n");
    for part in [
        "alert.max_alerts = 5 in DIR/ntpmon.toml:2: expected a whole number, 100 to 1000000",
        "alert.rule[1].quantity = \"chek_offset\" in DIR/ntpmon.toml:5: expected",
        "did you mean check_offset?",
        "disk_free",
        "alert.sink[1].url = \"(hidden)\" in DIR/ntpmon.toml:13: expected where it is",
        "alert.sink[1].template = \"{{ rule\" in DIR/ntpmon.toml:14: expected",
        "line 1",
        "alert.silence[1].start = \"25:00\" in DIR/ntpmon.toml:21: expected a time of the day",
    ] {
        assert!(found.contains(part), "{part}:\n{found}");
    }
    assert!(!found.contains("topsecret"), "{found}");

    let together = "\
[[alert.rule]]
name = 'clock'
quantity = 'check_offset'
[[alert.rule]]
name = 'clock'
quantity = 'request_rate'
[[alert.sink]]
name = 'mail'
kind = 'email'
secret = 'topsecret'
";
    let found = faults_of(together, &[], &[]);
    let expected = [
        "alert.rule[2].warn in DIR/ntpmon.toml:4 is missing: expected a level, here or as critical: there is none that is usual for request_rate",
        "alert.rule[2].name = \"clock\" in DIR/ntpmon.toml:5: expected a name of its own: \"clock\" is alert.rule[1]",
        "alert.sink[1].secret = \"(hidden)\" in DIR/ntpmon.toml:10: expected none: a sink of kind email has no such key",
        "alert.sink[1].host in DIR/ntpmon.toml:7 is missing: expected a value: a sink of kind email needs it",
    ];
    assert_eq!(found, expected);

    let sinks = "[[alert.rule]]\nname = 'a'\nquantity = 'disk_free'\nsinks = ['none']\n";
    assert_eq!(
        faults_of(sinks, &[], &[]),
        [
            "alert.rule[1].sinks = [\"none\"] in DIR/ntpmon.toml:4: expected no \"none\": there is no [[alert.sink]]"
        ]
    );
}

#[test]
fn alerts_are_read_as_they_are_written() {
    let text = "\
[[alert.rule]]
name = 'rate'
quantity = 'request_rate'
warn = 1000
for_seconds = 60
match = { interface = 'eth*' }
[[alert.sink]]
name = 'ops'
kind = 'webhook'
url = 'https://ntp.example/topsecret'
[[alert.silence]]
name = 'night'
days = ['saturday']
start = '22:00'
end = '06:00'
until = '2030-01-01T00:00:00Z'
";
    let (_, loaded) = load(text, &[], &[]);
    let loaded = loaded.unwrap();
    let alert = &loaded.config.alert;
    assert_eq!(alert.rules[0].hold.as_secs(), 60);
    assert!(alert.silences[0].start.is_some());
    let shown = loaded.entries(List::find("alert.sink").unwrap());
    let url = shown[0].keys.iter().find(|it| it.0.path == "url").unwrap();
    let hidden = Value::String("https://ntp.example/…".to_owned());
    assert_eq!(url.1.as_ref(), Some(&hidden));
}
