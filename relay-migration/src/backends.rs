//! What a target's proxies dial: a unix socket per channel.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::channel::Channel;
use crate::invalid::{Invalid, invalid};
use crate::key::Key;
use crate::socket_path::{BaseDir, SocketPath};

/// virtqemud's socket below a pod's run directory.
const VIRTQEMUD: &str = "libvirt/virtqemud-sock";

/// The base directory of migration sockets below a pod's run directory.
const KUBEVIRT: &str = "kubevirt";

/// Unix sockets in a target pod, by channel. Equality is that of sets: the order in which they were
/// given does not matter, as with upstream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Backends(BTreeMap<Channel, SocketPath>);

impl Backends {
    /// Adds one.
    ///
    /// # Errors
    /// If the channel is there already, or another one has the same socket.
    pub fn insert(&mut self, channel: Channel, path: SocketPath) -> Result<(), Invalid> {
        if let Some(known) = self.0.get(&channel) {
            return invalid(format!(
                "channel {channel} is there twice, with {known} and {path}; each channel has one backend"
            ));
        }
        if let Some((other, _)) = self.0.iter().find(|(_, known)| **known == path) {
            return invalid(format!(
                "channels {other} and {channel} both have the backend {path}; each has a socket of its own"
            ));
        }
        self.0.insert(channel, path);
        Ok(())
    }

    /// The sockets of a KubeVirt pod whose `/var/run` is `run_dir`: virtqemud's, QEMU's memory and,
    /// if they are copied, its disks.
    ///
    /// # Errors
    /// If a path becomes too long ([`PATH_MAX`](crate::socket_path::PATH_MAX)).
    pub fn of_pod(run_dir: &BaseDir, key: &Key, copies_disks: bool) -> Result<Self, Invalid> {
        let mut backends = Self::default();
        backends.insert(Channel::Control, SocketPath::beneath_dir(run_dir, VIRTQEMUD)?)?;
        let base = pod_base_dir(run_dir)?;
        for channel in Channel::of_migration(copies_disks) {
            backends.insert(*channel, SocketPath::of_source(&base, key, *channel))?;
        }
        Ok(backends)
    }

    /// The channel's socket.
    #[must_use]
    pub fn get(&self, channel: Channel) -> Option<&SocketPath> {
        self.0.get(&channel)
    }

    /// Channel and socket, by channel.
    pub fn iter(&self) -> impl Iterator<Item = (Channel, &SocketPath)> {
        self.0.iter().map(|(channel, path)| (*channel, path))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The base directory of a KubeVirt pod whose `/var/run` is `run_dir`. The pod may have made it, so it is
/// trusted as far as `run_dir` is.
///
/// # Errors
/// If it becomes too long.
pub fn pod_base_dir(run_dir: &BaseDir) -> Result<BaseDir, Invalid> {
    run_dir.beneath(KUBEVIRT)
}

impl Serialize for Backends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (channel, path) in self.iter() {
            map.serialize_entry(&channel.to_string(), &path.to_string())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Backends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Paths;
        impl<'de> Visitor<'de> for Paths {
            type Value = Backends;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from channel id to the path of a unix socket")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Backends, A::Error> {
                let mut backends = Backends::default();
                while let Some((channel, path)) = access.next_entry::<String, String>()? {
                    let channel = channel.parse().map_err(A::Error::custom)?;
                    let path = path.parse().map_err(A::Error::custom)?;
                    backends.insert(channel, path).map_err(A::Error::custom)?;
                }
                Ok(backends)
            }
        }
        deserializer.deserialize_map(Paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_sockets() {
        let run_dir: BaseDir = "/proc/7/root/var/run".parse().expect("directory");
        let key: Key = "u".parse().expect("key");
        let backends = Backends::of_pod(&run_dir, &key, true).expect("backends");
        let paths: Vec<_> = backends.iter().map(|(channel, path)| format!("{channel} {path}")).collect();
        assert_eq!(
            paths,
            [
                "0 /proc/7/root/var/run/libvirt/virtqemud-sock",
                "49152 /proc/7/root/var/run/kubevirt/migrationproxy/u-49152-source.sock",
                "49153 /proc/7/root/var/run/kubevirt/migrationproxy/u-49153-source.sock",
            ]
        );
        assert_eq!(Backends::of_pod(&run_dir, &key, false).expect("backends").len(), 2);
    }

    #[test]
    fn json_there_and_back_in_any_order() {
        let one: Backends = serde_json::from_str(r#"{"0":"/a","49152":"/b"}"#).expect("JSON");
        let other: Backends = serde_json::from_str(r#"{"49152":"//b","0":"/./a"}"#).expect("JSON");
        assert_eq!(one, other);
        assert_eq!(serde_json::to_string(&one).expect("JSON"), r#"{"0":"/a","49152":"/b"}"#);
        for (text, says) in [
            (r#"{"0":"/a","0":"/b"}"#, "channel 0 is there twice"),
            (r#"{"0":"/a","49152":"//a"}"#, "both have the backend /a"),
            (r#"{"1":"/a"}"#, "there is no channel 1"),
            (r#"{"0":"a"}"#, "does not begin with '/'"),
            (r#"{"0":1}"#, "expected a string"),
            ("3", "an object from channel id"),
        ] {
            let error = serde_json::from_str::<Backends>(text).expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
