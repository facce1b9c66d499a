//! The framing of a relay's legs: none or TLS, chosen for each leg when it comes up.

use relay_core::codec::{Codec, Frame, Layout, Opened, Plain, Sealed};
use relay_core::error::Failure;

use crate::TlsCodec;

/// The framing of a leg: none or TLS, chosen when it comes up.
#[derive(Debug)]
pub enum LegCodec {
    /// Plaintext.
    Plain,
    /// TLS. In a box: most of a codec's state would otherwise be a plain leg's burden too.
    Tls(Box<TlsCodec>),
}

impl LegCodec {
    /// A leg that speaks TLS.
    #[must_use]
    pub fn tls(codec: TlsCodec) -> Self {
        Self::Tls(Box::new(codec))
    }

    /// The TLS session, if it is one.
    #[must_use]
    pub fn as_tls(&self) -> Option<&TlsCodec> {
        match self {
            Self::Plain => None,
            Self::Tls(codec) => Some(codec),
        }
    }
}

impl Codec for LegCodec {
    fn layout(&self) -> Layout {
        match self {
            Self::Plain => Plain.layout(),
            Self::Tls(codec) => codec.layout(),
        }
    }

    fn is_secured(&self) -> bool {
        match self {
            Self::Plain => Plain.is_secured(),
            Self::Tls(codec) => codec.is_secured(),
        }
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        match self {
            Self::Plain => Plain.frame(wire),
            Self::Tls(codec) => codec.frame(wire),
        }
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        match self {
            Self::Plain => Plain.open(record),
            Self::Tls(codec) => codec.open(record),
        }
    }

    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        match self {
            Self::Plain => Plain.seal(slot, payload),
            Self::Tls(codec) => codec.seal(slot, payload),
        }
    }

    fn control_pending(&self) -> usize {
        match self {
            Self::Plain => Plain.control_pending(),
            Self::Tls(codec) => codec.control_pending(),
        }
    }

    fn take_control(&mut self, out: &mut [u8]) -> usize {
        match self {
            Self::Plain => Plain.take_control(out),
            Self::Tls(codec) => codec.take_control(out),
        }
    }

    fn close(&mut self) {
        match self {
            Self::Plain => Plain.close(),
            Self::Tls(codec) => codec.close(),
        }
    }

    fn transport_eof(&mut self) -> Result<(), Failure> {
        match self {
            Self::Plain => Plain.transport_eof(),
            Self::Tls(codec) => codec.transport_eof(),
        }
    }
}
