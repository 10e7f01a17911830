// SPDX-License-Identifier: GPL-2.0

//! What happens on the stage: short scenes, each of one kind of operation, and long ones of all.

use anyhow::Result;

use super::full_scenes::{
    full_error, full_invalidate, full_metadata, full_queue, full_rollback,
    full_rollback_invalidates,
};
use super::player::{How, Player};
use super::reuse_scenes::{deleted_when_full, given_up, in_any_order, rolled_back_when_full};
use super::stage::{Sizes, COW_PLACE, ORIGIN_PLACES};
use crate::disks::MIB;

/// One scene.
pub struct Scene {
    /// What it is about.
    pub name: &'static str,
    /// Pages of a chunk.
    pub pages: u32,
    /// Sizes to begin with.
    pub sizes: Sizes,
    /// For when there is no space.
    pub policy: &'static str,
    /// Of the crashes no more than so many are tried: those of stores with a lot in them take long.
    /// On a kernel that is so many times as slow there are so many times fewer.
    pub most: usize,
    /// What happens.
    pub play: fn(&mut Player<'_>, u32) -> Result<()>,
}

const USUAL: Sizes = Sizes {
    origins: [MIB / 2, MIB / 8],
    cow: 7 * MIB,
};

/// Metadata take 4 MiB, the journal 256 KiB, so this has room for 32 chunks of 4 KiB.
pub const SMALL: Sizes = Sizes {
    origins: [MIB / 2, MIB / 8],
    cow: 4 * MIB + 512 + 8 * SMALL_CHUNKS,
};
pub const SMALL_CHUNKS: u64 = 32;

const fn scene(
    name: &'static str,
    pages: u32,
    play: fn(&mut Player<'_>, u32) -> Result<()>,
) -> Scene {
    Scene {
        name,
        pages,
        sizes: USUAL,
        policy: "invalidate",
        most: usize::MAX,
        play,
    }
}

const fn full(
    name: &'static str,
    policy: &'static str,
    play: fn(&mut Player<'_>, u32) -> Result<()>,
) -> Scene {
    Scene {
        name,
        pages: 1,
        sizes: SMALL,
        policy,
        most: usize::MAX,
        play,
    }
}

/// Space that comes into use again and again.
const fn reuse(name: &'static str, play: fn(&mut Player<'_>, u32) -> Result<()>) -> Scene {
    Scene {
        most: 100,
        ..full(name, "error", play)
    }
}

/// The short ones.
pub const SHORT: &[Scene] = &[
    scene("format, bind, unbind, bind again", 1, bindings),
    scene("first writes and rewrites", 1, rewrites),
    scene("first writes of large chunks", 4, rewrites),
    scene("snapshots while writes are on their way", 1, taken),
    scene("parts of chunks of snapshots", 4, parts),
    scene("snapshots of snapshots", 1, nested),
    scene("deleting and cleaning", 1, deleted),
    scene("bookmarks", 1, bookmarks),
    scene("bookmarks with large chunks", 4, bookmarks),
    scene("bookmarks, rolling back", 1, bookmarks_rolled_back),
    scene("rolling back, with writes", 1, rolled_back),
    scene("rolling back with large chunks", 4, rolled_back),
    scene("merging", 1, merged),
    scene("rolling back and merging later", 1, deferred),
    scene("discards and zeroes", 2, discards),
    scene("zeroes of many chunks", 1, zeroes),
    scene("growing", 1, growing),
    full(
        "full: snapshots become invalid",
        "invalidate",
        full_invalidate,
    ),
    full("full: writes fail", "error", full_error),
    full("full: writes wait", "queue", full_queue),
    full("full: a rollback stands still", "error", full_rollback),
    full(
        "full: a rollback makes snapshots invalid",
        "invalidate",
        full_rollback_invalidates,
    ),
    reuse("no fresh space: given up", given_up),
    reuse("no fresh space: deleted", deleted_when_full),
    reuse("no fresh space: rolled back", rolled_back_when_full),
    reuse("no fresh space: in any order", in_any_order),
];

/// The long ones.
pub const MIXED: &[Scene] = &[
    scene("everything", 1, mixed),
    scene("everything with large chunks", 4, mixed),
    full("everything in little space", "error", mixed_full),
    Scene {
        name: "full metadata",
        pages: 1,
        sizes: USUAL,
        policy: "error",
        most: 20,
        play: full_metadata,
    },
];

fn some_writes(player: &mut Player<'_>, origin: usize, tag: u32, times: u32) -> Result<()> {
    for _ in 0..times {
        let at = player.extent(origin);
        let how = *player.random.one_of(&[How::Write, How::Write, How::Fua]);
        player.write(origin, tag, how, at)?;
    }
    Ok(())
}

fn bindings(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    player.bind(1)?;
    player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.unbind(1)?;
    player.bind(1)?;
    player.delete(0, 1)?;
    player.unbind(0)?;
    player.bind(0)?;
    player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    // Over a store with a snapshot.
    player.format(1, pages)?;
    player.bind(0)?;
    player.take(0, 0)?;
    some_writes(player, 0, 0, 1)
}

fn rewrites(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    player.write(0, 0, How::Write, (17, 20))?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (16, 8))?;
    player.write(0, 0, How::Write, (16, 40))?;
    player.flush(0, 0)?;
    player.write(0, 0, How::Fua, (21, 9))?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (16, 8))?;
    player.write(0, 0, How::Write, (18, 300))?;
    some_writes(player, 0, 0, 3)?;
    player.deactivate()?;
    player.activate(0)?;
    player.write(0, 0, How::Write, (500, 9))?;
    player.flush(0, 0)
}

fn taken(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    for _ in 0..3 {
        player.take_while_writing(0)?;
    }
    player.flush(0, 0)
}

fn parts(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    player.write(0, tag, How::Write, (3, 5))?;
    player.write(0, 0, How::Write, (0, 20))?;
    player.write(0, tag, How::Write, (9, 30))?;
    player.flush(0, tag)?;
    player.write(0, tag, How::Fua, (30, 70))?;
    player.write(0, tag, How::Write, (4, 8))?;
    player.take(0, tag)?;
    player.write(0, tag, How::Write, (5, 3))?;
    player.flush(0, tag)?;
    some_writes(player, 0, tag, 3)
}

fn nested(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let mut tag = player.take(0, 0)?;
    for _ in 0..3 {
        some_writes(player, 0, tag, 1)?;
        tag = player.take(0, tag)?;
        some_writes(player, 0, 0, 1)?;
    }
    some_writes(player, 0, tag, 2)?;
    player.flush(0, tag)?;
    // The one in the middle stays as a ghost.
    player.delete(0, 2)
}

fn deleted(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    for _ in 0..3 {
        let tag = player.take(0, 0)?;
        some_writes(player, 0, 0, 2)?;
        some_writes(player, 0, tag, 1)?;
    }
    player.delete(0, 2)?;
    some_writes(player, 0, 0, 1)?;
    player.delete(0, 3)?;
    player.delete(0, 1)?;
    player.rest(0)?;
    // What was freed is used again.
    let tag = player.take(0, 0)?;
    some_writes(player, 0, 0, 2)?;
    some_writes(player, 0, tag, 1)
}

fn bookmarks(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let first = player.mark(0)?;
    some_writes(player, 0, 0, 2)?;
    let snapshot = player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.mark(0)?;
    some_writes(player, 0, 0, 2)?;
    player.write(0, 0, How::Discard, (64, 80))?;
    player.keep(0, snapshot)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    let snapshot = player.take(0, 0)?;
    let child = player.take(0, snapshot)?;
    some_writes(player, 0, 0, 1)?;
    player.keep(0, snapshot)?;
    player.flush(0, 0)?;
    player.delete(0, first)?;
    some_writes(player, 0, 0, 1)?;
    player.delete(0, child)?;
    player.deactivate()?;
    player.activate(0)?;
    some_writes(player, 0, 0, 2)
}

fn bookmarks_rolled_back(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    player.mark(0)?;
    let tag = player.take(0, 0)?;
    for i in 0..12 {
        player.write(0, 0, How::Write, (i * 70, 8))?;
    }
    player.mark(0)?;
    some_writes(player, 0, tag, 1)?;
    player.rollback(0, tag, false)?;
    for i in [9, 5] {
        player.write(0, 0, How::Fua, (i * 70 + 2, 3))?;
    }
    player.mark(0)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    some_writes(player, 0, 0, 1)
}

fn rolled_back(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    // So many places differ that the first of what follows comes before they are merged.
    for i in 0..16 {
        player.write(0, 0, How::Write, (i * 60, 8))?;
    }
    some_writes(player, 0, tag, 1)?;
    player.rollback(0, tag, false)?;
    for i in [13, 7, 10] {
        player.write(0, 0, How::Write, (i * 60 + 2, 3))?;
        player.flush(0, 0)?;
    }
    some_writes(player, 0, 0, 1)?;
    player.take(0, 0)?;
    player.flush(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    some_writes(player, 0, 0, 1)
}

fn merged(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    some_writes(player, 0, tag, 2)?;
    some_writes(player, 0, 0, 3)?;
    player.rollback(0, tag, true)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    let tag = player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.rollback(0, tag, true)?;
    player.rest(0)?;
    some_writes(player, 0, 0, 1)
}

fn deferred(player: &mut Player<'_>, pages: u32) -> Result<()> {
    let again = |player: &mut Player<'_>| {
        player.deactivate()?;
        player.activate(0)
    };
    player.format(0, pages)?;
    let first = player.take(0, 0)?;
    some_writes(player, 0, 0, 2)?;
    some_writes(player, 0, first, 1)?;
    let second = player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.defer(0, first, false)?;
    // Until then it is what it was.
    some_writes(player, 0, 0, 1)?;
    player.write(0, first, How::Write, (30, 11))?;
    player.take(0, 0)?;
    again(player)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    // The last one said is what happens.
    player.defer(0, first, true)?;
    player.defer(0, second, true)?;
    again(player)?;
    some_writes(player, 0, 0, 1)?;
    player.rest(0)?;
    // And one that becomes impossible does not.
    player.defer(0, first, false)?;
    player.delete(0, first)?;
    again(player)?;
    some_writes(player, 0, 0, 1)
}

fn discards(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    player.write(0, 0, How::Discard, (32, 64))?;
    player.write(0, 0, How::Zero, (100, 30))?;
    player.flush(0, 0)?;
    player.write(0, tag, How::Write, (0, 64))?;
    player.write(0, tag, How::Discard, (16, 32))?;
    player.write(0, tag, How::Zero, (40, 30))?;
    player.flush(0, tag)?;
    player.write(0, tag, How::Write, (20, 10))?;
    player.take(0, tag)?;
    player.write(0, tag, How::Zero, (0, 96))?;
    player.write(0, 0, How::Discard, (0, 200))
}

/// Long runs of zeroes, cut up and joined, with and without others that need them.
fn zeroes(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    let tag = player.take(0, 0)?;
    player.write(0, tag, How::Write, (8, 40))?;
    player.write(0, tag, How::Discard, (16, 800))?;
    player.flush(0, tag)?;
    player.write(0, tag, How::Fua, (100, 40))?;
    player.write(0, tag, How::Zero, (60, 300))?;
    player.write(0, tag, How::Write, (808, 8))?;
    let child = player.take(0, tag)?;
    player.write(0, tag, How::Fua, (300, 20))?;
    player.write(0, tag, How::Zero, (0, 1000))?;
    player.write(0, child, How::Discard, (8, 400))?;
    player.flush(0, tag)?;
    player.delete(0, child)?;
    player.write(0, tag, How::Write, (304, 30))?;
    player.rest(0)?;
    player.write(0, tag, How::Discard, (200, 400))?;
    player.rollback(0, tag, false)?;
    player.write(0, 0, How::Fua, (200, 30))?;
    player.write(0, tag, How::Write, (400, 30))?;
    player.rest(0)?;
    player.flush(0, 0)?;
    player.write(0, tag, How::Discard, (0, 1024))?;
    player.flush(0, tag)
}

fn growing(player: &mut Player<'_>, pages: u32) -> Result<()> {
    player.format(0, pages)?;
    player.take(0, 0)?;
    some_writes(player, 0, 0, 1)?;
    player.grow_cow(0, COW_PLACE.1)?;
    some_writes(player, 0, 0, 1)?;
    player.grow_origin(0, ORIGIN_PLACES[0].1)?;
    some_writes(player, 0, 0, 2)?;
    player.take(0, 0)?;
    player.write(0, 0, How::Write, (MIB / 2, 64))?;
    player.flush(0, 0)
}

fn mixed(player: &mut Player<'_>, pages: u32) -> Result<()> {
    all_sorts(player, pages, true)
}

/// A rollback may need more space than there is, and then does not end.
fn mixed_full(player: &mut Player<'_>, pages: u32) -> Result<()> {
    all_sorts(player, pages, false)
}

/// All sorts of operations, as they come.
fn all_sorts(player: &mut Player<'_>, pages: u32, rollbacks: bool) -> Result<()> {
    player.format(0, pages)?;
    player.bind(1)?;
    for _ in 0..60 {
        let origin = usize::from(player.random.once_in(6));
        let tags = player.tags(origin).to_vec();
        let some_tag = match tags.as_slice() {
            [] => 0,
            tags => *player.random.one_of(tags),
        };
        match player.random.pick(0..40) {
            0..=12 => some_writes(player, origin, 0, 1)?,
            13..=17 => some_writes(player, origin, some_tag, 1)?,
            18..=20 => {
                let tag = *player.random.one_of(&[0, some_tag]);
                player.flush(origin, tag)?;
            }
            21 => {
                let (at, tag) = (player.extent(origin), *player.random.one_of(&[0, some_tag]));
                player.write(origin, tag, How::Discard, at)?;
            }
            22 => {
                let (at, tag) = (player.extent(origin), *player.random.one_of(&[0, some_tag]));
                player.write(origin, tag, How::Zero, at)?;
            }
            23..=26 if tags.len() < 4 => drop(player.take(origin, 0)?),
            27 if tags.len() < 4 => drop(player.take_while_writing(origin)?),
            28..=29 if tags.len() < 4 => drop(player.take(origin, some_tag)?),
            30..=32 if tags.len() > 1 => player.delete(origin, some_tag)?,
            33..=34 if some_tag != 0 && rollbacks => player.rollback(origin, some_tag, false)?,
            35 if some_tag != 0 && rollbacks => player.rollback(origin, some_tag, true)?,
            36 => {
                player.deactivate()?;
                player.activate(0)?;
                player.activate(1)?;
            }
            37 if some_tag != 0 => player.close(origin, some_tag)?,
            _ => some_writes(player, origin, 0, 2)?,
        }
    }
    player.rest(0)
}
