// SPDX-License-Identifier: GPL-2.0

//! What happens when there is no space: for data, which are 32 chunks, or for metadata.

use anyhow::Result;

use super::player::{How, Player};
use super::scenes::SMALL;

fn fill(player: &mut Player<'_>, from: u64) -> Result<()> {
    // 28 of the 32 chunks that there are.
    for i in 0..7 {
        player.write(0, 0, How::Write, (from + i * 40, 32))?;
    }
    Ok(())
}

pub fn full_invalidate(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    player.bind(1)?;
    player.take(1, 0)?;
    player.write(1, 0, How::Write, (0, 8))?;
    let tag = player.take(0, 0)?;
    fill(player, 0)?;
    player.write(0, 0, How::Write, (400, 16))?;
    player.write(0, 0, How::Write, (440, 72))?;
    player.write(0, 0, How::Write, (0, 600))?;
    player.flush(0, 0)?;
    player.delete(0, tag)?;
    player.rest(0)?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (8, 40))
}

pub fn full_error(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    fill(player, 0)?;
    player.write(0, 0, How::Write, (400, 72))?;
    player.write(0, 0, How::Write, (600, 20))?;
    player.write(0, tag, How::Write, (700, 20))?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (20, 20))?;
    player.grow_cow(0, SMALL.cow + 256)?;
    player.write(0, 0, How::Write, (24, 24))?;
    player.delete(0, tag)?;
    player.rest(0)?;
    player.write(0, 0, How::Fua, (400, 40))
}

pub fn full_queue(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    fill(player, 0)?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (0, 16))?;
    player.write_hungry(0, (400, 64), tag)?;
    player.flush(0, 0)
}

/// Begins a rollback that has to preserve more than there is room for. Returns a snapshot that
/// needs it.
fn roll_back_when_full(player: &mut Player<'_>) -> Result<u32> {
    let source = player.take(0, 0)?;
    // Of 32 chunks these need 12.
    for i in 0..3 {
        player.write(0, 0, How::Write, (i * 40, 32))?;
    }
    let needs = player.take(0, 0)?;
    // And these, elsewhere, 16 more.
    for i in 10..14 {
        player.write(0, 0, How::Write, (i * 40, 32))?;
    }
    player.flush(0, 0)?;
    player.rollback(0, source, false)?;
    Ok(needs)
}

pub fn full_rollback(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let needs = roll_back_when_full(player)?;
    player.wait_stopped(0)?;
    // To where it waits, and elsewhere.
    player.write(0, 0, How::Write, (84, 20))?;
    player.write(0, 0, How::Write, (500, 60))?;
    player.flush(0, 0)?;
    player.deactivate()?;
    player.activate(0)?;
    player.wait_stopped(0)?;
    player.delete(0, needs)?;
    player.rest(0)?;
    player.write(0, 0, How::Write, (84, 20))
}

pub fn full_rollback_invalidates(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    roll_back_when_full(player)?;
    player.write(0, 0, How::Write, (84, 20))?;
    player.rest(0)?;
    player.flush(0, 0)?;
    player.write(0, 0, How::Write, (500, 60))
}

/// What is kept of the metadata for what must go on is enough for it.
pub fn full_metadata(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    player.exhaust_metadata(0, tag)?;
    player.flush(0, tag)?;
    player.begins_here()?;
    player.refused(|player| player.take(0, 0).map(drop))?;
    player.refused(|player| player.rollback(0, tag, false))?;
    player.write(0, 0, How::Write, (800, 72))?;
    player.write(0, tag, How::Zero, (64, 72))?;
    player.flush(0, tag)?;
    let some = player.tags(0).to_vec();
    for tag in some.iter().skip(3).step_by(2).take(3) {
        player.delete(0, *tag)?;
    }
    player.rest(0)?;
    player.take_if_it_fits(0)?;
    player.write(0, 0, How::Write, (804, 20))?;
    player.flush(0, 0)
}
