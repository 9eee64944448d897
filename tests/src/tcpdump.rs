//! tcpdump as the second pair of eyes: captures in a namespace to a file with nanoseconds, and the
//! reading of such files. What ntpmon reports is compared with it, and it records `tests/captures`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    frames::{self, Datagram},
    namespace::Namespace,
    process::{Process, wait_for},
};

/// NTP over UDP, without a tag.
pub const NTP: &str = "udp port 123";
/// The same in frames with one tag or two; a link without Ethernet refuses this one.
pub const TAGGED_NTP: &str = "vlan and (udp port 123 or (vlan and udp port 123))";

/// A capture under way.
#[derive(Debug)]
pub struct Tcpdump {
    process: Process,
    file: PathBuf,
}

/// The packets of a capture file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// What each packet's bytes begin with: [`Capture::ETHERNET`] or [`Capture::RAW`].
    pub link_type: u32,
    /// In the order of their coming.
    pub packets: Vec<Captured>,
}

impl Capture {
    /// Frames of Ethernet.
    pub const ETHERNET: u32 = 1;
    /// IP packets.
    pub const RAW: u32 = 101;

    /// The UDP datagrams in it, with their times; whatever else there is, is passed over.
    pub fn datagrams(&self) -> impl Iterator<Item = (u64, Datagram<'_>)> {
        self.packets.iter().filter_map(|packet| {
            let bytes = match self.link_type {
                Self::ETHERNET => frames::packet_of(&packet.bytes)?,
                _ => &packet.bytes,
            };
            Some((packet.time, frames::datagram_of(bytes)?))
        })
    }
}

/// One packet of a capture file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// The bytes, from the link layer on.
    pub bytes: Vec<u8>,
}

impl Tcpdump {
    /// Captures what matches `filter` on a device into `file`; returns when it has begun.
    pub fn start(namespace: &Namespace, device: &str, filter: &str, file: &Path) -> Result<Self> {
        // Not in immediate mode: waking tcpdump for each packet, while the packet is on its way to
        // the device, would delay what is measured by some ten microseconds.
        let mut process = Process::start(
            namespace
                .command("tcpdump")
                .args(["--interface", device, "--time-stamp-precision=nano"])
                // Unprivileged, it could not write where the tests do. 16 MiB hold a burst.
                .args(["--relinquish-privileges=root", "--buffer-size=16384", "-w"])
                .arg(file)
                .arg(filter),
        )?;
        process.wait_until("tcpdump to listen", Duration::from_secs(10), |it| {
            it.stderr().contains("listening on")
        })?;
        Ok(Self {
            process,
            file: file.into(),
        })
    }

    /// Ends the capture when it has taken all that came, and reads what it saw.
    pub fn stop(mut self) -> Result<Capture> {
        // On SIGINT it would leave what still waits in its buffer.
        wait_for(
            "tcpdump to have taken every packet",
            Duration::from_secs(10),
            || {
                let reports = reports(&self.process.stderr()).len();
                self.process.signal(libc::SIGUSR1)?;
                self.process
                    .wait_until("a report", Duration::from_secs(2), |it| {
                        self::reports(&it.stderr()).len() > reports
                    })?;
                let [taken, came, lost] = *self::reports(&self.process.stderr())
                    .last()
                    .context("no report")?;
                ensure!(lost == 0, "tcpdump lost {lost} packets: it is no reference");
                Ok((taken == came).then_some(()))
            },
        )?;
        let status = self.process.stop_with(libc::SIGINT)?;
        ensure!(
            status.success(),
            "tcpdump failed ({status}): {}",
            self.process.stderr()
        );
        read(&self.file)
    }
}

/// The reports that tcpdump gave on SIGUSR1, one a line: packets taken, packets that came, packets
/// lost.
fn reports(text: &str) -> Vec<[u64; 3]> {
    text.split_inclusive('\n')
        .filter_map(|line| {
            // tcpdump: 3 packets captured, 3 packets received by filter, 0 packets dropped by kernel
            let counts = line.strip_suffix('\n')?.strip_prefix("tcpdump: ")?;
            let counts: Vec<u64> = counts
                .split(", ")
                .map(|count| count.split(' ').next()?.parse().ok())
                .collect::<Option<_>>()?;
            counts.get(..3)?.try_into().ok()
        })
        .collect()
}

/// Reads a capture file as tcpdump writes it here: pcap, this machine's byte order, nanoseconds.
pub fn read(file: &Path) -> Result<Capture> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&bytes).with_context(|| format!("{} is not one of tcpdump's files", file.display()))
}

fn parse(bytes: &[u8]) -> Result<Capture> {
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    let word = |at: usize| -> Result<u32> {
        let word = bytes.get(at..at + 4).context("it ends early")?;
        Ok(u32::from_ne_bytes(word.try_into()?))
    };
    ensure!(
        word(0)? == NANOSECONDS,
        "its magic number is {:#x}",
        word(0)?
    );
    let mut packets = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let time = u64::from(word(at)?) * 1_000_000_000 + u64::from(word(at + 4)?);
        let length = usize::try_from(word(at + 8)?)?;
        let packet = bytes
            .get(at + 16..at + 16 + length)
            .context("it ends early")?;
        packets.push(Captured {
            time,
            bytes: packet.to_vec(),
        });
        at += 16 + length;
    }
    Ok(Capture {
        link_type: word(20)?,
        packets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_reports_are_read() {
        let text = "tcpdump: listening on veth0, link-type EN10MB (Ethernet), snapshot length 262144 \
                    bytes\n\
                    tcpdump: 1 packet captured, 3 packets received by filter, 0 packets dropped by \
                    kernel\ntcpdump: 3 pack";
        assert_eq!(reports(text), [[1, 3, 0]]);
    }

    #[test]
    fn a_file_is_read_packet_by_packet() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut file: Vec<u8> = words(&[0xa1b2_3c4d, 0, 0, 0, 262_144, 1]);
        file.extend::<Vec<u8>>(words(&[7, 5, 3, 3]));
        file.extend([1, 2, 3]);
        file.extend::<Vec<u8>>(words(&[8, 6, 1, 9]));
        file.push(4);
        assert_eq!(
            parse(&file).unwrap(),
            Capture {
                link_type: Capture::ETHERNET,
                packets: vec![
                    Captured {
                        time: 7_000_000_005,
                        bytes: vec![1, 2, 3]
                    },
                    Captured {
                        time: 8_000_000_006,
                        bytes: vec![4]
                    },
                ],
            }
        );
        assert!(parse(&file[..file.len() - 1]).is_err());
        assert!(parse(b"").is_err());
    }
}
