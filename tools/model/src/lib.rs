// SPDX-License-Identifier: GPL-2.0

//! The decisions of the dm-snap-mv target, outside the kernel.
//!
//! The very files the module is compiled from, for tests and for `dms`.

#![no_std]

#[path = "../../../drivers/md/dm-snap-mv/model/mod.rs"]
mod model;

pub use model::*;
