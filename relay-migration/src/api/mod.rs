//! The control API: what is asked of a node over HTTP, and what it answers. Contents only: bytes in,
//! bytes out; the HTTP is somebody else's.
//!
//! ```text
//! PUT    /v1/targets/{key}   {"backends":{"0":"/…","49152":"/…"},"lease_s":60} → {"ports":{…},"address":"…"}
//! PUT    /v1/sources/{key}   {"target":"10.1.1.1","ports":{…},"base_dir":"/…","owner":{"uid":107,"gid":107}}
//!                            → {"files":[…]}
//! GET    /v1/targets/{key}   GET    /v1/sources/{key}   as PUT answers
//! DELETE /v1/targets/{key}   DELETE /v1/sources/{key}   → {"existed":true}
//! GET    /v1/targets         → {"targets":{"KEY":{…}}}  GET    /v1/sources  → {"sources":{"KEY":{…}}}
//! GET    /v1/sessions        → {"sessions":[…]}         DELETE /v1/sessions/{id}
//! GET    /v1/limits          PUT    /v1/limits          {"bandwidth":"100MiB/s","keys":{"vm1":"off"}}
//! POST   /v1/drain           {"timeout_s":300} or nothing → {"migrations":1,"listeners":3,"sessions":9}
//! GET    /healthz   /readyz   /metrics
//! ```
//!
//! A target's body may have `"keep":{"39497":0}`, a port map as an answer gave it: those ports are taken
//! again if they are free (for a manager that remembers across restarts what the node does not).
//!
//! A body has these fields and no others: one that is misspelt is told, not ignored. What was refused
//! is answered `{"error":"…"}`, one sentence.

mod answer;
mod call;
mod error;

pub use answer::{
    DrainAnswer, LimitsAnswer, SessionView, SessionsAnswer, SourceAnswer, SourcesAnswer, TargetAnswer,
    TargetsAnswer, answer, to_json,
};
pub use call::{BODY_MAX, Call, LEASE_MAX_S, LimitsWish, PATH_MAX, parse};
pub use error::ApiError;
