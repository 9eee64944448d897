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
    announcers::{Announcers, standing},
    limit::Limit,
    waiting::{self, Delays, Pairing, Waiting},
};

/// Changes that are kept with a domain.
const CHANGES: usize = 16;
/// So many intervals several may announce before it is told: one that gives way is taken for an
/// announcer three and a half intervals after its last word, and has to hear the other first.
const OVERLAP: u64 = 6;
/// So many intervals another has to be the better clock before it is taken for the master although
/// the old one goes on announcing.
const STAYS: u64 = 3;
/// Of several masters, those that are named.
const NAMED: usize = 8;

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

/// A Sync and its Follow_Up have in common who sends it to whom, and its number.
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
    /// Syncs whose Follow_Up never came, of masters that are forgotten too.
    pub missing_follow_ups: u64,
    /// Who is master: of several that announce, the one with the best clock.
    pub master: Option<PortIdentity>,
    /// Since when, in nanoseconds since 1970.
    pub master_since: i64,
    /// How often another became master.
    pub master_changes: u64,
    /// What changed, the last few.
    pub changes: VecDeque<Told>,
    /// When a message was heard last, as packets' times are.
    pub(super) heard: u64,
    /// The ring that carries its Announces.
    pub(super) ring: Option<u64>,
    /// So much waits on this interface that nothing more of it may.
    pub(super) is_crowded: bool,
    delays: Pairing<Asked, PortIdentity>,
    peer_delays: Pairing<Asked, PortIdentity>,
    halves: Waiting<TwoStep, Half>,
    /// Somebody was master, so that silence, and who comes next, is news.
    had_master: bool,
    /// Since when several announce, and whether that was told.
    overlap: Option<(u64, bool)>,
    announcers: Announcers,
    /// When somebody became master first of all.
    chosen: Option<u64>,
    /// Who has a better clock than the master, and since when.
    better: Option<(PortIdentity, u64)>,
    /// By [`Change::place`].
    limits: [Limit; Change::PLACES],
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
            heard: 0,
            ring: None,
            is_crowded: false,
            delays: Pairing::default(),
            peer_delays: Pairing::default(),
            halves: Waiting::default(),
            missing_follow_ups: 0,
            had_master: false,
            overlap: None,
            announcers: Announcers::default(),
            chosen: None,
            better: None,
            limits: Default::default(),
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
        let masters: BTreeMap<_, _> = masters.into_iter().map(|it| (it.identity, it)).collect();
        let heard = masters.values().map(|it| it.heard).max();
        Self {
            heard: heard.unwrap_or_default(),
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
        if now >= self.heard {
            // The host's clock may have been stepped back.
            (self.heard, self.last_seen) = (now, message.unix);
        }
        self.messages[kind.index()].count(now);
        if it.correction().is_none() {
            self.unknown_corrections += 1;
        }
        let bound = waiting::bound(self.is_crowded);
        match kind {
            PtpType::DelayRequest if it.carries_ntp() => {
                self.ntp_messages += 1;
                return false;
            }
            PtpType::DelayRequest => {
                let answered = self.delays.request(now, asked, bound);
                self.answered(answered);
                return false;
            }
            PtpType::PeerDelayRequest => {
                self.peer_delays.request(now, asked, bound);
                return false;
            }
            PtpType::PeerDelayResponse => {
                self.peer_delays.response(now, asked, source, bound);
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
                let answered = self.delays.response(now, asked, source, bound);
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
        let (masters, count) = (&mut self.masters, &mut self.missing_follow_ups);
        match self.halves.take(&key) {
            Some(other) if other.is_sync != half.is_sync => {
                if let Some(master) = masters.get_mut(&key.sender) {
                    master.two_step_syncs += 1;
                    if let (Some(one), Some(other)) = (half.correction, other.correction) {
                        master.sync_correction.add(one.saturating_add(other));
                    }
                }
            }
            // The same half again is one that passes twice, changed on one of its ways: numbers do
            // not come round while it waits.
            _ => {
                let bound = waiting::bound(self.is_crowded);
                self.halves
                    .put(message.event.time, key, half, bound, |half| {
                        missing(masters, count, half);
                    });
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
        self.announcers
            .change(source, before.as_ref(), after.as_ref());
        if let (Some(before), Some(after)) = (before, after)
            && let Some(change) = changed(source, &before, &after)
        {
            self.tell(key, message.event.time, message.unix, change, deliver);
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
        let current = self.master.and_then(|it| self.masters.get_mut(&it));
        if let Some(master) = current
            && let Some(announce) = &mut master.announce
            && announce.time.is_none()
        {
            // Who was master before a restart may be silent for as long as any other. Those that
            // were not are gone until they say something.
            announce.time = Some(now);
            self.announcers
                .change(master.identity, None, Some(announce));
        }
        self.judge(key, now, unix, deliver);
        self.release(now, deliver);
    }

    /// Tells what was held back, once its time is over.
    fn release(&mut self, now: u64, deliver: &mut impl FnMut(&Told)) {
        for place in 0..Change::PLACES {
            if let Some(told) = self.limits[place].release(now) {
                self.keep(told, deliver);
            }
        }
    }

    /// Lets go of what has waited for long enough.
    fn expire(&mut self, now: u64, timeout: u64) {
        let (masters, count) = (&mut self.masters, &mut self.missing_follow_ups);
        self.halves
            .expire(now, timeout, |half| missing(masters, count, half));
        self.delays.expire(now, timeout);
        self.peer_delays.expire(now, timeout);
    }

    /// Lets go of all that waits.
    pub(super) fn conclude(&mut self, deliver: &mut impl FnMut(&Told)) {
        self.expire(u64::MAX, 0);
        self.release(u64::MAX, deliver);
    }

    /// What waits.
    pub(super) fn pending(&self) -> usize {
        self.halves.len() + self.delays.len() + self.peer_delays.len()
    }

    /// Somebody is master, and has announced for longer than a moment.
    pub(super) fn is_settled(&self, now: u64) -> bool {
        let master = self.master.and_then(|it| self.masters.get(&it));
        master.is_some_and(|it| it.worth(now) > 1)
    }

    /// The same without what waits.
    pub(super) fn shown(&self) -> Self {
        Self {
            masters: self.masters.clone(),
            changes: self.changes.clone(),
            delays: self.delays.shown(),
            peer_delays: self.peer_delays.shown(),
            halves: Waiting::default(),
            announcers: Announcers::default(),
            limits: Default::default(),
            ..*self
        }
    }

    /// Forgets one that is not the master.
    pub(super) fn forget(&mut self, identity: PortIdentity) {
        if let Some(gone) = self.masters.remove(&identity) {
            self.announcers
                .change(identity, gone.announce.as_ref(), None);
        }
    }

    /// Nobody listens any more: who announces is not known until somebody does again.
    pub(super) fn unheard(&mut self) {
        self.announcers = Announcers::default();
        for master in self.masters.values_mut() {
            if let Some(announce) = &mut master.announce {
                (announce.time, announce.in_a_row) = (None, 0);
            }
        }
        (self.overlap, self.better) = (None, None);
    }

    /// Who is master now, and whether only one is.
    fn judge(&mut self, key: DomainKey, now: u64, unix: i64, deliver: &mut impl FnMut(&Told)) {
        self.announcers.expire(now, &self.masters);
        let current = self.master.and_then(|master| self.masters.get(&master));
        let announce = current.and_then(|it| it.announce);
        let best = self.announcers.best();
        if current.is_some_and(|it| it.is_announcing(now)) {
            self.look_for_better(key, now, unix, deliver);
        } else {
            // A word that strays here makes nobody master, unless it is all that there ever was.
            let stray = (self.announcers.any()).filter(|_| !self.had_master);
            let best = best.map(|(_, _, identity)| identity).or(stray);
            // Another is heard at once; that nobody is, may be a few lost packets.
            let is_gone = announce.is_none_or(|announce| {
                announce.alternate
                    || (announce.time)
                        .is_none_or(|time| now.saturating_sub(time) > 3 * announce.patience())
            });
            if best.is_some() || (is_gone && self.master.is_some()) {
                if !self.had_master {
                    self.chosen = Some(now);
                }
                let is_told = self.had_master;
                self.follow(key, best, is_told, now, unix, deliver);
            }
        }
        self.look_for_several(key, now, unix, deliver);
    }

    /// Another is master from now on.
    fn follow(
        &mut self,
        key: DomainKey,
        after: Option<PortIdentity>,
        is_told: bool,
        now: u64,
        unix: i64,
        deliver: &mut impl FnMut(&Told),
    ) {
        let before = std::mem::replace(&mut self.master, after);
        self.master_since = unix;
        self.better = None;
        self.had_master = true;
        if is_told {
            self.master_changes += 1;
            let change = Change::MasterChanged { before, after };
            self.tell(key, now, unix, change, deliver);
        }
    }

    /// Whether the master announces and another has announced a better clock for a while: receivers
    /// follow that one then, whether the old one hears it or not.
    fn look_for_better(
        &mut self,
        key: DomainKey,
        now: u64,
        unix: i64,
        deliver: &mut impl FnMut(&Told),
    ) {
        let announce = |identity: PortIdentity| self.masters.get(&identity)?.announce;
        let current = self
            .master
            .and_then(|it| Some(standing(it, &announce(it)?)));
        // Of those that announce to single receivers, each receiver chooses for itself.
        let better = (self.announcers.best())
            .filter(|best| !best.0 && current.is_some_and(|current| *best < current));
        let Some((_, _, identity)) = better else {
            self.better = None;
            return;
        };
        let interval = announce(identity).map_or(0, |it| it.interval);
        let since = match self.better {
            Some((who, since)) if who == identity => since,
            _ => now,
        };
        self.better = Some((identity, since));
        if now.saturating_sub(since) > STAYS * interval {
            // Of those that were there from the beginning, only the first is not the best yet.
            let is_told = self
                .chosen
                .is_none_or(|chosen| since.saturating_sub(chosen) > STAYS * interval);
            self.follow(key, Some(identity), is_told, now, unix, deliver);
        }
    }

    fn look_for_several(
        &mut self,
        key: DomainKey,
        now: u64,
        unix: i64,
        deliver: &mut impl FnMut(&Told),
    ) {
        if self.announcers.to_all().nth(1).is_none() {
            self.overlap = None;
            return;
        }
        let (since, told) = *self.overlap.get_or_insert((now, false));
        if told {
            return;
        }
        let masters: Vec<_> = self.announcers.to_all().take(NAMED).collect();
        let intervals = masters
            .iter()
            .filter_map(|it| self.masters.get(it)?.announce);
        let longest = intervals.map(|it| it.interval).max().unwrap_or_default();
        if now.saturating_sub(since) > OVERLAP * longest {
            self.overlap = Some((since, true));
            let count = self.announcers.to_all().count();
            let change = Change::SeveralMasters { masters, count };
            self.tell(key, now, unix, change, deliver);
        }
    }

    fn tell(
        &mut self,
        domain: DomainKey,
        now: u64,
        unix: i64,
        change: Change,
        deliver: &mut impl FnMut(&Told),
    ) {
        let place = change.place();
        let told = Told {
            domain,
            unix,
            change,
            more: 0,
        };
        if let Some(held) = self.limits[place].release(now) {
            self.keep(held, deliver);
        }
        if let Some(told) = self.limits[place].pass(now, told) {
            self.keep(told, deliver);
        }
    }

    fn keep(&mut self, told: Told, deliver: &mut impl FnMut(&Told)) {
        deliver(&told);
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(told);
    }
}

fn missing(masters: &mut BTreeMap<PortIdentity, Master>, count: &mut u64, half: Half) {
    if half.is_sync {
        *count += 1;
        if let Some(master) = masters.get_mut(&half.sender) {
            master.missing_follow_ups += 1;
        }
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
