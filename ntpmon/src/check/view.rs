//! What is shown of a round: by the API and by the command line. Durations are in seconds; what is
//! unknown is null.

use jiff::Timestamp;
use ntpmon_common::NtpHeader;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::round::Round;
use crate::{
    history::view::{seconds, time as at},
    ntp,
};

/// What a round of questions to one address came to. The figures are those of the answer with the
/// median offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Observation {
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// `ok`, or why not: `far_off`, `unresolved`, `unreachable`, `refused`, `timeout`,
    /// `wrong_address`, `short_answer`, `wrong_origin`, `not_an_answer`, `zero_times`,
    /// `unsynchronised`, `kiss_of_death`, `contradictory`, `clock_stepped` or `local_error`.
    pub status: String,
    /// The same in words, where there is something to say.
    pub message: Option<String>,
    /// How far the server is ahead of this host; negative when it is behind.
    pub offset_seconds: Option<f64>,
    /// The round trip, without the server's share.
    pub delay_seconds: Option<f64>,
    /// How wrong the offset may be by the clocks' own doing.
    pub dispersion_seconds: Option<f64>,
    /// How far the other answers' offsets are from this one, root mean square.
    pub jitter_seconds: Option<f64>,
    /// How far the server may be from the clock that its time comes from, seen from here.
    pub root_distance_seconds: Option<f64>,
    /// Distance from a reference clock, 1 to 15.
    pub stratum: Option<u8>,
    /// 0 none, 1 and 2 a leap second ahead, 3 not synchronised.
    pub leap_indicator: Option<u8>,
    /// Letters, or an IPv4 address; a hash that looks like one where the server follows another
    /// over IPv6.
    pub reference_id: Option<String>,
    /// The delay from the server to the clock that its time comes from, by its own word.
    pub root_delay_seconds: Option<f64>,
    /// The dispersion to there, by its own word.
    pub root_dispersion_seconds: Option<f64>,
    /// Precision of the server's clock, as a power of two of a second.
    pub precision: Option<i8>,
    /// The version of the answer.
    pub version: Option<u8>,
    /// What a kiss-o'-death said: RATE, DENY …
    pub kiss_code: Option<String>,
    /// Answers that told the time.
    pub samples: u8,
    /// Questions that were asked.
    pub sent: u8,
    /// Where this host's times come from: `kernel`, `kernel_receive` (that of the question was
    /// taken before it was handed over), or `user`.
    pub timestamps: Option<String>,
}

impl From<&Round> for Observation {
    fn from(round: &Round) -> Self {
        let header = round.header();
        let of = |read: fn(&NtpHeader) -> u8| header.as_ref().map(read);
        let root = header.as_ref().map(ntp::root_seconds);
        let time = round.time;
        Self {
            timestamp: at(round.at),
            status: round.status.name().to_owned(),
            message: round.message.clone(),
            offset_seconds: time.map(|it| seconds(it.offset)),
            delay_seconds: time.map(|it| seconds(it.delay)),
            dispersion_seconds: time.map(|it| it.dispersion as f64 / 1e9),
            jitter_seconds: time.and_then(|it| Some(it.jitter? as f64 / 1e9)),
            root_distance_seconds: round.root_distance(),
            stratum: of(NtpHeader::stratum),
            leap_indicator: of(NtpHeader::leap_indicator),
            reference_id: header.as_ref().and_then(ntp::reference_id),
            root_delay_seconds: root.map(|(delay, _)| delay),
            root_dispersion_seconds: root.map(|(_, dispersion)| dispersion),
            precision: header.map(|it| it.precision()),
            version: of(NtpHeader::version),
            kiss_code: round.kiss.clone(),
            samples: round.answered,
            sent: round.sent,
            timestamps: time.map(|it| it.stamps.name().to_owned()),
        }
    }
}
