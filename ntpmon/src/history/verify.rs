//! Reads the whole file and holds it against itself and against what is in memory: every total must
//! be the sum of its parts, every chain of sessions whole, every column of the catalogue what the
//! record says. For tests, and for an operator who wants to know whether a file can be trusted.

use std::collections::HashMap;

use anyhow::Result;
use foldhash::fast::RandomState;

use super::{
    Shared,
    catalogue::{Catalogue, Row, Sort},
    client::{ClientRecord, Tally},
    key::{InterfaceId, Key},
    rollup::{Count, Resolution},
    session,
    store::{MAX_BLOCK, Numbers, Reader, RunSize, Store},
};

/// What was found in a file in which nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// What each interface has, in the order in which they became known.
    pub interfaces: Vec<VerifiedInterface>,
    /// Clients, wherever they stand.
    pub clients: u64,
    /// Blocks of clients.
    pub blocks: u64,
    /// What came of clients and is not in the blocks yet: entries of all runs.
    pub in_runs: u64,
    /// Whether a part of the runs is in the blocks.
    pub merging: bool,
    /// Servers.
    pub servers: u64,
    /// Sessions that were kept one by one.
    pub sessions: u64,
    /// Rollups of all resolutions.
    pub rollups: u64,
    /// How often the file was written.
    pub flushes: u64,
}

impl Verified {
    /// What an interface has.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&VerifiedInterface> {
        self.interfaces.iter().find(|it| it.name == name)
    }

    /// Exchanges on all interfaces.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.interfaces.iter().map(|it| it.exchanges).sum()
    }
}

/// The totals of an interface. Those of the clients, the others and the forgotten add up to its
/// exchanges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedInterface {
    /// Its name.
    pub name: String,
    /// Clients with a record.
    pub clients: u64,
    /// Since the file began.
    pub exchanges: u64,
    /// Of those, the ones that nobody answered.
    pub unanswered: u64,
    /// Of clients with a record.
    pub of_clients: u64,
    /// Of clients that never got one.
    pub of_others: u64,
    /// Of clients whose record was removed.
    pub of_forgotten: u64,
    /// In the minutes that are still there.
    pub in_minutes: u64,
    /// In the hours that are still there.
    pub in_hours: u64,
    /// In the days that are still there.
    pub in_days: u64,
}

/// What is wrong. The first few are told, the others counted.
#[derive(Default)]
struct Problems {
    told: Vec<String>,
    count: usize,
}

/// Problems that are told.
const TOLD: usize = 20;

impl Problems {
    fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            self.count += 1;
            if self.told.len() < TOLD {
                self.told.push(what());
            }
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        one: &T,
        other: &T,
        what: impl FnOnce() -> String,
    ) {
        self.check(one == other, || {
            format!("{}: {one:?} is not {other:?}", what())
        });
    }

    fn absorb(&mut self, others: Self) {
        self.count += others.count;
        self.told.extend(others.told);
        self.told.truncate(TOLD);
    }

    fn into_result(self) -> Result<(), String> {
        match self.count - self.told.len() {
            _ if self.count == 0 => Ok(()),
            0 => Err(self.told.join("; ")),
            more => Err(format!("{}; and {more} more", self.told.join("; "))),
        }
    }
}

fn name(key: &Key) -> String {
    format!("{} on interface {}", key.ip(), key.interface())
}

/// What the sums of an interface are made of.
#[derive(Default)]
struct Sums {
    clients: u64,
    records: Tally,
    of_servers: u64,
    all: Tally,
    answered: u64,
    /// In minutes, hours and days.
    resolved: [Tally; 3],
}

/// Called by the writer, so that nothing is written meanwhile.
pub(super) fn verify(
    shared: &Shared,
    store: &Store,
    numbers: &Numbers,
) -> Result<Verified, String> {
    let reader = store
        .readable()
        .reader()
        .map_err(|error| format!("{error:#}"))?;
    let mut problems = Problems::default();
    let verified = check(shared, store, numbers, &reader, &mut problems);
    match verified {
        Ok(verified) => problems.into_result().map(|()| verified),
        Err(error) => {
            let told = problems.into_result().err();
            let told = told.map_or_else(String::new, |told| format!("; {told}"));
            Err(format!("it cannot be read: {error:#}{told}"))
        }
    }
}

fn check(
    shared: &Shared,
    store: &Store,
    numbers: &Numbers,
    reader: &Reader,
    problems: &mut Problems,
) -> Result<Verified> {
    let names = reader.interfaces()?;
    let known = shared.interfaces.read().clone();
    problems.check(known.starts_with(&names), || {
        format!("the file has the interfaces {names:?}, memory {known:?}")
    });
    problems.equal(&numbers.interfaces, &names.len(), || {
        "interfaces that are written".to_owned()
    });
    let mut sums: Vec<Sums> = names.iter().map(|_| Sums::default()).collect();
    let mut verified = Verified {
        flushes: reader.flushes()?,
        ..Verified::default()
    };
    problems.equal(&numbers.flushes, &verified.flushes, || "flushes".to_owned());

    let newest = sessions(shared, numbers, reader, problems, &mut verified)?;
    clients(
        shared,
        store,
        reader,
        problems,
        &newest,
        &mut verified,
        &mut sums,
    )?;
    servers(shared, reader, problems, &mut verified, &mut sums)?;
    rollups(shared, reader, problems, &mut verified, &mut sums)?;
    documents(shared, reader, problems)?;

    let ledgers = reader.ledgers(names.len())?;
    for (number, (name, sums)) in names.into_iter().zip(&sums).enumerate() {
        let ledger = ledgers[number];
        problems.equal(&shared.ledgers.read()[number], &ledger, || {
            format!("{name}: the ledger in memory and that in the file")
        });
        let (other, forgotten) = (ledger.other(), ledger.forgotten());
        let mut parts = sums.records;
        parts.add(other);
        parts.add(forgotten);
        problems.equal(&parts, &sums.all, || {
            format!("{name}: clients, others and forgotten ones, and the rollup of all time")
        });
        problems.equal(
            &(sums.answered + sums.all.unanswered),
            &sums.all.exchanges,
            || format!("{name}: answered and unanswered"),
        );
        for (part, resolution) in sums.resolved.iter().zip(Resolution::EACH) {
            problems.check(
                part.exchanges <= sums.all.exchanges && part.unanswered <= sums.all.unanswered,
                || format!("{name}: {} rollups have more than all", resolution.name()),
            );
        }
        problems.check(sums.of_servers <= sums.all.exchanges, || {
            format!("{name}: servers have {} exchanges", sums.of_servers)
        });
        problems.equal(
            &shared.catalogue.read().count_on(number as InterfaceId),
            &sums.clients,
            || format!("{name}: clients"),
        );
        verified.interfaces.push(VerifiedInterface {
            name,
            clients: sums.clients,
            exchanges: sums.all.exchanges,
            unanswered: sums.all.unanswered,
            of_clients: sums.records.exchanges,
            of_others: other.exchanges,
            of_forgotten: forgotten.exchanges,
            in_minutes: sums.resolved[0].exchanges,
            in_hours: sums.resolved[1].exchanges,
            in_days: sums.resolved[2].exchanges,
        });
    }
    Ok(verified)
}

/// The chains, and each client's last session.
fn sessions(
    shared: &Shared,
    numbers: &Numbers,
    reader: &Reader,
    problems: &mut Problems,
    verified: &mut Verified,
) -> Result<Newest> {
    let interfaces = shared.interfaces.read().len();
    let mut newest = Newest::default();
    let mut before = None;
    reader.each_session(|number, session| {
        verified.sessions += 1;
        problems.equal(&session.layout(), &session::LAYOUT, || {
            format!("the layout of session {number}")
        });
        problems.check(
            before.is_none_or(|before| before + 1 == number) && number > 0,
            || format!("session {number} follows {before:?}"),
        );
        before = Some(number);
        newest.first.get_or_insert(number);
        let key = session.key();
        problems.check(usize::from(key.interface()) < interfaces, || {
            format!("session {number} is of {}", name(key))
        });
        let earlier = newest.of.insert(*key, number);
        let previous = session.previous();
        // A client that was forgotten and came back begins a new chain.
        problems.check(previous == 0 || newest.is_last(previous, earlier), || {
            format!(
                "session {number} of {} follows {previous}, but the one before it is {earlier:?}",
                name(key)
            )
        });
    })?;
    problems.check(
        before.is_none_or(|last| last < numbers.next_session),
        || {
            format!(
                "the next session is {}, the last {before:?}",
                numbers.next_session
            )
        },
    );
    problems.equal(&reader.next_session()?, &numbers.next_session, || {
        "the number of the next session".to_owned()
    });
    Ok(newest)
}

/// The last session of each client that has some.
#[derive(Default)]
struct Newest {
    /// Those before it were removed.
    first: Option<u64>,
    of: HashMap<Key, u64, RandomState>,
}

impl Newest {
    /// Whether what is named as the last session is it, or older than all that are left.
    fn is_last(&self, named: u64, last: Option<u64>) -> bool {
        match last {
            Some(last) => named == last,
            None => self.first.is_none_or(|first| named < first),
        }
    }
}

fn clients(
    shared: &Shared,
    store: &Store,
    reader: &Reader,
    problems: &mut Problems,
    newest: &Newest,
    verified: &mut Verified,
    sums: &mut [Sums],
) -> Result<()> {
    let catalogue = shared.catalogue.read();
    let runs = reader.runs()?;
    verified.merging = reader.merging()?.is_some();
    verified.in_runs = RunSize::sum(&runs);
    problems.equal(&store.runs(), &&runs[..], || {
        "runs in memory and in the file".to_owned()
    });
    problems.equal(&store.merging(), &reader.merging()?, || {
        "how far they were put into the blocks".to_owned()
    });
    let mut client = |key: &Key, record: &ClientRecord, in_runs: u64, problems: &mut Problems| {
        verified.clients += 1;
        let Some(sums) = sums.get_mut(usize::from(key.interface())) else {
            problems.check(false, || format!("{}: there is no such one", name(key)));
            return;
        };
        sums.clients += 1;
        sums.records.add(Tally {
            exchanges: record.sessions(),
            unanswered: record.unanswered(),
        });
        is_sound(key, record, problems);
        let last = newest.of.get(key).copied();
        problems.check(
            // Without one its old sessions, if there are any, are of an earlier life.
            record.last_session() == 0 || newest.is_last(record.last_session(), last),
            || {
                format!(
                    "{}: its last session is {}, and {last:?}",
                    name(key),
                    record.last_session()
                )
            },
        );
        match catalogue.row(key) {
            Some(row) => {
                is_catalogued(&catalogue, row, key, record, problems);
                let known = catalogue.runs_of(key).unwrap_or_default();
                let is_known = runs
                    .iter()
                    .enumerate()
                    .all(|(place, run)| in_runs >> place & 1 == 0 || known.contains(&run.number));
                problems.check(is_known, || {
                    format!("{} is in runs that the catalogue does not name", name(key))
                });
            }
            None => problems.check(false, || format!("{} is not catalogued", name(key))),
        }
    };
    let mut blocks = Vec::new();
    let mut sizes = Problems::default();
    let mut last = None;
    reader.each_client(
        |first, entries| {
            blocks.push(*first);
            sizes.check((1..=MAX_BLOCK).contains(&entries.len()), || {
                format!("a block has {} clients", entries.len())
            });
        },
        |key, record, in_runs| {
            problems.check(last.is_none_or(|last| last < *key), || {
                format!("{} is out of order", name(key))
            });
            last = Some(*key);
            client(key, record, in_runs, problems);
        },
    )?;
    problems.absorb(sizes);
    verified.blocks = blocks.len() as u64;
    problems.check(blocks == store.blocks(), || {
        format!(
            "the file has {} blocks, memory {}, or not the same",
            blocks.len(),
            store.blocks().len()
        )
    });
    problems.equal(&(catalogue.len() as u64), &verified.clients, || {
        "clients in the catalogue and in the file".to_owned()
    });
    Ok(())
}

fn is_sound(key: &Key, record: &ClientRecord, problems: &mut Problems) {
    problems.check(record.sessions() > 0, || {
        format!("{} has no session", name(key))
    });
    problems.check(record.unanswered() <= record.sessions(), || {
        format!(
            "{}: {} of {} sessions are unanswered",
            name(key),
            record.unanswered(),
            record.sessions()
        )
    });
    problems.equal(
        &record.is_answered(),
        &(record.unanswered() < record.sessions()),
        || format!("{}: whether an answer describes it", name(key)),
    );
    let times = [record.first_seen(), record.session(), record.last_seen()];
    problems.check(times.is_sorted(), || {
        format!(
            "{}: seen first, described and seen last at {times:?}",
            name(key)
        )
    });
    problems.check(
        record.interval().is_finite() && record.interval() >= 0.0,
        || format!("{}: an interval of {}", name(key), record.interval()),
    );
}

/// The interval and the last durations depend a little on how flushes were put together: only
/// whether they are known is compared.
fn is_catalogued(
    catalogue: &Catalogue,
    row: Row,
    key: &Key,
    record: &ClientRecord,
    problems: &mut Problems,
) {
    let mut expected = Catalogue::default();
    expected.absorb(key, record, 0);
    for sort in [
        Sort::LastSeen,
        Sort::FirstSeen,
        Sort::SessionCount,
        Sort::Unanswered,
    ] {
        problems.equal(
            &catalogue.value(row, sort),
            &expected.value(0, sort),
            || format!("{}: {sort:?} in the catalogue and in its record", name(key)),
        );
    }
    for sort in [
        Sort::Latency,
        Sort::Processing,
        Sort::Total,
        Sort::ClockError,
    ] {
        let is_known = |value: u64| value != u64::MAX;
        problems.equal(
            &is_known(catalogue.value(row, sort)),
            &is_known(expected.value(0, sort)),
            || format!("{}: whether {sort:?} is known to the catalogue", name(key)),
        );
    }
    problems.equal(&catalogue.described(row), &expected.described(0), || {
        format!("{}: what describes it in the catalogue", name(key))
    });
    problems.equal(&catalogue.last_session(key), &record.last_session(), || {
        format!("{}: the last session in the catalogue", name(key))
    });
}

fn servers(
    shared: &Shared,
    reader: &Reader,
    problems: &mut Problems,
    verified: &mut Verified,
    sums: &mut [Sums],
) -> Result<()> {
    let known = shared.servers.read();
    for (key, record) in reader.servers()? {
        verified.servers += 1;
        problems.check(known.get(&key) == Some(&record), || {
            format!(
                "the server {} is another in memory than in the file",
                name(&key)
            )
        });
        if let Some(sums) = sums.get_mut(usize::from(key.interface())) {
            sums.of_servers += record.answered() + record.unanswered();
        } else {
            problems.check(false, || format!("the server {}", name(&key)));
        }
    }
    problems.equal(&(known.len() as u64), &verified.servers, || {
        "servers in memory and in the file".to_owned()
    });
    Ok(())
}

fn rollups(
    shared: &Shared,
    reader: &Reader,
    problems: &mut Problems,
    verified: &mut Verified,
    sums: &mut [Sums],
) -> Result<()> {
    reader.each_rollup(|resolution, interface, start, rollup| {
        verified.rollups += 1;
        problems.equal(&resolution.start(start), &start, || {
            format!("the beginning of a {} rollup", resolution.name())
        });
        let Some(sums) = sums.get_mut(usize::from(interface)) else {
            problems.check(false, || format!("a rollup of interface {interface}"));
            return;
        };
        let counted = Tally {
            exchanges: rollup.get(Count::exchanges),
            unanswered: rollup.get(Count::unanswered),
        };
        for (numbers, what) in [
            (&rollup.versions[..], "versions"),
            (&rollup.modes[..], "modes"),
            (&rollup.clocks[..], "clocks"),
        ] {
            problems.equal(&numbers.iter().sum(), &counted.exchanges, || {
                format!("the {what} of a {} rollup", resolution.name())
            });
        }
        match resolution {
            Resolution::All => {
                problems.check(shared.measures.has(interface, rollup), || {
                    format!("what is told of interface {interface} and the rollup of all time")
                });
                sums.all.add(counted);
                sums.answered += rollup.get(Count::answered);
            }
            Resolution::Minute => sums.resolved[0].add(counted),
            Resolution::Hour => sums.resolved[1].add(counted),
            Resolution::Day => sums.resolved[2].add(counted),
        }
    })
}

fn documents(shared: &Shared, reader: &Reader, problems: &mut Problems) -> Result<()> {
    let written = reader.documents()?;
    let documents = shared.documents.lock();
    for (name, bytes) in &documents.all {
        problems.check(
            documents.changed.contains(name) || written.get(name) == Some(bytes),
            || format!("the document {name} is not in the file as it is in memory"),
        );
    }
    for name in written.keys() {
        problems.check(documents.all.contains_key(name), || {
            format!("the document {name} is in the file only")
        });
    }
    Ok(())
}
