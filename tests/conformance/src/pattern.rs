//! Bytes that are at their place nowhere else: made from a seed, and compared as they come.

use std::io;
use std::thread;

use crate::peer::Peer;

/// Bytes made, written or compared at once.
const BLOCK: usize = 64 << 10;

/// An endless sequence of bytes: xorshift64*, by its seed.
#[derive(Debug)]
pub struct Pattern {
    state: u64,
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    /// From its beginning.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(2).wrapping_add(1), block: vec![0; BLOCK], at: BLOCK }
    }

    /// The next bytes, at least one and `most` at most.
    pub fn some(&mut self, most: usize) -> &[u8] {
        if self.at == BLOCK {
            self.make();
        }
        let count = most.min(BLOCK - self.at);
        self.at += count;
        &self.block[self.at - count..self.at]
    }

    fn make(&mut self) {
        let mut state = self.state;
        for word in self.block.chunks_exact_mut(8) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            word.copy_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        (self.state, self.at) = (state, 0);
    }

    /// Demands that `bytes` are the next ones; `before` is how many came before, for the message.
    ///
    /// # Panics
    /// If they are not.
    pub fn demand(&mut self, mut bytes: &[u8], before: usize) {
        let total = bytes.len();
        while !bytes.is_empty() {
            let next = self.some(bytes.len());
            let (now, later) = bytes.split_at(next.len());
            if now != next {
                let wrong = now.iter().zip(next).take_while(|(a, b)| a == b).count();
                panic!("wrong byte at {}", before + total - bytes.len() + wrong);
            }
            bytes = later;
        }
    }
}

/// Sends `len` bytes of a pattern.
///
/// # Errors
/// The connection's.
pub fn send(to: &Peer, seed: u64, len: usize) -> io::Result<()> {
    send_in_pieces(to, seed, len, BLOCK)
}

/// The same with no more than `piece` bytes in a write.
///
/// # Errors
/// The connection's.
pub fn send_in_pieces(to: &Peer, seed: u64, len: usize, piece: usize) -> io::Result<()> {
    let (mut pattern, mut left) = (Pattern::new(seed), len);
    while left > 0 {
        let bytes = pattern.some(left.min(piece));
        to.write_all(bytes)?;
        left -= bytes.len();
    }
    Ok(())
}

/// Sends `len` bytes of a pattern and the end.
///
/// # Panics
/// If they are not taken.
pub fn send_all(to: &Peer, seed: u64, len: usize) {
    send(to, seed, len).expect("everything is taken");
    to.finish().expect("the end is taken");
}

/// What was received.
#[derive(Debug)]
pub struct Received {
    /// So many bytes, all of them right.
    pub count: usize,
    /// `Ok` if then an orderly end came (a FIN; in TLS, a close_notify), otherwise what came instead.
    pub end: io::Result<()>,
}

/// Receives to the end, whatever it is, and demands that what came is a prefix of the pattern.
///
/// # Panics
/// If it is not.
pub fn receive(from: &Peer, seed: u64) -> Received {
    receive_with(from, seed, BLOCK, |_| ())
}

/// The same, asking for `piece` bytes at once and telling `each` how many there are so far.
///
/// # Panics
/// As [`receive`].
pub fn receive_with(from: &Peer, seed: u64, piece: usize, mut each: impl FnMut(usize)) -> Received {
    let (mut pattern, mut buffer, mut count) = (Pattern::new(seed), vec![0; piece], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Received { count, end: Ok(()) },
            Ok(some) => {
                pattern.demand(&buffer[..some], count);
                count += some;
                each(count);
            }
            Err(error) => return Received { count, end: Err(error) },
        }
    }
}

/// Receives exactly `len` bytes of the pattern and then an orderly end.
///
/// # Panics
/// If anything else comes.
pub fn receive_all(from: &Peer, seed: u64, len: usize) {
    let Received { count, end } = receive(from, seed);
    assert_eq!(count, len, "truncated, or too much; then {end:?}");
    end.expect("an orderly end");
}

/// Sends `len` bytes of a pattern and the end from one peer, and receives them at the other.
///
/// # Panics
/// If anything else comes.
pub fn transfer(from: &Peer, to: &Peer, seed: u64, len: usize) {
    thread::scope(|scope| {
        scope.spawn(|| send_all(from, seed, len));
        receive_all(to, seed, len);
    });
}

/// Receives exactly `message`.
///
/// # Panics
/// If anything else comes.
pub fn expect(from: &Peer, message: &[u8]) {
    let mut got = vec![0; message.len()];
    let mut have = 0;
    while have < got.len() {
        let count = from.read(&mut got[have..]).expect("a message");
        assert!(count > 0, "an end after {have} of {} bytes", message.len());
        have += count;
    }
    assert!(got == message, "another message: {:?}", String::from_utf8_lossy(&got[..have.min(80)]));
}
