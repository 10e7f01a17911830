// SPDX-License-Identifier: GPL-2.0

//! A store that is read while it changes: each so many reads, what stands on the device is all of the
//! next transaction's. A kernel leaves the last one's blocks alone; this one does not. So whatever is
//! read over a change is wrong, and mostly with right checksums.

use std::cell::Cell;
use std::io;

use dm_snap_mv_model::disk::journal::Entry;
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};
use dm_snap_mv_model::rollback;
use dm_snap_mv_model::versions::{
    bind, find_snapshot, take_origin_snapshot, take_snapshot_snapshot,
};
use dm_snap_mv_store::runs::Records;
use dm_snap_mv_store::{Block, Blocks, Live, Store};

use crate::delta::{read, versions, Copy};
use crate::image::Image;
use crate::oracle::{Origin, CHUNK_SECTORS};
use crate::random::Random;
use crate::world::{chunk_size, Disk, World};

/// Chunks of the origin, and of the COW device.
const CHUNKS: usize = 12_000;
const COW_CHUNKS: usize = 40_000;

/// Sectors of the COW device, and its metadata blocks.
const SECTORS: u64 = 8 * (COW_CHUNKS as u64 + 4096);
const METADATA: u64 = 2048;

/// A device that changes.
struct Changing<'i> {
    images: &'i [Image],
    /// Reads from one change to the next.
    every: u64,
    reads: Cell<u64>,
}

impl Blocks for Changing<'_> {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let now = (self.reads.get() / self.every) as usize;
        self.reads.set(self.reads.get() + 1);
        self.images[now.min(self.images.len() - 1)].read(nr)
    }

    /// As fast as one.
    fn read_many(&self, numbers: &[u64]) -> Vec<io::Result<Box<Block>>> {
        let before = self.reads.get();
        let mut all = Vec::new();
        for &nr in numbers {
            self.reads.set(before);
            all.push(self.read(nr));
        }
        all
    }
}

/// What [`Copy::beside`] says.
type Beside = Vec<(Option<bool>, bool)>;

/// A timeline and a key, and a value.
type Record = ((u64, u64), u64);

/// An origin with snapshots, and what becomes of it.
struct History {
    w: World,
    random: Random,
    images: Vec<Image>,
    /// For each image and pair of versions, where what is in the newer one.
    expected: Vec<Vec<Beside>>,
}

/// The pairs that are compared. The snapshots are there all the time, and nobody writes to them.
const PAIRS: [(Option<u32>, Option<u32>); 6] = [
    (Some(1), Some(2)),
    (Some(2), Some(1)),
    (Some(1), Some(4)),
    (Some(3), Some(4)),
    (Some(4), Some(2)),
    (Some(2), None),
];

impl History {
    fn new(seed: u64) -> History {
        let mut w = World::new(COW_CHUNKS, false, seed);
        let content: Vec<u64> = (0..CHUNKS).map(|_| w.fresh()).collect();
        w.oracle.origins.push(Origin {
            head: content.clone(),
            size: CHUNKS as u64 * CHUNK_SECTORS,
            ..Origin::default()
        });
        let id = b"origin".to_vec();
        w.disks.push(Disk {
            id,
            nr: None,
            content,
        });
        let size = CHUNKS as u64 * CHUNK_SECTORS;
        let bound = w.durably(
            |store| bind(store, b"origin", size, chunk_size(), 1),
            |_, _| (),
        );
        w.disks[0].nr = Some(bound.unwrap());
        w.oracle.origins[0].bound = true;
        w.oracle.origins[0].next_tag = 1;
        let random = Random::new(seed);
        let mut history = History {
            w,
            random,
            images: Vec::new(),
            expected: Vec::new(),
        };
        history.write_origin(900);
        assert_eq!(history.take(None), 1);
        history.write_origin(900);
        assert_eq!(history.take(None), 2);
        history.write_origin(600);
        assert_eq!(history.take(Some(1)), 3);
        history.write_snapshot(3, 300);
        assert_eq!(history.take(Some(3)), 4);
        history.write_snapshot(3, 100);
        history.w.zero_snapshot(0, 4, 5000, 3000).unwrap();
        history.write_snapshot(4, 300);
        history
    }

    fn row(&self) -> dm_snap_mv_model::disk::origin_row::OriginRow {
        self.w.row(self.w.disks[0].nr.unwrap())
    }

    fn write_origin(&mut self, many: usize) {
        for _ in 0..many {
            let (start, len) = self.range();
            let values: Vec<u64> = (0..len).map(|_| self.w.fresh()).collect();
            self.w.write_origin(0, start, &values).unwrap();
        }
    }

    fn write_snapshot(&mut self, tag: u32, many: usize) {
        for _ in 0..many {
            let (start, len) = self.range();
            let values: Vec<u64> = (0..len).map(|_| self.w.fresh()).collect();
            self.w.write_snapshot(0, tag, start, &values).unwrap();
        }
    }

    fn range(&mut self) -> (usize, usize) {
        let len = 1 + self.random.below(5) as usize;
        (self.random.below((CHUNKS - len) as u64) as usize, len)
    }

    fn take(&mut self, of: Option<u32>) -> u32 {
        let mut row = self.row();
        let taken = match of.and_then(Tag::new) {
            None => self.w.durably(
                |store| take_origin_snapshot(store, &mut row, b"", 1),
                |oracle, tag| assert_eq!(oracle.take(0, None), tag.get()),
            ),
            Some(tag) => {
                let mut parent = find_snapshot(&self.w.store, &row, tag).unwrap();
                self.w.durably(
                    |store| take_snapshot_snapshot(store, &mut row, &mut parent, b"", 1),
                    |oracle, tag| assert_eq!(oracle.take(0, of), tag.get()),
                )
            }
        };
        taken.unwrap().get()
    }

    /// Something that happens in a store.
    fn go_on(&mut self, step: u64) {
        let last = *self.w.oracle.origins[0].snapshots.keys().last().unwrap();
        match step % 6 {
            0 => drop(self.take(None)),
            1 if last > 6 => self.w.delete(0, last).unwrap(),
            2 if last > 6 => self.w.delete(0, last - 1).unwrap(),
            3 if self.w.oracle.origins[0].rollback.is_none() && step > 20 => {
                let mut row = self.row();
                let tag = Tag::new(1 + step as u32 % 4).unwrap();
                let size = chunk_size();
                self.w
                    .durably(
                        |store| rollback::begin(store, &mut row, tag, false, size),
                        |oracle, ()| oracle.roll_back(0, tag.get(), false),
                    )
                    .unwrap();
            }
            3 | 4 => self.w.continue_rollback(0, 900).unwrap(),
            _ => while self.w.clean(500).unwrap() {},
        }
        self.write_origin(20);
        self.w.commit().unwrap();
    }

    /// What the device holds now, in the next transaction.
    fn note(&mut self) {
        let mut image = Image::of_size(&self.w.store, SECTORS, METADATA);
        let mut superblock = image.superblock();
        superblock.transaction += self.images.len() as u64;
        superblock.clean = false;
        image.put_superblock(&superblock);
        self.images.push(image);
        let copy = |tag| Copy::of(&self.w, 0, tag).unwrap();
        let beside = PAIRS.map(|(old, new)| copy(old).beside(&copy(new)));
        self.expected.push(beside.into());
    }
}

#[test]
fn what_changes_while_it_is_read_is_read_again() {
    let seed = crate::number("TEST_SEED", 1);
    let mut history = History::new(seed);
    for step in 0..crate::usual_or_long(40, 160) {
        history.note();
        history.go_on(step);
    }
    let nr = history.w.disks[0].nr.unwrap();
    let (mut repeated, mut over_several) = (0, 0);
    for (i, every) in (0..).zip([17, 23, 40, 41, 55, 90, 200, 1000]) {
        for (pair, &(old, new)) in PAIRS.iter().enumerate() {
            let device = Changing {
                images: &history.images,
                every,
                reads: Cell::new(i),
            };
            let leaves = [1, 8, 64, 1024][(pair + i as usize) % 4];
            // As if `commit` had been sent, or not.
            let folded = (pair % 2 == 0).then_some(5);
            let mut live = Live::new(&device, folded).at_most(leaves);
            live.batch(|_, _| Ok(())).unwrap();
            let begun = live.seen().last as usize - 5;
            let (found, _) = read(live, versions(nr, old, new)).unwrap();
            let ended = (device.reads.get() / every) as usize;
            let ended = ended.min(history.images.len() - 1);
            over_several += u64::from(ended > begun + 1);
            let met = &history.expected[begun..=ended];
            for (chunk, found) in found.iter().enumerate() {
                let at = format!("{old:?} {new:?}, every {every}: chunk {chunk}: {found:?}");
                // The origin may have been rolled back to the other one.
                let differs = met.iter().all(|met| met[pair][chunk].1);
                assert!(found.is_some() || !differs, "{at}: it differs");
                let said = met.iter().any(|met| met[pair][chunk].0 == *found);
                assert!(said, "{at}: it was never so");
            }
            let mut live = Live::new(&device, folded).at_most(leaves);
            live.batch(|_, _| Ok(())).unwrap();
            repeated += live.seen().repeated;
        }
    }
    assert!(over_several > 8, "{over_several}");
    println!("{repeated} batches read again");
}

#[test]
fn all_records_are_those_of_some_moment() {
    let mut history = History::new(2);
    for step in 0..20 {
        history.note();
        history.go_on(step);
    }
    let all: Vec<Vec<_>> = history
        .images
        .iter()
        .map(|image| records(image).0)
        .collect();
    let device = Changing {
        images: &history.images,
        every: 31,
        reads: Cell::new(0),
    };
    let (found, seen) = records(&device);
    assert!(seen.repeated > 0 && seen.last > seen.first, "{seen:?}");
    let mut keys = found.windows(2);
    assert!(keys.all(|pair| pair[0].0 < pair[1].0), "not in their order");
    for record in &found {
        assert!(all.iter().any(|all| all.binary_search(record).is_ok()));
    }
    for record in &all[0] {
        let stays = all.iter().all(|all| all.binary_search(record).is_ok());
        assert!(!stays || found.binary_search(record).is_ok());
    }
}

/// All of them, as timeline, first key, value and length of each chunk's own.
fn records(device: &dyn Blocks) -> (Vec<Record>, dm_snap_mv_store::live::Seen) {
    let mut live = Live::new(device, None).at_most(16);
    let mut walk = Records::of(0, u64::MAX);
    let mut all = Vec::new();
    while let Some(runs) = walk.more(&mut live).unwrap() {
        for run in runs {
            let several = run.value.plus(1).is_none();
            for i in 0..if several { 1 } else { run.len } {
                let key = (run.chunk.plus(i).get() << 24) | u64::from(run.epoch.get());
                all.push((
                    (run.timeline.get(), key),
                    run.value.plus(i).unwrap().encode(),
                ));
            }
        }
    }
    if all.windows(2).any(|pair| pair[0] > pair[1]) {
        // Later epochs of a snapshot come first.
        all.sort_unstable();
    }
    (all, live.seen())
}

#[test]
fn a_version_that_goes_meanwhile_is_refused() {
    let mut history = History::new(3);
    history.note();
    let nr: OriginNr = history.w.disks[0].nr.unwrap();
    history.w.delete(0, 2).unwrap();
    while history.w.clean(500).unwrap() {}
    history.w.commit().unwrap();
    let mut image = Image::of_size(&history.w.store, SECTORS, METADATA);
    let mut superblock = image.superblock();
    superblock.transaction += 1;
    image.put_superblock(&superblock);
    history.images.push(image);
    let read_after = |every| {
        let device = Changing {
            images: &history.images,
            every,
            reads: Cell::new(0),
        };
        let live = Live::new(&device, Some(5)).at_most(4);
        let read = read(live, versions(nr, Some(1), Some(2)));
        (read.map(drop), device.reads.get())
    };
    let (read, reads) = read_after(u64::MAX);
    read.unwrap();
    assert!(reads > 30, "{reads}");
    for every in 1..reads - 1 {
        let refused = read_after(every).0.unwrap_err().to_string();
        assert_eq!(
            refused, "unknown tag",
            "gone after {every} of {reads} reads"
        );
    }
}

#[test]
fn another_store_is_told_from_a_later_transaction() {
    let mut history = History::new(4);
    history.note();
    let mut other = history.images[0].clone();
    let mut superblock = other.superblock();
    superblock.uuid = [8; 16];
    superblock.transaction += 1;
    other.put_superblock(&superblock);
    history.images.push(other);
    let device = Changing {
        images: &history.images,
        every: 30,
        reads: Cell::new(0),
    };
    let nr = history.w.disks[0].nr.unwrap();
    let refused = read(
        Live::new(&device, None).at_most(2),
        versions(nr, Some(1), None),
    );
    let refused = refused.unwrap_err().to_string();
    assert!(refused.starts_with("another store"), "{refused}");
    // Nor is one that is older than what was folded.
    let refused =
        Live::new(&history.images[0], Some(6)).batch(|store: &Store<'_>, _| store.origins());
    assert!(refused.is_err());
}

#[test]
fn who_is_deleted_in_the_journal_is_refused_in_the_end() {
    let mut history = History::new(6);
    history.note();
    let nr = history.w.disks[0].nr.unwrap();
    let read = |image: &Image| read(Live::new(image, Some(5)), versions(nr, Some(1), Some(2)));
    read(&history.images[0]).unwrap();
    let gone = TimelineId::of_snapshot(nr, Tag::new(2).unwrap());
    history.images[0].journal(0, &[Entry::NoSnapshot(gone)]);
    let refused = read(&history.images[0]).unwrap_err().to_string();
    assert_eq!(refused, "unknown tag");
}

/// Compares pairs with what an image says that is read as little at a time as possible.
fn compare(history: &History, pairs: &[(Option<u32>, Option<u32>)]) {
    let image = Image::of_size(&history.w.store, SECTORS, METADATA);
    let nr = history.w.disks[0].nr.unwrap();
    for &(old, new) in pairs {
        let copy = |tag| Copy::of(&history.w, 0, tag).unwrap();
        let live = Live::new(&image, None).at_most(1);
        let (found, _) = read(live, versions(nr, old, new)).unwrap();
        let expected = copy(old).beside(&copy(new));
        let expected: Vec<_> = expected.iter().map(|(changed, _)| *changed).collect();
        assert!(found == expected, "{old:?} {new:?}");
    }
}

#[test]
fn a_chunk_can_have_more_records_than_leaves_are_looked_at() {
    let mut history = History::new(7);
    // It is written between a snapshot and the next one, but not between that and the one after it.
    for i in 0..5000 {
        if i % 2 == 0 {
            let value = history.w.fresh();
            history.w.write_origin(0, 7, &[value]).unwrap();
        }
        history.take(None);
    }
    let value = history.w.fresh();
    history.w.write_origin(0, 7, &[value]).unwrap();
    let all = [1, 5, 6, 2500, 5004].map(Some);
    compare(&history, &all.map(|old| (old, Some(2501))));
    compare(&history, &all.map(|old| (old, None)));
    // Where the records of any epoch are, at the end of a leaf or not.
    let image = Image::of_size(&history.w.store, SECTORS, METADATA);
    let nr = history.w.disks[0].nr.unwrap();
    for tag in 5..5004 {
        let differs = |new| {
            let live = Live::new(&image, None).at_most(1);
            read(live, versions(nr, Some(tag), new)).unwrap().0[7].is_some()
        };
        assert!(differs(None), "{tag}");
        assert_eq!(differs(Some(tag + 1)), tag % 2 == 0, "{tag}");
        assert!(tag > 5002 || differs(Some(tag + 2)), "{tag}");
    }
}

#[test]
fn zeroes_are_told_over_the_end_of_a_leaf() {
    let mut history = History::new(8);
    history.w.zero_snapshot(0, 4, 0, CHUNKS).unwrap();
    for chunk in (3..CHUNKS).step_by(4) {
        let value = history.w.fresh();
        history.w.write_snapshot(0, 4, chunk, &[value]).unwrap();
    }
    compare(&history, &PAIRS);
}
