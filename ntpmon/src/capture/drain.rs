//! Empties a ring: sleep, drain to the last event, sleep again, longer when there was nothing.
//!
//! The programs never wake this thread. On the way out a wake-up would happen between the moment
//! that a packet is stamped and the moment that it leaves: it delayed each by 15 to 20 µs, and
//! that showed as an error of the clock. A timer costs less than wake-ups do as soon as there is
//! traffic, and next to nothing when there is none.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use ntpmon_common::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attach::{Attached, KernelLog};
use crate::ntp::clock;

/// What a consumer is told.
#[derive(Clone, Copy, Debug)]
pub enum Drained<'a> {
    /// Events follow: time to look at the clock.
    Begin,
    /// One event.
    Event(&'a Event),
    /// There are no more for now; `now` is monotonic.
    End {
        /// When the ring was found empty.
        now: u64,
    },
    /// There will be no more.
    Finished,
}

/// Between two looks into a ring that has events: enough gather for a look to cost little for each.
const SHORTEST: Duration = Duration::from_millis(4);
/// Between two looks into a ring that has none. Time has to pass for requests that wait, too.
const LONGEST: Duration = Duration::from_millis(50);
/// A ring must not fill during one sleep: no interface here delivers more events a second.
const FASTEST: u32 = 3_000_000;
/// For a program that was still running as it was detached.
const LAST_EVENTS: Duration = Duration::from_millis(2);

/// The longest sleep during which a ring of this size cannot fill.
fn longest_sleep(ring_bytes: u32) -> Duration {
    let record = size_of::<Event>() as u32 + 8;
    (Duration::from_secs(1) * (ring_bytes / record) / FASTEST)
        .clamp(Duration::from_micros(100), LONGEST)
}

/// The consumer looks at the clock at least this often, in events, while the ring never empties.
const BATCH: u64 = 16_384;

/// One ring and what it takes to empty it.
pub(super) struct Drain {
    ring: RingBuf<MapData>,
    stop: Arc<OwnedFd>,
    longest_sleep: Duration,
    /// Events of all rings of the capture.
    taken: Arc<AtomicU64>,
    /// Events go on coming after the end, and wait for the next process.
    pinned: bool,
    /// What the programs log, on the thread of the first ring.
    logger: Option<EbpfLogger<KernelLog>>,
}

impl Drain {
    pub(super) fn new(
        attached: &mut Attached,
        index: usize,
        ring_bytes: u32,
        stop: &Arc<OwnedFd>,
        taken: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let map = attached.take_map(&format!("RING_{index}"))?;
        Ok(Self {
            ring: RingBuf::try_from(map).context("mapping a ring")?,
            longest_sleep: longest_sleep(ring_bytes),
            stop: Arc::clone(stop),
            taken: Arc::clone(taken),
            pinned: attached.pinned(),
            logger: attached.take_logger(),
        })
    }

    pub(super) fn run(mut self, mut consume: impl FnMut(Drained<'_>)) {
        let mut sleep = self.longest_sleep;
        loop {
            let stopping = self.sleep(sleep);
            let found = self.drain(&mut consume);
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            if stopping {
                break;
            }
            sleep = if found { SHORTEST } else { sleep * 2 }.min(self.longest_sleep);
        }
        consume(Drained::Finished);
    }

    /// Sleeps; says whether the capture stops.
    fn sleep(&self, duration: Duration) -> bool {
        let mut ready = [PollFd::new(&self.stop, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(duration.subsec_nanos()),
        };
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => false,
            Ok(_) => {
                thread::sleep(LAST_EVENTS);
                true
            }
            Err(error) => {
                tracing::error!(%error, "waiting for a capture to stop");
                thread::sleep(duration);
                false
            }
        }
    }

    /// Takes everything that there is; says whether there was anything.
    fn drain(&mut self, consume: &mut impl FnMut(Drained<'_>)) -> bool {
        consume(Drained::Begin);
        let mut count = 0;
        let mut found = false;
        while let Some(record) = self.ring.next() {
            let bytes: &[u8] = &record;
            if let Some(bytes) = bytes.get(..size_of::<Event>()) {
                // SAFETY: long enough, and an event may hold any bytes.
                let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
                consume(Drained::Event(&event));
            }
            found = true;
            count += 1;
            if count == BATCH {
                self.taken.fetch_add(count, Ordering::Release);
                count = 0;
                // Under a load that is too much for this thread, the ring never empties.
                if self.pinned && is_set(&self.stop) {
                    break;
                }
                consume(Drained::Begin);
            }
        }
        self.taken.fetch_add(count, Ordering::Release);
        consume(Drained::End {
            now: clock::monotonic(),
        });
        found
    }
}

fn is_set(event: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(event, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
