//! Each quantity is what it is called: each has a value here that no other has.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use ntpmon_common::{Counters, Event, Span};

use super::*;
use crate::{
    check::store::Retention,
    history::{
        Feed, Settings,
        made::{Ask, SECOND, ask},
    },
    ntp::{
        ClientClock, Stamped,
        pair::{Outcome, Totals},
    },
    pipeline::Sink,
};

/// It is watched, and there is no such interface.
const ABSENT: &str = "ntpmon-absent";

fn status(interface: &str, lost: u64) -> control::Status {
    let mut counters = Counters::default();
    counters.0[Counter::RingFull as usize] = lost;
    control::Status {
        interface: interface.to_owned(),
        state: match interface {
            ABSENT => State::Failed("there is no such interface".to_owned()),
            _ => State::Running,
        },
        exists: interface != ABSENT,
        since: None,
        mode: None,
        options: None,
        counters,
        rings: 1,
        output: None,
        notes: Vec::new(),
    }
}

/// What there is of a quantity: its labels' values, and its own.
fn read(sources: &Sources, quantity: Quantity) -> Vec<(String, Option<f64>)> {
    let answer = sources.read(quantity);
    assert!(answer.is_known, "{quantity}");
    let readings = answer.readings.iter();
    readings
        .map(|it| {
            let labels: Vec<&str> = it.of.iter().map(|(_, value)| value.as_str()).collect();
            (labels.join(" "), it.value)
        })
        .collect()
}

fn only(sources: &Sources, quantity: Quantity, labels: &str) -> f64 {
    let all = read(sources, quantity);
    let found = all.iter().find(|(it, _)| it == labels);
    let value = found.and_then(|(_, value)| *value);
    value.unwrap_or_else(|| panic!("no {quantity} of '{labels}': {all:?}"))
}

fn control_packet(response: u8, length: u16) -> Stamped {
    let mut event = Event::EMPTY;
    event.payload_length = length;
    event.source[15] = 1 + response / 0x80;
    event.destination[15] = 2 - response / 0x80;
    event.ntp.0[..2].copy_from_slice(&[4 << 3 | 6, response | 2]);
    Stamped {
        event,
        unix: clock::utc(),
        frame: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_quantity_has_the_values_that_it_is_named_for() {
    spawn_blocking(|| {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path(), Settings::default()).unwrap();
        let checks = Checks::open(
            history.clone(),
            Handle::current(),
            Vec::new(),
            Retention::default(),
        );
        let lost = Arc::new(AtomicU64::new(3));
        let counted = Arc::clone(&lost);
        // With some seconds in hand, the last minute is the same one all the time.
        while clock::utc().rem_euclid(60 * SECOND) > 50 * SECOND {
            thread::sleep(Duration::from_millis(500));
        }
        let now = clock::utc();
        let minute = now - now.rem_euclid(60 * SECOND) - 60 * SECOND;
        // As long as it is there, the interface is watched.
        let _watched = feed(&history, minute + 5 * SECOND);
        let statuses = move |all: bool| {
            let lost = counted.load(Ordering::Relaxed);
            let mut paused = status("eth9", 0);
            paused.state = State::NotMonitoring;
            let late = all.then(|| status("eth5", 0));
            let those = [status("eth0", lost), status(ABSENT, 0), paused];
            those.into_iter().chain(late).collect::<Vec<_>>()
        };
        let begin = |statuses: Statuses, started| {
            let lag = Duration::ZERO;
            sources(folder.path(), &history, &checks, statuses, started, lag)
        };
        // Longer ago than the minute before this one.
        let started = Instant::now()
            .checked_sub(Duration::from_secs(125))
            .unwrap();
        let is_all = Arc::new(AtomicBool::new(false));
        let (given, all) = (statuses.clone(), Arc::clone(&is_all));
        let given = move || Some(given(all.load(Ordering::Relaxed)));
        let sources = begin(Box::new(given), started);
        near_total(&sources);
        read(&sources, Quantity::RingLoss);
        is_all.store(true, Ordering::Relaxed);
        thread::sleep(ONE_LOOK + Duration::from_millis(50));
        let near = |value: f64, expected: f64| {
            assert!((value / expected - 1.0).abs() < 0.07, "{value}, {expected}");
        };
        // Sixteen exchanges, of which one is a kiss and five have no answer.
        near(
            only(&sources, Quantity::UnansweredRatio, "eth0"),
            5.0 / 16.0,
        );
        near(only(&sources, Quantity::TurnaroundP99, "eth0"), 7e-3);
        near(only(&sources, Quantity::RequestRate, "eth0"), 0.5);
        near(only(&sources, Quantity::KissOfDeath, "eth0"), 1.0 / 60.0);
        for quantity in [Quantity::RequestRate, Quantity::KissOfDeath] {
            // One was watched for a part of that minute only, one is not.
            let all = read(&sources, quantity);
            assert_eq!(all.len(), 2, "{all:?}");
            assert!(all.contains(&(ABSENT.to_owned(), None)), "{all:?}");
        }
        assert_eq!(
            read(&sources, Quantity::TotalRequestRate),
            [(String::new(), None)]
        );
        near(only(&sources, Quantity::Amplification, ""), 40.0);
        near(
            only(&sources, Quantity::ClientClockError, "eth0 0.0.0.9"),
            7e-3,
        );
        // Each ten seconds, and less the longer it asks no more.
        let rate = only(&sources, Quantity::ClientRequestRate, "eth0 0.0.0.1");
        assert!((0.005..=0.1).contains(&rate), "{rate}");
        near(
            only(&sources, Quantity::ServerOffset, "eth0 10.0.0.7"),
            -0.03,
        );
        near(only(&sources, Quantity::ServerReach, "eth0 10.0.0.7"), 0.8);
        assert_eq!(only(&sources, Quantity::InterfaceDown, ABSENT), 1.0);
        assert_eq!(only(&sources, Quantity::InterfaceDown, "eth0"), 0.0);
        let path = folder.path().display().to_string();
        assert!((0.0..1.0).contains(&only(&sources, Quantity::DiskFree, &path)));
        // Of what is counted it is what came since it was looked at first.
        read(&sources, Quantity::StoreLoss);
        lost.fetch_add(11, Ordering::Relaxed);
        thread::sleep(ONE_LOOK + Duration::from_millis(50));
        assert_eq!(only(&sources, Quantity::RingLoss, "eth0"), 11.0);
        assert_eq!(
            only(&sources, Quantity::StoreLoss, "changes_without_room"),
            0.0
        );

        // Nothing is told of a minute in which the daemon was started.
        let young = begin(Box::new(move || Some(statuses(true))), Instant::now());
        assert!(!young.read(Quantity::RequestRate).is_known);
        assert!(!young.read(Quantity::TotalRequestRate).is_known);
    })
    .await
    .unwrap();
}

/// An interface that is not there holds nothing back.
fn near_total(sources: &Sources) {
    let total = only(sources, Quantity::TotalRequestRate, "");
    assert!((total - 0.5).abs() < 1e-9, "{total}");
}

fn feed(history: &History, at: i64) -> Feed {
    let mut feed = history.feed("eth0");
    let honest = Ask {
        clock: ClientClock::Honest,
        took: 7_000_000,
        ..ask(9, at)
    };
    let kiss = Ask {
        stratum: 0,
        ..ask(8, at)
    };
    let again = ask(1, at + 10 * SECOND);
    let silent = (2..6).map(|client| ask(client, at).unanswered());
    let all = [honest, kiss, ask(1, at), again].into_iter().chain(silent);
    for ask in all.chain((20..23).map(|client| ask(client, at))) {
        feed.exchange(&ask.exchange());
    }
    // This host's own, which are exchanges as well.
    for (number, answered) in [true, false, true, true, true].into_iter().enumerate() {
        let asked = ask(77, at + number as i64 * SECOND).server(7);
        let asked = if answered { asked } else { asked.unanswered() };
        let mut exchange = asked.exchange();
        exchange.role = Some(Role::Client);
        exchange.is_local_server = false;
        if answered {
            exchange.timings.offset = Some(Span(-(1 << 32) * 3 / 100));
            exchange.timings.delay = Some(Span(1 << 22));
        }
        feed.exchange(&exchange);
    }
    feed.other(&Outcome::Control(&control_packet(0, 12)));
    feed.other(&Outcome::Control(&control_packet(0x80, 480)));
    let totals = Totals {
        requests: 30,
        ..Totals::default()
    };
    feed.publish(&totals, at);
    history.flush().unwrap();
    feed
}
