//! Empties a ring: wait, linger so that a burst costs one wake-up, drain to the last event.

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

/// Long enough for a burst to gather, short enough that nobody sees the delay. Waking for every
/// event costs 50 times what handling it does.
const LINGER: Duration = Duration::from_millis(2);
/// Without events, time still has to pass for those who wait for a response.
const IDLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// The consumer looks at the clock at least this often, in events, while the ring never empties.
const BATCH: u64 = 16_384;

/// One ring and what it takes to empty it.
pub(super) struct Drain {
    ring: RingBuf<MapData>,
    stop: Arc<OwnedFd>,
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
        stop: &Arc<OwnedFd>,
        taken: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let map = attached.take_map(&format!("RING_{index}"))?;
        Ok(Self {
            ring: RingBuf::try_from(map).context("mapping a ring")?,
            stop: Arc::clone(stop),
            taken: Arc::clone(taken),
            pinned: attached.pinned(),
            logger: attached.take_logger(),
        })
    }

    pub(super) fn run(mut self, mut consume: impl FnMut(Drained<'_>)) {
        loop {
            let stopping = self.wait();
            self.drain(&mut consume);
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            if stopping {
                break;
            }
        }
        consume(Drained::Finished);
    }

    /// Sleeps until there are events or the capture stops; says which.
    fn wait(&self) -> bool {
        let mut ready = [
            PollFd::new(&self.ring, PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
        ];
        match poll(&mut ready, Some(&IDLE)) {
            Ok(0) => return false,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "waiting for events"),
        }
        let stopping = !ready[1].revents().is_empty();
        // When stopping this also covers a program that was still running as it was detached.
        thread::sleep(LINGER);
        stopping
    }

    fn drain(&mut self, consume: &mut impl FnMut(Drained<'_>)) {
        consume(Drained::Begin);
        let mut count = 0;
        while let Some(record) = self.ring.next() {
            let bytes: &[u8] = &record;
            if let Some(bytes) = bytes.get(..size_of::<Event>()) {
                // SAFETY: long enough, and an event may hold any bytes.
                let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
                consume(Drained::Event(&event));
            }
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
    }
}

fn is_set(event: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(event, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
