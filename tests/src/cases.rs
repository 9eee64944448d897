//! The cases that the daemons play: who asks whom, how, and what they count themselves. The same
//! cases are recorded into `tests/captures` and watched live by the tests.

use std::time::Duration;

use anyhow::Result;

use crate::{
    chrony::{Client, ServerStatistics},
    daemons::{Certificate, Chronyd, Ntpsec, Openntpd, ntpdate, ntpdig, ntpq},
    frames::Tag,
    link::TunLink,
    namespace::{Namespace, Pair},
    process::wait_for,
    tcpdump,
};

/// How long a case may take beyond its polls.
const PATIENCE: Duration = Duration::from_secs(60);

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A chrony client polls a chrony server over IPv4.
    Plain,
    /// The same over IPv6.
    Ipv6,
    /// The same in the interleaved mode.
    Xleave,
    /// Two chronyds are each other's peers.
    Symmetric,
    /// A chrony server broadcasts, over IPv4 and IPv6.
    Broadcast,
    /// An NTPsec server tells a chrony client to ask less often.
    Kod,
    /// A chrony client polls a chrony server with NTS.
    Nts,
    /// `ntpq` questions an NTPsec server.
    Control,
    /// `ntpdate -q` asks a chrony server.
    Ntpdate,
    /// NTPsec's sntp, ntpdig, asks a chrony server, over IPv4 and IPv6.
    Sntp,
    /// OpenNTPD polls a chronyd, and is polled by it.
    Openntpd,
    /// NTPsec's ntpd and a chrony client poll an NTPsec server.
    Ntpsec,
    /// Plain, over tun devices.
    Tun,
    /// Plain, in frames with one tag.
    Vlan,
    /// Plain, in frames with two tags.
    Qinq,
}

/// The hosts of a case, and nothing sent yet: start what shall watch, then [`Stage::play`].
#[derive(Debug)]
pub struct Stage {
    case: Case,
    hosts: Hosts,
}

#[derive(Debug)]
enum Hosts {
    Pair(Pair),
    Link(TunLink),
}

/// What was played, as the daemons count it.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// What the chrony server counted, where there is one.
    pub server: Option<ServerStatistics>,
    /// Whom it served.
    pub clients: Vec<Client>,
    /// The chrony client's `measurements.log`, where there is a client.
    pub measurements: Option<String>,
    /// How often a daemon or tool reported an answer, where nothing else counts.
    pub answers: Option<u64>,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Plain,
        Self::Ipv6,
        Self::Xleave,
        Self::Symmetric,
        Self::Broadcast,
        Self::Kod,
        Self::Nts,
        Self::Control,
        Self::Ntpdate,
        Self::Sntp,
        Self::Openntpd,
        Self::Ntpsec,
        Self::Tun,
        Self::Vlan,
        Self::Qinq,
    ];

    /// Its name: that of its capture file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ipv6 => "ipv6",
            Self::Xleave => "xleave",
            Self::Symmetric => "symmetric",
            Self::Broadcast => "broadcast",
            Self::Kod => "kod",
            Self::Nts => "nts",
            Self::Control => "control",
            Self::Ntpdate => "ntpdate",
            Self::Sntp => "sntp",
            Self::Openntpd => "openntpd",
            Self::Ntpsec => "ntpsec",
            Self::Tun => "tun",
            Self::Vlan => "vlan",
            Self::Qinq => "qinq",
        }
    }

    /// What happens in it, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::Plain => "a chrony client polls a chrony server, IPv4",
            Self::Ipv6 => "a chrony client polls a chrony server, IPv6",
            Self::Xleave => {
                "a chrony client polls a chrony server in the interleaved mode (`xleave`)"
            }
            Self::Symmetric => "two chronyds, each other's `peer`, both in mode 1",
            Self::Broadcast => "a chrony server broadcasts to 10.0.0.255 and to ff02::101, mode 5",
            Self::Kod => {
                "an NTPsec server with `restrict limited kod` answers some requests of a chrony \
                 client, and the rest with the kiss code RATE; it is not synchronised at first"
            }
            Self::Nts => {
                "a chrony client polls a chrony server with NTS (the key exchange, TCP, is left out)"
            }
            Self::Control => {
                "`ntpq -c rv -c peers -c sysinfo -c mrulist` asks an NTPsec server, IPv4, then IPv6"
            }
            Self::Ntpdate => "`ntpdate -q` (NTPsec's) asks a chrony server, once a run",
            Self::Sntp => "`ntpdig` (NTPsec's sntp) asks a chrony server, IPv4 and IPv6 by turns",
            Self::Openntpd => {
                "OpenNTPD (10.0.0.2) polls a chronyd (10.0.0.1), which polls it; OpenNTPD is not \
                 synchronised"
            }
            Self::Ntpsec => {
                "NTPsec's ntpd (port 123 to port 123) and a chrony client poll an NTPsec server"
            }
            Self::Tun => "as plain, between two tun devices: IP packets without a link header",
            Self::Vlan => "as plain, in Ethernet frames with one 802.1Q tag (VLAN 42)",
            Self::Qinq => "as plain, in Ethernet frames with an 802.1ad and an 802.1Q tag (7, 42)",
        }
    }

    /// The Debian packages whose programs play it.
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Kod | Self::Ntpsec => &["chrony", "ntpsec"],
            Self::Control => &["ntpsec"],
            Self::Ntpdate => &["chrony", "ntpsec-ntpdate"],
            Self::Sntp => &["chrony", "ntpsec-ntpdig"],
            Self::Openntpd => &["chrony", "openntpd"],
            _ => &["chrony"],
        }
    }
}

impl Stage {
    /// Makes the hosts.
    pub fn new(case: Case) -> Result<Self> {
        const OUTER: Tag = Tag {
            protocol: Tag::S,
            vlan: 7,
        };
        const INNER: Tag = Tag {
            protocol: Tag::C,
            vlan: 42,
        };
        let hosts = match case {
            Case::Tun => Hosts::Link(TunLink::new()?),
            Case::Vlan => Hosts::Link(TunLink::tagged(&[INNER])?),
            Case::Qinq => Hosts::Link(TunLink::tagged(&[OUTER, INNER])?),
            _ => Hosts::Pair(Pair::new()?),
        };
        Ok(Self { case, hosts })
    }

    /// The host that serves: 10.0.0.1.
    pub fn server(&self) -> &Namespace {
        &self.pair().server
    }

    /// The host that asks: 10.0.0.2.
    pub fn client(&self) -> &Namespace {
        &self.pair().client
    }

    /// The device to watch, at either host.
    pub fn device(&self) -> &'static str {
        match self.case {
            Case::Tun => TunLink::DEVICE,
            _ => Pair::DEVICE,
        }
    }

    /// A filter for tcpdump that lets the case's packets through and nothing else.
    pub fn filter(&self) -> &'static str {
        match self.case {
            Case::Vlan | Case::Qinq => tcpdump::TAGGED_NTP,
            _ => tcpdump::NTP,
        }
    }

    fn pair(&self) -> &Pair {
        match &self.hosts {
            Hosts::Pair(pair) => pair,
            Hosts::Link(link) => &link.pair,
        }
    }

    /// Plays the case until about so many requests were made; nothing is on the wire any more when
    /// this returns. Cases whose daemons cannot be hurried make do with fewer.
    pub fn play(&self, polls: u64) -> Result<Played> {
        match self.case {
            Case::Plain | Case::Tun | Case::Vlan | Case::Qinq => {
                self.chrony(polls, &[], &[&format!("server {} {FAST}", Pair::SERVER)])
            }
            Case::Ipv6 => self.chrony(polls, &[], &[&format!("server {} {FAST}", Pair::SERVER_V6)]),
            Case::Xleave => self.chrony(
                polls,
                &[],
                &[&format!("server {} {FAST} xleave", Pair::SERVER)],
            ),
            Case::Nts => {
                let certificate = Certificate::new(Pair::SERVER)?;
                let [key, chain] = certificate.server_lines();
                let server = format!("server {} {FAST} nts", Pair::SERVER);
                self.chrony(
                    polls,
                    &[&key, &chain],
                    &[&server, &certificate.client_line()],
                )
            }
            Case::Symmetric => self.symmetric(polls),
            Case::Broadcast => self.broadcast(polls),
            Case::Kod => self.kiss_of_death(),
            Case::Control => self.control(),
            Case::Ntpdate => {
                let server = Chronyd::server(self.server(), &[])?;
                for _ in 0..polls {
                    ntpdate(self.client(), Pair::SERVER)?;
                }
                Self::served(&server, None)
            }
            Case::Sntp => {
                let server = Chronyd::server(self.server(), &[])?;
                for poll in 0..polls {
                    let address = [Pair::SERVER, Pair::SERVER_V6][usize::from(poll % 2 == 1)];
                    ntpdig(self.client(), &[address])?;
                }
                Self::served(&server, None)
            }
            Case::Openntpd => self.openntpd(polls),
            Case::Ntpsec => self.ntpsec(polls),
        }
    }

    /// A chrony client polls a chrony server.
    fn chrony(&self, polls: u64, server_lines: &[&str], client_lines: &[&str]) -> Result<Played> {
        let server = Chronyd::server(self.server(), server_lines)?;
        let mut client = Chronyd::start(self.client(), client_lines)?;
        server.wait_for_requests(polls, time_for(polls))?;
        client.stop_asking()?;
        client.stop()?;
        Self::served(&server, Some(&client))
    }

    fn symmetric(&self, polls: u64) -> Result<Played> {
        let peer = |address: &str| format!("peer {address} minpoll -3 maxpoll -3");
        let one = Chronyd::server(self.server(), &[&peer(Pair::CLIENT)])?;
        let mut other = Chronyd::start(
            self.client(),
            &["local stratum 7", "allow", &peer(Pair::SERVER)],
        )?;
        let least = usize::try_from(polls)?;
        wait_for("measurements of the peer", time_for(8 * polls), || {
            Ok((other.measurements()?.len() >= least).then_some(()))
        })?;
        // Each also answers the other's last packet by its own next one: stop both.
        one.tell(&["offline"])?;
        other.stop_asking()?;
        other.stop()?;
        Self::served(&one, Some(&other))
    }

    fn broadcast(&self, polls: u64) -> Result<Played> {
        let lines = [
            &format!("broadcast 1 {}", Pair::BROADCAST)[..],
            "broadcast 1 ff02::101",
        ];
        let _server = Chronyd::server(self.server(), &lines)?;
        // One packet a second of each family, after a second or less.
        std::thread::sleep(Duration::from_secs(1 + polls.div_ceil(2).min(5)));
        Ok(Played::default())
    }

    fn kiss_of_death(&self) -> Result<Played> {
        let limit = [
            "limit average 0.1 burst 2 kod 5",
            "restrict default limited kod",
        ];
        let server = Ntpsec::start(self.server(), &limit)?;
        let mut client = Chronyd::start(
            self.client(),
            &[&format!("server {} minpoll -2", Pair::SERVER)],
        )?;
        let kisses = |client: &Chronyd| client.log().matches("Received KoD RATE").count();
        wait_for("kisses of death", PATIENCE, || {
            Ok((kisses(&client) >= 2).then_some(()))
        })?;
        client.stop_asking()?;
        client.stop()?;
        drop(server);
        Ok(Played {
            answers: u64::try_from(kisses(&client)).ok(),
            measurements: Some(client.measurements_log()?),
            ..Played::default()
        })
    }

    fn control(&self) -> Result<Played> {
        let _server = Ntpsec::server(self.server(), &[])?;
        for address in [Pair::SERVER, Pair::SERVER_V6] {
            ntpq(
                self.client(),
                address,
                &["rv", "peers", "sysinfo", "mrulist"],
            )?;
        }
        Ok(Played::default())
    }

    fn openntpd(&self, polls: u64) -> Result<Played> {
        let polled = format!(
            "server {} minpoll -4 maxpoll -4 noselect offline",
            Pair::CLIENT
        );
        let mut chronyd = Chronyd::server(self.server(), &[&polled])?;
        let ask = format!("server {}", Pair::SERVER);
        let mut other = Openntpd::start(self.client(), &["listen on *", &ask])?;
        chronyd.tell(&["online"])?;
        other.wait_for_replies(2, PATIENCE)?;
        // chrony asks a server that is not synchronised once a second, whatever it is told.
        let least = usize::try_from(polls.min(8))?;
        wait_for("answers of OpenNTPD", PATIENCE, || {
            Ok((chronyd.measurements()?.len() >= least).then_some(()))
        })?;
        chronyd.stop_asking()?;
        drop(other);
        let played = Self::served(&chronyd, None)?;
        chronyd.stop()?;
        Ok(Played {
            measurements: Some(chronyd.measurements_log()?),
            ..played
        })
    }

    fn ntpsec(&self, polls: u64) -> Result<Played> {
        let _server = Ntpsec::server(self.server(), &[])?;
        let ask = format!("server {} iburst minpoll 0 maxpoll 0", Pair::SERVER);
        let client = Ntpsec::start(self.client(), &[&ask])?;
        let ask = format!("server {} minpoll -4 maxpoll -4", Pair::SERVER);
        let mut chronyd = Chronyd::start(self.client(), &["port 0", &ask])?;
        // NTPsec asks every second or two.
        std::thread::sleep(Duration::from_secs(6));
        let least = usize::try_from(polls)?;
        wait_for("answers of NTPsec", time_for(4 * polls), || {
            Ok((chronyd.measurements()?.len() >= least).then_some(()))
        })?;
        drop(client);
        chronyd.stop_asking()?;
        chronyd.stop()?;
        Ok(Played {
            measurements: Some(chronyd.measurements_log()?),
            ..Played::default()
        })
    }

    /// What a chrony server counted, and what its chrony client measured.
    fn served(server: &Chronyd, client: Option<&Chronyd>) -> Result<Played> {
        Ok(Played {
            server: Some(server.server_statistics()?),
            clients: server.clients()?,
            measurements: client.map(Chronyd::measurements_log).transpose()?,
            answers: None,
        })
    }
}

/// As often as chrony asks: 64 times a second. Never selected: chrony would correct a clock of its own
/// making (`-x`), and log offsets from that.
const FAST: &str = "minpoll -6 maxpoll -6 noselect";

/// How long so many polls may take at 64 a second on a busy machine.
fn time_for(polls: u64) -> Duration {
    PATIENCE + Duration::from_secs(polls / 16)
}
