//! What a rule may be on: a closed list, each with its unit, its direction and the levels that
//! operators use, and who says what its values are. The values come from other parts through
//! [`Sources`], so that alerts know none of them.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// From 0 to 1.
    Ratio,
    /// A number of things.
    Count,
    /// In a second.
    PerSecond,
    /// Bytes sent for each byte received.
    Factor,
    /// 1 is true.
    Truth,
}

impl Unit {
    /// A value, as people read it.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Seconds => seconds(value),
            Self::Ratio => format!("{} %", digits(value * 100.0)),
            Self::Count | Self::Truth => digits(value),
            Self::PerSecond => format!("{}/s", digits(value)),
            Self::Factor => format!("{}×", digits(value)),
        }
    }
}

/// A duration in the unit that needs the fewest zeros.
fn seconds(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size == 0.0 || size >= 1.0 => (value, "s"),
        size if size >= 1e-3 => (value * 1e3, "ms"),
        size if size >= 1e-6 => (value * 1e6, "µs"),
        _ => (value * 1e9, "ns"),
    };
    format!("{} {unit}", digits(scaled))
}

/// Four digits are enough to act on; whole numbers are shown whole.
fn digits(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 {
        return format!("{value:.0}");
    }
    let places = match value.abs() {
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// On which side of a level it is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Above.
    Above,
    /// Below.
    Below,
}

/// What is known of a quantity.
#[derive(Debug)]
pub struct Facts {
    /// As rules name it.
    pub name: &'static str,
    /// What it is, to follow "the".
    pub what: &'static str,
    /// The same in Chinese.
    pub what_zh: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// Where it is bad.
    pub direction: Direction,
    /// Whether a rule looks at its size, whatever its sign.
    pub magnitude: bool,
    /// The level of a warning, where operators agree on one.
    pub warn: Option<f64>,
    /// The level that is critical, where operators agree on one.
    pub critical: Option<f64>,
}

macro_rules! quantities {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $what:literal $what_zh:literal
        $unit:ident $direction:ident $magnitude:literal $warn:expr, $critical:expr;)*) => {
        /// What a rule is on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Quantity {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Quantity {
            /// All of them.
            pub const EACH: &[Self] = &[$(Self::$variant,)*];

            /// What is known of it.
            #[must_use]
            pub const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$variant => &Facts {
                        name: $name,
                        what: $what,
                        what_zh: $what_zh,
                        unit: Unit::$unit,
                        direction: Direction::$direction,
                        magnitude: $magnitude,
                        warn: $warn,
                        critical: $critical,
                    },)*
                }
            }
        }
    };
}

quantities! {
    /// How far a checked server is from this host's clock; positive when the server is ahead.
    CheckOffset "check_offset" "offset of the server" "NTP服务器时间偏差"
        Seconds Above true Some(0.010), Some(0.050);
    /// The share of a check's last rounds that were answered.
    CheckReach "check_reach" "reach of the server" "NTP服务器可达率"
        Ratio Below false Some(0.75), Some(0.50);
    /// The stratum that a checked server says it has; 16 is unsynchronised.
    CheckStratum "check_stratum" "stratum of the server" "NTP服务器层级"
        Count Above false None, Some(15.0);
    /// How long a checked server's answer was on its way.
    CheckDelay "check_delay" "delay to the server" "NTP服务器往返延迟"
        Seconds Above false None, None;
    /// How far a server that this host asks is from its clock, as seen in passing.
    ServerOffset "server_offset" "observed offset of the server" "被动观测的服务器时间偏差"
        Seconds Above true Some(0.010), Some(0.050);
    /// The share of the requests to a server that were answered, as seen in passing.
    ServerReach "server_reach" "observed reach of the server" "被动观测的服务器可达率"
        Ratio Below false Some(0.75), Some(0.50);
    /// Something that was found of a server or of this host's clock.
    Finding "finding" "finding" "事件"
        Count Above false None, None;
    /// How wrong a client's clock is.
    ClientClockError "client_clock_error" "error of the client's clock" "客户端时钟误差"
        Seconds Above true None, None;
    /// The share of requests that nobody answered, in the last full minute.
    UnansweredRatio "unanswered_ratio" "share of unanswered requests" "未应答请求比例"
        Ratio Above false None, None;
    /// 99 of 100 requests were answered in less, in the last full minute.
    TurnaroundP99 "turnaround_p99" "turnaround of 99 % of the answers" "应答耗时 p99"
        Seconds Above false None, None;
    /// Requests in a second, in the last full minute.
    RequestRate "request_rate" "rate of requests" "请求速率"
        PerSecond Above false None, None;
    /// Requests in a second on all interfaces together, in the last full minute.
    TotalRequestRate "total_request_rate" "rate of requests on all interfaces" "全部接口请求速率"
        PerSecond Above false None, None;
    /// Requests of one client in a second.
    ClientRequestRate "client_request_rate" "rate of the client's requests" "单个客户端请求速率"
        PerSecond Above false None, None;
    /// Bytes out for each byte in, of control and private modes.
    Amplification "amplification" "amplification" "放大倍数"
        Factor Above false None, None;
    /// Answers with a kiss code in a second.
    KissOfDeath "kiss_of_death" "rate of kisses of death" "KoD 应答速率"
        PerSecond Above false None, None;
    /// Packets that found no room in a ring, in the last minute.
    RingLoss "ring_loss" "number of packets lost at a ring" "环形缓冲区丢包数"
        Count Above false Some(0.0), None;
    /// What could not be stored, in the last minute.
    StoreLoss "store_loss" "number of losses of the history" "历史存储丢失数"
        Count Above false Some(0.0), None;
    /// Whether an interface that is to be watched is not.
    InterfaceDown "interface_down" "outage of the interface" "接口中断"
        Truth Above false None, Some(0.0);
    /// The share of the data directory's disk that is free.
    DiskFree "disk_free" "share of the disk that is free" "磁盘剩余比例"
        Ratio Below false Some(0.10), Some(0.05);
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.facts().name)
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |quantity: &&Self| quantity.facts().name == text;
        if let Some(quantity) = Self::EACH.iter().find(known) {
            return Ok(*quantity);
        }
        let names = || Self::EACH.iter().map(|it| it.facts().name);
        let similar = names()
            .map(|name| (strsim::jaro(text, name), name))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|one, other| one.0.total_cmp(&other.0));
        let hint = similar.map_or_else(String::new, |(_, it)| format!(" did you mean {it}?"));
        let shown: String = text.chars().take(64).collect();
        let all: Vec<_> = names().collect();
        Err(format!(
            "there is no quantity '{shown}':{hint} expected one of {}",
            all.join(", ")
        ))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.facts().name)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a value is of: the server, the check, the interface. Values of several quantities share it.
pub type Of = Arc<[(&'static str, String)]>;

/// One value of a quantity now.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Of what.
    pub of: Of,
    /// Nothing where it is not known.
    pub value: Option<f64>,
}

/// What one who is asked says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The values. What is there, and of which nothing is known, is among them; what is not there
    /// any more is not.
    pub readings: Vec<Reading>,
    /// Whether it could be found out: otherwise nothing is known of anything.
    pub is_known: bool,
    /// Where there are more, of which these are the greatest: the least of these.
    pub least: Option<f64>,
}

impl Answer {
    /// It could not be found out.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }
}

impl From<Vec<Reading>> for Answer {
    fn from(readings: Vec<Reading>) -> Self {
        Self {
            readings,
            is_known: true,
            least: None,
        }
    }
}

/// What asks another part for its values. It may block for a short time.
type Read = Box<dyn Fn() -> Answer + Send + Sync>;

/// Who says what the values are.
#[derive(Default)]
pub struct Sources(BTreeMap<Quantity, Vec<Read>>);

impl Sources {
    /// Adds one who says what the values of a quantity are; there may be several.
    #[must_use]
    pub fn with<A: Into<Answer>>(
        mut self,
        quantity: Quantity,
        read: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        let read = move || read().into();
        self.0.entry(quantity).or_default().push(Box::new(read));
        self
    }

    /// The values now. One who cannot say because of a bug keeps nobody else from it.
    #[must_use]
    pub fn read(&self, quantity: Quantity) -> Answer {
        let mut all = Answer::from(Vec::new());
        for read in self.0.get(&quantity).into_iter().flatten() {
            let answer = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                tracing::error!("reading {quantity} for its alerts met a bug");
                Answer::unknown()
            });
            all.readings.extend(answer.readings);
            all.is_known &= answer.is_known;
            all.least = match (all.least, answer.least) {
                (Some(one), Some(other)) => Some(one.max(other)),
                (one, other) => one.or(other),
            };
        }
        all
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_written_as_it_is_read_and_one_that_is_unknown_names_the_known() {
        for quantity in Quantity::EACH {
            assert_eq!(quantity.to_string().parse(), Ok(*quantity));
        }
        let error = "chek_offset".parse::<Quantity>().unwrap_err();
        assert!(error.contains("did you mean check_offset?"), "{error}");
        assert!(error.contains("disk_free"), "{error}");
        let error = "weather".parse::<Quantity>().unwrap_err();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn levels_that_operators_use_are_the_defaults() {
        let offset = Quantity::CheckOffset.facts();
        assert_eq!((offset.warn, offset.critical), (Some(0.01), Some(0.05)));
        let reach = Quantity::ServerReach.facts();
        assert_eq!((reach.warn, reach.critical), (Some(0.75), Some(0.5)));
        assert_eq!(reach.direction, Direction::Below);
    }

    #[test]
    fn values_are_shown_in_units_that_people_read() {
        let shown = [
            (Unit::Seconds, 0.0612, "61.2 ms"),
            (Unit::Seconds, -3.25e-6, "-3.25 µs"),
            (Unit::Seconds, 950_400.0, "950400 s"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Ratio, 0.625, "62.5 %"),
            (Unit::PerSecond, 1234.56, "1235/s"),
            (Unit::Count, 16.0, "16"),
        ];
        for (unit, value, text) in shown {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn one_source_that_meets_a_bug_keeps_no_other_from_answering() {
        let reading = Reading {
            of: [("server", "192.0.2.1".to_owned())].into(),
            value: Some(1.0),
        };
        let answer = reading.clone();
        let sources = Sources::default()
            .with(Quantity::CheckOffset, || -> Answer {
                panic!("a test's own")
            })
            .with(Quantity::CheckOffset, move || vec![answer.clone()]);
        let answer = sources.read(Quantity::CheckOffset);
        assert_eq!((answer.readings, answer.is_known), (vec![reading], false));
        let nobody = sources.read(Quantity::CheckDelay);
        assert_eq!((nobody.readings, nobody.is_known), (vec![], true));
    }
}
