// SPDX-License-Identifier: GPL-2.0

//! Stores with a block of which its checksum tells that it is damaged: what is read is right or an
//! error, and so is what was there before when something is written, and what was written.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::content::next_generation;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::{write_generation, Shadow};
use crate::store::Device;
use crate::world::World;

use super::image::Kind;
use super::stage::SECTORS;
use super::tally::Outcome;
use super::{mutate, Place};

impl Place {
    pub(super) fn try_damaged(
        &mut self,
        kind: Kind,
        random: &mut Random,
        name: &str,
    ) -> Result<Outcome> {
        let state = &self.stage.states[self.stage.with(kind, random)];
        let image = &mut self.image;
        image.become_like(&state.image);
        let done = mutate::damage(image, kind, random);
        let writing = random.once_in(3);
        let then = if writing { ", written to" } else { "" };
        let what = format!("{name}, {}: {done}{then}", state.name);
        self.watch.begin(&what);
        // A rollback writes by itself.
        let bed = &mut self.stage.beds[state.bed];
        bed.put(image, writing || state.rolls_back())?;
        let outcome = look_at(&bed.world, writing, state.rolls_back(), random);
        self.judge(&what)?;
        outcome.with_context(|| what.clone())
    }
}

fn look_at(world: &World, writing: bool, rolls_back: bool, random: &mut Random) -> Result<Outcome> {
    let Ok(co) = world.co() else {
        if !rolls_back {
            world.check_below()?;
        }
        return Ok(Outcome::Refused);
    };
    let mut view = View::new(world);
    if writing {
        view.change(&co, random)?;
    }
    view.compare(&co, random)?;
    co.remove()?;
    if writing && random.once_in(2) {
        // What has been made of it, once more.
        match world.co() {
            Err(_) => view.good = false,
            Ok(co) => {
                view.compare(&co, random).context("opened again")?;
                co.remove()?;
            }
        }
    }
    if !rolls_back {
        let disk = world.origin.piece.open()?;
        view.check_origin(&disk, 0, SECTORS)
            .context("the origin's own device")?;
    }
    Ok(match view.good {
        true => Outcome::Unnoticed,
        false => Outcome::Failed,
    })
}

/// What a store must hold while it is used.
struct View<'a> {
    world: &'a World,
    now: Shadow,
    /// Writes of the origin that failed: the old or the new content is there.
    failed: Vec<(u64, u64, u32)>,
    /// Snapshots that were taken or written to.
    changed: BTreeMap<u32, Shadow>,
    /// Those that are deleted, or may be.
    gone: BTreeSet<u32>,
    /// Where something was written.
    places: Vec<(u64, u64)>,
    /// There were no errors.
    good: bool,
}

impl<'a> View<'a> {
    fn new(world: &'a World) -> Self {
        Self {
            world,
            now: world.now.clone(),
            failed: Vec::new(),
            changed: BTreeMap::new(),
            gone: BTreeSet::new(),
            places: Vec::new(),
            good: true,
        }
    }

    /// Writes to the origin and to snapshots, takes some and deletes some.
    fn change(&mut self, co: &Device, random: &mut Random) -> Result<()> {
        for _ in 0..random.pick(4..12) {
            match random.pick(0..8) {
                0..=3 => self.write_origin(co, random),
                4 => self.take(co),
                5 | 6 => self.write_snapshot(random)?,
                _ => self.delete(co, random),
            }
        }
        Ok(())
    }

    fn write_origin(&mut self, co: &Device, random: &mut Random) {
        let (at, count, generation) = place(random);
        let disk = co.open();
        let done = disk.and_then(|disk| write_generation(&disk, at, count, generation));
        self.places.push((at, count));
        if done.is_ok() {
            self.now.set(at, count, generation);
        } else {
            self.good = false;
            self.failed.push((at, count, generation));
        }
    }

    fn take(&mut self, co: &Device) {
        let Ok(tag) = co.take() else {
            self.good = false;
            return;
        };
        let mut shadow = self.now.clone();
        for &(at, count, _) in &self.failed {
            shadow.forget(at, count);
        }
        self.changed.insert(tag, shadow);
    }

    fn delete(&mut self, co: &Device, random: &mut Random) {
        let tag = self.one_of(random);
        self.good &= co.delete(tag).is_ok();
        self.gone.insert(tag);
    }

    fn write_snapshot(&mut self, random: &mut Random) -> Result<()> {
        let tag = self.one_of(random);
        let (at, count, generation) = place(random);
        let mut shadow = self.shadow(tag).clone();
        let cs = match self.world.store.cs(&self.world.origin, tag) {
            Ok(cs) => cs,
            Err(_) => {
                self.good = false;
                return Ok(());
            }
        };
        let done = cs.open().and_then(|disk| {
            write_generation(&disk, at, count, generation)?;
            Ok(disk.flush()?)
        });
        cs.remove()?;
        self.places.push((at, count));
        match done {
            Ok(()) => shadow.set(at, count, generation),
            Err(_) => {
                self.good = false;
                shadow.forget(at, count);
            }
        }
        self.changed.insert(tag, shadow);
        Ok(())
    }

    /// Any snapshot.
    fn one_of(&self, random: &mut Random) -> u32 {
        let known = self.world.snapshots.keys().chain(self.changed.keys());
        let tags: Vec<u32> = known
            .filter(|tag| !self.gone.contains(tag))
            .copied()
            .collect();
        *random.one_of(&tags)
    }

    fn shadow(&self, tag: u32) -> &Shadow {
        let changed = self.changed.get(&tag);
        changed.unwrap_or_else(|| &self.world.snapshots[&tag])
    }

    /// Some of all, and where something was written.
    fn compare(&mut self, co: &Device, random: &mut Random) -> Result<()> {
        match co.open_read_only() {
            Err(_) => self.good = false,
            Ok(disk) => {
                for (at, count) in self.extents(random) {
                    match self.check_origin(&disk, at, count) {
                        Ok(()) => {}
                        Err(e) if e.is::<std::io::Error>() => self.good = false,
                        Err(e) => return Err(e.context("the origin")),
                    }
                }
            }
        }
        let mut tags: BTreeSet<u32> = self.changed.keys().copied().collect();
        tags.extend((0..3).map(|_| self.one_of(random)));
        for tag in tags.difference(&self.gone.clone()) {
            let Ok(cs) = self.world.store.cs(&self.world.origin, *tag) else {
                self.good = false;
                continue;
            };
            let compared = self.compare_snapshot(*tag, &cs, random);
            cs.remove()?;
            self.good &= compared.with_context(|| format!("snapshot {tag}"))?;
        }
        self.good &= co.list().is_ok();
        Ok(())
    }

    fn compare_snapshot(&self, tag: u32, cs: &Device, random: &mut Random) -> Result<bool> {
        let Ok(disk) = cs.open_read_only() else {
            return Ok(false);
        };
        let mut good = true;
        for (at, count) in self.extents(random) {
            match disk.read(at, count) {
                Ok(bytes) => self.shadow(tag).check_bytes(&bytes, at)?,
                Err(_) => good = false,
            }
        }
        Ok(good)
    }

    fn extents(&self, random: &mut Random) -> Vec<(u64, u64)> {
        let any = (0..4).map(|_| {
            let count = random.pick(1..257);
            (random.pick(0..SECTORS - count), count)
        });
        let any: Vec<(u64, u64)> = any.collect();
        self.places.iter().copied().chain(any).collect()
    }

    /// What the origin shows there, which must be an error or what it is to hold.
    fn check_origin(&mut self, disk: &Disk, at: u64, count: u64) -> Result<()> {
        const STRIDE: u64 = 2048;
        for at in (at..at + count).step_by(STRIDE as usize) {
            let bytes = disk.read(at, count.min(STRIDE))?;
            let before = self.now.clone();
            let failed = &self.failed;
            self.now.learn_bytes(&bytes, at, |sector, found| {
                let of_failed = |&(at, count, generation): &(u64, u64, u32)| {
                    (at..at + count).contains(&sector) && found == generation
                };
                found == before.generation(sector) || failed.iter().any(of_failed)
            })?;
        }
        Ok(())
    }
}

/// Where and what to write: some chunks, or parts of them.
fn place(random: &mut Random) -> (u64, u64, u32) {
    let count = random.pick(1..65);
    (random.pick(0..SECTORS - count), count, next_generation())
}
