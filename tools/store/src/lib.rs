// SPDX-License-Identifier: GPL-2.0
//! Reads a store of dm-snap-mv from its COW device, without the kernel's help: for a device
//! that no active table uses, and for programs that check what the kernel has written.
//!
//! What the fields of blocks and rows mean is the model's business; here are the blocks
//! themselves, the nodes of the B-trees and the ways through them. Who repairs a store finds here
//! how blocks are made and written, too, and who finds none, what is there instead.

#![forbid(unsafe_code)]

pub mod block;
pub mod btree;
pub mod checksum;
pub mod error;
pub mod journal;
pub mod node;
pub mod signature;
pub mod space;
pub mod store;

pub use block::{Block, Blocks, Device, DevicePlace, WritableBlocks, BLOCK_SIZE};
pub use error::{Error, Result};
pub use store::Store;
