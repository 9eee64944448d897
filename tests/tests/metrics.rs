//! What the daemon tells Prometheus and OpenTelemetry, read by others: promtool, Prometheus' own
//! parsers, a real Prometheus with the configuration that we give away, and a receiver of OTLP.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
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
    namespace::{Namespace, Pair},
    packages::Packages,
    process::{Process, run, wait_for},
    watch::binary,
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    },
    metrics::v1::{AggregationTemporality, Metric, metric::Data},
};
use prost::Message;
use serde_json::Value;

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
/// Bytes of a control packet, and of what comes back.
const CONTROL: [usize; 2] = [12, 480];
const ANNOUNCED: Announced = Announced {
    domain: 24,
    class: 6,
    accuracy: 0x21,
    steps_removed: 1,
    utc_offset: 37,
    correction: 2_000,
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
        liar.be(|it| it.ahead = AHEAD);
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

    /// One packet in mode 6, and an answer, which chronyd does not give.
    fn ask_for_control(&self) {
        let [host, other] = [&self.pair.client, &self.pair.server];
        let server: SocketAddr = format!("{}:123", Pair::SERVER).parse().unwrap();
        let [mut question, mut answer] = CONTROL.map(|length| vec![0; length]);
        (question[0], question[1]) = (0x16, 0x02);
        (answer[0], answer[1]) = (0x16, 0x82);
        let socket = host.enter(|| Ok(UdpSocket::bind((Pair::CLIENT, 0))?));
        let socket = socket.unwrap();
        socket.send_to(&question, server).unwrap();
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
        (
            "ntpmon_abuse_packets_total{direction=\"in\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_abuse_packets_total{direction=\"out\"}".to_owned(),
            1.0,
            0.0,
        ),
        (
            "ntpmon_abuse_bytes_total{direction=\"in\"}".to_owned(),
            CONTROL[0] as f64,
            0.0,
        ),
        (
            "ntpmon_abuse_bytes_total{direction=\"out\"}".to_owned(),
            CONTROL[1] as f64,
            0.0,
        ),
        (
            "ntpmon_amplification_ratio".to_owned(),
            CONTROL[1] as f64 / CONTROL[0] as f64,
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

/// A real Prometheus, with the configuration that we give away: only the place of the token and the
/// pace are others.
fn prometheus(play: &Play) -> Process {
    let token = play.home.path("ntpmon.token");
    fs::write(&token, &play.token).unwrap();
    let configuration = read("prometheus/prometheus.yml")
        .replace("/etc/prometheus/ntpmon.token", token.to_str().unwrap())
        .replace("interval: 15s", "interval: 1s")
        .replace("timeout: 5s", "timeout: 1s");
    let file = play.home.path("prometheus.yml");
    fs::write(&file, configuration).unwrap();
    fs::copy(
        deploy("prometheus/alerts.yml"),
        play.home.path("alerts.yml"),
    )
    .unwrap();
    run(promtool(&["check", "config"]).arg(&file)).unwrap();
    let program = Packages::get().unwrap();
    let program = program.file("prometheus", "usr/bin/prometheus");
    let mut command = play.pair.client.command(program);
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            play.home.path("tsdb").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9090");
    Process::start(&mut command).unwrap()
}

/// What Prometheus says to a question.
fn ask(host: &Namespace, path: &str, query: &str) -> anyhow::Result<Value> {
    let url = format!("http://127.0.0.1:9090/api/v1/{path}");
    let query = format!("query={query}");
    let arguments = [
        "--silent",
        "--fail",
        "--get",
        "--data-urlencode",
        &query,
        &url,
    ];
    let answer: Value = serde_json::from_str(&host.run("curl", arguments)?)?;
    anyhow::ensure!(answer["status"] == "success", "{answer}");
    Ok(answer["data"].clone())
}

#[test]
fn prometheus_scrapes_with_the_configuration_that_we_give_away() {
    let play = Play::start("");
    let mut prometheus = prometheus(&play);
    let host = &play.pair.client;
    let value = |query: &str| -> f64 {
        wait_for(query, PATIENCE, || {
            let found = ask(host, "query", query)?;
            let value = found["result"][0]["value"][1].as_str();
            Ok(value.map(|value| value.parse().unwrap()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", prometheus_said(&play)))
    };
    assert_eq!(value("up{job=\"ntpmon\"} == 1"), 1.0);
    assert!(value("sum(ntpmon_exchanges_total{result=\"answered\"}) > 20") > 20.0);
    assert!(value("rate(ntpmon_exchanges_total{result=\"answered\"}[5s]) > 5") > 5.0);
    let stratum = format!("ntpmon_server_stratum{{server=\"{}\"}}", Pair::SERVER);
    assert!(value(&stratum) == 3.0);
    let quantile = "histogram_quantile(0.5, rate(ntpmon_total_process_time_seconds_bucket[10s]))";
    assert!((1e-6..1.0).contains(&value(&format!("{quantile} > 0"))));
    // Only OpenMetrics says since when something is counted, and in what it is measured.
    assert!(value("ntpmon_interface_packets_created{result=\"emitted\"}") > 1e9);
    let metadata = ask(host, "metadata", "").unwrap();
    let unit = &metadata["ntpmon_total_process_time_seconds"][0];
    assert_eq!(
        (&unit["type"], &unit["unit"]),
        (&"histogram".into(), &"seconds".into())
    );

    // The rules run, and of a daemon that is well none fires.
    let rules = ask(host, "rules", "").unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let all: Vec<&Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(all.len() > 45, "{rules}");
    thread::sleep(Duration::from_secs(2));
    let rules = ask(host, "rules", "").unwrap();
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
            assert_ne!(rule["state"], "firing", "{rule}");
        }
    }
    assert_every_question_is_answered(host);
    prometheus.stop().unwrap();
}

/// Questions of the dashboard to which there is no answer where all is well and nothing is exported.
const WITHOUT_ANSWER: [&str; 4] = [
    "Packets that are no NTP, by reason",
    "Events",
    "Alerts",
    "Starts of the daemon",
];

/// Every panel has something to show, with the labels that its legend names.
fn assert_every_question_is_answered(host: &Namespace) {
    let mut left: Vec<Question> = questions();
    left.retain(|it| {
        let is_filtered = it.text.ends_with("> 0") || it.text.starts_with("ALERTS");
        assert!(
            !is_filtered || WITHOUT_ANSWER.contains(&&*it.panel),
            "{}",
            it.panel
        );
        !is_filtered && !it.text.contains("ntpmon_otlp_")
    });
    assert!(left.len() > 120, "{}", left.len());
    let answered = wait_for("every panel to have something to show", PATIENCE, || {
        let mut silent = Vec::new();
        for question in left.drain(..) {
            // A mistake in it, such as two series that match one, is an error.
            let found = ask(host, "query", &question.text)?;
            let series = found["result"].as_array().unwrap();
            let label = |series: &Value, name: &str| series["metric"][name].as_str().is_some();
            for name in &question.legend {
                // An empty one is none to Prometheus.
                let is_told = name == "vlan" || series.iter().all(|it| label(it, name));
                assert!(is_told, "{}: no {name} in {found}", question.panel);
            }
            if series.is_empty() {
                silent.push(question);
            }
        }
        left = silent;
        Ok(left.is_empty().then_some(()))
    });
    let silent: Vec<_> = left.iter().map(|it| (&it.panel, &it.text)).collect();
    answered.unwrap_or_else(|error| panic!("{error:#}: {silent:#?}"));
}

fn prometheus_said(play: &Play) -> String {
    let targets = "http://127.0.0.1:9090/api/v1/targets";
    let said = play.pair.client.run("curl", ["--silent", targets]);
    said.unwrap_or_else(|error| format!("{error:#}"))
}

#[test]
fn promtool_finds_no_fault_with_the_rules_and_their_tests_pass() {
    let rules = deploy("prometheus/alerts.yml");
    let checked = run(promtool(&["check", "rules"]).arg(&rules)).unwrap();
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tests = deploy("prometheus/alerts_test.yml");
    let tested = run(promtool(&["test", "rules"]).arg(&tests)).unwrap();
    assert!(tested.contains("SUCCESS"), "{tested}");
    // Each rule is in a test.
    let (rules, tests) = (
        read("prometheus/alerts.yml"),
        read("prometheus/alerts_test.yml"),
    );
    for line in rules.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            assert!(tests.contains(name), "no test has {name}");
        }
    }
}

/// What looks like a name of ours.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_')
        .filter(|word| word.starts_with("ntpmon_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The dashboard, as it is imported.
fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/ntpmon.json")).unwrap()
}

/// A question of the dashboard, with the names of labels that its legend wants.
struct Question {
    panel: String,
    text: String,
    legend: BTreeSet<String>,
}

impl Question {
    fn new(panel: &str, text: &str) -> Self {
        // As Grafana does with all chosen.
        let mut text = text.replace("$__rate_interval", "5s");
        for name in variables(&dashboard()) {
            text = text.replace(&format!("${name}"), ".*");
        }
        Self {
            panel: panel.to_owned(),
            text,
            legend: BTreeSet::new(),
        }
    }
}

/// The names of the variables that are chosen at the top, but the source of data.
fn variables(dashboard: &Value) -> Vec<String> {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names = variables.iter().map(|it| it["name"].as_str().unwrap());
    names
        .filter(|name| *name != "datasource")
        .map(str::to_owned)
        .collect()
}

/// All that it asks: of panels, annotations and variables.
fn questions() -> Vec<Question> {
    let dashboard = dashboard();
    let mut questions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut question = Question::new(title, target["expr"].as_str().unwrap());
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let labels = legend
                .split("{{")
                .skip(1)
                .map(|it| it.split_once("}}").unwrap().0);
            question.legend = labels.map(str::to_owned).collect();
            questions.push(question);
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        let title = annotation["name"].as_str().unwrap();
        questions.push(Question::new(title, annotation["expr"].as_str().unwrap()));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(definition) = variable["definition"].as_str() else {
            continue;
        };
        assert_eq!(variable["query"]["query"], definition);
        let inner = definition.strip_prefix("label_values(").unwrap();
        let (series, label) = inner.strip_suffix(")").unwrap().rsplit_once(", ").unwrap();
        let mut question = Question::new(variable["name"].as_str().unwrap(), series);
        question.legend = BTreeSet::from([label.to_owned()]);
        questions.push(question);
    }
    questions
}

#[test]
fn promtool_parses_every_question_of_the_dashboard() {
    let home = Home::new().unwrap();
    let questions = questions();
    assert!(questions.len() > 120, "{}", questions.len());
    // As rules, for that is what it parses.
    let rules = questions.iter().enumerate().map(|(place, question)| {
        let text = serde_json::to_string(&question.text).unwrap();
        format!("      - {{record: 'asked:{place}', expr: {text}}}\n")
    });
    let rules: String = rules.collect();
    let file = home.path("questions.yml");
    let check = |rules: &str| {
        fs::write(
            &file,
            format!("groups:\n  - name: asked\n    rules:\n{rules}"),
        )
        .unwrap();
        run(promtool(&["check", "rules"]).arg(&file))
    };
    let checked = check(&rules).unwrap();
    let all = format!("{} rules found", questions.len());
    assert!(checked.contains(&all), "{checked}");
    // It would say so.
    let broken = "      - {record: 'asked:0', expr: 'sum by (rate(up[5s]))'}\n";
    assert!(check(broken).is_err());
}

#[test]
fn what_dashboard_and_rules_ask_for_is_told() {
    let questions = questions();
    let asked: BTreeSet<String> = questions.iter().flat_map(|it| words(&it.text)).collect();
    let rules = read("prometheus/alerts.yml");
    let names = names();
    let unknown: Vec<_> = asked
        .union(&words(&rules))
        .filter(|name| !names.contains(*name))
        .cloned()
        .collect();
    assert_eq!(unknown, [""; 0]);
    assert!(asked.len() > 80, "{asked:?}");

    let dashboard = dashboard();
    let variables = variables(&dashboard);
    // Panels do not overlap, and each has a number of its own.
    let panels = dashboard["panels"].as_array().unwrap();
    let numbers: BTreeSet<u64> = panels.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), panels.len());
    let mut cells = BTreeSet::new();
    for panel in panels {
        let of = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for row in of("y")..of("y") + of("h") {
            for column in of("x")..of("x") + of("w") {
                assert!(column < 24 && cells.insert((row, column)), "{panel}");
            }
        }
        assert_panel_is_whole(panel, &variables);
    }
}

/// Kinds of panels, and units, that Grafana has; with another it shows something, but not this.
const KINDS: [&str; 4] = ["stat", "timeseries", "table", "heatmap"];
const UNITS: [&str; 8] = [
    "none",
    "short",
    "s",
    "reqps",
    "pps",
    "Bps",
    "bytes",
    "percentunit",
];

/// What Grafana would show wrongly without a word.
fn assert_panel_is_whole(panel: &Value, variables: &[String]) {
    let kind = panel["type"].as_str().unwrap();
    if kind == "row" {
        // What is in it follows it.
        assert_eq!(panel["panels"].as_array().unwrap().len(), 0);
        return;
    }
    assert!(KINDS.contains(&kind), "{kind}");
    assert!(
        !panel["description"].as_str().unwrap().is_empty(),
        "{panel}"
    );
    let chosen = "${datasource}";
    assert_eq!(panel["datasource"]["uid"], chosen);
    let targets = panel["targets"].as_array().unwrap();
    let mut letters = BTreeSet::new();
    for target in targets {
        assert!(
            letters.insert(target["refId"].as_str().unwrap()),
            "{target}"
        );
        assert_eq!(target["datasource"]["uid"], chosen);
        assert_eq!(kind == "table", target["format"] == "table", "{target}");
        let text = target["expr"].as_str().unwrap();
        for name in text.split('$').skip(1) {
            let is_known = name.starts_with("__rate_interval]")
                || variables
                    .iter()
                    .any(|it| name.starts_with(&format!("{it}\"")));
            assert!(is_known, "${name}: {text}");
        }
    }
    let defaults = &panel["fieldConfig"]["defaults"];
    let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
    let units = overrides.iter().map(|it| &it["properties"][0]["value"]);
    for unit in units.chain(defaults.get("unit")) {
        assert!(UNITS.contains(&unit.as_str().unwrap()), "{unit}");
    }
    if kind == "table" {
        let organize = &panel["transformations"][1]["options"];
        let shown = organize["renameByName"].as_object().unwrap();
        for letter in letters {
            let column = format!("Value #{letter}");
            let is_placed =
                shown.contains_key(&column) || organize["excludeByName"][&column] == true;
            assert!(is_placed, "{column} of {}", panel["title"]);
        }
        for it in overrides {
            let name = &it["matcher"]["options"];
            assert!(shown.values().any(|shown| shown == name), "{name}");
        }
    }
}

/// One request that came over OTLP.
#[derive(Debug, Clone)]
struct Received {
    head: String,
    body: Vec<u8>,
}

/// Takes requests and answers each with a status; 0 is no answer at all.
struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    fn start(host: &Namespace) -> Self {
        let listener = host
            .enter(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 4318))?))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Self {
            address,
            status: Arc::new(AtomicU16::new(200)),
            received: Arc::default(),
        };
        let (status, received) = (Arc::clone(&receiver.status), Arc::clone(&receiver.received));
        // Ends with the test.
        thread::spawn(move || {
            let mut hanging = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = take(&stream) else {
                    continue;
                };
                received.lock().unwrap().push(request);
                match status.load(Ordering::Relaxed) {
                    0 => hanging.push(stream),
                    status => answer(&mut stream, status),
                }
            }
        });
        receiver
    }

    fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// The next request from now on.
    fn next(&self) -> Received {
        let known = self.received.lock().unwrap().len();
        wait_for("an export", PATIENCE, || {
            Ok(self.received.lock().unwrap().get(known).cloned())
        })
        .unwrap()
    }
}

fn take(stream: &TcpStream) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let (_, rest) = lower.split_once("content-length: ")?;
    let length = rest.lines().next()?.trim().parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { head, body })
}

fn answer(stream: &mut TcpStream, status: u16) {
    let body = match status {
        200 => ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 2,
                error_message: "two of them are too old".to_owned(),
            }),
        }
        .encode_to_vec(),
        _ => b"the disk is full".to_vec(),
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Said\r\nContent-Type: application/x-protobuf\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&body);
}

fn metrics_of(received: &Received) -> Vec<Metric> {
    let request = ExportMetricsServiceRequest::decode(&received.body[..]).unwrap();
    assert_eq!(request.resource_metrics.len(), 1);
    let resource = &request.resource_metrics[0];
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert!(
        attributes.iter().any(|it| it.key == "service.name"),
        "{attributes:?}"
    );
    assert_eq!(resource.scope_metrics.len(), 1);
    resource.scope_metrics[0].metrics.clone()
}

#[test]
fn the_same_is_exported_over_otlp_and_a_receiver_that_fails_or_hangs_disturbs_nothing() {
    let configuration = "[otlp]\nendpoint = 'http://127.0.0.1:4318'\ninterval_seconds = 1\n\
                         timeout_seconds = 2\nheaders = ['X-Tenant: ntp']\n";
    let mut play = Play::start(configuration);
    // Before the receiver is there.
    let health = |play: &Play| {
        let answer = play.api().get("/api/ntp/health").unwrap();
        answer.success().unwrap()["components"]["otlp"].clone()
    };
    let until = |play: &Play, condition: &str| {
        wait_for(condition, PATIENCE, || {
            let health = health(play);
            Ok((health["status"] == condition).then_some(health))
        })
        .unwrap()
    };
    let refused = until(&play, "degraded");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("http://127.0.0.1:4318/v1/metrics (otlp.endpoint)"),
        "{message}"
    );

    let receiver = Receiver::start(&play.pair.client);
    assert_eq!(receiver.address.port(), 4318);
    play.until(20.0);
    until(&play, "healthy");
    play.until_all_but(&[]);
    let received = receiver.next();
    let head = received.head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
    for header in ["content-type: application/x-protobuf", "x-tenant: ntp"] {
        assert!(head.lines().any(|line| line == header), "{head}");
    }
    let metrics = metrics_of(&received);
    let cumulative = AggregationTemporality::Cumulative as i32;
    let names: BTreeSet<&str> = metrics.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names.len(), metrics.len());
    for family in families() {
        let name = match family.kind {
            Kind::Info => family.name,
            _ => family.base(),
        };
        let metric = metrics.iter().find(|it| it.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} was not exported"));
        assert_eq!(metric.description, family.help);
        match (family.kind, metric.data.as_ref().unwrap()) {
            (Kind::Counter, Data::Sum(sum)) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == cumulative);
                assert!(!sum.data_points.is_empty());
            }
            (Kind::Gauge | Kind::Info, Data::Gauge(gauge)) => {
                assert!(!gauge.data_points.is_empty());
            }
            (Kind::Histogram, Data::Histogram(histogram)) => {
                assert_eq!(histogram.aggregation_temporality, cumulative);
                for point in &histogram.data_points {
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                }
            }
            (kind, data) => panic!("{name} is a {kind:?}: {data:?}"),
        }
    }
    // Of what is counted since the daemon started it is said when that was.
    let flushes = metrics
        .iter()
        .find(|it| it.name == "ntpmon_history_exchanges_written");
    let Some(Data::Sum(flushes)) = &flushes.unwrap().data else {
        panic!("no sum")
    };
    let point = &flushes.data_points[0];
    assert!(0 < point.start_time_unix_nano && point.start_time_unix_nano < point.time_unix_nano);
    assert_eq!(
        metrics
            .iter()
            .find(|it| it.name == "process_cpu_seconds")
            .unwrap()
            .unit,
        "s"
    );
    let rejected = samples(&play.metrics(&[]))["ntpmon_otlp_rejected_points_total"];
    assert!(rejected >= 2.0, "{rejected}");

    receiver.answer_with(500);
    let failed = until(&play, "degraded");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("500") && message.contains("the disk is full"),
        "{message}"
    );
    receiver.answer_with(200);
    until(&play, "healthy");

    // One that hangs: everything else goes on, and the end is not waited for.
    receiver.answer_with(0);
    until(&play, "degraded");
    let begun = Instant::now();
    for _ in 0..5 {
        play.metrics(&[]);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let ended = play.daemon.take().unwrap().end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.took < Duration::from_secs(4), "{:?}", ended.took);
}
