//! Which of several captures of one interface a process is, and whether the one that made
//! something still lives: a lock that the kernel gives back however the process ends.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixListener, UnixStream},
};

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::socket_peercred;

/// How many captures of one interface are told apart.
pub(super) const SLOTS: u16 = 8;
/// The right to one of an interface's few places, held by a socket in the abstract name space of
/// this network namespace: the kernel gives it back however the process ends.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: u16,
    _lock: UnixListener,
}

impl Slot {
    pub(super) fn take(interface: u32, pin: bool) -> Result<Self> {
        // Pins have one place: only one process can own them.
        for number in 0..if pin { 1 } else { SLOTS } {
            if let Some(slot) = Self::try_take(interface, number)? {
                return Ok(slot);
            }
        }
        let holder = holder(interface, 0);
        if pin {
            bail!("another ntpmon captures on this interface{holder}: only one can own the pins");
        }
        bail!(
            "{SLOTS} other ntpmon processes capture on this interface already, the first{holder}"
        );
    }

    pub(super) fn try_take(interface: u32, number: u16) -> Result<Option<Self>> {
        let address = address(interface, number)?;
        match UnixListener::bind_addr(&address) {
            Ok(lock) => Ok(Some(Self {
                number,
                _lock: lock,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error).context("taking a lock"),
        }
    }
}

/// Locks are sockets in the abstract name space of the network namespace.
fn address(interface: u32, number: u16) -> Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ntpmon/{interface}/{number}")).context("naming a lock")
}

/// Who holds a lock, for a message: the name space is open to every user of the host.
fn holder(interface: u32, number: u16) -> String {
    address(interface, number)
        .and_then(|address| Ok(UnixStream::connect_addr(&address)?))
        .and_then(|stream| Ok(socket_peercred(&stream)?))
        .map(|holder| {
            format!(
                " (process {} of user {})",
                holder.pid.as_raw_nonzero(),
                holder.uid.as_raw()
            )
        })
        .unwrap_or_default()
}
