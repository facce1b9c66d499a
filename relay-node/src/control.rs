//! Telling a running node to stop: one byte for each wish, through a socket that any loop can wait
//! for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

/// What an operator can wish for while a node serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Accept nothing more, let open sessions finish until the drain timeout.
    Drain,
    /// End everything at once.
    Abort,
}

/// The writing end. Cloned by [`try_clone`](Self::try_clone) for each who may wish.
#[derive(Debug)]
pub struct Controller(UnixStream);

/// The reading end, non-blocking. Ready for reading once there is a command.
#[derive(Debug)]
pub struct Commands(UnixStream);

/// A pair of ends.
///
/// # Errors
/// As socketpair(2).
pub fn channel() -> io::Result<(Controller, Commands)> {
    let (writer, reader) = UnixStream::pair()?;
    // A full socket has been told often enough: never wait for a stuck loop.
    writer.set_nonblocking(true)?;
    reader.set_nonblocking(true)?;
    Ok((Controller(writer), Commands(reader)))
}

impl Controller {
    /// Sends a command. If nobody listens any more, there is nothing left to stop.
    pub fn send(&self, command: Command) {
        let byte = match command {
            Command::Drain => b'd',
            Command::Abort => b'a',
        };
        let _ = (&self.0).write_all(&[byte]);
    }

    /// Another writing end.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl Commands {
    /// The next command that has come, if any. To be called until `None` after each readiness, as
    /// edge-triggered loops must; `None` also once every writing end is gone.
    #[must_use]
    pub fn next(&self) -> Option<Command> {
        loop {
            let mut byte = [0];
            match (&self.0).read(&mut byte) {
                Ok(1) if byte == *b"d" => return Some(Command::Drain),
                Ok(1) => return Some(Command::Abort),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

impl AsFd for Commands {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Commands {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_arrive_in_order_and_nobody_waits() {
        let (controller, commands) = channel().expect("pair");
        assert_eq!(commands.next(), None);
        controller.send(Command::Drain);
        controller.try_clone().expect("clone").send(Command::Abort);
        assert_eq!(commands.next(), Some(Command::Drain));
        assert_eq!(commands.next(), Some(Command::Abort));
        assert_eq!(commands.next(), None);
        for _ in 0..100_000 {
            controller.send(Command::Drain);
        }
        drop(commands);
        controller.send(Command::Abort);
    }

    #[test]
    fn with_every_controller_gone_there_is_nothing_more() {
        let (controller, commands) = channel().expect("pair");
        controller.send(Command::Drain);
        drop(controller);
        assert_eq!(commands.next(), Some(Command::Drain));
        assert_eq!(commands.next(), None);
    }
}
