//! Frames made by hand, for what no daemon sends: tags without a VLAN device, odd headers, packets
//! of any mode. And the raw socket that puts them on a wire.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// A tag in an Ethernet frame: its protocol and its VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// [`Tag::C`] or [`Tag::S`].
    pub protocol: u16,
    /// The VLAN, 0 to 4095.
    pub vlan: u16,
}

impl Tag {
    /// 802.1Q: a customer's tag, the ordinary one.
    pub const C: u16 = 0x8100;
    /// 802.1ad: a service tag, the outer one of QinQ.
    pub const S: u16 = 0x88a8;
}

/// Ethernet's two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Where from.
    pub source: [u8; 6],
    /// Where to.
    pub destination: [u8; 6],
}

/// To everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

const UDP: u8 = 17;

/// A frame around an IP packet, with tags from the outermost in.
pub fn frame(ethernet: Ethernet, tags: &[Tag], packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(22 + packet.len());
    frame.extend(ethernet.destination);
    frame.extend(ethernet.source);
    for tag in tags {
        frame.extend(tag.protocol.to_be_bytes());
        frame.extend((tag.vlan & 0x0fff).to_be_bytes());
    }
    let version = packet.first().map_or(4, |byte| byte >> 4);
    frame.extend(if version == 6 { 0x86dd_u16 } else { 0x0800 }.to_be_bytes());
    frame.extend(packet);
    frame
}

/// The IP packet in a frame, whatever its tags; nothing where it carries something else.
pub fn packet_of(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let protocol = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        match protocol {
            Tag::C | Tag::S => at += 4,
            0x0800 | 0x86dd => return frame.get(at + 2..),
            _ => return None,
        }
    }
}

/// An IP packet with a UDP datagram; both addresses must be of one family. Checksums are right.
pub fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(8 + payload.len()).context("a datagram is at most 64 KiB")?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);

    let (packet, pseudo) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = length
                .checked_add(20)
                .context("a packet is at most 64 KiB")?;
            let mut header = vec![0x45, 0];
            header.extend(total.to_be_bytes());
            // No fragments (DF), 64 hops.
            header.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut pseudo = [source.octets(), destination.octets()].concat();
            pseudo.extend([0, UDP]);
            pseudo.extend(length.to_be_bytes());
            (header, pseudo)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([UDP, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let mut pseudo = [source.octets(), destination.octets()].concat();
            pseudo.extend([0, 0]);
            pseudo.extend(length.to_be_bytes());
            pseudo.extend([0, 0, 0, UDP]);
            (header, pseudo)
        }
        _ => anyhow::bail!("{source} and {destination} are of two families"),
    };
    // Zero would say that there is no checksum.
    let sum = match checksum(&[&pseudo, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok([packet, udp].concat())
}

/// A UDP datagram in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What it carries.
    pub payload: &'a [u8],
}

/// The datagram in an IP packet without options, extension headers or fragments: as the daemons send
/// them. Deliberately not ntpmon's parser, for this judges it.
pub fn datagram_of(packet: &[u8]) -> Option<Datagram<'_>> {
    let (source, destination, protocol, udp): (IpAddr, IpAddr, u8, &[u8]) = match packet.first()? {
        0x45 => {
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
            (
                address(12)?.into(),
                address(16)?.into(),
                packet[9],
                packet.get(20..)?,
            )
        }
        first if first >> 4 == 6 => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            (
                address(8)?.into(),
                address(24)?.into(),
                packet[6],
                packet.get(40..)?,
            )
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    let length = usize::from(word(4)?);
    (protocol == UDP).then_some(Datagram {
        source: (source, word(0)?).into(),
        destination: (destination, word(2)?).into(),
        payload: udp.get(8..length)?,
    })
}

/// The Internet's checksum over pieces, each of even length but the last.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The 48 bytes of an NTP packet, with the fields that tests set; the rest is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ntp {
    /// 0 to 3; 3 says "not synchronised".
    pub leap: u8,
    /// 1 to 5.
    pub version: u8,
    /// 0 to 7.
    pub mode: u8,
    /// The distance from a reference clock; 0 in a response is a kiss-o'-death.
    pub stratum: u8,
    /// Four letters, or an address.
    pub reference: [u8; 4],
    /// The request's transmit time, in a response.
    pub origin: u64,
    /// When the request came.
    pub receive: u64,
    /// When this was sent.
    pub transmit: u64,
}

impl Ntp {
    /// The packet's bytes.
    pub fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[0] = (self.leap & 3) << 6 | (self.version & 7) << 3 | self.mode & 7;
        bytes[1] = self.stratum;
        bytes[12..16].copy_from_slice(&self.reference);
        bytes[24..32].copy_from_slice(&self.origin.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.receive.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.transmit.to_be_bytes());
        bytes
    }
}

/// A socket that sends and receives whole frames on one device.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    /// The device's own address.
    pub address: [u8; 6],
}

impl RawSocket {
    /// Opens one on a device of a namespace.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        namespace
            .enter(|| Self::open_here(device))
            .with_context(|| format!("cannot open a raw socket on {device}"))
    }

    fn open_here(device: &str) -> Result<Self> {
        // Frames of all protocols, in the network's byte order.
        let protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        ensure!(socket >= 0, "socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };

        let name = std::ffi::CString::new(device)?;
        // SAFETY: the name is a C string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "{device}: {}", io::Error::last_os_error());
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index)?;
        let mut length = address_length();
        // SAFETY: the pointer and the length are of one sockaddr_ll, which bind only reads.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        ensure!(bound == 0, "bind: {}", io::Error::last_os_error());
        // SAFETY: the pointer and the length are of one sockaddr_ll, which getsockname fills.
        let named = unsafe {
            libc::getsockname(
                socket.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
            )
        };
        ensure!(named == 0, "getsockname: {}", io::Error::last_os_error());
        let address = address.sll_addr[..6].try_into()?;
        Ok(Self { socket, address })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and the length are of one slice, which send only reads.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        ensure!(
            usize::try_from(sent).is_ok_and(|sent| sent == frame.len()),
            "cannot send a frame of {} bytes: {}",
            frame.len(),
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// The next frame that arrived, if any; not the ones that this host sends. The kernel has taken
    /// the outermost tag off.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        loop {
            // SAFETY: all zeros is a valid sockaddr_ll.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_length = address_length();
            // SAFETY: the pointers and lengths are of one slice and of one sockaddr_ll, both ours
            // and writable.
            let length = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut from_length,
                )
            };
            let Ok(length) = usize::try_from(length) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                return Err(error).context("cannot receive a frame");
            };
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Ok(buffer.get(..length));
            }
        }
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address_length() -> libc::socklen_t {
    // A few bytes: it fits.
    size_of::<libc::sockaddr_ll>() as libc::socklen_t
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: Ethernet = Ethernet {
        source: [2; 6],
        destination: [4; 6],
    };

    #[test]
    fn checksums_verify() {
        for (source, destination) in [
            ("10.0.0.2:1000", "10.0.0.1:123"),
            ("[fd00::2]:1000", "[fd00::1]:123"),
        ] {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let packet = datagram(source, destination, b"odd").unwrap();
            let (header, addresses) = if source.is_ipv4() {
                (20, 12..20)
            } else {
                (40, 8..40)
            };
            if source.is_ipv4() {
                assert_eq!(checksum(&[&packet[..header]]), 0);
            }
            let pseudo = [&packet[addresses], &[0, UDP, 0, 11]].concat();
            assert_eq!(checksum(&[&pseudo, &packet[header..]]), 0);
            let datagram = Datagram {
                source,
                destination,
                payload: b"odd",
            };
            assert_eq!(datagram_of(&packet), Some(datagram));
        }
        let mixed = datagram(
            "10.0.0.1:1".parse().unwrap(),
            "[::1]:1".parse().unwrap(),
            b"",
        );
        assert!(mixed.is_err());
    }

    #[test]
    fn a_packet_is_found_behind_its_tags() {
        let packet = datagram(
            "[::1]:5".parse().unwrap(),
            "[::1]:123".parse().unwrap(),
            b"time",
        )
        .unwrap();
        let tags = [
            Tag {
                protocol: Tag::S,
                vlan: 7,
            },
            Tag {
                protocol: Tag::C,
                vlan: 4095,
            },
        ];
        for count in 0..=2 {
            let frame = frame(ETHERNET, &tags[..count], &packet);
            assert_eq!(frame.len(), 14 + 4 * count + packet.len());
            assert_eq!(packet_of(&frame), Some(&packet[..]));
        }
        assert_eq!(packet_of(&[0; 13]), None);
    }

    #[test]
    fn a_packets_first_byte_has_three_fields() {
        let bytes = Ntp {
            leap: 3,
            version: 4,
            mode: 3,
            ..Ntp::default()
        }
        .bytes();
        assert_eq!(bytes[0], 0xe3);
    }
}
