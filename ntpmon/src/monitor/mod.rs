//! The set of watched interfaces, each with options of its own. Follows what the kernel says of
//! them: an interface that goes away loses its capture, one that comes back gets a new one.
//!
//! [`Monitor`] does its work on the thread that calls it; [`control`] gives it a thread of its own,
//! and remembers across restarts what is to be watched.

pub mod control;
pub mod output_file;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use ntpmon_common::{Counters, settings::MAX_PORTS};
use serde::{Deserialize, Serialize};

use crate::{
    capture::{Capture, Drained, Mode, Prepared, Settings, Stopped},
    netlink::{self, Interface},
    ntp::{
        clock::{self, UtcOffset},
        pair,
    },
    pipeline::Host,
};

/// How one interface is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// UDP ports that are NTP, on either side.
    pub ports: Vec<u16>,
    /// How long a request waits for its response.
    #[serde(rename = "timeout_seconds", with = "seconds")]
    pub timeout: Duration,
    /// Ingress through XDP where the interface allows it.
    pub xdp: bool,
    /// Where its exchanges are written, a JSON object a line, besides being remembered.
    pub output_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: vec![123],
            timeout: Duration::from_secs(2),
            xdp: false,
            output_file: None,
        }
    }
}

impl Options {
    /// The shortest and the longest time that a request may wait.
    pub const TIMEOUTS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(3600)];

    /// The same with each port once, in order: options that mean the same are then equal.
    ///
    /// # Errors
    /// Says which of them cannot be, and what could.
    pub fn checked(mut self) -> Result<Self> {
        self.ports.sort_unstable();
        self.ports.dedup();
        ensure!(
            !self.ports.is_empty() && self.ports.len() <= MAX_PORTS,
            "{} ports are to be watched: 1 to {MAX_PORTS} can be",
            self.ports.len()
        );
        ensure!(
            !self.ports.contains(&0),
            "port 0 cannot be watched: 1 to 65535 can"
        );
        let [shortest, longest] = Self::TIMEOUTS;
        ensure!(
            (shortest..=longest).contains(&self.timeout),
            "a timeout of {} s is not between {} and {} s",
            self.timeout.as_secs_f64(),
            shortest.as_secs_f64(),
            longest.as_secs_f64()
        );
        Ok(self)
    }

    /// How the packets of the interface are paired.
    #[must_use]
    pub fn pairing(&self) -> pair::Settings {
        pair::Settings {
            timeout: u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX),
            ports: self.ports.clone(),
            ..pair::Settings::default()
        }
    }
}

/// Durations as numbers of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}

/// What is the same for every interface.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Rings, and so threads, of each interface: 1, 2 or 4.
    pub rings: usize,
    /// Bytes of each ring; rounded up to a power of two.
    pub ring_bytes: u32,
    /// Look into GRE, IP-in-IP and VXLAN.
    pub decapsulate: bool,
    /// Recognise PTP.
    pub ptp: bool,
    /// Have the programs log every NTP packet.
    pub debug: bool,
    /// Leave links and rings in the kernel when the process ends, and take over what an earlier
    /// process left.
    pub pin: bool,
}

impl Common {
    fn with(&self, options: &Options) -> Settings {
        let Self {
            rings,
            ring_bytes,
            decapsulate,
            ptp,
            debug,
            pin,
        } = *self;
        Settings {
            ports: options.ports.clone(),
            xdp: options.xdp,
            rings,
            ring_bytes,
            decapsulate,
            ptp,
            debug,
            pin,
        }
    }
}

impl Default for Common {
    fn default() -> Self {
        let Settings {
            ports: _,
            xdp: _,
            rings,
            ring_bytes,
            decapsulate,
            ptp,
            debug,
            pin,
        } = Settings::default();
        Self {
            rings,
            ring_bytes,
            decapsulate,
            ptp,
            debug,
            pin,
        }
    }
}

/// An interface that is watched, whether it exists at the moment or not.
pub struct Watched {
    options: Options,
    capture: Option<Capture>,
    since: Option<jiff::Timestamp>,
    /// What earlier captures of it counted, since then.
    earlier: Counters,
    /// As it was attached last.
    mode: String,
    /// Why it could not be captured, as it was told last.
    failure: Option<String>,
    /// What `earlier` counts is not all.
    died: bool,
}

/// Whether a watched interface is captured, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is.
    Captured,
    /// There is no such interface at the moment.
    Gone,
    /// A thread that empties its rings died: a fault of ntpmon.
    Died,
    /// It cannot be captured.
    Failed(String),
}

impl Watched {
    fn new(options: Options) -> Self {
        Self {
            options,
            capture: None,
            since: None,
            earlier: Counters::default(),
            mode: String::new(),
            failure: None,
            died: false,
        }
    }

    /// How it is to be watched.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Since when it has been watched with these options: what is counted is counted from there,
    /// also when the interface was away in between. Nothing before it was captured at all.
    #[must_use]
    pub const fn since(&self) -> Option<jiff::Timestamp> {
        self.since
    }

    /// How the programs are attached.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.capture.as_ref().map(Capture::mode)
    }

    /// Where the capture differs from what was asked, and why.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.capture.as_ref().map_or(&[], Capture::notes)
    }

    /// What the programs counted since [`Self::since`].
    ///
    /// # Errors
    /// When the kernel does not let the counters be read.
    pub fn counters(&self) -> Result<Counters> {
        let mut counters = self.earlier;
        if let Some(capture) = &self.capture {
            counters.add(&capture.counters()?);
        }
        Ok(counters)
    }

    /// Whether it is captured at this moment.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match (&self.capture, &self.failure) {
            (Some(capture), _) if capture.is_alive() => Condition::Captured,
            (Some(_), _) => Condition::Died,
            (None, Some(why)) => Condition::Failed(why.clone()),
            (None, None) => Condition::Gone,
        }
    }

    fn is_at(&self, interface: Option<&Interface>) -> bool {
        self.capture.as_ref().is_some_and(|capture| {
            capture.is_alive()
                && interface.is_some_and(|now| now.index == capture.interface().index)
        })
    }

    fn captured(&mut self, capture: Capture) {
        self.mode = capture.mode().to_string();
        self.capture = Some(capture);
        self.failure = None;
        self.since.get_or_insert_with(now);
    }

    /// Begins to capture it.
    fn take_up<C>(
        &mut self,
        interface: &Interface,
        common: &Common,
        consumer: &mut impl FnMut(&Interface, &Options) -> C,
    ) -> Option<Change>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        let settings = common.with(&self.options);
        match Capture::start(interface, &settings, || consumer(interface, &self.options)) {
            Ok(capture) => {
                self.captured(capture);
                Some(Change::Started(interface.name.clone()))
            }
            Err(error) => self.fail(&interface.name, &error),
        }
    }

    fn fail(&mut self, name: &str, error: &anyhow::Error) -> Option<Change> {
        let why = format!("{error:#}");
        let is_news = self.failure.as_ref() != Some(&why);
        self.failure = Some(why.clone());
        is_news.then(|| Change::Failed(name.to_owned(), why))
    }

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

    fn end(mut self, name: String, stop: impl FnOnce(Capture) -> Result<Stopped>) -> Ended {
        if let Some(capture) = self.capture.take() {
            self.conclude(&name, stop(capture));
        }
        Ended {
            name,
            mode: self.mode,
            counters: self.earlier,
            died: self.died,
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watched")
            .field("options", &self.options)
            .field("condition", &self.condition())
            .finish_non_exhaustive()
    }
}

fn now() -> jiff::Timestamp {
    let nanoseconds = UtcOffset::now().unix(clock::monotonic());
    // 64 bits of nanoseconds end in the year 2262, jiff's timestamps in 9999.
    jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default()
}

/// The watched interfaces and how to capture them.
#[derive(Debug)]
pub struct Monitor {
    common: Common,
    host: Host,
    watched: BTreeMap<String, Watched>,
}

/// What became of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is captured from now on.
    Started(String),
    /// It is gone; it will be captured again when it is back.
    Gone(String),
    /// A thread that emptied its rings had died: it is captured anew.
    Died(String),
    /// It is there, but could not be captured. Told again only when the reason changes.
    Failed(String, String),
}

impl Monitor {
    /// Watches nothing yet.
    #[must_use]
    pub const fn new(common: Common, host: Host) -> Self {
        Self {
            common,
            host,
            watched: BTreeMap::new(),
        }
    }

    /// Begins to watch interfaces, which must exist: all of them or none. Returns how each came to
    /// be attached.
    ///
    /// # Errors
    /// When one cannot be captured.
    pub fn start_all<C>(
        &mut self,
        interfaces: &[Interface],
        options: &Options,
        mut consumer: impl FnMut(&Interface, &Options) -> C,
    ) -> Result<Vec<(String, Mode)>>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        // Nobody takes events that wait in a pinned ring before all are attached.
        let settings = self.common.with(options);
        let prepared: Vec<Prepared> = interfaces
            .iter()
            .map(|interface| Prepared::attach(interface, &settings))
            .collect::<Result<_>>()?;
        let mut modes = Vec::new();
        for (interface, prepared) in interfaces.iter().zip(prepared) {
            let capture = prepared.run(|| consumer(interface, options))?;
            modes.push((interface.name.clone(), capture.mode()));
            let mut watched = Watched::new(options.clone());
            watched.captured(capture);
            self.watched.insert(interface.name.clone(), watched);
        }
        Ok(modes)
    }

    /// Watches an interface from now on, whether it exists or not. One that is captured with the
    /// same options already is left alone; with others, its capture is replaced, and counts anew.
    /// One that cannot be captured stays watched, and its [`Condition`] says why.
    pub fn start<C>(
        &mut self,
        name: &str,
        options: Options,
        mut consumer: impl FnMut(&Interface, &Options) -> C,
    ) -> Option<Change>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        if self.get(name).is_some_and(|it| it.options != options) {
            self.stop_for_others(name);
        }
        let watched = self
            .watched
            .entry(name.to_owned())
            .or_insert_with(|| Watched::new(options));
        let interfaces = self
            .host
            .refresh_addresses()
            .and_then(|()| netlink::interfaces());
        let interfaces = match interfaces {
            Ok(interfaces) => interfaces,
            Err(error) => return watched.fail(name, &error),
        };
        let now = interfaces.iter().find(|interface| interface.name == name);
        if watched.is_at(now) {
            return None;
        }
        // Away, or dead: what it counted so far still counts.
        if let Some(capture) = watched.capture.take() {
            watched.conclude(name, capture.stop());
        }
        watched.take_up(now?, &self.common, &mut consumer)
    }

    /// Watches an interface no longer: nothing of it stays in the kernel, pinned or not. Says what
    /// became of it, if it was watched.
    pub fn stop(&mut self, name: &str) -> Option<Ended> {
        let watched = self.watched.remove(name)?;
        Some(watched.end(name.to_owned(), Capture::abandon))
    }

    /// Ends an interface's capture so that another can take its place: what is pinned stays, and
    /// is taken over.
    fn stop_for_others(&mut self, name: &str) {
        if let Some(watched) = self.watched.remove(name) {
            watched.end(name.to_owned(), Capture::stop);
        }
    }

    /// A watched interface.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Watched> {
        self.watched.get(name)
    }

    /// Every watched interface, by name.
    pub fn watched(&self) -> impl Iterator<Item = (&str, &Watched)> {
        let named = self.watched.iter();
        named.map(|(name, watched)| (name.as_str(), watched))
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
        mut consumer: impl FnMut(&Interface, &Options) -> C,
    ) -> Result<Vec<Change>>
    where
        C: FnMut(Drained<'_>) + Send + 'static,
    {
        self.host.refresh_addresses()?;
        let interfaces = netlink::interfaces()?;
        let mut changes = Vec::new();
        for (name, watched) in &mut self.watched {
            let now = interfaces.iter().find(|interface| &interface.name == name);
            if let Some(capture) = watched.capture.take() {
                let index = capture.interface().index;
                let there = !deleted.contains(&index) && now.is_some_and(|now| now.index == index);
                let alive = capture.is_alive();
                if there && alive {
                    watched.failure = None;
                    watched.capture = Some(capture);
                    continue;
                }
                // What is in the rings is still taken. Links of one that is gone went with it.
                if there {
                    watched.conclude(name, capture.stop());
                    changes.push(Change::Died(name.clone()));
                } else {
                    watched.conclude(name, capture.abandon());
                    changes.push(Change::Gone(name.clone()));
                }
            }
            let Some(interface) = now else {
                watched.failure = None;
                continue;
            };
            changes.extend(watched.take_up(interface, &self.common, &mut consumer));
        }
        Ok(changes)
    }

    /// Stops every capture, takes what is left in the rings, and says what became of each. What is
    /// pinned stays.
    #[must_use]
    pub fn stop_all(self) -> Vec<Ended> {
        self.watched
            .into_iter()
            .map(|(name, watched)| watched.end(name, Capture::stop))
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

    #[test]
    fn options_that_mean_the_same_are_equal_and_impossible_ones_are_refused() {
        let with = |ports: &[u16], timeout| Options {
            ports: ports.to_vec(),
            timeout: Duration::from_secs_f64(timeout),
            ..Options::default()
        };
        assert_eq!(
            with(&[1123, 123, 123], 2.0).checked().unwrap(),
            with(&[123, 1123], 2.0)
        );
        for (wrong, complaint) in [
            (with(&[], 2.0), "0 ports"),
            (with(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 2.0), "9 ports"),
            (with(&[0], 2.0), "port 0"),
            (with(&[123], 0.0), "0 s is not between 0.001 and 3600"),
            (with(&[123], 3601.0), "3601 s"),
        ] {
            let error = wrong.checked().unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn options_come_back_from_json_as_they_were() {
        let options = Options {
            ports: vec![123, 1123],
            timeout: Duration::from_nanos(1_234_567_891),
            xdp: true,
            output_file: Some("eth0.json".into()),
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
        let negative = text.replace("1.234567891", "-1.0");
        assert!(serde_json::from_str::<Options>(&negative).is_err());
    }

    fn interface(name: &str, index: u32, master: Option<u32>, below: Option<u32>) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            link_layer: 1,
            loopback: false,
            running: true,
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
