// SPDX-License-Identifier: GPL-2.0

//! A snapshot device: one snapshot, to read and to write.

use crate::dm::action::MapAction;
use crate::store::{Snapshot, SnapshotHandle, Store};
use crate::target::{Bio, SnapMv};
use kernel::sync::Arc;

/// A `cs` device.
pub(crate) struct SnapshotDevice {
    snapshot: SnapshotHandle,
}

impl SnapshotDevice {
    pub(crate) fn new(snapshot: SnapshotHandle) -> Self {
        Self { snapshot }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.snapshot.store()
    }

    /// Where anything is only the metadata tell. Does not sleep.
    pub(super) fn map(&self, bio: Bio) -> MapAction<SnapMv> {
        self.store().submit(bio);
        MapAction::Submitted
    }
}
