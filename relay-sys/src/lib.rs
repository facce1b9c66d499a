//! System calls that neither std nor socket2 nor rustix offers: the only crate with `unsafe` code.

#[cfg(feature = "tokio")]
mod edges;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(feature = "tokio")]
pub use edges::Edges;

/// Bytes in a socket's send queue that its peer has not acknowledged (tcp(7), SIOCOUTQ).
///
/// # Errors
/// As ioctl(2).
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which SIOCOUTQ is another name for, writes one int to where the third
    // argument points; `bytes` is one and outlives the call, and the descriptor is open as long as
    // it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn what_the_peer_has_no_room_for_is_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut peer, _) = listener.accept().expect("accept");
        assert_eq!(unsent(ours.as_fd()).expect("ioctl"), 0);
        ours.set_nonblocking(true).expect("flag");
        let chunk = [0; 1 << 16];
        let mut written = 0;
        while let Ok(count) = ours.write(&chunk) {
            written += count;
        }
        assert!(unsent(ours.as_fd()).expect("ioctl") > 0);
        peer.read_exact(&mut vec![0; written]).expect("all of it");
        let start = Instant::now();
        while unsent(ours.as_fd()).expect("ioctl") > 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "acknowledged");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").expect("open");
        assert!(unsent(file.as_fd()).is_err());
    }
}
