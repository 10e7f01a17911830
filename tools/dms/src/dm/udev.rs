// SPDX-License-Identifier: GPL-2.0
//! Keeping in step with udev, which makes and removes nodes and links in its own time.
//!
//! Three ioctls take a cookie that udev answers when it is through; the devicemapper crate knows
//! how that goes. It can be used only where udev runs.

use devicemapper::{errors, DevId, DmError, DmName, DmOptions, DmResult, DmUdevFlags, DmUuid, DM};
use nix::errno::Errno;
use std::path::Path;

/// Whether udev takes care of nodes. `DM_DISABLE_UDEV` is what libdevmapper goes by too.
pub fn runs() -> bool {
    std::env::var_os("DM_DISABLE_UDEV").is_none() && Path::new("/run/udev/control").exists()
}

/// What udev's rules are told of a device.
pub fn flags(is_copy: bool) -> DmUdevFlags {
    match is_copy {
        // As LVM does for its snapshots: links that lead to what is on a device by its UUID or
        // label stay with whatever else has them.
        true => DmUdevFlags::DM_UDEV_LOW_PRIORITY_FLAG,
        false => DmUdevFlags::empty(),
    }
}

/// What they are told of one that is there for this program alone.
pub fn private() -> DmUdevFlags {
    flags(true)
        | DmUdevFlags::DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
        | DmUdevFlags::DM_UDEV_DISABLE_DISK_RULES_FLAG
        | DmUdevFlags::DM_UDEV_DISABLE_OTHER_RULES_FLAG
}

/// Resumes a device, and returns when udev knows it. `None` if there could be no keeping in
/// step: then nobody knows whether the device was resumed.
pub fn resume(name: &str, flags: DmUdevFlags) -> Option<Result<(), Errno>> {
    with(name, |dm, id| {
        let options = DmOptions::default().set_udev_flags(flags);
        dm.device_suspend(id, options).map(drop)
    })
}

/// Removes a device, and returns when udev has forgotten it. `None` as with [`resume`].
pub fn remove(name: &str) -> Option<Result<(), Errno>> {
    with(name, |dm, id| {
        dm.device_remove(id, DmOptions::default()).map(drop)
    })
}

/// Gives a device a UUID that has none, and returns when udev knows it. `None` as with [`resume`].
pub fn set_uuid(name: &str, uuid: &str) -> Option<Result<(), Errno>> {
    let Ok(uuid) = DmUuid::new(uuid) else {
        return Some(Err(Errno::EINVAL));
    };
    with(name, |dm, id| match id {
        DevId::Name(name) => dm.device_rename(name, &DevId::Uuid(uuid)).map(drop),
        DevId::Uuid(_) => Ok(()),
    })
}

fn with(name: &str, call: impl Fn(&DM, &DevId<'_>) -> DmResult<()>) -> Option<Result<(), Errno>> {
    let Ok(name) = DmName::new(name) else {
        return Some(Err(Errno::EINVAL));
    };
    told(DM::new().and_then(|dm| call(&dm, &DevId::Name(name))))
}

/// What is known of an ioctl from what the crate says of it.
fn told(result: DmResult<()>) -> Option<Result<(), Errno>> {
    Some(match result {
        Ok(()) => Ok(()),
        Err(DmError::Core(errors::Error::Ioctl(_, _, _, errno))) => Err(*errno),
        // Either the ioctl is done, and udev did not answer or a signal ended the waiting; or
        // no cookie could be had, and there was no ioctl at all.
        Err(DmError::Core(errors::Error::UdevSync(_))) => return None,
        Err(_) => Err(Errno::EIO),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_udev_nothing_is_known() {
        let error = |e| Err(DmError::Core(e));
        assert_eq!(told(Ok(())), Some(Ok(())));
        assert_eq!(told(error(errors::Error::UdevSync("no".into()))), None);
        let ioctl = errors::Error::Ioctl(4, None, None, Box::new(Errno::EBUSY));
        assert_eq!(told(error(ioctl)), Some(Err(Errno::EBUSY)));
        let other = errors::Error::ContextInit("no".into());
        assert_eq!(told(error(other)), Some(Err(Errno::EIO)));
    }
}
