//! What chrony says of itself, read into values: the client's `measurements.log`, and the reports of
//! `chronyc -c` (comma-separated, raw numbers). ntpmon's figures are compared with these.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

/// One line of `measurements.log`: one answer, as chrony's client took it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// When, in seconds of Unix: finer times are not logged.
    pub second: i64,
    /// The server.
    pub server: IpAddr,
    /// `N` normal, `+` or `-` a leap second to come, `?` not synchronised.
    pub leap: char,
    /// The server's distance from a reference clock.
    pub stratum: u8,
    /// Whether every test of the answer passed.
    pub good: bool,
    /// Seconds; positive when the server is ahead.
    pub offset: f64,
    /// The network's part of the round trip, in seconds.
    pub delay: f64,
    /// The server's name of its reference.
    pub reference: u32,
    /// The mode of the answer: 4, or 1 and 2 of a symmetric peer.
    pub mode: u8,
    /// Whether the answer is in the interleaved mode. The figures are then of the exchange before:
    /// its other three times, and the server's time of sending that this answer tells.
    pub interleaved: bool,
    /// Whether both of the client's times are the kernel's, not the daemon's.
    pub kernel_times: bool,
}

/// Reads the text of `measurements.log`, with or without the raw measurements in it.
pub fn measurements(text: &str) -> Result<Vec<Measurement>> {
    text.lines()
        // A banner of three lines comes again every 32 entries.
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| measurement(line).with_context(|| format!("a measurement of chrony: {line}")))
        .collect()
}

fn measurement(line: &str) -> Result<Measurement> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    ensure!(fields.len() >= 20, "{} fields instead of 20", fields.len());
    let (mode, kind) = fields[17].split_at_checked(1).context("no mode")?;
    Ok(Measurement {
        second: format!("{}T{}Z", fields[0], fields[1])
            .parse::<Timestamp>()?
            .as_second(),
        server: fields[2].parse()?,
        leap: fields[3].chars().next().context("no leap indicator")?,
        stratum: fields[4].parse()?,
        good: fields[5..8]
            .iter()
            .all(|tests| tests.chars().all(|test| test == '1')),
        offset: fields[11].parse()?,
        delay: fields[12].parse()?,
        reference: u32::from_str_radix(fields[16], 16)?,
        mode: mode.parse()?,
        interleaved: kind == "I",
        kernel_times: fields[18..20] == ["K", "K"],
    })
}

/// `chronyc serverstats`: what a server counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerStatistics {
    /// NTP requests that came, dropped ones included.
    pub received: u64,
    /// Of these, the ones not answered because of the rate limit.
    pub dropped: u64,
    /// Connections to fetch NTS keys.
    pub key_connections: u64,
    /// Requests with a right MAC or NTS authenticator.
    pub authenticated: u64,
    /// Requests answered in the interleaved mode.
    pub interleaved: u64,
}

/// Reads `chronyc -c serverstats`; later versions than 4.3 append fields.
pub fn server_statistics(text: &str) -> Result<ServerStatistics> {
    let line = text.lines().next().context("chronyc printed nothing")?;
    let number = numbers(line, 9)?;
    Ok(ServerStatistics {
        received: number(0)?,
        dropped: number(1)?,
        key_connections: number(5)?,
        authenticated: number(7)?,
        interleaved: number(8)?,
    })
}

/// A line of `chronyc clients`: what a server knows of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Who asks.
    pub address: IpAddr,
    /// NTP requests from it, dropped ones included.
    pub received: u64,
    /// Of these, the ones not answered because of the rate limit.
    pub dropped: u64,
}

/// Reads `chronyc -c -n clients`.
pub fn clients(text: &str) -> Result<Vec<Client>> {
    text.lines()
        .map(|line| {
            let number = numbers(line, 3)?;
            let address = line.split(',').next().unwrap_or_default();
            Ok(Client {
                address: address
                    .parse()
                    .with_context(|| format!("not an address: {address}"))?,
                received: number(1)?,
                dropped: number(2)?,
            })
        })
        .collect()
}

/// The numbers of a comma-separated line that has at least so many fields.
fn numbers(line: &str, least: usize) -> Result<impl Fn(usize) -> Result<u64>> {
    let fields: Vec<&str> = line.split(',').collect();
    ensure!(
        fields.len() >= least,
        "{} fields instead of {least}: {line}",
        fields.len()
    );
    Ok(move |index: usize| {
        let field = fields.get(index).copied().unwrap_or_default();
        field
            .parse()
            .with_context(|| format!("field {index} is not a count: {field}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
=========================================================================================
   Date (UTC) Time     IP Address   L St 123 567 ABCD  LP RP Score    Offset  Peer del. Peer disp.  Root del. Root disp. Refid     MTxRx
=========================================================================================
2026-11-21 00:53:10 10.0.0.1        N  3 111 111 1111  -6  0 1.00 -2.726e-04  5.467e-04  1.433e-06  0.000e+00  0.000e+00 7F7F0101 4B K K
2026-11-21 00:53:10 fd00::1         ?  3 111 101 1111  -6 -6 0.00  4.025e-06  1.247e-05  2.035e-07  0.000e+00  0.000e+00 7F7F0101 4I D K
";

    #[test]
    fn a_log_is_read_without_its_banner() {
        let measurements = measurements(LOG).unwrap();
        assert_eq!(measurements.len(), 2);
        assert_eq!(
            measurements[0],
            Measurement {
                second: 1_795_222_390,
                server: "10.0.0.1".parse().unwrap(),
                leap: 'N',
                stratum: 3,
                good: true,
                offset: -2.726e-4,
                delay: 5.467e-4,
                reference: 0x7f7f_0101,
                mode: 4,
                interleaved: false,
                kernel_times: true,
            }
        );
        let second = &measurements[1];
        assert!(second.interleaved && !second.good && !second.kernel_times);
        assert_eq!(
            (second.leap, second.server),
            ('?', "fd00::1".parse().unwrap())
        );
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = measurements("2026-11-21 00:53:10 10.0.0.1 N").unwrap_err();
        assert!(format!("{error:#}").contains("00:53:10"), "{error:#}");
    }

    #[test]
    fn counts_are_read_from_reports() {
        let statistics = server_statistics("235,1,7,0,0,2,0,5,233,234,3\n").unwrap();
        assert_eq!(
            statistics,
            ServerStatistics {
                received: 235,
                dropped: 1,
                key_connections: 2,
                authenticated: 5,
                interleaved: 233
            }
        );
        let clients = clients("10.0.0.2,235,1,-5,127,0,0,0,127,4294967295\n").unwrap();
        assert_eq!(
            clients,
            [Client {
                address: "10.0.0.2".parse().unwrap(),
                received: 235,
                dropped: 1
            }]
        );
        assert!(server_statistics("501 Not authorised").is_err());
    }
}
