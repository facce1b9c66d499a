//! Records as TLS 1.3 has them (RFC 8446 section 5.2), sealed and opened where they lie.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

const HEADER: usize = 5;
const TAG: usize = 16;
/// Plaintext of a full record.
pub const PAYLOAD: usize = 16 << 10;
/// The same on the wire: header, payload, type, tag.
pub const RECORD: usize = HEADER + PAYLOAD + 1 + TAG;

/// One direction's key; every thread has a reference to it.
#[derive(Debug)]
pub struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl Keys {
    /// Of AES-128-GCM; whatever they are, they cost the same.
    ///
    /// # Panics
    /// Never: the key has its length.
    #[must_use]
    pub fn new() -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key of 16 bytes");
        Self { key: LessSafeKey::new(key), iv: [9; NONCE_LEN] }
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, number: u64, record: &mut [u8]) {
        let header = header();
        record[..HEADER].copy_from_slice(&header);
        let (inner, tag) = record[HEADER..].split_at_mut(PAYLOAD + 1);
        inner[PAYLOAD] = 23;
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(number), Aad::from(header), inner);
        tag.copy_from_slice(sealed.expect("short enough").as_ref());
    }

    fn open(&self, number: u64, record: &mut [u8]) {
        let body = &mut record[HEADER..];
        let opened = self.key.open_in_place(self.nonce(number), Aad::from(header()), body);
        let plain = opened.expect("what was sealed opens");
        assert_eq!(plain[PAYLOAD], 23, "application data");
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

fn header() -> [u8; HEADER] {
    let [_, _, high, low] = ((RECORD - HEADER) as u32).to_be_bytes();
    [23, 3, 3, high, low]
}

/// Consecutive full records, owned by whoever works on them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The first record's number.
    pub first: u64,
    wire: Vec<u8>,
}

impl Batch {
    /// So many empty ones.
    #[must_use]
    pub fn new(records: usize) -> Self {
        Self { first: 0, wire: vec![0; records * RECORD] }
    }

    /// How many there are.
    #[must_use]
    pub fn records(&self) -> usize {
        self.wire.len() / RECORD
    }

    /// All of it, as it goes over the wire.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Where it comes in.
    pub fn wire_mut(&mut self) -> &mut [u8] {
        &mut self.wire
    }

    /// Where the payloads are.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.wire.chunks_exact(RECORD).map(|record| &record[HEADER..HEADER + PAYLOAD])
    }

    /// Where the payloads come in.
    pub fn payloads_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.wire.chunks_exact_mut(RECORD).map(|record| &mut record[HEADER..HEADER + PAYLOAD])
    }

    /// Seals each record.
    ///
    /// # Panics
    /// Never: records are short enough.
    pub fn seal(&mut self, keys: &Keys) {
        for (number, record) in (self.first..).zip(self.wire.chunks_exact_mut(RECORD)) {
            keys.seal(number, record);
        }
    }

    /// Opens each record.
    ///
    /// # Panics
    /// If one is not authentic.
    pub fn open(&mut self, keys: &Keys) {
        for (number, record) in (self.first..).zip(self.wire.chunks_exact_mut(RECORD)) {
            keys.open(number, record);
        }
    }
}
