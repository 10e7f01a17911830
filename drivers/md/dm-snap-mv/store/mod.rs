// SPDX-License-Identifier: GPL-2.0

//! One COW device and what is kept in it.
//!
//! * [`store`]: what its devices share; [`registry`]: which stores are open;
//! * [`roles`]: what block devices are to them, one thing at a time; [`identity`]: which disk that was;
//! * [`open`]: opening and formatting; [`attach`]: devices come and go;
//! * [`engine`]: the worker's turns; [`job`]: what a bio carries along;
//! * [`preserve`], [`noting`], [`discard`]: writes and discards of an origin; [`access`], [`zeroing`]: reads and writes of a snapshot;
//! * [`merge`], [`merge_copy`]: rollback in the background; [`cleaner`]: deletion in the background;
//! * [`failure`]: when the metadata cannot be changed any more;
//! * [`control`]: messages; [`freeze`]: file systems that are frozen for them;
//! * [`listing`], [`delta`]: what `list` and `delta` reply; [`publish`]: what status says;
//! * [`metadata`], [`trees`], [`records`], [`rows`]: B-trees and space maps; [`journal`]: what they do not say yet;
//! * [`allocator`]: space for data;
//! * [`origin`], [`snapshot`]: what is active; [`error`]: refusals and failures.

mod access;
mod allocator;
mod attach;
mod cleaner;
mod control;
mod delta;
mod discard;
mod distrust;
mod engine;
pub(crate) mod error;
mod failure;
mod freeze;
mod identity;
pub(crate) mod job;
mod journal;
mod listing;
mod merge;
mod merge_copy;
mod metadata;
mod noting;
mod open;
mod origin;
mod preserve;
mod publish;
mod records;
mod registry;
pub(crate) mod roles;
mod room;
mod rows;
mod snapshot;
#[allow(clippy::module_inception)]
mod store;
mod trees;
mod zeroing;

pub(crate) use attach::{OriginHandle, SnapshotHandle};
pub(crate) use open::refuse_store;
pub(crate) use origin::{InForce, Origin};
pub(crate) use registry::StoreHandle;
pub(crate) use snapshot::Snapshot;
pub(crate) use store::Store;
