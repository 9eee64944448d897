//! What an operator sets, at the command line: `ntpmon config`, `ntpmon token`, and the files that
//! packages bring.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use ntpmon::config::KEYS;
use ntpmon_tests::{
    namespace::folder,
    ntpmon::{self as run, Ended},
    packages, workspace,
};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// Runs it to its end with the arguments, then paths of a folder, then variables.
fn ntpmon(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = run::command(&[]).unwrap();
    for key in KEYS {
        command.env_remove(key.variable());
    }
    command
        .env_remove("NTPMON_CONFIG")
        .env_remove("NTPMON_LISTEN");
    command.args(arguments).envs(variables.iter().copied());
    Ended::of(command.output().unwrap()).unwrap()
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What is in force by a file: each key with its value and its source.
fn shown(path: &str, variables: &[(&str, &str)]) -> Map<String, Value> {
    let ended = ntpmon(&["config", "show", "--json", "--config", path], variables);
    serde_json::from_str(&ended.printed().unwrap()).unwrap()
}

fn values(shown: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let pairs = shown.iter();
    pairs
        .map(|(key, it)| (key.as_str(), &it["value"]))
        .collect()
}

#[test]
fn a_right_configuration_is_called_right() {
    let folder = folder().unwrap();
    let data = folder.path().to_str().unwrap();
    let path = file(&folder, "ntpmon.toml", "[capture]\nports = [123, 1123]\n");
    let arguments = ["config", "check", "--config", &path, "--data-dir", data];
    let printed = ntpmon(&arguments, &[]).printed().unwrap();
    assert_eq!(printed, format!("{path} is right\n"));
    // The environment may name it as well.
    let named = [("NTPMON_CONFIG", path.as_str()), ("NTPMON_DATA_DIR", data)];
    assert_eq!(
        ntpmon(&["config", "check"], &named).printed().unwrap(),
        printed
    );
}

#[test]
fn every_fault_is_a_line_with_its_key_value_and_place() {
    let folder = folder().unwrap();
    let path = file(
        &folder,
        "ntpmon.toml",
        "[history]\nmax_clients = \"many\"\n[capture]\nrigns = 1\n",
    );
    let ended = ntpmon(
        &["config", "check", "--config", &path],
        &[("NTPMON_HISTORY_CACHE_MIB", "0")],
    );
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.stdout, "");
    let mut lines: Vec<_> = ended.stderr.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            format!("ntpmon: capture.rigns in {path}:4: there is no such key: did you mean capture.rings?"),
            "ntpmon: history.cache_mib = 0 in the environment's NTPMON_HISTORY_CACHE_MIB: expected a whole number, 1 to 65536".to_owned(),
            format!("ntpmon: history.max_clients = \"many\" in {path}:2: expected a whole number, 1000 to 100000000"),
        ]
    );
}

#[test]
fn a_wrong_log_setting_is_told_with_the_other_faults() {
    let variables = [("NTPMON_LOG", "loud"), ("NTPMON_DATA_DIR", "here")];
    let ended = ntpmon(&["config", "check"], &variables);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .contains("log.level = \"loud\" in the environment's NTPMON_LOG")
    );
    assert!(ended.stderr.contains("data_dir = \"here\""), "{ended:?}");
}

#[test]
fn a_named_file_that_is_not_there_is_a_fault() {
    for command in [&["config", "check"][..], &["config", "show"], &["run"]] {
        let arguments = [command, &["--config", "/nonexistent.toml"]].concat();
        let ended = ntpmon(&arguments, &[]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains("/nonexistent.toml: No such file"),
            "{ended:?}"
        );
    }
}

#[test]
fn what_a_configuration_names_is_looked_at() {
    let folder = folder().unwrap();
    let data = folder.path().to_str().unwrap();
    let check = |text: &str| {
        let path = file(&folder, "ntpmon.toml", text);
        let ended = ntpmon(
            &["config", "check", "--config", &path, "--data-dir", data],
            &[],
        );
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        ended.stderr
    };
    let told = check("[api]\nlisten = '192.0.2.1:80'\n");
    assert!(told.contains("token create"), "{told}");
    let told = check("[api.tls]\ncertificate = '/nonexistent.pem'\nkey = '/nonexistent.key'\n");
    assert!(
        told.contains("api.tls.certificate = \"/nonexistent.pem\""),
        "{told}"
    );
    let tokens = file(&folder, "tokens.toml", "");
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o640)).unwrap();
    let told = check("");
    assert!(
        told.contains("chmod 600") && told.contains(&tokens),
        "{told}"
    );
}

#[test]
fn what_is_shown_says_where_it_comes_from_and_can_be_read_again() {
    let folder = folder().unwrap();
    let text = "[history]\nmax_clients = 5000\n[api]\nlisten = '127.0.0.1:1'\n";
    let path = file(&folder, "ntpmon.toml", text);
    let variables = [("NTPMON_LOG", "debug"), ("NTPMON_LISTEN", "127.0.0.1:2")];
    let arguments = [
        "config",
        "show",
        "--config",
        &path,
        "--data-dir",
        "/data",
        "-i",
        "eth7",
    ];
    let printed = ntpmon(&arguments, &variables).printed().unwrap();
    for line in [
        "interfaces = [\"eth7\"] # flag: --interface",
        "data_dir = \"/data\" # flag: --data-dir",
        "level = \"debug\" # environment: NTPMON_LOG",
        &format!("max_clients = 5000 # {path}:2"),
        "listen = \"127.0.0.1:2\" # environment: NTPMON_LISTEN",
        "max_servers = 16384 # default",
        "# tokens_file = \"/data/tokens.toml\" # default: in data_dir",
        "# certificate is not set",
    ] {
        assert!(
            printed.lines().any(|it| it == line),
            "no {line} in {printed}"
        );
    }
    let again = file(&folder, "again.toml", &printed);
    let first = ntpmon(&[&arguments[..], &["--json"]].concat(), &variables);
    let first: Map<String, Value> = serde_json::from_str(&first.printed().unwrap()).unwrap();
    assert_eq!(values(&shown(&again, &[])), values(&first));
    assert_eq!(first["api.listen"]["source"], "environment: NTPMON_LISTEN");
    assert_eq!(first["api.tls.key"]["value"], Value::Null);
    assert_eq!(first.len(), KEYS.len());
}

#[test]
fn a_variable_that_sets_nothing_is_told() {
    let ended = ntpmon(&["config", "check"], &[("NTPMON_DATADIR", "/x")]);
    let right = "the environment's NTPMON_DATADIR sets nothing: did you mean NTPMON_DATA_DIR?";
    assert!(ended.stderr.contains(right), "{ended:?}");
}

/// The sample file, with lines of a kind made into settings.
fn sample(uncomment: impl Fn(&str) -> Option<&str>) -> String {
    let text = fs::read_to_string(workspace().join("packaging/ntpmon.toml")).unwrap();
    text.lines()
        .map(|line| format!("{}\n", uncomment(line).unwrap_or(line)))
        .collect()
}

/// A setting behind `#`, without a space: prose has one.
fn default_setting(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|it| it.starts_with(char::is_alphabetic))
}

/// That, or what stands where nothing is set by default.
fn example_setting(line: &str) -> Option<&str> {
    line.strip_prefix("# for example: ")
        .or_else(|| default_setting(line))
}

#[test]
fn the_sample_shows_the_defaults_of_every_key() {
    let folder = folder().unwrap();
    let empty = file(&folder, "empty.toml", "");
    let defaults = shown(&empty, &[]);
    let as_it_is = file(&folder, "as-it-is.toml", &sample(|_| None));
    assert_eq!(values(&shown(&as_it_is, &[])), values(&defaults));
    let path = file(&folder, "defaults.toml", &sample(default_setting));
    let uncommented = shown(&path, &[]);
    assert_eq!(values(&uncommented), values(&defaults));

    let path = file(&folder, "examples.toml", &sample(example_setting));
    let mut keys: BTreeMap<String, bool> = BTreeMap::new();
    for (key, it) in shown(&path, &[]) {
        // Not every kind of entry has each key: one of them has it.
        let of_list = key.split_once('[').and_then(|(list, rest)| {
            let (_, key) = rest.split_once(']')?;
            Some(format!("{list}[]{key}"))
        });
        let is_there = it["source"].as_str().unwrap().starts_with(&path);
        *keys.entry(of_list.unwrap_or(key)).or_default() |= is_there;
    }
    for (key, is_there) in keys {
        assert!(is_there, "{key} is not in the sample");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_token_is_made_listed_and_removed() {
    let folder = folder().unwrap();
    // Before the daemon's first start there is no directory.
    let data = folder.path().join("data");
    let path = data.join("tokens.toml");
    let variables = [("NTPMON_DATA_DIR", data.to_str().unwrap())];
    let token = |arguments: &str| {
        let arguments: Vec<_> = ["token"].into_iter().chain(arguments.split(' ')).collect();
        ntpmon(&arguments, &variables)
    };
    let made = token("create grafana --scope read").printed().unwrap();
    let digits = made.trim_end().strip_prefix("ntpmon_").unwrap();
    assert_eq!(digits.len(), 64);
    assert!(digits.bytes().all(|it| it.is_ascii_hexdigit()));
    let other = token("create ops --scope admin").printed().unwrap();
    assert_ne!(made, other);
    assert_eq!((mode(&data), mode(&path)), (0o700, 0o600));
    let stored = fs::read_to_string(&path).unwrap();
    assert!(!stored.contains(digits));

    let listed = token("list").printed().unwrap();
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0][..2], ["grafana", "read"]);
    assert_eq!(rows[1][..2], ["ops", "admin"]);
    assert!(!listed.contains(digits));

    let again = token("create ops --scope read");
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("ops already"), "{again:?}");
    assert_eq!(token("remove grafana").printed().unwrap(), "");
    assert_eq!(token("list").printed().unwrap().lines().count(), 1);
    let gone = token("remove grafana");
    assert!(gone.code == Some(1) && gone.stderr.contains("no token of the name grafana"));

    assert_eq!(token("create one").code, Some(2));
    assert_eq!(token("create one --scope root").code, Some(2));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for arguments in ["list", "create one --scope read", "remove ops"] {
        let refused = token(arguments);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("mode 0644"), "{refused:?}");
    }
}

/// The packaged unit, for the binary under test.
fn unit(folder: &TempDir) -> PathBuf {
    let text = fs::read_to_string(workspace().join("packaging/ntpmon.service")).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/ntpmon run\n"));
    // What it starts is installed by the package; here anything that can be started will do.
    let text = text.replace("/usr/bin/ntpmon run", "/bin/true run");
    PathBuf::from(file(folder, "ntpmon.service", &text))
}

fn systemd(program: &str, arguments: &[&str], path: &Path) -> Ended {
    packages::require_tools().unwrap();
    let mut command = Command::new(program);
    Ended::of(command.args(arguments).arg(path).output().unwrap()).unwrap()
}

#[test]
fn the_unit_is_understood_and_exposes_little() {
    let folder = folder().unwrap();
    let unit = unit(&folder);
    let verified = systemd("systemd-analyze", &["verify", "--man=no"], &unit);
    assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""));
    // In tenths. Nothing is 0, an ordinary service 96; what is left is what it is for.
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=18"];
    let secured = systemd("systemd-analyze", &arguments, &unit);
    assert_eq!(secured.code, Some(0), "{}", secured.stdout);
}

#[test]
fn the_unit_gives_what_is_checked_for_and_nothing_else() {
    let text = fs::read_to_string(workspace().join("packaging/ntpmon.service")).unwrap();
    for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            ["CAP_BPF CAP_NET_ADMIN CAP_PERFMON"]
        );
    }
    let user = fs::read_to_string(workspace().join("packaging/ntpmon.sysusers")).unwrap();
    assert!(text.contains("\nUser=ntpmon\n"));
    assert!(user.lines().any(|line| line.starts_with("u ntpmon ")));
}
