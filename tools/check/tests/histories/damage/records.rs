// SPDX-License-Identifier: GPL-2.0

//! Records, and what rollback and cleaning have left to do.

use dm_snap_mv_check::Kind;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::origin_row::Deferred;
use dm_snap_mv_model::disk::superblock::INCOMPAT_ZEROES;
use dm_snap_mv_model::ids::{Chunk, Epoch, Tag, TimelineId};
use dm_snap_mv_model::record_key::{child_epoch, child_key, RecordKey, RecordValue};

use super::{edit_origin, expect, look, rolling, snapshot, with, with_superblock, NODE};
use crate::image::Image;
use crate::store::Store;

pub fn rollback(store: &Store) {
    let (nr, other) = rolling(store);
    let row = *store.origins.get(&nr).unwrap();
    let rollback = row.rollback.unwrap();
    let source = row.timeline_of(rollback.source).get();
    let pin = (source, child_key(rollback.source_epoch));
    let image = with(store, |s| s.children.remove(&pin));
    expect("a pin", &image, Kind::Rollback, "has no pin");
    let image = with(store, |s| edit_origin(s, nr, |row| row.rollback = None));
    expect(
        "no rollback",
        &image,
        Kind::Child,
        "rollback that there is not",
    );
    expect(
        "no rollback",
        &image,
        Kind::Rollback,
        "not being rolled back",
    );
    let image = with(store, |s| s.snapshots.remove(&source));
    expect("a source", &image, Kind::Rollback, "rolled back to is gone");
    let changed = |edit: fn(&mut dm_snap_mv_model::disk::origin_row::Rollback)| {
        with(store, |s| {
            edit_origin(s, nr, |row| {
                row.rollback.as_mut().into_iter().for_each(edit)
            })
        })
    };
    let image = changed(|r| r.limit = r.limit.plus(1));
    expect("a limit", &image, Kind::Rollback, "does not end where");
    let image = changed(|r| r.source_epoch = Epoch::MAX);
    expect(
        "an epoch",
        &image,
        Kind::Rollback,
        "at an epoch that has not",
    );
    let image = changed(|r| r.boundary = Epoch::FIRST);
    let words = "before what it is rolled back to was taken";
    expect("a boundary", &image, Kind::Rollback, words);
    let t = row.timeline().get();
    let ended = store.children.iter().find(|((of, _), _)| *of == t);
    let ended = child_epoch(ended.unwrap().0 .1).unwrap();
    let image = with(store, |s| {
        edit_origin(s, nr, |row| {
            row.rollback.as_mut().unwrap().boundary = ended;
        })
    });
    expect(
        "a boundary",
        &image,
        Kind::Rollback,
        "a snapshot has ended that",
    );
    let image = changed(|r| r.cursor = r.limit);
    expect("a mark", &image, Kind::Rollback, "it is below the cursor");
    let limit = rollback.limit.get();
    let image = with(store, |s| s.done.insert((nr, limit), ()));
    expect("a mark", &image, Kind::Rollback, "takes no part");
    let image = with(store, |s| s.done.insert((other, 3), ()));
    expect("marks", &image, Kind::Rollback, "not being rolled back");
    let mut image = Image::of(store);
    let marks = image.node(image.superblock().roots.done).number(0).unwrap();
    let at = image.value_at(marks, 0);
    image.put(marks, NODE, at, &[1]);
    expect("a value", &image, Kind::Rollback, "its value is not 0");
    let image = with(store, |s| {
        edit_origin(s, other, |row| {
            row.next_tag = Tag::new(1 << 30).unwrap();
            row.deferred = Some(Deferred {
                source: Tag::new(1 << 20).unwrap(),
                delete_source: true,
            })
        })
    });
    expect(
        "deferred",
        &image,
        Kind::Rollback,
        "is to be rolled back to is gone",
    );
}

pub fn cleaning(store: &Store) {
    let living = snapshot(store, |row| row.is_whole());
    let row = CleaningRow::default();
    let dead = CleaningRow { drop: true, ..row };
    let put = |t: u64, row: CleaningRow| with(store, |s| s.cleaning.insert(t, row));
    let image = put(living, dead);
    expect("alive", &image, Kind::Cleaning, "is dead, and it is not");
    let is_dead = |(_, row): &(&u64, &CleaningRow)| row.drop;
    let &gone = store.cleaning.iter().find(is_dead).unwrap().0;
    let image = put(gone, row);
    expect("dead", &image, Kind::Cleaning, "does not say so");
    let image = put(99 << 32, row);
    expect("no origin", &image, Kind::Cleaning, "no such origin");
    let image = put(living | 0xffff_fff0, dead);
    expect(
        "never",
        &image,
        Kind::Cleaning,
        "never been such a snapshot",
    );
    for cursor in [u64::MAX, 1 << 24] {
        let image = put(living, CleaningRow { cursor, ..row });
        expect("a cursor", &image, Kind::Cleaning, "that there cannot be");
    }
    let mut image = Image::of(store);
    let root = image.superblock().roots.cleaning;
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 12, &[1]);
    expect("reserved", &image, Kind::Cleaning, "its row is damaged");
    // Without its row the dead timeline's records are of nothing, and others' garbage is lost.
    let image = with(store, |s| s.cleaning.remove(&gone));
    let (findings, _) = look(&image);
    assert!(
        findings.iter().all(|f| f.kind == Kind::Record),
        "{findings:?}"
    );
}

pub fn records(store: &Store) {
    let (&(t, key), _) = store
        .records
        .iter()
        .find(|((t, _), _)| t << 32 != 0)
        .unwrap();
    let timeline = TimelineId::new(t).unwrap();
    let zero = RecordValue::Zero.encode();
    let at = |chunk: u64, epoch: Epoch| {
        let chunk = Chunk::new(chunk).unwrap();
        (t, RecordKey::new(timeline, chunk, epoch).get())
    };
    let put = |key: (u64, u64), value: u64| with(store, |s| s.records.insert(key, value));
    let image = put(at(1 << 39, Epoch::FIRST), zero);
    expect("too far", &image, Kind::Record, "behind the end");
    let image = put((77 << 32, key), zero);
    expect("of nothing", &image, Kind::Record, "there is no such thing");
    let image = put((t, key), 1 << 40);
    expect("a chunk", &image, Kind::Record, "there is no COW chunk");
    let image = put((t, key | 0xff_ffff), zero);
    expect("a key", &image, Kind::Record, "can be no record");
    let image = put((5, key), zero);
    expect(
        "a timeline",
        &image,
        Kind::Record,
        "can be no such timeline",
    );
    let living = snapshot(store, |row| row.is_whole());
    let future = RecordKey::new(TimelineId::new(living).unwrap(), Chunk::ZERO, Epoch::MAX);
    let image = put((living, future.get()), zero);
    expect(
        "the future",
        &image,
        Kind::Record,
        "later epoch than there has been",
    );
    let origin = living >> 32 << 32;
    let nr = (living >> 32) as u32;
    let current = store.origins.get(&nr).unwrap().current_epoch;
    let now = RecordKey::new(TimelineId::new(origin).unwrap(), Chunk::ZERO, current);
    let image = put((origin, now.get()), zero);
    expect(
        "the head",
        &image,
        Kind::Record,
        "later epoch than there has been",
    );

    zeroes(store);

    let mark = RecordValue::Mark.encode();
    let mut used = store.records.iter().filter(|(_, &v)| v < mark);
    let (a, b) = (used.next().unwrap(), used.next().unwrap());
    let image = put(*a.0, *b.1);
    expect(
        "shared",
        &image,
        Kind::SharedChunk,
        "another record as well",
    );
    expect(
        "shared",
        &image,
        Kind::LeakedChunk,
        "marked as used, and is not",
    );

    // Garbage without anybody to remove it.
    let (nr, _) = rolling(store);
    let origin = u64::from(nr) << 32;
    let oldest = RecordKey::new(TimelineId::new(origin).unwrap(), Chunk::ZERO, Epoch::FIRST);
    let image = with(store, |s| {
        // Nothing is based on the first epoch any more.
        s.children = crate::tree::Tree::new();
        s.snapshots = crate::tree::Tree::new();
        s.cleaning = crate::tree::Tree::new();
        s.records.insert((origin, oldest.get()), zero);
    });
    expect(
        "garbage",
        &image,
        Kind::Garbage,
        "nothing is going to remove",
    );
    let row = CleaningRow {
        cursor: 2 << 24,
        ..CleaningRow::default()
    };
    let passed = with(store, |s| {
        s.children = crate::tree::Tree::new();
        s.snapshots = crate::tree::Tree::new();
        s.cleaning.insert(origin, row);
        s.records.insert((origin, oldest.get()), zero);
    });
    expect(
        "passed",
        &passed,
        Kind::Garbage,
        "nothing is going to remove",
    );
}

/// One record of several chunks.
fn zeroes(store: &Store) {
    let single = RecordValue::Zero.encode();
    let of_several = |(_, &value): &(_, &u64)| value > single;
    let found = store.records.iter().find(of_several);
    let (&(t, key), &value) = found.expect("zeroes of several chunks");
    let timeline = TimelineId::new(t).unwrap();
    let (last, epoch) = RecordKey::decode(timeline, key).unwrap();
    let at = |t: TimelineId, chunk: Chunk, epoch| (t.get(), RecordKey::new(t, chunk, epoch).get());
    let put = |key: (u64, u64), value: u64| with(store, |s| s.records.insert(key, value));
    let within = Chunk::new(last.get() - 1).unwrap();
    let other = if epoch == Epoch::FIRST {
        Epoch::MAX
    } else {
        Epoch::FIRST
    };
    for (chunk, epoch) in [(within, epoch), (within, other), (last, other)] {
        let image = put(at(timeline, chunk, epoch), single);
        expect("zeroes", &image, Kind::Record, "another record is of, too");
    }
    let image = put((t, key), RecordValue::zeroes(last.get() + 2).encode());
    expect(
        "zeroes",
        &image,
        Kind::Record,
        "chunks that there cannot be",
    );
    let image = put((t, key), (1 << 63) | (1 << 40));
    expect("zeroes", &image, Kind::Record, "there is no COW chunk");
    let origin = TimelineId::of_origin(timeline.origin());
    let image = put(at(origin, last, Epoch::FIRST), value);
    expect(
        "zeroes",
        &image,
        Kind::Record,
        "chunks that there cannot be",
    );
    let image = with_superblock(store, |s| s.incompat &= !INCOMPAT_ZEROES);
    expect("zeroes", &image, Kind::Record, "says that there are none");
}
