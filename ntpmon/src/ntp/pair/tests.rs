//! Every row of the pairing rules, each as a few packets and what must come of them.

use ntpmon_common::Event;

use super::{Outcome, Pairer, Settings, Totals};
use crate::ntp::{ClientClock, Stamped};

use Came::{Interleaved, Multiple, Other, Pair, Unanswered, Unsolicited};
use ClientClock::{Honest, Randomised, Unknown};

pub(crate) const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;
/// Some time well after the start of everything.
const START: u64 = 1_700_000_000 * SECOND;
const CLIENT: u8 = 1;
const SERVER: u8 = 2;

/// A packet to be changed step by step.
#[derive(Clone, Copy)]
pub(crate) struct Made(Stamped);

/// A packet of a mode, in version 4, from the client to the server's port 123, 0 ms after the start.
pub(crate) fn packet(mode: u8) -> Made {
    let mut event = Event::EMPTY;
    event.ntp.0[0] = 4 << 3 | mode;
    event.ntp.0[1] = 2;
    Made(Stamped {
        event,
        unix: 0,
        frame: 0,
    })
    .from(CLIENT, 40_000)
    .to(SERVER, 123)
    .at(0)
}

/// A request that carries this transmit time.
fn ask(transmit: u64) -> Made {
    packet(3).transmit(transmit)
}

/// A response to the client that carries this origin, and plausible times.
fn answer(origin: u64) -> Made {
    packet(4)
        .from(SERVER, 123)
        .to(CLIENT, 40_000)
        .origin(origin)
        .receive(70)
        .transmit(80)
}

impl Made {
    pub(crate) fn at(self, milliseconds: u64) -> Self {
        self.at_time(START + milliseconds * MILLISECOND)
    }

    pub(crate) fn at_time(mut self, time: u64) -> Self {
        self.0.event.time = time;
        self.0.unix = i64::try_from(time).unwrap_or(i64::MAX);
        self
    }

    pub(crate) fn from(mut self, host: u8, port: u16) -> Self {
        self.0.event.source[15] = host;
        self.0.event.source_port = port;
        self
    }

    pub(crate) fn to(mut self, host: u8, port: u16) -> Self {
        self.0.event.destination[15] = host;
        self.0.event.destination_port = port;
        self
    }

    pub(crate) fn version(mut self, version: u8) -> Self {
        let first = &mut self.0.event.ntp.0[0];
        *first = *first & !0x38 | version << 3;
        self
    }

    pub(crate) fn leap(mut self, leap: u8) -> Self {
        let first = &mut self.0.event.ntp.0[0];
        *first = *first & !0xc0 | leap << 6;
        self
    }

    pub(crate) fn stratum(mut self, stratum: u8, reference_id: &[u8; 4]) -> Self {
        self.0.event.ntp.0[1] = stratum;
        self.0.event.ntp.0[12..16].copy_from_slice(reference_id);
        self
    }

    fn put(mut self, offset: usize, value: u64) -> Self {
        self.0.event.ntp.0[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn origin(self, value: u64) -> Self {
        self.put(24, value)
    }

    pub(crate) fn receive(self, value: u64) -> Self {
        self.put(32, value)
    }

    pub(crate) fn transmit(self, value: u64) -> Self {
        self.put(40, value)
    }

    pub(crate) fn on(mut self, interface: u32) -> Self {
        self.0.event.interface = interface;
        self
    }

    pub(crate) fn stamped(self) -> Stamped {
        self.0
    }
}

/// What came out, packets named by their position among those observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Pair(u64, u64),
    Interleaved(u64, u64),
    Unanswered(u64),
    Unsolicited(u64),
    Multiple(u64),
    Other(u64),
}

/// A pairer and all that came out of it.
pub(crate) struct World {
    pub(crate) pairer: Pairer,
    frames: u64,
    pub(crate) came: Vec<Came>,
    pub(crate) sequences: Vec<u64>,
    pub(crate) duplicates: Vec<u32>,
    pub(crate) clocks: Vec<ClientClock>,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            pairer: Pairer::new(settings),
            frames: 0,
            came: Vec::new(),
            sequences: Vec::new(),
            duplicates: Vec::new(),
            clocks: Vec::new(),
        }
    }

    /// A world that has seen these packets, in this order.
    fn of(packets: &[Made]) -> Self {
        Self::with(Settings::default(), packets)
    }

    fn with(settings: Settings, packets: &[Made]) -> Self {
        let mut world = Self::new(settings);
        for made in packets {
            world.observe(made.0);
        }
        world
    }

    pub(crate) fn observe(&mut self, mut packet: Stamped) {
        packet.frame = self.frames;
        self.frames += 1;
        self.run(|pairer, sink| pairer.observe(&packet, &mut |outcome| sink(outcome)));
    }

    fn advance(mut self, milliseconds: u64) -> Self {
        self.advance_to(START + milliseconds * MILLISECOND);
        self
    }

    fn advance_to(&mut self, time: u64) {
        self.run(|pairer, sink| pairer.advance(time, &mut |outcome| sink(outcome)));
    }

    pub(crate) fn flush(mut self) -> Self {
        self.run(|pairer, sink| pairer.flush(&mut |outcome| sink(outcome)));
        self
    }

    fn run(&mut self, step: impl FnOnce(&mut Pairer, &mut dyn FnMut(Outcome<'_>))) {
        let Self {
            pairer,
            came,
            sequences,
            duplicates,
            clocks,
            ..
        } = self;
        step(pairer, &mut |outcome| {
            came.push(match outcome {
                Outcome::Exchange(pair) => {
                    sequences.push(pair.sequence);
                    duplicates.push(pair.duplicates);
                    clocks.push(pair.client_clock);
                    match pair.response {
                        None => Unanswered(pair.request.frame),
                        Some(response) if pair.interleaved => {
                            Interleaved(pair.request.frame, response.frame)
                        }
                        Some(response) => Pair(pair.request.frame, response.frame),
                    }
                }
                Outcome::Unsolicited { response, .. } => Unsolicited(response.frame),
                Outcome::Multiple(packet) => Multiple(packet.frame),
                Outcome::Broadcast(packet)
                | Outcome::Control(packet)
                | Outcome::Private(packet) => Other(packet.frame),
            });
        });
    }

    pub(crate) fn totals(&self) -> &Totals {
        self.pairer.totals()
    }

    fn came(self) -> Vec<Came> {
        self.flush().came
    }
}

fn came(packets: &[Made]) -> Vec<Came> {
    World::of(packets).came()
}

#[test]
fn a_response_pairs_by_its_origin_compared_as_raw_bits() {
    let odd = 0xfff0_0000_0000_0001;
    assert_eq!(came(&[ask(odd), answer(odd).at(1)]), [Pair(0, 1)]);
    let other = odd ^ 1;
    assert_eq!(
        came(&[ask(odd), answer(other).at(1)]),
        [Unanswered(0), Unsolicited(1)]
    );
}

#[test]
fn two_requests_of_one_flow_are_told_apart_by_their_transmit_times() {
    let packets = [ask(1), ask(2).at(1), answer(2).at(2), answer(1).at(3)];
    assert_eq!(came(&packets), [Pair(1, 2), Pair(0, 3)]);
}

#[test]
fn addresses_and_ports_must_be_reversed() {
    for stranger in [
        answer(1).from(9, 123),
        answer(1).to(9, 40_000),
        answer(1).to(CLIENT, 40_001),
        answer(1).from(SERVER, 124),
        answer(1).from(CLIENT, 40_000).to(SERVER, 123),
    ] {
        assert_eq!(
            came(&[ask(1), stranger.at(1)]),
            [Unanswered(0), Unsolicited(1)]
        );
    }
}

#[test]
fn a_response_may_carry_another_version_than_its_request() {
    for (asked, answered) in [(4, 3), (3, 4), (2, 1), (1, 4)] {
        let packets = [ask(1).version(asked), answer(1).version(answered).at(1)];
        assert_eq!(came(&packets), [Pair(0, 1)], "{asked} {answered}");
    }
}

#[test]
fn roles_come_from_the_mode_when_both_ends_are_on_port_123() {
    let ask = ask(1).from(CLIENT, 123);
    let answer = answer(1).to(CLIENT, 123).at(1);
    assert_eq!(came(&[ask, answer]), [Pair(0, 1)]);
}

#[test]
fn a_server_on_another_port_is_a_server() {
    let ask = ask(1).from(CLIENT, 123).to(SERVER, 9999);
    let answer = answer(1).from(SERVER, 9999).to(CLIENT, 123).at(1);
    assert_eq!(came(&[ask, answer]), [Pair(0, 1)]);
}

#[test]
fn version_1_with_modes_3_and_4_is_paired_like_any_other() {
    assert_eq!(
        came(&[ask(1).version(1), answer(1).version(1).at(1)]),
        [Pair(0, 1)]
    );
}

#[test]
fn mode_0_to_the_ntp_port_asks_and_from_it_answers() {
    let ask = packet(0).version(1).transmit(1);
    let answer = packet(0)
        .version(1)
        .from(SERVER, 123)
        .to(CLIENT, 40_000)
        .origin(1)
        .at(1);
    let world = World::of(&[ask, answer]);
    assert_eq!((world.totals().requests, world.totals().responses), (1, 1));
    assert_eq!(world.came(), [Pair(0, 1)]);
}

#[test]
fn mode_0_between_ntp_ports_answers_what_it_names() {
    let ask = packet(0).version(1).from(CLIENT, 123).transmit(1);
    let answer = packet(0)
        .version(1)
        .from(SERVER, 123)
        .to(CLIENT, 123)
        .origin(1)
        .transmit(2)
        .at(1);
    let back = ask.origin(2).transmit(3).at(2);
    let world = World::of(&[ask, answer, back]);
    assert_eq!((world.totals().requests, world.totals().responses), (2, 1));
    assert_eq!(world.came(), [Pair(0, 1), Unanswered(2)]);
}

#[test]
fn mode_0_pairs_with_modes_3_and_4() {
    let answer_0 = packet(0)
        .version(1)
        .from(SERVER, 123)
        .to(CLIENT, 40_000)
        .origin(1)
        .at(1);
    assert_eq!(came(&[ask(1).version(1), answer_0]), [Pair(0, 1)]);
    let ask_0 = packet(0).version(1).transmit(1);
    assert_eq!(came(&[ask_0, answer(1).at(1)]), [Pair(0, 1)]);
}

#[test]
fn version_5_pairs_by_the_cookie_that_both_carry_at_byte_24() {
    let ask = packet(3).version(5).origin(7).transmit(8);
    assert_eq!(came(&[ask, answer(7).version(5).at(1)]), [Pair(0, 1)]);
    assert_eq!(
        came(&[ask, answer(8).version(5).at(1)]),
        [Unanswered(0), Unsolicited(1)]
    );
}

#[test]
fn version_5_says_by_a_flag_that_it_is_interleaved() {
    let ask = packet(3).version(5).origin(7);
    let flagged = answer(7).version(5).stratum(2, &[0, 0, 0, 2]).at(1);
    assert_eq!(came(&[ask, flagged]), [Interleaved(0, 1)]);
    assert_eq!(
        came(&[flagged.at(0), ask.at(1)]),
        [Interleaved(1, 0)],
        "response first"
    );
    // In version 4 these bytes are a reference id.
    assert_eq!(came(&[ask, flagged.version(4)]), [Pair(0, 1)]);
}

#[test]
fn version_5_has_no_receive_time_to_be_named_by() {
    let ask = packet(3).version(5).origin(7).receive(9);
    assert_eq!(
        came(&[ask, answer(9).version(5).at(1)]),
        [Unanswered(0), Unsolicited(1)]
    );
}

#[test]
fn a_retransmission_counts_once_and_the_first_keeps_its_time() {
    let settings = Settings {
        in_order: true,
        ..Settings::default()
    };
    let packets = [ask(1), ask(1).at(5), answer(1).at(9), ask(1).at(11)];
    let world = World::with(settings, &packets).flush();
    assert_eq!(world.came, [Pair(0, 2)]);
    assert_eq!(world.duplicates, [2]);
    assert_eq!(
        (world.totals().duplicates, world.totals().exchanges),
        (2, 1)
    );
}

#[test]
fn the_same_transmit_time_after_the_timeout_is_a_new_question() {
    let packets = [ask(1), ask(1).at(2500), answer(1).at(2600)];
    assert_eq!(came(&packets), [Unanswered(0), Pair(1, 2)]);
}

#[test]
fn a_second_response_is_a_multiple() {
    let world = World::of(&[ask(1), answer(1).at(1), answer(1).at(2), answer(1).at(3)]);
    assert_eq!(world.totals().multiple_responses, 2);
    assert_eq!(world.came(), [Pair(0, 1), Multiple(2), Multiple(3)]);
}

#[test]
fn a_second_response_after_the_timeout_is_late() {
    let world = World::of(&[ask(1), answer(1).at(1), answer(1).at(2001)]).flush();
    assert_eq!(world.came, [Pair(0, 1), Unsolicited(2)]);
    assert_eq!(
        (world.totals().multiple_responses, world.totals().late),
        (0, 1)
    );
}

#[test]
fn a_response_that_comes_first_waits_for_its_request() {
    assert_eq!(came(&[answer(1), ask(1).at(1)]), [Pair(1, 0)]);
    assert_eq!(came(&[answer(1), ask(1).at(2000)]), [Pair(1, 0)]);
    let late = [answer(1), ask(1).at_time(START + 2 * SECOND + 1)];
    assert_eq!(came(&late), [Unsolicited(0), Unanswered(1)]);
}

#[test]
fn a_response_that_comes_first_answers_one_request_only() {
    let packets = [answer(1), ask(1).at(1), answer(1).at(2), ask(2).at(3)];
    assert_eq!(came(&packets), [Pair(1, 0), Multiple(2), Unanswered(3)]);
}

#[test]
fn an_interleaved_response_may_come_first_too() {
    let ask = ask(2).receive(1).origin(5).at(1);
    assert_eq!(came(&[answer(1), ask]), [Interleaved(1, 0)]);
}

#[test]
fn a_response_without_an_origin_is_never_held_for_a_request() {
    assert_eq!(
        came(&[answer(0), ask(0).at(1)]),
        [Unsolicited(0), Unanswered(1)]
    );
    assert_eq!(
        came(&[ask(1), answer(0).at(1)]),
        [Unsolicited(1), Unanswered(0)]
    );
}

#[test]
fn a_receive_time_of_zero_is_not_named_by_an_origin_of_zero() {
    assert_eq!(
        came(&[ask(1).receive(0), answer(0).at(1)]),
        [Unsolicited(1), Unanswered(0)]
    );
}

#[test]
fn a_late_response_is_unsolicited_and_its_request_unanswered() {
    let world = World::of(&[ask(1), answer(1).at_time(START + 2 * SECOND + 1)]).flush();
    assert_eq!(world.came, [Unanswered(0), Unsolicited(1)]);
    let totals = world.totals();
    assert_eq!(
        (
            totals.unsolicited,
            totals.late,
            totals.unanswered,
            totals.answered
        ),
        (1, 1, 1, 0)
    );
}

#[test]
fn the_timeout_is_exact_at_the_nanosecond() {
    let on_time = answer(1).at_time(START + 2 * SECOND);
    assert_eq!(came(&[ask(1), on_time]), [Pair(0, 1)]);
    let mut world = World::of(&[ask(1)]);
    world.advance_to(START + 2 * SECOND);
    assert_eq!(world.came, []);
    world.advance_to(START + 2 * SECOND + 1);
    assert_eq!(world.came, [Unanswered(0)]);
}

#[test]
fn another_timeout_holds_as_exactly() {
    let settings = Settings {
        timeout: 300,
        ..Settings::default()
    };
    let packets = |after| [ask(1), answer(1).at_time(START + after)];
    let came = |after| World::with(settings.clone(), &packets(after)).came();
    assert_eq!(came(300), [Pair(0, 1)]);
    assert_eq!(came(301), [Unanswered(0), Unsolicited(1)]);
}

#[test]
fn a_request_without_a_transmit_time_pairs_when_it_is_the_only_one() {
    assert_eq!(came(&[ask(0), answer(0).at(1)]), [Pair(0, 1)]);
}

#[test]
fn two_waiting_requests_without_a_transmit_time_pair_with_nothing() {
    let packets = [ask(0), ask(0).at(1), answer(0).at(2)];
    assert_eq!(
        came(&packets),
        [Unsolicited(2), Unanswered(0), Unanswered(1)]
    );
}

#[test]
fn a_request_without_a_transmit_time_pairs_once_the_other_has_expired() {
    let packets = [
        ask(0),
        ask(0).at(1500),
        answer(0).at(2000),
        answer(0).at(2001),
    ];
    assert_eq!(came(&packets), [Unsolicited(2), Unanswered(0), Pair(1, 3)]);
}

#[test]
fn a_request_without_a_transmit_time_pairs_once_the_other_was_answered() {
    let packets = [ask(0), answer(0).at(1), ask(0).at(2), answer(0).at(3)];
    assert_eq!(came(&packets), [Pair(0, 1), Pair(2, 3)]);
    let three = [
        ask(0),
        answer(0).at(1),
        ask(0).at(2),
        ask(0).at(3),
        answer(0).at(4),
    ];
    assert_eq!(
        came(&three),
        [Pair(0, 1), Unsolicited(4), Unanswered(2), Unanswered(3)]
    );
}

#[test]
fn requests_without_a_transmit_time_of_other_flows_do_not_matter() {
    let packets = [ask(0), ask(0).from(CLIENT, 40_001), answer(0).at(1)];
    assert_eq!(came(&packets), [Pair(0, 2), Unanswered(1)]);
}

#[test]
fn an_interleaved_response_names_the_receive_time_of_its_request() {
    let ask = ask(2).origin(5).receive(1);
    assert_eq!(came(&[ask, answer(1).at(1)]), [Interleaved(0, 1)]);
    assert_eq!(came(&[ask, answer(2).at(1)]), [Pair(0, 1)]);
}

#[test]
fn a_request_named_by_its_transmit_time_is_preferred_to_one_named_by_its_receive_time() {
    let named_by_receive = ask(2).receive(1);
    let named_by_transmit = ask(1).at(1);
    let response = answer(1).at(2);
    assert_eq!(
        came(&[named_by_transmit.at(0), named_by_receive.at(1), response]),
        [Pair(0, 2), Unanswered(1)]
    );
    assert_eq!(
        came(&[named_by_receive, named_by_transmit, response]),
        [Pair(1, 2), Unanswered(0)]
    );
}

#[test]
fn a_kiss_of_death_is_a_pair() {
    let kiss = answer(1)
        .leap(3)
        .stratum(0, b"RATE")
        .receive(0)
        .transmit(0)
        .at(1);
    let world = World::of(&[ask(1).stratum(0, &[0; 4]), kiss]);
    assert_eq!(
        (world.totals().kiss_of_death, world.totals().answered),
        (1, 1)
    );
    assert_eq!(world.came(), [Pair(0, 1)]);
}

#[test]
fn stratum_0_in_a_request_is_no_kiss() {
    let world = World::of(&[ask(1).stratum(0, b"RATE")]);
    assert_eq!(world.totals().kiss_of_death, 0);
}

#[test]
fn an_unsynchronised_server_answers_all_the_same() {
    for response in [
        answer(1).leap(3),
        answer(1).stratum(16, &[0; 4]),
        answer(1).receive(0),
        answer(1).transmit(0),
    ] {
        assert_eq!(came(&[ask(1), response.at(1)]), [Pair(0, 1)]);
    }
}

#[test]
fn a_client_that_changes_its_port_each_time_is_one_client() {
    let at = 1_000_000 << 32;
    let packets = [
        ask(at),
        ask(at + (64 << 32)).from(CLIENT, 40_001).at(64_000),
        answer(at + (64 << 32)).to(CLIENT, 40_001).at(64_001),
    ];
    let world = World::of(&packets).flush();
    assert_eq!(world.came, [Unanswered(0), Pair(1, 2)]);
    assert_eq!(world.clocks, [Unknown, Honest]);
}

#[test]
fn the_same_packet_on_two_interfaces_never_pairs_across_them() {
    let packets = [
        ask(1).on(1),
        ask(1).on(2),
        answer(1).on(2).at(1),
        answer(1).on(3).at(2),
    ];
    assert_eq!(came(&packets), [Pair(1, 2), Unanswered(0), Unsolicited(3)]);
}

/// A packet from one peer to the other, between ports 123.
fn peer(mode: u8, from: u8, to: u8) -> Made {
    packet(mode).from(from, 123).to(to, 123)
}

#[test]
fn symmetric_peers_answer_each_other_per_direction() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        peer(1, 2, 1).origin(10).transmit(20).at(30_000),
        peer(1, 1, 2).origin(20).transmit(11).at(64_000),
    ];
    let world = World::of(&packets).flush();
    assert_eq!(world.came, [Pair(0, 1), Pair(1, 2), Unanswered(2)]);
    let totals = world.totals();
    assert_eq!(
        (totals.symmetric, totals.exchanges, totals.requests),
        (3, 3, 0)
    );
}

#[test]
fn a_peers_next_packet_supersedes_its_last_one() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        peer(1, 1, 2).transmit(11).at(64_000),
        peer(1, 2, 1).origin(10).transmit(20).at(64_001),
    ];
    assert_eq!(
        came(&packets),
        [Unanswered(0), Unanswered(1), Unanswered(2)]
    );
}

#[test]
fn a_peers_retransmission_is_a_duplicate() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        peer(1, 1, 2).transmit(10).at(1),
        peer(2, 2, 1).origin(10).transmit(20).at(2),
    ];
    let world = World::of(&packets).flush();
    assert_eq!(world.came, [Pair(0, 2)]);
    assert_eq!((world.duplicates[0], world.totals().duplicates), (1, 1));
}

#[test]
fn a_passive_answer_that_nobody_answers_is_no_question() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        peer(2, 2, 1).origin(10).transmit(20).at(1),
        peer(1, 1, 2).transmit(11).at(64_000),
        peer(2, 2, 1).origin(11).transmit(21).at(64_001),
    ];
    let world = World::of(&packets).flush();
    assert_eq!(world.came, [Pair(0, 1), Pair(2, 3)]);
    assert_eq!(world.sequences, [0, 1]);
}

#[test]
fn a_passive_answer_that_is_answered_was_a_question() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        peer(2, 2, 1).origin(10).transmit(20).at(1),
        peer(1, 1, 2).origin(20).transmit(11).at(64_000),
    ];
    assert_eq!(came(&packets), [Pair(0, 1), Pair(1, 2), Unanswered(2)]);
}

#[test]
fn a_server_may_answer_a_peer_in_mode_4() {
    let packets = [
        peer(1, 1, 2).transmit(10),
        answer(10).to(1, 123).at(1),
        answer(10).to(1, 123).at(2),
        answer(11).to(1, 123).at(3),
    ];
    let world = World::of(&packets).flush();
    assert_eq!(world.came, [Pair(0, 1), Multiple(2), Unsolicited(3)]);
    assert_eq!(
        (world.totals().responses, world.totals().multiple_responses),
        (3, 1)
    );
}

#[test]
fn peers_may_be_interleaved() {
    let packets = [
        peer(1, 1, 2).receive(5).transmit(10),
        peer(1, 2, 1).origin(5).transmit(20).at(1),
    ];
    assert_eq!(came(&packets), [Interleaved(0, 1), Unanswered(1)]);
}

#[test]
fn a_peer_without_times_pairs_with_nothing() {
    let packets = [peer(1, 1, 2), peer(1, 2, 1).at(1), peer(1, 1, 2).at(2)];
    assert_eq!(
        came(&packets),
        [Unanswered(0), Unanswered(1), Unanswered(2)]
    );
}

#[test]
fn a_peer_that_is_gone_is_let_go_of_in_the_end() {
    let world = World::of(&[peer(1, 1, 2).transmit(10)]).advance(2_300_000);
    assert_eq!(world.came, [Unanswered(0)]);
}

#[test]
fn broadcast_control_and_private_are_counted_and_nothing_else() {
    let packets = [packet(5).transmit(1), packet(6), packet(7)];
    let world = World::of(&packets).flush();
    let totals = world.totals();
    assert_eq!(
        (totals.broadcast, totals.control, totals.private),
        (1, 1, 1)
    );
    assert_eq!((totals.packets(), totals.exchanges), (3, 0));
    assert_eq!(world.came, [Other(0), Other(1), Other(2)]);
}

/// Bounds so small that they are hit at once.
pub(crate) fn tiny() -> Settings {
    Settings {
        pending_bound: 4,
        client_bound: 4,
        held_bound: 4,
        symmetric_bound: 4,
        ..Settings::default()
    }
}

#[test]
fn requests_beyond_the_bound_are_given_up_and_counted() {
    let packets: Vec<Made> = (1..=100).map(|value| ask(value).at(value)).collect();
    let world = World::with(tiny(), &packets);
    let totals = *world.totals();
    assert!(totals.evicted >= 100 - 8, "{totals:?}");
    assert_eq!(totals.evicted, totals.unanswered);
    let world = world.flush();
    assert_eq!(
        world.came,
        (0..100).map(Unanswered).collect::<Vec<_>>(),
        "all of them, in order"
    );
    assert_eq!(world.totals().unanswered, 100);
}

#[test]
fn a_request_that_was_given_up_is_not_answered_any_more() {
    let mut packets: Vec<Made> = (1..=9).map(ask).collect();
    packets.push(answer(1).at(1));
    let world = World::with(tiny(), &packets).flush();
    assert_eq!(world.totals().answered, 0);
    assert_eq!(world.totals().unsolicited, 1);
}

#[test]
fn answered_requests_that_make_room_are_not_counted_as_evicted() {
    let packets: Vec<Made> = (1..=100)
        .flat_map(|value| [ask(value).at(value), answer(value).at(value)])
        .collect();
    let world = World::with(tiny(), &packets).flush();
    assert_eq!((world.totals().answered, world.totals().evicted), (100, 0));
}

#[test]
fn responses_beyond_the_bound_are_unsolicited_at_once_and_counted() {
    let packets: Vec<Made> = (1..=100).map(|value| answer(value).at(value)).collect();
    let world = World::with(tiny(), &packets);
    assert!(world.totals().evicted >= 100 - 8);
    assert_eq!(world.totals().evicted, world.totals().unsolicited);
    assert_eq!(world.came(), (0..100).map(Unsolicited).collect::<Vec<_>>());
}

#[test]
fn peers_beyond_the_bound_are_given_up_and_counted() {
    let packets: Vec<Made> = (1..=100)
        .map(|host| peer(1, host, 200).transmit(1))
        .collect();
    let world = World::with(tiny(), &packets);
    assert_eq!(world.totals().evicted, world.totals().unanswered);
    assert!(world.totals().evicted >= 96);
    assert_eq!(world.came(), (0..100).map(Unanswered).collect::<Vec<_>>());
}

#[test]
fn a_small_step_back_in_time_changes_nothing() {
    let packets = [
        ask(1).at(500),
        ask(2).at(0),
        answer(2).at(100),
        answer(1).at(600),
    ];
    assert_eq!(came(&packets), [Pair(1, 2), Pair(0, 3)]);
}

#[test]
fn after_a_step_back_requests_time_out_by_their_own_times() {
    let packets = [
        ask(1).at(30_000),
        ask(2).at(0),
        answer(2).at(2001),
        answer(1).at(30_001),
    ];
    assert_eq!(came(&packets), [Unsolicited(2), Pair(0, 3), Unanswered(1)]);
}

#[test]
fn a_large_step_back_begins_a_new_life() {
    let packets = [ask(1).at(100_000), ask(1).at(0), answer(1).at(1)];
    assert_eq!(came(&packets), [Unanswered(0), Pair(1, 2)]);
}

#[test]
fn the_end_of_time_is_survived() {
    let packets = [
        ask(1).at_time(u64::MAX),
        peer(1, 1, 2).transmit(10).at_time(u64::MAX),
        ask(2).at_time(0),
    ];
    assert_eq!(
        came(&packets),
        [Unanswered(0), Unanswered(1), Unanswered(2)]
    );
}

#[test]
fn in_order_means_in_the_order_of_the_requests() {
    let settings = Settings {
        in_order: true,
        ..Settings::default()
    };
    let packets = [ask(1), ask(2).at(1), answer(2).at(2), answer(1).at(3)];
    let world = World::with(settings, &packets).flush();
    assert_eq!(world.came, [Pair(0, 3), Pair(1, 2)]);
    assert_eq!(world.sequences, [0, 1]);
}

/// What each of a client's requests was taken for: (milliseconds, transmit time in seconds).
fn judged(requests: &[(u64, f64)]) -> Vec<ClientClock> {
    let packets: Vec<Made> = requests
        .iter()
        .map(|(at, seconds)| ask((seconds * 4_294_967_296.0) as u64).at(*at))
        .collect();
    World::of(&packets).flush().clocks
}

#[test]
fn a_clock_that_is_wrong_by_days_but_advances_is_honest() {
    let wrong = 3_900_000_000.0 - 11.0 * 86_400.0;
    let requests = [
        (0, wrong),
        (64_000, wrong + 64.01),
        (128_000, wrong + 128.0),
    ];
    assert_eq!(judged(&requests), [Unknown, Honest, Honest]);
}

#[test]
fn a_client_that_sends_random_times_is_randomised() {
    let requests = [(0, 3.1e9), (64_000, 1.2e9), (128_000, 4.0e9)];
    assert_eq!(judged(&requests), [Unknown, Randomised, Randomised]);
}

#[test]
fn a_client_without_a_transmit_time_stays_unknown() {
    assert_eq!(judged(&[(0, 0.0), (64_000, 0.0)]), [Unknown, Unknown]);
}

#[test]
fn a_clock_is_honest_across_the_era() {
    let last = 4_294_967_295.0;
    assert_eq!(judged(&[(0, last), (64_000, 63.0)]), [Unknown, Honest]);
}

#[test]
fn two_honest_clients_behind_one_address_are_both_honest() {
    let one = |at: u64| (at * 1000, 3.9e9 + at as f64);
    let other = |at: u64| (at * 1000, 3.8e9 + at as f64);
    let requests = [
        one(0),
        other(1),
        one(64),
        other(65),
        other(90),
        one(128),
        other(129),
    ];
    assert_eq!(judged(&requests)[2..], [Honest; 5]);
}

#[test]
fn a_random_client_behind_the_same_address_does_not_taint_an_honest_one() {
    let honest = |at: u64| (at * 1000, 3.9e9 + at as f64);
    let requests = [
        honest(0),
        (1000, 1.0e9),
        honest(64),
        (65_000, 2.0e9),
        (66_000, 0.5e9),
        honest(128),
    ];
    assert_eq!(
        judged(&requests)[2..],
        [Honest, Randomised, Randomised, Honest]
    );
}
