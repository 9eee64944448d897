//! What the process takes of the machine, by the names that all exporters give it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use crate::metrics::{Samples, Sources, model::families};

families! {
    CPU: Counter "process_cpu_seconds_total" []
        "Total user and system CPU time spent in seconds";
    RESIDENT: Gauge "process_resident_memory_bytes" []
        "Resident memory size in bytes";
    VIRTUAL: Gauge "process_virtual_memory_bytes" []
        "Virtual memory size in bytes";
    DESCRIPTORS: Gauge "process_open_fds" []
        "Number of open file descriptors";
    MOST_DESCRIPTORS: Gauge "process_max_fds" []
        "Maximum number of open file descriptors";
    THREADS: Gauge "process_threads" []
        "Number of threads of the process";
    STARTED: Gauge "process_start_time_seconds" []
        "Start time of the process since unix epoch in seconds";
}

pub(super) fn collect(sources: &Sources, samples: &mut Samples) -> Result<()> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let used = Duration::try_from(time).unwrap_or_default().as_secs_f64();
    samples.put_since(&CPU, &[], used, Some(sources.started));
    // size resident shared text lib data dt, in pages
    let statm = fs::read_to_string("/proc/self/statm").context("reading /proc/self/statm")?;
    let mut pages = statm.split_ascii_whitespace().map(str::parse::<u64>);
    for family in [&VIRTUAL, &RESIDENT] {
        let pages = pages.next().and_then(Result::ok);
        let bytes = pages.map(|pages| pages.saturating_mul(page_size() as u64));
        samples.put_known(family, &[], bytes);
    }
    // The one that lists them is one of them.
    let open = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1));
    samples.put_known(&DESCRIPTORS, &[], open.ok());
    let most = getrlimit(Resource::Nofile).current;
    samples.put_known(&MOST_DESCRIPTORS, &[], most);
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
    samples.put_known(&THREADS, &[], threads.ok());
    samples.put(&STARTED, &[], super::servers::unix(sources.started));
    Ok(())
}
