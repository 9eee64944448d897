//! Files of an older layout, rewritten as today's in one transaction when they are opened: whoever
//! is killed meanwhile finds the old file, whole. Only layout 2 was ever released.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use redb::{Database, ReadableDatabase, ReadableTable, TableHandle, WriteTransaction};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::little_endian::U16,
};

use super::{
    CLIENTS, Entry, LAYOUT, MAX_BLOCK, META,
    run::{self, Found, RunWriter},
};
use crate::history::{
    client::{
        ClientRecord, News, Visit,
        layout1::{OldRecord, OldVisit},
    },
    key::Key,
};

/// The layout that is rewritten.
pub(super) const OLD: u64 = 2;

/// A client in a block or a run of layout 2.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OldEntry {
    key: Key,
    record: OldRecord,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OldVisitEntry {
    key: Key,
    visit: OldVisit,
}

/// What a chunk of a run begins with.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OldHeader {
    layout: u8,
    unused: u8,
    removed: U16,
    visits: U16,
    entries: U16,
}

const OLD_CHUNK: u8 = 1;
/// Between two lines in the log.
const TOLD: Duration = Duration::from_secs(10);

/// Rewrites a file of layout 2, and tells the log how far that is and how long it took.
pub(super) fn upgrade(database: &Database, path: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut told = begun;
    tracing::info!(
        "{} has layout {OLD}: it is being rewritten with layout {LAYOUT}",
        path.display()
    );
    let clients = rewrite(database, |clients| {
        if told.elapsed() >= TOLD {
            told = Instant::now();
            tracing::info!("{clients} clients were rewritten");
        }
    })?;
    tracing::info!(
        "{} was rewritten with layout {LAYOUT} in {:.1} s: {clients} records of clients",
        path.display(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What it was about to do when the disk failed it, and the room that takes: what is rewritten stands
/// beside what was there until both are whole.
pub(super) fn wanted(path: &Path) -> String {
    let bytes = std::fs::metadata(path).map_or(0, |it| it.len());
    format!(
        "upgrading {}, which takes up to twice its size, {} MB, to be free beside it; the old file is whole",
        path.display(),
        (2 * bytes).div_ceil(1_000_000)
    )
}

/// `progress` is told after each block and chunk how many records of clients were rewritten.
fn rewrite(database: &Database, mut progress: impl FnMut(u64)) -> Result<u64> {
    // As it was, while it is written anew.
    let old = database.begin_read()?;
    let new = database.begin_write()?;
    let mut clients = 0;
    let mut count = |more: usize| {
        clients += more as u64;
        progress(clients);
    };
    blocks(&old, &new, &mut count).context("rewriting the blocks of clients")?;
    for table in old.list_tables()? {
        if let Some(number) = run::number_of(table.name()) {
            one_run(&old, &new, number, &mut count)
                .with_context(|| format!("rewriting the run of flush {number}"))?;
        }
    }
    // Servers are read in either layout, and written in today's when they change.
    new.open_table(META)?.insert("layout", LAYOUT)?;
    new.commit().context("writing to the database")?;
    Ok(clients)
}

fn blocks(
    old: &redb::ReadTransaction,
    new: &WriteTransaction,
    count: &mut impl FnMut(usize),
) -> Result<()> {
    new.delete_table(CLIENTS)?;
    let mut table = new.open_table(CLIENTS)?;
    // Fewer fit into a block than did.
    let mut block: Vec<Entry> = Vec::with_capacity(3 * MAX_BLOCK);
    let mut put = |block: &[Entry]| -> Result<()> {
        if let Some(first) = block.first() {
            table.insert(first.key.bytes(), block.as_bytes())?;
        }
        Ok(())
    };
    for item in old.open_table(CLIENTS)?.iter()? {
        let (_, bytes) = item?;
        let entries = <[OldEntry]>::ref_from_bytes(bytes.value());
        let Ok(entries) = entries else {
            bail!("a block of clients has {} bytes", bytes.value().len());
        };
        for OldEntry { key, record } in entries {
            let record = today(record)?;
            block.push(Entry { key: *key, record });
        }
        while block.len() >= MAX_BLOCK {
            put(&block[..MAX_BLOCK])?;
            block.drain(..MAX_BLOCK);
        }
        count(entries.len());
    }
    put(&block)
}

fn today(record: &OldRecord) -> Result<ClientRecord> {
    record
        .today()
        .context("a client's record has another layout")
}

/// What a chunk has of a client.
#[derive(Default)]
struct Part {
    removed: bool,
    visit: Option<Visit>,
    record: Option<ClientRecord>,
}

fn one_run(
    old: &redb::ReadTransaction,
    new: &WriteTransaction,
    number: u64,
    count: &mut impl FnMut(usize),
) -> Result<()> {
    let name = run::table_name(number);
    new.delete_table(run::table(&name))?;
    let mut writer = RunWriter::new(new.open_table(run::table(&name))?);
    for item in old.open_table(run::table(&name))?.iter()? {
        let (_, bytes) = item?;
        let parts = chunk(bytes.value())?;
        for (key, part) in &parts {
            let visit = part.visit.as_ref().map(News::Visit);
            let news = visit.or(part.record.as_ref().map(News::Record));
            let removed = part.removed;
            writer.push(*key, Found { removed, news })?;
        }
        count(parts.len());
    }
    writer.finish()?;
    Ok(())
}

fn chunk(bytes: &[u8]) -> Result<BTreeMap<Key, Part>> {
    let wrong = || format!("a chunk of {} bytes is not what it should be", bytes.len());
    let (header, rest) = OldHeader::ref_from_prefix(bytes)
        .ok()
        .filter(|(header, _)| header.layout == OLD_CHUNK)
        .with_context(wrong)?;
    let count = |count: U16| usize::from(count.get());
    let split = || {
        let (removed, rest) =
            <[Key]>::ref_from_prefix_with_elems(rest, count(header.removed)).ok()?;
        let (visits, rest) =
            <[OldVisitEntry]>::ref_from_prefix_with_elems(rest, count(header.visits)).ok()?;
        let entries = <[OldEntry]>::ref_from_bytes_with_elems(rest, count(header.entries)).ok()?;
        Some((removed, visits, entries))
    };
    let (removed, visits, entries) = split().with_context(wrong)?;
    let mut parts: BTreeMap<Key, Part> = BTreeMap::new();
    for key in removed {
        parts.entry(*key).or_default().removed = true;
    }
    for OldVisitEntry { key, visit } in visits {
        let visit = visit.today().context("a visit has another layout")?;
        parts.entry(*key).or_default().visit = Some(visit);
    }
    for OldEntry { key, record } in entries {
        parts.entry(*key).or_default().record = Some(today(record)?);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
