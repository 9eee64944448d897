//! A PTP master of ours and one that asks it for its delay, over UDP and IPv4: what no real clock does
//! on command, such as to correct by a given time and to say how far TAI is from UTC. It keeps no
//! time.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Ports of messages whose time counts, and of all others.
const EVENT: u16 = 319;
const GENERAL: u16 = 320;
/// Where all of PTP listens.
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 129);
/// From one of each message to the next: 2 to the power of [`LOG_INTERVAL`] seconds.
const INTERVAL: Duration = Duration::from_millis(125);
const LOG_INTERVAL: i8 = -3;

const SYNC: u8 = 0x0;
const DELAY_REQUEST: u8 = 0x1;
const FOLLOW_UP: u8 = 0x8;
const DELAY_RESPONSE: u8 = 0x9;
const ANNOUNCE: u8 = 0xb;

const TWO_STEP: u16 = 0x0200;
const UTC_OFFSET_IS_VALID: u16 = 0x0004;
const PTP_TIMESCALE: u16 = 0x0008;

/// A clock and its port 1.
const MASTER: [u8; 10] = [2, 0, 0, 0xff, 0xfe, 0, 0, 1, 0, 1];
const SLAVE: [u8; 10] = [2, 0, 0, 0xff, 0xfe, 0, 0, 2, 0, 1];

/// What it announces.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    /// Its domain.
    pub domain: u8,
    /// 6 follows a reference.
    pub class: u8,
    /// A code: 0x21 is 100 ns.
    pub accuracy: u8,
    /// Clocks between it and its grandmaster.
    pub steps_removed: u16,
    /// TAI - UTC in seconds.
    pub utc_offset: u16,
    /// What Follow_Up says that the way of its Sync added, in nanoseconds.
    pub correction: i64,
    /// What Delay_Resp says that the way of the request added, in nanoseconds.
    pub delay_correction: i64,
    /// Which of several is to be master: the first before all else, the second at the end.
    pub priorities: [u8; 2],
    /// How steady it runs, as the standard scales it.
    pub variance: u16,
}

/// A running pair.
#[derive(Debug)]
pub struct Grandmaster {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Grandmaster {
    /// Starts the master at an address of one namespace, and the other at one of another.
    pub fn start(
        (host, address): (&Namespace, Ipv4Addr),
        (other, from): (&Namespace, Ipv4Addr),
        announced: Announced,
    ) -> Result<Self> {
        // A socket stays where it was made, and what it sends to many goes out where its address is.
        let bind = |host: &Namespace, address, port| {
            host.enter(|| {
                let address = SocketAddrV4::new(address, port);
                UdpSocket::bind(address).with_context(|| format!("PTP at {address}"))
            })
        };
        let (event, general) = (bind(host, address, EVENT)?, bind(host, address, GENERAL)?);
        let asking = bind(other, from, EVENT)?;
        let end = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&end);
        let thread = thread::spawn(move || {
            for sequence in 0_u16.. {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let message = |kind, source, length| {
                    let mut message = header(kind, source, announced.domain, length);
                    message[30..32].copy_from_slice(&sequence.to_be_bytes());
                    message
                };
                let mut sync = message(SYNC, MASTER, 44);
                sync[6..8].copy_from_slice(&TWO_STEP.to_be_bytes());
                let mut follow_up = message(FOLLOW_UP, MASTER, 44);
                let mut response = message(DELAY_RESPONSE, MASTER, 54);
                let (sync_correction, correction) =
                    (announced.correction << 16, announced.delay_correction << 16);
                follow_up[8..16].copy_from_slice(&sync_correction.to_be_bytes());
                response[8..16].copy_from_slice(&correction.to_be_bytes());
                response[44..54].copy_from_slice(&SLAVE);
                for (socket, port, message) in [
                    (
                        &general,
                        GENERAL,
                        announce(message(ANNOUNCE, MASTER, 64), announced),
                    ),
                    (&event, EVENT, sync),
                    (&general, GENERAL, follow_up),
                    (&asking, EVENT, message(DELAY_REQUEST, SLAVE, 44)),
                    (&general, GENERAL, response),
                ] {
                    // Who misses one finds its test failing.
                    let _ = socket.send_to(&message, (EVERYBODY, port));
                }
                thread::sleep(INTERVAL);
            }
        });
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Grandmaster {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it panicked with is printed.
            let _ = thread.join();
        }
    }
}

fn header(kind: u8, source: [u8; 10], domain: u8, length: u8) -> Vec<u8> {
    let mut message = vec![0; usize::from(length)];
    message[0] = kind;
    message[1] = 2;
    message[3] = length;
    message[4] = domain;
    message[20..30].copy_from_slice(&source);
    message[33] = LOG_INTERVAL.cast_unsigned();
    message
}

fn announce(mut message: Vec<u8>, announced: Announced) -> Vec<u8> {
    let flags = UTC_OFFSET_IS_VALID | PTP_TIMESCALE;
    message[6..8].copy_from_slice(&flags.to_be_bytes());
    message[44..46].copy_from_slice(&announced.utc_offset.to_be_bytes());
    [message[47], message[52]] = announced.priorities;
    (message[48], message[49]) = (announced.class, announced.accuracy);
    message[50..52].copy_from_slice(&announced.variance.to_be_bytes());
    message[53..61].copy_from_slice(&MASTER[..8]);
    message[61..63].copy_from_slice(&announced.steps_removed.to_be_bytes());
    // GNSS.
    message[63] = 0x20;
    message
}
