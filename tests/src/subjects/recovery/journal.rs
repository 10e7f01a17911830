// SPDX-License-Identifier: GPL-2.0

//! A block of the journal that cannot be read: it is no harm where nothing that counts can stand.

use std::ops::Range;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use dm_snap_mv_model::disk::journal::{look, Place};
use dm_snap_mv_store::journal::sum;

use super::bench::{Bench, CHUNK};
use crate::damage::Patient;
use crate::dm::Suspend;
use crate::puppet::Op;
use crate::shadow::write;
use crate::store::Device;

/// Sectors of a block.
const BLOCK: u64 = 8;

/// What a journal of a store that nobody uses holds: block by block on the device, the first one, and
/// that behind the last.
fn journal(bench: &Bench) -> Result<Range<u64>> {
    let superblock = Patient::open(&bench.cow.path())?.superblock()?;
    let first_block = superblock.layout.journal_start;
    let image = bench.cow.image();
    let valid = |index: &u64| {
        let place = Place {
            uuid: superblock.uuid,
            transaction: superblock.transaction,
            first_block,
            index: *index,
        };
        let at = ((first_block + index) * BLOCK) as usize * 512;
        let block = image.get(at..at + 4096).and_then(|b| b.try_into().ok());
        block.is_some_and(|block| look(block, &place, sum).is_some())
    };
    let count = (0..superblock.layout.journal_blocks)
        .take_while(valid)
        .count();
    Ok(first_block..first_block + count as u64)
}

fn spoil(bench: &Bench, ops: &[Op], block: u64) {
    bench.cow.fail_at(ops, block * BLOCK..(block + 1) * BLOCK);
}

/// What `dms` says, and how it ends.
fn dms(arguments: &[&str], code: i32, words: &str) -> Result<()> {
    let output = Command::new("dms")
        .args(arguments)
        .output()
        .context("dms")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(
        output.status.code() == Some(code) && text.contains(words),
        "dms {arguments:?} ended with {}, not {code} and {words:?}: {text}",
        output.status
    );
    Ok(())
}

/// A store with a snapshot and something in its journal, as a crash leaves it: where that is.
fn crashed() -> Result<(Bench, u32, Range<u64>)> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    let tag = bench.take(&co)?;
    let disk = co.open()?;
    for chunk in 0..5 {
        bench.now.write(&disk, 8 * chunk * CHUNK, CHUNK)?;
    }
    drop(disk);
    let image = bench.cow.image();
    co.remove()?;
    bench.cow.restore(&image);
    let journal = journal(&bench)?;
    ensure!(journal.end > journal.start + 2, "nothing is in the journal");
    Ok((bench, tag, journal))
}

/// In a store that was not closed, behind the block that the journal would go on with.
pub fn behind_the_end() -> Result<()> {
    let (bench, _, journal) = crashed()?;
    let image = bench.cow.image();
    for block in [journal.end + 1, journal.end + 17] {
        bench.cow.restore(&image);
        spoil(&bench, &[Op::Read], block);
        let co = bench
            .co("")
            .with_context(|| format!("without block {block}"))?;
        bench.now.check(&co.open_read_only()?).context("origin")?;
        for &tag in bench.snapshots.keys() {
            bench.check_snapshot(tag)?;
        }
        ensure!(bench.cow.mend() > 0, "block {block} was not read");
        co.remove()?;
        bench.clean()?;
    }
    // That was the crash, once more.
    bench.cow.restore(&image);
    let co = bench.co("")?;
    bench.end(co)
}

/// In a store that was closed in order, anywhere.
pub fn closed() -> Result<()> {
    let (bench, _, journal) = crashed()?;
    bench.co("")?.remove()?;
    spoil(&bench, &[Op::Read], journal.start);
    bench.clean()?;
    let co = bench.co("")?;
    bench.cow.mend();
    bench.end(co)
}

/// The block that the journal would go on with, and one of those that hold something. Nobody can know
/// what was there: it is not used, and given up when that is asked for.
pub fn at_the_end() -> Result<()> {
    let (mut bench, tag, journal) = crashed()?;
    let image = bench.cow.image();
    let path = bench.cow.path().display().to_string();
    for block in [journal.end, journal.end - 1] {
        bench.cow.restore(&image);
        spoil(&bench, &[Op::Read], block);
        ensure!(bench.co("").is_err(), "it is used without block {block}");
        // It may have written to blocks that the last commit does not use.
        let before = bench.cow.image();
        dms(&["check", &path], 4, "may say what was changed last")?;
        dms(&["repair", "-y", &path], 4, "--give-up-missing")?;
        ensure!(bench.cow.image() == before, "it was changed unasked");
        let arguments = ["repair", "--give-up-missing", "-y", &path];
        dms(&arguments, 1, "give up the end of the journal")?;
        bench.clean()?;
        let co = bench.co("")?;
        if block == journal.end {
            // There was nothing.
            bench.check_snapshot(tag)?;
        }
        bench.now.check(&co.open_read_only()?).context("origin")?;
        bench.cow.mend();
        co.remove()?;
    }
    bench.cow.restore(&image);
    let co = bench.co("")?;
    let sectors = bench.now.sectors();
    bench.now.write(&co.open()?, 0, sectors / 2)?;
    bench.end(co)
}

/// Writes chunk after chunk, and tells which one could not be written.
fn write_on(bench: &mut Bench, co: &Device, chunks: Range<u64>) -> Result<Option<u64>> {
    let disk = co.open()?;
    for chunk in chunks {
        match write(&disk, chunk * CHUNK, CHUNK) {
            Ok(generation) => bench.now.set(chunk * CHUNK, CHUNK, generation),
            Err(_) => return Ok(Some(chunk)),
        }
    }
    Ok(None)
}

/// While the store is in use it knows what was said to be durable: it fails when a block can be neither
/// written nor read, and is read as it was then. The block is not met again.
pub fn in_use() -> Result<()> {
    let (mut bench, tag, journal) = crashed()?;
    let co = bench.co("-e error")?;
    let cs = bench.cs(tag)?;
    let released = bench.released();
    spoil(&bench, &[Op::Read, Op::Write], journal.start + 2);
    let failed = write_on(&mut bench, &co, 50..80)?;
    ensure!(failed.is_some(), "the block was never written");
    ensure!(co.state()?.state == "error", "{}", co.status()?);
    let then = bench.snapshots[&tag].clone();
    then.check(&cs.open_read_only()?).context("snapshot")?;
    bench.now.check(&co.open_read_only()?).context("origin")?;
    // And it can be written: its trees are, and the journal begins anew.
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    let failed = write_on(&mut bench, &co, 50..80)?;
    ensure!(failed.is_none(), "chunk {failed:?} cannot be written");
    drop(released);
    cs.remove()?;
    bench.end(co)
}

/// The same when it works again by itself: no snapshot is given up for that.
pub fn rescued() -> Result<()> {
    let (mut bench, _, journal) = crashed()?;
    let co = bench.co("")?;
    let released = bench.released();
    spoil(&bench, &[Op::Read, Op::Write], journal.start + 2);
    let failed = write_on(&mut bench, &co, 50..80)?;
    ensure!(failed.is_none(), "chunk {failed:?} cannot be written");
    ensure!(bench.cow.mend() > 0, "the block was never written");
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    drop(released);
    bench.end(co)
}
