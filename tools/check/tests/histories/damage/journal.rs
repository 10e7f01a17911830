// SPDX-License-Identifier: GPL-2.0

//! What the journal says: what it is by itself, and what it makes of the trees.

use dm_snap_mv_check::Kind;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{Entry, Run, CHECKSUM_XOR};
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::{Chunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_store::journal::MOST;

use super::{expect, look, rolling};
use crate::image::Image;
use crate::journal::{cow, place, records, used, FREE};
use crate::store::Store;

pub fn journal(store: &Store) {
    let good = Image::of(store);
    let with = |entries: &[Entry]| {
        let mut image = good.clone();
        image.journal(0, entries);
        image
    };
    let at = place(store);
    let (t, chunk, epoch) = at;
    let present = store.snapshots.iter().find(|(_, row)| !row.bookmark);
    let present = present.map(|(&key, _)| key);
    let present = present.and_then(TimelineId::new).unwrap();
    let absent = TimelineId::of_snapshot(t.origin(), Tag::new(0xffff).unwrap());
    let nobody = TimelineId::of_origin(OriginNr::new(77).unwrap());
    let gone = |epoch| Entry::NoChild { timeline: t, epoch };
    let unmarked = |epoch| Entry::NoBookmark { timeline: t, epoch };
    let based = |timeline, epoch, tag| Entry::Child {
        timeline,
        epoch,
        tag,
    };
    let in_use = store.used().iter().position(|&used| used).unwrap() as u64;
    let old = store.records.iter().find(|(_, &v)| v >> 62 == 0).unwrap().0;
    let old = Entry::Run(Run::Records {
        timeline: TimelineId::new(old.0).unwrap(),
        key: old.1,
        value: cow(FREE),
        len: 1,
    });
    for (name, entries, words) in [
        ("in use", vec![used(in_use, 1)], "comes into use and is"),
        (
            "twice",
            vec![used(FREE, 3), used(FREE + 2, 1)],
            "comes into use and is",
        ),
        ("for nothing", vec![used(FREE, 1)], "no record is of it"),
        (
            "one for nothing",
            vec![used(FREE, 4), records(at, cow(FREE), 3)],
            "COW chunk 903 comes into use, and no record is of it",
        ),
        (
            "not in use",
            vec![used(FREE, 2), records(at, cow(FREE), 3)],
            "does not come into use",
        ),
        (
            "another's",
            vec![records(at, cow(in_use), 1)],
            "does not come into use",
        ),
        (
            "shared",
            vec![
                used(FREE, 1),
                records(at, cow(FREE), 1),
                records((t, chunk.plus(1), epoch), cow(FREE), 1),
            ],
            "belongs to another one as well",
        ),
        (
            "instead of another",
            vec![used(FREE, 1), old],
            "takes the place of one of COW chunk",
        ),
        (
            "instead of a new one",
            vec![
                used(FREE, 2),
                records(at, cow(FREE), 1),
                records(at, cow(FREE + 1), 1),
            ],
            "COW chunk 900 comes into use, and no record is of it",
        ),
        (
            "outside",
            vec![records(at, cow(1 << 40), 1)],
            "metadata is corrupt",
        ),
        (
            "too far",
            vec![records(
                (t, Chunk::new(1 << 39).unwrap(), epoch),
                RecordValue::Zero,
                1,
            )],
            "behind the end",
        ),
        (
            "the future",
            vec![records((t, chunk, Epoch::MAX), RecordValue::Zero, 1)],
            "later epoch than there has been",
        ),
        (
            "the head",
            vec![records(
                (
                    t,
                    chunk,
                    store.origins.get(&t.origin().get()).unwrap().current_epoch,
                ),
                RecordValue::Zero,
                1,
            )],
            "later epoch than there has been",
        ),
        (
            "too many",
            vec![records(at, RecordValue::Zero, MOST as u32 + 1)],
            "more changes than a journal can",
        ),
        (
            "no snapshot goes",
            vec![Entry::NoSnapshot(absent)],
            "goes, and is not there",
        ),
        (
            "a snapshot goes twice",
            vec![Entry::NoSnapshot(present), Entry::NoSnapshot(present)],
            "goes, and is not there",
        ),
        (
            "nothing is based there",
            vec![gone(Epoch::MAX)],
            "nothing is based on epoch",
        ),
        (
            "nor on anything of it",
            vec![Entry::NoChild {
                timeline: absent,
                epoch: Epoch::FIRST,
            }],
            "nothing is based on epoch",
        ),
        (
            "no bookmark of it",
            vec![unmarked(Epoch::MAX)],
            "there is no bookmark of epoch",
        ),
        (
            "based no more",
            vec![based(t, Epoch::MAX, 1), gone(Epoch::MAX), gone(Epoch::MAX)],
            "nothing is based on epoch",
        ),
    ] {
        expect(name, &with(&entries), Kind::Journal, words);
    }

    // What would be found in the trees as well.
    let (rolling, other) = rolling(store);
    let origin = *store.origins.get(&other).unwrap();
    let changed = |edit: fn(&mut OriginRow)| {
        let mut row = origin;
        edit(&mut row);
        Entry::Origin(row)
    };
    let snapshot = *store.snapshots.get(&present.get()).unwrap();
    let edited = |edit: fn(&mut SnapshotRow)| {
        let mut row = snapshot;
        edit(&mut row);
        Entry::Snapshot(present.origin(), row)
    };
    let mark = |nr, start| {
        Entry::Run(Run::Done {
            origin: OriginNr::new(nr).unwrap(),
            start,
            len: 1,
        })
    };
    let limit = store.origins.get(&rolling).unwrap().rollback.unwrap().limit;
    let living = store
        .snapshots
        .iter()
        .find(|(_, row)| row.is_whole())
        .unwrap();
    let living = TimelineId::new(*living.0).unwrap();
    let dead = CleaningRow {
        drop: true,
        ..CleaningRow::default()
    };
    for (name, entry, kind, words) in [
        (
            "of nobody",
            records((nobody, chunk, epoch), RecordValue::Zero, 1),
            Kind::Record,
            "there is no such thing",
        ),
        (
            "a number",
            changed(|row| row.number = OriginNr::new(77).unwrap()),
            Kind::Origin,
            "not been given",
        ),
        (
            "a size",
            changed(|row| row.size = 1 << 50),
            Kind::Origin,
            "larger than an origin can be",
        ),
        (
            "chunks",
            changed(|row| row.chunks += 1),
            Kind::Missing,
            "COW chunks, there are",
        ),
        (
            "snapshots",
            changed(|row| row.snapshots += 1),
            Kind::Missing,
            "snapshots, there are",
        ),
        (
            "another size",
            edited(|row| row.size = 1 << 40),
            Kind::Snapshot,
            "larger than its origin",
        ),
        (
            "a base",
            edited(|row| row.base_epoch = Epoch::MAX),
            Kind::Snapshot,
            "epoch that has not ended",
        ),
        (
            "children",
            edited(|row| row.children += 1),
            Kind::Missing,
            "children, there are",
        ),
        (
            "a new one",
            edited(|row| row.tag = Tag::new(0xffff).unwrap()),
            Kind::Child,
            "has no entry for it",
        ),
        (
            "an old one",
            Entry::NoSnapshot(present),
            Kind::Child,
            "is not based on it",
        ),
        (
            "a child of the future",
            based(t, Epoch::MAX, 1),
            Kind::Child,
            "has not ended",
        ),
        (
            "a child of nothing",
            based(nobody, Epoch::FIRST, 1),
            Kind::Child,
            "there is no such thing",
        ),
        (
            "alive",
            Entry::Cleaning(living, dead),
            Kind::Cleaning,
            "is dead, and it is not",
        ),
        (
            "marks",
            mark(other, Chunk::ZERO),
            Kind::Rollback,
            "not being rolled back",
        ),
        (
            "a mark",
            mark(rolling, limit),
            Kind::Rollback,
            "takes no part",
        ),
    ] {
        expect(name, &with(&[entry]), kind, words);
    }

    // A block that is right, and makes no sense.
    let mut image = with(&[used(FREE, 3)]);
    let nr = image.superblock().layout.journal_start;
    image.put(nr, CHECKSUM_XOR, 64, &[99]);
    expect("nonsense", &image, Kind::Journal, "journal: ");
    let mut superblock = image.superblock();
    superblock.clean = false;
    image.put_superblock(&superblock);
    image.broken.insert(nr);
    expect("broken", &image, Kind::JournalEnd, "cannot read block");
    // A batch that is not whole, with one behind it: it was.
    let mut image = with(&[used(FREE, 3)]);
    image.journal(1, &[used(FREE + 3, 1)]);
    image.blocks.get_mut(&nr).unwrap().0[1000] ^= 1;
    expect("damaged", &image, Kind::Journal, "journal: ");
    whole_region(store);
}

/// What only shows when all of the region is looked at.
fn whole_region(store: &Store) {
    let good = Image::of(store);
    let at = place(store);
    let start = good.superblock().layout.journal_start;
    let run = [used(FREE, 3), records(at, cow(FREE), 3)];
    let mut row = *store.origins.get(&at.0.origin().get()).unwrap();
    row.chunks += 3;
    let row = Entry::Origin(row);
    let mut image = good.clone();
    let mut next = image.journal(0, &[run[0], run[1], row]);
    while next < 50 {
        next = image.journal(next, &[row]);
    }
    assert_eq!(look(&image).0, []);
    // A hole that is longer than who replays it looks across.
    let mut hole = image.clone();
    for index in 1..40 {
        hole.blocks.remove(&(start + index));
    }
    expect("a hole", &hole, Kind::Journal, "block 40 belongs to it");
    let mut hole = image.clone();
    for index in 0..40 {
        hole.blocks.remove(&(start + index));
    }
    expect("a hole", &hole, Kind::Journal, "it ends at block 0");
    // It is said to be closed in order, or to have had a commit that it has not had.
    let mut closed = image.clone();
    let mut superblock = closed.superblock();
    superblock.clean = true;
    closed.put_superblock(&superblock);
    expect("closed", &closed, Kind::Superblock, "was closed in order");
    let mut skipped = image.clone();
    let mut superblock = skipped.superblock();
    superblock.transaction += 1;
    skipped.put_superblock(&superblock);
    assert_eq!(look(&skipped).0, []);
    skipped.put_backup(&image.superblock());
    expect("skipped", &skipped, Kind::Superblock, "they would be lost");
    // The superblock of an earlier commit.
    let mut old = image.clone();
    let mut superblock = old.superblock();
    superblock.transaction -= 1;
    old.put_superblock(&superblock);
    expect("an old one", &old, Kind::Superblock, "older than the store");
    // Entries are cut.
    let mut cut = image.clone();
    cut.put(start, CHECKSUM_XOR, 48, &(64u32 + 17).to_le_bytes());
    expect("entries cut", &cut, Kind::Journal, "has something behind");
    // Regions that do not follow one another.
    let with = |edit: fn(&mut Layout)| {
        let mut superblock = good.superblock();
        edit(&mut superblock.layout);
        let mut image = good.clone();
        image.put_superblock(&superblock);
        image
    };
    let image = with(|layout| layout.journal_blocks -= 8);
    expect("a region", &image, Kind::Superblock, "data begin at sector");
    let image = with(|layout| {
        (layout.journal_start, layout.journal_blocks) =
            (layout.journal_start + 4, layout.journal_blocks - 4)
    });
    expect(
        "a region",
        &image,
        Kind::Superblock,
        "the journal begins at",
    );
}
