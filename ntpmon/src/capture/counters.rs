//! The programs' counters, one set a CPU, summed on demand.
//!
//! Pinned ones go on from process to process. What a run tells is then its own: the events that it
//! took, those that had waited among them; and of what was lost or skipped, all that no earlier run
//! has told, so that a ring which overflowed while nobody was there does not go unseen. What was
//! told is kept beside the counters, in a set that the programs do not touch, and written when a run
//! ends in order: after one that was killed, the next tells its losses too.

use std::sync::{Arc, atomic::Ordering};

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use ntpmon_common::{Counter, Counters};

use super::{attach::Attached, drain::Taken};

/// The set that the programs count in.
const COUNTED: u32 = 0;
/// The set as it was when it was told last. Only pinned counters have it.
const TOLD: u32 = 1;

/// The map that the programs count in.
pub(super) struct PerCpu {
    map: PerCpuArray<MapData, Counters>,
    pinned: Option<Pinned>,
}

/// What it takes to tell a run's own share of counters that go on.
struct Pinned {
    told: Counters,
    taken: Arc<Taken>,
}

impl PerCpu {
    /// `taken` is what was taken out of the rings.
    pub(super) fn take(attached: &mut Attached, taken: &Arc<Taken>) -> Result<Self> {
        let map = PerCpuArray::try_from(attached.take_map("COUNTERS")?)?;
        let pinned = if attached.pinned() {
            Some(Pinned {
                told: sum(&read(&map, TOLD)?),
                taken: Arc::clone(taken),
            })
        } else {
            None
        };
        Ok(Self { map, pinned })
    }

    pub(super) fn sum(&self) -> Result<Counters> {
        Ok(self.own(sum(&read(&self.map, COUNTED)?)))
    }

    /// The last sum of a run.
    pub(super) fn conclude(&mut self) -> Result<Counters> {
        let counted = read(&self.map, COUNTED)?;
        let own = self.own(sum(&counted));
        if self.pinned.is_some() {
            self.map
                .set(TOLD, counted, 0)
                .context("writing down which counts were told")?;
        }
        Ok(own)
    }

    fn own(&self, counted: Counters) -> Counters {
        let Some(pinned) = &self.pinned else {
            return counted;
        };
        let mut own = Counters::default();
        for counter in Counter::ALL {
            let index = counter as usize;
            own.0[index] = match counter {
                Counter::Emitted => pinned.taken.ntp.load(Ordering::Acquire),
                Counter::PtpEmitted => pinned.taken.ptp.load(Ordering::Acquire),
                _ => counted.0[index].saturating_sub(pinned.told.0[index]),
            };
        }
        own
    }
}

fn read(map: &PerCpuArray<MapData, Counters>, index: u32) -> Result<PerCpuValues<Counters>> {
    map.get(&index, 0)
        .context("reading the counters of the kernel programs")
}

fn sum(values: &PerCpuValues<Counters>) -> Counters {
    let mut sum = Counters::default();
    for value in values.iter() {
        sum.add(value);
    }
    sum
}
