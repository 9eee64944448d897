//! Whose transmit time can be believed, and how wrong the clock is that it was read from. Many
//! clients put a random number where the time they sent belongs; an honest one's value advances as
//! fast as the packets do, however wrong it is.

use hashbrown::HashTable;
use ntpmon_common::{Mode, Timestamp};

use self::filter::Filter;
use super::{Stamped, flow};

mod filter;
#[cfg(test)]
mod tests;

/// What is known of a client's habit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientClock {
    /// It has not asked twice yet.
    #[default]
    Unknown,
    /// Its transmit time is its clock.
    Honest,
    /// Its transmit time is no time.
    Randomised,
}

impl ClientClock {
    /// What two requests of one client show, each as what it wrote for the time that it sent it and
    /// when it passed, in nanoseconds. Nothing where they say the same.
    #[must_use]
    pub fn of(first: (Timestamp, i64), second: (Timestamp, i64)) -> Self {
        if first.0 == second.0 {
            return Self::Unknown;
        }
        let [first, second] = [first, second].map(|(transmit, time)| Sample {
            transmit,
            time: time.cast_unsigned(),
        });
        match second.agrees(&first) {
            Some(_) => Self::Honest,
            None => Self::Randomised,
        }
    }

    /// The name in the API and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Honest => "honest",
            Self::Randomised => "randomised",
        }
    }
}

/// How far an honest client's clock is ahead of this host's, from its requests of late: positive
/// when the client is ahead.
///
/// A request took time to come here, so a clock is ahead by what the request shows *or more*. Some
/// clients (ntpd, not SNTP) also repeat when our last answer was sent and when they received it,
/// and are ahead by what that shows *or less*. Without it nobody can tell the way from the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientError {
    /// In nanoseconds: what the next is a difference to.
    base: i64,
    /// In seconds: as much at least.
    least: f32,
    /// How much more it may be; not a number where that is not known.
    width: f32,
    /// What it gains on this host's clock, in seconds a second; not a number as long as that is
    /// not known well.
    drift: f32,
    /// Whether it is the first of the client's requests to tell it in a minute, an hour, a day.
    pub first: First,
}

/// In which times something is the first of its kind. The times are those of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// In this minute.
    pub of_minute: bool,
    /// In this hour.
    pub of_hour: bool,
    /// In this day.
    pub of_day: bool,
}

impl ClientError {
    /// One that is known to nothing but the request's own way.
    #[must_use]
    pub const fn at_least(nanoseconds: i64, first: First) -> Self {
        Self {
            base: nanoseconds,
            least: 0.0,
            width: f32::NAN,
            drift: f32::NAN,
            first,
        }
    }

    /// In nanoseconds: the middle of what it can be, or where that is open to one side, the least.
    #[must_use]
    pub fn nanoseconds(&self) -> i64 {
        let more = self.bound_seconds().unwrap_or_default();
        let seconds = f64::from(self.least) + f64::from(more);
        self.base.saturating_add((seconds * 1e9) as i64)
    }

    /// How far the error may be from what it is said to be, in seconds. Nothing where the client
    /// may be ahead by the time that its requests take, however long that is.
    #[must_use]
    pub fn bound_seconds(&self) -> Option<f32> {
        (!self.width.is_nan()).then_some(self.width / 2.0)
    }

    /// What the client gains on this host's clock, in millionths.
    #[must_use]
    pub fn drift_ppm(&self) -> Option<f32> {
        (!self.drift.is_nan()).then_some(self.drift * 1e6)
    }

    /// As it is for who is not the server: what a client repeats is another's time.
    #[must_use]
    pub const fn one_sided(mut self) -> Self {
        self.width = f32::NAN;
        self
    }
}

/// What a request tells of its sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub(super) clock: ClientClock,
    /// Only of an honest one.
    pub(super) error: Option<ClientError>,
}

impl Judged {
    const UNKNOWN: Self = Self {
        clock: ClientClock::Unknown,
        error: None,
    };
}

/// The last request of each client, in two generations that take turns: whoever asks within a
/// generation's life is remembered, however many others are forged.
#[derive(Debug)]
pub(super) struct ClientClocks {
    current: Generation,
    previous: Generation,
    /// When the current generation began.
    started: u64,
    /// Clients in a generation at most.
    bound: usize,
    here: Here,
}

#[derive(Debug, Default)]
struct Generation {
    clients: HashTable<Seen>,
    /// Of those who are honest: who only claims to be a client costs no room here.
    filters: Vec<Filter>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Of the address and the interface: 64 seeded bits are enough to tell clients apart.
    client: u64,
    /// Two clients may share an address behind a translator: each keeps a sample of its own.
    samples: [Sample; 2],
    /// The places of their filters; [`Seen::NONE`] before there is one.
    filters: [u32; 2],
    /// Which of them agreed with the one before it.
    confirmed: [bool; 2],
    clock: ClientClock,
}

/// A transmit time and when it passed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    transmit: Timestamp,
    time: u64,
}

/// This host's clock, as the packets' two times show it.
#[derive(Clone, Copy, Debug, Default)]
struct Here {
    /// UTC − the packets' own time, in nanoseconds.
    offset: Option<i64>,
    /// When that jumped last, by the packets' own time.
    stepped: u64,
}

/// A generation of clients is kept this long (in nanoseconds), so that a client is recognised when
/// it polls at the longest common interval, 1024 s.
const LIFETIME: u64 = 1100 * 1_000_000_000;
/// Less, in nanoseconds, is how UTC is read (see [`super::clock`]); more is a step.
const STEP: u64 = 100_000;

impl ClientClocks {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            current: Generation::default(),
            previous: Generation::default(),
            started: 0,
            bound,
            here: Here::default(),
        }
    }

    /// Takes note of a request and says what its sender is.
    pub(super) fn judge(&mut self, request: &Stamped) -> Judged {
        let event = &request.event;
        let transmit = event.ntp.transmit();
        if event.ntp.mode() != Mode::Client || event.ntp.version() == 5 || transmit.is_zero() {
            return Judged::UNKNOWN;
        }
        self.here.note(request);
        let here = self.here;
        let client = flow::client_hash(&event.source, event.interface);
        let same = |seen: &Seen| seen.client == client;
        if let Some(seen) = self.current.clients.find_mut(client, same) {
            return seen.note(request, &mut self.current.filters, &here);
        }
        self.make_room(event.time);
        let mut seen = match self.previous.clients.find(client, same) {
            Some(known) => known.move_to(&mut self.current.filters, &self.previous.filters),
            None => Seen::new(client, transmit, event.time),
        };
        let judged = seen.note(request, &mut self.current.filters, &here);
        self.current
            .clients
            .insert_unique(client, seen, |seen| seen.client);
        judged
    }

    fn make_room(&mut self, now: u64) {
        if self.current.clients.is_empty() {
            self.started = now;
        }
        if self.current.clients.len() >= self.bound || now.saturating_sub(self.started) > LIFETIME {
            std::mem::swap(&mut self.current, &mut self.previous);
            let Generation { clients, filters } = &mut self.current;
            // After a flood the memory goes back.
            if clients.len() < clients.capacity() / 8 {
                *clients = HashTable::new();
            }
            if filters.len() < filters.capacity() / 8 {
                *filters = Vec::new();
            }
            clients.clear();
            filters.clear();
            self.started = now;
        }
    }
}

impl Here {
    fn note(&mut self, request: &Stamped) {
        let Some(unix) = request.captured() else {
            return;
        };
        let offset = unix.wrapping_sub(request.event.time.cast_signed());
        if self.offset.is_some_and(|it| it.abs_diff(offset) > STEP) {
            self.stepped = request.event.time;
        }
        self.offset = Some(offset);
    }
}

impl Seen {
    const NONE: u32 = u32::MAX;

    const fn new(client: u64, transmit: Timestamp, time: u64) -> Self {
        Self {
            client,
            samples: [Sample { transmit, time }; 2],
            filters: [Self::NONE; 2],
            confirmed: [false; 2],
            clock: ClientClock::Unknown,
        }
    }

    /// The same in another generation.
    fn move_to(&self, filters: &mut Vec<Filter>, known: &[Filter]) -> Self {
        let place = |old: u32| {
            let filter = known.get(old as usize)?;
            filters.push(*filter);
            Some((filters.len() - 1) as u32)
        };
        let mut moved = *self;
        moved.filters = self.filters.map({
            let mut place = place;
            move |old| place(old).unwrap_or(Self::NONE)
        });
        moved
    }

    fn note(&mut self, request: &Stamped, filters: &mut Vec<Filter>, here: &Here) -> Judged {
        let transmit = request.event.ntp.transmit();
        let time = request.event.time;
        let judged = |clock, error| Judged { clock, error };
        // A retransmission says nothing new.
        if self.samples.iter().any(|old| old.transmit == transmit) {
            return judged(self.clock, None);
        }
        let sample = Sample { transmit, time };
        let agreeing = [0, 1]
            .into_iter()
            .find_map(|place| Some((place, sample.agrees(&self.samples[place])?)));
        let Some((place, advance)) = agreeing else {
            // A sample that nothing followed makes room before one that its client has confirmed.
            let [first, second] =
                [0, 1].map(|index| (self.confirmed[index], self.samples[index].time));
            let replaced = usize::from(second <= first);
            self.clock = ClientClock::Randomised;
            self.samples[replaced] = sample;
            self.confirmed[replaced] = false;
            return judged(self.clock, None);
        };
        self.clock = ClientClock::Honest;
        let before = std::mem::replace(&mut self.samples[place], sample);
        let is_new = !std::mem::replace(&mut self.confirmed[place], true);
        let Some(unix) = request.captured() else {
            // What comes next is not held against it.
            self.confirmed[place] = false;
            return judged(self.clock, None);
        };
        let begin = || {
            let now = Timestamp::from_unix_nanoseconds(unix);
            let offset = unix.wrapping_sub(time.cast_signed());
            let ahead = transmit.since(now).nanoseconds().wrapping_add(offset);
            Filter::new(ahead.wrapping_sub(advance), before.time)
        };
        let filter = match filters.get_mut(self.filters[place] as usize) {
            Some(filter) => {
                if is_new {
                    filter.begin_with(begin());
                }
                filter
            }
            None => {
                self.filters[place] = filters.len() as u32;
                filters.push(begin());
                let last = filters.len() - 1;
                &mut filters[last]
            }
        };
        judged(
            self.clock,
            filter.note(request, unix, advance, here.stepped),
        )
    }
}

impl Sample {
    /// Compares the advance of the transmit time with that of the capture, in nanoseconds; what it
    /// is more, where the two agree. The allowance is for the network's jitter; a random number
    /// misses it by decades.
    fn agrees(&self, earlier: &Self) -> Option<i64> {
        let claimed = self.transmit.since(earlier.transmit).nanoseconds();
        let elapsed =
            i64::try_from(i128::from(self.time) - i128::from(earlier.time)).unwrap_or(i64::MAX);
        let allowance = elapsed.unsigned_abs() / 20 + 100_000_000;
        (claimed.abs_diff(elapsed) <= allowance).then(|| claimed.wrapping_sub(elapsed))
    }
}
