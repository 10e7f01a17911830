// SPDX-License-Identifier: GPL-2.0

//! Changes that are in the journal, and not in the trees yet.

use dm_snap_mv_check::{check, plan, Kind, Options};
use dm_snap_mv_model::disk::journal::{Batch, Entry, Place, Run, BATCH_BLOCKS, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};
use dm_snap_mv_store::journal::sum;
use dm_snap_mv_store::Block;

use crate::damage::{expect, look, with_superblock};
use crate::image::{Image, Logged, SECTORS};
use crate::rich::rich;
use crate::store::Store;

impl Image {
    /// Appends a batch to the journal, which has `index` blocks so far. Returns how many it has then.
    pub fn journal(&mut self, index: u64, entries: &[Entry]) -> u64 {
        let superblock = self.superblock();
        let mut blocks = vec![[0; 4096]; BATCH_BLOCKS];
        let mut batch = Batch::new();
        for entry in entries {
            assert!(batch.push(&mut blocks, entry));
        }
        let place = Place {
            uuid: superblock.uuid,
            transaction: superblock.transaction,
            first_block: superblock.layout.journal_start,
            index,
        };
        let count = batch.seal(&mut blocks, &place, sum) as u64;
        for (i, block) in blocks.into_iter().take(count as usize).enumerate() {
            let nr = superblock.layout.journal_start + index + i as u64;
            self.blocks.insert(nr, Block(block));
        }
        index + count
    }
}

/// COW chunks that the store does not use.
const FREE: u64 = 900;

fn used(start: u64, len: u64) -> Entry {
    let start = CowChunk::new(start).unwrap();
    Entry::Run(Run::Use { start, len })
}

fn records(t: TimelineId, value: RecordValue, len: u32) -> Entry {
    let key = RecordKey::new(t, Chunk::new(5).unwrap(), Epoch::MAX).get();
    Entry::Run(Run::Records {
        timeline: t,
        key,
        value,
        len,
    })
}

fn some_origin(store: &Store) -> TimelineId {
    let nr = store.origins.iter().next().map(|(&nr, _)| nr);
    TimelineId::of_origin(nr.and_then(OriginNr::new).unwrap())
}

fn cow(chunk: u64) -> RecordValue {
    RecordValue::Cow(CowChunk::new(chunk).unwrap())
}

/// Part of what is found of every kind.
pub fn damage(store: &Store) {
    let good = Image::of(store);
    let t = some_origin(store);
    let with = |entries: &[Entry]| {
        let mut image = good.clone();
        image.journal(0, entries);
        image
    };
    let present = store.snapshots.iter().next().map(|(&key, _)| key);
    let present = present.and_then(TimelineId::new).unwrap();
    let absent = TimelineId::of_snapshot(t.origin(), Tag::new(0xffff).unwrap());
    let gone = |epoch| Entry::NoChild { timeline: t, epoch };
    let based = |epoch| Entry::Child {
        timeline: t,
        epoch,
        tag: 1,
    };
    let in_use = store.used().iter().position(|&used| used).unwrap() as u64;
    for (name, entries, words) in [
        ("in use", vec![used(in_use, 1)], "comes into use and is"),
        (
            "twice",
            vec![used(FREE, 3), used(FREE + 2, 1)],
            "comes into use and is",
        ),
        (
            "not in use",
            vec![used(FREE, 2), records(t, cow(FREE), 3)],
            "does not come into use",
        ),
        (
            "of nobody",
            vec![records(
                TimelineId::of_origin(OriginNr::new(77).unwrap()),
                RecordValue::Zero,
                1,
            )],
            "which is not there",
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
            "based no more",
            vec![based(Epoch::MAX), gone(Epoch::MAX), gone(Epoch::MAX)],
            "nothing is based on epoch",
        ),
    ] {
        expect(name, &with(&entries), Kind::Journal, words);
    }
    // A block that is right, and makes no sense.
    let mut image = with(&[used(FREE, 3)]);
    let nr = image.superblock().layout.journal_start;
    image.put(nr, CHECKSUM_XOR, 64, &[99]);
    expect("nonsense", &image, Kind::Journal, "journal: ");
    image.broken.insert(nr);
    expect("broken", &image, Kind::Unreadable, "journal: ");
    // A batch that is not whole, with one behind it: it was.
    let mut image = with(&[used(FREE, 3)]);
    image.journal(1, &[used(FREE + 3, 1)]);
    image.blocks.get_mut(&nr).unwrap().0[1000] ^= 1;
    expect("damaged", &image, Kind::Journal, "journal: ");
}

#[test]
fn what_fits_is_in_order_and_counted() {
    let store = rich();
    let t = some_origin(&store);
    let mut image = with_superblock(&store, |s| s.clean = false);
    let next = image.journal(0, &[used(FREE, 3), records(t, cow(FREE), 3)]);
    let row = *store.origins.iter().next().unwrap().1;
    image.journal(next, &[Entry::Origin(row)]);
    let report = check(&image, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 5);
    // Nothing is to be done: the next activation does it.
    assert!(plan(&image, SECTORS, &mut Vec::new()).1.is_none());

    // What was not written in whole is not there, nor is what belongs to another transaction.
    let mut torn = image.clone();
    let nr = torn.superblock().layout.journal_start + 1;
    torn.blocks.get_mut(&nr).unwrap().0[1000] ^= 1;
    let report = check(&torn, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 4);
    let mut superblock = image.superblock();
    superblock.transaction += 1;
    image.put_superblock(&superblock);
    let report = check(&image, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 0);
}

#[test]
fn a_repair_keeps_it() {
    let store = rich();
    let t = some_origin(&store);
    let mut image = with_superblock(&store, |s| {
        s.clean = false;
        s.needs_check = true;
    });
    image.journal(0, &[used(FREE, 3), records(t, cow(FREE), 3)]);
    assert_ne!(look(&image).0, []);
    let device = Logged::new(&image);
    let (_, plan) = plan(&device, SECTORS, &mut Vec::new());
    plan.unwrap().carry_out(&device).unwrap();
    let after = device.image();
    let report = check(&after, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 4);
    assert!(!after.superblock().clean);
}
