//! What is read from the file, at one moment and beside the writer.

use std::collections::{BTreeMap, HashMap, hash_map::Entry as Slot};

use anyhow::{Context, Result, anyhow, bail};
use redb::{
    AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableError,
    TableHandle,
};
use zerocopy::FromBytes;

use super::{
    CLIENTS, DOCUMENTS, Entry, INTERFACES, LEDGERS, Ledger, Loaded, MARKS, MAX_RUNS, META, Merging,
    ROLLUPS, RunSize, SERVERS, SESSIONS, SHELVES, entries,
    merge::{Merge, Sum},
    run::{self, Cursor, Run},
    search, unchecked,
};
use crate::history::{
    client::ClientRecord,
    key::{InterfaceId, Key},
    rollup::{Resolution, Rollup},
    server::ServerRecord,
    session::SessionRecord,
    shelf::{Item, Order, Shelf},
};

/// The state of one moment.
#[derive(Debug)]
pub struct Reader {
    pub(super) transaction: ReadTransaction,
}

impl Reader {
    pub(super) fn meta(&self, name: &str) -> Result<u64> {
        let table = match self.transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(0),
            table => table?,
        };
        let value = table.get(name)?;
        Ok(value.map_or(0, |value| value.value()))
    }

    /// What is in the file; each client with the runs that have something of it that is not in its
    /// block (bit n: the nth of all runs).
    pub(super) fn load(
        &self,
        loaded: &mut Loaded,
        blocks: &mut Vec<Key>,
        mut client: impl FnMut(&Key, &ClientRecord, u64),
    ) -> Result<()> {
        loaded.interfaces = self.interfaces()?;
        loaded.ledgers = self.ledgers(loaded.interfaces.len())?;
        loaded.wholes = self.wholes(loaded.interfaces.len())?;
        loaded.servers = self.servers()?;
        loaded.documents = self.documents()?;
        loaded.abuse = self.shelf(Shelf::Abuse, &[], &[], Order::Oldest, usize::MAX)?;
        loaded.merging = self.merging()?;
        loaded.runs = self.runs()?;
        let interfaces = loaded.interfaces.len();
        let mut wrong = None;
        self.each_client(
            |first, _| blocks.push(*first),
            |key, record, runs| {
                if usize::from(key.interface()) >= interfaces {
                    wrong = Some(*key);
                }
                client(key, record, runs);
            },
        )?;
        if let Some(key) = wrong {
            bail!("{} is a client of no interface", key.ip());
        }
        Ok(())
    }

    /// Which runs are being put into the blocks, and how far that is.
    pub(in crate::history) fn merging(&self) -> Result<Option<Merging>> {
        let up_to = self.meta("merging")?;
        if up_to == 0 {
            return Ok(None);
        }
        let table = self.transaction.open_table(MARKS)?;
        let below = table
            .get("merged")?
            .context("how far the runs are merged is missing")?;
        Ok(Some(Merging {
            up_to,
            below: zerocopy::transmute!(*below.value()),
        }))
    }

    /// The numbers of the runs, and how many clients each has; the oldest first.
    pub(in crate::history) fn runs(&self) -> Result<Vec<RunSize>> {
        let names = self.transaction.list_tables()?;
        let mut runs: Vec<RunSize> = Vec::new();
        for number in names.filter_map(|table| run::number_of(table.name())) {
            let clients = self.meta(&run::table_name(number))?;
            runs.push(RunSize { number, clients });
        }
        runs.sort_unstable_by_key(|run| run.number);
        if runs.len() > MAX_RUNS || runs.first().is_some_and(|run| run.number == 0) {
            bail!(
                "there are {} runs of clients, the first of them {:?}",
                runs.len(),
                runs.first()
            );
        }
        Ok(runs)
    }

    /// A run's table; nothing where it is in the blocks and gone.
    fn run(&self, number: u64) -> Result<Option<ReadOnlyTable<&'static [u8; 18], &'static [u8]>>> {
        let name = run::table_name(number);
        match self.transaction.open_table(run::table(&name)) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => Ok(Some(table?)),
        }
    }

    /// Runs from a key on, side by side.
    pub(super) fn merge(&self, runs: &[(u64, Option<Key>)]) -> Result<Merge> {
        let cursors = runs.iter().map(|(number, from)| {
            let cursor = self
                .run(*number)
                .and_then(|table| Cursor::new(&table.context("it is missing")?, from.as_ref()));
            cursor.with_context(|| format!("the run of flush {number}"))
        });
        Ok(Merge::new(cursors.collect::<Result<_>>()?))
    }

    /// Hands over each block, with the key that it stands under, and each client, with its whole
    /// record and the runs that have something of it that is not in its block (bit n: the nth of
    /// all runs). Clients come in the order of their keys.
    pub(in crate::history) fn each_client(
        &self,
        mut block: impl FnMut(&Key, &[Entry]),
        mut client: impl FnMut(&Key, &ClientRecord, u64),
    ) -> Result<()> {
        let merging = self.merging()?;
        let runs = self.runs()?.into_iter().map(|run| {
            let is_merged = merging.filter(|it| run.number <= it.up_to);
            (run.number, is_merged.map(|it| it.below))
        });
        let mut merge = self.merge(&runs.collect::<Vec<_>>())?;
        let mut hand_over = |sum: &Sum, known: Option<&ClientRecord>| {
            if let Some(record) = sum.onto(known) {
                client(&sum.key, &record, sum.runs);
            }
        };
        let mut last = None;
        for item in self.transaction.open_table(CLIENTS)?.iter()? {
            let (key, bytes) = item?;
            let entries = entries(bytes.value())?;
            let first: Key = zerocopy::transmute!(*key.value());
            if entries.first().is_none_or(|entry| entry.key != first) {
                bail!("the block of {} does not begin with it", first.ip());
            }
            block(&first, entries);
            for entry in entries {
                if last.is_some_and(|last| last >= entry.key) {
                    bail!("{} is out of order", entry.key.ip());
                }
                last = Some(entry.key);
                while let Some(sum) = merge.next_before(Some(&entry.key))? {
                    hand_over(&sum, None);
                }
                if merge.peek() == Some(entry.key)
                    && let Some(sum) = merge.next_before(None)?
                {
                    hand_over(&sum, Some(&entry.record));
                } else {
                    let whole = Sum::nothing(entry.key);
                    hand_over(&whole, Some(&entry.record));
                }
            }
        }
        while let Some(sum) = merge.next_before(None)? {
            hand_over(&sum, None);
        }
        Ok(())
    }

    /// The names of the interfaces, at the places of their numbers.
    pub(in crate::history) fn interfaces(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for item in self.transaction.open_table(INTERFACES)?.iter()? {
            let (number, name) = item?;
            if usize::from(number.value()) != names.len() {
                bail!("interface {} is missing", names.len());
            }
            names.push(name.value().to_owned());
        }
        Ok(names)
    }

    /// The ledgers of so many interfaces.
    pub(in crate::history) fn ledgers(&self, interfaces: usize) -> Result<Vec<Ledger>> {
        let mut ledgers = vec![Ledger::default(); interfaces];
        for item in self.transaction.open_table(LEDGERS)?.iter()? {
            let (number, bytes) = item?;
            let ledger = Ledger::read_from_bytes(bytes.value())
                .map_err(|_| anyhow!("a ledger has {} bytes", bytes.value().len()))?;
            *ledgers
                .get_mut(usize::from(number.value()))
                .context("a ledger of no interface")? = ledger;
        }
        Ok(ledgers)
    }

    /// All servers.
    pub(in crate::history) fn servers(&self) -> Result<Vec<(Key, ServerRecord)>> {
        let mut servers = Vec::new();
        for item in self.transaction.open_table(SERVERS)?.iter()? {
            let (key, bytes) = item?;
            let record = ServerRecord::read(bytes.value()).with_context(|| {
                let (length, layout) = (bytes.value().len(), bytes.value().first());
                format!("a server's record has {length} bytes and layout {layout:?}")
            })?;
            servers.push((zerocopy::transmute!(*key.value()), record));
        }
        Ok(servers)
    }

    /// Values of a shelf from a key up to, but without, another; up to the end where that is empty.
    pub(in crate::history) fn shelf(
        &self,
        shelf: Shelf,
        from: &[u8],
        to: &[u8],
        order: Order,
        limit: usize,
    ) -> Result<Vec<Item>> {
        let table = match self.transaction.open_table(SHELVES) {
            // The file is an older one, and nothing was put down yet.
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let shelf = shelf as u8;
        let end = match to {
            [] => (shelf + 1, [].as_slice()),
            to => (shelf, to),
        };
        let mut items = table.range((shelf, from)..end)?;
        let mut found = Vec::new();
        while found.len() < limit {
            let item = match order {
                Order::Oldest => items.next(),
                Order::Newest => items.next_back(),
            };
            let Some(item) = item else { break };
            let (key, value) = item?;
            found.push((key.value().1.to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// All documents.
    pub(in crate::history) fn documents(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut documents = BTreeMap::new();
        for item in self.transaction.open_table(DOCUMENTS)?.iter()? {
            let (name, bytes) = item?;
            documents.insert(name.value().to_owned(), bytes.value().to_owned());
        }
        Ok(documents)
    }

    /// How many flushes were written.
    pub(in crate::history) fn flushes(&self) -> Result<u64> {
        self.meta("flushes")
    }

    /// The number of the next session.
    pub(in crate::history) fn next_session(&self) -> Result<u64> {
        Ok(self.meta("next_session")?.max(1))
    }

    /// Hands over all sessions, the oldest first.
    pub(in crate::history) fn each_session(
        &self,
        mut take: impl FnMut(u64, &SessionRecord),
    ) -> Result<()> {
        for item in self.transaction.open_table(SESSIONS)?.iter()? {
            let (number, bytes) = item?;
            take(number.value(), &session(bytes.value())?);
        }
        Ok(())
    }

    /// Hands over all rollups.
    pub(in crate::history) fn each_rollup(
        &self,
        mut take: impl FnMut(Resolution, InterfaceId, i64, &Rollup),
    ) -> Result<()> {
        for item in self.transaction.open_table(ROLLUPS)?.iter()? {
            let (key, bytes) = item?;
            let (resolution, interface, start) = key.value();
            let resolution = Resolution::EACH
                .into_iter()
                .find(|known| *known as u8 == resolution)
                .with_context(|| format!("a rollup has the resolution {resolution}"))?;
            let rollup = Rollup::from_bytes(bytes.value()).context("a rollup cannot be read")?;
            take(resolution, interface, start, &rollup);
        }
        Ok(())
    }

    /// Clients, best asked for in the order of their keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn clients(&self) -> Result<Clients<'_>> {
        Ok(Clients {
            reader: self,
            table: self.transaction.open_table(CLIENTS)?,
            block: None,
            merging: self.merging()?,
            runs: HashMap::new(),
        })
    }

    /// What `view` makes of the rollups of an interface that began between two times, in seconds
    /// since 1970, both included: of the latest `limit`, in the order of time. Each is forgotten
    /// before the next is read: they take some 50 kB.
    ///
    /// # Errors
    /// When the file cannot be read, or holds what is no rollup.
    pub fn rollups<T>(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
        between: std::ops::RangeInclusive<i64>,
        limit: usize,
        mut view: impl FnMut(i64, &Rollup) -> T,
    ) -> Result<Vec<T>> {
        let table = self.transaction.open_table(ROLLUPS)?;
        let resolution = resolution as u8;
        let range =
            (resolution, interface, *between.start())..=(resolution, interface, *between.end());
        let mut found = Vec::new();
        for item in table.range(range)?.rev().take(limit) {
            let (key, bytes) = item?;
            let rollup = Rollup::from_bytes(bytes.value()).context("a rollup cannot be read")?;
            found.push(view(key.value().2, &rollup));
        }
        found.reverse();
        Ok(found)
    }

    /// What happened on each of so many interfaces since the database began.
    fn wholes(&self, interfaces: usize) -> Result<Vec<Rollup>> {
        // A new file has no tables yet.
        if interfaces == 0 {
            return Ok(Vec::new());
        }
        (0..interfaces)
            .map(|number| {
                let number = number as InterfaceId;
                let all = self.rollups(Resolution::All, number, 0..=0, 1, |_, it| it.clone())?;
                Ok(all.into_iter().next().unwrap_or_default())
            })
            .collect()
    }

    /// How many rollups of an interface began before a time, in seconds since 1970.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rollups_before(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
        before: i64,
    ) -> Result<u64> {
        let table = self.transaction.open_table(ROLLUPS)?;
        let resolution = resolution as u8;
        let range = (resolution, interface, i64::MIN)..(resolution, interface, before);
        Ok(table.range(range)?.count() as u64)
    }

    /// How many sessions, from the oldest on, were seen before a time.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sessions_before(&self, before: i64) -> Result<u64> {
        let table = self.transaction.open_table(SESSIONS)?;
        let mut count = 0;
        for item in table.iter()? {
            let (_, bytes) = item?;
            if session(bytes.value())?.seen() >= before {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// The sessions' table.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sessions(&self) -> Result<Sessions> {
        Ok(Sessions(self.transaction.open_table(SESSIONS)?))
    }
}

/// Clients, with the block in which the last one was, and the same of the runs: neighbours cost
/// little.
pub struct Clients<'a> {
    reader: &'a Reader,
    table: ReadOnlyTable<&'static [u8; 18], &'static [u8]>,
    block: Option<AccessGuard<'static, &'static [u8]>>,
    merging: Option<Merging>,
    /// Those that were looked into; nothing in place of one that is gone.
    runs: HashMap<u64, Option<Run>>,
}

impl Clients<'_> {
    /// A client, put together from its block and these runs, the oldest first. Those that are gone
    /// meanwhile are in the block.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(
        &mut self,
        key: &Key,
        runs: impl Iterator<Item = u64>,
    ) -> Result<Option<ClientRecord>> {
        let mut record = self.in_block(key)?;
        for number in runs {
            let is_merged = |it: Merging| number <= it.up_to && *key < it.below;
            if self.merging.is_some_and(is_merged) {
                continue;
            }
            let run = match self.runs.entry(number) {
                Slot::Occupied(run) => run.into_mut(),
                Slot::Vacant(slot) => slot.insert(self.reader.run(number)?.map(Run::new)),
            };
            if let Some(run) = run {
                run.put_onto(key, &mut record)
                    .with_context(|| format!("{} in the run of flush {number}", key.ip()))?;
            }
        }
        Ok(record)
    }

    fn in_block(&mut self, key: &Key) -> Result<Option<ClientRecord>> {
        if let Some(block) = &self.block {
            let entries = unchecked(block.value())?;
            let first = entries.first().is_some_and(|entry| entry.key <= *key);
            if first && entries.last().is_some_and(|entry| entry.key >= *key) {
                return Ok(search(entries, key));
            }
        }
        let Some(block) = self.table.range::<&[u8; 18]>(..=key.bytes())?.next_back() else {
            return Ok(None);
        };
        let (_, bytes) = block?;
        let found = search(entries(bytes.value())?, key);
        self.block = Some(bytes);
        Ok(found)
    }
}

/// Sessions by their numbers.
#[derive(Debug)]
pub struct Sessions(ReadOnlyTable<u64, &'static [u8]>);

impl Sessions {
    /// A session; nothing when it was removed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, number: u64) -> Result<Option<SessionRecord>> {
        match self.0.get(number)? {
            Some(bytes) => Ok(Some(session(bytes.value())?)),
            None => Ok(None),
        }
    }

    /// How many there are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn count(&self) -> Result<u64> {
        Ok(self.0.len()?)
    }
}

pub(super) fn session(bytes: &[u8]) -> Result<SessionRecord> {
    SessionRecord::read_from_bytes(bytes)
        .map_err(|_| anyhow!("a session's record has {} bytes", bytes.len()))
}
