//! One who asks the control API, by HTTP over a unix socket.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::http::Request;

use crate::endpoint::Endpoint;
use crate::socket::abstract_address;

/// For each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer: ten thousand sessions have a few MiB.
const ANSWER_MAX: usize = 256 << 20;

/// A connection that is made when it is needed.
pub(super) struct Client {
    control: Endpoint,
    socket: Option<Socket>,
}

impl Client {
    pub(super) fn new(control: &Endpoint) -> Self {
        Self { control: control.clone(), socket: None }
    }

    /// The body of an answer that is good news.
    ///
    /// # Errors
    /// One line: the node's own words if it has refused.
    pub(super) fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let control = self.control.clone();
        let wrong = |why: &dyn std::fmt::Display| format!("{control} can't be asked: {why}");
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect().map_err(|error| wrong(&error))?,
        };
        let (status, body, goes_on) = exchange(&socket, path).map_err(|error| wrong(&error))?;
        if goes_on {
            self.socket = Some(socket);
        }
        if status == 200 {
            return Ok(body);
        }
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let words = said.get("error").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
        Err(format!("{control} refused {path} ({status}): {words}"))
    }

    fn connect(&self) -> io::Result<Socket> {
        let address = match &self.control {
            Endpoint::Unix(path) => SockAddr::unix(path)?,
            Endpoint::Abstract(name) => abstract_address(name)?,
            Endpoint::Tcp(_) | Endpoint::Tls(_) | Endpoint::Fd(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no unix socket"));
            }
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&address)?;
        Ok(socket)
    }
}

/// Status, body, and whether the connection goes on.
fn exchange(mut socket: &Socket, path: &str) -> io::Result<(u16, Vec<u8>, bool)> {
    // a unix socket has no host; the protocol wants one
    let request = Request::get(format!("http://relay{path}")).body(()).map_err(io::Error::other)?;
    let mut call = Call::new(request).map_err(io::Error::other)?.proceed();
    let mut out = vec![0; 4096];
    let length = call.write(&mut out).map_err(io::Error::other)?;
    // A refusal may be there before it was asked for; then that matters, not that nobody listens.
    let sent = socket.write_all(&out[..length]);
    let mut incoming = Vec::new();
    let Ok(Some(SendRequestResult::RecvResponse(mut call))) = call.proceed() else {
        return Err(io::Error::other("the request is incomplete"));
    };
    let response = loop {
        let (used, response) = call.try_response(&incoming, true).map_err(io::Error::other)?;
        incoming.drain(..used);
        if let Some(response) = response {
            break response;
        }
        more(socket, &mut incoming)
            .map_err(|error| sent.as_ref().err().map_or(error, |sent| sent.kind().into()))?;
    };
    let status = response.status().as_u16();
    let mut call = match call.proceed() {
        Some(RecvResponseResult::RecvBody(call)) => call,
        Some(RecvResponseResult::Cleanup(call)) => {
            return Ok((status, Vec::new(), !call.must_close_connection()));
        }
        Some(RecvResponseResult::Redirect(_)) | None => return Err(io::Error::other("an unexpected answer")),
    };
    let (mut body, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while !call.can_proceed() {
        let (used, length) = call.read(&incoming, &mut piece).map_err(io::Error::other)?;
        incoming.drain(..used);
        body.extend_from_slice(&piece[..length]);
        if body.len() > ANSWER_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        if used == 0 && length == 0 && !call.can_proceed() {
            more(socket, &mut incoming)?;
        }
    }
    let goes_on =
        matches!(call.proceed(), Some(RecvBodyResult::Cleanup(call)) if !call.must_close_connection());
    Ok((status, body, goes_on))
}

fn more(mut socket: &Socket, incoming: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        return match socket.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                incoming.extend_from_slice(&piece[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            Err(error) => Err(error),
        };
    }
}
