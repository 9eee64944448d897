//! What fuzzing starts from: one made frame of every kind that the parser knows, and each frame of
//! the capture files in the folder that `NTPMON_CAPTURES` names.

use anyhow::{Context as _, Result};
use std::{env, fs, path::Path};

/// More than these from one file add no coverage, only start-up time.
const FRAMES_PER_FILE: usize = 500;

/// Fills the folder; the number of seeds.
pub(super) fn write(directory: &Path) -> Result<usize> {
    let mut frames = made();
    if let Some(captures) = env::var_os("NTPMON_CAPTURES") {
        add_captures(Path::new(&captures), &mut frames)?;
    }
    for (index, frame) in frames.iter().enumerate() {
        let path = directory.join(format!("{index:05}"));
        fs::write(&path, frame).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(frames.len())
}

fn add_captures(directory: &Path, frames: &mut Vec<Vec<u8>>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("NTPMON_CAPTURES: reading {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            add_captures(&path, frames)?;
        } else {
            let file = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            frames.extend(split(&file).into_iter().take(FRAMES_PER_FILE));
        }
    }
    Ok(())
}

/// The frames of a classic pcap file; nothing for any other file, which is enough for seeds.
fn split(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |offset: usize| -> Option<[u8; 4]> { file.get(offset..offset + 4)?.try_into().ok() };
    let number: fn([u8; 4]) -> u32 = match word(0) {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => u32::from_le_bytes,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => u32::from_be_bytes,
        _ => return Vec::new(),
    };
    let mut frames = Vec::new();
    let mut offset = 24;
    while let Some(length) = word(offset + 8).map(|bytes| number(bytes) as usize) {
        let start = offset + 16;
        let Some(frame) = file.get(start..start + length) else {
            break;
        };
        frames.push(frame.to_vec());
        offset = start + length;
    }
    frames
}

/// A frame of every kind.
fn made() -> Vec<Vec<u8>> {
    let request = ntp(0x23, &[]);
    let plain = ipv4(17, &udp(40000, 123, &request));
    let nts = ntp(
        0x23,
        &[&[1, 4, 0, 36][..], &[7; 32], &[4, 4, 0, 28], &[9; 24]].concat(),
    );
    let signed = ntp(0x24, &[&[0, 0, 0, 5][..], &[3; 16]].concat());
    let inner = ethernet(0x0800, &plain);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner].concat();
    let fragment_header = [17, 0, 0, 1, 0, 0, 0, 1];
    vec![
        ethernet(0x0800, &plain),
        ethernet(0x0800, &ipv4(17, &udp(123, 40000, &ntp(0x24, &[])))),
        ethernet(0x0800, &ipv4(17, &udp(40000, 123, &nts))),
        ethernet(0x0800, &ipv4(17, &udp(123, 40000, &signed))),
        ethernet(0x0800, &ipv4(17, &udp(40000, 123, &ntp(0x23, &[0; 4])))),
        ethernet(
            0x0800,
            &ipv4(
                17,
                &udp(40000, 123, &[0x16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            ),
        ),
        ethernet(
            0x0800,
            &ipv4(17, &udp(40000, 123, &[0x17, 0, 3, 42, 0, 0, 0, 0])),
        ),
        ethernet(0x0800, &ipv4(17, &udp(40000, 53, &request))),
        ethernet(0x8100, &[&[0, 5, 8, 0][..], &plain].concat()),
        ethernet(0x88a8, &[&[0, 6, 0x81, 0, 0, 5, 8, 0][..], &plain].concat()),
        ethernet(0x86dd, &ipv6(17, &udp(40000, 123, &request))),
        ethernet(
            0x86dd,
            &ipv6(
                44,
                &[&fragment_header[..], &udp(40000, 123, &request)].concat(),
            ),
        ),
        ethernet(
            0x86dd,
            &ipv6(
                0,
                &[
                    &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..],
                    &udp(40000, 123, &request),
                ]
                .concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(17, &udp(40000, 4789, &vxlan))),
        ethernet(0x0800, &ipv4(47, &[&[0, 0, 8, 0][..], &plain].concat())),
        ethernet(
            0x0800,
            &ipv4(
                47,
                &[&[0x20, 0, 0x65, 0x58, 0, 0, 0, 1][..], &inner].concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(4, &plain)),
        ethernet(0x0800, &ipv4(41, &ipv6(17, &udp(40000, 123, &request)))),
        ethernet(0x0806, &[0; 28]),
        plain,
        ipv6(17, &udp(40000, 123, &request)),
    ]
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..],
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let header = [
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    [&header[..], payload].concat()
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next_header, 64];
    [&header[..], &[0xfd; 16], &[0xfe; 16], payload].concat()
}

fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source_port, destination_port, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

fn ntp(first: u8, trailer: &[u8]) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..48).collect();
    packet[0] = first;
    packet.extend_from_slice(trailer);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_split_into_its_frames() {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
        file.extend([0; 20]);
        for frame in [&b"first"[..], b"second"] {
            file.extend([0; 8]);
            file.extend((frame.len() as u32).to_le_bytes());
            file.extend([0; 4]);
            file.extend(frame);
        }
        file.extend([0; 9]);
        assert_eq!(split(&file), [b"first".to_vec(), b"second".to_vec()]);
        assert!(split(b"something else").is_empty());
    }

    #[test]
    fn a_folder_of_captures_that_is_not_there_is_an_error() {
        assert!(add_captures(Path::new("/nonexistent/captures"), &mut Vec::new()).is_err());
    }
}
