//! A stream that does what it is told: chunk by chunk, with pauses, to a good or a bad end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the [module](self). A chunk of 0 is a pause: the call would block, and the task is woken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripted {
    /// What is read from it.
    pub(crate) input: VecDeque<u8>,
    /// How much each read gives; then all there is.
    pub(crate) reads: VecDeque<usize>,
    /// How reading ends, if not well.
    pub(crate) read_error: Option<ErrorKind>,
    /// How much each write takes; then all there is.
    pub(crate) writes: VecDeque<usize>,
    /// So much is taken in all, before writing fails.
    pub(crate) write_error: Option<(usize, ErrorKind)>,
    /// Whether each flush is a pause (0) or not; then none is.
    pub(crate) flushes: VecDeque<usize>,
    /// Flushing fails.
    pub(crate) flush_error: Option<ErrorKind>,
    /// What was written to it.
    pub(crate) output: Vec<u8>,
    /// Bytes of it that were flushed.
    pub(crate) flushed: usize,
    pub(crate) shut: bool,
}

impl Scripted {
    pub(crate) fn new(input: &[u8]) -> Self {
        Self { input: input.iter().copied().collect(), ..Self::default() }
    }

    pub(crate) const fn can_be_written(&self) -> bool {
        self.write_error.is_none() && self.flush_error.is_none()
    }

    fn next(script: &mut VecDeque<usize>, most: usize, cx: &Context<'_>) -> Poll<usize> {
        match script.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            chunk => Poll::Ready(chunk.unwrap_or(usize::MAX).min(most)),
        }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        assert!(buffer.remaining() > 0, "a read has room");
        let most = buffer.remaining().min(self.input.len());
        let Poll::Ready(count) = Self::next(&mut self.reads, most, cx) else { return Poll::Pending };
        if self.input.is_empty() {
            return Poll::Ready(self.read_error.map_or(Ok(()), |kind| Err(kind.into())));
        }
        let chunk: Vec<u8> = self.input.drain(..count).collect();
        buffer.put_slice(&chunk);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.shut && !bytes.is_empty(), "a write has bytes and comes before the end");
        let Poll::Ready(mut count) = Self::next(&mut self.writes, bytes.len(), cx) else {
            return Poll::Pending;
        };
        if let Some((most, kind)) = self.write_error {
            count = count.min(most - self.output.len());
            if count == 0 && kind == ErrorKind::WriteZero {
                return Poll::Ready(Ok(0)); // the pump's to judge
            } else if count == 0 {
                return Poll::Ready(Err(kind.into()));
            }
        }
        self.output.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if Self::next(&mut self.flushes, 1, cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(kind) = self.flush_error {
            return Poll::Ready(Err(kind.into()));
        }
        self.flushed = self.output.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(!self.shut, "there is one end");
        let flushed = self.as_mut().poll_flush(cx);
        self.shut = matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }
}
