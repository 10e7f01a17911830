// SPDX-License-Identifier: GPL-2.0

//! Damage of every kind to a store that has some of everything. All checksums are right, unless
//! that is the damage.

use std::collections::{BTreeMap, BTreeSet};

use dm_snap_mv_check::{check, Finding, Kind, Options, Outcome};
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::origin_row::{Deferred, OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::{Chunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{child_key, RecordKey, RecordValue};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::node::{self, Node};
use dm_snap_mv_store::space::{IndexEntry, Root, ENTRIES};
use dm_snap_mv_store::{checksum, Blocks};

use crate::image::{Image, Lies, SECTORS};
use crate::rich::rich;
use crate::store::Store;

pub const NODE: u32 = 121_107;
pub const BITMAP: u32 = 240_779;
pub const INDEX: u32 = 160_478;

/// A store with so many records in the timeline of an origin that they take several nodes.
pub fn large(store: &Store, records: u64) -> (Store, TimelineId) {
    let mut store = store.clone();
    let (&(t, key), _) = store
        .children
        .iter()
        .find(|((t, _), _)| t << 32 == 0)
        .unwrap();
    let t = TimelineId::new(t).unwrap();
    let epoch = dm_snap_mv_model::record_key::child_epoch(key).unwrap();
    edit_origin(&mut store, t.origin().get(), |row| row.size = 8 * 400_000);
    for chunk in 100..records {
        let key = RecordKey::new(t, Chunk::new(chunk).unwrap(), epoch);
        store
            .records
            .insert((t.get(), key.get()), RecordValue::Zero.encode());
    }
    (store, t)
}

pub fn look(image: &Image) -> (Vec<Finding>, Outcome) {
    let mut findings = Vec::new();
    let report = check(image, SECTORS, Options::default(), &mut findings);
    assert_eq!(report.errors() > 0, !findings.is_empty());
    (findings, report.outcome)
}

/// Among what is found there must be this.
pub fn expect(name: &str, image: &Image, kind: Kind, words: &str) {
    let (findings, outcome) = look(image);
    assert_eq!(outcome, Outcome::Checked, "{name}");
    let found = findings
        .iter()
        .any(|f| f.kind == kind && f.what.contains(words));
    assert!(found, "{name}: not {kind:?} {words:?} in {findings:#?}");
    FOUND.with_borrow_mut(|found| found.insert(kind));
}

thread_local! {
    static FOUND: std::cell::RefCell<BTreeSet<Kind>> = const { std::cell::RefCell::new(BTreeSet::new()) };
}

pub fn edit_origin(store: &mut Store, nr: u32, edit: impl FnOnce(&mut OriginRow)) {
    let mut row = *store.origins.get(&nr).unwrap();
    edit(&mut row);
    store.origins.insert(nr, row);
}

pub fn edit_snapshot(store: &mut Store, t: u64, edit: impl FnOnce(&mut SnapshotRow)) {
    let mut row = *store.snapshots.get(&t).unwrap();
    edit(&mut row);
    store.snapshots.insert(t, row);
}

/// A snapshot that is as asked.
fn snapshot(store: &Store, is: impl Fn(&SnapshotRow) -> bool) -> u64 {
    let mut all = store.snapshots.iter();
    *all.find(|(_, row)| is(row)).expect("a snapshot").0
}

/// The origin that is being rolled back, and one that is not.
pub fn rolling(store: &Store) -> (u32, u32) {
    let find = |is: bool| {
        let mut all = store.origins.iter();
        *all.find(|(_, row)| row.rollback.is_some() == is).unwrap().0
    };
    (find(true), find(false))
}

pub fn with(store: &Store, edit: impl FnOnce(&mut Store)) -> Image {
    let mut store = store.clone();
    edit(&mut store);
    Image::of(&store)
}

pub fn with_superblock(store: &Store, edit: impl FnOnce(&mut Superblock)) -> Image {
    let mut image = Image::of(store);
    let mut superblock = image.superblock();
    edit(&mut superblock);
    image.put_superblock(&superblock);
    image
}

impl Image {
    /// Changes bytes of a block, and gives it a right checksum.
    pub fn put(&mut self, nr: u64, xor: u32, at: usize, bytes: &[u8]) {
        let block = self.blocks.get_mut(&nr).unwrap();
        block.0[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = checksum::of_block(block, xor).to_le_bytes();
        block.0[..4].copy_from_slice(&sum);
    }

    pub fn node(&self, nr: u64) -> Node {
        Node::check(self.read(nr).unwrap(), nr).unwrap()
    }

    /// Where the value of entry `i` of a node stands.
    pub fn value_at(&self, nr: u64, i: usize) -> usize {
        let node = self.node(nr);
        32 + 8 * node.room() + node.value_size() * i
    }

    /// The root of the tree of records of a timeline.
    pub fn records_of(&self, t: TimelineId) -> u64 {
        let top = self.node(self.superblock().roots.records);
        let i = (0..top.len()).find(|&i| top.key(i) == Some(t.get()));
        top.number(i.unwrap()).unwrap()
    }

    pub fn data_root(&self) -> Root {
        Root::decode(&self.superblock().data_space)
    }

    pub fn metadata_root(&self) -> Root {
        Root::decode(&self.superblock().metadata_space)
    }

    pub fn set_data_root(&mut self, edit: impl FnOnce(&mut Root)) {
        let mut superblock = self.superblock();
        let mut root = self.data_root();
        edit(&mut root);
        root.encode(&mut superblock.data_space);
        self.put_superblock(&superblock);
    }

    pub fn set_metadata_root(&mut self, edit: impl FnOnce(&mut Root)) {
        let mut superblock = self.superblock();
        let mut root = self.metadata_root();
        edit(&mut root);
        root.encode(&mut superblock.metadata_space);
        self.put_superblock(&superblock);
    }

    /// The entry of the data space map's only bitmap.
    pub fn data_entry(&self) -> IndexEntry {
        IndexEntry::decode(self.node(self.data_root().index).value(0).unwrap())
    }

    pub fn set_data_entry(&mut self, edit: impl FnOnce(&mut IndexEntry)) {
        let mut entry = self.data_entry();
        edit(&mut entry);
        let index = self.data_root().index;
        let at = self.value_at(index, 0);
        self.put(index, NODE, at, &entry.encode());
    }
}

#[test]
fn every_kind_of_damage_is_found() {
    let store = rich();
    let (findings, _) = look(&Image::of(&store));
    assert_eq!(findings, []);
    superblock(&store);
    nodes(&store);
    origins(&store);
    snapshots(&store);
    children(&store);
    identities(&store);
    rollback(&store);
    cleaning(&store);
    records(&store);
    data_space(&store);
    metadata_space(&store);
    crate::journal::damage(&store);
    let found = FOUND.take();
    for kind in Kind::ALL {
        assert!(found.contains(kind), "no damage here is {kind:?}");
    }
}

fn superblock(store: &Store) {
    let mut image = Image::of(store);
    image.blocks.get_mut(&0).unwrap().0[100] ^= 1;
    expect("a bit", &image, Kind::Superblock, "wrong checksum");
    let image = with_superblock(store, |s| s.layout.data_chunks = 1 << 30);
    expect(
        "too long",
        &image,
        Kind::Superblock,
        "smaller than its store",
    );
    let image = with_superblock(store, |s| s.layout.journal_start = 7);
    expect(
        "a journal",
        &image,
        Kind::Superblock,
        "superblock is corrupt",
    );
    let image = with_superblock(store, |s| s.needs_check = true);
    expect("needs check", &image, Kind::Flag, "needing a check");
    let image = with_superblock(store, |s| s.cow_full = true);
    expect("full", &image, Kind::Flag, "marked as full");
    let image = with_superblock(store, |s| s.nr_origins = 0);
    expect("no origins", &image, Kind::Count, "counts 0 origins");

    // What is not there, or not understood, is no error of the store's.
    for (image, refusal) in [
        (Image::default(), Refusal::NoStore),
        (
            with_superblock(store, |s| s.incompat |= 2),
            Refusal::UnknownFeature,
        ),
        (
            with_superblock(store, |s| s.ro_compat = 4),
            Refusal::ReadOnlyFeature,
        ),
    ] {
        assert_eq!(look(&image), (Vec::new(), Outcome::Refused(refusal)));
    }
    let mut image = Image::of(store);
    image.broken.insert(0);
    assert!(matches!(look(&image), (_, Outcome::Unreadable(_))));
}

fn nodes(store: &Store) {
    let roots = Image::of(store).superblock().roots;
    for (name, root) in [
        ("records", roots.records),
        ("origins", roots.origins),
        ("identities", roots.origin_ids),
        ("snapshots", roots.snapshots),
        ("children", roots.children),
        ("marks", roots.done),
        ("cleanings", roots.cleaning),
    ] {
        let words = format!("tree of {name}: block {root}");
        let mut image = Image::of(store);
        image.blocks.get_mut(&root).unwrap().0[4000] ^= 1;
        let kind = match name {
            // It can be made anew.
            "identities" => Kind::Identity,
            _ => Kind::Block,
        };
        expect(name, &image, kind, &format!("{words} is damaged"));
        let mut image = Image::of(store);
        image.broken.insert(root);
        let kind = match kind {
            Kind::Block => Kind::Unreadable,
            kind => kind,
        };
        expect(name, &image, kind, &words);
    }
    let image = with_superblock(store, |s| s.roots.children = s.layout.metadata_blocks);
    expect("outside", &image, Kind::Block, "outside of the metadata");
    let image = with_superblock(store, |s| s.roots.children = 0);
    expect("block 0", &image, Kind::Block, "is the superblock");
    let image = with_superblock(store, |s| s.roots.children = s.roots.done);
    expect("shared", &image, Kind::Block, "is used twice");
    let image = with_superblock(store, |s| {
        std::mem::swap(&mut s.roots.origins, &mut s.roots.snapshots)
    });
    expect("swapped", &image, Kind::Block, "values of the wrong size");

    let (store, t) = large(store, 3000);
    let good = Image::of(&store);
    assert_eq!(look(&good).0, []);
    let root = good.records_of(t);
    let top = good.node(root);
    assert!(!top.is_leaf() && top.len() > 3);
    let (first, second) = (top.number(0).unwrap(), top.number(1).unwrap());
    let values = good.value_at(root, 0);
    let place = |i: usize| values + 8 * i;

    let mut image = good.clone();
    image.put(root, NODE, place(1), &root.to_le_bytes());
    expect("a circle", &image, Kind::Block, "is used twice");
    let mut image = good.clone();
    image.put(root, NODE, place(1), &first.to_le_bytes());
    expect("a leaf twice", &image, Kind::Block, "is used twice");
    let mut image = good.clone();
    image.put(root, NODE, place(0), &second.to_le_bytes());
    image.put(root, NODE, place(1), &first.to_le_bytes());
    expect(
        "out of order",
        &image,
        Kind::Block,
        "keys that belong elsewhere",
    );
    let mut image = good.clone();
    let key = top.key(0).unwrap().to_le_bytes();
    image.put(second, NODE, 32, &key);
    expect(
        "a low key",
        &image,
        Kind::Block,
        "keys that belong elsewhere",
    );
    let mut image = good.clone();
    image.put(second, NODE, 16, &5u32.to_le_bytes());
    expect(
        "too empty",
        &image,
        Kind::Block,
        "fewer entries than a third",
    );
    let mut image = good.clone();
    image.put(second, NODE, 8, &first.to_le_bytes());
    expect(
        "another's",
        &image,
        Kind::Block,
        "it belongs somewhere else",
    );
    let mut image = good.clone();
    image.put(second, NODE, 20, &400u32.to_le_bytes());
    expect(
        "too much room",
        &image,
        Kind::Block,
        "more entries than fit",
    );
    let mut image = good.clone();
    image.put(second, NODE, 4, &3u32.to_le_bytes());
    expect("no node", &image, Kind::Block, "no node of a tree");

    // A leaf one level further down than the others.
    let mut image = good.clone();
    let leaf = good.node(second);
    let half: Vec<_> = (0..leaf.len() / 2)
        .map(|i| (leaf.key(i).unwrap(), leaf.value(i).unwrap().to_vec()))
        .collect();
    let (spare, between) = (900, 901);
    image
        .blocks
        .insert(spare, *node::make(true, 8, &half, spare));
    let entry = (half[0].0, spare.to_le_bytes().to_vec());
    let many: Vec<_> = (0..90).map(|i| (entry.0 + i, entry.1.clone())).collect();
    image
        .blocks
        .insert(between, *node::make(false, 8, &many, between));
    image.put(root, NODE, place(1), &between.to_le_bytes());
    expect(
        "a deep leaf",
        &image,
        Kind::Block,
        "deeper down than leaves",
    );
    // And the other way round: the first leaf is deeper down than those behind it.
    let mut image = good.clone();
    let leaf = good.node(first);
    let all: Vec<_> = (0..leaf.len())
        .map(|i| (leaf.key(i).unwrap(), leaf.value(i).unwrap().to_vec()))
        .collect();
    let end = top.key(1).unwrap();
    let mut many = vec![(all[0].0, entry.1.clone())];
    many.extend((1..90).map(|i| (end - 90 + i, entry.1.clone())));
    image
        .blocks
        .insert(between, *node::make(false, 8, &many, between));
    image
        .blocks
        .insert(spare, *node::make(true, 8, &all, spare));
    image.put(root, NODE, place(0), &between.to_le_bytes());
    expect("a shallow leaf", &image, Kind::Block, "another depth");
}

fn origins(store: &Store) {
    let image = with_superblock(store, |s| (s.nr_origins, s.next_origin) = (0, 1));
    expect("a number", &image, Kind::Origin, "not been given");
    let root = Image::of(store).superblock().roots.origins;
    let mut image = Image::of(store);
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 52, &[1]);
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
    type Edit = fn(&mut OriginRow);
    let edits: [(&str, Edit); 3] = [
        ("snapshots", |row| row.snapshots += 1),
        ("ghosts", |row| row.ghosts += 1),
        ("COW chunks", |row| row.chunks += 1),
    ];
    for (what, edit) in edits {
        let image = with(store, |s| edit_origin(s, other, edit));
        expect("a count", &image, Kind::Count, what);
    }
}

fn snapshots(store: &Store) {
    let nested = snapshot(store, |row| row.parent.is_some() && !row.ghost);
    let row = *store.snapshots.get(&nested).unwrap();
    let nr = (nested >> 32) as u32;
    let parent = row.parent_timeline(OriginNr::new(nr).unwrap()).get();
    let changed = |edit: fn(&mut SnapshotRow)| with(store, |s| edit_snapshot(s, nested, edit));
    let image = changed(|row| row.memo = Memo::new(b"a\nb").unwrap());
    expect("a memo", &image, Kind::Snapshot, "memo is not plain text");
    let image = changed(|row| row.size += 8);
    expect("a size", &image, Kind::Snapshot, "not that of what it was");
    let image = changed(|row| row.size = 1 << 40);
    expect("a size", &image, Kind::Snapshot, "larger than its origin");
    let image = changed(|row| row.base_epoch = Epoch::MAX);
    expect("a base", &image, Kind::Snapshot, "epoch that has not ended");
    let image = changed(|row| row.children += 1);
    expect("children", &image, Kind::Count, "children, there are");
    let image = changed(|row| row.chunks += 1);
    expect("chunks", &image, Kind::Count, "COW chunks, there are");
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
    let childless = snapshot(store, |row| row.children == 0);
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

fn children(store: &Store) {
    let usual = |(_, tag): &(&(u64, u64), &u32)| **tag != 0;
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
    let of_one = store.children.iter().filter(|((t, _), _)| *t == key.0);
    let of_one: Vec<_> = of_one.map(|(&k, &tag)| (k, tag)).collect();
    let (a, b) = (of_one[0], of_one[1]);
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

fn identities(store: &Store) {
    let (id, &nr) = store.ids.iter().next().unwrap();
    let image = with(store, |s| s.ids.remove(id));
    expect("an id", &image, Kind::Identity, "none leads to origin");
    let image = with(store, |s| s.ids.insert(b"other".to_vec(), 55));
    expect("no origin", &image, Kind::Identity, "there is no origin 55");
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
    expect("twins", &twin(b), Kind::Identity, "have the same identity");
    expect("two ways", &twin(a), Kind::Identity, "has one already");
    let mut image = Image::of(store);
    let at = image.value_at(root, 0);
    image.put(root, NODE, at + 7, &[1]);
    expect("a number", &image, Kind::Identity, "can be no such origin");
}

fn rollback(store: &Store) {
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

fn cleaning(store: &Store) {
    let living = snapshot(store, |row| !row.ghost);
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

fn records(store: &Store) {
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
    let living = snapshot(store, |row| !row.ghost);
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

    let mut used = store.records.iter().filter(|(_, &v)| v != zero);
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

pub fn lying(store: &Store, chunks: &[(u64, bool)], blocks: &[(u64, bool)]) -> Image {
    let lies = Lies {
        chunks: BTreeMap::from_iter(chunks.iter().copied()),
        blocks: BTreeMap::from_iter(blocks.iter().copied()),
    };
    Image::lying(store, lies)
}

fn data_space(store: &Store) {
    let kind = Kind::DataSpace;
    let used = store.used().iter().position(|&used| used).unwrap() as u64;
    let free = store.used().iter().rposition(|&used| !used).unwrap() as u64;
    let image = lying(store, &[(used, false)], &[]);
    expect("free", &image, kind, "is in use and marked as free");
    let image = lying(store, &[(free, true)], &[]);
    let words = format!("COW chunk {free} is marked as used, and is not");
    expect("leaked", &image, Kind::LeakedChunk, &words);
    let image = lying(store, &[(700, true), (701, true), (702, true)], &[]);
    let words = "COW chunks 700 to 702 are marked as used, and are not";
    expect("leaked", &image, Kind::LeakedChunk, words);

    let mut image = Image::of(store);
    image.set_data_root(|root| root.blocks += 1);
    expect("longer", &image, kind, "chunks, not");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.blocks = ENTRIES * 3);
    expect("longer", &image, kind, "2 of its bitmaps are missing");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.allocated += 1);
    expect("a count", &image, kind, "in use, there are");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.index = root.counts);
    expect("an index", &image, kind, "values of the wrong size");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.counts = 1 << 50);
    expect("counts", &image, kind, "outside of the metadata");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.free -= 1);
    expect("free", &image, kind, "are said to be free");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.none_free_before = 900);
    expect("none free", &image, kind, "no entry before 900");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.block = 3);
    expect("a bitmap", &image, kind, "block 3 is used twice");
    let mut image = Image::of(store);
    let index = image.data_root().index;
    image.put(index, NODE, 32, &5u64.to_le_bytes());
    expect("a bitmap", &image, kind, "a bitmap 5 behind its end");
    let mut image = Image::of(store);
    let block = image.data_entry().block;
    image.broken.insert(block);
    expect("unreadable", &image, kind, "cannot be read");
    let mut image = Image::of(store);
    image.blocks.get_mut(&block).unwrap().0[50] ^= 4;
    expect("a bit", &image, kind, "its checksum is wrong");
    let mut image = Image::of(store);
    image.put(block, BITMAP, 4095, &[0x80]);
    expect("behind", &image, kind, "entries behind its end");
    let mut image = Image::of(store);
    image.put(block, BITMAP, 16, &[0xff]);
    expect("no count", &image, kind, "has no count");
    let mut image = Image::of(store);
    let counts = image.data_root().counts;
    let entry = [(900, 4u32.to_le_bytes().to_vec())];
    image
        .blocks
        .insert(counts, *node::make(true, 4, &entry, counts));
    expect("a count", &image, kind, "is counted and need not be");
    let mut image = Image::of(store);
    let entry = [(used, 4u32.to_le_bytes().to_vec())];
    image
        .blocks
        .insert(counts, *node::make(true, 4, &entry, counts));
    let byte = image.blocks[&block].0[16 + used as usize / 4];
    let byte = byte | (3 << (used % 4 * 2));
    image.put(block, BITMAP, 16 + used as usize / 4, &[byte]);
    expect(
        "four times",
        &image,
        kind,
        "used 4 times, it is used 1 times",
    );
    let image = with_superblock(store, |s| s.data_space[100] = 1);
    expect("padding", &image, kind, "bytes behind its root");
}

fn metadata_space(store: &Store) {
    let kind = Kind::MetadataSpace;
    let image = lying(store, &[], &[(2, false)]);
    expect(
        "free",
        &image,
        kind,
        "metadata block 2 is in use and marked",
    );
    let image = lying(store, &[], &[(0, false)]);
    expect(
        "free",
        &image,
        kind,
        "metadata block 0 is in use and marked",
    );
    let image = lying(store, &[], &[(1500, false)]);
    expect(
        "outside",
        &image,
        kind,
        "block 1500 is in use and marked as free",
    );
    let image = lying(store, &[], &[(1000, true), (1001, true)]);
    let words = "blocks 1000 to 1001 are marked as used, and are not";
    expect("leaked", &image, Kind::LeakedBlock, words);
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.blocks = 3);
    expect("shorter", &image, kind, "it is for 3 blocks");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.blocks = u64::MAX);
    expect("longer", &image, kind, "it is for 18446744073709551615");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.allocated -= 1);
    expect("a count", &image, kind, "in use, there are");
    let mut image = Image::of(store);
    let index = image.metadata_root().index;
    image.put(index, INDEX, 24, &[1]);
    expect("an entry", &image, kind, "are said to be free");
    let mut image = Image::of(store);
    image.blocks.get_mut(&index).unwrap().0[24] ^= 1;
    expect("an index", &image, kind, "its checksum is wrong");
    let mut image = Image::of(store);
    image.put(index, INDEX, 16, &index.to_le_bytes());
    expect("a bitmap", &image, kind, "is used twice");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.index = 2);
    expect("an index", &image, kind, "is used twice");
    let image = with_superblock(store, |s| s.metadata_space[32] = 1);
    expect("padding", &image, kind, "bytes behind its root");
    // A leak is not told of where it may be a part of what cannot be read.
    let mut image = lying(store, &[(700, true)], &[(1000, true)]);
    let superblock = image.superblock();
    image.broken.insert(superblock.roots.records);
    let (findings, _) = look(&image);
    let kinds: Vec<_> = findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [Kind::Unreadable], "{findings:?}");
}
