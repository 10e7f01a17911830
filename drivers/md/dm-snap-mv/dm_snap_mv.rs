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

#[allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#[allow(non_upper_case_globals, non_snake_case, improper_ctypes)]
#[allow(unused_imports, unsafe_op_in_unsafe_fn, clippy::all, clippy::undocumented_unsafe_blocks)]
mod bindings {
    include!("bindings/generated.rs");
}

extern "C" {
    fn dm_snap_mv_shim_sector_shift() -> u32;
}

struct SnapMv;

impl kernel::Module for SnapMv {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Takes nothing and reads a constant.
        let shift = unsafe { dm_snap_mv_shim_sector_shift() };
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
