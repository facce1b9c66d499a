//! Where a node listens or dials, as written on a command line.
//!
//! ```text
//! unix:PATH   unix:@ABSTRACT   tcp:HOST:PORT   tls:HOST:PORT   fd:NAME
//! ```
//!
//! HOST is an IPv4 address, an IPv6 address in brackets (a zone may follow: `[fe80::1%eth0]`,
//! RFC 4007 section 11) or a name. PORT 0 means "any" and makes sense for a listener only.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use relay_migration::Host;
use relay_migration::Invalid;

/// Bytes a unix socket's path or abstract name may have: unix(7) gives `sun_path` 108 bytes, of
/// which one is the terminating NUL of a path, or the leading NUL of an abstract name.
pub const UNIX_NAME_MAX: usize = 107;

/// One end of a route. `Display` prints what [`FromStr`] reads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// A unix stream socket in the file system.
    Unix(PathBuf),
    /// A unix stream socket in the abstract namespace of this network namespace (unix(7)).
    Abstract(String),
    /// TCP in plaintext.
    Tcp(HostPort),
    /// TLS over TCP.
    Tls(HostPort),
    /// A listening socket inherited under this name (`LISTEN_FDNAMES`, sd_listen_fds_with_names(3)).
    Fd(String),
}

impl Endpoint {
    /// Whether bytes to and from here are protected by TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Host and port, for what has them.
    #[must_use]
    pub const fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::Tcp(at) | Self::Tls(at) => Some(at),
            Self::Unix(_) | Self::Abstract(_) | Self::Fd(_) => None,
        }
    }
}

/// A host and a port, the host possibly a name. `Display` writes an IPv6 address in brackets; the host's
/// own does not, as a certificate check or a name lookup wants it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V4(v4) => Host::V4(*v4.ip()),
            SocketAddr::V6(v6) => {
                let zone = (v6.scope_id() != 0).then(|| v6.scope_id().to_string());
                Host::V6(*v6.ip(), zone)
            }
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tcp(at) => write!(f, "tcp:{at}"),
            Self::Tls(at) => write!(f, "tls:{at}"),
            Self::Fd(name) => write!(f, "fd:{name}"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::V6(..) => write!(f, "[{}]:{}", self.host, self.port),
            Host::V4(_) | Host::Name(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a text is no endpoint: one line that says what was wrong and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(text.into()))
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return wrong(format!("an endpoint may not contain the control character {c:?}"));
        }
        match text.split_once(':') {
            Some(("unix", rest)) => parse_unix(rest),
            Some(("tcp", rest)) => rest.parse().map(Self::Tcp),
            Some(("tls", rest)) => rest.parse().map(Self::Tls),
            Some(("fd", rest)) => parse_fd(rest),
            Some((kind, _)) => wrong(format!(
                "unknown kind of endpoint '{kind}:'; it is one of unix:PATH, unix:@ABSTRACT, tcp:HOST:PORT, tls:HOST:PORT, fd:NAME"
            )),
            None if text.starts_with('/') => wrong(format!("a path needs its kind in front: unix:{text}")),
            None => wrong(
                "an endpoint is one of unix:PATH, unix:@ABSTRACT, tcp:HOST:PORT, tls:HOST:PORT, fd:NAME",
            ),
        }
    }
}

fn parse_unix(rest: &str) -> Result<Endpoint, ParseError> {
    let (what, name) = match rest.strip_prefix('@') {
        Some(name) => ("abstract name", name),
        None => ("path", rest),
    };
    if name.is_empty() {
        return wrong(format!("the {what} is empty; write unix:/run/x.sock or unix:@name"));
    }
    if name.len() > UNIX_NAME_MAX {
        return wrong(format!(
            "the {what} of a unix socket may have {UNIX_NAME_MAX} bytes (unix(7)), this one has {}; use a shorter one",
            name.len()
        ));
    }
    if rest.starts_with('@') {
        return Ok(Endpoint::Abstract(name.to_owned()));
    }
    if Path::new(name).file_name().is_none() || name.ends_with('/') {
        return wrong(format!(
            "'{name}' is a directory's name; a socket needs a file name, as in unix:/run/x.sock"
        ));
    }
    Ok(Endpoint::Unix(PathBuf::from(name)))
}

fn parse_fd(name: &str) -> Result<Endpoint, ParseError> {
    // systemd.socket(5), FileDescriptorName=: at most 255 ASCII characters, no control, no ':'.
    if name.is_empty() {
        return wrong("the name is empty; write fd:NAME, with the FileDescriptorName= of the socket unit");
    }
    if name.len() > 255 || !name.chars().all(|c| c.is_ascii_graphic() && c != ':') {
        return wrong(format!("'{name}' can't be the name of an inherited socket (systemd.socket(5))"));
    }
    Ok(Endpoint::Fd(name.to_owned()))
}

impl FromStr for HostPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (host, port) = if let Some(inner) = text.strip_prefix('[') {
            let Some((address, after)) = inner.split_once(']') else {
                return wrong("the bracket of the IPv6 address is not closed; write [ADDRESS]:PORT");
            };
            let Some(port) = after.strip_prefix(':') else {
                return wrong(format!("the port is missing; write [{address}]:PORT"));
            };
            (parse_v6(address)?, port)
        } else {
            let Some((host, port)) = text.rsplit_once(':') else {
                return wrong(format!("the port is missing; write {text}:PORT"));
            };
            if host.contains(':') {
                return wrong(format!(
                    "an IPv6 address stands in brackets; write [{host}]:{port} or [ADDRESS]:PORT"
                ));
            }
            (parse_host(host)?, port)
        };
        // u16::from_str would also take "+80".
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse() {
            Ok(port) if digits => Ok(Self { host, port }),
            _ => wrong(format!("'{port}' is no port; it is a number from 0 (any) to 65535")),
        }
    }
}

fn parse_v6(text: &str) -> Result<Host, ParseError> {
    match text.parse() {
        Ok(host @ Host::V6(..)) => Ok(host),
        Ok(Host::V4(_) | Host::Name(_)) => {
            wrong(format!("'{text}' is no IPv6 address, and only those stand in brackets"))
        }
        Err(error) => wrong(error.to_string()),
    }
}

fn parse_host(text: &str) -> Result<Host, ParseError> {
    if text.is_empty() {
        return wrong("the host is missing; [::] stands for every address of this machine");
    }
    text.parse().map_err(|error: Invalid| ParseError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        text.parse::<Endpoint>().expect_err(text).to_string()
    }

    #[test]
    fn what_is_written_is_printed_again() {
        for text in [
            "unix:/run/x.sock",
            "unix:x",
            "unix:./@x",
            "unix:@name with space",
            "tcp:127.0.0.1:80",
            "tls:[::]:0",
            "tls:[fe80::1%eth0]:1",
            "tcp:node-1.example.org:65535",
            "tcp:localhost.:1",
            "fd:ram",
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, says) in [
            ("", "is one of unix:PATH"),
            ("/run/x", "unix:/run/x"),
            ("http:x", "unknown kind of endpoint 'http:'"),
            ("unix:", "path is empty"),
            ("unix:@", "abstract name is empty"),
            ("unix:/run/", "needs a file name"),
            ("unix:..", "needs a file name"),
            ("tcp:", "port is missing"),
            ("tcp::80", "[::] stands for every address"),
            ("tcp:1.2.3:80", "four numbers"),
            ("tcp:1.2.3.4:", "number from 0 (any) to 65535"),
            ("tcp:1.2.3.4:+80", "number from 0 (any) to 65535"),
            ("tcp:1.2.3.4:65536", "number from 0 (any) to 65535"),
            ("tcp:::1:80", "[::1]:80"),
            ("tls:[::1", "not closed"),
            ("tls:[::1]", "port is missing"),
            ("tls:[1.2.3.4]:80", "no IPv6 address"),
            ("tls:[fe80::1%]:80", "as in fe80::1%eth0"),
            ("tls:a b:80", "neither an address nor a host name"),
            ("fd:", "name is empty"),
            ("fd:a:b", "can't be the name"),
            ("unix:a\nb", "control character"),
        ] {
            let message = error(text);
            assert!(message.contains(says), "{text:?} gave {message:?}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn a_path_of_107_bytes_is_the_longest() {
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(longest.parse::<Endpoint>().is_ok());
        assert!(error(&format!("{longest}x")).contains("this one has 108"));
        let longest = format!("unix:@{}", "x".repeat(107));
        assert!(longest.parse::<Endpoint>().is_ok());
        assert!(error(&format!("{longest}x")).contains("this one has 108"));
    }

    fn host() -> impl Strategy<Value = Host> {
        prop_oneof![
            any::<u32>().prop_map(|n| Host::V4(n.into())),
            (any::<u128>(), proptest::option::of("[a-z0-9.:-]{1,15}"))
                .prop_map(|(n, z)| Host::V6(n.into(), z)),
            "([a-z_][a-z0-9-]{0,20}\\.){0,3}[a-z][a-z0-9-]{0,20}".prop_map(Host::Name),
        ]
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let at = || (host(), any::<u16>()).prop_map(|(host, port)| HostPort { host, port });
        prop_oneof![
            "[a-zA-Z0-9 @:/é-]{0,50}[a-z]"
                .prop_filter("abstract", |p| !p.starts_with('@'))
                .prop_map(|p| Endpoint::Unix(p.into())),
            "[ -~]{1,107}".prop_map(Endpoint::Abstract),
            at().prop_map(Endpoint::Tcp),
            at().prop_map(Endpoint::Tls),
            "[!-9;-~]{1,255}".prop_map(Endpoint::Fd),
        ]
    }

    proptest! {
        #[test]
        fn every_endpoint_survives_the_round_trip(endpoint in endpoint()) {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
        }

        #[test]
        fn no_text_panics_and_what_parses_is_stable(text in "(unix:|tcp:|tls:|fd:|)[\\PC\u{0}]{0,120}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}
