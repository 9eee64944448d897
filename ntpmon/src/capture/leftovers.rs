//! What an ntpmon that was killed left in the kernel, and how ours is told from what is not: a
//! filter by its handle, a pin by its directory.

use std::path::Path;

use anyhow::Result;

use super::{
    pins,
    slot::{PINNED, SLOTS, Slot, Turn},
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
    let _turn = Turn::wait(interface.index)?;
    let mut removed = remove_filters_of_the_dead(interface.index)?;
    if let Some(_pinned) = Slot::try_take(interface.index, PINNED)? {
        let filters = remove_filters(interface.index, PINNED, None)?;
        removed.extend(filters.iter().map(|filter| describe(filter, "pinned")));
        if filters.iter().any(made_qdisc) {
            remove_qdisc_if_empty(interface.index)?;
        }
        let directory = pins::directory(&interface.name)?;
        if directory.exists() {
            removed.push(remove_pins(&directory)?);
        }
    }
    Ok(removed)
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

/// What captures without pins left whose process is dead. Those with pins are meant to outlive it.
/// The caller has the turn.
pub(super) fn remove_filters_of_the_dead(interface: u32) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut qdisc = false;
    let mut slots: Vec<u16> = netlink::filters(interface)?
        .iter()
        .filter_map(slot_of)
        .filter(|slot| *slot != PINNED)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    for slot in slots {
        let Some(_lock) = Slot::try_take(interface, slot)? else {
            continue;
        };
        for filter in remove_filters(interface, slot, None)? {
            qdisc |= made_qdisc(&filter);
            removed.push(describe(&filter, "killed"));
        }
    }
    if qdisc {
        remove_qdisc_if_empty(interface)?;
    }
    Ok(removed)
}

fn describe(filter: &netlink::Filter, fate: &str) -> String {
    let direction = if filter.parent == netlink::CLSACT_EGRESS {
        "egress"
    } else {
        "ingress"
    };
    format!("an {direction} filter of an ntpmon that was {fate}")
}

/// Whether the capture that a filter belongs to made the qdisc that it hangs on.
pub(super) const fn made_qdisc(filter: &netlink::Filter) -> bool {
    filter.handle.1 & MADE_QDISC != 0
}

fn remove_pins(directory: &Path) -> Result<String> {
    pins::remove(directory)?;
    Ok(format!("the pins in {}", directory.display()))
}

/// Removes the filters of one of our captures, in one direction or both, and returns them.
pub(super) fn remove_filters(
    interface: u32,
    slot: u16,
    parent: Option<u16>,
) -> Result<Vec<netlink::Filter>> {
    let filters: Vec<_> = netlink::filters(interface)?
        .into_iter()
        .filter(|filter| slot_of(filter) == Some(slot))
        .filter(|filter| parent.is_none_or(|parent| parent == filter.parent))
        .collect();
    filters.iter().try_for_each(netlink::delete_filter)?;
    Ok(filters)
}

/// Which of our captures a filter belongs to, if it is one of ours.
pub(super) fn slot_of(filter: &netlink::Filter) -> Option<u16> {
    let (major, minor) = filter.handle;
    let slot = (minor & !MADE_QDISC).checked_sub(1)?;
    (filter.bpf && major == HANDLE_MAJOR && slot <= SLOTS).then_some(slot)
}

pub(super) fn remove_qdisc_if_empty(interface: u32) -> Result<()> {
    if netlink::filters(interface)?.is_empty() {
        netlink::delete_clsact(interface)?;
    }
    Ok(())
}
