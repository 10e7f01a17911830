// SPDX-License-Identifier: GPL-2.0
//! The checksum on every metadata block.

use crate::block::Block;

/// CRC-32C with a seed of all ones and no final inversion: what the kernel's
/// `dm_bm_checksum` starts from, before each kind of block XORs a number of its own in.
pub fn crc32c_raw(data: &[u8]) -> u32 {
    !crc32c::crc32c(data)
}

/// The checksum that belongs into the first four bytes of `block`.
pub fn of_block(block: &Block, xor: u32) -> u32 {
    let (_, covered) = block.0.split_at(4);
    crc32c_raw(covered) ^ xor
}
