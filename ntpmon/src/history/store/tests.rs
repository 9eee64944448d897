//! Blocks of clients against a map, and files that are not what they should be.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::{collection::vec, prelude::*};

use super::{Entry, MAX_BLOCK, OpenError, Readable, Store};
use crate::history::{
    client::ClientRecord,
    key::Key,
    made::{BEGIN, address, ask},
};

type Model = BTreeMap<Key, ClientRecord>;

fn open(path: &Path) -> Result<(Store, Model), OpenError> {
    let mut found = Model::new();
    let (store, _) = Store::open(path, 1 << 20, |entry: &Entry, journaled| {
        assert!(!journaled);
        assert!(found.insert(entry.key, entry.record).is_none());
    })?;
    Ok((store, found))
}

fn key(number: u32) -> Key {
    Key::new(address(number), 0)
}

fn new(number: u32) -> ClientRecord {
    ClientRecord::new(&ask(number, BEGIN).exchange(), BEGIN, BEGIN)
}

/// What is to become of some clients.
#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u32>),
    Remove(Vec<u32>),
    PutRange(u32, u32),
    RemoveRange(u32, u32),
    RemoveEach(u32),
    /// Some are put, and others removed, in one go.
    Mix(Vec<u32>, u32),
}

fn changes() -> impl Strategy<Value = Change> {
    let number = || prop_oneof![0..40_u32, 0..700_u32, 0..100_000_u32];
    prop_oneof![
        vec(number(), 0..8).prop_map(Change::Put),
        vec(number(), 0..200).prop_map(Change::Put),
        vec(number(), 0..100).prop_map(Change::Remove),
        (number(), 0..500_u32).prop_map(|(from, count)| Change::PutRange(from, count)),
        (number(), 0..800_u32).prop_map(|(from, count)| Change::RemoveRange(from, count)),
        (1..70_u32).prop_map(Change::RemoveEach),
        (vec(number(), 0..100), 1..9_u32).prop_map(|(them, each)| Change::Mix(them, each)),
    ]
}

/// Whom it is about, and whether they shall be there.
fn wanted(change: &Change, model: &Model) -> BTreeMap<Key, bool> {
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
    match change {
        Change::Put(numbers) => all(numbers, true),
        Change::Remove(numbers) => all(numbers, false),
        Change::PutRange(from, count) => range(*from, *count, true),
        Change::RemoveRange(from, count) => range(*from, *count, false),
        Change::RemoveEach(share) => some(*share).collect(),
        Change::Mix(numbers, share) => {
            let mut all: BTreeMap<Key, bool> = all(numbers, true);
            all.extend(some(*share));
            all
        }
    }
}

fn apply(store: &mut Store, model: &mut Model, change: &Change, flush: u64) {
    let wanted = wanted(change, model);
    let keys: Vec<Key> = wanted.keys().copied().collect();
    let mut asked = Vec::new();
    let mut writer = store.writer().unwrap();
    writer
        .change_clients(&keys, |key, known| {
            asked.push(*key);
            assert_eq!(known, model.get(key));
            if !wanted[key] {
                model.remove(key);
                return None;
            }
            let mut record = known.copied().unwrap_or_else(|| new(1));
            if known.is_some() {
                record.absorb(&new(1));
            }
            model.insert(*key, record);
            Some(record)
        })
        .unwrap();
    writer.commit(flush).unwrap();
    assert_eq!(asked, keys);
}

fn assert_same(store: &Store, model: &Model) {
    let readable: Readable = store.readable();
    let reader = readable.reader().unwrap();
    let mut blocks = Vec::new();
    let mut sizes = Vec::new();
    let mut found = Vec::new();
    reader
        .each_block(|first, entries| {
            assert_eq!(entries[0].key, *first);
            blocks.push(*first);
            sizes.push(entries.len());
            found.extend(entries.iter().map(|entry| (entry.key, entry.record)));
        })
        .unwrap();
    assert_eq!(blocks, store.blocks());
    assert!(
        sizes.iter().all(|size| (1..=MAX_BLOCK).contains(size)),
        "{sizes:?}"
    );
    assert!(found.iter().map(|(key, record)| (key, record)).eq(model));
    let clients = reader.clients().unwrap();
    for (key, record) in model.iter().step_by(7) {
        assert_eq!(clients.get(key).unwrap(), Some(*record));
    }
    for number in [0, 1, 39, 350, 99_999, u32::MAX] {
        let key = key(number);
        assert_eq!(clients.get(&key).unwrap(), model.get(&key).copied());
        let mut found = Vec::new();
        let take = |entry: &Entry| {
            found.push(entry.key);
            found.len() < 100
        };
        clients.each_from(&key, take).unwrap();
        assert!(
            found
                .iter()
                .eq(model.range(key..).map(|(key, _)| key).take(100))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn blocks_hold_what_was_put_into_them_whatever_comes_and_goes(
        changes in vec(changes(), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (mut store, found) = open(&path).unwrap();
        prop_assert!(found.is_empty());
        let writer = store.writer().unwrap();
        writer.put_interface(0, "eth0").unwrap();
        writer.commit(1).unwrap();
        let mut model = Model::new();
        for (round, change) in changes.iter().enumerate() {
            apply(&mut store, &mut model, change, round as u64 + 2);
            assert_same(&store, &model);
        }
        let blocks = store.blocks().to_vec();
        drop(store);
        let (store, found) = open(&path).unwrap();
        prop_assert_eq!(store.blocks(), &blocks[..]);
        prop_assert!(found == model);
    }
}

#[test]
fn a_transaction_that_is_dropped_changes_neither_the_file_nor_what_is_known_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory.path().join("file")).unwrap();
    let mut model = Model::new();
    apply(&mut store, &mut model, &Change::PutRange(0, 300), 1);
    let keys: Vec<Key> = (0..300).map(key).collect();
    let mut writer = store.writer().unwrap();
    writer.change_clients(&keys, |_, _| None).unwrap();
    drop(writer);
    assert_same(&store, &model);
    // Twice in one transaction.
    let mut writer = store.writer().unwrap();
    writer.change_clients(&keys[..200], |_, _| None).unwrap();
    let put = |_: &Key, _: Option<&ClientRecord>| Some(new(7));
    writer.change_clients(&keys[100..150], put).unwrap();
    writer.commit(2).unwrap();
    model.retain(|it, _| *it >= keys[200]);
    model.extend(keys[100..150].iter().map(|it| (*it, new(7))));
    assert_same(&store, &model);
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
    apply(&mut store, &mut model, &Change::PutRange(0, 3), 2);
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
