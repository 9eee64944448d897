//! The kernel that most Debian machines have, 6.1, which has no TCX: the programs load and attach
//! there as they do here, and the same traffic counts the same. Each test runs one script twice,
//! on this machine in namespaces of its own and under that kernel in an emulated machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use ntpmon_tests::vm::Vm;
use serde_json::Value;

/// What the scripts need and the kernel does not have built in.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

/// Booting takes seconds, and then the verifier has to be emulated too.
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
until [ -s /run/server ]; do sleep 0.1; done
ask='ntp-traffic ask 10.123.0.2 answered=300 unanswered=20 duplicate=15 multiple=10 unsolicited=8
    kiss=5 control=6 private=4'
";

#[test]
fn linux_6_1_has_no_tcx_and_counts_the_same_through_clsact() {
    let probe = "
        if vm-probe $OBJECT near tcx true; then echo '{\"tcx\": true}'; else echo '{\"tcx\": false}'; fi
        vm-probe $OBJECT near clsact $ask
    ";
    let [here, there] = run_on_both(probe);
    assert_eq!(there[0]["tcx"], false);
    for [.., sent, seen] in [here.as_slice(), there.as_slice()] {
        assert_eq!(seen["emitted"], sent["ntp_packets"], "{seen}");
    }
}
