//! Clients that write the time into their requests, by a clock that is as wrong as a test wants:
//! namespaces share the clock of the machine, and real daemons mostly write random numbers.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ntpmon_common::Timestamp;

use crate::namespace::Namespace;

/// A client with a clock of its own.
#[derive(Clone, Copy, Debug)]
pub struct HonestClient {
    /// An address of the host that it is at.
    pub address: IpAddr,
    /// How far its clock is ahead of the machine's, in nanoseconds.
    pub ahead: i64,
    /// It repeats of the last answer when that was sent, and when it came, as ntpd did.
    pub repeats: bool,
}

impl HonestClient {
    /// Asks a server so many times, and waits for the answer each time.
    ///
    /// # Errors
    /// When a packet cannot be sent, or no answer comes within seconds.
    pub fn ask(
        &self,
        host: &Namespace,
        server: SocketAddr,
        times: usize,
        interval: Duration,
    ) -> Result<()> {
        host.enter(|| {
            let socket = UdpSocket::bind((self.address, 0)).context("binding a client's socket")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut last = None;
            for _ in 0..times {
                last = Some(self.exchange(&socket, server, last)?);
                thread::sleep(interval);
            }
            Ok(())
        })
    }

    fn now(&self) -> Result<[u8; 8]> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let unix = i64::try_from(now.as_nanos())? + self.ahead;
        Ok(Timestamp::from_unix_nanoseconds(unix).0.to_be_bytes())
    }

    /// Returns what the answer says of when it was sent, and when it came.
    fn exchange(
        &self,
        socket: &UdpSocket,
        server: SocketAddr,
        last: Option<[[u8; 8]; 2]>,
    ) -> Result<[[u8; 8]; 2]> {
        let mut request = [0; 48];
        request[0] = 4 << 3 | 3;
        if let Some([sent, received]) = last.filter(|_| self.repeats) {
            request[24..32].copy_from_slice(&sent);
            request[32..40].copy_from_slice(&received);
        }
        let transmit = self.now()?;
        request[40..48].copy_from_slice(&transmit);
        socket.send_to(&request, server).context("asking")?;
        loop {
            let mut answer = [0; 1024];
            let (length, _) = socket
                .recv_from(&mut answer)
                .context("waiting for an answer")?;
            if length >= 48 && answer[24..32] == transmit {
                let mut sent = [0; 8];
                sent.copy_from_slice(&answer[40..48]);
                return Ok([sent, self.now()?]);
            }
        }
    }
}
