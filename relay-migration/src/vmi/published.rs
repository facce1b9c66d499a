//! The ports that an object's status has.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::channel::{Channel, ChannelId};
use crate::invalid::{Invalid, shown};
use crate::ports::{PortMap, parse_port};

/// `targetDirectMigrationNodePorts` as it is, which need not be as it should: patches that crossed each
/// other, or a target that died between two, leave two ports for one channel. A source can't use such
/// a map, and the target it belongs to can mend it, for it knows which ones are to go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PublishedPorts(BTreeMap<u16, Channel>);

impl PublishedPorts {
    /// As a source needs them.
    ///
    /// # Errors
    /// If a channel has two ports.
    pub fn map(&self) -> Result<PortMap, Invalid> {
        let mut map = PortMap::default();
        for (port, channel) in &self.0 {
            map.insert(*port, *channel)
                .map_err(|why| Invalid::new(format!("targetDirectMigrationNodePorts: {why}")))?;
        }
        Ok(map)
    }

    /// Every port that is there.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for PublishedPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;
        impl<'de> Visitor<'de> for Ports {
            type Value = PublishedPorts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from port to channel id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<PublishedPorts, A::Error> {
                let mut ports = BTreeMap::new();
                while let Some((text, ChannelId(channel))) = access.next_entry::<String, ChannelId>()? {
                    let port = parse_port(&text).map_err(A::Error::custom)?;
                    if ports.insert(port, channel).is_some() {
                        return Err(A::Error::custom(format!("port {} is there twice", shown(&text))));
                    }
                }
                Ok(PublishedPorts(ports))
            }
        }
        deserializer.deserialize_map(Ports)
    }
}
