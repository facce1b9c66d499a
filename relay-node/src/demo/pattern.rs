//! Data that both ends can make by themselves, so that every byte received is compared, not hashed.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes made, and moved, at once.
const BLOCK: usize = 64 << 10;

/// An endless sequence of blocks: one of random bytes, each time combined with another random
/// word. Bytes out of place within a block differ, and so does every block from every other; and
/// making it costs little beside what is to be measured.
struct Pattern {
    seed: u64,
    base: Vec<u64>,
    index: u64,
}

/// SplitMix64's output function (Steele, Lea, Flood 2014).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl Pattern {
    fn new(seed: u64) -> Self {
        let base = (0..BLOCK as u64 / 8).map(|n| mix(seed.wrapping_add(n.wrapping_mul(GAMMA)))).collect();
        Self { seed, base, index: 0 }
    }

    fn fill(&mut self, block: &mut [u8]) {
        let word = mix(self.seed ^ mix(self.index.wrapping_mul(GAMMA)));
        for (bytes, base) in block.chunks_exact_mut(8).zip(&self.base) {
            bytes.copy_from_slice(&(base ^ word).to_le_bytes());
        }
        self.index += 1;
    }
}

/// Writes the sequence, part by part.
pub(super) struct Sender {
    pattern: Pattern,
    block: Vec<u8>,
    /// Of the block, bytes that are sent.
    sent: usize,
}

impl Sender {
    pub(super) fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), block: vec![0; BLOCK], sent: BLOCK }
    }

    /// Writes the next `count` bytes of it.
    pub(super) fn send(&mut self, out: &mut impl Write, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.sent == BLOCK {
                self.pattern.fill(&mut self.block);
                self.sent = 0;
            }
            let part = usize::try_from(count).unwrap_or(BLOCK).min(BLOCK - self.sent);
            out.write_all(&self.block[self.sent..self.sent + part])?;
            self.sent += part;
            count -= part as u64;
        }
        Ok(())
    }
}

/// Reads to the end of file, and demands exactly the first `count` bytes of the sequence. Adds what
/// is right to `verified` as it comes.
pub(super) fn receive(
    input: &mut impl Read,
    seed: u64,
    count: u64,
    verified: &AtomicU64,
) -> Result<(), String> {
    let mut pattern = Pattern::new(seed);
    let (mut expected, mut got) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut total, mut used) = (0, BLOCK);
    loop {
        let length = match input.read(&mut got) {
            Ok(0) if total == count => return Ok(()),
            Ok(0) => return Err(format!("the end came after {total} of {count} bytes")),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("after {total} of {count} bytes: {e}")),
        };
        let mut rest = &got[..length];
        while !rest.is_empty() {
            if used == BLOCK {
                pattern.fill(&mut expected);
                used = 0;
            }
            let (now, later) = rest.split_at(rest.len().min(BLOCK - used));
            if now != &expected[used..used + now.len()] {
                return Err(format!(
                    "a byte differs from what was sent, between {total} and {}",
                    total + length as u64
                ));
            }
            used += now.len();
            rest = later;
        }
        total += length as u64;
        if total > count {
            return Err(format!("{} bytes more than were sent", total - count));
        }
        verified.fetch_add(length as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 3 * BLOCK as u64 + 17;

    fn sent(seed: u64) -> Vec<u8> {
        let (mut sender, mut out) = (Sender::new(seed), Vec::new());
        for part in [1, 7, BLOCK as u64, 9] {
            sender.send(&mut out, part).expect("a vector takes all");
        }
        let rest = SIZE - out.len() as u64;
        sender.send(&mut out, rest).expect("a vector takes all");
        out
    }

    fn check(bytes: &[u8], seed: u64) -> Result<(), String> {
        let verified = AtomicU64::new(0);
        receive(&mut &*bytes, seed, SIZE, &verified)?;
        assert_eq!(verified.into_inner(), SIZE);
        Ok(())
    }

    #[test]
    fn what_is_sent_in_any_parts_is_received() {
        assert_eq!(check(&sent(1), 1), Ok(()));
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        let good = sent(1);
        let mut flipped = good.clone();
        flipped[2 * BLOCK] ^= 1;
        let mut swapped = good.clone();
        swapped.swap(9, 17);
        let mut moved = good.clone();
        moved.copy_within(BLOCK..2 * BLOCK, 0);
        for (bytes, seed, says) in [
            (&flipped[..], 1, "differs"),
            (&swapped, 1, "differs"),
            (&moved, 1, "differs"),
            (&good, 2, "differs"),
            (&good[..good.len() - 1], 1, "the end came after"),
            (&[&good[..], &good[..1]].concat(), 1, ""),
        ] {
            let error = check(bytes, seed).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
