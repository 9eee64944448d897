//! The bytes of a capture file, unpacked, in one buffer that is used again and again. Frames are
//! borrowed from it, so nothing is allocated or copied for a packet.
//!
//! Gzip goes through zlib-rs, which is pure Rust and fast. Zstd
//! goes through the C library: the decoder in pure Rust, ruzstd, takes three times as long.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, ErrorKind, Read},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flate2::bufread::MultiGzDecoder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Fault;

/// Large enough that system calls do not count, small enough to stay in the cache.
const BUFFER: usize = 256 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A window that moves over the unpacked input.
pub(super) struct Window {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// What was read and not yet consumed lies here.
    start: usize,
    end: usize,
    /// Where the buffer's first byte lies in the unpacked input.
    base: u64,
    /// The input said that it ended, and is not asked again.
    ended: bool,
}

impl Window {
    /// Looks at how the input begins, and puts a decompressor between if it is packed (which is
    /// the second value).
    pub(super) fn open(
        input: Box<dyn Read + Send>,
        consumed: Arc<AtomicU64>,
    ) -> Result<(Self, bool), Fault> {
        let mut input = Counted { input, consumed };
        let mut start = Vec::with_capacity(4);
        (&mut input)
            .take(4)
            .read_to_end(&mut start)
            .map_err(Fault::Read)?;
        let gzip = start.starts_with(&GZIP_MAGIC);
        let zstd = start == ZSTD_MAGIC || is_skippable(&start);
        let whole = Cursor::new(start).chain(input);
        let input: Box<dyn Read + Send> = if gzip {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole)))
        } else if zstd {
            Box::new(zstd::Decoder::new(whole).map_err(Fault::Read)?)
        } else {
            Box::new(whole)
        };
        let window = Self {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            base: 0,
            ended: false,
        };
        Ok((window, gzip || zstd))
    }

    /// Whether the input goes on for `length` bytes, which then are in [`Window::bytes`].
    #[inline(always)]
    pub(super) fn holds(&mut self, length: usize) -> Result<bool, Fault> {
        if self.end - self.start >= length {
            return Ok(true);
        }
        self.fill(length)
    }

    /// As [`Window::holds`], where the format says that the bytes must be there.
    #[inline(always)]
    pub(super) fn require(&mut self, length: usize) -> Result<(), Fault> {
        if self.holds(length)? {
            return Ok(());
        }
        Err(Fault::CutOff {
            expected: length,
            present: self.end - self.start,
        })
    }

    /// What is in the window.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves on by `length` bytes, which must be in the window. They stay where they are until
    /// the next call of [`Window::holds`]; `part` of them is returned as a range for
    /// [`Window::at`].
    #[inline(always)]
    pub(super) fn consume(&mut self, length: usize, part: Range<usize>) -> Range<usize> {
        debug_assert!(length <= self.end - self.start && part.end <= length);
        let range = self.start + part.start..self.start + part.end;
        self.start += length;
        range
    }

    /// Bytes that were consumed last.
    #[inline(always)]
    pub(super) fn at(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Where the window begins in the unpacked input.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    #[cold]
    fn fill(&mut self, length: usize) -> Result<bool, Fault> {
        // Less than one record is left: moving it costs nothing beside what is read behind it.
        self.buffer.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        while self.end < length && !self.ended {
            if self.end == self.buffer.len() {
                // Grows with what came in, never with what a length field claims.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
        Ok(self.end >= length)
    }
}

/// A frame of zstd's that holds no data; some writers begin with one.
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// An input that may be a pipe which is silent for hours. It reports [`ErrorKind::WouldBlock`] every
/// now and then, whether or not there is something to read, so that its reader can do other things;
/// only between packets, though, not while it is being opened.
pub(super) struct Pausing {
    pub(super) input: File,
    /// The input was opened: pauses are welcome.
    pub(super) opened: Arc<AtomicBool>,
    /// Nobody wants more of it.
    pub(super) stop: Arc<AtomicBool>,
    /// When the last pause was.
    pub(super) last: Instant,
}

/// How long reading goes on, or waits, without a [`Pause`](super::Pause).
pub const PAUSE_EVERY: Duration = Duration::from_millis(100);

impl Read for Pausing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = PAUSE_EVERY.saturating_sub(self.last.elapsed());
            if !left.is_zero() && is_readable(&self.input, left)? {
                return self.input.read(buffer);
            }
            self.last = Instant::now();
            if self.opened.load(Ordering::Relaxed) {
                return Err(ErrorKind::WouldBlock.into());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("stopped"));
            }
        }
    }
}

/// Whether there is something to read, an end or a failure among it, within `patience`.
fn is_readable(input: &File, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&patience)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Counts what is read, below any decompressor.
struct Counted {
    input: Box<dyn Read + Send>,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
