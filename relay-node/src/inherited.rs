//! Sockets handed down by a service manager: `fd:NAME` (sd_listen_fds_with_names(3)).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

/// The descriptors that were inherited, each to be taken once.
pub struct Inherited {
    fds: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    /// Reads `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, and takes the first two out of the
    /// environment, so that no child mistakes them for its own. To be called before any thread is
    /// started: the environment belongs to the whole process.
    #[must_use]
    pub fn from_env() -> Self {
        let fds = ListenFd::from_env();
        let names = match std::env::var("LISTEN_FDNAMES") {
            Ok(names) => names.split(':').map(str::to_owned).collect(),
            // sd_listen_fds_with_names(3): this is what nameless ones are called
            Err(_) => vec!["unknown".to_owned(); fds.len()],
        };
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
        for (index, _) in self.names.iter().enumerate().filter(|(_, known)| *known == name) {
            let unix = self.fds.take_custom(index, libc::AF_UNIX, libc::SOCK_STREAM, "unix stream socket");
            if let Ok(Some(fd)) = unix {
                return Ok(fd);
            }
            // AF_INET stands for both families here
            if let Some(fd) =
                self.fds.take_custom(index, libc::AF_INET, libc::SOCK_STREAM, "stream socket")?
            {
                return Ok(fd);
            }
        }
        let what =
            format!("no socket named '{name}' was inherited (or it is taken already); see systemd.socket(5)");
        Err(io::Error::new(io::ErrorKind::NotFound, what))
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
        assert!(error.to_string().contains("'ram'"));
    }
}
