//! TLS files that change in every way files do: what new sessions get, what open ones keep, and what is told.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::metrics::page;
use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, eventually};

const NAMES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Three files as Kubernetes mounts them: links to `..data/NAME`, and that a link to a directory.
struct Mount {
    pki: Pki,
    dir: Scratch,
    made: i32,
}

impl Mount {
    fn new() -> Self {
        let mut mount = Self { pki: Pki::new(), dir: Scratch::new(), made: 0 };
        let (first, _) = mount.make();
        symlink(first, mount.at("..data")).expect("a link");
        for name in NAMES {
            symlink(format!("..data/{name}"), mount.at(name)).expect("a link");
        }
        mount
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path(name).into()
    }

    fn options(&self) -> String {
        let [cert, key, ca] = NAMES.map(|name| self.dir.path(name));
        format!("--tls-cert {cert} --tls-key {key} --tls-ca {ca}")
    }

    /// A directory with a new set, and the year in which its certificate ends.
    fn make(&mut self) -> (PathBuf, i32) {
        self.made += 1;
        let (name, year) = (format!("set-{}", self.made), 2100 + self.made);
        self.pki.issue(&name, &Leaf { years: (2000, year), ..Leaf::target() });
        let directory = self.at(&name);
        fs::create_dir(&directory).expect("a directory");
        for (from, to) in [
            (format!("{name}.crt"), "tls.crt"),
            (format!("{name}.key"), "tls.key"),
            ("ca".to_owned(), "ca.crt"),
        ] {
            fs::copy(self.pki.dir.path(&from), directory.join(to)).expect("a file");
        }
        (directory, year)
    }

    /// What happens to the files, with those of a new set.
    fn change(&mut self, how: fn(&Path, &Path)) -> i32 {
        let (new, year) = self.make();
        how(&new, Path::new(&self.dir.path("")));
        year
    }
}

/// From a directory with the new files to the one that is read.
type Change = fn(&Path, &Path);

fn rewritten(new: &Path, mount: &Path) {
    for name in NAMES {
        fs::write(mount.join(name), fs::read(new.join(name)).expect("a file")).expect("written");
    }
}

fn renamed_over(new: &Path, mount: &Path) {
    for name in NAMES {
        fs::rename(new.join(name), mount.join("..data").join(name)).expect("renamed");
    }
}

fn link_swapped(new: &Path, mount: &Path) {
    symlink(new, mount.join("next")).expect("a link");
    fs::rename(mount.join("next"), mount.join("..data")).expect("renamed");
}

fn key_only(new: &Path, mount: &Path) {
    fs::write(mount.join("tls.key"), fs::read(new.join("tls.key")).expect("a file")).expect("written");
}

/// Says back what it hears, as it hears it.
fn repeat(stream: &UnixStream) {
    let mut some = [0; 64];
    while let Ok(count @ 1..) = (&*stream).read(&mut some) {
        let _ = (&*stream).write_all(&some[..count]);
    }
}

#[test]
fn however_files_change_new_sessions_get_them_and_open_ones_go_on() {
    let (dir, mut mount) = (Scratch::new(), Mount::new());
    let _backend = Backend::start(&dir.path("backend"), repeat);
    let mut target = Node::start(&format!(
        "forward --listen tls:127.0.0.1:0 --connect unix:{} --metrics tcp:127.0.0.1:0 {}",
        dir.path("backend"),
        mount.options()
    ));
    let at = target.line();
    let tls = target.line().strip_prefix("listening ").expect("an endpoint").to_owned();
    let client = mount.pki.issue("client", &Leaf::source());
    let mut source =
        Node::start(&format!("forward --listen unix:{} --connect {tls} {client}", dir.path("front")));
    source.line();
    let mut held = UnixStream::connect(dir.path("front")).expect("connect");
    held.set_read_timeout(Some(Duration::from_secs(20))).expect("option");
    let mut goes_on = || {
        held.write_all(b"still here").expect("sent");
        let mut heard = [0; 10];
        held.read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"still here");
    };
    goes_on();
    let reloads = |result| page(&at).sum("relay_tls_reloads_total", &[("result", result)]);
    let ends_in = || {
        let end = page(&at).sum("relay_certificate_not_after_timestamp_seconds", &[("certificate", "own")]);
        1970 + (end / 31_556_952.0).round() as i32
    };
    let mut year = 2101;
    assert_eq!(ends_in(), year);
    let ways: [(&str, Change); 3] =
        [("rewritten", rewritten), ("renamed over", renamed_over), ("the link swapped", link_swapped)];
    for (count, (how, change)) in (1..).zip(ways) {
        year = mount.change(change);
        eventually(how, || (reloads("ok") >= f64::from(count)).then_some(()));
        eventually("all of it", || (ends_in() == year).then_some(()));
        assert_eq!(echo(&dir.path("front")).as_deref(), Some("hello"), "{how}");
        goes_on();
    }
    // A key alone does not fit the certificate: one line, and nothing changes.
    mount.change(key_only);
    eventually("it is noticed", || (reloads("failed") == 1.0).then_some(()));
    assert_eq!(ends_in(), year);
    assert_eq!(echo(&dir.path("front")).as_deref(), Some("hello"));
    target.signal(Signal::HUP);
    eventually("it is tried again", || (reloads("failed") == 2.0).then_some(()));
    // Asked for, it is read at once.
    year = mount.change(link_swapped);
    target.signal(Signal::HUP);
    eventually("by the signal", || (ends_in() == year).then_some(()));
    goes_on();
    drop(held);
    for node in [source, target] {
        node.signal(Signal::TERM);
        let (status, log) = node.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.matches("not reloaded").count() <= 2, "a line each: {log}");
    }
}
