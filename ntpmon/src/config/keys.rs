//! Every key there is, with what is right for it. What is told of a wrong value, the names of the
//! environment's variables and the order of `ntpmon config show` all come from here.

/// A key of the file, or of an entry of an array of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its place, sections and all: `history.sessions.keep`.
    pub path: &'static str,
    /// How it is written in the environment.
    pub kind: Kind,
    /// What its value has to be, to follow the word "expected".
    pub expected: &'static str,
}

/// How a value is written where there is only text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Texts with commas between them.
    Texts,
    /// Numbers with commas between them.
    Numbers,
    /// Texts by name; of entries alone.
    Table,
    /// As it is, and never shown; of entries alone.
    Secret,
}

pub(super) const fn key(path: &'static str, kind: Kind, expected: &'static str) -> Key {
    Key {
        path,
        kind,
        expected,
    }
}

const PATH: &str = "an absolute path";
const SWITCH: &str = "true or false";
const DAYS: &str = "whole days, 1 to 36500, or 0 for ever";

/// All keys, in the order of the file.
pub const KEYS: &[Key] = &[
    key(
        "interfaces",
        Kind::Texts,
        "a list of names of interfaces, such as [\"eth0\"], each of 1 to 15 bytes",
    ),
    key("data_dir", Kind::Text, PATH),
    key(
        "log.level",
        Kind::Text,
        "off, error, warn, info, debug or trace, alone or of modules, such as warn,ntpmon=debug",
    ),
    key("log.file", Kind::Text, PATH),
    key(
        "capture.ports",
        Kind::Numbers,
        "a list of 1 to 8 UDP ports, each 1 to 65535",
    ),
    key(
        "capture.timeout_seconds",
        Kind::Number,
        "seconds, 0.001 to 3600",
    ),
    key("capture.mode", Kind::Text, "\"tc\" or \"xdp\""),
    key("capture.rings", Kind::Number, "1, 2 or 4"),
    key(
        "capture.ring_size_kib",
        Kind::Number,
        "a whole number, 4 to 1048576",
    ),
    key("capture.decapsulate", Kind::Switch, SWITCH),
    key("capture.ptp", Kind::Switch, SWITCH),
    key("capture.output_dir", Kind::Text, PATH),
    key(
        "history.flush_interval_seconds",
        Kind::Number,
        "seconds, 0.1 to 60",
    ),
    key(
        "history.batch_size",
        Kind::Number,
        "a whole number, 1000 to 10000000",
    ),
    key(
        "history.checkpoint_interval_seconds",
        Kind::Number,
        "seconds, 1 to 3600",
    ),
    key(
        "history.max_clients",
        Kind::Number,
        "a whole number, 1000 to 100000000",
    ),
    key(
        "history.max_servers",
        Kind::Number,
        "a whole number, 16 to 1000000",
    ),
    key(
        "history.cache_mib",
        Kind::Number,
        "a whole number, 1 to 65536",
    ),
    key(
        "history.sessions.keep",
        Kind::Text,
        "\"all\", \"off\", or \"1/N\" for one client in N",
    ),
    key(
        "history.sessions.per_second",
        Kind::Number,
        "a whole number, 1 to 10000000",
    ),
    key(
        "history.sessions.max_age_days",
        Kind::Number,
        "whole days, 1 to 36500",
    ),
    key(
        "history.sessions.max_size_mib",
        Kind::Number,
        "a whole number, 1 to 1048576",
    ),
    key("history.retention.clients_days", Kind::Number, DAYS),
    key("history.retention.servers_days", Kind::Number, DAYS),
    key("history.retention.minutes_days", Kind::Number, DAYS),
    key("history.retention.hours_days", Kind::Number, DAYS),
    key("history.retention.days_days", Kind::Number, DAYS),
    key("history.retention.check_results_days", Kind::Number, DAYS),
    key("history.retention.check_hours_days", Kind::Number, DAYS),
    key("history.retention.check_days_days", Kind::Number, DAYS),
    key(
        "api.listen",
        Kind::Text,
        "an address and a port, such as \"127.0.0.1:8000\" or \"[::1]:8000\"; port 0 takes a free one",
    ),
    key(
        "api.max_body_kib",
        Kind::Number,
        "a whole number, 1 to 1048576",
    ),
    key(
        "api.request_timeout_seconds",
        Kind::Number,
        "seconds, 1 to 3600",
    ),
    key(
        "api.max_concurrent_requests",
        Kind::Number,
        "a whole number, 1 to 100000",
    ),
    key(
        "api.cors_origins",
        Kind::Texts,
        "a list of origins, such as [\"https://ntp.example\"]: a scheme and a host, without a path",
    ),
    key("api.compression", Kind::Switch, SWITCH),
    key("api.tokens_file", Kind::Text, PATH),
    key("api.tls.certificate", Kind::Text, PATH),
    key("api.tls.key", Kind::Text, PATH),
    key(
        "otlp.endpoint",
        Kind::Text,
        "where OTLP is taken over HTTP, such as \"http://127.0.0.1:4318\"",
    ),
    key("otlp.interval_seconds", Kind::Number, "seconds, 1 to 3600"),
    key("otlp.timeout_seconds", Kind::Number, "seconds, 0.1 to 60"),
    key(
        "otlp.headers",
        Kind::Texts,
        "a list of headers, such as [\"X-Tenant: ntp\"], none of those that every request has",
    ),
    key("alert.default_rules", Kind::Switch, SWITCH),
    key(
        "alert.max_alerts",
        Kind::Number,
        "a whole number, 100 to 1000000",
    ),
    key("alert.history_days", Kind::Number, "whole days, 1 to 36500"),
    key(
        "client.url",
        Kind::Text,
        "where a daemon answers, such as \"http://127.0.0.1:8000\"",
    ),
    key("client.token_file", Kind::Text, PATH),
];

/// Names the file where no flag does.
pub(super) const CONFIG_VARIABLE: &str = "NTPMON_CONFIG";

/// What all our variables begin with.
pub(super) const PREFIX: &str = "NTPMON_";

/// Shorter names for what is set most; where both are there, these count.
pub(super) const SHORT: [(&str, &str); 2] =
    [("NTPMON_LOG", "log.level"), ("NTPMON_LISTEN", "api.listen")];

/// Ours too, and none of the file's keys: which file to read, which daemon to ask by which token,
/// and what the build and the tests take from the environment.
pub(super) const ELSEWHERE: [&str; 8] = [
    CONFIG_VARIABLE,
    "NTPMON_TOKEN",
    "NTPMON_URL",
    "NTPMON_BINARY",
    "NTPMON_BENCH_OBJECT",
    "NTPMON_CAPTURES",
    "NTPMON_EBPF_OBJECT",
    "NTPMON_OBJECT",
];

impl Key {
    /// The key with this path.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.to_uppercase().replace('.', "_"))
    }
}

/// What may have been meant by a name that is none.
pub(super) fn similar<'a>(
    name: &str,
    mut names: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let alike = names
        .clone()
        .map(|it| (strsim::jaro(name, it), it))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, it)| it);
    // Or it was left off in what it is counted.
    let begins = |it: &&str| it.strip_prefix(name).is_some_and(|it| it.starts_with('_'));
    alike.or_else(|| names.find(begins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LISTS, List};

    #[test]
    fn the_documentation_has_every_key_in_order_with_what_is_right_for_it() {
        let rows = include_str!("../../../docs/configuration.md")
            .lines()
            .filter(|line| line.starts_with("| `"));
        let told: Vec<[&str; 3]> = rows
            .map(|row| {
                let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                assert_eq!(cells.len(), 5, "{row}");
                assert!(!cells[4].is_empty(), "{row}");
                [cells[0].trim_matches('`'), cells[1], cells[2]]
            })
            .collect();
        let known = KEYS.iter().map(|key| (key.path.to_owned(), key.expected));
        let entries = LISTS.iter().flat_map(|list| {
            let path = |key: &Key| format!("{}[].{}", list.path, key.path);
            list.keys.iter().map(move |key| (path(key), key.expected))
        });
        let known: Vec<_> = known.chain(entries).collect();
        let documented: Vec<_> = told
            .iter()
            .map(|[path, _, right]| ((*path).to_owned(), *right))
            .collect();
        assert_eq!(documented, known);
        // A default that is told is the default.
        let defaults = toml::Value::try_from(crate::config::Config::default()).unwrap();
        for [path, default, _] in told {
            let value = match path.split_once("[].") {
                None => path
                    .split('.')
                    .try_fold(&defaults, |table, name| table.get(name))
                    .cloned(),
                Some((list, key)) => {
                    let list = List::find(list).unwrap();
                    let given = toml::Table::new();
                    assert_eq!(default == "must be set", list.needs(&given, key), "{path}");
                    list.default_of(&given, key)
                }
            };
            let value = value.as_ref().map(ToString::to_string);
            let default = match default {
                "not set" | "must be set" => None,
                default => Some(default.trim_matches('`').to_owned()),
            };
            assert_eq!(default, value, "{path}");
        }
    }
}
