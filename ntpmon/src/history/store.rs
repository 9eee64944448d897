//! The database file: the only place that knows redb. Opens it, or says why not; reads; and writes
//! in transactions of which each is there whole after a crash, or not at all.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | layout, flushes, generation of the clients, number of the next session |
//! | interfaces | number | name |
//! | ledgers | interface | what no client's record holds any more, or ever held |
//! | clients | address and interface of the first | a block of up to 59 clients, in order |
//! | journal | number | clients' records that were not yet put into their blocks |
//! | servers | address and interface | server |
//! | rollups | resolution, interface, start in seconds | rollup |
//! | sessions | number | session |
//! | documents | name | small settings of other parts |
//!
//! A block fills four pages: writing many clients costs one change of the tree for sixty of them,
//! and no page is left half empty. Since a block would be written anew for each of its clients, what
//! a flush brings goes to the journal first, and into the blocks when enough has come together.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use redb::{
    AccessGuard, CommitError, Database, DatabaseError, ReadOnlyTable, ReadTransaction,
    ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, TableDefinition,
    TableError, TransactionError, WriteTransaction,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::little_endian::U64,
};

use super::{
    client::{self, ClientRecord},
    fold::Unnamed,
    key::{InterfaceId, Key},
    rollup::{Resolution, Rollup},
    server::ServerRecord,
    session::SessionRecord,
};

#[cfg(test)]
mod tests;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const INTERFACES: TableDefinition<u16, &str> = TableDefinition::new("interfaces");
const LEDGERS: TableDefinition<u16, &[u8]> = TableDefinition::new("ledgers");
const CLIENTS: TableDefinition<&[u8; 18], &[u8]> = TableDefinition::new("clients");
const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
const SERVERS: TableDefinition<&[u8; 18], &[u8]> = TableDefinition::new("servers");
const ROLLUPS: TableDefinition<(u8, u16, i64), &[u8]> = TableDefinition::new("rollups");
const SESSIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("sessions");
const DOCUMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("documents");

/// Of all tables together. A database with a larger number was written by a newer ntpmon.
const LAYOUT: u64 = 1;

/// A client in a block, or in the journal.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Who.
    pub key: Key,
    /// What is known, or in the journal what came since.
    pub record: ClientRecord,
}

/// Clients in a block: as many as four pages of 4096 bytes hold with what redb adds.
pub(super) const MAX_BLOCK: usize = (4 * 4096 - 64) / size_of::<Entry>();
/// A block with fewer is joined with the next.
const SMALL: usize = MAX_BLOCK / 4;
/// Clients in a record of the journal: redb gives a value a power of two of pages, and writes them
/// all.
const JOURNALED: usize = (32 * 4096 - 64) / size_of::<Entry>();

/// What an interface's clients do not add up to.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Ledger {
    other_exchanges: U64,
    other_unanswered: U64,
    forgotten_clients: U64,
    forgotten_exchanges: U64,
    forgotten_unanswered: U64,
}

impl Ledger {
    /// Exchanges of clients that never got a record: there were too many.
    #[must_use]
    pub const fn other(&self) -> Unnamed {
        Unnamed {
            exchanges: self.other_exchanges.get(),
            unanswered: self.other_unanswered.get(),
        }
    }

    /// Exchanges of clients whose record was removed.
    #[must_use]
    pub const fn forgotten(&self) -> Unnamed {
        Unnamed {
            exchanges: self.forgotten_exchanges.get(),
            unanswered: self.forgotten_unanswered.get(),
        }
    }

    /// How many records were removed.
    #[must_use]
    pub const fn forgotten_clients(&self) -> u64 {
        self.forgotten_clients.get()
    }

    /// Adds exchanges of clients that get no record.
    pub fn add_other(&mut self, unnamed: Unnamed) {
        self.other_exchanges += unnamed.exchanges;
        self.other_unanswered += unnamed.unanswered;
    }

    /// Notes that a client's record is removed.
    pub fn forget(&mut self, record: &ClientRecord) {
        self.forgotten_clients += 1;
        self.forgotten_exchanges += record.sessions();
        self.forgotten_unanswered += record.unanswered();
    }
}

/// What the database could not be opened for.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is of another version of ntpmon.
    #[error(
        "{} was written by a newer ntpmon (layout {found}; this one knows up to {LAYOUT}): \
         run that version, or give another data directory", path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// What is in it cannot be read.
    #[error("{why}")]
    Damaged {
        /// In what way.
        why: String,
    },
    /// It cannot be got at.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// The open database, for reading.
#[derive(Clone, Debug)]
pub struct Readable(Arc<Database>);

impl Readable {
    /// The state at this moment.
    ///
    /// # Errors
    /// When redb cannot.
    pub fn reader(&self) -> Result<Reader> {
        Ok(Reader {
            transaction: self
                .0
                .begin_read()
                .context("beginning to read the database")?,
        })
    }
}

/// The open database, for its one writer.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
    /// The first client of each block, in order.
    blocks: Vec<Key>,
}

/// What is kept in memory of what is in the file.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Numbers are positions.
    pub interfaces: Vec<String>,
    /// By interface.
    pub ledgers: Vec<Ledger>,
    /// All servers.
    pub servers: Vec<(Key, ServerRecord)>,
    /// Of the next session.
    pub next_session: u64,
    /// Of the clients' table: it grows whenever the journal is put into the blocks.
    pub generation: u64,
    /// Number of the next record of the journal.
    pub next_journal: u64,
    /// How many flushes were written.
    pub flushes: u64,
    /// All documents.
    pub documents: BTreeMap<String, Vec<u8>>,
}

impl Store {
    /// Opens the file, or makes it. Clients are handed to `client`, first those in blocks, then
    /// those of the journal (`true`), which come on top.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing was changed then.
    pub fn open(
        path: &Path,
        cache_bytes: usize,
        client: impl FnMut(&Entry, bool),
    ) -> Result<(Self, Loaded), OpenError> {
        // redb checks what it reads with assertions too.
        catch_unwind(AssertUnwindSafe(|| {
            Self::open_unchecked(path, cache_bytes, client)
        }))
        .unwrap_or_else(|panic| {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_default();
            Err(OpenError::Damaged {
                why: format!("reading {} failed: {why}", path.display()),
            })
        })
    }

    fn open_unchecked(
        path: &Path,
        cache_bytes: usize,
        client: impl FnMut(&Entry, bool),
    ) -> Result<(Self, Loaded), OpenError> {
        let is_new = match fs::metadata(path) {
            Ok(found) => found.len() == 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                return Err(OpenError::Other(
                    anyhow!(error).context(format!("looking at {}", path.display())),
                ));
            }
        };
        // redb writes to a file by opening it. Where it was not closed it has to.
        if !is_new && let Ok(database) = Database::builder().open_read_only(path) {
            let transaction = database.begin_read().map_err(|error| OpenError::Damaged {
                why: format!("reading {}: {error}", path.display()),
            })?;
            check_layout(path, &Reader { transaction })?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let opened = Database::builder()
            .set_cache_size(cache_bytes)
            .create_file(file)
            .map_err(|error| opening(path, error));
        if is_new && opened.is_err() {
            // What was half made would be taken for a damaged file the next time.
            let emptied = OpenOptions::new().write(true).truncate(true).open(path);
            emptied.with_context(|| format!("emptying {}", path.display()))?;
        }
        let database = opened?;
        // Empty too where the one who made it was killed before it was set up.
        let is_new = is_new
            || is_empty(&database).map_err(|why| OpenError::Damaged {
                why: format!("reading {}: {why:#}", path.display()),
            })?;
        if is_new {
            initialise(&database).with_context(|| format!("setting up {}", path.display()))?;
        }
        let mut store = Self {
            database: Arc::new(database),
            blocks: Vec::new(),
        };
        let loaded = store.load(path, client)?;
        Ok((store, loaded))
    }

    fn load(
        &mut self,
        path: &Path,
        mut client: impl FnMut(&Entry, bool),
    ) -> Result<Loaded, OpenError> {
        let damaged = |error: anyhow::Error| OpenError::Damaged {
            why: format!("{error:#}"),
        };
        let reader = self.readable().reader().map_err(damaged)?;
        let meta = |name| reader.meta(name).map_err(damaged);
        if check_layout(path, &reader)? == 0 {
            return Err(OpenError::Damaged {
                why: format!("{} is no database of ntpmon", path.display()),
            });
        }
        let mut loaded = Loaded {
            next_session: meta("next_session")?.max(1),
            generation: meta("generation")?,
            flushes: meta("flushes")?,
            ..Loaded::default()
        };
        let mut blocks = Vec::new();
        reader
            .load(&mut loaded, &mut blocks, &mut client)
            .map_err(damaged)?;
        self.blocks = blocks;
        Ok(loaded)
    }

    /// For those who read: any number, on any thread.
    #[must_use]
    pub fn readable(&self) -> Readable {
        Readable(Arc::clone(&self.database))
    }

    /// The first client of each block, in order.
    pub(super) fn blocks(&self) -> &[Key] {
        &self.blocks
    }

    /// Begins to write. Nothing is written unless [`Writer::commit`] is called.
    ///
    /// # Errors
    /// When redb cannot.
    pub fn writer(&mut self) -> Result<Writer<'_>> {
        Ok(Writer {
            transaction: self
                .database
                .begin_write()
                .context("beginning to write to the database")?,
            blocks: None,
            store_blocks: &mut self.blocks,
        })
    }

    /// Gives room in the file that is not used back to the file system. Says whether there was
    /// any. No [`Readable`] may be left.
    ///
    /// # Errors
    /// When somebody reads at the moment, or it cannot be written.
    pub fn compact(&mut self) -> Result<bool> {
        Arc::get_mut(&mut self.database)
            .context("somebody reads the database")?
            .compact()
            .context("compacting the database")
    }
}

/// The layout of a file; 0 where it has none.
fn check_layout(path: &Path, reader: &Reader) -> Result<u64, OpenError> {
    let found = reader.meta("layout").map_err(|error| OpenError::Damaged {
        why: format!("{error:#}"),
    })?;
    if found > LAYOUT {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    Ok(found)
}

fn is_empty(database: &Database) -> Result<bool> {
    Ok(database.begin_read()?.list_tables()?.next().is_none())
}

fn initialise(database: &Database) -> Result<()> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("layout", LAYOUT)?;
    transaction.open_table(INTERFACES)?;
    transaction.open_table(LEDGERS)?;
    transaction.open_table(CLIENTS)?;
    transaction.open_table(JOURNAL)?;
    transaction.open_table(SERVERS)?;
    transaction.open_table(ROLLUPS)?;
    transaction.open_table(SESSIONS)?;
    transaction.open_table(DOCUMENTS)?;
    transaction.commit()?;
    Ok(())
}

/// What is wrong with the file, and what is wrong with the way to it.
fn opening(path: &Path, error: DatabaseError) -> OpenError {
    let is_damaged = match &error {
        DatabaseError::Storage(StorageError::Io(error)) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::UpgradeRequired(_) => {
            true
        }
        _ => false,
    };
    let what = format!("opening {}", path.display());
    if is_damaged {
        OpenError::Damaged {
            why: format!("{what}: {error}"),
        }
    } else {
        OpenError::Other(anyhow!(error).context(what))
    }
}

/// Whether what failed is the disk, or the way to it, rather than what is in the file.
#[must_use]
pub fn is_of_disk(error: &anyhow::Error) -> bool {
    let is_storage = |error: &StorageError| !matches!(error, StorageError::Corrupted(_));
    error.chain().any(|cause| {
        cause.is::<io::Error>()
            || cause.downcast_ref().is_some_and(is_storage)
            || matches!(cause.downcast_ref(), Some(TransactionError::Storage(it)) if is_storage(it))
            || matches!(cause.downcast_ref(), Some(TableError::Storage(it)) if is_storage(it))
            || matches!(cause.downcast_ref(), Some(CommitError::Storage(it)) if is_storage(it))
    })
}

/// Reads the whole file, which must not be open: whether every page is what was written, or could
/// be made so.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_integrity(path: &Path) -> Result<(), OpenError> {
    let check = || {
        let mut database = Database::open(path).map_err(|error| opening(path, error))?;
        let checked = database.check_integrity();
        checked.map(drop).map_err(|error| opening(path, error))
    };
    // redb checks what it reads with assertions too.
    catch_unwind(check).unwrap_or_else(|_| {
        Err(OpenError::Damaged {
            why: format!("reading {} failed", path.display()),
        })
    })
}

/// Puts a file that cannot be read out of the way, without losing it. Returns where it is now.
///
/// # Errors
/// When it cannot be renamed.
pub fn set_aside(path: &Path, now: jiff::Timestamp) -> Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    let mut target = PathBuf::from(&name);
    for number in 2..1000 {
        if !target.exists() {
            break;
        }
        let mut next = name.clone();
        next.push(format!("-{number}"));
        target = next.into();
    }
    if target.exists() {
        bail!("{} and 998 others are in the way", target.display());
    }
    fs::rename(path, &target).with_context(|| {
        format!(
            "renaming the damaged {} to {}",
            path.display(),
            target.display()
        )
    })?;
    Ok(target)
}

/// Clients, without a look at their layout.
fn unchecked(bytes: &[u8]) -> Result<&[Entry]> {
    <[Entry]>::ref_from_bytes(bytes)
        .map_err(|_| anyhow!("a block of clients has {} bytes", bytes.len()))
}

fn entries(bytes: &[u8]) -> Result<&[Entry]> {
    let entries = unchecked(bytes)?;
    if let Some(entry) = entries
        .iter()
        .find(|it| it.record.layout() != client::LAYOUT)
    {
        bail!("a client's record has layout {}", entry.record.layout());
    }
    Ok(entries)
}

fn search(entries: &[Entry], key: &Key) -> Option<ClientRecord> {
    let place = entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
    Some(entries[place].record)
}

/// The state of one moment.
#[derive(Debug)]
pub struct Reader {
    transaction: ReadTransaction,
}

impl Reader {
    fn meta(&self, name: &str) -> Result<u64> {
        let table = match self.transaction.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(0),
            table => table?,
        };
        let value = table.get(name)?;
        Ok(value.map_or(0, |value| value.value()))
    }

    /// Of the clients' table.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn generation(&self) -> Result<u64> {
        self.meta("generation")
    }

    fn load(
        &self,
        loaded: &mut Loaded,
        blocks: &mut Vec<Key>,
        client: &mut impl FnMut(&Entry, bool),
    ) -> Result<()> {
        loaded.interfaces = self.interfaces()?;
        loaded.ledgers = self.ledgers(loaded.interfaces.len())?;
        loaded.servers = self.servers()?;
        loaded.documents = self.documents()?;
        let check = |entry: &Entry| {
            if usize::from(entry.key.interface()) >= loaded.interfaces.len() {
                bail!("a client of no interface");
            }
            Ok(())
        };
        let mut last = None;
        for item in self.transaction.open_table(CLIENTS)?.iter()? {
            let (key, bytes) = item?;
            let entries = entries(bytes.value())?;
            let first: Key = zerocopy::transmute!(*key.value());
            if entries.first().is_none_or(|entry| entry.key != first) {
                bail!("a block of clients does not begin with its key");
            }
            blocks.push(first);
            for entry in entries {
                if last.is_some_and(|last| last >= entry.key) {
                    bail!("clients are out of order");
                }
                check(entry)?;
                last = Some(entry.key);
                client(entry, false);
            }
        }
        for item in self.transaction.open_table(JOURNAL)?.iter()? {
            let (number, bytes) = item?;
            for entry in entries(bytes.value())? {
                check(entry)?;
                client(entry, true);
            }
            loaded.next_journal = number.value() + 1;
        }
        Ok(())
    }

    /// The names of the interfaces, at the places of their numbers.
    pub(super) fn interfaces(&self) -> Result<Vec<String>> {
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
    pub(super) fn ledgers(&self, interfaces: usize) -> Result<Vec<Ledger>> {
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
    pub(super) fn servers(&self) -> Result<Vec<(Key, ServerRecord)>> {
        let mut servers = Vec::new();
        for item in self.transaction.open_table(SERVERS)?.iter()? {
            let (key, bytes) = item?;
            let record = ServerRecord::read_from_bytes(bytes.value())
                .map_err(|_| anyhow!("a server's record has {} bytes", bytes.value().len()))?;
            servers.push((zerocopy::transmute!(*key.value()), record));
        }
        Ok(servers)
    }

    /// All documents.
    pub(super) fn documents(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut documents = BTreeMap::new();
        for item in self.transaction.open_table(DOCUMENTS)?.iter()? {
            let (name, bytes) = item?;
            documents.insert(name.value().to_owned(), bytes.value().to_owned());
        }
        Ok(documents)
    }

    /// How many flushes were written.
    pub(super) fn flushes(&self) -> Result<u64> {
        self.meta("flushes")
    }

    /// The number of the next session.
    pub(super) fn next_session(&self) -> Result<u64> {
        Ok(self.meta("next_session")?.max(1))
    }

    /// Hands over each block, with the key that it stands under.
    pub(super) fn each_block(&self, mut take: impl FnMut(&Key, &[Entry])) -> Result<()> {
        for item in self.transaction.open_table(CLIENTS)?.iter()? {
            let (key, bytes) = item?;
            take(&zerocopy::transmute!(*key.value()), entries(bytes.value())?);
        }
        Ok(())
    }

    /// Hands over what is in the journal, in the order in which it came.
    pub(super) fn each_journaled(&self, mut take: impl FnMut(&Entry)) -> Result<()> {
        for item in self.transaction.open_table(JOURNAL)?.iter()? {
            let (_, bytes) = item?;
            entries(bytes.value())?.iter().for_each(&mut take);
        }
        Ok(())
    }

    /// Hands over all sessions, the oldest first.
    pub(super) fn each_session(&self, mut take: impl FnMut(u64, &SessionRecord)) -> Result<()> {
        for item in self.transaction.open_table(SESSIONS)?.iter()? {
            let (number, bytes) = item?;
            take(number.value(), &session(bytes.value())?);
        }
        Ok(())
    }

    /// Hands over all rollups.
    pub(super) fn each_rollup(
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

    /// The clients' table.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn clients(&self) -> Result<Clients> {
        Ok(Clients(self.transaction.open_table(CLIENTS)?))
    }

    /// Rollups of an interface that began between two times, in seconds since 1970, both
    /// included: the latest `limit` of them, in the order of time.
    ///
    /// # Errors
    /// When the file cannot be read, or holds what is no rollup.
    pub fn rollups(
        &self,
        resolution: Resolution,
        interface: InterfaceId,
        between: std::ops::RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, Rollup)>> {
        let table = self.transaction.open_table(ROLLUPS)?;
        let resolution = resolution as u8;
        let range =
            (resolution, interface, *between.start())..=(resolution, interface, *between.end());
        let mut found = Vec::new();
        for item in table.range(range)?.rev().take(limit) {
            let (key, bytes) = item?;
            let rollup = Rollup::from_bytes(bytes.value()).context("a rollup cannot be read")?;
            found.push((key.value().2, rollup));
        }
        found.reverse();
        Ok(found)
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

/// Clients in their blocks, without what is in the journal.
#[derive(Debug)]
pub struct Clients(ReadOnlyTable<&'static [u8; 18], &'static [u8]>);

impl Clients {
    /// A client.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, key: &Key) -> Result<Option<ClientRecord>> {
        let Some(block) = self.0.range::<&[u8; 18]>(..=key.bytes())?.next_back() else {
            return Ok(None);
        };
        let (_, bytes) = block?;
        Ok(search(entries(bytes.value())?, key))
    }

    /// For many, best in the order of their keys.
    #[must_use]
    pub const fn remembering(self) -> Remembering {
        Remembering {
            clients: self,
            block: None,
        }
    }

    /// Hands over the clients from a key on, block by block, as long as `take` wants more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn each_from(&self, from: &Key, mut take: impl FnMut(&Entry) -> bool) -> Result<()> {
        let start = match self.0.range::<&[u8; 18]>(..=from.bytes())?.next_back() {
            Some(block) => *block?.0.value(),
            None => *from.bytes(),
        };
        for item in self.0.range::<&[u8; 18]>(&start..)? {
            let (_, bytes) = item?;
            for entry in entries(bytes.value())? {
                if entry.key >= *from && !take(entry) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Clients, with the block in which the last one was: neighbours cost little.
pub struct Remembering {
    clients: Clients,
    block: Option<AccessGuard<'static, &'static [u8]>>,
}

impl Remembering {
    /// As [`Clients::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&mut self, key: &Key) -> Result<Option<ClientRecord>> {
        if let Some(block) = &self.block {
            let entries = unchecked(block.value())?;
            let first = entries.first().is_some_and(|entry| entry.key <= *key);
            if first && entries.last().is_some_and(|entry| entry.key >= *key) {
                return Ok(search(entries, key));
            }
        }
        let table = &self.clients.0;
        let Some(block) = table.range::<&[u8; 18]>(..=key.bytes())?.next_back() else {
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

fn session(bytes: &[u8]) -> Result<SessionRecord> {
    SessionRecord::read_from_bytes(bytes)
        .map_err(|_| anyhow!("a session's record has {} bytes", bytes.len()))
}

/// A transaction. Dropping it changes nothing.
pub struct Writer<'a> {
    transaction: WriteTransaction,
    /// As they will be, where they change.
    blocks: Option<Vec<Key>>,
    store_blocks: &'a mut Vec<Key>,
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
        if let Some(blocks) = self.blocks {
            *self.store_blocks = blocks;
        }
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

    /// Appends what came of clients to the journal.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append_journal(
        &self,
        mut number: u64,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<u64> {
        let mut table = self.transaction.open_table(JOURNAL)?;
        let mut chunk = Vec::with_capacity(JOURNALED);
        let mut write = |chunk: &mut Vec<Entry>| -> Result<()> {
            table.insert(number, chunk.as_bytes())?;
            number += 1;
            chunk.clear();
            Ok(())
        };
        for entry in entries {
            chunk.push(entry);
            if chunk.len() == JOURNALED {
                write(&mut chunk)?;
            }
        }
        if !chunk.is_empty() {
            write(&mut chunk)?;
        }
        Ok(number)
    }

    /// Empties the journal: all that it held is in the blocks, which have a new generation.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_generation(&self, next: u64) -> Result<()> {
        self.transaction.open_table(JOURNAL)?.retain(|_, _| false)?;
        self.transaction
            .open_table(META)?
            .insert("generation", next)?;
        Ok(())
    }

    /// Changes clients in their blocks. `keys` are in order and each there once; `change` makes of
    /// what is known of one what is to be known, or nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change_clients(
        &mut self,
        keys: &[Key],
        mut change: impl FnMut(&Key, Option<&ClientRecord>) -> Option<ClientRecord>,
    ) -> Result<()> {
        debug_assert!(keys.is_sorted_by(|one, next| one < next));
        let mut table = self.transaction.open_table(CLIENTS)?;
        let old: &[Key] = self.blocks.as_deref().unwrap_or(self.store_blocks);
        let mut blocks = Vec::with_capacity(old.len() + 16);
        let mut keys = keys;
        let mut next = 0;
        // What is to be written, and what was too little to be written alone.
        let mut block: Vec<Entry> = Vec::with_capacity(2 * MAX_BLOCK);
        while !keys.is_empty() || !block.is_empty() {
            // Blocks before the one that the key falls into stay as they are.
            if block.is_empty()
                && let Some(first) = keys.first()
            {
                let place = next + old[next..].partition_point(|block| block <= first);
                let place = place.saturating_sub(1).max(next);
                blocks.extend_from_slice(&old[next..place]);
                next = place;
            }
            let this = old.get(next);
            let end = old
                .get(next + 1)
                .map_or(keys.len(), |end| keys.partition_point(|key| key < end));
            let (mine, rest) = keys.split_at(end);
            keys = rest;
            match this {
                Some(first) => {
                    let bytes = table.get(first.bytes())?.context("a block is missing")?;
                    merge(entries(bytes.value())?, mine, &mut change, &mut block);
                }
                None => merge(&[], mine, &mut change, &mut block),
            }
            if let Some(first) = this {
                let stays = block.first().is_some_and(|entry| entry.key == *first);
                let joined = block.len() < SMALL && next + 1 < old.len();
                if !stays || joined {
                    table.remove(first.bytes())?;
                }
                next += 1;
                if joined {
                    continue;
                }
            }
            if block.is_empty() {
                continue;
            }
            let pieces = block.len().div_ceil(MAX_BLOCK);
            for piece in block.chunks(block.len().div_ceil(pieces)) {
                table.insert(piece[0].key.bytes(), piece.as_bytes())?;
                blocks.push(piece[0].key);
            }
            block.clear();
        }
        blocks.extend_from_slice(old.get(next..).unwrap_or_default());
        drop(table);
        self.blocks = Some(blocks);
        Ok(())
    }
}

/// Appends a block as it is after the changes.
fn merge(
    known: &[Entry],
    keys: &[Key],
    change: &mut impl FnMut(&Key, Option<&ClientRecord>) -> Option<ClientRecord>,
    out: &mut Vec<Entry>,
) {
    let mut known = known;
    for key in keys {
        let before = known.partition_point(|entry| entry.key < *key);
        let (same, rest) = known.split_at(before);
        out.extend_from_slice(same);
        known = rest;
        let record = match known.split_first() {
            Some((entry, rest)) if entry.key == *key => {
                known = rest;
                change(key, Some(&entry.record))
            }
            _ => change(key, None),
        };
        if let Some(record) = record {
            out.push(Entry { key: *key, record });
        }
    }
    out.extend_from_slice(known);
}

/// For tests of other modules: the layout that a database says it has.
#[cfg(test)]
pub(super) fn pretend_layout(path: &Path, layout: u64) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert("layout", layout)
        .unwrap();
    transaction.commit().unwrap();
}
