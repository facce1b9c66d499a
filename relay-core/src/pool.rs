//! Buffers that are lent while bytes move and handed back when they have moved on.
//!
//! One pool per loop or thread. An idle connection owns no buffer at all; a busy one gets larger
//! ones as its reads fill what it has.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// The sizes lent: a message, one TLS record, four, sixteen; each with some room to spare for what
/// a codec puts between records.
pub const SIZES: [usize; 4] = [4 << 10, 20 << 10, 68 << 10, 264 << 10];

/// The largest buffer lent.
pub const LARGEST: usize = SIZES[3];

/// Buffers waiting to be lent again.
#[derive(Debug)]
pub struct Pool {
    free: [Vec<Box<[u8]>>; SIZES.len()],
    /// Bytes kept for reuse at most; what comes back beyond goes to the allocator.
    keep: usize,
    kept: usize,
    lent: usize,
}

impl Pool {
    /// An empty pool that keeps at most `keep` bytes for reuse.
    #[must_use]
    pub const fn new(keep: usize) -> Self {
        Self { free: [Vec::new(), Vec::new(), Vec::new(), Vec::new()], keep, kept: 0, lent: 0 }
    }

    /// A buffer of at least `at_least` bytes; its contents are whatever was in it.
    pub fn take(&mut self, at_least: usize) -> Box<[u8]> {
        let class = SIZES.iter().position(|size| *size >= at_least);
        let reused = class.and_then(|class| self.free[class].pop());
        if let Some(buffer) = &reused {
            self.kept -= buffer.len();
        }
        let buffer = reused
            .unwrap_or_else(|| vec![0; class.map_or(at_least, |class| SIZES[class])].into_boxed_slice());
        self.lent += buffer.len();
        buffer
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Box<[u8]>) {
        self.lent = self.lent.saturating_sub(buffer.len());
        let class = SIZES.iter().position(|size| *size == buffer.len());
        if let Some(class) = class
            && self.kept + buffer.len() <= self.keep
        {
            self.kept += buffer.len();
            self.free[class].push(buffer);
        }
    }

    /// Bytes lent at present.
    #[must_use]
    pub const fn lent(&self) -> usize {
        self.lent
    }

    /// Bytes kept for reuse at present.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }
}

impl Default for Pool {
    /// Keeps 8 MiB: some thirty busy directions.
    fn default() -> Self {
        Self::new(8 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_the_smallest_that_fits_and_takes_it_back() {
        let mut pool = Pool::default();
        let small = pool.take(1);
        assert_eq!(small.len(), SIZES[0]);
        let record = pool.take(SIZES[0] + 1);
        assert_eq!(record.len(), SIZES[1]);
        assert_eq!(pool.lent(), SIZES[0] + SIZES[1]);
        pool.give(small);
        pool.give(record);
        assert_eq!((pool.lent(), pool.kept()), (0, SIZES[0] + SIZES[1]));
        assert_eq!(pool.take(SIZES[0]).len(), SIZES[0]);
        assert_eq!(pool.kept(), SIZES[1]);
    }

    #[test]
    fn keeps_no_more_than_it_may() {
        let mut pool = Pool::new(SIZES[0]);
        let (first, second, odd) = (pool.take(1), pool.take(1), pool.take(LARGEST + 1));
        assert_eq!(odd.len(), LARGEST + 1);
        for buffer in [first, second, odd] {
            pool.give(buffer);
        }
        assert_eq!((pool.lent(), pool.kept()), (0, SIZES[0]));
    }
}
