//! What one ring's thread does with its events: pair them, time the exchanges, hand those to
//! whoever wants them. Nothing is queued here: a sink that cannot keep up merges or counts.

use crate::ntp::{exchange::Exchange, pair::Totals};

/// Takes the exchanges of one ring, on that ring's thread.
pub trait Sink: Send + 'static {
    /// An exchange is over: answered, or its time has run out.
    fn exchange(&mut self, exchange: &Exchange);

    /// A batch is over. `totals` is what was counted since the ring's capture began, `unix` the
    /// time in nanoseconds since 1970.
    fn publish(&mut self, totals: &Totals, unix: i64);
}
