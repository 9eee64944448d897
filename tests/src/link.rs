//! Links that the kernel here cannot make by itself: a tun device at each host and a thread that
//! carries packets between them, as they are or in tagged frames over a veth pair. Real daemons talk
//! over it, and a monitor on the tun device or on the veth pair has something to see.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, ensure};

use crate::{
    frames::{self, Ethernet, RawSocket, Tag},
    namespace::{Namespace, Pair},
};

/// How often the carrying thread looks whether it shall end.
const PATIENCE_MILLISECONDS: i32 = 50;

/// Two hosts whose only addresses are on tun devices; packets pass while this lives.
#[derive(Debug)]
pub struct TunLink {
    /// The hosts. The cable between them has no addresses of its own.
    pub pair: Pair,
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<Result<()>>>,
}

impl TunLink {
    /// What the tun devices are called, at both ends.
    pub const DEVICE: &str = "tun0";

    /// Packets go from tun device to tun device.
    pub fn new() -> Result<Self> {
        let pair = Pair::without_addresses()?;
        let [server, client] = Self::devices(&pair)?;
        Self::carry(pair, vec![(Port::Tun(server), Port::Tun(client))])
    }

    /// Packets go from a tun device into frames with these tags (the outermost first) over the
    /// hosts' cable to the other tun device.
    pub fn tagged(tags: &[Tag]) -> Result<Self> {
        let pair = Pair::without_addresses()?;
        let [server_tun, client_tun] = Self::devices(&pair)?;
        let server = RawSocket::open(&pair.server, Pair::DEVICE)?;
        let client = RawSocket::open(&pair.client, Pair::DEVICE)?;
        let out = Ethernet {
            source: server.address,
            destination: client.address,
        };
        let back = Ethernet {
            source: client.address,
            destination: server.address,
        };
        let tags = tags.to_vec();
        let ways = vec![
            (
                Port::Tun(server_tun),
                Port::Cable {
                    socket: server,
                    ethernet: out,
                    tags: tags.clone(),
                },
            ),
            (
                Port::Tun(client_tun),
                Port::Cable {
                    socket: client,
                    ethernet: back,
                    tags,
                },
            ),
        ];
        Self::carry(pair, ways)
    }

    fn devices(pair: &Pair) -> Result<[fs::File; 2]> {
        let make = |host: &Namespace, addresses: [&str; 2]| -> Result<fs::File> {
            let tun = host.enter(|| open_tun(Self::DEVICE))?;
            host.addresses(Self::DEVICE, addresses)?;
            Ok(tun)
        };
        Ok([
            make(&pair.server, [Pair::SERVER, Pair::SERVER_V6])?,
            make(&pair.client, [Pair::CLIENT, Pair::CLIENT_V6])?,
        ])
    }

    fn carry(pair: Pair, ways: Vec<(Port, Port)>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let carriers = ways
            .into_iter()
            .map(|(one, other)| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || carry(&one, &other, &stop))
            })
            .collect();
        Ok(Self {
            pair,
            stop,
            carriers,
        })
    }
}

impl Drop for TunLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            match carrier.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("a link stopped carrying: {error:#}"),
                Err(_) => eprintln!("a link's thread panicked"),
            }
        }
    }
}

/// Where packets come out of and go into.
#[derive(Debug)]
enum Port {
    Tun(fs::File),
    Cable {
        socket: RawSocket,
        ethernet: Ethernet,
        tags: Vec<Tag>,
    },
}

impl Port {
    /// The next packet that waits here, if any.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match self {
            Self::Tun(device) => match io::Read::read(&mut &*device, buffer) {
                Ok(length) => Ok(buffer.get(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error).context("cannot read from a tun device"),
            },
            Self::Cable {
                socket, ethernet, ..
            } => {
                let frame = socket.receive(buffer)?;
                Ok(frame
                    .filter(|frame| frame.starts_with(&ethernet.source))
                    .and_then(frames::packet_of))
            }
        }
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        match self {
            Self::Tun(device) => {
                io::Write::write_all(&mut &*device, packet).context("cannot write to a tun device")
            }
            Self::Cable {
                socket,
                ethernet,
                tags,
            } => socket.send(&frames::frame(*ethernet, tags, packet)),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(device) => device.as_fd(),
            Self::Cable { socket, .. } => socket.as_fd(),
        }
    }
}

/// Carries packets both ways between two ports until told to stop.
fn carry(one: &Port, other: &Port, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [one, other].map(|port| libc::pollfd {
            fd: port.descriptor().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: the pointer and the count are of one array of open descriptors.
        let ready = unsafe { libc::poll(waiting.as_mut_ptr(), 2, PATIENCE_MILLISECONDS) };
        ensure!(
            ready >= 0 || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted,
            "poll: {}",
            io::Error::last_os_error()
        );
        for (from, to) in [(one, other), (other, one)] {
            while let Some(packet) = from.receive(&mut buffer)? {
                to.send(packet)?;
            }
        }
    }
    Ok(())
}

/// Makes a tun device in the namespace of the calling thread: bare IP packets, no other header. It
/// lives as long as the file.
fn open_tun(name: &str) -> Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    const CONTROL: &str = "/dev/net/tun";
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CONTROL)
        .with_context(|| format!("cannot open {CONTROL}"))?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(
        result >= 0,
        "cannot make the tun device {name}: {}",
        io::Error::last_os_error()
    );
    Ok(file)
}
