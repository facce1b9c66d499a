//! What stands behind the target's node, and what connects to the source's: two ends that know what
//! the other one sends.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender as Reports;
use std::thread;
use std::time::Duration;

use super::pattern::{Sender, receive};

/// Nothing here waits longer than this: a relay that is stuck has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Who speaks when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Both at once.
    Together,
    /// The client sends and half-closes; only then the sink answers.
    ClientFirst,
    /// The sink sends and half-closes; only then the client goes on.
    SinkFirst,
    /// The sink is to go away.
    Quit,
}

/// What a client tells the sink first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) mode: Mode,
    pub(super) seed: u64,
    /// Bytes each way.
    pub(super) size: u64,
}

impl Order {
    const LENGTH: usize = 17;

    fn encode(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.mode as u8;
        bytes[1..9].copy_from_slice(&self.seed.to_le_bytes());
        bytes[9..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    fn read(input: &mut impl Read) -> io::Result<Self> {
        let (mut mode, mut seed, mut size) = ([0], [0; 8], [0; 8]);
        for part in [&mut mode[..], &mut seed, &mut size] {
            input.read_exact(part)?;
        }
        let mode = [Mode::Together, Mode::ClientFirst, Mode::SinkFirst, Mode::Quit]
            .into_iter()
            .find(|known| *known as u8 == mode[0])
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { mode, seed: u64::from_le_bytes(seed), size: u64::from_le_bytes(size) })
    }

    /// The seed of what the sink sends.
    const fn answer(self) -> u64 {
        !self.seed
    }
}

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

fn patient(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection to an abstract unix socket.
pub(super) fn connect(name: &str) -> io::Result<UnixStream> {
    patient(UnixStream::connect_addr(&address(name)?)?)
}

/// Whether anybody listens on an abstract unix socket, asked without connecting to it: by the flag
/// `__SO_ACCEPTCON` (0x10000) of the kernel's list (proc(5), /proc/net/unix).
pub(super) fn listens(name: &str) -> bool {
    let list = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    list.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000")
            && fields.nth(3).and_then(|path| path.strip_prefix('@')) == Some(name)
    })
}

/// The backend: takes any number of connections until told to quit.
#[derive(Debug)]
pub(super) struct Sink {
    listener: UnixListener,
    name: String,
    touched: AtomicU64,
}

impl Sink {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&address(name)?)?;
        Ok(Self { listener, name: name.to_owned(), touched: AtomicU64::new(0) })
    }

    /// Connections so far.
    pub(super) fn touched(&self) -> u64 {
        self.touched.load(Ordering::SeqCst)
    }

    /// Ends [`serve`](Self::serve).
    pub(super) fn quit(&self) {
        let order = Order { mode: Mode::Quit, seed: 0, size: 0 };
        let _ = connect(&self.name).and_then(|mut stream| stream.write_all(&order.encode()));
    }

    /// Serves each connection in a thread of its own, and reports what came of it.
    pub(super) fn serve(&self, verified: &AtomicU64, reports: &Reports<Result<(), String>>) {
        thread::scope(|scope| {
            for stream in self.listener.incoming() {
                self.touched.fetch_add(1, Ordering::SeqCst);
                let mut stream = match stream.and_then(patient) {
                    Ok(stream) => stream,
                    Err(e) => return drop(reports.send(Err(format!("the sink: {e}")))),
                };
                let order = match Order::read(&mut stream) {
                    Ok(Order { mode: Mode::Quit, .. }) => return,
                    Ok(order) => order,
                    // Gone without a word: none of the clients here, who would complain themselves.
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
                    Err(e) => {
                        let _ = reports.send(Err(format!("the sink got no order: {e}")));
                        continue;
                    }
                };
                let reports = reports.clone();
                scope.spawn(move || {
                    let (own, theirs) = (order.answer(), order.seed);
                    let done = match order.mode {
                        Mode::Together => together(&stream, own, theirs, order.size, verified, || Ok(())),
                        Mode::ClientFirst => listen_first(&stream, own, theirs, order.size, verified),
                        Mode::SinkFirst | Mode::Quit => {
                            speak_first(&stream, own, theirs, order.size, verified)
                        }
                    };
                    let _ = reports.send(done.map_err(|e| format!("at the sink, {e}")));
                });
            }
        });
    }
}

/// Runs one connection from the client's end. `pause` is called when half is sent, in
/// [`Mode::Together`].
pub(super) fn run_client(
    name: &str,
    order: Order,
    verified: &AtomicU64,
    pause: impl FnOnce() -> Result<(), String> + Send,
) -> Result<(), String> {
    let mut stream = connect(name).map_err(|e| format!("the source's node can't be reached: {e}"))?;
    stream.write_all(&order.encode()).map_err(|e| format!("the order was not taken: {e}"))?;
    let (own, theirs) = (order.seed, order.answer());
    let done = match order.mode {
        Mode::Together => together(&stream, own, theirs, order.size, verified, pause),
        Mode::ClientFirst => speak_first(&stream, own, theirs, order.size, verified),
        Mode::SinkFirst => listen_first(&stream, own, theirs, order.size, verified),
        Mode::Quit => Ok(()),
    };
    done.map_err(|e| format!("at the client, {e}"))
}

fn send_all(
    mut stream: &UnixStream,
    seed: u64,
    size: u64,
    pause: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let mut sender = Sender::new(seed);
    let failed = |e: io::Error| format!("sending failed: {e}");
    sender.send(&mut stream, size / 2).map_err(failed)?;
    pause()?;
    sender.send(&mut stream, size - size / 2).map_err(failed)?;
    stream.shutdown(Shutdown::Write).map_err(failed)
}

fn together(
    mut stream: &UnixStream,
    own: u64,
    theirs: u64,
    size: u64,
    verified: &AtomicU64,
    pause: impl FnOnce() -> Result<(), String> + Send,
) -> Result<(), String> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || send_all(stream, own, size, pause));
        let received = receive(&mut stream, theirs, size, verified);
        let sent = sender.join().unwrap_or_else(|_| Err("sending panicked".to_owned()));
        received.and(sent)
    })
}

fn speak_first(
    mut stream: &UnixStream,
    own: u64,
    theirs: u64,
    size: u64,
    verified: &AtomicU64,
) -> Result<(), String> {
    send_all(stream, own, size, || Ok(()))?;
    receive(&mut stream, theirs, size, verified)
        .map_err(|e| format!("what comes after our own end did not: {e}"))
}

fn listen_first(
    mut stream: &UnixStream,
    own: u64,
    theirs: u64,
    size: u64,
    verified: &AtomicU64,
) -> Result<(), String> {
    receive(&mut stream, theirs, size, verified)?;
    send_all(stream, own, size, || Ok(())).map_err(|e| format!("after the peer's end, {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn both_ends_understand_each_other_without_a_relay_too() {
        let name = format!("relay-node-sink-{}", std::process::id());
        let sink = Sink::new(&name).expect("bind");
        let (reports, results) = mpsc::channel();
        let verified = AtomicU64::new(0);
        assert!(listens(&name) && !listens("nobody"));
        thread::scope(|scope| {
            scope.spawn(|| sink.serve(&verified, &reports));
            for mode in [Mode::Together, Mode::ClientFirst, Mode::SinkFirst] {
                let order = Order { mode, seed: mode as u64, size: 300_001 };
                assert_eq!(run_client(&name, order, &verified, || Ok(())), Ok(()), "{mode:?}");
                assert_eq!(results.recv_timeout(PATIENCE), Ok(Ok(())), "{mode:?}");
            }
            connect(&name).expect("connect").write_all(&[77; Order::LENGTH]).expect("write");
            assert!(results.recv_timeout(PATIENCE).expect("a report").is_err());
            sink.quit();
        });
        assert_eq!(sink.touched(), 5);
        drop(sink);
        assert!(!listens(&name));
        assert_eq!(verified.into_inner(), 6 * 300_001);
    }
}
