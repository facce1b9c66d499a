//! Sockets handed down by a service manager: `fd:NAME` (sd_listen_fds_with_names(3)).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

/// What a socket without a name is called (sd_listen_fds_with_names(3)).
const NAMELESS: &str = "unknown";

/// The descriptors that were inherited, each to be taken once.
pub struct Inherited {
    fds: ListenFd,
    /// Of each, and whether it is still there.
    names: Vec<(String, bool)>,
}

impl Inherited {
    /// Reads `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, and takes the first two out of the
    /// environment, so that no child mistakes them for its own. To be called before any thread is
    /// started: the environment belongs to the whole process.
    ///
    /// As sd_listen_fds(3) has it, nothing is inherited without a `LISTEN_PID` that is this process: the
    /// variables may be meant for a parent, and the descriptors be something else by now.
    #[must_use]
    pub fn from_env() -> Self {
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        // In any case: it takes the variables away, too.
        let fds = ListenFd::from_env();
        if !is_ours {
            return Self::none();
        }
        let given = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let given = given.split(':').map(|name| if name.is_empty() { NAMELESS } else { name });
        let names = given.chain(std::iter::repeat(NAMELESS)).take(fds.len());
        let names = names.map(|name| (name.to_owned(), true)).collect();
        Self { fds, names }
    }

    /// Nothing inherited.
    #[must_use]
    pub fn none() -> Self {
        Self { fds: ListenFd::empty(), names: Vec::new() }
    }

    /// Takes the first socket of this name that is still there. Several may share one name.
    ///
    /// # Errors
    /// `NotFound` if there is none (left); `InvalidInput` if it is no unix or TCP stream socket.
    pub fn take(&mut self, name: &str) -> io::Result<OwnedFd> {
        for (index, (_, is_there)) in
            self.names.iter_mut().enumerate().filter(|(_, (known, _))| known == name)
        {
            let unix = self.fds.take_custom(index, libc::AF_UNIX, libc::SOCK_STREAM, "unix stream socket");
            if let Ok(Some(fd)) = unix {
                *is_there = false;
                return Ok(fd);
            }
            // AF_INET stands for both families here
            if let Some(fd) =
                self.fds.take_custom(index, libc::AF_INET, libc::SOCK_STREAM, "stream socket")?
            {
                *is_there = false;
                return Ok(fd);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, self.missing(name)))
    }

    fn missing(&self, name: &str) -> String {
        let (all, left) = (self.names.iter().filter(|(known, _)| known == name).count(), self.left());
        let left = match left.as_slice() {
            [] => "no others are left".to_owned(),
            names => format!("those left are named {}", names.join(", ")),
        };
        match (all, self.names.len()) {
            (_, 0) => format!("no socket named '{name}' was inherited, and no other (systemd.socket(5))"),
            (0, _) => format!("no socket named '{name}' was inherited; {left}"),
            (1, _) => format!("the one socket named '{name}' that was inherited is taken already; {left}"),
            _ => format!("the {all} sockets named '{name}' that were inherited are taken already; {left}"),
        }
    }

    /// The names of those that nobody has taken.
    fn left(&self) -> Vec<&str> {
        self.names.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name.as_str()).collect()
    }

    /// Warns of those that nobody has taken: who connects there waits for ever.
    pub(crate) fn tell_left(&self) {
        for name in self.left() {
            log::warn!(name = name; "an inherited socket is not listened on: its clients would wait for ever; give fd:NAME once for each socket of a name");
        }
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inherited").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_inherited_is_not_found() {
        let error = Inherited::none().take("ram").expect_err("nothing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("no socket named 'ram' was inherited, and no other"));
    }
}
