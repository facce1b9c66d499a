//! A prototype: the records of **one** stream sealed and opened on several cores, their order kept.
//!
//! A record's number is its nonce, so whoever counts the records before he hands them out can have each
//! part of a batch sealed by another thread, and put them back in order. relay-tls' record layer can't be
//! lent out for that (`Codec::seal` owns the numbers, one record at a time), so the same path is
//! written down once more here, over the same AEAD: header, number xor IV, seal in place, tag behind it.
//!
//! What is measured is the path of a flow: a batch is **copied in** (as recv(2) does), sealed or opened,
//! and **copied out** (as send(2) does), the copies always by the loop's own thread. See
//! `benches/cores.rs` for the table.

mod helper;
mod path;
mod records;

pub use helper::{Helper, Wait};
pub use path::{Path, Plan, Work};
pub use records::{Batch, Keys, PAYLOAD, RECORD};
