//! The frames that the benchmarks begin with.

/// Ethernet, IPv4 without options, and room for UDP and an NTP header.
const LENGTH: usize = 14 + 20 + 8 + 48;

/// An NTP request over UDP.
pub(crate) fn ntp_request() -> Vec<u8> {
    packet(17, 123)
}

/// A packet of some protocol, to some port where the protocol has ports.
pub(crate) fn packet(protocol: u8, port: u16) -> Vec<u8> {
    let mut frame = vec![0; LENGTH];
    // To an address that is not the receiver's: its kernel drops the frame after it was watched,
    // as on a mirror port.
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xaa, 2, 0, 0, 0, 0, 0xbb]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 76, 0, 0, 0x40, 0, 64, protocol]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
    frame[34..36].copy_from_slice(&40000u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&56u16.to_be_bytes());
    // Version 4, client; poll 6, precision -20.
    frame[42..46].copy_from_slice(&[0x23, 0, 6, 0xec]);
    frame[82..90].copy_from_slice(&0xec00_0000_1234_5678_u64.to_be_bytes());
    frame
}

/// The request or the response of one of many exchanges: with a client, a port and a transmit time
/// that follow from its number.
pub(crate) fn of_exchange(number: u64, clients: u64, response: bool) -> Vec<u8> {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let client = 0x0a00_0000 + ((mixed >> 32) % clients) as u32;
    let port = 0x8000 | mixed as u16;
    let mut frame = ntp_request();
    let server = 0xc000_0201_u32;
    let (source, destination, ports) = if response {
        (server, client, [123, port])
    } else {
        (client, server, [port, 123])
    };
    frame[26..30].copy_from_slice(&source.to_be_bytes());
    frame[30..34].copy_from_slice(&destination.to_be_bytes());
    let checksum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
    frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
    if response {
        // Server, stratum 2; receive and transmit time of its own.
        frame[42..44].copy_from_slice(&[0x24, 2]);
        frame[66..74].copy_from_slice(&mixed.to_be_bytes());
        frame[74..82].copy_from_slice(&(mixed | 1).to_be_bytes());
        frame[82..90].copy_from_slice(&(mixed | 1).wrapping_add(2).to_be_bytes());
    } else {
        frame[82..90].copy_from_slice(&mixed.to_be_bytes());
    }
    frame
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header
        .chunks_exact(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(folded as u16 + (folded >> 16) as u16)
}
