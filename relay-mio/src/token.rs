//! What an event is about, packed into the 64 bits that epoll hands back.

use mio::Token;
use relay_core::Leg;

const _: () = assert!(usize::BITS == 64, "a token holds a slot, its generation and a leg");

/// A slot's number and which of its successive inhabitants is meant. Numbers are given again as soon
/// as a slot is free; an event or a message that is still under way then must not reach whoever
/// moved in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Id {
    /// Below 2^30: more sockets than a process can have.
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Leg(Id, Leg),
    Listener(u32),
    /// The operator's commands.
    Commands,
    /// Another loop has sent mail.
    Mail,
}

/// The two lowest bits.
const FRONT: u64 = 0;
const BACK: u64 = 1;
const LISTENER: u64 = 2;
const OTHER: u64 = 3;

impl Subject {
    pub(crate) fn token(self) -> Token {
        let bits = match self {
            Self::Leg(id, leg) => {
                let kind = match leg {
                    Leg::Front => FRONT,
                    Leg::Back => BACK,
                };
                debug_assert!(id.slot < 1 << 30, "contract: a slot's number has 30 bits");
                u64::from(id.generation) << 32 | u64::from(id.slot) << 2 | kind
            }
            Self::Listener(number) => u64::from(number) << 2 | LISTENER,
            Self::Commands => OTHER,
            Self::Mail => 1 << 2 | OTHER,
        };
        Token(bits as usize)
    }

    /// The inverse; `None` for what [`token`](Self::token) never made.
    pub(crate) fn of(token: Token) -> Option<Self> {
        let bits = token.0 as u64;
        let id = || Id { slot: (bits as u32) >> 2, generation: (bits >> 32) as u32 };
        match bits & 3 {
            FRONT => Some(Self::Leg(id(), Leg::Front)),
            BACK => Some(Self::Leg(id(), Leg::Back)),
            LISTENER => u32::try_from(bits >> 2).ok().map(Self::Listener),
            _ => match bits >> 2 {
                0 => Some(Self::Commands),
                1 => Some(Self::Mail),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let ids = [0, 1, 77, (1 << 30) - 1]
            .into_iter()
            .flat_map(|slot| [0, 1, u32::MAX].map(|generation| Id { slot, generation }));
        for id in ids {
            for leg in Leg::BOTH {
                let subject = Subject::Leg(id, leg);
                assert_eq!(Subject::of(subject.token()), Some(subject));
            }
        }
        for subject in [Subject::Listener(0), Subject::Listener(u32::MAX), Subject::Commands, Subject::Mail] {
            assert_eq!(Subject::of(subject.token()), Some(subject));
        }
        assert_eq!(Subject::of(Token(usize::MAX)), None);
    }
}
