//! What was found: a kind, when, of whom, and the numbers that show it.

use jiff::Timestamp;
use ntpmon_common::Authentication;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::track::Step;
use crate::ntp::Stamped;

/// Names of things, in the database, the API and rules.
macro_rules! names {
    ($(#[$attribute:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$doc])* $variant,)*
        }

        impl $type {
            /// All of them.
            pub const EACH: &[Self] = &[$(Self::$variant,)*];

            /// All of them by their names.
            pub const NAMES: &[(&str, Self)] = &[$(($name, Self::$variant),)*];

            /// The name in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// By the name in the API.
            #[must_use]
            pub fn find(name: &str) -> Option<Self> {
                Self::EACH.iter().copied().find(|it| it.name() == name)
            }
        }
    };
}

names! {
    /// What happened.
    Kind {
        /// A server's clock was stepped by less than [`JUMP`], as seen from here: its offset changed
        /// by more than the delay can explain.
        OffsetStep = "offset_step",
        /// The same, by at least [`JUMP`].
        TimeJump = "time_jump",
        /// A server received a request before it sent the response before that.
        TimeBackwards = "time_backwards",
        /// A server's distance from its reference clock changed.
        StratumChanged = "stratum_changed",
        /// A server follows another reference.
        ReferenceIdChanged = "reference_id_changed",
        /// A leap second is announced or taken back; or the server is no longer synchronised, or
        /// again.
        LeapChanged = "leap_changed",
        /// Answers look as if another program, or another host, gave them.
        FingerprintChanged = "fingerprint_changed",
        /// An answer that nobody asked for.
        UnsolicitedAnswer = "unsolicited_answer",
        /// A further answer to a request that was answered.
        DuplicatedAnswer = "duplicated_answer",
        /// A server told this host to ask less, or not at all.
        KissOfDeath = "kiss_of_death",
        /// This host's own clock was stepped.
        LocalClockStepped = "local_clock_stepped",
        /// Another announces as master of a PTP domain, or nobody does any more.
        PtpMasterChanged = "ptp_master_changed",
        /// A PTP master follows another grandmaster.
        PtpGrandmasterChanged = "ptp_grandmaster_changed",
        /// A PTP grandmaster has another quality or priority.
        PtpClockQualityChanged = "ptp_clock_quality_changed",
        /// A PTP master says otherwise of TAI, leap seconds or its source of time.
        PtpTimePropertiesChanged = "ptp_time_properties_changed",
        /// Several announce as masters of a PTP domain at the same time.
        PtpSeveralMasters = "ptp_several_masters",
    }
}

names! {
    /// How much it matters.
    Severity {
        /// To know.
        Info = "info",
        /// To look at.
        Warning = "warning",
        /// To act on.
        Critical = "critical",
    }
}

/// From here on, in nanoseconds, a step is one by which other daemons would step their clocks too.
pub const JUMP: u64 = 128_000_000;

impl Kind {
    /// How much it matters, where what was found does not say otherwise.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::TimeJump | Self::TimeBackwards => Severity::Critical,
            Self::OffsetStep
            | Self::FingerprintChanged
            | Self::UnsolicitedAnswer
            | Self::KissOfDeath
            | Self::LocalClockStepped
            | Self::PtpMasterChanged
            | Self::PtpGrandmasterChanged
            | Self::PtpSeveralMasters => Severity::Warning,
            Self::StratumChanged
            | Self::ReferenceIdChanged
            | Self::LeapChanged
            | Self::DuplicatedAnswer
            | Self::PtpClockQualityChanged
            | Self::PtpTimePropertiesChanged => Severity::Info,
        }
    }
}

/// Something that happened, as the packets show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// When, in nanoseconds since 1970, where the packet has a time.
    pub time: Option<i64>,
    /// To whom; nothing: to this host's clock.
    pub server: Option<[u8; 16]>,
    /// Who asked.
    pub client: Option<[u8; 16]>,
    /// Whether that server was asked before.
    pub is_known: bool,
    /// What else it is about, where it is not a server: a hash that tells one from another.
    pub subject: Option<u64>,
    /// What shows it.
    pub evidence: Evidence,
}

/// The numbers that show it. Durations are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evidence {
    /// A step of a server's clock.
    Step {
        /// Positive when the server's clock went forwards.
        change_seconds: f64,
        /// How far the server was expected to be ahead of this host.
        offset_before_seconds: f64,
        /// How far it is.
        offset_after_seconds: f64,
        /// Median of the samples before.
        delay_before_seconds: f64,
        /// Of the exchange that shows it.
        delay_after_seconds: f64,
        /// What jitter, delay and drift could have explained at most.
        explained_seconds: f64,
        /// How many samples there were before.
        samples_before: usize,
        /// T2.
        receive_timestamp: Option<Timestamp>,
        /// T3.
        transmit_timestamp: Option<Timestamp>,
        /// T3 of the answer before.
        previous_transmit_timestamp: Option<Timestamp>,
        /// When the response passed here.
        arrival_timestamp: Option<Timestamp>,
    },
    /// A number of the header changed.
    Number {
        /// As it was.
        before: u8,
        /// As it is.
        after: u8,
        /// The stratum, where it is not what changed.
        #[serde(skip_serializing_if = "Option::is_none")]
        stratum: Option<u8>,
    },
    /// The reference id changed.
    Reference {
        /// As it was.
        before: Option<String>,
        /// As it is.
        after: Option<String>,
        /// The stratum.
        stratum: u8,
    },
    /// The fingerprint changed.
    Fingerprint {
        /// What of it: `ttl`, `precision`, `version`, `authentication`, `extensions`.
        what: &'static str,
        /// As it was.
        before: String,
        /// As it is.
        after: String,
    },
    /// A packet.
    Answer {
        /// The server's port.
        server_port: u16,
        /// The client's port.
        client_port: u16,
        /// What it claims to answer.
        #[serde(serialize_with = "hexadecimal")]
        originate_timestamp: u64,
        /// Its stratum.
        stratum: u8,
        /// How many hops it had left.
        ttl: u8,
        /// What vouches for it.
        authentication: &'static str,
        /// Bytes of its NTP.
        packet_length: u16,
    },
    /// A kiss of death.
    Kiss {
        /// RATE, DENY, …
        code: String,
    },
    /// A step of this host's clock.
    LocalStep {
        /// Positive when it went forwards.
        change_seconds: f64,
    },
    /// What another protocol shows.
    Told {
        /// In a sentence.
        #[serde(skip)]
        text: String,
        /// What shows it.
        #[serde(flatten)]
        fields: Map<String, Value>,
    },
}

impl Evidence {
    /// Whether another thread that saw other packets would say that of the same event.
    #[must_use]
    pub fn tells_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Step {
                    change_seconds: one,
                    explained_seconds: open,
                    ..
                },
                Self::Step {
                    change_seconds: other,
                    explained_seconds: also_open,
                    ..
                },
            ) => (one - other).abs() <= open + also_open,
            (Self::Number { .. }, _)
            | (Self::Reference { .. }, _)
            | (Self::Fingerprint { .. }, _) => self == other,
            // Each of those is a packet of its own.
            _ => false,
        }
    }

    /// What a packet shows.
    #[must_use]
    pub fn answer(response: &Stamped) -> Self {
        let event = &response.event;
        Self::Answer {
            server_port: event.source_port,
            client_port: event.destination_port,
            originate_timestamp: event.ntp.origin().0,
            stratum: event.ntp.stratum(),
            ttl: event.ttl,
            authentication: Authentication::from_byte(event.authentication).name(),
            packet_length: event.payload_length,
        }
    }

    /// What a step shows.
    #[must_use]
    pub fn step(step: &Step, response: &Stamped, previous_transmit: Option<i64>) -> Self {
        let seconds = |nanoseconds: i64| nanoseconds as f64 / 1e9;
        let captured = response.captured();
        let near = |stamp: ntpmon_common::Timestamp| {
            (!stamp.is_zero()).then(|| time(stamp.unix_nanoseconds_near(captured.unwrap_or(0))))
        };
        let ntp = &response.event.ntp;
        Self::Step {
            change_seconds: seconds(step.change),
            offset_before_seconds: seconds(step.after.saturating_sub(step.change)),
            offset_after_seconds: seconds(step.after),
            delay_before_seconds: seconds(step.delay_before),
            delay_after_seconds: seconds(step.delay_after),
            explained_seconds: seconds(step.explained),
            samples_before: step.samples,
            receive_timestamp: near(ntp.receive()),
            transmit_timestamp: near(ntp.transmit()),
            previous_transmit_timestamp: previous_transmit.map(time),
            arrival_timestamp: captured.map(time),
        }
    }

    /// In one sentence, to follow the name of whom it is about.
    #[must_use]
    pub fn sentence(&self, kind: Kind) -> String {
        match self {
            Self::Step {
                change_seconds,
                offset_before_seconds,
                offset_after_seconds,
                ..
            } => format!(
                "{} by {change_seconds:+.6} s: from {offset_before_seconds:+.6} s to \
                 {offset_after_seconds:+.6} s ahead of this host",
                match kind {
                    Kind::TimeBackwards => "its time ran backwards",
                    Kind::TimeJump => "its time jumped",
                    _ => "its clock was stepped",
                }
            ),
            Self::Number { before, after, .. } if kind == Kind::LeapChanged => {
                match (before, after) {
                    (_, 3) => "it is no longer synchronised".to_owned(),
                    (3, _) => "it is synchronised".to_owned(),
                    (_, 1) => "it announces a leap second".to_owned(),
                    (_, 2) => "it announces that a second is left out".to_owned(),
                    _ => "it announces no leap second any more".to_owned(),
                }
            }
            Self::Number { before, after, .. } => {
                format!("its stratum changed from {before} to {after}")
            }
            Self::Reference { before, after, .. } => {
                let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "none".to_owned());
                format!(
                    "its reference changed from {} to {}",
                    name(before),
                    name(after)
                )
            }
            Self::Fingerprint {
                what,
                before,
                after,
            } => format!("the {what} of its answers changed from {before} to {after}"),
            Self::Answer { .. } => match kind {
                Kind::DuplicatedAnswer => "it answered the same request again".to_owned(),
                _ => "it answered what nobody asked".to_owned(),
            },
            Self::Kiss { code } => format!("it sent a kiss of death: {code}"),
            Self::Told { text, .. } => text.clone(),
            Self::LocalStep { change_seconds } => {
                format!("this host's clock was stepped by {change_seconds:+.6} s")
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

/// From nanoseconds since 1970.
fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_leads_back() {
        for kind in Kind::EACH {
            assert_eq!(Kind::find(kind.name()), Some(*kind));
        }
        assert_eq!(Severity::find("critical"), Some(Severity::Critical));
        assert_eq!(Kind::find("none"), None);
    }
}
