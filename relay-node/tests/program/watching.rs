//! `status --watch` on a terminal refreshes in place.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::node::{put_target, start};
use crate::support::{Scratch, eventually, program};

/// What is on the screen after these bytes: the two sequences that are used, and lines.
fn screen(bytes: &str) -> String {
    // from the top, and nothing below
    let (last, _) = bytes.rsplit_once("\x1b[J").expect("a whole picture");
    let (_, picture) = last.rsplit_once("\x1b[H").expect("from the top");
    picture.replace("\x1b[K", "")
}

#[test]
fn each_picture_takes_the_place_of_the_last_one() {
    let dir = Scratch::new();
    let (_node, control) = start(&dir, "--plain --bind 127.0.0.1");
    put_target(&control, "first", "/none");
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).expect("granted");
    unlockpt(&terminal).expect("unlocked");
    let name = ptsname(&terminal, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let other = OpenOptions::new().read(true).write(true).open(name).expect("open");
    let mut command = program();
    command.args(["status", "--control", &format!("unix:{control}"), "--watch"]).stdout(Stdio::from(other));
    let mut watching = command.spawn().expect("spawn");
    drop(command);

    let mut terminal = File::from(terminal);
    let mut shown = String::new();
    let mut until = |what: &str, is_there: &dyn Fn(&str) -> bool| {
        eventually(what, || {
            let mut piece = [0; 4096];
            let length = terminal.read(&mut piece).expect("read");
            shown.push_str(std::str::from_utf8(&piece[..length]).expect("ASCII"));
            (shown.contains("\x1b[J") && is_there(&screen(&shown))).then(|| screen(&shown))
        })
    };
    let first = until("the first", &|screen| screen.contains("first"));
    assert!(first.contains("KEY") && !first.contains("second"), "{first}");
    put_target(&control, "second", "/none");
    until("the second", &|screen| screen.contains("first") && screen.contains("second"));
    crate::api::ok(&control, "DELETE", "/v1/targets/first", "");
    let last = until("one is gone", &|screen| !screen.contains("first"));
    // once, although it was drawn again and again
    assert_eq!(last.matches("second").count(), 1, "{last}");
    watching.kill().expect("kill");
    watching.wait().expect("wait");
}
