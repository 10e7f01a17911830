// SPDX-License-Identifier: GPL-2.0
//! `dms snapshot`

use super::{print, tag};
use crate::cli::Snapshot;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use dm_snap_mv_model::message;
use nix::sys::mman::{mlockall, MlockAllFlags};
use std::os::unix::ffi::OsStrExt;

pub fn run(args: &Snapshot) -> Result<()> {
    let tag = args.tag.as_deref().map(tag).transpose()?;
    let memo = args
        .memo
        .as_deref()
        .map(OsStrExt::as_bytes)
        .unwrap_or_default();
    message::parse_memo(memo).map_err(hints::failure)?;

    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let (what, frozen) = match tag {
        None => (device.name.clone(), dm.origin_of(&device)?),
        Some(tag) => (
            format!("snapshot {tag} of {}", device.name),
            dm.snapshot_of(&device, tag)?,
        ),
    };
    let number = tag.map(|tag| tag.to_string());
    let mut words: Vec<&[u8]> = match &number {
        None => vec![b"so"],
        Some(number) => vec![b"ss", number.as_bytes()],
    };
    if !memo.is_empty() {
        words.extend([b"-m", memo]);
    }

    // Whatever happens from here on, the device must be resumed.
    let interrupt = Interrupt::watch()?;
    let frozen = match frozen {
        Some(frozen) => Frozen::new(&dm, frozen)?,
        None => None,
    };
    let reply = if interrupt.came() {
        Err(Failure::new(
            Kind::Interrupted,
            "interrupted before the snapshot was taken",
        ))
    } else {
        dm.tell(&device.name, &words)
            .and_then(|reply| reply.done(&format!("cannot take a snapshot of {what}")))
    };
    let thawed = frozen.map_or(Ok(()), Frozen::thaw);
    let reply = String::from_utf8_lossy(&reply?).into_owned();
    // It may lead to a file on the device that was frozen.
    print(&format!("{}\n", reply.trim()))?;
    thawed
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
        if dm.state(&device.name)?.suspended {
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
