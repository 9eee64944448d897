//! What is asked of the history: parameters of a query, or fields of a body, by the same names and
//! with the same checks. A name that is not known is refused: a mistyped filter would otherwise
//! answer with everything.

use std::{net::IpAddr, ops::RangeInclusive};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{
    api::{
        State,
        error::{ApiError, shown},
        extract::Query,
    },
    check::rollup::Resolution as CheckResolution,
    history::{
        History,
        catalogue::{Filter, Sort},
        key::InterfaceId,
        query::{ClientQuery, Part},
        rollup::Resolution,
        search,
        servers::ServerSort,
    },
    netlink,
    ntp::{ClientClock, exchange::Role},
};

/// Values by their names.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Parameters {
    values: Map<String, Value>,
    written: Written,
    /// What stands before a name in a message.
    place: &'static str,
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Written {
    /// A number is a number, and not a text.
    #[default]
    Json,
    /// All is text.
    Query,
}

/// From a body.
impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(|values| Self {
            values,
            written: Written::Json,
            place: "",
        })
    }
}

impl FromRequestParts<State> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let mut values = Map::new();
        for (name, value) in pairs {
            match values.get_mut(&name) {
                // Given several times it is a list.
                Some(Value::String(known)) if LISTS.contains(&name.as_str()) => {
                    known.push(',');
                    known.push_str(&value);
                }
                Some(_) => {
                    return Err(ApiError::invalid_parameter(
                        &shown(&name),
                        value,
                        "given once, and was given before",
                    ));
                }
                None => {
                    values.insert(name, value.into());
                }
            }
        }
        Ok(Self {
            values,
            written: Written::Query,
            place: "",
        })
    }
}

/// A query without parameters, of a path that has none: one that was meant for something must not be
/// passed over, least of all where something is changed.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct NoParameters;

impl FromRequestParts<State> for NoParameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let parameters = Parameters::from_request_parts(parts, state).await?;
        parameters.only(&[])?;
        Ok(Self)
    }
}

/// What clients are picked by.
pub(in crate::api) const FILTERS: &[&str] = &[
    "search_ip",
    "client_ips",
    "interface_name",
    "interface_names",
    "version",
    "stratum",
    "client_clock",
    "clock_error_at_least_seconds",
    "since",
    "until",
];
/// Those that can have several values.
const LISTS: &[&str] = &["client_ips", "interface_name", "interface_names"];
/// The most values that a list has.
pub(super) const MAX_LIST: usize = 1000;
/// Which part of a list, in which order.
pub(super) const PAGE: &[&str] = &["page", "page_size", "cursor"];
pub(in crate::api) const ORDER: &[&str] = &["sort", "order"];

/// The most that one page has.
pub(super) const MAX_PAGE_SIZE: u64 = 1000;
const PAGE_SIZE: u64 = 20;
/// In seconds: no two clocks are farther apart that NTP can tell.
const MAX_ERROR: f64 = 4_294_967_296.0;
/// The last page that can be asked for: far beyond any that has something on it.
pub(super) const MAX_PAGE: u64 = 1_000_000_000;

/// By what clients are sorted; then the same by the names of their fields.
pub(super) const SORTS: &[(&str, Sort)] = &[
    ("last_seen", Sort::LastSeen),
    ("first_seen", Sort::FirstSeen),
    ("session_count", Sort::SessionCount),
    ("unanswered", Sort::Unanswered),
    ("latency", Sort::Latency),
    ("processing_time", Sort::Processing),
    ("total_time", Sort::Total),
    ("request_rate", Sort::RequestRate),
    ("client_ip", Sort::ClientIp),
    ("clock_error", Sort::ClockError),
    ("last_seen_timestamp", Sort::LastSeen),
    ("first_seen_timestamp", Sort::FirstSeen),
    ("client_to_server_latency_seconds", Sort::Latency),
    ("server_processing_time_seconds", Sort::Processing),
    ("total_process_time_seconds", Sort::Total),
    ("request_rate_per_second", Sort::RequestRate),
    ("client_clock_error_seconds", Sort::ClockError),
];

pub(in crate::api) const ORDERS: &[(&str, bool)] = &[("asc", false), ("desc", true)];

pub(super) const CLOCKS: &[(&str, ClientClock)] = &[
    (ClientClock::Honest.name(), ClientClock::Honest),
    (ClientClock::Randomised.name(), ClientClock::Randomised),
    (ClientClock::Unknown.name(), ClientClock::Unknown),
];

pub(in crate::api) const ROLES: &[(&str, Role)] = &[
    ("client", Role::Client),
    ("server", Role::Server),
    ("transit", Role::Transit),
];

pub(in crate::api) const SERVER_SORTS: &[(&str, ServerSort)] = &[
    ("server_ip", ServerSort::Address),
    ("offset", ServerSort::Offset),
    ("reach", ServerSort::Reach),
    ("last_seen", ServerSort::LastSeen),
    ("sessions", ServerSort::Sessions),
];

/// What the history of a check can be asked for; nothing: single rounds.
pub(in crate::api) const CHECK_RESOLUTIONS: &[(&str, Option<CheckResolution>)] = &[
    ("round", None),
    (CheckResolution::Hour.name(), Some(CheckResolution::Hour)),
    (CheckResolution::Day.name(), Some(CheckResolution::Day)),
];

pub(super) const RESOLUTIONS: &[(&str, Resolution)] = &[
    (Resolution::Minute.name(), Resolution::Minute),
    (Resolution::Hour.name(), Resolution::Hour),
    (Resolution::Day.name(), Resolution::Day),
];

/// A page of a list.
#[derive(Clone, Debug)]
pub(in crate::api) struct Page {
    /// Nothing where a cursor is followed.
    pub number: Option<u64>,
    pub size: u64,
    pub part: Part,
}

/// What an address has to be.
pub(in crate::api) const ADDRESS: &str = "an IPv4 or IPv6 address, as 192.0.2.1 or 2001:db8::1";

impl Page {
    /// How many come before it.
    pub(in crate::api) fn start(&self) -> usize {
        let before = self.number.unwrap_or(1).saturating_sub(1);
        usize::try_from(before.saturating_mul(self.size)).unwrap_or(usize::MAX)
    }
}

impl Parameters {
    /// Refuses names that are in none of the lists.
    pub(in crate::api) fn only(&self, known: &[&[&str]]) -> Result<(), ApiError> {
        let is_known = |name: &str| known.iter().any(|names| names.contains(&name));
        let Some(name) = self.values.keys().find(|name| !is_known(name)) else {
            return Ok(());
        };
        let near = known
            .iter()
            .copied()
            .flatten()
            .map(|known| (strsim::damerau_levenshtein(name, known), *known))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        let hint = match near {
            Some((_, near)) => format!("perhaps '{near}' is meant"),
            None if known.iter().all(|names| names.is_empty()) => {
                "there are no parameters here".to_owned()
            }
            None => {
                let all: Vec<&str> = known.iter().copied().flatten().copied().collect();
                format!("known here: {}", all.join(", "))
            }
        };
        Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "unknown_parameter",
            format!("there is no '{}{}'; {hint}", self.place, shown(name)),
        ))
    }

    /// A value that is there and not null.
    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    fn refuse(&self, name: &str, value: &Value, expected: &str) -> ApiError {
        let name = format!("{}{name}", self.place);
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let error = ApiError::invalid_parameter(&name, value, expected);
        match self.written {
            Written::Query => error,
            Written::Json => ApiError::invalid_body(error.message),
        }
    }

    /// A value that `read` can make something of.
    fn made<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(made) => Ok(Some(made)),
            None => Err(self.refuse(name, value, expected)),
        }
    }

    /// A text, and nothing else.
    pub(in crate::api) fn text(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value {
            Value::String(text) => Ok(Some(text.trim())),
            other => Err(self.refuse(name, other, expected)),
        }
    }

    /// What something is called: no name is empty.
    pub(in crate::api) fn name(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<&str>, ApiError> {
        match self.text(name, expected)? {
            Some("") => Err(self.refuse(name, &Value::String(String::new()), expected)),
            text => Ok(text),
        }
    }

    /// What one of some words stands for.
    pub(in crate::api) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        self.made(name, &one_of(words), |value| {
            let text = value.as_str()?.trim();
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, meant)| *meant)
        })
    }

    /// What several of some words stand for.
    pub(in crate::api) fn words<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<Vec<T>>, ApiError> {
        let expected = one_of(words);
        let Some(items) = self.list(name, &expected)? else {
            return Ok(None);
        };
        let mean = |item: &String| {
            let found = words.iter().find(|(word, _)| word == item);
            let value = Value::String(item.clone());
            found.map_or_else(|| Err(self.refuse(name, &value, &expected)), |it| Ok(it.1))
        };
        items.iter().map(mean).collect::<Result<_, _>>().map(Some)
    }

    /// An address.
    pub(in crate::api) fn address(&self, name: &str) -> Result<Option<IpAddr>, ApiError> {
        self.made(name, ADDRESS, |value| value.as_str()?.trim().parse().ok())
    }

    /// Names of interfaces, whether or not they are known.
    pub(in crate::api) fn names(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        self.list(name, "names of interfaces, as eth0 or eth0,eth1")
    }

    /// A whole number in a range.
    pub(in crate::api) fn number(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.made(name, &expected, |value| {
            let number = match (value, self.written) {
                (Value::String(text), Written::Query) => text.trim().parse().ok()?,
                // In JSON Schema 1.0 is a whole number too.
                (Value::Number(_), Written::Json) => {
                    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
                    (number >= 0.0).then_some(number as u64)?
                }
                _ => return None,
            };
            range.contains(&number).then_some(number)
        })
    }

    /// Any number in a range.
    pub(in crate::api) fn decimal(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.made(name, &expected, |value| {
            let number: f64 = match (value, self.written) {
                (Value::String(text), Written::Query) => text.trim().parse().ok()?,
                (_, Written::Query) => return None,
                (value, Written::Json) => value.as_f64()?,
            };
            range.contains(&number).then_some(number)
        })
    }

    /// Yes or no; no, where nothing is said.
    pub(in crate::api) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        let flag = self.made(name, "true or false", |value| match (value, self.written) {
            (Value::String(text), Written::Query) => text.parse().ok(),
            (_, Written::Query) => None,
            (value, Written::Json) => value.as_bool(),
        })?;
        Ok(flag.unwrap_or_default())
    }

    /// A time, in nanoseconds since 1970; the nearest of those that can be told so.
    pub(in crate::api) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let expected = "a time as 2026-11-21T08:00:00Z, or in seconds since 1970";
        self.made(name, expected, |value| {
            let seconds = |seconds: f64| seconds.is_finite().then_some((seconds * 1e9) as i128);
            let nanoseconds = match value {
                Value::String(text) => match timestamp(text.trim()) {
                    Some(time) => time.as_nanosecond(),
                    None => seconds(text.trim().parse().ok()?)?,
                },
                other => seconds(other.as_f64()?)?,
            };
            Some(nanoseconds.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        })
    }

    /// An object in a body, with names of its own.
    pub(in crate::api) fn object(
        &self,
        name: &'static str,
        place: &'static str,
    ) -> Result<Self, ApiError> {
        let values = self.made(name, "an object, {…}", |value| value.as_object().cloned())?;
        Ok(Self {
            values: values.unwrap_or_default(),
            written: self.written,
            place,
        })
    }

    /// Several values: a text with commas, or in a body a list.
    fn list(&self, name: &str, expected: &str) -> Result<Option<Vec<String>>, ApiError> {
        let items = self.made(name, expected, |value| match value {
            Value::String(text) => Some(text.split(',').map(str::to_owned).collect()),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>(),
            _ => None,
        })?;
        let Some(mut items) = items else {
            return Ok(None);
        };
        if items.len() > MAX_LIST {
            let many = Value::String(format!("a list of {} values", items.len()));
            let expected = format!("one of at most {MAX_LIST}");
            return Err(self.refuse(name, &many, &expected));
        }
        for item in &mut items {
            *item = item.trim().to_owned();
            if item.is_empty() {
                return Err(self.refuse(name, &Value::String(String::new()), expected));
            }
        }
        Ok(Some(items))
    }

    /// The interfaces that are named: by both names, where both are given.
    pub(in crate::api) fn interfaces(
        &self,
        history: &History,
    ) -> Result<Option<Vec<InterfaceId>>, ApiError> {
        let mut found: Option<Vec<InterfaceId>> = None;
        for name in ["interface_name", "interface_names"] {
            if let Some(names) = self.names(name)? {
                let mut numbers = history.interface_numbers(names.iter().map(String::as_str));
                if let Some(others) = found {
                    numbers.retain(|number| others.contains(number));
                }
                found = Some(numbers);
            }
        }
        Ok(found)
    }

    /// The addresses that are looked for, in order and each once.
    pub(in crate::api) fn addresses(&self) -> Result<Option<Vec<search::Range>>, ApiError> {
        let mut ranges = None;
        let expected = "an address, a network as 192.0.2.0/24 or the beginning of an address as \
                        192.0.2.";
        if let Some(text) = self.text("search_ip", expected)? {
            ranges = Some(search::parse(text).map_err(|why| {
                let value = Value::String(text.to_owned());
                self.refuse("search_ip", &value, &format!("{expected}: {why}"))
            })?);
        }
        let expected = "addresses, as 192.0.2.1 or 2001:db8::1";
        if let Some(texts) = self.list("client_ips", expected)? {
            let mut them = Vec::new();
            for text in texts {
                let Ok(address) = text.parse() else {
                    return Err(self.refuse("client_ips", &Value::String(text), expected));
                };
                let address = netlink::mapped(address);
                them.push(address..=address);
            }
            them.sort_by_key(|range| *range.start());
            them.dedup();
            ranges = Some(match ranges {
                None => them,
                // In both.
                Some(ranges) => them
                    .into_iter()
                    .filter(|it| ranges.iter().any(|range| range.contains(it.start())))
                    .collect(),
            });
        }
        Ok(ranges)
    }

    /// From when to when, both included.
    pub(in crate::api) fn between(&self) -> Result<(Option<i64>, Option<i64>), ApiError> {
        let (since, until) = (self.time("since")?, self.time("until")?);
        if let (Some(from), Some(to)) = (since, until)
            && from > to
            && let (Some(since), Some(until)) = (self.value("since"), self.value("until"))
        {
            let until = until.as_str().map_or(until.to_string(), str::to_owned);
            let expected = format!("no later than until, which is '{}'", shown(&until));
            return Err(self.refuse("since", since, &expected));
        }
        Ok((since, until))
    }

    /// Which clients are wanted.
    pub(in crate::api) fn filter(&self, history: &History) -> Result<Filter, ApiError> {
        let (since, until) = self.between()?;
        Ok(Filter {
            addresses: self.addresses()?,
            interfaces: self.interfaces(history)?,
            version: self.number("version", 0..=7)?.map(|number| number as u8),
            stratum: self.number("stratum", 0..=255)?.map(|number| number as u8),
            clock: self.word("client_clock", CLOCKS)?,
            clock_error: self
                .decimal("clock_error_at_least_seconds", 0.0..=MAX_ERROR)?
                .map(|seconds| (seconds * 1e9) as i64),
            since,
            until,
        })
    }

    /// Which part of a list is wanted.
    pub(in crate::api) fn page(&self) -> Result<Page, ApiError> {
        let size = self
            .number("page_size", 1..=MAX_PAGE_SIZE)?
            .unwrap_or(PAGE_SIZE);
        let number = self.number("page", 1..=MAX_PAGE)?;
        let cursor = self.text("cursor", "next_cursor of the page before")?;
        Ok(match (number, cursor) {
            (Some(number), Some(_)) => {
                let expected = "left out where a cursor is given: it says where to go on";
                return Err(self.refuse("page", &number.into(), expected));
            }
            (None, Some(cursor)) => Page {
                number: None,
                size,
                part: Part::After(Some(cursor.to_owned())),
            },
            (number, None) => {
                let number = number.unwrap_or(1);
                Page {
                    number: Some(number),
                    size,
                    part: Part::Page(number),
                }
            }
        })
    }

    /// What a list of clients is asked for with: filters, a page and an order.
    pub(super) fn clients(
        filters: &Self,
        page: &Self,
        order: &Self,
        history: &History,
    ) -> Result<(ClientQuery, Page), ApiError> {
        let sort = order.word("sort", SORTS)?;
        let descending = order.word("order", ORDERS)?;
        let page = page.page()?;
        let query = ClientQuery {
            filter: filters.filter(history)?,
            sort: sort.unwrap_or_default(),
            descending: descending.unwrap_or(true),
            part: page.part.clone(),
            size: page.size as usize,
        };
        Ok((query, page))
    }
}

/// What is expected where one of some words has to stand.
fn one_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    match words.split_last() {
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    // In a query a plus that was not escaped has become a space.
    let with_plus = || {
        let (time, zone) = text.rsplit_once(' ')?;
        format!("{time}+{zone}").parse().ok()
    };
    text.parse().ok().or_else(with_plus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// From a body.
    fn body(value: Value) -> Parameters {
        serde_json::from_value(value).unwrap()
    }

    /// From a query.
    fn query(name: &str, value: &str) -> Parameters {
        Parameters {
            values: Map::from_iter([(name.to_owned(), value.into())]),
            written: Written::Query,
            place: "",
        }
    }

    #[test]
    fn a_mistyped_name_is_refused_with_the_nearest() {
        let error = body(json!({"serach_ip": "192.0.2.1"}))
            .only(&[FILTERS, PAGE])
            .unwrap_err();
        assert!(error.message.contains("'search_ip'"), "{}", error.message);
        let error = body(json!({"colour": 1})).only(&[PAGE]).unwrap_err();
        assert!(error.message.contains("page_size"), "{}", error.message);
        assert!(body(json!({"page": 1})).only(&[FILTERS, PAGE]).is_ok());
    }

    #[test]
    fn a_number_is_whole_and_in_range_and_in_a_body_no_text() {
        for (value, right) in [
            (json!(5), true),
            (json!(5.0), true),
            (json!(5e2), true),
            (json!(null), true),
            (json!("5"), false),
            (json!(0), false),
            (json!(-1), false),
            (json!(1001), false),
            (json!(1e300), false),
            (json!(1.5), false),
            (json!([5]), false),
            (json!(true), false),
        ] {
            let size = body(json!({ "page_size": value })).page();
            assert_eq!(size.is_ok(), right, "{value}");
            if let Err(error) = size {
                assert!(error.message.contains("page_size"), "{}", error.message);
            }
        }
        for (text, right) in [
            ("5", true),
            ("1000", true),
            ("0", false),
            ("-1", false),
            ("1001", false),
            ("five", false),
            ("99999999999999999999999", false),
            ("", false),
        ] {
            assert_eq!(query("page_size", text).page().is_ok(), right, "{text}");
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_seconds_and_the_nearest_that_can_be_told() {
        let time = |value: Value| body(json!({ "since": value })).time("since").ok();
        for (value, expected) in [
            (json!("1970-01-01T00:00:01Z"), 1_000_000_000),
            (json!("1970-01-01T01:00:01+01:00"), 1_000_000_000),
            // The plus was not escaped.
            (json!("1970-01-01T01:00:01 01:00"), 1_000_000_000),
            (json!(1.5), 1_500_000_000),
            (json!("1"), 1_000_000_000),
            (json!(-1), -1_000_000_000),
            (json!("9000-01-01T00:00:00Z"), i64::MAX),
            (json!(-1e300), i64::MIN),
        ] {
            assert_eq!(time(value.clone()), Some(Some(expected)), "{value}");
        }
        for wrong in [
            json!("yesterday"),
            json!("2026-11-21"),
            json!("2026-11-21 08:00:00"),
            json!("1e400"),
            json!("NaN"),
            json!(""),
            json!(true),
            json!([1]),
        ] {
            assert_eq!(time(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn yes_and_no_are_not_written_as_text_in_a_body() {
        let flag = |value: Value| body(json!({ "compact": value })).flag("compact").ok();
        assert_eq!(flag(json!(true)), Some(true));
        assert_eq!(flag(json!(null)), Some(false));
        for wrong in [json!("true"), json!(1), json!({})] {
            assert_eq!(flag(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_are_in_what_is_searched_and_in_the_list() {
        let both = body(json!({
            "search_ip": "192.0.2.0/24",
            "client_ips": ["192.0.2.7", "198.51.100.1", "192.0.2.7", "192.0.2.1"],
        }));
        let ranges = both.addresses().unwrap().unwrap();
        assert_eq!(ranges.len(), 2);
        assert!(ranges.is_sorted_by_key(|range| *range.start()));
        let wrong = [
            json!({"search_ip": "300.1.1.1"}),
            json!({"search_ip": "192.0.2.1/200"}),
            json!({"search_ip": ""}),
            json!({"search_ip": 5}),
            json!({"client_ips": ["192.0.2.0/24"]}),
            json!({"client_ips": [1]}),
            json!({"client_ips": [""]}),
            json!({"client_ips": {}}),
            json!({"client_ips": vec!["192.0.2.1"; MAX_LIST + 1]}),
        ];
        for wrong in wrong {
            let error = body(wrong.clone()).addresses().unwrap_err();
            let name = wrong.as_object().unwrap().keys().next().unwrap();
            assert!(error.message.contains(name), "{}", error.message);
        }
        let text = query("client_ips", "192.0.2.7, 2001:db8::1");
        assert_eq!(text.addresses().unwrap().unwrap().len(), 2);
    }
}
