//! How one leg's bytes are framed on the wire: not at all, or in records of a secure channel.
//!
//! The interface is made for records that are sealed and opened **where they lie**. A link
//! owns the buffers; it reads plaintext straight to where a record's payload will be, and hands
//! whole records to the codec. A codec owns keys and handshake state, never the flow's bytes.
//!
//!

use core::ops::Range;

use crate::error::Failure;

/// The room a record needs around its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes before the payload.
    pub header: usize,
    /// Bytes after the payload.
    pub trailer: usize,
    /// The largest payload of one record, of those received, too.
    pub payload_max: usize,
}

impl Layout {
    /// No framing: what is read is what is sent.
    pub const TRANSPARENT: Self = Self { header: 0, trailer: 0, payload_max: usize::MAX };

    /// Whether bytes pass as they are.
    #[must_use]
    pub const fn is_transparent(self) -> bool {
        self.header == 0 && self.trailer == 0
    }

    /// Bytes that a record of `payload` bytes takes on the wire.
    #[must_use]
    pub const fn record(self, payload: usize) -> usize {
        self.header.saturating_add(payload).saturating_add(self.trailer)
    }
}

/// What stands at the front of the bytes received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Not a whole record yet: `need` bytes in all must be there before it makes sense to ask again.
    /// Always more than were given.
    Partial {
        /// Bytes, counted from the front.
        need: usize,
    },
    /// A whole record of `wire` bytes, whose payload is at most `payload` bytes.
    Whole {
        /// Bytes on the wire.
        wire: usize,
        /// Upper bound of the plaintext in it, never more than [`Layout::payload_max`]. Zero for what is
        /// certainly no application data.
        payload: usize,
    },
}

/// What a record turned out to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Application data, at this place within the record. May be empty.
    Data(Range<usize>),
    /// A message for the codec itself: handshake, key update, ticket.
    Control,
    /// The peer's orderly end (close_notify): it sends nothing more.
    Closed,
}

/// What became of a slot given to [`Codec::seal`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// The slot's first bytes, so many, are a record now.
    Record(usize),
    /// Nothing was sealed and the slot is as it was: control bytes must go out first
    /// ([`Codec::take_control`]), then call again.
    ControlFirst,
}

/// One leg's framing, from handshake to orderly end. No I/O, no clock, no buffers of the flow.
///
/// Rules for callers, on which implementations rely:
/// - wire bytes leave in the order in which they were made: records as they were sealed, control
///   bytes after every record sealed before [`take_control`](Self::take_control) and before any
///   sealed later;
/// - after an error from any method but [`transport_eof`](Self::transport_eof) nothing but
///   `take_control` is called; a peer that only stopped sending may still be sent to.
pub trait Codec {
    /// Constant over the codec's life.
    fn layout(&self) -> Layout;

    /// Whether the handshake is complete and **the peer is authenticated**. Never goes back.
    fn is_secured(&self) -> bool;

    /// What stands at the front of `wire`, which holds bytes of the peer not yet opened.
    ///
    /// # Errors
    /// [`Failure::Protocol`] if no record can begin like this.
    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure>;

    /// Opens exactly one whole record in place.
    ///
    /// # Errors
    /// Why the session is over. An alert for the peer may then be pending as control bytes.
    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure>;

    /// Makes one record of the `payload` bytes at `slot[header..]`, in place. `slot` is at least
    /// `layout().record(payload)` long, `payload` between 1 and `payload_max`. Only once secured
    /// and before [`close`](Self::close).
    ///
    /// # Errors
    /// [`Failure::KeyExhausted`] if the key is used up and can't be renewed.
    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure>;

    /// Bytes of the codec's own that wait to be sent: handshake, key update, alert, close_notify.
    fn control_pending(&self) -> usize;

    /// Moves as many of them as fit to the front of `out`; returns how many.
    fn take_control(&mut self, out: &mut [u8]) -> usize;

    /// Queues the orderly end of our sending (close_notify) as control bytes. Once; later calls
    /// do nothing. Nothing at all for a codec without one, or before the handshake is complete.
    fn close(&mut self);

    /// The transport reached its end of file; whether that is the orderly end.
    ///
    /// # Errors
    /// [`Failure::Truncated`] if the peer had not said before that it was done.
    fn transport_eof(&mut self) -> Result<(), Failure>;
}

/// No framing: plaintext by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Plain;

impl Codec for Plain {
    fn layout(&self) -> Layout {
        Layout::TRANSPARENT
    }

    fn is_secured(&self) -> bool {
        true
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        Ok(Frame::Whole { wire: wire.len(), payload: wire.len() })
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        Ok(Opened::Data(0..record.len()))
    }

    fn seal(&mut self, _slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        Ok(Sealed::Record(payload))
    }

    fn control_pending(&self) -> usize {
        0
    }

    fn take_control(&mut self, _out: &mut [u8]) -> usize {
        0
    }

    fn close(&mut self) {}

    fn transport_eof(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
