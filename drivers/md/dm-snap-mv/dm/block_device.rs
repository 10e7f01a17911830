// SPDX-License-Identifier: GPL-2.0

//! Block devices that are open.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use crate::bindings;
use core::{fmt, ptr::NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
};

/// How many bits of a device number are the minor (`MINORBITS`).
const MINOR_BITS: u32 = 20;

/// The number of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dev(bindings::dev_t);

impl Dev {
    pub(super) const fn from_raw(raw: bindings::dev_t) -> Self {
        Self(raw)
    }

    pub(super) const fn as_raw(self) -> bindings::dev_t {
        self.0
    }

    /// The device that `path` names: `MAJOR:MINOR`, or a device node. Process context; sleeps.
    ///
    /// # Errors
    ///
    /// Those of a path look-up, `ENOTBLK` when it is something else, `EOVERFLOW`.
    pub(crate) fn from_path(path: &CStr) -> Result<Self> {
        let mut dev = 0;
        // SAFETY: The path is a C string, and `dev` can be written.
        to_result(unsafe { bindings::dm_devt_from_path(path.as_char_ptr(), &mut dev) })?;
        Ok(Self(dev))
    }

    /// The device with these numbers; `None` if there cannot be one.
    pub(crate) const fn new(major: u32, minor: u32) -> Option<Self> {
        match major >> (u32::BITS - MINOR_BITS) == 0 && minor >> MINOR_BITS == 0 {
            true => Some(Self(major << MINOR_BITS | minor)),
            false => None,
        }
    }

    /// The major number.
    pub(crate) const fn major(self) -> u32 {
        self.0 >> MINOR_BITS
    }

    /// The minor number.
    pub(crate) const fn minor(self) -> u32 {
        self.0 & ((1 << MINOR_BITS) - 1)
    }
}

/// As device-mapper writes it: `MAJOR:MINOR`.
impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

/// For the kernel crate's macros, `pr_info!` and the like.
impl kernel::fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the kernel calls a block device, as `sdb1` or `dm-3`, for its log.
#[derive(Clone, Copy)]
pub(crate) struct BlockName([u8; BlockName::SIZE]);

impl BlockName {
    /// `BDEVNAME_SIZE`.
    const SIZE: usize = 32;

    /// # Safety
    ///
    /// `bdev` must be there for the duration of the call.
    pub(super) unsafe fn of(bdev: *mut bindings::block_device) -> Self {
        let mut name = [0; Self::SIZE];
        // SAFETY: By the function's requirements, and there is that much room.
        unsafe { bindings::dm_rs_bdev_name(bdev, name.as_mut_ptr().cast(), Self::SIZE) };
        Self(name)
    }
}

impl kernel::fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        f.write_str(core::str::from_utf8(name).unwrap_or("?"))
    }
}

/// A block device that is open for as long as this lives.
///
/// # Invariants
///
/// `file` is the file of a block device, and one of its references is ours. `bdev` is that device.
pub(crate) struct BlockDevice {
    file: NonNull<bindings::file>,
    bdev: *mut bindings::block_device,
}

// SAFETY: A file may be used, and its references may be put, from any thread.
unsafe impl Send for BlockDevice {}
// SAFETY: As above.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens a device, for reading or for reading and writing. Others may open it too: to keep
    /// them out is for the table's own reference to it (see `Setup::get_device`). Process context;
    /// sleeps.
    ///
    /// # Errors
    ///
    /// `ENXIO` when there is no such device, `EACCES` when it is read-only, and whatever its
    /// driver says.
    pub(crate) fn open(dev: Dev, write: bool) -> Result<Self> {
        let mut mode = bindings::DM_RS_OPEN_READ;
        if write {
            mode |= bindings::DM_RS_OPEN_WRITE;
        }
        // SAFETY: Any number will do.
        let file = from_err_ptr(unsafe { bindings::dm_rs_bdev_open(dev.0, mode) })?;
        let file = NonNull::new(file).ok_or(ENXIO)?;
        // SAFETY: It is the file of a block device, and has a reference, which is ours from here on.
        Ok(unsafe { Self::from_reference(file) })
    }

    /// Shares what somebody else has opened.
    ///
    /// # Safety
    ///
    /// `file` must be the file of a block device, with at least one reference for the duration of
    /// the call.
    pub(super) unsafe fn from_file(file: NonNull<bindings::file>) -> Self {
        // SAFETY: By the function's requirements there is a reference, so one can be added.
        unsafe { bindings::dm_rs_get_file(file.as_ptr()) };
        // SAFETY: By the function's requirements, and with the reference just got.
        unsafe { Self::from_reference(file) }
    }

    /// # Safety
    ///
    /// `file` must be the file of a block device, with a reference that nobody else puts.
    unsafe fn from_reference(file: NonNull<bindings::file>) -> Self {
        // INVARIANT: By the function's requirements.
        Self {
            file,
            // SAFETY: By the function's requirements.
            bdev: unsafe { bindings::file_bdev(file.as_ptr()) },
        }
    }

    /// What C calls it. Valid for as long as `self`.
    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::block_device {
        self.bdev
    }

    /// One more for the same device. Any context.
    pub(crate) fn share(&self) -> Self {
        // SAFETY: By the type's invariants.
        unsafe { Self::from_file(self.file) }
    }

    /// Closes it before this returns, if nobody shares it. By a thread of the kernel's, which must
    /// hold nothing that closing it could need.
    pub(super) fn close(self) {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: By the type's invariants the reference is ours, and nobody puts it again.
        unsafe { bindings::__fput_sync(this.file.as_ptr()) };
    }

    /// Its number.
    pub(crate) fn dev(&self) -> Dev {
        // SAFETY: The device is open, so it is there.
        Dev(unsafe { bindings::dm_rs_bdev_dev(self.as_raw()) })
    }

    /// What the kernel calls it.
    pub(crate) fn name(&self) -> BlockName {
        // SAFETY: The device is open, so it is there.
        unsafe { BlockName::of(self.as_raw()) }
    }

    /// Whether both are the same device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.as_raw() == other.as_raw()
    }

    /// Its size in sectors of 512 bytes, at this moment.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_sectors(self.as_raw()) }
    }

    /// How many requests it has carried out, whoever sent them: as it counts them for its
    /// statistics, which an administrator can have it not do. Adds up a number of each CPU.
    pub(crate) fn requests(&self) -> u64 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_requests(self.as_raw()) }
    }

    /// Whether it can only be read.
    pub(crate) fn read_only(&self) -> bool {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_read_only(self.as_raw()) }
    }

    /// Whether it has a volatile cache, so that what is written is durable only after a flush.
    pub(crate) fn has_write_cache(&self) -> bool {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_has_write_cache(self.as_raw()) }
    }

    /// The most sectors that one discard can have; 0 when it cannot discard.
    pub(crate) fn max_discard_sectors(&self) -> u32 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_max_discard_sectors(self.as_raw()) }
    }

    /// What discards should be aligned to, in bytes.
    pub(crate) fn discard_granularity(&self) -> u32 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_discard_granularity(self.as_raw()) }
    }

    /// The most sectors that one write-zeroes can have; 0 when it has no such thing.
    pub(crate) fn max_write_zeroes_sectors(&self) -> u32 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_write_zeroes_sectors(self.as_raw()) }
    }

    /// Whether it is written in zones only, from the beginning of each to its end.
    pub(crate) fn is_zoned(&self) -> bool {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_is_zoned(self.as_raw()) }
    }

    /// What it is called that stays with it, whatever its number: the UUID of a partition or of a mapped
    /// device, or what its maker calls it; how many bytes of `text` that takes, 0 where there is nothing of
    /// the kind. Process context; sleeps.
    pub(crate) fn called(&self, text: &mut [u8]) -> usize {
        let room = u32::try_from(text.len()).unwrap_or(u32::MAX);
        // SAFETY: The device is open, so it is there, and there is that much room.
        let len = unsafe { bindings::dm_rs_bdev_called(self.as_raw(), text.as_mut_ptr(), room) };
        (len as usize).min(text.len())
    }

    /// The number of the disk that it is a partition of; its own if it is none.
    pub(crate) fn whole(&self) -> Dev {
        // SAFETY: The device is open, so it is there.
        Dev(unsafe { bindings::dm_rs_bdev_whole(self.as_raw()) })
    }

    /// Makes all durable that had been written before. Process context; sleeps until the device has
    /// answered, and no signal ends that. Needs no memory.
    ///
    /// # Errors
    ///
    /// `EIO`.
    pub(crate) fn flush(&self) -> Result {
        // SAFETY: The device is open, so it is there.
        to_result(unsafe { bindings::dm_rs_bdev_flush(self.as_raw()) })
    }

    /// The smallest that can be read or written, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_logical_block_size(self.as_raw()) }
    }

    /// The smallest that can be written without reading first, in bytes.
    pub(crate) fn physical_block_size(&self) -> u32 {
        // SAFETY: The device is open, so it is there.
        unsafe { bindings::dm_rs_bdev_physical_block_size(self.as_raw()) }
    }
}

impl Drop for BlockDevice {
    /// Any context: what there is to close is closed later, by the task on its way out of the
    /// kernel or by a worker.
    fn drop(&mut self) {
        // SAFETY: By the type's invariants the reference is ours.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}
