//! `ntpmon run`: the daemon.

use anyhow::Result;

use super::config::Settings;
use crate::daemon;

/// Watch NTP, remember it, and serve what is known over HTTP: the daemon
///
/// Needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; without, it serves what
/// it remembers and captures nothing. Ends on Ctrl-C or SIGTERM within 5 seconds; SIGHUP makes it
/// read its configuration again.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    settings: Settings,
}

impl Run {
    pub(super) fn run(self) -> Result<()> {
        daemon::run(self.settings.sources()?)
    }
}
