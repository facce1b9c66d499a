//! rustls, and everything about how it moves bytes: the one file to change when its API does. (What
//! is left of it once it moves none is in `kernel.rs`.)
//!
//! The unbuffered connections are used, because only they can hand over a running session's keys
//! ([`Engine::into_records`]). They serve the handshake, and on request the records after it.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use relay_core::codec::Sealed;
use relay_core::error::Failure;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::tls13::OkmBlock;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use crate::control::Control;
use crate::explain;
use crate::frame::{self, HEADER, TRAILER, alert};
use crate::hooks::{self, Rejection};
use crate::kernel::Kernel;
use crate::peer::PeerInfo;
use crate::provider::Provider;
use crate::records::{Received, Records};
use crate::session::{self, SessionInfo};

/// Bytes kept for one unfinished handshake message, framing included: far more than a chain of
/// post-quantum certificates needs, and all that a stranger can make us hold.
const UNFINISHED_MAX: usize = 64 << 10;

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Both kinds of connection have the same methods, but no trait in common.
macro_rules! process {
    ($connection:expr, $buffer:expr, $then:expr) => {
        match $connection {
            Connection::Client(connection) => $then(connection.process_tls_records($buffer)),
            Connection::Server(connection) => $then(connection.process_tls_records($buffer)),
        }
    };
}

/// A fatal error, and what is known besides if it is about the peer's certificate.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    pub(crate) rejection: Option<Rejection>,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self { error, rejection: None }
    }
}

pub(crate) struct Engine {
    connection: Connection,
    /// Of records already given: what of a handshake message is not complete yet.
    unfinished: Vec<u8>,
    /// From the moment it is known, which may be before the handshake is complete, until it is.
    exporter: Option<OkmBlock>,
    /// Records sealed since the last own change of keys, and the number at which to change them.
    sealed: u64,
    records_per_key: u64,
}

impl Engine {
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        records_per_key: u64,
    ) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Connection::Client(connection), records_per_key))
    }

    pub(crate) fn server(config: Arc<ServerConfig>, records_per_key: u64) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Connection::Server(connection), records_per_key))
    }

    fn new(connection: Connection, records_per_key: u64) -> Self {
        Self { connection, unfinished: Vec::new(), exporter: None, sealed: 0, records_per_key }
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    /// Whether the peer is not authenticated yet, or does not know us yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Takes a record apart, or with an empty one begins the session. What there is to be sent goes
    /// to `control`, in case of an error the alert for the peer.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) fn receive(&mut self, record: &mut [u8], control: &mut Control) -> Result<Received, Broken> {
        let (result, tray) = hooks::collect(|| self.process(record, control));
        if tray.exporter.is_some() {
            self.exporter = tray.exporter;
        }
        result.map_err(|error| {
            let before = control.len();
            self.collect(control);
            if control.len() == before && self.is_plaintext() {
                // Not every error has an alert of rustls'.
                control.push(&frame::plaintext_alert(alert::DECODE_ERROR));
            }
            Broken { error, rejection: tray.rejection }
        })
    }

    /// Bytes of a peer's that are kept.
    #[cfg(feature = "testing")]
    pub(crate) fn held(&self) -> usize {
        self.unfinished.len()
    }

    /// Whether no keys are in use yet, in either direction.
    fn is_plaintext(&self) -> bool {
        self.state().negotiated_cipher_suite().is_none()
    }

    fn process(&mut self, record: &mut [u8], control: &mut Control) -> Result<Received, Error> {
        let mut plain = Plain::default();
        if self.unfinished.is_empty() {
            let used = drive(&mut self.connection, record, control, &mut plain)?;
            // A handshake message may end in a later record.
            self.unfinished.extend_from_slice(&record[used..]);
        } else {
            self.unfinished.extend_from_slice(record);
            let used = drive(&mut self.connection, &mut self.unfinished, control, &mut plain)?;
            self.unfinished.drain(..used);
        }
        if self.unfinished.is_empty() {
            self.unfinished = Vec::new();
        } else if self.unfinished.len() > UNFINISHED_MAX {
            self.refuse(alert::DECODE_ERROR, control);
            return Err(Error::General(String::from("peer sent a handshake message that is too long")));
        }
        if plain.closed {
            return Ok(Received::Closed);
        }
        match record.get_mut(HEADER..HEADER + plain.bytes.len()) {
            _ if plain.bytes.is_empty() => Ok(Received::Nothing),
            Some(place) => {
                place.copy_from_slice(&plain.bytes);
                Ok(Received::Data(HEADER..HEADER + plain.bytes.len()))
            }
            // Not reached: plaintext is shorter than its record.
            None => Err(Error::General(String::from("a record grew when it was opened"))),
        }
    }

    /// Tells the peer that it broke the rules of records, by an alert of this description as long as
    /// no keys are in use. After that rustls must send it: it is shown a record that it cannot but
    /// refuse, and chooses the description.
    pub(crate) fn refuse(&mut self, description: u8, control: &mut Control) {
        if self.is_plaintext() {
            control.push(&frame::plaintext_alert(description));
            return;
        }
        self.unfinished.extend_from_slice(&OVERSIZED);
        // The error is the purpose.
        let _ = drive(&mut self.connection, &mut self.unfinished, control, &mut Plain::default());
        self.collect(control);
        self.unfinished = Vec::new();
    }

    /// Takes what rustls still wants to send, without letting it look at any input: after an error
    /// that would be wrong.
    fn collect(&mut self, control: &mut Control) {
        while self.state().wants_write() {
            let taken =
                process!(&mut self.connection, &mut self.unfinished, |status| encode_only(status, control));
            if !taken {
                return;
            }
        }
    }

    /// Takes what rustls wants to send in the middle of a session; whether there was something.
    fn settle(&mut self, control: &mut Control) -> bool {
        drive(&mut self.connection, &mut self.unfinished, control, &mut Plain::default()).is_ok()
            && !control.is_empty()
    }

    /// Seals the payload at `slot[HEADER..]`.
    ///
    /// # Errors
    /// [`Failure::KeyExhausted`].
    pub(crate) fn seal(
        &mut self,
        slot: &mut [u8],
        payload: usize,
        control: &mut Control,
    ) -> Result<Sealed, Failure> {
        // In the middle of a message of the peer's rustls ends the session rather than change our keys,
        // which has nothing to do with it. There is as much room again before the change must come.
        if self.sealed >= self.records_per_key && self.unfinished.is_empty() {
            self.sealed = 0;
            return self.refresh(control);
        }
        let plain = slot[HEADER..HEADER + payload].to_vec();
        let room = HEADER + payload + TRAILER;
        let sealed = process!(&mut self.connection, &mut self.unfinished, |status| {
            encrypt(status, &plain, &mut slot[..room], control)
        });
        match sealed {
            Encrypted::Record(length) => {
                self.sealed += 1;
                Ok(Sealed::Record(length))
            }
            Encrypted::AnswerFirst => {
                if self.settle(control) {
                    Ok(Sealed::ControlFirst)
                } else {
                    Err(Failure::KeyExhausted)
                }
            }
            Encrypted::Never => Err(Failure::KeyExhausted),
        }
    }

    /// Changes our own keys. rustls asks the peer to change its keys too.
    fn refresh(&mut self, control: &mut Control) -> Result<Sealed, Failure> {
        let refreshed = process!(&mut self.connection, &mut self.unfinished, refresh);
        if refreshed && self.settle(control) { Ok(Sealed::ControlFirst) } else { Err(Failure::KeyExhausted) }
    }

    /// Queues close_notify.
    pub(crate) fn close(&mut self, control: &mut Control) {
        process!(&mut self.connection, &mut self.unfinished, |status| close(status, control));
    }

    /// What the peer has shown, its own certificate first; once the handshake is complete.
    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let certificates = self.state().peer_certificates().unwrap_or_default();
        certificates.iter().map(|certificate| certificate.clone().into_owned()).collect()
    }

    /// What there is to tell; once the handshake is complete.
    pub(crate) fn info(&mut self, provider: Provider) -> Option<SessionInfo> {
        let exporter = self.exporter.take();
        let state = self.state();
        let certificate = state.peer_certificates()?.first()?;
        let suite = state.negotiated_cipher_suite()?;
        Some(SessionInfo {
            peer: PeerInfo::from_der(certificate, provider)?,
            protocol: "TLSv1.3",
            cipher_suite: session::suite_name(suite),
            group: state.negotiated_key_exchange_group().map_or("unknown", |g| session::group_name(g.name())),
            correlation: session::correlation(suite, exporter.as_ref()),
        })
    }

    /// Hands over the keys of a session whose handshake is complete.
    ///
    /// # Errors
    /// What stands against it.
    pub(crate) fn into_records(self, provider: Provider) -> Result<Records, String> {
        if !self.unfinished.is_empty() {
            // A message across a change of keys (RFC 8446 section 5.1).
            return Err(String::from("peer's last handshake message has something behind it"));
        }
        let (secrets, kernel) = match self.connection {
            Connection::Client(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, connection)| (secrets, Kernel::client(connection, provider))),
            Connection::Server(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, connection)| (secrets, Kernel::server(connection, provider))),
        }
        .map_err(|error| explain::error(&error))?;
        match (kernel.protection(secrets.tx), kernel.protection(secrets.rx)) {
            (Some(send), Some(receive)) => Ok(Records::new(send, receive, kernel, self.records_per_key)),
            (None, _) | (_, None) => Err(String::from("the cipher suite has no place in the record layer")),
        }
    }
}

/// A header that announces more than any record may hold.
const OVERSIZED: [u8; HEADER] = [22, 3, 3, 0xff, 0xff];

/// What came out for the flow.
#[derive(Default)]
struct Plain {
    bytes: Vec<u8>,
    closed: bool,
}

enum Step {
    Again,
    Blocked,
}

/// Lets rustls work through `buffer` until it wants more. How much of it is done with.
fn drive(
    connection: &mut Connection,
    buffer: &mut [u8],
    control: &mut Control,
    plain: &mut Plain,
) -> Result<usize, Error> {
    let mut used = 0;
    loop {
        let (discard, step) =
            process!(connection, &mut buffer[used..], |status| step(status, control, plain));
        used += discard;
        match step? {
            Step::Again => {}
            Step::Blocked => return Ok(used),
        }
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    control: &mut Control,
    plain: &mut Plain,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::EncodeTlsData(data) => {
            encode(data, control);
            Step::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            // It is in `control` now, which leaves in order.
            data.done();
            Step::Again
        }
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plain.bytes.extend_from_slice(record.payload);
                    }
                    Err(error) => return (discard, Err(error)),
                }
            }
            Step::Again
        }
        ConnectionState::PeerClosed => {
            plain.closed = true;
            Step::Again
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed => {
            Step::Blocked
        }
        ConnectionState::ReadEarlyData(_) => {
            return (discard, Err(Error::General(String::from("early data, which is never accepted"))));
        }
        _ => return (discard, Err(Error::General(String::from("an unknown state of the TLS library")))),
    };
    (discard, Ok(step))
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, control: &mut Control) {
    // Asked with no room first, it says how much it needs.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        // It has exactly that.
        let _ = data.encode(control.extend(size.required_size));
    }
}

/// Takes a message that is ready to be sent; whether there was one.
fn encode_only<D>(status: UnbufferedStatus<'_, '_, D>, control: &mut Control) -> bool {
    match status.state {
        Ok(ConnectionState::EncodeTlsData(data)) => {
            encode(data, control);
            true
        }
        _ => false,
    }
}

enum Encrypted {
    Record(usize),
    /// The answer to the peer's key update goes out first.
    AnswerFirst,
    Never,
}

fn encrypt<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &[u8],
    out: &mut [u8],
    control: &mut Control,
) -> Encrypted {
    let mut traffic = match status.state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        Ok(ConnectionState::EncodeTlsData(data)) => {
            encode(data, control);
            return Encrypted::AnswerFirst;
        }
        _ => return Encrypted::Never,
    };
    // With no room it says how much it needs; more than one record's worth is an answer to a key
    // update, which it would otherwise put in front of the record.
    match traffic.encrypt(plain, &mut []) {
        Err(EncryptError::InsufficientSize(size)) if size.required_size <= out.len() => {}
        Err(EncryptError::InsufficientSize(_)) => return Encrypted::AnswerFirst,
        Ok(_) | Err(EncryptError::EncryptExhausted) => return Encrypted::Never,
    }
    match traffic.encrypt(plain, out) {
        Ok(length) => Encrypted::Record(length),
        Err(_) => Encrypted::Never,
    }
}

fn refresh<D>(status: UnbufferedStatus<'_, '_, D>) -> bool {
    match status.state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().is_ok(),
        _ => false,
    }
}

fn close<D>(status: UnbufferedStatus<'_, '_, D>, control: &mut Control) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
        && let Err(EncryptError::InsufficientSize(size)) = traffic.queue_close_notify(&mut [])
    {
        // It is queued inside by now and has exactly the room it asked for.
        let _ = traffic.queue_close_notify(control.extend(size.required_size));
    }
}
