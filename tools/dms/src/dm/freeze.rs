// SPDX-License-Identifier: GPL-2.0
//! Holding a device still for a moment.

use super::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::{Held, Interrupt};
use nix::sys::mman::{mlockall, MlockAllFlags};

/// Does something while `device`, if there is one, is suspended and the file system on it
/// frozen. Gives what came of it, and whether the device was resumed. No signal ends the
/// program in the meantime; one that asks for that before `act` begins has it not begin.
pub fn around<T>(
    dm: &Dm,
    device: Option<Mapped>,
    interrupt: &Interrupt,
    act: impl FnOnce() -> Result<T>,
) -> Result<(Result<T>, Result<()>)> {
    let frozen = match device {
        Some(device) => Frozen::new(dm, device, interrupt)?,
        None => None,
    };
    let done = match interrupt.came() {
        false => act(),
        true => Err(Failure::new(
            Kind::Interrupted,
            "interrupted before anything was done",
        )),
    };
    Ok((done, frozen.map_or(Ok(()), Frozen::thaw)))
}

/// A device that is suspended, and with it frozen the file system on it.
struct Frozen<'a> {
    dm: &'a Dm,
    name: String,
    /// There is nothing left to do.
    thawed: bool,
    /// Given up last.
    _held: Held,
}

impl<'a> Frozen<'a> {
    /// Suspends `device`, unless somebody has done that before.
    fn new(dm: &'a Dm, device: Mapped, interrupt: &Interrupt) -> Result<Option<Self>> {
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
            _held: interrupt.hold()?,
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
