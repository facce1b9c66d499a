//! What goes wrong, with the HTTP status that says so.

use std::fmt;

use serde_json::json;

use crate::invalid::Invalid;
use crate::registry::{Fault, Name, Refusal};
use crate::vmi::VmiName;

/// Why a call was refused: a sentence, and a status.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ApiError {
    /// RFC 9110 section 15.
    pub status: u16,
    /// One line.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The call itself is wrong.
    #[must_use]
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// Not now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, message)
    }

    /// There is no such migration, session or address.
    #[must_use]
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(404, format!("there is no {what} here"))
    }

    /// 409: these listeners come and go with an object, so nobody else may change them: what the API
    /// would take away, the object's next appearance would bring back, on other ports maybe.
    #[must_use]
    pub fn of_object(name: &Name, vmi: &VmiName) -> Self {
        let message = format!(
            "{name} belongs to the VirtualMachineInstance {vmi} and comes and goes with it; change that, or use a key of your own"
        );
        Self::new(409, message)
    }

    /// 503: a restart has not yet taken up all that was there before.
    #[must_use]
    pub fn restoring(done: usize, of: usize) -> Self {
        let message = format!(
            "restoring: {done} of the {of} migrations that were here before a restart are there again; ask again in a moment"
        );
        Self::new(503, message)
    }

    /// The body to answer with.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        json!({ "error": self.message }).to_string().into_bytes()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.status)
    }
}

impl std::error::Error for ApiError {}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::bad(invalid.to_string())
    }
}

/// 400 for what is wrong in itself, 404 for what is not there, 409 for what something else came
/// before or is in the way of, 422 for what makes sense and can't be had here, 503 for what may succeed
/// later, 500 for what the system refused.
impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let status = match refusal {
            Refusal::Empty(_) | Refusal::BadLease => 400,
            Refusal::Unknown(_) => 404,
            Refusal::Superseded | Refusal::Deleted => 409,
            Refusal::ShuttingDown
            | Refusal::Stopped
            | Refusal::TooMany { .. }
            | Refusal::TooManyWaiting
            | Refusal::PortsExhausted { .. } => 503,
            Refusal::OpenFailed { fault: Fault::Place, .. } => 409,
            Refusal::OpenFailed { fault: Fault::Request, .. } => 422,
            Refusal::OpenFailed { fault: Fault::System, .. }
            | Refusal::OwnFailed { .. }
            | Refusal::Lost { .. } => 500,
        };
        Self::new(status, refusal.to_string())
    }
}
