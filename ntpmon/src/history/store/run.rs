//! A run: what a flush, or a few small ones, brought of clients, in the order of their keys, and
//! whose record was removed before that. Each run is a table, whose values are chunks:
//!
//! | part | what it is |
//! |---|---|
//! | 8 bytes | the layout, 0, and how many there are of each of the next three |
//! | keys | whose record was removed; what came since stands below |
//! | visits | clients of which one exchange came |
//! | entries | clients of which more came |
//!
//! Each part is in the order of the keys, and a client is in at most one of the last two.

use anyhow::{Context, Result, bail};
use redb::{AccessGuard, Range, ReadOnlyTable, Table, TableDefinition};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::little_endian::U16,
};

use super::Entry;
use crate::history::{
    client::{self, ClientRecord, News, Visit},
    key::Key,
};

/// The layout of a chunk.
const LAYOUT: u8 = 2;
/// Bytes of a chunk: redb gives a value a power of two of pages, and writes them all.
const CHUNK: usize = 4 * 4096 - 64;

/// What the names of their tables begin with.
const PREFIX: &str = "run ";

pub(super) fn table_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The table of a run, by the name that [`table_name`] gives it.
pub(super) const fn table(name: &str) -> TableDefinition<'_, &'static [u8; 18], &'static [u8]> {
    TableDefinition::new(name)
}

/// The number of a run by the name of its table; nothing where it is another table.
pub(super) fn number_of(table_name: &str) -> Option<u64> {
    u64::from_str_radix(table_name.strip_prefix(PREFIX)?, 16).ok()
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    layout: u8,
    unused: u8,
    removed: U16,
    visits: U16,
    entries: U16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VisitEntry {
    key: Key,
    visit: Visit,
}

/// What a run has of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// Its record was removed before.
    pub(super) removed: bool,
    /// What came since.
    pub(super) news: Option<News<'a>>,
}

impl Found<'_> {
    /// Puts it onto what is known from earlier runs.
    pub(super) fn put_onto(&self, known: &mut Option<ClientRecord>) {
        if self.removed {
            *known = None;
        }
        match (self.news, known.as_mut()) {
            (None, _) => {}
            (Some(news), None) => *known = Some(news.record()),
            (Some(News::Record(record)), Some(known)) => known.absorb(record),
            (Some(news @ News::Visit(_)), Some(known)) => known.absorb(&news.record()),
        }
    }
}

/// A chunk's parts.
#[derive(Clone, Copy, Debug)]
struct Chunk<'a> {
    removed: &'a [Key],
    visits: &'a [VisitEntry],
    entries: &'a [Entry],
}

impl<'a> Chunk<'a> {
    /// Without a look at the layouts of what is in it.
    fn unchecked(bytes: &'a [u8]) -> Result<Self> {
        let (header, rest) = Header::ref_from_prefix(bytes)
            .ok()
            .filter(|(header, _)| header.layout == LAYOUT)
            .with_context(|| format!("a chunk of {} bytes begins otherwise", bytes.len()))?;
        let count = |count: U16| usize::from(count.get());
        let parts = || {
            let (removed, rest) =
                <[Key]>::ref_from_prefix_with_elems(rest, count(header.removed)).ok()?;
            let (visits, rest) =
                <[VisitEntry]>::ref_from_prefix_with_elems(rest, count(header.visits)).ok()?;
            let entries = <[Entry]>::ref_from_bytes_with_elems(rest, count(header.entries)).ok()?;
            Some(Self {
                removed,
                visits,
                entries,
            })
        };
        parts().with_context(|| format!("a chunk has {} bytes", bytes.len()))
    }

    fn checked(bytes: &'a [u8]) -> Result<Self> {
        let chunk = Self::unchecked(bytes)?;
        let known = chunk.visits.iter().all(|it| it.visit.is_known())
            && (chunk.entries.iter()).all(|it| it.record.layout() == client::LAYOUT);
        if !known {
            bail!("what came of a client has another layout");
        }
        Ok(chunk)
    }

    fn find(&self, key: &Key) -> Found<'a> {
        let visit = self.visits.binary_search_by(|it| it.key.cmp(key));
        let entry = || self.entries.binary_search_by(|it| it.key.cmp(key));
        Found {
            removed: self.removed.binary_search(key).is_ok(),
            news: match visit {
                Ok(place) => Some(News::Visit(&self.visits[place].visit)),
                Err(_) => entry()
                    .ok()
                    .map(|place| News::Record(&self.entries[place].record)),
            },
        }
    }

    /// The least key from these places on.
    fn least(&self, at: [usize; 3]) -> Option<Key> {
        let removed = self.removed.get(at[0]).copied();
        let visit = self.visits.get(at[1]).map(|it| it.key);
        let entry = self.entries.get(at[2]).map(|it| it.key);
        removed.into_iter().chain(visit).chain(entry).min()
    }
}

/// Writes a run, in the order of the keys.
pub(super) struct RunWriter<'t> {
    table: Table<'t, &'static [u8; 18], &'static [u8]>,
    removed: Vec<Key>,
    visits: Vec<VisitEntry>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    count: u64,
    last: Option<Key>,
}

impl<'t> RunWriter<'t> {
    pub(super) fn new(table: Table<'t, &'static [u8; 18], &'static [u8]>) -> Self {
        Self {
            table,
            removed: Vec::new(),
            visits: Vec::with_capacity(CHUNK / size_of::<VisitEntry>()),
            entries: Vec::with_capacity(CHUNK / size_of::<Entry>()),
            bytes: Vec::with_capacity(CHUNK),
            count: 0,
            last: None,
        }
    }

    /// Adds a client, which comes after all that were added before.
    pub(super) fn push(&mut self, key: Key, found: Found<'_>) -> Result<()> {
        if self.last.is_some_and(|last| last >= key) {
            bail!("{} would be out of order", key.ip());
        }
        self.last = Some(key);
        let size = size_of::<Header>()
            + self.removed.as_bytes().len()
            + self.visits.as_bytes().len()
            + self.entries.as_bytes().len();
        if size + size_of::<Key>() + size_of::<Entry>() > CHUNK {
            self.write()?;
        }
        if found.removed {
            self.removed.push(key);
        }
        match found.news {
            None => {}
            Some(News::Visit(visit)) => self.visits.push(VisitEntry { key, visit: *visit }),
            Some(News::Record(record)) => self.entries.push(Entry {
                key,
                record: *record,
            }),
        }
        self.count += 1;
        Ok(())
    }

    /// Ends it. Returns how many clients it has.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.write()?;
        Ok(self.count)
    }

    fn write(&mut self) -> Result<()> {
        let chunk = Chunk {
            removed: &self.removed,
            visits: &self.visits,
            entries: &self.entries,
        };
        let Some(first) = chunk.least([0; 3]) else {
            return Ok(());
        };
        let count = |count: usize| U16::new(count as u16);
        let header = Header {
            layout: LAYOUT,
            unused: 0,
            removed: count(self.removed.len()),
            visits: count(self.visits.len()),
            entries: count(self.entries.len()),
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(self.removed.as_bytes());
        self.bytes.extend_from_slice(self.visits.as_bytes());
        self.bytes.extend_from_slice(self.entries.as_bytes());
        self.table.insert(first.bytes(), self.bytes.as_slice())?;
        self.removed.clear();
        self.visits.clear();
        self.entries.clear();
        Ok(())
    }
}

type Guard = AccessGuard<'static, &'static [u8]>;

/// A run that is looked into, with the chunk that was used last: neighbours cost little.
pub(super) struct Run {
    table: ReadOnlyTable<&'static [u8; 18], &'static [u8]>,
    /// The chunk and its last key.
    chunk: Option<(Guard, Key)>,
}

impl Run {
    pub(super) const fn new(table: ReadOnlyTable<&'static [u8; 18], &'static [u8]>) -> Self {
        Self { table, chunk: None }
    }

    /// Puts what it has of a client onto what is known from earlier runs.
    pub(super) fn put_onto(&mut self, key: &Key, known: &mut Option<ClientRecord>) -> Result<()> {
        if let Some((guard, last)) = &self.chunk {
            let chunk = Chunk::unchecked(guard.value())?;
            if chunk.least([0; 3]).is_some_and(|first| first <= *key) && key <= last {
                chunk.find(key).put_onto(known);
                return Ok(());
            }
        }
        let Some(item) = self.table.range::<&[u8; 18]>(..=key.bytes())?.next_back() else {
            return Ok(());
        };
        let (_, guard) = item?;
        let chunk = Chunk::checked(guard.value())?;
        chunk.find(key).put_onto(known);
        let last = [
            chunk.removed.last().copied(),
            chunk.visits.last().map(|it| it.key),
            chunk.entries.last().map(|it| it.key),
        ];
        if let Some(last) = last.into_iter().flatten().max() {
            self.chunk = Some((guard, last));
        }
        Ok(())
    }
}

/// Walks through a run.
pub(super) struct Cursor {
    range: Range<'static, &'static [u8; 18], &'static [u8]>,
    chunk: Option<Guard>,
    /// Where it is in each part of the chunk.
    at: [usize; 3],
    next: Option<Key>,
}

impl Cursor {
    /// From a key on.
    pub(super) fn new(
        table: &ReadOnlyTable<&'static [u8; 18], &'static [u8]>,
        from: Option<&Key>,
    ) -> Result<Self> {
        let start = match from {
            Some(from) => match table.range::<&[u8; 18]>(..=from.bytes())?.next_back() {
                Some(item) => *item?.0.value(),
                None => [0; 18],
            },
            None => [0; 18],
        };
        let mut cursor = Self {
            range: table.range::<&[u8; 18]>(&start..)?,
            chunk: None,
            at: [0; 3],
            next: None,
        };
        cursor.find_next()?;
        while let (Some(next), Some(from)) = (cursor.next, from)
            && next < *from
        {
            cursor.advance(|_| ())?;
        }
        Ok(cursor)
    }

    /// The next client.
    pub(super) const fn peek(&self) -> Option<Key> {
        self.next
    }

    /// Hands over what there is of the next client, and goes on.
    pub(super) fn advance(&mut self, take: impl FnOnce(Found<'_>)) -> Result<()> {
        if let (Some(key), Some(guard)) = (self.next, &self.chunk) {
            let chunk = Chunk::unchecked(guard.value())?;
            let mut found = Found {
                removed: false,
                news: None,
            };
            if chunk.removed.get(self.at[0]) == Some(&key) {
                self.at[0] += 1;
                found.removed = true;
            }
            if let Some(entry) = chunk.visits.get(self.at[1]).filter(|it| it.key == key) {
                self.at[1] += 1;
                found.news = Some(News::Visit(&entry.visit));
            }
            if let Some(entry) = chunk.entries.get(self.at[2]).filter(|it| it.key == key) {
                self.at[2] += 1;
                found.news = Some(News::Record(&entry.record));
            }
            take(found);
        }
        self.find_next()
    }

    fn find_next(&mut self) -> Result<()> {
        let last = self.next.take();
        loop {
            if let Some(guard) = &self.chunk {
                self.next = Chunk::unchecked(guard.value())?.least(self.at);
            }
            if let Some(next) = self.next {
                if last.is_some_and(|last| last >= next) {
                    bail!("{} is out of order", next.ip());
                }
                return Ok(());
            }
            let Some(item) = self.range.next() else {
                self.chunk = None;
                return Ok(());
            };
            let (first, guard) = item?;
            let chunk = Chunk::checked(guard.value())?;
            if chunk
                .least([0; 3])
                .is_none_or(|least| least.bytes() != first.value())
            {
                bail!("a chunk does not begin with its key");
            }
            self.at = [0; 3];
            self.chunk = Some(guard);
        }
    }
}
