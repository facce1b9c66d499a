//! Bytes of a codec's own, waiting to be sent.

/// A queue of bytes that gives its memory back once it is empty.
#[derive(Default)]
pub(crate) struct Control {
    bytes: Vec<u8>,
    taken: usize,
}

impl Control {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Room for exactly `length` more bytes, zeroed, for the caller to fill.
    pub(crate) fn extend(&mut self, length: usize) -> &mut [u8] {
        let from = self.bytes.len();
        self.bytes.resize(from + length, 0);
        &mut self.bytes[from..]
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Moves as much as fits to the front of `out`.
    pub(crate) fn take(&mut self, out: &mut [u8]) -> usize {
        let count = self.len().min(out.len());
        out[..count].copy_from_slice(&self.bytes[self.taken..self.taken + count]);
        self.taken += count;
        if self.is_empty() {
            // A handshake's flight is kilobytes, what comes later a few bytes.
            *self = Self::default();
        }
        count
    }
}
