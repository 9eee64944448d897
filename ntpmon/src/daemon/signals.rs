//! The signals that a daemon obeys, as what they ask for.

use std::{
    fmt,
    io::{IsTerminal, stdin},
};

use anyhow::{Context, Result};
use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// To read the configuration again.
    Reload,
    /// To end.
    End(Ending),
}

/// A signal that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Interrupt,
    Terminate,
    /// The terminal, or the connection that it was on, is gone.
    Hangup,
}

impl Ending {
    /// What shells make of a process that a signal ended.
    pub(super) const fn exit_code(self) -> i32 {
        128 + match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "asked to end",
            Self::Hangup => "the terminal is gone",
        })
    }
}

/// Catches them as long as it lives.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    /// Whether it was started by hand.
    on_terminal: bool,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let catch = |kind| unix::signal(kind).context("catching signals");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            on_terminal: stdin().is_terminal(),
        })
    }

    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::End(Ending::Interrupt),
            _ = self.terminate.recv() => Received::End(Ending::Terminate),
            // Whoever manages the daemon asks for a reload; whoever closed its terminal wants it
            // no more.
            _ = self.hangup.recv() => {
                if self.on_terminal && !stdin().is_terminal() {
                    Received::End(Ending::Hangup)
                } else {
                    Received::Reload
                }
            }
        }
    }

    /// The next that ends.
    pub(super) async fn next_end(&mut self) -> Ending {
        loop {
            if let Received::End(ending) = self.next().await {
                return ending;
            }
        }
    }
}
