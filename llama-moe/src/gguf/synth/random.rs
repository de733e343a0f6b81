//! Random numbers that are the same on every machine, at several gigabytes per second.
//!
//! SplitMix64, seeded by a number and a name: a tensor's weights do not depend on what
//! stands before it in the file. Nobody's secrets hang on them, so twenty lines do instead
//! of a dependency.

pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name, beginning with the mixed seed.
        let start = Self(seed).next() ^ 0xcbf2_9ce4_8422_2325;
        Self(name.bytes().fold(start, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform around zero, with this standard deviation.
    pub(super) fn noise(&mut self, deviation: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit * deviation * 3f32.sqrt()
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    /// The numbers below `n` in random order.
    pub(super) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            // The remainder's bias is far below what anyone could see here.
            order.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
        order
    }
}
