//! A small seeded generator: the same seed tells the same story on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a few shifts a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The story of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[must_use]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 if that is 0.
    #[must_use]
    pub const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    /// True in `percent` of a hundred cases.
    #[must_use]
    pub const fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Spreads a number's bits over all of it.
#[must_use]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Byte `position` of the endless stream called `name`: what a peer sends, and what the other one
/// must get, without anybody keeping it.
#[must_use]
pub const fn stream_byte(name: u64, position: u64) -> u8 {
    (mix(name ^ (position >> 3)) >> ((position & 7) * 8)) as u8
}
