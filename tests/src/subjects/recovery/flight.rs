// SPDX-License-Identifier: GPL-2.0

//! I/O that is on its way while the store fails and comes back, or gives its snapshots up.

use std::ops::Range;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::bench::{wait_a_while, write_aside, Bench, CHUNK};
use crate::dm::Suspend;
use crate::io::Buffer;
use crate::puppet::Op;
use crate::shadow::write;
use crate::store::{until, Device};

/// Where a snapshot is written, one chunk after the other, until a commit of that fails.
const CHUNKS: Range<u64> = 1..17;
const TOO_LATE: &str = "the store's own commits came first";

/// Has the next write of the store fail, which is that of a commit, for which there is something of
/// the snapshot `cs`. Tells whether it did: the store commits on its own account every second, and
/// where the machine stood still for that long there is nothing left to be committed.
fn commit_fails(bench: &Bench, co: &Device, cs: &Device) -> Result<bool> {
    bench.cow.fail(&[Op::Write], 0, 1);
    let disk = cs.open()?;
    let flushing = thread::spawn(move || disk.flush());
    until("a flush to end", || Ok(flushing.is_finished()))?;
    if flushing.join().expect("no panic").is_ok() {
        ensure!(
            bench.cow.mend() == 0,
            "a commit failed, and a flush did not"
        );
        return Ok(false);
    }
    until("the store to fail", || Ok(co.state()?.state == "error"))?;
    ensure!(bench.cow.mend() == 1, "nothing failed");
    Ok(true)
}

/// A snapshot has a chunk that is recorded in core only, and writes it again, slowly. The store
/// fails: as far as it knows then, that place is free. It must not be anybody else's before the slow
/// write is over.
pub fn in_place() -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    let tag = bench.take(&co)?;
    // A chunk of the store's that is in use in any case.
    bench.now.write(&co.open()?, 0, CHUNK)?;
    let cs = bench.cs(tag)?;
    let released = bench.released();
    let disk = cs.open()?;
    let mut chunks = CHUNKS.map(|chunk| chunk * CHUNK);
    let (chunk, first, slow) = loop {
        let chunk = chunks.next().context(TOO_LATE)?;
        let first = write(&disk, chunk, CHUNK)?;
        bench.cow.hold_data(chunk);
        let slow = write_aside(&cs, chunk, CHUNK)?;
        bench.cow.wait_held(1)?;
        if commit_fails(&bench, &co, &cs)? {
            break (chunk, first, slow);
        }
        bench.cow.release();
        slow.end(bench.shadow(tag))?;
    };
    drop(disk);
    // These are preserved when the store works again, which this sees to.
    let rescuing = write_aside(&co, 40 * CHUNK, 16 * CHUNK)?;
    rescuing.may_end();
    bench.cow.release();
    let second = slow.generation;
    // It may be told that what it has written is lost.
    let _ = slow.result();
    rescuing
        .end(&mut bench.now)
        .context("the write that has the store work again")?;
    drop(released);
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    cs.remove()?;
    bench.settle(tag, chunk, CHUNK, &[first, second])?;
    bench.end(co)
}

/// A chunk is being preserved for the newest snapshot, slowly; an older one has it already. The
/// store fails and works again, and the newest snapshot is deleted. What the older one has stays as
/// it is.
pub fn copy_of_deleted() -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    let older = bench.take(&co)?;
    let chunk = 20 * CHUNK;
    bench.now.write(&co.open()?, chunk, CHUNK)?;
    let newest = bench.take(&co)?;
    let cs = bench.cs(older)?;
    let released = bench.released();
    bench.origin.hold_some(&[Op::Read], 1);
    let slow = write_aside(&co, chunk, CHUNK)?;
    bench.origin.wait_held(1)?;
    let disk = cs.open()?;
    let mut chunks = CHUNKS.map(|chunk| chunk * CHUNK);
    let (at, lost) = loop {
        let at = chunks.next().context(TOO_LATE)?;
        let written = write(&disk, at, CHUNK)?;
        if commit_fails(&bench, &co, &cs)? {
            break (at, written);
        }
        bench.shadow(older).set(at, CHUNK, written);
    };
    drop(disk);
    // The origin's device cannot be suspended, which would wait for the write.
    cs.suspend(Suspend::Orderly)?;
    cs.resume()?;
    until("the store to work", || Ok(co.state()?.state == "valid"))?;
    co.delete(newest)?;
    bench.snapshots.remove(&newest);
    co.wait_clean()?;
    bench.origin.release();
    slow.end(&mut bench.now).context("the slow write")?;
    drop(released);
    cs.remove()?;
    bench.settle(older, at, CHUNK, &[lost])?;
    bench.end(co)
}

/// A read of a snapshot is on its way to the origin while the snapshots are given up. From then on
/// writes of the origin need no look at anything, but this read must not get to see them.
pub fn read_of_invalid() -> Result<()> {
    let mut bench = Bench::new(2, 6)?;
    let co = bench.format()?;
    let tag = bench.take(&co)?;
    bench.fill(&co, 0)?;
    let cs = bench.cs(tag)?;
    let released = bench.released();
    let chunk = 500 * CHUNK;
    bench.origin.hold_some(&[Op::Read], 1);
    let disk = cs.open_read_only()?;
    let reader = thread::spawn(move || -> Result<Buffer> { Ok(disk.read(chunk, CHUNK)?) });
    bench.origin.wait_held(1)?;
    let full = write_aside(&co, 490 * CHUNK, CHUNK)?;
    full.may_end();
    wait_a_while(|| co.state().is_ok_and(|state| state.state == "invalid"));
    let over = write_aside(&co, chunk, CHUNK)?;
    over.may_end();
    bench.origin.release();
    // That it fails is as good as what was there.
    if let Ok(bytes) = reader.join().expect("no panic") {
        bench.snapshots[&tag]
            .check_bytes(&bytes, chunk)
            .context("the slow read of the snapshot")?;
    }
    full.end(&mut bench.now)
        .context("a write that is too much")?;
    over.end(&mut bench.now).context("a write of the chunk")?;
    drop(released);
    ensure!(co.state()?.state == "invalid", "{}", co.status()?);
    cs.remove()?;
    bench.snapshots.clear();
    bench.end(co)
}

/// A snapshot reads, slowly, what was preserved of the origin, the record of which is in core only. The
/// store fails: as far as it knows then, that place is free. It must not be anybody else's before the
/// slow read is over, though nothing of this snapshot was ever written.
pub fn read_of_preserved() -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    // Nothing that fails has the store work again by itself.
    let co = bench.co("-b -F -c 1 -e error")?;
    let tag = bench.take(&co)?;
    let cs = bench.cs(tag)?;
    let other = bench.take(&co)?;
    let other_cs = bench.cs(other)?;
    let released = bench.released();
    let mut chunks = CHUNKS.map(|chunk| chunk * CHUNK);
    let (chunk, reader, writers) = loop {
        let chunk = chunks.next().context(TOO_LATE)?;
        // What is preserved after this is not made durable before it.
        bench.origin.hold_some(&[Op::Read], 1);
        let slow = write_aside(&co, chunk + 100 * CHUNK, CHUNK)?;
        bench.origin.wait_held(1)?;
        let used = co.state()?.chunks.0;
        let quick = write_aside(&co, chunk, CHUNK)?;
        co.wait_chunks(used + 1)?;
        bench.cow.hold_some(&[Op::Read], 1);
        let disk = cs.open_read_only()?;
        let reader = thread::spawn(move || -> Result<Buffer> { Ok(disk.read(chunk, CHUNK)?) });
        bench.cow.wait_held(1)?;
        if commit_fails(&bench, &co, &cs)? {
            break (chunk, reader, [slow, quick]);
        }
        bench.origin.release();
        bench.cow.release();
        reader.join().expect("no panic").context("a read")?;
        slow.end(&mut bench.now)?;
        quick.end(&mut bench.now)?;
    };
    bench.origin.release();
    for writer in writers {
        ensure!(writer.result().is_err(), "a write that is not preserved");
    }
    // It must not work again yet. If it does, what comes next gets all that is free from the first on.
    let co_ref = &co;
    thread::scope(|scope| -> Result<()> {
        let again = scope.spawn(move || -> Result<()> {
            co_ref.suspend(Suspend::Orderly)?;
            Ok(co_ref.resume()?)
        });
        wait_a_while(|| again.is_finished());
        let written = write(&other_cs.open()?, 200 * CHUNK, 8 * CHUNK);
        bench.cow.release();
        let bytes = reader.join().expect("no panic").context("the slow read")?;
        bench.snapshots[&tag]
            .check_bytes(&bytes, chunk)
            .context("the slow read of the snapshot")?;
        ensure!(written.is_err(), "the store works while it is read");
        again.join().expect("no panic")
    })?;
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    drop(released);
    cs.remove()?;
    other_cs.remove()?;
    bench.end(co)
}
