//! PTP (IEEE 1588-2008 and -2019): the record of one message that crosses from the kernel, the
//! message's header and body as they were on the wire, and what can be read from them. Pure
//! arithmetic over bytes; who answers whom is found in user space.

/// One PTP message as a program at a NIC (or a capture file) saw it.
///
/// It begins as [`Event`](crate::Event) does, and has another length: that tells the two apart in
/// a ring. 128 bytes without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PtpEvent {
    /// When it passed, in nanoseconds: monotonic from the kernel, Unix time from a file.
    pub time: u64,
    /// Sender: an address, IPv4 mapped into IPv6; with [`flags::LAYER2`](crate::flags::LAYER2) the
    /// Ethernet address in the first six bytes, zero where it is not known.
    pub source: [u8; 16],
    /// Receiver, likewise.
    pub destination: [u8; 16],
    /// Sender's UDP port, host byte order; 0 without UDP.
    pub source_port: u16,
    /// Receiver's UDP port, likewise.
    pub destination_port: u16,
    /// Index of the interface: the kernel's, or the file's own.
    pub interface: u32,
    /// Length of the UDP payload, from the UDP header; without UDP the message's own length.
    pub payload_length: u16,
    /// VLAN ids from the outermost inwards; 0 where there is no tag.
    pub vlan: [u16; 2],
    /// Which way it passed: see [`Direction`](crate::Direction).
    pub direction: u8,
    /// See [`flags`](crate::flags).
    pub flags: u8,
    /// IPv4 TTL or IPv6 hop limit; 0 without IP.
    pub ttl: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// 1, where an NTP event has 0.
    pub kind: u8,
    /// Zero.
    pub reserved_too: u32,
    /// The message.
    pub message: PtpMessage,
}

const _: () = assert!(
    size_of::<PtpEvent>() == 128
        && core::mem::offset_of!(PtpEvent, kind) == core::mem::offset_of!(crate::Event, kind)
        && core::mem::offset_of!(PtpEvent, message) % 8 == 0
);

impl PtpEvent {
    /// What [`Self::kind`] says.
    pub const KIND: u8 = 1;

    /// All zero but the kind: what a parser fills in.
    pub const EMPTY: Self = Self {
        time: 0,
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        interface: 0,
        payload_length: 0,
        vlan: [0; 2],
        direction: 0,
        flags: 0,
        ttl: 0,
        reserved: [0; 2],
        kind: Self::KIND,
        reserved_too: 0,
        message: PtpMessage([0; PtpMessage::LENGTH]),
    };
}

/// The first 64 bytes of a message: the header, and the body of every type that has a fixed one.
/// What a shorter message lacks is zero; of a longer one the rest is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct PtpMessage(pub [u8; Self::LENGTH]);

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PtpType {
    /// The master's time; where the two-step flag is set, that follows in a Follow_Up.
    Sync = 0,
    /// Asks the master when this arrived.
    DelayRequest = 1,
    /// Asks a neighbour for the time on the cable.
    PeerDelayRequest = 2,
    /// Its answer.
    PeerDelayResponse = 3,
    /// When a Sync left.
    FollowUp = 8,
    /// When a Delay_Req arrived.
    DelayResponse = 9,
    /// When a neighbour's answer left.
    PeerDelayResponseFollowUp = 10,
    /// Who the sender follows, and how good that clock is.
    Announce = 11,
    /// Negotiation between clocks.
    Signaling = 12,
    /// Questions to clocks and their answers.
    Management = 13,
}

impl PtpType {
    /// Every type, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::Sync,
        Self::DelayRequest,
        Self::PeerDelayRequest,
        Self::PeerDelayResponse,
        Self::FollowUp,
        Self::DelayResponse,
        Self::PeerDelayResponseFollowUp,
        Self::Announce,
        Self::Signaling,
        Self::Management,
    ];

    /// The name in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::DelayRequest => "delay_request",
            Self::PeerDelayRequest => "peer_delay_request",
            Self::PeerDelayResponse => "peer_delay_response",
            Self::FollowUp => "follow_up",
            Self::DelayResponse => "delay_response",
            Self::PeerDelayResponseFollowUp => "peer_delay_response_follow_up",
            Self::Announce => "announce",
            Self::Signaling => "signaling",
            Self::Management => "management",
        }
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        let number = self as usize;
        // Four numbers between them are reserved.
        if number < 8 { number } else { number - 4 }
    }
}

/// A clock's name: an EUI-64, most often made of an Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockIdentity(pub [u8; 8]);

/// One port of a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIdentity {
    /// The clock.
    pub clock: ClockIdentity,
    /// Its port, from 1.
    pub port: u16,
}

/// A time of PTP: seconds since 1970, of TAI where the time scale is PTP's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PtpTimestamp {
    /// 48 bits of them.
    pub seconds: u64,
    /// Below a second in what is right.
    pub nanoseconds: u32,
}

/// What an Announce says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The clock that the sender follows; itself, where it follows none.
    pub grandmaster: ClockIdentity,
    /// The lower, the more it is to be preferred; before all else.
    pub priority1: u8,
    /// The same, when all of its quality is equal.
    pub priority2: u8,
    /// 6 follows a reference, 7 did until lately, 248 never did, 255 follows only.
    pub clock_class: u8,
    /// A code: 0x20 is within 25 ns, 0xfe is not known.
    pub clock_accuracy: u8,
    /// How steady it runs, as the standard scales it; 0xffff is not known.
    pub variance: u16,
    /// How many clocks lie between.
    pub steps_removed: u16,
    /// A code: 0x20 is GNSS, 0x50 NTP, 0xa0 its own oscillator.
    pub time_source: u8,
    /// TAI − UTC in seconds, where the flag says that it is right.
    pub utc_offset: i16,
}

/// Bits of [`PtpMessage::flags`]: its two bytes as one number, the first one above.
pub mod ptp_flags {
    /// Sent by one that is not the master.
    pub const ALTERNATE_MASTER: u16 = 1 << 8;
    /// A Follow_Up comes.
    pub const TWO_STEP: u16 = 1 << 9;
    /// To one receiver.
    pub const UNICAST: u16 = 1 << 10;
    /// The last minute of the day has 61 seconds.
    pub const LEAP_61: u16 = 1;
    /// The last minute of the day has 59 seconds.
    pub const LEAP_59: u16 = 1 << 1;
    /// The offset between TAI and UTC is right.
    pub const UTC_OFFSET_VALID: u16 = 1 << 2;
    /// The time scale is PTP's: TAI. Else it is anything.
    pub const PTP_TIMESCALE: u16 = 1 << 3;
    /// The time is traceable to a primary reference.
    pub const TIME_TRACEABLE: u16 = 1 << 4;
    /// So is the frequency.
    pub const FREQUENCY_TRACEABLE: u16 = 1 << 5;
}

/// Where an optional field stands for "too large to say".
const CORRECTION_UNKNOWN: i64 = i64::MAX;
/// The type of the TLV in which chrony carries NTP, and the domain that it uses unless told
/// otherwise.
const TLV_NTP: u16 = 0x2023;

impl PtpMessage {
    /// Bytes that are kept of a message.
    pub const LENGTH: usize = 64;

    const fn two(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    const fn eight(&self, at: usize) -> [u8; 8] {
        let bytes = &self.0;
        [
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
            bytes[at + 4],
            bytes[at + 5],
            bytes[at + 6],
            bytes[at + 7],
        ]
    }

    const fn port_identity(&self, at: usize) -> PortIdentity {
        PortIdentity {
            clock: ClockIdentity(self.eight(at)),
            port: self.two(at + 8),
        }
    }

    /// Its type; none for a reserved number, which the parser lets not through.
    #[must_use]
    pub const fn kind(&self) -> Option<PtpType> {
        Some(match self.0[0] & 0x0f {
            0 => PtpType::Sync,
            1 => PtpType::DelayRequest,
            2 => PtpType::PeerDelayRequest,
            3 => PtpType::PeerDelayResponse,
            8 => PtpType::FollowUp,
            9 => PtpType::DelayResponse,
            10 => PtpType::PeerDelayResponseFollowUp,
            11 => PtpType::Announce,
            12 => PtpType::Signaling,
            13 => PtpType::Management,
            _ => return None,
        })
    }

    /// The version's number before the point: 2 in what the parser lets through.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.0[1] & 0x0f
    }

    /// And behind it: 0 in IEEE 1588-2008, 1 in -2019.
    #[must_use]
    pub const fn minor_version(&self) -> u8 {
        self.0[1] >> 4
    }

    /// Length of the message, TLVs among it.
    #[must_use]
    pub const fn length(&self) -> u16 {
        self.two(2)
    }

    /// The number of its domain.
    #[must_use]
    pub const fn domain(&self) -> u8 {
        self.0[4]
    }

    /// Whose profile defines the domain, 12 bits: 0x000 for IEEE 1588, 0x100 for IEEE 802.1AS.
    /// Version 2.0 has the upper four of them only.
    #[must_use]
    pub const fn sdo_id(&self) -> u16 {
        let minor = if self.minor_version() == 0 {
            0
        } else {
            self.0[5]
        };
        ((self.0[0] >> 4) as u16) << 8 | minor as u16
    }

    /// See [`ptp_flags`].
    #[must_use]
    pub const fn flags(&self) -> u16 {
        self.two(6)
    }

    /// Whether all bits of `flag` are set.
    #[must_use]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags() & flag == flag
    }

    /// What the way added or took, in units of 2^-16 ns; nothing when it is too large to be said.
    #[must_use]
    pub const fn correction(&self) -> Option<i64> {
        let correction = i64::from_be_bytes(self.eight(8));
        if correction == CORRECTION_UNKNOWN {
            return None;
        }
        Some(correction)
    }

    /// Who sent it.
    #[must_use]
    pub const fn source(&self) -> PortIdentity {
        self.port_identity(20)
    }

    /// Its number, of its type and from its sender.
    #[must_use]
    pub const fn sequence(&self) -> u16 {
        self.two(30)
    }

    /// How far apart such messages are, log2 seconds; nothing where it is not said.
    #[must_use]
    pub const fn log_interval(&self) -> Option<i8> {
        let interval = self.0[33].cast_signed();
        if interval == 127 {
            return None;
        }
        Some(interval)
    }

    /// The time in it: origin, precise origin, receipt. Nothing for the types that have none.
    #[must_use]
    pub const fn timestamp(&self) -> Option<PtpTimestamp> {
        if matches!(
            self.kind(),
            None | Some(PtpType::Signaling | PtpType::Management)
        ) {
            return None;
        }
        let bytes = &self.0;
        let seconds = (self.two(34) as u64) << 32
            | u32::from_be_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]) as u64;
        Some(PtpTimestamp {
            seconds,
            nanoseconds: u32::from_be_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]),
        })
    }

    /// Whose request a Delay_Resp, a Pdelay_Resp or its Follow_Up answers.
    #[must_use]
    pub const fn requester(&self) -> Option<PortIdentity> {
        match self.kind() {
            Some(
                PtpType::DelayResponse
                | PtpType::PeerDelayResponse
                | PtpType::PeerDelayResponseFollowUp,
            ) => Some(self.port_identity(44)),
            _ => None,
        }
    }

    /// Whom a message for management or signalling is for; all ones are all.
    #[must_use]
    pub const fn target(&self) -> Option<PortIdentity> {
        match self.kind() {
            Some(PtpType::Signaling | PtpType::Management) => Some(self.port_identity(34)),
            _ => None,
        }
    }

    /// What an Announce says.
    #[must_use]
    pub const fn announced(&self) -> Option<Announced> {
        if !matches!(self.kind(), Some(PtpType::Announce)) {
            return None;
        }
        let bytes = &self.0;
        Some(Announced {
            utc_offset: self.two(44).cast_signed(),
            priority1: bytes[47],
            clock_class: bytes[48],
            clock_accuracy: bytes[49],
            variance: self.two(50),
            priority2: bytes[52],
            grandmaster: ClockIdentity(self.eight(53)),
            steps_removed: self.two(61),
            time_source: bytes[63],
        })
    }

    /// Whether it carries an NTP packet, as chrony does where hardware stamps nothing but PTP: a
    /// Delay_Req with a TLV that holds the packet. It asks no master for anything.
    #[must_use]
    pub const fn carries_ntp(&self) -> bool {
        // The header, the time, the head of the TLV, an NTP header.
        matches!(self.kind(), Some(PtpType::DelayRequest))
            && self.length() >= 44 + 4 + 48
            && self.two(44) == TLV_NTP
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: `repr(C)`, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for super::PtpEvent {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8) -> PtpMessage {
        let mut bytes = [0; PtpMessage::LENGTH];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = index as u8;
        }
        bytes[0] = 0x10 | kind;
        bytes[1] = 0x12;
        PtpMessage(bytes)
    }

    #[test]
    fn a_header_is_read_as_the_standard_lays_it_out() {
        let message = message(0);
        assert_eq!(message.kind(), Some(PtpType::Sync));
        assert_eq!((message.version(), message.minor_version()), (2, 1));
        assert_eq!(message.length(), 0x0203);
        assert_eq!((message.domain(), message.sdo_id()), (4, 0x105));
        assert_eq!(message.flags(), 0x0607);
        assert!(message.has(ptp_flags::TWO_STEP | ptp_flags::UNICAST));
        assert!(!message.has(ptp_flags::PTP_TIMESCALE));
        assert_eq!(message.correction(), Some(0x0809_0a0b_0c0d_0e0f));
        let source = message.source();
        assert_eq!(source.clock.0, [20, 21, 22, 23, 24, 25, 26, 27]);
        assert_eq!((source.port, message.sequence()), (0x1c1d, 0x1e1f));
        assert_eq!(message.log_interval(), Some(33));
        assert_eq!(
            message.timestamp(),
            Some(PtpTimestamp {
                seconds: 0x2223_2425_2627,
                nanoseconds: 0x2829_2a2b
            })
        );
        assert_eq!((message.requester(), message.target()), (None, None));
        assert_eq!(message.announced(), None);
    }

    #[test]
    fn a_body_is_read_by_its_type_alone() {
        let response = message(9);
        let requester = response.requester().unwrap();
        assert_eq!(requester.clock.0, [44, 45, 46, 47, 48, 49, 50, 51]);
        assert_eq!(requester.port, 0x3435);
        let announced = message(11).announced().unwrap();
        assert_eq!(announced.utc_offset, 0x2c2d);
        assert_eq!((announced.priority1, announced.priority2), (47, 52));
        assert_eq!((announced.clock_class, announced.clock_accuracy), (48, 49));
        assert_eq!(announced.variance, 0x3233);
        assert_eq!(announced.grandmaster.0, [53, 54, 55, 56, 57, 58, 59, 60]);
        assert_eq!(
            (announced.steps_removed, announced.time_source),
            (0x3d3e, 63)
        );
        let management = message(13);
        assert_eq!(management.timestamp(), None);
        let target = management.target().unwrap();
        assert_eq!(target.clock.0, [34, 35, 36, 37, 38, 39, 40, 41]);
        assert_eq!(target.port, 0x2a2b);
    }

    #[test]
    fn what_stands_for_unknown_is_none() {
        let mut message = message(1);
        message.0[8..16].copy_from_slice(&i64::MAX.to_be_bytes());
        message.0[33] = 127;
        assert_eq!(message.correction(), None);
        assert_eq!(message.log_interval(), None);
        message.0[8..16].copy_from_slice(&(-65_536_i64).to_be_bytes());
        message.0[33] = 0xfd;
        assert_eq!(message.correction(), Some(-65_536));
        assert_eq!(message.log_interval(), Some(-3));
        message.0[0] = 0x04;
        assert_eq!(message.kind(), None);
    }

    #[test]
    fn version_2_0_has_no_lower_part_of_the_profile() {
        let mut message = message(0);
        message.0[1] = 0x02;
        assert_eq!(message.sdo_id(), 0x100);
    }

    #[test]
    fn ntp_within_is_recognised_by_its_tlv() {
        let mut message = message(1);
        message.0[2..4].copy_from_slice(&96_u16.to_be_bytes());
        message.0[44..46].copy_from_slice(&TLV_NTP.to_be_bytes());
        assert!(message.carries_ntp());
        message.0[3] = 95;
        assert!(!message.carries_ntp(), "too short for it");
        message.0[3] = 96;
        message.0[0] = 0;
        assert!(!message.carries_ntp(), "another type");
    }

    #[test]
    fn every_type_stands_at_its_own_index() {
        for (index, kind) in PtpType::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            let message = PtpMessage([kind as u8; PtpMessage::LENGTH]);
            assert_eq!(message.kind(), Some(kind));
        }
    }
}
