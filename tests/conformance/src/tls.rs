//! A TLS peer that is not ours: rustls' own connection on a blocking socket, which one thread may
//! read while another writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::{ClientConnection, Connection, ServerConnection};
use socket2::Socket;

use crate::peer::again;

/// Bytes read or sealed at once.
const RAW: usize = 16 << 10;

/// See the [module](self).
#[derive(Debug)]
pub struct TlsEnd {
    socket: Socket,
    connection: Mutex<Connection>,
    /// The most bytes in one write.
    piece: usize,
    /// Whoever takes ciphertext out of the connection holds it until it is written, so that records
    /// keep their order.
    writing: Mutex<()>,
    /// Plaintext that is not read yet; whoever reads holds it.
    reading: Mutex<VecDeque<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsEnd {
    /// Does a client's handshake. As with any TLS 1.3 client it is complete before the server has
    /// judged the client's certificate.
    ///
    /// # Errors
    /// The handshake's.
    pub fn client(socket: Socket, connection: ClientConnection) -> io::Result<Self> {
        let end = Self::held(socket, connection.into(), usize::MAX)?;
        end.flush().map(|()| end)
    }

    /// Does a server's handshake.
    ///
    /// # Errors
    /// The handshake's.
    pub fn server(socket: Socket, connection: ServerConnection) -> io::Result<Self> {
        let end = Self::held(socket, connection.into(), usize::MAX)?;
        end.flush().map(|()| end)
    }

    /// Does a handshake, but holds back its own last message until something is written, so that
    /// both go out together. Writes no more than `piece` bytes at once.
    ///
    /// # Errors
    /// The handshake's.
    pub fn held(socket: Socket, connection: Connection, piece: usize) -> io::Result<Self> {
        let connection = Mutex::new(connection);
        let end = Self { socket, connection, piece, writing: Mutex::default(), reading: Mutex::default() };
        while lock(&end.connection).is_handshaking() {
            end.flush()?;
            let filled = end.fill(&mut lock(&end.reading));
            if filled.is_err() {
                // an alert, if somebody is there to read it
                let _ = end.flush();
            }
            if filled? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(end)
    }

    /// The socket below.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Does something with the connection, and sends what comes of it.
    ///
    /// # Errors
    /// The socket's.
    pub fn with(&self, act: impl FnOnce(&mut Connection)) -> io::Result<()> {
        let _writing = lock(&self.writing);
        act(&mut lock(&self.connection));
        self.send_pending()
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The socket's.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let _writing = lock(&self.writing);
        for chunk in bytes.chunks(RAW) {
            lock(&self.connection).writer().write_all(chunk)?;
            self.send_pending()?;
        }
        Ok(())
    }

    /// Sends close_notify.
    ///
    /// # Errors
    /// The socket's.
    pub fn close_notify(&self) -> io::Result<()> {
        self.with(|connection| connection.send_close_notify())
    }

    /// Reads some plaintext; 0 after a close_notify.
    ///
    /// # Errors
    /// `UnexpectedEof` at an end without close_notify, `InvalidData` for an alert or a protocol
    /// error, or the socket's.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut plaintext = lock(&self.reading);
        loop {
            if !plaintext.is_empty() {
                return plaintext.read(buffer);
            }
            match lock(&self.connection).reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            let filled = self.fill(&mut plaintext);
            if lock(&self.connection).wants_write() {
                // answers and alerts; whether they can be written is not what was asked
                let _ = self.flush();
            }
            filled?;
        }
    }

    /// Waits for ciphertext and takes it in; neither the connection nor the right to write is held
    /// meanwhile. Says how many bytes there were.
    fn fill(&self, plaintext: &mut VecDeque<u8>) -> io::Result<usize> {
        let mut raw = [0; RAW];
        let count = again(|| (&self.socket).read(&mut raw))?;
        self.take_in(&raw[..count], plaintext).map(|()| count)
    }

    /// Nothing at all is the transport's end.
    fn take_in(&self, mut raw: &[u8], plaintext: &mut VecDeque<u8>) -> io::Result<()> {
        let mut connection = lock(&self.connection);
        loop {
            connection.read_tls(&mut raw)?;
            let state = connection
                .process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            // rustls takes no more before what it has is fetched
            let mut some = vec![0; state.plaintext_bytes_to_read()];
            connection.reader().read_exact(&mut some)?;
            plaintext.extend(some);
            if raw.is_empty() {
                return Ok(());
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        let _writing = lock(&self.writing);
        self.send_pending()
    }

    fn send_pending(&self) -> io::Result<()> {
        let mut bytes = Vec::new();
        {
            let mut connection = lock(&self.connection);
            while connection.wants_write() {
                connection.write_tls(&mut bytes)?;
            }
        }
        bytes.chunks(self.piece).try_for_each(|piece| (&self.socket).write_all(piece))
    }
}
