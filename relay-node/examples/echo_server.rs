//! A unix socket that answers with whatever it is sent: the end of the README's walk-through, in the
//! place of a virtual machine's.
//!
//! `cargo run -p relay-node --example echo_server -- [PATH]`; the path is /tmp/echo.sock unless another
//! is given.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "/tmp/echo.sock".into());
    match serve(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Listens until it is killed.
fn serve(path: &Path) -> io::Result<()> {
    make_way(path)?;
    let listener = UnixListener::bind(path)?;
    eprintln!("echo_server: listening at {}", path.display());
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || {
            eprintln!("echo_server: a client connected");
            match echo(client) {
                Ok(count) => eprintln!("echo_server: a client has ended after {count} bytes"),
                Err(error) => eprintln!("echo_server: a client was lost: {error}"),
            }
        });
    }
    Ok(())
}

/// Removes what a predecessor has left: a socket that nobody answers at, and nothing else.
fn make_way(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Sends back all that comes, and then the end, too: a client may end its half first.
fn echo(mut client: UnixStream) -> io::Result<u64> {
    let (mut buffer, mut count) = ([0; 4096], 0);
    loop {
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                client.write_all(&buffer[..length])?;
                count += length as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    client.shutdown(Shutdown::Write)?;
    Ok(count)
}
