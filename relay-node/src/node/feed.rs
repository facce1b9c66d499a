//! VirtualMachineInstances from standard input: read by a thread of its own, since standard input is not
//! ours to make non-blocking, a few pieces ahead at most.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use relay_migration::Invalid;
use relay_migration::vmi::{self, ObjectStream, Seen};

use super::inbox::Post;

/// Pieces that may wait for the manager; then the one who writes them does.
const PIECES: usize = 4;
const PIECE: usize = 64 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Feed {
    pieces: Receiver<io::Result<Vec<u8>>>,
    stream: ObjectStream,
    over: bool,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Fed {
    /// Objects, or what one of them tells.
    Seen(Seen),
    /// Something that is none: one line.
    Ignored(String),
    /// Nothing more will come.
    Over(Result<(), String>),
}

impl Feed {
    /// Begins to read.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(mut from: impl Read + Send + 'static, post: Post) -> io::Result<Self> {
        let (send, pieces) = mpsc::sync_channel(PIECES);
        thread::Builder::new().name("objects".to_owned()).spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match from.read(&mut piece) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(1..));
                let sent = send.send(read.map(|length| {
                    piece.truncate(length);
                    piece
                }));
                post.wake();
                if last || sent.is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { pieces, stream: ObjectStream::default(), over: false })
    }

    /// The next one, if there is one by now.
    pub(super) fn next(&mut self) -> Option<Fed> {
        loop {
            match self.stream.next_object() {
                Some(Ok(object)) => match vmi::read(&object) {
                    Ok(seen) => return Some(Fed::Seen(seen)),
                    Err(unreadable) => return Some(Fed::Ignored(unreadable.to_string())),
                },
                Some(Err(why)) => return Some(Fed::Ignored(why.to_string())),
                None => {}
            }
            if self.over {
                return None;
            }
            match self.pieces.try_recv() {
                Ok(Ok(piece)) if !piece.is_empty() => self.stream.push(&piece),
                Ok(Ok(_)) | Err(TryRecvError::Disconnected) => return Some(self.end(Ok(()))),
                Ok(Err(error)) => return Some(self.end(Err(error.to_string()))),
                Err(TryRecvError::Empty) => return None,
            }
        }
    }

    fn end(&mut self, how: Result<(), String>) -> Fed {
        self.over = true;
        let finished = self.stream.finish().map_err(|why: Invalid| why.to_string());
        Fed::Over(how.and(finished))
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox;
    use super::*;
    use std::io::Cursor;
    use std::time::{Duration, Instant};

    fn all(text: &str) -> Vec<String> {
        let (post, _inbox) = inbox::inbox().expect("pair");
        let mut feed = Feed::start(Cursor::new(text.as_bytes().to_vec()), post).expect("thread");
        let (mut found, start) = (Vec::new(), Instant::now());
        loop {
            match feed.next() {
                Some(Fed::Seen(Seen::Present(vmi))) => found.push(vmi.name.to_string()),
                Some(Fed::Seen(_)) => found.push("?".to_owned()),
                Some(Fed::Ignored(why)) => found.push(why),
                Some(Fed::Over(how)) => {
                    found.push(format!("{how:?}"));
                    assert!(feed.next().is_none());
                    return found;
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn objects_come_out_and_the_end_is_told() {
        let object = r#"{"metadata":{"namespace":"a","name":"b","uid":"c"}}"#;
        assert_eq!(all(&format!("{object}\n{object}\n")), ["a/b", "a/b", "Ok(())"]);
        assert_eq!(all(""), ["Ok(())"]);
        let found = all(&format!("garbage\n{object}\n{{\"cut"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1] == "a/b" && found[2].contains("in the middle"), "{found:?}");
    }
}
