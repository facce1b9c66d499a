//! What is told about what is there.

use relay_core::{Instant, Leg};
use relay_migration::api::{self, ApiError, SessionView, SessionsAnswer, SourcesAnswer, TargetsAnswer};
use relay_migration::registry::{Name, Registry, Side};

use super::http::Answer;
use crate::endpoint::Endpoint;
use crate::server::Plan;
use crate::sessions::{self, SessionTable};

/// One side of a migration.
pub(super) fn one(registry: &Registry, name: &Name, now: Instant) -> Result<Answer, ApiError> {
    let body = match name.side {
        Side::Target => {
            registry.target(&name.key, now).map(|view| api::to_json(&api::TargetAnswer::from(view)))
        }
        Side::Source => {
            registry.source(&name.key, now).map(|view| api::to_json(&api::SourceAnswer::from(view)))
        }
    };
    body.ok_or_else(|| ApiError::not_found(name))?.map(Answer::json)
}

/// All of one side.
pub(super) fn all(registry: &Registry, side: Side, now: Instant) -> Result<Answer, ApiError> {
    let keys = registry.names().filter(|name| name.side == side).map(|name| &name.key);
    match side {
        Side::Target => {
            let view =
                |key: &relay_migration::Key| Some((key.to_string(), registry.target(key, now)?.into()));
            api::to_json(&TargetsAnswer { targets: keys.filter_map(view).collect() })
        }
        Side::Source => {
            let view =
                |key: &relay_migration::Key| Some((key.to_string(), registry.source(key, now)?.into()));
            api::to_json(&SourcesAnswer { sources: keys.filter_map(view).collect() })
        }
    }
    .map(Answer::json)
}

/// All sessions.
pub(super) fn sessions(table: &SessionTable) -> Result<Answer, ApiError> {
    let sessions = table.snapshot().iter().map(session).collect();
    api::to_json(&SessionsAnswer { sessions }).map(Answer::json)
}

/// A source listens on unix sockets, a target on ports.
pub(super) const fn side(plan: &Plan) -> Side {
    match plan.listen() {
        Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Fd(_) => Side::Source,
        Endpoint::Tcp(_) | Endpoint::Tls(_) => Side::Target,
    }
}

fn session(view: &sessions::SessionView) -> SessionView {
    let side = side(&view.plan);
    // The other node is at the leg that is not a unix socket's.
    let other = match side {
        Side::Target => Leg::Front,
        Side::Source => Leg::Back,
    };
    let label = view.plan.label();
    SessionView {
        id: view.id.0,
        key: label.map(|label| label.key.to_string()).unwrap_or_default(),
        side: side.to_string(),
        channel: label.map_or(0, |label| label.channel.id()),
        peer: view.peer.to_string(),
        identity: view.identities[other].clone(),
        tls_session: view.correlations[other].clone(),
        listen: view.plan.listen().to_string(),
        connect: view.plan.backend().endpoint().to_string(),
        stage: view.stage.to_string(),
        bytes_forward: view.flows[Leg::Front].delivered,
        bytes_backward: view.flows[Leg::Back].delivered,
        age_s: seconds(view.age),
        stalled_for_s: seconds(view.stalled_for),
    }
}

/// To the millisecond.
fn seconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
