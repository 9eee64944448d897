//! What changed in a domain, with what shows it: what an operator wants to be told of, once.

use ntpmon_common::{Announced, PortIdentity};
use serde_json::{Map, Value, json};

use super::{
    DomainKey, Message,
    domain::key_fields,
    text::{clock_text, port_text},
};
use crate::health::{Evidence, Found, Kind};

/// Something changed in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another announces as master now; nobody, where `after` is none; and `before` is none where
    /// nobody had announced for some time.
    MasterChanged {
        /// Who announced until now.
        before: Option<PortIdentity>,
        /// Who announces now.
        after: Option<PortIdentity>,
    },
    /// A master follows another grandmaster now.
    GrandmasterChanged {
        /// Who announces.
        master: PortIdentity,
        /// What it announced before.
        before: Announced,
        /// What it announces now.
        after: Announced,
    },
    /// The grandmaster is the same and its quality or priority another.
    QualityChanged {
        /// Who announces.
        master: PortIdentity,
        /// What it announced before.
        before: Announced,
        /// What it announces now.
        after: Announced,
    },
    /// The offset between TAI and UTC, the time source, or what the flags say of the time, is
    /// another: the flags with it.
    TimePropertiesChanged {
        /// Who announces.
        master: PortIdentity,
        /// What it announced before.
        before: (Announced, u16),
        /// What it announces now.
        after: (Announced, u16),
    },
    /// Several announce to all for longer than one needs to give way to another.
    SeveralMasters {
        /// The first few, the best clock first.
        masters: Vec<PortIdentity>,
        /// How many there are.
        count: usize,
    },
}

impl Change {
    /// What it is among all that is found.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::MasterChanged { .. } => Kind::PtpMasterChanged,
            Self::GrandmasterChanged { .. } => Kind::PtpGrandmasterChanged,
            Self::QualityChanged { .. } => Kind::PtpClockQualityChanged,
            Self::TimePropertiesChanged { .. } => Kind::PtpTimePropertiesChanged,
            Self::SeveralMasters { .. } => Kind::PtpSeveralMasters,
        }
    }

    /// How many sorts there are.
    pub(super) const PLACES: usize = 5;

    /// Which of them it is.
    pub(super) const fn place(&self) -> usize {
        match self {
            Self::MasterChanged { .. } => 0,
            Self::GrandmasterChanged { .. } => 1,
            Self::QualityChanged { .. } => 2,
            Self::TimePropertiesChanged { .. } => 3,
            Self::SeveralMasters { .. } => 4,
        }
    }

    /// The name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// What shows it, with units in the names.
    #[must_use]
    pub fn evidence(&self) -> Map<String, Value> {
        let object = match self {
            Self::MasterChanged { before, after } => json!({
                "master_before": before.map(port_text),
                "master_after": after.map(port_text),
            }),
            Self::GrandmasterChanged {
                master,
                before,
                after,
            }
            | Self::QualityChanged {
                master,
                before,
                after,
            } => json!({
                "master": port_text(*master),
                "before": announced(before),
                "after": announced(after),
            }),
            Self::TimePropertiesChanged {
                master,
                before,
                after,
            } => {
                let properties = |(announced, flags): &(Announced, u16)| {
                    let mut object = announced_object(announced);
                    object.insert("flags".to_owned(), (*flags).into());
                    object
                };
                json!({
                    "master": port_text(*master),
                    "before": properties(before),
                    "after": properties(after),
                })
            }
            Self::SeveralMasters { masters, count } => json!({
                "master_count": count,
                "masters": masters.iter().copied().map(port_text).collect::<Vec<_>>(),
            }),
        };
        match object {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// For the log and for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::MasterChanged {
                before: Some(before),
                after: Some(after),
            } => format!(
                "master is {} now, it was {}",
                port_text(*after),
                port_text(*before)
            ),
            Self::MasterChanged {
                before: Some(before),
                after: None,
            } => format!(
                "nobody announces any more: master was {}",
                port_text(*before)
            ),
            Self::MasterChanged {
                after: Some(after), ..
            } => format!("master is {} now, after nobody", port_text(*after)),
            Self::MasterChanged { .. } => "nobody announces".to_owned(),
            Self::GrandmasterChanged {
                master,
                before,
                after,
            } => format!(
                "{} follows the grandmaster {} now, it was {}",
                port_text(*master),
                clock_text(after.grandmaster),
                clock_text(before.grandmaster)
            ),
            Self::QualityChanged {
                master,
                before,
                after,
            } => {
                let quality = |it: &Announced| {
                    format!(
                        "class {}, accuracy {:#04x}, variance {}, priorities {} and {}",
                        it.clock_class, it.clock_accuracy, it.variance, it.priority1, it.priority2
                    )
                };
                format!(
                    "{}: the grandmaster {} has {} now, it had {}",
                    port_text(*master),
                    clock_text(after.grandmaster),
                    quality(after),
                    quality(before)
                )
            }
            Self::TimePropertiesChanged {
                master,
                before,
                after,
            } => {
                let properties = |(announced, flags): &(Announced, u16)| {
                    format!(
                        "TAI-UTC {} s, time source {:#04x}, flags {flags:#06x}",
                        announced.utc_offset, announced.time_source
                    )
                };
                format!(
                    "{} announces {} now, it was {}",
                    port_text(*master),
                    properties(after),
                    properties(before)
                )
            }
            Self::SeveralMasters { masters, count } => format!(
                "{count} masters announce at the same time: {}{}",
                masters
                    .iter()
                    .copied()
                    .map(port_text)
                    .collect::<Vec<_>>()
                    .join(", "),
                if masters.len() < *count { ", …" } else { "" }
            ),
        }
    }
}

fn announced(announced: &Announced) -> Value {
    Value::Object(announced_object(announced))
}

fn announced_object(announced: &Announced) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in [
        (
            "grandmaster_identity",
            Value::from(clock_text(announced.grandmaster)),
        ),
        ("priority1", announced.priority1.into()),
        ("priority2", announced.priority2.into()),
        ("clock_class", announced.clock_class.into()),
        ("clock_accuracy", announced.clock_accuracy.into()),
        ("offset_scaled_log_variance", announced.variance.into()),
        ("steps_removed", announced.steps_removed.into()),
        ("time_source", announced.time_source.into()),
        ("utc_offset_seconds", announced.utc_offset.into()),
    ] {
        object.insert(name.to_owned(), value);
    }
    object
}

/// A change, and where and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// In which domain of the interface.
    pub domain: DomainKey,
    /// When, in nanoseconds since 1970, by this host's clock; [`Message::NO_TIME`] where it is
    /// not known.
    pub unix: i64,
    /// What.
    pub change: Change,
    /// How many more of its kind there were in the minute before, which are not told.
    pub more: u64,
}

impl Told {
    /// In a sentence, the domain with it.
    #[must_use]
    pub fn text(&self) -> String {
        let text = format!("PTP domain {}: {}", self.domain.number, self.change.text());
        match self.more {
            0 => text,
            more => format!("{text}, and {more} more such changes in the minute before"),
        }
    }

    fn evidence(&self) -> Map<String, Value> {
        let mut evidence = self.change.evidence();
        if self.more > 0 {
            evidence.insert("more_changes".to_owned(), self.more.into());
        }
        evidence
    }

    /// As what was found, to be kept with all else.
    #[must_use]
    pub fn found(&self) -> Found {
        let kind = self.change.kind();
        let mut fields = Map::new();
        key_fields(&self.domain, &mut fields);
        fields.append(&mut self.evidence());
        Found {
            kind,
            severity: kind.severity(),
            time: (self.unix != Message::NO_TIME).then_some(self.unix),
            server: None,
            client: None,
            is_known: true,
            subject: Some(subject(&self.domain)),
            evidence: Evidence::Told {
                text: self.text(),
                fields,
            },
        }
    }

    /// As one object: what, where, and what shows it.
    #[must_use]
    pub fn object(&self, interface: Option<&str>) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("kind".to_owned(), self.change.name().into());
        let time = (self.unix != Message::NO_TIME)
            .then(|| jiff::Timestamp::from_nanosecond(i128::from(self.unix)).ok())
            .flatten()
            .map(|time| time.to_string());
        object.insert("timestamp".to_owned(), time.into());
        object.insert("interface_name".to_owned(), interface.into());
        key_fields(&self.domain, &mut object);
        object.insert("message".to_owned(), self.change.text().into());
        object.append(&mut self.evidence());
        object
    }
}

/// Tells domains apart: a flood in one must not hide what happens in another.
fn subject(domain: &DomainKey) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    domain.hash(&mut hasher);
    hasher.finish()
}
