//! Packets, from wherever they come: the programs attached to one interface with their rings and
//! threads ([`Capture`]), and capture files ([`pcap`]).

mod attach;
mod counters;
mod drain;
mod leftovers;
pub mod pcap;
mod pins;
mod slot;

use std::{os::fd::OwnedFd, sync::Arc, thread::JoinHandle};

use anyhow::{Context, Result};
use ntpmon_common::{Counters, settings::MAX_RINGS};
use rustix::event::{EventfdFlags, eventfd};

use crate::netlink::Interface;

use self::attach::Attached;
pub use self::{
    attach::{Hook, Mode},
    drain::Drained,
    leftovers::{cleanup, cleanup_gone},
    slot::locks_are_anothers,
};

/// The kernel programs, as built beside this binary.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NTPMON_OBJECT"));

/// How an interface is captured. Goes into the programs at load.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP ports that are NTP, on either side.
    pub ports: Vec<u16>,
    /// Ingress through XDP where the interface allows it.
    pub xdp: bool,
    /// Rings, and so threads: 1, 2 or 4.
    pub rings: usize,
    /// Bytes of each ring; rounded up to a power of two.
    pub ring_bytes: u32,
    /// Look into GRE, IP-in-IP and VXLAN.
    pub decapsulate: bool,
    /// Recognise PTP.
    pub ptp: bool,
    /// Have the programs log every NTP packet.
    pub debug: bool,
    /// Leave links and rings in the kernel when the process ends, and take over what an earlier
    /// process left.
    pub pin: bool,
}

impl Settings {
    /// What a ring comes to have: the kernel takes powers of two, and whole pages.
    fn ring_size(&self) -> u32 {
        self.ring_bytes
            .max(rustix::param::page_size() as u32)
            .next_power_of_two()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: vec![123],
            xdp: false,
            rings: 1,
            ring_bytes: 16 << 20,
            decapsulate: false,
            ptp: false,
            debug: false,
            pin: false,
        }
    }
}

/// The programs on one interface, with their rings and the threads that empty them. Dropping it
/// detaches, unless it is pinned.
pub struct Capture {
    interface: Interface,
    counters: counters::PerCpu,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<OwnedFd>,
    attached: Attached,
}

/// What a capture ended with.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// What the programs counted.
    pub counters: Counters,
    /// A thread that empties the rings had died: not all that was counted was taken.
    pub died: bool,
}

/// A capture that is attached and whose events nobody takes yet. Dropping it leaves nothing.
pub struct Prepared {
    interface: Interface,
    settings: Settings,
    attached: Attached,
}

impl Prepared {
    /// Attaches to an interface.
    ///
    /// # Errors
    /// Says which step failed, and where a capability is missing, which.
    pub fn attach(interface: &Interface, settings: &Settings) -> Result<Self> {
        debug_assert!(settings.rings.is_power_of_two() && settings.rings <= MAX_RINGS);
        let attached = attach::attach(interface, settings)
            .with_context(|| format!("capturing on {}", interface.name))?;
        Ok(Self {
            interface: interface.clone(),
            settings: settings.clone(),
            attached,
        })
    }

    /// Begins to take events. `consumer` is called once for each ring and makes what takes its
    /// events, on a thread of its own.
    ///
    /// # Errors
    /// When a ring cannot be mapped or a thread cannot be started.
    pub fn run<C>(self, mut consumer: impl FnMut() -> C) -> Result<Capture>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        let Self {
            interface,
            settings,
            mut attached,
        } = self;
        let taken = Arc::default();
        let counters = counters::PerCpu::take(&mut attached, &taken)?;
        let stop = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .context("making the event that stops a capture")?,
        );
        let mut capture = Capture {
            interface,
            counters,
            threads: Vec::new(),
            stop,
            attached,
        };
        for index in 0..settings.rings {
            let drain = drain::Drain::new(
                &mut capture.attached,
                index,
                settings.ring_size(),
                &capture.stop,
                &taken,
            )?;
            let consume = consumer();
            let thread = std::thread::Builder::new()
                .name(format!("drain-{}-{index}", capture.interface.name))
                .spawn(move || drain.run(consume))
                .context("starting the thread that empties a ring")?;
            capture.threads.push(thread);
            capture.attached.keep();
        }
        Ok(capture)
    }
}

impl Capture {
    /// Attaches to an interface and begins to take events: [`Prepared`] in one step.
    ///
    /// # Errors
    /// As its two steps.
    pub fn start<C>(
        interface: &Interface,
        settings: &Settings,
        consumer: impl FnMut() -> C,
    ) -> Result<Self>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        Prepared::attach(interface, settings)?.run(consumer)
    }

    /// The interface as it was when the capture began.
    #[must_use]
    pub const fn interface(&self) -> &Interface {
        &self.interface
    }

    /// How the programs came to be attached.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.attached.mode
    }

    /// Where the capture differs from what was asked, and why.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.attached.notes
    }

    /// What the programs counted so far. Where they are pinned: what this run took out of the
    /// rings, and what was lost or skipped that no earlier run has told.
    ///
    /// # Errors
    /// When the kernel does not let the map be read.
    pub fn counters(&self) -> Result<Counters> {
        self.counters.sum()
    }

    /// Whether every ring is being emptied. A thread that died is a fault of ntpmon.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// As [`Self::stop`], and pins go too: for an interface that is not there any more.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn abandon(mut self) -> Result<Stopped> {
        self.attached.unpin();
        self.stop()
    }

    /// Detaches, unless pinned, takes what is still in the rings, and returns the final counters.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn stop(mut self) -> Result<Stopped> {
        let died = self.end();
        Ok(Stopped {
            counters: self.counters.conclude()?,
            died,
        })
    }

    /// Detach first, so that the threads find a ring to which nothing is added.
    fn end(&mut self) -> bool {
        self.attached.detach();
        let signalled = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Err(error) = signalled {
            tracing::error!(%error, "telling the threads of a capture to stop");
        }
        let mut died = false;
        for thread in self.threads.drain(..) {
            died |= thread.join().is_err();
        }
        died
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.threads.is_empty() && self.end() {
            tracing::error!(interface = self.interface.name, "a drain thread had died");
        }
    }
}
