// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers over device-mapper and what its targets are made of.
//!
//! All of the module's `unsafe` lives here and in [`crate::bindings`]: no safe call into these
//! rooms can cause undefined behaviour, whatever the caller does. Misuse ends in an error, in an
//! I/O error, or in a wait that does not end.
//!
//! They are what a target can want rather than what this one wants: not all of it is used here.
//!
//! * [`target`], [`callbacks`]: what a target does, and its registration; how C calls it;
//! * [`table`]: what a constructor sets up and what a callback may ask its instance;
//! * [`event`]: a handle to a table that outlives it, for events;
//! * [`freeze`]: freezing the file system on a mapped device;
//! * [`limits`], [`text`]: queue limits; what status and messages answer;
//! * [`bio`], [`action`], [`bio_list`], [`bio_set`], [`status`]: bios that a target owns;
//! * [`shortcut`]: bios that it only directs elsewhere;
//! * [`block_device`], [`io`], [`kcopyd`]: devices, synchronous I/O, copying;
//! * [`stack`]: how devices lie on one another;
//! * [`gate`], [`irq_lock`], [`range_lock`]: who may pass, who must wait;
//! * [`number_set`]: what is known of many numbers, asked without a lock;
//! * [`worker`], [`noio`], [`plug`], [`time`]: where, when and how work is done;
//! * [`global`]: what there is once for the module;
//! * [`pdata`]: persistent-data, transactions, B-trees and space maps.

#![deny(unsafe_op_in_unsafe_fn)]

pub(crate) mod action;
pub(crate) mod bio;
pub(crate) mod bio_list;
pub(crate) mod bio_set;
pub(crate) mod block_device;
mod callbacks;
pub(crate) mod event;
pub(crate) mod freeze;
pub(crate) mod gate;
pub(crate) mod global;
pub(crate) mod io;
pub(crate) mod irq_lock;
pub(crate) mod kcopyd;
pub(crate) mod limits;
pub(crate) mod noio;
pub(crate) mod number_set;
pub(crate) mod pdata;
pub(crate) mod plug;
pub(crate) mod range_lock;
pub(crate) mod shortcut;
pub(crate) mod stack;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod target;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod worker;
