// SPDX-License-Identifier: GPL-2.0

//! The limits of a mapped device's queue.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::block_device::BlockDevice;
use crate::bindings;

/// Queue limits as device-mapper has stacked them from those of the devices below, to be changed
/// by the target. What makes no sense is refused by the block layer, and with it the table.
pub(crate) struct Limits<'a>(&'a mut bindings::queue_limits);

impl<'a> Limits<'a> {
    /// Those of C.
    pub(super) fn new(limits: &'a mut bindings::queue_limits) -> Self {
        Self(limits)
    }

    /// Has pages of bios lie as `device` wants them, too, because bios of the mapped device may be sent
    /// there though [`Target::iterate_devices`](super::target::Target::iterate_devices) does not visit
    /// it. Logical blocks are not looked at.
    pub(crate) fn stack_memory(&mut self, device: &BlockDevice) {
        // SAFETY: The device is open, so it is there, and the limits are borrowed mutably.
        unsafe { bindings::dm_rs_bdev_stack_memory(device.as_raw(), self.0) };
    }

    /// The smallest that can be read or written, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        self.0.logical_block_size
    }

    /// The smallest that can be written without reading first, in bytes.
    pub(crate) fn physical_block_size(&self) -> u32 {
        self.0.physical_block_size
    }

    /// The smallest I/O that does not cost extra, in bytes.
    pub(crate) fn io_min(&self) -> u32 {
        self.0.io_min
    }

    /// The size of I/O that suits the device best, in bytes; 0: none is said to.
    pub(crate) fn io_opt(&self) -> u32 {
        self.0.io_opt
    }

    /// The most sectors that a bio can have.
    pub(crate) fn max_sectors(&self) -> u32 {
        self.0.max_sectors
    }

    /// Sets the logical block size, in bytes.
    pub(crate) fn set_logical_block_size(&mut self, bytes: u32) {
        self.0.logical_block_size = bytes;
    }

    /// Sets the physical block size, in bytes.
    pub(crate) fn set_physical_block_size(&mut self, bytes: u32) {
        self.0.physical_block_size = bytes;
    }

    /// Sets the smallest I/O that does not cost extra, in bytes.
    pub(crate) fn set_io_min(&mut self, bytes: u32) {
        self.0.io_min = bytes;
    }

    /// Sets the size of I/O that suits the device best, in bytes.
    pub(crate) fn set_io_opt(&mut self, bytes: u32) {
        self.0.io_opt = bytes;
    }

    /// Sets what discards are aligned to, in bytes.
    pub(crate) fn set_discard_granularity(&mut self, bytes: u32) {
        self.0.discard_granularity = bytes;
    }

    /// Sets the most sectors that a discard can have; 0: none at all.
    pub(crate) fn set_max_discard_sectors(&mut self, sectors: u32) {
        self.0.max_hw_discard_sectors = sectors;
    }

    /// The most sectors that a discard can have, by what the devices say; the user may have set
    /// less.
    // The block layer computes the field of this name from the one that drivers set.
    #[allow(clippy::misnamed_getters)]
    pub(crate) fn max_discard_sectors(&self) -> u32 {
        self.0.max_hw_discard_sectors
    }

    /// Sets the most sectors that a write-zeroes can have; 0: none at all. None is said to unmap: what
    /// could be is limited to the same, or not at all.
    pub(crate) fn set_max_write_zeroes_sectors(&mut self, sectors: u32) {
        self.0.max_write_zeroes_sectors = sectors;
        self.0.max_hw_wzeroes_unmap_sectors = 0;
    }

    /// Has no write-zeroes have more sectors than these, and leaves it at that whether one can unmap.
    pub(crate) fn bound_write_zeroes_sectors(&mut self, sectors: u32) {
        self.0.max_write_zeroes_sectors = self.0.max_write_zeroes_sectors.min(sectors);
        self.0.max_hw_wzeroes_unmap_sectors = self.0.max_hw_wzeroes_unmap_sectors.min(sectors);
    }

    /// The most sectors that a write-zeroes can have.
    pub(crate) fn max_write_zeroes_sectors(&self) -> u32 {
        self.0.max_write_zeroes_sectors
    }
}
