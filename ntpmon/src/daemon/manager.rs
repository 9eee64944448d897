//! What the service manager is told: systemd's protocol, where there is a systemd that asked for
//! it, and nothing anywhere else.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    pub(super) fn of_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().filter(|it| !it.is_zero()),
        }
    }

    /// How often it waits for [`Self::alive`]: twice in the time after which it gives up.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|it| it / 2)
    }

    pub(super) fn starting(&self) {
        tell(&[NotifyState::Status("starting")]);
    }

    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub(super) fn reloading(&self) {
        let status = NotifyState::Status("reloading");
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now, status]),
            Err(error) => tracing::warn!(%error, "reading the clock for the service manager"),
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// All is well.
    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "telling the service manager");
    }
}
