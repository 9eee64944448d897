//! Real NTP daemons in namespaces, each with its files in a folder that goes away with it. None can
//! set the machine's clock: a namespace runs its programs without that right, and the daemons are
//! told not to try where they can be told.

mod chronyd;
mod ntpsec;
mod openntpd;
mod ptp4l;

pub use chronyd::{Certificate, Chronyd};
pub use ntpsec::{Ntpsec, ntpdate, ntpdig, ntpq};
pub use openntpd::Openntpd;
pub use ptp4l::{Clock, Ptp4l};
