//! The set of watched interfaces. Follows what the kernel says of them: an interface that goes
//! away loses its capture, one that comes back gets a new one.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use anyhow::Result;
use ntpmon_common::Counters;

use crate::{
    capture::{Capture, Drained, Mode, Prepared, Settings, Stopped},
    netlink::{self, Interface},
    ntp::exchange::LocalAddresses,
};

/// The host's addresses, as they are now. Who works with packets takes a copy for each batch.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<RwLock<Arc<LocalAddresses>>>);

impl Addresses {
    /// The addresses at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<LocalAddresses> {
        match self.0.read() {
            Ok(addresses) => Arc::clone(&addresses),
            // A writer only swaps a pointer: what it left is whole.
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }

    /// Asks the kernel again.
    ///
    /// # Errors
    /// When the kernel does not answer; the addresses stay as they were.
    pub fn refresh(&self) -> Result<()> {
        let addresses = Arc::new(netlink::addresses()?);
        match self.0.write() {
            Ok(mut current) => *current = addresses,
            Err(poisoned) => *poisoned.into_inner() = addresses,
        }
        Ok(())
    }
}

/// An interface that is watched, whether it exists at the moment or not.
struct Watched {
    capture: Option<Capture>,
    /// What earlier captures of it counted.
    earlier: Counters,
    /// As it was attached last.
    mode: String,
    /// Why it could not be captured, as it was told last.
    failure: Option<String>,
    /// What `earlier` counts is not all.
    died: bool,
}

/// The watched interfaces and how to capture them.
pub struct Monitor {
    settings: Settings,
    addresses: Addresses,
    watched: BTreeMap<String, Watched>,
}

/// What became of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is captured from now on.
    Started(String),
    /// It is gone; it will be captured again when it is back.
    Gone(String),
    /// It is there, but could not be captured. Told again only when the reason changes.
    Failed(String, String),
}

impl Monitor {
    /// Watches nothing yet.
    #[must_use]
    pub const fn new(settings: Settings, addresses: Addresses) -> Self {
        Self {
            settings,
            addresses,
            watched: BTreeMap::new(),
        }
    }

    /// Begins to watch interfaces, which must exist: all of them or none. Returns how each came to
    /// be attached.
    ///
    /// # Errors
    /// When one cannot be captured.
    pub fn start<C>(
        &mut self,
        interfaces: &[Interface],
        mut consumer: impl FnMut(&Interface) -> C,
    ) -> Result<Vec<(String, Mode)>>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        // Nobody takes events that wait in a pinned ring before all are attached.
        let prepared: Vec<Prepared> = interfaces
            .iter()
            .map(|interface| Prepared::attach(interface, &self.settings))
            .collect::<Result<_>>()?;
        let mut modes = Vec::new();
        for (interface, prepared) in interfaces.iter().zip(prepared) {
            let capture = prepared.run(|| consumer(interface))?;
            modes.push((interface.name.clone(), capture.mode()));
            let watched = Watched {
                mode: capture.mode().to_string(),
                capture: Some(capture),
                earlier: Counters::default(),
                failure: None,
                died: false,
            };
            self.watched.insert(interface.name.clone(), watched);
        }
        Ok(modes)
    }

    /// Whether an interface could not be captured, so that [`Self::follow`] should be called again
    /// even if nothing changes.
    #[must_use]
    pub fn must_retry(&self) -> bool {
        self.watched.values().any(|watched| {
            watched.failure.is_some()
                || watched
                    .capture
                    .as_ref()
                    .is_some_and(|capture| !capture.is_alive())
        })
    }

    /// Brings the captures in line with the interfaces that there are. Called whenever
    /// [`netlink::Changes`] has something to tell, with the indices that it says were deleted.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn follow<C>(
        &mut self,
        deleted: &[u32],
        mut consumer: impl FnMut(&Interface) -> C,
    ) -> Result<Vec<Change>>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        self.addresses.refresh()?;
        let interfaces = netlink::interfaces()?;
        let mut changes = Vec::new();
        for (name, watched) in &mut self.watched {
            let now = interfaces.iter().find(|interface| &interface.name == name);
            let same = |capture: &Capture| {
                let index = capture.interface().index;
                capture.is_alive()
                    && !deleted.contains(&index)
                    && now.is_some_and(|now| now.index == index)
            };
            if watched.capture.as_ref().is_some_and(same) {
                continue;
            }
            if let Some(gone) = watched.capture.take() {
                // Its links went with it; what is in the rings is still taken.
                watched.conclude(name, gone.abandon());
                changes.push(Change::Gone(name.clone()));
            }
            let Some(interface) = now else {
                watched.failure = None;
                continue;
            };
            match Capture::start(interface, &self.settings, || consumer(interface)) {
                Ok(capture) => {
                    watched.mode = capture.mode().to_string();
                    watched.capture = Some(capture);
                    watched.failure = None;
                    changes.push(Change::Started(name.clone()));
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if watched.failure.as_ref() != Some(&why) {
                        changes.push(Change::Failed(name.clone(), why.clone()));
                        watched.failure = Some(why);
                    }
                }
            }
        }
        Ok(changes)
    }

    /// Stops every capture, takes what is left in the rings, and says what became of each.
    #[must_use]
    pub fn stop(self) -> Vec<Ended> {
        self.watched
            .into_iter()
            .map(|(name, mut watched)| {
                if let Some(capture) = watched.capture.take() {
                    watched.conclude(&name, capture.stop());
                }
                Ended {
                    name,
                    mode: watched.mode,
                    counters: watched.earlier,
                    died: watched.died,
                }
            })
            .collect()
    }
}

/// What an interface's captures came to.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The interface.
    pub name: String,
    /// How it was attached last.
    pub mode: String,
    /// What the programs counted in all.
    pub counters: Counters,
    /// A thread died, or counters could not be read: the totals do not hold all.
    pub died: bool,
}

impl Watched {
    fn conclude(&mut self, name: &str, stopped: Result<Stopped>) {
        match stopped {
            Ok(stopped) => {
                self.earlier.add(&stopped.counters);
                self.died |= stopped.died;
                if stopped.died {
                    tracing::error!("{name}: a thread that empties the rings had died");
                }
            }
            Err(error) => {
                self.died = true;
                tracing::error!("{name}: {error:#}");
            }
        }
    }
}

/// Pairs of watched interfaces that the same packet can pass, one after the other: a bridge or
/// bond and its port, an interface and what stands on it, however many lie between, the two ends of
/// a veth pair.
#[must_use]
pub fn overlaps<'a>(all: &'a [Interface], watched: &[Interface]) -> Vec<(&'a str, &'a str)> {
    let is_watched = |interface: &Interface| watched.iter().any(|it| it.index == interface.index);
    let mut found = Vec::new();
    for interface in all.iter().filter(|interface| is_watched(interface)) {
        // All that a packet which comes in here goes on to.
        let mut above = vec![interface];
        let mut next = 0;
        while let Some(&from) = above.get(next) {
            next += 1;
            for other in all {
                let on_top = from.master == Some(other.index) || other.below == Some(from.index);
                if on_top && !above.contains(&other) {
                    above.push(other);
                }
            }
        }
        for other in above.into_iter().skip(1) {
            let pair = (interface.name.as_str(), other.name.as_str());
            // A veth's end stands on the other, and that on it.
            if is_watched(other) && !found.contains(&(pair.1, pair.0)) {
                found.push(pair);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, master: Option<u32>, below: Option<u32>) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            link_layer: 1,
            loopback: false,
            xdp_program: None,
            master,
            below,
        }
    }

    #[test]
    fn a_bridge_and_its_port_overlap_and_strangers_do_not() {
        let all = [
            interface("eth0", 1, Some(2), None),
            interface("br0", 2, None, None),
            interface("eth1", 3, None, None),
            interface("vlan1", 4, None, Some(3)),
        ];
        assert_eq!(overlaps(&all, &all), [("eth0", "br0"), ("eth1", "vlan1")]);
        assert_eq!(overlaps(&all, &[all[0].clone(), all[2].clone()]), []);
    }

    #[test]
    fn an_overlap_is_found_through_what_is_not_watched_and_told_once() {
        let all = [
            interface("eth0", 1, Some(2), None),
            interface("bond0", 2, None, None),
            interface("bond0.7", 3, None, Some(2)),
            interface("bond0.8", 4, None, Some(2)),
            interface("veth0", 5, None, Some(6)),
            interface("veth1", 6, None, Some(5)),
        ];
        let watching = |names: &[&str]| {
            all.iter()
                .filter(|interface| names.contains(&interface.name.as_str()))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            overlaps(&all, &watching(&["eth0", "bond0.7", "bond0.8"])),
            [("eth0", "bond0.7"), ("eth0", "bond0.8")]
        );
        assert_eq!(
            overlaps(&all, &watching(&["bond0.7", "bond0.8", "veth0"])),
            []
        );
        assert_eq!(
            overlaps(&all, &watching(&["veth0", "veth1"])),
            [("veth0", "veth1")]
        );
    }
}
