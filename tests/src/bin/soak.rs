//! `cargo xtask soak`: two real chrony servers that do nothing but answer, for an hour, and a daemon
//! that watches the host that asks them. Nothing happens, so nothing may be found; what the daemon
//! takes of the machine meanwhile is printed. Longer than a test may take.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use ntpmon_tests::{
    api::Api,
    daemon::Home,
    daemons::Chronyd,
    namespace::{Namespace, Pair},
};
use serde_json::Value;

/// Lets a daemon watch two idle chrony servers, and counts what it finds.
#[derive(Parser)]
struct Arguments {
    /// For how long.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
}

const SECOND_SERVER: &str = "10.0.0.3";
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let pair = Pair::new()?;
    let device = Pair::DEVICE;
    let address = format!("address add {SECOND_SERVER}/24 dev {device}");
    pair.server.ip(&address)?;
    let bind = |address: &str| format!("bindaddress {address}");
    let first = Chronyd::server(&pair.server, &[&bind(Pair::SERVER)])?;
    let second = Chronyd::server(&pair.server, &[&bind(SECOND_SERVER)])?;
    let watch = |host: &Namespace| -> Result<_> {
        let home = Home::new()?;
        let mut command = home.command_watching(host, &[], "127.0.0.1:0", &[device])?;
        let daemon = home.start(&mut command)?;
        Ok((home, daemon))
    };
    let (_home, daemon) = watch(&pair.client)?;
    let client = Chronyd::start(
        &pair.client,
        &[
            &format!("server {} iburst", Pair::SERVER),
            &format!("server {SECOND_SERVER} iburst minpoll 0 maxpoll 4"),
        ],
    )?;
    let api = Api::of(&daemon, &pair.client)?;
    let get = |path: &str| -> Result<Value> { api.get(path)?.success() };
    let end = Instant::now() + MINUTE * u32::try_from(arguments.minutes)?;
    let before = daemon.memory_bytes()?.now;
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        let events = get("/api/ntp/events?limit=1000")?["data"].clone();
        ensure!(
            events.as_array().is_some_and(Vec::is_empty),
            "there was nothing to find: {events:#}"
        );
        if rest.is_zero() {
            break;
        }
        thread::sleep(rest.min(MINUTE));
    }
    let servers = get("/api/ntp/servers")?["data"].clone();
    let servers = servers.as_array().map_or(&[][..], Vec::as_slice);
    ensure!(
        servers.len() == 2,
        "there are not two servers: {servers:#?}"
    );
    for server in servers {
        // Who sees nothing finds nothing.
        ensure!(
            server["answered"].as_u64() >= Some(arguments.minutes.min(4))
                && server["offset_median_seconds"].is_number(),
            "hardly anything was seen: {server:#}"
        );
        println!(
            "{}: {} exchanges, {} unanswered, offset {} s ± {} s, jitter {} s",
            server["server_ip"],
            server["session_count"],
            server["unanswered"],
            server["offset_median_seconds"],
            server["offset_spread_seconds"],
            server["jitter_seconds"],
        );
    }
    let memory = daemon.memory_bytes()?;
    println!(
        "no event in {} min; resident {:.1} MB at the start, {:.1} MB now, {:.1} MB at most",
        arguments.minutes,
        before as f64 / 1e6,
        memory.now as f64 / 1e6,
        memory.most as f64 / 1e6,
    );
    drop((client, first, second));
    Ok(())
}
