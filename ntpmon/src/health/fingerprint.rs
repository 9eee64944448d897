//! What tells one program on one host from another, whatever the time: hops left, precision,
//! version, what vouches for the answer. An answer is held against earlier ones to questions of the
//! same kind only: a server answers in the version and with the extensions that it was asked with.

use ntpmon_common::{Authentication, Event};

use super::finding::Evidence;

/// Kinds of questions told apart for one server.
const PROFILES: usize = 4;
/// Different numbers of hops that are usual for one server: its packets may take several ways.
const WAYS: usize = 8;
/// And different manners: several hosts may share an address.
const MANNERS: usize = 8;

/// How a question was put: its version, what vouches for it, whether it has extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u8);

impl Asked {
    /// Of a request.
    #[must_use]
    pub const fn of(request: &Event) -> Self {
        let has_extensions = (request.extensions > 0) as u8;
        Self(request.ntp.version() & 7 | (request.authentication & 7) << 3 | has_extensions << 6)
    }
}

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Of the header.
    pub version: u8,
    /// Of the header.
    pub precision: i8,
    /// As the event has it.
    pub authentication: u8,
    /// Whether there were any.
    pub has_extensions: bool,
    /// Hops left.
    pub ttl: u8,
}

impl Manner {
    /// Of a response.
    #[must_use]
    pub const fn of(response: &Event) -> Self {
        Self {
            version: response.ntp.version(),
            precision: response.ntp.precision(),
            authentication: response.authentication,
            has_extensions: response.extensions > 0,
            ttl: response.ttl,
        }
    }
}

impl Manner {
    /// The same, wherever it came through.
    const fn by_any_way(mut self) -> Self {
        self.ttl = 0;
        self
    }
}

/// Whether it is among the last few; it is from now on.
fn is_usual<T: Copy + PartialEq>(known: &mut Vec<T>, it: T, most: usize) -> bool {
    let place = known.iter().position(|known| *known == it);
    if let Some(place) = place {
        known.remove(place);
    } else if known.len() >= most {
        known.remove(0);
    }
    known.push(it);
    place.is_some()
}

#[derive(Clone, Debug)]
struct Profile {
    asked: Asked,
    /// The last one.
    manner: Manner,
    /// Those that are usual, whatever the hops: the last one last.
    manners: Vec<Manner>,
    /// The last one last.
    ways: Vec<u8>,
}

/// How a server answered so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Fingerprint(Vec<Profile>);

impl Fingerprint {
    /// Notes how it answers, and says in what that differs from before.
    pub(super) fn observe(
        &mut self,
        asked: Asked,
        manner: Manner,
        mut found: impl FnMut(Evidence),
    ) {
        let Some(profile) = self.0.iter_mut().find(|it| it.asked == asked) else {
            if self.0.len() >= PROFILES {
                self.0.remove(0);
            }
            self.0.push(Profile {
                asked,
                manner,
                manners: vec![manner.by_any_way()],
                ways: vec![manner.ttl],
            });
            return;
        };
        let known = profile.manner;
        if known == manner {
            return;
        }
        let is_known = is_usual(&mut profile.manners, manner.by_any_way(), MANNERS);
        let is_known_way = is_usual(&mut profile.ways, manner.ttl, WAYS);
        let mut changed = |what, before: String, after: String| {
            if before != after && (what == "ttl" || !is_known) {
                found(Evidence::Fingerprint {
                    what,
                    before,
                    after,
                });
            }
        };
        let text = |number: i64| number.to_string();
        changed(
            "version",
            text(known.version.into()),
            text(manner.version.into()),
        );
        changed(
            "precision",
            text(known.precision.into()),
            text(manner.precision.into()),
        );
        let name = |byte| Authentication::from_byte(byte).name().to_owned();
        changed(
            "authentication",
            name(known.authentication),
            name(manner.authentication),
        );
        let whether = |has: bool| if has { "some" } else { "none" }.to_owned();
        changed(
            "extensions",
            whether(known.has_extensions),
            whether(manner.has_extensions),
        );
        if !is_known_way {
            changed("ttl", text(known.ttl.into()), text(manner.ttl.into()));
        }
        profile.manner = manner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Manner = Manner {
        version: 4,
        precision: -23,
        authentication: 0,
        has_extensions: false,
        ttl: 57,
    };

    fn observe(print: &mut Fingerprint, asked: u8, manner: Manner) -> Vec<&'static str> {
        let mut all = Vec::new();
        print.observe(Asked(asked), manner, |found| {
            let Evidence::Fingerprint { what, .. } = found else {
                panic!("{found:?}");
            };
            all.push(what);
        });
        all
    }

    #[test]
    fn each_trait_that_changes_is_told_once() {
        let mut print = Fingerprint::default();
        assert_eq!(observe(&mut print, 4, USUAL), [""; 0]);
        assert_eq!(observe(&mut print, 4, USUAL), [""; 0]);
        let other = Manner {
            precision: -18,
            ttl: 244,
            ..USUAL
        };
        assert_eq!(observe(&mut print, 4, other), ["precision", "ttl"]);
        assert_eq!(observe(&mut print, 4, other), [""; 0]);
        let signed = Manner {
            version: 3,
            authentication: Authentication::Mac as u8,
            has_extensions: true,
            ..other
        };
        assert_eq!(
            observe(&mut print, 4, signed),
            ["version", "authentication", "extensions"]
        );
    }

    #[test]
    fn several_ways_are_usual_once_they_are_known() {
        let mut print = Fingerprint::default();
        let by = |ttl| Manner { ttl, ..USUAL };
        observe(&mut print, 4, by(57));
        assert_eq!(observe(&mut print, 4, by(58)), ["ttl"]);
        for ttl in [57, 58, 57, 58] {
            assert_eq!(observe(&mut print, 4, by(ttl)), [""; 0]);
        }
    }

    #[test]
    fn who_asks_in_another_way_is_answered_in_another_way() {
        let mut print = Fingerprint::default();
        let old = Manner {
            version: 3,
            ..USUAL
        };
        for _ in 0..3 {
            assert_eq!(observe(&mut print, 4, USUAL), [""; 0]);
            assert_eq!(observe(&mut print, 3, old), [""; 0]);
        }
        // Many ways to ask push out the eldest.
        for asked in 10..20 {
            observe(&mut print, asked, USUAL);
        }
        assert_eq!(print.0.len(), PROFILES);
    }
}
