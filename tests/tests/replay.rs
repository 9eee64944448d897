//! `ntpmon replay` as its users run it: what it says of the public captures agrees with Zeek, tcpdump,
//! ipfixprobe and a count by hand, what it says of our own agrees with chrony's log, and the same
//! packets give the same lines in whatever kind of file they come.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ntpmon_tests::{
    chrony::{self, Measurement},
    namespace::folder,
    ntpmon::{self, Row, csv, objects, replay},
    others::{self, Is, Told, rfc3339},
    pcap::{self, Form, Link},
    process,
    seen::median,
    tcpdump::Capture,
    workspace,
};
use serde_json::{Map, Value, json};

/// What an exchange in a file has, in this order.
const FIELDS: [&str; 34] = [
    "client_ip",
    "client_port",
    "server_ip",
    "server_port",
    "interface_name",
    "ntp_version",
    "mode",
    "leap_indicator",
    "stratum",
    "poll_interval",
    "precision",
    "root_delay",
    "root_dispersion",
    "reference_id",
    "reference_timestamp",
    "originate_timestamp",
    "receive_timestamp",
    "transmit_timestamp",
    "packet_length",
    "session_timestamp",
    "answered",
    "client_to_server_latency_seconds",
    "server_processing_time_seconds",
    "total_process_time_seconds",
    "offset_seconds",
    "delay_seconds",
    "client_clock",
    "role",
    "kiss_code",
    "authentication",
    "interleaved",
    "duplicates",
    "request_frame",
    "response_frame",
];

/// The folder of public captures; none where none is named, which is said. One that is named and not
/// there fails.
fn public() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("NTPMON_CAPTURES") else {
        eprintln!("NTPMON_CAPTURES names no folder: there are no public captures to compare with");
        return None;
    };
    let folder = workspace().join(folder);
    assert!(
        folder.is_dir(),
        "NTPMON_CAPTURES names {}, which is no folder",
        folder.display()
    );
    Some(folder)
}

fn own(name: &str) -> PathBuf {
    workspace().join("tests/captures").join(name)
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn summary(file: &Path) -> Map<String, Value> {
    let arguments = [
        OsStr::new("replay"),
        OsStr::new("--summary"),
        file.as_os_str(),
    ];
    let printed = ntpmon::run(arguments).unwrap().printed().unwrap();
    let mut objects = objects(&printed).unwrap();
    assert_eq!(objects.len(), 1, "{printed}");
    objects.remove(0)
}

fn compare_with_zeek(folder: &Path, capture: &str, log: &str) {
    let file = folder.join(capture);
    let read = pcap::read(&file).unwrap();
    let frames: Vec<_> = others::time_packets(&read).iter().map(|it| it.0).collect();
    let told = others::zeek(&text(&folder.join(log)), &frames).unwrap();
    assert!(!told.is_empty());
    others::compare(&replay(&file, &[]).unwrap(), &told)
        .unwrap_or_else(|error| panic!("{capture}: {error:#}"));
}

#[test]
fn exchanges_agree_with_zeeks_log_packet_by_packet() {
    let Some(folder) = public() else { return };
    for (capture, log) in [
        ("zeek/ntp.pcap", "zeek/ntp.ntp.log"),
        // A private message of this one is in another log of Zeek's: time_packets leaves it out.
        ("zeek/ntp2.pcap", "zeek/ntp2.ntp.log"),
        // The name differs: both have the 15 servers that 192.168.50.50 asks in mode 1.
        ("zeek/NTP_sync.pcap", "zeek/ntp3.ntp.log"),
        ("zeek/NTP-digest.pcap", "zeek/ntp-digest.ntp.log"),
        // The response stands first in the file and in the log; here they pair.
        ("zeek/misordered-ntp.pcap", "zeek/misordered-ntp.ntp.log"),
    ] {
        compare_with_zeek(&folder, capture, log);
    }
}

#[test]
fn any_field_that_another_program_tells_otherwise_is_noticed() {
    let Some(folder) = public() else { return };
    let rows = replay(&folder.join("tcpdump/ntp-time.pcap"), &[]).unwrap();
    let output = text(&folder.join("tcpdump/ntp-time--v.out"));
    let told = others::tcpdump(&output).unwrap();
    others::compare(&rows, &told).unwrap();
    assert!(
        others::compare(&rows, &told[1..]).is_err(),
        "one is missing"
    );
    let (request, response) = (0, 1);
    let transmit = |it: &(&str, Is)| it.0 == "transmit_timestamp";
    let asked = told[request].fields.iter().position(transmit).unwrap();
    let wrong = (0..told[response].fields.len()).map(|field| (response, field));
    for (packet, field) in wrong.chain([(request, asked)]) {
        let mut told = told.clone();
        let value = &mut told[packet].fields[field].1;
        *value = match value {
            Is::Number(number, tolerance) => Is::Number(*number + 1.0, *tolerance),
            Is::Time(time, tolerance) => Is::Time(time.map(|it| it + 10), *tolerance),
            _ => Is::Text(Some("?".into())),
        };
        assert!(others::compare(&rows, &told).is_err(), "{:?}", told[packet]);
    }
    for packet in [request, response] {
        let mut told = told.clone();
        told[packet].captured = told[packet].captured.map(|time| time + 1);
        assert!(others::compare(&rows, &told).is_err());
    }
}

#[test]
fn control_and_private_messages_are_as_many_as_in_zeeks_logs() {
    let Some(folder) = public() else { return };
    let rows = |name: &str| {
        let text = text(&folder.join(name));
        others::zeek_rows(&text).unwrap().len()
    };
    let summary = summary(&folder.join("zeek/ntpmode67.pcap"));
    assert_eq!(summary["control"], rows("zeek/ntp_control.log"));
    assert_eq!(summary["private"], rows("zeek/ntp_private.log"));
}

fn compare_with_tcpdump(folder: &Path, name: &str, output: &str) -> Vec<Told> {
    let told = others::tcpdump(&text(&folder.join(output))).unwrap();
    let file = folder.join(name);
    assert_eq!(pcap::read(&file).unwrap().packets.len(), told.len());
    others::compare(&replay(&file, &[]).unwrap(), &told)
        .unwrap_or_else(|error| panic!("{output}: {error:#}"));
    told
}

#[test]
fn exchanges_agree_with_tcpdumps_lines_to_the_nanosecond() {
    let Some(folder) = public() else { return };
    for (capture, output, fields) in [
        ("tcpdump/ntp.pcap", "tcpdump/ntp.out", 3),
        ("tcpdump/ntp.pcap", "tcpdump/ntp-v.out", 14),
        ("tcpdump/ntp-time.pcap", "tcpdump/ntp-time--v.out", 14),
        ("tcpdump/ntp-time.pcap", "tcpdump/ntp-time.out", 3),
        ("tcpdump/ntp-time-ef.pcap", "tcpdump/ntp-time-ef.out", 3),
        ("tcpdump/ntp-time-ef.pcap", "tcpdump/ntp-time-ef--v.out", 15),
        (
            "tcpdump/ntp-time-ef.pcap",
            "tcpdump/ntp-time-ef--vvv.out",
            15,
        ),
    ] {
        let told = compare_with_tcpdump(&folder, capture, output);
        // That the lines were understood, and not only passed over.
        assert!(
            told.iter().all(|it| it.fields.len() >= fields),
            "{output}: {told:#?}"
        );
    }
}

#[test]
fn control_and_private_messages_are_as_many_as_in_tcpdumps_lines() {
    let Some(folder) = public() else { return };
    for (capture, outputs, kind, mode) in [
        (
            "tcpdump/ntp-control.pcap",
            ["tcpdump/ntp-control.out", "tcpdump/ntp-control--v.out"],
            "control",
            6.0,
        ),
        (
            // Mode 7 is "Reserved" to tcpdump.
            "tcpdump/ntp-mode7.pcap",
            ["tcpdump/ntp-mode7.out", "tcpdump/ntp-mode7--v.out"],
            "private",
            7.0,
        ),
    ] {
        let file = folder.join(capture);
        assert_eq!(replay(&file, &[]).unwrap(), []);
        for output in outputs {
            let told = others::tcpdump(&text(&folder.join(output))).unwrap();
            let is_kind = |it: &Told| it.fields.contains(&("mode", Is::Number(mode, 0.0)));
            assert!(told.iter().all(is_kind));
            assert_eq!(summary(&file)[kind], told.len(), "{output}");
        }
    }
}

#[test]
fn exchanges_agree_with_ipfixprobes_records() {
    let Some(folder) = public() else { return };
    let file = folder.join("ipfixprobe/ntp.pcap");
    let records = text(&folder.join("ipfixprobe/ntp.biflow.csv"));
    let told = others::ipfixprobe(&records, &pcap::read(&file).unwrap()).unwrap();
    others::compare(&replay(&file, &[]).unwrap(), &told)
        .unwrap_or_else(|error| panic!("{error:#}"));
}

/// The numbers of a summary; what a line of the table below does not name is zero.
#[derive(Default)]
struct Counts {
    packets: u64,
    requests: u64,
    responses: u64,
    answered: u64,
    unanswered: u64,
    unsolicited: u64,
    kiss_of_death: u64,
    control: u64,
    private: u64,
    broadcast: u64,
    symmetric: u64,
    skipped: &'static [(&'static str, u64)],
}

const REASONS: [&str; 14] = [
    "not_ip",
    "not_udp",
    "other_port",
    "fragment",
    "truncated",
    "short_payload",
    "bad_version",
    "malformed",
    "vlan_depth",
    "extension_header_depth",
    "tunnel_depth",
    "unknown_link",
    "ptp_bad_version",
    "ptp_malformed",
];

impl Counts {
    /// So many requests, each with its response, and nothing else.
    const fn pairs(count: u64) -> Self {
        Self {
            packets: 2 * count,
            requests: count,
            responses: count,
            answered: count,
            ..Self::NOTHING
        }
    }

    const NOTHING: Self = Self {
        packets: 0,
        requests: 0,
        responses: 0,
        answered: 0,
        unanswered: 0,
        unsolicited: 0,
        kiss_of_death: 0,
        control: 0,
        private: 0,
        broadcast: 0,
        symmetric: 0,
        skipped: &[],
    };

    fn object(&self) -> Map<String, Value> {
        let Self {
            packets,
            requests,
            responses,
            answered,
            unanswered,
            unsolicited,
            kiss_of_death,
            control,
            private,
            broadcast,
            symmetric,
            skipped,
        } = self;
        let by_reason: Map<String, Value> = REASONS
            .iter()
            .map(|reason| {
                let count = skipped.iter().find(|(name, _)| name == reason);
                ((*reason).to_owned(), count.map_or(0, |it| it.1).into())
            })
            .collect();
        let all: u64 = skipped.iter().map(|it| it.1).sum();
        let object = json!({
            "packets": packets,
            "ntp_packets": packets - all,
            "requests": requests,
            "responses": responses,
            "exchanges": answered + unanswered,
            "answered": answered,
            "unanswered": unanswered,
            "unsolicited": unsolicited,
            // No public capture and none of ours has a retransmission or a second response.
            "duplicates": 0,
            "multiple_responses": 0,
            "kiss_of_death": kiss_of_death,
            "control": control,
            "private": private,
            "broadcast": broadcast,
            "symmetric": symmetric,
            "skipped": by_reason,
            "late": 0,
            "evicted": 0,
        });
        match object {
            Value::Object(object) => object,
            _ => unreachable!("it is written as an object"),
        }
    }

    fn check(&self, file: &Path) {
        let (ours, expected) = (summary(file), self.object());
        assert_eq!(ours, expected, "{}", file.display());
        // Equality of objects does not look at the order of the names, which is documented.
        assert!(ours.keys().eq(expected.keys()), "{}", file.display());
        let ntp = self.requests + self.responses + self.control;
        let ntp = ntp + self.private + self.broadcast + self.symmetric;
        assert_eq!(ours["ntp_packets"], ntp, "{}", file.display());
    }
}

/// Counted by hand, with `tshark -T fields -e frame.protocols -e ntp.flags.mode -e ntp.org -e ntp.xmt`.
fn counted_by_hand() -> Vec<(&'static str, Counts)> {
    let nothing = || Counts::NOTHING;
    vec![
        (
            // Four frames are NTP to tshark. Two of them (218, 226's and its like) are ICMPv6 errors that
            // quote a request: ICMP. not_ip: 67 IS-IS and 7 LLDP; not_udp: 3 IGMP, 54 OSPF, 203 PIM, 14
            // TCP, 17 TCP over IPv6, 22 ICMPv6; other_port: syslog. The requests are to nobody.
            "arkime/ospf.pcap",
            Counts {
                packets: 394,
                requests: 2,
                unanswered: 2,
                skipped: &[("not_ip", 74), ("not_udp", 313), ("other_port", 5)],
                ..nothing()
            },
        ),
        ("ipfixprobe/ntp.pcap", Counts::pairs(28)),
        (
            // Five packets of five conversations: a request and a response between 2003:51:6012:121::2 and
            // :120::2 have two different addresses. One response goes to port 80.
            "pcapplusplus/Ntp.pcap",
            Counts {
                packets: 5,
                requests: 2,
                responses: 3,
                unanswered: 2,
                unsolicited: 3,
                ..nothing()
            },
        ),
        (
            // TCP 32; DNS 14, Dropbox 4 (two of them on lo0, link type NULL), QUIC 8, others 4.
            "pcapplusplus/many_interfaces-1.pcapng",
            Counts {
                packets: 64,
                skipped: &[("not_udp", 32), ("other_port", 30)],
                ..Counts::pairs(1)
            },
        ),
        (
            // An attack with 39,812 first fragments of ICMPv6 behind hop-by-hop options, 25 other ICMPv6
            // messages (one quotes the only request there is).
            "suricata-verify/denial6-6.pcap",
            Counts {
                packets: 39_838,
                requests: 1,
                unanswered: 1,
                skipped: &[("not_udp", 39_837)],
                ..nothing()
            },
        ),
        (
            // Both responses have a zero origin: whoever made them did not see the request.
            "suricata-verify/input.pcap",
            Counts {
                packets: 4,
                requests: 2,
                responses: 2,
                unanswered: 2,
                unsolicited: 2,
                ..nothing()
            },
        ),
        (
            "tcpdump/ntp-control.pcap",
            Counts {
                packets: 21,
                control: 21,
                ..nothing()
            },
        ),
        (
            "tcpdump/ntp-mode7.pcap",
            Counts {
                packets: 8,
                private: 8,
                ..nothing()
            },
        ),
        ("tcpdump/ntp-time-ef.pcap", Counts::pairs(1)),
        ("tcpdump/ntp-time.pcap", Counts::pairs(1)),
        (
            // The first response says STEP.
            "tcpdump/ntp.pcap",
            Counts {
                kiss_of_death: 1,
                ..Counts::pairs(4)
            },
        ),
        // PTP, over UDP on its own ports, and in Ethernet frames of its own ethertype.
        ("tcpdump/ptp.pcap", other_than_ntp(5, &[("other_port", 5)])),
        (
            "tcpdump/ptp_corrections.pcap",
            other_than_ntp(3, &[("other_port", 3)]),
        ),
        (
            "tcpdump/ptp_ethernet.pcap",
            other_than_ntp(205, &[("not_ip", 205)]),
        ),
        (
            "tcpdump/ptp_management.pcap",
            other_than_ntp(10, &[("not_ip", 10)]),
        ),
        (
            "tcpdump/ptp_v2_1.pcap",
            other_than_ntp(38, &[("not_ip", 38)]),
        ),
        (
            // One direction only.
            "zeek/NTP-digest.pcap",
            Counts {
                packets: 40,
                requests: 40,
                unanswered: 40,
                ..nothing()
            },
        ),
        (
            // 15 servers are asked in mode 1 and answer in mode 2; two packets are DNS. A passive peer's
            // answer is no question of its own.
            "zeek/NTP_sync.pcap",
            Counts {
                packets: 32,
                answered: 15,
                symmetric: 30,
                skipped: &[("other_port", 2)],
                ..nothing()
            },
        ),
        ("zeek/clean.pcap", Counts::pairs(6)),
        (
            // The "teardrop" attack on NetBIOS, from port 123. Frame 1 has ten zero bytes: NTP has no
            // version 0. Frame 2 is a later fragment. Frame 3 begins with 0x58, version 3 without a mode,
            // and comes from the NTP port to another: an answer to nothing. (tshark puts the fragments
            // together and shows zeros; tcpdump shows NTPv3.)
            "zeek/fragmented-1.pcap",
            Counts {
                packets: 3,
                responses: 1,
                unsolicited: 1,
                skipped: &[("fragment", 1), ("bad_version", 1)],
                ..nothing()
            },
        ),
        (
            // All of it inside GRE: six NTP packets, 22 TCP and 10 ICMP, two DNS.
            "zeek/gre-sample.pcap",
            Counts {
                packets: 40,
                skipped: &[("not_udp", 32), ("other_port", 2)],
                ..Counts::pairs(3)
            },
        ),
        // The response stands before its request, by a second.
        ("zeek/misordered-ntp.pcap", Counts::pairs(1)),
        (
            // Mode 4 with nonsense in it.
            "zeek/ntp-no-extensions-mac.pcap",
            Counts {
                packets: 1,
                responses: 1,
                unsolicited: 1,
                ..nothing()
            },
        ),
        ("zeek/ntp.pcap", Counts::pairs(16)),
        (
            "zeek/ntp2.pcap",
            Counts {
                packets: 35,
                private: 1,
                ..Counts::pairs(17)
            },
        ),
        (
            "zeek/ntpmode67.pcap",
            Counts {
                packets: 9,
                control: 6,
                private: 3,
                ..nothing()
            },
        ),
    ]
}

const fn other_than_ntp(packets: u64, skipped: &'static [(&'static str, u64)]) -> Counts {
    Counts {
        packets,
        skipped,
        ..Counts::NOTHING
    }
}

#[test]
fn summaries_of_public_captures_are_what_was_counted_by_hand() {
    let Some(folder) = public() else { return };
    let table = counted_by_hand();
    for (name, counts) in &table {
        counts.check(&folder.join(name));
    }
    // No capture is left out.
    let mut present: Vec<String> = Vec::new();
    for origin in fs::read_dir(&folder).unwrap() {
        let origin = origin.unwrap().path();
        if !origin.is_dir() {
            continue;
        }
        for file in fs::read_dir(origin).unwrap() {
            let file = file.unwrap().path();
            let extension = file.extension().and_then(OsStr::to_str);
            if matches!(extension, Some("pcap" | "pcapng")) {
                let name = file.strip_prefix(&folder).unwrap();
                present.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    present.sort();
    let mut known: Vec<_> = table.iter().map(|it| it.0).collect();
    known.sort_unstable();
    assert_eq!(present, known);
}

#[test]
fn summaries_of_our_captures_are_what_was_played() {
    for (name, counts) in [
        ("plain", Counts::pairs(48)),
        ("ipv6", Counts::pairs(48)),
        ("xleave", Counts::pairs(48)),
        ("nts", Counts::pairs(48)),
        ("tun", Counts::pairs(48)),
        ("vlan", Counts::pairs(48)),
        ("qinq", Counts::pairs(48)),
        ("ntpdate", Counts::pairs(6)),
        ("sntp", Counts::pairs(6)),
        // Its eight responses with stratum 0 have no letters in them: not synchronised, no kiss.
        ("openntpd", Counts::pairs(10)),
        (
            // Three times INIT while the server is not synchronised.
            "ntpsec",
            Counts {
                kiss_of_death: 3,
                ..Counts::pairs(65)
            },
        ),
        (
            // Once INIT, twice RATE.
            "kod",
            Counts {
                kiss_of_death: 3,
                ..Counts::pairs(3)
            },
        ),
        (
            // Every packet asks, and answers the other side's last. But 4 and 8 are never answered,
            // because the other side's next packet answers an older one again, and 96 is the last.
            "symmetric",
            Counts {
                packets: 96,
                symmetric: 96,
                answered: 93,
                unanswered: 3,
                ..Counts::NOTHING
            },
        ),
        (
            "broadcast",
            Counts {
                packets: 10,
                broadcast: 10,
                ..Counts::NOTHING
            },
        ),
        (
            "control",
            Counts {
                packets: 20,
                control: 20,
                ..Counts::NOTHING
            },
        ),
    ] {
        counts.check(&own(&format!("{name}.pcap")));
    }
}

/// How far the median exchange may be from chrony's figures, in seconds.
const CLOSE: f64 = 20e-6;
/// An offset of which chrony and we must agree on the sign, in seconds.
const LARGE: f64 = 30e-6;

/// The exchanges of the chrony client on 10.0.0.2, with what it logged of each.
fn with_chronys_log(name: &str) -> Vec<(Row, Measurement)> {
    let log = chrony::measurements(&text(&own(&format!("{name}.measurements.log")))).unwrap();
    let local = ["--local", "10.0.0.2", "--local", "fd00::2"];
    let mut rows = replay(&own(&format!("{name}.pcap")), &local).unwrap();
    rows.retain(|row| row.text("role") == Some("client") && row.flag("answered"));
    // In this case another daemon asks as well, from port 123.
    rows.retain(|row| name != "ntpsec" || row.text("client_port") != Some("123"));
    if rows.len() == log.len() + 1 {
        // An answer that chrony did not take it did not log either; so its next request is in the basic
        // mode again, and this answer was the one before that.
        let basic = |row: &Row| !row.flag("interleaved");
        let again = rows.iter().rposition(basic).unwrap();
        rows.remove(again - 1);
    }
    assert_eq!(rows.len(), log.len(), "{name}");
    for (row, it) in rows.iter().zip(&log) {
        let server: String = it.server.to_string();
        assert_eq!(row.text("server_ip"), Some(server.as_str()), "{name}");
        assert_eq!(row.flag("interleaved"), it.interleaved, "{name}");
        assert_eq!(row.number("mode"), Some(it.mode.into()), "{name}");
        assert_eq!(row.number("stratum"), Some(it.stratum.into()), "{name}");
    }
    rows.into_iter().zip(log).collect()
}

#[test]
fn offset_and_delay_on_the_clients_host_agree_with_chronys_log() {
    // Not in the list: vlan and qinq, where a process of the test's tags the frames between chrony and
    // the wire and takes its time; kod and openntpd, which have no samples; symmetric, below.
    for name in ["plain", "ipv6", "xleave", "nts", "tun", "ntpsec"] {
        let pairs = with_chronys_log(name);
        let mut differences = [const { Vec::new() }; 2];
        let mut interleaved = 0;
        for (row, chrony) in &pairs {
            let (Some(offset), Some(delay)) =
                (row.number("offset_seconds"), row.number("delay_seconds"))
            else {
                // Only a server that is not synchronised gives none.
                assert_eq!(row.number("leap_indicator"), Some(3.0), "{name}: {row:?}");
                continue;
            };
            differences[0].push(offset - chrony.offset);
            differences[1].push(delay - chrony.delay);
            if chrony.offset.abs() > LARGE {
                assert_eq!(offset > 0.0, chrony.offset > 0.0, "{name}: {row:?}");
            }
            if row.flag("interleaved") {
                interleaved += 1;
                // Its figures are of the exchange before; of its own times there is nothing to say.
                assert_eq!(row.text("server_processing_time_seconds"), None);
            }
        }
        let count = differences[0].len();
        let [offset, delay] = differences.map(|it| median(it).unwrap());
        eprintln!("{name}: {count} exchanges, median {offset:e} s offset, {delay:e} s delay");
        assert!(
            offset <= CLOSE && delay <= CLOSE,
            "{name}: {offset} {delay}"
        );
        assert!(
            count >= 40 && (interleaved > 40) == (name == "xleave"),
            "{name}"
        );
    }
}

#[test]
fn offset_and_delay_of_symmetric_peers_agree_with_chronys_log() {
    let log = chrony::measurements(&text(&own("symmetric.measurements.log"))).unwrap();
    let rows = replay(&own("symmetric.pcap"), &["--local", "10.0.0.2"]).unwrap();
    let figures = |row: &Row| Some((row.number("offset_seconds")?, row.number("delay_seconds")?));
    let ours: Vec<_> = rows.iter().filter_map(figures).collect();
    // chrony logs every packet of its peer, also where nothing was asked; and there is no telling which
    // of them, for it notes no finer time than seconds. So the typical ones are compared.
    let good: Vec<_> = log.iter().filter(|it| it.offset != 0.0).collect();
    assert!(ours.len() >= 40 && good.len() >= 40);
    let difference = |ours: f64, chrony: f64| (ours - chrony).abs();
    let [our_offset, our_delay] = [
        median(ours.iter().map(|it| it.0)).unwrap(),
        median(ours.iter().map(|it| it.1)).unwrap(),
    ];
    let [offset, delay] = [
        median(good.iter().map(|it| it.offset)).unwrap(),
        median(good.iter().map(|it| it.delay)).unwrap(),
    ];
    assert!(
        difference(our_offset, offset) <= CLOSE,
        "{our_offset} {offset}"
    );
    assert!(difference(our_delay, delay) <= CLOSE, "{our_delay} {delay}");
}

/// All of our captures, in one order.
fn all_own() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(own(""))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension() == Some(OsStr::new("pcap")))
        .collect();
    files.sort();
    assert!(files.len() >= 15);
    files
}

#[test]
fn every_line_has_the_documented_fields_in_their_order_and_of_their_types() {
    let mut files = all_own();
    if let Some(folder) = public() {
        files.extend(counted_by_hand().iter().map(|(name, _)| folder.join(name)));
    }
    let mut lines = 0;
    for file in files {
        let local = ["replay", "--format", "ndjson", "--local", "10.0.0.2"].map(OsStr::new);
        let run = ntpmon::run(local.into_iter().chain([file.as_os_str()])).unwrap();
        for line in objects(&run.printed().unwrap()).unwrap() {
            assert!(line.keys().eq(FIELDS.iter()), "{line:?}");
            check_types(&line);
            lines += 1;
        }
    }
    assert!(lines > 500, "{lines}");
}

fn check_types(line: &Map<String, Value>) {
    for (name, value) in line {
        let is_right = match name.as_str() {
            "client_ip" | "server_ip" => value
                .as_str()
                .is_some_and(|it| it.parse::<std::net::IpAddr>().is_ok()),
            "client_port" | "server_port" | "packet_length" | "duplicates" | "request_frame"
            | "ntp_version" | "mode" | "leap_indicator" | "stratum" => value.is_u64(),
            "poll_interval" | "precision" => value.is_i64(),
            "root_delay" | "root_dispersion" => value.is_number(),
            "reference_timestamp"
            | "originate_timestamp"
            | "receive_timestamp"
            | "transmit_timestamp"
            | "client_to_server_latency_seconds"
            | "server_processing_time_seconds"
            | "total_process_time_seconds"
            | "offset_seconds"
            | "delay_seconds" => value.is_null() || value.is_f64(),
            "session_timestamp" => value
                .as_str()
                .is_some_and(|it| it.len() == 30 && it.ends_with('Z') && rfc3339(it).is_ok()),
            "answered" | "interleaved" => value.is_boolean(),
            "client_clock" => ["unknown", "honest", "randomised"]
                .iter()
                .any(|it| value == it),
            "role" => {
                value.is_null() || ["server", "client", "transit"].iter().any(|it| value == it)
            }
            "authentication" => ["none", "mac", "crypto_nak", "nts", "ms_sntp", "unknown"]
                .iter()
                .any(|it| value == it),
            "interface_name" | "reference_id" | "kiss_code" => value.is_null() || value.is_string(),
            "response_frame" => value.is_null() || value.is_u64(),
            _ => false,
        };
        assert!(is_right, "{name} is {value} in {line:?}");
    }
    let answered = line["answered"] == true;
    assert_eq!(answered, line["response_frame"].is_u64(), "{line:?}");
    assert!(
        answered || line["server_processing_time_seconds"].is_null(),
        "{line:?}"
    );
    assert_eq!(
        line["offset_seconds"].is_null(),
        line["delay_seconds"].is_null(),
        "{line:?}"
    );
    let is_client = line["role"] == "client";
    assert!(is_client || line["offset_seconds"].is_null(), "{line:?}");
}

fn ndjson(files: &[&Path]) -> String {
    let arguments = ["replay", "--format", "ndjson", "--local", "10.0.0.2"].map(OsStr::new);
    let files = files.iter().map(|file| file.as_os_str());
    ntpmon::run(arguments.into_iter().chain(files))
        .unwrap()
        .printed()
        .unwrap()
}

fn packed(bytes: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    [
        ("gz", gzip.finish().unwrap()),
        ("zst", zstd::encode_all(bytes, 1).unwrap()),
    ]
}

#[test]
fn the_same_packets_give_the_same_lines_in_every_kind_of_file() {
    let folder = folder().unwrap();
    let original = own("plain.pcap");
    let capture = pcap::read(&original).unwrap();
    let expected = ndjson(&[&original]);
    assert_eq!(expected.lines().count(), 48);

    let bytes = fs::read(&original).unwrap();
    let swapped = Form {
        swapped: true,
        microseconds: false,
    };
    let mut kinds = vec![("swapped", pcap::write(&capture, swapped))];
    kinds.extend(packed(&bytes));
    for link in Link::ALL {
        let carried = link.carry(&capture).unwrap();
        kinds.push(("another link", pcap::write(&carried, Form::default())));
    }
    for (kind, bytes) in &kinds {
        let file = folder.path().join(kind);
        fs::write(&file, bytes).unwrap();
        assert_eq!(ndjson(&[&file]), expected, "{kind}");
        let arguments = ["replay", "--format", "ndjson", "--local", "10.0.0.2", "-"];
        let piped = ntpmon::run_with_input(bytes, &arguments).unwrap();
        assert_eq!(piped.printed().unwrap(), expected, "{kind}, through a pipe");
    }

    let file = folder.path().join("editcap.pcapng");
    process::run(
        Command::new("editcap")
            .args(["-F", "pcapng"])
            .args([&original, &file]),
    )
    .unwrap();
    assert_eq!(ndjson(&[&file]), expected, "pcapng by editcap");
}

#[test]
fn microseconds_are_read_alike_from_every_kind_of_file() {
    let folder = folder().unwrap();
    let capture = pcap::read(&own("ipv6.pcap")).unwrap();
    let mut outputs = Vec::new();
    for swapped in [false, true] {
        let form = Form {
            swapped,
            microseconds: true,
        };
        let file = folder.path().join("microseconds");
        fs::write(&file, pcap::write(&capture, form)).unwrap();
        outputs.push(ndjson(&[&file]));
    }
    let file = folder.path().join("editcap");
    process::run(
        Command::new("editcap")
            .args(["-F", "pcap"])
            .args([&own("ipv6.pcap"), &file]),
    )
    .unwrap();
    outputs.push(ndjson(&[&file]));
    assert!(outputs.iter().all(|output| *output == outputs[0]));
    let rows = objects(&outputs[0]).unwrap();
    assert_eq!(rows.len(), 48);
    for row in rows {
        let time = row["session_timestamp"].as_str().unwrap();
        assert!(time.ends_with("000Z"), "{time}");
    }
}

/// Frame numbers are those of each file.
fn without_frames(output: &str) -> Vec<Map<String, Value>> {
    let mut objects = objects(output).unwrap();
    for object in &mut objects {
        object.retain(|name, _| !name.ends_with("_frame"));
    }
    objects
}

#[test]
fn exchanges_pair_across_the_border_of_two_files() {
    let folder = folder().unwrap();
    let whole = pcap::read(&own("ipv6.pcap")).unwrap();
    let expected = without_frames(&ndjson(&[&own("ipv6.pcap")]));
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    for border in 0..=whole.packets.len() {
        let (before, after) = whole.packets.split_at(border);
        for (file, packets) in [(&one, before), (&other, after)] {
            let part = Capture {
                link_type: whole.link_type,
                packets: packets.to_vec(),
            };
            fs::write(file, pcap::write(&part, Form::default())).unwrap();
        }
        let output = without_frames(&ndjson(&[&one, &other]));
        assert_eq!(output, expected, "at packet {border}");
    }
}

/// Symmetric peers, whose packets wait for an answer until the next poll, and a client in between.
fn peers_and_a_client() -> Capture {
    let mut peers = pcap::read(&own("symmetric.pcap")).unwrap();
    let mut client = pcap::read(&own("plain.pcap")).unwrap().packets;
    let shift = peers.packets[1].time - client[0].time;
    for packet in &mut client {
        packet.time += shift;
    }
    peers.packets.extend(client);
    peers.packets.sort_by_key(|packet| packet.time);
    peers
}

#[test]
fn exchanges_are_printed_in_the_order_of_their_requests() {
    let folder = folder().unwrap();
    let file = folder.path().join("peers");
    fs::write(&file, pcap::write(&peers_and_a_client(), Form::default())).unwrap();
    let rows = replay(&file, &[]).unwrap();
    assert_eq!(rows.len(), 96 + 48);
    let frames: Vec<_> = rows
        .iter()
        .map(|row| row.number("request_frame").unwrap())
        .collect();
    assert!(frames.is_sorted(), "{frames:?}");
}

#[test]
fn interfaces_of_a_file_keep_their_names_whatever_these_are() {
    let folder = folder().unwrap();
    let file = folder.path().join("named");
    let names = ["eth0", "a \u{1b}[31mred\r\n, \"odd\" one", "c"];
    let capture = pcap::read(&own("plain.pcap")).unwrap();
    fs::write(&file, pcap::write_ng(&capture, &names)).unwrap();
    // Reads NDJSON and CSV, and holds them against each other.
    let rows = replay(&file, &[]).unwrap();
    assert_eq!(rows.len(), 48);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.text("interface_name"), Some(names[index % 3]));
        assert!(row.flag("answered"));
    }
    let table = ntpmon::run([OsStr::new("replay"), file.as_os_str()]);
    let table = table.unwrap().printed().unwrap();
    assert_eq!(table.lines().count(), 48);
    assert!(!table.contains(['\u{1b}', '\r']), "{table:?}");
}

#[test]
fn requests_and_responses_of_two_interfaces_do_not_pair() {
    let folder = folder().unwrap();
    let file = folder.path().join("two");
    let mut capture = pcap::read(&own("plain.pcap")).unwrap();
    // Request 1 and response 1 come to stand on either side of a change of interfaces.
    capture.packets.truncate(2);
    capture.packets.insert(0, capture.packets[0].clone());
    capture.packets[0].bytes[12] = 0x99;
    fs::write(&file, pcap::write_ng(&capture, &["one", "other"])).unwrap();
    let summary = summary(&file);
    assert_eq!(
        (&summary["unanswered"], &summary["unsolicited"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn a_table_that_is_no_terminals_has_no_header_and_no_colour() {
    for file in all_own() {
        let ended = ntpmon::run([OsStr::new("replay"), file.as_os_str()]).unwrap();
        let name = file.file_stem().and_then(OsStr::to_str).unwrap();
        assert_eq!(ended.code, Some(0));
        assert!(!ended.stdout.contains(['\u{1b}', '\t']), "{name}");
        assert!(!ended.stdout.contains("CLIENT"), "{name}");
        assert!(ended.stdout.lines().all(|line| line.trim_end() == line));
        assert_eq!(
            ended.stdout.lines().count(),
            replay(&file, &[]).unwrap().len()
        );
        // Who waited for lines is told why there are none.
        let is_empty = ended.stdout.is_empty();
        assert_eq!(is_empty, matches!(name, "broadcast" | "control"), "{name}");
        assert_eq!(
            is_empty,
            ended.stderr.starts_with("no exchanges in "),
            "{name}"
        );
        assert_eq!(ended.stderr.lines().count(), usize::from(is_empty));
    }
}

#[test]
fn a_header_comes_at_a_terminal_and_again_after_forty_lines() {
    // util-linux's script gives it a terminal.
    let folder = folder().unwrap();
    let command = format!(
        "{} replay {}",
        ntpmon_tests::watch::binary().unwrap().display(),
        own("plain.pcap").display()
    );
    let output = process::run(
        Command::new("script")
            .args(["--quiet", "--return", "--command", &command])
            .arg(folder.path().join("typescript")),
    )
    .unwrap();
    assert_eq!(output.matches("CLIENT").count(), 2, "{output}");
    assert!(output.contains("\u{1b}[1m"), "{output:?}");
    // A file can be of any day.
    for row in replay(&own("plain.pcap"), &[]).unwrap() {
        let time = row.text("session_timestamp").unwrap().replace('T', " ");
        assert!(output.contains(&time[..26]), "{time} is not in {output}");
    }
}

/// A replay of standard input, which the test writes to.
fn live(options: &[&str]) -> (std::process::Child, std::process::ChildStdin, Printed) {
    let mut child = ntpmon::command(&[])
        .unwrap()
        .args(["replay", "--format", "ndjson"])
        .args(options)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    let printed = Printed(BufReader::new(child.stdout.take().unwrap()));
    (child, input, printed)
}

struct Printed(BufReader<std::process::ChildStdout>);

impl Printed {
    /// The next lines, however long they take to come; fewer at the end.
    fn lines(&mut self, count: usize) -> Vec<Map<String, Value>> {
        let lines = self.0.by_ref().lines().take(count);
        let lines: Vec<String> = lines.map(Result::unwrap).collect();
        objects(&lines.join("\n")).unwrap()
    }
}

fn is_ended_well(child: std::process::Child) {
    let ended = ntpmon::Ended::of(child.wait_with_output().unwrap()).unwrap();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_silent_pipe_is_printed_and_goes_on() {
    let whole = pcap::write(&pcap::read(&own("plain.pcap")).unwrap(), Form::default());
    // 24 bytes of header; a packet has 16 and a frame of 90.
    let packet = 16 + 90;
    for packed in [false, true] {
        let (child, mut input, mut printed) = live(&["--timeout", "0.5"]);
        let mut write = |piece: &[u8]| {
            if packed {
                input
                    .write_all(&zstd::encode_all(piece, 1).unwrap())
                    .unwrap();
            } else {
                input.write_all(piece).unwrap();
            }
        };
        // Three packets: an exchange, and a request that waits in vain.
        let (before, after) = whole.split_at(24 + 3 * packet);
        write(before);
        let lines = printed.lines(2);
        assert_eq!(lines[0]["answered"], true);
        assert_eq!(lines[1]["answered"], false);
        write(&after[packet..]);
        drop(input);
        assert_eq!(printed.lines(100).len(), 46);
        is_ended_well(child);
    }
}

#[test]
fn a_pipe_that_is_silent_within_a_packet_has_more_to_come() {
    let whole = pcap::write(&pcap::read(&own("plain.pcap")).unwrap(), Form::default());
    let (child, mut input, mut printed) = live(&["--timeout", "0.1"]);
    // The first response comes in two pieces, two seconds apart.
    let (before, after) = whole.split_at(24 + 106 + 50);
    input.write_all(before).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    input.write_all(after).unwrap();
    drop(input);
    let lines = printed.lines(100);
    assert_eq!(lines.len(), 48);
    assert!(lines.iter().all(|line| line["answered"] == true));
    is_ended_well(child);
}

#[test]
fn what_was_read_before_a_signal_is_printed() {
    let bytes = fs::read(own("plain.pcap")).unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // Nothing is due for an hour; and without even a header there is nothing at all.
        for (piece, expected) in [(&bytes[..], 48), (&[], 0)] {
            let (child, mut input, mut printed) = live(&["--timeout", "3600"]);
            input.write_all(piece).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(500));
            // SAFETY: kill takes no pointers; the id is of our own child, which was not reaped yet.
            let sent = unsafe { libc::kill(i32::try_from(child.id()).unwrap(), signal) };
            assert_eq!(sent, 0);
            assert_eq!(printed.lines(100).len(), expected);
            is_ended_well(child);
        }
    }
}

#[test]
fn packets_without_a_time_pair_and_have_none() {
    let capture = pcap::read(&own("plain.pcap")).unwrap();
    let mut file = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let body_length = body.len().next_multiple_of(4);
        let length = u32::try_from(12 + body_length).unwrap().to_le_bytes();
        file.extend(kind.to_le_bytes());
        file.extend(length);
        file.extend(body);
        file.resize(file.len() + body_length - body.len(), 0);
        file.extend(length);
    };
    let section = [
        &0x1a2b_3c4d_u32.to_le_bytes()[..],
        &[1, 0, 0, 0],
        &[0xff; 8],
    ]
    .concat();
    block(0x0a0d_0d0a, &section);
    block(1, &[1, 0, 0, 0, 0, 0, 0, 0]);
    for packet in &capture.packets {
        let length = u32::try_from(packet.bytes.len()).unwrap().to_le_bytes();
        block(3, &[&length[..], &packet.bytes].concat());
    }
    let folder = folder().unwrap();
    let path = folder.path().join("simple");
    fs::write(&path, file).unwrap();
    let rows = replay(&path, &["--local", "10.0.0.2"]).unwrap();
    assert_eq!(rows.len(), 48);
    for row in rows {
        assert!(row.flag("answered"));
        for name in [
            "session_timestamp",
            "total_process_time_seconds",
            "offset_seconds",
        ] {
            assert_eq!(row.text(name), None, "{name}");
        }
        assert_eq!(row.text("client_clock"), Some("unknown"));
        assert!(row.text("server_processing_time_seconds").is_some());
        // Stamps in the packets are of this century all the same.
        assert!(row.number("receive_timestamp").unwrap() > 1.7e9);
    }
    let table = ntpmon::run([OsStr::new("replay"), path.as_os_str()]).unwrap();
    assert!(
        table
            .printed()
            .unwrap()
            .lines()
            .all(|line| line.starts_with("- "))
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for format in ["ndjson", "csv", "table"] {
        // More than a pipe holds.
        let mut child = ntpmon::command(&[])
            .unwrap()
            .args(["replay", "--format", format])
            .args(all_own())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        drop(stdout);
        let ended = ntpmon::Ended::of(child.wait_with_output().unwrap()).unwrap();
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{format}"
        );
        assert!(line.ends_with('\n'));
    }
}

#[test]
fn csv_begins_with_the_names_and_has_as_many_fields_everywhere() {
    let file = own("ntpsec.pcap");
    let arguments = ["replay", "--format", "csv"].map(OsStr::new);
    let printed = ntpmon::run(arguments.into_iter().chain([file.as_os_str()]));
    let records = csv(&printed.unwrap().printed().unwrap()).unwrap();
    assert_eq!(records.len(), 66);
    assert!(records[0].iter().eq(FIELDS.iter()));

    // Also where no exchange follows.
    let file = own("broadcast.pcap");
    let printed = ntpmon::run(arguments.into_iter().chain([file.as_os_str()]));
    let names = csv(&printed.unwrap().printed().unwrap()).unwrap();
    assert_eq!(names, records[..1]);
}
