//! Any bytes at all, as a frame of either link type, tunnels looked into or not, PTP recognised or
//! not: the parser never panics, and what it says holds for every frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ntpmon_common::{
    Event, PtpEvent, PtpMessage, PtpType, Skip, flags,
    parse::{Events, Protocol, Settings, parse},
    settings::{Link, PortSet, Switch},
};

static PORTS: PortSet = PortSet::of(&[123, 1123]);

/// A tag that the kernel holds beside the frame.
const OUTER_TAG: u16 = 7;

fuzz_target!(|frame: &[u8]| {
    for link in [Link::Ethernet, Link::Ip] {
        for outer_tag in [0, OUTER_TAG] {
            let plain = check(frame, link, outer_tag, false);
            let decapsulated = check(frame, link, outer_tag, true);
            check_ptp(frame, link, outer_tag, false, plain);
            check_ptp(frame, link, outer_tag, true, decapsulated);
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
        ptp: &Switch::OFF,
    };
    let mut events = Events::EMPTY;
    match parse(&frame, link, outer_tag, settings, &mut events) {
        Ok(protocol) => {
            assert_eq!(protocol, Protocol::Ntp);
            check_event(&events.ntp, frame, outer_tag, decapsulate);
            Ok(events.ntp)
        }
        Err(skip) => {
            assert!(
                !matches!(
                    skip,
                    Skip::Emitted
                        | Skip::RingFull
                        | Skip::UnknownLink
                        | Skip::PtpEmitted
                        | Skip::PtpRingFull
                        | Skip::PtpBadVersion
                        | Skip::PtpMalformed
                ),
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

/// With PTP recognised, nothing changes but what is PTP and was nothing before.
fn check_ptp(
    frame: &[u8],
    link: Link,
    outer_tag: u16,
    decapsulate: bool,
    without: Result<Event, Skip>,
) {
    let settings = Settings {
        ports: &PORTS,
        decapsulate,
        ptp: &Switch::ON,
    };
    let mut events = Events::EMPTY;
    match parse(&frame, link, outer_tag, settings, &mut events) {
        Ok(Protocol::Ntp) => assert_eq!(without, Ok(events.ntp)),
        Ok(Protocol::Ptp) => {
            assert!(without.is_err());
            check_message(&events.ptp, frame, outer_tag);
        }
        Err(skip) => {
            let of_ptp = matches!(
                skip,
                Skip::PtpBadVersion | Skip::PtpMalformed | Skip::Truncated
            );
            assert!(of_ptp || without == Err(skip), "{skip:?} and {without:?}");
        }
    }
}

fn check_message(event: &PtpEvent, frame: &[u8], outer_tag: u16) {
    let message = &event.message;
    let kind = message.kind().expect("a type that is known");
    let shortest = match kind {
        PtpType::Announce => 64,
        PtpType::Management => 48,
        PtpType::Sync | PtpType::DelayRequest | PtpType::FollowUp | PtpType::Signaling => 44,
        _ => 54,
    };
    assert!(message.length() >= shortest);
    assert!(message.length() <= event.payload_length);
    assert_eq!(message.version(), 2);
    if event.flags & flags::LAYER2 != 0 {
        assert_eq!(
            (event.source_port, event.destination_port, event.ttl),
            (0, 0, 0)
        );
        assert_eq!(event.flags, flags::LAYER2);
    } else {
        let ports = [event.source_port, event.destination_port];
        assert!(ports.iter().any(|port| matches!(port, 319 | 320)));
    }
    assert!(outer_tag == 0 || event.vlan[0] == outer_tag);
    assert!(event.vlan.iter().all(|id| *id <= 0x0fff));
    // What was read is in the frame, byte for byte, and behind it there is nothing.
    let kept = match message.length() {
        64.. => PtpMessage::LENGTH,
        54.. => 54,
        48.. => 48,
        _ => 44,
    };
    assert!(
        frame
            .windows(kept)
            .any(|window| window == &message.0[..kept])
    );
    assert!(message.0[kept..].iter().all(|byte| *byte == 0));
    assert_eq!(
        (event.time, event.interface, event.direction, event.kind),
        (0, 0, 0, PtpEvent::KIND)
    );
    assert_eq!((event.reserved, event.reserved_too), ([0; 2], 0));
    // Whatever they hold, they can be read.
    let _ = (message.announced(), message.requester(), message.target());
    let _ = (
        message.timestamp(),
        message.correction(),
        message.carries_ntp(),
    );
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
