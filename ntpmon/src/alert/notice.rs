//! What is told: one message about one alert, in words and as data, in English or Chinese. It holds
//! all that a sink needs, since it may be sent in a later life of the daemon, when the alert is over.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    matcher::Labels,
    quantity::{Direction, Quantity},
    rule::Severity,
    state::Telling,
};

/// In which words something is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

/// Why an alert is over of which nobody knows that all is well.
pub mod ended {
    /// Nobody reports it.
    pub const GONE: &str = "nobody reports it any more";
    /// It is reported, but for long without a value.
    pub const UNKNOWN: &str = "nothing is known of it any more";
    /// It is another alert's now.
    pub const CLOSER: &str = "it is reported by its address now";
    /// Others are worse, and they are not bad.
    pub const LESS: &str = "it is not among the worst any more, and those are well";
    /// There is no such rule any more.
    pub const RULE: &str = "its rule is not in force any more";
    /// There is, but it is on something else.
    pub const CHANGED: &str = "its rule was changed, and is not on it any more";

    /// All of them, with what they are in Chinese.
    pub(super) const EACH: [(&str, &str); 6] = [
        (GONE, "已无上报"),
        (UNKNOWN, "长时间无数据"),
        (CLOSER, "已按地址上报"),
        (LESS, "已不在最差之列，且最差者已正常"),
        (RULE, "规则已停用"),
        (CHANGED, "规则已变更"),
    ];
}

/// A message about an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Why it is told.
    pub event: Telling,
    /// The alert's number; 0 in a test.
    pub alert: u64,
    /// Its rule.
    pub rule: String,
    /// What that is on.
    pub quantity: Quantity,
    /// Whether it is about missing data.
    pub no_data: bool,
    /// How bad it is, or was at worst.
    pub severity: Severity,
    /// Of what; with those that the rule adds, and the host.
    pub labels: Labels,
    /// The value, if there is one.
    pub value: Option<f64>,
    /// The level that it is past.
    pub level: Option<f64>,
    /// On which side of the level it is bad.
    pub direction: Direction,
    /// When it began to be bad.
    pub began: Option<Timestamp>,
    /// When it fired.
    pub fired: Timestamp,
    /// When it was over.
    pub resolved: Option<Timestamp>,
    /// What else there is to say: what was found, or why it is over.
    pub message: Option<String>,
}

impl Notice {
    /// Whether it is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.event, Telling::Resolved)
    }

    /// firing, resolved or test.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self.event {
            Telling::Resolved => "resolved",
            Telling::Test => "test",
            Telling::Fired | Telling::Escalated | Telling::Repeated => "firing",
        }
    }

    /// Of what it is, in few words: the server, the interface, the host.
    #[must_use]
    pub fn subject(&self) -> String {
        let named = [
            "check",
            "server",
            "client",
            "interface",
            "kind",
            "what",
            "path",
        ];
        let found = named.iter().filter_map(|name| self.labels.get(*name));
        let words: Vec<_> = found.map(String::as_str).collect();
        if words.is_empty() {
            self.labels.get("host").cloned().unwrap_or_default()
        } else {
            words.join(" ")
        }
    }

    /// One line: `[critical] check-offset: offset of the server ntp.example is 61.2 ms, above 50 ms`.
    #[must_use]
    pub fn title(&self, language: Language) -> String {
        let head = match (language, self.event) {
            (Language::En, Telling::Resolved) => "resolved".to_owned(),
            (Language::Zh, Telling::Resolved) => "恢复".to_owned(),
            (Language::En, Telling::Test) => "test".to_owned(),
            (Language::Zh, Telling::Test) => "测试".to_owned(),
            (Language::En, _) => self.severity.name().to_owned(),
            (Language::Zh, _) => match self.severity {
                Severity::Warn => "警告".to_owned(),
                Severity::Critical => "严重".to_owned(),
            },
        };
        format!("[{head}] {}: {}", self.rule, self.sentence(language))
    }

    /// Why it is over, where that is not because all is well.
    fn ended(&self) -> Option<(&'static str, &'static str)> {
        let message = self.message.as_deref().filter(|_| self.is_over())?;
        ended::EACH.into_iter().find(|(why, _)| *why == message)
    }

    fn sentence(&self, language: Language) -> String {
        let facts = self.quantity.facts();
        if let Some((en, zh)) = self.ended() {
            // Nobody knows that it is well.
            return match language {
                Language::En => format!("{} {}: {en}", facts.what, self.subject()),
                Language::Zh => format!("{} {}：{zh}", facts.what_zh, self.subject()),
            };
        }
        let (subject, show) = (self.subject(), |value| facts.unit.show(value));
        match language {
            Language::En => {
                let mut text = format!("{} {subject}", facts.what);
                if self.no_data {
                    text.push_str(if self.is_over() {
                        " is known again"
                    } else {
                        " is not known"
                    });
                } else if self.quantity == Quantity::Finding {
                    text.push_str(if self.is_over() {
                        " was not found again"
                    } else {
                        ""
                    });
                } else {
                    if let Some(value) = self.value {
                        let _ = write!(text, " is {}", show(value));
                    }
                    if let Some(level) = self.level.filter(|_| !self.is_over()) {
                        let side = match self.direction {
                            Direction::Above => "above",
                            Direction::Below => "below",
                        };
                        let _ = write!(text, ", {side} {}", show(level));
                    }
                    if self.is_over() {
                        text.push_str(", back to normal");
                    }
                }
                text
            }
            Language::Zh => {
                let mut text = format!("{} {subject}", facts.what_zh);
                if self.no_data {
                    text.push_str(if self.is_over() {
                        " 数据恢复"
                    } else {
                        " 无数据，请检查！"
                    });
                } else if self.quantity == Quantity::Finding {
                    text.push_str(if self.is_over() {
                        " 未再出现"
                    } else {
                        "，请检查！"
                    });
                } else {
                    if let Some(value) = self.value {
                        let _ = write!(text, " {}", show(value));
                    }
                    if let Some(level) = self.level.filter(|_| !self.is_over()) {
                        let side = match self.direction {
                            Direction::Above => "高于",
                            Direction::Below => "低于",
                        };
                        let _ = write!(text, "，{side}阈值 {}，请检查！", show(level));
                    }
                    if self.is_over() {
                        text.push_str("，恢复正常。");
                    }
                }
                text
            }
        }
    }

    /// The whole message, of several lines.
    #[must_use]
    pub fn text(&self, language: Language) -> String {
        let mut text = self.title(language);
        for (name, value) in self.lines(language) {
            let _ = write!(text, "\n{name}: {value}");
        }
        text
    }

    /// What stands below the title: names and values.
    #[must_use]
    pub fn lines(&self, language: Language) -> Vec<(String, String)> {
        let word = |en: &str, zh: &str| match language {
            Language::En => en.to_owned(),
            Language::Zh => zh.to_owned(),
        };
        let mut lines = Vec::new();
        if let Some(message) = &self.message {
            lines.push((word("message", "说明"), message.clone()));
        }
        if self.event == Telling::Repeated {
            lines.push((word("repeated", "重复"), word("it still is", "仍未恢复")));
        }
        lines.push((word("since", "开始时间"), self.fired.to_string()));
        if let Some(resolved) = self.resolved {
            let took = resolved.duration_since(self.fired);
            let seconds = SignedDuration::from_secs(took.as_secs());
            lines.push((word("until", "恢复时间"), resolved.to_string()));
            lines.push((word("lasted", "持续时间"), format!("{seconds:#}")));
        }
        let own = self.labels.iter();
        lines.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        lines
    }

    /// As data: the body of a webhook, what a template and a command are given.
    #[must_use]
    pub fn data(&self, language: Language, delivery: &str) -> Value {
        json!({
            "version": 1,
            "delivery_id": delivery,
            "event": self.event,
            "state": self.state(),
            "alert_id": self.alert,
            "rule": self.rule,
            "quantity": self.quantity,
            "unit": self.quantity.facts().unit,
            "no_data": self.no_data,
            "severity": self.severity,
            "labels": self.labels,
            "value": self.value,
            "level": self.level,
            "began": self.began,
            "fired": self.fired,
            "resolved": self.resolved,
            "message": self.message,
            "title": self.title(language),
            "text": self.text(language),
        })
    }

    /// One that tells only that it arrives, and that templates are tried with.
    #[must_use]
    pub fn test(rule: &str, quantity: Quantity, labels: Labels, now: Timestamp) -> Self {
        Self {
            event: Telling::Test,
            alert: 0,
            rule: rule.to_owned(),
            quantity,
            no_data: false,
            severity: Severity::Warn,
            labels,
            value: None,
            level: None,
            direction: quantity.facts().direction,
            began: Some(now),
            fired: now,
            resolved: None,
            message: Some("this is a test of ntpmon: there is nothing to do".to_owned()),
        }
    }

    /// One that says something of everything, to try templates with.
    #[must_use]
    pub fn example() -> Self {
        let fired = Timestamp::UNIX_EPOCH;
        let labels = [("server", "192.0.2.1"), ("host", "mon")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            event: Telling::Fired,
            alert: 7,
            rule: "check-offset".to_owned(),
            severity: Severity::Critical,
            value: Some(0.0612),
            level: Some(0.05),
            message: None,
            ..Self::test("", Quantity::CheckOffset, labels.into(), fired)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server that is off by 61.2 ms.
    pub(crate) fn notice(event: Telling) -> Notice {
        let fired: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let is_over = event == Telling::Resolved;
        Notice {
            event,
            value: Some(if is_over { 0.0004 } else { 0.0612 }),
            began: Some(fired),
            fired,
            resolved: is_over.then(|| fired + SignedDuration::from_secs(300)),
            ..Notice::example()
        }
    }

    #[test]
    fn a_message_says_what_is_wrong_and_that_it_is_over_in_both_languages() {
        let told = |event, language| notice(event).title(language);
        assert_eq!(
            told(Telling::Fired, Language::En),
            "[critical] check-offset: offset of the server 192.0.2.1 is 61.2 ms, above 50 ms"
        );
        assert_eq!(
            told(Telling::Resolved, Language::En),
            "[resolved] check-offset: offset of the server 192.0.2.1 is 0.4 ms, back to normal"
                .replace("0.4 ms", "400 µs")
        );
        assert_eq!(
            told(Telling::Fired, Language::Zh),
            "[严重] check-offset: NTP服务器时间偏差 192.0.2.1 61.2 ms，高于阈值 50 ms，请检查！"
        );
        assert!(told(Telling::Resolved, Language::Zh).ends_with("恢复正常。"));
        let text = notice(Telling::Resolved).text(Language::En);
        assert!(text.contains("lasted: 5m"), "{text}");
    }

    #[test]
    fn what_ends_without_being_well_is_not_said_to_be_well() {
        let mut over = notice(Telling::Resolved);
        over.message = Some(ended::GONE.to_owned());
        assert_eq!(
            over.title(Language::En),
            "[resolved] check-offset: offset of the server 192.0.2.1: nobody reports it any more"
        );
        assert!(over.title(Language::Zh).ends_with("已无上报"));
    }

    #[test]
    fn what_is_unknown_is_null_and_never_a_number() {
        let mut missing = notice(Telling::Fired);
        missing.no_data = true;
        missing.value = None;
        missing.level = None;
        let data = missing.data(Language::En, "id");
        assert_eq!(data["value"], Value::Null);
        assert!(missing.title(Language::En).ends_with("is not known"));
        assert_eq!(data["labels"]["server"], "192.0.2.1");
        assert_eq!(data["quantity"], "check_offset");
        let read: Notice = serde_json::from_value(serde_json::to_value(&missing).unwrap()).unwrap();
        assert_eq!(read, missing);
    }
}
