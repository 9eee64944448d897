//! The database file: the only place that knows redb. Opens it, or says why not; reads; and writes
//! in transactions of which each is there whole after a crash, or not at all.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | layout, flushes, number of the next session, sizes of the runs |
//! | marks | name | how far the runs were put into the blocks |
//! | interfaces | number | name |
//! | ledgers | interface | what no client's record holds any more, or ever held |
//! | clients | address and interface of the first | a block of up to 68 clients, in order |
//! | run 0…1, run 0…2 | address and interface of the first | what came of clients, see run.rs |
//! | servers | address and interface | server |
//! | rollups | resolution, interface, start in seconds | rollup |
//! | sessions | number | session |
//! | documents | name | small settings of other parts |
//! | shelves | shelf, key | what other parts keep in order, see shelf.rs |
//!
//! A block fills four pages: writing many clients costs one change of the tree for some seventy of
//! them, and no page is left half empty. Since a block would be written anew for each of its
//! clients, each flush writes a run of its own first. When there are many runs, or much in them,
//! they are put into the blocks together, a part of the keys with each flush, so that no flush takes
//! much longer than the others; those that come meanwhile wait for the next time. Whoever reads a
//! client puts together what its block and the runs have.

mod merge;
mod read;
mod run;
mod upgrade;
mod write;

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
    CommitError, Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition,
    TableError, TransactionError,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::little_endian::U64,
};

use super::{
    client::{self, ClientRecord, Tally},
    key::Key,
    rollup::Rollup,
    server::ServerRecord,
    shelf::Item,
};

pub use self::{
    read::{Clients, Reader, Sessions},
    write::{Change, Writer},
};

#[cfg(test)]
mod tests;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const INTERFACES: TableDefinition<u16, &str> = TableDefinition::new("interfaces");
const LEDGERS: TableDefinition<u16, &[u8]> = TableDefinition::new("ledgers");
const CLIENTS: TableDefinition<&[u8; 18], &[u8]> = TableDefinition::new("clients");
const MARKS: TableDefinition<&str, &[u8; 18]> = TableDefinition::new("marks");
const SERVERS: TableDefinition<&[u8; 18], &[u8]> = TableDefinition::new("servers");
const ROLLUPS: TableDefinition<(u8, u16, i64), &[u8]> = TableDefinition::new("rollups");
const SESSIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("sessions");
const DOCUMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("documents");
const SHELVES: TableDefinition<(u8, &[u8]), &[u8]> = TableDefinition::new("shelves");

/// Of all tables together. A database with a larger number was written by a newer ntpmon.
const LAYOUT: u64 = 3;

/// A client in a block, or in a run.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Who.
    pub key: Key,
    /// What is known, or in a run what came.
    pub record: ClientRecord,
}

/// Clients in a block: as many as four pages of 4096 bytes hold with what redb adds.
pub(super) const MAX_BLOCK: usize = (4 * 4096 - 64) / size_of::<Entry>();
/// A block with fewer is joined with the next.
const SMALL: usize = MAX_BLOCK / 4;
/// Clients in a run, up to which the next flush is added to it: many small ones would have to be
/// looked into.
const SMALL_RUN: u64 = if cfg!(test) { 2000 } else { 8192 };
/// And as long as it is not so many times as large: it is written anew for that.
const GROWTH: u64 = 16;
/// Runs that there may be: each client has a bit for each.
pub(super) const MAX_RUNS: usize = 64;

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
    pub const fn other(&self) -> Tally {
        Tally {
            exchanges: self.other_exchanges.get(),
            unanswered: self.other_unanswered.get(),
        }
    }

    /// Exchanges of clients whose record was removed.
    #[must_use]
    pub const fn forgotten(&self) -> Tally {
        Tally {
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
    pub fn add_other(&mut self, unnamed: Tally) {
        self.other_exchanges += unnamed.exchanges;
        self.other_unanswered += unnamed.unanswered;
    }

    /// Notes that a client's record with so many is removed.
    pub fn forget(&mut self, exchanges: Tally) {
        self.forgotten_clients += 1;
        self.forgotten_exchanges += exchanges.exchanges;
        self.forgotten_unanswered += exchanges.unanswered;
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

/// Where the numbering of the file is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// Names that are written.
    pub interfaces: usize,
    /// Of the next session.
    pub next_session: u64,
    /// How many flushes were written.
    pub flushes: u64,
}

/// The open database, for its one writer.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
    state: State,
}

/// What the writer knows of the clients' tables.
#[derive(Clone, Debug, Default)]
struct State {
    /// The first client of each block, in order.
    blocks: Vec<Key>,
    /// The oldest first.
    runs: Vec<RunSize>,
    merging: Option<Merging>,
}

/// A run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSize {
    /// Its number: that of the flush that began it.
    pub number: u64,
    /// How many clients it has.
    pub clients: u64,
}

impl RunSize {
    /// How many clients all of them have; one that several have counts for each.
    #[must_use]
    pub fn sum(runs: &[Self]) -> u64 {
        runs.iter().map(|run| run.clients).sum()
    }
}

/// Runs are being put into the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merging {
    /// The last of the runs.
    pub up_to: u64,
    /// Of the clients before this one all is in the blocks.
    pub below: Key,
}

/// What is kept in memory of what is in the file.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Numbers are positions.
    pub interfaces: Vec<String>,
    /// By interface.
    pub ledgers: Vec<Ledger>,
    /// By interface: what happened on it since the database began.
    pub wholes: Vec<Rollup>,
    /// All servers.
    pub servers: Vec<(Key, ServerRecord)>,
    /// Of the next session.
    pub next_session: u64,
    /// The oldest first.
    pub runs: Vec<RunSize>,
    /// Which of them are being put into the blocks.
    pub merging: Option<Merging>,
    /// How many flushes were written.
    pub flushes: u64,
    /// All documents.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// What is known of packets in modes 6 and 7.
    pub abuse: Vec<Item>,
}

impl Store {
    /// Opens the file, or makes it. Clients are handed to `client` in the order of their keys, with
    /// the runs that have something of them that is not in their blocks (bit n: the nth run).
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing was changed then.
    pub fn open(
        path: &Path,
        cache_bytes: usize,
        client: impl FnMut(&Key, &ClientRecord, u64),
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
        client: impl FnMut(&Key, &ClientRecord, u64),
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
        bring_up(&database, path)?;
        let mut store = Self {
            database: Arc::new(database),
            state: State::default(),
        };
        let loaded = store.load(path, client)?;
        Ok((store, loaded))
    }

    fn load(
        &mut self,
        path: &Path,
        client: impl FnMut(&Key, &ClientRecord, u64),
    ) -> Result<Loaded, OpenError> {
        let damaged = |error: anyhow::Error| OpenError::Damaged {
            why: format!("reading {}: {error:#}", path.display()),
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
            flushes: meta("flushes")?,
            ..Loaded::default()
        };
        let mut blocks = Vec::new();
        reader
            .load(&mut loaded, &mut blocks, client)
            .map_err(damaged)?;
        self.state = State {
            blocks,
            runs: loaded.runs.clone(),
            merging: loaded.merging,
        };
        Ok(loaded)
    }

    /// For those who read: any number, on any thread.
    #[must_use]
    pub fn readable(&self) -> Readable {
        Readable(Arc::clone(&self.database))
    }

    /// The first client of each block, in order.
    pub(super) fn blocks(&self) -> &[Key] {
        &self.state.blocks
    }

    /// The oldest first.
    pub(super) fn runs(&self) -> &[RunSize] {
        &self.state.runs
    }

    /// Which of them are being put into the blocks.
    pub(super) const fn merging(&self) -> Option<Merging> {
        self.state.merging
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
            database: Arc::clone(&self.database),
            state: self.state.clone(),
            store_state: &mut self.state,
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
    if found != 0 && found < upgrade::OLD {
        return Err(OpenError::Damaged {
            why: format!(
                "{} has layout {found}, which no released version wrote",
                path.display()
            ),
        });
    }
    Ok(found)
}

/// Rewrites a file of an older layout.
fn bring_up(database: &Database, path: &Path) -> Result<(), OpenError> {
    let damaged = |error: anyhow::Error| OpenError::Damaged {
        why: format!("reading {}: {error:#}", path.display()),
    };
    let transaction = database.begin_read().map_err(|it| damaged(it.into()))?;
    if check_layout(path, &Reader { transaction })? != upgrade::OLD {
        return Ok(());
    }
    // Of the file as it is before.
    let wanted = upgrade::wanted(path);
    upgrade::upgrade(database, path).map_err(|error| {
        if is_of_disk(&error) {
            OpenError::Other(error.context(wanted))
        } else {
            damaged(error)
        }
    })
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
    transaction.open_table(MARKS)?;
    transaction.open_table(SERVERS)?;
    transaction.open_table(ROLLUPS)?;
    transaction.open_table(SESSIONS)?;
    transaction.open_table(DOCUMENTS)?;
    transaction.open_table(SHELVES)?;
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
