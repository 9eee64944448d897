//! What an operator types to find clients: an address, the beginning of one, or a network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

/// Addresses from the first to the last, IPv4 mapped into IPv6.
pub type Range = RangeInclusive<[u8; 16]>;

/// The addresses that a text stands for: one address; a network (`192.0.2.0/24`); or the beginning
/// of an address as it is written (`192.0.2.`, `192.0.2` which is that and 192.0.20 and so on,
/// `2001:db8:`).
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Range>, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = mapped(address);
        return Ok(vec![address..=address]);
    }
    let ranges = if let Some((_, length)) = text.split_once('/') {
        let network = text
            .parse::<IpNet>()
            .map_err(|_| match length.parse::<u32>() {
                Ok(length) if length > 128 || !text.contains(':') && length > 32 => {
                    format!("a prefix length of {length} is too long")
                }
                _ => "it is no network".to_owned(),
            })?;
        vec![mapped(network.network())..=mapped(network.broadcast())]
    } else if text.contains(':') {
        ipv6_prefix(text)?
    } else {
        ipv4_prefix(text)?
    };
    Ok(ranges)
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn ipv4_prefix(text: &str) -> Result<Vec<Range>, String> {
    let (done, partial) = text.rsplit_once('.').unwrap_or(("", text));
    let mut octets = Vec::new();
    if !done.is_empty() || text.contains('.') {
        for part in done.split('.') {
            octets.push(octet(part)?);
        }
    }
    if octets.len() > 3 || octets.len() == 3 && text.ends_with("..") {
        return Err("it has more than four numbers".to_owned());
    }
    // 19 is the beginning of 19 and of 190 to 199.
    let lasts: Vec<RangeInclusive<u8>> = if partial.is_empty() {
        if octets.is_empty() {
            return Err("it is empty".to_owned());
        }
        vec![0..=255]
    } else {
        let number = u16::from(octet(partial)?);
        let widths = if number == 0 { 1 } else { 3 };
        (0..widths)
            .filter_map(|digits| {
                let scale = 10_u16.pow(digits);
                let first = u8::try_from(number * scale).ok()?;
                let last = (number * scale + (scale - 1)).min(255) as u8;
                Some(first..=last)
            })
            .collect()
    };
    Ok(lasts
        .into_iter()
        .map(|last| {
            let bound = |value, rest| {
                let mut bytes = [rest; 4];
                bytes[..octets.len()].copy_from_slice(&octets);
                bytes[octets.len()] = value;
                mapped(Ipv4Addr::from(bytes).into())
            };
            bound(*last.start(), 0)..=bound(*last.end(), 255)
        })
        .collect())
}

fn octet(text: &str) -> Result<u8, String> {
    let is_written_so = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| is_written_so)
        .ok_or_else(|| format!("'{}' is no number from 0 to 255", shown(text)))
}

/// What somebody wrote, as far as a message has room for it.
fn shown(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn ipv6_prefix(text: &str) -> Result<Vec<Range>, String> {
    let (done, partial) = text.rsplit_once(':').unwrap_or(("", text));
    if text.contains("::") {
        return Err("the beginning of an address cannot leave out groups: \
                    give a network, as 2001:db8::/32"
            .to_owned());
    }
    let mut groups = Vec::new();
    for part in done.split(':') {
        groups.push(group(part)?);
    }
    if groups.len() > 7 {
        return Err("it has more than eight groups".to_owned());
    }
    let lasts: Vec<RangeInclusive<u16>> = if partial.is_empty() {
        vec![0..=0xffff]
    } else {
        let number = u32::from(group(partial)?);
        let widths = if number == 0 { 1 } else { 4 };
        (0..widths)
            .filter_map(|digits| {
                let first = u16::try_from(number << (4 * digits)).ok()?;
                Some(first..=first | ((1_u32 << (4 * digits)) - 1) as u16)
            })
            .collect()
    };
    Ok(lasts
        .into_iter()
        .map(|last| {
            let bound = |value, rest| {
                let mut all = [rest; 8];
                all[..groups.len()].copy_from_slice(&groups);
                all[groups.len()] = value;
                Ipv6Addr::from(all).octets()
            };
            bound(*last.start(), 0)..=bound(*last.end(), 0xffff)
        })
        .collect())
}

fn group(text: &str) -> Result<u16, String> {
    let is_written_so =
        (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(text, 16)
        .ok()
        .filter(|_| is_written_so)
        .ok_or_else(|| {
            format!(
                "'{}' is no group of one to four hexadecimal digits",
                shown(text)
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(text: &str, address: &str) -> bool {
        let address = mapped(address.parse().unwrap());
        parse(text)
            .unwrap()
            .iter()
            .any(|range| range.contains(&address))
    }

    #[test]
    fn an_address_finds_itself_and_a_network_all_that_is_in_it() {
        assert!(finds("192.0.2.1", "192.0.2.1") && !finds("192.0.2.1", "192.0.2.10"));
        assert!(finds("192.0.2.0/24", "192.0.2.255") && !finds("192.0.2.0/24", "192.0.3.0"));
        // The bits of the host are not looked at.
        assert!(finds("192.0.2.7/24", "192.0.2.1"));
        assert!(finds("0.0.0.0/0", "255.1.2.3") && !finds("0.0.0.0/0", "2001:db8::1"));
        assert!(finds("2001:db8::/32", "2001:db8:1::1") && !finds("::1", "::2"));
        assert!(finds("::/0", "2001:db8::1"));
    }

    #[test]
    fn the_beginning_of_an_address_finds_all_that_is_written_so() {
        for text in [
            "1",
            "19",
            "192",
            "192.",
            "192.0",
            "192.0.2",
            "192.0.2.",
            "192.0.2.3",
        ] {
            assert!(finds(text, "192.0.2.34") || text == "192.0.2.3", "{text}");
        }
        assert!(!finds("192.0.2.", "192.0.20.1") && finds("192.0.2", "192.0.20.1"));
        assert!(!finds("192.0.2", "192.0.3.1") && !finds("19", "20.0.0.1"));
        assert!(!finds("0", "10.0.0.1"));
        assert!(finds("2001:db8:", "2001:db8::1") && finds("2001:db", "2001:db8::1"));
        assert!(!finds("2001:db8:1", "2001:db8:2::") && finds("2001:db8:1", "2001:db8:1f::"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("300.1.1.1", "300"),
            ("192.0.2.1/200", "200"),
            ("192.0.2.1/33", "33"),
            ("2001:db8::/129", "129"),
            ("2001:db8::1:", "leave out"),
            ("1.2.3.4.5", "more than four"),
            ("", "empty"),
            (".", "''"),
            ("1..2", "''"),
            ("01.2", "'01'"),
            ("host", "'host'"),
            ("2001:xyz:", "'xyz'"),
            ("1:2:3:4:5:6:7:8:9", "more than eight"),
            ("1.2.3.4/", "no network"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        for long in [
            "1.".to_owned() + &"9".repeat(9999),
            "a:".to_owned() + &"b".repeat(9999),
        ] {
            let error = parse(&long).expect_err("it is long");
            assert!(error.len() < 200, "{error}");
        }
    }
}
