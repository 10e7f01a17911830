// SPDX-License-Identifier: GPL-2.0

//! An origin that is bound to a store that others use, for a short while.

use anyhow::{ensure, Context, Result};

use super::counts::{Counts, Kind};
use super::watch::nobody_unbinds;
use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{until, Device, Origin, Store};

/// The origin, while it is bound to no store.
pub(super) struct Guest {
    origin: Origin,
    now: Shadow,
}

impl Guest {
    pub(super) fn new(disks: &Disks) -> Result<Self> {
        let origin = Origin::new(disks, "guest", MIB + 5)?;
        let now = Shadow::filled(&origin.piece.open()?)?;
        Ok(Self { origin, now })
    }

    /// Binds it, uses it, unbinds it.
    pub(super) fn visit(
        &mut self,
        store: &Store,
        random: &mut Random,
        counts: &Counts,
    ) -> Result<()> {
        let bare = nobody_unbinds();
        let co = store.bind(&self.origin)?;
        counts.add(Kind::Bound);
        let tag = co.take()?;
        drop(bare);
        let then = self.now.clone();
        let disk = co.open()?;
        for _ in 0..random.pick(1..6) {
            let (start, count) = random.extent(self.now.sectors());
            self.now.write(&disk, start, count)?;
        }
        drop(disk);
        store.check_snapshot(&self.origin, tag, &then)?;
        self.now.check(&co.open_read_only()?)?;
        ensure!(co.list()?.tags() == [tag], "{:?}", co.list()?);
        let _bare = nobody_unbinds();
        co.delete(tag)?;
        unbind(&co)?;
        counts.add(Kind::Unbound);
        // It is as it was without the target.
        self.now.write(&co.open()?, 3, 64)?;
        co.remove()?;
        self.now.check(&self.origin.piece.open()?)
    }
}

/// Has the store forget an origin without snapshots, once those that it had are cleaned away.
pub(super) fn unbind(co: &Device) -> Result<()> {
    until("unbinding", || match co.message("do") {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(e) => Err(e).context("do"),
    })?;
    let state = co.state()?.state;
    ensure!(state == "unbound", "the state is {state}");
    Ok(())
}

/// The device of an origin that was unbound is there until it is removed, and says why it is of no
/// use.
pub(super) fn unbound(disks: &Disks) -> Result<()> {
    let store = Store::new(disks, 16 * MIB)?;
    let origin = Origin::new(disks, "unbound", MIB)?;
    // Else it may look like the store that was there before.
    origin.piece.wipe()?;
    let co = store.format(&origin, 1)?;
    unbind(&co)?;
    for message in ["list", "so", "ss 1", "ds 1", "rs 1 -b", "rs 1 -l", "do"] {
        co.refused(message, libc::ENODEV, "origin has been unbound")?;
    }
    co.remove()
}
