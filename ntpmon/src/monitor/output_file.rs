//! The exchanges of an interface as lines of NDJSON in a file, besides being remembered. A file is
//! opened only inside one directory, whatever a request asks for; a disk that is slow or full costs
//! lines, which are counted, and never packets.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, File, Metadata},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use crate::{
    output,
    pipeline::{BATCHES, Batch, PassOn, Passed},
};

/// The only directory that files are opened in.
#[derive(Clone, Debug)]
pub struct Directory {
    /// As it was configured.
    named: PathBuf,
    /// Without symbolic links, as it was at start.
    path: PathBuf,
}

/// What is made here is for its owner alone, whatever the umask: it says who asked whom. A file
/// that was made before keeps the mode that it has.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

impl Directory {
    /// Takes a directory as the one to open files in; makes it when it is not there.
    ///
    /// # Errors
    /// When it can neither be found nor be made.
    pub fn open(named: &Path) -> Result<Self> {
        let path = DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(named)
            .and_then(|()| named.canonicalize())
            .with_context(|| format!("opening the output directory {}", named.display()))?;
        Ok(Self {
            named: named.to_path_buf(),
            path,
        })
    }

    /// What a file that was asked for is called inside the directory.
    ///
    /// # Errors
    /// When it lies elsewhere, or may.
    pub fn place(&self, asked: &Path) -> Result<PathBuf> {
        let inside = if asked.is_absolute() {
            asked
                .strip_prefix(&self.path)
                .or_else(|_| asked.strip_prefix(&self.named))
                .ok()
                .with_context(|| {
                    format!(
                        "{} is outside of the output directory {}: name a file in there",
                        asked.display(),
                        self.path.display()
                    )
                })?
        } else {
            asked
        };
        let mut place = PathBuf::new();
        for component in inside.components() {
            match component {
                Component::Normal(name) => place.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => bail!(
                    "{} has '..' in it: name a file in the output directory {} without",
                    asked.display(),
                    self.path.display()
                ),
            }
        }
        ensure!(
            // A path that ends in a slash asks for a directory.
            !place.as_os_str().is_empty() && !asked.as_os_str().as_encoded_bytes().ends_with(b"/"),
            "'{}' names no file: give one in the output directory {}",
            asked.display(),
            self.path.display()
        );
        Ok(place)
    }

    /// Opens a file to append to; makes it when it is not there.
    fn append(&self, place: &Path) -> Result<File> {
        let path = self.path.join(place);
        let opened = self.descriptor().and_then(|directory| {
            match open_beneath(directory.as_fd(), place) {
                // Kernels have it since 5.6, but a sandbox may not know it.
                Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(directory.as_fd(), place),
                opened => opened,
            }
        });
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::XDEV) => bail!(
                "{} is, or lies behind, a symbolic link: name the file itself",
                path.display()
            ),
            Err(Errno::NXIO | Errno::ISDIR) => bail!("{} is no regular file", path.display()),
            Err(error) => {
                return Err(io::Error::from(error))
                    .with_context(|| format!("opening {}", path.display()));
            }
        };
        let found = file
            .metadata()
            .with_context(|| format!("looking at {}", path.display()))?;
        ensure!(found.is_file(), "{} is no regular file", path.display());
        // The other name may be anywhere.
        ensure!(
            found.nlink() <= 1,
            "{} has {} names (hard links): name a file that has only one",
            path.display(),
            found.nlink()
        );
        // Whatever else is in the directory, a database perhaps, is not ours to append to.
        let mut first = [0];
        let length = file
            .read_at(&mut first, 0)
            .with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            length == 0 || first == *b"{",
            "{} holds something else than JSON lines: name another file",
            path.display()
        );
        Ok(file)
    }

    fn descriptor(&self) -> Result<OwnedFd, Errno> {
        openat(
            CWD,
            &self.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}

/// To append; to read only how the file begins and ends. What is no regular file may make whoever opens it
/// wait, without NONBLOCK.
const APPEND: OFlags = OFlags::RDWR
    .union(OFlags::APPEND)
    .union(OFlags::CREATE)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

fn open_beneath(directory: BorrowedFd<'_>, place: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, place, APPEND, FILE_MODE, resolve)
}

/// The same in small steps, none of which follows a link. `place` has plain names only.
fn open_step_by_step(directory: BorrowedFd<'_>, place: &Path) -> Result<OwnedFd, Errno> {
    let mut names: Vec<&OsStr> = place.iter().collect();
    let Some(file) = names.pop() else {
        return Err(Errno::INVAL);
    };
    let mut held: Option<OwnedFd> = None;
    for name in names {
        let from = held.as_ref().map_or(directory, AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(from, name, flags, Mode::empty()).map_err(|error| match error {
            // What a link is called where a directory has to be.
            Errno::NOTDIR => Errno::LOOP,
            error => error,
        })?;
        held = Some(next);
    }
    let from = held.as_ref().map_or(directory, AsFd::as_fd);
    openat(from, file, APPEND, FILE_MODE)
}

/// A file that the exchanges of one interface are written to, and the thread that writes them.
#[derive(Debug)]
pub struct OutputFile {
    to: SyncSender<Batch>,
    passed: Arc<Passed>,
    progress: Arc<Mutex<Progress>>,
    thread: JoinHandle<()>,
    path: PathBuf,
}

/// How far the writer has come.
#[derive(Clone, Debug, Default)]
struct Progress {
    written: u64,
    lost: u64,
    /// Why nothing can be written at the moment.
    failure: Option<String>,
    /// Why it failed last.
    last_failure: Option<String>,
}

/// What was written and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// Lines that were written.
    pub written: u64,
    /// Exchanges that were not: the disk was full, or too slow.
    pub lost: u64,
    /// Whether lines can be written, as far as is known.
    pub writing: bool,
    /// Why some were lost last.
    pub error: Option<String>,
}

/// A file that cannot be opened is tried again, and one that was moved away noticed, this often.
const LOOK: Duration = Duration::from_secs(1);

impl OutputFile {
    /// Opens a file inside the directory and begins to write.
    ///
    /// # Errors
    /// When the file is refused, or cannot be opened.
    pub fn open(directory: &Directory, asked: &Path) -> Result<Self> {
        let place = directory.place(asked)?;
        let file = directory.append(&place)?;
        Self::start(directory, place, Ok(file))
    }

    /// As [`Self::open`], for a file that was opened before: one that cannot be opened at the
    /// moment is tried again, and what it misses is counted.
    ///
    /// # Errors
    /// When the file is refused.
    pub fn reopen(directory: &Directory, asked: &Path) -> Result<Self> {
        let place = directory.place(asked)?;
        let file = directory.append(&place);
        Self::start(directory, place, file)
    }

    fn start(directory: &Directory, place: PathBuf, file: Result<File>) -> Result<Self> {
        let (to, batches) = sync_channel(BATCHES);
        let progress = Arc::default();
        let path = directory.path.join(&place);
        let writer = Writer::new(directory.clone(), place, file, Arc::clone(&progress));
        let thread = thread::Builder::new()
            .name("output-file".to_owned())
            .spawn(move || writer.run(&batches))
            .context("starting the thread that writes an output file")?;
        Ok(Self {
            to,
            passed: Arc::default(),
            progress,
            thread,
            path,
        })
    }

    /// What takes the exchanges of one ring.
    #[must_use]
    pub fn sink(&self, interface: &str) -> PassOn {
        PassOn::new(interface, self.to.clone(), &self.passed)
    }

    /// What was written so far.
    #[must_use]
    pub fn output(&self) -> Output {
        let progress = lock(&self.progress).clone();
        let refused = self.passed.refused();
        let error = progress.last_failure.or_else(|| {
            (refused > 0).then(|| "exchanges came faster than they could be written".to_owned())
        });
        Output {
            path: self.path.clone(),
            written: progress.written,
            lost: progress.lost + refused,
            writing: progress.failure.is_none(),
            error,
        }
    }

    /// Waits until all is written that the sinks passed on, which must be gone, but no longer than
    /// until `end`: what a slow disk has not taken by then is written while nobody waits.
    pub fn close(self, end: Instant) -> Output {
        let output = self.output();
        let Self {
            to,
            passed,
            progress,
            thread,
            path,
        } = self;
        drop(to);
        while !thread.is_finished() {
            if Instant::now() >= end {
                tracing::warn!(
                    "{}: not waiting any longer for what is not written yet",
                    path.display()
                );
                return output;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let progress = lock(&progress);
        Output {
            written: progress.written,
            lost: progress.lost + passed.refused(),
            ..output
        }
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    // What a thread that died held is whole: it changes in one step.
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that writes.
struct Writer {
    directory: Directory,
    place: PathBuf,
    file: Option<File>,
    /// When it was last seen that the file is where it should be, or tried to open it.
    looked: Instant,
    /// The file ends within a line.
    torn: bool,
    progress: Arc<Mutex<Progress>>,
}

/// Lines are gathered up to about this many bytes for one write.
const GATHERED: usize = 1 << 20;

impl Writer {
    fn new(
        directory: Directory,
        place: PathBuf,
        file: Result<File>,
        progress: Arc<Mutex<Progress>>,
    ) -> Self {
        let mut writer = Self {
            directory,
            place,
            file: None,
            looked: Instant::now(),
            torn: false,
            progress,
        };
        writer.opened(file);
        writer
    }

    fn run(mut self, batches: &Receiver<Batch>) {
        let mut text = Vec::new();
        while let Ok(batch) = batches.recv() {
            text.clear();
            let mut lines = render(&batch, &mut text);
            while text.len() < GATHERED
                && let Ok(batch) = batches.try_recv()
            {
                lines += render(&batch, &mut text);
            }
            self.look();
            self.write(&text, lines);
        }
    }

    /// Sees to it that the file is the one of that name: log files are moved away, and deleted.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let path = self.directory.path.join(&self.place);
        let stays = self.file.as_ref().is_some_and(|file| {
            let named = path.symlink_metadata();
            named.is_ok_and(|named| file.metadata().is_ok_and(|open| is_same(&named, &open)))
        });
        if !stays {
            self.file = None;
            let file = self.directory.append(&self.place);
            self.opened(file);
        }
    }

    fn opened(&mut self, file: Result<File>) {
        match file {
            Ok(file) => {
                self.torn = ends_within_a_line(&file);
                self.file = Some(file);
            }
            Err(error) => self.failed(format!("{error:#}")),
        }
    }

    fn write(&mut self, text: &[u8], lines: u64) {
        let Some(file) = &mut self.file else {
            lock(&self.progress).lost += lines;
            return;
        };
        if self.torn {
            // Whatever it was, what follows it is whole.
            match file.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(error) => {
                    lock(&self.progress).lost += lines;
                    self.failed(self.describe(&error));
                    return;
                }
            }
        }
        let (done, result) = write_what_fits(file, text);
        let complete = text[..done].iter().filter(|byte| **byte == b'\n').count();
        let end_of_lines = text[..done]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let fragment = &text[end_of_lines..done];
        if !fragment.is_empty() {
            self.torn = !cut(file, fragment);
        }
        {
            let mut progress = lock(&self.progress);
            progress.written += complete as u64;
            progress.lost += lines - complete as u64;
        }
        match result {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(self.describe(&error)),
        }
    }

    fn describe(&self, error: &io::Error) -> String {
        let path = self.directory.path.join(&self.place);
        format!("writing {}: {error}", path.display())
    }

    fn failed(&self, why: String) {
        let mut progress = lock(&self.progress);
        if progress.failure.as_ref() != Some(&why) {
            tracing::error!("{why}; exchanges are left out until it goes on");
        }
        progress.failure = Some(why.clone());
        progress.last_failure = Some(why);
    }

    fn recovered(&self) {
        let mut progress = lock(&self.progress);
        if progress.failure.take().is_some() {
            let path = self.directory.path.join(&self.place);
            tracing::info!(
                "writing {} goes on; {} exchanges are not in it so far",
                path.display(),
                progress.lost
            );
        }
    }
}

/// Appends a batch as lines, and says how many there should be.
fn render(batch: &Batch, text: &mut Vec<u8>) -> u64 {
    for exchange in &batch.exchanges {
        let begin = text.len();
        let rendered = output::write_ndjson(text, exchange, Some(&batch.interface), false);
        if let Err(error) = rendered {
            // Not seen yet: memory does not fail, and a time that a clock told can be written.
            text.truncate(begin);
            tracing::error!(%error, "an exchange cannot be written as JSON");
        }
    }
    batch.exchanges.len() as u64
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Writes as much as it can, and says how many bytes.
fn write_what_fits(file: &mut File, text: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < text.len() {
        match file.write(&text[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Takes the beginning of a line off the end of a file, unless somebody else has written after it.
fn cut(file: &File, fragment: &[u8]) -> bool {
    let cut = || -> io::Result<bool> {
        let length = file.metadata()?.len();
        let Some(whole) = length.checked_sub(fragment.len() as u64) else {
            return Ok(false);
        };
        let mut tail = vec![0; fragment.len()];
        file.read_exact_at(&mut tail, whole)?;
        if tail != fragment {
            return Ok(false);
        }
        file.set_len(whole)?;
        Ok(true)
    };
    cut().unwrap_or(false)
}

/// What a process that was killed left behind.
fn ends_within_a_line(file: &File) -> bool {
    let last = || -> io::Result<bool> {
        let Some(at) = file.metadata()?.len().checked_sub(1) else {
            return Ok(false);
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        Ok(byte != *b"\n")
    };
    last().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        (folder, directory)
    }

    fn refusal(directory: &Directory, asked: &str) -> String {
        let error = OutputFile::open(directory, Path::new(asked)).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_file_is_named_by_its_path_or_within_the_directory() {
        let (folder, directory) = directory();
        fs::create_dir(folder.path().join("below")).unwrap();
        let absolute = folder.path().join("absolute.json");
        for asked in [Path::new("plain.json"), Path::new("./below/x"), &absolute] {
            let end = Instant::now() + Duration::from_secs(10);
            let output = OutputFile::open(&directory, asked).unwrap().close(end);
            assert!(
                output
                    .path
                    .starts_with(folder.path().canonicalize().unwrap())
            );
            assert_eq!(output.path.metadata().unwrap().mode() & 0o177, 0);
        }
    }

    #[test]
    fn a_directory_that_is_made_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(&folder.path().join("made/below")).unwrap();
        for made in [directory.path.as_path(), directory.path.parent().unwrap()] {
            assert_eq!(made.metadata().unwrap().mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_directory_behind_a_link_is_meant_by_either_name() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        symlink(&real, &link).unwrap();
        fs::create_dir(&real).unwrap();
        let directory = Directory::open(&link).unwrap();
        for asked in [real.join("x"), link.join("x")] {
            assert_eq!(directory.place(&asked).unwrap(), Path::new("x"));
        }
    }

    #[test]
    fn what_lies_elsewhere_is_refused_with_the_reason() {
        let (folder, directory) = directory();
        let beside = format!("{}-beside/x", folder.path().display());
        let below = format!("{}/", folder.path().display());
        for (asked, reason) in [
            ("/etc/passwd", "outside of the output directory"),
            (beside.as_str(), "outside of the output directory"),
            ("../x", "'..'"),
            ("below/../../x", "'..'"),
            ("", "names no file"),
            (".", "names no file"),
            (below.as_str(), "names no file"),
            ("x/", "names no file"),
            ("missing/x", "No such file or directory"),
            ("a\0b", "opening"),
        ] {
            let refusal = refusal(&directory, asked);
            assert!(refusal.contains(reason), "{asked:?}: {refusal}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_pipes_directories_second_names_and_files_of_others_are_refused() {
        let (folder, directory) = directory();
        let elsewhere = tempfile::tempdir().unwrap();
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let inside = |name: &str| folder.path().join(name);
        symlink(&secret, inside("link")).unwrap();
        symlink(elsewhere.path().join("new"), inside("dangling")).unwrap();
        symlink(elsewhere.path(), inside("folder-link")).unwrap();
        fs::create_dir(inside("folder")).unwrap();
        rustix::fs::mknodat(
            CWD,
            inside("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        fs::write(inside("one"), "").unwrap();
        fs::hard_link(inside("one"), inside("two")).unwrap();
        fs::write(inside("database"), "redb").unwrap();
        for (asked, reason) in [
            ("database", "something else than JSON lines"),
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("folder-link/new", "symbolic link"),
            ("folder", "no regular file"),
            ("pipe", "no regular file"),
            ("two", "hard links"),
        ] {
            let refusal = refusal(&directory, asked);
            assert!(refusal.contains(reason), "{asked}: {refusal}");
        }
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        assert_eq!(fs::read(inside("database")).unwrap(), b"redb");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_one_step_is_not_to_be_had_small_ones_follow_no_link_either() {
        let (folder, directory) = directory();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), folder.path().join("folder-link")).unwrap();
        symlink(elsewhere.path().join("x"), folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        let descriptor = directory.descriptor().unwrap();
        for open in [open_beneath, open_step_by_step] {
            for (place, expected) in [
                ("x", None),
                ("below/x", None),
                ("link", Some(Errno::LOOP)),
                ("folder-link/x", Some(Errno::LOOP)),
                ("missing/x", Some(Errno::NOENT)),
            ] {
                let opened = open(descriptor.as_fd(), Path::new(place));
                assert_eq!(opened.err(), expected, "{place}");
            }
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    fn writer(directory: &Directory) -> Writer {
        let file = directory.append(Path::new("x"));
        Writer::new(directory.clone(), "x".into(), file, Arc::default())
    }

    #[test]
    fn a_file_that_ends_within_a_line_is_gone_on_with_on_the_next() {
        let (folder, directory) = directory();
        let path = folder.path().join("x");
        fs::write(&path, "{\"cut o").unwrap();
        writer(&directory).write(b"{}\n", 1);
        assert_eq!(fs::read(&path).unwrap(), b"{\"cut o\n{}\n");
        writer(&directory).write(b"{}\n", 1);
        assert_eq!(fs::read(&path).unwrap(), b"{\"cut o\n{}\n{}\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let (folder, directory) = directory();
        let (path, moved) = (folder.path().join("x"), folder.path().join("x.1"));
        let mut writer = writer(&directory);
        writer.write(b"1\n", 1);
        fs::rename(&path, &moved).unwrap();
        writer.look();
        writer.write(b"2\n", 1);
        assert_eq!(fs::read(&moved).unwrap(), b"1\n2\n", "not looked at yet");
        writer.looked = writer.looked.checked_sub(LOOK).unwrap();
        writer.look();
        writer.write(b"3\n", 1);
        assert_eq!(fs::read(&path).unwrap(), b"3\n");
        assert_eq!(lock(&writer.progress).written, 3);
    }

    #[test]
    fn a_fragment_is_cut_off_unless_others_wrote_after_it() {
        let (folder, directory) = directory();
        let path = folder.path().join("x");
        for (content, left) in [("{}\n{\"", "{}\n"), ("{}\n{\"\n{", "{}\n{\"\n{")] {
            fs::write(&path, content).unwrap();
            let file = directory.append(Path::new("x")).unwrap();
            assert_eq!(cut(&file, b"{\""), left != content);
            assert_eq!(fs::read_to_string(&path).unwrap(), left);
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_loses_lines_and_is_tried_again() {
        let (folder, directory) = directory();
        fs::create_dir(folder.path().join("x")).unwrap();
        let mut writer = writer(&directory);
        writer.write(b"1\n2\n", 2);
        fs::remove_dir(folder.path().join("x")).unwrap();
        writer.looked = writer.looked.checked_sub(LOOK).unwrap();
        writer.look();
        writer.write(b"3\n", 1);
        let progress = lock(&writer.progress).clone();
        assert_eq!((progress.written, progress.lost), (1, 2));
        assert!(progress.failure.is_none());
        assert!(progress.last_failure.unwrap().contains("no regular file"));
    }
}
