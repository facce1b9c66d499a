//! An upgrade without a gap: a new process takes over what listens, the old one keeps what it carries.
//!
//! The new one calls `POST /v1/takeover` at the old one's control socket. The answer is `101`, then, on the same
//! connection, a text that says what there is (eight hexadecimal digits of length, then JSON), then
//! the listening sockets themselves (SCM_RIGHTS, unix(7)), in the text's order. They are the very same
//! sockets, with whoever waits in them to be accepted, so nobody who connects meanwhile is refused: for a
//! moment both processes accept. Once all loops of the new one run it says `taken`; then the old one
//! closes its copies and removes no file. Until then it only refuses changes; if the new one says anything
//! else, or nothing, the old one goes on as if nobody had come.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_migration::api::LimitsAnswer;
use relay_migration::registry::{Name, Request};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::state::{self, By};
use crate::bandwidth::Rates;
use crate::endpoint::Endpoint;
use crate::handed::{Handed, HandedSocket};
use crate::opening::Failed;
use crate::quantity;
use crate::socket;
use crate::socket_file::FileId;

/// What both sides have to agree on.
const VERSION: u64 = 1;

/// Sockets in one message; the kernel's limit is 253 (unix(7)).
const BATCH: usize = 64;

/// Bytes that the text may have: 16,384 migrations of some KiB.
const TEXT_MAX: usize = 256 << 20;

/// For each piece to be taken by the other side.
const PIECE_TIME: Duration = Duration::from_secs(10);

/// For the new process to say that it has taken over, from when it has everything.
const CONFIRM_TIME: Duration = Duration::from_secs(60);

/// What a new process says when it accepts; and whether the control socket is its, too.
const TAKEN: &str = "taken\n";
const TAKEN_WITH_CONTROL: &str = "taken with control\n";

/// What an object called for is kept for so long after a takeover if the object is not seen again.
const OBJECT_LEASE: Duration = Duration::from_secs(600);

/// What a process leaves to its successor.
#[derive(Debug)]
pub(super) struct Estate {
    text: String,
    sockets: Vec<OwnedFd>,
}

impl Estate {
    /// The control socket, the state directory with its lock, what listens, what was asked for, limits.
    ///
    /// # Errors
    /// If there are too few descriptors for copies of the sockets.
    pub(super) fn new(
        control: (&Endpoint, BorrowedFd<'_>, Option<FileId>),
        lock: Option<(&Path, BorrowedFd<'_>)>,
        listeners: Vec<(String, OwnedFd, Option<FileId>)>,
        migrations: Vec<Value>,
        limits: Value,
    ) -> io::Result<Self> {
        let (endpoint, socket, file) = control;
        let mut sockets = vec![socket.try_clone_to_owned()?];
        if let Some((_, lock)) = lock {
            sockets.push(lock.try_clone_to_owned()?);
        }
        let mut names = Vec::new();
        for (at, socket, file) in listeners {
            names.push(json!({ "at": at, "file": file.map(FileId::numbers) }));
            sockets.push(socket);
        }
        let text = json!({
            "version": VERSION,
            "control": { "at": endpoint.to_string(), "file": file.map(FileId::numbers) },
            "state_dir": lock.map(|(path, _)| path),
            "sockets": names,
            "migrations": migrations,
            "limits": limits,
        });
        Ok(Self { text: text.to_string(), sockets })
    }

    /// Hands it over, and waits until the successor says that it has taken over: whether the control
    /// socket is its, too. May take a minute: not for a thread that has others to serve.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) fn pass_on(self, socket: Socket) -> Result<bool, String> {
        self.try_pass_on(&socket).map_err(|error| {
            let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            if late { "it did not say so in time".to_owned() } else { error.to_string() }
        })
    }

    fn try_pass_on(self, mut socket: &Socket) -> io::Result<bool> {
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(PIECE_TIME))?;
        socket.set_read_timeout(Some(CONFIRM_TIME))?;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: relay-takeover\r\n\r\n";
        write!(socket, "{head}{:08x}{}", self.text.len(), self.text)?;
        for batch in self.sockets.chunks(BATCH) {
            let fds: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::other("too many sockets for one message"));
            }
            sendmsg(socket, &[IoSlice::new(b"+")], &mut ancillary, SendFlags::NOSIGNAL)?;
        }
        let mut said = String::new();
        while !said.ends_with('\n') && said.len() < 100 {
            said.push(char::from(byte(socket)?));
        }
        match said.as_str() {
            TAKEN => Ok(false),
            TAKEN_WITH_CONTROL => Ok(true),
            _ => Err(io::Error::other(format!("it said {said:?}"))),
        }
    }
}

fn byte(mut socket: &Socket) -> io::Result<u8> {
    let mut byte = [0];
    match socket.read_exact(&mut byte) {
        Ok(()) => Ok(byte[0]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(io::Error::new(error.kind(), "it ended before it had taken over"))
        }
        Err(error) => Err(error),
    }
}

/// What a predecessor leaves.
#[derive(Debug)]
pub(super) struct Legacy {
    predecessor: Socket,
    /// Its control socket, until somebody takes it.
    control: Option<(String, HandedSocket)>,
    has_control: bool,
    lock: Option<(PathBuf, OwnedFd)>,
    /// The listening sockets.
    pub(super) handed: Handed,
    /// What was asked for, and by whom.
    pub(super) requests: Vec<(By, Request)>,
    /// The limits that were in force.
    pub(super) rates: Rates,
}

impl Legacy {
    /// Asks the process whose control socket this is for all it has.
    ///
    /// # Errors
    /// Why it does not give it; it goes on then.
    pub(super) fn ask_for(endpoint: &Endpoint) -> Result<Self, Failed> {
        Self::try_ask_for(endpoint)
            .map_err(|error| Failed::at(format_args!("cannot take over from {endpoint}"), error))
    }

    fn try_ask_for(endpoint: &Endpoint) -> io::Result<Self> {
        let address = match endpoint {
            Endpoint::Unix(path) => SockAddr::unix(path)?,
            Endpoint::Abstract(name) => socket::abstract_address(name)?,
            Endpoint::Tcp(_) | Endpoint::Tls(_) | Endpoint::Fd(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no unix socket"));
            }
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.connect(&address)?;
        socket.set_read_timeout(Some(PIECE_TIME))?;
        socket.set_write_timeout(Some(PIECE_TIME))?;
        trust(&socket)?;
        (&socket).write_all(b"POST /v1/takeover HTTP/1.1\r\nhost: relay\r\ncontent-length: 0\r\n\r\n")?;
        let text = text(&socket)?;
        let estate: Value = serde_json::from_slice(&text)?;
        Self::read(socket, &estate)
    }

    fn read(socket: Socket, estate: &Value) -> io::Result<Self> {
        let wrong =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not understood"));
        if estate["version"].as_u64() != Some(VERSION) {
            return Err(wrong("what it hands over, of another version,"));
        }
        let names = estate["sockets"].as_array().ok_or_else(|| wrong("its list of sockets"))?;
        let lock = estate["state_dir"].as_str().map(PathBuf::from);
        let mut sockets = sockets(&socket, 1 + usize::from(lock.is_some()) + names.len())?.into_iter();
        let mut next = || sockets.next().ok_or_else(|| wrong("the number of its sockets"));
        let named = |name: &Value, fd| -> io::Result<(String, HandedSocket)> {
            let at = name["at"].as_str().ok_or_else(|| wrong("a socket's name"))?;
            Ok((at.to_owned(), HandedSocket { fd, file: FileId::of_numbers(&name["file"]) }))
        };
        let control = named(&estate["control"], next()?)?;
        let lock = match lock {
            Some(path) => Some((path, next()?)),
            None => None,
        };
        let mut handed = BTreeMap::new();
        for name in names {
            let (at, socket) = named(name, next()?)?;
            handed.insert(at, socket);
        }
        let migrations = estate["migrations"].as_array().ok_or_else(|| wrong("its list of migrations"))?;
        let requests = migrations.iter().map(request).collect::<Result<_, _>>().map_err(|why| wrong(&why))?;
        let limits: LimitsAnswer = serde_json::from_value(estate["limits"].clone())?;
        let rates = rates(&limits).map_err(|why| wrong(&why))?;
        Ok(Self {
            predecessor: socket,
            control: Some(control),
            has_control: false,
            lock,
            handed: Handed::new(handed),
            requests,
            rates,
        })
    }

    /// The predecessor's control socket, if it listens here.
    pub(super) fn take_control(&mut self, at: &Endpoint) -> Option<HandedSocket> {
        let (_, socket) = self.control.take_if(|(known, _)| *known == at.to_string())?;
        self.has_control = true;
        Some(socket)
    }

    /// The lock of the state directory, if it is this one.
    pub(super) fn take_lock(&mut self, directory: &Path) -> Option<OwnedFd> {
        self.lock.take_if(|(known, _)| known == directory).map(|(_, lock)| lock)
    }

    /// Everything accepts: the predecessor may close its copies.
    pub(super) fn confirm(self) {
        let word = if self.has_control { TAKEN_WITH_CONTROL } else { TAKEN };
        match (&self.predecessor).write_all(word.as_bytes()) {
            Ok(()) => log::info!("taken over; the former process finishes what it carries"),
            Err(error) => log::warn!(error:%; "the former process is gone already; its sessions are, too"),
        }
        for at in self.handed.rest() {
            log::warn!(listen = at.as_str(); "handed over and not called for by anything; closed");
        }
    }
}

/// A process of another user could hand over anything.
fn trust(socket: &Socket) -> io::Result<()> {
    let uid = rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw();
    let own = rustix::process::geteuid().as_raw();
    if uid == own || uid == 0 {
        return Ok(());
    }
    let what = format!("it is user {uid}'s, and neither root's nor ours ({own})");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// The text, after the head of the answer. No byte behind it is read, for sockets come with those.
fn text(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        head.push(byte(socket)?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.starts_with("HTTP/1.1 101 ") {
        let mut body = String::new();
        let _ = socket.take(1000).read_to_string(&mut body);
        let status = head.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("it answers {status} {}", body.trim())));
    }
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let length = str::from_utf8(&length).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let length = length.filter(|length| *length <= TEXT_MAX);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what it hands over has no length"));
    };
    let mut text = vec![0; length];
    socket.read_exact(&mut text)?;
    Ok(text)
}

fn sockets(socket: &Socket, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let before = sockets.len();
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        if sockets.len() == before {
            let what = format!(
                "{} of {count} sockets came; are there too few descriptors (LimitNOFILE)?",
                sockets.len()
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
    }
    Ok(sockets)
}

/// What was asked for, as a value that [`request`] reads.
pub(super) fn migration(name: &Name, by: By, body: &Value) -> Value {
    json!({ "by": by.word(), "side": name.side.to_string(), "key": name.key.to_string(), "put": body })
}

fn request(value: &Value) -> Result<(By, Request), String> {
    let (side, key) = (value["side"].as_str().unwrap_or_default(), value["key"].as_str().unwrap_or_default());
    let (by, mut request) =
        state::request(side, key, value).map_err(|why| format!("the {side} {key} ({why})"))?;
    if by == By::Vmi {
        state::lease_at_most(&mut request, OBJECT_LEASE);
    }
    Ok((by, request))
}

fn rates(limits: &LimitsAnswer) -> Result<Rates, String> {
    let rate = |text: &String| quantity::rate_or_off(text).map_err(|error| error.to_string());
    let key = |(key, text): (&String, &String)| {
        let key = key.parse().map_err(|error: relay_migration::Invalid| error.to_string())?;
        Ok((key, rate(text)?))
    };
    Ok(Rates {
        process: rate(&limits.bandwidth)?,
        per_key: rate(&limits.bandwidth_per_key)?,
        keys: limits.keys.iter().map(key).collect::<Result<_, String>>()?,
    })
}
