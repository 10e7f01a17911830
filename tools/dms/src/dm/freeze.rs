// SPDX-License-Identifier: GPL-2.0
//! Holding a device still for a moment.

use super::{Dm, Mapped};
use crate::failure::Result;
use nix::sys::mman::{mlockall, MlockAllFlags};

/// Does something while `device`, if there is one, is suspended and the file system on it
/// frozen. Gives what came of it, and whether the device was resumed. The caller takes care
/// that no signal ends the program in the meantime.
pub fn around<T>(
    dm: &Dm,
    device: Option<Mapped>,
    act: impl FnOnce() -> Result<T>,
) -> Result<(Result<T>, Result<()>)> {
    let frozen = match device {
        Some(device) => Frozen::new(dm, device)?,
        None => None,
    };
    let done = act();
    Ok((done, frozen.map_or(Ok(()), Frozen::thaw)))
}

/// A device that is suspended, and with it frozen the file system on it.
struct Frozen<'a> {
    dm: &'a Dm,
    name: String,
    /// There is nothing left to do.
    thawed: bool,
}

impl<'a> Frozen<'a> {
    /// Suspends `device`, unless somebody has done that before.
    fn new(dm: &'a Dm, device: Mapped) -> Result<Option<Self>> {
        if dm.info(&device.name)?.suspended {
            return Ok(None);
        }
        // This program may have been read from that very device: what is still needed of it
        // must be in memory before.
        let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
        let frozen = Self {
            dm,
            name: device.name,
            thawed: false,
        };
        dm.suspend(&frozen.name)?;
        Ok(Some(frozen))
    }

    fn resume(&mut self) -> Result<()> {
        self.thawed = true;
        self.dm.resume(&self.name).map_err(|failure| {
            failure.hint(format!(
                "writes to it hang until it is resumed: dmsetup resume {}",
                self.name
            ))
        })
    }

    fn thaw(mut self) -> Result<()> {
        self.resume()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            let _ = self.resume();
        }
    }
}
