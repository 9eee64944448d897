//! Blocks and runs of clients against a map, and files that are not what they should be.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::{collection::vec, prelude::*};

use super::{Change, MAX_BLOCK, OpenError, Store};
use crate::history::{
    client::{ClientRecord, News, Visit},
    key::Key,
    made::{BEGIN, address, ask},
};

type Model = BTreeMap<Key, ClientRecord>;

fn open(path: &Path) -> Result<(Store, Model), OpenError> {
    let mut found = Model::new();
    let (store, _) = Store::open(path, 1 << 20, |key, record, _| {
        assert!(found.insert(*key, *record).is_none());
    })?;
    Ok((store, found))
}

fn key(number: u32) -> Key {
    Key::new(address(number), 0)
}

/// What came of a client: one exchange, or more where told to.
fn news(exchanges: u64) -> ClientRecord {
    let exchange = ask(1, BEGIN).exchange();
    let mut record = ClientRecord::new(&exchange, BEGIN, BEGIN);
    for _ in 1..exchanges {
        record.add(&exchange, BEGIN, BEGIN);
    }
    record
}

/// What is to become of some clients.
#[derive(Clone, Debug)]
enum Wish {
    Put(Vec<u32>),
    Remove(Vec<u32>),
    PutRange(u32, u32),
    RemoveRange(u32, u32),
    RemoveEach(u32),
    /// Some are put, and others removed, in one go.
    Mix(Vec<u32>, u32),
}

fn wishes() -> impl Strategy<Value = Wish> {
    let number = || prop_oneof![0..40_u32, 0..700_u32, 0..100_000_u32];
    prop_oneof![
        vec(number(), 0..8).prop_map(Wish::Put),
        vec(number(), 0..200).prop_map(Wish::Put),
        vec(number(), 0..100).prop_map(Wish::Remove),
        (number(), 0..500_u32).prop_map(|(from, count)| Wish::PutRange(from, count)),
        (number(), 0..800_u32).prop_map(|(from, count)| Wish::RemoveRange(from, count)),
        (1..70_u32).prop_map(Wish::RemoveEach),
        (vec(number(), 0..100), 1..9_u32).prop_map(|(them, each)| Wish::Mix(them, each)),
    ]
}

/// Whom it is about, and whether they shall be there.
fn wanted(wish: &Wish, model: &Model) -> BTreeMap<Key, bool> {
    let all = |numbers: &[u32], there| numbers.iter().map(|it| (key(*it), there)).collect();
    let range = |from: u32, count: u32, there| {
        let numbers = from..from + count;
        numbers.map(|it| (key(it), there)).collect()
    };
    let some = |share: u32| {
        let them = model.keys().enumerate();
        them.filter(move |(place, _)| (*place as u32).is_multiple_of(share))
            .map(|(_, key)| (*key, false))
    };
    match wish {
        Wish::Put(numbers) => all(numbers, true),
        Wish::Remove(numbers) => all(numbers, false),
        Wish::PutRange(from, count) => range(*from, *count, true),
        Wish::RemoveRange(from, count) => range(*from, *count, false),
        Wish::RemoveEach(share) => some(*share).collect(),
        Wish::Mix(numbers, share) => {
            let mut all: BTreeMap<Key, bool> = all(numbers, true);
            all.extend(some(*share));
            all
        }
    }
}

/// How a flush is made: how many exchanges come of each client, and how much is put into the blocks.
type Way = (u64, Option<u64>);

fn apply(store: &mut Store, model: &mut Model, wish: &Wish, flush: u64, (exchanges, merge): Way) {
    let wanted = wanted(wish, model);
    let record = news(exchanges);
    let visit = Visit::of(&record);
    assert_eq!(visit.is_some(), exchanges == 1);
    let change = |(key, there): (&Key, &bool)| {
        let news = visit.as_ref().map_or(News::Record(&record), News::Visit);
        let change = if *there {
            Change::Came(news)
        } else {
            Change::Removed
        };
        (*key, change)
    };
    let mut writer = store.writer().unwrap();
    if let Some(most) = merge {
        writer.merge(most).unwrap();
    }
    if !wanted.is_empty() {
        let changes = wanted.iter().map(change);
        writer.put_run(flush, wanted.len(), changes).unwrap();
    }
    writer.commit(flush).unwrap();
    for (key, there) in wanted {
        if !there {
            model.remove(&key);
        } else if let Some(known) = model.get_mut(&key) {
            known.absorb(&record);
        } else {
            model.insert(key, record);
        }
    }
}

fn assert_same(store: &Store, model: &Model) {
    let reader = store.readable().reader().unwrap();
    let mut blocks = Vec::new();
    let mut sizes = Vec::new();
    let mut found = Vec::new();
    reader
        .each_client(
            |first, entries| {
                blocks.push(*first);
                sizes.push(entries.len());
            },
            |key, record, _| found.push((*key, *record)),
        )
        .unwrap();
    assert_eq!(blocks, store.blocks());
    assert!(
        sizes.iter().all(|size| (1..=MAX_BLOCK).contains(size)),
        "{sizes:?}"
    );
    assert!(found.iter().map(|(key, record)| (key, record)).eq(model));
    assert_eq!(reader.runs().unwrap(), store.runs());
    assert_eq!(reader.merging().unwrap(), store.merging());
    let runs = || store.runs().iter().map(|run| run.number);
    let mut clients = reader.clients().unwrap();
    for (key, record) in model.iter().step_by(7) {
        assert_eq!(clients.get(key, runs()).unwrap(), Some(*record));
    }
    for number in [0, 1, 39, 350, 99_999, u32::MAX] {
        let key = key(number);
        let found = clients.get(&key, runs()).unwrap();
        assert_eq!(found, model.get(&key).copied());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn blocks_and_runs_hold_what_was_put_into_them_whatever_comes_and_goes(
        wishes in vec((wishes(), 1..3_u64, proptest::option::of(0..900_u64)), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (mut store, found) = open(&path).unwrap();
        prop_assert!(found.is_empty());
        let writer = store.writer().unwrap();
        writer.put_interface(0, "eth0").unwrap();
        writer.commit(1).unwrap();
        let mut model = Model::new();
        for (round, (wish, exchanges, merge)) in wishes.iter().enumerate() {
            let way = (*exchanges, *merge);
            apply(&mut store, &mut model, wish, round as u64 + 2, way);
            assert_same(&store, &model);
            // A run is added to as long as it is small.
            if round % 5 == 4 {
                drop(store);
                let (again, found) = open(&path).unwrap();
                store = again;
                prop_assert!(found == model);
            }
        }
        // All of it.
        for _ in 0..2 {
            let mut writer = store.writer().unwrap();
            writer.merge(u64::MAX).unwrap();
            writer.commit(100).unwrap();
        }
        prop_assert!(store.runs().is_empty() && store.merging().is_none());
        assert_same(&store, &model);
        let blocks = store.blocks().to_vec();
        drop(store);
        let (store, found) = open(&path).unwrap();
        prop_assert_eq!(store.blocks(), &blocks[..]);
        prop_assert!(found == model);
    }
}

#[test]
fn large_runs_stand_side_by_side_until_they_are_in_the_blocks_and_a_part_at_a_time_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory.path().join("file")).unwrap();
    let writer = store.writer().unwrap();
    writer.put_interface(0, "eth0").unwrap();
    writer.commit(1).unwrap();
    let mut model = Model::new();
    for round in 0..4 {
        let wish = Wish::PutRange(round * 3000, 9000);
        apply(
            &mut store,
            &mut model,
            &wish,
            2 + u64::from(round),
            (1, None),
        );
    }
    apply(&mut store, &mut model, &Wish::RemoveEach(3), 6, (1, None));
    assert_eq!(store.runs().len(), 5);
    let mut parts = 0;
    while store.runs().iter().any(|run| run.number <= 6) {
        // Removed and come again, before and behind the place where the blocks end.
        let wish = Wish::PutRange(parts * 500, 100);
        let flush = 7 + u64::from(parts);
        apply(&mut store, &mut model, &wish, flush, (2, Some(5000)));
        assert_same(&store, &model);
        parts += 1;
    }
    assert!((8..12).contains(&parts), "{parts} parts");
    assert_eq!(store.runs().len(), 1, "the small ones are one");
}

#[test]
fn a_transaction_that_is_dropped_changes_neither_the_file_nor_what_is_known_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory.path().join("file")).unwrap();
    let mut model = Model::new();
    for (flush, merge) in [(1, None), (2, Some(100)), (3, None)] {
        apply(
            &mut store,
            &mut model,
            &Wish::PutRange(0, 300),
            flush,
            (1, merge),
        );
    }
    for most in [50, u64::MAX] {
        let mut writer = store.writer().unwrap();
        writer.merge(most).unwrap();
        let removed = (0..300).map(|number| (key(number), Change::Removed));
        writer.put_run(4, 300, removed).unwrap();
        drop(writer);
        assert_same(&store, &model);
    }
}

#[test]
fn a_file_that_was_made_and_not_set_up_is_set_up_and_a_foreign_one_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    drop(redb::Database::create(&path).unwrap());
    let (mut store, _) = open(&path).unwrap();
    let mut model = Model::new();
    let writer = store.writer().unwrap();
    writer.put_interface(0, "eth0").unwrap();
    writer.commit(1).unwrap();
    apply(&mut store, &mut model, &Wish::PutRange(0, 3), 2, (1, None));
    drop(store);
    assert_eq!(open(&path).unwrap().1, model);

    let foreign = directory.path().join("foreign");
    let database = redb::Database::create(&foreign).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<u64, u64>::new("others");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let before = fs::read(&foreign).unwrap().len();
    let error = open(&foreign).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains("no database of ntpmon"),
        "{error}"
    );
    assert_eq!(fs::read(&foreign).unwrap().len(), before);
}
