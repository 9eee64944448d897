//! What the system tests share.

pub mod vm;
pub mod programs;
