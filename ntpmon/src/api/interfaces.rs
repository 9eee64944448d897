//! The watched interfaces over HTTP: `/api/ntp`. Paths and fields are those of the Flask
//! application that came before, so that its users' scripts go on working.

use std::{path::PathBuf, time::Duration};

use axum::http::StatusCode;
use ntpmon_common::{Counter, settings::MAX_PORTS};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    State,
    error::{ApiError, shown},
    extract::{OptionalJson, Path},
    health,
};
use crate::monitor::{
    Options,
    control::{self, ControlError, Removed, Status},
};

/// The kernel's IFNAMSIZ, without the byte that ends a name.
const MAX_NAME: usize = 15;

pub(super) fn reading() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(statuses))
        .routes(routes!(status))
        .routes(routes!(health::health))
}

pub(super) fn changing() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(cleanup))
}

/// How an interface is to be watched. What is left out is as the configuration says.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct StartBody {
    /// A UDP port that is NTP, on either side.
    port: Option<Port>,
    /// Several such ports, at most 8 with `port`.
    #[schema(min_items = 1, max_items = 7)]
    ports: Option<Vec<Port>>,
    /// How long a request waits for its response, in seconds.
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 3600, example = 2.0)]
    timeout: Option<Timeout>,
    /// Where incoming packets are taken: xdp where the interface allows it, or tc.
    mode: Option<Mode>,
    /// Where exchanges are written besides, a JSON object a line; inside the configured directory.
    #[schema(value_type = Option<String>)]
    output_file: Option<PathBuf>,
}

/// Where incoming packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Tc,
    Xdp,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(try_from = "Value")]
#[schema(minimum = 1, maximum = 65535, example = 123)]
struct Port(u16);

impl TryFrom<Value> for Port {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        // JSON knows one kind of number: 123.0 is 123.
        value
            .as_f64()
            .filter(|port| port.fract() == 0.0 && (1.0..=65535.0).contains(port))
            .map(|port| Self(port as u16))
            .ok_or_else(|| {
                format!(
                    "{} is no port; it has to be a whole number from 1 to 65535",
                    shown(&value.to_string())
                )
            })
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
struct Timeout(Duration);

impl TryFrom<Value> for Timeout {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let [shortest, longest] = Options::TIMEOUTS;
        value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|timeout| (shortest..=longest).contains(timeout))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "{} is no timeout; it has to be a number of seconds from {} to {}",
                    shown(&value.to_string()),
                    shortest.as_secs_f64(),
                    longest.as_secs_f64()
                )
            })
    }
}

impl StartBody {
    /// The options in full, or none when nothing was asked for: then what was asked for last holds.
    fn options(self, defaults: &Options) -> Result<Option<Options>, ApiError> {
        let output_file = self.output_file.filter(|path| !path.as_os_str().is_empty());
        let nothing = self.port.is_none()
            && self.ports.is_none()
            && self.timeout.is_none()
            && self.mode.is_none()
            && output_file.is_none();
        if nothing {
            return Ok(None);
        }
        let mut options = defaults.clone();
        if self.port.is_some() || self.ports.is_some() {
            let several = self.ports.unwrap_or_default().into_iter();
            let mut ports: Vec<_> = self
                .port
                .into_iter()
                .chain(several)
                .map(|port| port.0)
                .collect();
            ports.sort_unstable();
            ports.dedup();
            if ports.is_empty() || ports.len() > MAX_PORTS {
                return Err(ApiError::invalid_body(format!(
                    "ports: there are {}; it has to be 1 to {MAX_PORTS}",
                    ports.len()
                )));
            }
            options.ports = ports;
        }
        if let Some(Timeout(timeout)) = self.timeout {
            options.timeout = timeout;
        }
        if let Some(mode) = self.mode {
            options.xdp = mode == Mode::Xdp;
        }
        if output_file.is_some() {
            options.output_file = output_file;
        }
        Ok(Some(options))
    }
}

/// An interface, and how it is watched.
#[derive(Debug, Serialize, ToSchema)]
struct InterfaceStatus {
    /// Its name.
    interface: String,
    /// Whether its packets are captured now.
    is_monitoring: bool,
    /// Of the daemon, which is one process for all; null when it is not monitored.
    pid: Option<u32>,
    /// What the daemon takes of one processor, over the last second or more.
    cpu_percent: Option<f64>,
    /// The daemon's resident memory.
    memory_mb: Option<f64>,
    /// Since when it has been watched with these options.
    #[schema(value_type = Option<String>, format = DateTime)]
    start_time: Option<jiff::Timestamp>,
    /// failed: it is to be monitored and cannot be; `error` says why, and it is tried again.
    status: Watching,
    /// The daemon's log, when it is a file.
    log_file: Option<String>,
    /// Whether there is such an interface now.
    interface_exists: bool,
    /// How packets are taken.
    mode: Option<String>,
    /// UDP ports that are NTP.
    ports: Option<Vec<u16>>,
    /// How long a request waits for its response, in seconds.
    timeout: Option<f64>,
    /// Packets that passed.
    packets: u64,
    /// NTP packets that were taken.
    events: u64,
    /// NTP packets that were lost because they came faster than they were taken.
    dropped: u64,
    /// PTP messages that were taken; 0 where PTP is not watched.
    ptp_events: u64,
    /// PTP messages that were lost because they came faster than they were taken.
    ptp_dropped: u64,
    /// PTP that is of another version than 2, or malformed.
    ptp_skipped: u64,
    /// Threads that take them.
    rings: usize,
    /// Where exchanges are written besides.
    output_file: Option<String>,
    /// Lines that were written there.
    output_written: Option<u64>,
    /// Exchanges that could not be written there.
    output_lost: Option<u64>,
    /// What is wrong.
    error: Option<String>,
    /// Where the capture differs from what was asked, and why.
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Watching {
    Running,
    NotMonitoring,
    Failed,
}

impl InterfaceStatus {
    fn new(state: &State, usage: super::process::Usage, status: Status) -> Self {
        let (monitoring, mut error) = match status.state {
            control::State::Running => (Watching::Running, None),
            control::State::NotMonitoring => (Watching::NotMonitoring, None),
            control::State::Failed(why) => (Watching::Failed, Some(why)),
        };
        let running = monitoring == Watching::Running;
        let output = status.output;
        if error.is_none() {
            error = output
                .as_ref()
                .filter(|output| !output.writing)
                .and_then(|output| output.error.clone());
        }
        let options = status.options;
        let written = output.as_ref();
        Self {
            interface: status.interface,
            is_monitoring: running,
            pid: running.then(std::process::id),
            cpu_percent: usage.cpu_percent.filter(|_| running),
            memory_mb: usage.memory_mb.filter(|_| running),
            start_time: status.since,
            status: monitoring,
            log_file: state
                .settings
                .log_file
                .as_ref()
                .map(|path| path.display().to_string()),
            interface_exists: status.exists,
            mode: status.mode,
            ports: options.as_ref().map(|options| options.ports.clone()),
            timeout: options
                .as_ref()
                .map(|options| options.timeout.as_secs_f64()),
            packets: status.counters.packets(),
            events: status.counters.get(Counter::Emitted),
            dropped: status.counters.get(Counter::RingFull),
            ptp_events: status.counters.get(Counter::PtpEmitted),
            ptp_dropped: status.counters.get(Counter::PtpRingFull),
            ptp_skipped: status.counters.get(Counter::PtpBadVersion)
                + status.counters.get(Counter::PtpMalformed),
            rings: status.rings,
            output_file: written
                .map(|output| output.path.display().to_string())
                .or_else(|| {
                    let path = options.as_ref()?.output_file.as_ref()?;
                    Some(path.display().to_string())
                }),
            output_written: written.map(|output| output.written),
            output_lost: written.map(|output| output.lost),
            error,
            notes: status.notes,
        }
    }
}

/// What became of a request about one interface.
#[derive(Debug, Serialize, ToSchema)]
struct InterfaceReply {
    /// Always true.
    success: bool,
    /// What became of it, in words.
    message: String,
    /// The interface's name.
    interface: String,
    /// How it is now.
    data: InterfaceStatus,
}

/// Every interface.
#[derive(Debug, Serialize, ToSchema)]
struct InterfaceList {
    /// Always true.
    success: bool,
    /// How many there are.
    count: usize,
    /// By name.
    data: Vec<InterfaceStatus>,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
struct LeftoversReply {
    /// Always true.
    success: bool,
    /// What became of it, in words.
    message: String,
    /// How much was removed.
    count: usize,
    /// What was removed.
    data: Vec<RemovedItem>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RemovedItem {
    /// The interface that it was on; null when that is gone.
    interface: Option<String>,
    /// What it was.
    what: String,
}

impl From<Removed> for RemovedItem {
    fn from(removed: Removed) -> Self {
        Self {
            interface: removed.interface,
            what: removed.what,
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::UnknownInterface(name) => Self::not_found(
                "interface_not_found",
                format!(
                    "there is no interface '{}'; GET /api/ntp/interfaces/status lists those there are",
                    shown(&name)
                ),
            ),
            ControlError::Options(_) => Self::invalid_body(message),
            ControlError::OutputFile(why) => Self::new(
                StatusCode::BAD_REQUEST,
                "output_file_refused",
                format!("output_file: {why}"),
            ),
            ControlError::Failed(error) => {
                tracing::error!("an interface under control: {error:#}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "capture_failed", message)
            }
            ControlError::Stopped => Self::unavailable("stopping", message),
        }
    }
}

/// The kernel's rule for names: what breaks it can be no interface.
fn checked(name: String) -> Result<String, ApiError> {
    let possible = (1..=MAX_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|letter: char| {
            letter == '/' || letter == ':' || letter.is_whitespace() || letter.is_control()
        });
    if possible {
        return Ok(name);
    }
    Err(ApiError::invalid_parameter(
        "the interface's name",
        name.escape_debug(),
        format!("1 to {MAX_NAME} bytes without '/', ':' and white space"),
    ))
}

fn reply(
    state: &State,
    status: Status,
    message: impl FnOnce(&str) -> String,
) -> axum::Json<InterfaceReply> {
    let data = InterfaceStatus::new(state, state.process.usage(), status);
    axum::Json(InterfaceReply {
        success: true,
        message: message(&data.interface),
        interface: data.interface.clone(),
        data,
    })
}

/// Whether an interface that is captured already may go on as it is.
#[derive(Clone, Copy)]
enum Begin {
    UnlessRunning,
    Anew,
}

/// Has an interface monitored, and says how it is.
async fn begin(
    state: &State,
    name: String,
    body: StartBody,
    begin: Begin,
) -> Result<axum::Json<InterfaceReply>, ApiError> {
    let name = checked(name)?;
    let control = &state.control;
    let options = body.options(&control.defaults().await?)?;
    let status = match begin {
        Begin::UnlessRunning => control.start(&name, options).await,
        Begin::Anew => control.restart(&name, options).await,
    }?;
    let failed = match &status.state {
        control::State::Failed(why) => Some(why.clone()),
        _ => None,
    };
    let log = state.settings.log_file.as_ref();
    let log = log.map_or_else(String::new, |path| {
        format!(", log file: {}", path.display())
    });
    Ok(reply(state, status, |name| match failed {
        None => format!(
            "interface {name} is being monitored, PID: {}{log}",
            std::process::id()
        ),
        Some(why) => format!("interface {name} will be monitored as soon as it can be: {why}"),
    }))
}

/// Start monitoring an interface
///
/// Nothing happens to one that is monitored already with the same options. The set of monitored
/// interfaces survives a restart of the daemon. An empty body means the options of last time, or
/// else the configuration's.
#[utoipa::path(
    post,
    path = "/api/ntp/interfaces/{name}/start",
    operation_id = "start_interface",
    tag = "interfaces",
    params(("name" = String, Path, description = "The interface's name", example = "eth0", min_length = 1, max_length = 15, pattern = "^[A-Za-z0-9_@-][A-Za-z0-9_.@-]*$")),
    request_body(content = Option<StartBody>, description = "How to monitor it"),
    responses(
        (status = 200, description = "It is being monitored, or will be when it is back", body = InterfaceReply),
        (status = 400, description = "The name, the body or the output file cannot be"),
        (status = 404, description = "There is no such interface"),
        (status = 415, description = "The body is not JSON"),
        (status = 500, description = "The kernel refused; the message says why"),
    )
)]
async fn start(
    state: State,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<StartBody>,
) -> Result<axum::Json<InterfaceReply>, ApiError> {
    begin(&state, name, body, Begin::UnlessRunning).await
}

/// Stop monitoring an interface
///
/// Nothing happens to one that is not monitored.
#[utoipa::path(
    post,
    path = "/api/ntp/interfaces/{name}/stop",
    operation_id = "stop_interface",
    tag = "interfaces",
    params(("name" = String, Path, description = "The interface's name", example = "eth0", min_length = 1, max_length = 15, pattern = "^[A-Za-z0-9_@-][A-Za-z0-9_.@-]*$")),
    responses(
        (status = 200, description = "It is not monitored", body = InterfaceReply),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such interface"),
    )
)]
async fn stop(
    state: State,
    Path(name): Path<String>,
) -> Result<axum::Json<InterfaceReply>, ApiError> {
    let status = state.control.stop(&checked(name)?).await?;
    Ok(reply(&state, status, |name| {
        format!("interface {name} is not monitored any more")
    }))
}

/// Begin monitoring an interface anew
///
/// With new counters. An empty body means the options of before; what a body leaves out is as the
/// configuration says. Starts one that is not monitored.
#[utoipa::path(
    post,
    path = "/api/ntp/interfaces/{name}/restart",
    operation_id = "restart_interface",
    tag = "interfaces",
    params(("name" = String, Path, description = "The interface's name", example = "eth0", min_length = 1, max_length = 15, pattern = "^[A-Za-z0-9_@-][A-Za-z0-9_.@-]*$")),
    request_body(content = Option<StartBody>, description = "How to monitor it"),
    responses(
        (status = 200, description = "It is being monitored, or will be when it is back", body = InterfaceReply),
        (status = 400, description = "The name, the body or the output file cannot be"),
        (status = 404, description = "There is no such interface"),
        (status = 415, description = "The body is not JSON"),
        (status = 500, description = "The kernel refused; the message says why"),
    )
)]
async fn restart(
    state: State,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<StartBody>,
) -> Result<axum::Json<InterfaceReply>, ApiError> {
    begin(&state, name, body, Begin::Anew).await
}

/// How an interface is
#[utoipa::path(
    get,
    path = "/api/ntp/interfaces/{name}/status",
    operation_id = "interface_status",
    tag = "interfaces",
    params(("name" = String, Path, description = "The interface's name", example = "eth0", min_length = 1, max_length = 15, pattern = "^[A-Za-z0-9_@-][A-Za-z0-9_.@-]*$")),
    responses(
        (status = 200, description = "How it is", body = InterfaceReply),
        (status = 400, description = "The name cannot be"),
        (status = 404, description = "There is no such interface"),
    )
)]
async fn status(
    state: State,
    Path(name): Path<String>,
) -> Result<axum::Json<InterfaceReply>, ApiError> {
    let status = state.control.status(&checked(name)?).await?;
    let word = match status.state {
        control::State::Running => "is being monitored",
        control::State::NotMonitoring => "is not monitored",
        control::State::Failed(_) => "is to be monitored and cannot be",
    };
    Ok(reply(&state, status, |name| {
        format!("interface {name} {word}")
    }))
}

/// How every interface is
///
/// Those of this host, and those that are to be monitored and do not exist now.
#[utoipa::path(
    get,
    path = "/api/ntp/interfaces/status",
    operation_id = "interface_statuses",
    tag = "interfaces",
    responses((status = 200, description = "How each is", body = InterfaceList))
)]
async fn statuses(state: State) -> Result<axum::Json<InterfaceList>, ApiError> {
    let statuses = state.control.statuses().await?;
    let usage = state.process.usage();
    let data: Vec<_> = statuses
        .into_iter()
        .map(|status| InterfaceStatus::new(&state, usage, status))
        .collect();
    Ok(axum::Json(InterfaceList {
        success: true,
        count: data.len(),
        data,
    }))
}

/// Remove what a dead ntpmon left in the kernel
///
/// Programs and pins of a process that was killed, or of an interface that is gone. What a living
/// process uses stays.
#[utoipa::path(
    post,
    path = "/api/ntp/cleanup",
    operation_id = "cleanup_interfaces",
    tag = "interfaces",
    responses(
        (status = 200, description = "What was removed", body = LeftoversReply),
        (status = 500, description = "The kernel refused; the message says why"),
    )
)]
async fn cleanup(state: State) -> Result<axum::Json<LeftoversReply>, ApiError> {
    let removed = state.control.cleanup().await?;
    let data: Vec<_> = removed.into_iter().map(RemovedItem::from).collect();
    Ok(axum::Json(LeftoversReply {
        success: true,
        message: match data.len() {
            0 => "there was nothing to remove".to_owned(),
            count => format!("removed {count} leftovers"),
        },
        count: data.len(),
        data,
    }))
}
