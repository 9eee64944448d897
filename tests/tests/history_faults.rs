//! What goes wrong with the file of the history: disks fill up, the process is killed, files are
//! damaged or cannot be written. Whatever happens, nothing is counted twice, what was flushed stays,
//! and no file is deleted.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use ntpmon::{
    history::{FILE, Feed, History, Settings, Verified, session::Keep},
    pipeline::Sink,
};
use ntpmon_tests::history::{BEGIN, SECOND, exchange};
use tempfile::TempDir;

/// Enough for a busy machine, far more than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing happens by itself.
fn settings() -> Settings {
    Settings {
        flush_interval: Duration::from_secs(3600),
        checkpoint_interval: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        sessions_per_second: 1,
        sessions_bytes: 1 << 20,
        ..Settings::default()
    }
}

fn give(feed: &mut Feed, clients: impl Iterator<Item = u32>, second: i64) {
    for client in clients {
        let is_answered = !client.is_multiple_of(3);
        feed.exchange(&exchange(client, BEGIN + second * SECOND, is_answered));
    }
}

fn count(history: &History, client: u32) -> u64 {
    let ip = IpAddr::V4(Ipv4Addr::from(client));
    let found = history.client(ip, 0).unwrap().unwrap();
    found.interfaces.iter().map(|on| on.session_count).sum()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Flushes until it works.
fn recovered(history: &History) -> Verified {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = history.flush() {
        assert!(Instant::now() < end, "{error:#}");
        thread::sleep(Duration::from_millis(100));
    }
    let verified = history.verify().unwrap();
    let health = history.health();
    assert_eq!(health.status, "healthy", "{health:?}");
    verified
}

/// A file system of its own, small and in memory, that is gone at the end.
struct Disk(TempDir);

impl Disk {
    fn new(options: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let disk = Self(directory);
        disk.mount(&["-t", "tmpfs", "-o", options, "tmpfs"]);
        disk
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount")
            .args(arguments)
            .arg(self.path())
            .status()
            .unwrap();
        assert!(status.success(), "mount {arguments:?}: this needs root");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes what room there is, but for so many bytes.
    fn fill(&self, but: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(but)).unwrap();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may still be busy where a test failed with a history open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_when_there_is_room_again_nothing_is_lost_or_doubled() {
    let disk = Disk::new("size=24m");
    let bounds = Settings {
        max_clients: 50_000,
        batch_size: 5000,
        ..settings()
    };
    let history = History::open(disk.path(), bounds.clone()).unwrap();
    let mut feed = history.feed("eth0");
    let mut fed = 0;
    for round in 0..4 {
        give(&mut feed, 0..3000, round);
        fed += 3000;
        history.flush().unwrap();
    }
    for room in [0, 20_000, 200_000] {
        let ballast = disk.fill(room);
        let mut failures = 0;
        // Far more than it may hold by name.
        for (second, round) in (10..).zip(0..40_u32) {
            give(&mut feed, round * 1500..round * 1500 + 3000, second);
            fed += 3000;
            if round.is_multiple_of(2) && history.flush().is_err() {
                failures += 1;
            }
        }
        assert!(failures > 2, "{failures} with {room}");
        let health = history.health();
        assert_eq!(health.status, "degraded");
        let told = health.problems.join("; ");
        assert!(told.contains("No space left"), "{told}");
        // What was written before can still be read.
        assert!(count(&history, 2999) >= 4);
        let statistics = history.service_statistics();
        assert_eq!(statistics.queue_size, fed - statistics.total_processed);
        fs::remove_file(ballast).unwrap();
        let verified = recovered(&history);
        assert_eq!(verified.exchanges(), fed);
        assert_eq!(verified.interface("eth0").unwrap().in_days, fed);
    }
    let before = history.verify().unwrap();
    history.stop();
    assert_eq!(names(disk.path()), [FILE]);
    let history = History::open(disk.path(), bounds).unwrap();
    assert_eq!(history.verify().unwrap(), before);
    history.stop();
}

#[test]
fn a_disk_that_is_full_from_the_start_is_said_and_leaves_nothing_that_hinders_later() {
    let disk = Disk::new("size=4m");
    let ballast = disk.fill(0);
    let error = History::open(disk.path(), settings()).map(|history| history.stop());
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("No space left"), "{error}");
    assert!(
        error.contains(&disk.path().display().to_string()),
        "{error}"
    );
    fs::remove_file(ballast).unwrap();
    let history = History::open(disk.path(), settings()).unwrap();
    give(&mut history.feed("eth0"), 0..10, 0);
    assert_eq!(recovered(&history).exchanges(), 10);
    history.stop();
}

#[test]
fn a_disk_that_becomes_read_only_is_told_and_nothing_is_lost_when_it_is_not_any_more() {
    let disk = Disk::new("size=16m");
    let history = History::open(disk.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    give(&mut feed, 0..100, 0);
    history.flush().unwrap();
    history.stop();

    disk.mount(&["-o", "remount,ro"]);
    let error = History::open(disk.path(), settings()).map(|history| history.stop());
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("Read-only"), "{error}");
    assert!(error.contains(FILE), "{error}");
    disk.mount(&["-o", "remount,rw"]);
    assert_eq!(names(disk.path()), [FILE]);
    let history = History::open(disk.path(), settings()).unwrap();
    assert_eq!(history.verify().unwrap().exchanges(), 100);
    history.stop();

    let empty = disk.path().join("new");
    fs::create_dir(&empty).unwrap();
    disk.mount(&["-o", "remount,ro"]);
    let error = History::open(&empty, settings()).map(|history| history.stop());
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("Read-only") && error.contains("/new/"),
        "{error}"
    );
    disk.mount(&["-o", "remount,rw"]);
}

/// A history that was closed, with something in each of its tables.
fn whole() -> Vec<u8> {
    let directory = TempDir::new().unwrap();
    let history = History::open(directory.path(), settings()).unwrap();
    let mut feed = history.feed("eth0");
    give(&mut feed, 0..2000, 0);
    history.checkpoint().unwrap();
    give(&mut feed, 1000..1500, 1);
    history.set_document("watched", b"eth0".to_vec());
    history.flush().unwrap();
    history.stop();
    fs::read(directory.path().join(FILE)).unwrap()
}

/// Opens a file that is not what it should be, and works with it. Returns whether it was put aside.
fn work_with(bytes: &[u8], what: &str) -> bool {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    fs::write(&path, bytes).unwrap();
    let history = match History::open(directory.path(), settings()) {
        Ok(history) => history,
        Err(error) => {
            // The damage may be in the number of the layout.
            let error = format!("{error:#}");
            assert!(error.contains("newer ntpmon"), "{what}: {error}");
            assert_eq!(names(directory.path()), [FILE], "{what}");
            return false;
        }
    };
    let mut feed = history.feed("eth0");
    let _ = history.verify();
    let end = Instant::now() + PATIENCE;
    // Until it has been written, into this file or a new one.
    loop {
        give(&mut feed, 0..50, 5);
        match history.flush().and_then(|()| history.checkpoint()) {
            Ok(()) => break,
            Err(error) => assert!(Instant::now() < end, "{what}: {error:#}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert!(history.is_alive(), "{what}");
    drop(feed);
    history.stop();
    let names = names(directory.path());
    let aside: Vec<&String> = names
        .iter()
        .filter(|name| name.contains("damaged"))
        .collect();
    assert!(names.contains(&FILE.to_owned()), "{what}: {names:?}");
    assert_eq!(names.len(), 1 + aside.len(), "{what}: {names:?}");
    assert!(aside.len() <= 1, "{what}: {names:?}");
    for name in &aside {
        let kept = fs::metadata(directory.path().join(name)).unwrap().len();
        assert!(kept >= bytes.len() as u64, "{what}: {kept}");
    }
    // What is there now is whole.
    if !aside.is_empty() {
        let history = History::open(directory.path(), settings()).unwrap();
        history
            .verify()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        history.stop();
    }
    !aside.is_empty()
}

/// As that, but on a thread that must come to an end.
fn ends(bytes: Vec<u8>, what: &str) -> bool {
    let (done, result) = channel();
    let name = what.to_owned();
    thread::Builder::new()
        .name(what.to_owned())
        .spawn(move || done.send(work_with(&bytes, &name)))
        .unwrap();
    result
        .recv_timeout(2 * PATIENCE)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }
}

#[test]
fn a_file_that_is_none_is_put_aside_and_an_empty_one_is_used() {
    assert!(!ends(Vec::new(), "empty"));
    assert!(ends(b"hello".to_vec(), "text"));
    assert!(ends(vec![0; 1 << 16], "zeros"));
    let mut random = Random(1);
    for length in [1, 100, 4096, 70_000, 1 << 20] {
        let bytes = (0..length).map(|_| random.next() as u8).collect();
        assert!(ends(bytes, &format!("{length} random bytes")));
    }
}

#[test]
fn a_truncated_file_is_put_aside_or_what_is_left_is_used() {
    let whole = whole();
    let mut random = Random(2);
    for _ in 0..20 {
        let length = 1 + random.next() % (whole.len() - 1);
        ends(
            whole[..length].to_vec(),
            &format!("{length} of {}", whole.len()),
        );
    }
}

#[test]
fn a_file_with_damage_anywhere_is_used_or_put_aside_and_writing_goes_on() {
    let whole = whole();
    // Where there is something: most of the file is room.
    let used: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut aside = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        let count = 1 << (seed % 8);
        for _ in 0..count {
            let place = used[random.next() % used.len()];
            bytes[place] ^= 1 << (random.next() % 8);
        }
        aside += u32::from(ends(bytes, &format!("{count} flips of seed {seed}")));
    }
    assert!(aside > 0 && aside < 60, "{aside}");
}

#[test]
fn what_was_flushed_is_there_whenever_the_process_is_killed() {
    const KILLS: usize = 100;
    let killed = Killed::times(KILLS, 3000, false);
    assert!(killed.begun > KILLS / 3, "only {killed:?}");
}

#[test]
fn what_was_flushed_is_there_when_the_process_is_killed_amid_a_merge() {
    // Enough that what came is merged in parts.
    let killed = Killed::times(30, 24_000, true);
    assert!(killed.merging > 0, "only {killed:?}");
}

/// How the lives of a process ended.
#[derive(Debug, Default)]
struct Killed {
    /// How many had flushed something.
    begun: usize,
    /// How many had put a part of what came into the blocks.
    merging: usize,
}

impl Killed {
    /// Kills it at some moment of half a second, from its start on or from its first flush on, and
    /// each time compares what is there with what it had said.
    fn times(kills: usize, clients: u32, flushed_first: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let settings = Settings {
            max_clients: clients as usize,
            keep: Keep::All,
            ..settings()
        };
        let mut random = Random(3);
        let mut killed = Self::default();
        let (mut before, mut longest) = (0, Duration::ZERO);
        for kill in 0..kills {
            let mut child = Command::new(env!("CARGO_BIN_EXE_feed_history"))
                .arg(directory.path())
                .args([clients.to_string(), kill.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let (tell, told) = channel();
            let reader = thread::spawn(move || {
                let (mut feeding, mut flushed) = (0, 0);
                for line in lines.map_while(Result::ok) {
                    let mut words = line.split(' ');
                    let word = words.next().unwrap_or_default();
                    // The last line may be cut off.
                    let number = words.next().and_then(|it| it.parse::<u64>().ok());
                    match (word, number, words.next()) {
                        ("feeding", Some(number), _) => feeding = feeding.max(number),
                        ("flushed", Some(number), Some(_)) => {
                            flushed = number;
                            let _ = tell.send(());
                        }
                        _ => {}
                    }
                }
                (feeding, flushed)
            });
            if flushed_first {
                told.recv_timeout(PATIENCE).unwrap();
            }
            thread::sleep(Duration::from_micros((random.next() % 500_000) as u64));
            child.kill().unwrap();
            child.wait().unwrap();
            let (feeding, flushed) = reader.join().unwrap();
            let opened = Instant::now();
            let history = History::open(directory.path(), settings.clone()).unwrap();
            longest = longest.max(opened.elapsed());
            let verified = history
                .verify()
                .unwrap_or_else(|why| panic!("kill {kill}: {why}"));
            let now = verified.exchanges();
            assert!(
                now >= before + flushed && now <= before + feeding,
                "kill {kill}: {now} after {before}, of {flushed} flushed and {feeding} fed"
            );
            if let Some(on) = verified.interface("eth0") {
                assert_eq!([on.in_minutes, on.in_hours, on.in_days], [now; 3]);
            }
            assert!(verified.clients <= u64::from(clients));
            killed.begun += usize::from(flushed > 0);
            killed.merging += usize::from(verified.merging);
            before = now;
            history.stop();
        }
        assert_eq!(names(directory.path()), [FILE]);
        println!("{before} exchanges, {killed:?}, opened in {longest:?} at most");
        killed
    }
}
