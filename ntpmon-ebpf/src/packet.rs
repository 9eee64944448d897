//! How the bytes of a packet are reached: directly, as far as they lie in the linear area, and
//! through a helper beyond it.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_skb_load_bytes,
    programs::{TcContext, XdpContext},
};
use core::{arch::asm, mem::MaybeUninit, ptr};
use ntpmon_common::{
    Packet,
    parse::{MAX_OFFSET, Step},
};

/// Reads directly where the verifier can see that the bytes are there.
///
/// The read is an aligned one of an address that may not be aligned: the compiler would otherwise
/// fetch byte by byte, and every architecture for which the kernel allows the access does it in
/// hardware. The verifier refuses it on the others.
#[inline(always)]
fn direct<T: Copy>(data: usize, data_end: usize, offset: usize) -> Option<T> {
    let start = within::<T>(data, data_end, offset)?;
    // SAFETY: within the packet, by the comparison that the verifier checks.
    Some(unsafe { (start as *const T).read() })
}

/// The address of a `T` that lies wholly in the linear area.
#[inline(always)]
fn within<T>(data: usize, data_end: usize, offset: usize) -> Option<usize> {
    let start = data + offset;
    let mut end = start;
    // Written out, because for a single byte the compiler would compare `start >= data_end`, from
    // which the verifier learns nothing.
    // SAFETY: adds a constant to a register.
    unsafe {
        asm!("{end} += {size}", end = inout(reg) end, size = const size_of::<T>(), options(pure, nomem, nostack));
    }
    (end <= data_end).then_some(start)
}

/// As [`direct`], for what is large: word by word, where the compiler would call a function that
/// copies byte by byte.
#[inline(always)]
fn direct_into<T: Copy>(data: usize, data_end: usize, offset: usize, target: &mut T) -> Option<()> {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let words = size_of::<T>() / 8;
    let start = within::<T>(data, data_end, offset)? as *const u64;
    let target = ptr::from_mut(target).cast::<u64>();
    for word in 0..words {
        // SAFETY: both sides are as long as T. Volatile, or the loop would become that call.
        unsafe { target.add(word).write_volatile(start.add(word).read()) };
    }
    Some(())
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

    #[inline(always)]
    fn read_into<T: Copy>(&self, offset: usize, target: &mut T) -> Option<()> {
        if offset > MAX_OFFSET {
            return None;
        }
        direct_into(self.data, self.data_end, offset, target)
            .or_else(|| self.load_into(offset, target))
    }

    #[inline(always)]
    fn take(&self, step: Step, offset: usize, argument: u32) -> u64 {
        skb_step(self.skb, step as u32, offset, argument)
    }
}

/// [`Packet::take`] as a function that is verified for itself: it must be visible outside, and may
/// get only the context and numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_step(skb: *mut __sk_buff, step: u32, offset: usize, argument: u32) -> u64 {
    let packet = Skb::new(&TcContext::new(skb));
    run_step(&packet, step, offset, argument)
}

#[inline(always)]
fn run_step<P: Packet>(packet: &P, step: u32, offset: usize, argument: u32) -> u64 {
    const EXTENSION_HEADERS: u32 = Step::ExtensionHeaders as u32;
    const TUNNEL: u32 = Step::Tunnel as u32;
    const TAGS: u32 = Step::Tags as u32;
    let step = match step {
        EXTENSION_HEADERS => Step::ExtensionHeaders,
        TUNNEL => Step::Tunnel,
        TAGS => Step::Tags,
        _ => Step::Trailer,
    };
    step.run(packet, offset, argument)
}

impl Skb {
    /// For what lies outside the linear area; refused by the kernel past the packet's end.
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        self.load_into(offset, value.as_mut_ptr())?;
        // SAFETY: the helper has written all of it; the parser reads only integers.
        Some(unsafe { value.assume_init() })
    }

    #[inline(always)]
    fn load_into<T: Copy>(&self, offset: usize, target: *mut T) -> Option<()> {
        // Nothing lies outside: spare the call, which costs more than the whole parse.
        // SAFETY: the context that the kernel gave.
        let length = unsafe { (*self.skb).len } as usize;
        if offset + size_of::<T>() > length {
            return None;
        }
        // SAFETY: the destination is as long as the helper is told.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                target.cast(),
                size_of::<T>() as u32,
            )
        };
        (failed == 0).then_some(())
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

    #[inline(always)]
    fn read_into<T: Copy>(&self, offset: usize, target: &mut T) -> Option<()> {
        if offset > MAX_OFFSET {
            return None;
        }
        direct_into(self.data, self.data_end, offset, target)
    }

    #[inline(always)]
    fn take(&self, step: Step, offset: usize, argument: u32) -> u64 {
        xdp_step(self.context, step as u32, offset, argument)
    }
}

/// As [`skb_step`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_step(context: *mut xdp_md, step: u32, offset: usize, argument: u32) -> u64 {
    let packet = XdpFrame::new(&XdpContext::new(context));
    run_step(&packet, step, offset, argument)
}
