//! One by one or in parts put together: the same client.

use proptest::prelude::*;

use super::{ClientRecord, Duration, Visit};
use crate::{
    history::made::{Ask, BEGIN, SECOND, ask, asks},
    ntp::ClientClock,
};

/// What has to be the same whatever the order and the parts.
fn counted(record: &ClientRecord) -> String {
    let it = record;
    format!(
        "{:?}",
        (
            [it.sessions(), it.unanswered(), it.last_session()],
            [it.duplicates(), it.kisses()],
            [it.first_seen(), it.last_seen(), it.created(), it.updated()],
            it.versions().collect::<Vec<_>>(),
            it.is_answered(),
            [&it.latency, &it.processing, &it.total].map(Duration::minimum),
        )
    )
}

/// What has to be the same where the order is that of time.
fn described(record: &ClientRecord) -> String {
    let it = record;
    format!(
        "{:?}",
        (
            (it.session(), it.server(), it.ntp().0),
            [it.client_port(), it.server_port(), it.packet_length()],
            (it.clock(), it.role()),
            (it.clock_error(), it.clock_error_bound(), it.clock_drift()),
            [&it.latency, &it.processing, &it.total].map(Duration::last),
        )
    )
}

fn record(asks: &[Ask], first: i64) -> ClientRecord {
    let at = |place: usize| first + place as i64;
    let mut record = ClientRecord::new(&asks[0].exchange(), asks[0].at, at(0));
    for (place, ask) in asks.iter().enumerate().skip(1) {
        record.add(&ask.exchange(), ask.at, at(place));
    }
    record
}

fn is_within(found: Option<i64>, values: impl Iterator<Item = Option<i64>>) -> bool {
    let values: Vec<i64> = values.flatten().collect();
    let Some(found) = found else {
        return values.is_empty();
    };
    let (least, greatest) = (values.iter().min(), values.iter().max());
    // The least is kept to seven digits, the others to the width of a bucket.
    least.is_some_and(|least| found >= least - least.abs() / 10_000_000 - 1)
        && greatest.is_some_and(|greatest| found <= greatest + greatest.abs() / 16 + 1)
}

#[test]
fn what_is_within_is_told_from_what_is_not() {
    let values = || [Some(25_093_275), None, Some(30_000_000)].into_iter();
    assert!(is_within(Some(25_093_274), values()) && is_within(Some(31_000_000), values()));
    assert!(!is_within(Some(25_093_200), values()) && !is_within(Some(33_000_000), values()));
    assert!(is_within(None, [None].into_iter()) && !is_within(None, values()));
}

#[test]
fn whom_pairing_has_forgotten_is_known_by_what_was_written_before() {
    let day = 86_400 * SECOND;
    let absorbed = |asks: &[Ask]| {
        let mut absorbed = record(&asks[..1], 0);
        for ask in &asks[1..] {
            absorbed.absorb(&record(&[*ask], 0));
        }
        absorbed.clock()
    };
    let honest = |at| ask(1, at).ahead(-11 * day);
    let random = |at: i64| ask(1, at).random(at.unsigned_abs());
    assert_eq!(absorbed(&[honest(BEGIN)]), ClientClock::Unknown);
    assert_eq!(
        absorbed(&[honest(BEGIN), honest(BEGIN + day)]),
        ClientClock::Honest
    );
    assert_eq!(
        absorbed(&[honest(BEGIN), honest(BEGIN + 64 * SECOND).unanswered()]),
        ClientClock::Honest
    );
    assert_eq!(
        absorbed(&[random(BEGIN), random(BEGIN + 64 * SECOND)]),
        ClientClock::Randomised
    );
    // What pairing says counts more, and what cannot be a time says nothing.
    let known = Ask {
        clock: ClientClock::Honest,
        ..random(BEGIN + 9)
    };
    assert_eq!(absorbed(&[random(BEGIN), known]), ClientClock::Honest);
    for nothing in [
        ask(1, BEGIN + 9),
        Ask {
            version: 5,
            ..random(BEGIN + 9)
        },
    ] {
        assert_eq!(absorbed(&[random(BEGIN), nothing]), ClientClock::Unknown);
        assert_eq!(absorbed(&[nothing, random(BEGIN)]), ClientClock::Unknown);
    }
    // It came twice.
    assert_eq!(
        absorbed(&[random(BEGIN), random(BEGIN)]),
        ClientClock::Unknown
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn parts_put_together_are_what_one_by_one_would_be(
        mut asks in asks(1, 2..40),
        split in any::<proptest::sample::Index>(),
        in_order in any::<bool>(),
    ) {
        if in_order {
            asks.sort_by_key(|ask| ask.at);
        }
        let split = 1 + split.index(asks.len() - 1);
        let whole = record(&asks, 0);
        let mut parts = record(&asks[..split], 0);
        parts.absorb(&record(&asks[split..], split as i64));
        prop_assert_eq!(counted(&parts), counted(&whole));
        // The session that describes it does not depend on the order either, but among those of
        // the same moment.
        prop_assert_eq!(parts.session(), whole.session());
        if in_order {
            prop_assert_eq!(described(&parts), described(&whole));
        }
        let mut times: Vec<i64> = asks.iter().map(|ask| ask.at).collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e9);
        let (least, greatest) = gaps.fold((f64::MAX, 0.0_f64), |(least, greatest), gap| {
            (least.min(gap), greatest.max(gap))
        });
        let longest = (times[times.len() - 1] - times[0]) as f64 / 1e9;
        for record in [&whole, &parts] {
            let interval = f64::from(record.interval());
            if in_order {
                prop_assert!(
                    interval >= least * 0.999 && interval <= greatest * 1.001,
                    "{interval} is not within {least} to {greatest}"
                );
            }
            prop_assert!(interval >= 0.0 && interval <= longest * 1.001);
            for share in [0.0, 0.5, 1.0] {
                let found = record.latency.quantile(share);
                prop_assert!(is_within(found, asks.iter().map(Ask::latency)), "{found:?}");
                let found = record.total.quantile(share);
                prop_assert!(is_within(found, asks.iter().map(Ask::total)), "{found:?}");
            }
        }
    }

    #[test]
    fn to_add_an_exchange_is_to_absorb_a_record_of_it(asks in asks(1, 2..30)) {
        let mut absorbed = record(&asks[..1], 0);
        for (place, ask) in asks.iter().enumerate().skip(1) {
            absorbed.absorb(&ClientRecord::new(&ask.exchange(), ask.at, place as i64));
        }
        prop_assert_eq!(absorbed, record(&asks, 0));
    }
}

proptest! {
    #[test]
    fn a_visit_says_all_that_the_record_of_one_exchange_says(
        asks in asks(1, 1..3), session in any::<u64>(),
    ) {
        let mut one = record(&asks[..1], asks[0].at);
        one.set_last_session(session);
        // Comparing all of it is what this does.
        let visit = Visit::of(&one).map(|visit| visit.record());
        prop_assert_eq!(visit, Some(one));
        if asks.len() > 1 {
            prop_assert!(Visit::of(&record(&asks, asks[0].at)).is_none());
        }
    }
}
