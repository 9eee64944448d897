//! What is written to the file, in transactions.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use redb::{Database, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use zerocopy::IntoBytes;

use super::{
    CLIENTS, DOCUMENTS, Entry, GROWTH, INTERFACES, LEDGERS, Ledger, MARKS, MAX_BLOCK, META,
    Merging, ROLLUPS, Readable, RunSize, SERVERS, SESSIONS, SHELVES, SMALL, SMALL_RUN, State,
    entries,
    merge::{Merge, Sum},
    read::session,
    run::{self, Found, RunWriter},
};
use crate::history::{
    client::{News, Visit},
    key::{InterfaceId, Key},
    rollup::{Resolution, Rollup},
    server::ServerRecord,
    session::SessionRecord,
    shelf::Shelf,
};

/// Clients after which blocks are written, however many more there are for them.
const MANY: usize = 16 * MAX_BLOCK;

/// What a flush has of a client.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// It asked.
    Came(News<'a>),
    /// Its record is removed.
    Removed,
}

impl<'a> Change<'a> {
    const fn found(self) -> Found<'a> {
        match self {
            Self::Came(news) => Found {
                removed: false,
                news: Some(news),
            },
            Self::Removed => Found {
                removed: true,
                news: None,
            },
        }
    }
}

/// A transaction. Dropping it changes nothing.
pub struct Writer<'a> {
    pub(super) transaction: WriteTransaction,
    pub(super) database: Arc<Database>,
    /// As it will be.
    pub(super) state: State,
    pub(super) store_state: &'a mut State,
}

impl Writer<'_> {
    /// Makes it so, as the flush of this number.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is, or all: the number that is found when the file
    /// is opened again tells.
    pub fn commit(self, flush: u64) -> Result<()> {
        self.transaction
            .open_table(META)?
            .insert("flushes", flush)?;
        self.transaction
            .commit()
            .context("writing to the database")?;
        *self.store_state = self.state;
        Ok(())
    }

    /// Names an interface.
    ///
    /// # Errors
    /// When it cannot be written, as all that follow.
    pub fn put_interface(&self, number: InterfaceId, name: &str) -> Result<()> {
        self.transaction
            .open_table(INTERFACES)?
            .insert(number, name)?;
        Ok(())
    }

    /// Writes an interface's ledger.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_ledger(&self, interface: InterfaceId, ledger: &Ledger) -> Result<()> {
        self.transaction
            .open_table(LEDGERS)?
            .insert(interface, ledger.as_bytes())?;
        Ok(())
    }

    /// Writes a document; nothing removes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_document(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.transaction
            .open_table(DOCUMENTS)?
            .insert(name, bytes)?;
        Ok(())
    }

    /// Writes values of shelves, and removes those that are none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_shelves<'a>(
        &self,
        changes: impl Iterator<Item = (Shelf, &'a [u8], Option<&'a [u8]>)>,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(SHELVES)?;
        for (shelf, key, value) in changes {
            let key = (shelf as u8, key);
            match value {
                Some(value) => drop(table.insert(key, value)?),
                None => drop(table.remove(key)?),
            }
        }
        Ok(())
    }

    /// Writes servers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_servers<'a>(
        &self,
        servers: impl Iterator<Item = (&'a Key, &'a ServerRecord)>,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(SERVERS)?;
        for (key, record) in servers {
            table.insert(key.bytes(), record.as_bytes())?;
        }
        Ok(())
    }

    /// Removes servers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_servers(&self, servers: &[Key]) -> Result<()> {
        let mut table = self.transaction.open_table(SERVERS)?;
        for key in servers {
            table.remove(key.bytes())?;
        }
        Ok(())
    }

    /// Adds to a rollup.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_rollup(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
        start: i64,
        rollup: &Rollup,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(ROLLUPS)?;
        let key = (resolution as u8, interface, start);
        let known = match table.get(key)? {
            Some(bytes) => {
                Some(Rollup::from_bytes(bytes.value()).context("a rollup cannot be read")?)
            }
            None => None,
        };
        let bytes = match known {
            Some(mut known) => {
                known.merge(rollup);
                known.to_bytes()
            }
            None => rollup.to_bytes(),
        };
        table.insert(key, bytes.as_slice())?;
        Ok(())
    }

    /// Removes rollups of an interface that began before a time, at most so many. Returns how many
    /// there were.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_rollups(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
        before: i64,
        limit: usize,
    ) -> Result<u64> {
        let mut table = self.transaction.open_table(ROLLUPS)?;
        let resolution = resolution as u8;
        let range = (resolution, interface, i64::MIN)..(resolution, interface, before);
        let mut count = 0;
        for item in table.extract_from_if(range, |_, _| true)?.take(limit) {
            item?;
            count += 1;
        }
        Ok(count)
    }

    /// When the last rollup of an interface began.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_rollup(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
    ) -> Result<Option<i64>> {
        let table = self.transaction.open_table(ROLLUPS)?;
        let resolution = resolution as u8;
        let last = table
            .range((resolution, interface, i64::MIN)..=(resolution, interface, i64::MAX))?
            .next_back();
        last.map_or(Ok(None), |item| Ok(Some(item?.0.value().2)))
    }

    /// Appends sessions, the first with the number `first`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append_sessions(&self, first: u64, sessions: &[SessionRecord]) -> Result<()> {
        let mut table = self.transaction.open_table(SESSIONS)?;
        for (number, session) in (first..).zip(sessions) {
            table.insert(number, session.as_bytes())?;
        }
        self.transaction
            .open_table(META)?
            .insert("next_session", first + sessions.len() as u64)?;
        Ok(())
    }

    /// Removes sessions from the oldest on, as long as there are more than `most` or they were seen
    /// before `before`, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn trim_sessions(&self, most: u64, before: i64, limit: usize) -> Result<u64> {
        let mut table = self.transaction.open_table(SESSIONS)?;
        let mut surplus = table.len()?.saturating_sub(most);
        let mut end = None;
        let mut count = 0;
        for item in table.iter()?.take(limit) {
            let (number, bytes) = item?;
            if surplus == 0 && session(bytes.value())?.seen() >= before {
                break;
            }
            surplus = surplus.saturating_sub(1);
            count += 1;
            end = Some(number.value());
        }
        if let Some(end) = end {
            table.retain_in(..=end, |_, _| false)?;
        }
        Ok(count)
    }

    /// Writes what came of clients, in the order of their keys, as a run; onto the last one where
    /// both are small. Returns the number of the run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_run<'n>(
        &mut self,
        flush: u64,
        count: usize,
        news: impl Iterator<Item = (Key, Change<'n>)>,
    ) -> Result<u64> {
        let merging = self.state.merging.map_or(0, |it| it.up_to);
        let count = count as u64;
        let last = self.state.runs.last().copied().filter(|last| {
            let is_small = last.clients.saturating_add(count) <= SMALL_RUN;
            last.number > merging && is_small && last.clients <= count.saturating_mul(GROWTH)
        });
        let number = last.map_or(flush, |last| last.number);
        let name = run::table_name(number);
        let table = run::table(&name);
        let clients = match last {
            None => {
                let mut run = RunWriter::new(self.transaction.open_table(table)?);
                for (key, change) in news {
                    run.push(key, change.found())?;
                }
                let clients = run.finish()?;
                self.state.runs.push(RunSize { number, clients });
                clients
            }
            Some(_) => {
                let mut sums = self.read_run(number)?;
                for (key, change) in news {
                    let sum = sums.entry(key).or_insert(Sum::nothing(key));
                    sum.add(&change.found());
                }
                self.transaction.delete_table(table)?;
                let mut run = RunWriter::new(self.transaction.open_table(table)?);
                for (key, sum) in &sums {
                    let visit = sum.news.as_ref().and_then(Visit::of);
                    let visit = visit.as_ref().map(News::Visit);
                    run.push(
                        *key,
                        Found {
                            removed: sum.removed,
                            news: visit.or(sum.news.as_ref().map(News::Record)),
                        },
                    )?;
                }
                let clients = run.finish()?;
                if let Some(run) = self.state.runs.last_mut() {
                    run.clients = clients;
                }
                clients
            }
        };
        self.transaction
            .open_table(META)?
            .insert(name.as_str(), clients)?;
        Ok(number)
    }

    fn read_run(&self, number: u64) -> Result<BTreeMap<Key, Sum>> {
        let reader = Readable(Arc::clone(&self.database)).reader()?;
        let mut merge = reader.merge(&[(number, None)])?;
        let mut sums = BTreeMap::new();
        while let Some(sum) = merge.next_before(None)? {
            sums.insert(sum.key, sum);
        }
        Ok(sums)
    }

    /// Puts runs into the blocks, a part of them: those that are being put there, or else all that
    /// were committed. `most` is how many entries of theirs at least; what is left is for another
    /// time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn merge(&mut self, most: u64) -> Result<()> {
        let reader = Readable(Arc::clone(&self.database)).reader()?;
        let committed = reader.runs()?;
        let merging = self.state.merging.or_else(|| {
            let up_to = committed.last()?.number;
            Some(Merging {
                up_to,
                below: Key::new([0; 16], 0),
            })
        });
        let Some(Merging { up_to, below }) = merging else {
            return Ok(());
        };
        let runs: Vec<(u64, Option<Key>)> = committed
            .iter()
            .filter(|run| run.number <= up_to)
            .map(|run| (run.number, Some(below)))
            .collect();
        let mut source = reader.merge(&runs)?;
        self.put_into_blocks(&mut source, most)?;
        let mut meta = self.transaction.open_table(META)?;
        match source.peek() {
            Some(below) => {
                meta.insert("merging", up_to)?;
                let mut marks = self.transaction.open_table(MARKS)?;
                marks.insert("merged", below.bytes())?;
                self.state.merging = Some(Merging { up_to, below });
            }
            None => {
                meta.insert("merging", 0)?;
                self.state.merging = None;
                for (number, _) in runs {
                    let name = run::table_name(number);
                    self.transaction.delete_table(run::table(&name))?;
                    meta.remove(name.as_str())?;
                }
                self.state.runs.retain(|run| run.number > up_to);
            }
        }
        Ok(())
    }

    /// Puts what comes from `source` into the blocks, until so many entries were taken from it.
    fn put_into_blocks(&mut self, source: &mut Merge, most: u64) -> Result<()> {
        let mut table = self.transaction.open_table(CLIENTS)?;
        let old = std::mem::take(&mut self.state.blocks);
        let mut blocks = Vec::with_capacity(old.len() + 16);
        let mut next = 0;
        // What is to be written, and what was too little to be written alone.
        let mut block: Vec<Entry> = Vec::with_capacity(MANY + MAX_BLOCK);
        // What the block had.
        let mut before: Vec<Entry> = Vec::with_capacity(MAX_BLOCK);
        loop {
            let first_change = source.peek().filter(|_| source.taken < most);
            // Blocks before the one that the key falls into stay as they are.
            if block.is_empty() {
                let Some(first) = first_change else {
                    break;
                };
                let place = next + old[next..].partition_point(|block| *block <= first);
                let place = place.saturating_sub(1).max(next);
                blocks.extend_from_slice(&old[next..place]);
                next = place;
            }
            let this = old.get(next).copied();
            let end = old.get(next + 1);
            let written = blocks.len();
            before.clear();
            if let Some(first) = &this {
                let bytes = table.get(first.bytes())?;
                let bytes = bytes.with_context(|| format!("the block of {}", first.ip()))?;
                before.extend_from_slice(entries(bytes.value())?);
            }
            let mut known = before.as_slice();
            while source.taken < most
                && let Some(sum) = source.next_before(end)?
            {
                let place = known.partition_point(|entry| entry.key < sum.key);
                let (others, rest) = known.split_at(place);
                block.extend_from_slice(others);
                let same = rest.first().filter(|entry| entry.key == sum.key);
                known = &rest[usize::from(same.is_some())..];
                if let Some(record) = sum.onto(same.map(|entry| &entry.record)) {
                    block.push(Entry {
                        key: sum.key,
                        record,
                    });
                }
                if block.len() >= MANY {
                    put(&mut table, &block[..MANY], &mut blocks)?;
                    block.drain(..MANY);
                }
            }
            block.extend_from_slice(known);
            if let Some(first) = this {
                next += 1;
                let is_small = block.len() < SMALL && next < old.len();
                let stays = !is_small && block.first().is_some_and(|entry| entry.key == first)
                    || blocks[written..].contains(&first);
                if !stays {
                    table.remove(first.bytes())?;
                }
                if is_small {
                    continue;
                }
            }
            put(&mut table, &block, &mut blocks)?;
            block.clear();
        }
        blocks.extend_from_slice(old.get(next..).unwrap_or_default());
        drop(table);
        self.state.blocks = blocks;
        Ok(())
    }
}

/// Writes blocks of about the same size.
fn put(
    table: &mut Table<'_, &'static [u8; 18], &'static [u8]>,
    clients: &[Entry],
    blocks: &mut Vec<Key>,
) -> Result<()> {
    if clients.is_empty() {
        return Ok(());
    }
    let pieces = clients.len().div_ceil(MAX_BLOCK);
    for piece in clients.chunks(clients.len().div_ceil(pieces)) {
        table.insert(piece[0].key.bytes(), piece.as_bytes())?;
        blocks.push(piece[0].key);
    }
    Ok(())
}
