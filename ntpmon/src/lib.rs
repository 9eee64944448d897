//! ntpmon: every NTP packet of a host, paired, timed and remembered.
//!
//! The way of the data:
//! a frame at a NIC or in a capture file ([`capture`]) becomes an event, events become exchanges
//! ([`ntp`]), on the thread of the ring that they came through ([`pipeline`]); PTP's messages are
//! watched beside them ([`ptp`]). The command line
//! ([`cli`]) shows them, or the daemon ([`daemon`]) folds them into what it remembers ([`history`])
//! and answers questions about that over HTTP ([`api`]), or tells its numbers ([`metrics`]). No
//! stage knows the one after it.

pub mod alert;
pub mod api;
pub mod capture;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod data_directory;
pub mod health;
pub mod history;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod netlink;
pub mod ntp;
pub mod outbox;
mod output;
pub mod pipeline;
pub mod privileges;
pub mod ptp;
pub mod scheduling;
mod seconds;
pub mod tokens;
