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
    /// A reload was asked for while only an end was waited for.
    reload_waits: bool,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let catch = |kind| unix::signal(kind).context("catching signals");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            on_terminal: stdin().is_terminal(),
            reload_waits: false,
        })
    }

    /// The next. As long as a reload is under way only one that ends: another reload comes after it.
    pub(super) async fn next(&mut self, reloading: bool) -> Received {
        if reloading {
            return Received::End(self.next_end().await);
        }
        if std::mem::take(&mut self.reload_waits) {
            return Received::Reload;
        }
        self.caught().await
    }

    async fn caught(&mut self) -> Received {
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

    /// The next that ends. A reload that is asked for meanwhile is what [`Self::next`] gives first.
    pub(super) async fn next_end(&mut self) -> Ending {
        loop {
            match self.caught().await {
                Received::End(ending) => return ending,
                Received::Reload => self.reload_waits = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_reload_that_is_asked_for_during_the_start_or_another_comes_after_it() {
        let mut signals = Signals::new().unwrap();
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(10));
        for starting in [true, false] {
            kill_process(getpid(), Signal::HUP).unwrap();
            let ended = if starting {
                timeout(short, signals.next_end()).await.err()
            } else {
                timeout(short, signals.next(true)).await.err()
            };
            assert!(ended.is_some());
            let next = timeout(long, signals.next(false)).await;
            assert_eq!(next.unwrap(), Received::Reload);
            // Once.
            assert!(timeout(short, signals.next(false)).await.is_err());
        }
    }
}
