//! TLS on one connection, as a client, a step at a time and with a deadline.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use relay_core::codec::{Codec, Frame, Opened};
use relay_tls::{SessionInfo, TlsCodec};
use socket2::Socket;

use super::left;

/// A session whose peer is authenticated. Whether we are, it has not said: in TLS 1.3 that comes behind
/// the handshake.
pub(super) struct Secured {
    stream: Socket,
    codec: TlsCodec,
    info: SessionInfo,
    wire: Vec<u8>,
}

/// Why there is none.
pub(super) struct Broken {
    pub(super) codec: Box<TlsCodec>,
    pub(super) words: String,
    pub(super) timed_out: bool,
}

/// What came back when we had sent what we had, and ended.
pub(super) enum Answer {
    /// The peer's own end, in order: it has read everything.
    Taken { bytes: usize, took: Duration },
    /// The same, but there was nothing to read.
    Unmeasured,
    /// Nothing in time.
    Silent,
    /// The connection's end or reset.
    Dropped,
}

/// Shakes hands.
pub(super) fn shake(stream: Socket, mut codec: TlsCodec, deadline: Instant) -> Result<Secured, Broken> {
    let mut wire = Vec::new();
    let shaken = loop {
        if let Err(error) = flush(&stream, &mut codec, deadline) {
            break Err(error);
        }
        if codec.is_secured() {
            break Ok(());
        }
        match step(&stream, &mut codec, &mut wire, deadline) {
            Ok(Heard::More | Heard::Nothing) => {}
            Ok(Heard::Closed) => break Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) => break Err(error),
        }
    };
    match (shaken, codec.info().cloned()) {
        (Ok(()), Some(info)) => Ok(Secured { stream, codec, info, wire }),
        (Ok(()), None) => Err(broken(&stream, codec, &io::ErrorKind::InvalidData.into(), deadline)),
        (Err(error), _) => Err(broken(&stream, codec, &error, deadline)),
    }
}

impl Secured {
    pub(super) fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Sends padding and our end, and waits for the peer's.
    pub(super) fn measure(mut self, deadline: Instant) -> Result<Answer, Broken> {
        let mut padding = Vec::new();
        for _ in 0..TlsCodec::PADDING_MAX {
            padding.extend(self.codec.padding().unwrap_or_default());
        }
        self.codec.close();
        let since = Instant::now();
        let sent = send(&self.stream, &padding, deadline)
            .and_then(|()| flush(&self.stream, &mut self.codec, deadline))
            .and_then(|()| self.stream.shutdown(Shutdown::Write));
        // What it says about us comes before, and explains, any failure to send.
        let heard = loop {
            match step(&self.stream, &mut self.codec, &mut self.wire, deadline) {
                Ok(Heard::More | Heard::Nothing) => {}
                Ok(Heard::Closed) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let took = since.elapsed();
        match heard {
            Ok(()) if padding.is_empty() => Ok(Answer::Unmeasured),
            Ok(()) => Ok(Answer::Taken { bytes: padding.len(), took }),
            Err(error) if self.codec.cause().is_some() => {
                Err(broken(&self.stream, self.codec, &error, deadline))
            }
            Err(error) if sent.is_ok() && is_timeout(&error) => Ok(Answer::Silent),
            Err(_) => Ok(Answer::Dropped),
        }
    }
}

enum Heard {
    /// A record.
    More,
    /// Part of one.
    Nothing,
    /// The peer's end, in order.
    Closed,
}

/// Takes a record apart, or reads more.
fn step(stream: &Socket, codec: &mut TlsCodec, wire: &mut Vec<u8>, deadline: Instant) -> io::Result<Heard> {
    if let Frame::Whole { wire: length, .. } = codec.frame(wire).map_err(io::Error::other)?
        && length > 0
    {
        let mut record: Vec<u8> = wire.drain(..length).collect();
        return match codec.open(&mut record).map_err(io::Error::other)? {
            Opened::Closed => Ok(Heard::Closed),
            // a backend that speaks first
            Opened::Data(_) | Opened::Control => Ok(Heard::More),
        };
    }
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut buffer = [0; 16 << 10];
    match (&*stream).read(&mut buffer) {
        Ok(0) => {
            codec.transport_eof().map_err(io::Error::other)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        Ok(length) => {
            wire.extend_from_slice(&buffer[..length]);
            Ok(Heard::Nothing)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::Nothing),
        Err(error) => Err(error),
    }
}

fn flush(stream: &Socket, codec: &mut TlsCodec, deadline: Instant) -> io::Result<()> {
    let mut control = vec![0; codec.control_pending()];
    let length = codec.take_control(&mut control);
    send(stream, &control[..length], deadline)
}

fn send(mut stream: &Socket, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(bytes)
}

/// The end of a session that failed: the peer is told why, if it was we who refused.
fn broken(stream: &Socket, mut codec: TlsCodec, error: &io::Error, deadline: Instant) -> Broken {
    let timed_out = is_timeout(error);
    if timed_out && codec.error_text().is_none() {
        return Broken {
            codec: Box::new(codec),
            words: "the peer took the connection, but did not complete the TLS handshake in time".to_owned(),
            timed_out,
        };
    }
    let _ = flush(stream, &mut codec, deadline);
    let words = codec.error_text().map_or_else(|| format!("TLS failed: {error}"), str::to_owned);
    Broken { codec: Box::new(codec), words, timed_out }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
