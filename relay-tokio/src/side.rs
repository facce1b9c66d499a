//! One of the two streams, and what its bytes look like on the wire.

use relay_tls::LegCodec;
use relay_tls::TlsCodec;

/// A stream with its framing. Plaintext is asked for by name, as everywhere in relay.
///
/// By value or by `&mut`: with the latter the caller still has the stream when the relaying is over
/// or was cancelled.
#[derive(Debug)]
pub struct Side<S> {
    pub(crate) stream: S,
    pub(crate) codec: LegCodec,
}

impl<S> Side<S> {
    /// Bytes as they are.
    #[must_use]
    pub const fn plain(stream: S) -> Self {
        Self { stream, codec: LegCodec::Plain }
    }

    /// TLS, as the server or as the client: `codec` comes fresh from
    /// [`ServerTls::codec`](relay_tls::ServerTls::codec) or
    /// [`ClientTls::codec`](relay_tls::ClientTls::codec). On either side of the relay; which one
    /// accepted the connection does not matter to the framing.
    #[must_use]
    pub fn tls(stream: S, codec: TlsCodec) -> Self {
        Self { stream, codec: LegCodec::Tls(Box::new(codec)) }
    }

    /// Whether there is a handshake to complete before anything may move.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self.codec, LegCodec::Tls(_))
    }
}
