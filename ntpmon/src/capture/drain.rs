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
use ntpmon_common::{Event, PtpEvent};
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
    /// A PTP message.
    Ptp(&'a PtpEvent),
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

/// What was taken out of all rings of a capture.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Events of NTP.
    pub(super) ntp: AtomicU64,
    /// Events of PTP.
    pub(super) ptp: AtomicU64,
}

impl Taken {
    /// Counts records, and those of PTP among them.
    fn add(&self, records: u64, ptp: u64) {
        self.ntp.fetch_add(records - ptp, Ordering::Release);
        if ptp > 0 {
            self.ptp.fetch_add(ptp, Ordering::Release);
        }
    }
}

/// One ring and what it takes to empty it.
pub(super) struct Drain {
    ring: RingBuf<MapData>,
    stop: Arc<OwnedFd>,
    longest_sleep: Duration,
    taken: Arc<Taken>,
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
        taken: &Arc<Taken>,
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
        let (mut count, mut ptp) = (0, 0);
        let mut found = false;
        while let Some(record) = self.ring.next() {
            let bytes: &[u8] = &record;
            // What it is, its length says: that of no other is the same.
            if bytes.len() == size_of::<PtpEvent>() {
                // SAFETY: long enough, and an event may hold any bytes.
                let event = unsafe { bytes.as_ptr().cast::<PtpEvent>().read_unaligned() };
                consume(Drained::Ptp(&event));
                ptp += 1;
            } else if bytes.len() == size_of::<Event>() {
                // SAFETY: as above.
                let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
                consume(Drained::Event(&event));
            } else {
                tracing::error!(
                    "a ring has a record of {} bytes, which is none of ours",
                    bytes.len()
                );
            }
            found = true;
            count += 1;
            if count == BATCH {
                self.taken.add(count, ptp);
                (count, ptp) = (0, 0);
                // Under a load that is too much for this thread, the ring never empties.
                if self.pinned && is_set(&self.stop) {
                    break;
                }
                consume(Drained::Begin);
            }
        }
        self.taken.add(count, ptp);
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
