//! What is said of all clients, of clients that are made up.

use tempfile::TempDir;

use super::*;
use crate::{
    history::{
        Settings,
        made::{address, ask},
    },
    ntp::{ClientError, First},
    pipeline::Sink,
};

/// A history with clients whose errors in milliseconds are these.
fn history(directory: &TempDir, errors: &[i64], now: i64) -> History {
    let history = History::open(directory.path(), Settings::default()).unwrap();
    let mut feed = history.feed("eth0");
    for (client, error) in errors.iter().enumerate() {
        for (at, answered) in [(now - 20 * SECOND, true), (now - 10 * SECOND, client != 2)] {
            let mut asked = ask(client as u32, at);
            asked.answered = answered;
            asked.clock = ClientClock::Honest;
            let mut exchange = asked.exchange();
            let error = ClientError::at_least(error * 1_000_000, First::default());
            exchange.client_error = Some(error);
            feed.exchange(&exchange);
        }
    }
    feed.exchange(&ask(1000, now).exchange());
    history.flush().unwrap();
    history
}

#[test]
fn clocks_are_counted_by_how_wrong_they_are_and_the_worst_come_first_whatever_their_sign() {
    let directory = TempDir::new().unwrap();
    let history = history(
        &directory,
        &[0, 1, -5, 30, -70, 400, -950_400_000],
        clock::utc(),
    );
    let clocks = history.client_clocks(None, None, 2).unwrap();
    let counts: Vec<_> = clocks.client_clocks.into_iter().collect();
    let counts: Vec<_> = counts
        .iter()
        .map(|(name, it)| (name.as_str(), *it))
        .collect();
    assert_eq!(counts, [("honest", 7), ("randomised", 0), ("unknown", 1)]);
    let classes = clocks.client_clock_error_classes;
    let classes: Vec<_> = classes
        .iter()
        .map(|(name, it)| (name.as_str(), *it))
        .collect();
    assert_eq!(
        classes,
        [
            ("0.001", 2),
            ("0.01", 1),
            ("0.05", 1),
            ("0.1", 1),
            ("1", 1),
            ("more", 1)
        ]
    );
    assert_eq!((clocks.ahead, clocks.behind), (3, 4));
    let worst: Vec<_> = clocks
        .worst
        .iter()
        .map(|it| it.client_clock_error_seconds)
        .collect();
    assert_eq!(worst, [Some(-950_400.0), Some(0.4)]);
    assert_eq!(
        history.client_figures().worst_error_seconds,
        Some(-950_400.0)
    );
    assert!(
        history
            .client_clocks(Some(vec![7]), None, 9)
            .unwrap()
            .worst
            .is_empty()
    );
    // All but the last were seen ten seconds ago.
    assert!(
        history
            .client_clocks(None, Some(5), 9)
            .unwrap()
            .worst
            .is_empty()
    );
    history.stop();
}

#[test]
fn a_clock_that_was_seen_hours_ago_is_listed_and_alarms_nobody() {
    let directory = TempDir::new().unwrap();
    let before = clock::utc() - 2 * CURRENT * SECOND;
    let history = history(&directory, &[5000], before);
    assert_eq!(history.client_figures().worst_error_seconds, None);
    assert_eq!(history.client_clocks(None, None, 9).unwrap().worst.len(), 1);
    // Nor does it ask as often as it did.
    let rate = history.client_figures().busiest_rate_per_second.unwrap();
    assert!(rate < 0.001, "{rate}");
    history.stop();
}

#[test]
fn clients_above_a_limit_are_all_counted_and_the_busiest_are_named_with_what_they_were_served() {
    let directory = TempDir::new().unwrap();
    let history = history(&directory, &[0; 150], clock::utc());
    let busy = history.busiest(None, 0.05, 3).unwrap();
    assert_eq!((busy.clients_above, busy.clients.len()), (150, 3));
    let one = &busy.clients[0];
    assert_eq!((one.session_count, one.served + one.unanswered), (2, 2));
    assert!((one.request_rate_per_second - 0.1).abs() < 0.001);
    let busy = history.busiest(None, 0.2, 3).unwrap();
    assert_eq!((busy.clients_above, busy.clients.len()), (0, 0));
    let all = history.busiest(None, 0.0, NAMED).unwrap();
    let missed = all.clients.iter().filter(|it| it.unanswered == 1);
    assert!(missed.count() <= 1 && all.clients.len() == NAMED);
    history.stop();
}

#[test]
fn what_passed_in_modes_6_and_7_is_known_after_a_restart_and_stands_in_the_rollups() {
    use crate::ntp::{Stamped, pair::Outcome};
    let directory = TempDir::new().unwrap();
    let stamped = |mode: u8, first: u8, source: u32, destination: u32, bytes: u16| {
        let mut event = ntpmon_common::Event::EMPTY;
        event.source = address(source);
        event.destination = address(destination);
        event.payload_length = bytes;
        event.ntp.0[0] = first | 2 << 3 | mode;
        event.ntp.0[3] = 42;
        Stamped {
            event,
            unix: clock::utc(),
            frame: 0,
        }
    };
    let told = |history: &History| {
        let report = history.abuse(None, 10);
        let one = &report.clients[0];
        (
            report.client_count,
            report.total.all.amplification,
            (one.client_ip.clone(), one.interface_name.clone()),
            (one.traffic.private.bytes_in, one.traffic.private.bytes_out),
            report.total.monlist_requests,
        )
    };
    let history = History::open(directory.path(), Settings::default()).unwrap();
    let mut feed = history.feed("eth0");
    feed.other(&Outcome::Private(&stamped(7, 0, 1, 9, 8)));
    for _ in 0..10 {
        feed.other(&Outcome::Private(&stamped(7, 0x80, 9, 1, 440)));
    }
    feed.other(&Outcome::Control(&stamped(6, 0, 2, 9, 12)));
    feed.publish(&crate::ntp::pair::Totals::default(), clock::utc());
    let before = told(&history);
    assert_eq!(before.1, Some(4400.0 / 20.0));
    assert_eq!((before.2.0.as_str(), before.3), ("0.0.0.1", (8, 4400)));
    assert_eq!(history.client_figures().amplification, Some(220.0));
    drop(feed);
    history.stop();
    let history = History::open(directory.path(), Settings::default()).unwrap();
    assert_eq!(told(&history), before);
    let AbuseView {
        control,
        private,
        monlist_requests,
        ..
    } = history.client_figures().abuse;
    assert_eq!(
        [control, private].map(|it| [it.packets_in, it.packets_out, it.bytes_in, it.bytes_out]),
        [[1, 0, 12, 0], [1, 10, 8, 4400]]
    );
    assert_eq!(monlist_requests, 1);
    let statistics = history.interface_statistics().unwrap();
    let counts = &statistics[0].activity.counts;
    let count = |name: &str| counts[name];
    assert_eq!(
        (count("private_bytes_in"), count("private_bytes_out")),
        (8, 4400)
    );
    assert_eq!(
        (count("control_bytes_in"), count("monlist_requests")),
        (12, 1)
    );
    history.stop();
}
