//! Which labels a rule or a silence is for: a pattern for each label that matters. Patterns are of
//! the few characters that operators type without looking them up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// The labels of what something is of.
#[must_use]
pub fn labels(of: &[(&str, String)]) -> Labels {
    let each = of.iter();
    each.map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// Patterns by label, all of which have to fit: `*` stands for any text, `|` separates texts of
/// which one has to fit, and `!` before it all turns it round. A label that is not there is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Matchers(pub BTreeMap<String, String>);

impl Matchers {
    /// Whether labels fit.
    #[must_use]
    pub fn fit<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|(name, pattern)| {
            let value = label(name).unwrap_or_default();
            match pattern.strip_prefix('!') {
                Some(pattern) => !fits_any(pattern, value),
                None => fits_any(pattern, value),
            }
        })
    }

    /// Whether there are none, so that all fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether their labels can be, and none is longer than it may.
    #[must_use]
    pub fn are_right(&self) -> bool {
        let mut pairs = self.0.iter();
        self.0.len() <= MAX_LABELS
            && pairs.all(|(name, pattern)| is_label(name) && pattern.len() <= MAX_TEXT)
    }
}

/// So many labels at most are added or looked at.
pub(super) const MAX_LABELS: usize = 16;
/// A label's value, and a pattern, has no more bytes.
pub(super) const MAX_TEXT: usize = 256;

/// As Prometheus has it, since labels go to Alertmanager.
pub(super) fn is_label(name: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    (1..=64).contains(&name.len())
        && name.chars().all(is_part)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn fits_any(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|one| fits(one, text))
}

/// One pattern with stars. Takes no longer than the product of both lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matchers(pairs: &[(&str, &str)]) -> Matchers {
        let pairs = pairs.iter();
        Matchers(
            pairs
                .map(|(name, pattern)| ((*name).to_owned(), (*pattern).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn patterns_fit_what_they_look_like() {
        for (pattern, text, right) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth01", true),
            ("*.example", "a.b.example", true),
            ("10.*.1", "10.2.3.1", true),
            ("10.*.1", "10.1", false),
            ("a*b*c", "abbc", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a|b*", "bc", true),
            ("!lo|veth*", "lo", false),
            ("!lo|veth*", "eth0", true),
            ("ö*", "öl", true),
        ] {
            let fits = matchers(&[("interface", pattern)]).fit(|_| Some(text));
            assert_eq!(fits, right, "{pattern} {text}");
        }
    }

    #[test]
    fn every_label_has_to_fit_and_one_that_is_missing_is_empty() {
        let both = matchers(&[("server", "a"), ("interface", "b")]);
        let label = |name: &str| (name == "server").then_some("a");
        assert!(!both.fit(label));
        assert!(matchers(&[("server", "a"), ("interface", "!b")]).fit(label));
        assert!(matchers(&[("server", "a"), ("interface", "")]).fit(label));
        assert!(Matchers::default().fit(|_| None));
        assert!(!matchers(&[("1a", "")]).are_right());
        assert!(matchers(&[("a_1", "")]).are_right());
    }
}
