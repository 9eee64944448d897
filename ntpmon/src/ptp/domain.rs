//! One domain on one interface: its messages, its masters, who of them is master now, and what is
//! asked and answered in it. The same number over another transport or in another VLAN is another
//! domain: nothing of one is heard in the other.

use std::collections::{BTreeMap, VecDeque};

use ntpmon_common::{Announced, PortIdentity, PtpType, ptp_flags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Change, Master, Message, Rate, Told,
    waiting::{Delays, Pairing, Waiting},
};

/// Changes that are kept with a domain.
const CHANGES: usize = 16;
/// So many intervals several may announce before it is told: one that gives way is taken for an
/// announcer three and a half intervals after its last word, and has to hear the other first.
const OVERLAP: u64 = 6;

/// How messages travel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Over UDP and IPv4.
    UdpIpv4,
    /// Over UDP and IPv6.
    UdpIpv6,
    /// At once behind the Ethernet header.
    Ethernet,
}

impl Transport {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpIpv4 => "udp_ipv4",
            Self::UdpIpv6 => "udp_ipv6",
            Self::Ethernet => "ethernet",
        }
    }
}

/// Which domain of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DomainKey {
    /// Its number.
    pub number: u8,
    /// Whose profile defines it: see [`ntpmon_common::PtpMessage::sdo_id`].
    pub sdo_id: u16,
    /// How its messages travel.
    pub transport: Transport,
    /// VLAN ids from the outermost inwards; 0 where there is no tag.
    pub vlan: [u16; 2],
}

impl DomainKey {
    /// The ids of the tags that there are.
    #[must_use]
    pub fn vlan_ids(&self) -> Vec<u16> {
        self.vlan.into_iter().filter(|id| *id != 0).collect()
    }
}

/// What a domain's key is in JSON.
pub(crate) fn key_fields(key: &DomainKey, object: &mut Map<String, Value>) {
    for (name, value) in [
        ("domain_number", Value::from(key.number)),
        ("sdo_id", key.sdo_id.into()),
        ("transport", key.transport.name().into()),
        ("vlan_ids", key.vlan_ids().into()),
    ] {
        object.insert(name.to_owned(), value);
    }
}

/// A Sync and its Follow_Up have in common who sends it to whom, and its number; a Pdelay_Resp and its
/// Follow_Up, whose request they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TwoStep {
    sender: PortIdentity,
    /// One master has different numbers for each that it sends to alone.
    receiver: [u8; 16],
    sequence: u16,
}

/// The half of a two-step Sync that came first.
#[derive(Clone, Copy, Debug)]
struct Half {
    is_sync: bool,
    sender: PortIdentity,
    correction: Option<i64>,
}

/// A request, by who asked and its number.
type Asked = (PortIdentity, u16);

/// A domain on one interface.
#[derive(Clone, Debug)]
pub struct Domain {
    /// When a message of it was seen first and last, in nanoseconds since 1970.
    pub first_seen: i64,
    /// See `first_seen`.
    pub last_seen: i64,
    /// How often each type comes, as [`PtpType::index`] counts.
    pub messages: [Rate; PtpType::ALL.len()],
    /// Delay_Req that carry NTP.
    pub ntp_messages: u64,
    /// Messages of which no more is known than their number, because there are too many masters.
    pub unlisted: u64,
    /// Messages whose correction was too large to be said.
    pub unknown_corrections: u64,
    /// Those that announce, or send what masters do, by identity.
    pub masters: BTreeMap<PortIdentity, Master>,
    /// Who is master: of several that announce, the one that did first.
    pub master: Option<PortIdentity>,
    /// Since when, in nanoseconds since 1970.
    pub master_since: i64,
    /// How often another became master.
    pub master_changes: u64,
    /// What changed, the last few.
    pub changes: VecDeque<Told>,
    delays: Pairing<Asked, PortIdentity>,
    peer_delays: Pairing<Asked, PortIdentity>,
    halves: Waiting<TwoStep, Half>,
    /// Somebody was master, so that silence, and who comes next, is news.
    had_master: bool,
    /// Since when several announce, and whether that was told.
    overlap: Option<(u64, bool)>,
}

impl Domain {
    pub(super) fn new(unix: i64) -> Self {
        Self {
            first_seen: unix,
            last_seen: unix,
            messages: [Rate::default(); PtpType::ALL.len()],
            ntp_messages: 0,
            unlisted: 0,
            unknown_corrections: 0,
            masters: BTreeMap::new(),
            master: None,
            master_since: Message::NO_TIME,
            master_changes: 0,
            changes: VecDeque::new(),
            delays: Pairing::default(),
            peer_delays: Pairing::default(),
            halves: Waiting::default(),
            had_master: false,
            overlap: None,
        }
    }

    /// As it was before a restart, but for its counts.
    pub(super) fn restored(
        masters: impl IntoIterator<Item = Master>,
        master: Option<PortIdentity>,
        seen: [i64; 2],
        master_since: i64,
        master_changes: u64,
    ) -> Self {
        let masters = masters.into_iter().map(|it| (it.identity, it)).collect();
        Self {
            last_seen: seen[1],
            masters,
            master,
            master_since,
            master_changes,
            had_master: master.is_some() || master_changes > 0,
            ..Self::new(seen[0])
        }
    }

    /// Delay_Req and Delay_Resp.
    #[must_use]
    pub const fn delays(&self) -> &Delays {
        &self.delays.delays
    }

    /// Pdelay_Req and Pdelay_Resp.
    #[must_use]
    pub const fn peer_delays(&self) -> &Delays {
        &self.peer_delays.delays
    }

    /// Those that announce at this time.
    pub fn announcing(&self, now: u64) -> impl Iterator<Item = &Master> {
        self.masters
            .values()
            .filter(move |master| master.is_announcing(now))
    }

    /// Takes a message in. `room` says whether there is room for a master more; whether one came
    /// is returned.
    pub(super) fn observe(
        &mut self,
        key: DomainKey,
        message: &Message,
        kind: PtpType,
        room: bool,
        deliver: &mut impl FnMut(&Told),
    ) -> bool {
        let (it, now) = (message.message(), message.event.time);
        let source = it.source();
        let asked = (it.requester().unwrap_or(source), it.sequence());
        self.last_seen = self.last_seen.max(message.unix);
        self.messages[kind.index()].count(now);
        if it.correction().is_none() {
            self.unknown_corrections += 1;
        }
        match kind {
            PtpType::DelayRequest if it.carries_ntp() => {
                self.ntp_messages += 1;
                return false;
            }
            PtpType::DelayRequest => {
                let answered = self.delays.request(now, asked);
                self.answered(answered);
                return false;
            }
            PtpType::PeerDelayRequest => {
                self.peer_delays.request(now, asked);
                return false;
            }
            PtpType::PeerDelayResponse => {
                self.peer_delays.response(now, asked, source);
                return false;
            }
            PtpType::PeerDelayResponseFollowUp | PtpType::Signaling | PtpType::Management => {
                return false;
            }
            PtpType::Sync | PtpType::FollowUp | PtpType::DelayResponse | PtpType::Announce => {}
        }
        let is_new = !self.masters.contains_key(&source);
        if is_new && !room {
            self.unlisted += 1;
            return false;
        }
        let master = self
            .masters
            .entry(source)
            .or_insert_with(|| Master::new(message));
        master.count(message, kind);
        match kind {
            PtpType::Sync if !it.has(ptp_flags::TWO_STEP) => {
                master.one_step_syncs += 1;
                if let Some(correction) = it.correction() {
                    master.sync_correction.add(correction);
                }
            }
            PtpType::Sync | PtpType::FollowUp => self.two_step(message, kind),
            PtpType::DelayResponse => {
                if let Some(correction) = it.correction() {
                    master.delay_correction.add(correction);
                }
                let answered = self.delays.response(now, asked, source);
                self.answered(answered);
            }
            _ => {
                if let Some(announced) = it.announced() {
                    self.announce(key, message, announced, deliver);
                }
            }
        }
        is_new
    }

    fn answered(&mut self, answered: Option<(PortIdentity, i64)>) {
        if let Some((responder, turnaround)) = answered
            && let Some(master) = self.masters.get_mut(&responder)
        {
            master.turnaround.add(turnaround);
        }
    }

    /// A Sync that is followed up, or what follows.
    fn two_step(&mut self, message: &Message, kind: PtpType) {
        let it = message.message();
        let key = TwoStep {
            sender: it.source(),
            receiver: message.event.destination,
            sequence: it.sequence(),
        };
        let half = Half {
            is_sync: kind == PtpType::Sync,
            sender: key.sender,
            correction: it.correction(),
        };
        let masters = &mut self.masters;
        match self.halves.take(&key) {
            Some(other) if other.is_sync != half.is_sync => {
                if let Some(master) = masters.get_mut(&key.sender) {
                    master.two_step_syncs += 1;
                    if let (Some(one), Some(other)) = (half.correction, other.correction) {
                        master.sync_correction.add(one.saturating_add(other));
                    }
                }
            }
            other => {
                if let Some(other) = other {
                    missing(masters, other);
                }
                self.halves
                    .put(message.event.time, key, half, |half| missing(masters, half));
            }
        }
    }

    fn announce(
        &mut self,
        key: DomainKey,
        message: &Message,
        announced: Announced,
        deliver: &mut impl FnMut(&Told),
    ) {
        let source = message.message().source();
        let Some(master) = self.masters.get_mut(&source) else {
            return;
        };
        let before = master.announce(message, announced);
        let after = master.announce;
        if let (Some(before), Some(after)) = (before, after)
            && let Some(change) = changed(source, &before, &after)
        {
            self.tell(key, message.unix, change, deliver);
        }
        self.judge(key, message.event.time, message.unix, deliver);
    }

    /// Time has passed.
    pub(super) fn advance(
        &mut self,
        key: DomainKey,
        now: u64,
        unix: i64,
        timeout: u64,
        deliver: &mut impl FnMut(&Told),
    ) {
        self.expire(now, timeout);
        for master in self.masters.values_mut() {
            // What was master before a restart may be silent for as long as any other.
            if let Some(announce) = &mut master.announce {
                announce.time.get_or_insert(now);
            }
        }
        self.judge(key, now, unix, deliver);
    }

    /// Lets go of what has waited for long enough.
    fn expire(&mut self, now: u64, timeout: u64) {
        let masters = &mut self.masters;
        self.halves
            .expire(now, timeout, |half| missing(masters, half));
        self.delays.expire(now, timeout);
        self.peer_delays.expire(now, timeout);
    }

    /// Lets go of all that waits.
    pub(super) fn conclude(&mut self) {
        self.expire(u64::MAX, 0);
    }

    /// Who is master now, and whether only one is.
    fn judge(&mut self, key: DomainKey, now: u64, unix: i64, deliver: &mut impl FnMut(&Told)) {
        let current = self.master.and_then(|master| self.masters.get(&master));
        let is_alive = current.is_some_and(|it| it.is_announcing(now));
        if !is_alive {
            let best = self
                .announcing(now)
                .filter_map(|master| Some((rank(&master.announce?.announced), master.identity)))
                .min()
                .map(|(_, identity)| identity);
            // Another is heard at once; that nobody is, may be a few lost packets.
            let is_gone = current.and_then(|it| it.announce).is_none_or(|announce| {
                announce
                    .time
                    .is_none_or(|time| now.saturating_sub(time) > 3 * announce.patience())
            });
            if best.is_some() || (is_gone && self.master.is_some()) {
                let before = std::mem::replace(&mut self.master, best);
                self.master_since = unix;
                if self.had_master {
                    self.master_changes += 1;
                    let change = Change::MasterChanged {
                        before,
                        after: best,
                    };
                    self.tell(key, unix, change, deliver);
                }
                self.had_master = true;
            }
        }
        self.look_for_several(key, now, unix, deliver);
    }

    fn look_for_several(
        &mut self,
        key: DomainKey,
        now: u64,
        unix: i64,
        deliver: &mut impl FnMut(&Told),
    ) {
        // Those that announce to one receiver each may be several.
        let to_all = self.masters.values().filter_map(|master| {
            let announce = master.announce?;
            let counts = announce.is_alive(now) && !announce.unicast && announce.in_a_row > 1;
            counts.then_some((master.identity, announce.interval))
        });
        let (masters, intervals): (Vec<_>, Vec<_>) = to_all.unzip();
        if masters.len() < 2 {
            self.overlap = None;
            return;
        }
        let (since, told) = *self.overlap.get_or_insert((now, false));
        let longest = intervals.into_iter().max().unwrap_or_default();
        if !told && now.saturating_sub(since) > OVERLAP * longest {
            self.overlap = Some((since, true));
            self.tell(key, unix, Change::SeveralMasters { masters }, deliver);
        }
    }

    fn tell(
        &mut self,
        domain: DomainKey,
        unix: i64,
        change: Change,
        deliver: &mut impl FnMut(&Told),
    ) {
        let told = Told {
            domain,
            unix,
            change,
        };
        deliver(&told);
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(told);
    }
}

fn missing(masters: &mut BTreeMap<PortIdentity, Master>, half: Half) {
    if half.is_sync
        && let Some(master) = masters.get_mut(&half.sender)
    {
        master.missing_follow_ups += 1;
    }
}

/// What an operator has to know of a new announcement: one change, the one that explains the rest.
fn changed(
    master: PortIdentity,
    before: &super::Announce,
    after: &super::Announce,
) -> Option<Change> {
    let quality = |it: &Announced| {
        (
            it.clock_class,
            it.clock_accuracy,
            it.variance,
            it.priority1,
            it.priority2,
        )
    };
    let (was, is) = (before.announced, after.announced);
    if was.grandmaster != is.grandmaster {
        return Some(Change::GrandmasterChanged {
            master,
            before: was,
            after: is,
        });
    }
    if quality(&was) != quality(&is) {
        return Some(Change::QualityChanged {
            master,
            before: was,
            after: is,
        });
    }
    let properties = |it: &super::Announce| {
        (
            it.announced.utc_offset,
            it.announced.time_source,
            it.time_flags(),
        )
    };
    (properties(before) != properties(after)).then_some(Change::TimePropertiesChanged {
        master,
        before: (was, before.time_flags()),
        after: (is, after.time_flags()),
    })
}

/// The lower, the better the clock: as the standard's algorithm compares two grandmasters.
const fn rank(it: &Announced) -> (u8, u8, u8, u16, u8, [u8; 8], u16) {
    (
        it.priority1,
        it.clock_class,
        it.clock_accuracy,
        it.variance,
        it.priority2,
        it.grandmaster.0,
        it.steps_removed,
    )
}
