//! What is asked of the history: parameters of a query, or fields of a body, by the same names and
//! with the same checks. A name that is not known is refused: a mistyped filter would otherwise
//! answer with everything.

use std::net::IpAddr;

use axum::{extract::FromRequestParts, http::request::Parts};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    api::{
        State,
        error::{ApiError, shown},
        extract::Query,
    },
    history::{
        History,
        catalogue::{Filter, Sort},
        query::{ClientQuery, Part},
        search,
    },
    netlink,
    ntp::ClientClock,
};

/// Values by their names, from wherever.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(in crate::api) struct Parameters(Map<String, Value>);

impl FromRequestParts<State> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let mut map = Map::new();
        for (name, value) in pairs {
            match map.get_mut(&name) {
                // Given several times it is a list.
                Some(Value::String(known)) if LISTS.contains(&name.as_str()) => {
                    known.push(',');
                    known.push_str(&value);
                }
                Some(_) => {
                    return Err(ApiError::invalid_parameter(
                        &name,
                        value,
                        "given once, and was given before",
                    ));
                }
                // As if it were not there: forms send empty fields.
                None if value.is_empty() => {}
                None => {
                    map.insert(name, value.into());
                }
            }
        }
        Ok(Self(map))
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
    "since",
    "until",
];
/// Those that can have several values.
const LISTS: &[&str] = &["client_ips", "interface_name", "interface_names"];
/// Which part of a list, in which order.
pub(super) const PAGE: &[&str] = &["page", "page_size", "cursor"];
pub(super) const ORDER: &[&str] = &["sort", "order"];

/// The most that one page has.
pub(super) const MAX_PAGE_SIZE: u64 = 1000;
const PAGE_SIZE: u64 = 20;

const SORTS: &[(&str, Sort)] = &[
    ("last_seen", Sort::LastSeen),
    ("first_seen", Sort::FirstSeen),
    ("session_count", Sort::SessionCount),
    ("unanswered", Sort::Unanswered),
    ("latency", Sort::Latency),
    ("processing_time", Sort::Processing),
    ("total_time", Sort::Total),
    ("request_rate", Sort::RequestRate),
    ("client_ip", Sort::ClientIp),
    ("last_seen_timestamp", Sort::LastSeen),
    ("first_seen_timestamp", Sort::FirstSeen),
    ("client_to_server_latency_seconds", Sort::Latency),
    ("server_processing_time_seconds", Sort::Processing),
    ("total_process_time_seconds", Sort::Total),
    ("request_rate_per_second", Sort::RequestRate),
];

/// A page of a list.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// Nothing where a cursor is followed.
    pub number: Option<u64>,
    pub size: u64,
    pub part: Part,
}

impl Parameters {
    /// Refuses names that are in none of the lists.
    pub(in crate::api) fn only(&self, known: &[&[&str]]) -> Result<(), ApiError> {
        let is_known = |name: &str| known.iter().any(|names| names.contains(&name));
        let Some(name) = self.0.keys().find(|name| !is_known(name)) else {
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
            None => {
                let all: Vec<&str> = known.iter().copied().flatten().copied().collect();
                format!("known here: {}", all.join(", "))
            }
        };
        Err(ApiError::new(
            axum::http::StatusCode::BAD_REQUEST,
            "unknown_parameter",
            format!("there is no parameter '{}'; {hint}", shown(name)),
        ))
    }

    /// A value that is there and not null, as text.
    fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// A value made of its text.
    pub(super) fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match read(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::invalid_parameter(name, text, expected)),
        }
    }

    /// A whole number in a range.
    pub(in crate::api) fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let expected = if *range.end() == u64::MAX {
            format!("a whole number from {}", range.start())
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        self.read(name, &expected, |text| {
            // In JSON Schema 1.0 is a whole number too.
            let whole = text.strip_suffix(".0").unwrap_or(text);
            whole.parse().ok().filter(|number| range.contains(number))
        })
    }

    /// A time, in nanoseconds since 1970.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let expected = "a time as 2026-11-21T08:00:00Z, or in seconds since 1970";
        self.read(name, expected, |text| {
            let nanoseconds = match text.parse::<Timestamp>() {
                Ok(time) => time.as_nanosecond(),
                Err(_) => {
                    let seconds: f64 = text.parse().ok()?;
                    seconds.is_finite().then_some((seconds * 1e9) as i128)?
                }
            };
            i64::try_from(nanoseconds).ok()
        })
    }

    /// Several values: a list, or a text with commas.
    fn list(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let items = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => {
                text.split(',').map(str::trim).map(str::to_owned).collect()
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.trim().to_owned()),
                    other => Err(ApiError::invalid_parameter(name, other, "a list of texts")),
                })
                .collect::<Result<Vec<_>, _>>()?,
            Some(other) => {
                return Err(ApiError::invalid_parameter(name, other, "a list of texts"));
            }
        };
        Ok(Some(items))
    }

    /// The interfaces that are named, by either name.
    pub(super) fn interfaces(&self, history: &History) -> Result<Option<Vec<u16>>, ApiError> {
        let one = self.list("interface_name")?;
        let several = self.list("interface_names")?;
        if one.is_none() && several.is_none() {
            return Ok(None);
        }
        let names: Vec<String> = one.into_iter().chain(several).flatten().collect();
        Ok(Some(
            history.interface_numbers(names.iter().map(String::as_str)),
        ))
    }

    /// The addresses that are looked for.
    pub(super) fn addresses(&self) -> Result<Option<Vec<search::Range>>, ApiError> {
        let mut ranges = None;
        if let Some(text) = self.text("search_ip") {
            ranges = Some(search::parse(&text).map_err(|why| {
                ApiError::invalid_parameter(
                    "search_ip",
                    &text,
                    format!("an address, a network or the beginning of an address: {why}"),
                )
            })?);
        }
        if let Some(texts) = self.list("client_ips")? {
            let mut them = Vec::new();
            for text in texts {
                let address: IpAddr = text.parse().map_err(|_| {
                    ApiError::invalid_parameter("client_ips", &text, "an address in each place")
                })?;
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

    /// Which clients are wanted.
    pub(in crate::api) fn filter(&self, history: &History) -> Result<Filter, ApiError> {
        let since = self.time("since")?;
        let until = self.time("until")?;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            return Err(ApiError::invalid_parameter(
                "since",
                self.text("since").unwrap_or_default(),
                "no later than until",
            ));
        }
        Ok(Filter {
            addresses: self.addresses()?,
            interfaces: self.interfaces(history)?,
            version: self.number("version", 0..=7)?.map(|number| number as u8),
            stratum: self.number("stratum", 0..=255)?.map(|number| number as u8),
            clock: self.read(
                "client_clock",
                "honest, randomised or unknown",
                |text| match text {
                    "honest" => Some(ClientClock::Honest),
                    "randomised" => Some(ClientClock::Randomised),
                    "unknown" => Some(ClientClock::Unknown),
                    _ => None,
                },
            )?,
            since,
            until,
        })
    }

    /// Which part of a list is wanted.
    pub(super) fn page(&self) -> Result<Page, ApiError> {
        let size = self
            .number("page_size", 1..=MAX_PAGE_SIZE)?
            .unwrap_or(PAGE_SIZE);
        let number = self.number("page", 1..=u64::MAX)?;
        let cursor = self.text("cursor");
        Ok(match (number, cursor) {
            (Some(_), Some(cursor)) => {
                return Err(ApiError::invalid_parameter(
                    "cursor",
                    cursor,
                    "given without page",
                ));
            }
            (None, Some(cursor)) => Page {
                number: None,
                size,
                part: Part::After(Some(cursor)),
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
        let names: Vec<&str> = SORTS.iter().map(|(name, _)| *name).take(9).collect();
        let expected = format!("one of {}", names.join(", "));
        let sort = order.read("sort", &expected, |text| {
            let found = SORTS.iter().find(|(name, _)| *name == text);
            found.map(|(_, sort)| *sort)
        })?;
        let descending = order.read("order", "asc or desc", |text| match text {
            "asc" => Some(false),
            "desc" => Some(true),
            _ => None,
        })?;
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

/// What clients are picked by; all of what is given has to be so.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "it is only described: the values are read by Parameters"
)]
pub(in crate::api) struct Filters {
    /// An address, a network as 192.0.2.0/24, or the beginning of an address as 192.0.2.
    search_ip: Option<String>,
    /// Any of these addresses.
    client_ips: Option<Vec<String>>,
    /// This interface.
    interface_name: Option<String>,
    /// Any of these interfaces.
    interface_names: Option<Vec<String>>,
    /// Of the packet that describes the client.
    #[schema(minimum = 0, maximum = 7)]
    version: Option<u8>,
    /// Of the packet that describes the client.
    #[schema(minimum = 0, maximum = 255)]
    stratum: Option<u8>,
    /// What is known of its clock: honest, randomised or unknown.
    client_clock: Option<String>,
    /// Seen last then or later: RFC 3339, or seconds since 1970.
    since: Option<String>,
    /// Seen last then or before.
    until: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameters(value: Value) -> Parameters {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_mistyped_name_is_refused_with_the_nearest() {
        let error = parameters(json!({"serach_ip": "192.0.2.1"}))
            .only(&[FILTERS, PAGE])
            .unwrap_err();
        assert!(error.message.contains("'search_ip'"), "{}", error.message);
        let error = parameters(json!({"colour": 1})).only(&[PAGE]).unwrap_err();
        assert!(error.message.contains("page_size"), "{}", error.message);
        assert!(
            parameters(json!({"page": 1}))
                .only(&[FILTERS, PAGE])
                .is_ok()
        );
    }

    #[test]
    fn numbers_are_whole_and_in_range_however_they_are_written() {
        for (value, right) in [
            (json!(5), true),
            (json!("5"), true),
            (json!(5.0), true),
            (json!(0), false),
            (json!(-1), false),
            (json!(1001), false),
            (json!(1.5), false),
            (json!("five"), false),
            (json!([5]), false),
            (json!(true), false),
            (json!(null), true),
        ] {
            let size = parameters(json!({ "page_size": value })).page();
            assert_eq!(size.is_ok(), right, "{value}");
            if let Err(error) = size {
                assert!(error.message.contains("page_size"), "{}", error.message);
            }
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_seconds() {
        let time = |value: Value| parameters(json!({ "since": value })).time("since");
        assert_eq!(
            time(json!("1970-01-01T00:00:01Z")).unwrap(),
            Some(1_000_000_000)
        );
        assert_eq!(time(json!(1.5)).unwrap(), Some(1_500_000_000));
        assert_eq!(time(json!("1")).unwrap(), Some(1_000_000_000));
        for wrong in [
            json!("yesterday"),
            json!("1e400"),
            json!("NaN"),
            json!(1e300),
        ] {
            assert!(time(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_in_what_is_searched_and_in_the_list() {
        let both = parameters(json!({
            "search_ip": "192.0.2.0/24",
            "client_ips": ["192.0.2.7", "198.51.100.1", "192.0.2.7"],
        }));
        let ranges = both.addresses().unwrap().unwrap();
        assert_eq!(ranges.len(), 1);
        for wrong in [
            json!({"search_ip": "300.1.1.1"}),
            json!({"search_ip": "192.0.2.1/200"}),
            json!({"client_ips": ["192.0.2.0/24"]}),
            json!({"client_ips": [1]}),
            json!({"client_ips": {}}),
        ] {
            assert!(parameters(wrong.clone()).addresses().is_err(), "{wrong}");
        }
    }
}
