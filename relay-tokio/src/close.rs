//! Closing a TCP stream the way an outcome says.

use std::io;

use relay_core::Close;
use tokio::net::TcpStream;

/// Makes dropping `stream` what `close` says: for [`Close::Reset`] the peer then sees a reset
/// (socket(7), `SO_LINGER` of zero) rather than an end of file, and cannot take what it got for the
/// whole. Otherwise nothing is to be done.
///
/// Bytes that the kernel has not delivered by the time of the drop are lost with a reset. Whoever
/// wants them delivered keeps the stream for a while first; [`Lingering`] says for how long.
///
/// # Errors
/// As setsockopt(2).
///
/// [`Lingering`]: relay_core::admission::Lingering
pub fn prepare_close(stream: &TcpStream, close: Close) -> io::Result<()> {
    match close {
        Close::Orderly | Close::Dead => Ok(()),
        Close::Reset => stream.set_zero_linger(),
    }
}
