//! The name under which a migration's listeners are known.

use std::fmt;
use std::str::FromStr;

use crate::channel::Channel;
use crate::invalid::{Invalid, invalid, shown};

/// A migration's key: in KubeVirt the UID of the virtual machine instance (of the *source's* where
/// the two sides have different objects).
///
/// It becomes part of a socket's file name and of the control API's addresses, so it is made of
/// ASCII letters, digits, `-`, `_` and `.`, begins with a letter or a digit, and is at most
/// [`Key::MAX`] bytes long. It does not end like the name of another key's channel: upstream's
/// files of key `x-49152`, channel 0, and of key `x`, channel 49152, would be one and the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(String);

impl Key {
    /// Bytes. With it a source's socket can always be reached by way of a directory's descriptor:
    /// `/proc/self/fd/2147483647/KEY-49152-source.sock` has 107 bytes then, which is what
    /// unix(7) allows.
    pub const MAX: usize = 64;

    /// The key as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of one channel's proxy, as KubeVirt's `ConstructProxyKey`: the key alone for channel
    /// 0, else `KEY-CHANNEL`.
    #[must_use]
    pub fn of_channel(&self, channel: Channel) -> String {
        match channel {
            Channel::Control => self.0.clone(),
            Channel::Memory | Channel::Disks => format!("{}-{channel}", self.0),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return invalid("the key is empty; it is usually the UID of the virtual machine instance");
        }
        if text.len() > Self::MAX {
            let (max, length) = (Self::MAX, text.len());
            return invalid(format!("a key may have {max} bytes, {} has {length}", shown(text)));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !text.bytes().all(allowed) || !text.as_bytes()[0].is_ascii_alphanumeric() {
            return invalid(format!(
                "{} is no key; it is made of letters, digits, '-', '_' and '.', and begins with a letter or a digit",
                shown(text)
            ));
        }
        for channel in [Channel::Memory, Channel::Disks] {
            if text.ends_with(&format!("-{channel}")) {
                return invalid(format!(
                    "the key {} ends like the name of another key's channel {channel}; leave '-{channel}' out",
                    shown(text)
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_and_upstreams_test_keys_are_keys() {
        for text in ["d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1", "mykey", "myKey", "0", &"x".repeat(64)] {
            assert_eq!(text.parse::<Key>().expect(text).to_string(), text);
        }
        let key: Key = "mykey".parse().expect("key");
        assert_eq!(key.of_channel(Channel::Control), "mykey");
        assert_eq!(key.of_channel(Channel::Memory), "mykey-49152");
    }

    #[test]
    fn what_could_leave_its_directory_or_be_mistaken_is_no_key() {
        for (text, says) in [
            ("", "is empty"),
            ("a/b", "made of letters"),
            ("..", "begins with"),
            ("-x", "begins with"),
            ("a b", "made of letters"),
            ("a\0b", "made of letters"),
            ("é", "made of letters"),
            ("x-49152", "another key's channel 49152"),
            ("x-49153", "another key's channel 49153"),
            (&"x".repeat(65), "may have 64 bytes"),
        ] {
            let error = text.parse::<Key>().expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
