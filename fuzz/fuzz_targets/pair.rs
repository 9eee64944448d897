//! Any bytes at all, as a sequence of packets of a small world: pairing and timings never panic,
//! and the totals add up whatever bound is hit. The daemon's module is compiled by its path: it is
//! pure, and the rest of the daemon would want the kernel programs.

#![no_main]

#[allow(dead_code, reason = "only pairing and timings are run")]
#[path = "../../ntpmon/src/ntp/mod.rs"]
mod ntp;
#[path = "../record.rs"]
mod record;

use libfuzzer_sys::fuzz_target;
use ntp::{
    Stamped,
    exchange::{Exchange, LocalAddresses, Timekeeper},
    pair::{Outcome, Pairer, Settings, Totals},
};
use ntpmon_common::{Event, Mode};
use record::{RECORD, STEPS};

fuzz_target!(|bytes: &[u8]| {
    let packets = packets(bytes);
    let tiny = Settings {
        pending_bound: 4,
        client_bound: 4,
        held_bound: 4,
        symmetric_bound: 4,
        ..Settings::default()
    };
    let mut totals = Vec::new();
    for bounds in [Settings::default(), tiny] {
        for in_order in [false, true] {
            let settings = Settings {
                in_order,
                ..bounds.clone()
            };
            totals.push(run(&packets, settings));
        }
    }
    assert_eq!(totals[0], totals[1], "the order of reports changes nothing");
    assert_eq!(totals[2], totals[3], "not at the bounds either");
});

fn packets(bytes: &[u8]) -> Vec<Stamped> {
    let mut time = 1_700_000_000_000_000_000_u64;
    let mut packets = Vec::new();
    for (frame, record) in bytes.chunks_exact(RECORD).enumerate() {
        time = time.saturating_add_signed(STEPS[usize::from(record[0] & 15)]);
        packets.push(packet(record, time, frame as u64));
    }
    packets
}

/// A packet: its step in time, its ends, the first two bytes of its header, a time for each of the
/// header's four, and the reference id.
fn packet(record: &[u8], time: u64, frame: u64) -> Stamped {
    let mut event = Event::EMPTY;
    event.time = time;
    let ends = record[1];
    event.source[15] = ends & 3;
    event.destination[15] = ends >> 2 & 3;
    event.source_port = if ends & 0x10 == 0 { 123 } else { 40_000 };
    event.destination_port = if ends & 0x20 == 0 { 123 } else { 40_000 };
    event.interface = u32::from(ends >> 6 & 1);
    event.ntp.0[0] = record[2];
    event.ntp.0[1] = record[3];
    for (index, selector) in record[4..8].iter().enumerate() {
        let value = record::time(*selector);
        event.ntp.0[16 + index * 8..][..8].copy_from_slice(&value.to_be_bytes());
    }
    event.ntp.0[12] = record[8];
    event.ntp.0[13..16].fill(record[9]);
    // The host's clock, which may be stepped while the time of the packets goes on.
    let step = i64::from(record[3].cast_signed()) << 32;
    Stamped {
        event,
        unix: time.cast_signed().wrapping_add(step),
        frame,
    }
}

fn run(packets: &[Stamped], settings: Settings) -> Totals {
    let mut pairer = Pairer::new(settings.clone());
    let mut timekeeper = Timekeeper::default();
    let addresses: LocalAddresses = std::iter::once({
        let mut address = [0; 16];
        address[15] = 1;
        address
    })
    .collect();
    let mut seen = Seen::default();
    let mut sink = |outcome: Outcome<'_>| match outcome {
        Outcome::Exchange(pair) => {
            let exchange = timekeeper.exchange(pair, &addresses);
            seen.take(&exchange, packets, settings.in_order);
        }
        Outcome::Unsolicited { .. } => seen.unsolicited += 1,
        Outcome::Multiple(_) => seen.multiple += 1,
        Outcome::Broadcast(_) | Outcome::Control(_) | Outcome::Private(_) => seen.others += 1,
    };
    for packet in packets {
        pairer.observe(packet, &mut sink);
    }
    pairer.flush(&mut sink);
    let totals = *pairer.totals();
    assert_eq!(totals.packets(), packets.len() as u64);
    assert_eq!(totals.exchanges, totals.answered + totals.unanswered);
    assert_eq!(
        totals.responses,
        seen.answered_by_server + totals.multiple_responses + totals.unsolicited
    );
    assert_eq!(totals.answered, seen.answered);
    assert_eq!(totals.unanswered, seen.unanswered);
    assert_eq!(totals.unsolicited, seen.unsolicited);
    assert_eq!(totals.multiple_responses, seen.multiple);
    assert_eq!(
        totals.broadcast + totals.control + totals.private,
        seen.others
    );
    assert!(totals.late <= totals.unsolicited);
    seen.sequences.sort_unstable();
    assert!(
        seen.sequences.iter().copied().eq(0..totals.exchanges),
        "sequences are dense"
    );
    totals
}

#[derive(Default)]
struct Seen {
    answered: u64,
    answered_by_server: u64,
    unanswered: u64,
    unsolicited: u64,
    multiple: u64,
    others: u64,
    sequences: Vec<u64>,
    last_ordinary: Option<u64>,
}

impl Seen {
    fn take(&mut self, exchange: &Exchange, packets: &[Stamped], in_order: bool) {
        self.sequences.push(exchange.sequence);
        let question = &packets[exchange.request.frame as usize].event;
        assert_eq!(*question, exchange.request.event);
        let symmetric = matches!(
            question.ntp.mode(),
            Mode::SymmetricActive | Mode::SymmetricPassive
        );
        if in_order && !symmetric {
            assert!(self.last_ordinary < Some(exchange.sequence), "out of order");
            self.last_ordinary = Some(exchange.sequence);
        }
        let Some(response) = &exchange.response else {
            self.unanswered += 1;
            assert_eq!(exchange.timings, ntp::exchange::Timings::default());
            return;
        };
        self.answered += 1;
        let answer = &packets[response.frame as usize].event;
        if matches!(answer.ntp.mode(), Mode::Server | Mode::Unspecified) {
            self.answered_by_server += 1;
        }
        assert_eq!(question.source, answer.destination);
        assert_eq!(question.destination, answer.source);
        assert_eq!(question.source_port, answer.destination_port);
        assert_eq!(question.interface, answer.interface);
        let timings = &exchange.timings;
        assert_eq!(timings.offset.is_some(), timings.delay.is_some());
        if exchange.interleaved {
            assert_eq!(timings.server_processing_time, None);
        }
        if exchange.kiss_code().is_some() {
            assert_eq!(timings.client_to_server_latency, None);
            assert_eq!(timings.server_processing_time, None);
            assert_eq!(timings.offset, None);
        }
    }
}
