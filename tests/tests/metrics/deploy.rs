//! What we give away, tried: a real Prometheus with our configuration, promtool on the rules, every
//! question of the dashboard.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use ntpmon_tests::{
    daemon::Home,
    namespace::{Namespace, Pair},
    packages::Packages,
    process::{Process, run, wait_for},
};
use serde_json::Value;

use super::{PATIENCE, Play, deploy, names, promtool, read};

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
