// SPDX-License-Identifier: GPL-2.0

//! An origin device: the origin as its users see it.

use crate::dm::action::MapAction;
use crate::dm::bio::Op;
use crate::store::job::{HasJob, Stage};
use crate::store::{Origin, OriginHandle, Store};
use crate::target::{Bio, SnapMv};
use kernel::sync::Arc;

/// A `co` device.
pub(crate) struct OriginDevice {
    origin: OriginHandle,
}

impl OriginDevice {
    pub(crate) fn new(origin: OriginHandle) -> Self {
        Self { origin }
    }

    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.origin.store()
    }

    /// Reads, flushes, and writes that nobody needs the old content of go straight through: one
    /// per-CPU counter is all they touch. Does not sleep.
    pub(super) fn map(&self, mut bio: Bio) -> MapAction<SnapMv> {
        let direct = match bio.op() {
            Op::Read => !self.origin.redirects_reads(),
            Op::Flush => true,
            _ => self.pass(&mut bio),
        };
        if direct {
            let sector = bio.sector();
            bio.remap(&self.origin.dev, sector)
        } else {
            let store = self.store();
            store.submit(bio);
            MapAction::Submitted
        }
    }

    /// Whether it is known that nothing is left to preserve where a write goes.
    fn is_preserved(&self, bio: &Bio) -> bool {
        let (first, last) = self.store().chunks_of(bio);
        self.origin.is_preserved(first, last)
    }

    /// Whether a write may pass: no snapshot is being taken, and none wants what it overwrites.
    fn pass(&self, bio: &mut Bio) -> bool {
        let Some(pass) = self.origin.gate.try_enter() else {
            return false;
        };
        // The answers cannot change to no while the pass is held.
        if !self.origin.is_direct() && !self.is_preserved(bio) {
            return false;
        }
        let job = bio.job();
        *job.pass = Some(pass);
        *job.stage = Stage::Issued;
        true
    }
}
