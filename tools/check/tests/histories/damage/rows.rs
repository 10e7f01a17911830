// SPDX-License-Identifier: GPL-2.0

//! Rows of origins and snapshots, and who is based on whom.

use dm_snap_mv_check::Kind;
use dm_snap_mv_model::disk::label_row::{LabelRow, Name};
use dm_snap_mv_model::disk::origin_row::{OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::disk::superblock::{INCOMPAT_IDENTITIES, INCOMPAT_VERSIONS};
use dm_snap_mv_model::ids::{Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{child_key, is_behind_children, RecordValue};
use dm_snap_mv_store::node;

use super::{
    edit_origin, edit_snapshot, expect, look, rolling, snapshot, with, with_superblock, NODE,
};
use crate::image::Image;
use crate::store::Store;

pub fn origins(store: &Store) {
    let image = with_superblock(store, |s| (s.nr_origins, s.next_origin) = (0, 1));
    expect("a number", &image, Kind::Origin, "not been given");
    let root = Image::of(store).superblock().roots.origins;
    let mut image = Image::of(store);
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 200, &[1]);
    expect("reserved", &image, Kind::Origin, "its row is damaged");
    let mut image = Image::of(store);
    image.put(root, NODE, at + 8, &77u32.to_le_bytes());
    expect("another's row", &image, Kind::Origin, "its row is damaged");
    let (_, other) = rolling(store);
    let image = with(store, |s| {
        edit_origin(s, other, |row| row.id = OriginId::new(b"a\nb").unwrap())
    });
    expect("an id", &image, Kind::Origin, "control characters");
    let image = with(store, |s| edit_origin(s, other, |row| row.size = 1 << 50));
    expect(
        "a size",
        &image,
        Kind::Origin,
        "larger than an origin can be",
    );
    let image = with_superblock(store, |s| s.incompat &= !INCOMPAT_IDENTITIES);
    expect("a disk", &image, Kind::Origin, "says that none does");
    type Edit = fn(&mut OriginRow);
    let edits: [(&str, Edit); 3] = [
        ("snapshots", |row| row.snapshots += 1),
        ("ghosts", |row| row.ghosts += 1),
        ("COW chunks", |row| row.chunks += 1),
    ];
    for (what, edit) in edits {
        let image = with(store, |s| edit_origin(s, other, edit));
        expect("a count", &image, Kind::Missing, what);
    }
    let counts = |edit: fn(&mut OriginRow)| with(store, |s| edit_origin(s, other, edit));
    let image = counts(|row| row.snapshots = 0);
    expect("a count", &image, Kind::Count, "snapshots, there are");
    let image = counts(|row| (row.snapshots, row.ghosts) = (row.snapshots - 1, row.ghosts + 1));
    let words = "a snapshot's row is wrong about that";
    expect("a ghost", &image, Kind::Snapshot, words);
    let image = with_superblock(store, |s| s.nr_origins = 1);
    expect("origins", &image, Kind::Count, "it counts 1 origins");
    let image = with_superblock(store, |s| s.nr_origins = s.next_origin - 1);
    if Image::of(store).superblock().nr_origins != image.superblock().nr_origins {
        expect("origins", &image, Kind::Missing, "origins, there are");
    }
}

pub fn snapshots(store: &Store) {
    let nested = snapshot(store, |row| row.parent.is_some() && !row.ghost);
    let row = *store.snapshots.get(&nested).unwrap();
    let nr = (nested >> 32) as u32;
    let parent = row.parent_timeline(OriginNr::new(nr).unwrap()).get();
    let words = "a snapshot's row is wrong about that";
    let changed = |edit: fn(&mut SnapshotRow)| with(store, |s| edit_snapshot(s, nested, edit));
    let image = changed(|row| row.memo = Memo::new(b"a\nb").unwrap());
    expect("a memo", &image, Kind::Snapshot, "memo is not plain text");
    let image = changed(|row| row.size += 8);
    expect("a size", &image, Kind::Snapshot, "not that of what it was");
    let image = changed(|row| row.size = 1 << 40);
    expect("a size", &image, Kind::Snapshot, "larger than its origin");
    let first = |t: u64| {
        let mut of_it = store.snapshots.iter();
        of_it.find(|(&other, row)| other >> 32 == t >> 32 && row.parent.is_none() && other < t)
    };
    let later = store.snapshots.iter();
    let mut later = later.filter(|(&t, row)| row.parent.is_none() && first(t).is_some());
    let later = *later.next().expect("two snapshots").0;
    let image = with(store, |s| edit_snapshot(s, later, |row| row.size = 1));
    expect(
        "a size",
        &image,
        Kind::Snapshot,
        "smaller than one that was",
    );
    let image = changed(|row| row.base_epoch = Epoch::MAX);
    expect("a base", &image, Kind::Snapshot, "epoch that has not ended");
    let image = changed(|row| row.children += 1);
    expect("children", &image, Kind::Missing, "children, there are");
    let image = with(store, |s| edit_snapshot(s, parent, |row| row.children = 0));
    expect("children", &image, Kind::Count, "children, there are");
    let filled = snapshot(store, |row| row.chunks > 0);
    let counts = |edit: fn(&mut SnapshotRow)| with(store, |s| edit_snapshot(s, filled, edit));
    let image = counts(|row| row.chunks += 1);
    expect("chunks", &image, Kind::Missing, "records are missing");
    let image = counts(|row| row.chunks -= 1);
    expect("chunks", &image, Kind::Missing, "may be another's");
    // What was deleted and what was not.
    let image = changed(|row| row.ghost = true);
    expect("a ghost", &image, Kind::Snapshot, words);
    let ghost = snapshot(store, |row| row.ghost);
    let image = with(store, |s| edit_snapshot(s, ghost, |row| row.ghost = false));
    expect("no ghost", &image, Kind::Snapshot, words);
    let image = with(store, |s| s.snapshots.remove(&parent));
    expect("a parent", &image, Kind::Snapshot, "taken of is gone");
    let image = with(store, |s| s.origins.remove(&nr));
    expect("an origin", &image, Kind::Snapshot, "no such origin");
    let image = with(store, |s| {
        edit_origin(s, nr, |row| {
            row.next_tag = Tag::FIRST;
            (row.invalid_below, row.rollback, row.deferred) = (0, None, None);
        })
    });
    expect("a tag", &image, Kind::Snapshot, "not been given");
    let childless = snapshot(store, |row| row.children == 0 && !row.bookmark);
    let image = with(store, |s| {
        edit_snapshot(s, childless, |row| row.ghost = true)
    });
    expect("a ghost", &image, Kind::Snapshot, "stays for nothing");
    let root = Image::of(store).superblock().roots.snapshots;
    let mut image = Image::of(store);
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 49, &[1]);
    expect("reserved", &image, Kind::Snapshot, "its row is damaged");

    let image = with(store, |s| {
        let mut row = row;
        row.children = 1;
        let mut last = nested;
        for i in 1..=70 {
            edit_snapshot(s, last, |row| row.current_epoch = Epoch::MAX);
            s.children
                .insert((last, child_key(Epoch::FIRST)), 10_000 + i);
            row.parent = Tag::new(last as u32);
            row.base_epoch = Epoch::FIRST;
            row.tag = Tag::new(10_000 + i).unwrap();
            last = (u64::from(nr) << 32) | u64::from(row.tag.get());
            s.snapshots.insert(last, row);
        }
    });
    let deep = look(&image).0;
    let deep: Vec<_> = deep
        .iter()
        .filter(|f| f.what.contains("too deeply"))
        .collect();
    assert_eq!(deep.len(), 1, "{deep:?}");
}

pub fn children(store: &Store) {
    let usual = |(key, tag): &(&(u64, u64), &u32)| **tag != 0 && !is_behind_children(key.1);
    let (&key, &tag) = store.children.iter().find(usual).unwrap();
    let image = with(store, |s| s.children.remove(&key));
    expect("a child", &image, Kind::Child, "has no entry for it");
    let image = with(store, |s| s.children.insert(key, tag + 1000));
    expect("another", &image, Kind::Child, "is not based on it");
    let image = with(store, |s| s.children.insert((key.0, 0), tag));
    expect("the future", &image, Kind::Child, "has not ended");
    let image = with(store, |s| s.children.insert((77 << 32, 5), tag));
    expect("of nothing", &image, Kind::Child, "there is no such thing");
    let image = with(store, |s| s.children.insert((key.0, 1 << 30), tag));
    expect("a key", &image, Kind::Child, "is damaged");
    let image = with(store, |s| s.children.insert((5, 5), tag));
    expect("a timeline", &image, Kind::Child, "can be no such timeline");
    let all = store.children.iter().map(|(&k, &tag)| (k, tag));
    let all: Vec<_> = all.filter(|(k, _)| !is_behind_children(k.1)).collect();
    let of_one = |pair: &&[((u64, u64), u32)]| pair[0].0 .0 == pair[1].0 .0 && pair[1].1 != 0;
    let two = all.windows(2).find(of_one).unwrap();
    let (a, b) = (two[0], two[1]);
    let image = with(store, |s| {
        s.children.insert(a.0, b.1);
        s.children.insert(b.0, a.1);
    });
    expect(
        "swapped",
        &image,
        Kind::Child,
        "younger than that of a later",
    );
}

pub fn bookmarks(store: &Store) {
    let mine = |(key, _): &(&(u64, u64), &u32)| is_behind_children(key.1);
    let (&key, &tag) = store.children.iter().find(mine).unwrap();
    let nr = (key.0 >> 32) as u32;
    let image = with(store, |s| s.children.remove(&key));
    expect(
        "its entry",
        &image,
        Kind::Child,
        "no entry for its bookmark",
    );
    let image = with(store, |s| s.children.insert(key, tag + 1000));
    expect("another", &image, Kind::Child, "there is no such bookmark");
    let image = with(store, |s| s.children.insert((key.0, 1 << 32), tag));
    expect("the future", &image, Kind::Child, "has not ended");
    let image = with(store, |s| s.children.insert((key.0, 1 << 33), tag));
    expect("a key", &image, Kind::Child, "is damaged");
    let t = u64::from(tag) | key.0;
    let image = with(store, |s| s.snapshots.remove(&t));
    expect("its row", &image, Kind::Child, "there is no such bookmark");
    let count = |edit: fn(&mut OriginRow)| with(store, |s| edit_origin(s, nr, edit));
    let image = count(|row| row.bookmarks += 1);
    expect(
        "more of them",
        &image,
        Kind::Missing,
        "bookmarks, there are",
    );
    let image = count(|row| row.bookmarks = 0);
    expect("fewer", &image, Kind::Count, "bookmarks, there are");
    let image = with_superblock(store, |s| {
        s.incompat &= !INCOMPAT_VERSIONS;
        s.roots.labels = 0;
    });
    let words = "of which the superblock says that there are none";
    expect("none, it says", &image, Kind::Origin, words);
    expect("none, it says", &image, Kind::Child, words);
    let words = "no content, and the superblock says";
    expect("none, it says", &image, Kind::Record, words);
    // A snapshot finds what was kept for it, and never that it is gone.
    let kept = store.records.iter().find(|(key, &value)| {
        let t = TimelineId::new(key.0).unwrap();
        t.is_origin() && value < RecordValue::Mark.encode()
    });
    let (&kept, _) = kept.unwrap();
    let image = with(store, |s| {
        s.records.insert(kept, RecordValue::Mark.encode())
    });
    let findings = look(&image).0;
    assert!(!findings.is_empty(), "a mark instead of content");
    let nested = snapshot(store, |row| row.chunks > 0);
    let own = store.records.iter().find(|(key, _)| key.0 == nested);
    let (&own, _) = own.unwrap();
    let image = with(store, |s| s.records.insert(own, RecordValue::Mark.encode()));
    expect(
        "a snapshot's",
        &image,
        Kind::Record,
        "chunks that there cannot be",
    );
}

/// Labels, of which `store` may have some.
pub fn labels(store: &Store) {
    let label = LabelRow {
        name: Name::new(b"a name").unwrap(),
        ..LabelRow::new([1; 16])
    };
    let (living, ghost) = (
        snapshot(store, |row| !row.ghost),
        snapshot(store, |row| row.ghost && !row.bookmark),
    );
    let labelled = |t, row: LabelRow| with(store, |s| s.labels.insert(t, row));
    let good = labelled(living, label);
    assert_eq!(look(&good).0, []);
    let of = |t| labelled(t, label);
    expect("deleted", &of(ghost), Kind::Label, "has been deleted");
    expect("nothing", &of(living + 1000), Kind::Label, "no such");
    let origin = living >> 32 << 32;
    expect("an origin", &of(origin), Kind::Label, "no such");
    let name = Name::new(b"a\nname").unwrap();
    let image = labelled(living, LabelRow { name, ..label });
    expect("a name", &image, Kind::Label, "not plain text");
    let root = good.superblock().roots.labels;
    let mut image = good.clone();
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 64, &[9]);
    expect("a row", &image, Kind::Label, "it is damaged");
    let mut image = good.clone();
    image.blocks.get_mut(&root).unwrap().0[4000] ^= 1;
    let words = format!("tree of labels: block {root} is damaged");
    expect("its root", &image, Kind::Label, &words);
    let mut image = good.clone();
    image.broken.insert(root);
    expect("unreadable", &image, Kind::Label, "cannot be read");
    let mut image = good.clone();
    let mut superblock = image.superblock();
    superblock.incompat &= !INCOMPAT_VERSIONS;
    image.put_superblock(&superblock);
    expect("unsaid", &image, Kind::Superblock, "is corrupt");
}

pub fn identities(store: &Store) {
    let (id, &nr) = store.ids.iter().next().unwrap();
    let image = with(store, |s| s.ids.remove(id));
    expect("an id", &image, Kind::Identity, "none leads to origin");
    let image = with(store, |s| s.ids.insert(b"other".to_vec(), 55));
    expect("no origin", &image, Kind::Identity, "there is no origin 55");
    let image = with(store, |s| {
        s.ids.remove(id);
        s.ids.insert(b"other".to_vec(), nr)
    });
    expect("which", &image, Kind::Missing, "disagree about who it is");
    let image = with(store, |s| s.ids.insert(b"other".to_vec(), nr));
    expect("another", &image, Kind::Identity, "has another identity");
    let numbers: Vec<u32> = store.origins.iter().map(|(&nr, _)| nr).collect();
    let (a, b) = (numbers[0], numbers[1]);
    let image = with(store, |s| {
        let id = s.origins.get(&a).unwrap().id;
        edit_origin(s, b, |row| row.id = id);
        let old: Vec<_> = s.ids.iter().map(|(id, _)| id.clone()).collect();
        for id in old {
            s.ids.remove(&id);
        }
        s.ids.insert(id.as_bytes().to_vec(), a);
    });
    let root = image.superblock().roots.origin_ids;
    let entry = image.node(root);
    let key = entry.key(0).unwrap();
    let twin = |nr: u32| {
        let mut image = image.clone();
        let number = |nr: u32| u64::from(nr).to_le_bytes().to_vec();
        let both = [(key, number(a)), (key + 1, number(nr))];
        image.blocks.insert(root, *node::make(true, 8, &both, root));
        image
    };
    let same = "have the same identity";
    expect("twins", &twin(b), Kind::Origin, same);
    expect("twins, one of them led to", &image, Kind::Origin, same);
    expect("two ways", &twin(a), Kind::Identity, "has one already");
    let mut image = Image::of(store);
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 7, &[1]);
    expect("a number", &image, Kind::Identity, "can be no such origin");
}
