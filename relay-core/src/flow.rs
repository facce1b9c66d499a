//! One half-duplex flow, from the leg it is read from (its source) to the opposite one (its sink).
//! Counts and a phase; no bytes.

use crate::session::EndReason;

/// How far a flow has come. The whole life of one is the table in [`Phase::on`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// The source may send more.
    Open,
    /// The source ended well; what is buffered, then a FIN, is still to be passed on.
    Ended,
    /// The source failed; what is buffered is still to be delivered, and then no FIN.
    Cut,
    /// The sink failed while the source still sends: what it sends is read and thrown away, so that
    /// a peer that is still uploading comes to read the answer that is on its way to it.
    Discarding,
    /// Ended well: everything delivered and the FIN passed on. Final.
    Shut,
    /// Ended badly: something may be missing at the sink, which must not see a FIN. Final.
    Broken,
}

/// What can happen to a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Event {
    /// The source's own, orderly end.
    SourceEnded,
    /// Reading from the source failed, or the source was taken away.
    SourceFailed,
    /// Writing to the sink failed.
    SinkFailed,
    /// What was buffered has been delivered.
    Drained,
    /// The FIN was passed on.
    FinPassed,
    /// A timer fired or the session was stopped.
    GivenUp,
}

impl Phase {
    /// Every phase, in the order of a flow's life.
    pub const ALL: [Self; 6] =
        [Self::Open, Self::Ended, Self::Cut, Self::Discarding, Self::Shut, Self::Broken];

    /// The phase after `event`, or `None` if it changes nothing: the transition table.
    #[must_use]
    pub const fn on(self, event: Event) -> Option<Self> {
        use Event::{Drained, FinPassed, GivenUp, SinkFailed, SourceEnded, SourceFailed};
        match (self, event) {
            (Self::Open, SourceEnded) => Some(Self::Ended),
            (Self::Open, SourceFailed) => Some(Self::Cut),
            (Self::Open, SinkFailed) => Some(Self::Discarding),
            (Self::Ended, FinPassed) => Some(Self::Shut),
            (Self::Ended | Self::Cut, SinkFailed) => Some(Self::Broken),
            (Self::Cut, Drained) => Some(Self::Broken),
            (Self::Discarding, SourceEnded | SourceFailed) => Some(Self::Broken),
            (Self::Open | Self::Ended | Self::Cut | Self::Discarding, GivenUp) => Some(Self::Broken),
            (Self::Open, Drained | FinPassed)
            | (Self::Ended, SourceEnded | SourceFailed | Drained)
            | (Self::Cut, SourceEnded | SourceFailed | FinPassed)
            | (Self::Discarding, SinkFailed | Drained | FinPassed)
            | (Self::Shut | Self::Broken, _) => None,
        }
    }

    /// Nothing more can happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Shut | Self::Broken)
    }

    /// Bytes read now still reach the sink.
    const fn delivers(self) -> bool {
        matches!(self, Self::Open | Self::Ended | Self::Cut)
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 6] = [
        Self::SourceEnded,
        Self::SourceFailed,
        Self::SinkFailed,
        Self::Drained,
        Self::FinPassed,
        Self::GivenUp,
    ];
}

/// The ledger of one flow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Flow {
    capacity: usize,
    /// Bytes read from the source, thrown away ones included.
    read: u64,
    /// Bytes that the sink took.
    written: u64,
    phase: Phase,
    /// Why it ended or will end; the first reason stays.
    reason: Option<EndReason>,
    /// Where the bytes lie takes no more although the count says there is room (a kernel pipe whose
    /// slots are used up); until something is written.
    full: bool,
}

impl Flow {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { capacity, read: 0, written: 0, phase: Phase::Open, reason: None, full: false }
    }

    /// Its capacity is so many bytes, or more.
    pub(crate) fn hold_at_least(&mut self, bytes: usize) {
        self.capacity = self.capacity.max(bytes);
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn reason(&self) -> Option<EndReason> {
        self.reason
    }

    pub(crate) const fn bytes_read(&self) -> u64 {
        self.read
    }

    pub(crate) const fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Bytes read and still to be written.
    pub(crate) const fn buffered(&self) -> usize {
        if self.phase.delivers() {
            // at most `capacity`, which is a usize
            (self.read - self.written) as usize
        } else {
            0
        }
    }

    /// How many bytes may be read now.
    pub(crate) const fn room(&self) -> usize {
        match self.phase {
            Phase::Open if self.full => 0,
            Phase::Open => self.capacity - self.buffered(),
            Phase::Discarding => self.capacity,
            Phase::Ended | Phase::Cut | Phase::Shut | Phase::Broken => 0,
        }
    }

    /// Whether the FIN can be passed on now.
    pub(crate) const fn fin_due(&self) -> bool {
        matches!(self.phase, Phase::Ended) && self.buffered() == 0
    }

    /// Whether `Full` may be said.
    pub(crate) const fn may_fill(&self) -> bool {
        matches!(self.phase, Phase::Open) && !self.full && self.buffered() > 0
    }

    pub(crate) const fn on_read(&mut self, count: usize) {
        self.read += count as u64;
    }

    pub(crate) const fn on_written(&mut self, count: usize) {
        self.written += count as u64;
        self.full = false;
    }

    pub(crate) const fn on_full(&mut self) {
        self.full = true;
    }

    /// Applies the table; remembers the first reason.
    pub(crate) fn apply(&mut self, event: Event, reason: Option<EndReason>) {
        if let Some(next) = self.phase.on(event) {
            self.phase = next;
            self.full = false;
            // a clean end that turns bad gets the bad reason; a bad one keeps its first
            if self.reason.is_none_or(EndReason::is_clean) {
                self.reason = reason.or(self.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_phases_stay() {
        for event in Event::ALL {
            assert_eq!(Phase::Shut.on(event), None);
            assert_eq!(Phase::Broken.on(event), None);
        }
    }

    #[test]
    fn every_phase_can_be_given_up_and_no_transition_goes_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.on(Event::GivenUp).is_some(), !phase.is_final());
            for event in Event::ALL {
                if let Some(next) = phase.on(event) {
                    assert!(next > phase, "{phase:?} --{event:?}--> {next:?}");
                }
            }
        }
    }

    #[test]
    fn a_cut_flow_never_passes_a_fin() {
        assert_eq!(Phase::Cut.on(Event::FinPassed), None);
        assert_eq!(Phase::Cut.on(Event::SourceEnded), None);
    }
}
