//! Who is told what happens: one log line when a session ends, and what else an operator must know.

use std::fmt;
use std::io;
use std::time::Duration;

use log::kv::Value;
use log::{Level, Record};
use relay_core::admission::Shut;
use relay_core::{EndReason, Failure, Leg, Outcome, Timer};
use relay_tls::LegCodec;

use crate::advice::{self, advice};
use crate::crowd::Crowded;
use crate::endpoint::Endpoint;
use crate::noise::{self, Tell};
use crate::server::{Label, Plan};
use crate::sessions::{self, RouteId, SessionId};
use crate::socket::Peer;

/// Told by loops what happens. Called from loops: must not wait.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A session is over.
    fn session_ended(&self, ended: &SessionEnded<'_>);

    /// Accepting at `listen` pauses, for want of descriptors or memory. Once until it is resumed.
    fn accept_paused(&self, listen: &Endpoint, why: &io::Error);

    /// It goes on: for a few seconds nobody had to wait for a descriptor.
    fn accept_resumed(&self, listen: &Endpoint);

    /// Limits keep peers waiting, or strangers were sent away for others. Now and then only.
    fn crowded(&self, crowded: &Crowded);

    /// A connection taken at `listen` is dialed through after one that was taken later: its handshake
    /// took longer than the others waited for it.
    fn order_broken(&self, listen: &Endpoint, window: Duration);

    /// A route's listener is closed, and its socket file gone: as wished, for a stop, or because it
    /// could not be listened on at all. Once for each route.
    fn listener_closed(&self, _id: RouteId) {}
}

/// A session's end, as the loop saw it.
#[derive(Debug)]
pub struct SessionEnded<'a> {
    /// Its number.
    pub id: SessionId,
    /// Where it belonged.
    pub plan: &'a Plan,
    /// Who connected.
    pub peer: Peer,
    /// How it ended, and how much was moved.
    pub outcome: &'a Outcome,
    /// The accepted leg's framing.
    pub front: Option<&'a LegCodec>,
    /// The dialed leg's, if it came to be connected.
    pub back: Option<&'a LegCodec>,
    /// Why the last attempt to dial failed, if one did.
    pub dial_failure: Option<Failure>,
    /// Whether the first bytes accepted were those of a TLS handshake.
    pub began_with_tls: bool,
    /// From accept to end.
    pub lifetime: Duration,
}

impl SessionEnded<'_> {
    fn codec(&self, leg: Leg) -> Option<&LegCodec> {
        match leg {
            Leg::Front => self.front,
            Leg::Back => self.back,
        }
    }

    /// What a leg's certificate says, once it is verified.
    #[must_use]
    pub fn identity(&self, leg: Leg) -> Option<String> {
        let info = self.codec(leg)?.as_tls()?.info()?;
        Some(info.peer.to_string())
    }

    /// A sentence about what went wrong with a leg's TLS.
    #[must_use]
    pub fn tls_error(&self, leg: Leg) -> Option<&str> {
        self.codec(leg)?.as_tls()?.error_text()
    }

    /// What can be done about it if TLS or every dial failed, or the client speaks TLS to plaintext, in
    /// the words of the command line.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let silent = self.outcome.flows.back.reason == EndReason::TimedOut(Timer::Secure(Leg::Back));
        Leg::BOTH
            .into_iter()
            .find_map(|leg| advice(leg, self.codec(leg)?.as_tls()?))
            .or_else(|| silent.then(|| advice::SILENT_SERVER.to_owned()))
            .or_else(|| self.dial_advice())
            .or_else(|| self.spoke_tls_to_plaintext().then(|| advice::TLS_AT_PLAINTEXT.to_owned()))
    }

    /// If there never was a backend.
    fn dial_advice(&self) -> Option<String> {
        let why = self.dial_failure.filter(|_| self.back.is_none())?;
        advice::dial(self.plan.backend().endpoint(), why)
    }

    /// And nobody answered: QEMU may have TLS of its own, and whatever then goes wrong, it is not this.
    fn spoke_tls_to_plaintext(&self) -> bool {
        let is_plain = matches!(self.plan.listen(), Endpoint::Tcp(_));
        let was_answered = self.outcome.flows.back.read > 0;
        self.began_with_tls && is_plain && !was_answered && !self.outcome.is_clean()
    }

    /// What the logs of both nodes of a TLS session have in common.
    #[must_use]
    pub fn correlation(&self, leg: Leg) -> Option<String> {
        let info = self.codec(leg)?.as_tls()?.info()?;
        Some(sessions::correlation(&info.correlation))
    }

    /// Names and values for a log line, most telling first.
    fn pairs(&self) -> Vec<(&'static str, Field)> {
        let flows = &self.outcome.flows;
        let mut pairs = Vec::with_capacity(20);
        if let Some(Label { key, channel }) = self.plan.label() {
            pairs.push(("key", Field::Text(key.to_string())));
            pairs.push(("channel", Field::Count(channel.id().into())));
        }
        pairs.extend([
            ("listen", Field::Text(self.plan.listen().to_string())),
            ("peer", Field::Text(self.peer.to_string())),
            ("connect", Field::Text(self.plan.backend().endpoint().to_string())),
            ("front_bytes", Field::Count(flows.front.delivered)),
            ("back_bytes", Field::Count(flows.back.delivered)),
            ("seconds", Field::Number((self.lifetime.as_secs_f64() * 1000.0).round() / 1000.0)),
            ("front_end", Field::Text(flows.front.reason.to_string())),
            ("back_end", Field::Text(flows.back.reason.to_string())),
        ]);
        let lost = |end: &relay_core::FlowEnd| end.read - end.delivered;
        let optional = [
            ("front_lost", Some(lost(&flows.front)).filter(|n| *n > 0).map(Field::Count)),
            ("back_lost", Some(lost(&flows.back)).filter(|n| *n > 0).map(Field::Count)),
            ("front_identity", self.identity(Leg::Front).map(Field::Text)),
            ("back_identity", self.identity(Leg::Back).map(Field::Text)),
            ("front_session", self.correlation(Leg::Front).map(Field::Text)),
            ("back_session", self.correlation(Leg::Back).map(Field::Text)),
            ("front_tls", self.tls_error(Leg::Front).map(|e| Field::Text(e.to_owned()))),
            ("back_tls", self.tls_error(Leg::Back).map(|e| Field::Text(e.to_owned()))),
            ("advice", self.advice().map(Field::Text)),
            // Of interest only if it never succeeded.
            ("dial", self.dial_failure.filter(|_| self.back.is_none()).map(|f| Field::Text(f.to_string()))),
        ];
        pairs.extend(optional.into_iter().filter_map(|(name, field)| field.map(|field| (name, field))));
        pairs
    }
}

enum Field {
    Text(String),
    Count(u64),
    Number(f64),
}

impl Field {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Count(count) => Value::from(*count),
            Self::Number(number) => Value::from(*number),
        }
    }
}

/// Whose lines those are that were only counted.
const NOISE: &str = "relay_node::noise";

/// Writes all of it to the log.
///
/// `front_…` is about what was read from the connection accepted and delivered to the one dialed,
/// `back_…` about the opposite direction; identities and TLS errors are those of that leg's peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        let evicted = EndReason::SetupFailed(Leg::Front, Failure::Evicted);
        let (mut level, mut target) = (Level::Warn, module_path!());
        if ended.outcome.flows.front.reason == evicted {
            level = Level::Debug; // of these there may be a flood, told of by `crowded`
        } else if ended.outcome.is_clean() {
            level = Level::Info;
        } else if let Some(kind) = noise::kind(ended.outcome) {
            let (rest, tell) = noise::hear(kind.clone());
            let count = match tell {
                Tell::Count(count, within) => Some((count, within)),
                Tell::Whole | Tell::Nothing => None,
            };
            for (count, within) in rest.into_iter().chain(count) {
                log::warn!(
                    end = kind.as_str(), count, within_s = within.as_secs();
                    "handshakes fail in a row; RUST_LOG=relay_node::noise=debug shows each"
                );
            }
            if tell != Tell::Whole {
                (level, target) = (Level::Debug, NOISE);
            }
        }
        if !log::log_enabled!(target: target, level) {
            return;
        }
        let fields = ended.pairs();
        let pairs: Vec<(&str, Value<'_>)> =
            fields.iter().map(|(name, field)| (*name, field.value())).collect();
        log::logger().log(
            &Record::builder()
                .level(level)
                .target(target)
                .args(format_args!("session ended"))
                .key_values(&pairs.as_slice())
                .build(),
        );
    }

    fn crowded(&self, crowded: &Crowded) {
        let Crowded { limit, held_up, evicted } = crowded;
        let what = match limit {
            Shut::Strangers => {
                "too many peers that have not proved who they are; those that took longest make room for others"
            }
            Shut::Full | Shut::Exhausted | Shut::Stopped => {
                "as many sessions as allowed; more wait to be accepted (--max-sessions)"
            }
        };
        log::warn!(limit:% = limit, held_up = *held_up, evicted = *evicted; "{what}");
    }

    fn order_broken(&self, listen: &Endpoint, window: Duration) {
        log::warn!(
            listen:% = listen, waited_ms = window.as_millis() as u64;
            "connections are dialed out of order: a handshake took longer than later ones waited for it"
        );
    }

    fn accept_paused(&self, listen: &Endpoint, why: &io::Error) {
        log::warn!(listen:% = listen, error:% = why; "accepting paused");
    }

    fn accept_resumed(&self, listen: &Endpoint) {
        log::info!(listen:% = listen; "accepting again");
    }
}
