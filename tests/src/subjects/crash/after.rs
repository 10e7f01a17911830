// SPDX-License-Identifier: GPL-2.0

//! What is there after the machine was killed, and that it can be used.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context, Result};

use super::log::{Log, State};
use super::model::{Model, Op, Version};
use super::{random, Generations, Place, FIRST_STEPS, ORIGIN};
use crate::checked;
use crate::content::ZERO;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::{write_generation, Shadow};
use crate::store::Device;

/// So many snapshots are left for the next run.
const MOST: usize = 8;

/// Compares, uses it, and remembers what there is then.
pub fn run() -> Result<String> {
    let mut state = State::load()?.context("there was no run")?;
    let mut model = state.model();
    for (id, step) in Log::read(state.run)? {
        model
            .apply(id, &step)
            .with_context(|| format!("step {id}: {step:?}"))?;
    }
    let flying: Vec<&Op> = model.flying().collect();
    let told = format!("{} steps, on their way: {flying:?}", model.answered);
    println!("# run {}: {told}", state.run);
    ensure!(
        model.answered >= FIRST_STEPS,
        "{} steps prove nothing",
        model.answered
    );
    let place = Place::new(state.cow)?;
    after(&mut state, &model, &place).with_context(|| told.clone())?;
    state.save()?;
    Ok(format!("{} steps", model.answered))
}

fn after(state: &mut State, model: &Model, place: &Place) -> Result<()> {
    let formatting = model.flying().any(|op| *op == Op::Format);
    if !formatting {
        checked::clean(&place.cow.path()).context("before activation")?;
    }
    let co = match place.co("") {
        Ok(co) => co,
        Err(error) if formatting && is_no_store(&error) => {
            let head = model.versions[&0].learn(&Disk::open(ORIGIN)?)?;
            state.formatted = false;
            state.next_tag = 1;
            state.versions = BTreeMap::from([(0, head.must().clone())]);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut random = random(state.run)?;
    let mut used = Used {
        place,
        co,
        held: BTreeMap::new(),
        generations: Generations::new(state.run, true),
    };
    used.compare(model, formatting)?;
    used.finish_rollback(model, &mut random)?;
    let next_tag = used.go_on(&mut random)?;
    ensure!(
        formatting || next_tag >= model.next_tag + 2,
        "tag {} comes again, {} was next",
        next_tag - 2,
        model.next_tag
    );
    let Used { co, held, .. } = used;
    co.remove()?;
    held[&0]
        .check(&Disk::open(ORIGIN)?)
        .context("the origin below")?;
    checked::clean(&place.cow.path()).context("after use")?;
    state.formatted = true;
    state.next_tag = next_tag;
    state.versions = held;
    Ok(())
}

/// What a device says that was being formatted.
fn is_no_store(error: &anyhow::Error) -> bool {
    let errno = error.downcast_ref::<std::io::Error>();
    let errno = errno.and_then(std::io::Error::raw_os_error);
    // None, or none that the origin is bound to, or still the one before, of another size.
    matches!(errno, Some(libc::EMEDIUMTYPE | libc::ENOENT | libc::EINVAL))
}

/// A store that is used again.
struct Used<'a> {
    place: &'a Place,
    co: Device,
    /// All that is known now; by tag, 0 is the origin.
    held: BTreeMap<u32, Shadow>,
    generations: Generations,
}

impl Used<'_> {
    fn learn(&mut self, tag: u32, version: &Version) -> Result<()> {
        let cs = self.place.cs(tag)?;
        let held = version
            .learn(&cs.open_read_only()?)
            .with_context(|| format!("snapshot {tag}"))?;
        self.held.insert(tag, held.must().clone());
        cs.remove()
    }

    fn compare(&mut self, model: &Model, formatting: bool) -> Result<()> {
        let disk = self.co.open_read_only()?;
        let rolled_back = model.done(|op| matches!(op, Op::RollBack { .. }));
        let head = match (model.versions[&0].learn(&disk), rolled_back) {
            (Err(_), Some(version)) => version.learn(&disk).context("origin, rolled back")?,
            (result, _) => result.context("origin")?,
        };
        self.held.insert(0, head.must().clone());
        let list = self.co.list()?;
        let there = list.tags();
        if formatting && there.is_empty() {
            return Ok(());
        }
        for row in &list.rows {
            ensure!(!row.flags.contains('I'), "snapshot {} is invalid", row.tag);
        }
        for (&tag, version) in &model.versions {
            let may_be_gone = version.leaving
                || model.flying().any(|op| match op {
                    Op::Delete { tag: t }
                    | Op::RollBack {
                        tag: t,
                        merge: true,
                    } => *t == tag,
                    _ => false,
                });
            ensure!(
                tag == 0 || may_be_gone || there.contains(&tag),
                "snapshot {tag} is lost: {there:?}"
            );
        }
        for tag in there {
            let taken = model.done(|op| matches!(op, Op::Take { tag: t, .. } if *t == tag));
            let version = model.versions.get(&tag).or(taken);
            let version = version.with_context(|| format!("snapshot {tag} is there"))?;
            if !version.leaving && !is_merging(model, tag) {
                self.learn(tag, version)?;
            }
        }
        Ok(())
    }

    /// Waits for it. If it finds no space, deleting snapshots brings some.
    fn finish_rollback(&mut self, model: &Model, random: &mut Random) -> Result<()> {
        loop {
            match self.co.wait_rollback_or_stop()?.as_deref() {
                None => break,
                Some("full") if self.place.little => {}
                Some(why) => bail!("a rollback stands still: {why}"),
            }
            if !self.delete_one(random)? {
                self.co.wait_rollback()?;
                break;
            }
            self.co.wait_clean()?;
        }
        // It has gone with its rollback, or that was never begun.
        for tag in self.co.list()?.tags() {
            if self.held.contains_key(&tag) {
                continue;
            }
            ensure!(is_merging(model, tag), "snapshot {tag} stays");
            self.learn(tag, &model.versions[&tag])?;
        }
        let head = &self.held[&0];
        head.check(&self.co.open_read_only()?).context("origin")?;
        head.check(&Disk::open(ORIGIN)?).context("the origin below")
    }

    fn snapshots(&self) -> Vec<u32> {
        self.held.keys().copied().filter(|&tag| tag != 0).collect()
    }

    fn delete_one(&mut self, random: &mut Random) -> Result<bool> {
        let tags = self.snapshots();
        if tags.is_empty() {
            return Ok(false);
        }
        let tag = *random.one_of(&tags);
        self.co.delete(tag)?;
        self.held.remove(&tag);
        Ok(true)
    }

    /// Changes this and that and compares all of it. Tells the next snapshot's tag.
    fn go_on(&mut self, random: &mut Random) -> Result<u32> {
        let taken = self.co.take()?;
        self.held.insert(taken, self.held[&0].clone());
        let disk = self.co.open()?;
        for kind in [0, 0, 0, 1, 2] {
            self.change(&disk, 0, kind, random)?;
        }
        drop(disk);
        let tags = self.snapshots();
        let some = *random.one_of(&tags);
        for tag in [some, taken] {
            let cs = self.place.cs(tag)?;
            let disk = cs.open()?;
            for kind in [0, 0, 1, 2] {
                self.change(&disk, tag, kind, random)?;
            }
            self.held[&tag]
                .check(&disk)
                .with_context(|| format!("snapshot {tag}, written to"))?;
            disk.flush()?;
            drop(disk);
            cs.remove()?;
        }
        let nested = self.co.take_of(some)?;
        self.held.insert(nested, self.held[&some].clone());
        while self.held.len() > MOST + 1 {
            self.delete_one(random)?;
        }
        self.co.wait_clean()?;
        for (&tag, shadow) in self.held.iter().filter(|(&tag, _)| tag != 0) {
            let cs = self.place.cs(tag)?;
            shadow
                .check(&cs.open_read_only()?)
                .with_context(|| format!("snapshot {tag}, after use"))?;
            cs.remove()?;
        }
        self.held[&0]
            .check(&self.co.open_read_only()?)
            .context("origin, after use")?;
        Ok(nested + 1)
    }

    /// A write, zeroes or a discard.
    fn change(&mut self, disk: &Disk, tag: u32, kind: u32, random: &mut Random) -> Result<()> {
        let (start, count) = random.extent(disk.sectors());
        let count = count.min(400);
        let generation = match kind {
            0 => self.generations.next(),
            _ => ZERO,
        };
        let result = match kind {
            0 => write_generation(disk, start, count, generation),
            1 => disk.zero_out(start, count).map_err(Into::into),
            _ => disk.discard(start, count).map_err(Into::into),
        };
        let held = self.held.get_mut(&tag).context("a version")?;
        match result {
            Ok(()) if kind < 2 => held.set(start, count, generation),
            Err(error) if !self.place.is_full(&error) => return Err(error),
            // What was discarded, or written as far as there was space, is one or the other.
            _ => {
                let before = held.clone();
                let bytes = disk.read(start, count)?;
                held.learn_bytes(&bytes, start, |sector, found| {
                    found == generation || found == before.generation(sector)
                })?;
            }
        }
        Ok(())
    }
}

fn is_merging(model: &Model, tag: u32) -> bool {
    let mut all = model.flying();
    all.any(|op| matches!(op, Op::RollBack { tag: t, merge: true } if *t == tag))
}
