//! Hosts made of network namespaces: a [`Namespace`] is a host with links of its own and nothing in
//! common with the machine's network, and takes its processes with it when it is dropped. Programs
//! run in it without the right to set the clock, so that no NTP daemon can ever touch the machine's.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::{
    packages,
    process::{Process, run},
};

/// What the names of our namespaces and folders begin with; then come our process id and a number.
const PREFIX: &str = "ntpmon-test-";
/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(1);
static CLEANED: Once = Once::new();

/// A host of its own, removed on drop together with the processes in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace, its loopback up. The first one of a process also removes what killed
    /// earlier runs left behind.
    pub fn new() -> Result<Self> {
        require_root()?;
        packages::require_tools()?;
        CLEANED.call_once(remove_leftovers);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.enter(|| {
            // Duplicate address detection would keep addresses unusable for a second or two, and
            // router solicitations are noise.
            for (setting, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
                for scope in ["all", "default"] {
                    let path = format!("/proc/sys/net/ipv6/conf/{scope}/{setting}");
                    fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
                }
            }
            Ok(())
        })?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it: what `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// A command that will run in this namespace, without CAP_SYS_TIME. Its process id is that of
    /// the program: the helpers before it replace themselves.
    ///
    /// Not `ip netns exec`: that remounts /sys, and hides /sys/fs/bpf with it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .args(["--", "setpriv", "--bounding-set=-sys_time", "--"])
            .arg(program);
        command
    }

    /// Runs a program in it to its end, and gives its standard output.
    pub fn run<Argument: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// Starts a program in it in the background.
    pub fn start<Argument: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<Process> {
        Process::start(self.command(program).args(arguments))
    }

    /// Runs `ip` for it; the arguments are split at spaces.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()))
    }

    /// Runs `work` on a thread inside this namespace. Sockets and devices that it opens stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        let file =
            fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: setns takes no pointers, and moves this thread only, which ends here.
                let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                ensure!(
                    result == 0,
                    "cannot enter {}: {}",
                    path.display(),
                    std::io::Error::last_os_error()
                );
                work()
            });
            thread
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", path.display()))?
        })
    }

    /// Gives a device an address (with its prefix length) that is usable at once, and brings it up.
    pub fn address(&self, device: &str, address: IpAddr, prefix: u8) -> Result<()> {
        match address {
            IpAddr::V4(address) => {
                self.ip(&format!("addr add {address}/{prefix} dev {device} brd +"))?
            }
            IpAddr::V6(address) => {
                self.ip(&format!("addr add {address}/{prefix} dev {device} nodad"))?
            }
        };
        self.ip(&format!("link set {device} up"))?;
        Ok(())
    }

    /// As [`Self::address`], for each of our own networks' addresses: /24 and /64.
    pub fn addresses(&self, device: &str, addresses: [&str; 2]) -> Result<()> {
        for address in addresses {
            let address: IpAddr = address.parse().context("our own addresses are right")?;
            self.address(device, address, if address.is_ipv4() { 24 } else { 64 })?;
        }
        Ok(())
    }

    /// The ids of the processes in it.
    fn processes(&self) -> Vec<i32> {
        let Ok(ours) = fs::metadata(self.path()) else {
            return Vec::new();
        };
        let own = i32::try_from(std::process::id()).ok();
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let id: i32 = entry.file_name().to_str()?.parse().ok()?;
                let theirs = fs::metadata(entry.path().join("ns/net")).ok()?;
                let inside = theirs.ino() == ours.ino() && theirs.dev() == ours.dev();
                (inside && Some(id) != own).then_some(id)
            })
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for id in self.processes() {
            // SAFETY: kill takes no pointers; the process is in a namespace that only we use.
            unsafe { libc::kill(id, libc::SIGKILL) };
        }
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// Two hosts joined by a cable: a veth pair, called [`Pair::DEVICE`] at both ends.
#[derive(Debug)]
pub struct Pair {
    /// The host that serves time in most tests: 10.0.0.1 and fd00::1.
    pub server: Namespace,
    /// The host that asks: 10.0.0.2 and fd00::2.
    pub client: Namespace,
}

impl Pair {
    /// What the cable's ends are called.
    pub const DEVICE: &str = "veth0";
    /// The server's IPv4 address.
    pub const SERVER: &str = "10.0.0.1";
    /// The client's IPv4 address.
    pub const CLIENT: &str = "10.0.0.2";
    /// The server's IPv6 address.
    pub const SERVER_V6: &str = "fd00::1";
    /// The client's IPv6 address.
    pub const CLIENT_V6: &str = "fd00::2";
    /// The cable's IPv4 broadcast address.
    pub const BROADCAST: &str = "10.0.0.255";

    /// Two new hosts, joined, with their addresses.
    pub fn new() -> Result<Self> {
        let pair = Self::without_addresses()?;
        for (host, addresses) in [
            (&pair.server, [Self::SERVER, Self::SERVER_V6]),
            (&pair.client, [Self::CLIENT, Self::CLIENT_V6]),
        ] {
            host.addresses(Self::DEVICE, addresses)?;
        }
        Ok(pair)
    }

    /// Two new hosts, joined, and the cable's ends up, but without any address: for frames and
    /// packets that the test carries itself.
    pub fn without_addresses() -> Result<Self> {
        let server = Namespace::new()?;
        let client = Namespace::new()?;
        connect((&server, Self::DEVICE), (&client, Self::DEVICE))?;
        // The same hardware addresses each time, so that recorded captures differ little.
        for (host, number) in [(&server, 1), (&client, 2)] {
            let device = Self::DEVICE;
            host.ip(&format!(
                "link set {device} addrgenmode none address 02:00:00:00:00:0{number}"
            ))?;
            host.ip(&format!("link set {device} up"))?;
        }
        // Both ends see the carrier now or within milliseconds; frames sent before are lost.
        for host in [&server, &client] {
            crate::process::wait_for("a veth pair's carrier", Duration::from_secs(5), || {
                let state = host.ip(&format!("-o link show {}", Self::DEVICE))?;
                Ok(state.contains("state UP").then_some(()))
            })?;
        }
        Ok(Self { server, client })
    }
}

/// Joins two namespaces by a veth pair; both ends are named, without addresses and down.
pub fn connect(one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    one.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        one.1,
        other.1,
        other.0.name()
    ))?;
    Ok(())
}

/// A folder for the files of a test or a daemon, removed on drop, and for root alone: chronyd insists on
/// that for its socket. What a killed run left is removed as its namespaces are.
pub fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot make a folder for a test")
}

/// Fails, with what to do, unless the tests run as root.
pub fn require_root() -> Result<()> {
    // SAFETY: geteuid takes nothing and always succeeds.
    let user = unsafe { libc::geteuid() };
    ensure!(
        user == 0,
        "the system tests make network namespaces and run NTP daemons in them: run them as root \
         (cargo xtask test does, through sudo)"
    );
    Ok(())
}

/// Removes the namespaces of runs whose process is gone, the processes in them, and their folders.
/// Best effort: another test binary may be doing the same.
fn remove_leftovers() {
    for name in left_behind(Path::new(DIRECTORY)) {
        drop(Namespace { name });
    }
    let folders = std::env::temp_dir();
    for name in left_behind(&folders) {
        let _ = fs::remove_dir_all(folders.join(name));
    }
}

/// The names in a folder that a process which is gone has made.
fn left_behind(folder: &Path) -> Vec<String> {
    let gone = |name: &str| {
        let (owner, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
        let owner: u32 = owner.parse().ok()?;
        (!Path::new(&format!("/proc/{owner}")).exists()).then_some(())
    };
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| gone(name).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_a_namespace_cannot_set_the_clock() {
        let namespace = Namespace::new().unwrap();
        let status = namespace.run("cat", ["/proc/self/status"]).unwrap();
        for set in ["CapEff:", "CapBnd:", "CapPrm:"] {
            let line = status.lines().find(|line| line.starts_with(set)).unwrap();
            let bits = u64::from_str_radix(line[set.len()..].trim(), 16).unwrap();
            assert_eq!(bits >> 25 & 1, 0, "CAP_SYS_TIME in {line}");
        }
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        // No process has this id: the kernel's limit is lower.
        let name = format!("{PREFIX}4194305-1");
        run(Command::new("ip").args(["netns", "add", &name])).unwrap();
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).unwrap();
        let namespace = Namespace::new().unwrap();
        remove_leftovers();
        assert!(!Path::new(DIRECTORY).join(&name).exists());
        assert!(!folder.exists());
        assert!(namespace.path().exists());
    }

    #[test]
    fn a_pair_reaches_each_other_by_both_families() {
        let pair = Pair::new().unwrap();
        for address in [Pair::SERVER, Pair::SERVER_V6] {
            let server: std::net::SocketAddr = (address.parse::<IpAddr>().unwrap(), 9).into();
            let listener = pair
                .server
                .enter(|| Ok(std::net::UdpSocket::bind(server)?))
                .unwrap();
            listener
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let any = if server.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let sender = pair
                .client
                .enter(|| Ok(std::net::UdpSocket::bind(any)?))
                .unwrap();
            sender.send_to(b"here", server).unwrap();
            assert_eq!(listener.recv(&mut [0; 8]).unwrap(), 4);
        }
    }

    #[test]
    fn a_namespace_takes_its_processes_with_it() {
        let namespace = Namespace::new().unwrap();
        let path = namespace.path();
        // A grandchild that nobody waits for.
        let mut shell = namespace.start("sh", ["-c", "sleep 60 & echo $!"]).unwrap();
        shell
            .wait_until("an id", Duration::from_secs(5), |it| {
                it.stdout().contains('\n')
            })
            .unwrap();
        let id = shell.stdout().trim().to_string();
        assert!(Path::new("/proc").join(&id).exists());
        drop(namespace);
        assert!(!path.exists());
        crate::process::wait_for("its end", Duration::from_secs(5), || {
            let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
        })
        .unwrap();
    }
}
