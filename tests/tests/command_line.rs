//! The command line as its users meet it: what is wrong is said in one clear line, with exit code 2 for
//! wrong arguments and 1 for failures, and never with a panic or a backtrace; what is printed is
//! documented.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use ntpmon_tests::{
    namespace::{Namespace, folder},
    ntpmon::{self, Ended, objects},
    watch::{Watch, binary},
    workspace,
};
use serde_json::{Map, Value};

fn own(name: &str) -> PathBuf {
    workspace().join("tests/captures").join(name)
}

fn run(arguments: &str) -> Ended {
    ntpmon::run(arguments.split_whitespace()).unwrap()
}

/// What clap adds below the line that says what is wrong.
const HINTS: [&str; 6] = [
    "Usage: ntpmon",
    "For more information, try '--help'.",
    "  [possible values: ",
    "  tip: ",
    "  <FILE>...",
    "",
];

/// Wrong arguments: said in one line, in which all of `words` stand.
fn is_usage_error(arguments: &str, words: &[&str]) {
    let ended = run(arguments);
    assert_eq!(ended.code, Some(2), "{arguments}: {ended:?}");
    assert_eq!(ended.stdout, "", "{arguments}");
    let mut lines = ended.stderr.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("error: "), "{arguments}: {first}");
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "{arguments}: no {word} in {}",
            ended.stderr
        );
    }
    for line in lines {
        let is_hint = HINTS
            .iter()
            .any(|hint| line == *hint || (!hint.is_empty() && line.starts_with(hint)));
        assert!(is_hint, "{arguments}: {line}");
    }
}

/// A failure: one line, in which all of `words` stand.
fn is_failure(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.starts_with("ntpmon: "), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.ends_with('\n'), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no {word} in {ended:?}");
    }
}

#[test]
fn wrong_arguments_are_named_with_what_would_be_right() {
    for (arguments, words) in [
        ("wotch", &["'wotch'", "watch"][..]),
        ("replay", &["<FILE>"]),
        ("replay --port 0 file", &["'0'", "--port", "1..=65535"]),
        ("replay --port 65536 file", &["65536", "1..=65535"]),
        ("watch --port ntp", &["'ntp'", "--port"]),
        (
            "watch --port 1 --port 2 --port 3 --port 4 --port 5 --port 6 --port 7 --port 8 --port 9",
            &["--port", "9", "at most 8"],
        ),
        (
            "replay --timeout 0 file",
            &["--timeout", "between 0.001 and 3600"],
        ),
        (
            "replay --timeout NaN file",
            &["NaN", "between 0.001 and 3600"],
        ),
        ("replay --timeout soon file", &["soon", "--timeout"]),
        ("watch --rings 3", &["3 is not 1, 2 or 4"]),
        ("watch --ring-size 0", &["'0'", "--ring-size", "4..="]),
        ("replay --format xml file", &["'xml'", "table, ndjson, csv"]),
        (
            "replay --format csv --summary file",
            &["--format", "--summary"],
        ),
        ("watch --format csv --summary", &["--format", "--summary"]),
        ("replay --local here file", &["'here'", "--local"]),
        ("watch -i", &["--interface"]),
        ("watch eth0", &["'eth0'"]),
    ] {
        is_usage_error(arguments, words);
    }
}

#[test]
fn a_wrong_log_setting_is_a_usage_error() {
    let mut command = ntpmon::command(&[]).unwrap();
    command.args(["replay", "file"]).env("NTPMON_LOG", "dbug");
    let ended = Ended::of(command.output().unwrap()).unwrap();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let first = ended.stderr.lines().next().unwrap();
    assert!(first.starts_with("error: NTPMON_LOG='dbug': "), "{first}");
}

#[test]
fn without_arguments_there_is_help_and_exit_code_2() {
    let ended = run("");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert_eq!(ended.stderr, run("--help").printed().unwrap());
}

#[test]
fn every_subcommand_helps() {
    let all = run("--help").printed().unwrap();
    for command in ["watch", "replay", "cleanup"] {
        assert!(all.contains(&format!("\n  {command} ")), "{all}");
        let help = run(&format!("{command} --help")).printed().unwrap();
        assert_eq!(help, run(&format!("help {command}")).printed().unwrap());
        assert!(help.contains(&format!("Usage: ntpmon {command}")), "{help}");
        // Each option says what it is for, in more than its name.
        let mut lines = help.lines().peekable();
        while let Some(line) = lines.next() {
            let line = line.trim_start();
            if line.starts_with('-') && !line.starts_with("- ") && !line.contains("  ") {
                let explained = lines.peek().is_some_and(|next| next.trim().len() > 10);
                assert!(explained, "{line}");
            }
        }
    }
    assert!(run("--version").printed().unwrap().starts_with("ntpmon "));
}

#[test]
fn an_unknown_interface_is_named_with_those_that_there_are() {
    for command in ["watch", "cleanup"] {
        is_failure(&run(&format!("{command} -i nosuch0")), &["nosuch0", "lo"]);
    }
}

#[test]
fn without_a_default_route_an_interface_has_to_be_named() {
    let namespace = Namespace::new().unwrap();
    // It names the loopback, by which nothing leaves.
    namespace.ip("-6 route add unreachable default").unwrap();
    let mut command = namespace.command("timeout");
    command.args(["--signal=KILL", "60"]).arg(binary().unwrap());
    let output = command
        .arg("watch")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    is_failure(&Ended::of(output).unwrap(), &["default route", "-i"]);
}

#[test]
fn every_missing_capability_is_named() {
    // Root has what its bounding set leaves it.
    for (without, missing) in [
        ("-bpf,-sys_admin", &["CAP_BPF"][..]),
        ("-perfmon,-sys_admin", &["CAP_PERFMON"]),
        ("-net_admin", &["CAP_NET_ADMIN"]),
        (
            "-bpf,-perfmon,-net_admin,-sys_admin",
            &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        ),
    ] {
        for arguments in [&["watch", "-i", "lo"][..], &["cleanup"]] {
            let bounding = format!("--bounding-set={without}");
            let before = ["setpriv", &bounding];
            let output = ntpmon::command(&before).unwrap().args(arguments).output();
            let ended = Ended::of(output.unwrap()).unwrap();
            is_failure(&ended, missing);
            for name in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
                // Below, the way to get all three is told in small letters.
                assert_eq!(
                    ended.stderr.contains(name),
                    missing.contains(&name),
                    "{ended:?}"
                );
            }
        }
    }
}

#[test]
fn replaying_needs_no_privileges() {
    let before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let mut command = ntpmon::command(&before).unwrap();
    command.args(["replay", "--summary"]);
    let output = command.arg(own("kod.pcap")).output().unwrap();
    Ended::of(output).unwrap().printed().unwrap();
}

fn replay(options: &[&str], file: &Path) -> Ended {
    let options = options.iter().map(OsStr::new);
    let arguments = [OsStr::new("replay")].into_iter().chain(options);
    ntpmon::run(arguments.chain([file.as_os_str()])).unwrap()
}

#[test]
fn a_file_that_is_no_capture_is_named() {
    let folder = folder().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("foreign"), "PK\u{3}\u{4} is a zip file").unwrap();
    fs::write(path("short"), [0xd4, 0xc3, 0xb2, 0xa1, 2]).unwrap();
    fs::create_dir(path("directory")).unwrap();
    for (name, words) in [
        ("empty", &["is empty"][..]),
        ("foreign", &["not a capture file", "50 4b 03 04"]),
        ("short", &["cut off", "header"]),
        ("directory", &["directory"]),
        ("missing", &["No such file"]),
    ] {
        for options in [&["--summary"][..], &["--format", "csv"], &[]] {
            let ended = replay(options, &path(name));
            is_failure(&ended, words);
            is_failure(&ended, &[path(name).to_str().unwrap()]);
        }
    }
    for input in [&b""[..], b"hello, world"] {
        let ended = ntpmon::run_with_input(input, &["replay", "-"]).unwrap();
        is_failure(&ended, &["standard input"]);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let folder = folder().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let mut command = ntpmon::command(&before).unwrap();
    let output = command.arg("replay").arg(&file).output().unwrap();
    let ended = Ended::of(output).unwrap();
    is_failure(&ended, &[file.to_str().unwrap(), "Permission denied"]);
}

#[test]
fn what_stands_before_the_end_of_a_cut_file_is_reported() {
    let folder = folder().unwrap();
    let file = folder.path().join("cut");
    let whole = fs::read(own("plain.pcap")).unwrap();
    // 24 bytes of header; a packet has 16 and a frame of 90. The 11th lacks its last byte.
    fs::write(&file, &whole[..24 + 11 * (16 + 90) - 1]).unwrap();
    let words = [file.to_str().unwrap(), "cut off in packet 11"];

    let ended = replay(&["--format", "ndjson"], &file);
    is_failure(&ended, &words);
    let lines = objects(&ended.stdout).unwrap();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line["answered"] == true));

    let ended = replay(&["--summary"], &file);
    is_failure(&ended, &words);
    let summary = objects(&ended.stdout).unwrap().remove(0);
    assert_eq!(
        (&summary["packets"], &summary["answered"]),
        (&10.into(), &5.into())
    );

    let ended = replay(&[], &file);
    is_failure(&ended, &words);
    assert_eq!(ended.stdout.lines().count(), 5);

    // As gzip leaves it when the disk is full: not even its checksum is there.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&whole).unwrap();
    let packed = gzip.finish().unwrap();
    fs::write(&file, &packed[..packed.len() / 2]).unwrap();
    let ended = replay(&["--format", "ndjson"], &file);
    is_failure(
        &ended,
        &[file.to_str().unwrap(), "compressed data ends early"],
    );
    assert!(ended.stdout.lines().count() > 20, "{ended:?}");
}

#[test]
fn a_file_with_a_fault_does_not_hide_those_behind_it() {
    let folder = folder().unwrap();
    let cut = folder.path().join("cut");
    let whole = fs::read(own("plain.pcap")).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let missing = folder.path().join("missing");
    let files = [&cut, &missing, &own("ipv6.pcap")];
    for (options, lines) in [(&["--format", "ndjson"][..], 96), (&["--summary"], 1)] {
        let mut command = ntpmon::command(&[]).unwrap();
        let output = command.arg("replay").args(options).args(files).output();
        let ended = Ended::of(output.unwrap()).unwrap();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.stdout.lines().count(), lines, "{ended:?}");
        let faults: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(faults.len(), 2, "{ended:?}");
        for (fault, file) in faults.iter().zip([&cut, &missing]) {
            assert!(fault.starts_with("ntpmon: "), "{fault}");
            assert!(fault.contains(file.to_str().unwrap()), "{fault}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    for options in [&["--summary"][..], &["--format", "ndjson"], &[]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = ntpmon::command(&[]).unwrap();
        command.arg("replay").args(options).arg(own("plain.pcap"));
        let output = command.stdout(full).output().unwrap();
        let ended = Ended::of(output).unwrap();
        is_failure(&ended, &["writing to standard output", "No space left"]);
    }
}

/// The rows of the tables of docs/output.md: what stands as code in the first column.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs/output.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn names_in(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                names.push(name.clone());
                names_in(value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names_in(value, names)),
        _ => {}
    }
}

fn names_of(object: Map<String, Value>) -> Vec<String> {
    let mut names = Vec::new();
    names_in(&Value::Object(object), &mut names);
    names
}

#[test]
fn every_name_that_is_printed_is_documented_and_no_other() {
    let lines = replay(&["--format", "ndjson"], &own("kod.pcap"));
    let mut printed = objects(&lines.printed().unwrap()).unwrap().remove(0);
    let summary = replay(&["--summary"], &own("kod.pcap")).printed().unwrap();
    printed.extend(objects(&summary).unwrap().remove(0));
    let mut printed = names_of(printed);

    let namespace = Namespace::new().unwrap();
    let watched = Watch::start(&namespace, &["lo"], &[]).unwrap().stop();
    printed.extend(names_of(watched.unwrap().totals));

    let documented = documented();
    for name in &printed {
        assert!(documented.contains(name), "{name} is not documented");
    }
    for name in &documented {
        // The formats and the exit codes are in tables as well.
        let is_other = ["table", "ndjson", "csv", "--format", "skipped"].contains(&name.as_str());
        assert!(
            is_other || printed.contains(name),
            "{name} is documented, and not printed"
        );
    }
}
