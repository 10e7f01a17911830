// SPDX-License-Identifier: GPL-2.0

//! An origin device: the origin as its users see it.

use crate::dm::action::MapAction;
use crate::dm::bio::Op;
use crate::dm::gate::Pass;
use crate::dm::shortcut::{Glance, Shortcut};
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
    /// per-CPU counter is all that they write to. Does not sleep.
    #[inline]
    pub(super) fn shortcut(&self, bio: &Glance<'_>) -> Option<Shortcut<'_>> {
        let pass = match bio.op() {
            Op::Read if self.origin.redirects_reads() => return None,
            Op::Read | Op::Flush => None,
            _ => Some(self.pass(bio)?),
        };
        Some(Shortcut {
            device: &self.origin.dev,
            sector: bio.sector(),
            pass,
        })
    }

    /// Whether a write may pass: no snapshot is being taken, and none wants what it overwrites.
    #[inline]
    fn pass(&self, bio: &Glance<'_>) -> Option<Pass> {
        let pass = self.origin.gate.try_enter()?;
        // The answers cannot change to no while the pass is held.
        let direct = self.origin.is_direct() || self.is_preserved(bio);
        direct.then_some(pass)
    }

    /// Whether it is known that nothing is left to preserve where a write goes.
    #[inline]
    fn is_preserved(&self, bio: &Glance<'_>) -> bool {
        let (first, last) = self.store().chunks_in(bio.sector(), bio.sectors());
        self.origin.is_preserved(first, last)
    }

    /// All others go where the metadata are looked at. Does not sleep.
    pub(super) fn map(&self, bio: Bio) -> MapAction<SnapMv> {
        self.store().submit(bio);
        MapAction::Submitted
    }
}
