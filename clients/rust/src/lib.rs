//! Asks Holdgate whether a piece of work may go ahead, and keeps what it was given until the work is done.

mod answer;
mod arguments;
mod client;
mod hold;

pub use answer::Answer;
pub use arguments::Arguments;
pub use client::{Ask, Client, ReserveError, Tls, is_undecided};
pub use hold::Hold;

/// The messages and clients of quota.v1, as the protos have them.
pub mod quota {
    #![allow(clippy::all)] // generated
    tonic::include_proto!("quota.v1");
}

/// The protos themselves, for whoever reads messages that it does not know by type.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
