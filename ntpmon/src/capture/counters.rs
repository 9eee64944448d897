//! The programs' counters, one set a CPU, summed on demand.

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray};
use ntpmon_common::Counters;

use super::attach::Attached;

/// The map that the programs count in.
pub(super) struct PerCpu(PerCpuArray<MapData, Counters>);

impl PerCpu {
    pub(super) fn take(attached: &mut Attached) -> Result<Self> {
        let map = attached.take_map("COUNTERS")?;
        Ok(Self(PerCpuArray::try_from(map)?))
    }

    pub(super) fn sum(&self) -> Result<Counters> {
        let values = self
            .0
            .get(&0, 0)
            .context("reading the counters of the kernel programs")?;
        let mut sum = Counters::default();
        for value in values.iter() {
            sum.add(value);
        }
        Ok(sum)
    }
}
