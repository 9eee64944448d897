//! Feeds a history as fast as it can, and says what it has fed and what was flushed, until it is
//! killed: for tests of what is left then.
//!
//! `feed_history DIRECTORY CLIENTS SEED [ROUNDS]`

use std::{env, io::Write, path::Path, time::Duration, time::Instant};

use anyhow::{Context, Result, anyhow};
use ntpmon::{
    history::{History, Settings},
    pipeline::Sink,
};
use ntpmon_tests::history::{BEGIN, SECOND, exchange};

/// Exchanges between two flushes that are asked for; others come by themselves in between.
const ROUND: u64 = 2000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, clients, seed, rest @ ..] = arguments.as_slice() else {
        return Err(anyhow!("DIRECTORY CLIENTS SEED [ROUNDS]"));
    };
    let clients: u32 = clients.parse().context("CLIENTS")?;
    let mut random: u64 = seed.parse().context("SEED")?;
    let rounds: u64 = rest.first().map_or(Ok(u64::MAX), |it| it.parse())?;
    let settings = Settings {
        flush_interval: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(150),
        max_clients: clients as usize,
        sessions_bytes: 4 << 20,
        ..Settings::default()
    };
    let mut out = std::io::stdout().lock();
    let begun = Instant::now();
    let history = History::open(Path::new(directory), settings)?;
    writeln!(out, "opened {}", begun.elapsed().as_micros())?;
    let mut feed = history.feed("eth0");
    let mut fed = 0;
    for round in 0..rounds {
        // Told before: no more than this can have been fed.
        writeln!(out, "feeding {}", fed + ROUND)?;
        out.flush()?;
        for _ in 0..ROUND {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // A tenth more of them than there may be.
            let client = (random >> 33) as u32 % (clients + clients / 10);
            let at = BEGIN + round.cast_signed() * SECOND;
            feed.exchange(&exchange(client, at, !random.is_multiple_of(7)));
            fed += 1;
        }
        let begun = Instant::now();
        history.flush()?;
        writeln!(out, "flushed {fed} {}", begun.elapsed().as_micros())?;
        out.flush()?;
    }
    drop(feed);
    history.stop();
    Ok(())
}
