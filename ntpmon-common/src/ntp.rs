//! The NTP header and NTP's own notion of time, as pure arithmetic. Differences are taken modulo
//! 2^64, so that nothing here knows or cares that an era ends in 2036.

/// The first 48 bytes of an NTP payload, as they were on the wire. A control or private message
/// may be shorter; what it lacks is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct NtpHeader(pub [u8; 48]);

/// What a packet is for. Roles come from here, never from ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// 0: NTPv1 had no mode field; elsewhere reserved.
    Unspecified = 0,
    /// 1: a peer that asks.
    SymmetricActive = 1,
    /// 2: a peer that was asked.
    SymmetricPassive = 2,
    /// 3: a request.
    Client = 3,
    /// 4: a response.
    Server = 4,
    /// 5: to everyone.
    Broadcast = 5,
    /// 6: `ntpq`.
    Control = 6,
    /// 7: `ntpdc`.
    Private = 7,
}

impl NtpHeader {
    /// Mode, the lowest three bits.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self.0[0] & 7 {
            0 => Mode::Unspecified,
            1 => Mode::SymmetricActive,
            2 => Mode::SymmetricPassive,
            3 => Mode::Client,
            4 => Mode::Server,
            5 => Mode::Broadcast,
            6 => Mode::Control,
            _ => Mode::Private,
        }
    }

    /// Protocol version, 1 to 5 in what the parser lets through.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.0[0] >> 3 & 7
    }

    /// Leap indicator: 0 none, 1 and 2 a leap second ahead, 3 not synchronised.
    #[must_use]
    pub const fn leap_indicator(&self) -> u8 {
        self.0[0] >> 6
    }

    /// Distance from a reference clock; 0 means unspecified, or a kiss in a response.
    #[must_use]
    pub const fn stratum(&self) -> u8 {
        self.0[1]
    }

    /// Poll interval, log2 seconds.
    #[must_use]
    pub const fn poll(&self) -> i8 {
        self.0[2].cast_signed()
    }

    /// Precision of the clock, log2 seconds.
    #[must_use]
    pub const fn precision(&self) -> i8 {
        self.0[3].cast_signed()
    }

    /// Delay to the reference clock in units of 2^-16 s; version 5 has units of 2^-28 s.
    #[must_use]
    pub const fn root_delay(&self) -> i32 {
        self.word(4).cast_signed()
    }

    /// Dispersion to the reference clock, in the units of [`Self::root_delay`].
    #[must_use]
    pub const fn root_dispersion(&self) -> u32 {
        self.word(8)
    }

    /// Reference id: text, an address or a hash, depending on the stratum.
    #[must_use]
    pub const fn reference_id(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// Version 5 only: the flags beside timescale and era.
    #[must_use]
    pub const fn version5_flags(&self) -> u16 {
        (self.0[14] as u16) << 8 | self.0[15] as u16
    }

    /// When the clock was last set (not in version 5).
    #[must_use]
    pub const fn reference(&self) -> Timestamp {
        self.timestamp(16)
    }

    /// What the response answers to; in version 5 the client's cookie, in both directions.
    #[must_use]
    pub const fn origin(&self) -> Timestamp {
        self.timestamp(24)
    }

    /// T2 in a response.
    #[must_use]
    pub const fn receive(&self) -> Timestamp {
        self.timestamp(32)
    }

    /// T1 in a request (often random), T3 in a response.
    #[must_use]
    pub const fn transmit(&self) -> Timestamp {
        self.timestamp(40)
    }

    /// The value by which a response will name this request.
    #[must_use]
    pub const fn asks_with(&self) -> Timestamp {
        if self.version() == 5 {
            self.origin()
        } else {
            self.transmit()
        }
    }

    const fn word(&self, at: usize) -> u32 {
        let b = &self.0;
        u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    const fn timestamp(&self, at: usize) -> Timestamp {
        Timestamp((self.word(at) as u64) << 32 | self.word(at + 4) as u64)
    }
}

/// A point in time as NTP writes it: 32 bits of seconds, 32 bits of fraction, the era left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamp(pub u64);

/// Seconds from NTP's epoch (1900) to Unix's (1970).
const UNIX_EPOCH: u64 = 2_208_988_800;
const NANOSECONDS: i64 = 1_000_000_000;

impl Timestamp {
    /// Zero means unknown.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// From nanoseconds since 1970.
    #[must_use]
    pub const fn from_unix_nanoseconds(nanoseconds: i64) -> Self {
        let seconds = nanoseconds.div_euclid(NANOSECONDS);
        let fraction = (nanoseconds.rem_euclid(NANOSECONDS) as u64) << 32;
        let seconds = (seconds as u64).wrapping_add(UNIX_EPOCH) << 32;
        // Rounded, so that a conversion and back is the identity.
        Self(seconds.wrapping_add((fraction + NANOSECONDS as u64 / 2) / NANOSECONDS as u64))
    }

    /// How long after `earlier` this is; negative when before. Right whenever the two are within
    /// 68 years of each other, whatever the era.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.wrapping_sub(earlier.0).cast_signed())
    }

    /// Nanoseconds since 1970, in the era that is nearest to `near`.
    #[must_use]
    pub const fn unix_nanoseconds_near(self, near: i64) -> i64 {
        near.saturating_add(self.since(Self::from_unix_nanoseconds(near)).nanoseconds())
    }
}

/// A difference of two timestamps, in units of 2^-32 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub i64);

impl Span {
    /// In nanoseconds, rounded to the nearest.
    #[must_use]
    pub const fn nanoseconds(self) -> i64 {
        ((self.0 as i128 * NANOSECONDS as i128 + (1 << 31)) >> 32) as i64
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 4_294_967_296.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unix_time_survives_the_way_through_ntp_time(nanoseconds in any::<i64>()) {
            let stamp = Timestamp::from_unix_nanoseconds(nanoseconds);
            prop_assert_eq!(stamp.unix_nanoseconds_near(nanoseconds), nanoseconds);
        }

        #[test]
        fn a_difference_is_the_same_in_every_era(
            base in any::<u64>(),
            nanoseconds in -2_000_000_000_000_000_000_i64..2_000_000_000_000_000_000,
        ) {
            let units = ((i128::from(nanoseconds) << 32) / 1_000_000_000) as i64;
            let later = Timestamp(base.wrapping_add(units.cast_unsigned()));
            prop_assert_eq!(later.since(Timestamp(base)).0, units);
            prop_assert!((later.since(Timestamp(base)).nanoseconds() - nanoseconds).abs() <= 1);
        }
    }

    #[test]
    fn the_first_second_of_era_one_follows_the_last_of_era_zero() {
        let last = Timestamp(u64::MAX);
        let first = Timestamp(1 << 32);
        assert_eq!(first.since(last).nanoseconds(), 1_000_000_000);
        // 2036-02-07T06:28:16Z
        let wrap = 2_085_978_496 * NANOSECONDS;
        assert_eq!(Timestamp::from_unix_nanoseconds(wrap), Timestamp(0));
        assert_eq!(first.unix_nanoseconds_near(wrap), wrap + NANOSECONDS);
        assert_eq!(
            Timestamp(u64::MAX - (1 << 32) + 1).unix_nanoseconds_near(wrap),
            wrap - NANOSECONDS
        );
    }

    #[test]
    fn poll_and_precision_are_signed() {
        let mut header = NtpHeader([0; 48]);
        header.0[2] = 0xfa;
        header.0[3] = 0xe9;
        assert_eq!((header.poll(), header.precision()), (-6, -23));
    }

    #[test]
    fn root_delay_is_signed_and_dispersion_is_not() {
        let mut header = NtpHeader([0; 48]);
        header.0[4..12].fill(0xff);
        assert_eq!(header.root_delay(), -1);
        assert_eq!(header.root_dispersion(), u32::MAX);
    }

    #[test]
    fn a_span_keeps_its_sign_when_it_is_rounded() {
        for (units, nanoseconds) in [
            (1_i64 << 32, 1_000_000_000),
            (-1 << 31, -500_000_000),
            (4, 1),
            (-4, -1),
            (1, 0),
        ] {
            assert_eq!(Span(units).nanoseconds(), nanoseconds, "{units}");
        }
        assert_eq!(Span(-1 << 31).seconds(), -0.5);
    }

    #[test]
    fn version_5_is_named_by_its_cookie_and_the_others_by_their_transmit_time() {
        let mut header = NtpHeader([0; 48]);
        header.0[31] = 1;
        header.0[47] = 2;
        for version in 1..=5 {
            header.0[0] = version << 3 | 3;
            let expected = if version == 5 { 1 } else { 2 };
            assert_eq!(header.asks_with(), Timestamp(expected));
        }
    }

    #[test]
    fn the_first_byte_holds_leap_version_and_mode() {
        let header = |first| {
            let mut header = NtpHeader([0; 48]);
            header.0[0] = first;
            (
                header.leap_indicator(),
                header.version(),
                header.mode() as u8,
            )
        };
        assert_eq!(header(0b11_100_011), (3, 4, 3));
        assert_eq!(header(0b01_001_100), (1, 1, 4));
        for mode in 0..8 {
            assert_eq!(header(mode), (0, 0, mode));
        }
    }
}
