//! The life of the daemon as its host sees it: when it is ready, what it may do, how it takes a new
//! configuration, and that it ends in time.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ntpmon_tests::{
    attached,
    daemon::{Daemon, END, Home},
    namespace::Namespace,
    ntpmon::Ended,
    watch::binary,
};

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF.
const THREE: &str = "000000c000001000";
const NONE: &str = "0000000000000000";

/// A daemon that runs, with what it runs in.
struct Running {
    namespace: Namespace,
    home: Home,
    daemon: Daemon,
}

fn start_with(configuration: &str) -> Running {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    home.configure(configuration).unwrap();
    let mut command = home.command(&namespace, &[]).unwrap();
    let daemon = home.start(&mut command).unwrap();
    Running {
        namespace,
        home,
        daemon,
    }
}

/// Runs one that cannot start, to its end.
fn refused(command: &mut Command) -> String {
    let ended = Ended::of(command.output().unwrap()).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let told = ended.stderr.lines().filter(|it| it.starts_with("ntpmon: "));
    assert_eq!(told.count(), 1, "{ended:?}");
    ended.stderr
}

/// The only value that all threads have.
fn of_all_threads(daemon: &Daemon, name: &str) -> String {
    let values: HashSet<String> = daemon.of_threads(name).unwrap().into_values().collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values.into_iter().next().unwrap()
}

#[test]
fn it_is_ready_when_its_socket_is_and_says_where() {
    let mut running = start_with("");
    let notes = running.daemon.notes().unwrap().to_vec();
    assert!(notes[0].says("STATUS=starting"), "{notes:?}");
    let address = running.daemon.address().unwrap();
    running
        .namespace
        .enter(|| Ok(TcpStream::connect(address)?))
        .unwrap();
}

#[test]
fn it_ends_in_time_and_in_order_on_a_signal() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let running = start_with("");
        let ended = running.daemon.end(signal).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.took < END, "{ended:?}");
        assert!(ended.notes.iter().any(|note| note.says("STOPPING=1")));
        assert!(ended.stderr.ends_with("stopped\n"), "{ended:?}");
    }
}

/// A terminal: the end of whoever shows it, and that of the programs on it. No program that another
/// test starts meanwhile gets hold of either.
fn terminal() -> (File, OwnedFd) {
    let screen = File::options()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .unwrap();
    let locked: libc::c_int = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request reads one number, which lives until it returns.
    let unlocked = unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    assert_eq!(unlocked, 0, "{}", io::Error::last_os_error());
    // SAFETY: the request takes a plain number.
    let programs = unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    assert!(programs >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else has it.
    (screen, unsafe { OwnedFd::from_raw_fd(programs) })
}

#[test]
fn it_ends_when_the_terminal_is_gone_that_it_was_started_on() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let (screen, programs) = terminal();
    let mut command = home.command(&namespace, &[]).unwrap();
    let mut daemon = home
        .start_with_input(&mut command, programs.into())
        .unwrap();
    // The command has a copy of the programs' end until it is dropped.
    drop(command);
    // As long as it is there, the signal asks for a reload.
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    drop(screen);
    let ended = daemon.end(libc::SIGHUP).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("the terminal is gone"), "{ended:?}");
}

#[test]
fn the_watchdog_hears_of_it_in_time_and_only_when_it_listens() {
    const WATCHDOG: Duration = Duration::from_secs(2);
    const PINGS: usize = 4;
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let mut command = home.command(&namespace, &[]).unwrap();
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut daemon = home.start(&mut command).unwrap();
    daemon.wait_for_note("WATCHDOG=1", PINGS).unwrap();
    let notes = daemon.notes().unwrap().iter();
    let pings: Vec<Instant> = notes
        .filter(|note| note.says("WATCHDOG=1"))
        .map(|note| note.read)
        .collect();
    for pair in pings.windows(2) {
        assert!(pair[1] - pair[0] < WATCHDOG, "{pings:?}");
    }

    let mut unwatched = start_with("");
    thread::sleep(WATCHDOG);
    let notes = unwatched.daemon.notes().unwrap();
    assert!(!notes.iter().any(|note| note.says("WATCHDOG=1")));
}

#[test]
fn a_watchdog_of_another_process_is_not_ours() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let mut command = home.command(&namespace, &[]).unwrap();
    command
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1");
    let mut daemon = home.start(&mut command).unwrap();
    thread::sleep(Duration::from_secs(1));
    let notes = daemon.notes().unwrap();
    assert!(
        !notes.iter().any(|note| note.says("WATCHDOG=1")),
        "{notes:?}"
    );
}

#[test]
fn a_reload_takes_what_can_be_taken_and_names_what_cannot() {
    let mut running = start_with("");
    let daemon = &mut running.daemon;
    let changed = "[log]\nlevel = 'debug'\n[capture]\nrings = 2\n";
    running.home.configure(changed).unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    let later = "capture.rings has changed, which counts from the next start on";
    daemon.wait_for_message(later, 1).unwrap();
    daemon
        .wait_for_message("reloading: log.level has changed", 1)
        .unwrap();

    let notes = daemon.notes().unwrap();
    let reloading = notes.iter().position(|note| note.says("RELOADING=1"));
    let reloading = reloading.unwrap();
    let at: u64 = notes[reloading]
        .value("MONOTONIC_USEC")
        .unwrap()
        .parse()
        .unwrap();
    assert!(at > 0);
    assert!(
        notes[reloading + 1..]
            .iter()
            .any(|note| note.says("READY=1"))
    );

    // What was taken is news once, what waits for a restart is said each time.
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_message(later, 2).unwrap();
    assert_eq!(daemon.stderr().matches("log.level has changed").count(), 1);
    assert_eq!(
        running.daemon.end(libc::SIGTERM).unwrap().status.code(),
        Some(0)
    );
}

#[test]
fn a_reload_is_over_when_the_interfaces_are_watched_that_it_names() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    // Several, for attaching to one is quick.
    let pairs = [["veth0", "veth1"], ["veth2", "veth3"], ["veth4", "veth5"]];
    for [one, other] in pairs {
        namespace
            .ip(&format!("link add {one} type veth peer name {other}"))
            .unwrap();
    }
    let mut command = home
        .command_watching(&namespace, &[], "127.0.0.1:0", &[])
        .unwrap();
    home.configure("interfaces = ['lo']\n").unwrap();
    let mut daemon = home.start(&mut command).unwrap();
    let names = pairs.concat();
    home.configure(&format!("interfaces = {names:?}\n"))
        .unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    // Asked of the kernel: the daemon would answer after the rest of its work.
    for name in names.iter().rev() {
        let programs = attached::programs(&namespace, name).unwrap();
        assert_eq!(programs.len(), 2, "{name}: {programs:?}");
    }
    assert_eq!(attached::programs(&namespace, "lo").unwrap(), [""; 0]);
}

#[test]
fn a_level_is_in_force_from_the_reload_on() {
    let mut running = start_with("[log]\nlevel = 'error'\n");
    assert_eq!(running.daemon.stderr(), "");
    running.home.configure("[log]\nlevel = 'info'\n").unwrap();
    running.daemon.signal(libc::SIGHUP).unwrap();
    running
        .daemon
        .wait_for_message("log.level has changed", 1)
        .unwrap();
    running.home.configure("[log]\nlevel = 'off'\n").unwrap();
    running.daemon.signal(libc::SIGHUP).unwrap();
    running.daemon.wait_for_note("READY=1", 3).unwrap();
    let before = running.daemon.stderr();
    let ended = running.daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.stderr, before);
}

#[test]
fn a_broken_configuration_is_told_at_a_reload_and_the_old_stays() {
    let mut running = start_with("[log]\nlevel = 'info'\n");
    let daemon = &mut running.daemon;
    running
        .home
        .configure("[log]\nlevel = 'loud'\n[capture]\nrings = 3\n")
        .unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    daemon
        .wait_for_message("the configuration stays as it was", 1)
        .unwrap();
    let told = daemon.stderr();
    for fault in ["log.level = \"loud\"", "capture.rings = 3"] {
        let line = told.lines().find(|line| line.contains(fault)).unwrap();
        assert!(line.contains("ntpmon.toml:"), "{line}");
    }
    // It is as it was: what comes next counts from there.
    running.home.configure("[log]\nlevel = 'info'\n").unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 3).unwrap();
    assert!(
        !daemon.stderr().contains("has changed"),
        "{}",
        daemon.stderr()
    );
    assert_eq!(
        running.daemon.end(libc::SIGTERM).unwrap().status.code(),
        Some(0)
    );
}

fn create_token(home: &Home) {
    let mut command = Command::new(binary().unwrap());
    command.args(["token", "create", "reader", "--scope", "read"]);
    command.env("NTPMON_DATA_DIR", home.data());
    let ended = Ended::of(command.output().unwrap()).unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn other_hosts_are_served_only_with_tokens_also_after_a_reload() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let open = || {
        home.command_listening(&namespace, &[], "0.0.0.0:0")
            .unwrap()
    };
    let told = refused(&mut open());
    assert!(
        told.contains("0.0.0.0:0") && told.contains("token create"),
        "{told}"
    );

    create_token(&home);
    let mut command = open();
    let mut daemon = home.start(&mut command).unwrap();
    fs::remove_file(home.data().join("tokens.toml")).unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    // The token that is gone counts no more, and without any only this host is served.
    daemon
        .wait_for_message("until then other hosts are refused", 1)
        .unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    let told = daemon.stderr();
    assert!(told.contains("is open to other hosts"), "{told}");
    assert!(
        told.contains("there are no tokens: only this host may ask"),
        "{told}"
    );
}

#[test]
fn a_second_daemon_is_refused_and_told_of_the_first() {
    let running = start_with("");
    let mut command = running.home.command(&running.namespace, &[]).unwrap();
    let told = refused(&mut command);
    assert!(
        told.contains(&format!("process {}", running.daemon.id())),
        "{told}"
    );
    assert!(
        told.contains(running.home.data().to_str().unwrap()),
        "{told}"
    );

    // Killed, it leaves nothing that keeps the next from starting.
    running.daemon.end(libc::SIGKILL).unwrap();
    let mut command = running.home.command(&running.namespace, &[]).unwrap();
    running.home.start(&mut command).unwrap();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let running = start_with("");
    let other = Home::new().unwrap();
    let address = running.daemon.address().unwrap().to_string();
    let mut command = running.namespace.command(binary().unwrap());
    command.args(["run", "--interface", "lo", "--listen", &address]);
    command.arg("--data-dir").arg(other.data());
    let told = refused(&mut command);
    assert!(told.contains(&format!("listening on {address}")), "{told}");
    assert!(told.contains("api.listen"), "{told}");
    let before = ["setpriv", "--bounding-set=-net_bind_service"];
    let mut command = other
        .command_listening(&running.namespace, &before, "127.0.0.1:80")
        .unwrap();
    let told = refused(&mut command);
    assert!(told.contains("CAP_NET_BIND_SERVICE"), "{told}");
}

#[test]
fn what_it_makes_is_closed_to_others() {
    let running = start_with("");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(running.home.data()), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(running.home.data()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(path.clone()), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files > 0);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    fs::create_dir(home.data()).unwrap();
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o500)).unwrap();
    let before = ["setpriv", "--bounding-set=-dac_override"];
    let told = refused(&mut home.command(&namespace, &before).unwrap());
    for word in [
        "cannot be written",
        home.data().to_str().unwrap(),
        "Permission denied",
    ] {
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn every_thread_keeps_three_capabilities_and_gets_no_others() {
    let running = start_with("");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(of_all_threads(&running.daemon, set), THREE, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(of_all_threads(&running.daemon, set), NONE, "{set}");
    }
    assert_eq!(of_all_threads(&running.daemon, "NoNewPrivs"), "1");
    assert!(running.daemon.of_threads("Name").unwrap().len() > 1);
}

#[test]
fn in_the_folder_of_another_user_root_keeps_what_reaches_it() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    // As a user's closed home directory.
    chown(home.path(""), Some(64_242), None).unwrap();
    let mut command = home.command(&namespace, &[]).unwrap();
    let mut daemon = home.start(&mut command).unwrap();
    assert_eq!(of_all_threads(&daemon, "CapEff"), "000000c000001002");
    daemon
        .wait_for_message("keeping CAP_DAC_OVERRIDE", 1)
        .unwrap();
    let data = home.data();
    assert!(daemon.stderr().contains(data.to_str().unwrap()));
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_message("configured by", 2).unwrap();
}

#[test]
fn without_capabilities_it_serves_what_it_remembers_and_says_what_is_missing() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let mut command = home.command(&namespace, &before).unwrap();
    let mut daemon = home.start(&mut command).unwrap();
    assert_eq!(of_all_threads(&daemon, "CapEff"), NONE);
    daemon.wait_for_message("nothing is captured", 1).unwrap();
    for name in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
        assert!(daemon.stderr().contains(name), "{}", daemon.stderr());
    }
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn a_user_with_three_capabilities_runs_it_as_the_unit_does() {
    const USER: u32 = 64_242;
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    // Where the binary is, another user may not get to.
    let program = home.path("ntpmon");
    fs::copy(binary().unwrap(), &program).unwrap();
    let folder = home.path("");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
    // In the place of the unit's StateDirectory and RuntimeDirectory.
    for path in [home.data(), home.path("run")] {
        fs::create_dir(&path).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
    }

    let user = format!("--reuid={USER}");
    let group = format!("--regid={USER}");
    let capabilities = "-all,+bpf,+net_admin,+perfmon";
    let (inherited, ambient, bounding) = (
        format!("--inh-caps={capabilities}"),
        format!("--ambient-caps={capabilities}"),
        format!("--bounding-set={capabilities}"),
    );
    let mut command = namespace.command("setpriv");
    command
        .args([
            &user,
            &group,
            "--clear-groups",
            &inherited,
            &ambient,
            &bounding,
        ])
        .args(["--no-new-privs", "--"])
        .arg(&program)
        .args([
            "run",
            "--interface",
            "lo",
            "--listen",
            "127.0.0.1:0",
            "--config",
        ])
        .arg(home.path("ntpmon.toml"))
        .arg("--data-dir")
        .arg(home.data())
        .env("XDG_RUNTIME_DIR", home.path("run"));
    let daemon = home.start(&mut command).unwrap();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(of_all_threads(&daemon, set), THREE, "{set}");
    }
    assert_eq!(of_all_threads(&daemon, "CapAmb"), NONE);
    assert!(!daemon.stderr().contains("ERROR"), "{}", daemon.stderr());
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn roots_files_do_not_get_into_a_directory_of_another_user() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    fs::create_dir(home.data()).unwrap();
    chown(home.data(), Some(64_242), None).unwrap();
    let told = refused(&mut home.command(&namespace, &[]).unwrap());
    assert!(told.contains("belongs to user 64242"), "{told}");
    assert_eq!(fs::read_dir(home.data()).unwrap().count(), 0);
}

#[test]
fn a_log_file_goes_on_after_it_was_moved_away() {
    let (namespace, home) = (Namespace::new().unwrap(), Home::new().unwrap());
    let (log, moved) = (home.path("log"), home.path("log.1"));
    let text = format!("[log]\nfile = '{}'\n", log.display());
    home.configure(&text).unwrap();
    let mut command = home.command(&namespace, &[]).unwrap();
    let mut daemon = home.start(&mut command).unwrap();
    let mode = fs::metadata(&log).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    assert!(fs::read_to_string(&log).unwrap().contains("listening on"));
    fs::rename(&log, &moved).unwrap();
    daemon.signal(libc::SIGHUP).unwrap();
    daemon.wait_for_note("READY=1", 2).unwrap();
    let ended = daemon.end(libc::SIGTERM).unwrap();
    assert_eq!(ended.stderr, "");
    assert!(fs::read_to_string(&log).unwrap().ends_with("stopped\n"));
    assert!(!fs::read_to_string(&moved).unwrap().contains("stopped"));
}
