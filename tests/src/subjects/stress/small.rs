// SPDX-License-Identifier: GPL-2.0

//! A store that is too small, again and again: writes wait for space, or fail, or cost the snapshots
//! their content; it is enlarged, and formatted anew.
//!
//! Its origin's device is there for one act at a time, each of which begins and ends with all of it
//! known.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::counts::{Counts, Kind};
use super::guest::unbind;
use super::watch::nobody_unbinds;
use super::writers::{write_some, Written};
use crate::disks::{Disks, MIB};
use crate::dm::Suspend;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{until, Device, Origin, Store};
use crate::world::World;

/// The origin's size at first and at most. A store of the least size has no room for all of it.
const LEAST_ORIGIN: u64 = 4 * MIB;
const MOST_ORIGIN: u64 = 6 * MIB;

/// The COW device's size at first and at most, and how much it gets at once.
const LEAST_COW: u64 = 8 * MIB;
const MOST_COW: u64 = 24 * MIB;
const STEP: u64 = MIB;

const QUEUE: &str = "-e queue";

/// An origin with a store of its own.
pub(super) struct Small<'a> {
    world: World,
    /// So much is seen of the COW device.
    cow: u64,
    acts: usize,
    counts: &'a Counts,
}

type Act<'a> = fn(&mut Small<'a>, &mut Random) -> Result<()>;

impl<'a> Small<'a> {
    /// In this order, so that all have their turn.
    const ACTS: [(&'static str, Act<'a>); 9] = [
        ("formatting", Self::format),
        ("writes that wait", Self::wait),
        ("writes that fail", Self::fail),
        ("a kill", Self::kill),
        ("a deferred rollback", Self::roll_back_later),
        ("more writes that wait", Self::wait),
        ("unbinding", Self::unbind),
        ("a kill of what was bound", Self::kill),
        ("invalid snapshots", Self::invalidate),
    ];

    pub(super) fn new(disks: &Disks, counts: &'a Counts) -> Result<Self> {
        let world = World {
            origin: Origin::new(disks, "small", MOST_ORIGIN)?,
            store: Store::new(disks, MOST_COW)?,
            now: Shadow::zeroed(0),
            snapshots: Default::default(),
        };
        Ok(Self {
            world,
            cow: 0,
            acts: 0,
            counts,
        })
    }

    /// The next act.
    pub(super) fn act(&mut self, random: &mut Random) -> Result<()> {
        let (name, act) = Self::ACTS[self.acts % Self::ACTS.len()];
        self.acts += 1;
        act(self, random).with_context(|| name.to_owned())
    }

    fn co(&self, options: &str) -> Result<Device> {
        self.world.store.co_with(&self.world.origin, options)
    }

    fn format(&mut self, random: &mut Random) -> Result<()> {
        self.world.store.cow.show(LEAST_COW)?;
        self.cow = LEAST_COW;
        self.world.origin.piece.show(LEAST_ORIGIN)?;
        self.world.now = Shadow::filled(&self.world.origin.piece.open()?)?;
        self.world.snapshots.clear();
        let _bare = nobody_unbinds();
        let pages = *random.one_of(&[1, 2, 4]);
        let co = self.co(&format!("-b -F -c {pages} {QUEUE}"))?;
        self.counts.add(Kind::Formatted);
        self.world.take(&co)?;
        self.end(co)
    }

    /// Everything is compared, and the device goes.
    fn end(&mut self, co: Device) -> Result<()> {
        self.world.check(&co)?;
        co.remove()
    }

    /// Two write, next to each other, while `keep` is called again and again.
    fn written(
        &mut self,
        co: &Device,
        random: &mut Random,
        mut keep: impl FnMut(&mut Self, &mut Random) -> Result<()>,
    ) -> Result<Vec<Written>> {
        let sectors = self.world.now.sectors();
        // One chunk is written by both.
        let middle = sectors / 16 * 8 + 3;
        thread::scope(|scope| {
            let writers = [0..middle, middle..sectors].map(|range| {
                let (path, seed) = (co.path(), random.number());
                scope.spawn(move || write_some(&path, range, seed))
            });
            let mut kept = Ok(());
            while kept.is_ok() && !writers.iter().all(|w| w.is_finished()) {
                kept = keep(self, random);
                sleep(Duration::from_millis(5));
            }
            let mut all = Vec::new();
            for writer in writers {
                all.extend(writer.join().expect("no panic")?);
            }
            kept.map(|()| all)
        })
    }

    /// What was written is known from now on; what failed did so with one of these errors, and is
    /// looked at. Tells whether anything did.
    fn settle(&mut self, co: &Device, all: &[Written], errors: &[i32]) -> Result<bool> {
        let disk = co.open_read_only()?;
        let mut failed = false;
        for written in all {
            failed |= written.settle(&disk, &mut self.world.now, errors)?;
        }
        Ok(failed)
    }

    /// Something waits for space: the COW device grows, or a snapshot goes.
    fn make_room(&mut self, co: &Device, random: &mut Random) -> Result<()> {
        let oldest = self.world.snapshots.keys().next().copied();
        // One stays: an origin without any could be unbound by those who try that.
        let oldest = oldest.filter(|_| self.world.snapshots.len() > 1);
        let can_grow = self.cow < MOST_COW;
        match oldest {
            Some(tag) if !can_grow || random.once_in(2) => {
                self.world.delete(co, tag)?;
                self.counts.add(Kind::MadeRoom);
            }
            _ if can_grow => {
                self.cow += STEP;
                self.world.store.cow.show(self.cow)?;
                let table = self.world.store.co_table(&self.world.origin, QUEUE);
                co.replace(Suspend::NoFlush, &table)?;
                self.counts.add(Kind::Enlarged);
            }
            // What was deleted is still to be cleaned away.
            _ => {}
        }
        // It takes a second until what waits is looked at.
        let end = Instant::now() + Duration::from_secs(2);
        while co.state()?.state == "full" && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn wait(&mut self, random: &mut Random) -> Result<()> {
        let co = self.co(QUEUE)?;
        self.world.take(&co)?;
        let all = self.written(&co, random, |small, random| {
            if co.state()?.state == "full" {
                small.counts.add(Kind::Full);
                small.make_room(&co, random)?;
            }
            Ok(())
        })?;
        self.settle(&co, &all, &[])?;
        self.end(co)
    }

    /// The device is loaded again while it is written, with another size and another policy.
    fn fail(&mut self, random: &mut Random) -> Result<()> {
        let co = self.co(QUEUE)?;
        self.world.take(&co)?;
        let sectors = self.world.now.sectors();
        let larger = (sectors + random.pick(1..MIB)).min(MOST_ORIGIN);
        let mut loaded = false;
        let all = self.written(&co, random, |small, random| {
            if std::mem::replace(&mut loaded, true) {
                return Ok(());
            }
            sleep(Duration::from_millis(random.pick(1..60)));
            let piece = &small.world.origin.piece;
            piece.show(larger)?;
            piece.open()?.zero_out(sectors, larger - sectors)?;
            let table = small.world.store.co_table(&small.world.origin, "-e error");
            let how = *random.one_of(&[Suspend::Orderly, Suspend::NoFlush]);
            co.replace(how, &table)?;
            small.counts.add(Kind::Grown);
            Ok(())
        })?;
        ensure!(loaded, "they were too fast");
        if self.settle(&co, &all, &[libc::ENOSPC])? {
            self.counts.add(Kind::Failed);
        }
        self.world.now.grow(larger);
        self.end(co)
    }

    /// The device gets an error target in place of its own while it is written, perhaps while
    /// writes wait.
    fn kill(&mut self, random: &mut Random) -> Result<()> {
        let co = self.co(QUEUE)?;
        self.world.take(&co)?;
        let mut left = random.pick(0..100);
        let mut killed = false;
        let all = self.written(&co, random, |_, _| {
            left = left.saturating_sub(1);
            if left == 0 && !std::mem::replace(&mut killed, true) {
                co.kill().context("kill")?;
            }
            Ok(())
        })?;
        if killed {
            self.counts.add(Kind::KilledInUse);
        }
        co.remove()?;
        let co = self.co(QUEUE)?;
        // The suspension ends what waits.
        self.settle(&co, &all, &[libc::EIO, libc::ENOSPC])?;
        self.end(co)
    }

    fn roll_back_later(&mut self, random: &mut Random) -> Result<()> {
        let co = self.co(QUEUE)?;
        self.world.take(&co)?;
        let sectors = self.world.now.sectors();
        let snapshots = self.world.snapshots.iter();
        let tags: Vec<u32> = snapshots
            .filter(|(_, shadow)| shadow.sectors() == sectors)
            .map(|(tag, _)| *tag)
            .collect();
        let tag = *random.one_of(&tags);
        let merge = self.world.snapshots.len() > 1 && random.once_in(2);
        let options = if merge { " -d" } else { "" };
        co.send(&format!("rs {tag} -l{options}"))?;
        self.world.now.check(&co.open_read_only()?)?;
        co.remove()?;
        let co = self.co(QUEUE)?;
        self.counts.add(Kind::Later);
        self.world.now = self.world.snapshots[&tag].clone();
        if merge {
            self.world.snapshots.remove(&tag);
        }
        self.world.check(&co).context("from its begin")?;
        until("a deferred rollback", || {
            let status = co.state()?;
            if status.rollback.is_some() && status.state == "full" {
                self.make_room(&co, random)?;
            }
            Ok(status.rollback.is_none())
        })?;
        self.world.check_below()?;
        self.end(co)
    }

    /// Without snapshots, and so without anything else in it.
    fn emptied(&mut self, co: &Device) -> Result<()> {
        for tag in self.world.snapshots.keys().copied().collect::<Vec<_>>() {
            self.world.delete(co, tag)?;
        }
        co.wait_clean()?;
        co.wait_chunks(0)
    }

    fn unbind(&mut self, random: &mut Random) -> Result<()> {
        let _bare = nobody_unbinds();
        let co = self.co(QUEUE)?;
        self.emptied(&co)?;
        unbind(&co)?;
        self.counts.add(Kind::Unbound);
        let (start, count) = random.extent(self.world.now.sectors());
        self.world.now.write(&co.open()?, start, count)?;
        co.remove()?;
        self.world.check_below()?;
        let co = self.co(&format!("-b {QUEUE}"))?;
        self.counts.add(Kind::Bound);
        self.world.take(&co)?;
        self.end(co)
    }

    fn invalidate(&mut self, _random: &mut Random) -> Result<()> {
        let co = self.co("-e invalidate")?;
        let mut times = 0;
        while co.state()?.state != "invalid" {
            ensure!(times < 12, "never invalid: {}", co.status()?);
            times += 1;
            self.world.take(&co)?;
            self.world.now.write_all(&co.open()?)?;
        }
        self.counts.add(Kind::Invalidated);
        let (&tag, shadow) = self.world.snapshots.iter().next().context("none")?;
        let cs = self
            .world
            .store
            .cs_sized(&self.world.origin, tag, shadow.sectors())?;
        let read = cs.open_read_only()?.read(0, 8);
        let errno = read.err().and_then(|e| e.raw_os_error());
        ensure!(errno == Some(libc::EIO), "a read of it: {errno:?}");
        cs.remove()?;
        let _bare = nobody_unbinds();
        self.emptied(&co)?;
        self.world.take(&co)?;
        self.end(co)
    }

    /// At the end nothing is left when all snapshots are gone.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.acts == 0 {
            return Ok(());
        }
        let co = self.co(QUEUE)?;
        self.emptied(&co)?;
        self.world.check_below()?;
        co.remove()
    }
}
