// SPDX-License-Identifier: GPL-2.0

//! Rollback: the origin is the snapshot from the first instant, and nothing else changes.

use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::Device;
use crate::subjects::messages::event_waiter;
use crate::time::patience;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    for pages in [1, 16] {
        subject.case(
            &format!("to each of several snapshots, chunks of {pages} pages"),
            || back_and_forth(disks, pages),
        );
    }
    subject.case("the origin is the snapshot from the first instant", || {
        first_instant(disks)
    });
    subject.case("writes meanwhile", || writes_meanwhile(disks));
    subject.case("snapshots are taken and deleted meanwhile", || {
        snapshots_meanwhile(disks)
    });
    subject.case("the source is written meanwhile", || source_written(disks));
    subject.case("the source is deleted meanwhile", || source_deleted(disks));
    subject.case("goes on after remove and create", || resumed(disks, false));
    subject.case("goes on after rmmod and insmod", || resumed(disks, true));
    subject.case("progress is in the status", || progress(disks));
    subject.case("its end is an event", || event(disks));
    subject.case("from a snapshot device, with no origin device", || {
        by_snapshot_device(disks)
    });
    subject.case("to a snapshot of a snapshot that was written", || {
        nested(disks)
    });
    subject.case("to zeroes", || to_zeroes(disks));
    subject.case("of an origin that has grown", || grown(disks));
    subject.case("refused while the origin is open", || open_origin(disks));
    subject.case("refused while another one runs", || second(disks));
    subject.case("an interrupted rs goes on in the background", || {
        interrupted(disks)
    });
    subject.case("merge deletes the snapshot", || merge(disks));
    subject.case("deferred to the next activation", || deferred(disks));
    subject.case("merge leaves a snapshot's snapshots", || {
        merge_parent(disks)
    });
}

/// Places that are written after each snapshot.
const PLACES: u64 = 60;

/// An origin with snapshots 1, 2, 3, written between and after, here and there, so that there
/// are many runs to merge.
fn with_history(disks: &Disks) -> Result<(World, Device)> {
    let (mut world, co) = World::new(disks, 8 * MIB + 5, 96, 1)?;
    let disk = co.open()?;
    for tag in 1..=3 {
        world.take(&co)?;
        for place in 0..PLACES {
            world.now.write(&disk, place * 272 + tag * 16, 8)?;
        }
    }
    world.now.write(&disk, 8 * MIB, 5)?;
    drop(disk);
    Ok((world, co))
}

/// Makes merging take as long as the case needs it to.
fn slowly(world: &World) -> Result<()> {
    world.store.cow.slow_reads(150)
}

fn full_speed(world: &World) -> Result<()> {
    world.store.cow.slow_reads(0)
}

fn running(device: &Device) -> Result<()> {
    let status = device.state()?;
    ensure!(status.rollback.is_some(), "it is over already: {status:?}");
    Ok(())
}

fn begin(world: &mut World, device: &Device, tag: u32) -> Result<()> {
    device.send(&format!("rs {tag} -b"))?;
    world.now = world.snapshots[&tag].clone();
    Ok(())
}

fn back_and_forth(disks: &Disks, pages: u32) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB + 13, 160, pages)?;
    let mut random = Random::from_environment("rollback");
    for _ in 0..4 {
        world.take(&co)?;
        random_io(&mut random, &co.open()?, &mut world.now, 12)?;
    }
    for tag in [2, 4, 1, 3] {
        // What is given up, can be had again.
        let given_up = world.take(&co)?;
        co.rollback(tag)?;
        world.now = world.snapshots[&tag].clone();
        ensure!(co.state()?.rollback.is_none(), "{}", co.status()?);
        world.check(&co)?;
        world.check_below()?;
        random_io(&mut random, &co.open()?, &mut world.now, 6)?;
        world.check(&co)?;
        co.rollback(given_up)?;
        world.now = world.snapshots[&given_up].clone();
        random_io(&mut random, &co.open()?, &mut world.now, 3)?;
        world.check(&co)?;
    }
    world.check_below()?;
    co.remove()
}

/// Everything is right while a rollback runs, and when it is done.
fn check_to_its_end(world: &World, co: Device) -> Result<()> {
    world.check(&co)?;
    co.wait_rollback()?;
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn first_instant(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    let disk = co.open()?;
    // From the end, where it comes to last.
    for part in (0..8).rev() {
        world.now.check_range(&disk, part * MIB, 64)?;
        running(&co)?;
    }
    drop(disk);
    full_speed(&world)?;
    check_to_its_end(&world, co)
}

fn writes_meanwhile(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let mut random = Random::new(21);
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    let disk = co.open()?;
    for _ in 0..5 {
        let (start, count) = random.extent(8 * MIB);
        world.now.write(&disk, start, count.min(100))?;
        world.now.write(&disk, random.pick(0..8 * MIB), 1)?;
    }
    world.now.discard(&disk, 3 * MIB, 512)?;
    world.now.zero_out(&disk, 5 * MIB + 3, 300)?;
    running(&co)?;
    full_speed(&world)?;
    random_io(&mut random, &disk, &mut world.now, 10)?;
    drop(disk);
    check_to_its_end(&world, co)
}

fn snapshots_meanwhile(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let mut random = Random::new(22);
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    let disk = co.open()?;
    world.now.write(&disk, 7 * MIB, 100)?;
    let meanwhile = world.take(&co)?;
    for _ in 0..5 {
        world.now.write(&disk, random.pick(0..8 * MIB - 40), 40)?;
    }
    let second = world.take(&co)?;
    world.delete(&co, 2)?;
    for _ in 0..5 {
        world.now.write(&disk, random.pick(0..8 * MIB - 40), 40)?;
    }
    running(&co)?;
    world.delete(&co, meanwhile)?;
    full_speed(&world)?;
    world.check(&co)?;
    co.wait_rollback()?;
    co.wait_clean()?;
    world.check(&co)?;
    world.now.write_all(&disk)?;
    drop(disk);
    world.check(&co)?;
    world.check_below()?;
    for tag in [1, 3, second] {
        world.delete(&co, tag)?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    co.remove()
}

fn source_written(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let cs = world.cs(1)?;
    let source = cs.open()?;
    world.shadow(1).write(&source, 100, 500)?;
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    // What is written from now on is the snapshot's alone.
    world.shadow(1).write(&source, 7 * MIB, 300)?;
    world.shadow(1).write(&source, 200, 500)?;
    world.shadow(1).zero_out(&source, 4 * MIB, 333)?;
    running(&co)?;
    full_speed(&world)?;
    drop(source);
    cs.remove()?;
    check_to_its_end(&world, co)
}

fn source_deleted(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    slowly(&world)?;
    begin(&mut world, &co, 2)?;
    world.delete(&co, 2)?;
    co.refused("ss 2", libc::ENOENT, "unknown tag")?;
    running(&co)?;
    full_speed(&world)?;
    world.check(&co)?;
    co.wait_rollback()?;
    co.wait_clean()?;
    world.check(&co)?;
    world.check_below()?;
    for tag in [1, 3] {
        world.delete(&co, tag)?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    ensure!(co.list()?.rows.len() == 1, "{:?}", co.list()?.rows);
    co.remove()
}

fn resumed(disks: &Disks, reload: bool) -> Result<()> {
    let (mut world, mut co) = with_history(disks)?;
    let mut random = Random::new(23);
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    for _ in 0..3 {
        for _ in 0..6 {
            world
                .now
                .write(&co.open()?, random.pick(0..8 * MIB - 30), 30)?;
        }
        running(&co)?;
        let done = co.state()?.rollback.map_or(0, |r| r.done);
        co.remove()?;
        if reload {
            crate::kernel::reload()?;
        }
        co = world.co()?;
        running(&co)?;
        let found = co.state()?.rollback.map_or(0, |r| r.done);
        ensure!(
            found + 300 >= done,
            "of {done} chunks {found} were still known"
        );
    }
    full_speed(&world)?;
    check_to_its_end(&world, co)
}

fn progress(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    let mut last = 0;
    let mut moves = 0;
    let mut count = 0;
    while let Some(rollback) = co.state()?.rollback {
        ensure!(rollback.tag == 1, "{rollback:?}");
        ensure!(
            rollback.done <= rollback.chunks && rollback.done >= last,
            "{rollback:?} after {last}"
        );
        moves += u32::from(rollback.done > last);
        last = rollback.done;
        count += 1;
        if count == 60 {
            full_speed(&world)?;
        }
        let flags = co
            .list()?
            .row(1)
            .map(|row| row.flags.clone())
            .unwrap_or_default();
        if co.state()?.rollback.is_some() {
            ensure!(flags.contains('R'), "flags of the source: {flags:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(moves >= 2, "it moved {moves} times in {count} looks");
    full_speed(&world)?;
    world.check(&co)?;
    co.remove()
}

fn event(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let waiter = event_waiter(&co)?;
    begin(&mut world, &co, 1)?;
    waiter.recv_timeout(patience()).context("no event came")?;
    co.wait_rollback()?;
    world.check(&co)?;
    co.remove()
}

fn by_snapshot_device(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    co.remove()?;
    let cs = world.cs(2)?;
    world.shadow(2).write(&cs.open()?, 1000, 77)?;
    cs.rollback(2)?;
    world.now = world.snapshots[&2].clone();
    world.check_below()?;
    // And back to another one, which this device is not of; and not to its end.
    slowly(&world)?;
    cs.send("rs 3 -b")?;
    world.now = world.snapshots[&3].clone();
    running(&cs)?;
    cs.remove()?;
    let co = world.co()?;
    running(&co)?;
    full_speed(&world)?;
    check_to_its_end(&world, co)
}

fn nested(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let mut random = Random::new(24);
    let mut tag = 2;
    for _ in 0..4 {
        let cs = world.cs(tag)?;
        let (start, count) = random.extent(8 * MIB);
        world.shadow(tag).write(&cs.open()?, start, count)?;
        world.shadow(tag).write(&cs.open()?, 8 * MIB + 4, 1)?;
        let child = world.take_of(&co, tag)?;
        world.shadow(tag).write(&cs.open()?, start / 2, count)?;
        world.now.write(&co.open()?, start / 3, count)?;
        cs.remove()?;
        tag = child;
    }
    for tag in [tag, tag - 1] {
        co.rollback(tag)?;
        world.now = world.snapshots[&tag].clone();
        world.check(&co)?;
        world.check_below()?;
        world.now.write(&co.open()?, 100, 900)?;
        world.check(&co)?;
    }
    co.remove()
}

fn to_zeroes(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let cs = world.cs(1)?;
    world.shadow(1).zero_out(&cs.open()?, 0, 3 * MIB)?;
    world
        .shadow(1)
        .zero_out(&cs.open()?, 5 * MIB + 3, 2 * MIB)?;
    cs.remove()?;
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    world.now.write(&co.open()?, MIB + 1, 3)?;
    world.now.check_range(&co.open()?, 0, 2 * MIB)?;
    full_speed(&world)?;
    co.wait_rollback()?;
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn grown(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 64, 4)?;
    co.remove()?;
    let small = crate::store::Origin::new(disks, "small", 8 * MIB)?;
    small.piece.show(4 * MIB)?;
    let mut now = Shadow::filled(&small.piece.open()?)?;
    let co = world.store.bind(&small)?;
    let tag = co.take()?;
    let then = now.clone();
    now.write(&co.open()?, 0, 1000)?;
    co.remove()?;
    small.piece.show(8 * MIB)?;
    let co = world.store.co(&small)?;
    now.grow(8 * MIB);
    now.write(&co.open()?, 4 * MIB, 4 * MIB)?;
    let large = co.take()?;
    let large_then = now.clone();
    co.rollback(tag)?;
    // What the snapshot did not have stays as it is.
    for sector in 0..4 * MIB {
        now.set(sector, 1, then.generation(sector));
    }
    now.check(&co.open()?)?;
    world.store.check_snapshot(&small, large, &large_then)?;
    co.rollback(large)?;
    large_then.check(&co.open()?)?;
    world.store.check_snapshot(&small, tag, &then)?;
    co.remove()?;
    let co = world.co()?;
    world.take(&co)?;
    world.check(&co)?;
    co.remove()
}

fn open_origin(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let open = co.open()?;
    for message in ["rs 1", "rs 1 -b", "rs 1 -d", "rs 1 -b -d"] {
        co.refused(message, libc::EBUSY, "origin device is in use")?;
    }
    let cs = world.cs(1)?;
    cs.refused("rs 1 -b", libc::EBUSY, "origin device is in use")?;
    cs.remove()?;
    drop(open);
    world.check(&co)?;
    co.rollback(1)?;
    world.now = world.snapshots[&1].clone();
    world.check(&co)?;
    co.remove()
}

fn second(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    slowly(&world)?;
    begin(&mut world, &co, 1)?;
    for message in ["rs 2", "rs 1 -b", "rs 3 -b -d"] {
        co.refused(
            message,
            libc::EBUSY,
            "a rollback of the origin is already running",
        )?;
    }
    running(&co)?;
    full_speed(&world)?;
    co.wait_rollback()?;
    world.check(&co)?;
    co.rollback(2)?;
    world.now = world.snapshots[&2].clone();
    world.check(&co)?;
    co.remove()
}

fn interrupted(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    slowly(&world)?;
    let status = Command::new("timeout")
        .args([
            "-s",
            "INT",
            "2",
            "dmsetup",
            "message",
            co.name(),
            "0",
            "rs",
            "1",
        ])
        .stderr(std::process::Stdio::null())
        .status()?;
    ensure!(!status.success(), "rs was over before it was interrupted");
    running(&co)?;
    world.now = world.snapshots[&1].clone();
    full_speed(&world)?;
    co.wait_rollback()?;
    world.check(&co)?;
    co.remove()
}

fn merge(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    for (tag, message) in [(2, "rs 2 -d"), (3, "rs -d 3 -b"), (1, "rs 1 -bd")] {
        co.send(message)?;
        world.now = world.snapshots.remove(&tag).expect("it was taken");
        world.check(&co)?;
        co.wait_rollback()?;
        co.refused(&format!("ss {tag}"), libc::ENOENT, "unknown tag")?;
        world.check(&co)?;
        world.check_below()?;
    }
    co.wait_clean()?;
    co.wait_chunks(0)?;
    co.remove()
}

fn deferred(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = with_history(disks)?;
    for (tag, message) in [(2, "rs 2 -l -d"), (1, "rs 1 -l")] {
        let open = co.open()?;
        co.send(message)?;
        // Nothing has changed, and nothing but the next activation changes it. It is told.
        ensure!(co.state()?.deferred == Some(tag), "{}", co.status()?);
        world.check(&co)?;
        world.now.write(&open, 300, 700)?;
        drop(open);
        let cs = world.cs(3)?;
        cs.remove()?;
        world.check(&co)?;
        co.remove()?;
        if tag == 1 {
            crate::kernel::reload()?;
        }
        co = world.co()?;
        world.now = world.snapshots[&tag].clone();
        if message.ends_with("-d") {
            world.snapshots.remove(&tag);
        }
        world.check(&co)?;
        co.wait_rollback()?;
        world.check(&co)?;
        world.check_below()?;
    }
    // Another one in its place is the one that counts.
    co.send("rs 1 -l")?;
    co.send("rs 3 -l")?;
    co.remove()?;
    co = world.co()?;
    world.now = world.snapshots[&3].clone();
    co.wait_rollback()?;
    ensure!(co.state()?.deferred.is_none(), "{}", co.status()?);
    // And one that is called off does not happen.
    co.send("rs 1 -l")?;
    co.send("rs -l")?;
    ensure!(co.state()?.deferred.is_none(), "{}", co.status()?);
    co.remove()?;
    co = world.co()?;
    world.check(&co)?;
    co.remove()
}

fn merge_parent(disks: &Disks) -> Result<()> {
    let (mut world, co) = with_history(disks)?;
    let child = world.take_of(&co, 1)?;
    let cs = world.cs(child)?;
    world.shadow(child).write(&cs.open()?, 5000, 600)?;
    cs.remove()?;
    co.send("rs 1 -d")?;
    world.now = world.snapshots.remove(&1).expect("it was taken");
    world.check(&co)?;
    co.rollback(child)?;
    world.now = world.snapshots[&child].clone();
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}
