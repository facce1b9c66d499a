//! Handshake messages after the handshake (RFC 8446 section 4.6), across records.
//!
//! Nothing of them is kept: a key update is one byte, and a ticket is skipped, because sessions are
//! never resumed. So there is no buffer that a peer could fill.

use crate::frame::{Violation, alert};
use crate::kernel::Side;

/// Handshake types (RFC 8446 section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The largest ticket: two vectors of up to 2^16 - 1 bytes and some fixed fields (section 4.6.1).
const TICKET_MAX: u32 = 2 * 0xffff + 16 + 0xff;

/// What came of a record's worth of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Post {
    Nothing,
    KeyUpdate { requested: bool },
}

/// Where in a message the peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// So many bytes of type and length are there.
    Header([u8; 4], usize),
    /// So many bytes of a ticket are still to come.
    Ticket(u32),
    /// The one byte of a key update is.
    KeyUpdate,
}

const BETWEEN: At = At::Header([0; 4], 0);

#[derive(Debug)]
pub(crate) struct Handshake {
    side: Side,
    at: At,
}

impl Handshake {
    pub(crate) fn new(side: Side) -> Self {
        Self { side, at: BETWEEN }
    }

    /// Another type of record came; not allowed within a message (section 5.1).
    ///
    /// # Errors
    /// If it did.
    pub(crate) fn interrupted(&self) -> Result<(), Violation> {
        if self.at == BETWEEN {
            return Ok(());
        }
        Err(Violation::new(alert::UNEXPECTED_MESSAGE, "peer interrupted a handshake message"))
    }

    /// The bytes of one record.
    ///
    /// # Errors
    /// A message that is malformed or has no place after the handshake, or something behind a key
    /// update in its record, where it would have the wrong key (section 5.1).
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<Post, Violation> {
        if bytes.is_empty() {
            return Err(Violation::new(alert::UNEXPECTED_MESSAGE, "peer sent an empty handshake record"));
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Header(header, have) => {
                    header[*have] = byte;
                    *have += 1;
                    bytes = rest;
                    if *have == header.len() {
                        self.at = begun(*header, self.side)?;
                    }
                }
                At::Ticket(missing) => {
                    let skipped = bytes.len().min(*missing as usize);
                    bytes = &bytes[skipped..];
                    *missing -= skipped as u32;
                    if *missing == 0 {
                        self.at = BETWEEN;
                    }
                }
                At::KeyUpdate => {
                    self.at = BETWEEN;
                    return key_update(byte, rest);
                }
            }
        }
        Ok(Post::Nothing)
    }
}

/// A message's type and length are known.
fn begun(header: [u8; 4], side: Side) -> Result<At, Violation> {
    let [kind, high, middle, low] = header;
    let length = u32::from_be_bytes([0, high, middle, low]);
    match (kind, side) {
        (KEY_UPDATE, _) if length == 1 => Ok(At::KeyUpdate),
        (NEW_SESSION_TICKET, Side::Client) if (1..=TICKET_MAX).contains(&length) => Ok(At::Ticket(length)),
        (KEY_UPDATE, _) | (NEW_SESSION_TICKET, Side::Client) => {
            Err(Violation::new(alert::DECODE_ERROR, "peer sent a handshake message of impossible length"))
        }
        _ => {
            let text = format!("peer sent a handshake message that has no place here (type {kind})");
            Err(Violation::new(alert::UNEXPECTED_MESSAGE, text))
        }
    }
}

fn key_update(request: u8, rest: &[u8]) -> Result<Post, Violation> {
    if !rest.is_empty() {
        let text = "peer sent something behind a key update, in the same record";
        return Err(Violation::new(alert::UNEXPECTED_MESSAGE, text));
    }
    match request {
        0 => Ok(Post::KeyUpdate { requested: false }),
        1 => Ok(Post::KeyUpdate { requested: true }),
        _ => Err(Violation::new(alert::ILLEGAL_PARAMETER, "peer sent a malformed key update")),
    }
}
