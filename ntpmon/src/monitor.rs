//! The set of watched interfaces. Follows what the kernel says of them: an interface that goes
//! away loses its capture, one that comes back gets a new one.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use anyhow::Result;
use ntpmon_common::Counters;

use crate::{
    capture::{Capture, Drained, Settings},
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
    /// It is there, but could not be captured.
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

    /// Begins to watch an interface, which must exist.
    ///
    /// # Errors
    /// When it cannot be captured.
    pub fn start<C>(
        &mut self,
        interface: &Interface,
        consumer: impl FnMut() -> C,
    ) -> Result<&Capture>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        let capture = Capture::start(interface, &self.settings, consumer)?;
        let watched = self
            .watched
            .entry(interface.name.clone())
            .or_insert_with(|| Watched {
                capture: None,
                earlier: Counters::default(),
                mode: String::new(),
            });
        watched.mode = capture.mode().to_string();
        Ok(watched.capture.insert(capture))
    }

    /// Brings the captures in line with the interfaces that there are. Called whenever
    /// [`netlink::Changes`] has something to tell.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn follow<C>(&mut self, mut consumer: impl FnMut(&Interface) -> C) -> Result<Vec<Change>>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        self.addresses.refresh()?;
        let interfaces = netlink::interfaces()?;
        let mut changes = Vec::new();
        for (name, watched) in &mut self.watched {
            let now = interfaces.iter().find(|interface| &interface.name == name);
            let same =
                |capture: &Capture| now.is_some_and(|now| now.index == capture.interface().index);
            if watched.capture.as_ref().is_some_and(same) {
                continue;
            }
            if let Some(gone) = watched.capture.take() {
                // Its links went with it; what is in the rings is still taken.
                match gone.stop() {
                    Ok(counters) => watched.earlier.add(&counters),
                    Err(error) => tracing::warn!("{name} is gone: {error:#}"),
                }
                changes.push(Change::Gone(name.clone()));
            }
            let Some(interface) = now else {
                continue;
            };
            match Capture::start(interface, &self.settings, || consumer(interface)) {
                Ok(capture) => {
                    watched.mode = capture.mode().to_string();
                    watched.capture = Some(capture);
                    changes.push(Change::Started(name.clone()));
                }
                Err(error) => changes.push(Change::Failed(name.clone(), format!("{error:#}"))),
            }
        }
        Ok(changes)
    }

    /// Stops every capture, takes what is left in the rings, and says what each interface's
    /// programs counted and how they were attached.
    #[must_use]
    pub fn stop(self) -> Vec<(String, String, Counters)> {
        self.watched
            .into_iter()
            .map(|(name, watched)| {
                let mut counters = watched.earlier;
                match watched.capture.map(Capture::stop) {
                    Some(Ok(last)) => counters.add(&last),
                    Some(Err(error)) => tracing::error!("{name}: {error:#}"),
                    None => {}
                }
                (name, watched.mode, counters)
            })
            .collect()
    }
}

/// Pairs of watched interfaces that the same packet can pass, one after the other: a bridge or
/// bond and its port, an interface and what stands on it.
#[must_use]
pub fn overlaps<'a>(all: &'a [Interface], watched: &[Interface]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for interface in all.iter().filter(|interface| watched.contains(interface)) {
        for other in all.iter().filter(|other| watched.contains(other)) {
            if interface.master == Some(other.index) || interface.below == Some(other.index) {
                found.push((interface.name.as_str(), other.name.as_str()));
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
            up: true,
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
        assert_eq!(overlaps(&all, &all), [("eth0", "br0"), ("vlan1", "eth1")]);
        assert_eq!(overlaps(&all, &[all[0].clone(), all[2].clone()]), []);
    }
}
