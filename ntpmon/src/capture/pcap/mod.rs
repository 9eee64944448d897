//! Capture files: the other source of frames besides a NIC. A [`Reader`] hands out the frames of
//! a pcap or pcapng file one after the other, borrowed from its one buffer, and [`parse_frame`]
//! makes events of them with the parser that runs in the kernel too. It knows nothing of pairing,
//! and needs no privileges.
//!
//! The formats are read by hand. `pcap-parser` would be fast enough, but allocates for a block with
//! options, wants the file's header in the first read (a pipe may give less), and leaves sections,
//! interfaces, clocks, bounds and the place of a fault to its caller, which is most of what stands
//! here. `pcap-file` takes the stamps of pcapng for nanoseconds whatever the interface says.

mod classic;
mod input;
mod link;
mod ng;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use ntpmon_common::Direction;

use self::{
    classic::Classic,
    input::{Pausing, Window},
    ng::Ng,
};
pub use self::{
    input::PAUSE_EVERY,
    link::{FileLink, parse_frame},
};

/// One frame as it stands in a file.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its place in the file, every packet counted, from 1 on: what other tools call the frame
    /// number.
    pub number: u64,
    /// Index of its interface within this file. Each section's interfaces have indexes of their
    /// own.
    pub interface: u32,
    /// Nanoseconds since 1970; 0 where the file does not say, or says a time before that.
    pub time: u64,
    /// How the frame begins.
    pub link: FileLink,
    /// Which way it passed, where the file says so beside the frame.
    pub direction: Direction,
    /// What was captured of it.
    pub data: &'a [u8],
    /// How long it was on the wire.
    pub wire_length: u32,
}

/// Reads the frames of one capture file.
pub struct Reader {
    /// For messages.
    name: String,
    window: Window,
    format: Format,
    /// Frames handed out so far.
    frames: u64,
    /// The end was reached, or an error was reported.
    finished: bool,
    /// Bytes taken from the file, counted where they come in.
    consumed: Arc<AtomicU64>,
    /// Size of the file, where it has one.
    size: Option<u64>,
}

enum Format {
    Classic(Classic),
    Ng(Ng),
}

/// A frame that was found in the window: what [`Frame`] says, without the borrow.
struct Found {
    interface: u32,
    time: u64,
    link: FileLink,
    direction: Direction,
    wire_length: u32,
    data: Range<usize>,
}

/// Why there is no frame. [`Reader`] knows the file's name and the frame's number, and puts it into words.
#[derive(Debug)]
enum Fault {
    /// The file ends before something that it announced.
    CutOff { expected: usize, present: usize },
    /// Something that cannot be.
    Corrupt(String),
    /// The operating system or the decompressor failed.
    Read(io::Error),
}

impl Reader {
    /// Opens a file; `-` is standard input. Gzip and zstd are recognised by how the file begins.
    ///
    /// # Errors
    /// The file cannot be read, or is not a capture file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, |file| Box::new(file))
    }

    /// As [`Reader::open`], for whoever has other things to do as well: [`Reader::next_frame`] fails
    /// with [`Pause`] every [`PAUSE_EVERY`], also while a pipe is silent, and goes on where it was when
    /// it is called again. Opening ends early, with an error, when `stop` becomes true.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_pausing(path: &Path, stop: &Arc<AtomicBool>) -> Result<Self> {
        let opened = Arc::new(AtomicBool::new(false));
        let reader = Self::open_as(path, |input| {
            Box::new(Pausing {
                input,
                opened: Arc::clone(&opened),
                stop: Arc::clone(stop),
                last: Instant::now(),
            })
        })?;
        opened.store(true, Ordering::Relaxed);
        Ok(reader)
    }

    fn open_as(path: &Path, input: impl FnOnce(File) -> Box<dyn Read + Send>) -> Result<Self> {
        if path.as_os_str() == "-" {
            // Not the standard library's reader: what that one has buffered no poll can see.
            let file = io::stdin().as_fd().try_clone_to_owned();
            let file = File::from(file.context("cannot open standard input")?);
            return Self::from_reader("standard input".to_owned(), input(file));
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot look at {name}"))?;
        let mut reader = Self::from_reader(name, input(file))?;
        reader.size = metadata.is_file().then_some(metadata.len());
        Ok(reader)
    }

    /// Reads from anything; `name` is for messages.
    ///
    /// # Errors
    /// The input cannot be read, or is not a capture file.
    pub fn from_reader(name: String, input: Box<dyn Read + Send>) -> Result<Self> {
        let consumed = Arc::new(AtomicU64::new(0));
        match Self::begin(input, Arc::clone(&consumed)) {
            Ok((window, format)) => Ok(Self {
                name,
                window,
                format,
                frames: 0,
                finished: false,
                consumed,
                size: None,
            }),
            Err(Start::Empty) => Err(anyhow!(
                "{name} is empty: a capture file (pcap or pcapng) has at least a header"
            )),
            Err(Start::Foreign { packed, start }) => Err(anyhow!(
                "{name} is not a capture file (pcap or pcapng, gzip and zstd allowed): {} {}",
                if packed {
                    "what is packed in it begins with"
                } else {
                    "it begins with"
                },
                hexadecimal(&start)
            )),
            Err(Start::Fault(fault)) => Err(in_words(&name, None, 0, fault)),
        }
    }

    fn begin(
        input: Box<dyn Read + Send>,
        consumed: Arc<AtomicU64>,
    ) -> Result<(Window, Format), Start> {
        let (mut window, packed) = Window::open(input, consumed)?;
        if !window.holds(4)? {
            return Err(if window.bytes().is_empty() {
                Start::Empty
            } else {
                Start::Foreign {
                    packed,
                    start: window.bytes().to_vec(),
                }
            });
        }
        let mut start = [0; 4];
        start.copy_from_slice(&window.bytes()[..4]);
        let format = if start == ng::SECTION_MAGIC {
            Format::Ng(Ng::new())
        } else if let Some(variant) = classic::Variant::of(start) {
            Format::Classic(Classic::open(variant, &mut window)?)
        } else {
            return Err(Start::Foreign {
                packed,
                start: start.to_vec(),
            });
        };
        Ok((window, format))
    }

    /// The next frame, or `None` at the end. After an error other than [`Pause`] there is nothing
    /// more to be had.
    ///
    /// # Errors
    /// The file is cut off, corrupt, or cannot be read. Every frame before that was handed out.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        if self.finished {
            return Ok(None);
        }
        let found = match &mut self.format {
            Format::Classic(classic) => classic.next(&mut self.window),
            Format::Ng(ng) => ng.next(&mut self.window),
        };
        match found {
            Ok(Some(found)) => {
                self.frames += 1;
                Ok(Some(Frame {
                    number: self.frames,
                    interface: found.interface,
                    time: found.time,
                    link: found.link,
                    direction: found.direction,
                    data: self.window.at(found.data),
                    wire_length: found.wire_length,
                }))
            }
            Ok(None) => {
                self.finished = true;
                Ok(None)
            }
            Err(Fault::Read(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(anyhow::Error::new(Pause))
            }
            Err(fault) => {
                self.finished = true;
                let packet = Some(self.frames + 1);
                Err(in_words(&self.name, packet, self.window.offset(), fault))
            }
        }
    }

    /// Whether what was read so far ends with a frame. Whoever writes packets as they come leaves
    /// none half written; one who collects them first does, and has more of them.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.window.bytes().is_empty()
    }

    /// The name of an interface, where the file has one for it.
    #[must_use]
    pub fn interface_name(&self, index: u32) -> Option<&str> {
        match &self.format {
            Format::Classic(_) => None,
            Format::Ng(ng) => ng.interface_name(index),
        }
    }

    /// How many bytes of the file were read, and how many it has where that is known. Both are
    /// bytes of the file as it is stored: compressed, if it is.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.consumed.load(Ordering::Relaxed), self.size)
    }
}

/// Nothing has come, or time has passed: see [`Reader::open_pausing`].
#[derive(Debug)]
pub struct Pause;

impl fmt::Display for Pause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("no packet yet")
    }
}

impl std::error::Error for Pause {}

/// Why a file was not opened.
enum Start {
    Empty,
    Foreign { packed: bool, start: Vec<u8> },
    Fault(Fault),
}

impl From<Fault> for Start {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Without a packet the place is the file's header. `offset` counts unpacked bytes: a packed file's own would tell nobody anything.
#[cold]
fn in_words(name: &str, packet: Option<u64>, offset: u64, fault: Fault) -> anyhow::Error {
    let place = packet.map_or("its header".to_owned(), |number| format!("packet {number}"));
    match fault {
        Fault::CutOff { expected, present } => anyhow!(
            "{name} is cut off in {place}: {expected} bytes were expected at offset {offset}, \
             and only {present} are there"
        ),
        Fault::Corrupt(what) => anyhow!("{name} is corrupt in {place}, at offset {offset}: {what}"),
        // Only decompressors report this: to them the end of the file is not the end of the data.
        Fault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => anyhow!(
            "{name} is cut off in {place}: the compressed data ends early, after {offset} \
             bytes unpacked"
        ),
        Fault::Read(error) => {
            let what = match packet {
                Some(number) => format!("cannot read packet {number} of {name}"),
                None => format!("cannot read {name}"),
            };
            anyhow::Error::new(error).context(what)
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// The byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// Panics if the bytes are not there: their length was checked for the whole header before.
    #[inline(always)]
    fn u16(self, bytes: &[u8], offset: usize) -> u16 {
        let value = [bytes[offset], bytes[offset + 1]];
        match self {
            Self::Little => u16::from_le_bytes(value),
            Self::Big => u16::from_be_bytes(value),
        }
    }

    /// As [`Order::u16`].
    #[inline(always)]
    fn u32(self, bytes: &[u8], offset: usize) -> u32 {
        let bytes = &bytes[offset..offset + 4];
        let value = [bytes[0], bytes[1], bytes[2], bytes[3]];
        match self {
            Self::Little => u32::from_le_bytes(value),
            Self::Big => u32::from_be_bytes(value),
        }
    }
}
