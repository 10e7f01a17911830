// SPDX-License-Identifier: GPL-2.0

//! What invalid snapshots hold is used before any others are given up.

use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::{fill_up, reads_as_error, small_store};
use crate::disks::{Disks, MIB};
use crate::effort::usual_or_long;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::{Device, Origin};
use crate::time::patience;
use crate::world::World;

/// Runs the cases.
pub(super) fn run(subject: &mut Subject, disks: &Disks) {
    for policy in ["invalidate", "error", "queue"] {
        let name = format!("{policy}: the space of invalid snapshots goes to other origins");
        subject.case(&name, || others(disks, policy));
    }
    subject.case(
        "that space goes to new snapshots of the same origin",
        || same(disks),
    );
    subject.case("a snapshot's writes get it, too", || to_snapshot(disks));
    subject.case(
        "what cleaning gives back is counted when it is over",
        || counted(disks),
    );
}

/// An origin all of whose snapshots are invalid, and hold everything: what was preserved for them,
/// and what was written to one of them that is active.
fn spoilt(disks: &Disks) -> Result<(World, Device, u32, Device)> {
    let (mut world, co) = small_store(disks, "")?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    world.shadow(tag).write(&cs.open()?, 0, 2 * MIB)?;
    // This has its place when the rest comes: what is only on its way to one when there is no more is
    // not there afterwards.
    world.now.write(&co.open()?, 0, 4 * MIB)?;
    world.now.write(&co.open()?, 0, 16 * MIB)?;
    ensure!(co.state()?.state == "invalid", "{}", co.status()?);
    let (used, all) = co.state()?.chunks;
    ensure!(used > all / 2, "only {used} of {all} chunks are in use");
    Ok((world, co, tag, cs))
}

fn others(disks: &Disks, policy: &str) -> Result<()> {
    let (world, co, tag, cs) = spoilt(disks)?;
    // The policy is the store's.
    co.remove()?;
    let co = world
        .store
        .co_with(&world.origin, &format!("-e {policy}"))?;
    let other = Origin::new(disks, "other", 4 * MIB)?;
    let mut now = Shadow::filled(&other.piece.open()?)?;
    let other_co = world.store.bind(&other)?;
    let other_tag = other_co.take()?;
    let then = now.clone();
    now.write(&other_co.open()?, 0, 4 * MIB)
        .context("there is space for all of it")?;
    ensure!(other_co.state()?.state == "valid", "{}", other_co.status()?);
    now.check(&other_co.open()?)?;
    world.store.check_snapshot(&other, other_tag, &then)?;
    // The others are as invalid as they were, and can be deleted.
    cs.remove()?;
    reads_as_error(&world, tag)?;
    co.delete(tag)?;
    co.wait_clean()?;
    world.store.check_snapshot(&other, other_tag, &then)?;
    other_co.remove()?;
    world.now.check(&co.open()?)?;
    co.remove()
}

fn same(disks: &Disks) -> Result<()> {
    let (mut world, co, tag, cs) = spoilt(disks)?;
    cs.remove()?;
    let new = world.take(&co)?;
    world.now.write(&co.open()?, MIB, 5 * MIB)?;
    let then = &world.snapshots[&new];
    world.store.check_snapshot(&world.origin, new, then)?;
    reads_as_error(&world, tag)?;
    // When there is nothing left that is of no use, it is as it ever was.
    world.now.write(&co.open()?, 0, 16 * MIB)?;
    reads_as_error(&world, new)?;
    world.now.check(&co.open()?)?;
    co.remove()
}

fn to_snapshot(disks: &Disks) -> Result<()> {
    let (mut world, co, tag, cs) = spoilt(disks)?;
    cs.remove()?;
    let new = world.take(&co)?;
    let cs = world.cs(new)?;
    world.shadow(new).write(&cs.open()?, 0, 5 * MIB)?;
    cs.remove()?;
    world
        .store
        .check_snapshot(&world.origin, new, &world.snapshots[&new])?;
    reads_as_error(&world, tag)?;
    // Space for data was what there was too little of, and is again.
    co.remove()?;
    let co = world.store.co_with(&world.origin, "-e error")?;
    fill_up(&mut world, &co.open()?)?;
    ensure!(co.state()?.state == "invalid", "{}", co.status()?);
    world
        .store
        .check_snapshot(&world.origin, new, &world.snapshots[&new])?;
    co.remove()
}

/// Who sees that cleaning is over takes what the same line of status says to be free for all that it
/// has given back.
fn counted(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    for _ in 0..usual_or_long(10, 100) {
        let tag = world.take(&co)?;
        // One step of the cleaner, after which it rests as the origin is in use, with so few changes
        // that they are not committed for being many.
        world.now.write(&co.open()?, 0, MIB / 4)?;
        world.delete(&co, tag)?;
        let begin = Instant::now();
        // Without a pause, to see the very first one.
        let over = loop {
            let status = co.state()?;
            if status.cleaning.is_none() {
                break status;
            }
            ensure!(begin.elapsed() < patience(), "{status:?}");
        };
        ensure!(over.chunks.0 == 0, "{over:?}");
    }
    world.check(&co)?;
    co.remove()
}
