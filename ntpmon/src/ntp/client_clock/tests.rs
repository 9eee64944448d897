use ntpmon_common::{Event, Timestamp};
use proptest::prelude::*;

use super::{ClientClock, ClientClocks, ClientError};
use crate::ntp::Stamped;

const SECOND: i64 = 1_000_000_000;
const MILLISECOND: i64 = 1_000_000;
/// When time begins in these tests, in nanoseconds since 1970: a full day.
const BEGIN: i64 = 19_700 * 86_400 * SECOND;
/// What the packets' own time is then.
const UPTIME: i64 = 5000 * SECOND;

/// A client and the way from it to here, in nanoseconds.
#[derive(Clone, Copy)]
struct Client {
    address: u8,
    /// What its clock is ahead at the beginning, and gains in a second.
    ahead: i64,
    drift: f64,
    way: i64,
    /// It repeats what we answered, which came the same way.
    repeats: bool,
}

impl Client {
    const fn ahead(ahead: i64) -> Self {
        Self {
            address: 1,
            ahead,
            drift: 0.0,
            way: MILLISECOND,
            repeats: false,
        }
    }

    const fn drift(mut self, ppm: f64) -> Self {
        self.drift = ppm / 1e6;
        self
    }

    const fn repeating(mut self) -> Self {
        self.repeats = true;
        self
    }

    /// What its clock is ahead of what this host's was at the beginning, so long after that.
    fn error(&self, after: i64) -> i64 {
        self.ahead + (self.drift * after as f64) as i64
    }

    /// A request that comes so long after the beginning, where this host's clock is `here` ahead of
    /// what it was then. The one before came `interval` earlier and was answered at once.
    fn ask(&self, after: i64, interval: i64, here: i64) -> Stamped {
        let stamp = |unix: i64| Timestamp::from_unix_nanoseconds(unix).0.to_be_bytes();
        let mut event = Event::EMPTY;
        event.time = (UPTIME + after).unsigned_abs();
        event.source[15] = self.address;
        event.ntp.0[0] = 4 << 3 | 3;
        let sent = after - self.way;
        event.ntp.0[40..48].copy_from_slice(&stamp(BEGIN + sent + self.error(sent)));
        if self.repeats {
            let answered = after - interval;
            event.ntp.0[24..32].copy_from_slice(&stamp(BEGIN + answered + here));
            let received = answered + self.way;
            event.ntp.0[32..40].copy_from_slice(&stamp(BEGIN + received + self.error(received)));
        }
        Stamped {
            event,
            unix: BEGIN + after + here,
            frame: 0,
        }
    }
}

/// What is known of clients after some requests.
struct World {
    clocks: ClientClocks,
    clock: ClientClock,
    error: Option<ClientError>,
}

impl World {
    fn new() -> Self {
        Self {
            clocks: ClientClocks::new(100),
            clock: ClientClock::Unknown,
            error: None,
        }
    }

    fn take(&mut self, request: &Stamped) -> Option<ClientError> {
        let judged = self.clocks.judge(request);
        self.clock = judged.clock;
        self.error = judged.error;
        judged.error
    }

    /// So many requests, `interval` apart, the first at `from`. Returns when the next would come.
    fn polls(&mut self, client: &Client, from: i64, interval: i64, count: i64) -> i64 {
        for poll in 0..count {
            self.take(&client.ask(from + poll * interval, interval, 0));
        }
        from + count * interval
    }

    fn nanoseconds(&self) -> i64 {
        self.error.unwrap().nanoseconds()
    }

    fn bound(&self) -> Option<f64> {
        self.error.unwrap().bound_seconds().map(f64::from)
    }

    fn drift(&self) -> Option<f32> {
        self.error.unwrap().drift_ppm()
    }
}

/// Numbers of no kind, always the same.
fn noise(seed: u64) -> impl FnMut(i64) -> i64 {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) % below.unsigned_abs()).cast_signed()
    }
}

#[track_caller]
fn assert_near(found: i64, expected: i64, within: i64) {
    let differs = found.abs_diff(expected);
    assert!(differs <= within.unsigned_abs(), "{found} for {expected}");
}

#[test]
fn the_error_is_positive_when_the_client_is_ahead_and_negative_when_it_is_behind() {
    for ahead in [300 * MILLISECOND, -300 * MILLISECOND] {
        let mut world = World::new();
        assert!(world.take(&Client::ahead(ahead).ask(0, 0, 0)).is_none());
        world.take(&Client::ahead(ahead).ask(64 * SECOND, 0, 0));
        // Less by the way, as nobody can tell it from the clock: it may be ahead by more.
        assert_near(world.nanoseconds(), ahead - MILLISECOND, 1000);
        assert_eq!(world.bound(), None);
    }
}

#[test]
fn a_client_that_repeats_our_answer_is_known_to_half_the_round_trip() {
    for ahead in [40 * MILLISECOND, -40 * MILLISECOND] {
        let mut world = World::new();
        world.polls(&Client::ahead(ahead).repeating(), 0, 64 * SECOND, 20);
        // What it repeated is a minute old: the bound allows for a drift since then.
        assert_near(world.nanoseconds(), ahead, 300_000);
        let bound = world.bound().unwrap();
        assert!((0.001..0.0015).contains(&bound), "{bound}");
    }
}

#[test]
fn the_drift_of_a_clock_is_told_after_some_minutes_and_the_error_follows_it() {
    for ppm in [50.0, -50.0, 200.0, -200.0, 0.0] {
        let client = Client::ahead(5 * MILLISECOND).drift(ppm);
        let mut world = World::new();
        let next = world.polls(&client, 0, 64 * SECOND, 5);
        assert_eq!(world.drift(), None, "after {} s", next / SECOND);
        let next = world.polls(&client, next, 64 * SECOND, 35);
        let drift = world.drift().unwrap();
        assert!((f64::from(drift) - ppm).abs() < 2.0, "{drift} for {ppm}");
        let last = next - 64 * SECOND;
        assert_near(
            world.nanoseconds(),
            client.error(last) - MILLISECOND,
            MILLISECOND,
        );
        // And on, for a day.
        let next = world.polls(&client, next, 64 * SECOND, 1350);
        let drift = world.drift().unwrap();
        assert!((f64::from(drift) - ppm).abs() < 1.0, "{drift} for {ppm}");
        let last = next - 64 * SECOND;
        assert_near(
            world.nanoseconds(),
            client.error(last) - MILLISECOND,
            MILLISECOND,
        );
    }
}

#[test]
fn of_requests_that_were_late_by_chance_the_least_late_count() {
    let mut noise = noise(7);
    let mut world = World::new();
    let mut client = Client::ahead(-25 * MILLISECOND).drift(-8.0).repeating();
    let mut worst = 0;
    for poll in 0..400 {
        let after = poll * 64 * SECOND;
        // One in four comes quickly, the others up to 20 ms late.
        client.way = match noise(4) {
            0 => MILLISECOND,
            _ => MILLISECOND + noise(20 * MILLISECOND),
        };
        world.take(&client.ask(after, 64 * SECOND, 0));
        if poll > 60 {
            let error = world.error.unwrap();
            let off = error.nanoseconds().abs_diff(client.error(after)) as i64;
            worst = worst.max(off);
            let bound = f64::from(error.bound_seconds().unwrap());
            assert!(
                off as f64 / 1e9 <= bound + 1e-4,
                "{off} of {bound} at {poll}"
            );
        }
    }
    // The mean of the way's half would be 5 ms off, its worst 10.
    assert!(worst < 4 * MILLISECOND, "{worst}");
    let drift = world.drift().unwrap();
    assert!((drift + 8.0).abs() < 5.0, "{drift}");
}

#[test]
fn a_step_of_the_client_is_followed_and_its_drift_is_measured_anew() {
    for step in [
        2 * SECOND,
        -2 * SECOND,
        100 * MILLISECOND,
        -100 * MILLISECOND,
    ] {
        let mut client = Client::ahead(MILLISECOND).drift(10.0);
        let mut world = World::new();
        let next = world.polls(&client, 0, 16 * SECOND, 100);
        assert!(world.drift().is_some());
        client.ahead += step;
        let next = world.polls(&client, next, 16 * SECOND, 6);
        let last = next - 16 * SECOND;
        assert_near(
            world.nanoseconds(),
            client.error(last) - MILLISECOND,
            MILLISECOND,
        );
        assert_eq!(world.drift(), None, "after a step of {step}");
        world.polls(&client, next, 16 * SECOND, 100);
        let drift = world.drift().unwrap();
        assert!((drift - 10.0).abs() < 2.0, "{drift}");
    }
}

#[test]
fn a_step_of_this_host_is_no_step_of_the_client() {
    for step in [3 * SECOND, -3 * SECOND, 20 * MILLISECOND, -20 * MILLISECOND] {
        let client = Client::ahead(50 * MILLISECOND).repeating();
        let mut world = World::new();
        let next = world.polls(&client, 0, 64 * SECOND, 40);
        assert!(world.drift().is_some());
        // The answer that it repeats is from before the step.
        let mut request = client.ask(next, 64 * SECOND, 0);
        request.unix += step;
        world.take(&request);
        assert_near(world.nanoseconds(), 50 * MILLISECOND - step, MILLISECOND);
        assert!(world.drift().unwrap().abs() < 2.0);
        for poll in 1..10 {
            world.take(&client.ask(next + poll * 64 * SECOND, 64 * SECOND, step));
        }
        assert_near(world.nanoseconds(), 50 * MILLISECOND - step, MILLISECOND);
        assert!(world.drift().unwrap().abs() < 2.0);
    }
}

#[test]
fn a_leap_second_that_both_take_leaves_the_error_as_it_was() {
    let mut client = Client::ahead(7 * MILLISECOND);
    let mut world = World::new();
    let next = world.polls(&client, 0, 64 * SECOND, 40);
    client.ahead -= SECOND;
    for poll in 0..6 {
        world.take(&client.ask(next + poll * 64 * SECOND, 64 * SECOND, -SECOND));
    }
    assert_near(world.nanoseconds(), 6 * MILLISECOND, 100_000);
}

#[test]
fn a_clock_that_is_wrong_by_eleven_days_is_measured_as_well_as_another() {
    let days = 11 * 86_400 * SECOND;
    for ahead in [days, -days] {
        let mut world = World::new();
        world.polls(&Client::ahead(ahead).repeating(), 0, 64 * SECOND, 30);
        assert_eq!(world.clock, ClientClock::Honest);
        assert_near(world.nanoseconds(), ahead, 300_000);
        assert!(world.bound().unwrap() < 0.002);
        assert!(world.drift().unwrap().abs() < 1.0);
    }
}

#[test]
fn the_error_goes_on_where_an_era_ends() {
    // 2036-02-07T06:28:16Z
    let wrap = 2_085_978_496 * SECOND;
    let client = Client::ahead(120 * MILLISECOND).repeating();
    let mut world = World::new();
    let begin = wrap - BEGIN - 25 * 64 * SECOND;
    world.polls(&client, begin, 64 * SECOND, 30);
    assert_near(world.nanoseconds(), 120 * MILLISECOND, 300_000);
    assert!(world.bound().unwrap() < 0.002);
}

#[test]
fn an_upper_limit_that_is_made_up_is_left_out() {
    let client = Client::ahead(10 * MILLISECOND);
    let forgeries: [(i64, i64); 4] = [
        // Origin and receive time, each from the time of the request: an answer of an hour ago,
        (-3600 * SECOND, -3600 * SECOND),
        // of the future,
        (SECOND, -SECOND),
        // one that took no time, though the request did,
        (-64 * SECOND, -64 * SECOND - MILLISECOND),
        // and one that took minutes.
        (-200 * SECOND, -10 * SECOND),
    ];
    for (origin, receive) in forgeries {
        let mut world = World::new();
        for poll in 0..30 {
            let mut request = client.ask(poll * 64 * SECOND, 64 * SECOND, 0);
            let stamp = |from: i64| {
                let unix = request.unix + from;
                Timestamp::from_unix_nanoseconds(unix).0.to_be_bytes()
            };
            let (origin, receive) = (stamp(origin), stamp(receive));
            request.event.ntp.0[24..32].copy_from_slice(&origin);
            request.event.ntp.0[32..40].copy_from_slice(&receive);
            world.take(&request);
        }
        assert_near(world.nanoseconds(), 9 * MILLISECOND, 100_000);
        assert_eq!(world.bound(), None, "{origin} {receive}");
    }
}

#[test]
fn a_request_in_interleaved_mode_tells_no_error() {
    let client = Client::ahead(0).repeating();
    let mut world = World::new();
    for poll in 0..10 {
        let mut request = client.ask(poll * 64 * SECOND, 64 * SECOND, 0);
        // The time of the request before, which is earlier than when its answer came.
        let before = client.ask((poll - 1) * 64 * SECOND, 0, 0);
        request.event.ntp.0[40..48].copy_from_slice(&before.event.ntp.0[40..48]);
        assert_eq!(world.take(&request), None);
    }
    assert_eq!(world.clock, ClientClock::Honest);
}

#[test]
fn two_clients_behind_one_address_have_an_error_each() {
    let one = Client::ahead(30 * MILLISECOND);
    let other = Client::ahead(-90 * SECOND);
    let mut world = World::new();
    for poll in 0..20 {
        world.take(&one.ask(poll * 64 * SECOND, 0, 0));
        if poll > 1 {
            assert_near(world.nanoseconds(), 29 * MILLISECOND, 100_000);
        }
        world.take(&other.ask(poll * 64 * SECOND + 20 * SECOND, 0, 0));
        if poll > 1 {
            assert_near(world.nanoseconds(), -90 * SECOND - MILLISECOND, 100_000);
        }
    }
}

#[test]
fn a_client_is_told_once_in_each_minute_hour_and_day() {
    let client = Client::ahead(0);
    let mut world = World::new();
    let mut counts = [0; 3];
    // Two days, every 20 s, from midnight on.
    for poll in 0..2 * 86_400 / 20 {
        if let Some(error) = world.take(&client.ask(poll * 20 * SECOND, 0, 0)) {
            let first = error.first;
            for (count, is) in counts
                .iter_mut()
                .zip([first.of_minute, first.of_hour, first.of_day])
            {
                *count += u32::from(is);
            }
        }
    }
    assert_eq!(counts, [2 * 1440, 48, 2]);
}

#[test]
fn what_is_known_outlives_a_flood_of_others_and_the_forged_cost_no_filter() {
    let client = Client::ahead(4 * MILLISECOND);
    let mut world = World::new();
    let next = world.polls(&client, 0, 64 * SECOND, 40);
    for number in 0..90_u8 {
        let mut forged = Client::ahead(0);
        forged.address = 100 + number;
        world.take(&forged.ask(next, 0, 0));
    }
    assert!(world.clocks.current.filters.len() <= 1);
    world.take(&client.ask(next + 1, 0, 0));
    assert_near(world.nanoseconds(), 3 * MILLISECOND, 100_000);
    assert!(world.drift().is_some());
    // Whoever takes turns with it pushes it out in the end, and what is kept stays bounded.
    for round in 0..1000_u32 {
        let mut many = client.ask(next + SECOND + i64::from(round), 0, 0);
        many.event.source[..4].copy_from_slice(&round.to_be_bytes());
        world.take(&many);
    }
    for generation in [&world.clocks.current, &world.clocks.previous] {
        assert!(generation.clients.len() <= 100 && generation.filters.len() <= 200);
    }
}

proptest! {
    #[test]
    fn whatever_a_client_writes_is_taken_without_a_fault(
        times in proptest::collection::vec(any::<(u64, u64, u64, u32, bool)>(), 1..60),
        begin in any::<i64>(),
    ) {
        let mut world = World::new();
        let mut time = 0_u64;
        for (origin, receive, transmit, passed, steps) in times {
            time += u64::from(passed);
            let mut request = Client::ahead(0).ask(0, 0, 0);
            request.event.time = time;
            request.unix = begin.saturating_add(time.cast_signed());
            if steps {
                request.unix = request.unix.wrapping_mul(31);
            }
            for (place, value) in [(24, origin), (32, receive), (40, transmit)] {
                request.event.ntp.0[place..place + 8].copy_from_slice(&value.to_be_bytes());
            }
            if let Some(error) = world.take(&request) {
                let _ = error.nanoseconds();
                prop_assert!(error.bound_seconds().is_none_or(|it| it >= 0.0));
            }
        }
    }
}
