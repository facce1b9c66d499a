//! Two streams as the pump wants them.
//!
//! Every poll is made with the waker of the session's own task, for both directions of both streams.
//! One waker for each direction would tell which of them is ready, but there are streams (TLS ones
//! among them) whose writing polls the inner stream's reading and keeps only the waker that came
//! last: with different wakers a wake-up would be lost there. So whenever the task is woken, all
//! four are tried again; for tokio's sockets a try that would block costs no system call.
//!
//! **What a stream only buffers is not written.** The pump counts what a write takes as delivered, and
//! ends the session on the strength of it; then nobody flushes any more. So here a write takes what the
//! stream took *and flushed*. Until that is done it would block, and the pump offers the same bytes
//! again, with what came behind them: only those are new to the stream. All timers go on meanwhile, for
//! the ledger has those bytes as waiting, which they are.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use relay_core::pump::{Transport, TryError, WRITE_SLICES};
use relay_core::{Failure, Leg, PerLeg};
use relay_node::failure::failure;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What there is to remember of a stream from one poll to the next.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// How reading ended, while bytes read before that are still to be handed on.
    end: Option<Result<(), Failure>>,
    /// Bytes that the stream took and has not flushed: the first of what is offered next.
    taken: usize,
    /// The first error, in its own words.
    pub(crate) error: Option<io::Error>,
}

impl Notes {
    fn failed(&mut self, error: io::Error) -> Failure {
        let failure = failure(&error);
        self.error.get_or_insert(error);
        failure
    }

    fn refused(&mut self, error: io::Error) -> TryError {
        if error.kind() == ErrorKind::Interrupted {
            TryError::Interrupted
        } else {
            // WouldBlock included: a poll that returns it has kept no waker.
            TryError::Failed(self.failed(error))
        }
    }
}

/// Both streams, for the time of one poll.
#[derive(Debug)]
pub(crate) struct Streams<'a, F, B> {
    pub(crate) front: &'a mut F,
    /// Until it is connected there is none.
    pub(crate) back: Option<&'a mut B>,
    pub(crate) notes: &'a mut PerLeg<Notes>,
    pub(crate) waker: &'a Waker,
}

/// The session demands nothing of a leg that is not up.
const NO_STREAM: TryError = TryError::Failed(Failure::Unreachable);

impl<F, B> Transport for Streams<'_, F, B>
where
    F: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let cx = &mut Context::from_waker(self.waker);
        let notes = &mut self.notes[leg];
        match (leg, &mut self.back) {
            (Leg::Front, _) => read(self.front, notes, cx, slices),
            (Leg::Back, Some(back)) => read(*back, notes, cx, slices),
            (Leg::Back, None) => Err(NO_STREAM),
        }
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let cx = &mut Context::from_waker(self.waker);
        let notes = &mut self.notes[leg];
        match (leg, &mut self.back) {
            (Leg::Front, _) => write(self.front, notes, cx, slices),
            (Leg::Back, Some(back)) => write(*back, notes, cx, slices),
            (Leg::Back, None) => Err(NO_STREAM),
        }
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        let cx = &mut Context::from_waker(self.waker);
        let notes = &mut self.notes[leg];
        match (leg, &mut self.back) {
            (Leg::Front, _) => shut(self.front, notes, cx),
            (Leg::Back, Some(back)) => shut(*back, notes, cx),
            (Leg::Back, None) => Err(NO_STREAM),
        }
    }
}

/// Fills the slices one after the other until the stream has no more.
fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    notes: &mut Notes,
    cx: &mut Context<'_>,
    slices: &mut [&mut [u8]],
) -> Result<usize, TryError> {
    if let Some(end) = notes.end.take() {
        return end.map(|()| 0).map_err(TryError::Failed);
    }
    let mut total = 0;
    for slice in slices.iter_mut().filter(|slice| !slice.is_empty()) {
        let mut buffer = ReadBuf::new(slice);
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Pending if total == 0 => return Err(TryError::WouldBlock),
            Poll::Pending => return Ok(total),
            Poll::Ready(Ok(())) => {
                let count = buffer.filled().len();
                if count == 0 && total > 0 {
                    notes.end = Some(Ok(()));
                }
                total += count;
                if buffer.remaining() > 0 {
                    return Ok(total);
                }
            }
            Poll::Ready(Err(error)) => {
                let refused = notes.refused(error);
                if total == 0 {
                    return Err(refused);
                }
                if let TryError::Failed(failure) = refused {
                    notes.end = Some(Err(failure));
                }
                return Ok(total);
            }
        }
    }
    Ok(total)
}

/// Takes what the stream takes and flushes.
///
/// # Panics
/// If the stream says that it took more than it was given.
fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    notes: &mut Notes,
    cx: &mut Context<'_>,
    slices: &[&[u8]],
) -> Result<usize, TryError> {
    let mut vector = [IoSlice::new(&[]); WRITE_SLICES];
    let (count, offered) = behind(notes.taken, slices, &mut vector);
    if count > 0 {
        let stream = Pin::new(&mut *stream);
        let polled = if count == 1 {
            stream.poll_write(cx, &vector[0])
        } else {
            // A stream that cannot gather takes the first that is not empty.
            stream.poll_write_vectored(cx, &vector[..count])
        };
        match polled {
            Poll::Ready(Ok(0)) if notes.taken == 0 => return Ok(0),
            Poll::Ready(Ok(count)) => {
                assert!(
                    count <= offered,
                    "a stream is at fault: its poll_write was given {offered} bytes and says that it took {count}"
                );
                notes.taken += count;
            }
            Poll::Ready(Err(error)) => return Err(notes.refused(error)),
            Poll::Pending if notes.taken == 0 => return Err(TryError::WouldBlock),
            Poll::Pending => {}
        }
    }
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(Ok(())) => Ok(core::mem::take(&mut notes.taken)),
        Poll::Ready(Err(error)) => Err(notes.refused(error)),
        Poll::Pending => Err(TryError::WouldBlock),
    }
}

/// What of `slices` lies behind the first `taken` bytes: into how many of `vector`, and how many bytes.
fn behind<'a>(
    mut taken: usize,
    slices: &[&'a [u8]],
    vector: &mut [IoSlice<'a>; WRITE_SLICES],
) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for slice in slices.iter().take(WRITE_SLICES) {
        let skipped = taken.min(slice.len());
        taken -= skipped;
        if let rest @ [_, ..] = &slice[skipped..] {
            vector[count] = IoSlice::new(rest);
            count += 1;
            bytes += rest.len();
        }
    }
    (count, bytes)
}

fn shut<S: AsyncWrite + Unpin>(
    stream: &mut S,
    notes: &mut Notes,
    cx: &mut Context<'_>,
) -> Result<(), TryError> {
    match Pin::new(stream).poll_shutdown(cx) {
        Poll::Pending => Err(TryError::WouldBlock),
        Poll::Ready(Ok(())) => Ok(()),
        Poll::Ready(Err(error)) => Err(notes.refused(error)),
    }
}
