//! What a pairer counts: every packet in exactly one place, whatever bound is hit.

/// Everything counted, exact whatever bound is hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets in modes 3 (and 0, where they ask), retransmissions among them.
    pub requests: u64,
    /// Packets in mode 4 (and 0, where they answer).
    pub responses: u64,
    /// Requests and symmetric packets that asked something new: answered + unanswered, and what
    /// still waits.
    pub exchanges: u64,
    /// Of those, the ones with a response.
    pub answered: u64,
    /// Of those, the ones whose time ran out.
    pub unanswered: u64,
    /// Responses to nothing.
    pub unsolicited: u64,
    /// Of those, the ones whose request was seen but had timed out. A request is remembered for
    /// one to two timeouts, so a very late response is no longer known to be one.
    pub late: u64,
    /// Retransmitted requests.
    pub duplicates: u64,
    /// Further responses to an answered request.
    pub multiple_responses: u64,
    /// Responses that carry a kiss code.
    pub kiss_of_death: u64,
    /// Mode 6.
    pub control: u64,
    /// Mode 7.
    pub private: u64,
    /// Mode 5.
    pub broadcast: u64,
    /// Modes 1 and 2.
    pub symmetric: u64,
    /// Requests and unmatched responses that were given up before their time because too many
    /// waited.
    pub evicted: u64,
}

impl Totals {
    /// Adds another interface's or another thread's totals.
    pub fn add(&mut self, other: &Self) {
        let Self {
            requests,
            responses,
            exchanges,
            answered,
            unanswered,
            unsolicited,
            late,
            duplicates,
            multiple_responses,
            kiss_of_death,
            control,
            private,
            broadcast,
            symmetric,
            evicted,
        } = other;
        self.requests += requests;
        self.responses += responses;
        self.exchanges += exchanges;
        self.answered += answered;
        self.unanswered += unanswered;
        self.unsolicited += unsolicited;
        self.late += late;
        self.duplicates += duplicates;
        self.multiple_responses += multiple_responses;
        self.kiss_of_death += kiss_of_death;
        self.control += control;
        self.private += private;
        self.broadcast += broadcast;
        self.symmetric += symmetric;
        self.evicted += evicted;
    }

    /// Counts an exchange, and numbers it.
    pub(super) const fn next_sequence(&mut self) -> u64 {
        let sequence = self.exchanges;
        self.exchanges += 1;
        sequence
    }

    /// Packets that were paired or counted: every event comes back in exactly one of these.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.requests
            + self.responses
            + self.control
            + self.private
            + self.broadcast
            + self.symmetric
    }
}
