//! The real captures in the folder that the environment variable `NTPMON_CAPTURES` names. Number,
//! time, both lengths, interface and link type of each of their frames were compared with what
//! tshark says; what stands here is enough to notice a change.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::made::drain;
use crate::capture::pcap::Reader;

/// Path, number of frames, time of the first and of the last.
#[rustfmt::skip]
const EXPECTED: &[(&str, usize, u64, u64)] = &[
    ("arkime/ospf.pcap", 394, 1_571_662_508_236_681_000, 1_571_662_612_317_895_000),
    ("ipfixprobe/ntp.pcap", 56, 1_460_314_469_121_750_000, 1_460_314_538_172_525_000),
    ("pcapplusplus/Ntp.pcap", 5, 1_436_865_396_190_857_000, 1_644_345_560_000_000_000),
    ("pcapplusplus/many_interfaces-1.pcapng", 64, 1_439_753_725_701_607_000, 1_439_753_728_292_345_000),
    ("suricata-verify/denial6-6.pcap", 39_838, 1_538_129_707_320_093_000, 1_538_129_713_081_423_000),
    ("suricata-verify/input.pcap", 4, 1_776_288_565_592_867_000, 1_776_288_565_593_432_000),
    ("tcpdump/ntp-control.pcap", 21, 1_503_491_220_612_230_000, 1_503_491_235_553_109_000),
    ("tcpdump/ntp-mode7.pcap", 8, 1_504_596_142_252_624_000, 1_504_596_164_396_781_000),
    ("tcpdump/ntp-time-ef.pcap", 2, 1_660_224_210_254_335_000, 1_660_224_210_258_867_000),
    ("tcpdump/ntp-time.pcap", 2, 1_503_494_516_928_550_000, 1_503_494_516_928_851_000),
    ("tcpdump/ntp.pcap", 8, 1_497_881_530_230_949_000, 1_497_883_632_800_979_000),
    ("tcpdump/ptp.pcap", 5, 1_516_736_649_248_292_000, 1_516_736_650_034_796_000),
    ("tcpdump/ptp_corrections.pcap", 3, 1_665_510_746_679_146_000, 1_665_510_746_682_034_000),
    ("tcpdump/ptp_ethernet.pcap", 205, 1_582_303_627_869_101_000, 1_582_303_696_873_233_000),
    ("tcpdump/ptp_management.pcap", 10, 1_710_179_012_511_457_000, 1_710_179_049_031_526_000),
    ("tcpdump/ptp_v2_1.pcap", 38, 1_689_274_222_425_512_000, 1_689_274_232_588_105_000),
    ("zeek/NTP-digest.pcap", 40, 1_495_804_929_483_801_000, 1_495_806_130_498_492_000),
    ("zeek/NTP_sync.pcap", 32, 1_096_255_084_938_672_000, 1_096_255_085_599_961_000),
    ("zeek/clean.pcap", 12, 1_476_535_656_489_094_000, 1_476_535_739_793_479_000),
    ("zeek/fragmented-1.pcap", 3, 950_988_235_155_866_000, 950_988_235_156_457_000),
    ("zeek/gre-sample.pcap", 40, 1_055_289_968_793_044_000, 1_055_289_996_921_473_000),
    ("zeek/misordered-ntp.pcap", 2, 1_476_535_655_529_809_000, 1_476_535_656_489_094_000),
    ("zeek/ntp-no-extensions-mac.pcap", 1, 1_780_691_342_057_265_000, 1_780_691_342_057_265_000),
    ("zeek/ntp.pcap", 32, 1_559_246_614_027_454_000, 1_559_246_627_073_485_000),
    ("zeek/ntp2.pcap", 35, 1_559_246_885_027_478_000, 1_559_246_940_486_493_000),
    ("zeek/ntpmode67.pcap", 9, 1_558_603_188_282_844_000, 1_558_603_219_996_399_000),
];

/// Where no folder is named there is nothing to compare; one that is named must be there.
fn captures() -> Option<PathBuf> {
    let folder = env::var_os("NTPMON_CAPTURES")?;
    // Tests run in the folder of their crate, and people name paths from the workspace's.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Some(workspace.join(folder))
}

#[test]
fn real_captures_have_the_frames_that_tshark_sees() {
    let Some(folder) = captures() else {
        return;
    };
    for &(path, count, first, last) in EXPECTED {
        let mut reader = Reader::open(&folder.join(path))
            .unwrap_or_else(|error| panic!("NTPMON_CAPTURES: {error:#}"));
        let (frames, error) = drain(&mut reader);
        assert_eq!(error, None, "{path}");
        assert_eq!(frames.len(), count, "{path}");
        assert_eq!(frames[0].time, first, "{path}");
        assert_eq!(frames[count - 1].time, last, "{path}");
        assert!(
            frames
                .iter()
                .zip(1..)
                .all(|(frame, number)| frame.number == number)
        );
    }
}

#[test]
fn interfaces_of_a_real_capture_keep_their_names() {
    let Some(folder) = captures() else {
        return;
    };
    let path = folder.join("pcapplusplus/many_interfaces-1.pcapng");
    let mut reader = Reader::open(&path).unwrap();
    let (frames, _) = drain(&mut reader);
    let on = |name| {
        let here = |interface| reader.interface_name(interface) == Some(name);
        frames.iter().filter(|frame| here(frame.interface)).count()
    };
    assert_eq!((on("en0"), on("lo0")), (62, 2));
}
