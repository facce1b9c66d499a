//! Which directories a path leads through, links followed: the kernel's rules hold for inodes, not for names.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links in one path; the kernel follows as many (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// What became of following a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reach {
    /// Where it leads: without links, whether or not it is there.
    pub(super) end: PathBuf,
    /// The directories that hold a link on the way. A link that is swapped, as Kubernetes swaps `..data`, leads to
    /// something beside it.
    pub(super) links: BTreeSet<PathBuf>,
    /// The way goes through another process' file system, as `/proc/PID/root` does.
    pub(super) through_process: bool,
}

/// Follows `path` as the kernel would.
pub(super) fn follow(path: &Path) -> Reach {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead: VecDeque<OsString> = parts(&absolute).collect();
    let mut reach = Reach { end: PathBuf::from("/"), ..Reach::default() };
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            reach.end.pop();
            continue;
        }
        let next = reach.end.join(&part);
        if is_of_process(&next) {
            reach.through_process = true;
            return reach;
        }
        let Ok(target) = fs::read_link(&next) else {
            reach.end = next;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return reach;
        }
        reach.links.insert(reach.end.clone());
        if target.is_absolute() {
            reach.end = PathBuf::from("/");
        }
        parts(&target).collect::<Vec<_>>().into_iter().rev().for_each(|part| ahead.push_front(part));
    }
    reach
}

/// Names, and `..` where it stands.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Whether this is one of the magic links that lead into another process' world (proc(5)).
fn is_of_process(link: &Path) -> bool {
    let Ok(below) = link.strip_prefix("/proc") else { return false };
    let mut parts = below.components().map(|part| part.as_os_str().to_string_lossy());
    let process = parts.next().and_then(|name| name.parse::<u32>().ok());
    process.is_some_and(|process| process != std::process::id())
        && parts.next().is_some_and(|name| matches!(&*name, "root" | "cwd" | "fd" | "task"))
}

/// Whether so much else is in it that it can't be meant: the root, or a directory in it.
pub(super) fn is_wide(directory: &Path) -> bool {
    directory.components().count() <= 2
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn links_are_followed_and_their_directories_noted() {
        let dir = Scratch::new();
        let root = fs::canonicalize(dir.root()).expect("a directory");
        let links = |names: &[&str]| names.iter().map(|name| root.join(name)).collect::<BTreeSet<_>>();
        fs::create_dir_all(dir.path("mount/..2024")).expect("mkdir");
        fs::create_dir_all(dir.path("elsewhere")).expect("mkdir");
        fs::write(dir.path("mount/..2024/tls.crt"), "x").expect("write");
        symlink("..2024", dir.path("mount/..data")).expect("symlink");
        symlink("..data/tls.crt", dir.path("mount/tls.crt")).expect("symlink");
        symlink("../mount/./tls.crt", dir.path("elsewhere/other.crt")).expect("symlink");
        let plain = follow(&dir.path("mount/..2024/tls.crt"));
        assert_eq!((plain.end.clone(), plain.links.len()), (root.join("mount/..2024/tls.crt"), 0));
        let mounted = follow(&dir.path("mount/tls.crt"));
        assert_eq!((mounted.end, mounted.links), (plain.end.clone(), links(&["mount"])));
        let other = follow(&dir.path("elsewhere/../elsewhere/other.crt"));
        assert_eq!((other.end, other.links), (plain.end, links(&["elsewhere", "mount"])));
        symlink(dir.path("loop"), dir.path("loop")).expect("symlink");
        assert!(!follow(&dir.path("loop/x")).through_process, "it ends");
        assert_eq!(follow(&dir.path("nothing/there")).end, root.join("nothing/there"));
    }

    #[test]
    fn another_process_world_is_noticed_also_behind_a_link() {
        let dir = Scratch::new();
        symlink("/proc/1/root/run", dir.path("pod")).expect("symlink");
        symlink("/proc/self/root", dir.path("own")).expect("symlink");
        assert!(follow(Path::new("/proc/1/root/run/x.sock")).through_process);
        assert!(follow(&dir.path("pod/x.sock")).through_process);
        assert!(!follow(&dir.path("own/etc")).through_process);
        assert!(!follow(Path::new("/proc/1/status")).through_process);
    }

    #[test]
    fn what_is_wide() {
        for (path, wide) in [("/", true), ("/etc", true), ("/etc/relay", false)] {
            assert_eq!(is_wide(Path::new(path)), wide, "{path}");
        }
    }
}
