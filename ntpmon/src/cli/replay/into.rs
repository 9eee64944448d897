//! `ntpmon replay --into`: exchanges of capture files into a daemon's history, by the same code that
//! the daemon folds live ones with.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Interfaces, Target};
use crate::{
    data_directory::DataDirectory,
    history::{Feed, History, Settings},
    ntp::{
        exchange::Exchange,
        pair::{Outcome, Totals},
    },
    pipeline::Sink,
};

/// A history that is being loaded, which nobody else may have open.
pub(super) struct Loading {
    history: History,
    /// By the number that this run gave to the interface.
    feeds: HashMap<u32, Feed>,
    /// What to call an interface that the file has no name for.
    unnamed: String,
    /// The interface and the minute of the last packet: what is counted until they change is
    /// theirs.
    current: Option<(u32, i64)>,
    /// When the last packet was, in nanoseconds since 1970.
    last: i64,
    exchanges: u64,
    begun: Instant,
    _directory: DataDirectory,
}

/// Exchanges between two looks whether there is enough to be written.
const LOOKS: u64 = 1024;

impl Loading {
    /// Opens the history in a data directory, which is made if it is not there.
    pub(super) fn open(directory: &Path, settings: Settings, unnamed: &str) -> Result<Self> {
        let taken = DataDirectory::open(directory)?;
        let settings = Settings {
            // A file is read faster than it was written: its sessions are bounded by age and size
            // alone, and written when there are enough of them.
            sessions_per_second: usize::MAX,
            // Only when there is much, and at the end: nobody waits for it.
            flush_interval: Duration::from_secs(60),
            ..settings
        };
        let history = History::open(taken.path(), settings)
            .with_context(|| format!("opening the history in {}", directory.display()))?;
        Ok(Self {
            history,
            feeds: HashMap::new(),
            unnamed: unnamed.to_owned(),
            current: None,
            last: 0,
            exchanges: 0,
            begun: Instant::now(),
            _directory: taken,
        })
    }

    fn feed(&mut self, interface: u32, interfaces: &Interfaces) -> &mut Feed {
        let (history, unnamed) = (&self.history, &self.unnamed);
        self.feeds
            .entry(interface)
            .or_insert_with(|| history.feed(interfaces.name(interface).unwrap_or(unnamed)))
    }

    /// Waits for the writer: it is told too when a feed is full, but a file is read faster.
    fn write_if_full(&self) -> Result<()> {
        if self.feeds.values().any(Feed::is_full) {
            self.history.flush().context("writing the history")?;
        }
        Ok(())
    }

    fn publish(&mut self, totals: &Totals, interfaces: &Interfaces) {
        if let Some((interface, _)) = self.current {
            let last = self.last;
            self.feed(interface, interfaces).publish(totals, last);
        }
    }

    /// Writes what is left. Returns what was loaded, in words.
    pub(super) fn finish(mut self, totals: &Totals, interfaces: &Interfaces) -> Result<String> {
        self.publish(totals, interfaces);
        self.history.checkpoint().context("writing the history")?;
        let statistics = self.history.service_statistics();
        self.history.stop();
        Ok(format!(
            "{} exchanges loaded in {:.1} s; the history has {} clients and {} servers now",
            self.exchanges,
            self.begun.elapsed().as_secs_f64(),
            statistics.client_count,
            statistics.server_count,
        ))
    }
}

impl Target for Loading {
    fn take(&mut self, exchange: Exchange, interfaces: &Interfaces) -> Result<()> {
        let interface = exchange.request.event.interface;
        let feed = self.feed(interface, interfaces);
        feed.exchange(&exchange);
        self.exchanges += 1;
        if self.exchanges.is_multiple_of(LOOKS) {
            self.write_if_full()?;
        }
        Ok(())
    }

    fn other(&mut self, outcome: &Outcome<'_>, interfaces: &Interfaces) {
        if let Outcome::Control(packet) | Outcome::Private(packet) = outcome {
            let interface = packet.event.interface;
            self.feed(interface, interfaces).other(outcome);
        }
    }

    fn packet(
        &mut self,
        interface: u32,
        unix: i64,
        totals: &Totals,
        interfaces: &Interfaces,
    ) -> Result<()> {
        let place = (interface, unix.div_euclid(60_000_000_000));
        if self.current != Some(place) {
            // Before this packet is counted.
            self.publish(totals, interfaces);
            self.feed(interface, interfaces).resume(totals);
            self.current = Some(place);
            // A minute may have few packets, and what is folded has room for few minutes.
            self.write_if_full()?;
        }
        self.last = unix;
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::history::{
        made::{BEGIN, SECOND, ask},
        rollup::{Count, Resolution},
    };

    #[test]
    fn of_a_file_with_one_packet_a_minute_each_is_counted_in_its_own() {
        const MINUTES: i64 = 500;
        let directory = TempDir::new().unwrap();
        let mut loading = Loading::open(directory.path(), Settings::default(), "file").unwrap();
        let mut interfaces = Interfaces::default();
        interfaces.number(0, None);
        let mut totals = Totals::default();
        for minute in 0..MINUTES {
            let at = BEGIN + minute * 60 * SECOND;
            loading.packet(0, at, &totals, &interfaces).unwrap();
            totals.requests += 1;
            loading.take(ask(7, at).exchange(), &interfaces).unwrap();
        }
        loading.finish(&totals, &interfaces).unwrap();
        let history = History::open(directory.path(), Settings::default()).unwrap();
        let rollups = history
            .rollups(None, Resolution::Minute, i64::MIN..=i64::MAX, 1000)
            .unwrap();
        assert_eq!(rollups.len() as i64, MINUTES);
        for rollup in &rollups {
            for count in [Count::exchanges, Count::requests] {
                assert_eq!(rollup.activity.counts[count.name()], 1, "{}", rollup.start);
            }
        }
        history.stop();
    }
}
