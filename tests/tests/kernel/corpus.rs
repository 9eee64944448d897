//! Odd frames, the same ones every time: everything that the parser decides on, in all the ways
//! that it can go, and the same cut off anywhere.

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// All of them.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut random = Random(1);
    let mut frames = Vec::new();
    payload_lengths(&mut random, &mut frames);
    modes_and_versions(&mut random, &mut frames);
    trailers(&mut random, &mut frames);
    tags(&mut random, &mut frames);
    ipv4_headers(&mut random, &mut frames);
    ipv6_headers(&mut random, &mut frames);
    ports(&mut random, &mut frames);
    tunnels(&mut random, &mut frames);
    ptp_messages(&mut random, &mut frames);
    random_mixtures(&mut random, &mut frames);
    cuts(&mut random, &mut frames);
    frames
}

fn payload_lengths(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for length in 0..=400 {
        for first in [0x23, 0x24, 0x16, 0x17] {
            let mut payload = random.bytes(length);
            if let Some(byte) = payload.first_mut() {
                *byte = first;
            }
            frames.push(ethernet(0x0800, &ipv4(17, &udp(123, 123, &payload))));
        }
    }
    // A UDP header that promises more, less, or less than itself.
    for length in [0, 1, 7, 8, 15, 16, 55, 56, 57, 200, 65535_u16] {
        let mut datagram = udp(123, 123, &ntp(random, 4, 3, &[]));
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        frames.push(ethernet(0x0800, &ipv4(17, &datagram)));
    }
}

fn modes_and_versions(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for first in 0..=255_u8 {
        let payload = ntp(random, first >> 3 & 7, first & 7, &[]);
        frames.push(ethernet(0x0800, &ipv4(17, &udp(40000, 123, &payload))));
        frames.push(ethernet(0x86dd, &ipv6(17, &udp(123, 40000, &payload))));
    }
}

fn trailers(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for version in 1..=5 {
        for length in 0..=100 {
            // Random bytes, then zeros: a crypto-NAK, an empty digest.
            for trailer in [random.bytes(length), vec![0; length]] {
                let payload = ntp(random, version, 4, &trailer);
                frames.push(ethernet(0x0800, &ipv4(17, &udp(123, 40000, &payload))));
            }
        }
        // Extension fields up to more than are looked through, with and without a MAC behind.
        for count in 1..=18 {
            for kind in [0x0104, 0x0204, 0x0304, 0x0404, 0x0002, 0xf323] {
                for mac in [0, 4, 20, 24, 28, 72] {
                    let mut trailer = Vec::new();
                    for _ in 0..count {
                        let size = 16 + 4 * random.below(8);
                        trailer.extend(extension_field(random, kind, size));
                    }
                    trailer.extend(random.bytes(mac));
                    let payload = ntp(random, version, 3, &trailer);
                    frames.push(ethernet(0x86dd, &ipv6(17, &udp(40000, 123, &payload))));
                }
            }
        }
        // Sizes that are no sizes, and one that lies.
        for size in [0, 1, 4, 12, 15, 17, 30, 65532_u16] {
            let mut trailer = extension_field(random, 0x0104, 64);
            trailer[2..4].copy_from_slice(&size.to_be_bytes());
            let payload = ntp(random, version, 3, &trailer);
            frames.push(ethernet(0x0800, &ipv4(17, &udp(40000, 123, &payload))));
        }
    }
}

fn tags(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let packet = ipv4(17, &udp(40000, 123, &ntp(random, 4, 3, &[])));
    for depth in 0..=4 {
        for kind in [0x8100_u16, 0x88a8, 0x9100] {
            for id in [0_u16, 1, 0x0fff, 0xe064] {
                let mut ethertype = 0x0800;
                let mut data = packet.clone();
                for level in 0..depth {
                    data = [
                        (id ^ level).to_be_bytes().to_vec(),
                        ethertype_bytes(ethertype),
                        data,
                    ]
                    .concat();
                    ethertype = kind;
                }
                frames.push(ethernet(ethertype, &data));
            }
        }
    }
}

fn ipv4_headers(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let datagram = udp(40000, 123, &ntp(random, 4, 3, &[]));
    for words in 0..=15_u8 {
        for version in [4, 5, 6, 0] {
            let mut packet = ipv4(17, &[]);
            packet[0] = version << 4 | words;
            packet.resize(usize::from(words).max(5) * 4, 1);
            packet.extend(&datagram);
            frames.push(ethernet(0x0800, &packet));
        }
    }
    for fragment in [0x2000_u16, 0x4000, 0x8000, 0x0001, 0x1fff, 0x2001, 0x6000] {
        let mut packet = ipv4(17, &datagram);
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        frames.push(ethernet(0x0800, &packet));
    }
    for protocol in 0..=255 {
        frames.push(ethernet(0x0800, &ipv4(protocol, &datagram)));
    }
    // An ICMP error that quotes NTP.
    let quote = [vec![3, 3, 0, 0, 0, 0, 0, 0], ipv4(17, &datagram)].concat();
    frames.push(ethernet(0x0800, &ipv4(1, &quote)));
    for ethertype in [
        0x0000, 0x05dc, 0x0806, 0x0800, 0x86dd, 0x88cc, 0x88f7, 0xffff,
    ] {
        frames.push(ethernet(ethertype, &ipv4(17, &datagram)));
        frames.push(ethernet(ethertype, &ipv6(17, &datagram)));
    }
}

fn ipv6_headers(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let datagram = udp(40000, 123, &ntp(random, 4, 3, &[]));
    for count in 0..=6 {
        for kind in [0_u8, 43, 44, 51, 60, 135, 139, 140] {
            for length in [0, 1, 4, 255] {
                frames.push(ethernet(
                    0x86dd,
                    &chain(&vec![kind; count], length, 0, &datagram),
                ));
            }
        }
        for _ in 0..20 {
            let kinds: Vec<u8> = (0..count)
                .map(|_| random.one_of(&[0, 43, 44, 51, 60, 135]))
                .collect();
            let length = random.below(3) as u8;
            frames.push(ethernet(0x86dd, &chain(&kinds, length, 0, &datagram)));
        }
    }
    for fragment in [0_u16, 1, 2, 6, 8, 9, 0xfff8, 0xffff] {
        frames.push(ethernet(0x86dd, &chain(&[44], 0, fragment, &datagram)));
        frames.push(ethernet(0x86dd, &chain(&[60, 44], 1, fragment, &datagram)));
    }
    for protocol in 0..=255 {
        frames.push(ethernet(0x86dd, &ipv6(protocol, &datagram)));
    }
}

/// An IPv6 packet with extension headers, all of the same length field.
fn chain(kinds: &[u8], length: u8, fragment: u16, datagram: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, &kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(17);
        let size = match kind {
            44 => 8,
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let mut header = vec![0; size];
        header[0] = next;
        header[1] = length;
        if kind == 44 {
            header[2..4].copy_from_slice(&fragment.to_be_bytes());
        }
        payload.extend(header);
    }
    payload.extend(datagram);
    ipv6(kinds.first().copied().unwrap_or(17), &payload)
}

fn ports(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let interesting = [0, 1, 59, 122, 123, 124, 187, 319, 4789, 0x7b00, 65535];
    for source in interesting {
        for destination in interesting {
            let datagram = udp(source, destination, &ntp(random, 4, 3, &[]));
            frames.push(ethernet(0x0800, &ipv4(17, &datagram)));
        }
    }
}

/// PTP of every type, version and length, over each transport, tagged and not.
fn ptp_messages(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for kind in 0..16_u8 {
        for length in [
            0_u16, 33, 34, 43, 44, 45, 47, 48, 53, 54, 55, 63, 64, 65, 96, 1000,
        ] {
            // As long as it says, two bytes longer as over IPv6, too short.
            for present in [length, length + 2, length.saturating_sub(1)] {
                let message = ptp(random, kind, 2, length, present);
                frames.push(ethernet(0x88f7, &message));
                frames.push(ethernet(0x0800, &ipv4(17, &udp(319, 319, &message))));
                frames.push(ethernet(0x86dd, &ipv6(17, &udp(320, 320, &message))));
            }
        }
        for version in 0..=15 {
            let message = ptp(random, kind, version | kind << 4, 64, 64);
            frames.push(ethernet(0x88f7, &message));
            frames.push(ethernet(0x0800, &ipv4(17, &udp(40000, 320, &message))));
        }
    }
    let message = ptp(random, 11, 0x12, 64, 64);
    for depth in 0..=3 {
        let (mut ethertype, mut data) = (0x88f7, message.clone());
        for level in 0..depth {
            let tag = [
                (7_u16 + level).to_be_bytes().to_vec(),
                ethertype_bytes(ethertype),
            ];
            data = [tag.concat(), data].concat();
            ethertype = 0x8100;
        }
        frames.push(ethernet(ethertype, &data));
        // Cut off anywhere.
        for length in 0..data.len() {
            frames.push(ethernet(ethertype, &data[..length]));
        }
    }
    for [source, destination] in [
        [319, 40000],
        [40000, 319],
        [320, 123],
        [123, 319],
        [318, 321],
    ] {
        let datagram = udp(source, destination, &message);
        frames.push(ethernet(0x0800, &ipv4(17, &datagram)));
        frames.push(ethernet(0x0800, &ipv4(4, &ipv4(17, &datagram))));
    }
    // A UDP header that promises less than there is of the message, or than itself.
    for length in [0, 7, 8, 71, 72, 73, 65535_u16] {
        let mut datagram = udp(319, 319, &message);
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        frames.push(ethernet(0x0800, &ipv4(17, &datagram)));
    }
    // Without IP inside a tunnel it is none.
    let bridged = [&[0, 0, 0x65, 0x58][..], &ethernet(0x88f7, &message)].concat();
    frames.push(ethernet(0x0800, &ipv4(47, &bridged)));
}

fn ptp(random: &mut Random, kind: u8, version: u8, length: u16, present: u16) -> Vec<u8> {
    let mut message = random.bytes(present.into());
    let head = [0x10 | kind, version, (length >> 8) as u8, length as u8];
    for (byte, value) in message.iter_mut().zip(head) {
        *byte = value;
    }
    message
}

fn tunnels(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let datagram = udp(40000, 123, &ntp(random, 4, 3, &[]));
    let packets = [(0x0800, ipv4(17, &datagram)), (0x86dd, ipv6(17, &datagram))];
    let mut layer: Vec<(u16, Vec<u8>)> = packets.to_vec();
    for _ in 0..3 {
        let mut outer = Vec::new();
        for (ethertype, packet) in &layer {
            outer.extend(wrapped(random, *ethertype, packet));
        }
        for (ethertype, packet) in &outer {
            frames.push(ethernet(*ethertype, packet));
        }
        // A few of them go one deeper.
        layer = (0..6)
            .map(|_| outer[random.below(outer.len())].clone())
            .collect();
    }
}

/// A packet in each kind of tunnel, also in some that are not to be looked into.
fn wrapped(random: &mut Random, ethertype: u16, packet: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut packets = Vec::new();
    let mut in_both = |protocol: u8, payload: &[u8]| {
        packets.push((0x0800, ipv4(protocol, payload)));
        packets.push((0x86dd, ipv6(protocol, payload)));
    };
    in_both(if ethertype == 0x0800 { 4 } else { 41 }, packet);
    // Says one IP version, is the other.
    in_both(if ethertype == 0x0800 { 41 } else { 4 }, packet);
    for flags in [
        0, 0x8000, 0x2000, 0x1000, 0xb000, 0x4000, 0x0001, 0x0007_u16,
    ] {
        let options = 4 * [0x8000, 0x2000, 0x1000]
            .iter()
            .filter(|&&bit| flags & bit != 0)
            .count();
        let header = [
            flags.to_be_bytes().to_vec(),
            ethertype_bytes(ethertype),
            vec![0; options],
        ];
        in_both(47, &[header.concat(), packet.to_vec()].concat());
        let header = [
            flags.to_be_bytes().to_vec(),
            ethertype_bytes(0x6558),
            vec![0; options],
        ];
        in_both(47, &[header.concat(), ethernet(ethertype, packet)].concat());
    }
    for flags in [0x08, 0x00] {
        let mut header = random.bytes(8);
        header[0] = flags;
        let inner = [header.clone(), ethernet(ethertype, packet)].concat();
        in_both(17, &udp(50000, 4789, &inner));
        let tag = [vec![0, 7], ethertype_bytes(ethertype), packet.to_vec()].concat();
        let inner = [header, ethernet(0x8100, &tag)].concat();
        in_both(17, &udp(50000, 4789, &inner));
    }
    packets
}

/// Everything at once.
fn random_mixtures(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for _ in 0..1500 {
        let (version, mode) = (random.below(8) as u8, random.below(8) as u8);
        let length = random.one_of(&[0, 0, 0, 4, 20, 24, 72, 100, 300]);
        let trailer = random.bytes(length);
        let mut payload = ntp(random, version, mode, &trailer);
        if random.below(8) == 0 {
            payload.truncate(random.below(48));
        }
        let port = random.one_of(&[123, 123, 123, 53]);
        let datagram = udp(random.next() as u16, port, &payload);
        let (ethertype, packet) = if random.below(2) == 0 {
            (0x0800, ipv4(random.one_of(&[17, 17, 17, 6]), &datagram))
        } else {
            let kinds: Vec<u8> = (0..random.below(6))
                .map(|_| random.one_of(&[0, 43, 44, 51, 60]))
                .collect();
            (0x86dd, chain(&kinds, random.below(4) as u8, 0, &datagram))
        };
        let mut frame = if random.below(3) == 0 {
            let tag = [random.bytes(2), ethertype_bytes(ethertype), packet].concat();
            ethernet(0x8100, &tag)
        } else {
            ethernet(ethertype, &packet)
        };
        // One bit of a header wrong.
        if random.below(2) == 0 {
            let position = 12 + random.below(frame.len().min(90) - 12);
            frame[position] ^= 1 << random.below(8);
        }
        frames.push(frame);
    }
}

/// Frames that end anywhere.
fn cuts(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let trailer = [
        extension_field(random, 0x0104, 36),
        extension_field(random, 0x0404, 40),
        random.bytes(24),
    ]
    .concat();
    let payload = ntp(random, 4, 3, &trailer);
    let datagram = udp(40000, 123, &payload);
    let tag = [
        vec![0x20, 0x64],
        ethertype_bytes(0x86dd),
        chain(&[0, 44, 60], 1, 1, &datagram),
    ]
    .concat();
    let tunnelled = udp(
        50000,
        4789,
        &[vec![8; 8], ethernet(0x0800, &ipv4(17, &datagram))].concat(),
    );
    for frame in [
        ethernet(0x0800, &ipv4(17, &datagram)),
        ethernet(0x86dd, &ipv6(17, &datagram)),
        ethernet(0x8100, &tag),
        ethernet(0x0800, &ipv4(17, &tunnelled)),
        ethernet(
            0x0800,
            &ipv4(
                47,
                &[vec![0xb0, 0, 8, 0], vec![0; 12], ipv4(17, &datagram)].concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(17, &udp(123, 123, &random_control(random)))),
    ] {
        for length in 0..frame.len() {
            frames.push(frame[..length].to_vec());
        }
    }
}

fn random_control(random: &mut Random) -> Vec<u8> {
    let mut message = random.bytes(40);
    message[0] = 0x16;
    message
}

fn ntp(random: &mut Random, version: u8, mode: u8, trailer: &[u8]) -> Vec<u8> {
    let mut header = random.bytes(48);
    header[0] = version << 3 | mode;
    [header, trailer.to_vec()].concat()
}

fn extension_field(random: &mut Random, kind: u16, size: usize) -> Vec<u8> {
    let mut field = random.bytes(size);
    field[..2].copy_from_slice(&kind.to_be_bytes());
    field[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    field
}

fn ethertype_bytes(ethertype: u16) -> Vec<u8> {
    ethertype.to_be_bytes().to_vec()
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let addresses = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    [addresses, ethertype_bytes(ethertype), payload.to_vec()].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0, 0, 61, protocol, 0, 0, 192, 0, 2, 9, 198, 51, 100, 77,
    ];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(payload);
    packet
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 63];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 2, 9, 8, 7, 6, 5, 4, 3, 2]);
    packet.extend(payload);
    packet
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}
