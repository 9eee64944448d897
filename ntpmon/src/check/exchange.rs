//! One question to one server, over a socket of its own. The times of this host come from the
//! kernel, as near to the wire as it looks: what the daemon is busy with does not count as delay.
//!
//! The socket is not connected: the kernel would drop an answer that comes from another address
//! than the one that was asked, and nobody would learn why nothing came. Here every packet is
//! looked at, and only one from the right address and port that repeats the random number of the
//! question is believed.

use std::{
    future::pending,
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
            TimestampingFlag, recvmsg, sendto, setsockopt, socket,
            sockopt::{Ipv4RecvErr, Ipv6RecvErr, Timestamping},
        },
        time::TimeSpec,
    },
};
use ntpmon_common::NtpHeader;
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Definition, Failure, Status,
    answer::{Failed, Local, Question, Sample, Stamps, belongs, read},
    round::Round,
};
use crate::ntp::clock::{self, Step, UtcOffset};

/// An answer with all that may come after its header; longer ones are cut, which does no harm.
const PACKET: usize = 1024;
/// Questions that wait for their answers at once, each with a socket; others wait for their turn.
pub const AT_ONCE: usize = 512;
/// Packets that are looked at while waiting for one answer: whoever sends more of them is not
/// worth the work.
const MOST_PACKETS: usize = 64;

/// Asks a server as often as a definition says, and puts together what came of it. A server that
/// does not want to be asked is not asked again. Each question waits for its turn: there are only
/// so many sockets.
pub async fn round(
    server: SocketAddr,
    definition: &Definition,
    samples: u8,
    turns: &Semaphore,
) -> Round {
    let mut outcomes = Vec::with_capacity(samples.into());
    let mut steps = UtcOffset::now();
    for number in 1..=samples {
        // It is never closed; if it were, that would be no reason not to ask.
        let turn = turns.acquire().await;
        let begun = Instant::now();
        let outcome = ask(server, definition.version, definition.timeout).await;
        drop(turn);
        let failure = outcome.as_ref().err().map(|failed| failed.failure.status());
        outcomes.push(outcome);
        if let Some(step) = steps.refresh() {
            forget_before(&mut outcomes, step);
        }
        if failure == Some(Status::KissOfDeath) || number == samples {
            break;
        }
        sleep_until(begun + definition.spacing).await;
    }
    let at = clock::utc();
    if let Some(step) = steps.refresh() {
        forget_before(&mut outcomes, step);
    }
    Round::of(&outcomes, at)
}

/// What was measured before this host's clock was set is of another clock than what comes after.
fn forget_before(outcomes: &mut [Result<Sample, Failed>], step: Step) {
    let seconds = step.nanoseconds as f64 / 1e9;
    for outcome in outcomes.iter_mut().filter(|it| it.is_ok()) {
        *outcome = Err(Failure::ClockStepped(seconds).into());
    }
}

/// Asks a server for the time. Whether this host's clock was set meanwhile is for whoever asks to
/// find out.
///
/// # Errors
/// Why there is none.
pub async fn ask(server: SocketAddr, version: u8, timeout: Duration) -> Result<Sample, Failed> {
    let random = getrandom::u64().map_err(|error| Failure::Local(error.to_string()))?;
    let question = Question::new(version, random);
    let socket = Socket::open(server).map_err(|error| Failure::Local(error.to_string()))?;
    let mut waiting = Waiting {
        socket,
        question,
        server,
        sent: Stamp::User(0),
        packets: 0,
        strange: None,
    };
    let deadline = Instant::now() + timeout;
    waiting.sent = Stamp::User(clock::utc());
    let packet = question.packet();
    let sent = waiting.socket.send(&packet, server);
    sent.map_err(|error| Failure::of_network(&error))?;
    match timeout_at(deadline, waiting.answer()).await {
        Ok(answer) => answer,
        // A last look: what came just now may not have woken us.
        Err(_) => match waiting.look() {
            Ok(Some(sample)) => Ok(sample),
            Ok(None) => Err(waiting.nothing(timeout).into()),
            Err(failed) => Err(failed),
        },
    }
}

/// A question that was sent.
struct Waiting {
    socket: Socket,
    question: Question,
    server: SocketAddr,
    sent: Stamp,
    packets: usize,
    /// What came and was no answer: it is told when nothing better comes.
    strange: Option<Failure>,
}

impl Waiting {
    async fn answer(&mut self) -> Result<Sample, Failed> {
        loop {
            self.socket.is_ready().await?;
            if let Some(sample) = self.look()? {
                return Ok(sample);
            }
            if self.packets >= MOST_PACKETS {
                // What else comes is not looked at; the time is over as it would be.
                pending::<()>().await;
            }
        }
    }

    /// Looks at what came so far.
    fn look(&mut self) -> Result<Option<Sample>, Failed> {
        self.socket.look_back(&mut self.sent)?;
        while self.packets < MOST_PACKETS {
            let Some((packet, from, received)) = self.socket.take()? else {
                break;
            };
            self.packets += 1;
            let header = if same(from, self.server) {
                belongs(&self.question, &packet)
            } else {
                Err(Failure::WrongAddress(from))
            };
            match header {
                Ok(header) => return self.read(header, received).map(Some),
                Err(failure) => drop(self.strange.get_or_insert(failure)),
            }
        }
        Ok(None)
    }

    fn read(&mut self, header: NtpHeader, received: Stamp) -> Result<Sample, Failed> {
        self.socket.look_back(&mut self.sent)?;
        read(header, times(self.sent, received))
    }

    fn nothing(self, timeout: Duration) -> Failure {
        self.strange.unwrap_or(Failure::Timeout(timeout))
    }
}

/// Whether an answer is from whom was asked. The flow label and, where none was given, the
/// interface of an address of IPv6 make no difference.
fn same(from: SocketAddr, asked: SocketAddr) -> bool {
    from.ip() == asked.ip() && from.port() == asked.port()
}

/// A point in time, in nanoseconds since 1970, and who took it.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    Kernel(i64),
    User(i64),
}

fn times(sent: Stamp, received: Stamp) -> Local {
    let (stamps, sent, received) = match (sent, received) {
        (Stamp::Kernel(sent), Stamp::Kernel(received)) => (Stamps::Kernel, sent, received),
        (Stamp::User(sent), Stamp::Kernel(received)) => (Stamps::KernelReceive, sent, received),
        (Stamp::Kernel(sent) | Stamp::User(sent), Stamp::User(received)) => {
            (Stamps::User, sent, received)
        }
    };
    Local {
        sent,
        received,
        stamps,
    }
}

/// As long as it lives, the kernel notes when packets come in. It begins to when the first socket
/// asks for it, which is too late for that socket's first packet, and takes a while each time.
#[derive(Debug)]
pub struct Stamping {
    _socket: Option<OwnedFd>,
}

impl Stamping {
    /// From now on. Where it cannot be had, each answer says that its times are less good.
    #[must_use]
    pub fn hold() -> Self {
        let families = [AddressFamily::Inet, AddressFamily::Inet6];
        let socket = families.into_iter().find_map(|family| {
            let socket = datagram(family).ok()?;
            setsockopt(&socket, Timestamping, &receive_stamps()).ok()?;
            Some(socket)
        });
        Self { _socket: socket }
    }
}

fn receive_stamps() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
}

fn datagram(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Datagram, flags, None)?)
}

/// A socket for one question, at a port that the kernel picks at random.
#[derive(Debug)]
struct Socket(UdpSocket);

impl Socket {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = datagram(family)?;
        // That the port is closed, and that there is no way: else nothing comes of either.
        match server {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
        }
        // The time at which the question left, with nothing but its number.
        let stamps = receive_stamps()
            | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
        if let Err(error) = setsockopt(&socket, Timestamping, &stamps) {
            tracing::debug!("asking for the kernel's times: {error}");
        }
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Waits until there is something to look at.
    async fn is_ready(&self) -> Result<(), Failure> {
        let ready = self.0.ready(Interest::READABLE | Interest::ERROR).await;
        ready.map_err(|error| Failure::of_network(&error))?;
        Ok(())
    }

    fn send(&self, packet: &[u8], server: SocketAddr) -> io::Result<()> {
        let address = SockaddrStorage::from(server);
        sendto(self.0.as_raw_fd(), packet, &address, MsgFlags::empty())?;
        Ok(())
    }

    /// A packet, if there is one.
    fn take(&self) -> Result<Option<Packet>, Failure> {
        loop {
            return match self.0.try_io(Interest::READABLE, || self.receive()) {
                Ok(packet) => Ok(Some(packet)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Failure::of_network(&error)),
            };
        }
    }

    /// A packet, who sent it, and when it came.
    fn receive(&self) -> io::Result<Packet> {
        let mut packet = vec![0; PACKET];
        let mut control = cmsg_space!([TimeSpec; 3]);
        let (length, from, stamp) = {
            let mut parts = [IoSliceMut::new(&mut packet)];
            let message = recvmsg::<SockaddrStorage>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let user = Stamp::User(clock::utc());
            let stamp = message
                .cmsgs()?
                .find_map(|it| software(&it))
                .unwrap_or(user);
            let from = message.address.as_ref().and_then(plain);
            (message.bytes, from, stamp)
        };
        packet.truncate(length);
        let from = from.ok_or_else(|| io::Error::other("a packet without a sender"))?;
        Ok((packet, from, stamp))
    }

    /// What the kernel has to say of what was sent: when it left, or why it came back.
    fn look_back(&self, sent: &mut Stamp) -> Result<(), Failure> {
        loop {
            match self.news() {
                Ok(News::Left(stamp)) => *sent = stamp,
                Ok(News::Nothing) => {}
                Ok(News::CameBack(errno)) => {
                    let error = io::Error::from_raw_os_error(errno);
                    return Err(Failure::of_network(&error));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All of it was seen. The runtime is to wake us for more.
                Err(error) => {
                    let _ = self.0.try_io(Interest::ERROR, || Err::<(), _>(error));
                    return Ok(());
                }
            }
        }
    }

    fn news(&self) -> io::Result<News> {
        let mut control = cmsg_space!([TimeSpec; 3], libc::sock_extended_err, libc::sockaddr_in6);
        let message = recvmsg::<SockaddrStorage>(
            self.0.as_raw_fd(),
            &mut [],
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let mut news = News::Nothing;
        for item in message.cmsgs()? {
            match item {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    if error.ee_origin != libc::SO_EE_ORIGIN_TIMESTAMPING {
                        return Ok(News::CameBack(error.ee_errno.cast_signed()));
                    }
                }
                other => {
                    if let Some(stamp) = software(&other) {
                        news = News::Left(stamp);
                    }
                }
            }
        }
        Ok(news)
    }
}

/// What came, from whom, and when.
type Packet = (Vec<u8>, SocketAddr, Stamp);

enum News {
    Left(Stamp),
    CameBack(i32),
    Nothing,
}

/// The kernel's own time, as against that of the network card, which is another clock.
fn software(item: &ControlMessageOwned) -> Option<Stamp> {
    let ControlMessageOwned::ScmTimestampsns(stamps) = item else {
        return None;
    };
    let (seconds, rest) = (stamps.system.tv_sec(), stamps.system.tv_nsec());
    (seconds != 0).then(|| Stamp::Kernel(seconds * 1_000_000_000 + rest))
}

fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|it| (*it).into());
    v4.map(SocketAddr::V4)
        .or_else(|| Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::answer::tests::{NOW, answered};

    #[test]
    fn what_was_measured_before_a_step_of_the_clock_is_forgotten() {
        let local = Local {
            sent: NOW,
            received: NOW + 1000,
            stamps: Stamps::Kernel,
        };
        let sample = || read(answered(NOW, 0, 500, 0), local);
        let refused = || Err(Failure::Refused.into());
        let step = Step {
            nanoseconds: -2_500_000_000,
            slept: 0,
        };
        let mut outcomes = vec![sample(), refused(), sample()];
        assert_eq!(Round::of(&outcomes, NOW).answered, 2);
        forget_before(&mut outcomes, step);
        let round = Round::of(&outcomes, NOW);
        assert_eq!(
            (round.status, round.time, round.sent, round.answered),
            (Status::ClockStepped, None, 3, 0)
        );
        assert_eq!(
            round.message.as_deref(),
            Some("this host's clock was set by -2.500000 s while the server was asked")
        );
        // What comes after it counts.
        outcomes.push(sample());
        let round = Round::of(&outcomes, NOW);
        assert_eq!((round.status, round.answered), (Status::Ok, 1));
    }
}
