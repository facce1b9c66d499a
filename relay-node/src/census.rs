//! What has become of all sessions of a node so far: those that are over, added up, and those that are
//! open, counted anew each time somebody asks.
//!
//! A session's loop notes its own counts in its seat ([`Meter`](crate::sessions::Meter)), without a lock.
//! Here they are put together, so that in every census, for each direction, what was received is what was
//! delivered, what was cut off and what is on its way.

use std::collections::BTreeMap;
use std::fmt;

use relay_core::{EndReason, Leg, PerLeg};

use crate::endpoint::Endpoint;
use crate::server::Plan;
use crate::sessions::{Moved, Stage};
use crate::words;

/// Which side of a migration, if any, a listener is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Role {
    /// No migration's: `forward`.
    Forward,
    Source,
    Target,
}

impl Role {
    /// A source listens on unix sockets, a target on ports.
    pub(crate) const fn of(plan: &Plan) -> Self {
        match (plan.label(), plan.listen()) {
            (None, _) => Self::Forward,
            (Some(_), Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Fd(_)) => Self::Source,
            (Some(_), Endpoint::Tcp(_) | Endpoint::Tls(_)) => Self::Target,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What is counted apart: as much for one migration as for thousands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Series {
    pub(crate) role: Role,
    /// Of a migration.
    pub(crate) channel: Option<u16>,
}

impl Series {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self { role: Role::of(plan), channel: plan.label().map(|label| label.channel.id()) }
    }

    /// The channel's number as a label has it.
    pub(crate) fn channel(self) -> String {
        self.channel.map_or_else(|| "none".to_owned(), |channel| channel.to_string())
    }
}

/// What came of bringing a leg up: of its dial, or of its handshake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Setup {
    Done,
    Failed(relay_core::Failure),
    TimedOut,
    /// The session ended for another reason before it was up.
    Abandoned,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ok"),
            Self::Failed(failure) => f.write_str(&words::of_failure(*failure)),
            Self::TimedOut => f.write_str("timeout"),
            Self::Abandoned => f.write_str("abandoned"),
        }
    }
}

/// Records and changes of keys of TLS sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Records {
    pub(crate) sealed: u64,
    pub(crate) opened: u64,
    pub(crate) keys_sent: u64,
    pub(crate) keys_received: u64,
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Over {
    pub(crate) is_clean: bool,
    pub(crate) reasons: PerLeg<EndReason>,
    /// Of legs that have TLS.
    pub(crate) handshakes: PerLeg<Option<Setup>>,
    /// If its turn to be dialed has come.
    pub(crate) dial: Option<Setup>,
}

/// One session's counts at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) series: Series,
    pub(crate) stage: Stage,
    pub(crate) flows: PerLeg<Moved>,
    pub(crate) records: PerLeg<Records>,
    /// Bytes of buffers it has on loan.
    pub(crate) lent: u64,
    /// The handshakes that are complete.
    pub(crate) secured: PerLeg<bool>,
    /// The backend is.
    pub(crate) connected: bool,
    /// All of the above is final then.
    pub(crate) over: Option<Over>,
}

/// One direction of all sessions of a series.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Bytes {
    pub(crate) received: u64,
    pub(crate) delivered: u64,
    /// Received, and never to be delivered: the session is over.
    pub(crate) cut: u64,
}

/// All sessions of a series, since the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) begun: u64,
    pub(crate) clean: u64,
    pub(crate) unclean: u64,
    /// By the leg read from.
    pub(crate) flows: PerLeg<Bytes>,
    pub(crate) records: Records,
}

/// What only grows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) series: BTreeMap<Series, Sum>,
    pub(crate) reasons: BTreeMap<(Role, Leg, String), u64>,
    pub(crate) handshakes: BTreeMap<(Role, Leg, String), u64>,
    pub(crate) dials: BTreeMap<(Role, String), u64>,
}

impl Totals {
    /// There may be sessions of this kind from now on: their counters are there, and zero.
    pub(crate) fn expect(&mut self, series: Series) {
        self.series.entry(series).or_default();
    }

    /// One more has begun.
    pub(crate) fn begin(&mut self, series: Series) {
        self.series.entry(series).or_default().begun += 1;
    }

    /// Adds a session that is over, or as it is at the moment; `is_gone` if there will be no other reading.
    fn add(&mut self, session: &Reading, is_gone: bool) {
        let Reading { series, flows, records, secured, connected, over, .. } = session;
        let role = series.role;
        let is_over = over.is_some() || is_gone;
        let sum = self.series.entry(*series).or_default();
        for leg in Leg::BOTH {
            let Moved { read, delivered, .. } = flows[leg];
            sum.flows[leg].received += read;
            sum.flows[leg].delivered += delivered;
            sum.flows[leg].cut += if is_over { read - delivered } else { 0 };
            sum.records.sealed += records[leg].sealed;
            sum.records.opened += records[leg].opened;
            sum.records.keys_sent += records[leg].keys_sent;
            sum.records.keys_received += records[leg].keys_received;
        }
        if is_over {
            let is_clean = over.is_some_and(|over| over.is_clean);
            *(if is_clean { &mut sum.clean } else { &mut sum.unclean }) += 1;
        }
        let over = over.as_ref();
        for leg in Leg::BOTH {
            if let Some(over) = over {
                count(&mut self.reasons, (role, leg, words::of_end(over.reasons[leg])));
            }
            let done = secured[leg].then_some(Setup::Done);
            if let Some(result) = done.or_else(|| over?.handshakes[leg]) {
                count(&mut self.handshakes, (role, leg, result.to_string()));
            }
        }
        let done = connected.then_some(Setup::Done);
        if let Some(result) = done.or_else(|| over?.dial) {
            count(&mut self.dials, (role, result.to_string()));
        }
    }

    /// Adds a session that is gone.
    pub(crate) fn bury(&mut self, session: &Reading) {
        self.add(session, true);
    }
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}

/// All sessions of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// Open ones included, as far as they have come.
    pub(crate) totals: Totals,
    /// Those that are there.
    pub(crate) present: BTreeMap<(Series, Stage), u64>,
    /// Bytes received and on their way, by the leg they were read from.
    pub(crate) buffered: BTreeMap<Series, PerLeg<u64>>,
    /// Bytes of buffers on loan to sessions.
    pub(crate) lent: u64,
}

impl Census {
    /// Of those that are gone, and those that are there.
    pub(crate) fn new(gone: Totals, present: impl IntoIterator<Item = Reading>) -> Self {
        let mut census = Self { totals: gone, ..Self::default() };
        for session in present {
            census.totals.add(&session, false);
            *census.present.entry((session.series, session.stage)).or_default() += 1;
            if session.over.is_none() {
                census.lent += session.lent;
                let buffered = census.buffered.entry(session.series).or_default();
                for leg in Leg::BOTH {
                    buffered[leg] += session.flows[leg].read - session.flows[leg].delivered;
                }
            }
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_core::{Failure, Timer};

    use super::*;

    const SERIES: Series = Series { role: Role::Source, channel: Some(0) };

    fn reading() -> Reading {
        let flow = |read, delivered| Moved { read, delivered, is_shut: false };
        Reading {
            series: SERIES,
            stage: Stage::Open,
            flows: PerLeg::new(flow(10, 7), flow(4, 4)),
            records: PerLeg::both(Records { sealed: 3, opened: 2, keys_sent: 1, keys_received: 0 }),
            lent: 4096,
            secured: PerLeg::new(false, true),
            connected: true,
            over: None,
        }
    }

    fn over(reason: EndReason) -> Over {
        let is_clean = reason.is_clean();
        Over { is_clean, reasons: PerLeg::both(reason), handshakes: PerLeg::default(), dial: None }
    }

    fn ended(reason: EndReason) -> Reading {
        Reading { over: Some(over(reason)), stage: Stage::Closing, ..reading() }
    }

    fn sum(census: &Census) -> Sum {
        census.totals.series[&SERIES]
    }

    #[test]
    fn what_is_on_its_way_is_cut_once_the_session_is_over() {
        let open = Census::new(Totals::default(), [reading()]);
        assert_eq!(sum(&open).flows.front, Bytes { received: 10, delivered: 7, cut: 0 });
        assert_eq!((open.buffered[&SERIES].front, open.lent), (3, 4096));
        assert_eq!(open.totals.handshakes[&(Role::Source, Leg::Back, "ok".to_owned())], 1);
        assert_eq!(open.totals.dials[&(Role::Source, "ok".to_owned())], 1);
        assert!(open.totals.reasons.is_empty());
        let closing = Census::new(Totals::default(), [ended(EndReason::Severed)]);
        assert_eq!(sum(&closing).flows.front, Bytes { received: 10, delivered: 7, cut: 3 });
        assert_eq!((closing.buffered.len(), closing.lent, sum(&closing).unclean), (0, 0, 1));
        assert_eq!(closing.present[&(SERIES, Stage::Closing)], 1, "it has descriptors still");
        let mut gone = Totals::default();
        gone.bury(&ended(EndReason::Severed));
        assert_eq!(gone, closing.totals, "the same once its last descriptor is closed");
        // of a loop that is no more: nobody says how it ended, but it has
        let mut lost = Totals::default();
        lost.bury(&reading());
        assert_eq!((lost.series[&SERIES].flows.front.cut, lost.series[&SERIES].unclean), (3, 1));
    }

    #[test]
    fn a_setup_that_failed_is_counted_once_with_its_reason() {
        let failed = Over {
            handshakes: PerLeg::new(None, Some(Setup::Failed(Failure::Alert(42)))),
            dial: Some(Setup::Done),
            ..over(EndReason::SetupFailed(Leg::Back, Failure::Alert(42)))
        };
        let mut session = Reading { secured: PerLeg::both(false), over: Some(failed), ..reading() };
        let census = Census::new(Totals::default(), [session]);
        let handshakes: Vec<_> = census.totals.handshakes.into_iter().collect();
        assert_eq!(handshakes, [((Role::Source, Leg::Back, "alert".to_owned()), 1)]);
        session.connected = false;
        session.over = Some(Over { dial: Some(Setup::TimedOut), ..over(EndReason::TimedOut(Timer::Dial)) });
        let census = Census::new(Totals::default(), [session]);
        assert_eq!(census.totals.dials[&(Role::Source, "timeout".to_owned())], 1);
        assert_eq!(census.totals.reasons[&(Role::Source, Leg::Front, "timeout-dial".to_owned())], 1);
        assert!(census.totals.handshakes.is_empty());
    }

    proptest! {
        /// At whatever moments a session is looked at, nothing that only grows ever shrinks, and the
        /// bytes of each direction add up.
        #[test]
        fn counters_grow_and_bytes_add_up(
            steps in prop::collection::vec((0u64..1000, 0u64..1000, any::<bool>()), 1..20),
        ) {
            let mut session = reading();
            let (mut gone, mut before) = (Totals::default(), Sum::default());
            gone.begin(SERIES);
            for (index, (read, delivered, ends)) in steps.iter().enumerate() {
                let flow = &mut session.flows.front;
                flow.read += read;
                flow.delivered += (*delivered).min(flow.read - flow.delivered);
                session.over = ends.then(|| over(EndReason::Eof));
                for is_gone in [false, *ends || index + 1 == steps.len()] {
                    if is_gone {
                        gone.bury(&session);
                    }
                    let census = Census::new(gone.clone(), (!is_gone).then_some(session));
                    let now = sum(&census);
                    let waiting = census.buffered.get(&SERIES).copied().unwrap_or_default();
                    for leg in Leg::BOTH {
                        let Bytes { received, delivered, cut } = now.flows[leg];
                        prop_assert_eq!(received, delivered + cut + waiting[leg]);
                        prop_assert!(received >= before.flows[leg].received && cut >= before.flows[leg].cut);
                    }
                    before = now;
                }
                if *ends {
                    gone.begin(SERIES);
                    session = reading();
                }
            }
            prop_assert_eq!(before.clean + before.unclean, gone.series[&SERIES].clean + gone.series[&SERIES].unclean);
        }
    }
}
