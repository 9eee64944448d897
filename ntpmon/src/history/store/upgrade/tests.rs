//! Files as an older version wrote them: they become today's, or stay as they are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableHandle};
use tempfile::TempDir;
use zerocopy::IntoBytes;

use super::{
    OLD, OLD_CHUNK, OldEntry, OldHeader, OldVisitEntry, rewrite,
    run::{self, Cursor},
};
use crate::history::{
    client::{
        ClientRecord, News, Visit,
        layout1::{OldRecord, OldVisit},
    },
    key::Key,
    made::{BEGIN, SECOND, address, ask},
    store::{CLIENTS, Change, META, Store, pretend_layout, unchecked},
};
use crate::ntp::{ClientClock, ClientError, First};

type Model = BTreeMap<Key, ClientRecord>;

fn open(path: &Path) -> (Store, Model) {
    let mut found = Model::new();
    let (store, _) = Store::open(path, 1 << 20, |key, record, _| {
        assert!(found.insert(*key, *record).is_none());
    })
    .unwrap();
    (store, found)
}

fn layout(path: &Path) -> u64 {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let meta = transaction.open_table(META).unwrap();
    meta.get("layout").unwrap().unwrap().value()
}

/// Of an honest client: as old files have it, the error of its last request.
fn exchange(number: u32, at: i64) -> ClientRecord {
    let mut asked = ask(number, at);
    asked.clock = ClientClock::Honest;
    let mut exchange = asked.exchange();
    exchange.client_error = Some(ClientError::at_least(
        i64::from(number) - 500,
        First::default(),
    ));
    ClientRecord::new(&exchange, at, at)
}

/// A file of today's with some clients in blocks, and in runs some that asked once, some that asked
/// more often and some that were removed; with runs half put into the blocks. Its clients.
fn made(path: &Path, clients: u32) -> Model {
    let (mut store, _) = open(path);
    let key = |number: u32| Key::new(address(number), 0);
    let mut flush = 0;
    let mut put = |store: &mut Store, changes: &BTreeMap<Key, Option<ClientRecord>>, merge| {
        flush += 1;
        let visits: BTreeMap<Key, Visit> = changes
            .iter()
            .filter_map(|(key, record)| Some((*key, Visit::of(record.as_ref()?)?)))
            .collect();
        let mut writer = store.writer().unwrap();
        writer.put_interface(0, "eth0").unwrap();
        if let Some(most) = merge {
            writer.merge(most).unwrap();
        }
        if !changes.is_empty() {
            let news = changes.iter().map(|(key, record)| {
                let change = match (record, visits.get(key)) {
                    (None, _) => Change::Removed,
                    (_, Some(visit)) => Change::Came(News::Visit(visit)),
                    (Some(record), _) => Change::Came(News::Record(record)),
                };
                (*key, change)
            });
            writer.put_run(flush, changes.len(), news).unwrap();
        }
        writer.commit(flush).unwrap();
    };
    let all = (0..clients).map(|number| (key(number), Some(exchange(number, BEGIN))));
    put(&mut store, &all.collect(), None);
    put(&mut store, &BTreeMap::new(), Some(u64::MAX));
    let twice = |number: u32| {
        let mut record = exchange(number, BEGIN + SECOND);
        record.absorb(&exchange(number, BEGIN + 2 * SECOND));
        record
    };
    let some = (0..clients * 2).step_by(3).map(|number| match number % 4 {
        0 => (key(number), None),
        1 => (key(number), Some(twice(number))),
        _ => (key(number), Some(exchange(number, BEGIN + SECOND))),
    });
    put(&mut store, &some.collect(), None);
    let half = u64::from(clients) / 3;
    put(&mut store, &BTreeMap::new(), Some(half));
    let last = (0..clients).step_by(50);
    let last = last.map(|number| (key(number), Some(exchange(number, BEGIN + 9 * SECOND))));
    put(&mut store, &last.collect(), None);
    assert!(store.merging().is_some() && store.runs().len() == 2);
    drop(store);
    let (_, model) = open(path);
    assert!(model.len() > clients as usize / 2);
    model
}

/// Makes a file what layout 2 had in its place. Of a visit nothing is said of the clock but what
/// follows from its header.
fn make_old(path: &Path, told_time: bool) {
    let database = Database::open(path).unwrap();
    let before = database.begin_read().unwrap();
    let transaction = database.begin_write().unwrap();
    let old_entry = |entry: &super::Entry| OldEntry {
        key: entry.key,
        record: OldRecord::of(&entry.record),
    };
    {
        let mut blocks = transaction.open_table(CLIENTS).unwrap();
        for item in before.open_table(CLIENTS).unwrap().iter().unwrap() {
            let (key, bytes) = item.unwrap();
            let old = unchecked(bytes.value()).unwrap().iter().map(old_entry);
            let old: Vec<OldEntry> = old.collect();
            blocks.insert(key.value(), old.as_bytes()).unwrap();
        }
        for table in before.list_tables().unwrap() {
            let Some(number) = run::number_of(table.name()) else {
                continue;
            };
            let name = run::table_name(number);
            let table = before.open_table(run::table(&name)).unwrap();
            transaction.delete_table(run::table(&name)).unwrap();
            let mut chunks = transaction.open_table(run::table(&name)).unwrap();
            let mut cursor = Cursor::new(&table, None).unwrap();
            while let Some(first) = cursor.peek() {
                let (mut removed, mut visits, mut entries) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(key) = cursor.peek().filter(|_| visits.len() + entries.len() < 60) {
                    cursor
                        .advance(|found| {
                            if found.removed {
                                removed.push(key);
                            }
                            match found.news {
                                None => {}
                                Some(News::Visit(visit)) => visits.push(OldVisitEntry {
                                    key,
                                    visit: OldVisit::of(visit, told_time),
                                }),
                                Some(News::Record(record)) => entries.push(OldEntry {
                                    key,
                                    record: OldRecord::of(record),
                                }),
                            }
                        })
                        .unwrap();
                }
                let header = OldHeader {
                    layout: OLD_CHUNK,
                    unused: 0,
                    removed: (removed.len() as u16).into(),
                    visits: (visits.len() as u16).into(),
                    entries: (entries.len() as u16).into(),
                };
                let parts = [
                    header.as_bytes(),
                    removed.as_bytes(),
                    visits.as_bytes(),
                    entries.as_bytes(),
                ];
                let bytes = parts.concat();
                chunks.insert(first.bytes(), bytes.as_slice()).unwrap();
            }
        }
    }
    transaction.commit().unwrap();
    drop((before, database));
    pretend_layout(path, OLD);
}

/// What is to be the same: of a client whose visit stands in a run, an old file does not have the
/// error but where the header tells it.
fn without_error(model: &Model) -> Vec<(Key, u64, i64, Option<i64>)> {
    let lines = model.iter().map(|(key, it)| {
        let total = it.total.last();
        (*key, it.sessions(), it.last_seen(), total)
    });
    lines.collect()
}

#[test]
fn an_old_file_is_todays_after_it_was_opened_with_all_that_it_had() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("old");
    let before = made(&path, 3000);
    make_old(&path, false);
    assert_eq!(layout(&path), OLD);
    let (mut store, after) = open(&path);
    assert_eq!(without_error(&after), without_error(&before));
    let in_blocks = |record: &&ClientRecord| record.last_seen() == BEGIN;
    for (key, record) in after.iter().filter(|(_, record)| in_blocks(record)) {
        assert_eq!(*record, before[key]);
        assert!(record.clock_error().is_some());
    }
    for record in after.values() {
        assert_eq!(
            (record.clock_error_bound(), record.clock_drift()),
            (None, None)
        );
    }
    // It goes on as any file does.
    let runs = store.runs().len();
    assert!(runs == 2 && store.merging().is_some());
    for flush in 100..102 {
        let mut writer = store.writer().unwrap();
        writer.merge(u64::MAX).unwrap();
        writer.commit(flush).unwrap();
    }
    assert!(store.runs().is_empty());
    drop(store);
    assert_eq!(open(&path).1, after);
    assert_eq!(layout(&path), super::LAYOUT);
}

#[test]
fn what_the_header_of_an_old_visit_told_of_a_clock_is_told_on() {
    let mut asked = ask(7, BEGIN);
    asked.answered = false;
    let mut exchange = asked.exchange();
    let wrote = ntpmon_common::Timestamp::from_unix_nanoseconds(BEGIN - 11 * 86_400 * SECOND);
    exchange.request.event.ntp.0[40..48].copy_from_slice(&wrote.0.to_be_bytes());
    let record = ClientRecord::new(&exchange, BEGIN, BEGIN);
    let visit = Visit::of(&record).unwrap();
    let error = |told| {
        OldVisit::of(&visit, told)
            .today()
            .unwrap()
            .record()
            .clock_error()
    };
    assert_eq!(error(true), Some(-11 * 86_400 * SECOND));
    assert_eq!(error(false), None);
}

const CHILD: &str = "NTPMON_TEST_UPGRADE_OF";

/// Dies in the middle of it.
#[test]
#[ignore = "it is the part of another test that is killed"]
fn child() {
    let path = PathBuf::from(std::env::var_os(CHILD).unwrap());
    // Little is kept back: most of what is rewritten is on its way to the file.
    let database = Database::builder()
        .set_cache_size(1 << 16)
        .open(path)
        .unwrap();
    let _ = rewrite(&database, |clients| {
        if clients > 15_000 {
            std::process::abort();
        }
    });
}

#[test]
fn whoever_is_killed_while_a_file_is_rewritten_finds_the_old_one_whole() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("old");
    let before = made(&path, 20_000);
    make_old(&path, false);
    for _ in 0..2 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "history::store::upgrade::tests::child",
                "--ignored",
            ])
            .env(CHILD, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(
            !child.status.success() && said.contains("running 1 test"),
            "{said}"
        );
        assert!(!said.contains("test result"), "it was to be killed: {said}");
        assert_eq!(layout(&path), OLD);
    }
    let (_, after) = open(&path);
    assert_eq!(without_error(&after), without_error(&before));
    assert_eq!(layout(&path), super::LAYOUT);
}
