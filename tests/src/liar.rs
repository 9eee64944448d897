//! An NTP server of ours that lies as it is told, and a client that asks it: what real daemons do not
//! do on command. Its clock is this machine's, moved.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ntpmon::ntp::clock;
use ntpmon_common::Timestamp;

use crate::namespace::Namespace;

const PORT: u16 = 123;
/// In nanoseconds.
const YEAR: i64 = 365 * 86_400 * 1_000_000_000;
/// How long the server waits for a request before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);
/// Nothing is lost on the links of a test.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it answers.
#[derive(Clone, Debug)]
pub struct Manner {
    /// How far its clock is ahead of this machine's, in nanoseconds.
    pub ahead: i64,
    /// 0 to 3.
    pub leap: u8,
    /// Its stratum.
    pub stratum: u8,
    /// Its reference.
    pub reference: [u8; 4],
    /// As a power of two of a second.
    pub precision: i8,
    /// How far it says to be from its reference clock: delay and dispersion, in seconds.
    pub root: [f64; 2],
    /// In place of the version that it was asked in.
    pub version: Option<u8>,
    /// Hops.
    pub ttl: u32,
    /// How often it answers a request.
    pub answers: usize,
    /// How long it waits with its answer after it has noted its time, as a longer way back does.
    pub wait: Duration,
    /// Its answer is cut off after so many bytes.
    pub length: usize,
    /// Its times are zero.
    pub timeless: bool,
    /// It does not repeat what it was asked with.
    pub forgetful: bool,
    /// It answers from another port than the one that was asked.
    pub elsewhere: bool,
    /// It answers through this socket, which may be at another address.
    pub through: Option<Arc<UdpSocket>>,
    /// Somebody who has not seen the question answers before it, with the time of a year on.
    pub forestalled: bool,
    /// It does not answer.
    pub silent: bool,
}

impl Default for Manner {
    /// As an honest server.
    fn default() -> Self {
        Self {
            ahead: 0,
            leap: 0,
            stratum: 2,
            reference: [192, 0, 2, 200],
            precision: -23,
            root: [0.0; 2],
            version: None,
            ttl: 64,
            answers: 1,
            wait: Duration::ZERO,
            length: 48,
            timeless: false,
            forgetful: false,
            elsewhere: false,
            through: None,
            forestalled: false,
            silent: false,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Liar {
    socket: Arc<UdpSocket>,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    /// Starts it at an address of a namespace, on port 123.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        Self::start_at(namespace, SocketAddr::new(address, PORT))
    }

    /// Starts it at an address and a port.
    pub fn start_at(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        // A socket stays where it was made.
        let bind = |address: SocketAddr| {
            UdpSocket::bind(address).with_context(|| format!("answering at {address}"))
        };
        let (socket, other) = namespace.enter(|| {
            let other = SocketAddr::new(address.ip(), 0);
            Ok((bind(address)?, bind(other)?))
        })?;
        socket.set_read_timeout(Some(TURN))?;
        let socket = Arc::new(socket);
        let manner = Arc::new(Mutex::new(Manner::default()));
        let (asked, end) = (Arc::default(), Arc::default());
        let thread = {
            let (socket, manner) = (Arc::clone(&socket), Arc::clone(&manner));
            let (asked, end) = (Arc::clone(&asked), Arc::clone(&end));
            thread::spawn(move || serve([&socket, &other], &manner, &asked, &end))
        };
        Ok(Self {
            socket,
            manner,
            asked,
            end,
            thread: Some(thread),
        })
    }

    /// Answers otherwise from now on.
    pub fn be(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Sends an answer that nobody asked for.
    pub fn answer_unasked(&self, to: SocketAddr) -> Result<()> {
        let manner = self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut request = [0; 48];
        request[0] = 0x23;
        request[40..].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
        let answer = answer(&request, &manner);
        self.socket.send_to(&answer, to)?;
        Ok(())
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers what comes to the first of two sockets; the second is at another port.
fn serve(
    [socket, other]: [&UdpSocket; 2],
    manner: &Mutex<Manner>,
    asked: &AtomicU64,
    end: &AtomicBool,
) {
    let mut request = [0; 2048];
    while !end.load(Ordering::Acquire) {
        let Ok((length, from)) = socket.recv_from(&mut request) else {
            continue;
        };
        let Some(header) = request[..length].first_chunk::<48>() else {
            continue;
        };
        asked.fetch_add(1, Ordering::Relaxed);
        let manner = manner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if manner.silent {
            continue;
        }
        let answer = answer(header, &manner);
        thread::sleep(manner.wait);
        let socket = if manner.elsewhere { other } else { socket };
        let socket = manner.through.as_deref().unwrap_or(socket);
        let _ = socket.set_ttl(manner.ttl);
        if manner.forestalled {
            let forged = Manner {
                forgetful: true,
                ahead: YEAR,
                ..manner.clone()
            };
            let _ = socket.send_to(&self::answer(header, &forged), from);
        }
        for _ in 0..manner.answers {
            // Who asked may be gone.
            let _ = socket.send_to(&answer[..manner.length.min(answer.len())], from);
        }
    }
}

fn answer(request: &[u8; 48], manner: &Manner) -> [u8; 48] {
    let mut answer = [0; 48];
    let version = manner.version.unwrap_or(request[0] >> 3 & 7);
    answer[0] = manner.leap << 6 | version << 3 | 4;
    answer[1] = manner.stratum;
    answer[2] = request[2];
    answer[3] = manner.precision.cast_unsigned();
    for (place, seconds) in [4, 8].into_iter().zip(manner.root) {
        let seconds = (seconds * 65_536.0) as u32;
        answer[place..place + 4].copy_from_slice(&seconds.to_be_bytes());
    }
    answer[12..16].copy_from_slice(&manner.reference);
    if !manner.forgetful {
        answer[24..32].copy_from_slice(&request[40..]);
    }
    if !manner.timeless {
        let now = Timestamp::from_unix_nanoseconds(clock::utc().saturating_add(manner.ahead));
        answer[16..24].copy_from_slice(&now.0.to_be_bytes());
        answer[32..40].copy_from_slice(&now.0.to_be_bytes());
        answer[40..].copy_from_slice(&now.0.to_be_bytes());
    }
    answer
}

/// A client that says nothing of its clock, asking from one port.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    number: u64,
}

impl Asker {
    /// In a namespace, to ask this server.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| {
            let any: SocketAddr = if server.is_ipv4() {
                ([0, 0, 0, 0], 0).into()
            } else {
                ([0_u16; 8], 0).into()
            };
            let socket = UdpSocket::bind(any).context("asking")?;
            socket
                .connect(server)
                .with_context(|| format!("asking {server}"))?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            number: clock::utc().unsigned_abs() | 1,
        })
    }

    /// Where it asks from.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Asks once, and waits for the answer.
    pub fn ask(&mut self) -> Result<()> {
        self.ask_only()?;
        let mut answer = [0; 2048];
        let length = self.socket.recv(&mut answer).context("no answer")?;
        ensure!(length > 0, "an empty answer");
        Ok(())
    }

    /// Asks once, and does not wait.
    pub fn ask_only(&mut self) -> Result<()> {
        self.number = self.number.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
        let mut request = [0; 48];
        request[0] = 0x23;
        request[40..].copy_from_slice(&self.number.to_be_bytes());
        self.socket.send(&request)?;
        Ok(())
    }

    /// Asks so often, with so much time in between.
    pub fn ask_often(&mut self, times: usize, pause: Duration) -> Result<()> {
        for _ in 0..times {
            self.ask()?;
            thread::sleep(pause);
        }
        Ok(())
    }
}
