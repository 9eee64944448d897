//! The body behind every entry point: parse first, take the time, reserve last.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext, Global,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use aya_log_ebpf::debug;
use ntpmon_common::{
    Counter, Counters, Direction, Event, Packet,
    parse::{self, Settings},
    settings::{Link, PortSet},
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
    outer_tag: u16,
    interface: u32,
    direction: Direction,
) {
    let settings = Settings {
        ports: &PORTS,
        decapsulate: DECAPSULATE.load() != 0,
    };
    let link = if LINK.load() == Link::Ip as u8 {
        Link::Ip
    } else {
        Link::Ethernet
    };
    let mut event = MaybeUninit::<Event>::uninit();
    // SAFETY: integers only, of which the parser reads none and, unless it fails, writes all that
    // are not written below. Zeroing them would cost every packet that is not NTP.
    let event = unsafe { event.assume_init_mut() };
    let counter = match parse::parse(packet, link, outer_tag, settings, event) {
        Ok(()) => {
            event.interface = interface;
            event.direction = direction as u8;
            // SAFETY: a helper without arguments.
            event.time = unsafe { bpf_ktime_get_ns() };
            debug!(
                context,
                "ntp {} bytes, mode {}", event.payload_length, event.ntp.0[0] & 7
            );
            emit(event)
        }
        Err(reason) => reason,
    };
    count(counter);
}

#[inline(always)]
fn emit(event: &Event) -> Counter {
    let ring = match ring_of(event) & RING_MASK.load() {
        0 => &RING_0,
        1 => &RING_1,
        2 => &RING_2,
        _ => &RING_3,
    };
    let Some(mut record) = ring.reserve::<Event>(0) else {
        return Counter::RingFull;
    };
    record.write(*event);
    record.submit(0);
    Counter::Emitted
}

/// The same ring for both directions of a flow, so that a pair never crosses threads.
#[inline(always)]
fn ring_of(event: &Event) -> u8 {
    if RING_MASK.load() == 0 {
        return 0;
    }
    let ports = event.source_port ^ event.destination_port;
    let mut hash = ports as u8 ^ (ports >> 8) as u8;
    // The last four bytes: all of an IPv4 address, the part that varies of an IPv6 one.
    for index in 12..16 {
        hash ^= event.source[index] ^ event.destination[index];
    }
    hash ^ hash >> 4 ^ hash >> 2
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
