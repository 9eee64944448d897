//! What the document says of parameters: the same names, bounds and words that `parameters` checks.
//! Its structs are described only; values are read by `Parameters`.
#![allow(
    dead_code,
    unused_qualifications,
    reason = "fields are described, by a macro; their values are read by Parameters"
)]

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat,
        schema::{ArrayBuilder, Type},
    },
};

use super::parameters::{
    CHECK_RESOLUTIONS, CLOCKS, MAX_LIST, ORDERS, RESOLUTIONS, ROLES, SERVER_SORTS, SORTS,
};
use crate::health::{Kind, Severity};

/// One of the words of a table.
macro_rules! words {
    ($name:ident, $table:expr) => {
        pub(in crate::api) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = $table.iter().map(|(word, _)| *word);
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(words))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

words!(SortName, SORTS);
words!(OrderName, ORDERS);
words!(ClockName, CLOCKS);
words!(ResolutionName, RESOLUTIONS);
words!(CheckResolutionName, CHECK_RESOLUTIONS);
words!(RoleName, ROLES);
words!(ServerSortName, SERVER_SORTS);
words!(SeverityName, Severity::NAMES);
words!(EventKind, Kind::NAMES);

/// Some kinds of events.
pub(in crate::api) struct EventKinds;

impl PartialSchema for EventKinds {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(EventKind::schema())
            .min_items(Some(1))
            .max_items(Some(MAX_LIST))
            .into()
    }
}

impl ToSchema for EventKinds {}

/// RFC 3339, or seconds since 1970.
pub(in crate::api) struct Time;

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        OneOfBuilder::new()
            .item(text)
            .item(ObjectBuilder::new().schema_type(Type::Number))
            .into()
    }
}

impl ToSchema for Time {}

/// An address.
pub(in crate::api) struct Address;

impl PartialSchema for Address {
    fn schema() -> RefOr<Schema> {
        let text = |format| {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(format)))
        };
        OneOfBuilder::new()
            .item(text(KnownFormat::Ipv4))
            .item(text(KnownFormat::Ipv6))
            .into()
    }
}

impl ToSchema for Address {}

/// Some addresses.
pub(in crate::api) struct Addresses;

impl PartialSchema for Addresses {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(Address::schema())
            .min_items(Some(1))
            .max_items(Some(MAX_LIST))
            .into()
    }
}

impl ToSchema for Addresses {}

/// Some names of interfaces.
pub(in crate::api) struct Names;

impl PartialSchema for Names {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[^,\\s]+$"));
        ArrayBuilder::new()
            .items(name)
            .min_items(Some(1))
            .max_items(Some(MAX_LIST))
            .into()
    }
}

impl ToSchema for Names {}

/// An address, the beginning of one, or a network.
pub(in crate::api) struct Search;

impl PartialSchema for Search {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(search_pattern()))
            .into()
    }
}

impl ToSchema for Search {
    fn name() -> Cow<'static, str> {
        "SearchIp".into()
    }
}

/// All that `search::parse` takes, but for IPv6 addresses that end in an IPv4 address.
fn search_pattern() -> String {
    let number = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    let group = "[0-9A-Fa-f]{1,4}";
    let shortened: Vec<String> = (1..=6)
        .map(|before| {
            let after = 7 - before;
            format!("({group}:){{1,{before}}}(:{group}){{1,{after}}}")
        })
        .collect();
    let shortened = shortened.join("|");
    let ipv6 =
        format!("({group}:){{7}}{group}|({group}:){{1,7}}:|:((:{group}){{1,7}}|:)|{shortened}");
    format!(
        "^({number}(\\.{number}){{0,3}}|({number}\\.){{1,3}}\
         |{number}(\\.{number}){{3}}/(3[0-2]|[12]?[0-9])\
         |({group}:){{1,7}}({group})?\
         |({ipv6})(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$"
    )
}

/// What clients are picked by; all of what is given has to be so.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Filters {
    /// An address, a network as 192.0.2.0/24, or the beginning of an address as 192.0.2.
    #[schema(inline)]
    search_ip: Option<Search>,
    /// Any of these addresses.
    #[schema(inline)]
    client_ips: Option<Addresses>,
    /// This interface, or any of those that commas separate.
    #[schema(pattern = "^[^,\\s]+(,[^,\\s]+)*$")]
    interface_name: Option<String>,
    /// Any of these interfaces.
    #[schema(inline)]
    interface_names: Option<Names>,
    /// Of the packet that describes the client.
    #[schema(minimum = 0, maximum = 7)]
    version: Option<u8>,
    /// Of the packet that describes the client.
    #[schema(minimum = 0, maximum = 255)]
    stratum: Option<u8>,
    /// What is known of its clock.
    #[schema(inline)]
    client_clock: Option<ClockName>,
    /// Its clock is known to be wrong by so much at least, in either direction.
    #[schema(minimum = 0, maximum = 4_294_967_296_f64)]
    clock_error_at_least_seconds: Option<f64>,
    /// Seen last then or later.
    #[schema(inline)]
    since: Option<Time>,
    /// Seen last then or before; no earlier than `since`.
    #[schema(inline)]
    until: Option<Time>,
}

/// Which part of a list is wanted.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PaginationBody {
    /// From 1.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    page: Option<u64>,
    /// 20 unless told otherwise.
    #[schema(minimum = 1, maximum = 1000)]
    page_size: Option<u64>,
    /// `next_cursor` of the page before, in place of `page`.
    cursor: Option<String>,
}

/// A search with lists of addresses and interfaces.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchBody {
    /// What clients are picked by.
    filters: Option<Filters>,
    /// `page` and `page_size`, or `cursor` and `page_size`.
    pagination: Option<PaginationBody>,
    /// By what; last_seen unless told otherwise.
    #[schema(inline)]
    sort: Option<SortName>,
    /// desc unless told otherwise.
    #[schema(inline)]
    order: Option<OrderName>,
}

/// What is to be removed.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CleanupBody {
    /// What was seen last so many days ago or earlier.
    #[schema(minimum = 0, maximum = 36500)]
    older_than_days: Option<f64>,
    /// What was seen last before this time, in place of `older_than_days`.
    #[schema(inline)]
    before: Option<Time>,
    /// Only count; nothing is removed and nothing compacted.
    dry_run: Option<bool>,
    /// Give room in the file that is not used back, besides or alone.
    compact: Option<bool>,
}
