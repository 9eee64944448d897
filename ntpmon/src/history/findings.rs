//! What was found of servers and of this host's clock, numbered, kept on a shelf and asked for by
//! time, server and kind. Forged packets can make something to find of each of them: of one kind, at
//! one server, only a few a minute get a number of their own, the others count on the last of those;
//! and answers that nobody waited for do not push out of the log what else there is to find.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    History,
    key::{InterfaceId, Key},
    query::QueryError,
    shelf::{Change, Item, Order, Shelf},
    view::time,
};
use crate::{
    health::{Evidence, Found, Kind, Severity},
    ntp::clock,
};

/// Kept, the last ones, some hundred bytes each: of those that are for information or that anybody can
/// forge, and of all others.
const KEPT: usize = if cfg!(test) { 200 } else { 10_000 };
/// In memory, for who follows them.
const LATEST: usize = 1000;
/// In a minute, of one kind at one server.
const A_MINUTE: u32 = 5;
/// In a minute, answers that nobody waited for, of all servers.
const STRAYS_A_MINUTE: u32 = 60;
const MINUTE: i64 = 60_000_000_000;
/// Kinds at servers that are told apart in a minute.
const SOURCES: usize = 4096;
/// Read at once.
const PART: usize = 1000;

/// Something that happened to a server, or to this host's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Counts from 1.
    pub event_number: u64,
    /// What, such as `offset_step`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// When, by the packet that shows it.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// When it happened last, where `count` is more than 1.
    #[schema(value_type = String, format = DateTime)]
    pub last_timestamp: Timestamp,
    /// How often, before the next event of its kind.
    pub count: u64,
    /// Whose answers show it; null where it is about this host's own clock.
    pub server_ip: Option<String>,
    /// Who had asked.
    pub client_ip: Option<String>,
    /// Where; null where it is about this host.
    pub interface_name: Option<String>,
    /// What happened, in words.
    pub message: String,
    /// The numbers that show it; which, depends on the kind. Durations are in seconds.
    #[schema(value_type = Object)]
    pub evidence: Value,
}

/// Which are wanted; what is not set picks all.
#[derive(Clone, Debug, Default)]
pub struct FindingQuery {
    /// Of one of these kinds.
    pub kinds: Option<Vec<Kind>>,
    /// At least so severe.
    pub severity: Option<Severity>,
    /// Of this server.
    pub server: Option<IpAddr>,
    /// On one of these interfaces.
    pub interfaces: Option<Vec<String>>,
    /// Then or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Then or before.
    pub until: Option<i64>,
    /// With a lower number.
    pub before: Option<u64>,
    /// So many at most, the last ones.
    pub limit: usize,
}

/// The log of what was found.
pub(super) struct Findings {
    state: Mutex<State>,
    /// The number of the last one.
    newest: watch::Sender<u64>,
    /// By kind, since the start.
    counts: [AtomicU64; Kind::EACH.len()],
    /// Found, and without a number of their own or a place to count.
    left_out: AtomicU64,
}

#[derive(Default)]
struct State {
    last: u64,
    sources: HashMap<Source, Recent, RandomState>,
    latest: VecDeque<Arc<Finding>>,
    /// The numbers of those that are kept: the lesser ones, and the others.
    kept: [VecDeque<u64>; 2],
    /// When the minute of strays began, and how many of it have a number of their own.
    strays: (i64, u32),
}

/// What of a finding says how long it is kept.
#[derive(Deserialize)]
struct Weight {
    kind: String,
    severity: String,
}

impl Weight {
    fn is_lesser(&self) -> bool {
        let kind = Kind::find(&self.kind);
        kind.is_some_and(is_stray) || Severity::find(&self.severity) == Some(Severity::Info)
    }
}

/// Anybody can send such packets, in any name.
const fn is_stray(kind: Kind) -> bool {
    matches!(kind, Kind::UnsolicitedAnswer | Kind::DuplicatedAnswer)
}

/// Whether a minute that began then is not over. Clocks are set back too: then another begins.
const fn is_this_minute(began: i64, now: i64) -> bool {
    now.abs_diff(began) < MINUTE.unsigned_abs()
}

/// Who found something: each ring has a number.
pub(super) type Finder = usize;

/// Within this time, in nanoseconds, several rings find the same.
const SAME: i64 = MINUTE;

/// Of what there may be only so much in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    kind: Kind,
    interface: Option<InterfaceId>,
    /// Nothing: servers that nobody asked, all together.
    server: Option<[u8; 16]>,
    subject: Option<u64>,
}

#[derive(Clone, Debug)]
struct Recent {
    /// When the minute began.
    began: i64,
    told: u32,
    /// As it was written last.
    last: Arc<Finding>,
    /// How often since, and when last.
    count: u64,
    last_at: i64,
    /// Who found that, when, and what showed it.
    finder: Finder,
    found_at: i64,
    evidence: Evidence,
}

impl Recent {
    /// As it is now.
    fn finding(&self) -> Finding {
        let mut finding = Finding::clone(&self.last);
        finding.count = self.count;
        finding.last_timestamp = finding.last_timestamp.max(time(self.last_at));
        finding
    }
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            newest: watch::Sender::new(0),
            counts: [const { AtomicU64::new(0) }; Kind::EACH.len()],
            left_out: AtomicU64::new(0),
        }
    }
}

impl Findings {
    /// Goes on from those that the file has, the last one first.
    pub(super) fn resume(&self, last: &[Item]) {
        let mut state = self.state.lock();
        for (key, value) in last {
            state.last = state.last.max(number(key));
            if state.latest.len() < LATEST
                && let Ok(finding) = serde_json::from_slice(value)
            {
                state.latest.push_front(Arc::new(finding));
            }
            // What a newer version wrote in another way goes first.
            let is_lesser = serde_json::from_slice(value).map_or(true, |it: Weight| it.is_lesser());
            state.kept[usize::from(!is_lesser)].push_front(number(key));
        }
        self.newest.send_replace(state.last);
    }

    /// Takes what was found. What has to be put down is returned.
    fn tell(
        &self,
        found: &Found,
        interface: Option<(InterfaceId, &str)>,
        finder: Finder,
        now: i64,
    ) -> Vec<Change> {
        // By the packets' own time, so that files are limited by theirs.
        let at = found.time.unwrap_or(now);
        let source = Source {
            kind: found.kind,
            interface: interface.map(|(number, _)| number),
            server: found.server.filter(|_| found.is_known),
            subject: found.subject,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        let known = state.sources.get(&source);
        // What several rings see is one event.
        if known.is_some_and(|it| {
            it.finder != finder
                && at.abs_diff(it.found_at) < SAME.unsigned_abs()
                && it.evidence.tells_the_same(&found.evidence)
        }) {
            return Vec::new();
        }
        self.counts[found.kind as usize].fetch_add(1, Ordering::Relaxed);
        if known.is_none() && state.sources.len() >= SOURCES {
            state.sources.retain(|_, it| is_this_minute(it.began, at));
            if state.sources.len() >= SOURCES {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return Vec::new();
            }
        }
        if !is_this_minute(state.strays.0, at) {
            state.strays = (at, 0);
        }
        let is_beyond = is_stray(found.kind) && state.strays.1 >= STRAYS_A_MINUTE;
        let mut changes = Vec::new();
        if let Some(recent) = state.sources.get_mut(&source) {
            let is_over = !is_this_minute(recent.began, at);
            if is_over {
                recent.began = at;
                recent.told = 0;
            }
            if is_beyond || recent.told >= A_MINUTE {
                recent.count += 1;
                recent.last_at = recent.last_at.max(at);
                // A flood is not written down packet by packet.
                if recent.count.is_power_of_two() || recent.count % 1000 == 0 {
                    recent.last = Arc::new(recent.finding());
                    changes.push(recent.last.change());
                    renew(&mut state.latest, &recent.last);
                }
                return changes;
            }
            // The one before ends here: with all that counted on it.
            if recent.count > recent.last.count {
                recent.last = Arc::new(recent.finding());
                changes.push(recent.last.change());
                renew(&mut state.latest, &recent.last);
            }
        } else if is_beyond {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return changes;
        }
        if is_stray(found.kind) {
            state.strays.1 += 1;
        }
        state.last += 1;
        let number = state.last;
        let finding = Arc::new(Finding::new(number, found, interface.map(|it| it.1), at));
        state.latest.push_back(Arc::clone(&finding));
        if state.latest.len() > LATEST {
            state.latest.pop_front();
        }
        changes.push(finding.change());
        let of_this_minute = state.sources.get(&source).map(|it| (it.began, it.told));
        let (began, told) = of_this_minute.unwrap_or((at, 0));
        let recent = Recent {
            began,
            told: told + 1,
            last: finding,
            count: 1,
            last_at: at,
            finder,
            found_at: at,
            evidence: found.evidence.clone(),
        };
        state.sources.insert(source, recent);
        let is_lesser = is_stray(found.kind) || found.severity == Severity::Info;
        let kept = &mut state.kept[usize::from(!is_lesser)];
        kept.push_back(number);
        // An older version kept more.
        while kept.len() > KEPT
            && changes.len() < PART
            && let Some(old) = kept.pop_front()
        {
            changes.push(Change::remove(Shelf::Findings, old.to_be_bytes()));
        }
        changes
    }

    fn announce(&self) {
        let last = self.state.lock().last;
        self.newest.send_if_modified(|newest| {
            let is_news = *newest < last;
            *newest = last.max(*newest);
            is_news
        });
    }
}

/// Puts in place of a finding what is known of it now.
fn renew(latest: &mut VecDeque<Arc<Finding>>, finding: &Arc<Finding>) {
    let place = latest.partition_point(|it| it.event_number < finding.event_number);
    if let Some(known) = latest.get_mut(place)
        && known.event_number == finding.event_number
    {
        *known = Arc::clone(finding);
    }
}

impl Finding {
    fn new(number: u64, found: &Found, interface: Option<&str>, at: i64) -> Self {
        let name = |address: [u8; 16]| Key::new(address, 0).ip().to_string();
        let server = found.server.map(name);
        let sentence = found.evidence.sentence(found.kind);
        Self {
            event_number: number,
            kind: found.kind.name().to_owned(),
            severity: found.severity.name().to_owned(),
            timestamp: time(at),
            last_timestamp: time(at),
            count: 1,
            message: match &server {
                Some(server) => format!("{server}: {sentence}"),
                None => sentence,
            },
            server_ip: server,
            client_ip: found.client.map(name),
            interface_name: interface.map(str::to_owned),
            // Numbers and texts only.
            evidence: serde_json::to_value(&found.evidence).unwrap_or_default(),
        }
    }

    fn change(&self) -> Change {
        let value = serde_json::to_vec(self).unwrap_or_default();
        Change::put(Shelf::Findings, self.event_number.to_be_bytes(), value)
    }

    fn is_wanted(&self, query: &FindingQuery) -> bool {
        let nanoseconds = |time: Timestamp| time.as_nanosecond();
        query
            .kinds
            .as_ref()
            .is_none_or(|kinds| kinds.iter().any(|kind| kind.name() == self.kind))
            && query
                .severity
                .is_none_or(|least| Severity::find(&self.severity) >= Some(least))
            && query
                .server
                .is_none_or(|ip| self.server_ip.as_deref() == Some(&ip.to_string()))
            && query.interfaces.as_ref().is_none_or(|names| {
                (self.interface_name.as_ref()).is_some_and(|name| names.contains(name))
            })
            && query
                .since
                .is_none_or(|since| nanoseconds(self.last_timestamp) >= i128::from(since))
            && query
                .until
                .is_none_or(|until| nanoseconds(self.timestamp) <= i128::from(until))
    }
}

/// A finding's number, from its key.
fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

impl History {
    /// Takes what was found, on an interface or on this host.
    pub(super) fn tell(&self, found: &Found, interface: Option<InterfaceId>, finder: Finder) {
        let names = self.0.interfaces.read();
        let interface = interface.and_then(|number| {
            let name = names.get(usize::from(number))?;
            Some((number, name.as_str()))
        });
        let changes = self.0.findings.tell(found, interface, finder, clock::utc());
        drop(names);
        if !changes.is_empty() {
            self.put(changes);
        }
        // Who follows puts down what became of it: after it, but for what two rings find at once.
        self.0.findings.announce();
    }

    /// Takes what was found on an interface by others than those who feed exchanges.
    pub fn found(&self, found: &Found, interface: &str) {
        let interface = self.0.number(interface);
        self.tell(found, Some(interface), 0);
    }

    /// Goes on where an earlier life ended.
    pub(super) fn resume_findings(&self) -> Result<(), QueryError> {
        let last = self.shelf(Shelf::Findings, &[], &[], Order::Newest, 2 * KEPT)?;
        self.0.findings.resume(&last);
        Ok(())
    }

    /// What was found, the last first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn findings(&self, query: &FindingQuery) -> Result<Vec<Finding>, QueryError> {
        let mut found = Vec::new();
        let mut before = query
            .before
            .map_or_else(Vec::new, |it| it.to_be_bytes().to_vec());
        if query.before == Some(0) {
            return Ok(found);
        }
        loop {
            let part = self.shelf(Shelf::Findings, &[], &before, Order::Newest, PART)?;
            let is_last = part.len() < PART;
            if let Some((key, _)) = part.last() {
                before.clone_from(key);
            }
            for (_, value) in &part {
                // One that a newer version wrote in another way is passed over.
                let Ok(finding) = serde_json::from_slice::<Finding>(value) else {
                    continue;
                };
                if finding.is_wanted(query) {
                    found.push(finding);
                    if found.len() >= query.limit {
                        return Ok(found);
                    }
                }
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    /// One of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn finding(&self, number: u64) -> Result<Option<Finding>, QueryError> {
        let (key, next) = (number.to_be_bytes(), number.saturating_add(1).to_be_bytes());
        let found = self.shelf(Shelf::Findings, &key, &next, Order::Oldest, 1)?;
        Ok(found
            .first()
            .and_then(|(_, value)| serde_json::from_slice(value).ok()))
    }

    /// Those of the last ones with a higher number, the oldest first: without a look at the file.
    #[must_use]
    pub fn findings_since(&self, number: u64) -> Vec<Arc<Finding>> {
        let state = self.0.findings.state.lock();
        // Those that were counted on since they were written.
        let counted = state.sources.values();
        let counted: HashMap<u64, &Recent> = counted
            .filter(|it| it.count > it.last.count)
            .map(|it| (it.last.event_number, it))
            .collect();
        let newer = state.latest.iter().filter(|it| it.event_number > number);
        newer
            .map(|it| match counted.get(&it.event_number) {
                Some(recent) => Arc::new(recent.finding()),
                None => Arc::clone(it),
            })
            .collect()
    }

    /// The number of the last one; it changes with each.
    #[must_use]
    pub fn newest_finding(&self) -> watch::Receiver<u64> {
        self.0.findings.newest.subscribe()
    }

    /// How many there were of each kind since the start, those without a number of their own among
    /// them.
    #[must_use]
    pub fn findings_counted(&self) -> BTreeMap<&'static str, u64> {
        let findings = &self.0.findings;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = Kind::EACH.iter().zip(&findings.counts);
        counts
            .map(|(kind, count)| (kind.name(), load(count)))
            .collect()
    }

    /// How many of them were too many to be kept at all.
    #[must_use]
    pub fn findings_left_out(&self) -> u64 {
        self.0.findings.left_out.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Settings;

    const SECOND: i64 = 1_000_000_000;

    fn found(kind: Kind, server: u8) -> Found {
        Found {
            kind,
            severity: kind.severity(),
            time: Some(1_700_000_000 * SECOND),
            server: Some([server; 16]),
            client: None,
            is_known: true,
            subject: None,
            evidence: Evidence::Number {
                before: 2,
                after: 3,
                stratum: None,
            },
        }
    }

    fn open(folder: &tempfile::TempDir) -> History {
        History::open(folder.path(), Settings::default()).unwrap()
    }

    fn numbers(history: &History, query: &FindingQuery) -> Vec<u64> {
        let query = FindingQuery {
            limit: 1000,
            ..query.clone()
        };
        let found = history.findings(&query).unwrap();
        found.iter().map(|it| it.event_number).collect()
    }

    #[test]
    fn findings_are_found_by_what_they_are_and_are_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(&folder);
        let all = FindingQuery::default();
        let mut newest = history.newest_finding();
        history.tell(&found(Kind::StratumChanged, 1), None, 0);
        assert_eq!(*newest.borrow_and_update(), 1);
        history.tell(&found(Kind::TimeJump, 2), None, 0);
        assert!(newest.has_changed().unwrap());
        assert_eq!(numbers(&history, &all), [2, 1]);
        let one = FindingQuery {
            server: Some(Key::new([1; 16], 0).ip()),
            ..all.clone()
        };
        assert_eq!(numbers(&history, &one), [1]);
        let severe = FindingQuery {
            severity: Some(Severity::Warning),
            ..all.clone()
        };
        assert_eq!(numbers(&history, &severe), [2]);
        let kinds = FindingQuery {
            kinds: Some(vec![Kind::StratumChanged, Kind::LeapChanged]),
            ..all.clone()
        };
        assert_eq!(numbers(&history, &kinds), [1]);
        let before = FindingQuery {
            before: Some(2),
            ..all.clone()
        };
        assert_eq!(numbers(&history, &before), [1]);
        let late = FindingQuery {
            since: Some(1_700_000_001 * SECOND),
            ..all.clone()
        };
        assert_eq!(numbers(&history, &late), [0; 0]);
        history.stop();
        drop(history);
        let history = open(&folder);
        assert_eq!(numbers(&history, &all), [2, 1]);
        let told = history.findings_since(1);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].kind, "time_jump");
        history.tell(&found(Kind::TimeJump, 2), None, 0);
        assert_eq!(numbers(&history, &all), [3, 2, 1]);
        let message = history.finding(3).unwrap().unwrap().message;
        assert!(message.contains("from 2 to 3"), "{message}");
        assert_eq!(history.finding(4).unwrap(), None);
    }

    fn told(findings: &Findings, found: &Found, at: i64) -> usize {
        let mut found = found.clone();
        found.time = Some(at);
        findings.tell(&found, None, 0, 0).len()
    }

    #[test]
    fn a_flood_counts_on_the_last_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let history = open(&folder);
        let findings = &history.0.findings;
        let mut written = 0;
        let flood = 10_000_u32;
        let stray = found(Kind::UnsolicitedAnswer, 1);
        for number in 0..flood {
            written += told(findings, &stray, i64::from(number) * 1000);
        }
        assert!(written < 40, "{written}");
        let counts = || -> Vec<u64> {
            let all = history.findings_since(0);
            all.iter().map(|it| it.count).collect()
        };
        let last = u64::from(flood) - 4;
        assert_eq!(counts(), [1, 1, 1, 1, last]);
        // Another server, and the next minute, have numbers of their own; what was counted stays.
        told(findings, &found(Kind::UnsolicitedAnswer, 2), 1);
        told(findings, &stray, 2 * MINUTE);
        assert_eq!(counts(), [1, 1, 1, 1, last, 1, 1]);
        // So has a clock that was set back.
        told(findings, &stray, -2 * MINUTE);
        assert_eq!(findings.state.lock().last, 8);
    }

    #[test]
    fn forged_servers_fill_no_table() {
        let findings = Findings::default();
        for number in 0..3 * SOURCES {
            let mut found = found(Kind::StratumChanged, 0);
            found.server = Some((number as u128).to_be_bytes());
            told(&findings, &found, 0);
        }
        assert_eq!(findings.state.lock().sources.len(), SOURCES);
        let left_out = findings.left_out.load(Ordering::Relaxed);
        assert_eq!(left_out, 2 * SOURCES as u64);
        // Those that nobody asked are one.
        let mut found = found(Kind::UnsolicitedAnswer, 9);
        found.is_known = false;
        told(&findings, &found, MINUTE);
        assert_eq!(findings.state.lock().sources.len(), 1);
    }

    #[test]
    fn strays_of_many_servers_push_out_nothing_else() {
        let findings = Findings::default();
        let mut file = std::collections::BTreeSet::new();
        let mut put = |found: &Found, at| {
            let mut found = found.clone();
            found.time = Some(at);
            for change in findings.tell(&found, None, 0, 0) {
                match change.value {
                    Some(_) => file.insert(number(&change.key)),
                    None => file.remove(&number(&change.key)),
                };
            }
            file.clone()
        };
        put(&found(Kind::TimeJump, 1), 0);
        for minute in 1..=20 {
            for server in 0..250 {
                let stray = found(Kind::UnsolicitedAnswer, server);
                put(&stray, minute * MINUTE);
            }
        }
        let kept = put(&found(Kind::TimeJump, 2), 30 * MINUTE);
        assert!(kept.contains(&1));
        assert_eq!(kept.len(), KEPT + 2);
        let state = findings.state.lock();
        assert_eq!(state.last, 20 * u64::from(STRAYS_A_MINUTE) + 2);
    }

    #[test]
    fn what_several_rings_see_is_told_once() {
        let findings = Findings::default();
        let stratum = found(Kind::StratumChanged, 1);
        for finder in 1..4 {
            findings.tell(&stratum, None, finder, 0);
        }
        assert_eq!(findings.state.lock().last, 1);
        let mut back = stratum.clone();
        back.evidence = Evidence::Number {
            before: 3,
            after: 2,
            stratum: None,
        };
        findings.tell(&back, None, 2, 0);
        findings.tell(&stratum, None, 1, 0);
        assert_eq!(findings.state.lock().last, 3);
    }
}
