// SPDX-License-Identifier: GPL-2.0

//! The stores that images are spoiled of: one in two states, in the midst of its use and closed in
//! order, and another that a rollback and cleaning were going on in.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context, Result};

use crate::disks::{Disks, Piece, MIB};
use crate::dm::{Mapped, Table};
use crate::io::{Buffer, Disk};
use crate::random::Random;
use crate::store::{co_line, Device, Origin, Store, TARGET};
use crate::world::World;

use super::image::{Image, Kind, Tree};

/// Size of the origin and of the other origins.
pub(super) const SECTORS: u64 = 8 * MIB;
pub(super) const SMALL: u64 = 128;
/// Of a COW device in MiB: there is room for all that the rollback preserves, for snapshots become
/// invalid without.
const COW: u64 = 32;

/// What stands on a part of a device.
struct Copy {
    start: u64,
    parts: Vec<Buffer>,
}

impl Copy {
    fn read(piece: &Piece, start: u64, end: u64) -> Result<Self> {
        let disk = piece.open()?;
        let mut parts = Vec::new();
        let mut at = start;
        while at < end {
            let count = MIB.min(end - at);
            parts.push(disk.read(at, count)?);
            at += count;
        }
        Ok(Self { start, parts })
    }

    fn write(&self, piece: &Piece) -> Result<()> {
        let disk = piece.open()?;
        let mut at = self.start;
        for part in &self.parts {
            disk.write(at, part)?;
            at += part.len() as u64 / 512;
        }
        Ok(())
    }
}

/// All that is on a store's devices but its metadata.
struct Content {
    origin: Copy,
    journal: Copy,
    data: Copy,
}

impl Content {
    /// What is there now, with these metadata.
    fn read(world: &World, image: &Image) -> Result<Self> {
        let journal = image.journal();
        let cow = &world.store.cow;
        Ok(Self {
            origin: Copy::read(&world.origin.piece, 0, SECTORS)?,
            journal: Copy::read(cow, journal.start, journal.end)?,
            data: Copy::read(cow, journal.end, cow.sectors())?,
        })
    }
}

/// A store, its origin, and what must be there.
pub(super) struct Bed {
    pub(super) world: World,
    content: Content,
    /// Whether data may have been written since they were put back.
    written: bool,
}

impl Bed {
    /// All is as it was, but for these metadata. If data are to be written, or something in the
    /// background does that, they are put back the next time.
    pub(super) fn put(&mut self, image: &Image, writing: bool) -> Result<()> {
        let cow = &self.world.store.cow;
        // What one image's use left in the journal would be valid for the next one.
        self.content.journal.write(cow)?;
        if self.written {
            self.content.origin.write(&self.world.origin.piece)?;
            self.content.data.write(cow)?;
        }
        self.written = writing;
        image.write(cow)
    }

    /// These metadata, over whatever there is in the journal and of data.
    pub(super) fn put_metadata(&mut self, image: &Image) -> Result<()> {
        self.written = true;
        image.write(&self.world.store.cow)
    }
}

/// A state that images are made of, and which of the beds it is of.
pub(super) struct State {
    pub(super) name: &'static str,
    pub(super) image: Image,
    pub(super) bed: usize,
}

impl State {
    pub(super) fn rolls_back(&self) -> bool {
        self.image.entries(Tree::Marks) > 0
    }
}

/// All that is needed for the cases.
pub(super) struct Stage {
    pub(super) beds: Vec<Bed>,
    pub(super) states: Vec<State>,
    /// Where the other origins are.
    pub(super) small: Piece,
    /// Metadata of an earlier moment.
    pub(super) old: Image,
}

/// The place in [`Stage::states`] of the one that was closed in order.
pub(super) const QUIET: usize = 0;
/// And of the one with a journal.
pub(super) const LIVE: usize = 1;

impl Stage {
    pub(super) fn new(disks: &Disks, random: &mut Random) -> Result<Self> {
        // The COW device comes to lie in the midst of its disk.
        let before = disks.piece(MIB)?;
        let (mut world, co) = World::new(disks, SECTORS, COW, 1)?;
        drop(before);
        let small = disks.piece(SMALL)?;
        for i in 0..14 {
            let options = format!("-b -i other{i}");
            let line = co_line(&small.path(), &world.store.cow.path(), &options);
            Device(Mapped::create("co", &Table::new(SMALL, TARGET, line))?).remove()?;
        }
        let mut tags = Vec::new();
        for round in 0..70 {
            let tag = match tags.len() {
                5.. if random.once_in(3) => {
                    let parent = *random.one_of(&tags);
                    let tag = world.take_of(&co, parent)?;
                    let cs = world.cs(tag)?;
                    let many = if round == 30 { 400 } else { 6 };
                    write_some(random, &cs.open()?, many, |disk, at, count| {
                        world.shadow(tag).write(disk, at, count)
                    })?;
                    cs.remove()?;
                    tag
                }
                _ => world.take(&co)?,
            };
            tags.push(tag);
            let many = if round % 10 == 0 { 120 } else { 12 };
            write_some(random, &co.open()?, many, |disk, at, count| {
                world.now.write(disk, at, count)
            })?;
            if round % 9 == 8 {
                let gone = tags.remove(random.pick(0..tags.len() as u64) as usize);
                world.delete(&co, gone)?;
            }
            if round == 40 {
                co.wait_clean()?;
            }
        }
        co.wait_clean()?;
        let old = Image::read(&world.store.cow)?;
        write_some(random, &co.open()?, 200, |disk, at, count| {
            world.now.write(disk, at, count)
        })?;
        let live = make_live(&mut world, random, &co)?;
        co.remove()?;
        let quiet = Image::read(&world.store.cow)?;
        world.check_below()?;
        let content = Content::read(&world, &quiet)?;
        let (busy, image) = make_busy(disks, &world, random, &tags)?;
        // What the rollback did is undone with the first image.
        let calm = Bed {
            world,
            content,
            written: true,
        };
        let state = |name, image, bed| State { name, image, bed };
        let mut stage = Self {
            beds: vec![calm, busy],
            states: vec![
                state("closed in order", quiet, 0),
                state("with a journal", live, 0),
                state("in a rollback", image, 1),
            ],
            small,
            old,
        };
        stage.ensure_all_kinds()?;
        stage.check(random)?;
        Ok(stage)
    }

    /// What is held for right is so, as long as nothing is spoiled.
    pub(super) fn check(&mut self, random: &mut Random) -> Result<()> {
        for state in 0..self.states.len() {
            let name = self.states[state].name;
            self.check_state(state, random).context(name)?;
        }
        Ok(())
    }

    fn check_state(&mut self, state: usize, random: &mut Random) -> Result<()> {
        let State { image, bed, .. } = &self.states[state];
        let bed = &mut self.beds[*bed];
        bed.put(image, true)?;
        let world = &bed.world;
        let co = world.co()?;
        let known: Vec<u32> = world.snapshots.keys().copied().collect();
        let there = co.list()?.tags();
        ensure!(there == known, "the snapshots are {there:?}, not {known:?}");
        world.now.check(&co.open_read_only()?)?;
        co.wait_rollback()?;
        ensure!(co.state()?.state == "valid", "{}", co.status()?);
        for _ in 0..4 {
            let tag = *random.one_of(&known);
            let shadow = &world.snapshots[&tag];
            world
                .store
                .check_snapshot(&world.origin, tag, shadow)
                .with_context(|| co.status().unwrap_or_default())?;
        }
        co.remove()
    }

    /// All kinds of blocks that there are.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let mut all = BTreeMap::new();
        for state in &self.states {
            all.extend(state.image.counts());
        }
        all.into_keys().collect()
    }

    /// There is something of everything.
    fn ensure_all_kinds(&self) -> Result<()> {
        let kinds = self.kinds();
        for tree in Tree::ALL {
            let is_leaf = |kind: &Kind| matches!(kind, Kind::Node(t, _, true) if *t == tree);
            ensure!(kinds.iter().any(is_leaf), "no leaf of {tree:?}");
        }
        let is_inner = |kind: &&Kind| matches!(kind, Kind::Node(_, _, false));
        let inner = kinds.iter().filter(is_inner).count();
        ensure!(inner >= 2, "only {inner} kinds of nodes that are no leaves");
        for kind in [
            Kind::Superblock,
            Kind::MetadataIndex,
            Kind::MetadataBitmap,
            Kind::DataBitmap,
            Kind::Journal,
            Kind::LastBatch,
        ] {
            ensure!(kinds.contains(&kind), "no {kind}");
        }
        Ok(())
    }

    /// One of the states with blocks of this kind.
    pub(super) fn with(&self, kind: Kind, random: &mut Random) -> usize {
        let all = 0..self.states.len();
        let has = |&i: &usize| self.states[i].image.kinds.values().any(|k| *k == kind);
        *random.one_of(&all.filter(has).collect::<Vec<_>>())
    }
}

/// Changes this and that, so that the journal holds several batches.
fn make_live(world: &mut World, random: &mut Random, co: &Device) -> Result<Image> {
    let disk = co.open()?;
    for _ in 0..50 {
        let tag = world.take(co)?;
        // Not half of what the journal has room for, or the trees are written as soon as nobody has work.
        write_some(random, &disk, 12, |disk, at, count| {
            world.now.write(disk, at, count)
        })?;
        let cs = world.cs(tag)?;
        let child = world.take_of(co, tag)?;
        write_some(random, &cs.open()?, 6, |disk, at, count| {
            world.shadow(tag).write(disk, at, count)
        })?;
        cs.remove()?;
        disk.flush()?;
        let before = Image::read(&world.store.cow)?;
        let live = Image::read(&world.store.cow)?;
        // None of it is written while nothing is asked for, for a while.
        let whole = before.transaction() == live.transaction();
        let batches = live.counts().get(&Kind::Journal).copied();
        if whole && batches.unwrap_or(0) >= 3 {
            return Ok(live);
        }
        // The trees were written meanwhile. Once more, with the space of this time.
        world.delete(co, child)?;
        world.delete(co, tag)?;
        co.wait_clean()?;
    }
    bail!("the journal stays empty")
}

/// Begins a rollback and deletes snapshots, and closes the store before that is done. What is there
/// then goes to other devices.
fn make_busy(
    disks: &Disks,
    world: &World,
    random: &mut Random,
    tags: &[u32],
) -> Result<(Bed, Image)> {
    let co = world.co()?;
    world.store.cow.slow_reads(20)?;
    co.send(&format!("rs {} -b", tags[3]))?;
    let mut now = world.snapshots[&tags[3]].clone();
    let mut snapshots = world.snapshots.clone();
    let disk = co.open()?;
    for _ in 0..60 {
        let at = random.pick(SECTORS / 16..SECTORS / 8) * 8;
        now.write(&disk, at, 8)?;
    }
    drop(disk);
    // Cleaning may be done before the store is closed; then once more.
    let mut co = Some(co);
    let mut image = None;
    for tags in tags.rchunks(3).take(8) {
        let device = match co.take() {
            Some(device) => device,
            None => world.co()?,
        };
        for tag in tags {
            device.delete(*tag)?;
            snapshots.remove(tag);
        }
        device.remove()?;
        let is = Image::read(&world.store.cow)?;
        let done = is.entries(Tree::Cleanings) > 0;
        ensure!(is.entries(Tree::Marks) > 0, "the rollback is done");
        image = Some(is);
        if done {
            break;
        }
    }
    world.store.cow.slow_reads(0)?;
    let image = image.context("no snapshots")?;
    ensure!(image.entries(Tree::Cleanings) > 0, "cleaning is done");
    let bed = Bed {
        content: Content::read(world, &image)?,
        world: World {
            origin: Origin::new(disks, &world.origin.id, SECTORS)?,
            store: Store::new(disks, COW * MIB)?,
            now,
            snapshots,
        },
        written: true,
    };
    Ok((bed, image))
}

/// Writes here and there, a chunk or a few at a time.
fn write_some(
    random: &mut Random,
    disk: &Disk,
    times: u32,
    mut write: impl FnMut(&Disk, u64, u64) -> Result<()>,
) -> Result<()> {
    for _ in 0..times {
        let count = random.pick(1..4) * 8;
        let at = random.pick(0..(SECTORS - count) / 8 + 1) * 8;
        write(disk, at, count)?;
    }
    Ok(())
}
