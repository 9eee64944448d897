//! The history under load.
use anyhow::Result;
use ntpmon::history::{
    History, Settings,
    catalogue::{Filter, Sort},
    query::{ClientQuery, Part},
};
use ntpmon_tests::exchanges::{address, feeder};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

fn rss() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
        / 1024
}

pub(crate) fn measure() -> Result<Value> {
    let clients: u32 = std::env::var("CLIENTS")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(1_000_000);
    let rate: u64 = std::env::var("RATE")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(500_000);
    let seconds: u64 = std::env::var("SECONDS")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(15);
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("NTPMON_LOG").unwrap_or_default())
        .init();
    let directory = tempfile::tempdir_in("/tmp")?;
    let settings = Settings {
        max_clients: clients as usize * 2,
        ..Settings::default()
    };
    let history = History::open(directory.path(), settings.clone())?;
    let mut feed = feeder(&history, "eth0");
    let begun = Instant::now();
    for start in (0..clients).step_by(2000) {
        feed.exchanges(start..(start + 2000).min(clients));
        if start % 200_000 == 0 && start > 0 {
            history.flush()?;
        }
    }
    let fed = begun.elapsed();
    history.checkpoint()?;
    let all = begun.elapsed();
    println!(
        "fed {clients} in {fed:?}, all in the table after {all:?}: {:.0}/s rss {} MB",
        f64::from(clients) / all.as_secs_f64(),
        rss()
    );
    let s = history.service_statistics();
    println!("{}", serde_json::to_string(&s)?);
    drop(feed);
    history.stop();
    drop(history);
    println!("closed, rss {} MB", rss());
    let begun = Instant::now();
    let history = History::open(directory.path(), settings.clone())?;
    println!("opened in {:?}, rss {} MB", begun.elapsed(), rss());
    // paced load with queries
    let stop = Arc::new(AtomicBool::new(false));
    let mut feed = feeder(&history, "eth0");
    let flag = stop.clone();
    let feeding = std::thread::spawn(move || {
        let mut state = 88172645463325252_u64;
        let begun = Instant::now();
        let mut sent = 0_u64;
        let mut late = Duration::ZERO;
        while !flag.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
            let n = (due - sent).min(20_000);
            if n < rate / 250 {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            feed.exchanges((0..n).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % u64::from(clients)) as u32
            }));
            sent += n;
            let behind = begun
                .elapsed()
                .saturating_sub(Duration::from_secs_f64(sent as f64 / rate as f64));
            late = late.max(behind);
        }
        (sent, late, cpu())
    });
    let begun = Instant::now();
    let mut latencies: Vec<Vec<Duration>> = vec![Vec::new(); 5];
    let mut n = 0_u32;
    let query = |part, filter, sort| ClientQuery {
        filter,
        sort,
        descending: true,
        part,
        size: 20,
    };
    let mut next_report = 1;
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(10));
        n += 1;
        let kind = (n % 5) as usize;
        let t = Instant::now();
        match kind {
            0 => {
                history.clients(&query(Part::Page(1), Filter::default(), Sort::LastSeen))?;
            }
            1 => {
                history.clients(&query(
                    Part::Page(20_000),
                    Filter::default(),
                    Sort::LastSeen,
                ))?;
            }
            2 => {
                let a = address(n);
                let lo = {
                    let mut a = a;
                    a[14] = 0;
                    a[15] = 0;
                    a
                };
                let hi = {
                    let mut a = a;
                    a[14] = 255;
                    a[15] = 255;
                    a
                };
                history.clients(&query(
                    Part::Page(1),
                    Filter {
                        addresses: Some(vec![lo..=hi]),
                        ..Filter::default()
                    },
                    Sort::LastSeen,
                ))?;
            }
            3 => {
                let a = address(n % clients);
                history.client(std::net::Ipv6Addr::from(a).into(), 100)?;
            }
            _ => {
                history.interface_statistics()?;
            }
        }
        latencies[kind].push(t.elapsed());
        if begun.elapsed().as_secs() >= next_report {
            next_report += 1;
            let s = history.service_statistics();
            println!(
                "received {} processed {} queue {} last flush {:?} clients {} longest {:?} db {} MB rss {} MB",
                s.total_received,
                s.total_processed,
                s.queue_size,
                s.last_flush_seconds,
                s.last_flush_clients,
                s.longest_flush_seconds,
                s.database_bytes >> 20,
                rss()
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (sent, late, cpu) = feeding.join().unwrap();
    history.flush()?;
    let s = history.service_statistics();
    println!(
        "sent {sent}, behind at most {late:?}, cpu of feeder {cpu:?}; received {} drops {:?}",
        s.total_received, s.drops
    );
    for (kind, l) in latencies.iter_mut().enumerate() {
        l.sort();
        println!(
            "kind {kind}: n {} median {:?} p99 {:?} max {:?}",
            l.len(),
            l[l.len() / 2],
            l[l.len() * 99 / 100],
            l[l.len() - 1]
        );
    }
    history.stop();
    Ok(Value::Null)
}
fn cpu() -> Duration {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}
