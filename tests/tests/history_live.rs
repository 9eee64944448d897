//! Real NTP daemons, remembered by a daemon at each end, and asked for over the API: what it
//! counts is what chrony counts, also when it was killed in between, and a capture of the same
//! packets makes the same history.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::time::Duration;

use ntpmon_tests::{
    api::Api,
    chrony::Measurement,
    daemon::{Daemon, Home},
    daemons::Chronyd,
    namespace::{Namespace, Pair, folder},
    ntpmon,
    process::wait_for,
    tcpdump::{self, Tcpdump},
};
use serde_json::Value;

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(30);
const CONFIGURATION: &str = "history.flush_interval_seconds = 0.2\n";
/// Polls before the daemon is killed, and polls in all.
const BEFORE: u64 = 40;
const POLLS: u64 = 120;
/// How far the median offset may be from chrony's own.
const CLOSE: f64 = 50e-6;
/// What a client's record says of the last packet, and what was counted: the same for every observer.
const SAME: [&str; 24] = [
    "client_ip",
    "client_port",
    "server_ip",
    "server_port",
    "interface_name",
    "ntp_version",
    "stratum",
    "precision",
    "root_delay",
    "root_dispersion",
    "reference_id",
    "leap_indicator",
    "poll_interval",
    "reference_timestamp",
    "originate_timestamp",
    "receive_timestamp",
    "transmit_timestamp",
    "packet_length",
    "session_count",
    "requests",
    "unanswered",
    "duplicates",
    "kiss_of_death",
    "versions_seen",
];

/// A daemon at a host, which is started again as it was.
struct Observer<'a> {
    host: &'a Namespace,
    home: Home,
    daemon: Option<Daemon>,
}

impl<'a> Observer<'a> {
    fn start(host: &'a Namespace, interfaces: &[&str]) -> Self {
        let home = Home::new().unwrap();
        home.configure(CONFIGURATION).unwrap();
        let mut observer = Self {
            host,
            home,
            daemon: None,
        };
        observer.start_again(interfaces);
        observer
    }

    fn start_again(&mut self, interfaces: &[&str]) {
        let (home, listen) = (&self.home, "127.0.0.1:0");
        let mut command = home
            .command_watching(self.host, &[], listen, interfaces)
            .unwrap();
        self.daemon = Some(home.start(&mut command).unwrap());
    }

    fn kill(&mut self) {
        self.daemon.take().unwrap().kill().unwrap();
    }

    fn end(&mut self) {
        let ended = self.daemon.take().unwrap().end(libc::SIGTERM).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }

    /// What the history says to a question.
    fn ask(&self, path: &str) -> Value {
        let api = Api::of(self.daemon.as_ref().unwrap(), self.host).unwrap();
        let answer = api.get(&format!("/api/ntp/history/{path}")).unwrap();
        answer.success().unwrap()["data"].clone()
    }

    fn exchanges(&self) -> u64 {
        let statistics = self.ask("interfaces/statistics");
        let mut statistics = statistics.as_array().unwrap().iter();
        let device = statistics.find(|it| it["interface_name"] == DEVICE);
        device.map_or(0, |it| it["session_count"].as_u64().unwrap())
    }

    fn wait_for_exchanges(&self, count: u64) {
        wait_for("all to be remembered", PATIENCE, || {
            Ok((self.exchanges() >= count).then_some(()))
        })
        .unwrap();
    }

    /// The only client's record.
    fn client(&self) -> Value {
        let clients = self.ask("clients");
        assert_eq!(clients.as_array().unwrap().len(), 1, "{clients}");
        clients[0].clone()
    }

    /// All that there is to ask says the same number.
    fn assert_counts(&self, count: u64) {
        let client = self.client();
        assert_eq!(client["client_ip"], Pair::CLIENT);
        assert_eq!(
            (&client["session_count"], &client["requests"]),
            (&count.into(), &count.into())
        );
        assert_eq!(client["unanswered"], 0);
        let detail = self.ask(&format!("clients/{}", Pair::CLIENT));
        assert_eq!(detail["interfaces"][0], client);
        let sessions = detail["recent_sessions"].as_array().unwrap();
        assert_eq!(sessions.len() as u64, count.min(100));
        assert!(sessions.iter().all(|it| it["answered"] == true));
        let sum = |items: &Value, of: &dyn Fn(&Value) -> u64| -> u64 {
            items.as_array().unwrap().iter().map(of).sum()
        };
        let hours = &detail["hourly_activity"];
        assert_eq!(
            sum(hours, &|it| it["session_count"].as_u64().unwrap()),
            count
        );
        for resolution in ["minute", "hour", "day"] {
            let query = format!("rollups?interface_name={DEVICE}&resolution={resolution}");
            let rollups = self.ask(&query);
            for name in ["exchanges", "answered", "requests", "responses"] {
                let of = |it: &Value| it["counts"][name].as_u64().unwrap();
                assert_eq!(sum(&rollups, &of), count, "{name} in each {resolution}");
            }
            let of = |it: &Value| it["total_process_time"]["count"].as_u64().unwrap();
            assert_eq!(sum(&rollups, &of), count, "timed in each {resolution}");
        }
        let statistics = self.ask("interfaces/statistics");
        let mut statistics = statistics.as_array().unwrap().iter();
        let device = statistics
            .find(|it| it["interface_name"] == DEVICE)
            .unwrap();
        assert_eq!(device["client_count"], 1);
        for (name, key) in [("strata", "3"), ("versions", "4"), ("modes", "3")] {
            assert_eq!(device[name][key], count, "{name}");
        }
        let servers = self.ask("servers");
        assert_eq!(servers.as_array().unwrap().len(), 1, "{servers}");
        let server = &servers[0];
        assert_eq!(server["server_ip"], Pair::SERVER);
        assert_eq!(
            (&server["session_count"], &server["answered"]),
            (&count.into(), &count.into())
        );
        assert_eq!(self.ask(&format!("servers/{}", Pair::SERVER))[0], *server);
    }

    /// What the packets say is what chrony was told to say.
    fn assert_fields(&self, role: &str) {
        let expected: [(&str, Value); 9] = [
            ("server_ip", Pair::SERVER.into()),
            ("server_port", 123.into()),
            ("ntp_version", 4.into()),
            ("stratum", 3.into()),
            // chrony's local clock: 127.127.1.1.
            ("reference_id", "127.127.1.1".into()),
            ("leap_indicator", 0.into()),
            ("poll_interval", (-4).into()),
            ("versions_seen", [4].as_slice().into()),
            ("role", role.into()),
        ];
        let (client, servers) = (self.client(), self.ask("servers"));
        for (name, value) in expected {
            assert_eq!(client[name], value, "{name}");
        }
        for name in ["stratum", "reference_id", "leap_indicator", "server_port"] {
            assert_eq!(servers[0][name], client[name], "{name}");
        }
    }
}

/// A chronyd that asks 16 times a second, and one that answers.
struct Play {
    server: Chronyd,
    client: Chronyd,
}

impl Play {
    fn start(pair: &Pair) -> Self {
        let server = Chronyd::server(&pair.server, &[]).unwrap();
        let line = format!("server {} minpoll -4 maxpoll -4 noselect", Pair::SERVER);
        let client = Chronyd::start(&pair.client, &[&line]).unwrap();
        Self { server, client }
    }

    /// Until so many were answered; nothing is on its way when this returns. The number there is.
    fn until(&self, count: u64) -> u64 {
        self.server.wait_for_requests(count, PATIENCE).unwrap();
        self.client.stop_asking().unwrap();
        let statistics = self.server.server_statistics().unwrap();
        assert_eq!(statistics.dropped, 0);
        statistics.received
    }

    fn go_on(&self) {
        self.client.tell(&["online"]).unwrap();
    }
}

fn median_offset(measurements: &[Measurement]) -> f64 {
    let mut offsets: Vec<f64> = measurements.iter().map(|it| it.offset).collect();
    offsets.sort_by(f64::total_cmp);
    offsets[offsets.len() / 2]
}

#[test]
fn what_is_remembered_is_what_chrony_counts() {
    let pair = Pair::new().unwrap();
    let folder = folder().unwrap();
    let file = folder.path().join("all.pcap");
    let mut at_server = Observer::start(&pair.server, &[DEVICE]);
    let mut at_client = Observer::start(&pair.client, &[DEVICE]);
    let tcpdump = Tcpdump::start(&pair.server, DEVICE, tcpdump::NTP, &file).unwrap();

    let mut play = Play::start(&pair);
    let first = play.until(BEFORE);
    at_server.wait_for_exchanges(first);
    at_server.assert_counts(first);
    at_server.kill();
    at_server.start_again(&[DEVICE]);
    assert_eq!(at_server.exchanges(), first, "it was all written");
    play.go_on();
    let count = play.until(POLLS);
    for observer in [&at_server, &at_client] {
        observer.wait_for_exchanges(count);
        observer.assert_counts(count);
    }
    at_server.assert_fields("server");
    at_client.assert_fields("client");

    // The client's own measurements: what it logged is what was seen at its host.
    play.client.stop().unwrap();
    let measurements = play.client.measurements().unwrap();
    assert!(measurements.len() as u64 <= count && measurements.len() as u64 + 2 >= count);
    let server = &at_client.ask("servers")[0];
    let offset = server["offset_median_seconds"].as_f64().unwrap();
    let chronys = median_offset(&measurements);
    assert!((offset - chronys).abs() < CLOSE, "{offset} and {chronys}");
    let clients = play.server.clients().unwrap();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients[0].received, count);

    // The same packets from a file make the same history.
    let live = at_server.client();
    tcpdump.stop().unwrap();
    at_server.end();
    at_client.end();
    let mut replayed = Observer::start(&pair.server, &["lo"]);
    replayed.end();
    let data = replayed.home.data();
    let arguments = ["replay", "--into"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([data.as_os_str()]);
    let arguments = arguments.chain(["--interface", DEVICE].map(AsRef::as_ref));
    let ended = ntpmon::run(arguments.chain([file.as_os_str()])).unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    replayed.start_again(&["lo"]);
    replayed.assert_counts(count);
    let client = replayed.client();
    for name in SAME {
        assert_eq!(client[name], live[name], "{name}");
    }
    // Each has its own clock for when a packet passed.
    for name in [
        "total_process_time_median_seconds",
        "server_processing_time_median_seconds",
    ] {
        let (one, other) = (&client[name], &live[name]);
        let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
        assert!((one - other).abs() < CLOSE, "{name}: {one} and {other}");
    }
}
