//! What a monitor saw of a case, in the terms that two monitors are compared in: counts by kind, and
//! offset and delay of each exchange. It is worked out here from tcpdump's packets, by code of its
//! own that shares nothing with ntpmon's, and it is read from what ntpmon printed.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{tcpdump::Capture, watch::Watched};

/// The seconds between NTP's epoch (1900) and Unix's (1970).
const EPOCH: u64 = 2_208_988_800;

/// Counts of packets and of exchanges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Packets of mode 3.
    pub requests: u64,
    /// Packets of mode 4.
    pub responses: u64,
    /// Packets of modes 1 and 2.
    pub symmetric: u64,
    /// Packets of mode 5.
    pub broadcast: u64,
    /// Packets of mode 6.
    pub control: u64,
    /// Packets of mode 7.
    pub private: u64,
    /// The requests of mode 3 that got their answer, in the order of the requests.
    pub answered: Vec<Exchange>,
}

/// One answered request.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Who asked.
    pub client: SocketAddr,
    /// Who answered.
    pub server: SocketAddr,
    /// When the request was captured, in whole seconds of Unix: as fine as chrony's log.
    pub second: i64,
    /// The kiss code, where the answer has stratum 0.
    pub kiss: Option<String>,
    /// Whether the answer is in the interleaved mode.
    pub interleaved: bool,
    /// From the request's capture to the answer's, in seconds.
    pub turnaround: f64,
    /// With the times of capture as the client's: how far the server is ahead, in seconds. Only for
    /// an answer that is a time sample. An interleaved answer tells when the answer before it was
    /// sent, so this is of the exchange before, as in chrony's log.
    pub offset: Option<f64>,
    /// The network's part of the turnaround, in seconds; known with the offset.
    pub delay: Option<f64>,
}

impl Seen {
    /// Works it out from packets.
    pub fn in_capture(capture: &Capture) -> Self {
        let mut seen = Self::default();
        let mut pending = HashMap::new();
        let mut answered = Vec::new();
        let mut before = HashMap::new();
        for (time, datagram) in capture.datagrams() {
            let payload = datagram.payload;
            let Some(first) = payload.first() else {
                continue;
            };
            let field = |at: usize| -> u64 {
                let bytes = payload
                    .get(at..at + 8)
                    .and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u64::from_be_bytes)
            };
            let (origin, receive, transmit) = (field(24), field(32), field(40));
            match first & 7 {
                1 | 2 => seen.symmetric += 1,
                3 => {
                    seen.requests += 1;
                    // The answer's origin is the one or, in the interleaved mode, the other.
                    let flow = (datagram.source, datagram.destination);
                    pending.insert((flow, transmit), (seen.requests, time, false));
                    if receive != 0 && receive != transmit {
                        pending.insert((flow, receive), (seen.requests, time, true));
                    }
                }
                4 => {
                    seen.responses += 1;
                    let flow = (datagram.destination, datagram.source);
                    let Some((number, asked, interleaved)) = pending.remove(&(flow, origin)) else {
                        continue;
                    };
                    let turnaround = time.saturating_sub(asked) as f64 * 1e-9;
                    let stratum = payload.get(1).copied().unwrap_or_default();
                    let letters = payload.get(12..16).unwrap_or_default();
                    let kiss: String = String::from_utf8_lossy(letters).trim_matches('\0').into();
                    // The client's port changes from poll to poll.
                    let ends = (datagram.destination.ip(), datagram.source);
                    let times = match before.insert(ends, [asked, receive, time]) {
                        Some([asked, receive, time]) if interleaved => {
                            Some([asked, receive, transmit, time])
                        }
                        _ => (!interleaved).then_some([asked, receive, transmit, time]),
                    };
                    let figures = times
                        .filter(|_| first >> 6 != 3 && (1..16).contains(&stratum))
                        .map(offset_and_delay);
                    answered.push((
                        number,
                        Exchange {
                            client: datagram.destination,
                            server: datagram.source,
                            second: (asked / 1_000_000_000) as i64,
                            kiss: (stratum == 0 && !kiss.is_empty()).then_some(kiss),
                            interleaved,
                            turnaround,
                            offset: figures.map(|(offset, _)| offset),
                            delay: figures.map(|(_, delay)| delay),
                        },
                    ));
                }
                5 => seen.broadcast += 1,
                6 => seen.control += 1,
                7 => seen.private += 1,
                _ => {}
            }
        }
        answered.sort_by_key(|(number, _)| *number);
        seen.answered = answered.into_iter().map(|(_, exchange)| exchange).collect();
        seen
    }

    /// Reads it from what `ntpmon watch` printed.
    pub fn by_ntpmon(watched: &Watched) -> Result<Self> {
        let total = |name: &str| {
            watched
                .totals
                .get(name)
                .and_then(Value::as_u64)
                .with_context(|| format!("no count {name} in the totals: {:?}", watched.totals))
        };
        let mut answered: Vec<_> = watched
            .lines
            .iter()
            .filter(|line| line.get("mode").and_then(Value::as_u64) == Some(4))
            .filter(|line| line.get("answered") == Some(&Value::Bool(true)))
            .map(|line| {
                let what = || format!("a line of ntpmon: {line:?}");
                let time = line.get("session_timestamp").and_then(Value::as_str);
                let time: Timestamp = time.with_context(what)?.parse().with_context(what)?;
                Ok((time, Exchange::printed(line, time).with_context(what)?))
            })
            .collect::<Result<_>>()?;
        // Live lines come in the order of the answers.
        answered.sort_by_key(|(time, _)| *time);
        Ok(Self {
            requests: total("requests")?,
            responses: total("responses")?,
            symmetric: total("symmetric")?,
            broadcast: total("broadcast")?,
            control: total("control")?,
            private: total("private")?,
            answered: answered.into_iter().map(|(_, exchange)| exchange).collect(),
        })
    }
}

impl Exchange {
    fn printed(line: &Map<String, Value>, time: Timestamp) -> Result<Self> {
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        let number = |name: &str| line.get(name).and_then(Value::as_f64);
        let end = |ip: &str, port: &str| -> Result<SocketAddr> {
            let address = text(ip).with_context(|| format!("no {ip}"))?.parse()?;
            let port = line
                .get(port)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {port}"))?;
            Ok(SocketAddr::new(address, u16::try_from(port)?))
        };
        let turnaround =
            number("total_process_time_seconds").context("no total_process_time_seconds")?;
        Ok(Self {
            client: end("client_ip", "client_port")?,
            server: end("server_ip", "server_port")?,
            second: time.as_second(),
            kiss: text("kiss_code").map(str::to_string),
            interleaved: line.get("interleaved") == Some(&Value::Bool(true)),
            turnaround,
            offset: number("offset_seconds"),
            delay: number("delay_seconds"),
        })
    }
}

/// Offset and delay, in seconds, from the client's two times of capture (nanoseconds of Unix) around
/// the server's two (as in the packet).
fn offset_and_delay([asked, receive, transmit, answered]: [u64; 4]) -> (f64, f64) {
    // The server's times relative to the request, so that a double holds them to the nanosecond.
    let relative = |ntp: u64| -> f64 {
        let seconds = (ntp >> 32) as i64 - EPOCH as i64 - (asked / 1_000_000_000) as i64;
        let fraction = (ntp & 0xffff_ffff) as f64 / 4_294_967_296.0;
        seconds as f64 + fraction - (asked % 1_000_000_000) as f64 * 1e-9
    };
    let (receive, transmit) = (relative(receive), relative(transmit));
    let answered = answered.saturating_sub(asked) as f64 * 1e-9;
    (
        (receive + transmit - answered) / 2.0,
        answered - (transmit - receive),
    )
}

/// The middle one of some numbers, in absolute value; nothing of none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.into_iter().map(f64::abs).collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frames::{Ethernet, Ntp, datagram, frame},
        tcpdump::Captured,
    };

    const CLIENT: &str = "10.0.0.2:40000";
    const SERVER: &str = "10.0.0.1:123";

    /// A packet on a wire at so many nanoseconds after a second of 2023.
    fn packet(time: u64, from: &str, to: &str, ntp: Ntp) -> Captured {
        let packet = datagram(from.parse().unwrap(), to.parse().unwrap(), &ntp.bytes()).unwrap();
        let ethernet = Ethernet {
            source: [2; 6],
            destination: [4; 6],
        };
        Captured {
            time: 1_700_000_000_000_000_000 + time,
            bytes: frame(ethernet, &[], &packet),
        }
    }

    /// The same moments as NTP writes them.
    fn ntp_time(nanoseconds: u64) -> u64 {
        (1_700_000_000 + EPOCH) << 32 | ((nanoseconds << 32) / 1_000_000_000)
    }

    #[test]
    fn a_server_that_is_ahead_has_a_positive_offset() {
        let request = Ntp {
            version: 4,
            mode: 3,
            transmit: 77,
            ..Ntp::default()
        };
        // 1 ms there, 2 ms inside, 3 ms back, and the server 10 ms ahead.
        let response = Ntp {
            version: 4,
            mode: 4,
            stratum: 2,
            origin: 77,
            receive: ntp_time(11_000_000),
            transmit: ntp_time(13_000_000),
            ..Ntp::default()
        };
        let capture = Capture {
            link_type: Capture::ETHERNET,
            packets: vec![
                packet(0, CLIENT, SERVER, request),
                packet(6_000_000, SERVER, CLIENT, response),
                packet(7_000_000, SERVER, CLIENT, response),
            ],
        };
        let seen = Seen::in_capture(&capture);
        assert_eq!(
            (seen.requests, seen.responses, seen.answered.len()),
            (1, 2, 1)
        );
        let exchange = &seen.answered[0];
        assert!(
            (exchange.offset.unwrap() - 0.009).abs() < 1e-9,
            "{exchange:?}"
        );
        assert!(
            (exchange.delay.unwrap() - 0.004).abs() < 1e-9,
            "{exchange:?}"
        );
        assert!((exchange.turnaround - 0.006).abs() < 1e-12, "{exchange:?}");
    }

    #[test]
    fn ntpmons_lines_and_totals_are_read() {
        let object = |text: &str| serde_json::from_str(text).unwrap();
        let line = |time: &str, offset: &str, delay: &str| {
            object(&format!(
                r#"{{"client_ip":"10.0.0.2","client_port":5,"server_ip":"10.0.0.1",
                "server_port":123,"mode":4,"answered":true,"session_timestamp":"{time}",
                "kiss_code":null,"interleaved":false,"total_process_time_seconds":0.5,
                "offset_seconds":{offset},"delay_seconds":{delay}}}"#
            ))
        };
        let watched = Watched {
            lines: vec![
                line("2026-11-21T00:00:02.000000000Z", "null", "null"),
                line("2026-11-21T00:00:01.000000000Z", "-0.25", "0.4"),
            ],
            totals: object(
                r#"{"requests":3,"responses":2,"symmetric":0,"broadcast":0,"control":1,"private":0}"#,
            ),
            stderr: String::new(),
        };
        let seen = Seen::by_ntpmon(&watched).unwrap();
        assert_eq!((seen.requests, seen.responses, seen.control), (3, 2, 1));
        assert_eq!(seen.answered[0].offset, Some(-0.25));
        assert_eq!(seen.answered[0].delay, Some(0.4));
        assert_eq!(
            (seen.answered[1].offset, seen.answered[1].delay),
            (None, None)
        );
    }

    #[test]
    fn the_median_is_of_sizes() {
        assert_eq!(median([-5.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }
}
