// SPDX-License-Identifier: GPL-2.0

//! One active snapshot: what its device and the store's worker share.

use super::origin::Origin;
use crate::dm::gate::Gate;
use crate::dm::range_lock::RangeLock;
use crate::model::ids::{OriginNr, Tag, TimelineId};
use crate::model::report::State;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// What `dmsetup status` says of a snapshot.
#[derive(Clone, Copy)]
pub(crate) struct SnapshotStatus {
    pub(crate) state: State,
    pub(crate) chunks: u64,
    pub(crate) children: u32,
}

/// A snapshot that an active device shows. Shared by the device and the engine.
#[pin_data]
pub(crate) struct Snapshot {
    pub(crate) origin: Arc<Origin>,
    pub(crate) tag: Tag,
    /// Size in sectors, fixed when the snapshot was taken.
    pub(crate) size: u64,
    /// Which mapped device shows it (see `MappedDevice::id`): no other may.
    pub(super) device: usize,
    /// Chunks of this snapshot's own timeline: readers and writers in place share them, a write
    /// that gives a chunk a new place has it alone.
    pub(crate) chunks: Arc<RangeLock>,
    /// Writes on their way. Closed while a snapshot of this snapshot is taken.
    pub(crate) gate: Arc<Gate>,
    /// Requests on their way to chunks on the COW device, by records that need not be durable, whoever's
    /// those are. What a failure of the store gives back of these must not be used anew before they are
    /// over. Those from before the last failure and those from after it, by the lowest bit of how often
    /// it had failed when they were sent: it does not work again, and so does not fail again, before
    /// there are none left from before.
    placed: [Atomic<i32>; 2],
    #[pin]
    status: SpinLock<SnapshotStatus>,
}

impl Snapshot {
    pub(super) fn new(
        origin: Arc<Origin>,
        tag: Tag,
        size: u64,
        device: usize,
    ) -> Result<Arc<Self>> {
        let chunks = Arc::pin_init(RangeLock::new(), GFP_KERNEL)?;
        let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                origin,
                tag,
                size,
                device,
                chunks,
                gate,
                placed: [Atomic::new(0), Atomic::new(0)],
                status <- new_spinlock!(SnapshotStatus {
                    state: State::Valid,
                    chunks: 0,
                    children: 0,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// The number of the origin that this is a snapshot of.
    pub(crate) fn origin_nr(&self) -> OriginNr {
        self.origin.number
    }

    /// The timeline of its own writes.
    pub(crate) fn timeline(&self) -> TimelineId {
        TimelineId::of_snapshot(self.origin.number, self.tag)
    }

    fn placed(&self, failures: u32) -> &Atomic<i32> {
        let [even, odd] = &self.placed;
        match failures % 2 {
            0 => even,
            _ => odd,
        }
    }

    /// The store had failed so often.
    pub(super) fn placed_begins(&self, failures: u32) {
        self.placed(failures).fetch_add(1, Relaxed);
    }

    /// What began with `failures` is over. Any context.
    pub(super) fn placed_ends(&self, failures: u32) {
        self.placed(failures).fetch_sub(1, Release);
    }

    /// Whether nothing is on its way.
    pub(super) fn nothing_placed(&self) -> bool {
        self.placed.iter().all(|count| count.load(Acquire) == 0)
    }

    /// Whether everything is over that began before the store failed for the `failures`th time, the last
    /// one.
    pub(super) fn nothing_placed_before(&self, failures: u32) -> bool {
        self.placed(failures.wrapping_sub(1)).load(Acquire) == 0
    }

    pub(crate) fn status(&self) -> SnapshotStatus {
        *self.status.lock()
    }

    pub(super) fn set_status(&self, status: SnapshotStatus) {
        *self.status.lock() = status;
    }
}
