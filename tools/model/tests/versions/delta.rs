// SPDX-License-Identifier: GPL-2.0

//! Bookmarks and what differs, case by case: what random operations do not show.

use std::fmt;

use dm_snap_mv_model::chain::Chain;
use dm_snap_mv_model::clean::clean_step;
use dm_snap_mv_model::delta::{Delta, Page, Version};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::escape::Sink;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, Tag, TimelineId};
use dm_snap_mv_model::preserve::{
    newest_live, next_unpreserved, record_changed, record_preserved, Gap,
};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::resolve::resolve;
use dm_snap_mv_model::rollback;
use dm_snap_mv_model::versions::{
    delete_snapshot, find_snapshot, invalidate, keep_bookmark, take_bookmark, take_origin_snapshot,
    take_snapshot_snapshot, unbind, Loss,
};
use dm_snap_mv_model::write::{record_zeroes, writable};

use crate::limits::bound;
use crate::store::Store;
use crate::world::chunk_size;

fn chunk(n: u64) -> Chunk {
    Chunk::new(n).unwrap()
}

fn snapshot(store: &mut Store, row: &mut OriginRow) -> Tag {
    take_origin_snapshot(store, row, b"", 2).unwrap()
}

fn bookmark(store: &mut Store, row: &mut OriginRow) -> Tag {
    take_bookmark(store, row, b"", 2).unwrap()
}

/// What a write of the origin does, with COW chunks from `cow` on. Returns whether it needed any.
fn write(store: &mut Store, row: &mut OriginRow, start: u64, len: u64, cow: u64) -> bool {
    let live = newest_live(store, row).unwrap().expect("somebody needs it");
    let (first, end) = (chunk(start), chunk(start + len));
    let mut copied = false;
    while let Some(gap) = next_unpreserved(store, row.number, live, Epoch::MAX, first, end).unwrap()
    {
        let Gap { start, len, .. } = gap;
        if gap.content {
            let to = CowChunk::new(cow).unwrap();
            let chunks = &mut row.chunks;
            record_preserved(store, row.number, chunks, live.epoch, start, to, len).unwrap();
            copied = true;
        } else {
            record_changed(store, row.number, live.epoch, start, len).unwrap();
        }
    }
    store.put_origin(row).unwrap();
    copied
}

/// The values of an origin's records of a chunk.
fn records(store: &Store, row: &OriginRow, at: u64) -> Vec<RecordValue> {
    let (t, chunks) = (row.timeline(), store.used().len() as u64);
    let first = RecordKey::new(t, chunk(at), Epoch::FIRST).get();
    let all = store.records.iter();
    let mine =
        all.filter(|((of, key), _)| *of == t.get() && (first..first + (1 << 24)).contains(key));
    mine.map(|(_, &raw)| RecordValue::decode(raw, chunks).unwrap())
        .collect()
}

fn clean(store: &mut Store, row: &mut OriginRow) {
    while clean_step(store, TimelineId::LOWEST, 7)
        .unwrap()
        .timeline
        .is_some()
    {}
    *row = store.origin(row.number).unwrap().unwrap();
}

#[derive(Default)]
struct Text(Vec<u8>);

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

impl Sink for Text {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// A page, made in steps of `budget` looks, at most `steps` of them.
fn page(
    store: &Store,
    row: &OriginRow,
    (from, to): (Tag, Option<Tag>),
    (start, max, room): (u64, u32, usize),
    (budget, steps): (u32, u32),
) -> Result<String, Refusal> {
    let from = Version::find(store, row, Some(from))?;
    let to = Version::find(store, row, to)?;
    let delta = Delta::new(&from, &to, chunk_size())?;
    let mut page = Page::new(chunk(start), max, room);
    let mut out = Text::default();
    for _ in 0..steps {
        if !page.step(store, &delta, None, chunk_size(), budget, &mut out)? {
            break;
        }
    }
    page.finish(delta.end, &mut out)?;
    assert!(out.0.len() <= room);
    Ok(String::from_utf8(out.0).unwrap())
}

/// An origin of 100 chunks with a bookmark and runs of chunks that were written since.
fn example() -> (Store, OriginRow, Tag) {
    let (mut store, mut row) = bound(64, 800);
    let tag = bookmark(&mut store, &mut row);
    for (start, len) in [(3, 4), (7, 1), (50, 10), (99, 1)] {
        assert!(!write(&mut store, &mut row, start, len, 0));
    }
    (store, row, tag)
}

#[test]
fn pages_of_what_differs() {
    let (store, row, tag) = example();
    let all = "delta 8 100\n3 5\n50 10\n99 1\nend\n";
    let ask = |start, max, room, budget, steps| {
        page(
            &store,
            &row,
            (tag, None),
            (start, max, room),
            (budget, steps),
        )
    };
    assert_eq!(ask(0, u32::MAX, 4096, 1000, 1).as_deref(), Ok(all));
    assert_eq!(ask(0, u32::MAX, 4096, 1, 1000).as_deref(), Ok(all));
    // So many runs, and where the next one begins.
    assert_eq!(
        ask(0, 1, 4096, 1000, 1).as_deref(),
        Ok("delta 8 100\n3 5\nnext 50\n")
    );
    assert_eq!(
        ask(52, 2, 4096, 1000, 1).as_deref(),
        Ok("delta 8 100\n52 8\n99 1\nend\n")
    );
    assert_eq!(
        ask(100, 2, 4096, 1000, 1).as_deref(),
        Ok("delta 8 100\nend\n")
    );
    assert_eq!(
        ask(1 << 39, 2, 4096, 1000, 1).as_deref(),
        Ok("delta 8 100\nend\n")
    );
    // Or so many bytes, or looks. All of it comes, in whatever pieces.
    let complete = |max, room, budget, steps| {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut start = 0;
        loop {
            let text = ask(start, max, room, budget, steps).unwrap();
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("delta 8 100"));
            let mut last = "";
            for line in lines {
                last = line;
                let Some((a, b)) = line.split_once(' ') else {
                    continue;
                };
                if a == "next" {
                    continue;
                }
                let (first, len): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
                match runs.last_mut() {
                    Some((f, l)) if *f + *l == first => *l += len,
                    _ => runs.push((first, len)),
                }
            }
            match last.split_once(' ') {
                Some(("next", next)) => {
                    let next = next.parse().unwrap();
                    assert!(next > start, "it goes on");
                    start = next;
                }
                _ => break assert_eq!(last, "end"),
            }
        }
        assert_eq!(runs, [(3, 5), (50, 10), (99, 1)]);
    };
    complete(u32::MAX, 64, 1000, 1);
    complete(u32::MAX, 4096, 1, 1);
    complete(1, 4096, 3, 2);
    assert_eq!(ask(0, 9, 40, 1000, 1), Err(Refusal::ReplyTooLong));
    assert_eq!(ask(0, 9, 5, 1000, 1), Err(Refusal::ReplyTooLong));
}

#[test]
fn a_write_with_bookmarks_alone_copies_nothing() {
    let (mut store, mut row, first) = example();
    assert!(!store.used().contains(&true) && row.chunks == 0);
    // Nor what is noted already.
    let before = store.changes();
    let live = newest_live(&store, &row).unwrap().unwrap();
    let gap = next_unpreserved(&store, row.number, live, Epoch::MAX, chunk(3), chunk(8)).unwrap();
    assert_eq!((gap, store.changes()), (None, before));
    // With a snapshot before the bookmark: what that has not is copied, once.
    let tag = snapshot(&mut store, &mut row);
    let second = bookmark(&mut store, &mut row);
    assert!(write(&mut store, &mut row, 3, 1, 0));
    assert!(write(&mut store, &mut row, 20, 1, 1));
    let third = bookmark(&mut store, &mut row);
    assert!(!write(&mut store, &mut row, 3, 1, 2), "the snapshot has it");
    assert!(write(&mut store, &mut row, 21, 1, 2));
    let mark = RecordValue::Mark;
    let cow = |n| RecordValue::Cow(CowChunk::new(n).unwrap());
    assert_eq!(records(&store, &row, 3), [mark, cow(0), mark]);
    let changed = |store: &Store, row: &OriginRow, from, to| {
        let text = page(store, row, (from, to), (0, 99, 4096), (1000, 1)).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let runs = ["3 5", "20 2", "50 10", "99 1", "end"];
    assert_eq!(changed(&store, &row, first, None), runs);
    assert_eq!(changed(&store, &row, second, None), ["3 1", "20 2", "end"]);
    assert_eq!(changed(&store, &row, third, None), ["3 1", "21 1", "end"]);
    assert_eq!(
        changed(&store, &row, tag, Some(third)),
        ["3 1", "20 1", "end"]
    );
    assert_eq!(
        changed(&store, &row, third, Some(tag)),
        ["3 1", "20 1", "end"]
    );
    assert_eq!(changed(&store, &row, tag, Some(second)), ["end"]);
    // What the snapshot leaves to bookmarks is no content.
    delete_snapshot(&mut store, &mut row, tag).unwrap();
    clean(&mut store, &mut row);
    assert_eq!(records(&store, &row, 3), [mark, mark, mark]);
    assert!(!store.used().contains(&true) && row.chunks == 0);
    assert_eq!(changed(&store, &row, second, None), ["3 1", "20 2", "end"]);
    delete_snapshot(&mut store, &mut row, second).unwrap();
    clean(&mut store, &mut row);
    assert_eq!(records(&store, &row, 3), [mark, mark]);
    assert_eq!(changed(&store, &row, third, None), ["3 1", "21 1", "end"]);
    for tag in [first, third] {
        assert_eq!(unbind(&mut store, row.number), Err(Refusal::BookmarksExist));
        delete_snapshot(&mut store, &mut row, tag).unwrap();
    }
    assert_eq!(unbind(&mut store, row.number), Err(Refusal::StillCleaning));
    clean(&mut store, &mut row);
    assert_eq!(store.records.iter().count(), 0);
    unbind(&mut store, row.number).unwrap();
}

#[test]
fn what_can_be_kept_as_a_bookmark() {
    let (mut store, mut row) = bound(64, 800);
    let tag = snapshot(&mut store, &mut row);
    let mut parent = find_snapshot(&store, &row, tag).unwrap();
    let child = take_snapshot_snapshot(&mut store, &mut row, &mut parent, b"", 3).unwrap();
    assert!(write(&mut store, &mut row, 5, 1, 0));
    let nr = row.number;
    let keep = |store: &mut Store, tag| {
        let mut row = store.origin(nr).unwrap().unwrap();
        keep_bookmark(store, &mut row, tag)
    };
    assert_eq!(keep(&mut store, child), Err(Refusal::NotOfOrigin));
    let second = snapshot(&mut store, &mut row);
    let mut snap = find_snapshot(&store, &row, second).unwrap();
    record_zeroes(&mut store, row.number, &mut snap, chunk(9), 1, 9).unwrap();
    store.put_snapshot(row.number, &snap).unwrap();
    assert_eq!(keep(&mut store, second), Err(Refusal::SnapshotWritten));
    assert_eq!(
        keep(&mut store, Tag::new(9).unwrap()),
        Err(Refusal::UnknownTag)
    );
    // One that others are based on: they read what they read, and it stays when they go.
    keep(&mut store, tag).unwrap();
    assert_eq!(keep(&mut store, tag), Err(Refusal::IsBookmark));
    row = store.origin(row.number).unwrap().unwrap();
    assert_eq!((row.snapshots, row.ghosts, row.bookmarks), (2, 1, 1));
    assert_eq!(find_snapshot(&store, &row, tag), Err(Refusal::IsBookmark));
    clean(&mut store, &mut row);
    let chain = Chain::of_snapshot(&store, &row, child).unwrap();
    resolve(&store, &chain, None, chunk(5), 1).unwrap();
    assert_eq!(row.chunks, 1);
    delete_snapshot(&mut store, &mut row, child).unwrap();
    clean(&mut store, &mut row);
    assert_eq!((row.snapshots, row.ghosts, row.bookmarks), (1, 0, 1));
    assert_eq!(row.chunks, 0);
    assert_eq!(records(&store, &row, 5), [RecordValue::Mark]);
    let size = chunk_size();
    assert_eq!(
        rollback::begin(&mut store, &mut row, tag, false, size),
        Err(Refusal::IsBookmark)
    );
    let mut bookmark = store.snapshot(row.timeline_of(tag)).unwrap().unwrap();
    assert!(bookmark.bookmark && !bookmark.ghost && bookmark.children == 0);
    let taken = take_snapshot_snapshot(&mut store, &mut row, &mut bookmark, b"", 3);
    assert_eq!(taken, Err(Refusal::IsBookmark));
}

/// Bookmarks outlive the want of space, but not that of metadata.
#[test]
fn what_is_lost_with_what() {
    let (mut store, mut row, first) = example();
    let tag = snapshot(&mut store, &mut row);
    invalidate(&mut store, &mut row, Loss::Content).unwrap();
    fn find(store: &Store, row: &OriginRow) -> Result<(), Refusal> {
        Version::find(store, row, Tag::new(1)).map(|_| ())
    }
    let kept = keep_bookmark(&mut store, &mut row, tag);
    assert_eq!(kept, Err(Refusal::InvalidSnapshot));
    assert_eq!(find(&store, &row), Ok(()));
    assert!(!write(&mut store, &mut row, 30, 2, 0), "a mark is enough");
    let text = page(&store, &row, (first, None), (0, 99, 4096), (1000, 1)).unwrap();
    assert_eq!(text, "delta 8 100\n3 5\n30 2\n50 10\n99 1\nend\n");
    invalidate(&mut store, &mut row, Loss::Everything).unwrap();
    assert_eq!(find(&store, &row), Err(Refusal::InvalidBookmark));
    assert_eq!(newest_live(&store, &row), Ok(None));
}

/// A record without content where content is looked for is an error, and not content.
#[test]
fn no_mark_is_read() {
    let (mut store, mut row) = bound(64, 800);
    let tag = snapshot(&mut store, &mut row);
    record_changed(&mut store, row.number, Epoch::FIRST, chunk(7), 1).unwrap();
    let chain = Chain::of_snapshot(&store, &row, tag).unwrap();
    assert_eq!(
        resolve(&store, &chain, None, chunk(7), 1),
        Err(Refusal::Corrupt)
    );
    // Nor is there one in the timeline of a snapshot.
    let t = row.timeline_of(tag);
    let key = RecordKey::new(t, chunk(8), Epoch::FIRST).get();
    store
        .records
        .insert((t.get(), key), RecordValue::Mark.encode());
    let snap = find_snapshot(&store, &row, tag).unwrap();
    let found = writable(&store, row.number, &snap, chunk(8), 1);
    assert_eq!(found, Err(Refusal::Corrupt));
}

/// One search more than without bookmarks, however many there are, of either kind.
#[test]
fn cost_does_not_depend_on_the_number_of_bookmarks() {
    let costs = |many: u64| {
        let (mut store, mut row) = bound(64, 80_000);
        snapshot(&mut store, &mut row);
        for i in 0..many {
            bookmark(&mut store, &mut row);
            write(&mut store, &mut row, 7, 1, 0);
            if i % 3 == 0 {
                let tag = snapshot(&mut store, &mut row);
                keep_bookmark(&mut store, &mut row, tag).unwrap();
            }
        }
        let before = store.searches.get();
        let live = newest_live(&store, &row).unwrap().unwrap();
        let (start, end) = (chunk(1000), chunk(1256));
        let gap = next_unpreserved(&store, row.number, live, Epoch::MAX, start, end).unwrap();
        assert_eq!(gap.map(|gap| (gap.len, gap.content)), Some((256, true)));
        store.searches.get() - before
    };
    assert_eq!(costs(1), costs(1000));
    assert_eq!(costs(1), 4);
}
