// SPDX-License-Identifier: GPL-2.0

//! Damage of every kind to a store that has some of everything. All checksums are right, unless
//! that is the damage.

mod blocks;
mod journal;
mod records;
mod rows;
mod space;

use std::collections::BTreeSet;

use dm_snap_mv_check::{check, Finding, Kind, Options, Outcome};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::{Chunk, TimelineId};
use dm_snap_mv_model::record_key::{is_behind_children, RecordKey, RecordValue};
use dm_snap_mv_store::node::Node;
use dm_snap_mv_store::space::{IndexEntry, Root};
use dm_snap_mv_store::{checksum, Blocks};

use crate::image::{Image, SECTORS};
use crate::rich::rich;
use crate::store::Store;

pub use space::lying;

pub const NODE: u32 = 121_107;
pub const BITMAP: u32 = 240_779;
pub const INDEX: u32 = 160_478;

/// A store with so many records in the timeline of an origin that they take several nodes.
pub fn large(store: &Store, records: u64) -> (Store, TimelineId) {
    let mut store = store.clone();
    let (&(t, key), _) = store
        .children
        .iter()
        .find(|((t, key), _)| t << 32 == 0 && !is_behind_children(*key))
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
    blocks::superblock(&store);
    blocks::nodes(&store);
    rows::origins(&store);
    rows::snapshots(&store);
    rows::children(&store);
    rows::bookmarks(&store);
    rows::labels(&store);
    rows::identities(&store);
    records::rollback(&store);
    records::cleaning(&store);
    records::records(&store);
    space::data_space(&store);
    space::metadata_space(&store);
    journal::journal(&store);
    let found = FOUND.take();
    for kind in Kind::ALL {
        // Of which nothing is damaged: a test of its own makes it.
        if *kind == Kind::JournalSpace {
            continue;
        }
        assert!(found.contains(kind), "no damage here is {kind:?}");
    }
}
