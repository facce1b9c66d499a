//! The live-migration domain, without I/O: what KubeVirt's migration proxy knows about migrations.
//!
//! - names: [`Channel`], [`Key`], [`SocketPath`], [`PortMap`], [`Backends`], [`Host`];
//! - [`uri`]: libvirt's connection URIs, and the three that a migration needs;
//! - [`vmi`] and [`roles`]: what a VirtualMachineInstance says, and what a node has to do about it;
//! - [`registry`]: the manager of listeners, as a state machine: requests and facts go in, what is to
//!   be done can be asked at any time;
//! - [`reconcile`]: from a stream of VirtualMachineInstances to requests, and to the status that each
//!   target must publish;
//! - [`api`]: requests and answers of the control API.
//!
//! Nothing here opens a socket or a file, reads a clock or starts a thread. Facts about KubeVirt are
//! from its `pkg/virt-handler/migration-proxy`, `migration-source.go` and `migration-target.go`; about
//! libvirt from its `docs/uri.rst`.
#![forbid(unsafe_code)]

pub mod api;
mod backends;
mod channel;
mod host;
mod invalid;
mod key;
mod ports;
pub mod reconcile;
pub mod registry;
pub mod roles;
pub mod socket_path;
mod strict;
#[cfg(feature = "testing")]
pub mod testing;
pub mod uri;
pub mod vmi;

pub use backends::{Backends, pod_base_dir};
pub use channel::Channel;
pub use host::Host;
pub use invalid::Invalid;
pub use key::Key;
pub use ports::{PortMap, PortRange};
pub use socket_path::{BaseDir, SocketPath};
