//! What this process takes of the machine. There is one process for all interfaces, so it is the
//! daemon's that is told for each.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

/// The shortest time over which the use of the processor is told.
const WINDOW: Duration = Duration::from_secs(1);

/// Measures this process. Clones share the measurements.
#[derive(Clone, Debug)]
pub struct Process(Arc<Mutex<Processor>>);

/// What was measured last.
#[derive(Clone, Copy, Debug)]
struct Processor {
    at: Instant,
    used: Duration,
    percent: Option<f64>,
}

/// What the process takes now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    /// Of one processor, since the measurement before; more than 100 when several are used. Nothing
    /// in the first second.
    pub(super) cpu_percent: Option<f64>,
    /// Memory that is resident, in units of 2^20 bytes.
    pub(super) memory_mb: Option<f64>,
}

impl Process {
    /// Begins to measure.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Processor {
            at: Instant::now(),
            used: processor_time(),
            percent: None,
        })))
    }

    pub(super) fn usage(&self) -> Usage {
        let mut processor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Usage {
            cpu_percent: processor.percent(Instant::now(), processor_time()),
            memory_mb: resident_memory(),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Processor {
    /// Measures again when the last time is long enough ago.
    fn percent(&mut self, now: Instant, used: Duration) -> Option<f64> {
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed >= WINDOW {
            let share = used.saturating_sub(self.used).as_secs_f64() / elapsed.as_secs_f64();
            *self = Self {
                at: now,
                used,
                percent: Some((share * 1000.0).round() / 10.0),
            };
        }
        self.percent
    }
}

/// Processor time of all threads, those that ended among them.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn resident_memory() -> Option<f64> {
    // size resident shared text lib data dt, in pages
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let bytes = pages.checked_mul(page_size() as u64)?;
    Some((bytes as f64 / 1_048_576.0 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_measured_over_a_second_at_least_and_not_since_the_start() {
        let begun = Instant::now();
        let second = |count: f64| Duration::from_secs_f64(count);
        let mut processor = Processor {
            at: begun,
            used: second(100.0),
            percent: None,
        };
        assert_eq!(processor.percent(begun + second(0.9), second(100.5)), None);
        assert_eq!(
            processor.percent(begun + second(2.0), second(101.0)),
            Some(50.0)
        );
        // Too soon: as before.
        assert_eq!(
            processor.percent(begun + second(2.5), second(101.5)),
            Some(50.0)
        );
        assert_eq!(
            processor.percent(begun + second(4.0), second(105.0)),
            Some(200.0)
        );
        assert_eq!(
            processor.percent(begun + second(5.0), second(105.0)),
            Some(0.0)
        );
    }

    #[test]
    fn this_process_takes_memory_and_time() {
        let process = Process::new();
        let memory = process.usage().memory_mb.unwrap();
        assert!((1.0..100_000.0).contains(&memory), "{memory}");
        let before = processor_time();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(processor_time() > before);
    }
}
