// SPDX-License-Identifier: GPL-2.0

//! What a discard of an origin may pass on.
//!
//! A discard is a hint, so it never takes a chunk: what a snapshot still needs of the origin device
//! is left alone there, and so is what a rollback is not done with. The rest is passed on to the
//! device, when it has been noted for a bookmark that it changes, if need be. With the run locked as for a
//! write, and what makes a chunk done, or notes the change, durable before that (see
//! [`super::rollback`]).

use super::ids::{Chunk, Epoch, OriginNr};
use super::preserve::{next_unpreserved, Live};
use super::records::Metadata;
use super::rollback::{Pending, RollbackView};

/// What a discard does with chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// It is passed on.
    Pass,
    /// It is passed on when [`record_changed`](super::preserve::record_changed) has noted it, durably.
    Note,
    /// They are left alone.
    Leave,
}

/// A run of chunks that a discard does the same with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What that is.
    pub does: Does,
    /// Chunks in the run.
    pub len: u64,
}

/// What a discard of the chunks from `start` up to `end` (exclusive, behind `start`) does with the
/// first ones of them. `live` is [`newest_live`](super::preserve::newest_live), `rollback` the one
/// that runs.
pub fn first_part<M: Metadata>(
    m: &M,
    origin: OriginNr,
    live: Option<Live>,
    rollback: Option<&RollbackView>,
    start: Chunk,
    end: Chunk,
) -> Result<Part, M::Error> {
    let mut until = end;
    if let Some(view) = rollback {
        match view.pending_at(m, start, end.since(start))? {
            Pending::Done { len } => until = start.plus(len).min(end),
            Pending::Same { len } | Pending::Copy { len, .. } => {
                return Ok(Part {
                    does: Does::Leave,
                    len,
                });
            }
        }
    }
    let gap = match live {
        Some(live) => next_unpreserved(m, origin, live, Epoch::MAX, start, until)?,
        None => None,
    };
    Ok(match gap {
        Some(gap) if gap.start == start => Part {
            does: match gap.content {
                true => Does::Leave,
                false => Does::Note,
            },
            len: gap.len,
        },
        Some(gap) => Part {
            does: Does::Pass,
            len: gap.start.since(start),
        },
        None => Part {
            does: Does::Pass,
            len: until.since(start),
        },
    })
}
