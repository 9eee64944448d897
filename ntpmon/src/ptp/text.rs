//! Identities and codes as people write them.

use ntpmon_common::{ClockIdentity, PortIdentity};

/// A clock's identity as linuxptp writes it: `0050c2.fffe.123456`.
#[must_use]
pub fn clock_text(clock: ClockIdentity) -> String {
    let [a, b, c, d, e, f, g, h] = clock.0;
    format!("{a:02x}{b:02x}{c:02x}.{d:02x}{e:02x}.{f:02x}{g:02x}{h:02x}")
}

/// A port's identity, likewise: `0050c2.fffe.123456-1`.
#[must_use]
pub fn port_text(port: PortIdentity) -> String {
    format!("{}-{}", clock_text(port.clock), port.port)
}

/// Reads a clock's identity in any of the usual ways: sixteen hexadecimal digits, with points,
/// colons or hyphens anywhere, with `0x` before them or not.
#[must_use]
pub fn parse_clock(text: &str) -> Option<ClockIdentity> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // Longer than all of these ways.
    if digits.len() > 32 {
        return None;
    }
    let digits: String = digits
        .chars()
        .filter(|letter| !matches!(letter, '.' | ':' | '-'))
        .collect();
    if digits.len() != 16 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?;
    Some(ClockIdentity(number.to_be_bytes()))
}

/// An Ethernet address at the beginning of an event's; nothing where it is not known.
pub(super) fn ethernet_text(address: &[u8; 16]) -> Option<String> {
    let [a, b, c, d, e, f, ..] = *address;
    ([a, b, c, d, e, f] != [0; 6])
        .then(|| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
}

/// The bound that a clock's accuracy stands for; nothing where it says none.
#[must_use]
pub const fn accuracy_seconds(code: u8) -> Option<f64> {
    Some(match code {
        0x17 => 1e-12,
        0x18 => 2.5e-12,
        0x19 => 10e-12,
        0x1a => 25e-12,
        0x1b => 100e-12,
        0x1c => 250e-12,
        0x1d => 1e-9,
        0x1e => 2.5e-9,
        0x1f => 10e-9,
        0x20 => 25e-9,
        0x21 => 100e-9,
        0x22 => 250e-9,
        0x23 => 1e-6,
        0x24 => 2.5e-6,
        0x25 => 10e-6,
        0x26 => 25e-6,
        0x27 => 100e-6,
        0x28 => 250e-6,
        0x29 => 1e-3,
        0x2a => 2.5e-3,
        0x2b => 10e-3,
        0x2c => 25e-3,
        0x2d => 100e-3,
        0x2e => 250e-3,
        0x2f => 1.0,
        0x30 => 10.0,
        _ => return None,
    })
}

/// What a clock's time comes from; nothing for a code without a name.
#[must_use]
pub const fn time_source(code: u8) -> Option<&'static str> {
    Some(match code {
        0x10 => "atomic_clock",
        0x20 => "gnss",
        0x30 => "terrestrial_radio",
        0x39 => "serial_time_code",
        0x40 => "ptp",
        0x50 => "ntp",
        0x60 => "hand_set",
        0x90 => "other",
        0xa0 => "internal_oscillator",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_written_as_linuxptp_does_and_read_in_every_way() {
        let clock = ClockIdentity([0x00, 0x50, 0xc2, 0xff, 0xfe, 0x12, 0x34, 0x56]);
        assert_eq!(clock_text(clock), "0050c2.fffe.123456");
        assert_eq!(
            port_text(PortIdentity { clock, port: 7 }),
            "0050c2.fffe.123456-7"
        );
        for text in [
            "0050c2.fffe.123456",
            "0x0050c2fffe123456",
            "00:50:C2:FF:FE:12:34:56",
            "00-50-c2-ff-fe-12-34-56",
        ] {
            assert_eq!(parse_clock(text), Some(clock), "{text}");
        }
        for text in [
            "",
            "0050c2fffe12345",
            "0050c2fffe12345g",
            "+050c2fffe123456",
        ] {
            assert_eq!(parse_clock(text), None, "{text}");
        }
    }
}
