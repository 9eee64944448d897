//! One check, for ever: looks its name up every now and then, asks each of its addresses, and puts
//! down what came of it. What a server asks for is honoured: RATE slows it down, DENY and RSTR stop
//! it, for that address.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Definition, Failure, Series, exchange,
    resolve::{MOST_ADDRESSES, Resolved, resolve},
    round::{Pace, REGISTER, Reach, Round},
    shared::{Check, Latest, Shared, Wish},
};
use crate::ntp::clock;

/// A name is looked up again after this time.
const REFRESH: Duration = Duration::from_secs(1800);
/// And after this time, when none of its addresses tells the time, or it has none. Each time that
/// it has none doubles it.
const REFRESH_WHEN_LOST: Duration = Duration::from_secs(60);
/// So often it is doubled at most: 16 minutes.
const MOST_DOUBLED: u32 = 4;
/// A round that has no address to ask waits so long for the resolver.
const PATIENCE: Duration = Duration::from_secs(5);
/// One that has waits so long: a resolver that is well is heard before the old addresses are asked.
const GLANCE: Duration = Duration::from_millis(100);
/// What an address asked for is remembered so long after the name went on to others, which those
/// of pools do all the time.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Of so many addresses, the last.
const MOST_REMEMBERED: usize = 256;
/// Rounds that are older than so many intervals say nothing of how an address is now.
const RECENT: u32 = 2 * REGISTER as u32;
/// The interval varies by so much either way, as a share.
const JITTER: f64 = 0.1;

/// A number from 0 up to, but without, 1.
pub(super) fn random() -> f64 {
    // Without randomness checks are less spread, that is all.
    let bits = getrandom::u32().unwrap_or(1 << 31);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Runs a check until it is aborted.
pub(super) async fn run(check: Arc<Check>, shared: Arc<Shared>, first: Duration) {
    let mut wish = check.wish.subscribe();
    shared.is_forgotten(check.id).await;
    let mut runner = Runner::new(check, shared);
    tokio::select! {
        () = sleep(first) => {}
        _ = wish.changed() => {}
    }
    let mut resumed = wish.borrow().resumed;
    // However often somebody says that it is to go on.
    let mut earliest = Instant::now();
    loop {
        let Ok(now) = wish.wait_for(|wish| !wish.paused).await.map(|wish| *wish) else {
            return;
        };
        if now.resumed != resumed {
            resumed = now.resumed;
            runner.take_up_again();
        }
        sleep_until(earliest).await;
        let begun = Instant::now();
        runner.ask().await;
        let definition = &runner.check.definition;
        earliest = Instant::now() + definition.spacing;
        let share = 1.0 - JITTER + 2.0 * JITTER * random();
        let next = begun + definition.interval.mul_f64(share);
        wait(next.max(earliest), &mut wish).await;
    }
}

/// Until a time, or until something else is wanted.
async fn wait(until: Instant, wish: &mut watch::Receiver<Wish>) {
    tokio::select! {
        () = sleep_until(until) => {}
        _ = wish.changed() => {}
    }
}

struct Runner {
    check: Arc<Check>,
    shared: Arc<Shared>,
    places: Vec<Place>,
    /// Those that the name has no longer and that asked for something, with when they went.
    gone: VecDeque<(Place, Instant)>,
    names: Names,
    /// Of the name, while it has no address.
    nowhere: Reach,
}

/// When a name is looked up, and what came of it last.
#[derive(Debug, Default)]
struct Names {
    /// The look-up that is under way. It ends with the runner.
    under_way: JoinSet<Result<Resolved, Failure>>,
    /// When the last began.
    begun: Option<Instant>,
    /// Look-ups in a row that found nothing.
    failed: u32,
    /// Why the last did, while there is no address.
    failure: Option<Failure>,
}

impl Names {
    /// How long after a look-up the next begins.
    fn pause(&self, lost: bool) -> Duration {
        match self.failed {
            0 if lost => REFRESH_WHEN_LOST,
            0 => REFRESH,
            failed => REFRESH_WHEN_LOST * (1 << (failed - 1).min(MOST_DOUBLED)),
        }
    }

    fn is_due(&self, lost: bool) -> bool {
        let waited = |begun: Instant| begun.elapsed() >= self.pause(lost);
        self.under_way.is_empty() && self.begun.is_none_or(waited)
    }
}

/// An address of a check.
#[derive(Clone, Debug)]
struct Place {
    address: SocketAddr,
    reach: Reach,
    pace: Pace,
    /// Rounds that are still left out.
    left_out: u32,
    stopped: bool,
    last_success: Option<i64>,
    latest: Option<Arc<Round>>,
}

impl Place {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            reach: Reach::default(),
            pace: Pace::default(),
            left_out: 0,
            stopped: false,
            last_success: None,
            latest: None,
        }
    }

    /// Whether it wants not to be asked, or seldomer.
    fn asked_for_something(&self) -> bool {
        self.stopped || self.pace.factor() > 1
    }

    /// Lets others see it as it is now.
    fn publish(&self, check: &Check) {
        let Some(round) = &self.latest else {
            return;
        };
        let found = check.found(Some(self.address), Arc::clone(round), self.reach);
        let found = Latest {
            last_success: self.last_success,
            interval: check.definition.interval * self.pace.factor(),
            stopped: self.stopped,
            ..found
        };
        let mut latest = check.latest.write();
        latest.retain(|it| it.address.is_some() && it.address != found.address);
        let place = latest.partition_point(|it| it.address < found.address);
        latest.insert(place, found);
    }

    fn is_lost(&self) -> bool {
        self.latest.as_ref().is_none_or(|it| it.time.is_none())
    }

    /// Whether it is this one's turn.
    fn is_due(&mut self) -> bool {
        if self.stopped {
            return false;
        }
        let due = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        due
    }

    /// Takes what came of asking, and does what the server wants.
    fn take(&mut self, mut round: Round, interval: Duration) -> Arc<Round> {
        self.reach.add(round.time.is_some());
        if round.time.is_some() {
            self.last_success = Some(round.at);
        }
        let note = match round.kiss.as_deref() {
            Some("RATE") => {
                self.pace.slow_down();
                let seconds = (interval * self.pace.factor()).as_secs_f64();
                Some(format!("it is asked every {seconds} s from now on"))
            }
            Some("DENY" | "RSTR") => {
                self.stopped = true;
                Some("it is not asked any more until the check is resumed".to_owned())
            }
            _ => {
                self.pace.calm();
                None
            }
        };
        if let (Some(note), Some(message)) = (note, &mut round.message) {
            message.push_str("; ");
            message.push_str(&note);
        }
        self.left_out = self.pace.factor() - 1;
        let round = Arc::new(round);
        self.latest = Some(Arc::clone(&round));
        round
    }
}

impl Runner {
    fn new(check: Arc<Check>, shared: Arc<Shared>) -> Self {
        Self {
            check,
            shared,
            places: Vec::new(),
            gone: VecDeque::new(),
            names: Names::default(),
            nowhere: Reach::default(),
        }
    }

    /// One round of each address whose turn it is. What is found of one is told at once: none
    /// waits for a slower one.
    async fn ask(&mut self) {
        if let Err(failure) = self.look_up().await {
            self.has_no_address(&failure);
            return;
        }
        let (check, shared) = (&self.check, &self.shared);
        let definition = &check.definition;
        let is_asked = |address| self.places.iter().any(|place| place.address == address);
        let stays = |it: &Latest| it.address.is_none_or(is_asked);
        check.latest.write().retain(stays);
        let rounds = self.places.iter_mut().map(async |place| {
            if !place.is_due() {
                // Else it would look for ever as it did when it was asked last.
                if place.stopped {
                    place.reach.add(false);
                    place.publish(check);
                }
                return;
            }
            // Whoever is asked too often is not asked several times in a row.
            let samples = match place.pace.factor() {
                1 => definition.samples,
                _ => 1,
            };
            let turns = &shared.questions;
            let round = exchange::round(place.address, definition, samples, turns).await;
            let round = place.take(round, definition.interval);
            let series = Series {
                check: check.id,
                address: Some(place.address.ip()),
            };
            shared.rounds.count(&round);
            shared.store.put(series, &round, place.reach.register());
            place.publish(check);
        });
        join_all(rounds).await;
    }

    /// Looks the name up, where it is time, and takes what came of it. Whoever has addresses goes
    /// on with them meanwhile. Fails only where there is none.
    async fn look_up(&mut self) -> Result<(), Failure> {
        let lost = self.places.iter().all(Place::is_lost);
        if self.names.is_due(lost) {
            let Definition { server, family, .. } = self.check.definition.clone();
            let lookups = Arc::clone(&self.shared.lookups);
            let found = async move { resolve(&server, family, &lookups).await };
            self.names.under_way.spawn(found);
            self.names.begun = Some(Instant::now());
        }
        let nowhere = self.places.is_empty();
        let patience = if nowhere { PATIENCE } else { GLANCE };
        match timeout(patience, self.names.under_way.join_next()).await {
            Ok(None) => {}
            Ok(Some(Ok(found))) => self.found(found).await,
            Ok(Some(Err(error))) => {
                let why = format!("the look-up ended: {error}");
                self.found(Err(self.unresolved(why))).await;
            }
            Err(_) if nowhere => {
                let seconds = PATIENCE.as_secs();
                let why = format!("the resolver did not answer within {seconds} s");
                self.names.failure = Some(self.unresolved(why));
            }
            Err(_) => {}
        }
        if !self.places.is_empty() {
            return Ok(());
        }
        let failure = self.names.failure.clone();
        Err(failure.unwrap_or_else(|| self.unresolved("it was not looked up yet".to_owned())))
    }

    fn unresolved(&self, why: String) -> Failure {
        Failure::Unresolved {
            name: self.check.definition.server.host().to_owned(),
            why,
        }
    }

    /// Takes what came of looking the name up.
    async fn found(&mut self, found: Result<Resolved, Failure>) {
        let name = &self.check.name;
        match found {
            Ok(Resolved {
                addresses,
                left_out,
            }) => {
                if left_out > 0 && self.places.is_empty() {
                    tracing::warn!(
                        "check '{name}': {left_out} addresses beyond the first {MOST_ADDRESSES} \
                         are not asked"
                    );
                }
                self.names.failed = 0;
                self.names.failure = None;
                self.go_on_with(addresses).await;
            }
            Err(failure) => {
                self.names.failed = self.names.failed.saturating_add(1);
                if !self.places.is_empty() {
                    tracing::info!(
                        "check '{name}': {failure}; its addresses from before are asked"
                    );
                }
                self.names.failure = Some(failure);
            }
        }
    }

    /// These are the addresses from now on. What those asked for that were among them before is
    /// remembered, and counts when they come back.
    async fn go_on_with(&mut self, addresses: Vec<SocketAddr>) {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.places);
        let mut places = Vec::with_capacity(addresses.len());
        for address in addresses {
            let is_it = |place: &Place| place.address == address;
            let place = if let Some(at) = known.iter().position(is_it) {
                known.swap_remove(at)
            } else if let Some(at) = self.gone.iter().position(|(place, _)| is_it(place)) {
                let back = self.gone.remove(at).map(|(place, _)| place);
                back.unwrap_or_else(|| Place::new(address))
            } else {
                let reach = self.reach_before(address.ip()).await;
                Place {
                    reach,
                    ..Place::new(address)
                }
            };
            places.push(place);
        }
        self.places = places;
        let asked = known.into_iter().filter(Place::asked_for_something);
        self.gone.extend(asked.map(|place| (place, now)));
        self.gone.retain(|(_, since)| since.elapsed() < REMEMBERED);
        let beyond = self.gone.len().saturating_sub(MOST_REMEMBERED);
        self.gone.drain(..beyond);
    }

    /// The reach of an address as it was before the daemon, or the check, began anew: else one
    /// lost answer would look like a server that is gone.
    async fn reach_before(&self, address: IpAddr) -> Reach {
        let series = Series {
            check: self.check.id,
            address: Some(address),
        };
        let (store, now) = (self.shared.store.clone(), clock::utc());
        let age = (self.check.definition.interval * RECENT).as_nanos();
        let since = now.saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
        let read = move || store.rounds(series, Some(since), Some(now), REGISTER.into());
        let mut reach = Reach::default();
        // It is not closed.
        let _turn = self.shared.reads.acquire().await;
        match spawn_blocking(read).await {
            Ok(Ok(rounds)) => {
                for (round, _) in rounds.iter().rev() {
                    reach.add(round.time.is_some());
                }
            }
            Ok(Err(error)) => tracing::debug!("reading how {address} was before: {error}"),
            Err(error) => tracing::debug!("reading how {address} was before: {error}"),
        }
        reach
    }

    fn has_no_address(&mut self, failure: &Failure) {
        let round = Arc::new(Round::failed(failure, clock::utc()));
        self.nowhere.add(false);
        let series = Series {
            check: self.check.id,
            address: None,
        };
        let reach = self.nowhere.register();
        self.shared.rounds.count(&round);
        self.shared.store.put(series, &round, reach);
        let latest = self.check.found(None, round, self.nowhere);
        *self.check.latest.write() = vec![latest];
    }

    /// As if nothing had been said.
    fn take_up_again(&mut self) {
        for place in &mut self.places {
            place.stopped = false;
            place.pace = Pace::default();
            place.left_out = 0;
        }
        self.gone.clear();
        self.names.begun = None;
        self.names.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        check::{CheckId, Checks, Status, resolve, store::Retention},
        history::{History, Settings},
    };

    fn runner(folder: &tempfile::TempDir, server: &str) -> Runner {
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let checks = Checks::open(history, Handle::current(), Vec::new(), Retention::default());
        let mut definition = Definition::of(server.parse().unwrap());
        definition.samples = 1;
        let (check, shared) = checks.held(definition);
        Runner::new(check, shared)
    }

    fn statuses(runner: &Runner) -> Vec<(Option<IpAddr>, Status)> {
        let latest = runner.check.latest.read();
        let each = latest
            .iter()
            .map(|it| (it.address.map(|it| it.ip()), it.round.status));
        each.collect()
    }

    fn counted(runner: &Runner) -> Vec<(Status, u64)> {
        let counted = runner.shared.rounds.by_status();
        counted.filter(|(_, count)| *count > 0).collect()
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_does_not_stop_known_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let mut runner = runner(&folder, "localhost:1");
        runner.check = Arc::new({
            let mut check = Arc::into_inner(runner.check).unwrap();
            check.definition.family = crate::check::Family::Ipv4;
            check
        });
        runner.ask().await;
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(statuses(&runner), [(local, Status::Refused)]);
        let before = runner.check.latest.read()[0].round.at;

        let lookups = Arc::clone(&runner.shared.lookups);
        let _hangs = lookups.acquire_many(resolve::AT_ONCE as u32).await.unwrap();
        runner.names.begun = None;
        let begun = Instant::now();
        runner.ask().await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(statuses(&runner), [(local, Status::Refused)]);
        assert!(runner.check.latest.read()[0].round.at > before);
        assert!(!runner.names.under_way.is_empty());
        assert_eq!(counted(&runner), [(Status::Refused, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_address_waits_for_a_resolver_only_so_long() {
        let folder = tempfile::tempdir().unwrap();
        let mut runner = runner(&folder, "ntp.example");
        let lookups = Arc::clone(&runner.shared.lookups);
        let _hangs = lookups.acquire_many(resolve::AT_ONCE as u32).await.unwrap();
        let begun = Instant::now();
        runner.ask().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(statuses(&runner), [(None, Status::Unresolved)]);
        let message = runner.check.latest.read()[0].round.message.clone();
        assert_eq!(
            message.as_deref(),
            Some("ntp.example has no address: the resolver did not answer within 5 s")
        );
        assert_eq!(counted(&runner), [(Status::Unresolved, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_fails_is_looked_up_seldomer_and_seldomer() {
        let mut names = Names::default();
        assert!(names.is_due(true));
        names.begun = Some(Instant::now());
        let pauses = (0..8).map(|failed| {
            names.failed = failed;
            names.pause(true).as_secs()
        });
        assert_eq!(
            pauses.collect::<Vec<_>>(),
            [60, 60, 120, 240, 480, 960, 960, 960]
        );
        names.failed = 1;
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!names.is_due(true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(names.is_due(true));
        names.under_way.spawn(std::future::pending());
        assert!(!names.is_due(true));
    }

    #[tokio::test]
    async fn an_address_that_comes_back_is_as_it_asked_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let mut runner = runner(&folder, "ntp.example");
        let all: Vec<SocketAddr> = (1..=3).map(|it| ([192, 0, 2, it], 123).into()).collect();
        runner.go_on_with(all.clone()).await;
        let interval = Duration::from_secs(64);
        runner.places[0].take(kiss(b"DENY"), interval);
        runner.places[1].take(kiss(b"RATE"), interval);
        runner.go_on_with(vec![([192, 0, 2, 9], 123).into()]).await;
        assert_eq!((runner.places.len(), runner.gone.len()), (1, 2));
        runner.go_on_with(all).await;
        assert!(runner.gone.is_empty());
        let asked = runner.places.iter();
        let asked: Vec<_> = asked.map(|it| (it.stopped, it.pace.factor())).collect();
        assert_eq!(asked, [(true, 1), (false, 2), (false, 1)]);
        // And only so many are remembered.
        for number in 0..600_u16 {
            let [high, low] = number.to_be_bytes();
            let address = ([198, 18, high, low], 123).into();
            runner.go_on_with(vec![address]).await;
            runner.places[0].take(kiss(b"DENY"), interval);
        }
        assert_eq!(runner.gone.len(), MOST_REMEMBERED);
    }

    #[tokio::test]
    async fn reach_goes_on_where_it_was_before_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut runner = runner(&folder, "192.0.2.1");
        let address = IpAddr::from([192, 0, 2, 1]);
        let series = Series {
            check: CheckId::of("192.0.2.1"),
            address: Some(address),
        };
        let now = clock::utc();
        let told = |at| Round {
            time: Some(crate::check::round::Time {
                offset: 0,
                delay: 1,
                dispersion: 1,
                jitter: None,
                stamps: crate::check::answer::Stamps::User,
            }),
            ..Round::failed(&Failure::Refused, at)
        };
        let ago = |rounds: i64| now - rounds * 64_000_000_000;
        // What was long ago says nothing.
        runner.shared.store.put(series, &told(ago(99)), 1);
        assert_eq!(runner.reach_before(address).await, Reach::default());
        runner.shared.store.put(series, &told(ago(4)), 1);
        let lost = Round::failed(&Failure::Refused, ago(3));
        runner.shared.store.put(series, &lost, 2);
        runner.shared.store.put(series, &told(ago(2)), 5);
        runner.go_on_with(vec![(address, 123).into()]).await;
        let place = &mut runner.places[0];
        assert_eq!(place.reach.register(), 0b101);
        place.take(
            Round::failed(&Failure::Refused, now),
            Duration::from_secs(64),
        );
        assert_eq!(place.reach.ratio(), Some(0.5));
    }

    #[tokio::test]
    async fn what_is_told_of_a_stopped_address_fades() {
        let folder = tempfile::tempdir().unwrap();
        let mut runner = runner(&folder, "127.0.0.1:1");
        runner.ask().await;
        let place = &mut runner.places[0];
        place.take(kiss(b"DENY"), Duration::from_secs(64));
        (0..8).for_each(|_| place.reach.add(true));
        for left in [0o376, 0o374, 0o370] {
            runner.ask().await;
            let latest = runner.check.latest.read()[0].clone();
            assert!(latest.stopped && latest.time().is_none());
            assert_eq!(latest.reach.register(), left);
        }
    }

    fn kiss(code: &[u8; 4]) -> Round {
        Round {
            status: Status::KissOfDeath,
            message: Some("the server says so".to_owned()),
            kiss: Some(String::from_utf8_lossy(code).into_owned()),
            ..Round::failed(&Failure::Refused, 0)
        }
    }

    fn place() -> Place {
        Place::new("192.0.2.1:123".parse().unwrap())
    }

    #[test]
    fn rate_slows_an_address_down_and_says_how_much() {
        let mut place = place();
        let interval = Duration::from_secs(64);
        let round = place.take(kiss(b"RATE"), interval);
        let message = round.message.as_deref().unwrap();
        assert!(
            message.ends_with("so; it is asked every 128 s from now on"),
            "{message}"
        );
        let turns: Vec<bool> = (0..3).map(|_| place.is_due()).collect();
        assert_eq!(turns, [false, true, true]);
        place.take(kiss(b"RATE"), interval);
        let turns: Vec<bool> = (0..4).map(|_| place.is_due()).collect();
        assert_eq!(turns, [false, false, false, true]);
    }

    #[test]
    fn deny_stops_an_address_until_it_is_taken_up_again() {
        for code in [b"DENY", b"RSTR"] {
            let mut place = place();
            let round = place.take(kiss(code), Duration::from_secs(64));
            assert!(
                round
                    .message
                    .as_deref()
                    .unwrap()
                    .contains("until the check is resumed")
            );
            assert!(place.stopped && !place.is_due());
        }
        let mut place = place();
        place.take(kiss(b"STEP"), Duration::from_secs(64));
        assert!(place.is_due());
    }

    #[test]
    fn chance_is_between_nothing_and_one() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|it| (0.0..1.0).contains(it)));
        assert!(numbers.iter().any(|it| *it < 0.5) && numbers.iter().any(|it| *it >= 0.5));
    }
}
