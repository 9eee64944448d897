//! The totals at the end: one object for programs, a few lines for people.

use std::fmt::Write;

use ntpmon_common::{Counter, Counters};
use serde_json::{Map, Value, json};

use crate::ntp::pair::Totals;

/// The totals as one JSON object, in the order of the documentation.
pub(super) fn object(counters: &Counters, totals: &Totals) -> Map<String, Value> {
    let mut object = Map::new();
    let Totals {
        requests,
        responses,
        exchanges,
        answered,
        unanswered,
        unsolicited,
        late,
        duplicates,
        multiple_responses,
        kiss_of_death,
        control,
        private,
        broadcast,
        symmetric,
        evicted,
    } = totals;
    for (name, value) in [
        ("packets", counters.packets()),
        ("ntp_packets", counters.ntp_packets()),
        ("requests", *requests),
        ("responses", *responses),
        ("exchanges", *exchanges),
        ("answered", *answered),
        ("unanswered", *unanswered),
        ("unsolicited", *unsolicited),
        ("duplicates", *duplicates),
        ("multiple_responses", *multiple_responses),
        ("kiss_of_death", *kiss_of_death),
        ("control", *control),
        ("private", *private),
        ("broadcast", *broadcast),
        ("symmetric", *symmetric),
    ] {
        object.insert(name.to_owned(), value.into());
    }
    object.insert("skipped".to_owned(), skipped(counters).into());
    object.insert("late".to_owned(), (*late).into());
    object.insert("evicted".to_owned(), (*evicted).into());
    object
}

fn skipped(counters: &Counters) -> Map<String, Value> {
    counters
        .skipped()
        .map(|(reason, count)| (reason.name().to_owned(), count.into()))
        .collect()
}

/// The totals as lines; what is zero and says nothing by being zero is left out.
pub(super) fn lines(counters: &Counters, totals: &Totals) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: u64, always: bool| {
        if always || value > 0 {
            let _ = writeln!(text, "{value:>14}  {name}");
        }
    };
    line("packets", counters.packets(), true);
    line("of them NTP", counters.ntp_packets(), true);
    line(
        "lost: the ring was full",
        counters.get(Counter::RingFull),
        true,
    );
    line("PTP messages", counters.ptp_packets(), false);
    line(
        "lost PTP messages: the ring was full",
        counters.get(Counter::PtpRingFull),
        false,
    );
    line("exchanges", totals.exchanges, true);
    line("answered", totals.answered, true);
    line("unanswered", totals.unanswered, true);
    line("unsolicited responses", totals.unsolicited, false);
    line("of them late", totals.late, false);
    line("retransmitted requests", totals.duplicates, false);
    line("further responses", totals.multiple_responses, false);
    line("kisses of death", totals.kiss_of_death, false);
    line("symmetric packets", totals.symmetric, false);
    line("broadcasts", totals.broadcast, false);
    line("control messages", totals.control, false);
    line("private messages", totals.private, false);
    line("given up early: too many waited", totals.evicted, false);
    for (reason, count) in counters.skipped() {
        line(&format!("skipped: {}", reason.name()), count, false);
    }
    text
}

/// One interface's share, for the object of several.
pub(super) fn interface(name: &str, mode: &str, counters: &Counters) -> Value {
    json!({
        "interface": name,
        "mode": mode,
        "packets": counters.packets(),
        "events": counters.get(Counter::Emitted),
        "lost": counters.get(Counter::RingFull),
        "skipped": skipped(counters),
    })
}
