// SPDX-License-Identifier: GPL-2.0

//! A store that fails and is rescued between the record of something and its commit.

use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::bench::{filled, write_aside, Bench, CHUNK};
use crate::content::ZERO;
use crate::io::writes_waiting;
use crate::puppet::Op;
use crate::store::until;
use crate::time::{pass, slowness};

/// For what has ended below to come to the store, which nothing tells of.
fn settle() {
    pass(Duration::from_secs(1) * slowness());
}

/// Waits until so many writes have come to the store: their threads sleep in them.
fn wait_come(writes: usize) -> Result<()> {
    until("the write to come", || Ok(writes_waiting()? >= writes))
}

/// In one turn the store records that a chunk is preserved, fails as it gives up another origin's
/// snapshots, and is rescued for the sake of a third write. The record is gone by then, so the first
/// write must not go ahead as if it were there.
pub fn rescued() -> Result<()> {
    let mut bench = Bench::new(2, 6)?;
    let (other, mut other_now) = filled(1)?;
    let co = bench.format()?;
    let other_co = bench.co_of("other", &other, "-b")?;
    let tag = bench.take(&co)?;
    let other_tag = other_co.take()?;
    let other_then = other_now.clone();
    // One chunk for the first write. What the second one has will be free again when the store has
    // failed: it is enough for all to be preserved then, but for the other origin's second try.
    bench.fill(&co, 9)?;
    let cs = bench.cs(tag)?;
    let mut released = bench.released();
    released.0.push(other.clone());

    bench.origin.hold(&[Op::Read]);
    other.hold(&[Op::Read]);
    let first = write_aside(&co, 500 * CHUNK, CHUNK)?;
    bench.origin.wait_held(1)?;
    let second = write_aside(&other_co, 0, 8 * CHUNK)?;
    other.wait_held(1)?;
    // The store waits for this commit, and all that comes meanwhile will have one turn.
    bench.cow.hold_some(&[Op::Flush], 1);
    let disk = cs.open()?;
    disk.discard(510 * CHUNK, CHUNK)?;
    let commit = thread::spawn(move || disk.flush());
    bench.cow.wait_held(1)?;
    bench.shadow(tag).set(510 * CHUNK, CHUNK, ZERO);
    let before = bench.cow.written();
    // In this order they will start over, and the first one must find a chunk.
    bench.origin.release();
    bench.wait_written(before, CHUNK)?;
    settle();
    other.release();
    bench.wait_written(before, 9 * CHUNK)?;
    settle();
    let full = write_aside(&other_co, 100 * CHUNK, CHUNK)?;
    wait_come(3)?;
    let rescuing = write_aside(&other_co, 110 * CHUNK, CHUNK)?;
    wait_come(4)?;
    // Not the commit's own, but the one behind it.
    bench.cow.fail(&[Op::Write], 1, 1);
    bench.cow.release();
    commit
        .join()
        .expect("no panic")
        .context("the commit before")?;
    first.end(&mut bench.now).context("the first write")?;
    for write in [second, full, rescuing] {
        write
            .end(&mut other_now)
            .context("another origin's write")?;
    }
    ensure!(bench.cow.mend() == 1, "nothing failed");
    drop(released);

    cs.remove()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    other_now
        .check(&other_co.open_read_only()?)
        .context("the other origin")?;
    if other_co.state()?.state == "valid" {
        let cs = bench.cs_of("other", &other, other_tag)?;
        other_then
            .check(&cs.open_read_only()?)
            .context("the other origin's snapshot")?;
        cs.remove()?;
    }
    other_co.remove()?;
    bench.end(co)
}
