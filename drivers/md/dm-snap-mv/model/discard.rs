// SPDX-License-Identifier: GPL-2.0

//! What a discard of an origin may pass on.
//!
//! A discard is a hint, so it never takes space: what a snapshot still needs of the origin device
//! is left alone there, and so is what a rollback is not done with. The rest is passed on to the
//! device. With the run locked as for a write, and what makes a chunk done durable before that
//! (see [`super::rollback`]).

use super::ids::{Chunk, Epoch, OriginNr};
use super::preserve::next_unpreserved;
use super::records::Metadata;
use super::rollback::{Pending, RollbackView};

/// A run of chunks that a discard does the same with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// It may be passed on. Else it is to be left alone.
    pub passes: bool,
    /// Chunks in the run.
    pub len: u64,
}

/// What a discard of the chunks from `start` up to `end` (exclusive, behind `start`) does with the
/// first ones of them. `live` is [`newest_live`](super::preserve::newest_live), `rollback` the one
/// that runs.
pub fn first_part<M: Metadata>(
    m: &M,
    origin: OriginNr,
    live: Option<Epoch>,
    rollback: Option<&RollbackView>,
    start: Chunk,
    end: Chunk,
) -> Result<Part, M::Error> {
    let mut until = end;
    if let Some(view) = rollback {
        match view.pending_at(m, start, end.since(start))? {
            Pending::Done { len } => until = start.plus(len).min(end),
            Pending::Same { len } | Pending::Copy { len, .. } => {
                return Ok(Part { passes: false, len });
            }
        }
    }
    let gap = match live {
        Some(live) => next_unpreserved(m, origin, live, Epoch::MAX, start, until)?,
        None => None,
    };
    Ok(match gap {
        Some(gap) if gap.start == start => Part {
            passes: false,
            len: gap.len,
        },
        Some(gap) => Part {
            passes: true,
            len: gap.start.since(start),
        },
        None => Part {
            passes: true,
            len: until.since(start),
        },
    })
}
