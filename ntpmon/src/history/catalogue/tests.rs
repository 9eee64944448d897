//! The columns say of each client what its record says, whatever has happened to it.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{Catalogue, Filter, LOOKED_AT, Picked, SCANNED, Sort, Unordered};
use crate::history::{
    client::{ClientRecord, clock_from},
    key::Key,
    made::{Ask, BEGIN, SECOND, address, ask, asks},
};

const SORTS: [Sort; 10] = [
    Sort::LastSeen,
    Sort::FirstSeen,
    Sort::SessionCount,
    Sort::Unanswered,
    Sort::Latency,
    Sort::Processing,
    Sort::Total,
    Sort::RequestRate,
    Sort::ClockError,
    Sort::ClientIp,
];

type Model = BTreeMap<Key, ClientRecord>;

fn picks(filter: &Filter, key: &Key, record: &ClientRecord) -> bool {
    let within = |range: &std::ops::RangeInclusive<[u8; 16]>| range.contains(&key.address);
    (filter.addresses.as_ref()).is_none_or(|ranges| ranges.iter().any(within))
        && (filter.interfaces.as_ref()).is_none_or(|them| them.contains(&key.interface()))
        && (filter.version).is_none_or(|it| it == record.ntp().version())
        && (filter.stratum).is_none_or(|it| it == record.ntp().stratum())
        && filter.clock.is_none_or(|it| it == record.clock())
        && filter.clock_error.is_none_or(|it| {
            let seconds = |nanoseconds: i64| (nanoseconds as f64 / 1e9) as f32;
            let error = record.clock_error().map(seconds);
            error.is_some_and(|error| error.abs() >= seconds(it))
        })
        && filter.since.is_none_or(|it| record.last_seen() >= it)
        && filter.until.is_none_or(|it| record.last_seen() <= it)
}

fn filters() -> impl Strategy<Value = Filter> {
    (
        proptest::option::of(vec((0..6_u32, 0..6_u32), 0..3)),
        proptest::option::of(vec(0..3_u16, 0..3)),
        proptest::option::of(1..8_u8),
        proptest::option::of(0..17_u8),
        proptest::option::of((0..3_u8).prop_map(clock_from)),
        proptest::option::of(prop_oneof![0..1000_i64, 0..1_i64 << 40]),
        proptest::option::of(0..5000_i64),
        proptest::option::of(0..5000_i64),
    )
        .prop_map(
            |(addresses, interfaces, version, stratum, clock, clock_error, since, until)| Filter {
                // Ranges that overlap would be counted twice: those that follow on another.
                addresses: addresses.map(|them| {
                    let mut from = 0;
                    them.into_iter()
                        .map(|(skip, width)| {
                            let first = from + skip;
                            from = first + width + 1;
                            address(first)..=address(first + width)
                        })
                        .collect()
                }),
                interfaces,
                version,
                stratum,
                clock,
                clock_error,
                since: since.map(|at| BEGIN + at * SECOND),
                until: until.map(|at| BEGIN + at * SECOND),
            },
        )
}

fn assert_same(catalogue: &Catalogue, model: &Model) {
    assert_eq!(catalogue.len(), model.len());
    for (key, record) in model {
        let row = catalogue.row(key).unwrap();
        assert_eq!(catalogue.key(row), Some(*key));
        assert_eq!(catalogue.last_session(key), record.last_session());
        let mut expected = Catalogue::default();
        expected.absorb(key, record, 0);
        for sort in SORTS {
            let (found, expected) = (catalogue.value(row, sort), expected.value(0, sort));
            assert_eq!(found, expected, "{sort:?}");
        }
        assert_eq!(catalogue.described(row), expected.described(0));
    }
    for interface in 0..3 {
        let count = model.keys().filter(|key| key.interface() == interface);
        assert_eq!(catalogue.count_on(interface), count.count() as u64);
    }
}

#[test]
fn however_rare_who_is_looked_for_only_so_many_are_looked_at_while_others_wait() {
    let mut catalogue = Catalogue::default();
    let clients = 3 * SCANNED as u32 / 2;
    for client in 0..clients {
        let made = ask(client, BEGIN);
        let record = ClientRecord::new(&made.exchange(), made.at, made.at);
        catalogue.absorb(&Key::new(address(client), 0), &record, 0);
    }
    let version = |version| Filter {
        version: Some(version),
        ..Filter::default()
    };
    let mut picked = Picked::default();
    assert!(catalogue.pick(&version(4), &mut picked));
    assert_eq!(picked.len(), SCANNED);
    assert!(!catalogue.pick(&version(4), &mut picked));
    assert_eq!(picked.len(), clients as usize);
    for sort in [Sort::LastSeen, Sort::ClientIp] {
        let mut unordered = Unordered::new(sort, 0);
        assert!(catalogue.gather(&mut unordered));
        assert!(unordered.rows.len() <= SCANNED);
        while catalogue.gather(&mut unordered) {}
        assert_eq!(unordered.sort().len(), clients as usize);
    }
    // Nobody, but in a range each as many as there are of either.
    let apart = (0..clients).map(|client| address(2 * client)..=address(2 * client));
    let apart = Filter {
        addresses: Some(apart.collect()),
        ..version(3)
    };
    for (filter, looked_at) in [(version(3), LOOKED_AT), (apart, LOOKED_AT / 2)] {
        for descending in [false, true] {
            let (mut after, mut looks) = (None, 0);
            loop {
                let found = catalogue.after_key(after, descending, &filter, 1);
                assert!(found.0.is_empty());
                looks += 1;
                let Some(next) = found.1 else {
                    break;
                };
                let distance = |key: Key| {
                    let last: [u8; 4] = *key.address.last_chunk().unwrap();
                    i64::from(u32::from_be_bytes(last))
                };
                if let Some(after) = after {
                    let distance = distance(next).abs_diff(distance(after));
                    assert!(distance <= 2 * LOOKED_AT as u64, "{after:?} {next:?}");
                }
                after = Some(next);
            }
            assert!(looks >= clients as usize / looked_at / 2, "{looks}");
        }
        let mut from = Some(Key::new([0; 16], 0));
        let mut looks = 0;
        while let Some(first) = from {
            let (found, next) = catalogue.from_key(&first, &filter, 1);
            assert!(found.is_empty());
            looks += 1;
            from = next;
        }
        assert!(looks >= clients as usize / LOOKED_AT, "{looks}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rows_are_what_the_records_say_whatever_comes_and_goes(
        steps in vec((asks(1, 1..4), 0..12_u32, 0..3_u16, 0..5_u8), 1..60),
        filters in vec(filters(), 8),
    ) {
        let mut catalogue = Catalogue::default();
        let mut model = Model::new();
        let mut sessions = 0;
        for (mut asks, client, interface, what) in steps {
            for ask in &mut asks {
                *ask = match client % 3 {
                    0 => ask.ahead(SECOND),
                    1 => ask.random(ask.at.unsigned_abs()),
                    _ => *ask,
                };
            }
            let key = Key::new(address(client), interface);
            let changes = catalogue.changes();
            if what == 0 {
                let was_there = model.remove(&key).is_some();
                catalogue.remove(&key);
                prop_assert_eq!(catalogue.changes() > changes, was_there);
                continue;
            }
            let made = |ask: &Ask| ClientRecord::new(&ask.exchange(), ask.at, ask.at);
            let mut record = made(&asks[0]);
            asks[1..].iter().for_each(|ask| record.absorb(&made(ask)));
            if what > 2 {
                sessions += 1;
                record.set_last_session(sessions);
            }
            catalogue.absorb(&key, &record, 0);
            prop_assert!(catalogue.changes() > changes);
            model.entry(key).and_modify(|known| known.absorb(&record)).or_insert(record);
        }
        assert_same(&catalogue, &model);
        for filter in filters {
            let picked: Vec<Key> = model
                .iter()
                .filter(|(key, record)| picks(&filter, key, record))
                .map(|(key, _)| *key)
                .collect();
            let mut all = Picked::default();
            while catalogue.pick(&filter, &mut all) {}
            let mut rows: Vec<_> = picked.iter().filter_map(|key| catalogue.row(key)).collect();
            rows.sort_unstable();
            prop_assert_eq!(all.len(), rows.len());
            prop_assert!(rows.iter().all(|row| all.has(*row)) && !all.has(u32::MAX));
            prop_assert_eq!(all.rows().collect::<Vec<_>>(), rows);
            for most in [1, 2, usize::MAX] {
                let mut from = Some(Key::new([0; 16], 0));
                let mut found = Vec::new();
                while let Some(first) = from {
                    let (part, next) = catalogue.from_key(&first, &filter, most);
                    prop_assert!(part.len() <= most && next.is_none_or(|next| next > first));
                    found.extend(part);
                    from = next;
                }
                prop_assert_eq!(&found, &picked);
            }
            for (most, descending) in [(1, false), (2, true), (100, false), (100, true)] {
                let mut after = None;
                let mut found = Vec::new();
                loop {
                    let (part, next) = catalogue.after_key(after, descending, &filter, most);
                    prop_assert!(part.len() <= most && (next.is_none() || next != after));
                    prop_assert!(part.iter().all(|(key, row)| catalogue.row(key) == Some(*row)));
                    found.extend(part.into_iter().map(|(key, _)| key));
                    after = next;
                    if next.is_none() {
                        break;
                    }
                }
                if descending {
                    found.reverse();
                }
                prop_assert_eq!(&found, &picked);
            }
        }
    }

    #[test]
    fn an_order_is_sorted_has_everybody_once_and_goes_on_where_a_page_ended(
        asks in asks(40, 1..120),
        gone in vec(any::<Index>(), 0..10),
    ) {
        let mut catalogue = Catalogue::default();
        for ask in &asks {
            let record = ClientRecord::new(&ask.exchange(), ask.at, ask.at);
            catalogue.absorb(&Key::new(address(ask.client), 0), &record, 0);
        }
        for index in gone {
            catalogue.remove(&Key::new(address(asks[index.index(asks.len())].client), 0));
        }
        for sort in SORTS {
            let mut unordered = Unordered::new(sort, 0);
            while catalogue.gather(&mut unordered) {}
            let order = unordered.sort();
            prop_assert_eq!(order.len(), catalogue.len());
            for descending in [false, true] {
                let rows: Vec<_> = (0..order.len()).filter_map(|at| order.at(at, descending))
                    .map(|(_, row)| row).collect();
                let mut each = rows.clone();
                each.sort_unstable();
                each.dedup();
                prop_assert_eq!(each.len(), catalogue.len());
                let rank = |row: &u32| {
                    let value = catalogue.value(*row, sort);
                    let unknown = value == u64::MAX && sort != Sort::ClientIp;
                    let key = (sort == Sort::ClientIp).then(|| catalogue.key(*row));
                    (unknown, value, key)
                };
                for pair in rows.windows(2) {
                    let (one, next) = (rank(&pair[0]), rank(&pair[1]));
                    let is_sorted = match (one.0, next.0) {
                        (false, false) if descending => one >= next,
                        (false, false) => one <= next,
                        (unknown, also) => unknown <= also,
                    };
                    prop_assert!(is_sorted, "{sort:?} {descending}: {one:?} {next:?}");
                }
                for (place, row) in rows.iter().enumerate() {
                    if sort == Sort::ClientIp {
                        let next = rows.get(place + 1).and_then(|row| catalogue.key(*row));
                        let all = Filter::default();
                        let key = catalogue.key(*row);
                        let (after, _) = catalogue.after_key(key, descending, &all, 1);
                        prop_assert_eq!(after.first().map(|(key, _)| *key), next);
                        continue;
                    }
                    let after = order.after(catalogue.value(*row, sort), *row, descending);
                    prop_assert_eq!(after, place + 1, "{:?} {}", sort, descending);
                }
            }
        }
    }
}
