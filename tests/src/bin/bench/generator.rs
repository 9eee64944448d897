//! NTP traffic made inside the kernel: an XDP program rewrites each frame and sends it through a
//! veth pair, at a given rate, as if a monitored link carried it. Nothing in user space could make
//! as much.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions, programs::Xdp};
use ntpmon_tests::programs::load_program;

use crate::{OBJECT, frame::ntp_request};

/// Frames come in blocks of so many requests and their responses.
pub(crate) const BLOCK: u64 = 128;
/// How long the generator rests between two bursts.
const TICK: Duration = Duration::from_millis(2);
/// How much longer than it should a run may take, when so much cannot be sent.
const PATIENCE: Duration = Duration::from_millis(500);
/// Frames that the kernel handles in one go; its own limit is 256.
const BATCH: u32 = 64;
/// Frames in one call, so that a generator that cannot keep up still looks at the clock.
const BURST: u64 = 1 << 16;

/// Makes traffic that comes in at the peer of one end of a veth pair.
pub(crate) struct Generator {
    object: Ebpf,
    frame: Vec<u8>,
    /// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    context: [u8; 24],
}

impl Generator {
    /// `interface` is the index of the end that sends; `clients` how many addresses ask.
    pub(crate) fn new(interface: u32, clients: u32) -> Result<Self> {
        let mut object = EbpfLoader::new()
            .override_global("CLIENTS", &clients, true)
            .load(OBJECT)
            .context("load the generator")?;
        load_program(&mut object, "generate")?;
        let frame = ntp_request();
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&interface.to_ne_bytes());
        Ok(Self {
            object,
            frame,
            context,
        })
    }

    /// Sends whole blocks at `rate` frames a second; returns how many frames. When it cannot keep
    /// up it sends as fast as it can.
    pub(crate) fn send(&self, rate: u64, duration: Duration) -> Result<Sent> {
        let start = Instant::now();
        let wanted = (rate as f64 * duration.as_secs_f64()) as u64 / BLOCK * BLOCK;
        let mut sent = 0;
        while sent < wanted && start.elapsed() < duration + PATIENCE {
            let due = ((rate as f64 * start.elapsed().as_secs_f64()) as u64).min(wanted);
            let burst = (due.saturating_sub(sent) / BLOCK * BLOCK).min(BURST);
            if burst == 0 {
                thread::sleep(TICK);
                continue;
            }
            self.burst(u32::try_from(burst)?)?;
            sent += burst;
        }
        Ok(Sent {
            frames: sent,
            duration: start.elapsed(),
        })
    }

    fn burst(&self, frames: u32) -> Result<()> {
        let program = self
            .object
            .program("generate")
            .context("no program generate")?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&self.context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        <&Xdp>::try_from(program)?
            .test_run(options)
            .context("send frames from inside the kernel")?;
        Ok(())
    }
}

/// What was sent.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) duration: Duration,
}

impl Sent {
    /// Frames a second.
    pub(crate) fn rate(&self) -> f64 {
        self.frames as f64 / self.duration.as_secs_f64()
    }
}
