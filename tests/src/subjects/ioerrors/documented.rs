// SPDX-License-Identifier: GPL-2.0

//! What the documentation says of requests that fail: see "I/O errors" in dm-snap-mv.rst.

use super::act::Act;
use super::points::{Fault, Times, Which};
use crate::puppet::Op;

/// Flushes of the COW device by the first commit of a store that was closed in order, when nothing was
/// noted of its origin's disk that had to be struck out before. What comes after
/// these is of something else.
const FLUSHES: usize = 2;

/// What becomes of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// It takes changes.
    Works,
    /// Its state is `error`.
    Failed,
    /// One or the other.
    Either,
}

/// What becomes of an operation that meets a fault.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub state: State,
    /// Whether it succeeds, if that can be told.
    pub succeeds: Option<bool>,
}

impl Act {
    /// Whether it cannot be done without a request of this sort.
    pub fn needs(self, which: Which, op: Op) -> bool {
        match (which, op) {
            (Which::Cow, Op::Write | Op::Flush) => {
                !matches!(self, Act::SnapshotRead | Act::OriginDiscard)
            }
            (Which::Cow, Op::Read) => {
                (self.creates() && self != Act::Format)
                    || matches!(
                        self,
                        Act::OriginWrite
                            | Act::OriginRewrite
                            | Act::SnapshotWrite
                            | Act::SnapshotWritePart
                            | Act::SnapshotWritePartOfCow
                            | Act::SnapshotRead
                            | Act::RollBack
                            | Act::Merge
                    )
            }
            (Which::Cow, Op::Zero) => self == Act::SnapshotWritePartOfZeroes,
            (Which::Cow, Op::Discard) => false,
            (Which::Origin, Op::Read) => {
                self.writes_origin()
                    || matches!(
                        self,
                        Act::SnapshotRead | Act::SnapshotWritePart | Act::RollBack
                    )
            }
            (Which::Origin, Op::Write) => matches!(
                self,
                Act::OriginWrite
                    | Act::OriginRewrite
                    | Act::OriginWriteOn
                    | Act::RollBack
                    | Act::Merge
            ),
            (Which::Origin, Op::Flush) => {
                matches!(self, Act::Take | Act::RollBack | Act::Merge)
            }
            (Which::Origin, Op::Discard) => self == Act::OriginDiscard,
            (Which::Origin, Op::Zero) => matches!(self, Act::OriginZero | Act::RollBack),
        }
    }

    fn writes_snapshot(self) -> bool {
        matches!(
            self,
            Act::SnapshotWrite
                | Act::SnapshotWritePart
                | Act::SnapshotWritePartOfCow
                | Act::SnapshotWritePartOfZeroes
                | Act::SnapshotRewrite
                | Act::SnapshotDiscard
        )
    }
}

/// What the first request that failed was of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    Data,
    Metadata,
    /// The backup of the superblock, the last that a commit writes.
    Backup,
}

/// What becomes of an operation of devices that are there, when a request of this part fails first.
pub fn outcome(act: Act, policy: &str, fault: Fault, part: Part) -> Outcome {
    let says = |state, succeeds| Outcome { state, succeeds };
    let alone = matches!(fault.times, Times::Once | Times::Place);
    let data = part == Part::Data;
    match (fault.which, fault.op) {
        // As without the target, and nothing of the store is concerned.
        (Which::Origin, _) => says(State::Works, None),
        _ if act == Act::SnapshotRead => says(State::Works, None),
        // For the one that needed it, unless that was a change that had begun.
        (Which::Cow, Op::Read) if data && alone => says(State::Works, None),
        (Which::Cow, Op::Read) => says(State::Either, None),
        // What is preserved goes to another place, and a write of a snapshot fails.
        (Which::Cow, _) if data && alone && act.writes_origin() => says(State::Works, Some(true)),
        (Which::Cow, _) if data && alone && act.writes_snapshot() => {
            says(State::Works, Some(false))
        }
        (Which::Cow, _) if data && alone => says(State::Works, None),
        (Which::Cow, _) if data => says(State::Either, None),
        // The store is opened anew for the write, and more than once if that does not help.
        // Not at all if the last flush of a commit fails that can be read again.
        (Which::Cow, _) if act.writes_origin() && policy == "invalidate" => {
            match (fault.times, fault.op) {
                (Times::Once, Op::Flush) => says(State::Either, Some(true)),
                // The commit itself is there; the next write that needs one opens the store anew.
                (Times::Once, _) if part == Part::Backup => says(State::Either, Some(true)),
                (Times::Once, _) => says(State::Works, Some(true)),
                _ => says(State::Either, None),
            }
        }
        // What is flushed and could not be is not acknowledged. Where nothing has to be recorded, or
        // the store has made it durable by itself before, after a second, the flush is that of data
        // alone.
        (Which::Cow, Op::Flush)
            if act == Act::SnapshotRewrite || act.writes_snapshot() && fault.first >= FLUSHES =>
        {
            says(State::Either, Some(false))
        }
        (Which::Cow, _) if act.writes_snapshot() => says(State::Failed, Some(false)),
        (Which::Cow, _) => says(State::Failed, None),
    }
}
