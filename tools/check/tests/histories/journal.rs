// SPDX-License-Identifier: GPL-2.0

//! Changes that are in the journal, and not in the trees yet.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use dm_snap_mv_check::{check, plan, plan_for, Kind, Options, Report, Step, Wanted};
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use dm_snap_mv_model::record_key::{
    child_epoch, is_behind_children, key_behind, RecordKey, RecordValue,
};
use dm_snap_mv_model::versions::{delete_snapshot, take_origin_snapshot, take_snapshot_snapshot};
use dm_snap_mv_store::space::Root;

use crate::changes;
use crate::damage::{large, look, rolling, with, with_superblock};
use crate::image::{Image, Logged, SECTORS};
use crate::random::Random;
use crate::repair::{content, give_up, recount_to, repair_to, Content};
use crate::rich::rich;
use crate::store::Store;
use crate::world::chunk_size;

/// COW chunks that the store does not use.
pub const FREE: u64 = 900;

pub fn used(start: u64, len: u64) -> Entry {
    let start = CowChunk::new(start).unwrap();
    Entry::Run(Run::Use { start, len })
}

pub fn records(
    (t, chunk, epoch): (TimelineId, Chunk, Epoch),
    value: RecordValue,
    len: u32,
) -> Entry {
    Entry::Run(Run::Records {
        timeline: t,
        key: RecordKey::new(t, chunk, epoch).get(),
        value,
        len,
    })
}

pub fn cow(chunk: u64) -> RecordValue {
    RecordValue::Cow(CowChunk::new(chunk).unwrap())
}

/// Where an origin has no records of three chunks at an epoch that something is based on.
pub fn place(store: &Store) -> (TimelineId, Chunk, Epoch) {
    let of_origins = store.children.iter();
    let of_origins = of_origins.filter(|((t, key), _)| t << 32 == 0 && !is_behind_children(*key));
    let all = of_origins.flat_map(|(&(t, key), _)| {
        let t = TimelineId::new(t).unwrap();
        let epoch = child_epoch(key).unwrap();
        let row = store.origins.get(&t.origin().get()).unwrap();
        let end = chunk_size().end_of(row.size).unwrap().get();
        (0..end.saturating_sub(2)).map(move |chunk| (t, Chunk::new(chunk).unwrap(), epoch))
    });
    let mut free = all.filter(|&(t, chunk, epoch)| {
        (0..3).all(|i| {
            let key = RecordKey::new(t, chunk.plus(i), epoch).get();
            store.records.get(&(t.get(), key)).is_none()
        })
    });
    free.next().expect("room for records")
}

/// The row of an origin with so many chunks more.
fn counted(store: &Store, t: TimelineId, more: u64) -> Entry {
    let row = *store.origins.get(&t.origin().get()).unwrap();
    Entry::Origin(OriginRow {
        chunks: row.chunks + more,
        ..row
    })
}

/// The row of an origin that has fewer snapshots than there are, if it has any; with so many chunks
/// more.
fn miscounted(store: &Store, t: TimelineId, more: u64) -> Option<Entry> {
    let Entry::Origin(row) = counted(store, t, more) else {
        return None;
    };
    let snapshots = row.snapshots.checked_sub(1)?;
    Some(Entry::Origin(OriginRow { snapshots, ..row }))
}

/// What a journal says of three chunks that were preserved.
fn preserved(store: &Store) -> [Entry; 3] {
    let place = place(store);
    [
        used(FREE, 3),
        records(place, cow(FREE), 3),
        counted(store, place.0, 3),
    ]
}

#[test]
fn what_fits_is_in_order_and_counted() {
    let store = rich();
    let mut image = with_superblock(&store, |s| s.clean = false);
    let bare = check(&image, SECTORS, Options::default(), &mut Vec::new());
    let [used, records, row] = preserved(&store);
    let next = image.journal(0, &[used, records, row]);
    image.journal(next, &[row]);
    let report = check(&image, SECTORS, Options::default(), &mut Vec::new());
    assert_eq!(look(&image).0, []);
    assert_eq!(report.statistics.journaled, 6);
    assert_eq!(report.statistics.records, bare.statistics.records + 3);
    assert_eq!(report.statistics.chunks, bare.statistics.chunks + 3);
    // Nothing is to be done: the next activation does it.
    assert!(plan(&image, SECTORS, &mut Vec::new()).1.is_none());
    // Without a look at records, what is said of them is not.
    let options = Options {
        skip_records: true,
        ..Options::default()
    };
    assert!(check(&image, SECTORS, options, &mut Vec::new()).is_clean());

    // What was not written in whole is not there, nor is what belongs to another transaction.
    let mut torn = image.clone();
    let nr = torn.superblock().layout.journal_start + 1;
    torn.blocks.get_mut(&nr).unwrap().0[1000] ^= 1;
    let report = check(&torn, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 5);
    let mut superblock = image.superblock();
    superblock.transaction += 1;
    image.put_superblock(&superblock);
    let report = check(&image, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 0);
}

/// A store with a snapshot of an origin and one of that more, and without both again.
fn come_and_gone(store: &Store) -> [Store; 2] {
    let (_, nr) = rolling(store);
    let (mut there, mut gone) = (store.clone(), store.clone());
    for store in [&mut there, &mut gone] {
        let mut row = *store.origins.get(&nr).unwrap();
        let tag = take_origin_snapshot(store, &mut row, b"", 5).unwrap();
        let mut parent = *store.snapshots.get(&row.timeline_of(tag).get()).unwrap();
        take_snapshot_snapshot(store, &mut row, &mut parent, b"", 5).unwrap();
    }
    let mut row = *gone.origins.get(&nr).unwrap();
    for _ in 0..2 {
        let last = gone
            .snapshots
            .iter()
            .filter(|(&t, _)| (t >> 32) as u32 == nr)
            .last();
        let tag = last.unwrap().1.tag;
        delete_snapshot(&mut gone, &mut row, tag).unwrap();
    }
    [there, gone]
}

#[test]
fn what_comes_and_goes_within_it_is_in_order() {
    let store = rich();
    let [there, gone] = come_and_gone(&store);
    let mut image = Image::of(&store);
    let next = image.journal(0, &changes::entries(&store, &there).unwrap());
    assert_eq!(look(&image).0, []);
    let entries = changes::entries(&there, &gone).unwrap();
    let goes = |entry: &&Entry| matches!(entry, Entry::NoSnapshot(_) | Entry::NoChild { .. });
    assert_eq!(entries.iter().filter(goes).count(), 4);
    image.journal(next, &entries);
    assert_eq!(look(&image).0, []);
    // And by themselves.
    let mut image = Image::of(&there);
    image.journal(0, &entries);
    assert_eq!(look(&image).0, []);
}

/// A journal that operations make, on top of the image they began with.
struct Written {
    image: Image,
    index: u64,
    store: Store,
    entries: u64,
}

thread_local! {
    static WRITTEN: RefCell<Option<Written>> = const { RefCell::new(None) };
    /// Journals looked at, entries in them, and how many were repaired.
    pub static SEEN: Cell<[u64; 3]> = const { Cell::new([0; 3]) };
}

/// To be called with each state that operations come to, its image and what was found of that: with
/// all that has changed in a journal it must be the same.
pub fn look_at(store: &Store, image: &Image, report: &Report) {
    let written = WRITTEN.take().and_then(|mut written| {
        let entries = changes::entries(&written.store, store)?;
        // Labels are written with the trees only.
        if !written.store.labels.iter().eq(store.labels.iter()) {
            return None;
        }
        if !entries.is_empty() {
            let blocks = image.superblock().layout.journal_blocks;
            // The largest entry takes a seventh of a block.
            let most = entries.len().div_ceil(7) as u64;
            if most > 15 || written.index + most > blocks {
                return None;
            }
            written.index = written.image.journal(written.index, &entries);
            written.entries += entries.len() as u64;
        }
        written.store = store.clone();
        Some(written)
    });
    let Some(written) = written else {
        return WRITTEN.set(Some(Written {
            image: image.clone(),
            index: 0,
            store: store.clone(),
            entries: 0,
        }));
    };
    let [journals, entries, mut repaired] = SEEN.get();
    let mut findings = Vec::new();
    let found = check(&written.image, SECTORS, Options::default(), &mut findings);
    assert!(found.is_clean(), "{findings:?}");
    let (mut found, mut expected) = (found.statistics, report.statistics);
    found.journaled = 0;
    (found.metadata_blocks, expected.metadata_blocks) = (0, 0);
    assert_eq!(found, expected);
    if journals % 64 == 0 && written.entries > 0 {
        repaired += u64::from(repair(store, &written));
    }
    SEEN.set([journals + 1, entries + written.entries, repaired]);
    WRITTEN.set(Some(written));
}

/// Gives `look` the image that has the last state of a store in part in a journal, if there is one.
pub fn with_written(look: impl FnOnce(&Image)) {
    let written = WRITTEN.take();
    if let Some(written) = written.as_ref().filter(|written| written.entries > 0) {
        look(&written.image);
    }
    WRITTEN.set(written);
}

/// Has the counts repaired of a store with a journal.
fn repair(store: &Store, written: &Written) -> bool {
    let Some((&nr, _)) = store.origins.iter().next() else {
        return false;
    };
    let mut image = written.image.clone();
    let t = TimelineId::of_origin(OriginNr::new(nr).unwrap());
    if written.index == image.superblock().layout.journal_blocks {
        return false;
    }
    let Some(wrong) = miscounted(store, t, 0) else {
        return false;
    };
    image.journal(written.index, &[wrong]);
    let expected = content(&Image::of(store));
    let after = recount_to("a journal", &image, &expected, &mut Random::new(1));
    assert!(after.superblock().clean);
    true
}

#[test]
fn a_repair_keeps_it() {
    let store = rich();
    let mut image = with_superblock(&store, |s| {
        s.clean = false;
        s.needs_check = true;
    });
    image.journal(0, &preserved(&store));
    assert_ne!(look(&image).0, []);
    let device = Logged::new(&image);
    let (_, plan) = plan(&device, SECTORS, &mut Vec::new());
    plan.unwrap().carry_out(&device).unwrap();
    let after = device.image();
    let report = check(&after, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean());
    assert_eq!(report.statistics.journaled, 5);
    assert!(!after.superblock().clean);
}

#[test]
fn a_repair_of_rows_is_not_undone_by_it() {
    let store = rich();
    let (_, nr) = rolling(&store);
    let t = TimelineId::of_origin(OriginNr::new(nr).unwrap());
    let good = content(&Image::of(&store));
    let random = &mut Random::new(1);
    // Wrong in the tree and in the journal.
    let wrong = miscounted(&store, t, 0).expect("a snapshot");
    let mut image = with(&store, |s| {
        let Entry::Origin(row) = wrong else {
            unreachable!()
        };
        s.origins.insert(nr, row);
    });
    image.journal(0, &[wrong]);
    let wanted = Wanted {
        give_up: true,
        ..Wanted::default()
    };
    let (_, plan) = plan_for(&image, SECTORS, wanted, &mut Vec::new());
    let steps: Vec<_> = plan.unwrap().steps().collect();
    assert!(
        steps.starts_with(&[Step::Journal, Step::Counts]),
        "{steps:?}"
    );
    let after = recount_to("both", &image, &good, random);
    let report = check(&after, SECTORS, Options::default(), &mut Vec::new());
    assert!(report.is_clean() && report.statistics.journaled == 0);
    // Wrong in the tree only: the journal sets that right.
    image.journal(0, &[counted(&store, t, 0)]);
    assert_eq!(look(&image).0, []);
    // Wrong in the journal only, with all else that there can be in it.
    let [there, gone] = come_and_gone(&store);
    for (name, new) in [("there", &there), ("gone", &gone)] {
        let mut image = Image::of(&store);
        let next = image.journal(0, &changes::entries(&store, new).unwrap());
        let next = image.journal(next, &preserved(new));
        let more = if place(new).0 == t { 3 } else { 0 };
        image.journal(next, &[miscounted(new, t, more).expect("a snapshot")]);
        let (findings, _) = look(&image);
        assert!(
            findings.iter().all(|f| f.kind == Kind::Count),
            "{findings:?}"
        );
        let after = recount_to(name, &image, &made(new, &preserved(new)), random);
        assert!(after.superblock().clean);
    }
}

/// The content of a store with some records more.
fn made(store: &Store, entries: &[Entry]) -> Content {
    let mut store = store.clone();
    for entry in entries {
        match *entry {
            Entry::Run(Run::Records {
                timeline,
                key,
                value,
                len,
            }) => {
                for i in 0..u64::from(len) {
                    let key = key_behind(key, i).unwrap();
                    let value = value.plus(i).unwrap().encode();
                    store.records.insert((timeline.get(), key), value);
                }
            }
            Entry::Origin(row) => store.origins.insert(row.number.get(), row),
            _ => {}
        }
    }
    content(&Image::of(&store))
}

#[test]
fn a_repair_makes_few_of_many_nodes_anew() {
    // Whole leaves of records, and new ones in the midst, in front of and behind them.
    let (store, t) = large(&rich(), 9000);
    let child = store.children.iter().find(|((of, _), _)| *of == t.get());
    let epoch = child_epoch(child.unwrap().0 .1).unwrap();
    let at = |chunk| (t, Chunk::new(chunk).unwrap(), epoch);
    let kept = |store: &Store, chunk: u64| {
        let key = RecordKey::new(t, Chunk::new(chunk).unwrap(), epoch).get();
        store.records.get(&(t.get(), key)).is_some()
    };
    let mut store = store;
    for chunk in 3000..3600 {
        let key = RecordKey::new(t, Chunk::new(chunk).unwrap(), epoch).get();
        store.records.remove(&(t.get(), key));
    }
    assert!(!kept(&store, 50) && kept(&store, 2999) && !kept(&store, 20_000));
    let entries = [
        records(at(50), RecordValue::Zero, 1),
        used(FREE, 20),
        records(at(3100), cow(FREE), 20),
        records(at(3200), RecordValue::Zero, 300),
        records(at(20_000), RecordValue::Zero, 1000),
    ];
    let mut image = Image::of(&store);
    let next = image.journal(0, &entries);
    image.journal(next, &[miscounted(&store, t, 20).expect("a snapshot")]);
    let (findings, _) = look(&image);
    assert!(
        findings.iter().all(|f| f.kind == Kind::Count),
        "{findings:?}"
    );
    let random = &mut Random::new(1);
    let before = image.blocks.clone();
    let after = recount_to("large", &image, &made(&store, &entries), random);
    // 9000 records take 36 leaves at least, and what did not change has not been written.
    let new = after
        .blocks
        .iter()
        .filter(|(nr, _)| !before.contains_key(nr));
    assert!((10..30).contains(&new.count()));
}

/// What was journaled when the metadata were nearly full, so that it cannot be done again as it was
/// done before: a leaf is half full then, and only a repair makes all as full as they can be.
#[test]
fn what_takes_more_than_there_is_can_be_repaired() {
    const LEFT: u64 = 80;
    let free = |image: &Image| {
        let space = Root::decode(&image.superblock().metadata_space);
        space.blocks - space.allocated
    };
    let mut many = 200_000;
    let left = free(&Image::of(&large(&rich(), many).0));
    many += (left - LEFT) * 252;
    let (store, t) = large(&rich(), many);
    let bare = with_superblock(&store, |s| s.clean = false);
    assert!(free(&bare).abs_diff(LEFT) < 8, "{} blocks", free(&bare));
    let of_it = store.records.iter().filter(|((of, _), _)| *of == t.get());
    let (&(_, key), _) = of_it.last().unwrap();
    let (last, epoch) = RecordKey::decode(t, key).unwrap();
    let journaled = |len| {
        let zeroes = records((t, last.plus(1), epoch), RecordValue::Zero, len);
        let mut image = bare.clone();
        image.journal(0, &[zeroes]);
        image
    };
    // There is room for few.
    assert_eq!(look(&journaled(2000)).0, []);
    assert!(plan(&journaled(2000), SECTORS, &mut Vec::new()).1.is_none());
    let image = journaled(12_000);
    let (found, _) = look(&image);
    assert!(
        matches!(found.as_slice(), [one] if one.kind == Kind::JournalSpace),
        "{found:?}"
    );
    let (_, steps) = plan(&image, SECTORS, &mut Vec::new());
    assert!(steps.unwrap().steps().any(|step| step == Step::Journal));
    let mut expected = content(&bare);
    for i in 1..=12_000 {
        let key = RecordKey::new(t, last.plus(i), epoch).get();
        expected.put_record((t.get(), key), RecordValue::Zero.encode());
    }
    let after = repair_to("no room", &image, &expected, &mut Random::new(1));
    assert!(after.superblock().clean);
}

#[test]
fn an_end_that_cannot_be_read_is_named_and_given_up() {
    let store = rich();
    let entries = preserved(&store);
    let mut image = with_superblock(&store, |s| s.clean = false);
    let begin = image.superblock().layout.journal_start;
    let next = begin + image.journal(0, &entries);
    let report = |image: &Image| check(image, SECTORS, Options::default(), &mut Vec::new());
    let broken = |image: &Image, nr| {
        let mut image = image.clone();
        image.broken.insert(nr);
        image
    };

    // Behind the first block that nothing of this journal was written to, nothing was.
    for nr in next + 1..next + 40 {
        assert_eq!(look(&broken(&image, nr)).0, [], "block {nr}");
    }
    // That one may be the next batch. What is before it is there.
    let end = broken(&image, next);
    assert_eq!(report(&end).statistics.journaled, 5);
    let concerned = store.origins.iter().filter(|(_, row)| row.snapshots > 0);
    let count = 1 + concerned.count() as u64;
    let counts = BTreeMap::from([(Kind::JournalEnd, count)]);
    assert_eq!(report(&end).counts, counts);
    assert!(plan(&end, SECTORS, &mut Vec::new()).1.is_none());
    let after = give_up("a broken end", &end);
    assert_eq!(content(&after), made(&store, &entries));
    // Nothing is before it.
    let bare = broken(&with_superblock(&store, |s| s.clean = false), begin);
    assert_eq!(report(&bare).statistics.journaled, 0);
    let after = give_up("a broken beginning", &bare);
    assert_eq!(content(&after), content(&bare));
    // A store that was closed in order has nothing there.
    assert_eq!(look(&broken(&Image::of(&store), begin)).0, []);
}
