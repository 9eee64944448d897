//! Values as the file writes them: seconds and days as numbers, and the few words that some keys
//! take.

use std::{fmt, str::FromStr, time::Duration};

use axum::http::{HeaderValue, uri::Authority};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::history::session::Keep;

/// Where incoming packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// TC, as outgoing ones.
    Tc,
    /// XDP, before the kernel's own network code, where that is possible.
    Xdp,
}

/// The origin of a web page that may use the API from a browser, exactly as browsers send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Origin {
    /// As the header has it.
    #[must_use]
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        if host.is_some_and(is_host) {
            return Ok(Self(HeaderValue::from_str(text)?));
        }
        anyhow::bail!(
            "'{text}' is no origin as browsers send it: expected one like https://host or \
             https://host:port, in small letters"
        )
    }
}

/// A name or an address, in brackets where it is one of IPv6, and maybe a port.
fn is_host(text: &str) -> bool {
    let is_part =
        |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-._:[]".contains(it);
    let is_whole = |it: Authority| it.port_u16().is_some() || it.as_str() == it.host();
    !text.starts_with(':') && text.chars().all(is_part) && text.parse().is_ok_and(is_whole)
}

impl fmt::Display for Keep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all"),
            Self::OneIn(count) => write!(formatter, "1/{count}"),
            Self::Off => formatter.write_str("off"),
        }
    }
}

/// The text is none of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected all, 1/N or off")]
pub struct NotKept;

impl FromStr for Keep {
    type Err = NotKept;

    fn from_str(text: &str) -> Result<Self, NotKept> {
        match text {
            "all" => Ok(Self::All),
            "off" => Ok(Self::Off),
            _ => text
                .strip_prefix("1/")
                .and_then(|count| count.parse().ok())
                .map(Self::OneIn)
                .ok_or(NotKept),
        }
    }
}

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A hundred years: more is for ever, and there is a word for that.
pub(super) const MAX_DAYS: u32 = 36_500;
const DAY: u64 = 86_400;

pub(super) const fn from_days(days: u32) -> Duration {
    Duration::from_secs(days as u64 * DAY)
}

/// A duration in whole days.
pub(super) mod days {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs() / DAY)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let days = u32::deserialize(deserializer)?;
        if days > MAX_DAYS {
            return Err(de::Error::custom("too many days"));
        }
        Ok(from_days(days))
    }
}

/// A duration in whole days, where 0 is for ever.
pub(super) mod days_or_ever {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        days::serialize(&duration.unwrap_or_default(), serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let duration = days::deserialize(deserializer)?;
        Ok((!duration.is_zero()).then_some(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_sessions_to_keep_is_written_as_it_is_read() {
        for text in ["all", "1/1", "1/100", "off"] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        for text in ["", "ALL", "1/0", "1/", "2/3", "1/-1", "1/5000000000"] {
            assert_eq!(text.parse::<Keep>(), Err(NotKept), "{text}");
        }
    }
}
