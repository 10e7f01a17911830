// SPDX-License-Identifier: GPL-2.0

//! No chunk is left that nobody has had, or hardly any: what is freed is what comes into use next. That
//! it was in use may be durable by the journal alone, and that it was freed not at all.

use anyhow::Result;

use super::player::{How, Player};
use super::scenes::SMALL_CHUNKS;

/// Sectors of a chunk.
const CHUNK: u64 = 8;

/// The first chunk that is not written by way of preparation.
const PLACE: u64 = SMALL_CHUNKS;

/// Writes a snapshot until so many chunks are left. That is in the trees, and the journal is empty; what
/// comes next is in the journal. Returns the snapshot.
fn all_but(player: &mut Player<'_>, pages: u32, left: u64) -> Result<u32> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    player.write(0, tag, How::Write, (0, (SMALL_CHUNKS - left) * CHUNK))?;
    player.deactivate()?;
    player.activate(0)?;
    // The first change is not.
    player.take(0, 0)?;
    player.begins_here()?;
    Ok(tag)
}

/// Writes a chunk of a version, or as much of it as there is space for.
fn chunk(player: &mut Player<'_>, tag: u32, how: How, chunk: u64) -> Result<()> {
    player.write(0, tag, how, (chunk * CHUNK, CHUNK))
}

/// A chunk of a snapshot is made durable and given up, and another one takes its place.
pub fn given_up(player: &mut Player<'_>, pages: u32) -> Result<()> {
    let tag = all_but(player, pages, 1)?;
    for (i, how) in [How::Discard, How::Zero, How::Discard]
        .into_iter()
        .enumerate()
    {
        let place = PLACE + 4 * i as u64;
        chunk(player, tag, How::Fua, place)?;
        chunk(player, tag, how, place)?;
        chunk(player, tag, How::Write, place + 1)?;
        // And the same for that one, which need not have become durable.
        chunk(player, tag, how, place + 1)?;
        chunk(player, tag, How::Write, place + 2)?;
        chunk(player, tag, how, place + 2)?;
    }
    player.flush(0, tag)
}

/// What was preserved is given up with the snapshot that it was preserved for.
pub fn deleted_when_full(player: &mut Player<'_>, pages: u32) -> Result<()> {
    let tag = all_but(player, pages, 2)?;
    for i in 0..3 {
        chunk(player, 0, How::Write, PLACE + 4 * i)?;
        chunk(player, tag, How::Fua, PLACE + 4 * i + 1)?;
        let newest = player.tags(0).last().copied().unwrap_or(tag);
        player.delete(0, newest)?;
        // The cleaner may be at any point of its way.
        chunk(player, tag, How::Write, PLACE + 4 * i + 2)?;
        chunk(player, tag, How::Discard, PLACE + 4 * i + 1)?;
        player.rest(0)?;
        chunk(player, tag, How::Discard, PLACE + 4 * i + 2)?;
        player.take(0, 0)?;
    }
    player.flush(0, tag)
}

/// A rollback, and what it gives up at its end.
pub fn rolled_back_when_full(player: &mut Player<'_>, pages: u32) -> Result<()> {
    let tag = all_but(player, pages, 2)?;
    let second = player.tags(0).last().copied().unwrap_or(tag);
    chunk(player, 0, How::Write, PLACE)?;
    chunk(player, second, How::Fua, PLACE + 1)?;
    // Nobody else needs what this overwrites.
    player.delete(0, tag)?;
    player.rest(0)?;
    player.rollback(0, second, true)?;
    chunk(player, 0, How::Write, PLACE + 1)?;
    player.rest(0)?;
    let tag = player.take(0, 0)?;
    player.write(0, tag, How::Write, (0, (SMALL_CHUNKS - 1) * CHUNK))?;
    chunk(player, 0, How::Fua, PLACE + 2)?;
    chunk(player, tag, How::Discard, 0)?;
    chunk(player, 0, How::Write, PLACE + 3)?;
    player.flush(0, tag)
}

/// All of it, in any order.
pub fn in_any_order(player: &mut Player<'_>, pages: u32) -> Result<()> {
    let tag = all_but(player, pages, 2)?;
    let mut newest = player.tags(0).last().copied();
    for _ in 0..40 {
        let place = PLACE + player.random.pick(0..4);
        match player.random.pick(0..12) {
            0..=3 => chunk(player, tag, How::Fua, place)?,
            4..=5 => chunk(player, tag, How::Write, place)?,
            6..=7 => chunk(player, tag, How::Discard, place)?,
            8 => chunk(player, tag, How::Zero, place)?,
            9 => chunk(player, 0, How::Write, place + 8)?,
            _ => match newest.take() {
                Some(other) => player.delete(0, other)?,
                None => newest = Some(player.take(0, 0)?),
            },
        }
    }
    player.flush(0, tag)
}
