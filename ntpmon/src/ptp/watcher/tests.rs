//! Domains, masters and pairs of made messages.

use ntpmon_common::{PortIdentity, ptp_flags};

use super::*;
use crate::ptp::{
    Change,
    made::{BEGAN, SECOND, announce, answering, corrected, flagged, message, port},
};

/// A watcher and what it told.
#[derive(Default)]
struct Watched {
    watcher: Watcher,
    told: Vec<Told>,
}

impl Watched {
    fn see(&mut self, message: Message) {
        let told = &mut self.told;
        self.watcher
            .observe(&message, &mut |change| told.push(change.clone()));
    }

    fn wait(&mut self, milliseconds: u64) {
        let told = &mut self.told;
        let now = SECOND + milliseconds * 1_000_000;
        let unix = BEGAN + (milliseconds * 1_000_000) as i64;
        self.watcher
            .advance(now, unix, &mut |change| told.push(change.clone()));
    }

    fn domain(&self) -> &Domain {
        assert_eq!(self.watcher.domains().len(), 1);
        self.watcher.domains().values().next().unwrap()
    }

    fn master(&self, number: u8) -> &crate::ptp::Master {
        &self.domain().masters[&port(number)]
    }

    fn changes(&self) -> Vec<&Change> {
        self.told.iter().map(|told| &told.change).collect()
    }
}

fn master_changed(before: Option<u8>, after: Option<u8>) -> Change {
    Change::MasterChanged {
        before: before.map(port),
        after: after.map(port),
    }
}

#[test]
fn a_master_that_goes_on_is_no_news_and_what_it_announces_is_known() {
    let mut watched = Watched::default();
    for second in 0..100 {
        watched.see(announce(port(1), 6, second * 1000));
        watched.wait(second * 1000 + 900);
    }
    assert_eq!(watched.told, []);
    let domain = watched.domain();
    assert_eq!(domain.master, Some(port(1)));
    assert_eq!(domain.master_since, BEGAN);
    let master = watched.master(1);
    let announced = master.announce.unwrap().announced;
    assert_eq!((announced.clock_class, announced.utc_offset), (6, 37));
    assert_eq!(announced.grandmaster, port(1).clock);
    let rate = master.messages[PtpType::Announce.index()];
    assert_eq!(rate.count, 100);
    let per_second = rate.per_second(watched.watcher.now()).unwrap();
    assert!((per_second - 1.0).abs() < 0.06, "{per_second}");
    assert_eq!(master.log_intervals, [None, None, Some(0)]);
}

#[test]
fn who_takes_over_from_a_silent_master_is_told_once_with_both_names() {
    let mut watched = Watched::default();
    for second in 0..10 {
        watched.see(announce(port(1), 6, second * 1000));
    }
    // Its last word was at 9 s.
    for second in 10..60 {
        if second >= 13 {
            watched.see(announce(port(2), 248, second * 1000));
        }
        watched.wait(second * 1000 + 500);
    }
    assert_eq!(watched.changes(), [&master_changed(Some(1), Some(2))]);
    // One word alone may have strayed here.
    assert_eq!(watched.told[0].unix, BEGAN + 14 * SECOND as i64);
    assert_eq!(watched.domain().master, Some(port(2)));
    assert_eq!(watched.domain().master_changes, 1);
}

#[test]
fn a_better_clock_takes_over_without_being_two_masters() {
    let mut watched = Watched::default();
    for second in 0..60 {
        // The first one hears of the other and gives way after two more words.
        if second < 12 {
            watched.see(announce(port(1), 248, second * 1000));
        }
        if second >= 10 {
            watched.see(announce(port(2), 6, second * 1000 + 300));
        }
        watched.wait(second * 1000 + 500);
    }
    assert_eq!(watched.changes(), [&master_changed(Some(1), Some(2))]);
}

#[test]
fn a_few_lost_announces_are_no_change_and_silence_is_one_each_way() {
    let mut watched = Watched::default();
    for milliseconds in [0, 1000, 2000, 5400, 6400, 15_000] {
        for passed in (0..milliseconds).step_by(250) {
            watched.wait(passed);
        }
        watched.see(announce(port(1), 6, milliseconds));
    }
    assert_eq!(watched.told, []);
    for passed in (15_000..60_000).step_by(250) {
        watched.wait(passed);
    }
    assert_eq!(watched.changes(), [&master_changed(Some(1), None)]);
    assert_eq!(watched.domain().master, None);
    watched.see(announce(port(1), 6, 60_000));
    watched.see(announce(port(1), 6, 61_000));
    assert_eq!(
        watched.changes(),
        [
            &master_changed(Some(1), None),
            &master_changed(None, Some(1))
        ]
    );
}

#[test]
fn two_that_go_on_announcing_are_told_once_and_again_when_it_happens_again() {
    let mut watched = Watched::default();
    let mut both = |from: u64, to: u64| {
        for second in from..to {
            watched.see(announce(port(1), 6, second * 1000));
            watched.see(announce(port(2), 6, second * 1000 + 400));
            watched.wait(second * 1000 + 500);
        }
        watched.told.len()
    };
    assert_eq!(both(0, 6), 0);
    assert_eq!(both(6, 40), 1);
    for second in 40..50 {
        watched.see(announce(port(1), 6, second * 1000));
        watched.wait(second * 1000 + 500);
    }
    for second in 50..90 {
        watched.see(announce(port(1), 6, second * 1000));
        watched.see(announce(port(2), 6, second * 1000 + 400));
    }
    let several = Change::SeveralMasters {
        masters: vec![port(1), port(2)],
        count: 2,
    };
    assert_eq!(watched.changes(), [&several, &several]);
    assert_eq!(watched.domain().master, Some(port(1)));
}

#[test]
fn several_that_announce_to_one_receiver_each_are_ordinary() {
    let mut watched = Watched::default();
    for second in 0..60 {
        for number in [1, 2] {
            let message = announce(port(number), 6, second * 1000);
            watched.see(flagged(message, ptp_flags::UNICAST));
        }
    }
    assert_eq!(watched.told, []);
}

#[test]
fn what_is_announced_otherwise_is_told_by_what_explains_it() {
    let mut watched = Watched::default();
    let with = |second: u64, change: &dyn Fn(&mut [u8; 64])| {
        let mut message = announce(port(1), 6, second * 1000);
        change(&mut message.event.message.0);
        message
    };
    watched.see(with(0, &|_| {}));
    watched.see(with(1, &|bytes| bytes[48] = 7));
    // Another grandmaster has another quality: that is one change.
    watched.see(with(2, &|bytes| (bytes[48], bytes[60]) = (6, 9)));
    watched.see(with(3, &|bytes| (bytes[60], bytes[45]) = (9, 0)));
    watched.see(with(4, &|bytes| {
        (bytes[60], bytes[45], bytes[7]) = (9, 0, 0)
    }));
    // How far it is away, and that it is to one receiver, is no news.
    watched.see(with(5, &|bytes| {
        (bytes[60], bytes[45], bytes[7], bytes[62]) = (9, 0, 0, 3);
        bytes[6] |= 4;
    }));
    let names: Vec<_> = watched.changes().iter().map(|it| it.name()).collect();
    assert_eq!(
        names,
        [
            "ptp_clock_quality_changed",
            "ptp_grandmaster_changed",
            "ptp_time_properties_changed",
            "ptp_time_properties_changed",
        ]
    );
    let object = watched.told[0].object(Some("eth0"));
    assert_eq!(object["kind"], "ptp_clock_quality_changed");
    assert_eq!(object["interface_name"], "eth0");
    assert_eq!(object["domain_number"], 0);
    assert_eq!(object["before"]["clock_class"], 6);
    assert_eq!(object["after"]["clock_class"], 7);
    assert_eq!(object["timestamp"], "2023-11-14T22:13:21Z");
}

#[test]
fn a_sync_has_its_own_time_or_that_of_its_follow_up_in_either_order() {
    let mut watched = Watched::default();
    let two_step = |sequence, at, correction| {
        let sync = message(PtpType::Sync, port(1), sequence, at);
        corrected(flagged(sync, ptp_flags::TWO_STEP), correction)
    };
    let follow_up = |sequence, at, correction| {
        corrected(
            message(PtpType::FollowUp, port(1), sequence, at),
            correction,
        )
    };
    watched.see(two_step(1, 0, 100));
    watched.see(follow_up(1, 1, 20));
    watched.see(follow_up(2, 1000, 5));
    watched.see(two_step(2, 1001, -1005));
    watched.see(corrected(message(PtpType::Sync, port(1), 3, 2000), 7));
    watched.see(two_step(4, 3000, 1_000_000));
    watched.wait(10_000);
    let master = watched.master(1);
    assert_eq!((master.two_step_syncs, master.one_step_syncs), (2, 1));
    assert_eq!(master.missing_follow_ups, 1);
    let correction = master.sync_correction;
    assert_eq!(correction.count, 3);
    assert_eq!(correction.minimum, -1000 << 16);
    assert_eq!(correction.maximum, 120 << 16);
    assert_eq!(correction.last, 7 << 16);
}

#[test]
fn syncs_to_single_receivers_with_the_same_number_do_not_mix() {
    let mut watched = Watched::default();
    let to = |mut message: Message, receiver: u8| {
        message.event.destination[15] = receiver;
        message
    };
    let sync = |at| flagged(message(PtpType::Sync, port(1), 5, at), ptp_flags::TWO_STEP);
    watched.see(to(corrected(sync(0), 1), 1));
    watched.see(to(corrected(sync(1), 10), 2));
    let follow_up = |at| message(PtpType::FollowUp, port(1), 5, at);
    watched.see(to(follow_up(2), 2));
    watched.see(to(follow_up(3), 1));
    let master = watched.master(1);
    assert_eq!((master.two_step_syncs, master.missing_follow_ups), (2, 0));
    assert_eq!(master.sync_correction.last, 1 << 16);
}

#[test]
fn delay_requests_pair_by_who_asked_and_number_whoever_answers() {
    let mut watched = Watched::default();
    let asks = |number, sequence, at| message(PtpType::DelayRequest, port(number), sequence, at);
    let answers = |requester: PortIdentity, sequence, at| {
        let response = message(PtpType::DelayResponse, port(1), sequence, at);
        corrected(answering(response, requester), 36)
    };
    watched.see(asks(7, 1, 0));
    watched.see(asks(8, 1, 0));
    watched.see(answers(port(8), 1, 3));
    watched.see(answers(port(7), 1, 5));
    watched.see(asks(7, 2, 1000));
    watched.see(answers(port(9), 2, 1001));
    watched.see(answers(port(7), 1, 1002));
    watched.wait(9000);
    let delays = *watched.domain().delays();
    assert_eq!((delays.requests, delays.answered), (3, 2));
    assert_eq!((delays.unanswered, delays.unsolicited), (1, 1));
    assert_eq!(delays.multiple_responses, 1);
    let master = watched.master(1);
    assert_eq!(master.turnaround.count, 2);
    assert_eq!(
        (master.turnaround.minimum, master.turnaround.maximum),
        (3_000_000, 5_000_000)
    );
    assert_eq!(master.delay_correction.last, 36 << 16);
    // Who only asks is no master.
    assert_eq!(watched.domain().masters.len(), 1);
}

#[test]
fn peers_delays_pair_likewise_and_make_nobody_a_master() {
    let mut watched = Watched::default();
    watched.see(message(PtpType::PeerDelayRequest, port(1), 1, 0));
    let response = message(PtpType::PeerDelayResponse, port(2), 1, 2);
    watched.see(answering(response, port(1)));
    let follow_up = message(PtpType::PeerDelayResponseFollowUp, port(2), 1, 3);
    watched.see(answering(follow_up, port(1)));
    watched.see(message(PtpType::PeerDelayRequest, port(1), 2, 1000));
    watched.wait(9000);
    let delays = *watched.domain().peer_delays();
    assert_eq!(
        (delays.requests, delays.answered, delays.unanswered),
        (2, 1, 1)
    );
    assert_eq!(watched.domain().delays().requests, 0);
    assert!(watched.domain().masters.is_empty());
}

#[test]
fn ntp_inside_ptp_is_counted_and_asks_nobody() {
    let mut watched = Watched::default();
    let mut carrier = message(PtpType::DelayRequest, port(1), 1, 0);
    carrier.event.message.0[3] = 96;
    carrier.event.message.0[44..46].copy_from_slice(&[0x20, 0x23]);
    watched.see(carrier);
    watched.wait(9000);
    let domain = watched.domain();
    assert_eq!((domain.ntp_messages, domain.delays().requests), (1, 0));
}

#[test]
fn a_number_in_another_vlan_or_over_another_transport_is_another_domain() {
    let mut watched = Watched::default();
    watched.see(announce(port(1), 6, 0));
    let mut tagged = announce(port(2), 6, 0);
    tagged.event.vlan = [5, 0];
    watched.see(tagged);
    let mut layer2 = announce(port(3), 6, 0);
    layer2.event.flags = ntpmon_common::flags::LAYER2;
    watched.see(layer2);
    let mut gptp = announce(port(4), 6, 0);
    gptp.event.message.0[0] |= 0x10;
    watched.see(gptp);
    assert_eq!(watched.watcher.domains().len(), 4);
    assert_eq!(watched.told, []);
}

#[test]
fn made_up_identities_and_domains_fill_no_more_than_their_bounds() {
    let mut watched = Watched::default();
    for number in 0..3000_u16 {
        let mut message = announce(port(1), 6, u64::from(number));
        message.event.message.0[20..22].copy_from_slice(&number.to_be_bytes());
        message.event.message.0[4] = (number % 100) as u8;
        watched.see(message);
    }
    let watcher = &watched.watcher;
    assert_eq!(watcher.domains().len(), DOMAINS);
    let masters: usize = watcher.domains().values().map(|it| it.masters.len()).sum();
    assert_eq!(masters, watcher.masters);
    assert!(masters <= MASTERS);
    assert_eq!(watcher.messages(), 3000);
    assert_eq!(watcher.unlisted(), 0);
    // An hour later there is room again; who is master of each stays.
    watched.wait(2 * 3_600_000);
    assert!(watched.watcher.domains().len() <= DOMAINS);
    let mut message = announce(port(1), 6, 2 * 3_600_000 + 1);
    message.event.message.0[20..22].copy_from_slice(&[0xaa, 0xbb]);
    let before = watched.watcher.unlisted();
    watched.see(message);
    assert_eq!(watched.watcher.unlisted(), before);
}

#[test]
fn a_restored_master_is_given_the_time_to_speak_and_then_missed() {
    let remembered = || {
        let mut before = Watched::default();
        before.see(announce(port(1), 6, 0));
        before.see(announce(port(1), 6, 1000));
        let (key, domain) = before.watcher.domains().iter().next().unwrap();
        let masters = domain.masters.values().cloned().map(|mut master| {
            if let Some(announce) = &mut master.announce {
                announce.time = None;
            }
            master
        });
        let mut watched = Watched::default();
        let restored = Domain::restored(masters, domain.master, [BEGAN; 2], BEGAN, 0);
        watched.watcher.restore(*key, restored);
        watched
    };
    let mut watched = remembered();
    watched.wait(500_000);
    watched.see(announce(port(1), 6, 501_000));
    assert_eq!(watched.told, []);

    let mut watched = remembered();
    for second in 500..520 {
        watched.see(announce(port(2), 6, second * 1000));
    }
    assert_eq!(watched.changes(), [&master_changed(Some(1), Some(2))]);
}

#[test]
fn of_what_a_restart_remembers_only_the_master_is_waited_for() {
    let mut before = Watched::default();
    before.see(announce(port(1), 6, 0));
    let (key, domain) = before.watcher.domains().iter().next().unwrap();
    let masters = domain.masters.values().cloned().map(|mut master| {
        master.announce.as_mut().unwrap().time = None;
        master
    });
    let mut watched = Watched::default();
    let restored = Domain::restored(masters, None, [BEGAN; 2], BEGAN, 1);
    watched.watcher.restore(*key, restored);
    for second in 500..520 {
        watched.wait(second * 1000);
        assert_eq!(
            watched.domain().announcing(watched.watcher.now()).count(),
            0
        );
    }
    assert_eq!(watched.told, []);
    assert_eq!(watched.domain().master, None);
}

/// A made-up sender.
fn forged(mut message: Message, number: u16) -> Message {
    message.event.message.0[20..22].copy_from_slice(&number.to_be_bytes());
    message
}

#[test]
fn made_up_senders_do_not_keep_a_new_master_out() {
    for announces in [false, true] {
        let mut watched = Watched::default();
        watched.see(announce(port(1), 6, 0));
        watched.see(announce(port(1), 6, 1000));
        for number in 0..5000_u16 {
            let at = 1000 + u64::from(number) / 10;
            watched.see(forged(
                match announces {
                    true => announce(port(9), 248, at),
                    false => message(PtpType::Sync, port(9), 1, at),
                },
                number + 1,
            ));
        }
        for second in 2..20 {
            watched.see(announce(port(2), 6, second * 1000));
        }
        let domain = watched.domain();
        assert!(domain.masters.contains_key(&port(1)), "{announces}");
        assert_eq!(domain.master, Some(port(2)), "{announces}");
        assert!(watched.watcher.masters <= MASTERS);
    }
}

#[test]
fn a_flood_of_changes_is_told_a_few_times_and_then_counted() {
    let mut watched = Watched::default();
    for number in 0..100 {
        watched.see(announce(port(1), 6 + (number % 2) as u8, number * 100));
    }
    assert_eq!(watched.told.len(), 5);
    for second in 10..70 {
        watched.see(announce(port(1), 7, second * 1000));
    }
    assert_eq!(watched.told.len(), 6);
    assert_eq!(watched.told[5].more, 99 - 6);
    let text = watched.told[5].text();
    assert!(
        text.ends_with("and 93 more such changes in the minute before"),
        "{text}"
    );
}

#[test]
fn a_better_clock_is_followed_although_the_old_one_goes_on() {
    let mut watched = Watched::default();
    for second in 0..40 {
        watched.see(announce(port(1), 248, second * 1000));
        if second >= 20 {
            watched.see(announce(port(2), 6, second * 1000 + 300));
        }
        watched.wait(second * 1000 + 500);
    }
    let several = Change::SeveralMasters {
        masters: vec![port(2), port(1)],
        count: 2,
    };
    assert_eq!(
        watched.changes(),
        [&master_changed(Some(1), Some(2)), &several]
    );
}

#[test]
fn alternate_masters_and_a_word_that_strays_change_nothing() {
    let mut watched = Watched::default();
    for second in 0..60 {
        watched.see(announce(port(1), 248, second * 1000));
        let alternate = announce(port(2), 6, second * 1000 + 300);
        watched.see(flagged(alternate, ptp_flags::ALTERNATE_MASTER));
        if second % 20 == 10 {
            watched.see(announce(port(3), 6, second * 1000 + 400));
        }
    }
    // The master is silent for a moment as something strays here.
    watched.see(announce(port(3), 6, 63_000));
    watched.see(announce(port(1), 248, 63_500));
    assert_eq!(watched.told, []);
    assert_eq!(watched.domain().master, Some(port(1)));
}

#[test]
fn what_passes_twice_is_counted_once() {
    let mut watched = Watched::default();
    for sequence in 0..10 {
        let at = u64::from(sequence) * 1000;
        let sync = message(PtpType::Sync, port(1), sequence, at);
        let sync = flagged(sync, ptp_flags::TWO_STEP);
        let request = message(PtpType::DelayRequest, port(7), sequence, at + 10);
        let follow_up = message(PtpType::FollowUp, port(1), sequence, at + 20);
        for it in [sync, sync, request, request, follow_up, follow_up] {
            watched.see(it);
        }
        // What a clock on one of the ways corrected is another message, and the same half.
        let other = message(PtpType::Sync, port(1), 100 + sequence, at + 30);
        let other = flagged(other, ptp_flags::TWO_STEP);
        watched.see(other);
        watched.see(corrected(other, 5));
        watched.see(message(PtpType::FollowUp, port(1), 100 + sequence, at + 40));
    }
    watched.wait(60_000);
    let master = watched.master(1);
    assert_eq!((master.two_step_syncs, master.missing_follow_ups), (20, 0));
    assert_eq!(watched.domain().delays().requests, 10);
    assert_eq!(watched.watcher.duplicates(), 30);
}

#[test]
fn to_single_receivers_an_interval_that_is_not_said_is_the_usual_one_at_least() {
    let mut watched = Watched::default();
    for number in 0..40_u64 {
        let mut message = flagged(announce(port(1), 6, number * 50), ptp_flags::UNICAST);
        message.event.message.0[33] = 0x7f;
        message.event.destination[15] = number as u8 % 20;
        watched.see(message);
    }
    assert_eq!(watched.master(1).announce.unwrap().interval, 2 * SECOND);
}

#[test]
fn requests_without_end_in_many_domains_wait_within_one_bound() {
    let mut watched = Watched::default();
    for number in 0..60_000_u16 {
        let request = message(PtpType::DelayRequest, port(1), number, 1);
        let mut request = forged(request, number);
        request.event.message.0[4] = (number % 60) as u8;
        watched.see(request);
    }
    let pending: usize = watched
        .watcher
        .domains()
        .values()
        .map(Domain::pending)
        .sum();
    assert_eq!(pending, watched.watcher.pending);
    assert!(pending <= PENDING + 60 * 64, "{pending}");
    watched.wait(10_000);
    assert_eq!(watched.watcher.pending, 0);
}
