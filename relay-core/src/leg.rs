//! The two sides of a relay, and a pair of things indexed by them.

use core::fmt;
use core::ops::{Index, IndexMut};

/// One of the two connections that a session joins. A flow is named by the leg it is read from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Leg {
    /// The connection we accepted.
    Front,
    /// The connection we dialed.
    Back,
}

impl Leg {
    /// Both, Front first.
    pub const BOTH: [Self; 2] = [Self::Front, Self::Back];

    /// The opposite one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Front => Self::Back,
            Self::Back => Self::Front,
        }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Front => "front",
            Self::Back => "back",
        })
    }
}

/// Something that each leg has one of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PerLeg<T> {
    /// Front's.
    pub front: T,
    /// Back's.
    pub back: T,
}

impl<T> PerLeg<T> {
    /// Front's, then Back's.
    pub const fn new(front: T, back: T) -> Self {
        Self { front, back }
    }

    /// Both at once, mutably: `leg`'s own first, then the opposite one's.
    pub const fn split_mut(&mut self, leg: Leg) -> (&mut T, &mut T) {
        match leg {
            Leg::Front => (&mut self.front, &mut self.back),
            Leg::Back => (&mut self.back, &mut self.front),
        }
    }

    /// The same shape, borrowed.
    pub const fn as_ref(&self) -> PerLeg<&T> {
        PerLeg { front: &self.front, back: &self.back }
    }

    /// The same shape with `f` applied to each.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerLeg<U> {
        PerLeg { front: f(self.front), back: f(self.back) }
    }
}

impl<T: Copy> PerLeg<T> {
    /// The same for either leg.
    pub const fn both(value: T) -> Self {
        Self { front: value, back: value }
    }
}

impl<T> Index<Leg> for PerLeg<T> {
    type Output = T;

    fn index(&self, leg: Leg) -> &T {
        match leg {
            Leg::Front => &self.front,
            Leg::Back => &self.back,
        }
    }
}

impl<T> IndexMut<Leg> for PerLeg<T> {
    fn index_mut(&mut self, leg: Leg) -> &mut T {
        match leg {
            Leg::Front => &mut self.front,
            Leg::Back => &mut self.back,
        }
    }
}
