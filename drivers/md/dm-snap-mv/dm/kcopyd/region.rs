// SPDX-License-Identifier: GPL-2.0

//! What is copied.

use crate::bindings;
use crate::dm::block_device::BlockDevice;

/// Sectors of a device.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    /// The device.
    pub(crate) dev: &'a BlockDevice,
    /// The first sector.
    pub(crate) sector: u64,
    /// How many sectors.
    pub(crate) count: u64,
}

impl<'a> Region<'a> {
    /// `count` sectors of it from `offset` on, or as many as there are.
    pub(super) fn part(&self, offset: u64, count: u64) -> Region<'a> {
        let offset = offset.min(self.count);
        Region {
            dev: self.dev,
            sector: self.sector + offset,
            count: count.min(self.count - offset),
        }
    }

    pub(super) fn as_raw(&self) -> bindings::dm_io_region {
        bindings::dm_io_region {
            bdev: self.dev.as_raw(),
            sector: self.sector,
            count: self.count,
        }
    }
}
