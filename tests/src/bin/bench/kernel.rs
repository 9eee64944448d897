//! What the kernel programs cost a packet: `BPF_PROG_TEST_RUN` of an empty program, and of ours over
//! a TCP packet, a UDP packet that is not NTP, and an NTP request.

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use ntpmon_common::Counter;
use ntpmon_tests::programs::{self, Program, Programs, Settings};
use serde_json::{Value, json};

use crate::{
    OBJECT,
    frame::{ntp_request, packet},
    median,
};

/// Of each figure so many are taken, in turn with the others, and the median counts.
const ROUNDS: usize = 11;
const REPEAT: u32 = 1_000_000;
/// As many as the ring holds: what is lost would be cheaper than what is kept.
const REPEAT_NTP: u32 = 100_000;
const RING_BYTES: u32 = 16 << 20;

/// The cost of one kind of program, in nanoseconds a packet.
pub(crate) struct Figures {
    kind: &'static str,
    empty: u64,
    tcp: u64,
    udp: u64,
    ntp: u64,
}

pub(crate) fn measure() -> Result<Vec<Figures>> {
    let settings = Settings {
        ring_bytes: RING_BYTES,
        ..Settings::default()
    };
    let mut programs = Programs::load(&settings)?;
    let mut empty = Ebpf::load(OBJECT).context("load the benchmark's programs")?;
    let kinds = [
        ("tc", "empty_tc", Program::TcIngress),
        ("xdp", "empty_xdp", Program::XdpIngress),
    ];
    for (_, name, _) in kinds {
        programs::load_program(&mut empty, name)?;
    }
    kinds
        .into_iter()
        .map(|(kind, name, program)| measure_kind(kind, &empty, name, &mut programs, program))
        .collect()
}

fn measure_kind(
    kind: &'static str,
    empty: &Ebpf,
    name: &str,
    programs: &mut Programs,
    program: Program,
) -> Result<Figures> {
    let (tcp, udp, ntp) = (packet(6, 443), packet(17, 443), ntp_request());
    let mut taken: [Vec<u64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        taken[0].push(nanoseconds(programs::run(empty, name, &tcp, REPEAT)?));
        taken[1].push(nanoseconds(programs.run(program, &tcp, REPEAT)?));
        taken[2].push(nanoseconds(programs.run(program, &udp, REPEAT)?));
        taken[3].push(emitted(programs, program, &ntp)?);
    }
    let [empty, tcp, udp, ntp] = taken.map(median);
    Ok(Figures {
        kind,
        empty,
        tcp,
        udp,
        ntp,
    })
}

/// A round over an NTP packet counts only if an event came from every run of it.
fn emitted(programs: &mut Programs, program: Program, frame: &[u8]) -> Result<u64> {
    let before = programs.counters()?.get(Counter::Emitted);
    let duration = programs.run(program, frame, REPEAT_NTP)?;
    let counted = programs.counters()?.get(Counter::Emitted) - before;
    let drained = programs.drain(|_| ())?;
    ensure!(
        counted == u64::from(REPEAT_NTP) && drained == counted,
        "of {REPEAT_NTP} NTP packets {counted} were emitted and {drained} came out of the ring"
    );
    Ok(nanoseconds(duration))
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn print(figures: &[Figures]) {
    println!("kernel programs, ns a packet (and over the empty program)");
    println!(
        "{:>6} {:>8} {:>14} {:>14} {:>14}",
        "", "empty", "TCP", "other UDP", "NTP"
    );
    for figure in figures {
        let over = |value: u64| {
            format!(
                "{value} ({:+})",
                value.cast_signed() - figure.empty.cast_signed()
            )
        };
        println!(
            "{:>6} {:>8} {:>14} {:>14} {:>14}",
            figure.kind,
            figure.empty,
            over(figure.tcp),
            over(figure.udp),
            over(figure.ntp)
        );
    }
}

pub(crate) fn json(figures: &[Figures]) -> Value {
    figures
        .iter()
        .map(|figure| {
            let figures = json!({
                "empty_ns": figure.empty,
                "tcp_ns": figure.tcp,
                "udp_ns": figure.udp,
                "ntp_ns": figure.ntp,
            });
            (figure.kind.to_owned(), figures)
        })
        .collect()
}
