//! Hashes of who talks to whom, the same for a packet and for its answer.

use std::{hash::BuildHasher, sync::LazyLock};

use foldhash::fast::RandomState;
use ntpmon_common::{Event, Timestamp};

/// Seeded anew in every process: nobody can prepare colliding addresses.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The flow of a packet whose sender asks, and the value that its answer will carry.
pub(super) fn asking_hash(event: &Event, value: Timestamp) -> u64 {
    hash(
        (&event.source, event.source_port),
        (&event.destination, event.destination_port),
        event.interface,
        value,
    )
}

/// The flow of a packet whose sender answers: the same flow, seen from the asker.
pub(super) fn answering_hash(event: &Event, value: Timestamp) -> u64 {
    hash(
        (&event.destination, event.destination_port),
        (&event.source, event.source_port),
        event.interface,
        value,
    )
}

pub(super) fn client_hash(address: &[u8; 16], interface: u32) -> u64 {
    HASHER.hash_one((u128::from_ne_bytes(*address), interface))
}

/// Whether `answer` went the way back that `question` came.
pub(super) fn is_reverse(question: &Event, answer: &Event) -> bool {
    question.source == answer.destination
        && question.destination == answer.source
        && question.source_port == answer.destination_port
        && question.destination_port == answer.source_port
        && question.interface == answer.interface
}

/// Whether both packets went the same way.
pub(super) fn is_same(one: &Event, other: &Event) -> bool {
    one.source == other.source
        && one.destination == other.destination
        && one.source_port == other.source_port
        && one.destination_port == other.destination_port
        && one.interface == other.interface
}

fn hash(
    asker: (&[u8; 16], u16),
    answerer: (&[u8; 16], u16),
    interface: u32,
    value: Timestamp,
) -> u64 {
    let ends = u64::from(interface) << 32 | u64::from(asker.1) << 16 | u64::from(answerer.1);
    HASHER.hash_one((
        u128::from_ne_bytes(*asker.0),
        u128::from_ne_bytes(*answerer.0),
        ends,
        value.0,
    ))
}
