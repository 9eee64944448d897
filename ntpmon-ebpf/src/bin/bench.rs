//! Programs of the benchmark, never attached outside of it: two that do nothing, as the floor that
//! the real ones are measured from, and one that makes NTP traffic inside the kernel, because no
//! sender in user space is fast enough to find the limit.

#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::{
        TC_ACT_SHOT,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    macros::{classifier, map, xdp},
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};

/// How many client addresses the traffic comes from.
#[unsafe(no_mangle)]
static CLIENTS: Global<u32> = Global::new(1);

/// Frames made so far.
#[map]
static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The frame that the benchmark passes in: Ethernet, IPv4 without options, UDP, an NTP header.
const FRAME: usize = 14 + 20 + 8 + 48;
/// So many requests go out before their responses follow, as at a server a round trip away.
const OUTSTANDING: u64 = 64;

const SERVER: u32 = 0xc000_0201;
const FIRST_CLIENT: u32 = 0x0a00_0000;
/// Version 4; client and stratum 0, or server and stratum 2; poll 6; precision -20.
const REQUEST: u32 = 0x2300_06ec;
const RESPONSE: u32 = 0x2402_06ec;

#[classifier]
pub fn empty_tc(_: TcContext) -> i32 {
    -1
}

/// Ends the way of every packet that was watched: what is measured is who watches, not the kernel's
/// network code behind.
#[classifier]
pub fn sink(_: TcContext) -> i32 {
    TC_ACT_SHOT
}

#[xdp(frags)]
pub fn empty_xdp(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Turns the frame into the next one of the traffic. The kernel recycles frames without restoring
/// them, so everything that varies is written each time.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let frame = context.data();
    if frame + FRAME > context.data_end() {
        return XDP_DROP;
    }
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return XDP_DROP;
    };
    // SAFETY: this CPU's own value; the benchmark runs one generator on a CPU.
    let number = unsafe {
        let number = *sequence;
        *sequence = number + 1;
        number
    };
    let block = number / (2 * OUTSTANDING);
    let within = number % (2 * OUTSTANDING);
    let exchange = block * OUTSTANDING + within % OUTSTANDING;

    // Spread, so that neighbours in time are not neighbours in a table; a bijection, so that no
    // transmit time comes twice, nor is any of them zero.
    let mixed = (exchange + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let client = FIRST_CLIENT + ((mixed >> 32) as u32) % CLIENTS.load().max(1);
    let port = 0x8000 | mixed as u16;
    let transmit = mixed | 1;

    // SAFETY: all within FRAME bytes, by the comparison above. The stores are aligned ones of
    // addresses that are not, as in the real programs.
    unsafe {
        if within < OUTSTANDING {
            addresses(frame, client, SERVER);
            ports(frame, port, 123);
            header(frame, REQUEST, 0, 0, mixed);
        } else {
            addresses(frame, SERVER, client);
            ports(frame, 123, port);
            header(frame, RESPONSE, mixed, transmit, transmit + 2);
        }
    }
    XDP_TX
}

#[inline(always)]
unsafe fn store<T>(address: usize, value: T) {
    // SAFETY: the caller's.
    unsafe { (address as *mut T).write(value) };
}

#[inline(always)]
unsafe fn addresses(frame: usize, source: u32, destination: u32) {
    // Version, length, total length 76, no fragment, TTL 64, UDP: the rest of the header is zero.
    let mut sum = 0x4500 + 76 + 0x4000 + 0x4011;
    for address in [source, destination] {
        sum += (address >> 16) + (address & 0xffff);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    // SAFETY: the caller's.
    unsafe {
        store(frame + 24, (!sum as u16).to_be());
        store(frame + 26, source.to_be());
        store(frame + 30, destination.to_be());
    }
}

#[inline(always)]
unsafe fn ports(frame: usize, source: u16, destination: u16) {
    // SAFETY: the caller's.
    unsafe {
        store(frame + 34, source.to_be());
        store(frame + 36, destination.to_be());
    }
}

#[inline(always)]
unsafe fn header(frame: usize, first: u32, originate: u64, receive: u64, transmit: u64) {
    // SAFETY: the caller's.
    unsafe {
        store(frame + 42, first.to_be());
        store(frame + 66, originate.to_be());
        store(frame + 74, receive.to_be());
        store(frame + 82, transmit.to_be());
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
