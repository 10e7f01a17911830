// SPDX-License-Identifier: GPL-2.0

//! persistent-data: metadata on a device, changed in transactions.
//!
//! A [`Transaction`](transaction::Transaction) is all that has been changed since the last commit.
//! Blocks that the last commit refers to are never overwritten, so what is on the device is always
//! a whole state, until the superblock says that a new one is. What fails in the middle of a change
//! leaves the transaction damaged: it must not be committed, but be given up and opened again.
//!
//! All functions here sleep: they read from the device, and wait for it to write. None may be
//! called from an interrupt. Reading takes a `&Transaction`, and many threads may do so at once;
//! changing takes a `&mut Transaction`.
//!
//! Everything that is read is checked by the library, as far as the library goes: each block for
//! its checksum, its place, and that what its header claims fits into it. What the library takes
//! on trust, that the values of a B-tree have the size that its user thinks, is checked here when a
//! tree is opened, along the path to its first leaf. (So what is not found out is metadata made with
//! intent: checksums are right, but a block elsewhere in a tree is of another tree, or its own child.)

use crate::bindings;
use kernel::prelude::*;

pub(crate) mod btree;
pub(crate) mod cursor;
pub(crate) mod space_map;
pub(crate) mod superblock;
pub(crate) mod transaction;

pub(crate) use btree::{BTree, Value};
pub(crate) use space_map::DiskSpaceMap;
pub(crate) use superblock::checksum;
pub(crate) use transaction::Transaction;

/// The size of a metadata block in bytes.
pub(crate) const BLOCK_SIZE: usize = 4096;

/// The size of a metadata block in sectors.
pub(crate) const BLOCK_SECTORS: u64 = 8;

/// The room for the root of a space map in the superblock, in bytes.
pub(crate) const ROOT_SIZE: usize = 128;

/// What was read cannot be what was written (`EILSEQ`, as the library says).
fn corrupt() -> Error {
    Error::from_errno(-(bindings::EILSEQ as c_int))
}
