//! The programs that ntpmon attaches to an interface: three entry points over one body. A packet
//! is parsed, an event goes into a ring, everything else is counted. The packet itself always goes
//! on to whatever comes next.

#![no_std]
#![no_main]
// For one line in packet.rs. The build has to allow unstable features in any case: it compiles core.
#![feature(asm_experimental_arch)]

mod emit;
mod packet;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use ntpmon_common::Direction;
use packet::{Skb, XdpFrame};

/// "No opinion": with any other value the next program on the interface would not see the packet.
const TC_ACT_UNSPEC: i32 = -1;
const XDP_PASS: u32 = aya_ebpf::bindings::xdp_action::XDP_PASS;

#[classifier]
pub fn tc_ingress(context: TcContext) -> i32 {
    let packet = Skb::new(&context);
    emit::observe(
        &context,
        &packet,
        || packet.vlan(),
        || packet.interface(),
        Direction::Ingress,
    );
    TC_ACT_UNSPEC
}

#[classifier]
pub fn tc_egress(context: TcContext) -> i32 {
    let packet = Skb::new(&context);
    emit::observe(
        &context,
        &packet,
        || packet.vlan(),
        || packet.interface(),
        Direction::Egress,
    );
    TC_ACT_UNSPEC
}

/// `frags`, or the driver refuses it on interfaces with jumbo frames.
#[xdp(frags)]
pub fn xdp_ingress(context: XdpContext) -> u32 {
    let packet = XdpFrame::new(&context);
    emit::observe(
        &context,
        &packet,
        || 0,
        || packet.interface(),
        Direction::Ingress,
    );
    XDP_PASS
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
