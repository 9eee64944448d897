//! One check, for ever: looks its name up every now and then, asks each of its addresses, and puts
//! down what came of it. What a server asks for is honoured: RATE slows it down, DENY and RSTR stop
//! it, for that address.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Failure, Series,
    engine::{Check, Latest, Shared, Wish},
    exchange,
    resolve::{MOST_ADDRESSES, Resolved, resolve},
    round::{Pace, Reach, Round},
};
use crate::ntp::clock;

/// A name is looked up again after this time.
const REFRESH: Duration = Duration::from_secs(1800);
/// And after this time, when none of its addresses tells the time.
const REFRESH_WHEN_LOST: Duration = Duration::from_secs(60);
/// The interval varies by so much either way, as a share.
const JITTER: f64 = 0.1;

/// A number from 0 up to, but without, 1.
pub(super) fn random() -> f64 {
    // Without randomness checks are less spread, that is all.
    let bits = getrandom::u32().unwrap_or(1 << 31);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Runs a check until it is aborted, or nobody holds it any more.
pub(super) async fn run(check: Arc<Check>, shared: Arc<Shared>, first: Duration) {
    let mut wish = check.wish.subscribe();
    let mut runner = Runner {
        check,
        shared,
        places: Vec::new(),
        looked_up: None,
        nowhere: Reach::default(),
    };
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
    looked_up: Option<Instant>,
    /// Of the name, while it has no address.
    nowhere: Reach,
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
    /// One round of each address whose turn it is.
    async fn ask(&mut self) {
        if let Err(failure) = self.look_up().await {
            self.has_no_address(&failure);
            return;
        }
        let definition = &self.check.definition;
        let rounds = self.places.iter_mut().map(async |place| {
            if !place.is_due() {
                return None;
            }
            // Whoever is asked too often is not asked several times in a row.
            let samples = match place.pace.factor() {
                1 => definition.samples,
                _ => 1,
            };
            let turns = &self.shared.questions;
            let round = exchange::round(place.address, definition, samples, turns).await;
            Some((place, round))
        });
        for (place, round) in join_all(rounds).await.into_iter().flatten() {
            let round = place.take(round, definition.interval);
            let series = Series {
                check: self.check.id,
                address: Some(place.address.ip()),
            };
            let reach = place.reach.register();
            self.shared.store.put(series, &round, reach);
        }
        self.publish();
    }

    /// Looks the name up, where it is time. Fails only where there is no address from before.
    async fn look_up(&mut self) -> Result<(), Failure> {
        let age = self.looked_up.map(|at| at.elapsed());
        let lost = self.places.iter().all(Place::is_lost);
        let due = match age {
            None => true,
            Some(age) => age >= REFRESH || (lost && age >= REFRESH_WHEN_LOST),
        };
        if !due && !self.places.is_empty() {
            return Ok(());
        }
        let definition = &self.check.definition;
        let found = resolve(&definition.server, definition.family, &self.shared.lookups).await;
        self.looked_up = Some(Instant::now());
        match found {
            Ok(Resolved {
                addresses,
                left_out,
            }) => {
                if left_out > 0 && age.is_none() {
                    tracing::warn!(
                        "check '{}': {left_out} addresses beyond the first {MOST_ADDRESSES} are \
                         not asked",
                        self.check.name
                    );
                }
                let place = |address: SocketAddr| {
                    let known = self.places.iter().find(|place| place.address == address);
                    known.cloned().unwrap_or_else(|| Place::new(address))
                };
                self.places = addresses.into_iter().map(place).collect();
                Ok(())
            }
            Err(failure) if self.places.is_empty() => Err(failure),
            Err(failure) => {
                tracing::info!(
                    "check '{}': {failure}; its addresses from before are asked",
                    self.check.name
                );
                Ok(())
            }
        }
    }

    fn has_no_address(&mut self, failure: &Failure) {
        let round = Arc::new(Round::failed(failure, clock::utc()));
        self.nowhere.add(false);
        let series = Series {
            check: self.check.id,
            address: None,
        };
        let reach = self.nowhere.register();
        self.shared.store.put(series, &round, reach);
        let latest = self.latest(None, round, self.nowhere);
        *self.check.latest.write() = vec![latest];
    }

    fn publish(&self) {
        let latest = self.places.iter().filter_map(|place| {
            let round = Arc::clone(place.latest.as_ref()?);
            let latest = self.latest(Some(place.address), round, place.reach);
            Some(Latest {
                last_success: place.last_success,
                interval: self.check.definition.interval * place.pace.factor(),
                stopped: place.stopped,
                ..latest
            })
        });
        *self.check.latest.write() = latest.collect();
    }

    fn latest(&self, address: Option<SocketAddr>, round: Arc<Round>, reach: Reach) -> Latest {
        Latest {
            check: self.check.id,
            name: Arc::clone(&self.check.name),
            server: Arc::clone(&self.check.server),
            address,
            round,
            reach,
            last_success: None,
            interval: self.check.definition.interval,
            stopped: false,
            paused: false,
        }
    }

    /// As if nothing had been said.
    fn take_up_again(&mut self) {
        for place in &mut self.places {
            place.stopped = false;
            place.pace = Pace::default();
            place.left_out = 0;
        }
        self.looked_up = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

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
