//! How rounds and sums of rounds lie on the history's shelves. Keys begin with the check and the
//! address, so that what belongs together lies together, in the order of time; values have a fixed
//! layout, whose first byte is its version.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{I64, U64},
};

use super::{
    Status,
    answer::Stamps,
    round::{HEAD, Round, Time, kiss},
};

/// Which check: made from its name, so that it is the same after a restart, and when the check is
/// made anew under that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckId(u64);

impl CheckId {
    /// That of a check of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl std::fmt::Display for CheckId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl From<CheckId> for String {
    fn from(id: CheckId) -> Self {
        id.to_string()
    }
}

/// It is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 hexadecimal digits")]
pub struct NoId;

impl TryFrom<String> for CheckId {
    type Error = NoId;

    fn try_from(text: String) -> Result<Self, NoId> {
        text.parse()
    }
}

impl std::str::FromStr for CheckId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let digits = text.len() == 16 && text.bytes().all(|it| it.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or(NoId)
    }
}

/// Bytes of a key that say whose it is.
pub(super) const SERIES: usize = 24;
/// In place of the address of a name that has none.
const NOWHERE: [u8; 16] = [0xff; 16];

/// What was asked for: a check and one of its addresses, or none where its name had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    /// Which check.
    pub check: CheckId,
    /// Which address.
    pub address: Option<IpAddr>,
}

impl Series {
    /// What its keys begin with.
    pub(super) fn prefix(&self) -> [u8; SERIES] {
        let address = match self.address {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(address)) => address.octets(),
            None => NOWHERE,
        };
        let mut prefix = [0; SERIES];
        prefix[..8].copy_from_slice(&self.check.0.to_be_bytes());
        prefix[8..].copy_from_slice(&address);
        prefix
    }

    /// That of a key.
    pub(super) fn of_key(key: &[u8]) -> Option<Self> {
        let check = CheckId(u64::from_be_bytes(*key.first_chunk()?));
        let address: [u8; 16] = *key.get(8..)?.first_chunk()?;
        let address = (address != NOWHERE).then(|| Ipv6Addr::from(address).to_canonical());
        Some(Self { check, address })
    }

    /// Where a round of this time, in nanoseconds since 1970, lies.
    pub(super) fn result_key(&self, at: i64) -> Vec<u8> {
        let mut key = self.prefix().to_vec();
        key.extend(time_bytes(at));
        key
    }

    /// Where sums that begin at a time, in seconds since 1970, lie.
    pub(super) fn rollup_key(&self, resolution: u8, start: i64) -> Vec<u8> {
        let mut key = self.prefix().to_vec();
        key.push(resolution);
        key.extend(time_bytes(start));
        key
    }
}

/// The time at the end of a key.
pub(super) fn time_of(key: &[u8]) -> Option<i64> {
    let flipped = u64::from_be_bytes(*key.last_chunk()?);
    Some((flipped ^ 1 << 63).cast_signed())
}

/// In the order of time, also before 1970.
fn time_bytes(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// The key after all that begin with these bytes; empty where there is none.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if last < 0xff {
            key.push(last + 1);
            return key;
        }
    }
    key
}

const LAYOUT: u8 = 1;
/// In place of where times come from, when there is no time.
const NO_TIME: u8 = 0xff;
/// In place of a jitter.
const UNKNOWN: u64 = u64::MAX;

/// Kisses by number, from 1 on: 0 is none but what the head says. None is taken out or moved.
const KISSES: [&str; 14] = [
    "RATE", "DENY", "RSTR", "INIT", "STEP", "ACST", "AUTH", "AUTO", "BCST", "CRYP", "DROP", "MCST",
    "NKEY", "RMOT",
];

/// A round on the shelf. What was said of a failure is told anew from its kind.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct Record {
    layout: u8,
    status: u8,
    sent: u8,
    answered: u8,
    stamps: u8,
    /// The reach register after it.
    reach: u8,
    has_head: u8,
    /// The kiss, where another answer than the one whose head is kept is it.
    kiss: u8,
    offset: I64,
    delay: I64,
    dispersion: U64,
    jitter: U64,
    head: [u8; HEAD],
}

impl Record {
    pub(super) fn new(round: &Round, reach: u8) -> Self {
        let time = round.time;
        Self {
            layout: LAYOUT,
            status: round.status as u8,
            sent: round.sent,
            answered: round.answered,
            stamps: time.map_or(NO_TIME, |it| it.stamps as u8),
            reach,
            has_head: u8::from(round.head.is_some()),
            kiss: round.kiss.as_deref().map_or(0, kiss_number),
            offset: I64::new(time.map_or(0, |it| it.offset)),
            delay: I64::new(time.map_or(0, |it| it.delay)),
            dispersion: U64::new(time.map_or(0, |it| it.dispersion)),
            jitter: U64::new(time.and_then(|it| it.jitter).unwrap_or(UNKNOWN)),
            head: round.head.unwrap_or_default(),
        }
    }

    /// The round that ended at a time, and the reach register after it. Nothing when another
    /// version wrote it.
    pub(super) fn read(bytes: &[u8], at: i64) -> Option<(Round, u8)> {
        let record = Self::read_from_bytes(bytes).ok()?;
        if record.layout != LAYOUT {
            return None;
        }
        let status = Status::from_byte(record.status)?;
        let jitter = record.jitter.get();
        let time = Stamps::from_byte(record.stamps).map(|stamps| Time {
            offset: record.offset.get(),
            delay: record.delay.get(),
            dispersion: record.dispersion.get(),
            jitter: (jitter != UNKNOWN).then_some(jitter),
            stamps,
        });
        let mut round = Round {
            at,
            status,
            message: None,
            sent: record.sent,
            answered: record.answered,
            time,
            head: (record.has_head != 0).then_some(record.head),
            kiss: None,
        };
        let told = usize::from(record.kiss)
            .checked_sub(1)
            .and_then(|at| KISSES.get(at));
        let of_head = || round.header().as_ref().and_then(kiss);
        round.kiss = told.map(|it| (*it).to_owned()).or_else(of_head);
        Some((round, record.reach))
    }
}

fn kiss_number(code: &str) -> u8 {
    let at = KISSES.iter().position(|it| *it == code);
    at.map_or(0, |at| at as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES_OF: fn(&str, Option<&str>) -> Series = |name, address| Series {
        check: CheckId::of(name),
        address: address.map(|it| it.parse().unwrap()),
    };

    #[test]
    fn an_id_is_of_a_name_and_is_written_as_it_is_read() {
        let id = CheckId::of("ntp.example");
        assert_ne!(id, CheckId::of("ntp.example:1123"));
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "1",
            "+23456789abcdef0",
            "0123456789abcdef0",
            "0123456789abcdeg",
        ] {
            assert_eq!(wrong.parse::<CheckId>(), Err(NoId), "{wrong}");
        }
    }

    #[test]
    fn keys_are_in_the_order_of_time_and_know_whose_they_are() {
        for address in [None, Some("192.0.2.1"), Some("2001:db8::1")] {
            let series = SERIES_OF("a", address);
            let mut last = Vec::new();
            for at in [i64::MIN, -1, 0, 1, 1 << 40, i64::MAX] {
                let key = series.result_key(at);
                assert!(key > last);
                assert_eq!(Series::of_key(&key), Some(series));
                assert_eq!(time_of(&key), Some(at));
                assert!(key < after(&series.prefix()) || after(&series.prefix()).is_empty());
                last = key;
            }
        }
        assert_eq!(after(&[1, 0xff]), [2]);
        assert_eq!(after(&[0xff, 0xff]), [0; 0]);
    }

    #[test]
    fn a_round_comes_back_from_its_record() {
        let time = Time {
            offset: -5,
            delay: 1 << 40,
            dispersion: 7,
            jitter: None,
            stamps: Stamps::KernelReceive,
        };
        let told = Round {
            at: 9,
            status: Status::FarOff,
            message: None,
            sent: 3,
            answered: 2,
            time: Some(time),
            head: Some([3; HEAD]),
            kiss: None,
        };
        let jittered = Round {
            time: Some(Time {
                jitter: Some(4),
                ..time
            }),
            ..told.clone()
        };
        let failed = Round {
            status: Status::Timeout,
            time: None,
            head: None,
            ..told.clone()
        };
        // An earlier question of the round was told the time.
        let kissed = Round {
            status: Status::KissOfDeath,
            kiss: Some("RATE".to_owned()),
            ..told.clone()
        };
        for round in [told, jittered, failed, kissed] {
            let bytes = Record::new(&round, 0o377);
            let bytes = bytes.as_bytes();
            assert_eq!(bytes.len(), 56);
            assert_eq!(Record::read(bytes, 9), Some((round, 0o377)));
            let mut other = bytes.to_vec();
            other[0] = 2;
            assert_eq!(Record::read(&other, 9), None);
            assert_eq!(Record::read(&bytes[1..], 9), None);
        }
    }
}
