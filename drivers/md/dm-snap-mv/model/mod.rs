// SPDX-License-Identifier: GPL-2.0

//! Every decision of the target, as pure functions.
//!
//! Nothing here touches a device, a lock or the kernel, allocates, or panics: what is known comes
//! in through [`records::Metadata`] and plain values, what is to be done goes out the same way. The
//! same files are compiled into the kernel module and into a userspace library, where they are
//! tested against full copies of every version, and used by `dms`.
//!
//! All functions that take a [`records::Metadata`] may sleep, because an implementation may read
//! blocks. The caller holds whatever lock makes the metadata stand still, and decides where one
//! transaction ends and the next begins; what must be durable before what is said at each function.

// Shared with a library crate, where all of this is public; the module uses what it needs of it.
#![allow(unreachable_pub, dead_code)]
#![forbid(unsafe_code)]

pub mod batch;
pub mod chain;
pub mod chunk_size;
pub mod clean;
pub mod delta;
pub mod discard;
pub mod disk;
pub mod escape;
pub mod ids;
pub mod label;
pub mod leaves;
pub mod list;
pub mod lookup;
pub mod message;
pub mod options;
pub mod preserve;
pub mod record_key;
pub mod records;
pub mod refusal;
pub mod report;
pub mod resolve;
pub mod rollback;
pub mod room;
pub mod table;
pub mod uuid;
pub mod versions;
pub mod write;
