//! Under construction.

pub mod pcap;
