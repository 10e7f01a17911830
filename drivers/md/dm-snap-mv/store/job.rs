// SPDX-License-Identifier: GPL-2.0

//! What a bio carries with it on its way through the store.
//!
//! The state of a bio's work lives in the area that device-mapper keeps for each bio, so that no
//! write ever waits for memory: whoever owns the bio owns its job.

use super::origin::Origin;
use super::snapshot::Snapshot;
use crate::dm::gate::Pass;
use crate::dm::range_lock::RangeNode;
use crate::dm::status::Status;
use crate::model::ids::{Chunk, CowChunk};
use crate::model::preserve::Live;
use crate::target::Bio;
use core::convert::Infallible;
use kernel::prelude::*;
use kernel::sync::Arc;

/// How far a bio has come. The worker continues a bio by what its stage says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Nothing has been done that counts, or all must be looked at again.
    New,
    /// Origin write: the old content of [`Job::run`] is being copied to the COW device.
    Preserving,
    /// Origin write: everything is recorded; it may go on once the records are durable.
    Preserved,
    /// Origin discard: a part is on its way to the origin device.
    Discarding,
    /// On its way to the device it belongs on; ends with that I/O.
    Issued,
    /// Snapshot read: a part is on its way.
    Reading,
    /// Snapshot write: what a new chunk holds besides the write is being copied into it.
    Filling,
    /// Snapshot write: a part is on its way to new chunks, which must be recorded then.
    WritingNew,
    /// Snapshot write: a part is on its way to chunks that are its own already.
    WritingInPlace,
    /// All done but for the commit that makes it durable.
    Ending,
}

/// Chunks of the device and where their content goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyRun {
    pub(crate) start: Chunk,
    pub(crate) cow: CowChunk,
    pub(crate) len: u64,
    /// Sectors of them that are copied: the last chunk ends where the origin did when the copy began.
    pub(crate) sectors: u64,
    /// Of a snapshot's write: see [`NewRun`](crate::model::write::NewRun).
    pub(crate) unrecorded: bool,
}

/// Counts a read that a rollback sent elsewhere, for as long as it is on its way.
pub(crate) struct Redirected(Arc<Origin>);

impl Redirected {
    pub(super) fn new(origin: &Arc<Origin>) -> Self {
        origin.redirected_begins();
        Self(origin.clone())
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        self.0.redirected_ends();
    }
}

/// Counts a request of a snapshot that is on its way to chunks on the COW device: its own, or those of
/// what it is based on. Their record need not be durable yet, so when the store fails they may become
/// anybody's: not before it is over.
pub(crate) struct Placed {
    snapshot: Arc<Snapshot>,
    failures: u32,
}

impl Placed {
    /// `failures`: how often the store has failed so far.
    pub(super) fn new(snapshot: &Arc<Snapshot>, failures: u32) -> Self {
        snapshot.placed_begins(failures);
        Self {
            snapshot: snapshot.clone(),
            failures,
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.snapshot.placed_ends(self.failures);
    }
}

/// The per-bio data of the target. Dropped when the bio ends, in any context.
#[pin_data]
pub(crate) struct Job {
    /// Chunks of the origin device that this bio reads for a snapshot, or will overwrite.
    #[pin]
    pub(crate) phys: RangeNode,
    /// Chunks of the snapshot's own timeline that this bio works on.
    #[pin]
    pub(crate) own: RangeNode,
    pub(crate) stage: Stage,
    /// Keeps the gate from closing; a write holds it from before it changes anything.
    pub(crate) pass: Option<Pass>,
    pub(crate) redirected: Option<Redirected>,
    pub(crate) placed: Option<Placed>,
    /// Stages `Preserving`, `Filling`, `WritingNew`: the run at work, reserved in the allocator.
    pub(crate) run: Option<CopyRun>,
    /// Origin write: what preserving has been done for, up to `next`.
    pub(crate) live: Option<Live>,
    pub(crate) next: u64,
    /// Something was recorded for this bio in a transaction that may not be durable yet.
    pub(crate) recorded: bool,
    /// The outcome of the copy or part that came back, or the one to end with.
    pub(crate) status: Status,
    /// When waiting for space began, in jiffies.
    pub(crate) waiting_since: Option<usize>,
    /// The copy that failed could not read what it was to copy.
    pub(crate) unreadable: bool,
    /// A copy to the COW device failed, and is tried once more, to another place.
    pub(crate) retried: bool,
    /// How often the store had failed when this bio was looked at last. What it has found out and
    /// recorded counts no more when the store has failed since.
    pub(crate) failures: u32,
}

impl Job {
    pub(crate) fn new() -> impl PinInit<Self, Infallible> {
        pin_init!(Self {
            phys <- RangeNode::new(),
            own <- RangeNode::new(),
            stage: Stage::New,
            pass: None,
            redirected: None,
            placed: None,
            run: None,
            live: None,
            next: 0,
            recorded: false,
            status: Status::OK,
            waiting_since: None,
            unreadable: false,
            retried: false,
            failures: 0,
        }? Infallible)
    }
}

/// Access to the job of a bio, by whoever owns the bio.
pub(crate) trait HasJob {
    /// The fields of the bio's job.
    fn job(&mut self) -> JobProjection<'_>;
}

impl HasJob for Bio {
    fn job(&mut self) -> JobProjection<'_> {
        self.data_mut().project()
    }
}
