//! Any bytes at all, as a frame of either link type, tunnels looked into or not: the parser never
//! panics, and what it says holds for every frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ntpmon_common::{
    Event, Skip, flags,
    parse::{Settings, parse},
    settings::{Link, PortSet},
};

static PORTS: PortSet = PortSet::of(&[123, 1123]);

/// A tag that the kernel holds beside the frame.
const OUTER_TAG: u16 = 7;

fuzz_target!(|frame: &[u8]| {
    for link in [Link::Ethernet, Link::Ip] {
        for outer_tag in [0, OUTER_TAG] {
            let plain = check(frame, link, outer_tag, false);
            let decapsulated = check(frame, link, outer_tag, true);
            // Looking into tunnels finds more, but never something else.
            match (plain, decapsulated) {
                (Ok(plain), Ok(other)) => assert_eq!(plain, other),
                (Ok(_), Err(skip)) => panic!("found, but not when looking into tunnels: {skip:?}"),
                (Err(_), Ok(event)) => assert_ne!(event.flags & flags::TUNNELLED, 0),
                (Err(_), Err(_)) => {}
            }
        }
    }
});

fn check(frame: &[u8], link: Link, outer_tag: u16, decapsulate: bool) -> Result<Event, Skip> {
    let settings = Settings {
        ports: &PORTS,
        decapsulate,
    };
    let mut event = Event::EMPTY;
    match parse(&frame, link, outer_tag, settings, &mut event) {
        Ok(()) => {
            check_event(&event, frame, outer_tag, decapsulate);
            Ok(event)
        }
        Err(skip) => {
            assert!(
                !matches!(skip, Skip::Emitted | Skip::RingFull | Skip::UnknownLink),
                "a parser cannot know {skip:?}"
            );
            assert!(
                decapsulate || skip != Skip::TunnelDepth,
                "no tunnel was looked into"
            );
            Err(skip)
        }
    }
}

fn check_event(event: &Event, frame: &[u8], outer_tag: u16, decapsulate: bool) {
    assert!(PORTS.contains(event.source_port) || PORTS.contains(event.destination_port));
    let (version, mode) = (event.ntp.0[0] >> 3 & 7, event.ntp.0[0] & 7);
    assert!((1..=5).contains(&version), "version {version}");
    let shortest = match mode {
        6 => 12,
        7 => 8,
        _ => 48,
    };
    assert!(
        event.payload_length >= shortest,
        "mode {mode}: {}",
        event.payload_length
    );
    assert!(decapsulate || event.flags & flags::TUNNELLED == 0);
    assert!(
        outer_tag == 0 || event.vlan[0] == outer_tag,
        "the kernel's tag is the outermost"
    );
    assert!(event.vlan.iter().all(|id| *id <= 0x0fff));
    if event.flags & flags::IPV6 == 0 {
        assert_eq!(
            event.source[..12],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        );
    }
    // What was read is in the frame, byte for byte.
    let read = usize::from(event.payload_length.min(48));
    let read = if mode == 7 && read < 48 {
        8
    } else if mode == 6 && read < 48 {
        12
    } else {
        read
    };
    assert!(
        frame
            .windows(read)
            .any(|window| window == &event.ntp.0[..read])
    );
    assert!(event.ntp.0[read..].iter().all(|byte| *byte == 0));
    // These are the caller's.
    assert_eq!(
        (event.time, event.interface, event.direction, event.kind),
        (0, 0, 0, 0)
    );
}
