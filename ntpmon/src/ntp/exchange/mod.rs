//! An exchange: a request, its response if there was one, and what their times say.
//!
//! T1 is when the client sent, T2 when the server received, T3 when the server sent, T4 when the
//! client received. The offset is ((T2−T1)+(T3−T4))/2: positive when the server is ahead of this
//! host. The delay is (T4−T1)−(T3−T2).

use std::collections::{HashMap, HashSet};

use ntpmon_common::{Authentication, Direction, Event, Mode, NtpHeader, Span, Timestamp};

use super::{ClientClock, ClientError, Stamped, kiss_code, pair::Pair};

#[cfg(test)]
mod tests;

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

    /// What this host is to whoever sent a packet. Source addresses can be forged, and the
    /// programs see packets before the kernel throws such ones away: what comes in was not sent by
    /// this host, and what goes out is not meant for it, unless both ends are its own (loopback).
    fn role_in(&self, request: &Event) -> Option<Role> {
        let (client, server) = (&request.source, &request.destination);
        let role = self.role(client, server);
        let contradicts = match (role, Direction::from_byte(request.direction)) {
            (Some(Role::Client), Direction::Ingress) => !self.0.contains(server),
            (Some(Role::Server), Direction::Egress) => !self.0.contains(client),
            _ => false,
        };
        if contradicts {
            Some(Role::Transit)
        } else {
            role
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
    /// When the request passed that the offset is of, on the monotonic clock, where that is not this
    /// exchange's: in interleaved mode it is the one before.
    pub of_request_at: Option<u64>,
}

/// A pair with what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Counts the requests that asked something new, from 0, in the order they came.
    pub sequence: u64,
    /// Who asked.
    pub request: Stamped,
    /// What was answered, if anything.
    pub response: Option<Stamped>,
    /// The response names the request in the way of RFC 9769.
    pub interleaved: bool,
    /// Retransmissions of the request.
    pub duplicates: u32,
    /// What is known of the client's clock.
    pub client_clock: ClientClock,
    /// How far it is ahead of this host's, where it can be believed; not where this host asked.
    pub client_error: Option<ClientError>,
    /// What this host is to it, where that is known.
    pub role: Option<Role>,
    /// Whether the server's address is this host's, whoever asked.
    pub is_local_server: bool,
    /// Its times.
    pub timings: Timings,
}

impl Exchange {
    /// The packet that describes the exchange: the response where there is one.
    #[must_use]
    pub const fn described_by(&self) -> &Stamped {
        match &self.response {
            Some(response) => response,
            None => &self.request,
        }
    }

    /// The kiss code of the response, if it is one.
    #[must_use]
    pub fn kiss_code(&self) -> Option<[u8; 4]> {
        kiss_code(&self.response.as_ref()?.event.ntp)
    }

    /// Whether it has a response that tells the time: its server is synchronised, and both of its
    /// times are there.
    #[must_use]
    pub fn is_time_sample(&self) -> bool {
        self.response.as_ref().is_some_and(is_time_sample)
    }

    /// What vouches for the describing packet.
    #[must_use]
    pub const fn authentication(&self) -> Authentication {
        Authentication::from_byte(self.described_by().event.authentication)
    }
}

/// Makes exchanges of pairs. It remembers, for the servers that this host asks in interleaved
/// mode, the times of the last exchange: the response's transmit time belongs to that one.
#[derive(Debug, Default)]
pub struct Timekeeper {
    last: HashMap<Server, Last, foldhash::fast::RandomState>,
}

/// Servers that this host asks; more are not remembered at once.
const SERVERS: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Server {
    client: [u8; 16],
    server: [u8; 16],
    interface: u32,
}

/// On the monotonic clock, so that a step of this host's in between is nobody's.
#[derive(Clone, Copy, Debug)]
struct Last {
    t1: u64,
    t2: Timestamp,
    t4: u64,
}

impl Timekeeper {
    /// Works out what a pair says.
    pub fn exchange(&mut self, pair: Pair<'_>, addresses: &LocalAddresses) -> Exchange {
        let event = &pair.request.event;
        let role = addresses.role_in(event);
        let mut timings = pair
            .response
            .map(|response| timings(&pair, response, role))
            .unwrap_or_default();
        if let (Some(Role::Client), Some(response), Some(round_trip)) =
            (role, pair.response, timings.total_process_time)
            && is_time_sample(response)
        {
            let server = Server {
                client: event.source,
                server: event.destination,
                interface: event.interface,
            };
            let ntp = &response.event.ntp;
            if pair.interleaved
                && ntp.version() < 5
                && let Some(last) = self.last.get(&server)
                // The request names the exchange before by its receive time: another may have
                // been lost, or not been seen, in between.
                && event.ntp.origin() == last.t2
            {
                // By this host's clock as it is now.
                let utc = pair.request.unix.wrapping_sub(event.time.cast_signed());
                let stamp = |monotonic: u64| {
                    Timestamp::from_unix_nanoseconds(monotonic.cast_signed().wrapping_add(utc))
                };
                let (t1, t4) = (stamp(last.t1), stamp(last.t4));
                let (offset, delay) = offset_and_delay(t1, last.t2, ntp.transmit(), t4);
                timings.offset = Some(offset);
                timings.delay = Some(delay);
                timings.of_request_at = Some(last.t1);
            }
            if self.last.len() >= SERVERS && !self.last.contains_key(&server) {
                self.last.clear();
            }
            let last = Last {
                t1: event.time,
                t2: ntp.receive(),
                t4: event.time.saturating_add(round_trip),
            };
            self.last.insert(server, last);
        }
        Exchange {
            sequence: pair.sequence,
            request: *pair.request,
            response: pair.response.copied(),
            interleaved: pair.interleaved,
            duplicates: pair.duplicates,
            // Without times there is nothing to hold against what it writes.
            client_clock: match pair.request.captured() {
                Some(_) => pair.client_clock,
                None => ClientClock::Unknown,
            },
            client_error: client_error(&pair, role),
            role,
            is_local_server: addresses.0.contains(&event.destination),
            timings,
        }
    }
}

/// How far the client's clock is ahead of this host's, as far as that is seen from here.
fn client_error(pair: &Pair<'_>, role: Option<Role>) -> Option<ClientError> {
    let error = pair.client_error.filter(|_| !pair.interleaved)?;
    match role {
        Some(Role::Server) => Some(error),
        // The clock is this host's own.
        Some(Role::Client) => None,
        // The time that the client repeats is of another server's clock.
        Some(Role::Transit) | None => Some(error.one_sided()),
    }
}

/// A response of a synchronised server that carries both of its times.
fn is_time_sample(response: &Stamped) -> bool {
    tells_time(&response.event.ntp)
}

/// Whether a response tells the time: its server is synchronised, and both of its times are there.
#[must_use]
pub fn tells_time(ntp: &NtpHeader) -> bool {
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
        total_process_time: (request.captured().and(response.captured()))
            .and(response.event.time.checked_sub(request.event.time)),
        ..Timings::default()
    };
    if kiss_code(ntp).is_some() || ntp.receive().is_zero() {
        return timings;
    }
    let (t2, t3) = (ntp.receive(), ntp.transmit());
    // In interleaved mode T3 belongs to the response before this one.
    let t3 = (!pair.interleaved && !t3.is_zero()).then_some(t3);
    timings.server_processing_time = t3.map(|t3| t3.since(t2));
    if !is_time_sample(response) {
        return timings;
    }
    let Some(captured) = request.captured() else {
        return timings;
    };
    let captured_t1 = Timestamp::from_unix_nanoseconds(captured);
    let is_client = role == Some(Role::Client);
    let t1 = if is_client {
        Some(captured_t1)
    } else {
        claimed_t1(pair)
    };
    timings.client_to_server_latency = t1.map(|t1| t2.since(t1));
    if let (true, Some(t3), Some(round_trip)) = (is_client, t3, timings.total_process_time) {
        // T4 on the clock of T1, should the clock have been stepped in between.
        let t4 = captured.saturating_add_unsigned(round_trip);
        let t4 = Timestamp::from_unix_nanoseconds(t4);
        let (offset, delay) = offset_and_delay(captured_t1, t2, t3, t4);
        timings.offset = Some(offset);
        timings.delay = Some(delay);
    }
    timings
}

/// What the four times of an exchange say: how far the server is ahead, and how long the ways took.
#[must_use]
pub fn offset_and_delay(
    t1: Timestamp,
    t2: Timestamp,
    t3: Timestamp,
    t4: Timestamp,
) -> (Span, Span) {
    let (there, back) = (t2.since(t1).0, t3.since(t4).0);
    // The mean without overflow, whatever the distance of the clocks.
    let offset = ((i128::from(there) + i128::from(back)) / 2) as i64;
    let delay = t4.since(t1).0.wrapping_sub(t3.since(t2).0);
    (Span(offset), Span(delay))
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
