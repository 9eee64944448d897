//! The pairing rules once more, as naively as they can be written: every packet is kept in a list,
//! nothing is forgotten, nothing is hashed. Random small worlds have to come out the same from
//! here and from the [`Pairer`].

use std::fmt;

use ntpmon_common::{Event, Mode, NtpHeader, Timestamp};
use proptest::prelude::*;

use super::{
    Settings, Totals,
    tests::{Came, MILLISECOND, World, packet, tiny},
};
use crate::ntp::{Stamped, kiss_code};

const TIMEOUT: u64 = 2000 * MILLISECOND;
const PORTS: [u16; 2] = [123, 40_000];

/// A request or a packet between peers that asked something new.
struct Question {
    packet: usize,
    seen: u64,
    answer: Option<(usize, bool)>,
    duplicates: u32,
    symmetric: bool,
    passive: bool,
}

/// A response that no request waited for.
struct Stray {
    packet: usize,
    seen: u64,
    paired: bool,
    /// It is not held: without an origin, or to a request that had timed out.
    lost: bool,
}

/// The requests that a packet names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    None,
    TimedOut,
    Alive,
}

struct Oracle<'a> {
    packets: &'a [Event],
    now: u64,
    questions: Vec<Question>,
    strays: Vec<Stray>,
    totals: Totals,
    /// The rules leave the outcome open: how long a timed-out request is remembered decides.
    is_open: bool,
}

fn follows(question: &Event, answer: &Event) -> bool {
    (question.source, question.source_port) == (answer.destination, answer.destination_port)
        && (question.destination, question.destination_port) == (answer.source, answer.source_port)
        && question.interface == answer.interface
}

fn same_way(one: &Event, other: &Event) -> bool {
    (one.source, one.source_port) == (other.source, other.source_port)
        && (one.destination, one.destination_port) == (other.destination, other.destination_port)
        && one.interface == other.interface
}

/// The value at a byte of the header, read apart from the code under test.
fn value(event: &Event, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&event.ntp.0[offset..offset + 8]);
    u64::from_be_bytes(bytes)
}

fn is_version_5(event: &Event) -> bool {
    event.ntp.0[0] >> 3 & 7 == 5
}

fn asks_with(event: &Event) -> u64 {
    value(event, if is_version_5(event) { 24 } else { 40 })
}

fn origin(event: &Event) -> u64 {
    value(event, 24)
}

fn receive(event: &Event) -> Option<u64> {
    let has_both = value(event, 32) != 0 && value(event, 40) != 0;
    (!is_version_5(event) && has_both).then(|| value(event, 32))
}

fn is_interleaved(question: &Event, answer: &Event) -> bool {
    if is_version_5(question) {
        is_version_5(answer) && answer.ntp.0[15] & 2 != 0
    } else {
        asks_with(question) != origin(answer)
    }
}

impl<'a> Oracle<'a> {
    fn of(packets: &'a [Event]) -> Self {
        let mut oracle = Self {
            packets,
            now: 0,
            questions: Vec::new(),
            strays: Vec::new(),
            totals: Totals::default(),
            is_open: false,
        };
        for index in 0..packets.len() {
            oracle.observe(index);
        }
        oracle.totals.unanswered = oracle.questions.len() as u64 - oracle.totals.answered;
        oracle.totals.exchanges = oracle.questions.len() as u64;
        oracle.totals.unsolicited +=
            oracle.strays.iter().filter(|stray| !stray.paired).count() as u64;
        // A passive peer's answer that nobody answered was no question.
        let silent = oracle
            .questions
            .iter()
            .filter(|question| question.passive && question.answer.is_none())
            .count() as u64;
        oracle.totals.unanswered -= silent;
        oracle.totals.exchanges -= silent;
        oracle
    }

    fn observe(&mut self, index: usize) {
        let event = &self.packets[index];
        self.now = self.now.max(event.time);
        match event.ntp.mode() {
            Mode::Client => self.request(index),
            Mode::Server => self.response(index),
            Mode::Unspecified => {
                let named = self.named(event);
                if named == Named::Alive || event.destination_port != 123 {
                    self.response(index);
                } else {
                    self.is_open |= named == Named::TimedOut;
                    self.request(index);
                }
            }
            Mode::SymmetricActive | Mode::SymmetricPassive => self.peer(index),
            Mode::Broadcast => self.totals.broadcast += 1,
            Mode::Control => self.totals.control += 1,
            Mode::Private => self.totals.private += 1,
        }
    }

    /// What the requests are that the packet could be a response to.
    fn named(&self, event: &Event) -> Named {
        let name = origin(event);
        let mut named = Named::None;
        for question in self.questions.iter().filter(|question| !question.symmetric) {
            let asked = &self.packets[question.packet];
            let names = asks_with(asked) == name || receive(asked) == Some(name);
            if follows(asked, event) && names {
                if self.is_alive(question.seen) {
                    return Named::Alive;
                }
                named = Named::TimedOut;
            }
        }
        named
    }

    fn is_alive(&self, seen: u64) -> bool {
        seen + TIMEOUT >= self.now
    }

    fn ask(&mut self, packet: usize, symmetric: bool, passive: bool) -> &mut Question {
        self.questions.push(Question {
            packet,
            seen: self.now,
            answer: None,
            duplicates: 0,
            symmetric,
            passive,
        });
        let last = self.questions.len() - 1;
        &mut self.questions[last]
    }

    fn request(&mut self, index: usize) {
        self.totals.requests += 1;
        let event = &self.packets[index];
        let asked = asks_with(event);
        let packets = self.packets;
        let now = self.now;
        let before = self.questions.iter_mut().rev().find(|question| {
            !question.symmetric
                && question.seen + TIMEOUT >= now
                && same_way(&packets[question.packet], event)
                && asks_with(&packets[question.packet]) == asked
        });
        if let (Some(before), true) = (before, asked != 0) {
            before.duplicates += 1;
            self.totals.duplicates += 1;
            return;
        }
        let mut answer = None;
        for name in [Some(asked), receive(event)].into_iter().flatten() {
            let newest = self.strays.iter().rposition(|stray| {
                !stray.lost
                    && name != 0
                    && origin(&packets[stray.packet]) == name
                    && follows(event, &packets[stray.packet])
            });
            if let Some(newest) = newest
                && !self.strays[newest].paired
                && self.is_alive(self.strays[newest].seen)
            {
                self.strays[newest].paired = true;
                let response = self.strays[newest].packet;
                answer = Some((response, is_interleaved(event, &packets[response])));
                break;
            }
        }
        if let Some((response, _)) = answer {
            self.totals.answered += 1;
            // Had it been known as late when it came, it would not have been held.
            let name = origin(&packets[response]);
            self.is_open |= self.questions.iter().any(|question| {
                let asked = &packets[question.packet];
                !question.symmetric
                    && question.packet < response
                    && follows(asked, &packets[response])
                    && (asks_with(asked) == name || receive(asked) == Some(name))
            });
        }
        self.ask(index, false, false).answer = answer;
    }

    fn response(&mut self, index: usize) {
        self.totals.responses += 1;
        let event = &self.packets[index];
        let kiss = kiss_code(&event.ntp).is_some();
        self.totals.kiss_of_death += u64::from(kiss);
        let name = origin(event);
        let packets = self.packets;
        let waiting = |question: &Question| {
            !question.symmetric
                && self.is_alive(question.seen)
                && follows(&packets[question.packet], event)
        };
        let basic = |question: &Question| asks_with(&packets[question.packet]) == name;
        let interleaved =
            |question: &Question| name != 0 && receive(&packets[question.packet]) == Some(name);
        let found = self
            .questions
            .iter()
            .rposition(|question| waiting(question) && basic(question))
            .or_else(|| {
                self.questions
                    .iter()
                    .rposition(|question| waiting(question) && interleaved(question))
            });
        let rivals = self
            .questions
            .iter()
            .filter(|question| {
                waiting(question)
                    && asks_with(&packets[question.packet]) == 0
                    && question.answer.is_none()
            })
            .count();
        let Some(found) = found else {
            self.stray(index);
            return;
        };
        let question = &packets[self.questions[found].packet];
        if self.questions[found].answer.is_some() {
            self.totals.multiple_responses += 1;
        } else if event.time.saturating_sub(question.time) > TIMEOUT {
            self.stray(index);
        } else if name == 0 && rivals > 1 {
            self.totals.unsolicited += 1;
        } else {
            self.questions[found].answer = Some((index, is_interleaved(question, event)));
            self.totals.answered += 1;
        }
    }

    fn stray(&mut self, index: usize) {
        let event = &self.packets[index];
        match self.answers_peer(index) {
            Some(true) => return,
            Some(false) => {
                self.totals.multiple_responses += 1;
                return;
            }
            None => {}
        }
        // As long as the timeout it is certain that the request is remembered.
        let lost = origin(event) == 0 || self.named(event) == Named::Alive;
        self.strays.push(Stray {
            packet: index,
            seen: self.now,
            paired: false,
            lost,
        });
    }

    /// Whether it is a first answer, where it names a peer's last packet at all.
    fn answers_peer(&mut self, index: usize) -> Option<bool> {
        let event = &self.packets[index];
        let packets = self.packets;
        let name = origin(event);
        let last = self
            .questions
            .iter_mut()
            .rev()
            .find(|question| question.symmetric && follows(&packets[question.packet], event))?;
        let asked = &packets[last.packet];
        if name == 0 || !(asks_with(asked) == name || receive(asked) == Some(name)) {
            return None;
        }
        if last.answer.is_some() {
            return Some(false);
        }
        last.answer = Some((index, is_interleaved(asked, event)));
        self.totals.answered += 1;
        Some(true)
    }

    fn peer(&mut self, index: usize) {
        self.totals.symmetric += 1;
        let answers = self.answers_peer(index) == Some(true);
        let event = &self.packets[index];
        let packets = self.packets;
        let last = self
            .questions
            .iter_mut()
            .rev()
            .find(|question| question.symmetric && same_way(&packets[question.packet], event));
        if let Some(last) = last
            && asks_with(event) != 0
            && asks_with(&packets[last.packet]) == asks_with(event)
        {
            last.duplicates += 1;
            self.totals.duplicates += 1;
            return;
        }
        let passive = answers && event.ntp.mode() == Mode::SymmetricPassive;
        self.ask(index, true, passive);
    }

    /// The pairs, as (request, response, interleaved), and the duplicates of ordinary requests.
    fn pairs(&self) -> Vec<(u64, u64, bool)> {
        let mut pairs: Vec<_> = self
            .questions
            .iter()
            .filter_map(|question| {
                let (answer, interleaved) = question.answer?;
                Some((question.packet as u64, answer as u64, interleaved))
            })
            .collect();
        pairs.sort_unstable();
        pairs
    }

    fn duplicates(&self) -> Vec<u32> {
        self.questions
            .iter()
            .filter(|question| !question.symmetric)
            .map(|question| question.duplicates)
            .collect()
    }
}

fn pairs(world: &World) -> Vec<(u64, u64, bool)> {
    let mut pairs: Vec<_> = world
        .came
        .iter()
        .filter_map(|came| match *came {
            Came::Pair(request, response) => Some((request, response, false)),
            Came::Interleaved(request, response) => Some((request, response, true)),
            _ => None,
        })
        .collect();
    pairs.sort_unstable();
    pairs
}

/// A packet of a small world: few hosts, few ports, few values, so that everything collides.
fn any_packet(modes: &'static [u8]) -> impl Strategy<Value = Event> {
    let rarely = prop::bool::weighted(0.1);
    let ends = (rarely, rarely, rarely, rarely, rarely);
    let values = prop::array::uniform3(0_u64..6);
    let head = (
        prop::sample::select(modes),
        prop_oneof![1 => Just(1_u8), 4 => Just(4), 1 => Just(5)],
        prop_oneof![4 => Just(2_u8), 1 => Just(0)],
    );
    (ends, values, head).prop_map(|(ends, values, head)| {
        let (other_host, backwards, one_port, other_port, interface) = ends;
        let [origin, receive, transmit] = values;
        let (mode, version, stratum) = head;
        let mut one = (1 + u8::from(other_host), PORTS[usize::from(!one_port)]);
        let mut other = (3, PORTS[usize::from(other_port)]);
        // Requests mostly go one way, responses the other.
        if backwards != matches!(mode, 2 | 4) {
            std::mem::swap(&mut one, &mut other);
        }
        let made = packet(mode)
            .version(version)
            .from(one.0, one.1)
            .to(other.0, other.1)
            .on(interface.into())
            .origin(origin)
            .receive(receive)
            .transmit(transmit);
        let mut event = made.stamped().event;
        event.ntp.0[1] = stratum;
        event.ntp.0[12..16].copy_from_slice(if stratum == 0 { b"RATE" } else { &[0, 0, 0, 2] });
        event
    })
}

/// What a world consists of, readable when a test fails.
#[derive(Clone)]
struct Packets(Vec<Event>);

impl fmt::Debug for Packets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, event) in self.0.iter().enumerate() {
            writeln!(
                formatter,
                "{index}: {} ns mode {} version {} from {}:{} to {}:{} on {}: origin {} receive {} transmit {}",
                event.time,
                event.ntp.0[0] & 7,
                event.ntp.version(),
                event.source[15],
                event.source_port,
                event.destination[15],
                event.destination_port,
                event.interface,
                origin(event),
                value(event, 32),
                value(event, 40),
            )?;
        }
        Ok(())
    }
}

/// Packets and their times: mostly forwards, now and then back by less than the timeout, and
/// pauses that are exactly the timeout or next to it.
fn any_world(modes: &'static [u8]) -> impl Strategy<Value = Packets> {
    let step = prop_oneof![
        6 => (0_i64..400).prop_map(|milliseconds| milliseconds * MILLISECOND as i64),
        1 => (-1_i64..=1).prop_map(|nanosecond| TIMEOUT as i64 + nanosecond),
        1 => (-1900_i64..0).prop_map(|milliseconds| milliseconds * MILLISECOND as i64),
        1 => Just(5 * TIMEOUT as i64),
    ];
    prop::collection::vec((any_packet(modes), step), 1..60).prop_map(|steps| {
        let mut time = 1_000_000 * MILLISECOND;
        let events = steps
            .into_iter()
            .map(|(mut event, step)| {
                time = time.saturating_add_signed(step);
                event.time = time;
                event
            })
            .collect();
        Packets(events)
    })
}

fn watch(packets: &[Event], settings: Settings) -> World {
    let mut world = World::new(settings);
    for event in packets {
        world.observe(Stamped {
            event: *event,
            unix: event.time.cast_signed(),
            frame: 0,
        });
    }
    world.flush()
}

/// What holds whatever comes, and whatever bound is hit.
fn check(packets: &[Event], world: &World) -> Result<(), TestCaseError> {
    let totals = world.totals();
    prop_assert_eq!(totals.packets(), packets.len() as u64);
    prop_assert_eq!(totals.exchanges, totals.answered + totals.unanswered);
    let is_response = |frame: u64| {
        matches!(
            packets[frame as usize].ntp.mode(),
            Mode::Server | Mode::Unspecified
        )
    };
    let count =
        |matches: fn(&Came) -> bool| world.came.iter().filter(|came| matches(came)).count() as u64;
    let answered_by_server = world
        .came
        .iter()
        .filter(|came| {
            matches!(**came, Came::Pair(_, answer) | Came::Interleaved(_, answer) if is_response(answer))
        })
        .count() as u64;
    prop_assert_eq!(
        totals.responses,
        answered_by_server + totals.multiple_responses + totals.unsolicited
    );
    prop_assert_eq!(
        totals.answered,
        count(|came| matches!(came, Came::Pair(..) | Came::Interleaved(..)))
    );
    prop_assert_eq!(
        totals.unanswered,
        count(|came| matches!(came, Came::Unanswered(_)))
    );
    prop_assert_eq!(
        totals.unsolicited,
        count(|came| matches!(came, Came::Unsolicited(_)))
    );
    prop_assert_eq!(
        totals.multiple_responses,
        count(|came| matches!(came, Came::Multiple(_)))
    );
    prop_assert!(totals.late <= totals.unsolicited);
    let mut sequences = world.sequences.clone();
    sequences.sort_unstable();
    prop_assert_eq!(sequences, (0..totals.exchanges).collect::<Vec<_>>());
    // No response answers twice.
    let mut answers: Vec<(u64, bool)> = Vec::new();
    for (request, answer, _) in pairs(world) {
        prop_assert!(follows(
            &packets[request as usize],
            &packets[answer as usize]
        ));
        answers.push((answer, false));
    }
    let number = answers.len();
    answers.sort_unstable();
    answers.dedup();
    prop_assert_eq!(answers.len(), number);
    Ok(())
}

/// Of the totals what the rules fix: how long a timed-out request is remembered is not.
fn fixed(totals: &Totals) -> Totals {
    Totals {
        late: 0,
        evicted: 0,
        ..*totals
    }
}

const ORDINARY: &[u8] = &[3, 3, 3, 4, 4, 4];
const ALL: &[u8] = &[0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_pairer_agrees_with_the_rules(
        Packets(packets) in prop_oneof![any_world(ORDINARY), any_world(ALL)],
    ) {
        let oracle = Oracle::of(&packets);
        prop_assume!(!oracle.is_open);
        for in_order in [false, true] {
            let world = watch(&packets, Settings { in_order, ..Settings::default() });
            check(&packets, &world)?;
            prop_assert_eq!(pairs(&world), oracle.pairs());
            prop_assert_eq!(fixed(world.totals()), oracle.totals);
        }
    }

    #[test]
    fn in_order_the_requests_come_as_they_were_sent_and_with_all_duplicates(
        Packets(packets) in any_world(ORDINARY),
    ) {
        let oracle = Oracle::of(&packets);
        prop_assume!(!oracle.is_open);
        let world = watch(&packets, Settings { in_order: true, ..Settings::default() });
        prop_assert!(world.sequences.is_sorted());
        prop_assert_eq!(world.duplicates, oracle.duplicates());
    }

    #[test]
    fn totals_stay_exact_when_bounds_are_hit(Packets(packets) in any_world(ALL), bound in 0_usize..5) {
        let bounds = Settings {
            pending_bound: bound,
            held_bound: bound,
            symmetric_bound: bound,
            ..tiny()
        };
        let live = watch(&packets, bounds.clone());
        let ordered = watch(&packets, Settings { in_order: true, ..bounds });
        check(&packets, &live)?;
        check(&packets, &ordered)?;
        prop_assert_eq!(live.totals(), ordered.totals());
    }
}

#[test]
fn the_oracle_reads_the_same_header() {
    let header = NtpHeader(std::array::from_fn(|index| index as u8));
    let mut event = Event::EMPTY;
    event.ntp = header;
    assert_eq!(Timestamp(origin(&event)), header.origin());
    assert_eq!(Timestamp(value(&event, 32)), header.receive());
    assert_eq!(Timestamp(value(&event, 40)), header.transmit());
}
