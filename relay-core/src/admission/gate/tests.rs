use super::*;
use core::time::Duration;

const A: ListenerId = ListenerId(0);
const B: ListenerId = ListenerId(1);
const NOW: Instant = Instant::from_nanos(1_000);

fn gate(sessions: usize, strangers: usize, per_turn: usize) -> Gate {
    let mut gate = Gate::new(Limits { sessions, strangers, per_turn }, 1);
    gate.add(A, Peers::Known);
    gate.add(B, Peers::Strangers);
    gate
}

#[test]
fn an_owed_accept_is_remembered_over_turns_and_pauses() {
    let mut gate = gate(100, 100, 2);
    assert_eq!(gate.wants_accept(), None);
    gate.readable(A);
    for _ in 0..3 {
        gate.begin_turn();
        gate.accepted(NOW, A);
        gate.accepted(NOW, A);
        assert_eq!(gate.wants_accept(), None, "the turn's budget");
        assert!(gate.is_owing());
    }
    gate.begin_turn();
    gate.exhausted(NOW);
    assert_eq!((gate.wants_accept(), gate.is_owing()), (None, false), "sleep");
    assert_eq!(gate.held_up(), None, "a pause is not a limit");
    gate.handle_timeout(NOW);
    assert_eq!(gate.wants_accept(), None, "early");
    gate.handle_timeout(gate.next_timeout().expect("a pause"));
    assert_eq!(gate.wants_accept(), Some(A), "without a new event");
    gate.exhausted(NOW);
    gate.closed(None);
    assert_eq!(gate.wants_accept(), Some(A), "at once when a descriptor is free");
    gate.drained(A);
    assert_eq!((gate.wants_accept(), gate.is_owing()), (None, false));
}

#[test]
fn pauses_grow_until_an_accept_succeeds() {
    let mut gate = gate(100, 100, 16);
    gate.readable(A);
    let mut pause = || {
        gate.exhausted(NOW);
        gate.next_timeout().expect("a pause").since(NOW)
    };
    let pauses: Vec<_> = (0..12).map(|_| pause()).collect();
    assert!(pauses[0] <= Duration::from_millis(10) && pauses[11] >= Duration::from_millis(500));
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(1)));
    gate.freed();
    gate.accepted(NOW, A);
    gate.exhausted(NOW);
    assert!(gate.next_timeout().expect("a pause").since(NOW) <= Duration::from_millis(10));
}

#[test]
fn a_full_relay_takes_new_ones_at_nine_tenths() {
    let mut gate = gate(10, 10, 100);
    gate.readable(A);
    for _ in 0..10 {
        gate.accepted(NOW, A);
    }
    assert_eq!((gate.shut(Peers::Known), gate.held_up()), (Some(Shut::Full), Some(Shut::Full)));
    gate.closed(None);
    assert_eq!(gate.wants_accept(), Some(A), "9 of 10");
    gate.accepted(NOW, A);
    assert_eq!(gate.wants_accept(), None);
    for sessions in 1..2000 {
        let limits = Limits { sessions, ..Limits::default() };
        assert!(limits.resume_at() < sessions && limits.resume_at() == sessions * 9 / 10);
    }
    let limits = Limits { sessions: usize::MAX, ..Limits::default() };
    assert!(limits.resume_at() < usize::MAX);
}

#[test]
fn silent_strangers_do_not_keep_out_those_who_are_known() {
    let mut gate = gate(100, 2, 100);
    gate.readable(B);
    let first = gate.accepted(NOW, B);
    gate.accepted(NOW, B);
    assert_eq!((gate.wants_accept(), gate.shut(Peers::Strangers)), (None, Some(Shut::Strangers)));
    assert_eq!(gate.held_up(), Some(Shut::Strangers), "somebody may wait at B");
    gate.readable(A);
    assert_eq!(gate.wants_accept(), Some(A));
    gate.accepted(NOW, A);
    gate.authenticated(first.expect("a stranger"));
    assert_eq!(gate.wants_accept(), Some(B), "taking turns");
    let third = gate.accepted(NOW, B);
    gate.closed(third);
    assert_eq!((gate.sessions(), gate.strangers()), (3, 1));
}

#[test]
fn listeners_take_turns() {
    let mut gate = Gate::new(Limits::default(), 1);
    for listener in 0..3 {
        gate.add(ListenerId(listener), Peers::Known);
        gate.readable(ListenerId(listener));
    }
    for turn in 0..9 {
        let listener = gate.wants_accept().expect("owed");
        assert_eq!(listener, ListenerId(turn % 3));
        if turn % 2 == 0 { _ = gate.accepted(NOW, listener) } else { gate.skipped(listener) }
    }
}

#[test]
fn a_removed_listener_is_forgotten_and_its_number_free() {
    let mut gate = gate(10, 10, 10);
    gate.readable(A);
    gate.remove(A);
    assert_eq!(gate.wants_accept(), None);
    gate.readable(A);
    assert_eq!(gate.wants_accept(), None, "a stale event");
    gate.add(A, Peers::Strangers);
    assert_eq!(gate.wants_accept(), None);
    gate.readable(A);
    assert_eq!(gate.wants_accept(), Some(A));
    gate.remove(ListenerId(99));
}

#[test]
fn after_a_stop_nothing_is_accepted_and_nothing_waited_for() {
    let mut gate = gate(10, 10, 10);
    gate.readable(A);
    gate.accepted(NOW, A);
    gate.exhausted(NOW);
    gate.stop();
    gate.stop();
    gate.closed(None);
    assert_eq!((gate.wants_accept(), gate.is_owing(), gate.next_timeout()), (None, false, None));
    gate.exhausted(NOW);
    assert_eq!((gate.shut(Peers::Known), gate.next_timeout()), (Some(Shut::Stopped), None));
}

#[test]
fn sessions_within_the_descriptors_there_are() {
    assert_eq!(Limits::sessions_within(1024, 32, 2), 480);
    assert_eq!(Limits::sessions_within(0, 10, 2), 1);
    assert_eq!(Limits::sessions_within(usize::MAX, 0, 0), usize::MAX - Limits::HEADROOM);
}

#[test]
fn at_the_cap_the_oldest_silent_stranger_makes_room_after_a_fair_time() {
    let mut gate = gate(100, 2, 100);
    gate.readable(B);
    let [slow, silent] = [(); 2].map(|()| gate.accepted(NOW, B).expect("a stranger"));
    gate.spoke(slow);
    assert_eq!(gate.next_timeout(), Some(NOW + Gate::SILENCE), "somebody may wait");
    assert_eq!(gate.wants_evicted(NOW), None, "early");
    let now = NOW + Gate::SILENCE;
    assert_eq!(gate.wants_evicted(now), Some(silent), "and not the older one who speaks");
    gate.evicted(silent);
    assert_eq!((gate.wants_evicted(now), gate.next_timeout()), (None, None), "one for one");
    let other = gate.accepted(now, B).expect("a stranger");
    gate.closed(Some(silent));
    assert_eq!((gate.sessions(), gate.strangers()), (2, 2), "its leaving was counted once");
    gate.spoke(other);
    assert_eq!(gate.next_timeout(), Some(NOW + Gate::PATIENCE), "only those who speak are left");
    assert_eq!(gate.wants_evicted(NOW + Gate::PATIENCE), Some(slow));
    gate.evicted(slow);
    gate.drained(B);
    assert_eq!((gate.wants_evicted(NOW + Gate::PATIENCE), gate.next_timeout()), (None, None));
}

#[test]
fn nobody_is_sent_away_for_one_who_could_not_be_let_in_all_the_same() {
    let mut gate = gate(2, 1, 100);
    gate.readable(B);
    gate.readable(A);
    gate.accepted(NOW, A);
    gate.accepted(NOW, B);
    let late = NOW + Duration::from_secs(60);
    assert_eq!((gate.shut(Peers::Strangers), gate.wants_evicted(late)), (Some(Shut::Full), None));
    gate.closed(None);
    assert!(gate.wants_evicted(late).is_some());
    let mut closed = gate.clone();
    closed.remove(B);
    assert_eq!((closed.wants_evicted(late), closed.next_timeout()), (None, None), "by that door");
    gate.exhausted(NOW);
    assert_eq!(gate.wants_evicted(late), None);
    gate.stop();
    assert_eq!((gate.wants_evicted(late), gate.next_timeout()), (None, None));
}
