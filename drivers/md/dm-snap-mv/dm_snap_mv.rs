// SPDX-License-Identifier: GPL-2.0

//! Multi-version snapshots of existing block devices.
//!
//! A device-mapper target that takes many writable snapshots, and snapshots of snapshots, of block
//! devices that are in use, in place, into one shared copy-on-write device.
//!
//! * [`target`]: device-mapper's callbacks;
//! * [`device`]: one mapped device, an origin or a snapshot: where a bio goes;
//! * [`store`]: one COW device: records, space, commits, copies, cleaning, rollback;
//! * [`model`]: every decision, as pure functions, shared with userspace;
//! * [`dm`]: safe wrappers over the kernel; with [`bindings`] the only place of `unsafe`.
//!
//! Calls go one way: target, device, store, dm. `model` is called by all and calls none.

use dm::freeze::Freezer;
use dm::target::{Registration, TargetType};
use kernel::prelude::*;
use target::SnapMv;

mod bindings;
#[allow(dead_code)]
mod dm;

#[deny(unsafe_code)]
mod device;
#[deny(unsafe_code)]
mod model;
#[deny(unsafe_code)]
mod store;
#[deny(unsafe_code)]
mod target;

module! {
    type: Module,
    name: "dm_snap_mv",
    authors: ["The dm-snap-mv developers"],
    description: "device-mapper multi-version snapshots",
    license: "GPL",
    // As device-mapper asks for it when a table names a target that it does not know.
    alias: ["dm-dm-snap-mv"],
}

static TARGET: TargetType<SnapMv> = TargetType::new();

/// The module: as long as it lives, the target can be used in tables.
struct Module {
    _target: Registration<SnapMv>,
    /// Goes after the last table has.
    _freezer: Freezer,
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let freezer = Freezer::new()?;
        Ok(Self {
            _target: Registration::new(&TARGET, module)?,
            _freezer: freezer,
        })
    }
}
