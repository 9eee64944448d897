//! What an operator can set: the TOML file, the environment and the flags, merged over defaults
//! into one typed [`Config`]. A wrong setting is told with its key, its value, where it stands and
//! what would be right, and all of them at once. Nothing here opens what the settings name.

mod alert;
mod checks;
mod entries;
mod keys;
mod load;
mod otlp;
mod types;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ntpmon_common::settings::{MAX_PORTS, MAX_RINGS};
use serde::{Deserialize, Serialize};

pub use self::{
    alert::Alert,
    entries::{Conflict, Entry, LISTS, List, faults},
    keys::{KEYS, Key, Kind},
    load::{Fault, Faults, Flag, Loaded, Shown, Source, Sources},
    otlp::Otlp,
    types::{Keep, Mode, Origin},
};
use crate::{
    check::{self, Definition},
    history, logging,
};

/// Where the file is looked for unless another is named.
pub const DEFAULT_FILE: &str = "/etc/ntpmon/ntpmon.toml";
/// The file of the tokens, in the data directory unless it is named.
const TOKENS_FILE: &str = "tokens.toml";

/// All that can be set, whole and checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is watched from the first start on; nothing: the interface of the default route.
    pub interfaces: Vec<String>,
    /// Where everything that is remembered lies.
    pub data_dir: PathBuf,
    /// What is said, and where.
    pub log: Log,
    /// How packets are taken.
    pub capture: Capture,
    /// What is remembered.
    pub history: History,
    /// How it is served.
    pub api: Api,
    /// Where its numbers are sent to.
    pub otlp: Otlp,
    /// Who is told when something is wrong.
    pub alert: Alert,
    /// How the command line reaches a daemon.
    pub client: Client,
    /// Servers that are asked for the time.
    #[serde(rename = "check")]
    pub checks: Vec<Definition>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            data_dir: PathBuf::from("/var/lib/ntpmon"),
            log: Log::default(),
            capture: Capture::default(),
            history: History::default(),
            api: Api::default(),
            otlp: Otlp::default(),
            alert: Alert::default(),
            client: Client::default(),
            checks: Vec::new(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Levels, alone or of modules.
    pub level: String,
    /// Standard error unless this names a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: logging::DEFAULT.to_owned(),
            file: None,
        }
    }
}

/// `[capture]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// UDP ports that are NTP, on either side; each once.
    pub ports: Vec<u16>,
    /// How long a request waits for its response.
    #[serde(rename = "timeout_seconds", with = "crate::seconds")]
    pub timeout: Duration,
    /// Where incoming packets are taken.
    pub mode: Mode,
    /// Rings of an interface, each with a thread: 1, 2 or 4.
    pub rings: usize,
    /// Size of each ring, rounded up to a power of two.
    pub ring_size_kib: u32,
    /// Look for NTP inside GRE, IP-in-IP and VXLAN too.
    pub decapsulate: bool,
    /// Watch PTP too.
    pub ptp: bool,
    /// The only directory that an interface's output file may be in; nothing: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<PathBuf>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            ports: vec![123],
            timeout: Duration::from_secs(2),
            mode: Mode::Tc,
            rings: 1,
            ring_size_kib: 16 << 10,
            decapsulate: false,
            ptp: false,
            output_dir: None,
        }
    }
}

/// `[history]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// What was seen is stored so often.
    #[serde(rename = "flush_interval_seconds", with = "crate::seconds")]
    pub flush_interval: Duration,
    /// So many clients changed are stored before the interval is over.
    pub batch_size: usize,
    /// How often the state that only speeds up a start is stored.
    #[serde(rename = "checkpoint_interval_seconds", with = "crate::seconds")]
    pub checkpoint_interval: Duration,
    /// Clients that are known by name; what exceeds them is counted together.
    pub max_clients: usize,
    /// The same for servers.
    pub max_servers: usize,
    /// Memory for the database's pages.
    pub cache_mib: usize,
    /// Single exchanges.
    pub sessions: Sessions,
    /// How long the rest is kept.
    pub retention: Retention,
}

impl Default for History {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            batch_size: 200_000,
            checkpoint_interval: Duration::from_secs(300),
            max_clients: 1_000_000,
            max_servers: 16_384,
            cache_mib: 16,
            sessions: Sessions::default(),
            retention: Retention::default(),
        }
    }
}

impl History {
    /// As the history itself wants it.
    #[must_use]
    pub fn settings(&self) -> history::Settings {
        let Self {
            flush_interval,
            batch_size,
            checkpoint_interval,
            max_clients,
            max_servers,
            cache_mib,
            sessions,
            retention,
        } = self;
        history::Settings {
            flush_interval: *flush_interval,
            batch_size: *batch_size,
            checkpoint_interval: *checkpoint_interval,
            max_clients: *max_clients,
            max_servers: *max_servers,
            cache_bytes: cache_mib << 20,
            keep: sessions.keep,
            sessions_per_second: sessions.per_second as usize,
            sessions_age: Some(sessions.max_age),
            sessions_bytes: sessions.max_size_mib << 20,
            retention: history::Retention {
                clients: retention.clients,
                servers: retention.servers,
                minutes: retention.minutes,
                hours: retention.hours,
                days: retention.days,
            },
        }
    }
}

/// `[history.sessions]`: exchanges that are remembered one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Of which clients.
    pub keep: Keep,
    /// So many in a second at most.
    pub per_second: u32,
    /// How long.
    #[serde(rename = "max_age_days", with = "types::days")]
    pub max_age: Duration,
    /// How much of the file they may take.
    pub max_size_mib: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            keep: Keep::All,
            per_second: 10_000,
            max_age: types::from_days(7),
            max_size_mib: 512,
        }
    }
}

/// `[history.retention]`: for how long; nothing is for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// A client after its last packet.
    #[serde(rename = "clients_days", with = "types::days_or_ever")]
    pub clients: Option<Duration>,
    /// A server after its last packet.
    #[serde(rename = "servers_days", with = "types::days_or_ever")]
    pub servers: Option<Duration>,
    /// Rollups of a minute.
    #[serde(rename = "minutes_days", with = "types::days_or_ever")]
    pub minutes: Option<Duration>,
    /// Rollups of an hour.
    #[serde(rename = "hours_days", with = "types::days_or_ever")]
    pub hours: Option<Duration>,
    /// Rollups of a day.
    #[serde(rename = "days_days", with = "types::days_or_ever")]
    pub days: Option<Duration>,
    /// Single rounds of checks.
    #[serde(rename = "check_results_days", with = "types::days_or_ever")]
    pub check_results: Option<Duration>,
    /// Sums of checks over an hour.
    #[serde(rename = "check_hours_days", with = "types::days_or_ever")]
    pub check_hours: Option<Duration>,
    /// Sums of checks over a day.
    #[serde(rename = "check_days_days", with = "types::days_or_ever")]
    pub check_days: Option<Duration>,
}

impl Retention {
    /// As the checks want it.
    #[must_use]
    pub const fn of_checks(&self) -> check::store::Retention {
        check::store::Retention {
            results: self.check_results,
            hours: self.check_hours,
            days: self.check_days,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            clients: Some(types::from_days(365)),
            servers: Some(types::from_days(365)),
            minutes: Some(types::from_days(7)),
            hours: Some(types::from_days(90)),
            days: Some(types::from_days(1825)),
            check_results: Some(types::from_days(7)),
            check_hours: Some(types::from_days(90)),
            check_days: Some(types::from_days(1825)),
        }
    }
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Off loopback only where there are tokens.
    pub listen: SocketAddr,
    /// A body that is larger is refused.
    pub max_body_kib: usize,
    /// A request that takes longer is given up.
    #[serde(rename = "request_timeout_seconds", with = "crate::seconds")]
    pub request_timeout: Duration,
    /// Requests beyond these are told to come again.
    pub max_concurrent_requests: usize,
    /// Web pages from elsewhere that may ask; none.
    pub cors_origins: Vec<String>,
    /// Compress what is answered for those who understand it.
    pub compression: bool,
    /// See [`Config::tokens_file`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// HTTPS instead of HTTP.
    pub tls: Tls,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            max_body_kib: 1024,
            request_timeout: Duration::from_secs(30),
            max_concurrent_requests: 512,
            cors_origins: Vec::new(),
            compression: true,
            tokens_file: None,
            tls: Tls::default(),
        }
    }
}

/// `[api.tls]`: both or none, which is checked; use [`Tls::pair`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificate, then those that it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM: its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The certificate and its key, where HTTPS is asked for.
    #[must_use]
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_deref().zip(self.key.as_deref())
    }
}

/// `[client]`: for the commands that ask a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// Where the daemon answers.
    pub url: String,
    /// A file with a token in it and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8000".to_owned(),
            token_file: None,
        }
    }
}

/// An interface's name has no more bytes.
const MAX_INTERFACE_NAME: usize = 15;

impl Config {
    /// Where the tokens are.
    #[must_use]
    pub fn tokens_file(&self) -> PathBuf {
        let default = || self.data_dir.join(TOKENS_FILE);
        self.api.tokens_file.clone().unwrap_or_else(default)
    }

    /// The keys whose values, each taken alone, are out of their bounds. What would be right is
    /// said in [`KEYS`].
    #[must_use]
    pub fn check(&self) -> Vec<&'static str> {
        let mut wrong = Vec::new();
        let mut must = |key, right: bool| {
            if !right {
                wrong.push(key);
            }
        };
        let seconds = Duration::from_secs_f64;
        let is_absolute = |path: &Option<PathBuf>| path.as_ref().is_none_or(|it| it.is_absolute());

        must(
            "interfaces",
            self.interfaces.iter().all(|it| is_interface(it)),
        );
        must("data_dir", self.data_dir.is_absolute());

        must("log.level", logging::parse(&self.log.level).is_ok());
        must("log.file", is_absolute(&self.log.file));

        let it = &self.capture;
        must(
            "capture.ports",
            (1..=MAX_PORTS).contains(&it.ports.len()) && !it.ports.contains(&0),
        );
        must(
            "capture.timeout_seconds",
            (seconds(0.001)..=seconds(3600.0)).contains(&it.timeout),
        );
        must(
            "capture.rings",
            it.rings.is_power_of_two() && it.rings <= MAX_RINGS,
        );
        must(
            "capture.ring_size_kib",
            (4..=1 << 20).contains(&it.ring_size_kib),
        );
        must("capture.output_dir", is_absolute(&it.output_dir));

        let it = &self.history;
        must(
            "history.flush_interval_seconds",
            (seconds(0.1)..=seconds(60.0)).contains(&it.flush_interval),
        );
        must(
            "history.batch_size",
            (1000..=10_000_000).contains(&it.batch_size),
        );
        must(
            "history.checkpoint_interval_seconds",
            (seconds(1.0)..=seconds(3600.0)).contains(&it.checkpoint_interval),
        );
        must(
            "history.max_clients",
            (1000..=100_000_000).contains(&it.max_clients),
        );
        must(
            "history.max_servers",
            (16..=1_000_000).contains(&it.max_servers),
        );
        must("history.cache_mib", (1..=65_536).contains(&it.cache_mib));

        let it = &self.history.sessions;
        must(
            "history.sessions.per_second",
            (1..=10_000_000).contains(&it.per_second),
        );
        must(
            "history.sessions.max_age_days",
            (types::from_days(1)..=types::from_days(types::MAX_DAYS)).contains(&it.max_age),
        );
        must(
            "history.sessions.max_size_mib",
            (1..=1 << 20).contains(&it.max_size_mib),
        );

        let it = &self.api;
        must(
            "api.max_body_kib",
            (1..=1_048_576).contains(&it.max_body_kib),
        );
        must(
            "api.request_timeout_seconds",
            (seconds(1.0)..=seconds(3600.0)).contains(&it.request_timeout),
        );
        must(
            "api.max_concurrent_requests",
            (1..=100_000).contains(&it.max_concurrent_requests),
        );
        must(
            "api.cors_origins",
            it.cors_origins.iter().all(|origin| is_origin(origin)),
        );
        must("api.tokens_file", is_absolute(&it.tokens_file));
        must("api.tls.certificate", is_absolute(&it.tls.certificate));
        must("api.tls.key", is_absolute(&it.tls.key));

        let it = &self.otlp;
        must("otlp.endpoint", it.endpoint.as_deref().is_none_or(is_url));
        must(
            "otlp.interval_seconds",
            (seconds(1.0)..=seconds(3600.0)).contains(&it.interval),
        );
        must(
            "otlp.timeout_seconds",
            (seconds(0.1)..=seconds(60.0)).contains(&it.timeout),
        );
        must(
            "otlp.headers",
            it.headers.iter().all(|it| otlp::header(it).is_some()),
        );
        must(
            "alert.max_alerts",
            (100..=1_000_000).contains(&self.alert.max_alerts),
        );
        must(
            "alert.history_days",
            (types::from_days(1)..=types::from_days(types::MAX_DAYS))
                .contains(&self.alert.history_age),
        );

        must("client.url", is_url(&self.client.url));
        must("client.token_file", is_absolute(&self.client.token_file));
        wrong
    }

    /// Pairs of keys that do not go together: the one that is set, and what is missing with it.
    fn check_together(&self) -> Vec<(&'static str, &'static str)> {
        let (certificate, key) = ("api.tls.certificate", "api.tls.key");
        match (&self.api.tls.certificate, &self.api.tls.key) {
            (Some(_), None) => vec![(certificate, key)],
            (None, Some(_)) => vec![(key, certificate)],
            _ => Vec::new(),
        }
    }

    /// What is said twice is meant once.
    fn tidy(&mut self) {
        self.interfaces.sort();
        self.interfaces.dedup();
        self.capture.ports.sort_unstable();
        self.capture.ports.dedup();
    }
}

/// As the kernel allows them.
fn is_interface(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && ![".", ".."].contains(&name)
        && !name.contains(|it: char| it == '/' || it == ':' || it.is_whitespace())
}

/// As the API wants it.
fn is_origin(origin: &str) -> bool {
    origin.parse::<Origin>().is_ok()
}

/// Where an API may be: an origin, and maybe a path that a proxy put before it.
fn is_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    // Whoever asks may write it in capitals, other than a browser.
    is_origin(&format!("{scheme}://{host}").to_ascii_lowercase())
        && !rest.contains(|it: char| it == '?' || it == '#' || it.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert_eq!(Config::default().check(), [""; 0]);
        assert_eq!(Config::default().check_together(), []);
    }

    #[test]
    fn tokens_lie_with_the_data_unless_they_are_placed() {
        let mut config = Config::default();
        assert_eq!(
            config.tokens_file(),
            Path::new("/var/lib/ntpmon/tokens.toml")
        );
        config.data_dir = "/srv/ntpmon".into();
        assert_eq!(config.tokens_file(), Path::new("/srv/ntpmon/tokens.toml"));
        config.api.tokens_file = Some("/etc/ntpmon/tokens".into());
        assert_eq!(config.tokens_file(), Path::new("/etc/ntpmon/tokens"));
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host_and_a_url_may_have_a_path() {
        for origin in [
            "https://ntp.example",
            "http://localhost:3000",
            "http://[::1]:80",
        ] {
            assert!(is_origin(origin), "{origin}");
            assert!(is_url(origin), "{origin}");
        }
        for origin in [
            "*",
            "ntp.example",
            "https://",
            "https://a/b",
            "https://a@b",
            "https://A",
            "http://[:",
            "ftp://a",
        ] {
            assert!(!is_origin(origin), "{origin}");
        }
        assert!(is_url("https://ntp.example/monitor"));
        assert!(is_url("http://NAS:8000"));
        for url in [
            "127.0.0.1:8000",
            "http://",
            "http:///a",
            "http://a/?b",
            "http://a b",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }

    #[test]
    fn an_interface_is_named_as_the_kernel_allows() {
        for name in ["eth0", "enp0s31f6.4000", "wg-home", "br_0", "bond0.7"] {
            assert!(is_interface(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "eth 0", "eth0:1", "abcdefghijklmnop"] {
            assert!(!is_interface(name), "{name}");
        }
    }
}
