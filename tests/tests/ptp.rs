//! PTP: what `replay --ptp` says of the public captures agrees with tcpdump field by field; what
//! the daemon and a watch see of linuxptp's ptp4l, over every transport, agrees with what ptp4l
//! counted; and a master that is killed is missed, once, with the name of the one that takes over.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ntpmon_tests::{
    api::Api,
    daemon::Home,
    daemons::{Clock, Ptp4l},
    namespace::Pair,
    ntpmon::{self, objects},
    others::rfc3339,
    process::wait_for,
    watch::Watch,
    workspace,
};
use serde_json::{Map, Value};

/// The folder of public captures; none where none is named, which is said.
fn public() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("NTPMON_CAPTURES") else {
        eprintln!("NTPMON_CAPTURES names no folder: there are no public captures to compare with");
        return None;
    };
    let folder = workspace().join(folder).join("tcpdump");
    assert!(folder.is_dir(), "there is no {}", folder.display());
    Some(folder)
}

fn replay(options: &[&str], file: &Path) -> Vec<Map<String, Value>> {
    let arguments = ["replay", "--ptp"].iter().chain(options).map(OsStr::new);
    let ended = ntpmon::run(arguments.chain([file.as_os_str()])).unwrap();
    objects(&ended.printed().unwrap()).unwrap()
}

/// A line of tcpdump's: what stands before "PTPv2", and the fields, each name with its values.
struct Told<'a> {
    head: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Told<'a> {
    fn new(line: &'a str) -> Self {
        let at = line.find("PTPv2").unwrap();
        let fields = line[at..].split(", ").map(|field| {
            let by = |it: &'a str| it.split_once(": ").or_else(|| it.split_once(':'));
            by(field)
                .or_else(|| field.split_once(' '))
                .unwrap_or(("version", field))
        });
        Self {
            head: &line[..at],
            fields: fields.collect(),
        }
    }

    /// The field of this name that comes after so many others of it.
    fn nth(&self, name: &str, place: usize) -> Option<&'a str> {
        let mut fields = self.fields.iter().filter(|(it, _)| *it == name);
        fields.nth(place).map(|(_, value)| *value)
    }

    fn get(&self, name: &str) -> &'a str {
        self.nth(name, 0)
            .unwrap_or_else(|| panic!("no {name}: {:?}", self.fields))
    }

    fn number(&self, name: &str) -> i64 {
        let text = self.get(name);
        let text = text.split(' ').next().unwrap();
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.unwrap_or_else(|_| panic!("{name} is {text}"))
    }

    /// A port's identity, the `place`th, as we write it.
    fn port(&self, name: &str, place: usize) -> String {
        let clock = self.get(name).strip_prefix("0x").unwrap();
        let clock = u64::from_str_radix(clock, 16).unwrap();
        format!(
            "{}-{}",
            clock_text(clock),
            self.nth("port id", place).unwrap()
        )
    }
}

fn clock_text(clock: u64) -> String {
    let text = format!("{clock:016x}");
    format!("{}.{}.{}", &text[..6], &text[6..10], &text[10..])
}

/// tcpdump's names of the types, and ours.
const TYPES: [(&str, &str); 7] = [
    ("sync msg", "sync"),
    ("follow up msg", "follow_up"),
    ("delay req msg", "delay_request"),
    ("delay resp msg", "delay_response"),
    ("peer delay req msg", "peer_delay_request"),
    ("announce msg", "announce"),
    ("management msg", "management"),
];

fn compare(ours: &Map<String, Value>, line: &str) {
    let told = Told::new(line);
    let is = |name: &str, expected: Value| {
        assert_eq!(ours[name], expected, "{name}: {line}");
    };
    is("kind", "ptp".into());
    let version = match told.get("version") {
        "PTPv2" => "2.0",
        "PTPv2.1" => "2.1",
        other => panic!("{other}"),
    };
    is("version", version.into());
    let kind = told.get("msg type");
    let (_, name) = TYPES.iter().find(|(it, _)| *it == kind).unwrap();
    is("message_type", (*name).into());
    is("message_length", told.number("length").into());
    is("domain_number", told.number("domain").into());
    let minor = if version == "2.1" {
        told.number("reserved1")
    } else {
        0
    };
    is("sdo_id", ((told.number("majorSdoId") << 8) + minor).into());
    let flags = line.split_once("Flags [").unwrap().1;
    let flags = flags.split_once(']').unwrap().0;
    is("two_step", flags.contains("two step").into());
    is("unicast", flags.contains("unicast").into());
    let number = ours["flags"].as_u64().unwrap();
    assert_eq!(number & 8 != 0, flags.contains("timescale"), "{line}");
    assert_eq!(number == 0, flags == "none", "{line}");

    let correction =
        told.number("NS correction") as f64 + told.number("sub NS correction") as f64 / 65_536.0;
    let ours_correction = ours["correction_seconds"].as_f64().unwrap();
    assert!(
        (ours_correction - correction * 1e-9).abs() < 1e-17,
        "{ours_correction}: {line}"
    );
    is(
        "source_port_identity",
        told.port("clock identity", 0).into(),
    );
    is("sequence_id", told.number("seq id").into());
    let interval = match told.number("log message interval") {
        127 => Value::Null,
        // tcpdump prints it without its sign.
        other => i64::from((other as u8).cast_signed()).into(),
    };
    is("log_message_interval", interval);
    let time = [
        "originTimeStamp",
        "preciseOriginTimeStamp",
        "receiveTimeStamp",
    ]
    .into_iter()
    .find_map(|name| told.nth(name, 0));
    let time = time.map(|text| text.strip_suffix(" seconds").unwrap_or(text));
    is("message_timestamp", time.into());

    let other = told.nth("port identity", 0);
    let other = other.map(|_| told.port("port identity", 1));
    let (requester, target) = match *name {
        "delay_response" => (other, None),
        "management" => (None, other),
        // Of a Pdelay_Req these bytes are reserved.
        _ => (None, None),
    };
    is("requesting_port_identity", requester.into());
    is("target_port_identity", target.into());

    if *name == "announce" {
        let announce = ours["announce"].as_object().unwrap();
        for (field, theirs) in [
            ("priority1", "gm priority_1"),
            ("priority2", "gm priority_2"),
            ("clock_class", "gm clock class"),
            ("clock_accuracy", "gm clock accuracy"),
            ("offset_scaled_log_variance", "gm clock variance"),
            ("steps_removed", "steps removed"),
            ("time_source", "time source"),
            ("utc_offset_seconds", "origin cur utc"),
        ] {
            assert_eq!(announce[field], told.number(theirs), "{field}: {line}");
        }
        let clock = told.get("gm clock id").strip_prefix("0x").unwrap();
        let clock = clock_text(u64::from_str_radix(clock, 16).unwrap());
        assert_eq!(announce["grandmaster_identity"], clock, "{line}");
    } else {
        is("announce", Value::Null);
    }
    compare_head(ours, told.head);
}

/// The number, the time, and the addresses where there are any.
fn compare_head(ours: &Map<String, Value>, head: &str) {
    let words: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(ours["frame"].to_string(), words[0], "{head}");
    let time = rfc3339(&format!("{} {}", words[1], words[2])).unwrap();
    let captured = rfc3339(ours["timestamp"].as_str().unwrap()).unwrap();
    assert_eq!(captured / 1000 * 1000, time, "{head}");
    match words.get(3) {
        Some(&"IP") => {
            assert_eq!(ours["transport"], "udp_ipv4");
            for (place, end) in [(4, "source"), (6, "destination")] {
                let address = format!(
                    "{}.{}",
                    ours[end].as_str().unwrap(),
                    ours[format!("{end}_port").as_str()]
                );
                assert_eq!(address, words[place].trim_end_matches(':'), "{head}");
            }
        }
        addresses => {
            assert_eq!(ours["transport"], "ethernet");
            assert_eq!(ours["source_port"], Value::Null);
            if let Some(source) = addresses {
                assert_eq!(ours["source"], *source, "{head}");
                let destination = words[5].trim_end_matches(',');
                assert_eq!(ours["destination"], destination, "{head}");
            }
        }
    }
}

#[test]
fn every_field_of_the_public_captures_is_what_tcpdump_says() {
    let Some(folder) = public() else { return };
    for (name, count) in [
        ("ptp", 5),
        ("ptp_corrections", 3),
        ("ptp_ethernet", 205),
        ("ptp_management", 10),
        ("ptp_v2_1", 38),
    ] {
        let lines = replay(
            &["--format", "ndjson"],
            &folder.join(format!("{name}.pcap")),
        );
        let output = fs::read_to_string(folder.join(format!("{name}.out"))).unwrap();
        assert_eq!((lines.len(), output.lines().count()), (count, count));
        for (ours, line) in lines.iter().zip(output.lines()) {
            compare(ours, line);
        }
    }
}

#[test]
fn the_totals_of_the_public_captures_are_what_stands_in_them() {
    let Some(folder) = public() else { return };
    let totals = |name: &str| {
        let mut objects = replay(&["--summary"], &folder.join(name));
        assert_eq!(objects.len(), 1);
        let totals = objects.remove(0);
        assert_eq!(totals["ntp_packets"], 0);
        totals["ptp"].clone()
    };
    // Counted by hand in tcpdump's output.
    let ptp = totals("ptp.pcap");
    let [domain] = &ptp["domains"].as_array().unwrap()[..] else {
        panic!("{ptp}");
    };
    assert_eq!(domain["delay_requests"]["answered"], 1);
    assert_eq!(domain["delay_requests"]["unanswered"], 0);
    let turnaround = domain["delay_requests"]["turnaround"]["last_seconds"].as_f64();
    assert!(
        (turnaround.unwrap() - 145e-6).abs() < 1e-9,
        "{turnaround:?}"
    );
    let [master] = &ptp["masters"].as_array().unwrap()[..] else {
        panic!("{ptp}");
    };
    assert_eq!(master["port_identity"], "000200.fffe.000001-1");
    assert_eq!(master["announce"]["clock_class"], 248);
    assert_eq!(master["address"], "11.0.0.9");
    assert_eq!(
        (&master["two_step_syncs"], &master["missing_follow_ups"]),
        (&1.into(), &0.into())
    );

    let corrections = totals("ptp_corrections.pcap");
    let domain = &corrections["domains"][0];
    assert_eq!(domain["domain_number"], 44);
    assert_eq!(domain["delay_requests"]["answered"], 1);
    let master = &corrections["masters"][0];
    let seconds = |value: &Value| value["last_seconds"].as_f64().unwrap();
    assert!((seconds(&master["delay_correction"]) - 36_035e-9).abs() < 1e-15);
    assert!((seconds(&master["sync_correction"]) - 105_045e-9).abs() < 1e-15);
    assert_eq!(master["one_step_syncs"], 1);

    let ethernet = totals("ptp_ethernet.pcap");
    assert_eq!(ethernet["packets"], 205);
    let counts: u64 = ethernet["domains"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|domain| domain["messages"].as_object().unwrap().values())
        .map(|messages| messages["count"].as_u64().unwrap())
        .sum();
    assert_eq!(counts, 205);

    let peers = totals("ptp_v2_1.pcap");
    // Nobody answers, and who asks is master for whoever listens.
    let delays = &peers["domains"][0]["peer_delay_requests"];
    assert_eq!(
        (&delays["requests"], &delays["unanswered"]),
        (&11.into(), &11.into())
    );
    assert_eq!(peers["masters"][0]["version"], "2.1");
    assert_eq!(peers["masters"][0]["announce"]["ptp_timescale"], true);
    assert_eq!(peers["changes"], Value::Array(Vec::new()));
}

#[test]
fn without_being_asked_for_ptp_is_what_it_was_and_csv_has_no_place_for_it() {
    let Some(folder) = public() else { return };
    let file = folder.join("ptp.pcap");
    let run = |arguments: &[&str]| {
        let arguments = arguments.iter().map(OsStr::new);
        ntpmon::run(arguments.chain([file.as_os_str()])).unwrap()
    };
    let printed = run(&["replay", "--summary"]).printed().unwrap();
    let totals = &objects(&printed).unwrap()[0];
    assert_eq!(totals["skipped"]["other_port"], 5);
    assert!(!totals.contains_key("ptp"));
    let told = run(&["replay"]);
    assert_eq!(told.stdout, "");
    assert!(told.stderr.contains("--ptp shows PTP"), "{}", told.stderr);
    let refused = run(&["replay", "--ptp", "--format", "csv"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("--format csv"),
        "{}",
        refused.stderr
    );
    let table = run(&["replay", "--ptp"]).printed().unwrap();
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(
        table.contains("PTP announce 11.0.0.9 > 224.0.1.129 domain 0"),
        "{table}"
    );
}

/// What stands as code in the first column of the tables of docs/ptp.md.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs/ptp.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Every name of an object, and of what is in it.
fn names_in(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                // The names in it are types.
                if name == "messages" {
                    let of_a_type = value.as_object().unwrap().values();
                    of_a_type.for_each(|it| names_in(it, names));
                } else {
                    names_in(value, names);
                }
                names.insert(name.clone());
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names_in(value, names)),
        _ => {}
    }
}

#[test]
fn every_name_that_is_printed_of_ptp_is_documented_and_no_other() {
    let Some(folder) = public() else { return };
    let file = folder.join("ptp.pcap");
    let mut printed = BTreeSet::new();
    for line in replay(&["--format", "ndjson"], &file) {
        names_in(&Value::Object(line), &mut printed);
    }
    let summary = replay(&["--summary"], &file);
    names_in(&summary[0]["ptp"], &mut printed);
    let text = fs::read_to_string(workspace().join("docs/ptp.md")).unwrap();
    for name in &printed {
        assert!(
            text.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
    }
    for name in documented() {
        // The kinds of changes are in a table as well.
        let is_kind = name.starts_with("ptp_");
        assert!(
            is_kind || printed.contains(&name),
            "{name} is documented, and not printed"
        );
    }
}

/// A domain over one transport, with a master at the server and a clock that follows it at the
/// client.
struct Stage {
    transport: &'static str,
    domain: u8,
    master: Ptp4l,
    follower: Ptp4l,
}

/// By transport: what ptp4l and what we call it, and where the master is seen to send from.
const TRANSPORTS: [(&str, &str, &str); 3] = [
    ("UDPv4", "udp_ipv4", Pair::SERVER),
    ("UDPv6", "udp_ipv6", Pair::SERVER_V6),
    ("L2", "ethernet", "02:00:00:00:00:01"),
];

fn identity(domain: u8, number: u8) -> String {
    format!("02000{domain}.fffe.00000{number}")
}

impl Stage {
    fn all(pair: &Pair) -> Vec<Self> {
        let start = |host, domain: usize, number, priority1| {
            let clock = Clock {
                transport: TRANSPORTS[domain].0,
                domain: domain as u8,
                identity: &identity(domain as u8, number),
                priority1,
                accuracy: 0x20 + number,
            };
            Ptp4l::start(host, Pair::DEVICE, clock).unwrap()
        };
        // Masters first: who follows hears them before it would become one.
        let mut masters: Vec<_> = (0..3)
            .map(|domain| start(&pair.server, domain, 1, 100))
            .collect();
        for master in &mut masters {
            master.wait_for("LISTENING to MASTER").unwrap();
        }
        let stages = masters.into_iter().zip(0_u8..);
        stages
            .map(|(master, domain)| Self {
                transport: TRANSPORTS[usize::from(domain)].1,
                domain,
                master,
                follower: start(&pair.client, domain.into(), 2, 200),
            })
            .collect()
    }
}

/// What the API says of each domain, by its transport.
fn by_transport(api: &Api<'_>, path: &str) -> BTreeMap<String, Vec<Value>> {
    let answer = api.get(path).unwrap().success().unwrap();
    assert_eq!(answer["enabled"], true);
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in answer["data"].as_array().unwrap() {
        assert_eq!(item["interface_name"], Pair::DEVICE);
        let transport = item["transport"].as_str().unwrap().to_owned();
        found.entry(transport).or_default().push(item.clone());
    }
    found
}

fn one<'a>(found: &'a BTreeMap<String, Vec<Value>>, transport: &str) -> &'a Value {
    match found.get(transport).map(Vec::as_slice) {
        Some([one]) => one,
        other => panic!("{transport}: {other:?}"),
    }
}

/// Our counts lie between what ptp4l had counted before and after: theirs and ours are of the same
/// messages.
fn assert_counts_agree(pair: &Pair, api: &Api<'_>, stages: &[Stage]) {
    let counts = |stages: &[Stage]| -> Vec<_> {
        stages
            .iter()
            .map(|stage| {
                let master = stage.master.counts(&pair.server).unwrap();
                let follower = stage.follower.counts(&pair.client).unwrap();
                (master, follower)
            })
            .collect()
    };
    let before = counts(stages);
    // What was counted there is on its way through a ring here.
    thread::sleep(Duration::from_millis(500));
    let domains = by_transport(api, "/api/ptp/domains");
    let after = counts(stages);
    for (stage, (before, after)) in stages.iter().zip(before.into_iter().zip(after)) {
        let domain = one(&domains, stage.transport);
        for (name, theirs) in [
            ("sync", "tx_Sync"),
            ("follow_up", "tx_Follow_Up"),
            ("announce", "tx_Announce"),
            ("delay_response", "tx_Delay_Resp"),
        ] {
            let ours = domain["messages"][name]["count"].as_u64().unwrap();
            let (least, most) = (before.0[theirs], after.0[theirs]);
            assert!(
                least > 0 && (least..=most).contains(&ours),
                "{} {name}: {ours}, ptp4l counted {least} to {most}",
                stage.transport
            );
        }
        let delays = &domain["delay_requests"];
        let count = |name: &str| delays[name].as_u64().unwrap();
        let asked = before.1["tx_Delay_Req"]..=after.1["tx_Delay_Req"];
        assert!(asked.contains(&count("requests")), "{asked:?}: {delays}");
        let answered = before.1["rx_Delay_Resp"]..=after.1["rx_Delay_Resp"];
        assert!(
            answered.contains(&count("answered")),
            "{answered:?}: {delays}"
        );
        assert_eq!(
            (count("unanswered"), count("unsolicited")),
            (0, 0),
            "{delays}"
        );
        let turnaround = delays["turnaround"]["mean_seconds"].as_f64().unwrap();
        assert!((0.0..0.1).contains(&turnaround), "{delays}");
        assert_eq!(domain["changes"], Value::Array(Vec::new()));
    }
}

fn assert_masters_are_known(api: &Api<'_>, stages: &[Stage]) {
    let masters = by_transport(api, "/api/ptp/masters");
    for stage in stages {
        let master = one(&masters, stage.transport);
        let clock = identity(stage.domain, 1);
        let (_, _, address) = TRANSPORTS[usize::from(stage.domain)];
        assert_eq!(master["clock_identity"], clock);
        assert_eq!(master["port_identity"], format!("{clock}-1"));
        assert_eq!(master["domain_number"], stage.domain);
        assert_eq!(master["address"], address);
        assert_eq!(master["direction"], "ingress");
        assert_eq!(
            (&master["is_master"], &master["is_announcing"]),
            (&true.into(), &true.into())
        );
        let announce = &master["announce"];
        assert_eq!(announce["grandmaster_identity"], clock);
        assert_eq!(
            (&announce["priority1"], &announce["clock_class"]),
            (&100.into(), &248.into())
        );
        assert_eq!(announce["clock_accuracy_seconds"], 100e-9);
        assert_eq!(announce["steps_removed"], 0);
        assert_eq!(master["announce_interval_seconds"], 0.5);
        assert_eq!(master["sync_interval_seconds"], 0.125);
        for (name, rate) in [("announce", 2.0), ("sync", 8.0), ("follow_up", 8.0)] {
            let seen = master["messages"][name]["rate_per_second"]
                .as_f64()
                .unwrap();
            assert!((seen - rate).abs() < 0.15 * rate, "{name}: {seen}");
        }
        assert_eq!(master["missing_follow_ups"], 0);
        assert!(master["two_step_syncs"].as_u64().unwrap() > 0);
        assert_eq!(master["sync_correction"]["maximum_seconds"], 0.0);
        let path = format!("/api/ptp/masters/{clock}");
        let one = api.get(&path).unwrap().success().unwrap();
        assert_eq!(one["count"], 1);
    }
}

#[test]
fn what_ptp4l_does_is_seen_over_every_transport_and_a_takeover_is_told_once() {
    let pair = Pair::new().unwrap();
    let home = Home::new().unwrap();
    home.configure("capture.ptp = true\ncapture.rings = 2\n")
        .unwrap();
    let command = || {
        let interfaces = [Pair::DEVICE];
        home.command_watching(&pair.client, &[], "127.0.0.1:0", &interfaces)
            .unwrap()
    };
    let daemon = home.start(&mut command()).unwrap();
    let watch = Watch::start(&pair.server, &[Pair::DEVICE], &["--ptp"]).unwrap();
    let stages = Stage::all(&pair);
    thread::sleep(Duration::from_secs(8));
    let api = Api::of(&daemon, &pair.client).unwrap();
    assert_counts_agree(&pair, &api, &stages);
    assert_masters_are_known(&api, &stages);

    // At the other end the same goes out.
    let watched = watch.stop().unwrap();
    assert_eq!(watched.totals["ptp_packets"], watched.lines.len());
    assert_eq!(watched.totals["ntp_packets"], 0);
    for (_, transport, address) in TRANSPORTS {
        let announced = watched.lines.iter().any(|line| {
            line["kind"] == "ptp"
                && line["message_type"] == "announce"
                && line["transport"] == transport
                && line["direction"] == "egress"
                && line["source"] == address
        });
        assert!(announced, "{transport}");
    }

    let mut followers = Vec::new();
    for stage in stages {
        stage.master.kill().unwrap();
        followers.push((stage.transport, stage.domain, stage.follower));
    }
    let domains = wait_for("others to be master", Duration::from_secs(20), || {
        let domains = by_transport(&api, "/api/ptp/domains");
        let taken_over = followers.iter().all(|(transport, domain, _)| {
            let master = &one(&domains, transport)["master_port_identity"];
            *master == format!("{}-1", identity(*domain, 2))
        });
        Ok(taken_over.then_some(domains))
    })
    .unwrap();
    for (transport, domain, _) in &followers {
        let changes = one(&domains, transport)["changes"].as_array().unwrap();
        let [change] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(change["kind"], "ptp_master_changed");
        assert_eq!(
            change["master_before"],
            format!("{}-1", identity(*domain, 1))
        );
        assert_eq!(
            change["master_after"],
            format!("{}-1", identity(*domain, 2))
        );
        let told = format!("{}: PTP domain {domain}: master is", Pair::DEVICE);
        assert_eq!(
            daemon.stderr().matches(&told).count(),
            1,
            "{}",
            daemon.stderr()
        );
    }
    // As everything that is found.
    let found = api.get("/api/ntp/events?kind=ptp_master_changed").unwrap();
    let found = found.success().unwrap();
    let found = found["data"].as_array().unwrap();
    assert_eq!(found.len(), followers.len(), "{found:?}");
    for event in found {
        let domain = event["evidence"]["domain_number"].as_u64().unwrap() as u8;
        assert_eq!(event["interface_name"], Pair::DEVICE);
        assert_eq!(event["severity"], "warning");
        let master = format!("{}-1", identity(domain, 2));
        assert_eq!(event["evidence"]["master_after"], master);
        assert!(
            event["message"].as_str().unwrap().contains(&master),
            "{event}"
        );
    }
    let metrics = api.get("/metrics").unwrap().text();
    for (transport, domain, _) in &followers {
        let place = format!(
            "{{interface=\"{}\",domain=\"{domain}\",sdo_id=\"0\",transport=\"{transport}\",vlan=\"\"",
            Pair::DEVICE
        );
        for line in [
            format!("ntpmon_ptp_announcing_masters{place}}} 1"),
            format!("ntpmon_ptp_master_changes_total{place}}} 1"),
            format!("ntpmon_ptp_grandmaster_clock_class{place}}} 248"),
            format!(
                "ntpmon_ptp_delay_requests_total{place},mechanism=\"end_to_end\",result=\"answered\"}}"
            ),
        ] {
            assert!(metrics.contains(&line), "no {line}: {metrics}");
        }
    }
    let masters = by_transport(&api, "/api/ptp/masters");
    for (transport, ..) in &followers {
        let now = masters[*transport]
            .iter()
            .find(|it| it["is_master"] == true);
        assert_eq!(now.unwrap()["direction"], "egress");
        assert_eq!(masters[*transport].len(), 2);
    }

    // Who was master, and who is, is known after a restart, and no news.
    daemon.end(libc::SIGTERM).unwrap();
    let daemon = home.start(&mut command()).unwrap();
    let api = Api::of(&daemon, &pair.client).unwrap();
    thread::sleep(Duration::from_secs(4));
    let known = by_transport(&api, "/api/ptp/masters");
    for (transport, before) in &masters {
        let now = &known[transport];
        assert_eq!(now.len(), before.len());
        for (now, before) in now.iter().zip(before) {
            for name in [
                "port_identity",
                "first_seen_timestamp",
                "is_master",
                "address",
            ] {
                assert_eq!(now[name], before[name], "{name}");
            }
        }
    }
    let told = daemon.stderr().matches("PTP domain").count();
    assert_eq!(told, 0, "{}", daemon.stderr());
    daemon.end(libc::SIGTERM).unwrap();
}
