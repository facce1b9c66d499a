//! Flows through a pipe of the kernel's: bytes that never come to user space.
//!
//! A flow's **lane** says where its next bytes go: to the sink's queue, or into a pipe. What is in the
//! queue is sent before what is in the pipe, so a flow may go over to a pipe at any time, but back only
//! while the pipe is empty. The first bytes go by the queue: who sends little never costs a pipe; and
//! the pipe is given back as soon as there is nothing to do.

use super::receiving::spend;
use super::{Transport, Turn, check_moved};
use crate::codec::Codec;
use crate::leg::Leg;
use crate::pump::{Filled, TryError};
use crate::session::Input;

/// Where a flow's next bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Lane {
    /// To the sink's queue.
    #[default]
    Queue,
    /// Into a pipe, behind what is in the sink's queue.
    Pipe {
        /// What went in and has not come out.
        holds: usize,
    },
    /// To the sink's queue for good: this source can't fill a pipe.
    QueueOnly,
}

impl Lane {
    /// Bytes in the pipe.
    pub(crate) const fn holds(self) -> usize {
        match self {
            Self::Pipe { holds } => holds,
            Self::Queue | Self::QueueOnly => 0,
        }
    }
}

impl<C: Codec, T: Transport> Turn<'_, C, T> {
    /// Whether what is read from `source`, a plain leg, goes into a pipe: it has one, or it deserves
    /// and gets one.
    pub(super) fn goes_by_pipe(&mut self, source: Leg) -> bool {
        let (link, sink) = self.relay.links.split_mut(source);
        match link.lane {
            Lane::Pipe { .. } => true,
            Lane::QueueOnly => false,
            Lane::Queue => {
                let gets_one = link.appetite >= T::PIPE_FROM
                    && sink.layout().is_transparent()
                    && self.io.open_pipe(source);
                if gets_one {
                    link.lane = Lane::Pipe { holds: 0 };
                }
                gets_one
            }
        }
    }

    /// From the source into its pipe.
    pub(super) fn fill_pipe(&mut self, source: Leg, wanted: usize) -> bool {
        let link = &mut self.relay.links[source];
        let holds = link.lane.holds();
        match self.io.fill_pipe(source, wanted) {
            Ok(Filled::Moved(0)) => self.tell(Input::Eof(source)),
            Ok(Filled::Moved(count)) => {
                check_moved(count, wanted);
                self.moved += count;
                spend(&mut self.throttle, source, count);
                link.on_read(wanted, count);
                link.lane = Lane::Pipe { holds: holds + count };
                self.tell(Input::Read(source, count));
            }
            // Nobody can tell whether the source is dry or the pipe takes no more. A write tells.
            Ok(Filled::Unsupported) | Err(TryError::WouldBlock) if holds > 0 => {
                self.tell(Input::Full(source));
                return false;
            }
            Ok(Filled::Unsupported) => {
                self.close_pipe(source);
                self.relay.links[source].lane = Lane::QueueOnly;
            }
            Err(error) => return self.on_read_refused(source, error),
        }
        true
    }

    /// From the pipe of the opposite leg's flow into `leg`.
    pub(super) fn drain_pipe(&mut self, leg: Leg) -> bool {
        let source = &mut self.relay.links[leg.other()];
        let holds = source.lane.holds();
        match self.io.drain_pipe(leg.other(), holds) {
            Ok(count) if count > 0 => {
                check_moved(count, holds);
                self.moved += count;
                source.lane = Lane::Pipe { holds: holds - count };
                self.tell(Input::Wrote(leg, count));
                true
            }
            refused => self.on_write_refused(leg, refused),
        }
    }

    /// Gives the pipe back, if there is one, with whatever is in it.
    pub(super) fn close_pipe(&mut self, source: Leg) {
        let link = &mut self.relay.links[source];
        if let Lane::Pipe { holds } = link.lane {
            link.lane = Lane::Queue;
            self.io.close_pipe(source, holds);
        }
    }

    /// Gives back the pipes that hold nothing.
    pub(super) fn close_idle_pipes(&mut self) {
        for source in Leg::BOTH {
            if self.relay.links[source].lane.holds() == 0 {
                self.close_pipe(source);
            }
        }
    }
}
