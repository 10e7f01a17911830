// SPDX-License-Identifier: GPL-2.0

//! Where things end, and what they cost.

use dm_snap_mv_model::chain::{Chain, MAX_DEPTH};
use dm_snap_mv_model::clean::clean_step;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::preserve::{newest_live, next_unpreserved, record_preserved, Gap, Live};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::resolve::{resolve, Location, Run};
use dm_snap_mv_model::rollback;
use dm_snap_mv_model::versions::{
    bind, check_shrink, delete_snapshot, find_snapshot, grow, take_origin_snapshot,
    take_snapshot_snapshot,
};
use dm_snap_mv_model::write::{record_written, record_zeroes, writable, NewRun, Writable};

use crate::store::Store;
use crate::world::chunk_size;

/// A snapshot is the newest that there is, at this epoch.
fn of_snapshot(epoch: u32) -> Live {
    let epoch = Epoch::new(epoch).unwrap();
    Live {
        epoch,
        snapshot: Some(epoch),
    }
}

fn chunk(n: u64) -> Chunk {
    Chunk::new(n).unwrap()
}

fn cow(n: u64) -> CowChunk {
    CowChunk::new(n).unwrap()
}

/// A store with one origin of `size` sectors.
pub fn bound(cow_chunks: usize, size: u64) -> (Store, OriginRow) {
    let mut store = Store::new(cow_chunks);
    let nr = bind(&mut store, b"origin", size, chunk_size(), 1).unwrap();
    let row = store.origin(nr).unwrap().unwrap();
    (store, row)
}

fn take(store: &mut Store, row: &mut OriginRow) -> Tag {
    take_origin_snapshot(store, row, b"", 2).unwrap()
}

fn take_of(store: &mut Store, row: &mut OriginRow, tag: Tag) -> Result<Tag, Refusal> {
    let mut parent = find_snapshot(store, row, tag)?;
    take_snapshot_snapshot(store, row, &mut parent, b"", 3)
}

fn snapshot(store: &Store, row: &OriginRow, tag: Tag) -> SnapshotRow {
    find_snapshot(store, row, tag).unwrap()
}

fn write(store: &mut Store, row: &OriginRow, tag: Tag, start: u64, to: u64, len: u64) {
    let mut snap = snapshot(store, row, tag);
    let Ok(Writable::New(run)) = writable(store, row.number, &snap, chunk(start), len) else {
        panic!("chunk {start} has a place");
    };
    assert_eq!(run.len, len);
    record_written(store, row.number, &mut snap, run, cow(to)).unwrap();
    store.put_snapshot(row.number, &snap).unwrap();
}

fn location(store: &Store, row: &OriginRow, tag: Tag, at: u64) -> Location {
    let chain = Chain::of_snapshot(store, row, tag).unwrap();
    resolve(store, &chain, None, chunk(at), 1).unwrap().location
}

/// How many searches something takes.
fn searches<T>(store: &Store, of: impl FnOnce() -> T) -> (T, u64) {
    let before = store.searches.get();
    let result = of();
    (result, store.searches.get() - before)
}

/// Zeroes of chunks of a snapshot. Returns how many records there are then, and how often one was
/// looked at for it.
fn zero(store: &mut Store, row: &OriginRow, tag: Tag, start: u64, len: u64) -> (usize, u64) {
    let mut snap = snapshot(store, row, tag);
    let done = record_zeroes(store, row.number, &mut snap, chunk(start), len, 1 << 20).unwrap();
    assert_eq!(done.len, len);
    store.put_snapshot(row.number, &snap).unwrap();
    (store.records.iter().count(), done.looks)
}

#[test]
fn zeroes_take_one_record_however_many_they_are() {
    let (mut store, mut row) = bound(2000, 1 << 40);
    let tag = take(&mut store, &mut row);
    let million = 1 << 20;
    assert_eq!(zero(&mut store, &row, tag, 5, million), (1, 1));
    // Once more, or a part of it: nothing is changed.
    let before = store.changes();
    assert_eq!(zero(&mut store, &row, tag, 5, million), (1, 1));
    assert_eq!(zero(&mut store, &row, tag, 100, 1000), (1, 1));
    assert_eq!(store.changes(), before + 2, "but the row");
    // What is written cuts it up, and is gone when it is all zeroes again.
    for i in 0..10 {
        write(&mut store, &row, tag, 100 * (i + 1), 100 * i, 7);
    }
    assert_eq!(store.records.iter().count(), 11 + 70);
    assert_eq!(zero(&mut store, &row, tag, 5, million).0, 1);
    assert!(!store.used().contains(&true));
    // Around what others need it takes one for each chunk that is something else for them.
    store.commit();
    write(&mut store, &row, tag, 100, 0, 7);
    take_of(&mut store, &mut row, tag).unwrap();
    assert_eq!(
        zero(&mut store, &row, tag, 0, million + 100).0,
        2 + 7 + 7 + 2
    );
    // And for what is written where they have zeroes two.
    write(&mut store, &row, tag, 500, 100, 3);
    assert_eq!(store.records.iter().count(), 2 + 7 + 7 + 2 + 1 + 2 * 3);
    assert_eq!(location(&store, &row, tag, 499), Location::Zero);
    assert_eq!(location(&store, &row, tag, 500), Location::Cow(cow(100)));
    assert_eq!(location(&store, &row, tag, 503), Location::Zero);
}

#[test]
fn what_is_in_the_way_of_zeroes_goes_bit_by_bit() {
    let (mut store, mut row) = bound(2000, 1 << 40);
    let tag = take(&mut store, &mut row);
    write(&mut store, &row, tag, 0, 0, 1000);
    let mut at = 0;
    while at < 5000 {
        let mut snap = snapshot(&store, &row, tag);
        let left = 5000 - at;
        let done = record_zeroes(&mut store, row.number, &mut snap, chunk(at), left, 10).unwrap();
        assert!(done.looks <= 10 && done.len >= 1);
        store.put_snapshot(row.number, &snap).unwrap();
        at += done.len;
        for other in [0, at - 1] {
            assert_eq!(location(&store, &row, tag, other), Location::Zero);
        }
        if at < 1000 {
            assert_eq!(location(&store, &row, tag, at), Location::Cow(cow(at)));
            assert_eq!(snapshot(&store, &row, tag).chunks, 1000 - at);
        }
    }
    // One for each time.
    assert!(store.records.iter().count() <= 101);
}

#[test]
fn snapshots_nest_so_deep_and_no_deeper() {
    let (mut store, mut row) = bound(MAX_DEPTH, 800);
    let mut tags = vec![take(&mut store, &mut row)];
    for depth in 1..MAX_DEPTH {
        // Each has one chunk of its own.
        let last = tags[depth - 1];
        write(&mut store, &row, last, depth as u64, depth as u64, 1);
        tags.push(take_of(&mut store, &mut row, last).unwrap());
    }
    let deepest = tags[MAX_DEPTH - 1];
    let chain = Chain::of_snapshot(&store, &row, deepest).unwrap();
    assert_eq!(chain.depth(), MAX_DEPTH);
    for depth in 1..MAX_DEPTH as u64 {
        assert_eq!(
            location(&store, &row, deepest, depth),
            Location::Cow(cow(depth))
        );
    }
    assert_eq!(location(&store, &row, deepest, 0), Location::Origin);
    let before = store.changes();
    assert_eq!(
        take_of(&mut store, &mut row, deepest),
        Err(Refusal::TooDeep)
    );
    assert_eq!(store.changes(), before);
    // All but the deepest become ghosts, and go with it.
    for &tag in &tags[..MAX_DEPTH - 1] {
        delete_snapshot(&mut store, &mut row, tag).unwrap();
    }
    assert_eq!((row.snapshots, row.ghosts), (1, MAX_DEPTH as u32 - 1));
    assert_eq!(location(&store, &row, deepest, 5), Location::Cow(cow(5)));
    delete_snapshot(&mut store, &mut row, deepest).unwrap();
    assert_eq!((row.snapshots, row.ghosts), (0, 0));
    assert_eq!(store.snapshots.iter().count(), 0);
}

#[test]
fn epochs_and_tags_run_out() {
    let (mut store, mut row) = bound(8, 800);
    let tag = take(&mut store, &mut row);
    row.current_epoch = Epoch::MAX.previous().unwrap();
    take(&mut store, &mut row);
    assert_eq!(row.current_epoch, Epoch::MAX);
    let last = row;
    let before = store.changes();
    let refused = take_origin_snapshot(&mut store, &mut row, b"", 2);
    assert_eq!(refused, Err(Refusal::NoMoreEpochs));
    let refused = rollback::begin(&mut store, &mut row, tag, false, chunk_size());
    assert_eq!(refused, Err(Refusal::NoMoreEpochs));
    row.next_tag = Tag::new(u32::MAX).unwrap();
    assert_eq!(take_of(&mut store, &mut row, tag), Err(Refusal::NoMoreTags));
    row.next_tag = last.next_tag;
    assert_eq!(row, last);
    let mut parent = snapshot(&store, &row, tag);
    parent.current_epoch = Epoch::MAX;
    let refused = take_snapshot_snapshot(&mut store, &mut row, &mut parent, b"", 2);
    assert_eq!(refused, Err(Refusal::NoMoreEpochs));
    let refused = take_snapshot_snapshot(&mut store, &mut row, &mut parent, b"\n", 2);
    assert_eq!(refused, Err(Refusal::NoMoreEpochs));
    parent.current_epoch = Epoch::FIRST;
    let refused = take_snapshot_snapshot(&mut store, &mut row, &mut parent, b"\n", 2);
    assert_eq!(refused, Err(Refusal::MemoControl));
    assert_eq!((row, store.changes()), (last, before));
    // A write at the last epoch is like any other.
    write(&mut store, &row, tag, 3, 3, 1);
    assert_eq!(location(&store, &row, tag, 3), Location::Cow(cow(3)));
}

/// Neither a write of the origin nor a read of a snapshot costs more for more snapshots.
#[test]
fn cost_does_not_depend_on_the_number_of_snapshots() {
    let costs = |snapshots: u64| {
        let (mut store, mut row) = bound(2048, 80_000);
        let mut tags = Vec::new();
        for i in 0..snapshots {
            tags.push(take(&mut store, &mut row));
            let live = newest_live(&store, &row).unwrap().unwrap();
            record_preserved(
                &mut store,
                row.number,
                &mut row.chunks,
                live.epoch,
                chunk(7),
                cow(i),
                1,
            )
            .unwrap();
        }
        let (live, first) = searches(&store, || newest_live(&store, &row).unwrap().unwrap());
        let gap = |at: u64| {
            let end = chunk(at + 256);
            next_unpreserved(&store, row.number, live, Epoch::MAX, chunk(at), end).unwrap()
        };
        let (found, second) = searches(&store, || gap(1000));
        let start = chunk(1000);
        let run = Gap {
            start,
            len: 256,
            content: true,
        };
        assert_eq!(found, Some(run), "one run, not 256");
        assert_eq!(first + second, 2);
        let read = |tag: Tag, at: u64| {
            let chain = Chain::of_snapshot(&store, &row, tag).unwrap();
            searches(&store, || {
                resolve(&store, &chain, None, chunk(at), 100).unwrap()
            })
        };
        let (oldest, newest) = (tags[0], tags[tags.len() - 1]);
        let location = Location::Origin;
        assert_eq!(read(oldest, 1000), (Run { location, len: 100 }, 2));
        assert_eq!(read(newest, 1000), (Run { location, len: 100 }, 2));
        assert_eq!(
            read(oldest, 7).0,
            Run {
                location: Location::Cow(cow(0)),
                len: 1
            }
        );
        assert_eq!(
            read(newest, 7).0,
            Run {
                location: Location::Cow(cow(snapshots - 1)),
                len: 1
            }
        );
        (read(oldest, 7).1, read(newest, 7).1)
    };
    let (oldest, newest) = costs(1);
    assert_eq!(costs(1000), (oldest, newest));
    assert_eq!(oldest, newest);
}

#[test]
fn runs_are_as_long_as_they_can_be() {
    let (mut store, mut row) = bound(512, 80_000);
    let tag = take(&mut store, &mut row);
    let live = newest_live(&store, &row).unwrap().unwrap();
    let run = |store: &Store, at, max| {
        let chain = Chain::of_snapshot(store, &row, tag).unwrap();
        resolve(store, &chain, None, chunk(at), max).unwrap()
    };
    let mut preserved = row;
    record_preserved(
        &mut store,
        preserved.number,
        &mut preserved.chunks,
        live.epoch,
        chunk(100),
        cow(0),
        256,
    )
    .unwrap();
    assert_eq!(
        run(&store, 0, 1000),
        Run {
            location: Location::Origin,
            len: 100
        }
    );
    assert_eq!(
        run(&store, 100, 1000),
        Run {
            location: Location::Cow(cow(0)),
            len: 256
        }
    );
    assert_eq!(
        run(&store, 150, 10),
        Run {
            location: Location::Cow(cow(50)),
            len: 10
        }
    );
    // What the snapshot has itself comes first.
    write(&mut store, &row, tag, 200, 300, 10);
    let mut snap = snapshot(&store, &row, tag);
    record_zeroes(&mut store, row.number, &mut snap, chunk(210), 5, 100).unwrap();
    store.put_snapshot(row.number, &snap).unwrap();
    assert_eq!(
        run(&store, 100, 1000),
        Run {
            location: Location::Cow(cow(0)),
            len: 100
        }
    );
    assert_eq!(
        run(&store, 200, 1000),
        Run {
            location: Location::Cow(cow(300)),
            len: 10
        }
    );
    assert_eq!(
        run(&store, 210, 1000),
        Run {
            location: Location::Zero,
            len: 5
        }
    );
    assert_eq!(
        run(&store, 215, 1000),
        Run {
            location: Location::Cow(cow(115)),
            len: 141
        }
    );
    let find = |at, max| writable(&store, row.number, &snap, chunk(at), max).unwrap();
    let new = |start, len, unrecorded| {
        Writable::New(NewRun {
            start: chunk(start),
            len,
            unrecorded,
        })
    };
    assert_eq!(find(195, 100), new(195, 5, true));
    assert_eq!(
        find(203, 100),
        Writable::InPlace {
            cow: cow(303),
            len: 7
        }
    );
    assert_eq!(find(210, 100), new(210, 100, false));
    let gap = |store: &Store, start, end| {
        let (start, end) = (chunk(start), chunk(end));
        next_unpreserved(store, row.number, live, Epoch::MAX, start, end).unwrap()
    };
    let some = |start, len| {
        Some(Gap {
            start: chunk(start),
            len,
            content: true,
        })
    };
    assert_eq!(gap(&store, 50, 400), some(50, 50));
    assert_eq!(gap(&store, 100, 400), some(356, 44));
    assert_eq!(gap(&store, 100, 356), None);
    // Only records from the first epoch to the last one, both included, count.
    let upto = |live, upto| {
        let (live, upto) = (of_snapshot(live), Epoch::new(upto).unwrap());
        next_unpreserved(&store, row.number, live, upto, chunk(100), chunk(101)).unwrap()
    };
    assert_eq!([upto(1, 1), upto(1, 2)], [None, None]);
    assert_eq!(upto(2, 3), some(100, 1));
    let mut later = row;
    let third = Epoch::new(3).unwrap();
    record_preserved(
        &mut store,
        later.number,
        &mut later.chunks,
        third,
        chunk(50),
        cow(400),
        1,
    )
    .unwrap();
    let upto = |live, upto| {
        let (live, upto) = (of_snapshot(live), Epoch::new(upto).unwrap());
        next_unpreserved(&store, row.number, live, upto, chunk(50), chunk(51)).unwrap()
    };
    assert_eq!([upto(1, 2), upto(4, 9)], [some(50, 1), some(50, 1)]);
    assert_eq!([upto(1, 3), upto(3, 3), upto(2, 9)], [None, None, None]);
    // At the very end of the longest device.
    let max = Chunk::MAX.get();
    assert_eq!(
        run(&store, max - 3, 1000),
        Run {
            location: Location::Origin,
            len: 3
        }
    );
    assert_eq!(gap(&store, max - 3, max), some(max - 3, 3));
}

/// A chunk with more records than a step may look at is cleaned all the same, from where the last
/// step stopped.
#[test]
fn cleaning_stops_and_goes_on_anywhere() {
    for budget in 1..12 {
        let (mut store, mut row) = bound(64, 800);
        let tag = take(&mut store, &mut row);
        let mut children = Vec::new();
        for i in 0..20 {
            write(&mut store, &row, tag, 5, i, 1);
            children.push(take_of(&mut store, &mut row, tag).unwrap());
        }
        write(&mut store, &row, tag, 5, 20, 1);
        store.commit();
        // Two of three go, the last one among them.
        for (i, &child) in children.iter().enumerate() {
            if i % 3 > 0 {
                delete_snapshot(&mut store, &mut row, child).unwrap();
            }
        }
        let mut from = TimelineId::LOWEST;
        loop {
            let step = clean_step(&mut store, from, budget).unwrap();
            store.commit();
            from = step.next;
            if step.timeline.is_none() {
                break;
            }
            assert!(step.examined <= budget);
        }
        let used: Vec<usize> = (0..64).filter(|&i| store.used()[i]).collect();
        assert_eq!(used, [0, 3, 6, 9, 12, 15, 18, 20], "budget {budget}");
        assert_eq!(snapshot(&store, &row, tag).chunks, 8);
        for (i, &child) in children.iter().enumerate().filter(|(i, _)| i % 3 == 0) {
            assert_eq!(
                location(&store, &row, child, 5),
                Location::Cow(cow(i as u64))
            );
        }
        assert_eq!(location(&store, &row, tag, 5), Location::Cow(cow(20)));
    }
}

/// Deletions that go on and on do not keep other timelines from being cleaned.
#[test]
fn cleaning_is_fair() {
    let (mut store, mut row) = bound(64, 8000);
    let gone = take(&mut store, &mut row);
    write(&mut store, &row, gone, 5, 0, 5);
    let mut kept = take(&mut store, &mut row);
    let live = newest_live(&store, &row).unwrap().unwrap();
    record_preserved(
        &mut store,
        row.number,
        &mut row.chunks,
        live.epoch,
        chunk(0),
        cow(10),
        20,
    )
    .unwrap();
    store.put_origin(&row).unwrap();
    delete_snapshot(&mut store, &mut row, gone).unwrap();
    store.commit();
    let mut from = TimelineId::LOWEST;
    for _ in 0..100 {
        let step = clean_step(&mut store, from, 4).unwrap();
        from = step.next;
        // Always another one, while the origin's pass is on its way.
        row = store.origin(row.number).unwrap().unwrap();
        delete_snapshot(&mut store, &mut row, kept).unwrap();
        kept = take(&mut store, &mut row);
        store.commit();
        if !store.used()[0] {
            return;
        }
    }
    panic!("the deleted snapshot's chunks are still there");
}

#[test]
fn a_rollback_to_a_smaller_snapshot_leaves_the_rest() {
    let (mut store, mut row) = bound(64, 80);
    let tag = take(&mut store, &mut row);
    let begin = |store: &mut Store, row: &mut OriginRow, tag| {
        rollback::begin(store, row, tag, false, chunk_size())
    };
    assert_eq!(
        grow(&mut store, &mut row, 79, chunk_size()),
        Err(Refusal::OriginShrunk)
    );
    grow(&mut store, &mut row, 93, chunk_size()).unwrap();
    let partial = take(&mut store, &mut row);
    grow(&mut store, &mut row, 96, chunk_size()).unwrap();
    assert_eq!(
        begin(&mut store, &mut row, partial),
        Err(Refusal::RollbackSize)
    );
    begin(&mut store, &mut row, tag).unwrap();
    let view = rollback::RollbackView::of(&store, &row).unwrap().unwrap();
    assert_eq!((view.limit, view.boundary.get()), (chunk(10), 3));
    assert!(rollback::is_done(&store, &view, chunk(10)).unwrap());
    assert!(!rollback::is_done(&store, &view, chunk(9)).unwrap());
    assert_eq!(
        begin(&mut store, &mut row, tag),
        Err(Refusal::RollbackRunning)
    );
    assert_eq!(
        rollback::finish(&mut store, &mut row),
        Err(Refusal::RollbackRunning)
    );
    rollback::advance(&mut store, &mut row, chunk(100)).unwrap();
    rollback::finish(&mut store, &mut row).unwrap();
    assert_eq!(row.rollback, None);
}

#[test]
fn what_is_missing_or_loops_is_corrupt() {
    let (mut store, mut row) = bound(64, 80);
    let tag = take(&mut store, &mut row);
    let child = take_of(&mut store, &mut row, tag).unwrap();
    let unknown = Tag::new(9).unwrap();
    let chain =
        |store: &Store, tag| Chain::of_snapshot(store, &row, tag).map(|chain| chain.depth());
    assert_eq!(chain(&store, unknown), Err(Refusal::UnknownTag));
    assert_eq!(chain(&store, child), Ok(2));
    store.remove_snapshot(row.timeline_of(tag)).unwrap();
    assert_eq!(chain(&store, child), Err(Refusal::Corrupt));
    // A row under another one's key: its parent is itself.
    let mut wrong = snapshot(&store, &row, child);
    wrong.tag = unknown;
    wrong.parent = Some(child);
    store.snapshots.insert(row.timeline_of(child).get(), wrong);
    assert_eq!(chain(&store, child), Err(Refusal::Corrupt));
    assert!(store
        .cleaning(TimelineId::of_origin(OriginNr::new(1).unwrap()))
        .unwrap()
        .is_none());
}

#[test]
fn what_an_origin_may_shrink_to() {
    let (mut store, mut row) = bound(64, 64);
    let nr = bind(&mut store, b"another", 256, chunk_size(), 1).unwrap();
    let mut other = store.origin(nr).unwrap().unwrap();
    take(&mut store, &mut other);
    let shrunk = Err(Refusal::OriginShrunk);
    // What others have does not count.
    assert_eq!(check_shrink(&store, &row, 1), Ok(()));
    assert_eq!(check_shrink(&store, &row, 0), shrunk);
    let small = take(&mut store, &mut row);
    grow(&mut store, &mut row, 128, chunk_size()).unwrap();
    assert_eq!(check_shrink(&store, &row, 64), Ok(()));
    assert_eq!(check_shrink(&store, &row, 63), shrunk);
    let large = take(&mut store, &mut row);
    assert_eq!(check_shrink(&store, &row, 127), shrunk);
    delete_snapshot(&mut store, &mut row, large).unwrap();
    // Not before what was preserved for it is gone.
    assert_eq!(check_shrink(&store, &row, 64), shrunk);
    let mut from = row.timeline();
    loop {
        let step = clean_step(&mut store, from, 64).unwrap();
        store.commit();
        if step.timeline.is_none() {
            break;
        }
        from = step.next;
    }
    row = store.origin(row.number).unwrap().unwrap();
    assert_eq!(check_shrink(&store, &row, 64), Ok(()));
    rollback::begin(&mut store, &mut row, small, false, chunk_size()).unwrap();
    assert_eq!(check_shrink(&store, &row, 127), shrunk);
}
