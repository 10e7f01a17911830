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
//! Nothing that is read is trusted. The library checks of each block its checksum, its place, and
//! that what its header claims fits into it. What it takes on trust, that all nodes of a tree have
//! the form that it gives them, and that no two ways lead to one block, is checked here, of each
//! block before it is first used: see [`verify`] and [`trust`]. So metadata that were made with
//! intent end in errors too.

use crate::bindings;
use kernel::prelude::*;

pub(crate) mod btree;
mod cache;
pub(crate) mod leaf_tree;
mod node;
pub(crate) mod space_map;
pub(crate) mod superblock;
pub(crate) mod transaction;
mod trust;
mod verify;

pub(crate) use btree::{BTree, Value};
pub(crate) use leaf_tree::LeafTree;
pub(crate) use space_map::DiskSpaceMap;
pub(crate) use superblock::{checksum, checksum_with};
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
