//! How durations are distributed. Both kinds here share their buckets: sixteen to each power of
//! two, so that a value is known to 3 % whatever its size. [`Histogram`] is exact in its counts and
//! for many values; [`Sketch`] has twelve bytes and is for one client.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::{LittleEndian, U16},
};

/// A number from 0 to 2047; a larger value has the same or a larger bucket. Negative values have
/// theirs below 1024.
type Bucket = u16;

const BUCKETS: usize = 2048;
/// The bucket of 0.
const ZERO: u16 = 1024;

const fn bucket(value: i64) -> Bucket {
    // i64::MIN alone would need one power more.
    let magnitude = value.saturating_abs().unsigned_abs();
    let index = if magnitude < 16 {
        magnitude as u16
    } else {
        let power = magnitude.ilog2();
        let part = (magnitude >> (power - 4)) & 15;
        (power as u16 - 3) * 16 + part as u16
    };
    if value < 0 {
        ZERO - 1 - index
    } else {
        ZERO + index
    }
}

/// The middle of a bucket.
const fn middle(bucket: Bucket) -> i64 {
    let (negative, index) = if bucket < ZERO {
        (true, ZERO - 1 - bucket)
    } else {
        (false, bucket - ZERO)
    };
    let magnitude = if index < 16 {
        index as i64
    } else {
        let power = index / 16 + 3;
        let part = (index % 16) as i64;
        let width = 1_i64 << (power - 4);
        (16 + part) * width + width / 2
    };
    if negative { -magnitude } else { magnitude }
}

/// Counts of durations in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Nothing as long as there is no value: many histograms never have one.
    counts: Option<Box<[u64; BUCKETS]>>,
    count: u64,
    sum: i128,
    minimum: i64,
    maximum: i64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: None,
            count: 0,
            sum: 0,
            minimum: i64::MAX,
            maximum: i64::MIN,
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: i64) {
        self.counts_mut()[usize::from(bucket(value))] += 1;
        self.count += 1;
        self.sum += i128::from(value);
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        if let Some(others) = &other.counts {
            for (count, more) in self.counts_mut().iter_mut().zip(others.iter()) {
                *count += more;
            }
        }
        self.count += other.count;
        self.sum += other.sum;
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
    }

    fn counts_mut(&mut self) -> &mut [u64; BUCKETS] {
        self.counts.get_or_insert_with(|| Box::new([0; BUCKETS]))
    }

    /// Each bucket with how many values it has.
    fn counts(&self) -> impl Iterator<Item = (Bucket, u64)> {
        let counts = self.counts.iter().flat_map(|counts| counts.iter());
        counts
            .enumerate()
            .map(|(bucket, count)| (bucket as Bucket, *count))
    }

    /// How many values are not farther from 0 than this, to the width of a bucket.
    #[must_use]
    pub fn within(&self, limit: i64) -> u64 {
        let limit = bucket(limit.saturating_abs()) - ZERO;
        let distance = |bucket: Bucket| match bucket.checked_sub(ZERO) {
            Some(distance) => distance,
            None => ZERO - 1 - bucket,
        };
        let near = self
            .counts()
            .filter(|(bucket, _)| distance(*bucket) <= limit);
        near.map(|(_, count)| count).sum()
    }

    /// How many values it has.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All values added up.
    #[must_use]
    pub const fn sum(&self) -> i128 {
        self.sum
    }

    /// How many values are not above each of these bounds, which ascend, to the width of a bucket:
    /// one is counted by its middle.
    #[must_use]
    pub fn not_above(&self, bounds: impl IntoIterator<Item = i64>) -> Vec<u64> {
        // No value falls into the outermost buckets, which have no middle.
        let filled = self.counts().filter(|(_, count)| *count > 0);
        let mut buckets = filled.peekable();
        let mut passed = 0;
        let mut not_above = |bound| {
            while let Some((_, count)) = buckets.next_if(|(bucket, _)| middle(*bucket) <= bound) {
                passed += count;
            }
            passed
        };
        bounds.into_iter().map(&mut not_above).collect()
    }

    /// The least value.
    #[must_use]
    pub fn minimum(&self) -> Option<i64> {
        (self.count > 0).then_some(self.minimum)
    }

    /// The greatest value.
    #[must_use]
    pub fn maximum(&self) -> Option<i64> {
        (self.count > 0).then_some(self.maximum)
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> Option<i64> {
        (self.count > 0).then(|| (self.sum / i128::from(self.count)) as i64)
    }

    /// The value that a share (0 to 1) of all is not above, to the width of a bucket, and never
    /// outside of what was seen.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<i64> {
        // The ends are known exactly.
        if share <= 0.0 {
            return self.minimum();
        }
        if share >= 1.0 {
            return self.maximum();
        }
        let found = quantile(self.counts(), self.count, share)?;
        Some(found.clamp(self.minimum, self.maximum))
    }

    /// Appends itself: only what is not 0, in numbers of variable length.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_number(out, self.count);
        if self.count == 0 {
            return;
        }
        out.extend_from_slice(&self.sum.to_le_bytes());
        out.extend_from_slice(&self.minimum.to_le_bytes());
        out.extend_from_slice(&self.maximum.to_le_bytes());
        let filled = || self.counts().filter(|(_, count)| *count > 0);
        write_number(out, filled().count() as u64);
        for (bucket, count) in filled() {
            write_number(out, u64::from(bucket));
            write_number(out, count);
        }
    }

    /// Takes itself from the front of `bytes`; nothing when they are not what [`Self::write`]
    /// left.
    #[must_use]
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut histogram = Self {
            count: read_number(bytes)?,
            ..Self::default()
        };
        if histogram.count == 0 {
            return Some(histogram);
        }
        histogram.sum = i128::from_le_bytes(*bytes.split_off(..16)?.first_chunk()?);
        histogram.minimum = i64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
        histogram.maximum = i64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
        for _ in 0..read_number(bytes)? {
            let bucket = usize::try_from(read_number(bytes)?).ok()?;
            *histogram.counts_mut().get_mut(bucket)? = read_number(bytes)?;
        }
        Some(histogram)
    }
}

fn quantile(counts: impl Iterator<Item = (Bucket, u64)>, total: u64, share: f64) -> Option<i64> {
    // At least one, at most all.
    let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
    let mut passed = 0;
    for (bucket, count) in counts {
        passed += count;
        if passed >= rank {
            return Some(middle(bucket));
        }
    }
    None
}

/// Appends a number in groups of seven bits.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number of [`write_number`] from the front.
pub(super) fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A few buckets with small weights: exact for six different values, then the closest are put
/// together. Old values fade: when a weight does not fit any more, all are halved.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Sketch([U16<LittleEndian>; PAIRS]);

/// Buckets in a sketch.
const PAIRS: usize = 6;
/// Bits of a pair that are its weight; the others are its bucket.
const WEIGHT_BITS: u16 = 5;
const MAX_WEIGHT: u16 = (1 << WEIGHT_BITS) - 1;

#[derive(Clone, Copy, Debug, Default)]
struct Weighted {
    bucket: Bucket,
    /// 0 where there is none.
    weight: u16,
}

impl Sketch {
    /// One that has seen nothing.
    pub const EMPTY: Self = Self([U16::ZERO; PAIRS]);

    /// Counts a value.
    pub fn add(&mut self, value: i64) {
        let bucket = bucket(value);
        // The most frequent case by far: the bucket is there and has room.
        for pair in &mut self.0 {
            let packed = pair.get();
            let weight = packed & MAX_WEIGHT;
            if packed >> WEIGHT_BITS == bucket && (1..MAX_WEIGHT).contains(&weight) {
                pair.set(packed + 1);
                return;
            }
        }
        self.add_weighted(Weighted { bucket, weight: 1 });
    }

    /// Adds what another, later one has seen.
    pub fn merge(&mut self, later: &Self) {
        for pair in later.pairs() {
            self.add_weighted(pair);
        }
    }

    /// The value that a share (0 to 1) of all is not above, to the width of a bucket.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let total = self.pairs().map(|pair| u64::from(pair.weight)).sum();
        let counts = self
            .pairs()
            .map(|pair| (pair.bucket, u64::from(pair.weight)));
        quantile(counts, total, share)
    }

    /// What there is, ordered by bucket.
    fn pairs(&self) -> impl Iterator<Item = Weighted> {
        self.0
            .iter()
            .map(|packed| Weighted {
                bucket: packed.get() >> WEIGHT_BITS,
                weight: packed.get() & MAX_WEIGHT,
            })
            .filter(|pair| pair.weight > 0)
    }

    fn add_weighted(&mut self, new: Weighted) {
        const ROOM: usize = PAIRS + 1;
        let mut pairs = [Weighted::default(); ROOM];
        let mut count = 0;
        let mut placed = false;
        for pair in self.pairs() {
            if !placed && pair.bucket >= new.bucket {
                placed = true;
                if pair.bucket == new.bucket {
                    pairs[count] = Weighted {
                        bucket: pair.bucket,
                        weight: pair.weight + new.weight,
                    };
                    count += 1;
                    continue;
                }
                pairs[count] = new;
                count += 1;
            }
            pairs[count] = pair;
            count += 1;
        }
        if !placed {
            pairs[count] = new;
            count += 1;
        }
        if count == ROOM {
            put_together(&mut pairs);
            count -= 1;
        }
        let halve = pairs[..count].iter().any(|pair| pair.weight > MAX_WEIGHT);
        self.0 = Default::default();
        for (place, pair) in self.0.iter_mut().zip(&pairs[..count]) {
            let weight = if halve {
                pair.weight.div_ceil(2).min(MAX_WEIGHT)
            } else {
                pair.weight
            };
            place.set(pair.bucket << WEIGHT_BITS | weight);
        }
    }
}

/// Makes one of the two neighbours that lose least by it: close to each other, and light.
fn put_together(pairs: &mut [Weighted; PAIRS + 1]) {
    let cost = |first: &Weighted, second: &Weighted| {
        u32::from(second.bucket - first.bucket) * u32::from(first.weight + second.weight)
    };
    let cheapest = (0..pairs.len() - 1)
        .min_by_key(|&place| cost(&pairs[place], &pairs[place + 1]))
        .unwrap_or_default();
    let (first, second) = (pairs[cheapest], pairs[cheapest + 1]);
    let weight = first.weight + second.weight;
    let sum = u32::from(first.bucket) * u32::from(first.weight)
        + u32::from(second.bucket) * u32::from(second.weight);
    pairs[cheapest] = Weighted {
        bucket: (sum / u32::from(weight)) as Bucket,
        weight,
    };
    pairs.copy_within(cheapest + 2.., cheapest + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_as_narrow_as_promised() {
        let mut values: Vec<i64> = (0..63)
            .flat_map(|power| [-1, 0, 1, 7].map(|more| (1_i64 << power).saturating_add(more)))
            .flat_map(|value| [value, -value])
            .collect();
        values.extend([0, i64::MAX, i64::MIN]);
        values.sort_unstable();
        for pair in values.windows(2) {
            assert!(bucket(pair[0]) <= bucket(pair[1]), "{pair:?}");
        }
        for value in values {
            let middle = middle(bucket(value));
            let error = (i128::from(middle) - i128::from(value)).abs();
            let allowed = i128::from(value).abs() / 30;
            assert!(error <= allowed, "{value}: {middle}");
        }
    }

    #[test]
    fn quantiles_of_many_values_are_right_to_a_bucket_and_merging_loses_nothing() {
        let mut whole = Histogram::default();
        let mut parts = [Histogram::default(), Histogram::default()];
        for value in 1..=10_000_i64 {
            whole.add(value * 1000);
            parts[usize::from(value % 3 == 0)].add(value * 1000);
        }
        let [mut first, second] = parts;
        first.merge(&second);
        assert_eq!(first, whole);
        for (share, expected) in [(0.5, 5_000_000.0), (0.9, 9_000_000.0), (0.99, 9_900_000.0)] {
            let found = whole.quantile(share).unwrap() as f64;
            assert!((found / expected - 1.0).abs() < 0.04, "{share}: {found}");
        }
        assert_eq!(whole.quantile(0.0), Some(1000));
        assert_eq!(whole.quantile(1.0), Some(10_000_000));
        assert_eq!(whole.mean(), Some(5_000_500));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_histogram_comes_back_from_its_bytes_and_broken_bytes_do_not() {
        let mut histogram = Histogram::default();
        let mut bytes = Vec::new();
        histogram.write(&mut bytes);
        for value in [-5_000_000_000, -1, 0, 3, 250_000, 250_001, i64::MAX] {
            histogram.add(value);
        }
        histogram.write(&mut bytes);
        let mut rest = &bytes[..];
        assert_eq!(Histogram::read(&mut rest), Some(Histogram::default()));
        assert_eq!(Histogram::read(&mut rest), Some(histogram));
        assert!(rest.is_empty());
        for cut in 1..bytes.len() - 1 {
            let mut rest = &bytes[1..=cut];
            assert_eq!(Histogram::read(&mut rest), None, "{cut}");
        }
    }

    #[test]
    fn a_sketch_is_exact_for_few_values() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantile(0.5), None);
        for value in [10, -12, 14, 11, 10, 10] {
            sketch.add(value);
        }
        assert_eq!(sketch.quantile(0.0), Some(-12));
        assert_eq!(sketch.quantile(0.5), Some(10));
        assert_eq!(sketch.quantile(1.0), Some(14));
    }

    #[test]
    fn a_sketch_of_many_values_keeps_the_middle_and_the_tail() {
        let mut whole = Sketch::default();
        let mut later = Sketch::default();
        // Some 100 µs, and one in fifty takes 10 ms.
        for count in 0..2000_i64 {
            let value = if count % 50 == 7 {
                10_000_000
            } else {
                90_000 + count * 7919 % 20_000
            };
            if count < 1000 {
                whole.add(value);
            } else {
                later.add(value);
            }
        }
        whole.merge(&later);
        let median = whole.quantile(0.5).unwrap();
        assert!((80_000..125_000).contains(&median), "{median}");
        let tail = whole.quantile(0.99).unwrap();
        assert!((5_000_000..11_000_000).contains(&tail), "{tail}");
    }

    #[test]
    fn a_sketch_stays_ordered_whatever_it_is_given() {
        let mut sketch = Sketch::default();
        let mut value = 1_i64;
        for _ in 0..10_000 {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            sketch.add(value >> (value & 63));
            let other = sketch;
            if value & 1024 == 0 {
                sketch.merge(&other);
            }
            assert!(sketch.pairs().is_sorted_by_key(|pair| pair.bucket));
        }
    }
}
