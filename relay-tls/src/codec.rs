//! [`TlsCodec`]: a session from its first byte to its orderly end.

use core::fmt;
use core::mem;
use std::sync::Arc;

use relay_core::Distrust;
use relay_core::codec::{Codec, Frame, Layout, Opened, Sealed};
use relay_core::error::Failure;

use crate::config::DataPath;
use crate::control::Control;
use crate::engine::{Broken, Engine};
use crate::error::Cause;
use crate::explain;
use crate::frame::{self, LAYOUT, PAYLOAD_MAX, Phase, Violation, alert};
use crate::hooks::Rejection;
use crate::live_peers::{Enrolment, Standing, Verdict};
use crate::peer::PeerInfo;
use crate::provider::Provider;
use crate::records::{Ended, FRUITLESS_MAX, Received, RecordCounts, Records};
use crate::session::SessionInfo;

/// Mutual TLS 1.3 on one leg, as a client or as a server.
///
/// Made by [`ServerTls::codec`](crate::ServerTls::codec) and
/// [`ClientTls::codec`](crate::ClientTls::codec). A client has its first flight ready as control
/// bytes at once.
///
/// What a peer can do to it is bounded: records have the sizes of RFC 8446 section 5, an unfinished
/// handshake message is held up to 64 KiB, records that carry no data are counted, and a key update
/// is answered when there is data to send, at most once for all that were asked for by then
/// (section 4.6.3).
pub struct TlsCodec {
    state: State,
    control: Control,
    /// A byte of the peer's was there already.
    heard: bool,
    /// A record was.
    greeted: bool,
    /// The peer's close_notify was received.
    peer_closed: bool,
    /// Ours was queued.
    closed: bool,
    /// The transport ended without the peer's: nothing more is received. What we send may still arrive.
    cut_off: bool,
    info: Option<Box<SessionInfo>>,
    /// Of a record layer that is gone.
    counts: RecordCounts,
    failure: Option<Failure>,
    error_text: Option<Box<str>>,
    cause: Option<Cause>,
    /// Whose certificate was refused.
    rejected: Option<Box<PeerInfo>>,
    /// How the peer stands, if it is to be judged again.
    standing: Option<Arc<Standing>>,
}

enum State {
    Handshake(Box<Engine>, Options),
    /// Records as rustls makes them.
    Rustls(Box<Engine>),
    /// Records as we do.
    InPlace(Box<Records>),
    Failed,
}

/// What a handshake must know for what comes after it.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) provider: Provider,
    pub(crate) data_path: DataPath,
    /// If the peer is to be judged again while the session is open.
    pub(crate) enrolment: Option<Box<Enrolment>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("provider", &self.provider)
            .field("data_path", &self.data_path)
            .field("enrolment", &self.enrolment.is_some())
            .finish()
    }
}

impl TlsCodec {
    pub(crate) fn new(engine: Engine, options: Options) -> Self {
        let mut codec = Self::in_state(State::Handshake(Box::new(engine), options));
        // A client says the first word.
        codec.begin();
        codec
    }

    /// A session that could not begin.
    pub(crate) fn failed(text: String) -> Self {
        let mut codec = Self::in_state(State::Failed);
        codec.fail(Failure::Protocol, text);
        codec
    }

    fn in_state(state: State) -> Self {
        Self {
            state,
            control: Control::default(),
            heard: false,
            greeted: false,
            peer_closed: false,
            closed: false,
            cut_off: false,
            info: None,
            counts: RecordCounts::default(),
            failure: None,
            error_text: None,
            cause: None,
            rejected: None,
            standing: None,
        }
    }

    /// Whether the peer, once let in, would not be let in any more, and why; as the last
    /// [review](crate::LivePeers::review) found. The words and the cause are then told as those of an
    /// error. It is for the caller to end the session.
    #[must_use]
    pub fn distrust(&self) -> Option<Distrust> {
        Some(self.verdict()?.why)
    }

    fn verdict(&self) -> Option<&Verdict> {
        self.standing.as_ref()?.verdict()
    }

    /// Who is there and how the session is protected; once it is secured.
    #[must_use]
    pub fn info(&self) -> Option<&SessionInfo> {
        self.info.as_deref()
    }

    /// Records and changes of keys since the handshake. Of [`DataPath::InPlace`] only: rustls, where it
    /// makes the records, does not say.
    #[must_use]
    pub fn record_counts(&self) -> RecordCounts {
        match &self.state {
            State::InPlace(records) => records.counts(),
            State::Handshake(..) | State::Rustls(_) | State::Failed => self.counts,
        }
    }

    /// A sentence for the error that ended the session.
    #[must_use]
    pub fn error_text(&self) -> Option<&str> {
        self.error_text.as_deref().or_else(|| Some(self.verdict()?.words.as_str()))
    }

    /// The same, as far as somebody can do something about it.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause.or_else(|| self.verdict()?.cause)
    }

    /// Whom the certificate names that we refused. Nothing says that it is true.
    #[must_use]
    pub fn rejected(&self) -> Option<&PeerInfo> {
        self.rejected.as_deref().or_else(|| self.verdict()?.peer.as_deref())
    }

    /// Records of nothing but padding that a peer takes one after the other: what it counts besides is
    /// our close_notify. Others that speak TLS have the same limit, or a higher one.
    pub const PADDING_MAX: usize = FRUITLESS_MAX as usize - 2;

    /// A record of full size that carries no data (RFC 8446 section 5.4), to be sent at once: it costs
    /// both ends and the wire what a record of data does, and nothing comes of it. Not more than
    /// [`PADDING_MAX`](Self::PADDING_MAX) in a row. `None` if there is none: the session is not secured,
    /// is over, or has something else to say first.
    pub fn padding(&mut self) -> Option<Vec<u8>> {
        match &mut self.state {
            State::InPlace(records) if !self.closed && self.control.is_empty() => records.padding(),
            State::InPlace(_) | State::Handshake(..) | State::Rustls(_) | State::Failed => None,
        }
    }

    /// Bytes of a peer's that are kept, and bytes that wait to be sent.
    #[cfg(feature = "testing")]
    pub(crate) fn held(&self) -> usize {
        let kept = match &self.state {
            State::Handshake(engine, _) | State::Rustls(engine) => engine.held(),
            State::InPlace(_) | State::Failed => 0,
        };
        kept + self.control.len()
    }

    /// A record of any kind, protected as it should be.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forge(&mut self, kind: u8, bytes: &[u8], padding: usize) -> Vec<u8> {
        match &mut self.state {
            State::InPlace(records) => records.forge(kind, bytes, padding),
            State::Handshake(..) | State::Rustls(_) | State::Failed => Vec::new(),
        }
    }

    /// A key update of our own making.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forge_key_update(&mut self, requested: bool) -> Vec<u8> {
        match &mut self.state {
            State::InPlace(records) => records.forge_key_update(requested),
            State::Handshake(..) | State::Rustls(_) | State::Failed => Vec::new(),
        }
    }

    fn begin(&mut self) {
        if let State::Handshake(engine, _) = &mut self.state
            && let Err(broken) = engine.receive(&mut [], &mut self.control)
        {
            self.broken(broken);
        }
    }

    /// Records the end, once; keys and buffers go.
    fn fail(&mut self, failure: Failure, text: String) -> Failure {
        self.counts = self.record_counts();
        self.state = State::Failed;
        self.error_text.get_or_insert_with(|| text.into_boxed_str());
        *self.failure.get_or_insert(failure)
    }

    fn broken(&mut self, broken: Broken) -> Failure {
        self.cause = explain::cause(&broken.error);
        let text = match broken.rejection {
            Some(Rejection { words, peer }) => {
                self.rejected = peer;
                words
            }
            None => explain::error(&broken.error),
        };
        self.fail(explain::failure(&broken.error), text)
    }

    /// Why nothing can be received any more.
    fn deaf(&self) -> Option<Failure> {
        self.failure.or_else(|| self.cut_off.then_some(Failure::Truncated))
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::Handshake(..) if !self.greeted => Phase::Fresh,
            State::Handshake(..) => Phase::Handshake,
            State::Rustls(_) | State::InPlace(_) | State::Failed => Phase::Secured,
        }
    }

    /// The handshake may be complete now.
    fn advance(&mut self) -> Result<(), Failure> {
        let State::Handshake(engine, options) = &mut self.state else { return Ok(()) };
        if engine.is_handshaking() {
            return Ok(());
        }
        let (provider, data_path) = (options.provider, options.data_path);
        let entrant = options.enrolment.take().map(|enrolment| (enrolment, engine.peer_certificates()));
        let Some(info) = engine.info(provider) else {
            // A peer must have a certificate that webpki took; a stricter reader may not.
            let text = String::from("peer's certificate is malformed");
            return Err(self.fail(Failure::Rejected, text));
        };
        self.info = Some(Box::new(info));
        if let State::Handshake(engine, _) = mem::replace(&mut self.state, State::Failed) {
            self.state = match data_path {
                DataPath::Rustls => State::Rustls(engine),
                DataPath::InPlace => match engine.into_records(provider) {
                    Ok(records) => State::InPlace(Box::new(records)),
                    Err(text) => {
                        // Not secured after all: nothing can be sent or received.
                        self.info = None;
                        return Err(self.fail(Failure::Protocol, text));
                    }
                },
            };
        }
        if let Some((enrolment, certificates)) = entrant {
            let entered = enrolment.enter(certificates);
            self.standing = Some(entered.map_err(|verdict| self.refuse(verdict))?);
        }
        Ok(())
    }

    /// The peer was let in by rules that are not the present ones any more, and those don't let it in.
    fn refuse(&mut self, verdict: Verdict) -> Failure {
        let Verdict { why, words, cause, peer } = verdict;
        // Not secured after all.
        self.info = None;
        (self.cause, self.rejected) = (cause, peer);
        let description = match why {
            Distrust::Expired => alert::CERTIFICATE_EXPIRED,
            Distrust::Revoked => alert::CERTIFICATE_REVOKED,
            Distrust::Unverified => alert::CERTIFICATE_UNKNOWN,
        };
        match &mut self.state {
            State::InPlace(records) => records.alert(description, &mut self.control),
            State::Handshake(engine, _) | State::Rustls(engine) => {
                engine.refuse(description, &mut self.control);
            }
            State::Failed => {}
        }
        self.fail(Failure::Rejected, words)
    }

    /// Our own record layer came to an end.
    fn ended(&mut self, ended: Ended) -> Failure {
        match ended {
            Ended::Alert(code) => {
                self.cause = Some(Cause::Alert(code));
                self.fail(Failure::Alert(code), explain::alert(code))
            }
            Ended::Violation(violation) => self.violated(violation),
        }
    }

    /// The peer broke the rules, and is told so, unless we said before that we send no more.
    fn violated(&mut self, violation: Violation) -> Failure {
        match &mut self.state {
            _ if self.closed => {}
            State::Handshake(engine, _) | State::Rustls(engine) => {
                engine.refuse(violation.alert, &mut self.control);
            }
            State::InPlace(records) => records.alert(violation.alert, &mut self.control),
            State::Failed => {}
        }
        self.fail(Failure::Protocol, violation.text)
    }
}

impl Codec for TlsCodec {
    fn layout(&self) -> Layout {
        LAYOUT
    }

    fn is_secured(&self) -> bool {
        self.info.is_some()
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        if let Some(failure) = self.deaf() {
            return Err(failure);
        }
        if self.peer_closed {
            // What follows a closure alert is ignored, whatever it is (RFC 8446 section 6.1).
            return Ok(match wire.len() {
                0 => Frame::Partial { need: 1 },
                length => Frame::Whole { wire: length, payload: 0 },
            });
        }
        self.heard |= !wire.is_empty();
        let phase = self.phase();
        frame::frame(wire, phase).map_err(|violation| {
            if phase == Phase::Fresh {
                self.cause = Some(Cause::NoTls);
            }
            self.violated(violation)
        })
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        if let Some(failure) = self.deaf() {
            return Err(failure);
        }
        if self.peer_closed {
            return Ok(Opened::Control);
        }
        // The caller asked `frame` before, but what is written there is not relied upon.
        match self.frame(record)? {
            Frame::Whole { wire, .. } if wire == record.len() => {}
            Frame::Whole { .. } | Frame::Partial { .. } => {
                return Err(self.fail(Failure::Protocol, String::from("not exactly one record was given")));
            }
        }
        // After our own end nothing is sent any more, no alert either (RFC 8446 section 6.1).
        let mut unsent = Control::default();
        let control = if self.closed { &mut unsent } else { &mut self.control };
        let received = match &mut self.state {
            State::Handshake(engine, _) | State::Rustls(engine) => {
                engine.receive(record, control).map_err(|broken| self.broken(broken))?
            }
            State::InPlace(records) => records.open(record).map_err(|ended| self.ended(ended))?,
            State::Failed => return Err(Failure::Protocol),
        };
        self.greeted = true;
        self.advance()?;
        Ok(match received {
            Received::Nothing => Opened::Control,
            Received::Data(place) => Opened::Data(place),
            Received::Closed => {
                self.peer_closed = true;
                Opened::Closed
            }
        })
    }

    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        assert!((1..=PAYLOAD_MAX).contains(&payload), "a record holds 1 to {PAYLOAD_MAX} bytes");
        assert!(slot.len() >= LAYOUT.record(payload), "a slot has room for its record");
        assert!(self.is_secured() && !self.closed, "data is sealed between the handshake and the end");
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if !self.control.is_empty() {
            return Ok(Sealed::ControlFirst);
        }
        let sealed = match &mut self.state {
            State::InPlace(records) => records.seal(slot, payload, &mut self.control),
            State::Rustls(engine) => engine.seal(slot, payload, &mut self.control),
            State::Handshake(..) | State::Failed => Err(Failure::KeyExhausted),
        };
        sealed.map_err(|failure| {
            self.fail(failure, String::from("our key is used up and could not be renewed"))
        })
    }

    fn control_pending(&self) -> usize {
        self.control.len()
    }

    fn take_control(&mut self, out: &mut [u8]) -> usize {
        self.control.take(out)
    }

    fn close(&mut self) {
        if self.closed || self.failure.is_some() {
            return;
        }
        match &mut self.state {
            State::InPlace(records) => {
                records.close(&mut self.control);
                self.closed = true;
            }
            State::Rustls(engine) => {
                engine.close(&mut self.control);
                self.closed = true;
            }
            State::Handshake(..) | State::Failed => {}
        }
    }

    fn transport_eof(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.deaf() {
            return Err(failure);
        }
        if self.peer_closed {
            return Ok(());
        }
        let text = match self.phase() {
            Phase::Fresh if !self.heard => {
                self.cause = Some(Cause::Silence);
                "connection ended before the peer said anything (a port probe, or no TLS at that port)"
            }
            Phase::Fresh | Phase::Handshake => "connection ended in the middle of the handshake",
            Phase::Secured => {
                // Only the peer's sending is over: the relay may still have the other one's data for it.
                self.cut_off = true;
                let text = "connection ended without close_notify: data may be missing";
                self.error_text.get_or_insert_with(|| text.into());
                return Err(Failure::Truncated);
            }
        };
        Err(self.fail(Failure::Truncated, text.to_owned()))
    }
}

impl fmt::Debug for TlsCodec {
    /// Never keys or data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCodec")
            .field("phase", &self.phase())
            .field("control_pending", &self.control.len())
            .field("peer_closed", &self.peer_closed)
            .field("closed", &self.closed)
            .field("info", &self.info)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
