//! Active checks: NTP servers that are asked for the time, on purpose and over and over, and what
//! came of it. What passes by without being asked for is not seen here but by [`crate::capture`].
//! A check needs no privilege.
//!
//! A question goes out and its answer comes back in [`exchange`], [`answer`] works out what it
//! says, several of them make a [`round`]. In the daemon each check is a task that goes on for
//! ever; [`Checks`] knows them all, and [`store`] what they found.

pub mod answer;
mod definition;
mod engine;
pub mod exchange;
mod failure;
mod kept;
mod record;
pub mod resolve;
pub mod rollup;
pub mod round;
mod shared;
pub mod store;
mod target;
mod task;
pub mod view;

pub use self::{
    definition::{Definition, FIELDS, Family},
    engine::{CheckError, Checks, MOST_CHECKS},
    failure::{Failure, Status},
    record::{CheckId, NoId, Series},
    shared::{Latest, Rounds, Shown, Source},
    target::{NoTarget, PORT, Target},
};
