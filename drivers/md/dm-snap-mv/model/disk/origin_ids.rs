// SPDX-License-Identifier: GPL-2.0

//! Keys of the tree that finds an origin's number by its id.
//!
//! An id is found by its CRC-32C. Ids that share one stand one behind the other, perhaps with gaps
//! where one was removed; each candidate's id is compared with the one in its row.

/// First and last key under which an id with this CRC-32C can stand.
pub const fn keys(crc: u32) -> (u64, u64) {
    let first = (crc as u64) << 32;
    (first, first | u32::MAX as u64)
}
