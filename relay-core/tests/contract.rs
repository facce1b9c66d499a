//! A runtime that breaks the contract panics with a message that names the rule; and nothing but a
//! runtime can.
#![cfg(feature = "testing")]

use std::time::Duration;

use relay_core::codec::Plain;
use relay_core::testing::toy::{Toy, ToyConfig};
use relay_core::{Config, Distrust, Failure, Input, Instant, Leg, PerLeg, Relay, Session, Stop};

const NOW: Instant = Instant::from_nanos(1_000);

fn session(inputs: &[Input]) -> Session {
    let mut session = Session::new(Config::new(4), NOW);
    for input in inputs {
        session.handle(NOW, *input);
    }
    session
}

fn toy() -> Toy {
    Toy::new(ToyConfig {
        client: true,
        credential: 1,
        expects: 1,
        payload_max: 64,
        hello: 8,
        rekey_after: 9,
        ask_rekey: false,
        worn_after: u64::MAX,
        hasty: false,
        lenient: false,
    })
}

const UP: Input = Input::Connected(Leg::Back);

#[test]
#[should_panic(expected = "contract: Connected only when demanded, and once")]
fn connected_twice() {
    session(&[UP, UP]);
}

#[test]
#[should_panic(expected = "contract: Connected only when demanded, and once")]
fn front_connected() {
    session(&[Input::Connected(Leg::Front)]);
}

#[test]
#[should_panic(expected = "contract: Secured only when demanded, and once")]
fn secured_without_a_handshake() {
    session(&[Input::Secured(Leg::Front)]);
}

#[test]
#[should_panic(expected = "contract: Read within the demand")]
fn read_more_than_granted() {
    session(&[UP, Input::Read(Leg::Front, 5)]);
}

#[test]
#[should_panic(expected = "contract: Read within the demand")]
fn read_nothing() {
    session(&[UP, Input::Read(Leg::Front, 0)]);
}

#[test]
#[should_panic(expected = "contract: Read within the demand")]
fn read_before_back_is_connected() {
    session(&[Input::Read(Leg::Front, 1)]);
}

#[test]
#[should_panic(expected = "contract: Read within the demand")]
fn read_after_the_end() {
    session(&[UP, Input::Eof(Leg::Front), Input::Read(Leg::Front, 1)]);
}

#[test]
#[should_panic(expected = "contract: Wrote within the demand")]
fn wrote_more_than_was_read() {
    session(&[UP, Input::Read(Leg::Front, 2), Input::Wrote(Leg::Back, 3)]);
}

#[test]
#[should_panic(expected = "contract: ShutDown only when demanded, and once")]
fn shut_down_before_everything_is_delivered() {
    session(&[UP, Input::Read(Leg::Front, 2), Input::Eof(Leg::Front), Input::ShutDown(Leg::Back)]);
}

#[test]
#[should_panic(expected = "contract: ShutDown only when demanded, and once")]
fn shut_down_twice() {
    session(&[UP, Input::Eof(Leg::Front), Input::ShutDown(Leg::Back), Input::ShutDown(Leg::Back)]);
}

#[test]
#[should_panic(expected = "contract: Full only while something is buffered, and once")]
fn full_of_nothing() {
    session(&[UP, Input::Full(Leg::Front)]);
}

#[test]
#[should_panic(expected = "contract: Distrusted only of a peer that has proved who it is")]
fn a_plain_peer_is_distrusted() {
    session(&[UP, Input::Distrusted(Leg::Front, Distrust::Revoked)]);
}

#[test]
#[should_panic(expected = "contract: Eof only of a leg that is read from, and once")]
fn an_end_twice() {
    session(&[UP, Input::Eof(Leg::Front), Input::Eof(Leg::Front)]);
}

#[test]
#[should_panic(expected = "contract: Eof only of a leg that is read from, and once")]
fn an_end_of_what_is_not_connected() {
    session(&[Input::Eof(Leg::Back)]);
}

#[test]
#[should_panic(expected = "contract: WriteFailed only of a leg that is connected")]
fn a_failed_write_to_what_is_not_connected() {
    session(&[Input::WriteFailed(Leg::Back, Failure::Reset)]);
}

#[test]
#[should_panic(expected = "contract: Back is not touched before Front is authenticated")]
fn a_failed_dial_before_front_is_known() {
    let config = Config { secure: PerLeg::new(true, false), ..Config::new(4) };
    Session::new(config, NOW).handle(NOW, Input::ReadFailed(Leg::Back, Failure::Refused));
}

#[test]
#[should_panic(expected = "contract: Held only while something is to be read, and once")]
fn held_twice() {
    session(&[UP, Input::Held, Input::Held]);
}

#[test]
#[should_panic(expected = "contract: Held only while something is to be read, and once")]
fn held_before_anything_is_to_be_read() {
    session(&[Input::Held]);
}

#[test]
#[should_panic(expected = "contract: Released only while held")]
fn released_before_it_was_held() {
    session(&[UP, Input::Released]);
}

#[test]
#[should_panic(expected = "contract: Queued and Turn only while Back is to be dialed")]
fn queued_when_it_is_there() {
    session(&[UP, Input::Queued]);
}

#[test]
#[should_panic(expected = "contract: a turn begins in the past")]
fn a_turn_in_the_future() {
    session(&[Input::Turn(NOW + Duration::from_secs(1))]);
}

#[test]
#[should_panic(expected = "contract: time never runs back")]
fn time_runs_back() {
    session(&[UP]).handle(Instant::ZERO, Input::Eof(Leg::Front));
}

#[test]
#[should_panic(expected = "contract: capacity is at least 1")]
fn no_capacity() {
    let _ = Session::new(Config { capacity: PerLeg::new(1, 0), ..Config::new(1) }, NOW);
}

#[test]
#[should_panic(expected = "contract: Front's codec fits its configuration")]
fn a_plain_codec_on_a_secure_front() {
    let config = Config { secure: PerLeg::both(true), ..Config::new(64) };
    let _ = Relay::new(config, Plain, NOW);
}

#[test]
#[should_panic(expected = "contract: Back's codec fits its configuration")]
fn a_secure_codec_on_a_plain_back() {
    let config = Config { secure: PerLeg::new(true, false), ..Config::new(64) };
    Relay::new(config, toy(), NOW).connected(NOW, toy());
}

#[test]
fn a_closed_session_ignores_whatever_is_reported() {
    let mut closed = session(&[UP, Input::Stop(Stop::Abort)]);
    let before = closed.clone();
    for input in [UP, Input::Read(Leg::Front, 99), Input::ShutDown(Leg::Back), Input::Full(Leg::Back)] {
        closed.handle(NOW, input);
    }
    closed.handle(Instant::ZERO, Input::ReadFailed(Leg::Back, Failure::Reset));
    closed.handle_timeout(NOW + Duration::from_secs(1));
    assert_eq!(closed, before);
}
