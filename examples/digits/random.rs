//! Numbers that look random and are the same in every run: SplitMix64 (Steele, Lea and Flood, 2014).

#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`; `end` is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // So uneven that nobody notices, as long as `end` is far below 2^64.
        (self.next() % end as u64) as usize
    }

    /// From -1 to 1.
    pub(crate) fn signed_unit(&mut self) -> f32 {
        // 24 bits are what an f32 holds.
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
