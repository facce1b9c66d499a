//! The connections that a migration consists of, by what they carry.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};

use crate::invalid::{Invalid, invalid, shown};

/// A logical channel of a migration.
///
/// Its id was a TCP port once (KubeVirt's `LibvirtDirectMigrationPort` and
/// `LibvirtBlockMigrationPort`); today it is a name that happens to be a number, and which port
/// carries it on a target node is what a [`PortMap`](crate::PortMap) says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Channel {
    /// 0: libvirt's own protocol, from the source's daemon to virtqemud in the target pod.
    Control,
    /// 49152: QEMU's memory stream, with its multifd and post-copy connections.
    Memory,
    /// 49153: QEMU's disks (NBD), only if they are copied.
    Disks,
}

impl Channel {
    /// All there are, by id.
    pub const ALL: [Self; 3] = [Self::Control, Self::Memory, Self::Disks];

    /// The id that port maps and socket names have.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Control => 0,
            Self::Memory => 49152,
            Self::Disks => 49153,
        }
    }

    /// The channel with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn from_id(id: u64) -> Result<Self, Invalid> {
        match Self::ALL.into_iter().find(|channel| u64::from(channel.id()) == id) {
            Some(channel) => Ok(channel),
            None => invalid(format!(
                "there is no channel {id}; channels are 0 (libvirt), 49152 (memory) and 49153 (disks)"
            )),
        }
    }

    /// What it carries, in a word, for logs and metrics.
    #[must_use]
    pub const fn carries(self) -> &'static str {
        match self {
            Self::Control => "libvirt",
            Self::Memory => "memory",
            Self::Disks => "disks",
        }
    }

    /// The channels that QEMU itself needs, as KubeVirt's `GetMigrationPortsList`:
    /// [`Control`](Self::Control) is there always and goes without saying.
    #[must_use]
    pub const fn of_migration(copies_disks: bool) -> &'static [Self] {
        if copies_disks { &[Self::Memory, Self::Disks] } else { &[Self::Memory] }
    }
}

/// A channel by its id, in JSON.
pub(crate) struct ChannelId(pub(crate) Channel);

impl<'de> Deserialize<'de> for ChannelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Id;
        impl Visitor<'_> for Id {
            type Value = ChannelId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a channel id, which is the number 0, 49152 or 49153")
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<ChannelId, E> {
                Channel::from_id(id).map(ChannelId).map_err(E::custom)
            }
        }
        deserializer.deserialize_u64(Id)
    }
}

/// The id.
impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

impl FromStr for Channel {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        match text.parse() {
            Ok(id) if plain => Self::from_id(id),
            _ => invalid(format!("{} is no channel; it is 0, 49152 or 49153", shown(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        for channel in Channel::ALL {
            assert_eq!(channel.to_string().parse(), Ok(channel));
            assert_eq!(Channel::from_id(channel.id().into()), Ok(channel));
        }
        for text in ["", "1", "00", "+0", "049152", "49154", "-1", "0x0", "99999999999999999999999", "a\nb"] {
            let error = text.parse::<Channel>().expect_err(text).to_string();
            assert!(error.contains("49152") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn disks_only_if_they_are_copied() {
        assert_eq!(Channel::of_migration(false), [Channel::Memory]);
        assert_eq!(Channel::of_migration(true), [Channel::Memory, Channel::Disks]);
    }
}
