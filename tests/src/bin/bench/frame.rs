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
