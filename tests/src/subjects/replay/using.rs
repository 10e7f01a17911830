// SPDX-License-Identifier: GPL-2.0

//! What was found after a crash is used for a while: nothing that was there changes, and what the
//! policy promises for a lack of space holds.

use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::bench::{Bench, Found};
use super::player::generations;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow;
use crate::store::{until_nothing, Device};

/// A store that has fewer free chunks may be too full for what is written here.
const FEW_CHUNKS: u64 = 40;

/// The same for blocks of metadata: 256 of them are kept for what must go on, and a transaction
/// may hold some more until it ends.
const FEW_BLOCKS: u64 = 400;

/// Whether there may be no space.
pub fn is_short(co: &Device) -> Result<bool> {
    let state = co.state()?;
    let (blocks, chunks) = (state.metadata, state.chunks);
    Ok(chunks.1 - chunks.0 < FEW_CHUNKS || blocks.1 - blocks.0 < FEW_BLOCKS)
}

/// Something was refused: for lack of space, or it is an error.
fn for_lack_of_space(co: &Device, error: anyhow::Error) -> Result<()> {
    let errno = error.downcast_ref::<std::io::Error>();
    let full = errno.and_then(std::io::Error::raw_os_error) == Some(libc::ENOSPC);
    if full && is_short(co)? {
        return Ok(());
    }
    let status = co.status()?;
    Err(error.context(format!("with status {status}")))
}

impl Found {
    /// A snapshot that may be deleted, which is no longer there then.
    fn give_up(&mut self, random: &mut Random) -> Option<u32> {
        let all = self.shots.len() + self.others.len();
        if all == 0 {
            return None;
        }
        let which = random.pick(0..all as u64) as usize;
        Some(match which.checked_sub(self.shots.len()) {
            None => self.shots.swap_remove(which).0,
            Some(other) => self.others.swap_remove(other),
        })
    }
}

impl Bench {
    /// Uses an origin and its snapshots.
    pub fn go_on(
        &self,
        origin: usize,
        co: &Device,
        seen: &mut Found,
        random: &mut Random,
    ) -> Result<()> {
        let taken = match co.take() {
            Ok(tag) => Some(tag),
            Err(error) => for_lack_of_space(co, error).map(|()| None)?,
        };
        if let Some(tag) = taken {
            seen.shots.push((tag, seen.head.clone()));
        }
        for _ in 0..2 {
            self.overwrite_origin(co, seen, random)?;
        }
        same(&generations(&co.open_read_only()?)?, &seen.head).context("head")?;
        self.lose_invalid(co, seen)?;
        self.overwrite_snapshot(origin, co, seen, random)?;
        // Only some of them, for time's sake.
        for (tag, held) in seen.shots.iter().rev().take(2) {
            if let Some(now) = self.read(origin, co, *tag, held.len() as u64)? {
                same(&now, held).with_context(|| format!("snapshot {tag}"))?;
            }
        }
        if taken.is_none() {
            self.make_room(co, seen, random)?;
        }
        Ok(())
    }

    /// What a snapshot holds; nothing if it has become invalid, as it may.
    pub fn read(
        &self,
        origin: usize,
        co: &Device,
        tag: u32,
        sectors: u64,
    ) -> Result<Option<Vec<u32>>> {
        let result = self
            .cs(origin, tag, sectors)
            .and_then(|cs| generations(&cs.open_read_only()?));
        self.clear_snapshot()?;
        match result {
            Err(error) => {
                ensure!(self.is_lost(co, tag)?, "snapshot {tag}: {error:#}");
                Ok(None)
            }
            Ok(held) => Ok(Some(held)),
        }
    }

    fn overwrite_origin(&self, co: &Device, seen: &mut Found, random: &mut Random) -> Result<()> {
        let disk = co.open()?;
        let (start, count) = extent(seen.head.len(), random);
        let result = match self.waits_for_space() {
            true => write_patiently(co, &disk, (start, count), seen, random)?,
            false => shadow::write(&disk, start, count),
        };
        overwritten(co, &disk, &mut seen.head, (start, count), result)
    }

    fn overwrite_snapshot(
        &self,
        origin: usize,
        co: &Device,
        seen: &mut Found,
        random: &mut Random,
    ) -> Result<()> {
        if seen.shots.is_empty() {
            return Ok(());
        }
        let which = random.pick(0..seen.shots.len() as u64) as usize;
        let (tag, mut held) = seen.shots.remove(which);
        let at = extent(held.len(), random);
        let result = self.write_snapshot(origin, co, tag, &mut held, at);
        self.clear_snapshot()?;
        if let Err(error) = result {
            ensure!(self.is_lost(co, tag)?, "snapshot {tag}: {error:#}");
            return Ok(());
        }
        if random.once_in(2) {
            return co.delete(tag);
        }
        seen.shots.push((tag, held));
        Ok(())
    }

    fn write_snapshot(
        &self,
        origin: usize,
        co: &Device,
        tag: u32,
        held: &mut [u32],
        at: (u64, u64),
    ) -> Result<()> {
        let disk = self.cs(origin, tag, held.len() as u64)?.open()?;
        let result = shadow::write(&disk, at.0, at.1);
        overwritten(co, &disk, held, at, result)?;
        same(&generations(&disk)?, held)
    }

    /// Whether a snapshot has become invalid, as it may: a rollback may need space at any time.
    fn is_lost(&self, co: &Device, tag: u32) -> Result<bool> {
        let list = co.list()?;
        let invalid = list.row(tag).is_some_and(|row| row.flags.contains('I'));
        Ok(invalid && self.may_invalidate() && is_short(co)?)
    }

    /// Snapshots that have become invalid are none of what must stay. Others must not say so.
    fn lose_invalid(&self, co: &Device, seen: &mut Found) -> Result<()> {
        let list = co.list()?;
        let invalid = |tag: u32| list.row(tag).is_some_and(|row| row.flags.contains('I'));
        let before = seen.shots.len();
        seen.shots.retain(|(tag, _)| !invalid(*tag));
        if seen.shots.len() != before {
            ensure!(
                self.may_invalidate() && is_short(co)?,
                "snapshots have become invalid: {}",
                co.status()?
            );
        }
        Ok(())
    }

    /// Deleting snapshots goes on however full it is, and makes room for a new one. Many at once: each
    /// time, all records of what they are snapshots of are gone through, and leaves become fewer only
    /// when little is left in them.
    fn make_room(&self, co: &Device, seen: &mut Found, random: &mut Random) -> Result<()> {
        for batch in (8..).map(|power| 1 << power) {
            ensure!(
                !seen.shots.is_empty() || !seen.others.is_empty(),
                "no room without any snapshot: {}",
                co.status()?
            );
            for _ in 0..batch {
                let Some(tag) = seen.give_up(random) else {
                    break;
                };
                co.delete(tag)
                    .with_context(|| format!("to make room: {tag}"))?;
            }
            co.wait_clean()?;
            match co.take() {
                Ok(tag) => {
                    seen.shots.push((tag, seen.head.clone()));
                    return Ok(());
                }
                Err(error) => for_lack_of_space(co, error)?,
            }
        }
        Ok(())
    }

    /// Waits for the end of a rollback. If there is no space for it, deleting snapshots brings some.
    pub fn finish_rollback(
        &self,
        co: &Device,
        seen: &mut Found,
        random: &mut Random,
    ) -> Result<()> {
        loop {
            match co.wait_rollback_or_stop()?.as_deref() {
                None => return Ok(()),
                Some("full") => ensure!(
                    !self.may_invalidate() && is_short(co)?,
                    "a rollback finds no space: {}",
                    co.status()?
                ),
                Some(why) => bail!("a rollback stands still: {why}"),
            }
            match seen.give_up(random) {
                Some(tag) => co.delete(tag)?,
                // Nothing has to be preserved any more.
                None => return co.wait_rollback(),
            }
            co.wait_clean()?;
        }
    }
}

/// Writes while there may be no space, which a write waits for: it comes from deleting snapshots.
fn write_patiently(
    co: &Device,
    disk: &Disk,
    (start, count): (u64, u64),
    seen: &mut Found,
    random: &mut Random,
) -> Result<Result<u32>> {
    thread::scope(|scope| {
        let writer = scope.spawn(|| shadow::write(disk, start, count));
        until_nothing("a write that waits for space", || {
            if writer.is_finished() {
                return Ok(None);
            }
            if co.state()?.state == "full" {
                ensure!(is_short(co)?, "full: {}", co.status()?);
                if let Some(tag) = seen.give_up(random) {
                    co.delete(tag)?;
                    co.wait_clean()?;
                }
            }
            Ok(Some(co.status()?))
        })?;
        Ok(writer.join().expect("no panic"))
    })
}

fn extent(sectors: usize, random: &mut Random) -> (u64, u64) {
    let (start, count) = random.extent(sectors as u64);
    (start, count.min(40))
}

/// What a device holds after a write, which may have found no space.
fn overwritten(
    co: &Device,
    disk: &Disk,
    held: &mut [u32],
    (start, count): (u64, u64),
    result: Result<u32>,
) -> Result<()> {
    let range = start as usize..(start + count) as usize;
    match result {
        Ok(generation) => held[range].fill(generation),
        Err(error) => {
            for_lack_of_space(co, error)?;
            // What was written of it is there, and nothing else.
            let now = generations(disk)?;
            held[range.clone()].copy_from_slice(&now[range]);
        }
    }
    Ok(())
}

fn same(found: &[u32], expected: &[u32]) -> Result<()> {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(sector) = differs {
        bail!(
            "sector {sector} is of write {}, not {}",
            found[sector],
            expected[sector]
        );
    }
    ensure!(found.len() == expected.len(), "{} sectors", found.len());
    Ok(())
}
