//! What metrics are, whatever they are written as: families and their samples. A value that is not
//! known has no sample; there is no NaN here.

use jiff::Timestamp;

/// Numbers of one kind and meaning, which differ by their labels.
#[derive(Debug)]
pub struct Family {
    /// The name in Prometheus: counters end in `_total`, information in `_info`.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The names of its labels: every sample has a value for each.
    pub labels: &'static [&'static str],
    /// What it means: its sign, and from where it was seen.
    pub help: &'static str,
}

/// What kind of number a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until it begins anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often values were how large.
    Histogram,
    /// Always 1: what there is to know stands in the labels.
    Info,
}

impl Kind {
    /// Its name in both formats of text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

impl Family {
    /// The name without what its kind adds to it.
    #[must_use]
    pub fn base(&self) -> &'static str {
        let end = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(end).unwrap_or(self.name)
    }

    /// What it is measured in, which is the last word of its name; nothing where things are counted.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let last = self.base().rsplit('_').next();
        ["seconds", "bytes", "ratio"]
            .into_iter()
            .find(|unit| last == Some(*unit))
    }
}

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other that is finite.
    Real(f64),
    /// A distribution.
    Histogram(Buckets),
}

/// A distribution over fixed bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// The bounds, ascending, all finite.
    pub bounds: &'static [f64],
    /// How many values are not above each bound, and at the end how many there are in all.
    pub counts: Vec<u64>,
    /// Of all values. Nothing where values may be negative: it would not only grow, and a rate of
    /// it would be taken for the counter's beginning anew.
    pub sum: Option<f64>,
}

impl Buckets {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.last().copied().unwrap_or_default()
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Buckets> for Value {
    fn from(value: Buckets) -> Self {
        Self::Histogram(value)
    }
}

/// The values of a sample's labels in one piece: a large daemon tells fifteen thousand samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    text: Box<str>,
    /// Where each ends.
    ends: [u32; Self::MOST],
    count: usize,
}

impl Labels {
    /// No family has more.
    const MOST: usize = 8;

    fn of(values: &[&str]) -> Self {
        debug_assert!(values.len() <= Self::MOST, "{values:?}");
        let mut ends = [0; Self::MOST];
        let mut length = 0;
        for (end, value) in ends.iter_mut().zip(values) {
            length += value.len();
            *end = length as u32;
        }
        Self {
            text: values.concat().into(),
            ends,
            count: values.len(),
        }
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = [0].into_iter().chain(self.ends);
        let each = begins.zip(self.ends).take(self.count);
        each.map(|(begin, end)| &self.text[begin as usize..end as usize])
    }
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the family's labels, in their order.
    pub labels: Labels,
    /// What it is.
    pub value: Value,
    /// Since when it has been counted, where that is known.
    pub since: Option<Timestamp>,
}

/// What one collector tells.
#[derive(Debug)]
pub struct Samples(Vec<(&'static Family, Vec<Sample>)>);

impl Samples {
    /// None yet, of these families.
    #[must_use]
    pub fn of(families: &'static [&'static Family]) -> Self {
        Self(families.iter().map(|it| (*it, Vec::new())).collect())
    }

    /// The families that have samples, with those.
    pub fn families(&self) -> impl Iterator<Item = (&'static Family, &[Sample])> {
        self.0
            .iter()
            .filter(|(_, samples)| !samples.is_empty())
            .map(|(family, samples)| (*family, samples.as_slice()))
    }

    /// Adds a number with the values of its labels.
    pub fn put(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        self.put_since(family, labels, value, None);
    }

    /// As [`Self::put`], where the number may not be known.
    pub fn put_known(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        value: Option<impl Into<Value>>,
    ) {
        if let Some(value) = value {
            self.put(family, labels, value);
        }
    }

    /// As [`Self::put`], of what has been counted since a time.
    pub fn put_since(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        value: impl Into<Value>,
        since: Option<Timestamp>,
    ) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let value = value.into();
        if let Value::Real(number) = value
            && !number.is_finite()
        {
            return;
        }
        let place = self.0.iter().position(|(it, _)| std::ptr::eq(*it, family));
        debug_assert!(place.is_some(), "{} is another collector's", family.name);
        if let Some((_, samples)) = place.and_then(|place| self.0.get_mut(place)) {
            samples.push(Sample {
                labels: Labels::of(labels),
                value,
                since,
            });
        }
    }
}

/// What all collectors told, each family by one.
#[derive(Debug, Default)]
pub struct Gathered(pub Vec<Samples>);

impl Gathered {
    /// The families that have samples, with those.
    pub fn families(&self) -> impl Iterator<Item = (&'static Family, &[Sample])> {
        self.0.iter().flat_map(Samples::families)
    }
}

/// Declares the families of a collector, and lists them as `FAMILIES`.
macro_rules! families {
    ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
        $(static $name: $crate::metrics::Family = $crate::metrics::Family {
            name: $text,
            kind: $crate::metrics::Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// What is told here.
        pub(in crate::metrics) static FAMILIES: &[&$crate::metrics::Family] = &[$(&$name),*];
    };
}
pub(super) use families;
