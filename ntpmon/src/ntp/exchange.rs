//! An exchange: a request, its response if there was one, and what their times say.
//!
//! T1 is when the client sent, T2 when the server received, T3 when the server sent, T4 when the
//! client received. The offset is ((T2−T1)+(T3−T4))/2: positive when the server is ahead of this
//! host. The delay is (T4−T1)−(T3−T2).

use std::collections::HashSet;

use ntpmon_common::{Authentication, Mode, Span, Timestamp};

use super::{ClientClock, Stamped, kiss_code, pair::Pair};

/// What this host is to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answered.
    Server,
    /// It asked (and perhaps answered itself).
    Client,
    /// It only saw the packets pass.
    Transit,
}

impl Role {
    /// The name in the API and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Transit => "transit",
        }
    }
}

/// The addresses of the host that a packet was captured on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses(HashSet<[u8; 16], foldhash::fast::RandomState>);

impl LocalAddresses {
    /// What this host is to a packet that went from `client` to `server`; nothing when no address
    /// is known.
    #[must_use]
    pub fn role(&self, client: &[u8; 16], server: &[u8; 16]) -> Option<Role> {
        if self.0.is_empty() {
            None
        } else if self.0.contains(client) {
            Some(Role::Client)
        } else if self.0.contains(server) {
            Some(Role::Server)
        } else {
            Some(Role::Transit)
        }
    }
}

impl FromIterator<[u8; 16]> for LocalAddresses {
    fn from_iter<T: IntoIterator<Item = [u8; 16]>>(addresses: T) -> Self {
        Self(addresses.into_iter().collect())
    }
}

/// Durations and differences of one exchange; what cannot be known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// T2 − T1: the way to the server plus the difference of the two clocks.
    pub client_to_server_latency: Option<Span>,
    /// T3 − T2: what the server says it took.
    pub server_processing_time: Option<Span>,
    /// From the request's passing to the response's, on this host's clock, in nanoseconds: the
    /// true service time at the server, the round trip at the client.
    pub total_process_time: Option<u64>,
    /// How far the server is ahead of this host. Only where this host asked.
    pub offset: Option<Span>,
    /// The round trip without the server's share. Only where this host asked.
    pub delay: Option<Span>,
}

/// A pair with what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The packets.
    pub pair: Pair<'a>,
    /// What this host is to it, where that is known.
    pub role: Option<Role>,
    /// Its times.
    pub timings: Timings,
}

impl<'a> Exchange<'a> {
    /// Works out what a pair says.
    #[must_use]
    pub fn new(pair: Pair<'a>, addresses: &LocalAddresses) -> Self {
        let event = &pair.request.event;
        let role = addresses.role(&event.source, &event.destination);
        let timings = pair
            .response
            .map(|response| timings(&pair, response, role))
            .unwrap_or_default();
        Self {
            pair,
            role,
            timings,
        }
    }

    /// The packet that describes the exchange: the response where there is one.
    #[must_use]
    pub const fn described_by(&self) -> &'a Stamped {
        match self.pair.response {
            Some(response) => response,
            None => self.pair.request,
        }
    }

    /// The kiss code of the response, if it is one.
    #[must_use]
    pub fn kiss_code(&self) -> Option<[u8; 4]> {
        let ntp = &self.pair.response?.event.ntp;
        if ntp.version() == 5 {
            return None;
        }
        kiss_code(ntp)
    }

    /// Whether the response may be taken as a sample of the server's time.
    #[must_use]
    pub fn is_time_sample(&self) -> bool {
        self.pair.response.is_some_and(is_time_sample)
    }

    /// What vouches for the describing packet.
    #[must_use]
    pub const fn authentication(&self) -> Authentication {
        Authentication::from_byte(self.described_by().event.authentication)
    }
}

/// A response of a synchronised server that carries both of its times.
fn is_time_sample(response: &Stamped) -> bool {
    let ntp = &response.event.ntp;
    ntp.leap_indicator() != 3
        && matches!(ntp.stratum(), 1..=15)
        && !ntp.receive().is_zero()
        && !ntp.transmit().is_zero()
}

fn timings(pair: &Pair<'_>, response: &Stamped, role: Option<Role>) -> Timings {
    let request = pair.request;
    let ntp = &response.event.ntp;
    let mut timings = Timings {
        // A response that was captured before its request has no such time.
        total_process_time: response.event.time.checked_sub(request.event.time),
        ..Timings::default()
    };
    let is_kiss = ntp.version() < 5 && kiss_code(ntp).is_some();
    if is_kiss || ntp.receive().is_zero() {
        return timings;
    }
    let (t2, t3) = (ntp.receive(), ntp.transmit());
    // In interleaved mode T3 belongs to the response before this one.
    let t3 = (!pair.interleaved && !t3.is_zero()).then_some(t3);
    timings.server_processing_time = t3.map(|t3| t3.since(t2));
    if !is_time_sample(response) {
        return timings;
    }
    let captured_t1 = Timestamp::from_unix_nanoseconds(request.unix);
    let is_client = role == Some(Role::Client);
    let t1 = if is_client {
        Some(captured_t1)
    } else {
        claimed_t1(pair)
    };
    timings.client_to_server_latency = t1.map(|t1| t2.since(t1));
    if let (true, Some(t3), Some(round_trip)) = (is_client, t3, timings.total_process_time) {
        // T4 on the clock of T1, should the clock have been stepped in between.
        let t4 =
            Timestamp::from_unix_nanoseconds(request.unix.saturating_add(round_trip.cast_signed()));
        let there = t2.since(captured_t1).0;
        let back = t3.since(t4).0;
        timings.offset = Some(Span(((i128::from(there) + i128::from(back)) / 2) as i64));
        timings.delay = Some(Span(t4.since(captured_t1).0.saturating_sub(t3.since(t2).0)));
    }
    timings
}

/// T1 as the client wrote it, when it can be believed. An interleaved request carries the time of
/// the request before it.
fn claimed_t1(pair: &Pair<'_>) -> Option<Timestamp> {
    let ntp = &pair.request.event.ntp;
    (pair.client_clock == ClientClock::Honest
        && !pair.interleaved
        && ntp.mode() == Mode::Client
        && ntp.version() < 5)
        .then_some(ntp.transmit())
}
