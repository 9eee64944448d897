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
    Counter, Counters, Direction, Event,
    parse::{self, parse},
    settings::{Link, PortSet},
};
use ntpmon_tests::programs::{Program, Programs, Settings};

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
}

impl Comparison {
    fn new(link: Link, decapsulate: bool) -> Result<Self> {
        let settings = Settings {
            link,
            decapsulate,
            ..Settings::default()
        };
        let programs = Programs::load(&settings)?;
        Ok(Self {
            before: programs.counters()?,
            programs,
            link,
            ports: PortSet::of(settings.ports),
            decapsulate,
            done: Done::default(),
        })
    }

    /// Runs all programs over a frame.
    fn frame(&mut self, frame: &[u8]) -> Result<()> {
        let settings = parse::Settings {
            ports: &self.ports,
            decapsulate: self.decapsulate,
        };
        let mut expected = Event::EMPTY;
        let result = parse(&frame, self.link, 0, settings, &mut expected);
        match frame.len() {
            ..SHORTEST => self.done.too_short += 1,
            SHORTEST..=LONGEST => {}
            _ => self.done.too_long += 1,
        }
        if !(SHORTEST..=LONGEST).contains(&frame.len()) {
            return Ok(());
        }
        for program in Program::ALL {
            self.program(
                program,
                frame,
                result.err().unwrap_or(Counter::Emitted),
                expected,
            )
            .with_context(|| {
                format!(
                    "{program:?}, {:?}, decapsulate {}: {frame:02x?}",
                    self.link, self.decapsulate
                )
            })?;
        }
        self.done.compared += 1;
        *self
            .done
            .reasons
            .entry(result.err().unwrap_or(Counter::Emitted))
            .or_default() += 1;
        if result.is_ok() {
            let kind = (expected.authentication, expected.flags);
            *self.done.kinds.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn program(
        &mut self,
        program: Program,
        frame: &[u8],
        counter: Counter,
        expected: Event,
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
        if counter != Counter::Emitted {
            ensure!(
                events.is_empty(),
                "an event though it was skipped: {events:?}"
            );
            return Ok(());
        }
        let [event] = events[..] else {
            bail!("{} events from one frame", events.len());
        };
        let direction = match program {
            Program::TcEgress => Direction::Egress,
            Program::TcIngress | Program::XdpIngress => Direction::Ingress,
        };
        ensure!(
            event.direction == direction as u8,
            "direction {}",
            event.direction
        );
        ensure!(event.time > 0, "no time");
        let event = Event {
            time: 0,
            interface: 0,
            direction: 0,
            ..event
        };
        ensure!(
            event == expected,
            "user space:\n{expected:?}\nkernel:\n{event:?}"
        );
        Ok(())
    }

    fn finish(self, what: &str) -> Done {
        println!(
            "{what}, {:?}, decapsulate {}: {:?}",
            self.link, self.decapsulate, self.done
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
    for decapsulate in [false, true] {
        let mut comparison = Comparison::new(Link::Ethernet, decapsulate)?;
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
        reasons.extend(done.reasons);
        kinds.extend(done.kinds);
    }
    for counter in Counter::ALL {
        // A ring that is never full, and what only files have.
        let comes = !matches!(counter, Counter::RingFull | Counter::UnknownLink);
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
    Ok(())
}

#[test]
fn kernel_and_user_space_agree_on_links_without_ethernet() -> Result<()> {
    for decapsulate in [false, true] {
        let mut comparison = Comparison::new(Link::Ip, decapsulate)?;
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
    for decapsulate in [false, true] {
        let mut ethernet = Comparison::new(Link::Ethernet, decapsulate)?;
        let mut ip = Comparison::new(Link::Ip, decapsulate)?;
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
