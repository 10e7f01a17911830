// SPDX-License-Identifier: GPL-2.0

//! Metadata blocks as they are now, in the block manager's own cache.
//!
//! C header: [`include/linux/dm-bufio.h`](srctree/include/linux/dm-bufio.h)

use super::{corrupt, BLOCK_SIZE};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{error::from_err_ptr, prelude::*};

/// Reads blocks of a block manager without saying what they must be.
///
/// The block manager remembers of each block what it was first read as, and refuses to read it as
/// anything else. So who wants to look at a node before the library takes it for one goes to the
/// cache below, which is the same one: nothing is read from the device twice, and what the running
/// transaction has changed is seen.
///
/// # Invariants
///
/// The client is that of a block manager, which is there for as long as this is.
pub(super) struct Cache {
    client: NonNull<bindings::dm_bufio_client>,
    blocks: u64,
}

// SAFETY: A client may be used from many threads at once; it has its own lock.
unsafe impl Send for Cache {}
// SAFETY: As above.
unsafe impl Sync for Cache {}

/// The bytes of a block. They are read through a pointer, each time anew: whoever writes the block to
/// the device sets its checksum and its number meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(&'a [core::cell::UnsafeCell<u8>; BLOCK_SIZE]);

/// As [`Bytes`], of a block that may be changed: nobody else does, but for its checksum and number.
pub(super) struct BytesMut<'a>(Bytes<'a>);

impl Cache {
    /// # Safety
    ///
    /// The client must be that of a block manager with blocks of [`BLOCK_SIZE`], and stay.
    pub(super) unsafe fn new(client: NonNull<bindings::dm_bufio_client>, blocks: u64) -> Self {
        // INVARIANT: By the function's requirements.
        Self { client, blocks }
    }

    /// How many blocks may be read.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Looks at a block. `look` must neither sleep for long nor come back here. May sleep.
    ///
    /// What is in the block may be anything. No transaction may be changing it.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when there is no such block, `EIO`, and what `look` says.
    pub(super) fn look<R>(
        &self,
        block: u64,
        look: impl FnOnce(Bytes<'_>) -> Result<R>,
    ) -> Result<R> {
        if block >= self.blocks {
            return Err(corrupt());
        }
        let mut buffer = core::ptr::null_mut();
        // SAFETY: The client is there by the type's invariants, and `buffer` can be written.
        let data = from_err_ptr(unsafe {
            bindings::dm_bufio_read(self.client.as_ptr(), block, &mut buffer)
        })?;
        // SAFETY: It was just read, and is not used again.
        unsafe { Self::with(data, buffer, look) }
    }

    /// As [`Cache::look`], of a block that is in memory and that the library has read there or made;
    /// `None` if it is not. So its checksum was right, and it is given one when it is written.
    ///
    /// # Errors
    ///
    /// As for [`Cache::look`].
    pub(super) fn look_again<R>(
        &self,
        block: u64,
        look: impl FnOnce(Bytes<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.get(block, |bytes, _| look(bytes))
    }

    /// A block that is in memory, and what bufio calls it.
    fn get<R>(
        &self,
        block: u64,
        look: impl FnOnce(Bytes<'_>, *mut bindings::dm_buffer) -> Result<R>,
    ) -> Result<Option<R>> {
        if block >= self.blocks {
            return Err(corrupt());
        }
        let mut buffer = core::ptr::null_mut();
        // SAFETY: The client is there by the type's invariants, and `buffer` can be written.
        let data: *mut c_void = from_err_ptr(unsafe {
            bindings::dm_bufio_get(self.client.as_ptr(), block, &mut buffer)
        })?;
        if data.is_null() {
            return Ok(None);
        }
        // SAFETY: It is held, and a block manager's.
        if !unsafe { bindings::dm_rs_buffer_is_validated(buffer) } {
            // SAFETY: It was got above, and nothing refers to it any more.
            unsafe { bindings::dm_bufio_release(buffer) };
            return Ok(None);
        }
        // SAFETY: It was just got, and is not used again.
        unsafe { Self::with(data, buffer, |bytes| look(bytes, buffer)) }.map(Some)
    }

    /// As [`Cache::look_again`], of a block that the running transaction has made, to change it. It
    /// is written with the transaction.
    ///
    /// # Safety
    ///
    /// It must be such a block, and nobody else may be using the transaction.
    ///
    /// # Errors
    ///
    /// As for [`Cache::look`].
    pub(super) unsafe fn change<R>(
        &self,
        block: u64,
        change: impl FnOnce(BytesMut<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.get(block, |bytes, buffer| {
            let result = change(BytesMut(bytes));
            // SAFETY: It is held.
            unsafe { bindings::dm_bufio_mark_buffer_dirty(buffer) };
            result
        })
    }

    /// # Safety
    ///
    /// `buffer`, with `data` in it, must be held, and is let go.
    unsafe fn with<R>(
        data: *mut c_void,
        buffer: *mut bindings::dm_buffer,
        look: impl FnOnce(Bytes<'_>) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: The buffer has that size and is ours to be read until it is released.
        let result = look(Bytes(unsafe { &*data.cast() }));
        // SAFETY: It was got above, and nothing refers to it any more.
        unsafe { bindings::dm_bufio_release(buffer) };
        result
    }
}

impl<'a> Bytes<'a> {
    fn cells(self, at: usize, len: usize) -> Result<&'a [core::cell::UnsafeCell<u8>]> {
        at.checked_add(len)
            .and_then(|end| self.0.get(at..end))
            .ok_or_else(corrupt)
    }

    /// A number as it stands there, wherever that is.
    fn number<const N: usize>(self, at: usize) -> Result<[u8; N]> {
        // SAFETY: So many bytes can be read, and any are a number. A race with who sets checksum or
        // number makes it the old or the new one, either of which is as good as the other.
        Ok(unsafe {
            self.cells(at, N)?
                .as_ptr()
                .cast::<[u8; N]>()
                .read_volatile()
        })
    }

    /// A number of the block.
    pub(super) fn le32(self, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number(at)?))
    }

    /// As [`Bytes::le32`], of twice the size.
    pub(super) fn le64(self, at: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(self.number(at)?))
    }

    /// Whether it says that it is block `number`, and its checksum, which is mixed with `xor`, is
    /// right.
    pub(super) fn check(self, number: u64, number_at: usize, xor: u32) -> Result {
        const COVERED: usize = 4;
        // SAFETY: So many bytes can be read.
        let sum = unsafe {
            bindings::dm_bm_checksum(
                self.0.as_ptr().cast::<u8>().add(COVERED).cast(),
                BLOCK_SIZE - COVERED,
                xor,
            )
        };
        if self.le32(0)? == sum && self.le64(number_at)? == number {
            Ok(())
        } else {
            Err(corrupt())
        }
    }
}

impl<'a> BytesMut<'a> {
    /// What it is now.
    pub(super) fn bytes(&self) -> Bytes<'a> {
        self.0
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// `EILSEQ` when they do not fit; then nothing is written.
    pub(super) fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Result {
        let cells = self.0.cells(at, N)?;
        let to = core::cell::UnsafeCell::raw_get(cells.as_ptr());
        // SAFETY: There is room for them in the block, which nobody else changes.
        unsafe { to.cast::<[u8; N]>().write(bytes) };
        Ok(())
    }

    /// Moves `len` bytes from one place to another.
    ///
    /// # Errors
    ///
    /// As for [`BytesMut::put`].
    pub(super) fn shift(&mut self, from: usize, to: usize, len: usize) -> Result {
        let (from, to) = (self.0.cells(from, len)?, self.0.cells(to, len)?);
        // SAFETY: Both are bytes of the block, which nobody else changes; they may overlap.
        unsafe {
            core::ptr::copy(
                core::cell::UnsafeCell::raw_get(from.as_ptr()),
                core::cell::UnsafeCell::raw_get(to.as_ptr()),
                len,
            )
        };
        Ok(())
    }
}
