//! What the benchmark sets to watch an interface: ntpmon's capture and pairing as `ntpmon watch`
//! has them, without the printing.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ntpmon::{
    capture::{Capture, Drained, Settings},
    netlink,
    ntp::{
        Stamped,
        clock::UtcOffset,
        exchange::{Exchange, LocalAddresses},
        pair::{self, Outcome, Pairer, Totals},
    },
};
use ntpmon_common::{Counter, Counters};
use serde_json::{Value, json};

use crate::network;

/// What was seen, from the programs' counters and from the pairing.
pub(crate) struct Consumed {
    /// Events that came out of the rings.
    pub(crate) events: u64,
    emitted: u64,
    ring_full: u64,
    paired: u64,
}

impl Consumed {
    /// Reads what a consumer printed.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("read what the consumer printed")?;
        let number = |name: &str| {
            value[name]
                .as_u64()
                .with_context(|| format!("the consumer did not print {name}"))
        };
        Ok(Self {
            events: number("events")?,
            emitted: number("emitted")?,
            ring_full: number("ring_full")?,
            paired: number("paired")?,
        })
    }

    /// Whether the programs and the consumer counted the same.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.events == self.emitted,
            "{} events were emitted, {} consumed ({} did not fit)",
            self.emitted,
            self.events,
            self.ring_full
        );
        ensure!(
            self.ring_full > 0 || self.paired * 2 == self.events,
            "of {} events only {} pairs came",
            self.events,
            self.paired
        );
        Ok(())
    }
}

#[derive(Default)]
struct Sum {
    totals: Totals,
    events: u64,
    /// The turnarounds, so that the timings are worked out.
    nanoseconds: u64,
}

/// Watches until interrupted, then prints one JSON object.
pub(crate) fn run(name: &str) -> Result<()> {
    let interrupted = network::Interrupt::block()?;
    let interface = netlink::interfaces()?
        .into_iter()
        .find(|interface| interface.name == name)
        .with_context(|| format!("no interface {name}"))?;
    let addresses = netlink::addresses()?;
    let sum = Arc::new(Mutex::new(Sum::default()));
    let capture = Capture::start(&interface, &Settings::default(), || {
        consumer(addresses.clone(), Arc::clone(&sum))
    })?;
    eprintln!("listening on {name}");
    interrupted.wait()?;
    let counters: Counters = capture.stop()?;
    let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    let report = json!({
        "events": sum.events,
        "emitted": counters.get(Counter::Emitted),
        "ring_full": counters.get(Counter::RingFull),
        "paired": sum.totals.answered,
        "mean_turnaround_ns": sum.nanoseconds / sum.totals.answered.max(1),
    });
    eprintln!("{:?}", sum.totals);
    println!("{report}");
    Ok(())
}

fn consumer(
    addresses: LocalAddresses,
    sum: Arc<Mutex<Sum>>,
) -> impl FnMut(Drained<'_>) + Send + 'static {
    let mut pairer = Pairer::new(pair::Settings::default());
    let mut offset = UtcOffset::now();
    let (mut events, mut nanoseconds) = (0, 0);
    move |drained| {
        let mut sink = |outcome: Outcome<'_>| {
            if let Outcome::Exchange(pair) = outcome {
                let exchange = Exchange::new(pair, &addresses);
                nanoseconds += exchange.timings.total_process_time.unwrap_or(0);
            }
        };
        match drained {
            Drained::Begin => {
                offset.refresh();
            }
            Drained::Event(event) => {
                events += 1;
                let packet = Stamped {
                    event: *event,
                    unix: offset.unix(event.time),
                    frame: 0,
                };
                pairer.observe(&packet, &mut sink);
            }
            Drained::End { now } => pairer.advance(now, &mut sink),
            Drained::Finished => {
                pairer.flush(&mut sink);
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.totals.add(pairer.totals());
                sum.events += events;
                sum.nanoseconds += nanoseconds;
            }
        }
    }
}
