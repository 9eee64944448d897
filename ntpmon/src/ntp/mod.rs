//! From packets to exchanges: pairing, timings, whose clock can be believed. All of it pure; only
//! [`clock`] asks what time it is.

mod client_clock;
pub mod clock;
pub mod exchange;
mod flow;
pub mod pair;
mod table;

use std::net::IpAddr;

use ntpmon_common::{Event, NtpHeader};

pub use client_clock::{ClientClock, ClientError, First};

/// An event and where it stands in the world's time.
#[derive(Clone, Copy, Debug)]
pub struct Stamped {
    /// What was seen. Its own time orders packets and measures what passes between them.
    pub event: Event,
    /// When that was, in nanoseconds since 1970, by this host's clock; [`Stamped::NO_TIME`] where a
    /// file does not say.
    pub unix: i64,
    /// In which frame of a capture file, from 1; 0 when live.
    pub frame: u64,
}

impl Stamped {
    /// In place of a time: nobody noted when the packet was seen. A value of its own rather than an
    /// option, because millions wait and nearly all have a time.
    pub const NO_TIME: i64 = i64::MIN;

    /// When it was captured, where that is known.
    #[must_use]
    pub fn captured(&self) -> Option<i64> {
        (self.unix != Self::NO_TIME).then_some(self.unix)
    }
}

/// The text of a kiss-o'-death (RATE, DENY …): a stratum of 0 and a reference id of letters. From
/// version 5 on these bytes mean something else.
#[must_use]
pub fn kiss_code(header: &NtpHeader) -> Option<[u8; 4]> {
    let code = header.reference_id();
    let [first, rest @ ..] = code;
    (header.version() < 5
        && header.stratum() == 0
        && first.is_ascii_uppercase()
        && rest
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == 0))
    .then_some(code)
}

/// The reference id as text: letters for reference clocks and kisses, else an IPv4 address, which
/// for a server that follows another over IPv6 is a hash.
#[must_use]
pub fn reference_id(header: &NtpHeader) -> Option<String> {
    let id = header.reference_id();
    if id == [0; 4] || header.version() == 5 {
        return None;
    }
    if header.stratum() <= 1 {
        let text = id.split(|byte| *byte == 0).next().unwrap_or_default();
        let padded = id[text.len()..].iter().all(|byte| *byte == 0);
        if padded && !text.is_empty() && text.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
            return Some(String::from_utf8_lossy(text).trim_end().to_owned());
        }
    }
    Some(IpAddr::from(id).to_string())
}

/// Root delay and root dispersion in seconds; version 5 has another unit.
#[must_use]
pub fn root_seconds(header: &NtpHeader) -> (f64, f64) {
    let unit = if header.version() == 5 {
        f64::from(1 << 28)
    } else {
        f64::from(1 << 16)
    };
    (
        f64::from(header.root_delay()) / unit,
        f64::from(header.root_dispersion()) / unit,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(stratum: u8, id: [u8; 4]) -> Option<String> {
        let mut header = NtpHeader([0; 48]);
        header.0[0] = 0x24;
        header.0[1] = stratum;
        header.0[12..16].copy_from_slice(&id);
        reference_id(&header)
    }

    #[test]
    fn a_reference_id_is_text_for_clocks_and_kisses_and_an_address_below() {
        assert_eq!(reference(1, *b"GPS\0").as_deref(), Some("GPS"));
        assert_eq!(reference(0, *b"RATE").as_deref(), Some("RATE"));
        assert_eq!(reference(2, [192, 0, 2, 1]).as_deref(), Some("192.0.2.1"));
        assert_eq!(
            reference(1, [127, 127, 1, 1]).as_deref(),
            Some("127.127.1.1")
        );
        assert_eq!(reference(0, [0; 4]), None);
    }
}
