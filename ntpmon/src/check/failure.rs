//! What a question can come to, other than the time: each with a name for programs and a text for
//! whoever reads it at night.

use std::{io, net::SocketAddr, time::Duration};

/// What a question, or a round of them, came to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// The time.
    Ok = 0,
    /// A time that is so far away that one of the two clocks is wrong.
    FarOff = 1,
    /// The name has no address.
    Unresolved = 2,
    /// There is no way to it, or none that is allowed.
    Unreachable = 3,
    /// The port is closed.
    Refused = 4,
    /// No answer in time.
    Timeout = 5,
    /// Someone else answered.
    WrongAddress = 6,
    /// Something too short to be NTP.
    ShortAnswer = 7,
    /// An answer to something else.
    WrongOrigin = 8,
    /// NTP, and no answer of a server.
    NotAnAnswer = 9,
    /// An answer without times.
    ZeroTimes = 10,
    /// The server does not know the time itself.
    Unsynchronised = 11,
    /// The server does not want to be asked.
    KissOfDeath = 12,
    /// Times that contradict each other.
    Contradictory = 13,
    /// This host's clock was set meanwhile.
    ClockStepped = 14,
    /// This host has no sockets, or the like.
    LocalError = 15,
}

impl Status {
    /// All of them.
    pub const EACH: [Self; 16] = [
        Self::Ok,
        Self::FarOff,
        Self::Unresolved,
        Self::Unreachable,
        Self::Refused,
        Self::Timeout,
        Self::WrongAddress,
        Self::ShortAnswer,
        Self::WrongOrigin,
        Self::NotAnAnswer,
        Self::ZeroTimes,
        Self::Unsynchronised,
        Self::KissOfDeath,
        Self::Contradictory,
        Self::ClockStepped,
        Self::LocalError,
    ];

    /// The name in the API, in files and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::FarOff => "far_off",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::WrongAddress => "wrong_address",
            Self::ShortAnswer => "short_answer",
            Self::WrongOrigin => "wrong_origin",
            Self::NotAnAnswer => "not_an_answer",
            Self::ZeroTimes => "zero_times",
            Self::Unsynchronised => "unsynchronised",
            Self::KissOfDeath => "kiss_of_death",
            Self::Contradictory => "contradictory",
            Self::ClockStepped => "clock_stepped",
            Self::LocalError => "local_error",
        }
    }

    /// The one of this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::EACH.get(usize::from(byte)).copied()
    }

    /// Whether the server told the time, right or wrong.
    #[must_use]
    pub const fn told_the_time(self) -> bool {
        matches!(self, Self::Ok | Self::FarOff)
    }
}

/// Why a question did not come to a time.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// See [`Status::Unresolved`].
    #[error("{name} has no address: {why}")]
    Unresolved {
        /// What was looked up.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// See [`Status::Unreachable`].
    #[error("there is no way to the server: {0}")]
    Unreachable(String),
    /// See [`Status::Refused`].
    #[error("the port is closed: nothing answers NTP there")]
    Refused,
    /// See [`Status::Timeout`].
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// See [`Status::WrongAddress`].
    #[error("the answer came from {0}, which was not asked")]
    WrongAddress(SocketAddr),
    /// See [`Status::ShortAnswer`].
    #[error("the answer has {0} bytes, NTP has 48 at least")]
    ShortAnswer(usize),
    /// See [`Status::WrongOrigin`].
    #[error("an answer came to something that was not asked (its origin is not what was sent)")]
    WrongOrigin,
    /// See [`Status::NotAnAnswer`].
    #[error("what came back is no answer of a server: mode {mode}, version {version}")]
    NotAnAnswer {
        /// As the packet says.
        mode: u8,
        /// As the packet says.
        version: u8,
    },
    /// See [`Status::ZeroTimes`].
    #[error("the server's answer has no times: its receive or its transmit time is zero")]
    ZeroTimes,
    /// See [`Status::Unsynchronised`].
    #[error("the server is not synchronised: leap indicator {leap_indicator}, stratum {stratum}")]
    Unsynchronised {
        /// As the packet says.
        leap_indicator: u8,
        /// As the packet says.
        stratum: u8,
    },
    /// See [`Status::KissOfDeath`].
    #[error("the server says {code} (kiss-o'-death): {}", explained(.code))]
    KissOfDeath {
        /// Four letters, or fewer.
        code: String,
    },
    /// See [`Status::Contradictory`].
    #[error(
        "the server's times contradict each other: it received and answered {processing:.6} s \
         apart, and all of it took {elapsed:.6} s"
    )]
    Contradictory {
        /// T3 − T2, in seconds.
        processing: f64,
        /// T4 − T1, in seconds.
        elapsed: f64,
    },
    /// See [`Status::ClockStepped`].
    #[error("this host's clock was set by {0:+.6} s while the server was asked")]
    ClockStepped(f64),
    /// See [`Status::LocalError`].
    #[error("this host could not ask: {0}")]
    Local(String),
}

fn explained(code: &str) -> &'static str {
    match code {
        "RATE" => "it is asked too often",
        "DENY" | "RSTR" => "it does not serve this host",
        "INIT" => "it has not found the time yet",
        "STEP" => "its clock was set just now",
        _ => "it does not tell the time now",
    }
}

impl Failure {
    /// In one word.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Unresolved { .. } => Status::Unresolved,
            Self::Unreachable(_) => Status::Unreachable,
            Self::Refused => Status::Refused,
            Self::Timeout(_) => Status::Timeout,
            Self::WrongAddress(_) => Status::WrongAddress,
            Self::ShortAnswer(_) => Status::ShortAnswer,
            Self::WrongOrigin => Status::WrongOrigin,
            Self::NotAnAnswer { .. } => Status::NotAnAnswer,
            Self::ZeroTimes => Status::ZeroTimes,
            Self::Unsynchronised { .. } => Status::Unsynchronised,
            Self::KissOfDeath { .. } => Status::KissOfDeath,
            Self::Contradictory { .. } => Status::Contradictory,
            Self::ClockStepped(_) => Status::ClockStepped,
            Self::Local(_) => Status::LocalError,
        }
    }

    /// What the kernel says of a packet that it could not send, or that came back.
    #[must_use]
    pub fn of_network(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EACCES
                | libc::EPERM
                | libc::EINVAL
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EADDRNOTAVAIL,
            ) => Self::Unreachable(error.to_string()),
            _ => Self::Local(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_found_by_its_number() {
        for status in Status::EACH {
            assert_eq!(Status::from_byte(status as u8), Some(status));
        }
        assert_eq!(Status::from_byte(16), None);
    }
}
