//! `check`: whether a connection there would work, in seconds, and why it would not.
//!
//! One connection is made, as a relay would make it, and nothing is said on it: the far side's backend
//! sees somebody who connects and ends at once. What is measured, and what that means:
//! - **round trip**: how long connect(2) took, for TCP needs exactly one;
//! - **rate**: full TLS records of nothing but padding (RFC 8446 section 5.4). They cost both ends and
//!   the network what data costs, and nothing of them reaches a backend. A peer takes some thirty of
//!   them, so this is half a megabyte from our first byte to the peer's end in answer to ours, slow
//!   start and a round trip included: a floor, and on a fast network a low one.
//!
//! A relay reads nothing before its backend is connected. If it is not there the answer does not come,
//! and that is said rather than a rate.

mod dial;
mod handshake;

use std::fmt;
use std::io;
use std::time::Duration;

use relay_core::Leg;

use crate::advice;
use crate::cli::Check;
use crate::endpoint::Endpoint;
use crate::logging::say;
use crate::tls::Tls;

use dial::Reached;
use handshake::{Answer, Broken, Secured};

/// Why a check failed: one line.
pub(crate) type Wrong = String;

/// Says what there is to say, line by line, as it becomes known.
///
/// # Errors
/// What would keep a connection from working.
pub(crate) fn run(asked: &Check) -> Result<(), Wrong> {
    let deadline = std::time::Instant::now() + asked.timeout;
    let from = match &asked.interface {
        Some(name) => {
            Some(crate::interface::Origin::of(name).map_err(|why| format!("interface {name}: {why}"))?)
        }
        None => None,
    };
    let Reached { stream, at, took } = dial::dial(&asked.connect, from, deadline)?;
    tell("reached", format_args!("{at} in {}", Millis(took)));
    if matches!(asked.connect, Endpoint::Unix(_) | Endpoint::Abstract(_)) {
        tell("listener", dial::listener(&stream));
    }
    let Some(files) = &asked.tls else {
        tell("protection", "none: plaintext, so nobody was authenticated and no rate measured");
        return Ok(());
    };
    let tls = Tls::load(files.clone()).map_err(|error| format!("TLS: {error}"))?;
    let host = asked.connect.host_port().map(|at| at.host.to_string()).unwrap_or_default();
    let codec = tls.present().client.codec(&host).map_err(|error| format!("TLS: {error}"))?;
    let since = std::time::Instant::now();
    let secured = handshake::shake(stream, codec, deadline).map_err(|broken| told(&broken))?;
    tell_secured(&secured, since.elapsed());
    tell_answer(secured.measure(deadline).map_err(|broken| told(&broken))?, took);
    Ok(())
}

fn tell_secured(secured: &Secured, took: Duration) {
    let info = secured.info();
    tell(
        "handshake",
        format_args!("{}: {}, {}, {}", Millis(took), info.protocol, info.cipher_suite, info.group),
    );
    tell("peer", &info.peer);
    let left = info.peer.not_after().saturating_sub(now());
    tell("certificate", format_args!("until {}, {} more", info.peer.not_after_text(), Left(left)));
}

fn tell_answer(answer: Answer, round_trip: Duration) {
    tell("round trip", format_args!("{} (TCP, connecting)", Millis(round_trip)));
    match answer {
        Answer::Taken { bytes, took } => {
            let rate = bytes as f64 / took.max(Duration::from_micros(1)).as_secs_f64();
            tell("accepted", "yes: it read what was sent, and ended when we did");
            tell(
                "rate",
                format_args!(
                    "at least {:.0} MiB/s ({} KiB of padding in {}, slow start included)",
                    (rate / f64::from(1 << 20)).max(1.0).floor(),
                    bytes >> 10,
                    Millis(took)
                ),
            );
        }
        Answer::Unmeasured => {
            tell("accepted", "yes: it ended when we did");
            tell("rate", "not measured: this TLS session can't carry padding");
        }
        Answer::Silent => {
            tell("accepted", "not refused, as far as can be told");
            tell(
                "rate",
                "not measured: the peer has not read to the end; its backend may not be there yet, or stays when we end",
            );
        }
        Answer::Dropped => {
            tell(
                "accepted",
                "not refused, but the connection was dropped: the peer's backend may not be there yet",
            );
            tell("rate", "not measured");
        }
    }
}

/// Why TLS failed, and what can be done about it.
fn told(broken: &Broken) -> Wrong {
    let silent = broken.codec.cause() == Some(relay_tls::Cause::Silence);
    let advice = advice::advice(Leg::Back, &broken.codec);
    let advice = advice.or_else(|| (broken.timed_out && silent).then(|| advice::SILENT_SERVER.to_owned()));
    match advice {
        Some(advice) => format!("{}; {advice}", broken.words),
        None => broken.words.clone(),
    }
}

fn tell(what: &str, words: impl fmt::Display) {
    say(&format!("{what:<12} {words}"));
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What is left of a deadline; an error if nothing is.
fn left(deadline: std::time::Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(std::time::Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A short time, for people.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// A long time in seconds, for people.
struct Left(u64);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            days @ 172_800.. => write!(f, "{} days", days / 86_400),
            hours @ 7_200.. => write!(f, "{} hours", hours / 3_600),
            seconds => write!(f, "{} minutes", seconds / 60),
        }
    }
}
