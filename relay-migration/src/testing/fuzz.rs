//! Bodies for fuzzers: any bytes at all, and what must hold for them. A panic is a finding.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use crate::api;
use crate::roles::RuleSet;
use crate::uri::{self, SocketUri, Uri};
use crate::vmi::{self, ObjectStream, Seen};
use crate::{Backends, BaseDir, Host, Invalid, Key, PortMap, SocketPath};

/// libvirt URIs: what is accepted is printed, read and printed again without change; what is not gets
/// one line.
pub fn libvirt_uri(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    there_and_back::<SocketUri>(text);
    if let Some(uri) = there_and_back::<Uri>(text) {
        assert!(uri.to_string().len() <= uri::MAX, "longer than it may be: {uri}");
        assert_eq!(Uri::new(uri.parts().clone()), Ok(uri.clone()), "its parts make the same one");
        assert!(uri.warnings().iter().all(|line| !line.contains('\n')));
    }
}

/// Keys, hosts, paths.
pub fn names(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    there_and_back::<Key>(text);
    there_and_back::<Host>(text);
    there_and_back::<BaseDir>(text);
    there_and_back::<SocketPath>(text);
}

/// Port maps and backends, as JSON.
pub fn maps(data: &[u8]) {
    let Some(text) = utf8(data) else { return };
    there_and_back::<PortMap>(text);
    if let Ok(backends) = serde_json::from_slice::<Backends>(data) {
        let printed = serde_json::to_vec(&backends).unwrap_or_default();
        assert_eq!(serde_json::from_slice(&printed).ok(), Some(backends));
    }
}

/// VirtualMachineInstances: the stream is cut into objects, each is read, and both rule sets say what to
/// do about it.
pub fn vmis(data: &[u8]) {
    let mut stream = ObjectStream::new(1 << 16);
    stream.push(data);
    while let Some(object) = stream.next_object() {
        match object.map(|object| vmi::read(&object)) {
            Ok(Ok(Seen::Present(vmi))) => {
                for rules in [RuleSet::Classic, RuleSet::Current] {
                    let roles = rules.roles(&vmi, "node01");
                    assert!(rules == RuleSet::Current || !(roles.target && roles.source));
                    if let Err(error) = rules.wishes(&vmi, "node01") {
                        one_line(&error.to_string());
                    }
                }
            }
            Ok(Ok(Seen::All(vmis))) => {
                vmis.iter().filter_map(|v| v.as_ref().err()).for_each(|e| one_line(&e.to_string()))
            }
            Ok(Ok(Seen::Gone(_) | Seen::Nothing)) => {}
            Ok(Err(error)) => one_line(&error.to_string()),
            Err(error) => one_line(&error.to_string()),
        }
    }
}

/// Calls of the control API: the first line is method and address, the rest the body.
pub fn api_call(data: &[u8]) {
    let (line, body) = match data.iter().position(|b| *b == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let Some((method, path)) = utf8(line).and_then(|line| line.split_once(' ')) else { return };
    if let Err(error) = api::parse(method, path, body) {
        one_line(&error.message);
        assert!((400..500).contains(&error.status), "{error}");
        assert!(serde_json::from_slice::<serde_json::Value>(&error.body()).is_ok());
    }
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && text.len() < 4000, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn utf8(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

fn there_and_back<T>(text: &str) -> Option<T>
where
    T: FromStr<Err = Invalid> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            let again = printed.parse::<T>();
            assert_eq!(again.as_ref(), Ok(&value), "{text:?} was printed as {printed:?}");
            Some(value)
        }
        Err(error) => {
            one_line(&error.to_string());
            None
        }
    }
}
