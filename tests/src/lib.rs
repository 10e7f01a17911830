// SPDX-License-Identifier: GPL-2.0

//! Tests that run as root in a virtual machine, against the module.
//!
//! A subject is a file under `subjects/`; `dms-tests SUBJECT...` runs its cases and prints
//! `ok SUBJECT: CASE` or `not ok SUBJECT: CASE: WHY` for each. Whatever the target holds is
//! compared with full copies (see [`content`] and [`shadow`]).

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod checked;
pub mod content;
pub mod counts;
pub mod damage;
pub mod disks;
pub mod dm;
pub mod effort;
pub mod faults;
pub mod io;
pub mod kernel;
pub mod null_block;
pub mod puppet;
pub mod random;
pub mod report;
pub mod shadow;
pub mod store;
pub mod subjects;
pub mod sys;
pub mod tape;
pub mod time;
pub mod world;
