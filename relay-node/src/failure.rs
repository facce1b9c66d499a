//! What an operating system's error means to a session. The one place where errno is sorted.

use std::io;

use relay_core::error::Failure;

/// Sorts an error of connect(2), recv(2), send(2), accept(2) and their relatives.
///
/// `EAGAIN` is [`Failure::Busy`]: the pump never sees one here (it is its `WouldBlock`), so what is
/// left is connect(2) on a unix socket whose backlog is full, which gives no readiness event and
/// has to be retried by time.
#[must_use]
pub fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::ECONNABORTED) => Failure::Reset,
        // ENOTCONN: shutdown(2) of a TCP socket whose reset was taken note of before
        Some(libc::EPIPE | libc::ENOTCONN) => Failure::BrokenPipe,
        Some(libc::ETIMEDOUT) => Failure::TimedOut,
        Some(libc::ECONNREFUSED) => Failure::Refused,
        Some(libc::ENOENT) => Failure::NotFound,
        Some(
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENETDOWN | libc::EHOSTDOWN,
        ) => Failure::Unreachable,
        Some(libc::EACCES | libc::EPERM) => Failure::Denied,
        Some(libc::EAGAIN) => Failure::Busy,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Failure::Exhausted,
        Some(number) => Failure::Os(number),
        None => KINDS.iter().find(|(kind, _)| *kind == error.kind()).map_or(Failure::Other, |(_, f)| *f),
    }
}

/// An error in the system's words, without its number: that is for those who read headers.
pub(crate) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

/// Errors without a number: std's own, and those of streams that are no sockets.
const KINDS: [(io::ErrorKind, Failure); 18] = [
    (io::ErrorKind::WriteZero, Failure::WriteZero),
    (io::ErrorKind::UnexpectedEof, Failure::Truncated),
    (io::ErrorKind::ConnectionReset, Failure::Reset),
    (io::ErrorKind::ConnectionAborted, Failure::Reset),
    (io::ErrorKind::BrokenPipe, Failure::BrokenPipe),
    (io::ErrorKind::TimedOut, Failure::TimedOut),
    (io::ErrorKind::ConnectionRefused, Failure::Refused),
    (io::ErrorKind::NotFound, Failure::NotFound),
    (io::ErrorKind::HostUnreachable, Failure::Unreachable),
    (io::ErrorKind::PermissionDenied, Failure::Denied),
    (io::ErrorKind::InvalidData, Failure::Protocol),
    (io::ErrorKind::NetworkUnreachable, Failure::Unreachable),
    (io::ErrorKind::NetworkDown, Failure::Unreachable),
    (io::ErrorKind::AddrNotAvailable, Failure::Unreachable),
    (io::ErrorKind::WouldBlock, Failure::Busy),
    (io::ErrorKind::OutOfMemory, Failure::Exhausted),
    (io::ErrorKind::NotConnected, Failure::BrokenPipe),
    (io::ErrorKind::AddrInUse, Failure::Os(libc::EADDRINUSE)),
];

/// Whether accept(2) failed for want of descriptors or memory: accepting must pause, and resume by
/// time as well as when a descriptor is freed, since no readiness event follows.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    failure(error) == Failure::Exhausted
}

/// Whether accept(2) failed for the sake of that one connection only, so that the next one may be
/// taken at once. accept(2), "Error handling": Linux passes pending network errors on here.
#[must_use]
pub fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_by_meaning() {
        for (number, expected) in [
            (libc::ECONNRESET, Failure::Reset),
            (libc::EPIPE, Failure::BrokenPipe),
            (libc::ETIMEDOUT, Failure::TimedOut),
            (libc::ECONNREFUSED, Failure::Refused),
            (libc::ENOENT, Failure::NotFound),
            (libc::ENETUNREACH, Failure::Unreachable),
            (libc::EACCES, Failure::Denied),
            (libc::EWOULDBLOCK, Failure::Busy),
            (libc::EMFILE, Failure::Exhausted),
            (libc::ENOTCONN, Failure::BrokenPipe),
            (libc::EIO, Failure::Os(libc::EIO)),
        ] {
            assert_eq!(failure(&io::Error::from_raw_os_error(number)), expected);
        }
        assert_eq!(failure(&io::ErrorKind::WriteZero.into()), Failure::WriteZero);
        assert_eq!(failure(&io::Error::new(io::ErrorKind::BrokenPipe, "a duplex")), Failure::BrokenPipe);
        assert_eq!(failure(&io::ErrorKind::NotConnected.into()), Failure::BrokenPipe);
        assert_eq!(failure(&io::ErrorKind::WouldBlock.into()), Failure::Busy);
        assert_eq!(failure(&io::Error::other("x")), Failure::Other);
    }

    #[test]
    fn accept_errors_are_one_kind_or_the_other() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_exhausted(&error) && !is_of_one_connection(&error));
        }
        let error = io::Error::from_raw_os_error(libc::ECONNABORTED);
        assert!(!is_exhausted(&error) && is_of_one_connection(&error));
    }
}
