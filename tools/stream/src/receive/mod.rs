// SPDX-License-Identifier: GPL-2.0
//! Receiving into a plain device, a file, or what keeps versions of itself.
//!
//! What a target holds is noted beside it, durably, before and after. Nothing is written before
//! it is proven that the target holds what the segment starts from. From then on until the
//! segment's end the note says that it holds a mixture, and up to which mark what has been set is
//! on stable storage: from there it can be gone on with, whatever has happened meanwhile.
//!
//! Of a target that keeps versions of itself, one is taken when a segment is whole. Before that it is
//! noted that it will be, and as what; so it is found again if that was all that was noted.

pub mod abort;
pub mod blank;
pub mod failure;
pub mod local;
pub mod notes;
pub mod plain;
pub mod proof;
mod receiver;
pub mod state;
pub mod target;

pub use abort::{abort, Aborted};
pub use failure::{Failure, Refusal, Result};
pub use local::{Local, Unlike};
pub use notes::StateFile;
pub use plain::Plain;
pub use receiver::{Options, Received, Receiver};
pub use state::{Between, State, Taking, Whole};
pub use target::{Notes, Target};

use crate::begin::Begin;
use crate::decoder::{Decoder, Event};
use crate::position::Counts;
use std::io::Read;

/// Receives a stream.
///
/// `watch` is told what is received, and how much of it has been set, each time something was.
///
/// # Errors
///
/// See [`Failure`]. What the target holds then is in its notes.
pub fn receive<R: Read, T: Target, N: Notes>(
    decoder: &mut Decoder<R>,
    receiver: &mut Receiver<T, N>,
    watch: &mut dyn FnMut(&Begin, &Counts),
) -> Result<Received> {
    loop {
        let event = decoder.event().map_err(Failure::Stream)?;
        receiver.take(&event)?;
        if let Some((begin, counts)) = receiver.progress() {
            watch(begin, counts);
        }
        if let Event::Last(_) = event {
            return Ok(receiver.received());
        }
    }
}
