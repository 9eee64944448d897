//! How the bytes of a packet are reached: directly, as far as they lie in the linear area, and
//! through a helper beyond it.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_skb_load_bytes,
    programs::{TcContext, XdpContext},
};
use core::mem::MaybeUninit;
use ntpmon_common::{Packet, parse::MAX_OFFSET};

/// Reads directly where the verifier can see that the bytes are there.
///
/// The read is an aligned one of an address that may not be aligned: the compiler would otherwise
/// fetch byte by byte, and every architecture for which the kernel allows the access does it in
/// hardware. The verifier refuses it on the others.
#[inline(always)]
fn direct<T: Copy>(data: usize, data_end: usize, offset: usize) -> Option<T> {
    let start = data + offset;
    if start + size_of::<T>() > data_end {
        return None;
    }
    // SAFETY: within the packet, by the comparison that the verifier checks.
    Some(unsafe { (start as *const T).read() })
}

/// A packet at TC.
pub struct Skb {
    skb: *mut __sk_buff,
    data: usize,
    data_end: usize,
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self {
            skb: context.skb.skb,
            data: context.data(),
            data_end: context.data_end(),
        }
    }

    /// The tag that the kernel took out of the frame, 0 if none.
    #[inline(always)]
    pub fn vlan(&self) -> u16 {
        // SAFETY: the context that the kernel gave.
        let (present, tci) = unsafe { ((*self.skb).vlan_present, (*self.skb).vlan_tci) };
        if present == 0 { 0 } else { tci as u16 & 0x0fff }
    }

    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: the context that the kernel gave.
        unsafe { (*self.skb).ifindex }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        if offset > MAX_OFFSET {
            return None;
        }
        direct(self.data, self.data_end, offset).or_else(|| self.load(offset))
    }
}

impl Skb {
    /// For what lies outside the linear area; refused by the kernel past the packet's end.
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        // Nothing lies outside: spare the call, which costs more than the whole parse.
        // SAFETY: the context that the kernel gave.
        let length = unsafe { (*self.skb).len } as usize;
        if offset + size_of::<T>() > length {
            return None;
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the destination is as long as the helper is told.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: on success the helper has written all of it; the parser reads only integers.
        (failed == 0).then(|| unsafe { value.assume_init() })
    }
}

/// A frame at XDP. Headers always lie in the first fragment, so there is no second way.
pub struct XdpFrame {
    context: *mut xdp_md,
    data: usize,
    data_end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self {
            context: context.ctx,
            data: context.data(),
            data_end: context.data_end(),
        }
    }

    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: the context that the kernel gave.
        unsafe { (*self.context).ingress_ifindex }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        if offset > MAX_OFFSET {
            return None;
        }
        direct(self.data, self.data_end, offset)
    }
}
