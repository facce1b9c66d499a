//! Simulated connections with the codecs that ship: real handshakes, records and key updates, over
//! the network that lies in wait. `RELAY_SIM_SEED=N` replays one, `RELAY_SIM_RUNS=N` runs more of
//! them, `RELAY_SIM_FROM=N` says where the seeds begin.
//!
//! A story follows from its seed although every handshake has random bytes of its own: their number
//! is always the same, and nobody looks at their values.
#![cfg(feature = "testing")]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use relay_core::codec::{Codec, Frame, Layout, Opened, Plain, Sealed};
use relay_core::error::Failure;
use relay_core::leg::{Leg, PerLeg};
use relay_core::session::EndReason;
use relay_core::testing::rng::Rng;
use relay_core::testing::sim::{Family, Parts, Plan, Seeds, Summary, run, tell_all};
use relay_tls::testing::pki::Authority;
use relay_tls::{ClientTls, DataPath, Identity, Material, ServerTls, TlsCodec};

const USUAL: u64 = 1000;

/// Bytes of both sides' flights, about.
const HANDSHAKE: usize = 2500;

/// The simulator's plan, with a handshake in it, and long enough for trouble to come after that, too.
fn plan(seed: u64) -> Plan {
    let (mut plan, mut rng) = (Plan::new(seed), Rng::new(seed ^ 0x715));
    if plan.secure == PerLeg::both(false) {
        plan.secure = [PerLeg::new(true, false), PerLeg::new(false, true)][rng.below(2)];
    }
    plan.most = plan.most.max(16);
    let rounds = HANDSHAKE / plan.most;
    let mut longer = |bytes: u64| if bytes == 0 { 0 } else { bytes + rng.next() % (40 * plan.most as u64) };
    plan.bytes = PerLeg::new(longer(plan.bytes.front), longer(plan.bytes.back));
    plan.chaos += 2 * rounds + rng.below(2 * rounds + 60);
    plan.calm += rounds;
    plan
}

/// Certificates, made once.
struct Pki {
    relay: Material,
    peer: Material,
    /// Of another authority; of the right one, but somebody else.
    strangers: [Material; 2],
}

impl Pki {
    fn new() -> Self {
        let (ours, other) = (Authority::new("ca"), Authority::new("other ca"));
        Self {
            relay: ours.issue("relay").trusting(&ours),
            peer: ours.issue("peer").trusting(&ours),
            strangers: [other.issue("peer").trusting(&ours), ours.issue("mallory").trusting(&ours)],
        }
    }
}

/// What all runs together met, by the side that did it.
#[derive(Debug, Default)]
struct Tally {
    relay: Side,
    peer: Side,
}

#[derive(Debug, Default)]
struct Side {
    /// Changes of its own key, by who makes the records.
    changes: [AtomicU64; 2],
}

impl Side {
    fn count(&self) -> [u64; 2] {
        self.changes.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Plain legs and legs with TLS.
struct TlsFamily<'a> {
    pki: &'a Pki,
    tally: &'a Tally,
    /// The relay may get bytes that are no records. In builds with assertions rustls' own record
    /// layer panics over those after our close_notify (see [`DataPath::Rustls`]).
    damage: bool,
}

impl<'a> TlsFamily<'a> {
    fn new(pki: &'a Pki, tally: &'a Tally, plan: &Plan) -> Self {
        let faults = plan.faults;
        Self { pki, tally, damage: faults.garbage || faults.truncate || faults.hasty }
    }
}

const PATHS: [DataPath; 2] = [DataPath::InPlace, DataPath::Rustls];

/// How one end is set up.
struct Setup<'a> {
    material: &'a Material,
    client: bool,
    path: usize,
    records_per_key: u64,
    expects: &'a str,
    /// A client may also go by the name that it dialed.
    by_host: bool,
}

impl Setup<'_> {
    fn codec(&self) -> TlsCodec {
        let expects: Identity = self.expects.parse().expect("an identity");
        let path = PATHS[self.path];
        if !self.client {
            let server = ServerTls::builder(self.material).peers([expects]);
            let server = server.data_path(path).records_per_key(self.records_per_key);
            return server.build().expect("a server").codec();
        }
        let mut client = ClientTls::builder(self.material);
        let host = self.expects.trim_start_matches("dns:");
        if !self.by_host {
            client = client.peers([expects]);
        }
        let client = client.data_path(path).records_per_key(self.records_per_key);
        client.build().expect("a client").codec(host).expect("a host")
    }
}

impl<'a> Family for TlsFamily<'a> {
    type Codec = TlsOrPlain<'a>;

    fn pair(&mut self, rng: &mut Rng, parts: Parts) -> (TlsOrPlain<'a>, TlsOrPlain<'a>) {
        if !parts.secure {
            return (TlsOrPlain::Plain(Plain), TlsOrPlain::Plain(Plain));
        }
        let mut setup = |material, client, expects| Setup {
            material,
            client,
            path: rng.below(2),
            records_per_key: 1 + rng.next() % 12,
            expects,
            by_host: rng.chance(50),
        };
        let mut ours = setup(&self.pki.relay, parts.dials, "dns:peer.example.org");
        let mut theirs = setup(&self.pki.peer, !parts.dials, "dns:relay.example.org");
        if self.damage {
            ours.path = 0;
        }
        let kind = rng.below(self.pki.strangers.len());
        if parts.stranger {
            theirs.material = &self.pki.strangers[kind];
        }
        let haste = record_of_nobody(rng);
        let haste = if parts.hasty { haste } else { Vec::new() };
        let tls = |setup: &Setup<'_>, side: &'a Side, haste| {
            let changes = &side.changes[setup.path];
            TlsOrPlain::Tls(Box::new(Tls { codec: setup.codec(), changes, haste }))
        };
        (tls(&ours, &self.tally.relay, Vec::new()), tls(&theirs, &self.tally.peer, haste))
    }
}

/// What somebody could send who does not wait for the keys.
fn record_of_nobody(rng: &mut Rng) -> Vec<u8> {
    let length = 17 + rng.below(40);
    let body = (0..length).map(|_| rng.next() as u8);
    [23, 3, 3, 0, length as u8].into_iter().chain(body).collect()
}

/// A codec of the [`TlsFamily`].
enum TlsOrPlain<'a> {
    Plain(Plain),
    Tls(Box<Tls<'a>>),
}

struct Tls<'a> {
    codec: TlsCodec,
    changes: &'a AtomicU64,
    /// Goes out behind the first flight.
    haste: Vec<u8>,
}

impl fmt::Debug for TlsOrPlain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(codec) => codec.fmt(f),
            Self::Tls(tls) => tls.codec.fmt(f),
        }
    }
}

macro_rules! delegate {
    ($self:ident, $codec:ident => $call:expr) => {
        match $self {
            Self::Plain($codec) => $call,
            Self::Tls(tls) => {
                let $codec = &mut tls.codec;
                $call
            }
        }
    };
}

impl Codec for TlsOrPlain<'_> {
    fn layout(&self) -> Layout {
        match self {
            Self::Plain(codec) => codec.layout(),
            Self::Tls(tls) => tls.codec.layout(),
        }
    }

    fn is_secured(&self) -> bool {
        match self {
            Self::Plain(codec) => codec.is_secured(),
            Self::Tls(tls) => tls.codec.is_secured(),
        }
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        delegate!(self, codec => codec.frame(wire))
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        delegate!(self, codec => codec.open(record))
    }

    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        let sealed = delegate!(self, codec => codec.seal(slot, payload));
        if let (Self::Tls(tls), Ok(Sealed::ControlFirst)) = (self, sealed) {
            tls.changes.fetch_add(1, Ordering::Relaxed);
        }
        sealed
    }

    fn control_pending(&self) -> usize {
        match self {
            Self::Plain(codec) => codec.control_pending(),
            Self::Tls(tls) => match tls.codec.control_pending() {
                0 => 0,
                pending => pending + tls.haste.len(),
            },
        }
    }

    fn take_control(&mut self, out: &mut [u8]) -> usize {
        let Self::Tls(tls) = self else { return 0 };
        let (flight, rest) = out.split_at_mut(out.len() - tls.haste.len());
        rest.copy_from_slice(&tls.haste);
        tls.haste.clear();
        tls.codec.take_control(flight) + rest.len()
    }

    fn close(&mut self) {
        delegate!(self, codec => codec.close());
    }

    fn transport_eof(&mut self) -> Result<(), Failure> {
        delegate!(self, codec => codec.transport_eof())
    }
}

fn story(pki: &Pki, tally: &Tally, seed: u64) -> Result<Summary, String> {
    let plan = plan(seed);
    run(&mut TlsFamily::new(pki, tally, &plan), plan)
}

#[test]
fn every_simulated_connection_over_tls_keeps_every_rule() {
    let (seeds, start) = (Seeds::from_environment(USUAL), Instant::now());
    let (pki, tally) = (Pki::new(), Tally::default());
    let summaries = tell_all(seeds, |seed| story(&pki, &tally, seed));
    let (runs, clean) = (summaries.len(), summaries.iter().filter(|told| told.outcome.is_clean()).count());
    let ends = |wanted: fn(EndReason) -> bool| {
        let ended = |told: &&Summary| Leg::BOTH.into_iter().any(|leg| wanted(told.outcome.flows[leg].reason));
        summaries.iter().filter(ended).count()
    };
    let refused = ends(|end| matches!(end, EndReason::SetupFailed(_, Failure::Rejected)));
    let damaged = ends(|end| matches!(end, EndReason::SourceFailed(Failure::Protocol)));
    let cut = ends(|end| matches!(end, EndReason::SourceFailed(Failure::Truncated)));
    let changes = [tally.relay.count(), tally.peer.count()];
    println!(
        "{runs} connections, {clean} ended well, {refused} refused, {damaged} damaged, {cut} cut off, \
         changes of keys {changes:?}, {:?}",
        start.elapsed()
    );
    // A simulation in which nothing succeeds, or nothing fails, would prove little.
    if runs >= USUAL as usize {
        assert!(clean > runs / 10 && clean < runs * 95 / 100, "{clean} of {runs} ended well");
        assert!(refused > 0 && damaged > 0 && cut > 0);
        assert!(changes.iter().flatten().all(|&count| count > runs as u64 / 10), "{changes:?}");
    }
}

/// The same plan, faults and calls, the same end and at the same time, with other random bytes.
#[test]
fn a_story_over_tls_follows_from_its_seed() {
    let (seeds, pki, tally) = (Seeds::from_environment(USUAL).one_in(5), Pki::new(), Tally::default());
    let told = tell_all(seeds, |seed| {
        let (once, again) = (story(&pki, &tally, seed)?, story(&pki, &tally, seed)?);
        if once == again { Ok(()) } else { Err(format!("told as {once:?}\n  and as {again:?}")) }
    });
    println!("{} connections told twice", told.len());
}
