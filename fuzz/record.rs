//! What the `pair` target reads its packets from: ten bytes each, which choose from these. Its
//! own file, so that `cargo xtask fuzz` writes seeds in the same terms.

/// Bytes that a packet is made of: the step in time, the ends, the first two bytes of the header,
/// a choice for each of the header's four times, and the first two of the reference id.
pub(crate) const RECORD: usize = 10;

/// Times that a packet may carry: unknown, ordinary ones, both ends of the era. The lower three bits
/// of a choice say which, the upper five how many sixteenths of a second later.
pub(crate) const TIMES: [u64; 8] = [
    0,
    1,
    2,
    0x8000_0000_0000_0000,
    0xe8fe_6f80_0000_0000,
    0xe8fe_6f80_8000_0000,
    0xe8fe_6f81_0000_0000,
    u64::MAX,
];

/// How far time goes on, in nanoseconds: within the timeout, about it, far, and back.
pub(crate) const STEPS: [i64; 16] = [
    0,
    0,
    1,
    1_000,
    1_000_000,
    500_000_000,
    999_999_999,
    1_999_999_999,
    2_000_000_000,
    2_000_000_001,
    64_000_000_000,
    2_200_000_000_000,
    -1,
    -1_000_000_000,
    -61_000_000_000,
    i64::MAX,
];

/// The time that a choice stands for.
pub(crate) const fn time(choice: u8) -> u64 {
    TIMES[(choice & 7) as usize].wrapping_add(((choice >> 3) as u64) << 28)
}
