//! Which ntpmon this is, and whether its parts do what they should.

use anyhow::Result;
use tokio::runtime::Handle;

use crate::metrics::{Samples, Sources, model::families};

families! {
    BUILD: Info "ntpmon_build_info" ["version"]
        "Which ntpmon tells this: always 1";
    HEALTHY: Gauge "ntpmon_component_healthy" ["component"]
        "Whether a part other than the interfaces does what it should, as /api/ntp/health says, where the reason stands: 1 healthy, 0 degraded";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    samples.put(&BUILD, &[env!("CARGO_PKG_VERSION")], true);
    for (name, is_healthy) in (sources.conditions)(&Handle::current()) {
        samples.put(&HEALTHY, &[name], is_healthy);
    }
    Ok(())
}
