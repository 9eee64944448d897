//! When not to call anybody: a silence fits alerts by their labels, once between two times or again
//! and again at times of the week. What is silenced goes on being evaluated and shown.

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    matcher::{Labels, Matchers},
    rule::is_name,
};

/// A silence, as the configuration and the API have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// What it is called; there is one of a name.
    pub name: String,
    /// Which alerts, by label; `alertname` is the rule, `severity` how bad it is. All of them unless
    /// said otherwise.
    #[serde(default, rename = "match", skip_serializing_if = "Matchers::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub matchers: Matchers,
    /// From when on; always unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Until when; for ever unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// On which days a window begins; on every day unless said otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When the window of a day begins, such as 22:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "22:00")]
    pub start: Option<civil::Time>,
    /// When it ends; on the next day if that is not after the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "06:00")]
    pub end: Option<civil::Time>,
    /// Whose time of the day that is, such as Asia/Shanghai; UTC unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Who wanted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "what they are is their name")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Day {
    const fn of(day: civil::Weekday) -> Self {
        match day {
            civil::Weekday::Monday => Self::Monday,
            civil::Weekday::Tuesday => Self::Tuesday,
            civil::Weekday::Wednesday => Self::Wednesday,
            civil::Weekday::Thursday => Self::Thursday,
            civil::Weekday::Friday => Self::Friday,
            civil::Weekday::Saturday => Self::Saturday,
            civil::Weekday::Sunday => Self::Sunday,
        }
    }
}

/// A comment has no more bytes.
const MAX_COMMENT: usize = 1024;

impl Silence {
    /// The keys whose values, each taken alone, are out of their bounds.
    #[must_use]
    pub fn wrong_keys(&self) -> Vec<&'static str> {
        let right = [
            ("name", is_name(&self.name)),
            ("match", self.matchers.are_right()),
            ("time_zone", self.zone().is_ok()),
            ("comment", self.comment.len() <= MAX_COMMENT),
            ("created_by", self.created_by.len() <= MAX_COMMENT),
        ];
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong.map(|(key, _)| key).collect()
    }

    /// The keys that do not go with others, each with what would be right.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(&'static str, String)> {
        let mut conflicts = Vec::new();
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from >= until
        {
            conflicts.push(("until", format!("a time after from = {from}")));
        }
        if self.start.is_some() != self.end.is_some() {
            conflicts.push(("start", "start and end, or none of them".to_owned()));
        }
        conflicts
    }

    fn zone(&self) -> Result<TimeZone, jiff::Error> {
        self.time_zone
            .as_ref()
            .map_or(Ok(TimeZone::UTC), |name| TimeZone::get(name))
    }

    /// Whether it is in force.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        let begun = self.from.is_none_or(|from| from <= now);
        begun && !self.is_past(now) && self.is_in_window(now)
    }

    /// Whether it will never be in force again.
    #[must_use]
    pub fn is_past(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn is_in_window(&self, now: Timestamp) -> bool {
        // A zone that was there when it was checked is there still, or the silence is none.
        let Ok(zone) = self.zone() else { return false };
        let now = now.to_zoned(zone);
        let is_day =
            |day: &Zoned| self.days.is_empty() || self.days.contains(&Day::of(day.weekday()));
        let (Some(start), Some(end)) = (self.start, self.end) else {
            return is_day(&now);
        };
        let time = now.time();
        if start < end {
            return is_day(&now) && (start..end).contains(&time);
        }
        // Over midnight: the window is the day's on which it began.
        let began_yesterday =
            || time < end && now.yesterday().is_ok_and(|yesterday| is_day(&yesterday));
        (time >= start && is_day(&now)) || began_yesterday()
    }

    /// Whether it is for an alert of these labels.
    #[must_use]
    pub fn fits(&self, labels: &Labels) -> bool {
        self.matchers
            .fit(|name| labels.get(name).map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(text: &str) -> Silence {
        let silence: Silence = toml::from_str(&format!("name = 'a'\n{text}")).unwrap();
        assert_eq!(silence.wrong_keys(), [""; 0]);
        assert_eq!(silence.conflicts(), []);
        silence
    }

    fn active(silence: &Silence, time: &str) -> bool {
        silence.is_active(time.parse().unwrap())
    }

    #[test]
    fn it_holds_from_a_time_until_another() {
        let once = silence("from = '2026-01-01T00:00:00Z'\nuntil = '2026-01-02T00:00:00Z'");
        assert!(!active(&once, "2025-12-31T23:59:59Z"));
        assert!(active(&once, "2026-01-01T00:00:00Z"));
        assert!(active(&once, "2026-01-01T23:59:59.9Z"));
        assert!(!active(&once, "2026-01-02T00:00:00Z"));
        assert!(once.is_past("2026-01-02T00:00:00Z".parse().unwrap()));
        assert!(active(&silence(""), "2026-01-02T00:00:00Z"));
    }

    #[test]
    fn a_window_over_midnight_is_that_of_the_day_on_which_it_begins() {
        // 2026-01-02 is a Friday.
        let nights = silence("days = ['friday']\nstart = '22:00'\nend = '06:00'");
        assert!(!active(&nights, "2026-01-02T05:00:00Z"));
        assert!(!active(&nights, "2026-01-02T21:59:59Z"));
        assert!(active(&nights, "2026-01-02T22:00:00Z"));
        assert!(active(&nights, "2026-01-03T05:59:59Z"));
        assert!(!active(&nights, "2026-01-03T06:00:00Z"));
        assert!(!active(&nights, "2026-01-03T23:00:00Z"));
        let weekend = silence("days = ['saturday', 'sunday']");
        assert!(active(&weekend, "2026-01-03T00:00:00Z"));
        assert!(!active(&weekend, "2026-01-05T00:00:00Z"));
    }

    #[test]
    fn a_window_is_of_the_time_zone_that_it_names() {
        let morning = silence("start = '08:00'\nend = '09:00'\ntime_zone = 'Asia/Shanghai'");
        assert!(active(&morning, "2026-01-01T00:30:00Z"));
        assert!(!active(&morning, "2026-01-01T08:30:00Z"));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let wrong: Silence = toml::from_str(
            "name = ''\nfrom = '2026-01-02T00:00:00Z'\nuntil = '2026-01-02T00:00:00Z'\n\
             start = '08:00'\ntime_zone = 'Nowhere/Else'",
        )
        .unwrap();
        assert_eq!(wrong.wrong_keys(), ["name", "time_zone"]);
        let keys: Vec<_> = wrong.conflicts().into_iter().map(|it| it.0).collect();
        assert_eq!(keys, ["until", "start"]);
    }
}
