//! The kernel that most Debian machines have, Linux 6.1, which has no TCX: the programs load and
//! attach there as they do here, and the same traffic counts the same. Scripts run under that kernel in an
//! emulated machine and, to compare, on this machine in namespaces that end with the script.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use ntpmon_tests::vm::{Vm, find_program};
use serde_json::Value;

/// What the scripts need and that kernel does not have built in.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

/// Booting takes seconds, the emulated verifier many more.
const DEADLINE: Duration = Duration::from_secs(300);

/// A wire from `near` to `far`, with a server at the far end, and the traffic to send over it.
const WIRE: &str = "
set -e
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add far
ip link add near type veth peer name far netns far
ip address add 10.123.0.1/24 dev near
ip link set near up
ip -n far address add 10.123.0.2/24 dev far
ip -n far link set far up
ip netns exec far ntp-traffic serve 10.123.0.2 > /run/server &
server=$!
trap 'kill $server' EXIT
until [ -s /run/server ]; do sleep 0.1; done
ask='ntp-traffic ask 10.123.0.2 answered=300 unanswered=20 duplicate=15 multiple=10 unsolicited=8
    kiss=5 control=6 private=4'
uname -r | sed 's/.*/{\"kernel\": \"&\"}/'
";

/// Watches `near` during the traffic; $options are further arguments.
const WATCH: &str = "
ntpmon watch -i near --summary $options > /run/totals 2> /run/log &
watch=$!
until grep -q 'watching near' /run/log; do sleep 0.1; done
$ask
kill -INT $watch
wait $watch || { cat /run/log >&2; exit 1; }
cat /run/log >&2
cat /run/totals
";

#[test]
fn a_watch_under_linux_6_1_counts_the_same_through_clsact() {
    let [here, there] = run_on_both(WATCH);
    for run in [&here, &there] {
        let [_, sent, totals] = run.as_slice() else {
            panic!("expected the kernel, what was sent and the totals: {run:?}");
        };
        for (name, expected) in sent.as_object().expect("an object") {
            assert_eq!(&totals[name], expected, "{name} of {totals}");
        }
        assert_eq!(totals["lost"], 0);
    }
    let mode = there[2]["interfaces"].to_string();
    assert!(mode.contains("clsact") && !mode.contains("tcx"), "{mode}");
}

#[test]
fn a_watch_at_xdp_under_linux_6_1_counts_the_same() {
    let [here, there] = run_on_both(&format!("options=--xdp{WATCH}"));
    for name in there[1].as_object().expect("an object").keys() {
        assert_eq!(here[2][name], there[2][name], "{name}");
        assert_eq!(there[1][name], there[2][name], "{name}");
    }
    let mode = there[2]["interfaces"].to_string();
    assert!(
        mode.contains("xdp-driver") && mode.contains("clsact"),
        "{mode}"
    );
}

/// With few settings the verifier finds most of a program dead and does not look at it; with all
/// of them it sees everything.
#[test]
fn linux_6_1_takes_every_program_with_every_setting() {
    let there = under_linux_6_1(
        "
        if vm-probe plain near tcx true 2> /run/refusal; then exit 1; fi
        # EINVAL: the one answer on which the daemon turns to clsact.
        grep -q 'os error 22' /run/refusal
        for settings in plain ptp full; do
            for mode in clsact xdp-driver xdp-generic; do
                vm-probe $settings near $mode $ask
            done
            tc qdisc del dev near clsact
        done
        # A driver refuses programs without `frags` on frames of more than a page.
        ip link set near mtu 9000
        ip -n far link set far mtu 9000
        vm-probe plain near xdp-driver $ask
        ",
    );
    let runs = there[1..].chunks(2);
    assert_eq!(runs.len(), 10);
    for run in runs {
        let [sent, seen] = run else {
            panic!("expected what was sent and what was seen: {run:?}");
        };
        let count = |name: &str| sent[name].as_u64().expect("a number");
        // XDP sees what comes in: the server's half.
        let expected = if seen["mode"] == "clsact" {
            count("ntp_packets")
        } else {
            count("responses") + (count("control") + count("private")) / 2
        };
        assert_eq!(seen["emitted"], expected, "{seen}");
        assert_eq!(seen["events"], expected, "{seen}");
    }
}

/// Starts and ends a watch, and tells what hangs on `near`: filters of ours (by their handle) and of
/// others, and whether there is a clsact qdisc.
const FUNCTIONS: &str = r#"
start() {
    # Not that of an earlier one.
    : > /run/log$1
    ntpmon watch -i near --summary $options > /run/totals$1 2> /run/log$1 &
    eval "watch$1=$!"
    until grep -q 'watching near' /run/log$1; do
        kill -0 $! || { cat /run/log$1 >&2; exit 1; }
        sleep 0.1
    done
}
stop() {
    eval "id=\$watch$1"
    kill -INT $id
    wait $id || { echo "ended with $?" >&2; cat /run/log$1 >&2; exit 1; }
    cat /run/log$1 >&2
    cat /run/totals$1
}
murder() {
    kill -KILL $watch
    wait $watch || true
}
report() {
    tc filter show dev near ingress > /run/filters
    tc filter show dev near egress >> /run/filters
    ours=$(grep -c 'handle 0x6e74' /run/filters || true)
    theirs=$(grep -c 'handle 0x1 ' /run/filters || true)
    qdisc=$(tc qdisc show dev near | grep -c clsact || true)
    echo "{\"when\": \"$1\", \"ours\": $ours, \"theirs\": $theirs, \"qdisc\": $qdisc}"
}
"#;

/// What a report says: our filters, those of others, qdiscs.
fn assert_report(report: &Value, expected: [u64; 3]) {
    let counts = ["ours", "theirs", "qdisc"].map(|name| report[name].as_u64().expect("a number"));
    assert_eq!(counts, expected, "{report}");
}

fn assert_totals(totals: &Value, sent: &Value) {
    for (name, expected) in sent.as_object().expect("an object") {
        assert_eq!(&totals[name], expected, "{name} of {totals}");
    }
    assert_eq!(totals["lost"], 0, "{totals}");
}

#[test]
fn a_killed_watch_under_linux_6_1_leaves_nothing_that_the_next_one_does_not_take_away() {
    let there = under_linux_6_1(&format!(
        "{FUNCTIONS}
        start
        murder
        report killed
        start
        report again
        $ask
        stop
        report stopped

        start 1
        start 2
        stop 1 > /run/null
        report 'one of two'
        stop 2 > /run/null
        report neither

        tc qdisc add dev near clsact
        # A program that never matches.
        tc filter add dev near ingress handle 1 bpf bytecode '1,6 0 0 0'
        report theirs
        start
        murder
        ntpmon cleanup >&2
        report 'cleaned up'
        start
        murder
        start
        report 'beside theirs'
        $ask
        stop
        report 'theirs again'

        tc qdisc del dev near clsact
        tc qdisc add dev near ingress
        if ntpmon watch -i near 2> /run/refusal; then exit 1; fi
        grep -q 'qdisc ingress in the place that clsact needs' /run/refusal
        "
    ));
    let [
        _,
        killed,
        again,
        sent,
        totals,
        stopped,
        one_of_two,
        neither,
        theirs,
        cleaned_up,
        beside,
        sent_beside,
        totals_beside,
        theirs_again,
    ] = there.as_slice()
    else {
        panic!("expected what the script prints: {there:?}");
    };
    assert_report(killed, [2, 0, 1]);
    assert_report(again, [2, 0, 1]);
    assert_totals(totals, sent);
    assert_report(stopped, [0, 0, 0]);
    assert_report(one_of_two, [2, 0, 1]);
    assert_report(neither, [0, 0, 0]);
    assert_report(theirs, [0, 1, 1]);
    assert_report(cleaned_up, [0, 1, 1]);
    assert_report(beside, [2, 1, 1]);
    assert_totals(totals_beside, sent_beside);
    assert_report(theirs_again, [0, 1, 1]);
}

#[test]
fn pinned_filters_under_linux_6_1_lose_and_double_nothing_over_restarts() {
    let there = under_linux_6_1(&format!(
        "{FUNCTIONS}
        options=--pin
        start
        stop > /run/null
        report pinned
        # While nobody is there; while one starts, and is killed; and while one takes over.
        $ask
        start
        stop
        ntp-traffic ask 10.123.0.2 answered=3000 > /run/sent &
        asking=$!
        start
        stop
        start
        wait $asking
        cat /run/sent
        stop
        report 'still pinned'
        start
        murder
        $ask
        start
        stop
        ntpmon cleanup >&2
        report 'cleaned up'
        "
    ));
    let [
        _,
        pinned,
        sent,
        totals,
        totals_before,
        sent_meanwhile,
        totals_after,
        still_pinned,
        sent_to_nobody,
        totals_of_nobody,
        cleaned_up,
    ] = there.as_slice()
    else {
        panic!("expected what the script prints: {there:?}");
    };
    assert_report(pinned, [2, 0, 1]);
    assert_totals(totals, sent);
    let packets = |totals: &Value| totals["ntp_packets"].as_u64().expect("a number");
    assert_eq!(
        packets(totals_before) + packets(totals_after),
        packets(sent_meanwhile)
    );
    assert_report(still_pinned, [2, 0, 1]);
    assert_totals(totals_of_nobody, sent_to_nobody);
    assert_report(cleaned_up, [0, 0, 0]);
}

/// What the other tests would say of a kernel that our programs bring down or stop.
#[test]
fn a_guest_that_hangs_or_panics_is_an_error_with_its_console() {
    for (script, told) in [
        (
            "echo before the end >&2; sleep 600",
            "had not powered off after 15s",
        ),
        (
            "echo before the end >&2; echo c > /proc/sysrq-trigger",
            "sysrq triggered crash",
        ),
    ] {
        let error = vm().run(&[], script, Duration::from_secs(15));
        let message = error.expect_err("no script ended").to_string();
        assert!(message.contains("before the end"), "{message}");
        assert!(message.contains(told), "{message}");
    }
}

/// What the script printed, a JSON value a line, here and under the other kernel. The first is the
/// kernel's version.
fn run_on_both(script: &str) -> [Vec<Value>; 2] {
    [here(script), under_linux_6_1(script)]
}

fn here(script: &str) -> Vec<Value> {
    let mut path = programs_directory().into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    // Whatever the script leaves behind ends with its first process.
    let output = Command::new("timeout")
        .arg(DEADLINE.as_secs().to_string())
        .args(["unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "sh", "-c"])
        .arg(format!("{WIRE}{script}"))
        .env("PATH", path)
        .output()
        .expect("timeout and unshare are there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    println!("here:\n{errors}");
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The kernel is fetched once for all tests.
fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        fs::create_dir_all(&directory).expect("the target folder can be written");
        Vm::debian(&directory, &MODULES).expect("Debian's kernel")
    })
}

fn under_linux_6_1(script: &str) -> Vec<Value> {
    let own = ["ntpmon", "ntp-traffic", "vm-probe"].map(|name| programs_directory().join(name));
    let tools = ["ip", "tc"].map(|name| find_program(name).expect("Debian's package iproute2"));
    let programs: Vec<&Path> = own.iter().chain(&tools).map(PathBuf::as_path).collect();
    let output = vm()
        .run(&programs, &format!("{WIRE}{script}"), DEADLINE)
        .expect("the script runs to its end");
    println!("there:\n{}", output.console);
    assert_eq!(output.status, 0, "{}\n{}", output.stdout, output.console);
    let printed = parse(&output.stdout);
    let version = printed[0]["kernel"].as_str().unwrap_or_default();
    assert!(version.starts_with("6.1."), "that is Linux {version}");
    printed
}

/// Where cargo puts programs, the daemon among them: `cargo xtask test` has built it before.
fn programs_directory() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_vm-probe"))
        .parent()
        .expect("a program lies in a folder")
        .to_owned()
}

fn parse(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}
