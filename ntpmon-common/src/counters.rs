//! Per-CPU counters of everything that a program saw. Each packet counts exactly once, so the sum
//! is the number of packets that passed.

/// What became of a packet. The value is the index into [`Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Counter {
    /// An event was written into the ring.
    Emitted = 0,
    /// An event was lost because the ring was full.
    RingFull = 1,
    /// Neither IPv4 nor IPv6.
    NotIp = 2,
    /// Another protocol than UDP, ICMP and its quoted packets among them.
    NotUdp = 3,
    /// UDP between other ports.
    OtherPort = 4,
    /// A later fragment: it has no UDP header.
    Fragment = 5,
    /// The capture ends before the headers do.
    Truncated = 6,
    /// The UDP payload is too short for its NTP mode.
    ShortPayload = 7,
    /// A version that does not exist: 0, 6 or 7.
    BadVersion = 8,
    /// Header fields that contradict each other.
    Malformed = 9,
    /// More VLAN tags than are looked through.
    VlanDepth = 10,
    /// More IPv6 extension headers than are looked through.
    ExtensionHeaderDepth = 11,
    /// Tunnels inside tunnels, deeper than is looked through.
    TunnelDepth = 12,
    /// A link type that this build does not know (capture files only).
    UnknownLink = 13,
    /// The event of a PTP message was written into the ring.
    PtpEmitted = 14,
    /// The event of a PTP message was lost because the ring was full.
    PtpRingFull = 15,
    /// PTP of another version than 2: its layout is another.
    PtpBadVersion = 16,
    /// PTP that is shorter than its type, or than it says, or of a reserved type.
    PtpMalformed = 17,
}

/// How many counters there are.
pub const COUNTERS: usize = 18;

impl Counter {
    /// Whether such a packet is none of ours, rather than taken or lost.
    #[must_use]
    pub const fn is_skip(self) -> bool {
        !matches!(
            self,
            Self::Emitted | Self::RingFull | Self::PtpEmitted | Self::PtpRingFull
        )
    }

    /// Every counter, in the order of its index.
    pub const ALL: [Self; COUNTERS] = [
        Self::Emitted,
        Self::RingFull,
        Self::NotIp,
        Self::NotUdp,
        Self::OtherPort,
        Self::Fragment,
        Self::Truncated,
        Self::ShortPayload,
        Self::BadVersion,
        Self::Malformed,
        Self::VlanDepth,
        Self::ExtensionHeaderDepth,
        Self::TunnelDepth,
        Self::UnknownLink,
        Self::PtpEmitted,
        Self::PtpRingFull,
        Self::PtpBadVersion,
        Self::PtpMalformed,
    ];

    /// The name in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emitted => "emitted",
            Self::RingFull => "ring_full",
            Self::NotIp => "not_ip",
            Self::NotUdp => "not_udp",
            Self::OtherPort => "other_port",
            Self::Fragment => "fragment",
            Self::Truncated => "truncated",
            Self::ShortPayload => "short_payload",
            Self::BadVersion => "bad_version",
            Self::Malformed => "malformed",
            Self::VlanDepth => "vlan_depth",
            Self::ExtensionHeaderDepth => "extension_header_depth",
            Self::TunnelDepth => "tunnel_depth",
            Self::UnknownLink => "unknown_link",
            Self::PtpEmitted => "ptp_emitted",
            Self::PtpRingFull => "ptp_ring_full",
            Self::PtpBadVersion => "ptp_bad_version",
            Self::PtpMalformed => "ptp_malformed",
        }
    }
}

/// One CPU's counters, or their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters(pub [u64; COUNTERS]);

impl Counters {
    /// One counter.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Counts one packet.
    pub const fn count(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    /// Adds another CPU's or another interface's counters.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Packets seen in all.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Packets that were NTP, those whose event was lost among them.
    #[must_use]
    pub const fn ntp_packets(&self) -> u64 {
        self.get(Counter::Emitted) + self.get(Counter::RingFull)
    }

    /// PTP messages, those whose event was lost among them.
    #[must_use]
    pub const fn ptp_packets(&self) -> u64 {
        self.get(Counter::PtpEmitted) + self.get(Counter::PtpRingFull)
    }

    /// Packets from which no event came, ring losses aside, by reason.
    pub fn skipped(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL
            .into_iter()
            .filter(|counter| counter.is_skip())
            .map(|counter| (counter, self.get(counter)))
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: an array of integers.
    unsafe impl aya::Pod for super::Counters {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_at_its_own_index() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }
}
