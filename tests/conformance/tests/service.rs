//! Under a service manager: what it is told (sd_notify(3)), and when.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use relay_conformance::peer::again;
use relay_conformance::{Authority, Scratch, Setup};
use rustix::process::Signal;

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn new(scratch: &Scratch) -> Self {
        let socket = UnixDatagram::bind(scratch.path("notify")).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit");
        Self(socket)
    }

    fn told(&self) -> String {
        let mut message = [0; 4096];
        let count = again(|| self.0.recv(&mut message)).expect("it is told something");
        String::from_utf8_lossy(&message[..count]).into_owned()
    }
}

/// As long as all loops go on, and no thread that goes on without them.
#[test]
fn the_watchdog_is_told_that_all_loops_go_on() {
    let scratch = Scratch::new();
    let manager = Manager::new(&scratch);
    let mut relay = Setup::new(&scratch.unix("front"), "tcp:127.0.0.1:1")
        .options(&["--threads", "3"])
        .variable("NOTIFY_SOCKET", scratch.path("notify").to_str().expect("a name"))
        .variable("WATCHDOG_USEC", "300000")
        .spawn();
    let told: Vec<String> = (0..6).map(|_| manager.told()).collect();
    let count = |what: &str| told.iter().filter(|message| *message == what).count();
    assert_eq!((count("READY=1\n"), count("WATCHDOG=1\n")), (1, 5), "{told:?}");
    relay.signal(Signal::TERM);
    assert_eq!(relay.exit_code(), Some(0));
}

#[test]
fn the_service_manager_is_told_when_it_listens_reloads_and_stops() {
    let scratch = Scratch::new();
    let node = Authority::common().issue("node");
    let files = node.write(scratch.root());
    let manager = Manager::new(&scratch);
    let front = scratch.path("front");
    let mut relay = Setup::new(&scratch.unix("front"), "tls:127.0.0.1:1")
        .tls(&files)
        .variable("NOTIFY_SOCKET", scratch.path("notify").to_str().expect("a name"))
        .spawn();
    assert_eq!(manager.told(), "READY=1\n");
    // Only now, and without looking for the line: whoever was told may connect.
    drop(UnixStream::connect(&front).expect("it listens"));
    relay.signal(Signal::HUP);
    let begins = manager.told();
    assert!(begins.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begins}");
    assert_eq!(manager.told(), "READY=1\n");
    relay.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert_eq!(relay.exit_code(), Some(0));
}
