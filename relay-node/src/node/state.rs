//! What a restart must know: a file for each side of each migration, so that a change costs one file.
//!
//! What was asked for through the control API is listened for again at once, on the same ports. What an
//! object called for is listened for when the object is seen again; until then its ports are kept in
//! mind, for a day.
//!
//! Files are written beside their place and renamed, so there is never half a one. They outlive the
//! process, not the machine: nothing is synced to disk, for after a reboot nothing of it is true.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use relay_migration::api::{self, Call};
use relay_migration::registry::{Name, Request, Side};
use relay_migration::{Key, PortMap};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::{Value, json};

/// How long the ports of an object that was not seen again are kept in mind.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// A client of the control API.
    Api,
    /// An object.
    Vmi,
}

impl By {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Vmi => "vmi",
        }
    }

    /// As a value says under "by".
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value.get("by").and_then(Value::as_str) {
            Some("api") => Some(Self::Api),
            Some("vmi") => Some(Self::Vmi),
            _ => None,
        }
    }
}

/// What was asked for ends by itself after so long, unless it is asked for again.
pub(super) fn lease_at_most(request: &mut Request, most: Duration) {
    let lease = match request {
        Request::SetTarget(asked) => &mut asked.lease,
        Request::SetSource(asked) => &mut asked.lease,
        Request::Delete(_) | Request::Renew(_) | Request::Shutdown { .. } => return,
    };
    *lease = Some(lease.map_or(most, |lease| lease.min(most)));
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct State {
    directory: PathBuf,
    /// Locked for as long as this process has it open.
    lock: File,
    /// Ports that targets had before this process began, and which nobody has asked for yet.
    remembered: BTreeMap<Key, PortMap>,
}

impl State {
    /// Makes the directory if need be, and reads what is there: what is to be asked for again. What
    /// can't be read is told and left alone. `handed` is the lock, if a predecessor has handed it over.
    ///
    /// # Errors
    /// If the directory can't be made, read or written to, or another process has it.
    pub(super) fn load(directory: &Path, handed: Option<OwnedFd>) -> io::Result<(Self, Vec<Request>)> {
        fs::create_dir_all(directory)?;
        let lock = match handed {
            Some(lock) => held(File::from(lock))?,
            None => lock(directory)?,
        };
        let mut state = Self { directory: directory.to_owned(), lock, remembered: BTreeMap::new() };
        let mut requests = Vec::new();
        let mut names: Vec<_> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
        names.sort();
        for path in names {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // a predecessor was killed between writing and renaming
                Some("new") => {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                _ => continue,
            }
            match read(&path) {
                Ok((By::Api, request)) => requests.push(request),
                Ok((By::Vmi, request)) => state.remember(&path, request),
                Err(why) => {
                    log::error!(file:% = path.display(), error = why.as_str(); "state not understood; it was left alone");
                }
            }
        }
        Ok((state, requests))
    }

    fn remember(&mut self, path: &Path, request: Request) {
        let age = fs::metadata(path)
            .and_then(|found| found.modified())
            .map(|at| SystemTime::now().duration_since(at));
        if let Request::SetTarget(target) = request
            && !matches!(age, Ok(Ok(age)) if age > REMEMBERED)
        {
            self.remembered.insert(target.key, target.keep);
        } else {
            let _ = fs::remove_file(path);
        }
    }

    /// The directory and its lock, for a successor.
    pub(super) fn lock(&self) -> (&Path, BorrowedFd<'_>) {
        (&self.directory, self.lock.as_fd())
    }

    /// The ports that this target had, once.
    pub(super) fn take_ports(&mut self, key: &Key) -> Option<PortMap> {
        self.remembered.remove(key)
    }

    /// Notes what is in force. `ports` are the real ones of a target.
    pub(super) fn put(&self, by: By, request: &Request, ports: &PortMap) {
        let Some((name, body)) = body(request, ports) else { return };
        let path = self.path(&name);
        let new = path.with_extension("new");
        let text = format!("{}\n", json!({ "by": by.word(), "put": body }));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            log::error!(file:% = path.display(), error:%; "state not written; a restart would not know of it");
        }
    }

    /// It is over.
    pub(super) fn remove(&self, name: &Name) {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::error!(file:% = path.display(), error:%; "state not removed");
            }
            _ => {}
        }
    }

    /// A key is made of letters, digits, '-', '_' and '.'.
    fn path(&self, name: &Name) -> PathBuf {
        self.directory.join(format!("{}-{}.json", name.side, name.key))
    }
}

/// Two daemons with one directory would write over each other's ports. The kernel gives the lock back
/// however its holder ends (flock(2)), so the file stays: whoever removed it could have another one
/// lock it at that moment.
fn lock(directory: &Path) -> io::Result<File> {
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(directory.join("lock"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            (&mut file).take(20).read_to_string(&mut holder)?;
            let who = match holder.trim().parse::<u32>() {
                Ok(process) => format!("another daemon, process {process}, uses it"),
                Err(_) => "another daemon uses it".to_owned(),
            };
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{who}; each daemon has a directory of its own"),
            ));
        }
        Err(error) => return Err(error.into()),
    }
    held(file)
}

/// Notes in it who holds it: for people, and for the message above.
fn held(mut file: File) -> io::Result<File> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Whose it is, and the body of the call that asks for it again.
pub(super) fn body(request: &Request, ports: &PortMap) -> Option<(Name, Value)> {
    let seconds = |lease: Option<Duration>| lease.map(|lease| lease.as_secs());
    match request {
        Request::SetTarget(asked) => Some((
            Name::new(Side::Target, asked.key.clone()),
            json!({ "backends": asked.backends, "keep": ports, "lease_s": seconds(asked.lease) }),
        )),
        Request::SetSource(asked) => Some((
            Name::new(Side::Source, asked.key.clone()),
            json!({
                "target": asked.target.to_string(),
                "ports": asked.ports,
                "base_dir": asked.base_dir.as_str(),
                "owner": asked.owner.map(|owner| json!({ "uid": owner.uid, "gid": owner.gid })),
                "lease_s": seconds(asked.lease),
            }),
        )),
        Request::Delete(_) | Request::Renew(_) | Request::Shutdown { .. } => None,
    }
}

fn read(path: &Path) -> Result<(By, Request), String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let (side, key) = stem.split_once('-').ok_or("its name is not SIDE-KEY.json")?;
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    request(side, key, &value)
}

/// Who asked for this side of this migration, and for what: `value` is what was written of it.
pub(super) fn request(side: &str, key: &str, value: &Value) -> Result<(By, Request), String> {
    let by = By::of(value).ok_or("it does not say by whom it was asked for")?;
    let put = value.get("put").map(ToString::to_string).unwrap_or_default();
    match api::parse("PUT", &format!("/v1/{side}s/{key}"), put.as_bytes()) {
        Ok(Call::Registry(request)) => Ok((by, request)),
        Ok(_) => Err("it is about no migration".to_owned()),
        Err(error) => Err(error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn request(side: &str, key: &str, body: &str) -> Request {
        match api::parse("PUT", &format!("/v1/{side}s/{key}"), body.as_bytes()) {
            Ok(Call::Registry(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_asked_for_comes_back_with_its_ports() {
        let dir = Scratch::new();
        let (state, found) = State::load(&dir.path("new/one"), None).expect("made");
        assert!(found.is_empty());
        let target = request("target", "a-b.c", r#"{"backends":{"0":"/q","49152":"/r"},"lease_s":60}"#);
        let source = request(
            "source",
            "a-b.c",
            r#"{"target":"fd00::1","ports":{"7":0},"base_dir":"/b","owner":{"uid":1,"gid":2}}"#,
        );
        let other = request("target", "vmi", r#"{"backends":{"0":"/q"}}"#);
        let ports: PortMap = r#"{"5":0,"6":49152}"#.parse().expect("ports");
        state.put(By::Api, &target, &ports);
        state.put(By::Api, &source, &PortMap::default());
        state.put(By::Vmi, &other, &r#"{"9":0}"#.parse().expect("ports"));

        drop(state);
        let (mut state, found) = State::load(&dir.path("new/one"), None).expect("there");
        let mut kept = target;
        if let Request::SetTarget(asked) = &mut kept {
            asked.keep = ports;
        }
        assert_eq!(found, [source, kept]);
        let key: Key = "vmi".parse().expect("key");
        assert_eq!(state.take_ports(&key).map(|ports| ports.to_string()).as_deref(), Some(r#"{"9":0}"#));
        assert_eq!(state.take_ports(&key), None, "once");
        for name in ["target a-b.c", "source a-b.c", "target vmi", "target never"] {
            let (side, key) = name.split_once(' ').expect("two words");
            let side = if side == "target" { Side::Target } else { Side::Source };
            state.remove(&Name::new(side, key.parse().expect("key")));
        }
        assert_eq!(fs::read_dir(dir.path("new/one")).expect("dir").count(), 1, "the lock");
    }

    #[test]
    fn a_directory_has_one_daemon_at_a_time() {
        let dir = Scratch::new();
        let first = State::load(dir.root(), None).expect("made");
        let error = State::load(dir.root(), None).expect_err("in use").to_string();
        let process = std::process::id();
        assert!(error.contains(&format!("another daemon, process {process}, uses it")), "{error}");
        drop(first);
        // a killed one's lock is nobody's, whatever the file says
        fs::write(dir.path("lock"), "1").expect("write");
        State::load(dir.root(), None).expect("free again");
        assert_eq!(fs::read_to_string(dir.path("lock")).expect("read"), format!("{process}\n"));
    }

    #[test]
    fn what_is_broken_or_half_is_told_and_the_rest_is_read() {
        let dir = Scratch::new();
        let write = |name: &str, text: &str| fs::write(dir.path(name), text).expect("write");
        write("target-ok.json", r#"{"by":"api","put":{"backends":{"0":"/q"}}}"#);
        write("target-half.json", r#"{"by":"api","put":{"backe"#);
        write("target-a b.json", r#"{"by":"api","put":{"backends":{"0":"/q"}}}"#);
        write("sessions-x.json", r#"{"by":"api","put":{}}"#);
        write("target-who.json", r#"{"by":"me","put":{"backends":{"0":"/q"}}}"#);
        write("target-left.new", "{");
        write("README", "not ours");
        let (_, found) = State::load(dir.root(), None).expect("read");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!dir.path("target-left.new").exists() && dir.path("target-half.json").exists());
        assert!(State::load(&dir.path("README"), None).is_err(), "no directory");
    }

    #[test]
    fn ports_that_nobody_came_back_for_are_forgotten_after_a_day() {
        let dir = Scratch::new();
        let (state, _) = State::load(dir.root(), None).expect("made");
        state.put(By::Vmi, &request("target", "vmi", r#"{"backends":{"0":"/q"}}"#), &PortMap::default());
        let file = fs::File::options().write(true).open(dir.path("target-vmi.json")).expect("open");
        let before = SystemTime::now() - REMEMBERED - Duration::from_secs(60);
        file.set_modified(before).expect("utimes");
        drop(state);
        let (mut state, _) = State::load(dir.root(), None).expect("read");
        assert_eq!(state.take_ports(&"vmi".parse().expect("key")), None);
        assert!(!dir.path("target-vmi.json").exists());
    }
}
