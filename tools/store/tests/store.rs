// SPDX-License-Identifier: GPL-2.0
//! Stores made by hand, block by block, and read.

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::journal::{Batch, Entry, Place, Run, BATCH_BLOCKS};
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::origin_row::{OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::disk::superblock::{Roots, Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::btree::Btree;
use dm_snap_mv_store::{checksum, journal, Block, Blocks, Error, Store, BLOCK_SIZE};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

#[derive(Default)]
struct Memory {
    blocks: RefCell<BTreeMap<u64, Block>>,
    /// Called before each read of the superblock.
    change: Cell<Option<fn(&Memory)>>,
}

impl Blocks for Memory {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        if nr == 0 {
            if let Some(change) = self.change.get() {
                change(self);
            }
        }
        let blocks = self.blocks.borrow();
        let block = blocks.get(&nr).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Box::new(block.clone()))
    }
}

/// More metadata blocks than any tree here has.
const BLOCKS: u64 = 100;

const NODE_XOR: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;

impl Memory {
    fn put(&self, nr: u64, block: Block) {
        self.blocks.borrow_mut().insert(nr, block);
    }

    /// Writes a node as the kernel would.
    fn node(&self, nr: u64, flags: u32, size: usize, entries: &[(u64, Vec<u8>)]) {
        let room = (BLOCK_SIZE - 32) / (8 + size) / 3 * 3;
        assert!(entries.len() <= room);
        let mut block = *Block::zeroed();
        let mut put = |at: usize, bytes: &[u8]| {
            block.0[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(4, &flags.to_le_bytes());
        put(8, &nr.to_le_bytes());
        put(16, &(entries.len() as u32).to_le_bytes());
        put(20, &(room as u32).to_le_bytes());
        put(24, &(size as u32).to_le_bytes());
        for (i, (key, value)) in entries.iter().enumerate() {
            assert_eq!(value.len(), size);
            put(32 + 8 * i, &key.to_le_bytes());
            put(32 + 8 * room + size * i, value);
        }
        self.put(nr, block);
        self.seal(nr);
    }

    fn seal(&self, nr: u64) {
        let mut blocks = self.blocks.borrow_mut();
        let block = blocks.get_mut(&nr).unwrap();
        let sum = checksum::of_block(block, NODE_XOR);
        block.0[..4].copy_from_slice(&sum.to_le_bytes());
    }

    fn damage(&self, nr: u64, at: usize, bytes: &[u8]) {
        let mut blocks = self.blocks.borrow_mut();
        let block = blocks.get_mut(&nr).unwrap();
        block.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

/// A tree with root 9 of three leaves: keys 10, 20, ... 90, the value ten times the key.
fn tree() -> Memory {
    let memory = Memory::default();
    let leaf = |nr, keys: [u64; 3]| {
        let entries = keys.map(|k| (k, number(k * 10)));
        memory.node(nr, LEAF, 8, &entries);
    };
    leaf(1, [10, 20, 30]);
    leaf(2, [40, 50, 60]);
    leaf(3, [70, 80, 90]);
    memory.node(
        9,
        INTERNAL,
        8,
        &[(10, number(1)), (40, number(2)), (70, number(3))],
    );
    memory
}

fn keys_from(memory: &Memory, from: u64) -> Vec<u64> {
    let mut keys = Vec::new();
    Btree::new(memory, 9, 8, BLOCKS)
        .walk(from, &mut |key, value| {
            assert_eq!(value, number(key * 10));
            keys.push(key);
            ControlFlow::Continue(())
        })
        .unwrap();
    keys
}

#[test]
fn a_walk_begins_anywhere() {
    let memory = tree();
    let all: Vec<u64> = (1..=9).map(|k| k * 10).collect();
    for from in 0..=100 {
        let expected: Vec<_> = all.iter().copied().filter(|k| *k >= from).collect();
        assert_eq!(keys_from(&memory, from), expected, "from {from}");
    }
}

#[test]
fn a_look_up_finds_what_is_there() {
    let memory = tree();
    let tree = Btree::new(&memory, 9, 8, BLOCKS);
    for key in 0..=100 {
        let expected = (key > 0 && key < 100 && key % 10 == 0).then(|| number(key * 10));
        assert_eq!(tree.lookup(key).unwrap(), expected, "{key}");
    }
}

#[test]
fn an_empty_tree_is_a_leaf_without_entries() {
    let memory = Memory::default();
    memory.node(9, LEAF, 8, &[]);
    assert_eq!(keys_from(&memory, 0), []);
    assert_eq!(Btree::new(&memory, 9, 8, BLOCKS).lookup(1).unwrap(), None);
}

fn complaint(memory: &Memory) -> String {
    Btree::new(memory, 9, 8, BLOCKS)
        .walk(0, &mut |_, _| ControlFlow::Continue(()))
        .unwrap_err()
        .to_string()
}

#[test]
fn damage_is_noticed() {
    let memory = tree();
    memory.damage(2, 40, &[0xff]);
    assert_eq!(
        complaint(&memory),
        "metadata block 2 is damaged: its checksum is wrong"
    );

    // From here on the checksums are right, as if the kernel had written it so.
    for (at, bytes, expected) in [
        (8, &[3u8][..], "it belongs somewhere else"),
        (4, &[3], "it is no node of a tree"),
        (
            16,
            &[0xff, 0xff],
            "it has more entries than it has room for",
        ),
        (20, &[0xff, 0xff], "it claims more entries than fit"),
        (20, &[0, 0], "it claims more entries than fit"),
        (20, &[0xff; 8], "it claims more entries than fit"),
        (24, &[4], "its values have the wrong size"),
        (32, &[50], "its keys are out of order"),
    ] {
        let memory = tree();
        memory.damage(2, at, bytes);
        memory.seal(2);
        assert_eq!(
            complaint(&memory),
            format!("metadata block 2 is damaged: {expected}"),
            "{at}"
        );
    }
}

#[test]
fn a_ring_is_no_tree() {
    let memory = Memory::default();
    memory.node(9, INTERNAL, 8, &[(0, number(9))]);
    assert_eq!(
        complaint(&memory),
        "metadata block 9 is damaged: its tree is too deep"
    );
    memory.node(9, INTERNAL, 8, &[]);
    assert_eq!(
        complaint(&memory),
        "metadata block 9 is damaged: it is an internal node that leads nowhere"
    );
}

#[test]
fn many_ways_through_a_few_nodes_have_an_end() {
    let memory = Memory::default();
    // Fifteen nodes, each of which leads to the next one 252 times: so 252^14 ways.
    for nr in 1..15 {
        let all: Vec<_> = (0..252).map(|key| (key, number(nr + 1))).collect();
        memory.node(nr, INTERNAL, 8, &all);
    }
    memory.node(15, LEAF, 8, &[(1, number(1))]);
    let mut visits = 0;
    let walked = Btree::new(&memory, 1, 8, BLOCKS).walk(0, &mut |_, _| {
        visits += 1;
        ControlFlow::Continue(())
    });
    let error = walked.unwrap_err().to_string();
    assert_eq!(
        error,
        "metadata block 15 is damaged: its tree has more nodes than there are blocks"
    );
    assert_eq!(visits, BLOCKS - 14);
    // A tree of as many nodes as there are blocks is one.
    let memory = tree();
    let walk =
        |most| Btree::new(&memory, 9, 8, most).walk(0, &mut |_, _| ControlFlow::Continue(()));
    assert!(walk(4).is_ok());
    assert!(walk(3).is_err());
}

#[test]
fn a_block_that_cannot_be_read_is_named() {
    let memory = tree();
    memory.blocks.borrow_mut().remove(&3);
    assert!(complaint(&memory).starts_with("cannot read metadata block 3: "));
}

fn superblock(transaction: u64) -> Superblock {
    Superblock {
        clean: true,
        needs_check: false,
        cow_full: false,
        uuid: [7; 16],
        compat: 0,
        ro_compat: 0,
        incompat: 1,
        layout: Layout::new(1 << 20, ChunkSize::from_pages(1).unwrap(), None).unwrap(),
        transaction,
        next_origin: 3,
        nr_origins: 2,
        roots: Roots {
            origins: 1,
            snapshots: 2,
            ..Roots::default()
        },
        metadata_space: [0; 128],
        data_space: [0; 128],
        strange: [0; 64],
    }
}

fn put_superblock(memory: &Memory, transaction: u64) {
    let mut block = *Block::zeroed();
    superblock(transaction).encode(&mut block.0);
    Superblock::seal(&mut block.0, |covered| {
        checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
    });
    memory.put(0, block);
}

fn nr(n: u32) -> OriginNr {
    OriginNr::new(n).unwrap()
}

fn tag(n: u32) -> Tag {
    Tag::new(n).unwrap()
}

fn origin_row(n: u32, id: &str) -> Vec<u8> {
    let row = OriginRow {
        size: 2048 * u64::from(n),
        number: nr(n),
        current_epoch: Epoch::FIRST,
        next_tag: tag(9),
        snapshots: 0,
        ghosts: 0,
        created: 0,
        chunks: 0,
        invalid_below: 0,
        bookmarks: 0,
        forgotten_below: 0,
        rollback: None,
        deferred: None,
        identity: Identity::UNKNOWN,
        id: OriginId::new(id.as_bytes()).unwrap(),
    };
    let mut bytes = [0; OriginRow::SIZE];
    row.encode(&mut bytes);
    bytes.to_vec()
}

fn snapshot_row(n: u32, size: u64) -> Vec<u8> {
    let row = SnapshotRow {
        tag: tag(n),
        ghost: false,
        bookmark: false,
        parent: None,
        base_epoch: Epoch::FIRST,
        current_epoch: Epoch::FIRST,
        children: 0,
        size,
        created: 0,
        chunks: 0,
        memo: Memo::EMPTY,
    };
    let mut bytes = [0; SnapshotRow::SIZE];
    row.encode(&mut bytes);
    bytes.to_vec()
}

fn store() -> Memory {
    let memory = Memory::default();
    put_superblock(&memory, 1);
    // The journal is empty.
    let layout = superblock(1).layout;
    for block in layout.journal_start..layout.journal_start + layout.journal_blocks {
        memory.put(block, *Block::zeroed());
    }
    memory.node(
        1,
        LEAF,
        OriginRow::SIZE,
        &[
            (1, origin_row(1, "/dev/sdb1")),
            (2, origin_row(2, "/dev/vg/lv")),
        ],
    );
    let key = |origin, t| TimelineId::of_snapshot(nr(origin), tag(t)).get();
    memory.node(
        2,
        LEAF,
        SnapshotRow::SIZE,
        &[
            (key(1, 1), snapshot_row(1, 2048)),
            (key(1, 3), snapshot_row(3, 4096)),
            (key(2, 1), snapshot_row(1, 8192)),
        ],
    );
    memory
}

#[test]
fn rows_are_found() {
    let memory = store();
    let store = Store::open(&memory).unwrap();
    assert_eq!(store.superblock(), &superblock(1));
    assert_eq!(store.origins().unwrap().len(), 2);
    let row = store.origin_by_id(b"/dev/vg/lv").unwrap().unwrap();
    assert_eq!((row.number, row.size), (nr(2), 4096));
    assert!(store.origin_by_id(b"/dev/sdb").unwrap().is_none());
    let size = |origin, t| {
        let row = store.snapshot(nr(origin), tag(t)).unwrap();
        row.map(|row| row.size)
    };
    assert_eq!(size(1, 1), Some(2048));
    assert_eq!(size(1, 2), None);
    assert_eq!(size(1, 3), Some(4096));
    assert_eq!(size(2, 1), Some(8192));
    assert_eq!(size(2, 3), None);
    let tags = |origin| {
        let rows = store.snapshots(nr(origin)).unwrap();
        rows.iter().map(|row| row.tag.get()).collect::<Vec<_>>()
    };
    assert_eq!(tags(1), [1, 3]);
    assert_eq!(tags(2), [1]);
    assert_eq!(tags(7), []);
}

#[test]
fn what_is_no_store_is_refused_in_the_kernels_words() {
    let memory = Memory::default();
    memory.put(0, *Block::zeroed());
    let refusal = |memory: &Memory| match Store::open(memory) {
        Err(Error::Refused(refusal)) => refusal,
        _ => panic!("it was taken for a store"),
    };
    assert_eq!(refusal(&memory), Refusal::NoStore);
    memory.damage(0, 100, &[1]);
    assert_eq!(refusal(&memory), Refusal::ForeignData);
    put_superblock(&memory, 1);
    memory.damage(0, 112, &[1, 2, 3]);
    assert_eq!(refusal(&memory), Refusal::BadChecksum);
}

#[test]
fn a_row_under_a_wrong_key_is_refused() {
    let memory = store();
    memory.node(1, LEAF, OriginRow::SIZE, &[(2, origin_row(1, "x"))]);
    let store = Store::open(&memory).unwrap();
    assert!(matches!(
        store.origins(),
        Err(Error::Refused(Refusal::Corrupt))
    ));
}

#[test]
fn a_store_that_changes_is_read_again() {
    let memory = store();
    // Each reading of the superblock finds the next transaction, four times.
    memory.change.set(Some(|memory| {
        let block = memory.blocks.borrow().get(&0).unwrap().clone();
        let now = u64::from_le_bytes(block.0[112..120].try_into().unwrap());
        put_superblock(memory, now.min(4) + 1);
    }));
    let tries = Cell::new(0);
    let read = |store: &Store<'_>| {
        tries.set(tries.get() + 1);
        Ok(store.superblock().transaction)
    };
    assert_eq!(Store::read(&memory, read).unwrap(), 5);
    assert!(tries.get() > 1);

    // However often.
    memory.change.set(Some(|memory| {
        let block = memory.blocks.borrow().get(&0).unwrap().clone();
        let now = u64::from_le_bytes(block.0[112..120].try_into().unwrap());
        put_superblock(memory, now.min(999) + 1);
    }));
    assert_eq!(Store::read(&memory, read).unwrap(), 1000);
}

/// Writes a journal of one batch.
fn put_journal(memory: &Memory, entries: &[Entry]) {
    let mut blocks = [[0; 4096]; BATCH_BLOCKS];
    let mut batch = Batch::new();
    for entry in entries {
        assert!(batch.push(&mut blocks, entry));
    }
    let place = Place {
        uuid: [7; 16],
        transaction: 1,
        first_block: superblock(1).layout.journal_start,
        index: 0,
    };
    let count = batch.seal(&mut blocks, &place, journal::sum);
    for (nr, block) in (place.first_block..).zip(blocks).take(count) {
        memory.put(nr, Block(block));
    }
}

#[test]
fn the_journal_has_the_latest_rows() {
    let memory = store();
    let row = |bytes: Vec<u8>| OriginRow::decode(&bytes.try_into().unwrap()).unwrap();
    let snapshot = |bytes: Vec<u8>| SnapshotRow::decode(&bytes.try_into().unwrap()).unwrap();
    put_journal(
        &memory,
        &[
            Entry::Origin(row(origin_row(2, "/dev/vg/other"))),
            Entry::Snapshot(nr(1), snapshot(snapshot_row(3, 1 << 20))),
            Entry::Snapshot(nr(1), snapshot(snapshot_row(3, 1 << 21))),
            Entry::Snapshot(nr(1), snapshot(snapshot_row(7, 1 << 22))),
            Entry::Snapshot(nr(1), snapshot(snapshot_row(8, 1 << 22))),
            Entry::NoSnapshot(TimelineId::of_snapshot(nr(1), tag(8))),
            Entry::NoSnapshot(TimelineId::of_snapshot(nr(2), tag(1))),
        ],
    );

    let store = Store::open(&memory).unwrap();
    assert!(store.origin_by_id(b"/dev/vg/lv").unwrap().is_none());
    assert!(store.origin_by_id(b"/dev/vg/other").unwrap().is_some());
    let size = |t| store.snapshot(nr(1), tag(t)).unwrap().map(|row| row.size);
    assert_eq!(
        [size(1), size(3), size(7)],
        [Some(2048), Some(1 << 21), Some(1 << 22)]
    );
    let tags = |origin| -> Vec<u32> {
        let rows = store.snapshots(nr(origin)).unwrap();
        rows.iter().map(|row| row.tag.get()).collect()
    };
    assert_eq!((tags(1), tags(2)), (vec![1, 3, 7], vec![]));
    assert!(store.snapshot(nr(2), tag(1)).unwrap().is_none());
    assert!(store.snapshot(nr(1), tag(8)).unwrap().is_none());

    // With the next transaction it is empty.
    put_superblock(&memory, 2);
    let store = Store::open(&memory).unwrap();
    assert!(store.snapshot(nr(1), tag(7)).unwrap().is_none());
}

#[test]
fn a_journal_stands_for_so_many_changes_and_no_more() {
    let t = TimelineId::of_origin(nr(1));
    let key = RecordKey::new(t, Chunk::ZERO, Epoch::FIRST).get();
    let records = |len: u64| {
        Entry::Run(Run::Records {
            timeline: t,
            key,
            value: RecordValue::Zero,
            len: u32::try_from(len).unwrap(),
        })
    };
    let start = CowChunk::new(3).unwrap();
    let used = |len| Entry::Run(Run::Use { start, len });
    let marks = |len| {
        Entry::Run(Run::Done {
            origin: nr(1),
            start: Chunk::ZERO,
            len,
        })
    };
    let gone = Entry::NoSnapshot(TimelineId::of_snapshot(nr(1), tag(1)));
    let most = journal::MOST;
    for (entries, fits) in [
        (vec![records(most)], true),
        (vec![gone, records(most)], true),
        (vec![records(most + 1)], false),
        (vec![records(u64::from(u32::MAX))], false),
        (vec![marks(most + 1)], false),
        (vec![marks(1 << 39)], false),
        (vec![records(most - 9), gone, marks(4), used(5)], true),
        (vec![records(most - 9), gone, marks(4), used(6)], false),
    ] {
        let memory = store();
        put_journal(&memory, &entries);
        let mut all = Vec::new();
        let read = journal::read(&memory, &superblock(1), &mut |entry| all.push(*entry));
        assert_eq!(read.is_ok(), fits, "{entries:?}");
        match read {
            Ok(()) => assert_eq!(all, entries),
            Err(error) => assert!(matches!(error, Error::Overlong), "{entries:?}: {error}"),
        }
        assert_eq!(Store::open(&memory).is_ok(), fits, "{entries:?}");
    }
}
