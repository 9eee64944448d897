//! The body behind every entry point: parse first, take the time, reserve last.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use aya_log_ebpf::debug;
use ntpmon_common::{
    Counter, Counters, Direction, Event, Packet, PtpEvent,
    parse::{self, Found, NtpFound, PtpFound, Settings},
    settings::{Link, PortSet, Switch},
};

/// Which UDP ports are NTP.
#[unsafe(no_mangle)]
static PORTS: PortSet = PortSet::EMPTY;
/// How a frame begins: see [`Link`].
#[unsafe(no_mangle)]
static LINK: Global<u8> = Global::new(Link::Ethernet as u8);
/// Whether to look into tunnels.
#[unsafe(no_mangle)]
static DECAPSULATE: Global<u8> = Global::new(0);
/// Whether PTP is recognised. Off, the verifier takes everything of it out.
#[unsafe(no_mangle)]
static PTP: Switch = Switch::OFF;
/// Rings in use, minus one.
#[unsafe(no_mangle)]
static RING_MASK: Global<u8> = Global::new(0);

// The loader sets the sizes; rings that are not in use stay at one page.
#[map]
static RING_0: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static RING_1: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static RING_2: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static RING_3: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn observe<C: EbpfContext, P: Packet>(
    context: &C,
    packet: &P,
    outer_tag: impl Fn() -> u16,
    interface: impl Fn() -> u32,
    direction: Direction,
) {
    let settings = Settings {
        ports: &PORTS,
        decapsulate: DECAPSULATE.load() != 0,
        ptp: &PTP,
    };
    let link = if LINK.load() == Link::Ip as u8 {
        Link::Ip
    } else {
        Link::Ethernet
    };
    let counter = match parse::find(packet, link, outer_tag, settings) {
        Ok(Found::Ntp(found)) => {
            // SAFETY: a helper without arguments.
            let time = unsafe { bpf_ktime_get_ns() };
            debug!(
                context,
                "ntp {} bytes, mode {}",
                found.payload_length(),
                found.mode()
            );
            emit(&found, packet, |event| {
                event.time = time;
                event.interface = interface();
                event.direction = direction as u8;
            })
        }
        Ok(Found::Ptp(found)) => {
            // SAFETY: a helper without arguments.
            let time = unsafe { bpf_ktime_get_ns() };
            emit_ptp(&found, packet, |event| {
                event.time = time;
                event.interface = interface();
                event.direction = direction as u8;
            })
        }
        Err(reason) => reason,
    };
    count(counter);
}

/// Writes the event where it will be read: a copy of it on the stack would cost as much as the parse.
#[inline(always)]
fn emit<P: Packet>(found: &NtpFound, packet: &P, complete: impl FnOnce(&mut Event)) -> Counter {
    let Some(mut record) = ring(ring_of(found, packet)).reserve::<Event>(0) else {
        return Counter::RingFull;
    };
    // SAFETY: integers only, of which `write` and `complete` read none and write all.
    let event = unsafe { record.assume_init_mut() };
    if let Err(reason) = found.write(packet, event) {
        // Cannot be: the packet is the one that it was found in. The verifier does not know.
        record.discard(0);
        return reason;
    }
    complete(event);
    // Nobody is woken: see the drain in user space.
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
    Counter::Emitted
}

/// The same for PTP.
#[inline(always)]
fn emit_ptp<P: Packet>(
    found: &PtpFound,
    packet: &P,
    complete: impl FnOnce(&mut PtpEvent),
) -> Counter {
    // All of a domain in one: who answers whom, and who is master, is seen by one thread.
    let Some(mut record) = ring(found.domain()).reserve::<PtpEvent>(0) else {
        return Counter::PtpRingFull;
    };
    // SAFETY: as above.
    let event = unsafe { record.assume_init_mut() };
    if let Err(reason) = found.write(packet, event) {
        // It says to be longer than what there is of it.
        record.discard(u64::from(BPF_RB_NO_WAKEUP));
        return reason;
    }
    complete(event);
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
    Counter::PtpEmitted
}

/// The ring for a number, of those in use.
#[inline(always)]
fn ring(number: u8) -> &'static RingBuf {
    match number & RING_MASK.load() {
        0 => &RING_0,
        1 => &RING_1,
        2 => &RING_2,
        _ => &RING_3,
    }
}

/// The same ring for all that passes between two hosts: a pair never crosses threads, and what is
/// learnt of a client's clock holds for its next request, which may come from another port.
#[inline(always)]
fn ring_of<P: Packet>(found: &NtpFound, packet: &P) -> u8 {
    if RING_MASK.load() == 0 {
        return 0;
    }
    found.hosts_hash(packet)
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and a program is not interrupted by itself. Egress inside
        // ingress on one CPU can meet between load and store only on kernels that preempt; the
        // worst is one count.
        unsafe { (*counters).0[counter as usize] += 1 };
    }
}
