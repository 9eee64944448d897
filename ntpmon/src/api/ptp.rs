//! What is seen of PTP over HTTP: `/api/ptp`. Read from memory, a copy made under a short lock, so
//! nothing here waits.

use ntpmon_common::ClockIdentity;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::{ApiError, shown},
    extract::Path,
    history::{parameters::Parameters, schema::Names},
};
use crate::{
    ntp::clock,
    ptp::{
        Domain, DomainKey, parse_clock,
        seen::Seen,
        view::{DomainView, MasterView, Moment},
    },
};

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(domains))
        .routes(routes!(masters))
        .routes(routes!(master))
}

/// Which of them.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// Each by a name of the parameter; where there are two, an interface has to be in both.
    interfaces: Vec<Vec<String>>,
    domain: Option<u8>,
}

impl Wanted {
    /// What interfaces are chosen by, here and elsewhere: the one name is older, the other is that of
    /// all other paths.
    const INTERFACES: [&str; 2] = ["interface", "interface_name"];

    fn new(parameters: &Parameters) -> Result<Self, ApiError> {
        parameters.only(&[&Self::INTERFACES, &["domain"]])?;
        let mut interfaces = Vec::new();
        for name in Self::INTERFACES {
            interfaces.extend(parameters.names(name)?);
        }
        let domain = parameters.number("domain", 0..=u8::MAX.into())?;
        Ok(Self {
            interfaces,
            domain: domain.and_then(|it| u8::try_from(it).ok()),
        })
    }

    fn takes(&self, interface: &str, key: &DomainKey) -> bool {
        let mut lists = self.interfaces.iter();
        lists.all(|names| names.iter().any(|it| it == interface))
            && self.domain.is_none_or(|it| it == key.number)
    }
}

/// Domains of PTP.
#[derive(Debug, Serialize, ToSchema)]
struct DomainList {
    /// Always true.
    success: bool,
    /// Whether PTP is watched: `capture.ptp` in the configuration.
    enabled: bool,
    /// How many there are.
    count: usize,
    /// Messages of domains for which there was no room, on all interfaces.
    unlisted_messages: u64,
    /// By interface and number.
    data: Vec<DomainView>,
}

/// Masters of PTP.
#[derive(Debug, Serialize, ToSchema)]
struct MasterList {
    /// Always true.
    success: bool,
    /// Whether PTP is watched: `capture.ptp` in the configuration.
    enabled: bool,
    /// How many there are.
    count: usize,
    /// By interface, domain and identity.
    data: Vec<MasterView>,
}

/// Makes something of each domain that is wanted.
fn each<T>(
    state: &State,
    wanted: &Wanted,
    mut make: impl FnMut(&str, &DomainKey, &Domain, Moment, &mut Vec<T>),
) -> Vec<T> {
    let Some(seen) = &state.ptp else {
        return Vec::new();
    };
    let moment = Moment::Now(clock::monotonic());
    let mut made = Vec::new();
    for (interface, watcher) in seen.watchers() {
        let domains = watcher.domains().iter();
        for (key, domain) in domains.filter(|(key, _)| wanted.takes(&interface, key)) {
            make(&interface, key, domain, moment, &mut made);
        }
    }
    made
}

fn list(state: &State, wanted: &Wanted, clock: Option<ClockIdentity>) -> MasterList {
    let data = each(state, wanted, |interface, key, domain, moment, made| {
        let masters = domain.masters.values();
        let masters = masters.filter(|it| clock.is_none_or(|clock| it.identity.clock == clock));
        made.extend(masters.map(|it| MasterView::new(Some(interface), key, domain, it, moment)));
    });
    MasterList {
        success: true,
        enabled: state.ptp.is_some(),
        count: data.len(),
        data,
    }
}

/// PTP domains
///
/// Every domain in which a message was seen, on each interface: the same number over another
/// transport or in another VLAN is another domain. Who is master, what was asked and answered, and
/// what changed lately. Counts begin anew with the daemon.
#[utoipa::path(
    get,
    path = "/api/ptp/domains",
    operation_id = "ptp_domains",
    tag = "ptp",
    params(
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Seen on any of these interfaces, separated by commas"),
        ("interface" = inline(Option<Names>), Query, style = Form, explode = false, description = "The same, by an older name"),
        ("domain" = Option<u8>, Query, description = "Only domains with this number"),
    ),
    responses(
        (status = 200, description = "What is known of each", body = DomainList),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn domains(state: State, parameters: Parameters) -> Result<axum::Json<DomainList>, ApiError> {
    let wanted = Wanted::new(&parameters)?;
    let data = each(&state, &wanted, |interface, key, domain, moment, made| {
        made.push(DomainView::new(Some(interface), key, domain, moment));
    });
    Ok(axum::Json(DomainList {
        success: true,
        enabled: state.ptp.is_some(),
        count: data.len(),
        unlisted_messages: state.ptp.as_ref().map_or(0, Seen::unlisted_domains),
        data,
    }))
}

/// PTP masters
///
/// Every port that announces itself as master, or sends what masters do, those that are gone among
/// them: what it announces, how often its messages come, their corrections, and how fast it
/// answers. Masters are remembered over a restart; of the counts only those of messages are.
#[utoipa::path(
    get,
    path = "/api/ptp/masters",
    operation_id = "ptp_masters",
    tag = "ptp",
    params(
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Seen on any of these interfaces, separated by commas"),
        ("interface" = inline(Option<Names>), Query, style = Form, explode = false, description = "The same, by an older name"),
        ("domain" = Option<u8>, Query, description = "Only domains with this number"),
    ),
    responses(
        (status = 200, description = "What is known of each", body = MasterList),
        (status = 400, description = "A parameter cannot be, or is not known"),
    )
)]
async fn masters(state: State, parameters: Parameters) -> Result<axum::Json<MasterList>, ApiError> {
    let wanted = Wanted::new(&parameters)?;
    Ok(axum::Json(list(&state, &wanted, None)))
}

/// One PTP master
///
/// The ports of one clock, wherever they were seen.
#[utoipa::path(
    get,
    path = "/api/ptp/masters/{clock_identity}",
    operation_id = "ptp_master",
    tag = "ptp",
    params(
        ("clock_identity" = String, Path, description = "Sixteen hexadecimal digits, with points, colons or hyphens between them or without", example = "0050c2.fffe.123456"),
        ("interface_name" = inline(Option<Names>), Query, style = Form, explode = false, description = "Seen on any of these interfaces, separated by commas"),
        ("interface" = inline(Option<Names>), Query, style = Form, explode = false, description = "The same, by an older name"),
        ("domain" = Option<u8>, Query, description = "Only domains with this number"),
    ),
    responses(
        (status = 200, description = "What is known of its ports", body = MasterList),
        (status = 400, description = "It is no clock's identity, or a parameter cannot be, or is not known"),
        (status = 404, description = "No such master was seen"),
    )
)]
async fn master(
    state: State,
    Path(identity): Path<String>,
    parameters: Parameters,
) -> Result<axum::Json<MasterList>, ApiError> {
    let wanted = Wanted::new(&parameters)?;
    let clock = parse_clock(&identity).ok_or_else(|| {
        ApiError::invalid_parameter(
            "clock_identity",
            &identity,
            "sixteen hexadecimal digits, such as 0050c2.fffe.123456",
        )
    })?;
    let list = list(&state, &wanted, Some(clock));
    if list.data.is_empty() {
        return Err(ApiError::not_found(
            "ptp_master_not_found",
            format!(
                "no PTP master '{}' was seen; GET /api/ptp/masters lists those that were",
                shown(&identity)
            ),
        ));
    }
    Ok(axum::Json(list))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::Value;

    use super::*;
    use crate::{
        api::{
            router,
            tests::{fetch, state},
        },
        ntp::pair::Totals,
        pipeline::Sink,
        ptp::made::{announce, answering, message, port},
    };

    async fn get(state: &State, path: &str) -> (StatusCode, Value) {
        let answer = fetch(&router(state.clone()), path).await;
        (answer.status, answer.json())
    }

    fn watching() -> State {
        let seen = Seen::new(|_, _| {});
        for (interface, number) in [("eth0", 1), ("eth1", 2)] {
            let mut feed = seen.feed(interface);
            // Messages of now: what announced long ago does not announce any more.
            let now = |mut it: crate::ptp::Message| {
                it.event.time = clock::monotonic();
                it
            };
            feed.ptp(&now(announce(port(number), 6, 0)));
            let asks = message(ntpmon_common::PtpType::DelayRequest, port(9), 1, 0);
            let answers = message(ntpmon_common::PtpType::DelayResponse, port(number), 1, 0);
            feed.ptp(&now(asks));
            feed.ptp(&now(answering(answers, port(9))));
            feed.publish(&Totals::default(), crate::ptp::made::BEGAN);
        }
        State {
            ptp: Some(seen),
            ..state()
        }
    }

    #[tokio::test]
    async fn domains_and_masters_are_told_and_can_be_chosen() {
        let state = watching();
        let (status, domains) = get(&state, "/api/ptp/domains").await;
        assert_eq!((status, &domains["count"]), (StatusCode::OK, &2.into()));
        assert_eq!(domains["enabled"], true);
        let domain = &domains["data"][0];
        assert_eq!(domain["interface_name"], "eth0");
        assert_eq!(domain["transport"], "udp_ipv4");
        assert_eq!(domain["master_port_identity"], "020000.fffe.000001-1");
        assert_eq!(domain["grandmaster_identity"], "020000.fffe.000001");
        assert_eq!(domain["delay_requests"]["answered"], 1);
        assert_eq!(domain["messages"]["delay_request"]["count"], 1);
        assert_eq!(domain["changes"], Value::Array(Vec::new()));

        let (_, masters) = get(&state, "/api/ptp/masters?interface=eth1").await;
        assert_eq!(masters["count"], 1);
        let master = &masters["data"][0];
        assert_eq!(master["clock_identity"], "020000.fffe.000002");
        assert_eq!(master["announce"]["clock_class"], 6);
        assert_eq!(master["announce"]["clock_accuracy_seconds"], 1e-7);
        assert_eq!(master["announce"]["time_source_name"], "gnss");
        assert_eq!(master["announce"]["utc_offset_seconds"], 37);
        assert_eq!(master["is_master"], true);
        assert_eq!(master["sync_correction"]["mean_seconds"], Value::Null);
        assert_eq!(master["announce_interval_seconds"], 1.0);
        let (_, none) = get(&state, "/api/ptp/masters?domain=3").await;
        assert_eq!(none["count"], 0);
    }

    #[tokio::test]
    async fn one_master_is_found_by_its_clock_however_it_is_written() {
        let state = watching();
        for identity in ["020000.fffe.000002", "0x020000fffe000002"] {
            let (status, one) = get(&state, &format!("/api/ptp/masters/{identity}")).await;
            assert_eq!((status, &one["count"]), (StatusCode::OK, &1.into()));
        }
        let (status, other) = get(&state, "/api/ptp/masters/020000.fffe.000003").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(other["code"], "ptp_master_not_found");
        let (status, wrong) = get(&state, "/api/ptp/masters/eth0").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(wrong["code"], "invalid_parameter");
    }

    #[tokio::test]
    async fn interfaces_are_chosen_by_either_name_and_no_parameter_is_passed_over() {
        let state = watching();
        for (query, count) in [
            ("interface=eth0", 1),
            ("interface_name=eth0", 1),
            ("interface_name=eth0,eth1", 2),
            ("interface_name=eth0,eth1&interface=eth1", 1),
            ("interface_name=eth0&interface=eth1", 0),
            ("interface_name=eth7", 0),
            ("domain=0", 2),
            ("domain=255", 0),
        ] {
            for path in ["domains", "masters"] {
                let (status, found) = get(&state, &format!("/api/ptp/{path}?{query}")).await;
                let found = (status, &found["count"]);
                assert_eq!(found, (StatusCode::OK, &count.into()), "{path}?{query}");
            }
        }
        for (query, code, word) in [
            ("interfaces=eth0", "unknown_parameter", "interface"),
            ("page=1", "unknown_parameter", "page"),
            ("interface=", "invalid_parameter", "interface"),
            ("interface_name=", "invalid_parameter", "interface_name"),
            (
                "interface_name=eth0,",
                "invalid_parameter",
                "interface_name",
            ),
            ("domain=", "invalid_parameter", "domain"),
            ("domain=256", "invalid_parameter", "256"),
            ("domain=-1", "invalid_parameter", "-1"),
            ("domain=0&domain=1", "invalid_parameter", "domain"),
        ] {
            for path in ["domains", "masters", "masters/020000.fffe.000002"] {
                let (status, refused) = get(&state, &format!("/api/ptp/{path}?{query}")).await;
                let found = (status, &refused["code"]);
                assert_eq!(
                    found,
                    (StatusCode::BAD_REQUEST, &code.into()),
                    "{path}?{query}"
                );
                let message = refused["message"].as_str().unwrap();
                assert!(message.contains(word), "{message}");
            }
        }
        // A clock that was seen, but not there.
        let path = "/api/ptp/masters/020000.fffe.000002?interface_name=eth0";
        assert_eq!(get(&state, path).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn where_ptp_is_not_watched_that_is_said() {
        let (status, domains) = get(&state(), "/api/ptp/domains").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&domains["enabled"], &domains["count"]),
            (&false.into(), &0.into())
        );
    }
}
