// SPDX-License-Identifier: GPL-2.0

//! The block that says which state is the current one.

use crate::bindings;
use kernel::prelude::*;

/// What the checksum is mixed with, so that no other block passes for a superblock.
const CSUM_XOR: u32 = 0x6d76_2153;

/// Where the number of the block stands.
const BLOCKNR: core::ops::Range<usize> = 8..16;

/// The checksum of a superblock, of which `data` is all that follows the checksum itself. Any
/// context.
pub(crate) fn checksum(data: &[u8]) -> u32 {
    checksum_with(data, CSUM_XOR)
}

/// As [`checksum`], of a kind of block that is told from others by `xor`. Any context.
pub(crate) fn checksum_with(data: &[u8], xor: u32) -> u32 {
    // SAFETY: It reads that many bytes.
    unsafe { bindings::dm_bm_checksum(data.as_ptr().cast(), data.len(), xor) }
}

/// A validator, which is only read.
#[repr(transparent)]
pub(super) struct Validator(bindings::dm_block_validator);

// SAFETY: Nobody changes it, and the name is a static.
unsafe impl Sync for Validator {}

impl Validator {
    /// What C calls it.
    pub(super) fn as_raw(&'static self) -> *const bindings::dm_block_validator {
        &raw const self.0
    }
}

/// Checks superblocks when they are read, and completes them when they are written.
pub(super) static VALIDATOR: Validator = Validator(bindings::dm_block_validator {
    name: kernel::str::as_char_ptr_in_const_context(c"superblock"),
    prepare_for_write: Some(prepare_for_write),
    check: Some(check),
});

/// # Safety
///
/// `block` must be held, and its data be `size` bytes.
unsafe extern "C" fn prepare_for_write(
    _validator: *const bindings::dm_block_validator,
    block: *mut bindings::dm_block,
    size: usize,
) {
    // SAFETY: By the function's requirements; who writes the block does not use it meanwhile.
    let (data, nr) = unsafe {
        let data: *mut u8 = bindings::dm_block_data(block).cast();
        (
            core::slice::from_raw_parts_mut(data, size),
            bindings::dm_block_location(block),
        )
    };
    if let Some(field) = data.get_mut(BLOCKNR) {
        field.copy_from_slice(&nr.to_le_bytes());
    }
    if let Some((field, rest)) = data.split_first_chunk_mut::<4>() {
        *field = checksum(rest).to_le_bytes();
    }
}

/// # Safety
///
/// `block` must be held, and its data be `size` bytes.
unsafe extern "C" fn check(
    _validator: *const bindings::dm_block_validator,
    block: *mut bindings::dm_block,
    size: usize,
) -> c_int {
    // SAFETY: By the function's requirements; nobody changes it meanwhile.
    let (data, nr) = unsafe {
        let data: *const u8 = bindings::dm_block_data(block).cast();
        (
            core::slice::from_raw_parts(data, size),
            bindings::dm_block_location(block),
        )
    };
    if data.get(BLOCKNR) != Some(nr.to_le_bytes().as_slice()) {
        return -(bindings::ENOTBLK as c_int);
    }
    match data.split_first_chunk::<4>() {
        Some((field, rest)) if u32::from_le_bytes(*field) == checksum(rest) => 0,
        _ => -(bindings::EILSEQ as c_int),
    }
}
