//! Which port of a target node carries which channel.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::channel::{Channel, ChannelId};
use crate::invalid::{Invalid, invalid, shown};

/// Ports of a target node, each with the channel it carries.
///
/// As JSON it is what KubeVirt puts into `targetDirectMigrationNodePorts`, an object from port (a
/// string) to channel id (a number): `{"32899":0,"39497":49153,"42691":49152}`, in the order in which
/// Go prints a map. A port and a channel occur once each: with upstream, two entries for one channel
/// make two proxies of which the second takes the first one's socket away.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortMap(BTreeMap<Channel, u16>);

impl PortMap {
    /// Adds one.
    ///
    /// # Errors
    /// If the port is 0, or port or channel are there already.
    pub fn insert(&mut self, port: u16, channel: Channel) -> Result<(), Invalid> {
        if port == 0 {
            return invalid(format!(
                "port 0 for channel {channel} is no port; it is a number from 1 to 65535"
            ));
        }
        if self.0.values().any(|known| *known == port) {
            return invalid(format!("port {port} is there twice; each port carries one channel"));
        }
        match self.0.entry(channel) {
            Entry::Vacant(vacant) => {
                vacant.insert(port);
                Ok(())
            }
            Entry::Occupied(known) => invalid(format!(
                "channel {channel} is there twice, with the ports {} and {port}; each channel has one port",
                known.get()
            )),
        }
    }

    /// The channel's port.
    #[must_use]
    pub fn port(&self, channel: Channel) -> Option<u16> {
        self.0.get(&channel).copied()
    }

    /// Port and channel, by channel.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Channel)> {
        self.0.iter().map(|(channel, port)| (*port, *channel))
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

    /// Port as text and channel, in the order of the text: what Go's encoding/json makes of a map.
    fn sorted(&self) -> Vec<(String, Channel)> {
        let mut pairs: Vec<_> = self.iter().map(|(port, channel)| (port.to_string(), channel)).collect();
        pairs.sort();
        pairs
    }
}

/// KubeVirt's JSON.
impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (port, channel)) in self.sorted().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}\"{port}\":{channel}")?;
        }
        f.write_str("}")
    }
}

/// KubeVirt's JSON.
impl FromStr for PortMap {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        serde_json::from_str(text).map_err(|error| {
            Invalid::new(format!(
                "{} is no port map: {error}; write {{\"32899\":0,\"42691\":49152}}",
                shown(text)
            ))
        })
    }
}

impl Serialize for PortMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (port, channel) in self.sorted() {
            map.serialize_entry(&port, &channel.id())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PortMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;
        impl<'de> Visitor<'de> for Ports {
            type Value = PortMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from port to channel id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<PortMap, A::Error> {
                let mut map = PortMap::default();
                while let Some((port, ChannelId(channel))) = access.next_entry::<String, ChannelId>()? {
                    let port = parse_port(&port).map_err(A::Error::custom)?;
                    map.insert(port, channel).map_err(A::Error::custom)?;
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Ports)
    }
}

pub(crate) fn parse_port(text: &str) -> Result<u16, Invalid> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if plain => Ok(port),
        _ => invalid(format!("{} is no port; it is a number from 1 to 65535", shown(text))),
    }
}

/// A range of ports, both ends included, as `FIRST-LAST`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From `first` to `last`.
    ///
    /// # Errors
    /// If it is empty or contains 0.
    pub fn new(first: u16, last: u16) -> Result<Self, Invalid> {
        if first == 0 || first > last {
            return invalid(format!(
                "{first}-{last} is no range of ports; it goes from the lower to the higher, and not from 0"
            ));
        }
        Ok(Self { first, last })
    }

    /// How many ports.
    #[must_use]
    pub fn size(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// The `index`th port, beginning anew behind the last.
    #[must_use]
    pub(crate) fn at(self, index: u32) -> u16 {
        let offset = index % self.size();
        self.first + u16::try_from(offset).unwrap_or_default()
    }

    /// Whether the port is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some((first, last)) = text.split_once('-') else {
            return invalid(format!("{} is no range of ports; write 49200-49299", shown(text)));
        };
        Self::new(parse_port(first)?, parse_port(last)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn upstreams_json_there_and_back_byte_for_byte() {
        for text in [
            r#"{"32899":0,"39497":49153,"42691":49152}"#,
            r#"{"32899":0,"42691":49152,"9497":49153}"#, // Go sorts the strings
            "{}",
        ] {
            let map: PortMap = text.parse().expect(text);
            assert_eq!(map.to_string(), text);
            assert_eq!(serde_json::to_string(&map).expect("JSON"), text);
        }
        let map: PortMap = "{ \"1\" : 0 }".parse().expect("white space");
        assert_eq!((map.port(Channel::Control), map.port(Channel::Disks), map.len()), (Some(1), None, 1));
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, says) in [
            ("", "is no port map"),
            ("[]", "expected an object from port to channel id"),
            ("null", "expected an object"),
            (r#"{"32899":1}"#, "there is no channel 1"),
            (r#"{"32899":-1}"#, "integer `-1`"),
            (r#"{"32899":"0"}"#, "string"),
            (r#"{"32899":0.5}"#, "floating point"),
            (r#"{"0":0}"#, "number from 1 to 65535"),
            (r#"{"032899":0}"#, "number from 1 to 65535"),
            (r#"{"+1":0}"#, "number from 1 to 65535"),
            (r#"{"65536":0}"#, "number from 1 to 65535"),
            (r#"{"":0}"#, "number from 1 to 65535"),
            (r#"{"1":0,"1":49152}"#, "port 1 is there twice"),
            (r#"{"1":0,"2":0}"#, "channel 0 is there twice, with the ports 1 and 2"),
            (r#"{"1":0}x"#, "trailing characters"),
        ] {
            let error = text.parse::<PortMap>().expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn ranges() {
        let range: PortRange = "49200-49202".parse().expect("range");
        assert_eq!((range.size(), range.at(0), range.at(2), range.at(3)), (3, 49200, 49202, 49200));
        assert!(range.contains(49200) && range.contains(49202) && !range.contains(49203));
        assert_eq!(PortRange::new(1, 65535).expect("range").size(), 65535);
        for text in ["", "1", "2-1", "0-5", "1-65536", "1-2-3", "a-b"] {
            assert!(!text.parse::<PortRange>().expect_err(text).to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn every_map_survives_the_round_trip(ports in prop::collection::btree_set(1..=u16::MAX, 0..=3)) {
            let mut map = PortMap::default();
            for (port, channel) in ports.into_iter().zip(Channel::ALL) {
                map.insert(port, channel).expect("new");
            }
            prop_assert_eq!(map.to_string().parse::<PortMap>(), Ok(map.clone()));
            let json = serde_json::to_string(&map).expect("JSON");
            prop_assert_eq!(json, map.to_string());
        }
    }
}
