// SPDX-License-Identifier: GPL-2.0

//! Multi-version snapshots of existing block devices.

use kernel::prelude::*;

module! {
    type: SnapMv,
    name: "dm_snap_mv",
    authors: ["The dm-snap-mv developers"],
    description: "device-mapper multi-version snapshots",
    license: "GPL",
}

mod bindings;

struct SnapMv;

impl kernel::Module for SnapMv {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let shift = bindings::sector_shift();
        let size = core::mem::size_of::<bindings::target_type>();
        pr_info!("loaded: sector shift {shift}, target_type {size} bytes\n");
        Ok(SnapMv)
    }
}

impl Drop for SnapMv {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}
