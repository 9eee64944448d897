//! What an ntpmon that was killed left in the kernel, and how ours is told from what is not: a
//! filter by its handle, a pin by its directory.

use std::path::Path;

use anyhow::Result;

use super::{
    pins,
    slot::{SLOTS, Slot},
};
use crate::netlink::{self, Interface};

/// "nt": the major number of the handles of our filters.
pub(super) const HANDLE_MAJOR: u16 = 0x6e74;
/// In the minor number: we made the qdisc.
pub(super) const MADE_QDISC: u16 = 0x8000;
/// Removes what no living ntpmon owns: filters, the qdisc that they were made with, pins. Says
/// what it removed.
///
/// # Errors
/// When the kernel refuses.
pub fn cleanup(interface: &Interface) -> Result<Vec<String>> {
    let slot = Slot::try_take(interface.index, 0)?;
    remove_leftovers(interface, slot.as_ref())
}

/// Removes the pins of interfaces of this network namespace that there are no more, under the
/// names that they had. Says what it removed.
///
/// # Errors
/// When the kernel refuses.
pub fn cleanup_gone(existing: &[Interface]) -> Result<Vec<String>> {
    pins::of_gone(existing)?
        .into_iter()
        .map(|directory| remove_pins(&directory))
        .collect()
}

/// `own` is the place that the caller holds, if any. Pins belong to the first one.
pub(super) fn remove_leftovers(interface: &Interface, own: Option<&Slot>) -> Result<Vec<String>> {
    let own = own.map(|slot| slot.number);
    let mut removed = Vec::new();
    let mut made_qdisc = false;
    for filter in netlink::filters(interface.index)? {
        let Some(slot) = slot_of(&filter) else {
            continue;
        };
        // Ours by the lock that we hold, or nobody's.
        let _lock = if Some(slot) == own {
            None
        } else {
            match Slot::try_take(interface.index, slot)? {
                Some(lock) => Some(lock),
                None => continue,
            }
        };
        netlink::delete_filter(&filter)?;
        made_qdisc |= filter.handle.1 & MADE_QDISC != 0;
        let direction = if filter.parent == netlink::CLSACT_EGRESS {
            "egress"
        } else {
            "ingress"
        };
        removed.push(format!(
            "an {direction} filter of an ntpmon that was killed"
        ));
    }
    if made_qdisc {
        remove_qdisc_if_empty(interface.index)?;
    }
    if own == Some(0) {
        let directory = pins::directory(&interface.name)?;
        if directory.exists() {
            removed.push(remove_pins(&directory)?);
        }
    }
    Ok(removed)
}

fn remove_pins(directory: &Path) -> Result<String> {
    pins::remove(directory)?;
    Ok(format!("the pins in {}", directory.display()))
}

/// Removes the filters of one of our captures, in one direction or both.
pub(super) fn remove_filters(interface: u32, slot: u16, parent: Option<u16>) -> Result<()> {
    for filter in netlink::filters(interface)? {
        if slot_of(&filter) == Some(slot) && parent.is_none_or(|parent| parent == filter.parent) {
            netlink::delete_filter(&filter)?;
        }
    }
    Ok(())
}

/// Which of our captures a filter belongs to, if it is one of ours.
pub(super) fn slot_of(filter: &netlink::Filter) -> Option<u16> {
    let (major, minor) = filter.handle;
    let slot = (minor & !MADE_QDISC).checked_sub(1)?;
    (filter.bpf && major == HANDLE_MAJOR && slot < SLOTS).then_some(slot)
}

pub(super) fn remove_qdisc_if_empty(interface: u32) -> Result<()> {
    if netlink::filters(interface)?.is_empty() {
        netlink::delete_clsact(interface)?;
    }
    Ok(())
}
