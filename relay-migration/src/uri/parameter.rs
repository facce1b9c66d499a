//! What stands behind the `?`.

use std::fmt;

use super::transport::Transport;
use crate::invalid::{Invalid, invalid, shown};

/// Makes an enum whose values are words of libvirt's.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident of $parameter:literal { $($(#[$item_doc:meta])* $item:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$item_doc])* $item,)+ }

        impl $name {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$item,)+];

            /// As it is written.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$item => $word,)+ }
            }

            fn read(text: &str) -> Result<Self, Invalid> {
                match Self::ALL.iter().find(|item| item.word() == text) {
                    Some(item) => Ok(*item),
                    None => {
                        let words: Vec<_> = Self::ALL.iter().map(|item| item.word()).collect();
                        invalid(format!(
                            "{}={} is none of {}", $parameter, shown(text), words.join(", ")
                        ))
                    }
                }
            }
        }
    };
}

words! {
    /// Which daemon to connect to.
    Mode of "mode" {
        /// Found out.
        Auto = "auto",
        /// The driver's own daemon, as virtqemud.
        Direct = "direct",
        /// The one daemon for all, libvirtd.
        Legacy = "legacy",
    }
}

words! {
    /// What carries the protocol on the far side of an ssh connection.
    Proxy of "proxy" {
        /// libvirt's own program, else netcat.
        Auto = "auto",
        /// netcat.
        Netcat = "netcat",
        /// libvirt's own program.
        Native = "native",
    }
}

words! {
    /// How to treat a host key that is not known.
    KnownHostsVerify of "known_hosts_verify" {
        /// The user is asked.
        Normal = "normal",
        /// A new one is accepted, a known one checked.
        Auto = "auto",
        /// None is checked.
        Ignore = "ignore",
    }
}

words! {
    /// A way to prove who one is.
    SshAuth of "sshauth" {
        /// An ssh agent.
        Agent = "agent",
        /// A private key.
        Privkey = "privkey",
        /// A password.
        Password = "password",
        /// Questions and answers.
        KeyboardInteractive = "keyboard-interactive",
    }
}

/// One extra parameter, understood as far as the URI's transport knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Parameter {
    /// `name`: the URI passed to the daemon instead of the rest of this one.
    Name(String),
    /// `mode`
    Mode(Mode),
    /// `socket`: path of the daemon's unix socket, there.
    Socket(String),
    /// `tls_priority`: GnuTLS' priority string.
    TlsPriority(String),
    /// `no_verify`: the server's certificate, or a new ssh host key, is not checked.
    NoVerify(bool),
    /// `pkipath`: directory of CA certificate, client certificate and key.
    PkiPath(String),
    /// `proxy`
    Proxy(Proxy),
    /// `command`: path of the ssh program, or of the one for `ext`.
    Command(String),
    /// `netcat`: name of that program, there.
    Netcat(String),
    /// `keyfile`: path of the private key.
    Keyfile(String),
    /// `no_tty`: ssh does not ask for a password.
    NoTty(bool),
    /// `known_hosts`: path of that file.
    KnownHosts(String),
    /// `known_hosts_verify`
    KnownHostsVerify(KnownHostsVerify),
    /// `sshauth`: what to try, in this order.
    SshAuth(Vec<SshAuth>),
    /// One that the transport does not know; it is the driver's.
    Other {
        /// As written.
        name: String,
        /// Possibly empty.
        value: String,
    },
}

/// Whether any transport knows a parameter of this name.
pub(super) fn is_known(name: &str) -> bool {
    Transport::ALL.iter().any(|transport| canonical(*transport, name).is_some())
}

/// The name as libvirt writes it, if the transport knows it; it is compared without case.
fn canonical(transport: Transport, name: &str) -> Option<&'static str> {
    transport.parameters().iter().find(|known| known.eq_ignore_ascii_case(name)).copied()
}

impl Parameter {
    /// Understands a parameter for a URI of that transport (none if it is local).
    ///
    /// # Errors
    /// If its value is none for it.
    pub fn new(transport: Option<Transport>, name: &str, value: &str) -> Result<Self, Invalid> {
        let known = transport.and_then(|transport| canonical(transport, name));
        let text = || {
            check_value(known.unwrap_or(name), value)?;
            Ok(value.to_owned())
        };
        let Some(known) = known else {
            return Ok(Self::Other { name: name.to_owned(), value: value.to_owned() });
        };
        Ok(match known {
            "name" => Self::Name(text()?),
            "mode" => Self::Mode(Mode::read(value)?),
            "socket" => Self::Socket(text()?),
            "tls_priority" => Self::TlsPriority(text()?),
            "no_verify" => Self::NoVerify(flag(known, value)?),
            "pkipath" => Self::PkiPath(text()?),
            "proxy" => Self::Proxy(Proxy::read(value)?),
            "command" => Self::Command(text()?),
            "netcat" => Self::Netcat(text()?),
            "keyfile" => Self::Keyfile(text()?),
            "no_tty" => Self::NoTty(flag(known, value)?),
            "known_hosts" => Self::KnownHosts(text()?),
            "known_hosts_verify" => Self::KnownHostsVerify(KnownHostsVerify::read(value)?),
            "sshauth" => Self::SshAuth(value.split(',').map(SshAuth::read).collect::<Result<_, _>>()?),
            _ => Self::Other { name: name.to_owned(), value: value.to_owned() },
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Name(_) => "name",
            Self::Mode(_) => "mode",
            Self::Socket(_) => "socket",
            Self::TlsPriority(_) => "tls_priority",
            Self::NoVerify(_) => "no_verify",
            Self::PkiPath(_) => "pkipath",
            Self::Proxy(_) => "proxy",
            Self::Command(_) => "command",
            Self::Netcat(_) => "netcat",
            Self::Keyfile(_) => "keyfile",
            Self::NoTty(_) => "no_tty",
            Self::KnownHosts(_) => "known_hosts",
            Self::KnownHostsVerify(_) => "known_hosts_verify",
            Self::SshAuth(_) => "sshauth",
            Self::Other { name, .. } => name,
        }
    }

    /// Its value, not escaped.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Name(text)
            | Self::Socket(text)
            | Self::TlsPriority(text)
            | Self::PkiPath(text)
            | Self::Command(text)
            | Self::Netcat(text)
            | Self::Keyfile(text)
            | Self::KnownHosts(text) => text.clone(),
            Self::Other { value, .. } => value.clone(),
            Self::NoVerify(on) | Self::NoTty(on) => if *on { "1" } else { "0" }.to_owned(),
            Self::Mode(mode) => mode.word().to_owned(),
            Self::Proxy(proxy) => proxy.word().to_owned(),
            Self::KnownHostsVerify(verify) => verify.word().to_owned(),
            Self::SshAuth(ways) => ways.iter().map(|way| way.word()).collect::<Vec<_>>().join(","),
        }
    }

    /// Whether reading it again for that transport would give the same.
    pub(super) fn check(&self, transport: Option<Transport>) -> Result<(), Invalid> {
        let name = self.name();
        if name.is_empty() || name.contains('\0') {
            return invalid(format!("{} is no parameter's name", shown(name)));
        }
        let value = self.value();
        if value.contains('\0') {
            return invalid(format!("the value of {} contains a NUL", shown(name)));
        }
        if Self::new(transport, name, &value)? == *self {
            return Ok(());
        }
        let of = transport.map_or("a local URI", Transport::name);
        invalid(format!("{} is no parameter of {of}", shown(name)))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name(), self.value())
    }
}

fn check_value(name: &str, value: &str) -> Result<(), Invalid> {
    if value.is_empty() {
        invalid(format!("the parameter {name} has no value; write {name}=VALUE"))
    } else {
        Ok(())
    }
}

/// "If set to a non-zero value": libvirt reads a decimal integer of C's.
fn flag(name: &str, value: &str) -> Result<bool, Invalid> {
    match value.parse::<i32>() {
        Ok(number) => Ok(number != 0),
        Err(_) => invalid(format!("{name}={} is no number; write {name}=1 or {name}=0", shown(value))),
    }
}
