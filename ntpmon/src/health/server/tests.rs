//! One server, asked over and over, and what is found of it.

use ntpmon_common::{Event, Timestamp};

use super::*;
use crate::{
    health::window::Summary,
    ntp::{
        ClientClock,
        exchange::{LocalAddresses, Timekeeper},
        pair::Pair,
    },
};

const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1000 * MILLISECOND;
/// The end of a day of UTC, less some.
const BEGIN: i64 = 1_700_006_400 * SECOND - 100 * SECOND;
/// When era 0 ends.
const ERA_END: i64 = 2_085_978_496 * SECOND;
const CLIENT: [u8; 16] = [1; 16];
const SERVER: [u8; 16] = [2; 16];

/// A server, who asks it, and whoever watches them.
struct World {
    server: ServerHealth,
    keeper: Timekeeper,
    addresses: LocalAddresses,
    /// Monotonic, and how far UTC and the clock of the hardware are from it.
    now: i64,
    utc: i64,
    slew: Slew,
    /// How far the server is ahead of UTC as it is without anybody's mistakes.
    ahead: i64,
    true_utc: i64,
    leap: u8,
    number: u64,
    /// Asked in interleaved mode; T2 and T3 of the exchange before.
    interleaved: bool,
    before: Option<[[u8; 8]; 2]>,
    found: Vec<Found>,
}

impl World {
    fn new(begin: i64, local: &[[u8; 16]]) -> Self {
        let now = 5000 * SECOND;
        Self {
            server: ServerHealth::new(None),
            keeper: Timekeeper::default(),
            addresses: local.iter().copied().collect(),
            now,
            utc: begin - now,
            slew: Slew::default(),
            ahead: 0,
            true_utc: begin - now,
            leap: 0,
            number: 0,
            interleaved: false,
            before: None,
            found: Vec::new(),
        }
    }

    /// What the last samples of the server's clock come to.
    fn summary(&self) -> Summary {
        let mut samples = self.server.window().samples().copied().collect();
        Window::summary(&mut samples).unwrap()
    }

    /// What was found meanwhile.
    fn kinds(&mut self) -> Vec<Kind> {
        self.found.drain(..).map(|found| found.kind).collect()
    }

    /// The exchange of the next second.
    fn ask(&mut self) {
        self.ask_with(|_| {});
    }

    fn ask_often(&mut self, times: usize) {
        for _ in 0..times {
            self.ask();
        }
    }

    fn ask_with(&mut self, change: impl FnOnce(&mut Event)) {
        self.now += SECOND;
        self.number += 1;
        let (way, work) = (100_000 + (self.number % 7).cast_signed() * 3000, 20_000);
        let time = |at: i64| Timestamp::from_unix_nanoseconds(at).0.to_be_bytes();
        let mut request = Event {
            time: self.now.cast_unsigned(),
            source: CLIENT,
            source_port: 40_000,
            destination: SERVER,
            destination_port: 123,
            payload_length: 48,
            ..Event::EMPTY
        };
        request.ntp.0[0] = 0x23;
        request.ntp.0[40..].copy_from_slice(&self.number.to_be_bytes());
        let mut response = Event {
            time: (self.now + 2 * way + work).cast_unsigned(),
            source: SERVER,
            source_port: 123,
            destination: CLIENT,
            destination_port: 40_000,
            ttl: 60,
            ..request
        };
        let received = self.now + way + self.true_utc + self.ahead;
        response.ntp.0[0] = self.leap << 6 | 0x24;
        response.ntp.0[1] = 2;
        response.ntp.0[3] = 0xe9;
        response.ntp.0[24..32].copy_from_slice(&self.number.to_be_bytes());
        response.ntp.0[32..40].copy_from_slice(&time(received));
        response.ntp.0[40..].copy_from_slice(&time(received + work));
        let interleaved = self.before.filter(|_| self.interleaved);
        self.before = Some([time(received), time(received + work)]);
        if let Some([receive, transmit]) = interleaved {
            request.ntp.0[24..32].copy_from_slice(&receive);
            response.ntp.0[40..].copy_from_slice(&transmit);
        }
        change(&mut response);
        let stamped = |event: Event| Stamped {
            unix: event.time.cast_signed() + self.utc,
            event,
            frame: 0,
        };
        let (request, response) = (stamped(request), stamped(response));
        let pair = Pair {
            sequence: self.number,
            request: &request,
            response: Some(&response),
            interleaved: interleaved.is_some(),
            duplicates: 0,
            client_clock: ClientClock::Randomised,
            client_error: None,
        };
        let exchange = self.keeper.exchange(pair, &self.addresses);
        let found = &mut self.found;
        (self.server).observe(&exchange, self.slew, |it| found.push(it));
    }
}

#[test]
fn a_step_is_seen_by_who_asks_by_who_answers_and_on_the_way() {
    for local in [&[CLIENT][..], &[SERVER], &[[3; 16]], &[]] {
        let mut world = World::new(BEGIN, local);
        world.ask_often(20);
        assert_eq!(world.kinds(), []);
        for (ahead, kind) in [
            (5 * MILLISECOND, Kind::OffsetStep),
            (0, Kind::OffsetStep),
            (3 * SECOND, Kind::TimeJump),
            (0, Kind::TimeBackwards),
            (-500 * MILLISECOND, Kind::TimeJump),
        ] {
            world.ahead = ahead;
            world.ask();
            assert_eq!(world.kinds(), [kind], "{ahead} {local:?}");
            world.ask_often(3);
            assert_eq!(world.kinds(), []);
        }
    }
}

#[test]
fn the_era_may_end_meanwhile() {
    for ahead in [0, 5 * MILLISECOND] {
        let mut world = World::new(ERA_END - 10 * SECOND, &[CLIENT]);
        world.ask_often(9);
        world.ahead = ahead;
        world.ask_often(9);
        let expected: &[Kind] = if ahead == 0 { &[] } else { &[Kind::OffsetStep] };
        assert_eq!(world.kinds(), expected);
    }
}

#[test]
fn a_server_that_is_decades_off_is_followed_like_any_other() {
    for years in [-56, 60] {
        let mut world = World::new(BEGIN, &[CLIENT]);
        world.ahead = years * 365 * 86_400 * SECOND;
        world.ask_often(20);
        assert_eq!(world.kinds(), []);
        world.ahead += 5 * MILLISECOND;
        world.ask();
        assert_eq!(world.kinds(), [Kind::OffsetStep]);
    }
}

#[test]
fn time_that_runs_backwards_is_seen_from_the_second_answer_on() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.ask();
    world.ahead = -2 * SECOND;
    world.ask();
    assert_eq!(world.kinds(), [Kind::TimeBackwards]);
    // Within two clocks of one host.
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.ask();
    world.ahead = -SECOND;
    world.ask();
    assert_eq!(world.kinds(), []);
}

#[test]
fn what_is_done_to_this_hosts_clock_is_not_the_servers() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.ask_often(20);
    // A step: UTC is another, and nothing else.
    world.utc += 5 * SECOND;
    world.server.local_clock_stepped();
    world.ask_often(20);
    assert_eq!(world.kinds(), []);
    let Summary {
        offset, samples, ..
    } = world.summary();
    assert!((offset.median + 5.0).abs() < 1e-3, "{offset:?}");
    assert_eq!(samples, 20);
    // Slewing by 8%, which moves monotonic time too: the server seems to lag.
    for _ in 0..20 {
        let slewed = 80 * MILLISECOND;
        world.true_utc -= slewed;
        world.slew.nanoseconds += slewed;
        world.slew.uncertain = MILLISECOND;
        world.ask();
    }
    assert_eq!(world.kinds(), []);
}

#[test]
fn slewing_is_no_step_from_wherever_it_is_seen() {
    for interleaved in [false, true] {
        for local in [&[CLIENT][..], &[SERVER], &[CLIENT, SERVER], &[[3; 16]], &[]] {
            let mut world = World::new(BEGIN, local);
            world.interleaved = interleaved;
            world.ask_often(20);
            for _ in 0..20 {
                let slewed = 5 * MILLISECOND;
                world.slew.nanoseconds += slewed;
                // What this host answers itself is slewed alike.
                if !local.contains(&SERVER) {
                    world.true_utc -= slewed;
                }
                world.ask();
            }
            assert_eq!(world.kinds(), [], "{local:?} {interleaved}");
        }
    }
}

#[test]
fn in_interleaved_mode_a_step_is_seen_and_this_hosts_is_not() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.interleaved = true;
    world.ask_often(20);
    world.utc += 5 * SECOND;
    world.server.local_clock_stepped();
    world.ask_often(20);
    assert_eq!(world.kinds(), []);
    let offset = world.summary().offset;
    assert!((offset.maximum + 5.0).abs() < 1e-3, "{offset:?}");
    // And back to basic mode.
    world.interleaved = false;
    world.ask_often(5);
    world.interleaved = true;
    world.ask_often(5);
    assert_eq!(world.kinds(), []);
    world.ahead = 5 * MILLISECOND;
    world.ask_often(2);
    assert_eq!(world.kinds(), [Kind::OffsetStep]);
}

#[test]
fn sleep_is_no_step() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.ask_often(20);
    let slept = 3600 * SECOND;
    world.utc += slept;
    world.true_utc += slept;
    world.slew.slept += slept;
    world.ask_often(20);
    assert_eq!(world.kinds(), []);
    world.ahead = 5 * MILLISECOND;
    world.ask();
    assert_eq!(world.kinds(), [Kind::OffsetStep]);
}

#[test]
fn a_server_that_is_not_synchronised_in_the_leap_second_has_announced_it() {
    for local in [&[CLIENT][..], &[SERVER], &[]] {
        let mut world = World::new(BEGIN, local);
        world.leap = 1;
        world.ask_often(100);
        // As chrony does.
        world.leap = 3;
        world.ask_often(2);
        world.leap = 0;
        world.ahead -= SECOND;
        world.ask_often(10);
        let kinds = world.kinds();
        assert_eq!(kinds, [Kind::LeapChanged; 2], "{local:?}");
    }
    // It was announced for that midnight, and not for the next.
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.leap = 1;
    world.ask_often(20);
    world.leap = 0;
    world.now += 86_400 * SECOND;
    world.ask_often(20);
    world.kinds();
    world.ahead -= 1100 * MILLISECOND;
    world.ask();
    assert_eq!(world.kinds(), [Kind::TimeBackwards]);
}

#[test]
fn a_leap_second_that_was_announced_is_no_jump_and_any_other_is() {
    for (leap, second) in [(1, -SECOND), (2, SECOND)] {
        let mut world = World::new(BEGIN, &[CLIENT]);
        world.leap = leap;
        world.ask_often(100);
        world.kinds();
        world.ahead += second;
        world.ask();
        world.leap = 0;
        world.ask_often(10);
        assert_eq!(world.kinds(), [Kind::LeapChanged]);
        // Nobody said so.
        world.ahead += second;
        world.ask();
        assert_eq!(world.kinds().len(), 1);
    }
    // At noon there is none.
    let mut world = World::new(BEGIN + 43_200 * SECOND, &[CLIENT]);
    world.leap = 1;
    world.ask_often(20);
    world.ahead -= 1100 * MILLISECOND;
    world.ask();
    assert_eq!(world.kinds(), [Kind::TimeBackwards]);
}

#[test]
fn an_unsynchronised_server_is_told_as_that_and_its_stratum_is_not() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    world.ask_often(5);
    world.leap = 3;
    world.ask_with(|answer| answer.ntp.0[1] = 16);
    let found = world.found.clone();
    assert_eq!(world.kinds(), [Kind::LeapChanged]);
    assert_eq!(found[0].severity, Severity::Warning);
    assert!(
        found[0]
            .evidence
            .sentence(Kind::LeapChanged)
            .contains("no longer")
    );
    world.leap = 0;
    world.ask_often(2);
    assert_eq!(world.kinds(), [Kind::LeapChanged]);
    world.ask_with(|answer| answer.ntp.0[1] = 3);
    assert_eq!(world.kinds(), [Kind::StratumChanged]);
}

#[test]
fn several_hosts_behind_one_address_are_told_once() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    let ask = |world: &mut World, host: u8| {
        world.ask_with(|answer| {
            answer.ntp.0[1] = 2 + host;
            answer.ntp.0[3] = 0xe9 - host;
            answer.ntp.0[15] = host;
        });
        world.kinds()
    };
    assert_eq!(ask(&mut world, 0), []);
    let all = [
        Kind::StratumChanged,
        Kind::ReferenceIdChanged,
        Kind::FingerprintChanged,
    ];
    assert_eq!(ask(&mut world, 1), all);
    assert_eq!(ask(&mut world, 2), all);
    for host in [0, 1, 2, 1, 0, 2, 0] {
        assert_eq!(ask(&mut world, host), [], "{host}");
    }
    // After more than an hour the header is told again.
    for _ in 0..4000 {
        assert_eq!(ask(&mut world, 0), []);
    }
    assert_eq!(ask(&mut world, 1), all[..2]);
}

#[test]
fn what_was_known_in_an_earlier_life_is_what_the_first_answer_is_held_against() {
    let mut world = World::new(BEGIN, &[CLIENT]);
    let mut ntp = NtpHeader([0; 48]);
    ntp.0[0] = 0x24;
    ntp.0[1] = 1;
    world.server = ServerHealth::new(Some(Seed {
        ntp,
        asked: Asked(4),
        manner: Manner {
            version: 4,
            precision: -23,
            authentication: 0,
            has_extensions: false,
            ttl: 59,
        },
    }));
    world.ask();
    assert_eq!(
        world.kinds(),
        [Kind::StratumChanged, Kind::FingerprintChanged]
    );
}
