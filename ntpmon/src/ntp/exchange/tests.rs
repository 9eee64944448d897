//! What the times of an exchange say, and where they say nothing.

use ntpmon_common::{Direction, Timestamp};

use super::{Exchange, LocalAddresses, Pair, Role, Span, Timekeeper};
use crate::ntp::{
    ClientClock, Stamped,
    pair::tests::{Made, packet},
};

const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1000 * MILLISECOND;
/// The capture of the request in most of these tests, which is T1 on this host's clock.
const T1: i64 = 1_700_000_000 * SECOND;
/// When era 0 ends.
const ERA_END: i64 = 2_085_978_496 * SECOND;

const CLIENT: u8 = 1;
const SERVER: u8 = 2;

fn ntp(unix: i64) -> u64 {
    Timestamp::from_unix_nanoseconds(unix).0
}

fn at(made: Made, unix: i64) -> Made {
    made.at_time(unix.cast_unsigned())
}

/// A request captured at T1 that carries the same time.
fn request(t1: i64) -> Made {
    at(packet(3).transmit(ntp(t1)), t1)
}

/// A response captured at T4 that carries T2 and T3.
fn response(t2: i64, t3: i64, t4: i64) -> Made {
    let made = packet(4).from(SERVER, 123).to(CLIENT, 40_000);
    at(made.receive(ntp(t2)).transmit(ntp(t3)), t4)
}

/// 10 ms each way, 5 ms at the server, whose clock is `ahead` of this host's.
fn ordinary(t1: i64, ahead: i64) -> (Stamped, Stamped) {
    let t2 = t1 + ahead + 10 * MILLISECOND;
    let t3 = t2 + 5 * MILLISECOND;
    let t4 = t1 + 25 * MILLISECOND;
    (request(t1).stamped(), response(t2, t3, t4).stamped())
}

fn local(hosts: &[u8]) -> LocalAddresses {
    hosts
        .iter()
        .map(|host| {
            let mut address = [0; 16];
            address[15] = *host;
            address
        })
        .collect()
}

fn pair<'a>(request: &'a Stamped, response: &'a Stamped, client_clock: ClientClock) -> Pair<'a> {
    Pair {
        sequence: 0,
        request,
        response: Some(response),
        interleaved: false,
        duplicates: 0,
        client_clock,
        client_error: None,
    }
}

fn exchange(
    (request, response): (Stamped, Stamped),
    hosts: &[u8],
    client_clock: ClientClock,
) -> Exchange {
    Timekeeper::default().exchange(pair(&request, &response, client_clock), &local(hosts))
}

fn at_client(packets: (Stamped, Stamped)) -> Exchange {
    exchange(packets, &[CLIENT], ClientClock::Unknown)
}

fn nanoseconds(span: Option<Span>) -> Option<i64> {
    span.map(Span::nanoseconds)
}

#[test]
fn the_offset_is_positive_when_the_server_is_ahead() {
    // T1 = 0, T2 = 110, T3 = 115, T4 = 25 ms:
    // ((110 - 0) + (115 - 25)) / 2 = 100 and (25 - 0) - (115 - 110) = 20.
    let timings = at_client(ordinary(T1, 100 * MILLISECOND)).timings;
    assert_eq!(nanoseconds(timings.offset), Some(100 * MILLISECOND));
    assert_eq!(nanoseconds(timings.delay), Some(20 * MILLISECOND));
    assert_eq!(
        nanoseconds(timings.client_to_server_latency),
        Some(110 * MILLISECOND)
    );
    assert_eq!(
        nanoseconds(timings.server_processing_time),
        Some(5 * MILLISECOND)
    );
    assert_eq!(timings.total_process_time, Some(25_000_000));
}

#[test]
fn the_offset_is_negative_when_the_server_is_behind() {
    let timings = at_client(ordinary(T1, -100 * MILLISECOND)).timings;
    assert_eq!(nanoseconds(timings.offset), Some(-100 * MILLISECOND));
    assert_eq!(nanoseconds(timings.delay), Some(20 * MILLISECOND));
    assert_eq!(
        nanoseconds(timings.client_to_server_latency),
        Some(-90 * MILLISECOND)
    );
}

#[test]
fn the_era_may_end_between_t1_and_t2() {
    // Not 10 or 15 ms: a time that is exactly zero is unknown.
    for before in [1, 9, 11, 14, 20, 25] {
        let timings = at_client(ordinary(ERA_END - before * MILLISECOND, 0)).timings;
        assert_eq!(nanoseconds(timings.offset), Some(0), "{before}");
        assert_eq!(
            nanoseconds(timings.delay),
            Some(20 * MILLISECOND),
            "{before}"
        );
    }
}

#[test]
fn an_offset_of_decades_does_not_overflow() {
    for ahead in [60, -60] {
        let ahead = ahead * 365 * 86_400 * SECOND;
        let timings = at_client(ordinary(2_000_000_000 * SECOND, ahead)).timings;
        assert_eq!(nanoseconds(timings.offset), Some(ahead));
        assert_eq!(nanoseconds(timings.delay), Some(20 * MILLISECOND));
    }
}

#[test]
fn an_offset_is_told_only_where_this_host_asked() {
    let packets = ordinary(T1, 100 * MILLISECOND);
    for (hosts, role) in [
        (&[CLIENT][..], Some(Role::Client)),
        (&[SERVER], Some(Role::Server)),
        (&[9], Some(Role::Transit)),
        (&[CLIENT, SERVER], Some(Role::Client)),
        (&[], None),
    ] {
        let exchange = exchange(packets, hosts, ClientClock::Honest);
        assert_eq!(exchange.role, role);
        let is_client = role == Some(Role::Client);
        assert_eq!(exchange.timings.offset.is_some(), is_client, "{role:?}");
        assert_eq!(exchange.timings.delay.is_some(), is_client, "{role:?}");
        assert_eq!(exchange.timings.total_process_time, Some(25_000_000));
    }
}

#[test]
fn a_forged_source_address_does_not_make_this_host_the_client() {
    let role = |direction: Direction, hosts: &[u8]| {
        let (mut request, response) = ordinary(T1, 100 * MILLISECOND);
        request.event.direction = direction as u8;
        let exchange = exchange((request, response), hosts, ClientClock::Unknown);
        let is_client = exchange.role == Some(Role::Client);
        assert_eq!(exchange.timings.offset.is_some(), is_client);
        exchange.role
    };
    for (direction, hosts, expected) in [
        (Direction::Egress, &[CLIENT][..], Role::Client),
        (Direction::Unknown, &[CLIENT], Role::Client),
        (Direction::Ingress, &[CLIENT], Role::Transit),
        (Direction::Ingress, &[SERVER], Role::Server),
        (Direction::Unknown, &[SERVER], Role::Server),
        (Direction::Egress, &[SERVER], Role::Transit),
        // Loopback.
        (Direction::Ingress, &[CLIENT, SERVER], Role::Client),
        (Direction::Egress, &[CLIENT, SERVER], Role::Client),
    ] {
        assert_eq!(
            role(direction, hosts),
            Some(expected),
            "{direction:?} {hosts:?}"
        );
    }
    assert_eq!(role(Direction::Ingress, &[]), None);
}

#[test]
fn on_the_clients_own_host_t1_is_the_capture_not_the_packet() {
    let (mut request, response) = ordinary(T1, 100 * MILLISECOND);
    request.event.ntp.0[40..48].copy_from_slice(&0x1234_5678_9abc_def0_u64.to_be_bytes());
    let timings = exchange((request, response), &[CLIENT], ClientClock::Randomised).timings;
    assert_eq!(nanoseconds(timings.offset), Some(100 * MILLISECOND));
    assert_eq!(
        nanoseconds(timings.client_to_server_latency),
        Some(110 * MILLISECOND)
    );
}

#[test]
fn elsewhere_t1_is_the_packets_if_the_client_is_honest() {
    let wrong = 11 * 86_400 * SECOND;
    let (mut request, response) = ordinary(T1, 0);
    request.event.ntp.0[40..48].copy_from_slice(&ntp(T1 - wrong).to_be_bytes());
    let latency = |clock| {
        let timings = exchange((request, response), &[SERVER], clock).timings;
        nanoseconds(timings.client_to_server_latency)
    };
    assert_eq!(latency(ClientClock::Honest), Some(wrong + 10 * MILLISECOND));
    assert_eq!(latency(ClientClock::Randomised), None);
    assert_eq!(latency(ClientClock::Unknown), None);
}

#[test]
fn a_response_captured_before_its_request_has_no_turnaround() {
    let (request, mut response) = ordinary(T1, 0);
    response.event.time = request.event.time - 1;
    let timings = at_client((request, response)).timings;
    assert_eq!(timings.total_process_time, None);
    assert_eq!((timings.offset, timings.delay), (None, None));
    assert_eq!(
        nanoseconds(timings.server_processing_time),
        Some(5 * MILLISECOND)
    );
}

#[test]
fn a_step_of_the_clock_between_the_two_packets_does_not_show() {
    let (request, mut response) = ordinary(T1, 0);
    response.unix += 3600 * SECOND;
    let timings = at_client((request, response)).timings;
    assert_eq!(nanoseconds(timings.offset), Some(0));
    assert_eq!(nanoseconds(timings.delay), Some(20 * MILLISECOND));
}

#[test]
fn what_is_no_time_sample_has_no_offset() {
    let (request, _) = ordinary(T1, 0);
    let plain = response(T1, T1 + 1000, T1 + 2000);
    for (made, processing) in [
        (plain.leap(3), true),
        (plain.stratum(16, &[0; 4]), true),
        (plain.stratum(0, &[0; 4]), true),
        (plain.stratum(0, b"RATE"), false),
        (plain.receive(0), false),
        (plain.transmit(0), false),
    ] {
        let response = made.stamped();
        let timings = exchange((request, response), &[CLIENT], ClientClock::Honest).timings;
        assert_eq!((timings.offset, timings.delay), (None, None));
        assert_eq!(timings.client_to_server_latency, None);
        assert_eq!(timings.server_processing_time.is_some(), processing);
        assert_eq!(timings.total_process_time, Some(2000));
        let exchange = exchange((request, response), &[], ClientClock::Unknown);
        assert!(!exchange.is_time_sample());
    }
}

#[test]
fn packets_without_a_time_of_capture_have_only_what_the_server_says() {
    for (asked, answered) in [(false, false), (false, true), (true, false)] {
        let (mut request, mut response) = ordinary(T1, 0);
        for (packet, timed) in [(&mut request, asked), (&mut response, answered)] {
            if !timed {
                packet.unix = Stamped::NO_TIME;
            }
        }
        let exchange = exchange((request, response), &[CLIENT], ClientClock::Honest);
        let timings = exchange.timings;
        assert_eq!(timings.total_process_time, None);
        assert_eq!((timings.offset, timings.delay), (None, None));
        assert_eq!(timings.client_to_server_latency.is_some(), asked);
        assert_eq!(exchange.client_clock == ClientClock::Unknown, !asked);
        assert!(timings.server_processing_time.is_some());
    }
}

#[test]
fn a_request_without_an_answer_has_no_times() {
    let (request, _) = ordinary(T1, 0);
    let exchange = Timekeeper::default().exchange(
        Pair {
            response: None,
            ..pair(&request, &request, ClientClock::Honest)
        },
        &local(&[CLIENT]),
    );
    assert_eq!(exchange.timings, super::Timings::default());
    assert_eq!(exchange.kiss_code(), None);
}

#[test]
fn kiss_codes_are_letters_of_stratum_0_in_a_response() {
    let (request, _) = ordinary(T1, 0);
    let code = |made: Made| at_client((request, made.stamped())).kiss_code();
    let plain = response(T1, T1, T1 + 1);
    for text in [b"RATE", b"DENY", b"RSTR", b"STEP", b"NTSN", b"INIT"] {
        assert_eq!(code(plain.stratum(0, text)), Some(*text));
    }
    assert_eq!(code(plain.stratum(0, &[0; 4])), None);
    assert_eq!(code(plain.stratum(0, &[192, 0, 2, 1])), None);
    assert_eq!(code(plain.stratum(1, b"RATE")), None, "a reference clock");
    for version in [5, 6, 7] {
        assert_eq!(code(plain.stratum(0, b"RATE").version(version)), None);
    }
}

/// Feeds exchanges in interleaved mode, one a second; each response's transmit time is that of the
/// response before. `lost` responses were not seen.
fn interleaved(keeper: &mut Timekeeper, count: i64, lost: Option<i64>) -> Vec<Exchange> {
    let ahead = |number: i64| (100 + number) * MILLISECOND;
    let times = |number: i64| {
        let t1 = T1 + number * SECOND;
        let t2 = t1 + ahead(number) + 10 * MILLISECOND;
        (t1, t2, t2 + 5 * MILLISECOND, t1 + 25 * MILLISECOND)
    };
    let mut exchanges = Vec::new();
    for number in 0..count {
        if Some(number) == lost {
            continue;
        }
        let (t1, t2, t3, t4) = times(number);
        let (_, t2_before, t3_before, t4_before) = times(number - 1);
        let (request, response) = if number == 0 {
            (request(t1), response(t2, t3, t4))
        } else {
            (
                request(t1)
                    .origin(ntp(t2_before))
                    .receive(ntp(t4_before))
                    .transmit(77),
                response(t2, t3_before, t4).origin(ntp(t4_before)),
            )
        };
        let (request, response) = (request.stamped(), response.stamped());
        exchanges.push(keeper.exchange(
            Pair {
                interleaved: number > 0,
                ..pair(&request, &response, ClientClock::Randomised)
            },
            &local(&[CLIENT]),
        ));
    }
    exchanges
}

#[test]
fn in_interleaved_mode_the_offset_is_the_previous_exchanges() {
    let exchanges = interleaved(&mut Timekeeper::default(), 4, None);
    let offsets: Vec<_> = exchanges
        .iter()
        .map(|exchange| nanoseconds(exchange.timings.offset))
        .collect();
    let expected = [100, 100, 101, 102].map(|value| Some(value * MILLISECOND));
    assert_eq!(offsets, expected);
    for exchange in &exchanges {
        assert_eq!(nanoseconds(exchange.timings.delay), Some(20 * MILLISECOND));
    }
}

#[test]
fn an_interleaved_response_never_gives_a_processing_time() {
    for exchange in &interleaved(&mut Timekeeper::default(), 3, None)[1..] {
        assert_eq!(exchange.timings.server_processing_time, None);
        assert!(exchange.timings.client_to_server_latency.is_some());
    }
}

#[test]
fn an_interleaved_offset_needs_the_very_exchange_before() {
    let exchanges = interleaved(&mut Timekeeper::default(), 4, Some(1));
    let offsets: Vec<_> = exchanges
        .iter()
        .map(|exchange| nanoseconds(exchange.timings.offset))
        .collect();
    assert_eq!(
        offsets,
        [Some(100 * MILLISECOND), None, Some(102 * MILLISECOND)]
    );
}

#[test]
fn elsewhere_an_interleaved_request_does_not_tell_its_clients_clock() {
    let (request, response) = ordinary(T1, 0);
    let exchange = Timekeeper::default().exchange(
        Pair {
            interleaved: true,
            ..pair(&request, &response, ClientClock::Honest)
        },
        &local(&[SERVER]),
    );
    assert_eq!(exchange.timings.client_to_server_latency, None);
    assert_eq!(exchange.timings.server_processing_time, None);
    assert_eq!(exchange.timings.offset, None);
}

#[test]
fn peers_are_not_taken_for_honest_clients() {
    let (mut request, response) = ordinary(T1, 0);
    request.event.ntp.0[0] = 4 << 3 | 1;
    let exchange = exchange((request, response), &[SERVER], ClientClock::Honest);
    assert_eq!(exchange.timings.client_to_server_latency, None);
}

#[test]
fn version_5_has_the_same_times() {
    let (mut request, mut response) = ordinary(T1, 100 * MILLISECOND);
    request.event.ntp.0[0] = 5 << 3 | 3;
    request.event.ntp.0[40..48].fill(0);
    response.event.ntp.0[0] = 5 << 3 | 4;
    let timings = at_client((request, response)).timings;
    assert_eq!(nanoseconds(timings.offset), Some(100 * MILLISECOND));
}

#[test]
fn the_second_23_59_60_has_no_unix_time_of_its_own() {
    // 2016-12-31: Unix time repeats the last second. A server that went back already is a second
    // behind a client that did not: the offset says so, and nothing else is upset.
    let midnight = 1_483_228_800 * SECOND;
    let (t2, t3) = (-990 * MILLISECOND, -985 * MILLISECOND);
    let response = response(midnight + t2, midnight + t3, midnight + 25 * MILLISECOND).leap(1);
    let timings = at_client((request(midnight).stamped(), response.stamped())).timings;
    assert_eq!(nanoseconds(timings.offset), Some(-SECOND));
    assert_eq!(nanoseconds(timings.delay), Some(20 * MILLISECOND));
}
