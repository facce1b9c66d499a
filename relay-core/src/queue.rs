//! Bytes in one piece: filled at the back, taken at the front, in a buffer on loan.

use alloc::boxed::Box;
use core::ops::Range;

use crate::pool::{LARGEST, Pool};

/// A linear queue. What it holds is always contiguous, so one system call can move all of it and a
/// record in it can be opened or sealed where it lies.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    buffer: Box<[u8]>,
    head: usize,
    tail: usize,
}

impl Queue {
    pub(crate) const fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Bytes of the buffer it has on loan, filled or not.
    pub(crate) fn lent(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Where the next byte will come to lie.
    pub(crate) const fn tail(&self) -> usize {
        self.tail
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.buffer[self.head..self.tail]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.head..self.tail]
    }

    /// The room behind what is filled; [`make_room`](Self::make_room) sees to its size.
    pub(crate) fn free_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.tail..]
    }

    pub(crate) const fn room(&self) -> usize {
        self.buffer.len() - self.tail
    }

    /// The room that [`make_room`](Self::make_room) can make cheaply, without going beyond the
    /// largest buffer.
    pub(crate) fn possible_room(&self) -> usize {
        if self.buffer.len() < LARGEST {
            LARGEST - self.len()
        } else if self.may_compact() {
            self.buffer.len() - self.len()
        } else {
            self.room()
        }
    }

    /// Says that `count` bytes of the free room are filled now.
    pub(crate) fn fill(&mut self, count: usize) {
        self.tail += count;
        debug_assert!(self.tail <= self.buffer.len());
    }

    /// Takes back the last `count` bytes filled; they stay where they are.
    pub(crate) fn unfill(&mut self, count: usize) {
        self.tail -= count;
        debug_assert!(self.head <= self.tail);
    }

    pub(crate) fn take(&mut self, count: usize) {
        self.head += count;
        debug_assert!(self.head <= self.tail);
        if self.is_empty() {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Moves the bytes from `at` to `end`, counted in the buffer, back by `count`. The room must be
    /// there.
    pub(crate) fn insert_gap(&mut self, at: usize, end: usize, count: usize) {
        self.buffer.copy_within(at..end, at + count);
    }

    pub(crate) fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.buffer[range]
    }

    /// Moving the bytes to the front costs no more than they did.
    const fn may_compact(&self) -> bool {
        self.head > 0 && self.len() <= self.head
    }

    /// Makes at least `count` bytes of room: at the front, or in a larger buffer.
    pub(crate) fn make_room(&mut self, count: usize, pool: &mut Pool) {
        if self.room() >= count {
            return;
        }
        if self.may_compact() && self.buffer.len() - self.len() >= count {
            self.buffer.copy_within(self.head..self.tail, 0);
        } else {
            // Larger even if the same size would do: else a byte taken and a byte put would copy it all.
            let larger = (self.buffer.len() + 1).min(LARGEST);
            let mut larger = pool.take(larger.max(self.len() + count));
            larger[..self.len()].copy_from_slice(self.filled());
            let former = core::mem::replace(&mut self.buffer, larger);
            if !former.is_empty() {
                pool.give(former);
            }
        }
        (self.head, self.tail) = (0, self.len());
    }

    pub(crate) const fn clear(&mut self) {
        (self.head, self.tail) = (0, 0);
    }

    /// Hands the buffer back if there is nothing in it.
    pub(crate) fn release_if_empty(&mut self, pool: &mut Pool) {
        if self.is_empty() && !self.buffer.is_empty() {
            pool.give(core::mem::take(&mut self.buffer));
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(queue: &mut Queue, bytes: &[u8], pool: &mut Pool) {
        queue.make_room(bytes.len(), pool);
        queue.free_mut()[..bytes.len()].copy_from_slice(bytes);
        queue.fill(bytes.len());
    }

    #[test]
    fn keeps_order_through_growth_and_compaction() {
        let (mut queue, mut pool) = (Queue::default(), Pool::default());
        let (mut sent, mut seen) = (0_u32, 0_u32);
        for round in 0..2000_u32 {
            for _ in 0..round % 7 {
                put(&mut queue, &sent.to_le_bytes(), &mut pool);
                sent += 1;
            }
            while queue.len() >= 4 && (round % 5 != 0 || queue.len() > 3000) {
                let word: [u8; 4] = queue.filled()[..4].try_into().expect("four bytes");
                assert_eq!(u32::from_le_bytes(word), seen);
                seen += 1;
                queue.take(4);
            }
        }
        while !queue.is_empty() {
            queue.take(4);
            seen += 1;
        }
        assert_eq!(sent, seen);
        queue.release_if_empty(&mut pool);
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn grows_instead_of_moving_much_for_little() {
        let (mut queue, mut pool) = (Queue::default(), Pool::default());
        put(&mut queue, &[7; 4096], &mut pool);
        queue.take(1);
        queue.make_room(1, &mut pool);
        assert_eq!(queue.buffer.len(), crate::pool::SIZES[1]);
        assert_eq!(queue.len(), 4095);
    }

    #[test]
    fn room_is_what_a_larger_buffer_or_a_cheap_move_gives() {
        let (mut queue, mut pool) = (Queue::default(), Pool::default());
        assert_eq!(queue.possible_room(), LARGEST);
        put(&mut queue, &[7; 100], &mut pool);
        assert_eq!((queue.possible_room(), queue.room()), (LARGEST - 100, (4 << 10) - 100));
        queue.make_room(LARGEST - 100, &mut pool);
        queue.fill(LARGEST - 200);
        assert_eq!(queue.possible_room(), 100, "of the largest, at its front");
        queue.take(LARGEST / 2 - 51);
        assert_eq!(queue.possible_room(), 100, "there is still more to move than to gain");
        queue.take(1);
        assert_eq!(queue.possible_room(), LARGEST / 2 + 50);
        queue.make_room(LARGEST / 2 + 50, &mut pool);
        assert_eq!((queue.room(), pool.lent()), (LARGEST / 2 + 50, LARGEST), "by a move");
    }
}
