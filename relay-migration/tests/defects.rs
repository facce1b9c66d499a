//! Every defect that was observed in KubeVirt's migration proxy: a check for each, which upstream, as
//! it was seen to behave, fails, and which relay passes. First the manager (its start and stop), then
//! connections, then the accept loop.
#![cfg(feature = "testing")]

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use relay_core::admission::{Gate, Limits, ListenerId as AcceptId, Order, Peers};
use relay_core::error::Failure;
use relay_core::{
    Close, Config as SessionConfig, Input as SessionInput, Instant, Leg, PerLeg, Session, Stop,
};
use relay_migration::registry::{
    Config, Dial, Done, Name, Network, Owner, Request, Side, SourceRequest, TargetRequest,
};
use relay_migration::testing::registry::upstream::{SHUTTING_DOWN, Upstream};
use relay_migration::testing::registry::world::World;
use relay_migration::{Backends, BaseDir, Channel, Host, Invalid, Key, PortMap, SocketPath};

type Check = Result<(), String>;

const BAD: Owner = Owner { uid: 666, gid: 666 };

/// What both managers can do.
trait Manager {
    fn target(&mut self, backends: &[(Channel, &str)]) -> Result<PortMap, String>;
    fn source(&mut self, base: &str, ports: &[(u16, Channel)], owner: Owner) -> Result<Vec<String>, String>;
    fn delete(&mut self, side: Side) -> Check;
    fn shut_down(&mut self);
    fn migrations(&self) -> usize;
    /// Sockets that really listen, known to the manager or not.
    fn listening(&self) -> usize;
    /// From now on listening fails, for this backend's proxy.
    fn refuse(&mut self, backend: &str);
    /// accept(2) fails once.
    fn accept_fails(&mut self);
    fn accepts(&self) -> bool;
    /// Whom the channel's source proxy dials.
    fn dials(&self, channel: Channel) -> Option<String>;
}

/// A name that is one.
fn name<T: FromStr<Err = Invalid>>(text: &str) -> T {
    text.parse().expect(text)
}

fn key() -> Key {
    name("mykey")
}

struct Ours(World);

impl Ours {
    fn new() -> Self {
        let address = IpAddr::from([10, 1, 1, 1]);
        let mut world = World::new(Config::new(Network { bind: address, advertise: address }));
        world.bad_owner = Some(BAD);
        Self(world)
    }

    fn request(&mut self, request: Request) -> Result<Done, String> {
        self.0.request(request).map_err(|refusal| refusal.to_string())
    }
}

impl Manager for Ours {
    fn target(&mut self, backends: &[(Channel, &str)]) -> Result<PortMap, String> {
        let mut map = Backends::default();
        for (channel, path) in backends {
            map.insert(*channel, name(path)).map_err(|e| e.to_string())?;
        }
        let request = TargetRequest { key: key(), backends: map, keep: PortMap::default(), lease: None };
        match self.request(Request::SetTarget(request))? {
            Done::Target { ports, .. } => Ok(ports),
            Done::Source { .. } | Done::Renewed | Done::Deleted { .. } | Done::ShuttingDown(_) => {
                Err("another request's answer".into())
            }
        }
    }

    fn source(&mut self, base: &str, ports: &[(u16, Channel)], owner: Owner) -> Result<Vec<String>, String> {
        let mut map = PortMap::default();
        for (port, channel) in ports {
            map.insert(*port, *channel).map_err(|e| e.to_string())?;
        }
        let request = SourceRequest {
            key: key(),
            target: name("10.1.1.2"),
            ports: map,
            base_dir: name(base),
            owner: Some(owner),
            lease: None,
        };
        match self.request(Request::SetSource(request))? {
            Done::Source { files } => Ok(files.iter().map(|(_, path)| path.to_string()).collect()),
            Done::Target { .. } | Done::Renewed | Done::Deleted { .. } | Done::ShuttingDown(_) => {
                Err("another request's answer".into())
            }
        }
    }

    fn delete(&mut self, side: Side) -> Check {
        self.request(Request::Delete(Name::new(side, key()))).map(|_| ())
    }

    fn shut_down(&mut self) {
        self.request(Request::Shutdown { until: None }).expect("shutdown");
    }

    fn migrations(&self) -> usize {
        self.0.registry.open_count().migrations
    }

    fn listening(&self) -> usize {
        self.0.sockets.len()
    }

    /// Which port fails does not matter: the kernel has none left.
    fn refuse(&mut self, _: &str) {
        self.0.bad_address = true;
    }

    /// The gate retries by time; should a listener die all the same, it is opened again.
    fn accept_fails(&mut self) {
        for id in self.0.sockets.keys().copied().collect::<Vec<_>>() {
            self.0.lose(id);
            self.0.settle();
        }
    }

    fn accepts(&self) -> bool {
        let view = self.0.registry.target(&key(), self.0.now);
        view.is_some_and(|view| view.ports.len() == view.backends.len())
    }

    fn dials(&self, channel: Channel) -> Option<String> {
        let sockets = self.0.sockets_of(&Name::new(Side::Source, key()));
        sockets.get(&channel).map(|socket| socket.dial.to_string())
    }
}

impl Manager for Upstream {
    fn target(&mut self, backends: &[(Channel, &str)]) -> Result<PortMap, String> {
        let paths: Vec<SocketPath> = backends.iter().map(|(_, path)| name(path)).collect();
        self.start_target(&key(), &paths)?;
        Ok(self.target_ports(&key()))
    }

    fn source(&mut self, base: &str, ports: &[(u16, Channel)], owner: Owner) -> Result<Vec<String>, String> {
        let base: BaseDir = name(base);
        let file = |(port, channel): &(u16, Channel)| {
            let host: Host = name("10.1.1.2");
            (SocketPath::of_source(&base, &key(), *channel), Dial::Tcp { host, port: *port })
        };
        let files: Vec<_> = ports.iter().map(file).collect();
        self.start_source(&key(), &files, owner)?;
        Ok(self.source_files(&key()).iter().map(ToString::to_string).collect())
    }

    fn delete(&mut self, side: Side) -> Check {
        match side {
            Side::Target => self.stop_target(&key()),
            Side::Source => Ok(()),
        }
    }

    fn shut_down(&mut self) {
        Self::shut_down(self);
    }

    fn migrations(&self) -> usize {
        self.open_count()
    }

    fn listening(&self) -> usize {
        self.listening.len()
    }

    fn refuse(&mut self, backend: &str) {
        self.refuse.push(Dial::Unix(name(backend)));
    }

    fn accept_fails(&mut self) {
        Self::accept_fails(self, &key());
    }

    fn accepts(&self) -> bool {
        self.target_accepts(&key())
    }

    fn dials(&self, channel: Channel) -> Option<String> {
        let name = format!("mykey-{channel}");
        self.source_dials(&key(), |file| file.file_name().starts_with(&name)).map(|dial| dial.to_string())
    }
}

fn upstream() -> Upstream {
    let mut upstream = Upstream::new(32768);
    upstream.bad_owner = Some(BAD);
    upstream
}

fn ensure(holds: bool, detail: &str) -> Check {
    if holds { Ok(()) } else { Err(detail.to_owned()) }
}

/// Relay passes, upstream does not.
fn both(check: fn(&mut dyn Manager) -> Check) {
    assert_eq!(check(&mut Ours::new()), Ok(()));
    assert!(check(&mut upstream()).is_err(), "upstream is said to fail here");
}

/// Both pass: what must stay as it is.
fn as_upstream(check: fn(&mut dyn Manager) -> Check) {
    assert_eq!(check(&mut Ours::new()), Ok(()));
    assert_eq!(check(&mut upstream()), Ok(()));
}

const TWO: [(Channel, &str); 2] = [(Channel::Control, "/q"), (Channel::Memory, "/m")];

// Section 1.3: start and stop.

#[test]
fn the_same_set_in_any_order_is_no_change() {
    as_upstream(|manager| {
        let first = manager.target(&TWO)?;
        let second = manager.target(&[TWO[1], TWO[0]])?;
        ensure(first == second && manager.listening() == 2, "the ports changed")
    });
}

#[test]
fn a_changed_target_got_new_random_ports() {
    both(|manager| {
        let first = manager.target(&TWO)?;
        let second = manager.target(&[(Channel::Control, "/q"), (Channel::Memory, "/other")])?;
        ensure(first == second, "other ports, which the source does not know")
    });
}

#[test]
fn a_new_base_dir_of_a_source_was_not_picked_up() {
    both(|manager| {
        manager.source("/proc/1/root/run", &[(1000, Channel::Control)], Owner::QEMU)?;
        let files = manager.source("/proc/2/root/run", &[(1000, Channel::Control)], Owner::QEMU)?;
        let expected = "/proc/2/root/run/migrationproxy/mykey-source.sock";
        ensure(files == [expected] && manager.listening() == 1, "still in the old pod")
    });
}

#[test]
fn swapped_channel_ids_of_a_source_were_not_picked_up() {
    both(|manager| {
        let ports = [(1000, Channel::Memory), (1001, Channel::Disks)];
        manager.source("/run", &ports, Owner::QEMU)?;
        let swapped = [(1001, Channel::Memory), (1000, Channel::Disks)];
        manager.source("/run", &swapped, Owner::QEMU)?;
        ensure(
            manager.dials(Channel::Memory) == Some("10.1.1.2:1001".into()),
            "memory goes to the disks' port",
        )
    });
}

#[test]
fn a_shutdown_refuses_even_an_identical_start_in_upstreams_words() {
    as_upstream(|manager| {
        manager.target(&TWO)?;
        manager.source("/run", &[(1000, Channel::Control)], Owner::QEMU)?;
        manager.shut_down();
        ensure(manager.migrations() == 2, "both still count")?;
        ensure(manager.target(&TWO) == Err(SHUTTING_DOWN.into()), "a target")?;
        let source = manager.source("/run", &[(1000, Channel::Control)], Owner::QEMU);
        ensure(source == Err(SHUTTING_DOWN.into()), "a source")
    });
}

#[test]
fn two_ports_for_one_channel_took_each_others_socket() {
    both(|manager| {
        let twice = [(1000, Channel::Control), (1001, Channel::Control)];
        match manager.source("/run", &twice, Owner::QEMU) {
            Err(_) => ensure(
                manager.listening() == 0 && manager.migrations() == 0,
                "refused, yet something is left",
            ),
            Ok(files) => ensure(manager.listening() == files.len(), "two proxies, one socket"),
        }
    });
}

#[test]
fn an_empty_list_was_stored_and_never_deleted() {
    both(|manager| {
        let _ = manager.target(&[]);
        manager.delete(Side::Target)?;
        ensure(manager.migrations() == 0, "the count never comes to 0")
    });
}

#[test]
fn a_failed_retarget_left_stopped_proxies_and_the_next_stop_panicked() {
    both(|manager| {
        let ports = manager.target(&TWO)?;
        manager.refuse("/disks");
        let more = [TWO[0], TWO[1], (Channel::Disks, "/disks")];
        ensure(manager.target(&more).is_err(), "listening is refused")?;
        ensure(manager.listening() == 2, "what was there before does not listen any more")?;
        ensure(manager.target(&TWO)? == ports, "nor is it there for the asking")?;
        manager.delete(Side::Target)?;
        ensure(manager.listening() == 0, "something is left")
    });
}

/// The same, without asking whether the former still listens: to the panic.
#[test]
fn stop_after_a_failed_retarget_panicked() {
    both(|manager| {
        manager.target(&TWO)?;
        manager.refuse("/disks");
        let _ = manager.target(&[TWO[0], TWO[1], (Channel::Disks, "/disks")]);
        manager.delete(Side::Target)
    });
}

#[test]
fn a_failed_chown_leaked_a_live_listener() {
    both(|manager| {
        let started = manager.source("/run", &[(1000, Channel::Control)], BAD);
        ensure(started.is_err(), "it can't be given to that owner")?;
        ensure(manager.listening() == 0, "a socket that nobody knows of listens")
    });
}

#[test]
fn the_count_knew_keys_only_and_no_sessions() {
    let mut ours = Ours::new();
    ours.target(&TWO).expect("target");
    let id = *ours.0.sockets.keys().next().expect("socket");
    ours.0.open_session(id);
    ours.shut_down();
    ours.delete(Side::Target).expect("delete");
    assert!(!ours.0.registry.is_shut_down(), "a session is open");
    assert_eq!(ours.0.registry.open_count().sessions, 1);
    ours.0.close_session();
    assert!(ours.0.registry.is_shut_down());
}

#[test]
fn stop_of_an_unknown_key_is_fine() {
    as_upstream(|manager| manager.delete(Side::Target));
}

// Section 1.5: the accept loop.

#[test]
fn one_accept_error_ended_a_listener_for_good_and_start_was_a_no_op() {
    both(|manager| {
        let ports = manager.target(&TWO)?;
        manager.accept_fails();
        let again = manager.target(&TWO)?;
        ensure(manager.accepts(), "clients connect into the backlog and hang")?;
        ensure(ports == again, "on other ports")
    });
}

/// EMFILE does not even get that far: what is owed is taken as soon as it can be.
#[test]
fn running_out_of_descriptors_ended_the_accept_loop() {
    let mut gate = Gate::new(Limits::default(), 1);
    gate.add(AcceptId(0), Peers::Strangers);
    gate.readable(AcceptId(0));
    gate.exhausted(Instant::ZERO);
    assert_eq!(gate.wants_accept(), None);
    gate.handle_timeout(gate.next_timeout().expect("a retry"));
    assert_eq!(gate.wants_accept(), Some(AcceptId(0)), "without another event");
}

// Section 1.4: connections. What can be seen from outside, in order.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// The handshake of the accepted connection is complete.
    Authenticated,
    /// The other side was dialed.
    Dialed,
    /// This leg was given a FIN.
    Fin(Leg),
    /// So many bytes came out at this leg.
    Bytes(Leg, usize),
    /// This leg was closed.
    Closed(Leg),
}

/// Does what a session demands, as a runtime with willing sockets would, and notes what can be seen.
struct Runtime {
    session: Session,
    seen: Vec<Seen>,
}

impl Runtime {
    fn new(secure: bool) -> Self {
        let config = SessionConfig { secure: PerLeg::new(secure, false), ..SessionConfig::new(1000) };
        let mut runtime = Self { session: Session::new(config, Instant::ZERO), seen: vec![] };
        runtime.run();
        runtime
    }

    fn tell(&mut self, input: SessionInput) -> &mut Self {
        self.session.handle(Instant::ZERO, input);
        self.run();
        self
    }

    fn run(&mut self) {
        loop {
            let (front, back) = (self.session.demand(Leg::Front), self.session.demand(Leg::Back));
            let done = if back.connect {
                self.seen.push(Seen::Dialed);
                SessionInput::Connected(Leg::Back)
            } else if let Some((leg, count)) =
                [(Leg::Front, front.write), (Leg::Back, back.write)].into_iter().find(|(_, count)| *count > 0)
            {
                self.seen.push(Seen::Bytes(leg, count));
                SessionInput::Wrote(leg, count)
            } else if front.shutdown || back.shutdown {
                let leg = if front.shutdown { Leg::Front } else { Leg::Back };
                self.seen.push(Seen::Fin(leg));
                SessionInput::ShutDown(leg)
            } else {
                break;
            };
            self.session.handle(Instant::ZERO, done);
        }
        let closed = self.seen.iter().any(|seen| matches!(seen, Seen::Closed(_)));
        if self.session.outcome().is_some() && !closed {
            self.seen.extend([Seen::Closed(Leg::Front), Seen::Closed(Leg::Back)]);
        }
    }
}

fn has(trace: &[Seen], wanted: Seen) -> bool {
    trace.contains(&wanted)
}

fn before(trace: &[Seen], first: Seen, second: Seen) -> bool {
    let at = |wanted| trace.iter().position(|seen| *seen == wanted);
    at(second).is_none_or(|second| at(first).is_some_and(|first| first < second))
}

#[test]
fn there_was_no_half_close() {
    // the client has said all; the answer comes later
    let check = |trace: &[Seen]| {
        ensure(has(trace, Seen::Fin(Leg::Back)), "the peer never sees the end of the request")?;
        ensure(has(trace, Seen::Bytes(Leg::Front, 5)), "the answer is dropped")?;
        ensure(
            before(trace, Seen::Bytes(Leg::Front, 5), Seen::Closed(Leg::Front)),
            "closed before the answer",
        )
    };
    let mut ours = Runtime::new(false);
    ours.tell(SessionInput::Read(Leg::Front, 3)).tell(SessionInput::Eof(Leg::Front));
    assert_eq!(ours.session.outcome(), None, "the answer is awaited");
    ours.tell(SessionInput::Read(Leg::Back, 5)).tell(SessionInput::Eof(Leg::Back));
    assert_eq!(check(&ours.seen), Ok(()));
    let upstream = [Seen::Dialed, Seen::Bytes(Leg::Back, 3), Seen::Closed(Leg::Front)];
    assert!(check(&upstream).is_err(), "upstream is said to fail here");
}

#[test]
fn the_outbound_connection_was_never_closed() {
    let check = |trace: &[Seen]| {
        ensure(
            has(trace, Seen::Fin(Leg::Back)) || has(trace, Seen::Closed(Leg::Back)),
            "the backend sees no end",
        )?;
        ensure(has(trace, Seen::Closed(Leg::Back)), "its descriptor leaks")
    };
    // by an end, by a reset, by a stop
    for ends in [
        vec![SessionInput::Eof(Leg::Front), SessionInput::Eof(Leg::Back)],
        vec![SessionInput::ReadFailed(Leg::Front, Failure::Reset)],
        vec![SessionInput::Stop(Stop::Abort)],
    ] {
        let mut ours = Runtime::new(false);
        for input in ends {
            ours.tell(input);
        }
        assert_eq!(check(&ours.seen), Ok(()));
    }
    let upstream = [Seen::Dialed, Seen::Closed(Leg::Front)];
    assert!(check(&upstream).is_err(), "upstream is said to fail here");
}

/// An end that was none must not look like one at the other side.
#[test]
fn the_sources_reset_did_not_reach_the_target() {
    let mut ours = Runtime::new(false);
    ours.tell(SessionInput::Read(Leg::Front, 3)).tell(SessionInput::ReadFailed(Leg::Front, Failure::Reset));
    let outcome = ours.session.outcome().expect("over");
    assert_eq!(outcome.close.back, Close::Reset);
    assert_eq!(outcome.flows.front.delivered, 3, "what came before it is delivered");
    assert!(!has(&ours.seen, Seen::Fin(Leg::Back)));
}

#[test]
fn the_backend_was_dialed_before_the_handshake() {
    let check = |trace: &[Seen]| {
        ensure(before(trace, Seen::Authenticated, Seen::Dialed), "a scanner opens a connection to virtqemud")
    };
    let mut ours = Runtime::new(true);
    assert_eq!(ours.seen, [], "a silent stranger makes nothing happen");
    ours.seen.push(Seen::Authenticated);
    ours.tell(SessionInput::Secured(Leg::Front));
    assert_eq!(ours.seen, [Seen::Authenticated, Seen::Dialed]);
    assert_eq!(check(&ours.seen), Ok(()));
    assert!(check(&[Seen::Dialed, Seen::Authenticated]).is_err(), "upstream is said to fail here");
    // and one that leaves again leaves nothing behind
    let mut scanner = Runtime::new(true);
    scanner.tell(SessionInput::ReadFailed(Leg::Front, Failure::Truncated));
    assert!(scanner.session.outcome().is_some() && !has(&scanner.seen, Seen::Dialed));
}

#[test]
fn connections_overtook_each_other() {
    let check = |order: &[usize]| ensure(order.is_sorted(), "QEMU takes one channel for another");
    let mut order = Order::new(Duration::from_millis(500));
    let tickets: Vec<_> = (0..9).map(|_| order.accepted()).collect();
    // handshakes complete in any order
    let mut dialed = vec![];
    for ready in [3, 1, 0, 8, 2, 4, 7, 6, 5] {
        order.ready(Instant::ZERO, tickets[ready]);
        while let Some(turn) = order.turn() {
            dialed.extend(tickets.iter().position(|ticket| *ticket == turn));
            order.left(turn);
        }
    }
    assert_eq!(dialed.len(), 9);
    assert_eq!(check(&dialed), Ok(()));
    assert!(check(&[3, 1, 0, 8, 2, 4, 7, 6, 5]).is_err(), "upstream is said to fail here");
}
