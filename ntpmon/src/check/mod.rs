//! Active checks: NTP servers that are asked for the time, on purpose and over and over, and what
//! came of it. What passes by without being asked for is not seen here but by [`crate::capture`].
//! A check needs no privilege.

mod definition;
mod target;

pub use self::{
    definition::{Definition, Family},
    target::{NoTarget, PORT, Target},
};
