//! The whole history: what is fed comes out, once, whatever is flushed, merged, refused, removed
//! and opened again in between.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ntpmon_common::Span;
use tempfile::TempDir;

use super::{
    DAY, FILE, Feed, History, Retention, Settings, Verified,
    catalogue::{Filter, Sort},
    key::Key,
    made::{Ask, BEGIN, SECOND, address, ask},
    query::{ClientQuery, Part},
    rollup::Resolution,
    session::Keep,
    view::Client,
};
use crate::{
    ntp::{clock::Step, exchange::Role, pair::Totals},
    pipeline::Sink,
};

/// Nothing happens by itself, and nothing is for ever gone.
fn settings() -> Settings {
    Settings {
        flush_interval: Duration::from_secs(3600),
        checkpoint_interval: Duration::from_secs(3600),
        cache_bytes: 4 << 20,
        sessions_per_second: 100,
        sessions_age: None,
        retention: Retention {
            clients: None,
            servers: None,
            minutes: None,
            hours: None,
            days: None,
        },
        ..Settings::default()
    }
}

fn ip(client: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(client))
}

fn give(feed: &mut Feed, asks: impl IntoIterator<Item = Ask>) {
    asks.into_iter()
        .for_each(|ask| feed.exchange(&ask.exchange()));
}

fn verified(history: &History) -> Verified {
    history.flush().unwrap();
    history.verify().unwrap()
}

/// What was fed to an interface is all there.
fn assert_exactly(history: &History, interface: &str, exchanges: u64, unanswered: u64) {
    let verified = verified(history);
    let found = verified.interface(interface).unwrap();
    assert_eq!((found.exchanges, found.unanswered), (exchanges, unanswered));
    for resolved in [found.in_minutes, found.in_hours, found.in_days] {
        assert_eq!(resolved, exchanges);
    }
}

fn count(history: &History, client: u32) -> u64 {
    let found = history.client(ip(client), 0).unwrap();
    found.map_or(0, |it| {
        it.interfaces.iter().map(|on| on.session_count).sum()
    })
}

/// All clients, as lists show them.
fn list(history: &History) -> Vec<Client> {
    let mut all = Vec::new();
    let take = |part| {
        all.extend(part);
        true
    };
    history
        .each_client(&Filter::default(), u64::MAX, take)
        .unwrap();
    all
}

fn text(clients: &[Client]) -> Vec<String> {
    clients
        .iter()
        .map(|client| serde_json::to_string(client).unwrap())
        .collect()
}

/// How many samples of a server's clock a ring has.
fn samples(feed: &Feed, server: &[u8; 16]) -> usize {
    let servers = feed.servers.lock();
    servers.get(server).unwrap().window().samples().count()
}

#[test]
fn a_step_of_this_hosts_clock_is_found_and_every_ring_learns_anew_and_sleep_is_none() {
    const HOUR: i64 = 3600 * SECOND;
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feeds = [history.feed("eth0"), history.feed("eth1")];
    let exchange = |at| {
        let mut exchange = ask(1, at).exchange();
        exchange.role = Some(Role::Client);
        exchange.timings.offset = Some(Span(1 << 20));
        exchange.timings.delay = Some(Span(1 << 20));
        exchange
    };
    let server = exchange(BEGIN).request.event.destination;
    let mut step = |nanoseconds, slept, at: i64| {
        for feed in &mut feeds {
            feed.exchange(&exchange(at));
            assert_eq!(samples(feed, &server), 1);
        }
        feeds[0].clock_stepped(Step { nanoseconds, slept }, at + SECOND);
        // How far it is by the clock as it was says nothing any more.
        feeds.each_ref().map(|feed| samples(feed, &server))
    };
    let found = || history.findings_since(0);
    // Waking up is nobody's step; what was measured before says nothing all the same.
    assert_eq!(step(HOUR + SECOND / 2, HOUR, BEGIN), [0, 0]);
    assert_eq!(found().len(), 0);
    assert_eq!(step(-SECOND / 4, 0, BEGIN + 60 * SECOND), [0, 0]);
    assert_eq!(step(HOUR + 3 * SECOND, HOUR, BEGIN + 120 * SECOND), [0, 0]);
    let steps: Vec<_> = found()
        .iter()
        .map(|it| {
            assert_eq!((it.kind.as_str(), it.count), ("local_clock_stepped", 1));
            assert_eq!(
                (&it.server_ip, &it.client_ip, &it.interface_name),
                (&None, &None, &None)
            );
            let change = it.evidence["change_seconds"].as_f64().unwrap();
            (change, it.timestamp.as_nanosecond() as i64)
        })
        .collect();
    assert_eq!(
        steps,
        [(-0.25, BEGIN + 61 * SECOND), (3.0, BEGIN + 121 * SECOND)]
    );
    let message = &found()[0].message;
    assert!(message.contains("stepped by -0.250000 s"), "{message}");
    history.stop();
}

#[test]
fn a_copy_of_the_file_has_the_same_clients_at_every_point() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    let mut fed = 0;
    for round in 0..12_u32 {
        let at = BEGIN + i64::from(round) * 64 * SECOND;
        // Some again, some new, some out of the middle.
        let clients = (0..40).chain(round * 31..round * 31 + 90);
        let asks: Vec<Ask> = clients
            .map(|client| ask(client, at + i64::from(client)))
            .map(|ask| match ask.client % 5 {
                0 => ask.unanswered(),
                _ => ask,
            })
            .collect();
        fed += asks.len() as u64;
        give(&mut feed, asks);
        if round % 4 == 3 {
            history.checkpoint().unwrap();
        }
        let here = verified(&history);
        assert_eq!(here.exchanges(), fed);
        let copy = TempDir::new().unwrap();
        fs::copy(directory.path().join(FILE), copy.path().join(FILE)).unwrap();
        let other = History::open(copy.path(), settings()).unwrap();
        assert_eq!(other.verify().unwrap(), here);
        assert_eq!(text(&list(&other)), text(&list(&history)));
        assert!(other.health().problems.is_empty(), "{:?}", other.health());
        other.stop();
    }
    drop(feed);
    history.stop();
    let history = History::open(directory.path(), settings()).unwrap();
    assert_eq!(history.verify().unwrap().exchanges(), fed);
    history.stop();
}

#[test]
fn who_reads_beside_the_writer_never_sees_a_client_lose_or_double_sessions() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    let done = AtomicBool::new(false);
    let mut fed = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2_u32)
            .map(|client| {
                let (history, done) = (&history, &done);
                scope.spawn(move || {
                    let (mut last, mut looks) = (0, 0_u64);
                    while !done.load(Ordering::Acquire) {
                        let found = count(history, client);
                        // Each flush brings two.
                        assert!(found >= last && found <= last + 200, "{found} after {last}");
                        assert!(found.is_multiple_of(2), "{found}");
                        last = found;
                        looks += 1;
                    }
                    looks
                })
            })
            .collect();
        for round in 0..80_u32 {
            let at = BEGIN + i64::from(round) * SECOND;
            // Enough that runs are put into the blocks in parts, and others come meanwhile.
            let others = if round % 4 == 0 { 1500 } else { 300 };
            give(&mut feed, (0..others).map(|client| ask(client, at)));
            give(&mut feed, (0..2).map(|client| ask(client, at + 1)));
            fed += u64::from(others) + 2;
            if round % 10 == 9 {
                history.checkpoint().unwrap();
            } else {
                history.flush().unwrap();
            }
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 10);
        }
    });
    assert_eq!(count(&history, 0), 160);
    assert_exactly(&history, "eth0", fed, 0);
    let checkpoints = history.service_statistics().checkpoint_count;
    assert!(checkpoints > 12, "{checkpoints}: in parts too");
    history.stop();
}

#[test]
fn totals_are_exact_beyond_every_bound_and_after_every_removal() {
    let directory = TempDir::new().unwrap();
    let bounds = Settings {
        max_clients: 200,
        max_servers: 20,
        batch_size: 150,
        sessions_per_second: 1,
        flush_interval: Duration::from_secs(60),
        sessions_bytes: 40_000,
        ..settings()
    };
    let history = History::open(directory.path(), bounds.clone()).unwrap();
    let mut feeds = [
        history.feed("eth0"),
        history.feed("eth0"),
        history.feed("eth1"),
    ];
    let (mut fed, mut unanswered) = ([0; 2], [0; 2]);
    let mut random = 1_u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    for round in 0..40 {
        let at = BEGIN + round * 7 * SECOND;
        for (ring, feed) in feeds.iter_mut().enumerate() {
            let interface = ring / 2;
            for _ in 0..next() % 500 {
                let number = next();
                // A few that come again, and many that never do.
                let client = if number.is_multiple_of(3) {
                    number % 64
                } else {
                    number
                };
                let mut made = ask(client, at + i64::from(number)).server((next() % 60) as u8);
                if number.is_multiple_of(4) {
                    made = made.unanswered();
                    unanswered[interface] += 1;
                }
                fed[interface] += 1;
                give(feed, [made]);
            }
        }
        match round % 5 {
            0 => history.checkpoint().unwrap(),
            1 => drop(history.clean_up(at - 30 * SECOND, true).unwrap()),
            2 => drop(history.clean_up(at - 60 * SECOND, false).unwrap()),
            _ => history.flush().unwrap(),
        }
        let verified = verified(&history);
        assert!(verified.clients <= 200, "{verified:?}");
        assert!(verified.servers <= 20, "{verified:?}");
        assert!(verified.sessions <= 60 * 40, "{verified:?}");
        for (interface, name) in ["eth0", "eth1"].into_iter().enumerate() {
            let found = verified.interface(name).unwrap();
            let expected = (fed[interface], unanswered[interface]);
            assert_eq!((found.exchanges, found.unanswered), expected);
        }
    }
    let before = verified(&history);
    assert!(
        before
            .interfaces
            .iter()
            .all(|it| it.of_others > 0 && it.of_forgotten > 0)
    );
    let told = history.interface_statistics().unwrap();
    for (told, found) in told.iter().zip(&before.interfaces) {
        assert_eq!(told.session_count, found.exchanges);
        assert_eq!(told.client_count, found.clients);
        assert_eq!(told.other_sessions, found.of_others);
        assert_eq!(told.forgotten_sessions, found.of_forgotten);
    }
    history.stop();
    let history = History::open(directory.path(), bounds).unwrap();
    assert_eq!(history.verify().unwrap(), before);
    history.stop();
}

#[test]
fn what_is_too_old_goes_and_the_totals_stay() {
    let directory = TempDir::new().unwrap();
    let kept = Settings {
        flush_interval: Duration::from_millis(50),
        sessions_per_second: 10_000,
        sessions_age: Some(Duration::from_secs(3600)),
        retention: Retention {
            clients: Some(DAY),
            servers: Some(DAY),
            minutes: Some(Duration::from_secs(7200)),
            hours: Some(2 * DAY),
            days: Some(30 * DAY),
        },
        ..settings()
    };
    let history = History::open(directory.path(), kept).unwrap();
    let mut feed = history.feed("eth0");
    for day in 0..10_u32 {
        let at = BEGIN + i64::from(day) * 86_400 * SECOND;
        give(
            &mut feed,
            (0..50).map(|client| ask(client + 50 * day, at).server(day as u8)),
        );
        history.flush().unwrap();
    }
    let end = Instant::now() + Duration::from_secs(20);
    let found = loop {
        let found = verified(&history);
        let of = found.interface("eth0").unwrap();
        assert_eq!(of.exchanges, 500);
        assert_eq!(of.in_days, 500);
        if of.clients == 100 && of.in_minutes == 50 && of.in_hours == 150 && found.servers == 2 {
            break found;
        }
        assert!(Instant::now() < end, "{found:?}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(found.interface("eth0").unwrap().of_forgotten, 400);
    assert_eq!(found.sessions, 50);
    history.stop();
}

#[test]
fn a_packet_with_a_time_that_has_not_come_or_cannot_be_makes_nobody_old() {
    let directory = TempDir::new().unwrap();
    let kept = Settings {
        flush_interval: Duration::from_millis(20),
        sessions_per_second: 100_000,
        sessions_age: Some(DAY),
        retention: Retention {
            clients: Some(DAY),
            servers: Some(DAY),
            minutes: Some(DAY),
            hours: Some(DAY),
            days: Some(DAY),
        },
        ..settings()
    };
    let history = History::open(directory.path(), kept.clone()).unwrap();
    let mut feed = history.feed("eth0");
    let now = crate::ntp::clock::utc();
    give(
        &mut feed,
        [ask(1, now).server(1), ask(2, now - 3600 * SECOND).server(2)],
    );
    history.flush().unwrap();
    let odd = [now + 3650 * 86_400 * SECOND, i64::MAX, i64::MAX - 1];
    for (round, at) in odd.into_iter().enumerate() {
        // Alone, and in one record with others.
        give(&mut feed, [ask(3, at).server(3), ask(1, at), ask(1, at)]);
        history.flush().unwrap();
        thread::sleep(Duration::from_millis(200));
        let found = verified(&history);
        assert_eq!((found.clients, found.servers), (3, 3));
        assert_eq!(found.sessions, 2 + 3 * (round as u64 + 1));
        assert_exactly(&history, "eth0", found.exchanges(), 0);
        assert_eq!(list(&history).len(), 3);
    }
    history.stop();
    // And long ago: it is too old at once, and counted all the same.
    let history = History::open(directory.path(), kept).unwrap();
    let mut feed = history.feed("eth0");
    for at in [i64::MIN + 1, -1, 0] {
        give(&mut feed, [ask(4, at), ask(1, at)]);
    }
    let found = verified(&history);
    assert_eq!(found.exchanges(), 2 + 9 + 6);
    assert!(count(&history, 1) == 1 + 6 + 3);
    history.stop();
}

#[test]
fn a_flood_of_forged_sources_takes_nothing_from_those_who_come_again() {
    const REAL: u32 = 500;
    const FORGED: u32 = 10_000;
    const SECONDS: u32 = 30;
    let directory = TempDir::new().unwrap();
    let bounds = Settings {
        max_clients: 10_000,
        batch_size: 100_000,
        keep: Keep::Off,
        ..settings()
    };
    let history = History::open(directory.path(), bounds).unwrap();
    let mut feed = history.feed("eth0");
    // Spread over all addresses, some of them below and some above the forged ones.
    let real = |number: u32| number * (u32::MAX / REAL) + 1;
    let mut forged = 0_u32;
    for second in 0..=SECONDS {
        let at = BEGIN + i64::from(second) * SECOND;
        give(&mut feed, (0..REAL).map(|number| ask(real(number), at)));
        if second > 0 {
            for _ in 0..FORGED {
                forged += 1;
                let source = forged.wrapping_mul(2_654_435_761) | 1 << 12;
                give(&mut feed, [ask(source, at + 1).unanswered()]);
            }
        }
        if second % 10 == 9 {
            history.checkpoint().unwrap();
        } else {
            history.flush().unwrap();
        }
        assert!(history.0.catalogue.read().len() <= 10_000);
    }
    let lost: Vec<u32> = (0..REAL)
        .filter(|number| count(&history, real(*number)) != u64::from(SECONDS) + 1)
        .collect();
    assert!(lost.is_empty(), "{} are not whole: {lost:?}", lost.len());
    let exchanges = u64::from(REAL * (SECONDS + 1) + FORGED * SECONDS);
    assert_exactly(&history, "eth0", exchanges, u64::from(FORGED * SECONDS));
    let size = fs::metadata(directory.path().join(FILE)).unwrap().len();
    assert!(size < 64 << 20, "{size} bytes");
    history.stop();
}

#[test]
fn who_begins_amid_a_flood_is_let_in_when_it_comes_again() {
    let directory = TempDir::new().unwrap();
    let bounds = Settings {
        max_clients: 2000,
        keep: Keep::Off,
        ..settings()
    };
    let history = History::open(directory.path(), bounds).unwrap();
    let mut feed = history.feed("eth0");
    for second in 0..10_u32 {
        let at = BEGIN + i64::from(second) * SECOND;
        let forged = 1_000_000 + second * 3000..1_003_000 + second * 3000;
        give(&mut feed, forged.map(|source| ask(source, at)));
        if second >= 3 {
            give(&mut feed, (0..100).map(|client| ask(client, at)));
        }
        history.flush().unwrap();
    }
    // The first request of each was counted without a name.
    assert!((0..100).all(|client| (6..=7).contains(&count(&history, client))));
    assert_exactly(&history, "eth0", 30_700, 0);
    history.stop();
}

#[test]
fn two_rings_of_an_interface_add_up_and_what_a_ring_leaves_behind_is_not_lost() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let (mut one, mut other) = (history.feed("eth0"), history.feed("eth0"));
    for round in 0..5 {
        let at = BEGIN + round * SECOND;
        give(&mut one, (0..100).map(|client| ask(client, at)));
        give(
            &mut other,
            (50..150).map(|client| ask(client, at + 1).unanswered()),
        );
        history.flush().unwrap();
    }
    assert_eq!(
        [
            count(&history, 0),
            count(&history, 75),
            count(&history, 149)
        ],
        [5, 10, 5]
    );
    give(&mut one, [ask(75, BEGIN + 9 * SECOND)]);
    drop((one, other));
    history.flush().unwrap();
    assert_eq!(count(&history, 75), 11);
    let verified = history.verify().unwrap();
    let found = verified.interface("eth0").unwrap();
    assert_eq!((found.exchanges, found.unanswered), (1001, 500));
    // All sessions of a client are one chain, whichever ring saw them.
    let detail = history.client(ip(75), 100).unwrap().unwrap();
    assert_eq!(detail.recent_sessions.len(), 11);
    history.stop();
}

#[test]
fn feeds_that_have_ended_are_forgotten_and_many_may_flush_at_once() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let history = &history;
            scope.spawn(move || {
                for round in 0..60_u32 {
                    let mut feed = history.feed(&format!("eth{}", round % 3));
                    let at = BEGIN + i64::from(round) * SECOND;
                    give(&mut feed, (0..5).map(|client| ask(thread * 3 + client, at)));
                    if round % 2 == 0 {
                        history.flush().unwrap();
                    }
                    feed.publish(&Totals::default(), at);
                }
            });
        }
    });
    assert_eq!(verified(&history).exchanges(), 4 * 60 * 5);
    history.flush().unwrap();
    assert!(history.0.feeds.lock().is_empty());
    let mut last = history.feed("eth0");
    give(&mut last, [ask(1, BEGIN)]);
    history.set_document("watched", b"eth0".to_vec());
    history.stop();
    // What comes after the end goes nowhere, and harms nobody.
    give(&mut last, [ask(1, BEGIN)]);
    last.publish(&Totals::default(), BEGIN);
    assert!(history.flush().is_err() && !history.is_alive());
    assert_eq!(history.health().status, "degraded");
    history.stop();
    let history = History::open(directory.path(), settings()).unwrap();
    assert_eq!(history.verify().unwrap().exchanges(), 4 * 60 * 5 + 1);
    assert_eq!(history.document("watched").as_deref(), Some(&b"eth0"[..]));
    history.stop();
}

/// The addresses of each page of a list, by cursors.
fn pages(
    history: &History,
    sort: Sort,
    descending: bool,
    mut between: impl FnMut(),
) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = None;
    for _ in 0..100 {
        let query = ClientQuery {
            filter: Filter::default(),
            sort,
            descending,
            part: Part::After(cursor),
            size: 1000,
        };
        let page = history.clients(&query).unwrap();
        all.extend(page.clients.into_iter().map(|it| it.client_ip));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
        between();
    }
    panic!("a list of {} does not end", all.len());
}

#[test]
fn a_list_that_is_read_by_cursors_ends_and_has_each_client_while_they_ask_on() {
    const CLIENTS: u32 = 30_000;
    let directory = TempDir::new().unwrap();
    let bounds = Settings {
        keep: Keep::Off,
        ..settings()
    };
    let history = History::open(directory.path(), bounds).unwrap();
    let mut feed = history.feed("eth0");
    give(
        &mut feed,
        (0..CLIENTS).map(|client| ask(client, BEGIN + i64::from(client))),
    );
    history.flush().unwrap();
    for descending in [false, true] {
        let mut at = BEGIN + SECOND;
        let mut found = pages(&history, Sort::LastSeen, descending, || {
            at += SECOND;
            // Those where pages end.
            give(
                &mut feed,
                (0..CLIENTS).step_by(250).flat_map(|client| {
                    let last = client + u32::from(!descending) * 249;
                    [ask(client, at), ask(last, at)]
                }),
            );
            history.flush().unwrap();
        });
        found.sort_unstable();
        let count = found.len();
        found.dedup();
        // An order lives for some seconds; then those that asked meanwhile are elsewhere in it.
        assert!(
            found.len() as u32 >= CLIENTS - CLIENTS / 50,
            "{} of {count}",
            found.len()
        );
        assert!(count as u32 <= CLIENTS + CLIENTS / 20, "{count}");
    }
    history.stop();
}

#[test]
fn a_list_that_is_read_by_cursors_misses_nobody_who_stays_while_others_go() {
    const CLIENTS: u32 = 30_000;
    let directory = TempDir::new().unwrap();
    let bounds = Settings {
        keep: Keep::Off,
        ..settings()
    };
    for sort in [Sort::ClientIp, Sort::SessionCount] {
        for descending in [false, true] {
            let file = TempDir::new_in(directory.path()).unwrap();
            let history = History::open(file.path(), bounds.clone()).unwrap();
            let mut feed = history.feed("eth0");
            // One in three is older than the others, and goes, some after each page.
            let old = |client: u32| client.is_multiple_of(3);
            let at = |client: u32| BEGIN + i64::from(client / 3000) * SECOND;
            let later = BEGIN + 1000 * SECOND;
            give(
                &mut feed,
                (0..CLIENTS).map(|client| match old(client) {
                    true => ask(client, at(client)),
                    false => ask(client, later),
                }),
            );
            history.flush().unwrap();
            let mut seconds = 0;
            let mut found = pages(&history, sort, descending, || {
                seconds += 1;
                history.clean_up(BEGIN + seconds * SECOND, false).unwrap();
                // Others come into their rows.
                let new = 100_000 + seconds as u32 * 100;
                give(&mut feed, (new..new + 100).map(|client| ask(client, later)));
                history.flush().unwrap();
            });
            found.sort_unstable();
            let missed = (0..CLIENTS)
                .filter(|client| !old(*client))
                .filter(|client| found.binary_search(&ip(*client).to_string()).is_err());
            assert_eq!(missed.count(), 0, "{sort:?} {descending}");
            let count = found.len();
            found.dedup();
            assert_eq!(found.len(), count, "{sort:?} {descending}");
            history.stop();
        }
    }
}

#[test]
fn a_rollup_of_a_minute_is_added_to_and_the_newest_come_first() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    for second in 0..300 {
        give(&mut feed, [ask(1, BEGIN + second * SECOND)]);
        if second % 7 == 0 {
            history.flush().unwrap();
        }
    }
    history.flush().unwrap();
    let all = i64::MIN..=i64::MAX;
    let minutes = history.rollups(None, Resolution::Minute, all, 3).unwrap();
    assert_eq!(minutes.len(), 3);
    assert!(
        minutes
            .iter()
            .all(|it| it.activity.counts["exchanges"] == 60)
    );
    assert_exactly(&history, "eth0", 300, 0);
    history.stop();
}

#[test]
fn a_file_of_a_newer_layout_is_refused_and_not_touched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    History::open(directory.path(), settings()).unwrap().stop();
    super::store::pretend_layout(&path, 77);
    let before = fs::read(&path).unwrap();
    let error = History::open(directory.path(), settings())
        .map(|_| ())
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("layout 77") && error.contains("newer"),
        "{error}"
    );
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert_eq!(names(directory.path()), [FILE]);
    assert!(fs::read(&path).unwrap() == before);
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_last_session_of_a_client_that_was_forgotten_is_not_that_of_its_next_life() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    give(&mut feed, [ask(1, BEGIN), ask(2, BEGIN)]);
    history.flush().unwrap();
    // Its sessions stay where newer ones of others do not: only the client goes.
    give(&mut feed, [ask(2, BEGIN + 100 * SECOND)]);
    assert_eq!(history.clean_up(BEGIN + SECOND, false).unwrap().clients, 1);
    assert_eq!(count(&history, 1), 0);
    give(&mut feed, [ask(1, BEGIN + 200 * SECOND)]);
    assert_exactly(&history, "eth0", 4, 0);
    let detail = history.client(ip(1), 10).unwrap().unwrap();
    assert_eq!(detail.recent_sessions.len(), 1);
    assert!(
        history
            .0
            .catalogue
            .read()
            .contains(&Key::new(address(1), 0))
    );
    history.stop();
}
