//! What a check is: whom to ask, how often and how. The same fields stand in the file as
//! `[[check]]` and in the API.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::Target;

/// The fields, each with what is right for it.
pub const FIELDS: [(&str, &str); 8] = [
    (
        "server",
        "a name or an address, with or without a port, such as \"ntp.example\", \
         \"192.0.2.1:123\", \"2001:db8::1\" or \"[2001:db8::1]:123\"",
    ),
    (
        "name",
        "a text of 1 to 128 bytes, without control characters",
    ),
    ("interval_seconds", "seconds, 2 to 86400"),
    ("samples", "a whole number, 1 to 16"),
    ("sample_interval_seconds", "seconds, 2 to 60"),
    ("timeout_seconds", "seconds, 0.05 to 30"),
    ("version", "3 or 4"),
    ("family", "\"any\", \"ipv4\" or \"ipv6\""),
];

/// A name has no more bytes.
const LONGEST_NAME: usize = 128;

/// A check, as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CheckDefinition)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Whom to ask, a name or an address, with or without a port; of a name, all its addresses.
    #[schema(value_type = String, example = "ntp.example", max_length = 253, pattern = "^([A-Za-z0-9_]([A-Za-z0-9_-]|[.][A-Za-z0-9_-])*[.]?(:[1-9][0-9]{0,3})?|\\[[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4}){7}\\](:[1-9][0-9]{0,3})?)$")]
    pub server: Target,
    /// What to call it; the server, unless it is said. Each name once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = "^[ -~]+$")]
    pub name: Option<String>,
    /// From the beginning of one round to that of the next, give or take a tenth. Long enough for a
    /// round in which nobody answers.
    #[schema(value_type = f64, minimum = 2, maximum = 86400, default = 64.0)]
    #[serde(
        default = "interval",
        rename = "interval_seconds",
        with = "crate::seconds"
    )]
    pub interval: Duration,
    /// Questions in a round.
    #[serde(default = "samples", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 16, default = 3)]
    pub samples: u8,
    /// From one question of a round to the next.
    #[schema(value_type = f64, minimum = 2, maximum = 60, default = 2.0)]
    #[serde(
        default = "spacing",
        rename = "sample_interval_seconds",
        with = "crate::seconds"
    )]
    pub spacing: Duration,
    /// How long a question waits for its answer.
    #[schema(value_type = f64, minimum = 0.05, maximum = 30, default = 2.0)]
    #[serde(
        default = "timeout",
        rename = "timeout_seconds",
        with = "crate::seconds"
    )]
    pub timeout: Duration,
    /// The version of NTP to ask in.
    #[serde(default = "version", deserialize_with = "whole")]
    #[schema(minimum = 3, maximum = 4, default = 4)]
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

/// A small whole number. JSON knows one kind of number: 3.0 is 3.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let fits = number.fract() == 0.0 && (0.0..=255.0).contains(&number);
    let wrong = || de::Error::custom(format!("{number} is no whole number from 0 to 255"));
    fits.then_some(number as u8).ok_or_else(wrong)
}

/// Which addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

    /// The fields whose values, each taken alone, are out of their bounds.
    #[must_use]
    pub fn out_of_bounds(&self) -> Vec<&'static str> {
        let within = |it: Duration, low: f64, high: f64| (low..=high).contains(&it.as_secs_f64());
        let is_name = |name: &String| {
            (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(char::is_control)
        };
        let right = [
            ("name", self.name.as_ref().is_none_or(is_name)),
            ("interval_seconds", within(self.interval, 2.0, 86_400.0)),
            ("samples", (1..=16).contains(&self.samples)),
            ("sample_interval_seconds", within(self.spacing, 2.0, 60.0)),
            ("timeout_seconds", within(self.timeout, 0.05, 30.0)),
            ("version", [3, 4].contains(&self.version)),
        ];
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong.map(|(key, _)| key).collect()
    }

    /// What is right for the interval, when a round does not fit into it.
    #[must_use]
    pub fn too_short(&self) -> Option<String> {
        let round = self.longest_round();
        (self.interval < round).then(|| {
            let round = round.as_secs_f64();
            format!("{round} at least, which a round of its samples may take")
        })
    }
}
