// SPDX-License-Identifier: GPL-2.0

//! What most cases begin with: an origin full of data, its store, its device, and copies of
//! all that must be remembered.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{Device, Origin, Store};

/// One origin with its store.
pub struct World {
    /// Where everything is recorded.
    pub store: Store,
    /// The origin.
    pub origin: Origin,
    /// What the origin must hold.
    pub now: Shadow,
    /// What each snapshot must hold.
    pub snapshots: BTreeMap<u32, Shadow>,
}

impl World {
    /// An origin of `origin` sectors, full of data, and a COW device of `cow` MiB, formatted
    /// with chunks of `pages` pages. The origin's device is returned with it.
    pub fn new(disks: &Disks, origin: u64, cow: u64, pages: u32) -> Result<(Self, Device)> {
        let origin = Origin::new(disks, "origin", origin)?;
        let store = Store::new(disks, cow * MIB)?;
        let now = Shadow::filled(&origin.piece.open()?).context("fill the origin")?;
        let co = store.format(&origin, pages)?;
        let world = Self {
            store,
            origin,
            now,
            snapshots: BTreeMap::new(),
        };
        Ok((world, co))
    }

    /// The origin's device again.
    pub fn co(&self) -> Result<Device> {
        self.store.co(&self.origin)
    }

    /// A device of a snapshot.
    pub fn cs(&self, tag: u32) -> Result<Device> {
        let sectors = self.snapshots.get(&tag).map_or(0, Shadow::sectors);
        self.store.cs_sized(&self.origin, tag, sectors)
    }

    /// Takes a snapshot of the origin by any device of it.
    pub fn take(&mut self, device: &Device) -> Result<u32> {
        let tag = device.take()?;
        self.snapshots.insert(tag, self.now.clone());
        Ok(tag)
    }

    /// Takes a snapshot of a snapshot by any device of its origin.
    pub fn take_of(&mut self, device: &Device, parent: u32) -> Result<u32> {
        let tag = device.take_of(parent)?;
        let shadow = self.snapshots[&parent].clone();
        self.snapshots.insert(tag, shadow);
        Ok(tag)
    }

    /// Deletes a snapshot by any device of its origin.
    pub fn delete(&mut self, device: &Device, tag: u32) -> Result<()> {
        device.delete(tag)?;
        self.snapshots.remove(&tag);
        Ok(())
    }

    /// A snapshot's copy.
    pub fn shadow(&mut self, tag: u32) -> &mut Shadow {
        self.snapshots
            .get_mut(&tag)
            .expect("a snapshot that was taken")
    }

    /// Compares the origin's device and all snapshots.
    pub fn check(&self, co: &Device) -> Result<()> {
        self.now.check(&co.open_read_only()?).context("origin")?;
        self.check_snapshots()
    }

    /// Compares all snapshots.
    pub fn check_snapshots(&self) -> Result<()> {
        for (&tag, shadow) in &self.snapshots {
            self.store.check_snapshot(&self.origin, tag, shadow)?;
        }
        Ok(())
    }

    /// Compares the origin's own device, below the target.
    pub fn check_below(&self) -> Result<()> {
        self.now
            .check(&self.origin.piece.open()?)
            .context("the origin's own device")
    }
}

/// Some random I/O to an open device: writes of all sorts, and reads that are compared.
pub fn random_io(random: &mut Random, disk: &Disk, shadow: &mut Shadow, times: u32) -> Result<()> {
    for _ in 0..times {
        let (start, count) = random.extent(shadow.sectors());
        match random.pick(0..20) {
            0..=11 => shadow.write(disk, start, count)?,
            12 => shadow.discard(disk, start, count)?,
            13 => shadow.zero_out(disk, start, count)?,
            14 => disk.flush()?,
            _ => shadow.check_range(disk, start, count)?,
        }
    }
    Ok(())
}
