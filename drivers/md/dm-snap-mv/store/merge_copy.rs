// SPDX-License-Identifier: GPL-2.0

//! The part of a rollback that outlives a turn of the engine: what copies hold while they are on
//! their way.

use super::store::Store;
use crate::dm::block_device::BlockDevice;
use crate::dm::kcopyd::{CopyJob, Kcopyd, Region};
use crate::dm::range_lock::RangeNode;
use crate::dm::worker::Worker;
use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SpinLock};

/// The copy of one run, which is made in parts.
struct Progress {
    /// Parts that have not ended.
    left: u64,
    /// Whether those that have ended have succeeded.
    ok: bool,
}

/// The chunks that a rollback holds, and the copy of them.
#[pin_data]
pub(super) struct MergeCopy {
    #[pin]
    pub(super) node: RangeNode,
    #[pin]
    progress: SpinLock<Progress>,
    worker: Arc<Worker<Store>>,
}

impl MergeCopy {
    /// `worker` is kicked when a copy has ended.
    pub(super) fn new(worker: Arc<Worker<Store>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                node <- RangeNode::new(),
                progress <- new_spinlock!(Progress { left: 0, ok: true }),
                worker,
            }),
            GFP_KERNEL,
        )
    }

    fn begin(&self, parts: u64) {
        *self.progress.lock() = Progress {
            left: parts,
            ok: true,
        };
    }

    /// Copies `from` to `to`. The last copy must have ended.
    pub(super) fn copy(self: &Arc<Self>, kcopyd: &Kcopyd, from: &Region<'_>, to: &Region<'_>) {
        self.begin(kcopyd.parts(to.count));
        kcopyd.copy_parts(from, to, self);
    }

    /// Fills `to` with zeroes. The last copy must have ended.
    pub(super) fn zero(self: &Arc<Self>, kcopyd: &Kcopyd, to: &Region<'_>) {
        self.begin(1);
        kcopyd.zero(to, self.clone());
    }

    /// Makes what was written to `dev` durable. The last copy must have ended.
    pub(super) fn flush(self: &Arc<Self>, kcopyd: &Kcopyd, dev: &BlockDevice) {
        self.begin(1);
        kcopyd.flush(dev, self.clone());
    }

    /// Whether the copy that was begun last has succeeded, once it has ended.
    pub(super) fn outcome(&self) -> Option<bool> {
        let progress = self.progress.lock();
        (progress.left == 0).then_some(progress.ok)
    }
}

impl CopyJob for MergeCopy {
    fn copied(this: Arc<Self>, result: kernel::error::Result) {
        let mut progress = this.progress.lock();
        progress.ok &= result.is_ok();
        progress.left = progress.left.saturating_sub(1);
        let ended = progress.left == 0;
        drop(progress);
        if ended {
            this.worker.kick();
        }
    }
}
