//! What nobody is to see: neither `ntpmon config show`, nor the API, nor the log.

use std::{fmt, fs, path::Path};

use serde::{Deserialize, Serialize, Serializer};

/// What is shown instead.
pub const HIDDEN: &str = "(hidden)";

/// A text that is not shown. [`Secret::reveal`] is for what sends it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The text, or what a file has, without the white space around it. It is read each time, so
    /// that it can be replaced while the daemon runs.
    pub(super) fn get(text: Option<&Self>, file: Option<&Path>) -> Result<Option<Self>, String> {
        if let Some(text) = text {
            return Ok(Some(text.clone()));
        }
        let Some(file) = file else { return Ok(None) };
        let text = fs::read_to_string(file)
            .map_err(|error| format!("reading the secret of {}: {error}", file.display()))?;
        match text.trim() {
            "" => Err(format!("{} is empty: expected a secret", file.display())),
            text => Ok(Some(Self(text.to_owned()))),
        }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// Where something is sent. What follows the host may be a secret, and is not shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Url(String);

impl Url {
    /// As it is.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The scheme and the host.
    #[must_use]
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return HIDDEN.to_owned();
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // A user and a password may stand before it.
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let more = if path.len() > 1 { "/…" } else { path };
        format!("{scheme}://{host}{more}")
    }

    /// Whether something can be sent there.
    pub(super) fn is_right(&self) -> bool {
        let Ok(uri) = self.0.parse::<ureq::http::Uri>() else {
            return false;
        };
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && self.0.len() <= 2048
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_neither_shown_nor_written() {
        let secret = Secret::from("abc123");
        assert_eq!(format!("{secret:?}"), HIDDEN);
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(hidden)\"");
        assert_eq!(secret.reveal(), "abc123");
    }

    #[test]
    fn a_url_is_shown_up_to_its_host() {
        for (url, shown) in [
            (
                "https://hooks.example/services/T0/B0/abc",
                "https://hooks.example/…",
            ),
            (
                "https://oapi.example/robot/send?access_token=abc",
                "https://oapi.example/…",
            ),
            ("http://user:abc@127.0.0.1:9093", "http://127.0.0.1:9093"),
            ("http://[::1]:9093/", "http://[::1]:9093/"),
            ("http://a?b=abc", "http://a/…"),
        ] {
            assert_eq!(Url::from(url).shown(), shown);
            assert!(Url::from(url).is_right(), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:9093",
            "ftp://a/",
            "http://",
            "https:///a",
            "http://a b/",
        ] {
            assert!(!Url::from(url).is_right(), "{url}");
        }
    }

    #[test]
    fn a_secret_of_a_file_is_read_each_time_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let get = || Secret::get(None, Some(&file)).map(Option::unwrap);
        assert!(get().unwrap_err().contains("secret"));
        fs::write(&file, "one\n").unwrap();
        assert_eq!(get().unwrap().reveal(), "one");
        fs::write(&file, "two").unwrap();
        assert_eq!(get().unwrap().reveal(), "two");
        fs::write(&file, "\n").unwrap();
        assert!(get().unwrap_err().contains("empty"));
        assert_eq!(Secret::get(None, None), Ok(None));
    }
}
