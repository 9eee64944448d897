//! ntpmon: every NTP packet of a host, paired, timed and remembered.
//!
//! The way of the data, which is also the order of the modules:
//! a frame at a NIC or in a capture file ([`capture`]) becomes an event, events become exchanges
//! ([`ntp`]), and the command line ([`cli`]) shows them. No stage knows the one after it.

pub mod api;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod data_directory;
pub mod logging;
pub mod monitor;
pub mod netlink;
pub mod ntp;
mod output;
pub mod pipeline;
pub mod privileges;
pub mod tokens;
