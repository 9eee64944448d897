//! Real NTP daemons in namespaces, each with its files in a folder that goes away with it. None can
//! set the machine's clock: a namespace runs its programs without that right, and the daemons are
//! told not to try where they can be told.

mod chronyd;
mod ntpsec;
mod openntpd;

pub use chronyd::{Certificate, Chronyd};
pub use ntpsec::{Ntpsec, ntpdate, ntpdig, ntpq};
pub use openntpd::Openntpd;

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder for a daemon's files, for root alone: chronyd insists on that for its socket.
fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("ntpmon-test-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot make a folder for a daemon")
}
