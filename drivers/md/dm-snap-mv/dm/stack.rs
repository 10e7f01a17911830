// SPDX-License-Identifier: GPL-2.0

//! How block devices lie on one another, as sysfs shows it in `holders` and `slaves`.
//!
//! That is what device-mapper, md and their like tell the block layer. A loop device does not: what is
//! below it cannot be seen from here.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::block_device::{BlockDevice, Dev};
use super::global::Global;
use crate::bindings;
use kernel::{error::to_result, fmt, prelude::*};

/// How many neighbours there is room for at first.
const USUAL: usize = 8;

/// Layers that are looked through.
const MAX_LAYERS: u32 = 32;

/// The disks that have claimed a device and lie on it: device-mapper's devices, or one of another kind.
/// Process context; sleeps while somebody opens or closes the device's disk.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn holders(of: &BlockDevice) -> Result<KVec<Dev>> {
    neighbours(of, true)
}

/// The devices that a device's disk lies on. As [`holders`].
pub(crate) fn slaves(of: &BlockDevice) -> Result<KVec<Dev>> {
    neighbours(of, false)
}

fn neighbours(of: &BlockDevice, above: bool) -> Result<KVec<Dev>> {
    let mut room = USUAL;
    loop {
        let mut found = KVec::from_elem(0, room, GFP_KERNEL)?;
        // SAFETY: The device is open, so it is there. There is room for as many as is said.
        let there = unsafe {
            bindings::dm_rs_bdev_neighbours(of.as_raw(), above, found.as_mut_ptr(), room as u32)
        } as usize;
        if there > room {
            // A few more may have come until then.
            room = there + USUAL;
            continue;
        }
        let mut devs = KVec::with_capacity(there, GFP_KERNEL)?;
        for raw in found.iter().take(there) {
            devs.push(Dev::from_raw(*raw), GFP_KERNEL)?;
        }
        return Ok(devs);
    }
}

/// Looks at what is below a device, layer by layer: itself, the disk that it is a partition of, and what
/// that lies on. A device for which `visit` says `Ok(false)` is not looked through. One that cannot be
/// opened is not looked at. Process context; sleeps, holding none of the devices' locks while `visit`
/// is at work.
///
/// # Errors
///
/// `ENOMEM`, or whatever `visit` ends it with.
pub(crate) fn look_below<E: From<Error> + From<kernel::alloc::AllocError>>(
    device: &BlockDevice,
    mut visit: impl FnMut(&BlockDevice) -> core::result::Result<bool, E>,
) -> core::result::Result<(), E> {
    let mut layer = KVec::new();
    layer.push(device.share(), GFP_KERNEL)?;
    for _ in 0..MAX_LAYERS {
        let mut below = KVec::new();
        for device in &layer {
            if !visit(device)? {
                continue;
            }
            let whole = device.whole();
            let devs = match whole == device.dev() {
                true => slaves(device)?,
                false => {
                    let mut one = KVec::new();
                    one.push(whole, GFP_KERNEL)?;
                    one
                }
            };
            for dev in devs {
                if let Ok(opened) = BlockDevice::open(dev, false) {
                    below.push(opened, GFP_KERNEL)?;
                }
            }
        }
        if below.is_empty() {
            break;
        }
        layer = below;
    }
    Ok(())
}

/// The mapped devices that have tables of this module's targets, once for each table.
static OWN: Global<KVec<Dev>> = Global::new(KVec::new());

/// That a mapped device has a table of this module's.
pub(super) struct Own(Dev);

impl Own {
    /// To be made before the table opens devices, and dropped when it has closed them: so who finds it
    /// above one of those knows it. Process context; sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(dev: Dev) -> Result<Self> {
        OWN.lock().push(dev, GFP_KERNEL)?;
        Ok(Self(dev))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut own = OWN.lock();
        if let Some(index) = own.iter().position(|dev| *dev == self.0) {
            let _ = own.remove(index);
        }
        if own.is_empty() {
            *own = KVec::new();
        }
    }
}

/// Whether the device with this number is a mapped device with a table of this module's. Process
/// context; sleeps. Not while a [`Global`] is locked.
pub(crate) fn is_own(dev: Dev) -> bool {
    OWN.lock().contains(&dev)
}

/// What users call a mapped device.
#[derive(Clone, Copy)]
pub(crate) struct MappedName([u8; MappedName::SIZE]);

impl MappedName {
    const SIZE: usize = bindings::DM_RS_NAME_LEN as usize;

    /// That of the mapped device with this number; `None` if there is none, or it is about to go.
    /// Process context; sleeps.
    pub(crate) fn of(dev: Dev) -> Option<Self> {
        let mut name = [0; Self::SIZE];
        // SAFETY: Any number will do, and there is that much room.
        let told = unsafe { bindings::dm_rs_md_name(dev.as_raw(), name.as_mut_ptr().cast()) };
        to_result(told).ok().map(|()| Self(name))
    }
}

/// For the kernel crate's macros, `pr_info!` and the like.
impl fmt::Display for MappedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        fmt::Display::fmt(kernel::str::BStr::from_bytes(name), f)
    }
}
