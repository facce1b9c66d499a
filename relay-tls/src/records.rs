//! The record protocol after the handshake (RFC 8446 section 5), on bytes where they lie.
//!
//! Neither sealing nor opening a record allocates or copies. The keys come from rustls, which also
//! derives the next ones when either side changes its own.
//!
//! Whatever a peer does that is not understood here ends the session, with an alert for it and a
//! sentence for us.

use core::mem;
use core::ops::Range;

use relay_core::codec::Sealed;
use relay_core::error::Failure;

use crate::aead::{Key, NONCE};
use crate::control::Control;
use crate::frame::{HEADER, PAYLOAD_MAX, TAG, TRAILER, Violation, alert, content, level};
use crate::kernel::Kernel;
use crate::post_handshake::{Handshake, Post};

/// Records in a row that carry no data. Key updates, tickets and empty records are all allowed, but
/// each costs us more than the peer. BoringSSL and rustls allow 32 of a kind.
pub(crate) const FRUITLESS_MAX: u8 = 32;

/// The keys of one direction, and the number of its next record.
pub(crate) struct Protection {
    pub(crate) key: Key,
    pub(crate) iv: [u8; NONCE],
    pub(crate) sequence: u64,
}

impl Protection {
    /// RFC 8446 section 5.3: the record's number, padded on the left, xor the IV. `None` if there
    /// are no more numbers.
    fn next_nonce(&mut self) -> Option<[u8; NONCE]> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1)?;
        Some(nonce)
    }

    /// Makes a record of `record`, whose content lies between header and trailer. `None` if the key
    /// is used up.
    fn seal(&mut self, record: &mut [u8], kind: u8) -> Option<()> {
        let length = record.len() - HEADER;
        let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
        // Section 5.2: the outer type and version never change, and the header is authenticated.
        let header = [content::APPLICATION_DATA, 3, 3, high, low];
        let nonce = self.next_nonce()?;
        record[..HEADER].copy_from_slice(&header);
        let (inner, tag) = record[HEADER..].split_at_mut(length - TAG);
        inner[length - TRAILER] = kind;
        tag.copy_from_slice(&self.key.seal(nonce, header, inner)?);
        Some(())
    }

    /// Decrypts a record; the range of its content and padding, type included.
    fn open(&mut self, record: &mut [u8]) -> Option<Range<usize>> {
        let (header, body) = record.split_first_chunk_mut::<HEADER>()?;
        let nonce = self.next_nonce()?;
        let Some(length) = self.key.open(nonce, *header, body) else {
            // It is none, and nothing comes behind it.
            self.sequence -= 1;
            return None;
        };
        Some(HEADER..HEADER + length)
    }
}

/// What a record turned out to be.
#[derive(Debug)]
pub(crate) enum Received {
    /// Application data, at this place within the record.
    Data(Range<usize>),
    /// Nothing for the flow.
    Nothing,
    /// The peer's close_notify.
    Closed,
}

/// Why a session ends in here.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By the peer's alert.
    Alert(u8),
    /// By what the peer did.
    Violation(Violation),
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// What a session's record layer has done so far: after the handshake, so without its records.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct RecordCounts {
    /// Records sealed, of whatever kind.
    pub sealed: u64,
    /// Records opened.
    pub opened: u64,
    /// How often we changed our keys (RFC 8446 section 4.6.3).
    pub keys_sent: u64,
    /// How often the peer changed its own.
    pub keys_received: u64,
}

pub(crate) struct Records {
    send: Protection,
    receive: Protection,
    /// Without the records under the present keys.
    before: RecordCounts,
    kernel: Kernel,
    handshake: Handshake,
    /// The peer asked us to change our keys.
    answer_due: bool,
    fruitless: u8,
    records_per_key: u64,
}

impl Records {
    pub(crate) fn new(send: Protection, receive: Protection, kernel: Kernel, records_per_key: u64) -> Self {
        let handshake = Handshake::new(kernel.side());
        let before = RecordCounts::default();
        Self { send, receive, before, kernel, handshake, answer_due: false, fruitless: 0, records_per_key }
    }

    /// Seals the payload at `slot[HEADER..]`. A change of keys comes first if it is time for one,
    /// or if the peer asked for it: "prior to sending its next application data record" (section
    /// 4.6.3). A silent side so answers all that was asked by a single message.
    ///
    /// # Errors
    /// [`Failure::KeyExhausted`].
    pub(crate) fn seal(
        &mut self,
        slot: &mut [u8],
        payload: usize,
        control: &mut Control,
    ) -> Result<Sealed, Failure> {
        if self.answer_due || self.send.sequence >= self.records_per_key {
            self.change_keys(control)?;
            return Ok(Sealed::ControlFirst);
        }
        let length = HEADER + payload + TRAILER;
        self.send.seal(&mut slot[..length], content::APPLICATION_DATA).ok_or(Failure::KeyExhausted)?;
        Ok(Sealed::Record(length))
    }

    /// A record of full size that carries no data, only padding (section 5.4). `None` if it is time for
    /// other keys.
    pub(crate) fn padding(&mut self) -> Option<Vec<u8>> {
        if self.answer_due || self.send.sequence >= self.records_per_key {
            return None;
        }
        let mut record = vec![0; HEADER + PAYLOAD_MAX + TRAILER];
        record[HEADER] = content::APPLICATION_DATA;
        // the type stands in front of the padding, which is zeros to the end
        self.send.seal(&mut record, 0)?;
        Some(record)
    }

    /// Announces new keys of ours under the old ones, and takes them into use. The peer is not asked
    /// to change its own: it counts its own records.
    fn change_keys(&mut self, control: &mut Control) -> Result<(), Failure> {
        const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [24, 0, 0, 1, 0];
        self.send_small(content::HANDSHAKE, &KEY_UPDATE_NOT_REQUESTED, control)
            .ok_or(Failure::KeyExhausted)?;
        let next = self.kernel.next_sending().ok_or(Failure::KeyExhausted)?;
        self.before.sealed += mem::replace(&mut self.send, next).sequence;
        self.before.keys_sent += 1;
        self.answer_due = false;
        Ok(())
    }

    /// So far. A record's number within its keys counts it already.
    pub(crate) const fn counts(&self) -> RecordCounts {
        RecordCounts {
            sealed: self.before.sealed + self.send.sequence,
            opened: self.before.opened + self.receive.sequence,
            ..self.before
        }
    }

    /// Queues a record of our own: `bytes` are a key update or an alert.
    fn send_small<const N: usize>(&mut self, kind: u8, bytes: &[u8; N], control: &mut Control) -> Option<()> {
        let mut record = [0; 64];
        let record = record.get_mut(..HEADER + N + TRAILER)?;
        record[HEADER..HEADER + N].copy_from_slice(bytes);
        // What could not be sealed is not queued.
        self.send.seal(record, kind)?;
        control.push(record);
        Some(())
    }

    pub(crate) fn close(&mut self, control: &mut Control) {
        // With no number left for it the peer sees a truncation, which it is.
        let _ = self.send_small(content::ALERT, &[level::WARNING, alert::CLOSE_NOTIFY], control);
    }

    /// Tells the peer why the session ends.
    pub(crate) fn alert(&mut self, description: u8, control: &mut Control) {
        let _ = self.send_small(content::ALERT, &[level::FATAL, description], control);
    }

    /// Opens a record whose header was found in order.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Received, Ended> {
        let Some(inner) = self.receive.open(record) else {
            let text =
                "a record of the peer's does not decrypt: it was changed on its way, or has the wrong key";
            return Err(Violation::new(alert::BAD_RECORD_MAC, text).into());
        };
        // Section 5.4: content, type and padding together.
        if inner.len() > PAYLOAD_MAX + 1 {
            return Err(
                Violation::new(alert::RECORD_OVERFLOW, "peer sent a record that holds too much").into()
            );
        }
        let plain = &record[inner.clone()];
        let Some(last) = plain.iter().rposition(|&byte| byte != 0) else {
            let text = "peer sent a record of nothing but padding";
            return Err(Violation::new(alert::UNEXPECTED_MESSAGE, text).into());
        };
        let kind = plain[last];
        let place = inner.start..inner.start + last;
        if kind == content::APPLICATION_DATA && !place.is_empty() {
            self.handshake.interrupted()?;
            self.fruitless = 0;
            return Ok(Received::Data(place));
        }
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_MAX {
            let text = "peer sent too many records without data";
            return Err(Violation::new(alert::UNEXPECTED_MESSAGE, text).into());
        }
        self.control(kind, &record[place])
    }

    /// Everything but data.
    fn control(&mut self, kind: u8, bytes: &[u8]) -> Result<Received, Ended> {
        if kind != content::HANDSHAKE {
            self.handshake.interrupted()?;
        }
        match kind {
            content::HANDSHAKE => match self.handshake.take(bytes)? {
                Post::Nothing => Ok(Received::Nothing),
                Post::KeyUpdate { requested } => {
                    let Some(next) = self.kernel.next_receiving() else {
                        let text = "the peer's next key could not be derived";
                        return Err(Violation::new(alert::INTERNAL_ERROR, text).into());
                    };
                    self.before.opened += mem::replace(&mut self.receive, next).sequence;
                    self.before.keys_received += 1;
                    self.answer_due |= requested;
                    Ok(Received::Nothing)
                }
            },
            content::ALERT => match *bytes {
                // The level means nothing any more (section 6).
                [_, alert::CLOSE_NOTIFY] => Ok(Received::Closed),
                // Section 6.1: the end of a handshake that was not wanted; close_notify follows.
                [_, alert::USER_CANCELED] => Ok(Received::Nothing),
                [_, code] => Err(Ended::Alert(code)),
                _ => Err(Violation::new(alert::DECODE_ERROR, "peer sent a malformed alert").into()),
            },
            content::APPLICATION_DATA => Ok(Received::Nothing),
            _ => {
                let text = format!("peer sent a record of a type that has no place here ({kind})");
                Err(Violation::new(alert::UNEXPECTED_MESSAGE, text).into())
            }
        }
    }

    /// A record of any kind with so much padding, as a peer could make it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forge(&mut self, kind: u8, bytes: &[u8], padding: usize) -> Vec<u8> {
        let mut record = vec![0; HEADER];
        record.extend_from_slice(bytes);
        record.push(kind);
        record.resize(record.len() + padding + TAG, 0);
        let last = if padding == 0 { kind } else { 0 };
        self.send.seal(&mut record, last).map(|()| record).unwrap_or_default()
    }

    /// A key update, as a peer could make it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forge_key_update(&mut self, requested: bool) -> Vec<u8> {
        let record = self.forge(content::HANDSHAKE, &[24, 0, 0, 1, u8::from(requested)], 0);
        if let Some(next) = self.kernel.next_sending() {
            self.send = next;
        }
        record
    }
}
