//! What a check is: whom to ask, how often and how. The same fields stand in the file as
//! `[[check]]` and in the API.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::Target;

/// A check, as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Whom to ask; of a name, all its addresses.
    pub server: Target,
    /// What to call it; the server, unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// From the beginning of one round to that of the next.
    #[serde(
        default = "interval",
        rename = "interval_seconds",
        with = "crate::seconds"
    )]
    pub interval: Duration,
    /// Questions in a round.
    #[serde(default = "samples")]
    pub samples: u8,
    /// From one question of a round to the next.
    #[serde(
        default = "spacing",
        rename = "sample_interval_seconds",
        with = "crate::seconds"
    )]
    pub spacing: Duration,
    /// How long a question waits for its answer.
    #[serde(
        default = "timeout",
        rename = "timeout_seconds",
        with = "crate::seconds"
    )]
    pub timeout: Duration,
    /// The version of NTP to ask in.
    #[serde(default = "version")]
    pub version: u8,
    /// Which of a name's addresses.
    #[serde(default)]
    pub family: Family,
}

const fn interval() -> Duration {
    Duration::from_secs(64)
}

const fn samples() -> u8 {
    3
}

const fn spacing() -> Duration {
    Duration::from_secs(2)
}

const fn timeout() -> Duration {
    Duration::from_secs(2)
}

const fn version() -> u8 {
    4
}

/// Which addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// All of them.
    #[default]
    Any,
    /// Those of IPv4.
    Ipv4,
    /// Those of IPv6.
    Ipv6,
}

impl Family {
    /// Whether it is one of these.
    #[must_use]
    pub const fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Any => "any",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl Definition {
    /// The defaults, for this server.
    #[must_use]
    pub fn of(server: Target) -> Self {
        Self {
            server,
            name: None,
            interval: interval(),
            samples: samples(),
            spacing: spacing(),
            timeout: timeout(),
            version: version(),
            family: Family::Any,
        }
    }

    /// What to call it.
    #[must_use]
    pub fn name(&self) -> String {
        let server = || self.server.to_string();
        self.name.clone().unwrap_or_else(server)
    }

    /// The longest that a round takes, when nobody answers. The next begins after it.
    #[must_use]
    pub fn longest_round(&self) -> Duration {
        let between = u32::from(self.samples).saturating_sub(1);
        self.spacing.max(self.timeout) * between + self.timeout.max(self.spacing)
    }
}
