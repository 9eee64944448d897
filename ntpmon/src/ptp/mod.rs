//! PTP, watched: who is master in each domain and what it announces, how often messages come, who
//! answers delay requests and how fast. [`watcher`] is pure: messages and times go in, changes come
//! out. [`seen`] shares one watcher an interface between the rings' threads and those who ask.

mod announcers;
pub mod change;
mod domain;
mod duplicates;
mod figures;
mod limit;
#[cfg(test)]
pub(crate) mod made;
mod master;
pub mod seen;
mod text;
pub mod view;
mod waiting;
pub mod watcher;

use ntpmon_common::{Direction, PtpEvent, PtpMessage, flags};

pub use self::{
    change::{Change, Told},
    domain::{Domain, DomainKey, Transport},
    figures::{Rate, Statistics},
    master::{Announce, Master},
    text::{accuracy_seconds, clock_text, parse_clock, port_text, time_source},
    waiting::Delays,
    watcher::{Settings, Watcher},
};

/// A PTP message and where it stands in the world's time.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// What was seen. Its own time orders messages and measures what passes between them.
    pub event: PtpEvent,
    /// When that was, in nanoseconds since 1970, by this host's clock; [`Message::NO_TIME`] where a
    /// file does not say.
    pub unix: i64,
    /// In which frame of a capture file, from 1; 0 when live.
    pub frame: u64,
}

impl Message {
    /// In place of a time: nobody noted when the message was seen.
    pub const NO_TIME: i64 = crate::ntp::Stamped::NO_TIME;

    /// When it was captured, where that is known.
    #[must_use]
    pub fn captured(&self) -> Option<i64> {
        (self.unix != Self::NO_TIME).then_some(self.unix)
    }

    /// The message itself.
    #[must_use]
    pub const fn message(&self) -> &PtpMessage {
        &self.event.message
    }

    /// Which way it passed.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        Direction::from_byte(self.event.direction)
    }

    /// How it travelled.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        if self.event.flags & flags::LAYER2 != 0 {
            Transport::Ethernet
        } else if self.event.flags & flags::IPV6 != 0 {
            Transport::UdpIpv6
        } else {
            Transport::UdpIpv4
        }
    }

    /// The domain that it belongs to.
    #[must_use]
    pub const fn domain(&self) -> DomainKey {
        DomainKey {
            number: self.event.message.domain(),
            sdo_id: self.event.message.sdo_id(),
            transport: self.transport(),
            vlan: self.event.vlan,
        }
    }
}
