//! What is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::channel::Channel;
use crate::ports::PortMap;
use crate::registry::{Done, OpenCount, Refusal, SourceView, TargetView};
use crate::socket_path::SocketPath;

/// Of a target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetAnswer {
    /// Port to channel.
    pub ports: PortMap,
    /// Where sources are to dial.
    pub address: String,
    /// Open sessions; when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// What the lease has left, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_left_s: Option<u64>,
    /// Why it is not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Of a source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceAnswer {
    /// The sockets, by channel.
    pub files: Vec<String>,
    /// Open sessions; when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// What the lease has left, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_left_s: Option<u64>,
    /// Why it is not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// To end it by.
    pub id: u64,
    /// The migration's key.
    pub key: String,
    /// `target` or `source`.
    pub side: String,
    /// Channel id.
    pub channel: u16,
    /// Who connected: an address, or `local`.
    pub peer: String,
    /// Who the other node is, by its certificate; none in plaintext, or not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What the logs of both nodes call its TLS session; none in plaintext, or not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_session: Option<String>,
    /// Where it came in.
    pub listen: String,
    /// What was dialed for it.
    pub connect: String,
    /// `handshake`, `dialing`, `open` or `closing`.
    pub stage: String,
    /// Bytes from the accepted connection to the dialed one.
    pub bytes_forward: u64,
    /// Bytes the other way.
    pub bytes_backward: u64,
    /// How long it is open, in seconds.
    pub age_s: f64,
    /// How long nothing has moved, in seconds.
    pub stalled_for_s: f64,
}

/// All sessions.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SessionsAnswer {
    /// Oldest first.
    pub sessions: Vec<SessionView>,
}

/// All targets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TargetsAnswer {
    /// By key.
    pub targets: BTreeMap<String, TargetAnswer>,
}

/// All sources.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourcesAnswer {
    /// By key.
    pub sources: BTreeMap<String, SourceAnswer>,
}

/// How fast bytes may come; each is a rate as in `100MiB/s`, or `off`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitsAnswer {
    /// For the whole process.
    pub bandwidth: String,
    /// For each migration that nothing else is said of.
    pub bandwidth_per_key: String,
    /// For those of which something else is said.
    pub keys: BTreeMap<String, String>,
}

/// What a drain still waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct DrainAnswer {
    /// Migrations with listeners.
    pub migrations: usize,
    /// Listeners.
    pub listeners: usize,
    /// Sessions.
    pub sessions: u64,
}

impl From<OpenCount> for DrainAnswer {
    fn from(count: OpenCount) -> Self {
        let OpenCount { migrations, listeners, sessions } = count;
        Self { migrations, listeners, sessions }
    }
}

impl From<TargetView> for TargetAnswer {
    fn from(view: TargetView) -> Self {
        Self {
            ports: view.ports,
            address: view.address.to_string(),
            sessions: Some(view.sessions),
            lease_left_s: view.lease_left.map(|left| left.as_secs()),
            problem: view.problem.map(|problem| problem.to_string()),
        }
    }
}

impl From<SourceView> for SourceAnswer {
    fn from(view: SourceView) -> Self {
        Self {
            files: names(&view.files),
            sessions: Some(view.sessions),
            lease_left_s: view.lease_left.map(|left| left.as_secs()),
            problem: view.problem.map(|problem| problem.to_string()),
        }
    }
}

/// The body that tells how a request to the registry went.
///
/// # Errors
/// If it was refused.
pub fn answer(result: &Result<Done, Refusal>) -> Result<Vec<u8>, ApiError> {
    match result {
        Ok(Done::Target { ports, address }) => to_json(&TargetAnswer {
            ports: ports.clone(),
            address: address.to_string(),
            sessions: None,
            lease_left_s: None,
            problem: None,
        }),
        Ok(Done::Source { files }) => {
            to_json(&SourceAnswer { files: names(files), sessions: None, lease_left_s: None, problem: None })
        }
        Ok(Done::Renewed) => Ok(b"{}".to_vec()),
        Ok(Done::Deleted { existed }) => Ok(format!("{{\"existed\":{existed}}}").into_bytes()),
        Ok(Done::ShuttingDown(count)) => to_json(&DrainAnswer::from(*count)),
        Err(refusal) => Err(refusal.into()),
    }
}

fn names(files: &[(Channel, SocketPath)]) -> Vec<String> {
    files.iter().map(|(_, path)| path.to_string()).collect()
}

/// The body that tells this.
///
/// # Errors
/// If it can't be written.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value)
        .map_err(|error| ApiError::new(500, format!("the answer can't be written: {error}")))
}
