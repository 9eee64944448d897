//! What a sink is: where alerts are told, and how. The kind decides which of the other settings
//! there are.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    secret::{Secret, Url},
    template,
};
use crate::{
    alert::{notice::Language, rule::is_name},
    outbox::Policy,
};

/// Of what kind a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HTTP server, which is posted JSON.
    Webhook,
    /// Prometheus Alertmanager, by its API v2.
    Alertmanager,
    /// A robot of DingTalk.
    Dingtalk,
    /// A robot of Feishu, or Lark.
    Feishu,
    /// A robot of WeCom.
    Wecom,
    /// An incoming webhook of Slack.
    Slack,
    /// Mail, by SMTP.
    Email,
    /// A program.
    Command,
    /// The daemon's log.
    Log,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Alertmanager => "alertmanager",
            Self::Dingtalk => "dingtalk",
            Self::Feishu => "feishu",
            Self::Wecom => "wecom",
            Self::Slack => "slack",
            Self::Email => "email",
            Self::Command => "command",
            Self::Log => "log",
        }
    }

    /// Whether it is reached over HTTP.
    #[must_use]
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Email | Self::Command | Self::Log)
    }

    /// Which settings it has, beside those that all have.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => &[
                "url",
                "url_file",
                "secret",
                "secret_file",
                "headers",
                "template",
                "ca_file",
                "proxy",
            ],
            Self::Alertmanager => &[
                "url",
                "url_file",
                "headers",
                "resend_seconds",
                "ca_file",
                "proxy",
            ],
            Self::Dingtalk | Self::Feishu => &[
                "url",
                "url_file",
                "secret",
                "secret_file",
                "ca_file",
                "proxy",
            ],
            Self::Wecom | Self::Slack => &["url", "url_file", "ca_file", "proxy"],
            Self::Email => &[
                "host",
                "port",
                "tls",
                "user",
                "password",
                "password_file",
                "from",
                "to",
                "ca_file",
            ],
            Self::Command => &["command"],
            Self::Log => &[],
        }
    }
}

/// How a connection for mail is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// From its beginning.
    Tls,
    /// After a word in the clear.
    #[default]
    Starttls,
    /// Not at all.
    None,
}

/// A sink, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// What it is called; there is one of a name.
    pub name: String,
    /// Of what kind it is.
    pub kind: Kind,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// A file that says where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// What messages are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// A file with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Headers that are sent with each message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// What is sent as the body, in place of all that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// How often what still fires is sent again to an Alertmanager.
    #[serde(default = "resend", rename = "resend_seconds", with = "crate::seconds")]
    pub resend: Duration,
    /// The server that takes mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port; 465 with TLS, 587 with STARTTLS, 25 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How that is encrypted.
    #[serde(default)]
    pub tls: MailTls,
    /// Who sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// By which word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// From whom it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// To whom it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// A program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Certificates to trust, in place of those of the web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A proxy on the way there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Url>,
    /// In which words it is told.
    #[serde(default)]
    pub language: Language,
    /// How long one try may take.
    #[serde(
        default = "timeout",
        rename = "timeout_seconds",
        with = "crate::seconds"
    )]
    pub timeout: Duration,
    /// How long it is tried.
    #[serde(
        default = "max_age",
        rename = "max_age_seconds",
        with = "crate::seconds"
    )]
    pub max_age: Duration,
    /// How often it is tried.
    #[serde(default = "max_attempts")]
    pub max_attempts: u32,
}

const fn resend() -> Duration {
    Duration::from_secs(60)
}

const fn timeout() -> Duration {
    Duration::from_secs(10)
}

const fn max_age() -> Duration {
    Duration::from_secs(86_400)
}

const fn max_attempts() -> u32 {
    1000
}

/// More headers, receivers or arguments are probably not meant.
const MOST: usize = 64;

impl Definition {
    /// One of which only this is said.
    #[must_use]
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            url: None,
            url_file: None,
            secret: None,
            secret_file: None,
            headers: BTreeMap::new(),
            template: None,
            resend: resend(),
            host: None,
            port: None,
            tls: MailTls::default(),
            user: None,
            password: None,
            password_file: None,
            from: None,
            to: Vec::new(),
            command: Vec::new(),
            ca_file: None,
            proxy: None,
            language: Language::default(),
            timeout: timeout(),
            max_age: max_age(),
            max_attempts: max_attempts(),
        }
    }

    /// How long, and how often, a message is tried.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        Policy {
            max_age: self.max_age,
            max_attempts: self.max_attempts,
        }
    }

    /// Where it is, as far as it is shown.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.kind {
            Kind::Email => format!(
                "{} by {}",
                self.to.join(", "),
                self.host.as_deref().unwrap_or_default()
            ),
            Kind::Command => self.command.first().cloned().unwrap_or_default(),
            Kind::Log => "the log".to_owned(),
            _ => match (&self.url, &self.url_file) {
                (Some(url), _) => url.shown(),
                (None, Some(file)) => format!("the URL of {}", file.display()),
                (None, None) => String::new(),
            },
        }
    }

    /// The files that it reads.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [
            &self.url_file,
            &self.secret_file,
            &self.password_file,
            &self.ca_file,
        ]
        .into_iter()
        .flatten()
    }

    /// The keys whose values, each taken alone, are out of their bounds.
    #[must_use]
    pub fn wrong_keys(&self) -> Vec<&'static str> {
        let is_absolute = |path: &Option<PathBuf>| path.as_ref().is_none_or(|it| it.is_absolute());
        let is_url = |url: &Option<Url>| url.as_ref().is_none_or(Url::is_right);
        let within = |it: Duration, low: f64, high: f64| (low..=high).contains(&it.as_secs_f64());
        let is_mailbox = |text: &String| text.parse::<lettre::message::Mailbox>().is_ok();
        let is_host = |host: &String| {
            (1..=253).contains(&host.len())
                && !host.contains(|it: char| it.is_whitespace() || it == '/')
        };
        let is_header = |(name, value): (&String, &Secret)| {
            name.parse::<ureq::http::HeaderName>().is_ok()
                && value.reveal().parse::<ureq::http::HeaderValue>().is_ok()
        };
        let is_program = |command: &[String]| {
            command
                .first()
                .is_none_or(|program| program.starts_with('/'))
                && command.iter().all(|it| !it.contains('\0'))
        };
        let right = [
            ("name", is_name(&self.name)),
            ("url", is_url(&self.url)),
            ("url_file", is_absolute(&self.url_file)),
            (
                "secret",
                self.secret
                    .as_ref()
                    .is_none_or(|it| !it.reveal().is_empty()),
            ),
            ("secret_file", is_absolute(&self.secret_file)),
            (
                "headers",
                self.headers.len() <= MOST && self.headers.iter().all(is_header),
            ),
            (
                "template",
                self.template
                    .as_ref()
                    .is_none_or(|it| template::check(it).is_ok()),
            ),
            ("resend_seconds", within(self.resend, 1.0, 3600.0)),
            ("host", self.host.as_ref().is_none_or(is_host)),
            ("port", self.port != Some(0)),
            ("password_file", is_absolute(&self.password_file)),
            ("from", self.from.as_ref().is_none_or(is_mailbox)),
            (
                "to",
                self.to.len() <= MOST && self.to.iter().all(is_mailbox),
            ),
            (
                "command",
                self.command.len() <= MOST && is_program(&self.command),
            ),
            ("ca_file", is_absolute(&self.ca_file)),
            ("proxy", is_url(&self.proxy)),
            ("timeout_seconds", within(self.timeout, 0.1, 120.0)),
            ("max_age_seconds", within(self.max_age, 1.0, 2_678_400.0)),
            ("max_attempts", (1..=1_000_000).contains(&self.max_attempts)),
        ];
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong.map(|(key, _)| key).collect()
    }

    /// The keys that do not go with others, each with what would be right.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(&'static str, String)> {
        let mut conflicts: Vec<(&'static str, String)> = Vec::new();
        let own = self.kind.keys();
        let set = [
            ("url", self.url.is_some()),
            ("url_file", self.url_file.is_some()),
            ("secret", self.secret.is_some()),
            ("secret_file", self.secret_file.is_some()),
            ("headers", !self.headers.is_empty()),
            ("template", self.template.is_some()),
            ("resend_seconds", self.resend != resend()),
            ("host", self.host.is_some()),
            ("port", self.port.is_some()),
            ("tls", self.tls != MailTls::default()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("password_file", self.password_file.is_some()),
            ("from", self.from.is_some()),
            ("to", !self.to.is_empty()),
            ("command", !self.command.is_empty()),
            ("ca_file", self.ca_file.is_some()),
            ("proxy", self.proxy.is_some()),
        ];
        for (key, is_set) in set {
            if is_set && !own.contains(&key) {
                let kind = self.kind.name();
                conflicts.push((key, format!("none: a sink of kind {kind} has no such key")));
            }
        }
        let mut either = |one: &'static str, is_set: bool, other: &str, is_other: bool| {
            if is_set && is_other {
                conflicts.push((one, format!("this or {other}, not both")));
            }
        };
        either(
            "url",
            self.url.is_some(),
            "url_file",
            self.url_file.is_some(),
        );
        either(
            "secret",
            self.secret.is_some(),
            "secret_file",
            self.secret_file.is_some(),
        );
        either(
            "password",
            self.password.is_some(),
            "password_file",
            self.password_file.is_some(),
        );
        let has_password = self.password.is_some() || self.password_file.is_some();
        if own.contains(&"user") && self.user.is_some() != has_password {
            conflicts.push(("user", "user and password, or none of them".to_owned()));
        }
        let missing = match self.kind {
            Kind::Email if self.host.is_none() => Some("host"),
            Kind::Email if self.from.is_none() => Some("from"),
            Kind::Email if self.to.is_empty() => Some("to"),
            Kind::Command if self.command.is_empty() => Some("command"),
            kind if kind.is_http() && self.url.is_none() && self.url_file.is_none() => Some("url"),
            _ => None,
        };
        if let Some(key) = missing {
            let or = if key == "url" {
                " here, or url_file"
            } else {
                ""
            };
            conflicts.push((
                key,
                format!("a value{or}: a sink of kind {} needs it", self.kind.name()),
            ));
        }
        conflicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<&'static str> {
        let definition: Definition = toml::from_str(text).unwrap();
        assert_eq!(definition.wrong_keys(), [""; 0]);
        let conflicts = definition.conflicts().into_iter();
        conflicts.map(|(key, _)| key).collect()
    }

    #[test]
    fn a_sink_needs_what_its_kind_needs_and_has_nothing_else() {
        assert_eq!(keys("name = 'a'\nkind = 'log'"), [""; 0]);
        assert_eq!(keys("name = 'a'\nkind = 'webhook'"), ["url"]);
        assert_eq!(
            keys("name = 'a'\nkind = 'slack'\nurl = 'http://a'\nsecret = 'b'\nto = ['c@d']"),
            ["secret", "to"]
        );
        assert_eq!(
            keys(
                "name = 'a'\nkind = 'dingtalk'\nurl = 'http://a'\nsecret = 'b'\nsecret_file = '/c'"
            ),
            ["secret"]
        );
        assert_eq!(
            keys("name = 'a'\nkind = 'email'\nuser = 'b'"),
            ["user", "host"]
        );
        assert_eq!(keys("name = 'a'\nkind = 'command'"), ["command"]);
    }

    #[test]
    fn values_out_of_their_bounds_are_told_by_their_keys() {
        let text = "name = ''\nkind = 'webhook'\nurl = 'a'\nsecret_file = 'b'\ntimeout_seconds = 0\n\
                    template = '{{ nothing'\nto = ['@']\ncommand = ['sh']\nmax_attempts = 0\n\
                    [headers]\n'a b' = ''";
        let definition: Definition = toml::from_str(text).unwrap();
        assert_eq!(
            definition.wrong_keys(),
            [
                "name",
                "url",
                "secret_file",
                "headers",
                "template",
                "to",
                "command",
                "timeout_seconds",
                "max_attempts"
            ]
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let text = "name = 'a'\nkind = 'email'\nurl = 'http://h/topsecret'\nsecret = 'topsecret'\n\
                    password = 'topsecret'\n[headers]\nAuthorization = 'topsecret'";
        let definition: Definition = toml::from_str(text).unwrap();
        let shown = toml::to_string(&definition).unwrap();
        for text in [shown, format!("{definition:?}"), definition.shown()] {
            assert!(!text.contains("topsecret"), "{text}");
        }
    }
}
