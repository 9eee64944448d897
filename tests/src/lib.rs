//! What the system tests share.

pub mod programs;
pub mod vm;
