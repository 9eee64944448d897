//! One port that announces itself as master, or behaves as one: it sends Sync, Follow_Up or
//! Delay_Resp. What it announces, how often its messages come, what is in them.

use ntpmon_common::{Announced, Direction, PortIdentity, PtpMessage, PtpType, ptp_flags};

use super::{Message, Rate, Statistics, Transport};

/// How long an interval between announces is believed to be, in nanoseconds; beyond these bounds,
/// as the standard's profiles have them, a message says nonsense.
const INTERVALS: [u64; 2] = [125_000_000, 16_000_000_000];
/// What is taken where it is not said and not seen yet: the standard's default.
const USUAL_INTERVAL: u64 = 2_000_000_000;

/// Where it is not said, the longest of so many gaps is taken for it.
const GAPS: usize = 4;

/// What a master announced last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// What it says.
    pub announced: Announced,
    /// The message's flags.
    pub flags: u16,
    /// To one receiver rather than to all.
    pub unicast: bool,
    /// By one that is not the master, and announces so that others know of it.
    pub alternate: bool,
    /// The message itself.
    pub(super) message: PtpMessage,
    /// When it came, as its packets' times are; nothing since a restart.
    pub(super) time: Option<u64>,
    /// How far apart they are, in nanoseconds.
    pub(super) interval: u64,
    /// To whom gaps are measured, when one was sent there last, and the last few.
    measured: ([u8; 16], u64, [u64; GAPS]),
    /// How many came without a gap.
    pub(super) in_a_row: u64,
}

impl Announce {
    /// As it was before a restart; nothing when it is none.
    pub(super) fn restored(message: PtpMessage, interval: u64) -> Option<Self> {
        let [shortest, longest] = INTERVALS;
        Some(Self {
            announced: message.announced()?,
            flags: message.flags(),
            unicast: message.has(ptp_flags::UNICAST),
            alternate: message.has(ptp_flags::ALTERNATE_MASTER),
            message,
            time: None,
            interval: interval.clamp(shortest, longest),
            measured: ([0; 16], 0, [0; GAPS]),
            in_a_row: 0,
        })
    }

    /// The flags that say something of the time.
    pub(super) const fn time_flags(&self) -> u16 {
        self.flags
            & (ptp_flags::LEAP_61
                | ptp_flags::LEAP_59
                | ptp_flags::UTC_OFFSET_VALID
                | ptp_flags::PTP_TIMESCALE
                | ptp_flags::TIME_TRACEABLE
                | ptp_flags::FREQUENCY_TRACEABLE)
    }

    /// For so long it may be silent before it is no master any more: three intervals, the
    /// standard's default, and half a one for what delays it.
    pub(super) const fn patience(&self) -> u64 {
        self.interval * 7 / 2
    }

    /// Until when it may be silent; nothing where it has not been heard since a restart.
    pub(super) fn deadline(&self) -> Option<u64> {
        Some(self.time?.saturating_add(self.patience()))
    }

    /// Whether it is still to be taken for one that announces.
    pub(super) fn is_alive(&self, now: u64) -> bool {
        self.deadline().is_some_and(|deadline| now <= deadline)
    }
}

/// A port that is master, or was.
#[derive(Clone, Debug)]
pub struct Master {
    /// Which.
    pub identity: PortIdentity,
    /// When it was seen first and last, in nanoseconds since 1970; [`Message::NO_TIME`] where files
    /// do not say.
    pub first_seen: i64,
    /// See `first_seen`.
    pub last_seen: i64,
    /// When a message of it was heard last, as packets' times are.
    pub(super) heard: u64,
    /// Where its messages come from, as in an event.
    pub source: [u8; 16],
    /// How they travel.
    pub transport: Transport,
    /// Whether they go out: this host sends them.
    pub direction: Direction,
    /// The version, before and behind the point.
    pub version: [u8; 2],
    /// What it announced last, if it did.
    pub announce: Option<Announce>,
    /// How often each type comes from it, as [`PtpType::index`] counts.
    pub messages: [Rate; PtpType::ALL.len()],
    /// What Sync, Delay_Resp and Announce say to be their interval, log2 seconds.
    pub log_intervals: [Option<i8>; 3],
    /// Syncs that carry the time themselves.
    pub one_step_syncs: u64,
    /// Syncs with their Follow_Up.
    pub two_step_syncs: u64,
    /// Syncs whose Follow_Up never came.
    pub missing_follow_ups: u64,
    /// Correction of Sync and its Follow_Up together, in units of 2^-16 ns.
    pub sync_correction: Statistics,
    /// Correction of Delay_Resp, likewise.
    pub delay_correction: Statistics,
    /// From a Delay_Req to its answer, in nanoseconds.
    pub turnaround: Statistics,
}

/// Types whose interval is kept, in the order of [`Master::log_intervals`].
const WITH_INTERVAL: [PtpType; 3] = [PtpType::Sync, PtpType::DelayResponse, PtpType::Announce];

impl Master {
    pub(super) fn new(message: &Message) -> Self {
        Self {
            first_seen: message.unix,
            last_seen: message.unix,
            source: message.event.source,
            transport: message.transport(),
            direction: message.direction(),
            ..Self::unseen(message.message().source())
        }
    }

    /// Nothing is known of it but its name.
    pub(super) fn unseen(identity: PortIdentity) -> Self {
        Self {
            identity,
            first_seen: Message::NO_TIME,
            last_seen: Message::NO_TIME,
            heard: 0,
            source: [0; 16],
            transport: Transport::UdpIpv4,
            direction: Direction::Unknown,
            version: [0; 2],
            announce: None,
            messages: [Rate::default(); PtpType::ALL.len()],
            log_intervals: [None; 3],
            one_step_syncs: 0,
            two_step_syncs: 0,
            missing_follow_ups: 0,
            sync_correction: Statistics::default(),
            delay_correction: Statistics::default(),
            turnaround: Statistics::default(),
        }
    }

    /// Every message of its own.
    pub(super) fn count(&mut self, message: &Message, kind: PtpType) {
        let it = message.message();
        if message.event.time >= self.heard {
            // The host's clock may have been stepped back.
            (self.heard, self.last_seen) = (message.event.time, message.unix);
        }
        self.source = message.event.source;
        self.direction = message.direction();
        self.version = [it.version(), it.minor_version()];
        self.messages[kind.index()].count(message.event.time);
        if let Some(place) = WITH_INTERVAL.iter().position(|other| *other == kind) {
            self.log_intervals[place] = it.log_interval();
        }
    }

    /// Takes an Announce in; what it announced before is returned.
    pub(super) fn announce(&mut self, message: &Message, announced: Announced) -> Option<Announce> {
        let it = message.message();
        let now = message.event.time;
        let before = self.announce;
        let measured = measure(before.as_ref(), message.event.destination, now);
        let seen = measured.2.into_iter().max().filter(|gap| *gap > 0);
        let said = it
            .log_interval()
            .filter(|log| (-7..=7).contains(log))
            .map(|log| (1e9 * f64::from(log).exp2()) as u64);
        let [shortest, longest] = INTERVALS;
        let unicast = it.has(ptp_flags::UNICAST);
        // To single receivers it is theirs to ask for: what one gets says little of the others.
        let least = if unicast && said.is_none() {
            USUAL_INTERVAL
        } else {
            shortest
        };
        let interval = said
            .or(seen)
            .unwrap_or(USUAL_INTERVAL)
            .clamp(least, longest);
        let alive = before.filter(|before| before.is_alive(now));
        self.announce = Some(Announce {
            announced,
            flags: it.flags(),
            unicast,
            alternate: it.has(ptp_flags::ALTERNATE_MASTER),
            message: *it,
            time: Some(now),
            interval,
            measured,
            in_a_row: alive.map_or(0, |before| before.in_a_row) + 1,
        });
        before
    }

    /// How much would be lost with it: 0 for one that never announced, 2 for one that goes on.
    pub(super) fn worth(&self, now: u64) -> u8 {
        self.announce.map_or(0, |announce| {
            1 + u8::from(announce.in_a_row > 1 && announce.is_alive(now))
        })
    }

    /// Whether it announces at this time, and not as an alternate master.
    #[must_use]
    pub fn is_announcing(&self, now: u64) -> bool {
        self.announce
            .is_some_and(|announce| !announce.alternate && announce.is_alive(now))
    }
}

/// Goes on measuring how far apart announces to one receiver are: to another, when that one gets none
/// any more.
fn measure(
    before: Option<&Announce>,
    destination: [u8; 16],
    now: u64,
) -> ([u8; 16], u64, [u64; GAPS]) {
    let anew = (destination, now, [0; GAPS]);
    let Some((receiver, last, mut gaps)) = before.map(|it| it.measured) else {
        return anew;
    };
    let gap = now.saturating_sub(last);
    if last == 0 || gap > 2 * INTERVALS[1] {
        return anew;
    }
    if receiver != destination {
        return (receiver, last, gaps);
    }
    gaps.rotate_right(1);
    gaps[0] = gap;
    (receiver, now, gaps)
}
