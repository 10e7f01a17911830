// SPDX-License-Identifier: GPL-2.0
//! The `dms` command: snapshots of block devices, in place, with the dm-snap-mv target.

#![deny(unsafe_code)]

pub mod ahead;
pub mod cli;
pub mod clones;
pub mod commands;
pub mod complete;
pub mod devno;
pub mod dm;
pub mod docs;
pub mod failure;
pub mod fields;
mod folder;
pub mod hints;
pub mod interrupt;
mod label;
mod lent;
pub mod list;
pub mod loops;
pub mod lvm;
pub mod names;
pub mod nbd;
pub mod peer;
pub mod plan;
mod private;
pub mod progress;
pub mod ranges;
pub mod reading;
pub mod replica;
pub mod reply;
pub mod sender;
pub mod shared;
pub mod show;
pub mod stack;
pub mod status;
pub mod streams;
pub mod syncs;
pub mod sysfs;
pub mod target;
pub mod thing;
mod turn;
pub mod unchanged;
pub mod words;
