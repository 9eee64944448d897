//! The differential test: the programs in the kernel against the same parser in user space. Every
//! frame of the public captures and of a corpus of odd frames goes through all three entry points
//! by `BPF_PROG_TEST_RUN`, and has to come out as the same event, or be skipped for the same reason.

mod corpus;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use ntpmon::capture::pcap::{FileLink, Reader};
use ntpmon_common::{
    Counter, Counters, Direction, Event, PtpEvent,
    parse::{self, Events, Protocol, parse},
    settings::{Link, PortSet, Switch},
};
use ntpmon_tests::programs::{Program, Programs, Settings, Taken};

/// The harness takes no frame without an Ethernet header.
const SHORTEST: usize = 14;
/// A longer frame does not fit into one page together with what the kernel puts around it.
const LONGEST: usize = 3000;

/// The harness of TC looks into the frame itself: nothing behind the Ethernet header, or a part of
/// an IP header, is refused by some kernels.
fn may_be_refused(program: Program, frame: &[u8]) -> bool {
    let needed = match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14 + 1,
    };
    program != Program::XdpIngress && frame.len() < needed
}

/// One loaded object, and what was compared with it.
struct Comparison {
    programs: Programs,
    link: Link,
    ports: PortSet,
    decapsulate: bool,
    ptp: Switch,
    before: Counters,
    done: Done,
}

/// What was compared; the tests demand that it was enough.
#[derive(Debug, Default)]
struct Done {
    /// Frames that went through all programs.
    compared: u64,
    /// Frames without an Ethernet header, which no harness takes.
    too_short: u64,
    /// Frames that no harness takes in one piece.
    too_long: u64,
    /// Runs that only TC's did not take.
    refused_by_tc: u64,
    /// Of those compared, how often each counter came.
    reasons: BTreeMap<Counter, u64>,
    /// What events came out, by authentication and IP version, each at least once.
    kinds: BTreeMap<(u8, u8), u64>,
    /// The same of PTP, by message type and flags.
    ptp_kinds: BTreeMap<(u8, u8), u64>,
}

impl Comparison {
    fn new(link: Link, decapsulate: bool, ptp: bool) -> Result<Self> {
        let settings = Settings {
            link,
            decapsulate,
            ptp,
            ..Settings::default()
        };
        let programs = Programs::load(&settings)?;
        Ok(Self {
            before: programs.counters()?,
            programs,
            link,
            ports: PortSet::of(settings.ports),
            decapsulate,
            ptp: Switch(u8::from(ptp)),
            done: Done::default(),
        })
    }

    /// Runs all programs over a frame.
    fn frame(&mut self, frame: &[u8]) -> Result<()> {
        let settings = parse::Settings {
            ports: &self.ports,
            decapsulate: self.decapsulate,
            ptp: &self.ptp,
        };
        let mut events = Events::EMPTY;
        let result = parse(&frame, self.link, 0, settings, &mut events);
        let (counter, expected) = match result {
            Ok(Protocol::Ntp) => (Counter::Emitted, Some(Taken::Ntp(events.ntp))),
            Ok(Protocol::Ptp) => (Counter::PtpEmitted, Some(Taken::Ptp(events.ptp))),
            Err(reason) => (reason, None),
        };
        match frame.len() {
            ..SHORTEST => self.done.too_short += 1,
            SHORTEST..=LONGEST => {}
            _ => self.done.too_long += 1,
        }
        if !(SHORTEST..=LONGEST).contains(&frame.len()) {
            return Ok(());
        }
        for program in Program::ALL {
            self.program(program, frame, counter, expected)
                .with_context(|| {
                    format!(
                        "{program:?}, {:?}, decapsulate {}, PTP {}: {frame:02x?}",
                        self.link,
                        self.decapsulate,
                        self.ptp.is_on()
                    )
                })?;
        }
        self.done.compared += 1;
        *self.done.reasons.entry(counter).or_default() += 1;
        match expected {
            Some(Taken::Ntp(event)) => {
                let kind = (event.authentication, event.flags);
                *self.done.kinds.entry(kind).or_default() += 1;
            }
            Some(Taken::Ptp(event)) => {
                let kind = (event.message.0[0] & 0x0f, event.flags);
                *self.done.ptp_kinds.entry(kind).or_default() += 1;
            }
            None => {}
        }
        Ok(())
    }

    fn program(
        &mut self,
        program: Program,
        frame: &[u8],
        counter: Counter,
        expected: Option<Taken>,
    ) -> Result<()> {
        if let Err(error) = self.programs.run(program, frame, 1) {
            ensure!(may_be_refused(program, frame), error);
            self.done.refused_by_tc += 1;
            return Ok(());
        }
        let mut events = Vec::new();
        self.programs.drain(|event| events.push(*event))?;
        let after = self.programs.counters()?;
        let mut counted = self.before;
        counted.count(counter);
        let before = std::mem::replace(&mut self.before, after);
        if counted != after {
            let moved = Counter::ALL
                .into_iter()
                .filter(|&one| after.get(one) != before.get(one));
            bail!(
                "user space says {counter:?}, the kernel {:?}",
                moved.collect::<Vec<_>>()
            );
        }
        let Some(expected) = expected else {
            ensure!(
                events.is_empty(),
                "an event though it was skipped: {events:?}"
            );
            return Ok(());
        };
        let [taken] = events[..] else {
            bail!("{} events from one frame", events.len());
        };
        let direction = match program {
            Program::TcEgress => Direction::Egress,
            Program::TcIngress | Program::XdpIngress => Direction::Ingress,
        };
        let (time, passed) = match taken {
            Taken::Ntp(event) => (event.time, event.direction),
            Taken::Ptp(event) => (event.time, event.direction),
        };
        ensure!(passed == direction as u8, "direction {passed}");
        ensure!(time > 0, "no time");
        let taken = match taken {
            Taken::Ntp(event) => Taken::Ntp(Event {
                time: 0,
                interface: 0,
                direction: 0,
                ..event
            }),
            Taken::Ptp(event) => Taken::Ptp(PtpEvent {
                time: 0,
                interface: 0,
                direction: 0,
                ..event
            }),
        };
        ensure!(
            taken == expected,
            "user space:\n{expected:?}\nkernel:\n{taken:?}"
        );
        Ok(())
    }

    fn finish(self, what: &str) -> Done {
        println!(
            "{what}, {:?}, decapsulate {}, PTP {}: {:?}",
            self.link,
            self.decapsulate,
            self.ptp.is_on(),
            self.done
        );
        self.done
    }
}

#[test]
fn kernel_and_user_space_agree_on_odd_frames() -> Result<()> {
    let frames = corpus::frames();
    assert!(frames.len() >= 3000, "only {} frames", frames.len());
    let mut reasons = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    let mut ptp_kinds = BTreeMap::new();
    for (decapsulate, ptp) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut comparison = Comparison::new(Link::Ethernet, decapsulate, ptp)?;
        for frame in &frames {
            comparison.frame(frame)?;
        }
        let done = comparison.finish("odd frames");
        let left_out = done.too_short + done.too_long;
        assert_eq!(done.compared + left_out, frames.len() as u64);
        assert!(done.compared >= 10_000, "{done:?}");
        // Six frames cut within the Ethernet header, and the longest chains of extension headers.
        assert_eq!(done.too_short, 6 * 14);
        assert!(done.too_long <= 40, "{done:?}");
        // The same, cut within the IP header, at TC's two entries.
        assert!(done.refused_by_tc <= 2 * 6 * 40, "{done:?}");
        assert_eq!(ptp, !done.ptp_kinds.is_empty());
        reasons.extend(done.reasons);
        kinds.extend(done.kinds);
        ptp_kinds.extend(done.ptp_kinds);
    }
    for counter in Counter::ALL {
        // A ring that is never full, and what only files have.
        let comes = !matches!(
            counter,
            Counter::RingFull | Counter::PtpRingFull | Counter::UnknownLink
        );
        assert_eq!(reasons.contains_key(&counter), comes, "{counter:?}");
    }
    for authentication in 0..=5 {
        assert!(
            kinds.keys().any(|&(seen, _)| seen == authentication),
            "no event with authentication {authentication}"
        );
    }
    for flags in [0, 1, 2, 3, 4, 5] {
        assert!(
            kinds.keys().any(|&(_, seen)| seen == flags),
            "no event with flags {flags:#b}"
        );
    }
    for kind in [0, 1, 2, 3, 8, 9, 10, 11, 12, 13] {
        // Over IPv4, over IPv6, without IP.
        for flags in [0, 1, 8] {
            let seen = ptp_kinds.contains_key(&(kind, flags));
            assert!(seen, "no PTP of type {kind} with flags {flags:#b}");
        }
    }
    Ok(())
}

#[test]
fn kernel_and_user_space_agree_on_links_without_ethernet() -> Result<()> {
    for (decapsulate, ptp) in [(false, false), (true, true)] {
        let mut comparison = Comparison::new(Link::Ip, decapsulate, ptp)?;
        for frame in corpus::frames() {
            comparison.frame(frame.get(14..).unwrap_or(&frame))?;
        }
        let done = comparison.finish("odd packets");
        assert!(done.compared >= 3000, "{done:?}");
        assert!(done.reasons[&Counter::Emitted] >= 300, "{done:?}");
        assert!(done.reasons[&Counter::NotIp] >= 1, "{done:?}");
    }
    Ok(())
}

/// Every frame of every capture in a folder: Ethernet as it is, others from the IP header on.
fn captures(folder: &Path) -> Result<[u64; 2]> {
    let mut files = Vec::new();
    find_captures(folder, &mut files)?;
    assert!(!files.is_empty(), "no captures in {}", folder.display());
    let mut total = [0; 2];
    for (decapsulate, ptp) in [(false, false), (true, true)] {
        let mut ethernet = Comparison::new(Link::Ethernet, decapsulate, ptp)?;
        let mut ip = Comparison::new(Link::Ip, decapsulate, ptp)?;
        for file in &files {
            let mut reader = Reader::open(file)?;
            // A file that is cut off, as some are on purpose, has been read up to there.
            while let Ok(Some(frame)) = reader.next_frame() {
                let header = match frame.link {
                    FileLink::Ethernet => None,
                    FileLink::Raw => Some(0),
                    FileLink::Null | FileLink::Loop => Some(4),
                    FileLink::Sll => Some(16),
                    FileLink::Sll2 => Some(20),
                    FileLink::Unknown(_) => continue,
                };
                let compared = match header {
                    None => ethernet.frame(frame.data),
                    Some(header) => ip.frame(frame.data.get(header..).unwrap_or_default()),
                };
                compared.with_context(|| format!("{}, frame {}", file.display(), frame.number))?;
            }
        }
        let name = folder.display().to_string();
        for (sum, done) in total
            .iter_mut()
            .zip([ethernet.finish(&name), ip.finish(&name)])
        {
            *sum += done.compared;
            assert_eq!(
                (done.too_short, done.too_long, done.refused_by_tc),
                (0, 0, 0),
                "{done:?}"
            );
        }
    }
    Ok(total)
}

fn find_captures(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_captures(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|end| end == "pcap" || end == "pcapng")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[test]
fn kernel_and_user_space_agree_on_the_recorded_captures() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let [ethernet, ip] = captures(&folder)?;
    assert!(ethernet >= 500 && ip >= 20, "{ethernet} and {ip}");
    Ok(())
}

/// Where the public captures lie is told by the environment; without that there are only our own.
#[test]
fn kernel_and_user_space_agree_on_the_public_captures() -> Result<()> {
    let Some(folder) = std::env::var_os("NTPMON_CAPTURES") else {
        eprintln!("NTPMON_CAPTURES names no folder: the recorded captures are compared instead");
        return kernel_and_user_space_agree_on_the_recorded_captures();
    };
    // Tests run in their package's directory, the variable is meant from the project's.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let [ethernet, _] = captures(&folder)?;
    assert!(ethernet >= 1000, "{ethernet}");
    Ok(())
}

/// With the setting off, what PTP takes is not there to be run through.
#[test]
fn the_verifier_takes_out_what_is_switched_off() -> Result<()> {
    let of = |ptp| {
        let settings = Settings {
            ptp,
            ..Settings::default()
        };
        Programs::load(&settings)?.instructions()
    };
    for ((program, without), (_, with)) in of(false)?.into_iter().zip(of(true)?) {
        println!("{program:?}: {without} instructions without PTP, {with} with it");
        assert!(without + 100 < with, "{program:?}: {without} and {with}");
    }
    Ok(())
}
