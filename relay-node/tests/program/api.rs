//! A client of the control API that is not ours: HTTP by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One call, on a connection of its own: status and body.
pub(crate) fn call(control: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut stream = connect(control);
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    parse(&answer)
}

pub(crate) fn connect(control: &str) -> UnixStream {
    let stream = UnixStream::connect(Path::new(control)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("option");
    stream
}

/// Status and body of a whole answer.
pub(crate) fn parse(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, body.to_owned())
}

/// A call that must succeed.
pub(crate) fn ok(control: &str, method: &str, path: &str, body: &str) -> serde_json::Value {
    let (status, text) = call(control, method, path, body);
    assert_eq!(status, 200, "{method} {path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}"))
}
