//! libvirt's connection URIs, parsed, printed and built.
//!
//! ```text
//! driver[+transport]://[username@][hostname][:port]/[path][?extraparameters]
//! ```
//!
//! The grammar and the parameters are those of libvirt's `docs/uri.rst`; where that leaves something
//! open, what libvirt's parser does (`src/util/viruri.c`, `src/remote/remote_driver.c`). Whatever
//! [`FromStr`](std::str::FromStr) accepts, `Display` prints in one form, and reading that gives the
//! same URI again.

mod escape;
mod migration;
mod parameter;
mod parse;
mod print;
mod transport;

use crate::host::Host;
use crate::invalid::{Invalid, invalid, shown};

pub use migration::{Daemon, MigrationUris, SocketUri};
pub use parameter::{KnownHostsVerify, Mode, Parameter, Proxy, SshAuth};
pub use transport::Transport;

/// Bytes a URI may have.
pub const MAX: usize = 8192;

/// What a URI is made of, with nothing escaped.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Parts {
    /// The hypervisor driver: `qemu`, `xen`, `test` … in lower case.
    pub driver: String,
    /// How to get there, if it is said.
    pub transport: Option<Transport>,
    /// Whom to log in as, for the ssh transports.
    pub username: Option<String>,
    /// The machine.
    pub host: Option<Host>,
    /// Its port, if it is not the transport's own.
    pub port: Option<u16>,
    /// `/system`, `/session`, …: with the slash in front, or empty.
    pub path: String,
    /// In the order in which they were given. If one is there more than once, libvirt takes the last.
    pub parameters: Vec<Parameter>,
}

/// A libvirt connection URI.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Uri(Parts);

impl Uri {
    /// Puts one together.
    ///
    /// # Errors
    /// If it would not be one: the message says which part, and what would be right.
    pub fn new(parts: Parts) -> Result<Self, Invalid> {
        check_driver(&parts.driver)?;
        if parts.transport == Some(Transport::Unix)
            && let Some(host) = &parts.host
        {
            return invalid(format!(
                "the unix transport reaches this machine only, and here is the host {host}; leave one of them out"
            ));
        }
        if let Some(name) = &parts.username {
            check_text("user name", name)?;
        }
        check_path(&parts)?;
        if parts.port == Some(0) {
            return invalid("port 0 can't be dialed; leave it out for the transport's own");
        }
        let transport = Transport::in_use(parts.transport, parts.host.as_ref());
        for parameter in &parts.parameters {
            parameter.check(transport)?;
        }
        let uri = Self(parts);
        let length = uri.to_string().len();
        if length > MAX {
            return invalid(format!("the URI has {length} bytes; it may have {MAX}"));
        }
        Ok(uri)
    }

    /// What it is made of.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.0
    }

    /// Whether it names another daemon than the local default: it has a transport or a host.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        self.0.transport.is_some() || self.0.host.is_some()
    }

    /// The transport in use: [`Tls`](Transport::Tls) if there is only a host; none if it is local.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        Transport::in_use(self.0.transport, self.0.host.as_ref())
    }

    /// The TCP port in use: the one given, else the transport's own.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let own = || self.transport().and_then(Transport::default_port);
        self.0.port.or_else(own)
    }

    /// The value in force of the parameter that `pick` knows: the last one.
    ///
    /// ```
    /// use relay_migration::uri::{Parameter, Uri};
    /// let uri: Uri = "qemu+unix:///system?socket=/run/x.sock".parse()?;
    /// let socket = uri.parameter(|p| if let Parameter::Socket(path) = p { Some(path) } else { None });
    /// assert_eq!(socket.map(String::as_str), Some("/run/x.sock"));
    /// # Ok::<(), relay_migration::Invalid>(())
    /// ```
    pub fn parameter<'a, T>(&'a self, pick: impl FnMut(&'a Parameter) -> Option<T>) -> Option<T> {
        self.0.parameters.iter().rev().find_map(pick)
    }

    /// What libvirt would accept but not do as one may think: a line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let transport = self.transport();
        for parameter in &self.0.parameters {
            if let Parameter::Other { name, .. } = parameter
                && parameter::is_known(name)
            {
                let of = transport.map_or_else(|| "a local URI".to_owned(), |t| format!("the transport {t}"));
                warnings.push(format!("{of} has no parameter {name}; it is passed to the driver"));
            }
        }
        if transport == Some(Transport::Tcp) {
            warnings.push("the transport tcp is not encrypted".to_owned());
        }
        if self.parameter(|p| if let Parameter::NoVerify(off) = p { Some(*off) } else { None }) == Some(true)
        {
            warnings.push("no_verify: the other side is not checked".to_owned());
        }
        let proxy = self.parameter(|p| if let Parameter::Proxy(proxy) = p { Some(*proxy) } else { None });
        let has_netcat = self.0.parameters.iter().any(|p| matches!(p, Parameter::Netcat(_)));
        if proxy == Some(Proxy::Native) && has_netcat {
            warnings.push("netcat is not permitted with proxy=native; libvirt will refuse it".to_owned());
        }
        warnings
    }
}

fn check_driver(driver: &str) -> Result<(), Invalid> {
    let fits = driver.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !fits || driver.len() > 32 || !driver.starts_with(|c: char| c.is_ascii_lowercase()) {
        return invalid(format!("{} is no driver; it is a name as qemu or xen", shown(driver)));
    }
    Ok(())
}

fn check_path(parts: &Parts) -> Result<(), Invalid> {
    let path = &parts.path;
    if path.is_empty() {
        let somewhere = parts.host.is_some() || parts.port.is_some() || parts.username.is_some();
        return if somewhere { Ok(()) } else { invalid("the path is missing, as in qemu:///system") };
    }
    if !path.starts_with('/') {
        return invalid(format!("the path {} does not begin with '/', as /system does", shown(path)));
    }
    check_text("path", path)
}

fn check_text(what: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return invalid(format!("the {what} is empty; leave it out, or write one"));
    }
    if text.contains('\0') {
        return invalid(format!(
            "the {what} {} contains a NUL, which libvirt takes for its end",
            shown(text)
        ));
    }
    Ok(())
}
