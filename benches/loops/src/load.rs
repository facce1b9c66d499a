//! A sink that takes and echoes, and clients. Every connection begins with a header that says what
//! follows. A bulk transfer is over with the sink's receipt: when the last byte has arrived.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CHUNK: usize = 256 << 10;
const MESSAGE: usize = 64;
const HEADER: usize = 8;
/// A header of zero bytes to come: echo messages.
const ECHO: u64 = 0;
/// Connections that are made at once.
const AT_ONCE: u64 = 4;
/// A limit against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn sink(path: &Path) {
    let listener = UnixListener::bind(path).expect("bind");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
}

fn serve(mut connection: UnixStream) -> io::Result<()> {
    let mut header = [0; HEADER];
    connection.read_exact(&mut header)?;
    let mut left = u64::from_be_bytes(header);
    if left == ECHO {
        let mut message = [0; MESSAGE];
        loop {
            connection.read_exact(&mut message)?;
            connection.write_all(&message)?;
        }
    }
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        match connection.read(&mut buffer[..most])? {
            0 => return Ok(()),
            count => left -= count as u64,
        }
    }
    connection.write_all(b"!")
}

/// A connection whose messages come back.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Makes one, and sends a first message there and back.
    ///
    /// # Errors
    /// If a relay does not take it, or is silent for a minute.
    pub fn new(entry: &Path) -> io::Result<Self> {
        let mut connection = Self(open(entry, ECHO)?);
        connection.round_trip()?;
        Ok(connection)
    }

    /// Sends a message of 64 bytes there and back.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn round_trip(&mut self) -> io::Result<()> {
        self.0.write_all(&[7; MESSAGE])?;
        self.0.read_exact(&mut [0; MESSAGE])
    }
}

fn open(entry: &Path, size: u64) -> io::Result<UnixStream> {
    let mut connection = UnixStream::connect(entry)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&size.to_be_bytes())?;
    Ok(connection)
}

/// Sends `size` bytes over so many connections; how long that takes.
///
/// # Panics
/// If a relay does not take it, or stands still for a minute.
#[must_use]
pub fn bulk(entry: &Path, streams: u64, size: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let mut left = size / streams;
                let mut connection = open(entry, left).expect("connected");
                let chunk = vec![7; CHUNK];
                while left > 0 {
                    let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                    connection.write_all(&chunk[..count]).expect("taken");
                    left -= count as u64;
                }
                connection.read_exact(&mut [0]).expect("the receipt");
            });
        }
    });
    start.elapsed()
}

/// A connection that sends as fast as it goes, until this is dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// More than the sockets and buffers of the whole way hold: once so much was taken, bytes arrive.
    const MOVING: u64 = 32 << 20;

    /// Begins, and returns once bytes arrive.
    ///
    /// # Panics
    /// If a relay does not take it, or stands still for a minute.
    #[must_use]
    pub fn start(entry: &Path) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut connection = open(entry, u64::MAX).expect("connected");
        let (count, end) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let chunk = vec![7; CHUNK];
            while !end.load(Ordering::Relaxed) {
                connection.write_all(&chunk).expect("taken");
                count.fetch_add(CHUNK as u64, Ordering::Relaxed);
            }
        });
        let flood = Self { sent, stop, thread: Some(thread) };
        let start = Instant::now();
        while flood.sent() < Self::MOVING {
            assert!(start.elapsed() < PATIENCE, "the flood stands still");
            thread::sleep(Duration::from_millis(1));
        }
        flood
    }

    /// Bytes that the first relay's socket has taken so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().map_or(Ok(()), JoinHandle::join);
        assert!(thread::panicking() || result.is_ok(), "the flood has ended");
    }
}

/// Makes and closes so many connections, four at once, with a message there and back over each; how long
/// that takes.
///
/// # Panics
/// As [`bulk`].
#[must_use]
pub fn connections(entry: &Path, count: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let share = count / AT_ONCE + u64::from(worker < count % AT_ONCE);
            scope.spawn(move || {
                for _ in 0..share {
                    Connection::new(entry).expect("connected");
                }
            });
        }
    });
    start.elapsed()
}
