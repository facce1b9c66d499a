//! Two streams as the pump wants them.
//!
//! Every poll is made with the waker of the session's own task, for both directions of both streams.
//! One waker for each direction would tell which of them is ready, but there are streams (TLS ones
//! among them) whose writing polls the inner stream's reading and keeps only the waker that came
//! last: with different wakers a wake-up would be lost there. So whenever the task is woken, all
//! four are tried again; for tokio's sockets a try that would block costs no system call.

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
    /// Something was written and not flushed yet.
    unflushed: bool,
    /// Flushing failed: what the stream took goes nowhere.
    broken: Option<Failure>,
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

impl<F, B> Streams<'_, F, B>
where
    F: AsyncWrite + Unpin,
    B: AsyncWrite + Unpin,
{
    /// Flushes what was written, as far as that goes without waiting. Whether that failed just now,
    /// which the next write will tell.
    pub(crate) fn flush(&mut self) -> bool {
        let cx = &mut Context::from_waker(self.waker);
        let mut failed = flush(self.front, &mut self.notes.front, cx);
        if let Some(back) = &mut self.back {
            failed |= flush(*back, &mut self.notes.back, cx);
        }
        failed
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

fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    notes: &mut Notes,
    cx: &mut Context<'_>,
    slices: &[&[u8]],
) -> Result<usize, TryError> {
    if let Some(failure) = notes.broken {
        return Err(TryError::Failed(failure));
    }
    let stream = Pin::new(stream);
    let polled = if let [only] = slices {
        stream.poll_write(cx, only)
    } else {
        let mut vector = [IoSlice::new(&[]); WRITE_SLICES];
        let count = slices.len().min(WRITE_SLICES);
        for (place, slice) in vector.iter_mut().zip(slices) {
            *place = IoSlice::new(slice);
        }
        // A stream that cannot gather takes the first that is not empty.
        stream.poll_write_vectored(cx, &vector[..count])
    };
    match polled {
        Poll::Pending => Err(TryError::WouldBlock),
        Poll::Ready(Ok(count)) => {
            notes.unflushed |= count > 0;
            Ok(count)
        }
        Poll::Ready(Err(error)) => Err(notes.refused(error)),
    }
}

fn shut<S: AsyncWrite + Unpin>(
    stream: &mut S,
    notes: &mut Notes,
    cx: &mut Context<'_>,
) -> Result<(), TryError> {
    if let Some(failure) = notes.broken {
        return Err(TryError::Failed(failure));
    }
    match Pin::new(stream).poll_shutdown(cx) {
        Poll::Pending => Err(TryError::WouldBlock),
        Poll::Ready(Ok(())) => {
            notes.unflushed = false;
            Ok(())
        }
        Poll::Ready(Err(error)) => Err(notes.refused(error)),
    }
}

fn flush<S: AsyncWrite + Unpin>(stream: &mut S, notes: &mut Notes, cx: &mut Context<'_>) -> bool {
    while notes.unflushed && notes.broken.is_none() {
        match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => notes.unflushed = false,
            Poll::Ready(Err(error)) => match notes.refused(error) {
                TryError::Interrupted | TryError::WouldBlock => {}
                TryError::Failed(failure) => {
                    notes.broken = Some(failure);
                    return true;
                }
            },
        }
    }
    false
}
