//! NTP packets by number: so many requests that nobody answers, as fast as a socket takes them or
//! until told to stop, each with a transmit time of its own; and exchanges with a known outcome,
//! through the program `ntp-traffic`. What was sent is known exactly, because the kernel takes a
//! packet through the programs of the sending interface before the call returns.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};

use crate::{
    frames::Ntp,
    namespace::{Namespace, Pair},
    process::Process,
};

/// So that a process that is killed, or an interface that is deleted, is among packets, and the two
/// cores of a small machine do not have to do nothing else.
const PAUSE: Duration = Duration::from_micros(100);

/// Nothing is lost on the links of a test, so whoever waits longer waits for a mistake.
const PATIENCE: Duration = Duration::from_secs(10);

/// From one transmit time to the next, 15 us: printed as a number of seconds they still differ.
const STEP: u64 = 1 << 16;

/// The next transmit time: never the same twice in one test binary.
static TRANSMIT: AtomicU64 = AtomicU64::new(1 << 32);

/// The 48 bytes of a request like no other.
pub fn request() -> [u8; 48] {
    Ntp {
        version: 4,
        mode: 3,
        transmit: TRANSMIT.fetch_add(STEP, Ordering::Relaxed),
        ..Ntp::default()
    }
    .bytes()
}

/// Sends so many requests from a namespace, one after the other without a pause.
pub fn send(namespace: &Namespace, to: SocketAddr, count: u64) -> Result<()> {
    let socket = socket(namespace, to)?;
    for _ in 0..count {
        socket
            .send_to(&request(), to)
            .with_context(|| format!("cannot send to {to}"))?;
    }
    Ok(())
}

fn socket(namespace: &Namespace, to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    namespace.enter(|| UdpSocket::bind(any).context("cannot open a socket"))
}

/// Requests one after the other until it is stopped. What cannot be sent, because there is no way
/// at the moment, is not counted.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Begins to send.
    pub fn start(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        let socket = socket(namespace, to)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if socket.send_to(&request(), to).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        });
        Ok(Self { stop, sent, thread })
    }

    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and says how many were sent.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("a sending thread panicked"))?;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

/// Requests of many clients, each answered before the next is sent, until it is stopped. What passed
/// whole is counted the moment it has.
#[derive(Debug)]
pub struct Exchanges {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Exchanges {
    /// The network that the clients' addresses are in.
    const CLIENTS: &str = "10.1.0.0/16";

    /// Begins: so many clients ask the server of a pair, one after the other, with `pause` between
    /// two requests.
    pub fn start(pair: &Pair, clients: u16, pause: Duration) -> Result<Self> {
        let network = Self::CLIENTS;
        pair.client
            .ip(&format!("route replace local {network} dev lo"))?;
        pair.server
            .ip(&format!("route replace {network} via {}", Pair::CLIENT))?;
        let address = SocketAddr::new(Pair::SERVER.parse()?, 123);
        let server = pair
            .server
            .enter(|| UdpSocket::bind(address).context("cannot open the server's socket"))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let sockets = pair.client.enter(|| {
            let numbers = 0..clients;
            numbers
                .map(|number| {
                    let [high, low] = number.to_be_bytes();
                    let socket = UdpSocket::bind((Ipv4Addr::new(10, 1, high, low), 0))?;
                    socket.connect(address)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    Ok(socket)
                })
                .collect::<Result<Vec<_>>>()
                .context("cannot open a client's socket")
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            move || {
                for client in sockets.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    exchange(client, &server)?;
                    answered.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(pause);
                }
                Ok(())
            }
        });
        Ok(Self {
            stop,
            answered,
            thread,
        })
    }

    /// How many were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Ends it, and says how many were answered.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("an asking thread panicked"))??;
        Ok(self.answered.load(Ordering::SeqCst))
    }
}

/// One request, and its answer.
fn exchange(client: &UdpSocket, server: &UdpSocket) -> Result<()> {
    let mut received = [0; 48];
    let request = request();
    client.send(&request).context("cannot ask")?;
    let (_, asker) = server
        .recv_from(&mut received)
        .context("a request did not arrive")?;
    let transmit: [u8; 8] = received[40..].try_into()?;
    let answer = Ntp {
        version: 4,
        mode: 4,
        stratum: 1,
        reference: *b"TEST",
        origin: u64::from_be_bytes(transmit),
        receive: u64::from_be_bytes(transmit),
        transmit: u64::from_be_bytes(transmit),
        ..Ntp::default()
    };
    server
        .send_to(&answer.bytes(), asker)
        .context("cannot answer")?;
    client
        .recv(&mut received)
        .context("an answer did not arrive")?;
    Ok(())
}

/// A server that answers as it is asked, and what asks it.
#[derive(Debug)]
pub struct Traffic<'a> {
    program: &'a Path,
    address: &'a str,
    _server: Process,
}

impl<'a> Traffic<'a> {
    /// A plan with something of everything.
    pub const PLAN: &'static str = "answered=60 unanswered=9 duplicate=8 multiple=7 unsolicited=6 \
                                    kiss=5 control=4 private=3";

    /// Starts the server on an address of a namespace, and waits until it serves. `program` is
    /// `ntp-traffic`, whose place only a test knows.
    pub fn serve(program: &'a Path, namespace: &Namespace, address: &'a str) -> Result<Self> {
        let mut server = namespace.start(program, ["serve", address])?;
        server.wait_until("a server", Duration::from_secs(15), |it| {
            it.stdout().contains("serving")
        })?;
        Ok(Self {
            program,
            address,
            _server: server,
        })
    }

    /// Asks from a namespace by a plan; gives the totals that a monitor must come to.
    pub fn ask(&self, namespace: &Namespace, plan: &str) -> Result<Map<String, Value>> {
        let arguments = ["ask", self.address].into_iter().chain(plan.split(' '));
        let arguments = arguments.filter(|word| !word.is_empty());
        let printed = namespace.run(self.program, arguments)?;
        serde_json::from_str(&printed).with_context(|| format!("not a JSON object: {printed}"))
    }
}
