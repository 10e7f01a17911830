// SPDX-License-Identifier: GPL-2.0
//! Reads a store of dm-snap-mv from its COW device, without the kernel's help: one that no active
//! table uses, one that the kernel is changing meanwhile ([`live`]), and what the kernel has written,
//! for programs that check it.
//!
//! What the fields of blocks and rows mean is the model's business; here are the blocks
//! themselves, the nodes of the B-trees and the ways through them. Who repairs a store finds here
//! how blocks are made and written, too, and who finds none, what is there instead.

#![forbid(unsafe_code)]

mod ahead;
pub mod block;
pub mod btree;
pub mod checksum;
pub mod delta;
pub mod entries;
pub mod error;
pub mod journal;
pub mod layers;
pub mod live;
pub mod node;
pub mod overlay;
pub mod runs;
pub mod signature;
pub mod space;
pub mod store;
pub mod version;

pub use block::{Block, Blocks, Device, DevicePlace, WritableBlocks, BLOCK_SIZE};
pub use delta::{Changed, Delta};
pub use error::{Error, Result};
pub use live::Live;
pub use store::Store;
