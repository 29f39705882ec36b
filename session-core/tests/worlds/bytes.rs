//! Choices that bytes make: a fuzzer's, a committed file's, or random ones. Every step takes as many bytes, so that one that is left out changes
//! no other, and the end of the bytes is the end of the schedule.

/// Steps of one schedule: more bytes than they need are not looked at.
pub const MAX_STEPS: usize = 512;

/// The choices of one step. What is chosen beyond its bytes is the first of its kind.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// One for each `length` bytes; what is left over at the end is none.
    pub fn of(bytes: &'a [u8], length: usize) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(length).take(MAX_STEPS).map(Self)
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `count`, which is 256 at most.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// A number from `least` to below `most`, of two bytes.
    pub fn number(&mut self, least: u64, most: u64) -> u64 {
        let number = u64::from(self.byte()) << 8 | u64::from(self.byte());
        least + number % (most - least)
    }

    /// Something that happens `times` out of 256.
    pub fn happens(&mut self, times: u8) -> bool {
        // Not for the byte that stands where there is none.
        u16::from(self.byte()) + u16::from(times) > 255
    }

    /// Which of several, each as often as its weight says. The weights' sum is 256 at most.
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (at, weight) in weights.iter().enumerate() {
            if left < *weight {
                return at;
            }
            left -= weight;
        }
        0
    }
}
