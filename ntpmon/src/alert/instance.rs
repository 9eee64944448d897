//! One alert: of which rule and what, where it is in its life, who was told and who has it. It is
//! kept whole, with its rule, so that it can be ended properly when that is gone.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    matcher::Labels,
    notice::Notice,
    quantity::{Quantity, Unit},
    rule::{Rule, Severity},
    state::{Life, State, Telling, Transition},
};

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its number; each time that it begins to be bad it is another one.
    pub id: u64,
    /// Its rule, as it was when the alert was looked at last.
    pub rule: Rule,
    /// Of what.
    pub labels: Labels,
    /// Where it is.
    pub life: Life,
    /// Who has it.
    pub acknowledgement: Option<Acknowledgement>,
    /// Where it was told.
    pub told: Vec<String>,
    /// What else there is to say.
    pub message: Option<String>,
}

/// Somebody has an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    /// Who.
    pub by: String,
    /// What they say.
    pub comment: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Until when; until it is over unless said otherwise.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// An alert as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct View {
    /// Its number; each time that it begins to be bad it is another one.
    pub id: u64,
    /// Its rule.
    pub rule: String,
    /// What that is on.
    #[schema(value_type = String)]
    pub quantity: Quantity,
    /// What values of it are measured in.
    pub unit: Unit,
    /// Whether it is about missing data.
    pub no_data: bool,
    /// Where it is.
    pub state: State,
    /// How bad it is.
    pub severity: Severity,
    /// Of what.
    pub labels: Labels,
    /// The last value there was.
    pub value: Option<f64>,
    /// The level of the severity.
    pub level: Option<f64>,
    /// When it began to be bad.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub began: Option<Timestamp>,
    /// When it fired.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub fired: Option<Timestamp>,
    /// When it was over.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resolved: Option<Timestamp>,
    /// Who has it.
    pub acknowledgement: Option<Acknowledgement>,
    /// The silences that keep it from being told.
    pub silences: Vec<String>,
    /// The sinks where it was told.
    pub told: Vec<String>,
    /// What else there is to say.
    pub message: Option<String>,
}

/// Something that became of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// Its place in the order.
    pub number: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The alert's number.
    pub alert_id: u64,
    /// Its rule.
    pub rule: String,
    /// Of what.
    pub labels: Labels,
    /// What became of it.
    pub event: Event,
    /// How bad it is.
    pub severity: Severity,
    /// The value, if there is one.
    pub value: Option<f64>,
    /// What else there is to say.
    pub message: Option<String>,
}

/// What becomes of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It fired.
    Fired,
    /// It became critical.
    Escalated,
    /// It is not critical any more.
    Eased,
    /// It is over.
    Resolved,
    /// Somebody has it.
    Acknowledged,
}

impl Event {
    /// What is worth remembering: that something was bad for a moment is not.
    pub(super) const fn of(transition: Transition) -> Option<Self> {
        match transition {
            Transition::Pending | Transition::Calmed => None,
            Transition::Fired => Some(Self::Fired),
            Transition::Escalated => Some(Self::Escalated),
            Transition::Eased => Some(Self::Eased),
            Transition::Resolved => Some(Self::Resolved),
        }
    }
}

impl Alert {
    pub(super) fn new(rule: &Rule, labels: Labels) -> Self {
        Self {
            id: 0,
            rule: rule.clone(),
            labels,
            life: Life::default(),
            acknowledgement: None,
            told: Vec::new(),
            message: None,
        }
    }

    /// It begins to be bad: another one than before.
    pub(super) fn begin(&mut self, id: u64) {
        self.id = id;
        self.acknowledgement = None;
        self.told.clear();
    }

    /// Whether somebody has it now.
    pub(super) fn is_acknowledged(&self, now: Timestamp) -> bool {
        let until = self.acknowledgement.as_ref().map(|it| it.until);
        until.is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// Its labels, with those that its rule adds and the host's name.
    pub(super) fn all_labels(&self, host: &str) -> Labels {
        let mut labels = self.labels.clone();
        labels.insert("host".to_owned(), host.to_owned());
        labels.extend(self.rule.labels.clone());
        labels
    }

    /// The labels that silences look at.
    pub(super) fn silenced_labels(&self, host: &str) -> Labels {
        let mut labels = self.all_labels(host);
        labels.insert("alertname".to_owned(), self.rule.name.clone());
        labels.insert("severity".to_owned(), self.life.severity.name().to_owned());
        labels
    }

    /// What is told of it, as this bad.
    pub(super) fn notice(
        &self,
        event: Telling,
        severity: Severity,
        host: &str,
        now: Timestamp,
    ) -> Notice {
        let life = &self.life;
        Notice {
            event,
            alert: self.id,
            rule: self.rule.name.clone(),
            quantity: self.rule.quantity,
            no_data: self.rule.no_data,
            severity,
            labels: self.all_labels(host),
            value: life.value.filter(|_| !self.rule.no_data),
            level: self.rule.level(severity),
            direction: self.rule.direction(),
            began: life.began,
            fired: life.fired.unwrap_or(now),
            resolved: life.resolved,
            message: self.message.clone(),
        }
    }

    pub(super) fn record(&self, number: u64, event: Event, now: Timestamp) -> Record {
        Record {
            number,
            time: now,
            alert_id: self.id,
            rule: self.rule.name.clone(),
            labels: self.labels.clone(),
            event,
            severity: self.life.severity,
            value: self.life.value,
            message: match event {
                Event::Acknowledged => self.acknowledgement.as_ref().map(|it| {
                    let comment = match it.comment.as_str() {
                        "" => String::new(),
                        comment => format!(": {comment}"),
                    };
                    format!("by {}{comment}", it.by)
                }),
                _ => self.message.clone(),
            },
        }
    }

    pub(super) fn view(&self, silences: Vec<String>) -> View {
        let (rule, life) = (&self.rule, &self.life);
        View {
            id: self.id,
            rule: rule.name.clone(),
            quantity: rule.quantity,
            unit: rule.quantity.facts().unit,
            no_data: rule.no_data,
            state: life.state,
            severity: life.severity,
            labels: self.labels.clone(),
            value: life.value,
            level: rule.level(life.severity),
            began: life.began,
            fired: life.fired,
            resolved: life.resolved,
            acknowledgement: self.acknowledgement.clone(),
            silences,
            told: self.told.clone(),
            message: self.message.clone(),
        }
    }
}
