//! Exchanges by number, for what stands behind the capture: the events of a request and its
//! response, put through the daemon's own pairing and into a history, without a network.

use ntpmon::{
    capture::Drained,
    history::{Feed, History},
    ntp::{clock, pair},
    pipeline::{Consumer, Host},
};
use ntpmon_common::{Event, Timestamp};

/// The server that all clients ask: 192.0.2.1.
const SERVER: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];

/// Feeds a history as one ring of an interface does.
pub struct Feeder<C> {
    consume: C,
    /// What the next exchange is told apart by.
    number: u64,
}

/// A feeder whose consumer is the daemon's own.
pub fn feeder(
    history: &History,
    interface: &str,
) -> Feeder<impl FnMut(Drained<'_>) + Send + 'static> {
    let feed: Feed = history.feed(interface);
    let settings = pair::Settings::default();
    Feeder {
        consume: Consumer::new(settings, &Host::default(), feed).into_closure(),
        number: 0,
    }
}

/// The address of a client: numbers that follow each other are far apart.
#[must_use]
pub fn address(client: u32) -> [u8; 16] {
    let mut address = SERVER;
    // Odd, so that each number has an address of its own.
    let mixed = client.wrapping_mul(0x9e37_79b1);
    address[12..].copy_from_slice(&mixed.to_be_bytes());
    address
}

impl<C: FnMut(Drained<'_>)> Feeder<C> {
    /// One exchange of each of these clients, answered after some microseconds, now.
    pub fn exchanges(&mut self, clients: impl IntoIterator<Item = u32>) {
        self.exchanges_with(SERVER, clients);
    }

    /// As [`Self::exchanges`], with another server.
    pub fn exchanges_with(&mut self, server: [u8; 16], clients: impl IntoIterator<Item = u32>) {
        (self.consume)(Drained::Begin);
        let monotonic = clock::monotonic();
        let wall = Timestamp::from_unix_nanoseconds(clock::utc());
        for client in clients {
            self.number += 1;
            let spread = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
            let mut request = Event::EMPTY;
            request.time = monotonic;
            request.source = address(client);
            request.destination = server;
            request.source_port = 40_000 + (client & 0x3fff) as u16;
            request.destination_port = 123;
            request.payload_length = 48;
            request.ntp.0[0] = 4 << 3 | 3;
            // Random, as most clients have it.
            let transmit = self.number.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
            request.ntp.0[40..].copy_from_slice(&transmit.to_be_bytes());
            let mut response = request;
            response.time = monotonic + 20_000 + spread;
            (response.source, response.destination) = (server, request.source);
            (response.source_port, response.destination_port) = (123, request.source_port);
            response.ntp.0[0] = 4 << 3 | 4;
            response.ntp.0[1] = 2;
            response.ntp.0[2] = 6;
            response.ntp.0[3] = 0xe7;
            response.ntp.0[12..16].copy_from_slice(&[192, 0, 2, 200]);
            response.ntp.0[24..32].copy_from_slice(&transmit.to_be_bytes());
            response.ntp.0[32..40].copy_from_slice(&wall.0.to_be_bytes());
            // Some tens of microseconds later: 2^32 are a second.
            let sent = wall.0.wrapping_add(40_000 + spread);
            response.ntp.0[40..].copy_from_slice(&sent.to_be_bytes());
            (self.consume)(Drained::Event(&request));
            (self.consume)(Drained::Event(&response));
        }
        (self.consume)(Drained::End { now: monotonic });
    }
}
