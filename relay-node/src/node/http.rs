//! One HTTP/1.1 connection of the control API, without I/O: bytes in, requests out, answers in, bytes
//! out. The protocol is `ureq-proto`'s; what is kept of a client is bounded here.

use relay_migration::api::{ApiError, BODY_MAX, PATH_MAX};
use ureq_proto::http::{HeaderMap, Response, header};
use ureq_proto::server::state::{ProvideResponse, RecvBody, RecvRequest, SendBody};
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult};

/// Bytes that a request's first line and fields may have.
const HEAD_MAX: usize = 16 << 10;

/// Bytes of framing, chunk sizes that is, which a body may have besides its own.
const FRAMING_MAX: usize = BODY_MAX;

/// A request, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Without query.
    pub(super) path: String,
    pub(crate) body: Vec<u8>,
}

/// What is said back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: Vec<u8>,
    /// The methods there are, if the one asked for is not among them.
    pub(crate) allow: Option<&'static str>,
    /// Why it is no good news, for the log.
    pub(crate) error: Option<String>,
}

impl Answer {
    pub(crate) fn json(body: Vec<u8>) -> Self {
        Self { status: 200, kind: "application/json", body, allow: None, error: None }
    }

    pub(crate) fn text(status: u16, kind: &'static str, body: String) -> Self {
        Self { status, kind, body: body.into_bytes(), allow: None, error: None }
    }
}

impl From<&ApiError> for Answer {
    fn from(error: &ApiError) -> Self {
        let allow = (error.status == 405).then(|| allowed(&error.message));
        let (status, body) = (error.status, error.body());
        Self { status, kind: "application/json", body, allow, error: Some(error.message.clone()) }
    }
}

/// RFC 9110 section 15.5.6 wants them in a field, too.
fn allowed(message: &str) -> &'static str {
    if message.ends_with("use GET or PUT") {
        return "GET, PUT";
    }
    ["GET", "DELETE", "POST"]
        .into_iter()
        .find(|method| message.ends_with(&format!("use {method}")))
        .unwrap_or("PUT, GET, DELETE")
}

enum State {
    Head(Reply<RecvRequest>),
    Body {
        reply: Reply<RecvBody>,
        asked: Asked,
        framing: usize,
    },
    /// The answer is being found.
    Asked(Reply<ProvideResponse>),
    Over,
}

/// See the [module](self).
pub(super) struct Connection {
    state: State,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self { state: fresh(), incoming: Vec::new(), outgoing: Vec::new() }
    }

    /// Whether more may be read: not while an answer is being found or sent. What a client pipelines
    /// waits in its socket.
    pub(super) fn wants_read(&self) -> bool {
        matches!(self.state, State::Head(_) | State::Body { .. }) && self.outgoing.is_empty()
    }

    /// What is to be sent; [`sent`](Self::sent) says how much was.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.outgoing.drain(..count);
    }

    /// Nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.outgoing.is_empty()
    }

    /// Whether a request is being answered.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked(_))
    }

    /// Whether a request has begun and is not complete.
    pub(super) fn is_within(&self) -> bool {
        matches!(self.state, State::Body { .. }) || !self.incoming.is_empty()
    }

    /// Takes bytes in, and the next request out if there is a whole one.
    ///
    /// # Errors
    /// Why it is none. The answer that says so is [`refuse`](Self::refuse)'s.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Option<Asked>, ApiError> {
        self.incoming.extend_from_slice(bytes);
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Head(reply) => match self.head(reply)? {
                    Some(asked) => return Ok(Some(asked)),
                    None if matches!(self.state, State::Head(_)) => return Ok(None),
                    None => {}
                },
                State::Body { reply, asked, framing } => return self.body(reply, asked, framing),
                state @ (State::Asked(_) | State::Over) => {
                    self.state = state;
                    return Ok(None);
                }
            }
        }
    }

    /// Within a request's head: a whole request if it has no body.
    fn head(&mut self, mut reply: Reply<RecvRequest>) -> Result<Option<Asked>, ApiError> {
        let parsed = reply.try_request(&self.incoming).map_err(|error| bad(&error))?;
        let (used, Some(request)) = parsed else {
            if self.incoming.len() > HEAD_MAX {
                return Err(error(431, format!("the request's head is longer than {HEAD_MAX} bytes")));
            }
            self.state = State::Head(reply);
            return Ok(None);
        };
        if used > HEAD_MAX {
            return Err(error(431, format!("the request's head is longer than {HEAD_MAX} bytes")));
        }
        self.incoming.drain(..used);
        let path = request.uri().path();
        if path.len() > PATH_MAX {
            return Err(error(414, format!("the address is longer than {PATH_MAX} bytes")));
        }
        if request.uri().query().is_some() {
            return Err(error(
                400,
                "no address here has a query; leave out what is behind the '?'".to_owned(),
            ));
        }
        check_length(request.headers())?;
        let asked = Asked { method: request.method().to_string(), path: path.to_owned(), body: Vec::new() };
        let has_none = !is_framed(request.headers());
        match reply.proceed() {
            Some(RecvRequestResult::ProvideResponse(reply)) => {
                self.state = State::Asked(reply);
                return Ok(Some(asked));
            }
            Some(RecvRequestResult::Send100(reply)) => {
                let mut go_on = [0; 64];
                let (length, reply) = reply.accept(&mut go_on).map_err(|error| bad(&error))?;
                self.outgoing.extend_from_slice(&go_on[..length]);
                self.state = State::Body { reply, asked, framing: 0 };
            }
            Some(RecvRequestResult::RecvBody(mut reply)) => {
                if has_none {
                    // A PUT or POST without any word about a body has none (RFC 9112 section 6.3); the
                    // library expects chunks then, and is given the last one.
                    let _ = reply.read(b"0\r\n\r\n", &mut []).map_err(|error| bad(&error))?;
                }
                self.state = State::Body { reply, asked, framing: 0 };
            }
            None => return Err(error(400, "the request can't be understood".to_owned())),
        }
        Ok(None)
    }

    fn body(
        &mut self,
        mut reply: Reply<RecvBody>,
        mut asked: Asked,
        mut framing: usize,
    ) -> Result<Option<Asked>, ApiError> {
        let mut piece = vec![0; 16 << 10];
        while !reply.is_ended() {
            let (used, length) = reply.read(&self.incoming, &mut piece).map_err(|error| bad(&error))?;
            self.incoming.drain(..used);
            asked.body.extend_from_slice(&piece[..length]);
            framing += used - length;
            if asked.body.len() > BODY_MAX || framing > FRAMING_MAX {
                return Err(too_long());
            }
            if used == 0 && length == 0 {
                break;
            }
        }
        if !reply.is_ended() {
            self.state = State::Body { reply, asked, framing };
            return Ok(None);
        }
        self.state = State::Asked(reply.proceed().map_err(|error| bad(&error))?);
        Ok(Some(asked))
    }

    /// The answer to the request that was taken out.
    pub(super) fn answer(&mut self, answer: &Answer) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Asked(reply) => self.respond(reply, answer),
            // nobody asked
            state @ (State::Head(_) | State::Body { .. } | State::Over) => self.state = state,
        }
    }

    /// An answer to what was no request; then the connection is over.
    pub(super) fn refuse(&mut self, answer: &Answer) {
        self.incoming = Vec::new();
        // The library answers requests only: it is given one that asks for nothing.
        let nothing = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
        let asked = Reply::new().and_then(|mut reply| reply.try_request(nothing).map(|_| reply));
        self.state = State::Over;
        if let Ok(Some(RecvRequestResult::ProvideResponse(reply))) = asked.map(Reply::<RecvRequest>::proceed)
        {
            self.respond(reply, answer);
        }
        self.state = State::Over;
    }

    fn respond(&mut self, reply: Reply<ProvideResponse>, answer: &Answer) {
        let length = answer.body.len();
        let mut response = Response::builder()
            .status(answer.status)
            .header(header::CONTENT_TYPE, answer.kind)
            .header(header::CONTENT_LENGTH, length);
        if let Some(methods) = answer.allow {
            response = response.header(header::ALLOW, methods);
        }
        // It stays over if the library finds a fault with it, which a test would have shown.
        let Ok(mut reply) = response.body(()).map_err(drop).and_then(|r| reply.provide(r).map_err(drop))
        else {
            return;
        };
        let mut out = vec![0; 1024 + length];
        let Ok(written) = reply.write(&mut out) else { return };
        self.outgoing.extend_from_slice(&out[..written]);
        let done = match reply.proceed() {
            SendResponseResult::SendBody(mut reply) => {
                if !self.send_body(&mut reply, &answer.body, &mut out) {
                    return;
                }
                reply.proceed()
            }
            SendResponseResult::Cleanup(reply) => reply,
        };
        if !done.must_close_connection() {
            self.state = fresh();
        }
    }

    fn send_body(&mut self, reply: &mut Reply<SendBody>, mut body: &[u8], out: &mut [u8]) -> bool {
        while !reply.is_finished() {
            match reply.write(body, out) {
                Ok((used, written)) if used > 0 || reply.is_finished() => {
                    body = &body[used..];
                    self.outgoing.extend_from_slice(&out[..written]);
                }
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

fn fresh() -> State {
    Reply::new().map_or(State::Over, State::Head)
}

fn is_framed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// A body that says beforehand that it is too long is not waited for; one that ends in two ways is none
/// (RFC 9112 section 6.1).
fn check_length(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(error(400, "a body has either a content-length or a transfer-encoding".to_owned()));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > BODY_MAX as u64) { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> ApiError {
    error(413, format!("the body is longer than {BODY_MAX} bytes"))
}

fn bad(why: &ureq_proto::Error) -> ApiError {
    if matches!(why, ureq_proto::Error::HttpParseTooManyHeaders) {
        return error(431, "the request has too many fields".to_owned());
    }
    let text: String = why.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    error(400, format!("this is no HTTP/1.1 request: {text}"))
}

pub(super) fn error(status: u16, message: String) -> ApiError {
    ApiError { status, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], chunk: usize) -> (Connection, Vec<Result<Option<Asked>, ApiError>>) {
        let mut connection = Connection::new();
        let results = bytes
            .chunks(chunk)
            .map(|piece| connection.receive(piece))
            .filter(|result| !matches!(result, Ok(None)))
            .collect();
        (connection, results)
    }

    fn one(text: &str) -> Result<Asked, ApiError> {
        let (_, mut whole) = all(text.as_bytes(), usize::MAX);
        assert!(!whole.is_empty(), "nothing comes of {text:?}");
        let whole = whole.remove(0);
        for chunk in [1, 2, 7] {
            let (_, mut cut) = all(text.as_bytes(), chunk);
            assert_eq!(cut.remove(0), whole, "{text:?} cut to {chunk} bytes");
        }
        whole.map(|asked| asked.expect("a request"))
    }

    #[test]
    fn requests_however_cut_and_framed() {
        let put = |head: &str, body: &str| one(&format!("PUT /v1/x HTTP/1.1\r\nhost: x\r\n{head}\r\n{body}"));
        let expected = Asked { method: "PUT".into(), path: "/v1/x".into(), body: b"{\"a\":1}".to_vec() };
        assert_eq!(put("content-length: 7\r\n", "{\"a\":1}"), Ok(expected.clone()));
        let chunked = put("transfer-encoding: chunked\r\n", "3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n");
        assert_eq!(chunked, Ok(expected));
        for bare in
            ["PUT /p HTTP/1.1\r\n\r\n", "POST /p HTTP/1.1\r\nhost: x\r\n\r\n", "GET /p HTTP/1.0\r\n\r\n"]
        {
            let asked = one(bare).expect(bare);
            assert!(asked.path == "/p" && asked.body.is_empty(), "{bare}");
        }
    }

    #[test]
    fn what_is_no_request_gets_the_right_status() {
        let fields: String = (0..200).map(|n| format!("f{n}: x\r\n")).collect();
        for (text, status) in [
            ("nonsense\r\n\r\n".to_owned(), 400),
            ("\u{16}\u{3}\u{1}binary".to_owned(), 400),
            ("GET /p?a=b HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("PUT /p HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(), 400),
            ("PUT /p HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), 400),
            ("PUT /p HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n".to_owned(), 400),
            (format!("PUT /p HTTP/1.1\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1), 413),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(PATH_MAX)), 414),
            (format!("GET /p HTTP/1.1\r\n{fields}\r\n"), 431),
            (format!("GET /p HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD_MAX)), 431),
        ] {
            let error = one(&text).expect_err(&text);
            assert_eq!(error.status, status, "{error}");
            assert!(!error.message.contains('\n'));
        }
        let long = format!("{:x}\r\n{}\r\n", BODY_MAX + 1, "y".repeat(BODY_MAX + 1));
        let (_, mut results) =
            all(format!("PUT /p HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{long}").as_bytes(), 4096);
        assert_eq!(results.remove(0).expect_err("too long").status, 413);
    }

    #[test]
    fn an_answer_is_whole_and_the_connection_goes_on_unless_asked_otherwise() {
        let (mut connection, results) = all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b", usize::MAX);
        assert!(results[0].is_ok() && connection.is_asked() && !connection.wants_read());
        connection.answer(&Answer::json(b"{\"x\":1}".to_vec()));
        let text = String::from_utf8(connection.outgoing().to_vec()).expect("text");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n{\"x\":1}"), "{text}");
        assert!(text.contains("content-length: 7\r\n") && text.contains("application/json"), "{text}");
        connection.sent(text.len());
        assert!(connection.wants_read() && connection.is_within());
        let asked = connection.receive(b" HTTP/1.1\r\nconnection: close\r\n\r\n").expect("a request");
        assert_eq!(asked.expect("whole").path, "/b");
        connection.answer(&Answer::from(&error(405, "use PUT, GET or DELETE".into())));
        let length = connection.outgoing().len();
        connection.sent(length);
        assert!(connection.is_over());
    }

    #[test]
    fn every_answer_can_be_sent_to_every_method() {
        for method in ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"] {
            for answer in [
                Answer::json(Vec::new()),
                Answer::text(503, "text/plain", "x".repeat(100_000)),
                Answer::from(&error(405, "DELETE is not possible here; use GET".into())),
            ] {
                let (mut connection, results) =
                    all(format!("{method} /a HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(), usize::MAX);
                assert!(matches!(results[..], [Ok(Some(_))]), "{method}");
                connection.answer(&answer);
                let sent = connection.outgoing().len();
                let body = if method == "HEAD" { 0 } else { answer.body.len() };
                assert!(sent > body && sent < body + 300, "{method} {sent} {body}");
                connection.sent(sent);
                assert!(connection.wants_read(), "{method}");
            }
        }
        let mut connection = Connection::new();
        connection.receive(b"\0").expect_err("nonsense");
        connection.refuse(&Answer::from(&error(400, "nonsense".into())));
        let text = String::from_utf8(connection.outgoing().to_vec()).expect("text");
        assert!(text.starts_with("HTTP/1.1 400 ") && text.ends_with("{\"error\":\"nonsense\"}"), "{text}");
        connection.sent(text.len());
        assert!(connection.is_over());
    }

    /// A client that wants to be told first gets its go-ahead, or the refusal.
    #[test]
    fn whoever_expects_a_hundred_is_told_to_go_on() {
        let mut connection = Connection::new();
        let head = b"PUT /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        assert_eq!(connection.receive(head), Ok(None));
        assert_eq!(connection.outgoing(), b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.sent(25);
        assert_eq!(connection.receive(b"{}").expect("ok").expect("whole").body, b"{}");
    }
}
