//! What the daemon tells Prometheus and OpenTelemetry, read by others: promtool, Prometheus' own
//! parsers, a real Prometheus with the configuration that we give away, and a receiver of OTLP.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

mod deploy;
mod otlp;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ntpmon::metrics::{Kind, collectors::families};
use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    daemons::Chronyd,
    frames::{Ethernet, RawSocket, datagram, frame},
    grandmaster::{Announced, Grandmaster},
    honest::HonestClient,
    liar::Liar,
    namespace::Pair,
    packages::Packages,
    process::{run, wait_for},
    watch::binary,
};

const DEVICE: &str = Pair::DEVICE;
const PATIENCE: Duration = Duration::from_secs(30);
const LISTEN: &str = "127.0.0.1:8000";
const OPEN: &str = "Accept: application/openmetrics-text; version=1.0.0";

/// A server that is asked, and lies. Not at NTP's port, so that nobody sees it in passing.
const LIAR: &str = "10.0.0.1:1123";
/// A client that says what time it has, and where it asks at the daemon's host: of whom this host serves
/// the clock is known.
const HONEST: &str = "10.0.0.77";
const SERVING: &str = "10.0.0.3";
/// How far both are ahead, in nanoseconds.
const AHEAD: i64 = 300_000_000;
/// How far the one that is asked says to be from its reference clock: delay and dispersion, in seconds.
const ROOT: [f64; 2] = [0.0625, 0.03125];
/// Bytes of a control packet, and of what comes back.
const CONTROL: [usize; 2] = [12, 480];
/// Bytes of a packet that asks for the list of clients, which nobody answers.
const MONLIST: usize = 8;
const ANNOUNCED: Announced = Announced {
    domain: 24,
    class: 6,
    accuracy: 0x21,
    steps_removed: 1,
    utc_offset: 37,
    correction: 2_000,
    delay_correction: 3_000,
    priorities: [100, 200],
    variance: 20_061,
};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new(
        Packages::get()
            .unwrap()
            .file("prometheus", "usr/bin/promtool"),
    );
    command.args(arguments);
    command
}

/// A daemon at a host whose chronyd asks another, with a token, an output file, a server that it asks
/// itself, somebody to tell that this one lies, and a master of PTP.
struct Play {
    pair: Pair,
    home: Home,
    daemon: Option<Daemon>,
    token: String,
    _server: Chronyd,
    _client: Chronyd,
    _liar: Liar,
    _serving: Liar,
    _grandmaster: Grandmaster,
}

impl Play {
    fn start(configuration: &str) -> Self {
        let (pair, home) = (Pair::new().unwrap(), Home::new().unwrap());
        let output = home.path("output");
        fs::create_dir(&output).unwrap();
        let configuration = format!(
            "history.flush_interval_seconds = 0.2\napi.tokens_file = {:?}\n\
             capture.output_dir = {output:?}\ncapture.ptp = true\n{configuration}\n\
             [[check]]\nname = 'liar'\nserver = '{LIAR}'\ninterval_seconds = 6\nsamples = 2\n\
             timeout_seconds = 0.5\n\
             [alert]\ndefault_rules = false\n\
             [[alert.rule]]\nname = 'lies'\nquantity = 'check_offset'\ngrace_seconds = 0\n\
             [[alert.sink]]\nname = 'journal'\nkind = 'log'\n",
            home.path("tokens.toml"),
        );
        home.configure(&configuration).unwrap();
        let mut create = Command::new(binary().unwrap());
        create.args(["token", "create", "prometheus", "--scope", "read"]);
        let token = run(create.arg("--config").arg(home.path("ntpmon.toml"))).unwrap();
        let mut create = Command::new(binary().unwrap());
        create.args(["token", "create", "keeper", "--scope", "admin"]);
        let admin = run(create.arg("--config").arg(home.path("ntpmon.toml"))).unwrap();
        let server = Chronyd::server(&pair.server, &[]).unwrap();
        let line = format!("server {} minpoll -4 maxpoll -4 noselect", Pair::SERVER);
        let client = Chronyd::start(&pair.client, &[&line]).unwrap();
        let liar = Liar::start_at(&pair.server, LIAR.parse().unwrap()).unwrap();
        liar.be(|it| (it.ahead, it.root) = (AHEAD, ROOT));
        let serving = SERVING.parse().unwrap();
        pair.client.address(DEVICE, serving, 24).unwrap();
        let serving = Liar::start(&pair.client, serving).unwrap();
        let [master, slave] = [Pair::SERVER, Pair::CLIENT].map(|it| it.parse().unwrap());
        let grandmaster =
            Grandmaster::start((&pair.server, master), (&pair.client, slave), ANNOUNCED);
        let mut play = Self {
            pair,
            home,
            daemon: None,
            token: token.trim().to_owned(),
            _server: server,
            _client: client,
            _liar: liar,
            _serving: serving,
            _grandmaster: grandmaster.unwrap(),
        };
        play.start_daemon();
        play.ask_honestly();
        play.ask_for_control();
        let api = play.api().with_token(admin.trim());
        let path = format!("/api/ntp/interfaces/{DEVICE}/start");
        let answer = api.post_json(&path, r#"{"output_file": "exchanges.ndjson"}"#);
        answer.unwrap().success().unwrap();
        play
    }

    fn ask_honestly(&self) {
        let address = HONEST.parse().unwrap();
        let host = &self.pair.server;
        host.address(DEVICE, address, 24).unwrap();
        let client = HonestClient {
            address,
            ahead: AHEAD,
            repeats: true,
        };
        let server = format!("{SERVING}:123").parse().unwrap();
        let interval = Duration::from_millis(50);
        client.ask(host, server, 12, interval).unwrap();
    }

    /// One packet in mode 6, and an answer, which chronyd does not give; and one in mode 7.
    fn ask_for_control(&self) {
        let [host, other] = [&self.pair.client, &self.pair.server];
        let server: SocketAddr = format!("{}:123", Pair::SERVER).parse().unwrap();
        let [mut question, mut answer] = CONTROL.map(|length| vec![0; length]);
        (question[0], question[1]) = (0x16, 0x02);
        (answer[0], answer[1]) = (0x16, 0x82);
        let socket = host.enter(|| Ok(UdpSocket::bind((Pair::CLIENT, 0))?));
        let socket = socket.unwrap();
        socket.send_to(&question, server).unwrap();
        let monlist = [0x17, 0, 3, 42, 0, 0, 0, 0];
        assert_eq!(monlist.len(), MONLIST);
        socket.send_to(&monlist, server).unwrap();
        let raw = RawSocket::open(other, DEVICE).unwrap();
        let ethernet = Ethernet {
            source: raw.address,
            destination: RawSocket::open(host, DEVICE).unwrap().address,
        };
        let client = socket.local_addr().unwrap();
        let packet = datagram(server, client, &answer).unwrap();
        raw.send(&frame(ethernet, &[], &packet)).unwrap();
    }

    fn start_daemon(&mut self) {
        let mut command = self
            .home
            .command_watching(&self.pair.client, &[], LISTEN, &[DEVICE])
            .unwrap();
        self.daemon = Some(self.home.start(&mut command).unwrap());
    }

    fn api(&self) -> Api<'_> {
        let api = Api::of(self.daemon.as_ref().unwrap(), &self.pair.client).unwrap();
        api.with_token(&self.token)
    }

    fn metrics(&self, arguments: &[&str]) -> String {
        let answer = self.api().curl("/metrics", arguments).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Until every family has samples but these.
    fn until_all_but(&self, missing: &[&str]) -> String {
        let known: BTreeSet<String> = families().map(|family| family.name.to_owned()).collect();
        let mut left = Vec::new();
        let text = wait_for("samples of every family", PATIENCE, || {
            let text = self.metrics(&[]);
            left = known.difference(&told(&text)).cloned().collect();
            Ok((left == missing).then_some(text))
        });
        text.unwrap_or_else(|error| panic!("{error:#}: {left:?} are missing"))
    }

    /// Until so many exchanges are told.
    fn until(&self, count: f64) -> String {
        let series =
            format!("ntpmon_exchanges_total{{interface=\"{DEVICE}\",result=\"answered\"}}");
        wait_for("exchanges in the metrics", PATIENCE, || {
            let text = self.metrics(&[]);
            let known = samples(&text).get(&series).copied();
            Ok(known.filter(|known| *known >= count).map(|_| text))
        })
        .unwrap()
    }
}

/// The samples of a text, by what stands before their value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
    samples
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The names of the families in a text.
fn told(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

/// The names that series may have.
fn names() -> BTreeSet<String> {
    let names = families().flat_map(|family| match family.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .map(|end| format!("{}{end}", family.name))
            .to_vec(),
        _ => vec![family.name.to_owned()],
    });
    names.collect()
}

/// A program of Python that reads with Prometheus' own parsers, and prints how many families there
/// are and the sum of all values of counters.
const PARSERS: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
for parse, path in ((prometheus, sys.argv[1]), (open_metrics, sys.argv[2])):
    names = set()
    for family in parse(open(path).read()):
        kinds = ("counter", "gauge", "histogram", "info")
        assert family.type in kinds and family.documentation, family
        assert family.samples, family
        names.add(family.name.removesuffix("_info"))
    print(" ".join(sorted(names)))
"#;

#[test]
fn all_that_is_told_is_understood_by_others_and_is_what_the_api_says() {
    let receiver = "[otlp]\nendpoint = 'http://127.0.0.1:9'\n";
    let mut play = Play::start(receiver);
    play.until(20.0);

    // Every family of the code has samples here, so each is looked at by what follows. Nobody answers
    // at that port.
    let missing = ["ntpmon_otlp_last_success_timestamp_seconds"];
    let text = play.until_all_but(&missing);
    let known: BTreeSet<String> = families().map(|family| family.name.to_owned()).collect();
    assert!(told(&text).is_subset(&known));

    let plain = play.home.path("metrics.txt");
    fs::write(&plain, &text).unwrap();
    let check = promtool(&["check", "metrics"])
        .stdin(fs::File::open(&plain).unwrap())
        .output()
        .unwrap();
    let complaints = [check.stdout, check.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    assert!(
        check.status.success() && complaints.trim().is_empty(),
        "{complaints}"
    );

    let open = play.home.path("metrics.openmetrics");
    fs::write(&open, play.metrics(&["--header", OPEN])).unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", Packages::get().unwrap().prometheus_client());
    let parsed = run(python.args(["-c", PARSERS]).arg(&plain).arg(&open)).unwrap();
    let parsed: Vec<BTreeSet<&str>> = parsed
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    let bases: BTreeSet<&str> = families()
        .filter(|family| !missing.contains(&family.name))
        .map(|family| family.base())
        .collect();
    assert_eq!(parsed, [bases.clone(), bases]);

    // No client, and no value that nobody knows.
    assert!(
        [Pair::CLIENT, HONEST, "NaN"]
            .iter()
            .all(|it| !text.contains(it)),
        "{text}"
    );
    let values = samples(&text);
    let servers = play.api().get("/api/ntp/history/servers").unwrap();
    let servers = servers.success().unwrap()["data"].clone();
    let mut servers = servers.as_array().unwrap().iter();
    let server = servers.find(|it| it["server_ip"] == Pair::SERVER).unwrap();
    let labels = format!("{{server=\"{}\",interface=\"{DEVICE}\"}}", Pair::SERVER);
    for (family, field) in [
        ("ntpmon_server_stratum", "stratum"),
        ("ntpmon_server_leap_indicator", "leap_indicator"),
        ("ntpmon_server_root_dispersion_seconds", "root_dispersion"),
    ] {
        let value = values[&format!("{family}{labels}")];
        assert!(
            (value - server[field].as_f64().unwrap()).abs() < 0.001,
            "{family}: {value}"
        );
    }
    let offset = values[&format!("ntpmon_server_offset_median_seconds{labels}")];
    assert!(
        offset.abs() < 0.01,
        "the same clock on both sides: {offset}"
    );
    assert!(values[&format!("ntpmon_interface_up{{interface=\"{DEVICE}\"}}")] == 1.0);
    assert_eq!(values["ntpmon_component_healthy{component=\"otlp\"}"], 0.0);

    assert_others_are_told(&play);

    // Killed, it goes on where it was told to be, at least.
    let counters = |text: &str| -> BTreeMap<String, f64> {
        let lasting = [
            "ntpmon_exchanges_",
            "ntpmon_packets_",
            "ntpmon_total_process_time_",
            "ntpmon_abuse_",
        ];
        samples(text)
            .into_iter()
            .filter(|(series, _)| lasting.iter().any(|start| series.starts_with(start)))
            .collect()
    };
    let before = counters(&play.metrics(&[]));
    play.daemon.take().unwrap().kill().unwrap();
    play.start_daemon();
    let after = counters(&play.metrics(&[]));
    for (series, value) in &before {
        assert!(
            after[series] >= *value,
            "{series}: {} after {value}",
            after[series]
        );
    }
    let answered = format!("ntpmon_exchanges_total{{interface=\"{DEVICE}\",result=\"answered\"}}");
    play.until(before[&answered] + 10.0);
}

/// The server that is asked, the alert on it, the client with a clock of its own, the control packet,
/// and the master of PTP: each as it was made.
fn assert_others_are_told(play: &Play) {
    let check = format!(
        "{{check=\"liar\",server=\"{LIAR}\",address=\"{}\"}}",
        Pair::SERVER
    );
    let domain = format!(
        "{{interface=\"{DEVICE}\",domain=\"{}\",sdo_id=\"0\",transport=\"udp_ipv4\",vlan=\"\"}}",
        ANNOUNCED.domain
    );
    let ahead = AHEAD as f64 / 1e9;
    let abuse = |what: &str, mode: &str, direction: &str| {
        format!("ntpmon_abuse_{what}_total{{mode=\"{mode}\",direction=\"{direction}\"}}")
    };
    let firing =
        |severity: &str| format!("ntpmon_alerts_firing{{rule=\"lies\",severity=\"{severity}\"}}");
    let kisses = |code: &str| format!("ntpmon_check_kiss_of_death_total{{code=\"{code}\"}}");
    // How close, where it is measured.
    let expected = [
        ("ntpmon_checks".to_owned(), 1.0, 0.0),
        (format!("ntpmon_check_success{check}"), 1.0, 0.0),
        (format!("ntpmon_check_reach_ratio{check}"), 1.0, 0.0),
        (format!("ntpmon_check_offset_seconds{check}"), ahead, 0.01),
        (format!("ntpmon_check_stratum{check}"), 2.0, 0.0),
        (format!("ntpmon_check_leap_indicator{check}"), 0.0, 0.0),
        (format!("ntpmon_check_interval_seconds{check}"), 6.0, 0.0),
        (format!("ntpmon_check_stopped{check}"), 0.0, 0.0),
        (
            format!("ntpmon_check_root_delay_seconds{check}"),
            ROOT[0],
            1e-4,
        ),
        (
            format!("ntpmon_check_root_dispersion_seconds{check}"),
            ROOT[1],
            1e-4,
        ),
        (
            format!("ntpmon_check_root_distance_seconds{check}"),
            ROOT[0] / 2.0 + ROOT[1],
            0.01,
        ),
        (
            "ntpmon_check_rounds_total{status=\"timeout\"}".to_owned(),
            0.0,
            0.0,
        ),
        (kisses("RATE"), 0.0, 0.0),
        (kisses("other"), 0.0, 0.0),
        (firing("warn"), 0.0, 0.0),
        (firing("critical"), 1.0, 0.0),
        (
            "ntpmon_alerts_fired_total{rule=\"lies\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_alerts_resolved_total{rule=\"lies\"}".to_owned(),
            0.0,
            0.0,
        ),
        ("ntpmon_alert_rules_left_out".to_owned(), 0.0, 0.0),
        ("ntpmon_alerts{state=\"firing\"}".to_owned(), 1.0, 0.0),
        ("ntpmon_alerts{state=\"pending\"}".to_owned(), 0.0, 0.0),
        (
            "ntpmon_alert_sink_up{sink=\"journal\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_alert_sink_waiting{sink=\"journal\"}".to_owned(),
            0.0,
            0.0,
        ),
        (
            "ntpmon_alert_sink_messages_total{sink=\"journal\",result=\"delivered\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_clients_by_clock{clock=\"honest\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_clients_by_clock{clock=\"randomised\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_clients_by_clock_error{class=\"1\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_clients_by_clock_error{class=\"more\"}".to_owned(),
            0.0,
            0.0,
        ),
        (
            "ntpmon_client_worst_clock_error_seconds".to_owned(),
            ahead,
            0.01,
        ),
        (abuse("packets", "control", "in"), 1.0, 0.0),
        (abuse("packets", "control", "out"), 1.0, 0.0),
        (abuse("packets", "private", "in"), 1.0, 0.0),
        (abuse("packets", "private", "out"), 0.0, 0.0),
        (abuse("bytes", "control", "in"), CONTROL[0] as f64, 0.0),
        (abuse("bytes", "control", "out"), CONTROL[1] as f64, 0.0),
        (abuse("bytes", "private", "in"), MONLIST as f64, 0.0),
        (abuse("bytes", "private", "out"), 0.0, 0.0),
        ("ntpmon_abuse_monlist_requests_total".to_owned(), 1.0, 0.0),
        (
            "ntpmon_amplification_ratio".to_owned(),
            CONTROL[1] as f64 / (CONTROL[0] + MONLIST) as f64,
            1e-9,
        ),
        (format!("ntpmon_ptp_announcing_masters{domain}"), 1.0, 0.0),
        (format!("ntpmon_ptp_masters{domain}"), 1.0, 0.0),
        (format!("ntpmon_ptp_master_changes_total{domain}"), 0.0, 0.0),
        (
            format!("ntpmon_ptp_grandmaster_clock_class{domain}"),
            f64::from(ANNOUNCED.class),
            0.0,
        ),
        (
            format!("ntpmon_ptp_grandmaster_accuracy_seconds{domain}"),
            100e-9,
            1e-15,
        ),
        (
            format!("ntpmon_ptp_master_steps_removed{domain}"),
            f64::from(ANNOUNCED.steps_removed),
            0.0,
        ),
        (
            format!("ntpmon_ptp_utc_offset_seconds{domain}"),
            f64::from(ANNOUNCED.utc_offset),
            0.0,
        ),
        (
            format!("ntpmon_ptp_sync_correction_mean_seconds{domain}"),
            ANNOUNCED.correction as f64 / 1e9,
            1e-12,
        ),
        (
            format!("ntpmon_ptp_delay_correction_mean_seconds{domain}"),
            ANNOUNCED.delay_correction as f64 / 1e9,
            1e-12,
        ),
        (
            format!("ntpmon_ptp_grandmaster_priority1{domain}"),
            f64::from(ANNOUNCED.priorities[0]),
            0.0,
        ),
        (
            format!("ntpmon_ptp_grandmaster_priority2{domain}"),
            f64::from(ANNOUNCED.priorities[1]),
            0.0,
        ),
        (
            format!("ntpmon_ptp_grandmaster_scaled_log_variance{domain}"),
            f64::from(ANNOUNCED.variance),
            0.0,
        ),
        (
            format!("ntpmon_ptp_missing_follow_ups_total{domain}"),
            0.0,
            0.0,
        ),
    ];
    let mut wrong = Vec::new();
    // The message is on its way when the alert is told.
    let told = wait_for("what was made to be told", PATIENCE, || {
        let values = samples(&play.metrics(&[]));
        let differs = |(series, value, close): &&(String, f64, f64)| {
            let told = values.get(series);
            told.is_none_or(|told| (told - value).abs() > *close)
        };
        let them = expected.iter().filter(differs);
        wrong = them
            .map(|(series, value, _)| format!("{series} is {:?}, not {value}", values.get(series)))
            .collect();
        Ok(wrong.is_empty().then_some(()))
    });
    told.unwrap_or_else(|error| panic!("{error:#}: {wrong:#?}"));
}
