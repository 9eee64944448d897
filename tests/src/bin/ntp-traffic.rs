//! Known NTP traffic for tests: one process answers, another asks and says how many packets of
//! each kind it caused, so that a test can hold a monitor's totals against them. It needs nothing
//! but sockets: each side runs in whatever network namespace, or machine, the test puts it.
//!
//! The asking side tells the answering one what to do by the request's reference identifier,
//! which is free in a request and which no monitor reads there.

use std::{
    collections::HashSet,
    env,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};

const USAGE: &str = "usage:
  ntp-traffic serve ADDRESS
      prints a line as soon as its port is open, answers on UDP port 123 until it is ended
  ntp-traffic ask ADDRESS [KIND=COUNT]...
      sends COUNT exchanges of each KIND, prints what that came to as JSON
      kinds: answered, unanswered, duplicate, multiple, unsolicited, kiss, control, private";

const PORT: u16 = 123;

/// Nothing is lost on the links of a test, so whoever waits longer waits for a mistake.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the server may take until its port is open: it may have been started just before.
const START: Duration = Duration::from_secs(10);

/// What kinds of exchange there are. The first field is the name on the command line.
const KINDS: [(&str, Kind); 8] = [
    ("answered", Kind::Answered),
    ("unanswered", Kind::Unanswered),
    ("duplicate", Kind::Duplicate),
    ("multiple", Kind::Multiple),
    ("unsolicited", Kind::Unsolicited),
    ("kiss", Kind::Kiss),
    ("control", Kind::Control),
    ("private", Kind::Private),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request, a response.
    Answered,
    /// A request that the server leaves alone.
    Unanswered,
    /// The same request twice, one response.
    Duplicate,
    /// A request, the same response twice.
    Multiple,
    /// A request, and a response to something else: its origin is zero.
    Unsolicited,
    /// A request, a kiss-o'-death.
    Kiss,
    /// A control message (mode 6) of 12 bytes and its answer.
    Control,
    /// A private message (mode 7) of 8 bytes and its answer.
    Private,
}

impl Kind {
    /// The reference identifier by which the server knows what is expected of it.
    const fn order(self) -> [u8; 4] {
        match self {
            Self::Unanswered => *b"NONE",
            Self::Multiple => *b"BOTH",
            Self::Unsolicited => *b"ZERO",
            Self::Kiss => *b"RATE",
            Self::Answered | Self::Duplicate | Self::Control | Self::Private => [0; 4],
        }
    }

    /// Packets from the client and packets from the server.
    const fn packets(self) -> (u64, u64) {
        match self {
            Self::Unanswered => (1, 0),
            Self::Duplicate => (2, 1),
            Self::Multiple => (1, 2),
            Self::Answered | Self::Unsolicited | Self::Kiss | Self::Control | Self::Private => {
                (1, 1)
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ntp-traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [command, address, plan @ ..] = arguments else {
        bail!(USAGE);
    };
    let address: IpAddr = address
        .parse()
        .with_context(|| format!("{address} is no IP address"))?;
    match (command.as_str(), plan) {
        ("serve", []) => serve(address),
        ("ask", plan) => {
            let plan = plan
                .iter()
                .map(|argument| planned(argument))
                .collect::<anyhow::Result<Vec<_>>>()?;
            ask(address, &plan)?;
            println!("{}", totals(&plan));
            Ok(())
        }
        _ => bail!(USAGE),
    }
}

fn planned(argument: &str) -> anyhow::Result<(Kind, u64)> {
    let (name, count) = argument.split_once('=').context(USAGE)?;
    let (_, kind) = KINDS
        .into_iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("no kind of exchange is called {name}\n{USAGE}"))?;
    let count = count
        .parse()
        .with_context(|| format!("{count} is no number of exchanges"))?;
    Ok((kind, count))
}

/// What a monitor that saw everything has to report, under the names of `ntpmon replay --summary`.
fn totals(plan: &[(Kind, u64)]) -> serde_json::Value {
    let sum = |of: &dyn Fn(Kind) -> u64| -> u64 {
        plan.iter().map(|&(kind, count)| count * of(kind)).sum()
    };
    let all_of = |wanted: Kind| sum(&|kind| u64::from(kind == wanted));
    let is_time = |kind| !matches!(kind, Kind::Control | Kind::Private);
    let of_time = |packets: u64, kind| if is_time(kind) { packets } else { 0 };
    let exchanges = sum(&|kind| u64::from(is_time(kind)));
    let unanswered = all_of(Kind::Unanswered) + all_of(Kind::Unsolicited);
    serde_json::json!({
        "ntp_packets": sum(&|kind| kind.packets().0 + kind.packets().1),
        "requests": sum(&|kind| of_time(kind.packets().0, kind)),
        "responses": sum(&|kind| of_time(kind.packets().1, kind)),
        "exchanges": exchanges,
        "answered": exchanges - unanswered,
        "unanswered": unanswered,
        "unsolicited": all_of(Kind::Unsolicited),
        "duplicates": all_of(Kind::Duplicate),
        "multiple_responses": all_of(Kind::Multiple),
        "kiss_of_death": all_of(Kind::Kiss),
        "control": 2 * all_of(Kind::Control),
        "private": 2 * all_of(Kind::Private),
    })
}

fn ask(server: IpAddr, plan: &[(Kind, u64)]) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((unspecified(server), 0)).context("opening a socket")?;
    socket
        .connect((server, PORT))
        .with_context(|| format!("connecting to {server}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut sent = HashSet::new();
    let mut answer = [0; 512];
    for &(kind, count) in plan {
        for _ in 0..count {
            let request = request(kind, &mut sent);
            let (requests, responses) = kind.packets();
            for _ in 0..requests {
                socket.send(&request).context("sending a request")?;
            }
            for _ in 0..responses {
                socket
                    .recv(&mut answer)
                    .with_context(|| format!("waiting for an answer of {server}"))?;
            }
        }
    }
    Ok(())
}

/// Request bytes whose transmit time no earlier request of this run had.
fn request(kind: Kind, sent: &mut HashSet<u64>) -> Vec<u8> {
    match kind {
        // Version 2: read status; and the list of clients that amplifiers are probed with.
        Kind::Control => return vec![0x16, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        Kind::Private => return vec![0x17, 0, 3, 42, 0, 0, 0, 0],
        _ => {}
    }
    let mut time = now();
    while !sent.insert(time) {
        time += 1;
    }
    let mut packet = vec![0; 48];
    // Version 4, client.
    packet[0] = 0x23;
    packet[2] = 6;
    packet[12..16].copy_from_slice(&kind.order());
    packet[40..48].copy_from_slice(&time.to_be_bytes());
    packet
}

fn serve(address: IpAddr) -> anyhow::Result<()> {
    let socket = bind(SocketAddr::new(address, PORT))?;
    println!("serving {address}");
    let mut previous = None;
    let mut buffer = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).context("receiving")?;
        let request = &buffer[..length];
        // The second of two equal requests is a retransmission that crossed the answer.
        let this = (client, request.to_vec());
        if request.len() >= 48 && previous.as_ref() == Some(&this) {
            continue;
        }
        for response in responses(request)? {
            socket
                .send_to(&response, client)
                .with_context(|| format!("answering {client}"))?;
        }
        previous = Some(this);
    }
}

/// An address that was just added may take a moment until it can be bound: IPv6 first looks
/// whether another host has it.
fn bind(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    const PAUSE: Duration = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) if waited >= START => {
                return Err(error).with_context(|| format!("opening {address}"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
        waited += PAUSE;
    }
}

fn responses(request: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let first = *request.first().context("an empty request")?;
    if matches!(first & 7, 6 | 7) {
        // The response bit of a control message is in its second byte, a private one's in the
        // first.
        let mut answer = request.to_vec();
        if first & 7 == 6 {
            answer[1] |= 0x80;
        } else {
            answer[0] |= 0x80;
        }
        return Ok(vec![answer]);
    }
    ensure!(request.len() >= 48, "a request of {} bytes", request.len());
    let time = now().to_be_bytes();
    let mut answer = vec![0; 48];
    // Version 4, server; stratum 1; poll as asked; precision 2^-20 s.
    answer[..4].copy_from_slice(&[0x24, 1, request[2], 0xec]);
    answer[12..16].copy_from_slice(b"TEST");
    answer[16..24].copy_from_slice(&time);
    answer[24..32].copy_from_slice(&request[40..48]);
    answer[32..40].copy_from_slice(&time);
    answer[40..48].copy_from_slice(&now().to_be_bytes());
    Ok(match &request[12..16] {
        b"NONE" => Vec::new(),
        b"BOTH" => vec![answer.clone(), answer],
        b"ZERO" => {
            answer[24..32].fill(0);
            vec![answer]
        }
        b"RATE" => {
            answer[1] = 0;
            answer[12..16].copy_from_slice(b"RATE");
            vec![answer]
        }
        _ => vec![answer],
    })
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The clock as an NTP timestamp.
fn now() -> u64 {
    /// From 1900 to 1970.
    const UNIX_EPOCH_IN_NTP: u64 = 2_208_988_800;
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = time.as_secs().wrapping_add(UNIX_EPOCH_IN_NTP);
    let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
    seconds << 32 | fraction
}
