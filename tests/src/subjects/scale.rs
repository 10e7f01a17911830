// SPDX-License-Identifier: GPL-2.0

//! Many of everything.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};

use crate::counts::Counts;
use crate::disks::{Disks, MIB};
use crate::effort::usual_or_long;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::{Device, Origin, Store};
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("1,000 snapshots of one origin", || thousand(disks));
    subject.case("16 origins in one store", || origins(disks));
    subject.case("3 stores at once", || stores(disks));
    subject.case("nesting of 32, then every other one deleted", || {
        nesting(disks)
    });
    let many = usual_or_long(2_000, 10_000);
    subject.case(&format!("{many} snapshots are listed, in pages"), || {
        listed(disks, many)
    });
}

fn thousand(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = World::new(disks, 8 * MIB, 64, 1)?;
    let mut random = Random::from_environment("scale");
    let disk = co.open()?;
    for tag in 1..=1000 {
        let taken = co.take()?;
        ensure!(taken == tag, "tag {taken}, not {tag}");
        if tag % 50 == 0 || tag == 1 || tag == 999 {
            world.snapshots.insert(tag, world.now.clone());
        }
        world.now.write(&disk, random.pick(0..8 * MIB - 8), 8)?;
    }
    drop(disk);
    world.check(&co).context("after 1,000")?;
    co.remove()?;
    crate::kernel::reload()?;
    // What is read to find them again does not grow with them.
    let before = Counts::of(&world.store.cow)?;
    co = world.co()?;
    let read = (Counts::of(&world.store.cow)? - before).read_sectors;
    println!("# scale: {read} sectors are read to activate 1,000 snapshots");
    ensure!(read < MIB, "it took {read} sectors to find them again");
    ensure!(
        co.list()?.tags().len() == 1000,
        "{} tags",
        co.list()?.tags().len()
    );
    // Most of them go, in no order, and those that stay stay as they are.
    let mut tags: Vec<u32> = (1..=1000)
        .filter(|tag| !world.snapshots.contains_key(tag))
        .collect();
    while !tags.is_empty() {
        let at = random.pick(0..tags.len() as u64) as usize;
        co.delete(tags.swap_remove(at))?;
    }
    world
        .check(&co)
        .context("while the others are cleaned away")?;
    co.wait_clean()?;
    world.check(&co).context("after the others are gone")?;
    random_io(&mut random, &co.open()?, &mut world.now, 20)?;
    world.check(&co)?;
    for tag in world.snapshots.keys() {
        co.delete(*tag)?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    co.remove()
}

/// An origin among others.
struct Member {
    origin: Origin,
    co: Option<Device>,
    now: Shadow,
    snapshots: BTreeMap<u32, Shadow>,
}

impl Member {
    fn new(disks: &Disks, store: &Store, id: &str, first: bool) -> Result<Self> {
        let origin = Origin::new(disks, id, 2 * MIB)?;
        let now = Shadow::filled(&origin.piece.open()?)?;
        let co = if first {
            store.format(&origin, 1)?
        } else {
            store.bind(&origin)?
        };
        Ok(Self {
            origin,
            co: Some(co),
            now,
            snapshots: BTreeMap::new(),
        })
    }

    fn co(&self) -> &Device {
        self.co.as_ref().expect("it is active")
    }

    fn step(&mut self, random: &mut Random) -> Result<()> {
        let tag = self.co().take()?;
        self.snapshots.insert(tag, self.now.clone());
        let disk = self.co().open()?;
        random_io(random, &disk, &mut self.now, 4)
    }

    fn check(&self, store: &Store) -> Result<()> {
        self.now.check(&self.co().open()?)?;
        for (&tag, shadow) in &self.snapshots {
            store.check_snapshot(&self.origin, tag, shadow)?;
        }
        Ok(())
    }
}

fn origins(disks: &Disks) -> Result<()> {
    let store = Store::new(disks, 160 * MIB)?;
    let mut random = Random::new(16);
    let mut members = (0..16)
        .map(|i| Member::new(disks, &store, &format!("origin-{i}"), i == 0))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        for member in &mut members {
            member.step(&mut random)?;
        }
    }
    for member in &members {
        member
            .check(&store)
            .with_context(|| member.origin.id.clone())?;
    }
    for member in &mut members {
        member.co.take().expect("it is active").remove()?;
    }
    crate::kernel::reload()?;
    for member in &mut members {
        member.co = Some(store.co(&member.origin)?);
    }
    // One of them is rolled back and one unbound; the others take no notice.
    members[3].co().rollback(1)?;
    members[3].now = members[3].snapshots[&1].clone();
    for tag in [1, 2] {
        members[5].co().delete(tag)?;
        members[5].snapshots.remove(&tag);
    }
    members[5].co().wait_clean()?;
    members[5].co().send("do")?;
    members.remove(5).co.expect("it is active").remove()?;
    for member in &members {
        member
            .check(&store)
            .with_context(|| member.origin.id.clone())?;
    }
    for member in members {
        member.co.expect("it is active").remove()?;
    }
    Ok(())
}

fn stores(disks: &Disks) -> Result<()> {
    let mut random = Random::new(3);
    let mut all = Vec::new();
    for i in 0..3 {
        let store = Store::new(disks, 40 * MIB)?;
        let member = Member::new(disks, &store, &format!("of-store-{i}"), true)?;
        all.push((store, member));
    }
    for _ in 0..3 {
        for (_, member) in &mut all {
            member.step(&mut random)?;
        }
    }
    // One goes and comes back while the others work.
    all[1].1.co.take().expect("it is active").remove()?;
    all[0].1.step(&mut random)?;
    let (store, member) = &mut all[1];
    member.co = Some(store.co(&member.origin)?);
    for (store, member) in &mut all {
        member.step(&mut random)?;
        member
            .check(store)
            .with_context(|| member.origin.id.clone())?;
        ensure!(
            member.co().state()?.origin == 1,
            "numbers are each store's own"
        );
    }
    for (_, member) in all {
        member.co.expect("it is active").remove()?;
    }
    Ok(())
}

fn nesting(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 96, 1)?;
    let mut random = Random::new(33);
    let mut tag = world.take(&co)?;
    for _ in 1..32 {
        let cs = world.cs(tag)?;
        world
            .shadow(tag)
            .write(&cs.open()?, random.pick(0..4 * MIB - 100), 100)?;
        cs.remove()?;
        tag = world.take_of(&co, tag)?;
        world
            .now
            .write(&co.open()?, random.pick(0..4 * MIB - 100), 100)?;
    }
    world.check(&co)?;
    for tag in (1..32).step_by(2) {
        world.delete(&co, tag)?;
    }
    world.now.write(&co.open()?, 0, 4 * MIB)?;
    co.wait_clean()?;
    world.check(&co)?;
    let rows = co.list()?.rows;
    ensure!(co.list()?.tags().len() == 16, "{rows:?}");
    for tag in (2..=32).step_by(2) {
        world.delete(&co, tag)?;
    }
    co.wait_clean()?;
    ensure!(
        co.list()?.rows.len() == 1,
        "ghosts are left: {:?}",
        co.list()?.rows
    );
    co.wait_chunks(0)?;
    co.remove()
}

fn listed(disks: &Disks, count: u32) -> Result<()> {
    let (mut world, co) = World::new(disks, 2 * MIB, 64, 1)?;
    for tag in 1..=count {
        if tag == 1 || tag == count / 2 || tag == count {
            world.snapshots.insert(tag, world.now.clone());
            world.now.write(&co.open()?, u64::from(tag % 4000), 8)?;
            world.snapshots.insert(tag, world.now.clone());
        }
        let memo = if tag % 100 == 0 {
            format!(" -m number\\ {tag}")
        } else {
            String::new()
        };
        // A snapshot of a snapshot that is not active has no writes to wait for.
        let of = if tag % 10 == 1 || world.snapshots.contains_key(&tag) {
            "so"
        } else {
            "ss 1"
        };
        let taken = co.tag(&format!("{of}{memo}"))?;
        ensure!(taken == tag, "tag {taken}, not {tag}");
    }
    world.now.write(&co.open()?, 0, 2 * MIB)?;
    let listing = co.list()?;
    ensure!(
        listing.tags() == (1..=count).collect::<Vec<_>>(),
        "{} tags",
        listing.tags().len()
    );
    ensure!(listing.pages > 1, "one page");
    ensure!(
        listing.row(700).is_some_and(|row| row.memo == "number 700"),
        "{:?}",
        listing.row(700)
    );
    world.check(&co)?;
    co.remove()
}
