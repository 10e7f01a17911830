// SPDX-License-Identifier: GPL-2.0
//! Keeping in step with udev, which makes and removes nodes and links in its own time.
//!
//! Two ioctls take a cookie that udev answers when it is through; the devicemapper crate knows
//! how that goes. It can be used only where udev runs.

use devicemapper::{errors, DevId, DmError, DmName, DmOptions, DmResult, DM};
use nix::errno::Errno;
use std::path::Path;

/// Whether udev takes care of nodes. `DM_DISABLE_UDEV` is what libdevmapper goes by too.
pub fn runs() -> bool {
    std::env::var_os("DM_DISABLE_UDEV").is_none() && Path::new("/run/udev/control").exists()
}

/// Resumes a device, and returns when udev knows it.
pub fn resume(name: &str) -> Result<(), Errno> {
    with(name, |dm, id| {
        dm.device_suspend(id, DmOptions::default()).map(drop)
    })
}

/// Removes a device, and returns when udev has forgotten it.
pub fn remove(name: &str) -> Result<(), Errno> {
    with(name, |dm, id| {
        dm.device_remove(id, DmOptions::default()).map(drop)
    })
}

fn with(name: &str, call: impl Fn(&DM, &DevId<'_>) -> DmResult<()>) -> Result<(), Errno> {
    let name = DmName::new(name).map_err(|_| Errno::EINVAL)?;
    DM::new()
        .and_then(|dm| call(&dm, &DevId::Name(name)))
        .or_else(|e| match e {
            DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => Err(*errno),
            // The ioctl is done, and udev did not answer.
            DmError::Core(errors::Error::UdevSync(_)) => Ok(()),
            _ => Err(Errno::EIO),
        })
}
