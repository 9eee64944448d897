//! Loads ntpmon's kernel programs and attaches them in one named way, without a
//! fallback, so that a test can say what a kernel accepts and what it refuses. What the daemon
//! makes of a refusal is the daemon's; this shows the kernel's own answer.

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{PerCpuArray, RingBuf},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{self, NlOptions, TcAttachOptions},
    },
};
use ntpmon::capture::OBJECT;
use ntpmon_common::{
    Counter, Counters,
    settings::{MAX_RINGS, PortSet, globals},
};

const USAGE: &str =
    "usage: vm-probe plain|ptp|full INTERFACE tcx|clsact|xdp-driver|xdp-generic COMMAND...
plain: as few settings as possible; ptp: PTP besides; full: tunnels, PTP and four rings, the most that the verifier ever sees";

const RINGS: [&str; MAX_RINGS] = ["RING_0", "RING_1", "RING_2", "RING_3"];

/// Enough for every event of a run: the rings are only drained at the end.
const RING_BYTES: u32 = 4 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vm-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Attaches, runs the command, and reports what then is in the ring and in the counters.
fn run(arguments: &[String]) -> anyhow::Result<serde_json::Value> {
    let [settings, interface, mode, program, rest @ ..] = arguments else {
        bail!(USAGE);
    };
    let (decapsulate, ptp, ring_mask): (u8, u8, u8) = match settings.as_str() {
        "plain" => (0, 0, 0),
        "ptp" => (0, 1, 0),
        "full" => (1, 1, RINGS.len() as u8 - 1),
        _ => bail!(USAGE),
    };
    let ports = PortSet::of(&[123]);
    let mut loader = EbpfLoader::new();
    for ring in RINGS {
        loader.map_max_entries(ring, RING_BYTES);
    }
    let mut kernel_side = loader
        .override_global(globals::PORTS, ports.0.as_slice(), true)
        .override_global(globals::LINK, &0_u8, true)
        .override_global(globals::DECAPSULATE, &decapsulate, true)
        .override_global(globals::PTP, &ptp, true)
        .override_global(globals::RING_MASK, &ring_mask, true)
        .load(OBJECT)
        .context("loading the kernel object")?;
    attach(&mut kernel_side, interface, mode)?;
    let verified = kernel_side.programs().filter_map(|(name, program)| {
        let count = program.info().ok()?.verified_instruction_count()?;
        Some((name.to_owned(), count.into()))
    });
    let verified: serde_json::Map<_, _> = verified.collect();

    let status = Command::new(program)
        .args(rest)
        .status()
        .with_context(|| format!("starting {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    let mut report = report(&mut kernel_side, mode)?;
    report["verified_instructions"] = verified.into();
    Ok(report)
}

fn attach(kernel_side: &mut Ebpf, interface: &str, mode: &str) -> anyhow::Result<()> {
    let what = || format!("attaching to {interface} as {mode}");
    match mode {
        "tcx" | "clsact" => {
            if mode == "clsact" {
                tc::qdisc_add_clsact(interface)
                    .with_context(|| format!("adding clsact to {interface}"))?;
            }
            for (name, direction) in [
                ("tc_ingress", TcAttachType::Ingress),
                ("tc_egress", TcAttachType::Egress),
            ] {
                let options = if mode == "tcx" {
                    TcAttachOptions::TcxOrder(LinkOrder::default())
                } else {
                    TcAttachOptions::Netlink(NlOptions::default())
                };
                let classifier: &mut SchedClassifier = program(kernel_side, name)?;
                classifier
                    .load()
                    .with_context(|| format!("loading {name}"))?;
                classifier
                    .attach_with_options(interface, direction, options)
                    .with_context(what)?;
            }
        }
        "xdp-driver" | "xdp-generic" => {
            let mode = if mode == "xdp-driver" {
                XdpMode::Driver
            } else {
                XdpMode::Skb
            };
            let xdp: &mut Xdp = program(kernel_side, "xdp_ingress")?;
            xdp.load().context("loading xdp_ingress")?;
            xdp.attach(interface, mode).with_context(what)?;
        }
        _ => bail!(USAGE),
    }
    Ok(())
}

fn program<'a, P>(kernel_side: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    Ok(kernel_side
        .program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()?)
}

fn report(kernel_side: &mut Ebpf, mode: &str) -> anyhow::Result<serde_json::Value> {
    let mut events: u64 = 0;
    for name in RINGS {
        let map = kernel_side.map_mut(name);
        let mut ring = RingBuf::try_from(map.with_context(|| format!("no map {name}"))?)?;
        while ring.next().is_some() {
            events += 1;
        }
    }
    let counters: PerCpuArray<_, Counters> =
        PerCpuArray::try_from(kernel_side.map("COUNTERS").context("no map COUNTERS")?)?;
    let mut total = Counters::default();
    for of_one_cpu in counters.get(&0, 0).context("reading COUNTERS")?.iter() {
        total.add(of_one_cpu);
    }
    Ok(serde_json::json!({
        "mode": mode,
        "events": events,
        "emitted": total.get(Counter::Emitted),
        "ptp_emitted": total.get(Counter::PtpEmitted),
        "ring_full": total.get(Counter::RingFull),
    }))
}
