//! The descriptor that a session brings along for its backend.

use std::io;
use std::os::unix::net::UnixDatagram;

/// Taken before a connection is accepted and given back just before its backend is dialed, so that
/// whoever is let in can be connected. Otherwise, when descriptors run short, fronts would take them
/// all, and every one of them wait in vain for another.
#[derive(Debug)]
pub struct Reserve {
    /// Anything that costs little and needs no file.
    _descriptor: UnixDatagram,
}

impl Reserve {
    /// Takes one.
    ///
    /// # Errors
    /// As socket(2): there is none left.
    pub fn new() -> io::Result<Self> {
        UnixDatagram::unbound().map(|descriptor| Self { _descriptor: descriptor })
    }
}
