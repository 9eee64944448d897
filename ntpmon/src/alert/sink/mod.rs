//! Where alerts are told. A sink takes a message and says whether it arrived; that it is tried again,
//! in order and after a restart, is the [outbox](crate::outbox)'s. Delivering blocks, for as long as
//! the sink's timeout lets it.

mod alertmanager;
mod command;
mod definition;
mod email;
mod http;
mod robots;
pub mod secret;
mod template;
mod webhook;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use self::{
    definition::{Definition, Kind, MailTls},
    template::check as check_template,
    webhook::{ID_HEADER, SIGNATURE_HEADER},
};
use super::notice::Notice;
use crate::outbox::{Entry, Failure};

/// So often a message may be refused that may yet be taken, by a robot or for one of its recipients:
/// about 8 minutes, so that those after it do not wait for a day.
const REFUSALS: u32 = 10;

impl Definition {
    /// Delivers what the outbox has for it.
    ///
    /// # Errors
    /// Says why it did not arrive.
    pub fn deliver(&self, entry: &Entry) -> Result<(), Failure> {
        let notices: Vec<Notice> = serde_json::from_str(&entry.body)
            .map_err(|error| Failure::for_good(format!("it cannot be read any more: {error}")))?;
        self.send(&notices, &entry.id, Timestamp::now())
    }

    /// Sends messages, which have this id together. Blocking.
    ///
    /// # Errors
    /// Says why they did not arrive.
    pub fn send(&self, notices: &[Notice], id: &str, now: Timestamp) -> Result<(), Failure> {
        if self.kind == Kind::Alertmanager {
            return alertmanager::deliver(self, notices, now);
        }
        for notice in notices {
            match self.kind {
                Kind::Webhook => webhook::deliver(self, notice, id)?,
                Kind::Email => email::deliver(self, notice, id)?,
                Kind::Command => command::deliver(self, notice, id)?,
                Kind::Log => log(self, notice),
                Kind::Dingtalk | Kind::Feishu | Kind::Wecom | Kind::Slack => {
                    robots::deliver(self, notice, now)?;
                }
                Kind::Alertmanager => {}
            }
        }
        Ok(())
    }
}

fn log(sink: &Definition, notice: &Notice) {
    let title = notice.title(sink.language);
    let labels: Vec<_> = notice
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let labels = labels.join(" ");
    if notice.state() == "firing" {
        tracing::error!("alert {}: {title} ({labels})", notice.alert);
    } else {
        tracing::info!("alert {}: {title} ({labels})", notice.alert);
    }
}
