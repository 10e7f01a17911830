// SPDX-License-Identifier: GPL-2.0

//! Synchronous I/O between a device and the kernel's memory.
//!
//! C header: [`include/linux/dm-io.h`](srctree/include/linux/dm-io.h)

use super::block_device::BlockDevice;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    block::SECTOR_SIZE,
    error::{from_err_ptr, to_result},
    prelude::*,
};

/// A client of dm-io, with its own reserve of memory.
///
/// All that it does sleeps until the device has answered, and no signal ends that. Memory comes
/// from the reserve, so it makes progress when there is none left elsewhere. One that is used on
/// an I/O path must not wait for that path.
///
/// Buffers must be kernel memory from `kmalloc` or `vmalloc` (so `KVec`, `VVec`, `KBox`, not the
/// stack and not a static), their length a multiple of 512 bytes, and their start too.
///
/// # Invariants
///
/// The client is ours.
pub(crate) struct DmIo {
    client: NonNull<bindings::dm_io_client>,
}

// SAFETY: A client may be used from many threads at once: it is a mempool and a bio set.
unsafe impl Send for DmIo {}
// SAFETY: As above.
unsafe impl Sync for DmIo {}

/// How a write is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The device may keep it in its cache.
    Volatile,
    /// It is durable when the call returns. What was written before need not be.
    Fua,
    /// It is durable when the call returns, and so is all that had been written before it began.
    FlushFua,
}

impl DmIo {
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: It takes nothing.
        let client = from_err_ptr(unsafe { bindings::dm_io_client_create() })?;
        Ok(Self {
            // INVARIANT: It is a new one.
            client: NonNull::new(client).ok_or(ENOMEM)?,
        })
    }

    /// Reads from `sector` on as much as fits `data`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the buffer is not fit for it (see [`DmIo`]) or reaches beyond the device,
    /// `EIO`.
    pub(crate) fn read(&self, device: &BlockDevice, sector: u64, data: &mut [u8]) -> Result {
        let len = data.len();
        // SAFETY: The buffer is ours to be written for the duration of the call.
        unsafe {
            self.transfer(
                bindings::req_op_REQ_OP_READ | bindings::DM_RS_SYNC | bindings::DM_RS_META,
                device,
                sector,
                data.as_mut_ptr(),
                len,
            )
        }
    }

    /// Writes `data` from `sector` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the buffer is not fit for it (see [`DmIo`]) or reaches beyond the device,
    /// `EIO`.
    pub(crate) fn write(
        &self,
        device: &BlockDevice,
        sector: u64,
        data: &[u8],
        durability: Durability,
    ) -> Result {
        let flags = match durability {
            Durability::Volatile => 0,
            Durability::Fua => bindings::DM_RS_FUA,
            Durability::FlushFua => bindings::DM_RS_PREFLUSH | bindings::DM_RS_FUA,
        };
        // SAFETY: The buffer can be read for the duration of the call, and a write only reads it.
        unsafe {
            self.transfer(
                bindings::req_op_REQ_OP_WRITE | bindings::DM_RS_SYNC | bindings::DM_RS_META | flags,
                device,
                sector,
                data.as_ptr().cast_mut(),
                data.len(),
            )
        }
    }

    /// Makes all durable that had been written before.
    ///
    /// # Errors
    ///
    /// `EIO`.
    pub(crate) fn flush(&self, device: &BlockDevice) -> Result {
        // SAFETY: Client and device are valid. No memory is used, as nothing is transferred.
        to_result(unsafe {
            bindings::dm_rs_io(
                self.client.as_ptr(),
                bindings::req_op_REQ_OP_WRITE | bindings::DM_RS_SYNC | bindings::DM_RS_PREFLUSH,
                device.as_raw(),
                0,
                0,
                core::ptr::null_mut(),
                bindings::dm_rs_memory_DM_RS_MEMORY_KMEM,
            )
        })
    }

    /// # Safety
    ///
    /// `data` must be valid for `len` bytes for the duration of the call, for writes if `opf` is
    /// a read, for reads if it is a write.
    unsafe fn transfer(
        &self,
        opf: u32,
        device: &BlockDevice,
        sector: u64,
        data: *mut u8,
        len: usize,
    ) -> Result {
        const SECTOR: usize = SECTOR_SIZE as usize;
        if len == 0 || len % SECTOR != 0 || data.addr() % SECTOR != 0 {
            return Err(EINVAL);
        }
        let count = (len / SECTOR) as u64;
        let end = sector.checked_add(count).ok_or(EINVAL)?;
        if end > device.sectors() {
            return Err(EINVAL);
        }
        // SAFETY: It asks what kind of memory an address is, which may be any.
        let memory = unsafe { bindings::dm_rs_memory(data.cast(), len) };
        if memory == bindings::dm_rs_memory_DM_RS_MEMORY_OTHER {
            return Err(EINVAL);
        }
        // SAFETY: Client and device are valid. The memory is, by this function's requirements,
        // and it is of a kind of which dm-io finds the pages. It is done when the call returns.
        to_result(unsafe {
            bindings::dm_rs_io(
                self.client.as_ptr(),
                opf,
                device.as_raw(),
                sector,
                count,
                data.cast(),
                memory,
            )
        })
    }
}

impl Drop for DmIo {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants it is ours. Nothing is in flight, since every call
        // waits for its I/O.
        unsafe { bindings::dm_io_client_destroy(self.client.as_ptr()) };
    }
}
