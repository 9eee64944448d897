//! The pages of a list are the list, whoever is picked, in whatever order, and however it is made.

use std::{cmp::Reverse, collections::BTreeSet, ops::RangeInclusive};

use tempfile::TempDir;

use super::{
    super::{
        History, Settings,
        catalogue::{Filter, Sort},
        client::ClientRecord,
        key::Key,
        made::{Ask, BEGIN, SECOND, address, ask},
    },
    ClientQuery, FEW, Part,
};
use crate::ntp::ClientClock;

/// With values that each has its own of, that many have the same of, and that are not known of many;
/// and by none.
const SORTS: [Sort; 4] = [
    Sort::LastSeen,
    Sort::Unanswered,
    Sort::Total,
    Sort::ClientIp,
];

/// More than are put in order for each question, also of those that filters pick.
const CLIENTS: u32 = 45_000;
/// From this one on they are all of version 4; it is far from the first ones.
const LATER: u32 = CLIENTS - 22_000;

fn random(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

fn key(client: u32) -> Key {
    Key::new(address(client), (client % 3) as u16)
}

fn absorb(history: &History, ask: &Ask) {
    let record = ClientRecord::new(&ask.exchange(), ask.at, ask.at);
    history
        .0
        .catalogue
        .write()
        .absorb(&key(ask.client), &record, 0);
}

/// A few values, so that many have the same, and some are not known.
fn made(client: u32, state: &mut u32) -> Ask {
    let number = random(state);
    let made = Ask {
        version: if client >= LATER { 4 } else { 3 },
        stratum: (number % 4) as u8,
        took: i64::from(number % 1000) * 1000,
        clock: match number % 50 {
            0 => ClientClock::Honest,
            _ => ClientClock::Unknown,
        },
        ..ask(client, BEGIN + i64::from(number % 5000) * SECOND)
    };
    match number % 3 {
        0 => made.unanswered(),
        _ => made,
    }
}

/// Nobody writes to the file: these are in memory alone.
fn history(directory: &TempDir, state: &mut u32) -> History {
    let history = History::open(directory.path(), Settings::default()).unwrap();
    // Rows are in no order of addresses.
    let mut clients: Vec<u32> = (0..CLIENTS).collect();
    clients.sort_by_cached_key(|client| (client.wrapping_mul(2_654_435_761), *client));
    for client in clients {
        let made = made(client, state);
        absorb(&history, &made);
        if client % 4 == 0 {
            absorb(
                &history,
                &Ask {
                    at: made.at + SECOND,
                    ..made
                },
            );
        }
    }
    history
}

fn addresses(clients: RangeInclusive<u32>) -> Option<Vec<RangeInclusive<[u8; 16]>>> {
    Some(vec![address(*clients.start())..=address(*clients.end())])
}

fn filters() -> Vec<Filter> {
    let all = Filter::default();
    let filters = vec![
        all.clone(),
        // Many, one after the other; far away, in the order of addresses.
        Filter {
            version: Some(4),
            ..all.clone()
        },
        // Many, here and there.
        Filter {
            interfaces: Some(vec![0, 2]),
            ..all.clone()
        },
        Filter {
            addresses: addresses(5000..=40_000),
            since: Some(BEGIN + 100 * SECOND),
            ..all.clone()
        },
        // Few.
        Filter {
            clock: Some(ClientClock::Honest),
            ..all.clone()
        },
        Filter {
            addresses: addresses(LATER - 300..=LATER + 300),
            version: Some(4),
            ..all.clone()
        },
        Filter {
            addresses: addresses(100..=40_000),
            until: Some(BEGIN + 100 * SECOND),
            ..all.clone()
        },
        // Nobody.
        Filter {
            version: Some(1),
            ..all
        },
    ];
    filters
}

/// Those that were seen last.
fn latest(history: &History, count: usize) -> Filter {
    let clients = (0..CLIENTS).map(key);
    let mut seen: Vec<i64> = {
        let catalogue = history.0.catalogue.read();
        clients
            .filter_map(|key| catalogue.row(&key))
            .map(|row| catalogue.value(row, Sort::LastSeen))
            .map(|value| (value ^ 1 << 63).cast_signed())
            .collect()
    };
    seen.sort_unstable();
    Filter {
        since: Some(seen[seen.len() - count]),
        ..Filter::default()
    }
}

/// Those that are picked, in order: found by asking each.
fn expected(history: &History, query: &ClientQuery) -> Vec<Key> {
    let catalogue = history.0.catalogue.read();
    let mut all: Vec<(bool, u64, Option<Key>, u32)> = (0..CLIENTS)
        .filter_map(|client| catalogue.row(&key(client)))
        .filter(|row| catalogue.is_picked(*row, &query.filter))
        .map(|row| {
            let value = catalogue.value(row, query.sort);
            let by_key = query.sort == Sort::ClientIp;
            let key = catalogue.key(row).filter(|_| by_key);
            (value == u64::MAX, value, key, row)
        })
        .collect();
    all.sort_unstable();
    if query.descending {
        let known = all.partition_point(|it| !it.0);
        all[..known].sort_unstable_by_key(|it| Reverse(*it));
    }
    all.iter().filter_map(|it| catalogue.key(it.3)).collect()
}

fn by_number(history: &History, query: &ClientQuery) -> (Vec<Key>, u64) {
    let mut all = Vec::new();
    for page in 1.. {
        let query = ClientQuery {
            part: Part::Page(page),
            ..query.clone()
        };
        let (keys, total, next) = history.keys(&query).unwrap();
        all.extend(&keys);
        assert_eq!(next.is_some(), (all.len() as u64) < total);
        if keys.is_empty() {
            return (all, total);
        }
        assert_eq!(
            keys.len(),
            query.size.min(all.len() - (page as usize - 1) * query.size)
        );
    }
    unreachable!()
}

fn by_cursor(history: &History, query: &ClientQuery, mut between: impl FnMut(u64)) -> Vec<Key> {
    let mut all = Vec::new();
    let mut part = Part::After(None);
    loop {
        let query = ClientQuery {
            part,
            ..query.clone()
        };
        let (keys, total, next) = history.keys(&query).unwrap();
        assert!(keys.len() <= query.size);
        all.extend(keys);
        let Some(cursor) = next else {
            return all;
        };
        part = Part::After(Some(cursor.to_text(&query)));
        between(total);
    }
}

#[test]
fn the_pages_of_a_list_by_number_and_by_cursor_have_each_picked_client_once_and_in_order() {
    let directory = TempDir::new().unwrap();
    let mut state = 1;
    let history = history(&directory, &mut state);
    let mut totals = BTreeSet::new();
    for filter in filters() {
        for sort in SORTS {
            for descending in [false, true] {
                let mut query = ClientQuery {
                    filter: filter.clone(),
                    sort,
                    descending,
                    part: Part::Page(1),
                    size: 0,
                };
                let expected = expected(&history, &query);
                totals.insert(expected.len());
                query.size = (expected.len() / 4).max(3);
                let (found, total) = by_number(&history, &query);
                assert!(found == expected, "{query:?}");
                assert_eq!(total, expected.len() as u64, "{query:?}");
                let found = by_cursor(&history, &query, |total| {
                    assert_eq!(total, expected.len() as u64);
                });
                assert!(found == expected, "{query:?}");
                // From a page that was asked for by its number on.
                if expected.len() > query.size {
                    query.part = Part::Page(2);
                    let (second, _, next) = history.keys(&query).unwrap();
                    query.part = next.map_or(Part::Page(3), |next| {
                        Part::After(Some(next.to_text(&query)))
                    });
                    let (third, ..) = history.keys(&query).unwrap();
                    let both: Vec<Key> = second.into_iter().chain(third).collect();
                    let end = expected.len().min(3 * query.size);
                    assert!(both == expected[query.size..end], "{query:?}");
                }
            }
        }
    }
    // Lists of both kinds, and an empty one.
    assert!(totals.first() == Some(&0) && totals.iter().filter(|it| **it > FEW).count() > 2);
    assert!(totals.iter().filter(|it| (1..=FEW).contains(it)).count() > 2);
    history.stop();
}

#[test]
fn the_first_pages_are_the_same_while_the_order_is_not_made_yet() {
    let directory = TempDir::new().unwrap();
    let mut state = 7;
    let history = history(&directory, &mut state);
    for sort in SORTS {
        for descending in [false, true] {
            let mut query = ClientQuery {
                filter: Filter::default(),
                sort,
                descending,
                part: Part::Page(1),
                size: 300,
            };
            let expected = expected(&history, &query);
            for page in 1..=5 {
                // The last ones are too far from the beginning.
                history.0.orders.forget();
                query.part = Part::Page(page);
                let (keys, total, next) = history.keys(&query).unwrap();
                let start = (page as usize - 1) * query.size;
                assert!(keys == expected[start..start + query.size], "{query:?}");
                assert_eq!(total, expected.len() as u64);
                query.part = next.map_or(Part::Page(1), |next| {
                    Part::After(Some(next.to_text(&query)))
                });
                let (after, ..) = history.keys(&query).unwrap();
                let start = start + query.size;
                assert!(after == expected[start..start + query.size], "{query:?}");
            }
        }
    }
    history.stop();
}

#[test]
fn a_filtered_list_that_is_read_by_cursors_has_each_who_stays_as_it_is_while_others_do_not() {
    let directory = TempDir::new().unwrap();
    let mut state = 2;
    let history = history(&directory, &mut state);
    let mut new = CLIENTS;
    let mut kinds = BTreeSet::new();
    // At last those that are so many that they soon are few, and put in order in another way.
    for filter in filters().into_iter().map(Some).chain([None]) {
        for sort in SORTS {
            let mut query = ClientQuery {
                filter: filter.clone().unwrap_or_else(|| latest(&history, FEW + 30)),
                sort,
                descending: random(&mut state).is_multiple_of(2),
                part: Part::Page(1),
                size: 0,
            };
            let begin = expected(&history, &query);
            query.size = (begin.len() / 4).max(3);
            let mut changed = BTreeSet::new();
            let mut removed = Vec::new();
            let mut lists = BTreeSet::new();
            let found = by_cursor(&history, &query, |total| {
                lists.insert(total > FEW as u64);
                for _ in 0..300 {
                    let client = random(&mut state) % CLIENTS;
                    changed.insert(key(client));
                    if client % 3 < 2 {
                        history.0.catalogue.write().remove(&key(client));
                        removed.push(client);
                        // Another comes into its row.
                        new += 1;
                        let at = BEGIN;
                        absorb(
                            &history,
                            &Ask {
                                at,
                                ..made(new, &mut state)
                            },
                        );
                    } else {
                        absorb(&history, &made(client, &mut state));
                    }
                }
                if random(&mut state).is_multiple_of(2) {
                    history.0.orders.forget();
                }
            });
            let mut once: Vec<Key> = found.clone();
            once.sort_unstable();
            let again = once.windows(2).filter(|two| two[0] == two[1]);
            let again = again.filter(|two| !changed.contains(&two[0]) && two[0] < key(CLIENTS));
            assert_eq!(again.count(), 0, "{query:?}");
            let stayed = |key: &&Key| !changed.contains(*key);
            let lost = begin.iter().filter(stayed);
            let lost = lost.filter(|key| once.binary_search(key).is_err());
            assert_eq!(lost.count(), 0, "{query:?}");
            let there: BTreeSet<&Key> = begin.iter().filter(stayed).collect();
            let in_order: Vec<&Key> = found.iter().filter(|key| there.contains(key)).collect();
            assert!(
                in_order == begin.iter().filter(stayed).collect::<Vec<_>>(),
                "{query:?}"
            );
            kinds.insert(lists);
            // So that it stays as large as it was.
            for client in removed {
                absorb(&history, &made(client, &mut state));
            }
            history.0.orders.forget();
        }
    }
    assert!(kinds.contains(&BTreeSet::from([false, true])), "{kinds:?}");
    history.stop();
}

#[test]
fn a_list_of_few_clients_is_as_new_as_they_are() {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), Settings::default()).unwrap();
    for client in 0..100 {
        let version = if client % 2 == 0 { 3 } else { 4 };
        absorb(
            &history,
            &Ask {
                version,
                ..ask(client, BEGIN)
            },
        );
        let query = ClientQuery {
            filter: Filter {
                version: Some(version),
                ..Filter::default()
            },
            sort: Sort::LastSeen,
            descending: true,
            part: Part::Page(1),
            size: 100,
        };
        let (keys, total, _) = history.keys(&query).unwrap();
        assert_eq!(
            (keys.len() as u32, total as u32),
            (client / 2 + 1, client / 2 + 1)
        );
    }
    history.stop();
}
