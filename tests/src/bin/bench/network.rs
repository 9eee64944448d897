//! What the live benchmark needs of the system: a network namespace that ends with the process, a
//! veth pair in it, processes kept on a CPU, their CPU time.

use std::{
    fs, io, mem,
    os::unix::process::CommandExt,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Moves this process into a new network namespace, for good: nothing has to be cleaned up.
pub(crate) fn enter_own_namespace() -> Result<()> {
    // SAFETY: changes nothing but the calling thread's network namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("make a network namespace")?;
    // Or the interfaces would greet each other, and the counts would not be exact.
    for scope in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")
            .context("switch IPv6 off")?;
    }
    Ok(())
}

/// Makes two interfaces, where frames sent from inside the kernel on the one come in at the other.
pub(crate) fn make_pair(sender: &str, watched: &str) -> Result<()> {
    ip(&[
        "link", "add", sender, "type", "veth", "peer", "name", watched,
    ])?;
    for name in [sender, watched] {
        ip(&["link", "set", name, "up"])?;
        // Gives veth the receive queue that such frames are put into.
        switch_gro_on(name)?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run `ip` (package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// `ethtool -K NAME gro on`.
fn switch_gro_on(name: &str) -> Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        value: *mut [u32; 2],
        rest: [u64; 2],
    }
    let mut value = [ETHTOOL_SGRO, 1];
    let mut request = Request {
        name: [0; 16],
        value: &raw mut value,
        rest: [0; 2],
    };
    ensure!(name.len() < request.name.len(), "{name} is too long a name");
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: a socket that is closed below.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket).context("make a socket")?;
    // SAFETY: the request is an `ifreq` that points to an `ethtool_value`; both live on.
    let result = check(unsafe { libc::ioctl(socket, SIOCETHTOOL, &raw mut request) });
    // SAFETY: opened above.
    unsafe { libc::close(socket) };
    result.with_context(|| format!("switch GRO on for {name}"))
}

/// The number that the kernel gave an interface.
pub(crate) fn index(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string with its end.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => bail!("no interface {}", name.to_string_lossy()),
        index => Ok(index),
    }
}

/// How many packets have come in at an interface.
pub(crate) fn received(name: &str) -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").context("read /proc/net/dev")?;
    table
        .lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .find_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("no counters of {name}"))
}

/// CPU time of all of a process's threads, to the nanosecond.
pub(crate) fn cpu_time(process: u32) -> Result<Duration> {
    let mut time = Duration::ZERO;
    let directory = format!("/proc/{process}/task");
    for thread in fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let running = text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse().ok());
        time += Duration::from_nanos(running.with_context(|| path.display().to_string())?);
    }
    Ok(time)
}

/// Puts this process, and those that it starts from now on, before all others: what else the
/// machine does would be measured with it.
pub(crate) fn raise_priority() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: a structure on the stack.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })
        .context("become a real-time process")
}

/// Keeps this thread, and those that it starts from now on, on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    set_affinity(cpu).with_context(|| format!("stay on CPU {cpu}"))
}

/// Keeps a process that is yet to be started on one CPU.
pub(crate) fn pin_child(command: &mut Command, cpu: usize) {
    // SAFETY: one system call, nothing that another thread could hold a lock on.
    unsafe { command.pre_exec(move || set_affinity(cpu)) };
}

fn set_affinity(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of bits, of which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes within the set, and hands it over with its size.
    check(unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
}

/// Ctrl-C, for one child.
pub(crate) fn interrupt(child: &Child) -> Result<()> {
    let process = i32::try_from(child.id())?;
    // SAFETY: a child that has not been waited for, so the number is still its own.
    check(unsafe { libc::kill(process, libc::SIGINT) }).context("interrupt a child")
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
