// SPDX-License-Identifier: GPL-2.0
//! Serves an [`Export`], which can only be read, by the protocol of network block devices: fixed newstyle
//! negotiation, structured replies, block status. What it is like is described by
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.
//!
//! [`negotiate`] comes first and [`transmit`] then, both on whatever carries bytes to the client and
//! back. Nothing that comes from there is trusted: every length and offset is looked at before anything is
//! done with it, and memory is bounded by [`PIECE`] for each request, whatever is asked for.

#![forbid(unsafe_code)]

mod bytes;
pub mod error;
pub mod export;
mod negotiation;
mod options;
mod reply;
mod request;
mod transmission;
pub mod wire;

pub use error::{Error, Result};
pub use export::{Export, Extent};
pub use negotiation::{negotiate, Session};
pub use transmission::{transmit, PIECE};
