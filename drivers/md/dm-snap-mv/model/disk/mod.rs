// SPDX-License-Identifier: GPL-2.0

//! What stands in the blocks of a COW device: everything little-endian, nothing trusted.
//!
//! A decoder accepts exactly what its encoder can have written. It refuses unknown flags and
//! reserved bytes that are not 0, so that these can get a meaning later.

pub mod bytes;
pub mod cleaning_row;
pub mod identity;
pub mod journal;
pub mod label_row;
pub mod layout;
pub mod origin_ids;
pub mod origin_row;
pub mod snapshot_row;
pub mod superblock;
pub mod telling;
