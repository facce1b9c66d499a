//! Notices that files have changed, however that was done: rewritten in place, renamed over, or by the
//! link that Kubernetes swaps beneath a mounted secret (`..data`).
//!
//! By looking, not by inotify(7): a watch follows an inode or a directory, and none of these three leaves
//! both as they were; network file systems tell it nothing at all. A look is one stat(2) for each file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Between two looks. A set is taken once two looks agree, so that files that change one after the
/// other, or are being written, are read together and whole.
pub(crate) const PERIOD: Duration = Duration::from_secs(2);

/// What tells one state of a file from another, links followed; `None` if it can't be looked at.
type Print = Option<[i64; 6]>;

fn print(path: &PathBuf) -> Print {
    let found = fs::metadata(path).ok()?;
    Some([
        found.dev().cast_signed(),
        found.ino().cast_signed(),
        found.size().cast_signed(),
        found.mtime(),
        found.ctime(),
        found.ctime_nsec(),
    ])
}

/// A set of files, and what was seen of it.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    /// When it was last read.
    taken: Vec<Print>,
    /// At the last look.
    seen: Vec<Print>,
}

impl Watch {
    /// To be made before the files are first read, so that no change is missed.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let now: Vec<Print> = files.iter().map(print).collect();
        Self { files, seen: now.clone(), taken: now }
    }

    /// Calls `changed` from a thread of its own whenever the files have changed, until the process ends.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub(crate) fn start(mut self, changed: impl Fn() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("files".to_owned()).spawn(move || {
            loop {
                thread::sleep(PERIOD);
                let now = self.files.iter().map(print).collect();
                if self.is_to_be_read(now) {
                    changed();
                }
            }
        })?;
        Ok(())
    }

    /// Whether the files changed and then stood still.
    fn is_to_be_read(&mut self, now: Vec<Print>) -> bool {
        let is_still = now == self.seen;
        let is_new = is_still && now != self.taken;
        if is_new {
            self.taken.clone_from(&now);
        }
        self.seen = now;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::Scratch;

    /// Seen by a number, as if that were all of a file.
    fn state(number: i64) -> Vec<Print> {
        vec![Some([number; 6]), None]
    }

    fn seen(number: i64) -> Watch {
        Watch { files: Vec::new(), taken: state(number), seen: state(number) }
    }

    #[test]
    fn a_change_is_taken_once_it_stands_still_and_only_once() {
        let mut watch = seen(1);
        assert!(!watch.is_to_be_read(state(1)));
        assert!(!watch.is_to_be_read(state(2)), "it may still be changing");
        assert!(!watch.is_to_be_read(state(3)), "as it is");
        assert!(watch.is_to_be_read(state(3)));
        assert!(!watch.is_to_be_read(state(3)), "taken");
    }

    #[test]
    fn what_comes_back_in_between_is_no_change() {
        let mut watch = seen(1);
        assert!(!watch.is_to_be_read(state(2)));
        assert!(!watch.is_to_be_read(state(1)));
        assert!(!watch.is_to_be_read(state(1)));
    }

    #[test]
    fn every_way_to_change_a_file_shows() {
        let dir = Scratch::new();
        let data = |name: &str, text: &str| {
            fs::create_dir(dir.path(name)).expect("a directory");
            fs::write(dir.path(name).join("tls.crt"), text).expect("a file");
        };
        data("first", "one");
        symlink("first", dir.path("..data")).expect("a link");
        symlink("..data/tls.crt", dir.path("tls.crt")).expect("a link");
        let path = dir.path("tls.crt");
        let mut before = print(&path);
        assert_ne!(before, None);
        assert_eq!(print(&path), before, "nothing happened");
        let mut differs = |how: &str| {
            let now = print(&path);
            assert_ne!(now, before, "{how}");
            before = now;
        };
        fs::write(dir.path("first").join("tls.crt"), "four").expect("a file");
        differs("rewritten");
        fs::write(dir.path("new"), "four").expect("a file");
        fs::rename(dir.path("new"), dir.path("first").join("tls.crt")).expect("rename");
        differs("renamed over");
        data("second", "four");
        symlink("second", dir.path("next")).expect("a link");
        fs::rename(dir.path("next"), dir.path("..data")).expect("rename");
        differs("the link swapped");
        fs::remove_file(dir.path("..data")).expect("removed");
        differs("gone");
    }
}
