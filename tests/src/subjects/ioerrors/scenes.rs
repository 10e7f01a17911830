// SPDX-License-Identifier: GPL-2.0

//! What stands on the disks when something begins to fail.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::bench::{Bench, Known};
use crate::checked;
use crate::damage::Patient;
use crate::puppet::Op;
use crate::store::Rollback;
use crate::time::pass;

/// In what state a store is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// Closed in order, with all that was made by [`Bench::prepare`]. What its origin's disk holds is not
    /// noted, so its first change is that of what is tried.
    Closed,
    /// The same, and it is noted.
    Noted,
    /// The same, and all snapshots are deleted.
    Deleted,
    /// As a crash leaves it, in the midst of everything: see [`Bench::interrupt`].
    Interrupted,
}

/// All that there was at some moment.
pub struct Saved {
    origin: Vec<u8>,
    cow: Vec<u8>,
    now: Known,
    snapshots: BTreeMap<u32, Known>,
}

impl Bench {
    /// A store in that state. Nothing of it is active.
    pub fn scene(&mut self, scene: Scene, policy: &'static str) -> Result<Saved> {
        /// More often than the cleaner is quicker.
        const TRIES: usize = 20;
        self.prepare(policy)?;
        match scene {
            Scene::Closed => {}
            Scene::Noted => self.co("")?.remove()?,
            Scene::Deleted => self.delete_all()?,
            Scene::Interrupted => {
                for _ in 0..TRIES {
                    if let Some(saved) = self.interrupt()? {
                        return Ok(saved);
                    }
                    self.prepare(policy)?;
                }
                bail!("it is never in the midst of everything");
            }
        }
        Ok(self.save())
    }

    /// A store with two snapshots of the origin and one of the first, some of it preserved, some
    /// written to snapshots. Nothing of it is active.
    fn prepare(&mut self, policy: &'static str) -> Result<()> {
        self.policy = policy;
        self.snapshots.clear();
        self.perhaps = None;
        self.may_invalidate = false;
        let co = self.co("-b -F").context("format")?;
        self.take(&co)?;
        self.now.write(&co.open()?, 0, 128)?;
        self.write_snapshot(1, 256, 64)?;
        let tag = co.take_of(1)?;
        let first = self.snapshots[&1].clone();
        self.snapshots.insert(tag, first);
        self.write_snapshot(1, 320, 40)?;
        self.zero_snapshot(1, 400, 32)?;
        self.take(&co)?;
        self.now.write(&co.open()?, 0, 64)?;
        self.now.write(&co.open()?, 512, 64)?;
        // So much that a rollback copies it in parts, by several processors.
        self.now.write(&co.open()?, 1400, 320)?;
        self.origin.remove_unseen(co)?;
        self.superblock = Some(Patient::open(&self.cow.path())?.superblock()?);
        Ok(())
    }

    fn zero_snapshot(&mut self, tag: u32, sector: u64, count: u64) -> Result<()> {
        let cs = self.cs(tag)?;
        let known = self.snapshots.get_mut(&tag).context("a snapshot")?;
        known.discard(&cs.open()?, sector, count)?;
        cs.remove()
    }

    fn delete_all(&mut self) -> Result<()> {
        let co = self.co("")?;
        for &tag in self.snapshots.keys() {
            co.delete(tag)?;
        }
        co.wait_clean()?;
        self.snapshots.clear();
        self.origin.remove_unseen(co)
    }

    /// Goes on with what [`Bench::prepare`] made, and looks at the disks while it is in use: there
    /// is something in the journal, a rollback to the last snapshot is half done, and one of the
    /// others is deleted and not cleaned away. `None` if the cleaner was quicker, which it can be on a
    /// machine that stands still for a moment.
    fn interrupt(&mut self) -> Result<Option<Saved>> {
        self.write_snapshot(2, 600, 64)?;
        let co = self.co("")?;
        self.now.write(&co.open()?, 700, 32)?;
        // The first piece of the rollback comes to its end, and the second one does not.
        self.origin.hold_after(&[Op::Write], 1);
        co.send("rs 3 -b")?;
        self.now = self.snapshots[&3].clone();
        self.origin.wait_held(1)?;
        // What else is on its way comes so far, too.
        pass(Duration::from_millis(50));
        // The cleaner begins a tenth of a second later.
        co.delete(2)?;
        self.snapshots.remove(&2);
        let saved = self.save();
        // It still is so, and was so then.
        let state = co.state()?;
        let half = |r: Rollback| 0 < r.done && r.done < r.chunks;
        ensure!(state.rollback.is_some_and(half), "{}", co.status()?);
        self.origin.release();
        co.remove()?;
        if state.cleaning.is_none() {
            return Ok(None);
        }
        self.restore(&saved);
        let report = checked::clean(&self.cow.path())?;
        let closed = report.superblock.is_some_and(|s| s.clean);
        let journaled = report.statistics.journaled;
        ensure!(
            !closed && journaled > 0,
            "closed: {closed}, {journaled} in the journal"
        );
        Ok(Some(saved))
    }

    /// What stands on the disks.
    fn save(&self) -> Saved {
        Saved {
            // Before the origin: of a rollback nothing may be recorded that is not done.
            cow: self.cow.image(),
            origin: self.origin.image(),
            now: self.now.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    /// Back to what there was, with nothing active.
    pub fn restore(&mut self, saved: &Saved) {
        self.origin.restore(&saved.origin);
        self.cow.restore(&saved.cow);
        self.now = saved.now.clone();
        self.snapshots = saved.snapshots.clone();
        self.perhaps = None;
        self.may_invalidate = false;
    }
}
