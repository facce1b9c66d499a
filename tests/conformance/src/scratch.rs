//! Directories for sockets and files.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "relay-conf-";

/// A directory of its own, removed at its end. Its name is short: a unix socket's path may have 107
/// bytes.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes a directory: not what a default does")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Something in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A unix endpoint in it.
    #[must_use]
    pub fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// The names of what is in it, sorted.
    ///
    /// # Panics
    /// If it can't be read.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Removes what tests that were killed have left.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        // ours, if it is there, is that of a predecessor with our number
        let gone = |pid: &str| pid == process::id().to_string() || !Path::new("/proc").join(pid).exists();
        if owner.is_some_and(gone) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
