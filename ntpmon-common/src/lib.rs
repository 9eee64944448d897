//! What the kernel programs and the daemon share, so that it exists once: the [`Event`] (or
//! [`PtpEvent`]) that crosses the ring buffer, the [parser](parse) that makes it, the [counters](Counter) of what was
//! not emitted, and the [settings] that a program is loaded with.
//!
//! The parser is generic over [`Packet`]: the code that runs in the kernel is the code that is
//! unit-tested, fuzzed and replayed over capture files.

#![no_std]

mod counters;
mod event;
mod ntp;
pub mod parse;
mod ptp;
pub mod settings;

pub use counters::{COUNTERS, Counter, Counters};
pub use event::{Authentication, Direction, Event, flags};
pub use ntp::{Mode, NtpHeader, Span, Timestamp};
pub use parse::{Packet, Skip};
pub use ptp::{
    Announced, ClockIdentity, PortIdentity, PtpEvent, PtpMessage, PtpTimestamp, PtpType, ptp_flags,
};
