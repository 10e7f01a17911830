// SPDX-License-Identifier: GPL-2.0

//! A small store, and what it must hold whatever failed.

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::dm::Suspend;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{Device, Origin, Store};
use crate::world::World;

/// Sectors of the origin: no multiple of a chunk.
pub(super) const SECTORS: u64 = MIB / 2 + 3;

/// Snapshots that are kept from one operation to the next.
const KEPT: usize = 3;

/// The snapshots that have no device are compared before they go, and every so many operations:
/// to make a device and remove it takes longer than most operations do.
const ROUND: u32 = 4;

/// One origin, its device, and a device of one of its snapshots.
pub(super) struct Bench {
    pub(super) world: World,
    pub(super) co: Option<Device>,
    pub(super) cs: Option<Device>,
    /// The snapshot that `cs` shows.
    pub(super) shown: u32,
    /// An origin that comes and goes, and a store that is made again and again.
    pub(super) other: Origin,
    pub(super) fresh: Store,
    /// A store with little space, for the other origin, which is made again and again, too.
    pub(super) tight: Store,
    pub(super) random: Random,
    /// Operations that failed.
    pub(super) errors: u32,
    /// Stores that had to be opened again.
    failed: u32,
    /// Comparisons.
    checks: u32,
}

impl Bench {
    pub(super) fn new(disks: &Disks, random: Random) -> Result<Self> {
        let (mut world, co) = World::new(disks, SECTORS, 48, 1)?;
        let shown = world.take(&co)?;
        let cs = world.cs(shown)?;
        Ok(Self {
            world,
            co: Some(co),
            cs: Some(cs),
            shown,
            other: Origin::new(disks, "other", MIB)?,
            fresh: Store::new(disks, 32 * MIB)?,
            tight: Store::new(disks, 8 * MIB)?,
            random,
            errors: 0,
            failed: 0,
            checks: 0,
        })
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "{} operations failed, {} times the store",
            self.errors, self.failed
        )
    }

    /// The origin's device.
    pub(super) fn co(&self) -> &Device {
        self.co.as_ref().expect("it was made ready")
    }

    /// The snapshot's.
    pub(super) fn cs(&self) -> &Device {
        self.cs.as_ref().expect("it was made ready")
    }

    /// Takes a snapshot of the origin, with nothing failing. Returns its tag.
    pub(super) fn take(&mut self) -> Result<u32> {
        let co = self.co.as_ref().expect("it was made ready");
        self.world.take(co)
    }

    /// Takes one of the snapshot that has a device.
    pub(super) fn take_of_shown(&mut self) -> Result<u32> {
        let co = self.co.as_ref().expect("it was made ready");
        self.world.take_of(co, self.shown)
    }

    /// All devices go.
    pub(super) fn close(&mut self) -> Result<()> {
        for device in [self.cs.take(), self.co.take()].into_iter().flatten() {
            // It may have been left suspended.
            device.resume()?;
            device.remove()?;
        }
        Ok(())
    }

    /// None of the devices that are there shows a store that has failed.
    fn is_healthy(&self) -> Result<bool> {
        for device in [&self.co, &self.cs].into_iter().flatten() {
            if device.state()?.state == "error" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Both devices are there and work, with nothing in the background. There is nothing that fails
    /// now, so nothing may fail.
    pub(super) fn ready(&mut self) -> Result<()> {
        if !self.is_healthy()? {
            self.failed += 1;
            self.close()?;
        }
        if self.co.is_none() {
            self.co = Some(self.world.co().context("the origin again")?);
        }
        if !self.world.snapshots.contains_key(&self.shown) {
            ensure!(self.cs.is_none(), "what was shown is gone");
            self.shown = self.take()?;
        }
        if self.cs.is_none() {
            self.cs = Some(self.world.cs(self.shown).context("the snapshot again")?);
        }
        for device in [self.co(), self.cs()] {
            device.resume()?;
        }
        // An operation that failed may have gone half of its way.
        let co = self.co();
        co.wait_rollback()?;
        let there = co.list()?.tags();
        let known: Vec<u32> = self.world.snapshots.keys().copied().collect();
        ensure!(there == known, "the snapshots are {there:?}, not {known:?}");
        while self.world.snapshots.len() > KEPT {
            let mut tags = self.world.snapshots.keys().copied();
            let tag = tags.find(|&tag| tag != self.shown).context("another one")?;
            self.check_snapshot(tag)?;
            let co = self.co.as_ref().expect("it is there");
            self.world.delete(co, tag)?;
        }
        Ok(())
    }

    /// Takes in what became of a message that makes a snapshot of `parent` (0: of the origin).
    pub(super) fn taken(&mut self, parent: u32, result: Result<u32>) -> Result<()> {
        let shadow = match parent {
            0 => self.world.now.clone(),
            tag => self.world.snapshots[&tag].clone(),
        };
        if let Ok(tag) = result {
            self.world.snapshots.insert(tag, shadow);
            return Ok(());
        }
        self.errors += 1;
        // Either it is there, as it must be, or it is not.
        self.reopen_if_failed()?;
        let there = self.co().list()?.tags();
        let new = |tag: &u32| !self.world.snapshots.contains_key(tag);
        let new: Vec<u32> = there.into_iter().filter(new).collect();
        for &tag in &new {
            self.world.snapshots.insert(tag, shadow.clone());
        }
        if parent == 0 && !new.is_empty() {
            // If it is, what is overwritten from now on is preserved for it.
            let disk = self.co().open()?;
            self.world.now.write_all(&disk)?;
        }
        new.iter().try_for_each(|&tag| self.check_snapshot(tag))
    }

    /// Takes in what became of the deletion of a snapshot.
    pub(super) fn deleted(&mut self, tag: u32, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.errors += 1;
            self.reopen_if_failed()?;
            if self.co().list()?.tags().contains(&tag) {
                return Ok(());
            }
        }
        self.world.snapshots.remove(&tag);
        Ok(())
    }

    /// A store that has failed is opened again; nothing else is looked at.
    pub(super) fn reopen_if_failed(&mut self) -> Result<()> {
        if !self.is_healthy()? {
            self.failed += 1;
            self.close()?;
        }
        if self.co.is_none() {
            self.co = Some(self.world.co().context("the origin again")?);
        }
        Ok(())
    }

    /// Takes in what became of a write: of each sector of one that failed, the old or the new
    /// content is there.
    pub(super) fn written(
        &mut self,
        shown: bool,
        (start, count, generation): (u64, u64, u32),
        result: Result<()>,
    ) -> Result<()> {
        if result.is_err() {
            self.errors += 1;
            self.reopen_if_failed()?;
            if shown && self.cs.is_none() {
                self.cs = Some(self.world.cs(self.shown)?);
            }
        }
        let device = if shown { self.cs() } else { self.co() };
        let disk = device.open_read_only()?;
        let shadow = match shown {
            true => self.world.shadow(self.shown),
            false => &mut self.world.now,
        };
        if result.is_ok() {
            shadow.set(start, count, generation);
            return shadow.check_range(&disk, start, count);
        }
        let before = shadow.clone();
        shadow.learn(&disk, |sector, found| {
            let inside = (start..start + count).contains(&sector);
            found == before.generation(sector) || inside && found == generation
        })
    }

    /// Takes in what became of a rollback: the origin is what it was, or the snapshot, as a whole.
    pub(super) fn rolled_back(&mut self, tag: u32, merge: bool, result: Result<()>) -> Result<()> {
        let then = self.world.snapshots[&tag].clone();
        let mut begun = result.is_ok();
        let mut used = false;
        if !begun {
            self.errors += 1;
            used = self.is_healthy()?;
            if used {
                self.go_on(&then).context("with the store in use since")?;
            }
            // One that has begun goes on when the origin is activated.
            self.close()?;
            self.reopen_if_failed()?;
        }
        let disk = self.co().open_read_only()?;
        begun |= !used && then.check(&disk).is_ok();
        if begun {
            then.check(&disk)?;
            self.world.now = then;
        }
        drop(disk);
        self.co().wait_rollback()?;
        let there = self.co().list()?.tags().contains(&tag);
        ensure!(
            !begun || there != merge,
            "what was merged: {there}, {merge}"
        );
        if merge && !there {
            self.world.snapshots.remove(&tag);
        }
        Ok(())
    }

    /// A rollback to what `then` says was reported as failed, and the store goes on working. So what
    /// it goes by must be what is recorded: were it not, a rollback that has begun all the same would
    /// overwrite what is written from now on, as soon as something makes the store notice it.
    fn go_on(&mut self, then: &Shadow) -> Result<()> {
        let co = self.co.as_ref().expect("it is there");
        let disk = co.open()?;
        if then.check(&disk).is_ok() {
            self.world.now = then.clone();
        }
        self.world.now.check(&disk).context("the origin")?;
        for _ in 0..4 {
            let (start, count) = self.random.extent(SECTORS);
            self.world.now.write(&disk, start, count)?;
        }
        drop(disk);
        self.world.take(co)?;
        co.wait_rollback()?;
        let disk = co.open_read_only()?;
        self.world.now.check(&disk).context("what was written")
    }

    /// Compares a snapshot by its device, which is made for that if it is not there.
    fn check_snapshot(&self, tag: u32) -> Result<()> {
        let shadow = &self.world.snapshots[&tag];
        match tag == self.shown {
            true => shadow.check(&self.cs().open_read_only()?),
            false => self
                .world
                .store
                .check_snapshot(&self.world.origin, tag, shadow),
        }
        .with_context(|| format!("snapshot {tag}"))
    }

    /// Compares the origin and the snapshot that is shown, and the others every [`ROUND`] times,
    /// with nothing failing.
    pub(super) fn check(&mut self) -> Result<()> {
        self.ready()?;
        self.checks += 1;
        self.compare(self.checks % ROUND == 0)
    }

    fn compare(&mut self, all: bool) -> Result<()> {
        self.world
            .now
            .check(&self.co().open_read_only()?)
            .context("the origin")?;
        for &tag in self.world.snapshots.keys() {
            if all || tag == self.shown {
                self.check_snapshot(tag)?;
            }
        }
        // It goes on working.
        let disk: Disk = self.co().open()?;
        let (start, count) = self.random.extent(SECTORS);
        self.world.now.write(&disk, start, count)
    }

    /// Compares everything once more, from the disk.
    pub(super) fn end(mut self) -> Result<()> {
        self.close()?;
        self.ready()?;
        self.compare(true)?;
        let co = self.co();
        co.wait_clean()?;
        co.suspend(Suspend::Orderly)?;
        co.resume()?;
        self.close()?;
        self.world.check_below()
    }
}
