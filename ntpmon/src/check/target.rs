//! Who is asked: a name or an address, and a port.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where NTP is unless another port is given.
pub const PORT: u16 = 123;
/// A name in DNS is no longer.
const LONGEST_NAME: usize = 253;

/// A name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// As it is given to the resolver: without brackets.
    host: String,
    port: u16,
}

impl Target {
    /// A name or an address; an IPv6 address stands without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it is asked.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// What is right, for whoever typed something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a name or an address, with or without a port, such as \"ntp.example\", \
     \"192.0.2.1:123\", \"2001:db8::1\" or \"[2001:db8::1]:123\""
)]
pub struct NoTarget;

impl FromStr for Target {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let (host, port, bracketed) = parts(text).ok_or(NoTarget)?;
        let right = if bracketed || host.contains(':') {
            is_ipv6(host)
        } else {
            is_name(host)
        };
        let port = match port {
            None => PORT,
            Some(port) => port.parse().map_err(|_| NoTarget)?,
        };
        // Names are the same in capitals; what is told of them is to be the same too. Those of
        // interfaces are not.
        let host = match host.split_once('%') {
            Some((address, interface)) => format!("{}%{interface}", address.to_ascii_lowercase()),
            None => host.to_ascii_lowercase(),
        };
        (right && port != 0)
            .then_some(Self { host, port })
            .ok_or(NoTarget)
    }
}

/// The host, the port, and whether the host stood in brackets.
fn parts(text: &str) -> Option<(&str, Option<&str>, bool)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port), true)),
            None => rest.is_empty().then_some((host, None, true)),
        };
    }
    match text.split_once(':') {
        // More than one colon is an IPv6 address.
        Some((host, port)) if !port.contains(':') => Some((host, Some(port), false)),
        _ => Some((text, None, false)),
    }
}

/// An address, maybe with the interface that it is at: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let (address, interface) = host.split_once('%').unwrap_or((host, "-"));
    address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty()
}

fn is_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=LONGEST_NAME).contains(&host.len())
        && host.bytes().all(allowed)
        && !host.starts_with(['-', '.'])
        && !host.contains("..")
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match (*port == PORT, host.contains(':')) {
            (true, _) => formatter.write_str(host),
            (false, true) => write!(formatter, "[{host}]:{port}"),
            (false, false) => write!(formatter, "{host}:{port}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, host, port, shown) in [
            ("ntp.example", "ntp.example", 123, "ntp.example"),
            ("NTP.example:123", "ntp.example", 123, "ntp.example"),
            ("ntp.example:1123", "ntp.example", 1123, "ntp.example:1123"),
            ("ntp.example.", "ntp.example.", 123, "ntp.example."),
            ("192.0.2.1:1", "192.0.2.1", 1, "192.0.2.1:1"),
            ("::1", "::1", 123, "::1"),
            ("[::1]", "::1", 123, "::1"),
            (
                "[2001:DB8::1]:1123",
                "2001:db8::1",
                1123,
                "[2001:db8::1]:1123",
            ),
            ("fe80::1%eth0", "fe80::1%eth0", 123, "fe80::1%eth0"),
            ("FE80::1%Lan0", "fe80::1%Lan0", 123, "fe80::1%Lan0"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host(), target.port()), (host, port), "{text}");
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse(), Ok(target));
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let long = "a".repeat(254);
        for text in [
            "",
            ":123",
            "a:0",
            "a:65536",
            "a:",
            "a:b",
            "[::1",
            "[::1]123",
            "[ntp.example]:123",
            "[192.0.2.1]",
            "a b",
            "http://a",
            "1::2::3",
            "-a",
            "a..b",
            "fe80::1%",
            "a/b",
            &long,
        ] {
            assert_eq!(text.parse::<Target>(), Err(NoTarget), "{text}");
        }
    }
}
