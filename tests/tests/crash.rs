//! The daemon meets what ends daemons: it is killed at any moment, its disk is full, its file is
//! damaged or of a version to come. What it remembers stays whole through all of it.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use ntpmon::history::{self, FILE, History, Verified};
use ntpmon_tests::{
    api::Api,
    attached,
    daemon::{Daemon, Home},
    load::Exchanges,
    namespace::{Namespace, Pair, folder},
    ntpmon::Ended,
    process::{Process, wait_for},
};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde_json::Value;

const DEVICE: &str = Pair::DEVICE;
const LOOPBACK: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the daemon is killed.
const LIVES: u64 = 100;
/// How long it lives after it was ready, at most; and longer now and then, so that what
/// came is merged too.
const LIFE: Duration = Duration::from_millis(300);
const LONGER: Duration = Duration::from_millis(900);
const LONGER_EVERY: u64 = 10;
/// Now and then it is killed while it starts, which takes about this long.
const UNREADY_EVERY: u64 = 3;
const START: Duration = Duration::from_millis(600);
/// What a kill may cost.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// What passes on a busy machine until a thread that should run does, and a flush is written.
const BUSY: Duration = Duration::from_millis(100);
/// Flushes go into runs, which are merged this often: both are to be interrupted. Few sessions
/// are kept one by one, since all are read after each life.
const CONFIGURATION: &str = "[history]
flush_interval_seconds = 0.1
checkpoint_interval_seconds = 1
sessions.per_second = 200
";

/// So many clients, each with a pause after it.
const CLIENTS: u16 = 400;
const PAUSE: Duration = Duration::from_micros(300);

fn command(home: &Home, host: &Namespace) -> Command {
    home.command_watching(host, &[], LOOPBACK, &["lo"]).unwrap()
}

fn start(home: &Home, host: &Namespace) -> Daemon {
    home.start(&mut command(home, host)).unwrap()
}

fn health(api: &Api<'_>) -> Value {
    api.get("/api/ntp/health").unwrap().success().unwrap()
}

fn status(api: &Api<'_>, interface: &str) -> Value {
    let path = format!("/api/ntp/interfaces/{interface}/status");
    api.get(&path).unwrap().success().unwrap()["data"].clone()
}

/// What a copy of a data directory's history holds; nothing in it contradicts anything else. The
/// file itself stays as the dead left it, for the next to find.
fn verified(data: &Path) -> Verified {
    let folder = folder().unwrap();
    fs::copy(data.join(FILE), folder.path().join(FILE)).unwrap();
    let history = History::open(folder.path(), history::Settings::default()).unwrap();
    assert_eq!(history.health().problems, [""; 0]);
    let verified = history.verify().unwrap();
    history.stop();
    verified
}

fn exchanges(verified: &Verified, interface: &str) -> u64 {
    verified
        .interface(interface)
        .map_or(0, |interface| interface.exchanges)
}

#[test]
fn killed_at_any_moment_it_loses_at_most_a_flush_interval_and_comes_back() {
    let pair = Pair::new().unwrap();
    let home = Home::new().unwrap();
    home.configure(CONFIGURATION).unwrap();
    let daemon = start(&home, &pair.server);
    let api = Api::of(&daemon, &pair.server).unwrap();
    api.post(&format!("/api/ntp/interfaces/{DEVICE}/start"))
        .unwrap()
        .success()
        .unwrap();
    wait_for("that to be remembered", PATIENCE, || {
        let flushed = status(&api, DEVICE)["start_time"]
            .as_str()
            .unwrap()
            .to_owned();
        let last = health(&api)["components"]["history"]["last_flush_timestamp"].clone();
        Ok(last
            .as_str()
            .is_some_and(|last| last > &*flushed)
            .then_some(()))
    })
    .unwrap();
    daemon.kill().unwrap();

    let load = Exchanges::start(&pair, CLIENTS, PAUSE).unwrap();
    // Each run's moments are others.
    let random = RandomState::new();
    let mut stored = exchanges(&verified(&home.data()), DEVICE);
    assert_eq!(stored, 0);
    let mut lost = 0;
    for life in 0..LIVES {
        let within = |longest: Duration| {
            let share = random.hash_one(life) as f64 / u64::MAX as f64;
            sleep(longest.mul_f64(share));
        };
        let before = load.answered();
        let seen = if life % UNREADY_EVERY == 0 {
            let mut process = Process::start(&mut command(&home, &pair.server)).unwrap();
            within(START);
            process.stop_with(libc::SIGKILL).unwrap();
            None
        } else {
            let daemon = start(&home, &pair.server);
            let ready = load.answered();
            let api = Api::of(&daemon, &pair.server).unwrap();
            assert_eq!(status(&api, DEVICE)["status"], "running", "life {life}");
            let programs = attached::programs(&pair.server, DEVICE).unwrap();
            assert_eq!(programs.len(), 2, "life {life}: {programs:?}");
            if life % LONGER_EVERY == 0 {
                sleep(LONGER);
            }
            within(LIFE);
            let safe = load.answered();
            sleep(FLUSH_INTERVAL + BUSY);
            let last = load.answered();
            daemon.kill().unwrap();
            Some((safe - ready, last - ready))
        };
        let after = load.answered();

        let verified = verified(&home.data());
        let now = exchanges(&verified, DEVICE);
        let more = now.checked_sub(stored).unwrap();
        let (least, all) = seen.unwrap_or_default();
        assert!(
            (least..=after - before).contains(&more),
            "life {life}: {more} more exchanges in the file, of at least {least} and at most {}; \
             {verified:?}",
            after - before,
        );
        lost += all.saturating_sub(more);
        stored = now;
    }
    let sent = load.stop().unwrap();
    eprintln!("{LIVES} kills cost {lost} of {sent} exchanges, {stored} are remembered");
    assert!(stored > LIVES * 100, "hardly anything was seen: {stored}");

    // The last one finds it all, and leaves nothing behind.
    let daemon = start(&home, &pair.server);
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let programs = attached::programs(&pair.server, DEVICE).unwrap();
    assert_eq!(programs, [""; 0]);
    let last = verified(&home.data());
    assert_eq!(exchanges(&last, DEVICE), stored);
    assert_eq!(last.interface(DEVICE).unwrap().clients, u64::from(CLIENTS));
    let files: Vec<_> = fs::read_dir(home.data())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("damaged"))
        .collect();
    assert_eq!(files, [""; 0], "no life found a damaged file");
}

/// A small disk in a mount namespace of its own, which ends with this.
struct Disk {
    holder: Process,
    place: PathBuf,
}

impl Disk {
    fn new(place: &Path, size: &str) -> Self {
        fs::create_dir_all(place).unwrap();
        let script = format!(
            "mount -t tmpfs -o mode=0700,size={size} tmpfs '{}' && echo mounted && exec sleep 600",
            place.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        let mut holder = Process::start(&mut command).unwrap();
        holder
            .wait_until("a mount", PATIENCE, |it| it.stdout().contains("mounted"))
            .unwrap();
        Self {
            holder,
            place: place.to_owned(),
        }
    }

    /// The place, for who is outside.
    fn seen_from_outside(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(self.place.strip_prefix("/").unwrap())
    }

    fn namespace(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.holder.id())
    }

    fn ballast(&self) -> PathBuf {
        self.seen_from_outside().join("ballast")
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let full = [4096, 1].into_iter().all(|piece| {
            let piece = vec![0; piece];
            // Bounded by the size of the disk.
            (0..1 << 20).any(|_| file.write_all(&piece).is_err())
        });
        assert!(full);
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

#[test]
fn a_full_disk_degrades_it_and_costs_nothing_once_there_is_room() {
    let pair = Pair::new().unwrap();
    let home = Home::new().unwrap();
    home.configure(CONFIGURATION).unwrap();
    let disk = Disk::new(&home.data(), "24m");
    let inside = disk.namespace();
    let before = ["nsenter", &inside, "--"];
    let mut command = home
        .command_watching(&pair.server, &before, LOOPBACK, &[DEVICE])
        .unwrap();
    let mut daemon = home.start(&mut command).unwrap();
    let api = Api::of(&daemon, &pair.server).unwrap();
    let load = Exchanges::start(&pair, CLIENTS, PAUSE).unwrap();
    wait_for("some history", PATIENCE, || {
        Ok((load.answered() > 1000).then_some(()))
    })
    .unwrap();
    assert_eq!(health(&api)["status"], "healthy");

    disk.fill();
    let degraded = wait_for("its health to be degraded", PATIENCE, || {
        let health = health(&api);
        Ok((health["status"] == "degraded").then_some(health))
    })
    .unwrap();
    let history = &degraded["components"]["history"];
    assert_eq!(history["status"], "degraded");
    let why = history["message"].as_str().unwrap();
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(degraded["components"]["interfaces"]["status"], "healthy");
    // It goes on looking.
    let events = status(&api, DEVICE)["events"].as_u64().unwrap();
    let answered = load.answered();
    wait_for("more exchanges", PATIENCE, || {
        Ok((load.answered() > answered + 2000).then_some(()))
    })
    .unwrap();
    let now = status(&api, DEVICE)["events"].as_u64().unwrap();
    assert!(now >= events + 4000, "{events} and then {now} events");
    assert_eq!(health(&api)["status"], "degraded", "there is no room yet");

    disk.make_room();
    wait_for("its health to be well", PATIENCE, || {
        Ok((health(&api)["status"] == "healthy").then_some(()))
    })
    .unwrap();
    let sent = load.stop().unwrap();
    assert_eq!(status(&api, DEVICE)["dropped"], 0);
    daemon.signal(libc::SIGTERM).unwrap();
    daemon.wait_for_message("stopped\n", 1).unwrap();
    let kept = verified(&disk.seen_from_outside());
    assert_eq!(exchanges(&kept, DEVICE), sent);
    assert_eq!(kept.exchanges(), sent);
}

#[test]
fn a_history_of_a_version_to_come_is_refused_and_left_as_it_is() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let (host, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let ended = start(&home, &host).end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let file = home.data().join(FILE);
    {
        let database = Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(META).unwrap();
        assert!(table.get("layout").unwrap().unwrap().value() < 42);
        table.insert("layout", 42).unwrap();
        drop(table);
        transaction.commit().unwrap();
    }
    let ended = Ended::of(home.command(&host, &[]).unwrap().output().unwrap()).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for words in [
        &*file.display().to_string(),
        "written by a newer ntpmon",
        "layout 42",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    let database = Database::open(&file).unwrap();
    let transaction = database.begin_read().unwrap();
    let meta = transaction.open_table(META).unwrap();
    assert_eq!(meta.get("layout").unwrap().unwrap().value(), 42);
    drop((meta, transaction, database));
    // Nothing else was made or put aside.
    let mut files: Vec<_> = fs::read_dir(home.data())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, [FILE, "lock"]);
}

#[test]
fn a_damaged_history_is_put_aside_and_a_new_one_begun() {
    let pair = Pair::new().unwrap();
    let home = Home::new().unwrap();
    home.configure(CONFIGURATION).unwrap();
    let file = home.data().join(FILE);
    fs::create_dir(home.data()).unwrap();
    let damaged = b"what a disk made of it".repeat(10_000);
    fs::write(&file, &damaged).unwrap();

    let mut command = home
        .command_watching(&pair.server, &[], LOOPBACK, &[DEVICE])
        .unwrap();
    let daemon = home.start(&mut command).unwrap();
    let api = Api::of(&daemon, &pair.server).unwrap();
    let health = health(&api);
    let history = &health["components"]["history"];
    assert_eq!(
        (&health["status"], &history["status"]),
        (&"degraded".into(), &"degraded".into())
    );
    let aside = fs::read_dir(home.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.display().to_string().contains(".damaged-"))
        .unwrap();
    let why = history["message"].as_str().unwrap();
    assert!(why.contains(&aside.display().to_string()), "{why}");
    assert!(fs::read(&aside).unwrap() == damaged, "it was changed");

    let load = Exchanges::start(&pair, CLIENTS, PAUSE).unwrap();
    wait_for("some history", PATIENCE, || {
        Ok((load.answered() > 500).then_some(()))
    })
    .unwrap();
    let sent = load.stop().unwrap();
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(exchanges(&verified(&home.data()), DEVICE), sent);
}
